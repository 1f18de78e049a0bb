"""What a provider would answer, as it comes over the wire."""

import json
from typing import Any, TypeAlias

import httpx2

Json: TypeAlias = dict[str, Any]


def events(*data: Json, named: bool = False) -> httpx2.Response:
    """Return a stream of server-sent events; Anthropic's have a name, OpenAI's end with a word."""
    texts = [(f"event: {each['type']}\n" if named else "") + f"data: {json.dumps(each)}\n\n" for each in data]
    body = "".join([*texts, *([] if named else ["data: [DONE]\n\n"])])
    return httpx2.Response(200, text=body, headers={"content-type": "text/event-stream"})


def transport(response: httpx2.Response) -> httpx2.MockTransport:
    """Return a transport on which everything is answered so."""
    return httpx2.MockTransport(lambda _: response)
