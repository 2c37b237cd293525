"""``mlops notebook``."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, Final

import click

from mlops.cli import output
from mlops.cli.options import Documented, Seconds, format_option, run_options, runs_dir_option, settings
from mlops.errors import MlopsError
from mlops.notebook import Document, Execution, Verdict
from mlops.notebook.parameters import read_file, typed

if TYPE_CHECKING:
    from mlops.cli.progress import Display
    from mlops.run import Run

__all__ = ["command"]

GRACE_SECONDS: Final = 20.0
"""What an interrupted notebook has for its ``finally`` and its exit handlers; Kubernetes gives 30 in all."""
_AGAIN_SECONDS: Final = 1.0
"""A second Ctrl-C so long after the first means: at once. An earlier one is the same one, sent to a whole group."""


@click.command(
    "notebook",
    cls=Documented,
    examples=[
        ("mlops notebook notebooks/01_train.ipynb", ""),
        ("mlops notebook 01_train.ipynb -p epochs 5 -p lr 0.003 --name digits", ""),
        ("mlops notebook 01_train.ipynb -f base.yaml -p epochs 20 --timeout 2h --executed out.ipynb", ""),
        ("mlops notebook 01_train.ipynb -o json | jq .summary.best.value", ""),
    ],
)
@click.argument("path", metavar="NOTEBOOK", type=click.Path(path_type=Path))
@click.option(
    "-p",
    "--parameter",
    "given",
    nargs=2,
    multiple=True,
    metavar="NAME VALUE",
    help="A parameter of the notebook; True, False, None and numbers are taken as such. May be repeated.",
)
@click.option(
    "-r", "--raw", nargs=2, multiple=True, metavar="NAME VALUE", help="A parameter whose value is text, as it is."
)
@click.option(
    "-f",
    "--parameters-file",
    "files",
    multiple=True,
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Parameters from a YAML or JSON file; -p and -r come before it.",
)
@click.option(
    "--executed",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Where the executed notebook is written; else in the run's folder.",
)
@click.option("--timeout", type=Seconds(), help="What each cell may take: 90s, 15m, 2h. [default: any time]")
@click.option("--kernel", metavar="NAME", help="The kernel to run it with; else the one that the notebook names.")
@click.option(
    "--cwd",
    "folder",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    metavar="DIR",
    help="The working folder of the kernel; else this one.",
)
@run_options
@runs_dir_option
@format_option("table", "json", "yaml", file="--executed", default="table")
@click.pass_context
def command(  # noqa: PLR0913 - click gives each option as an argument
    ctx: click.Context,
    /,
    *,
    path: Path,
    given: tuple[tuple[str, str], ...],
    raw: tuple[tuple[str, str], ...],
    files: tuple[Path, ...],
    executed: Path | None,
    timeout: int | None,
    kernel: str | None,
    folder: Path | None,
    form: str,
    runs_dir: Path | None,
    **described: Any,
) -> None:
    """Run a notebook, monitored, and judge honestly how it went.

    papermill runs it; an mlops.Run inside it joins the run that is opened for it. It went well if every cell ran
    and none raised. An exception, a kernel that died, a cell that took too long, sys.exit(0) and cells that never ran
    are failures. A parameter that the notebook does not declare is refused before anything runs.

    The executed notebook and report.html are kept in the run's folder, whichever way it ended. Ctrl-C and SIGTERM
    interrupt the cell that runs, so that finally and exit handlers run; after 20 seconds, or at a second Ctrl-C, the
    kernel is killed.
    """
    _check_place(executed, ctx)
    document = Document(path)
    parameters: dict[str, Any] = {}
    for file in files:
        parameters.update(read_file(file))
    parameters.update({name: typed(value) for name, value in given})
    parameters.update(raw)
    document.check(parameters)
    chosen = document.kernel(kernel)

    with _signals() as received:
        run, told = _open_run(document, document.values(parameters), runs_dir, described)
        execution = Execution(
            document,
            executed or run.dir / path.name,
            parameters=parameters,
            kernel=chosen,
            cell_timeout=timeout,
            environ={**os.environ, **told},
            folder=folder,
            log=run.dir / "kernel.log",
        )
        verdict, ended_by = _attend(execution, run, received, quiet=form != "table")
        run.close(verdict.outcome, verdict.reason)
        report = _tell(run.dir, execution, verdict, form)
    if ended_by is not None and verdict.outcome == "interrupted":
        click.echo(f"{click.style('error:', fg='red', bold=True)} Interrupted by {verdict.reason}", err=True)
        ctx.exit(128 + ended_by)
    if verdict.error is not None:
        raise verdict.error
    if report is not None:
        raise report


def _check_place(executed: Path | None, ctx: click.Context) -> None:
    if executed is None:
        return
    if executed.suffix != ".ipynb":
        raise click.BadParameter(f"{str(executed)!r} must end in .ipynb.", ctx, param_hint="--executed")
    if not executed.parent.is_dir():
        raise click.BadParameter(f"there is no folder {executed.parent}.", ctx, param_hint="--executed")


def _open_run(
    document: Document, parameters: Mapping[str, Any], runs_dir: Path | None, described: Mapping[str, Any]
) -> tuple[Run, dict[str, str]]:
    """The run that the notebook is part of, and what the kernel's environment says of it."""
    from mlops.cli.options import devices_chosen
    from mlops.run import JOIN_VARIABLE, Run
    from mlops.series import mend_dimensions

    called = mend_dimensions({"run": document.path.stem}).get("run", "notebook")
    devices = devices_chosen(described["devices"])
    in_force = settings(runs_dir=runs_dir, sinks=described["sinks"])
    run = Run(
        described["name"] or in_force.name or called,
        dimensions=dict(described["dimensions"]),
        parameters=parameters,
        devices=devices,
        settings=in_force,
    )
    run.note(notebook=str(document.path))
    told = {JOIN_VARIABLE: str(run.dir)}
    if described["sinks"]:
        told["MLOPS_SINKS"] = ",".join(described["sinks"])
    if devices is not None:
        told["MLOPS_DEVICES"] = ",".join(devices)
    return run, told


