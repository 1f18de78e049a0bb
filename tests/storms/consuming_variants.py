"""The consuming side with one guard removed: what the storm must catch, or it proves nothing.

A guard is cut out of a script's text, or out of a method, in the process that would keep it. A text that is not found
where it is looked for is an error: a variant that changes nothing would pass for a guard that nobody needs.
"""

import asyncio
import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Final

import anyio.lowlevel

from consumers.contract import Slice
from consumers.folding import Folded
from consumers.runtime.effects import SinkEffect
from consumers.state import Delta
from pipeline import scripting
from pipeline.connection import Arg, AsyncServer, Reply, RunnableScript
from pipeline.errors import SidestreamError
from pipeline.scripting import Script

_CURSOR_GUARD: Final = r"if cursor\[1\] ~= ARGV\[1\] or cursor\[2\] ~= ARGV\[2\] [^\n]*then"
_MOVE_CURSOR: Final = """
local cursor = redis.call('HMGET', KEYS[1], 'id', 'index')
if cursor[1] ~= ARGV[1] or cursor[2] ~= ARGV[2] then
  return { 'STALE', cursor[1] or '', cursor[2] or '' }
end
redis.call('HSET', KEYS[1], 'id', ARGV[3], 'index', ARGV[4], 'done', ARGV[5])
return { 'OK' }
"""
_MOST_AGAIN: Final = 40
"""Dead letters after which none is added again: or the storm would never end."""


def edited(name: str, *edits: tuple[str, str]) -> Script:
    r"""Return a script with parts of its text replaced, each found exactly once; `\g<0>` stands for what was there.

    Raises:
        LookupError: The text is not what this variant was made for.
    """
    text = scripting.script(name).text
    for pattern, replacement in edits:
        text, times = re.subn(pattern, replacement, text)
        if times != 1:
            raise LookupError(f"{name}.lua has {times} of {pattern!r}: bring this variant up to date")
    return _script(name, text)


def _script(name: str, text: str) -> Script:
    return Script(name, text, hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest())


def _use(*changed: Script) -> None:
    """Run these scripts instead of those of their names, whoever asks for them."""
    instead = {scripting.script(one.name).sha: one for one in changed}
    run = AsyncServer.run

    async def running(self: AsyncServer, script: RunnableScript, keys: Sequence[str], args: Sequence[Arg]) -> Reply:
        return await run(self, instead.get(script.sha, script), keys, args)

    AsyncServer.run = running


def no_cursor() -> None:
    """Commit from whatever cursor: a worker that was frozen counts what others have counted."""
    _use(edited("commit", (_CURSOR_GUARD, "if false then")))


def no_gone() -> None:
    """Commit what is no longer on the stream: a rollback between read and commit is not seen."""
    _use(edited("commit", (r"if ARGV\[9\] == 'stream' then", "if false then")))


def any_recipe() -> None:
    """Commit and declare by whatever recipe: two workers with different price books mix their prices, unseen."""
    _use(
        edited("commit", (r"if cursor\[3\] ~= ARGV\[10\] then", "if false then")),
        edited(
            "declare",
            (r"if current ~= ARGV\[4\] and ARGV\[7\] ~= 'adopt' then", "if false then"),
            (r"if current ~= ARGV\[4\] and answer == 'OK' then", "if false then"),
        ),
    )


def cursor_first() -> None:
    """Move the cursor by a command of its own, and count after it: who dies between the two loses a batch."""
    _use(edited("commit", (_CURSOR_GUARD, "if false then")))
    move = _script("move", _MOVE_CURSOR)
    commit = scripting.script("commit").sha
    run = AsyncServer.run

    async def moving(self: AsyncServer, script: RunnableScript, keys: Sequence[str], args: Sequence[Arg]) -> Reply:
        if script.sha != commit:
            return await run(self, script, keys, args)
        moved = await run(self, move, [keys[1]], args[:5])
        return await run(self, script, keys, args) if moved == [b"OK"] else moved

    AsyncServer.run = moving


def late_validation() -> None:
    """Write before all is known to be writable: a commit that is refused half-way has counted."""
    planned = r"hashes\[#hashes \+ 1\] = \{ key, expire_at, at, at \+ 2 \* fields - 1 \}"
    written = "redis.call('HSET', key, unpack(ARGV, at, at + 2 * fields - 1))"
    _use(edited("commit", (planned, rf"\g<0>\n    {written}")))


def letters_again() -> None:
    """Add what was set aside to the stream again, to be tried once more."""
    again = (
        f"if redis.call('XLEN', KEYS[3]) < {_MOST_AGAIN} then redis.call('XADD', KEYS[1], '*', 'b', ARGV[i + 4]) end"
    )
    _use(edited("commit", (r"for i = letters_from, [^\n]* do\n", rf"\g<0>  {again}\n")))


def early_answer() -> None:
    """Let a sink move its cursor before the far side has said yes; what it then says is not waited for."""
    deliver = SinkEffect.apply
    background: list[asyncio.Future[None]] = []

    async def answering(self: SinkEffect, slices: Sequence[Slice], budget: int = 0) -> Folded:
        async def later() -> None:
            try:
                await deliver(self, slices)
            except SidestreamError:
                return

        # A task that nobody waits for is the mistake that is made here.
        background.append(asyncio.ensure_future(later()))
        await anyio.lowlevel.checkpoint()
        return Folded(Delta(), [], whole=len(slices))

    SinkEffect.apply = answering


def maxlen() -> None:
    """Bound the stream by its length: what nobody has read yet is deleted. It is the appender's script that changes."""


APPEND_EDITS: Final[Mapping[str, tuple[str, str]]] = {
    "maxlen": (r"redis.call\('XADD', KEYS\[1\], '\*', unpack\(entry\)\)",
               "redis.call('XADD', KEYS[1], 'MAXLEN', '3', '*', unpack(entry))"),
}  # fmt: skip
"""What of the append script a variant changes."""

VARIANTS: Final[Mapping[str, Callable[[], None]]] = {
    variant.__name__: variant
    for variant in (
        no_cursor,
        no_gone,
        any_recipe,
        cursor_first,
        maxlen,
        late_validation,
        letters_again,
        early_answer,
    )
}
EDITS_COMMIT: Final = frozenset(
    {"no_cursor", "no_gone", "any_recipe", "cursor_first", "late_validation", "letters_again"}
)
"""The variants under which the commit script as it is must never be run."""

CAUGHT_BY: Final[Mapping[str, frozenset[str]]] = {
    "no_cursor": frozenset({"doubled", "lost", "identities"}),
    "no_gone": frozenset({"doubled"}),
    "any_recipe": frozenset({"money"}),
    "cursor_first": frozenset({"lost"}),
    "maxlen": frozenset({"stream"}),
    "late_validation": frozenset({"doubled"}),
    "letters_again": frozenset({"stream", "letters"}),
    "early_answer": frozenset({"exported"}),
}
"""The checks of which at least one must fail."""

FLAVOURS: Final = ("two_books", "flushed", "wrong_type", "trimmed", "killed", "malformed")
"""Other storms, with every guard in place: workers of two price books at once; a FLUSHALL at the beginning; a key of
the state that is something else, so that commits fail until it is taken away; streams that keep seconds only; workers
that are killed again and again, and nothing else; entries that are mostly bad."""


def append_script(variant: str) -> Script:
    """Return the script that the appender runs."""
    return edited("append", APPEND_EDITS[variant]) if variant in APPEND_EDITS else scripting.script("append")


def apply(name: str) -> None:
    """Remove a guard from this process; what is no variant removes none."""
    if name in VARIANTS:
        VARIANTS[name]()
