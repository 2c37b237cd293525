"""What is read from a fastai training: losses, metrics, parameters. The life cycle is :mod:`mlops.callbacks.fastai`'s.

fastai's Recorder (order 50) has already fetched the mean loss of every training batch to the CPU.  It keeps only the
smoothed loss of it, so for the length of a fit its ``smooth_loss`` is made to remember the loss it was last given
(:class:`HeardLoss`): worked back out of the smoothed one, the loss would be off by 1e-5, and lost after the first nan.
``learn.loss`` itself is never touched: it holds the graph, and reading it waits for the device.
"""

from __future__ import annotations

import contextlib
import functools
import time
from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np
import torch
from fastai.learner import AvgSmoothLoss
from fastai.torch_core import TensorBase, find_bs, get_model, num_distrib, to_detach

from mlops.errors import RunError
from mlops.run import Run
from mlops.series import METRICS

__all__ = ["Fit", "HeardLoss", "parameters_of"]

_Plain: Final = torch._C.DisableTorchFunctionSubclass  # noqa: SLF001 - PyTorch's manual names it so, and no other
"""Within it torch takes a fastai tensor for what it is, and leaves out a detour that costs ten times as much."""

_KNOWN: Final = (torch.Tensor, TensorBase)
"""Types of a loss of which it is known what their operations do."""

WINDOW_SECONDS: Final = 1.0
"""``train.samples_per_second`` is the mean of so long, or of the training part of an epoch that is shorter."""


class HeardLoss(AvgSmoothLoss):  # type: ignore[misc] # fastai says nothing of its types
    """The Recorder's smoothed loss, which also remembers the loss that it was last given; the arithmetic is the same.

    fastai's losses are mostly of a tensor class of its own, with which each operation makes a detour through Python.
    Without the detours more time is saved than all that is recorded of a batch costs.

    Attributes:
        heard: the mean loss of the last batch, on the CPU; ``None`` once taken.
        alone: whether no other process has a part of the batch, whose loss would be gathered.
    """

    heard: Any = None
    alone = False
    val: Any

    def accumulate(self, learn: Any) -> None:
        """Take in a batch's loss, as fastai 2.8 does."""
        loss = learn.loss
        kind = type(loss)
        self.count += 1
        if not self.alone or kind not in _KNOWN or loss.__dict__:
            self.heard = to_detach(loss.mean())
            self.val = torch.lerp(self.heard, self.val, self.beta)
            return
        with _Plain():
            heard = loss.detach().mean()
            self.heard = heard = heard if heard.is_cpu else heard.cpu()
            self.val = torch.lerp(heard, self.val, self.beta).as_subclass(kind)

    @property
    def value(self) -> Any:
        """The smoothed loss, as fastai 2.8 reckons it; its Recorder asks for it twice a batch."""
        val, share = self.val, 1 - self.beta**self.count
        kind = type(val)
        if kind not in _KNOWN or val.__dict__:
            return val / share
        with _Plain():
            return (val / share).as_subclass(kind)


class Fit:
    """A fit that is monitored.

    Args:
        learn: the fastai learner.
        run: where it logs.

    Raises:
        RunError: the learner has no Recorder of fastai's, so there is nothing to read.
    """

    def __init__(self, learn: Any, run: Run) -> None:
        self.learn = learn
        self.run = run
        self.recorder: Any = vars(learn).get("recorder")
        smooth: Any = getattr(self.recorder, "smooth_loss", None)
        if type(smooth) not in (AvgSmoothLoss, HeardLoss):
            raise RunError(
                "This learner has no Recorder as fastai makes it", remedy="Leave fastai's default callbacks in."
            )
        self.smooth = smooth
        smooth.__class__ = HeardLoss
        smooth.alone = num_distrib() <= 1
        self._put_loss, self._put_smooth_loss = run.series("train.loss"), run.series("train.smooth_loss")
        self._put_lr, self._put_rate = run.series("train.lr"), run.series("train.samples_per_second")
        self._train_keys, self._valid_keys = _keys(self.recorder)
        self._in_epoch, self._first = False, True

    def close(self) -> None:
        """Leave the Recorder as it was."""
        for name in ("heard", "alone"):
            vars(self.smooth).pop(name, None)
        self.smooth.__class__ = AvgSmoothLoss

    def start_epoch(self) -> None:
        """The training part of an epoch begins."""
        if self._first:
            self._first = False
            self.run.begin_epoch()  # what the run used before this fit is no epoch's energy
        self._in_epoch = True
        self._values: dict[str, Any] = {}
        self._logged = len(self.recorder.log)
        self._size, self._whole = _whole_batches(self.learn.dl)
        self._samples = 0
        self._loss_sum = 0.0
        self._started = time.monotonic()
        self._open_window(self._started)

    def _open_window(self, now: float) -> None:
        self._window, self._due, self._window_samples = now, now + WINDOW_SECONDS, self._samples

    def batch(self) -> None:
        """A batch is over, of training or not, and the Recorder has seen it."""
        heard = self.smooth.heard
        if heard is None:  # a batch of validation, or one without targets
            return
        self.smooth.heard = None
        learn = self.learn
        smooth_loss = learn.smooth_loss
        with _Plain():
            loss: float = heard.item()
            smooth: float = smooth_loss.item()
        self._put_loss(loss)
        self._put_smooth_loss(smooth)
        self._put_lr(self.recorder.lrs[-1])
        size = self._size if learn.iter < self._whole else find_bs(learn.xb)
        self._samples += size
        self._loss_sum += loss * size
        now = time.monotonic()
        if now >= self._due:
            self._put_rate((self._samples - self._window_samples) / (now - self._window))
            self._open_window(now)

    def end_training(self) -> None:
        """The training part of an epoch is over."""
        if self._samples and self._window == self._started:  # it was shorter than a window
            self._put_rate(self._samples / (time.monotonic() - self._started))
        self._take(self._train_keys)

    def end_validation(self) -> None:
        """The validation part of an epoch is over."""
        self._take(self._valid_keys)

    def _take(self, keys: Sequence[str]) -> None:
        """Take what the Recorder has appended to its log for one part of an epoch; nothing for a part cut short."""
        fresh = self.recorder.log[self._logged :]
        self._logged += len(fresh)
        if len(fresh) == len(keys):
            self._values.update({key: value for key, value in zip(keys, fresh, strict=True) if value is not None})

    def end_epoch(self) -> None:
        """An epoch is over; one that was skipped before its training (``start_epoch=``) is none."""
        if not self._in_epoch:
            return
        self._in_epoch = False
        if self._samples:
            self._values["train.epoch_loss"] = self._loss_sum / self._samples
        self.run.end_epoch(self._values, seconds=time.monotonic() - self._started)


