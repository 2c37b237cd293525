"""Facts about this process and machine that a run notes and ``mlops doctor`` prints."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

__all__ = ["git_commit", "versions"]

_PACKAGES: Final = ("torch", "fastai", "lightning", "pytorch-lightning", "transformers", "numpy", "papermill")
_MODULES: Final = {"pytorch-lightning": "pytorch_lightning"}
_GIT_SECONDS: Final = 5.0


def versions(*, installed: bool = False) -> dict[str, str]:
    """The versions of Python, mlops and the frameworks.

    Args:
        installed: of all that are installed; if not, only of those that this process has imported.
    """
    import mlops

    found = {"python": platform.python_version(), "mlops": mlops.__version__}
    for package in _PACKAGES:
        if installed or _MODULES.get(package, package) in sys.modules:
            try:
                found[package] = importlib.metadata.version(package)
            except importlib.metadata.PackageNotFoundError:
                continue
    return found


def git_commit(folder: Path | None = None) -> str:
    """The commit that a folder is at, with ``+`` when it has changes; empty outside git.

    Changes to files that git does not track do not count: runs themselves may be among them.
    """
    git = shutil.which("git")
    if git is None:
        return ""
    head = _git(git, folder, "rev-parse", "HEAD")
    if not head:
        return ""
    changed = _git(git, folder, "status", "--porcelain", "--untracked-files=no")
    return f"{head}+" if changed else head


def _git(git: str, folder: Path | None, *arguments: str) -> str:
    environ = {**os.environ, "GIT_OPTIONAL_LOCKS": "0", "GIT_TERMINAL_PROMPT": "0"}
    try:
        done = subprocess.run(
            [git, *arguments],
            cwd=folder,
            env=environ,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_GIT_SECONDS,
            check=False,
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
