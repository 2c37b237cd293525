"""A notebook in a real kernel, and the verdict on it."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mlops.errors import MlopsError, NotebookError, NotebookTimeoutError
from mlops.notebook import Document, Execution, Progress, Verdict

pytestmark = [
    pytest.mark.slow,
    # nbclient calls it where it makes up the reply of a cell that was interrupted
    pytest.mark.filterwarnings(r"ignore:datetime.datetime.utcnow\(\):DeprecationWarning"),
]

NOTEBOOKS = Path(__file__).parent.parent / "notebooks"

Wait = Callable[[Callable[[], object]], None]


def _execution(tmp_path: Path, name: str, **options: Any) -> Execution:
    document = Document(NOTEBOOKS / f"{name}.ipynb")
    return Execution(
        document,
        tmp_path / "out.ipynb",
        folder=tmp_path,
        log=tmp_path / "kernel.log",
        kernel=document.kernel(),
        **options,
    )


def _run(tmp_path: Path, name: str, **options: Any) -> tuple[Execution, Verdict]:
    execution = _execution(tmp_path, name, **options)
    execution.start()
    assert execution.wait(120)
    return execution, execution.verdict()


def _error(verdict: Verdict) -> MlopsError:
    assert verdict.outcome == "failed"
    assert isinstance(verdict.error, NotebookError)
    assert verdict.reason == verdict.error.what
    return verdict.error


def _news(execution: Execution) -> list[tuple[int, str]]:
    found: list[Progress] = []
    while not execution.news.empty():
        found.append(execution.news.get())
    return [(news.step.number, news.state) for news in found]


def _statuses(tmp_path: Path) -> list[str]:
    """What the executed notebook says of its code cells; papermill's own signposts left out."""
    content = json.loads((tmp_path / "out.ipynb").read_text("utf-8"))
    return [
        cell["metadata"]["papermill"]["status"]
        for cell in content["cells"]
        if cell["cell_type"] == "code" and cell["source"]
    ]


def _outputs(tmp_path: Path) -> str:
    return (tmp_path / "out.ipynb").read_text("utf-8")


def test_a_notebook_that_goes_well(tmp_path: Path) -> None:
    """Each cell is told of, parameters are set, the output is kept for its owner alone, no log is left."""
    environ = {**os.environ, "MLOPS_RUNS_DIR": str(tmp_path / "runs"), "MLOPS_DEVICES": ""}
    execution, verdict = _run(tmp_path, "trains", parameters={"epochs": 2, "label": "given"}, environ=environ)
    assert verdict == Verdict("finished")
    assert execution.finished == len(execution.steps) == 5
    assert _news(execution) == [(number, state) for number in range(1, 6) for state in ("started", "finished")]
    assert "inside False given [8, 4] float" in _outputs(tmp_path)
    assert _statuses(tmp_path) == ["completed"] * 5
    assert (tmp_path / "out.ipynb").stat().st_mode & 0o777 == 0o600
    assert not (tmp_path / "kernel.log").exists()
    assert (NOTEBOOKS / "trains.ipynb").read_text("utf-8").count('"outputs": []') == 4, "the notebook itself changed"


def test_an_exception_is_told_with_its_cell(tmp_path: Path) -> None:
    """The cell, the exception in a line, where the traceback is; what came after is left pending."""
    execution, verdict = _run(tmp_path, "raises")
    error = _error(verdict)
    assert error.what == "Cell 2 of 4 (Divide) raised ZeroDivisionError: division by zero"
    assert error.exit_code == 5
    assert str(tmp_path / "out.ipynb") in error.remedy
    assert _statuses(tmp_path) == ["completed", "failed", "pending", "pending"]
    assert "ZeroDivisionError" in _outputs(tmp_path)
    assert "papermill-error-cell" in _outputs(tmp_path)
    assert _news(execution)[-1] == (2, "failed")


def test_an_exception_that_is_expected_is_none(tmp_path: Path) -> None:
    """A cell tagged raises-exception may raise, as nbclient has it."""
    _, verdict = _run(tmp_path, "expected")
    assert verdict.outcome == "finished"
    assert "went on" in _outputs(tmp_path)
    assert "papermill-error-cell" not in _outputs(tmp_path)


@pytest.mark.parametrize(("name", "behind"), [("exits", "; the cell after it did not run"), ("exits_last", "")])
def test_sys_exit_is_a_failure(tmp_path: Path, name: str, behind: str) -> None:
    """papermill takes sys.exit(0) for success; cells that did not run are none."""
    _, verdict = _run(tmp_path, name)
    error = _error(verdict)
    assert error.what.endswith(f"(sys.exit(0)) called sys.exit(0){behind}")
    assert error.exit_code == 5
    assert _statuses(tmp_path)[:2] == ["completed", "failed"]
    assert "completed" not in _statuses(tmp_path)[2:]


def test_a_killed_kernel_is_told(tmp_path: Path) -> None:
    """papermill saves such a notebook as completed; here it failed, in this cell, by this signal."""
    _, verdict = _run(tmp_path, "killed")
    error = _error(verdict)
    assert error.what.startswith("The kernel died in cell 2 of 3 (Use too much memory): killed by SIGKILL")
    assert _statuses(tmp_path) == ["completed", "failed", "pending"]


def test_a_cell_that_takes_too_long_is_interrupted(tmp_path: Path) -> None:
    """Its ``finally`` runs, what it printed is kept, and it is a timeout of its own exit code."""
    _, verdict = _run(tmp_path, "slow", cell_timeout=1)
    error = _error(verdict)
    assert isinstance(error, NotebookTimeoutError)
    assert error.exit_code == 124
    assert error.what.endswith("ran longer than 1 s and was interrupted")
    assert "--timeout" in error.remedy
    assert (tmp_path / "tidied").exists()
    assert _statuses(tmp_path) == ["completed", "failed", "pending"]
    assert "begun" in _outputs(tmp_path)


