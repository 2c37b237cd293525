"""Ten million points: what logging them leaves in memory, and how soon they are a table.

One process logs them as fast as they are folded (2,500,000 batches of four series, in 50 epochs) and looks at its own
memory.  Then rounds of two fresh processes take turns: one reads the run and makes the table per epoch, one reads the
same numbers with pandas from JSON lines as people write them, a line a batch, and takes the means by epoch.  Both are
timed from their first byte to their last number, imports left out.
"""

from __future__ import annotations

import json
import math
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Final

import mlops
from benchmarks._figures import Figure, table
from mlops.record import read_run
from mlops.settings import Settings
from mlops.store import open_run

__all__ = ["run"]

EPOCHS: Final = 50
BATCHES: Final = 50_000
NAMES: Final = ("train.loss", "train.smooth_loss", "train.lr", "train.samples_per_second")
POINTS: Final = EPOCHS * BATCHES * len(NAMES)
ROUNDS: Final = 3
SETTLED: Final = 5
"""Epochs after which memory has what it needs: a million points."""

OURS: Final = """
import sys, time
from pathlib import Path
from mlops.record import read_run
from mlops.report.tables import epochs
from mlops.store import open_run
begin = time.perf_counter()
rows = epochs(read_run(open_run("last", Path(sys.argv[1])))).rows
print(time.perf_counter() - begin, len(rows), rows[-1].train_loss)
"""

THEIRS: Final = """
import sys, time
import pandas as pd
begin = time.perf_counter()
frame = pd.read_json(sys.argv[1], lines=True)
rows = frame.groupby("epoch")["train.loss"].mean()
print(time.perf_counter() - begin, len(rows), rows.iloc[-1])
"""


def run() -> list[Figure]:
    """Log, look at the memory, read."""
    with tempfile.TemporaryDirectory() as name:
        runs_dir, lines = Path(name) / "runs", Path(name) / "batches.jsonl"
        settled, grown, dropped = _log(runs_dir)
        _write_lines(runs_dir, lines)
        ours: list[float] = []
        theirs: list[float] = []
        answers = set()
        for _ in range(ROUNDS):
            for code, path, found in ((OURS, runs_dir, ours), (THEIRS, lines, theirs)):
                seconds, rows, last = _timed(code, path)
                found.append(seconds)
                answers.add((rows, f"{last:.9g}"))
    times = [
        ("mlops, the table per epoch", f"{statistics.median(ours):.2f}"),
        ("pandas, JSON lines, means by epoch", f"{statistics.median(theirs):.2f}"),
    ]
    print(table((f"{POINTS:,} points read", "s, median"), times))
    ratio = statistics.median(their / our for our, their in zip(ours, theirs, strict=True))
    return [
        Figure("memory after 1,000,000 points", settled, "MiB"),
        Figure("memory that 9,000,000 points more have taken", grown, "MiB", most=2),
        Figure("points dropped", dropped, "", most=0),
        Figure("answers that differ", len(answers) - 1, "", most=0),
        Figure("ten million points to the table per epoch", statistics.median(ours), "s", most=2),
        Figure("pandas on JSON lines over that", ratio, "times", least=10),
    ]


def _log(runs_dir: Path) -> tuple[float, float, int]:
    """MiB in use after a million points, MiB more at the end, and points dropped."""
    settings = Settings.load(runs_dir=runs_dir, devices=(), sinks=())
    with mlops.Run("ten-million", settings=settings) as opened:
        loss, smooth, lr, rate = (opened.series(name) for name in NAMES)
        settled = 0.0
        for epoch in range(1, EPOCHS + 1):
            for batch in range(BATCHES):
                value = 1 / epoch + math.sin(batch) / 10
                loss(value)
                smooth(1 / epoch)
                lr(1e-3 / epoch)
                rate(6400.0 + batch % 7)
                if not batch % 2048:
                    time.sleep(0.005)  # the thread that folds gets a core of its own in a training
            opened.end_epoch({"valid.loss": 1 / epoch}, seconds=1.0)
            if epoch == SETTLED:
                settled = _memory()
        return settled, _memory() - settled, opened.dropped


def _memory() -> float:
    """MiB of this process that are its own: without files that are mapped, the buffer among them."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(status["RssAnon"].split()[0]) / 1024


def _write_lines(runs_dir: Path, path: Path) -> None:
    record = read_run(open_run("last", runs_dir))
    columns = [record.find(name)[0][1] for name in NAMES]
    values = zip(columns[0].time.tolist(), *(column.value.tolist() for column in columns), strict=True)
    with path.open("w", encoding="utf-8") as file:
        for number, (moment, *batch) in enumerate(values):
            line = {"time": moment, "epoch": number // BATCHES + 1, **dict(zip(NAMES, batch, strict=True))}
            file.write(json.dumps(line) + "\n")


def _timed(code: str, path: Path) -> tuple[float, int, float]:
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True)
    seconds, rows, last = done.stdout.split()
    return float(seconds), int(rows), float(last)
