"""The callback that monitors a Lightning training, of ``lightning`` as of ``pytorch_lightning``.

::

    from mlops.callbacks.lightning import MonascaCallback
    trainer = Trainer(callbacks=[MonascaCallback()])

What it reads is told in :mod:`mlops.callbacks._lightning`.
"""

from __future__ import annotations

import functools
import importlib.util
import logging
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mlops.callbacks._lightning import Fit, ending_of, parameters_of
from mlops.callbacks.base import RunChoice, Session
from mlops.errors import MissingExtraError, MlopsError
from mlops.run import Run
from mlops.sinks import Sink

__all__ = ["MonascaCallback"]

_log = logging.getLogger("mlops")


def _of_lightning() -> type:
    from lightning.pytorch import Callback

    return Callback


def _of_pytorch_lightning() -> type:
    from pytorch_lightning import Callback

    return Callback


def _base() -> type:
    """A callback to whichever of the two packages is in use: they are one code with two classes ``Callback``.

    If neither is imported yet, one that is installed.  The other's Trainer takes the callback too, from a list.
    """
    packages = {"lightning.pytorch": _of_lightning, "pytorch_lightning": _of_pytorch_lightning}
    imported = [name for name in packages if sys.modules.get(name)]
    installed = [name for name in packages if importlib.util.find_spec(name.partition(".")[0])]
    chosen = imported or installed[:1] or ["lightning.pytorch"]
    return type("_Base", tuple(packages[name]() for name in chosen), {})


_Base: Any
try:
    _Base = _base()
except ModuleNotFoundError as error:
    raise MissingExtraError(error.name or "lightning", "lightning") from error


def _guarded(hook: Callable[..., None]) -> Callable[..., None]:
    """The hook, out of which no exception gets into the training; after one, it is passed over until the next fit."""

    @functools.wraps(hook)
    def guarded(self: MonascaCallback, *args: Any, **kwargs: Any) -> None:
        if hook in self._failed:
            return
        try:
            hook(self, *args, **kwargs)
        except Exception as error:  # noqa: BLE001 - whatever it is, the training goes on
            self._failed.add(hook)
            _warn(f"{hook.__name__} is passed over for the rest of this fit", error)

    return guarded


class MonascaCallback(_Base):  # type: ignore[misc] # which class it is shows when it is imported
    """Records a Lightning training, meters its energy and sends both to Monasca.

    It logs into ``run``, or into the run that is open; without any, each fit is a run of its own, which ends as the
    fit does: finished, cancelled (EarlyStopping, or who else sets ``trainer.should_stop``), interrupted (Ctrl-C,
    SIGTERM) or failed, with the reason.  Several fits within one ``with mlops.Run(…):`` share it, and its count of
    epochs goes on.

    Per batch: ``train.loss``, ``train.lr``; ``train.samples_per_second`` once a second, by the loader's batch size,
    for this process.  Per epoch: what the module logged (``val_loss`` as ``valid.loss``, ``train/acc`` as
    ``train.acc``, ``f1`` as itself), ``train.epoch``, ``train.epoch_seconds`` and the epoch's energy.  What the
    training was called with becomes the run's parameters.  The sanity check, ``fast_dev_run``, the tuner,
    ``validate``, ``test`` and ``predict`` are left out.  Nothing waits for a GPU.

    It never raises into the training: what goes wrong is one warning.  A checkpoint holds nothing of it, and a copy,
    pickled or not, has no run.

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
        self._fit: Fit | None = None
        self._session: Session | None = None
        self._ending = ("finished", "")
        self._failed: set[Callable[..., None]] = set()
        self._run_dir: Path | None = None

    @property
    def run_dir(self) -> Path | None:
        """The folder of the run that the latest fit was recorded in."""
        return self._run_dir

    @_guarded
    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Training begins; what only looks like it does not come so far."""
        self._end(*self._ending)  # of a fit whose end was not heard
        if trainer.fast_dev_run or not self._records(trainer):
            return
        self._session = self._choice.begin(parameters_of(trainer, pl_module))
        self._run_dir = self._session.run.dir
        self._ending = ("failed", "Nobody said how the fit ended.")
        self._fit = Fit(trainer, self._session.run)

    def _records(self, trainer: Any) -> bool:
        """Whether this process records the fit: the one place that decides about ranks.  Today rank 0 alone does."""
        if not trainer.is_global_zero:
            return False
        ours = [callback for callback in trainer.callbacks if isinstance(callback, MonascaCallback)]
        if ours[-1:] in ([], [self]):
            return True
        _log.warning("This trainer has more than one %s; the last one records.", type(self).__name__)
        return False

    @_guarded
    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        """An epoch begins; by now, all that was logged in the one before is reduced."""
        metrics = trainer.callback_metrics  # by all ranks: reducing what others log here already may be collective
        if (fit := self._fit) is not None:
            fit.end_epoch(metrics)
            fit.start_epoch()

    @_guarded
    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """A batch is about to be trained on."""
        if (fit := self._fit) is not None:
            fit.start_batch()

    @_guarded
    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """A batch was trained on."""
        if (fit := self._fit) is not None:
            fit.end_batch(outputs, batch, batch_idx)

    @_guarded
    def on_validation_start(self, trainer: Any, pl_module: Any) -> None:
        """A validation begins, within a fit or without."""
        if (fit := self._fit) is not None:
            fit.pause()

    @_guarded
    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        """A validation is over."""
        if (fit := self._fit) is not None:
            fit.resume()

    @_guarded
    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """An epoch is over; the module may log something yet."""
        if (fit := self._fit) is not None:
            fit.end_training()

    @_guarded
    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """Training is over."""
        if (fit := self._fit) is not None:
            self._ending = ending_of(trainer)
            fit.end_epoch(trainer.callback_metrics)

    @_guarded
    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """An exception, Ctrl-C among them, ends whatever the trainer does."""
        fit = self._fit
        try:
            if fit is not None:  # reading metrics may be a collective, which no other rank has reason to join in now
                fit.end_epoch(trainer.callback_metrics if trainer.world_size == 1 else {})
        finally:
            self._end(*ending_of(trainer, exception))

    @_guarded
    def teardown(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """All hooks have been called, those of others too."""
        self._end(*self._ending)

    def _end(self, outcome: str, reason: str) -> None:
        """End what is recorded of a fit; a second call does nothing."""
        session, self._session, self._fit, self._ending = self._session, None, None, ("finished", "")
        self._failed.clear()
        if session is not None:
            session.end(outcome, reason)

    def __getstate__(self) -> dict[str, Any]:
        return {"_choice": self._choice}

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        self._begin_anew()
        self.__dict__.update(state)


def _warn(what: str, error: Exception) -> None:
    text = str(error) if isinstance(error, MlopsError) else f"{type(error).__name__}: {error}."
    _log.warning("The training goes on, but not all of it is monitored; %s: %s", what, text)
