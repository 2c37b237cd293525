"""What is read from a Lightning training: losses, metrics, parameters. Its life is :mod:`mlops.callbacks.lightning`'s.

Everything is handed on as Lightning has it, tensors on a GPU as tensors: nothing here waits for the device.
"""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Callable, Mapping
from typing import Any, Final

from mlops.callbacks._adapter import Names
from mlops.run import Run, outcome_of

__all__ = ["OLDEST", "Fit", "ending_of", "parameters_of"]

OLDEST: Final = "2.4"

WINDOW_SECONDS: Final = 1.0
"""``train.samples_per_second`` is the mean of so long, or of an epoch that is shorter; validation is not counted."""

_PART: Final = re.compile(r"(?:(train(?:ing)?)|val(?:id(?:ation)?)?)[_/.](?=.)")
_FORK: Final = re.compile(r"_(?:step|epoch)(?=$|/dataloader_idx_\d+$)")


class Fit:
    """A fit that is monitored.

    Args:
        trainer: Lightning's.
        run: where it logs.
    """

    def __init__(self, trainer: Any, run: Run) -> None:
        self.trainer = trainer
        self.run = run
        self.in_epoch = False
        self._put_loss, self._put_lr = run.series("train.loss"), run.series("train.lr")
        self._put_rate = run.series("train.samples_per_second")
        self._known: dict[str, Any] = dict(trainer.callback_metrics)
        self._names = Names({}, {"train.epoch_loss", "train.grad_norm", "train.mean_loss", "valid.loss"})
        self._first = True
        self._seconds: float | None = None
        self._open_epoch()

    def start_epoch(self) -> None:
        """The training part of an epoch begins."""
        if self._first:
            self._first = False
            self.run.begin_epoch()  # what the run used before this fit is no epoch's energy
        self.in_epoch, self._seconds = True, None
        self._open_epoch()

    def _open_epoch(self) -> None:
        self._whole, self._size = self.trainer.num_training_batches - 1, _batch_size(self.trainer.train_dataloader)
        self._samples = self._rates = 0
        self._started = self._window = self._last = self._paused = time.monotonic()

    def start_batch(self) -> None:
        """A batch is about to be trained on; later, the scheduler has set the learning rate of the next one."""
        if not self.in_epoch:  # Lightning resumed within an epoch
            self.start_epoch()
        if (lr := _lr(self.trainer)) is not None:
            self._put_lr(lr)

    def end_batch(self, outputs: Any, batch: Any, index: int) -> None:
        """A batch was trained on.

        Lightning divides the loss by the number of batches that it accumulates, and keeps only the quotient.
        Multiplied again, it is what it was to the bit where that number is a power of two, else to the last bit or two.
        """
        loss = outputs.get("loss") if isinstance(outputs, Mapping) else outputs
        if loss is not None:  # the step was not left out
            parts = self.trainer.accumulate_grad_batches
            self._put_loss(loss if parts == 1 else loss.detach() * parts)
        self._samples += self._size if self._size and index < self._whole else _samples(batch)
        self._last = now = time.monotonic()
        if now >= self._window + WINDOW_SECONDS:
            self._tell_rate()

    def _tell_rate(self) -> None:
        if self._samples and self._last > self._window:
            self._put_rate(self._samples / (self._last - self._window))
            self._rates += 1
        self._window, self._samples = self._last, 0

    def pause(self) -> None:
        """Validation begins."""
        self._paused = time.monotonic()

    def resume(self) -> None:
        """Validation is over."""
        away = time.monotonic() - self._paused
        self._window += away
        self._last += away

    def end_training(self) -> None:
        """The epoch is over, but Lightning has not reduced its metrics yet."""
        if not self.in_epoch:
            return
        self._seconds = time.monotonic() - self._started
        if not self._rates:  # it was shorter than a window
            self._tell_rate()

    def end_epoch(self, metrics: Mapping[str, Any]) -> None:
        """Record an epoch that is over, if one is, with what was logged in it.

        Args:
            metrics: Lightning's. What was logged in an earlier epoch and not since is the same object as it was then.
        """
        fresh = {key: value for key, value in metrics.items() if self._known.get(key) is not value}
        self._known.update(metrics)
        if not self.in_epoch or self._seconds is None:
            return
        self.in_epoch = False
        self.run.end_epoch(self._named(fresh), seconds=self._seconds)

    def _named(self, metrics: Mapping[str, Any]) -> dict[str, Any]:
        """Metrics under our names, each once: Lightning keeps ``acc`` also as ``acc_step`` and ``acc_epoch``."""
        means = _logged_per_epoch(self.trainer)
        named = {}
        for key, value in metrics.items():
            if _FORK.search(key) and _FORK.sub("", key) in metrics:
                continue
            name = self._names.of(key, _wanted)
            if name != "train.epoch_loss" or key in means:  # else it is the last batch's, which is recorded
                named[name] = value
        return named


