"""The file of alarms: read strictly, each fault with its place and what to do about it."""

from __future__ import annotations

import io
import re
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlops.errors import AlarmError, MissingExtraError
from mlops.monasca.alarm_file import Definitions, marker, read
from mlops.monasca.expression import parse
from mlops.series import METRICS, SUMMARIES
from mlops.sinks import statsd

ONE = "  - {name: a, expression: train.loss > 3}\n"


@pytest.fixture
def written(tmp_path: Path) -> Path:
    """Where a test writes its file."""
    return tmp_path / "mine.yaml"


def from_text(path: Path, text: str, **environ: str) -> Definitions:
    """What a file of this text says."""
    path.write_text(text, "utf-8")
    return read(path, environ)


def refused(path: Path, text: str, **environ: str) -> str:
    """What is said of a file of this text."""
    with pytest.raises(AlarmError) as caught:
        from_text(path, text, **environ)
    assert caught.value.exit_code == 2
    assert caught.value.remedy
    return str(caught.value)


def test_everything_that_a_file_can_say(written: Path) -> None:
    """Texts are trimmed, defaults filled in, variables looked up."""
    found = from_text(
        written,
        """
group: vision
defaults:
  severity: high
  match_by: [run, hostname]
  actions: [on-call]
notifications:
  - {name: on-call, type: webhook, address: "https://example.org/${TOKEN}/x", period: 60}
  - {name: mail, type: EMAIL, address: a@example.org}
alarms:
  - name: Loss is nan
    description: >
      What it means,
      and what to do.
    expression: |
      max(mlops.not_finite_points{metric = train.loss}, deterministic)
        > 0
  - name: GPU hot
    expression: min(gpu.temperature_celsius, 300) > 85
    severity: LOW
    match_by: [uuid]
    actions: []
    ok_actions: [mail]
    undetermined_actions: [mail, on-call]
""",
        TOKEN="t0ken",
    )
    assert (found.source, found.group, found.warnings) == (str(written), "vision", ())
    nan, hot = found.alarms
    assert (nan.name, nan.severity, nan.match_by) == ("Loss is nan", "HIGH", ("run", "hostname"))
    assert nan.description == "What it means, and what to do."
    assert nan.expression == parse("max(mlops.not_finite_points{metric=train.loss}, deterministic) > 0")
    assert (nan.actions, nan.ok_actions) == (("on-call",), ())
    assert (hot.severity, hot.match_by, hot.actions) == ("LOW", ("uuid",), ())
    assert (hot.ok_actions, hot.undetermined_actions) == (("mail",), ("mail", "on-call"))
    web, mail = found.notifications
    assert (web.name, web.type, web.address, web.period) == ("on-call", "WEBHOOK", "https://example.org/t0ken/x", 60)
    assert (mail.type, mail.address, mail.period) == ("EMAIL", "a@example.org", 0)
    assert "t0ken" not in repr(found)


def test_a_list_alone_is_a_file_and_its_name_is_the_group(written: Path) -> None:
    """The smallest file that there can be."""
    found = from_text(written, "- {name: a, expression: train.loss > 3}\n")
    assert (found.group, [alarm.name for alarm in found.alarms]) == ("mine", ["a"])
    assert found.alarms[0].severity == "LOW"


def test_no_alarms_at_all_is_a_file_too(written: Path) -> None:
    """With --prune it takes its group's definitions away."""
    assert from_text(written, "alarms: []\n").alarms == ()


