"""A real Keystone with the users, roles and credentials that the tests need.

Making its database takes 20 to 30 s; that is done once, and kept in the cache beside the environments.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import os
import shutil
import sqlite3
import subprocess
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import yaml

from tests.testbed.environments import REQUIREMENTS, Environment, TestbedError, alone, cache_folder, environment
from tests.testbed.monasca.config import environ
from tests.testbed.monasca.programs import KEYSTONE, KEYSTONE_INIT
from tests.testbed.processes import Process, free_port

__all__ = ["PROJECT", "SECRET", "USERS", "Keystone"]

PROJECT: Final = "mini-mon"
SECRET: Final = "open-sesame"
"""Every user's password, and every application credential's secret."""
USERS: Final[Mapping[str, tuple[str, str]]] = {
    "mini-mon": (PROJECT, "monasca-user"),
    "monasca-agent": (PROJECT, "monasca-agent"),
    "reader": (PROJECT, "monasca-read-only-user"),
    "visitor": (PROJECT, "visitor"),
    "stranger": ("elsewhere", "monasca-user"),
    "ticker": ("clock", "monasca-user"),
}
"""The project and the role of each user."""

_CONFIG: Final = """\
[DEFAULT]
use_stderr = true
[database]
connection = sqlite:///{folder}/keystone.db
[token]
provider = fernet
expiration = {token_seconds}
[fernet_tokens]
key_repository = {folder}/fernet
[fernet_receipts]
key_repository = {folder}/fernet
[credential]
key_repository = {folder}/credential
[cache]
enabled = false
[identity]
password_hash_rounds = 4
"""
_ANYWHERE: Final = "http://127.0.0.1:1"
_WHOLE: Final = "whole.json"


class Keystone:
    """Keystone on a free port; its database is a copy of the one in the cache.

    Args:
        folder: where its files go.
        monitoring: the Monasca API's URL, for the catalogue.
        token_seconds: how long a token is good for.
        say: told what is being done, where that takes more than a moment.

    Attributes:
        url: where it listens, ``/v3`` included.
        process: the server.
        project_id: of the project :data:`PROJECT`.
    """

    def __init__(self, folder: Path, monitoring: str, *, token_seconds: int, say: Callable[[str], None]) -> None:
        home = environment("keystone", say=say)
        template = _template(home, say)
        shutil.copytree(template, folder)
        for key in (folder / "fernet").iterdir():  # a token of one Keystone is none to another
            key.write_bytes(base64.urlsafe_b64encode(os.urandom(32)))
        ids = json.loads((folder / _WHOLE).read_text("utf-8"))
        self.project_id: str = ids["project_id"]
        self._credentials: dict[str, str] = ids["credentials"]
        port = free_port()
        self.url = f"http://127.0.0.1:{port}/v3"
        _write_config(folder, token_seconds)
        with contextlib.closing(sqlite3.connect(folder / "keystone.db")) as database, database:
            database.execute("update endpoint set url=? where url=?", (monitoring, _ANYWHERE))
            database.execute("update endpoint set url=? where url like ?", (self.url, f"{_ANYWHERE}/%"))
        self.process = _server(home, folder, port)

    def token(self, user: str) -> str:
        """A fresh token of a user, for that user's project."""
        return _token(self.url, user, USERS[user][0])

    def clouds(self) -> dict[str, Any]:
        """What a clouds.yaml says of it: a cloud for every kind of user and of trouble."""

        def with_password(user: str, password: str = SECRET) -> dict[str, Any]:
            return {
                "auth": {
                    "auth_url": self.url,
                    "username": user,
                    "password": password,
                    "project_name": USERS[user][0],
                    "user_domain_name": "Default",
                    "project_domain_name": "Default",
                },
                "region_name": "RegionOne",
            }

        def with_credential(name: str) -> dict[str, Any]:
            return {
                "auth_type": "v3applicationcredential",
                "auth": {
                    "auth_url": self.url,
                    "application_credential_id": self._credentials[name],
                    "application_credential_secret": SECRET,
                },
                "region_name": "RegionOne",
            }

        return {
            "testbed": with_credential("good"),
            "testbed-password": with_password("mini-mon"),
            "testbed-readonly": with_password("reader"),
            "testbed-norole": with_password("visitor"),
            "testbed-stranger": with_password("stranger"),
            "testbed-wrong": with_password("mini-mon", "not-" + SECRET),
            "testbed-expired": with_credential("expired"),
            "testbed-noendpoint": {**with_credential("good"), "region_name": "RegionTwo"},
        }


