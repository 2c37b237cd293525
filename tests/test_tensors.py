"""Values on their way from a GPU, whose queue a test works off at its leisure.

No GPU is at hand where these run: :class:`Queue` stands in for one.  ``tests/test_gpu.py`` does the same on a real one.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mlops.record import PointsReader
from mlops.recorder import Recorder
from mlops.series import Series
from mlops.tensors import Arrivals, is_tensor

pytestmark = pytest.mark.torch
Wait = Callable[[Callable[[], object]], None]


class Queue(Arrivals):
    """A GPU that does its copies when it is told to, and the values as they are then."""

    def __init__(self, slots: int = 64) -> None:
        super().__init__(slots=slots)
        self.pending: list[tuple[Any, Any]] = []
        self.capturing = False
        self.broken = False

    def holds(self, value: Any) -> bool:
        """Every tensor is taken to be on it."""
        return True

    @property
    def free(self) -> int:
        """How many slots are free."""
        return self._slots if self._lane is None else len(self._lane.free)

    def work(self, most: int | None = None) -> None:
        """Do the next copies."""
        for _ in range(len(self.pending) if most is None else most):
            slot, value = self.pending.pop(0)
            slot.copy_(value)

    def _memory(self) -> Any:
        return torch.empty(self._slots, dtype=torch.float64)

    def _is_capturing(self) -> bool:
        return self.capturing

    def _copy(self, slot: Any, value: Any) -> None:
        if self.broken:
            raise RuntimeError("CUDA error: device-side assert triggered")
        self.pending.append((slot, value.detach().clone()))


@pytest.fixture
def queue() -> Queue:
    """A GPU with a queue."""
    return Queue()


@pytest.fixture
def recorder(tmp_path: Path, queue: Queue) -> Iterator[Recorder]:
    """A recorder of a training on that GPU."""
    made = Recorder(tmp_path / "a.points", slots=1024, interval=0.01, arrivals=queue)
    yield made
    queue.broken = True
    queue.work()
    made.close()


def log(queue: Queue, value: Any, place: int = 0) -> None:
    """What a recorder does with a tensor."""
    queue.describe(queue.begin(value), place, 1.0, 0, 1)


def read(path: Path) -> list[tuple[str, float, int]]:
    """Every point of a file: name, value, step."""
    reader = PointsReader(path)
    parts = list(reader.read(whole=True))
    return [
        (str(reader.series[series]), value, step)
        for part in parts
        for series, value, step in zip(part.series.tolist(), part.value.tolist(), part.step.tolist(), strict=True)
    ]


def test_a_value_is_recorded_once_it_is_here_with_the_time_at_which_it_was_logged(
    tmp_path: Path, queue: Queue, wait_until: Wait
) -> None:
    """Logging waits for nothing; the point that comes of it has the time, the step and the series of the call."""
    now = [100.0]
    recorder = Recorder(tmp_path / "a.points", slots=1024, interval=0.01, arrivals=queue, clock=lambda: now[0])
    put = recorder.series(Series.of("b", {"x": "1"}))
    recorder.log({"a": torch.tensor(0.5)})
    recorder.log({"a": torch.tensor(1.5)}, step=3)
    recorder.log({"a": torch.tensor(2.5)}, time=7.0)
    put(torch.tensor(3.5))
    now[0] = 200.0
    assert queue.waiting == 4
    assert read(recorder.path) == []
    queue.work()
    wait_until(lambda: len(read(recorder.path)) == 4)
    recorder.close()
    assert read(recorder.path) == [("a", 0.5, 0), ("a", 1.5, 4), ("a", 2.5, 0), ("b{x=1}", 3.5, 0)]
    (times,) = {tuple(np.concatenate([part.time for part in PointsReader(recorder.path).read()]).tolist())}
    assert times == (100.0, 100.0, 7.0, 100.0)


@pytest.mark.parametrize(
    ("value", "recorded"),
    [
        (torch.tensor(1 / 3, dtype=torch.float64), 1 / 3),
        (torch.tensor(1 / 3), float(np.float32(1 / 3))),
        (torch.tensor(0.5, dtype=torch.float16), 0.5),
        (torch.tensor(-0.5, dtype=torch.bfloat16), -0.5),
        (torch.tensor(7), 7.0),
        (torch.tensor(250, dtype=torch.uint8), 250.0),
        (torch.tensor(True), 1.0),  # noqa: FBT003 - a tensor's value
        (torch.tensor([2.5]), 2.5),
        (torch.tensor([[2.5]]), 2.5),
        (torch.nn.Parameter(torch.tensor(0.25)), 0.25),
        (torch.tensor(0.5, requires_grad=True) * 3, 1.5),
        (torch.tensor(float("inf")), float("inf")),
        (torch.tensor(-0.0), -0.0),
    ],
    ids=str,
)
def test_values_of_every_type_arrive_as_they_are(recorder: Recorder, queue: Queue, value: Any, recorded: float) -> None:
    """Whatever type a tensor of one element has, the same number is recorded, and what it hangs on is let be."""
    recorder.log({"a": value})
    assert queue.waiting == 1
    queue.work()
    recorder.close()
    ((_, found, _),) = read(recorder.path)
    assert found.hex() == recorded.hex()


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float32, torch.float64], ids=str)
def test_nan_is_no_mark(recorder: Recorder, queue: Queue, kind: Any) -> None:
    """What computations make of 0/0 is told from a slot where nothing has arrived yet."""
    for value in (torch.tensor(float("nan"), dtype=kind), torch.zeros((), dtype=kind) / 0):
        recorder.log({"a": value})
    queue.work()
    recorder.close()
    assert [value for _, value, _ in read(recorder.path) if value != value] == [pytest.approx(np.nan, nan_ok=True)] * 2  # noqa: PLR0124 - nan
    assert recorder.not_finite == 2


@given(works=st.lists(st.tuples(st.integers(0, 20), st.integers(0, 20)), max_size=30))
@settings(deadline=None, max_examples=50)
def test_values_arrive_in_order_through_few_slots(works: list[tuple[int, int]]) -> None:
    """However logging and the GPU take turns, values of all types come in the order of logging, and once."""
    queue = Queue(slots=16)
    kinds = [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64]
    number = 0
    here: list[tuple[int, float]] = []
    for more, done in works:
        for _ in range(more):
            try:
                log(queue, torch.tensor(number, dtype=kinds[number % len(kinds)]), place=number)
            except IndexError:
                break
            number += 1
        queue.work(min(done, len(queue.pending)))
        if (part := queue.arrived()) is not None:
            here += zip(part.place.tolist(), part.value.tolist(), strict=True)
    queue.work()
    while (part := queue.arrived()) is not None:
        here += zip(part.place.tolist(), part.value.tolist(), strict=True)
    assert here == [(value, float(torch.tensor(value, dtype=kinds[value % len(kinds)]))) for value in range(number)]
    assert queue.waiting == 0


def test_when_all_slots_are_in_use_values_are_dropped_counted_and_said(
    recorder: Recorder, queue: Queue, caplog: pytest.LogCaptureFixture
) -> None:
    """A GPU that does not keep up costs memory that is bounded, and no time."""
    with caplog.at_level(logging.WARNING, "mlops"):
        for value in range(80):
            recorder.log({"a": torch.tensor(float(value))})
    assert recorder.dropped == 16
    assert len(caplog.records) == 1
    queue.work()
    recorder.close()
    assert [value for _, value, _ in read(recorder.path)] == [float(value) for value in range(64)]


@pytest.mark.parametrize(
    ("value", "why"),
    [
        (torch.zeros(3), "more than one element"),
        (torch.zeros(()) + 1j, "complex"),
    ],
    ids=["three", "complex"],
)
def test_a_tensor_that_is_no_number_is_refused(
    recorder: Recorder, queue: Queue, value: Any, why: str, caplog: pytest.LogCaptureFixture
) -> None:
    """It is said what it is; nothing is recorded, and what follows is."""
    with caplog.at_level(logging.WARNING, "mlops"):
        recorder.log({"a": value})
        recorder.log({"a": torch.tensor(1.0)})
    assert why in caplog.text
    assert recorder.refused == 1
    queue.work()
    recorder.close()
    assert [value for _, value, _ in read(recorder.path)] == [1.0]


def test_a_copy_that_fails_costs_its_own_value_only(
    recorder: Recorder, queue: Queue, caplog: pytest.LogCaptureFixture, wait_until: Wait
) -> None:
    """A device that is dead raises at every copy: that is warned of once, and slots are not lost by it."""
    queue.broken = True
    with caplog.at_level(logging.WARNING, "mlops"):
        for number in range(200):
            recorder.log({"a": torch.tensor(2.0)})
            wait_until(lambda number=number: recorder.refused == number + 1 and queue.free > 1)  # type: ignore[misc]
    queue.broken = False
    assert recorder.dropped == 0
    assert len([record for record in caplog.records if "device-side assert" in record.getMessage()]) == 1


def test_what_is_logged_while_a_graph_is_captured_is_refused(
    recorder: Recorder, queue: Queue, caplog: pytest.LogCaptureFixture
) -> None:
    """A copy would become part of the graph, and write to its slot at every replay."""
    recorder.log({"a": torch.tensor(1.0)})
    queue.capturing = True
    with caplog.at_level(logging.WARNING, "mlops"):
        recorder.log({"a": torch.tensor(2.0)})
    queue.capturing = False
    assert "CUDA graph" in caplog.text
    queue.work()
    recorder.close()
    assert [value for _, value, _ in read(recorder.path)] == [1.0]


def test_points_keep_their_places_among_those_that_were_here_at_once(
    recorder: Recorder, queue: Queue, wait_until: Wait
) -> None:
    """An epoch's end stands behind its losses, though these arrive later; what is behind waits in the buffer."""
    recorder.log({"a": torch.tensor(1.0), "b": 2.0})
    recorder.log({"a": torch.tensor(3.0)})
    recorder.log({"b": 4.0})
    queue.work(1)
    wait_until(lambda: len(read(recorder.path)) == 2)
    reader = PointsReader(recorder.path)
    assert sum(len(part) for part in reader.read()) == 2
    left = reader.read_buffer()
    assert left is not None
    assert left.value.tolist() == [4.0]
    queue.work()
    recorder.close()
    assert [value for _, value, _ in read(recorder.path)] == [1.0, 2.0, 3.0, 4.0]


