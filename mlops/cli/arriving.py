"""What is shown while a run is read from a cloud: a bar on a terminal, nothing elsewhere."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import TaskID

    from mlops.report import Arrival

__all__ = ["arriving"]


@contextlib.contextmanager
def arriving() -> Iterator[Callable[[Arrival], None]]:
    """Shows how far reading has got, on standard error, and leaves nothing behind.

    Nothing is shown before the first word from the cloud, so that reading a folder shows nothing at all.
    """
    with contextlib.ExitStack() as stack:
        shown: list[Callable[[Arrival], None]] = []

        def tell(arrival: Arrival) -> None:
            if not shown:
                shown.append(stack.enter_context(_bar()))
            shown[0](arrival)

        yield tell if sys.stderr.isatty() else _nothing


def _nothing(_arrival: Arrival) -> None:
    """Shows nothing."""


@contextlib.contextmanager
def _bar() -> Iterator[Callable[[Arrival], None]]:
    try:
        from rich.console import Console
        from rich.markup import escape
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
    except ImportError:
        yield _nothing
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[points]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        tasks: dict[str, TaskID] = {}

        def tell(arrival: Arrival) -> None:
            if arrival.run not in tasks:
                tasks[arrival.run] = bar.add_task(f"reading {escape(arrival.run)}", total=None, points="")
            points = f"{arrival.done:,} points" if arrival.total else "counting"
            trouble = f" [yellow]{escape(arrival.trouble)}[/]" if arrival.trouble else ""
            bar.update(
                tasks[arrival.run],
                completed=arrival.done,
                total=arrival.total or None,
                points=points + trouble,
            )

        yield tell
