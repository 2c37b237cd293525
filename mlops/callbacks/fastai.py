"""The callback that monitors a fastai training.

::

    from mlops.callbacks.fastai import MonascaCallback
    learn = Learner(dls, model, metrics=accuracy, cbs=MonascaCallback())

What it reads is told in :mod:`mlops.callbacks._fastai`, and how it learns of a fit's end in
:mod:`mlops.callbacks._fastai_end`.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from mlops.callbacks.base import RunChoice, Session, check_release
from mlops.errors import MissingExtraError, MlopsError
from mlops.run import Run, outcome_of
from mlops.sinks import Sink

try:
    import fastai
    from fastai.callback import core
    from fastai.learner import Learner

    from mlops.callbacks._fastai import Fit, parameters_of
    from mlops.callbacks._fastai_end import Listener
except ModuleNotFoundError as error:
    raise MissingExtraError(error.name or "fastai", "fastai") from error

__all__ = ["MonascaCallback"]

_EVENTS: Final = frozenset(name for name in vars(core.event) if name.startswith(("before_", "after_")))
_CANCELS: Final = tuple(getattr(core, name) for name in core.__all__ if name.startswith("Cancel"))
_log = logging.getLogger("mlops")


class _State:
    """What a callback knows of the fit under way; never copied."""

    def __init__(self, handlers: dict[str, Callable[[], None]], listener: Listener) -> None:
        self.handlers = handlers
        self.listener = listener
        self.fit: Fit | None = None
        self.session: Session | None = None
        self.ending = ("finished", "")
        self.skip = False  # this fit is not to be recorded
        self.nested = 0  # a callback called validate() or get_preds() within the fit
        self.run_dir: Path | None = None


class MonascaCallback(core.Callback):  # type: ignore[misc] # fastai says nothing of its types
    """Records a fastai training, meters its energy and sends both to Monasca.

    It logs into ``run``, or into the run that is open; without any, each fit is a run of its own, which ends as the
    fit does: finished, cancelled (CancelFitException), interrupted (Ctrl-C) or failed, with the reason.  Several fits
    within one ``with mlops.Run(…):`` share it, and its count of epochs goes on.

    Per batch: ``train.loss``, ``train.smooth_loss``, ``train.lr``; ``train.samples_per_second`` once a second.
    Per epoch: ``valid.loss``, every metric as ``valid.<metric>``, ``train.epoch_loss`` (the mean over the samples),
    ``train.epoch``, ``train.epoch_seconds`` and the epoch's energy.  What the training was called with becomes the
    run's parameters.  ``lr_find``, ``get_preds`` and ``validate`` are left out.  Ranks share one run, in which rank 0
    speaks for all: the losses that fastai shows are gathered already.

    It never raises into the training: what goes wrong is one warning.  ``learn.export()`` keeps the callback, without
    its run; to load the file where mlops is not installed, ``learn.remove_cb(MonascaCallback)`` first.

    Args:
        name: of the runs it opens; the script's name if given nowhere.
        run: an open run to log into; then all others but ``parameters`` are :class:`mlops.run.Run`'s business.
        dimensions: of every series, such as ``{"team": "vision"}``.
        parameters: noted with those found, and above them.
        sinks: where points go besides the store.  A Sink object is closed with its run; a URL serves every fit.
        devices: what is metered, such as ``["nvidia", "host"]``.
        runs_dir: the folder of runs.

    Raises:
        MlopsError: an argument or a setting cannot be understood; said here, never in the loop.
    """

    order = 51  # the Recorder's is 50
    learn: Any
    run: bool  # fastai's switch for a callback, no mlops.Run

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
        self._init_state()
        self._choice = RunChoice(
            name,
            run=run,
            dimensions=dimensions,
            parameters=parameters,
            sinks=sinks,
            devices=devices,
            runs_dir=runs_dir,
        )

    def _init_state(self) -> None:
        """Begin without a fit; also fastcore's hook when this was unpickled or copied."""
        self._state = _State(self._handlers(), Listener(self._epoch_is_over))

    def _handlers(self) -> dict[str, Callable[[], None]]:
        return {name: getattr(self, name) for name in _EVENTS if hasattr(type(self), name)}

    @property
    def run_dir(self) -> Path | None:
        """The folder of the run that the latest fit was recorded in."""
        return self._state.run_dir

    def __call__(self, event_name: str) -> None:
        """Take an event.  The usual form looks each one that it lacks up through the learner and the model: 60 us."""
        handler = self._state.handlers.get(event_name)
        if handler is None or not (self.run or event_name == "after_fit"):
            return
        try:
            handler()
        except _CANCELS:  # from a subclass
            raise
        except Exception as error:  # noqa: BLE001 - whatever it is, the training goes on
            if event_name != "before_fit":  # which gives every event another try
                del self._state.handlers[event_name]
            _warn(f"{event_name} is passed over for the rest of this fit", error)
        if event_name == "after_fit":
            self.run = True  # as in fastai's own __call__

    def before_fit(self) -> None:
        """A fit begins, or something that only looks like one: nothing is opened before it trains."""
        state = self._state
        if state.listener.in_epoch:
            state.nested += 1
            return
        self._end(*state.ending)  # of a fit whose end was not heard
        self._follow_the_caller()
        state.handlers.update(self._handlers())
        state.nested, state.ending = 0, ("finished", "")
        state.skip = not {"lr_finder", "gather_preds"}.isdisjoint(vars(self.learn)) or self._stands_back()
        if not state.skip:
            state.listener.listen(self.learn)

    def before_train(self) -> None:
        """The training part of an epoch begins; with the first one, the run."""
        state = self._state
        if state.skip or state.nested:
            return
        if state.fit is None:
            check_release("fastai", fastai.__version__, "2.8", "fastai")
            state.session = self._choice.begin(parameters_of(self.learn))
            state.run_dir = state.session.run.dir
            state.fit = Fit(self.learn, state.session.run)
            state.handlers["after_batch"] = state.fit.batch  # a call less for every batch
        state.fit.start_epoch()

    def after_batch(self) -> None:
        """A batch is over."""
        if (fit := self._state.fit) is not None:
            fit.batch()

    def after_train(self) -> None:
        """The training part of an epoch is over."""
        if (fit := self._state.fit) is not None:
            fit.end_training()

    def after_validate(self) -> None:
        """The validation part of an epoch is over."""
        if (fit := self._state.fit) is not None and not self._state.nested:
            fit.end_validation()

    def after_epoch(self) -> None:
        """An epoch is over."""
        if (fit := self._state.fit) is not None and not self._state.nested:
            fit.end_epoch()

    def after_fit(self) -> None:
        """A fit is over, or something that only looks like one."""
        state = self._state
        if state.nested:
            state.nested -= 1
            return
        state.listener.stop(self.learn)
        self._end(*state.ending)

    def _end(self, outcome: str = "finished", reason: str = "") -> None:
        """End what is recorded of a fit; a second call does nothing."""
        state = self._state
        fit, session = state.fit, state.session
        state.fit = state.session = None
        state.handlers["after_batch"] = self.after_batch
        try:
            with contextlib.ExitStack() as both:
                if session is not None:
                    both.callback(session.end, outcome, reason)
                if fit is not None:
                    both.callback(fit.close)
        except Exception as error:  # noqa: BLE001 - the training ends in its own way
            _warn("the end of the fit", error)

    def _follow_the_caller(self) -> None:
        """Of several learners that were given this one callback, fit's caller is meant; fastai knows only the last."""
        frame = sys._getframe(2)  # noqa: SLF001 - an event carries its name and nothing else
        while frame.f_back is not None and not isinstance(frame.f_locals.get("self"), Learner):
            frame = frame.f_back
        caller = frame.f_locals.get("self")
        if isinstance(caller, Learner) and caller is not self.learn and self in caller.cbs:
            self.learn = caller

    def _stands_back(self) -> bool:
        """Whether another callback records this fit."""
        if vars(self.learn).get(self.name, self) is self:
            return False
        _log.warning("This learner has more than one %s; the one that was added last records.", type(self).__name__)
        return True

    def _epoch_is_over(self, learn: Any, error: BaseException | None) -> bool:
        """Whether the fit goes on; every other end than its own is met here."""
        state = self._state
        state.nested = 0
        if isinstance(error, core.CancelFitException):  # after_fit will follow
            state.ending = ("cancelled", _whence(error))
        elif error is not None:
            self._end(*outcome_of(error))
        elif self not in learn.cbs:  # it was taken off the learner meanwhile
            self._end()
        else:
            return True
        return False


def _whence(error: BaseException) -> str:
    """The exception's name and what raised it, for example ``EarlyStoppingCallback.after_epoch``."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return f"{type(error).__name__} from {trace.tb_frame.f_code.co_qualname}" if trace else type(error).__name__


def _warn(what: str, error: Exception) -> None:
    text = str(error) if isinstance(error, MlopsError) else f"{type(error).__name__}: {error}."
    _log.warning("The training goes on, but not all of it is monitored; %s: %s", what, text)
