"""What is found on the way to a cloud's Monasca API, step by step: for ``mlops doctor``.

Nothing is changed there: what is posted is an empty list of metrics, which is refused to whoever may not send.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final, Literal

from mlops.errors import AuthorisationError, CloudError, MlopsError
from mlops.monasca.client import SERVICE_TYPE, Monasca

__all__ = ["Check", "checkup"]

_SKEW_SECONDS: Final = 30.0
"""How far apart two clocks may be before a dashboard's last minutes look empty."""


@dataclass(frozen=True, slots=True)
class Check:
    """One step.

    Attributes:
        state: ``ok``; ``note`` (worth knowing); ``warning``; ``broken`` (points cannot be sent).
        text: what was found.
        remedy: what to do about it; empty where there is nothing to do.
    """

    state: Literal["ok", "note", "warning", "broken"]
    text: str
    remedy: str = ""


def checkup(monasca: Monasca) -> Iterator[Check]:
    """Log in, find the API, ask whether it lets this one send and read, compare the clocks.

    It ends with the first step without which the others make no sense.  A token is fetched and never shown.
    """
    try:
        yield Check("ok", f"{monasca.cloud.name} is described in {monasca.cloud.source}")
        project = monasca.cloud.project_id
        roles = ", ".join(monasca.cloud.roles()) or "none that it tells"
        yield Check("ok", f"Keystone lets it in, to project {project} with the roles: {roles}")
        yield Check("ok", f"its service of type {SERVICE_TYPE} is at {monasca.url}")
    except MlopsError as error:
        yield Check("broken", error.what, f"{error.remedy} A training goes on without it.".lstrip())
        return
    sends = _may(lambda: monasca.post_metrics(b"[]"))
    if isinstance(sends, AuthorisationError):
        yield Check("broken", f"it may not send: {sends.what}", sends.remedy)
    elif sends is not None:
        yield Check("broken", sends.what, f"{sends.remedy} A training waits for it, and goes on.".lstrip())
        return
    else:
        yield Check("ok", "it may send")
    reads = _may(lambda: monasca.get("/metrics/names", {"limit": 1}))
    if isinstance(reads, AuthorisationError):
        yield Check("note", f"it may not read, as reports from Monasca need: {reads.what}", reads.remedy)
    elif reads is not None:
        yield Check("warning", f"reading fails: {reads.what}", reads.remedy)
    else:
        yield Check("ok", "it may read")
    yield _clocks(monasca.skew)


def _may(call: Callable[[], object]) -> CloudError | None:
    try:
        call()
    except CloudError as error:
        return error
    return None


def _clocks(skew: float) -> Check:
    if abs(skew) < _SKEW_SECONDS:
        return Check("ok", "its clock and this machine's agree")
    which = "ahead of" if skew > 0 else "behind"
    return Check(
        "warning",
        f"this machine's clock is {abs(skew):.0f} s {which} its",
        "Points bear this machine's times, under which no dashboard will look for them; set the clock (chrony, NTP).",
    )
