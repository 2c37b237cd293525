"""Trainings of transformers: what is recorded of them, under which names and steps, and how their runs end."""

from __future__ import annotations

import copy
import importlib
import json
import pickle
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import mlops
from mlops.ranks import Rank
from mlops.record import read_run
from mlops.store import RunFolder

pytestmark = [
    pytest.mark.torch,
    pytest.mark.slow,  # importing transformers takes seconds
]

LOGGED = {"train.loss", "train.lr", "train.grad_norm"}
EPOCHS = {"train.epoch", "train.epoch_seconds"}
SPEEDS = {"runtime", "samples_per_second", "steps_per_second"}
SUMMARY = {f"train.{name}" for name in SPEEDS} | {"train.mean_loss", "train.total_flos"}
VALID = {f"valid.{name}" for name in SPEEDS} | {"valid.loss", "valid.accuracy"}


@pytest.fixture(scope="module")
def small() -> Iterator[Any]:
    """The helpers, imported where they are needed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HUB_OFFLINE", "1")
        yield importlib.import_module("tests.callbacks.small_transformers")


# -- values ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("every", [1, 3])
def test_what_the_trainer_logs_to_the_bit(small: Any, runs_dir: Path, every: int) -> None:
    """Every value that transformers keeps in its own log, with its step, under our names, and nothing else."""
    callback = small.quiet(runs_dir, dimensions={"team": "vision"})
    done = small.fit(callback, logging_steps=every)
    record = small.recorded(callback)
    assert set(record.names()) == LOGGED | EPOCHS | SUMMARY | VALID
    for name, key in {
        "train.loss": "loss",
        "train.lr": "learning_rate",
        "train.grad_norm": "grad_norm",
        "train.mean_loss": "train_loss",
        "train.samples_per_second": "train_samples_per_second",
        "train.total_flos": "total_flos",
    }.items():
        assert small.points(record, name) == small.history(done, key)
    if every == 1:
        assert small.values(record, "train.loss") == done.model.seen
    assert small.points(record, "train.epoch") == [(1, 1.0), (2, 2.0)]
    for name in ("loss", "accuracy", "runtime"):
        epochs, values = zip(*small.points(record, f"valid.{name}"), strict=True)
        assert epochs == (1, 2)
        assert list(values) == [value for _, value in small.history(done, f"eval_{name}")]
    assert record.info.dimensions == {"team": "vision"}
    assert {"transformers", "torch"} <= set(record.info.versions)


def test_what_it_was_called_with_is_noted(small: Any, runs_dir: Path) -> None:
    """Found in the arguments, as far as they are not nothing, in the model and the data; the user's is above all."""
    callback = small.quiet(runs_dir, parameters={"model": "mine"})
    small.fit(callback, gradient_accumulation_steps=2, seed=0, weight_decay=0.01, max_steps=3)
    assert small.recorded(callback).info.parameters == {
        "batch_size": small.BATCH,
        "epochs": 2,
        "gradient_accumulation_steps": 2,
        "lr": 0.1,
        "lr_scheduler_type": "linear",
        "max_grad_norm": 1.0,
        "max_steps": 3,
        "model": "mine",
        "model_parameters": 10,
        "optimizer": "AdamW",
        "precision": "float32",
        "seed": 0,
        "train_samples": small.TRAIN,
        "valid_samples": small.VALID,
        "weight_decay": 0.01,
    }


def test_a_model_of_transformers_own(small: Any, runs_dir: Path) -> None:
    """One that was loaded by a name and of which a part is frozen, with its floating-point operations."""
    model = small.bert()
    model.config._name_or_path = model.name_or_path = "tiny/bert"
    for tensor in model.bert.embeddings.parameters():
        tensor.requires_grad = False
    callback = small.quiet(runs_dir)
    made = small.trainer(callback, model=model, eval_strategy="no", warmup_steps=4)
    made.train_dataset = small.sentences(small.TRAIN)
    made.train()
    record = small.recorded(callback)
    total = sum(tensor.numel() for tensor in model.parameters())
    frozen = sum(tensor.numel() for tensor in model.bert.embeddings.parameters())
    found = record.info.parameters
    assert [found[name] for name in ("model", "model_name", "lr")] == [type(model).__name__, "tiny/bert", 0.1]
    assert (found["model_parameters"], found["trained_parameters"]) == (total, total - frozen)
    assert small.points(record, "train.loss") == small.history(made, "loss")
    assert small.values(record, "train.total_flos")[0] > 0


