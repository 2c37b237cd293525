"""What a host's own agent measured of a run's GPUs: its ``nvidia.*`` series, found by ``uuid``.

A job in a container may not see the meters of its GPUs while the host's agent does (StackHPC's plugin of the
monasca-agent).  Where a run notes a GPU and recorded nothing of it, the host's readings stand in, under the
names that the run would have used and in the same units (see :data:`mlops.series.METRICS`).
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from mlops.errors import SeriesError
from mlops.monasca.client import Monasca
from mlops.monasca.listing import metric_names
from mlops.monasca.measurements import LAST, Measurements
from mlops.monasca.parsing import Line
from mlops.report import words
from mlops.series import METRICS, Series, check_dimensions
from mlops.store import RunInfo

__all__ = ["Borrowed", "borrowed"]

_KEY: Final = "uuid"
_OWN: Final = "gpu."
_PLAIN: Final = re.compile(r"[A-Za-z0-9_-]+")
"""Values of which the API can be asked for several at once: it puts them into a regular expression as they are."""


@dataclass(frozen=True, slots=True)
class Borrowed:
    """A host's series, as if the run had recorded them.

    Attributes:
        hostname: of the host; empty where its agent does not say.
        label: whose they are.
        lines: the series as the run would have named them, and their points.
        meters: notes of the GPUs metered, as a run makes them.
        remark: what a reader must know, in a sentence.
    """

    hostname: str
    label: str
    lines: list[tuple[Series, Line]]
    meters: list[dict[str, str]]
    remark: str


def borrowed(monasca: Monasca, info: RunInfo, lines: Sequence[Line]) -> list[Borrowed]:
    """What hosts' agents measured of the run's GPUs while it ran, for those that it recorded nothing of itself.

    Args:
        monasca: where.
        info: of the run.
        lines: the run's own series, as sent.

    Raises:
        CloudError: as :meth:`mlops.monasca.Monasca.get` raises it.
    """
    own = {line.dimensions.get(_KEY) for line in lines if line.name.startswith(_OWN)}
    wanted = [uuid for uuid in _noted(info, lines) if uuid not in own]
    start, end = _span(info, lines)
    if not wanted or end <= start:
        return []
    own_names = {entry.host_name: name for name, entry in METRICS.items() if entry.host_name}
    best: dict[tuple[str, str], Line] = {}
    for asked in _queries(wanted):
        names = [name for name in metric_names(monasca, {_KEY: asked}) if name in own_names]
        for line in Measurements(monasca, {_KEY: asked}, start=start, end=end).read(names).lines:
            key = (line.dimensions.get(_KEY, ""), line.name)
            if key[0] in wanted and len(line) > len(best.get(key, ())):  # of several values the API gives more
                best[key] = line
    hosts: dict[str, list[tuple[str, Series, Line]]] = {}
    for (uuid, name), line in sorted(best.items()):
        series = Series.of(own_names[name], {_KEY: uuid})
        hosts.setdefault(line.dimensions.get("hostname", ""), []).append((uuid, series, line))
    return [_of_host(hostname, found, info) for hostname, found in hosts.items()]


def _of_host(hostname: str, found: Sequence[tuple[str, Series, Line]], info: RunInfo) -> Borrowed:
    products = {str(meter.get("id")): str(meter.get("name") or "") for meter in _meters(info)}
    uuids = list(dict.fromkeys(uuid for uuid, _, _ in found))
    agent = f"the agent of {hostname}" if hostname else "a host's agent"
    meters = [
        {"device": "gpu", "id": uuid, "name": f"{products.get(uuid) or 'GPU'} (read by {agent})", "method": "power"}
        for uuid in uuids
    ]
    remark = (
        f"The readings of {words.count(len(uuids), 'GPU')} ({words.listed(uuids)}) are not the run's own: they come "
        f"from {agent}, which publishes them as nvidia.*."
    )
    lines = [(series, line) for _, series, line in found]
    return Borrowed(hostname, f"nvidia.* of {agent}", lines, meters, remark)


def _noted(info: RunInfo, lines: Sequence[Line]) -> list[str]:
    """The GPUs that a run noted, in its meters or in its series' dimensions."""
    ids = [str(meter.get("id", "")) for meter in _meters(info) if meter.get("device") == "gpu"]
    ids += [line.dimensions[_KEY] for line in lines if _KEY in line.dimensions]
    return [uuid for uuid in dict.fromkeys(ids) if _can_be_asked_for(uuid)]


def _meters(info: RunInfo) -> list[dict[str, Any]]:
    meters = info.notes.get("meters")
    return [meter for meter in meters if isinstance(meter, dict)] if isinstance(meters, list) else []


def _span(info: RunInfo, lines: Sequence[Line]) -> tuple[int, int]:
    """When the run ran, in milliseconds since the epoch; the end is not included."""
    last = max((int(line.time[-1]) for line in lines), default=0)
    end = last if info.ended is None else math.ceil(info.ended * 1000)
    return math.floor(info.started * 1000), min(end + 1, LAST)


def _queries(uuids: Sequence[str]) -> Iterator[str]:
    """What to ask for: plain values together, others one by one."""
    plain = [uuid for uuid in uuids if _PLAIN.fullmatch(uuid)]
    if plain:
        yield "|".join(plain)
    yield from (uuid for uuid in uuids if uuid not in plain)


def _can_be_asked_for(uuid: str) -> bool:
    try:
        return check_dimensions({_KEY: uuid}) == {_KEY: uuid}
    except SeriesError:
        return False
