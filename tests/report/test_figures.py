"""Figures as drawn: one sheet, one picture, the same bytes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from mlops import report
from mlops.errors import MissingExtraError, ReportError
from tests.report.written import METERS, NO_METERS, P, Written, digits, in_order, readings


def test_a_figure_has_its_panels_one_beneath_the_other(runs_dir: Path) -> None:
    """Three axes of one width, which share their time."""
    drawn = report.figure(digits(runs_dir).read())
    assert len(drawn.axes) == 3
    boxes = [axes.get_position() for axes in drawn.axes]
    assert len({(round(box.x0, 6), round(box.x1, 6)) for box in boxes}) == 1
    assert boxes[0].y0 > boxes[1].y1
    assert len({axes.get_xlim() for axes in drawn.axes}) == 1


def test_the_figure_of_energy_has_one_panel(runs_dir: Path) -> None:
    """Accuracy against energy, from no energy on."""
    (axes,) = report.figure(digits(runs_dir).read(), "energy").axes
    assert axes.get_xlim()[0] <= 0
    assert len(axes.lines) == 2  # the course, and the ring about the best


def test_what_cannot_be_drawn_is_said(runs_dir: Path) -> None:
    """No empty figure: an error with the reason."""
    with pytest.raises(ReportError, match="no NVIDIA driver"):
        report.figure(digits(runs_dir, notes=NO_METERS).read(), "energy")
    with pytest.raises(ReportError, match="history and energy"):
        report.figure(digits(runs_dir, "000002").read(), "pie")  # type: ignore[arg-type]


@pytest.mark.slow
def test_the_same_run_gives_the_same_picture(runs_dir: Path, tmp_path: Path) -> None:
    """Bit for bit, with nothing of today in it; 0600 like every file of ours."""
    record = digits(runs_dir).read()
    for name in ("a.png", "b.png"):
        report.write_png(record, tmp_path / name)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "a.png").stat().st_mode & 0o777 == 0o600


def test_a_picture_of_nothing_is_its_headline(runs_dir: Path, tmp_path: Path) -> None:
    """A run without points makes no traceback."""
    report.write_png(Written(runs_dir, outcome="failed").read(), tmp_path / "a.png")
    assert (tmp_path / "a.png").stat().st_size > 1000


def test_names_are_never_taken_for_mathematics(runs_dir: Path, tmp_path: Path) -> None:
    r"""A run called ``$\nope$`` is drawn as that, one beginning with an underscore has its entry in the key."""
    records = []
    for number, name in enumerate((r"$\nope$", "_hidden", "名前 🚀")):
        run = Written(runs_dir, f"{number:06}", name=name)
        run.process([P(1, "valid.loss", 2.0), P(2, "valid.loss", 1.0)], NO_METERS)
        records.append(run.read())
    report.write_png(records, tmp_path / "a.png")
    key = report.figure(records).axes[0].get_legend()
    assert key is not None
    assert [text.get_text() for text in key.get_texts()] == [r"$\nope$", "_hidden", "名前 🚀"]


def test_a_file_that_cannot_be_written_is_an_error_and_leaves_nothing(runs_dir: Path, tmp_path: Path) -> None:
    """Neither half a picture nor a draft of one."""
    with pytest.raises(ReportError, match="Cannot write"):
        report.write_png(digits(runs_dir).read(), tmp_path / "nowhere" / "a.png")
    assert not (tmp_path / "nowhere").exists()


def test_settings_of_matplotlib_are_as_before(runs_dir: Path) -> None:
    """Drawing a report does not restyle the notebook that it is drawn in."""
    import matplotlib as mpl

    before = dict(mpl.rcParams)
    report.figure(digits(runs_dir).read())
    assert dict(mpl.rcParams) == before


def test_reports_load_nothing_heavy_until_they_draw() -> None:
    """``import mlops.report`` costs neither matplotlib nor jinja2 nor pyarrow, and pyplot is never loaded."""
    code = "import sys, mlops.report; print([m for m in ('matplotlib', 'jinja2', 'pyarrow') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_without_matplotlib_the_extra_is_named(runs_dir: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Whoever installed the core only is told what to install."""
    record = digits(runs_dir).read()
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MissingExtraError, match=r"mlops\[report\]"):
        report.write_png(record, tmp_path / "a.png")
    assert list(tmp_path.glob("*.png")) == []


def test_panels_share_an_axis_that_holds_every_point_of_any(runs_dir: Path) -> None:
    """A GPU metered for longer than the training took is drawn to its end, in line with the losses above."""
    run = Written(runs_dir)
    run.process(in_order([P(40, "train.loss", 2.0), P(50, "train.loss", 1.0)], readings(120)), METERS)
    for axes in report.figure(run.read()).axes:
        low, high = axes.get_xlim()
        assert -5 < low <= 0
        assert 120 <= high < 125
