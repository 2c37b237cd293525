"""Points per second into the real Monasca API: our upload beside python-monascaclient, one metric at a time.

Both talk to the same API, in turn, three rounds each, with a token in hand; the median counts.  Ours
goes through the test bed's proxy, which costs it something; the other does not.  The share of the processor is
the client's CPU time in that of the client and the API together.
"""

from __future__ import annotations

import functools
import json
import os
import statistics
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any, Final
from unittest import mock

import mlops
from benchmarks._figures import Figure, table
from mlops.settings import Settings
from mlops.sinks.monasca import MonascaSink
from mlops.store import RunFolder
from mlops.upload import upload
from tests.testbed.environments import environment
from tests.testbed.monasca import SECRET, Monasca
from tests.testbed.monasca.keystone import PROJECT

__all__ = ["run"]

ROUNDS: Final = 3
POINTS: Final = 150_000
ONE_BY_ONE: Final = 400

_CLIENT: Final = """
import json, sys, time
from monascaclient import client
auth_url, endpoint, user, password, project, count, mark = sys.argv[1:]
api = client.Client(
    api_version="2_0", auth_url=auth_url, endpoint=endpoint, username=user, password=password, project_name=project,
    project_domain_name="Default", user_domain_name="Default",
)
def create(number):
    api.metrics.create(name="train.loss", dimensions={"run": "rate", "mark": mark}, value=number + 0.5,
                       timestamp=int(time.time() * 1000))
create(0)
began, busy = time.perf_counter(), time.process_time()
for number in range(int(count)):
    create(number)
print(json.dumps([time.perf_counter() - began, time.process_time() - busy]))
"""


def run() -> list[Figure]:
    """Three rounds of both."""
    ours, theirs, rows = [], [], []
    with (
        tempfile.TemporaryDirectory() as text,
        Monasca(Path(text) / "monasca", agent=False) as monasca,
        mock.patch.dict(os.environ, monasca.environ()),
    ):
        for number in range(ROUNDS):
            folder = Path(text) / f"runs-{number}"
            seconds, busy, api = _measured(monasca, functools.partial(_ours, folder))
            ours.append(POINTS / seconds)
            rows.append(_row("mlops upload", POINTS, seconds, busy, api))
            seconds, busy, api = _measured(monasca, functools.partial(_theirs, monasca, str(number)))
            theirs.append(ONE_BY_ONE / seconds)
            rows.append(_row("python-monascaclient, one by one", ONE_BY_ONE, seconds, busy, api))
    print(table(("client", "points/s", "client's CPU", "API's CPU", "client's share"), rows))
    ratios = [mine / other for mine, other in zip(ours, theirs, strict=True)]
    return [
        Figure("points per second, mlops upload", statistics.median(ours), "/s"),
        Figure("points per second, python-monascaclient", statistics.median(theirs), "/s"),
        Figure("mlops upload over python-monascaclient", statistics.median(ratios), "times", least=10),
    ]


def _ours(runs_dir: Path) -> tuple[float, float]:
    settings = Settings.load(runs_dir=runs_dir, buffer_points=1 << 18, devices=(), sinks=())
    with mlops.Run("rate", settings=settings) as opened:
        put = [opened.series("gpu.power_watts", {"uuid": f"GPU-{number}"}) for number in range(50)]
        for number in range(POINTS // len(put)):
            for log in put:
                log(float(number))
    assert opened.dropped == 0  # noqa: S101 - else there would be fewer to send
    sink = MonascaSink("testbed")
    sink.destination()  # a token is in hand, as with the other
    began, busy = time.perf_counter(), time.process_time()
    (done,) = upload([RunFolder(opened.dir)], sink)
    spent = time.perf_counter() - began, time.process_time() - busy
    assert done.sent == POINTS, done  # noqa: S101 - a rate of points that do not arrive is none
    return spent


def _theirs(monasca: Monasca, mark: str) -> tuple[float, float]:
    python = environment("monascaclient").python
    given = [monasca.keystone_url, monasca.direct_url, "mini-mon", SECRET, PROJECT, str(ONE_BY_ONE), mark]
    done = subprocess.run([python, "-c", _CLIENT, *given], capture_output=True, text=True, timeout=300, check=True)
    seconds, busy = json.loads(done.stdout)
    return seconds, busy


def _measured(monasca: Monasca, call: Any) -> tuple[float, float, float]:
    """Seconds, the client's CPU seconds, and the API's in the meantime."""
    before = _cpu_of(monasca)
    seconds, busy = call()
    return seconds, busy, _cpu_of(monasca) - before


def _cpu_of(monasca: Monasca) -> float:
    """CPU seconds of the API's processes so far."""
    import psutil

    process = psutil.Process(monasca.api.pid)
    times = [one.cpu_times() for one in (process, *process.children(recursive=True))]
    return sum(one.user + one.system for one in times)


def _row(name: str, points: int, seconds: float, busy: float, api: float) -> tuple[str, ...]:
    share = 100 * busy / (busy + api)
    return name, f"{points / seconds:,.0f}", f"{busy:.2f} s", f"{api:.2f} s", f"{share:.0f} %"
