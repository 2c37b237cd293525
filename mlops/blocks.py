"""The bytes of a points file: self-describing, checksummed, numbered blocks.

A points file is nothing but blocks, one after the other, each written by a single ``write``::

    header (36 bytes, little endian)                       payload
    magic  4s  b"MLPB"                                     ``length`` bytes
    kind   B   1 points, 2 series, 3 notes
    coding B   0 plain, 1 deflate
    version H  1
    length I   bytes of payload
    count  I   points inside (0 for the other kinds)
    number I   0, 1, 2, … within the file: a gap is a missing block
    seq    Q   number of the first point (or of the next one, for the other kinds)
    slot   I   the buffer slot after the last point, where recovery goes on reading
    crc    I   CRC-32 of the header before it and of the payload

Points are laid out by column, since columns compress: series ids (uint32), times (float64 seconds
since the epoch, as differences of their bit patterns), values (float64, bit-exact), steps (uint32,
0 for none, else step + 1).  Each column is transposed byte-wise, which brings the bytes that hardly
change together; bytes that are zero in every point are left out, and the rest is deflated where
that helps.  The payload is the first time's bits (8 bytes), for each column one byte that says
which of its bytes are there, and those.  Series and notes are JSON.

Why not a known format: Arrow's IPC stream, Parquet and HDF5 have no checksum per record batch or
cannot be appended to after a crash, cost 300 to 600 bytes a batch (a live run writes a batch of a
dozen points twice a second) and bring 40 MB to a training node; SQLite needs locks, which NFS
does not keep.
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from mlops.errors import StoreError

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Block", "Columns", "Damage", "count", "decode_columns", "encode", "encode_columns", "encode_json", "scan"]

MAGIC: Final = b"MLPB"
VERSION: Final = 1
POINTS: Final = 1
SERIES: Final = 2
NOTES: Final = 3
MAX_PAYLOAD: Final = 1 << 26
"""A length above this is damage, not data: a block holds at most one buffer of points."""

MAX_POINTS: Final = 1 << 24
"""A count above this is damage too: no buffer holds more."""

_PLAIN: Final = 0
_DEFLATED: Final = 1
_RAW_DEFLATE: Final = -zlib.MAX_WBITS
"""Without zlib's own header and checksum: six bytes that a small block can do without."""
_SMALL: Final = 1 << 14
"""Bytes up to which a payload is deflated with all effort: that takes microseconds."""

_HEADER: Final = struct.Struct("<4sBBHIIIQI")
_POINTS_HEAD: Final = struct.Struct("<q4B")
_COLUMN_TYPES: Final = ("<u4", "<i8", "<f8", "<u4")
_CRC: Final = struct.Struct("<I")
HEADER_BYTES: Final = _HEADER.size + _CRC.size


@dataclass(frozen=True, slots=True)
class Columns:
    """Points by column, all of the same length, in the order in which they were logged.

    Attributes:
        time: float64, seconds since the epoch.
        value: float64.
        series: uint32, the series' id within its file.
        step: uint32, 0 where none was given, else step + 1.
        logged: like ``time``, as it was logged, where ``time`` has been changed for a destination.
    """

    time: NDArray[np.float64]
    value: NDArray[np.float64]
    series: NDArray[np.uint32]
    step: NDArray[np.uint32]
    logged: NDArray[np.float64] | None = None

    def __len__(self) -> int:
        return len(self.time)

    def pick(self, which: slice | NDArray[Any]) -> Columns:
        """The points that a slice, a mask or an array of indices chooses."""
        logged = None if self.logged is None else self.logged[which]
        return Columns(self.time[which], self.value[which], self.series[which], self.step[which], logged)

    @staticmethod
    def join(parts: Sequence[Columns]) -> Columns:
        """The points of all parts, one after the other."""
        if not parts:
            return Columns(np.empty(0), np.empty(0), np.empty(0, np.uint32), np.empty(0, np.uint32))
        return Columns(
            np.concatenate([part.time for part in parts]),
            np.concatenate([part.value for part in parts]),
            np.concatenate([part.series for part in parts]),
            np.concatenate([part.step for part in parts]),
            None
            if all(part.logged is None for part in parts)
            else np.concatenate([part.time if part.logged is None else part.logged for part in parts]),
        )


@dataclass(frozen=True, slots=True)
class Block:
    """One block as read: its header's fields, its payload (decoded from its coding) and where it lies."""

    kind: int
    count: int
    number: int
    seq: int
    slot: int
    payload: bytes
    offset: int
    end: int

    def columns(self) -> Columns:
        """The points of a points block."""
        return decode_columns(self.payload, self.count)

    def json(self) -> Any:
        """The content of a series or notes block."""
        return json.loads(self.payload)


@dataclass(frozen=True, slots=True)
class Damage:
    """Bytes that are no block: from ``offset`` up to ``end``.

    Attributes:
        torn: True for an unfinished write at the end of the file, which is normal after a kill.
    """

    offset: int
    end: int
    torn: bool


def encode(kind: int, payload: bytes, *, count: int, number: int, seq: int, slot: int) -> bytes:
    """One block, ready to be written; the payload is compressed where that makes it smaller."""
    coding = _PLAIN
    compressor = zlib.compressobj(9 if len(payload) < _SMALL else 1, zlib.DEFLATED, _RAW_DEFLATE)
    deflated = compressor.compress(payload) + compressor.flush()
    if len(deflated) < len(payload):
        coding, payload = _DEFLATED, deflated
    header = _HEADER.pack(MAGIC, kind, coding, VERSION, len(payload), count, number & 0xFFFFFFFF, seq, slot)
    return header + _CRC.pack(zlib.crc32(payload, zlib.crc32(header))) + payload


