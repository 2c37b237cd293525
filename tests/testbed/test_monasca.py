"""The whole Monasca: what goes in comes out, who may do what, what dies comes back."""

from __future__ import annotations

import os
import re
import socket
import stat
import subprocess
import sys
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from keystoneauth1 import exceptions
from openstack.config import OpenStackConfig

from tests.testbed.environments import ROOT, TestbedError
from tests.testbed.faults import Fault
from tests.testbed.monasca import Monasca
from tests.testbed.monasca.measurements import measurements

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:Support for InfluxDB")]  # openstacksdk: asked or not

Wait = Callable[[Callable[[], object]], None]


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory, say: Callable[[str], None]) -> Iterator[Monasca]:
    """One whose parts are killed and started again: what a test has killed, it starts."""
    with Monasca(tmp_path_factory.mktemp("own"), agent=False, token_seconds=8, say=say) as running:
        yield running


@pytest.fixture
def run_id() -> str:
    """A run's id of the test's own."""
    return uuid.uuid4().hex


def points(run_id: str, count: int, first: int = 0, **more: str) -> list[dict[str, Any]]:
    """So many metrics of one series, a second apart."""
    dimensions = {"run_id": run_id, **more}
    began = 1_700_000_000_000
    return [
        {"name": "train.loss", "dimensions": dimensions, "timestamp": began + number * 1000, "value": number / 4}
        for number in range(first, first + count)
    ]


def has_died(monasca: Monasca) -> bool:
    """Whether the persister has, which is asked to write what it holds."""
    monasca.hurry()
    return monasca.persister.pid is None


def answer(monasca: Monasca, user: str, method: str, path: str, content: object = None) -> int:
    """The status that a user gets."""
    try:
        monasca.call(method, path, content, user=user)
    except TestbedError as error:
        return int(str(error).split(": ")[1].split()[0])
    return 200


def test_a_gauge_and_a_metric_are_read_back(monasca: Monasca, run_id: str) -> None:
    """The one by agent and its user, the other by POST; both by GET, with value, time and meta as they were."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        host, _, port = monasca.statsd_url.removeprefix("statsd://").partition(":")
        sender.sendto(f"bed.gauge:0.125|g|#{{'run_id': '{run_id}'}}".encode(), (host, int(port)))
    sent = {
        "name": "bed.metric",
        "dimensions": {"run_id": run_id},
        "timestamp": 1_700_000_000_123,
        "value": 0.1,
        "value_meta": {"step": "12"},
    }
    monasca.call("POST", "/metrics", sent)
    assert monasca.wait_stored(run_id, 2) == 2
    assert list(monasca.measurements("bed.metric", {"run_id": run_id})) == [
        ({"run_id": run_id}, [["2023-11-14T22:13:20.123Z", 0.1, {"step": "12"}]])
    ]
    [(dimensions, rows)] = monasca.measurements("bed.gauge", {"run_id": run_id})
    assert dimensions.pop("hostname")
    assert (dimensions, [row[1] for row in rows]) == ({"run_id": run_id}, [0.125])
    assert list(monasca.measurements("bed.metric", {"run_id": run_id}, user="stranger")) == []


@pytest.mark.parametrize(
    ("user", "post", "get"),
    [
        ("mini-mon", 200, 200),
        ("monasca-agent", 200, 401),
        ("reader", 401, 200),
        ("visitor", 401, 401),
        ("stranger", 200, 200),
    ],
)
def test_roles_are_those_of_the_real_api(monasca: Monasca, user: str, post: int, get: int, run_id: str) -> None:
    """Who may send and who may read; a role that may not is a 401."""
    assert answer(monasca, user, "POST", "/metrics", points(run_id, 1)) == post
    assert answer(monasca, user, "GET", "/metrics?limit=1") == get


def cloud(monasca: Monasca, name: str) -> Any:
    """A session with a cloud of its clouds.yaml, as OpenStack's own libraries open one."""
    return OpenStackConfig(config_files=[str(monasca.clouds_file)]).get_one(name).get_session()


