"""Anthropic's SDK, watched by Sidestream: `python -m examples.direct_sdk.anthropic_app TOPIC`, with a key of theirs."""

import asyncio
import sys
from collections.abc import Generator

from anthropic import Anthropic, AsyncAnthropic

import sidestream

MODEL = "claude-sonnet-5"
TOKENS_AT_MOST = 2_000


def outline(client: Anthropic, topic: str) -> str:
    """Ask for an outline, and wait for it."""
    with sidestream.model_request("outliner", MODEL) as request:
        message = client.messages.create(
            model=MODEL,
            max_tokens=TOKENS_AT_MOST,
            messages=[{"role": "user", "content": f"Outline a talk about {topic}."}],
        )
        request.answered(sidestream.anthropic_usage(message))
    return "".join(block.text for block in message.content if block.type == "text")


async def review(client: AsyncAnthropic, text: str) -> str:
    """Ask what is wrong with a text."""
    with sidestream.model_request("reviewer", MODEL) as request:
        message = await client.messages.create(
            model=MODEL,
            max_tokens=TOKENS_AT_MOST,
            messages=[{"role": "user", "content": f"What is wrong with this? {text}"}],
        )
        request.answered(sidestream.anthropic_usage(message))
    return "".join(block.text for block in message.content if block.type == "text")


def write(client: Anthropic, plan: str) -> Generator[str]:
    """Write a talk, and give it piece by piece."""
    with (
        sidestream.model_request("writer", MODEL) as request,
        client.messages.stream(
            model=MODEL,
            max_tokens=TOKENS_AT_MOST,
            messages=[{"role": "user", "content": f"Write the talk.\n{plan}"}],
        ) as stream,
    ):
        for event in stream:
            if event.type == "message_start":  # the input is paid for, even if the stream is cut
                request.answered(sidestream.anthropic_usage(event.message))
            elif event.type == "text":
                request.first_token()
                yield event.text
        request.answered(sidestream.anthropic_usage(stream.get_final_message()))


def main(topic: str) -> None:
    """Prepare a talk."""
    sidestream.configure(service="talks")
    with Anthropic() as client, sidestream.session_context("talk-1", "ada", state="outlining"):
        plan = outline(client, topic)
        sidestream.track_state_transition("outlining", "writing")
        talk = "".join(write(client, plan))
        sidestream.track_state_transition("writing", "reviewing")
        print(talk, asyncio.run(_review(talk)), sep="\n\n")


async def _review(talk: str) -> str:
    async with AsyncAnthropic() as client:
        return await review(client, talk)


if __name__ == "__main__":
    main(" ".join(sys.argv[1:]))
