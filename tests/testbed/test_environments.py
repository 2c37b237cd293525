"""Environments are made once, whole, and for each set of pins anew."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.testbed.environments import ROOT, TestbedError, environment

pytestmark = pytest.mark.slow


@pytest.fixture
def pins(tmp_path: Path) -> Path:
    """No pins: an environment without packages, which needs no network."""
    path = tmp_path / "pins.txt"
    path.write_text("# nothing\n", "utf-8")
    return path


def test_an_environment_is_made_once(tmp_path: Path, pins: Path) -> None:
    """The second time it is there, and nothing is said."""
    said: list[str] = []
    first = environment("bare", cache=tmp_path / "cache", requirements=pins, say=said.append)
    assert [line.split(":")[1].split()[0] for line in said] == ["making", "the"]
    assert subprocess.run([first.python, "-c", "import sys; sys.exit(3)"], check=False).returncode == 3
    assert first.program("python") == first.python
    with pytest.raises(TestbedError, match="no program absent"):
        first.program("absent")
    said.clear()
    assert environment("bare", cache=tmp_path / "cache", requirements=pins, say=said.append) == first
    assert said == []


def test_other_pins_are_another_environment_and_a_broken_one_is_made_again(tmp_path: Path, pins: Path) -> None:
    """Pins that change leave the old one alone; one that was not finished is not taken for whole."""
    said: list[str] = []
    first = environment("bare", cache=tmp_path / "cache", requirements=pins, say=said.append)
    pins.write_text("# nothing else\n", "utf-8")
    assert environment("bare", cache=tmp_path / "cache", requirements=pins, say=said.append) != first
    pins.write_text("# nothing\n", "utf-8")
    (first.path / ".whole").unlink()
    said.clear()
    assert environment("bare", cache=tmp_path / "cache", requirements=pins, say=said.append) == first
    assert len(said) == 2


MAKE = """
import sys
from pathlib import Path
from tests.testbed.environments import environment
environment("bare", cache=Path(sys.argv[1]), requirements=Path(sys.argv[2]))
"""


def test_two_processes_make_it_once(tmp_path: Path, pins: Path) -> None:
    """Whichever comes second waits for the first, or finds it made."""
    command = [sys.executable, "-c", MAKE, str(tmp_path / "cache"), str(pins)]
    both = [subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    said = [process.communicate()[0] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert "".join(said).count("making the environment bare with") == 1
    assert "".join(said).count("is ready") == 1


def test_pins_that_cannot_be_had_are_told_with_what_the_installers_said(tmp_path: Path, pins: Path) -> None:
    """Both ways are tried, both reasons are shown, and nothing half-made is left."""
    pins.write_text("absent @ file:///nowhere/absent-1.0-py3-none-any.whl\n", "utf-8")
    with pytest.raises(TestbedError) as caught:
        environment("bad", cache=tmp_path / "cache", requirements=pins, say=lambda _: None)
    assert "uv: " in str(caught.value)
    assert "pip: " in str(caught.value)
    assert str(caught.value).count("/nowhere/absent-1.0-py3-none-any.whl") >= 2
    assert [path.suffix for path in (tmp_path / "cache").iterdir()] == [".lock"]
