"""The cursor's file: what it takes on trust, whose it is, who may read it."""

from __future__ import annotations

import os
import socket
import stat
import subprocess
import sys
import zlib
from pathlib import Path

import pytest

from mlops.errors import SpoolBusyError
from mlops.sinks._cursor import Cursor

NUMBERS = ("offset", "block", "within", "left_out", "delivered", "dropped", "refused")
WHERE = "ledger project-1 RegionOne"

HOLD = (
    "import sys; from pathlib import Path; from mlops.sinks._cursor import Cursor\n"
    "cursor = Cursor(Path(sys.argv[1]), sys.argv[2]); print('held', flush=True); sys.stdin.read(); cursor.close()"
)
"""A program that holds a cursor until its standard input ends."""


@pytest.fixture
def points(tmp_path: Path) -> Path:
    """A points file; its content is of no interest here."""
    path = tmp_path / "node-1-7-0.points"
    path.touch()
    return path


def _saved(points: Path, **numbers: int) -> Path:
    cursor = Cursor(points, WHERE)
    for name, number in numbers.items():
        setattr(cursor, name, number)
    cursor.save()
    cursor.close()
    return cursor.path


def _numbers(points: Path, where: str = WHERE) -> dict[str, int]:
    cursor = Cursor(points, where)
    cursor.close()
    return {name: getattr(cursor, name) for name in NUMBERS}


NOTHING = dict.fromkeys(NUMBERS, 0)


def test_what_is_saved_is_read(points: Path) -> None:
    """Every number of it, and whether the end was told."""
    numbers = {name: place + 1 for place, name in enumerate(NUMBERS)}
    path = _saved(points, **numbers, described=True)
    assert _numbers(points) == numbers
    cursor = Cursor(points, WHERE, hold=False)
    assert cursor.described
    assert path.stat().st_size == 1024


def test_only_its_user_may_read_it(points: Path) -> None:
    """It is made with mode 0600, whatever the umask."""
    before = os.umask(0)
    try:
        path = _saved(points)
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_link_in_its_place_is_not_followed(points: Path, tmp_path: Path) -> None:
    """Nobody has us write into another file by putting a link there."""
    path = _saved(points)
    path.unlink()
    (tmp_path / "victim").write_text("mine")
    path.symlink_to(tmp_path / "victim")
    cursor = Cursor(points, WHERE)
    cursor.save()
    cursor.close()
    assert (tmp_path / "victim").read_text() == "mine"


def _sealed(content: bytes) -> bytes:
    return b"%08x %s" % (zlib.crc32(content), content)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\0" * 1024,
        b"\xff" * 1024,
        b"{}",
        b"zzzzzzzz {}",
        _sealed(b"[]"),
        _sealed(b"{}"),
        _sealed(b'{"version": 1, "destination": "%s", "offset": -1}' % WHERE.encode()),
        _sealed(b'{"version": 1, "destination": "%s", "offset": "100"}' % WHERE.encode()),
        _sealed(b'{"version": 2, "destination": "%s", "offset": 100}' % WHERE.encode()),
    ],
)
def test_one_that_says_nothing_counts_for_nothing(points: Path, content: bytes) -> None:
    """What is no cursor begins again with the first point, which changes nothing at the destination."""
    _saved(points, offset=100).write_bytes(content)
    assert _numbers(points) == NOTHING


def test_one_that_is_not_whole_counts_for_nothing(points: Path) -> None:
    """Cut anywhere, or with any number in it changed, it begins again with the first point."""
    path = _saved(points, offset=100, delivered=100)
    raw = path.read_bytes()
    for cut in range(0, len(raw.strip()), 7):
        path.write_bytes(raw[:cut])
        assert _numbers(points) == NOTHING
    path.write_bytes(raw.replace(b'"offset": 100', b'"offset": 900'))
    assert _numbers(points) == NOTHING
    path.write_bytes(raw)
    assert _numbers(points)["offset"] == 100


