"""The fastai callback in scripts of users, each in a process of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from mlops.record import Record, read_run
from mlops.store import RunFolder

pytestmark = [pytest.mark.torch, pytest.mark.slow]

TEN_LINES = """\
from fastai.basics import *
from sklearn.datasets import load_digits

set_seed(1)
images, labels = load_digits(return_X_y=True)
samples = list(zip(torch.tensor(images / 16, dtype=torch.float32), torch.tensor(labels), strict=True))
dls = DataLoaders.from_dsets(samples[:1400], samples[1400:], bs=64)
model = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
learn = Learner(dls, model, loss_func=CrossEntropyLossFlat(), metrics=accuracy)
learn.fit(3, 0.01)
print(f"{learn.recorder.values[-1][2]:.6f}")
"""

TWO_MORE = [
    ("\nset_seed", "from mlops.callbacks.fastai import MonascaCallback\n\nset_seed"),
    ("metrics=accuracy)", "metrics=accuracy, cbs=MonascaCallback())"),
]


def start(code: str, folder: Path, name: str = "train.py", **environ: str) -> subprocess.Popen[str]:
    """A script of this code that runs in this folder, warnings being errors as in these tests."""
    script = folder / name
    script.write_text(code)
    return subprocess.Popen(
        [sys.executable, "-u", "-W", "error::UserWarning:mlops", str(script)],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environ},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def the_run(folder: Path) -> Record:
    """The one run in the folder's ``runs``."""
    (found,) = (folder / "runs").iterdir()
    return read_run(RunFolder(found))


def test_ten_lines_and_two(tmp_path: Path) -> None:
    """Two lines more in a fastai script: the same training, and its run with everything in it."""
    plain = start(TEN_LINES, tmp_path, "plain.py")
    said_without, _ = plain.communicate(timeout=120)
    assert not (tmp_path / "runs").exists()
    code = TEN_LINES
    for line, mended in TWO_MORE:
        assert code.count(line) == 1
        code = code.replace(line, mended)
    monitored = start(code, tmp_path)
    said, errors = monitored.communicate(timeout=120)
    assert (plain.returncode, monitored.returncode) == (0, 0), errors
    assert "mlops" not in errors
    assert said.split()[-1] == said_without.split()[-1]
    record = the_run(tmp_path)
    assert (record.info.name, record.info.outcome) == ("train", "finished")
    assert record.info.parameters["model_parameters"] == 64 * 32 + 32 + 32 * 10 + 10
    assert not record.gaps
    counts = {name: sum(len(columns) for _, columns in record.find(name)) for name in record.names()}
    batches = 1400 // 64
    assert counts["train.loss"] == counts["train.smooth_loss"] == counts["train.lr"] == 3 * batches
    assert counts["valid.loss"] == counts["valid.accuracy"] == counts["train.epoch"] == counts["train.epoch_loss"] == 3
    ((_, accuracy),) = record.find("valid.accuracy")
    assert f"{accuracy.value[-1]:.6f}" == said.split()[-1]


@pytest.mark.parametrize(
    ("number", "outcome", "reason"),
    [
        (signal.SIGINT, "interrupted", "KeyboardInterrupt"),
        (signal.SIGKILL, "killed", "its process ended without a word (kill -9, SIGTERM, out of memory, power)"),
    ],
)
def test_a_script_that_is_stopped(
    tmp_path: Path,
    number: signal.Signals,
    outcome: str,
    reason: str,
) -> None:
    """Ctrl-C is an outcome; after ``kill -9`` all that was trained is there, to the last batch but one."""
    code = TEN_LINES.replace("learn.fit(3,", "learn.fit(100_000,")
    for line, mended in TWO_MORE:
        code = code.replace(line, mended)
    tell = """\
        self.n = getattr(self, "n", 0) + self.learn.training
        print(self.n)
"""
    code = code.replace(
        "learn = Learner", f"class Tell(Callback):\n    order = 99\n    def after_batch(self):\n{tell}\nlearn = Learner"
    )
    code = code.replace("cbs=MonascaCallback()", "cbs=[MonascaCallback(), Tell()]")
    process = start(code, tmp_path)
    assert process.stdout is not None
    assert process.stderr is not None
    seen = 0
    try:
        for line in process.stdout:
            seen = int(line) if line.strip().isdigit() else seen
            if seen >= 200:
                break
        process.send_signal(number)
        said = process.stdout.read()  # communicate() would pass over what was read ahead
        errors = process.stderr.read()
        process.wait(60)
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
        process.stderr.close()
    seen = max([seen, *(int(word) for word in said.split() if word.isdigit())])
    record = the_run(tmp_path)
    assert (record.info.outcome, record.info.reason) == (outcome, reason), errors
    ((_, losses),) = record.find("train.loss")
    assert seen <= len(losses) <= seen + 1


RANKS = """\
import os, sys
import torch
from pathlib import Path
torch.distributed.init_process_group("gloo", init_method=f"file://{os.getcwd()}/meet", rank=int(os.environ["RANK"]),
                                     world_size=int(os.environ["WORLD_SIZE"]))
from fastai.basics import *
from mlops.callbacks.fastai import MonascaCallback
set_seed(int(os.environ["RANK"]))
samples = list(zip(torch.randn(64, 4), torch.randint(0, 2, (64,)), strict=True))
dls = DataLoaders.from_dsets(samples, samples[:16], bs=16, device=torch.device("cpu"))
learn = Learner(dls, nn.Linear(4, 2), loss_func=CrossEntropyLossFlat(), cbs=MonascaCallback(devices=[]))
learn.fit(2)
Path(f"losses{os.environ['RANK']}").write_text(repr([loss.item() for loss in learn.recorder.losses]))
"""


def test_two_ranks_are_one_run(tmp_path: Path) -> None:
    """In a process group, rank 0 records what all have gathered; the other joins the run, and nobody waits."""
    ranks = [start(RANKS, tmp_path, "ranks.py", RANK=str(rank), WORLD_SIZE="2") for rank in range(2)]
    try:
        said = [rank.communicate(timeout=120) for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
            rank.wait()
    assert [rank.returncode for rank in ranks] == [0, 0], said
    record = the_run(tmp_path)
    assert record.info.name == "ranks"
    assert sorted(notes["rank"] for notes in record.notes) == [0, 1]
    assert record.info.outcome == "finished"
    ((_, smooth),) = record.find("train.smooth_loss")
    assert repr(smooth.value.tolist()) == (tmp_path / "losses0").read_text()
    assert (tmp_path / "losses0").read_text() == (tmp_path / "losses1").read_text()
    assert len(smooth) == 2 * 4


@pytest.mark.parametrize(("rank", "size", "ends"), [("0", "1", "finished"), ("1", "2", "failed")])
def test_variables_of_a_launcher_without_its_group(tmp_path: Path, rank: str, size: str, ends: str) -> None:
    """RANK and WORLD_SIZE alone hang nothing: with one process it trains, with two fastai itself says what is amiss."""
    code = TEN_LINES
    for line, mended in TWO_MORE:
        code = code.replace(line, mended)
    process = start(code, tmp_path, RANK=rank, WORLD_SIZE=size)
    _, errors = process.communicate(timeout=120)
    assert the_run(tmp_path).info.outcome == ends, errors
    assert (process.returncode == 0) == (ends == "finished")
    if ends == "failed":
        assert "process group has not been initialized" in the_run(tmp_path).info.reason
