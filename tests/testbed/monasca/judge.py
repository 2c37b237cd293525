"""Monasca's own verdict on points: what its API, its persister and InfluxDB make of them.

A helper in the API's environment has the real API's application, without its sockets, its Keystone and its
broker, and the real persister's code.  Each point is posted; what the API would have handed to the broker
goes to the persister's ``process_message``, and the lines that come out are written to a real InfluxDB as
the persister writes them.  Then everything is read back, from InfluxDB and from the API's listing.
Thousands of points a second are judged so.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Final, NamedTuple, Self

from tests.testbed.debian import unpacked
from tests.testbed.environments import TestbedError, environment, find_python
from tests.testbed.monasca import config
from tests.testbed.monasca.chain import PYTHON
from tests.testbed.processes import Process, free_port

__all__ = ["ChainJudge", "Judgement", "Stored"]

KAFKA_TAKES: Final = 1_000_000
"""Bytes of a message, with librdkafka's and Kafka's own settings."""

_CONFIG: Final = """\
[DEFAULT]
region = RegionOne
[database]
connection = sqlite://
[messaging]
driver = judge:Queue
[repositories]
metrics_driver = monasca_api.common.repositories.influxdb.metrics_repository:MetricsRepository
[security]
default_authorized_roles = monasca-user
"""

_HELPER: Final = """
import json, logging, os, sys, types
from urllib.parse import urlencode

answers = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)  # the services say what they like there
logging.disable(logging.CRITICAL)
file, port, most = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
sys.argv[1:] = ["--config-file", file]

class Queue:
    sent = []

    def __init__(self, topic):
        pass

    def send_message(self, messages):
        self.sent.extend(messages)

sys.modules["judge"] = types.ModuleType("judge")
sys.modules["judge"].Queue = Queue

import influxdb
from falcon import testing
from monasca_api import config
from monasca_api.api import server
from monasca_persister.repositories.influxdb.metrics_repository import MetricInfluxdbRepository
from oslo_utils import encodeutils

config.parse_args(["--config-file", file])
api = testing.TestClient(server.launch({}))
identity = {"X-Identity-Status": "Confirmed", "X-Roles": "monasca-user", "X-Project-Id": "p1", "X-Tenant-Id": "p1"}
database = influxdb.InfluxDBClient("127.0.0.1", port, database="mon")
sys.excepthook = sys.__excepthook__

class Message:
    def __init__(self, text):
        self.bytes = encodeutils.safe_encode(text, incoming="utf-8")  # as monasca_common's producer does

    def value(self):
        return self.bytes

def post(bodies):
    Queue.sent.clear()
    headers = {**identity, "Content-Type": "application/json"}
    answer = api.simulate_post("/v2.0/metrics", body="[%s]" % ",".join(bodies), headers=headers)
    return "" if answer.status_code == 204 else "%s %s" % (answer.status, answer.text), list(Queue.sent)

def line_of(text):
    try:
        message = Message(text)
        if len(message.bytes) > most:
            return None, "a message of %d bytes" % len(message.bytes)
        return MetricInfluxdbRepository.process_message(message)[0], ""
    except Exception as error:
        return None, repr(error)

def write(lines):
    try:
        database.write_points(lines, "ms", protocol="line", batch_size=10000)  # as the persister does
    except Exception as error:
        return str(error)
    return ""

def blame(places, lines):
    "Where the lines are that cannot be written, found by halving; none if all can be, some at a time."
    problem = write([lines[place] for place in places])
    if not problem or len(places) == 1:
        return {place: problem for place in places if problem}
    half = len(places) // 2
    return {**blame(places[:half], lines), **blame(places[half:], lines)}

def rows():
    found = database.query('select value, value_meta from /.*/ group by *', epoch="ms").raw.get("series", [])
    for series in found:
        tags = {key: text for key, text in series.get("tags", {}).items() if text and key[:1] != "_"}
        for time, value, meta in series["values"]:
            yield series["name"], tags, time, "nan" if value is None else value, json.loads(meta or "{}")

def listing(looking):
    query = "limit=10000&start_time=1969-12-31T23:59:59Z" if looking else "limit=10000"
    answer = api.simulate_get("/v2.0/metrics", query_string=query, headers=identity)
    if answer.status_code != 200:
        return "%s %s" % (answer.status, answer.text), []
    return "", [(one["name"], one["dimensions"]) for one in answer.json["elements"]]

def asked_for(body):
    one = json.loads(body)
    asked = ",".join("%s:%s" % pair for pair in one["dimensions"].items())
    query = {"name": one["name"], "dimensions": asked, "start_time": "1970-01-01T00:00:00Z", "group_by": "*"}
    query = urlencode(query, errors="surrogatepass")
    answer = api.simulate_get("/v2.0/metrics/measurements", query_string=query, headers=identity)
    if answer.status_code != 200:
        return "%s %s" % (answer.status, answer.text)
    for element in answer.json["elements"]:
        if {key: text for key, text in element["dimensions"].items() if text} == one["dimensions"]:
            return ""
    return "no series has these dimensions"

