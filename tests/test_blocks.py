"""The bytes of a points file: what is written is read, and damage is found, never guessed over."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlops import blocks
from mlops.blocks import Block, Columns, Damage
from mlops.errors import StoreError

_points = st.lists(
    st.tuples(
        st.floats(0, 4e9),
        st.floats(width=64),
        st.integers(0, 2**32 - 1),
        st.one_of(st.just(0), st.integers(0, 2**32 - 1)),
    ),
    min_size=1,
    max_size=60,
)


def columns_of(points: list[tuple[float, float, int, int]]) -> Columns:
    """Columns from rows of time, value, series, step."""
    time, value, series, step = zip(*points, strict=True)
    return Columns(
        np.array(time, np.float64), np.array(value, np.float64), np.array(series, np.uint32), np.array(step, np.uint32)
    )


def bits(columns: Columns) -> list[tuple[int, ...]]:
    """Every point as integers, so that nan, -0.0 and subnormals compare bit for bit."""
    parts = (columns.time.view(np.int64), columns.value.view(np.int64), columns.series, columns.step)
    return list(zip(*(part.tolist() for part in parts), strict=True))


def _file(count: int) -> tuple[bytes, list[bytes]]:
    parts = []
    for number in range(count):
        columns = columns_of([(1e9 + number + i / 7, i * 1.1, i % 3, 0) for i in range(number + 1)])
        parts.append(blocks.encode_columns(columns, number=number, seq=number * (number + 1) // 2, slot=number))
    return b"".join(parts), parts


@given(_points)
def test_points_come_back_bit_for_bit(points: list[tuple[float, float, int, int]]) -> None:
    """Nan payloads, -0.0, subnormals, decreasing times, repeated steps: all as they went in."""
    columns = columns_of(points)
    data = blocks.encode_columns(columns, number=3, seq=17, slot=5)
    (block,) = blocks.scan(data)
    assert isinstance(block, Block)
    assert (block.kind, block.count, block.number, block.seq, block.slot) == (blocks.POINTS, len(points), 3, 17, 5)
    assert bits(block.columns()) == bits(columns)


def test_json_blocks_come_back() -> None:
    """Names of any script survive; a lone surrogate cannot break the file."""
    content = {"name": "потеря 日本", "bad": "\ud800"}
    (block,) = blocks.scan(blocks.encode_json(blocks.NOTES, content, number=0, seq=0, slot=0))
    assert isinstance(block, Block)
    assert block.json()["name"] == content["name"]


def test_a_file_cut_at_every_byte_gives_exactly_its_whole_blocks() -> None:
    """Wherever a write was torn off, the blocks before it are read and the rest is called torn."""
    data, parts = _file(6)
    ends = np.cumsum([len(part) for part in parts]).tolist()
    for cut in range(len(data) + 1):
        found = list(blocks.scan(data[:cut]))
        whole = sum(end <= cut for end in ends)
        assert [block.number for block in found if isinstance(block, Block)] == list(range(whole))
        torn = [part for part in found if isinstance(part, Damage)]
        assert bool(torn) == (cut not in {0, *ends})
        assert all(part.torn and part.end == cut for part in torn)
        assert not [part for part in blocks.scan(data[:cut], whole=False) if isinstance(part, Damage)]


def test_every_bit_of_a_file_flipped_costs_exactly_the_block_it_hits() -> None:
    """No flip crashes, hangs or changes a value: only the block that it hits is missing, and noted."""
    data, parts = _file(4)
    ends = np.cumsum([len(part) for part in parts]).tolist()
    originals = {block.number: bits(block.columns()) for block in blocks.scan(data) if isinstance(block, Block)}
    for position in range(len(data)):
        hit = sum(end <= position for end in ends)
        for bit in range(8):
            flipped = bytearray(data)
            flipped[position] ^= 1 << bit
            found = list(blocks.scan(bytes(flipped)))
            read = {block.number: bits(block.columns()) for block in found if isinstance(block, Block)}
            assert read == {number: points for number, points in originals.items() if number != hit}
            assert [part.offset for part in found if isinstance(part, Damage)] == [0 if not hit else ends[hit - 1]]


@given(st.binary(max_size=400), st.integers(0, 3))
def test_rubbish_is_damage_and_what_follows_is_read(rubbish: bytes, count: int) -> None:
    """Bytes of any kind before good blocks are passed over, even when they contain the magic."""
    data, _ = _file(count)
    found = list(blocks.scan(rubbish + blocks.MAGIC + data))
    assert [block.number for block in found if isinstance(block, Block)] == list(range(count))


def test_a_payload_that_expands_beyond_bounds_is_damage() -> None:
    """A compressed block that would fill the memory is refused, though its checksum is right."""
    bomb = blocks.encode(blocks.NOTES, bytes(blocks.MAX_PAYLOAD + 1), count=0, number=0, seq=0, slot=0)
    assert len(bomb) < 1_000_000
    assert all(isinstance(part, Damage) for part in blocks.scan(bomb))


def test_a_count_beyond_any_buffer_is_damage() -> None:
    """Else a block of a few bytes could ask for gigabytes."""
    block = blocks.encode(blocks.POINTS, bytes(12), count=4_000_000_000, number=0, seq=0, slot=0)
    assert all(isinstance(part, Damage) for part in blocks.scan(block))


def test_a_block_whose_count_does_not_fit_is_an_error() -> None:
    """The count and the payload must agree."""
    for payload, count in ((bytes(20), 2), (bytes(11), 1), (bytes(12), 0)):
        with pytest.raises(StoreError, match=f"A block of {count} points has {len(payload)} bytes"):
            blocks.decode_columns(payload, count)


def test_a_typical_batch_takes_less_than_twenty_bytes_a_point() -> None:
    """Four series a batch at a few batches a second, folded twice a second, header included."""
    generator = np.random.default_rng(0)
    size = count = 0
    now = 1.79e9
    for number in range(200):
        rows = []
        for batch in range(3):
            now += 0.17 + generator.normal() / 1000
            loss = float(np.float32(2.3 / (number + 1) + generator.normal() / 10))
            smooth = float(np.float32(2.3 / (number + 1)))
            rows += [(now, loss, 0, 0), (now, smooth, 1, 0), (now, 1e-3 * (1 - number / 200), 2, 0), (now, batch, 3, 0)]
        size += len(blocks.encode_columns(columns_of(rows), number=number, seq=count, slot=0))
        count += len(rows)
    assert size / count < 20
