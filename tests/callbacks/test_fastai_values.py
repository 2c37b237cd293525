"""What is recorded of a fastai training: the very values that fastai has, each under its name, at no cost to them."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from fastai.callback import fp16
from fastai.callback.core import Callback, FetchPredsCallback
from fastai.callback.training import GradientAccumulation, ShortEpochCallback
from fastai.learner import AvgSmoothLoss, Metric, Recorder, ValueMetric
from fastai.losses import CrossEntropyLossFlat
from fastai.metrics import accuracy, error_rate, skm_to_fastai
from fastai.torch_core import TensorBase
from sklearn.metrics import f1_score
from torch import nn

import mlops
from mlops.callbacks import _fastai
from mlops.record import Record, read_run
from mlops.store import RunFolder
from tests.callbacks.small import BATCH, BATCHES, TRAIN, At, Seen, learner, quiet, recorded, runs_of, values

pytestmark = pytest.mark.torch

ALWAYS = {
    "train.epoch",
    "train.epoch_loss",
    "train.epoch_seconds",
    "train.loss",
    "train.lr",
    "train.samples_per_second",
    "train.smooth_loss",
    "valid.loss",
}


def fitted(runs_dir: Path, *others: Any, epochs: int = 2, **more: Any) -> tuple[Any, Record]:
    """A learner that was trained with these callbacks too, and its record."""
    learn = learner([quiet(runs_dir), *others], **more)
    learn.fit(epochs)
    return learn, recorded(learn.monasca)


def test_every_batch_and_every_epoch_to_the_bit(runs_dir: Path) -> None:
    """Seen as the model gave them, smoothed ones and rates as fastai kept them, an epoch's loss over its samples."""
    seen = Seen()
    learn, record = fitted(runs_dir, seen, metrics=[accuracy, error_rate])
    assert set(record.names()) == ALWAYS | {"valid.accuracy", "valid.error_rate"}
    assert values(record, "train.loss") == seen.seen
    assert len(seen.seen) == 2 * BATCHES
    assert values(record, "train.smooth_loss") == [loss.item() for loss in learn.recorder.losses]
    assert values(record, "train.lr") == learn.recorder.lrs
    by_name = list(zip(*learn.recorder.values, strict=True))[1:]
    assert [values(record, f"valid.{name}") for name in ("loss", "accuracy", "error_rate")] == [
        list(x) for x in by_name
    ]
    losses, sizes = np.reshape(seen.seen, (2, BATCHES)), np.reshape(seen.sizes, (2, BATCHES))
    assert sizes.tolist() == [[BATCH, BATCH, BATCH, TRAIN - 3 * BATCH]] * 2
    assert values(record, "train.epoch_loss") == pytest.approx(((losses * sizes).sum(1) / TRAIN).tolist(), rel=1e-12)
    assert values(record, "train.epoch") == [1, 2]
    ((_, columns),) = record.find("valid.accuracy")
    assert columns.step.tolist() == [2, 3]  # epochs 1 and 2; 0 is for no step
    assert all(0 < seconds < 60 for seconds in values(record, "train.epoch_seconds"))


class HalfOnCpu(fp16.MixedPrecision):  # type: ignore[misc] # fastai says nothing of its types
    """fastai's mixed precision, on the CPU, with a scale that is too large for half precision at first."""

    def before_fit(self) -> None:
        """Begin with the CPU's parts in place of CUDA's."""
        self.steps: list[bool] = []
        self.autocast = torch.autocast("cpu", dtype=torch.float16)
        self.learn.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**24, backoff_factor=2.0**-6)
        self.scales: list[float] = []

    def after_step(self) -> None:
        """Note whether the step was skipped, as an overflow makes it."""
        super().after_step()
        self.steps.append(not self.skipped)


def test_steps_that_half_precision_skips(runs_dir: Path) -> None:
    """A batch whose gradients overflowed has its loss recorded like any other."""
    seen, half = Seen(), HalfOnCpu()
    _, record = fitted(runs_dir, seen, half)
    assert {True, False} == set(half.steps)
    assert len(half.steps) == 2 * BATCHES
    assert values(record, "train.loss") == seen.seen
    assert values(record, "train.epoch") == [1, 2]


