"""Bringing alarms into force, by the real API of a real Monasca."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from mlops.errors import AlarmError, AuthorisationError, RequestRefusedError
from mlops.monasca import Monasca as Client
from mlops.monasca.alarm_file import Definitions, read
from mlops.monasca.alarms import Change, apply, definitions, masked, notifications, remove
from tests.monasca.test_expression import BAD, GOOD
from tests.testbed.environments import TestbedError
from tests.testbed.faults import Fault
from tests.testbed.monasca import Monasca

pytestmark = pytest.mark.slow

SHIPPED = Path(__file__).resolve().parents[2] / "k8s" / "alarms" / "training.yaml"

THREE = """
group: three
alarms:
  - {name: one, expression: max(train.loss) > 3, description: The first., severity: LOW, match_by: [run, hostname]}
  - {name: two, expression: avg(gpu.power_watts) > 300}
  - {name: three, expression: "count(x, deterministic) > 1 or max(y{a=b}) > 2", severity: HIGH}
"""


@pytest.fixture
def empty(monasca: Monasca) -> Iterator[Monasca]:
    """A Monasca without definitions and notifications, before and after."""
    _sweep(monasca)
    yield monasca
    monasca.faults.clear()
    _sweep(monasca)


def _sweep(monasca: Monasca) -> None:
    for path in ("/alarm-definitions", "/notification-methods"):
        for element in monasca.call("GET", path)["elements"]:
            monasca.call("DELETE", f"{path}/{element['id']}")


@pytest.fixture
def client(empty: Monasca) -> Client:
    """Our own client of it, in the role that may all."""
    return Client.connect(empty.cloud)


@pytest.fixture
def file(tmp_path: Path) -> Callable[..., Definitions]:
    """What a file says, some words of it replaced."""

    def make(text: str = THREE, replaced: Mapping[str, str] | None = None, **environ: str) -> Definitions:
        for old, new in (replaced or {}).items():
            assert old in text
            text = text.replace(old, new)
        path = tmp_path / "alarms.yaml"
        path.write_text(text, "utf-8")
        return read(path, environ)

    return make


def in_force(monasca: Monasca) -> dict[str, dict[str, Any]]:
    """The definitions as the API itself gives them, asked without our client."""
    return {element["name"]: element for element in monasca.call("GET", "/alarm-definitions")["elements"]}


def done(changes: list[Change]) -> dict[str, str]:
    """What was done to each."""
    return {change.name: change.what for change in changes}


def changing(monasca: Monasca) -> list[str]:
    """The requests so far that changed something."""
    return [f"{one.method} {one.path}" for one in monasca.faults.requests if one.method != "GET"]


def stored(monasca: Monasca, name: str) -> list[tuple[Any, ...]]:
    """The conditions of a definition as the threshold engine finds them in the database when it starts."""
    query = """
        select function, metric_name, operator, threshold, period, periods, is_deterministic from sub_alarm_definition
        where alarm_definition_id = (select id from alarm_definition where name = ? and deleted_at is null)
    """
    with contextlib.closing(sqlite3.connect(monasca.database)) as database:
        return sorted(database.execute(query, (name,)).fetchall())


def test_the_shipped_file_is_brought_into_force_once(empty: Monasca, client: Client) -> None:
    """Everything it says is what the API has then; the second time nothing is sent but questions."""
    wanted = read(SHIPPED)
    changes = apply(wanted, client)
    assert set(done(changes).values()) == {"created"}
    there = in_force(empty)
    assert list(done(changes)) == [alarm.name for alarm in wanted.alarms]
    for alarm in wanted.alarms:
        element = there[alarm.name]
        assert element["expression"] == str(alarm.expression)
        assert element["description"] == f"{alarm.description} [mlops:training]"
        assert element["severity"] == alarm.severity
        assert element["match_by"] == list(alarm.match_by)
        assert element["actions_enabled"]
        assert element["deterministic"] == ("deterministic" in str(alarm.expression))
    listed = {one.name: one for one in definitions(client)}
    assert {(one.group, one.muted) for one in listed.values()} == {("training", False)}
    assert [listed[alarm.name].description for alarm in wanted.alarms] == [alarm.description for alarm in wanted.alarms]
    assert stored(empty, "GPU throttled") == [("AVG", "gpu.throttled", "GT", 0.5, 300, 2, 0)]
    assert stored(empty, "Loss is nan") == [("MAX", "mlops.not_finite_points", "GT", 0.0, 60, 1, 1)]
    empty.faults.clear()
    again = apply(read(SHIPPED), client)
    assert set(done(again).values()) == {"unchanged"}
    assert changing(empty) == []
    assert in_force(empty) == there


def test_a_dry_run_changes_nothing(empty: Monasca, client: Client, file: Callable[..., Definitions]) -> None:
    """It says what would be done, and asks only."""
    apply(file(), client)
    before = in_force(empty)
    empty.faults.clear()
    wanted = file(replaced={"> 3,": "> 4,", "avg(gpu": "max(gpu", "name: three,": "name: four,"})
    changes = apply(wanted, client, dry_run=True, prune=True, replace=True)
    assert done(changes) == {"one": "updated", "two": "replaced", "four": "created", "three": "deleted"}
    assert changing(empty) == []
    assert in_force(empty) == before
    assert done(apply(wanted, client, prune=True, replace=True)) == done(changes)
    assert set(in_force(empty)) == {"one", "two", "four"}
    assert set(done(apply(wanted, client, prune=True)).values()) == {"unchanged"}


def test_what_can_be_changed_in_place_is(empty: Monasca, client: Client, file: Callable[..., Definitions]) -> None:
    """Only the fields that differ are sent; the definition, with the states of its alarms, stays the same one."""
    apply(file(), client)
    before = in_force(empty)
    replaced = {
        "max(train.loss) > 3": "'max(train.loss, deterministic) >= 2.5'",
        "severity: HIGH": "severity: CRITICAL",
    }
    wanted = file(replaced={**replaced, "The first.": "Look at it."})
    empty.faults.clear()
    empty.faults.keep_bodies = True
    changes = {change.name: change for change in apply(wanted, client)}
    assert {name: change.what for name, change in changes.items()} == {
        "one": "updated",
        "two": "unchanged",
        "three": "updated",
    }
    assert changes["one"].fields == {
        "description": ("The first.", "Look at it."),
        "expression": ("max(train.loss) > 3", "max(train.loss, deterministic) >= 2.5"),
    }
    assert changes["three"].fields == {"severity": ("HIGH", "CRITICAL")}
    bodies = [one.body for one in empty.faults.requests if one.method == "PATCH"]
    assert bodies[1] == b'{"severity": "CRITICAL"}'
    after = in_force(empty)
    assert {name: element["id"] for name, element in after.items()} == {
        name: element["id"] for name, element in before.items()
    }
    assert after["one"]["description"] == "Look at it. [mlops:three]"
    assert stored(empty, "one") == [("MAX", "train.loss", "GTE", 2.5, 60, 1, 1)]


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        ("max(train.loss) > 3", "avg(train.loss) > 3", "a function, a period or a number of periods is another one"),
        ("max(train.loss) > 3", "'max(train.loss, 120) > 3'", "a function, a period or a number of periods"),
        ("max(train.loss) > 3", "max(train.loss) > 3 times 2", "a function, a period or a number of periods"),
        ("max(train.loss) > 3", "max(valid.loss) > 3", "other metrics or dimensions"),
        ("max(train.loss) > 3", "max(train.loss) > 3 or valid.loss > 3", "other metrics or dimensions"),
        ("match_by: [run, hostname]", "match_by: [run]", "match_by is another one"),
    ],
)
def test_what_monasca_cannot_change_needs_replace(
    empty: Monasca, client: Client, file: Callable[..., Definitions], old: str, new: str, why: str
) -> None:
    """Without it nothing at all is changed, with it the definition is another one, of which all is as wanted."""
    apply(file(), client)
    before = in_force(empty)
    wanted = file(replaced={old: new, "severity: HIGH": "severity: MEDIUM"})
    with pytest.raises(AlarmError, match="alarm 'one': Monasca cannot change it so") as caught:
        apply(wanted, client)
    assert why in caught.value.what
    assert "--replace" in caught.value.remedy
    assert in_force(empty) == before
    changes = {change.name: change for change in apply(wanted, client, replace=True)}
    assert (changes["one"].what, changes["three"].what) == ("replaced", "updated")
    assert why in changes["one"].why
    after = in_force(empty)
    assert after["one"]["id"] != before["one"]["id"]
    assert after["one"]["expression"] == str(wanted.alarms[0].expression)
    assert after["one"]["match_by"] == list(wanted.alarms[0].match_by)
    assert len(stored(empty, "one")) == str(wanted.alarms[0].expression).count("max(") + str(
        wanted.alarms[0].expression
    ).count("avg(")
    assert set(done(apply(wanted, client)).values()) == {"unchanged"}


def test_the_api_itself_changes_a_function_by_halves(empty: Monasca) -> None:
    """Why another function needs --replace: the API says yes, and keeps the old one for the engine's next start."""
    made = empty.call("POST", "/alarm-definitions", {"name": "x", "expression": "max(x) > 3"})
    changed = empty.call("PATCH", f"/alarm-definitions/{made['id']}", {"expression": "avg(x, 120) > 4 times 2"})
    assert changed["expression"] == "avg(x, 120) > 4 times 2"
    assert stored(empty, "x") == [("MAX", "x", "GT", 4.0, 60, 1, 0)]


