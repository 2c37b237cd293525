"""Sessions with a cloud: where it is described, what its refusals mean, what is never shown."""

from __future__ import annotations

import email.utils
import json
import logging
import os
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mlops.clouds import Cloud, connect
from mlops.errors import (
    AuthorisationError,
    CloudConfigError,
    CloudError,
    CloudUnavailableError,
    MlopsError,
    RequestRefusedError,
    SettingsError,
)
from mlops.monasca import Monasca
from tests.monasca.scripted import SECRET, Reply, ScriptedCloud
from tests.testbed.datagrams import closed_port
from tests.testbed.monasca import SECRET as REAL_SECRET
from tests.testbed.monasca import Monasca as RealMonasca


@pytest.fixture(autouse=True)
def no_cloud_of_this_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No clouds.yaml and no OS_* variable of the machine's reaches a test."""
    for name in list(os.environ):
        if name.startswith("OS_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("OS_CLIENT_CONFIG_FILE", str(tmp_path / "clouds.yaml"))


@pytest.fixture
def scripted(tmp_path: Path) -> Iterator[ScriptedCloud]:
    """A cloud that answers what it is told to."""
    with ScriptedCloud() as running:
        running.clouds_file(tmp_path)
        yield running


def _ask(cloud: Cloud, scripted: ScriptedCloud, **options: Any) -> Any:
    return cloud.request("POST", f"{scripted.url}/v2.0/metrics", content=b"[]", **options)


def _refused(scripted: ScriptedCloud, *replies: Reply) -> MlopsError:
    """The error that these answers lead to."""
    scripted.reply(*replies)
    with pytest.raises(CloudError) as caught:
        _ask(connect("scripted"), scripted)
    return caught.value


# -- where it is described -------------------------------------------------------------------------

AUTH = '{"auth_url": "http://127.0.0.1:1/v3", "username": "u"'


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "There is no cloud 'mine', because there is no clouds.yaml. It is looked for in the working folder"),
        ("clouds: {other: {}, another: {}}", "There is no cloud 'mine' in FILE. The clouds there: 'another', 'other'."),
        ("", "There is no cloud 'mine' in FILE. The clouds there: none."),
        ("- 1", "is not enough to log in: Configuration file FILE is empty or not a valid mapping"),
        ("clouds: {mine: }", "What is known of cloud 'mine' is not enough to log in"),
        ("clouds: {mine: {auth: {username: u}}}", "parameters which were not given: auth_url. Mend FILE."),
        ("clouds: {mine: {auth_type: odd, auth: {auth_url: x}}}", "The plugin odd could not be found. Mend FILE."),
        (f'clouds: {{mine: {{auth: {AUTH}, "password": *{SECRET}}}}}', "FILE cannot be read: it is no YAML at line 1"),
        (
            f'clouds: {{mine: {{auth: {AUTH}, "password": !{SECRET} x}}}}',
            "FILE cannot be read: it is no YAML at line 1",
        ),
        (f'clouds:\n  mine:\n   auth: "{SECRET}\n', "FILE cannot be read: it is no YAML at line"),
        (f'clouds: {{mine: {{auth: "{SECRET}"}}}}', "What is known of cloud 'mine' is not enough to log in"),
    ],
)
def test_a_cloud_that_cannot_be_found_or_understood(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, content: str | None, said: str
) -> None:
    """What is wrong and in which file, with what may be named instead; never what stands in the file."""
    if content is not None:
        (tmp_path / "clouds.yaml").write_text(content)
    with pytest.raises(CloudConfigError) as caught:
        connect("mine")
    assert said.replace("FILE", str(tmp_path / "clouds.yaml")) in str(caught.value)
    assert isinstance(caught.value, SettingsError)
    assert caught.value.exit_code == 2
    assert SECRET not in str(caught.value)
    assert not [record for record in caplog.records if record.name.startswith("mlops")]


