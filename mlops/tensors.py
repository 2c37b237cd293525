"""Values that are still on a GPU when they are logged: copied without waiting for it, and read once they are here.

``float(loss)`` stops the training thread until the GPU has caught up.  Instead the copy to a slot of pinned memory is
put into the GPU's own queue, behind the work that makes the value, and the training goes on.  A slot holds a mark
until its value arrives; the recorder's thread looks now and then which marks are gone.

It makes no call of CUDA's to find out.  Asking after an event, from whatever thread, ends a capture of a CUDA graph
that the training may be in the middle of (PyTorch's own NCCL watchdog did that), and after an error of CUDA's each
such call fails.  Reading memory does neither.  The mark is a quiet nan with a payload of its own in each of the sizes
that a value may have, where hardware and libraries make the canonical one; one write of the bus replaces it.  Types
that have no nan are made float64 on the GPU first.

torch is taken from ``sys.modules``: where there is a tensor, it has been imported.
"""

from __future__ import annotations

import struct
import sys
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["LATE", "SLOTS", "Arrivals", "Arrived", "is_tensor"]

SLOTS: Final = 8192
"""Values that can be on their way at once; half a second at 16,000 a second."""

_MARK: Final = np.uint64(0x7FF85A5A_7FC57FDA)
"""A nan as float64, as float32 (its lower half) and as float16 and bfloat16 (its lowest quarter)."""
_SIZES: Final = {"float16": 2, "bfloat16": 2, "float32": 4, "float64": 8}

_DESCRIPTION: Final = struct.Struct("<qdIIq")
_DESCRIPTIONS: Final = np.dtype(
    [("place", "<i8"), ("time", "<f8"), ("step", "<u4"), ("series", "<u4"), ("type", "<i8")]
)
_NOWHERE: Final = -1
LATE: Final = -2
"""The place of a value whose place was not kept any longer."""
_PATIENCE: Final = 20
"""Looks that a slot may be taken and not described, as in :mod:`mlops.ring`."""


def is_tensor(kind: type) -> bool:
    """Whether this is torch's own type of tensor or parameter; a subclass may do anything when it is copied."""
    torch: Any = sys.modules.get("torch")
    return torch is not None and kind in (torch.Tensor, torch.nn.Parameter)


@dataclass(frozen=True, slots=True)
class Arrived:
    """Values that are here, in the order of logging, as columns of one length.

    Attributes:
        place: where in the recorder's buffer the point belongs, its first byte; :data:`LATE` once it is too late.
        time: seconds since the epoch.
        value: float64.
        step: as the recorder marks it.
        series: its id + 1.
    """

    place: NDArray[np.int64]
    time: NDArray[np.float64]
    value: NDArray[np.float64]
    step: NDArray[np.uint32]
    series: NDArray[np.uint32]

    def __len__(self) -> int:
        return len(self.place)


