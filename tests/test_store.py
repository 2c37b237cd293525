"""Run folders and points files: written safely, found again."""

from __future__ import annotations

import json
import os
import socket
import stat
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from mlops.blocks import Columns
from mlops.errors import RunNotFoundError, StoreError
from mlops.members import process_started
from mlops.record import PointsReader
from mlops.series import Series
from mlops.store import PointsWriter, RunFolder, RunInfo, list_runs, new_run_id, open_run


def some_columns(count: int = 3, series: int = 0) -> Columns:
    """Points of one series at times 1, 2, 3 and so on."""
    return Columns(
        np.arange(1.0, count + 1), np.arange(count) / 10, np.full(count, series, np.uint32), np.zeros(count, np.uint32)
    )


def make_run(runs_dir: Path, run_id: str, **fields: object) -> RunFolder:
    """A run folder with a run.json."""
    folder = RunFolder(runs_dir / run_id)
    folder.create()
    folder.write_info(RunInfo(run_id, "digits", 1.0, **fields))  # type: ignore[arg-type]
    return folder


def test_what_is_written_is_read(tmp_path: Path) -> None:
    """Series, notes and points come back through a reader that follows the file."""
    path = tmp_path / "a.points"
    writer = PointsWriter(path)
    reader = PointsReader(path)
    writer.write_series({0: Series.of("train.loss", {"rank": "0"})})
    writer.write_points(some_columns(), 3)
    assert [len(columns) for columns in reader.read()] == [3]
    assert reader.series == {0: Series.of("train.loss", {"rank": "0"})}
    assert list(reader.read()) == []
    writer.write_notes({"a": 1})
    writer.write_notes({"a": 2, "b": 3})
    writer.write_points(some_columns(2), 5)
    assert [len(columns) for columns in reader.read()] == [2]
    assert reader.notes == {"a": 2, "b": 3}
    writer.close()
    writer.close()
    assert reader.gaps == []
    with pytest.raises(OSError, match="is closed"):
        writer.write_notes({})


def test_files_and_folders_are_for_their_owner_only_whatever_the_umask(tmp_path: Path) -> None:
    """0600 and 0700 are set when they are made, not later."""
    before = os.umask(0)
    try:
        folder = make_run(tmp_path / "runs", "20261122-000000-a-000000")
        writer = PointsWriter(folder.new_points_path())
        writer.close()
    finally:
        os.umask(before)
    assert stat.S_IMODE(folder.path.stat().st_mode) == 0o700
    for path in folder.path.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path


def test_a_symlink_where_a_file_shall_be_made_is_not_followed(tmp_path: Path) -> None:
    """Whoever plants a link in a shared folder gets an error, not our points in their file."""
    (tmp_path / "a.points").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="exists"):
        PointsWriter(tmp_path / "a.points")
    assert not (tmp_path / "elsewhere").exists()


def test_a_write_that_fails_halfway_leaves_the_file_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a full disk the file ends at the last whole block, and the next block follows it."""
    path = tmp_path / "a.points"
    writer = PointsWriter(path)
    writer.write_series({0: Series("a")})
    writer.write_points(some_columns(), 3)
    size = path.stat().st_size
    real_write = os.write
    calls = iter([10, -1])

    def full_disk(fd: int, data: memoryview) -> int:
        room = next(calls)
        if room < 0:
            raise OSError(28, "No space left on device")
        return real_write(fd, data[:room])

    monkeypatch.setattr(os, "write", full_disk)
    with pytest.raises(OSError, match="No space left"):
        writer.write_points(some_columns(5), 8)
    monkeypatch.undo()
    assert path.stat().st_size == size
    writer.write_points(some_columns(5), 8)
    writer.close()
    reader = PointsReader(path)
    assert [len(columns) for columns in reader.read(whole=True)] == [3, 5]
    assert reader.gaps == []


def test_the_files_name_reaches_the_disk_with_its_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first sync also syncs the folder and the one above, once; else a power cut could take the name."""
    synced: list[str] = []
    monkeypatch.setattr(os, "fsync", lambda fd: synced.append(str(Path(f"/proc/self/fd/{fd}").readlink())))
    monkeypatch.setattr(os, "fdatasync", lambda fd: synced.append(str(Path(f"/proc/self/fd/{fd}").readlink())))
    writer = PointsWriter(tmp_path / "a.points")
    writer.write_series({0: Series("a")})
    writer.sync()
    writer.sync()
    writer.close()
    path = str(writer.path)
    assert synced == [path, str(tmp_path), str(tmp_path.parent), path, path]


