"""What a unit remembers of its state: the values it has read or written since its cursor was read.

Keeps:
- All of it is of the state that one token names. It is read by a script that compares the token in the same instant: a
  server that is put back to an older state between two looks cannot mix two states.
- It is taken over as it was committed, and only then; after anything else it is thrown away as a whole.
- It is bounded in bytes: what has not been used for longest is forgotten first, and read again when it is needed.
"""

from collections import OrderedDict
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Final

from consumers.payload import Known, Payload, Place
from consumers.state import OTHER, Numbers
from consumers.windows import LIFETIME
from pipeline.connection import Arg, AsyncServer
from pipeline.errors import RefusedError
from pipeline.keys import UnitKeys
from pipeline.scripting import script

if TYPE_CHECKING:
    from pipeline.connection import Reply

MOST_BYTES: Final = 8 * 1024 * 1024
"""Of values and what they are found by, of one unit, as estimated."""

_BYTES_A_VALUE: Final = 400
"""What a value takes besides its own bytes: key and field, their tuple, an entry of the dictionary."""

_MOST_DAYS: Final = 8
_MOST_SIZES: Final = 200
_AT_ONCE: Final = 2_000
"""Fields of one look."""


class StateChangedError(Exception):
    """The token names the state no more: somebody else has written it, or the server was put back."""


class Remembered:
    """Remembers, and reads what it does not.

    Args:
        server: Where the state is.
        keys: The unit's.
        token: Names the state that is remembered.
    """

    def __init__(self, server: AsyncServer, keys: UnitKeys, token: str) -> None:
        self.token = token
        self._values: OrderedDict[Place, bytes | None] = OrderedDict()
        self.known = Known(values=self._values)
        self._bytes = 0
        self._server = server
        self._keys = keys

    async def load_days(self, days: Collection[str]) -> None:
        """Read the catalogues of cells of these days.

        Raises:
            StateChangedError: See there.
            SidestreamError: See `AsyncServer.call`.
        """
        wanted = sorted(days)
        replies = await self._look([(self._keys.cells(day), ("all",)) for day in wanted])
        for day, reply in zip(wanted, replies, strict=True):
            self.known.numbers[day] = _numbers(reply)

    async def load(self, places: Sequence[Place], sizes: Sequence[str]) -> None:
        """Read values, and how many names marginals hold.

        Raises:
            StateChangedError: See there.
            SidestreamError: See `AsyncServer.call`.
        """
        fields: dict[str, list[str]] = {}
        for key, name in places:
            fields.setdefault(key, []).append(name)
        reads = [
            (key, names[at : at + _AT_ONCE]) for key, names in fields.items() for at in range(0, len(names), _AT_ONCE)
        ]
        looks: list[tuple[str, tuple[Arg, ...]]] = [(key, (len(names), *names)) for key, names in reads]
        replies = await self._look(looks + [(key, ("size",)) for key in sizes])
        for (key, names), reply in zip(reads, replies, strict=False):
            for name, value in zip(names, reply, strict=True):
                self._keep((key, name), value)
        for key, size in zip(sizes, replies[len(reads) :], strict=True):
            # Whoever is over the cap has a field too, and is no name.
            self.known.sizes[key] = int(size) - (self._values[key, OTHER] is not None)

    async def _look(self, looks: Sequence[tuple[str, tuple[Arg, ...]]]) -> "list[Reply]":
        if not looks:
            return []
        keys = [self._keys.cursor(), *(key for key, _ in looks)]
        args: list[Arg] = [self.token, *(part for _, parts in looks for part in parts)]
        answer, *replies = await self._server.run(script("values"), keys, args)
        match answer:
            case b"OK":
                return replies
            case b"STALE":
                raise StateChangedError
            case _:
                raise RefusedError(f"{self._keys.name}: the script that reads values refused its arguments: {replies}")

    def learn(self, payload: Payload, token: str) -> None:
        """Take over what a commit has written, and forget what is too much."""
        self.token = token
        known = self.known
        for day, cells in payload.numbers.items():
            known.numbers[day].update(cells)
        known.sizes.update(payload.sizes)
        for place, value in payload.values.items():
            self._keep(place, value)
        while self._bytes > MOST_BYTES:
            _, forgotten = self._values.popitem(last=False)
            self._bytes -= _size(forgotten)
        while len(known.sizes) > _MOST_SIZES:
            del known.sizes[next(iter(known.sizes))]
        if len(known.numbers) > _MOST_DAYS:
            used = payload.numbers.keys() | {LIFETIME}
            known.numbers = {day: cells for day, cells in known.numbers.items() if day in used}

    def _keep(self, place: Place, value: bytes | None) -> None:
        values = self._values
        if place in values:
            self._bytes += len(value or b"") - len(values[place] or b"")
            values.move_to_end(place)
        else:
            self._bytes += _size(value)
        values[place] = value


def _size(value: bytes | None) -> int:
    return _BYTES_A_VALUE + len(value or b"")


def _numbers(flat: "Reply") -> Numbers:
    return {name.decode(): int(number) for name, number in zip(flat[::2], flat[1::2], strict=True)}
