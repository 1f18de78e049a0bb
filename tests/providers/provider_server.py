"""A provider on loopback: it answers what a test scripted, in the wire formats of OpenAI, Anthropic and Google.

Keeps:
- Each request takes the next answer that was scripted for its wire format; one without an answer gets status 404.
- `answered` says, in order, what was put on the wire, and which tokens the client was told before the answer ended.
- A token stands in exactly one field of `Tokens`; the wires add up, each as its vendor does.
"""

import asyncio
import json
import re
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import Literal, Self, TypeAlias

Json: TypeAlias = dict[str, object]

Finish: TypeAlias = Literal["stop", "length", "content_filter", "tool_call"]
"""Why a model stopped, in pydantic-ai's words."""

Ending: TypeAlias = Literal[
    "whole", "cut before usage", "cut after usage", "ends before usage", "error inside", "no json", "hangs"
]
"""How far an answer comes.

A cut closes the connection in the middle of the body; what "ends before usage" is a whole body in which the rest is
missing; what "hangs" waits until the client leaves; "no json" says its text and nothing else, as a proxy may.
"""


@dataclass(frozen=True)
class Tokens:
    """What one answer counted, each token in one field only."""

    fresh: int = 0
    fresh_audio: int = 0
    cached: int = 0
    cached_audio: int = 0
    written: int = 0
    written_1h: int = 0
    tool_prompt: int = 0
    said: int = 0
    spoken: int = 0
    thought: int = 0

    @property
    def read(self) -> int:
        """All that the model read."""
        cached = self.cached + self.cached_audio + self.written + self.written_1h
        return self.fresh + self.fresh_audio + self.tool_prompt + cached

    @property
    def made(self) -> int:
        """All that the model made."""
        return self.said + self.spoken + self.thought

    def at_first_word(self) -> "Tokens":
        """Return what is counted when the model has read everything and begins to speak."""
        return replace(self, said=min(self.said, 1), spoken=0, thought=0)


@dataclass(frozen=True)
class Answer:
    """One answer of a provider, in the words of no provider.

    Args:
        tokens: What it counts.
        text: What it says; nothing where it calls a tool.
        tool: The tool it calls.
        arguments: The tool's arguments.
        model: The model it says it is.
        finish: Why it stopped.
        tier: The service tier it names.
        status: The HTTP status; from 400 on the body is the provider's error.
        error: The sentence of that error, or of the one inside an answer.
        code: The code of an error inside an answer; empty for none. Responses alone have one.
        retry_after_s: Seconds in the header Retry-After.
        ending: How far it comes.
    """

    tokens: Tokens = field(default_factory=Tokens)
    text: str = "one two three"
    tool: str = ""
    arguments: Json = field(default_factory=dict[str, object])
    model: str = "deck-1"
    finish: Finish = "stop"
    tier: str = ""
    status: int = 200
    error: str = ""
    code: str = "invalid_prompt"
    retry_after_s: float | None = None
    ending: Ending = "whole"


@dataclass(frozen=True)
class Answered:
    """What went over the wire for one request."""

    wire: str
    asked: str
    streamed: bool
    answer: Answer
    told: Tokens


@dataclass(frozen=True)
class Streamed:
    """The server-sent events of one answer, in their order.

    Args:
        head: All until the first piece of what the model says.
        told_by_head: The tokens of `head`.
        tail: The rest, with all tokens.
        end: What says that the stream is over.
        error: The event of an error in place of `tail`.
        told_by_error: The tokens that are known after it.
    """

    head: list[str]
    told_by_head: Tokens
    tail: list[str]
    end: list[str]
    error: str
    told_by_error: Tokens

    def pieces(self, answer: Answer) -> tuple[list[str], Tokens]:
        """Return what is sent before the answer's ending, and the tokens it tells."""
        match answer.ending:
            case "whole":
                return [*self.head, *self.tail, *self.end], answer.tokens
            case "cut after usage":
                return [*self.head, *self.tail], answer.tokens
            case "error inside":
                return [*self.head, self.error], self.told_by_error
            case "cut before usage" | "ends before usage" | "hangs" | "no json":
                return self.head, self.told_by_head