def test_a_missing_block_is_reported_with_the_number_of_its_points(tmp_path: Path) -> None:
    """A block cut out exactly between two others leaves no bad byte, but its number is missing."""
    path = tmp_path / "a.points"
    writer = PointsWriter(path)
    writer.write_series({0: Series("a")})
    offsets = []
    for _ in range(3):
        offsets.append(path.stat().st_size)
        writer.write_points(some_columns(4), 0)
    writer.close()
    data = path.read_bytes()
    path.write_bytes(data[: offsets[1]] + data[offsets[2] :])
    reader = PointsReader(path)
    assert [len(columns) for columns in reader.read(whole=True)] == [4, 4]
    assert [gap.points for gap in reader.gaps] == [4]
    assert "blocks 2 to 2 are missing" in reader.gaps[0].what


def test_a_torn_tail_is_passed_over_once_the_writer_has_ended(tmp_path: Path) -> None:
    """While the file is being written its unfinished end is awaited; afterwards it is noted."""
    path = tmp_path / "a.points"
    writer = PointsWriter(path)
    writer.write_series({0: Series("a")})
    writer.write_points(some_columns(), 0)
    whole = path.read_bytes()
    writer.write_points(some_columns(), 0)
    data = path.read_bytes()
    path.write_bytes(data[: len(whole) + 20])
    reader = PointsReader(path)
    assert [len(columns) for columns in reader.read()] == [3]
    path.write_bytes(data)
    assert [len(columns) for columns in reader.read()] == [3]
    path.write_bytes(data[:-5])
    reader = PointsReader(path)
    assert [len(columns) for columns in reader.read(whole=True)] == [3]
    assert "unfinished write" in reader.gaps[0].what
    assert reader.gaps[0].points == 0
    writer.close()


def test_run_ids_sort_by_start_and_are_file_names() -> None:
    """Whatever the name, the id can be a folder's name."""
    first, second = new_run_id("digits", 1e9), new_run_id("digits", 1e9 + 1)
    assert first < second
    assert first != new_run_id("digits", 1e9)
    for name in ("../../etc", "a/b c\n", "日本", "", "x" * 300, ".."):
        made = new_run_id(name, 1e9)
        assert "/" not in made
        assert "\n" not in made
        assert len(made) < 80
        assert made.isascii()


def test_run_json_comes_back_and_unknown_fields_are_passed_over(tmp_path: Path) -> None:
    """A run.json of a later version can be read."""
    folder = make_run(tmp_path, "20261122-000000-a-000000", outcome="finished", ended=2.0, dimensions={"team": "v"})
    content = json.loads((folder.path / "run.json").read_text())
    content["of_a_later_version"] = True
    (folder.path / "run.json").write_text(json.dumps(content))
    info = folder.info()
    assert (info.outcome, info.ended, info.dimensions) == ("finished", 2.0, {"team": "v"})
    assert [path.name for path in folder.path.iterdir()] == ["run.json"]


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[]",
        "17",
        '{"id": "a", "name": "b", "started": "x"}',
        '{"id": "a", "name": "b", "started": 1, "ended": "x"}',
        '{"id": 5, "name": "b", "started": 1}',
        '{"id": "a", "name": "b", "started": NaN}',
        '{"id": "a", "name": "b", "started": -1e300}',
        '{"id": "a", "name": "b", "started": 1, "outcome": ["finished"]}',
        '{"id": "a", "name": "b", "started": 1, "dimensions": []}',
        "[" * 100_000,
        '{"id": "a"}',
        '{"id": "a", "name": "b", "started": {}',
    ],
)
def test_a_spoilt_run_json_is_an_error_that_spares_the_points(tmp_path: Path, content: str) -> None:
    """The message names the file and says that the points are unharmed."""
    folder = make_run(tmp_path, "20261122-000000-a-000000")
    (folder.path / "run.json").write_text(content)
    with pytest.raises(StoreError, match=r"Cannot read .*run\.json.*unharmed"):
        folder.info()


def test_a_run_whose_process_is_gone_is_killed_and_one_that_lives_is_running(tmp_path: Path) -> None:
    """The outcome of a run that could not say it is seen from its process."""
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    folder = make_run(
        tmp_path,
        "20261122-000000-a-000000",
        host=socket.gethostname(),
        pid=child.pid,
        pid_started=process_started(child.pid),
    )
    assert folder.info().outcome == "running"
    child.communicate()
    info = folder.info()
    assert info.outcome == "killed"
    assert info.ended is not None
    assert "without a word" in info.reason


