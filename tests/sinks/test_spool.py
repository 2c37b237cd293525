"""A points file on its way: any split, any crash, any damage, and every point arrives as one."""

from __future__ import annotations

import itertools
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlops.blocks import NOTES, POINTS, SERIES, Block, scan
from mlops.errors import SinkUnavailableError, SpoolBusyError, StoreError
from mlops.record import PointsReader
from mlops.series import Series
from mlops.sinks.spool import Spool
from mlops.store import RUNNING
from tests.sinks.durable import Ledger, Row, WrittenRun, columns_of, expected

NAN = float("nan")
Shape = list[list[tuple[int, float, bool]]]
"""Blocks of points: each one's series, time and whether its value is a number."""


def deliver(path: Path, sink: Ledger, *, ended: bool = True) -> Spool:
    """Deliver all there is, whatever goes wrong on the way; the spool, closed."""
    spool = Spool(path, sink, ended=ended)
    tries = 0
    while tries < 1000:
        tries += 1
        try:
            if not spool.advance():
                spool.describe()
                break
        except (SinkUnavailableError, StoreError):
            continue
    assert tries < 1000
    spool.close()
    return spool


def rows_of(*moments: float, series: int = 0) -> list[Row]:
    """Points of one series at these times; the values tell them apart."""
    return [(series, moment, float(number)) for number, moment in enumerate(moments)]


def numbered(count: int, first: int = 0) -> list[Row]:
    """Points of three series, a hundredth of a second apart."""
    return [(number % 3, number * 0.01, float(number)) for number in range(first, first + count)]


@pytest.fixture
def run(runs_dir: Path) -> WrittenRun:
    """A run that has ended."""
    return WrittenRun(runs_dir)


# -- any split, any crash, any cursor --------------------------------------------------------------

ROW = st.tuples(
    st.integers(0, 2),
    st.one_of(st.integers(0, 8).map(lambda half: half * 0.0005), st.floats(0, 100)),
    st.integers(0, 9).map(bool),
)
BLOCKS = st.lists(st.lists(ROW, min_size=1, max_size=9), max_size=6)
STEP = st.one_of(
    st.tuples(st.just("advance"), st.integers(1, 4)),
    st.tuples(st.just("fail"), st.integers(1, 2)),
    st.tuples(st.just("grow"), st.integers(1, 2)),
    st.tuples(st.just("restart"), st.just(0)),
    st.tuples(st.just("lose"), st.just(0)),
    st.tuples(st.just("older"), st.integers(0, 9)),
    st.tuples(st.just("tear"), st.integers(0, 1024)),
    st.tuples(st.just("flip"), st.integers(0, 400)),
)
PLAN = st.lists(STEP, max_size=14)


class _Journey:
    """One points file, its cursor and the processes that deliver it, one after the other."""

    def __init__(self, folder: Path, blocks: list[list[Row]], buffer: list[Row], most: int) -> None:
        self.run = WrittenRun(folder, outcome=RUNNING)
        self.blocks = blocks
        self.buffer = buffer
        self.sink = Ledger(most)
        self.writer = self.run.process()
        self.path = self.writer.path
        self.cursors: list[bytes] = []
        self.spool = Spool(self.path, self.sink)

    def take(self, step: str, count: int) -> None:
        """Take one step of a plan."""
        cursor = next(self.run.folder.path.glob("*.cursor"), None)
        if step == "advance":
            for _ in range(count):
                self._advance()
        elif step == "fail":
            self.sink.away(count)
        elif step == "grow":
            self._grow(count)
        elif step == "restart":
            self._restart()
        elif cursor is not None:
            self._restart(lambda: self._spoil(cursor, step, count))

    def _advance(self) -> None:
        try:
            self.spool.advance()
        except SinkUnavailableError:
            return
        for cursor in self.run.folder.path.glob("*.cursor"):
            self.cursors.append(cursor.read_bytes())

    def _grow(self, count: int) -> None:
        for rows in self.blocks[:count]:
            self.writer.write_points(columns_of(rows), 0)
        del self.blocks[:count]

    def _restart(self, meanwhile: object = None) -> None:
        self.spool.close()
        if callable(meanwhile):
            meanwhile()
        self.spool = Spool(self.path, self.sink)

    def _spoil(self, cursor: Path, step: str, count: int) -> None:
        raw = bytearray(cursor.read_bytes())
        if step == "lose":
            cursor.unlink()
        elif step == "older" and self.cursors:
            cursor.write_bytes(self.cursors[count % len(self.cursors)])
        elif step == "tear":
            cursor.write_bytes(raw[:count])
        elif step == "flip" and raw:
            raw[count % len(raw)] ^= 0x55
            cursor.write_bytes(raw)

    def end(self) -> None:
        """The process is killed with points in its buffer; an upload sends what is left, and another one nothing."""
        self.spool.close()
        written = [row for rows in self.all_blocks for row in rows]
        self._grow(len(self.blocks))
        self.writer.close()
        if self.buffer:
            self.run.buffer(self.path, self.buffer)
        self.sink.trouble.clear()
        spool = deliver(self.path, self.sink)
        assert self.sink.points == expected(self.run.folder.id, [*written, *self.buffer])
        assert not self.sink.changed
        assert len(self.sink.identities) <= 1
        assert spool.gaps == []
        calls, cursor = self.sink.calls, (spool.delivered, spool.dropped)
        again = deliver(self.path, self.sink)
        assert self.sink.calls == calls
        assert (again.delivered, again.dropped) == cursor

    def go(self, plan: list[tuple[str, int]]) -> None:
        """All of it."""
        self.all_blocks = list(self.blocks)
        for step, count in plan:
            self.take(step, count)
        self.end()


