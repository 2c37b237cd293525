"""What the callbacks of frameworks that have a Trainer share: options, the run of the training under way, the guard."""

from __future__ import annotations

import functools
import logging
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mlops.callbacks.base import RunChoice, Session
from mlops.errors import MlopsError
from mlops.run import Run
from mlops.series import METRICS
from mlops.sinks import Sink

__all__ = ["Adapter", "Names", "guarded"]

_log = logging.getLogger("mlops")


class Adapter:
    """A callback, of whatever framework.

    What it knows of a training is never copied: a copy, pickled or not, keeps the options alone.

    Args:
        name: as all the others, :class:`mlops.callbacks.base.RunChoice`'s.
        run: see there.
        dimensions: see there.
        parameters: see there.
        sinks: see there.
        devices: see there.
        runs_dir: see there.

    Raises:
        MlopsError: an argument or a setting cannot be understood.
    """

    def __init__(
        self,
        name: str | None = None,
        *,
        run: Run | None = None,
        dimensions: Mapping[str, str | int | float] | None = None,
        parameters: Mapping[str, Any] | None = None,
        sinks: Sequence[str | Sink] | None = None,
        devices: Sequence[str] | None = None,
        runs_dir: str | os.PathLike[str] | None = None,
    ) -> None:
        super().__init__()
        self._begin_anew()
        self._choice = RunChoice(
            name,
            run=run,
            dimensions=dimensions,
            parameters=parameters,
            sinks=sinks,
            devices=devices,
            runs_dir=runs_dir,
        )

    def _begin_anew(self) -> None:
        """Know of no training."""
        self._fit: Any = None
        self._session: Session | None = None
        self._ending = ("finished", "")
        self._failed: set[Callable[..., None]] = set()
        self._run_dir: Path | None = None

    @property
    def run_dir(self) -> Path | None:
        """The folder of the run that the latest fit was recorded in."""
        return self._run_dir

    def _begin(self, found: Mapping[str, Any]) -> Run:
        """The run of a training that begins, with the parameters that were found."""
        self._session = self._choice.begin(found)
        self._run_dir = self._session.run.dir
        self._ending = ("failed", "Nobody said how the fit ended.")
        return self._session.run

    def _end(self, outcome: str, reason: str) -> None:
        """End what is recorded of a fit; a second call does nothing."""
        session, self._session, self._fit, self._ending = self._session, None, None, ("finished", "")
        self._failed.clear()
        if session is not None:
            session.end(outcome, reason)

    def _is_the_last_of(self, callbacks: Iterable[object]) -> bool:
        """Whether none of ours comes after this one among a trainer's callbacks; if one does, that is said."""
        ours = [callback for callback in callbacks if isinstance(callback, Adapter)]
        if ours[-1:] in ([], [self]):
            return True
        _log.warning("This trainer has more than one %s; the last one records.", type(self).__name__)
        return False

    def __getstate__(self) -> dict[str, Any]:
        return {"_choice": self._choice}

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        self._begin_anew()
        self.__dict__.update(state)


def guarded(hook: Callable[..., None]) -> Callable[..., None]:
    """The hook, out of which no exception gets into the training; after one, it is passed over until the next fit."""

    @functools.wraps(hook)
    def passed(self: Adapter, *args: Any, **kwargs: Any) -> None:
        if hook in self._failed:
            return
        try:
            hook(self, *args, **kwargs)
        except Exception as error:  # noqa: BLE001 - whatever it is, the training goes on
            self._failed.add(hook)
            _warn(f"{hook.__name__} is passed over for the rest of this fit", error)

    return passed


def _warn(what: str, error: Exception) -> None:
    text = str(error) if isinstance(error, MlopsError) else f"{type(error).__name__}: {error}."
    _log.warning("The training goes on, but not all of it is monitored; %s: %s", what, text)


class Names:
    """Under which names a framework's metrics are recorded: no two under one, and none under one of mlops' own.

    Args:
        known: names that are settled beforehand, by the framework's; these may be mlops' own.
        allowed: of mlops' own, those that may be given later.
    """

    def __init__(self, known: Mapping[str, str], allowed: Iterable[str] = ()) -> None:
        self._names = dict(known)
        self._taken = {*known.values(), *METRICS}.difference(allowed)

    def of(self, key: str, wanted: Callable[[str], str]) -> str:
        """The name for a framework's, which is the wanted one or that one with a number."""
        if (name := self._names.get(key)) is None:
            name = first = wanted(key)
            number = 1
            while name in self._taken:
                number += 1
                name = f"{first}_{number}"
            self._taken.add(name)
            self._names[key] = name
        return name
