"""Virtual environments of the real services, made once and kept in the user's cache.

Each is described by a file of pinned packages, ``requirements/<name>.txt``; it lies in
``${XDG_CACHE_HOME:-~/.cache}/mlops/testbed/<name>-<hash>``, where the hash is that of the pins and of
the Python, so that new pins make a new one and an old one is never changed.  Two test processes
that want the same one make it once: the second waits.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

__all__ = ["Environment", "TestbedError", "alone", "cache_folder", "environment", "find_python"]

ROOT: Final = Path(__file__).resolve().parents[2]
REQUIREMENTS: Final = Path(__file__).resolve().parent / "requirements"
PATIENCE: Final = 900.0
"""Seconds that an environment may take to make, over a slow line."""


class TestbedError(Exception):
    """A real service cannot be had: which one, why, and what it said."""

    __test__ = False


@dataclass(frozen=True, slots=True)
class Environment:
    """A virtual environment that is ready.

    Attributes:
        path: its folder.
    """

    path: Path

    @property
    def python(self) -> Path:
        """Its interpreter."""
        return self.path / "bin" / "python"

    def program(self, name: str) -> Path:
        """A program that one of its packages brought.

        Raises:
            TestbedError: there is none of that name.
        """
        found = self.path / "bin" / name
        if not found.exists():
            raise TestbedError(f"There is no program {name} in {self.path}; remove that folder to have it made again.")
        return found


def environment(
    name: str,
    *,
    python: str | Path | None = None,
    cache: Path | None = None,
    requirements: Path | None = None,
    say: Callable[[str], None] = print,
) -> Environment:
    """The environment of that name, made now if it is not there yet.

    Args:
        name: of its file in ``requirements/``, without ``.txt``.
        python: the interpreter to make it with, a path or a version such as ``3.10``; the one
            that runs the tests if not given.
        cache: where environments are kept; the user's cache if not given.
        requirements: another file of pins than the one of that name.
        say: told what is being done, where that takes more than a moment.

    Raises:
        TestbedError: it cannot be made; the message has what the installer said last.
    """
    pins = requirements or REQUIREMENTS / f"{name}.txt"
    wanted = str(python or sys.executable)
    made_from = f"{pins.read_text('utf-8')}\n{platform.machine()}\n{_python_id(wanted)}"
    root = cache or cache_folder()
    target = root / f"{name}-{hashlib.sha256(made_from.encode()).hexdigest()[:12]}"
    root.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not _is_whole(target):
        with alone(target.with_suffix(".lock"), f"the environment {name}", say):
            if not _is_whole(target):
                _make(target, name, wanted, pins, say)
    return Environment(target)


def find_python(version: str) -> str:
    """The path of a Python of that version: one on PATH that runs, or one that pyenv or uv has.

    Raises:
        TestbedError: there is none.
    """
    folders = [Path(entry) for entry in os.environ.get("PATH", "").split(os.pathsep) if entry]
    roots: list[Path] = [Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")]
    roots += [folder.parent for folder in folders if folder.name == "shims"]
    found = [folder / f"python{version}" for folder in folders]
    for root in roots:
        found += sorted(root.glob(f"versions/{version}.*/bin/python{version}"), reverse=True)
    for candidate in dict.fromkeys(found):
        if candidate.exists() and _runs(candidate):
            return str(candidate)
    raise TestbedError(
        f"No Python {version} that runs was found on PATH, with pyenv or with uv. Install one, for example with "
        f"`uv python install {version}` or `pyenv install {version}`."
    )


def _runs(python: Path) -> bool:
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        return not subprocess.run(
            [python, "-c", "import venv"], capture_output=True, timeout=30, check=False
        ).returncode
    return False


def cache_folder() -> Path:
    """Where what the test bed makes is kept."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "mlops" / "testbed"


def _python_id(python: str) -> str:
    return platform.python_version() if python == sys.executable else python


def _stamp(target: Path) -> Path:
    return target / ".whole"


def _is_whole(target: Path) -> bool:
    """Whether it was made to its end, and its Python has not been taken away since."""
    return _stamp(target).exists() and (target / "bin" / "python").exists()


@contextlib.contextmanager
def alone(lock: Path, what: str, say: Callable[[str], None]) -> Iterator[None]:
    """Hold a lock among processes while something is made; the kernel releases it whatever becomes of us."""
    deadline = time.monotonic() + PATIENCE
    waiting = False
    with lock.open("w") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if not waiting:
                    say(f"testbed: another process is making {what}; waiting for it")
                waiting = True
                if time.monotonic() > deadline:
                    raise TestbedError(f"Another process has held {lock} for {PATIENCE:.0f} s") from None
                time.sleep(0.2)
        yield


def _make(target: Path, name: str, python: str, pins: Path, say: Callable[[str], None]) -> None:
    began = time.monotonic()
    shutil.rmtree(target, ignore_errors=True)
    problems = []
    for how, commands in (
        ("uv", _with_uv(target, python, pins)),
        ("pip", _with_pip(target, python, pins)),
    ):
        say(f"testbed: making the environment {name} with {how} in {target}")
        said = _run_all(commands)
        if said is None:
            _stamp(target).touch()
            say(f"testbed: the environment {name} is ready ({time.monotonic() - began:.0f} s)")
            return
        problems.append(f"{how}: {said}")
        shutil.rmtree(target, ignore_errors=True)
    raise TestbedError(f"The environment {name} cannot be made from {pins}.\n" + "\n".join(problems))


def _with_uv(target: Path, python: str, pins: Path) -> list[list[str]]:
    """Through the project's own uv, which knows pip's settings and is fetched where it is absent."""
    uv = [sys.executable, str(ROOT / ".ci" / "bootstrap.py"), "uv"]
    install = ["pip", "install", "--quiet", "--compile-bytecode", "--python", str(target / "bin" / "python")]
    return [
        [*uv, "venv", "--quiet", "--python", python, str(target)],
        [*uv, *install, "--requirement", str(pins)],
    ]


def _with_pip(target: Path, python: str, pins: Path) -> list[list[str]]:
    interpreter = python if Path(python).exists() else f"python{python}"
    install = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    return [
        [interpreter, "-m", "venv", str(target)],
        [str(target / "bin" / "python"), *install, "--requirement", str(pins)],
    ]


def _run_all(commands: Sequence[Sequence[str]]) -> str | None:
    """Run them one after the other; what the first that failed said last, or ``None``."""
    for command in commands:
        try:
            done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE, check=False)
        except (OSError, subprocess.SubprocessError) as error:
            return str(error)
        if done.returncode:
            said = "\n".join((done.stdout + done.stderr).strip().splitlines()[-15:])
            return f"{' '.join(map(str, command))} ended with {done.returncode}:\n{said}"
    return None
