"""Sending what is left of recorded runs: everything once, whatever stands in the way."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import pytest

import mlops
from mlops import upload as upload_module
from mlops.errors import (
    AuthorisationError,
    CloudConfigError,
    RequestRefusedError,
    SinkUnavailableError,
)
from mlops.record import read_run
from mlops.sinks._cursor import Cursor
from mlops.sinks.spool import Spool
from mlops.store import RUNNING, RunFolder
from mlops.upload import Progress, Upload, look, upload
from tests.sinks.durable import Ledger, Row, WrittenRun, columns_of, expected

Wait = Callable[[Callable[[], object]], None]


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Waiting costs no time."""
    made = Clock()
    monkeypatch.setattr(upload_module, "time", made)
    return made


class Clock:
    """Goes only while somebody sleeps.

    Attributes:
        slept: for how long, each time.
    """

    def __init__(self) -> None:
        self.slept: list[float] = []

    def sleep(self, seconds: float) -> None:
        """Let time go by."""
        self.slept.append(seconds)

    def monotonic(self) -> float:
        """How much has gone by."""
        return 1000.0 + sum(self.slept)


def numbered(count: int, first: int = 0) -> list[Row]:
    """Points of three series, a hundredth of a second apart."""
    return [(number % 3, number * 0.01, float(number)) for number in range(first, first + count)]


def send(run: RunFolder, sink: Ledger, **options: Any) -> Upload:
    """Upload one run."""
    (result,) = upload([run], sink, **options)
    return result


# -- what is sent ------------------------------------------------------------------------------------


def test_all_files_of_a_run_are_sent(runs_dir: Path) -> None:
    """The owner's and those of processes that joined, each under its own identity; a second call sends nothing."""
    run = WrittenRun(runs_dir)
    run.whole([numbered(7), numbered(5, 7)])
    run.whole([numbered(4)], pid=2, process="node-1-2-0")
    run.whole([numbered(4)], pid=3, rank=1)
    sink = Ledger(most=3)
    result = send(run.folder, sink)
    assert (result.sent, result.before, result.dropped, result.left) == (20, 0, 0, 0)
    assert not result.problems
    wanted = expected(run.folder.id, numbered(12)) | expected(run.folder.id, numbered(4), "node-1-2-0")
    assert sink.points == wanted | expected(run.folder.id, numbered(4), "1")
    assert [info.outcome for _, info in sink.told] == ["finished"]
    calls = sink.calls
    again = send(run.folder, sink)
    assert (again.sent, again.before, again.left) == (0, 20, 0)
    assert sink.calls == calls


def test_it_goes_on_where_the_training_stopped(runs_dir: Path) -> None:
    """What the training's own sink had delivered is not sent again; what came late is."""
    sink = Ledger()
    with mlops.Run("digits", sinks=[sink], devices=[], runs_dir=runs_dir) as run:
        for number in range(50):
            run.log({"a": float(number)})
    count = len(read_run(RunFolder(run.dir)).columns)
    assert sink.sent == count >= 50
    result = send(RunFolder(run.dir), Ledger())
    assert (result.sent, result.before) == (0, count)
    elsewhere = Ledger(where="ledger elsewhere")
    result = send(RunFolder(run.dir), elsewhere)
    assert (result.sent, result.before) == (count, 0), "another destination has a cursor of its own"
    assert elsewhere.points == sink.points
    assert elsewhere.identities == sink.identities


def test_a_run_that_goes_on_is_sent_as_far_as_it_is_recorded(runs_dir: Path) -> None:
    """And told as running; what follows is sent by the next upload."""
    run = WrittenRun(runs_dir, outcome=RUNNING, ended=None, host="elsewhere")
    writer = run.process(host="elsewhere")
    writer.write_points(columns_of(numbered(5)), 0)
    run.buffer(writer.path, numbered(2, 5))
    sink = Ledger()
    result = send(run.folder, sink)
    assert result.running
    assert (result.sent, sink.told[-1][1].outcome) == (5, RUNNING), "its buffer is its own"
    writer.write_points(columns_of(numbered(2, 5)), 0)
    writer.close()
    writer.path.with_suffix(".ring").unlink()
    run.info.outcome, run.info.ended = "finished", 5.0
    run.folder.write_info(run.info)
    assert send(run.folder, sink).sent == 2
    assert sink.points == expected(run.folder.id, numbered(7))
    assert sink.told[-1][1].outcome == "finished"


