"""A model that transformers trains in milliseconds, others' callbacks that get in the way, and what was recorded.

Importing transformers takes seconds: only tests that run import this.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch.nn.functional import cross_entropy
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    EarlyStoppingCallback,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

from mlops.callbacks.transformers import MonascaCallback
from mlops.record import Record, read_run
from mlops.store import RunFolder

__all__ = ["EarlyStoppingCallback", "MonascaCallback", "Trainer", "TrainerCallback", "TrainingArguments"]

TRAIN, VALID, BATCH = 50, 24, 16
STEPS = 4
"""Steps of training in an epoch; the last has 2 samples."""


class Small(torch.nn.Module):
    """Two classes that a line can tell apart; it keeps every training loss as it was computed."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = torch.nn.Linear(4, 2)
        self.seen: list[float] = []
        self.before: Callable[[Small], object] = lambda _: None

    def forward(self, x: Any, labels: Any = None) -> dict[str, Any]:
        """What transformers expects of a model."""
        self.before(self)
        logits = self.net(x)
        loss = cross_entropy(logits, labels)
        if self.training:
            self.seen.append(loss.item())
        return {"loss": loss, "logits": logits}


def bert() -> Any:
    """A model of transformers' own, of a few weights."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    return BertForSequenceClassification(BertConfig(vocab_size=20, max_position_embeddings=8, **sizes))


def samples(count: int) -> list[dict[str, Any]]:
    """For the small model."""
    numbers = torch.Generator().manual_seed(count)
    inputs = torch.randn(count, 4, generator=numbers)
    return [{"x": x, "labels": label} for x, label in zip(inputs, (inputs.sum(1) > 0).long(), strict=True)]


def sentences(count: int) -> list[dict[str, Any]]:
    """For Bert."""
    numbers = torch.Generator().manual_seed(count)
    words = torch.randint(20, (count, 5), generator=numbers)
    return [{"input_ids": word, "labels": word[0] % 2} for word in words]


def accuracy(predicted: Any) -> dict[str, float]:
    """As ``compute_metrics``."""
    return {"accuracy": float((predicted.predictions.argmax(-1) == predicted.label_ids).mean())}


def arguments(**options: Any) -> Any:
    """Of a training that prints nothing, keeps nothing and logs every step."""
    return TrainingArguments(
        **{
            "output_dir": "out",
            "use_cpu": True,
            "report_to": [],
            "save_strategy": "no",
            "logging_steps": 1,
            "eval_strategy": "epoch",
            "num_train_epochs": 2,
            "learning_rate": 0.1,
            "per_device_train_batch_size": BATCH,
            "disable_tqdm": True,
            "dataloader_pin_memory": False,
            **options,
        }
    )


def trainer(*callbacks: Any, model: Any = None, kind: Any = Trainer, valid: Any = None, **options: Any) -> Any:
    """A trainer of the small model, the same one every time, or of another one."""
    return kind(
        Small() if model is None else model,
        arguments(**options),
        train_dataset=samples(TRAIN),
        eval_dataset=samples(VALID) if valid is None else valid,
        compute_metrics=accuracy,
        callbacks=list(callbacks),
    )


def fit(*callbacks: Any, **options: Any) -> Any:
    """A trainer that has trained."""
    made = trainer(*callbacks, **options)
    made.train()
    return made


def at(where: str, call: Callable[[Any], object]) -> Any:
    """A callback that calls a function, with what transformers gives, at a hook."""
    made = type("At", (TrainerCallback,), {})()
    assert hasattr(made, where)

    def hook(args: Any, state: Any, control: Any, **given: Any) -> None:
        call(SimpleNamespace(args=args, state=state, control=control, **given))

    setattr(made, where, hook)
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


def points(record: Record, name: str) -> list[tuple[int, float]]:
    """Both."""
    return list(zip(steps(record, name), values(record, name), strict=True))


def history(made: Any, key: str) -> list[tuple[int, float]]:
    """The same as a trainer has it, in the log that transformers keeps of its trainings."""
    logs: list[Mapping[str, Any]] = made.state.log_history
    return [(entry["step"], entry[key]) for entry in logs if key in entry]


def ending(callback: MonascaCallback) -> tuple[str, str]:
    """How its run ended, and why."""
    info = recorded(callback).info
    return info.outcome, info.reason


def weights(made: Any) -> list[Any]:
    """Of the model that a trainer has trained."""
    return [tensor.tolist() for tensor in made.model.parameters()]
