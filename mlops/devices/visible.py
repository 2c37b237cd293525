"""Which of a node's GPUs are this job's.

NVML shows every GPU of the node and ignores what CUDA heeds.  This module applies CUDA's rules to
what NVML found, without CUDA:

* ``CUDA_VISIBLE_DEVICES`` holds indices, UUIDs or unique beginnings of UUIDs; everything from the
  first invalid entry on is ignored, an empty list or ``-1`` means no GPU, one GPU named twice means
  none (CUDA C++ Programming Guide, "CUDA Environment Variables"; the corners as
  ``torch.cuda.device_count`` has them);
* indices count in CUDA's order.  With ``CUDA_DEVICE_ORDER=PCI_BUS_ID`` this is NVML's.  CUDA's
  default, ``FASTEST_FIRST``, is the same among GPUs of one kind, and unknown among several kinds:
  then PyTorch is asked, if it has CUDA running already (CUDA is never started for this), and
  otherwise nothing is metered where the order decides, because a neighbour's joules under this
  run's name are worse than none;
* of boards split by MIG a job sees the instances: all of them since driver 570, the first one, and no
  whole GPU beside it, before (NVIDIA MIG User Guide, "CUDA Device Enumeration");
* under torchrun each rank reports the GPU that its ``LOCAL_RANK`` picks, when it sees several;
* ``NVIDIA_VISIBLE_DEVICES=none`` means no GPU.  ``void`` does not: the container device interface
  sets it in containers that do have GPUs (NVIDIA/nvidia-container-toolkit#395).
"""

from __future__ import annotations

import itertools
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from mlops.devices.base import local_rank
from mlops.errors import DeviceError

__all__ = ["Board", "cuda_uuids", "visible"]

VISIBLE: Final = "CUDA_VISIBLE_DEVICES"
ORDER: Final = "CUDA_DEVICE_ORDER"
_INDEX: Final = re.compile(r"\s*([+-]?[0-9]+)")
_UNKNOWN_ORDER: Final = "The node's GPUs are of several kinds, and which of them CUDA counts first is not known here"
_FIX_ORDER: Final = (
    f"Set {ORDER}=PCI_BUS_ID, or name the GPUs by UUID in {VISIBLE} (nvidia-smi -L shows them): then they are metered."
)


@dataclass(frozen=True, slots=True)
class Board:
    """One GPU of the node, as NVML shows it.

    Attributes:
        uuid: such as ``GPU-8932f937-d72c-4106-c12f-20bd9faed9f6``.
        name: of the product.
        instances: the UUIDs of its MIG instances; ``None`` where it is not split by MIG.
    """

    uuid: str
    name: str
    instances: tuple[str, ...] | None = None


def visible(
    boards: Sequence[Board],
    environ: Mapping[str, str],
    *,
    cuda: Sequence[str] | None = None,
    several_instances: bool = True,
) -> list[str]:
    """The UUIDs of this job's GPUs and MIG instances, in CUDA's order.

    Args:
        boards: the node's GPUs in NVML's order.
        environ: the environment.
        cuda: what :func:`cuda_uuids` said.
        several_instances: whether CUDA takes more than one MIG instance (driver 570 and later).

    Raises:
        DeviceError: none of them is this job's, or which one is cannot be told; the message says why.
    """
    if environ.get("NVIDIA_VISIBLE_DEVICES", "").strip() == "none":
        raise DeviceError("NVIDIA_VISIBLE_DEVICES=none: this job has no GPU", remedy="Ask for one to have it metered.")
    rank = local_rank(environ)
    chosen = _by_cuda(boards, cuda)
    if chosen is None:
        chosen, order_decides = _by_environment(boards, environ)
        if _order_unknown(boards, environ) and (order_decides or (rank is not None and len(chosen) > 1)):
            raise DeviceError(_UNKNOWN_ORDER, remedy=_FIX_ORDER)
    uuids = _with_instances(boards, chosen, several_instances=several_instances)
    if not uuids:
        raise _none_left(boards, environ)
    if rank is None or len(uuids) == 1:
        return uuids
    if rank >= len(uuids):
        raise DeviceError(
            f"LOCAL_RANK is {rank} and this process sees {len(uuids)} GPUs: none of them is this rank's",
            remedy="Start no more ranks on a node than it has GPUs to have each metered.",
        )
    return [uuids[rank]]