@pytest.mark.parametrize("options", [{}, {"gradient_accumulation_steps": 2}, {"eval_strategy": "steps"}])
def test_the_training_is_the_same_with_it(small: Any, runs_dir: Path, options: dict[str, Any]) -> None:
    """The same losses and the same weights in the end, bit for bit."""
    bare, monitored = small.fit(**options), small.fit(small.quiet(runs_dir), **options)
    assert monitored.model.seen == bare.model.seen
    assert small.weights(monitored) == small.weights(bare)


def test_gradient_accumulation(small: Any, runs_dir: Path) -> None:
    """A step is what transformers counts as one, and its loss what transformers makes of its batches."""
    callback = small.quiet(runs_dir)
    done = small.fit(callback, gradient_accumulation_steps=2)
    record = small.recorded(callback)
    assert small.steps(record, "train.loss") == [1, 2, 3, 4]
    assert small.points(record, "train.loss") == small.history(done, "loss")


@pytest.mark.parametrize(
    ("options", "steps"),
    [
        ({"eval_steps": 1}, [1, 2, 3, 4, 5, 6, 7, 8]),
        ({"eval_steps": 3}, [3, 6, 8]),
        ({"eval_steps": 4}, [4, 8]),
        ({"eval_steps": 6, "eval_on_start": True, "logging_steps": 5}, [0, 6, 8]),
    ],
)
def test_evaluation_by_steps(small: Any, runs_dir: Path, options: dict[str, Any], steps: list[int]) -> None:
    """Each one is recorded, with the step after which it came."""
    callback = small.quiet(runs_dir)
    done = small.fit(callback, eval_strategy="steps", **options)
    record = small.recorded(callback)
    assert small.steps(record, "valid.loss") == steps
    for name in ("loss", "accuracy"):
        assert small.points(record, f"valid.{name}") == small.history(done, f"eval_{name}")
    assert small.values(record, "train.epoch") == [1, 2]


def test_evaluations_beside_those_of_the_epochs(small: Any, runs_dir: Path) -> None:
    """One before the first epoch and one within the second are recorded by themselves, with their steps."""
    within = small.at(
        "on_step_end", lambda given: setattr(given.control, "should_evaluate", given.state.global_step == 6)
    )
    callback = small.quiet(runs_dir)
    done = small.fit(callback, within, eval_on_start=True)
    record = small.recorded(callback)
    assert small.steps(record, "valid.loss") == [0, 1, 6, 2]
    assert small.values(record, "valid.loss") == [value for _, value in small.history(done, "eval_loss")]


def test_evaluation_of_some_epochs(small: Any, runs_dir: Path) -> None:
    """An epoch without one has none."""
    callback = small.quiet(runs_dir)
    small.fit(callback, num_train_epochs=3, eval_delay=2)
    record = small.recorded(callback)
    assert small.steps(record, "valid.loss") == [2, 3]
    assert small.values(record, "train.epoch") == [1, 2, 3]


def test_several_sets_are_evaluated(small: Any, runs_dir: Path) -> None:
    """Each has its values with the epoch, and their samples are counted together."""
    callback = small.quiet(runs_dir)
    done = small.fit(callback, valid={"near": small.samples(8), "far": small.samples(9)})
    record = small.recorded(callback)
    for part in ("near", "far"):
        assert small.steps(record, f"valid.{part}_loss") == [1, 2]
        found = [value for _, value in small.history(done, f"eval_{part}_loss")]
        assert small.values(record, f"valid.{part}_loss") == found
    assert record.info.parameters["valid_samples"] == 17


