"""Opening runs, and the names that mlops.report offers."""

from __future__ import annotations

from pathlib import Path

import pytest

from mlops import report
from mlops.errors import RunNotFoundError
from tests.report.written import digits


def test_a_run_is_read_by_id_beginning_name_path_or_as_the_last(
    runs_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However one points at it; the folder of runs comes from the settings unless given."""
    digits(runs_dir, "000001")
    newest = digits(runs_dir, "000002").info.id
    for which in (newest, "digits", "last", runs_dir / newest, str(runs_dir / newest)):
        assert report.read(which, runs_dir=runs_dir).info.id == newest
    monkeypatch.setenv("MLOPS_RUNS_DIR", str(runs_dir))
    assert report.read().info.id == newest


def test_a_run_that_does_not_exist_is_an_error_with_the_nearest(runs_dir: Path) -> None:
    """Never an empty report."""
    digits(runs_dir)
    with pytest.raises(RunNotFoundError, match="The newest"):
        report.read("20200101", runs_dir=runs_dir)


def test_the_public_names_are_these() -> None:
    """Whoever adds or takes away a name changes this list, knowingly."""
    assert report.__all__ == [
        "Arrival",
        "Best",
        "Energy",
        "Epoch",
        "Epochs",
        "MeterEnergy",
        "Reached",
        "Summary",
        "energy_to_reach",
        "energy_used",
        "epochs",
        "export",
        "figure",
        "read",
        "render_table",
        "summary",
        "write_page",
        "write_png",
    ]
    assert all(callable(getattr(report, name)) for name in report.__all__)
