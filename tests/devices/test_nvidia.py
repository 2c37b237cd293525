"""NVIDIA GPUs through the real nvidia-ml-py, on a stub of the driver's library."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import timeit
from collections.abc import Mapping
from pathlib import Path

import pynvml
import pytest

from mlops.devices.base import Absent, Meter, Reading, opener
from mlops.devices.nvidia import NvidiaDevice
from mlops.errors import DeviceError
from mlops.record import read_run
from mlops.series import METRICS
from mlops.store import open_run
from tests.devices.conftest import Clock
from tests.devices.stub import LOST, NOT_SUPPORTED, UNKNOWN, Node, instance_uuid, uuid

ENERGY = "gpu.energy_joules"
TWO = (uuid(0), uuid(1))


def values(readings: list[Reading], gpu: str = TWO[0]) -> dict[str, float]:
    """One GPU's readings by name."""
    return {one.series.name: one.value for one in readings if dict(one.series.dimensions)["uuid"] == gpu}


def uuids(readings: list[Reading]) -> list[str]:
    """The GPUs that have readings, in order."""
    return list(dict.fromkeys(dict(one.series.dimensions)["uuid"] for one in readings))


def only(device: NvidiaDevice, name: str) -> float:
    """The one reading of that name that a sample gives now."""
    (found,) = (one.value for one in device.sample() if one.series.name == name)
    return found


def test_a_gpu_that_tells_everything_has_every_metric_in_its_unit(node: Node) -> None:
    """Millijoules, milliwatts, MHz and bytes arrive as the units that end the metrics' names."""
    device = NvidiaDevice()
    node.gpu(0, {"field.83": 1_000_002_500})
    assert values(device.sample()) == {
        "gpu.power_watts": 300.0,
        ENERGY: 2.5,
        "gpu.utilisation_percent": 90.0,
        "gpu.memory_utilisation_percent": 40.0,
        "gpu.memory_used_bytes": 10 * 2.0**30,
        "gpu.memory_total_bytes": 141 * 2.0**30,
        "gpu.temperature_celsius": 60.0,
        "gpu.memory_temperature_celsius": 45.0,
        "gpu.power_limit_watts": 700.0,
        "gpu.sm_clock_hertz": 1.98e9,
        "gpu.memory_clock_hertz": 3.201e9,
        "gpu.throttle_reasons": 4.0,
        "gpu.throttled": 0.0,
        "gpu.ecc_errors": 0.0,
    }
    assert set(values(device.sample())) == {name for name in METRICS if name.startswith("gpu.")}
    assert device.meters() == [Meter("gpu", TWO[0], "NVIDIA H200", "counter")]
    assert device.not_metered() == ""
    assert device.describe() == [
        "NVIDIA driver 580.159.03: 1 of 1 GPUs are this job's",
        f"NVIDIA H200 {TWO[0]}: energy by its counter",
    ]
    device.close()


@pytest.mark.usefixtures("node")
def test_only_energy_says_by_which_method() -> None:
    """The dimension uuid is on everything, as hosts' agents have it; method on energy alone."""
    device = NvidiaDevice()
    for reading in device.sample():
        expected = {"uuid": TWO[0], "method": "counter"} if reading.series.name == ENERGY else {"uuid": TWO[0]}
        assert dict(reading.series.dimensions) == expected
    device.close()


@pytest.mark.parametrize(
    ("keys", "metrics"),
    [
        (["field.82"], ["gpu.memory_temperature_celsius"]),
        (["utilisation"], ["gpu.utilisation_percent", "gpu.memory_utilisation_percent"]),
        (["memory_total"], ["gpu.memory_used_bytes", "gpu.memory_total_bytes"]),
        (["temperature"], ["gpu.temperature_celsius"]),
        (["sm_clock"], ["gpu.sm_clock_hertz"]),
        (["memory_clock"], ["gpu.memory_clock_hertz"]),
        (["power_limit"], ["gpu.power_limit_watts"]),
        (["reasons", "throttle_reasons"], ["gpu.throttle_reasons", "gpu.throttled"]),
        (["ecc"], ["gpu.ecc_errors"]),
        (["field.185", "field.186", "power"], ["gpu.power_watts"]),
    ],
)
def test_a_field_that_is_not_supported_is_left_out_alone_and_asked_no_more(
    node: Node, keys: list[str], metrics: list[str]
) -> None:
    """The others stay, nothing becomes 0, and the question costs nothing after the first time."""
    node.gpu(0, dict.fromkeys(keys, None))
    device = NvidiaDevice()
    expected = {name for name in METRICS if name.startswith("gpu.")} - set(metrics)
    for _ in range(3):
        assert set(values(device.sample())) == expected
    assert [node.asked(key) for key in keys] == [1] * len(keys)
    said = device.describe()[1]
    assert all(metric.removeprefix("gpu.") in said for metric in metrics), said
    device.close()


