"""OpenAI's SDK, watched by Sidestream: `python -m examples.direct_sdk.openai_app TOPIC`, with an OPENAI_API_KEY."""

import asyncio
import sys
from collections.abc import AsyncIterator, Generator

from openai import AsyncOpenAI, OpenAI

import sidestream

MODEL = "gpt-4o"


def outline(client: OpenAI, topic: str) -> str:
    """Ask for an outline, and wait for it."""
    with sidestream.model_request("outliner", MODEL) as request:
        response = client.chat.completions.create(
            model=MODEL, messages=[{"role": "user", "content": f"Outline a talk about {topic}."}]
        )
        request.answered(sidestream.openai_usage(response))
    return response.choices[0].message.content or ""


async def review(client: AsyncOpenAI, text: str) -> str:
    """Ask the Responses API what is wrong with a text."""
    with sidestream.model_request("reviewer", MODEL) as request:
        response = await client.responses.create(model=MODEL, input=f"What is wrong with this? {text}")
        request.answered(sidestream.openai_usage(response))
    return response.output_text


def write(client: OpenAI, plan: str) -> Generator[str]:
    """Write a talk, and give it piece by piece."""
    with (
        sidestream.model_request("writer", MODEL) as request,
        client.chat.completions.stream(
            model=MODEL,
            messages=[{"role": "user", "content": f"Write the talk.\n{plan}"}],
            stream_options={"include_usage": True},
        ) as stream,
    ):
        for event in stream:
            if event.type == "content.delta":
                request.first_token()
                yield event.delta
        request.answered(sidestream.openai_usage(stream.get_final_completion()))


async def shorten(client: AsyncOpenAI, text: str) -> AsyncIterator[str]:
    """Make a text shorter, and give it chunk by chunk; the last chunk has the tokens."""
    with sidestream.model_request("editor", MODEL) as request:
        chunks = await client.chat.completions.create(
            model=MODEL,
            messages=[{"role": "user", "content": f"Make this shorter.\n{text}"}],
            stream=True,
            stream_options={"include_usage": True},
        )
        async for chunk in chunks:
            if chunk.usage:
                request.answered(sidestream.openai_usage(chunk))
            for choice in chunk.choices:
                yield choice.delta.content or ""


def main(topic: str) -> None:
    """Prepare a talk."""
    sidestream.configure(service="talks")
    with OpenAI() as client, sidestream.session_context("talk-1", "ada", state="outlining"):
        plan = outline(client, topic)
        sidestream.track_state_transition("outlining", "writing")
        talk = "".join(write(client, plan))
        sidestream.track_state_transition("writing", "reviewing")
        print(talk, asyncio.run(_review(talk)), sep="\n\n")


async def _review(talk: str) -> str:
    async with AsyncOpenAI() as client:
        return await review(client, talk)


if __name__ == "__main__":
    main(" ".join(sys.argv[1:]))
