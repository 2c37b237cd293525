"""The callback that monitors a training of Hugging Face transformers.

::

    from mlops.callbacks.transformers import MonascaCallback
    trainer = Trainer(model, args, callbacks=[MonascaCallback()])

Once this is imported, ``TrainingArguments(report_to="monasca")`` does the same.  What it reads, and how it hears of a
training's end, is told in :mod:`mlops.callbacks._transformers`.
"""

from __future__ import annotations

from types import TracebackType
from typing import Any

from mlops.callbacks._adapter import Adapter, guarded
from mlops.callbacks.base import check_release
from mlops.errors import MissingExtraError

try:
    import transformers
    from transformers import TrainerCallback

    from mlops.callbacks._transformers import OLDEST, Fit, ending_of, hear, outcome, parameters_of, register
except ModuleNotFoundError as error:
    raise MissingExtraError(error.name or "transformers", "transformers") from error

__all__ = ["MonascaCallback"]


class MonascaCallback(Adapter, TrainerCallback):  # type: ignore[misc] # mypy is spared the size of transformers
    """Records a training of transformers, meters its energy and sends both to Monasca.

    It logs into ``run``, or into the run that is open; without any, each ``train()`` is a run of its own, which ends as
    the training does: finished, cancelled (EarlyStoppingCallback, or who else sets ``control.should_training_stop``),
    interrupted (Ctrl-C) or failed, with the reason.  Several trainings within one ``with mlops.Run(…):`` share it, and
    its count of epochs goes on.

    What the Trainer logs is recorded with the step it is of: ``train.loss``, ``train.lr``, ``train.grad_norm``, every
    ``eval_x`` as ``valid.x``, others as ``train.x``; in the end ``train.samples_per_second`` and ``train.mean_loss``,
    the means of the whole training.  Per epoch: ``train.epoch``, ``train.epoch_seconds``, the epoch's energy, and with
    ``eval_strategy="epoch"`` its evaluation.  What the training was called with becomes the run's parameters.
    ``evaluate()`` and ``predict()`` outside a training are left out.  Ranks share one run.  Nothing
    waits for a GPU that the Trainer would not wait for.

    It never raises into the training: what goes wrong is one warning.  A checkpoint holds nothing of it, and a copy,
    pickled or not, has no run.

    Args:
        name: of the runs it opens; the script's name if given nowhere.
        run: an open run to log into; then all others but ``parameters`` are :class:`mlops.run.Run`'s business.
        dimensions: of every series, such as ``{"team": "vision"}``.
        parameters: noted with those found, and above them.
        sinks: where points go besides the store.  A Sink object is closed with its run; a URL serves every training.
        devices: what is metered, such as ``["nvidia", "host"]``.
        runs_dir: the folder of runs.

    Raises:
        MlopsError: an argument or a setting cannot be understood; said here, never in the loop.
    """

    _fit: Fit | None

    def _begin_anew(self) -> None:
        super()._begin_anew()
        self._trainer: Any = None  # while its train() is heard

    def _callbacks(self) -> list[Any]:
        return [] if self._trainer is None else list(self._trainer.callback_handler.callbacks)

    @guarded
    def train_begins(self, trainer: Any) -> None:
        """``trainer.train()`` was called."""
        self._trainer = trainer

    @guarded
    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Training begins; with ``auto_find_batch_size``, perhaps not for the first time."""
        self._end("failed", "It was begun anew before it had ended.")
        if state.global_step < state.max_steps and self._is_the_last_of(self._callbacks()):
            check_release("transformers", transformers.__version__, OLDEST, "transformers")
            self._fit = Fit(self._begin(parameters_of(args, state, kwargs, self._trainer)), args)

    @guarded
    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """An epoch begins."""
        if (fit := self._fit) is not None:
            fit.start_epoch()

    @guarded
    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        """The Trainer logs something, within a training or without."""
        if (fit := self._fit) is not None:
            fit.log(logs or {}, state.global_step)

    @guarded
    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """An epoch is over; its evaluation may follow."""
        if (fit := self._fit) is not None:
            fit.end_training()

    @guarded
    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Training is over; what others do about that may go wrong yet."""
        self._ending = ending_of(args, state, control, self._callbacks())
        if self._trainer is None:  # a trainer with a train() of its own
            self.train_ended(None, None, None)

    @guarded
    def train_ended(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """``trainer.train()`` has returned, or an exception has left it."""
        self._trainer = None
        try:
            if (fit := self._fit) is not None:
                fit.end_epoch()
        finally:
            self._end(*(self._ending if error is None else outcome(error)))


register("monasca", MonascaCallback)
hear(MonascaCallback)
