"""``mlops run``: real processes, real signals."""

from __future__ import annotations

import json
import os
import pty
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mlops.record import read_run
from mlops.store import RunFolder, RunInfo, list_runs

MLOPS = str(Path(sys.executable).with_name("mlops"))

Process = Callable[..., subprocess.CompletedProcess[str]]
Wait = Callable[[Callable[[], object]], None]


def _only(runs_dir: Path) -> RunFolder:
    (run,) = list_runs(runs_dir)
    return run


@pytest.fixture
def started(tmp_path: Path, wait_until: Wait) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Start ``mlops run -- sh -c SCRIPT`` in a session of its own, and wait until the script has made ``begun``."""
    running: list[subprocess.Popen[str]] = []

    def start(script: str, *options: str) -> subprocess.Popen[str]:
        command = [MLOPS, "run", "--device", "none", *options, "--", "sh", "-c", script]
        process = subprocess.Popen(
            command, cwd=tmp_path, text=True, start_new_session=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        running.append(process)
        wait_until((tmp_path / "begun").exists)
        return process

    yield start
    for process in running:
        process.kill()
        process.wait()
        for stream in (process.stdout, process.stderr):
            assert stream is not None
            stream.close()


def test_streams_are_the_commands_own(tmp_path: Path) -> None:
    """Input, output and errors pass untouched, binary too; mlops adds one line on stderr, at the end."""
    script = "head -c 3; printf '\\000\\377' ; echo oops >&2; exit 0"
    done = subprocess.run(
        [MLOPS, "run", "--", "sh", "-c", script],
        input=b"abcdef",
        capture_output=True,
        cwd=tmp_path,
        timeout=60,
        check=True,
    )
    assert done.stdout == b"abc\x00\xff"
    first, second = done.stderr.decode().splitlines()
    assert first == "oops"
    run = _only(tmp_path / "runs")
    assert second.startswith("mlops: sh finished after ")
    assert second.endswith(f": {run.path}")


@pytest.mark.parametrize(
    ("script", "code", "outcome", "reason"),
    [
        ("exit 0", 0, "finished", ""),
        ("exit 7", 7, "failed", "exit status 7"),
        ("kill -TERM $$", 143, "interrupted", "SIGTERM"),
        ("kill -KILL $$", 137, "killed", "SIGKILL, from someone or from the kernel for want of memory"),
        ("kill -SEGV $$", 139, "failed", "crashed with SIGSEGV (Segmentation fault)"),
    ],
)
def test_the_ending_is_the_commands(
    process: Process, tmp_path: Path, script: str, code: int, outcome: str, reason: str
) -> None:
    """mlops exits as the command did, and run.json says in words how it ended."""
    done = process("run", "--device", "none", "--", "sh", "-c", script)
    assert done.returncode == code
    info = _only(tmp_path / "runs").info()
    assert (info.outcome, info.reason) == (outcome, reason)
    assert info.ended is not None


def test_a_misspelt_command_leaves_no_run(process: Process, tmp_path: Path) -> None:
    """A command that is not there is an error of exit code 127, and nothing is recorded."""
    done = process("run", "nosuchprogram")
    assert done.returncode == 127
    assert done.stderr.startswith("error: There is no command 'nosuchprogram'")
    assert not (tmp_path / "runs").exists()


def test_wrong_settings_leave_the_command_unrun(process: Process, tmp_path: Path) -> None:
    """A sink or device that is none, or a dimension that Monasca refuses, is told; the command is not run."""
    for options, said in (
        (("--sink", "stasd://localhost"), "There is no sink of scheme 'stasd'"),
        (("--device", "gpu"), "There is no device 'gpu'"),
        (("--dimension", "team=a;b"), "Use 'a_b'"),
    ):
        done = process("run", *options, "--", "touch", "mark")
        assert done.returncode == 2
        assert said in done.stderr
        assert "Traceback" not in done.stderr
        assert not (tmp_path / "mark").exists()


def test_the_run_is_named_and_described(process: Process, tmp_path: Path) -> None:
    """Name, dimensions and the command are in run.json; without a name it is the script's."""
    process("run", "--name", "digits", "--dimension", "team=vision", "--dimension", "site=north", "--", "true")
    info = _only(tmp_path / "runs").info()
    assert info.name == "digits"
    assert info.dimensions == {"team": "vision", "site": "north"}
    assert info.parameters == {"command": "true"}

    (tmp_path / "fit.py").write_text("print('fitted')\n")
    assert process("run", "--runs-dir", "other", "--", sys.executable, "fit.py").stdout == "fitted\n"
    assert _only(tmp_path / "other").info().name == "fit"


