"""Trainings of two real ranks under torchrun, over gloo: one run, one loss series, every rank's GPU.

The two GPUs are made up (tests/devices/stub.py); everything else is real.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from mlops.record import Record, read_run
from mlops.store import RunFolder, list_runs
from tests.devices.stub import Node, uuid

pytestmark = [pytest.mark.torch, pytest.mark.slow]

Wait = Callable[[Callable[[], object]], None]

ROOT = Path(__file__).parent.parent
PROGRAMS = Path(__file__).parent / "ranks"
BIN = Path(sys.executable).parent
TORCHRUN = [str(BIN / "torchrun"), "--standalone", "--nproc-per-node", "2"]
OURS = [str(BIN / "mlops"), "run", "--"]
LIMIT = 120.0


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    """Of a node with two GPUs, on which ranks find one another without a network."""
    node = Node(tmp_path / "node.txt", gpus=2)
    return {
        **os.environ,
        "STUB_NVML": str(node.path),
        "LD_LIBRARY_PATH": str(node.library.parent),
        "GLOO_SOCKET_IFNAME": "lo",
        "PYTHONPATH": str(ROOT),
        "PYTHONWARNINGS": "ignore",
        "MLOPS_RUNS_DIR": str(tmp_path / "runs"),
    }


Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def start(tmp_path: Path, environ: dict[str, str]) -> Iterator[Start]:
    """Start a command in a session of its own; what is left of it is ended with the test."""
    running: list[subprocess.Popen[str]] = []

    def begin(*command: object, **more: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [str(word) for word in command],
            cwd=tmp_path,
            env={**environ, **more},
            text=True,
            start_new_session=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        running.append(process)
        return process

    yield begin
    for process in running:
        if process.poll() is None:  # torchrun's ranks have sessions of their own
            whole = psutil.Process(process.pid)
            for one in [*whole.children(recursive=True), whole]:
                one.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def output(process: subprocess.Popen[str], code: int | None = 0) -> str:
    """What a command printed, which must end with this status; ``None`` for any other than 0."""
    text, _ = process.communicate(timeout=LIMIT)
    assert process.returncode == code or (code is None and process.returncode), text
    return text


def only(tmp_path: Path) -> Record:
    """The one run that was recorded; nothing else is left among the runs."""
    folder = tmp_path / "runs"
    (run,) = list_runs(folder)
    assert [entry.name for entry in folder.iterdir()] == [run.id]
    return read_run(run)


def values(record: Record, name: str) -> list[float]:
    """What was recorded under a name."""
    return [float(value) for _, columns in record.find(name) for value in columns.value]


def gpus(record: Record) -> dict[int | None, set[str]]:
    """The GPUs whose power each rank's process recorded."""
    found: dict[int | None, set[str]] = {}
    for (_, start, stop), notes in zip(record.processes, record.notes, strict=True):
        used = {record.series[number] for number in set(record.columns.series[start:stop].tolist())}
        seen = {dict(series.dimensions)["uuid"] for series in used if series.name == "gpu.power_watts"}
        found.setdefault(notes["rank"], set()).update(seen)
    return found


EACH_ITS_OWN = {0: {uuid(0)}, 1: {uuid(1)}}


@pytest.mark.parametrize("how", ["early", "late"])
def test_plain_torch(tmp_path: Path, start: Start, how: str) -> None:
    """One run, rank 0's losses, each rank's GPU, whether the run or the process group comes first."""
    output(start(*TORCHRUN, PROGRAMS / "plain.py", how, tmp_path))
    record = only(tmp_path)
    assert (record.info.name, record.info.outcome, record.info.reason) == ("plain", "finished", "")
    assert values(record, "train.loss") == [float(number) for number in range(20)]
    assert values(record, "train.epoch") == [1.0, 2.0]
    assert values(record, "valid.loss") == [0.0, 1.0]
    assert len(values(record, "train.data_wait_seconds")) == 4, "each rank waits for its own data"
    assert gpus(record) == EACH_ITS_OWN
    assert len(values(record, "train.epoch_energy_joules")) >= 4, "each rank's GPU has its share of each epoch"
    (host,) = {
        notes["rank"]
        for (_, begin, end), notes in zip(record.processes, record.notes, strict=True)
        if any(
            record.series[n].name == "host.memory_used_bytes" for n in set(record.columns.series[begin:end].tolist())
        )
    }
    assert host == 0
    assert record.gaps == ()


