"""A run through a real Monasca and back."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import mlops
from mlops import report
from mlops.errors import AuthorisationError, CloudConfigError, CloudUnavailableError, RunNotFoundError
from mlops.record import Record
from mlops.report.rows import dimensions_of
from mlops.run import JOIN_VARIABLE
from mlops.sinks import open_sink
from mlops.sinks.base import DurableSink
from mlops.store import RunFolder
from mlops.upload import upload
from tests.monasca.imitation import metric
from tests.testbed.faults import Fault
from tests.testbed.monasca import Monasca
from tests.testbed.processes import wait_for

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:Support for InfluxDB requires"),  # openstacksdk warns all who use it
]

MLOPS = str(Path(sys.executable).with_name("mlops"))
ARRIVAL = 60.0

GPUS = [f"GPU-00000000-made-up-0000-00000000000{number}" for number in range(3)]

RANK = """
    import time, mlops
    with mlops.Run(devices=[]) as run:
        for epoch in range(1, 4):
            for batch in range(30):
                run.log({"train.loss": 1 / (epoch + batch) + run.rank, "train.lr": 0.1}, step=30 * epoch + batch)
                run.log({"train.samples_per_second": 640.0 + batch})
                time.sleep(0.003)
            run.end_epoch({"valid.loss": 0.5 / epoch + run.rank, "valid.accuracy": 1 - 0.4 / epoch}, seconds=0.1)
