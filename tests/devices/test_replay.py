"""Recorded traces, played back in their own time."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mlops.blocks import Columns
from mlops.devices.base import Absent, Meter, opener
from mlops.devices.replay import ReplayDevice, write_trace
from mlops.errors import DeviceError
from mlops.record import Record, read_run
from mlops.run import Run
from mlops.series import Series
from mlops.store import RunFolder, RunInfo
from tests.devices.conftest import Clock

MADE_UP = Path(__file__).with_name("data") / "trace.csv"
GPU = "uuid=GPU-a0000000-1111-2222-3333-444444444444"
HEAD = "# mlops trace 1\nseconds,name,value,dimensions\n"
ENERGY = f"gpu.energy_joules{{method=replay, {GPU}}}"
POWER = f"gpu.power_watts{{{GPU}}}"


def values(device: ReplayDevice) -> dict[str, float]:
    """A sample by series."""
    return {str(one.series): one.value for one in device.sample()}


@pytest.fixture
def trace(tmp_path: Path) -> Callable[[str], Path]:
    """Write a file."""

    def write(text: str) -> Path:
        path = tmp_path / "trace.csv"
        path.write_text(text, encoding="utf-8")
        return path

    return write


def test_a_trace_is_played_back_in_its_own_time(clock: Clock) -> None:
    """Values hold from row to row; energy counts from opening and grows evenly between rows."""
    device = ReplayDevice(MADE_UP, clock=clock)
    first = values(device)
    assert (first[POWER], first[ENERGY], first["host.cpu_percent"]) == (80.0, 0.0, 5.0)
    clock.go(1.5)
    later = values(device)
    assert (later[POWER], later["host.cpu_percent"]) == (300.0, 40.0)
    assert later[ENERGY] == 190 + 355 / 2
    assert later["host.energy_joules{method=replay, package=package-0}"] == 135.0


def test_at_its_end_it_begins_anew_and_energy_counts_on(clock: Clock) -> None:
    """A training may take longer than the trace."""
    device = ReplayDevice(MADE_UP, clock=clock)
    round_joules = 190 + 355 + 402.5 + 257.5
    clock.go(4 * 10 + 1.5)
    sample = values(device)
    assert sample[POWER] == 300.0
    assert sample[ENERGY] == pytest.approx(10 * round_joules + 190 + 355 / 2)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=st.lists(st.floats(0, 30), min_size=1, max_size=30))
def test_energy_never_goes_down(steps: list[float]) -> None:
    """At whatever moments it is sampled, over the trace's end, too."""
    clock = Clock()
    device = ReplayDevice(MADE_UP, clock=clock)
    before = dict.fromkeys(values(device), 0.0)
    for step in steps:
        clock.go(step)
        after = {name: value for name, value in values(device).items() if "energy" in name}
        assert all(value >= before[name] - 1e-6 for name, value in after.items())
        before.update(after)


def test_it_says_that_it_is_a_replay() -> None:
    """In the method of its energy, in its meters, and to people."""
    device = ReplayDevice(MADE_UP)
    assert device.meters() == [
        Meter("gpu", "GPU-a0000000-1111-2222-3333-444444444444", "Made-up GPU (replay)", "replay"),
        Meter("host", "package-0", "Made-up CPU (replay)", "replay"),
    ]
    (line,) = device.describe()
    assert line == (
        f"replay of {MADE_UP}: made up by hand for the tests of mlops; not a measurement of anything (7 series, 4 s)"
    )
    assert device.not_metered() == ""


def test_a_trace_without_energy_is_not_metered(trace: Callable[[str], Path], clock: Clock) -> None:
    """And one of a single moment holds for ever; a series that begins later is not there before."""
    path = trace(HEAD + "0,gpu.power_watts,80,\n\n# a remark\n2.5,gpu.power_watts,90,uuid=x\n")
    device = ReplayDevice(path, clock=clock)
    assert device.meters() == []
    assert "has no energy" in device.not_metered()
    assert "does not say what it is" in device.describe()[0]
    assert values(device) == {"gpu.power_watts": 80.0}
    still = ReplayDevice(trace(HEAD + "0,gpu.power_watts,80,\n0,gpu.power_watts,81\n"), clock=clock)
    clock.go(1e6)
    assert values(still) == {"gpu.power_watts": 81.0}, "the last row of a moment counts"


