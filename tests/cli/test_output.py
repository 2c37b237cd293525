"""How the command line writes."""

from __future__ import annotations

import contextlib
import json
import math
import sys
from pathlib import Path

import numpy as np
import pytest

from mlops.cli import output
from mlops.errors import MissingExtraError


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0, "0.0 s"),
        (-1.0, "0.0 s"),
        (9.94, "9.9 s"),
        (10.4, "10 s"),
        (59.4, "59 s"),
        (185.0, "3 min 5 s"),
        (7440.0, "2 h 4 min"),
        (None, ""),
        (math.nan, ""),
    ],
)
def test_durations_are_short(seconds: float | None, text: str) -> None:
    """A span of time reads at a glance."""
    assert output.duration(seconds) == text


def test_sizes_are_short() -> None:
    """Bytes read at a glance."""
    assert [output.size(count) for count in (812, 2048, 3 << 20, 5 << 40)] == ["812 B", "2.0 KiB", "3.0 MiB", "5.0 TiB"]


def test_json_is_json_whatever_is_in_it(capsys: pytest.CaptureFixture[str]) -> None:
    """nan and infinities become texts that ``float()`` reads; paths and numpy's numbers become plain."""
    content = {"a": [1.5, math.nan, math.inf, -math.inf], "b": np.float32(0.5), "c": Path("/x"), "d": None, "e": ("f",)}
    output.structured(content, "json")
    text = capsys.readouterr().out
    read = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert read == {"a": [1.5, "NaN", "Infinity", "-Infinity"], "b": 0.5, "c": "/x", "d": None, "e": ["f"]}
    assert [float(value) for value in read["a"][2:]] == [math.inf, -math.inf]


def test_yaml_without_its_package_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """A missing PyYAML is no traceback."""
    monkeypatch.setitem(sys.modules, "yaml", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'mlops\[notebook\]'"):
        output.structured([], "yaml")


def test_paths_are_as_short_as_they_can_be_typed(tmp_path: Path) -> None:
    """A path below the working folder is told from here; any other whole."""
    assert output.near(tmp_path / "runs" / "x") == "runs/x"
    assert output.near(Path("/usr/bin")) == "/usr/bin"


def test_a_table_is_aligned(capsys: pytest.CaptureFixture[str]) -> None:
    """Columns stand under each other, numbers at the right, whatever is styled."""
    rows = [{"a": "x", "n": "1", "z": "end"}, {"a": "\x1b[31mlonger\x1b[0m", "n": "100", "z": ""}]
    output.table({"a": "A", "n": "N", "z": "Z"}, rows, right=("n",), indent=1)
    assert capsys.readouterr().out.splitlines() == [" A         N  Z", " x         1  end", " longer  100"]


def test_standard_output_gets_a_file_only_once_it_is_whole(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    """What fails half-way leaves nothing in the pipe."""
    with output.written(Path("-")) as draft:
        draft.write_bytes(b"\x00whole")
    assert capfdbinary.readouterr().out == b"\x00whole"
    with contextlib.suppress(RuntimeError), output.written(Path("-")) as draft:
        draft.write_bytes(b"half")
        raise RuntimeError
    assert capfdbinary.readouterr().out == b""
