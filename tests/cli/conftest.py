"""What the tests of the command line share: the command itself, in this process and as its own, and runs to read."""

from __future__ import annotations

import logging
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

import mlops
from mlops.cli import cli

MLOPS = str(Path(sys.executable).with_name("mlops"))
"""The installed command, as users call it."""


@pytest.fixture(autouse=True)
def logging_untouched() -> Iterator[None]:
    """The command line's own log handler does not outlive the test."""
    logger = logging.getLogger("mlops")
    handlers, level = list(logger.handlers), logger.level
    yield
    logger.handlers[:] = handlers
    logger.setLevel(level)


@pytest.fixture
def call(runs_dir: Path) -> Callable[..., Result]:
    """Call ``mlops`` in this process; ``stdout``, ``stderr`` and ``exit_code`` tell how it went."""

    def invoke(*words: str, **options: Any) -> Result:
        env = options.pop("env", {"MLOPS_RUNS_DIR": str(runs_dir)})
        options["env"] = {"COLUMNS": None, **env}  # whoever calls pytest may have set it
        return CliRunner().invoke(cli, list(words), prog_name="mlops", **options)

    return invoke


@pytest.fixture
def process(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Call ``mlops`` as a process of its own."""

    def run(*words: str, **options: Any) -> subprocess.CompletedProcess[str]:
        given: dict[str, Any] = {"cwd": tmp_path, "timeout": 120, "check": False, "text": True, **options}
        if "stdout" not in given:
            given.update(stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        done: subprocess.CompletedProcess[str] = subprocess.run([MLOPS, *words], **given)  # noqa: PLW1510 - given
        return done

    return run


@pytest.fixture
def recorded(runs_dir: Path) -> Callable[..., Path]:
    """Record a small run of a name; its folder."""

    def record(name: str = "digits", *, epochs: int = 3, outcome: str = "finished") -> Path:
        run = mlops.Run(name, dimensions={"team": "vision"}, devices=[], runs_dir=runs_dir)
        for epoch in range(1, epochs + 1):
            for batch in range(4):
                run.log({"train.loss": 1.0 / (epoch + batch)})
            run.end_epoch({"valid.loss": 0.5 / epoch, "valid.accuracy": 1 - 0.4 / epoch}, seconds=0.5)
        run.close(outcome, "" if outcome == "finished" else "it was told to")
        return run.dir

    return record
