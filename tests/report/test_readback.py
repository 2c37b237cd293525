"""A run read back from Monasca is the run as its folder has it."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import mlops
from mlops import report
from mlops.errors import CloudError, RunNotFoundError
from mlops.monasca.about import RUN_METRIC
from mlops.record import Record
from mlops.report.readback import read_back
from mlops.report.rows import dimensions_of
from mlops.series import Series
from mlops.sinks.monasca import MonascaSink
from mlops.store import RunFolder
from mlops.upload import upload
from tests.monasca.imitation import Imitation, metric
from tests.report.written import BEGAN, GPU, METERS, P, Written, batches, digits, epoch, in_order, readings

OTHER_GPU = "GPU-00000000-made-up-0000-000000000001"

Row = tuple[str, str, float, int]


def _sent(*runs: RunFolder) -> Imitation:
    """A cloud to which these runs have been uploaded."""
    imitation = Imitation()
    upload(runs, MonascaSink(monasca=imitation))
    return imitation


def _to_the_millisecond(points: Iterable[P]) -> list[P]:
    return [point._replace(time=round(point.time, 3)) for point in points]


def _rows(record: Record) -> list[tuple[Row, float]]:
    """Every point, in the order of series and times, with its time apart."""
    texts = dimensions_of(record)
    columns = record.columns
    found = [
        ((record.series[number].name, texts[number], value, step), time)
        for time, value, number, step in zip(
            columns.time.tolist(), columns.value.tolist(), columns.series.tolist(), columns.step.tolist(), strict=True
        )
    ]
    return sorted(found, key=lambda row: (row[0][:2], row[1], row[0][2:]))


def _facts(record: Record) -> dict[str, Any]:
    """What tables and pages are made of."""
    facts = report.summary(record).as_json()
    return {"summary": facts, "epochs": report.epochs(record).as_json(), "table": report.render_table(record)}


def _note(run: Written, notes: dict[str, Any]) -> None:
    """Add notes to run.json, as the run's owner does."""
    info = run.folder.info()
    info.notes.update(notes)
    run.folder.write_info(info)


def _digits(runs_dir: Path, **more: Any) -> Written:
    """A training with one metered GPU, all its times whole milliseconds."""
    run = digits(runs_dir, **more)
    record = run.read()
    columns = dataclasses.replace(record.columns, time=np.round(record.columns.time, 3))
    run.folder.points_files()[0].unlink()
    run.columns(columns, dict(enumerate(record.series)), METERS)
    _note(run, METERS)
    return run


def _two_ranks(runs_dir: Path) -> Written:
    """A training of two ranks and its owner, which metered two GPUs and a host."""
    meters = {
        "meters": [
            {"device": "gpu", "id": GPU, "name": "NVIDIA Made-Up 100", "method": "counter"},
            {"device": "gpu", "id": OTHER_GPU, "name": "NVIDIA Made-Up 100", "method": "counter"},
        ],
        "not_metered": ["host: no RAPL here"],
    }
    run = Written(
        runs_dir,
        ended=BEGAN + 41,
        dimensions={"team": "vision"},
        parameters={"lr": 0.003, "model": "Sequential"},
        versions={"python": "3.11.2"},
        git_commit="4d80f9b",
        notes=dict(meters),
    )
    run.process(
        _to_the_millisecond(in_order(readings(41), readings(41, watts=90.0, uuid=OTHER_GPU))),
        {"host": "node-1", "rank": None, **meters},
    )
    for rank in (0, 1):
        parts = []
        for number in (1, 2, 3, 4):
            parts += batches(10 * number - 9, 9, 25, 2.0 / number + rank)
            parts += epoch(number, 10 * number + 0.5, 9.5, loss=1 / number + rank, accuracy=1 - 0.3 / number)
            parts += [
                P(
                    10 * number + 0.6,
                    "train.epoch_energy_joules",
                    2000.0,
                    {"device": "gpu", "method": "counter"},
                    number,
                )
            ]
        run.process(_to_the_millisecond(in_order(parts)), {"host": f"node-{rank + 1}", "rank": rank})
    return run


@pytest.mark.parametrize("make", [_digits, _two_ranks])
def test_it_has_the_same_tables_and_rows(runs_dir: Path, make: Callable[[Path], Written]) -> None:
    """Epochs, summary, energy by device and every row of an export, where times are whole milliseconds."""
    run = make(runs_dir)
    store = run.read()
    cloud = read_back(_sent(run.folder), run.folder.id)
    assert _facts(cloud) == _facts(store)
    assert _rows(cloud) == _rows(store)
    assert cloud.info == dataclasses.replace(store.info, pid=0, pid_started=0)
    assert sorted(stop - start for _, start, stop in cloud.processes) == sorted(s - f for _, f, s in store.processes)
    assert not cloud.gaps


