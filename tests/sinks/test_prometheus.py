"""The endpoint that Prometheus scrapes: where it listens, what it answers, whom it serves and when it is gone."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import struct
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from http.client import HTTPConnection
from pathlib import Path

import pytest
from prometheus_client.openmetrics import parser as openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from mlops import Run
from mlops.errors import MissingExtraError, SinkURLError
from mlops.recorder import Recorder
from mlops.settings import Settings
from mlops.sinks import RunIdentity, SinkURL, open_sink
from mlops.sinks import _endpoint as endpoint_module
from mlops.sinks.prometheus import PrometheusSink
from mlops.store import RunInfo, file_stem
from tests.sinks.helpers import RUN, Clock, Table

Wait = Callable[[Callable[[], object]], None]
LOCALHOST = "127.0.0.1"
OPENMETRICS = {"Accept": "application/openmetrics-text; version=1.0.0"}


def get(port: int, host: str = LOCALHOST, path: str = "/metrics", **headers: str) -> tuple[str, str]:
    """What is answered there, and of which type it is."""
    connection = HTTPConnection(host, port, timeout=10)
    try:
        connection.request("GET", path, headers=headers)
        answer = connection.getresponse()
        assert answer.status == 200
        return answer.read().decode(), answer.headers["Content-Type"]
    finally:
        connection.close()


def values(port: int, label: str = "run", host: str = LOCALHOST) -> dict[tuple[str, str], float]:
    """Each value that is shown there, by its name and one of its labels."""
    return {
        (sample.name, sample.labels.get(label, "")): sample.value
        for family in parse_text(get(port, host)[0])
        for sample in family.samples
    }


def is_free(port: int, host: str = LOCALHOST) -> bool:
    """Whether a server may listen there."""
    try:
        socket.create_server((host, port)).close()
    except OSError:
        return False
    return True


@pytest.fixture
def free_port() -> int:
    """A port at which nobody listens."""
    with socket.create_server((LOCALHOST, 0)) as server:
        port: int = server.getsockname()[1]
        return port


@pytest.fixture
def sink() -> Iterator[PrometheusSink]:
    """A sink that listens at any free port."""
    made = PrometheusSink(LOCALHOST, 0)
    made.write(Table().points())
    yield made
    made.close(1.0)


def port_of(sink: PrometheusSink) -> int:
    """Where it listens."""
    assert sink.port is not None
    return sink.port


# -- what is answered ----------------------------------------------------------------------------


def test_prometheus_is_answered_in_its_text_format(sink: PrometheusSink) -> None:
    """The last value of each series, to whoever asks."""
    sink.write(Table().points(("train.loss", 0.5), ("train.loss", 0.25)))
    text, kind = get(port_of(sink))
    assert kind.startswith("text/plain; version=0.0.4")
    assert 'mlops_train_loss{run="digits",team="vision"} 0.25' in text.splitlines()
    assert values(port_of(sink), "run_id")["mlops_run_info", RUN.id] == 1.0
    assert (sink.sent, sink.dropped) == (2, 0)


def test_who_asks_for_openmetrics_gets_it(sink: PrometheusSink) -> None:
    """With units, and as prometheus_client's own strict parser takes it."""
    sink.write(Table().points(("gpu.energy_joules", 5.0)))
    text, kind = get(port_of(sink), **OPENMETRICS)
    assert kind.startswith("application/openmetrics-text")
    families = openmetrics.text_string_to_metric_families(text)  # type: ignore[no-untyped-call]
    assert {family.name: family.unit for family in families} == {
        "mlops_run": "",
        "mlops_gpu_energy_joules": "joules",
    }


def test_points_that_cannot_be_shown_are_dropped(sink: PrometheusSink, caplog: pytest.LogCaptureFixture) -> None:
    """They are counted, and said once."""
    table = Table()
    for _ in range(3):
        sink.write(table.points(("gpu.energy_joules", -1.0), ("train.loss", 1.0)))
    assert (sink.sent, sink.dropped) == (3, 3)
    assert sum("mlops_gpu_energy_joules_total counts" in line for line in caplog.messages) == 1


