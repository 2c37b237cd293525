"""On a CUDA GPU: what logging every step costs its training, what metering it costs, and how its two energies compare.

**Steps.**  A network of four layers trains on one batch of 256, in turns of some tenths of a second: bare, with
``run.log({"train.loss": loss})`` after every step, and with ``loss.item()`` logged, which waits for the GPU.  The
second runs with ``torch.cuda.set_sync_debug_mode("error")``, in which PyTorch raises where it would wait.  A round is
one turn of each, in an order by chance, and a turn ends when the GPU has worked off its queue.  The layers are wide
enough to keep the GPU busy; once more with narrow ones, where the GPU waits for Python and every microsecond of the
training thread shows.

**Metering.**  The processor time of the sampler's thread, NVML's calls and all, while the GPU trains.

**Energy.**  What the GPU's counter says of a minute of training beside its power, sampled once a second and
integrated, both as ``mlops report`` reckons them.

Needs nothing but a GPU, PyTorch and nvidia-ml-py.  ``MLOPS_BENCH_TRACE=FILE`` keeps the minute as a trace for
``replay:FILE``.
"""

from __future__ import annotations

import contextlib
import os
import random
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import mlops
from benchmarks._figures import Figure, table
from mlops.errors import DeviceError
from mlops.record import Record, read_run
from mlops.settings import Settings
from mlops.store import RunFolder

if TYPE_CHECKING:
    import torch

__all__ = ["run"]

ROUNDS: Final = 12
TURN: Final = 0.7
"""Seconds of a turn, about."""
BATCH: Final = 256
CLASSES: Final = 10
WIDE: Final = 4096
NARROW: Final = 256
KINDS: Final = ("bare", "run.log(loss)", "run.log(loss.item())")
WARM: Final = 3.0
"""Seconds of training before the sampler's thread is looked at: it has opened its devices by then."""
LOAD: Final = 60.0
EPOCHS: Final = 6
LOAD_OFTEN: Final = 20.0
OFTEN: Final = 0.1
"""Seconds between two samples of the run that samples often."""
TRACE_VARIABLE: Final = "MLOPS_BENCH_TRACE"


def run() -> list[Figure]:
    """Measure what this machine allows; no figures where there is no GPU."""
    if why := _why_not():
        print(f"gpu: not measured: {why}")
        return []
    import torch

    device = torch.device("cuda")
    print(f"{torch.cuda.get_device_name(device)}, PyTorch {torch.__version__}, {os.cpu_count()} cores")
    with tempfile.TemporaryDirectory() as text:
        figures = [
            *_judged(_steps(device, WIDE, Path(text)), "wide layers", least=99.5),
            *_judged(_steps(device, NARROW, Path(text)), "narrow layers", least=None),
        ]
        usual = _meter(device, Path(text), seconds=LOAD, every=Settings().sample_seconds)
        often = _meter(device, Path(text), seconds=LOAD_OFTEN, every=OFTEN)
    figures += [*_cost(usual), *_cost(often), *_energies(usual.record)]
    if path := os.environ.get(TRACE_VARIABLE):
        _keep(usual.record, path, f"{LOAD:.0f} s of a small network on one {torch.cuda.get_device_name(device)}")
    return figures


def _why_not() -> str:
    """Why nothing can be measured here; empty where it can."""
    try:
        import torch
    except ImportError:
        return "PyTorch is not installed"
    if torch.version.cuda is None:
        return "this PyTorch is made without CUDA"
    return "" if torch.cuda.is_available() else "PyTorch finds no CUDA GPU"


# -- steps ----------------------------------------------------------------------------------------


