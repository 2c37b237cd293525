"""The manual, and what an error looks like."""

from __future__ import annotations

import importlib
import logging
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import click
import pytest
from click.testing import Result

from mlops import __version__, errors
from mlops.cli import COMMANDS, cli

ROOT = Path(__file__).resolve().parent.parent.parent
MLOPS = str(Path(sys.executable).with_name("mlops"))

Call = Callable[..., Result]


def _commands() -> Iterator[tuple[str, click.Command]]:
    context = click.Context(cli)
    for name in cli.list_commands(context):
        command = cli.get_command(context, name)
        assert command is not None
        yield name, command


def test_the_manual_tells_everything_in_an_order_of_use(call: Call) -> None:
    """``mlops --help`` has what it is, each command with its first sentence, examples, variables and exit codes."""
    manual = call("--help")
    assert manual.exit_code == 0
    assert not manual.stderr
    joined = " ".join(manual.stdout.split())
    for name, about in COMMANDS.items():
        assert f"{name} {about}" in joined
    for part in ("Examples:", "Environment:", "MLOPS_RUNS_DIR", "NO_COLOR", "Exit codes:", "124", "--version", "last."):
        assert part in manual.stdout
    assert manual.stdout.index("doctor ") < manual.stdout.index("notebook ") < manual.stdout.index("report ")


def test_without_a_command_the_manual_is_shown(call: Call) -> None:
    """``mlops`` alone is a question, not a mistake."""
    assert call().stdout == call("--help").stdout
    assert call().exit_code == 0


def test_the_manual_loads_nothing() -> None:
    """Help costs click and nothing else: no numpy, no framework, no command's module."""
    code = (
        "import sys; from mlops.cli import cli\n"
        "try: cli.main(['--help'], prog_name='mlops')\n"
        "except SystemExit: pass\n"
        "print([m for m in sys.modules if m.split('.')[0] in {'numpy','papermill','rich','matplotlib','yaml','asyncio',"
        "'nbformat'} or m in {'mlops.run','mlops.store','mlops.launch','mlops.cli.run'}], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert "Commands:" in done.stdout
    assert done.stderr.strip() == "[]"


def test_each_commands_first_sentence_is_the_manuals() -> None:
    """What the manual says of a command without loading it is what the command says of itself."""
    for name, command in _commands():
        assert command.name == name
        assert command.help is not None
        said = " ".join(command.help.split("\n\n")[0].split())
        assert said == COMMANDS[name]


def test_every_command_and_option_is_documented(call: Call) -> None:
    """Each option has help, each command examples, and README.md names each command."""
    readme = (ROOT / "README.md").read_text("utf-8")
    for name, command in _commands():
        assert f"mlops {name}" in readme, f"README.md does not mention mlops {name}"
        shown = call(name, "--help")
        assert shown.exit_code == 0
        assert "Examples:" in shown.stdout
        assert f"mlops {name}" in shown.stdout.partition("Examples:")[2]
        for parameter in command.params:
            if isinstance(parameter, click.Option):
                assert parameter.help, f"mlops {name} {parameter.opts[0]} has no help"
                assert parameter.help.endswith((".", "]")), f"mlops {name} {parameter.opts[0]}: no sentence"
                assert parameter.opts[-1] in shown.stdout


def test_o_is_the_format_and_file_is_the_file_everywhere() -> None:
    """``-o`` never takes a file and ``-f`` never a format, in any command."""
    for name, command in _commands():
        for option in command.params:
            if "-o" in option.opts:
                assert "--format" in option.opts, name
                assert isinstance(option.type, click.Choice), name
            if "--file" in option.opts:
                assert isinstance(option.type, click.Path), name
        if name in {"doctor", "notebook", "report", "runs"}:
            formats = next(option for option in command.params if "-o" in option.opts)
            assert isinstance(formats.type, click.Choice)
            assert {"json", "yaml"} <= set(formats.type.choices), name


def test_help_is_as_wide_as_columns_says() -> None:
    """COLUMNS is honoured, up to a width that still reads well."""
    widest = {}
    for columns in ("60", "90", "300"):
        environ = {**os.environ, "COLUMNS": columns}
        shown = subprocess.run([MLOPS, "--help"], env=environ, capture_output=True, text=True, check=True, timeout=60)
        widest[columns] = max(map(len, shown.stdout.splitlines()))
    assert widest["60"] <= 60 < widest["90"] <= 90 < widest["300"] <= 100


def test_version(call: Call) -> None:
    """``--version`` is one line."""
    assert call("--version").stdout == f"mlops {__version__}\n"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["rnus"], "Did you mean runs?"),
        (["nonsense"], "The commands: doctor, run, notebook"),
        (["runs", "--frmat", "json"], "--format"),
        (["runs", "-o", "xml"], "table"),
        (["runs", "-o", "out.json"], "is no format"),
        (["report", "-o", "page.html"], "name the file with --file page.html"),
        (["notebook", "x.ipynb", "-o", "out.ipynb"], "name the file with --executed out.ipynb"),
        (["run"], "COMMAND"),
        (["run", "--dimension", "team", "true"], "'team' is no pair; write team=value."),
        (["notebook", "x.ipynb", "--timeout", "soon"], "write 90s, 15m or 2h"),
        (["notebook", "x.ipynb", "--executed", "out.txt"], "must end in .ipynb"),
        (["completion", "tcsh"], "bash"),
        (["export"], "RUN"),
    ],
)
def test_wrong_usage_is_told_on_stderr_with_exit_code_2(call: Call, words: list[str], said: str) -> None:
    """A usage error is one sentence with a way out, nothing on stdout, and never a traceback."""
    found = call(*words)
    assert found.exit_code == 2
    assert not found.stdout
    assert found.stderr.startswith("error: ")
    assert said in found.stderr
    assert "Traceback" not in found.stderr


