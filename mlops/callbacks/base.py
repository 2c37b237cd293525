"""What every framework's callback shares: which run it logs into, told and checked before the training begins."""

from __future__ import annotations

import os
import weakref
from collections.abc import Mapping, Sequence
from typing import Any, Final

from mlops.devices import opener
from mlops.errors import RunError, SettingsError
from mlops.run import Run, current_run
from mlops.series import check_dimensions
from mlops.settings import Settings
from mlops.sinks import Sink, open_sink

__all__ = ["RunChoice", "Session", "check_release"]

_told: Final[weakref.WeakKeyDictionary[Run, dict[str, Any]]] = weakref.WeakKeyDictionary()
"""What callbacks found out about the trainings within a run, as against what its user said."""

_own: Final[weakref.WeakSet[Run]] = weakref.WeakSet()
"""Runs that a callback opened for one training; another training meanwhile is none of theirs."""


class Session:
    """One training within a run.

    Attributes:
        run: that it logs into.
        own: whether the run was opened for it, and ends with it.
    """

    __slots__ = ("own", "run")

    def __init__(self, run: Run, *, own: bool) -> None:
        self.run = run
        self.own = own

    def end(self, outcome: str = "finished", reason: str = "") -> None:
        """End the run if it is the training's own; a second call does nothing."""
        if self.own:
            self.run.close(outcome, reason)


class RunChoice:
    """The run given, else the one that is open, else one of the training's own.

    Copies of it, pickled or not, keep no run and no :class:`~mlops.sinks.Sink` object, since those hold threads and
    sockets: a copy chooses for itself.

    Args:
        name: of runs of its own.
        run: to log into; excludes every other argument but ``parameters``.
        dimensions: of its own runs.
        parameters: noted in any run, above what the callback finds out by itself.
        sinks: of its own runs. A Sink object is closed with the first of them; a URL serves them all.
        devices: of its own runs.
        runs_dir: of its own runs.

    Raises:
        MlopsError: one of them, or a setting, cannot be understood, with the remedy.
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
        self._run = run
        self._parameters = dict(parameters or {})
        self._options: dict[str, Any] = {
            "name": name,
            "dimensions": None if dimensions is None else dict(dimensions),
            "sinks": _as_list("sinks", sinks),
            "devices": _as_list("devices", devices),
            "runs_dir": runs_dir,
        }
        if run is not None:
            self._check_run(run)
        self._check_options()

    def _check_run(self, run: object) -> None:
        if not isinstance(run, Run):
            raise RunError(f"run={run!r:.60} is no mlops.Run", remedy="Leave it out, or pass one that is open.")
        for option, value in self._options.items():
            if value is not None:
                raise RunError(f"{option} was given beside run", remedy=f"Pass {option} to mlops.Run itself.")

    def _check_options(self) -> None:
        options = self._options
        settings = Settings.load()
        if options["name"] is not None:
            check_dimensions({"run": options["name"]}, "the run's name")
        check_dimensions(options["dimensions"] or {})
        for device in settings.devices if options["devices"] is None else options["devices"]:
            opener(device)
        for sink in settings.sinks if options["sinks"] is None else options["sinks"]:
            if not isinstance(sink, Sink):
                open_sink(sink, settings).close(0.0)

    def begin(self, found: Mapping[str, Any]) -> Session:
        """The session of a training that begins.

        Args:
            found: what the callback found out about the training; noted as parameters beneath the
                user's. ``epochs`` of several trainings within one run add up.

        Raises:
            MlopsError: the run cannot be opened, or has ended.
        """
        run = self._run or current_run()
        if run is None or (run in _own and run is not self._run):
            run = Run(**self._options, parameters={**found, **self._parameters})
            _own.add(run)
            return Session(run, own=True)
        if not run.is_open:
            raise RunError(f"{run!r} was given to the callback and has ended", remedy="Give it one that is open.")
        told = _told.setdefault(run, {})
        said = set(run.parameters) - set(told)
        fresh = dict(found)
        if "epochs" in fresh:
            fresh["epochs"] += told.get("epochs", 0)
        told.update({name: value for name, value in fresh.items() if name not in said})
        told.update(self._parameters)
        run.note(**told)
        return Session(run, own=False)

    def __getstate__(self) -> dict[str, Any]:
        sinks = self._options["sinks"]
        urls = None if sinks is None else [sink for sink in sinks if isinstance(sink, str)]
        return {**self.__dict__, "_run": None, "_options": {**self._options, "sinks": urls}}


def check_release(framework: str, release: str, oldest: str, extra: str) -> None:
    """Refuse a release of a framework that does not say of a training what its callback reads.

    Args:
        framework: its name.
        release: its version.
        oldest: the first version that does.
        extra: of ours, which brings a good one.

    Raises:
        RunError: it is too old.
    """
    if _numbers(release) < _numbers(oldest):
        raise RunError(
            f"{framework} {release} is older than {oldest}", remedy=f"Update it with: pip install 'mlops[{extra}]'"
        )


def _numbers(release: str) -> list[int]:
    return [int(part) for part in release.split(".")[:2] if part.isdecimal()]


def _as_list(option: str, given: Any) -> list[Any] | None:
    """A list, or a sentence about what is none: a text would be taken letter by letter."""
    if given is None:
        return None
    if isinstance(given, str | Sink):
        raise SettingsError(f"{option}={given!r} is no list", remedy=f"Write {option}=[{given!r}].")
    return list(given)
