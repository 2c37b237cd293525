"""``mlops alarms``: what is shown and said; that it works is held with the real API in tests/monasca."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import click
import pytest
import yaml
from click.testing import Result

from mlops.cli.alarms import command
from mlops.errors import AuthorisationError, RequestRefusedError
from mlops.monasca import Monasca as Client
from tests.monasca.alarm_api import AlarmApi
from tests.testbed.monasca import Monasca

Call = Callable[..., Result]

FILE = """
group: mine
alarms:
  - {name: one, expression: train.loss > 3, description: The first., match_by: [run]}
  - {name: two, expression: gpu.temperature_celsius > 85, severity: HIGH}
"""


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch) -> AlarmApi:
    """The API that is asked, whatever cloud is named; ``asked`` tells which was."""
    pretended = AlarmApi()
    asked: list[str] = []

    def connect(cloud: str = "") -> AlarmApi:
        asked.append(cloud)
        return pretended

    monkeypatch.setattr(Client, "connect", connect)
    pretended.__dict__["asked"] = asked
    return pretended


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A file of two alarms, in the folder where the command is called."""
    path = tmp_path / "alarms.yaml"
    path.write_text(FILE)
    return path


def test_applying_says_what_was_done_and_the_second_time_that_nothing_was(
    call: Call, api: AlarmApi, file: Path
) -> None:
    """A file beside the notebook, by its name alone; each alarm on a line, and how many there are."""
    first = call("alarms", "apply", file.name)
    assert first.exit_code == 0, first.output
    assert not first.stderr
    assert first.stdout.splitlines() == [
        "created  one",
        "created  two",
        "2 alarms: 2 created of the group mine in cloud 'pretended'.",
    ]
    assert api.sent == ["POST /alarm-definitions"] * 2
    again = call("alarms", "apply", file.name)
    assert again.stdout.splitlines()[-1] == "2 alarms: 2 unchanged of the group mine in cloud 'pretended'."
    assert len(api.sent) == 2


def test_a_dry_run_shows_each_field_before_and_after(call: Call, api: AlarmApi, file: Path) -> None:
    """What would be changed, why something must be made anew, what would be deleted; and nothing is sent."""
    call("alarms", "apply", file.name)
    changed = (
        FILE.replace("train.loss > 3", "avg(train.loss) > 4")
        .replace("The first.", "")
        .replace("name: two", "name: 2nd")
    )
    file.write_text(changed)
    found = call("alarms", "apply", file.name, "--dry-run", "--prune", "--replace")
    assert found.stdout.splitlines() == [
        "replaced  one",
        "            because a function, a period or a number of periods is another one",
        "            description: The first. → nothing",
        "            expression: max(train.loss) > 3 → avg(train.loss) > 4",
        "created   2nd",
        "deleted   two",
        (
            "3 alarms: 1 replaced, 1 created, 1 deleted of the group mine in cloud 'pretended'. Nothing was changed: "
            "this was a dry run."
        ),
    ]
    assert len(api.sent) == 2


def test_standard_input_is_a_file(call: Call, api: AlarmApi) -> None:
    """``-`` reads what another program writes."""
    found = call("alarms", "apply", "-", input=FILE)
    assert found.exit_code == 0
    assert "created  one" in found.stdout
    assert api.sent == ["POST /alarm-definitions"] * 2


@pytest.mark.usefixtures("api")
def test_programs_get_json_and_yaml(call: Call, file: Path) -> None:
    """The same facts in both, in every command that reads or changes."""
    file.write_text(f"notifications:\n  - {{name: who, type: WEBHOOK, address: 'https://x/k0ffer'}}{FILE}")
    made = json.loads(call("alarms", "apply", file.name, "-o", "json").stdout)
    assert made[0] == {"kind": "notification", "name": "who", "what": "created", "why": "", "changes": {}}
    file.write_text(file.read_text().replace("severity: HIGH", "severity: LOW"))
    changed = yaml.safe_load(call("alarms", "apply", file.name, "-o", "yaml").stdout)
    assert changed[-1]["changes"] == {"severity": {"before": "HIGH", "after": "LOW"}}
    listed = json.loads(call("alarms", "list", "-o", "json").stdout)
    assert [(one["name"], one["group"], one["muted"]) for one in listed] == [
        ("one", "mine", False),
        ("two", "mine", False),
    ]
    assert listed == yaml.safe_load(call("alarms", "list", "-o", "yaml").stdout)
    (method,) = json.loads(call("alarms", "notifications", "-o", "json").stdout)
    assert (method["name"], method["type"], method["address"]) == ("who", "WEBHOOK", "https://x/…")
    deleted = json.loads(call("alarms", "delete", "one", "-o", "json").stdout)
    assert [(one["name"], one["what"]) for one in deleted] == [("one", "deleted")]