@pytest.mark.parametrize("key", ["field.82", "temperature", "power_limit"])
def test_a_field_that_fails_now_is_left_out_now_and_asked_again(node: Node, key: str) -> None:
    """An unknown error may be over at the next sample."""
    device = NvidiaDevice()
    whole = set(values(device.sample()))
    node.gpu(0, {f"{key}.rc": UNKNOWN})
    assert len(values(device.sample())) == len(whole) - 1
    node.gpu(0, {f"{key}.rc": None})
    assert set(values(device.sample())) == whole
    device.close()


def test_each_field_has_its_own_return_code(node: Node) -> None:
    """One call fetches four fields; the three that are refused leave the fourth alone."""
    node.gpu(0, {"field.82.rc": NOT_SUPPORTED, "field.185.rc": 2, "field.186.rc": 4})
    device = NvidiaDevice()
    node.gpu(0, {"field.83": 1_000_001_000})
    before = node.asked("fields")
    sample = values(device.sample())
    assert sample[ENERGY] == 1.0
    assert sample["gpu.power_watts"] == 305.0, "nvmlDeviceGetPowerUsage stands in for the field"
    assert "gpu.memory_temperature_celsius" not in sample
    assert node.asked("fields") == before + 1
    assert [node.asked(f"field.{number}") for number in (82, 185, 186)] == [1, 1, 1]
    device.close()


