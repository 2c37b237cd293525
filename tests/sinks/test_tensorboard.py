"""Event files, read back by TensorBoard's own readers and by the backend of its hparams plugin."""

from __future__ import annotations

import contextlib
import logging
import os
import resource
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tensorboard.backend.event_processing import data_provider, plugin_event_multiplexer
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.context import RequestContext
from tensorboard.plugins.base_plugin import TBContext
from tensorboard.plugins.hparams import api_pb2, backend_context, get_experiment, list_session_groups

from mlops import Run
from mlops.blocks import Columns
from mlops.errors import MissingExtraError, SinkURLError
from mlops.series import Series
from mlops.settings import Settings
from mlops.sinks import Points, RunIdentity, SinkURL, open_sink
from mlops.sinks import tensorboard as tensorboard_module
from mlops.sinks.tensorboard import TensorboardSink
from mlops.store import RunInfo
from tests.sinks.helpers import RUN, Clock, Table

Wait = Callable[[Callable[[], object]], None]


def scalars(folder: Path) -> dict[str, list[tuple[float, int, str]]]:
    """Each tag's times, steps and values, as TensorBoard's own reader gives them."""
    reader = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    reader.Reload()
    tags: list[str] = reader.Tags()["scalars"]
    return {tag: [(event.wall_time, event.step, repr(event.value)) for event in reader.Scalars(tag)] for tag in tags}


class Hparams:
    """What the backend of TensorBoard's hparams plugin says of a folder.

    Attributes:
        names: of all parameters.
        sessions: for each run's session its parameters.
        metrics: for each the last value of each metric.
        status: how each ended.
    """

    def __init__(self, folder: Path) -> None:
        multiplexer = plugin_event_multiplexer.EventMultiplexer()
        multiplexer.AddRunsFromDirectory(str(folder))
        multiplexer.Reload()
        provider = data_provider.MultiplexerDataProvider(multiplexer, str(folder))
        context = backend_context.Context(TBContext(data_provider=provider, logdir=str(folder)))
        request = RequestContext()
        experiment = get_experiment.Handler(request, context, "", api_pb2.GetExperimentRequest()).run()
        self.names = {info.name for info in experiment.hparam_infos}
        every = [api_pb2.STATUS_UNKNOWN, api_pb2.STATUS_SUCCESS, api_pb2.STATUS_FAILURE, api_pb2.STATUS_RUNNING]
        asked = api_pb2.ListSessionGroupsRequest(allowed_statuses=every, slice_size=100)
        groups = list_session_groups.Handler(request, context, "", asked).run().session_groups
        self.sessions = {group.name: {key: _plain(value) for key, value in group.hparams.items()} for group in groups}
        self.metrics = {
            group.name: {
                "/".join(filter(None, (each.name.group, each.name.tag))): each.value for each in group.metric_values
            }
            for group in groups
        }
        self.status = {
            group.name: api_pb2.Status.Name(session.status).removeprefix("STATUS_")
            for group in groups
            for session in group.sessions
        }


def _plain(value: Any) -> object:
    return getattr(value, value.WhichOneof("kind"))


def about(parameters: Mapping[str, Any], **more: Any) -> RunIdentity:
    """A run of this process that was called with these parameters."""
    info = RunInfo(RUN.id, RUN.name, 1.7e9, parameters=dict(parameters), pid=os.getpid(), **more)
    return replace(RUN, info=info)


