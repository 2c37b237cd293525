"""The table per epoch: every number against one computed the slow way, and each rule by an example."""

from __future__ import annotations

import json
import math
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import mlops
from mlops import report
from mlops.report.tables import Epoch
from tests.report.naive import expected, same
from tests.report.written import BEGAN, GPU, METERS, NO_METERS, P, Written, batches, digits, epoch, in_order, readings

FIELDS = [
    "epoch process end train_loss valid_loss metrics seconds joules joules_by_device watts samples_per_second batches",
    "not_finite",
]

values = st.sampled_from([0.25, 0.5, 1.0, 3.0, -2.0, math.nan, math.inf])
steps = st.one_of(st.none(), st.integers(0, 4))
actions = st.one_of(
    st.tuples(st.just("train.loss"), values, st.none()),
    st.tuples(st.just("train.samples_per_second"), st.sampled_from([0.0, 10.0, 70.0, math.nan]), st.none()),
    st.tuples(st.sampled_from(["valid.loss", "valid.accuracy", "valid.f1", "train.epoch_loss"]), values, steps),
    st.tuples(st.just("train.epoch_seconds"), st.sampled_from([0.5, 2.0, -1.0, math.nan]), steps),
    st.tuples(st.just("train.epoch"), st.sampled_from([0.0, 1.0, 2.0, 3.0, 4.0, 1.5, math.nan]), steps),
    st.tuples(st.just("train.epoch_energy_joules"), st.sampled_from([1.0, 20.0, math.nan]), steps),
)


@st.composite
def processes(draw: st.DrawFn) -> list[list[P]]:
    """What one to three processes logged, one after the other in time, in any order of names, values and steps."""
    written = []
    now = 0.0
    for _ in range(draw(st.integers(1, 3))):
        points = []
        for name, value, step in draw(st.lists(actions, max_size=25)):
            now += draw(st.sampled_from([0.0, 0.5, 1.0, 3.0]))
            energy = name == "train.epoch_energy_joules"
            device = draw(st.sampled_from(["gpu", "host"])) if energy else ""
            points.append(P(now, name, value, {"device": device, "method": "power"} if energy else {}, step))
        written.append(points)
    return written


@settings(max_examples=50, deadline=None)
@given(processes())
def test_every_number_is_the_one_that_a_plain_loop_finds(written: list[list[P]]) -> None:
    """Whatever was logged, in whatever order, the vectorised table equals the naive one."""
    _compare(written)


@pytest.mark.slow
@settings(max_examples=1500, deadline=None)
@given(processes())
def test_every_number_is_the_one_that_a_plain_loop_finds_in_many_runs(written: list[list[P]]) -> None:
    """The same, at length."""
    _compare(written)


def _compare(written: list[list[P]]) -> None:
    with TemporaryDirectory() as folder:
        run = Written(Path(folder))
        for points in written:
            run.process(points)
        table = report.epochs(run.read())
    wanted = expected(written)
    assert table.whole_run == (not wanted)
    if wanted:
        assert len(table.rows) == len(wanted)
        for row, plain in zip(table.rows, wanted, strict=True):
            for name in " ".join(FIELDS).split():
                assert same(getattr(row, name), plain[name]), (name, row, plain)


def _rows(run: Written) -> tuple[Epoch, ...]:
    return report.epochs(run.read()).rows


def test_an_epoch_has_its_losses_metrics_time_and_rate(runs_dir: Path) -> None:
    """The plain case, number by number."""
    run = Written(runs_dir)
    losses = [P(1, "train.loss", 4.0), P(2, "train.loss", 2.0), P(2, "train.samples_per_second", 50.0)]
    run.process([*losses, *epoch(1, 10, 10, loss=1.5, accuracy=0.9)], NO_METERS)
    (row,) = _rows(run)
    assert (row.epoch, row.process, row.start, row.end) == (1, None, BEGAN, BEGAN + 10)
    assert (row.train_loss, row.valid_loss, row.metrics) == (3.0, 1.5, {"accuracy": 0.9})
    assert (row.seconds, row.samples_per_second, row.batches) == (10.0, 50.0, 2)
    assert (row.joules, row.watts, row.method) == (None, None, "")


def test_several_fits_in_one_run_go_on_counting(runs_dir: Path) -> None:
    """A second fit's file begins a new first epoch only in time: its number follows."""
    run = Written(runs_dir)
    run.process([*batches(0, 4, 3, 1.0), *epoch(1, 5, 5, loss=1.0)])
    run.process([*batches(100, 4, 3, 0.5), *epoch(2, 105, 5, loss=0.5)])
    rows = _rows(run)
    assert [(row.epoch, row.process, row.seconds, row.batches) for row in rows] == [(1, None, 5, 3), (2, None, 5, 3)]


