"""The part of a Monasca API that is about alarms, in this process, for tests of what is shown and said.

It is no Monasca: it takes any expression.  That it answers as the real one does is held by ``test_alarm_api.py``.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any, Final, cast

from mlops.clouds import Cloud
from mlops.errors import RequestRefusedError
from mlops.monasca import Monasca

__all__ = ["AlarmApi"]

_FRESH: Final[Mapping[str, Any]] = {
    "description": "",
    "severity": "LOW",
    "match_by": [],
    "alarm_actions": [],
    "ok_actions": [],
    "undetermined_actions": [],
    "actions_enabled": True,
}
_TYPES: Final = ("EMAIL", "WEBHOOK", "PAGERDUTY")


class AlarmApi(Monasca):
    """Keeps definitions and notifications.

    Attributes:
        sent: the requests so far that were no questions: method and path.
        trouble: raised by the next of these, one each; ``None`` for none.
    """

    def __init__(self) -> None:
        super().__init__(cast("Cloud", SimpleNamespace(name="cloud 'pretended'")))
        self.sent: list[str] = []
        self.trouble: list[Exception | None] = []
        self._kept: dict[str, dict[str, dict[str, Any]]] = {"alarm-definitions": {}, "notification-methods": {}}
        self._ids = itertools.count(1)

    def get(self, path: str, params: Mapping[str, Any] | None = None) -> Any:
        """A listing, all of it on one page."""
        if path == "/notification-methods/types":
            return {"elements": [{"type": name} for name in _TYPES], "links": []}
        return {"elements": [dict(one) for one in self._kept[path.strip("/")].values()], "links": []}

    def send(self, method: str, path: str, content: object = None) -> Any:
        """Make, change or delete one."""
        self.sent.append(f"{method} {path}")
        if self.trouble and (trouble := self.trouble.pop(0)) is not None:
            raise trouble
        kind, _, which = path.strip("/").partition("/")
        kept = self._kept[kind]
        body = cast("dict[str, Any]", content)
        if method == "POST":
            if any(one["name"] == body["name"] for one in kept.values()):
                raise RequestRefusedError(f"POST {path} was answered with 409", status=409)
            which = f"id-{next(self._ids)}"
            fresh = _FRESH if kind == "alarm-definitions" else {"period": 0}
            kept[which] = {**fresh, **body, "id": which}
            return dict(kept[which])
        if which not in kept:
            raise RequestRefusedError(f"{method} {path} was answered with 404", status=404)
        if method == "DELETE":
            del kept[which]
            return None
        kept[which].update(body)
        return dict(kept[which])