def test_names(small: Any, runs_dir: Path) -> None:
    """Whatever else is logged is the training's, or of the part that it names; each once, none under a name of ours."""

    def log(given: Any) -> None:
        if given.state.global_step == 3:
            made.log(
                {"lr": 1.0, "entropy": 2.0, "rewards/chosen": 3.0, "test_loss": 4.0, "epoch_loss": 5.0, "eval_": 6.0}
            )
            made.log({"train_entropy": 7.0, "training accuracy": 8.0})

    callback = small.quiet(runs_dir)
    made = small.trainer(callback, small.at("on_step_end", log), eval_strategy="no")
    made.train()
    record = small.recorded(callback)
    assert {name: small.points(record, name) for name in set(record.names()) - LOGGED - EPOCHS - SUMMARY} == {
        "train.lr_2": [(3, 1.0)],
        "train.entropy": [(3, 2.0)],
        "train.rewards/chosen": [(3, 3.0)],
        "test.loss": [(3, 4.0)],
        "train.epoch_loss_2": [(3, 5.0)],
        "train.eval_": [(3, 6.0)],
        "train.entropy_2": [(3, 7.0)],
        "train.training_accuracy": [(3, 8.0)],
    }
    assert small.points(record, "train.lr") == small.history(made, "learning_rate")


