"""A notebook as it lies on the disk."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from mlops.errors import MissingExtraError, NotebookError, NotebookNotFoundError, ParameterError
from mlops.notebook import Document
from mlops.notebook.document import steps

NOTEBOOKS = Path(__file__).parent.parent / "notebooks"


def _changed(tmp_path: Path, **changes: Any) -> Path:
    content = json.loads((NOTEBOOKS / "trains.ipynb").read_text("utf-8"))
    content.update(changes)
    path = tmp_path / "changed.ipynb"
    path.write_text(json.dumps(content))
    return path


def test_its_parameters_and_what_they_will_be() -> None:
    """Declared names with their defaults; given values come first."""
    document = Document(NOTEBOOKS / "trains.ipynb")
    known = document.declared()
    assert known is not None
    assert list(known) == ["epochs", "rate", "label", "layers", "seed"]
    document.check({"epochs": 2})
    assert document.values({"epochs": 2}) == {"epochs": 2, "rate": 0.5, "label": "plain", "layers": [8, 4]}


def test_a_parameter_that_it_does_not_declare_is_refused() -> None:
    """So is any, where no cell is tagged: papermill would put it first and have it overwritten."""
    with pytest.raises(ParameterError, match="Did you mean epochs"):
        Document(NOTEBOOKS / "trains.ipynb").check({"epoch": 2})
    untagged = Document(NOTEBOOKS / "untagged.ipynb")
    untagged.check({})
    with pytest.raises(ParameterError, match="none of its cells is tagged 'parameters'"):
        untagged.check({"epochs": 2})


def test_another_language_is_not_judged(tmp_path: Path) -> None:
    """Parameters of a notebook that is not Python cannot be told, so any is taken."""
    metadata = {"kernelspec": {"name": "ir", "language": "R", "display_name": "R"}}
    document = Document(_changed(tmp_path, metadata=metadata))
    assert document.declared() is None
    document.check({"anything": 1})
    assert document.values({"anything": 1}) == {"anything": 1}


def test_a_missing_notebook_names_the_nearest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What lies near there is offered: here, in its folder, or in notebooks/."""
    with pytest.raises(NotebookNotFoundError, match="Check the path") as caught:
        Document(tmp_path / "train.ipynb")
    assert caught.value.exit_code == 2
    with pytest.raises(NotebookNotFoundError, match=r"Did you mean .*trains.ipynb\?"):
        Document(NOTEBOOKS / "train.ipynb")
    monkeypatch.chdir(NOTEBOOKS.parent)
    with pytest.raises(NotebookNotFoundError, match=r"Did you mean notebooks/trains.ipynb\?"):
        Document(Path("trains.ipynb"))
    with pytest.raises(NotebookNotFoundError, match="The notebooks near there: notebooks/"):
        Document(Path("xyzzy"))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"print('a script')", "it is not JSON"),
        (b"", "it is not JSON"),
        (b"\xff\xfe\x00", "it is not JSON"),
        (b"{}", "JSON without the fields"),
        (b"[1]", "JSON without the fields"),
        (b'{"nbformat": 2, "worksheets": []}', "JSON without the fields"),
        (b'{"nbformat": 4, "nbformat_minor": 5}', "no valid notebook"),
        (b'{"nbformat": 4, "nbformat_minor": 5, "metadata": {}, "cells": [{"cell_type": "odd"}]}', "no valid notebook"),
    ],
)
def test_what_is_no_notebook_is_told_why(tmp_path: Path, content: bytes, said: str) -> None:
    """Not JSON, not a notebook's JSON, not a valid notebook: each in a line."""
    path = tmp_path / "odd.ipynb"
    path.write_bytes(content)
    with pytest.raises(NotebookNotFoundError, match=said) as caught:
        Document(path)
    assert "\n" not in str(caught.value)


def test_a_folder_is_no_notebook(tmp_path: Path) -> None:
    """It is told as the system told it."""
    with pytest.raises(NotebookNotFoundError, match="Is a directory"):
        Document(tmp_path)


def test_an_older_notebook_is_read(tmp_path: Path) -> None:
    """Version 3 of the format is upgraded on reading."""
    cells = [{"cell_type": "code", "input": "x = 1", "outputs": [], "language": "python", "metadata": {}}]
    content = {"nbformat": 3, "nbformat_minor": 0, "metadata": {"name": ""}, "worksheets": [{"cells": cells}]}
    path = tmp_path / "old.ipynb"
    path.write_text(json.dumps(content))
    assert steps(Document(path).node)[0].title == "x = 1"


def test_the_kernel_is_the_one_it_names_if_there_is_one() -> None:
    """A kernel that is not installed is told with those that are; none named means python3."""
    assert Document(NOTEBOOKS / "trains.ipynb").kernel() == "python3"
    assert Document(NOTEBOOKS / "plain.ipynb").kernel() == "python3"
    elsewhere = Document(NOTEBOOKS / "elsewhere.ipynb")
    assert elsewhere.kernel("python3") == "python3"
    with pytest.raises(NotebookError, match=r"kernel 'pyhton3', which .*elsewhere.ipynb asks for, is not") as caught:
        elsewhere.kernel()
    assert "--kernel python3" in caught.value.remedy
    assert caught.value.exit_code == 2
    with pytest.raises(NotebookError, match="kernel 'julia' is not installed"):
        elsewhere.kernel("julia")


def test_each_cell_is_called_by_what_stands_above_it() -> None:
    """The heading names the first cell beneath it; without one it is the first line that tells something."""
    titles = [step.title for step in steps(Document(NOTEBOOKS / "trains.ipynb").node)]
    assert titles == ["parameters", "Open the run", "Train", "Look"]
    titles = [step.title for step in steps(Document(NOTEBOOKS / "killed.ipynb").node)]
    assert titles == ["import os", "Use too much memory", 'print("never")']
    (first, *_) = steps(Document(NOTEBOOKS / "raises.ipynb").node)
    assert str(first) == "cell 1 of 4 (Fails in its second cell)"


def test_without_its_packages_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """A missing nbformat is no traceback."""
    monkeypatch.setitem(sys.modules, "nbformat", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'mlops\[notebook\]'"):
        Document(NOTEBOOKS / "plain.ipynb")
