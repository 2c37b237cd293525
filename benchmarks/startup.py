"""What importing mlops and asking its command line for help costs.

Each round starts a bare interpreter and the thing measured, in turn; the figures are medians of
the rounds' differences, since starting an interpreter itself varies by more than our share.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from pathlib import Path

from benchmarks._figures import Figure

__all__ = ["run"]

ROUNDS = 21


def run() -> list[Figure]:
    """Time the interpreter alone, with ``import mlops``, and ``mlops --help``."""
    bare = [sys.executable, "-c", "pass"]
    importing = [sys.executable, "-c", "import mlops"]
    helping = [str(Path(sys.executable).with_name("mlops")), "--help"]
    for command in (bare, importing, helping):
        _seconds(command)  # once unmeasured: byte code, page cache
    rounds = [(_seconds(bare), _seconds(importing), _seconds(helping)) for _ in range(ROUNDS)]
    return [
        Figure("import mlops beyond the interpreter", _median([b - a for a, b, _ in rounds]) * 1e3, "ms", most=50),
        Figure("mlops --help", _median([c for _, _, c in rounds]) * 1e3, "ms", most=200),
    ]


def _seconds(command: list[str]) -> float:
    begin = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - begin


def _median(values: list[float]) -> float:
    return statistics.median(values)
