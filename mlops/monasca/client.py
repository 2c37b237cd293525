"""Requests to one cloud's Monasca API."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator, Mapping
from typing import Any, Final, Self
from urllib.parse import parse_qsl, urlsplit

from mlops.clouds import READ_SECONDS, Answer, Cloud, connect
from mlops.errors import CloudError, CloudUnavailableError, RequestRefusedError

__all__ = ["SERVICE_TYPE", "Monasca"]

SERVICE_TYPE: Final = "monitoring"
_VERSION: Final = "/v2.0"
_NOT_FOUND: Final = 404
_TAKEN: Final = 204
"""The one answer that means that metrics were taken; a 200 comes from something that is no Monasca API."""
_QUERY_SECONDS: Final = 120.0
"""How long a query may think before its first byte: a million points are read out of a database."""


class Monasca:
    """The Monasca API of a cloud.

    Nothing is asked before the first call.  All of them raise :class:`~mlops.errors.CloudError` and
    its kin as :meth:`mlops.clouds.Cloud.request` tells.

    Args:
        cloud: where it is.

    Attributes:
        cloud: as given.
        skew: seconds by which this machine's clock is ahead of the API's, as of the last answer;
            0 until there is one.
    """

    def __init__(self, cloud: Cloud) -> None:
        self.cloud = cloud
        self.skew = 0.0
        self._url = ""
        self._lock = threading.Lock()

    @classmethod
    def connect(cls, cloud: str = "") -> Self:
        """The Monasca of a cloud in ``clouds.yaml``, or of OS_CLOUD or the OS_* variables.

        Raises:
            CloudConfigError: there is no such cloud.
            MissingExtraError: openstacksdk is not installed.
        """
        return cls(connect(cloud))

    @property
    def url(self) -> str:
        """Where it is, version included."""
        with self._lock:
            if not self._url:
                url = self.cloud.endpoint(SERVICE_TYPE)
                self._url = url if _VERSION in url else f"{url}{_VERSION}"
            return self._url

    def destination(self) -> str:
        """What points are sent to, in words that no other machine or endpoint changes: project and region."""
        region = self.cloud.region_name
        return f"monasca {self.cloud.project_id}" + (f" {region}" if region else "")

    def post_metrics(self, body: bytes) -> None:
        """Send metrics: a JSON array of objects as the API takes them.

        It answers 204 once its broker's client has them.

        Raises:
            RequestRefusedError: one of them is refused, and with it all.
        """
        answer = self._request("POST", "/metrics", content=body)
        if answer.status != _TAKEN:
            raise CloudUnavailableError(
                f"POST {self.url}/metrics was answered with {answer.status}, where the Monasca API answers {_TAKEN}",
                remedy="Something else answers there, such as a proxy or a login page.",
            )

    def get(self, path: str, params: Mapping[str, Any] | None = None) -> Any:
        """What the API answers to a query: ``get("/metrics/names")``."""
        return self._request("GET", path, params=params, read_seconds=_QUERY_SECONDS).json()

    def pages(self, path: str, params: Mapping[str, Any] | None = None) -> Iterator[list[Any]]:
        """The elements of a listing, page by page, along the API's own links.

        Of a link only its ``offset`` is taken: all else in it is encoded once too often (seen on 11.0.0).
        """
        asked = dict(params or {})
        while True:
            content = self.get(path, asked)
            if not isinstance(content, dict) or not isinstance(content.get("elements"), list):
                raise CloudError(f"GET {path} of {self.cloud.name} gave no list of elements")
            yield content["elements"]
            further = [link.get("href", "") for link in content.get("links", []) if link.get("rel") == "next"]
            if not further or not content["elements"]:
                return
            asked.update(pair for pair in parse_qsl(urlsplit(further[0]).query) if pair[0] == "offset")

    def send(self, method: str, path: str, content: object = None) -> Any:
        """Send a request with a body: ``send("POST", "/alarm-definitions", {...})``; ``None`` for an empty answer."""
        body = None if content is None else json.dumps(content).encode()
        answer = self._request(method, path, content=body)
        return answer.json() if answer.body else None

    def _request(
        self,
        method: str,
        path: str,
        *,
        content: bytes | None = None,
        params: Mapping[str, Any] | None = None,
        read_seconds: float = READ_SECONDS,
    ) -> Answer:
        try:
            answer = self.cloud.request(
                method, self.url + path, content=content, params=params, read_seconds=read_seconds
            )
        except RequestRefusedError as error:
            if error.status == _NOT_FOUND and method == "POST":
                raise CloudError(
                    f"{error.what}: there is no Monasca API at {self.url}",
                    remedy="Check the endpoint of type monitoring in the catalogue.",
                ) from error
            raise
        if answer.date is not None:
            self.skew = time.time() - answer.date
        return answer