def test_times_are_those_of_the_millisecond(runs_dir: Path) -> None:
    """Points that come seldom are at most half a millisecond off, and nothing else of them is."""
    run = digits(runs_dir)
    store, cloud = _rows(run.read()), _rows(read_back(_sent(run.folder), run.folder.id))
    assert [row for row, _ in cloud] == [row for row, _ in store]
    off = [abs(mine - theirs) for (_, mine), (_, theirs) in zip(cloud, store, strict=True)]
    assert max(off) <= 0.00051


def test_a_training_that_logs_faster_than_milliseconds_pass(runs_dir: Path) -> None:
    """Points that had to move to another millisecond are back in the epoch in which they were logged."""
    run = mlops.Run("quick", devices=[], runs_dir=runs_dir)
    for number in range(1, 6):
        for batch in range(200):
            run.log({"train.lr": 0.1, "train.loss": 1.0 / (number + batch)}, step=batch)
        run.end_epoch({"valid.loss": 0.5 / number, "valid.accuracy": 1 - 0.4 / number}, seconds=0.5)
    run.close()
    folder = RunFolder(run.dir)
    imitation = _sent(folder)
    store, cloud = report.read(run.dir), read_back(imitation, run.id)
    assert [row.batches for row in report.epochs(cloud).rows] == [200] * 5
    for mine, theirs in zip(report.epochs(cloud).rows, report.epochs(store).rows, strict=True):
        assert mine.train_loss == pytest.approx(theirs.train_loss, rel=1e-12)
        assert mine.metrics == theirs.metrics
        assert mine.end == pytest.approx(theirs.end, abs=0.0006)
    assert [row for row, _ in _rows(cloud)] == [row for row, _ in _rows(store)]


def test_points_of_one_millisecond_belong_to_the_epoch_that_ends_in_it() -> None:
    """Where nothing tells more, the mark of an epoch's end comes last, as it is logged."""
    imitation = Imitation()
    for number in (1, 2):
        moment = round(BEGAN * 1000) + 1000 * number
        for name, value in (("train.epoch", number), ("train.loss", 1 / number), ("valid.loss", 2 / number)):
            imitation.post([metric(name, moment, value, run_id="r")])
    rows = report.epochs(read_back(imitation, "r")).rows
    assert [(row.epoch, row.train_loss, row.valid_loss) for row in rows] == [(1, 1.0, 2.0), (2, 0.5, 1.0)]


def test_a_series_own_dimensions_stay(runs_dir: Path) -> None:
    """What the run shares is taken off, what a series has of its own is not, the same key included."""
    run = Written(runs_dir, dimensions={"team": "vision", "site": "north"})
    run.process([P(1, "valid.f1", 0.5, {"class": "cat"}), P(2, "valid.f1", 0.7, {"site": "south", "run": "mine"})])
    cloud = read_back(_sent(run.folder), run.folder.id)
    assert sorted(map(str, cloud.series)) == ["valid.f1{class=cat}", "valid.f1{run=mine, site=south}"]
    assert _rows(cloud) == _rows(run.read())


def test_what_could_not_be_sent_is_a_gap(runs_dir: Path) -> None:
    """nan and infinite values are counted, and the record is not called complete."""
    run = mlops.Run("digits", devices=[], runs_dir=runs_dir)
    run.log({"train.loss": 1.0})
    run.log({"train.loss": math.nan, "train.lr": math.inf})
    run.close()
    facts = report.summary(read_back(_sent(RunFolder(run.dir)), run.id))
    assert facts.missing == 2
    assert facts.gaps == (
        "the imitated cloud: 2 values recorded as nan or infinite: Monasca takes finite numbers only",
    )
    assert not facts.complete


def test_what_has_not_arrived_yet_is_a_gap(runs_dir: Path) -> None:
    """run.json's own count tells how much is on its way."""
    run = mlops.Run("digits", devices=[], runs_dir=runs_dir)
    for batch in range(10):
        run.log({"train.loss": 1.0, "train.lr": float(batch)})
    run.close()
    imitation = _sent(RunFolder(run.dir))
    imitation.forget("train.lr")
    (gap,) = read_back(imitation, run.id).gaps
    assert gap.points == 10
    assert f"10 points recorded that did not arrive: not sent yet (mlops upload {run.id})" in gap.what