def test_that_of_another_destination_is_not_used(points: Path) -> None:
    """Another project or region has a cursor of its own; one that was copied over it by hand is passed over."""
    path = _saved(points, offset=100)
    other = "ledger project-1 RegionTwo"
    assert _numbers(points, other) == NOTHING
    Cursor(points, other, hold=False).path.write_bytes(path.read_bytes())
    assert _numbers(points, other) == NOTHING


@pytest.mark.parametrize("where", ["https://some.where/a/b?c", "../../etc/passwd", "", "ledger " + "é" * 3000])
def test_any_words_name_a_destination(points: Path, where: str) -> None:
    """A sink of somebody else's may call its destination what it likes: the file stays beside the points."""
    cursor = Cursor(points, where)
    cursor.offset = 7
    cursor.save()
    cursor.close()
    assert cursor.path.parent == points.parent
    assert _numbers(points, where)["offset"] == 7


def test_looking_changes_nothing(points: Path) -> None:
    """A cursor that is only looked at is neither made, nor locked, nor let go of where this process holds it."""
    assert Cursor(points, WHERE, hold=False).offset == 0
    assert list(points.parent.iterdir()) == [points]
    held = Cursor(points, WHERE)
    held.offset = 9
    held.save()
    looked = Cursor(points, WHERE, hold=False)
    looked.offset = 0
    looked.save()
    looked.close()
    assert Cursor(points, WHERE, hold=False).offset == 9
    done = subprocess.run(
        [sys.executable, "-c", HOLD, points, WHERE],
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    assert "SpoolBusyError" in done.stderr
    held.close()


def test_another_process_is_told_who_holds_it_until_it_is_killed(points: Path) -> None:
    """Its process id and host; the kernel lets go of it with its process."""
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, points, WHERE], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None
    assert holder.stdin is not None
    assert holder.stdout.readline() == "held\n"
    with pytest.raises(SpoolBusyError) as caught:
        Cursor(points, WHERE)
    assert (caught.value.pid, caught.value.host) == (holder.pid, socket.gethostname())
    assert str(caught.value) == (
        f"{points.parent.name}: process {holder.pid} on {socket.gethostname()} is sending node-1-7-0.points at this "
        "moment. Nothing is lost; let it finish, or stop it, then call again."
    )
    holder.kill()
    holder.wait()
    holder.stdin.close()
    holder.stdout.close()
    Cursor(points, WHERE).close()


def test_a_forked_child_does_not_hold_it(points: Path) -> None:
    """The parent's lock is not the child's: once the parent lets go, others may, however long the child lives."""
    cursor = Cursor(points, WHERE)
    told, tell = os.pipe()
    hear, say = os.pipe()
    child = os.fork()
    if not child:
        try:
            cursor.offset = 666
            cursor.save()
            busy = b"free"
            try:
                Cursor(points, WHERE).close()
            except SpoolBusyError:
                busy = b"busy"
            os.write(tell, busy)
            os.close(say)
            os.read(hear, 1)
        finally:
            os._exit(0)
    assert os.read(told, 9) == b"busy", "the child's own try finds the parent's lock"
    cursor.close()
    assert _numbers(points) == NOTHING, "what the child did to its copy is in no file"
    for fd in (say, hear, told, tell):
        os.close(fd)
    os.waitpid(child, 0)


def test_where_locks_are_unknown_it_is_used_all_the_same(points: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two that deliver the same file deliver the same: no harm comes of it."""

    def none(*_: object) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr("fcntl.lockf", none)
    _saved(points, offset=5)
    assert _numbers(points)["offset"] == 5


def test_a_disk_that_refuses_is_no_error(points: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was not written down is delivered again."""
    cursor = Cursor(points, WHERE)

    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    cursor.offset = 5
    cursor.save()
    cursor.close()
    cursor.close()
    monkeypatch.undo()
    assert _numbers(points) == NOTHING