def test_progress_is_told(runs_dir: Path) -> None:
    """How many points of how many, and why nothing goes on."""
    run = WrittenRun(runs_dir)
    run.whole([numbered(10)])
    sink = Ledger(most=4)
    sink.trouble = [None, SinkUnavailableError("It is away", remedy="Wait.")]
    told: list[Progress] = []
    send(run.folder, sink, on_progress=told.append)
    assert [(one.done, one.total, one.trouble) for one in told] == [
        (0, 10, ""),
        (4, 10, ""),
        (4, 10, "It is away"),
        (8, 10, ""),
        (10, 10, ""),
        (10, 10, ""),
    ]


def test_what_cannot_be_sent_is_counted(runs_dir: Path) -> None:
    """nan, infinities and impossible times apart from what is refused; all of it again when asked again."""
    run = WrittenRun(runs_dir)
    rows = [*numbered(6), (0, 1.0, math.nan), (1, 1.0, math.inf), (2, -3e9, 1.0)]
    run.whole([rows])
    sink = Ledger()
    sink.refuse = lambda series: series.name == "metric.1"
    for _ in range(2):
        result = send(run.folder, sink)
        assert (result.sent + result.before, result.dropped, result.refused) == (4, 5, 2)


def test_looking_tells_what_is_left_and_changes_nothing(runs_dir: Path) -> None:
    """Points that are delivered, dropped and left, with a cursor half-way, a buffer and damage."""
    run = WrittenRun(runs_dir)
    path = run.whole([numbered(6), [(0, 1.0, math.nan)], numbered(6, 6)])
    run.buffer(path, numbered(3, 12))
    sink = Ledger(most=4)
    assert (look([run.folder], sink)[0].left, sink.calls) == (16, 0)
    spool = Spool(path, sink, ended=True)
    spool.advance()
    spool.advance()
    spool.close()
    before = sorted((entry.name, entry.read_bytes()) for entry in run.folder.path.iterdir())
    (found,) = look([run.folder], sink)
    assert (found.before, found.dropped, found.left) == (8, 1, 7)
    assert sorted((entry.name, entry.read_bytes()) for entry in run.folder.path.iterdir()) == before
    result = send(run.folder, sink)
    assert (result.sent, result.before) == (7, 8)
    assert look([run.folder], sink)[0].left == 0


# -- what is damaged or missing ----------------------------------------------------------------------


def test_damage_is_named_and_the_rest_is_sent(runs_dir: Path) -> None:
    """Of a run with a damaged block, a file that is gone and one that cannot be read, all else arrives."""
    run = WrittenRun(runs_dir)
    path = run.whole([numbered(5), numbered(5, 5), numbered(5, 10)])
    other = run.whole([numbered(5)], pid=2, process="node-1-2-0")
    run.info.notes["points"] = {path.name: 15, "node-9-9-0.points": 77}
    run.folder.write_info(run.info)
    raw = bytearray(path.read_bytes())
    place = raw.find(b"MLPB", raw.find(b"MLPB", raw.find(b"MLPB", raw.find(b"MLPB") + 1) + 1) + 1)
    raw[place + 40] ^= 0xFF
    path.write_bytes(raw)
    other.unlink()
    other.mkdir()
    sink = Ledger()
    result = send(run.folder, sink)
    assert sink.points == expected(run.folder.id, [*numbered(5), *numbered(5, 10)])
    said = "\n".join(result.problems)
    assert "node-9-9-0.points: the file is missing, and 77 points with it" in said
    assert "node-1-1-0.points: " in said
    assert "are damaged and were passed over" in said
    assert f"Cannot read {other}: Is a directory" in said