def _wanted(key: str) -> str:
    part = _PART.match(key)
    name = f"{'train' if part[1] else 'valid'}.{key[part.end() :]}" if part else key
    return "train.epoch_loss" if name == "train.loss" else name


def _logged_per_epoch(trainer: Any) -> set[str]:
    """What a training step logs as a mean over the epoch; Lightning keeps that to itself."""
    with contextlib.suppress(AttributeError):
        return {result.meta.name for result in trainer.fit_loop.epoch_loop._results.values() if result.meta.on_epoch}  # noqa: SLF001 - see above
    return set()


def _lr(trainer: Any) -> Any:
    """The learning rate of the first optimizer's last parameter group; a number, a tensor, or ``None``."""
    groups = trainer.optimizers[0].param_groups if trainer.optimizers else None
    return groups[-1].get("lr") if groups else None


def _batch_size(loader: Any) -> int:
    """The size of all batches but the last, as the loader says it; 0 if it does not, as one of several loaders."""
    size = getattr(loader, "batch_size", None) or getattr(getattr(loader, "batch_sampler", None), "batch_size", None)
    return size if isinstance(size, int) else 0


def _samples(batch: Any) -> int:
    """How many samples a batch has: the length of the first thing in it; 0 if that cannot be told."""
    with contextlib.suppress(LookupError, StopIteration, TypeError):
        while isinstance(batch, Mapping | list | tuple):
            batch = next(iter(batch.values())) if isinstance(batch, Mapping) else batch[0]
        return int(batch.shape[0]) if hasattr(batch, "shape") else 0
    return 0


def parameters_of(trainer: Any, module: Any) -> dict[str, Any]:
    """What a training was called with, as far as it can be found out.

    Numbers and texts among the hyperparameters of the module and of its data say it in its author's words, and stand
    above the rest; but ``epochs`` is how many this fit is to train.
    """
    loader = trainer.train_dataloader
    questions: dict[str, Callable[[], Any]] = {
        "batch_size": lambda: _batch_size(loader) or None,
        "lr": lambda: float(_lr(trainer)),
        "optimizer": lambda: type(trainer.optimizers[0]).__name__,
        "model": lambda: type(module).__name__,
        "model_parameters": lambda: sum(tensor.numel() for tensor in module.parameters()),
        "precision": lambda: str(trainer.precision),
        "accumulate_grad_batches": lambda: int(trainer.accumulate_grad_batches),
        "max_steps": lambda: trainer.max_steps if trainer.max_steps > 0 else None,
        "train_samples": lambda: len(loader.dataset),
        "valid_samples": lambda: len(trainer.val_dataloaders.dataset),
    }
    found = {}
    for name, ask in questions.items():
        with contextlib.suppress(Exception):  # data sets without a length, loaders of another make
            found[name] = ask()
    for owner in (trainer.datamodule, module):
        with contextlib.suppress(Exception):
            found.update({k: v for k, v in owner.hparams.items() if isinstance(v, bool | int | float | str)})
    found.pop("epochs", None)
    if trainer.max_epochs is not None and trainer.max_epochs > 0:
        found["epochs"] = trainer.max_epochs - trainer.current_epoch
    return {name: value for name, value in found.items() if value is not None}


def ending_of(trainer: Any, error: BaseException | None = None) -> tuple[str, str]:
    """How a fit ended, and why.

    Args:
        trainer: whose training is over.
        error: what ended it, if anything did.
    """
    if error is not None:  # Lightning's answer to SIGTERM is a SystemExit without a code
        sigterm = isinstance(error, SystemExit) and trainer.received_sigterm
        return ("interrupted", "SIGTERM") if sigterm else outcome_of(error)
    if not trainer.should_stop or _all_is_trained(trainer):
        return "finished", ""
    for callback in trainer.early_stopping_callbacks:
        message = getattr(callback, "stopping_reason_message", None)  # since Lightning 2.6
        if message or callback.stopped_epoch:
            return "cancelled", f"{type(callback).__name__}: {message or callback.monitor}"
    return "cancelled", "trainer.should_stop was set"


def _all_is_trained(trainer: Any) -> bool:
    epochs, steps = trainer.max_epochs, trainer.max_steps
    return bool((epochs and 0 < epochs <= trainer.current_epoch) or 0 < steps <= trainer.global_step)
