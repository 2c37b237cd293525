"""Values that are still on a GPU when they are logged: copied without waiting for it, and read once they are here.

``float(loss)`` stops the training thread until the GPU has caught up.  Instead the copy to a slot of pinned memory is
put into the GPU's own queue, behind the work that makes the value, and the training goes on.  A slot holds a mark
until its value arrives; the recorder's thread looks now and then which marks are gone.

It makes no call of CUDA's to find out.  Asking after an event, from whatever thread, ends a capture of a CUDA graph
that the training may be in the middle of (PyTorch's own NCCL watchdog did that), and after an error of CUDA's each
such call fails.  Reading memory does neither.  The mark is a quiet nan with a payload of its own, where hardware and
libraries make the canonical one, and it has the size of the value, so that one write of the bus replaces it.  Types
that have no nan, or none of that size, are made float64 on the GPU first.

torch is taken from ``sys.modules``: where there is a tensor, it has been imported.
"""

from __future__ import annotations

import struct
import sys
from collections import deque
from collections.abc import Callable
from typing import Any, Final

import numpy as np

from mlops.blocks import Columns

__all__ = ["SLOTS", "Arrivals", "is_tensor"]

SLOTS: Final = 8192
"""Values of one type that can be on their way at once; half a second at 16,000 a second."""

_POINT: Final = struct.Struct("<dII")
_POINTS: Final = np.dtype([("time", "<f8"), ("step", "<u4"), ("series", "<u4")])
_NOBODY: Final = 0xFFFFFFFF
"""Stands for a series where a copy failed: the slot is passed over."""
_PATIENCE: Final = 20
"""Looks that a slot may be taken and not described, as in :mod:`mlops.ring`."""


def is_tensor(kind: type) -> bool:
    """Whether this is torch's own type of tensor or parameter; a subclass may do anything when it is copied."""
    torch: Any = sys.modules.get("torch")
    return torch is not None and kind in (torch.Tensor, torch.nn.Parameter)


class _Lane:
    """Slots for values of one type, taken in turn."""

    def __init__(self, values: Any, mark: int) -> None:
        integer = f"u{values.dtype.itemsize}"
        torch: Any = sys.modules["torch"]
        same_size = {2: torch.int16, 4: torch.int32, 8: torch.int64}[values.dtype.itemsize]
        self.values = values
        self.slots = len(values)
        self.mark = np.array(mark, integer)
        self.bits = values.view(same_size).numpy().view(integer)
        self.bits[:] = self.mark
        self.views = list(values.unbind())
        self.described = bytearray(_POINT.size * self.slots)
        self.points = np.frombuffer(self.described, _POINTS)
        self.free = deque(range(self.slots))
        self.next = 0
        self.looks = 0

    def take(self, copy: Callable[[Any, Any], object], value: Any, now: float, step: int, number: int) -> int:
        slot = self.free.popleft()
        try:
            copy(self.views[slot], value)
        except BaseException:
            self.bits[slot] = 0
            number = _NOBODY
            raise
        finally:
            _POINT.pack_into(self.described, slot * _POINT.size, now, step, number)
        return slot

    def arrived(self, *, ending: bool) -> Columns:
        """What has arrived at :attr:`next` and after it, up to the last slot; these slots are free again."""
        whole = slice(self.next, self.slots)
        taken = self.points["series"][whole] != 0
        length = _prefix(taken & (self.bits[whole] != self.mark))
        if not length:
            length = self._abandoned(taken, ending=ending)
            if not length:
                return Columns.join(())
        part = slice(self.next, self.next + length)
        points = self.points[part].copy()
        values = self.values[part].double().numpy().copy()
        self.points["series"][part] = 0
        self.bits[part] = self.mark
        self.free.extend(range(part.start, part.stop))
        self.next = part.stop % self.slots
        known = (points["series"] != _NOBODY) & (points["series"] != 0)
        return Columns(
            points["time"][known].astype(np.float64),
            values[known],
            points["series"][known].astype(np.uint32) - np.uint32(1),
            points["step"][known].astype(np.uint32),
        )

    def _abandoned(self, taken: Any, *, ending: bool) -> int:
        """1 if the next slot was taken by a thread that an exception ended before it was described."""
        if taken[0] or not (taken.any() or self.points["series"][: self.next].any()):
            self.looks = 0
            return 0
        self.looks += 1
        if self.looks <= _PATIENCE and not ending:
            return 0
        self.looks = 0
        return 1

    def waiting(self) -> int:
        return int(np.count_nonzero((self.points["series"] != 0) & (self.points["series"] != _NOBODY)))