def test_batches_that_are_accumulated(runs_dir: Path) -> None:
    """Each batch's own loss is recorded, not the share that the gradient gets."""
    seen = Seen()
    _, record = fitted(runs_dir, seen, GradientAccumulation(40))
    assert values(record, "train.loss") == seen.seen
    assert len(seen.seen) == 2 * BATCHES


@pytest.mark.parametrize("other", [None, HalfOnCpu, GradientAccumulation], ids=["plain", "half", "accumulated"])
def test_the_training_is_the_same_to_the_bit(runs_dir: Path, other: Callable[[], Callback] | None) -> None:
    """With and without the callback: the same losses, the same weights, the same random numbers afterwards."""

    def train(*cbs: Any) -> tuple[list[bytes], list[bytes], list[Any], bytes]:
        learn = learner([*cbs, *([other()] if other else [])], accuracy)
        learn.fit(3, 0.05)
        losses = [loss.numpy().tobytes() for loss in learn.recorder.losses]
        weights = [tensor.detach().numpy().tobytes() for tensor in learn.model.parameters()]
        return losses, weights, list(learn.recorder.values), torch.get_rng_state().numpy().tobytes()

    without = train()
    assert train(quiet(runs_dir)) == without
    assert len(without[0]) == 3 * BATCHES
    assert len(set(without[0])) == 3 * BATCHES


class Marked(TensorBase):  # type: ignore[misc] # fastai says nothing of its types
    """A tensor class of a user's own."""


class Remarked(CrossEntropyLossFlat):  # type: ignore[misc] # see above
    """A loss that fastai's tensor class carries a remark along with."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The loss, with its remark."""
        loss = super().__call__(*args, **kwargs)
        loss.remark = "mine"
        return loss