def test_what_is_in_force_is_listed(call: Call, api: AlarmApi, file: Path) -> None:
    """Short, wide, the names alone, or of one group; an empty list is a sentence."""
    assert call("alarms", "list").stdout == "No alarm definitions in cloud 'pretended'.\n"
    assert call("alarms", "notifications").stdout.startswith("No notifications in cloud 'pretended'.")
    file.write_text(
        f"notifications:\n  - {{name: who, type: EMAIL, address: a@b, period: 60}}\ndefaults: {{actions: [who]}}{FILE}"
    )
    call("alarms", "apply", file.name)
    api.send("POST", "/alarm-definitions", {"name": "by hand", "expression": "x > 1", "actions_enabled": False})
    short = call("alarms", "list").stdout.splitlines()
    assert short[0].split() == ["NAME", "SEVERITY", "GROUP", "EXPRESSION"]
    assert [line.split()[0] for line in short[1:]] == ["by", "one", "two"]
    assert "max(train.loss) > 3" in short[2]
    wide = call("alarms", "list", "-o", "wide").stdout.splitlines()
    assert "MATCH BY" in wide[0]
    assert "yes" in wide[1]
    assert "who" in wide[2]
    assert wide[2].endswith("The first.")
    assert call("alarms", "list", "-o", "name", "--group", "mine").stdout.split() == ["one", "two"]
    assert "No alarm definitions of the group 'x'" in call("alarms", "list", "--group", "x").stdout
    assert call("alarms", "notifications").stdout.splitlines()[1].split() == ["who", "EMAIL", "a@b", "60", "s"]


def test_definitions_are_deleted_by_name_or_group(call: Call, api: AlarmApi, file: Path) -> None:
    """Nothing named is a mistake; a dry run deletes nothing."""
    call("alarms", "apply", file.name)
    nothing = call("alarms", "delete")
    assert nothing.exit_code == 2
    assert "Name definitions, or a group with --group." in nothing.stderr
    dry = call("alarms", "delete", "--group", "mine", "--dry-run")
    assert (
        dry.stdout.splitlines()[-1]
        == "2 alarms: 2 deleted in cloud 'pretended'. Nothing was changed: this was a dry run."
    )
    assert len(api.sent) == 2
    assert call("alarms", "delete", "one").stdout.splitlines() == [
        "deleted  one",
        "1 alarm: 1 deleted in cloud 'pretended'.",
    ]
    missing = call("alarms", "delete", "one")
    assert (missing.exit_code, missing.stdout) == (2, "")
    assert "There is no alarm definition 'one'" in missing.stderr


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["apply"], 2, "Missing argument 'FILE'"),
        (["apply", "nowhere.yaml"], 2, "error: The file of alarms nowhere.yaml cannot be read: No such file"),
        (["aply", "x"], 2, "There is no command 'aply' of mlops alarms. Did you mean apply?"),
        (["frobnicate"], 2, "They are: apply, list, notifications, delete."),
        (["list", "-o", "xml"], 2, "xml"),
    ],
)
def test_wrong_usage_is_told_with_a_way_out(call: Call, api: AlarmApi, words: list[str], code: int, said: str) -> None:
    """On stderr, with exit code 2, and nothing is sent."""
    found = call("alarms", *words)
    assert found.exit_code == code
    assert not found.stdout
    assert said in found.stderr
    assert not api.sent


def test_a_file_with_faults_sends_nothing(call: Call, api: AlarmApi, file: Path) -> None:
    """Each fault on a line; not even the cloud is asked."""
    file.write_text(FILE.replace("train.loss > 3", "avgg(train.loss) > 3").replace("severity", "sevrity"))
    found = call("alarms", "apply", file.name)
    assert found.exit_code == 2
    assert found.stderr.splitlines()[0] == "error: alarms.yaml has 2 faults"
    assert (
        "alarm 'one': at character 1 of the expression 'avgg(train.loss) > 3' is no function. Did you mean avg?"
        in found.stderr
    )
    assert "alarm 'two': there is no key 'sevrity'. Did you mean severity?" in found.stderr
    assert api.__dict__["asked"] == []