def test_without_a_readable_run_json_points_are_sent_all_the_same(runs_dir: Path) -> None:
    """Under the identity that each process noted; that it cannot be read is said once."""
    run = WrittenRun(runs_dir)
    run.whole([numbered(5)])
    (run.folder.path / "run.json").write_text("{")
    sink = Ledger()
    result = send(run.folder, sink)
    assert sink.points == expected(run.folder.id, numbered(5))
    assert [problem.partition(":")[0] for problem in result.problems] == [f"Cannot read {run.folder.path}/run.json"]
    (run.folder.path / "run.json").unlink()
    result = send(run.folder, sink)
    assert (result.sent, result.before, result.problems) == (0, 5, [])


def test_an_unfinished_write_is_no_problem(runs_dir: Path) -> None:
    """A kill leaves it, and what was in it is in the buffer."""
    run = WrittenRun(runs_dir)
    path = run.whole([numbered(5)])
    with path.open("ab") as file:
        file.write(b"MLPB")
    run.buffer(path, numbered(2, 5))
    sink = Ledger()
    result = send(run.folder, sink)
    assert sink.points == expected(run.folder.id, numbered(7))
    assert not result.problems
    assert "unfinished write" in result.notes[0]


# -- a destination that is away ----------------------------------------------------------------------


def test_a_destination_that_is_away_is_waited_for(runs_dir: Path, clock: Clock) -> None:
    """As long as it takes, if it comes back before patience runs out; each success begins it anew."""
    run = WrittenRun(runs_dir)
    run.whole([numbered(20)])
    sink = Ledger(most=5)
    for _ in range(4):
        sink.away(8)
        sink.trouble.append(None)
    result = send(run.folder, sink, patience=150.0)
    assert sink.points == expected(run.folder.id, numbered(20))
    assert result.sent == 20
    assert len(clock.slept) == 32


def test_patience_runs_out(runs_dir: Path, clock: Clock) -> None:
    """The destination's own last words come out; what was sent is behind the cursor, what became of it is told."""
    run = WrittenRun(runs_dir)
    run.whole([numbered(10)])
    sink = Ledger(most=4)
    sink.trouble = [None]
    sink.away(1000)
    told: list[Upload] = []
    with pytest.raises(SinkUnavailableError, match="It is away"):
        upload([run.folder], sink, on_run=told.append, patience=60.0)
    assert sum(clock.slept) == pytest.approx(60)  # the last wait is as long as patience lasts
    assert [(one.sent, one.left) for one in told] == [(4, 6)]
    sink.trouble.clear()
    result = send(run.folder, sink)
    assert (result.sent, result.before) == (6, 4)


def test_no_patience_is_one_try(runs_dir: Path, clock: Clock) -> None:
    """Nothing is waited for."""
    run = WrittenRun(runs_dir)
    run.whole([numbered(3)])
    sink = Ledger()
    sink.away(1)
    with pytest.raises(SinkUnavailableError):
        send(run.folder, sink, patience=0.0)
    assert clock.slept == []


def test_a_retry_after_is_heeded_or_given_up_at_once(runs_dir: Path, clock: Clock) -> None:
    """It is waited out; one beyond all patience is not waited for in vain."""
    run = WrittenRun(runs_dir)
    run.whole([numbered(3)])
    sink = Ledger()
    sink.away(1, retry_after=40.0)
    send(run.folder, sink, patience=60.0)
    assert len(clock.slept) == 1
    assert 40 <= clock.slept[0] <= 44
    second = WrittenRun(runs_dir, "beef00")
    second.whole([numbered(3)])
    sink.away(1, retry_after=600.0)
    with pytest.raises(SinkUnavailableError):
        send(second.folder, sink, patience=60.0)
    assert len(clock.slept) == 1


def test_credentials_that_are_refused_once_may_be_a_restart(runs_dir: Path) -> None:
    """Refused three times in a row they are wrong."""
    run = WrittenRun(runs_dir)
    run.whole([numbered(10)])
    sink = Ledger(most=4)
    no = AuthorisationError("Not you")
    sink.trouble = [no, no, None, no, None, no, no, no]
    with pytest.raises(AuthorisationError):
        send(run.folder, sink)
    assert len(sink.points) == 8