def _prefix(good: Any) -> int:
    return len(good) if good.all() else int(np.argmin(good))


_MARKS: Final = {"float16": 0x7E5A, "bfloat16": 0x7FDA, "float32": 0x7FC5A5A5, "float64": 0x7FF85A5A5A5A5A5A}


class Arrivals:
    """What was logged while it was still on a GPU, until it is here.

    Args:
        slots: values of one type that can be on their way at once.

    Attributes:
        on_many: called on the logging thread when a quarter of the slots has been used, to have them emptied.
    """

    def __init__(self, *, slots: int = SLOTS) -> None:
        self.on_many: Callable[[], object] = lambda: None
        self._slots = slots
        self._quarter = max(1, slots // 4)
        self._lanes: dict[Any, _Lane] = {}
        self._types: dict[Any, Any] = {}

    def holds(self, value: Any) -> bool:
        """Whether a tensor is where reading it would wait."""
        return bool(value.is_cuda)

    def take(self, value: Any, now: float, step: int, number: int) -> None:
        """Have a tensor of one element brought here; returns at once.

        Args:
            value: on a GPU.
            now: the point's time.
            step: the point's step as the recorder marks it.
            number: the series' id + 1.

        Raises:
            IndexError: all slots are in use.
            Exception: whatever torch raises where it cannot be copied; the message says why.
        """
        if self._is_capturing():
            raise RuntimeError(
                "a CUDA graph is being captured, and what is logged meanwhile would be logged once; log its static "
                "output after each replay"
            )
        kind = self._types.get(value.dtype) or self._type_for(value.dtype)
        if kind is not value.dtype:
            value = value.detach().to(kind)
        if value.dim():
            if value.numel() != 1:
                shape = tuple(value.shape)
                raise ValueError(f"a Tensor of shape {shape} has more than one element; log its .mean() or one element")
            value = value.reshape(())
        lane = self._lanes.get(kind) or self._open(kind)
        if lane.take(self._copy, value, now, step, number) % self._quarter == 0:
            self.on_many()

    def arrived(self, *, ending: bool = False) -> Columns:
        """What is here by now, in the order of logging for each type; for the recorder's thread.

        Args:
            ending: nothing is logged any more.
        """
        return Columns.join(
            [part for lane in list(self._lanes.values()) if len(part := lane.arrived(ending=ending)) > 0]
        )

    @property
    def waiting(self) -> int:
        """How many values are on their way."""
        return sum(lane.waiting() for lane in list(self._lanes.values()))

    def give_up(self) -> int:
        """Forget what has not arrived; how many values that are."""
        late = self.waiting
        self._lanes.clear()
        return late

    def _type_for(self, kind: Any) -> Any:
        torch: Any = sys.modules["torch"]
        if kind.is_complex:
            raise TypeError("a number is needed, not a complex one; log its .abs()")
        arrives = kind if str(kind).removeprefix("torch.") in _MARKS else torch.float64
        self._types[kind] = arrives
        return arrives

    def _open(self, kind: Any) -> _Lane:
        made = _Lane(self._memory(kind), _MARKS[str(kind).removeprefix("torch.")])
        return self._lanes.setdefault(kind, made)

    # -- what only a GPU can do: tests without one stand in for these three

    def _memory(self, kind: Any) -> Any:
        return sys.modules["torch"].empty(self._slots, dtype=kind, pin_memory=True)

    def _is_capturing(self) -> bool:
        return bool(sys.modules["torch"].cuda.is_current_stream_capturing())

    @staticmethod
    def _copy(slot: Any, value: Any) -> None:
        slot.copy_(value.detach(), non_blocking=True)
