"""``mlops export``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Final

import click

from mlops.cli import output
from mlops.cli.arriving import arriving
from mlops.cli.options import (
    Documented,
    file_option,
    format_option,
    from_option,
    run_argument,
    runs_dir_option,
    settings,
)

__all__ = ["command"]

_COLUMNS: Final = (
    "The columns: time (UTC), name, value, dimensions (the run's and the series', a JSON object) and step, which may "
    "be empty."
)


@click.command(
    "export",
    cls=Documented,
    examples=[
        ("mlops export last > points.csv", ""),
        ("mlops export digits --file points.parquet", ""),
        ("mlops export last -o parquet | duckdb -c \"select name, count(*) from '/dev/stdin' group by 1\"", ""),
        ("mlops export digits --from monasca://mycloud > points.csv", "what has arrived in a cloud"),
    ],
    notes=[_COLUMNS],
)
@run_argument("which")
@format_option("csv", "parquet", file="--file", default="csv")
@file_option("Where to write it; its ending tells the format if -o does not. [default: standard output]")
@from_option
@runs_dir_option
@click.pass_context
def command(
    ctx: click.Context, /, *, which: str, form: str, file: Path | None, source: str, runs_dir: Path | None
) -> None:
    """Give every point of a run, a row a point, as CSV or Parquet."""
    from mlops.report import export, read

    if ctx.get_parameter_source("form") is click.core.ParameterSource.DEFAULT and file is not None:
        form = "parquet" if file.suffix.lower() in {".parquet", ".pq"} else form
    if form == "parquet" and (file is None or str(file) == "-") and sys.stdout.isatty():
        raise click.UsageError("Parquet is no text for a terminal. Name a file with --file, or redirect the output.")
    with arriving() as tell:
        record = read(which, runs_dir=settings(runs_dir=runs_dir).runs_dir, source=source, on_progress=tell)
    if file is not None and str(file) != "-":
        export(record, file, form)
        click.echo(output.near(file))
        return
    export(record, sys.stdout.buffer, form)
