"""The API's own verdict on alarm expressions: the parser of monasca-api 11.0.0, in the API's environment."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Final, NamedTuple, Self

from tests.testbed.environments import TestbedError, environment, find_python
from tests.testbed.monasca.chain import PYTHON
from tests.testbed.monasca.config import environ

__all__ = ["ApiParser", "Part", "Verdict"]

_HELPER: Final = """
import json, os, sys

answers = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)
from monasca_api.expression_parser.alarm_expr_parser import AlarmExprParser

def verdict(text):
    try:
        parts = AlarmExprParser(text).sub_expr_list
    except Exception as error:
        return f"{type(error).__name__}: {error}", []
    return "", [
        (
            one.normalized_func.lower(), one.metric_name, [part.split("=", 1) for part in one.dimensions_as_list],
            {"LT": "<", "LTE": "<=", "GT": ">", "GTE": ">="}[one.normalized_operator], one.threshold,
            int(one.period), int(one.periods), one.deterministic,
        )
        for one in parts
    ]

for request in sys.stdin:
    answers.write(json.dumps([verdict(text) for text in json.loads(request)]) + chr(10))
    answers.flush()
"""


class Part(NamedTuple):
    """A condition as the API has understood it."""

    function: str
    metric: str
    dimensions: tuple[tuple[str, str], ...]
    operator: str
    threshold: float
    period: int
    periods: int
    deterministic: bool


class Verdict(NamedTuple):
    """What the API makes of an expression.

    Attributes:
        refused: why it does not take it; empty if it does.
        parts: its conditions, in their order.
    """

    refused: str
    parts: tuple[Part, ...]


class ApiParser:
    """The helper process; a context manager."""

    def __init__(self, say: Callable[[str], None] = print) -> None:
        home = environment("monasca-api", python=find_python(PYTHON), say=say)
        command = [str(home.python), "-c", _HELPER]
        self._popen = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environ()
        )

    def judge(self, texts: Sequence[str]) -> list[Verdict]:
        """The verdict on each of these expressions."""
        assert self._popen.stdin is not None
        assert self._popen.stdout is not None
        self._popen.stdin.write(json.dumps(list(texts)) + "\n")
        self._popen.stdin.flush()
        answer = self._popen.stdout.readline()
        if not answer:
            raise TestbedError("The API's parser ended without an answer")
        return [Verdict(refused, tuple(_part(*part) for part in parts)) for refused, parts in json.loads(answer)]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._popen.communicate()


def _part(
    function: str,
    metric: str,
    dimensions: Sequence[Sequence[str]],
    operator: str,
    threshold: float,
    period: int,
    periods: int,
    deterministic: bool,
) -> Part:
    pairs = tuple(sorted((key, value) for key, value in dimensions))
    return Part(function, metric, pairs, operator, threshold, period, periods, deterministic)