def test_the_clouds_are_what_their_names_say(monasca: Monasca) -> None:
    """A cloud for each kind of user and of trouble, in a file that nobody else may read."""
    assert stat.S_IMODE(monasca.clouds_file.stat().st_mode) == 0o600
    wanted = {"service_type": "monitoring", "interface": "public", "region_name": "RegionOne"}
    for name in ("testbed", "testbed-password", "testbed-readonly", "testbed-norole", "testbed-stranger"):
        session = cloud(monasca, name)
        assert session.get_endpoint(**wanted) == monasca.api_url
        may = session.get(f"{monasca.api_url}/metrics?limit=1", raise_exc=False).status_code
        assert (name, may) == (name, 401 if name == "testbed-norole" else 200)
        assert (session.get_project_id() == monasca.project_id) == (name != "testbed-stranger")
    for name in ("testbed-wrong", "testbed-expired"):
        with pytest.raises(exceptions.Unauthorized):
            cloud(monasca, name).get_token()
    config = OpenStackConfig(config_files=[str(monasca.clouds_file)]).get_one("testbed-noendpoint")
    assert config.get_session().get_token()
    assert config.get_session_endpoint("monitoring") is None


def test_an_application_credential_may_not_make_others(monasca: Monasca) -> None:
    """It is restricted, as one on a training node should be."""
    session = cloud(monasca, "testbed")
    url = f"{monasca.keystone_url}/users/{session.get_user_id()}/application_credentials"
    asked = {"application_credential": {"name": "another"}}
    assert session.post(url, json=asked, raise_exc=False).status_code == 403


def test_all_pages_are_read_though_the_links_of_the_api_leave_points_out(monasca: Monasca, run_id: str) -> None:
    """Several series over the same and over other times, any size of a page: every point, once."""
    sent = [*points(run_id, 30, rank="0"), *points(run_id, 30, rank="1"), *points(run_id, 9, 40, rank="2")]
    sent = [*sent[1::2], *sent[::2]]
    monasca.call("POST", "/metrics", sent)
    assert monasca.wait_stored(run_id, len(sent)) == len(sent)

    def ask(**query: Any) -> Any:
        return monasca.call("GET", "/metrics/measurements", **query)

    for page in (4, 7, 69, 10_000):
        got = [
            (own["rank"], row[1])
            for own, rows in measurements(ask, "train.loss", {"run_id": run_id}, page)
            for row in rows
        ]
        assert sorted(got) == sorted((one["dimensions"]["rank"], one["value"]) for one in sent)
    with pytest.raises(TestbedError, match=r"More than 1 points of train\.loss have the time 2023-11-14T22:13:20"):
        list(measurements(ask, "train.loss", {"run_id": run_id}, 1))


def test_alarm_definitions_and_notification_methods(monasca: Monasca, run_id: str) -> None:
    """Created, listed, read, changed and deleted by the real API in its real database."""
    method = monasca.call(
        "POST", "/notification-methods", {"name": run_id, "type": "EMAIL", "address": "root@example.org"}
    )
    definition = {"name": run_id, "expression": "avg(train.loss{team=vision}, 120) > 1.5", "match_by": ["run"]}
    made = monasca.call("POST", "/alarm-definitions", {**definition, "alarm_actions": [method["id"]]})
    path = f"/alarm-definitions/{made['id']}"
    assert [one["id"] for one in monasca.call("GET", "/alarm-definitions", name=run_id)["elements"]] == [made["id"]]
    monasca.call("PATCH", path, {"severity": "HIGH"})
    monasca.call("PUT", path, {**monasca.call("GET", path), "description": "what it is about"})
    read = monasca.call("GET", path)
    assert {**definition, "severity": "HIGH", "description": "what it is about"}.items() <= read.items()
    assert read["alarm_actions"] == [method["id"]]
    monasca.call("DELETE", path)
    monasca.call("DELETE", f"/notification-methods/{method['id']}")
    assert answer(monasca, "mini-mon", "GET", path) == 404
    assert answer(monasca, "reader", "POST", "/alarm-definitions", definition) == 401


