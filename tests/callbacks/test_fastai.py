"""The life of a fastai training and of the run that records it: every beginning, every end, every copy."""

from __future__ import annotations

import copy
import functools
import gc
import pickle
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from fastai.callback.core import (
    CancelBatchException,
    CancelEpochException,
    CancelFitException,
    CancelTrainException,
    CancelValidException,
)
from fastai.callback.schedule import Learner
from fastai.callback.tracker import EarlyStoppingCallback
from fastai.learner import load_learner
from fastai.metrics import accuracy

import mlops
from mlops.callbacks import _fastai
from mlops.callbacks.fastai import MonascaCallback
from mlops.errors import SinkURLError
from mlops.record import read_run
from mlops.store import RunFolder
from tests.callbacks.small import (
    BATCHES,
    At,
    Raise,
    ending,
    learner,
    left_clean,
    quiet,
    recorded,
    runs_of,
    values,
)

pytestmark = pytest.mark.torch

IN_A_FIT = [
    ("before_epoch", 2),
    ("before_train", 1),
    ("before_batch", 3),
    ("after_pred", 9),
    ("after_loss", 1),
    ("before_backward", 1),
    ("before_step", 1),
    ("after_step", 1),
    ("after_batch", 5),
    ("after_train", 1),
    ("before_validate", 2),
    ("after_validate", 1),
    ("after_epoch", 2),
]
"""Events during which a run is open, and at which call of them something happens."""


def test_a_fit_is_a_run_that_ends_well(runs_dir: Path) -> None:
    """Without any run a fit opens one, says what it was called with, and leaves the learner as it was."""
    learn = learner(quiet(runs_dir, dimensions={"team": "vision"}), accuracy)
    assert learn.monasca.run_dir is None
    learn.fit(2, 0.01)
    assert mlops.current_run() is None
    info = recorded(learn.monasca).info
    assert (info.name, info.outcome, info.reason) == ("small", "finished", "")
    assert info.dimensions == {"team": "vision"}
    assert info.parameters == {
        "epochs": 2,
        "batch_size": 16,
        "lr": 0.01,
        "loss": "CrossEntropyLossFlat",
        "optimizer": "Adam",
        "model": "Sequential",
        "model_parameters": 58,
        "train_samples": 50,
        "valid_samples": 24,
    }
    assert {"fastai", "torch"} <= set(info.versions)
    assert left_clean(learn)


def test_each_fit_is_a_run_of_its_own(runs_dir: Path) -> None:
    """Three fits, fine_tune's two among them, are three runs whose epochs count from one."""
    learn = learner(quiet(runs_dir))
    learn.fit(1)
    learn.fine_tune(2, freeze_epochs=1)
    epochs = [values(read_run(RunFolder(path)), "train.epoch") for path in runs_of(runs_dir)]
    assert sorted(epochs) == [[1], [1], [1, 2]]


def test_fits_within_a_run_share_it(runs_dir: Path) -> None:
    """Within ``with mlops.Run(…)`` the count of epochs goes on, and the run ends with its block alone."""
    learn = learner(quiet(runs_dir))
    with mlops.Run("outer", devices=[], runs_dir=runs_dir) as run:
        learn.fit(2)
        learn.fit(1)
        assert run.is_open
        assert learn.monasca.run_dir == run.dir
        assert run.parameters["epochs"] == 3
    assert runs_of(runs_dir) == [run.dir]
    record = recorded(learn.monasca)
    assert values(record, "train.epoch") == [1, 2, 3]
    assert len(values(record, "train.loss")) == 3 * BATCHES


def test_a_run_that_was_given_is_used(runs_dir: Path) -> None:
    """Also when another one was opened later."""
    with mlops.Run("mine", devices=[], runs_dir=runs_dir) as mine:
        learn = learner(MonascaCallback(run=mine))
        with mlops.Run("other", devices=[], runs_dir=runs_dir):
            learn.fit(1)
    assert learn.monasca.run_dir == mine.dir
    assert values(recorded(learn.monasca), "train.epoch") == [1]


