"""A server that lets in as Keystone does and then answers what a test has written down.

It is no Keystone and no monasca-api: it shows what ours make of an answer, not that anybody gives it.
"""

from __future__ import annotations

import json
import threading
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

__all__ = ["SECRET", "Reply", "ScriptedCloud"]

SECRET: Final = "hush-7c1e-hush"
"""The password in the clouds.yaml of a :class:`ScriptedCloud`; it must be seen nowhere else."""

_STAMP: Final = "%Y-%m-%dT%H:%M:%S.000000Z"


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer.

    Attributes:
        status: of it; 0 to cut the connection instead.
        body: its bytes.
        headers: besides those that every answer has.
        skew: seconds by which its ``Date`` is ahead; ``None`` for none at all.
    """

    status: int = 204
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    skew: float | None = 0.0


class ScriptedCloud:
    """The server; a context manager.

    Attributes:
        url: where it listens.
        replies: to the next requests of the API; without any it is ``usual``.
        usual: see above.
        logins: replies to the next logins; without any one is let in.
        requests: method, path with query, token and body of what the API was asked so far.
        tokens: how many were given out.
        endpoints: interface and region of each endpoint in the catalogue.
        revoked: tokens that the API takes no more.
    """

    def __init__(self) -> None:
        self.replies: deque[Reply] = deque()
        self.logins: deque[Reply] = deque()
        self.usual = Reply()
        self.requests: list[tuple[str, str, str, bytes]] = []
        self.tokens = 0
        self.token_seconds = 3600.0
        self.endpoints = [("public", "RegionOne")]
        self.revoked: set[str] = set()
        self.lock = threading.Lock()
        handler = type("Handler", (_Handler,), {"cloud": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        self.port = self._server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}"
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def clouds_file(self, folder: Path, **more: Any) -> Path:
        """A clouds.yaml that describes it as the cloud ``scripted``."""
        auth = {"auth_url": f"{self.url}/v3", "username": "u", "password": SECRET, "project_name": "p"}
        auth |= {"user_domain_name": "Default", "project_domain_name": "Default"}
        path = folder / "clouds.yaml"
        path.write_text(json.dumps({"clouds": {"scripted": {"auth": auth, "region_name": "RegionOne", **more}}}))
        return path

    def reply(self, *replies: Reply) -> None:
        """What the API answers to the next requests."""
        self.replies.extend(replies)

    def token(self) -> dict[str, Any]:
        """The body of a new token."""
        now = datetime.now(UTC)
        domain = {"id": "default", "name": "Default"}
        endpoints = [
            {"id": region + interface, "interface": interface, "region": region, "region_id": region, "url": self.url}
            for interface, region in self.endpoints
        ]
        return {
            "methods": ["password"],
            "issued_at": now.strftime(_STAMP),
            "expires_at": (now + timedelta(seconds=self.token_seconds)).strftime(_STAMP),
            "audit_ids": ["a"],
            "is_domain": False,
            "user": {"id": "u1", "name": "u", "domain": domain},
            "project": {"id": "p1", "name": "p", "domain": domain},
            "roles": [{"id": "r1", "name": "visitor"}],
            "catalog": [{"id": "c1", "type": "monitoring", "name": "monasca", "endpoints": endpoints}],
        }

    def close(self) -> None:
        """Stop listening."""
        self._server.shutdown()
        self._server.server_close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = 1 << 16  # an answer in one piece, or its end waits for an acknowledgement
    cloud: ScriptedCloud

    def handle_one_request(self) -> None:
        """Have every method answered alike."""
        for method in ("GET", "POST", "PUT", "PATCH", "DELETE"):
            setattr(self, f"do_{method}", self._answer)
        super().handle_one_request()

    def _answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        cloud = self.cloud
        if self.path.startswith("/v3"):
            self._keystone()
            return
        token = str(self.headers.get("X-Auth-Token"))
        with cloud.lock:
            cloud.requests.append((self.command, self.path, token, body))
            if token in cloud.revoked:
                reply = Reply(401, b'{"title": "Unauthorized"}')
            else:
                reply = cloud.replies.popleft() if cloud.replies else cloud.usual
        self._send(reply)

    def _keystone(self) -> None:
        cloud = self.cloud
        if self.command == "GET":
            version = {"id": "v3.14", "status": "stable", "links": [{"rel": "self", "href": f"{cloud.url}/v3/"}]}
            self._send(Reply(200, json.dumps({"version": {**version, "media-types": []}}).encode()))
            return
        with cloud.lock:
            scripted = cloud.logins.popleft() if cloud.logins else None
            cloud.tokens += scripted is None
        if scripted is not None:
            self._send(scripted)
            return
        body = json.dumps({"token": cloud.token()}).encode()
        self._send(Reply(201, body, {"X-Subject-Token": f"token-{cloud.tokens}"}))

    def _send(self, reply: Reply) -> None:
        if not reply.status:
            self.close_connection = True
            self.connection.close()
            return
        self.send_response_only(reply.status)
        if reply.skew is not None:
            self.send_header("Date", formatdate(time.time() + reply.skew, usegmt=True))
        headers = {"Content-Type": "application/json", "Content-Length": str(len(reply.body)), **reply.headers}
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(reply.body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class names it so
        """Say nothing."""
