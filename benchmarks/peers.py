"""What one logged scalar costs the thread that trains, beside what else one could log it with.

Every peer runs in a process of its own, so that none is warmed or slowed by another.  All
processes are started first and then measured in turn, round by round; in each round a process
times a burst of the floor (``deque.append((time(), id, value))``) and a burst of its peer right
after it.  A peer's figure is the median over the rounds, its ratio the median of the rounds' ratios,
since the machine's speed changes from one second to the next.

How much longer than usual a single call can take is measured before that (:mod:`benchmarks._tail`).
"""

from __future__ import annotations

import contextlib
import os
import socket
import statistics
import sys
import tempfile
import threading
import timeit
from collections import deque
from collections.abc import Callable, Iterator
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from time import time

from benchmarks._figures import Figure, table
from benchmarks._tail import Tail, tails

__all__ = ["run"]

ROUNDS = 15
VALUE = 0.125

Log = Callable[[float], object]


def floor() -> Log:
    """The least that keeping a scalar with its time can cost in Python."""
    append = deque[tuple[float, int, float]](maxlen=100_000).append
    return lambda value: append((time(), 3, value))


def mlops_log(folder: Path) -> Iterator[Log]:
    """``run.log({"train.loss": x})``, which survives kill -9."""
    import mlops

    with mlops.Run("peers", sinks=[], devices=[], runs_dir=folder) as opened:
        yield lambda value: opened.log({"train.loss": value})


def mlops_series(folder: Path) -> Iterator[Log]:
    """A prepared series of mlops."""
    import mlops

    with mlops.Run("peers", sinks=[], devices=[], runs_dir=folder) as opened:
        yield opened.series("train.loss")


def prometheus(_folder: Path) -> Iterator[Log]:
    """A child of a prometheus_client gauge: kept in memory, the last value only."""
    from prometheus_client import Gauge

    yield Gauge("loss", "loss", ["run"]).labels("a").set


def datadog(_folder: Path) -> Iterator[Log]:
    """The statsd client of datadog, buffered, to a listener."""
    from datadog.dogstatsd.base import DogStatsd

    with listener() as port:
        client = DogStatsd(
            host="127.0.0.1", port=port, constant_tags=["run:a"], disable_telemetry=True, disable_buffering=False
        )
        yield lambda value: client.gauge("loss", value)


def monasca_statsd(_folder: Path) -> Iterator[Log]:
    """monasca-statsd's gauge, to a listener."""
    with listener() as port:
        yield _monasca_gauge(port)