@pytest.mark.usefixtures("api")
def test_a_metric_that_nobody_sends_is_warned_of_and_applied(call: Call, file: Path) -> None:
    """On stderr, where it does not get into what a program reads."""
    file.write_text(FILE.replace("train.loss > 3", "train.los > 3"))
    found = call("alarms", "apply", file.name, "-o", "json")
    assert found.exit_code == 0
    assert (
        "warning: alarms.yaml, line 4, alarm 'one': nothing in this library sends a metric 'train.los'." in found.stderr
    )
    assert len(json.loads(found.stdout)) == 2


@pytest.mark.parametrize(
    ("words", "sinks", "cloud"),
    [
        (["--cloud", "mine"], "monasca://other", "mine"),
        ([], "statsd://localhost,monasca://Other%20One?interval=1,monasca://third", "Other One"),
        ([], "statsd://localhost", ""),
        ([], "", ""),
    ],
)
def test_the_cloud_is_the_one_that_is_named_or_that_of_the_sinks(
    call: Call, api: AlarmApi, words: list[str], sinks: str, cloud: str
) -> None:
    """An option, else the settings, else what OS_CLOUD says."""
    call("alarms", "list", *words, env={"MLOPS_SINKS": sinks})
    assert api.__dict__["asked"] == [cloud]


def test_what_the_cloud_refuses_is_told_with_its_exit_code(call: Call, api: AlarmApi, file: Path) -> None:
    """4 for a role that may not, 1 for what it will not take."""
    api.trouble = [AuthorisationError("Not in this role", remedy="Ask for another.")]
    found = call("alarms", "apply", file.name)
    assert found.exit_code == 4
    assert found.stderr == "error: Not in this role\n  Ask for another.\n"
    api.trouble = [RequestRefusedError("POST /alarm-definitions was answered with 422: no", status=422)]
    found = call("alarms", "apply", file.name)
    assert found.exit_code == 1
    assert found.stderr.startswith("error: The alarm definition 'one' could not be made: POST")
    assert "Traceback" not in found.stderr


def test_every_command_of_it_is_documented(call: Call) -> None:
    """Each has help of its own, ends with examples, and each option has a sentence."""
    shown = call("alarms", "--help").stdout
    assert isinstance(command, click.Group)
    for name, one in command.commands.items():
        assert f"  {name} " in shown
        told = call("alarms", name, "--help").stdout
        assert f"mlops alarms {name}" in told.partition("Examples:")[2]
        for option in one.params:
            if isinstance(option, click.Option):
                assert option.help, f"{name} {option.opts}"
                assert option.help.endswith(".")


@pytest.mark.slow
def test_with_a_real_monasca(
    process: Callable[..., SimpleNamespace], monasca: Monasca, tmp_path: Path, file: Path
) -> None:
    """The command as users call it: apply, apply again, list, a role that may not, delete."""
    file.write_text(FILE.replace("group: mine", "group: by-command").replace("name: ", "name: by command "))
    env = {**os.environ, **monasca.environ(), "MLOPS_RUNS_DIR": str(tmp_path / "runs")}
    made = process("alarms", "apply", file.name, env=env)
    assert (made.returncode, made.stderr) == (0, "")
    assert (
        made.stdout.splitlines()[-1]
        == "2 alarms: 2 created of the group by-command in the cloud of OS_CLOUD (testbed)."
    )
    again = process("alarms", "apply", file.name, "-o", "json", env=env)
    assert {one["what"] for one in json.loads(again.stdout)} == {"unchanged"}
    named = process("alarms", "list", "--group", "by-command", "-o", "name", env=env)
    assert named.stdout.splitlines() == ["by command one", "by command two"]
    file.write_text(file.read_text().replace("> 3", "> 4"))
    refused = process("alarms", "apply", file.name, "--cloud", "testbed-readonly", env=env)
    assert refused.returncode == 4
    assert "monasca-read-only-user" in refused.stderr
    unknown = process("alarms", "list", "--cloud", "nowhere", env=env)
    assert unknown.returncode == 2
    assert "nowhere" in unknown.stderr
    gone = process("alarms", "delete", "--group", "by-command", env=env)
    assert gone.stdout.splitlines()[-1].startswith("2 alarms: 2 deleted")
