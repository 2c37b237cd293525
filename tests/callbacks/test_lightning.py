"""Lightning's trainings, of both packages: what is recorded of them, under which names, and how their runs end."""

from __future__ import annotations

import copy
import importlib
import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import mlops
from mlops.ranks import Rank
from mlops.record import read_run
from mlops.store import RunFolder

pytestmark = [
    pytest.mark.torch,
    pytest.mark.slow,  # importing Lightning takes seconds
    # Lightning 2.6 asks torch 2.13 in a way that torch has deprecated.
    pytest.mark.filterwarnings("ignore:`isinstance\\(treespec, LeafSpec\\)` is deprecated:FutureWarning"),
    # Its advice, where data are in memory and what was asked for is meant.
    pytest.mark.filterwarnings("ignore:The '(train|val|test|predict)_dataloader' does not have many workers"),
]

ALWAYS = {"train.epoch", "train.epoch_seconds", "train.loss", "train.lr", "train.samples_per_second"}


@pytest.fixture(scope="module")
def small() -> Any:
    """The helpers, imported where they are needed."""
    return importlib.import_module("tests.callbacks.small_lightning")


@pytest.fixture(params=["lightning", "pytorch_lightning"])
def pl(request: pytest.FixtureRequest, small: Any) -> Any:
    """Each of the two packages."""
    return small.PACKAGES[request.param]


@pytest.fixture
def signals_as_before() -> Iterator[None]:
    """Lightning has Ctrl-C ignored once it has seen it."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


# -- values ---------------------------------------------------------------------------------------


def test_every_batch_and_every_epoch_to_the_bit(small: Any, pl: Any, runs_dir: Path) -> None:
    """Losses as the module saw them, the learning rate each step was taken with, validation as Lightning has it."""
    found: list[float] = []
    watch = small.at("on_validation_end", lambda trainer: found.append(trainer.callback_metrics["val_loss"].item()), pl)
    callback = small.quiet(runs_dir, dimensions={"team": "vision"})
    done = small.fit(callback, watch, pl=pl, num_sanity_val_steps=0)
    record = small.recorded(callback)
    assert set(record.names()) == ALWAYS | {"valid.loss"}
    assert small.values(record, "train.loss") == done.lightning_module.seen
    assert len(done.lightning_module.seen) == 2 * small.BATCHES
    assert small.values(record, "train.lr") == done.lightning_module.lrs
    assert small.values(record, "valid.loss") == found
    assert len(set(found)) == 2
    assert small.steps(record, "valid.loss") == small.values(record, "train.epoch") == [1, 2]
    rates = small.values(record, "train.samples_per_second")
    assert len(rates) == 2
    assert min(rates) > 0
    assert record.info.dimensions == {"team": "vision"}
    assert {"lightning", "pytorch-lightning", "torch"} <= set(record.info.versions)


def test_what_it_was_called_with_is_noted(small: Any, runs_dir: Path) -> None:
    """Found, said by the module's hyperparameters as far as they are plain, and said by the user, who is above all."""
    callback = small.quiet(runs_dir, parameters={"model": "mine"})
    small.fit(callback, accumulate_grad_batches=2)
    assert small.recorded(callback).info.parameters == {
        "accumulate_grad_batches": 2,
        "batch_size": small.BATCH,
        "epochs": 2,
        "lr": 0.1,
        "model": "mine",
        "model_parameters": 10,
        "optimizer": "SGD",
        "precision": "32-true",
        "train_samples": small.TRAIN,
        "valid_samples": small.VALID,
    }


@pytest.mark.parametrize("options", [{}, {"accumulate_grad_batches": 2}, {"val_check_interval": 2}])
def test_the_training_is_the_same_with_it(small: Any, runs_dir: Path, options: dict[str, Any]) -> None:
    """The same losses and the same weights in the end, bit for bit."""
    bare, monitored = small.fit(**options), small.fit(small.quiet(runs_dir), **options)
    assert monitored.lightning_module.seen == bare.lightning_module.seen
    assert small.weights(monitored) == small.weights(bare)


