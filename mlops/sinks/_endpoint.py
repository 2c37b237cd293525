"""An HTTP server of this process that Prometheus scrapes; sinks that name the same address share it.

prometheus_client makes the pages.  Its own server is not used, since it asks the resolver for this host's name before
it listens, prints a traceback whenever a scraper hangs up, waits for ever for one that says nothing, and takes half a
second to close.
"""

from __future__ import annotations

import contextlib
import errno
import http.client
import logging
import os
import socket
import socketserver
import threading
from typing import Any, Final
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from prometheus_client import CollectorRegistry, make_wsgi_app
from prometheus_client.parser import text_string_to_metric_families

from mlops.errors import SinkError
from mlops.sinks._exposition import INFO, Table, Tables

__all__ = ["Endpoint", "address", "open_endpoint", "runs_shown_at"]

MAX_PORT: Final = 65535
_CLIENT_SECONDS: Final = 10.0
"""How long a scraper may say nothing."""
_ASK_SECONDS: Final = 2.0
_ASK_BYTES: Final = 1 << 22

_log = logging.getLogger("mlops")
_open: dict[tuple[str, int], Endpoint] = {}
_lock = threading.Lock()


def address(host: str, port: int) -> str:
    """A host and port as URLs write them; no host is all addresses of this machine."""
    return f"{f'[{host}]' if ':' in host else host}:{port}"


def open_endpoint(host: str, port: int, table: Table) -> Endpoint:
    """Show a table at an address, beside those that this process shows there already.

    Args:
        host: a name or address of this machine; empty for all that it has, IPv6 included.
        port: 0 for any that is free.
        table: what to show.

    Raises:
        SinkError: it cannot be: another process has the port, or it is not this machine's.
    """
    with _lock:
        endpoint = _open.get((host, port))
        if endpoint is None:
            endpoint = Endpoint(host, port)
            _open[host, endpoint.port] = endpoint
        endpoint.tables.add(table)
        return endpoint


class Endpoint:
    """Serves tables until the last of them has left; made by :func:`open_endpoint`.

    Attributes:
        host: as given.
        port: where it listens.
        tables: what it shows.
    """

    def __init__(self, host: str, port: int) -> None:
        self.tables = Tables()
        registry = CollectorRegistry(auto_describe=False)
        registry.register(self.tables)
        self._server = _listen(host, port)
        self._server.set_app(make_wsgi_app(registry))
        self.host = host
        self.port: int = self._server.server_port
        self._thread = threading.Thread(target=self._server.serve_forever, name="mlops-prometheus", daemon=True)
        self._thread.start()

    def leave(self, table: Table) -> None:
        """Show a table no longer; when it was the last one, the port is free once this returns."""
        with _lock:
            self.tables.remove(table)
            if len(self.tables):
                return
            del _open[self.host, self.port]
            with contextlib.suppress(OSError):  # wakes the thread; not every system lets one do that
                self._server.socket.shutdown(socket.SHUT_RDWR)
            self._server.shutdown()
            self._server.server_close()
        self._thread.join()

    def forget(self) -> None:
        """In a forked child, which has no thread to answer: let go of the port, or it would stay the child's."""
        self._server.socket.close()


def runs_shown_at(host: str, port: int) -> set[str] | None:
    """The ids of the runs that whoever listens there shows; ``None`` if it shows none or does not answer."""
    connection = http.client.HTTPConnection(host or "localhost", port, timeout=_ASK_SECONDS)
    try:
        connection.request("GET", "/metrics")
        text = connection.getresponse().read(_ASK_BYTES).decode()
        families = {family.name: family for family in text_string_to_metric_families(text)}
    except (OSError, http.client.HTTPException, ValueError):
        return None
    finally:
        connection.close()
    info = families.get(f"{INFO}_info")
    return {sample.labels.get("run_id", "") for sample in info.samples} if info else None


class _Handler(WSGIRequestHandler):
    timeout = _CLIENT_SECONDS

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the name that the base gives it
        _log.debug("%s %s", self.address_string(), format % args)


class _Server(socketserver.ThreadingMixIn, WSGIServer):
    """One thread a request.

    Args:
        family: of the address.
        place: host and port.
    """

    daemon_threads = True
    request_queue_size = 16

    def __init__(self, family: int, place: tuple[str, int]) -> None:
        self.address_family = family
        super().__init__(place, _Handler)

    def server_bind(self) -> None:
        """As the base does, without a look-up of this host's name."""
        if self.address_family == socket.AF_INET6 and self.server_address[0] == "::":
            self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])
        self.setup_environ()

    def handle_error(self, request: Any, client_address: Any) -> None:
        _log.debug("a scraper at %s was not answered", client_address, exc_info=True)


def _listen(host: str, port: int) -> _Server:
    if not 0 <= port <= MAX_PORT:
        raise SinkError(f"There is no port {port}", remedy=f"Ports end at {MAX_PORT}: prometheus://[HOST]:PORT.")
    try:
        if host:
            family, _, _, _, place = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
            return _Server(family, (str(place[0]), port))
        if socket.has_dualstack_ipv6():
            return _Server(socket.AF_INET6, ("::", port))
        return _Server(socket.AF_INET, ("0.0.0.0", port))  # noqa: S104 - who names no host means all addresses
    except OSError as error:
        raise _trouble(host, port, error) from error


def _trouble(host: str, port: int, error: OSError) -> SinkError:
    where = address(host, port)
    if error.errno == errno.EADDRINUSE:
        return SinkError(
            f"Port {port} is taken by another process",
            remedy=f"Name a port that is free, such as prometheus://{address(host, port + 1)}, or end that process.",
        )
    if error.errno == errno.EACCES:
        return SinkError(f"This user may not listen at port {port}", remedy="Name one above 1023.")
    return SinkError(
        f"Cannot listen at {where}: {error.strerror or error}",
        remedy="Name an address of this machine, or none for all of them: prometheus://:PORT.",
    )


def _forget_all() -> None:
    global _lock  # noqa: PLW0603 - another thread may have held it when the process was forked
    for endpoint in _open.values():
        endpoint.forget()
    _open.clear()
    _lock = threading.Lock()


os.register_at_fork(after_in_child=_forget_all)
