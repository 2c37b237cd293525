"""The sink against the real agent: its parser, its daemon and its forwarder."""

from __future__ import annotations

import itertools
import json
import logging
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import mlops
from mlops.record import read_run
from mlops.series import Series
from mlops.sinks import RunIdentity
from mlops.sinks.statsd import SUFFIXES, StatsdSink
from mlops.store import RunFolder
from tests.sinks.helpers import Nowhere, Offer, Table
from tests.testbed.agent import HOSTNAME, Agent
from tests.testbed.cloud import Measurement
from tests.testbed.datagrams import closed_port, parse
from tests.testbed.judge import Judge

pytestmark = pytest.mark.slow
Wait = Callable[[Callable[[], object]], None]

TEXT = st.text(min_size=1, max_size=30)
VALUES = st.floats()


# -- its parser -------------------------------------------------------------------------------------


@given(
    name=TEXT,
    rank=st.none() | st.integers(0, 4096),
    dimensions=st.dictionaries(TEXT, TEXT, max_size=6),
    values=st.lists(st.tuples(st.text(max_size=260), st.dictionaries(TEXT, TEXT, max_size=2), VALUES), max_size=12),
    most=st.sampled_from([256, 1432, 8192]),
)
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_agent_takes_every_line(
    judge: Judge,
    name: str,
    rank: int | None,
    dimensions: dict[str, str],
    values: list[tuple[str, dict[str, str], float]],
    most: int,
) -> None:
    """Whatever names, dimensions and values are made of, the agent refuses no line and changes none."""
    sink = StatsdSink("nowhere.invalid", lookup=Nowhere(), max_bytes=most)
    table = Table(RunIdentity("id-1", name, dimensions, "node-1", rank))
    sink.write(table.of((Series.of(metric, own), value) for metric, own, value in values))
    datagrams = [datagram.payload for datagram in sink._connection.packed]
    assert all(len(datagram) <= most for datagram in datagrams)
    for datagram, verdict in zip(datagrams, judge.judge(datagrams), strict=True):
        assert verdict.problem == ""
        assert verdict.taken == [(line.name, line.value, line.dimensions) for line in parse(datagram)]
    assert sum(map(len, map(parse, datagrams))) == len(SUFFIXES) * len(sink._windows) - _left_out(sink)


def _left_out(sink: StatsdSink) -> int:
    """Derived names that the user's own have taken the place of."""
    return sum((name + suffix, key) in sink._windows for name, key in sink._windows for suffix in SUFFIXES[1:])


def test_the_judge_refuses_what_the_agent_refuses(judge: Judge) -> None:
    """The verdict is the agent's: a bad line is found, and what it takes with it."""
    good, bad = b"a:1|g|#{'run': 'x'}", b"a b:1|g|#{'run': 'x'}"
    (taken, refused, cut) = judge.judge([good, bad + b"\n" + good, b"a" * 8200 + b":1|g"])
    assert taken.problem == ""
    assert taken.taken == [("a", 1, {"run": "x"})]
    assert "invalid characters in metric name" in refused.problem
    assert refused.taken == []
    assert "Unparseable" in cut.problem


# -- its daemon and its forwarder -------------------------------------------------------------------


def by_name(measurements: list[Measurement]) -> dict[str, list[float]]:
    """The values of each metric, in order of arrival."""
    found = defaultdict(list)
    for one in measurements:
        found[one.name].append(one.value)
    return dict(found)


def test_a_run_arrives_exactly(agent: Agent, runs_dir: Path, monkeypatch: pytest.MonkeyPatch, wait_until: Wait) -> None:
    """Over several intervals every summary arrives: names, values and dimensions are those of the points logged."""
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("MLOPS_EVERY_RANK", "1")
    sinks = [f"{agent.url}?interval=2.2"]  # so that no second of the agent's gets two summaries of ours
    dimensions = {"run": "exact", "rank": "1"}
    with mlops.Run("exact", dimensions={"team": "vision"}, sinks=sinks, devices=[], runs_dir=runs_dir) as run:
        power = run.series("gpu.power_watts", {"uuid": "GPU-1"})
        for step in range(3):
            for batch in range(40):
                run.log({"train.loss": 1 / (1 + step * 40 + batch), "train.lr": 1e-3})
                power(250.0 + batch)
            arrived = (step + 1) * 40
            wait_until(
                lambda arrived=arrived: (  # type: ignore[misc]
                    sum(by_name(agent.cloud.measurements(**dimensions)).get("train.loss.count", [])) == arrived
                )
            )
        run.log({"valid.loss": 0.25, "train.loss": float("nan")})
    agent.cloud.wait_for("valid.loss.count", **dimensions)
    (sink,) = run.sinks
    assert (sink.sent, sink.dropped) == (362, 1)  # with mlops.not_finite_points, which tells of the dropped one

    measurements = agent.cloud.measurements(**dimensions)
    common = {"hostname": HOSTNAME, "rank": "1", "run": "exact", "team": "vision"}
    for one in measurements:
        own: dict[str, str] = {}
        if one.name.startswith("gpu."):
            own = {"uuid": "GPU-1"}
        elif one.name.startswith("mlops."):
            own = {"metric": "train.loss"}
        assert one.dimensions == common | own
    names = ("train.loss", "train.lr", "gpu.power_watts", "valid.loss", "mlops.not_finite_points")
    values = by_name(measurements)
    assert set(values) == {name + suffix for name, suffix in itertools.product(names, SUFFIXES)}
    record = read_run(RunFolder(run.dir))
    for name in names:
        ((_, columns),) = record.find(name)
        points = [value for value in columns.value.tolist() if value == value]  # noqa: PLR0124 - not nan
        assert sum(values[f"{name}.count"]) == len(points)
        position = 0
        for row in zip(*(values[name + suffix] for suffix in SUFFIXES), strict=True):
            window = points[position : position + int(row[-1])]
            position += len(window)
            assert row == (window[-1], pytest.approx(sum(window) / len(window)), min(window), max(window), len(window))


