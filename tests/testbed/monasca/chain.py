"""The whole chain: see the package."""

from __future__ import annotations

import contextlib
import json
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from http import HTTPStatus
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from tests.testbed.agent import Agent
from tests.testbed.debian import unpacked
from tests.testbed.environments import TestbedError, environment, find_python
from tests.testbed.faults import FaultProxy
from tests.testbed.monasca import config
from tests.testbed.monasca.broker import Broker
from tests.testbed.monasca.keystone import PROJECT, SECRET, Keystone, write_clouds
from tests.testbed.monasca.measurements import measurements
from tests.testbed.monasca.programs import API, PERSISTER, SCHEMA
from tests.testbed.processes import Process, free_port

__all__ = ["Monasca"]

PYTHON: Final = "3.10"
"""monasca-api 11.0.0 and monasca-persister 9.0.0 run on no newer one."""
_TOKENS: Final = 5
"""Tokens with which a call is tried: where a token lives for seconds, even a fresh one is too old on a busy machine."""
STORED_SECONDS: Final = 120.0


class Monasca:
    """A running Monasca; a context manager.

    Args:
        folder: where its files go; need not exist.
        agent_seconds: between two flushes of the agent.
        token_seconds: how long Keystone's tokens are good for.
        agent: whether a monasca-agent runs too.
        say: told what is being done, where that takes more than a moment.

    Attributes:
        cloud: the cloud's name in :attr:`clouds_file`.
        clouds_file: a clouds.yaml with that cloud and others (see :mod:`.keystone`).
        faults: the proxy before the API, to which Keystone's catalogue points.
        keystone, broker, influxdb, api, persister: the processes; each can be killed and started again.
        agent: the monasca-agent, or ``None``.
        project_id: of the project that all but one of the users are in.
        database: the file of the API's SQL database.
    """

    cloud = "testbed"

    def __init__(
        self,
        folder: Path,
        *,
        agent_seconds: int = 1,
        token_seconds: int = 3600,
        agent: bool = True,
        say: Callable[[str], None] = print,
    ) -> None:
        self.folder = folder
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._say = say
        self._home = environment("monasca-api", python=find_python(PYTHON), say=say)
        self._ports = config.Ports(api=free_port(), influxdb=free_port(), influxdb_rpc=free_port())
        self.faults = FaultProxy(self._ports.api)
        self._keystone = Keystone(folder / "keystone", f"{self.faults.url}/v2.0", token_seconds=token_seconds, say=say)
        self.project_id = self._keystone.project_id
        self.keystone_url = self._keystone.url
        self.keystone = self._keystone.process
        self.clouds_file = folder / "clouds.yaml"
        write_clouds(self.clouds_file, self._keystone.clouds())
        self.database = folder / "monasca.db"
        self.broker = Broker(self._home, folder)
        self.influxdb = self._influxdb()
        self.api = self._api()
        self.persister = self._persister()
        self.agent = self._agent(agent_seconds) if agent else None
        self._tokens: dict[str, str] = {}
        self._hurried = 0.0

    # -- life -------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start everything, what does not need another side by side; say how long it took."""
        began = time.monotonic()
        try:
            for process in (self.keystone, self.influxdb, self.broker):
                process.launch()
            self._schema()
            self.influxdb.wait()
            self.broker.wait()
            self._configure()
            self.api.launch()
            self.persister.start()
            self.keystone.wait()
            if self.agent:
                self.agent.start()
            self.api.wait()
        except BaseException as error:
            self.stop()
            if isinstance(error, TestbedError):
                raise TestbedError(f"{error}\n{self.last_words()}") from None
            raise
        self._say(f"testbed: Monasca is ready ({time.monotonic() - began:.1f} s)")

    def stop(self) -> None:
        """Stop everything, side by side; what has not been started too."""
        parts = [self.broker, self.influxdb, self.keystone, self.api, self.persister]
        stops = [self.faults.close, *(part.stop for part in parts), *([self.agent.stop] if self.agent else [])]
        with ThreadPoolExecutor(len(stops)) as pool:
            for done in [pool.submit(stop) for stop in stops]:
                done.result()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def last_words(self) -> str:
        """The ends of all logs."""
        parts = [self.keystone, self.api, self.persister, self.broker, self.influxdb]
        return "\n".join([*(part.last_words() for part in parts), *([self.agent.last_words()] if self.agent else [])])

    # -- how to use it ----------------------------------------------------------------------------

    @property
    def api_url(self) -> str:
        """The API, through the proxy, version included."""
        return f"{self.faults.url}/v2.0"

    @property
    def direct_url(self) -> str:
        """The API itself, past the proxy."""
        return f"http://127.0.0.1:{self._ports.api}/v2.0"

    @property
    def statsd_url(self) -> str:
        """A sink's URL that leads to the agent."""
        if self.agent is None:
            raise TestbedError("This Monasca was made without an agent")
        return self.agent.url

    @property
    def url(self) -> str:
        """A sink's URL that leads to the API."""
        return f"monasca://{self.cloud}"

    def environ(self, cloud: str = "testbed") -> dict[str, str]:
        """The variables that make a cloud of its clouds.yaml the one that is meant."""
        return {"OS_CLIENT_CONFIG_FILE": str(self.clouds_file), "OS_CLOUD": cloud}

    def token(self, user: str = "mini-mon", *, fresh: bool = False) -> str:
        """A token of a user; the one that was given before, unless a fresh one is asked for."""
        if fresh or user not in self._tokens:
            self._tokens[user] = self._keystone.token(user)
        return self._tokens[user]

    def call(
        self,
        method: str,
        path: str,
        content: object = None,
        *,
        user: str = "mini-mon",
        timeout: float = 300.0,
        **query: object,
    ) -> Any:
        """Ask the API itself, past the proxy and past our own client.

        Raises:
            TestbedError: it answered with an error.
            OSError: it did not answer.
        """
        url = f"{self.direct_url}{path}" + (f"?{urllib.parse.urlencode(query)}" if query else "")
        body = None if content is None else json.dumps(content).encode()
        for attempt in range(_TOKENS):
            fresh, last = attempt > 0, attempt == _TOKENS - 1
            headers = {"X-Auth-Token": self.token(user, fresh=fresh), "Content-Type": "application/json"}
            request = urllib.request.Request(url, body, headers, method=method)  # noqa: S310 - our own server
            try:
                with urllib.request.urlopen(request, timeout=timeout) as answer:  # noqa: S310 - our own server
                    said = answer.read()
            except urllib.error.HTTPError as error:
                reason = error.read()[:500]
                if error.code == HTTPStatus.UNAUTHORIZED and b"Forbidden" not in reason and not last:
                    continue
                raise TestbedError(f"{method} {url}: {error.code} {reason!r}") from None
            return json.loads(said) if said else None
        raise AssertionError

    def measurements(
        self, name: str, dimensions: Mapping[str, str] | None = None, *, user: str = "mini-mon"
    ) -> Iterator[tuple[dict[str, str], list[list[Any]]]]:
        """The measurements of each series of that name with these dimensions, all of them, once.

        Each row is ``[time, value, value_meta]``, the time as ISO 8601 text.  A series may come in several
        parts, in the order of time.  See :func:`tests.testbed.monasca.measurements.measurements` for how.
        """

        def ask(**query: Any) -> Any:
            return self.call("GET", "/metrics/measurements", user=user, **query)

        return measurements(ask, name, dimensions or {})

    def influx(self, query: str) -> list[dict[str, Any]]:
        """The series that a query of InfluxDB's own gives: past Monasca altogether."""
        asked = urllib.parse.urlencode({"db": config.DATABASE, "q": query, "epoch": "ms"})
        with urllib.request.urlopen(f"http://127.0.0.1:{self._ports.influxdb}/query?{asked}", timeout=300) as answer:
            content = json.load(answer)["results"][0]
        if "error" in content:
            raise TestbedError(f"{query}: {content['error']}")
        return list(content.get("series", []))

    def stored(self, run_id: str) -> int:
        """How many points of a run are in the database, the one about the run itself left out."""
        found = self.influx(f"select count(value) from /.*/ where run_id='{run_id}'")  # noqa: S608 - a test's own
        return sum(int(series["values"][0][1]) for series in found if series["name"] != "mlops.run")

    def wait_stored(self, run_id: str, count: int, seconds: float = STORED_SECONDS) -> int:
        """Wait until so many points of a run are in the database, or the time is over; how many are."""
        deadline = time.monotonic() + seconds
        while (found := self.stored(run_id)) < count and time.monotonic() < deadline:
            self.hurry()
            time.sleep(0.2)
        return found

    def hurry(self) -> None:
        """Have the persister write what it holds; at most once a second, as often as one likes.

        It looks at the clock only when a message has come, or none for 5 s: so it is sent one, from a project
        that nobody else has.  Nothing is done while a part that this needs is away.
        """
        if (now := time.monotonic()) - self._hurried >= 1.0:
            self._hurried = now
            tick = {"name": "testbed.tick", "dimensions": {}, "timestamp": time.time() * 1000, "value": 1.0}
            with contextlib.suppress(OSError, TestbedError):
                self.call("POST", "/metrics", tick, user="ticker", timeout=5.0)

    def restart_broker(self) -> None:
        """Kill the broker with all that it holds, start another, and the API and the persister with its address."""
        for part in (self.broker, self.api, self.persister):
            part.kill()
        self.broker.start()
        self._configure()
        self.persister.start()
        self.api.start()

    # -- the parts --------------------------------------------------------------------------------

    def _process(self, name: str, command: list[str | Path], ready: Callable[[], bool]) -> Process:
        environ = {**config.environ(), "TESTBED_CONFIG": str(self.folder)}
        return Process(name, command, self.folder / f"{name}.log", ready, environ, grace=2.0)

    def _influxdb(self) -> Process:
        program = unpacked("influxdb", say=self._say) / "usr" / "bin" / "influxd"
        file = self.folder / "influxdb.conf"
        file.write_text(config.influxdb(self.folder, self._ports), "utf-8")
        return self._process("influxdb", [program, "-config", file], self._influxdb_answers)

    def _influxdb_answers(self) -> bool:
        with contextlib.suppress(OSError):
            self.influx(f"create database {config.DATABASE}")
            return True
        return False

    def _api(self) -> Process:
        (self.folder / "api_app.py").write_text(API, "utf-8")
        (self.folder / "api-config.ini").write_text(config.PASTE, "utf-8")
        bind = f"127.0.0.1:{self._ports.api}"
        gunicorn: list[str | Path] = [self._home.program("gunicorn"), "--bind", bind, "--chdir", self.folder]
        # One thread each: threads of one worker share a Kafka client whose queue holds 1000 metrics, one POST's worth;
        # two POSTs at once are a 500. One worker: its persister needs the other core.
        gunicorn += ["--worker-class", "gthread", "--threads", "1", "--keep-alive", "60", "api_app:application"]
        return self._process("api", gunicorn, self._api_answers)

    def _api_answers(self) -> bool:
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{self._ports.api}/", timeout=5).close()
        except urllib.error.HTTPError:
            return True  # it asks for a token
        except OSError:
            return False
        return True

    def _persister(self) -> Process:
        file = self.folder / "persister.conf"
        command: list[str | Path] = [self._home.python, "-c", PERSISTER, file]
        return self._process("persister", command, lambda: True)

    def _agent(self, seconds: int) -> Agent:
        api = {
            "keystone_url": self.keystone_url,
            "username": "monasca-agent",
            "password": SECRET,
            "project_name": PROJECT,
        }
        return Agent(self.folder / "agent", interval=seconds, api=api, say=self._say)

    def _configure(self) -> None:
        """What can be written only when the broker's port is known, which it chooses itself."""
        address = self.broker.address
        for name, text in (
            ("monasca-api.conf", config.api(self._ports, address, self.keystone_url, SECRET, self.database)),
            ("persister.conf", config.persister(self._ports, address)),
        ):
            file = self.folder / name
            file.touch(mode=0o600)
            file.write_text(text, "utf-8")

    def _schema(self) -> None:
        command = [str(self._home.python), "-c", SCHEMA, str(self.database)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        if done.returncode:
            raise TestbedError(f"The API's database cannot be made:\n{(done.stdout + done.stderr)[-2000:]}")
