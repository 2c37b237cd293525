"""Numbers, times and names as people read them; everything the same on every machine, in UTC."""

from __future__ import annotations

import datetime as dt
import math
import unicodedata
from collections.abc import Sequence
from typing import Final

__all__ = [
    "clean",
    "count",
    "duration",
    "energy",
    "listed",
    "metric_value",
    "not_metered",
    "number",
    "power",
    "shorten",
    "utc",
]

_MINUTE: Final = 60
_HOUR: Final = 3600
_DAY: Final = 86400


def clean(text: object) -> str:
    r"""A text of the user's own with every character that cannot be seen shown as its code, such as ``\u202e``.

    These are characters that hide, reorder or break the text around them, and what XML does not take.
    """
    plain = str(text)
    if plain.isprintable():
        return plain
    return "".join(character if _is_seen(character) else _code(character) for character in plain)


def _is_seen(character: str) -> bool:
    return character.isprintable() or unicodedata.category(character) == "Zs"


def _code(character: str) -> str:
    number = ord(character)
    return f"\\u{number:04x}" if number <= 0xFFFF else f"\\U{number:08x}"  # noqa: PLR2004 - Python's own notation


def shorten(text: object, most: int) -> str:
    """A cleaned text of at most that many characters; what was cut off is said."""
    whole = clean(text)
    if len(whole) <= most:
        return whole
    return f"{whole[:most]}… ({len(whole) - most:,} more characters)"


def number(value: float | None, digits: int = 4) -> str:
    """A number in a few significant digits, thousands parted by commas; ``–`` where there is none."""
    if value is None:
        return "–"
    if not math.isfinite(value):
        return "not a number" if math.isnan(value) else ("∞" if value > 0 else "−∞")
    size = abs(value)
    if size and (size >= 1e9 or size < 1e-4):  # noqa: PLR2004 - beyond what reads well in full
        mantissa, _, exponent = f"{value:.{digits - 1}e}".partition("e")
        return f"{mantissa}e{int(exponent)}".replace("-", "−")
    whole = len(str(int(size)))
    places = max(0, digits - whole) if size >= 1 else digits
    return f"{value:,.{places}f}".replace("-", "−")


def metric_value(name: str, value: float | None) -> str:
    """A metric's value: shares that are called accuracy as per cent, all else as a number."""
    if value is not None and "accuracy" in name and 0 <= value <= 1:
        return f"{100 * value:.4g} %"
    return number(value)


def count(amount: int, what: str, plural: str = "") -> str:
    """``1 epoch``, ``12 epochs``."""
    return f"{amount:,} {what if amount == 1 else plural or what + 's'}"


def duration(seconds: float | None) -> str:
    """``0.21 s``, ``48 s``, ``2 min 31 s``, ``5 h 04 min``, ``3 d 7 h``; ``–`` where it is unknown."""
    if seconds is None or not math.isfinite(seconds):
        return "–"
    if seconds < 10:  # noqa: PLR2004 - below, tenths matter
        return f"{seconds:.2f} s"
    if seconds < _MINUTE:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < _HOUR:
        return f"{whole // _MINUTE} min {whole % _MINUTE:02} s"
    if whole < _DAY:
        return f"{whole // _HOUR} h {whole % _HOUR // _MINUTE:02} min"
    return f"{whole // _DAY:,} d {whole % _DAY // _HOUR} h"


def energy(joules: float | None) -> str:
    """``512.0 J``, ``1.234 kJ``, ``12.30 MJ``; ``–`` where it is unknown."""
    return _scaled(joules, "J")


def power(watts: float | None) -> str:
    """``231.4 W``, ``2.400 kW``; ``–`` where it is unknown."""
    return _scaled(watts, "W")


def _scaled(value: float | None, unit: str) -> str:
    if value is None or not math.isfinite(value):
        return "–"
    for factor, prefix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= factor:
            return f"{number(value / factor)} {prefix}{unit}"
    return f"{number(value)} {unit}"


def utc(seconds: float | None) -> str:
    """``2026-11-22 23:41:51 UTC``; ``–`` where it is unknown or no date."""
    if seconds is None or not math.isfinite(seconds):
        return "–"
    try:
        moment = dt.datetime.fromtimestamp(seconds, tz=dt.UTC)
    except (OverflowError, ValueError, OSError):
        return f"{seconds:g} s since 1970"
    return f"{moment:%Y-%m-%d %H:%M:%S} UTC"


def not_metered(reasons: Sequence[str], whose: str = "Energy") -> str:
    """The plain sentence on energy that was not metered, and why; reasons are sentences themselves."""
    said = " ".join(f"{clean(reason).strip().rstrip('.')}." for reason in reasons)
    return f"{whose} not metered here: {said}"


def listed(parts: list[str]) -> str:
    """``a``, ``a and b``, ``a, b and c``."""
    return " and ".join(filter(None, [", ".join(parts[:-1]), parts[-1]])) if parts else ""