def cuda_uuids() -> list[str] | None:
    """The UUIDs of CUDA's devices in CUDA's order, if PyTorch runs CUDA in this process already.

    It neither imports PyTorch nor starts CUDA, which would take memory on every GPU and forbid forks.
    """
    torch = sys.modules.get("torch")
    try:
        if torch is None or not torch.cuda.is_initialized():
            return None
        return [f"GPU-{torch.cuda.get_device_properties(index).uuid}" for index in range(torch.cuda.device_count())]
    except Exception:  # noqa: BLE001 - half imported, too old, or without CUDA: then it cannot tell
        return None


def _by_cuda(boards: Sequence[Board], cuda: Sequence[str] | None) -> list[str] | None:
    """What CUDA itself said, as far as its UUIDs are those of whole boards."""
    whole = {board.uuid for board in boards if board.instances is None}
    if not cuda or not whole.issuperset(cuda):
        return None
    return list(cuda)


def _by_environment(boards: Sequence[Board], environ: Mapping[str, str]) -> tuple[list[str], bool]:
    """What ``CUDA_VISIBLE_DEVICES`` leaves, and whether CUDA's order decides which these are."""
    asked = environ.get(VISIBLE)
    if asked is None:
        return [board.uuid for board in boards], False
    entries = asked.split(",")
    for prefix in ("GPU-", "MIG-"):
        if entries[0].startswith(prefix):
            return _by_uuid(boards, entries, prefix), False
    indices = _indices(entries, len(boards))
    return [boards[index].uuid for index in indices], 0 < len(indices) < len(boards)


def _by_uuid(boards: Sequence[Board], entries: Sequence[str], prefix: str) -> list[str]:
    known = [uuid for board in boards for uuid in (board.uuid, *(board.instances or ()))]
    asked = list(itertools.takewhile(lambda entry: entry.startswith(prefix), entries))
    chosen: list[str] = []
    for entry in asked:
        fitting = [uuid for uuid in known if uuid.startswith(entry)]
        if len(fitting) != 1:
            break
        chosen.append(fitting[0])
    return [] if _repeats(asked) or _repeats(chosen) else chosen


def _indices(entries: Sequence[str], count: int) -> list[int]:
    found = (_INDEX.match(entry) for entry in entries)
    numbers = (int(match.group(1)) if match else -1 for match in found)
    asked = list(itertools.takewhile(lambda index: index >= 0, numbers))
    return [] if _repeats(asked) else list(itertools.takewhile(lambda index: index < count, asked))


def _repeats(entries: Sequence[object]) -> bool:
    return len(set(entries)) < len(entries)


def _order_unknown(boards: Sequence[Board], environ: Mapping[str, str]) -> bool:
    return environ.get(ORDER) != "PCI_BUS_ID" and len({board.name for board in boards}) > 1


def _with_instances(boards: Sequence[Board], chosen: Sequence[str], *, several_instances: bool) -> list[str]:
    """The chosen, with each board that is split by MIG replaced by its instances."""
    split = {board.uuid: board.instances for board in boards if board.instances is not None}
    found = [uuid for entry in chosen for uuid in split.get(entry, (entry,))]
    instances = [uuid for uuid in found if any(uuid in board for board in split.values())]
    return instances[:1] if instances and not several_instances else found


def _none_left(boards: Sequence[Board], environ: Mapping[str, str]) -> DeviceError:
    asked = environ.get(VISIBLE)
    if not boards:
        return DeviceError(
            "The NVIDIA driver runs and shows this process no GPU", remedy="In a container, ask for nvidia.com/gpu."
        )
    if asked is None:
        return DeviceError(
            "The node's GPUs are in MIG mode and have no instance that this process may use",
            remedy="Make one: nvidia-smi mig -cgi … -C.",
        )
    return DeviceError(
        f"{VISIBLE}={asked} leaves this process none of the node's {len(boards)} GPUs",
        remedy="If it is to have one, give an index or a UUID that nvidia-smi -L shows.",
    )
