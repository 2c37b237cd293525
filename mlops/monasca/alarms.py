"""Bringing alarms into force, and seeing what is.

A definition belongs to the group of the file that it came from, which its description ends with: ``[mlops:training]``.
So a file's own definitions are known again, whoever made others in the project, and only these are ever pruned.
What somebody has made by hand under a name of the file's becomes the file's; what another file has made does not.
Whether a definition's notifications are muted (``actions_enabled``) is nobody's but the person's who mutes them.

Everything is looked at before anything is sent: a file that cannot be brought into force as a whole changes nothing.
"""

from __future__ import annotations

import contextlib
import difflib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal
from urllib.parse import quote

from mlops.errors import AlarmError, RequestRefusedError
from mlops.monasca.alarm_file import Alarm, Definitions, Notification, marker
from mlops.monasca.client import Monasca
from mlops.monasca.expression import parse, why_not_in_place

__all__ = ["Change", "Definition", "apply", "definitions", "masked", "notifications", "remove"]

_DEFINITIONS: Final = "/alarm-definitions"
_NOTIFICATIONS: Final = "/notification-methods"
_GONE: Final = 404
_MARKED: Final = re.compile(r"\s*\[mlops:([^\s\[\]]+)\]\s*$")
_ACTIONS: Final = {
    "actions": "alarm_actions",
    "ok_actions": "ok_actions",
    "undetermined_actions": "undetermined_actions",
}
"""The file's keys, and the API's."""

What = Literal["created", "updated", "replaced", "deleted", "unchanged"]


@dataclass(frozen=True, slots=True)
class Definition:
    """An alarm definition that is in force.

    Attributes:
        id: Monasca's.
        name: unique in the project.
        group: of the file that it came from; empty if it came from none.
        description: without the group's marker.
        expression: as Monasca has it.
        severity: LOW, MEDIUM, HIGH or CRITICAL.
        match_by: dimensions.
        actions, ok_actions, undetermined_actions: notifications' names, or the id of one that is not there any more.
        muted: whether nobody is told, whatever it does.
    """

    id: str
    name: str
    group: str
    description: str
    expression: str
    severity: str
    match_by: tuple[str, ...]
    actions: tuple[str, ...]
    ok_actions: tuple[str, ...]
    undetermined_actions: tuple[str, ...]
    muted: bool


@dataclass(frozen=True, slots=True)
class Change:
    """What was done, or would be, to one definition or notification.

    Attributes:
        kind: which of the two.
        name: its name.
        what: what was done.
        fields: what has another value now: before, after.
        why: why it had to be replaced; empty otherwise.
        id: Monasca's; empty for what is not there yet.
    """

    kind: Literal["alarm", "notification"]
    name: str
    what: What
    fields: Mapping[str, tuple[object, object]] = field(default_factory=dict)
    why: str = ""
    id: str = ""

    def as_json(self) -> dict[str, Any]:
        """For programs."""
        changes = {key: {"before": before, "after": after} for key, (before, after) in self.fields.items()}
        return {"kind": self.kind, "name": self.name, "what": self.what, "why": self.why, "changes": changes}


def notifications(monasca: Monasca) -> dict[str, dict[str, Any]]:
    """The project's notification methods, by name, as the API has them.  Addresses may be secrets.

    Raises:
        CloudError: the API cannot be asked.
    """
    elements = [element for page in monasca.pages(_NOTIFICATIONS) for element in page]
    return {str(element["name"]): element for element in sorted(elements, key=lambda element: str(element["name"]))}


def definitions(monasca: Monasca) -> list[Definition]:
    """The project's alarm definitions, sorted by name.

    Raises:
        CloudError: the API cannot be asked.
    """
    return _definitions(monasca, notifications(monasca))


def apply(
    wanted: Definitions, monasca: Monasca, *, dry_run: bool = False, prune: bool = False, replace: bool = False
) -> list[Change]:
    """Bring a file's alarms into force; what is so already is left alone.

    Args:
        wanted: the file.
        monasca: where.
        dry_run: change nothing.
        prune: delete the definitions of the file's group that the file does not have any more.
        replace: where Monasca cannot change a definition as wanted, delete it, with its alarms and
            their states, and make it anew.

    Returns:
        What was done to each, or would be, unchanged ones included.

    Raises:
        AlarmError: something in the file cannot be brought into force; nothing was changed.
        AuthorisationError: the role may not.
        CloudError: the API cannot be asked, or refuses; what was done before stays, and applying again goes on.
    """
    methods = notifications(monasca)
    there = {one.name: one for one in _definitions(monasca, methods)}
    faults = list(_faults(wanted, monasca, methods, there))
    changes = [_notification_change(one, methods.get(one.name)) for one in wanted.notifications]
    alarms = [_change(alarm, there.get(alarm.name), wanted.group) for alarm in wanted.alarms]
    if not replace:
        faults += [_not_in_place(alarm, one.why) for alarm, one in zip(wanted.alarms, alarms, strict=True) if one.why]
    if faults:
        raise _joined(wanted.source, faults)
    names = {alarm.name for alarm in wanted.alarms}
    gone = [one for one in there.values() if prune and one.group == wanted.group and one.name not in names]
    deletions = [Change("alarm", one.name, "deleted", id=one.id) for one in gone]
    if not dry_run:
        ids = {name: str(method["id"]) for name, method in methods.items()}
        for notification, change in zip(wanted.notifications, changes, strict=True):
            _send_notification(monasca, notification, change, ids)
        for alarm, change in zip(wanted.alarms, alarms, strict=True):
            _send(monasca, alarm, change, wanted.group, ids)
        for change in deletions:
            _delete(monasca, change)
    return [*changes, *alarms, *deletions]


