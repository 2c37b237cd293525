"""A GPU node made up for tests: the stub of NVML, compiled once, and what its GPUs show."""

from __future__ import annotations

import ctypes
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

SOURCE = Path(__file__).with_name("stub_nvml.c")
COMMAND = ("-shared", "-fPIC", "-O2", "-Wall", "-Wextra", "-Werror", "-Wl,-soname,libnvidia-ml.so.1", "-pthread")

LOST = 15
UNKNOWN = 999
NOT_SUPPORTED = 3


def library() -> Path:
    """The stub as ``libnvidia-ml.so.1``, compiled if its source has changed, kept outside the repository."""
    if sys.platform != "linux":
        pytest.skip("NVML, and so its stub, is a Linux library")
    compiler = next((found for name in ("cc", "gcc", "clang") if (found := shutil.which(name))), None)
    if compiler is None:
        pytest.skip("no C compiler (cc, gcc or clang) is here to build the stub of NVML with")
    digest = hashlib.sha256(SOURCE.read_bytes() + repr(COMMAND).encode()).hexdigest()[:16]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    target = cache / "mlops" / "tests" / f"nvml-{digest}" / "libnvidia-ml.so.1"
    if not target.exists():
        target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent) as folder:
            draft = Path(folder) / target.name
            subprocess.run([compiler, *COMMAND, "-o", draft, SOURCE], check=True, timeout=60)
            draft.replace(target)
    return target


def uuid(index: int) -> str:
    """The UUID of the made-up GPU of this index."""
    return f"GPU-{index:x}0000000-1111-2222-3333-444444444444"


def instance_uuid(index: int, instance: int) -> str:
    """The UUID of a made-up MIG instance."""
    return f"MIG-{index:x}{instance:x}000000-1111-2222-3333-444444444444"


class Node:
    """What the stub shows; every change is in force with the next question.

    Args:
        path: the file that the stub reads.
        gpus: how many GPUs the node has; each tells everything, as a large current one does.
    """

    def __init__(self, path: Path, gpus: int = 1) -> None:
        self.path = path
        self.library = library()
        self.stub = ctypes.CDLL(str(self.library))
        self.stub.stub_calls.restype = ctypes.c_ulong
        self.stub.stub_reset()
        self._values: dict[str, object] = {}
        self.has(gpus)

    def has(self, gpus: int) -> None:
        """The node has so many GPUs, and nothing odd about it."""
        self._values = {"gpus": gpus, "driver": "580.159.03"}
        for index in range(gpus):
            for key, value in _ordinary(index).items():
                self._values[f"{index}.{key}"] = value
        self._write()

    def set(self, **values: object) -> None:
        """Change what the node shows: ``set(init__rc=9)``."""
        self._values.update({key.replace("__", "."): value for key, value in values.items()})
        self._write()

    def gpu(self, index: int, values: dict[str, object]) -> None:
        """Change what one GPU shows: ``gpu(0, {"field.83": 5000, "power.rc": 3})``; ``None`` takes an answer away."""
        for key, value in values.items():
            if value is None:
                self._values.pop(f"{index}.{key}", None)
            else:
                self._values[f"{index}.{key}"] = value
        self._write()

    def silence(self, index: int) -> None:
        """This GPU supports nothing but having a name."""
        kept = {f"{index}.uuid", f"{index}.name"}
        self._values = {
            key: value for key, value in self._values.items() if not key.startswith(f"{index}.") or key in kept
        }
        self._write()

    def split(self, index: int, instances: int) -> None:
        """This GPU is in MIG mode and has so many instances, each with a memory of its own."""
        changes: dict[str, object] = {"mig": 1, "instances": 7}
        for number in range(instances):
            changes[f"mig{number}.uuid"] = instance_uuid(index, number)
            changes[f"mig{number}.name"] = "NVIDIA H200 MIG 1g.18gb"
            changes[f"mig{number}.memory_total"] = 18 << 30
            changes[f"mig{number}.memory_used"] = (number + 1) << 30
            changes[f"mig{number}.power"] = 0
        self.gpu(index, changes)

    def asked(self, key: str) -> int:
        """How often the stub was asked this, of any GPU."""
        return int(self.stub.stub_calls(key.encode()))

    @property
    def users(self) -> int:
        """How many users of NVML have not shut it down."""
        return int(self.stub.stub_users())

    def _write(self) -> None:
        draft = self.path.with_suffix(".new")
        draft.write_text("".join(f"{key} {value}\n" for key, value in self._values.items()), encoding="utf-8")
        draft.replace(self.path)


def _ordinary(index: int) -> dict[str, object]:
    return {
        "uuid": uuid(index),
        "name": "NVIDIA H200",
        "mig": 0,
        "fields": 0,
        "field.82": 45,
        "field.83": 1_000_000_000 + index,
        "field.185": 300_000 + 1000 * index,
        "field.186": 310_000 + 1000 * index,
        "power": 305_000,
        "energy": 7,
        "utilisation": 90 + index,
        "memory_utilisation": 40,
        "memory_total": 141 << 30,
        "memory_used": (10 + index) << 30,
        "temperature": 60 + index,
        "sm_clock": 1980,
        "memory_clock": 3201,
        "power_limit": 700_000,
        "reasons": 4,
        "throttle_reasons": 8,
        "ecc": 0,
    }
