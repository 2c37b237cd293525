"""The dashboards for Prometheus, asked of a real Prometheus that scrapes a real run."""

from __future__ import annotations

import json
import re
import threading
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

from k8s.dashboards.builder.prometheus import DCGM
from k8s.dashboards.builder.roads import CUSTOM
from tests.devices.stub import uuid
from tests.k8s import sample
from tests.k8s.files import PROMETHEUS, queries, variables
from tests.k8s.promql import chosen
from tests.testbed.debian import unpacked
from tests.testbed.processes import Process, free_port, wait_for

pytestmark = pytest.mark.slow

EVERY_HOST = ".*"


class Server:
    """A Prometheus that scrapes some addresses every second.

    Args:
        folder: where its files go.
        targets: the addresses.
        say: told what is being fetched.
    """

    def __init__(self, folder: Path, targets: list[str], say: Callable[[str], None]) -> None:
        program = unpacked("prometheus", say=say) / "usr" / "bin" / "prometheus"
        scrape = {"job_name": "mlops", "scrape_interval": "1s", "static_configs": [{"targets": targets}]}
        config = folder / "prometheus.yml"
        config.write_text(yaml.safe_dump({"scrape_configs": [scrape]}), "utf-8")
        self.port = free_port()
        self.process = Process(
            "prometheus",
            [
                program,
                f"--config.file={config}",
                f"--storage.tsdb.path={folder / 'data'}",
                f"--web.listen-address=127.0.0.1:{self.port}",
            ],
            folder / "prometheus.log",
            self._is_ready,
        )

    def _is_ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/-/ready", timeout=5):
                return True
        except OSError:
            return False

    def ask(self, path: str, **query: str) -> Any:
        """What it answers; an error of the query's is an error here."""
        url = f"http://127.0.0.1:{self.port}/api/v1/{path}?{urllib.parse.urlencode(query)}"
        with urllib.request.urlopen(url, timeout=30) as answer:
            content = json.load(answer)
        assert content["status"] == "success"
        return content["data"]

    def lines(self, expression: str) -> list[dict[str, str]]:
        """The labels of the lines that an expression gives now."""
        return [one["metric"] for one in self.ask("query", query=expression)["result"]]


class Exporter(BaseHTTPRequestHandler):
    """Shows what NVIDIA's exporter would, of the made-up node's GPUs."""

    def do_GET(self) -> None:
        """Answer a scrape."""
        lines = (
            f'{name}{{gpu="{index}",UUID="{uuid(index)}",Hostname="node-1"}} 50\n'
            for name in DCGM.values()
            for index in range(2)
        )
        self.send_response(200)
        self.send_header("Content-Type", "text/plain; version=0.0.4")
        self.end_headers()
        self.wfile.write("".join(lines).encode())

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def exporter() -> Iterator[str]:
    """The address of a stand-in for NVIDIA's exporter."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Exporter) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"127.0.0.1:{server.server_address[1]}"
        server.shutdown()


@pytest.fixture
def server(trace: Path, runs_dir: Path, tmp_path: Path, exporter: str, say: Callable[[str], None]) -> Iterator[Server]:
    """A Prometheus that has scraped a run with everything in it; the run is still going on."""
    port = free_port()
    made = Server(tmp_path, [f"127.0.0.1:{port}", exporter], say)
    with sample.running(trace, runs_dir, [f"prometheus://127.0.0.1:{port}"]):
        made.process.start()
        try:
            wait_for(lambda: made.lines("mlops_valid_loss") and made.lines(DCGM["gpu.power_watts"]), 60, "a scrape")
            yield made
        finally:
            made.process.stop()


def test_every_query_and_variable_gives_something(server: Server) -> None:
    """With what a viewer can choose, every query of every panel has lines, each with a name of its own."""
    for page in PROMETHEUS:
        choices = {"__rate_interval": "10s", CUSTOM.name: sample.METRIC}
        for name, variable in variables(page).items():
            if variable["type"] != "query":
                continue
            function, inside = re.fullmatch(r"(\w+)\((.+)\)", variable["query"]).groups()  # type: ignore[union-attr]
            if function == "metrics":
                found = [one for one in server.ask("label/__name__/values") if re.search(inside, one)]
                pattern = re.compile(variable["regex"].strip("/"))
                offered = [there[1] for one in found if (there := pattern.search(one))]
                assert offered == [sample.METRIC]
            else:
                selector, label = (part.strip() for part in inside.rsplit(",", 1))
                offered = [one[label] for one in server.lines(chosen(selector, choices)) if label in one]
                assert offered or name == "rank", f"{page} offers no {name}"
            choices[name] = variable.get("allValue") or offered[0]
        for query in queries(page):
            lines = server.lines(chosen(query.target["expr"], choices))
            assert lines, f"{page} {query}: {query.target['expr']}"
            names = [_called(query.target["legendFormat"], line) for line in lines]
            assert len(set(names)) == len(names), f"{page} {query}: {names}"


def test_an_idle_gpu_is_told_by_its_ratio(server: Server) -> None:
    """What the panels compare with a limit has the size that the limit is in."""
    (held,) = [one for one in queries("prometheus/gpus") if one.panel["title"] == "Held and idle"]
    expression = chosen(held.target["expr"], {"hostname": EVERY_HOST, "__rate_interval": "10s"})
    values = [float(one["value"][1]) for one in server.ask("query", query=expression)["result"]]
    assert sorted(values) == pytest.approx([0.9, 0.91])
    (host,) = [one for one in queries("prometheus/gpus") if one.panel["title"] == "Utilisation, from the hosts"]
    expression = chosen(host.target["expr"], {"__rate_interval": "10s"})
    assert [float(one["value"][1]) for one in server.ask("query", query=expression)["result"]] == [0.5, 0.5]


def _called(legend: str, labels: dict[str, str]) -> str:
    """What a line is called."""
    return re.sub(r"{{(\w+)}}", lambda key: labels[key[1]], legend)
