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
import socket
import zlib
from pathlib import Path
from typing import Any, Final

from mlops.errors import SpoolBusyError

__all__ = ["Cursor"]

_BYTES: Final = 1024
_VERSION: Final = 1

_log = logging.getLogger("mlops")
_held: set[Path] = set()
"""Cursors that this process holds: a POSIX lock does not keep a process from itself."""


class Cursor:
    """The cursor of a points file and a destination, held by this process alone until it is closed.

    The lock is a POSIX one: no forked child inherits it, the kernel drops it with its process, and NFS knows
    it.  Where a file system knows no locks, nothing is lost: two that deliver the same file deliver the same.

    Args:
        points: the points file.
        destination: what it is delivered to, in words that mean the same on every machine.

    Raises:
        SpoolBusyError: another process holds it.

    Attributes:
        offset: every block that ends at or before this byte has been delivered.
        within: so many points of the block after that have been delivered too.
        delivered: points delivered.
        dropped: points that the destination will never take.
        described: whether the destination knows how the run ended.
    """

    def __init__(self, points: Path, destination: str) -> None:
        mark = hashlib.sha256(destination.encode()).hexdigest()[:8]
        self.path = points.with_name(f"{points.stem}.{destination.partition(' ')[0]}-{mark}.cursor")
        self.offset = self.within = self.delivered = self.dropped = 0
        self.described = False
        self._destination = destination
        self._fd = -1
        if self.path in _held:
            raise self._busy({"pid": os.getpid(), "host": socket.gethostname()})
        try:
            flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
            self._fd = os.open(self.path, flags, 0o600)
        except OSError as error:
            _log.warning(
                "Cannot write %s: %s. Delivery begins with the first point, each time.", self.path, error.strerror
            )
            return
        try:
            self._lock()
        except BaseException:
            os.close(self._fd)
            raise
        _held.add(self.path)
        content = self._read()
        if content.get("destination") == destination:
            for name in ("offset", "within", "delivered", "dropped"):
                setattr(self, name, int(content[name]))
            self.described = bool(content.get("described"))

    def _lock(self) -> None:
        try:
            fcntl.lockf(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            raise self._busy(self._read()) from None
        except OSError:
            _log.debug("no locks in %s", self.path.parent, exc_info=True)

    def _busy(self, holder: dict[str, Any]) -> SpoolBusyError:
        whose = f"process {holder.get('pid', '?')} on {holder.get('host', 'some host')}"
        return SpoolBusyError(
            f"{self.path.stem} is being sent by {whose} already",
            remedy="Nothing is lost; let it finish, or stop it first.",
        )

    def save(self) -> None:
        """Write it down; a disk that refuses is no harm but work done twice."""
        if self._fd < 0:
            return
        content = json.dumps(
            {
                "version": _VERSION,
                "destination": self._destination,
                "offset": self.offset,
                "within": self.within,
                "delivered": self.delivered,
                "dropped": self.dropped,
                "described": self.described,
                "pid": os.getpid(),
                "host": socket.gethostname(),
            }
        ).encode()
        text = b"%08x %s" % (zlib.crc32(content), content)
        with contextlib.suppress(OSError):
            os.pwrite(self._fd, text.ljust(_BYTES - 1) + b"\n", 0)

    def close(self) -> None:
        """Let go of it; a second call does nothing."""
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            _held.discard(self.path)
            os.close(fd)

    def _read(self) -> dict[str, Any]:
        with contextlib.suppress(OSError, ValueError):
            checksum, _, text = os.pread(self._fd, _BYTES, 0).strip().partition(b" ")
            content = json.loads(text)
            numbers = [content.get(name) for name in ("offset", "within", "delivered", "dropped")]
            whole = all(isinstance(number, int) and number >= 0 for number in numbers)
            if int(checksum, 16) == zlib.crc32(text) and content.get("version") == _VERSION and whole:
                return dict(content)
        return {}
