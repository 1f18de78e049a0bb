"""Secrets to plant, each with a marker of its own, and a search for them in whatever was written."""

import itertools
import logging
import shutil
import sqlite3
from collections.abc import Iterable
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import zstandard

from pipeline.connection import AsyncServer

KINDS = {
    "password of a url": "redis://:{}@cache:6379/0",
    "user of a url": "https://{}@github.com/decks.git",
    "query of a url": "https://x.io/decks?page=2&sig={}",
    "authorization": "Authorization: Bearer {}",
    "bearer": "sent Bearer {}",
    "cookie": "Cookie: theme=dark; sid={}",
    "connection string": "Server=db;User=app;Password={};",
    "api key": '{{"api_key": "{}"}}',
    "token": "token={}",
    "OpenAI": "sk-proj-{}",
    "Anthropic": "sk-ant-api03-{}",
    "Google": "AIza{}0000",
    "AWS": "AKIA{}",
    "GitHub": "ghp_{}",
    "Slack": "xoxb-{}",
    "Logfire": "pylf_v1_us_{}",
    "json web token": "eyJhbGciOiJIUzI1NiJ9.{}.c2ln",
    "private key": "-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----",
    "e-mail address": "{}@example.com",
    "card": "{}",
    "added pattern": "CUST-{}",
}
"""What stands around a secret, by its kind."""

ADDED_PATTERN = r"CUST-\w+"

_NUMBERS = itertools.count()
"""No marker is planted twice."""

_READ = {
    b"string": ("GET",),
    b"hash": ("HGETALL",),
    b"set": ("SMEMBERS",),
    b"list": ("LRANGE", 0, -1),
    b"zset": ("ZRANGE", 0, -1),
    b"stream": ("XRANGE", "-", "+"),
}


@dataclass
class Planted:
    """Everything that was planted: the marker, in lower case, and what it is."""

    markers: dict[str, str] = field(default_factory=dict[str, str])

    def content(self, what: str) -> str:
        """Return a text that must not be stored, whatever it looks like."""
        return f"the words {self._marker(what)} of it"

    def name(self, what: str) -> str:
        """Return a single word with a marker."""
        return self._marker(what)

    def secret(self, path: str, kind: str) -> str:
        """Return a message with a secret of a kind."""
        if kind == "card":
            return f"card {self._card(f'{path}: {kind}')} declined"
        marker = self._marker(f"{path}: {kind}")
        return f"it failed with {KINDS[kind].format(marker.upper() if kind == 'AWS' else marker)} at the end"

    def secrets(self, path: str) -> list[str]:
        """Return a message with a secret of each kind."""
        return [self.secret(path, kind) for kind in KINDS]

    def _marker(self, what: str) -> str:
        marker = f"zq7{next(_NUMBERS):05d}qx8planted"
        self.markers[marker] = what
        return marker

    def _card(self, what: str) -> str:
        digits = f"4539{next(_NUMBERS):011d}"
        doubled = [sum(divmod(2 * int(sign), 10)) if n % 2 == 0 else int(sign) for n, sign in enumerate(digits)]
        digits += str(-sum(doubled) % 10)
        self.markers[digits] = what
        spaced = " ".join(digits[at : at + 4] for at in range(0, 16, 4))
        self.markers[spaced] = what
        return spaced

    def found_in(self, haystack: bytes) -> set[str]:
        """Return what of it stands there."""
        low = haystack.lower()
        return {what for marker, what in self.markers.items() if marker.encode() in low}


async def bytes_in_redis(server: AsyncServer) -> bytes:
    """Return every byte of every key and value, as it is stored and as it reads when it is expanded."""
    parts: list[object] = []
    for key in await server.call("KEYS", "*"):
        command, *rest = _READ[await server.call("TYPE", key)]
        parts += [key, await server.call("DUMP", key), await server.call(command, key, *rest)]
    return _joined(parts)


def bytes_in_files(folder: Path, copy: Path) -> bytes:
    """Return every byte of a spool's files, as they stand on the disk and as they read when they are expanded."""
    shutil.copytree(folder, copy)
    parts: list[object] = [path.read_bytes() for path in copy.rglob("*") if path.is_file()]
    for path in copy.rglob("*.spool"):
        with closing(sqlite3.connect(path)) as database:
            for (table,) in database.execute("SELECT name FROM sqlite_master").fetchall():
                parts += database.execute(f"SELECT * FROM {table}").fetchall()  # noqa: S608 - its own tables
    return _joined(parts)


def bytes_in_logs(records: Iterable[logging.LogRecord]) -> bytes:
    """Return what our loggers said, with tracebacks and attributes."""
    ours = [record for record in records if record.name.startswith("sidestream")]
    texts = [f"{logging.Formatter().format(record)}\n{vars(record)}" for record in ours]
    return "\n".join(texts).encode()


def _joined(value: object) -> bytes:
    match value:
        case bytes():
            return value + b"\n" + _expanded(value)
        case str():
            return value.encode()
        case list() | tuple():
            return b"\n".join(_joined(part) for part in cast("Iterable[object]", value))
        case _:
            return str(value).encode()


def _expanded(value: bytes) -> bytes:
    if not value.startswith(zstandard.FRAME_HEADER):
        return b""
    return zstandard.ZstdDecompressor().decompress(value)