def test_a_token_ends_when_it_was_said_to(own: Monasca, wait_until: Wait) -> None:
    """The API accepts it, then no more, and takes the next one."""
    token = own.token(fresh=True)

    def status() -> int:
        request = urllib.request.Request(  # noqa: S310 - our own server
            f"{own.direct_url}/metrics?limit=1", headers={"X-Auth-Token": token}
        )
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310 - our own server
                return int(answer.status)
        except urllib.error.HTTPError as error:
            return error.code

    assert status() == 200
    wait_until(lambda: status() == 401)
    assert own.call("GET", "/metrics", limit=1)
    assert own.token() != token


@pytest.mark.parametrize("part", ["keystone", "api", "persister"])
def test_a_part_that_was_killed_comes_back(own: Monasca, part: str, run_id: str) -> None:
    """At the same port, with what was there before, and the chain is whole again."""
    own.call("POST", "/metrics", points(run_id, 5))
    assert own.wait_stored(run_id, 5) == 5
    process = getattr(own, part)
    process.kill()
    assert process.pid is None
    if part != "persister":
        with pytest.raises(OSError, match=r"refused|reset"):
            own.token(fresh=True) if part == "keystone" else own.call("GET", "/metrics")
    else:
        own.call("POST", "/metrics", points(run_id, 5, 5))
    process.start()
    own.token(fresh=True)
    own.call("POST", "/metrics", points(run_id, 5, 5))
    assert own.wait_stored(run_id, 10) == 10
    [(_, rows)] = own.measurements("train.loss", {"run_id": run_id})
    assert [row[1] for row in rows] == [number / 4 for number in range(10)]


def test_a_database_that_was_killed_has_kept_what_it_took(own: Monasca, run_id: str, wait_until: Wait) -> None:
    """The persister dies of it, with what it had in hand; started again, it writes that too."""
    own.call("POST", "/metrics", points(run_id, 5))
    assert own.wait_stored(run_id, 5) == 5
    own.influxdb.kill()
    own.call("POST", "/metrics", points(run_id, 5, 5))
    wait_until(lambda: has_died(own))
    assert "Connection refused" in own.persister.last_words()
    own.influxdb.start()
    own.persister.start()
    assert own.wait_stored(run_id, 10) == 10


def test_an_outage_of_the_broker(own: Monasca, run_id: str) -> None:
    """The API says 204 all the same, and hands on later what it has taken; nothing that was there is lost."""
    own.broker.go_down()
    own.call("POST", "/metrics", points(run_id, 5))
    own.broker.come_up()
    assert own.wait_stored(run_id, 5) == 5


def test_the_broker_keeps_what_waits_for_the_persister(own: Monasca, run_id: str) -> None:
    """Far more than the 5 MB a partition that the mock cluster keeps."""
    own.persister.kill()
    padded = [{**one, "value_meta": {"padding": "x" * 2000}} for one in points(run_id, 400)]
    for number in range(40):
        own.call("POST", "/metrics", [{**one, "dimensions": {"run_id": run_id, "n": str(number)}} for one in padded])
    own.persister.start()
    assert own.wait_stored(run_id, 16_000) == 16_000


def test_the_persister_dies_of_what_it_cannot_digest_again_and_again(
    own: Monasca, run_id: str, wait_until: Wait
) -> None:
    """A newline in a dimension: accepted by the API, and then no point of anyone gets through until it is gone."""
    own.call("POST", "/metrics", points(run_id, 1, note="two\nlines"))
    wait_until(lambda: has_died(own))
    assert "unable to parse" in own.persister.last_words()
    own.call("POST", "/metrics", points(run_id, 5))
    own.persister.start()
    wait_until(lambda: own.persister.pid is None)
    own.restart_broker()
    own.call("POST", "/metrics", points(run_id, 5, 5))
    assert own.wait_stored(run_id, 5) >= 5