def test_a_burst_of_series_reaches_the_daemon_whole(tmp_path: Path, say: Callable[[str], None]) -> None:
    """At our pace its socket never overflows: 400 series at once are 2000 lines, and it reads all of them."""
    with Agent(tmp_path / "agent", say=say) as agent:
        sink = StatsdSink("127.0.0.1", agent.port)
        offer = Offer(sink)
        offer.write(*((f"layer.{number}.gradient_norm", number / 7) for number in range(400)))
        sink.close(30)
        assert (sink.sent, sink.dropped) == (400, 0)
        assert len(agent.tap.wait_for_lines(2000)) == 2000
        assert agent.kernel_drops() == 0
        lengths = [len(datagram) for datagram in agent.tap.datagrams()]
        assert 1300 < sorted(lengths)[len(lengths) // 2] <= max(lengths) <= 1432


def test_an_agent_killed_midway_is_found_again(
    new_agent: Agent, runs_dir: Path, caplog: pytest.LogCaptureFixture, wait_until: Wait
) -> None:
    """Training goes on, there is one warning, what was missed is counted, and the rest arrives after the restart."""
    caplog.set_level(logging.INFO, "mlops")
    dimensions = {"run": "killed"}
    with mlops.Run("killed", sinks=[f"{new_agent.url}?interval=1.1"], devices=[], runs_dir=runs_dir) as run:
        (sink,) = run.sinks
        logged = 0

        def log_until(condition: Callable[[], object]) -> Callable[[], bool]:
            def logging_on() -> bool:
                nonlocal logged
                run.log({"train.loss": float(logged)})
                logged += 1
                return bool(condition())

            return logging_on

        wait_until(log_until(lambda: new_agent.cloud.measurements(**dimensions)))
        new_agent.statsd.kill()
        wait_until(log_until(lambda: sink.dropped))
        new_agent.statsd.start()
        sent = sink.sent
        wait_until(log_until(lambda: sink.sent > sent))
        run.log({"train.loss": -1.0})
        logged += 1
    wait_until(lambda: -1.0 in by_name(new_agent.cloud.measurements(**dimensions))["train.loss"])
    assert sink.sent + sink.dropped == logged
    assert len(read_run(RunFolder(run.dir)).columns) == logged
    warnings = [record.message for record in caplog.records if record.levelno >= logging.WARNING]
    assert len(warnings) == 1
    assert f"{new_agent.url} takes nothing" in warnings[0]
    assert caplog.text.count("takes points again") == 1


def test_a_run_without_an_agent_ends_well(runs_dir: Path, caplog: pytest.LogCaptureFixture) -> None:
    """One warning that names the place and the remedy; every point is in the store, and none counts as sent."""
    url = f"statsd://127.0.0.1:{closed_port()}"
    with mlops.Run("alone", sinks=[url], devices=[], runs_dir=runs_dir) as run:
        for number in range(1000):
            run.log({"train.loss": float(number)})
    (sink,) = run.sinks
    assert (sink.sent, sink.dropped) == (0, 1000)
    assert len(read_run(RunFolder(run.dir)).columns) == 1000
    assert json.loads((run.dir / "run.json").read_text("utf-8"))["outcome"] == "finished"
    (record,) = caplog.records
    assert record.message.startswith(f"{url} takes nothing: ")
    assert "Start the monasca-agent on that host" in record.message


@pytest.fixture(autouse=True)
def no_threads_left() -> Iterator[None]:
    """Every run here ends its own threads."""
    import threading

    before = set(threading.enumerate())
    yield
    left = [thread for thread in set(threading.enumerate()) - before if thread.name.startswith("mlops")]
    assert left == []
