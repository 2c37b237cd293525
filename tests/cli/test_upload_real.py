"""``mlops upload`` to the real Monasca: clouds that will not do, damage, what a broker lost, a run of two ranks."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pytest

import mlops
from mlops.record import read_run
from mlops.run import JOIN_VARIABLE
from mlops.store import RunFolder
from tests.cli.conftest import MLOPS
from tests.sinks.durable import Row, WrittenRun
from tests.testbed.faults import Fault
from tests.testbed.monasca import SECRET, Monasca

Wait = Callable[..., None]
Process = Callable[..., subprocess.CompletedProcess[str]]

pytestmark = pytest.mark.slow


def _rows(count: int) -> list[Row]:
    return [(number % 3, number * 0.01, float(number)) for number in range(count)]


def _values(monasca: Monasca, run_id: str, *names: str) -> list[float]:
    """Of every point that is there, as often as it is there."""
    return sorted(
        value for name in names for _, rows in monasca.measurements(name, {"run_id": run_id}) for _, value, _ in rows
    )


@pytest.fixture
def process(process: Process) -> Process:
    """As the others' one, with sentences on one line.

    readline, which pytest imports, tells children of 80 columns without Python's knowing.
    """

    def call(*words: str, **options: Any) -> subprocess.CompletedProcess[str]:
        return process(*words, env={name: text for name, text in os.environ.items() if name != "COLUMNS"}, **options)

    return call


METRICS: Final = ("metric.0", "metric.1", "metric.2")


# -- clouds that will not do -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cloud", "code", "said", "remedy"),
    [
        ("testbed-wrong", 4, "Keystone refuses the credentials of cloud 'testbed-wrong'", "wrong, revoked or expired"),
        ("testbed-expired", 4, "Keystone refuses the credentials of cloud 'testbed-expired'", "application credential"),
        ("testbed-norole", 4, "this is a matter of roles", "It grants these roles: visitor. Ask the cloud's operator"),
        ("testbed-readonly", 4, "this is a matter of roles", "It grants these roles: monasca-read-only-user."),
        ("testbed-noendpoint", 2, "has no service of type 'monitoring' (public interface, region RegionTwo)", "region"),
        ("testbd", 2, "There is no cloud 'testbd' in ", "The clouds there: 'testbed', "),
    ],
)
def test_a_cloud_that_will_not_do_says_why_and_costs_nothing(
    monasca: Monasca, runs_dir: Path, process: Process, cloud: str, code: int, said: str, remedy: str
) -> None:
    """Its own words, what to do, its exit code, no traceback and no secret; all points are left for the right one."""
    run = WrittenRun(runs_dir, f"{zlib.crc32(cloud.encode()):08x}")
    run.whole([_rows(30)])
    done = process("upload", "--runs-dir", str(runs_dir), "--to", f"monasca://{cloud}")
    assert done.returncode == code
    *_, what, to_do = done.stderr.splitlines()
    assert what.startswith("error: ")
    assert said in what
    assert remedy in to_do
    assert "Traceback" not in done.stderr
    assert SECRET not in done.stdout + done.stderr
    assert "30 points sent" not in done.stdout
    left = process("upload", "--runs-dir", str(runs_dir), "--to", monasca.url, "--dry-run", "-o", "json")
    nothing = {"sent": 0, "before": 0, "dropped": 0, "refused": 0, "missing": 0, "left": 30}
    assert json.loads(left.stdout)["total"] == nothing
    assert monasca.stored(run.folder.id) == 0
    again = process("upload", "--runs-dir", str(runs_dir), "--to", monasca.url, "--no-confirm")
    assert again.returncode == 0, again.stderr
    assert monasca.wait_stored(run.folder.id, 30) == 30


def test_another_project_is_another_destination(monasca: Monasca, runs_dir: Path, process: Process) -> None:
    """What went to a stranger's project is still to be sent to ours; each has its own, and neither sees the other's."""
    run = WrittenRun(runs_dir, "57a9e5")
    run.whole([_rows(30)])
    for cloud in ("testbed-stranger", "testbed", "testbed-password"):
        done = process("upload", "--runs-dir", str(runs_dir), "--to", f"monasca://{cloud}", "-o", "json")
        assert done.returncode == 0, done.stderr
        total = json.loads(done.stdout)["total"]
        same_project = cloud == "testbed-password"
        assert (total["sent"], total["before"]) == ((0, 30) if same_project else (30, 0))
    for user in ("mini-mon", "stranger"):
        found = monasca.call("GET", "/metrics", user=user, dimensions=f"run_id:{run.folder.id}")["elements"]
        assert sorted(one["name"] for one in found) == [*METRICS, "mlops.run"]


# -- what is damaged or lost on the way --------------------------------------------------------------


def test_of_a_damaged_file_all_good_blocks_arrive(monasca: Monasca, runs_dir: Path, process: Process) -> None:
    """One block of ten is broken: it is named with its place, exit code 1, and the other nine are in the database."""
    run = WrittenRun(runs_dir, "da3a9e")
    rows = _rows(1000)
    path = run.whole([rows[first : first + 100] for first in range(0, 1000, 100)])
    raw = bytearray(path.read_bytes())
    place = -1
    for _ in range(6):  # two blocks of notes, then four of points
        place = raw.index(b"MLPB", place + 1)
    raw[place + 60 : place + 100] = os.urandom(40)
    path.write_bytes(raw)
    done = process("upload", "--runs-dir", str(runs_dir))
    assert done.returncode == 1
    assert f"! {run.folder.id}: {path.name}: " in done.stdout
    assert "are damaged and were passed over" in done.stdout
    assert "error: Not all of 1 run could be sent, for the reasons above" in done.stderr
    assert monasca.wait_stored(run.folder.id, 900) == 900
    good = [value for _, _, value in [*rows[:300], *rows[400:]]]
    assert _values(monasca, run.folder.id, *METRICS) == good


def test_what_the_broker_lost_is_sent_again(new_monasca: Monasca, runs_dir: Path, process: Process) -> None:
    """The API took all, the persister was dead, the broker lost it: the next upload asks, and sends it again."""
    run = WrittenRun(runs_dir, "105700")
    run.whole([_rows(1500)])
    new_monasca.persister.kill()
    first = process("upload", "--runs-dir", str(runs_dir), "--no-confirm")
    assert first.returncode == 0, first.stderr
    assert "1,500 points of 1 run sent" in first.stdout
    new_monasca.restart_broker()
    assert new_monasca.stored(run.folder.id) == 0
    again = process("upload", "--runs-dir", str(runs_dir), timeout=240)
    assert again.returncode == 0, again.stderr
    assert "1,500 points had been taken by the cloud and lost, and were sent again" in again.stdout
    assert "has confirmed that it has all points of 1 run" in again.stdout
    assert new_monasca.stored(run.folder.id) == 1500
    assert _values(new_monasca, run.folder.id, *METRICS) == [float(number) for number in range(1500)]


# -- a run of two ranks ------------------------------------------------------------------------------

RANK: Final = """
import mlops, os
with mlops.Run(devices=[], sinks=[]) as run:
    for number in range(3000):
        run.log({"train.loss": number + 0.5 * run.rank}, step=number)