def test_the_energy_of_each_epoch(small: Any, runs_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is metered is counted epoch by epoch, evaluation included; a pause between two trainings is no epoch's."""
    said: list[object] = []
    evaluated = small.at("on_evaluate", lambda _: said.append("evaluated"))
    with mlops.Run("outer", devices=[], runs_dir=runs_dir) as run:
        monkeypatch.setattr(run._sampler, "lap", said.append)
        callback = small.quiet(runs_dir)
        small.fit(callback, evaluated)
        small.fit(callback, num_train_epochs=1, eval_strategy="no")
    assert said == [None, "evaluated", 1, "evaluated", 2, None, 3]
    assert min(small.values(small.recorded(callback), "train.epoch_seconds")) > 0


def test_logged_by_epochs(small: Any, runs_dir: Path) -> None:
    """Where transformers logs once in an epoch, the steps are those at which the epochs ended."""
    callback = small.quiet(runs_dir)
    done = small.fit(callback, logging_strategy="epoch")
    record = small.recorded(callback)
    assert small.points(record, "train.loss") == small.history(done, "loss")
    assert small.steps(record, "train.loss") == [small.STEPS, 2 * small.STEPS]


# -- lives ----------------------------------------------------------------------------------------


def test_what_is_no_training_is_left_out(small: Any, runs_dir: Path) -> None:
    """Evaluating and predicting open no run, log nothing into one that is open, and the next training is recorded."""
    callback = small.quiet(runs_dir)
    made = small.trainer(callback)
    made.evaluate()
    made.predict(small.samples(3))
    assert not runs_dir.exists()
    with mlops.Run("outer", devices=[], runs_dir=runs_dir) as run:
        made.evaluate()
    assert not len(read_run(RunFolder(run.dir)).columns)
    made.train()
    record = small.recorded(callback)
    made.evaluate()
    assert small.points(record, "train.loss") == small.history(made, "loss")
    assert small.steps(record, "valid.loss") == [1, 2]


def test_nothing_to_train_is_no_run(small: Any, runs_dir: Path) -> None:
    """Not even where transformers goes through the motions."""
    small.fit(small.quiet(runs_dir), num_train_epochs=0)
    assert not runs_dir.exists()


def test_each_training_is_a_run_of_its_own(small: Any, runs_dir: Path) -> None:
    """Of one trainer or of several with the one callback: each is closed with its training."""
    callback = small.quiet(runs_dir)
    made = small.trainer(callback)
    dirs: list[Path | None] = [callback.run_dir]
    for train in (made.train, made.train, small.trainer(callback).train):
        train()
        assert mlops.current_run() is None
        assert small.ending(callback) == ("finished", "")
        assert small.values(small.recorded(callback), "train.epoch") == [1, 2]
        dirs.append(callback.run_dir)
    assert dirs[0] is None
    assert len(set(dirs)) == 4


@pytest.mark.parametrize("given", [True, False])
def test_trainings_within_a_run_share_it(small: Any, runs_dir: Path, *, given: bool) -> None:
    """Be it given or the open one; its count of epochs goes on, their number adds up, and the run goes on."""
    with mlops.Run("outer", devices=[], runs_dir=runs_dir) as run:
        callback = small.MonascaCallback(run=run) if given else small.quiet(runs_dir)
        for _ in range(2):
            made = small.fit(callback)
        assert run.is_open
        assert run.parameters["epochs"] == 4
    record = small.recorded(callback)
    assert record.info.id == run.id
    assert small.values(record, "train.epoch") == [1, 2, 3, 4]
    assert small.steps(record, "valid.loss") == [1, 2, 3, 4]
    assert small.points(record, "train.loss")[8:] == small.history(made, "loss")


@pytest.mark.parametrize("step", [4, 6])
def test_a_training_that_is_resumed(small: Any, runs_dir: Path, step: int) -> None:
    """From the end of an epoch, or from within one: what is trained from there on is recorded, with its steps."""
    small.fit(small.quiet(runs_dir), save_strategy="steps", save_steps=2)
    kept = Path("out") / f"checkpoint-{step}"
    assert "Monasca" not in (kept / "trainer_state.json").read_text()
    callback = small.quiet(runs_dir)
    made = small.trainer(callback, num_train_epochs=3)
    made.train(resume_from_checkpoint=str(kept))
    record = small.recorded(callback)
    assert small.steps(record, "train.loss") == list(range(step + 1, 13))
    assert small.points(record, "train.loss") == [point for point in small.history(made, "loss") if point[0] > step]
    assert small.values(record, "train.epoch") == [1, 2]
    assert record.info.parameters["epochs"] == 2
    assert record.info.outcome == "finished"


def test_nothing_is_left_to_resume(small: Any, runs_dir: Path) -> None:
    """A training that had come to its end is no run again."""
    small.fit(save_strategy="epoch")
    small.trainer(small.quiet(runs_dir)).train(resume_from_checkpoint=True)
    assert not runs_dir.exists()


# -- report_to ------------------------------------------------------------------------------------


@pytest.mark.parametrize("given", ["monasca", ["monasca"]])
def test_it_can_be_reported_to(small: Any, runs_dir: Path, monkeypatch: pytest.MonkeyPatch, given: Any) -> None:
    """By its name in the arguments, with its options from the settings."""
    monkeypatch.setenv("MLOPS_RUNS_DIR", str(runs_dir))
    monkeypatch.setenv("MLOPS_DEVICES", "")
    made = small.fit(report_to=given)
    (folder,) = runs_dir.iterdir()
    record = read_run(RunFolder(folder))
    assert small.points(record, "train.loss") == small.history(made, "loss")
    assert record.info.outcome == "finished"


def test_reported_to_and_given_it_records_once(small: Any, runs_dir: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The one that was given, and that is said once."""
    callback = small.quiet(runs_dir)
    small.fit(callback, report_to="monasca")
    assert small.values(small.recorded(callback), "train.epoch") == [1, 2]
    assert len(list(runs_dir.iterdir())) == 1
    assert len([text for text in caplog.messages if "more than one MonascaCallback" in text]) == 1


def test_nobody_gets_it_unasked(small: Any) -> None:
    """What transformers calls all is what it always was."""
    assert "monasca" not in small.arguments(report_to="all").report_to


def test_a_release_without_the_list(small: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where transformers has it elsewhere the callback is as good as ever."""
    utils = importlib.import_module("transformers.integrations.integration_utils")
    register = importlib.import_module("mlops.callbacks._transformers").register
    register("other", small.MonascaCallback)
    assert utils.INTEGRATION_TO_CALLBACK.pop("other") is small.MonascaCallback
    monkeypatch.delattr(utils, "INTEGRATION_TO_CALLBACK")
    register("other", small.MonascaCallback)
    monkeypatch.setitem(sys.modules, utils.__name__, None)
    register("other", small.MonascaCallback)


# -- ends -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("where", "nth", "epochs"),
    [
        ("on_epoch_begin", 2, 1),
        ("on_step_begin", 3, 0),
        ("on_pre_optimizer_step", 3, 0),
        ("on_step_end", 5, 1),
        ("on_log", 6, 1),
        ("on_prediction_step", 2, 1),
        ("on_evaluate", 1, 1),
        ("on_epoch_end", 1, 1),
        ("on_train_end", 1, 2),
    ],
)
@pytest.mark.parametrize("first", [True, False])
def test_an_exception_ends_the_run(
    small: Any, runs_dir: Path, where: str, nth: int, epochs: int, *, first: bool
) -> None:
    """Wherever it comes from it reaches the caller, the run says why, and the next training is a run of its own."""
    callback, error = small.quiet(runs_dir), RuntimeError("it broke")
    trouble = small.at(where, small.Raise(error, nth))
    made = small.trainer(*([trouble, callback] if first else [callback, trouble]))
    with pytest.raises(RuntimeError) as caught:
        made.train()
    assert caught.value is error
    assert mlops.current_run() is None
    assert small.ending(callback) == ("failed", "RuntimeError: it broke")
    if where == "on_epoch_end" and first:
        epochs = 0  # nobody had said yet that it was over
    assert small.values(small.recorded(callback), "train.epoch") == list(range(1, epochs + 1))
    made.train()
    assert small.ending(callback) == ("finished", "")
    assert small.values(small.recorded(callback), "train.epoch") == [1, 2]


@pytest.mark.parametrize("first", [True, False])
def test_an_exception_before_the_first_step(small: Any, runs_dir: Path, *, first: bool) -> None:
    """Out of another callback's on_train_begin: the run that is open then fails; before ours there is none."""
    callback = small.quiet(runs_dir)
    trouble = small.at("on_train_begin", small.Raise(AssertionError("no metric")))
    with pytest.raises(AssertionError):
        small.fit(*([trouble, callback] if first else [callback, trouble]))
    assert mlops.current_run() is None
    if first:
        assert callback.run_dir is None
    else:
        assert small.ending(callback) == ("failed", "AssertionError: no metric")


@pytest.mark.parametrize("added", [True, False])
def test_an_exception_of_the_models(small: Any, runs_dir: Path, *, added: bool) -> None:
    """Also of a callback that was added to a trainer later, of which transformers tells nobody."""
    model, callback = small.Small(), small.quiet(runs_dir)
    model.before = small.Raise(ValueError("shapes"), 3)
    made = small.trainer(*([] if added else [callback]), model=model)
    if added:
        made.add_callback(callback)
    with pytest.raises(ValueError, match="shapes"):
        made.train()
    assert small.ending(callback) == ("failed", "ValueError: shapes")
    assert small.steps(small.recorded(callback), "train.loss") == [1, 2]


def test_an_exception_of_the_datas(small: Any, runs_dir: Path) -> None:
    """The loader's, between two steps."""
    callback = small.quiet(runs_dir)
    made = small.trainer(callback)
    made.train_dataset = [*small.samples(small.TRAIN - 1), {}]
    with pytest.raises(KeyError):
        made.train()
    assert small.ending(callback)[0] == "failed"
    assert small.ending(callback)[1].startswith("KeyError")


def test_ctrl_c_interrupts(small: Any, runs_dir: Path) -> None:
    """It reaches the caller as it is."""
    callback = small.quiet(runs_dir)
    with pytest.raises(KeyboardInterrupt):
        small.fit(callback, small.at("on_step_end", small.Raise(KeyboardInterrupt(), 2)))
    assert small.ending(callback) == ("interrupted", "KeyboardInterrupt")


def test_a_trial_that_is_pruned(small: Any, runs_dir: Path) -> None:
    """Optuna's way to end a poor one is no failure, though it is an exception after the training's end."""
    pruned = type("TrialPruned", (Exception,), {})
    callback = small.quiet(runs_dir)

    def prune(_: object) -> None:
        made.callback_handler.on_train_end(made.args, made.state, made.control)
        raise pruned("at epoch 1")

    made = small.trainer(callback, small.at("on_evaluate", prune))
    with pytest.raises(pruned):
        made.train()
    assert small.ending(callback) == ("cancelled", "TrialPruned: at epoch 1")


@pytest.mark.parametrize("options", [{}, {"eval_strategy": "steps", "eval_steps": 2}])
def test_early_stopping_is_named(small: Any, runs_dir: Path, options: dict[str, Any]) -> None:
    """With what it watched; all up to the stop is recorded, the epoch and the evaluation included."""
    callback = small.quiet(runs_dir)
    stop = small.EarlyStoppingCallback(2, early_stopping_threshold=100.0)
    done = small.fit(callback, stop, num_train_epochs=9, metric_for_best_model="accuracy", **options)
    outcome, reason = small.ending(callback)
    assert outcome == "cancelled"
    assert reason == "EarlyStoppingCallback: accuracy was not better than its best 2 times"
    record = small.recorded(callback)
    assert small.points(record, "train.loss") == small.history(done, "loss")
    assert small.values(record, "valid.loss") == [value for _, value in small.history(done, "eval_loss")]
    assert small.values(record, "train.epoch") == ([1, 2] if options else [1, 2, 3])


def test_a_stop_of_the_users_own(small: Any, runs_dir: Path) -> None:
    """Whoever sets control.should_training_stop cancels; where all was trained anyway nothing is cancelled."""
    callback = small.quiet(runs_dir)
    small.fit(callback, small.at("on_step_end", lambda given: setattr(given.control, "should_training_stop", True)))
    assert small.ending(callback) == ("cancelled", "control.should_training_stop was set")
    assert small.steps(small.recorded(callback), "train.loss") == [1]
    late = small.at("on_step_end", lambda given: setattr(given.control, "should_training_stop", True))
    small.fit(callback, late, max_steps=1)
    assert small.ending(callback) == ("finished", "")


def test_a_batch_that_was_too_large(small: Any, runs_dir: Path) -> None:
    """Where transformers begins anew with a smaller one, the first try is a run that failed, and each has its size."""
    model, callback = small.Small(), small.quiet(runs_dir)
    model.before = small.Raise(RuntimeError("The device is out of memory."), 3)
    small.fit(callback, model=model, auto_find_batch_size=True)
    first, second = sorted(runs_dir.iterdir())
    assert callback.run_dir == second
    failed, finished = (read_run(RunFolder(folder)).info for folder in (first, second))
    assert (failed.outcome, failed.reason) == ("failed", "It was begun anew before it had ended.")
    assert failed.parameters["batch_size"] == small.BATCH > finished.parameters["batch_size"]
    assert finished.outcome == "finished"


def test_a_trainer_with_a_train_of_its_own(small: Any, runs_dir: Path) -> None:
    """That it has ended is heard where transformers tells it."""

    class Own(small.Trainer):  # type: ignore[misc] # which class it is shows when it runs
        def train(self) -> None:
            self._inner_training_loop(args=self.args)

    callback = small.quiet(runs_dir)
    small.fit(callback, kind=Own)
    assert mlops.current_run() is None
    assert small.ending(callback) == ("finished", "")
    assert small.values(small.recorded(callback), "train.epoch") == [1, 2]
    with pytest.raises(ValueError, match="shapes"):
        small.fit(callback, small.at("on_step_end", small.Raise(ValueError("shapes"))), kind=Own)
    unheard = callback.run_dir
    small.fit(callback, kind=Own)
    info = read_run(RunFolder(unheard)).info
    assert (info.outcome, info.reason) == ("failed", "It was begun anew before it had ended.")


# -- ours, and copies -----------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["start_epoch", "end_training", "end_epoch", "log", "__init__"])
def test_our_own_trouble_is_one_warning(
    small: Any, runs_dir: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, method: str
) -> None:
    """The training is the same, the hook is passed over, the run ends; and the next training is recorded again."""
    bare = small.weights(small.fit())

    def trouble(*_: object) -> None:
        raise ZeroDivisionError("ours")

    callback = small.quiet(runs_dir)
    with monkeypatch.context() as patched:
        patched.setattr(f"mlops.callbacks._transformers.Fit.{method}", trouble)
        assert small.weights(small.fit(callback)) == bare
    said = [text for text in caplog.messages if "ZeroDivisionError: ours" in text]
    assert len(said) == len(set(said)) == (3 if method == "end_epoch" else 1)  # which three hooks call
    assert mlops.current_run() is None
    assert small.ending(callback) == ("finished", "") or method == "__init__"
    done = small.fit(callback)
    assert small.points(small.recorded(callback), "train.loss") == small.history(done, "loss")
    assert small.values(small.recorded(callback), "train.epoch") == [1, 2]


def test_a_run_that_cannot_be_opened(small: Any, runs_dir: Path, caplog: pytest.LogCaptureFixture) -> None:
    """One that has ended is refused with its remedy, in a warning; training goes on."""
    with mlops.Run("outer", devices=[], runs_dir=runs_dir) as run:
        callback = small.MonascaCallback(run=run)
    done = small.fit(callback)
    assert len(done.model.seen) == 2 * small.STEPS
    (said,) = [text for text in caplog.messages if "not all of it is monitored" in text]
    assert "Give it one that is open" in said


@pytest.mark.parametrize(("version", "served"), [("4.45.2", False), ("4.46.0", True), ("6.1.0.dev0", True)])
def test_a_release_that_is_too_old(
    small: Any,
    runs_dir: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    version: str,
    *,
    served: bool,
) -> None:
    """That is said once in a training, with the remedy; it goes on, and none of it is recorded."""
    monkeypatch.setattr("transformers.__version__", version)
    done = small.fit(small.quiet(runs_dir))
    assert len(done.model.seen) == 2 * small.STEPS
    said = [text for text in caplog.messages if "not all of it is monitored" in text]
    assert len(said) == (0 if served else 1)
    assert runs_dir.exists() is served
    for text in said:
        assert "transformers 4.45.2 is older than 4.46" in text
        assert "pip install 'mlops[transformers]'" in text


def test_added_twice_it_records_once(small: Any, runs_dir: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The last one records, and that is said once."""
    first, second = small.quiet(runs_dir), small.quiet(runs_dir)
    small.fit(first, second)
    assert first.run_dir is None
    assert small.values(small.recorded(second), "train.epoch") == [1, 2]
    assert len([text for text in caplog.messages if "more than one MonascaCallback" in text]) == 1


def test_another_rank_leaves_the_losses_to_rank_0(small: Any, runs_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It joins the run for its devices' sake; real ranks are in tests/test_torchrun."""
    callback = small.quiet(runs_dir)
    monkeypatch.setattr("mlops.ranks.here", lambda: Rank(1, 2, sure=True))
    small.fit(callback)
    assert small.recorded(callback).names() == []
    assert small.ending(callback) == ("finished", "")


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda it: pickle.loads(pickle.dumps(it))])  # noqa: S301 - its own
def test_a_copy_keeps_the_options_alone(small: Any, runs_dir: Path, copied: Callable[[Any], Any]) -> None:
    """Also one made within a training: it records trainings of its own, and ends no other."""
    callback, copies = small.quiet(runs_dir), []
    small.fit(callback, small.at("on_step_end", lambda _: copies.append(copied(callback))))
    assert small.ending(callback) == ("finished", "")
    twin = copies[1]
    assert [twin.run_dir] == [None]
    small.fit(twin)
    assert twin.run_dir.parent == runs_dir
    assert twin.run_dir != callback.run_dir
    assert small.recorded(twin).info.name == "small"


def test_a_trainer_can_be_pickled_with_it(small: Any, runs_dir: Path) -> None:
    """As a search for hyperparameters does it on other machines."""
    made = small.fit(small.quiet(runs_dir))
    other = pickle.loads(pickle.dumps(made.callback_handler.callbacks))  # noqa: S301 - its own
    assert [type(callback) for callback in other] == [type(callback) for callback in made.callback_handler.callbacks]


def test_a_missing_framework_is_said_with_what_to_install() -> None:
    """As an ImportError that names the extra, by the package's attribute too."""
    code = (
        "import sys; sys.modules.update(transformers=None)\n"
        "import json, mlops\n"
        "try: mlops.callbacks.transformers.MonascaCallback\n"
        "except ImportError as error: print(json.dumps(str(error)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert json.loads(done.stdout) == (
        "The Python package 'transformers' is not installed in this environment. "
        "Install it with: pip install 'mlops[transformers]'"
    )
