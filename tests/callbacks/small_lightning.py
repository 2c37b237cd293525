"""A Lightning module that trains in milliseconds, in both packages, and others' callbacks that get in the way.

Importing Lightning takes seconds: only tests that run import this.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch
import pytorch_lightning
import torch
from lightning.pytorch.tuner.tuning import Tuner
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

from mlops.callbacks.lightning import MonascaCallback
from mlops.record import Record, read_run
from mlops.store import RunFolder

PACKAGES = {"lightning": lightning.pytorch, "pytorch_lightning": pytorch_lightning}
TRAIN, VALID, BATCH = 50, 24, 16
BATCHES = 4
"""Batches of training in an epoch; the last has 2 samples."""


def loader(count: int) -> Any:
    """Samples of two classes that a line can tell apart, always in the same order."""
    numbers = torch.Generator().manual_seed(count)
    inputs = torch.randn(count, 4, generator=numbers)
    return DataLoader(TensorDataset(inputs, (inputs.sum(1) > 0).long()), batch_size=BATCH)


@functools.cache
def module_class(pl: Any) -> Any:
    """The module's class for one of the packages."""

    class Small(pl.LightningModule):  # type: ignore[misc] # which class it is shows when it runs
        """Keeps every training loss as it was computed, and the learning rate of every step."""

        def __init__(self, lr: float = 0.1, layers: tuple[int, int] = (4, 2)) -> None:
            super().__init__()
            self.save_hyperparameters()
            torch.manual_seed(0)
            self.net = torch.nn.Linear(*layers)
            self.seen: list[float] = []
            self.lrs: list[float] = []
            self.gives: Callable[[Any], Any] = lambda loss: loss
            self.also: Callable[[Any, str, Any], object] = lambda *_: None

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            """A step."""
            inputs, wanted = batch
            loss = cross_entropy(self.net(inputs), wanted)
            self.seen.append(loss.item())
            self.lrs.append(self.optimizers().param_groups[-1]["lr"])
            self.log("train_loss", loss)
            self.also(self, "train", loss.detach())
            return self.gives(loss)

        def validation_step(self, batch: Any, batch_idx: int) -> None:
            """A step of validation."""
            inputs, wanted = batch
            loss = cross_entropy(self.net(inputs), wanted)
            self.log("val_loss", loss)
            self.also(self, "val", loss)

        test_step = validation_step

        def predict_step(self, batch: Any, batch_idx: int) -> Any:
            """A step that predicts."""
            return self.net(batch[0])

        def configure_optimizers(self) -> Any:
            """One whose learning rate changes with every step."""
            optimizer = torch.optim.SGD(self.parameters(), lr=self.hparams.lr)
            schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    return Small


def module(pl: Any = lightning.pytorch) -> Any:
    """The module, the same one every time."""
    return module_class(pl)()


def trainer(*callbacks: Any, pl: Any = lightning.pytorch, **options: Any) -> Any:
    """A trainer that prints nothing and keeps nothing."""
    return pl.Trainer(
        **{
            "callbacks": list(callbacks),
            "max_epochs": 2,
            "accelerator": "cpu",
            "logger": False,
            "enable_checkpointing": False,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            **options,
        }
    )


def fit(*callbacks: Any, pl: Any = lightning.pytorch, small: Any = None, valid: int = VALID, **options: Any) -> Any:
    """A trainer that has trained the module, which is its ``lightning_module``."""
    made = trainer(*callbacks, pl=pl, **options)
    made.fit(module(pl) if small is None else small, loader(TRAIN), loader(valid) if valid else None)
    return made


def find_lr(made: Any, given: Any) -> None:
    """Have Lightning look for a learning rate."""
    Tuner(made).lr_find(given, loader(TRAIN), loader(VALID), num_training=5)


def at(where: str, call: Callable[[Any], object], pl: Any = lightning.pytorch) -> Any:
    """A callback that calls a function with the trainer at a hook."""
    made = pl.Callback()
    assert hasattr(made, where)
    setattr(made, where, lambda trainer, *_, **__: call(trainer))
    return made


class Raise:
    """Raises an exception at the so-manieth call, from 1."""

    def __init__(self, error: BaseException, nth: int = 1) -> None:
        self.error, self.left = error, nth

    def __call__(self, _: object) -> None:
        """Raise it, if it is time."""
        self.left -= 1
        if self.left == 0:
            raise self.error


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


def steps(record: Record, name: str) -> list[int]:
    """The steps that it was logged with."""
    return [int(step) - 1 for _, columns in record.find(name) for step in columns.step]


def ending(callback: MonascaCallback) -> tuple[str, str]:
    """How its run ended, and why."""
    info = recorded(callback).info
    return info.outcome, info.reason


def weights(made: Any) -> list[Any]:
    """Of the module that a trainer has trained."""
    return [tensor.tolist() for tensor in made.lightning_module.parameters()]
