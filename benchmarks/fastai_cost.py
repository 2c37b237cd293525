"""What the fastai callback costs a batch, beside no callback and one more callback in the usual form.

Learners that are the same but for one callback are fitted at the same time, each by a thread of its own, and take
turns: one trains on a block of batches while the others wait in their loaders.  So the fits are fastai's own, a round
of blocks lasts a tenth of a second, and what the machine does meanwhile falls on all alike.  Each round goes in
another order, nobody has two turns on end, and the first batches of a block, which find the caches as another learner
left them, are not timed.  The model is tiny, so that the differences show.

For the length of a fit the callback replaces fastai's arithmetic of the smoothed loss with a quicker one, with the
same result (``HeardLoss``).  One learner has this and nothing else, so that what the callback does beside it shows too.

The threads of mlops work on in everybody's turn.  What they use is measured in a fit that is alone, as the
processor time of the process without the training thread's, and counted as if it had held up the training in full.
"""

from __future__ import annotations

import contextlib
import gc
import math
import random
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

from benchmarks._figures import Figure, table

__all__ = ["run"]

ROUNDS: Final = 300
WARM: Final = 20
"""Rounds before the first that counts."""
BLOCK: Final = 20
"""Batches that are timed in a learner's turn."""
FIRST: Final = 5
"""Batches before them that are not."""
ALONE: Final = 12_000
"""Batches of the fit that is alone."""
BATCH: Final = 16
PATIENCE: Final = 120.0


def nothing(_folder: Path) -> list[Any]:
    """No callback."""
    return []


def ours(folder: Path) -> list[Any]:
    """The callback under test, with the store and nothing else."""
    from mlops.callbacks.fastai import MonascaCallback

    return [MonascaCallback("fastai-cost", devices=[], sinks=[], runs_dir=folder)]


def quicker(_folder: Path) -> list[Any]:
    """No callback that does anything for a batch, but the smoothed loss as ours reckons it."""
    from fastai.callback.core import Callback

    from mlops.callbacks._fastai import HeardLoss

    class Quicker(Callback):  # type: ignore[misc] # fastai says nothing of its types
        order = 51

        def __call__(self, event_name: str) -> None:
            """Replace it as the training begins."""
            if event_name == "before_train":
                smooth = self.learn.recorder.smooth_loss
                smooth.__class__, smooth.alone = HeardLoss, True

    return [Quicker()]


def empty(_folder: Path) -> list[Any]:
    """The usual form with nothing to do: what fastai itself spends on one more callback."""
    from fastai.callback.core import Callback

    class Empty(Callback):  # type: ignore[misc] # see above
        order = 51

        def after_batch(self) -> None:
            """Do nothing."""

    return [Empty()]


def keeping(_folder: Path) -> list[Any]:
    """The usual form: the loss, the smoothed loss and the learning rate by attribute access, kept in memory."""
    from fastai.callback.core import Callback

    class Keeping(Callback):  # type: ignore[misc] # see above
        order = 51
        kept: list[tuple[float, float, float]]

        def before_fit(self) -> None:
            """Begin."""
            self.kept = []

        def after_batch(self) -> None:
            """Keep the values of a batch of training."""
            if self.training:
                self.kept.append((self.loss.item(), self.smooth_loss.item(), self.opt.hypers[-1]["lr"]))

    return [Keeping()]


def sending(_folder: Path) -> list[Any]:
    """The usual form: the loss and the smoothed loss as two gauges of monasca-statsd, to a listener."""
    import monascastatsd
    from fastai.callback.core import Callback

    from benchmarks.peers import listener

    class Sending(Callback):  # type: ignore[misc] # see above
        order = 51

        def before_fit(self) -> None:
            """Open the client."""
            self.listening = contextlib.ExitStack()
            port = self.listening.enter_context(listener())
            self.gauge = monascastatsd.Client("fit", host="127.0.0.1", port=port).get_gauge()

        def after_batch(self) -> None:
            """Send the values of a batch of training."""
            if self.training:
                self.gauge.send("train.loss", self.loss.item())
                self.gauge.send("train.smooth_loss", self.smooth_loss.item())

        def after_fit(self) -> None:
            """Close the listener."""
            self.listening.close()

    return [Sending()]


FORMS: Final[dict[str, Callable[[Path], list[Any]]]] = {
    "no callback": nothing,
    "mlops": ours,
    "mlops's arithmetic of the smoothed loss alone": quicker,
    "one more, which does nothing": empty,
    "one more, usual form, values kept": keeping,
    "one more, usual form, two gauges sent": sending,
}


class Turns:
    """Who trains next: each taker waits until it is called.

    Args:
        order: the numbers of the takers, in the order of their turns.
        takers: how many there are.
    """

    def __init__(self, order: list[int], takers: int) -> None:
        self._order = iter(order)
        self._gates = [threading.Semaphore(0) for _ in range(takers)]

    def call_next(self) -> None:
        """Call the next one, if any is left."""
        if (taker := next(self._order, None)) is not None:
            self._gates[taker].release()

    def wait(self, taker: int) -> None:
        """Wait to be called.

        Raises:
            TimeoutError: nobody calls: another taker has failed.
        """
        if not self._gates[taker].acquire(timeout=PATIENCE):
            raise TimeoutError(f"learner {taker} was not called")


