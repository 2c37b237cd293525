"""An authenticated session with an OpenStack cloud, and its failures in words.

The cloud is one of ``clouds.yaml`` or what the ``OS_*`` variables describe, read by openstacksdk
as every OpenStack client reads them; tokens are renewed by keystoneauth.  What goes wrong comes
out as one of four errors, by what a caller would do about it: mend the configuration
(:class:`~mlops.errors.CloudConfigError`), the credentials or the role
(:class:`~mlops.errors.AuthorisationError`), wait (:class:`~mlops.errors.CloudUnavailableError`), or
not ask again (:class:`~mlops.errors.RequestRefusedError`).
"""

from __future__ import annotations

import contextlib
import email.utils
import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from mlops.errors import (
    AuthorisationError,
    CloudConfigError,
    CloudError,
    CloudUnavailableError,
    MissingExtraError,
    RequestRefusedError,
)

if TYPE_CHECKING:
    from keystoneauth1.session import Session
    from openstack.config.cloud_region import CloudRegion

__all__ = ["Answer", "Cloud", "connect"]

CONNECT_SECONDS: Final = 10.0
READ_SECONDS: Final = 30.0
"""Between two bytes of an answer; a service that is silent for longer counts as not answering."""

EXTRA: Final = "monasca"
_LONGEST_WAIT: Final = 600.0
"""Seconds: a Retry-After beyond this is taken for this."""
_SHOWN: Final = 300
_OK: Final = range(200, 300)
_REFUSALS: Final = frozenset({400, 404, 409, 413, 422})
_LOGINS: Final = frozenset({401, 403})


@dataclass(frozen=True, slots=True)
class Answer:
    """A service's answer that went well.

    Attributes:
        status: 200 to 299.
        body: its bytes.
        date: the service's own clock, seconds since the epoch; ``None`` where it did not say.
    """

    status: int
    body: bytes
    date: float | None

    def json(self) -> Any:
        """The content.

        Raises:
            CloudUnavailableError: it is no JSON, as when a proxy on the way answered instead.
        """
        try:
            return json.loads(self.body)
        except ValueError:
            raise CloudUnavailableError(f"The service answered {self.status} with something else than JSON") from None