def remove(monasca: Monasca, names: Iterable[str] = (), *, group: str = "", dry_run: bool = False) -> list[Change]:
    """Delete definitions, with their alarms and the states of these.

    Args:
        monasca: where.
        names: of definitions.
        group: all of this group besides.
        dry_run: change nothing.

    Raises:
        AlarmError: there is none of such a name, or none of that group; nothing was deleted.
        CloudError: as :func:`apply` raises it.
    """
    there = {one.name: one for one in definitions(monasca)}
    groups = sorted({one.group for one in there.values() if one.group})
    faults = [
        AlarmError(f"There is no alarm definition {name!r} in {monasca.cloud.name}", remedy=_nearest(name, there))
        for name in names
        if name not in there
    ]
    if group and group not in groups:
        what = f"There is no alarm definition of the group {group!r} in {monasca.cloud.name}"
        faults.append(AlarmError(what, remedy=_nearest(group, groups)))
    if faults:
        raise _joined("What shall be deleted", faults)
    asked = set(names)
    chosen = [one for one in there.values() if one.name in asked or (group and one.group == group)]
    changes = [Change("alarm", one.name, "deleted", id=one.id) for one in chosen]
    for change in changes if not dry_run else ():
        _delete(monasca, change)
    return changes


# -- what is there ---------------------------------------------------------------------------------


def _definitions(monasca: Monasca, methods: Mapping[str, Mapping[str, Any]]) -> list[Definition]:
    names = {str(method["id"]): name for name, method in methods.items()}
    elements = [element for page in monasca.pages(_DEFINITIONS) for element in page]
    return sorted((_definition(element, names) for element in elements), key=lambda one: one.name)


def _definition(element: Mapping[str, Any], names: Mapping[str, str]) -> Definition:
    text = str(element.get("description") or "")
    found = _MARKED.search(text)
    told = {
        own: tuple(sorted(names.get(method, method) for method in element.get(key) or ()))
        for own, key in _ACTIONS.items()
    }
    return Definition(
        id=str(element["id"]),
        name=str(element["name"]),
        group=found.group(1) if found else "",
        description=text[: found.start()] if found else text,
        expression=str(element["expression"]),
        severity=str(element.get("severity", "")),
        match_by=tuple(element.get("match_by") or ()),
        muted=not element.get("actions_enabled", True),
        **told,
    )


# -- what is to be done ----------------------------------------------------------------------------


def _change(alarm: Alarm, there: Definition | None, group: str) -> Change:
    if there is None:
        return Change("alarm", alarm.name, "created")
    values: list[tuple[str, object, object]] = [
        ("group", there.group, group),
        ("description", there.description, alarm.description),
        ("expression", there.expression, str(alarm.expression)),
        ("severity", there.severity, alarm.severity),
        *((key, sorted(getattr(there, key)), sorted(getattr(alarm, key))) for key in ("match_by", *_ACTIONS)),
    ]
    fields = {key: (before, after) for key, before, after in values if before != after}
    why = _why_replaced(alarm, there)
    what: What = "replaced" if why else "updated" if fields else "unchanged"
    return Change("alarm", alarm.name, what, fields, why, there.id)


def _why_replaced(alarm: Alarm, there: Definition) -> str:
    if set(there.match_by) != set(alarm.match_by):
        return "match_by is another one"
    try:
        return why_not_in_place(parse(there.expression), alarm.expression)
    except AlarmError:  # made elsewhere, of characters that we would not send
        return "its expression was written elsewhere, in a way that is not understood here"


def _notification_change(wanted: Notification, there: Mapping[str, Any] | None) -> Change:
    if there is None:
        return Change("notification", wanted.name, "created")
    fields: dict[str, tuple[object, object]] = {}
    if there.get("type") != wanted.type:
        fields["type"] = there.get("type"), wanted.type
    if there.get("address") != wanted.address:
        before = masked(str(there.get("type")), str(there.get("address")))
        fields["address"] = before, masked(wanted.type, wanted.address)
    if int(there.get("period") or 0) != wanted.period:
        fields["period"] = int(there.get("period") or 0), wanted.period
    return Change("notification", wanted.name, "updated" if fields else "unchanged", fields, id=str(there["id"]))


