"""The hot path: what log accepted is on disk, whatever happens."""

from __future__ import annotations

import errno
import itertools
import logging
import math
import os
import random
import re
import signal
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlops import ring
from mlops.record import PointsReader
from mlops.recorder import Recorder
from mlops.series import Series
from mlops.store import PointsWriter

Wait = Callable[[Callable[[], object]], None]


@pytest.fixture
def recorder(tmp_path: Path) -> Iterator[Recorder]:
    """A recorder with a small buffer that folds often."""
    made = Recorder(tmp_path / "a.points", slots=1024, interval=0.02)
    yield made
    made.close()


def read(path: Path) -> list[tuple[str, float, int]]:
    """Every point of a file whose process has ended: name, value, step."""
    reader = PointsReader(path)
    parts = list(reader.read(whole=True))
    left = reader.read_buffer()
    parts += [left] if left is not None else []
    # A kill can tear the write it interrupts; the points of that write are still in the buffer.
    assert all("unfinished write" in gap.what for gap in reader.gaps)
    return [
        (str(reader.series[series]), value, step)
        for part in parts
        for series, value, step in zip(part.series.tolist(), part.value.tolist(), part.step.tolist(), strict=True)
    ]


def test_points_come_back_in_order_and_the_buffer_is_gone(recorder: Recorder) -> None:
    """Floats by the quick road, ints and numpy scalars by the slow one, all in the order of logging."""
    put = recorder.series(Series.of("gpu.power_watts", {"uuid": "x"}))
    recorder.log({"a": 1.5, "b": 2})
    put(3.5)
    put(4)
    recorder.log({"a": np.float32(0.5)}, step=7)
    recorder.log({"a": True}, time=12.0)
    recorder.close()
    assert read(recorder.path) == [
        ("a", 1.5, 0),
        ("b", 2.0, 0),
        ("gpu.power_watts{uuid=x}", 3.5, 0),
        ("gpu.power_watts{uuid=x}", 4.0, 0),
        ("a", 0.5, 8),
        ("a", 1.0, 0),
    ]
    assert not recorder.path.with_suffix(ring.SUFFIX).exists()
    (columns,) = PointsReader(recorder.path).read()
    assert columns.time[-1] == 12.0


def test_more_points_than_the_buffer_holds_pass_through_it(recorder: Recorder, wait_until: Wait) -> None:
    """The trip wires wake the drain thread in time when the caller leaves it some."""
    for number in range(10_000):
        recorder.log({"n": float(number)})
        if number % 500 == 0:
            wait_until(lambda: len(recorder._ring.free) > 700)
    recorder.close()
    assert [value for _, value, _ in read(recorder.path)] == [float(number) for number in range(10_000)]
    assert recorder.dropped == 0


def test_the_slow_road_steps_over_trip_wires_too(tmp_path: Path) -> None:
    """Whole numbers take the slow road; one that meets a trip wire is neither lost nor uncounted."""
    recorder = Recorder(tmp_path / "a.points", slots=64, interval=5)
    for number in range(40):
        recorder.log({"n": number})
    recorder.close()
    assert [value for _, value, _ in read(recorder.path)] == [float(number) for number in range(40)]
    assert recorder.dropped == 0


def test_points_from_many_threads_are_all_there_each_threads_in_order(tmp_path: Path) -> None:
    """Taking a slot is atomic: no point overwrites another."""
    recorder = Recorder(tmp_path / "a.points", slots=1 << 16, interval=0.02)

    def work(number: int) -> None:
        for count in range(5000):
            recorder.log({f"t{number}": float(count)})

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    recorder.close()
    points = read(recorder.path)
    assert recorder.dropped == 0
    for number in range(6):
        assert [value for name, value, _ in points if name == f"t{number}"] == [float(count) for count in range(5000)]


def test_a_full_buffer_drops_the_newest_counts_them_and_says_so_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, wait_until: Wait
) -> None:
    """With a disk that takes nothing the first points are kept and the others counted; it never blocks."""
    recorder = Recorder(tmp_path / "a.points", slots=64, interval=0.01)
    recorder.log({"n": -1.0})
    original = PointsWriter.write_points

    monkeypatch.setattr(PointsWriter, "write_points", _no_space)
    for number in range(500):
        recorder.log({"n": float(number)})
    dropped = recorder.dropped
    assert 500 - 64 <= dropped <= 500 - 62
    wait_until(lambda: "No space left" in caplog.text)
    monkeypatch.setattr(PointsWriter, "write_points", original)
    recorder.close()
    values = [value for _, value, _ in read(recorder.path)]
    assert values == [float(number) for number in range(-1, 500 - dropped)]
    reader = PointsReader(recorder.path)
    list(reader.read())
    assert reader.notes["dropped"] == dropped
    messages = [record.message for record in caplog.records]
    assert sum("buffer of 64 points is full" in message for message in messages) == 1
    assert sum("No space left on device" in message for message in messages) == 1


