"""``mlops run``."""

from __future__ import annotations

import contextlib
import os
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mlops.cli import output
from mlops.cli.options import Documented, devices_chosen, run_options, runs_dir_option, settings
from mlops.launch import Recording, name_of, run_command

if TYPE_CHECKING:
    from mlops.run import Run

__all__ = ["command"]


@click.command(
    "run",
    cls=Documented,
    context_settings={"allow_interspersed_args": False},
    examples=[
        ("mlops run -- python train.py --epochs 5", ""),
        ("mlops run --name resnet --dimension team=vision -- torchrun --nproc-per-node 2 train.py", ""),
        ("mlops run --sink statsd://localhost:8125 -- ./simulation", ""),
    ],
)
@run_options
@runs_dir_option
@click.argument("words", metavar="COMMAND…", nargs=-1, required=True, type=click.UNPROCESSED)
@click.pass_context
def command(
    ctx: click.Context,
    name: str | None,
    dimensions: tuple[tuple[str, str], ...],
    sinks: tuple[str, ...],
    devices: tuple[str, ...],
    runs_dir: Path | None,
    words: tuple[str, ...],
) -> None:
    """Run any command with the devices monitored around it; an mlops.Run inside joins.

    The command's standard input, output and errors are its own; one line on stderr says at the end where the run
    is. Signals sent to mlops are passed on to the command. mlops exits as the command did: with its status, with
    128 and the number of the signal that ended it, 127 if there is no such command, 126 if it cannot be executed.
    If mlops itself is killed, the command is sent SIGTERM.
    """
    chosen = devices_chosen(devices)
    opened: list[Run] = []

    def begin() -> tuple[Recording, Mapping[str, str]]:
        from mlops.run import JOIN_VARIABLE, Run

        given = settings(runs_dir=runs_dir, sinks=sinks)
        run = Run(
            name or given.name or name_of(words),
            dimensions=dict(dimensions),
            parameters={"command": shlex.join(words)},
            devices=chosen,
            settings=given,
        )
        opened.append(run)
        told = {"MLOPS_SINKS": ",".join(sinks)} if sinks else {}
        if chosen is not None:
            told["MLOPS_DEVICES"] = ",".join(chosen)
        return run, {**os.environ, **told, JOIN_VARIABLE: str(run.dir)}

    end = run_command(words, begin)
    run = opened[0]
    reason = f" ({end.reason})" if end.reason else ""
    took = output.duration(end.seconds)
    with contextlib.suppress(OSError):  # the exit code is the command's, whoever has gone meanwhile
        click.echo(f"mlops: {run.name} {output.outcome(end.outcome)}{reason} after {took}: {run.dir}", err=True)
    ctx.exit(end.exit_code)