def _whole_batches(loader: Any) -> tuple[int, int]:
    """A loader's batch size and how many batches surely have it: all but the last, where it says its size and length.

    Reading the size off a batch costs as much as all else that is done for it.
    """
    size = getattr(loader, "bs", None) or getattr(loader, "batch_size", None)
    try:
        return (int(size), len(loader) - 1) if size else (0, 0)
    except TypeError:  # it is endless
        return 0, 0


def _keys(recorder: Any) -> tuple[list[str], list[str]]:
    """The metrics' names for what the Recorder logs of each epoch's training and of its validation.

    They are told apart by position, since ``train_metrics=True`` renames them, and the log of an epoch that was cut
    short lacks entries.  Metrics of one name are numbered: ``valid.f1``, ``valid.f1_2``.
    """
    names = list(recorder.metric_names)[1 : -1 if recorder.add_time else None]
    of_training = 1 + (len(recorder.learn.metrics) if recorder.train_metrics else 0)
    renamed = recorder.train_metrics and recorder.valid_metrics
    taken = set(METRICS)

    def key(part: str, name: str) -> str:
        wanted = f"{part}.{name.removeprefix(f'{part}_') if renamed else name}"
        found, number = wanted, 1
        while found in taken:
            number += 1
            found = f"{wanted}_{number}"
        taken.add(found)
        return found

    train, valid = names[:of_training], names[of_training:]
    return (
        ["train.epoch_loss", *(key("train", name) for name in train[1:])],
        ["valid.loss", *(key("valid", name) for name in valid[1:])] if valid else [],
    )


def parameters_of(learn: Any) -> dict[str, Any]:
    """What a training was called with, as far as it can be found out."""
    train, model = learn.dls.train, get_model(learn.model)
    questions: dict[str, Callable[[], Any]] = {
        "epochs": lambda: int(learn.n_epoch),
        "batch_size": lambda: int(getattr(train, "bs", None) or train.batch_size),
        "lr": lambda: _highest_lr(learn),
        "loss": lambda: _name_of(learn.loss_func),
        "optimizer": lambda: _name_of(learn.opt_func),
        "model": lambda: type(model).__name__,
        "model_parameters": lambda: sum(tensor.numel() for tensor in model.parameters()),
        "train_samples": lambda: len(train.dataset),
        "valid_samples": lambda: len(learn.dls.valid.dataset),
    }
    found = {}
    for name, ask in questions.items():
        with contextlib.suppress(Exception):  # data sets without a length, loaders of another make
            found[name] = ask()
    return found


def _highest_lr(learn: Any) -> float:
    """Of the last parameter group: the schedule's peak, where there is one; fastai keeps it nowhere else."""
    scheduler = vars(learn).get("param_scheduler")
    if scheduler is None or "lr" not in scheduler.scheds:
        return float(learn.opt.hypers[-1]["lr"])
    schedule = scheduler.scheds["lr"]
    return float(max(np.max(schedule(percent / 100)) for percent in range(101)))


def _name_of(thing: Any) -> str:
    thing = getattr(thing, "func", thing) if isinstance(thing, functools.partial) else thing
    return getattr(thing, "__name__", None) or type(thing).__name__