def test_a_run_that_goes_on_is_said_to(runs_dir: Path) -> None:
    """Its end has not arrived, whatever that means."""
    with mlops.Run("digits", devices=[], runs_dir=runs_dir) as run:
        run.log({"train.loss": 1.0})
        run._recorder.fold()
        record = read_back(_sent(RunFolder(run.dir)), run.id)
    assert record.info.outcome == "running"
    assert ["the end of the run has not arrived" in gap.what for gap in record.gaps] == [True]
    assert len(record.columns) == 1


def test_points_that_the_api_counts_and_does_not_give_are_a_gap(runs_dir: Path) -> None:
    """As a database with a limit of its own would."""
    run = digits(runs_dir, epochs=1)
    imitation = _sent(run.folder)

    def lose(path: str, content: Any) -> Any:
        for element in content["elements"] if path.endswith("measurements") else ():
            if element["name"] == "train.loss":
                del element["measurements"][-3:]
        return content

    imitation.answer = lose
    gaps = read_back(imitation, run.folder.id).gaps
    assert [(gap.what, gap.points) for gap in gaps] == [
        ("the API counts 3 points of train.loss that it did not give", 3)
    ]


def test_a_run_that_told_nothing_of_itself(runs_dir: Path) -> None:
    """Name, host and times come from its points; that this is all is said."""
    run = digits(runs_dir)
    imitation = _sent(run.folder)
    imitation.forget(RUN_METRIC)
    record = read_back(imitation, run.folder.id)
    assert (record.info.name, record.info.host, record.info.started) == ("digits", "node-1", BEGAN)
    assert any("nothing" in gap.what or "no measurement mlops.run" in gap.what for gap in record.gaps)
    assert len(report.epochs(record)) == 12


def test_facts_that_did_not_fit_are_said(runs_dir: Path) -> None:
    """value_meta holds two thousand characters; what was cut is named."""
    run = Written(runs_dir, parameters={f"parameter {number}": "x" * 100 for number in range(30)})
    run.process([P(1, "train.loss", 1.0)])
    facts = report.summary(read_back(_sent(run.folder), run.folder.id))
    assert [remark for remark in facts.remarks if "parameters" in remark and "did not all fit" in remark]


def test_a_run_that_is_not_there(runs_dir: Path) -> None:
    """Also one that is in the store and was not sent: the newest of its name that are there are told."""
    here, there = digits(runs_dir, "aaaaaa"), digits(runs_dir, "bbbbbb")
    with pytest.raises(RunNotFoundError, match=f"no run '{here.folder.id}'.*like it: {there.folder.id}"):
        read_back(_sent(there.folder), here.folder.id)


def test_pages_exports_and_figures_are_made_of_it(runs_dir: Path, tmp_path: Path) -> None:
    """It is a record as any other."""
    run = _digits(runs_dir, epochs=2)
    cloud = read_back(_sent(run.folder), run.folder.id)
    report.export(cloud, tmp_path / "cloud.csv")
    report.export(run.read(), tmp_path / "store.csv")
    mine, theirs = ((tmp_path / name).read_text().splitlines() for name in ("cloud.csv", "store.csv"))
    assert len(mine) == len(theirs)
    assert mine[0] == theirs[0]
    assert report.energy_to_reach(cloud, "accuracy", 0.5).reached


# -- the host's own readings --------------------------------------------------------------------

HOST_NAMES = {
    "nvidia.power_watts": 200.0,
    "nvidia.utilisation_gpu_percent": 97.0,
    "nvidia.memory_fb_used_bytes": 8e9,
    "nvidia.temperature_deg_c": 61.0,
}


def _agent(uuid: str, every: float = 15.0, **dimensions: str) -> list[dict[str, Any]]:
    """What a host's agent posts of one GPU, before, during and after a run."""
    own = {"hostname": "node-1", "service": "host", "uuid": uuid, **dimensions}
    return [
        metric(name, round((BEGAN + second) * 1000), value, **own)
        for second in np.arange(-300.0, 1200.0, every)
        for name, value in HOST_NAMES.items()
    ]


def _unmetered(runs_dir: Path, meters: list[dict[str, str]], **info: Any) -> Written:
    run = Written(runs_dir, ended=BEGAN + 600, notes={"meters": meters, "not_metered": []}, **info)
    run.process(in_order(*(epoch(number, 60.0 * number, 60.0, accuracy=number / 10) for number in range(1, 11))))
    return run


NOTED = [{"device": "gpu", "id": uuid, "name": "NVIDIA Made-Up 100", "method": "counter"} for uuid in (GPU, OTHER_GPU)]