def of_class(kind: type[torch.Tensor]) -> Callable[..., torch.Tensor]:
    """A loss that is of that tensor class."""

    def loss(predictions: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.cross_entropy(predictions, targets).as_subclass(kind)

    return loss


@pytest.mark.parametrize(
    "loss_func",
    [CrossEntropyLossFlat(), of_class(torch.Tensor), of_class(TensorBase), of_class(Marked), Remarked()],
    ids=["fastai's", "torch's own", "TensorBase", "a user's", "with a remark"],
)
def test_what_fastai_keeps_of_a_loss_is_the_same(runs_dir: Path, loss_func: Any) -> None:
    """With and without the callback: its values, its class, and what the class carries along."""

    def train(*cbs: Any) -> list[tuple[type, float, dict[str, Any]]]:
        learn = learner(cbs)
        learn.loss_func = loss_func
        learn.fit(2)
        return [(type(loss), loss.item(), dict(vars(loss))) for loss in (*learn.recorder.losses, learn.smooth_loss)]

    without = train()
    assert len(without) == 2 * BATCHES + 1
    seen = Seen()
    assert train(quiet(runs_dir), seen) == without
    (run,) = runs_of(runs_dir)
    assert values(read_run(RunFolder(run)), "train.loss") == seen.seen


def test_losses_of_several_processes_are_gathered(runs_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a process group the loss is the mean over all of them, as fastai's Recorder has it."""
    from fastai import torch_core

    asked: list[torch.Tensor] = []

    def gather(tensor: torch.Tensor) -> torch.Tensor:
        asked.append(tensor)
        return tensor + 1

    monkeypatch.setattr(_fastai, "num_distrib", lambda: 2)
    monkeypatch.setattr(torch_core, "maybe_gather", gather)
    seen = Seen()
    _, record = fitted(runs_dir, seen, epochs=1)
    assert len(asked) >= BATCHES
    assert values(record, "train.loss") == pytest.approx([loss + 1 for loss in seen.seen])


def test_the_loss_on_the_device_is_never_touched(runs_dir: Path) -> None:
    """What the callback reads lies on the CPU already: the learner's own loss and prediction may be unreadable."""

    class Unreadable:
        """Fails whoever looks."""

        def __getattr__(self, name: str) -> Any:
            raise AssertionError(f"{name} was read")

        __float__ = __len__ = __bool__ = lambda self: self.anything

    kept: list[Any] = []

    def hide(learn: Any) -> None:
        kept[:] = [learn.loss, learn.loss_grad, learn.pred]
        learn.loss = learn.loss_grad = learn.pred = Unreadable()

    def show(learn: Any) -> None:
        learn.loss, learn.loss_grad, learn.pred = kept

    _, record = fitted(runs_dir, At("after_batch", hide, Recorder.order), At("after_batch", show, Recorder.order + 2))
    assert len(values(record, "train.loss")) == 2 * BATCHES


def test_a_loss_that_is_no_number_is_recorded_as_such(runs_dir: Path) -> None:
    """After a nan the smoothed loss stays nan, as fastai's does; the batches' own losses do not."""

    def spoil(learn: Any) -> None:
        if learn.train_iter == 2:
            learn.loss = learn.loss * math.nan

    _, record = fitted(runs_dir, At("after_loss", spoil), epochs=1)
    assert [math.isnan(loss) for loss in values(record, "train.loss")] == [False, False, True, False]
    assert [math.isnan(loss) for loss in values(record, "train.smooth_loss")] == [False, False, True, True]
    assert math.isnan(values(record, "train.epoch_loss")[0])
    assert record.info.notes["not_finite"] == 4


class Rows(Metric):  # type: ignore[misc] # fastai says nothing of its types
    """A metric with a value for each class."""

    name = "rows"

    @property
    def value(self) -> torch.Tensor:
        """Two values."""
        return torch.tensor([0.5, 0.25])


@pytest.mark.parametrize(
    ("metrics", "names"),
    [
        ([], set()),
        ([skm_to_fastai(f1_score)], {"valid.f1_score"}),
        ([AvgSmoothLoss()], {"valid.avg_smooth_loss"}),
        ([ValueMetric(lambda: 3, "three"), ValueMetric(lambda: None, "nothing")], {"valid.three"}),
        ([lambda *_: torch.tensor(1.0)], {"valid._lambda_"}),
        ([accuracy, accuracy, error_rate], {"valid.accuracy", "valid.accuracy_2", "valid.error_rate"}),
        ([ValueMetric(lambda: 1.0, "loss")], {"valid.loss_2"}),
        ([Rows()], set()),
    ],
    ids=["none", "scikit-learn", "fastai's own", "int and None", "lambda", "twice", "named loss", "several values"],
)
def test_metrics_of_every_kind(
    runs_dir: Path, caplog: pytest.LogCaptureFixture, metrics: list[Any], names: set[str]
) -> None:
    """Functions, classes, values of others: each by its name; what is no single number is warned of once."""
    learn, record = fitted(runs_dir, metrics=metrics)
    assert set(record.names()) == ALWAYS | names
    assert all(len(values(record, name)) == 2 for name in names)
    for column, metric in enumerate(learn.metrics, 2):
        if f"valid.{metric.name}" in names and len(metrics) == len(names):
            assert values(record, f"valid.{metric.name}")[-1] == learn.recorder.values[-1][column]
    assert len(caplog.messages) == (not names and bool(metrics)) + ("valid._lambda_" in names)


def test_metrics_of_the_training_set(runs_dir: Path) -> None:
    """``train_metrics=True`` renames what it logs: each still goes where it belongs."""
    learn = learner([quiet(runs_dir)], accuracy)
    learn.recorder.train_metrics = True
    learn.fit(2)
    record = recorded(learn.monasca)
    assert set(record.names()) == ALWAYS | {"valid.accuracy", "train.accuracy"}
    _, train_accuracy, valid_loss, valid_accuracy = zip(*learn.recorder.values, strict=True)
    assert values(record, "train.accuracy") == list(train_accuracy)
    assert values(record, "valid.loss") == list(valid_loss)
    assert values(record, "valid.accuracy") == list(valid_accuracy)


def test_without_metrics_of_the_validation_set(runs_dir: Path) -> None:
    """``valid_metrics=False`` and ``add_time=False`` leave columns out; nothing slips into another's place."""
    learn = learner([quiet(runs_dir)], accuracy)
    learn.recorder.valid_metrics, learn.recorder.train_metrics, learn.recorder.add_time = False, True, False
    learn.fit(1)
    record = recorded(learn.monasca)
    assert set(record.names()) == ALWAYS - {"valid.loss"} | {"train.accuracy"}
    assert values(record, "train.accuracy") == [learn.recorder.values[0][1]]


def test_without_a_validation_set(runs_dir: Path) -> None:
    """What fastai gives as None is left out."""
    _, record = fitted(runs_dir, metrics=accuracy, valid=0)
    assert set(record.names()) == ALWAYS - {"valid.loss"}
    assert values(record, "train.epoch") == [1, 2]
    assert record.info.parameters["valid_samples"] == 0


def test_an_epoch_that_is_cut_short_has_no_wrong_names(runs_dir: Path) -> None:
    """fastai's log of it lacks the training's entry, so that its values stand under the wrong heads; not here."""
    learn, record = fitted(runs_dir, ShortEpochCallback(0.3, short_valid=False), metrics=accuracy, epochs=1)
    valid_loss, valid_accuracy = learn.recorder.values[0]
    assert values(record, "valid.loss") == [valid_loss]
    assert values(record, "valid.accuracy") == [valid_accuracy]


def test_predictions_fetched_within_an_epoch(runs_dir: Path) -> None:
    """fastai's own callback for it takes the Recorder off for a while."""
    learn, record = fitted(runs_dir, FetchPredsCallback(), metrics=accuracy)
    assert values(record, "valid.accuracy") == [row[2] for row in learn.recorder.values]
    assert len(values(record, "train.loss")) == 2 * BATCHES


def test_samples_per_second(runs_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A mean over a second, or over the training of a shorter epoch: samples and seconds add up."""
    now = [100.0]
    monkeypatch.setattr(_fastai, "time", SimpleNamespace(monotonic=lambda: now[0]))

    def wait(seconds: float) -> Callable[[Any], None]:
        def pass_by(learn: Any) -> None:
            now[0] += seconds * learn.training

        return pass_by

    _, record = fitted(runs_dir, At("before_batch", wait(0.25)), epochs=2)
    assert values(record, "train.samples_per_second") == [TRAIN / 1.0] * 2
    assert values(record, "train.epoch_seconds") == [1.0, 1.0]
    _, record = fitted(runs_dir, At("before_batch", wait(0.5)), epochs=1)
    assert values(record, "train.samples_per_second") == [2 * BATCH / 1.0, (TRAIN - 2 * BATCH) / 1.0]
    _, record = fitted(runs_dir, At("before_batch", wait(0.2)), epochs=1)
    assert values(record, "train.samples_per_second") == [pytest.approx(TRAIN / 0.8)]


class Pairs(nn.Module):
    """A model whose input is a dictionary."""

    def __init__(self) -> None:
        super().__init__()
        self.line = nn.Linear(4, 2)

    def forward(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        """Two classes."""
        out: torch.Tensor = self.line(batch["inputs"])
        return out


def test_loaders_of_another_make(runs_dir: Path) -> None:
    """PyTorch's own loader, and inputs that are no tensors: sizes and parameters are still right."""
    rows = [({"inputs": inputs}, label) for inputs, label in learner().dls.train.dataset]
    learn = learner(quiet(runs_dir), model=Pairs())
    learn.dls.loaders = [
        torch.utils.data.DataLoader(rows, batch_size=20),  # type: ignore[arg-type] # a list is a data set
        torch.utils.data.DataLoader(rows, batch_size=20),  # type: ignore[arg-type] # see above
    ]
    learn.fit(1)
    record = recorded(learn.monasca)
    assert record.info.parameters["batch_size"] == 20
    assert record.info.parameters["train_samples"] == TRAIN
    losses = values(record, "train.loss")
    assert len(losses) == 3
    mean = (20 * losses[0] + 20 * losses[1] + 10 * losses[2]) / TRAIN
    assert values(record, "train.epoch_loss") == [pytest.approx(mean)]


def test_the_energy_of_each_epoch(runs_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is metered is counted epoch by epoch; what a pause between two fits used is no epoch's."""
    learn = learner(quiet(runs_dir))
    with mlops.Run("outer", devices=[], runs_dir=runs_dir) as run:
        said: list[int | None] = []
        monkeypatch.setattr(run._sampler, "lap", said.append)
        learn.fit(2)
        learn.fit(1)
    assert said == [None, 1, 2, None, 3]
