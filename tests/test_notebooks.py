"""Every notebook is fit to be committed, and 01_train does what it promises wherever it is run."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import itertools
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import mlops
from mlops.record import Record, read_run
from mlops.run import JOIN_VARIABLE
from mlops.store import RunFolder, open_run

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
TRAIN = ROOT / "notebooks" / "01_train.ipynb"
CANARY = "canary-5e1f"

pytestmark = pytest.mark.torch  # and Jupyter, which is installed where torch is
every_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def cells(path: Path, kind: str = "code") -> Iterator[dict[str, Any]]:
    """A notebook's cells of one kind, their source being one text."""
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        if cell["cell_type"] == kind:
            yield {**cell, "source": "".join(cell["source"])}


def parameters(path: Path) -> dict[str, Any]:
    """What the cell that is tagged ``parameters`` assigns."""
    (tagged,) = [cell for cell in cells(path) if "parameters" in cell["metadata"].get("tags", [])]
    found = {}
    for line in ast.parse(tagged["source"]).body:
        assert isinstance(line, ast.Assign), "papermill overrides plain assignments only"
        (target,) = line.targets
        assert isinstance(target, ast.Name)
        found[target.id] = ast.literal_eval(line.value)
    return found


def test_the_notebooks_are_found() -> None:
    """What follows looks at something."""
    assert TRAIN in NOTEBOOKS


@every_notebook
def test_parameters_are_tagged_and_used(path: Path) -> None:
    """One cell is tagged ``parameters``; each is a literal, used later, and has a word of explanation beside it."""
    code = [cell["source"] for cell in cells(path) if not cell["metadata"].get("tags")]
    names = {node.id for source in code for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Name)}
    assert parameters(path)
    assert set(parameters(path)) <= names
    (tagged,) = [cell["source"] for cell in cells(path) if "parameters" in cell["metadata"].get("tags", [])]
    assert all("  # " in line for line in tagged.splitlines())


