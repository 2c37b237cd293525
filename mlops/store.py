"""The record of runs on disk: one folder a run, one append-only file a process.

::

    runs/<run id>/
        run.json                     identity, dimensions, parameters, host, versions, outcome
        <host>-<pid>-<n>.points      blocks of one process (see mlops.blocks), append-only
        <host>-<pid>-<n>.ring        its buffer (see mlops.recorder); gone once the process ended well
        <host>-<pid>-<n>.end         how a process that joined the run ended, if not well (see mlops.members)

The store is the spool: a sink reads these files behind a cursor, so one that was down loses
nothing.  There are no locks, because NFS does not keep them: every file has one writer, and
``run.json`` is replaced as a whole.  Files are made with mode 0600 in folders of mode 0700.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import secrets
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Final

from mlops import blocks, ring
from mlops.errors import RunNotFoundError, StoreError
from mlops.members import AT_WORK, STALE_SECONDS, Member, members, process_started, together
from mlops.series import Series

__all__ = [
    "OUTCOMES",
    "RUNNING",
    "PointsWriter",
    "RunFolder",
    "RunInfo",
    "file_stem",
    "list_runs",
    "new_run_id",
    "open_run",
]

RUN_FILE: Final = "run.json"
POINTS_SUFFIX: Final = ".points"
FOLDER_MODE: Final = 0o700
FILE_MODE: Final = 0o600

RUNNING: Final = AT_WORK
OUTCOMES: Final = ("finished", "failed", "interrupted", "cancelled", "killed")
"""How a run can end: well, with an exception or a bad exit status, by Ctrl-C (SIGTERM too, under
``mlops run`` and ``mlops notebook``), by the training's own decision to stop early, or without a
word, which is seen from outside only."""


_NUMBER: Final = (int, float)
_KINDS: Final[Mapping[str, tuple[type, ...]]] = {
    "id": (str,),
    "name": (str,),
    "started": _NUMBER,
    "ended": (*_NUMBER, type(None)),
    "outcome": (str,),
    "reason": (str,),
    "dimensions": (dict,),
    "parameters": (dict,),
    "host": (str,),
    "pid": (int,),
    "pid_started": (int,),
    "versions": (dict,),
    "git_commit": (str,),
    "notes": (dict,),
}
_WITHOUT_FILE: Final = (
    "The points files beside it are unharmed; once it is moved away, they can be read without what it says."
)
_FIRST_MOMENT: Final = -62135596800.0
_LAST_MOMENT: Final = 253402300800.0
"""The years 1 and 10000: other times cannot be shown."""


@dataclass(slots=True)
class RunInfo:
    """What ``run.json`` says of a run.

    Attributes:
        id: unique, sortable by start: ``20261122-231500-digits-3fa9c1``.
        name: chosen by the user; runs of one kind share it.
        started: seconds since the epoch.
        ended: seconds since the epoch; ``None`` while running.
        outcome: ``running`` or one of :data:`OUTCOMES`.
        reason: one sentence on why it ended so; empty when it went well.
        dimensions: of every series of the run.
        parameters: what the training was called with.
        host, pid, pid_started: where the owner runs; ``pid_started`` (clock ticks since boot)
            tells a process from a later one with the same number.
        versions: of Python and the packages in use.
        git_commit: of the working folder, ``+`` appended when it had changes; empty outside git.
        notes: whatever else the owner recorded, such as what was metered and how.
    """

    id: str
    name: str
    started: float
    ended: float | None = None
    outcome: str = RUNNING
    reason: str = ""
    dimensions: dict[str, str] = field(default_factory=dict)
    parameters: dict[str, Any] = field(default_factory=dict)
    host: str = ""
    pid: int = 0
    pid_started: int = 0
    versions: dict[str, str] = field(default_factory=dict)
    git_commit: str = ""
    notes: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> RunInfo:
        """From what was read; fields of a later version are passed over.

        Raises:
            TypeError: a field is missing or of another type.
            ValueError: a time is none.
        """
        known = {entry.name: _KINDS[entry.name] for entry in fields(cls)}
        for key, value in content.items():
            kinds = known.get(key)
            if kinds is not None and not isinstance(value, kinds):
                raise TypeError(f"{key} is {value!r:.60}")
        info = cls(**{key: value for key, value in content.items() if key in known})
        for moment in (info.started, info.ended):
            if moment is not None and not _FIRST_MOMENT <= moment < _LAST_MOMENT:
                raise ValueError(f"{moment} is no time")
        return info


def new_run_id(name: str, now: float) -> str:
    """A run's id: start in UTC, its name as far as a file name allows, six random hex digits."""
    stamp = time.strftime("%Y%m%d-%H%M%S", time.gmtime(now))
    slug = re.sub(r"[^A-Za-z0-9._]+", "-", name).strip("-.")[:48] or "run"
    return f"{stamp}-{slug}-{secrets.token_hex(3)}"


def file_stem(host: str, pid: int) -> str:
    """What the names of a process's files begin with; a number follows."""
    return f"{re.sub(r'[^A-Za-z0-9.]+', '-', host)[:60] or 'host'}-{pid}"


