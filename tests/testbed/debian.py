"""Programs out of Debian's packages: fetched with apt, unpacked into the cache, not installed."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

from tests.testbed.environments import TestbedError, alone, cache_folder

__all__ = ["unpacked"]


def unpacked(package: str, *, say: Callable[[str], None] = print) -> Path:
    """The folder with a package's files, fetched now if it is not there yet in any version.

    Raises:
        TestbedError: it cannot be had; the message has what apt said.
    """
    root = cache_folder()
    root.mkdir(mode=0o700, parents=True, exist_ok=True)
    there = [stamp.parent for stamp in root.glob(f"debian-{package}-*/.whole")]
    if there:  # asking apt takes a second
        return max(there)
    version = _version(package)
    name = "".join(sign if sign.isalnum() or sign in ".-+" else "_" for sign in f"debian-{package}-{version}")
    target = root / name
    if not (target / ".whole").exists():
        with alone(root / f"{name}.lock", f"Debian's {package}", say):
            if not (target / ".whole").exists():
                say(f"testbed: fetching Debian's {package} {version} to {target}")
                shutil.rmtree(target, ignore_errors=True)
                target.mkdir(mode=0o755)
                _run(["apt-get", "download", f"{package}={version}"], target)
                for found in target.glob("*.deb"):
                    _run(["dpkg", "-x", found.name, "."], target)
                    found.unlink()
                (target / ".whole").touch()
    return target


def _version(package: str) -> str:
    said = _run(["apt-cache", "policy", package], Path.cwd())
    for line in said.splitlines():
        label, _, version = line.strip().partition(": ")
        if label == "Candidate" and version != "(none)":
            return version
    raise TestbedError(f"apt knows no package {package}. Debian or Ubuntu has it; run: apt-get update")


def _run(command: list[str], folder: Path) -> str:
    environ = {**os.environ, "LC_ALL": "C"}
    try:
        done = subprocess.run(
            command, cwd=folder, capture_output=True, text=True, timeout=600, check=False, env=environ
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise TestbedError(f"{' '.join(command)}: {error}") from None
    if done.returncode:
        said = (done.stdout + done.stderr).strip()[-1000:]
        raise TestbedError(f"{' '.join(command)} ended with {done.returncode}:\n{said}")
    return done.stdout