class Wire(ABC):
    """One vendor's format: which kinds of tokens it knows, and how it writes an answer."""

    name: str
    knows: tuple[str, ...]

    @abstractmethod
    def plain(self, answer: Answer) -> Json:
        """Write the body of an answer."""

    @abstractmethod
    def stream(self, answer: Answer) -> Streamed:
        """Write the events of an answer."""

    @abstractmethod
    def error(self, answer: Answer) -> Json:
        """Write the body of an HTTP error."""

    def headers(self, answer: Answer) -> dict[str, str]:
        """Return what the answer says in its headers."""
        return {} if answer.retry_after_s is None else {"Retry-After": str(answer.retry_after_s)}


def event(data: Json, name: str = "") -> str:
    """Write one server-sent event."""
    return (f"event: {name}\n" if name else "") + f"data: {json.dumps(data)}\n\n"


class OpenAIChat(Wire):
    """Chat completions: usage in a last chunk without choices, then [DONE].

    Source: https://platform.openai.com/docs/api-reference/chat-streaming
    """

    name = "openai chat"
    knows = ("fresh", "fresh_audio", "cached", "written", "said", "spoken", "thought")
    _finish: Mapping[Finish, str] = {"tool_call": "tool_calls"}

    def plain(self, answer: Answer) -> Json:
        """Write the body of an answer."""
        message: Json = {"role": "assistant", "content": None if answer.tool else answer.text}
        if answer.tool:
            message["tool_calls"] = [self._call(answer)]
        choice: Json = {"index": 0, "finish_reason": self._reason(answer), "message": message}
        return {**self._frame(answer, "chat.completion"), "choices": [choice], "usage": self._usage(answer.tokens)}

    def stream(self, answer: Answer) -> Streamed:
        """Write the events of an answer."""
        begin, *rest = _pieces(answer)
        if answer.tool:
            call = self._call(answer)
            first: Json = {"tool_calls": [{**call, "index": 0, "function": {"name": answer.tool, "arguments": begin}}]}
            more: list[Json] = [{"tool_calls": [{"index": 0, "function": {"arguments": piece}}]} for piece in rest]
        else:
            first, more = {"content": begin}, [{"content": piece} for piece in rest]
        usage: Json = {
            **self._frame(answer, "chat.completion.chunk"),
            "choices": [],
            "usage": self._usage(answer.tokens),
        }
        return Streamed(
            head=[self._chunk(answer, {"role": "assistant", **first})],
            told_by_head=Tokens(),
            tail=[
                *(self._chunk(answer, delta) for delta in more),
                self._chunk(answer, {}, self._reason(answer)),
                event(usage),
            ],
            end=["data: [DONE]\n\n"],
            error=event(self.error(answer)),
            told_by_error=Tokens(),
        )

    def error(self, answer: Answer) -> Json:
        """Write the body of an HTTP error."""
        return {"error": {"message": answer.error, "type": "unhappy", "param": None, "code": None}}

    def _reason(self, answer: Answer) -> str:
        return self._finish.get(answer.finish, answer.finish)

    def _frame(self, answer: Answer, kind: str) -> Json:
        frame: Json = {"id": "chatcmpl-1", "object": kind, "created": 1_790_000_000, "model": answer.model}
        return {**frame, "service_tier": answer.tier} if answer.tier else frame

    def _chunk(self, answer: Answer, delta: Json, finish: str | None = None) -> str:
        choice: Json = {"index": 0, "delta": delta, "finish_reason": finish}
        return event({**self._frame(answer, "chat.completion.chunk"), "choices": [choice], "usage": None})

    @staticmethod
    def _call(answer: Answer) -> Json:
        function: Json = {"name": answer.tool, "arguments": json.dumps(answer.arguments)}
        return {"id": "call_1", "type": "function", "function": function}

    @staticmethod
    def _usage(tokens: Tokens) -> Json:
        return {
            "prompt_tokens": tokens.read,
            "completion_tokens": tokens.made,
            "total_tokens": tokens.read + tokens.made,
            "prompt_tokens_details": {
                "cached_tokens": tokens.cached,
                "cache_write_tokens": tokens.written,
                "audio_tokens": tokens.fresh_audio,
            },
            "completion_tokens_details": {"reasoning_tokens": tokens.thought, "audio_tokens": tokens.spoken},
        }