def test_pruning_takes_only_what_the_files_group_has_made(
    empty: Monasca, client: Client, file: Callable[..., Definitions]
) -> None:
    """Another file's definitions and those made by hand stay."""
    empty.call("POST", "/alarm-definitions", {"name": "by hand", "expression": "x > 1", "description": "mlops:three"})
    apply(file(), client)
    apply(file("group: other\nalarms:\n  - {name: another, expression: train.loss > 1}\n"), client)
    fewer = file("group: three\nalarms:\n  - {name: two, expression: avg(gpu.power_watts) > 300}\n")
    assert done(apply(fewer, client)) == {"two": "unchanged"}
    assert set(in_force(empty)) == {"one", "two", "three", "another", "by hand"}
    assert done(apply(fewer, client, prune=True)) == {"two": "unchanged", "one": "deleted", "three": "deleted"}
    assert set(in_force(empty)) == {"two", "another", "by hand"}
    assert done(apply(file("group: three\nalarms: []\n"), client, prune=True)) == {"two": "deleted"}


def test_what_was_made_by_hand_becomes_the_files(
    empty: Monasca, client: Client, file: Callable[..., Definitions]
) -> None:
    """It is brought up to date and marked; one of another file's is not touched."""
    empty.call(
        "POST", "/alarm-definitions", {"name": "one", "expression": "train.loss  GT 3", "match_by": ["hostname", "run"]}
    )
    changes = {change.name: change for change in apply(file(), client)}
    assert changes["one"].what == "updated"
    assert set(changes["one"].fields) == {"group", "description", "expression"}
    assert changes["one"].fields["group"] == ("", "three")
    assert in_force(empty)["one"]["description"] == "The first. [mlops:three]"
    other = file(replaced={"group: three": "group: four"})
    before = in_force(empty)
    with pytest.raises(AlarmError, match="3 things stand against it, and nothing was changed") as caught:
        apply(other, client)
    assert "another file has brought it into force, that of the group 'three'" in str(caught.value)
    assert in_force(empty) == before