def test_recording_resumes_by_itself_when_the_disk_has_room_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, wait_until: Wait
) -> None:
    """What waited in the buffer is written, the recovery is noted, and new points follow."""
    caplog.set_level(logging.WARNING, "mlops")
    recorder = Recorder(tmp_path / "a.points", slots=256, interval=0.01)
    failing = True
    original = os.write

    def write(fd: int, data: Any) -> int:
        if failing and fd == recorder._writer._fd:
            raise OSError(errno.ENOSPC, "No space left on device")
        return original(fd, data)

    recorder.log({"n": 0.0})
    monkeypatch.setattr(os, "write", write)
    recorder.log({"n": 1.0})
    wait_until(lambda: any("No space left" in record.message for record in caplog.records))
    failing = False
    wait_until(lambda: any("can be written again" in record.message for record in caplog.records))
    recorder.log({"n": 2.0})
    recorder.close()
    assert [value for _, value, _ in read(recorder.path)] == [0.0, 1.0, 2.0]


def test_a_series_is_not_accepted_before_its_name_is_on_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A point whose name could not be written would be lost after a kill, so it is counted as dropped at once."""
    recorder = Recorder(tmp_path / "a.points", slots=256, interval=5)
    monkeypatch.setattr(PointsWriter, "write_series", _no_space)
    recorder.log({"n": 1.0})
    recorder.log({"n": 2.0})
    assert recorder.dropped == 2
    monkeypatch.undo()
    recorder._undefined_until = 0.0
    recorder.log({"n": 3.0})
    recorder.close()
    assert [value for _, value, _ in read(recorder.path)] == [3.0]
    assert "No space left" in caplog.text


def _no_space(*_: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_without_room_for_the_buffers_file_recording_goes_on_from_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The blocks are allocated beforehand, since a full disk found out later would be SIGBUS."""
    monkeypatch.setattr(os, "posix_fallocate", _no_space)
    recorder = Recorder(tmp_path / "a.points", slots=256, interval=0.01)
    recorder.log({"n": 1.0})
    recorder.close()
    assert read(recorder.path) == [("n", 1.0, 0)]
    assert "from memory" in caplog.text


class _Dead:
    """A tensor on a device that is gone."""

    shape = ()

    def item(self) -> float:
        """As CUDA does when the device is lost."""
        raise RuntimeError("CUDA error: device lost")


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("high", "not the text 'high'"),
        (None, "not None"),
        ([1.0], "not a list"),
        (np.zeros(3), r"shape \(3,\) has more than one element"),
        (1j, "not a complex"),
        (10**400, "too large"),
        (_Dead(), "device lost"),
    ],
)
def test_a_value_that_is_no_number_is_counted_and_said_once(
    recorder: Recorder, caplog: pytest.LogCaptureFixture, value: object, message: str
) -> None:
    """The training goes on, the other values of the call are recorded."""
    for _ in range(3):
        recorder.log({"before": 1.0, "bad": value, "after": 2.0})
    assert recorder.refused == 3
    assert len(caplog.records) == 1
    assert "training goes on" in caplog.text
    assert re.search(message, caplog.text)
    recorder.close()
    assert [name for name, _, _ in read(recorder.path)] == ["before", "after"] * 3


@pytest.mark.parametrize("values", ["text", None, [1.0], 3, {"a": 1.0}.items()])
def test_what_is_no_mapping_is_counted_and_said_once(
    recorder: Recorder, caplog: pytest.LogCaptureFixture, values: Any
) -> None:
    """Whatever it is given, log raises nothing into the training loop."""
    recorder.log(values)
    recorder.log(values, step=1)
    assert recorder.refused == 2
    assert len(caplog.records) == 1
    assert "mapping of names to numbers" in caplog.text