class PointsWriter:
    """Appends blocks to one process's points file.

    Every block is one ``write``: what returned is in the kernel's hands and outlives the process.
    A block that could not be written whole is cut off again, so the file stays readable.  Not
    safe for two threads at once; the recorder holds a lock.

    Raises:
        OSError: from every method, as the system said it; the file is then as before the call.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.number = 0
        self.seq = 0
        self.slot = 0
        self._size = 0
        self._named = False
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
        self._fd = os.open(path, flags, FILE_MODE)

    def write_points(self, columns: blocks.Columns, slot: int) -> None:
        """Append the points; ``slot`` is the buffer slot after the last of them."""
        self._append(blocks.encode_columns(columns, number=self.number, seq=self.seq, slot=slot))
        self.seq += len(columns)
        self.slot = slot

    def write_series(self, ids: Mapping[int, Series]) -> None:
        """Append the names and dimensions of series ids; must precede the first point of each."""
        content = [[number, series.name, dict(series.dimensions)] for number, series in ids.items()]
        self._append_json(blocks.SERIES, content)

    def write_notes(self, notes: Mapping[str, Any]) -> None:
        """Append notes: facts about this process, later ones overriding earlier ones by key."""
        self._append_json(blocks.NOTES, notes)

    def sync(self) -> None:
        """Wait until everything written has reached the disk, and the file's name as well."""
        os.fdatasync(self._fd)
        if not self._named:
            for folder in (self.path.parent, self.path.parent.parent):
                _sync_folder(folder)
            self._named = True

    def close(self) -> None:
        """Sync and close; a second call does nothing."""
        if self._fd < 0:
            return
        try:
            self.sync()
        finally:
            fd, self._fd = self._fd, -1
            os.close(fd)

    def abandon(self) -> None:
        """Close the descriptor and touch nothing: for a forked child, whose parent owns the file."""
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            os.close(fd)

    def _append_json(self, kind: int, content: object) -> None:
        self._append(blocks.encode_json(kind, content, number=self.number, seq=self.seq, slot=self.slot))

    def _append(self, block: bytes) -> None:
        if self._fd < 0:
            raise OSError(f"{self.path} is closed")
        written = 0
        try:
            while written < len(block):
                written += os.write(self._fd, memoryview(block)[written:])
        except OSError:
            if written:
                with contextlib.suppress(OSError):
                    os.ftruncate(self._fd, self._size)
            raise
        self._size += len(block)
        self.number += 1


class RunFolder:
    """One run's folder: its ``run.json`` and its points files.

    Args:
        path: the folder; need not exist yet.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def id(self) -> str:
        """The run's id, which is the folder's name."""
        return self.path.name

    def create(self) -> None:
        """Make the folder; one that another process of the run has made is fine.

        Raises:
            OSError: it cannot be made or written to.
        """
        self.path.mkdir(mode=FOLDER_MODE, parents=True, exist_ok=True)
        if not os.access(self.path, os.W_OK | os.X_OK):
            raise PermissionError(f"{self.path} is not writable")

    def claim(self) -> bool:
        """Make the folder, unless another process of the run has; whether this one made it, and owns the run.

        Raises:
            OSError: it cannot be made or written to.
        """
        try:
            self.path.parent.mkdir(mode=FOLDER_MODE, parents=True, exist_ok=True)
            self.path.mkdir(mode=FOLDER_MODE)
        except FileExistsError:
            self.create()
            return False
        return True

    def new_points_path(self) -> Path:
        """A name for this process's points file that no file bears yet."""
        stem = file_stem(socket.gethostname(), os.getpid())
        number = 0
        while (path := self.path / f"{stem}-{number}{POINTS_SUFFIX}").exists():
            number += 1
        return path

    def points_files(self) -> list[Path]:
        """The points files, oldest first by name."""
        return sorted(self.path.glob(f"*{POINTS_SUFFIX}"))

    def info(self) -> RunInfo:
        """What ``run.json`` says; a run whose owner is seen to be dead is reported as ``killed``.

        Of several processes the run has ended once all have, and the worst of their ends is its own.

        Raises:
            StoreError: it cannot be read.
        """
        path = self.path / RUN_FILE
        try:
            content = json.loads(path.read_bytes())
            info = RunInfo.from_json(content)
        except FileNotFoundError:
            return self._info_without_file()
        except OSError as error:
            raise StoreError(f"Cannot read {path}: {error.strerror}", remedy=_WITHOUT_FILE) from error
        except (ValueError, TypeError, AttributeError, RecursionError) as error:
            raise StoreError(f"Cannot read {path}: it is damaged ({error})", remedy=_WITHOUT_FILE) from error
        if info.outcome == RUNNING and self._owner_is_dead(info):
            info.outcome = "killed"
            info.reason = "its process ended without a word (kill -9, SIGTERM, out of memory, power)"
            info.ended = self._last_sign()
        if info.outcome != RUNNING:
            self._end_with_others(info)
        return info

    def write_info(self, info: RunInfo, *, unless: Callable[[], bool] = lambda: False) -> None:
        """Replace ``run.json`` as a whole.

        Args:
            info: what it shall say.
            unless: asked at the last moment; if it is true, what is there stays.

        Raises:
            OSError: as the system said it; the old content stays.
        """
        text = json.dumps(asdict(info), indent=2, ensure_ascii=False, default=str)
        target = self.path / RUN_FILE
        draft = self.path / f".{RUN_FILE}.{os.getpid()}.{secrets.token_hex(3)}"
        fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, FILE_MODE)
        try:
            with os.fdopen(fd, "w", encoding="utf-8", errors="replace") as file:
                file.write(text + "\n")
                file.flush()
                os.fsync(file.fileno())
            if unless():
                draft.unlink()
            else:
                draft.replace(target)
        except BaseException:
            with contextlib.suppress(OSError):
                draft.unlink()
            raise

    def _info_without_file(self) -> RunInfo:
        if not self.points_files():
            raise RunNotFoundError(f"{self.path} is no run: it has no {RUN_FILE} and no points")
        stem = self.id.split("-", 2)[-1].rsplit("-", 1)[0]
        first = min(path.stat().st_mtime for path in self.points_files())
        return RunInfo(self.id, stem, first, self._last_sign(), "killed", f"{RUN_FILE} is missing")

    def _end_with_others(self, info: RunInfo) -> None:
        others = members(self.path, file_stem(info.host, info.pid))
        if others:
            end = together(Member("", info.outcome, info.reason, info.ended or 0.0, peer=True), others)
            info.outcome, info.reason = end.outcome, end.reason
            info.ended = None if end.outcome == RUNNING else end.ended

    def _owner_is_dead(self, info: RunInfo) -> bool:
        if info.host != socket.gethostname():
            return time.time() - self._last_sign() > STALE_SECONDS
        return process_started(info.pid) != info.pid_started

    def _last_sign(self) -> float:
        marks = [path.stat().st_mtime for path in [*self.points_files(), *self.path.glob(f"*{ring.SUFFIX}")]]
        return max(marks, default=self.path.stat().st_mtime)


