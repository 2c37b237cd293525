"""The pretended API answers as the real one does."""

from __future__ import annotations

from typing import Any

import pytest

from mlops.errors import RequestRefusedError
from mlops.monasca import Monasca as Client
from tests.monasca.alarm_api import AlarmApi
from tests.testbed.monasca import Monasca

UNSEEN = {"id", "links", "deterministic", "created_at", "updated_at"}
"""What the API says besides, or gives another value each time."""


def _plain(content: Any) -> Any:
    if isinstance(content, dict):
        return {key: _plain(value) for key, value in content.items() if key not in UNSEEN}
    return [_plain(value) for value in content] if isinstance(content, list) else content


def _answers(client: Client) -> list[Any]:
    """The answers to one of each request that a file of alarms leads to."""
    answers: list[Any] = []

    def ask(method: str, path: str, content: object = None) -> Any:
        try:
            answer = client.send(method, path, content)
        except RequestRefusedError as error:
            answers.append(error.status)
            return {}
        answers.append(_plain(answer))
        return answer

    def listed(path: str) -> None:
        found = [one for one in client.get(path)["elements"] if one.get("name", "pretended").startswith("pretended")]
        answers.append(sorted(_plain(found), key=lambda one: str(one.get("name", one.get("type")))))

    listed("/notification-methods/types")
    hook = {"name": "pretended", "type": "WEBHOOK", "address": "https://x/y", "period": 0}
    method = ask("POST", "/notification-methods", hook)
    ask("POST", "/notification-methods", hook)
    ask("PUT", f"/notification-methods/{method['id']}", {**hook, "address": "https://x/z", "period": 60})
    listed("/notification-methods")
    one = ask("POST", "/alarm-definitions", {"name": "pretended", "expression": "max(x) > 1"})
    ask("POST", "/alarm-definitions", {"name": "pretended", "expression": "max(x) > 1"})
    whole = {"name": "pretended too", "expression": "max(x) > 1", "description": "d", "severity": "HIGH"}
    two = ask("POST", "/alarm-definitions", {**whole, "match_by": ["a", "b"]})
    ask("PATCH", f"/alarm-definitions/{two['id']}", {"severity": "MEDIUM", "expression": "max(x) > 2"})
    ask("PATCH", f"/alarm-definitions/{two['id']}", {"actions_enabled": False})
    listed("/alarm-definitions")
    ask("DELETE", f"/alarm-definitions/{one['id']}")
    ask("DELETE", f"/alarm-definitions/{one['id']}")
    ask("PATCH", f"/alarm-definitions/{one['id']}", {"severity": "LOW"})
    listed("/alarm-definitions")
    ask("DELETE", f"/alarm-definitions/{two['id']}")
    ask("DELETE", f"/notification-methods/{method['id']}")
    return answers


@pytest.mark.slow
def test_the_pretended_api_answers_as_the_real_one(monasca: Monasca) -> None:
    """One of each request that a file of alarms leads to, in the same order, to both."""
    assert _answers(AlarmApi()) == _answers(Client.connect(monasca.cloud))
