"""A hundred thousand nasty names, dimensions and values through our rules, judged by the real Monasca.

Hypothesis makes them: reserved words, control and half characters, escapes, text of all scripts, the longest
and the emptiest, numbers of all types and things that only look like numbers.  Half go by way of the recorder, half
as if they stood in a file that knew no rule.  What our rules let through, as it is or mended, is judged on both
roads: the datagrams by the agent's own parser, the JSON by the real API, the real persister's code and a
real InfluxDB, out of which each point must come back with its name, dimensions, time, value and step.  Of the first
ones, 5,000 then travel through a whole running Monasca, and are asked for by name and dimensions.
"""

from __future__ import annotations

import json
import logging
import os
import tempfile
import time
import urllib.parse
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, Final
from unittest import mock

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from benchmarks._figures import Figure
from mlops.sinks import open_sink
from tests.nasty import Example, Outcome, examples, expected_of, through
from tests.testbed.agent import HOSTNAME
from tests.testbed.datagrams import Line, parse
from tests.testbed.judge import Judge
from tests.testbed.monasca import Monasca
from tests.testbed.monasca.judge import ChainJudge, Judgement, Stored
from tests.testbed.processes import Process

__all__ = ["run"]

EXAMPLES: Final = int(os.environ.get("MLOPS_BENCH_FUZZ_EXAMPLES", "100000"))
SEED: Final = int(os.environ.get("MLOPS_BENCH_FUZZ_SEED", "1"))
SAMPLE: Final = min(5000, EXAMPLES // 4)
BATCH: Final = 500
TOGETHER: Final = 20
"""Examples that Hypothesis makes at once, which is three times as fast as one by one."""
LOOK: Final = 20
"""One batch in so many is listed as dashboards list."""
SHOWN: Final = 5
URL_TAKES: Final = 3500
"""Bytes of a query that gunicorn lets through."""
WAIT_SECONDS: Final = 300.0
STILL_SECONDS: Final = 10.0
"""The agent flushes every second, its forwarder every four."""
COMPLAINTS: Final = ("Error receiving datagram", " 422", "not supported", "invalid")


class _Faults:
    """What went wrong, by kind; the first ones of each are printed."""

    def __init__(self) -> None:
        self.counts: dict[str, int] = {}

    def add(self, kind: str, what: str) -> None:
        self.counts[kind] = self.counts.get(kind, 0) + 1
        if self.counts[kind] <= SHOWN:
            print(f"  {kind}: {what!a:.600}", flush=True)

    def figure(self, kind: str, unit: str = "points") -> Figure:
        return Figure(kind, self.counts.get(kind, 0), unit, most=0)


REFUSED: Final = "refused after us"
MANGLED: Final = "died or mangled in the persister"
MALFORMED: Final = "malformed or mangled at the agent"
UNLISTED: Final = "not listed or found as sent by the API"
CHANGED: Final = "changed though our rules took it as it is"
BROKEN: Final = "errors and messages of ours that are none of ours"
LOST: Final = "of the sample, not read back as sent"
ENDED: Final = "parts of the real chain that ended"
COMPLAINED: Final = "complaints in the agent's logs"


def run() -> list[Figure]:
    """Judge all, then send the sample."""
    faults, total = _Faults(), Outcome()
    travelling: list[Outcome] = []
    logging.getLogger("mlops").setLevel(logging.CRITICAL)
    with tempfile.TemporaryDirectory() as folder, ChainJudge(Path(folder)) as chain, Judge() as agent:
        for number, batch in enumerate(_batches(EXAMPLES)):
            outcome = through(batch, recorded=number % 2 == 0)
            _judge(outcome, chain, agent, faults, looking=number % LOOK == 0)
            total.add(outcome)
            if sum(len(expected_of(one.bodies)) for one in travelling) < SAMPLE:
                travelling.append(outcome)
    for what in total.broken:
        faults.add(BROKEN, what)
    for what in total.changed:
        faults.add(CHANGED, what)
    with tempfile.TemporaryDirectory() as folder:
        back, arrived = _travel(Path(folder), travelling, faults)
    return [
        Figure("examples", total.accepted + total.mended + total.refused, "examples", least=EXAMPLES),
        Figure("taken as they are", total.accepted, "points"),
        Figure("taken mended", total.mended, "points"),
        Figure("refused by us", total.refused, "points"),
        *(faults.figure(kind) for kind in (REFUSED, MANGLED, MALFORMED, UNLISTED, CHANGED)),
        faults.figure(BROKEN, "errors"),
        Figure("of the sample, read back by name and dimensions", back, "points", least=SAMPLE),
        faults.figure(LOST),
        Figure("series of the sample that came by way of the agent", arrived, "series"),
        faults.figure(ENDED, "parts"),
        faults.figure(COMPLAINED, "lines"),
    ]


def _batches(count: int) -> Iterator[list[Example]]:
    """So many examples, the same for the same seed; all made first, since Hypothesis calls and is not called."""
    made: list[Example] = []

    @settings(
        max_examples=-(-count // TOGETHER),
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(st.lists(examples(), min_size=TOGETHER, max_size=TOGETHER))
    def collect(some: list[Example]) -> None:
        made.extend(some)

    seed(SEED)(collect)()
    for place in range(0, count, BATCH):
        yield made[place : min(place + BATCH, count)]


def _judge(outcome: Outcome, chain: ChainJudge, agent: Judge, faults: _Faults, *, looking: bool) -> None:
    bodies = outcome.bodies
    if looking:  # the API cannot look into two series of one name of which one has all dimensions of the other
        bodies = list({json.loads(body)["name"]: body for body in bodies}.values())
    verdict = chain.judge(bodies, looking=looking)
    for kind, verdicts in ((REFUSED, verdict.refused), (MANGLED, verdict.died), (UNLISTED, verdict.unfound)):
        for body, problem in zip(bodies, verdicts, strict=True):
            if problem:
                faults.add(kind, f"{problem} {body}")
    _compare(bodies, verdict, faults)
    for datagram, (problem, taken) in zip(outcome.datagrams, agent.judge(outcome.datagrams), strict=True):
        if problem or sorted(map(_plain, parse(datagram))) != sorted((one[0], one[1], _own(one[2])) for one in taken):
            faults.add(MALFORMED, f"{problem} {datagram!r}")


def _compare(bodies: Sequence[str], verdict: Judgement, faults: _Faults) -> None:
    """What is stored and listed with what was sent."""
    expected = {Stored.expected(body) for body in expected_of(bodies).values()}
    for one in expected - verdict.stored:
        faults.add(MANGLED, f"not stored: {one}")
    for one in verdict.stored - expected:
        faults.add(MANGLED, f"never sent: {one}")
    if verdict.unlisted:
        faults.add(UNLISTED, verdict.unlisted)
    else:
        for series in verdict.listed ^ {(one.name, one.dimensions) for one in expected}:
            faults.add(UNLISTED, str(series))


def _plain(line: Line) -> tuple[str, float, list[tuple[str, str]]]:
    return line.name, line.value, _own(line.dimensions)


def _own(dimensions: dict[str, str]) -> list[tuple[str, str]]:
    """Those that the agent has not added."""
    return sorted(pair for pair in dimensions.items() if pair not in {("hostname", "judge"), ("hostname", HOSTNAME)})


# -- the real chain -------------------------------------------------------------------------------


def _travel(folder: Path, outcomes: Sequence[Outcome], faults: _Faults) -> tuple[int, int]:
    """Send the sample on both roads; how many points came back, and how many series by way of the agent."""
    expected = {one.points[0].run.id: expected_of(one.bodies) for one in outcomes}
    count = sum(map(len, expected.values()))
    with Monasca(folder / "monasca", say=_quiet) as monasca, mock.patch.dict(os.environ, monasca.environ()):
        pids = {name: process.pid for name, process in _parts(monasca).items()}
        sink, statsd = open_sink(monasca.url), open_sink(f"{monasca.statsd_url}?max_bytes=8192")
        for points in (points for outcome in outcomes for points in outcome.points):
            sink.write(points)
            statsd.write(points)
        statsd.close(120)
        if sink.sent != sum(len(one.bodies) for one in outcomes):
            faults.add(LOST, f"the sink sent {sink.sent} points")
        deadline = time.monotonic() + WAIT_SECONDS
        while sum(map(monasca.stored, expected)) < count and time.monotonic() < deadline:
            time.sleep(0.5)
        back = sum(_read_back(monasca, found.values(), faults) for found in expected.values())
        arrived = _by_way_of_the_agent(monasca)
        for name, process in _parts(monasca).items():
            if process.pid is None or process.pid != pids[name]:
                faults.add(ENDED, f"{name}: {process.last_words()[-500:]}")
    for log in sorted((folder / "monasca" / "agent").glob("*.log")):
        for line in log.read_text("utf-8", "replace").splitlines():
            if any(complaint in line for complaint in COMPLAINTS):
                faults.add(COMPLAINED, line)
    lines = (line for one in outcomes for datagram in one.datagrams for line in parse(datagram))
    for stranger in arrived - {(line.name, *_own(line.dimensions)) for line in lines}:
        faults.add(MALFORMED, f"never sent: {stranger}")
    return back, len(arrived)


def _by_way_of_the_agent(monasca: Monasca) -> set[tuple[Any, ...]]:
    """Names and dimensions of what came on that road, once no more comes.

    Not all does: new series that come while the agent flushes cost it the whole flush.
    """
    query = "select last(value) from /.*/ where run='fuzz' and run_id='' group by *"
    count, found = -1, monasca.influx(query)
    while len(found) != count:
        count = len(found)
        time.sleep(STILL_SECONDS)
        found = monasca.influx(query)
    mine = []
    for series in found:
        own = {key: text for key, text in series["tags"].items() if text and not key.startswith("_")}
        mine.append((series["name"], *_own(own)))
    return set(mine)


def _read_back(monasca: Monasca, bodies: Iterable[str], faults: _Faults) -> int:
    """Ask for each series by its name and all its dimensions; how many of these points came as they were sent."""
    wanted: dict[tuple[str, tuple[tuple[str, str], ...]], set[Stored]] = {}
    for one in map(Stored.expected, bodies):
        wanted.setdefault((one.name, one.dimensions), set()).add(one)
    back = 0
    for (name, pairs), points in wanted.items():
        dimensions = dict(pairs)
        if len(urllib.parse.quote(f"{name}{dimensions}")) > URL_TAKES:
            dimensions = {"run_id": dimensions["run_id"]}
        found = set()
        for own, rows in monasca.measurements(name, dimensions):
            has = {key: text for key, text in own.items() if text}  # what only others of that name have is empty
            found |= {Stored.of(name, has, _milliseconds(when), value, meta) for when, value, meta in rows}
        for lost in points - found:
            faults.add(LOST, str(lost))
        back += len(points & found)
    return back


def _milliseconds(text: str) -> int:
    return round(datetime.fromisoformat(text).timestamp() * 1000)


def _parts(monasca: Monasca) -> dict[str, Process]:
    parts = [monasca.keystone, monasca.broker, monasca.influxdb, monasca.api, monasca.persister]
    if monasca.agent is not None:
        parts += [monasca.agent.statsd, monasca.agent.forwarder]
    return {part.name: part for part in parts}


def _quiet(line: str) -> None:
    """Say nothing."""