@pytest.mark.parametrize("parts", [2, 3, 4])
def test_the_loss_of_accumulated_batches_is_the_true_one(small: Any, runs_dir: Path, parts: int) -> None:
    """Lightning divides it; to the bit where that is a power of two, else within float32's last bits."""
    callback = small.quiet(runs_dir)
    done = small.fit(callback, accumulate_grad_batches=parts)
    near = 0.0 if parts != 3 else 3e-7
    assert small.values(small.recorded(callback), "train.loss") == [
        pytest.approx(loss, rel=near, abs=0.0) for loss in done.lightning_module.seen
    ]


@pytest.mark.filterwarnings("ignore:`training_step` returned `None`")  # which is what is tried here
def test_what_a_step_may_give(small: Any, runs_dir: Path) -> None:
    """A mapping has the loss in it; nothing leaves the step out; and where a module steps by itself it is as it is."""
    callback = small.quiet(runs_dir)
    given = small.module()
    given.gives = lambda loss: {"loss": loss, "logits": torch.zeros(3)} if len(given.seen) % 2 else None
    small.fit(callback, small=given, max_epochs=1)
    assert small.values(small.recorded(callback), "train.loss") == given.seen[::2]
    by_itself = small.module()
    by_itself.automatic_optimization = False
    by_itself.gives = lambda loss: (by_itself.manual_backward(loss), by_itself.optimizers().step(), loss)[2]
    small.fit(callback, small=by_itself, max_epochs=1)
    assert small.values(small.recorded(callback), "train.loss") == by_itself.seen


def test_what_is_on_a_device_is_handed_on_as_it_is(small: Any, runs_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Losses and metrics reach the recorder as tensors, which it takes from a GPU without waiting for it."""
    put: list[Any] = []
    monkeypatch.setattr(mlops.Run, "series", lambda _, name: put.append if name == "train.loss" else lambda _: None)
    monkeypatch.setattr(mlops.Run, "end_epoch", lambda _, metrics, **__: put.extend(metrics.values()))
    small.fit(small.quiet(runs_dir), max_epochs=1, accumulate_grad_batches=4)
    assert len(put) == small.BATCHES + 1
    assert {type(value) for value in put} == {torch.Tensor}
    assert not any(value.requires_grad for value in put)


def test_names(small: Any, runs_dir: Path) -> None:
    """What was logged in whatever part, each once, no name of ours among them, and the last step's loss not again."""

    def also(module: Any, part: str, loss: Any) -> None:
        if part == "val":
            for name in ("val/acc", "validation.f1", "score", "a b", "gpu.power_watts"):
                module.log(name, loss)
        else:
            module.log("train_acc", loss, on_step=True, on_epoch=True)
            module.log("train_lr", loss)
            module.log("training/loss", loss, on_step=False, on_epoch=True)

    callback, given = small.quiet(runs_dir), small.module()
    given.also = also
    done = small.fit(callback, small=given)
    record = small.recorded(callback)
    assert set(record.names()) == ALWAYS | {
        "valid.loss", "valid.acc", "valid.f1", "score", "a_b", "gpu.power_watts_2",
        "train.acc", "train.lr_2", "train.epoch_loss_2",
    }  # fmt: skip
    assert small.values(record, "train.acc") == small.values(record, "train.epoch_loss_2")
    assert small.values(record, "train.acc")[-1] == done.callback_metrics["train_acc_epoch"].item()
    assert small.values(record, "train.lr_2") == given.seen[small.BATCHES - 1 :: small.BATCHES]


def test_an_epochs_mean_loss(small: Any, runs_dir: Path) -> None:
    """A training loss that the module has Lightning average is the epoch's."""
    callback, given = small.quiet(runs_dir), small.module()
    given.log = lambda name, value: type(given).log(given, name, value, on_step=True, on_epoch=True)
    done = small.fit(callback, small=given)
    record = small.recorded(callback)
    assert set(record.names()) == ALWAYS | {"valid.loss", "train.epoch_loss"}
    assert small.values(record, "train.epoch_loss")[-1] == done.callback_metrics["train_loss_epoch"].item()


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"check_val_every_n_epoch": 2, "max_epochs": 5}, [2, 4]),
        ({"val_check_interval": 2}, [1, 2]),
        ({"val_check_interval": 3, "check_val_every_n_epoch": None}, [1, 2]),
        ({"val_check_interval": 6, "check_val_every_n_epoch": None, "max_epochs": 3}, [2, 3]),
        ({"limit_val_batches": 0}, []),
        ({"valid": 0}, []),
    ],
)
@pytest.mark.filterwarnings("ignore:You defined a `validation_step` but have no `val_dataloader`")  # as intended
def test_validation_when_it_comes(small: Any, runs_dir: Path, options: dict[str, Any], expected: list[int]) -> None:
    """Recorded with the epochs in which there was one, as the last one of each found it, and never again."""
    callback = small.quiet(runs_dir)
    done = small.fit(callback, **options)
    record = small.recorded(callback)
    assert small.steps(record, "valid.loss") == expected
    assert small.values(record, "train.loss") == done.lightning_module.seen
    assert small.values(record, "train.epoch") == list(range(1, done.max_epochs + 1))
    if expected:
        assert small.values(record, "valid.loss")[-1] == done.callback_metrics["val_loss"].item()


