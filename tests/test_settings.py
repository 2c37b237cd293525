"""Settings: which source wins, and what is said of one that cannot be understood."""

from __future__ import annotations

from pathlib import Path

import pytest

from mlops.errors import SeriesError, SettingsError
from mlops.settings import ABOUT, Settings


def test_the_order_of_sources(tmp_path: Path) -> None:
    """Argument, environment, the project's file, the user's file, default: the first that names it wins."""
    user = tmp_path / "config" / "mlops"
    user.mkdir(parents=True)
    (user / "mlops.toml").write_text('name = "user"\nstatsd_seconds = 30\nsample-seconds = 2.5\nruns_dir = "/user"')
    project = tmp_path / "project"
    (project / "deep" / "down").mkdir(parents=True)
    (project / "mlops.toml").write_text('name = "project"\nstatsd_seconds = 40\nsinks = ["memory:"]')
    environ = {"HOME": "/nowhere", "MLOPS_NAME": "environment", "MLOPS_STATSD_SECONDS": "50"}
    settings = Settings.load(environ=environ, folder=project / "deep" / "down", name="argument", sinks=None)
    assert settings.name == "argument"
    assert settings.statsd_seconds == 50
    assert settings.sinks == ("memory:",)
    assert settings.sample_seconds == 2.5
    assert settings.fold_seconds == 0.5
    assert settings.sources["name"] == "argument"
    assert settings.sources["statsd_seconds"] == "environment"
    assert settings.sources["sinks"] == str(project / "mlops.toml")
    assert settings.sources["sample_seconds"] == str(user / "mlops.toml")
    assert settings.sources["fold_seconds"] == "default"


def test_lists_and_pairs_from_the_environment() -> None:
    """Lists are separated by commas, dimensions are pairs; an empty list means none at all."""
    environ = {
        "MLOPS_SINKS": "statsd://a:1, memory:",
        "MLOPS_DEVICES": "",
        "MLOPS_DIMENSIONS": "team=vision, site = north",
        "MLOPS_RUNS_DIR": "~/runs",
        "MLOPS_UNKNOWN": "is nobody's business here",
    }
    settings = Settings.load(environ=environ)
    assert settings.sinks == ("statsd://a:1", "memory:")
    assert settings.devices == ()
    assert settings.dimensions == {"team": "vision", "site": "north"}
    assert settings.runs_dir == Path.home() / "runs"


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("SAMPLE_SECONDS", "often", "MLOPS_SAMPLE_SECONDS is 'often'.*from 0.05 to 3600"),
        ("SAMPLE_SECONDS", "0", "outside 0.05 to 3600"),
        ("SAMPLE_SECONDS", "nan", "outside"),
        ("BUFFER_POINTS", "12.5", "MLOPS_BUFFER_POINTS is '12.5'.*whole number"),
        ("BUFFER_POINTS", "7", "outside 1024 to 16777216"),
        ("DIMENSIONS", "team", "has no '='.*team=vision"),
        ("RUNS_DIR", "~no-such-user-here/x", "MLOPS_RUNS_DIR is '~no-such-user-here/x'"),
        ("RUNS_DIR", "", "MLOPS_RUNS_DIR is ''.*the path of a folder"),
    ],
)
def test_a_bad_value_is_named_with_its_variable_and_what_is_expected(name: str, value: str, message: str) -> None:
    """The message says which variable, its value, and what it must be."""
    with pytest.raises(SettingsError, match=message):
        Settings.load(environ={f"MLOPS_{name}": value})


def test_a_bad_dimension_in_the_environment_names_the_variable() -> None:
    """Monasca's rules hold for settings too."""
    with pytest.raises(SeriesError, match=r"MLOPS_DIMENSIONS: the value 'a;b' of 'team'"):
        Settings.load(environ={"MLOPS_DIMENSIONS": "team=a;b"})


def test_a_file_that_is_no_toml_or_names_an_unknown_setting_is_refused(tmp_path: Path) -> None:
    """The message names the file."""
    path = tmp_path / "mlops.toml"
    path.write_text("runs_dir = ")
    with pytest.raises(SettingsError, match=r"Cannot read .*mlops\.toml"):
        Settings.load(environ={}, folder=tmp_path)
    path.write_text("run_dir = 'runs'")
    with pytest.raises(SettingsError, match=r"no setting 'run_dir' \(.*mlops\.toml\).*runs_dir"):
        Settings.load(environ={}, folder=tmp_path)


def test_a_configuration_folder_of_somebody_elses_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a container HOME may belong to another user; that is no reason to stop a training."""
    real = Path.is_file

    def forbidden(path: Path) -> bool:
        if "config" in path.parts:
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(Path, "is_file", forbidden)
    assert Settings.load(environ={"HOME": "/root"}).name == ""


def test_every_setting_is_explained_and_listed() -> None:
    """The rows that doctor prints cover every field, with its value, source and meaning."""
    rows = Settings.load(environ={}).rows()
    assert [row[0] for row in rows] == list(ABOUT)
    assert {field for field in Settings.__slots__ if field != "sources"} == set(ABOUT)
    assert ("devices", "nvidia,host", "default") in [row[:3] for row in rows]