@pytest.mark.parametrize("framework", ["fastai", "lightning", "transformers"])
def test_a_frameworks_callback(tmp_path: Path, start: Start, framework: str) -> None:
    """One run, one loss series, each rank's GPU and its share of each epoch's energy."""
    output(start(*TORCHRUN, PROGRAMS / f"of_{framework}.py", tmp_path))
    record = only(tmp_path)
    assert record.info.outcome == "finished"
    assert len(record.find("train.loss")) == 1
    assert len(values(record, "train.loss")) == 2 * 2
    assert values(record, "train.epoch") == [1.0, 2.0]
    assert len(values(record, "valid.loss")) == 2
    assert gpus(record) == EACH_ITS_OWN
    energy = record.find("train.epoch_energy_joules")
    assert {int(step) - 1 for _, columns in energy for step in columns.step} == {1, 2}


def test_lightning_starts_its_ranks_itself(tmp_path: Path, start: Start) -> None:
    """Its rank 1 is a child of rank 0, with other variables than torchrun's; they meet in the process group."""
    output(start(sys.executable, PROGRAMS / "of_lightning.py"))
    record = only(tmp_path)
    assert record.info.outcome == "finished"
    assert len(values(record, "train.loss")) == 4
    assert gpus(record) == EACH_ITS_OWN


def test_ranks_that_no_launcher_started(tmp_path: Path, start: Start) -> None:
    """The process group alone knows of them."""
    output(start(sys.executable, PROGRAMS / "spawned.py", tmp_path))
    record = only(tmp_path)
    assert values(record, "train.loss") == [0.0]
    assert sorted(notes["rank"] for notes in record.notes) == [0, 1]
    seen = gpus(record)
    assert seen[0] | seen[1] == {uuid(0), uuid(1)}
    assert not seen[0] & seen[1]


def test_a_restart_is_a_run_of_its_own(tmp_path: Path, start: Start) -> None:
    """What torchrun starts anew after a failure agrees anew; without a process group, whose restart gloo hangs in."""
    program = f"{PROGRAMS / 'plain.py'}"
    output(start(*TORCHRUN, "--max-restarts", "1", program, "raise-alone", tmp_path), None)
    runs = [read_run(RunFolder(run.path)) for run in list_runs(tmp_path / "runs")]
    assert [record.info.outcome for record in runs] == ["failed", "failed"]
    assert [len(record.processes) for record in runs] == [2, 2]


# -- ends -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("under", [[], OURS])
def test_a_rank_that_raises_fails_the_run(tmp_path: Path, start: Start, under: list[str]) -> None:
    """Whoever owns the run, with the reason and the rank that it comes from; the other rank's SIGTERM is no reason."""
    output(start(*under, *TORCHRUN, PROGRAMS / "plain.py", "raise", tmp_path), None)
    info = only(tmp_path).info
    assert info.outcome == "failed"
    assert "RuntimeError: boom" in info.reason
    assert "SIGTERM" not in info.reason
    if under:
        assert info.reason == "exit status 1; rank 1: RuntimeError: boom"


@pytest.mark.parametrize("under", [[], OURS])
def test_a_rank_that_is_killed(tmp_path: Path, start: Start, under: list[str]) -> None:
    """It says nothing, and is named; what it had logged is there."""
    output(start(*under, *TORCHRUN, PROGRAMS / "plain.py", "kill", tmp_path), None)
    record = only(tmp_path)
    assert record.info.outcome == ("failed" if under else "killed")
    assert "without a word" in record.info.reason
    assert values(record, "train.loss") == [float(number) for number in range(20)]
    assert len(values(record, "train.data_wait_seconds")) == 4


@pytest.mark.parametrize("under", [[], OURS])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_the_launcher_interrupts(
    tmp_path: Path, start: Start, wait_until: Wait, under: list[str], number: signal.Signals
) -> None:
    """Torchrun ends its ranks, and the run is interrupted, with all that was logged."""
    process = start(*under, *TORCHRUN, PROGRAMS / "plain.py", "wait", tmp_path)
    wait_until(lambda: all((tmp_path / f"waits{rank}").exists() for rank in (0, 1)))
    process.send_signal(number)
    output(process, None)
    record = only(tmp_path)
    assert record.info.outcome == "interrupted", record.info.reason
    assert number.name in record.info.reason or not under
    assert values(record, "train.loss") == [float(number) for number in range(20)]


def test_one_run_for_all_ranks_of_a_command(tmp_path: Path, start: Start) -> None:
    """Under mlops run the command is what owns the run and meters both GPUs; the ranks add what is theirs."""
    said = output(start(*OURS, *TORCHRUN, PROGRAMS / "plain.py", "early", tmp_path))
    record = only(tmp_path)
    assert "plain finished after " in said
    assert sorted(str(notes["rank"]) for notes in record.notes) == ["0", "1", "None"]
    assert gpus(record) == {None: {uuid(0), uuid(1)}, 0: set(), 1: set()}
    assert values(record, "train.loss") == [float(number) for number in range(20)]
    energy = [float(value) for _, columns in record.find("train.epoch_energy_joules") for value in columns.value]
    assert len(energy) >= 4