def test_a_driver_that_refuses_all_fields_for_one_is_asked_for_each(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some drivers answer a list that holds a field they do not know with INVALID_ARGUMENT as a whole."""
    real = pynvml.nvmlDeviceGetFieldValues

    def old(handle: object, fields: list[int]) -> object:
        if 186 in fields:
            raise pynvml.NVMLError(2)
        return real(handle, fields)

    monkeypatch.setattr(pynvml, "nvmlDeviceGetFieldValues", old)
    device = NvidiaDevice()
    assert {ENERGY, "gpu.power_watts", "gpu.memory_temperature_celsius"} <= set(values(device.sample()))
    assert device.meters()[0].method == "counter"
    asked = node.asked("fields")
    device.sample()
    assert node.asked("fields") == asked + 1, "the field that it does not know is asked no more"
    device.close()


def test_a_driver_without_field_values_is_asked_by_functions(node: Node) -> None:
    """Energy and power have functions of their own, from before there were fields."""
    node.gpu(0, {"fields.rc": 13})
    device = NvidiaDevice()
    node.gpu(0, {"energy": 3007})
    sample = values(device.sample())
    assert (sample[ENERGY], sample["gpu.power_watts"]) == (3.0, 305.0)
    assert device.meters()[0].method == "counter"
    asked = node.asked("fields")
    device.sample()
    assert node.asked("fields") == asked
    device.close()


@pytest.mark.parametrize(
    ("reasons", "throttled"),
    [
        *[(0, 0.0), (0x1, 0.0), (0x2, 0.0), (0x4, 0.0), (0x10, 0.0), (0x100, 0.0)],  # none, idle, set, power limit, …
        *[(0x8, 1.0), (0x20, 1.0), (0x40, 1.0), (0x80, 1.0), (0x4 | 0x20, 1.0)],  # hardware, heat, heat, power brake
    ],
)
def test_throttled_is_what_heat_and_the_power_supply_do_and_not_a_power_limit(
    node: Node, reasons: int, throttled: float
) -> None:
    """A GPU at its power limit all day is well used; one that the hardware or heat slows down is in trouble."""
    node.gpu(0, {"reasons": reasons})
    device = NvidiaDevice()
    assert only(device, "gpu.throttled") == throttled
    assert only(device, "gpu.throttle_reasons") == reasons
    device.close()


def test_the_old_name_of_throttle_reasons_is_asked_where_the_new_one_is_unknown(node: Node) -> None:
    """Drivers before 535 know only nvmlDeviceGetCurrentClocksThrottleReasons."""
    node.gpu(0, {"reasons.rc": 13})
    device = NvidiaDevice()
    assert only(device, "gpu.throttle_reasons") == 8.0
    device.close()


@pytest.mark.usefixtures("node")
def test_an_older_nvidia_ml_py_lacks_a_function(monkeypatch: pytest.MonkeyPatch) -> None:
    """A function that the binding does not have is a question not supported."""
    monkeypatch.delattr(pynvml, "nvmlDeviceGetCurrentClocksEventReasons")
    device = NvidiaDevice()
    assert only(device, "gpu.throttle_reasons") == 8.0
    device.close()


def test_without_a_counter_the_instant_power_is_integrated(node: Node, clock: Clock) -> None:
    """Trapezoids over the samples' times, of field 186 and not of the average that is published."""
    node.gpu(0, {"field.83": None, "energy": None, "field.186": 100_000})
    device = NvidiaDevice(clock=clock)
    assert device.meters()[0].method == "power"
    clock.go(2)
    node.gpu(0, {"field.186": 200_000})
    sample = values(device.sample())
    assert sample[ENERGY] == pytest.approx(300.0)
    assert sample["gpu.power_watts"] == 300.0
    clock.go(0.5)
    node.gpu(0, {"field.186": 0})
    assert only(device, ENERGY) == pytest.approx(350.0)
    (series,) = (one.series for one in device.sample() if one.series.name == ENERGY)
    assert dict(series.dimensions)["method"] == "power"
    assert "energy by integrating its power" in device.describe()[1]
    device.close()


def test_a_power_reading_that_is_missing_once_is_bridged(node: Node, clock: Clock) -> None:
    """No energy is said while it is unknown, and the trapezoid then spans the gap."""
    node.gpu(0, {"field.83": None, "energy": None, "field.185": None, "power": None, "field.186": 100_000})
    device = NvidiaDevice(clock=clock)
    clock.go(1)
    node.gpu(0, {"field.186.rc": UNKNOWN})
    assert not {ENERGY, "gpu.power_watts"} & set(values(device.sample()))
    clock.go(1)
    node.gpu(0, {"field.186.rc": None})
    sample = values(device.sample())
    assert sample[ENERGY] == pytest.approx(200.0)
    assert sample["gpu.power_watts"] == 100.0
    device.close()


def test_a_counter_that_is_reset_never_makes_energy_go_down(node: Node) -> None:
    """A driver that is loaded anew counts from 0: what was counted stays, what follows is added."""
    device = NvidiaDevice()
    seen = []
    for counter in (1_000_001_000, 1_000_002_000, 500, 500, 1500):
        node.gpu(0, {"field.83": counter})
        seen.append(only(device, ENERGY))
    assert seen == [1.0, 2.0, 2.0, 2.0, 3.0]
    device.close()


def test_energy_waits_while_its_counter_fails(node: Node) -> None:
    """It is left out, the method stays, and what was used meanwhile comes with the next answer."""
    device = NvidiaDevice()
    node.gpu(0, {"field.83": 1_000_009_000, "field.83.rc": UNKNOWN})
    sample = values(device.sample())
    assert ENERGY not in sample
    assert "gpu.power_watts" in sample
    node.gpu(0, {"field.83.rc": None})
    assert only(device, ENERGY) == 9.0
    device.close()


def test_a_gpu_without_any_answer_is_listed_and_says_why_it_is_not_metered(node: Node) -> None:
    """Everything unsupported is no error: there are simply no readings."""
    node.silence(0)
    device = NvidiaDevice()
    asked = node.asked("temperature")
    for _ in range(10):
        assert device.sample() == []
    assert node.asked("temperature") == asked
    assert device.meters() == []
    assert device.not_metered() == f"NVIDIA H200 ({TWO[0]}) tells neither its energy nor its power."
    assert "energy not metered; it does not tell power_watts, energy_joules, " in device.describe()[1]
    device.close()


@pytest.mark.parametrize("code", [LOST, 16, 9, 18, 1])
def test_a_gpu_lost_midway_ends_its_own_readings_with_one_warning(
    node: Node, caplog: pytest.LogCaptureFixture, code: int
) -> None:
    """The other one goes on."""
    node.has(2)
    device = NvidiaDevice()
    assert uuids(device.sample()) == list(TWO)
    node.gpu(0, {"rc": code})
    with caplog.at_level(logging.WARNING, "mlops"):
        for _ in range(3):
            assert uuids(device.sample()) == [TWO[1]]
    (said,) = caplog.messages
    assert f"NVIDIA H200 ({TWO[0]}) is lost" in said
    assert len(device.meters()) == 2, "what was metered stays noted"
    device.close()


def test_a_gpu_of_which_only_a_field_says_that_it_is_lost(node: Node, caplog: pytest.LogCaptureFixture) -> None:
    """The return code inside the one call counts as well."""
    node.has(2)
    device = NvidiaDevice()
    node.gpu(1, {"field.83.rc": LOST})
    assert uuids(device.sample()) == [TWO[0]]
    assert len(caplog.messages) == 1
    device.close()


def test_the_last_gpu_lost_is_an_error_that_says_which(node: Node, caplog: pytest.LogCaptureFixture) -> None:
    """Two lost at once: one warning, and one error that the sampler warns of."""
    node.has(2)
    device = NvidiaDevice()
    node.gpu(0, {"rc": LOST})
    node.gpu(1, {"rc": LOST})
    for _ in range(2):
        with pytest.raises(DeviceError, match=f"{TWO[1]}.* is lost: it has fallen off the bus"):
            device.sample()
    assert len(caplog.messages) == 1
    device.close()


def test_a_gpu_that_answers_nothing_any_more_is_lost_after_a_while(node: Node) -> None:
    """Some drivers say only 'unknown error' of a GPU that fell off the bus."""
    device = NvidiaDevice()
    node.gpu(0, {"rc": UNKNOWN})
    for _ in range(4):
        assert device.sample() == []
    with pytest.raises(DeviceError, match=r"has not answered 5 times in a row .*Unknown Error"):
        device.sample()
    device.close()


def test_a_gpu_that_comes_back_in_time_is_not_lost(node: Node) -> None:
    """Patience begins anew with every answer."""
    device = NvidiaDevice()
    for _ in range(3):
        node.gpu(0, {"rc": UNKNOWN})
        for _ in range(4):
            assert device.sample() == []
        node.gpu(0, {"rc": None})
        assert device.sample()
    device.close()


def test_a_gpu_lost_before_it_was_opened(node: Node, caplog: pytest.LogCaptureFixture) -> None:
    """Its name is known and nothing else: the other is metered."""
    node.has(2)
    node.gpu(1, {"temperature.rc": LOST})
    device = NvidiaDevice()
    assert uuids(device.sample()) == [TWO[0]]
    assert [meter.id for meter in device.meters()] == [TWO[0]]
    assert len(caplog.messages) == 1
    device.close()


def test_no_gpu_of_the_jobs_answers(node: Node) -> None:
    """This is Absent, with a reason, and NVML is let go."""
    node.gpu(0, {"temperature.rc": LOST})
    with pytest.raises(DeviceError, match=r"None of this job's GPUs answers"):
        NvidiaDevice()
    assert node.users == 0


def test_gpus_that_may_not_be_opened_are_not_this_jobs(node: Node) -> None:
    """In a container NVML counts all and hands out some."""
    node.has(3)
    node.gpu(0, {"open.rc": 4})
    node.gpu(2, {"uuid.rc": LOST})
    device = NvidiaDevice()
    assert uuids(device.sample()) == [TWO[1]]
    device.close()


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, [0, 1, 2, 3]),
        ({"CUDA_VISIBLE_DEVICES": "2,0"}, [2, 0]),
        ({"CUDA_VISIBLE_DEVICES": "1,-1,2"}, [1]),
        ({"CUDA_VISIBLE_DEVICES": f"{uuid(3)},GPU-1"}, [3, 1]),
        ({"CUDA_VISIBLE_DEVICES": "2,3", "WORLD_SIZE": "2", "LOCAL_RANK": "1"}, [3]),
    ],
)
def test_only_this_jobs_gpus_are_reported(node: Node, environ: Mapping[str, str], expected: list[int]) -> None:
    """By UUID, in CUDA's order, as the environment says (all forms are in test_visible)."""
    node.has(4)
    device = NvidiaDevice(environ=environ)
    assert uuids(device.sample()) == [uuid(index) for index in expected]
    assert [meter.id for meter in device.meters()] == [uuid(index) for index in expected]
    assert f"{len(expected)} of 4 GPUs" in device.describe()[0]
    device.close()


