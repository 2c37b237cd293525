"""What the doctor says of sinks that work on this machine alone."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from mlops.doctor import Finding, examine
from mlops.sinks import _endpoint as endpoint_module
from mlops.sinks import open_sink
from tests.sinks.helpers import RUN, Table


def _found(url: str) -> Finding:
    examination = examine({"sinks": (url,), "devices": ()}, {})
    (finding,) = [finding for finding in examination.findings if finding.section == "sinks"]
    return finding


def test_a_port_that_is_free() -> None:
    """It says where a training will listen, and has let go of the port afterwards."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    for _ in range(2):
        finding = _found(f"prometheus://127.0.0.1:{port}")
        assert (finding.state, finding.text) == (
            "ok",
            f"the port is free: a training will listen at http://127.0.0.1:{port}/metrics",
        )
    assert not endpoint_module._open


def test_a_port_that_another_process_has() -> None:
    """A training could not listen there; the remedy is another port."""
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        finding = _found(f"prometheus://127.0.0.1:{other.getsockname()[1]}")
    assert finding.state == "broken"
    assert "taken by another process" in finding.text
    assert "A training goes on without it" in finding.remedy


def test_a_port_that_a_run_has(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside a training that goes on, it is no fault but worth knowing, and it says which run that is."""
    sink = open_sink("prometheus://127.0.0.1:0")
    sink.write(Table().points())
    (port,) = {port for _, port in endpoint_module._open}
    with monkeypatch.context() as patch:
        patch.setattr(endpoint_module, "_open", {})  # as in another process
        finding = _found(f"prometheus://127.0.0.1:{port}")
    sink.close(1.0)
    assert finding.state == "note"
    assert RUN.id in finding.text


def test_folders_for_event_files(tmp_path: Path) -> None:
    """They need not exist, but must be writable; looking makes nothing; without one, runs have their own."""
    finding = _found("tensorboard:logs/here")
    assert (finding.state, finding.text) == ("ok", f"event files will be written into {tmp_path / 'logs' / 'here'}")
    assert not (tmp_path / "logs").exists()
    assert _found("tensorboard:").text == "event files will be written into each run's own folder"
    finding = _found("tensorboard:/dev/null/logs")
    assert (finding.state, finding.text) == ("broken", "/dev/null/logs cannot be written: Not a directory")
