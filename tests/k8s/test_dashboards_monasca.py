"""The dashboards for Monasca: what the plugin makes of them, asked of a real Monasca that has a real run."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import urlencode

import pytest

from k8s.dashboards.builder.roads import CUSTOM
from mlops.series import METRICS
from tests.devices.stub import uuid
from tests.k8s import sample
from tests.k8s.files import MONASCA, queries, variables
from tests.k8s.plugin import asked
from tests.testbed.monasca import Monasca

pytestmark = [
    pytest.mark.slow,
    # openstacksdk 4 says so of every cloud, whether it has anything to do with InfluxDB or not.
    pytest.mark.filterwarnings("ignore:Support for InfluxDB requires"),
]

NAME = "seen-in-a-dashboard"
HOST = "node-of-an-agent"


def post_as_the_hosts_agent(monasca: Monasca) -> None:
    """What the nvidia plugin of a host's own agent sends, of the made-up node's GPUs."""
    now = int(time.time() * 1000)
    names = [one.host_name for one in METRICS.values() if one.host_name]
    content = [
        {"name": name, "timestamp": now, "value": 50.0, "dimensions": {"hostname": HOST, "uuid": uuid(index)}}
        for name in names
        for index in range(2)
    ]
    monasca.call("POST", "/metrics", content)


def offered(monasca: Monasca, dimension: str) -> list[str]:
    """What the plugin offers for a variable: the values that a dimension has."""
    content = monasca.call("GET", "/metrics/dimensions/names/values", dimension_name=dimension)
    return [one["dimension_value"] for one in content["elements"]]


def test_every_query_and_variable_gives_something(
    monasca: Monasca,
    trace: Path,
    runs_dir: Path,
    wait_until: Callable[[Callable[[], object]], None],
) -> None:
    """Every query of every panel has lines, each with a name of its own; the lists to choose from have the run."""
    with sample.running(trace, runs_dir, [monasca.url, monasca.statsd_url], NAME):
        post_as_the_hosts_agent(monasca)
    start = (datetime.now(UTC) - timedelta(hours=1)).strftime("%Y-%m-%dT%H:%M:%S.000Z")
    wait_until(lambda: list(monasca.measurements("train.loss.count", {"run": NAME})))
    wait_until(lambda: list(monasca.measurements("valid.loss", {"run": NAME})))
    wait_until(lambda: list(monasca.measurements("nvidia.power_watts", {"hostname": HOST})))

    choices = {"run": NAME, "hostname": "", CUSTOM.name: "", "uuid": uuid(0)}
    for page in MONASCA:
        for name, variable in variables(page).items():
            if variable["type"] == "query":
                assert choices[name] in offered(monasca, variable["query"])
            elif variable["type"] == "textbox":
                choices[name] = variable["query"]
        for query in queries(page):
            lines = []
            for request in asked(query.target, choices, start, 60):
                content = monasca.call("GET", f"{request.path}?{urlencode(request.query)}")
                assert all(element["statistics"] for element in content["elements"])
                lines += [request.line(element["dimensions"]) for element in content["elements"]]
            assert lines, f"{page} {query}: {query.target}"
            assert len(set(lines)) == len(lines), f"{page} {query}: {lines}"
            assert not any("@" in line or "$" in line for line in lines), lines


def test_an_empty_filter_is_any_value_and_a_bar_is_either(
    monasca: Monasca, wait_until: Callable[[Callable[[], object]], None]
) -> None:
    """What the description of the variable promises to whoever writes into it."""
    post_as_the_hosts_agent(monasca)
    wait_until(
        lambda: len({own["uuid"] for own, _ in monasca.measurements("nvidia.power_watts", {"hostname": HOST})}) == 2
    )
    (target,) = [one.target for one in queries("monasca/training") if one.panel["title"] == "Utilisation"]
    target = {
        **target,
        "metric": "nvidia.power_watts",
        "dimensions": [{"key": "hostname", "value": "$hostname"}, {"key": "uuid", "value": "$all"}],
    }
    for hostname in ("", HOST, f"{HOST}|another"):
        (request,) = asked(target, {"hostname": hostname, "run": ""}, "2026-01-01T00:00:00Z", 60)
        content = monasca.call("GET", f"{request.path}?{urlencode(request.query)}")
        assert {uuid(0), uuid(1)} == {element["dimensions"]["uuid"] for element in content["elements"]}, hostname
    (request,) = asked(target, {"hostname": "another|third", "run": ""}, "2026-01-01T00:00:00Z", 60)
    assert monasca.call("GET", f"{request.path}?{urlencode(request.query)}")["elements"] == []