class _Lane:
    """Slots of pinned memory, taken in turn, and what each is for.

    Args:
        memory: float64, one element a slot.
    """

    def __init__(self, memory: Any) -> None:
        self.memory = memory
        self.slots = len(memory)
        self.bits: NDArray[np.uint64] = memory.numpy().view(np.uint64)
        self.bits[:] = _MARK
        self.types: list[Any] = []
        self.views: dict[Any, tuple[int, list[Any]]] = {}
        self.described = bytearray(_DESCRIPTION.size * self.slots)
        self.descriptions = np.frombuffer(self.described, _DESCRIPTIONS)
        self.free = deque(range(self.slots))
        self.next = 0
        self._looks = 0

    def views_of(self, kind: Any) -> tuple[int, list[Any]]:
        """The number of a type, and each slot seen as a tensor of it."""
        found = self.views.get(kind)
        if found is None:
            self.types.append(kind)
            views = list(self.memory.view(kind)[:: 8 // kind.itemsize].unbind())
            found = self.views[kind] = len(self.types) - 1, views
        return found

    def describe(self, slot: int, place: int, now: float, step: int, series: int, kind: int) -> None:
        _DESCRIPTION.pack_into(self.described, slot * _DESCRIPTION.size, place, now, step, series, kind)

    def arrived(self, *, ending: bool) -> Arrived:
        """What has arrived from :attr:`next` on, up to the last slot at most; these slots are free again."""
        rest = slice(self.next, self.slots)
        taken = self.descriptions["series"][rest] != 0
        length = _prefix(taken & (self.bits[rest] != _MARK)) or self._abandoned(taken, ending=ending)
        part = slice(self.next, self.next + length)
        here = self.descriptions[part].copy()
        values = np.empty(length)
        for number in np.unique(here["type"]).tolist() if length else ():
            chosen = here["type"] == number
            kind = self.types[number]
            values[chosen] = self.memory.view(kind)[:: 8 // kind.itemsize][part].double().numpy()[chosen]
        self.descriptions["series"][part] = 0
        self.bits[part] = _MARK
        self.free.extend(range(part.start, part.stop))
        self.next = part.stop % self.slots
        known = (here["series"] != 0) & (here["place"] != _NOWHERE)
        here = here[known]
        return Arrived(here["place"], here["time"], values[known], here["step"], here["series"])

    def _abandoned(self, taken: NDArray[np.bool_], *, ending: bool) -> int:
        """1 if the next slot was taken by a thread that an exception ended before it was described."""
        if taken[0] or not (taken.any() or self.descriptions["series"][: self.next].any()):
            self._looks = 0
            return 0
        self._looks += 1
        if self._looks <= _PATIENCE and not ending:
            return 0
        self._looks = 0
        return 1

    def waiting(self) -> NDArray[np.bool_]:
        """Which slots have a value on its way, or one that was not taken yet."""
        on_its_way: NDArray[np.bool_] = (self.descriptions["series"] != 0) & (self.descriptions["place"] != _NOWHERE)
        return on_its_way


def _prefix(good: NDArray[np.bool_]) -> int:
    return len(good) if good.all() else int(np.argmin(good))


class Arrivals:
    """What was logged while it was still on a GPU, until it is here.

    Args:
        slots: how many values can be on their way at once.
    """

    def __init__(self, slots: int = SLOTS) -> None:
        self._slots = slots
        self._lane: _Lane | None = None
        self._types: dict[Any, Any] = {}

    def holds(self, value: Any) -> bool:
        """Whether a tensor is where reading it would wait."""
        return bool(value.is_cuda)

    def begin(self, value: Any) -> Departure:
        """Have a tensor of one element brought here; returns at once.

        Args:
            value: on a GPU.

        Raises:
            IndexError: all slots are in use.
            Exception: whatever torch raises where it cannot be copied; the message says why.
        """
        if self._is_capturing():
            raise RuntimeError(
                "a CUDA graph is being captured, and a copy would become part of it; log its static output after each "
                "replay"
            )
        if value.dim() and value.numel() != 1:
            shape = tuple(value.shape)
            raise ValueError(f"a Tensor of shape {shape} has more than one element; log its .mean() or one element")
        kind = self._types.get(value.dtype) or self._type_for(value.dtype)
        if kind is not value.dtype:
            value = value.detach().to(kind)
        if value.dim():
            value = value.reshape(())
        lane = self._lane
        if lane is None:
            lane = self._lane = _Lane(self._memory())
        number, views = lane.views.get(kind) or lane.views_of(kind)
        slot = lane.free.popleft()
        try:
            self._copy(views[slot], value)
        except BaseException:
            lane.bits[slot] = 0
            lane.describe(slot, _NOWHERE, 0.0, 0, 1, number)
            raise
        return lane, slot, number

    @staticmethod
    def describe(departure: Departure, place: int | None, now: float, step: int, series: int) -> None:
        """Say what the value will be; until then it does not arrive.

        Args:
            departure: as :meth:`begin` gave it.
            place: where in the recorder's buffer it belongs; ``None`` if there is no place for it.
            now: the point's time.
            step: as the recorder marks it.
            series: the series' id + 1.
        """
        lane, slot, number = departure
        lane.describe(slot, _NOWHERE if place is None else place, now, step, series, number)

    def arrived(self, *, ending: bool = False) -> Arrived | None:
        """What is here by now, if anything; for the recorder's thread.

        Args:
            ending: nothing is logged any more.
        """
        if self._lane is None:
            return None
        found = self._lane.arrived(ending=ending)
        return found if len(found) else None

    @property
    def waiting(self) -> int:
        """How many values are on their way."""
        return 0 if self._lane is None else int(np.count_nonzero(self._lane.waiting()))

    def expects(self, place: int) -> bool:
        """Whether a value is on its way to that place in the recorder's buffer."""
        lane = self._lane
        return lane is not None and bool((lane.waiting() & (lane.descriptions["place"] == place)).any())

    def release_places(self) -> NDArray[np.int64]:
        """Keep no place for what is on its way any longer; the places that were kept."""
        if self._lane is None:
            return np.empty(0, np.int64)
        places = self._lane.descriptions["place"]
        late = self._lane.waiting() & (places != LATE)
        released: NDArray[np.int64] = places[late]
        places[late] = LATE
        return released

    def give_up(self) -> int:
        """Forget what is on its way; how many values that are.

        Its slots are left to the GPU, which may write to them yet: torch keeps pinned memory until then.
        """
        lost = self.waiting
        self._lane = None
        return lost

    def _type_for(self, kind: Any) -> Any:
        if kind.is_complex:
            raise TypeError("a number is needed, not a complex one; log its .abs()")
        known = str(kind).removeprefix("torch.") in _SIZES
        arrives = self._types[kind] = kind if known else sys.modules["torch"].float64
        return arrives

    # -- what only a GPU can do: tests without one stand in for these three

    def _memory(self) -> Any:
        torch: Any = sys.modules["torch"]
        return torch.empty(self._slots, dtype=torch.float64, pin_memory=True)

    def _is_capturing(self) -> bool:
        return bool(sys.modules["torch"].cuda.is_current_stream_capturing())

    def _copy(self, slot: Any, value: Any) -> None:
        slot.copy_(value.detach(), non_blocking=True)


Departure = tuple[_Lane, int, int]
