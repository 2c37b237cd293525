"""What is shown on stderr while points are sent: a bar on a terminal, a line a run elsewhere."""

from __future__ import annotations

import contextlib
import sys
import time
from typing import TYPE_CHECKING, Any, Final, Protocol

import click

if TYPE_CHECKING:
    from mlops.upload import Progress, Upload

__all__ = ["Display", "LiveDisplay", "PlainDisplay", "counted", "display", "in_words", "why_dropped"]

_BAR: Final = 30


class Display(Protocol):
    """Shows how an upload goes."""

    def begin(self, runs: int, where: str) -> None:
        """So many runs are sent to this place."""

    def update(self, progress: Progress) -> None:
        """Show how far it has got; called before and after each delivery, and while the destination is away."""

    def end(self, upload: Upload) -> None:
        """Show what became of a run."""

    def close(self) -> None:
        """Leave the terminal as it was."""


class PlainDisplay:
    """A line at the beginning, one for each run, and one for each time that the destination goes away."""

    def __init__(self) -> None:
        self._away = False

    def begin(self, runs: int, where: str) -> None:
        """Print where to."""
        _line(f"sending {runs} run{'s' if runs != 1 else ''} to {where}")

    def update(self, progress: Progress) -> None:
        """Print what is being waited for, when that begins."""
        if progress.trouble and not self._away:
            _line(_waiting(progress))
        self._away = bool(progress.trouble)

    def end(self, upload: Upload) -> None:
        """Print what became of it."""
        self._away = False
        _line(f"{upload.run}: {in_words(upload)}")

    def close(self) -> None:
        """Nothing is left to be done."""


class LiveDisplay:
    """A bar for the run that is being sent: points, points per second, and what is being waited for.

    Raises:
        ImportError: rich is not installed.
    """

    def __init__(self) -> None:
        from rich.console import Console, Group
        from rich.live import Live
        from rich.progress_bar import ProgressBar
        from rich.spinner import Spinner
        from rich.table import Table
        from rich.text import Text

        self._bar, self._table, self._text, self._group = ProgressBar, Table, Text, Group
        self._console = Console(stderr=True, highlight=False)
        self._spinner = Spinner("dots", style="cyan")
        self._where = ""
        self._runs = 0
        self._numbers: dict[str, int] = {}
        self._rate = _Rate()
        self._progress: Progress | None = None
        self._live = Live(
            console=self._console,
            transient=True,
            redirect_stdout=False,
            get_renderable=self._frame,
            refresh_per_second=8,
        )
        self._live.start()

    def begin(self, runs: int, where: str) -> None:
        """Show where to."""
        self._where, self._runs, self._progress = where, runs, None
        self._numbers.clear()

    def update(self, progress: Progress) -> None:
        """Note it; it is drawn several times a second."""
        self._numbers.setdefault(progress.run, len(self._numbers) + 1)
        self._rate.note(progress.run, progress.done)
        self._progress = progress

    def _frame(self) -> Any:
        head = self._table.grid(padding=(0, 1))
        progress = self._progress
        if progress is None:
            head.add_row(self._spinner, self._text(f"connecting to {self._where} …", style="dim"))
            return head
        row = self._table.grid(padding=(0, 1))
        row.add_row(
            self._spinner,
            self._text(f"{self._numbers[progress.run]}/{self._runs}", style="dim"),
            self._text(progress.run),
            self._bar(total=max(progress.total, 1), completed=progress.done, width=_BAR, complete_style="cyan"),
            self._text(f"{progress.done:,}/{progress.total:,} points"),
            self._text("" if progress.trouble else f"{self._rate.now():,.0f}/s", style="dim"),
        )
        if progress.awaited and not progress.trouble:
            return self._group(row, self._text(f"  {progress.awaited:,} on their way into its database", style="dim"))
        if not progress.trouble:
            return row
        return self._group(row, self._text(f"  {_waiting(progress)}", style="yellow"))

    def end(self, upload: Upload) -> None:
        """Nothing is shown of it: the table comes at the end."""

    def close(self) -> None:
        """Take it away."""
        self._live.stop()


class _Rate:
    """Points per second of a run, over the last few seconds."""

    _SECONDS: Final = 5.0

    def __init__(self) -> None:
        self._run = ""
        self._marks: list[tuple[float, int]] = []

    def note(self, run: str, done: int) -> None:
        """So many are done now; what was done before we began is no speed of ours."""
        now = time.monotonic()
        if run != self._run:
            self._run, self._marks = run, []
        while len(self._marks) > 1 and self._marks[1][0] < now - self._SECONDS:
            del self._marks[0]
        self._marks.append((now, done))

    def now(self) -> float:
        """The speed."""
        if not self._marks:
            return 0.0
        (since, first), (_, last) = self._marks[0], self._marks[-1]
        return (last - first) / max(time.monotonic() - since, 0.1)


def display() -> Display:
    """The display that fits what stderr is."""
    if sys.stderr.isatty():
        with contextlib.suppress(ImportError):
            return LiveDisplay()
    return PlainDisplay()


def in_words(upload: Upload) -> str:
    """What became of a run, in one line."""
    words = [f"{counted(upload.sent)} sent"]
    if upload.before:
        words.append(f"{upload.before:,} had been sent before")
    if upload.dropped:
        words.append(f"{upload.dropped:,} dropped ({why_dropped(upload)})")
    if upload.again:
        words.append(f"{upload.again:,} sent again")
    if upload.confirmed and not upload.problems:
        words.append("confirmed")
    if upload.left:
        words.append(f"about {upload.left:,} left")
    if upload.running:
        words.append("its training goes on")
    if upload.problems:
        words.append(upload.problems[0])
    return ", ".join(words)


def why_dropped(upload: Upload) -> str:
    """Why points of it were dropped."""
    unfit = upload.dropped - upload.refused
    words = [f"{unfit:,} nan, infinite or of an impossible time"] if unfit else []
    words += [f"{upload.refused:,} refused"] if upload.refused else []
    return ", ".join(words)


def counted(points: int) -> str:
    """A number of points."""
    return f"{points:,} point{'s' if points != 1 else ''}"


def _waiting(progress: Progress) -> str:
    return f"waiting: {progress.trouble.rstrip('.')}, trying again"


def _line(text: str) -> None:
    with contextlib.suppress(OSError):
        click.echo(f"mlops: {text}", err=True)
