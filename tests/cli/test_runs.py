"""``mlops runs``."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from click.testing import Result

Call = Callable[..., Result]
Record = Callable[..., Path]


def test_no_runs_is_said_and_no_error(call: Call, runs_dir: Path) -> None:
    """An absent folder has no runs; programs get an empty list."""
    assert call("runs").stdout == f"No runs in {runs_dir}.\n"
    assert json.loads(call("runs", "-o", "json").stdout) == []
    assert call("runs", "-o", "name").stdout == ""
    assert call("runs").exit_code == 0


def test_the_table_lists_them_the_newest_last(call: Call, recorded: Record) -> None:
    """Name, start, time taken, outcome and id, a line each; ``wide`` has more."""
    first, second = recorded("base"), recorded("tuned", outcome="failed")
    head, one, two = call("runs").stdout.splitlines()
    assert head.split() == ["NAME", "STARTED", "TOOK", "OUTCOME", "RUN"]
    assert one.split()[0] == "base"
    assert one.endswith(f"finished  {first.name}")
    assert two.endswith(f"failed    {second.name}")
    wide = call("runs", "-o", "wide").stdout
    assert "team=vision" in wide
    assert "it was told to" in wide


def test_json_and_yaml_are_what_run_json_says(call: Call, recorded: Record) -> None:
    """Every field, numbers as numbers, with the folder and the seconds taken; both formats alike."""
    folder = recorded()
    (run,) = json.loads(call("runs", "-o", "json").stdout)
    assert run["id"] == folder.name
    assert run["path"] == str(folder)
    assert run["outcome"] == "finished"
    assert run["dimensions"] == {"team": "vision"}
    assert run["seconds"] == pytest.approx(run["ended"] - run["started"])
    assert yaml.safe_load(call("runs", "-o", "yaml").stdout) == [run]
    assert call("runs", "-o", "name").stdout == f"{folder.name}\n"


def test_a_name_and_a_limit_choose(call: Call, recorded: Record) -> None:
    """``--name`` keeps the runs of that name, ``-n`` the newest ones."""
    recorded("base")
    kept = [recorded("tuned").name for _ in range(3)]
    assert sorted(call("runs", "--name", "tuned", "-o", "name").stdout.split()) == sorted(kept)
    assert call("runs", "-n", "2", "-o", "name").stdout.split() == kept[1:]
    assert call("runs", "-n", "0").exit_code == 2
    assert "No runs named 'other'" in call("runs", "--name", "other").stdout


def test_one_unreadable_run_does_not_hide_the_others(call: Call, recorded: Record) -> None:
    """A damaged run.json is listed as what it is."""
    recorded("base")
    broken = recorded("tuned")
    (broken / "run.json").write_text("{")
    listed = {run["name"]: run for run in json.loads(call("runs", "-o", "json").stdout)}
    assert listed["base"]["outcome"] == "finished"
    assert listed["tuned"]["outcome"] == "unreadable"
    assert "run.json" in listed["tuned"]["reason"]
    assert "unreadable" in call("runs").stdout


def test_a_narrow_terminal_cuts_the_last_column(call: Call, recorded: Record, runs_dir: Path) -> None:
    """COLUMNS bounds each line of a table, and a pipe does not."""
    run = recorded("a-name")
    narrow = call("runs", env={"COLUMNS": "60", "MLOPS_RUNS_DIR": str(runs_dir)}).stdout
    assert max(map(len, narrow.splitlines())) <= 60
    assert "…" in narrow
    assert run.name in call("runs").stdout


def test_an_option_comes_before_the_environment(call: Call, recorded: Record, tmp_path: Path) -> None:
    """``--runs-dir`` beats MLOPS_RUNS_DIR."""
    recorded()
    assert "No runs in" in call("runs", "--runs-dir", str(tmp_path / "other")).stdout
