"""What in an alarm is allowed and probably not meant, and what the API would refuse of a notification's address."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator
from typing import Final
from urllib.parse import urlsplit

from mlops.monasca.expression import Condition
from mlops.series import METRICS, SUMMARIES

__all__ = ["doubts", "fault_in_address"]

_LONGEST_ADDRESS: Final = 512


def doubts(condition: Condition) -> Iterator[str]:
    """What Monasca takes and what will hardly do what was meant, one sentence each."""
    if not _is_sent(condition.metric):
        near = difflib.get_close_matches(condition.metric, METRICS, 1)
        hint = f"Did you mean {near[0]}?" if near else "Right if it is one of your own, or another program's."
        yield f"nothing in this library sends a metric {condition.metric!r}. {hint}"
    below = condition.operator == "<" and condition.threshold <= 1
    if condition.function == "count" and (below or (condition.operator == "<=" and condition.threshold < 1)):
        yield (
            f"{condition} never holds: to Monasca a period without measurements is unknown, and not 0. "
            "mlops.silent_seconds tells how long a training has logged nothing."
        )


def _is_sent(name: str) -> bool:
    """Whether a metric of this name may come from here, by whatever road, or from a host's own agent."""
    plain = next((name.removesuffix(suffix) for suffix in SUMMARIES if suffix and name.endswith(suffix)), name)
    hosts = {metric.host_name for metric in METRICS.values()}
    return any(one in METRICS or one in hosts or one.startswith("valid.") for one in (name, plain))


def fault_in_address(kind: str, address: str) -> str:
    """Why the API would refuse an address, without the address, which may be a secret; empty if it would not."""
    if len(address) > _LONGEST_ADDRESS:
        return f"has more than {_LONGEST_ADDRESS} characters"
    if kind == "EMAIL" and not re.fullmatch(".+@.+", address):
        return "is no mail address"
    if kind == "WEBHOOK":
        try:
            parts = urlsplit(address)
        except ValueError:
            return "is no URL"
        if parts.scheme not in {"http", "https"} or not parts.netloc:
            return "is no URL of http or https"
    return ""