def test_a_bad_name_is_recorded_under_its_mended_one(recorder: Recorder, caplog: pytest.LogCaptureFixture) -> None:
    """Nothing is lost, and the warning says what it was changed to; a hopeless name is refused."""
    for _ in range(2):
        recorder.log({"loss (train)": 1.0, "()": 2.0, 5: 3.0})
    recorder.close()
    assert [point[:2] for point in read(recorder.path)] == [("loss__train_", 1.0)] * 2
    assert recorder.refused == 4
    assert len(caplog.records) == 3
    assert "recorded as 'loss__train_'" in caplog.text


def test_names_that_mending_would_make_one_are_recorded_as_two(
    recorder: Recorder, caplog: pytest.LogCaptureFixture
) -> None:
    """Whichever comes later gets a mark, also a good name; each is said once."""
    put = recorder.series(Series("x_y"))
    for _ in range(2):
        recorder.log({"a b": 1.0, "a,b": 2.0, "a_b": 3.0, "x y": 5.0})
        put(4.0)
    recorder.close()
    named = dict.fromkeys(point[:2] for point in read(recorder.path))
    assert list(named) == [
        ("a_b", 1.0),
        ("a_b-2cd913df", 2.0),
        ("a_b-28cb39ea", 3.0),
        ("x_y-19fe0dc0", 5.0),
        ("x_y", 4.0),
    ]
    assert len(caplog.records) == 4
    assert "'a_b' would come to the same as 'a b'; it is recorded as 'a_b-28cb39ea'" in caplog.text


def test_a_name_that_is_no_string_costs_only_its_own_value(
    recorder: Recorder, caplog: pytest.LogCaptureFixture
) -> None:
    """Those beside it are recorded, and it is said what it was."""
    recorder.log({"a": 1.0, 5: 2.0, b"c": 3.0, "d": 4.0})
    recorder.close()
    assert [point[:2] for point in read(recorder.path)] == [("a", 1.0), ("d", 4.0)]
    assert recorder.refused == 2
    assert "A metric name must be a string, not a int" in caplog.text


def test_a_name_of_a_kind_of_string_is_recorded_as_the_plain_one(recorder: Recorder) -> None:
    """What numpy and enumerations make of a string has another repr, which would break the agent's line."""
    recorder.log({np.str_("a"): 1.0})
    recorder.close()
    assert [point[0].__class__ for point in read(recorder.path)] == [str]
    assert recorder._named[0].name.__class__ is str


@pytest.mark.parametrize(("step", "kept"), [(0, 1), (2**32 - 2, 2**32 - 1), (-1, 0), (2**32, 0), ("x", 0)])
def test_steps_from_zero_to_four_billion_are_kept(recorder: Recorder, step: Any, kept: int) -> None:
    """Another step is left out with a warning, and the point is kept."""
    recorder.log({"a": 1.0}, step=step)
    recorder.close()
    assert read(recorder.path) == [("a", 1.0, kept)]


@pytest.mark.parametrize(
    "value", [float("nan"), float("inf"), -float("inf"), -0.0, 5e-324, 1.7976931348623157e308, 2.0**53]
)
def test_unusual_numbers_are_kept_bit_for_bit(recorder: Recorder, value: float) -> None:
    """Nan and infinities are recorded and counted."""
    recorder.log({"a": value})
    recorder.close()
    ((_, back, _),) = read(recorder.path)
    assert struct.pack("<d", back) == struct.pack("<d", value)
    assert recorder.not_finite == (0 if math.isfinite(value) else 1)


def test_after_the_end_points_are_counted_and_said_once(recorder: Recorder, caplog: pytest.LogCaptureFixture) -> None:
    """log() after close, by every road."""
    put = recorder.series(Series("a"))
    recorder.log({"a": 1.0})
    recorder.close()
    recorder.close()
    recorder.log({"a": 2.0})
    recorder.log({"new": 2.0})
    put(3.0)
    recorder.series(Series("later"))(4.0)
    assert recorder.refused >= 4
    assert len(caplog.records) == 1
    assert "after the run had ended" in caplog.text
    assert read(recorder.path) == [("a", 1.0, 0)]


def test_a_slot_taken_and_never_filled_holds_up_nothing_for_long(recorder: Recorder, wait_until: Wait) -> None:
    """A Ctrl-C between taking a slot and filling it costs that slot's turn, no other point."""
    recorder.log({"a": 1.0})
    recorder._ring.free.popleft()
    recorder.log({"a": 2.0})
    wait_until(lambda: recorder._ring.next == 3)
    recorder.close()
    assert [value for _, value, _ in read(recorder.path)] == [1.0, 2.0]


