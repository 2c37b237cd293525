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
import logging
import os
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

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
VARIABLES: Final = "OS_* variables"
_LONGEST_WAIT: Final = 600.0
"""Seconds: a Retry-After beyond this is taken for this."""
_SHOWN: Final = 300
_OK: Final = range(200, 300)
_REFUSALS: Final = frozenset({400, 404, 409, 413, 422})
_UNAUTHORISED: Final = 401
_LOGINS: Final = frozenset({_UNAUTHORISED, 403})


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
        source: where it is described: the path of a clouds.yaml, or :data:`VARIABLES`.
    """

    def __init__(self, session: Session, region: CloudRegion, name: str, source: str = "") -> None:
        self.name = name
        self.source = source
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
        with self._in_words():
            project = self._session.get_project_id()
        if not project:
            raise CloudConfigError(
                f"The credentials of {self.name} are for no project",
                remedy=f"Name one in {self._where()} (project_name), or use an application credential.",
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
        from keystoneauth1 import exceptions as ka

        override = self._region.get_endpoint(service_type)
        if override:
            return str(override).rstrip("/")
        region = self._region.get_region_name(service_type)
        interface = self._region.get_interface(service_type) or "public"
        with self._in_words():
            try:
                url = self._session.get_endpoint(
                    service_type=service_type, region_name=region, interface=interface, skip_discovery=True
                )
            except ka.CatalogException:
                url = None
        if url:
            return str(url).rstrip("/")
        asked = f"{interface} interface" + (f", region {region}" if region else "")
        elsewhere = self._elsewhere(service_type)
        raise CloudConfigError(
            f"The catalogue of {self.name} has no service of type {service_type!r} ({asked})",
            remedy=f"It has one with {elsewhere}: set that in {self._where()}."
            if elsewhere
            else "Ask its operator whether it has one. If it is only not in the catalogue, set "
            f"{service_type}_endpoint_override in {self._where()}.",
        )

    def _elsewhere(self, service_type: str) -> str:
        """Under which interface and region the catalogue has a service; empty where it has none."""
        with contextlib.suppress(Exception):
            catalogue = self._session.auth.get_access(self._session).service_catalog  # type: ignore[union-attr]
            found = [one for many in catalogue.get_endpoints(service_type=service_type).values() for one in many]
            return " or ".join(
                sorted({f"interface {one['interface']}, region_name {one.get('region_id')}" for one in found})
            )
        return ""

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
        with self._in_words():
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
                f"{what}. The token is {'new' if status == _UNAUTHORISED else 'valid'}, so this is a matter of roles",
                remedy=f"{granted}Ask the cloud's operator for the role that its Monasca wants (often monasca-user; "
                "member on some clouds).",
            )
        if status in _REFUSALS:
            return RequestRefusedError(what, status=status, detail=detail)
        return CloudUnavailableError(what, retry_after=_wait(headers.get("Retry-After")))

    def _where(self) -> str:
        return self.source or "clouds.yaml"

    @contextlib.contextmanager
    def _in_words(self) -> Iterator[None]:
        """Turn what keystoneauth raises into our own errors."""
        from keystoneauth1.exceptions import ClientException

        try:
            yield
        except ClientException as error:
            raise self._not_let_in(error) or self._not_reached(error) from error
        except OSError as error:  # requests looks for the CA's file before it connects
            raise CloudConfigError(
                f"A file that {self._where()} names for {self.name} cannot be used: {_one_line(error)}",
                remedy="Check cacert, cert and key there (OS_CACERT, OS_CERT, OS_KEY).",
            ) from error
        except Exception as error:
            if type(error) is Exception:  # keystoneauth's own way to say that a password is missing
                raise _unusable(self.name, self.source, error) from error
            raise

    def _not_let_in(self, error: Exception) -> CloudError | None:
        """What is wrong with the credentials, or with Keystone; ``None`` if it is neither."""
        from keystoneauth1 import exceptions as ka

        if isinstance(error, ka.Unauthorized):
            return AuthorisationError(
                f"Keystone refuses the credentials of {self.name}: {_one_line(error)}",
                remedy=f"They are wrong, revoked or expired; put a new application credential into {self._where()}.",
            )
        if isinstance(error, ka.MissingRequiredOptions | ka.NoMatchingPlugin | ka.MissingAuthPlugin):
            return _unusable(self.name, self.source, error)
        check = f"Check auth_url in {self._where()} (OS_AUTH_URL)."
        if isinstance(error, ka.HttpError):
            what = f"Keystone of {self.name} answered with {error.http_status}: {_one_line(error)}"
            after = _wait((getattr(error.response, "headers", None) or {}).get("Retry-After"))
            remedy = check if error.http_status in _REFUSALS else ""
            return CloudUnavailableError(what, remedy=remedy, retry_after=after)
        if isinstance(error, ka.DiscoveryFailure | ka.InvalidResponse):
            what = f"What answers at the auth_url of {self.name} is no Keystone, or not now: {_one_line(error)}"
            return CloudUnavailableError(what, remedy=check)
        return None

    def _not_reached(self, error: Exception) -> CloudError:
        """What is wrong with the way there."""
        from keystoneauth1 import exceptions as ka

        if isinstance(error, ka.SSLError):
            return CloudUnavailableError(
                f"TLS with {_url_of(error) or self.name} failed: {_cause(error)}",
                remedy=f"Name its CA with cacert in {self._where()} (OS_CACERT), and check this machine's clock.",
            )
        if isinstance(error, ka.ConnectionError):
            return CloudUnavailableError(
                f"{_url_of(error) or 'Keystone'} of {self.name} cannot be reached: {_cause(error)}",
                remedy="If it stays so, check that address and this machine's network.",
            )
        return CloudUnavailableError(f"{self.name}: {type(error).__name__}: {_one_line(error)}")


def connect(name: str = "") -> Cloud:
    """The cloud of that name in ``clouds.yaml``; without a name the one that OS_CLOUD or the OS_* variables mean.

    Raises:
        CloudConfigError: there is none, or what is said of it is incomplete.
        MissingExtraError: openstacksdk is not installed.
    """
    try:
        from openstack.config import OpenStackConfig
    except ImportError as error:
        raise MissingExtraError(error.name or "openstack", EXTRA) from error
    logging.getLogger("keystoneauth").addHandler(logging.NullHandler())  # else it speaks past us, on stderr
    label = _label(name)
    source, known = "", [name]
    try:
        with _heard("openstack.config") as skipped, warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Support for InfluxDB")  # which nobody has asked for
            config = OpenStackConfig(app_name="mlops")
            known = [one for one in config.get_cloud_names() if one != "defaults"]
            described = (name or os.environ.get("OS_CLOUD", config.envvar_key)) != config.envvar_key
            source = (config.config_filename or "") if described else VARIABLES
            region = config.get_one(cloud=name or None, api_timeout=READ_SECONDS)
            session = region.get_session()
    except Exception as error:  # the SDK raises whatever it likes, also a bare Exception
        if skipped and name not in known:
            raise _unreadable(*skipped[0]) from error
        if name and name not in known:
            raise _unknown(name, source, known) from error
        raise _unusable(label, source, error) from error
    return Cloud(session, region, label, source)


def _label(name: str) -> str:
    if name:
        return f"cloud {name!r}"
    meant = os.environ.get("OS_CLOUD")
    return f"the cloud of OS_CLOUD ({meant})" if meant else "the cloud of OS_CLOUD or OS_*"


@contextlib.contextmanager
def _heard(logger: str) -> Iterator[list[tuple[str, Exception]]]:
    """What the SDK logs of files that it passes over, which it tells nobody otherwise."""
    found: list[tuple[str, Exception]] = []

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if isinstance(record.args, tuple) and len(record.args) > 1 and isinstance(record.args[1], Exception):
                found.append((str(record.args[0]), record.args[1]))

    listener = Listener()
    logging.getLogger(logger).addHandler(listener)
    try:
        yield found
    finally:
        logging.getLogger(logger).removeHandler(listener)


def _unreadable(path: str, error: Exception) -> CloudConfigError:
    """Where the file is broken, without what stands there: that may be a password."""
    mark = getattr(error, "problem_mark", None)
    where = f" at line {mark.line + 1}, column {mark.column + 1}" if mark is not None else ""
    return CloudConfigError(f"{path} cannot be read: it is no YAML{where}", remedy="Mend it there.")


def _unknown(name: str, source: str, known: Sequence[str]) -> CloudConfigError:
    if not source:
        return CloudConfigError(
            f"There is no cloud {name!r}, because there is no clouds.yaml",
            remedy="It is looked for in the working folder, in ~/.config/openstack, in /etc/openstack and where "
            "OS_CLIENT_CONFIG_FILE says.",
        )
    names = ", ".join(repr(one) for one in sorted(known)) or "none"
    return CloudConfigError(f"There is no cloud {name!r} in {source}", remedy=f"The clouds there: {names}.")


def _unusable(label: str, source: str, error: Exception) -> CloudConfigError:
    return CloudConfigError(
        f"What is known of {label} is not enough to log in: {_one_line(error)}",
        remedy=f"Mend {source}."
        if source and source != VARIABLES
        else f"Name a cloud of clouds.yaml (monasca://CLOUD, OS_CLOUD), or set OS_AUTH_URL and the other {VARIABLES}.",
    )


def _chain(error: BaseException) -> Iterator[BaseException]:
    """An error and what led to it, the nearest first."""
    seen: BaseException | None = error
    while seen is not None:
        yield seen
        seen = seen.__cause__ or seen.__context__


def _cause(error: BaseException) -> str:
    """What the system said at the bottom of it, such as "Connection refused"; else the error's own words."""
    said = [one.strerror for one in _chain(error) if isinstance(one, OSError) and one.strerror]
    return said[-1] if said else _one_line(error)


def _url_of(error: BaseException) -> str:
    """What was asked for in vain, without its query."""
    for one in _chain(error):
        url = getattr(getattr(one, "request", None), "url", None)
        if url:
            parts = urlsplit(str(url))
            return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
    return ""


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
