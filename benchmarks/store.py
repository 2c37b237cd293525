"""How much disk a point takes, at the pace of real trainings, folded twice a second as it happens.

Three paces, each recorded for some seconds in real time with the host's meters on: a slow one
(two batches a second), a usual one (twenty) and a fast one (two hundred), four series a batch,
with losses of float32 precision.  The size is that of the run's folder, run.json included.  What is
promised is promised of the usual and the fast run: at two batches a second a fold holds half a
dozen points, so that its header and the run's fixed kilobyte and a half weigh more.
"""

from __future__ import annotations

import math
import random
import struct
import tempfile
import time
from pathlib import Path

import mlops
from benchmarks._figures import Figure
from mlops.record import read_run
from mlops.store import open_run

__all__ = ["run"]

SECONDS = 30.0


def run() -> list[Figure]:
    """Record at each pace and divide the folder's size by the number of points read back."""
    paces = {"slow": (2, None), "usual": (20, 20), "fast": (200, 20)}
    return [
        Figure(f"store, {name} run ({pace} batches a second)", _bytes_a_point(pace), "bytes a point", most=most)
        for name, (pace, most) in paces.items()
    ]


def _bytes_a_point(pace: int) -> float:
    generator = random.Random(pace)  # noqa: S311 - no secret
    with tempfile.TemporaryDirectory() as folder:
        with mlops.Run("store", devices=["host"], sinks=[], runs_dir=folder) as opened:
            begin = time.monotonic()
            batch = 0
            while (elapsed := time.monotonic() - begin) < SECONDS:
                loss = _float32(2.3 * math.exp(-elapsed) + generator.gauss(0, 0.05))
                smooth = _float32(2.3 * math.exp(-elapsed))
                rate = 1e-3 * (1 - elapsed / SECONDS)
                opened.log({"train.loss": loss, "train.smooth_loss": smooth, "train.lr": rate})
                opened.log({"train.samples_per_second": 64 * pace + generator.gauss(0, 3)})
                batch += 1
                time.sleep(max(0.0, begin + batch / pace - time.monotonic()))
        points = len(read_run(open_run("last", Path(folder))).columns)
        size = sum(path.stat().st_size for path in opened.dir.iterdir())
        return size / points


def _float32(value: float) -> float:
    return float(struct.unpack("<f", struct.pack("<f", value))[0])
