"""Which rank of a distributed training this process is, and the one run that its ranks record.

Ranks agree without waiting for one another: whoever opens the run first says what it is called, the others hear it.
A training in which rank 0 alone opens a run, or in which nobody ever makes a process group, hangs nowhere.

* Where torch has a process group, they meet in its key-value store, with one atomic ``compare_set``: this works across
  hosts, and is no collective, which every rank would have to join.
* Before there is one, ranks of one launcher on one host meet in a hidden folder among the runs, named after that
  launcher's process.  A rank that finds its own number taken there is of another training, and stays alone: the
  variables ``RANK`` and ``WORLD_SIZE`` may be left over from anything.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import socket
import sys
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from mlops.members import process_started

__all__ = ["Meeting", "Rank", "agree", "here"]

_LAUNCH: Final = ("MASTER_ADDR", "MASTER_PORT", "WORLD_SIZE", "TORCHELASTIC_RUN_ID", "TORCHELASTIC_RESTART_COUNT")
_MET: Final = ".ranks-"
_TRIES: Final = 16
_opened: Counter[str] = Counter()
_arrived: dict[int, int] = {}


@dataclass(frozen=True, slots=True)
class Rank:
    """This process's place in a distributed training.

    Attributes:
        number: from 0.
        size: how many ranks there are; at least 2.
        local: its number among the ranks of its host; ``None`` where that is not known.
        sure: whether torch or torchrun says so, and not just variables that may be left over from anything.
    """

    number: int
    size: int
    local: int | None = None
    sure: bool = False

    @property
    def environ(self) -> dict[str, str]:
        """The launcher's variables that say so, for whoever reads them."""
        told = {"RANK": str(self.number), "WORLD_SIZE": str(self.size)}
        return told if self.local is None else {**told, "LOCAL_RANK": str(self.local)}


def here(environ: Mapping[str, str] | None = None) -> Rank | None:
    """This process's rank, as torch's process group has it, else the launcher's variables; ``None`` if it is alone.

    Args:
        environ: where ``RANK``, ``WORLD_SIZE`` and ``LOCAL_RANK`` are looked up; ``os.environ`` if not given.
    """
    environ = os.environ if environ is None else environ
    sure = True
    local = _whole(environ.get("LOCAL_RANK"))
    if (dist := _group()) is not None:
        number, size = dist.get_rank(), dist.get_world_size()
        local = _local_number() if local is None else local
    else:
        number, size = _whole(environ.get("RANK")), _whole(environ.get("WORLD_SIZE"))
        sure = "TORCHELASTIC_RUN_ID" in environ
        if _child_of_a_rank:
            return None
    if number is None or size is None or not number < size or size < 2:  # noqa: PLR2004 - one alone is no rank
        return None
    return Rank(number, size, local, sure)


@dataclass(frozen=True, slots=True)
class Meeting:
    """What ranks agreed on.

    Attributes:
        run_id: the run's id, the same for all of them.
        folders: where they met, if in a folder.
        number: of this rank.
        expected: how many ranks of this host come there; 0 where that is not known.
    """

    run_id: str
    folders: tuple[Path, ...] = ()
    number: int = 0
    expected: int = 0

    def leave(self, *, owner: bool) -> None:
        """Say that this rank's run has ended; who is the last to say so, or owns the run, removes what was left there.

        Args:
            owner: whether the run is this process's.
        """
        if self.expected:
            with contextlib.suppress(OSError):
                (self.folders[-1] / f"left{self.number}").touch()
                owner = len(list(self.folders[-1].glob("left*"))) >= self.expected
        if owner:
            for folder in self.folders:
                shutil.rmtree(folder, ignore_errors=True)


def agree(name: str, proposal: str, rank: Rank, place: Path, is_over: Callable[[str], bool]) -> Meeting:
    """The id of the run that the ranks of this training record under a name; never waits for another rank.

    The so-manieth run of a name in one rank is the so-manieth in all of them.

    Args:
        name: of the run.
        proposal: the id that it has if no other rank has proposed one.
        rank: this process's.
        place: the folder of runs.
        is_over: whether the run of an id is known to have ended.
    """
    _opened[name] += 1
    key = f"{name}/{_opened[name]}"
    if _group() is not None:
        return Meeting(_by_group(key, proposal) or proposal)
    try:
        return _by_launcher(key, proposal, rank, place, is_over)
    except OSError:  # nothing can be written there: the run will say so
        return Meeting(proposal)


