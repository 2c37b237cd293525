"""One monitored training from its beginning to each of its ends."""

from __future__ import annotations

import contextlib
import copy
import json
import os
import pickle
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import mlops
from mlops import blocks
from mlops.errors import RunError, SeriesError, SettingsError, SinkURLError
from mlops.record import Record, read_run
from mlops.run import JOIN_VARIABLE, Run, outcome_of
from mlops.sinks import MemorySink, Points, Sink
from mlops.store import RunFolder, RunInfo, open_run

Wait = Callable[[Callable[[], object]], None]


def read(run: Run) -> Record:
    """The run's record."""
    return read_run(RunFolder(run.dir))


def quiet(runs_dir: Path, **given: Any) -> Run:
    """A run without devices."""
    return Run(**{"name": "digits", "devices": [], "runs_dir": runs_dir, **given})


def test_a_run_leaves_its_points_and_a_full_run_json(runs_dir: Path) -> None:
    """The two lines of the README, and everything that run.json promises."""
    sink = MemorySink()
    with Run(
        "digits",
        dimensions={"team": "vision", "fold": 3},
        parameters={"lr": 1e-3, "where": Path("/x")},
        sinks=[sink],
        devices=[],
        runs_dir=runs_dir,
    ) as run:
        assert mlops.current_run() is run
        run.log({"train.loss": 0.5})
        run.series("gpu.power_watts", {"uuid": "x"})(300.0)
        assert run.end_epoch({"valid.loss": 0.25}, seconds=1.5) == 1
        assert run.end_epoch() == 2
        run.note(extra=1)
    assert mlops.current_run() is None
    assert run.dir.is_dir()
    record = read(run)
    assert [str(series) for series in record.series] == [
        "train.loss",
        "gpu.power_watts{uuid=x}",
        "valid.loss",
        "train.epoch_seconds",
        "train.epoch",
    ]
    content = json.loads((run.dir / "run.json").read_text())
    assert content["id"] == run.id == run.dir.name
    assert (content["name"], content["outcome"], content["reason"]) == ("digits", "finished", "")
    assert content["dimensions"] == {"team": "vision", "fold": "3"}
    assert content["parameters"] == {"lr": 1e-3, "where": "/x", "extra": 1}
    assert content["started"] < content["ended"]
    assert content["versions"]["mlops"] == mlops.__version__
    assert content["host"]
    assert {"git_commit", "pid"} <= content.keys()
    assert [(point.name, point.value, point.step) for point in sink.points] == [
        ("train.loss", 0.5, None),
        ("gpu.power_watts", 300.0, None),
        ("valid.loss", 0.25, 1),
        ("train.epoch_seconds", 1.5, 1),
        ("train.epoch", 1.0, 1),
        ("train.epoch", 2.0, 2),
    ]
    assert sink.closed


def test_the_git_commit_of_the_working_folder_is_noted(runs_dir: Path, tmp_path: Path) -> None:
    """With a plus when tracked files have changes."""
    environ = {**os.environ, "GIT_CONFIG_GLOBAL": os.devnull}

    def git(*arguments: str) -> str:
        command = ["git", "-c", "user.name=a", "-c", "user.email=a@b", *arguments]
        return subprocess.run(command, cwd=tmp_path, env=environ, capture_output=True, text=True, check=True).stdout

    git("init", "-q")
    (tmp_path / "train.py").write_text("x = 1\n")
    git("add", "train.py")
    git("commit", "-qm", "one")
    head = git("rev-parse", "HEAD").strip()
    with quiet(runs_dir) as run:
        pass
    assert read(run).info.git_commit == head
    (tmp_path / "train.py").write_text("x = 2\n")
    with quiet(runs_dir) as run:
        pass
    assert read(run).info.git_commit == f"{head}+"


