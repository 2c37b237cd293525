"""Workers of data loaders, and other children and threads of a process that records: real ones, however started."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

import mlops
from mlops.record import read_run
from mlops.store import RunFolder

LIMIT = 120.0

TRAINING = """
import sys
import torch
import mlops

class Samples(torch.utils.data.Dataset):
    def __init__(self, run):
        self.run = run

    def __len__(self):
        return 40

    def __getitem__(self, index):
        self.run.log({"worker.index": float(index)})
        return float(index)

def main():
    how, runs_dir, port = sys.argv[1:]
    with mlops.Run("workers", sinks=[f"statsd://127.0.0.1:{port}"], devices=["host"], runs_dir=runs_dir) as run:
        loader = torch.utils.data.DataLoader(
            Samples(run), batch_size=4, num_workers=2, multiprocessing_context=how
        )
        number = 0
        for _ in range(EPOCHS):
            with run.epoch():
                for _ in run.watch(loader):
                    for _ in range(200):
                        run.log({"train.loss": float(number)})
                        number += 1

if __name__ == "__main__":
    main()
"""


@pytest.fixture
def agent() -> Iterator[tuple[int, list[bytes]]]:
    """A port that hears what an agent would, and what it has heard."""
    heard: list[bytes] = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 0))
        server.settimeout(0.05)
        ending = threading.Event()

        def listen() -> None:
            while not ending.is_set():
                try:
                    heard.append(server.recv(65536))
                except TimeoutError:
                    continue

        thread = threading.Thread(target=listen)
        thread.start()
        yield server.getsockname()[1], heard
        ending.set()
        thread.join()


def counted(heard: list[bytes], name: str) -> float:
    """How many values of a series the last summary tells of, which tells of the one before it too."""
    lines = [line for datagram in heard for line in datagram.decode().splitlines()]
    return max(float(line.split("|")[0].rpartition(":")[2]) for line in lines if line.startswith(f"{name}.count:"))


@pytest.mark.torch
@pytest.mark.slow
@pytest.mark.parametrize(("how", "epochs"), [("fork", 8), ("spawn", 2), ("forkserver", 2)])
def test_workers_of_a_data_loader(
    tmp_path: Path, runs_dir: Path, agent: tuple[int, list[bytes]], how: str, epochs: int
) -> None:
    """Whichever way they are started, with the run in the data set: every point of the training is there once and in
    order, none of theirs is, nothing is sent twice, and nobody waits for ever.
    """
    port, heard = agent
    script = tmp_path / "train.py"
    script.write_text(TRAINING.replace("EPOCHS", str(epochs)), encoding="utf-8")
    command = [sys.executable, "-W", "ignore", str(script), how, str(runs_dir), str(port)]
    environ = {**os.environ, "MLOPS_STATSD_SECONDS": "600"}  # one at the beginning, one at the end
    done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT, check=False, env=environ)
    assert done.returncode == 0, done.stderr
    (folder,) = runs_dir.iterdir()
    record = read_run(RunFolder(folder))
    assert record.info.outcome == "finished"
    assert record.gaps == ()
    assert not {name for name in record.names() if name.startswith("worker.")}
    ((_, columns),) = record.find("train.loss")
    assert columns.value.tolist() == [float(number) for number in range(epochs * 10 * 200)]
    assert counted(heard, "train.loss") == epochs * 10 * 200
    assert "not recorded" in done.stderr, "a worker that logs is told, once, that it is not recorded"


CHILD = """
import os, sys, threading, time
import mlops

run = mlops.Run("parent", sinks=[], devices=[], runs_dir=sys.argv[1])
busy = threading.Event()

def log() -> None:
    while not busy.is_set():
        run.log({"thread": 1.0})
        time.sleep(0)

logger = threading.Thread(target=log)
logger.start()
statuses = []
for number in range(40):
    run.log({"a": float(number), f"new.{number}": 0.0})
    pid = os.fork()
    if pid == 0:
        run.log({"a": -1.0, f"child.{number}": 0.0})
        run.epoch().__enter__()
        with mlops.Run("child", sinks=[], devices=[], runs_dir=sys.argv[1] + "-children") as own:
            own.log({"b": float(number)})
        run.close()
        os._exit(0)
    statuses.append(os.waitpid(pid, 0)[1])
busy.set()
logger.join()
run.close()
print(statuses.count(0), run.dropped)
"""


@pytest.mark.filterwarnings("ignore")
def test_children_forked_in_the_middle_of_logging(runs_dir: Path) -> None:
    """Whatever the parent's threads do at that moment, a child hangs nowhere, and can record a run of its own."""
    command = [sys.executable, "-W", "ignore", "-c", CHILD, str(runs_dir)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT, check=True)
    assert done.stdout.split() == ["40", "0"]
    (folder,) = runs_dir.iterdir()
    record = read_run(RunFolder(folder))
    ((_, columns),) = record.find("a")
    assert columns.value.tolist() == [float(number) for number in range(40)]
    assert not {name for name in record.names() if name.startswith("child.")}
    children = [read_run(RunFolder(path)) for path in Path(f"{runs_dir}-children").iterdir()]
    assert sorted(float(child.columns.value[0]) for child in children) == [float(number) for number in range(40)]


def test_runs_opened_and_closed_in_threads(runs_dir: Path) -> None:
    """Each thread's run has its own points; none of them touches the signals of the process."""
    errors: list[BaseException] = []

    def train(number: int) -> None:
        try:
            with mlops.Run(f"thread-{number}", sinks=[], devices=[], runs_dir=runs_dir) as run:
                for value in range(500):
                    run.log({"a": float(number * 1000 + value)})
        except BaseException as error:  # noqa: BLE001 - seen by the test
            errors.append(error)

    threads = [threading.Thread(target=train, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LIMIT)
    assert errors == []
    records = [read_run(RunFolder(path)) for path in runs_dir.iterdir()]
    for record in records:
        number = int(record.info.name.rpartition("-")[2])
        assert record.columns.value.tolist() == [float(number * 1000 + value) for value in range(500)]
    assert len(records) == 6


DROPPED = """
import gc, json, sys
import mlops

run = mlops.Run("dropped", sinks=[], devices=[], runs_dir=sys.argv[1])
for number in range(100):
    run.log({"a": float(number)})
log = run.log
del run
gc.collect()
log({"a": 100.0})
print(json.dumps(mlops.current_run() is not None))
"""


def test_a_run_that_nobody_holds_goes_on(runs_dir: Path) -> None:
    """Nothing happens when the last name for it is gone; it ends with the interpreter, with all its points."""
    command = [sys.executable, "-c", DROPPED, str(runs_dir)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT, check=True)
    assert json.loads(done.stdout) is True
    (folder,) = runs_dir.iterdir()
    record = read_run(RunFolder(folder))
    assert record.info.outcome == "finished"
    assert len(record.columns) == 101


def test_nothing_of_ours_has_a_destructor() -> None:
    """A destructor may run at any moment, on any thread, also within a lock of ours: there is none that could block."""
    root = Path(mlops.__file__).parent
    assert [path.name for path in root.rglob("*.py") if "def __del__" in path.read_text(encoding="utf-8")] == []
