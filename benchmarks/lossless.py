"""A million points through the real Monasca API on its worst day: what is read back.

A run with eight GPUs' series is recorded, and sent with ``mlops upload`` through a proxy before the
real API (Keystone, monasca-api, persister and InfluxDB behind it).  Meanwhile, one after the other and again
and again: the API answers 401, 422, 429, 500 and 503, hangs, cuts its answers, forgets to answer, answers as
another server would, refuses connections and is killed and started again; its name cannot be resolved; and
the upload itself is killed and started again.  In the end InfluxDB is asked how many there are, past everything
of ours, and they are read back through the API and compared with the store, value by value.
"""

from __future__ import annotations

import contextlib
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final
from unittest import mock

import numpy as np

import mlops
from benchmarks._figures import Figure, table
from mlops.monasca.measurements import Measurements, PatientMonasca
from mlops.record import read_run
from mlops.series import Series
from mlops.settings import Settings
from mlops.store import RunFolder
from tests.testbed.faults import Fault
from tests.testbed.monasca import Monasca

__all__ = ["run"]

POINTS: Final = int(os.environ.get("MLOPS_BENCH_POINTS", "1000000"))
GPUS: Final = 8
PER_GPU: Final = ("power_watts", "energy_joules", "utilisation_percent", "memory_used_bytes", "temperature_celsius")
TRAIN: Final = ("train.loss", "train.smooth_loss", "train.lr")
KILLS: Final = 20
"""Of the upload; then it is let alone, since it waits half a minute before it believes that a point is lost."""
SECONDS: Final = 1800.0
"""After which the upload counts as hung."""

_WITHOUT_NAMES: Final = """
import socket, sys
from pathlib import Path
real, flag = socket.getaddrinfo, Path(sys.argv.pop(1))
def getaddrinfo(*args, **kwargs):
    if flag.exists():
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
    return real(*args, **kwargs)
socket.getaddrinfo = getaddrinfo
from mlops.cli import main
main()
"""


def run() -> list[Figure]:
    """Record, send, count."""
    with tempfile.TemporaryDirectory() as text, Monasca(Path(text) / "monasca", agent=False) as monasca:
        folder = Path(text)
        opened = _record(folder / "runs")
        print(f"recorded {opened.id}: {POINTS} points", flush=True)
        began = time.monotonic()
        weather = _Weather(monasca, folder / "no-names")
        with weather:
            kills = _send(monasca, folder, opened.id)
        seconds = time.monotonic() - began
        arrived = monasca.wait_stored(opened.id, POINTS)
        figures = _judge(monasca, opened, arrived)
        print(table(("what happened", "times"), [(name, str(count)) for name, count in weather.happened(kills)]))
        print(f"{seconds:.0f} s from the first upload to the last")
    return figures


def _record(runs_dir: Path) -> mlops.Run:
    """A run of so many points, as a training would log them, but faster."""
    settings = Settings.load(runs_dir=runs_dir, buffer_points=1 << 18, devices=(), sinks=())
    with mlops.Run("lossless", settings=settings) as opened:
        uuids = [f"GPU-{gpu:08x}-0000-4000-8000-000000000000" for gpu in range(GPUS)]
        put = [opened.series(name) for name in TRAIN]
        put += [opened.series(f"gpu.{name}", {"uuid": uuid}) for uuid in uuids for name in PER_GPU]
        left = POINTS
        while left:
            for log in put[:left]:
                log(float(left))
                left -= 1
            if left % 50_000 < len(put):
                time.sleep(1.0)  # lets the buffer drain: nothing may be dropped here
    assert opened.dropped == 0  # noqa: S101 - else there would be fewer to count
    return opened


