"""Runs side by side: how they are called, how many there may be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mlops.errors import ReportError
from mlops.record import Record
from mlops.report.subjects import MOST, common_metric, differing, subjects_of
from tests.report.written import P, Written, digits, epoch


def _records(runs_dir: Path, *infos: dict[str, Any]) -> list[Record]:
    records = []
    for number, info in enumerate(infos):
        run = Written(runs_dir, f"{number:06x}", **info)
        run.process([P(1, "train.loss", 1.0)])
        records.append(run.read())
    return records


@pytest.mark.parametrize(
    ("infos", "labels"),
    [
        ([{"name": "a"}, {"name": "b"}], ["a", "b"]),
        ([{"parameters": {"lr": 1, "bs": 2}}, {"parameters": {"lr": 2, "bs": 2}}], ["digits lr=1", "digits lr=2"]),
        ([{}, {}], ["digits 000000", "digits 000001"]),
        ([{"parameters": {"text": "x" * 100}}, {"parameters": {}}], ["digits 000000", "digits 000001"]),
        ([{"name": "a\u202eb"}], [r"a\u202eb"]),
    ],
)
def test_labels_tell_runs_apart(runs_dir: Path, infos: list[dict[str, Any]], labels: list[str]) -> None:
    """By name, else by the parameters that differ, else by the ids' last digits."""
    assert [subject.label for subject in subjects_of(_records(runs_dir, *infos))] == labels


def test_one_run_twice_still_has_two_labels(runs_dir: Path) -> None:
    """Whoever asks for the same run twice sees two lines, told apart."""
    (record,) = _records(runs_dir, {})
    assert [subject.label for subject in subjects_of([record, record])] == ["digits 000000 (1)", "digits 000000 (2)"]


def test_none_and_too_many_are_refused(runs_dir: Path) -> None:
    """With what to do instead."""
    with pytest.raises(ReportError, match="no run to report"):
        subjects_of([])
    (record,) = _records(runs_dir, {})
    with pytest.raises(ReportError, match=f"at most {MOST}"):
        subjects_of([record] * (MOST + 1))


def test_what_differs_and_what_is_common(runs_dir: Path) -> None:
    """Parameters that are the same everywhere are not worth a column; the metric is the first that one has."""
    subjects = subjects_of(_records(runs_dir, {"parameters": {"a": 1, "b": 2}}, {"parameters": {"a": 1, "c": [3]}}))
    assert differing(subjects) == ["b", "c"]
    assert common_metric(subjects) is None
    assert common_metric([*subjects, *subjects_of(digits(runs_dir, "00000a").read())]) == "accuracy"
    run = Written(runs_dir, "00000b")
    run.process(epoch(1, 5, 5, loss=1.0))
    assert common_metric(subjects_of(run.read())) == "loss"
