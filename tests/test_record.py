"""Reading a whole run back: several processes, damage, buffers left by the dead."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mlops import blocks, ring
from mlops.blocks import Columns
from mlops.record import read_run, whole_info
from mlops.series import Series
from mlops.store import PointsWriter, RunFolder, RunInfo


def _folder(runs_dir: Path, outcome: str = "finished") -> RunFolder:
    folder = RunFolder(runs_dir / "20261122-000000-digits-000000")
    folder.create()
    folder.write_info(RunInfo(folder.id, "digits", 1.0, outcome=outcome, parameters={"lr": 1}))
    return folder


def _columns(values: list[float], series: list[int]) -> Columns:
    count = len(values)
    return Columns(np.arange(1.0, count + 1), np.array(values), np.array(series, np.uint32), np.zeros(count, np.uint32))


def _write(folder: RunFolder, series: dict[int, Series], values: list[float], ids: list[int]) -> Path:
    writer = PointsWriter(folder.new_points_path())
    writer.write_series(series)
    writer.write_points(_columns(values, ids), len(values))
    writer.write_notes({"parameters": {"bs": 2, "lr": 9}, "rank": 0})
    writer.close()
    return writer.path


def test_the_series_of_several_processes_become_one_table(tmp_path: Path) -> None:
    """Each process numbers its series by itself; in the record equal series have one number."""
    folder = _folder(tmp_path)
    loss, power = Series("train.loss"), Series.of("gpu.power_watts", {"uuid": "x"})
    _write(folder, {0: loss}, [0.5, 0.25], [0, 0])
    _write(folder, {0: power, 1: loss}, [300.0, 0.125], [0, 1])
    record = read_run(folder)
    assert record.series == (loss, power)
    assert record.names() == ["gpu.power_watts", "train.loss"]
    assert [(name[-9:], start, stop) for name, start, stop in record.processes] == [
        ("-0.points", 0, 2),
        ("-1.points", 2, 4),
    ]
    ((series, columns),) = record.find("train.loss")
    assert series == loss
    assert columns.value.tolist() == [0.5, 0.25, 0.125]
    assert record.find("nothing") == []
    assert record.gaps == ()


def test_what_joined_processes_noted_completes_what_the_owner_said(tmp_path: Path) -> None:
    """The owner's word stands; what it did not say is filled in."""
    folder = _folder(tmp_path)
    _write(folder, {0: Series("a")}, [1.0], [0])
    record = read_run(folder)
    assert record.info.parameters == {"lr": 1, "bs": 2}
    assert record.notes[0]["rank"] == 0
    assert whole_info(folder) == record.info


def test_a_killed_process_buffer_is_read_after_its_file(tmp_path: Path) -> None:
    """Points that were accepted and not yet folded are there, in order, once."""
    folder = _folder(tmp_path, outcome="killed")
    path = _write(folder, {0: Series("a")}, [1.0, 2.0], [0, 0])
    raw = bytearray(8 * ring.SLOT_BYTES)
    for slot, (time, value) in enumerate([(1.0, 1.0), (2.0, 2.0), (3.0, 3.0), (4.0, 4.0)]):
        ring.POINT.pack_into(raw, slot * ring.SLOT_BYTES, time, value, 0, 1, time, value, 0, 1)
    path.with_suffix(ring.SUFFIX).write_bytes(raw)
    assert read_run(folder).columns.value.tolist() == [1.0, 2.0, 3.0, 4.0]


def test_points_whose_names_were_lost_are_counted_not_guessed(tmp_path: Path) -> None:
    """Damage to the block that names a series makes its points a gap; other series are unharmed."""
    folder = _folder(tmp_path)
    writer = PointsWriter(folder.new_points_path())
    writer.write_series({0: Series("lost")})
    damaged = writer.path.stat().st_size - 3
    writer.write_series({1: Series("kept")})
    writer.write_points(_columns([1.0, 2.0, 3.0], [0, 1, 0]), 3)
    writer.close()
    data = bytearray(writer.path.read_bytes())
    data[damaged] ^= 1
    writer.path.write_bytes(data)
    record = read_run(folder)
    assert record.columns.value.tolist() == [2.0]
    assert record.series == (Series("kept"),)
    assert sum(gap.points for gap in record.gaps) == 2


@pytest.mark.parametrize(
    ("kind", "content"),
    [
        (blocks.SERIES, [1, 2, 3]),
        (blocks.SERIES, None),
        (blocks.SERIES, {"a": 1}),
        (blocks.SERIES, [[1, "b", []]]),
        (blocks.NOTES, 17),
        (blocks.NOTES, "text"),
    ],
)
def test_a_block_of_unknown_content_is_a_gap(tmp_path: Path, kind: int, content: object) -> None:
    """Its checksum is right and its content is not ours: it is passed over and named, the rest is read."""
    folder = _folder(tmp_path)
    path = _write(folder, {0: Series("a")}, [1.0, 2.0], [0, 0])
    with path.open("ab") as file:
        file.write(blocks.encode_json(kind, content, number=3, seq=2, slot=0))
    record = read_run(folder)
    assert record.columns.value.tolist() == [1.0, 2.0]
    assert ["unknown content" in gap.what for gap in record.gaps] == [True]


def test_a_run_without_points_can_be_read(tmp_path: Path) -> None:
    """It has no series and no points."""
    record = read_run(_folder(tmp_path))
    assert (len(record.columns), record.series, record.processes) == (0, (), ())