def test_whether_somebody_is_told_is_theirs_to_say(
    empty: Monasca, client: Client, file: Callable[..., Definitions]
) -> None:
    """A definition that somebody has muted stays so, whatever else is changed."""
    apply(file(), client)
    empty.call("PATCH", f"/alarm-definitions/{in_force(empty)['one']['id']}", {"actions_enabled": False})
    assert done(apply(file(), client))["one"] == "unchanged"
    assert done(apply(file(replaced={"> 3,": "> 5,"}), client))["one"] == "updated"
    assert not in_force(empty)["one"]["actions_enabled"]
    assert next(one.muted for one in definitions(client) if one.name == "one")


NOTIFIED = """
defaults: {actions: [web]}
notifications:
  - {name: web, type: WEBHOOK, address: "https://hooks.example.org/${TOKEN}"}
  - {name: mail, type: EMAIL, address: a@example.org}
alarms:
  - {name: one, expression: train.loss > 3, ok_actions: [mail]}
  - {name: two, expression: train.loss > 9, actions: [mail, by hand], undetermined_actions: [web]}
"""


def test_notifications_are_made_and_named_in_actions(
    empty: Monasca, client: Client, file: Callable[..., Definitions]
) -> None:
    """Names become ids, whether the file defines them or somebody has; a new address is sent, and told to nobody."""
    by_hand = empty.call("POST", "/notification-methods", {"name": "by hand", "type": "EMAIL", "address": "b@x"})["id"]
    changes = apply(file(NOTIFIED, TOKEN="k0ffer"), client)
    assert [(change.kind, change.what) for change in changes] == [("notification", "created")] * 2 + [
        ("alarm", "created")
    ] * 2
    methods = {one["name"]: one for one in empty.call("GET", "/notification-methods")["elements"]}
    assert methods["web"]["address"] == "https://hooks.example.org/k0ffer"
    there = in_force(empty)
    assert there["one"]["alarm_actions"] == [methods["web"]["id"]]
    assert there["one"]["ok_actions"] == [methods["mail"]["id"]]
    assert sorted(there["two"]["alarm_actions"]) == sorted([methods["mail"]["id"], by_hand])
    assert there["two"]["undetermined_actions"] == [methods["web"]["id"]]
    assert set(done(apply(file(NOTIFIED, TOKEN="k0ffer"), client)).values()) == {"unchanged"}
    (change,) = (one for one in apply(file(NOTIFIED, TOKEN="k1ste"), client) if one.what != "unchanged")
    assert change.fields == {"address": ("https://hooks.example.org/…", "https://hooks.example.org/…")}
    assert "k0ffer" not in str(change.as_json())
    assert notifications(client)["web"]["address"] == "https://hooks.example.org/k1ste"
    assert in_force(empty) == there
    fewer = apply(file(NOTIFIED, {"[mail, by hand]": "[mail]", ", ok_actions: [mail]": ""}, TOKEN="k1ste"), client)
    assert {one.name: dict(one.fields) for one in fewer if one.fields} == {
        "one": {"ok_actions": (["mail"], [])},
        "two": {"actions": (["by hand", "mail"], ["mail"])},
    }
    assert in_force(empty)["one"]["ok_actions"] == []


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("actions: [web]}\nnot", "actions: [wbe]}\nnot", "there is no notification 'wbe'. Did you mean 'web'?"),
        (
            "type: EMAIL",
            "type: PIGEON",
            "notification 'mail': cloud 'testbed' knows no type 'PIGEON'. Its types: EMAIL",
        ),
    ],
)
def test_what_the_cloud_does_not_have_is_told_before_anything_is_sent(
    empty: Monasca, client: Client, file: Callable[..., Definitions], old: str, new: str, said: str
) -> None:
    """A name nobody has defined, a kind of notification that the cloud does not know."""
    empty.call("POST", "/notification-methods", {"name": "by hand", "type": "EMAIL", "address": "b@x"})
    empty.faults.clear()
    with pytest.raises(AlarmError) as caught:
        apply(file(NOTIFIED, {old: new}, TOKEN="k0ffer"), client)
    assert said in str(caught.value)
    assert changing(empty) == []