# -- lives ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "call",
    [
        pytest.param(lambda small, made, given: made.validate(given, small.loader(24), verbose=False), id="validate"),
        pytest.param(lambda small, made, given: made.test(given, small.loader(24), verbose=False), id="test"),
        pytest.param(lambda small, made, given: made.predict(given, small.loader(24)), id="predict"),
        pytest.param(lambda small, made, given: small.find_lr(made, given), id="lr_find"),
    ],
)
def test_what_is_no_training_is_left_out(small: Any, runs_dir: Path, call: Callable[[Any, Any, Any], object]) -> None:
    """These open no run, log nothing into one that is open, and the next fit is recorded as ever."""
    callback, given = small.quiet(runs_dir), small.module()
    made = small.trainer(callback)
    call(small, made, given)
    assert not runs_dir.exists()
    with mlops.Run("outer", devices=[], runs_dir=runs_dir) as run:
        call(small, made, given)
    assert not len(read_run(RunFolder(run.dir)).columns)
    given.seen.clear()
    made.fit(given, small.loader(50), small.loader(24))
    assert small.values(small.recorded(callback), "train.loss") == given.seen
    assert small.values(small.recorded(callback), "train.epoch") == [1, 2]


@pytest.mark.parametrize("options", [{"fast_dev_run": True}, {"max_epochs": 0}, {"limit_train_batches": 0}])
def test_a_trial_is_left_out(small: Any, runs_dir: Path, options: dict[str, Any]) -> None:
    """What trains nothing, or a batch to see that it works."""
    small.fit(small.quiet(runs_dir), **options)
    assert not runs_dir.exists()


def test_each_fit_is_a_run_of_its_own(small: Any, runs_dir: Path) -> None:
    """Two trainers with the one callback are two runs, closed with their fits."""
    callback = small.quiet(runs_dir)
    assert callback.run_dir is None
    dirs: list[Path | None] = []
    for _ in range(2):
        small.fit(callback)
        assert mlops.current_run() is None
        assert small.ending(callback) == ("finished", "")
        assert small.values(small.recorded(callback), "train.epoch") == [1, 2]
        dirs.append(callback.run_dir)
    assert len(set(dirs)) == 2


@pytest.mark.parametrize("given", [True, False])
def test_fits_within_a_run_share_it(small: Any, runs_dir: Path, *, given: bool) -> None:
    """Be it given or the open one; a trainer's second fit counts what it adds, and the run goes on."""
    with mlops.Run("outer", devices=[], runs_dir=runs_dir) as run:
        callback = small.MonascaCallback(run=run) if given else small.quiet(runs_dir)
        made = small.fit(callback)
        made.fit_loop.max_epochs = 3
        made.fit(made.lightning_module, small.loader(50), small.loader(24))
        assert run.is_open
        assert run.parameters["epochs"] == 3
    record = small.recorded(callback)
    assert record.info.id == run.id
    assert small.values(record, "train.epoch") == [1, 2, 3]
    assert small.steps(record, "valid.loss") == [1, 2, 3]
    assert small.values(record, "train.loss") == made.lightning_module.seen