def test_without_a_name_the_environment_tells(
    scripted: ScriptedCloud, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """OS_CLOUD names one of clouds.yaml; else OS_AUTH_URL and its like describe one; else it is said what to set."""
    with monkeypatch.context() as patched:
        patched.setenv("OS_CLIENT_CONFIG_FILE", str(tmp_path / "nowhere"))
        with pytest.raises(CloudConfigError, match=r"set OS_AUTH_URL and the other OS_\* variables"):
            connect()
    monkeypatch.setenv("OS_CLOUD", "scripted")
    cloud = connect()
    assert (cloud.project_id, cloud.source) == ("p1", str(tmp_path / "clouds.yaml"))
    monkeypatch.delenv("OS_CLOUD")
    for name, text in {
        "AUTH_URL": f"{scripted.url}/v3",
        "USERNAME": "u",
        "PASSWORD": SECRET,
        "PROJECT_NAME": "p",
        "USER_DOMAIN_NAME": "Default",
        "PROJECT_DOMAIN_NAME": "Default",
    }.items():
        monkeypatch.setenv(f"OS_{name}", text)
    cloud = connect()
    assert (cloud.project_id, cloud.source) == ("p1", "OS_* variables")


@pytest.mark.usefixtures("scripted")
def test_a_missing_password_is_told_when_it_is_needed(tmp_path: Path) -> None:
    """keystoneauth raises a bare Exception for it; ours is one of ours."""
    content = json.loads((tmp_path / "clouds.yaml").read_text())
    del content["clouds"]["scripted"]["auth"]["password"]
    (tmp_path / "clouds.yaml").write_text(json.dumps(content))
    with pytest.raises(CloudConfigError, match=r"password is a required attribute\. Mend .*clouds.yaml"):
        connect("scripted").project_id  # noqa: B018 - it asks Keystone


def test_a_ca_file_that_is_not_there(scripted: ScriptedCloud, tmp_path: Path) -> None:
    """requests raises OSError for it; ours says which setting names it."""
    path = scripted.clouds_file(tmp_path, cacert="/no/such.pem")
    path.write_text(path.read_text().replace("http:", "https:"))
    with pytest.raises(CloudConfigError, match=r"such\.pem\. Check cacert"):
        connect("scripted").project_id  # noqa: B018 - it asks Keystone


# -- which endpoint ---------------------------------------------------------------------------------


@pytest.mark.usefixtures("scripted")
def test_no_such_service_in_the_catalogue() -> None:
    """Nothing to wait for: it is said what to ask whom."""
    with pytest.raises(CloudConfigError) as caught:
        connect("scripted").endpoint("metering")
    assert str(caught.value) == (
        "The catalogue of cloud 'scripted' has no service of type 'metering' (public interface, region RegionOne). Ask "
        "its operator whether it has one. If it is only not in the catalogue, set metering_endpoint_override in "
        f"{connect('scripted').source}."
    )


def test_a_service_elsewhere_in_the_catalogue_is_told(scripted: ScriptedCloud) -> None:
    """Under another interface or region: those are named."""
    scripted.endpoints = [("internal", "RegionTwo")]
    with pytest.raises(CloudConfigError, match="It has one with interface internal, region_name RegionTwo: set that"):
        connect("scripted").endpoint("monitoring")


def test_an_override_comes_before_the_catalogue(scripted: ScriptedCloud, tmp_path: Path) -> None:
    """And Keystone is not asked for it."""
    scripted.clouds_file(tmp_path, monitoring_endpoint_override="http://elsewhere:8070/v2.0/")
    assert connect("scripted").endpoint("monitoring") == "http://elsewhere:8070/v2.0"
    assert scripted.tokens == 0


# -- what refusals mean -----------------------------------------------------------------------------


@pytest.mark.parametrize("status", [400, 404, 409, 413, 422])
def test_a_request_that_will_never_be_taken(scripted: ScriptedCloud, status: int) -> None:
    """It has its status and what the service said about it."""
    body = b'{"unprocessable_entity": {"code": 422, "message": "bad metric", "title": "Unprocessable"}}'
    error = _refused(scripted, Reply(status, body))
    assert isinstance(error, RequestRefusedError)
    assert (error.status, error.detail) == (status, "Unprocessable: bad metric")
    assert error.what == f"POST {scripted.url}/v2.0/metrics was answered with {status}: Unprocessable: bad metric"


@pytest.mark.parametrize("status", [408, 429, 500, 501, 502, 503, 504, 507, 520])
def test_a_service_that_cannot_now(scripted: ScriptedCloud, status: int) -> None:
    """Whatever else it answers, it is asked again later."""
    error = _refused(scripted, Reply(status, b"<html><body>Bad gateway</body></html>"))
    assert isinstance(error, CloudUnavailableError)
    assert error.retry_after is None
    assert f"was answered with {status}" in error.what


def _in_seconds(seconds: float) -> str:
    return email.utils.formatdate(time.time() + seconds, usegmt=True)


@pytest.mark.parametrize(
    ("text", "low", "high"),
    [
        ("7", 7, 7),
        ("2.5", 2.5, 2.5),
        ("-3", 0, 0),
        ("86400", 600, 600),
        (lambda: _in_seconds(60), 20, 61),
        (lambda: _in_seconds(-60), 0, 0),
        (lambda: _in_seconds(1e6), 600, 600),
    ],
    ids=["number", "fraction", "negative", "a day", "date", "past", "far"],
)
def test_retry_after_is_a_number_or_a_date(
    scripted: ScriptedCloud, text: str | Callable[[], str], low: float, high: float
) -> None:
    """Both forms of RFC 9110, never less than nothing nor more than ten minutes."""
    text = text if isinstance(text, str) else text()
    error = _refused(scripted, Reply(503, headers={"Retry-After": text}))
    assert isinstance(error, CloudUnavailableError)
    assert error.retry_after is not None
    assert low <= error.retry_after <= high


@pytest.mark.parametrize("text", ["soon", "nan", "", "Mon, 99 Foo 2026"])
def test_a_retry_after_that_is_neither_is_none(scripted: ScriptedCloud, text: str) -> None:
    """It is not guessed at."""
    error = _refused(scripted, Reply(429, headers={"Retry-After": text}))
    assert isinstance(error, CloudUnavailableError)
    assert error.retry_after is None


def test_an_expired_token_is_renewed(scripted: ScriptedCloud) -> None:
    """401 once leads to a new token and the same request again; nobody hears of it."""
    cloud = connect("scripted")
    assert _ask(cloud, scripted).status == 204
    scripted.revoked.add("token-1")
    assert _ask(cloud, scripted).status == 204
    assert [token for _, _, token, _ in scripted.requests] == ["token-1", "token-1", "token-2"]


def test_a_token_that_is_about_to_expire_is_renewed_before(scripted: ScriptedCloud) -> None:
    """No request is made with it."""
    scripted.token_seconds = 20.0
    cloud = connect("scripted")
    _ask(cloud, scripted)
    _ask(cloud, scripted)
    assert [token for _, _, token, _ in scripted.requests] == ["token-1", "token-2"]


def test_401_with_a_new_token_is_a_matter_of_roles(scripted: ScriptedCloud) -> None:
    """It is told which roles there are, and which to ask for."""
    error = _refused(scripted, Reply(401, b'{"title": "Forbidden"}'), Reply(401, b'{"title": "Forbidden"}'))
    assert isinstance(error, AuthorisationError)
    assert scripted.tokens == 2
    assert "answered with 401: Forbidden. The token is new, so this is a matter of roles" in error.what
    assert "It grants these roles: visitor. Ask the cloud's operator" in error.remedy
    assert error.exit_code == 4


def test_403_is_a_matter_of_roles_too(scripted: ScriptedCloud) -> None:
    """Without another token: the one at hand was understood."""
    error = _refused(scripted, Reply(403))
    assert isinstance(error, AuthorisationError)
    assert scripted.tokens == 1
    assert "The token is valid, so this is a matter of roles" in error.what


@pytest.mark.parametrize("body", [b"", b"<html>It works!</html>", b'{"elements": [', b"\xff\xfe"])
def test_an_answer_that_is_no_json(scripted: ScriptedCloud, body: bytes) -> None:
    """A proxy's page, nothing, half an answer: asked again later, and never taken for an answer."""
    scripted.reply(Reply(200, body))
    with pytest.raises(CloudUnavailableError, match="with something else than JSON"):
        Monasca(connect("scripted")).get("/metrics")


def test_a_connection_that_is_cut(scripted: ScriptedCloud) -> None:
    """The request's address is named; it is asked again later."""
    error = _refused(scripted, Reply(0))
    assert isinstance(error, CloudUnavailableError)
    assert error.what.startswith(f"{scripted.url}/v2.0/metrics of cloud 'scripted' cannot be reached: ")


@pytest.mark.usefixtures("scripted")
def test_a_service_that_is_not_there() -> None:
    """What the system says at the bottom of it, in its own words."""
    cloud, port = connect("scripted"), closed_port()
    with pytest.raises(CloudUnavailableError) as caught:
        cloud.request("GET", f"http://127.0.0.1:{port}/v2.0/metrics", params={"name": "x"})
    assert caught.value.what == (
        f"http://127.0.0.1:{port}/v2.0/metrics of cloud 'scripted' cannot be reached: Connection refused"
    )
    with pytest.raises(CloudUnavailableError, match=r"nosuch\.invalid/x of cloud 'scripted' cannot be reached: .* not"):
        cloud.request("GET", "http://nosuch.invalid/x")


@pytest.mark.usefixtures("scripted")
def test_a_service_that_says_nothing() -> None:
    """There is a deadline for each answer."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        with pytest.raises(CloudUnavailableError, match="timed out"):
            connect("scripted").request("GET", f"http://127.0.0.1:{port}/", read_seconds=0.05)


@pytest.mark.parametrize(
    ("reply", "kind", "said"),
    [
        (Reply(401, b'{"error": {"message": "no"}}'), AuthorisationError, "Keystone refuses the credentials of cloud"),
        (Reply(500), CloudUnavailableError, "Keystone of cloud 'scripted' answered with 500"),
        (Reply(503, headers={"Retry-After": "9"}), CloudUnavailableError, "answered with 503"),
        (Reply(404), CloudUnavailableError, "Check auth_url in "),
        (Reply(200, b"<html>"), CloudUnavailableError, ""),
        (Reply(0), CloudUnavailableError, "/v3/auth/tokens of cloud 'scripted' cannot be reached"),
    ],
    ids=["refused", "failed", "later", "elsewhere", "no keystone", "cut"],
)
def test_what_keystone_may_answer(scripted: ScriptedCloud, reply: Reply, kind: type[CloudError], said: str) -> None:
    """Each is told apart by what to do about it."""
    scripted.logins.append(reply)
    with pytest.raises(kind) as caught:
        connect("scripted").project_id  # noqa: B018 - it asks Keystone
    assert said in str(caught.value)
    if isinstance(caught.value, CloudUnavailableError) and reply.headers:
        assert caught.value.retry_after == 9


@pytest.mark.slow
@pytest.mark.usefixtures("scripted")
def test_a_certificate_that_nobody_vouches_for(tmp_path: Path) -> None:
    """It is told as what it is, with the setting that names a CA."""
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", key, "-out", certificate, "-days", "1",
         "-subj", "/CN=127.0.0.1"],
        check=True,
        capture_output=True,
    )  # fmt: skip
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    with ScriptedCloud() as secure:
        secure._server.socket = context.wrap_socket(secure._server.socket, server_side=True)
        with pytest.raises(CloudUnavailableError) as caught:
            connect("scripted").request("GET", f"https://127.0.0.1:{secure.port}/x")
    assert f"TLS with https://127.0.0.1:{secure.port}/x failed: " in caught.value.what
    assert "certificate verify failed" in caught.value.what
    assert "Name its CA with cacert in" in caught.value.remedy


def test_the_password_is_seen_nowhere(scripted: ScriptedCloud, caplog: pytest.LogCaptureFixture) -> None:
    """In no message, no repr and no log, also at the level of debugging and where the service repeats it."""
    with caplog.at_level(logging.DEBUG):
        cloud = connect("scripted")
        texts = [repr(cloud), repr(vars(cloud))]
        for reply in (Reply(401), Reply(500), Reply(0)):
            scripted.logins.append(reply)
            with pytest.raises(CloudError) as caught:
                cloud.project_id  # noqa: B018 - it asks Keystone
            texts += [str(caught.value), repr(caught.value), str(caught.value.__dict__)]
        _ask(cloud, scripted)
        texts.append(str(cloud.roles()))
    assert SECRET not in " ".join([*texts, caplog.text])
    assert "token-1" not in " ".join([*texts, caplog.text])


@pytest.mark.slow
def test_keystoneauth_does_not_speak_past_us(scripted: ScriptedCloud, tmp_path: Path) -> None:
    """What it warns of, which is told in an error anyway, is not printed where no logging is set up."""
    content = (tmp_path / "clouds.yaml").read_text().replace(f":{scripted.port}", f":{closed_port()}")
    (tmp_path / "clouds.yaml").write_text(content)
    code = (
        "from mlops.clouds import connect; from mlops.errors import CloudUnavailableError\n"
        "try: connect('scripted').project_id\nexcept CloudUnavailableError as error: print(error.what)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "cannot be reached: Connection refused" in done.stdout
    assert done.stderr == ""


# -- the real Keystone and the real API ---------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    ("cloud", "kind", "said"),
    [
        ("testbed-wrong", AuthorisationError, "They are wrong, revoked or expired"),
        ("testbed-expired", AuthorisationError, "They are wrong, revoked or expired"),
        ("testbed-noendpoint", CloudConfigError, "It has one with interface public, region_name RegionOne"),
        ("testbed-norole", AuthorisationError, "It grants these roles: visitor"),
        ("testbed-readonly", AuthorisationError, "It grants these roles: monasca-read-only-user"),
    ],
)
@pytest.mark.usefixtures("monasca")
def test_what_the_real_ones_refuse(cloud: str, kind: type[CloudError], said: str) -> None:
    """Wrong and expired credentials, no endpoint, no role: each says what to do, and shows no secret."""
    with pytest.raises(kind) as caught:
        Monasca.connect(cloud).post_metrics(b"[]")
    assert said in str(caught.value)
    assert REAL_SECRET not in str(caught.value)


@pytest.mark.slow
def test_a_real_token_that_expires_is_renewed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keystone's tokens live for seconds; requests go on far beyond, and none is refused."""
    with RealMonasca(tmp_path / "monasca", token_seconds=8, agent=False) as brief:
        for name, text in brief.environ().items():
            monkeypatch.setenv(name, text)
        client = Monasca.connect()
        tokens = set()
        until = time.monotonic() + 22
        while time.monotonic() < until:
            client.post_metrics(b"[]")
            tokens.add(client.cloud._session.get_token())
            time.sleep(0.2)
        assert len(tokens) > 2