def _template(home: Environment, say: Callable[[str], None]) -> Path:
    """The folder in the cache with a database, its keys and its users."""
    made_from = (REQUIREMENTS / "keystone.txt").read_bytes() + Path(__file__).read_bytes() + KEYSTONE_INIT.encode()
    target = cache_folder() / f"keystone-database-{hashlib.sha256(made_from).hexdigest()[:12]}"
    if not (target / _WHOLE).exists():
        with alone(target.with_suffix(".lock"), "Keystone's database", say):
            if not (target / _WHOLE).exists():
                say(f"testbed: making Keystone's database in {target}")
                shutil.rmtree(target, ignore_errors=True)
                target.mkdir(mode=0o700)
                _make(home, target)
    return target


def _make(home: Environment, folder: Path) -> None:
    port = free_port()
    url = f"http://127.0.0.1:{port}/v3"
    config = _write_config(folder, 3600)
    database = folder / "keystone.db"
    command = [str(home.python), "-c", KEYSTONE_INIT, str(config), f"{_ANYWHERE}/v3", SECRET, str(database)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    if done.returncode:
        raise TestbedError(f"Keystone's database cannot be made:\n{(done.stdout + done.stderr)[-2000:]}")
    with _server(home, folder, port):
        ids = _populate(url)
    with contextlib.closing(sqlite3.connect(database)) as connection:
        with connection:
            connection.execute("update application_credential set expires_at=1 where name='expired'")
        connection.execute("pragma wal_checkpoint(truncate)")
    (folder / "keystone.log").unlink()
    (folder / _WHOLE).write_text(json.dumps(ids), "utf-8")


def _populate(url: str) -> dict[str, Any]:
    admin = _token(url, "admin", "admin")

    def make(kind: str, **content: object) -> str:
        made = _call("POST", f"{url}/{kind}s", {kind: content}, admin)
        return str(made[kind]["id"])

    projects = {project: "" for project, _ in USERS.values()}
    projects = {name: make("project", name=name, domain_id="default") for name in projects}
    roles = {name: make("role", name=name) for name in {role for _, role in USERS.values()}}
    users = {}
    for name, (project, role) in USERS.items():
        users[name] = make("user", name=name, password=SECRET, domain_id="default")
        _call("PUT", f"{url}/projects/{projects[project]}/users/{users[name]}/roles/{roles[role]}", None, admin)
    service = make("service", type="monitoring", name="monasca")
    make("endpoint", service_id=service, interface="public", region_id="RegionOne", url=_ANYWHERE)
    own = _token(url, "mini-mon", PROJECT)
    credentials = {}
    for name, more in (("good", {}), ("expired", {"expires_at": "2999-01-01T00:00:00.000000"})):
        wanted = {"name": name, "secret": SECRET, **more}
        path = f"{url}/users/{users['mini-mon']}/application_credentials"
        made = _call("POST", path, {"application_credential": wanted}, own)
        credentials[name] = made["application_credential"]["id"]
    return {"project_id": projects[PROJECT], "credentials": credentials}


def _server(home: Environment, folder: Path, port: int) -> Process:
    (folder / "keystone_app.py").write_text(KEYSTONE, "utf-8")
    return Process(
        "keystone",
        [home.program("gunicorn"), "--bind", f"127.0.0.1:{port}", "--chdir", folder, "keystone_app:application"],
        folder / "keystone.log",
        lambda: _answers(f"http://127.0.0.1:{port}/v3"),
        {**environ(), "TESTBED_CONFIG": str(folder / "keystone.conf")},
    )


def _write_config(folder: Path, token_seconds: int) -> Path:
    config = folder / "keystone.conf"
    config.write_text(_CONFIG.format(folder=folder, token_seconds=token_seconds), "utf-8")
    config.chmod(0o600)
    return config


def _answers(url: str) -> bool:
    with contextlib.suppress(OSError):
        urllib.request.urlopen(url, timeout=5).close()  # noqa: S310 - our own server
        return True
    return False


def _token(url: str, user: str, project: str) -> str:
    domain = {"id": "default"}
    identity = {"methods": ["password"], "password": {"user": {"name": user, "password": SECRET, "domain": domain}}}
    content = {"auth": {"identity": identity, "scope": {"project": {"name": project, "domain": domain}}}}
    request = urllib.request.Request(  # noqa: S310 - our own server
        f"{url}/auth/tokens", json.dumps(content).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310 - our own server
        return str(answer.headers["X-Subject-Token"])


def _call(method: str, url: str, content: object, token: str) -> Any:
    request = urllib.request.Request(  # noqa: S310 - our own server
        url,
        None if content is None else json.dumps(content).encode(),
        {"Content-Type": "application/json", "X-Auth-Token": token},
        method=method,
    )
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310 - our own server
            said = answer.read()
    except urllib.error.HTTPError as error:
        raise TestbedError(f"{method} {url}: {error.code} {error.read()[:300]!r}") from None
    return json.loads(said) if said else None


def write_clouds(target: Path, clouds: Mapping[str, Any]) -> None:
    """Write a clouds.yaml that nobody else may read."""
    target.touch(mode=0o600)
    target.write_text(yaml.safe_dump({"clouds": dict(clouds)}), "utf-8")
