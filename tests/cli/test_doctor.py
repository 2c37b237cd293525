"""``mlops doctor``."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import yaml
from click.testing import Result

Call = Callable[..., Result]


def test_it_shows_each_room_and_ends_with_a_verdict(call: Call, runs_dir: Path) -> None:
    """Devices, runs, packages and settings, each finding marked, and a last line that says whether all works."""
    found = call("doctor", "--device", "host")
    assert found.exit_code == 0, found.stdout
    lines = found.stdout.splitlines()
    rooms = ["devices", "sinks", "runs", "packages", "settings"]
    assert [line for line in lines if line in rooms] == rooms
    assert any(line.startswith("  ✓ host") for line in lines)
    assert any("runs_dir" in line and str(runs_dir) in line and "environment" in line for line in lines)
    assert lines[-1] == "All that is configured works."


def test_what_is_broken_makes_it_fail(call: Call) -> None:
    """A sink that cannot work: a cross, what to do, exit code 1; all of it on stdout, as it was asked for."""
    found = call("doctor", "--device", "none", "--sink", "statsd://nosuch.invalid")
    assert found.exit_code == 1
    assert not found.stderr
    assert "✗ statsd://nosuch.invalid" in found.stdout
    assert "does not work" in found.stdout.splitlines()[-1]


def test_json_and_yaml_are_the_same_examination(call: Call) -> None:
    """Programs get ok, findings, versions, meters and settings."""
    words = ("doctor", "--device", "none", "--sink", "memory:")
    content = json.loads(call(*words, "-o", "json").stdout)
    assert content["ok"] is True
    assert content.keys() == {"ok", "findings", "versions", "system", "meters", "settings"}
    assert {"name", "value", "source", "about"} == content["settings"][0].keys()
    assert yaml.safe_load(call(*words, "-o", "yaml").stdout)["settings"] == content["settings"]
    assert json.loads(call("doctor", "--device", "gpu", "-o", "json").stdout)["ok"] is False


def test_it_keeps_to_the_width(call: Call, runs_dir: Path) -> None:
    """Long reasons are wrapped below their beginning."""
    shown = call("doctor", env={"COLUMNS": "72", "MLOPS_RUNS_DIR": str(runs_dir)}).stdout
    body = shown.partition("\ndevices\n")[2].partition("\nruns\n")[0]
    assert max(map(len, body.splitlines())) <= 72
