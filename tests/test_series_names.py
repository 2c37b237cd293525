"""Names elsewhere: what a metric is called in Prometheus and in TensorBoard."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlops.errors import SeriesError
from mlops.series import METRICS, Series, exposed, mend_name, tag

BASE_UNITS = {"watts", "joules", "bytes", "celsius", "hertz", "seconds", "ratio"}


@pytest.mark.parametrize(
    ("name", "there", "kind", "divisor"),
    [
        ("train.loss", "mlops_train_loss", "gauge", 1.0),
        ("gpu.power_watts", "mlops_gpu_power_watts", "gauge", 1.0),
        ("gpu.energy_joules", "mlops_gpu_energy_joules_total", "counter", 1.0),
        ("train.epoch_energy_joules", "mlops_train_epoch_energy_joules", "gauge", 1.0),
        ("gpu.utilisation_percent", "mlops_gpu_utilisation_ratio", "gauge", 100.0),
        ("host.cpu_percent", "mlops_host_cpu_ratio", "gauge", 100.0),
        ("mlops.not_finite_points", "mlops_not_finite_points_total", "counter", 1.0),
        ("valid.top-5", "mlops_valid_top_5", "gauge", 1.0),
        ("valid.share_percent", "mlops_valid_share_percent", "gauge", 1.0),
    ],
)
def test_names_in_prometheus(name: str, there: str, kind: str, divisor: float) -> None:
    """Base units, ``_total`` for what is counted, ratios for per cents; a user's own metrics keep their scale."""
    found = exposed(name)
    assert (found.name, found.kind, found.divisor) == (there, kind, divisor)


@pytest.mark.parametrize("name", sorted(METRICS))
def test_every_name_of_ours_keeps_to_the_conventions_of_prometheus(name: str) -> None:
    """The unit ends the name, before ``_total``; only counters have that; no unit of ours is without its word."""
    found = exposed(name)
    assert re.fullmatch("mlops(_[a-z0-9]+)+", found.name)
    assert found.name.endswith("_total") == (found.kind == "counter") == METRICS[name].counter
    assert found.name.removesuffix("_total").endswith(found.unit)
    assert found.unit in BASE_UNITS or METRICS[name].unit in {"", "/s"}
    assert name in found.help


def test_no_two_names_of_ours_are_one_in_prometheus() -> None:
    """Whoever asks Prometheus for one of them gets that one."""
    assert len({exposed(name).name for name in METRICS}) == len(METRICS)


@given(st.text(max_size=300))
def test_any_metric_has_a_name_in_prometheus(text: str) -> None:
    """Whatever a metric may be called comes to a name that Prometheus takes."""
    try:
        name = mend_name(text)
    except SeriesError:
        return
    assert re.fullmatch("mlops_[a-zA-Z0-9_]+", exposed(name).name)


def test_tags_fold_at_slashes_and_tell_two_gpus_apart() -> None:
    """In TensorBoard a metric stands with its family, and its dimensions are part of its name, in their order."""
    assert tag(Series.of("train.loss")) == "train/loss"
    assert tag(Series.of("gpu.power_watts", {"uuid": "GPU-1"})) == "gpu/power_watts/uuid=GPU-1"
    assert tag(Series.of("a.b", {"z": "1", "y": "2"})) == tag(Series.of("a.b", {"y": "2", "z": "1"})) == "a/b/y=2,z=1"