def test_a_later_process_with_the_same_number_is_not_the_owner(tmp_path: Path) -> None:
    """Numbers of processes come round again; when they began tells them apart."""
    own = process_started(os.getpid())
    assert own > 0
    folder = make_run(
        tmp_path, "20261122-000000-a-000000", host=socket.gethostname(), pid=os.getpid(), pid_started=own - 1
    )
    assert folder.info().outcome == "killed"


def test_a_run_on_another_host_is_running_while_its_files_are_fresh(tmp_path: Path) -> None:
    """Its process cannot be seen, so its files' times must do."""
    folder = make_run(tmp_path, "20261122-000000-a-000000", host="another", pid=1)
    writer = PointsWriter(folder.new_points_path())
    assert folder.info().outcome == "running"
    writer.close()
    long_ago = time.time() - 1000
    os.utime(writer.path, (long_ago, long_ago))
    assert folder.info().outcome == "killed"


def test_a_folder_with_points_but_no_run_json_can_be_read(tmp_path: Path) -> None:
    """Losing run.json loses no point."""
    folder = make_run(tmp_path, "20261122-000000-my-run-000000")
    PointsWriter(folder.new_points_path()).close()
    (folder.path / "run.json").unlink()
    assert (folder.info().name, folder.info().outcome) == ("my-run", "killed")
    assert [run.id for run in list_runs(tmp_path)] == ["20261122-000000-my-run-000000"]


def test_runs_are_found_by_path_id_prefix_name_and_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every way in which a user may name a run."""
    ids = ["20261122-000000-digits-aaaaaa", "20261123-000000-digits-bbbbbb", "20261123-000001-other-cccccc"]
    for run_id in ids:
        make_run(tmp_path, run_id)
    (tmp_path / "no-run").mkdir()
    (tmp_path / "file").touch()
    assert [run.id for run in list_runs(tmp_path)] == ids
    assert open_run(ids[0], tmp_path).id == ids[0]
    assert open_run("20261122", tmp_path).id == ids[0]
    assert open_run("last", tmp_path).id == ids[2]
    assert open_run("digits", tmp_path).id == ids[1]
    assert open_run(str(tmp_path / ids[1]), tmp_path / "x").id == ids[1]
    monkeypatch.chdir(tmp_path)
    assert open_run(ids[1], tmp_path / "x").path == (tmp_path / ids[1]).resolve()


@pytest.mark.parametrize(
    ("which", "message"),
    [
        ("20261123", "fits 2 runs.*bbbbbb.*Give more of it"),
        ("nonsense", "There is no run 'nonsense'.*mlops runs.*cccccc"),
        ("some/where", "There is no run folder some/where"),
    ],
)
def test_a_run_that_is_not_there_is_said_with_what_is(tmp_path: Path, which: str, message: str) -> None:
    """The message lists the nearest runs and the command that lists all."""
    for run_id in ("20261123-000000-digits-bbbbbb", "20261123-000001-other-cccccc"):
        make_run(tmp_path, run_id)
    with pytest.raises(RunNotFoundError, match=message):
        open_run(which, tmp_path)


def test_no_runs_at_all_is_said_with_the_folder(tmp_path: Path) -> None:
    """An absent folder holds no runs, which is no error until one is asked for."""
    assert list_runs(tmp_path / "absent") == []
    with pytest.raises(RunNotFoundError, match=r"no runs in .*absent.*MLOPS_RUNS_DIR"):
        open_run("last", tmp_path / "absent")


def test_of_runs_begun_in_one_second_the_later_one_is_the_newest(tmp_path: Path) -> None:
    """An id tells the second only; ``last`` and a name still mean the run that began last, damaged ones aside."""
    for started, end in ((10.1, "cccccc"), (10.9, "aaaaaa"), (10.5, "bbbbbb"), (0.0, "dddddd")):
        folder = RunFolder(tmp_path / f"20261122-231500-digits-{end}")
        folder.create()
        folder.write_info(RunInfo(folder.id, "digits", started, outcome="finished"))
    (tmp_path / "20261122-231500-digits-dddddd" / "run.json").write_text("{")
    for which in ("last", "digits"):
        assert open_run(which, tmp_path).id == "20261122-231500-digits-aaaaaa"
