"""How far one points file has got to one destination: a small file beside it.

It is written in place, 1024 bytes at once, and names its own checksum.  A cursor that is lost, damaged or
older than the truth costs only time: points are delivered again, and a durable sink's destination takes
the same point twice for one.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import logging
import os
import re
import socket
import zlib
from pathlib import Path
from typing import Any, Final

from mlops.errors import SpoolBusyError

__all__ = ["Cursor"]

_BYTES: Final = 1024
_SHOWN: Final = 150
_VERSION: Final = 1
_NUMBERS: Final = ("offset", "block", "within", "left_out", "delivered", "dropped", "refused")

_log = logging.getLogger("mlops")
_held: Final[dict[Path, int]] = {}
"""The cursors that this process holds, each with its descriptor.  A POSIX lock does not keep a process from
itself, and closing any descriptor of the file lets go of it."""
_said: Final[set[Path]] = set()


class Cursor:
    """The cursor of a points file and a destination, held by this process alone until it is closed.

    The lock is a POSIX one: no forked child inherits it, the kernel drops it with its process, and NFS knows
    it.  Where a file system knows no locks, nothing is lost: two that deliver the same file deliver the same.
    In a folder that cannot be written a cursor that is there is heeded, and how far delivery gets is not kept.

    Args:
        points: the points file.
        destination: what it is delivered to, in words that mean the same on every machine.
        hold: if not, it is only looked at: nothing is locked or written.

    Raises:
        SpoolBusyError: another process holds it.

    Attributes:
        path: of the cursor.
        offset: every block that ends at or before this byte has been delivered.
        block: where the block after that ends of which a part has been delivered too; 0 for what a dead process
            left in its buffer, which is no block.
        within: how many of its points have been delivered.
        left_out: how many of its points count as dropped already.
        delivered: points delivered.
        dropped: points that the destination will never take.
        refused: those of them that it has refused; the others are none that it could be asked to take.
        described: whether nothing is left to be told about the run.
        confirmed: whether the destination was asked, and has all that was delivered.
    """

    def __init__(self, points: Path, destination: str, *, hold: bool = True) -> None:
        kind = re.sub(r"[^A-Za-z0-9.]+", "-", destination.partition(" ")[0])[:20]
        mark = hashlib.sha256(destination.encode()).hexdigest()[:8]
        self.path = points.with_name(f"{points.stem}.{kind}-{mark}.cursor")
        self.offset = self.block = self.within = self.left_out = 0
        self.delivered = self.dropped = self.refused = 0
        self.described = self.confirmed = False
        self._destination = destination[:_SHOWN]
        self._pid = os.getpid()
        self._key = Path(os.path.realpath(points.parent)) / self.path.name
        self._fd = -1
        if hold:
            self._hold()
        content = self._look() if self._fd < 0 else _read(self._fd)
        if content.get("destination") == self._destination:
            for name in _NUMBERS:
                setattr(self, name, int(content.get(name, 0)))
            self.described, self.confirmed = bool(content.get("described")), bool(content.get("confirmed"))
        self.save()  # so that whoever finds it held is told by whom

    def _hold(self) -> None:
        """Open it and lock it; leaves it closed where it cannot be written."""
        if self._key in _held:
            raise self._busy({"pid": os.getpid(), "host": socket.gethostname()})
        try:
            fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except OSError as error:
            self._warn(error)
            return
        try:
            fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            holder = _read(fd)
            os.close(fd)
            raise self._busy(holder) from None
        except OSError:
            _log.debug("no locks in %s", self.path.parent, exc_info=True)
        _held[self._key] = self._fd = fd

    def _look(self) -> dict[str, Any]:
        if self._key in _held:
            return _read(_held[self._key])
        with contextlib.suppress(OSError):
            fd = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
            try:
                return _read(fd)
            finally:
                os.close(fd)
        return {}

    def _busy(self, holder: dict[str, Any]) -> SpoolBusyError:
        host, pid = str(holder.get("host", "")), int(holder.get("pid", 0))
        whom = f"process {pid} on {host}" if pid else "another process"
        return SpoolBusyError(
            f"{self.path.parent.name}: {whom} is sending {self.path.stem.rpartition('.')[0]}.points at this moment",
            remedy="Nothing is lost; let it finish, or stop it, then call again.",
            host=host,
            pid=pid,
        )

    def _warn(self, error: OSError) -> None:
        """One warning for each folder of runs."""
        folder = self._key.parent.parent
        if folder not in _said:
            _said.add(folder)
            _log.warning(
                "Cannot write %s: %s. How far delivery gets is not kept in %s: the next one sends the same points "
                "again, which costs time and changes nothing.",
                self.path,
                error.strerror,
                folder,
            )

    def save(self) -> None:
        """Write it down; a disk that refuses is no harm but work done twice."""
        if self._fd < 0 or os.getpid() != self._pid:
            return
        content = json.dumps(
            {
                "version": _VERSION,
                "destination": self._destination,
                **{name: getattr(self, name) for name in _NUMBERS},
                "described": self.described,
                "confirmed": self.confirmed,
                "pid": self._pid,
                "host": socket.gethostname(),
            },
            ensure_ascii=False,
        ).encode("utf-8", "replace")
        text = b"%08x %s" % (zlib.crc32(content), content)
        with contextlib.suppress(OSError):
            os.pwrite(self._fd, text.ljust(_BYTES - 1) + b"\n", 0)

    def rewind(self) -> None:
        """Go back to the beginning: everything is delivered once more."""
        for name in _NUMBERS:
            setattr(self, name, 0)
        self.described = self.confirmed = False
        self.save()

    def close(self) -> None:
        """Let go of it; a second call does nothing."""
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            _held.pop(self._key, None)
            os.close(fd)


def _read(fd: int) -> dict[str, Any]:
    """What a cursor's file says; nothing if it is not whole."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        checksum, _, text = os.pread(fd, _BYTES, 0).strip().partition(b" ")
        content = json.loads(text)
        numbers = [content.get(name, 0) for name in _NUMBERS]
        whole = all(isinstance(number, int) and number >= 0 for number in numbers)
        if int(checksum, 16) == zlib.crc32(text) and content.get("version") == _VERSION and whole:
            return dict(content)
    return {}


# A forked child has inherited what its parent knows, and not its locks: the parent's cursors are not its own.
os.register_at_fork(after_in_child=_held.clear)
