"""Which run a callback logs into, and what it is told before the training begins."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import pytest

import mlops
from mlops.callbacks.base import RunChoice
from mlops.errors import MlopsError, RunError, SeriesError, SettingsError, SinkURLError
from mlops.record import read_run
from mlops.sinks import MemorySink
from mlops.store import RunFolder


def test_a_run_of_its_own_begins_and_ends_with_the_training(runs_dir: Path) -> None:
    """Every option reaches the run, what the user said stands above what was found out, and end() closes it."""
    sink = MemorySink()
    choice = RunChoice(
        "digits",
        dimensions={"team": "vision"},
        parameters={"lr": 0.5},
        sinks=[sink],
        devices=[],
        runs_dir=runs_dir,
    )
    session = choice.begin({"lr": 0.1, "epochs": 3})
    assert session.own
    assert mlops.current_run() is session.run
    assert session.run.sinks == [sink]
    session.end("failed", "why")
    session.end()
    info = read_run(RunFolder(session.run.dir)).info
    assert (info.name, info.dimensions, info.parameters) == ("digits", {"team": "vision"}, {"lr": 0.5, "epochs": 3})
    assert (info.outcome, info.reason) == ("failed", "why")
    assert sink.closed


@pytest.mark.parametrize("given", [True, False])
def test_a_run_that_is_open_is_logged_into_and_left_open(runs_dir: Path, *, given: bool) -> None:
    """Be it given or the current one: its user's parameters stay, and the epochs of its trainings add up."""
    with mlops.Run("outer", parameters={"lr": 0.5}, devices=[], runs_dir=runs_dir) as run:
        choice = RunChoice(run=run if given else None, parameters={"seed": 7})
        for _ in range(2):
            session = choice.begin({"lr": 0.1, "epochs": 3, "model": "CNN"})
            assert session.run is run
            session.end("failed", "the training's own trouble")
        assert run.is_open
        assert run.parameters == {"lr": 0.5, "epochs": 6, "model": "CNN", "seed": 7}
    assert read_run(RunFolder(run.dir)).info.outcome == "finished"


def test_a_run_that_has_ended_is_refused(runs_dir: Path) -> None:
    """Points of a training must not vanish into a closed run."""
    with mlops.Run("outer", devices=[], runs_dir=runs_dir) as run:
        choice = RunChoice(run=run)
    with pytest.raises(RunError, match=r"has ended.*one that is open"):
        choice.begin({})


@pytest.mark.parametrize(
    ("given", "error", "said"),
    [
        ({"sinks": ["carrier-pigeon://x"]}, SinkURLError, "no sink of scheme 'carrier-pigeon'"),
        ({"sinks": "memory:"}, SettingsError, r"Write sinks=\['memory:'\]"),
        ({"devices": "host"}, SettingsError, r"Write devices=\['host'\]"),
        ({"devices": ["toaster"]}, SettingsError, "no device 'toaster'"),
        ({"dimensions": {"team": "a;b"}}, SeriesError, "';'"),
        ({"name": "a\nb"}, SeriesError, "name"),
        ({"run": "digits"}, RunError, "run='digits' is no mlops.Run"),
    ],
)
def test_what_cannot_be_understood_is_said_before_the_training(
    given: dict[str, Any], error: type[MlopsError], said: str
) -> None:
    """Each bad argument is an error of its kind at construction, with the remedy."""
    with pytest.raises(error, match=said) as caught:
        RunChoice(**given)
    assert caught.value.remedy


def test_a_bad_setting_is_said_before_the_training(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also one that comes from the environment and would otherwise be met in the loop."""
    monkeypatch.setenv("MLOPS_SINKS", "carrier-pigeon://x")
    with pytest.raises(SinkURLError, match="carrier-pigeon"):
        RunChoice()


def test_a_run_goes_with_no_option_of_another_run(runs_dir: Path) -> None:
    """Options beside run= would be ignored in silence."""
    with mlops.Run("outer", devices=[], runs_dir=runs_dir) as run, pytest.raises(RunError, match=r"mlops\.Run itself"):
        RunChoice(run=run, dimensions={"team": "vision"})


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda choice: pickle.loads(pickle.dumps(choice))])  # noqa: S301 - its own
def test_a_copy_keeps_the_options_and_no_run(runs_dir: Path, copied: Any) -> None:
    """Runs and sinks hold threads and sockets; a copy goes on with names and URLs."""
    with mlops.Run("outer", devices=[], runs_dir=runs_dir) as run:
        assert copied(RunChoice(run=run)).begin({}).run is run  # the current one
    given = RunChoice("inner", sinks=[MemorySink(), "memory:"], devices=[], runs_dir=runs_dir)
    session = copied(given).begin({})
    assert [type(sink) for sink in session.run.sinks] == [MemorySink]
    assert session.run.name == "inner"
    session.end()