@pytest.mark.parametrize("where", ["on_train_epoch_end", "on_train_batch_end"])
@pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before the epoch ended")
def test_a_training_that_is_resumed(small: Any, runs_dir: Path, tmp_path: Path, where: str) -> None:
    """From the end of an epoch, or from within one: what is trained from there on is recorded."""
    path = tmp_path / "it.ckpt"
    keep = small.at(where, lambda trainer: path.exists() or trainer.save_checkpoint(path))
    small.fit(small.quiet(runs_dir), keep, max_epochs=1)
    assert "MonascaCallback" not in torch.load(path, weights_only=False)["callbacks"]
    callback, given = small.quiet(runs_dir), small.module()
    made = small.trainer(callback, max_epochs=3)
    made.fit(given, small.loader(50), small.loader(24), ckpt_path=path, weights_only=False)
    record = small.recorded(callback)
    assert small.values(record, "train.loss") == given.seen
    assert small.values(record, "train.lr") == given.lrs
    epochs = 2 if where == "on_train_epoch_end" else 3
    assert small.values(record, "train.epoch") == list(range(1, epochs + 1))
    assert record.info.outcome == "finished"


# -- ends -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("where", "nth"),
    [
        ("on_train_epoch_start", 2),
        ("on_train_batch_start", 3),
        ("on_before_backward", 3),
        ("on_train_batch_end", 5),
        ("on_validation_start", 2),
        ("on_validation_batch_end", 3),
        ("on_train_epoch_end", 1),
        ("on_train_end", 1),
        ("on_fit_end", 1),
    ],
)
@pytest.mark.parametrize("first", [True, False])
def test_an_exception_ends_the_run(small: Any, runs_dir: Path, where: str, nth: int, *, first: bool) -> None:
    """Wherever it comes from it reaches the caller, the run says why, and the next fit is a run of its own."""
    callback = small.quiet(runs_dir)
    trouble = small.at(where, small.Raise(RuntimeError("out of memory"), nth))
    with pytest.raises(RuntimeError, match="out of memory"):
        small.fit(*([trouble, callback] if first else [callback, trouble]))
    assert mlops.current_run() is None
    assert small.ending(callback) == ("failed", "RuntimeError: out of memory")
    if where in {"on_train_epoch_end", "on_train_end", "on_fit_end"} and not (first and nth == 1):
        assert 1 in small.values(small.recorded(callback), "train.epoch")
    small.fit(callback)
    assert small.ending(callback) == ("finished", "")
    assert small.values(small.recorded(callback), "train.epoch") == [1, 2]


@pytest.mark.usefixtures("signals_as_before")
def test_ctrl_c_interrupts(small: Any, pl: Any, runs_dir: Path) -> None:
    """Lightning makes a SystemExit of it."""
    callback = small.quiet(runs_dir)
    with pytest.raises(SystemExit):
        small.fit(callback, small.at("on_train_batch_end", small.Raise(KeyboardInterrupt(), 2), pl), pl=pl)
    assert small.ending(callback) == ("interrupted", "KeyboardInterrupt")


