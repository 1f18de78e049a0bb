"""Segments: what was archived comes back as it was, and damage is found, named, and costs no more than it must."""

import random
from collections.abc import Sequence
from pathlib import Path

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from pipeline import segments
from pipeline.segments import (
    Archived,
    DamagedError,
    SegmentName,
    build_segment,
    parse_id,
    read_blocks,
    read_footer,
    verify,
)
from pipeline.wire import StoredEntry

GOLDEN = Path(__file__).parents[1] / "golden" / "segment-v1.seg"
GOLDEN_NAME = "1790000000000-0_1790000000002-0_a95d6b7a705eb2c56a9f1792ee9c2ca6.seg"

ids = st.lists(
    st.tuples(st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1)), min_size=1, max_size=12, unique=True
).map(sorted)
fields = st.dictionaries(st.binary(max_size=5), st.binary(max_size=300), min_size=1, max_size=6)


def archived(count: int, size: int = 100) -> list[Archived]:
    """Return so many entries, of about so many bytes each that do not compress."""
    dice = random.Random(7)  # noqa: S311 - repeatable on purpose
    return [
        Archived(
            StoredEntry(
                f"{1_790_000_000_000 + n}-0",
                {b"p": b"ab" * 16, b"s": b"%d" % (3 * n), b"n": b"3", b"c": b"mz", b"b": dice.randbytes(size)},
            ),
            1_000 * n,
            1_000 * n + 5,
        )
        for n in range(count)
    ]


def entries_of(data: bytes) -> list[StoredEntry]:
    """Return what of a segment can be read."""
    return [entry for part in read_blocks(data) if not isinstance(part, DamagedError) for entry in part]


@given(ids, st.data())
def test_entries_come_back_as_they_were(some: Sequence[tuple[int, int]], data: st.DataObject) -> None:
    """Field by field, foreign ones too, whatever their ids are; the same entries give the same bytes."""
    entries = [Archived(StoredEntry(f"{ms}-{seq}", data.draw(fields)), 5, 9) for ms, seq in some]
    segment = build_segment("deckster", 3, entries)
    assert entries_of(segment.data) == [one.entry for one in entries]
    assert not verify(segment.data, segment.name)
    assert build_segment("deckster", 3, entries) == segment
    footer = read_footer(segment.data)
    assert (footer.namespace, footer.partition, footer.first, footer.last) == ("deckster", 3, some[0], some[-1])
    assert (footer.entries, footer.since_us, footer.until_us) == (len(some), 5, 9)
    assert SegmentName.parse(str(segment.name)) == segment.name


def test_the_footer_says_what_lies_where(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each block is found by ids and by the times of its events."""
    monkeypatch.setattr(segments, "BLOCK_BYTES", 500)
    segment = build_segment("deckster", 0, archived(20))
    blocks = read_footer(segment.data).blocks
    assert len(blocks) > 3
    assert [block.first for block in blocks][1:] == [(block.last[0] + 1, 0) for block in blocks[:-1]]
    assert sum(block.events for block in blocks) == segment.footer.events == 60
    assert [(block.since_us, block.until_us) for block in blocks] == [
        (1_000 * (block.first[0] - 1_790_000_000_000), 1_000 * (block.last[0] - 1_790_000_000_000) + 5)
        for block in blocks
    ]


def test_a_flipped_bit_is_found_and_costs_one_block(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wherever it is; what is read of the rest is what was written."""
    monkeypatch.setattr(segments, "BLOCK_BYTES", 500)
    some = archived(20)
    segment = build_segment("deckster", 0, some)
    written = [one.entry for one in some]
    most = max(block.entries for block in segment.footer.blocks)
    walls = [block.offset for block in segment.footer.blocks]
    for at in range(0, len(segment.data), 7):
        damaged = bytearray(segment.data)
        damaged[at] ^= 1 << at % 8
        assert verify(bytes(damaged), segment.name), f"byte {at}"
        if at < 8:
            continue  # then it is no segment at all
        found = entries_of(bytes(damaged))
        assert set(map(_key, found)) <= set(map(_key, written))
        if at < walls[-1]:
            assert len(found) >= len(written) - most, f"byte {at}"
        else:
            assert len(found) >= len(written) - segment.footer.blocks[-1].entries


def _key(entry: StoredEntry) -> tuple[str, tuple[tuple[bytes, bytes], ...]]:
    return entry.entry_id, tuple(entry.fields.items())


def test_a_segment_that_is_cut_off_gives_the_blocks_before_the_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    """And says that it is cut off, wherever."""
    monkeypatch.setattr(segments, "BLOCK_BYTES", 500)
    some = archived(20)
    segment = build_segment("deckster", 0, some)
    for end in range(8, len(segment.data), 11):
        whole = sum(block.entries for block in segment.footer.blocks if block.offset + block.length <= end)
        assert entries_of(segment.data[:end]) == [one.entry for one in some][:whole]
        assert verify(segment.data[:end], segment.name), f"cut at {end}"


def test_what_is_no_segment_is_said(tmp_path: Path) -> None:
    """Another file, a later version, an empty one; a name that is none."""
    segment = build_segment("deckster", 0, archived(2))
    later = segments.MAGIC + bytes([2]) + segment.data[8:]
    for data, said in ((b"", "begins with something else"), (b"PK\3\4", "something else"), (later, "later Sidestream")):
        with pytest.raises(DamagedError, match=said):
            read_footer(data)
        assert said in str(verify(data, segment.name)[0])
    for name in ("", "1-0_2-0_00.seg", f"{segment.name}.tmp", "x_y_z.seg"):
        assert SegmentName.parse(name) is None, tmp_path


def test_a_block_that_would_expand_without_end_is_not_expanded() -> None:
    """Its length and hash are right: somebody has made it so."""
    bomb = zstandard.ZstdCompressor().compress(bytes(segments.MAX_EXPANDED_BYTES + 1))
    framed = len(bomb).to_bytes(4) + segments._hash(bomb) + bomb  # noqa: SLF001 # pyright: ignore[reportPrivateUsage]
    (found, *_) = read_blocks(segments.MAGIC + bytes([1]) + framed)
    assert isinstance(found, DamagedError)
    assert "would expand" in str(found)


def test_entries_out_of_order_are_refused() -> None:
    """A segment's order is the stream's."""
    some = archived(3)
    for wrong in ([], some[::-1], [some[0], some[0]]):
        with pytest.raises(ValueError, match="in the order of their ids"):
            build_segment("deckster", 0, wrong)
    assert parse_id("12-3") < parse_id("12-20") < parse_id("100-0")


def test_a_published_segment_is_read_for_ever() -> None:
    """These bytes were written once, by version 1; no later version may fail to read them."""
    data = GOLDEN.read_bytes()
    name = SegmentName.parse(GOLDEN_NAME)
    assert name is not None
    assert not verify(data, name)
    assert entries_of(data) == [one.entry for one in archived(3)]
    assert read_footer(data).events == 9
