"""The callback that monitors a Lightning training, of ``lightning`` as of ``pytorch_lightning``.

::

    from mlops.callbacks.lightning import MonascaCallback
    trainer = Trainer(callbacks=[MonascaCallback()])

What it reads is told in :mod:`mlops.callbacks._lightning`.
"""

from __future__ import annotations

import importlib.util
import sys
from typing import Any

from mlops.callbacks._adapter import Adapter, guarded
from mlops.callbacks._lightning import OLDEST, Fit, ending_of, parameters_of
from mlops.callbacks.base import check_release
from mlops.errors import MissingExtraError

__all__ = ["MonascaCallback"]


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


class MonascaCallback(Adapter, _Base):  # type: ignore[misc] # which class it is shows when it is imported
    """Records a Lightning training, meters its energy and sends both to Monasca.

    It logs into ``run``, or into the run that is open; without any, each fit is a run of its own, which ends as the
    fit does: finished, cancelled (EarlyStopping, or who else sets ``trainer.should_stop``), interrupted (Ctrl-C,
    SIGTERM) or failed, with the reason.  Several fits within one ``with mlops.Run(…):`` share it, and its count of
    epochs goes on.

    Per batch: ``train.loss``, ``train.lr``; ``train.samples_per_second`` once a second, by the loader's batch size,
    for this process.  Per epoch: what the module logged (``val_loss`` as ``valid.loss``, ``train/acc`` as
    ``train.acc``, ``f1`` as itself), ``train.epoch``, ``train.epoch_seconds`` and the epoch's energy.  What the
    training was called with becomes the run's parameters.  The sanity check, ``fast_dev_run``, the tuner,
    ``validate``, ``test`` and ``predict`` are left out.  Ranks share one run.  Nothing waits for a GPU.

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

    _fit: Fit | None

    @guarded
    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Training begins; what only looks like it does not come so far."""
        self._end(*self._ending)  # of a fit whose end was not heard
        if trainer.fast_dev_run or not self._is_the_last_of(trainer.callbacks):
            return
        package = sys.modules[type(trainer).__module__.partition(".")[0]]
        check_release(package.__name__, package.__version__, OLDEST, "lightning")
        self._fit = Fit(trainer, self._begin(parameters_of(trainer, pl_module)))

    @guarded
    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        """An epoch begins; by now, all that was logged in the one before is reduced."""
        metrics = trainer.callback_metrics  # by all ranks: reducing what others log here already may be collective
        if (fit := self._fit) is not None:
            fit.end_epoch(metrics)
            fit.start_epoch()

    @guarded
    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """A batch is about to be trained on."""
        if (fit := self._fit) is not None:
            fit.start_batch()

    @guarded
    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """A batch was trained on."""
        if (fit := self._fit) is not None:
            fit.end_batch(outputs, batch, batch_idx)

    @guarded
    def on_validation_start(self, trainer: Any, pl_module: Any) -> None:
        """A validation begins, within a fit or without."""
        if (fit := self._fit) is not None:
            fit.pause()

    @guarded
    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        """A validation is over."""
        if (fit := self._fit) is not None:
            fit.resume()

    @guarded
    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """An epoch is over; the module may log something yet."""
        if (fit := self._fit) is not None:
            fit.end_training()

    @guarded
    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """Training is over."""
        if (fit := self._fit) is not None:
            self._ending = ending_of(trainer)
            fit.end_epoch(trainer.callback_metrics)

    @guarded
    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """An exception, Ctrl-C among them, ends whatever the trainer does."""
        fit = self._fit
        try:
            if fit is not None:  # reading metrics may be a collective, which no other rank has reason to join in now
                fit.end_epoch(trainer.callback_metrics if trainer.world_size == 1 else {})
        finally:
            self._end(*ending_of(trainer, exception))

    @guarded
    def teardown(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """All hooks have been called, those of others too."""
        self._end(*self._ending)
