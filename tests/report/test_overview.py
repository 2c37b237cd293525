"""A run in a few numbers."""

from __future__ import annotations

import json
import math
import os
import socket
from pathlib import Path

import pytest

from mlops import report
from mlops.members import process_started
from mlops.store import RunFolder
from tests.report.written import BEGAN, METERS, P, Written, batches, digits, epoch


def test_a_run_that_went_well(runs_dir: Path) -> None:
    """Every number of the plain case."""
    facts = report.summary(digits(runs_dir).read())
    assert (facts.name, facts.outcome, facts.epochs, facts.host) == ("digits", "finished", 12, "node-1")
    assert facts.seconds == pytest.approx(99)
    assert facts.best is not None
    assert (facts.best.metric, facts.best.epoch) == ("accuracy", 12)
    assert facts.best.value == pytest.approx(0.99037, abs=1e-4)
    assert facts.samples_per_second == pytest.approx(400)
    assert facts.energy.joules == pytest.approx(22_395, abs=1)
    assert (facts.dropped, facts.refused, facts.not_finite, facts.missing, facts.gaps) == (0, 0, 0, 0, ())
    assert facts.complete
    json.dumps(facts.as_json(), allow_nan=False)


def test_what_was_lost_is_counted_over_all_processes(runs_dir: Path) -> None:
    """Each process notes its own drops; run.json knows the owner's only."""
    run = Written(runs_dir, notes={"dropped": 3})
    run.process([P(1, "train.loss", math.nan)], {"dropped": 3, "refused": 1})
    run.process([P(2, "train.loss", math.inf), P(3, "train.loss", 1.0)], {"dropped": 4})
    facts = report.summary(run.read())
    assert (facts.dropped, facts.refused, facts.not_finite, facts.complete) == (7, 1, 2, False)


def test_a_gap_in_the_record_is_told(runs_dir: Path) -> None:
    """A damaged middle is named, with the file that it is in."""
    run = Written(runs_dir)
    path = run.process([P(float(at), "train.loss", 1.0 / (at + 1)) for at in range(100_000)])
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(data)
    facts = report.summary(run.read())
    assert facts.gaps
    assert path.name in facts.gaps[0]
    assert facts.missing > 0
    assert not facts.complete


def test_a_run_that_ended_without_a_word_ended_with_its_last_point(runs_dir: Path) -> None:
    """Not with what the file system says, which changes when the run is copied."""
    run = Written(runs_dir, outcome="running", ended=None, host="gone", pid=1)
    path = run.process(batches(0, 50, 10, 1.0))
    for file in (path, run.folder.path / "run.json"):
        os.utime(file, (BEGAN, BEGAN))
    facts = report.summary(run.read())
    assert facts.outcome == "killed"
    assert facts.ended is not None
    assert facts.ended - BEGAN == pytest.approx(50 * 10 / 11)


def test_a_run_still_going_has_no_end(runs_dir: Path) -> None:
    """Its time so far runs to its last point."""
    run = Written(
        runs_dir,
        outcome="running",
        ended=None,
        host=socket.gethostname(),
        pid=os.getpid(),
        pid_started=process_started(os.getpid()),
    )
    run.process([P(0, "train.loss", 1.0), P(40, "train.loss", 0.5)])
    facts = report.summary(run.read())
    assert (facts.outcome, facts.ended, facts.seconds) == ("running", None, 40)


@pytest.mark.parametrize(
    ("metrics", "main", "best"),
    [
        ({"f1": [0.1, 0.3, 0.2], "accuracy": [0.5, 0.4, 0.3]}, "accuracy", 0.5),
        ({"zeta": [1.0, 3.0, 2.0], "alpha_accuracy": [0.1, 0.2, 0.1]}, "alpha_accuracy", 0.2),
        ({"perplexity": [30.0, 10.0, 20.0]}, "perplexity", 10.0),
        ({"accuracy": [math.nan, 0.4, math.nan]}, "accuracy", 0.4),
    ],
)
def test_the_best_of_the_main_metric(runs_dir: Path, metrics: dict[str, list[float]], main: str, best: float) -> None:
    """Accuracy if there is one; the lowest of what should be low; nan is never the best."""
    run = Written(runs_dir)
    for place in range(3):
        values = {name: course[place] for name, course in metrics.items()}
        run.process(epoch(place + 1, 10.0 * place + 10, 10, **values), METERS)
    found = report.summary(run.read()).best
    assert found is not None
    assert (found.metric, found.value) == (main, best)


def test_a_run_without_anything_is_told_too(runs_dir: Path) -> None:
    """No points, no run.json: still a summary and no traceback."""
    run = Written(runs_dir)
    run.process([])
    (run.folder.path / "run.json").unlink()
    facts = report.summary(report.read(str(run.folder.path)))
    assert (facts.points, facts.best, facts.epochs) == (0, None, 0)
    assert RunFolder(run.folder.path).id == facts.id
