"""Signs of trouble: nan, silence, a loss that rises, told as metrics that an alarm can compare with a number."""

from __future__ import annotations

import logging
import math
import random
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import mlops
from mlops.blocks import Columns
from mlops.record import PointsReader, read_run
from mlops.recorder import Recorder
from mlops.series import METRICS, Series
from mlops.signs import LOST, NOT_FINITE, QUIET, REPEAT, SILENT, Signs
from mlops.sinks.memory import MemorySink
from mlops.store import open_run

Told = list[tuple[str, float]]


class Watch:
    """Signs under a clock that the test turns."""

    def __init__(self) -> None:
        self.now = 1000.0
        self._signs = Signs(lambda: self.now)
        self._series: list[Series] = []

    def __call__(self, *points: tuple[str, float], after: float = 0.0) -> Told:
        """What is told of these points, so many seconds after those before."""
        self.now += after
        for name, _ in points:
            if Series.of(name) not in self._series:
                self._series.append(Series.of(name))
        numbers = [self._series.index(Series.of(name)) for name, _ in points]
        columns = Columns(
            np.full(len(points), self.now),
            np.array([value for _, value in points], np.float64),
            np.array(numbers, np.uint32),
            np.zeros(len(points), np.uint32),
        )
        return [(str(series), value) for series, value in self._signs(columns, self._series)]


@pytest.fixture
def watch() -> Watch:
    """Signs that have seen nothing yet."""
    return Watch()


def test_what_is_told_is_known_by_name() -> None:
    """The names are the table's, so that dashboards, Prometheus and the check of alarm files know them."""
    assert {LOST, NOT_FINITE, SILENT} <= set(METRICS)


def test_values_that_are_not_finite_are_counted_by_metric(watch: Watch) -> None:
    """One word a block and metric, with the count so far; whole blocks without any say nothing."""
    assert watch(("train.loss", 1.0)) == []
    assert watch(("train.loss", math.nan), ("train.loss", 2.0), ("train.loss", math.inf), ("valid.loss", math.nan)) == [
        (f"{NOT_FINITE}{{metric=train.loss}}", 2.0),
        (f"{NOT_FINITE}{{metric=valid.loss}}", 1.0),
    ]
    assert watch(("train.loss", 1.0)) == []
    assert watch(("train.loss", -math.inf)) == [(f"{NOT_FINITE}{{metric=train.loss}}", 3.0)]


def test_silence_is_told_while_it_lasts_and_its_end_too(watch: Watch) -> None:
    """From a minute on, several times in each, with its length; then 0, once."""
    assert watch(("train.lr", 1.0)) == []
    assert watch(after=QUIET - 1) == []
    assert watch(after=1) == [(SILENT, QUIET)]
    assert watch(after=REPEAT / 2) == []
    assert watch(after=REPEAT / 2) == [(SILENT, QUIET + REPEAT)]
    assert watch(("valid.accuracy", 0.5), after=REPEAT) == [(SILENT, 0.0)]
    assert watch(("valid.accuracy", 0.5), after=QUIET - 1) == []
    assert watch(("valid.accuracy", 0.5), after=QUIET - 1) == []


def test_what_devices_show_is_no_sign_of_life(watch: Watch) -> None:
    """A hung training's GPU is metered all the same."""
    watch(("train.lr", 1.0))
    assert watch(("gpu.power_watts", 90.0), ("host.cpu_percent", 1.0), after=QUIET) == [(SILENT, QUIET)]


def test_who_has_never_logged_is_not_silent(watch: Watch) -> None:
    """The process of ``mlops run`` meters and logs nothing of its own, all day long."""
    for _ in range(100):
        assert watch(("gpu.power_watts", 90.0), after=QUIET) == []


def _losses(watch: Watch, values: Sequence[float]) -> list[float]:
    """What is told of a loss that has each of these values for a minute, in three batches of it."""
    told: Told = []
    for value in values:
        for _ in range(3):
            told += watch(("train.loss", value), after=20.0)
    told += watch(after=20.0)
    return [value for name, value in told if name == LOST]


@pytest.mark.parametrize("scale", [1e-9, 1.0, 1e9])
@pytest.mark.parametrize("shift", [0.0, 1.0, -7.0])
def test_lost_progress_is_the_share_of_the_fall_that_is_undone(watch: Watch, scale: float, shift: float) -> None:
    """0 at the best, 50 half way back, 100 where it began and above; sign and size of the loss do not matter."""
    minutes = [5, 3, 1, 1, 3, 5, 50, 1, 0]
    told = _losses(watch, [(minute + shift) * scale for minute in minutes])
    assert told == pytest.approx([0, 0, 0, 0, 50, 100, 100, 0, 0], abs=1e-3)


def test_a_loss_that_only_rises_has_lost_all(watch: Watch) -> None:
    """There is no fall to take a share of."""
    assert _losses(watch, [1, 2, 3]) == [0, 100, 100]


def test_noise_about_a_good_loss_is_no_rise(watch: Watch) -> None:
    """Twenty times its best is little where it began a thousand times above that."""
    assert max(_losses(watch, [2.0, 0.002, 0.04, 0.01, 0.03])) < 3


