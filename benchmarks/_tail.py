"""How long the slowest of a hundred calls of ``run.log`` takes, while its sinks are fed.

The calls are timed one by one, in the pace of a training.  Each step is one of a small network in PyTorch; then one
thing is timed: a call of ``run.log`` with one value, the floor (``deque.append((time(), id, value))``), or nothing,
whose median is what timing itself costs and is taken off the others.  What is timed finds the processor's caches as
the step has left them, as in a training, so that all of it takes several times as long as in a burst.  Then three more
values are logged, not timed.  A round is some thousand steps, in an order by chance; its ratio is that of its 99th
percentile to its median, and the rounds' median counts.
"""

from __future__ import annotations

import random
import statistics
import tempfile
from collections import deque
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from time import perf_counter_ns, time
from typing import Final

__all__ = ["Tail", "tails"]

ROUNDS: Final = 12
STEPS: Final = 2000


@dataclass(frozen=True, slots=True)
class Tail:
    """How long the calls of one kind took, medians over the rounds.

    Attributes:
        median: of the calls, microseconds.
        p99: their 99th percentile, microseconds.
        ratio: of the two.
    """

    median: float
    p99: float
    ratio: float


def tails() -> dict[str, Tail]:
    """Measure ``floor`` and ``run.log``, in a process of its own."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        rounds = pool.submit(_measure).result()
    return {name: _over([one[name] for one in rounds]) for name in rounds[0]}


def _over(rounds: list[tuple[float, float]]) -> Tail:
    return Tail(
        statistics.median(median for median, _ in rounds),
        statistics.median(p99 for _, p99 in rounds),
        statistics.median(p99 / median for median, p99 in rounds),
    )


def _measure() -> list[dict[str, tuple[float, float]]]:
    """The median and the 99th percentile of each kind, round by round."""
    import mlops
    from benchmarks.peers import listener

    step = _network()
    with tempfile.TemporaryDirectory() as text, listener() as port:
        sinks = [f"statsd://127.0.0.1:{port}?interval=1", "tensorboard:", "memory:"]
        with mlops.Run("tail", sinks=sinks, devices=[], runs_dir=Path(text)) as opened:
            _round(step, opened.log)  # once unmeasured
            return [_round(step, opened.log) for _ in range(ROUNDS)]


def _network() -> Callable[[], None]:
    """A step of a small network."""
    import torch
    from torch import nn

    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    inputs, targets = torch.randn(64, 64), torch.randint(0, 10, (64,))

    def step() -> None:
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(inputs), targets).backward()  # type: ignore[no-untyped-call] # torch's
        optimizer.step()

    return step


def _round(step: Callable[[], None], log: Callable[..., None]) -> dict[str, tuple[float, float]]:
    chance = random.Random(1)  # noqa: S311 - the same order every time
    kinds = chance.choices(("nothing", "floor", "run.log"), weights=(1, 1, 2), k=STEPS)
    append = deque[tuple[float, int, float]](maxlen=100_000).append
    spent: dict[str, list[int]] = {"nothing": [], "floor": [], "run.log": []}
    for number, kind in enumerate(kinds):
        step()
        value = number / STEPS
        if kind == "run.log":
            begin = perf_counter_ns()
            log({"train.loss": value})
            end = perf_counter_ns()
        elif kind == "floor":
            begin = perf_counter_ns()
            append((time(), 3, value))
            end = perf_counter_ns()
        else:
            begin = perf_counter_ns()
            end = perf_counter_ns()
        spent[kind].append(end - begin)
        log({"train.smooth_loss": value, "train.lr": value, "train.accuracy": value})
    timing = statistics.median(spent.pop("nothing"))
    return {kind: _median_and_p99(spans, timing) for kind, spans in spent.items()}


def _median_and_p99(spans: list[int], timing: float) -> tuple[float, float]:
    """In microseconds, without what timing costs."""
    return (statistics.median(spans) - timing) / 1e3, (statistics.quantiles(spans, n=100)[98] - timing) / 1e3