@contextmanager
def _folder() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp())
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


def _journey(blocks: Shape, buffer: list[tuple[int, float, bool]], most: int, plan: list[tuple[str, int]]) -> None:
    values = itertools.count(
        1.0
    )  # none twice: points alike to the last bit are taken for one that is left in the buffer
    told = [[(number, at, next(values) if good else NAN) for number, at, good in rows] for rows in [*blocks, buffer]]
    with _folder() as folder:
        _Journey(folder, told[:-1], told[-1], most).go(plan)


@settings(max_examples=25, deadline=None)
@given(BLOCKS, st.lists(ROW, max_size=6), st.integers(1, 12), PLAN)
def test_every_point_arrives_as_one_however_often_it_breaks_off(
    blocks: Shape, buffer: list[tuple[int, float, bool]], most: int, plan: list[tuple[str, int]]
) -> None:
    """Processes that stop anywhere, with the cursor saved, lost, torn, damaged or older, and the buffer of the last."""
    _journey(blocks, buffer, most, plan)


@pytest.mark.slow
@settings(max_examples=600, deadline=None)
@given(BLOCKS, st.lists(ROW, max_size=6), st.integers(1, 12), PLAN)
def test_and_so_it_is_for_many_more(
    blocks: Shape, buffer: list[tuple[int, float, bool]], most: int, plan: list[tuple[str, int]]
) -> None:
    """The same, some hundred times more."""
    _journey(blocks, buffer, most, plan)


def test_what_is_not_sent_is_counted_once(run: WrittenRun) -> None:
    """Values that are no numbers count as dropped once, also in a buffer, however often the file is looked at."""
    path = run.whole([[(0, 0.0, NAN), (0, 0.1, 1.0)], [(0, 0.2, NAN)]])
    run.buffer(path, [(0, 0.3, NAN), (1, 0.4, NAN)])
    sink = Ledger(most=1)
    for _ in range(3):
        spool = deliver(path, sink)
        assert (spool.delivered, spool.dropped, spool.refused) == (1, 4, 0)
    assert sink.dropped == 4


def test_what_is_refused_is_counted_apart(run: WrittenRun) -> None:
    """Points that the destination has looked at and will not take are dropped, and told as refused."""
    sink = Ledger()
    sink.refuse = lambda series: series.name == "metric.1"
    spool = deliver(run.whole([numbered(9)]), sink)
    assert (spool.delivered, spool.dropped, spool.refused) == (6, 3, 3)


def test_a_file_that_is_done_is_not_read_again(run: WrittenRun) -> None:
    """The cursor of a run that has ended says so, until the file grows or leaves a buffer."""
    path = run.whole([numbered(9)])
    sink = Ledger()
    deliver(path, sink)
    spool = Spool(path, sink, ended=True)
    assert spool.is_done()
    spool.close()
    run.buffer(path, [(0, 9.0, 1.0)])
    spool = Spool(path, sink, ended=True)
    assert not spool.is_done()
    spool.close()
    deliver(path, sink)
    assert len(sink.points) == 10