@pytest.mark.usefixtures("signals_as_before")
def test_sigterm_interrupts(small: Any, runs_dir: Path) -> None:
    """Lightning ends the fit in order, with a SystemExit that has no code."""
    callback = small.quiet(runs_dir)
    kill = small.at("on_train_batch_end", lambda _: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(SystemExit):
        small.fit(callback, kill, max_epochs=9)
    assert small.ending(callback) == ("interrupted", "SIGTERM")


def test_early_stopping_is_named(small: Any, pl: Any, runs_dir: Path) -> None:
    """The epochs up to the stop are recorded, that one included."""
    callback = small.quiet(runs_dir)
    stop = pl.callbacks.EarlyStopping("val_loss", min_delta=100.0, patience=1)
    small.fit(callback, stop, pl=pl, max_epochs=9)
    outcome, reason = small.ending(callback)
    assert outcome == "cancelled"
    assert reason.startswith("EarlyStopping: ")
    assert "val_loss" in reason
    assert small.values(small.recorded(callback), "train.epoch") == [1, 2]


def test_a_stop_of_the_users_own(small: Any, runs_dir: Path) -> None:
    """Whoever sets trainer.should_stop cancels; where all was trained anyway nothing is cancelled."""
    callback = small.quiet(runs_dir)
    stop = small.at("on_train_batch_end", lambda trainer: setattr(trainer, "should_stop", True))
    small.fit(callback, stop)
    assert small.ending(callback) == ("cancelled", "trainer.should_stop was set")
    assert len(small.values(small.recorded(callback), "train.loss")) == 1
    late = small.at("on_train_epoch_end", lambda trainer: setattr(trainer, "should_stop", trainer.current_epoch == 1))
    small.fit(callback, late)
    assert small.ending(callback) == ("finished", "")


# -- ours, and copies -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "method", ["start_epoch", "start_batch", "end_batch", "pause", "resume", "end_training", "end_epoch", "__init__"]
)
def test_our_own_trouble_is_one_warning(
    small: Any, runs_dir: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, method: str
) -> None:
    """The training is the same, the hook is passed over, the run ends; and the next fit is recorded again."""
    bare = small.weights(small.fit())

    def trouble(*_: object) -> None:
        raise ZeroDivisionError("ours")

    callback = small.quiet(runs_dir)
    with monkeypatch.context() as patched:
        patched.setattr(f"mlops.callbacks._lightning.Fit.{method}", trouble)
        assert small.weights(small.fit(callback)) == bare
    said = [text for text in caplog.messages if "ZeroDivisionError: ours" in text]
    assert len(said) == len(set(said)) == (2 if method in {"start_epoch", "end_epoch"} else 1)  # of two hooks
    assert mlops.current_run() is None
    done = small.fit(callback)
    assert small.values(small.recorded(callback), "train.loss") == done.lightning_module.seen
    assert small.values(small.recorded(callback), "train.epoch") == [1, 2]


def test_a_run_that_cannot_be_opened(small: Any, runs_dir: Path, caplog: pytest.LogCaptureFixture) -> None:
    """One that has ended is refused with its remedy, in a warning; training goes on."""
    with mlops.Run("outer", devices=[], runs_dir=runs_dir) as run:
        callback = small.MonascaCallback(run=run)
    done = small.fit(callback)
    assert len(done.lightning_module.seen) == 2 * small.BATCHES
    (said,) = [text for text in caplog.messages if "not all of it is monitored" in text]
    assert "Give it one that is open" in said


