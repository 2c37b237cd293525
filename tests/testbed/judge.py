"""The agent's own verdict on datagrams: its parser and its validation, without its sockets.

A helper in the agent's environment hands each datagram to ``monasca_agent.statsd.udp.Server`` and
``monasca_agent.common.aggregator.MetricsAggregator`` as the daemon does, cut where the daemon's
``recv`` cuts it, and says what they made of it.
"""

from __future__ import annotations

import base64
import json
import subprocess
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import NamedTuple, Self

from tests.testbed.environments import TestbedError, environment

__all__ = ["Judge", "Verdict"]

_HELPER = """
import base64, json, logging, sys

from monasca_agent.common.aggregator import MetricsAggregator
from monasca_agent.statsd.udp import Server

said = []

class Listen(logging.Handler):
    def emit(self, record):
        said.append(record.getMessage())

logging.getLogger().addHandler(Listen(logging.WARNING))
for request in sys.stdin:
    verdicts = []
    for encoded in json.loads(request):
        said.clear()
        aggregator = MetricsAggregator("judge")
        server = Server(aggregator, "localhost", 0)
        problem = ""
        try:
            server.submit_packets(base64.b64decode(encoded)[: server.buffer_size])
        except Exception as error:
            problem = f"{type(error).__name__}: {error}"
        taken = [envelope["measurement"] for envelope in aggregator.flush()]
        rows = [(one["name"], one["value"], one["dimensions"]) for one in taken]
        verdicts.append((problem or "; ".join(said), rows))
    print(json.dumps(verdicts), flush=True)
"""


class Verdict(NamedTuple):
    """What the agent made of one datagram.

    Attributes:
        problem: the error that ended its reading, or what was warned of; empty if all is well.
        taken: name, value and dimensions (the agent's ``hostname`` left out) of each gauge.
    """

    problem: str
    taken: list[tuple[str, float, dict[str, str]]]


class Judge:
    """The helper process; a context manager."""

    def __init__(self, say: Callable[[str], None] = print) -> None:
        home = environment("monasca-agent", say=say)
        self._popen = subprocess.Popen(
            [str(home.python), "-c", _HELPER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def judge(self, datagrams: Sequence[bytes]) -> list[Verdict]:
        """The verdict on each of these datagrams, each as if it were the first of its interval."""
        assert self._popen.stdin is not None
        assert self._popen.stdout is not None
        self._popen.stdin.write(json.dumps([base64.b64encode(one).decode() for one in datagrams]) + "\n")
        self._popen.stdin.flush()
        answer = self._popen.stdout.readline()
        if not answer:
            raise TestbedError("The judge ended; what it said is above.")
        return [Verdict(problem, [_row(*row) for row in rows]) for problem, rows in json.loads(answer)]

    def close(self) -> None:
        """End the process."""
        self._popen.communicate()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _row(name: str, value: float, dimensions: dict[str, str]) -> tuple[str, float, dict[str, str]]:
    return name, value, {key: text for key, text in dimensions.items() if (key, text) != ("hostname", "judge")}
