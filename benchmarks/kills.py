"""A hundred times ``kill -9`` of the trainer, at random moments: what of its points is read back.

The trainer is a process of its own that logs numbers one after the other, sends them live to the real
Monasca API, and notes in shared memory each number that ``log`` has taken.  It is killed at a random moment,
also while it starts (a kill before there is a run is made up for); then the store is read, and what is left
is uploaded.  Read back through the API, every number that was taken must be there.
"""

from __future__ import annotations

import mmap
import os
import random
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Final
from unittest import mock

import numpy as np

from benchmarks._figures import Figure
from mlops.monasca.measurements import Measurements, PatientMonasca
from mlops.record import read_run
from mlops.sinks.monasca import MonascaSink
from mlops.store import RunFolder, list_runs
from mlops.upload import upload
from tests.testbed.monasca import Monasca

__all__ = ["run"]

KILLS: Final = int(os.environ.get("MLOPS_BENCH_KILLS", "100"))
LONGEST: Final = 6.0
"""Seconds from its first number to the kill, at the most; from the start of its process for the early ones."""
EARLY: Final = 0.25
"""Share of kills that do not wait for a first number."""

_TRAINER: Final = """
import mmap, struct, sys, time
import mlops
with open(sys.argv[1], "r+b") as file:
    taken = mmap.mmap(file.fileno(), 8)
with mlops.Run("killed", devices=[]) as run:
    number = 0
    while True:
        number += 1
        run.log({"train.loss": float(number)})
        struct.pack_into("<q", taken, 0, number)
        if number % 20 == 0:
            time.sleep(0.01)
"""


def run() -> list[Figure]:
    """Kill, read, upload, read back."""
    rng = random.Random(20261123)  # noqa: S311 - the same moments each time
    kills = unreadable = incomplete = 0
    taken: dict[str, int] = {}
    with tempfile.TemporaryDirectory() as text, Monasca(Path(text) / "monasca", agent=False) as monasca:
        with mock.patch.dict(os.environ, monasca.environ()):
            runs_dir = Path(text) / "runs"
            while len(taken) < KILLS:
                kills += 1
                early = rng.random() < EARLY
                count = _train(runs_dir, monasca.url, Path(text) / "taken", rng.uniform(0.0, LONGEST), early=early)
                for folder in list_runs(runs_dir):
                    if folder.id not in taken:
                        taken[folder.id] = count
                        unreadable += not _reads(folder, count)
            runs = list_runs(runs_dir)
            done = upload(runs, MonascaSink("testbed"))
            incomplete = sum(bool(one.busy or one.problems) for one in done)
            stored = sum(one.sent + one.before for one in done)
            missing = sum(_missing(monasca, folder, taken[folder.id]) for folder in runs)
        print(
            f"{kills} kills, {kills - len(runs)} of them before there was a run; "
            f"{sum(taken.values())} numbers taken, {stored} points sent in all, "
            f"{sum(one.before for one in done)} of them live"
        )
    return [
        Figure("runs killed", len(runs), "", least=KILLS),
        Figure("stores that did not read", unreadable, "", most=0),
        Figure("uploads that did not complete", incomplete, "", most=0),
        Figure("points accepted and missing", missing, "", most=0),
    ]


def _train(runs_dir: Path, url: str, shared: Path, seconds: float, *, early: bool) -> int:
    """Train, and kill after so many seconds; the last number taken."""
    shared.write_bytes(bytes(8))
    environ = {**os.environ, "MLOPS_RUNS_DIR": str(runs_dir), "MLOPS_SINKS": f"{url}?interval=0.3"}
    with shared.open("r+b") as file, mmap.mmap(file.fileno(), 8) as memory:
        trainer = subprocess.Popen([sys.executable, "-c", _TRAINER, str(shared)], env=environ)
        deadline = time.monotonic() + 60
        while not early and memory[:8] == bytes(8) and time.monotonic() < deadline:
            time.sleep(0.001)
        time.sleep(seconds)
        trainer.kill()
        trainer.wait()
        return int(struct.unpack("<q", memory[:8])[0])


def _reads(folder: RunFolder, count: int) -> bool:
    """Whether the store has every number that was taken, at most one more, and says no gap."""
    record = read_run(folder)
    values = np.concatenate([columns.value for _, columns in record.find("train.loss")] or [np.empty(0)])
    return not record.gaps and np.array_equal(values, np.arange(1.0, len(values) + 1)) and 0 <= len(values) - count <= 1


def _missing(monasca: Monasca, folder: RunFolder, count: int) -> int:
    monasca.wait_stored(folder.id, count)
    lines = Measurements(PatientMonasca.connect("testbed"), {"run_id": folder.id}).read(["train.loss"]).lines
    there = {value for line in lines for value in line.value.tolist()}
    return count - sum(float(number) in there for number in range(1, count + 1))