class Cloud:
    """A cloud that requests can be sent to; make one with :func:`connect`.

    Nothing is asked before the first call; a token is fetched when it is needed, and again when it
    has expired.

    Attributes:
        name: what messages call it.
    """

    def __init__(self, session: Session, region: CloudRegion, name: str) -> None:
        self.name = name
        self._session = session
        self._region = region

    def __repr__(self) -> str:
        return f"<mlops.clouds.Cloud {self.name}>"

    @property
    def project_id(self) -> str:
        """The project that the credentials are for.

        Raises:
            CloudError: Keystone could not be asked, or the credentials are for no project.
        """
        with self._in_words("Keystone"):
            project = self._session.get_project_id()
        if not project:
            raise CloudConfigError(
                f"The credentials of {self.name} are for no project",
                remedy="Name one in clouds.yaml (project_name), or use an application credential.",
            )
        return str(project)

    @property
    def region_name(self) -> str:
        """The region; empty where the cloud has but one and the configuration names none."""
        return str(self._region.get_region_name() or "")

    def roles(self) -> list[str]:
        """The roles that the token in hand grants; empty where it cannot be known."""
        with contextlib.suppress(Exception):
            return sorted(self._session.auth.get_access(self._session).role_names)  # type: ignore[union-attr]
        return []

    def endpoint(self, service_type: str) -> str:
        """The URL of a service, from the configuration or else from Keystone's catalogue.

        Raises:
            CloudError: there is none, or Keystone could not be asked.
        """
        override = self._region.get_endpoint(service_type)
        if override:
            return str(override).rstrip("/")
        region = self._region.get_region_name(service_type)
        interface = self._region.get_interface(service_type) or "public"
        from keystoneauth1.exceptions import EndpointNotFound

        url = None
        with self._in_words("Keystone"), contextlib.suppress(EndpointNotFound):
            url = self._session.get_endpoint(
                service_type=service_type, region_name=region, interface=interface, skip_discovery=True
            )
        if not url:
            where = f", region {region}" if region else ""
            raise CloudConfigError(
                f"The catalogue of {self.name} has no service of type {service_type!r} ({interface} interface{where})",
                remedy="Ask with: openstack catalog list. If it has one elsewhere, set region_name, interface or "
                f"{service_type}_endpoint_override in clouds.yaml.",
            )
        return str(url).rstrip("/")

    def request(
        self,
        method: str,
        url: str,
        *,
        content: bytes | None = None,
        params: Mapping[str, Any] | None = None,
        read_seconds: float = READ_SECONDS,
    ) -> Answer:
        """Send a request with a valid token; an expired one is renewed and the request sent again.

        Args:
            method: GET, POST, PUT, PATCH or DELETE.
            url: where to.
            content: JSON, encoded.
            params: of the query.
            read_seconds: how long the service may be silent.

        Raises:
            AuthorisationError: the credentials or the role are refused, with a fresh token.
            CloudUnavailableError: it cannot be reached or cannot now.
            RequestRefusedError: it will not take this request.
            CloudError: its answer is none that such a service gives.
        """
        headers = {"Accept": "application/json", **({"Content-Type": "application/json"} if content else {})}
        with self._in_words(url):
            response = self._session.request(
                url,
                method,
                data=content,
                params=params,
                headers=headers,
                raise_exc=False,
                authenticated=True,
                log=False,
                timeout=(CONNECT_SECONDS, read_seconds),
            )
        status = response.status_code
        if status in _OK:
            return Answer(status, response.content, _moment(response.headers.get("Date")))
        raise self._refusal(method, url, status, _detail(response.content), response.headers)

    def _refusal(self, method: str, url: str, status: int, detail: str, headers: Mapping[str, str]) -> CloudError:
        what = f"{method} {url} was answered with {status}" + (f": {detail}" if detail else "")
        if status in _LOGINS:
            roles = self.roles()
            granted = f"It grants these roles: {', '.join(roles)}. " if roles else ""
            return AuthorisationError(
                f"{what}. The token is fresh, so this is a matter of roles",
                remedy=f"{granted}Ask the cloud's operator for the role that its Monasca wants (often monasca-user; "
                "member on some clouds).",
            )
        if status in _REFUSALS:
            return RequestRefusedError(what, status=status, detail=detail)
        return CloudUnavailableError(what, retry_after=_wait(headers.get("Retry-After")))

    @contextlib.contextmanager
    def _in_words(self, whom: str) -> Iterator[None]:
        """Turn what keystoneauth raises into our own errors."""
        from keystoneauth1 import exceptions as ka

        try:
            yield
        except ka.Unauthorized as error:
            raise AuthorisationError(
                f"Keystone refuses the credentials of {self.name}: {_one_line(error)}",
                remedy="They are wrong, revoked or expired; put a new application credential into clouds.yaml.",
            ) from error
        except (ka.MissingRequiredOptions, ka.NoMatchingPlugin, ka.MissingAuthPlugin) as error:
            raise _unusable(self.name, error) from error
        except ka.SSLError as error:
            raise CloudUnavailableError(
                f"TLS with {self.name} failed: {_one_line(error)}",
                remedy="Name the cloud's CA with cacert in clouds.yaml (OS_CACERT), and check this machine's clock.",
            ) from error
        except ka.ConnectionError as error:
            raise CloudUnavailableError(f"{whom} of {self.name} cannot be reached: {_one_line(error)}") from error
        except ka.HttpError as error:
            remedy = "Check auth_url in clouds.yaml (OS_AUTH_URL)." if error.http_status in _REFUSALS else ""
            after = _wait((getattr(error.response, "headers", None) or {}).get("Retry-After"))
            what = f"Keystone of {self.name} answered with {error.http_status}: {_one_line(error)}"
            raise CloudUnavailableError(what, remedy=remedy, retry_after=after) from error
        except (ka.DiscoveryFailure, ka.InvalidResponse) as error:
            what = f"What answers at {self.name}'s auth_url is no Keystone, or not now: {_one_line(error)}"
            raise CloudUnavailableError(what, remedy="Check auth_url in clouds.yaml (OS_AUTH_URL).") from error
        except ka.ClientException as error:
            raise CloudUnavailableError(f"{self.name}: {type(error).__name__}: {_one_line(error)}") from error


