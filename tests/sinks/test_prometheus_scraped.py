"""A real Prometheus asks, and its promtool judges; a real ``mlops run`` answers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mlops.series import METRICS
from mlops.sinks.prometheus import PrometheusSink
from tests.sinks.helpers import Table
from tests.testbed.debian import unpacked
from tests.testbed.processes import Process, free_port, wait_for

pytestmark = pytest.mark.slow

TRAINING = """
import sys, time, mlops
from pathlib import Path
with mlops.Run(devices=[]) as run:
    loss = 1.0
    while not Path("enough").exists():
        loss *= 0.99
        run.log({"train.loss": loss})
        time.sleep(0.05)
"""


class Prometheus:
    """A Prometheus that scrapes one port once a second, until it is closed.

    Attributes:
        programs: the folder of its programs.
    """

    def __init__(self, folder: Path, target: int, say: Callable[[str], None]) -> None:
        self.programs = unpacked("prometheus", say=say) / "usr" / "bin"
        self._port = free_port()
        config = folder / "prometheus.yml"
        scrape = {"job_name": "mlops", "static_configs": [{"targets": [f"127.0.0.1:{target}"]}]}
        config.write_text(json.dumps({"global": {"scrape_interval": "1s"}, "scrape_configs": [scrape]}))
        self._process = Process(
            "prometheus",
            [
                self.programs / "prometheus",
                f"--config.file={config}",
                f"--storage.tsdb.path={folder / 'data'}",
                f"--web.listen-address=127.0.0.1:{self._port}",
            ],
            folder / "prometheus.log",
            self._is_ready,
        )
        self._process.start()

    def ask(self, query: str) -> list[tuple[dict[str, str], float]]:
        """The series that a query gives now, each with its value."""
        answer = self._get(f"/api/v1/query?{urllib.parse.urlencode({'query': query})}")
        return [(series["metric"], float(series["value"][1])) for series in answer["data"]["result"]]

    def problem(self) -> str:
        """What was wrong with the last scrape; empty if nothing was."""
        (target,) = self._get("/api/v1/targets")["data"]["activeTargets"]
        return str(target["lastError"])

    def close(self) -> None:
        """End it."""
        self._process.stop()

    def _is_ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self._port}/-/ready"):
                return True
        except OSError:
            return False

    def _get(self, path: str) -> Any:
        with urllib.request.urlopen(f"http://127.0.0.1:{self._port}{path}", timeout=10) as answer:
            return json.load(answer)


@pytest.fixture
def port() -> int:
    """Where the training shall listen."""
    return free_port()


@pytest.fixture
def prometheus(tmp_path: Path, port: int, say: Callable[[str], None]) -> Iterator[Prometheus]:
    """A Prometheus that asks there."""
    running = Prometheus(tmp_path, port, say)
    yield running
    running.close()


def test_a_command_and_its_training_are_scraped_at_one_port(prometheus: Prometheus, port: int, tmp_path: Path) -> None:
    """Under ``mlops run`` Prometheus has the devices' and the training's series from one place, until the run ends."""
    script = tmp_path / "train.py"
    script.write_text(TRAINING)
    program = str(Path(sys.executable).with_name("mlops"))
    command = [program, "run", "--name", "digits", "--sink", f"prometheus://127.0.0.1:{port}"]
    with subprocess.Popen(
        [*command, "--device", "host", "--", sys.executable, str(script)],
        env={**os.environ, "MLOPS_DIMENSIONS": "team=vision"},
        stderr=subprocess.PIPE,
        text=True,
    ) as running:
        try:
            wait_for(lambda: prometheus.ask("mlops_train_loss"), 60, "the training's series were scraped")
            wait_for(lambda: prometheus.ask("mlops_host_cpu_ratio"), 60, "the devices' series were scraped")
            wait_for(lambda: prometheus.ask("changes(mlops_train_loss[1m]) > 2"), 60, "the loss changes")
            ((labels, loss),) = prometheus.ask("mlops_train_loss * on (run) group_left (run_id) mlops_run_info")
            assert 0 < loss < 1
            assert (labels["run"], labels["team"]) == ("digits", "vision")
            assert labels["run_id"] in {path.name for path in (tmp_path / "runs").iterdir()}
            assert prometheus.problem() == ""
        finally:
            (tmp_path / "enough").touch()
            assert running.stderr is not None
            said = running.stderr.read()
    assert running.returncode == 0, said
    assert "prometheus" not in said, "whoever joins has nothing to complain of"
    wait_for(lambda: not prometheus.ask("mlops_train_loss"), 60, "the series ended with the run")


def test_promtool_finds_nothing_to_complain_of(prometheus: Prometheus, port: int) -> None:
    """Every name that mlops sends keeps to the conventions that promtool checks."""
    sink = PrometheusSink("127.0.0.1", port)
    sink.write(Table().points(*((name, 1.0) for name in METRICS)))
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
        page = answer.read()
    sink.close(1.0)
    done = subprocess.run(
        [prometheus.programs / "promtool", "check", "metrics"], input=page, capture_output=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
