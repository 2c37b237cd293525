"""What is found on a machine, and what of it is broken."""

from __future__ import annotations

import ctypes
import json
import socket
import threading
from collections.abc import Callable
from pathlib import Path

import pynvml
import pytest

from mlops import doctor
from mlops.devices import base
from mlops.devices.base import Absent
from mlops.doctor import Examination, Finding, examine
from mlops.settings import ABOUT
from tests.devices.stub import Node
from tests.testbed.agent import Agent

TRACE = Path(__file__).parent / "devices" / "data" / "trace.csv"


def _of(found: Examination, section: str) -> list[Finding]:
    return [finding for finding in found.findings if finding.section == section]


def test_a_bare_machine_is_a_normal_case(runs_dir: Path) -> None:
    """Nothing configured, nothing broken; what is absent is a note with its reason."""
    found = examine({"runs_dir": runs_dir, "devices": ("host",)})
    assert found.ok
    assert {"ok", "note"} >= {finding.state for finding in found.findings}
    assert found.versions["mlops"]
    assert found.system["host"] == socket.gethostname()
    assert json.loads(json.dumps(found.as_json()))["ok"] is True


def test_every_setting_has_its_value_and_its_source(runs_dir: Path, tmp_path: Path) -> None:
    """Each setting is listed with where it came from: argument, environment, file, default."""
    (tmp_path / "mlops.toml").write_text("sample_seconds = 2\n")
    found = examine({"runs_dir": runs_dir, "devices": ()}, {"MLOPS_NAME": "digits"})
    rows = {row["name"]: row for row in found.settings}
    assert rows.keys() == ABOUT.keys()
    assert (rows["runs_dir"]["value"], rows["runs_dir"]["source"]) == (str(runs_dir), "argument")
    assert (rows["name"]["value"], rows["name"]["source"]) == ("digits", "environment")
    assert (rows["sample_seconds"]["value"], rows["sample_seconds"]["source"]) == ("2.0", str(tmp_path / "mlops.toml"))
    assert rows["fold_seconds"]["source"] == "default"


def test_settings_that_cannot_be_understood_are_broken_and_the_rest_is_told() -> None:
    """One bad variable is named; everything else is still looked at."""
    found = examine({}, {"MLOPS_SAMPLE_SECONDS": "soon", "MLOPS_DEVICES": ""})
    assert not found.ok
    (finding,) = _of(found, "settings")
    assert finding.state == "broken"
    assert "MLOPS_SAMPLE_SECONDS is 'soon'" in finding.text
    assert _of(found, "runs")


def test_a_misspelt_variable_is_told_the_nearest() -> None:
    """A variable that looks like a setting and is none gets a warning; ours that are no settings do not."""
    environ = {
        "MLOPS_SINK": "x",
        "MLOPS_XYZZY": "y",
        "MLOPS_DEBUG": "1",
        "MLOPS_RUN_DIR": "/x",
        "MLOPS_DEVICES": "",
    }
    found = examine({}, environ)
    warnings = {finding.name: finding.remedy for finding in _of(found, "settings")}
    assert warnings.keys() == {"MLOPS_SINK", "MLOPS_XYZZY"}
    assert warnings["MLOPS_SINK"] == "Did you mean MLOPS_SINKS?"
    assert "MLOPS_RUNS_DIR" in warnings["MLOPS_XYZZY"]
    assert found.ok


# -- devices -------------------------------------------------------------------------------------