def monasca_statsd_unheard(_folder: Path) -> Iterator[Log]:
    """monasca-statsd's gauge, to a port at which nobody listens."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    yield _monasca_gauge(port)


def tensorboard(folder: Path) -> Iterator[Log]:
    """SummaryWriter.add_scalar of torch."""
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(str(folder)) as writer:
        yield lambda value: writer.add_scalar("loss", value)


def mlflow_file(folder: Path) -> Iterator[Log]:
    """mlflow.log_metric to a folder of files."""
    yield from _mlflow((folder / "mlruns").as_uri())


def mlflow_sqlite(folder: Path) -> Iterator[Log]:
    """mlflow.log_metric to SQLite."""
    yield from _mlflow(f"sqlite:///{folder / 'mlflow.db'}")


PEERS: dict[str, tuple[Callable[[Path], Iterator[Log]], int]] = {
    "mlops series": (mlops_series, 2000),
    "mlops run.log": (mlops_log, 2000),
    "prometheus_client": (prometheus, 2000),
    "datadog, buffered": (datadog, 1000),
    "monasca-statsd": (monasca_statsd, 500),
    "monasca-statsd, nobody listens": (monasca_statsd_unheard, 200),
    "TensorBoard": (tensorboard, 200),
    "mlflow, files": (mlflow_file, 20),
    "mlflow, SQLite": (mlflow_sqlite, 5),
}
"""Each peer, and how many scalars make a burst."""


def run() -> list[Figure]:
    """Measure all peers; print the tables; judge our own two."""
    single = tails()
    context = get_context("spawn")
    workers = {}
    with tempfile.TemporaryDirectory() as folder:
        for name in PEERS:
            ours, theirs = context.Pipe()
            process = context.Process(target=_work, args=(name, Path(folder), theirs))
            process.start()
            theirs.close()
            workers[name] = (process, ours)
        samples: dict[str, list[tuple[float, float]]] = {name: [] for name in PEERS}
        missing = {name: ready for name, (_, pipe) in workers.items() if (ready := pipe.recv())}
        for _ in range(ROUNDS):
            for name, (_, pipe) in workers.items():
                if name not in missing:
                    pipe.send("round")
                    samples[name].append(pipe.recv())
        for process, pipe in workers.values():
            pipe.close()
            process.join(20)
    return [*_judge(samples, missing), *_judge_tails(single)]


def _judge(samples: dict[str, list[tuple[float, float]]], missing: dict[str, str]) -> list[Figure]:
    cost = {name: statistics.median(peer for _, peer in pairs) for name, pairs in samples.items() if pairs}
    ratio = {name: statistics.median(peer / base for base, peer in pairs) for name, pairs in samples.items() if pairs}
    base = statistics.median(base for pairs in samples.values() for base, _ in pairs)
    rows = [("deque.append, the floor", f"{base:.3f}", "1.0")]
    rows += [(name, f"{cost[name]:.3f}", f"{ratio[name]:.1f}") for name in sorted(cost, key=cost.__getitem__)]
    print(table(("one scalar logged with", "us, median", "x floor"), rows))
    for name, why in missing.items():
        print(f"{name}: not measured: {why}")
    return [
        Figure("run.log against the deque floor", ratio["mlops run.log"], "times", most=4),
        Figure("prepared series against the deque floor", ratio["mlops series"], "times", most=2.5),
        Figure(
            "monasca-statsd's send against run.log", cost["monasca-statsd"] / cost["mlops run.log"], "times", least=10
        ),
    ]


def _judge_tails(single: dict[str, Tail]) -> list[Figure]:
    rows = [
        (name, f"{tail.median:.2f}", f"{tail.p99:.2f}", f"{tail.ratio:.1f}")
        for name, tail in sorted(single.items(), key=lambda item: item[1].median)
    ]
    print(table(("a single call between two steps", "us, median", "us, p99", "p99 / median"), rows))
    return [
        Figure("p99 of run.log while sinks are fed", single["run.log"].p99, "us"),
        Figure("p99 of run.log against its median", single["run.log"].ratio, "times", most=5),
    ]


def _work(name: str, folder: Path, pipe: Connection) -> None:
    """In a process of its own: get ready, then time a burst of the floor and of the peer at each word."""
    make, burst = PEERS[name]
    own = folder / name.replace(" ", "-").replace(",", "")
    own.mkdir()
    quiet = os.open(os.devnull, os.O_WRONLY)
    os.dup2(quiet, sys.stdout.fileno())
    os.dup2(quiet, sys.stderr.fileno())
    try:
        with contextlib.contextmanager(make)(own) as log:
            base, peer = _timer(floor()), _timer(log)
            for timer in (base, peer):
                timer.timeit(burst)
            pipe.send("")
            while True:
                pipe.recv()
                times = base.timeit(2000) / 2000, peer.timeit(burst) / burst
                pipe.send((times[0] * 1e6, times[1] * 1e6))
    except EOFError:
        return
    except ImportError as error:
        pipe.send(f"{error}")


def _timer(log: Log) -> timeit.Timer:
    return timeit.Timer("log(x)", globals={"log": log, "x": VALUE})


@contextlib.contextmanager
def listener() -> Iterator[int]:
    """A UDP socket that is read from, as an agent's is; its port."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 0))

        def read() -> None:
            with contextlib.suppress(OSError):
                while server.recv(65536):
                    pass

        threading.Thread(target=read, daemon=True).start()
        yield server.getsockname()[1]


def _monasca_gauge(port: int) -> Log:
    import monascastatsd

    client = monascastatsd.Client("run", host="127.0.0.1", port=port, dimensions={"env": "bench"})
    gauge = client.get_gauge()
    return lambda value: gauge.send("loss", value)


def _mlflow(uri: str) -> Iterator[Log]:
    os.environ["MLFLOW_ALLOW_FILE_STORE"] = "true"
    import mlflow

    mlflow.set_tracking_uri(uri)
    with mlflow.start_run():
        yield lambda value: mlflow.log_metric("loss", value)
