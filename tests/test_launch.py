"""Running any command as a monitored run: how it ended, in words."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from mlops import launch
from mlops.errors import CommandError
from mlops.launch import Ended, ended, name_of, run_command
from mlops.store import OUTCOMES


def _exit(status: int) -> int:
    return status << 8


@pytest.mark.parametrize(
    ("status", "asked", "expected"),
    [
        (_exit(0), (), Ended(0, "finished", "")),
        (_exit(0), (signal.SIGTERM,), Ended(0, "finished", "")),
        (_exit(3), (), Ended(3, "failed", "exit status 3")),
        (_exit(3), (signal.SIGTERM,), Ended(3, "interrupted", "SIGTERM, then exit status 3")),
        (_exit(137), (), Ended(137, "failed", "exit status 137, which shells give after SIGKILL")),
        (_exit(200), (), Ended(200, "failed", "exit status 200")),
        (signal.SIGINT, (), Ended(130, "interrupted", "SIGINT")),
        (signal.SIGTERM, (), Ended(143, "interrupted", "SIGTERM")),
        (signal.SIGHUP, (), Ended(129, "interrupted", "SIGHUP")),
        (signal.SIGKILL, (), Ended(137, "killed", "SIGKILL, from someone or from the kernel for want of memory")),
        (signal.SIGSEGV, (), Ended(139, "failed", "crashed with SIGSEGV (Segmentation fault)")),
        (signal.SIGSEGV | 0x80, (), Ended(139, "failed", "crashed with SIGSEGV (Segmentation fault)")),
        (40, (), Ended(168, "failed", "crashed with signal 40 (Real-time signal 6)")),
    ],
)
def test_an_ending_in_words(status: int, asked: tuple[int, ...], expected: Ended) -> None:
    """Exit statuses and signals become an outcome, a reason and an exit code, as shells give them."""
    assert ended(int(status), asked) == expected
    assert expected.outcome in OUTCOMES


@pytest.mark.parametrize(
    ("command", "name"),
    [
        (["python", "train.py", "--epochs", "5"], "train"),
        (["/usr/bin/python3.11", "-u", "src/fit.py"], "fit"),
        (["python", "-m", "vision.train"], "vision.train"),
        (["torchrun", "--nproc-per-node", "2", "train.py"], "train"),
        (["./simulate.sh", "10"], "simulate"),
        (["make", "-m"], "make"),
        ([], "run"),
    ],
)
def test_a_command_names_its_run(command: list[str], name: str) -> None:
    """The script or module that a command runs gives the run its name, else the program."""
    assert name_of(command) == name


@pytest.mark.parametrize(
    ("make", "word", "code", "said"),
    [
        ("nothing", "nosuchprogram", 127, "There is no command 'nosuchprogram' on PATH"),
        ("nothing", "./nosuchprogram", 127, "There is no command './nosuchprogram'. "),
        ("text", "./tool", 126, "chmod +x ./tool"),
        ("text", "tool", 126, "tool is not executable"),
        ("program", "tool", 127, "Write ./tool"),
        ("folder", "./tool", 126, "is a folder"),
    ],
)
def test_a_command_that_cannot_be_run_is_told_before_anything_is_opened(
    tmp_path: Path, make: str, word: str, code: int, said: str
) -> None:
    """127 where it is not there, 126 where it is and cannot be run; no run is opened for it."""
    tool = tmp_path / "tool"
    if make == "folder":
        tool.mkdir()
    elif make != "nothing":
        tool.write_text("#!/bin/sh\n")
        tool.chmod(0o755 if make == "program" else 0o644)
    with pytest.raises(CommandError) as caught:
        run_command([word], lambda: pytest.fail("a run was opened"))
    assert caught.value.exit_code == code
    assert said in str(caught.value)


_SCRIPT = """
import json, os, sys, threading
from mlops.launch import run_command
from mlops.errors import MlopsError

class Recording:
    def close(self, outcome="finished", reason=""):
        print("closed", outcome, reason, flush=True)

def begin():
    if "refuse" in sys.argv:
        raise MlopsError("no run today")
    threading.Thread(target=threading.Event().wait, daemon=True).start()  # as a run's threads are
    return Recording(), {**os.environ, "TOLD": "yes"}

