"""Runs in the cells of a notebook, in a real Jupyter kernel."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from jupyter_client.manager import start_new_kernel

from mlops import cell
from mlops.cell import Cell
from mlops.store import RunFolder, list_runs

pytestmark = pytest.mark.slow

LIMIT = 60.0
Execute = Callable[..., str]


@pytest.fixture
def execute(tmp_path: Path) -> Iterator[Execute]:
    """Run code in a kernel as the cell of an id, or of none; what it said went wrong."""
    manager, client = start_new_kernel(kernel_name="python3", cwd=str(tmp_path))

    def run(code: str, cell_id: str = "") -> str:
        content = {"code": code, "silent": False, "store_history": True, "allow_stdin": False, "stop_on_error": True}
        message = client.session.msg("execute_request", content, metadata={"cellId": cell_id} if cell_id else {})
        client.shell_channel.send(message)
        while True:
            reply: dict[str, Any] = client.get_shell_msg(timeout=LIMIT)
            if reply["parent_header"].get("msg_id") == message["header"]["msg_id"]:
                return str(reply["content"].get("evalue", ""))

    yield run
    client.stop_channels()
    manager.shutdown_kernel(now=True)


OPEN = "import mlops; run = mlops.Run(NAME, devices=[]); run.log({'a': 1.0})"


def outcomes(tmp_path: Path) -> list[str]:
    """How the runs have ended so far, in the order of their names."""
    infos = [RunFolder(run.path).info() for run in list_runs(tmp_path / "runs")]
    return [info.outcome for info in sorted(infos, key=lambda info: info.name)]


@pytest.mark.parametrize("cell_id", ["5f1c", ""])
def test_a_cell_that_is_run_again_ends_its_run(tmp_path: Path, execute: Execute, cell_id: str) -> None:
    """Known by its id, or by its code; the run of another cell, and another run of the same time, go on."""
    code = OPEN.replace("NAME", "f'{number:03}'") + "; number += 1"
    assert execute("number = 0", "first") == ""
    assert execute(code, cell_id) == ""
    assert execute(OPEN.replace("NAME", "'other'"), "another") == ""
    assert outcomes(tmp_path) == ["running", "running"]
    assert execute(code, cell_id) == ""
    assert outcomes(tmp_path) == ["interrupted", "running", "running"]
    assert execute(f"{code}\n{code}", "two at once") == ""
    assert outcomes(tmp_path) == ["interrupted", "running", "running", "running", "running"]
    assert execute("run.close(); assert mlops.current_run() is not None") == ""


def test_a_cell_that_was_changed_is_the_same(tmp_path: Path, execute: Execute) -> None:
    """Where the notebook says which it is."""
    assert execute(OPEN.replace("NAME", "'a'"), "one") == ""
    assert execute(OPEN.replace("NAME", "'b'"), "one") == ""
    assert outcomes(tmp_path) == ["interrupted", "running"]
    (first, _) = list_runs(tmp_path / "runs")
    assert RunFolder(first.path).info().reason == "Its notebook cell was run again."


def test_elsewhere_there_are_no_cells(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a script, on another thread, or in something that only looks like a kernel."""
    assert cell.running() is None
    monkeypatch.setitem(cell.sys.modules, "IPython", object())  # type: ignore[attr-defined] # it is imported there
    assert cell.running() is None
    seen: list[Cell | None] = []
    thread = threading.Thread(target=lambda: seen.append(cell.running()))
    thread.start()
    thread.join()
    assert seen == [None]