@pytest.mark.parametrize(
    "error", [CloudConfigError("No endpoint"), RequestRefusedError("No", status=404), ZeroDivisionError("odd")]
)
def test_what_waiting_does_not_mend_is_not_waited_for(runs_dir: Path, clock: Clock, error: Exception) -> None:
    """It comes out at once, and the next call goes on."""
    run = WrittenRun(runs_dir)
    run.whole([numbered(3)])
    sink = Ledger()
    sink.trouble = [error]
    with pytest.raises(type(error)):
        send(run.folder, sink)
    assert clock.slept == []
    assert send(run.folder, sink).sent == 3


def test_ctrl_c_loses_nothing(runs_dir: Path) -> None:
    """What was sent is told, and the next call goes on from there."""
    run = WrittenRun(runs_dir)
    run.whole([numbered(10)])
    sink = Ledger(most=4)
    sink.trouble = [None, KeyboardInterrupt()]  # type: ignore[list-item]  # as a signal would, in the midst of it
    told: list[Upload] = []
    with pytest.raises(KeyboardInterrupt):
        upload([run.folder], sink, on_run=told.append)
    assert [(one.sent, one.left) for one in told] == [(4, 6)]
    assert send(run.folder, sink).sent == 6
    assert sink.points == expected(run.folder.id, numbered(10))


def test_all_files_are_ours_alone(runs_dir: Path) -> None:
    """What an upload writes is for its user only."""
    run = WrittenRun(runs_dir)
    run.whole([numbered(3)])
    send(run.folder, Ledger())
    (cursor,) = run.folder.path.glob("*.cursor")
    assert cursor.stat().st_mode & 0o777 == 0o600


# -- whether it has arrived --------------------------------------------------------------------------


class Leaky(Ledger):
    """Has less than it took.

    Attributes:
        lost: keys of points that it loses once they have been taken.
        asked: how often it was asked.
        answer: what it says instead, if not ``None``; an error is raised.
    """

    def __init__(self, lost: int = 0, **options: Any) -> None:
        super().__init__(**options)
        self.lost = lost
        self.asked = 0
        self.answer: int | BaseException | None = None

    def arrived(self, run_id: str) -> int | None:
        """As many as it has."""
        self.asked += 1
        for key in list(self.points)[: self.lost]:
            del self.points[key]
        self.lost = 0
        if isinstance(self.answer, BaseException):
            raise self.answer
        return len(self.points) if self.answer is None else self.answer


def test_what_got_lost_behind_the_destination_is_sent_again(runs_dir: Path) -> None:
    """It is asked how many it has; until it has all, they come again. Once confirmed it is asked no more."""
    run = WrittenRun(runs_dir)
    run.whole([numbered(10)])
    run.whole([numbered(5)], pid=2, process="node-1-2-0")
    sink = Leaky(lost=3)
    result = send(run.folder, sink)
    assert (result.confirmed, result.again) == (True, 3)
    assert len(sink.points) == 15
    assert not result.problems
    asked = sink.asked
    assert send(run.folder, sink).before == 15
    assert sink.asked == asked


def test_all_runs_are_delivered_before_the_first_is_waited_for(runs_dir: Path) -> None:
    """A destination needs seconds to store what it takes: it has them while it is sent the others."""
    runs = [WrittenRun(runs_dir, tail) for tail in ("0a1b2c", "beef00", "c0ffee")]
    for run in runs:
        run.whole([numbered(10)])

    class Counting(Ledger):
        seen: ClassVar[list[tuple[str, int]]] = []

        def arrived(self, run_id: str) -> int:
            self.seen.append((run_id, len(self.points)))
            return 10

    told: list[Upload] = []
    results = upload([run.folder for run in runs], sink := Counting(), on_run=told.append)
    assert sink.seen == [(run.folder.id, 30) for run in runs]
    assert results == told
    assert all(one.confirmed for one in results)


