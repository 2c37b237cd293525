"""A whole training of the digits, monitored with everything on, beside the same training without: time and losses.

The network, the data and the schedule are those of ``notebooks/01_train.ipynb``, for more epochs, so that the sinks
deliver in the midst of a fit too.  With the callback each fit is a run with the store, ``statsd://`` to a real
monasca-agent, ``monasca://`` to the real API, and the devices, all as they are by default.

Fits take turns, with and without and then the other way round, each from the same seed.  The training process, the
threads of mlops included, has one core to itself, and Monasca all others: so what mlops's threads do holds up the
training in full, and what Monasca does, which has machines of its own in life, does not.  The time of a fit is that
from its first batch to the end of its last epoch; what opening and closing its run takes is told beside it.

Where other programs want the same cores, the time of a fit tells of them too.  Two figures do not: the processor time
of the process, and how long the training thread slept, which it does only while another thread has what it needs.
"""

from __future__ import annotations

import contextlib
import gc
import itertools
import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Final
from unittest import mock

from benchmarks._figures import Figure, table
from mlops.record import read_run
from mlops.store import RunFolder
from tests.testbed.monasca import Monasca

__all__ = ["run"]

ROUNDS: Final = 16
EPOCHS: Final = 24
SEED: Final = 42
AGENT_SECONDS: Final = 20
"""Between two flushes of the agent, as in life."""


@dataclass(frozen=True, slots=True)
class Fit:
    """One training.

    Attributes:
        wall: seconds from the first batch to the end of the last epoch.
        busy: processor seconds of the whole process meanwhile.
        slept: seconds meanwhile in which the training thread neither ran nor waited for a core.
        around: seconds of ``fit`` before and after that.
        numbers: every loss and metric that fastai kept, and the weights at the end, to the bit.
        run_dir: where it was recorded, if it was.
    """

    wall: float
    busy: float
    slept: float
    around: float
    numbers: tuple[bytes, ...]
    run_dir: Path | None = None


def run() -> list[Figure]:
    """Train in turns, compare, and look in the database."""
    with (
        tempfile.TemporaryDirectory() as text,
        _cores() as own,
        Monasca(Path(text) / "monasca", agent_seconds=AGENT_SECONDS) as monasca,
        mock.patch.dict(os.environ, monasca.environ()),
        ProcessPoolExecutor(1, get_context("spawn"), os.sched_setaffinity, (0, own)) as trainer,
    ):
        pairs = trainer.submit(_pairs, [monasca.url, monasca.statsd_url], Path(text) / "runs").result()
        missing, recorded = _missing(monasca, [there.run_dir for there, _ in pairs])
    return [*_times(pairs), *_sameness(pairs), *_delivery(missing, recorded)]


@contextlib.contextmanager
def _cores() -> Iterator[set[int]]:
    """The core that the training has to itself: this process and what it starts keep off it, if there is another."""
    before = os.sched_getaffinity(0)
    own = {min(before)}
    os.sched_setaffinity(0, before - own or before)
    try:
        yield own
    finally:
        os.sched_setaffinity(0, before)


def _pairs(sinks: list[str], runs_dir: Path) -> list[tuple[Fit, Fit]]:
    """The rounds, after one that does not count; runs in the training process."""
    return [_pair(number, sinks, runs_dir) for number in range(-1, ROUNDS)][1:]


def _pair(number: int, sinks: list[str], runs_dir: Path) -> tuple[Fit, Fit]:
    """A fit with the callback and one without, in one order and the other by turns."""
    if number % 2:
        return _fit(sinks, runs_dir), _fit(None, runs_dir)
    without = _fit(None, runs_dir)
    return _fit(sinks, runs_dir), without


def _times(pairs: list[tuple[Fit, Fit]]) -> list[Figure]:
    rows = []
    for name, fits in zip(("all on", "no callback"), zip(*pairs, strict=True), strict=True):
        wall, busy, around = (
            statistics.median(getattr(fit, what) for fit in fits) for what in ("wall", "busy", "around")
        )
        rows.append((name, f"{wall:.3f}", f"{busy:.3f}", f"{1e3 * around:.0f}"))
    print(table((f"{EPOCHS} epochs of the digits", "s", "s of processor", "ms before and after"), rows))
    longer = [100 * (there.wall / bare.wall - 1) for there, bare in pairs]
    busier = [100 * (there.busy / bare.busy - 1) for there, bare in pairs]
    slept = [1e3 * (there.slept - bare.slept) for there, bare in pairs]
    before_and_after = [1e3 * (there.around - bare.around) for there, bare in pairs]
    low, _, high = statistics.quantiles(longer, n=4)
    print(f"the middle half of the rounds took {low:.1f} % to {high:.1f} % longer")
    return [
        Figure("the training takes longer by", statistics.median(longer), "%", most=1),
        Figure("its processor time, with mlops's threads, is more by", statistics.median(busier), "%"),
        Figure("the training thread slept longer by", statistics.median(slept), "ms"),
        Figure("opening the run and closing it", statistics.median(before_and_after), "ms"),
    ]