def masked(kind: str, address: str) -> str:
    """An address without what may be a secret in it."""
    if kind == "EMAIL":
        return address
    found = re.match(r"(https?)://(?:[^/?#@]*@)?([^/?#:@\[\]]+)", address)
    return f"{found.group(1)}://{found.group(2)}/…" if found else "…"


# -- what stands against it ------------------------------------------------------------------------


def _faults(
    wanted: Definitions, monasca: Monasca, methods: Mapping[str, object], there: Mapping[str, Definition]
) -> Iterator[AlarmError]:
    if wanted.notifications:
        types = {str(element.get("type")) for page in monasca.pages(f"{_NOTIFICATIONS}/types") for element in page}
        for one in wanted.notifications:
            if one.type not in types:
                what = f"notification {one.name!r}: {monasca.cloud.name} knows no type {one.type!r}"
                yield AlarmError(what, remedy=f"Its types: {', '.join(sorted(types))}.")
    known = {*methods, *(one.name for one in wanted.notifications)}
    for alarm in wanted.alarms:
        for name in dict.fromkeys((*alarm.actions, *alarm.ok_actions, *alarm.undetermined_actions)):
            if name not in known:
                hint = f"{_nearest(name, known)} Or define it in the file, under notifications."
                yield AlarmError(f"{alarm.where}: there is no notification {name!r}", remedy=hint)
        owner = there[alarm.name].group if alarm.name in there else ""
        if owner not in {"", wanted.group}:
            yield AlarmError(
                f"{alarm.where}: another file has brought it into force, that of the group {owner!r}",
                remedy="Give it another name here, or take it out there and apply that file with --prune first.",
            )


def _not_in_place(alarm: Alarm, why: str) -> AlarmError:
    return AlarmError(
        f"{alarm.where}: Monasca cannot change it so: {why}",
        remedy="With --replace it is deleted, with its alarms and their states, and made anew.",
    )


def _joined(source: str, faults: Sequence[AlarmError]) -> AlarmError:
    if len(faults) == 1:
        return faults[0]
    what = f"{source}: {len(faults)} things stand against it, and nothing was changed"
    return AlarmError(what, remedy="\n  ".join(str(fault) for fault in faults))


def _nearest(name: str, known: Iterable[str]) -> str:
    names = sorted(known)
    near = difflib.get_close_matches(name, names, 1)
    if near:
        return f"Did you mean {near[0]!r}?"
    return f"There are: {', '.join(names)}." if names else "There is none at all."


# -- doing it --------------------------------------------------------------------------------------


def _send(monasca: Monasca, alarm: Alarm, change: Change, group: str, ids: Mapping[str, str]) -> None:
    if change.what == "unchanged":
        return
    content: dict[str, object] = {
        "description": f"{alarm.description} {marker(group)}".strip(),
        "expression": str(alarm.expression),
        "severity": alarm.severity,
        **{key: [ids[name] for name in getattr(alarm, own)] for own, key in _ACTIONS.items()},
    }
    whole = {"name": alarm.name, **content, "match_by": list(alarm.match_by)}
    if change.what == "updated":
        keys = {_ACTIONS.get(key, key) for key in change.fields} | (
            {"description"} if "group" in change.fields else set()
        )
        with _named(f"The alarm definition {alarm.name!r} could not be changed"):
            changed = {key: value for key, value in content.items() if key in keys}
            monasca.send("PATCH", f"{_DEFINITIONS}/{quote(change.id, safe='')}", changed)
        return
    if change.what == "replaced":
        _delete(monasca, change)
    with _named(f"The alarm definition {alarm.name!r} could not be made"):
        monasca.send("POST", _DEFINITIONS, whole)


def _send_notification(monasca: Monasca, wanted: Notification, change: Change, ids: dict[str, str]) -> None:
    if change.what == "unchanged":
        return
    content = {"name": wanted.name, "type": wanted.type, "address": wanted.address, "period": wanted.period}
    with _named(f"The notification {wanted.name!r} was refused", secret=wanted.address):
        if change.what == "updated":
            monasca.send("PUT", f"{_NOTIFICATIONS}/{quote(change.id, safe='')}", content)
        else:
            ids[wanted.name] = str(monasca.send("POST", _NOTIFICATIONS, content)["id"])


def _delete(monasca: Monasca, change: Change) -> None:
    with _named(f"The alarm definition {change.name!r} could not be deleted"):
        try:
            monasca.send("DELETE", f"{_DEFINITIONS}/{quote(change.id, safe='')}")
        except RequestRefusedError as error:
            if error.status != _GONE:
                raise


@contextlib.contextmanager
def _named(what: str, *, secret: str = "") -> Iterator[None]:
    """Say of a refusal what it was about, and nothing of what may be a secret."""
    try:
        yield
    except RequestRefusedError as error:
        said, detail = (text.replace(secret, "…") if secret else text for text in (error.what, error.detail))
        raise RequestRefusedError(
            f"{what}: {said}",
            remedy="What was done before it stays. Mend the file, or have it made anew with --replace; apply it again.",
            status=error.status,
            detail=detail,
        ) from None