def test_a_role_that_may_only_read_sees_and_changes_nothing(
    empty: Monasca, client: Client, file: Callable[..., Definitions]
) -> None:
    """Listing works; applying is a matter of authorisation, exit code 4, and says which roles there are."""
    apply(file(), client)
    reader = Client.connect("testbed-readonly")
    assert [one.name for one in definitions(reader)] == ["one", "three", "two"]
    assert set(done(apply(file(), reader)).values()) == {"unchanged"}
    assert done(apply(file(replaced={"> 300": "> 400"}), reader, dry_run=True))["two"] == "updated"
    before = in_force(empty)
    with pytest.raises(AuthorisationError, match="monasca-read-only-user") as caught:
        apply(file(replaced={"> 300": "> 400"}), reader)
    assert caught.value.exit_code == 4
    assert in_force(empty) == before
    with pytest.raises(AuthorisationError):
        definitions(Client.connect("testbed-norole"))
    assert definitions(Client.connect("testbed-stranger")) == []


def test_definitions_are_deleted_by_name_and_by_group(
    empty: Monasca, client: Client, file: Callable[..., Definitions]
) -> None:
    """A name or a group that is not there deletes nothing at all."""
    apply(file(), client)
    apply(file("group: other\nalarms:\n  - {name: another, expression: train.loss > 1}\n"), client)
    for names, group, said in (
        (["one", "tow"], "", "no alarm definition 'tow' in cloud 'testbed'. Did you mean 'two'?"),
        (["one"], "threee", "of the group 'threee' in cloud 'testbed'. Did you mean 'three'?"),
    ):
        with pytest.raises(AlarmError) as caught:
            remove(client, names, group=group)
        assert said in str(caught.value)
    assert len(in_force(empty)) == 4
    assert done(remove(client, ["another"], group="three", dry_run=True)) == dict.fromkeys(in_force(empty), "deleted")
    assert len(in_force(empty)) == 4
    assert done(remove(client, ["two"])) == {"two": "deleted"}
    assert set(done(remove(client, group="three"))) == {"one", "three"}
    assert set(in_force(empty)) == {"another"}
    with pytest.raises(AlarmError, match="There is no alarm definition 'two'"):
        remove(client, ["two"])