def test_a_schedule_and_its_peak(runs_dir: Path) -> None:
    """The learning rate that is noted is the one that was asked for, not where a schedule begins or ends."""
    learn = learner(quiet(runs_dir))
    learn.fit_one_cycle(2, 0.02)
    record = recorded(learn.monasca)
    assert record.info.parameters["lr"] == pytest.approx(0.02)
    assert values(record, "train.lr") == learn.recorder.lrs
    assert len(set(learn.recorder.lrs)) == 2 * BATCHES


@pytest.mark.parametrize(
    "call",
    [
        pytest.param(lambda learn: learn.lr_find(num_it=6, show_plot=False), id="lr_find"),
        pytest.param(lambda learn: learn.get_preds(), id="get_preds"),
        pytest.param(lambda learn: learn.validate(), id="validate"),
        pytest.param(lambda learn: learn.fit(0), id="no epochs"),
    ],
)
def test_what_only_looks_like_a_training_is_left_out(
    runs_dir: Path, tmp_path: Path, call: Callable[[Any], object]
) -> None:
    """These open no run, log nothing into one that is open, and the next fit is recorded as ever."""
    learn = learner(quiet(runs_dir), accuracy, path=tmp_path)
    call(learn)
    assert not runs_of(runs_dir)
    assert left_clean(learn)
    with mlops.Run("outer", devices=[], runs_dir=runs_dir) as run:
        call(learn)
    assert not len(read_run(RunFolder(run.dir)).columns)
    learn.fit(1)
    assert values(recorded(learn.monasca), "train.epoch") == [1]


# -- ends ---------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("order", [0, 99], ids=["before ours", "after ours"])
@pytest.mark.parametrize(("where", "at"), IN_A_FIT)
def test_an_exception_ends_the_run_where_it_ends_the_fit(runs_dir: Path, where: str, at: int, order: int) -> None:
    """Wherever it comes from, it reaches the caller, the run says why, and the next fit is a run of its own."""
    trouble = At(where, Raise(RuntimeError("out of memory"), at), order)
    learn = learner([quiet(runs_dir), trouble])
    with pytest.raises(RuntimeError, match="out of memory"):
        learn.fit(3)
    assert mlops.current_run() is None
    if learn.monasca.run_dir is not None:  # else it was raised before there was a run
        assert ending(learn.monasca) == ("failed", "RuntimeError: out of memory")
    else:
        assert (where, order) == ("before_train", 0)
    assert left_clean(learn)
    learn.fit(1)
    assert ending(learn.monasca) == ("finished", "")
    assert values(recorded(learn.monasca), "train.epoch") == [1]


@pytest.mark.parametrize(
    ("error", "outcome", "reason"),
    [
        (KeyboardInterrupt(), "interrupted", "KeyboardInterrupt"),
        (SystemExit(3), "failed", "SystemExit: 3"),
        (CancelEpochException("astray"), "failed", "CancelEpochException: astray"),
    ],
)
def test_every_end_has_its_outcome(runs_dir: Path, error: BaseException, outcome: str, reason: str) -> None:
    """Ctrl-C, the interpreter's end, and an exception of fastai's where fastai does not expect it."""
    learn = learner([quiet(runs_dir), At("after_epoch", Raise(error))])
    with pytest.raises(type(error)):
        learn.fit(2)
    assert ending(learn.monasca) == (outcome, reason)


def test_a_callbacks_exception_is_told_with_its_cause(runs_dir: Path) -> None:
    """Fastai writes where it happened above what happened; the reason has both."""

    def loss(*_: object) -> torch.Tensor:
        raise ValueError("shapes differ")

    learn = learner(quiet(runs_dir))
    learn.loss_func = loss
    with pytest.raises(ValueError, match="shapes differ"):
        learn.fit(1)
    assert ending(learn.monasca) == ("failed", "ValueError: shapes differ")