"""


def _two_ranks(runs_dir: Path) -> RunFolder:
    """A distributed training: an owner that logs a little, and two processes that train."""
    with mlops.Run("digits", devices=[], sinks=[], runs_dir=runs_dir, dimensions={"team": "vision"}) as run:
        environ = {**os.environ, JOIN_VARIABLE: str(run.dir), "WORLD_SIZE": "2", "MLOPS_EVERY_RANK": "1"}
        ranks = [
            subprocess.Popen([sys.executable, "-c", RANK], env={**environ, "RANK": str(rank)}) for rank in range(2)
        ]
        run.log({"valid.loss": 0.25}, step=1)
        assert [rank.wait(120) for rank in ranks] == [0, 0]
    return RunFolder(run.dir)


def test_a_run_of_two_ranks_killed_midway_and_sent_again(
    monasca: Monasca, runs_dir: Path, process: Process, wait_until: Wait
) -> None:
    """Each rank is a series of its own, with every point once under its own step; the run is told of once."""
    folder = _two_ranks(runs_dir)
    total = len(read_run(folder).columns)
    command = [MLOPS, "upload", "--runs-dir", str(runs_dir)]
    monasca.faults.rule = lambda _number, _method, path: Fault.slow(0.3) if path.endswith("/metrics") else None
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as killed:
        wait_until(lambda: monasca.faults.counts["slow"] >= 3)
        killed.send_signal(signal.SIGKILL)
    monasca.faults.clear()
    done = process("upload", "--runs-dir", str(runs_dir), "-o", "json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    (result,) = found["runs"]
    assert found["ok"]
    assert result["confirmed"]
    assert 0 < result["before"] < total == result["sent"] + result["before"]
    assert monasca.stored(folder.id) == total
    series: dict[str, list[list[Any]]] = {}
    for dimensions, rows in monasca.measurements("train.loss", {"run_id": folder.id}):
        assert dimensions["team"] == "vision"
        series.setdefault(dimensions["rank"], []).extend(rows)
    assert series.keys() == {"0", "1"}
    for rank, rows in series.items():
        assert len({text for text, _, _ in rows}) == 3000
        wanted = [(str(number), number + 0.5 * int(rank)) for number in range(3000)]
        assert sorted(((meta["step"], value) for _, value, meta in rows), key=lambda one: one[1]) == wanted
    (about,) = monasca.measurements("mlops.run", {"run_id": folder.id})
    assert len(about[1]) == 1
    assert about[1][0][2]["outcome"] == "finished"


def test_a_run_that_goes_on_is_sent_beside_its_training(monasca: Monasca, runs_dir: Path, process: Process) -> None:
    """Its own sink sends to one cloud, the upload to another project; later the rest, and nothing twice."""
    sinks = [f"{monasca.url}?interval=0.1"]
    with mlops.Run("digits", devices=[], sinks=sinks, runs_dir=runs_dir) as run:
        for number in range(500):
            run.log({"train.loss": float(number)})
        beside = process("upload", "--runs-dir", str(runs_dir), "--to", monasca.url)
        assert beside.returncode == 0, beside.stderr
        assert f"its training (process {os.getpid()} on" in beside.stdout
        elsewhere = process("upload", "--runs-dir", str(runs_dir), "--to", "monasca://testbed-stranger")
        assert elsewhere.returncode == 0, elsewhere.stderr
        assert "its training goes on" in elsewhere.stdout
        for number in range(500, 800):
            run.log({"train.loss": float(number)})
    for cloud in ("testbed", "testbed-stranger"):
        done = process("upload", "--runs-dir", str(runs_dir), "--to", f"monasca://{cloud}", "-o", "json")
        assert done.returncode == 0, done.stderr
        (result,) = json.loads(done.stdout)["runs"]
        assert result["confirmed"]
        assert result["sent"] + result["before"] == len(read_run(RunFolder(run.dir)).columns)
    for user in ("mini-mon", "stranger"):
        values = [
            value
            for _, rows in monasca.measurements("train.loss", {"run_id": run.id}, user=user)
            for _, value, _ in rows
        ]
        assert sorted(values) == [float(number) for number in range(800)]


def test_a_project_of_many_runs_is_sent_by_two_at_once(
    monasca: Monasca, runs_dir: Path, process: Process, wait_until: Wait
) -> None:
    """Two uploads of the same five runs: what one is at the other passes over and names, and all is there once."""
    runs = [WrittenRun(runs_dir, f"{number:06x}") for number in range(0xAB0, 0xAB5)]
    for run in runs:
        run.whole([_rows(1200)])
    monasca.faults.rule = lambda _number, _method, path: Fault.slow(0.2) if path.endswith("/metrics") else None
    first = subprocess.Popen(
        [MLOPS, "upload", "--runs-dir", str(runs_dir)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    wait_until(lambda: monasca.faults.requests)
    second = process("upload", "--runs-dir", str(runs_dir), "-o", "json")
    monasca.faults.clear()
    out, err = first.communicate(timeout=240)
    busy = [one for one in json.loads(second.stdout)["runs"] if one["busy"]]
    assert second.returncode == bool(busy)
    assert first.returncode in {0, 1}, err
    assert busy, out
    assert f"process {first.pid} on" in busy[0]["problems"][0]
    done = process("upload", "--runs-dir", str(runs_dir))
    assert done.returncode == 0, done.stdout
    for run in runs:
        assert monasca.stored(run.folder.id) == 1200
        assert _values(monasca, run.folder.id, *METRICS) == [float(number) for number in range(1200)]
