"""Trainings that send to the real Monasca beside their work, on its bad days."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping
from datetime import datetime
from itertools import count
from pathlib import Path
from typing import Final

import pytest

import mlops
from mlops.record import read_run
from mlops.sinks import open_sink
from mlops.sinks.monasca import MonascaSink
from mlops.store import RunFolder
from mlops.upload import upload
from tests.sinks.durable import WrittenRun, milliseconds_of
from tests.testbed.faults import Fault
from tests.testbed.monasca import Monasca

Wait = Callable[..., None]
Stored = dict[int, tuple[float, str | None]]

pytestmark = pytest.mark.slow

FAULTS: Final[Mapping[str, Fault]] = {
    "401": Fault.answer(401),
    "422": Fault.answer(422),
    "429": Fault.answer(429, retry_after="0.3"),
    "500": Fault.answer(500),
    "503": Fault.answer(503, retry_after="0.2"),
    "hang": Fault.hang(0.5),
    "cut": Fault.cut(),
    "forget": Fault.forget(),
    "garbage": Fault.garbage(),
}


def stored(monasca: Monasca, run_id: str, name: str) -> Stored:
    """Value and step at each millisecond of a metric of which the run must have one series."""
    found: Stored = {}
    for dimensions, rows in monasca.measurements(name, {"run_id": run_id}):
        assert dimensions["run_id"] == run_id
        for text, value, meta in rows:
            moment = round(datetime.fromisoformat(text).timestamp() * 1000)
            assert moment not in found, "two points at one time are two series"
            found[moment] = value, (meta or {}).get("step")
    return found


def recorded(folder: Path, name: str) -> Stored:
    """The same as the store has it, with the millisecond that each point must get."""
    record = read_run(RunFolder(folder))
    (number,) = [place for place, series in enumerate(record.series) if series.name == name]
    columns = record.columns.pick(record.columns.series == number)
    moments = milliseconds_of((number, moment) for moment in columns.time.tolist())
    rows = zip(moments, columns.value.tolist(), columns.step.tolist(), strict=True)
    return {moment: (value, str(step - 1) if step else None) for moment, value, step in rows}


def sink_of(url: str = "monasca://testbed?interval=0.1&batch=100") -> MonascaSink:
    """One that sends often, so that much can go wrong."""
    sink = open_sink(url)
    assert isinstance(sink, MonascaSink)
    return sink


@pytest.mark.parametrize("kind", FAULTS)
def test_a_training_while_every_fourth_request_or_so_goes_wrong(
    monasca: Monasca, runs_dir: Path, wait_until: Wait, kind: str
) -> None:
    """Each kind of trouble by itself: the training's own sink gets everything through before the run ends."""
    luck = random.Random(7)  # noqa: S311 - which request goes wrong
    monasca.faults.rule = lambda _number, method, _path: (
        FAULTS[kind] if method == "POST" and luck.random() < 0.25 else None
    )
    sink = sink_of("monasca://testbed?interval=0.1&batch=25")
    began = round(time.time(), 3)
    with mlops.Run("digits", sinks=[sink], devices=[], runs_dir=runs_dir) as run:
        for number in range(500):
            run.log({"train.loss": number / 7}, step=number, time=began + number / 1000)
        wait_until(lambda: sink.sent + sink.dropped >= 500, 120)
        monasca.faults.rule = lambda _number, _method, _path: None
    assert sum(bool(request.fault) for request in monasca.faults.requests) >= 2
    wanted = {round(began * 1000) + number: (number / 7, str(number)) for number in range(500)}
    assert monasca.wait_stored(run.id, len(read_run(RunFolder(run.dir)).columns)) == sink.sent
    assert stored(monasca, run.id, "train.loss") == wanted
    assert sink.dropped == 0


def test_a_training_through_all_of_them_and_an_outage(monasca: Monasca, runs_dir: Path, wait_until: Wait) -> None:
    """They come in turns, and the API is gone for a while: every point once, its time, value and step as recorded.

    What the run's end should not have waited for, an upload sends.
    """
    faults, turns = list(FAULTS.values()), count()

    def rule(number: int, method: str, _path: str) -> Fault | None:
        return faults[next(turns) % len(faults)] if method == "POST" and number % 3 == 1 else None

    monasca.faults.rule = rule
    sink = sink_of("monasca://testbed?interval=0.1&batch=250")
    settings = mlops.Settings.load(close_seconds=90.0)
    with mlops.Run("digits", sinks=[sink], devices=[], runs_dir=runs_dir, settings=settings) as run:
        for part in range(3):
            for number in range(part * 1000, part * 1000 + 1000):
                run.log({"train.loss": number / 7, "train.lr": 1.0 / (number + 1)}, step=number)
            if part == 1:
                monasca.faults.go_down()
                wait_until(lambda: "cannot be reached" in str(run._feeds[0]._trouble), 120)  # type: ignore[attr-defined]
                monasca.faults.come_up()
        for number in range(1000):
            run.log({"eval.odd": float(number)})
    monasca.faults.clear()
    (result,) = upload([RunFolder(run.dir)], sink_of())
    assert (result.left, result.dropped, result.problems) == (0, 0, [])
    assert result.sent + result.before == len(read_run(RunFolder(run.dir)).columns) >= 7000
    assert result.confirmed
    assert monasca.stored(run.id) == result.sent + result.before
    for name, many in (("train.loss", 3000), ("train.lr", 3000), ("eval.odd", 1000)):
        wanted = recorded(run.dir, name)
        assert len(wanted) == many
        assert stored(monasca, run.id, name) == wanted
        listed = monasca.call("GET", "/metrics", name=name, dimensions=f"run_id:{run.id}")["elements"]
        assert len(listed) == 1


def test_a_training_that_outlives_its_tokens(tmp_path: Path, runs_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keystone's tokens live for ten seconds: they are renewed in the midst, and nobody is told."""
    with Monasca(tmp_path / "monasca", token_seconds=10, agent=False) as brief:
        for name, text in brief.environ().items():
            monkeypatch.setenv(name, text)
        sink = sink_of()
        session = sink.monasca.cloud._session
        settings = mlops.Settings.load(close_seconds=60.0)
        with mlops.Run("digits", sinks=[sink], devices=[], runs_dir=runs_dir, settings=settings) as run:
            first, until = session.get_token(), time.monotonic() + 16
            for number in count():
                run.log({"train.loss": float(number)})
                time.sleep(0.01)
                if time.monotonic() > until and sink.sent:
                    break
        assert session.get_token() != first
        total = len(read_run(RunFolder(run.dir)).columns)
        assert (sink.sent, sink.dropped) == (total, 0)
        assert brief.wait_stored(run.id, total) == total
        assert stored(brief, run.id, "train.loss") == recorded(run.dir, "train.loss")


def test_a_run_that_a_wrong_clock_began_does_no_harm(new_monasca: Monasca, runs_dir: Path) -> None:
    """In the year 2264, which the persister does not survive: the run's points arrive, and those of others."""
    run = WrittenRun(runs_dir, started=9.3e9, ended=9.3e9 + 60)
    run.whole([[(0, float(number), float(number)) for number in range(50)]])
    other = WrittenRun(runs_dir, "beef00")
    other.whole([[(0, float(number), float(number)) for number in range(50)]])
    for folder in (run.folder, other.folder):
        (result,) = upload([folder], sink_of("monasca://testbed"), confirm=False, patience=5.0)
        assert (result.sent, result.problems) == (50, [])
        assert new_monasca.wait_stored(folder.id, 50, 30) == 50