def test_a_fault_on_the_way_is_none_behind_it(monasca: Monasca, run_id: str) -> None:
    """Taken and not answered: the proxy that the catalogue names passed it on to the real API."""
    session = cloud(monasca, "testbed")
    monasca.faults.next(Fault.forget(), Fault.answer(503, retry_after="7"))
    with pytest.raises(exceptions.ConnectFailure):
        session.post(f"{monasca.api_url}/metrics", json=points(run_id, 3), connect_retries=0)
    refused = session.post(f"{monasca.api_url}/metrics", json=points(run_id, 3), raise_exc=False)
    assert (refused.status_code, refused.headers["Retry-After"]) == (503, "7")
    assert monasca.wait_stored(run_id, 3) == 3
    assert monasca.faults.counts == {"forget": 1, "answer": 1}


def test_two_at_once_do_not_disturb_each_other(
    monasca: Monasca, tmp_path: Path, say: Callable[[str], None], run_id: str
) -> None:
    """Users of the same names, points of the same run: each has its own."""
    monasca.call("POST", "/metrics", points(run_id, 3))
    with Monasca(tmp_path / "second", say=say) as second:
        second.call("POST", "/metrics", points(run_id, 5))
        assert second.wait_stored(run_id, 5) == 5
        assert monasca.wait_stored(run_id, 3) == 3
        assert second.token() != monasca.token()
        statuses = [
            cloud(monasca, "testbed")
            .get(
                f"{url}/metrics?limit=1", headers={"X-Auth-Token": second.token()}, authenticated=False, raise_exc=False
            )
            .status_code
            for url in (monasca.direct_url, second.direct_url)
        ]
        assert statuses == [401, 200]
    monasca.call("POST", "/metrics", points(run_id, 1, 3))
    assert monasca.wait_stored(run_id, 4) == 4


def test_its_last_words_are_those_of_all_parts(monasca: Monasca) -> None:
    """Where a test fails, nobody has to look for a log."""
    said = monasca.last_words()
    for part in ("keystone", "api", "persister", "broker", "influxdb", "monasca-statsd", "monasca-forwarder"):
        assert f"--- {part} " in said


def test_a_start_that_fails_leaves_nothing_and_says_why(
    tmp_path: Path, say: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A part that does not come up is shown with its last words, and the others do not stay."""
    bed = Monasca(tmp_path / "monasca", say=say)
    monkeypatch.setattr(bed.api, "_command", ["sh", "-c", "echo no coffee >&2; exit 3"])
    with pytest.raises(TestbedError, match=r"api ended before it was ready[^$]*no coffee"):
        bed.start()
    parts = [bed.keystone, bed.api, bed.persister, bed.broker, bed.influxdb]
    assert bed.agent is not None
    assert [part.pid for part in [*parts, bed.agent.statsd, bed.agent.forwarder]] == [None] * 7
    bed.stop()


def test_the_command_prints_two_lines_to_paste_and_is_stopped_by_another(tmp_path: Path) -> None:
    """A shell that has them has a cloud, and sinks that send there; nothing of it is left."""
    command = [sys.executable, "-m", "tests.testbed.monasca"]
    given: dict[str, Any] = {"cwd": ROOT, "env": {**os.environ, "TMPDIR": str(tmp_path)}, "text": True}
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **given) as playground:
        assert playground.stdout is not None
        lines = [playground.stdout.readline() for _ in range(2)]
        script = "".join([*lines, 'echo "$OS_CLOUD $MLOPS_SINKS"; test -s "$OS_CLIENT_CONFIG_FILE"\n'])
        pasted = subprocess.run(["sh", "-eu"], input=script, capture_output=True, check=True, text=True)
        assert re.fullmatch(r"testbed statsd://127\.0\.0\.1:\d+,monasca://testbed\n", pasted.stdout)
        stopped = subprocess.run([*command, "stop"], capture_output=True, check=False, timeout=120, **given)
        assert (stopped.returncode, stopped.stderr) == (0, f"stopped (process {playground.pid})\n")
        assert playground.wait(30) == 0
        assert playground.stdout.read() == ""
    assert list(tmp_path.iterdir()) == []
    again = subprocess.run([*command, "stop"], capture_output=True, check=False, timeout=120, **given)
    assert (again.returncode, again.stderr) == (0, "no Monasca of make monasca runs here\n")
