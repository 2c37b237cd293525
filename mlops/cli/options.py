"""What several commands take: formats, the folder of runs, the runs themselves."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Final, TypeVar

import click
from click.shell_completion import CompletionItem

from mlops.errors import MlopsError
from mlops.settings import Settings

__all__ = [
    "Documented",
    "DocumentedGroup",
    "FormatChoice",
    "PairOption",
    "Seconds",
    "devices_chosen",
    "file_option",
    "format_option",
    "from_option",
    "run_argument",
    "run_options",
    "runs_dir_option",
    "settings",
]

_UNITS: Final = {"": 1, "s": 1, "m": 60, "h": 3600}

F = TypeVar("F", bound=Callable[..., Any])


class Documented(click.Command):
    """A command whose help ends with examples.

    Args:
        examples: what to type, and what it does (which may be empty).
        notes: paragraphs that stand after the options.
    """

    def __init__(
        self, *args: Any, examples: Sequence[tuple[str, str]], notes: Sequence[str] = (), **attributes: Any
    ) -> None:
        super().__init__(*args, **attributes)
        self.examples = examples
        self.notes = notes

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The notes and the examples."""
        for note in self.notes:
            formatter.write_paragraph()
            with formatter.indentation():
                formatter.write_text(note)
        with formatter.section("Examples"):
            for typed, about in self.examples:
                if about:
                    formatter.write(f"{'':{formatter.current_indent}}# {about}\n")
                formatter.write(f"{'':{formatter.current_indent}}{typed}\n")


class DocumentedGroup(Documented, click.Group):
    """A command of several commands; a misspelt one is told the nearest."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """The command that the arguments begin with."""
        if args[0] in self.commands or args[0].startswith("-"):
            return super().resolve_command(ctx, args)
        near = difflib.get_close_matches(args[0], self.commands, 1)
        hint = f"Did you mean {near[0]}?" if near else f"They are: {', '.join(self.commands)}."
        raise click.UsageError(f"There is no command {args[0]!r} of {ctx.command_path}. {hint}", ctx)


class FormatChoice(click.Choice):  # type: ignore[type-arg]  # generic from click 8.2 on
    """A format; a file's name given in its place is told where it belongs.

    Args:
        choices: the formats.
        file: the option that takes a file's name, if the command has one.
    """

    def __init__(self, choices: Sequence[str], file: str = "") -> None:
        super().__init__(choices)
        self.file = file

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """The format that was meant."""
        if isinstance(value, str) and value not in self.choices and ("." in value or "/" in value):
            hint = f"name the file with {self.file} {value}." if self.file else "redirect the output to a file."
            self.fail(f"{value!r} is no format ({', '.join(self.choices)}); {hint}", param, ctx)
        chosen: str = super().convert(value, param, ctx)
        return chosen


class PairOption(click.ParamType):  # type: ignore[type-arg]  # generic from click 8.5 on
    """``KEY=VALUE``."""

    name = "KEY=VALUE"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, str]:
        """The pair."""
        if isinstance(value, tuple):
            return value
        key, separator, text = str(value).partition("=")
        if not separator or not key:
            self.fail(f"{value!r} is no pair; write {key or 'key'}=value.", param, ctx)
        return key, text


class Seconds(click.ParamType):  # type: ignore[type-arg]  # generic from click 8.5 on
    """A span of time: ``90``, ``90s``, ``15m``, ``2h``."""

    name = "TIME"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Whole seconds, at least one."""
        if isinstance(value, int):
            return value
        found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smh]?)", str(value).strip())
        if found is None or float(found[1]) == 0:
            self.fail(f"{value!r} is no span of time; write 90s, 15m or 2h.", param, ctx)
        return max(1, round(float(found[1]) * _UNITS[found[2]]))


def format_option(*formats: str, default: str | None = None, file: str = "") -> Callable[[F], F]:
    """``-o FORMAT``: how to write what is written; every command that reads has it."""
    return click.option(
        "-o",
        "--format",
        "form",
        type=FormatChoice(formats, file),
        default=default,
        show_default=True,
        help="How it is written.",
    )


def file_option(about: str) -> Callable[[F], F]:
    """``--file PATH``: where to write it; every command that writes a file has it."""
    return click.option("--file", "file", type=click.Path(dir_okay=False, path_type=Path), metavar="PATH", help=about)


def runs_dir_option(command: F) -> F:
    """``--runs-dir DIR``."""
    return click.option(
        "--runs-dir",
        type=click.Path(file_okay=False, path_type=Path),
        metavar="DIR",
        help="Folder that the runs are kept in (MLOPS_RUNS_DIR; default: runs).",
    )(command)


def from_option(command: F) -> F:
    """``--from SOURCE``: where a run is read from."""
    return click.option(
        "--from",
        "source",
        metavar="SOURCE",
        default="store",
        show_default=True,
        shell_complete=_complete_source,
        help="Where it is read from: store, the folder of runs; monasca, the cloud of the sink monasca://… in "
        "MLOPS_SINKS, else of OS_CLOUD; monasca://CLOUD, a cloud of clouds.yaml.",
    )(command)


def run_options(command: F) -> F:
    """What the commands that open a run take: its name, its dimensions, where its points go, what is metered."""
    for option in (
        click.option(
            "--device",
            "devices",
            multiple=True,
            metavar="KIND",
            help="What is metered: nvidia, host, replay:FILE; may be repeated; none for nothing. "
            "[default: nvidia, host]",
        ),
        click.option(
            "--sink",
            "sinks",
            multiple=True,
            metavar="URL",
            help="Where points go besides the store, such as statsd://localhost:8125; may be repeated. A run that "
            "joins sends there too.",
        ),
        click.option(
            "--dimension",
            "dimensions",
            type=PairOption(),
            multiple=True,
            help="A dimension of every series, such as team=vision; may be repeated.",
        ),
        click.option(
            "--name", metavar="NAME", help="The run's name; else MLOPS_NAME, else the script's or notebook's name."
        ),
    ):
        command = option(command)
    return command


def devices_chosen(devices: Sequence[str]) -> tuple[str, ...] | None:
    """What ``--device`` names, the word none for nothing; ``None`` where it is left to the settings."""
    return tuple(device for device in devices if device != "none") if devices else None


def run_argument(name: str, *, several: bool = False) -> Callable[[F], F]:
    """``RUN``, or ``[RUN…]``: an id, its beginning, a name, a folder, or the word last."""
    return click.argument(
        name,
        metavar="[RUN…]" if several else "RUN",
        nargs=-1 if several else 1,
        required=not several,
        shell_complete=_complete_run,
    )


def settings(**given: Any) -> Settings:
    """The settings in force under these options; an option left out is ``None`` or empty."""
    return Settings.load(**{name: value for name, value in given.items() if value not in (None, ())})


def _complete_run(context: click.Context, _param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """The ids that begin so, and the names; a folder's path is left to the shell."""
    from mlops.store import list_runs

    try:
        found = list_runs(settings(runs_dir=context.params.get("runs_dir")).runs_dir)
    except MlopsError:
        return []
    ids = [run.id for run in reversed(found)]
    names = sorted({_name_in(entry) for entry in ids})
    return [CompletionItem(word) for word in _once([*ids, *names, "last"]) if word.startswith(incomplete)]


def _complete_source(_context: click.Context, _param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    return [CompletionItem(word) for word in ("store", "monasca", "monasca://") if word.startswith(incomplete)]


def _name_in(run_id: str) -> str:
    return run_id.split("-", 2)[-1].rpartition("-")[0]


def _once(words: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(word for word in words if word))