def test_a_gpu_that_brings_nothing_for_long_holds_up_nothing(
    recorder: Recorder, queue: Queue, wait_until: Wait, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its values lose their places, so that what was metered meanwhile is seen, and are recorded when they come."""
    monkeypatch.setattr("mlops.recorder._PATIENCE", 0.05)
    for value in range(3):
        recorder.log({"a": torch.tensor(float(value)), "b": 10.0 + value})
    wait_until(lambda: len(read(recorder.path)) == 3)
    recorder.log({"b": 20.0})
    queue.work()
    wait_until(lambda: len(read(recorder.path)) == 7)
    recorder.close()
    assert sorted(value for name, value, _ in read(recorder.path) if name == "a") == [0.0, 1.0, 2.0]
    assert [value for name, value, _ in read(recorder.path) if name == "b"] == [10.0, 11.0, 12.0, 20.0]
    assert recorder.dropped == 0


def test_after_kill_9_only_what_had_not_come_is_missing(tmp_path: Path, queue: Queue) -> None:
    """Readers find in the buffer what was logged behind values that never came."""
    recorder = Recorder(tmp_path / "a.points", slots=1024, interval=60.0, arrivals=queue)
    recorder.log({"a": torch.tensor(1.0), "b": 2.0})
    recorder.log({"a": torch.tensor(3.0), "b": 4.0})
    reader = PointsReader(recorder.path)
    assert list(reader.read()) == []
    left = reader.read_buffer()
    assert left is not None
    assert left.value.tolist() == [2.0, 4.0]
    queue.work()
    recorder.close()


def test_the_end_waits_for_what_is_late(recorder: Recorder, queue: Queue, wait_until: Wait) -> None:
    """A GPU that still has work in its queue when the run ends gets the time to deliver."""
    for value in range(3):
        recorder.log({"a": torch.tensor(float(value))})
    ending = threading.Thread(target=recorder.close, args=(5.0,))
    ending.start()
    wait_until(lambda: recorder._state == "closing")
    queue.work()
    ending.join(10)
    assert [value for _, value, _ in read(recorder.path)] == [0.0, 1.0, 2.0]
    assert recorder.dropped == 0


def test_what_never_comes_is_counted_and_said(
    recorder: Recorder, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A GPU that has died does not keep a run from ending."""
    monkeypatch.setattr("mlops.recorder._LATE_SECONDS", 0.05)
    recorder.log({"a": 1.0})
    recorder.log({"a": torch.tensor(2.0)})
    with caplog.at_level(logging.WARNING, "mlops"):
        recorder.close()
    assert recorder.dropped == 1
    assert "1 values were logged on a GPU and had not come" in caplog.text
    assert [value for _, value, _ in read(recorder.path)] == [1.0]


def test_a_slot_taken_and_never_described_holds_up_nothing_for_long(queue: Queue) -> None:
    """An exception between taking a slot and using it costs that slot once."""
    log(queue, torch.tensor(1.0))
    queue.begin(torch.tensor(9.0))
    log(queue, torch.tensor(2.0))
    queue.work()
    found: list[float] = []
    for _ in range(40):
        found += part.value.tolist() if (part := queue.arrived()) is not None else []
    assert found == [1.0, 2.0]


def test_a_tensor_on_the_cpu_is_read_at_once(tmp_path: Path) -> None:
    """It needs no slot."""
    recorder = Recorder(tmp_path / "a.points", interval=0.01)
    put = recorder.series(Series.of("b"))
    for value in (torch.tensor(0.5), torch.tensor(3), torch.tensor([1.5]), torch.tensor(2.0, requires_grad=True) * 2):
        recorder.log({"a": value})
        put(value)
    recorder.close()
    assert [value for name, value, _ in read(recorder.path) if name == "a"] == [0.5, 3.0, 1.5, 4.0]
    assert [value for name, value, _ in read(recorder.path) if name == "b"] == [0.5, 3.0, 1.5, 4.0]


def test_a_forked_child_brings_nothing(recorder: Recorder, queue: Queue) -> None:
    """Its parent's values on their way are not its own."""
    recorder.log({"a": torch.tensor(1.0)})
    pid = os.fork()
    if pid == 0:
        recorder.log({"a": torch.tensor(2.0)})
        os._exit(recorder._arrivals.waiting)
    _, status = os.waitpid(pid, 0)
    assert status == 0
    queue.work()
    recorder.close()
    assert [value for _, value, _ in read(recorder.path)] == [1.0]


def test_only_torchs_own_types_are_taken() -> None:
    """A subclass may gather from all ranks when it is copied."""

    class Own(torch.Tensor):
        pass

    assert is_tensor(torch.Tensor)
    assert is_tensor(torch.nn.Parameter)
    assert not is_tensor(Own)
    assert not is_tensor(float)