def test_a_hosts_readings_stand_in_for_gpus_that_the_run_could_not_meter(runs_dir: Path) -> None:
    """They join by uuid, within the run's time, under the run's names; energy is integrated; whose they are is said."""
    run = _unmetered(runs_dir, NOTED)
    imitation = _sent(run.folder)
    imitation.post(_agent(GPU) + _agent(OTHER_GPU) + _agent(f"{GPU}-of-somebody-else"))
    record = read_back(imitation, run.folder.id)
    names = ("gpu.power_watts", "gpu.utilisation_percent", "gpu.memory_used_bytes", "gpu.temperature_celsius")
    joined = {series for series in record.series if series.name.startswith("gpu.")}
    assert joined == {Series.of(name, {"uuid": uuid}) for name in names for uuid in (GPU, OTHER_GPU)}
    found = record.find("gpu.power_watts")
    assert [len(columns) for _, columns in found] == [41, 41], "every 15 s in ten minutes, both ends included"
    energy = report.energy_used(record)
    assert energy.joules == pytest.approx(2 * 200.0 * 600.0)
    assert energy.method == "gpu power"
    assert [meter.id for meter in energy.meters] == [GPU, OTHER_GPU]
    assert {meter.name for meter in energy.meters} == {"NVIDIA Made-Up 100 (read by the agent of node-1)"}
    rows = report.epochs(record).rows
    assert [row.joules for row in rows] == pytest.approx([2 * 200.0 * 60.0] * 10)
    (remark,) = (remark for remark in report.epochs(record).remarks if "not the run's own" in remark)
    assert GPU in remark
    assert "the agent of node-1" in remark
    assert json.dumps(_facts(record))


def test_what_the_run_measured_itself_comes_first(runs_dir: Path) -> None:
    """Of a GPU that it recorded anything of, nothing is taken from elsewhere."""
    run = _unmetered(runs_dir, NOTED)
    run.process(_to_the_millisecond(readings(600)), {"host": "node-1"})
    imitation = _sent(run.folder)
    imitation.post(_agent(GPU) + _agent(OTHER_GPU))
    record = read_back(imitation, run.folder.id)
    assert {meter.id: meter.method for meter in report.energy_used(record).meters} == {
        GPU: "counter",
        OTHER_GPU: "power",
    }
    points = {dict(series.dimensions)["uuid"]: len(columns) for series, columns in record.find("gpu.power_watts")}
    assert points == {GPU: 601, OTHER_GPU: 41}


def test_a_gpu_in_a_dimension_is_noted_too(runs_dir: Path) -> None:
    """As where a run was told which GPU it has, and could ask none."""
    run = _unmetered(runs_dir, [], dimensions={"uuid": GPU})
    imitation = _sent(run.folder)
    imitation.post(_agent(GPU, every=5.0, hostname="node-7") + _agent(GPU, hostname="node-8"))
    energy = report.energy_used(read_back(imitation, run.folder.id))
    assert [(meter.id, meter.name) for meter in energy.meters] == [(GPU, "GPU (read by the agent of node-7)")], (
        "of two that tell of it, the one that tells more"
    )


def test_the_hosts_readings_lead_no_training(runs_dir: Path) -> None:
    """The epochs of a distributed training stay those of its first rank."""
    run = _two_ranks(runs_dir)
    info = run.folder.info()
    info.notes["meters"] = [
        *info.notes["meters"],
        {"device": "gpu", "id": "GPU-third", "name": "", "method": "counter"},
    ]
    run.folder.write_info(info)
    imitation = _sent(run.folder)
    before = report.epochs(read_back(imitation, run.folder.id)).rows
    imitation.post(_agent("GPU-third", every=1.0))
    after = report.epochs(read_back(imitation, run.folder.id)).rows
    assert [row.valid_loss for row in after] == [row.valid_loss for row in before]
    assert len(after) == len(before)


def test_no_agent_no_readings(runs_dir: Path) -> None:
    """Then the report says why there is no energy, as from the store."""
    run = _unmetered(runs_dir, NOTED)
    imitation = _sent(run.folder)
    record = read_back(imitation, run.folder.id)
    assert report.energy_used(record).joules is None
    assert _facts(record)["epochs"] == _facts(run.read())["epochs"]


def test_an_answer_that_is_none_is_an_error(runs_dir: Path) -> None:
    """A run is never read from nonsense."""
    run = digits(runs_dir, epochs=1)
    imitation = _sent(run.folder)
    imitation.answer = lambda _path, _content: {"elements": [{"name": "train.loss"}], "links": []}
    with pytest.raises(CloudError):
        read_back(imitation, run.folder.id)
