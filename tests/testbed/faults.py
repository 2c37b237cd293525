"""A reverse proxy before a service that does, request by request, what a cloud does on a bad day.

::

    proxy.next(Fault.answer(503, retry_after="2"))        # the next request
    proxy.next(Fault.hang(3.0), Fault.cut())              # the next two
    proxy.rule = lambda number, method, path: Fault.answer(429) if number % 5 == 0 else None
    proxy.go_down(); proxy.come_up()                      # connections are refused meanwhile
"""

from __future__ import annotations

import contextlib
import http.client
import socket
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Final, Self

__all__ = ["Fault", "FaultProxy", "Request"]

_HOP: Final = frozenset({"connection", "content-length", "date", "keep-alive", "server", "transfer-encoding"})
_SECONDS: Final = 300.0


@dataclass(frozen=True, slots=True)
class Fault:
    """What is done to one request.

    Attributes:
        kind: ``answer``, ``hang``, ``cut``, ``garbage``, ``slow`` or ``forget``.
        status: of ``answer``.
        headers, body: of ``answer`` and ``garbage``.
        seconds: of ``hang`` and ``slow``.
    """

    kind: str
    status: int = 503
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    seconds: float = 0.0

    @classmethod
    def answer(cls, status: int, *, retry_after: str = "", body: bytes = b"") -> Fault:
        """Answer with a status instead of the service."""
        return cls("answer", status, {"Retry-After": retry_after} if retry_after else {}, body)

    @classmethod
    def hang(cls, seconds: float) -> Fault:
        """Say nothing for so long, then cut the connection."""
        return cls("hang", seconds=seconds)

    @classmethod
    def cut(cls) -> Fault:
        """Pass the request on, and cut the connection in the middle of the answer."""
        return cls("cut")

    @classmethod
    def garbage(cls, body: bytes = b"<html>It works!</html>", status: int = 200) -> Fault:
        """Answer as some other server would."""
        return cls("garbage", status, {"Content-Type": "text/html"}, body)

    @classmethod
    def slow(cls, seconds: float) -> Fault:
        """Pass the request on after so long."""
        return cls("slow", seconds=seconds)

    @classmethod
    def forget(cls) -> Fault:
        """Pass the request on, and never tell how it went."""
        return cls("forget")


@dataclass(frozen=True, slots=True)
class Request:
    """A request that came, and what became of it.

    Attributes:
        method, path: as asked.
        fault: the kind of fault; empty if it was passed on as it should be.
        status: of the answer; 0 if none was given.
        body: as sent; empty unless bodies are kept.
        time: when it came, seconds since the epoch.
    """

    method: str
    path: str
    fault: str
    status: int
    body: bytes
    time: float


