"""The power of each device over time, and of several together."""

from __future__ import annotations

from typing import Any

import numpy as np

from mlops.report import words
from mlops.report.meters import POWER_SUFFIX
from mlops.report.subjects import Subject
from mlops.report.view import Line

__all__ = ["power_lines", "together"]


def power_lines(subject: Subject) -> list[tuple[str, Line]]:
    """The power of each device that recorded any, with a name; from its energy where it recorded that only."""
    view = subject.view
    rows: dict[tuple[str, str], list[Any]] = {}
    for name in view.names():
        device = name.removesuffix(POWER_SUFFIX)
        if name == device + POWER_SUFFIX and "." not in device:
            for number in view.numbers(name):
                dimensions = dict(view.series(number).dimensions)
                dimensions.pop("method", None)
                rows.setdefault((device, dimensions.get("uuid") or ",".join(dimensions.values())), []).append(
                    view.rows(number)
                )
    found = {key: view.line(np.sort(np.concatenate(parts))).finite() for key, parts in rows.items()}
    for curve in subject.meters:
        step = np.diff(curve.time)
        if (curve.device, curve.id) not in found and (step > 0).any():
            good = step > 0
            watts = np.diff(curve.joules)[good] / step[good]
            found[curve.device, curve.id] = Line(curve.time[1:][good], watts)
    names = {"gpu": "GPU", "host": "CPU"}
    counts: dict[str, int] = {}
    lines = []
    for device, ident in sorted(found):
        number = counts[device] = counts.get(device, -1) + 1
        several = sum(1 for other, _ in found if other == device) > 1
        kind = names.get(device, words.shorten(device, 20))
        if len(found[device, ident]):
            lines.append((f"{kind} {number}" if several else kind, found[device, ident]))
    return lines


def together(lines: list[Line]) -> Line:
    """Several powers added up; each counts from its first reading to its last."""
    if len(lines) == 1:
        return lines[0]
    time = np.unique(np.concatenate([line.time for line in lines]))
    value = np.sum([np.interp(time, line.time, line.value, left=0.0, right=0.0) for line in lines], axis=0)
    return Line(time, value)
