"""The manual, the commands' names, and what an error looks like."""

from __future__ import annotations

import contextlib
import difflib
import importlib
import io
import logging
import os
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final, NoReturn, TextIO

import click

import mlops
from mlops.errors import MlopsError

__all__ = ["COMMANDS", "Manual", "cli", "main"]

COMMANDS: Final = {
    "doctor": "Say what is found here: GPUs, meters, sinks, versions, settings and where each came from.",
    "run": "Run any command with the devices monitored around it; an mlops.Run inside joins.",
    "notebook": "Run a notebook, monitored, and judge honestly how it went.",
    "runs": "List the runs, the newest last.",
    "report": "Make the page, the picture or the tables of one run, or of several side by side.",
    "export": "Give every point of a run, a row a point, as CSV or Parquet.",
    "upload": "Send to Monasca what is left of the runs: every point, once, with its own time.",
    "alarms": "Keep Monasca's alarm definitions as a file says: make, change, list and delete them.",
    "completion": "Print what teaches a shell to complete mlops, its options and the runs.",
}
"""The commands in an order of use, each with its first sentence; the module of each bears its name."""

_ABOUT: Final = (
    "Training runs on bare-metal GPU nodes: recorded without loss, metered in watts and joules, sent to OpenStack "
    "Monasca, and reported as one page."
)
_EXAMPLES: Final = (
    ("mlops run --name digits -- python train.py", "watch any program; an mlops.Run inside it joins"),
    ("mlops notebook 01_train.ipynb -p epochs 5", "run a notebook with a parameter"),
    ("mlops runs -o wide", "what has been recorded"),
    ("mlops report last", "the newest run as one HTML page"),
    ("mlops report base tuned --file both.png", "two runs side by side, as a picture"),
    ("mlops export last --file points.parquet", "every point, for pandas"),
    ("mlops upload --to monasca://mycloud", "send what Monasca does not have yet"),
    ('eval "$(mlops completion bash)"', "completion in this shell"),
)
_RUN: Final = (
    "RUN is a run's id, the beginning of one, a name (its newest run), the path of a run's folder, or the word last."
)
_ENVIRONMENT: Final = (
    ("MLOPS_RUNS_DIR", "folder that the runs are kept in; default: runs"),
    ("MLOPS_SINKS", "where points go besides, such as statsd://localhost:8125"),
    ("MLOPS_<SETTING>", "any other setting; mlops doctor lists them all with their values"),
    ("MLOPS_DEBUG=1", "as --debug"),
    ("NO_COLOR, COLUMNS", "no colours; the width of help and tables"),
)
_SETTINGS: Final = "A setting is taken from an option, else the environment, else mlops.toml, else its default."
_OTHER: Final = (
    "mlops run exits as its command did: 128 and the number of the signal that ended it, 127 not found, 126 not "
    "executable"
)
_EXIT_CODES: Final = (
    ("0", "it went well"),
    ("1", "it failed"),
    ("2", "it was called in a way that it does not understand"),
    ("4", "not authorised"),
    ("5", "the notebook or job itself ended without success"),
    ("124", "it took longer than it was given"),
    ("130, 143", "interrupted by Ctrl-C, by SIGTERM"),
    ("other", _OTHER),
)

_CONTEXT: Final = {"help_option_names": ["-h", "--help"], "max_content_width": 100}

_debug = False