def test_trainings_that_both_begin_at_one_are_told_apart(runs_dir: Path) -> None:
    """Two commands under one run each count from 1; the table numbers them."""
    run = Written(runs_dir)
    run.process([*epoch(1, 5, 5, loss=1.0), *epoch(2, 10, 5, loss=0.9)])
    run.process([*epoch(1, 20, 5, loss=0.8)])
    assert [(row.process, row.epoch, row.valid_loss) for row in _rows(run)] == [(1, 1, 1.0), (1, 2, 0.9), (2, 1, 0.8)]


def test_steps_that_count_batches_are_no_epochs_numbers(runs_dir: Path) -> None:
    """An evaluation at step 2 is not the second epoch's, where others are at steps that no epoch has."""
    run = Written(runs_dir)
    points = [P(1.0, "valid.loss", 0.9, step=2), P(2.0, "train.epoch", 1.0, step=1)]
    points += [P(3.0, "valid.loss", 0.5, step=4), P(4.0, "train.epoch", 2.0, step=2)]
    points += [P(5.0, "valid.loss", 0.3, step=6), P(6.0, "train.epoch", 3.0, step=3)]
    run.process(points)
    assert [row.valid_loss for row in report.epochs(run.read()).rows] == [0.9, 0.5, 0.3]


def test_the_ranks_of_one_training_make_one_row_an_epoch(runs_dir: Path) -> None:
    """Rank 1 repeats the epochs of rank 0; only its energy is added, since its GPU is its own."""
    run = Written(runs_dir)
    for rank, loss in ((0, 1.0), (1, 9.0)):
        energy = P(10, "train.epoch_energy_joules", 100.0 + rank, {"device": "gpu", "method": "counter"}, 1)
        run.process([*batches(0, 9, 4, loss, smooth=False), *epoch(1, 10, 10, loss=loss), energy], {"rank": rank})
    (row,) = _rows(run)
    assert (row.valid_loss, row.batches, row.joules) == (1.0, 4, 201.0)


def test_energy_of_another_process_goes_to_the_nearest_epoch_of_its_number(runs_dir: Path) -> None:
    """Two trainings that both count from 1, metered by a third process: time tells whose energy it was."""
    run = Written(runs_dir)
    counted = [P(at, "train.epoch_energy_joules", at, {"device": "gpu", "method": "power"}, 1) for at in (6.0, 101.0)]
    run.process(counted, METERS)
    run.process(epoch(1, 5, 5, loss=1.0))
    run.process(epoch(1, 100, 5, loss=0.9))
    assert [(row.end, row.joules) for row in _rows(run)] == [(BEGAN + 5, 6.0), (BEGAN + 100, 101.0)]


def test_an_epoch_cut_off_has_no_row_and_is_said(runs_dir: Path) -> None:
    """What an exception left of the third epoch is counted in a sentence."""
    run = Written(runs_dir, outcome="failed", reason="ValueError: no")
    run.process([*epoch(1, 5, 5, loss=1.0), *epoch(2, 10, 5, loss=0.9), *batches(10, 3, 7, 0.8)])
    table = report.epochs(run.read())
    assert [row.epoch for row in table.rows] == [1, 2]
    (remark,) = table.remarks
    assert "not completed" in remark
    assert "7 batches" in remark


def test_a_loop_without_epochs_is_one_row(runs_dir: Path) -> None:
    """A plain loop has its means, its last validation and its energy in one row."""
    run = Written(runs_dir)
    plain = [*batches(0, 90, 50, 1.0), P(50, "valid.accuracy", 0.5), P(95, "valid.accuracy", 0.75)]
    run.process(in_order(plain, readings(100, 200.0)), METERS)
    table = report.epochs(run.read())
    (row,) = table.rows
    assert table.whole_run
    assert (row.epoch, row.batches, row.metrics) == (None, 50, {"accuracy": 0.75})
    assert row.joules == pytest.approx(report.energy_used(run.read()).joules)
    assert row.method == "gpu counter"
    assert "No epoch was completed" in table.remarks[0]


def test_a_run_without_points_has_no_rows(runs_dir: Path) -> None:
    """A run that ended before it logged anything is said to have."""
    table = report.epochs(Written(runs_dir).read())
    assert table.rows == ()
    assert table.remarks == ("The run recorded no points.",)


def test_losses_that_are_no_number_do_not_hide_the_others(runs_dir: Path) -> None:
    """One nan among a thousand batches leaves the mean of the others, and a count; nothing but nan stays nan."""
    run = Written(runs_dir)
    bad = [P(1, "train.loss", math.nan), P(2, "train.loss", 2.0), P(3, "train.loss", math.inf)]
    run.process([*bad, *epoch(1, 5, 5, loss=math.nan), P(6, "train.loss", math.nan), *epoch(2, 10, 5, loss=1.0)])
    table = report.epochs(run.read())
    assert (table.rows[0].train_loss, table.rows[0].not_finite) == (2.0, 2)
    assert math.isnan(table.rows[0].valid_loss or 0)
    assert math.isnan(table.rows[1].train_loss or 0)
    assert "3 batches had a loss that is not a finite number" in table.remarks[0]


