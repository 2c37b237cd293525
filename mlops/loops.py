"""What a loop of one's own says of itself: its epochs, and how long it waits for data.

Both read the clock of the thread that trains, and nothing of a GPU: where that thread runs ahead of the GPU, a batch
takes as long as it takes to be handed over, and the wait for data is still the wait for data.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import TracebackType
from typing import Any, Final, Generic, Self, TypeVar

__all__ = ["Epoch", "Watched"]

WINDOW_SECONDS: Final = 1.0
"""A loop's times are means over so long, or over the loop if it is shorter."""

_T = TypeVar("_T")


class Epoch:
    """One epoch of a loop of one's own, from entering it to leaving it.

    An epoch that an exception ended is none: it is not counted, and what was logged in it stays.

    Args:
        begin: called when it begins.
        end: called with its values and seconds when it has ended; gives its number.

    Attributes:
        number: 1 for a run's first; 0 until it has ended.
    """

    def __init__(self, begin: Callable[[], None], end: Callable[[Mapping[str, Any], float], int]) -> None:
        self.number = 0
        self._begin, self._end = begin, end
        self._values: dict[str, Any] = {}
        self._started = 0.0

    def log(self, values: Mapping[str, Any]) -> None:
        """Keep values that are found out about it, such as ``{"valid.loss": …}``, until it ends."""
        self._values.update(values)

    def __enter__(self) -> Self:
        self._started = time.monotonic()
        self._begin()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.number = self._end(self._values, time.monotonic() - self._started)


class Watched(Generic[_T]):
    """An iterable, such as a loader of batches, whose every iteration tells how long it was waited for.

    What else the loader has, its length and its attributes, is reached through it.

    Args:
        loader: iterated over, once for each iteration of this.
        tell: called about once a second, and at an iteration's end, with the mean seconds per batch that were waited
            for it and that were then spent on it.
    """

    def __init__(self, loader: Iterable[_T], tell: Callable[[float, float], None]) -> None:
        self._loader = loader
        self._tell = tell

    def __iter__(self) -> Iterator[_T]:
        clock = time.monotonic
        wait = work = 0.0
        batches = 0
        asked = window = clock()
        try:
            for batch in self._loader:
                given = clock()
                yield batch
                back = clock()
                wait += given - asked
                work += back - given
                asked = back
                batches += 1
                if back - window >= WINDOW_SECONDS:
                    self._tell(wait / batches, work / batches)
                    wait, work, batches, window = 0.0, 0.0, 0, back
        finally:
            if batches:
                self._tell(wait / batches, work / batches)

    def __len__(self) -> int:
        return len(self._loader)  # type: ignore[arg-type] # what has none says so itself

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "_loader":  # so that copies and pickles find their own way
            raise AttributeError(name)
        return getattr(self._loader, name)