class OpenAIResponses(Wire):
    """Responses: usage in the event that ends the response, which may be a failure.

    Source: https://platform.openai.com/docs/api-reference/responses-streaming
    """

    name = "openai responses"
    knows = ("fresh", "cached", "written", "said", "thought")

    def plain(self, answer: Answer) -> Json:
        """Write the body of an answer."""
        return self._response(answer, self._status(answer))

    def stream(self, answer: Answer) -> Streamed:
        """Write the events of an answer."""
        begin, *rest = _pieces(answer)
        item = self._item(answer)
        kind, of_part = ("function_call_arguments", {}) if answer.tool else ("output_text", {"content_index": 0})
        place: Json = {"item_id": item["id"], "output_index": 0, **of_part}
        whole: Json = {"arguments": "".join((begin, *rest))} if answer.tool else {"text": answer.text}
        empty: Json = {**item, "arguments": ""} if answer.tool else {**item, "content": []}
        deltas = [self._event(f"response.{kind}.delta", **place, delta=piece, logprobs=[]) for piece in (begin, *rest)]
        status = self._status(answer)
        return Streamed(
            head=[
                self._event("response.created", response=self._response(answer, "in_progress")),
                self._event("response.in_progress", response=self._response(answer, "in_progress")),
                self._event("response.output_item.added", output_index=0, item={**empty, "status": "in_progress"}),
                deltas[0],
            ],
            told_by_head=Tokens(),
            tail=[
                *deltas[1:],
                self._event(f"response.{kind}.done", **place, **whole, name=answer.tool, logprobs=[]),
                self._event("response.output_item.done", output_index=0, item=item),
                self._event(f"response.{status}", response=self._response(answer, status)),
            ],
            end=[],
            error=self._event("response.failed", response=self._response(answer, "failed")),
            told_by_error=answer.tokens,
        )

    def error(self, answer: Answer) -> Json:
        """Write the body of an HTTP error."""
        return {"error": {"message": answer.error, "type": "unhappy", "param": None, "code": None}}

    @staticmethod
    def _status(answer: Answer) -> str:
        if answer.ending == "error inside":
            return "failed"
        return "completed" if answer.finish in {"stop", "tool_call"} else "incomplete"

    @staticmethod
    def _event(kind: str, **more: object) -> str:
        return event({"type": kind, "sequence_number": 0, **more}, kind)

    @staticmethod
    def _item(answer: Answer) -> Json:
        if answer.tool:
            call: Json = {"name": answer.tool, "arguments": json.dumps(answer.arguments), "call_id": "call_1"}
            return {"type": "function_call", "id": "fc_1", "status": "completed", **call}
        text: Json = {"type": "output_text", "text": answer.text, "annotations": [], "logprobs": []}
        return {"type": "message", "id": "msg_1", "status": "completed", "role": "assistant", "content": [text]}

    def _response(self, answer: Answer, status: str) -> Json:
        ended = status != "in_progress"
        reasons = {"length": "max_output_tokens", "content_filter": "content_filter"}
        return {
            "id": "resp_1",
            "object": "response",
            "created_at": 1_790_000_000,
            "model": answer.model,
            "status": status,
            "output": [self._item(answer)] if ended and status != "failed" else [],
            "error": {"code": answer.code or None, "message": answer.error} if status == "failed" else None,
            "incomplete_details": {"reason": reasons[answer.finish]} if status == "incomplete" else None,
            "usage": self._usage(answer.tokens) if ended else None,
            "service_tier": (answer.tier or None) if ended else "auto",
            "parallel_tool_calls": True,
            "tool_choice": "auto",
            "tools": [],
        }

    @staticmethod
    def _usage(tokens: Tokens) -> Json:
        return {
            "input_tokens": tokens.read,
            "input_tokens_details": {"cached_tokens": tokens.cached, "cache_write_tokens": tokens.written},
            "output_tokens": tokens.made,
            "output_tokens_details": {"reasoning_tokens": tokens.thought},
            "total_tokens": tokens.read + tokens.made,
        }