def test_an_energy_that_begins_late_or_ends_early(trace: Callable[[str], Path], clock: Clock) -> None:
    """Before its first row nothing is used, and after its last row nothing more, until the next round."""
    rows = "0,gpu.power_watts,1,\n1,gpu.energy_joules,50,\n2,gpu.energy_joules,60,\n4,gpu.power_watts,1,\n"
    device = ReplayDevice(trace(HEAD + rows), clock=clock)
    seen = []
    for _ in range(12):
        seen.append(values(device)["gpu.energy_joules{method=replay}"])
        clock.go(0.5)
    assert seen == [0, 0, 0, 5, 10, 10, 10, 10, 10, 10, 10, 15]


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        ("", 1, "it has no readings"),
        ("seconds,name,value,dimensions\n0,a,1,\n", 1, "it is no trace of version 1"),
        ("# mlops trace 2\n", 1, "it is no trace of version 1"),
        ("# mlops trace 1\n", 1, "it has no readings"),
        ("# mlops trace 1\n0,gpu.power_watts,1,\n", 2, "the columns are not named"),
        (HEAD, 2, "it has no readings"),
        (HEAD + "0,gpu.power_watts\n", 3, "it has 2 columns"),
        (HEAD + "0,gpu.power_watts,1,uuid=a,b\n", 3, "it has 5 columns"),
        (HEAD + "now,gpu.power_watts,1,\n", 3, "its seconds, 'now', is no finite number"),
        (HEAD + "nan,gpu.power_watts,1,\n", 3, "its seconds, 'nan', is no finite number"),
        (HEAD + "0,gpu.power_watts,inf,\n", 3, "its value, 'inf', is no finite number"),
        (HEAD + "0,gpu.power_watts,,\n", 3, "its value, '', is no finite number"),
        (HEAD + "-1,gpu.power_watts,1,\n", 3, "its time, -1 s, lies before"),
        (HEAD + "2,gpu.power_watts,1,\n1,gpu.power_watts,1,\n", 4, "its time, 1 s, lies before"),
        (HEAD + "0,gpu power,1,\n", 3, "Metric name 'gpu power' contains ' '"),
        (HEAD + "0,gpu.power_watts,1,uuid\n", 3, "'uuid' is no dimension"),
        (HEAD + "0,gpu.power_watts,1,_uuid=a\n", 3, "begins with '_'"),
        (HEAD + "0,gpu.energy_joules,5,\n1,gpu.energy_joules,4,\n", 4, "the energy goes down, from 5 J to 4 J"),
    ],
)
def test_a_bad_trace_is_refused_with_its_line_and_a_remedy(
    trace: Callable[[str], Path], text: str, line: int, said: str
) -> None:
    """Every way in which a file can be no trace."""
    path = trace(text)
    with pytest.raises(DeviceError) as caught:
        ReplayDevice(path)
    assert caught.value.what.startswith(f"{path}, line {line}: ")
    assert said in caught.value.what
    assert caught.value.remedy


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    """Absent, a folder, or no text; in the settings this is a device that is not there."""
    with pytest.raises(DeviceError, match=r"Cannot read the trace .*No such file"):
        ReplayDevice(tmp_path / "nowhere.csv")
    with pytest.raises(DeviceError, match="Is a directory"):
        ReplayDevice(tmp_path)
    (tmp_path / "picture.csv").write_bytes(b"\x89PNG\xff\xfe")
    with pytest.raises(DeviceError, match="not text"):
        ReplayDevice(tmp_path / "picture.csv")
    device = opener(f"replay:{tmp_path / 'nowhere.csv'}")()
    assert isinstance(device, Absent)
    assert "No such file" in device.not_metered()


def test_what_a_spreadsheet_writes_is_read(tmp_path: Path) -> None:
    """With a byte order mark and the line ends of Windows."""
    path = tmp_path / "trace.csv"
    path.write_bytes(b"\xef\xbb\xbf" + (HEAD + "0,gpu.power_watts,80,uuid=x\n").replace("\n", "\r\n").encode())
    assert values(ReplayDevice(path)) == {"gpu.power_watts{uuid=x}": 80.0}


def test_a_run_of_a_replay_can_be_made_into_a_trace_again(runs_dir: Path, tmp_path: Path) -> None:
    """What a run recorded, played back, shows the same series; the run's own metrics are left out."""
    with Run("digits", devices=[f"replay:{MADE_UP}"], runs_dir=runs_dir) as run:
        assert run._sampler.wait_open(30)
        run.log({"train.loss": 0.5})
    record = read_run(RunFolder(run.dir))
    path = tmp_path / "made.csv"
    rows = write_trace(record, path)
    assert rows == len(record.columns) - 1 >= 7
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    lines = path.read_text().splitlines()
    assert lines[:2] == ["# mlops trace 1", f"# about: run {run.id}, recorded {run.id[:4]}-{run.id[4:6]}-{run.id[6:8]}"]
    assert "# product package-0: Made-up CPU (replay)" in lines
    device = ReplayDevice(path)
    assert set(values(device)) == set(values(ReplayDevice(MADE_UP)))
    assert len(lines) == rows + 5