def test_energy_is_read_off_the_meter_where_no_epoch_counted_it(runs_dir: Path) -> None:
    """A run under ``mlops run`` meters in one process and trains in another: the curve is cut at the epochs' times."""
    run = Written(runs_dir)
    joules = [P(at, "gpu.energy_joules", 100.0 * at, {"uuid": GPU, "method": "counter"}) for at in range(41)]
    run.process(joules, METERS)
    run.process([*epoch(1, 10.5, 10.5, loss=1.0), *epoch(2, 30.5, 20.0, loss=0.9), *epoch(3, 60.0, 25.0, loss=0.8)])
    rows = _rows(run)
    assert rows[0].joules == pytest.approx(1050)
    assert rows[1].joules == pytest.approx(2000)
    assert rows[1].watts == pytest.approx(100)
    assert rows[2].joules is None  # metered for a fifth of it only: not guessed
    assert [row.method for row in rows] == ["gpu counter", "gpu counter", ""]


def test_energy_that_an_epoch_counted_itself_comes_first(runs_dir: Path) -> None:
    """The lap of the sampler is exact; the curve only fills in for another kind of device."""
    run = Written(runs_dir)
    lap = P(10, "train.epoch_energy_joules", 777.0, {"device": "gpu", "method": "counter"}, 1)
    host = [P(at, "host.energy_joules", 5.0 * at, {"package": "0", "method": "rapl"}) for at in range(12)]
    run.process(in_order(readings(12), host, epoch(1, 10, 10, loss=1.0), [lap]))
    (row,) = _rows(run)
    assert row.joules_by_device["gpu"] == 777.0
    assert row.joules_by_device["host"] == pytest.approx(50)
    assert row.joules == pytest.approx(827)
    assert row.method == "gpu counter, host rapl"


@pytest.mark.parametrize(
    ("notes", "why"),
    [
        (NO_METERS, "no NVIDIA driver"),
        ({"meters": [], "not_metered": []}, "no device was asked"),
        ({"meters": METERS["meters"], "not_metered": []}, "gave no energy reading"),
        (None, "noted no meters"),
    ],
)
def test_where_nothing_was_metered_it_is_said_why(runs_dir: Path, notes: dict[str, object] | None, why: str) -> None:
    """Never an empty column: a sentence from the run's notes, or what follows from them."""
    run = Written(runs_dir)
    run.process(epoch(1, 5, 5, loss=1.0), notes)
    (sentence,) = report.epochs(run.read()).not_metered
    assert why in sentence


def test_metrics_that_differ_by_dimensions_are_columns_of_their_own(runs_dir: Path) -> None:
    """Two validation sets, one metric."""
    run = Written(runs_dir)
    sets = [P(5, "valid.accuracy", value, {"set": name}, 1) for name, value in (("a", 0.5), ("b", 0.75))]
    run.process([*sets, *epoch(1, 5, 5, loss=1.0)])
    table = report.epochs(run.read())
    assert table.metrics == ("accuracy{set=a}", "accuracy{set=b}")
    assert table.rows[0].metrics == {"accuracy{set=a}": 0.5, "accuracy{set=b}": 0.75}


def test_the_table_goes_through_json(runs_dir: Path) -> None:
    """What is not known is null, and nan is the text that float() reads back."""
    run = Written(runs_dir)
    run.process([P(1, "train.loss", math.nan), *epoch(1, 5, 5, loss=-math.inf, accuracy=0.5)])
    plain = json.loads(json.dumps(report.epochs(run.read()).as_json(), allow_nan=False))
    row = plain["rows"][0]
    assert (row["train_loss"], row["valid_loss"], row["joules"]) == ("NaN", "-Infinity", None)
    assert row["metrics"] == {"accuracy": 0.5}
    assert math.isnan(float(row["train_loss"]))


def test_a_run_of_the_real_recorder_has_its_epochs(runs_dir: Path) -> None:
    """What mlops.Run logs is what the table reads."""
    with mlops.Run("plain", runs_dir=runs_dir, devices=[]) as run:
        for number in range(1, 4):
            for batch in range(5):
                run.log({"train.loss": 1.0 / number + batch})
            run.end_epoch({"valid.loss": 1.0 / number, "valid.accuracy": 0.3 * number}, seconds=2.5)
    table = report.epochs(report.read(run.id, runs_dir=runs_dir))
    assert [row.epoch for row in table.rows] == [1, 2, 3]
    assert [row.train_loss for row in table.rows] == pytest.approx([3.0, 2.5, 2 + 1 / 3])
    assert [row.seconds for row in table.rows] == [2.5] * 3
    assert table.metrics == ("accuracy",)
    assert table.remarks == ()


@pytest.mark.slow
def test_a_million_points_come_out_right(runs_dir: Path) -> None:
    """Epochs of thousands of batches lose none of them."""
    run = digits(runs_dir, epochs=50, per_epoch=5000, notes=None)
    table = report.epochs(run.read())
    assert [row.batches for row in table.rows] == [5000] * 50
