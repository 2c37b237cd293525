"""``mlops notebook``: real kernels, real signals, as a process of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import Result

from mlops.record import read_run
from mlops.store import RunFolder, list_runs

NOTEBOOKS = Path(__file__).parent.parent / "notebooks"
MLOPS = str(Path(sys.executable).with_name("mlops"))

Call = Callable[..., Result]
Process = Callable[..., subprocess.CompletedProcess[str]]
Wait = Callable[[Callable[[], object]], None]


def _only(runs_dir: Path) -> RunFolder:
    (run,) = list_runs(runs_dir)
    return run


def _notebook(name: str) -> str:
    return str(NOTEBOOKS / f"{name}.ipynb")


@pytest.mark.slow
def test_a_training_from_parameters_to_report(process: Process, tmp_path: Path) -> None:
    """The kernel's run joins; cells are shown, then the table, the folder and the page; all is one run."""
    (tmp_path / "p.yaml").write_text("epochs: 1\nrate: 0.25\n")
    done = process(
        *("notebook", _notebook("trains"), "-f", "p.yaml", "-p", "epochs", "2", "-r", "label", "7"),
        *("--name", "digits", "--dimension", "team=vision", "--device", "host"),
    )
    assert done.returncode == 0, done.stderr
    assert not done.stderr
    folder = _only(tmp_path / "runs")
    record = read_run(folder)
    assert (record.info.name, record.info.outcome) == ("digits", "finished")
    assert record.info.dimensions == {"team": "vision"}
    expected = {"epochs": 2, "rate": 0.25, "label": "7", "notebook": _notebook("trains")}
    assert expected.items() <= record.info.parameters.items()
    ((_, epochs),) = record.find("train.epoch")
    assert epochs.value.tolist() == [1.0, 2.0]
    assert record.find("host.memory_used_bytes")
    assert len(folder.points_files()) == 2
    assert not record.gaps

    lines = done.stdout.splitlines()
    assert lines[0].split() == ["notebook", _notebook("trains")]
    assert lines[1].split() == ["run", folder.id]
    assert "[4/5] Train  " in done.stdout
    assert "[2/5] parameters as given" in done.stdout
    assert "train loss  valid loss  accuracy" in done.stdout
    assert [line.split() for line in lines[-3:]] == [
        ["folder", f"runs/{folder.id}"],
        ["notebook", f"runs/{folder.id}/trains.ipynb"],
        ["report", f"runs/{folder.id}/report.html"],
    ]
    assert "digits True 7 [8, 4] float" in (folder.path / "trains.ipynb").read_text("utf-8")
    assert (folder.path / "report.html").read_text("utf-8").lower().startswith("<!doctype html>")
    assert all(path.stat().st_mode & 0o077 == 0 for path in folder.path.iterdir())
    assert not (folder.path / "kernel.log").exists()


@pytest.mark.slow
def test_a_name_that_monasca_refuses_is_mended(process: Process, tmp_path: Path) -> None:
    """A notebook may be called what it likes: braces, blanks and semicolons do no harm."""
    odd = tmp_path / "a {b}; (c).ipynb"
    odd.write_bytes((NOTEBOOKS / "plain.ipynb").read_bytes())
    done = process("notebook", str(odd), "--device", "none")
    assert done.returncode == 0, done.stderr
    folder = _only(tmp_path / "runs")
    assert folder.info().name == "a__b___(c)"
    assert "hello" in (folder.path / odd.name).read_text("utf-8")


@pytest.mark.slow
def test_json_is_all_there_is_on_stdout(process: Process, tmp_path: Path) -> None:
    """``-o json`` is one object: the run, the verdict, the files, the summary and the epochs."""
    done = process("notebook", _notebook("trains"), "-o", "json", "--device", "none", "--executed", "out.ipynb")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    folder = _only(tmp_path / "runs")
    assert (found["run"], found["path"], found["outcome"]) == (folder.id, str(folder.path), "finished")
    assert found["notebook"] == str(tmp_path / "out.ipynb")
    assert Path(found["notebook"]).exists()
    assert Path(found["report"]).exists()
    assert found["cells"] == {"finished": 4, "total": 4}
    assert [row["epoch"] for row in found["epochs"]["rows"]] == [1, 2, 3]
    assert found["summary"]["best"]["metric"] == "accuracy"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("raises",), 5, "Cell 2 of 4 (Divide) raised ZeroDivisionError: division by zero"),
        (("exits",), 5, "called sys.exit(0); the cell after it did not run"),
        (("killed",), 5, "The kernel died in cell 2 of 3 (Use too much memory): killed by SIGKILL"),
        (("slow", "--timeout", "1s"), 124, "ran longer than 1 s and was interrupted"),
    ],
)
def test_a_failure_is_told_and_recorded(
    process: Process, tmp_path: Path, words: tuple[str, ...], code: int, said: str
) -> None:
    """Exit code, the cell, one line on what happened, the partial output, and the same in run.json."""
    done = process("notebook", _notebook(words[0]), *words[1:], "--device", "none")
    assert done.returncode == code
    folder = _only(tmp_path / "runs")
    output = folder.path / f"{words[0]}.ipynb"
    first, second = done.stderr.splitlines()
    assert first.startswith("error: ")
    assert said in first
    assert str(output) in second
    assert output.exists()
    assert (folder.path / "report.html").exists()
    info = folder.info()
    assert (info.outcome, info.reason) == ("failed", first.removeprefix("error: "))
    assert "failed" in done.stdout
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("nosuch.ipynb",), 2, "There is no notebook nosuch.ipynb"),
        ((__file__,), 2, "is no notebook"),
        ((_notebook("trains"), "-p", "epoch", "2"), 2, "Did you mean epochs?"),
        ((_notebook("untagged"), "-p", "epochs", "2"), 2, "takes no parameters"),
        ((_notebook("elsewhere"),), 2, "is not installed here"),
        ((_notebook("trains"), "-f", "nosuch.yaml"), 2, "nosuch.yaml"),
        ((_notebook("trains"), "-p", "epochs"), 2, "requires 2 arguments"),
        ((_notebook("trains"), "--sink", "stasd:x"), 2, "There is no sink of scheme"),
        ((_notebook("trains"), "--executed", "/nosuch/out.ipynb"), 2, "there is no folder /nosuch"),
        ((_notebook("trains"), "--executed", "/proc/out.ipynb"), 1, "Cannot write /proc/out.ipynb"),
    ],
)
def test_what_cannot_be_run_is_told_before_any_kernel_starts(
    call: Call, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], code: int, said: str
) -> None:
    """A missing or unfit notebook, an unknown parameter, a kernel that is not here: told in a line."""
    monkeypatch.setattr("mlops.notebook.Execution._work", lambda _: pytest.fail("a kernel was started"))
    found = call("notebook", "--device", "none", *words)
    assert found.exit_code == code, found.stderr
    assert said in found.stderr
    assert "Traceback" not in found.stderr