def test_a_listing_of_many_pages_is_read_to_its_end(empty: Monasca, client: Client) -> None:
    """The API gives so many at once; its link leads on."""
    for number in range(5):
        empty.call("POST", "/alarm-definitions", {"name": f"alarm {number}", "expression": "x > 1"})
    pages = list(client.pages("/alarm-definitions", {"limit": 2}))
    assert [len(page) for page in pages] == [2, 2, 1]
    assert len({element["name"] for page in pages for element in page}) == 5


def test_the_api_refuses_what_is_refused_here(empty: Monasca) -> None:
    """Every bad expression of the corpus is a 422 of the real API, every good one is taken and read back."""
    for number, (text, _) in enumerate(BAD):
        with pytest.raises(TestbedError, match=": 422 "):
            empty.call("POST", "/alarm-definitions", {"name": f"bad {number}", "expression": text})
    for number, (_, sent) in enumerate(GOOD):
        empty.call("POST", "/alarm-definitions", {"name": f"good {number}", "expression": sent})
    there = in_force(empty)
    assert [there[f"good {number}"]["expression"] for number in range(len(GOOD))] == [sent for _, sent in GOOD]
    assert len(there) == len(GOOD)


def test_a_refusal_midway_says_what_it_was_about_and_applying_again_goes_on(
    empty: Monasca, client: Client, file: Callable[..., Definitions]
) -> None:
    """What was done before stays, and no address is told."""
    wanted = file(NOTIFIED, {", by hand": ""}, TOKEN="k0ffer")
    answers = iter([Fault.answer(400, body=b'{"title": "no", "description": "https://hooks.example.org/k0ffer"}')])
    empty.faults.rule = lambda _number, method, _path: next(answers, None) if method == "POST" else None
    with pytest.raises(RequestRefusedError, match=r"The notification 'web' was refused: .*400") as caught:
        apply(wanted, client)
    assert "k0ffer" not in f"{caught.value}{caught.value.detail}"
    posts = 0

    def third(_number: int, method: str, _path: str) -> Fault | None:
        nonlocal posts
        posts += method == "POST"
        return Fault.answer(422, body=b'{"title": "no"}') if method == "POST" and posts == 4 else None

    empty.faults.rule = third
    with pytest.raises(RequestRefusedError, match=r"The alarm definition 'two' could not be made: .*422: no"):
        apply(wanted, client)
    empty.faults.clear()
    assert set(in_force(empty)) == {"one"}
    assert done(apply(wanted, client)) == {
        "web": "unchanged",
        "mail": "unchanged",
        "one": "unchanged",
        "two": "created",
    }


@pytest.mark.parametrize(
    ("kind", "address", "shown"),
    [
        ("EMAIL", "a@example.org", "a@example.org"),
        ("WEBHOOK", "https://me:pw@example.org:8080/token?x=y", "https://example.org/…"),
        ("PAGERDUTY", "0123", "…"),
        ("SLACK", "https://hooks.slack.com/services/T/B/X", "https://hooks.slack.com/…"),
        ("WEBHOOK", "https://[", "…"),
    ],
)
def test_of_an_address_only_what_is_no_secret_is_shown(kind: str, address: str, shown: str) -> None:
    """A webhook's path is as good as a password."""
    assert masked(kind, address) == shown
