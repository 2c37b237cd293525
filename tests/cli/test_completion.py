"""``mlops completion``: real shells complete with it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

BIN = Path(sys.executable).parent

Call = Callable[..., Result]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_each_shell_gets_its_own_script(call: Call, shell: str) -> None:
    """The script names the command and how it asks for completions."""
    found = call("completion", shell)
    assert found.exit_code == 0
    assert not found.stderr
    assert f"_MLOPS_COMPLETE={shell}_complete" in found.stdout


def _complete(words: str, shell: str, runs_dir: Path) -> list[str]:
    environ = {**os.environ, "_MLOPS_COMPLETE": f"{shell}_complete", "MLOPS_RUNS_DIR": str(runs_dir)}
    environ.update({"COMP_WORDS": words, "COMP_CWORD": str(len(words.split(" ")) - 1)})
    done = subprocess.run([str(BIN / "mlops")], env=environ, capture_output=True, text=True, timeout=60, check=False)
    assert not done.stderr
    return [line.partition(",")[2] for line in done.stdout.splitlines() if line]


def test_commands_options_formats_and_runs_are_completed(recorded: Callable[..., Path], runs_dir: Path) -> None:
    """What may stand at each place is offered: commands, options, formats, and the runs by id and name."""
    folder = recorded("digits")
    assert _complete("mlops r", "bash", runs_dir) == ["run", "runs", "report"]
    assert "--timeout" in _complete("mlops notebook --", "bash", runs_dir)
    assert _complete("mlops runs -o j", "bash", runs_dir) == ["json"]
    assert _complete("mlops report ", "bash", runs_dir) == [folder.name, "digits", "last"]
    assert _complete("mlops export d", "bash", runs_dir) == ["digits"]


@pytest.mark.slow
def test_bash_itself_completes() -> None:
    """A real bash, with the script evaluated, fills COMPREPLY."""
    bash = shutil.which("bash")
    assert bash is not None
    script = (
        'eval "$(mlops completion bash)"; COMP_WORDS=(mlops no); COMP_CWORD=1; '
        '_mlops_completion mlops no mlops; printf "%s\\n" "${COMPREPLY[@]}"'
    )
    environ = {**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}"}
    done = subprocess.run([bash, "-c", script], env=environ, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.split() == ["notebook"]


def test_nothing_breaks_where_there_are_no_settings(tmp_path: Path, runs_dir: Path) -> None:
    """A broken mlops.toml offers no runs, and no traceback into the prompt."""
    (tmp_path / "mlops.toml").write_text("[")
    assert _complete("mlops report ", "bash", runs_dir) == []
