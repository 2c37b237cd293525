"""What figures show, before anything is drawn."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from mlops.blocks import Columns
from mlops.report.describe import described
from mlops.report.figures import NARROW, WIDE
from mlops.report.panels import Panel, energy_panels, history_panels, label_once
from mlops.report.subjects import MOST, subjects_of
from mlops.series import Series
from tests.report.written import BEGAN, GPU, METERS, NO_METERS, P, Written, batches, digits, epoch, in_order, readings


def _history(run: Written) -> tuple[list[Panel], list[str]]:
    return history_panels(subjects_of(run.read()), WIDE)


def test_one_run_has_loss_metric_and_power(runs_dir: Path) -> None:
    """Three panels over one axis; nothing is missing."""
    panels, missing = _history(digits(runs_dir))
    assert [panel.title.partition(",")[0] for panel in panels] == ["Loss", "Accuracy", "Power (W)"]
    assert len({panel.x_label for panel in panels}) == 1
    assert [drawn.name for drawn in panels[0].drawn] == ["training, each batch", "training, smoothed", "validation"]
    assert missing == []


def test_without_meters_a_sentence_takes_the_place_of_the_power_panel(runs_dir: Path) -> None:
    """No empty axis."""
    panels, missing = _history(digits(runs_dir, notes=NO_METERS))
    assert [panel.title.partition(",")[0] for panel in panels] == ["Loss", "Accuracy"]
    assert missing == ["Energy not metered here: nvidia: no NVIDIA driver on this machine (NVMLError_LibraryNotFound)."]
    panels, missing = energy_panels(subjects_of(digits(runs_dir, "0a1b2d", notes=NO_METERS).read()), WIDE)
    assert panels == []
    assert "no NVIDIA driver" in missing[0]


def test_power_is_read_off_the_energy_where_only_that_was_recorded(runs_dir: Path) -> None:
    """A counter without power readings still has a power panel: joules by second."""
    run = Written(runs_dir)
    counter = [P(at, "gpu.energy_joules", 250.0 * at, {"uuid": GPU, "method": "counter"}) for at in range(10)]
    run.process([*counter, P(5, "train.loss", 1.0)], METERS)
    panels, _ = _history(run)
    assert panels[-1].drawn[0].line.value == pytest.approx(np.full(9, 250.0))


def test_a_few_gpus_have_a_line_each_and_many_their_sum(runs_dir: Path) -> None:
    """Up to four lines can be told apart; eight are drawn as what they take together."""
    for count, names in ((2, ["GPU 0", "GPU 1"]), (8, ["8 GPUs together"])):
        run = Written(runs_dir, f"{count:06}")
        run.process(in_order(*(readings(20, 100.0, uuid=f"GPU-{number}") for number in range(count))), METERS)
        panels, _ = _history(run)
        assert [drawn.name for drawn in panels[-1].drawn] == names
        if count == 8:
            one = max(point.value for point in readings(20, 100.0) if point.name == "gpu.power_watts")
            assert panels[-1].drawn[0].line.value.max() == pytest.approx(8 * one)


def test_a_loss_over_decades_is_drawn_on_a_logarithmic_scale(runs_dir: Path) -> None:
    """One that is not stays on a plain one; and so does one that is negative."""
    run = Written(runs_dir)
    run.process([P(float(at), "train.loss", 10.0**-at) for at in range(5)])
    assert _history(run)[0][0].log
    for tail, values in (("000002", [1.0, 0.5, 0.4]), ("000003", [10.0, 0.1, -5.0])):
        run = Written(runs_dir, tail)
        run.process([P(float(at), "train.loss", value) for at, value in enumerate(values)])
        assert not _history(run)[0][0].log


def test_many_batches_without_a_smoothed_loss_are_averaged(runs_dir: Path) -> None:
    """Else a noisy loss is a blot."""
    run = Written(runs_dir)
    run.process(batches(0, 90, 1000, 1.0, smooth=False))
    assert [drawn.name for drawn in _history(run)[0][0].drawn] == ["training, each batch", "training, mean"]


def test_values_that_are_no_number_are_marked(runs_dir: Path) -> None:
    """Where a loss was nan stands a cross; a run of nothing but nan is drawn too."""
    run = Written(runs_dir)
    run.process([P(1, "train.loss", 2.0), P(2, "train.loss", math.nan), P(3, "train.loss", math.inf)])
    panel = _history(run)[0][0]
    assert panel.crosses == [1.0, 2.0]
    run = Written(runs_dir, "000002")
    run.process([P(1, "train.loss", math.nan), P(2, "train.loss", math.nan)])
    panel = _history(run)[0][0]
    assert panel.drawn == []
    assert panel.crosses == [0.0, 1.0]


def test_a_run_without_points_has_no_panels(runs_dir: Path) -> None:
    """And two sentences: nothing recorded, nothing metered."""
    panels, missing = _history(Written(runs_dir))
    assert panels == []
    assert "No loss and no metric was recorded." in missing


def test_shares_near_one_are_drawn_stretched(runs_dir: Path) -> None:
    """Accuracy from 54 to 99 % is; one from 20 to 60 % is not."""
    assert _history(digits(runs_dir))[0][1].stretch > 0
    run = Written(runs_dir, "000002")
    run.process([*epoch(1, 10, 10, accuracy=0.2), *epoch(2, 20, 10, accuracy=0.6)])
    assert _history(run)[0][0].stretch == 0


def test_accuracy_stands_against_the_energy_spent(runs_dir: Path) -> None:
    """A point an epoch, energy ascending, the best one noted."""
    (panel,), missing = energy_panels(subjects_of(digits(runs_dir).read()), WIDE)
    (drawn,) = panel.drawn
    assert len(drawn.line) == 12
    assert (np.diff(drawn.line.time) > 0).all()
    assert panel.x_label == "kJ spent training"
    assert panel.note is not None
    assert panel.note[2] == "best: 99.04 % with 21.95 kJ"
    assert missing == []


def test_several_runs_share_axes_and_one_key(runs_dir: Path) -> None:
    """Each run is named once; one that was not metered is said to be, and missing from the power panel only."""
    runs = [
        digits(runs_dir, "000001", parameters={"cap": 180}),
        digits(runs_dir, "000002", parameters={"cap": 300}, watts=300),
        digits(runs_dir, "000003", parameters={"cap": "none"}, notes=NO_METERS),
    ]
    subjects = subjects_of([run.read() for run in runs])
    panels, missing = history_panels(subjects, NARROW)
    label_once(panels)
    assert [len(panel.drawn) for panel in panels] == [3, 3, 2]
    assert [drawn.label for panel in panels for drawn in panel.drawn if drawn.label] == [
        "digits cap=180",
        "digits cap=300",
        "digits cap=none",
    ]
    (sentence,) = missing
    assert sentence.startswith("digits cap=none: energy not metered here: nvidia: no NVIDIA driver")
    (panel,), _ = energy_panels(subjects, WIDE)
    assert [drawn.name for drawn in panel.drawn] == ["digits cap=180", "digits cap=300"]


def test_lines_are_told_apart_without_colour(runs_dir: Path) -> None:
    """Of as many runs as one figure takes no two have the same dashes and marker."""
    runs = [digits(runs_dir, f"{number:06}", epochs=2, per_epoch=2).read() for number in range(MOST)]
    (_, panel, _), _ = history_panels(subjects_of(runs), WIDE)
    looks = {(str(drawn.options["linestyle"]), drawn.options["marker"]) for drawn in panel.drawn}
    assert len(looks) == MOST


def test_a_million_points_are_reduced_and_their_extremes_kept(runs_dir: Path) -> None:
    """Two points for each pixel of width at most."""
    count = 1_000_000
    value = np.ones(count)
    value[500_001] = 9.0
    columns = Columns(np.arange(BEGAN, BEGAN + count), value, np.zeros(count, np.uint32), np.zeros(count, np.uint32))
    run = Written(runs_dir)
    run.columns(columns, {0: Series("train.loss")})
    panel = _history(run)[0][0]
    raw = panel.drawn[0].line
    assert len(raw) <= 2 * WIDE.buckets + 2
    assert raw.value.max() == 9.0


def test_a_figure_in_words_has_every_line_with_its_ends_and_extremes(runs_dir: Path) -> None:
    """What is read out in place of the picture."""
    text = described(_history(digits(runs_dir))[0])
    assert text.startswith("3 panels, one beneath the other, over seconds since the start.")
    assert "validation from 2.004 to 0.0343, lowest 0.0343, highest 2.004" in text
    assert "accuracy from 54.1 % to 99.04 %" in text
    assert "Power (W): GPU from" in text
    assert described([]) == ""