def test_eight_gpus_are_told_apart(node: Node) -> None:
    """Each reading is of its own GPU."""
    node.has(8)
    device = NvidiaDevice()
    node.gpu(5, {"field.83": 1_000_005_005})
    sample = device.sample()
    assert [values(sample, uuid(index))["gpu.temperature_celsius"] for index in range(8)] == [60 + i for i in range(8)]
    assert [values(sample, uuid(index))[ENERGY] for index in range(8)] == [0, 0, 0, 0, 0, 5.0, 0, 0]
    device.close()


def test_of_a_mig_instance_only_its_memory_is_sent(node: Node) -> None:
    """Power, energy and all the rest are the whole board's, and the reason says so."""
    node.split(0, instances=3)
    mine = instance_uuid(0, 1)
    device = NvidiaDevice(environ={"CUDA_VISIBLE_DEVICES": mine})
    sample = device.sample()
    assert uuids(sample) == [mine]
    assert values(sample, mine) == {"gpu.memory_used_bytes": 2.0 * 2**30, "gpu.memory_total_bytes": 18.0 * 2**30}
    assert device.meters() == []
    assert device.not_metered() == (
        f"NVIDIA H200 MIG 1g.18gb ({mine}) is a part of a GPU (MIG): power and energy are the whole board's, "
        "which it shares."
    )
    assert (node.asked("power"), node.asked("fields")) == (0, 0)
    device.close()