for request in sys.stdin:
    bodies, looking = json.loads(request)
    database.drop_database("mon")
    database.create_database("mon")
    problem, sent = post(bodies)
    refused = [""] * len(bodies)
    if problem:
        each = [post([body]) for body in bodies]
        refused = [problem for problem, _ in each] if any(problem for problem, _ in each) else [problem] * len(bodies)
        sent = [(found or [None])[0] for _, found in each]
    made = [(None, "") if text is None else line_of(text) for text in sent]
    died = [problem for _, problem in made]
    lines = [line for line, _ in made if line is not None]
    problem = write(lines)
    if problem:
        database.drop_database("mon")
        database.create_database("mon")
        lines = [line for line, _ in made]
        blamed = blame([place for place, line in enumerate(lines) if line is not None], lines)
        died = [blamed.get(place, what) if blamed else problem for place, what in enumerate(died)]
    unlisted, listed = listing(looking)
    unfound = [asked_for(body) for body in bodies] if looking else []
    answer = {"refused": refused, "died": died, "rows": list(rows())}
    answer.update(unlisted=unlisted, listed=listed, unfound=unfound)
    answers.write(json.dumps(answer) + chr(10))
    answers.flush()
"""


class Stored(NamedTuple):
    """A measurement as InfluxDB keeps it.

    Attributes:
        name: the metric's.
        dimensions: sorted pairs.
        time: milliseconds since the epoch.
        value: the number.
        meta: the value_meta, as JSON.
    """

    name: str
    dimensions: tuple[tuple[str, str], ...]
    time: int
    value: float
    meta: str

    @classmethod
    def of(cls, name: str, dimensions: dict[str, str], time: int, value: float, meta: dict[str, str]) -> Stored:
        """From its parts."""
        return cls(name, tuple(sorted(dimensions.items())), time, float(value), json.dumps(meta, sort_keys=True))

    @classmethod
    def expected(cls, body: str) -> Stored:
        """What a measurement that is posted shall become."""
        one = json.loads(body)
        return cls.of(one["name"], one["dimensions"], one["timestamp"], one["value"], one.get("value_meta", {}))


class Judgement(NamedTuple):
    """What became of some points.

    Attributes:
        refused: for each, what the API said; empty if it took it.
        died: for each, the error in the persister, which is its end; empty if there was none.
        stored: all that InfluxDB has now.
        unlisted: why the API cannot list them; empty if it can.
        listed: names and dimensions that the API lists.
        unfound: for each, why it does not come when the API is asked for its name and dimensions; empty if
            it does, or if it was not looked for.
    """

    refused: list[str]
    died: list[str]
    stored: set[Stored]
    unlisted: str
    listed: set[tuple[str, tuple[tuple[str, str], ...]]]
    unfound: list[str]


class ChainJudge:
    """The helper process and its InfluxDB; a context manager.

    Args:
        folder: where their files go.
        say: told what is being done, where that takes more than a moment.
    """

    def __init__(self, folder: Path, say: Callable[[str], None] = print) -> None:
        home = environment("monasca-api", python=find_python(PYTHON), say=say)
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._ports = config.Ports(api=0, influxdb=free_port(), influxdb_rpc=free_port())
        file = folder / "influxdb.conf"
        file.write_text(config.influxdb(folder, self._ports), "utf-8")
        program = unpacked("influxdb", say=say) / "usr" / "bin" / "influxd"
        self._influxdb = Process(
            "influxdb", [program, "-config", file], folder / "influxdb.log", self._answers, config.environ(), grace=2.0
        )
        self._influxdb.start()
        settings = folder / "judge.conf"
        store = f"[influxdb]\nip_address = 127.0.0.1\nport = {self._ports.influxdb}\ndatabase_name = mon\n"
        settings.write_text(_CONFIG + store, "utf-8")
        self._log = (folder / "judge.log").open("w")
        self._popen = subprocess.Popen(
            [str(home.python), "-c", _HELPER, str(settings), str(self._ports.influxdb), str(KAFKA_TAKES)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            env=config.environ(),
        )

    def judge(self, bodies: Sequence[str], *, looking: bool = True) -> Judgement:
        """The verdict on these measurements.

        Args:
            bodies: JSON objects as they would be posted; best some hundreds.
            looking: list with a start time as dashboards do: the API then looks into every series by a
                query of its own, and fails as a whole where one such query does.  And ask for each by its
                name and dimensions.  Both cost some 15 ms a series.
        """
        assert self._popen.stdin is not None
        assert self._popen.stdout is not None
        self._popen.stdin.write(json.dumps([list(bodies), looking]) + "\n")
        self._popen.stdin.flush()
        answer = self._popen.stdout.readline()
        if not answer:
            raise TestbedError(f"The judge ended; see {self._log.name}")
        found: dict[str, Any] = json.loads(answer)
        listed = {(name, tuple(sorted(dimensions.items()))) for name, dimensions in found["listed"]}
        stored = {Stored.of(*row) for row in found["rows"]}
        unfound = found["unfound"] or [""] * len(bodies)
        return Judgement(found["refused"], found["died"], stored, found["unlisted"], listed, unfound)

    def close(self) -> None:
        """End both processes."""
        self._popen.communicate()
        self._log.close()
        self._influxdb.stop()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _answers(self) -> bool:
        with contextlib.suppress(OSError, urllib.error.URLError):
            urllib.request.urlopen(f"http://127.0.0.1:{self._ports.influxdb}/ping", timeout=5).close()
            return True
        return False