def test_devices_are_monitored_around_it(process: Process, tmp_path: Path) -> None:
    """What the host shows while a command runs is recorded, though the command knows nothing of it."""
    environ = {**os.environ, "MLOPS_SAMPLE_SECONDS": "0.1"}
    process("run", "--device", "host", "--", "sleep", "0.5", env=environ)
    record = read_run(_only(tmp_path / "runs"))
    (found,) = record.find("host.memory_used_bytes")
    assert len(found[1]) >= 3
    assert not record.gaps


_TRAINS = """
import json, os, sys
import mlops
with mlops.Run("inner", dimensions={"who": "inner"}, parameters={"epochs": 1}) as run:
    run.log({"train.loss": 0.25}, step=3)
    run.end_epoch({"valid.accuracy": 0.5})
    print(json.dumps([run.id, run.name, run.joined, list(run.settings.sinks), list(run.settings.devices)]))
"""


def test_a_run_inside_joins(process: Process, tmp_path: Path) -> None:
    """A Run in the command has the outer one's name, id, sinks and devices, and both are read back as one run."""
    done = process(
        *("run", "--name", "outer", "--dimension", "team=vision", "--sink", "memory:", "--device", "host"),
        *("--", sys.executable, "-c", _TRAINS),
    )
    assert done.returncode == 0, done.stderr
    folder = _only(tmp_path / "runs")
    assert json.loads(done.stdout) == [folder.id, "outer", True, ["memory:"], ["host"]]
    assert len(folder.points_files()) == 2
    record = read_run(folder)
    assert record.info.name == "outer"
    assert record.info.outcome == "finished"
    assert record.info.dimensions == {"team": "vision", "who": "inner"}
    assert record.info.parameters["epochs"] == 1
    assert "command" in record.info.parameters
    ((_, loss),) = record.find("train.loss")
    assert loss.value.tolist() == [0.25]
    assert record.find("valid.accuracy")
    assert len(record.find("host.memory_used_bytes")) == 1, "the devices were recorded twice"
    assert not record.gaps


def test_a_run_inside_that_fails_fails_the_run(process: Process, tmp_path: Path) -> None:
    """The outcome is the command's, with the exception that explains it, and its points are there."""
    code = "import mlops\nwith mlops.Run() as run:\n    run.log({'train.loss': 1.0})\n    raise ValueError('odd')"
    done = process("run", "--device", "none", "--", sys.executable, "-c", code)
    assert done.returncode == 1
    assert "ValueError: odd" in done.stderr
    record = read_run(_only(tmp_path / "runs"))
    assert (record.info.outcome, record.info.reason) == ("failed", "exit status 1; ValueError: odd")
    assert record.find("train.loss")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1])
def test_signals_are_passed_on_once(
    started: Callable[..., subprocess.Popen[str]], tmp_path: Path, number: signal.Signals
) -> None:
    """What mlops is sent the command gets, once, also when it is sent to the whole process group."""
    name = number.name.removeprefix("SIG")
    script = (
        f"trap 'echo {name}; got=1' {name}; touch begun; "
        'for i in $(seq 500); do [ -n "$got" ] || sleep 0.02; done; sleep 0.3; exit 5'
    )
    process = started(script)
    os.killpg(process.pid, number)
    out, err = process.communicate(timeout=60)
    assert out == f"{name}\n"
    assert process.returncode == 5
    info = _only(tmp_path / "runs").info()
    if number == signal.SIGUSR1:
        assert (info.outcome, info.reason) == ("failed", "exit status 5")
    else:
        assert (info.outcome, info.reason) == ("interrupted", f"SIG{name}, then exit status 5")
    assert f"SIG{name}" in err or number == signal.SIGUSR1