@pytest.mark.parametrize(("driver", "seen"), [("580.1", 3), ("535.129.03", 1), ("unreadable", 3)])
def test_all_instances_or_the_first_as_the_driver_has_it(node: Node, driver: str, seen: int) -> None:
    """Before driver 570 one CUDA process used one MIG instance, the first; instances that are not there are skipped."""
    node.split(0, instances=3)
    node.set(driver=driver)
    device = NvidiaDevice(environ={})
    assert uuids(device.sample()) == [instance_uuid(0, number) for number in range(seen)]
    device.close()


def test_a_whole_gpu_beside_an_instance_is_metered(node: Node) -> None:
    """One is metered, and of the other it is said that it is not."""
    node.has(2)
    node.split(0, instances=1)
    device = NvidiaDevice(environ={})
    assert uuids(device.sample()) == [instance_uuid(0, 0), TWO[1]]
    assert [meter.id for meter in device.meters()] == [TWO[1]]
    assert instance_uuid(0, 0) in device.not_metered()
    assert TWO[1] not in device.not_metered()
    device.close()


def test_an_instance_without_a_name_bears_its_boards(node: Node) -> None:
    """And a board whose instances cannot be counted has none."""
    node.split(0, instances=1)
    node.gpu(0, {"mig0.name": None})
    device = NvidiaDevice(environ={})
    assert "NVIDIA H200 MIG" in device.not_metered()
    device.close()
    node.gpu(0, {"instances": None})
    with pytest.raises(DeviceError, match="in MIG mode and have no instance"):
        NvidiaDevice(environ={})