class Network:
    """Four layers, and the one batch that they are trained on.

    Args:
        device: where both are.
        width: of the layers and of the inputs.
    """

    def __init__(self, device: torch.device, width: int) -> None:
        import torch
        from torch import nn

        torch.manual_seed(0)
        hidden = [layer for _ in range(3) for layer in (nn.Linear(width, width), nn.ReLU())]
        self._model = nn.Sequential(*hidden, nn.Linear(width, CLASSES)).to(device)
        self._optimizer = torch.optim.SGD(self._model.parameters(), lr=1e-3)
        self._inputs = torch.randn(BATCH, width, device=device)
        self._targets = torch.randint(0, CLASSES, (BATCH,), device=device)

    def loss(self) -> torch.Tensor:
        """Of the batch, on the device."""
        from torch.nn.functional import cross_entropy

        return cross_entropy(self._model(self._inputs), self._targets)

    def step(self) -> torch.Tensor:
        """Train one step; its loss, on the device."""
        self._optimizer.zero_grad()
        loss = self.loss()
        loss.backward()  # type: ignore[no-untyped-call] # PyTorch's
        self._optimizer.step()
        return loss


@dataclass(frozen=True, slots=True)
class Steps:
    """What the turns gave.

    Attributes:
        rates: steps a second of each kind, round by round.
        missing: losses that were logged and not recorded.
        differing: losses of the first steps that were recorded as another number than the GPU has.
    """

    rates: dict[str, list[float]]
    missing: int
    differing: int


def _steps(device: torch.device, width: int, folder: Path, *, rounds: int = ROUNDS, seconds: float = TURN) -> Steps:
    """Train in turns."""
    network = Network(device, width)
    chance = random.Random(1)  # noqa: S311 - the same orders every time
    rates: dict[str, list[float]] = {kind: [] for kind in KINDS}
    logged = 0
    with mlops.Run("gpu-steps", devices=[], sinks=[], runs_dir=folder) as opened:
        with _raising_where_it_waits(device):
            first = [network.step().detach() for _ in range(10)]
            for loss in first:
                opened.log({"train.loss": loss})
        count = _steps_in(network, device, seconds)
        for _ in range(rounds):
            for kind in chance.sample(KINDS, len(KINDS)):
                rates[kind].append(_turn(kind, network, device, count, opened.log))
                logged += count * (kind != KINDS[0])
    record = read_run(RunFolder(opened.dir))
    recorded = [float(value) for _, columns in record.find("train.loss") for value in columns.value]
    differing = sum(one != two.item() for one, two in zip(recorded, first, strict=False))
    return Steps(rates, len(first) + logged - len(recorded), differing)


def _steps_in(network: Network, device: torch.device, seconds: float) -> int:
    """How many steps such a time takes, once warm."""
    for _ in range(20):
        network.step()
    _wait(device)
    begin = time.perf_counter()
    for _ in range(20):
        network.step()
    _wait(device)
    return max(20, round(20 * seconds / (time.perf_counter() - begin)))


def _turn(
    kind: str, network: Network, device: torch.device, count: int, log: Callable[[dict[str, Any]], object]
) -> float:
    """Steps a second, from an empty queue of the GPU's to an empty one."""
    step = network.step
    _wait(device)
    begin = time.perf_counter()
    if kind == "bare":
        for _ in range(count):
            step()
    elif kind == "run.log(loss)":
        with _raising_where_it_waits(device):
            for _ in range(count):
                log({"train.loss": step()})
    else:
        for _ in range(count):
            log({"train.loss": step().item()})
    _wait(device)
    return count / (time.perf_counter() - begin)


def _wait(device: torch.device) -> None:
    """Until the device has worked off its queue; a CPU has none."""
    import torch

    if device.type == "cuda":
        torch.cuda.synchronize(device)


@contextlib.contextmanager
def _raising_where_it_waits(device: torch.device) -> Iterator[None]:
    """PyTorch raises wherever it would wait for the GPU."""
    import torch

    if device.type != "cuda":
        yield
        return
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode(before)