def test_a_command_that_does_not_heed_a_signal_dies_of_it(
    started: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    """SIGTERM to mlops ends an ordinary command, its children too; the outcome is interrupted and the code 143."""
    process = started("sleep 600 & echo $!; touch begun; wait")
    assert process.stdout is not None
    grandchild = int(process.stdout.readline())
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 143
    info = _only(tmp_path / "runs").info()
    assert (info.outcome, info.reason) == ("interrupted", "SIGTERM")
    assert not Path(f"/proc/{grandchild}/cmdline").exists() or not Path(f"/proc/{grandchild}/cmdline").read_bytes()


def test_if_mlops_is_killed_the_command_is_told_to_end(
    started: Callable[..., subprocess.Popen[str]], tmp_path: Path, wait_until: Wait
) -> None:
    """After kill -9 of mlops the command gets SIGTERM, may end well, and the run is read back as killed."""
    process = started("trap 'touch told; exit 0' TERM; touch begun; for i in $(seq 1500); do sleep 0.02; done")
    process.kill()
    process.wait(60)
    wait_until((tmp_path / "told").exists)
    info = _only(tmp_path / "runs").info()
    assert info.outcome == "killed"


_COUNTS = """
import signal, sys, time
count = []
signal.signal(signal.SIGINT, lambda *_: count.append(1))
print("begun", flush=True)
until = time.monotonic() + 30
while not count and time.monotonic() < until:
    time.sleep(0.02)
time.sleep(0.5)
print("interrupts:", len(count), sys.stdin.isatty(), flush=True)
sys.exit(9)
"""

_ON_TERMINAL = """
import os, sys
os.setsid()
terminal = os.open(sys.argv[1], os.O_RDWR)
for number in (0, 1, 2):
    os.dup2(terminal, number)
os.execv(sys.argv[2], sys.argv[2:])
"""

pytestmark = pytest.mark.slow


@pytest.mark.slow
def test_ctrl_c_on_a_terminal_reaches_the_command_once(tmp_path: Path) -> None:
    """The terminal interrupts the whole group, so mlops does not pass it on a second time."""
    primary, secondary = pty.openpty()
    command = [sys.executable, "-c", _ON_TERMINAL, os.ttyname(secondary), MLOPS, "run", "--device", "none", "--"]
    process = subprocess.Popen([*command, sys.executable, "-c", _COUNTS], cwd=tmp_path)
    shown = _read_until(primary, "begun")
    os.write(primary, b"\x03")
    shown += _read_until(primary, "mlops: ")
    assert process.wait(60) == 9
    os.close(primary)
    os.close(secondary)
    assert "interrupts: 1 True" in shown
    assert _only(tmp_path / "runs").info().reason == "SIGINT, then exit status 9"


def _read_until(terminal: int, text: str) -> str:
    shown, until = "", time.monotonic() + 30
    while text not in shown:
        assert time.monotonic() < until, shown
        if select.select([terminal], [], [], 1.0)[0]:
            shown += os.read(terminal, 4096).decode(errors="replace")
    return shown


def test_a_closed_stream_is_no_failure(tmp_path: Path) -> None:
    """Without standard output, or with nobody to read the last line, the exit code is still the command's."""
    command = f"'{MLOPS}' run --device none -- sh -c 'exit 6' >&- 2>&-; echo $?"
    done = subprocess.run(["sh", "-c", command], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "6\n"
    read, write = os.pipe()
    os.close(read)
    status = subprocess.run([MLOPS, "run", "--device", "none", "--", "sh", "-c", "exit 6"], cwd=tmp_path, stderr=write,
                            timeout=60, check=False).returncode  # fmt: skip
    os.close(write)
    assert status == 6


def test_it_works_whatever_threads_a_library_starts(process: Process, tmp_path: Path) -> None:
    """numpy's own threads do not take the signals away: it is loaded only once these are held."""
    environ = {**os.environ, "OMP_NUM_THREADS": "4", "OPENBLAS_NUM_THREADS": "4"}
    done = process("run", "--device", "none", "--", "sh", "-c", "exit 6", env=environ)
    assert done.returncode == 6
    assert _only(tmp_path / "runs").info().outcome == "failed"


def test_one_run_inside_another_is_one_run(process: Process, tmp_path: Path) -> None:
    """``mlops run`` under ``mlops run`` joins, and the inner command's status comes through both."""
    done = process(
        *("run", "--name", "outer", "--device", "none", "--"),
        *(MLOPS, "run", "--name", "inner", "--device", "none", "--", "sh", "-c", "exit 3"),
    )
    assert done.returncode == 3
    info: RunInfo = _only(tmp_path / "runs").info()
    assert (info.name, info.outcome) == ("outer", "failed")
