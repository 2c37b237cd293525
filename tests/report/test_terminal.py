"""The table as plain text."""

from __future__ import annotations

import re
from pathlib import Path

from mlops import report
from tests.report.written import NO_METERS, P, Written, batches, digits, epoch


def test_the_table_and_what_else_there_is_to_say(runs_dir: Path) -> None:
    """Columns are aligned; beneath stand outcome, best, energy and its method."""
    text = report.render_table(digits(runs_dir).read())
    lines = text.splitlines()
    heads = "epoch, train loss, valid loss, accuracy, seconds, joules, mean watts, samples/s"
    assert [head.strip() for head in re.split(r"\s{2,}", lines[0].strip())] == heads.split(", ")
    assert len({len(line) for line in lines[:14]}) == 1
    assert lines[13].split()[:1] == ["12"]
    assert "finished after 1 min 39 s and 12 epochs; best accuracy 99.04 % in epoch 12." in text
    assert "measured by the GPU's own energy counter." in text
    assert "Energy not metered here: host: RAPL is not readable" in text


def test_without_meters_there_is_no_empty_column(runs_dir: Path) -> None:
    """The plain sentence takes the place of joules and watts."""
    text = report.render_table(digits(runs_dir, notes=NO_METERS).read())
    assert "joules" not in text
    assert "Energy not metered here: nvidia: no NVIDIA driver on this machine" in text


def test_of_many_epochs_the_first_and_last_are_shown(runs_dir: Path) -> None:
    """A thousand epochs do not flood a terminal, unless asked to."""
    run = Written(runs_dir)
    run.process([point for number in range(1, 201) for point in epoch(number, 10.0 * number, 10, loss=1.0 / number)])
    text = report.render_table(run.read(), rows=20)
    assert "… 180 epochs not shown …" in text
    assert len(report.render_table(run.read(), rows=None).splitlines()) > 200


def test_what_went_wrong_is_told(runs_dir: Path) -> None:
    """The reason, the unfinished epoch and what was dropped."""
    run = Written(runs_dir, outcome="failed", reason="RuntimeError: out of memory\x1b[31m")
    run.process([*epoch(1, 5, 5, loss=1.0), *batches(5, 4, 3, 1.0)], {"dropped": 12, **NO_METERS})
    text = report.render_table(run.read())
    assert r"failed after 1 min 40 s and 1 epoch (RuntimeError: out of memory\u001b[31m)" in text
    assert "\x1b" not in text
    assert "12 points dropped" in text
    assert "3 batches trained after" in text


def test_nothing_recorded_is_said(runs_dir: Path) -> None:
    """A run without points has a sentence and no table."""
    text = report.render_table(Written(runs_dir).read())
    assert "The run recorded no points." in text


def test_a_plain_loop_has_one_row(runs_dir: Path) -> None:
    """Its label says that it is the whole run."""
    run = Written(runs_dir)
    run.process([P(1, "train.loss", 2.0), P(3, "train.loss", 1.0)])
    assert report.render_table(run.read()).splitlines()[2].split() == ["whole", "1.500", "2.00"]
