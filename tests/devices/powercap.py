"""A made-up folder of RAPL's counters, as the kernel lays them out below /sys/class/powercap."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest


class Powercap:
    """The folder.

    Args:
        root: where it is made.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        root.mkdir()

    def zone(self, folder: str, name: str, microjoules: object, wraps_at: int = 262_143_328_850) -> None:
        """Make a zone, or change what its counter shows."""
        path = self.root / folder
        path.mkdir(exist_ok=True)
        (path / "name").write_text(f"{name}\n")
        (path / "energy_uj").write_text(f"{microjoules}\n")
        (path / "max_energy_range_uj").write_text(f"{wraps_at}\n")

    def lock(self, folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
        """Let nobody read a zone's counter: by its mode, and for root, whom modes do not stop, by a refusal."""
        locked = self.root / folder / "energy_uj"
        locked.chmod(0)
        read_bytes = Path.read_bytes

        def refuse(path: Path) -> bytes:
            if path == locked:
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
            return read_bytes(path)

        monkeypatch.setattr(Path, "read_bytes", refuse)