def ended(run: RunIdentity, outcome: str = "finished") -> None:
    """Let the run have ended so."""
    assert run.info is not None
    run.info.outcome, run.info.ended = outcome, 1.7e9 + 60


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder for event files; not made yet."""
    return tmp_path / "logs"


@pytest.fixture
def sink(folder: Path) -> Iterator[TensorboardSink]:
    """A sink that writes there."""
    made = TensorboardSink(folder)
    yield made
    made.close(1.0)


# -- scalars -------------------------------------------------------------------------------------


def test_scalars_have_their_own_time_and_step(sink: TensorboardSink, folder: Path) -> None:
    """The step that was given, else the number of the points before; the time is the point's, not that of writing."""
    series = {0: Series("train.loss"), 1: Series("gpu.power_watts")}
    columns = Columns(
        np.array([1.5, 1.5, 2.25, 2.25, 3.0]),
        np.array([0.5, 300.0, 0.25, 310.0, 320.0]),
        np.array([0, 1, 0, 1, 1], np.uint32),
        np.array([11, 0, 21, 0, 0], np.uint32),
    )
    sink.write(Points(RUN, columns, series))
    assert scalars(folder / RUN.id) == {
        "train/loss": [(1.5, 10, "0.5"), (2.25, 20, "0.25")],
        "gpu/power_watts": [(1.5, 0, "300.0"), (2.25, 1, "310.0"), (3.0, 2, "320.0")],
    }
    assert (sink.sent, sink.dropped) == (5, 0)


def test_what_is_logged_together_is_one_event(sink: TensorboardSink, folder: Path) -> None:
    """Points of one time and step share a record, which makes files smaller; nothing is lost by it."""
    series = {0: Series("a"), 1: Series("b"), 2: Series("c")}
    three = Columns(np.full(3, 1.5), np.arange(3.0), np.arange(3, dtype=np.uint32), np.full(3, 8, np.uint32))
    sink.write(Points(RUN, three, series))
    assert scalars(folder / RUN.id) == {name: [(1.5, 7, f"{value}.0")] for value, name in enumerate("abc")}
    (path,) = (folder / RUN.id).iterdir()
    assert path.read_bytes().count(b"\x09\x00\x00\x00\x00\x00\x00\xf8\x3f") == 1, "the time is there once"


def test_one_step_at_two_times_is_two_events(sink: TensorboardSink, folder: Path) -> None:
    """A point never gets another one's time."""
    two = Columns(np.array([1.5, 2.5]), np.zeros(2), np.arange(2, dtype=np.uint32), np.full(2, 8, np.uint32))
    sink.write(Points(RUN, two, {0: Series("a"), 1: Series("b")}))
    assert scalars(folder / RUN.id) == {"a": [(1.5, 7, "0.0")], "b": [(2.5, 7, "0.0")]}


def test_values_that_are_not_finite_are_written(sink: TensorboardSink, folder: Path) -> None:
    """A loss that is nan is what one looks for; what single precision cannot hold is infinite."""
    values = (float("nan"), float("inf"), -float("inf"), 1e300, 5e-324)
    sink.write(Table().points(*(("train.loss", value) for value in values)))
    assert [value for _, _, value in scalars(folder / RUN.id)["train/loss"]] == ["nan", "inf", "-inf", "inf", "0.0"]


def test_two_gpus_are_two_tags(sink: TensorboardSink, folder: Path) -> None:
    """What tells two series apart is in their tags; two that would have the same tag are told apart too."""
    table = Table()
    for uuid in ("GPU-1", "GPU-2"):
        sink.write(table.points(("gpu.power_watts", 1.0), dimensions={"uuid": uuid}))
    sink.write(table.points(("a.b", 1.0), ("a/b", 2.0)))
    assert set(scalars(folder / RUN.id)) == {
        *("gpu/power_watts/uuid=GPU-1", "gpu/power_watts/uuid=GPU-2"),
        *("a/b", "a/b_2"),
    }


def test_points_can_be_read_as_soon_as_they_are_written(sink: TensorboardSink, folder: Path) -> None:
    """Nothing waits in a buffer of ours: each call's points are in the file when it returns."""
    table = Table()
    for number in range(1, 4):
        sink.write(table.points(("train.loss", float(number))))
        assert len(scalars(folder / RUN.id)["train/loss"]) == number


def test_what_a_metric_is_stands_beside_it(sink: TensorboardSink, folder: Path) -> None:
    """TensorBoard shows the description and unit of a metric of ours."""
    sink.write(Table().points(("gpu.power_watts", 1.0), ("mine", 1.0)))
    reader = EventAccumulator(str(folder / RUN.id))
    reader.Reload()
    assert reader.SummaryMetadata("gpu/power_watts").summary_description.endswith(", in watts.")
    assert "mine" not in reader.summary_metadata


