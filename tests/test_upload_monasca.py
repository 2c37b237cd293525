"""Uploads to the real Monasca: killed, two at once, refused, and what has arrived in the end."""

from __future__ import annotations

import contextlib
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

import mlops
from mlops.errors import SinkUnavailableError
from mlops.record import read_run
from mlops.sinks import open_sink
from mlops.store import RunFolder, list_runs
from mlops.upload import Progress, upload
from tests.testbed.faults import Fault
from tests.testbed.monasca import SECRET, Monasca

Wait = Callable[[Callable[[], object]], None]

pytestmark = pytest.mark.slow


def _sink() -> Any:
    return open_sink("monasca:")


def _record(runs_dir: Path, points: int, **options: Any) -> Path:
    with mlops.Run("digits", devices=[], sinks=[], runs_dir=runs_dir, **options) as run:
        for number in range(points):
            run.log({"train.loss": 1.0 / (number + 1)})
    return run.dir


UPLOAD = [str(Path(sys.executable).with_name("mlops")), "upload", "--no-confirm"]


def test_what_a_killed_process_left_in_its_buffer_arrives(monasca: Monasca, runs_dir: Path) -> None:
    """A real trainer is killed in the midst of logging: what it left in its buffer is read back from the API."""
    code = (
        "import mlops, os, signal, sys\n"
        "run = mlops.Run('digits', devices=[], sinks=[], runs_dir=sys.argv[1])\n"
        "for number in range(5000): run.log({'train.loss': float(number)})\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    subprocess.run([sys.executable, "-c", code, str(runs_dir)], check=False, timeout=60)
    (folder,) = list_runs(runs_dir)
    assert list(folder.path.glob("*.ring"))
    (result,) = upload([folder], _sink())
    assert (result.sent, result.confirmed, result.problems) == (5000, True, [])
    found = [
        (round(moment * 1000), value)
        for _, rows in monasca.measurements("train.loss", {"run_id": folder.id})
        for moment, value, _ in _parsed(rows)
    ]
    assert sorted(value for _, value in found) == [float(number) for number in range(5000)]
    assert len({moment for moment, _ in found}) == 5000


def _parsed(rows: list[list[Any]]) -> Iterator[tuple[float, float, Any]]:
    for text, value, meta in rows:
        yield datetime.fromisoformat(text).timestamp(), value, meta


def test_killed_again_and_again_it_sends_everything_once(monasca: Monasca, runs_dir: Path) -> None:
    """``mlops upload`` is killed at random moments while the API has bad days; nothing is lost, no series doubled."""
    folder = RunFolder(_record(runs_dir, 12_000))
    luck = random.Random(3)  # noqa: S311 - which day is bad
    faults = [Fault.answer(503), Fault.answer(429, retry_after="0.2"), Fault.cut(), Fault.forget(), Fault.answer(500)]
    monasca.faults.rule = lambda number, _method, path: (
        luck.choice(faults) if number % 4 == 1 and path.endswith("/metrics") else None
    )
    kills = 0
    for _ in range(6):
        process = subprocess.Popen([*UPLOAD, "--runs-dir", str(runs_dir)], stderr=subprocess.DEVNULL)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(luck.uniform(0.8, 3.0))
        if process.poll() is not None:
            break
        process.send_signal(signal.SIGKILL)
        process.wait()
        kills += 1
    monasca.faults.clear()
    subprocess.run([*UPLOAD, "--runs-dir", str(runs_dir)], check=True, timeout=120)
    assert kills > 0
    assert monasca.wait_stored(folder.id, 12_000) == 12_000
    listed = monasca.call("GET", "/metrics", name="train.loss", dimensions=f"run_id:{folder.id}")["elements"]
    assert len(listed) == 1


def test_two_uploads_at_once(monasca: Monasca, runs_dir: Path, wait_until: Wait) -> None:
    """Two real processes: the second is told who is at it, exits with 1 and sends nothing twice."""
    folder = RunFolder(_record(runs_dir, 20_000))
    monasca.faults.rule = lambda _number, _method, path: Fault.slow(0.3) if path.endswith("/metrics") else None
    first = subprocess.Popen([*UPLOAD, "--runs-dir", str(runs_dir)], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    wait_until(lambda: monasca.faults.requests)
    second = subprocess.run(
        [*UPLOAD, "--runs-dir", str(runs_dir)], capture_output=True, text=True, timeout=60, check=False
    )
    assert second.returncode == 1
    assert f"process {first.pid} on" in second.stdout
    assert "Not all of 1 run could be sent, for the reasons above" in second.stderr
    monasca.faults.clear()
    assert first.communicate(timeout=120) is not None
    assert first.returncode == 0
    assert monasca.wait_stored(folder.id, 20_000) == 20_000


def test_a_role_that_may_not_send(monasca: Monasca, runs_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Exit code 4, the roles and which to ask for; with the right cloud it goes on, and no secret is written down."""
    folder = RunFolder(_record(runs_dir, 100))
    monkeypatch.setenv("OS_CLOUD", "testbed-norole")
    done = subprocess.run(
        [*UPLOAD, "--runs-dir", str(runs_dir)], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 4
    assert "It grants these roles: visitor" in done.stderr
    monkeypatch.setenv("OS_CLOUD", "testbed")
    again = subprocess.run(
        [*UPLOAD, "--runs-dir", str(runs_dir)], capture_output=True, text=True, timeout=60, check=True
    )
    assert monasca.wait_stored(folder.id, 100) == 100
    written = b" ".join(path.read_bytes() for path in folder.path.iterdir())
    assert SECRET not in f"{done.stdout}{done.stderr}{again.stdout}{again.stderr}"
    assert SECRET.encode() not in written
    assert {path.stat().st_mode & 0o777 for path in folder.path.iterdir()} == {0o600}


def test_an_api_that_refuses_everything_loses_nothing(monasca: Monasca, runs_dir: Path) -> None:
    """422 to everything is its own trouble: no point is given up, and later all arrive."""
    folder = RunFolder(_record(runs_dir, 500))
    monasca.faults.rule = lambda _number, _method, path: Fault.answer(422) if path.endswith("/metrics") else None
    with pytest.raises(SinkUnavailableError, match="refuses everything, also what it must take"):
        upload([folder], _sink(), patience=2.0)
    monasca.faults.clear()
    (result,) = upload([folder], _sink())
    assert (result.sent, result.dropped) == (500, 0)
    assert monasca.wait_stored(folder.id, 500) == 500


def test_a_name_that_vanishes(monasca: Monasca, runs_dir: Path) -> None:
    """The API is gone and comes back: waited for, or given up with what it was."""
    folder = RunFolder(_record(runs_dir, 500))
    monasca.faults.go_down()
    with pytest.raises(SinkUnavailableError, match="cannot be reached: Connection refused"):
        upload([folder], _sink(), patience=1.0)
    told: list[Progress] = []

    def back(progress: Progress) -> None:
        told.append(progress)
        if progress.trouble:
            monasca.faults.come_up()

    (result,) = upload([folder], _sink(), on_progress=back)
    assert result.sent == 500
    assert any("Connection refused" in one.trouble for one in told)


def test_points_of_another_century_do_not_hold_up_the_others(monasca: Monasca, runs_dir: Path) -> None:
    """1901, 2200 and 1e30 seconds: what Monasca can keep is there under its time, the rest counted."""
    with mlops.Run("digits", devices=[], sinks=[], runs_dir=runs_dir) as run:
        for moment in (-2_177_452_800.0, 7_258_118_400.0, 1e30, time.time(), float("nan")):
            run.log({"odd.time": 1.0}, time=moment)
    (result,) = upload([RunFolder(run.dir)], _sink())
    assert (result.sent, result.dropped, result.refused) == (2, 3, 0)
    assert monasca.wait_stored(run.id, 2) == 2
    assert len(read_run(RunFolder(run.dir)).columns) == 5