class AnthropicMessages(Wire):
    """Messages: what was read is told at the start, what was made at the end; input excludes what the cache knows.

    Source: https://docs.anthropic.com/en/docs/build-with-claude/streaming
    """

    name = "anthropic"
    knows = ("fresh", "cached", "written", "written_1h", "said", "thought")
    _finish: Mapping[Finish, str] = {
        "stop": "end_turn",
        "length": "max_tokens",
        "content_filter": "refusal",
        "tool_call": "tool_use",
    }

    def plain(self, answer: Answer) -> Json:
        """Write the body of an answer."""
        call: Json = {"type": "tool_use", "id": "toolu_1", "name": answer.tool, "input": answer.arguments}
        block: Json = call if answer.tool else {"type": "text", "text": answer.text}
        usage = {**self._usage(answer.tokens), **self._written(answer)}
        return {**self._message(answer, usage), "content": [block], "stop_reason": self._finish[answer.finish]}

    def stream(self, answer: Answer) -> Streamed:
        """Write the events of an answer."""
        begin, *rest = _pieces(answer)
        early = answer.tokens.at_first_word()
        call: Json = {"type": "tool_use", "id": "toolu_1", "name": answer.tool, "input": {}}
        kind, key = ("input_json_delta", "partial_json") if answer.tool else ("text_delta", "text")
        deltas = [
            self._event("content_block_delta", index=0, delta={"type": kind, key: piece}) for piece in (begin, *rest)
        ]
        start = {**self._message(answer, {**self._usage(early), **self._written(answer)}), "stop_reason": None}
        stop: Json = {"stop_reason": self._finish[answer.finish], "stop_sequence": None}
        block: Json = call if answer.tool else {"type": "text", "text": ""}
        return Streamed(
            head=[
                self._event("message_start", message=start),
                self._event("content_block_start", index=0, content_block=block),
                deltas[0],
            ],
            told_by_head=early,
            tail=[
                *deltas[1:],
                self._event("content_block_stop", index=0),
                self._event("message_delta", delta=stop, usage=self._usage(answer.tokens)),
            ],
            end=[self._event("message_stop")],
            error=event(self.error(answer), "error"),
            told_by_error=early,
        )

    def error(self, answer: Answer) -> Json:
        """Write the body of an HTTP error."""
        return {"type": "error", "error": {"type": "unhappy", "message": answer.error}, "request_id": "req_1"}

    @staticmethod
    def _event(kind: str, **more: object) -> str:
        return event({"type": kind, **more}, kind)

    @staticmethod
    def _message(answer: Answer, usage: Json) -> Json:
        message: Json = {"id": "msg_1", "type": "message", "role": "assistant", "model": answer.model}
        return {**message, "content": [], "stop_sequence": None, "usage": usage}

    @staticmethod
    def _usage(tokens: Tokens) -> Json:
        return {
            "input_tokens": tokens.fresh,
            "cache_creation_input_tokens": tokens.written + tokens.written_1h,
            "cache_read_input_tokens": tokens.cached,
            "output_tokens": tokens.made,
            "output_tokens_details": {"thinking_tokens": tokens.thought},
        }

    @staticmethod
    def _written(answer: Answer) -> Json:
        """Write what only a message's own usage tells: how long the cache keeps what was written, and the tier."""
        kept: Json = {
            "ephemeral_5m_input_tokens": answer.tokens.written,
            "ephemeral_1h_input_tokens": answer.tokens.written_1h,
        }
        return {"cache_creation": kept, "service_tier": answer.tier or None}


