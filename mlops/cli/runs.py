"""``mlops runs``."""

from __future__ import annotations

import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mlops.cli import output
from mlops.cli.options import Documented, format_option, runs_dir_option, settings

if TYPE_CHECKING:
    from mlops.store import RunFolder

__all__ = ["command"]

_COLUMNS = {"name": "NAME", "started": "STARTED", "took": "TOOK", "outcome": "OUTCOME", "id": "RUN"}
_WIDE = {
    "name": "NAME",
    "started": "STARTED",
    "took": "TOOK",
    "outcome": "OUTCOME",
    "host": "HOST",
    "size": "SIZE",
    "id": "RUN",
    "dimensions": "DIMENSIONS",
    "reason": "REASON",
}


@click.command(
    "runs",
    cls=Documented,
    examples=[
        ("mlops runs", ""),
        ("mlops runs -n 5 -o wide", ""),
        ("mlops runs --name digits -o json | jq '.[].outcome'", ""),
    ],
)
@format_option("table", "wide", "name", "json", "yaml", default="table")
@click.option("--name", metavar="NAME", help="Only the runs of this name.")
@click.option("-n", "--limit", type=click.IntRange(min=1), metavar="N", help="Only the newest N.")
@runs_dir_option
def command(form: str, name: str | None, limit: int | None, runs_dir: Path | None) -> None:
    """List the runs, the newest last.

    A run whose process ended without a word (kill -9, power) is listed as killed. One whose run.json cannot be
    read is listed as unreadable, and the others with it.
    """
    from mlops.store import list_runs

    found = [_described(run) for run in list_runs(settings(runs_dir=runs_dir).runs_dir)]
    found.sort(key=lambda run: (run["started"] or 0, run["id"]))
    chosen = [run for run in found if name is None or run["name"] == name][-(limit or 0) :]
    if form == "name":
        for run in chosen:
            click.echo(run["id"])
    elif form in {"json", "yaml"}:
        output.structured(chosen, form)
    elif chosen:
        output.table(_WIDE if form == "wide" else _COLUMNS, [_row(run) for run in chosen], right=("took", "size"))
    else:
        folder = settings(runs_dir=runs_dir).runs_dir.absolute()
        click.echo(f"No runs in {folder}." if name is None else f"No runs named {name!r} in {folder}.")


def _described(run: RunFolder) -> dict[str, Any]:
    from mlops.errors import StoreError

    try:
        described = asdict(run.info())
    except StoreError as error:
        name = run.id.split("-", 2)[-1].rpartition("-")[0]
        described = {"id": run.id, "name": name, "started": None, "outcome": "unreadable", "reason": error.what}
    started, ended = described.get("started"), described.get("ended")
    seconds = None if started is None else (ended or time.time()) - started
    return {**described, "seconds": seconds, "path": str(run.path.absolute())}


def _row(run: dict[str, Any]) -> dict[str, str]:
    started = run["started"]
    return {
        "name": str(run["name"]),
        "started": output.when(started) if started is not None else "",
        "took": output.duration(run["seconds"]),
        "outcome": output.outcome(run["outcome"]),
        "host": run.get("host", ""),
        "size": output.size(sum(entry.stat().st_size for entry in Path(run["path"]).glob("*") if entry.is_file())),
        "id": run["id"],
        "dimensions": ",".join(f"{key}={value}" for key, value in run.get("dimensions", {}).items()),
        "reason": run["reason"],
    }
