"""Event files as TensorBoard reads them, written with tensorboardX's protocol buffers.

tensorboardX's own writer is not used: it sends every event through a ``multiprocessing.Queue``, waits for ever when its
thread has died of a full disk, and calls fsync.  Here a batch of events is one ``write``; what cannot be written
whole is cut off again, since TensorBoard reads no further than the first damage.
"""

from __future__ import annotations

import contextlib
import importlib
import math
import os
import secrets
import struct
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final

from mlops.errors import MissingExtraError
from mlops.store import FILE_MODE, FOLDER_MODE

__all__ = ["EventFile", "make_folder", "replace_file", "session_end", "session_start", "tensorboardx"]

_MOST_EXACT: Final = 1 << 53
"""Whole numbers beyond it are not all floats."""


def tensorboardx() -> Any:
    """What is needed of tensorboardX: ``Event``, ``Summary``, ``SummaryMetadata``, ``hparams``, ``crc``.

    It is imported without torch, which it imports where there is one and uses for nothing but a name: in a process
    that trains nothing, such as ``mlops run``, that would cost seconds and hundreds of megabytes.

    Raises:
        MissingExtraError: it is not installed.
    """
    try:
        with _without_torch():
            names = ("event_pb2", "summary_pb2", "plugin_hparams_pb2")
            event, summary, hparams = (importlib.import_module(f"tensorboardX.proto.{name}") for name in names)
            record = importlib.import_module("tensorboardX.record_writer")
    except ImportError as error:
        raise MissingExtraError("tensorboardX", "tensorboard") from error
    return SimpleNamespace(
        Event=event.Event,
        Summary=summary.Summary,
        SummaryMetadata=summary.SummaryMetadata,
        hparams=hparams,
        crc=record.masked_crc32c,
    )


class EventFile:
    """One event file, which nobody else writes; its bytes are in the kernel's hands once a method has returned.

    Args:
        folder: where; it exists.
        stem: what the name ends with; a number follows where that is taken.
        tbx: what :func:`tensorboardx` gives.

    Attributes:
        path: the file.

    Raises:
        OSError: it cannot be made or written; from every method.  The file is then as before the call.
    """

    def __init__(self, folder: Path, stem: str, tbx: Any) -> None:
        self._tbx = tbx
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
        number, fd = 0, None
        while fd is None:
            self.path = folder / f"{_prefix(time.time())}.{stem}.{number}"
            with contextlib.suppress(FileExistsError):
                fd = os.open(self.path, flags, FILE_MODE)
            number += 1
        self._fd = fd
        self._size = 0
        try:
            self.append([_version(tbx)])
        except OSError:
            self.close()
            with contextlib.suppress(OSError):
                self.path.unlink()
            raise

    def append(self, events: Iterable[Any]) -> None:
        """Write events at the end, all or none."""
        data = _records(events, self._tbx)
        written = 0
        try:
            while written < len(data):
                written += os.write(self._fd, data[written:])
        except OSError:
            with contextlib.suppress(OSError):
                os.ftruncate(self._fd, self._size)
                os.lseek(self._fd, self._size, os.SEEK_SET)
            raise
        self._size += written

    def close(self) -> None:
        """Let go of the file."""
        os.close(self._fd)


def replace_file(folder: Path, stem: str, events: Iterable[Any], tbx: Any) -> None:
    """Write an event file that TensorBoard reads before all others of its folder, in the place of the last one.

    Raises:
        OSError: it cannot be written; what was there stays.
    """
    draft = folder / f".{stem}.{secrets.token_hex(4)}"  # TensorBoard reads what has "tfevents" in its name
    try:
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, FILE_MODE), "wb") as file:
            file.write(_records([_version(tbx), *events], tbx))
        draft.replace(folder / f"{_prefix(0)}.{stem}.parameters")
    except OSError:
        with contextlib.suppress(OSError):
            draft.unlink()
        raise


def make_folder(folder: Path) -> None:
    """Make a folder and those above it that are not there.

    Raises:
        OSError: it cannot be made.
    """
    for place in reversed([folder, *folder.parents]):
        if not place.is_dir():
            place.mkdir(mode=FOLDER_MODE, exist_ok=True)


def session_start(parameters: Mapping[str, Any], started: float, tbx: Any) -> Any:
    """The event that tells TensorBoard's hparams plugin of a training and its parameters.

    No event of the kind ``experiment`` goes with it: of those TensorBoard believes the first that it finds, for all
    runs; without one it puts together what every run says.
    """
    start = tbx.hparams.SessionStartInfo(start_time_secs=started)
    for key, value in parameters.items():
        _set(start.hparams[_text(key)], value)
    for key in [key for key, value in start.hparams.items() if value.WhichOneof("kind") is None]:
        del start.hparams[key]
    return _about_session("_hparams_/session_start_info", tbx.hparams.HParamsPluginData(session_start_info=start), tbx)


def session_end(status: str, ended: float, tbx: Any) -> Any:
    """The event that tells how a training ended: ``UNKNOWN``, ``SUCCESS`` or ``FAILURE``."""
    end = tbx.hparams.SessionEndInfo(status=f"STATUS_{status}", end_time_secs=ended)
    return _about_session("_hparams_/session_end_info", tbx.hparams.HParamsPluginData(session_end_info=end), tbx)


def _set(place: Any, value: object) -> None:
    """A parameter's value; numbers that TensorBoard could not show, or not exactly, are texts, and None is left out."""
    if isinstance(value, bool):
        place.bool_value = value
    elif (isinstance(value, int) and abs(value) <= _MOST_EXACT) or (isinstance(value, float) and math.isfinite(value)):
        place.number_value = value
    elif value is not None:
        place.string_value = _text(str(value))


def _about_session(tag: str, content: Any, tbx: Any) -> Any:
    data = tbx.SummaryMetadata.PluginData(plugin_name="hparams", content=content.SerializeToString())
    value = tbx.Summary.Value(tag=tag, metadata=tbx.SummaryMetadata(plugin_data=data))
    return tbx.Event(wall_time=time.time(), summary=tbx.Summary(value=[value]))


def _version(tbx: Any) -> Any:
    return tbx.Event(wall_time=time.time(), file_version="brain.Event:2")


def _records(events: Iterable[Any], tbx: Any) -> bytes:
    """Events framed as TFRecords: length and its checksum, data and its checksum, little endian."""
    parts = []
    for event in events:
        data = event.SerializeToString()
        length = struct.pack("<Q", len(data))
        parts += [length, struct.pack("<I", tbx.crc(length)), data, struct.pack("<I", tbx.crc(data))]
    return b"".join(parts)


def _prefix(seconds: float) -> str:
    return f"events.out.tfevents.{int(seconds):010d}"


def _text(text: str) -> str:
    return text.encode(errors="replace").decode()


@contextlib.contextmanager
def _without_torch() -> Iterator[None]:
    finder = _Absent(threading.get_ident())
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)


class _Absent:
    """Finds no torch on one thread, also where there is one; what is imported already stays so."""

    def __init__(self, thread: int) -> None:
        self._thread = thread

    def find_spec(self, name: str, path: object = None, target: object = None) -> None:
        """Nothing, so that others are asked; or nothing at all."""
        if name == "torch" and threading.get_ident() == self._thread:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