def test_what_is_refused_leaves_no_run(call: Call, runs_dir: Path) -> None:
    """An unknown parameter is no failed run: there was none."""
    assert call("notebook", _notebook("trains"), "-p", "epoch", "2").exit_code == 2
    assert not runs_dir.exists()


@pytest.fixture
def started(tmp_path: Path, wait_until: Wait) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Start ``mlops notebook`` and wait until a cell has made ``begun``."""
    running: list[subprocess.Popen[str]] = []

    def start(name: str, *options: str) -> subprocess.Popen[str]:
        command = [MLOPS, "notebook", _notebook(name), "--device", "none", *options]
        process = subprocess.Popen(
            command, cwd=tmp_path, text=True, start_new_session=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        running.append(process)
        wait_until((tmp_path / "begun").exists)
        return process

    yield start
    for process in running:
        process.kill()
        process.wait()
        for stream in (process.stdout, process.stderr):
            assert stream is not None
            stream.close()


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_an_end_from_outside_lets_the_kernel_tidy_up(
    started: Callable[..., subprocess.Popen[str]], tmp_path: Path, number: signal.Signals, code: int
) -> None:
    """SIGTERM and Ctrl-C: ``finally`` and exit handlers run, the output is kept, the run was interrupted.

    Sent to the whole group and twice at once, as timeout(1) does, they still mean one interrupt.
    """
    process = started("tidies")
    os.killpg(process.pid, number)
    os.killpg(process.pid, number)
    out, err = process.communicate(timeout=60)
    assert process.returncode == code
    assert err == f"error: Interrupted by {number.name}\n"
    assert f"{number.name}: the running cell is interrupted" in out
    assert (tmp_path / "tidied").exists()
    assert (tmp_path / "left").exists()
    folder = _only(tmp_path / "runs")
    info = folder.info()
    assert (info.outcome, info.reason) == ("interrupted", number.name)
    assert (folder.path / "tidies.ipynb").exists()
    assert (folder.path / "report.html").exists()
    record = read_run(folder)
    ((_, losses),) = record.find("train.loss")
    assert len(losses) > 5
    assert not record.gaps


@pytest.mark.slow
def test_a_second_ctrl_c_kills_a_kernel_that_heeds_nothing(
    started: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    """Who asks again does not wait for the whole grace."""
    process = started("stubborn")
    process.send_signal(signal.SIGINT)
    assert process.stdout is not None
    while "is interrupted" not in process.stdout.readline():
        pass
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(1.5)
    process.send_signal(signal.SIGINT)
    assert process.wait(15) == 130
    assert _only(tmp_path / "runs").info().outcome == "interrupted"


@pytest.mark.slow
def test_if_mlops_is_killed_the_kernel_does_not_run_on(
    started: Callable[..., subprocess.Popen[str]], tmp_path: Path, wait_until: Wait
) -> None:
    """After kill -9 of mlops no kernel is left, and the run is read back as killed with its points."""
    process = started("tidies")
    session = process.pid
    children = [pid for pid in _pids() if _parent(pid) == session]
    assert children
    process.kill()
    process.wait(30)
    wait_until(lambda: not any(_parent(pid) is not None for pid in children))
    record = read_run(_only(tmp_path / "runs"))
    assert record.info.outcome == "killed"
    assert record.find("train.loss")


def _pids() -> list[int]:
    return [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]


def _parent(pid: int) -> int | None:
    """The parent of a process that lives; ``None`` for one that does not, or is but a zombie."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] == "Z" else int(fields[1])