def test_a_minute_without_a_finite_loss_says_nothing(watch: Watch) -> None:
    """nan is told elsewhere, and no loss is no rise."""
    assert _losses(watch, [2.0, math.nan, 1.0]) == [0, 0]
    assert watch(after=600.0)[0][0] == SILENT


@given(st.lists(st.tuples(st.sampled_from(["train.loss", "valid.loss", "gpu.x"]), st.floats()), max_size=40))
def test_whatever_comes_what_is_told_is_finite(points: list[tuple[str, float]]) -> None:
    """Monasca takes nothing else."""
    watch = Watch()
    for point in points:
        for series, value in watch(point, after=31.0):
            assert math.isfinite(value), series
            assert value >= 0


# -- in the recorder -------------------------------------------------------------------------------


def test_a_run_records_its_signs_and_its_sinks_see_them(runs_dir: Path) -> None:
    """nan in the very last batch too, of which a training often dies at once."""
    sink = MemorySink()
    with mlops.Run("digits", sinks=[sink], devices=[], runs_dir=runs_dir) as run:
        run.log({"train.loss": 1.0})
        run.log({"train.loss": math.nan})
    record = read_run(open_run(run.id, runs_dir))
    ((series, points),) = record.find(NOT_FINITE)
    assert dict(series.dimensions) == {"metric": "train.loss"}
    assert points.value.tolist() == [1.0]
    assert abs(points.time[0] - record.find("train.loss")[0][1].time[-1]) < 60
    assert not record.gaps
    assert [(point.name, point.value) for point in sink.points if point.name == NOT_FINITE] == [(NOT_FINITE, 1.0)]


def test_a_run_without_trouble_records_nothing_more(runs_dir: Path) -> None:
    """What a report or an export has of a good run is what the training logged."""
    with mlops.Run("digits", devices=[], runs_dir=runs_dir) as run:
        run.log({"train.loss": 1.0})
    assert read_run(open_run(run.id, runs_dir)).names() == ["train.loss"]


def test_a_full_buffer_keeps_no_sign_back(tmp_path: Path) -> None:
    """What is told takes no slot, so that a flood of nan is counted however full the buffer is."""
    recorder = Recorder(tmp_path / "a.points", slots=64, interval=3600, watch=Signs())
    for _ in range(200):
        recorder.log({"train.loss": math.nan})
    recorder.close()
    reader = PointsReader(tmp_path / "a.points")
    columns = Columns.join(list(reader.read(whole=True)))
    told = [str(reader.series[number]) == f"{NOT_FINITE}{{metric=train.loss}}" for number in columns.series.tolist()]
    kept = len(told) - sum(told)
    assert columns.value[np.array(told)][-1] == kept == recorder.not_finite
    assert recorder.points == len(columns)


def test_a_watch_that_fails_ends_alone(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Every point is kept, and it is said once."""

    def fail(_columns: Columns, _series: Sequence[Series]) -> Sequence[tuple[Series, float]]:
        raise ZeroDivisionError

    with caplog.at_level(logging.WARNING, "mlops"):
        recorder = Recorder(tmp_path / "a.points", interval=3600, watch=fail)
        for value in range(50):
            recorder.log({"a": float(value)})
        recorder.close()
    assert [record.message for record in caplog.records] == [
        "The recorder's watch failed in a way that it should not; please report this."
    ]
    assert recorder.points == 50


KILLED = """
import math, os, sys
from pathlib import Path
from mlops.recorder import Recorder
from mlops.signs import Signs
recorder = Recorder(Path(sys.argv[1]), slots=256, interval=0.0005, watch=Signs())
for number in range(10**9):
    before = recorder.dropped
    recorder.log({"train.loss": math.nan if number % 3 == 0 else float(number)})
    if recorder.dropped == before:
        os.write(1, b"%d\\n" % number)
"""


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_kill_9_while_signs_are_written_loses_nothing_and_doubles_nothing(tmp_path: Path, seed: int) -> None:
    """Blocks that no slot stands for leave the buffer's place in the file as it was."""
    path = tmp_path / "a.points"
    child = subprocess.Popen([sys.executable, "-c", KILLED, str(path)], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    stop = random.Random(seed).randrange(2_000, 20_000)  # noqa: S311 - a moment, no secret
    accepted = []
    for line in child.stdout:
        accepted.append(int(line))
        if len(accepted) == stop:
            child.send_signal(signal.SIGKILL)
            break
    accepted += [int(line) for line in child.stdout.read().split("\n")[:-1] if line]
    child.wait(30)
    child.stdout.close()
    reader = PointsReader(path)
    parts = list(reader.read(whole=True))
    left = reader.read_buffer()
    columns = Columns.join([*parts, *([left] if left is not None else [])])
    losses = columns.value[np.array([reader.series[number].name == "train.loss" for number in columns.series.tolist()])]
    expected = [math.nan if number % 3 == 0 else float(number) for number in accepted]
    extra = len(losses) - len(expected)
    assert extra in {0, 1}  # the one that was accepted and not yet said
    assert np.array_equal(losses[: len(expected)], np.array(expected), equal_nan=True)
    assert all("unfinished write" in gap.what for gap in reader.gaps)