def connect(name: str = "") -> Cloud:
    """The cloud of that name in ``clouds.yaml``; without a name the one that OS_CLOUD or the OS_* variables mean.

    Raises:
        CloudConfigError: there is none, or what is said of it is incomplete.
        MissingExtraError: openstacksdk is not installed.
    """
    try:
        from keystoneauth1 import exceptions as ka
        from openstack import exceptions
        from openstack.config import OpenStackConfig
    except ImportError as error:
        raise MissingExtraError(error.name or "openstack", EXTRA) from error
    label = f"the cloud {name!r}" if name else "the cloud of OS_CLOUD or OS_*"
    try:
        config = OpenStackConfig(app_name="mlops")
        region = config.get_one(cloud=name or None, api_timeout=READ_SECONDS)
        session = region.get_session()
    except exceptions.ConfigException as error:
        raise _unknown(name, label, error) from error
    except (ka.ClientException, TypeError, ValueError) as error:
        raise _unusable(label, error) from error
    except Exception as error:
        if type(error).__module__.partition(".")[0] != "yaml":
            raise
        raise CloudConfigError(f"clouds.yaml cannot be read: {_one_line(error)}", remedy="Mend it.") from error
    return Cloud(session, region, label if not name else f"cloud {name!r}")


def _unknown(name: str, label: str, error: Exception) -> CloudConfigError:
    if name:
        return CloudConfigError(
            f"There is no usable cloud {name!r}: {_one_line(error)}",
            remedy="Name one of clouds.yaml, which is looked for here, in ~/.config/openstack, in /etc/openstack and "
            "where OS_CLIENT_CONFIG_FILE says.",
        )
    return _unusable(label, error)


def _unusable(label: str, error: Exception) -> CloudConfigError:
    return CloudConfigError(
        f"What is known of {label} is not enough to log in: {_one_line(error)}",
        remedy="Name a cloud of clouds.yaml (monasca://CLOUD or OS_CLOUD), or set OS_AUTH_URL and the other OS_* "
        "variables.",
    )


def _one_line(error: object) -> str:
    text = " ".join(str(error).split())
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


def _detail(body: bytes) -> str:
    """What a service says about its refusal: its JSON's title and description, or its text."""
    try:
        content = json.loads(body)
    except ValueError:
        content = body.decode("utf-8", "replace")
    while isinstance(content, dict) and len(content) == 1 and isinstance(next(iter(content.values())), dict):
        content = next(iter(content.values()))
    if isinstance(content, dict):
        parts = [str(content[key]) for key in ("title", "description", "message") if content.get(key)]
        content = ": ".join(dict.fromkeys(parts)) or json.dumps(content)
    return _one_line(content)


def _wait(text: str | None) -> float | None:
    """Retry-After in seconds: a number, or a date as RFC 9110 allows; ``None`` if it is neither."""
    if not text:
        return None
    try:
        seconds = float(text)
    except ValueError:
        moment = _moment(text)
        if moment is None:
            return None
        seconds = moment - time.time()
    return min(max(seconds, 0.0), _LONGEST_WAIT) if seconds == seconds else None  # noqa: PLR0124 - nan


def _moment(text: str | None) -> float | None:
    try:
        return email.utils.parsedate_to_datetime(text or "").timestamp()
    except (TypeError, ValueError, OverflowError):
        return None
