"""The processes of a run besides its owner: which are at work, and how those that did not end well ended.

The owner of a run keeps ``run.json``.  A process that joined it, such as another rank of a training, has one file of
its own to say so where it ended badly: ``<stem>.end``, beside its points file.  One that was killed says nothing; its
buffer, which a process removes when it ends in order, is still there then, and tells.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from mlops import blocks, ring

__all__ = ["AT_WORK", "END_SUFFIX", "STALE_SECONDS", "Member", "members", "note_end", "process_started", "together"]

END_SUFFIX: Final = ".end"
AT_WORK: Final = "running"
"""The outcome of a process that goes on."""

STALE_SECONDS: Final = 120.0
"""A process on another host that has not written for this long is taken for dead; a living one notes
its heartbeat more often (see mlops.recorder)."""

_HEAD: Final = 1 << 16
"""Bytes of a points file in which its process's first notes are looked for."""
_NOT_WHOLE: Final = (OSError, ValueError, TypeError, AttributeError, LookupError, OverflowError, RecursionError)
"""What reading an end raises that is being written, or damaged."""
_MODE: Final = 0o600
_LAST_MOMENT: Final = 253402300800.0
"""The year 10000, which cannot be shown."""
_BADNESS: Final = {"finished": 0, "cancelled": 1, "interrupted": 2, "killed": 3, "failed": 4}


@dataclass(frozen=True, slots=True)
class Member:
    """A process that joined a run and goes on, or did not end well.

    Attributes:
        name: in messages: its rank, else its points file's stem.
        outcome: :data:`AT_WORK` or how it ended.
        reason: why.
        ended: seconds since the epoch; of one that was killed, its last sign.
        peer: whether it joined a process like itself, as ranks do, and not a launcher: the run ends as they all do.
    """

    name: str
    outcome: str
    reason: str
    ended: float
    peer: bool

    @property
    def told(self) -> str:
        """Its reason, with its name before it where it has one."""
        return f"{self.name}: {self.reason}" if self.name else self.reason


def process_started(pid: int) -> int:
    """When a process started, in clock ticks since boot (field 22 of /proc/PID/stat); 0 if there is none that lives.

    One that has ended and that nobody has asked about yet (a zombie) lives no more; in a container it may stay so.
    """
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return 0
    fields = stat.rpartition(")")[2].split()
    return 0 if fields[0] in "ZX" else int(fields[19])


def note_end(points: Path, outcome: str, reason: str, *, rank: int | None, peer: bool) -> None:
    """Say how this process, which joined a run, ended.

    Args:
        points: its points file.
        outcome: how.
        reason: why.
        rank: its rank, if it has one.
        peer: see :class:`Member`.

    Raises:
        OSError: as the system said it.
    """
    content = {"outcome": outcome, "reason": reason, "ended": time.time(), "rank": rank, "peer": peer}
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
    with os.fdopen(os.open(points.with_suffix(END_SUFFIX), flags, _MODE), "wb") as file:
        file.write(json.dumps(content, ensure_ascii=False).encode("utf-8", "replace"))


def members(folder: Path, owner: str) -> list[Member]:
    """The processes that joined a run and go on or did not end well, in the order of their ends.

    Args:
        folder: the run's.
        owner: what the names of the owner's files begin with.
    """
    found = []
    ended = set()
    for path in folder.glob(f"*{END_SUFFIX}"):
        with contextlib.suppress(*_NOT_WHOLE):
            if path.is_file():
                found.append(_ended(json.loads(path.read_bytes())))
                ended.add(path.stem)
    found.extend(
        _without_a_word(path.with_suffix(".points"), path)
        for path in folder.glob(f"*{ring.SUFFIX}")
        if path.stem not in ended and not path.name.startswith(f"{owner}-")
    )
    return sorted(found, key=lambda member: member.ended)


def together(owner: Member, others: Sequence[Member]) -> Member:
    """How a run ended whose owner has ended.

    It goes on while any of its processes does.  Among ranks the worst end is the run's, and of several as bad the
    first, which the others follow from.  A launcher's word on the outcome stands; what it ran explains it.

    Args:
        owner: its owner.
        others: the others, as :func:`members` has them.
    """
    if any(member.outcome == AT_WORK for member in others):
        return Member("", AT_WORK, "", owner.ended, peer=True)
    peers = [owner, *(member for member in others if member.peer)]
    worst = max(peers, key=lambda member: (_BADNESS.get(member.outcome, 0), -member.ended))
    reasons = [worst.told]
    if worst.outcome == "failed":
        launched = [member for member in others if not member.peer and member.outcome == "failed"]
        killed = [member for member in others if member.outcome == "killed"]
        reasons += [member.told for member in (launched[:1] or killed[:1])]
    return Member("", worst.outcome, "; ".join(filter(None, reasons)), max(member.ended for member in peers), peer=True)


def _ended(content: Mapping[str, Any]) -> Member:
    ended = float(content["ended"])
    if not 0 <= ended < _LAST_MOMENT or content["outcome"] not in _BADNESS:
        raise ValueError("no end")
    return Member(
        _name(content.get("rank")), content["outcome"], str(content["reason"]), ended, bool(content.get("peer"))
    )


def _without_a_word(points: Path, buffer: Path) -> Member:
    notes = _first_notes(points)
    marks = [0.0]
    for path in (points, buffer):
        with contextlib.suppress(OSError):
            marks.append(path.stat().st_mtime)
    name, peer = _name(notes.get("rank")), bool(notes.get("peer"))
    if _is_alive(notes, max(marks)):
        return Member(name, AT_WORK, "", max(marks), peer)
    reason = "it ended without a word (kill -9, out of memory)"
    return Member(name or points.stem, "killed", reason, max(marks), peer)


def _is_alive(notes: Mapping[str, Any], last_sign: float) -> bool:
    host, pid, started = (notes.get(key) for key in ("host", "pid", "pid_started"))
    if host == socket.gethostname():
        return isinstance(pid, int) and bool(started) and process_started(pid) == started
    return bool(host) and time.time() - last_sign < STALE_SECONDS


def _first_notes(points: Path) -> dict[str, Any]:
    notes: dict[str, Any] = {}
    with contextlib.suppress(OSError):
        with points.open("rb") as file:
            head = file.read(_HEAD)
        for block in blocks.scan(head, whole=False):
            if isinstance(block, blocks.Block) and block.kind == blocks.NOTES:
                with contextlib.suppress(Exception):  # damaged in a way that its checksum does not show
                    notes.update(block.json())
    return notes


def _name(rank: object) -> str:
    return f"rank {rank}" if isinstance(rank, int) else ""