def _sync_folder(folder: Path) -> None:
    """Have the names in a folder reach the disk: a synced file without a name is lost all the same."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    except OSError as error:
        if error.errno not in {errno.EINVAL, errno.EROFS, errno.ENOTSUP}:  # some network file systems cannot
            raise
    finally:
        os.close(fd)


def list_runs(runs_dir: Path) -> list[RunFolder]:
    """The runs in a folder, oldest first; an absent folder has none."""
    try:
        found = [entry for entry in runs_dir.iterdir() if entry.is_dir() and not entry.name.startswith(".")]
    except FileNotFoundError:
        return []
    except OSError as error:
        raise StoreError(f"Cannot list {runs_dir}: {error.strerror}") from error
    return [RunFolder(path) for path in sorted(found) if (path / RUN_FILE).exists() or any(path.glob("*.points"))]


def open_run(which: str, runs_dir: Path) -> RunFolder:
    """The run meant by a path, an id, the beginning of an id, a name, or the word ``last``.

    Of several runs with one name the newest is meant.

    Raises:
        RunNotFoundError: there is none, or the beginning fits several; the message lists the nearest.
    """
    if os.sep in which or (Path(which).is_dir() and (Path(which) / RUN_FILE).exists()):
        path = Path(which)
        if path.is_dir():
            return RunFolder(path.resolve())
        raise RunNotFoundError(f"There is no run folder {which}", remedy="List the runs with: mlops runs")
    runs = list_runs(runs_dir)
    if not runs:
        raise RunNotFoundError(
            f"There are no runs in {runs_dir.absolute()}",
            remedy="Record one (make demo), or name another folder with --runs-dir or MLOPS_RUNS_DIR.",
        )
    if which == "last":
        return _newest(runs)
    matching = [run for run in runs if run.id == which] or [run for run in runs if run.id.startswith(which)]
    if len(matching) == 1:
        return matching[0]
    if len(matching) > 1:
        listed = ", ".join(run.id for run in matching[:5])
        raise RunNotFoundError(
            f"{which!r} fits {len(matching)} runs in {runs_dir}: {listed}", remedy="Give more of it."
        )
    named = [run for run in runs if re.fullmatch(rf"\d{{8}}-\d{{6}}-{re.escape(which)}-[0-9a-f]+", run.id)]
    if named:
        return _newest(named)
    newest = ", ".join(run.id for run in runs[-3:])
    raise RunNotFoundError(
        f"There is no run {which!r} in {runs_dir.absolute()}",
        remedy=f"List the runs with: mlops runs. The newest: {newest}.",
    )


def _newest(runs: Sequence[RunFolder]) -> RunFolder:
    """The run that began last. Its id tells the second; of several within one, ``run.json`` tells the order."""
    second = max(run.id for run in runs)[: len("20261122-231500")]

    def started(run: RunFolder) -> tuple[float, str]:
        with contextlib.suppress(StoreError):
            return run.info().started, run.id
        return 0.0, run.id

    return max((run for run in runs if run.id.startswith(second)), key=started)
