"""What is shown while a notebook runs: a live display on a terminal, a line a cell elsewhere."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol

import click

from mlops.cli import output
from mlops.errors import MlopsError
from mlops.notebook import Execution, Progress, Step

if TYPE_CHECKING:
    from mlops.record import PointsReader

__all__ = ["Display", "LiveDisplay", "PlainDisplay", "Silence", "Watch", "display"]

_SIGN_OF_LIFE: Final = 60.0
"""Seconds after which a cell that still runs gets a line where there is no terminal."""
_POLL: Final = 0.5
_TITLE: Final = 44


class Display(Protocol):
    """Shows how a notebook goes."""

    def update(self, execution: Execution) -> None:
        """Show what is new; called several times a second."""

    def say(self, text: str) -> None:
        """Show a line of text."""

    def close(self) -> None:
        """Leave the terminal as it was."""


class Watch:
    """Follows what the processes of a run record, and tells the newest of it.

    Args:
        folder: the run's.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._readers: dict[Path, PointsReader] = {}
        self._values: dict[str, float] = {}
        self._watts: dict[tuple[str, str], float] = {}
        self._due = 0.0

    def line(self) -> str:
        """Epoch, losses, metrics and power so far, as far as they are recorded; read at most twice a second."""
        if time.monotonic() >= self._due:
            with contextlib.suppress(MlopsError, OSError):
                self._read()
            self._due = time.monotonic() + _POLL
        return " · ".join(_words(self._values, self._watts.values()))

    def _read(self) -> None:
        from mlops.record import PointsReader

        for path in self._folder.glob("*.points"):
            reader = self._readers.setdefault(path, PointsReader(path))
            for columns in reader.read():
                newest = dict(zip(columns.series.tolist(), columns.value.tolist(), strict=True))
                for number, value in newest.items():
                    series = reader.series.get(number)
                    if series is None:
                        continue
                    self._values[series.name] = value
                    if series.name.endswith(".power_watts"):
                        self._watts[path.name, str(series)] = value


def _words(values: Mapping[str, float], watts: Iterable[float]) -> Iterable[str]:
    if "train.epoch" in values:
        yield f"epoch {values['train.epoch']:.0f}"
    loss = values.get("train.smooth_loss", values.get("train.loss"))
    if loss is not None:
        yield f"loss {loss:.4g}"
    for name in sorted(values, key=lambda name: (name != "valid.loss", name)):
        if name.startswith("valid."):
            yield f"{'valid loss' if name == 'valid.loss' else name.removeprefix('valid.')} {values[name]:.4g}"
    watts = list(watts)
    if watts:
        yield f"{sum(watts):.0f} W"


class Silence:
    """Shows nothing: for output that a program reads."""

    def update(self, execution: Execution) -> None:
        """Nothing."""

    def say(self, text: str) -> None:
        """Nothing."""

    def close(self) -> None:
        """Nothing."""


class PlainDisplay:
    """A line for each cell once it has run, and one a minute for a cell that takes long.

    Args:
        watch: tells what is recorded.
    """

    def __init__(self, watch: Watch) -> None:
        self._watch = watch
        self._since = 0.0
        self._current: Step | None = None
        self._begun = 0.0
        self._recorded = ""

    def update(self, execution: Execution) -> None:
        """Print what is new."""
        for news in _drained(execution):
            self._current = news.step if news.state == "started" else None
            self._since = self._begun = time.monotonic()
            if news.state != "started":
                self._line(news.step, news.seconds, "" if news.state == "finished" else "failed")
        if self._current is not None and time.monotonic() - self._since > _SIGN_OF_LIFE:
            self._since = time.monotonic()
            self._line(self._current, self._since - self._begun, "still running")

    def _line(self, step: Step, seconds: float, state: str) -> None:
        recorded = self._watch.line()
        new, self._recorded = recorded != self._recorded, recorded
        parts = [output.duration(seconds), *([state] if state else []), *([recorded] if recorded and new else [])]
        click.echo(f"[{step.number}/{step.total}] {_title(step).ljust(_TITLE)}  {', '.join(parts)}".rstrip())

    def say(self, text: str) -> None:
        """Print a line."""
        click.echo(text)

    def close(self) -> None:
        """Nothing is left to be done."""


class LiveDisplay:
    """Cells that have run, as lines with a tick; beneath them the one that runs, its figures and a bar.

    Args:
        watch: tells what is recorded.

    Raises:
        ImportError: rich is not installed.
    """

    def __init__(self, watch: Watch) -> None:
        from rich.console import Console
        from rich.live import Live
        from rich.spinner import Spinner

        self._watch = watch
        self._console = Console(highlight=False)
        self._spinner = Spinner("dots", style="cyan")
        self._current: Step | None = None
        self._begun = time.monotonic()
        self._done = 0
        self._total = 0
        self._live = Live(console=self._console, transient=True, auto_refresh=False, redirect_stdout=False)
        self._live.start()

    def update(self, execution: Execution) -> None:
        """Draw what is new."""
        for news in _drained(execution):
            self._total = news.step.total
            if news.state == "started":
                self._current, self._begun = news.step, time.monotonic()
            else:
                self._current, self._done = None, news.step.number
                self._live.console.print(self._row(news.step, news.seconds, news.state))
        self._live.update(self._frame(), refresh=True)

    def _frame(self) -> Any:
        from rich.console import Group
        from rich.padding import Padding
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        seconds = time.monotonic() - self._begun
        if self._current is not None:
            head = self._row(self._current, seconds, "started")
        else:
            head = Table.grid(padding=(0, 1))
            head.add_row(self._spinner, Text("starting the kernel …" if not self._total else "…", style="dim"))
        recorded = Text(self._watch.line(), style="cyan", no_wrap=True, overflow="ellipsis")
        bar = ProgressBar(total=max(self._total, 1), completed=self._done, width=_TITLE, complete_style="cyan")
        return Group(head, Padding(recorded, (0, 0, 0, 8)), Padding(bar, (0, 0, 0, 8)))

    def _row(self, step: Step, seconds: float, state: str) -> Any:
        from rich.table import Table
        from rich.text import Text

        mark: Any = {"finished": Text("✓", style="green"), "failed": Text("✗", style="bold red")}.get(state)
        room = len(str(step.total))
        row = Table.grid(padding=(0, 1))
        row.add_row(
            self._spinner if mark is None else mark,
            Text(f"{step.number:>{room}}/{step.total}".ljust(5), style="dim"),
            Text(_title(step).ljust(_TITLE), style="" if mark is None else "default"),
            Text(output.duration(seconds).rjust(10), style="dim"),
        )
        return row

    def say(self, text: str) -> None:
        """Print a line above what is live."""
        self._live.console.print(text)

    def close(self) -> None:
        """Take away what is live."""
        self._live.stop()


def display(folder: Path, *, quiet: bool) -> Display:
    """The display that fits what stdout is.

    Args:
        folder: the run's, whose newest figures are shown.
        quiet: nothing at all is to be shown.
    """
    if quiet:
        return Silence()
    watch = Watch(folder)
    if sys.stdout.isatty():
        with contextlib.suppress(ImportError):
            return LiveDisplay(watch)
    return PlainDisplay(watch)


def _drained(execution: Execution) -> Iterable[Progress]:
    while not execution.news.empty():
        yield execution.news.get()


def _title(step: Step) -> str:
    return step.title if len(step.title) <= _TITLE else step.title[: _TITLE - 1] + "…"
