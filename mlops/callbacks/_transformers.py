"""What is read of a training of transformers: losses, metrics, parameters, its end, and how the end is heard of.

The life of all that is :mod:`mlops.callbacks.transformers`'s.  What the Trainer logs are numbers that it has fetched
from the GPU already, once in ``logging_steps``; nothing else is read while it trains.  They are recorded as they are:
older releases round the loss to four digits and give the learning rate of the step to come.

**Its end.**  A callback of transformers' is told of a training that ends by itself, and of no other end; it is called
from within ``Trainer.train`` and may have been added to a trainer by then in ways that told nobody.  So whoever is to
hear of every end has to stand around ``Trainer.train`` itself, for every trainer: :func:`hear` does so once, when the
callback is imported.  There it looks for the callback among the trainer's; where there is none, it does nothing more.
"""

from __future__ import annotations

import contextlib
import functools
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from transformers import EarlyStoppingCallback, Trainer

from mlops.callbacks._adapter import Names
from mlops.run import Run, outcome_of

__all__ = ["OLDEST", "Fit", "ending_of", "hear", "outcome", "parameters_of", "register"]

OLDEST: Final = "4.46"

_NAMES: Final = {
    "loss": "train.loss",
    "learning_rate": "train.lr",
    "grad_norm": "train.grad_norm",
    "eval_loss": "valid.loss",
    "train_samples_per_second": "train.samples_per_second",
    "train_loss": "train.mean_loss",  # over the whole training: neither a batch's nor an epoch's
}
_PARTS: Final = {"eval": "valid", "test": "test", "train": "train"}
_ARGUMENTS: Final = (
    "data_seed",
    "gradient_accumulation_steps",
    "label_smoothing_factor",
    "lr_scheduler_type",
    "max_grad_norm",
    "neftune_noise_alpha",
    "warmup_ratio",
    "warmup_steps",
    "weight_decay",
)
"""What of TrainingArguments is noted under its own name, where it is not nothing."""


class Fit:
    """A training that is monitored.

    Args:
        run: where it logs.
        args: the TrainingArguments.
    """

    def __init__(self, run: Run, args: Any) -> None:
        self.run = run
        self._by_epoch = args.eval_strategy == "epoch"
        self._names = Names(_NAMES)
        self._first, self._over = True, False
        self._values: dict[str, Any] = {}
        self._started = time.monotonic()

    def start_epoch(self) -> None:
        """An epoch begins."""
        self.end_epoch()
        if self._first:
            self._first = False
            self.run.begin_epoch()  # what the run used before this training is no epoch's energy
        self._started = time.monotonic()

    def end_training(self) -> None:
        """The training part of an epoch is over; now the Trainer evaluates, if it does so by epochs."""
        self._over = True

    def end_epoch(self) -> None:
        """Record an epoch that is over, if one is, with the evaluation that belongs to it."""
        if self._over:
            values, self._values, self._over = self._values, {}, False
            self.run.end_epoch(values, seconds=time.monotonic() - self._started)

    def log(self, logs: Mapping[str, Any], step: int) -> None:
        """Take what the Trainer logs, which is of its last steps, of an evaluation, or of the whole training.

        Args:
            logs: the Trainer's.
            step: how many steps the Trainer has trained.
        """
        if "total_flos" in logs:  # of the whole
            self.end_epoch()
        values = {self._names.of(key, _wanted): value for key, value in logs.items() if key != "epoch"}
        evaluation = any(key.startswith("eval_") for key in logs)
        if evaluation and self._by_epoch and self._over and not values.keys() & self._values.keys():
            self._values.update(values)
        else:
            self.run.log(values, step=step)


def _wanted(key: str) -> str:
    part, _, rest = key.partition("_")
    return f"{_PARTS[part]}.{rest}" if rest and part in _PARTS else f"train.{key}"


