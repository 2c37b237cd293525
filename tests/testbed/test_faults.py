"""The proxy does to requests what it is told, and nothing to the others."""

from __future__ import annotations

import contextlib
import http.client
import socket
import threading
from collections.abc import Callable, Iterator
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from tests.testbed.faults import Fault, FaultProxy

Wait = Callable[[Callable[[], object]], None]


class _Service(ThreadingHTTPServer):
    """What is behind the proxy: answers a GET with a text, takes a POST without one, and keeps what it took."""

    daemon_threads = True

    def __init__(self) -> None:
        self.taken: list[bytes] = []
        self.connections = 0
        super().__init__(("127.0.0.1", 0), _Handler)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Service

    def setup(self) -> None:
        super().setup()
        self.server.connections += 1

    def do_GET(self) -> None:
        body = b"everything is well" * 1000
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("X-Asked", self.path + self.headers.get("X-Auth-Token", ""))
        self.end_headers()
        self.wfile.write(body)

    def do_POST(self) -> None:
        self.server.taken.append(self.rfile.read(int(self.headers["Content-Length"])))
        self.send_response(204)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class names it so
        """Say nothing."""


@pytest.fixture
def service() -> Iterator[_Service]:
    """The service behind."""
    with _Service() as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield running
        running.shutdown()
        thread.join()


@pytest.fixture
def proxy(service: _Service) -> Iterator[FaultProxy]:
    """The proxy before it."""
    with FaultProxy(service.server_address[1]) as running:
        yield running


@pytest.fixture
def client(proxy: FaultProxy) -> Iterator[http.client.HTTPConnection]:
    """One who asks, and connects anew where the connection is gone."""
    connection = http.client.HTTPConnection("127.0.0.1", proxy.port, timeout=10)
    yield connection
    connection.close()


def post(client: http.client.HTTPConnection, body: bytes = b"[1]") -> http.client.HTTPResponse:
    """Post, and read what comes to its end."""
    client.request("POST", "/v2.0/metrics", body, {"Content-Type": "application/json"})
    answer = client.getresponse()
    answer.read()
    return answer


def get(client: http.client.HTTPConnection) -> tuple[http.client.HTTPResponse, bytes]:
    """Get, and what was said."""
    client.request("GET", "/v2.0/metrics?limit=1", headers={"X-Auth-Token": "!"})
    answer = client.getresponse()
    return answer, answer.read()


def test_what_meets_no_fault_passes_as_it_is_over_few_connections(
    proxy: FaultProxy, service: _Service, client: http.client.HTTPConnection
) -> None:
    """Path, query, headers, body, status: nothing is changed, and both sides keep their connection."""
    proxy.keep_bodies = True
    for number in range(20):
        assert post(client, b"%d" % number).status == 204
    answer, said = get(client)
    assert (answer.status, answer.headers["X-Asked"], said) == (
        200,
        "/v2.0/metrics?limit=1!",
        b"everything is well" * 1000,
    )
    assert service.taken == [b"%d" % number for number in range(20)]
    assert service.connections == 1
    assert [request.body for request in proxy.requests] == [*service.taken, b""]
    assert proxy.counts == {"ok": 21}
    assert [(request.method, request.status) for request in proxy.requests[19:]] == [("POST", 204), ("GET", 200)]


@pytest.mark.parametrize("status", [401, 403, 413, 422, 429, 500, 503])
def test_an_answer_of_its_own(
    proxy: FaultProxy, service: _Service, client: http.client.HTTPConnection, status: int
) -> None:
    """The service is not asked; the next request is."""
    proxy.next(Fault.answer(status, body=b'{"title": "no"}'))
    assert [post(client).status, post(client).status] == [status, 204]
    assert len(service.taken) == 1
    assert proxy.counts == {"answer": 1, "ok": 1}
    assert [request.status for request in proxy.requests] == [status, 204]


@pytest.mark.parametrize("when", ["3", formatdate(1_900_000_000, usegmt=True)])
def test_a_wish_to_be_asked_again_later(proxy: FaultProxy, client: http.client.HTTPConnection, when: str) -> None:
    """Retry-After, as seconds or as a date."""
    proxy.next(Fault.answer(429, retry_after=when), Fault.answer(503))
    assert post(client).headers["Retry-After"] == when
    assert "Retry-After" not in post(client).headers


def test_an_answer_is_cut_in_its_middle(
    proxy: FaultProxy, service: _Service, client: http.client.HTTPConnection
) -> None:
    """The service has done what it was asked for, and the client can know that it does not know."""
    proxy.next(Fault.cut(), Fault.cut())
    with pytest.raises(http.client.IncompleteRead) as caught:
        get(client)
    assert len(caught.value.partial) == 9000
    client.close()
    with pytest.raises(http.client.BadStatusLine):
        post(client, b"taken")
    client.close()
    assert service.taken == [b"taken"]
    assert post(client).status == 204
    assert proxy.counts == {"cut": 2, "ok": 1}