def test_points_whose_series_was_lost_are_dropped(sink: TensorboardSink, caplog: pytest.LogCaptureFixture) -> None:
    """They are counted and said; the others are written."""
    points = Table().points(("a", 1.0), ("b", 2.0), ("a", 3.0))
    sink.write(replace(points, series={1: points.series[1]}))
    assert (sink.sent, sink.dropped) == (1, 2)
    assert "name was lost" in caplog.text


# -- files ---------------------------------------------------------------------------------------


def test_files_are_their_owners_alone(sink: TensorboardSink, folder: Path) -> None:
    """Folders are 0700 and files 0600, and no point makes no file."""
    sink.write(Table().points())
    assert not folder.exists()
    sink.write(Table().points(("a", 1.0)))
    (path,) = (folder / RUN.id).iterdir()
    assert path.name.startswith("events.out.tfevents.")
    assert f"{RUN.host}-{os.getpid()}" in path.name
    assert [stat.S_IMODE(place.stat().st_mode) for place in (folder, folder / RUN.id, path)] == [0o700, 0o700, 0o600]


def test_two_runs_of_a_process_at_once_collide_in_nothing(folder: Path) -> None:
    """Two sinks that write into one folder in the same second have a file each."""
    sinks = [TensorboardSink(folder) for _ in range(3)]
    for sink in sinks:
        sink.write(Table().points(("a", 1.0)))
        sink.close(1.0)
    assert len(list((folder / RUN.id).iterdir())) == 3
    assert len(scalars(folder / RUN.id)["a"]) == 3


@pytest.mark.parametrize(
    ("rank", "process", "below"), [(None, "", "."), (0, "", "."), (3, "", "rank3"), (None, "node-7-0", "node-7-0")]
)
def test_a_process_whose_series_have_the_same_tags_has_a_folder(
    rank: int | None, process: str, below: str, folder: Path
) -> None:
    """TensorBoard draws a tag of one folder as one line, so each further rank has its own below the run's."""
    sink = TensorboardSink(folder)
    sink.write(Table(replace(RUN, rank=rank, process=process)).points(("train.loss", 1.0)))
    sink.close(1.0)
    (path,) = (folder / RUN.id / below).glob("events*")
    assert (f".rank{rank}." in path.name) == (rank is not None)


def test_the_runs_own_folder_is_the_default(tmp_path: Path) -> None:
    """``tensorboard:`` writes where the run is; without a run, where it would be."""
    for run, where in ((replace(RUN, folder=tmp_path / "elsewhere" / "id"), "elsewhere/id"), (RUN, f"runs/{RUN.id}")):
        sink = open_sink("tensorboard:")
        sink.write(Table(run).points(("a", 1.0)))
        sink.close(1.0)
        assert list((tmp_path / where).glob("events*"))