@pytest.mark.slow
@pytest.mark.parametrize(("where", "at"), IN_A_FIT)
def test_a_fit_that_is_cancelled_is_no_failure(runs_dir: Path, where: str, at: int) -> None:
    """CancelFitException ends the run as cancelled, and says who raised it."""
    learn = learner([quiet(runs_dir), At(where, Raise(CancelFitException(), at), 99)])
    learn.fit(3)
    assert ending(learn.monasca) == ("cancelled", "CancelFitException from Raise.__call__")
    assert left_clean(learn)


def test_early_stopping_is_named(runs_dir: Path) -> None:
    """The epochs up to the stop are recorded, that one included."""
    learn = learner([quiet(runs_dir), EarlyStoppingCallback(min_delta=100.0, patience=1)])
    learn.fit(5)
    assert ending(learn.monasca) == ("cancelled", "CancelFitException from EarlyStoppingCallback.after_epoch")
    assert values(recorded(learn.monasca), "train.epoch") == [1, 2]


def test_an_end_that_nobody_hears_is_made_up_for(runs_dir: Path) -> None:
    """An exception from another callback's after_fit comes when all is trained: the next fit ends the run."""
    learn = learner([quiet(runs_dir), At("after_fit", Raise(RuntimeError("late")))])
    with pytest.raises(RuntimeError, match="late"):
        learn.fit(1)
    first = learn.monasca.run_dir
    learn.fit(1)
    assert learn.monasca.run_dir != first
    assert read_run(RunFolder(first)).info.outcome == "finished"
    assert mlops.current_run() is None
    assert left_clean(learn)


def test_an_exception_is_not_kept(runs_dir: Path) -> None:
    """Once it is dealt with it is gone, with its frames and whatever they hold on the GPU, without the collector."""

    class OutOfMemoryError(RuntimeError):
        """What can be seen to go."""

    def fail(*_: object) -> torch.Tensor:
        raise OutOfMemoryError("out of memory")

    def gone(*cbs: Any) -> bool:
        learn = learner(list(cbs))
        learn.loss_func = fail
        try:
            learn.fit(1)
        except OutOfMemoryError as error:
            kept = weakref.ref(error)
        return kept() is None

    gc.disable()
    try:
        assert gone()
        assert gone(quiet(runs_dir))
    finally:
        gc.enable()


def test_someone_else_may_stand_in_too(runs_dir: Path) -> None:
    """Whoever has replaced the same method of the learner is called as before, and is left there."""
    learn = learner(quiet(runs_dir))
    calls: list[str] = []

    def theirs(f: Any, event_type: str, *rest: Any) -> None:
        calls.append(event_type)
        Learner._with_events(learn, f, event_type, *rest)

    learn._with_events = theirs
    learn.fit(2)
    assert learn._with_events is theirs
    assert (calls.count("fit"), calls.count("epoch"), calls.count("train")) == (1, 2, 2)
    learn.add_cb(At("after_batch", Raise(RuntimeError("boom"))))
    with pytest.raises(RuntimeError):
        learn.fit(1)
    assert learn._with_events is theirs
    assert ending(learn.monasca)[0] == "failed"


def test_a_run_that_ended_is_let_go(runs_dir: Path) -> None:
    """Its buffer of some megabytes is not kept until the next fit."""
    seen: list[weakref.ref[mlops.Run | None]] = []
    learn = learner([quiet(runs_dir), At("after_epoch", lambda _: seen.append(weakref.ref(mlops.current_run())))])
    learn.fit(1)
    gc.collect()
    assert [reference() for reference in seen] == [None]


@pytest.mark.parametrize("where", ["before_fit", "after_batch", "after_epoch"])
def test_given_to_fit_it_hears_the_end_too(runs_dir: Path, where: str) -> None:
    """A callback that the learner has for one fit only."""
    learn = learner(At(where, Raise(RuntimeError("boom")), 99))
    callback = quiet(runs_dir)
    with pytest.raises(RuntimeError):
        learn.fit(1, cbs=callback)
    learn.fit(1)
    assert left_clean(learn)
    if where == "before_fit":
        assert not runs_of(runs_dir)
    else:
        assert ending(callback) == ("failed", "RuntimeError: boom")