@contextlib.contextmanager
def _signals() -> Iterator[SimpleQueue[int]]:
    """The signals that ask this process to end, put into a queue; those that are ignored stay so."""
    received: SimpleQueue[int] = SimpleQueue()
    before = {}
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) != signal.SIG_IGN:
            before[number] = signal.signal(number, lambda number, _frame: received.put(number))
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _attend(execution: Execution, run: Run, received: SimpleQueue[int], *, quiet: bool) -> tuple[Verdict, int | None]:
    """Show how it goes until it has ended, and end it when asked to; the verdict, and the signal that asked."""
    from mlops.cli.progress import display

    if not quiet:
        output.line("notebook", str(execution.document.path))
        output.line("run", run.id)
        click.echo()
    asked: int | None = None
    kill_at, patience = float("inf"), 2
    shown = display(run.dir, quiet=quiet)
    try:
        execution.start()
        while not execution.wait(0.1) and patience:
            shown.update(execution)
            while not received.empty():
                number, now = received.get(), time.monotonic()
                if asked is None:
                    asked, kill_at = number, now + GRACE_SECONDS
                    execution.interrupt(signal.Signals(number).name)
                    _say_interrupting(shown, number)
                elif number == signal.SIGINT and now > kill_at - GRACE_SECONDS + _AGAIN_SECONDS:
                    kill_at = now
            if time.monotonic() >= kill_at:
                kill_at, patience = time.monotonic() + GRACE_SECONDS / 2, patience - 1
                execution.kill()
        shown.update(execution)
    except MlopsError as error:
        return Verdict("failed", error.what, error), asked
    finally:
        shown.close()
    return execution.verdict(), asked


def _say_interrupting(shown: Display, number: int) -> None:
    name = signal.Signals(number).name
    shown.say(f"{name}: the running cell is interrupted and has {GRACE_SECONDS:.0f} s to tidy up.")


def _tell(folder: Path, execution: Execution, verdict: Verdict, form: str) -> MlopsError | None:
    """Say how it went, and write the report; what kept the report from being made, if anything did."""
    from mlops import report

    record = report.read(folder)
    page, failure = folder / "report.html", None
    try:
        report.write_page(record, page)
    except MlopsError as error:
        failure = error
    if form != "table":
        output.structured(
            {
                "run": record.info.id,
                "path": str(folder),
                "outcome": verdict.outcome,
                "reason": verdict.reason,
                "notebook": str(execution.output),
                "report": None if failure else str(page),
                "cells": {"finished": execution.finished, "total": len(execution.steps)},
                "summary": report.summary(record).as_json(),
                "epochs": report.epochs(record).as_json(),
            },
            form,
        )
        return failure
    click.echo()
    output.told(report.render_table(record))
    click.echo()
    output.line("folder", output.near(folder))
    output.line("notebook", output.near(execution.output))
    if not failure:
        output.line("report", output.near(page))
    return failure