def test_the_end_of_a_run_is_told_once(runs_dir: Path) -> None:
    """The owner's file tells about the run: while it goes on, and once more when it has ended; a joined one never."""
    live = WrittenRun(runs_dir, "beef00", outcome=RUNNING, ended=None)
    sink = Ledger()
    writer = live.process()
    writer.write_points(columns_of(numbered(3)), 0)
    spool = Spool(writer.path, sink)
    while spool.advance():
        pass
    spool.describe()
    spool.describe()
    assert [info.outcome for _, info in sink.told] == [RUNNING]
    live.info.outcome = "failed"
    live.folder.write_info(live.info)
    spool.describe()
    spool.close()
    deliver(writer.path, sink)
    assert [info.outcome for _, info in sink.told] == [RUNNING, "failed"]
    joined = live.whole([numbered(3)], pid=2, process="node-1-2-0")
    deliver(joined, sink)
    assert len(sink.told) == 2
    again = Spool(joined, sink, ended=True)
    assert again.is_done()
    again.close()


def test_what_joined_processes_noted_is_told_once_all_have_ended(runs_dir: Path) -> None:
    """A notebook's own parameters are known to its kernel, and not to the command that owns the run."""
    run = WrittenRun(runs_dir, parameters={"lr": 1})
    run.whole([numbered(3)], pid=2, process="node-1-2-0", parameters={"lr": 2, "model": "ResNet"})
    sink = Ledger()
    deliver(run.whole([numbered(3)]), sink)
    ((_, info),) = sink.told
    assert info.parameters == {"lr": 1, "model": "ResNet"}


# -- a file that is damaged, or cannot be read for a while ------------------------------------------


def _blocks(path: Path, kind: int = POINTS) -> list[Block]:
    return [found for found in scan(path.read_bytes()) if isinstance(found, Block) and found.kind == kind]


def _damage(path: Path, block: Block) -> None:
    raw = bytearray(path.read_bytes())
    raw[block.offset + 40] ^= 0xFF
    path.write_bytes(raw)


def test_around_damage_everything_is_delivered_and_the_gap_is_named(run: WrittenRun) -> None:
    """Of three blocks the middle one is damaged: the others arrive, and what is missing is told."""
    path = run.whole([numbered(5), numbered(5, 5), numbered(5, 10)])
    _damage(path, _blocks(path)[1])
    sink = Ledger()
    spool = deliver(path, sink)
    assert sink.points == expected(run.folder.id, [*numbered(5), *numbered(5, 10)])
    said = " ".join(gap.what for gap in spool.gaps)
    assert "are damaged and were passed over" in said
    assert sum(gap.points for gap in spool.gaps) == 5


def test_damage_to_a_block_that_was_half_delivered_costs_no_other(run: WrittenRun) -> None:
    """The cursor within it does not count into the next one."""
    path = run.whole([numbered(5), numbered(5, 5)])
    sink = Ledger(most=3)
    spool = Spool(path, sink, ended=True)
    assert spool.advance()
    spool.close()
    _damage(path, _blocks(path)[0])
    deliver(path, sink)
    assert sink.points == expected(run.folder.id, [*numbered(3), *numbered(5, 5)])


def test_a_file_that_was_cut_is_said_to_lack_points(run: WrittenRun) -> None:
    """What run.json counted and the file has not is a gap, and no success."""
    path = run.whole([numbered(5), numbered(5, 5)])
    run.info.notes["points"] = {path.name: 10}
    run.folder.write_info(run.info)
    os.truncate(path, _blocks(path)[1].offset)
    spool = deliver(path, sink := Ledger())
    assert len(sink.points) == 5
    assert [gap.what for gap in spool.gaps] == ["5 points that were written are not there"]


def test_an_unfinished_write_is_marked_as_one(run: WrittenRun) -> None:
    """What a kill leaves at the end of a file is told from damage."""
    path = run.whole([numbered(5)])
    with path.open("ab") as file:
        file.write(b"MLPB unfinished")
    spool = deliver(path, Ledger())
    assert [gap.torn for gap in spool.gaps] == [True]


def test_a_lost_name_of_a_series_costs_its_points_alone(run: WrittenRun) -> None:
    """Points whose series' definition was damaged are named; all others arrive."""
    writer = run.process(series=1)
    writer.write_series({1: Series("metric.1")})
    writer.write_points(columns_of([(0, 0.0, 1.0), (1, 0.0, 2.0), (0, 0.1, 3.0)]), 0)
    writer.close()
    _damage(writer.path, _blocks(writer.path, SERIES)[1])
    spool = deliver(writer.path, sink := Ledger())
    assert sink.points == expected(run.folder.id, [(0, 0.0, 1.0), (0, 0.1, 3.0)])
    assert "the names of 1 points' series are missing" in [gap.what for gap in spool.gaps]