def test_taken_off_within_a_fit_it_ends_its_run(runs_dir: Path) -> None:
    """And leaves the learner alone from then on."""
    learn = learner([quiet(runs_dir), At("after_batch", lambda learn: learn.remove_cb(MonascaCallback), 99)])
    callback = learn.monasca
    learn.fit(2)
    assert ending(callback) == ("finished", "")
    assert len(values(recorded(callback), "train.loss")) == 1
    assert left_clean(learn)


# -- several, copies ------------------------------------------------------------------------------


def test_added_twice_it_records_once(runs_dir: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A notebook's cell that adds it was run again: the last one records, and that is said once."""
    learn = learner([quiet(runs_dir, name="first"), quiet(runs_dir, name="second")])
    learn.fit(2)
    assert [path.name.split("-")[2] for path in runs_of(runs_dir)] == ["second"]
    assert values(recorded(learn.monasca), "train.epoch") == [1, 2]
    assert len(caplog.messages) == 1
    assert "more than one MonascaCallback" in caplog.text
    with pytest.raises(RuntimeError, match="boom"):
        learn.fit(1, cbs=At("after_epoch", Raise(RuntimeError("boom"))))
    assert ending(learn.monasca) == ("failed", "RuntimeError: boom")
    learn.remove_cb(learn.monasca)
    learn.fit(1)
    assert "first" in {path.name.split("-")[2] for path in runs_of(runs_dir)}
    assert left_clean(learn)


def test_one_callback_in_two_learners(runs_dir: Path) -> None:
    """Each fit is recorded with its own learner's values, whichever was made last."""
    callback = quiet(runs_dir)
    first, second = learner(callback), learner(callback)
    for learn in (first, second, first):
        learn.fit(1)
        assert values(recorded(callback), "train.smooth_loss") == [loss.item() for loss in learn.recorder.losses]
        assert left_clean(learn)
    assert len(runs_of(runs_dir)) == 3


def test_a_training_within_a_training(runs_dir: Path) -> None:
    """Another learner that is trained meanwhile has a run of its own; a user's run takes in both."""
    inner = learner(quiet(runs_dir, name="inner"))
    outer = learner([quiet(runs_dir, name="outer"), At("after_train", lambda _: inner.fit(1))])
    outer.fit(2)
    assert len(runs_of(runs_dir)) == 1 + 2
    assert len(values(recorded(outer.monasca), "train.loss")) == 2 * BATCHES
    with mlops.Run("both", devices=[], runs_dir=runs_dir) as run:
        outer.fit(1)
    assert recorded(inner.monasca).info.name == recorded(outer.monasca).info.name == run.name


def test_an_exported_learner_comes_back_with_it(runs_dir: Path, tmp_path: Path) -> None:
    """learn.export() works before and after a fit, also for one within a run, and what is loaded is monitored."""
    with mlops.Run("outer", devices=[], runs_dir=runs_dir) as run:
        learn = learner(MonascaCallback(run=run, parameters={"seed": 7}), path=tmp_path)
        learn.export("before.pkl")
        learn.fit(1)
        learn.export("after.pkl")
    for name in ("before.pkl", "after.pkl"):
        with pytest.warns(UserWarning, match="insecure pickle"):
            loaded = load_learner(tmp_path / name)
        assert loaded.monasca.learn is loaded
        assert loaded.monasca.run_dir is None
        loaded.dls, loaded.logger = learn.dls, learn.logger
        loaded.fit(1)
        assert recorded(loaded.monasca).info.parameters["seed"] == 7


class Copy:
    """Copies the learner that it is called with."""

    def __init__(self, how: Callable[[Any], Any]) -> None:
        self.how = how
        self.made: list[Any] = []

    def __call__(self, learn: Any) -> None:
        """Copy it."""
        self.made.append(self.how(learn))


def pickled(thing: Any) -> Any:
    """To another process and back."""
    return pickle.loads(pickle.dumps(thing))  # noqa: S301 - its own


@pytest.mark.parametrize("how", [copy.deepcopy, pickled])
@pytest.mark.parametrize("when", ["before", "within"])
def test_copies_record_for_themselves(runs_dir: Path, how: Callable[[Any], Any], when: str) -> None:
    """A learner that is copied, before its fit or from within, gives one that records its own fits."""
    copying = Copy(how)
    learn = learner(quiet(runs_dir))
    if when == "before":
        copying(learn)
        learn.fit(1)
    else:
        learn.fit(1, cbs=At("after_epoch", copying, 52))
    (other,) = copying.made
    other.fit(1)
    assert other.monasca.learn is other
    assert values(recorded(other.monasca), "train.epoch") == [1]
    assert len(runs_of(runs_dir)) == 2
    assert left_clean(learn)
    assert left_clean(other)


def test_switched_off_it_is_silent(runs_dir: Path) -> None:
    """Fastai's own switch for a callback holds for one fit, as it does for others."""
    learn = learner(quiet(runs_dir))
    learn.monasca.run = False
    learn.fit(1)
    assert not runs_of(runs_dir)
    learn.fit(1)
    assert len(runs_of(runs_dir)) == 1


def test_a_subclass_may_hear_more(runs_dir: Path) -> None:
    """Events of its own are called, and fastai's exceptions pass through."""

    class Two(MonascaCallback):
        """Stops in the second batch."""

        def before_batch(self) -> None:
            if self.learn.train_iter == 1:
                raise CancelFitException

    learn = learner(Two("two", devices=[], runs_dir=runs_dir))
    learn.fit(1)
    assert ending(learn.two) == ("cancelled", "CancelFitException from " + Two.before_batch.__qualname__)
    assert len(values(recorded(learn.two), "train.loss")) == 1


# -- trouble of our own -----------------------------------------------------------------------------


def test_bad_arguments_are_said_at_construction() -> None:
    """Before a learner has it; the loop never meets them."""
    with pytest.raises(SinkURLError, match="carrier-pigeon"):
        MonascaCallback(sinks=["carrier-pigeon://x"])


def test_a_run_that_cannot_be_opened_costs_one_warning(
    runs_dir: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """No disk takes a run: the training goes on to the same losses, and the fit after is recorded."""
    alone = learner()
    alone.fit(2)

    def refuse(*_: object) -> None:
        raise OSError(30, "Read-only file system")

    learn = learner(quiet(runs_dir))
    with monkeypatch.context() as patched:
        patched.setattr(mlops.Run, "_open_store_in", refuse)
        learn.fit(2)
    assert learn.recorder.losses == alone.recorder.losses
    (message,) = [text for text in caplog.messages if "not all of it is monitored" in text]
    assert "Read-only file system" in message
    assert "MLOPS_RUNS_DIR" in message
    assert learn.monasca.run_dir is None
    learn.fit(1)
    assert ending(learn.monasca) == ("finished", "")


@pytest.mark.parametrize("method", ["start_epoch", "batch", "end_training", "end_validation", "end_epoch", "close"])
def test_a_fault_of_ours_costs_one_warning(
    runs_dir: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, method: str
) -> None:
    """Whatever breaks in what reads the training, the training does not, and the run ends well."""
    calls = []

    def break_down(*_: object) -> None:
        calls.append(method)
        raise ZeroDivisionError("ours")

    learn = learner(quiet(runs_dir), accuracy)
    with monkeypatch.context() as patched:
        patched.setattr(_fastai.Fit, method, break_down)
        learn.fit(2)
    assert len(learn.recorder.values) == 2
    assert len(calls) == 1
    assert [text for text in caplog.messages if "ZeroDivisionError: ours" in text] == caplog.messages[:1]
    assert recorded(learn.monasca).info.outcome == "finished"
    learn.fit(1)
    assert values(recorded(learn.monasca), "train.epoch") == [1]
    assert left_clean(learn)


@pytest.mark.parametrize(("version", "served"), [("2.7.19", False), ("2.8.0", True), ("3.0.0.dev0", True)])
def test_a_release_that_is_too_old(
    runs_dir: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, version: str, *, served: bool
) -> None:
    """That is said once in a fit, with the remedy; training goes on, and none of it is recorded."""
    monkeypatch.setattr("fastai.__version__", version)
    learn = learner(quiet(runs_dir))
    learn.fit(2)
    assert len(learn.recorder.losses) == 2 * BATCHES
    said = [text for text in caplog.messages if "not all of it is monitored" in text]
    assert len(said) == (0 if served else 1)
    assert runs_dir.exists() is served
    for text in said:
        assert "fastai 2.7.19 is older than 2.8" in text
        assert "pip install 'mlops[fastai]'" in text


def test_without_a_recorder_there_is_nothing_to_read(runs_dir: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A learner without fastai's default callbacks: one warning that says so."""
    learn = learner(quiet(runs_dir))
    learn.remove_cb(learn.recorder)
    learn.fit(1)
    assert len(caplog.messages) == 1
    assert "no Recorder" in caplog.text
    assert mlops.current_run() is None


# -- what fastai cancels, and what runs within a fit -------------------------------------------------


@pytest.mark.parametrize(
    ("where", "error", "losses", "epochs"),
    [
        ("before_batch", CancelBatchException, 8, 2),
        ("after_loss", CancelBatchException, 8, 2),
        ("after_batch", CancelTrainException, 7, 2),
        ("before_batch", CancelEpochException, 6, 2),
        ("before_validate", CancelValidException, 8, 2),
        ("after_train", CancelEpochException, 8, 2),
    ],
)
def test_cancelled_parts(runs_dir: Path, where: str, error: type[Exception], losses: int, epochs: int) -> None:
    """A batch, a training part, a validation part or an epoch is cut short: nothing is lost, nothing misnamed."""
    at = 3 if "batch" in where or "loss" in where else 1
    learn = learner([quiet(runs_dir), At(where, Raise(error(), at), 99)], accuracy)
    learn.fit(2)
    record = recorded(learn.monasca)
    assert record.info.outcome == "finished"
    assert len(values(record, "train.epoch")) == epochs
    assert len(values(record, "train.loss")) == losses
    whole = 1 if where in {"before_validate", "after_train"} or error is CancelEpochException else 2
    assert len(values(record, "valid.loss")) == len(values(record, "valid.accuracy")) == whole
    assert values(record, "valid.accuracy")[-1] == learn.recorder.values[-1][2]
    assert values(record, "valid.loss")[-1] == learn.recorder.values[-1][1]


def test_a_fit_that_goes_on_later(runs_dir: Path) -> None:
    """Epochs that ``start_epoch`` or a callback skips were not trained, so they are no epochs of the run."""
    learn = learner(quiet(runs_dir))
    learn.fit(4, start_epoch=2)
    assert values(recorded(learn.monasca), "train.epoch") == [1, 2]
    learn.fit(3, cbs=At("before_epoch", Raise(CancelEpochException(), 2)))
    assert values(recorded(learn.monasca), "train.epoch") == [1, 2]


@pytest.mark.parametrize("where", ["after_epoch", "after_batch", "before_validate"])
@pytest.mark.parametrize("call", [Learner.validate, functools.partial(Learner.get_preds, ds_idx=1)])
def test_a_callback_that_validates_within_the_fit(runs_dir: Path, where: str, call: Callable[[Any], Any]) -> None:
    """Another callback predicts in the middle of an epoch: that neither ends the run nor counts as an epoch."""
    within: list[bool] = []

    def once(learn: Any) -> None:
        if not within:
            within.append(True)
            training = learn.training
            call(learn)
            learn.training = training

    true: list[float] = []
    keeping = At("after_validate", lambda learn: true.append(learn.recorder.loss.value.item()), 99)
    learn = learner([quiet(runs_dir), At(where, once, 99), keeping], accuracy)
    learn.fit(3)
    record = recorded(learn.monasca)
    assert record.info.outcome == "finished"
    assert set(values(record, "valid.loss")) <= set(true)
    assert len(values(record, "valid.loss")) >= 2
    assert values(record, "train.epoch") == [1, 2, 3]
    assert len(runs_of(runs_dir)) == 1
    assert left_clean(learn)