@every_notebook
def test_nothing_of_a_run_is_kept(path: Path) -> None:
    """No output, no number of an execution, nothing of whoever's machine: only what a reader needs."""
    content = json.loads(path.read_text(encoding="utf-8"))
    assert [(cell["outputs"], cell["execution_count"]) for cell in cells(path)] == [([], None)] * len([*cells(path)])
    assert content["metadata"] == {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    assert all(set(cell["metadata"]) <= {"tags"} for cell in content["cells"])
    assert not re.search(rf"/home/|/tmp/|{re.escape(str(ROOT))}", path.read_text(encoding="utf-8"))


@every_notebook
def test_it_is_written_as_jupyter_writes_it(path: Path) -> None:
    """Opened and saved in JupyterLab, nothing changes: a diff shows what someone meant."""
    jupyter: Any = importlib.import_module("nbformat")  # where this is only collected, it is missing
    text = path.read_text(encoding="utf-8")
    node = jupyter.reads(text, as_version=4)
    jupyter.validate(node)
    assert jupyter.writes(node) + "\n" == text


@every_notebook
@pytest.mark.parametrize("command", [["check"], ["format", "--check"]], ids=["lint", "format"])
def test_its_code_is_as_tidy_as_the_rest(path: Path, command: list[str]) -> None:
    """Ruff judges it like any module."""
    ruff = Path(sys.executable).with_name("ruff")
    done = subprocess.run([ruff, *command, path], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@every_notebook
def test_it_teaches_in_order(path: Path) -> None:
    """A title first, then each cell of code under a heading of its own or its parameters' one."""
    content = json.loads(path.read_text(encoding="utf-8"))["cells"]
    assert "".join(content[0]["source"]).startswith("# ")
    for before, cell in itertools.pairwise(content):
        if cell["cell_type"] == "code":
            assert before["cell_type"] == "markdown"
            assert "".join(before["source"]).startswith("#")


@every_notebook
def test_it_imports_nothing_that_is_missing(path: Path) -> None:
    """Whoever has the environment can run it."""
    modules: set[str] = set()
    for cell in cells(path):
        for node in ast.walk(ast.parse(cell["source"])):
            if isinstance(node, ast.Import):
                modules.update(alias.name.partition(".")[0] for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.module:
                modules.add(node.module.partition(".")[0])
    assert modules
    assert [name for name in modules if importlib.util.find_spec(name) is None] == []


def test_what_01_train_says_of_two_lines_is_true() -> None:
    """The two lines that it shows import what there is."""
    text = "".join(cell["source"] for cell in cells(TRAIN, "markdown"))
    (shown,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    imported = next(node for node in ast.walk(ast.parse(shown)) if isinstance(node, ast.ImportFrom))
    assert (imported.module, imported.names[0].name) == ("mlops.callbacks.fastai", "MonascaCallback")
    assert "cbs=MonascaCallback()" in shown


# -- 01_train, run ------------------------------------------------------------------------------


def run(command: list[str], folder: Path, **environ: str) -> str:
    """What a command says that must succeed in this folder; a secret is in its environment."""
    done = subprocess.run(
        [sys.executable, *command],
        cwd=folder,
        env={**os.environ, "OS_PASSWORD": CANARY, "IPYTHONDIR": str(folder / "ipython"), **environ},
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def papermill(folder: Path, *given: str, **environ: str) -> str:
    """The notebook's text after papermill ran it here."""
    run(["-m", "papermill", str(TRAIN), "out.ipynb", "--no-progress-bar", *given], folder, **environ)
    return (folder / "out.ipynb").read_text(encoding="utf-8")


def last_accuracy(record: Record) -> float:
    """Of the last epoch."""
    ((_, columns),) = record.find("valid.accuracy")
    return float(columns.value[-1])


@pytest.mark.slow
def test_01_train_by_papermill_and_by_jupyter(tmp_path: Path) -> None:
    """As committed it reaches 96 %, shows every epoch and its folder, gives the same numbers again, and no secret."""
    text = papermill(tmp_path)
    record = read_run(open_run("last", tmp_path / "runs"))
    assert (record.info.name, record.info.outcome) == ("digits", "finished")
    assert record.info.parameters | parameters(TRAIN) | {"run_name": None} == record.info.parameters | {
        "run_name": None
    }
    assert last_accuracy(record) >= 0.96
    ((_, epochs),) = record.find("train.epoch")
    assert epochs.value.tolist() == list(range(1, 13))
    assert record.info.id in text
    assert "best accuracy" in text
    assert CANARY not in text

    by_hand = tmp_path / "by_hand"
    by_hand.mkdir()
    code = (
        "import sys, nbformat, nbclient\n"
        "node = nbformat.read(sys.argv[1], as_version=4)\n"
        "nbclient.NotebookClient(node, resources={'metadata': {'path': '.'}}).execute()\n"
    )
    run(["-c", code, str(TRAIN)], by_hand)
    again = read_run(open_run("last", by_hand / "runs"))
    for name in ("train.loss", "valid.loss", "valid.accuracy"):
        ((_, first),), ((_, second),) = record.find(name), again.find(name)
        assert first.value.tolist() == second.value.tolist()


@pytest.mark.slow
def test_01_train_joins_the_run_of_who_runs_it(tmp_path: Path) -> None:
    """As `mlops notebook` does it: parameters reach it, and its points are in the run that is there already."""
    with mlops.Run("outer", parameters={"epochs": 2}, devices=[], runs_dir=tmp_path / "outer") as outer:
        text = papermill(tmp_path, "-p", "epochs", "2", "-p", "batch_size", "128", **{JOIN_VARIABLE: str(outer.dir)})
    assert not (tmp_path / "runs").exists()
    assert outer.id in text
    record = read_run(RunFolder(outer.dir))
    assert (record.info.name, record.info.outcome) == ("outer", "finished")
    assert record.info.parameters["batch_size"] == 128
    ((_, losses),) = record.find("train.loss")
    assert len(losses) == 2 * (1437 // 128)