class GoogleGenerate(Wire):
    """generateContent: every chunk counts all so far; the tier is a header; thoughts stand beside what was said.

    Source: https://ai.google.dev/api/generate-content#UsageMetadata
    """

    name = "google"
    knows = ("fresh", "fresh_audio", "cached", "cached_audio", "tool_prompt", "said", "spoken", "thought")
    _finish: Mapping[Finish, str] = {
        "stop": "STOP",
        "length": "MAX_TOKENS",
        "content_filter": "SAFETY",
        "tool_call": "STOP",
    }
    _statuses: Mapping[int, str] = {429: "RESOURCE_EXHAUSTED", 500: "INTERNAL"}

    def plain(self, answer: Answer) -> Json:
        """Write the body of an answer."""
        return self._body(answer, self._part(answer, answer.text), answer.tokens, self._finish[answer.finish])

    def stream(self, answer: Answer) -> Streamed:
        """Write the events of an answer."""
        # A call comes in one piece: where there is one, nothing is said before it.
        begin, *rest = [""] if answer.tool else _pieces(answer)
        early = answer.tokens.at_first_word()
        last = self._finish[answer.finish]
        closing = self._part(answer, "")
        return Streamed(
            head=[event(self._body(answer, {"text": begin}, early))],
            told_by_head=early,
            tail=[
                *(event(self._body(answer, {"text": piece}, early)) for piece in rest),
                event(self._body(answer, closing, answer.tokens, last)),
            ],
            end=[],
            error=event({"error": {"code": 503, "message": answer.error, "status": "UNAVAILABLE"}}),
            told_by_error=early,
        )

    def error(self, answer: Answer) -> Json:
        """Write the body of an HTTP error."""
        status = self._statuses.get(answer.status, "UNKNOWN")
        return {"error": {"code": answer.status, "message": answer.error, "status": status}}

    def headers(self, answer: Answer) -> dict[str, str]:
        """Return what the answer says in its headers."""
        tier = {"x-gemini-service-tier": answer.tier} if answer.tier else {}
        return {**super().headers(answer), **tier}

    @staticmethod
    def _part(answer: Answer, text: str) -> Json:
        return {"functionCall": {"name": answer.tool, "args": answer.arguments}} if answer.tool else {"text": text}

    def _body(self, answer: Answer, part: Json, tokens: Tokens, finish: str | None = None) -> Json:
        candidate: Json = {"index": 0, "content": {"role": "model", "parts": [part]}}
        if finish:
            candidate["finishReason"] = finish
        names: Json = {"modelVersion": answer.model, "responseId": "resp-1"}
        return {**names, "candidates": [candidate], "usageMetadata": self._usage(tokens)}

    @staticmethod
    def _usage(tokens: Tokens) -> Json:
        prompt = tokens.fresh + tokens.fresh_audio + tokens.cached + tokens.cached_audio
        return {
            "promptTokenCount": prompt,
            "promptTokensDetails": _modalities(tokens.fresh + tokens.cached, tokens.fresh_audio + tokens.cached_audio),
            "cachedContentTokenCount": tokens.cached + tokens.cached_audio,
            "cacheTokensDetails": _modalities(tokens.cached, tokens.cached_audio),
            "toolUsePromptTokenCount": tokens.tool_prompt,
            "toolUsePromptTokensDetails": _modalities(tokens.tool_prompt, 0),
            "candidatesTokenCount": tokens.said + tokens.spoken,
            "candidatesTokensDetails": _modalities(tokens.said, tokens.spoken),
            "thoughtsTokenCount": tokens.thought,
            "totalTokenCount": tokens.read + tokens.made,
        }


def _modalities(text: int, audio: int) -> list[Json]:
    counted: list[Json] = [
        {"modality": "TEXT", "tokenCount": text},
        {"modality": "AUDIO", "tokenCount": audio},
    ]
    return [count for count in counted if count["tokenCount"]]


def _pieces(answer: Answer) -> list[str]:
    """Split what is streamed into what arrives piece by piece; together they are the whole."""
    whole = json.dumps(answer.arguments) if answer.tool else answer.text
    return re.findall(r"\S+\s*", whole) or [""]


_CHAT, _RESPONSES, _ANTHROPIC, _GOOGLE = OpenAIChat(), OpenAIResponses(), AnthropicMessages(), GoogleGenerate()

WIRES: tuple[Wire, ...] = (_CHAT, _RESPONSES, _ANTHROPIC, _GOOGLE)

_ROUTES: Mapping[str, Wire] = {
    "/v1/chat/completions": _CHAT,
    "/v1/responses": _RESPONSES,
    "/v1/messages": _ANTHROPIC,
}
_GOOGLE_ROUTE = re.compile(r"/v1beta/models/([^/:]+):(generateContent|streamGenerateContent)$")