def _judged(steps: Steps, name: str, *, least: float | None) -> list[Figure]:
    bare = steps.rates["bare"]
    kept = {
        kind: statistics.median(100 * rate / base for rate, base in zip(rates, bare, strict=True))
        for kind, rates in steps.rates.items()
    }
    rows = [(kind, f"{statistics.median(rates):,.1f}", f"{kept[kind]:.2f}") for kind, rates in steps.rates.items()]
    print(table((f"{name}: after every step", "steps/s", "% of bare"), rows))
    return [
        Figure(f"{name}: steps kept with run.log(loss)", kept["run.log(loss)"], "%", least=least),
        Figure(f"{name}: steps kept with run.log(loss.item())", kept["run.log(loss.item())"], "%"),
        Figure(f"{name}: losses that were not recorded", steps.missing, "", most=0),
        Figure(f"{name}: losses recorded as another number", steps.differing, "", most=0),
    ]


# -- metering and energy --------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Metered:
    """A training while its GPU was metered.

    Attributes:
        every: seconds between two samples.
        record: of the run.
        seconds: for which the sampler's thread was looked at.
        busy: its processor seconds meanwhile.
        samples: that it took meanwhile.
    """

    every: float
    record: Record
    seconds: float
    busy: float
    samples: int


def _meter(
    device: torch.device, folder: Path, *, seconds: float, every: float, width: int = WIDE, devices: str = "nvidia"
) -> Metered:
    """Train for so long, metered, and look at the thread that meters."""
    network = Network(device, width)
    settings = Settings.load(runs_dir=folder, devices=(devices,), sinks=(), sample_seconds=every)
    with mlops.Run("gpu-load", settings=settings) as opened:
        _train(opened, network, min(WARM, seconds))
        sampler = next(thread for thread in threading.enumerate() if thread.name == "mlops-sampler")
        begin, busy = time.time(), _busy(sampler)
        for _ in range(EPOCHS):
            with opened.epoch() as epoch:
                _train(opened, network, seconds / EPOCHS)
                epoch.log({"valid.loss": network.loss().detach()})
        end, busy_then = time.time(), _busy(sampler)
    record = read_run(RunFolder(opened.dir))
    times = {
        float(moment)
        for name in record.names()
        if name.startswith("gpu.")
        for _, columns in record.find(name)
        for moment in columns.time
    }
    samples = sum(begin <= moment < end for moment in times)
    return Metered(every, record, end - begin, busy_then - busy, samples)


def _train(opened: mlops.Run, network: Network, seconds: float) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        opened.log({"train.loss": network.step()})


def _busy(thread: threading.Thread) -> float:
    """A thread's processor seconds so far."""
    assert thread.ident is not None  # noqa: S101 - it has been started
    return time.clock_gettime(time.pthread_getcpuclockid(thread.ident))


def _cost(metered: Metered) -> list[Figure]:
    """What metering cost; nothing where nothing was metered."""
    if not metered.samples:
        print(f"NVML: not measured: {' '.join(map(str, metered.record.info.notes.get('not_metered', ())))}")
        return []
    name = f"NVML, sampled every {metered.every:g} s"
    return [
        Figure(f"{name}: of a core", 100 * metered.busy / metered.seconds, "%"),
        Figure(f"{name}: a sample", metered.busy / metered.samples * 1e6, "us"),
    ]


def _energies(record: Record) -> list[Figure]:
    """The energy of the GPU that used most, by its counter and by its power."""
    from mlops.report.energy import energy_used

    meters = [meter for meter in energy_used(record).meters if meter.check_share is not None]
    if not meters:
        print("energy: not compared: no GPU here both counts its energy and tells its power")
        return []
    most = max(meters, key=lambda meter: meter.joules)
    return [
        Figure(f"energy of {most.seconds:.0f} s by the counter", most.joules, "J"),
        Figure("power integrated over the same time is more by", 100 * (most.check_share or 0.0), "%"),
    ]


def _keep(record: Record, path: str, about: str) -> None:
    """Write a trace for the replay device."""
    from mlops.devices.replay import write_trace

    when = time.strftime("%Y-%m-%d", time.gmtime(record.info.started))
    try:
        rows = write_trace(record, path, about=f"{about}, recorded {when}")
    except DeviceError as error:
        print(f"No trace was written: {error}")
    else:
        print(f"{path}: a trace of {rows} rows; play it back with MLOPS_DEVICES=replay:{path}")
