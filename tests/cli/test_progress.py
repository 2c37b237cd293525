"""What is shown while a notebook runs."""

from __future__ import annotations

import io
import os
import pty
import select
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from queue import SimpleQueue
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

import mlops
from mlops.cli import progress
from mlops.cli.progress import LiveDisplay, PlainDisplay, Silence, Watch, display
from mlops.notebook import Progress, Step
from mlops.series import Series

NOTEBOOKS = Path(__file__).parent.parent / "notebooks"
MLOPS = str(Path(sys.executable).with_name("mlops"))

LOAD, TRAIN = Step(0, 1, 2, "Load"), Step(3, 2, 2, "Train " + "x" * 60)


def _execution(*news: Progress) -> Any:
    queue: SimpleQueue[Progress] = SimpleQueue()
    for entry in news:
        queue.put(entry)
    return SimpleNamespace(news=queue)


class _Watch(Watch):
    def line(self) -> str:
        return "epoch 3 · loss 0.5"


def test_a_line_a_cell_without_a_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One quiet line once a cell has run: which, how long, what was recorded; nothing that moves."""
    shown = PlainDisplay(_Watch(tmp_path))
    shown.update(_execution(Progress(LOAD, "started"), Progress(LOAD, "finished", 1.25), Progress(TRAIN, "started")))
    shown.update(_execution())
    shown.update(_execution(Progress(TRAIN, "failed", 61.0)))
    shown.say("SIGTERM")
    shown.close()
    first, second, third = capsys.readouterr().out.splitlines()
    assert first == f"[1/2] {'Load'.ljust(44)}  1.2 s, epoch 3 · loss 0.5"
    assert second == f"[2/2] {TRAIN.title[:43]}…  1 min 1 s, failed", "what is known already is said again"
    assert third == "SIGTERM"


def test_a_long_cell_gives_signs_of_life(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A log that stays silent for minutes looks dead, so it does not."""
    now = [100.0]
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: now[0]))
    shown = PlainDisplay(_Watch(tmp_path))
    shown.update(_execution(Progress(TRAIN, "started")))
    for _ in range(130):
        now[0] += 1.0
        shown.update(_execution())
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2
    assert "still running, epoch 3" in lines[0]
    assert lines[1].endswith("2 min 2 s, still running")


@pytest.mark.slow
def test_the_newest_figures_are_read_while_they_are_recorded(
    runs_dir: Path, monkeypatch: pytest.MonkeyPatch, wait_until: Callable[[Callable[[], object]], None]
) -> None:
    """Epoch, losses, metrics and the power of all meters, from the run's own files."""
    monkeypatch.setattr(progress, "_POLL", 0.0)
    with mlops.Run("digits", devices=[], runs_dir=runs_dir) as run:
        watch = Watch(run.dir)
        assert watch.line() == ""
        run.log({"train.loss": 0.75})
        wait_until(lambda: watch.line() == "loss 0.75")
        run.log({"train.smooth_loss": 0.5})
        run._recorder.put(Series.of("gpu.power_watts", {"uuid": "a"}), 100.0)
        run._recorder.put(Series.of("gpu.power_watts", {"uuid": "b"}), 150.0)
        run.end_epoch({"valid.loss": 0.4, "valid.accuracy": 0.875})
        wait_until(lambda: watch.line() == "epoch 1 · loss 0.5 · valid loss 0.4 · accuracy 0.875 · 250 W")


def test_a_folder_that_cannot_be_read_shows_nothing(tmp_path: Path) -> None:
    """Progress is not worth an error."""
    (tmp_path / "x.points").mkdir()
    assert Watch(tmp_path).line() == ""


def test_the_live_display_ticks_off_cells(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cells that have run stay as lines, the running one has figures and a bar, and the end leaves no remains."""
    screen = io.StringIO()
    monkeypatch.setattr("rich.console.Console", lambda **_: Console(file=screen, force_terminal=True, width=100))
    shown = LiveDisplay(_Watch(tmp_path))
    shown.update(_execution())
    assert "starting the kernel" in screen.getvalue()
    shown.update(_execution(Progress(LOAD, "started"), Progress(LOAD, "finished", 1.0), Progress(TRAIN, "started")))
    shown.say("a word")
    shown.update(_execution(Progress(TRAIN, "failed", 2.0)))
    shown.close()
    text = screen.getvalue()
    assert "✓" in text
    assert "✗" in text
    assert "epoch 3 · loss 0.5" in text
    assert "a word" in text
    assert text.count("\x1b[?25l") == text.count("\x1b[?25h"), "the cursor stays hidden"


def test_the_display_fits_where_it_is_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing for programs, lines in a log, and on a terminal lines too where rich is not installed."""
    assert isinstance(display(tmp_path, quiet=True), Silence)
    assert isinstance(display(tmp_path, quiet=False), PlainDisplay)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    for module in [name for name in sys.modules if name.split(".")[0] == "rich"]:
        monkeypatch.setitem(sys.modules, module, None)
    assert isinstance(display(tmp_path, quiet=False), PlainDisplay)


@pytest.mark.slow
def test_on_a_terminal_it_moves_and_ends_with_the_table(tmp_path: Path) -> None:
    """A whole run on a pseudo-terminal: live while it runs, and what stays is cells, table and places."""
    primary, secondary = pty.openpty()
    environ = {**os.environ, "COLUMNS": "100", "TERM": "xterm-256color"}
    command = [MLOPS, "notebook", str(NOTEBOOKS / "trains.ipynb"), "--device", "none"]
    process = subprocess.Popen(command, cwd=tmp_path, env=environ, stdin=secondary, stdout=secondary, stderr=secondary)
    os.close(secondary)
    shown, until = b"", time.monotonic() + 60
    while time.monotonic() < until:
        if select.select([primary], [], [], 1.0)[0]:
            try:
                shown += os.read(primary, 65536)
            except OSError:
                break
    os.close(primary)
    assert process.wait(30) == 0
    text = shown.decode()
    assert "\x1b[?25l" in text
    stays = text.rpartition("\x1b[?25h")[2]
    assert "train loss" in stays
    assert "report.html" in stays
    assert text.count("✓") >= 4
