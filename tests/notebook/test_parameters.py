"""A notebook's parameters: declared, given, judged."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from papermill.cli import _resolve_type

from mlops.errors import MissingExtraError, ParameterError
from mlops.notebook.parameters import check, declared, read_file, typed

NUMBERS = st.one_of(st.integers().map(str), st.floats().map(repr), st.decimals().map(str))
WORDS = st.sampled_from(["True", "False", "None", "true", "", "1_000", "0x10", " 7 ", "1e3", "nan", "-inf", "٣", "1."])


@given(st.one_of(st.text(), NUMBERS, WORDS))
def test_values_are_typed_as_papermill_types_them(text: str) -> None:
    """``-p`` means what it means to papermill, whatever the text."""
    ours, theirs = typed(text), _resolve_type(text)
    assert type(ours) is type(theirs)
    assert ours == theirs or (isinstance(ours, float) and math.isnan(ours) and str(theirs) == "nan")


CELL = """
%matplotlib inline
!pip list
# how long
epochs = 5
rate: float = 0.5  # a comment with = in it
label = "a # b = c"
layers = [
    8,  # wide
    4,
]
first, (second, *others) = 1, (2, 3, 4)
both = again = {"a": 1}
total = epochs * 2
needed: int
if total > 3:
    chosen = True
else:
    fallback = False
with open("/dev/null") as handle:
    inside = None
try:
    tried = 1
except ValueError:
    excused = 2
epochs += 0

def function():
    hidden = 1

class Thing:
    attribute = 1
"""


def test_every_assignment_declares() -> None:
    """Names come from the cell's own scope in all forms of assignment; values where they are literals."""
    names = declared(CELL)
    assert names == {
        "epochs": 0,
        "rate": 0.5,
        "label": "a # b = c",
        "layers": [8, 4],
        "first": ...,
        "second": ...,
        "others": ...,
        "both": {"a": 1},
        "again": {"a": 1},
        "total": ...,
        "needed": ...,
        "chosen": True,
        "fallback": False,
        "inside": None,
        "tried": 1,
        "excused": 2,
    }


def test_a_cell_that_is_no_python_is_told() -> None:
    """The caller decides what to make of it."""
    with pytest.raises(SyntaxError):
        declared("epochs <- 5 %% 2")


def test_an_unknown_parameter_names_the_nearest_and_the_known() -> None:
    """A misspelt name is refused, and what was meant is offered."""
    check({"epochs": 1}, {"epochs": 5, "rate": 1}, "a.ipynb")
    with pytest.raises(ParameterError, match=r"a.ipynb has no parameter 'epoch'. Did you mean epochs\?") as caught:
        check({"epoch": 1}, {"epochs": 5, "rate": 1}, "a.ipynb")
    assert "Its parameters: epochs, rate." in caught.value.remedy
    assert caught.value.exit_code == 2
    with pytest.raises(ParameterError, match=r"Its parameters: none\."):
        check({"x": 1}, {}, "a.ipynb")
    with pytest.raises(ParameterError, match="p11, …"):
        check({"zzz": 1}, {f"p{number}": 0 for number in range(20)}, "a.ipynb")


def test_a_file_of_parameters(tmp_path: Path) -> None:
    """YAML and JSON are read; an empty file gives none."""
    file = tmp_path / "p.yaml"
    file.write_text("epochs: 5\nlayers: [8, 4]\nlabel: plain\n")
    assert read_file(file) == {"epochs": 5, "layers": [8, 4], "label": "plain"}
    file.write_text('{"epochs": 5}')
    assert read_file(file) == {"epochs": 5}
    file.write_text("")
    assert read_file(file) == {}


@pytest.mark.parametrize("content", ["- 1\n", "5: x\n", "{", "\0", "just text"])
def test_a_file_that_is_none_is_told_in_a_line(tmp_path: Path, content: str) -> None:
    """What is no table of names and values is refused with the form that it must have."""
    file = tmp_path / "p.yaml"
    file.write_text(content)
    with pytest.raises(ParameterError, match=r"p\.yaml") as caught:
        read_file(file)
    assert "\n" not in str(caught.value)


def test_a_missing_file_or_package_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No traceback for either."""
    with pytest.raises(ParameterError, match="No such file"):
        read_file(tmp_path / "nosuch.yaml")
    monkeypatch.setitem(sys.modules, "yaml", None)
    with pytest.raises(MissingExtraError):
        read_file(tmp_path / "nosuch.yaml")