def test_added_twice_it_records_once(small: Any, runs_dir: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The last one records, and that is said once."""
    first, second = small.quiet(runs_dir), small.quiet(runs_dir)
    small.fit(first, second)
    assert first.run_dir is None
    assert small.values(small.recorded(second), "train.epoch") == [1, 2]
    assert len([text for text in caplog.messages if "more than one MonascaCallback" in text]) == 1


@pytest.mark.parametrize(("version", "served"), [("2.3.9", False), ("2.4.0", True), ("3.0.0.dev0", True)])
def test_a_release_that_is_too_old(
    small: Any,
    pl: Any,
    runs_dir: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    version: str,
    *,
    served: bool,
) -> None:
    """That is said once in a fit, with the remedy; training goes on, and none of it is recorded."""
    name = pl.__name__.partition(".")[0]
    monkeypatch.setattr(f"{name}.__version__", version)
    done = small.fit(small.quiet(runs_dir), pl=pl)
    assert len(done.lightning_module.seen) == 2 * small.BATCHES
    said = [text for text in caplog.messages if "not all of it is monitored" in text]
    assert len(said) == (0 if served else 1)
    assert runs_dir.exists() is served
    for text in said:
        assert f"{name} 2.3.9 is older than 2.4" in text
        assert "pip install 'mlops[lightning]'" in text


def test_another_rank_leaves_the_losses_to_rank_0(small: Any, runs_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It joins the run for its devices' sake; real ranks are in tests/test_torchrun."""
    callback = small.quiet(runs_dir)
    monkeypatch.setattr("mlops.ranks.here", lambda: Rank(1, 2, sure=True))
    small.fit(callback)
    assert small.recorded(callback).names() == []
    assert small.ending(callback) == ("finished", "")


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda it: pickle.loads(pickle.dumps(it))])  # noqa: S301 - its own
def test_a_copy_keeps_the_options_alone(small: Any, runs_dir: Path, copied: Callable[[Any], Any]) -> None:
    """Also one made within a fit, of the callback or of its trainer: it records fits of its own, and ends no other."""
    callback, copies = small.quiet(runs_dir), []
    within = small.at("on_train_batch_end", lambda _: copies.append(copied(callback)))
    small.fit(callback, within, max_epochs=1)
    assert small.ending(callback) == ("finished", "")
    twin = copies[1]
    assert [twin.run_dir, twin.state_dict()] == [None, {}]
    small.fit(twin)
    assert twin.run_dir.parent == runs_dir
    assert twin.run_dir != callback.run_dir
    assert small.recorded(twin).info.name == "small"


def in_a_fresh_interpreter(code: str) -> str:
    """What this code prints."""
    quietly = [sys.executable, "-W", "ignore", "-c", code]
    done = subprocess.run(quietly, capture_output=True, text=True, check=True, timeout=120)
    return done.stdout.strip()


@pytest.mark.parametrize(
    ("before", "after", "given"),
    [
        ("import lightning as L", "", "callback"),
        ("from pytorch_lightning import Trainer", "", "callback"),
        ("", "from lightning.pytorch import Trainer", "callback"),
        ("", "import pytorch_lightning as L", "[callback]"),
    ],
)
def test_whichever_package_is_imported_when(runs_dir: Path, before: str, after: str, given: str) -> None:
    """The trainer takes the callback as its own; one of the package imported last takes it from a list."""
    package = "pytorch_lightning" if "pytorch_lightning" in before + after else "lightning.pytorch"
    code = "\n".join(
        [
            before,
            "from mlops.callbacks.lightning import MonascaCallback",
            after,
            "import sys, torch, importlib",
            f"pl = importlib.import_module('{package}')",
            "class Small(pl.LightningModule):",
            "    def __init__(self): super().__init__(); self.net = torch.nn.Linear(2, 1)",
            "    def training_step(self, batch, index): return self.net(batch).sum()",
            "    def configure_optimizers(self): return torch.optim.SGD(self.parameters(), 0.1)",
            f"callback = MonascaCallback('small', devices=[], runs_dir={str(runs_dir)!r})",
            f"trainer = pl.Trainer(callbacks={given}, max_epochs=1, accelerator='cpu', logger=False,",
            "    enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False)",
            "trainer.fit(Small(), torch.utils.data.DataLoader(torch.ones(6, 2), 2))",
            "print('lightning' in sys.modules, 'pytorch_lightning' in sys.modules, callback.run_dir.name)",
        ]
    )
    *loaded, name = in_a_fresh_interpreter(code).splitlines()[-1].split()
    both = "True" if not before and package == "pytorch_lightning" else "False"
    assert loaded == (["True", both] if package == "lightning.pytorch" else [both, "True"])
    assert len(read_run(RunFolder(runs_dir / name)).find("train.loss")[0][1].value) == 3


def test_a_missing_framework_is_said_with_what_to_install() -> None:
    """As an ImportError that names the extra."""
    code = (
        "import sys; sys.modules.update({'lightning': None, 'pytorch_lightning': None})\n"
        "import mlops\n"
        "try: mlops.callbacks.lightning.MonascaCallback\n"
        "except ImportError as error: print(error)"
    )
    said = in_a_fresh_interpreter(code)
    assert "is not installed" in said
    assert "pip install 'mlops[lightning]'" in said