def test_a_hung_or_rude_client_disturbs_nobody(
    sink: PrometheusSink, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture, wait_until: Wait
) -> None:
    """One that says nothing, one that talks nonsense and one that hangs up keep no other from its answer."""
    caplog.set_level(logging.DEBUG, "mlops")
    place = (LOCALHOST, port_of(sink))
    with socket.create_connection(place), socket.create_connection(place) as rude:
        rude.sendall(b"\x00\xff\r\n\r\n")
        with socket.create_connection(place) as gone:
            gone.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # hang up without a word
            gone.sendall(b"GET /metrics HT")
        wait_until(lambda: "was not answered" in caplog.text)
        sink.write(Table().points(("x", 1.0)))
        assert values(port_of(sink))["mlops_x", "digits"] == 1.0
        sink.close(1.0)
    assert is_free(place[1])
    assert capfd.readouterr() == ("", "")


def test_a_client_that_says_nothing_is_let_go(sink: PrometheusSink, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its thread does not wait for it for ever."""
    assert endpoint_module._Handler.timeout
    monkeypatch.setattr(endpoint_module._Handler, "timeout", 0.05)
    with socket.create_connection((LOCALHOST, port_of(sink)), timeout=10) as silent:
        assert silent.recv(1) == b""


# -- where it listens ----------------------------------------------------------------------------


def test_nothing_listens_before_points_may_come() -> None:
    """A URL that is only tried out, as by the callback or the doctor, takes no port."""
    made = PrometheusSink(LOCALHOST, 0)
    assert made.port is None
    made.close(1.0)


def test_the_end_leaves_nothing(sink: PrometheusSink) -> None:
    """After the end nobody listens and the port is free; points that come later are dropped."""
    port = port_of(sink)
    assert not is_free(port)
    sink.close(0.0)
    assert is_free(port)
    sink.write(Table().points(("x", 1.0)))
    assert (sink.sent, sink.dropped) == (0, 1)


@pytest.mark.parametrize("host", ["", "127.0.0.1", "localhost", "[::1]"])
def test_addresses(host: str, free_port: int, caplog: pytest.LogCaptureFixture) -> None:
    """No host is every address, IPv6 among them; a host is that one; the log says where it listens."""
    caplog.set_level(logging.INFO, "mlops")
    sink = open_sink(f"prometheus://{host}:{free_port}")
    try:
        sink.write(Table().points(("x", 1.0)))
        reached = ["127.0.0.1", "::1"] if not host else [host.strip("[]")]
        for address in reached:
            assert values(free_port, host=address)["mlops_x", "digits"] == 1.0
    finally:
        sink.close(1.0)
    assert any(f":{free_port}/metrics" in line for line in caplog.messages)


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("prometheus:9400", "path"),
        ("prometheus://:9400/other", "path"),
        ("prometheus://:9400?ttl=3", "no option 'ttl'"),
        ("prometheus://:99999", "Port out of range"),
        ("prometheus://me:secret@:9400", "password"),
    ],
)
def test_urls_that_are_refused(url: str, said: str) -> None:
    """What cannot be meant is a clear error when the URL is opened, with the form to write."""
    with pytest.raises(SinkURLError, match=said) as caught:
        open_sink(url)
    assert "secret" not in str(caught.value)


def test_the_default_port() -> None:
    """``prometheus:`` alone means port 9400, and /metrics may stand behind it."""
    for url in ("prometheus://", "prometheus:", "prometheus://:9400/metrics"):
        sink = PrometheusSink.from_url(SinkURL.parse(url), Settings())
        assert sink.where == "prometheus://:9400"


def test_without_prometheus_client_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error comes when the URL is opened, not in the middle of a training."""
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    with pytest.raises(MissingExtraError, match=r"mlops\[prometheus\]"):
        open_sink("prometheus://:9400")


def test_ranks_of_several_runs_listen_side_by_side(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a launcher sets LOCAL_RANK, it is added to the port; a process that joined a run needs none of its own."""
    candidates = range(20000 + os.getpid() % 10000, 32000, 2)  # below those that the kernel gives to clients
    free_port = next(port for port in candidates if is_free(port) and is_free(port + 1))
    monkeypatch.setenv("LOCAL_RANK", "1")
    own = RunInfo(RUN.id, RUN.name, 0.0, pid=os.getpid())
    for info, port in ((own, free_port + 1), (None, free_port + 1), (replace(own, pid=1), free_port)):
        sink = PrometheusSink(LOCALHOST, free_port)
        sink.write(Table(replace(RUN, info=info)).points())
        assert sink.port == port
        sink.close(1.0)


def test_a_local_rank_that_is_none_means_nothing(free_port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """As where a cluster sets the variable to something else."""
    monkeypatch.setenv("LOCAL_RANK", "none")
    sink = PrometheusSink(LOCALHOST, free_port)
    sink.write(Table().points())
    assert sink.port == free_port
    sink.close(1.0)


# -- ports that are taken ------------------------------------------------------------------------


def test_a_port_that_is_taken_is_said_once_and_tried_again(free_port: int, caplog: pytest.LogCaptureFixture) -> None:
    """The training goes on; what comes meanwhile is dropped; once the port is free the last values are there."""
    clock = Clock()
    sink = PrometheusSink(LOCALHOST, free_port, clock=clock)
    table = Table()
    other = socket.socket()
    other.bind((LOCALHOST, free_port))
    with other:
        for _ in range(3):
            sink.write(table.points(("x", 1.0)))
            clock.now += 60
        assert (sink.sent, sink.dropped) == (0, 3)
    (said,) = caplog.messages
    assert f"Port {free_port} is taken by another process" in said
    assert f"such as prometheus://{LOCALHOST}:{free_port + 1}" in said
    sink.write(table.points())
    assert values(free_port)["mlops_x", "digits"] == 1.0
    sink.write(table.points(("x", 2.0)))
    assert (sink.sent, sink.dropped) == (1, 3)
    sink.close(1.0)


@pytest.mark.parametrize(
    ("host", "port", "said"),
    [
        ("192.0.2.1", 9400, "Name an address of this machine"),
        ("nowhere.invalid", 9400, "Name an address of this machine"),
        (LOCALHOST, 65536, "There is no port 65536"),
    ],
)
def test_places_that_are_not_ours(host: str, port: int, said: str, caplog: pytest.LogCaptureFixture) -> None:
    """A training goes on without them, and it is said what to do."""
    sink = PrometheusSink(host, port)
    sink.write(Table().points(("x", 1.0)))
    sink.close(1.0)
    assert (sink.sent, sink.dropped) == (0, 1)
    assert said in caplog.text


def test_runs_of_one_process_share_their_address(free_port: int) -> None:
    """Two runs at once, as in a notebook, are both shown; the first to end takes its series with it, not the port."""
    first, second = PrometheusSink(LOCALHOST, free_port), PrometheusSink(LOCALHOST, free_port)
    for sink, run in ((first, RUN), (second, replace(RUN, id="other-id", name="other"))):
        sink.write(Table(run).points(("train.loss", 1.0)))
    assert {run for name, run in values(free_port) if name == "mlops_train_loss"} == {"digits", "other"}
    first.close(1.0)
    assert {run for _, run in values(free_port)} == {"other"}
    second.close(1.0)
    assert is_free(free_port)


def test_a_forked_child_does_not_keep_the_port(sink: PrometheusSink) -> None:
    """A data loader's worker that outlives the run has let go of it, and can listen there itself."""
    port = port_of(sink)
    orders, wake = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(wake)
        os.read(orders, 1)
        os._exit(0 if not endpoint_module._open and endpoint_module._lock.acquire(timeout=1) else 1)
    sink.close(1.0)
    assert is_free(port)
    os.close(wake)
    assert os.waitpid(child, 0)[1] == 0
    os.close(orders)


# -- several processes of one run ----------------------------------------------------------------


@contextlib.contextmanager
def sibling(folder: Path, *, host: str = "", rank: int | None = None, stem: str = "other") -> Iterator[Recorder]:
    """The points file of another process of the run, as the training under ``mlops run`` has one."""
    recorder = Recorder(folder / f"{stem}-{rank}.points", slots=4096, interval=0.01)
    recorder.write_notes(
        {"host": host or socket.gethostname(), "rank": rank, "dimensions": {"team": "audio"}, "pid": 1}
    )
    try:
        yield recorder
    finally:
        recorder.close()


def in_folder(folder: Path) -> RunIdentity:
    """A run that is kept in this folder."""
    return replace(RUN, folder=folder)


def test_processes_of_the_run_on_this_host_are_shown_too(tmp_path: Path, wait_until: Wait) -> None:
    """With their own rank and dimensions, as they are written; those of other hosts are shown there."""
    sink = PrometheusSink(LOCALHOST, 0)
    table = Table(in_folder(tmp_path))
    own = file_stem(socket.gethostname(), os.getpid())
    with (
        sibling(tmp_path, rank=1) as here,
        sibling(tmp_path, rank=2, host="node-9") as elsewhere,
        sibling(tmp_path, rank=3, stem=own) as another_run_of_this_process,
    ):
        for recorder in (here, elsewhere, another_run_of_this_process):
            recorder.log({"train.loss": 1.0})

        def shown() -> dict[tuple[str, str], float]:
            sink.write(table.points(("train.loss", 7.0)))
            return values(port_of(sink), "rank")

        wait_until(lambda: ("mlops_train_loss", "1") in shown())
        here.log({"train.loss": 2.0})
        wait_until(lambda: shown()["mlops_train_loss", "1"] == 2.0)
        assert set(shown()) == {
            *(("mlops_run_info", ""), ("mlops_run_info", "1")),
            *(("mlops_train_loss", ""), ("mlops_train_loss", "1")),
        }
        assert values(port_of(sink), "team")["mlops_train_loss", "audio"] == 2.0
    sent = sink.sent
    sink.write(table.points())
    assert (sink.sent, sink.dropped) == (sent, 0), "a point of another process counts there"
    sink.close(1.0)


def test_a_process_that_joined_leaves_the_port_to_the_first(
    tmp_path: Path, free_port: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Where the one that listens shows this run, nothing is amiss; when it has ended, the other listens."""
    clock = Clock()
    first, second = PrometheusSink(LOCALHOST, free_port), PrometheusSink(LOCALHOST, free_port, clock=clock)
    table = Table(in_folder(tmp_path))
    first.write(table.points(("x", 1.0)))
    with monkeypatch.context() as patch:
        patch.setattr(endpoint_module, "_open", {})  # as in another process
        second.write(table.points(("x", 1.0)))
    assert (second.port, second.sent, second.dropped) == (None, 1, 0)
    first.close(1.0)
    clock.now += 60
    second.write(table.points(("x", 2.0)))
    assert second.port == free_port
    second.close(1.0)
    assert not caplog.messages


def test_another_runs_port_is_not_ours(free_port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A training that another one keeps from listening has its points dropped, and says so."""
    first, second = PrometheusSink(LOCALHOST, free_port), PrometheusSink(LOCALHOST, free_port)
    first.write(Table().points())
    with monkeypatch.context() as patch:
        patch.setattr(endpoint_module, "_open", {})
        second.write(Table(replace(RUN, id="other-id")).points(("x", 1.0)))
    assert (second.sent, second.dropped) == (0, 1)
    second.close(1.0)
    first.close(1.0)


@pytest.mark.slow
def test_whoever_listens_but_does_not_answer_is_another_process(caplog: pytest.LogCaptureFixture) -> None:
    """It is asked for two seconds who it is, and then taken for a stranger."""
    with socket.create_server((LOCALHOST, 0)) as other:
        sink = PrometheusSink(LOCALHOST, other.getsockname()[1])
        sink.write(Table().points(("x", 1.0)))
        sink.close(1.0)
    assert sink.dropped == 1
    assert "taken by another process" in caplog.text


# -- with a run ----------------------------------------------------------------------------------


def test_a_run_is_shown_while_it_goes_on(runs_dir: Path, free_port: int, wait_until: Wait) -> None:
    """What is logged can be asked for soon after, and no longer when the run has ended."""
    url = f"prometheus://{LOCALHOST}:{free_port}"
    with Run("digits", sinks=[url], devices=[], runs_dir=runs_dir, dimensions={"site": "north"}) as run:
        run.log({"train.loss": 0.5})
        run.series("gpu.power_watts", {"uuid": "GPU-1"})(300.0)
        (sink,) = run.sinks
        wait_until(lambda: sink.sent == 2)
        assert values(free_port, "site") == {
            ("mlops_run_info", ""): 1.0,
            ("mlops_train_loss", "north"): 0.5,
            ("mlops_gpu_power_watts", "north"): 300.0,
        }
    assert is_free(free_port)
