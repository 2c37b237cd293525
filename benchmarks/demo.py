"""What a newcomer waits for: ``make demo`` in a fresh clone with an empty home, then once more.

The clone is of the last commit; HOME and every cache begin empty, so that Python's packages are
fetched and unpacked as on a new machine (2 GB, removed afterwards).  What the run left behind is
measured too.
"""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks._figures import Figure

__all__ = ["run"]

ROOT = Path(__file__).parents[1]
_OURS = ("MLOPS_", "UV_", "XDG_", "VIRTUAL_ENV", "PYTHON")


def run() -> list[Figure]:
    """Clone, run twice, read back the second run."""
    with tempfile.TemporaryDirectory(prefix="mlops-demo-") as place:
        clone, home = Path(place) / "clone", Path(place) / "home"
        home.mkdir()
        subprocess.run(["git", "clone", "--quiet", str(ROOT), str(clone)], check=True)
        environ = {name: value for name, value in os.environ.items() if not name.startswith(_OURS)}
        environ |= {"HOME": str(home)}
        first, second = _demo(clone, environ), _demo(clone, environ)
        left = _left(clone, environ)
    return [
        Figure("make demo, fresh clone and empty home", first, "s", most=180),
        Figure("make demo, again", second, "s", most=30),
        Figure("accuracy of the demo", left["accuracy"] * 100, "%", least=96),
        Figure("its report.html", left["page"] / 1000, "kB", most=500),
        Figure("its store", left["store"] / left["points"], "bytes a point", most=20),
    ]


def _demo(clone: Path, environ: dict[str, str]) -> float:
    begin = time.monotonic()
    with (clone.parent / "log").open("w+") as log:
        done = subprocess.run(["make", "demo"], cwd=clone, env=environ, stdout=log, stderr=log, check=False)
        log.seek(0)
        if done.returncode:
            raise SystemExit(f"make demo failed:\n{log.read()}")
    return time.monotonic() - begin


def _left(clone: Path, environ: dict[str, str]) -> dict[str, float]:
    """What the last run left behind, asked of the command line as a user would."""

    def ask(*words: str) -> str:
        command = [str(clone / ".venv/bin/mlops"), *words]
        return subprocess.run(command, cwd=clone, env=environ, capture_output=True, text=True, check=True).stdout

    found: dict[str, Any] = json.loads(ask("runs", "-o", "json"))[-1]
    folder = Path(found["path"])
    rows = ask("export", "last", "--format", "csv").splitlines()[1:]
    accuracies = [float(row.split(",")[2]) for row in rows if ",valid.accuracy," in row]
    store = sum(path.stat().st_size for path in (*folder.glob("*.points"), folder / "run.json"))
    return {
        "accuracy": accuracies[-1],
        "page": (folder / "report.html").stat().st_size,
        "store": store,
        "points": len(rows),
    }