@pytest.mark.parametrize(
    ("error", "outcome", "reason"),
    [
        (None, "finished", ""),
        (SystemExit(0), "finished", ""),
        (SystemExit(3), "failed", "SystemExit: 3"),
        (KeyboardInterrupt(), "interrupted", "KeyboardInterrupt"),
        (ValueError("bad\nmore"), "failed", "ValueError: bad"),
        (ValueError("in a callback:\n\tbad\nmore"), "failed", "ValueError: in a callback: bad"),
    ],
)
def test_how_a_run_ended_is_said(runs_dir: Path, error: BaseException | None, outcome: str, reason: str) -> None:
    """Each way out of the with block is an outcome with a reason, and the exception goes on."""
    expected = contextlib.nullcontext() if error is None else pytest.raises(type(error))
    with expected, quiet(runs_dir) as run:
        _raise(error)
    info = read(run).info
    assert (info.outcome, info.reason) == (outcome, reason) == outcome_of(error)


@pytest.mark.parametrize("values", [5, [1], "text", {"valid.loss": "high"}, {"valid loss": 1.0}])
def test_an_epochs_values_that_are_none_do_not_stop_the_training(runs_dir: Path, values: Any) -> None:
    """The epoch counts all the same, once."""
    with quiet(runs_dir) as run:
        assert run.end_epoch(values, seconds=1.0) == 1
        assert run.end_epoch() == 2
    ((_, columns),) = read(run).find("train.epoch")
    assert columns.value.tolist() == [1.0, 2.0]


class _Wordless:
    def __str__(self) -> str:
        raise ValueError("no text")


def test_parameters_noted_later_are_on_disk_at_once(runs_dir: Path) -> None:
    """A run that is killed keeps them; an object without a text does no harm."""
    with quiet(runs_dir) as run:
        run.note(lr=0.5, odd=_Wordless())
        content = json.loads((run.dir / "run.json").read_text())
        assert content["parameters"]["lr"] == 0.5
        assert content["outcome"] == "running"