def recorded(*processes: Sequence[tuple[float, Series, float]], start: float = 1e9) -> Record:
    """A record of these points, process by process."""
    points = [point for process in processes for point in process]
    table = list(dict.fromkeys(series for _, series, _ in points))
    columns = Columns(
        np.array([start + at for at, _, _ in points], np.float64),
        np.array([value for _, _, value in points], np.float64),
        np.array([table.index(series) for _, series, _ in points], np.uint32),
        np.zeros(len(points), np.uint32),
    )
    ranges, at = [], 0
    for number, process in enumerate(processes):
        ranges.append((f"{number}.points", at, at := at + len(process)))
    info = RunInfo("20010909-014640-x-000000", "x", start)
    return Record(info, tuple(table), columns, tuple(ranges), tuple({} for _ in processes), ())


def test_a_trace_holds_what_can_be_played_back(tmp_path: Path) -> None:
    """Sorted by time from 0; nothing that is not finite, no energy that goes down, no series twice."""
    watts, joules = Series.of("gpu.power_watts", {"uuid": "a"}), Series.of("gpu.energy_joules", {"uuid": "a"})
    other = Series.of("gpu.power_watts", {"uuid": "b"})
    record = recorded(
        [(1, watts, 0.1), (0, joules, 5.0), (1, joules, 7.0), (2, joules, 6.0), (3, watts, float("nan"))],
        [(0.5, watts, 99.0), (0.5, other, 1 / 3)],
    )
    path = tmp_path / "trace.csv"
    assert write_trace(record, path, about="two\nlines") == 4
    assert path.read_text().splitlines() == [
        "# mlops trace 1",
        "# about: two lines",
        "seconds,name,value,dimensions",
        "0.000,gpu.energy_joules,5,uuid=a",
        "0.500,gpu.power_watts,0.33333333333333331,uuid=b",
        "1.000,gpu.power_watts,0.10000000000000001,uuid=a",
        "1.000,gpu.energy_joules,7,uuid=a",
    ]


SERIES = st.sampled_from(
    [Series.of(f"gpu.{name}", {"uuid": uuid}) for name in ("power_watts", "energy_joules") for uuid in ("a", "b-c")]
)
POINTS = st.tuples(st.floats(0, 1e5), SERIES, st.floats(allow_nan=True))


@settings(deadline=None)
@given(processes=st.lists(st.lists(POINTS, max_size=15), min_size=1, max_size=3))
def test_what_is_written_is_read(
    tmp_path_factory: pytest.TempPathFactory, processes: list[list[tuple[float, Series, float]]]
) -> None:
    """Whatever a run recorded: the trace made of it is a good one, or there is nothing to make one of."""
    path = tmp_path_factory.getbasetemp() / "written.csv"
    path.unlink(missing_ok=True)
    try:
        write_trace(recorded(*processes), path)
    except DeviceError as error:
        assert "has no readings of devices" in error.what  # noqa: PT017 - both are right, for different runs
        return
    assert ReplayDevice(path).sample()


def test_what_cannot_be_written_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing to write, a file that is there, a folder that is not, a full disk: half a trace is not left."""
    record = recorded([(0, Series.of("gpu.power_watts"), 1.0)])
    with pytest.raises(DeviceError, match="has no readings of devices"):
        write_trace(recorded([(0, Series.of("train.loss"), 1.0)]), tmp_path / "a.csv")
    (tmp_path / "b.csv").write_text("mine")
    with pytest.raises(DeviceError, match="exists already"):
        write_trace(record, tmp_path / "b.csv")
    assert (tmp_path / "b.csv").read_text() == "mine"
    with pytest.raises(DeviceError, match="No such file"):
        write_trace(record, tmp_path / "nowhere" / "c.csv")
    real = os.fdopen

    def full(descriptor: int, *_: object, **__: object) -> object:
        os.close(descriptor)
        return real(os.open("/dev/full", os.O_WRONLY), "w", encoding="utf-8")

    monkeypatch.setattr(os, "fdopen", full)
    with pytest.raises(DeviceError, match="No space left"):
        write_trace(record, tmp_path / "d.csv")
    assert not (tmp_path / "d.csv").exists()