def _by_group(key: str, proposal: str) -> str | None:
    """What the first one put into the group's store; ``None`` where the group has none, as with MPI."""
    with contextlib.suppress(Exception):
        return bytes(_store().compare_set(f"mlops/runs/{key}", "", proposal)).decode()
    return None


def _by_launcher(key: str, proposal: str, rank: Rank, place: Path, is_over: Callable[[str], bool]) -> Meeting:
    """What the first one wrote into a folder that is named after the process that started these ranks.

    Torchrun's process is one of a training's own, so that a rank that comes late is of the same training, whatever has
    become of it meanwhile.  Another one may be a shell, which starts one training after the other.
    """
    parent = os.getppid()
    launch = [key, socket.gethostname(), parent, process_started(parent), *(os.environ.get(one) for one in _LAUNCH)]
    mark = hashlib.sha256(repr(launch).encode()).hexdigest()[:16]
    of_torchrun = "TORCHELASTIC_RUN_ID" in os.environ
    expected = _whole(os.environ.get("LOCAL_WORLD_SIZE")) or rank.size if of_torchrun else 0
    folders = []
    _sweep(place, is_over)
    for attempt in range(_TRIES):
        folder = place / f"{_MET}{mark}-{attempt}"
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        folders.append(folder)
        _first_word(folder / "launcher", f"{parent} {process_started(parent)}")
        found = _first_word(folder / "run", proposal)
        if is_over(found) and not of_torchrun:
            continue
        if (other := _first_word(folder / f"rank{rank.number}", str(os.getpid()))) != str(os.getpid()):
            if process_started(_whole(other) or 0) or not is_over(found):
                break
            continue  # it has ended: torchrun began anew without saying so
        return Meeting(found, tuple(folders), rank.number, expected)
    return Meeting(proposal)


def _sweep(place: Path, is_over: Callable[[str], bool]) -> None:
    """Remove where ranks met that were killed, and so have not done it: their launcher is gone, and their run over."""
    for folder in place.glob(f"{_MET}*"):
        with contextlib.suppress(OSError, ValueError):
            pid, started = (int(word) for word in (folder / "launcher").read_text(encoding="utf-8").split())
            lives = started and process_started(pid) == started
            if not lives and is_over((folder / "run").read_text(encoding="utf-8")):
                shutil.rmtree(folder, ignore_errors=True)


def _first_word(path: Path, word: str) -> str:
    """What a file says; if there is none, it is made to say this, whole from its first moment."""
    draft = path.with_name(f".{path.name}-{os.getpid()}")
    draft.write_text(word, encoding="utf-8")
    try:
        os.link(draft, path)
    except FileExistsError:
        return path.read_text(encoding="utf-8")
    finally:
        draft.unlink()
    return word


def _group() -> Any:
    """torch's distributed package where it has a process group of this process; it is never imported for this."""
    torch: Any = sys.modules.get("torch")
    with contextlib.suppress(Exception):  # half imported, or built without it
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            return None if _of_parent and torch.distributed.group.WORLD is _of_parent[0] else torch.distributed
    return None


def _after_fork_in_child() -> None:
    """A child that a rank forks is none: its variables and its process group, with the connection, are its parent's."""
    global _child_of_a_rank  # noqa: PLW0603 - of this process
    if (dist := _group()) is not None:
        _of_parent[:] = [dist.group.WORLD]
    _child_of_a_rank = _child_of_a_rank or dist is not None or here() is not None


_of_parent: Final[list[Any]] = []
_child_of_a_rank = False
os.register_at_fork(after_in_child=_after_fork_in_child)


def _local_number() -> int | None:
    """Where no launcher says it: the number of the GPU that this thread has chosen, else in what order ranks came here.

    The latter is asked for once in a process: a rank stays what it is.
    """
    torch: Any = sys.modules.get("torch")
    with contextlib.suppress(Exception):
        if torch.cuda.is_initialized() and torch.cuda.device_count() > 1:
            return int(torch.cuda.current_device())
    with contextlib.suppress(Exception):
        if os.getpid() not in _arrived:
            _arrived[os.getpid()] = int(_store().add(f"mlops/hosts/{socket.gethostname()}", 1)) - 1
    return _arrived.get(os.getpid())


def _store() -> Any:
    """The key-value store of the process group. AttributeError, ValueError: it has none, as with MPI."""
    return sys.modules["torch"].distributed.distributed_c10d._get_default_store()  # noqa: SLF001 - the only way to it


def _whole(text: str | None) -> int | None:
    return int(text) if text and text.isascii() and text.isdigit() else None