def _sameness(pairs: list[tuple[Fit, Fit]]) -> list[Figure]:
    """Every loss of every fit beside that of the first one, monitored or not."""
    first = pairs[0][1].numbers
    others = [fit.numbers for fit in itertools.chain.from_iterable(pairs)]
    differing = sum(
        len(numbers) != len(first) or sum(one != other for one, other in zip(numbers, first, strict=False))
        for numbers in others
    )
    return [
        Figure("losses, metrics and weights compared in each fit", len(first), ""),
        Figure("losses that differ", differing, "", most=0),
    ]


def _delivery(missing: int, recorded: int) -> list[Figure]:
    return [
        Figure("points recorded", recorded, ""),
        Figure("points that are not in Monasca's database", missing, "", most=0),
    ]


def _missing(monasca: Monasca, folders: list[Path | None]) -> tuple[int, int]:
    """How many points of these runs are not in the database, and how many were recorded."""
    missing = recorded = 0
    for folder in folders:
        assert folder is not None  # noqa: S101 - else nothing was monitored
        record = read_run(RunFolder(folder))
        recorded += len(record.columns)
        missing += len(record.columns) - monasca.wait_stored(record.info.id, len(record.columns))
    return missing, recorded


# -- a fit ----------------------------------------------------------------------------------------


def _fit(sinks: list[str] | None, runs_dir: Path) -> Fit:
    """Train; with sinks, monitored."""
    from mlops.callbacks.fastai import MonascaCallback

    ours = [] if sinks is None else [MonascaCallback("training", sinks=sinks, runs_dir=runs_dir)]
    marks: list[tuple[float, float, float]] = []
    learn = _learner([*ours, _clock(marks)])
    gc.collect()
    begin = time.perf_counter()
    learn.fit_one_cycle(EPOCHS, 0.01)
    end = time.perf_counter()
    wall, busy, awake = (last - first for first, last in zip(marks[0], marks[-1], strict=True))
    tensors = [*learn.recorder.losses, *learn.model.state_dict().values()]
    numbers = [tensor.numpy().tobytes() for tensor in tensors]
    numbers += [repr(list(values)).encode() for values in learn.recorder.values]
    run_dir = ours[0].run_dir if ours else None
    return Fit(wall, busy, wall - awake, end - begin - wall, tuple(numbers), run_dir)


def _clock(marks: list[tuple[float, float, float]]) -> Any:
    """A callback that notes the time as a training part begins and as an epoch ends, each after ours."""
    from fastai.callback.core import Callback

    class Clock(Callback):  # type: ignore[misc] # fastai says nothing of its types
        order = 99

        def __call__(self, event_name: str) -> None:
            """Note it."""
            if event_name in {"before_train", "after_epoch"}:
                ran, waited = Path("/proc/thread-self/schedstat").read_text().split()[:2]
                marks.append((time.perf_counter(), time.process_time(), (int(ran) + int(waited)) / 1e9))

    return Clock()


def _learner(callbacks: list[Any]) -> Any:
    """The learner of ``notebooks/01_train.ipynb``, from its seed, which prints nothing."""
    import fastai.callback.schedule  # noqa: F401 - gives a learner its fit_one_cycle
    import torch
    from fastai.basics import CrossEntropyLossFlat, DataLoaders, Learner, accuracy, nn, set_seed
    from sklearn.datasets import load_digits

    def block(inputs: int, outputs: int) -> Any:
        return nn.Sequential(nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU())

    torch.set_num_threads(1)
    set_seed(SEED, reproducible=True)
    pixels, labels = load_digits(return_X_y=True)
    images = torch.tensor(pixels / 16, dtype=torch.float32).view(-1, 1, 8, 8)
    samples = list(zip(images, torch.tensor(labels), strict=True))
    border = len(samples) * 4 // 5
    model = nn.Sequential(
        block(1, 16),
        block(16, 32),
        nn.MaxPool2d(2),
        block(32, 64),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(64, 10),
    )
    dls = DataLoaders.from_dsets(samples[:border], samples[border:], bs=64, num_workers=0, device=torch.device("cpu"))
    made = Learner(dls, model, loss_func=CrossEntropyLossFlat(), metrics=accuracy, cbs=callbacks)
    made.remove_cbs([callback for callback in made.cbs if type(callback).__name__ == "ProgressCallback"])
    made.logger = lambda _: None
    return made