def encode_json(kind: int, content: object, *, number: int, seq: int, slot: int) -> bytes:
    """A series or notes block."""
    payload = json.dumps(content, ensure_ascii=False, separators=(",", ":"), default=str).encode("utf-8", "replace")
    return encode(kind, payload, count=0, number=number, seq=seq, slot=slot)


def encode_columns(columns: Columns, *, number: int, seq: int, slot: int) -> bytes:
    """A points block of all these points."""
    bits = columns.time.view(np.int64)
    packed = [_packed(column) for column in (columns.series, np.diff(bits), columns.value, columns.step)]
    head = _POINTS_HEAD.pack(int(bits[0]), *(present for present, _ in packed))
    payload = b"".join([head, *(planes for _, planes in packed)])
    return encode(POINTS, payload, count=len(columns), number=number, seq=seq, slot=slot)


def decode_columns(payload: bytes, count: int) -> Columns:
    """The points of a points block's payload.

    Raises:
        StoreError: the payload has not the length of ``count`` points.
    """
    lengths = (count, count - 1, count, count)
    position = _POINTS_HEAD.size
    if not count or len(payload) < position:
        raise StoreError(f"A block of {count} points has {len(payload)} bytes")
    first, *present = _POINTS_HEAD.unpack_from(payload)
    sizes = [mask.bit_count() * length for mask, length in zip(present, lengths, strict=True)]
    if len(payload) != position + sum(sizes):
        raise StoreError(f"A block of {count} points has {len(payload)} bytes")
    columns = []
    for mask, size, length, kind in zip(present, sizes, lengths, _COLUMN_TYPES, strict=True):
        columns.append(_unpacked(payload[position : position + size], mask, length, np.dtype(kind)))
        position += size
    series, differences, value, step = columns
    bits = np.cumsum(np.concatenate([[first], differences]), dtype=np.int64)
    return Columns(bits.view(np.float64), value, series, step)


def scan(data: bytes | memoryview, base: int = 0, *, whole: bool = True) -> Iterator[Block | Damage]:
    """The blocks in ``data``, with the damage between them.

    After damage, reading goes on at the next bytes that are a whole, checksummed block.

    Args:
        data: the bytes from ``base`` to the end of the file.
        base: their offset in the file.
        whole: whether ``data`` ends where the file's writer has ended; if not, an unfinished
            block at the end is left for the next time instead of being reported.
    """
    raw = bytes(data)
    position = 0
    while position < len(raw):
        block = _block_at(raw, position, base)
        if block is not None:
            yield block
            position = block.end - base
            continue
        next_block = _next_block(raw, position + 1)
        torn = next_block == len(raw)
        if not torn or whole:
            yield Damage(base + position, base + next_block, torn)
        position = next_block


def count(raw: bytes) -> int:
    """The points in all blocks, as their headers say it, payloads and checksums unread; damage is passed over."""
    total = position = 0
    while (position := raw.find(MAGIC, position)) >= 0 and position + HEADER_BYTES <= len(raw):
        _, _, _, version, length, points, *_ = _HEADER.unpack_from(raw, position)
        if version == VERSION and points <= MAX_POINTS and position + HEADER_BYTES + length <= len(raw):
            total += points
            position += HEADER_BYTES + length
        else:
            position += 1
    return total


def _block_at(raw: bytes, position: int, base: int) -> Block | None:
    body = position + HEADER_BYTES
    if body > len(raw) or raw[position : position + 4] != MAGIC:
        return None
    _, kind, coding, version, length, count, number, seq, slot = _HEADER.unpack_from(raw, position)
    if length > MAX_PAYLOAD or count > MAX_POINTS or body + length > len(raw) or version != VERSION:
        return None
    payload = raw[body : body + length]
    (crc,) = _CRC.unpack_from(raw, position + _HEADER.size)
    if zlib.crc32(payload, zlib.crc32(raw[position : position + _HEADER.size])) != crc:
        return None
    if coding == _DEFLATED:
        expander = zlib.decompressobj(_RAW_DEFLATE)
        payload = expander.decompress(payload, MAX_PAYLOAD)
        if not expander.eof:
            return None
    return Block(kind, count, number, seq, slot, payload, base + position, base + body + length)


def _next_block(raw: bytes, position: int) -> int:
    while (position := raw.find(MAGIC, position)) >= 0:
        if _block_at(raw, position, 0) is not None:
            return position
        position += 1
    return len(raw)


def _packed(column: NDArray[Any]) -> tuple[int, bytes]:
    """Which bytes of a column's numbers are not zero in all of them, as a bit mask; those, byte by byte."""
    width = column.dtype.itemsize
    planes = np.ascontiguousarray(column).view(np.uint8).reshape(-1, width).T
    present = planes.any(axis=1)
    return int(np.packbits(present, bitorder="little")[0]), planes[present].tobytes()


def _unpacked(payload: bytes, mask: int, length: int, dtype: np.dtype[Any]) -> NDArray[Any]:
    planes = np.zeros((dtype.itemsize, length), np.uint8)
    present = [byte for byte in range(dtype.itemsize) if mask >> byte & 1]
    planes[present] = np.frombuffer(payload, np.uint8).reshape(len(present), length)
    return np.ascontiguousarray(planes.T).reshape(-1).view(dtype)