def test_standard_input_is_a_file_called_minus(monkeypatch: pytest.MonkeyPatch) -> None:
    """What it is called in messages is no path."""
    text = b"alarms:\n  - {name: a, expression: nonsense}\n"
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(text)))
    with pytest.raises(AlarmError, match="standard input, line 2, alarm 'a': the expression ends too early"):
        read("-")
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(b"- {name: a, expression: train.loss > 3}")))
    assert read("-").group == "stdin"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "holds no alarms. Begin with: alarms:"),
        ("42", "holds no alarms"),
        ("group: a\n", "has no list of alarms"),
        ("alarms: yes\n", "alarms is yes or no. Write a list"),
        ("alarms:\n  a: {expression: x > 1}\n", "alarms is a table. Write a list"),
        ("alarms:\n  - a\n", "alarm 1: is a text. Write a line key: value"),
        ("alarm:\n" + ONE, "there is no key 'alarm'. Did you mean alarms?"),
        ("wibble: 1\nalarms:\n" + ONE, "there is no key 'wibble'. The keys here: group, defaults, notifications"),
        ("group: a b\nalarms:\n" + ONE, "the group 'a b' is none"),
        ("defaults: 3\nalarms:\n" + ONE, "defaults: is a number"),
        ("defaults: {expression: x > 1}\nalarms:\n" + ONE, "defaults: there is no key 'expression'"),
        ("alarms:\n  - {name: a, expresion: x > 1}\n", "line 2, alarm 'a': there is no key 'expresion'. Did you mean"),
        ("alarms:\n  - {expression: train.loss > 1}\n", "line 2, alarm 1: name is missing"),
        ("alarms:\n  - {name: '', expression: train.loss > 1}\n", "name is empty"),
        (
            "alarms:\n  - {name: 7, expression: train.loss > 1}\n",
            "name is a number. Write name: followed by a text",
        ),
        ("alarms:\n  - {name: a}\n", "expression is missing"),
        ("alarms:\n  - {name: a, expression: 5}\n", "expression is a number"),
        ("alarms:\n  - {name: a, expression: avgg(train.loss) > 1}\n", "alarm 'a': at character 1 of the expression"),
        ("alarms:\n  - {name: a, expression: x > 1, severity: URGENT}\n", "the severity 'URGENT' is none. One of LOW"),
        ("alarms:\n  - {name: a, expression: x > 1, match_by: run}\n", "match_by is a text. Write a list of names"),
        ("alarms:\n  - {name: a, expression: x > 1, match_by: [1]}\n", "match_by has something else than texts in it"),
        ("alarms:\n  - {name: a, expression: x > 1, match_by: [run, run]}\n", "match_by names something twice"),
        ("alarms:\n  - {name: a, expression: x > 1, match_by: [_run]}\n", "match_by: the key '_run' begins with '_'"),
        (f"alarms:\n  - {{name: a, expression: x > 1, match_by: [{'k' * 200}, {'l' * 60}]}}\n", "longer than 255"),
        ("alarms:\n  - {name: a, expression: x > 1, actions: [[b]]}\n", "actions has something else than texts"),
        (f"alarms:\n  - {{name: {'n' * 256}, expression: x > 1}}\n", "the name has 256 characters. Monasca takes 255."),
        ('alarms:\n  - {name: "a\\tb", expression: x > 1}\n', "has characters that cannot be seen"),
        ('alarms:\n  - {name: "a\\ud800", expression: x > 1}\n', "half a character"),
        (
            f"alarms:\n  - {{name: a, expression: x > 1, description: {'d' * 243}}}\n",
            "description has 243 characters",
        ),
        ("alarms:\n" + ONE + ONE, "there is another one of that name ('a')"),
        ("alarms:\n" + ONE + ONE.replace("a,", "A,"), "there is another one of that name ('a'). Names are unique, and"),
        ("alarms: &all\n  - &one {name: a, expression: x > 1}\n  - *one\n", "there is another one of that name"),
        ("alarms:\n" + ONE + "notifications:\n  - {name: n, type: EMAIL}\n", "notification 'n': address is missing"),
        ("alarms:\n  - {name: a,\n", "line 3: this is no YAML"),
        (
            "alarms:\n  - {name: a, name: b, expression: x > 1}\n",
            "line 2: this is no YAML: the key 'name' stands",
        ),
        ("alarms: !!python/object:os.system {}\n", "this is no YAML: could not determine a constructor"),
        ("alarms: *nothing\n", "this is no YAML: found undefined alias"),
    ],
)
def test_a_fault_is_told_with_its_place_and_what_to_do(written: Path, text: str, said: str) -> None:
    """File, line, alarm, what, and what to write instead."""
    found = refused(written, text)
    assert said in found
    assert found.startswith(str(written))


def test_all_faults_are_told_at_once(written: Path) -> None:
    """Each on a line of its own, and how many there are."""
    text = "grop: a\nalarms:\n  - {name: a, expression: x >}\n  - {nam: b, expression: x > 1}\n"
    lines = refused(written, text).splitlines()
    assert lines[0].startswith(f"{written} has 4 faults. {written}: there is no key 'grop'. Did you mean group?")
    assert len(lines) == 4
    assert "line 3, alarm 'a'" in lines[1]


@pytest.mark.parametrize(
    ("notification", "said"),
    [
        ("type: PAGERDUTY, address: 1234567890", "address is a number"),
        ("type: PAGERDUTY, address: k0ffer", "the address of type PAGERDUTY is a secret key. Secrets never go into"),
        ("type: WEBHOOK, address: 'https://me:k0ffer@x/'", "the address holds a user's name or password"),
        (
            "type: WEBHOOK, address: '${NOT_SET}'",
            "needs the variable NOT_SET, which is not set. Set NOT_SET",
        ),
        ("type: WEBHOOK, address: 'k0ffer/x'", "the address is no URL of http or https"),
        ("type: WEBHOOK, address: '${SECRET}'", "the address is no URL of http or https"),
        ("type: WEBHOOK, address: 'https://['", "the address is no URL"),
        ("type: EMAIL, address: k0ffer", "the address is no mail address"),
        (f"type: EMAIL, address: 'k0ffer@{'x' * 512}'", "the address has more than 512 characters"),
        ("type: EMAIL, address: a@b, period: -1", "the period -1 is none"),
        ("type: EMAIL, address: a@b, period: soon", "the period 'soon' is none"),
        ("type: EMAIL, address: a@b, period: yes", "the period True is none"),
    ],
)
def test_addresses_are_checked_and_never_told(written: Path, notification: str, said: str) -> None:
    """What may be a secret is in no message, wherever it came from."""
    text = f"alarms: []\nnotifications:\n  - {{name: n, {notification}}}\n"
    found = refused(written, text, SECRET="k0ffer")
    assert said in found
    assert "k0ffer" not in found


