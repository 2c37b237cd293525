"""``mlops report``."""

from __future__ import annotations

import io
from collections.abc import Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

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

if TYPE_CHECKING:
    from mlops.record import Record

__all__ = ["command"]

_BY_SUFFIX: Final = {
    ".html": "html",
    ".htm": "html",
    ".png": "png",
    ".txt": "table",
    ".json": "json",
    ".yaml": "yaml",
    ".yml": "yaml",
}


@click.command(
    "report",
    cls=Documented,
    examples=[
        ("mlops report", "the newest run"),
        ("mlops report last -o table", ""),
        ("mlops report base tuned --file both.html", "two runs side by side"),
        ("mlops report digits --file digits.png", ""),
        ("mlops report digits --from monasca -o table", "as it has arrived in the cloud"),
        ("mlops report digits --target 0.97 -o json | jq '.[0].reached'", "what 97 % had cost"),
    ],
)
@run_argument("which", several=True)
@format_option("html", "png", "table", "json", "yaml", file="--file", default="html")
@file_option("Where to write it; its ending tells the format if -o does not. - is standard output.")
@click.option(
    "--target",
    "targets",
    type=float,
    multiple=True,
    metavar="VALUE",
    help="A value of the main metric, such as 0.97: what it took to reach it is told. May be repeated.",
)
@from_option
@runs_dir_option
@click.pass_context
def command(
    ctx: click.Context,
    /,
    *,
    which: tuple[str, ...],
    form: str,
    file: Path | None,
    targets: tuple[float, ...],
    source: str,
    runs_dir: Path | None,
) -> None:
    """Make the page, the picture or the tables of one run, or of several side by side.

    A page or a picture is written to the run's folder (of several runs, or of one that is read from elsewhere: to
    this folder) as report.html or report.png, or to --file, and its path is printed. Tables, JSON and YAML are
    printed. Without a run the newest is meant.
    """
    from mlops import report

    if ctx.get_parameter_source("form") is click.core.ParameterSource.DEFAULT and file is not None:
        form = _BY_SUFFIX.get(file.suffix.lower(), form)
    folder = settings(runs_dir=runs_dir).runs_dir
    with arriving() as tell:
        records = [report.read(one, runs_dir=folder, source=source, on_progress=tell) for one in which or ("last",)]
    if form in {"html", "png"}:
        name = f"report.{form}"
        target = file or (_usual_place(which or ("last",), folder, name) if source == "store" else Path(name))
        with output.written(target) as place:
            if form == "html":
                report.write_page(records, place, targets=targets)
            else:
                report.write_png(records, place)
        if str(target) != "-":
            click.echo(output.near(target))
        return
    text = io.StringIO()
    with redirect_stdout(text):
        _print(records, form, targets)
    if file is None or str(file) == "-":
        click.echo(text.getvalue(), nl=False)
    else:
        file.write_text(text.getvalue(), encoding="utf-8")
        click.echo(output.near(file))


def _print(records: Sequence[Record], form: str, targets: Sequence[float]) -> None:
    from mlops import report

    if form == "table":
        for number, record in enumerate(records):
            if number:
                click.echo()
            output.told(report.render_table(record))
            for found in _reached(record, targets):
                click.echo(_in_words(found))
        return
    content: list[dict[str, Any]] = []
    for record in records:
        entry = {"summary": report.summary(record).as_json(), "epochs": report.epochs(record).as_json()}
        if targets:
            entry["reached"] = [found.as_json() for found in _reached(record, targets)]  # type: ignore[assignment]
        content.append(entry)
    output.structured(content, form)


def _reached(record: Record, targets: Sequence[float]) -> list[Any]:
    from mlops import report

    best = report.summary(record).best
    return [report.energy_to_reach(record, best.metric, target) for target in targets] if best else []


def _in_words(found: Any) -> str:
    if not found.reached:
        return f"{found.metric} {found.target:g} was not reached."
    where = f" in epoch {found.epoch}" if found.epoch is not None else ""
    spent = [output.duration(found.seconds)] if found.seconds is not None else []
    spent += [f"{found.joules:.4g} J"] if found.joules is not None else []
    return f"{found.metric} {found.target:g} was reached{where}, after {' and '.join(spent)}."


def _usual_place(which: Sequence[str], runs_dir: Path, name: str) -> Path:
    from mlops.store import open_run

    return open_run(which[0], runs_dir).path / name if len(which) == 1 else Path(name)