"""


def _trace(path: Path) -> Path:
    rows = ["# mlops trace 1", "# about: made up", *(f"# product {uuid}: NVIDIA Made-Up 100" for uuid in GPUS)]
    rows.append("seconds,name,value,dimensions")
    for second in range(20):
        for number, uuid in enumerate(GPUS):
            rows.append(f"{second},gpu.power_watts,{200 + 10 * number + second},uuid={uuid}")
            rows.append(f"{second},gpu.energy_joules,{(200 + 10 * number) * second},uuid={uuid}")
            rows.append(f"{second},gpu.utilisation_percent,{90 + number},uuid={uuid}")
    path.write_text("\n".join(rows) + "\n")
    return path


def _record_two_ranks(runs_dir: Path, tmp_path: Path) -> RunFolder:
    """A distributed training as ``mlops run`` has it: an owner that meters, and two processes that train."""
    device = f"replay:{_trace(tmp_path / 'gpus.trace')}"
    run = mlops.Run(
        "digits",
        devices=[device],
        runs_dir=runs_dir,
        dimensions={"team": "vision"},
        parameters={"lr": 0.003},
        settings=mlops.Settings.load(sample_seconds=0.1),
    )
    environ = {**os.environ, JOIN_VARIABLE: str(run.dir), "WORLD_SIZE": "2", "MLOPS_EVERY_RANK": "1"}
    ranks = [
        subprocess.Popen([sys.executable, "-c", textwrap.dedent(RANK)], env={**environ, "RANK": str(rank)})
        for rank in (0, 1)
    ]
    assert [rank.wait(120) for rank in ranks] == [0, 0]
    run.close()
    return RunFolder(run.dir)


def _send(folder: RunFolder, monasca: Monasca) -> Record:
    """Upload a run and wait until all of it has arrived; the run as its folder has it."""
    sink = open_sink(monasca.url)
    assert isinstance(sink, DurableSink)
    (done,) = upload([folder], sink)
    assert not done.problems
    store = report.read(folder.path)
    monasca.wait_stored(folder.id, int(np.isfinite(store.columns.value).sum()))

    def told() -> object:
        return monasca.call("GET", "/metrics", dimensions=f"run_id:{folder.id}", name="mlops.run")["elements"]

    wait_for(told, ARRIVAL, "the run's own measurement is there")
    return store


def _rows(record: Record) -> tuple[list[tuple[str, str, float, int]], list[float]]:
    """Every point and its time, in an order that a millisecond does not change."""
    texts = dimensions_of(record)
    columns = record.columns
    rows = sorted(
        (record.series[number].name, texts[number], value, step, time)
        for time, value, number, step in zip(
            columns.time.tolist(), columns.value.tolist(), columns.series.tolist(), columns.step.tolist(), strict=True
        )
    )
    return [row[:4] for row in rows], [row[4] for row in rows]


def _nearly(mine: Any, theirs: Any, where: str = "") -> None:
    """The same, but for what a millisecond makes of times and of what is divided by them."""
    if isinstance(theirs, dict):
        assert mine.keys() == theirs.keys(), where
        for key in theirs:
            _nearly(mine[key], theirs[key], f"{where}.{key}")
    elif isinstance(theirs, list):
        assert len(mine) == len(theirs), where
        for place, (one, other) in enumerate(zip(mine, theirs, strict=True)):
            _nearly(one, other, f"{where}[{place}]")
    elif isinstance(theirs, float) and not isinstance(mine, str):
        assert mine == pytest.approx(theirs, rel=0.01, abs=0.002), where
    else:
        assert mine == theirs, where


def test_two_ranks_and_their_gpus_come_back(monasca: Monasca, runs_dir: Path, tmp_path: Path) -> None:
    """Epochs, summary, energy by device and the rows of an export are those of the store, times to the millisecond."""
    folder = _record_two_ranks(runs_dir, tmp_path)
    store = _send(folder, monasca)
    cloud = report.read(folder.id, source="monasca", runs_dir=tmp_path / "nowhere")
    (mine, my_times), (theirs, their_times) = _rows(cloud), _rows(store)
    assert mine == theirs
    assert max(abs(one - other) for one, other in zip(my_times, their_times, strict=True)) <= 0.00051
    _nearly(report.epochs(cloud).as_json(), report.epochs(store).as_json())
    _nearly(report.summary(cloud).as_json(), report.summary(store).as_json())
    _nearly(report.energy_used(cloud).as_json(), report.energy_used(store).as_json())
    assert [meter.id for meter in report.energy_used(cloud).meters] == GPUS
    assert len(report.epochs(cloud)) == 3, "rank 1 repeats what rank 0 says"
    assert len(cloud.processes) == 3


def test_the_command_line_reads_it_too(monasca: Monasca, runs_dir: Path, tmp_path: Path) -> None:
    """``mlops report --from monasca``, ``mlops export --from monasca://CLOUD``: the same tables, rows, and a page."""
    folder = _record_two_ranks(runs_dir, tmp_path)
    _send(folder, monasca)
    environ = {
        **os.environ,
        "MLOPS_RUNS_DIR": str(runs_dir),
        "MLOPS_SINKS": f"statsd://localhost:1,{monasca.url}?batch=10",
    }
    del environ["OS_CLOUD"]

    def call(*words: str) -> str:
        done = subprocess.run([MLOPS, *words], env=environ, capture_output=True, text=True, check=True, cwd=tmp_path)
        assert not done.stderr
        return done.stdout

    (cloud,) = json.loads(call("report", "last", "--from", "monasca", "-o", "json"))
    (store,) = json.loads(call("report", "last", "-o", "json"))
    _nearly(cloud, store)
    mine, theirs = (call("export", folder.id, *words).splitlines() for words in (("--from", monasca.url), ()))
    assert (len(mine), mine[0]) == (len(theirs), theirs[0])
    assert call("report", "digits", "--from", monasca.url) == "report.html\n"
    assert folder.id in (tmp_path / "report.html").read_text()
    assert not (folder.path / "report.html").exists()