def test_a_key_of_pagerduty_comes_from_a_variable(written: Path) -> None:
    """It is in the environment, and nowhere else."""
    text = "alarms: []\nnotifications:\n  - {name: n, type: PAGERDUTY, address: '${KEY}'}\n"
    assert from_text(written, text, KEY="k0ffer").notifications[0].address == "k0ffer"


@pytest.mark.parametrize(
    ("expression", "warning"),
    [
        ("max(train.los) > 3", "nothing in this library sends a metric 'train.los'. Did you mean train.loss?"),
        ("max(cpu.idle_perc) < 3", "'cpu.idle_perc'. Right if it is one of your own, or another program's."),
        ("count(train.loss) < 1", "count(train.loss) < 1 never holds: to Monasca a period without measurements is"),
        ("count(train.loss, 300) <= 0 or train.loss > 9", "count(train.loss, 300) <= 0 never holds"),
    ],
)
def test_what_is_probably_not_meant_is_warned_of(written: Path, expression: str, warning: str) -> None:
    """And taken all the same."""
    found = from_text(written, f"- {{name: a, expression: '{expression}'}}\n")
    assert len(found.warnings) == 1
    assert warning in found.warnings[0]
    assert found.warnings[0].startswith(f"{written}, line 1, alarm 'a': ")
    assert len(found.alarms) == 1


@pytest.mark.parametrize(
    "name",
    [*METRICS, "train.loss.mean", "gpu.power_watts.max", "valid.accuracy", "valid.f1.count", "nvidia.power_watts"],
)
def test_a_metric_that_comes_by_any_road_is_known(written: Path, name: str) -> None:
    """By the API's road, as one of statsd's summaries, or from a host's own agent."""
    assert from_text(written, f"- {{name: a, expression: 'max({name}) > 1'}}\n").warnings == ()


def test_the_summaries_that_are_known_are_those_that_statsd_sends() -> None:
    """One table of suffixes for the sink and for the check."""
    assert SUMMARIES == statsd.SUFFIXES


def test_the_markers_length_is_allowed_for(written: Path) -> None:
    """Description and marker together are what Monasca has room for."""
    text = "d" * (255 - 1 - len(marker("mine")))
    found = from_text(written, f"- {{name: a, expression: train.loss > 1, description: {text}}}\n")
    assert len(f"{found.alarms[0].description} {marker(found.group)}") == 255


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda _: None, "cannot be read: No such file"),
        (lambda path: path.mkdir(), "cannot be read: Is a directory"),
        (lambda path: path.write_bytes(b"alarms: \xff\xfe\x00"), "is no YAML"),
        (lambda path: path.write_bytes(b"\x00\x01"), "is no YAML"),
        (lambda path: path.write_text("[" * 2000), "is no YAML"),
    ],
    ids=["missing", "folder", "latin", "binary", "deep"],
)
def test_what_is_no_file_of_alarms_is_told_by_name(written: Path, make: object, said: str) -> None:
    """Missing, a folder, bytes of another kind, or nested beyond all measure."""
    assert callable(make)
    make(written)
    with pytest.raises(AlarmError, match=re.escape(str(written))) as caught:
        read(written)
    assert said in str(caught.value)


def test_without_pyyaml_it_is_said_what_to_install(written: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The extra that brings it."""
    written.write_text("alarms: []\n")
    monkeypatch.setitem(sys.modules, "yaml", None)
    with pytest.raises(MissingExtraError, match=re.escape("mlops[monasca]")):
        read(written)


plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.sampled_from(["x > 1", "a"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["alarms", "notifications", "defaults", "group", "name", "expression", "actions", "x", "type"]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@settings(max_examples=50)
@given(content=plain)
def test_whatever_a_file_holds_is_read_or_refused(content: object, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Never anything but an AlarmError that says which file."""
    import yaml

    path = tmp_path_factory.getbasetemp() / "any.yaml"
    path.write_text(yaml.safe_dump(content), "utf-8")
    try:
        read(path, {})
    except AlarmError as error:
        said = str(error)
    else:
        said = str(path)
    assert str(path) in said
