"""Runs of several processes: which of them are at work, and how the run ends as they all do."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from mlops.members import AT_WORK, Member, members, note_end, process_started, together
from mlops.store import PointsWriter, RunFolder, RunInfo, file_stem

OWNER = file_stem(socket.gethostname(), os.getpid())


def member(outcome: str, ended: float, reason: str = "", name: str = "", *, peer: bool = True) -> Member:
    """A process that joined a run."""
    return Member(name, outcome, reason, ended, peer)


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    """A run that its owner has finished."""
    made = RunFolder(tmp_path / "20261122-231500-digits-3fa9c1")
    made.create()
    info = RunInfo(made.id, "digits", 1.0, 100.0, "finished", host=socket.gethostname(), pid=os.getpid())
    made.write_info(info)
    return made


def left(folder: RunFolder, stem: str, **notes: Any) -> Path:
    """The points file of a process that has left its buffer behind, or goes on."""
    path = folder.path / f"{stem}.points"
    writer = PointsWriter(path)
    if notes:
        writer.write_notes(notes)
    writer.close()
    path.with_suffix(".ring").write_bytes(b"")
    return path


# -- how several ends are one ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("owner", "others", "outcome", "reason"),
    [
        (("finished", 9.0), [("finished", 8.0, "", "")], "finished", ""),
        (("finished", 9.0), [("cancelled", 8.0, "enough", "rank 1")], "cancelled", "rank 1: enough"),
        (("interrupted", 9.0, "SIGTERM"), [("failed", 8.0, "boom", "rank 1")], "failed", "rank 1: boom"),
        (("failed", 9.0, "closed by peer"), [("failed", 8.0, "boom", "rank 1")], "failed", "rank 1: boom"),
        (("failed", 8.0, "boom"), [("failed", 9.0, "closed by peer", "rank 1")], "failed", "boom"),
        (("interrupted", 9.0, "SIGTERM"), [("killed", 8.0, "no word", "rank 1")], "killed", "rank 1: no word"),
        (("failed", 9.0, "closed"), [("killed", 8.0, "no word", "rank 1")], "failed", "closed; rank 1: no word"),
        (("failed", 9.0, "closed"), [("of a later version", 8.0, "?", "rank 1")], "failed", "closed"),
    ],
)
def test_the_worst_end_of_ranks_is_the_runs(
    owner: tuple[Any, ...], others: list[tuple[Any, ...]], outcome: str, reason: str
) -> None:
    """Of several as bad the first, which the others follow from; one that was killed explains the rest."""
    end = together(member(*owner), [member(*other) for other in others])
    assert (end.outcome, end.reason, end.ended) == (outcome, reason, 9.0)


@pytest.mark.parametrize(
    ("outcome", "reason", "expected"),
    [
        ("failed", "exit status 1", "exit status 1; rank 0: boom"),
        ("finished", "", ""),
        ("interrupted", "SIGINT", "SIGINT"),
    ],
)
def test_a_launchers_word_stands(outcome: str, reason: str, expected: str) -> None:
    """What failed in what it ran explains its failure, and changes no other outcome."""
    inside = [
        member("failed", 5.0, "boom", "rank 0", peer=False),
        member("failed", 6.0, "closed", "rank 1", peer=False),
    ]
    end = together(member(outcome, 9.0, reason), inside)
    assert (end.outcome, end.reason) == (outcome, expected)


def test_it_goes_on_while_one_of_its_processes_does() -> None:
    """However the owner ended."""
    assert together(member("failed", 9.0, "boom"), [member(AT_WORK, 8.0)]).outcome == AT_WORK


# -- what is found in a folder --------------------------------------------------------------------


def test_what_a_process_noted_is_found(folder: RunFolder) -> None:
    """Its end is in a file of its own, and the run says it."""
    path = folder.path / "node-2-0.points"
    note_end(path, "failed", "RuntimeError: boom", rank=1, peer=True)
    (found,) = members(folder.path, OWNER)
    assert (found.outcome, found.told, found.peer) == ("failed", "rank 1: RuntimeError: boom", True)
    assert abs(found.ended - time.time()) < 60
    assert path.with_suffix(".end").stat().st_mode & 0o777 == 0o600
    info = folder.info()
    assert (info.outcome, info.reason) == ("failed", "rank 1: RuntimeError: boom")
    assert info.ended == found.ended


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'{"outcome": "failed"}',
        b"\xff",
        b"[" * 100_000,
        b'{"outcome": "failed", "reason": "", "ended": 1' + b"0" * 400 + b"}",
        b'{"outcome": "failed", "reason": "", "ended": 1e400}',
        b'{"outcome": "failed", "reason": "", "ended": -1}',
        b'{"outcome": "odd", "reason": "", "ended": 1}',
        b'{"outcome": [], "reason": "", "ended": 1}',
    ],
)
def test_an_end_that_is_not_whole_is_none(folder: RunFolder, text: bytes) -> None:
    """A file that is being written, or damaged, takes nothing from what the owner says."""
    (folder.path / "node-2-0.end").write_bytes(text)
    os.mkfifo(folder.path / "node-3-0.end")
    (folder.path / "node-4-0.end").mkdir()
    assert members(folder.path, OWNER) == []
    assert folder.info().outcome == "finished"


def test_a_process_that_goes_on_keeps_the_run_going(folder: RunFolder) -> None:
    """Its buffer is there and it lives; once it has gone without a word, that is how the run ended."""
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    notes = {"host": socket.gethostname(), "pid": child.pid, "pid_started": process_started(child.pid), "rank": 3}
    path = left(folder, "node-2-0", **notes, peer=True)
    assert (folder.info().outcome, folder.info().ended) == (AT_WORK, None)
    child.kill()
    child.communicate()
    info = folder.info()
    assert info.outcome == "killed"
    assert info.reason.startswith("rank 3: it ended without a word")
    path.with_suffix(".ring").unlink()
    assert folder.info().outcome == "finished"


def test_one_that_nobody_has_asked_about_has_ended(folder: RunFolder) -> None:
    """A zombie, which in a container may stay for ever, keeps no run going."""
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    notes = {"host": socket.gethostname(), "pid": child.pid, "pid_started": process_started(child.pid)}
    left(folder, "node-2-0", **notes, peer=True)
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert folder.info().outcome == "killed"
    child.communicate()


def test_a_later_process_with_its_number_is_another(folder: RunFolder) -> None:
    """A process id that was given again does not keep a run going."""
    left(folder, "node-2-0", host=socket.gethostname(), pid=os.getpid(), pid_started=1, peer=True)
    assert folder.info().outcome == "killed"


def test_one_on_another_host_is_judged_by_its_signs(folder: RunFolder) -> None:
    """It goes on while it has written of late."""
    path = left(folder, "node-2-0", host="another", pid=os.getpid(), pid_started=1, peer=True)
    assert folder.info().outcome == AT_WORK
    for file in (path, path.with_suffix(".ring")):
        os.utime(file, (1.0, 1.0))
    assert folder.info().outcome == "killed"


def test_one_whose_notes_are_lost_has_ended(folder: RunFolder) -> None:
    """Nobody can tell whether it lives: its file names it, the launcher's word stands."""
    left(folder, "node-2-0")
    (found,) = members(folder.path, OWNER)
    assert (found.name, found.outcome, found.peer) == ("node-2-0", "killed", False)
    assert folder.info().outcome == "finished"


def test_the_owners_own_buffer_says_nothing_of_others(folder: RunFolder) -> None:
    """What its own files tell is told by run.json."""
    left(folder, f"{OWNER}-0", host=socket.gethostname(), pid=1, pid_started=1)
    assert members(folder.path, OWNER) == []
