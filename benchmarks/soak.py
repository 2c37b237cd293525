"""Ten minutes of a training with eight GPUs against a real monasca-agent: what of the summaries arrives.

The agent is the real one, at its real interval of 20 s; what is behind it only records.  Every summary
says in ``.count`` how many points it stands for, so that the counts that arrive must add up, series by
series, to the points that were logged: one summary that is lost, doubled or overwritten in the agent
shows.  (The run's last summary tells of the one before it too; where both
arrive, that one is left out.)  Every line that the agent's daemon has read is shown to the agent's own
parser.
"""

from __future__ import annotations

import os
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import mlops
from benchmarks._figures import Figure
from mlops.sinks._wire import AGENT_READS
from tests.testbed.agent import Agent
from tests.testbed.judge import Judge

__all__ = ["run"]

SECONDS = float(os.environ.get("MLOPS_BENCH_SOAK_SECONDS", "600"))
GPUS = 8
PER_GPU = (
    "gpu.power_watts",
    "gpu.energy_joules",
    "gpu.utilisation_percent",
    "gpu.memory_utilisation_percent",
    "gpu.memory_used_bytes",
    "gpu.memory_total_bytes",
    "gpu.temperature_celsius",
    "gpu.memory_temperature_celsius",
    "gpu.power_limit_watts",
    "gpu.sm_clock_hertz",
    "gpu.memory_clock_hertz",
    "gpu.throttle_reasons",
)
BATCH = ("train.loss", "train.smooth_loss", "train.lr")
BATCHES_PER_SECOND = 20
AGENT_SECONDS = 20


def run() -> list[Figure]:
    """Log for ten minutes, then count what came."""
    with tempfile.TemporaryDirectory() as folder, Judge(print) as judge:
        with Agent(Path(folder) / "agent", interval=AGENT_SECONDS) as agent:
            logged = _train(Path(folder), agent.url)
            counts = _arrived(agent, logged)
            datagrams = agent.tap.datagrams()
            drops = agent.kernel_drops()
        verdicts = judge.judge([datagram for datagram in datagrams if datagram.strip()])
        refused = sum(bool(verdict.problem) for verdict in verdicts)
    missing = sum(logged[series] != counts[series] for series in logged)
    print(f"{len(logged)} series, {sum(logged.values())} points in {SECONDS:.0f} s; {len(datagrams)} datagrams")
    return [
        Figure("series", len(logged), "", least=99),
        Figure("series with an interval lost or doubled", missing, "", most=0),
        Figure("points told of by what arrived", 100 * sum(counts.values()) / sum(logged.values()), "%", least=100),
        Figure("datagrams with a line that the agent refuses", refused, "", most=0),
        Figure("datagrams that the kernel dropped", drops, "", most=0),
        Figure("largest datagram", max(map(len, datagrams)), "bytes", most=AGENT_READS),
    ]


def _train(folder: Path, url: str) -> Counter[str]:
    logged: Counter[str] = Counter()
    with mlops.Run("soak", devices=[], sinks=[url], runs_dir=folder / "runs") as opened:
        until = time.monotonic() + SECONDS
        gpus = threading.Thread(target=_sample, args=(opened, logged, until))
        gpus.start()
        number = 0
        while time.monotonic() < until:
            number += 1
            opened.log({name: number / (1 + place) for place, name in enumerate(BATCH)})
            logged.update(BATCH)
            time.sleep(1 / BATCHES_PER_SECOND)
        gpus.join()
        sink = opened.sinks[0]
    print(f"the sink says: {sink.sent} sent, {sink.dropped} dropped")
    return logged


def _sample(opened: mlops.Run, logged: Counter[str], until: float) -> None:
    """What a sampler of eight GPUs does, once a second."""
    put: dict[str, Callable[[float], None]] = {}
    for gpu in range(GPUS):
        uuid = f"GPU-{gpu:08x}-0000-4000-8000-000000000000"
        put.update({f"{name}/{uuid}": opened.series(name, {"uuid": uuid}) for name in PER_GPU})
    while time.monotonic() < until:
        for place, (key, log) in enumerate(put.items()):
            log(300.0 + place)
            logged[key] += 1
        time.sleep(1.0)


def _arrived(agent: Agent, logged: Counter[str]) -> Counter[str]:
    """The points that the arrived summaries stand for, by the time at which they add up, or do not for long."""
    deadline = time.monotonic() + 2.5 * AGENT_SECONDS
    while (counts := _counts(agent, logged)) != logged and time.monotonic() < deadline:
        time.sleep(1.0)
    return counts


def _counts(agent: Agent, logged: Counter[str]) -> Counter[str]:
    found: dict[str, list[int]] = {}
    for one in agent.cloud.measurements(run="soak"):
        if one.name.endswith(".count"):
            uuid = one.dimensions.get("uuid")
            name = one.name.removesuffix(".count")
            found.setdefault(f"{name}/{uuid}" if uuid else name, []).append(round(one.value))
    counts: Counter[str] = Counter()
    for series, summaries in found.items():
        total = sum(summaries)
        wider = len(summaries) > 1 and total - summaries[-2] == logged[series]
        counts[series] = logged[series] if wider else total
    return counts
