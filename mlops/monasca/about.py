"""What ``run.json`` says of a run, as one measurement: so that a run can be read back where its folder is not.

It is the only measurement of the metric ``mlops.run`` with the run's ``run_id``, at the moment at which the
run began; telling more later replaces it.  Its value is the outcome's number in :data:`STATES`, and its
``value_meta`` has the rest, as far as the API takes it: at most 16 entries and 2048 characters in all.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from typing import Any, Final

from mlops.store import OUTCOMES, RUNNING, RunInfo

__all__ = ["RUN_METRIC", "STATES", "info_of", "meta_of"]

RUN_METRIC: Final = "mlops.run"
STATES: Final = (RUNNING, *OUTCOMES)

MOST_CHARACTERS: Final = 2048
"""Of value_meta as JSON (monasca_common.validation)."""
_ROOM: Final = 2000

_PLAIN: Final[Mapping[str, int]] = {"name": 600, "outcome": 20, "host": 300, "git_commit": 100, "reason": 300}
"""Texts, and how many of those characters each may take: a letter that JSON escapes takes six or twelve."""
_TABLES: Final = ("dimensions", "parameters", "notes", "versions")
"""In the order of what is missed most: the last ones are cut first."""


def meta_of(info: RunInfo) -> dict[str, str]:
    """A run's facts as texts that fit into a measurement; ``cut`` names the tables of which not all does."""
    meta = {"started": repr(info.started)}
    if info.ended is not None:
        meta["ended"] = repr(info.ended)
    for key, room in _PLAIN.items():
        if text := _fitting(str(getattr(info, key)), room):
            meta[key] = text
    cut = []
    for key in _TABLES:
        table: dict[str, Any] = {}
        for name, value in getattr(info, key).items():
            wider = {**table, name: value}
            if _size({**meta, key: _json(wider), "cut": ",".join(_TABLES)}) > _ROOM:
                cut.append(key)
                break
            table = wider
        if table:
            meta[key] = _json(table)
    if cut:
        meta["cut"] = ",".join(cut)
    return meta


def info_of(run_id: str, meta: Mapping[str, str]) -> RunInfo:
    """The run that a measurement tells about; what it does not say is empty.

    Raises:
        ValueError, TypeError: it does not say when the run began, or something that is none of ours.
    """
    content: dict[str, Any] = {key: meta[key] for key in _PLAIN if key in meta}
    content.update({key: float(meta[key]) for key in ("started", "ended") if key in meta})
    content.update({key: json.loads(meta[key]) for key in _TABLES if key in meta})
    if not all(math.isfinite(content.get(key, 0.0)) for key in ("started", "ended")):
        raise ValueError("a time is none")
    content.setdefault("name", run_id)
    content.setdefault("outcome", RUNNING)
    info = RunInfo.from_json({"id": run_id, **content})
    if cut := meta.get("cut"):
        info.notes["cut"] = cut
    return info


def _json(table: Mapping[str, Any]) -> str:
    return json.dumps(dict(_plain(table)), separators=(",", ":"))


def _plain(table: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for key, value in table.items():
        number = isinstance(value, float) and not math.isfinite(value)
        yield str(key), str(value) if number else value


def _size(meta: Mapping[str, str]) -> int:
    return len(json.dumps(meta))


def _fitting(text: str, room: int) -> str:
    """On one line, and as much of it as takes so many characters in JSON."""
    clean = "".join(letter if letter.isprintable() else " " for letter in text.encode("utf-8", "replace").decode())
    clean = clean[:room]
    while len(json.dumps(clean)) - 2 > room:
        clean = clean[:-1]
    return clean.strip()
