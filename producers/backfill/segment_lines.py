"""Archive segments as a source: each event under the id that it had on its stream. Pure.

Keeps: a segment stays where it is, so what of it cannot be read is told, and not set aside.
"""

from collections.abc import Iterator

from pipeline.errors import WireError
from pipeline.segments import DamagedError, read_blocks, read_footer
from pipeline.wire import FrameDecoder, StoredEntry
from producers.backfill.holdings import event_id
from producers.backfill.lines import BadLine, Line, Read


def segment_lines(data: bytes) -> Iterator[Read]:
    """Read the events of a segment, as far as it can be read; those that were known are left out.

    Raises:
        DamagedError: It is no segment, of a later version, or does not say of which partition it is.
    """
    partition, decoder = read_footer(data).partition, FrameDecoder()
    for part in read_blocks(data):
        if isinstance(part, DamagedError):
            yield BadLine(str(part), b"", "it is damaged")
            continue
        for entry in part:
            yield from _events(entry, partition, decoder)


def _events(entry: StoredEntry, partition: int, decoder: FrameDecoder) -> Iterator[Read]:
    try:
        frame = decoder.decode(entry.parse())
    except WireError as error:
        yield BadLine(f"entry {entry.entry_id}", b"", str(error))
        return
    for index, event in enumerate(frame.events):
        place = f"entry {entry.entry_id}, event {index}"
        if event is not None:
            own_id = event_id(frame, partition, index)
            yield Line(place, b"", event, frame.resource, own_id, backfilled=frame.origin == "backfill")
        elif bad := frame.bad.get(index):
            yield BadLine(place, b"", bad.reason)
