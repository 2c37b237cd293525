"""A learner that trains in milliseconds, others' callbacks that get in the way, and what was recorded."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from fastai.callback.core import Callback, event
from fastai.data.core import DataLoaders
from fastai.data.load import DataLoader
from fastai.learner import Learner
from fastai.losses import CrossEntropyLossFlat
from torch import nn

from mlops.callbacks.fastai import MonascaCallback
from mlops.record import Record, read_run
from mlops.store import RunFolder

TRAIN, VALID, BATCH = 50, 24, 16
BATCHES = 4
"""Batches of training in an epoch; the last has 2 samples."""


class Samples(list[tuple[torch.Tensor, torch.Tensor]]):
    """A data set that fastai can empty, as it does for an export."""

    def new_empty(self) -> Samples:
        """Such a one without samples."""
        return Samples()


def samples(count: int) -> Samples:
    """Samples of two classes that a line can tell apart."""
    numbers = torch.Generator().manual_seed(count)
    inputs = torch.randn(count, 4, generator=numbers)
    return Samples(zip(inputs, (inputs.sum(1) > 0).long(), strict=True))


def learner(
    cbs: Any = None, metrics: Any = None, *, valid: int = VALID, model: nn.Module | None = None, **more: Any
) -> Any:
    """A learner of two classes, the same one every time, that prints nothing."""
    torch.manual_seed(0)
    loaders = [
        DataLoader(samples(TRAIN), bs=BATCH, shuffle=False),
        DataLoader(samples(valid), bs=BATCH),
    ]
    made = Learner(
        DataLoaders(*loaders, device=torch.device("cpu")),
        model or nn.Sequential(nn.Linear(4, 8), nn.Dropout(), nn.Linear(8, 2)),
        loss_func=CrossEntropyLossFlat(),
        metrics=metrics,
        cbs=cbs,
        **more,
    )
    made.remove_cbs(list(made.cbs.filter(lambda callback: type(callback).__name__ == "ProgressCallback")))
    made.logger = nothing
    return made


def nothing(_: object) -> None:
    """Print nothing."""


class At(Callback):  # type: ignore[misc] # fastai says nothing of its types
    """Calls a function at an event, before (order 0) or after (order 99) the callback under test has had it."""

    def __init__(self, where: str, call: Callable[[Any], object], order: int = 0) -> None:
        assert hasattr(event, where)
        super().__init__()
        self.order = order
        self.where, self.call = where, call

    def __call__(self, event_name: str) -> None:
        """Call it."""
        if event_name == self.where:
            self.call(self.learn)


class Raise:
    """Raises an exception at the so-manieth call.

    Args:
        error: what to raise.
        at: at which call, from 1.
    """

    def __init__(self, error: BaseException, at: int = 1) -> None:
        self.error, self.left = error, at

    def __call__(self, _: object) -> None:
        """Raise it, if it is time."""
        self.left -= 1
        if self.left == 0:
            raise self.error


class Seen(Callback):  # type: ignore[misc] # see At
    """Keeps every training loss as the learner had it, and how many samples it was of."""

    order = 49

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[float] = []
        self.sizes: list[int] = []

    def after_batch(self) -> None:
        """Keep it."""
        if self.learn.training:
            self.seen.append(self.learn.loss.item())
            self.sizes.append(len(self.learn.xb[0]))


def quiet(runs_dir: Path, **given: Any) -> MonascaCallback:
    """The callback, without devices."""
    return MonascaCallback(**{"name": "small", "devices": [], "runs_dir": runs_dir, **given})


def recorded(callback: MonascaCallback) -> Record:
    """The run that the callback recorded last."""
    assert callback.run_dir is not None
    return read_run(RunFolder(callback.run_dir))


def values(record: Record, name: str) -> list[float]:
    """What was logged under a name."""
    return [float(value) for _, columns in record.find(name) for value in columns.value]


def ending(callback: MonascaCallback) -> tuple[str, str]:
    """How its run ended, and why."""
    info = recorded(callback).info
    return info.outcome, info.reason


def left_clean(learn: Any) -> bool:
    """Whether nothing of ours is left in a learner, but the callback itself."""
    return "_with_events" not in vars(learn) and type(learn.recorder.smooth_loss).__name__ == "AvgSmoothLoss"


def runs_of(folder: Path) -> Sequence[Path]:
    """The runs in a folder."""
    return sorted(folder.iterdir()) if folder.exists() else []