class _Weather(contextlib.AbstractContextManager["_Weather"]):
    """Everything that goes wrong, on a thread, until it is left; then the sky is clear."""

    def __init__(self, monasca: Monasca, no_names: Path) -> None:
        self._monasca = monasca
        self._no_names = no_names
        self._random = random.Random(20261123)  # noqa: S311 - the same day each time
        self._over = threading.Event()
        self._counts: Counter[str] = Counter()
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def happened(self, kills: int) -> Iterator[tuple[str, int]]:
        """What, and how often."""
        yield from sorted(self._counts.items())
        yield "upload killed", kills

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _work(self) -> None:
        storms: list[Callable[[], None]] = [
            lambda: self._answers(Fault.answer(401), "401"),
            lambda: self._answers(Fault.answer(422), "422"),
            lambda: self._answers(Fault.answer(500), "500"),
            lambda: self._answers(Fault.answer(503), "503"),
            lambda: self._answers(Fault.answer(429, retry_after="1"), "429, Retry-After: 1"),
            lambda: self._answers(Fault.hang(1.0), "hangs, then is cut"),
            lambda: self._answers(Fault.cut(), "answer cut in the middle"),
            lambda: self._answers(Fault.forget(), "taken, and not answered"),
            lambda: self._answers(Fault.garbage(), "answer of another server"),
            lambda: self._answers(Fault.slow(0.5), "slow"),
            self._refused,
            self._killed,
            self._nameless,
        ]
        while not self._over.wait(self._random.uniform(0.5, 1.5)):
            self._random.choice(storms)()
        self._monasca.faults.clear()

    def _answers(self, fault: Fault, name: str) -> None:
        """Half of all requests, for a while."""
        faults = self._monasca.faults
        faults.rule = lambda _number, _method, _path: fault if self._random.random() < 0.5 else None
        before = sum(faults.counts.values()) - faults.counts["ok"]
        self._over.wait(self._random.uniform(0.5, 2.0))
        faults.rule = lambda _number, _method, _path: None
        self._counts[name] += sum(faults.counts.values()) - faults.counts["ok"] - before

    def _refused(self) -> None:
        self._monasca.faults.go_down()
        self._over.wait(1.0)
        self._monasca.faults.come_up()
        self._counts["connections refused"] += 1

    def _killed(self) -> None:
        self._monasca.api.kill()
        self._over.wait(0.5)
        self._monasca.api.start()
        self._counts["API killed and started"] += 1

    def _nameless(self) -> None:
        self._no_names.touch()
        self._over.wait(1.0)
        self._no_names.unlink()
        self._counts["name vanished"] += 1


def _send(monasca: Monasca, folder: Path, run_id: str) -> int:
    """``mlops upload``, killed and started again until it says that it has done its work; how often it was killed."""
    rng = random.Random(1)  # noqa: S311 - the same day each time
    environ = {**os.environ, **monasca.environ(), "MLOPS_RUNS_DIR": str(folder / "runs")}
    command = [sys.executable, "-c", _WITHOUT_NAMES, str(folder / "no-names"), "upload", run_id, "--to", monasca.url]
    kills = 0
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline:
        with (folder / "upload.log").open("ab") as log:
            upload = subprocess.Popen(command, env=environ, stdout=log, stderr=log)
            try:
                status = upload.wait(rng.uniform(8.0, 20.0) if kills < KILLS else SECONDS)
            except subprocess.TimeoutExpired:
                upload.kill()
                upload.wait()
                kills += 1
                continue
        if status == 0:
            return kills
        print(f"upload ended with {status} and is started again", flush=True)
    raise TimeoutError((folder / "upload.log").read_text()[-2000:])


def _judge(monasca: Monasca, opened: mlops.Run, arrived: int) -> list[Figure]:
    """Count in the database, then read everything back through the API and compare it with the store."""
    record = read_run(RunFolder(opened.dir))
    sent = {_key(series): columns.value for name in record.names() for series, columns in record.find(name)}
    with mock.patch.dict(os.environ, monasca.environ()):
        began = time.monotonic()
        found = Measurements(PatientMonasca.connect("testbed"), {"run_id": opened.id}).read(record.names())
        seconds = time.monotonic() - began
    back: dict[str, np.ndarray[tuple[int], np.dtype[np.float64]]] = {}
    for line in found.lines:
        uuid = line.dimensions.get("uuid")
        back[_key(Series.of(line.name, {"uuid": uuid} if uuid else {}))] = line.value
    distinct = sum(len(np.unique(line.time)) for line in found.lines)
    wrong = sum(not np.array_equal(sent[key], back.get(key, np.empty(0))) for key in sent)
    series = monasca.influx(f"show series where run_id='{opened.id}'")
    listed = {row[0] for group in series for row in group["values"] if not str(row[0]).startswith("mlops.run,")}
    print(f"read back through the API in {seconds:.0f} s")
    return [
        Figure("distinct points read back", distinct, "", least=POINTS),
        Figure("points lost", POINTS - arrived, "", most=0),
        Figure("series whose values are not those recorded, one by one", wrong, "", most=0),
        Figure("series more than were recorded", len(listed) - len(sent), "", most=0),
    ]


def _key(series: Series) -> str:
    return str(series)