def test_ctrl_c_while_it_is_waited_tells_of_every_run(runs_dir: Path, clock: Clock) -> None:
    """What was delivered is told, confirmed or not."""
    runs = [WrittenRun(runs_dir, tail) for tail in ("0a1b2c", "beef00")]
    for run in runs:
        run.whole([numbered(10)])
    sink = Leaky()
    sink.answer = KeyboardInterrupt()
    told: list[Upload] = []
    with pytest.raises(KeyboardInterrupt):
        upload([run.folder for run in runs], sink, on_run=told.append)
    assert [(one.run, one.sent, one.left, one.confirmed) for one in told] == [
        (run.folder.id, 10, 0, False) for run in runs
    ]
    assert clock.slept == []


def test_a_destination_that_keeps_losing_is_a_problem(runs_dir: Path) -> None:
    """After some rounds it is said how many are not there, and whose matter it is."""
    run = WrittenRun(runs_dir)
    run.whole([numbered(10)])
    sink = Leaky()
    sink.answer = 8
    result = send(run.folder, sink)
    assert not result.confirmed
    assert "2 points were taken by the cloud and did not get into its database" in result.problems[0]


def test_a_folder_that_cannot_be_written_is_confirmed_by_what_was_sent(
    runs_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a cursor on disk it is known all the same how many must be there."""
    run = WrittenRun(runs_dir)
    run.whole([numbered(10)])
    real = os.open

    def read_only(path: object, flags: int, *rest: object, **options: object) -> int:
        if str(path).endswith(".cursor"):
            raise OSError(30, "Read-only file system")
        return real(path, flags, *rest, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "open", read_only)
    sink = Leaky(lost=4)
    result = send(run.folder, sink)
    assert (result.sent, result.confirmed, result.again) == (10, True, 4)
    assert len(sink.points) == 10


@pytest.mark.parametrize(
    "error", [AuthorisationError("You may not read"), RequestRefusedError("Too many series", status=409)]
)
def test_one_that_does_not_tell_is_no_failure(runs_dir: Path, error: Exception) -> None:
    """A role that may only send has delivered all the same."""
    run = WrittenRun(runs_dir)
    run.whole([numbered(10)])
    sink = Leaky()
    sink.answer = error
    result = send(run.folder, sink)
    assert (result.sent, result.confirmed, result.problems) == (10, False, [])
    assert result.notes[0].startswith("delivered, not confirmed")
    assert send(run.folder, Ledger(), confirm=False).before == 10


# -- whose turn it is ----------------------------------------------------------------------------------


def test_beside_another_upload(runs_dir: Path) -> None:
    """What another process holds is named as a problem; everything else is sent."""
    run, other = WrittenRun(runs_dir), WrittenRun(runs_dir, "beef00")
    run.whole([numbered(3)])
    held = run.whole([numbered(3)], pid=2, process="node-1-2-0")
    other.whole([numbered(3)])
    cursor = Cursor(held, "ledger here")
    sink = Ledger()
    first, second = upload([run.folder, other.folder], sink)
    assert (first.busy, first.sent, first.left, second.sent) == (True, 3, 3, 3)
    assert f"process {os.getpid()} on" in first.problems[0]
    assert "is sending node-1-2-0.points at this moment" in first.problems[0]
    cursor.close()
    assert send(run.folder, sink).sent == 3


def test_beside_a_training_that_sends_itself(runs_dir: Path, wait_until: Wait) -> None:
    """That is as it should be: a note, and no point twice."""
    sink = Ledger()
    sink.interval = 0.01
    with mlops.Run("digits", sinks=[sink], devices=[], runs_dir=runs_dir) as run:
        run.log({"a": 1.0})
        wait_until(lambda: sink.sent)
        result = send(RunFolder(run.dir), Ledger())
    assert (result.busy, result.running, result.problems, result.sent) == (True, True, [], 0)
    assert f"its training (process {os.getpid()} on " in result.notes[0]
    assert send(RunFolder(run.dir), Ledger()).before == sink.sent