class Manual(click.Group):
    """The group of all commands: loads them when called, and turns errors into sentences."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The commands' names, in an order of use."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of that name, from its module."""
        if cmd_name not in COMMANDS:
            return None
        command = importlib.import_module(f"mlops.cli.{cmd_name}").command
        assert isinstance(command, click.Command)  # noqa: S101 - our own modules
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """The command that the arguments begin with; a misspelt one is told the nearest."""
        if args[0] in COMMANDS or args[0].startswith("-"):
            return super().resolve_command(ctx, args)
        near = difflib.get_close_matches(args[0], COMMANDS, 1)
        hint = f"Did you mean {near[0]}?" if near else f"The commands: {', '.join(COMMANDS)}."
        raise click.UsageError(f"There is no command {args[0]!r}. {hint}", ctx)

    def format_help(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The manual, without loading any command."""
        formatter.write_usage("mlops", "[OPTIONS] COMMAND …")
        formatter.write_paragraph()
        with formatter.indentation():
            formatter.write_text(_ABOUT)
        for title, rows in (
            ("Commands", list(COMMANDS.items())),
            ("Examples", _EXAMPLES),
            ("Environment", _ENVIRONMENT),
            ("Exit codes", _EXIT_CODES),
        ):
            with formatter.section(title):
                formatter.write_dl(rows, col_max=48)
                if title == "Commands":
                    formatter.write_paragraph()
                    formatter.write_text(f"mlops COMMAND --help tells more of each. {_RUN}")
                if title == "Environment":
                    formatter.write_paragraph()
                    formatter.write_text(_SETTINGS)
        self.format_options(ctx, formatter)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Nothing: :meth:`format_help` has said them already."""

    def invoke(self, ctx: click.Context) -> Any:
        """The command's doing; whoever read it has gone, as ``| head`` does, is not its failure."""
        try:
            result = super().invoke(ctx)
            click.echo(nl=False)  # flushes, if there is a standard output at all
        except BrokenPipeError:
            _hush(sys.stdout)
            ctx.exit(128 + signal.SIGPIPE)
        return result

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        **extra: Any,
    ) -> Any:
        """As click's, with our own last words for what goes wrong."""

        def call() -> Any:
            return super(Manual, self).main(args, prog_name, complete_var, standalone_mode=False, **extra)

        if not standalone_mode:
            return call()
        sys.exit(_guarded(call))


@click.command(cls=Manual, invoke_without_command=True, context_settings=_CONTEXT)
@click.version_option(mlops.__version__, "-V", "--version", message="mlops %(version)s")
@click.option("--debug", is_flag=True, envvar="MLOPS_DEBUG", help="Show the traceback of an error, and what is logged.")
@click.pass_context
def cli(ctx: click.Context, debug: bool) -> None:
    """Training runs, recorded, metered and reported."""
    global _debug  # noqa: PLW0603 - the one switch of this process
    _debug = debug
    if os.environ.get("NO_COLOR"):
        ctx.color = False
    _log_to_stderr()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal that knows no ✓ shows a question mark, not a traceback
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


def main() -> NoReturn:
    """The entry point of the command ``mlops``."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # the caller closed it
            setattr(sys, name, Path(os.devnull).open("w", encoding="utf-8"))  # noqa: SIM115 - as long as the process
    try:
        cli.main(prog_name="mlops")
    finally:
        try:
            sys.stderr.flush()
        except (OSError, ValueError):
            _hush(sys.stderr)
    raise SystemExit  # pragma: no cover - the line above never returns


def _guarded(call: Callable[[], object]) -> int:
    """What to exit with, once what went wrong has been said on stderr."""
    try:
        status = call()
    except (KeyboardInterrupt, click.Abort):
        return _say("Interrupted", "", 128 + signal.SIGINT)
    except Exception as error:  # noqa: BLE001 - whatever it is, it ends here and in words
        return _say(*_in_words(error))
    return status if isinstance(status, int) else 0


def _in_words(error: Exception) -> tuple[str, str, int]:
    """What happened, what to do about it, and what to exit with."""
    if isinstance(error, MlopsError):
        return error.what, error.remedy, error.exit_code
    if isinstance(error, click.ClickException):
        context = getattr(error, "ctx", None)
        return error.format_message(), f"See: {context.command_path} --help" if context else "", error.exit_code
    if isinstance(error, OSError):
        where = f" ({error.filename})" if error.filename else ""
        return f"{error.strerror or error}{where}", "", 1
    what = f"mlops failed in a way that it should not: {type(error).__name__}: {error}"
    return what, "Call it again as mlops --debug …, and report the traceback.", 1


def _say(what: str, remedy: str, code: int) -> int:
    if _debug:
        traceback.print_exc()
    with contextlib.suppress(OSError):
        click.echo(f"{click.style('error:', fg='red', bold=True)} {what}", err=True)
        if remedy:
            click.echo(f"  {remedy}", err=True)
    return code


def _hush(stream: TextIO) -> None:
    """Let what is still buffered for a closed pipe go nowhere, so that the interpreter does not complain of it."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


class _ToStderr(logging.Handler):
    """Writes to whatever is stderr at the time, so that a progress display can stand aside."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write one line."""
        with contextlib.suppress(Exception):
            level = click.style(f"{record.levelname.lower()}:", fg="yellow", bold=True)
            click.echo(f"{level} {self.format(record)}", file=sys.stderr)


def _log_to_stderr() -> None:
    logger = logging.getLogger("mlops")
    if not any(isinstance(handler, _ToStderr) for handler in logger.handlers):
        logger.addHandler(_ToStderr())
    if _debug:
        logger.setLevel(logging.DEBUG)