def test_an_answer_that_is_never_given(
    proxy: FaultProxy, service: _Service, client: http.client.HTTPConnection
) -> None:
    """Accepted, and the client does not know."""
    proxy.next(Fault.forget())
    with pytest.raises(http.client.RemoteDisconnected):
        post(client, b"taken")
    assert service.taken == [b"taken"]


def test_a_request_that_hangs_is_let_go_in_the_end(proxy: FaultProxy, service: _Service, wait_until: Wait) -> None:
    """Nothing comes before the client's patience ends; clearing the proxy ends it for who still waits."""
    proxy.next(Fault.hang(600), Fault.hang(600))
    impatient = http.client.HTTPConnection("127.0.0.1", proxy.port, timeout=0.1)
    with pytest.raises(TimeoutError):
        post(impatient)
    impatient.close()
    ends: list[str] = []

    def ask() -> None:
        patient = http.client.HTTPConnection("127.0.0.1", proxy.port, timeout=60)
        with pytest.raises(http.client.RemoteDisconnected):
            post(patient)
        patient.close()
        ends.append("cut")

    asking = threading.Thread(target=ask)
    asking.start()
    wait_until(lambda: proxy.hanging == 2)
    assert ends == []
    proxy.clear()
    asking.join()
    assert ends == ["cut"]
    assert service.taken == []


def test_another_server_answers(proxy: FaultProxy, client: http.client.HTTPConnection) -> None:
    """As a captive portal or a wrong port does: 200, and nothing of Monasca."""
    proxy.next(Fault.garbage())
    answer, said = get(client)
    assert (answer.status, answer.headers["Content-Type"]) == (200, "text/html")
    assert said.startswith(b"<html>")


def test_a_slow_answer_is_right(
    proxy: FaultProxy, service: _Service, client: http.client.HTTPConnection, wait_until: Wait
) -> None:
    """It only takes its time."""
    proxy.next(Fault.slow(600))
    answers: list[int] = []
    asking = threading.Thread(target=lambda: answers.append(post(client).status))
    asking.start()
    wait_until(lambda: proxy.hanging)
    assert (answers, service.taken) == ([], [])
    proxy.clear()
    asking.join()
    assert (answers, service.taken) == ([204], [b"[1]"])
    assert proxy.counts == {"slow": 1}


def test_a_proxy_that_is_down_refuses_and_comes_back_at_its_port(
    proxy: FaultProxy, client: http.client.HTTPConnection
) -> None:
    """Connections that there are end, new ones are refused, and then all is as before."""
    assert post(client).status == 204
    proxy.go_down()
    with pytest.raises((http.client.RemoteDisconnected, ConnectionResetError, BrokenPipeError)):
        post(client)
    client.close()
    with pytest.raises(ConnectionRefusedError), socket.create_connection(("127.0.0.1", proxy.port), timeout=10):
        pass
    port = proxy.port
    proxy.come_up()
    assert proxy.port == port
    assert post(client).status == 204


def test_a_service_that_is_away_is_as_a_proxy_that_cuts(proxy: FaultProxy, client: http.client.HTTPConnection) -> None:
    """The proxy has no answers of its own."""
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        proxy.upstream = nobody.getsockname()[1]
        with pytest.raises(http.client.RemoteDisconnected):
            post(client)
    assert [(request.fault, request.status) for request in proxy.requests] == [("", 0)]


def test_a_period_and_a_rule(proxy: FaultProxy, client: http.client.HTTPConnection) -> None:
    """Every request meanwhile, or those with that method; what was named for the next goes before."""
    with proxy.during(Fault.answer(503), "POST"):
        proxy.next(Fault.answer(401))
        assert [post(client).status, post(client).status, get(client)[0].status] == [401, 503, 200]
    assert post(client).status == 204
    proxy.clear()
    proxy.rule = lambda number, _method, _path: Fault.answer(429) if number % 2 else None
    assert sorted(post(client).status for _ in range(10)) == [204] * 5 + [429] * 5
    assert proxy.counts == {"answer": 5, "ok": 5}
    proxy.clear()
    assert post(client).status == 204


def test_many_clients_at_once(proxy: FaultProxy, service: _Service) -> None:
    """Each request is answered once, counted once, and passed on once."""

    def ask(name: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", proxy.port, timeout=30)
        for number in range(25):
            assert post(connection, b"%d %d" % (name, number)).status == 204
        connection.close()

    asking = [threading.Thread(target=ask, args=(name,)) for name in range(4)]
    for one in asking:
        one.start()
    for one in asking:
        one.join()
    assert sorted(service.taken) == sorted(b"%d %d" % (name, number) for name in range(4) for number in range(25))
    assert proxy.counts == {"ok": 100}


def test_a_body_of_unknown_length_is_refused(client: http.client.HTTPConnection) -> None:
    """Better than to take the rest of it for the next request."""
    with contextlib.suppress(BrokenPipeError):  # it need not read what it refuses
        client.request("POST", "/v2.0/metrics", iter([b"[", b"]"]), encode_chunked=True)
    assert client.getresponse().status == 411