def test_a_cell_that_heeds_no_interrupt_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a timeout the kernel is killed if it must be."""
    from mlops.notebook import _papermill

    monkeypatch.setattr(_papermill, "_SETTLE_SECONDS", 1)
    _, verdict = _run(tmp_path, "stubborn", cell_timeout=1)
    assert isinstance(_error(verdict), NotebookTimeoutError)


def test_an_interrupt_lets_finally_and_exit_handlers_run(tmp_path: Path, wait_until: Wait) -> None:
    """What the cell and the kernel have to tidy up they tidy up; no other cell begins."""
    environ = {**os.environ, "MLOPS_RUNS_DIR": str(tmp_path / "runs")}
    execution = _execution(tmp_path, "tidies", environ=environ)
    execution.start()
    wait_until((tmp_path / "begun").exists)
    execution.interrupt("SIGTERM")
    assert execution.wait(60)
    assert execution.verdict() == Verdict("interrupted", "SIGTERM")
    assert (tmp_path / "tidied").exists()
    assert (tmp_path / "left").exists()
    assert _statuses(tmp_path) == ["completed", "failed", "pending"]
    (run,) = (tmp_path / "runs").iterdir()
    assert json.loads((run / "run.json").read_text())["outcome"] != "running", "the run in the kernel was not closed"


def test_a_cell_that_catches_the_interrupt_is_the_last_one(tmp_path: Path, wait_until: Wait) -> None:
    """``except KeyboardInterrupt`` ends a training early; the notebook was interrupted all the same."""
    execution = _execution(tmp_path, "catches")
    execution.start()
    wait_until((tmp_path / "begun").exists)
    execution.interrupt("SIGINT")
    assert execution.wait(60)
    assert execution.verdict() == Verdict("interrupted", "SIGINT")
    assert not (tmp_path / "went_on").exists()
    assert "stopped early" in _outputs(tmp_path)
    assert _statuses(tmp_path) == ["completed", "completed", "pending"]


def test_a_kernel_that_heeds_nothing_can_be_killed(tmp_path: Path, wait_until: Wait) -> None:
    """An interrupt that is caught and ignored is followed by an end."""
    execution = _execution(tmp_path, "stubborn")
    execution.start()
    wait_until((tmp_path / "begun").exists)
    execution.interrupt("SIGINT")
    assert not execution.wait(1.0)
    execution.kill()
    assert execution.wait(30)
    assert execution.verdict() == Verdict("interrupted", "SIGINT")


def test_an_interrupt_before_the_first_cell(tmp_path: Path) -> None:
    """A kernel that is just starting runs nothing."""
    execution = _execution(tmp_path, "plain")
    execution.interrupt("SIGTERM")
    execution.start()
    assert execution.wait(60)
    assert execution.verdict() == Verdict("interrupted", "SIGTERM")
    assert _statuses(tmp_path) == ["pending"]


def test_an_interrupt_of_somebody_else_is_a_failure(tmp_path: Path, wait_until: Wait) -> None:
    """A KeyboardInterrupt that was not asked for here is an exception like any other."""
    execution = _execution(tmp_path, "tidies")
    execution.start()
    wait_until((tmp_path / "begun").exists)
    os.killpg(execution._manager.provisioner.pid, signal.SIGINT)
    assert execution.wait(60)
    assert "raised KeyboardInterrupt" in _error(execution.verdict()).what


def _kernel(folder: Path, code: str) -> str:
    """A kernel of a name of its own, which is any program."""
    home = folder / "kernels" / "odd"
    home.mkdir(parents=True)
    spec = {"argv": ["sh", "-c", code, "{connection_file}"], "display_name": "odd", "language": "python"}
    (home / "kernel.json").write_text(json.dumps(spec))
    return "odd"


def test_a_kernel_that_cannot_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its last words are told."""
    name = _kernel(tmp_path, "echo first >&2; echo No module named ipykernel >&2; exit 1")
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path))
    document = Document(NOTEBOOKS / "plain.ipynb")
    execution = Execution(document, tmp_path / "out.ipynb", kernel=document.kernel(name), log=tmp_path / "kernel.log")
    execution.start()
    assert execution.wait(60)
    error = _error(execution.verdict())
    assert error.what == "The kernel odd ended before it was ready"
    assert error.remedy == "It said: No module named ipykernel"


def test_a_kernel_that_never_gets_ready(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Waiting for it has a deadline."""
    from mlops.notebook import _papermill

    name = _kernel(tmp_path, "exec sleep 60")
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path))
    monkeypatch.setattr(_papermill, "START_SECONDS", 1)
    monkeypatch.setattr(_papermill, "_SHUTDOWN_SECONDS", 0.2)
    document = Document(NOTEBOOKS / "plain.ipynb")
    execution = Execution(document, tmp_path / "out.ipynb", kernel=document.kernel(name))
    execution.start()
    assert execution.wait(60)
    error = _error(execution.verdict())
    assert error.exit_code == 124
    assert "did not start within" in error.what


def test_an_output_that_cannot_be_written_is_told_at_once(tmp_path: Path) -> None:
    """Before any kernel is started."""
    execution = Execution(Document(NOTEBOOKS / "plain.ipynb"), tmp_path / "nosuch" / "out.ipynb")
    with pytest.raises(NotebookError, match=r"Cannot write .*nosuch"):
        execution.start()