def test_two_processes_whose_notes_are_lost_stay_two(run: WrittenRun) -> None:
    """Without what a joined process noted about itself, its file's name keeps its series apart from the owner's."""
    first, second = run.whole([numbered(3)]), run.whole([numbered(3)], pid=2, process="node-1-2-0")
    for path in (first, second):
        _damage(path, _blocks(path, NOTES)[0])
    sink = Ledger()
    deliver(first, sink)
    deliver(second, sink)
    assert len(sink.points) == 6


class _Away:
    """Has some of the looks at a file fail, as a network file system does that is away for a while."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *fails: int) -> None:
        self.calls = 0
        self.fails = fails
        self._read = PointsReader.read
        away = self

        def read(reader: PointsReader, *, whole: bool = False) -> Iterator[object]:
            away.calls += 1
            if away.calls in away.fails:
                raise StoreError(f"Cannot read {reader.path}: Input/output error")
            yield from away._read(reader, whole=whole)

        monkeypatch.setattr(PointsReader, "read", read)


@pytest.mark.parametrize("fails", [(1,), (2,), (1, 2), (2, 3), (3,)])
def test_a_file_system_that_is_away_costs_no_point(
    run: WrittenRun, monkeypatch: pytest.MonkeyPatch, fails: tuple[int, ...]
) -> None:
    """Whichever look at the file fails, also the second one that points out of order need, nothing is passed over."""
    rows = [rows_of(5, 6, 7), rows_of(5, 4, 5), numbered(4, 20)]
    path = run.whole(rows)
    run.buffer(path, rows_of(4, 5))
    _Away(monkeypatch, *fails)
    sink = Ledger(most=2)
    deliver(path, sink)
    assert sink.points == expected(run.folder.id, [row for block in rows for row in block] + rows_of(4, 5))


def test_a_buffer_that_cannot_be_read_is_a_gap(run: WrittenRun) -> None:
    """It is named, and the next delivery looks at it again."""
    path = run.whole([numbered(3)])
    path.with_suffix(".ring").mkdir()
    spool = deliver(path, sink := Ledger())
    assert [(gap.file, gap.what) for gap in spool.gaps] == [("node-1-1-0.ring", "it cannot be read: Is a directory")]
    assert len(sink.points) == 3
    path.with_suffix(".ring").rmdir()
    run.buffer(path, [(0, 9.0, 1.0)])
    deliver(path, sink)
    assert len(sink.points) == 4


# -- whose turn it is --------------------------------------------------------------------------------


def test_two_in_one_process_are_told_apart(run: WrittenRun, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second is told who delivers the file, whatever way leads to the folder; after the first it may."""
    path = run.whole([numbered(3)])
    first = Spool(path, Ledger(), ended=True)
    first.open()
    monkeypatch.chdir(path.parent)
    second = Spool(Path(path.name), Ledger(), ended=True)
    with pytest.raises(SpoolBusyError) as caught:
        second.advance()
    assert caught.value.pid == os.getpid()
    assert f"process {os.getpid()} on" in str(caught.value)
    assert path.name in str(caught.value)
    assert "Nothing is lost" in caught.value.remedy
    first.close()
    assert second.advance()
    second.close()


def test_another_destination_has_a_cursor_of_its_own(run: WrittenRun) -> None:
    """What went to one cloud says nothing of another, also while both are at it."""
    path = run.whole([numbered(3)])
    here, there = Ledger(where="ledger here"), Ledger(where="ledger there")
    deliver(path, here)
    first, second = Spool(path, here, ended=True), Spool(path, there, ended=True)
    assert not first.advance()
    assert second.advance()
    assert here.points == there.points
    first.close()
    second.close()


def test_a_folder_that_cannot_be_written_is_delivered_all_the_same(
    run: WrittenRun, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing can be noted there, which is said once; a cursor that is there is heeded."""
    path = run.whole([numbered(3)])
    real = os.open

    def read_only(path: object, flags: int, *rest: object, **options: object) -> int:
        if str(path).endswith(".cursor") and flags & os.O_RDWR:
            raise OSError(30, "Read-only file system")
        return real(path, flags, *rest, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "open", read_only)
    sink = Ledger()
    deliver(path, sink)
    assert deliver(path, sink).delivered == 3
    assert sink.calls == 2, "without a cursor all is sent again"
    (record,) = caplog.records
    assert record.message.startswith(f"Cannot write {path.parent}/node-1-1-0.ledger-")
    assert "Read-only file system" in record.message
    assert "sends the same points again, which costs time and changes nothing" in record.message
    monkeypatch.setattr(os, "open", real)
    deliver(path, sink)
    monkeypatch.setattr(os, "open", read_only)
    deliver(path, sink)
    assert sink.calls == 3