class Loader:
    """The same batch over and over, in blocks; what each block took.

    Args:
        batch: inputs and targets.
        blocks: how many blocks make an epoch.
        size: batches of a block that are timed.
        wait: called before a block.
        done: called after a block.
        first: batches before those that are timed.

    Attributes:
        seconds: of each block, from its first batch that is timed to what follows its last.
    """

    bs = BATCH

    def __init__(
        self,
        batch: Any,
        blocks: int,
        size: int,
        wait: Callable[[], object],
        done: Callable[[], object],
        *,
        first: int = 0,
    ) -> None:
        self.dataset = [batch]
        self.seconds: list[float] = []
        self._batch, self._blocks, self._size, self._first = batch, blocks, size, first
        self._wait, self._done = wait, done

    def __len__(self) -> int:
        return self._blocks * (self._first + self._size)

    def __iter__(self) -> Iterator[Any]:
        for _ in range(self._blocks):
            self._wait()
            for _ in range(self._first):
                yield self._batch
            begin = time.perf_counter()
            for _ in range(self._size):
                yield self._batch
            self.seconds.append(time.perf_counter() - begin)
            self._done()


def run() -> list[Figure]:
    """Fit all forms in turns, then ours alone."""
    with tempfile.TemporaryDirectory() as text:
        blocks = _in_turns(Path(text))
        own, open_and_close = _alone(Path(text))
    costs = {name: _beyond(blocks[name], blocks["no callback"]) for name in FORMS}
    beside = _beyond(blocks["mlops"], blocks["mlops's arithmetic of the smoothed loss alone"])
    median = {name: statistics.median(differences) for name, differences in costs.items()}
    batch = statistics.median(blocks["no callback"]) / BLOCK * 1e6
    rows = [(name, f"{median[name]:.1f}", f"{_error(costs[name]):.1f}") for name in FORMS if name != "no callback"]
    print(table((f"a batch of {batch:.0f} us costs with", "us more, median", "+-"), rows))
    return [
        Figure("the callback beyond no callback", median["mlops"], "us/batch", most=10),
        Figure("of it, all but the arithmetic of the smoothed loss", statistics.median(beside), "us/batch"),
        Figure("processor time of mlops's own threads", own, "us/batch"),
        Figure("opening and closing the run of a fit", open_and_close, "ms"),
        Figure("usual form, values kept", median["one more, usual form, values kept"], "us/batch"),
        Figure("usual form, two gauges sent", median["one more, usual form, two gauges sent"], "us/batch"),
    ]


def _beyond(these: list[float], others: list[float]) -> list[float]:
    """By how many microseconds a batch of these blocks took longer than one of the others, round by round."""
    return [(this - other) / BLOCK * 1e6 for this, other in zip(these, others, strict=True)]


def _error(differences: list[float]) -> float:
    """The standard error of a median, by the spread of the middle half."""
    low, _, high = statistics.quantiles(differences, n=4)
    return 1.25 * (high - low) / 1.35 / math.sqrt(len(differences))


def _orders(takers: int, rounds: int) -> list[int]:
    """Every taker once a round, in an order by chance, nobody twice on end."""
    chance = random.Random(1)  # noqa: S311 - the same orders every time
    found: list[int] = []
    for _ in range(rounds):
        order = chance.sample(range(takers), takers)
        if found and order[0] == found[-1]:
            order.reverse()
        found += order
    return found


def _in_turns(folder: Path) -> dict[str, list[float]]:
    """The seconds of each form's blocks, those of a round at the same place."""
    turns = Turns(_orders(len(FORMS), WARM + ROUNDS), len(FORMS))
    loaders: dict[str, Loader] = {}
    ready = threading.Barrier(len(FORMS) + 1)

    def fit(taker: int, name: str, make: Callable[[Path], list[Any]]) -> None:
        started = False

        def wait() -> None:
            nonlocal started
            if not started:
                started = True
                ready.wait(PATIENCE)
            turns.wait(taker)

        loaders[name] = Loader(_batch(), WARM + ROUNDS, BLOCK, wait, turns.call_next, first=FIRST)
        _learner(loaders[name], make(folder)).fit(1, 1e-3)

    gc.collect()
    with ThreadPoolExecutor(len(FORMS)) as pool:
        fits = [pool.submit(fit, taker, name, make) for taker, (name, make) in enumerate(FORMS.items())]
        ready.wait(PATIENCE)
        turns.call_next()
        for one in fits:
            one.result()
    return {name: loader.seconds[WARM:] for name, loader in loaders.items()}


def _alone(folder: Path) -> tuple[float, float]:
    """Microseconds of processor time of our own threads for a batch, and milliseconds to open and close the run."""
    marks: list[tuple[float, float]] = []

    def mark() -> None:
        marks.append((time.process_time(), time.thread_time()))

    loader = Loader(_batch(), 1, ALONE, mark, mark)
    learn = _learner(loader, ours(folder))
    begin = time.perf_counter()
    learn.fit(1, 1e-3)
    around = time.perf_counter() - begin - loader.seconds[0]
    (process, thread), (process_then, thread_then) = marks
    return ((process_then - process) - (thread_then - thread)) / ALONE * 1e6, around * 1e3


def _batch() -> Any:
    import torch

    inputs = torch.randn(BATCH, 4, generator=torch.Generator().manual_seed(1))
    return inputs, (inputs.sum(1) > 0).long()


def _learner(loader: Loader, callbacks: list[Any]) -> Any:
    """A learner of two classes that prints nothing."""
    import torch
    from fastai.data.core import DataLoaders
    from fastai.learner import Learner
    from fastai.losses import CrossEntropyLossFlat
    from fastai.optimizer import SGD
    from torch import nn

    torch.manual_seed(0)
    empty_loader = Loader(_batch(), 0, 1, lambda: None, lambda: None)
    made = Learner(
        DataLoaders(loader, empty_loader),
        nn.Linear(4, 2),
        loss_func=CrossEntropyLossFlat(),
        opt_func=SGD,
        cbs=callbacks,
    )
    made.remove_cbs([callback for callback in made.cbs if type(callback).__name__ == "ProgressCallback"])
    made.logger = lambda _: None
    return made