@pytest.mark.usefixtures("no_driver")
def test_no_driver_is_a_normal_case() -> None:
    """A sentence that says so, and Absent where settings ask for it."""
    with pytest.raises(DeviceError, match=r"There is no NVIDIA driver here .*libnvidia-ml\.so\.1"):
        NvidiaDevice()
    device = opener("nvidia")()
    assert isinstance(device, Absent)
    assert device.sample() == []
    assert "There is no NVIDIA driver here" in device.not_metered()


@pytest.mark.parametrize(
    ("code", "said"),
    [
        (9, "installed here and not loaded"),
        (18, "updated under a running node"),
        (4, "does not let this user in"),
        (UNKNOWN, "cannot be asked: Unknown Error"),
    ],
)
def test_a_driver_that_does_not_open_says_why(node: Node, code: int, said: str) -> None:
    """Each of the usual reasons has a sentence of its own."""
    node.set(init__rc=code)
    with pytest.raises(DeviceError, match=said):
        NvidiaDevice()


def test_a_driver_that_fails_while_it_is_surveyed(node: Node) -> None:
    """An error of NVML's becomes ours, and NVML is let go."""
    node.set(gpus__rc=UNKNOWN)
    with pytest.raises(DeviceError, match="does not show its GPUs: Unknown Error"):
        NvidiaDevice()
    assert node.users == 0


def test_a_job_without_gpu_lets_nvml_go(node: Node) -> None:
    """The environment says that none of them is this job's."""
    with pytest.raises(DeviceError, match="CUDA_VISIBLE_DEVICES="):
        NvidiaDevice(environ={"CUDA_VISIBLE_DEVICES": ""})
    assert node.users == 0


def test_other_users_of_nvml_keep_it(node: Node) -> None:
    """NVML counts its users: each device opens it once and closes it once, however often close is called."""
    pynvml.nvmlInit()
    first, second = NvidiaDevice(), NvidiaDevice()
    assert node.users == 3
    first.close()
    first.close()
    assert node.users == 2
    assert second.sample()
    assert first.sample() == []
    second.close()
    assert pynvml.nvmlDeviceGetCount() == 1
    pynvml.nvmlShutdown()


CHILD = """
import json, mlops
with mlops.Run("stubbed", devices=["nvidia"], runs_dir="runs") as run:
    assert run._sampler.wait_open(20)
    run.end_epoch({"valid.loss": 0.5})
print(run.id)
"""


def test_a_run_on_a_node_whose_driver_is_found_by_its_name(node: Node, tmp_path: Path) -> None:
    """nvidia-ml-py's own look-up of libnvidia-ml.so.1, and everything up to the record on disk."""
    environ = {**os.environ, "LD_LIBRARY_PATH": str(node.library.parent), "STUB_NVML": str(node.path)}
    environ["PYTHONPATH"] = str(Path(__file__).parents[2])
    done = subprocess.run(
        [sys.executable, "-c", CHILD], cwd=tmp_path, env=environ, capture_output=True, text=True, timeout=60, check=True
    )
    record = read_run(open_run(done.stdout.strip(), tmp_path / "runs"))
    ((series, columns),) = record.find("gpu.power_watts")
    assert dict(series.dimensions) == {"uuid": TWO[0]}
    assert set(columns.value.tolist()) == {300.0}
    ((series, columns),) = record.find("train.epoch_energy_joules")
    assert dict(series.dimensions) == {"device": "gpu", "method": "counter"}
    assert columns.value.tolist() == [0.0]
    noted = json.loads((tmp_path / "runs" / record.info.id / "run.json").read_text())["notes"]
    assert noted["meters"] == [{"device": "gpu", "id": TWO[0], "name": "NVIDIA H200", "method": "counter"}]
    assert noted["not_metered"] == []
    assert done.stderr == ""


@pytest.mark.usefixtures("node")
def test_what_a_sample_costs() -> None:
    """Printed, not judged: the cost of asking one GPU, the stub's own look at its file included."""
    device = NvidiaDevice()
    seconds = min(timeit.repeat(device.sample, number=50, repeat=5)) / 50
    print(f"NvidiaDevice.sample(), one GPU of the stub: {seconds * 1e6:.0f} us")  # noqa: T201 - see the docstring
    device.close()