if "thread" in sys.argv:
    begin()
try:
    end = run_command(json.loads(os.environ["COMMAND"]), begin)
    print(end.exit_code, end.outcome, round(end.seconds, 1) >= 0.2)
except MlopsError as error:
    print(type(error).__name__, error.exit_code, error.what)
"""


def _launch(*command: str, how: str = "", **options: object) -> subprocess.CompletedProcess[str]:
    environ = {"COMMAND": json.dumps(command), "PATH": "/usr/bin:/bin"}
    call = [sys.executable, "-c", _SCRIPT, how]
    return subprocess.run(call, env=environ, capture_output=True, text=True, timeout=60, check=True, **options)  # type: ignore[call-overload,no-any-return]  # options are subprocess's own


def test_the_command_has_the_environment_that_the_run_gives_it() -> None:
    """The command begins only once the run is open, and is told of it."""
    done = _launch("sh", "-c", "sleep 0.2; echo $TOLD; exit 4")
    assert done.stdout.splitlines() == ["yes", "closed failed exit status 4", "4 failed True"]


def test_the_command_gets_every_file_and_signal_as_it_was() -> None:
    """Nothing that keeps the run is inherited: no open file, no blocked or ignored signal."""
    shown = _launch("sh", "-c", "ls /proc/self/fd | tr '\\n' ' '; grep -E 'Sig(Blk|Ign)' /proc/self/status").stdout
    lines = shown.splitlines()
    assert lines[0].split()[0] == "0"
    assert len(lines[0].split("SigBlk")[0].split()) <= 4, lines
    masks = [int(line.split()[-1], 16) for line in lines if "Sig" in line]
    assert [mask & ((1 << 31) - 1) for mask in masks] == [0, 0], lines  # 32 and 33 are the C library's own


def test_an_ignored_signal_stays_ignored() -> None:
    """``nohup mlops run`` means it: SIGHUP reaches neither mlops nor the command."""
    wrapped = f"trap '' HUP; exec {sys.executable} -c \"$SCRIPT\""
    environ = {
        "SCRIPT": _SCRIPT,
        "COMMAND": json.dumps(["grep", "SigIgn", "/proc/self/status"]),
        "PATH": "/usr/bin:/bin",
    }
    done = subprocess.run(["sh", "-c", wrapped], env=environ, capture_output=True, text=True, timeout=60, check=True)
    ignored = int(done.stdout.splitlines()[0].split()[-1], 16)
    assert ignored & ((1 << 31) - 1) == 1 << (signal.SIGHUP - 1)  # 32 and 33 are the C library's own


def test_a_program_that_fails_to_start_ends_its_run_as_failed(tmp_path: Path) -> None:
    """What only the kernel can find out is recorded: a script without an interpreter."""
    script = tmp_path / "script"
    script.write_text("#!/nosuch/interpreter\n")
    script.chmod(0o755)
    lines = _launch(str(script)).stdout.splitlines()
    assert lines[0].startswith(f"closed failed Cannot execute {script}: No such file or directory")
    assert lines[1].startswith("CommandError 127")

    script.write_bytes(b"\x7fELF nonsense")
    assert "CommandError 126" in _launch(str(script)).stdout


def test_a_run_that_cannot_be_opened_leaves_the_command_unrun(tmp_path: Path) -> None:
    """The error of opening the run comes out, and the command has done nothing."""
    done = _launch("touch", str(tmp_path / "mark"), how="refuse")
    assert done.stdout.splitlines() == ["MlopsError 1 no run today"]
    assert not (tmp_path / "mark").exists()


def test_a_process_with_threads_is_refused() -> None:
    """A fork would copy other threads' locks, so it is refused."""
    assert (
        "RunError 1 A command can be run only by a process that has one thread" in _launch("true", how="thread").stdout
    )


def test_what_is_watched_is_what_ends_commands() -> None:
    """The signals that are passed on include every usual way to end a program, and not SIGKILL, which cannot be."""
    assert {signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT} <= set(launch._FORWARDED)
