"""A stand-in for the cloud behind a monasca-agent: it records what it is sent.

This is no Keystone and no monasca-api: it knows the few answers that the agent's forwarder needs
to log in (version discovery, a token with a catalogue) and takes every POST to ``/v2.0/metrics``
without looking at it.  What it proves is what the real agent sends; nothing about what a real
API would say to it.
"""

from __future__ import annotations

import json
import threading
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Final, Self

from tests.testbed.processes import wait_for

__all__ = ["Measurement", "RecordingCloud"]

ARRIVAL_SECONDS: Final = 30.0


@dataclass(frozen=True, slots=True)
class Measurement:
    """One measurement as the agent's forwarder posted it.

    Attributes:
        name: the metric's name.
        dimensions: its dimensions.
        value: its value.
        timestamp: milliseconds since the epoch, the agent's.
        arrived: seconds since the epoch at which the POST came.
    """

    name: str
    dimensions: dict[str, str]
    value: float
    timestamp: float
    arrived: float


@dataclass(slots=True)
class _State:
    """What the server's threads share."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    measurements: list[Measurement] = field(default_factory=list)
    url: str = ""


class RecordingCloud:
    """The server; a context manager.

    Attributes:
        url: where it listens.
    """

    def __init__(self) -> None:
        self._state = _State()
        handler = type("Handler", (_Handler,), {"state": self._state})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        self.url = self._state.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        self._thread.start()

    def measurements(self, **dimensions: str) -> list[Measurement]:
        """What came so far, in order of arrival, of those that have these dimensions."""
        with self._state.lock:
            found = list(self._state.measurements)
        return [one for one in found if dimensions.items() <= one.dimensions.items()]

    def wait_for(self, *names: str, **dimensions: str) -> list[Measurement]:
        """Wait until each of these metrics has come with these dimensions.

        Returns:
            All that came with these dimensions.

        Raises:
            TestbedError: one of them has not come in time.
        """

        def missing() -> set[str]:
            return set(names) - {one.name for one in self.measurements(**dimensions)}

        wait_for(lambda: not missing(), ARRIVAL_SECONDS, f"all of {', '.join(names)} arrived with {dimensions}")
        return self.measurements(**dimensions)

    def close(self) -> None:
        """Stop listening."""
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class _Handler(BaseHTTPRequestHandler):
    """Answers one connection."""

    protocol_version = "HTTP/1.1"
    state: _State

    def do_GET(self) -> None:
        version = {
            "id": "v3.14",
            "status": "stable",
            "updated": "2020-04-07T00:00:00Z",
            "links": [{"rel": "self", "href": f"{self.state.url}/v3/"}],
            "media-types": [],
        }
        if self.path.rstrip("/") == "/v3":
            self._send(200, {"version": version})
        elif self.path == "/":
            self._send(300, {"versions": {"values": [version]}})
        else:
            self._send(404, {})

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.path == "/v3/auth/tokens":
            self._send(201, self._token(), {"X-Subject-Token": "a-token"})
        elif self.path.startswith("/v2.0/metrics"):
            with self.state.lock:
                self.state.measurements.extend(_measurements(json.loads(body)))
            self._send(204)
        else:
            self._send(404, {})

    def _token(self) -> dict[str, Any]:
        now = datetime.now(UTC)
        stamp = "%Y-%m-%dT%H:%M:%S.000000Z"
        domain = {"id": "default", "name": "Default"}
        endpoint = {
            "id": "e1",
            "interface": "public",
            "region": "RegionOne",
            "region_id": "RegionOne",
            "url": f"{self.state.url}/v2.0",
        }
        return {
            "token": {
                "methods": ["password"],
                "issued_at": now.strftime(stamp),
                "expires_at": (now + timedelta(hours=1)).strftime(stamp),
                "audit_ids": ["a"],
                "is_domain": False,
                "user": {"id": "u1", "name": "monasca-agent", "domain": domain},
                "project": {"id": "p1", "name": "monitoring", "domain": domain},
                "roles": [{"id": "r1", "name": "monasca-agent"}],
                "catalog": [{"id": "c1", "type": "monitoring", "name": "monasca", "endpoints": [endpoint]}],
            }
        }

    def _send(self, status: int, content: object = None, headers: dict[str, str] | None = None) -> None:
        body = b"" if content is None else json.dumps(content).encode()
        self.send_response(status)
        for name, value in {
            "Content-Type": "application/json",
            "Content-Length": str(len(body)),
            **(headers or {}),
        }.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class names it so
        """Say nothing."""


def _measurements(posted: Any) -> list[Measurement]:
    now = time.time()
    return [
        Measurement(one["name"], one["dimensions"], one["value"], one["timestamp"], now)
        for one in (posted if isinstance(posted, list) else [posted])
    ]