def test_a_slot_abandoned_right_before_the_end_loses_no_later_point(tmp_path: Path) -> None:
    """close() does not wait for a slot that nobody will fill."""
    recorder = Recorder(tmp_path / "a.points", slots=256, interval=30)
    recorder.log({"a": 1.0})
    recorder._ring.free.popleft()
    recorder.log({"a": 2.0})
    recorder.close()
    assert [value for _, value, _ in read(recorder.path)] == [1.0, 2.0]
    assert not recorder.path.with_suffix(ring.SUFFIX).exists()


def test_logging_in_a_signal_handler_neither_hangs_nor_loses(recorder: Recorder) -> None:
    """A handler that interrupts log, even on its slow road, may log itself."""
    count = 0

    def handler(*_: object) -> None:
        nonlocal count
        count += 1
        recorder.log({"signal": float(count), f"new{count}": 1})

    before = signal.signal(signal.SIGALRM, handler)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
        logged = 0
        until = time.monotonic() + 0.3
        while time.monotonic() < until:
            recorder.log({"main": float(logged), f"name{logged % 50}": 1})
            logged += 1
            time.sleep(0)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    recorder.close()
    points = read(recorder.path)
    assert len(points) + recorder.dropped == 2 * logged + 2 * count
    assert count > 10


def test_a_forked_child_never_touches_its_parents_record(recorder: Recorder) -> None:
    """The child's points are refused and counted there; the parent's are complete."""
    recorder.log({"parent": 1.0})
    pid = os.fork()
    if pid == 0:
        for _ in range(2000):
            recorder.log({"parent": 99.0, "child": 99.0})
        recorder.close()
        os._exit(0 if recorder.refused == 4000 else 1)
    for number in range(300):
        recorder.log({"parent": float(number)})
    assert os.waitpid(pid, 0)[1] == 0
    recorder.close()
    assert [point[:2] for point in read(recorder.path)] == [
        ("parent", value) for value in [1.0, *map(float, range(300))]
    ]


def test_files_are_for_their_owner_only(recorder: Recorder) -> None:
    """The buffer too has mode 0600."""
    recorder.log({"a": 1.0})
    modes = {path.suffix: path.stat().st_mode & 0o777 for path in recorder.path.parent.iterdir() if path.is_file()}
    assert modes == {".points": 0o600, ".ring": 0o600}


_TRAINER = """
import os, sys
from pathlib import Path
from mlops.recorder import Recorder
recorder = Recorder(Path(sys.argv[1]), slots=int(sys.argv[2]), interval=float(sys.argv[3]))
put = recorder.log
number = 0
while True:
    for _ in range(7):
        put({"n": float(number)}); number += 1
    put({f"s{number % 11}": number}); number += 1
    os.write(1, number.to_bytes(8, "little") + recorder.dropped.to_bytes(8, "little"))
"""


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.slow
def test_kill_9_at_a_random_moment_loses_nothing_that_log_accepted(tmp_path: Path, seed: int) -> None:
    """The child says through a pipe how far it has come; each point up to there is read once and in order."""
    generator = random.Random(seed)  # noqa: S311 - no secret
    path = tmp_path / "a.points"
    slots, interval = generator.choice([(1024, 0.01), (65536, 0.05), (65536, 5.0)])
    child = subprocess.Popen(
        [sys.executable, "-c", _TRAINER, str(path), str(slots), str(interval)], stdout=subprocess.PIPE
    )
    assert child.stdout is not None
    said = child.stdout.read(16)
    until = time.monotonic() + generator.uniform(0, 0.4)
    while time.monotonic() < until:
        said += child.stdout.read(16)
    child.kill()
    said += child.stdout.read()
    child.stdout.close()
    child.wait()
    offered, dropped = struct.unpack("<QQ", said[: len(said) // 16 * 16][-16:])
    values = [value for _, value, _ in read(path)]
    assert all(first < second for first, second in itertools.pairwise(values))
    assert sum(value < offered for value in values) == offered - dropped


def test_a_recorder_cannot_be_pickled() -> None:
    """It holds a thread and a file; the error says so instead of a half copy."""
    with pytest.raises(TypeError, match="cannot be pickled"):
        Recorder.__reduce__(object.__new__(Recorder))