def parameters_of(args: Any, state: Any, given: Mapping[str, Any], trainer: Any) -> dict[str, Any]:
    """What a training was called with, as far as it can be found out.

    Args:
        args: the TrainingArguments.
        state: the TrainerState.
        given: what else a hook is given: the model, the optimizer, the loader.
        trainer: whose training it is, if that is known.
    """
    model, optimizer = given.get("model"), given.get("optimizer")
    questions: dict[str, Callable[[], Any]] = {
        **{name: functools.partial(_argument, args, name) for name in _ARGUMENTS},
        "batch_size": lambda: int(state.train_batch_size or args.train_batch_size),
        "lr": lambda: _lr(optimizer),
        "max_steps": lambda: max(0, args.max_steps),
        "model": lambda: type(model).__name__,
        "model_name": lambda: model.name_or_path,  # type: ignore[union-attr] # if it has none, it is left out
        "optimizer": lambda: type(getattr(optimizer, "optimizer", optimizer)).__name__,
        "precision": lambda: _precision(args, model),
        "train_samples": lambda: len(given["train_dataloader"].dataset),
        "valid_samples": lambda: _size(trainer.eval_dataset),
    }
    found = {"seed": args.seed}
    for name, ask in questions.items():
        with contextlib.suppress(Exception):  # data sets without a length, models and optimizers of another make
            found[name] = ask() or None
    with contextlib.suppress(Exception):
        found.update(_sizes(model))
    if (
        state.max_steps and state.num_train_epochs <= state.max_steps
    ):  # else it is no number of epochs: data are endless
        found["epochs"] = state.num_train_epochs - int(state.epoch or 0)
    found.update({name: value for name, value in (state.trial_params or {}).items() if _is_plain(value)})
    return {name: value for name, value in found.items() if value is not None}


def _argument(args: Any, name: str) -> Any:
    value = getattr(args, name)
    value = getattr(value, "value", value)
    return value if _is_plain(value) else None


def _is_plain(value: object) -> bool:
    return isinstance(value, bool | int | float | str)


def _lr(optimizer: Any) -> float:
    """What the schedule starts from; in a warm-up, the rate itself is nothing yet."""
    group = optimizer.param_groups[0]
    return float(group.get("initial_lr", group["lr"]))


def _precision(args: Any, model: Any) -> str:
    mixed = [name for name in ("bf16", "fp16") if getattr(args, name)]
    return mixed[0] if mixed else str(next(model.parameters()).dtype).removeprefix("torch.")


def _sizes(model: Any) -> dict[str, int]:
    """How many parameters there are, and of these, where not all of them are trained, how many are."""
    sizes = [(getattr(tensor, "ds_numel", tensor.numel()), tensor.requires_grad) for tensor in model.parameters()]
    total, trained = sum(size for size, _ in sizes), sum(size for size, trained in sizes if trained)
    return {"model_parameters": total, **({} if trained == total else {"trained_parameters": trained})}


def _size(data: Any) -> int:
    return sum(map(len, data.values())) if isinstance(data, Mapping) else len(data)


def ending_of(args: Any, state: Any, control: Any, callbacks: Sequence[Any]) -> tuple[str, str]:
    """How a training ended that no exception ended, and why.

    Args:
        args: the TrainingArguments.
        state: the TrainerState.
        control: the TrainerControl.
        callbacks: of its trainer, as far as they are known.
    """
    if not control.should_training_stop or state.global_step >= state.max_steps:
        return "finished", ""
    for callback in callbacks:
        if isinstance(callback, EarlyStoppingCallback):
            times = callback.early_stopping_patience_counter
            if times >= callback.early_stopping_patience:
                name = type(callback).__name__
                return "cancelled", f"{name}: {args.metric_for_best_model} was not better than its best {times} times"
    return "cancelled", "control.should_training_stop was set"


def outcome(error: BaseException) -> tuple[str, str]:
    """How a training ended that this exception ended, and why."""
    said, why = outcome_of(error)
    return ("cancelled" if type(error).__name__ == "TrialPruned" else said), why  # Optuna's way to end a poor trial


def register(name: str, kind: type) -> None:
    """Let ``report_to`` name this kind of callback, as far as this release of transformers has it in its usual place.

    ``report_to="all"`` stays what transformers has found to be installed: that was the default once, and every trainer
    would get the callback unasked, and a second one beside its own.
    """
    with contextlib.suppress(ImportError, AttributeError, TypeError):
        from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK

        INTEGRATION_TO_CALLBACK[name] = kind


def hear(kind: type) -> None:
    """Have ``Trainer.train`` tell callbacks of this kind which trainer trains, and how that ended.

    Args:
        kind: has the methods ``train_begins(trainer)`` and ``train_ended(type, error, traceback)``, the latter as
            :meth:`contextlib.ExitStack.push` wants it.
    """
    train = Trainer.train

    @functools.wraps(train)
    def heard(self: Any, *args: Any, **kwargs: Any) -> Any:
        handler = getattr(self, "callback_handler", None)
        with contextlib.ExitStack() as ends:
            for callback in list(getattr(handler, "callbacks", ())):
                if isinstance(callback, kind):
                    callback.train_begins(self)  # type: ignore[attr-defined] # see above
                    ends.push(callback.train_ended)  # type: ignore[attr-defined] # see above
            return train(self, *args, **kwargs)

    Trainer.train = heard