def test_a_real_agents_readings_join_by_uuid(monasca: Monasca, runs_dir: Path) -> None:
    """What the host's agent posts of the GPUs that a run noted is read along with it, and its energy is counted."""
    run = mlops.Run("unmetered", devices=[], runs_dir=runs_dir)
    for number in (1, 2, 3):
        run.log({"train.loss": 1.0 / number}, time=run._info.started + 60 * number - 1)
        run.log({"train.epoch": number, "train.epoch_seconds": 60.0}, step=number, time=run._info.started + 60 * number)
    run.close()
    folder = RunFolder(run.dir)
    info = folder.info()
    info.ended = info.started + 180
    info.notes["meters"] = [{"device": "gpu", "id": GPUS[0], "name": "NVIDIA Made-Up 100", "method": "counter"}]
    folder.write_info(info)
    began = round(info.started * 1000)
    own = {"hostname": "node-1", "service": "host"}
    monasca.call(
        "POST",
        "/metrics",
        [
            metric("nvidia.power_watts", began + 1000 * second, watts, **own, uuid=uuid)
            for uuid, watts in ((GPUS[0], 250.0), (f"{GPUS[0]}-another", 999.0))
            for second in range(-60, 300, 10)
        ],
        user="monasca-agent",
    )
    _send(folder, monasca)

    def read() -> Record:
        return report.read(folder.id, source="monasca", runs_dir=runs_dir)

    wait_for(lambda: read().find("gpu.power_watts"), ARRIVAL, "the host's readings are there")
    energy = report.energy_used(read())
    assert energy.joules == pytest.approx(250.0 * 180.0, rel=0.06)
    assert [(meter.id, meter.method) for meter in energy.meters] == [(GPUS[0], "power")]
    assert [row.joules for row in report.epochs(read()).rows] == pytest.approx([250.0 * 60] * 3, rel=0.05)


@pytest.fixture
def sent(monasca: Monasca, runs_dir: Path) -> RunFolder:
    """A small run that has arrived."""
    run = mlops.Run("small", devices=[], runs_dir=runs_dir)
    for number in range(1, 3):
        run.log({"train.loss": 1.0 / number})
        run.end_epoch({"valid.loss": 0.5 / number}, seconds=1.0)
    run.close()
    _send(RunFolder(run.dir), monasca)
    return RunFolder(run.dir)


def test_trouble_on_the_way_is_waited_out(monasca: Monasca, sent: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    """A busy API, a cut connection and a proxy's page cost a moment, and are told; one that stays away is an error."""
    monkeypatch.setattr("tenacity.nap.time.sleep", lambda _seconds: None)
    monasca.faults.next(Fault.answer(503, retry_after="1"), Fault.cut(), Fault.garbage(), Fault.answer(500))
    told: list[str] = []
    record = report.read(sent.id, source="monasca", on_progress=lambda arrival: told.append(arrival.trouble))
    assert len(report.epochs(record)) == 2
    assert len([trouble for trouble in told if trouble]) == 4
    monasca.faults.go_down()
    try:
        with pytest.raises(CloudUnavailableError):
            report.read(sent.id, source="monasca")
    finally:
        monasca.faults.come_up()


@pytest.mark.parametrize(
    ("cloud", "error", "said"),
    [
        ("testbed-norole", AuthorisationError, "matter of roles"),
        ("testbed-wrong", AuthorisationError, "refuses the credentials"),
        ("testbed-expired", AuthorisationError, "refuses the credentials"),
        ("testbed-stranger", RunNotFoundError, "There is no run|There are no runs"),
        ("testbed-noendpoint", CloudConfigError, "monitoring"),
        ("nosuch", CloudConfigError, "nosuch"),
    ],
)
@pytest.mark.usefixtures("monasca")
def test_who_may_not_read_is_told(cloud: str, error: type[Exception], said: str) -> None:
    """Role, credentials, project, catalogue and configuration each have their own sentence, at once."""
    with pytest.raises(error, match=said):
        report.read("one-of-ours", source="monasca", cloud=cloud)


def test_runs_are_found_by_the_api_alone(sent: RunFolder, tmp_path: Path) -> None:
    """Where there is no folder of runs: by id, its beginning, and name, in a role that only reads."""
    elsewhere = tmp_path / "nowhere"
    for word in (sent.id, sent.id[:-1], "small"):
        assert report.read(word, source="monasca", runs_dir=elsewhere).info.id == sent.id
    assert report.read("last", source="monasca://testbed-readonly", runs_dir=elsewhere).info.id >= sent.id
    with pytest.raises(RunNotFoundError, match="The newest there"):
        report.read("nosuch", source="monasca", runs_dir=elsewhere)
