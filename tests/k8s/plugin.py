"""What Grafana's Monasca plugin asks the API for a target, and what it calls the lines that come back.

After ``datasource.js`` of github.com/openstack/monasca-grafana-datasource at 5eba5cf: ``buildDataQuery``,
``expandTemplatedQueries``, ``autoAlias``, ``convertPeriod``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import parse_qsl, quote, urlsplit

__all__ = ["Asked", "asked"]

Choice = str | Sequence[str]


class Asked:
    """One request.

    Args:
        address: path and query, as the plugin writes it.
    """

    def __init__(self, address: str) -> None:
        self.path = urlsplit(address).path.removeprefix("/v2.0")
        self.query = dict(parse_qsl(quote(urlsplit(address).query, safe="=&:,$*|/."), keep_blank_values=True))

    def line(self, dimensions: Mapping[str, str]) -> str:
        """What a line is called that came back with these dimensions."""
        return _aliased(self.query["alias"], dimensions)


def asked(target: Mapping[str, Any], choices: Mapping[str, Choice], start: str, seconds: int) -> list[Asked]:
    """The requests for a target.

    Args:
        target: as in a dashboard.
        choices: what the viewer chose, by variable; several values as a list.
        start: of the time range.
        seconds: that a pixel stands for.
    """
    filters = [(entry["key"], entry["value"]) for entry in target["dimensions"] if entry["value"] not in ("$all", "*")]
    groups = [entry["key"] for entry in target["dimensions"] if entry["value"] in ("$all", "*")]
    parts = {"name": target["metric"], "start_time": start}
    if filters:
        parts["dimensions"] = ",".join(f"{key}:{value}" for key, value in filters)
    if groups:
        parts["group_by"] = ",".join(groups)
    parts |= {"merge_metrics": "true", "alias": target["alias"]}
    parts |= {"statistics": target["aggregator"], "period": target["period"]}
    address = "/v2.0/metrics/statistics?" + "&".join(f"{key}={text}" for key, text in parts.items())
    whole = re.sub(r"\$\{?(\w+)\}?", lambda found: _put({**choices, "__interval": f"{seconds}s"}, found), address)
    made = []
    for one in _expanded(whole):
        filtered = re.search(r"dimensions=([^&]*)", one)
        known = dict(pair.split(":", 1) for pair in filtered[1].split(",")) if filtered else {}
        named = re.sub(r"alias=[^&]*", lambda found, known=known: _aliased(found[0], known), one)  # type: ignore[misc]
        made.append(Asked(re.sub(r"period=(\d+)s", r"period=\1", named)))
    return made


def _put(choices: Mapping[str, Choice], found: re.Match[str]) -> str:
    """A variable as Grafana writes it: nothing known stays as it is, several values are ``{a,b}``."""
    choice = choices.get(found[1], found[0])
    return choice if isinstance(choice, str) else "{" + ",".join(choice) + "}" if len(choice) > 1 else choice[0]


def _expanded(address: str) -> list[str]:
    found = re.search(r"{([^}]*)}", address)
    if not found:
        return [address]
    return [one for value in found[1].split(",") for one in _expanded(address.replace(found[0], value))]


def _aliased(alias: str, dimensions: Mapping[str, str]) -> str:
    for key in sorted(dimensions, key=len, reverse=True):
        alias = alias.replace(f"@{key}", dimensions[key])
    return alias