class ProviderServer:
    """HTTP/1.1 on a free port of 127.0.0.1, in the event loop of the test.

    `hanging` is set while an answer waits for its client to leave.
    """

    def __init__(self) -> None:
        self.answered: list[Answered] = []
        self.hanging = asyncio.Event()
        self.url = ""
        self._scripts: dict[str, deque[Answer]] = {wire.name: deque() for wire in WIRES}
        self._connections: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.close()
        for connection in self._connections:
            connection.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)
        await self._server.wait_closed()

    def script(self, wire: Wire, *answers: Answer) -> None:
        """Add answers for the next requests in the format of `wire`."""
        self._scripts[wire.name].extend(answers)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # Not by asyncio's own task: of that one nobody could wait for the end.
        task = asyncio.get_running_loop().create_task(self._connection(reader, writer))
        self._connections.add(task)
        task.add_done_callback(self._connections.discard)

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while await self._request(reader, writer):
                pass
        except (asyncio.IncompleteReadError, ConnectionError):
            pass  # the client has left
        finally:
            writer.close()

    async def _request(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Answer one request; False when the connection is not to be used again."""
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        length = re.search(r"(?im)^content-length: *(\d+)", head)
        body: Json = json.loads(await reader.readexactly(int(length[1]))) if length else {}
        path = head.split(" ", 2)[1].partition("?")[0]
        of_google = _GOOGLE_ROUTE.match(path)
        wire = _GOOGLE if of_google else _ROUTES.get(path)
        if wire is None or not self._scripts[wire.name]:
            await _send(writer, 404, {}, "{}")
            return True
        answer = self._scripts[wire.name].popleft()
        asked = of_google[1] if of_google else str(body.get("model"))
        streamed = of_google[2].startswith("stream") if of_google else body.get("stream") is True
        return await _Exchange(self, reader, writer, wire, answer).answer(asked, streamed=streamed)


@dataclass(frozen=True)
class _Exchange:
    """One answer on its way to the client."""

    server: ProviderServer
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    wire: Wire
    scripted: Answer

    async def answer(self, asked: str, *, streamed: bool) -> bool:
        """Send it and note it; False when the connection is not to be used again."""
        answer, wire = self.scripted, self.wire
        pieces, told = wire.stream(answer).pieces(answer) if streamed else ([], answer.tokens)
        if answer.status != 200 or (answer.ending in {"hangs", "no json"} and not streamed):
            told = Tokens()
        self.server.answered.append(Answered(wire.name, asked, streamed, answer, told))
        if answer.status != 200:
            await _send(self.writer, answer.status, wire.headers(answer), json.dumps(wire.error(answer)))
            return True
        if streamed:
            return await self._stream(pieces)
        if answer.ending == "hangs":
            return await self._hang()
        if answer.ending == "no json":
            await _send(self.writer, 200, wire.headers(answer), answer.text, "text/plain")
            return True
        await _send(self.writer, 200, wire.headers(answer), json.dumps(wire.plain(answer)))
        return True

    async def _stream(self, pieces: list[str]) -> bool:
        extra = {**self.wire.headers(self.scripted), "Transfer-Encoding": "chunked"}
        self.writer.write(_head(200, "text/event-stream", extra))
        for piece in pieces:
            data = piece.encode()
            self.writer.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
            await self.writer.drain()
        if self.scripted.ending == "hangs":
            return await self._hang()
        if self.scripted.ending.startswith("cut"):
            # The body's last chunk never comes: whoever reads sees that something is missing.
            return False
        self.writer.write(b"0\r\n\r\n")
        await self.writer.drain()
        return True

    async def _hang(self) -> bool:
        self.server.hanging.set()
        await self.reader.read()
        self.server.hanging.clear()
        return False


async def _send(
    writer: asyncio.StreamWriter, status: int, extra: Mapping[str, str], text: str, kind: str = "application/json"
) -> None:
    body = text.encode()
    writer.write(_head(status, kind, {**extra, "Content-Length": str(len(body))}) + body)
    await writer.drain()


def _head(status: int, content_type: str, extra: Mapping[str, str]) -> bytes:
    fields = {"Content-Type": content_type, **extra}
    lines = [f"HTTP/1.1 {status} As-scripted", *(f"{name}: {value}" for name, value in fields.items())]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()