def test_a_gpu_is_told_with_its_method_and_power(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Through the real nvidia-ml-py: each GPU, how its energy is metered, and what it draws now."""
    node = Node(tmp_path / "node.txt", gpus=2)
    monkeypatch.setenv("STUB_NVML", str(node.path))
    monkeypatch.setattr(pynvml, "nvmlLib", ctypes.CDLL(str(node.library)))
    monkeypatch.setattr(pynvml, "_nvmlGetFunctionPointer_cache", {})
    found = examine({"devices": ("nvidia",)}, {})
    assert found.ok
    assert [meter["method"] for meter in found.meters] == ["counter", "counter"]
    lines = [finding.text for finding in _of(found, "devices") if "energy of" in finding.text]
    assert len(lines) == 2
    assert all("the hardware's own counter" in line and " W now" in line for line in lines)


def test_a_trace_that_is_not_there_is_broken() -> None:
    """An absent GPU is a note; an absent trace was asked for by name."""
    assert not examine({"devices": ("replay:/nosuch.csv",)}, {}).ok
    found = examine({"devices": (f"replay:{TRACE}",)}, {})
    assert found.ok
    assert {meter["method"] for meter in found.meters} == {"replay"}


def test_an_unknown_device_is_broken() -> None:
    """A kind that there is none of is told with those there are."""
    (finding,) = _of(examine({"devices": ("gpu",)}, {}), "devices")
    assert finding.state == "broken"
    assert "nvidia, host, replay" in finding.remedy


def test_a_hung_driver_costs_its_answer_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Opening a device has a deadline."""
    hung = threading.Event()

    def opener(_: str) -> Callable[[], base.Device]:
        def hang() -> base.Device:
            hung.wait(30)
            return Absent("too late")

        return hang

    monkeypatch.setattr("mlops.devices.opener", opener)
    monkeypatch.setattr(doctor, "_SECONDS", 0.05)
    found = examine({"devices": ("nvidia",)}, {})
    hung.set()
    (finding,) = _of(found, "devices")
    assert finding.state == "broken"
    assert "took longer than" in finding.text
    assert _of(found, "runs")


# -- sinks ---------------------------------------------------------------------------------------


def test_a_port_where_nobody_listens_is_broken() -> None:
    """The kernel of this machine says that a datagram was refused."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    (finding,) = _of(examine({"sinks": (f"statsd://127.0.0.1:{port}",), "devices": ()}, {}), "sinks")
    assert finding.state == "broken"
    assert "nobody listens" in finding.text
    assert "monasca-agent" in finding.remedy


def test_a_port_that_takes_datagrams_is_all_that_can_be_known() -> None:
    """One empty line is sent, which is no metric, and the text does not claim more than was seen."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(("127.0.0.1", 0))
        taken.settimeout(5)
        url = f"statsd://127.0.0.1:{taken.getsockname()[1]}"
        (finding,) = _of(examine({"sinks": (url,), "devices": ()}, {}), "sinks")
        assert finding.state == "ok"
        assert "UDP does not tell" in finding.text
        assert taken.recv(100) == b"\n"
        taken.settimeout(0)
        with pytest.raises(BlockingIOError):
            taken.recv(100)


@pytest.mark.slow
def test_the_real_agent_passes_over_what_is_sent_to_it(
    agent: Agent, wait_until: Callable[[Callable[[], object]], None]
) -> None:
    """A real monasca-agent reads the empty line, complains of nothing, and goes on to take metrics."""
    (finding,) = _of(examine({"sinks": (agent.url,), "devices": ()}, {}), "sinks")
    assert finding.state == "ok"
    wait_until(lambda: b"\n" in agent.tap.datagrams())
    assert "Unparseable" not in agent.statsd.last_words()
    assert "Error" not in agent.statsd.last_words()


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("statsd://nosuch.invalid", "nosuch.invalid cannot be resolved"),
        ("stasd://localhost", "There is no sink of scheme 'stasd'"),
        ("statsd://", "names no host"),
        ("localhost:8125", "no sink of scheme"),
        ("statsd://localhost:99999", "cannot be read"),
    ],
)
def test_a_sink_that_cannot_work_is_broken(url: str, said: str) -> None:
    """What its URL lacks, or why its name leads nowhere."""
    (finding,) = _of(examine({"sinks": (url,), "devices": ()}, {}), "sinks")
    assert finding.state == "broken"
    assert said in finding.text


def test_a_sink_in_memory_works() -> None:
    """A sink without a network needs only to open."""
    assert examine({"sinks": ("memory:",), "devices": ()}, {}).ok


# -- runs ----------------------------------------------------------------------------------------


def test_the_folder_of_runs(runs_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It need not exist; it must be writable and have room. Looking makes nothing."""
    (finding,) = _of(examine({"runs_dir": runs_dir, "devices": ()}, {}), "runs")
    assert finding.state == "ok"
    assert "will be made" in finding.text
    assert not runs_dir.exists()
    runs_dir.mkdir()
    (finding,) = _of(examine({"runs_dir": runs_dir, "devices": ()}, {}), "runs")
    assert "0 runs" in finding.text
    assert "GiB free" in finding.text
    assert not list(runs_dir.iterdir())

    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda _: doctor.shutil._ntuple_diskusage(1, 1, 500 << 20))  # type: ignore[attr-defined]
    assert _of(examine({"runs_dir": runs_dir, "devices": ()}, {}), "runs")[0].state == "warning"
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda _: doctor.shutil._ntuple_diskusage(1, 1, 1 << 20))  # type: ignore[attr-defined]
    assert _of(examine({"runs_dir": runs_dir, "devices": ()}, {}), "runs")[0].state == "broken"


def test_a_folder_that_cannot_be_written_is_broken(tmp_path: Path) -> None:
    """A run would be recorded in a temporary folder; doctor says so before."""
    (tmp_path / "file").touch()
    (finding,) = _of(examine({"runs_dir": tmp_path / "file" / "runs", "devices": ()}, {}), "runs")
    assert finding.state == "broken"
    assert "MLOPS_RUNS_DIR" in finding.remedy


def test_missing_packages_are_notes_with_the_command_that_brings_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is not installed is told with the part that needs it; nothing is broken by it."""
    monkeypatch.setattr(doctor, "_EXTRAS", (("no-such-package", "notebook", "mlops notebook"),))
    (finding,) = _of(examine({"devices": ()}, {}), "packages")
    assert finding.state == "note"
    assert "mlops notebook needs it" in finding.text
    assert finding.remedy == "pip install 'mlops[notebook]'"