class FaultProxy:
    """The proxy; a context manager.

    Args:
        upstream: the port of 127.0.0.1 that requests are passed on to.
        port: where to listen; 0 for any.

    Attributes:
        port: where it listens.
        rule: asked for a fault of each request, by its number (from 0), method and path, where
            :meth:`next` has named none.
        keep_bodies: whether requests are kept with what they sent.
        requests: what came so far.
        counts: how many requests met each kind of fault; ``ok`` for none.
    """

    def __init__(self, upstream: int, port: int = 0) -> None:
        self.upstream = upstream
        self.port = port
        self.rule: Callable[[int, str, str], Fault | None] = lambda _number, _method, _path: None
        self.keep_bodies = False
        self.requests: list[Request] = []
        self.counts: Counter[str] = Counter()
        self._next: deque[Fault] = deque()
        self._lock = threading.Lock()
        self._number = 0
        self._server: _Server | None = None
        self.come_up()

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.port}"

    def next(self, *faults: Fault) -> None:
        """What becomes of the next requests."""
        with self._lock:
            self._next.extend(faults)

    def clear(self) -> None:
        """Let everything pass from now on, and forget what came."""
        with self._lock:
            self._next.clear()
            self.rule = lambda _number, _method, _path: None
            self.requests.clear()
            self.counts.clear()
            self.keep_bodies = False

    def go_down(self) -> None:
        """Refuse connections, and cut those that there are."""
        if self._server is not None:
            server, self._server = self._server, None
            server.stop()

    def come_up(self) -> None:
        """Listen again, at the same port."""
        if self._server is None:
            self._server = _Server(self)
            self.port = self._server.server_address[1]

    def close(self) -> None:
        """Be gone."""
        self.go_down()

    def choose(self, method: str, path: str) -> Fault | None:
        """The fault of a request that has just come; for the server."""
        with self._lock:
            number = self._number
            self._number += 1
            return self._next.popleft() if self._next else self.rule(number, method, path)

    def note(self, request: Request) -> None:
        """Keep what became of a request; for the server."""
        with self._lock:
            self.requests.append(request)
            self.counts[request.fault or "ok"] += 1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class _Server(ThreadingHTTPServer):
    """Listens, and knows its connections."""

    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = 64

    def __init__(self, proxy: FaultProxy) -> None:
        self.proxy = proxy
        self.connections: set[socket.socket] = set()
        super().__init__(("127.0.0.1", proxy.port), _Handler)
        self._thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self.shutdown()
        self._thread.join()
        self.socket.close()
        for connection in list(self.connections):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that has gone is no news."""


class _Handler(BaseHTTPRequestHandler):
    """Answers one connection."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1
    server: _Server

    def setup(self) -> None:
        super().setup()
        self._service: http.client.HTTPConnection | None = None
        self.server.connections.add(self.connection)

    def finish(self) -> None:
        self.server.connections.discard(self.connection)
        if self._service is not None:
            self._service.close()
        with contextlib.suppress(OSError):
            super().finish()

    def _handle(self) -> None:
        proxy = self.server.proxy
        came = time.time()
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        fault = proxy.choose(self.command, self.path)
        status = self._answer(fault, body)
        kept = body if proxy.keep_bodies else b""
        proxy.note(Request(self.command, self.path, fault.kind if fault else "", status, kept, came))

    def __getattr__(self, name: str) -> Callable[[], None]:
        """Whatever the method, it is handled alike."""
        if name.startswith("do_"):
            return self._handle
        raise AttributeError(name)

    def _answer(self, fault: Fault | None, body: bytes) -> int:
        kind = fault.kind if fault else ""
        if fault and kind in {"answer", "garbage"}:
            return self._send(fault.status, fault.headers, fault.body)
        if fault and kind in {"hang", "slow"}:
            time.sleep(fault.seconds)
        if kind == "hang":
            self.close_connection = True
            return 0
        try:
            status, headers, said = self._ask(body)
        except (OSError, http.client.HTTPException):
            self.close_connection = True  # the service is away: as if we were
            return 0
        if kind == "forget":
            self.close_connection = True
            return 0
        if kind == "cut":
            self.wfile.write(f"HTTP/1.1 {status} OK\r\nContent-Length: 1000\r\n\r\nhalf".encode())
            self.wfile.flush()
            self.close_connection = True
            return 0
        return self._send(status, headers, said)

    def _ask(self, body: bytes) -> tuple[int, Mapping[str, str], bytes]:
        headers = {key: text for key, text in self.headers.items() if key.lower() not in _HOP}
        for attempt in range(2):
            if self._service is None:
                self._service = http.client.HTTPConnection("127.0.0.1", self.server.proxy.upstream, timeout=_SECONDS)
                fresh = True
            else:
                fresh = False
            try:
                self._service.request(self.command, self.path, body or None, headers)
                answer = self._service.getresponse()
                said = answer.read()
            except (OSError, http.client.HTTPException):
                self._service.close()
                self._service = None
                if fresh or attempt:  # an old connection may have been closed while it idled
                    raise
                continue
            if answer.will_close:
                self._service.close()
                self._service = None
            return answer.status, dict(answer.getheaders()), said
        raise ConnectionError

    def _send(self, status: int, headers: Mapping[str, str], body: bytes) -> int:
        self.send_response(status)
        for name, text in headers.items():
            if name.lower() not in _HOP:
                self.send_header(name, text)
        if status != http.HTTPStatus.NO_CONTENT:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
        self.wfile.flush()
        return status

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class names it so
        """Say nothing."""
