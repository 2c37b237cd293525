"""A reverse proxy before a service that does, request by request, what a cloud does on a bad day.

::

    proxy.next(Fault.answer(503, retry_after="2"))        # the next request
    proxy.next(Fault.hang(3.0), Fault.cut())              # the next two
    with proxy.during(Fault.answer(500)): ...             # every one, meanwhile
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
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
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
        """Answer with a status instead of the service; ``retry_after`` is seconds or an HTTP date."""
        return cls("answer", status, {"Retry-After": retry_after} if retry_after else {}, body)

    @classmethod
    def hang(cls, seconds: float) -> Fault:
        """Say nothing for so long, then cut the connection."""
        return cls("hang", seconds=seconds)

    @classmethod
    def cut(cls) -> Fault:
        """Pass the request on, and cut the connection in the middle of the answer: of its body, if it has one."""
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
        hanging: how many are made to wait just now.
    """

    def __init__(self, upstream: int, port: int = 0) -> None:
        self.upstream = upstream
        self.port = port
        self.rule: Callable[[int, str, str], Fault | None] = lambda _number, _method, _path: None
        self.keep_bodies = False
        self.requests: list[Request] = []
        self.counts: Counter[str] = Counter()
        self.hanging = 0
        self._next: deque[Fault] = deque()
        self._lock = threading.Lock()
        self._number = 0
        self._let_go = threading.Event()
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

    @contextlib.contextmanager
    def during(self, fault: Fault, method: str = "") -> Iterator[None]:
        """What becomes of every request meanwhile, or of those with that method."""
        before = self.rule
        self.rule = lambda _number, asked, _path: fault if method in {"", asked} else None
        try:
            yield
        finally:
            self.rule = before

    def clear(self) -> None:
        """Let everything pass from now on, and forget what came; whoever hangs is let go."""
        with self._lock:
            self._next.clear()
            self.rule = lambda _number, _method, _path: None
            self.requests.clear()
            self.counts.clear()
            self.keep_bodies = False
            self._let_go.set()
            self._let_go = threading.Event()

    def go_down(self) -> None:
        """Refuse connections, and cut those that there are."""
        if self._server is not None:
            server, self._server = self._server, None
            server.stop()
            self._let_go.set()
            self._let_go = threading.Event()

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

    def linger(self, seconds: float) -> None:
        """Let so much time pass, or less if the proxy goes down or is cleared; for the server."""
        with self._lock:
            self.hanging += 1
            let_go = self._let_go
        let_go.wait(seconds)
        with self._lock:
            self.hanging -= 1

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


@dataclass(frozen=True, slots=True)
class _Answer:
    """What is said to the client; with ``stop``, no more than so many bytes of the body."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    stop: int | None = None


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
        if "Transfer-Encoding" in self.headers:
            self.close_connection = True
            self.send_error(http.HTTPStatus.LENGTH_REQUIRED)
            return
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        fault = proxy.choose(self.command, self.path)
        answer = self._answer(fault, body)
        whole = answer is not None and answer.stop is None
        proxy.note(
            Request(
                self.command,
                self.path,
                fault.kind if fault else "",
                answer.status if answer and whole else 0,
                body if proxy.keep_bodies else b"",
                came,
            )
        )
        self.close_connection = self.close_connection or not whole
        if answer:
            self._send(answer)

    def __getattr__(self, name: str) -> Callable[[], None]:
        """Whatever the method, it is handled alike."""
        if name.startswith("do_"):
            return self._handle
        raise AttributeError(name)

    def _answer(self, fault: Fault | None, body: bytes) -> _Answer | None:
        kind = fault.kind if fault else ""
        if fault and kind in {"answer", "garbage"}:
            return _Answer(fault.status, fault.headers, fault.body)
        if fault and kind in {"hang", "slow"}:
            self.server.proxy.linger(fault.seconds)
        if kind == "hang":
            return None
        try:
            answer = self._ask(body)
        except (OSError, http.client.HTTPException):
            return None  # the service is away: as if we were
        if kind == "forget":
            return None
        return replace(answer, stop=len(answer.body) // 2) if kind == "cut" else answer

    def _ask(self, body: bytes) -> _Answer:
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
            return _Answer(answer.status, dict(answer.getheaders()), said)
        raise ConnectionError

    def _send(self, answer: _Answer) -> None:
        if answer.stop is not None and not answer.body:
            self.wfile.write(b"HTTP/1.1 2")
            self.wfile.flush()
            return
        self.send_response(answer.status)
        for name, text in answer.headers.items():
            if name.lower() not in _HOP:
                self.send_header(name, text)
        if answer.status != http.HTTPStatus.NO_CONTENT:
            self.send_header("Content-Length", str(len(answer.body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answer.body[: answer.stop])
        self.wfile.flush()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class names it so
        """Say nothing."""