@pytest.mark.parametrize(
    ("url", "where"),
    [
        ("tensorboard:logs", "logs"),
        ("tensorboard:Logs/All%2C%20of%3Fit", "Logs/All, of?it"),
        ("tensorboard://{tmp}/logs", "logs"),
        ("tensorboard:{tmp}/logs/", "logs"),
        ("tensorboard:~/logs", "logs"),
    ],
)
def test_folders_in_urls(
    url: str, where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Relative ones are those of the working folder; the log says where it writes."""
    caplog.set_level(logging.INFO, "mlops")
    monkeypatch.setenv("HOME", str(tmp_path))
    sink = open_sink(url.format(tmp=tmp_path))
    monkeypatch.chdir("/")
    sink.write(Table().points(("a", 1.0)))
    sink.close(1.0)
    assert list((tmp_path / where / RUN.id).glob("events*"))
    assert f"writes into {tmp_path / where / RUN.id}" in caplog.text


@pytest.mark.parametrize(
    "url",
    [
        "tensorboard://logs/here",
        "tensorboard:s3://bucket/logs",
        "tensorboard:logs?flush=3",
        "tensorboard:~nobody-of-that-name/logs",
    ],
)
def test_urls_that_are_refused(url: str) -> None:
    """A host, another kind of storage, an option, an unknown user: an error when the URL is opened."""
    with pytest.raises(SinkURLError, match="tensorboard:"):
        TensorboardSink.from_url(SinkURL.parse(url), Settings())


def test_without_tensorboardx_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error comes when the URL is opened, not in the middle of a training."""
    for name in [name for name in sys.modules if name.startswith("tensorboardX")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    with pytest.raises(MissingExtraError, match=r"mlops\[tensorboard\]"):
        open_sink("tensorboard:logs")


# -- disks that refuse ---------------------------------------------------------------------------


@contextlib.contextmanager
def full_disk(room: int) -> Iterator[None]:
    """No file can grow beyond so many bytes, as on a disk that is full; what fits is written, as there."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_is_said_once_and_tried_again(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    """No file ends in half a record; what could not be written is counted; writing goes on in a new file."""
    clock = Clock()
    sink = TensorboardSink(folder, clock=clock)
    table = Table()
    sink.write(table.points(*(("a", float(number)) for number in range(10))))
    (path,) = (folder / RUN.id).iterdir()
    size = path.stat().st_size
    with full_disk(size + 20):
        for _ in range(3):
            sink.write(table.points(*(("a", 0.5) for _ in range(10))))
    assert (sink.sent, sink.dropped) == (10, 30)
    assert path.stat().st_size == size
    clock.now += 60
    sink.write(table.points(("a", 11.0)))
    sink.close(1.0)
    assert (sink.sent, sink.dropped) == (11, 30)
    assert [value for _, _, value in scalars(folder / RUN.id)["a"]] == [f"{number}.0" for number in (*range(10), 11)]
    (said,) = caplog.messages
    assert "cannot write into" in said
    assert "Free space there" in said


def test_a_disk_that_is_full_from_the_beginning(folder: Path) -> None:
    """No empty file is left behind."""
    sink = TensorboardSink(folder)
    with full_disk(5):
        sink.write(Table().points(("a", 1.0)))
    sink.close(1.0)
    assert (sink.sent, sink.dropped) == (0, 1)
    assert list((folder / RUN.id).iterdir()) == []


def test_parameters_that_met_a_full_disk_are_written_later(folder: Path) -> None:
    """What could not be written counts as not said."""
    clock = Clock()
    sink = TensorboardSink(folder, clock=clock)
    table = Table(about({"lr": 0.1}))
    sink.write(table.points(("host.cpu_percent", 1.0)))
    with full_disk(1):
        sink.write(table.points(("train.loss", 1.0)))
    clock.now += 60
    sink.write(table.points(("train.loss", 1.0)))
    sink.close(1.0)
    assert Hparams(folder).sessions == {RUN.id: {"lr": 0.1}}


# -- parameters ----------------------------------------------------------------------------------


def test_parameters_are_hparams_and_last_values_their_metrics(sink: TensorboardSink, folder: Path) -> None:
    """Numbers, booleans and texts as such; None is left out; how it ended is its status."""
    run = about({"lr": 0.1, "epochs": 5, "augment": True, "arch": "resnet18", "seed": None})
    table = Table(run)
    sink.write(table.points(("train.loss", 2.0), ("valid.accuracy", 0.5)))
    sink.write(table.points(("train.loss", 0.5)))
    ended(run)
    sink.close(1.0)
    found = Hparams(folder)
    assert found.sessions == {RUN.id: {"lr": 0.1, "epochs": 5.0, "augment": True, "arch": "resnet18"}}
    assert found.metrics == {RUN.id: {"train/loss": 0.5, "valid/accuracy": 0.5}}
    assert found.status == {RUN.id: "SUCCESS"}


@pytest.mark.parametrize(
    ("outcome", "status"),
    [
        ("finished", "SUCCESS"),
        ("cancelled", "SUCCESS"),
        ("failed", "FAILURE"),
        ("interrupted", "FAILURE"),
        ("running", "UNKNOWN"),
    ],
)
def test_how_a_run_ended(outcome: str, status: str, sink: TensorboardSink, folder: Path) -> None:
    """Success, failure, or nothing is known."""
    run = about({"lr": 0.1})
    sink.write(Table(run).points(("train.loss", 1.0)))
    ended(run, outcome)
    sink.close(1.0)
    assert Hparams(folder).status == {RUN.id: status}


def test_odd_parameters_do_no_harm(sink: TensorboardSink, folder: Path) -> None:
    """What TensorBoard could not show, or not exactly, is text: one nan would keep its whole page from coming."""
    odd = {"nan": float("nan"), "inf": float("inf"), "seed": 2**63 + 1, "big": 1e300, "bad \ud800": "\ud800", "": ""}
    sink.write(Table(about(odd)).points(("train.loss", float("nan"))))
    sink.close(1.0)
    found = Hparams(folder)
    expected = {"nan": "nan", "inf": "inf", "seed": str(2**63 + 1), "big": 1e300, "bad ?": "?", "": ""}
    assert found.sessions == {RUN.id: expected}
    assert repr(found.metrics[RUN.id]["train/loss"]) == "nan"


def test_runs_with_other_parameters_stand_side_by_side(folder: Path) -> None:
    """TensorBoard knows the parameters and metrics of all runs, not only those of the first that it meets."""
    for number, (parameters, name) in enumerate(((({"lr": 0.1}), "a"), ({"dropout": 0.5}, "b"))):
        sink = TensorboardSink(folder)
        sink.write(Table(replace(about(parameters), id=f"run-{number}")).points((name, 1.0)))
        sink.close(1.0)
    found = Hparams(folder)
    assert found.names == {"lr", "dropout"}
    assert found.sessions == {"run-0": {"lr": 0.1}, "run-1": {"dropout": 0.5}}
    assert found.metrics == {"run-0": {"a": 1.0}, "run-1": {"b": 1.0}}


def test_parameters_wait_for_the_first_value_of_the_training(sink: TensorboardSink, folder: Path) -> None:
    """The devices are metered before a callback has noted anything; TensorBoard would keep what it read first."""
    run = about({})
    table = Table(run)
    sink.write(table.points(("host.cpu_percent", 1.0)))
    assert run.info is not None
    run.info.parameters["lr"] = 0.1
    sink.write(table.points(("host.cpu_percent", 1.0)))
    assert Hparams(folder).sessions == {}
    sink.write(table.points(("train.loss", 1.0)))
    assert Hparams(folder).sessions == {RUN.id: {"lr": 0.1}}


def test_parameters_that_come_later_are_there_too(sink: TensorboardSink, folder: Path) -> None:
    """Whoever starts TensorBoard after them sees the last ones; values and end are as they would be."""
    run = about({"lr": 0.1})
    table = Table(run)
    assert run.info is not None
    sink.write(table.points(("train.loss", 1.0)))
    for best in (1, 2):
        run.info.parameters["best_epoch"] = best
        sink.write(table.points(("train.loss", 2.0)))
        assert Hparams(folder).sessions == {RUN.id: {"lr": 0.1, "best_epoch": best}}
    sink.write(table.points())
    ended(run)
    sink.close(1.0)
    found = Hparams(folder)
    assert (found.metrics, found.status) == ({RUN.id: {"train/loss": 2.0}}, {RUN.id: "SUCCESS"})
    assert len(list((folder / RUN.id).iterdir())) == 2
    assert len(scalars(folder / RUN.id)["train/loss"]) == 3


def test_further_ranks_write_no_parameters(folder: Path) -> None:
    """A training is one line of the table, rank 0's, and the others' values are metrics of it."""
    run = about({"lr": 0.1})
    for rank in (0, 1):
        sink = TensorboardSink(folder)
        sink.write(Table(replace(run, rank=rank)).points(("train.loss", float(rank))))
        sink.close(1.0)
    found = Hparams(folder)
    assert found.sessions == {RUN.id: {"lr": 0.1}}
    assert found.metrics == {RUN.id: {"train/loss": 0.0, "rank1/train/loss": 1.0}}


def test_a_training_within_a_command_speaks_for_the_run(
    runs_dir: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, wait_until: Wait
) -> None:
    """Under ``mlops run`` both have parameters: they are one line of the table, and the command says how it ended."""
    url = f"tensorboard:{folder}"
    run = Run("digits", sinks=[url], devices=[], runs_dir=runs_dir, parameters={"command": "x"})
    run.log({"host.cpu_percent": 1.0})
    wait_until(lambda: run.sinks[0].sent)
    with monkeypatch.context() as patch:
        patch.setenv("MLOPS_RUN_DIR", str(run.dir))
        patch.setattr(os, "getpid", lambda: 4242)  # as in another process
        with Run(sinks=[url], devices=[], parameters={"lr": 0.1}) as joined:
            joined.log({"train.loss": 1.0})
    run.close("failed")
    (theirs,) = (folder / run.id).glob("*-4242.0")
    assert b"session_start_info" in theirs.read_bytes()
    assert b"session_end_info" not in theirs.read_bytes()
    found = Hparams(folder)
    assert found.sessions == {run.id: {"command": "x", "lr": 0.1}}
    assert found.status == {run.id: "FAILURE"}
    assert set(found.metrics[run.id]) == {"train/loss", "host/cpu_percent"}


def test_a_training_speaks_for_itself_where_the_command_does_not(folder: Path) -> None:
    """A process that joined a run whose owner writes no event files says how it ended itself."""
    info = RunInfo(RUN.id, RUN.name, 1.7e9, parameters={"lr": 0.1}, pid=1)
    sink = TensorboardSink(folder)
    sink.write(Table(replace(RUN, info=info)).points(("train.loss", 1.0)))
    info.outcome = "failed"
    sink.close(1.0)
    assert Hparams(folder).status == {RUN.id: "FAILURE"}


def test_a_command_that_trains_nothing_has_its_parameters(runs_dir: Path, folder: Path) -> None:
    """A run that only meters what it runs on says at its end what it was called with."""
    sinks = [f"tensorboard:{folder}"]
    with Run("x", sinks=sinks, devices=[], runs_dir=runs_dir, parameters={"command": "x"}) as run:
        run.log({"host.cpu_percent": 1.0})
    found = Hparams(folder)
    assert found.sessions == {run.id: {"command": "x"}}
    assert found.status == {run.id: "SUCCESS"}


def test_a_run_writes_what_is_logged(runs_dir: Path) -> None:
    """With a real run: its own folder, its parameters also when noted later, its values with time and step."""
    with Run("digits", sinks=["tensorboard:"], devices=[], runs_dir=runs_dir) as run:
        run.note(lr=0.1)
        run.log({"train.loss": 0.5}, step=3, time=1.5)
    assert scalars(run.dir) == {"train/loss": [(1.5, 3, "0.5")]}
    assert Hparams(runs_dir).sessions == {run.id: {"lr": 0.1}}
    assert [sink.sent for sink in run.sinks] == [1]


# -- what it costs -------------------------------------------------------------------------------


def test_torch_is_not_imported_for_it() -> None:
    """tensorboardX would import it; a command that trains nothing has no use for its hundreds of megabytes."""
    code = (
        "import sys; from mlops.sinks import open_sink; open_sink('tensorboard:logs');"
        "print(sorted({'torch', 'tensorboard'} & set(sys.modules)), 'tensorboardX' in sys.modules, sys.meta_path)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("[] True")
    assert "_Absent" not in done.stdout


def test_the_module_speaks_of_every_outcome() -> None:
    """A new outcome is given a status."""
    from mlops.store import OUTCOMES

    assert set(tensorboard_module._STATUS) == set(OUTCOMES)
