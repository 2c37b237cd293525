"""How the command line writes: tables for people, JSON and YAML for programs."""

from __future__ import annotations

import contextlib
import json
import math
import os
import shutil
import sys
import tempfile
import textwrap
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import click

from mlops.errors import MissingExtraError

__all__ = [
    "COLOURS",
    "duration",
    "hanging",
    "line",
    "near",
    "outcome",
    "size",
    "structured",
    "table",
    "told",
    "when",
    "width",
    "written",
]

COLOURS: Final[Mapping[str, str]] = {
    "running": "cyan",
    "finished": "green",
    "cancelled": "green",
    "interrupted": "yellow",
    "failed": "red",
    "killed": "red",
}
_NOT_FINITE: Final = {"nan": "NaN", "inf": "Infinity", "-inf": "-Infinity"}
_GAP: Final = "  "
_NARROW: Final = 40
_MINUTE: Final = 60
_HOUR: Final = 3600
_STEP: Final = 1024


def structured(content: Any, form: str) -> None:
    """Write content as ``json`` or ``yaml``: nan and infinities as the texts that ``float()`` reads.

    Raises:
        MissingExtraError: YAML is asked for and PyYAML is not installed.
    """
    plain = _plain(content)
    if form == "json":
        click.echo(json.dumps(plain, indent=2, ensure_ascii=False))
        return
    try:
        import yaml
    except ImportError:
        raise MissingExtraError("yaml", "notebook") from None
    click.echo(yaml.safe_dump(plain, sort_keys=False, allow_unicode=True).rstrip())


def table(
    columns: Mapping[str, str], rows: Sequence[Mapping[str, str]], *, right: Sequence[str] = (), indent: int = 0
) -> None:
    """Write rows beneath their headings; on a terminal the last column is cut to its width.

    Args:
        columns: the heading of each key.
        rows: the text of each key; it may be styled.
        right: keys whose text stands at the right edge of its column.
        indent: columns left free on the left.
    """
    lines = [{key: click.style(heading, dim=True) for key, heading in columns.items()}, *rows]
    widths = {key: max(len(click.unstyle(row.get(key, ""))) for row in lines) for key in columns}
    limit = width()
    last = list(columns)[-1]
    for row in lines:
        cells = []
        for key in columns:
            text = row.get(key, "")
            room = " " * (widths[key] - len(click.unstyle(text)))
            if key == last and key not in right:
                taken = indent + sum(widths[other] + len(_GAP) for other in columns if other != last)
                cells.append(_cut(text, limit - taken) if limit else text)
            else:
                cells.append(room + text if key in right else text + room)
        click.echo(f"{'':{indent}}{_GAP.join(cells).rstrip()}")


def line(label: str, text: str, *, room: int = 10) -> None:
    """Write one labelled line."""
    click.echo(f"{click.style(label.ljust(room), dim=True)} {text}".rstrip())


def outcome(word: str) -> str:
    """A run's outcome in its colour."""
    return click.style(word, fg=COLOURS.get(word))


def duration(seconds: float | None) -> str:
    """A span of time, short: ``0.4 s``, ``12 s``, ``3 min 5 s``, ``2 h 4 min``."""
    if seconds is None or not math.isfinite(seconds):
        return ""
    if seconds < 10:  # noqa: PLR2004 - below, a second more or less matters
        return f"{max(seconds, 0):.1f} s"
    whole = round(seconds)
    if whole < _MINUTE:
        return f"{whole} s"
    if whole < _HOUR:
        return f"{whole // _MINUTE} min {whole % _MINUTE} s"
    return f"{whole // _HOUR} h {whole % _HOUR // _MINUTE} min"


def near(path: Path) -> str:
    """A path as it is shortest to type: from the working folder if it lies in it."""
    with contextlib.suppress(ValueError, OSError):
        return str(path.resolve().relative_to(Path.cwd().resolve()))
    return str(path)


@contextlib.contextmanager
def written(target: Path) -> Iterator[Path]:
    """A file to write; for ``-`` one whose content goes to standard output once it is whole."""
    if str(target) != "-":
        yield target
        return
    with tempfile.TemporaryDirectory(prefix="mlops-") as folder:
        draft = Path(folder) / "draft"
        yield draft
        click.echo(draft.read_bytes(), nl=False)


def hanging(head: str, text: str, **style: Any) -> None:
    """Write text behind a head; what does not fit into the line stands below its beginning."""
    room = len(click.unstyle(head))
    limit = width()
    parts = textwrap.wrap(text, max(limit - room, _NARROW), break_on_hyphens=False) if limit else [text]
    for number, part in enumerate(parts):
        click.echo(f"{head if number == 0 else ' ' * room}{click.style(part, **style)}")


def told(text: str) -> None:
    """Write a table and the sentences under it (see :func:`mlops.report.render_table`), these wrapped."""
    limit = width()
    grid, _, sentences = text.rpartition("\n\n")
    lines = grid.splitlines()
    for number, entry in enumerate(lines):
        click.echo(click.style(entry, dim=True) if number < 2 else entry)  # noqa: PLR2004 - heads and rule
    if lines:
        click.echo()
    for number, sentence in enumerate(sentences.splitlines()):
        for part in textwrap.wrap(sentence, max(limit, _NARROW), subsequent_indent="  ") if limit else [sentence]:
            click.echo(click.style(part, bold=number == 0, dim=number > 0))


def when(seconds: float) -> str:
    """A time of day in the local zone."""
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds))


def size(count: float) -> str:
    """A number of bytes: ``812 B``, ``3.4 MiB``."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < _STEP:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= _STEP
    return f"{count:.1f} TiB"


def width() -> int:
    """The columns that a line may have: COLUMNS, else the terminal's; 0 for no limit, where nobody looks."""
    if os.environ.get("COLUMNS", "").isdigit() or sys.stdout.isatty():
        return shutil.get_terminal_size().columns
    return 0


def _cut(text: str, room: int) -> str:
    plain = click.unstyle(text)
    return text if len(plain) <= max(room, 1) else plain[: max(room, 1) - 1] + "…"


def _plain(content: Any) -> Any:
    if isinstance(content, Mapping):
        return {str(key): _plain(value) for key, value in content.items()}
    if isinstance(content, list | tuple | set | frozenset):
        return [_plain(value) for value in content]
    if isinstance(content, float):
        return content if math.isfinite(content) else _NOT_FINITE[f"{content:f}"]
    if content is None or isinstance(content, str | int):
        return content
    item = getattr(content, "item", None)
    return _plain(item()) if callable(item) else str(content)