def test_a_script_whose_file_name_monasca_would_refuse_is_named_after_it_all_the_same(
    runs_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody chose that name, so it is mended and not refused."""
    monkeypatch.setattr(sys.modules["__main__"], "__file__", "/x/tr,ain=1.py", raising=False)
    with quiet(runs_dir, name=None) as run:
        assert run.name == "tr_ain_1"
    monkeypatch.setattr(sys.modules["__main__"], "__file__", "<stdin>")
    with quiet(runs_dir, name=None) as run:
        assert run.name == "_stdin_"


def test_a_joined_run_does_not_meter_what_its_owner_meters(runs_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The devices' readings are in the owner's file and not once more in the other's."""
    with quiet(runs_dir, devices=["host"]) as owner, monkeypatch.context() as patch:
        patch.setenv(JOIN_VARIABLE, str(owner.dir))
        with Run(devices=["host"]) as inner:
            assert inner._sampler.wait_open(30)
        assert owner._sampler.wait_open(30)
    record = read(owner)
    metered = [
        {record.series[number].name for number in record.columns.series[start:stop].tolist()}
        for _, start, stop in record.processes
    ]
    assert "host.memory_used_bytes" in metered[0]
    assert metered[1] == set()


def test_points_that_a_finished_run_has_lost_since_are_named(runs_dir: Path) -> None:
    """A file cut exactly between two blocks, or gone, leaves no bad byte; what run.json says shows it."""
    with quiet(runs_dir) as run:
        for number in range(20):
            run.log({"a": float(number)})
    (path,) = run.dir.glob("*.points")
    assert read(run).gaps == ()
    data = path.read_bytes()
    last = [block for block in blocks.scan(data) if isinstance(block, blocks.Block) and block.kind == blocks.POINTS][-1]
    path.write_bytes(data[: last.offset])
    (gap,) = read(run).gaps
    assert (gap.points, gap.what) == (last.count, f"{last.count} points that were written are not there")
    path.unlink()
    (gap,) = read(run).gaps
    assert (gap.points, gap.what) == (20, "the file is missing")


def test_where_not_even_run_json_finds_room_the_run_is_recorded_elsewhere(
    runs_dir: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A disk that is full at the start costs no point."""
    original = RunFolder.write_info

    def full(self: RunFolder, info: RunInfo, **more: Any) -> None:
        if self.path.parent == runs_dir:
            raise OSError(28, "No space left on device")
        original(self, info, **more)

    monkeypatch.setattr(RunFolder, "write_info", full)
    with quiet(runs_dir) as run:
        run.log({"a": 1.0})
    assert run.dir.parent.parent == Path(tempfile.gettempdir())
    assert len(read(run).columns) == 1
    assert "No space left on device" in caplog.text


def test_closing_twice_or_with_an_unknown_outcome(runs_dir: Path) -> None:
    """The first close counts; an outcome that does not exist is an error that closes nothing."""
    run = quiet(runs_dir)
    with pytest.raises(RunError, match=r"no outcome 'splendid'.*finished"):
        run.close("splendid")
    assert run.is_open
    run.close("cancelled", "enough")
    run.close("failed", "again")
    assert read(run).info.outcome == "cancelled"
    assert repr(run) == f"<mlops.Run {run.id} closed>"


@pytest.mark.parametrize(
    ("given", "kind", "message"),
    [
        ({"sinks": ["carrier-pigeon://x"]}, SinkURLError, "no sink of scheme 'carrier-pigeon'.*memory, .*statsd"),
        ({"sinks": ["localhost"]}, SinkURLError, "has no scheme"),
        ({"sinks": ["statsd://a:99999"]}, SinkURLError, "cannot be read"),
        ({"sinks": ["statsd://user:secret@host"]}, SinkURLError, "user name or password"),
        ({"devices": ["abacus"]}, SettingsError, "no device 'abacus'.*nvidia, host, replay"),
        ({"devices": ["replay"]}, SettingsError, "needs a file"),
        ({"dimensions": {"team": "a|b"}}, SeriesError, r"contains '\|'"),
        ({"name": "a{b"}, SeriesError, "the run's name"),
    ],
)
def test_what_cannot_be_understood_is_an_error_at_the_start(
    runs_dir: Path, given: dict[str, Any], kind: type[Exception], message: str
) -> None:
    """A mistake in the setup is said before the training begins, and leaves nothing behind."""
    with pytest.raises(kind, match=message) as caught:
        quiet(runs_dir, **given)
    assert "secret" not in str(caught.value)
    assert not runs_dir.exists()
    assert mlops.current_run() is None


def test_settings_of_the_environment_reach_the_run(runs_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run without arguments takes everything from the environment."""
    monkeypatch.setenv("MLOPS_RUNS_DIR", str(runs_dir))
    monkeypatch.setenv("MLOPS_NAME", "from-environment")
    monkeypatch.setenv("MLOPS_DIMENSIONS", "site=north,team=a")
    monkeypatch.setenv("MLOPS_SINKS", "memory:")
    monkeypatch.setenv("MLOPS_DEVICES", "")
    with Run(dimensions={"team": "b"}) as run:
        run.log({"a": 1.0})
    assert run.dir.parent == runs_dir
    assert run.name == "from-environment"
    assert run.dimensions == {"site": "north", "team": "b"}
    (sink,) = run.sinks
    assert isinstance(sink, MemorySink)
    assert [point.name for point in sink.points] == ["a"]


def test_where_nothing_can_be_written_the_run_is_recorded_elsewhere(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """One warning names the folder and the remedy; the points are kept."""
    blocked = tmp_path / "blocked"
    blocked.write_text("a file where the folder should be")
    with quiet(blocked / "runs") as run:
        run.log({"a": 1.0})
    assert len(read(run).columns) == 1
    assert run.dir.parent.parent == Path(tempfile.gettempdir())
    assert len(caplog.records) == 1
    assert "MLOPS_RUNS_DIR" in caplog.text


def _raise(error: BaseException | None) -> None:
    if error is not None:
        raise error


class _Broken(Sink):
    def write(self, points: Points) -> None:
        raise RuntimeError("no")


class _Hanging(Sink):
    def __init__(self) -> None:
        self.let_go = threading.Event()

    def write(self, points: Points) -> None:
        self.let_go.wait()


def test_a_sink_that_raises_harms_neither_the_training_nor_the_other_sinks(
    runs_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It is warned of once, its points are counted as dropped, and the store and the other sink have them."""
    broken, good = _Broken(), MemorySink()
    with quiet(runs_dir, sinks=[broken, good]) as run:
        for number in range(10):
            run.log({"a": float(number)})
            time.sleep(0)
    assert broken.dropped == len(good.points) == 10
    assert len([record for record in caplog.records if "_Broken failed: RuntimeError: no" in record.message]) == 1


def test_a_cloud_that_is_described_nowhere_is_warned_of_and_ends_no_training(
    runs_dir: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """As one that is away or refuses us: the points are in the store, and the other sinks have theirs."""
    monkeypatch.setenv("OS_CLIENT_CONFIG_FILE", str(tmp_path / "none.yaml"))
    with quiet(runs_dir, sinks=["monasca://mycluod", good := MemorySink()]) as run:
        run.log({"a": 1.0})
    assert len(good.points) == len(read(run).columns) == 1
    (said,) = [record.message for record in caplog.records]
    assert said.startswith("monasca://mycluod: There is no cloud 'mycluod'")
    assert "Training goes on without it" in said


@pytest.mark.parametrize("began", [-3187296000.0, -1.0, 5.0])
def test_a_clock_of_another_century_costs_no_point(
    runs_dir: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, began: float
) -> None:
    """A node whose clock was never set records with the times that it has, and its run can be read."""
    offset = began - time.time()
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + offset)
    with quiet(runs_dir) as run:
        for number in range(20):
            run.log({"a": float(number)})
    assert run.dropped == 0
    record = read(run)
    assert record.columns.value.tolist() == [float(number) for number in range(20)]
    assert record.info.started == pytest.approx(began, abs=60)
    assert caplog.records == []


def test_a_sink_that_hangs_holds_up_the_end_no_longer_than_asked(
    runs_dir: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The end of the run is on disk before the sinks are waited for."""
    monkeypatch.setenv("MLOPS_CLOSE_SECONDS", "0.2")
    hanging = _Hanging()
    run = quiet(runs_dir, sinks=[hanging])
    run.log({"a": 1.0})
    run.close()
    assert read(run).info.outcome == "finished"
    assert len(read(run).columns) == 1
    assert "did not finish in time" in caplog.text
    hanging.let_go.set()


class _Timed(MemorySink):
    given = 0.0

    def close(self, timeout: float) -> None:
        self.given = timeout
        super().close(timeout)


def test_a_sink_that_hangs_takes_no_time_from_those_after_it(
    runs_dir: Path, monkeypatch: pytest.MonkeyPatch, wait_until: Wait
) -> None:
    """All sinks are told to finish at once; each has what is left of the time, not of its predecessor's."""
    monkeypatch.setenv("MLOPS_CLOSE_SECONDS", "1")
    hanging, timed = _Hanging(), _Timed()
    run = quiet(runs_dir, sinks=[hanging, timed])
    run.log({"a": 1.0})
    run.close()
    hanging.let_go.set()
    wait_until(lambda: timed.closed)
    assert timed.given > 0
    assert len(timed.points) == 1


def test_a_run_inside_mlops_run_joins_it(runs_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes over name and id, writes beside the owner, and leaves run.json to the owner."""
    with quiet(runs_dir, name="owner", dimensions={"site": "north"}) as owner:
        owner.log({"gpu.power_watts": 300.0})
        with monkeypatch.context() as patch:
            patch.setenv(JOIN_VARIABLE, str(owner.dir))
            for _ in range(2):
                with Run("inner", dimensions={"team": "v"}, parameters={"lr": 1}, devices=[]) as inner:
                    assert inner.joined
                    assert (inner.id, inner.name, inner.dir) == (owner.id, "owner", owner.dir)
                    assert inner.dimensions == {"site": "north", "team": "v"}
                    inner.log({"train.loss": 0.5})
                    inner.end_epoch()
        assert json.loads((owner.dir / "run.json").read_text())["outcome"] == "running"
    record = read(owner)
    assert record.info.outcome == "finished"
    assert record.info.parameters == {"lr": 1}
    assert record.info.dimensions == {"site": "north", "team": "v"}
    assert len(record.processes) == 3
    assert [value for _, columns in record.find("train.epoch") for value in columns.value] == [1.0, 2.0]


def test_two_runs_at_once_keep_their_points_apart(runs_dir: Path) -> None:
    """The newest is current; closing it makes the older one current again."""
    with quiet(runs_dir, name="one") as one:
        with quiet(runs_dir, name="two") as two:
            assert mlops.current_run() is two
            one.log({"a": 1.0})
            two.log({"a": 2.0})
        assert mlops.current_run() is one
    assert read(one).columns.value.tolist() == [1.0]
    assert read(two).columns.value.tolist() == [2.0]


def test_a_copy_of_an_open_run_is_the_run(runs_dir: Path) -> None:
    """A model that holds one can be copied and pickled, and goes on logging into it."""
    with quiet(runs_dir) as run:
        assert copy.copy(run) is copy.deepcopy(run) is run
        assert pickle.loads(pickle.dumps({"run": run}))["run"] is run  # noqa: S301 - our own


def test_elsewhere_a_copy_takes_all_and_records_nothing(runs_dir: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Unpickled where it is not open, a run says once that nothing is recorded, and does no harm."""
    with quiet(runs_dir, name="gone") as run:
        run.log({"a": 1.0})
        pickled = pickle.dumps(run)
    with caplog.at_level("WARNING", "mlops"):
        stranger = pickle.loads(pickled)  # noqa: S301 - our own
        assert (stranger.id, stranger.name, stranger.dir) == (run.id, "gone", run.dir)
        with stranger, stranger.epoch() as epoch:
            for value in stranger.watch([2.0]):
                stranger.log({"a": value}, step=1)
            stranger.series("b", {"c": "d"})(1.0)
            stranger.begin_epoch()
            stranger.note(lr=1)
        assert (epoch.number, stranger.is_open, stranger.dropped) == (0, False, 0)
        assert (stranger.parameters, stranger.sinks) == ({}, [])
        assert pickle.loads(pickle.dumps(stranger)).id == run.id  # noqa: S301 - our own
    assert "where this run came as a copy" in caplog.text
    assert len(caplog.records) == 1
    assert read(run).columns.value.tolist() == [1.0]


def test_after_a_fork_the_child_leaves_the_run_alone(runs_dir: Path) -> None:
    """In the child the run counts as closed, closing it does nothing, and it is not the current run."""
    with quiet(runs_dir) as run:
        run.log({"a": 1.0})
        pid = os.fork()
        if pid == 0:
            run.log({"a": 2.0})
            run.close()
            os._exit(0 if not run.is_open and mlops.current_run() is None else 1)
        assert os.waitpid(pid, 0)[1] == 0
        run.log({"a": 3.0})
    assert read(run).columns.value.tolist() == [1.0, 3.0]


_SCRIPT = """
import os, signal, sys, time
import mlops
run = mlops.Run("script", devices=[], runs_dir=sys.argv[1])
for number in range(500):
    run.log({"a": float(number)})
print("logged", flush=True)
"""


def _script(runs_dir: Path, ending: str) -> subprocess.Popen[str]:
    child = subprocess.Popen(
        [sys.executable, "-c", _SCRIPT + ending, str(runs_dir)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert child.stdout is not None
    assert child.stdout.readline() == "logged\n"
    return child


@pytest.mark.parametrize(
    ("ending", "outcome", "reason"),
    [
        ("", "finished", ""),
        ("raise ValueError('bad')", "failed", "ValueError: bad"),
        ("sys.exit(0)", "finished", ""),
        ("os.kill(os.getpid(), signal.SIGINT); time.sleep(30)", "interrupted", "KeyboardInterrupt"),
    ],
)
def test_a_script_that_never_closes_its_run_still_ends_it(
    runs_dir: Path, ending: str, outcome: str, reason: str
) -> None:
    """At interpreter exit the run is ended with what the interpreter knows."""
    child = _script(runs_dir, ending)
    child.communicate(timeout=60)
    record = read_run(open_run("last", runs_dir))
    assert (record.info.outcome, record.info.reason) == (outcome, reason)
    assert len(record.columns) == 500


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_script_loses_no_point(runs_dir: Path, number: signal.Signals) -> None:
    """What was logged is read back, and the outcome is seen from outside."""
    child = _script(runs_dir, "time.sleep(60)")
    child.send_signal(number)
    child.communicate(timeout=60)
    record = read_run(open_run("last", runs_dir))
    assert record.info.outcome == ("killed" if number == signal.SIGKILL else "interrupted")
    assert record.columns.value.tolist() == [float(value) for value in range(500)]