def _raising(error: BaseException, monkeypatch: pytest.MonkeyPatch) -> None:
    module = importlib.import_module("mlops.store")

    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(module, "list_runs", fail)


class _Unauthorised(errors.MlopsError):
    exit_code = 4


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (errors.StoreError("The disk is full", remedy="Free space."), 1, ["error: The disk is full", "  Free space."]),
        (errors.SettingsError("No"), 2, ["error: No"]),
        (_Unauthorised("Not you"), 4, ["error: Not you"]),
        (errors.NotebookError("It failed"), 5, ["error: It failed"]),
        (errors.NotebookTimeoutError("Too long"), 124, ["error: Too long"]),
        (KeyboardInterrupt(), 130, ["", "error: Interrupted"]),  # beneath the ^C
        (OSError(28, "No space left on device", "/x"), 1, ["error: No space left on device (/x)"]),
        (BrokenPipeError(), 141, []),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else None,
)
def test_what_goes_wrong_is_told_in_words(
    call: Call, monkeypatch: pytest.MonkeyPatch, error: BaseException, code: int, said: list[str]
) -> None:
    """Each error becomes its sentence, its remedy and its exit code; a closed pipe becomes silence."""
    _raising(error, monkeypatch)
    found = call("runs")
    assert found.exit_code == code
    assert found.stderr.splitlines() == said
    assert not found.stdout


def test_a_fault_of_our_own_is_told_without_a_traceback_unless_asked_for(
    call: Call, monkeypatch: pytest.MonkeyPatch, runs_dir: Path
) -> None:
    """An unexpected exception is owned up to; --debug and MLOPS_DEBUG=1 show where it came from."""
    _raising(ValueError("odd"), monkeypatch)
    plain = call("runs")
    assert plain.exit_code == 1
    assert "in a way that it should not: ValueError: odd" in plain.stderr
    assert "--debug" in plain.stderr
    assert "Traceback" not in plain.stderr
    assert "Traceback" in call("--debug", "runs").stderr
    assert "Traceback" in call("runs", env={"MLOPS_DEBUG": "1", "MLOPS_RUNS_DIR": str(runs_dir)}).stderr


def test_a_closed_pipe_is_no_error(recorded: Callable[..., Path], runs_dir: Path) -> None:
    """``mlops export … | head`` ends without a word and without a traceback."""
    recorded(epochs=2000)
    command = [MLOPS, "export", "last", "--runs-dir", str(runs_dir)]
    writer = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert writer.stdout is not None
    assert writer.stderr is not None
    assert writer.stdout.readline() == "time,name,value,dimensions,step\n"
    writer.stdout.close()
    assert writer.stderr.read() == ""
    writer.stderr.close()
    assert writer.wait(60) == 141


def test_no_color_and_no_terminal(call: Call, recorded: Callable[..., Path], runs_dir: Path) -> None:
    """Colours go to a terminal only, and NO_COLOR takes them away there too."""
    recorded(outcome="failed")
    assert "\x1b[" not in call("runs").stdout
    assert "\x1b[" in call("runs", color=True).stdout
    env = {"NO_COLOR": "1", "MLOPS_RUNS_DIR": str(runs_dir)}
    assert "\x1b[" not in call("runs", color=True, env=env).stdout


def test_a_broken_settings_file_is_told_by_name(call: Call, tmp_path: Path) -> None:
    """A setting that is none stops what reads settings, with the file and the names there are."""
    (tmp_path / "mlops.toml").write_text("nonsense = 1\n")
    found = call("runs")
    assert found.exit_code == 2
    assert found.stderr.startswith(f"error: There is no setting 'nonsense' ({tmp_path}/mlops.toml)")
    assert "runs_dir" in found.stderr


def test_warnings_of_the_library_are_one_line_each(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the library logs comes out on stderr, marked as what it is."""

    def warn(_: Path) -> list[object]:
        logging.getLogger("mlops").warning("mind %s", "this")
        return []

    monkeypatch.setattr("mlops.store.list_runs", warn)
    found = call("runs")
    assert found.stderr == "warning: mind this\n"
    assert found.exit_code == 0


def test_a_closed_standard_output_is_no_failure(runs_dir: Path) -> None:
    """Where the caller closed it, nobody is told, and nothing goes wrong."""
    command = ["/bin/sh", "-c", '"$0" runs --runs-dir "$1" >&-', MLOPS, str(runs_dir)]
    done = subprocess.run(command, stderr=subprocess.PIPE, text=True, check=False, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
