"""Values and times: which can be recorded, and which of these can be sent."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["EARLIEST", "LATEST", "as_number", "sendable"]

EARLIEST: Final = 0.0
LATEST: Final = 9_214_646_400.0
"""2262 begins; soon after, nanoseconds since the epoch, which InfluxDB counts, are beyond an int64."""
_NO_NUMBERS: Final = frozenset("MSUVm")
"""Kinds of numpy's dtypes: moments, bytes, texts, records, durations."""


def sendable(time: NDArray[np.float64], value: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Which points Monasca can keep: a finite value, and a time from 1970 to the end of 2261.

    Args:
        time: seconds since the epoch, of any shape.
        value: of the same shape.
    """
    import numpy as np

    with np.errstate(invalid="ignore"):
        return np.isfinite(value) & (time >= EARLIEST) & (time < LATEST)


def as_number(value: object) -> float:
    """A loggable value as a float: numbers, numpy scalars, tensors and arrays of one element.

    Integers above 2**53 and other numbers with more digits than a float has are rounded.

    Raises:
        TypeError: it is no number; the message says what it is and what to log instead.
        ValueError: it has more than one element, or no float is as large.
    """
    shape = getattr(value, "shape", None)
    if shape is not None and any(length != 1 for length in shape):
        kind = type(value).__name__
        raise ValueError(f"a {kind} of shape {tuple(shape)} has more than one element; log its .mean() or one element")
    item = getattr(value, "item", None)
    inner: Any = item() if callable(item) else value
    if _is_masked(value):
        raise TypeError("a number is needed, not one that is masked")
    if isinstance(inner, str | bytes | bytearray | memoryview) or inner is None:
        raise TypeError(f"a number is needed, not {'None' if inner is None else f'the text {inner!r:.60}'}")
    if getattr(getattr(value, "dtype", None), "kind", "") in _NO_NUMBERS:
        raise TypeError(f"a number is needed, not a {getattr(value, 'dtype', '')}")
    try:
        number = float(inner)
    except TypeError:
        raise TypeError(f"a number is needed, not a {type(value).__name__}") from None
    except OverflowError:
        raise ValueError(f"a {type(value).__name__} is too large for a float") from None
    if math.isinf(number) and inner != number:
        raise ValueError(f"a {type(value).__name__} is too large for a float")
    return number


def _is_masked(value: Any) -> bool:
    """Whether it is numpy's word for no value, of which ``item`` makes a number."""
    return type(value).__module__.startswith("numpy.ma") and bool(value.mask.any())
