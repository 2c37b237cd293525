"""Requests to the API: what counts as taken, pages, clocks, what points are sent to."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mlops.errors import CloudConfigError, CloudError, CloudUnavailableError, RequestRefusedError
from mlops.monasca import Monasca
from tests.monasca.scripted import Reply, ScriptedCloud


@pytest.fixture
def scripted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ScriptedCloud]:
    """A cloud that answers what it is told to."""
    with ScriptedCloud() as running:
        monkeypatch.setenv("OS_CLIENT_CONFIG_FILE", str(running.clouds_file(tmp_path)))
        yield running


@pytest.fixture
def client(scripted: ScriptedCloud) -> Monasca:
    """The API of that cloud."""
    assert scripted.url
    return Monasca.connect("scripted")


def _json(content: Any) -> Reply:
    return Reply(200, json.dumps(content).encode())


def test_metrics_are_posted_as_they_are(scripted: ScriptedCloud, client: Monasca) -> None:
    """One request with the body as given, to the version of the API that knows it."""
    client.post_metrics(b'[{"name": "a"}]')
    assert scripted.requests == [("POST", "/v2.0/metrics", "token-1", b'[{"name": "a"}]')]


@pytest.mark.parametrize("status", [200, 202, 205])
def test_only_204_means_that_they_were_taken(scripted: ScriptedCloud, client: Monasca, status: int) -> None:
    """A page of a proxy's is no receipt: the points are sent again."""
    scripted.reply(Reply(status, b"<html>Log in here</html>" if status == 200 else b""))
    with pytest.raises(CloudUnavailableError, match=f"answered with {status}, where the Monasca API answers 204"):
        client.post_metrics(b"[]")


def test_a_refused_batch_tells_why(scripted: ScriptedCloud, client: Monasca) -> None:
    """422 with what the API says about the metric."""
    scripted.reply(Reply(422, b'{"title": "Unprocessable Entity", "description": "Dimension value too long"}'))
    with pytest.raises(RequestRefusedError, match="Dimension value too long") as caught:
        client.post_metrics(b"[]")
    assert caught.value.status == 422


def test_no_api_at_the_endpoint(scripted: ScriptedCloud, client: Monasca) -> None:
    """404 to metrics is no matter of these metrics: the endpoint is wrong."""
    scripted.reply(Reply(404))
    with pytest.raises(CloudError, match=r"there is no Monasca API at .*/v2\.0\. Check the endpoint") as caught:
        client.post_metrics(b"[]")
    assert not isinstance(caught.value, RequestRefusedError)
    scripted.reply(Reply(404))
    with pytest.raises(RequestRefusedError):
        client.get("/alarm-definitions/none")


def test_the_version_is_added_once(scripted: ScriptedCloud, tmp_path: Path) -> None:
    """Catalogues have the endpoint with and without it."""
    scripted.clouds_file(tmp_path, monitoring_endpoint_override=f"{scripted.url}/v2.0/")
    assert Monasca.connect("scripted").url == f"{scripted.url}/v2.0"
    scripted.clouds_file(tmp_path, monitoring_endpoint_override=f"{scripted.url}/monitoring/")
    assert Monasca.connect("scripted").url == f"{scripted.url}/monitoring/v2.0"


def test_a_destination_is_a_project_and_a_region(scripted: ScriptedCloud, tmp_path: Path) -> None:
    """Whatever the cloud's name, the endpoint's or the user's: the same points go to the same place."""
    assert Monasca.connect("scripted").destination() == "monasca p1 RegionOne"
    scripted.clouds_file(tmp_path, monitoring_endpoint_override="http://elsewhere", region_name="")
    assert Monasca.connect("scripted").destination() == "monasca p1"


def test_credentials_for_no_project(scripted: ScriptedCloud, client: Monasca, monkeypatch: pytest.MonkeyPatch) -> None:
    """Points belong to a project; it is said where to name one."""
    token = scripted.token()
    del token["project"]
    monkeypatch.setattr(scripted, "token", lambda: token)
    with pytest.raises(CloudConfigError, match=r"are for no project. Name one in .*clouds.yaml \(project_name\)"):
        client.destination()


@pytest.mark.parametrize(("skew", "low", "high"), [(0, -5, 5), (-7200, 7190, 7210), (3e9, -3.1e9, -2.9e9)])
def test_the_clocks_are_compared(
    scripted: ScriptedCloud, client: Monasca, skew: float, low: float, high: float
) -> None:
    """Each answer has the API's time, which tells how far this machine is ahead."""
    scripted.reply(Reply(204, skew=skew))
    client.post_metrics(b"[]")
    assert low < client.skew < high


@pytest.mark.parametrize("headers", [{}, {"Date": "yesterday"}, {"Date": ""}])
def test_an_answer_without_a_time_changes_nothing(
    scripted: ScriptedCloud, client: Monasca, headers: dict[str, str]
) -> None:
    """What was known of the clocks stays."""
    scripted.reply(Reply(204, skew=-500), Reply(204, headers=headers, skew=None))
    client.post_metrics(b"[]")
    skew = client.skew
    client.post_metrics(b"[]")
    assert client.skew == skew > 400


def test_pages_are_followed_by_their_offset(scripted: ScriptedCloud, client: Monasca) -> None:
    """Along the API's own links, with the question as it was asked."""
    link = {"rel": "next", "href": "http://somewhere.else/v2.0/metrics?offset=17&name=a%2520b"}
    scripted.reply(_json({"elements": [1, 2], "links": [link]}), _json({"elements": [3], "links": []}))
    assert list(client.pages("/metrics", {"name": "a b"})) == [[1, 2], [3]]
    assert [path for _, path, _, _ in scripted.requests] == [
        "/v2.0/metrics?name=a+b",
        "/v2.0/metrics?name=a+b&offset=17",
    ]


def test_an_empty_page_ends_them(scripted: ScriptedCloud, client: Monasca) -> None:
    """Also where it has a link to another one."""
    link = {"rel": "next", "href": "http://x/?offset=1"}
    scripted.reply(_json({"elements": [], "links": [link]}))
    assert list(client.pages("/metrics")) == [[]]


@pytest.mark.parametrize("content", [[], {}, {"elements": None}, "text", 5])
def test_what_is_no_listing_is_said(scripted: ScriptedCloud, client: Monasca, content: Any) -> None:
    """JSON that is something else."""
    scripted.reply(_json(content))
    with pytest.raises(CloudError, match="gave no list of elements"):
        list(client.pages("/metrics"))


def test_requests_with_and_without_content(scripted: ScriptedCloud, client: Monasca) -> None:
    """What is sent is JSON, and an empty answer is ``None``."""
    scripted.reply(Reply(204), _json({"id": 5}))
    assert client.send("DELETE", "/alarm-definitions/5") is None
    assert client.send("POST", "/alarm-definitions", {"name": "é"}) == {"id": 5}
    assert [body for _, _, _, body in scripted.requests] == [b"", b'{"name": "\\u00e9"}']
