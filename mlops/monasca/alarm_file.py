"""The file that alarms are kept in: read strictly, every fault named with its line and what to do about it.

::

    group: training                  # whose alarms these are; the file's name if left out
    defaults:                        # for every alarm that says nothing else
      actions: [on-call]
    notifications:                   # made if they are not there; addresses may hold ${VARIABLES}
      - {name: on-call, type: WEBHOOK, address: "${ON_CALL_URL}"}
    alarms:
      - name: GPU throttled
        description: What it means, and what to do.
        expression: avg(gpu.throttled, 300) > 0.5
        severity: HIGH               # LOW, MEDIUM, HIGH, CRITICAL
        match_by: [run, hostname, uuid]
        actions: [on-call]           # names of notifications; also ok_actions, undetermined_actions
"""

from __future__ import annotations

import difflib
import os
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Final

from mlops.errors import AlarmError, SeriesError
from mlops.monasca._alarm_checks import doubts, fault_in_address
from mlops.monasca._yaml import Table, load
from mlops.monasca.expression import Condition, Expression, conditions, parse
from mlops.series import check_dimensions

__all__ = ["SEVERITIES", "Alarm", "Definitions", "Notification", "marker", "read"]

SEVERITIES: Final = ("LOW", "MEDIUM", "HIGH", "CRITICAL")

_FILE_KEYS: Final = ("group", "defaults", "notifications", "alarms")
_DEFAULT_KEYS: Final = ("severity", "match_by", "actions", "ok_actions", "undetermined_actions")
_ALARM_KEYS: Final = ("name", "description", "expression", *_DEFAULT_KEYS)
_NOTIFICATION_KEYS: Final = ("name", "type", "address", "period")

_LONGEST: Final = 255
"""Characters of a name, of a description with its marker, and of all of match_by (the API's schema and database)."""
_LONGEST_NOTIFICATION: Final = 250
_GROUP: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,39}")
_VARIABLE: Final = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")
_SHOWN: Final = 60


@dataclass(frozen=True, slots=True)
class Notification:
    """A way to tell somebody, as Monasca keeps it.

    Attributes:
        name: what alarms call it.
        type: ``EMAIL``, ``WEBHOOK``, ``PAGERDUTY`` or what the cloud has besides.
        address: where to; may be a secret.
        period: seconds after which it is told again while the alarm lasts; 0 for never.
    """

    name: str
    type: str
    address: str = field(repr=False)
    period: int = 0


@dataclass(frozen=True, slots=True)
class Alarm:
    """An alarm as it shall be.

    Attributes:
        name: unique in the project.
        expression: when it goes off.
        description: one paragraph; without the marker of its group.
        severity: one of :data:`SEVERITIES`.
        match_by: dimensions; each combination of their values has a state of its own.
        actions, ok_actions, undetermined_actions: notifications' names, told when it goes off, is over, or nothing is
            known any more.
        where: file and line, for messages.
    """

    name: str
    expression: Expression
    description: str = ""
    severity: str = "LOW"
    match_by: tuple[str, ...] = ()
    actions: tuple[str, ...] = ()
    ok_actions: tuple[str, ...] = ()
    undetermined_actions: tuple[str, ...] = ()
    where: str = ""


@dataclass(frozen=True, slots=True)
class Definitions:
    """What a file says.

    Attributes:
        source: its name.
        group: whose alarms these are.
        alarms: in their order.
        notifications: likewise.
        warnings: what is allowed and probably not meant.
    """

    source: str
    group: str
    alarms: tuple[Alarm, ...]
    notifications: tuple[Notification, ...] = ()
    warnings: tuple[str, ...] = ()


def marker(group: str) -> str:
    """What ends the description of every definition of a group, by which its definitions are known again."""
    return f"[mlops:{group}]"


def read(path: str | os.PathLike[str], environ: Mapping[str, str] | None = None) -> Definitions:
    """Read a file of alarms.

    Args:
        path: the file; ``-`` for standard input.
        environ: where variables in addresses are looked up; ``os.environ`` if not given.

    Raises:
        AlarmError: it cannot be read, or something in it cannot be understood; all faults at once.
        MissingExtraError: PyYAML is not installed.
    """
    source = os.fspath(path)
    name = "standard input" if source == "-" else source
    try:
        raw = sys.stdin.buffer.read() if source == "-" else Path(source).read_bytes()
    except OSError as error:
        raise AlarmError(f"The file of alarms {source} cannot be read: {error.strerror or error}") from error
    stem = "stdin" if source == "-" else Path(source).stem
    return _File(name, stem, os.environ if environ is None else environ).read(load(raw, name))


class _File:
    """Reads what the YAML holds, and gathers the faults."""

    def __init__(self, source: str, stem: str, environ: Mapping[str, str]) -> None:
        self._source = source
        self._stem = stem
        self._environ = environ
        self._faults: list[AlarmError] = []
        self._warnings: list[str] = []

    def read(self, content: object) -> Definitions:
        table = content if isinstance(content, Table) else Table(1)
        if isinstance(content, list):
            table["alarms"] = content
        elif not isinstance(content, Table):
            self._fault(self._source, "holds no alarms", "Begin with: alarms:, and a list of them.")
        self._only(table, _FILE_KEYS, self._source)
        group = self._group(table)
        defaults = self._table(table.get("defaults", Table(1)), f"{self._source}, defaults", _DEFAULT_KEYS) or Table(1)
        alarms = [
            alarm
            for where, entry in self._entries(table, "alarm", _ALARM_KEYS)
            if (alarm := self._alarm(Table(entry.line, {**defaults, **entry}), where, group))
        ]
        notifications = [
            made
            for where, entry in self._entries(table, "notification", _NOTIFICATION_KEYS)
            if (made := self._notification(entry, where))
        ]
        if "alarms" not in table and not self._faults:
            self._fault(self._source, "has no list of alarms", "Begin it with: alarms:.")
        self._twice(alarms, "alarm")
        self._twice(notifications, "notification")
        if self._faults:
            raise self._all_faults()
        return Definitions(self._source, group, tuple(alarms), tuple(notifications), tuple(self._warnings))

    # -- alarms -----------------------------------------------------------------------------------

    def _alarm(self, table: Table, where: str, group: str) -> Alarm | None:
        before = len(self._faults)
        name = self._name(table, where, _LONGEST)
        severity = self._text(table, "severity", where, default="LOW").upper()
        if severity not in SEVERITIES:
            self._fault(where, f"the severity {severity!r} is none", f"One of {', '.join(SEVERITIES)}.")
        alarm = Alarm(
            name,
            self._expression(table, where),
            self._description(table, where, group),
            severity,
            self._match_by(table, where),
            self._names(table, "actions", where),
            self._names(table, "ok_actions", where),
            self._names(table, "undetermined_actions", where),
            where,
        )
        return alarm if len(self._faults) == before else None

    def _expression(self, table: Table, where: str) -> Expression:
        nothing = Condition("max", "nothing", (), ">", _ZERO)
        text = self._text(table, "expression", where)
        if not text:
            return nothing
        try:
            expression = parse(text)
        except AlarmError as error:
            self._fault(where, error.what[0].lower() + error.what[1:], error.remedy)
            return nothing
        for condition in conditions(expression):
            self._warnings.extend(f"{where}: {doubt}" for doubt in doubts(condition))
        return expression

    def _description(self, table: Table, where: str, group: str) -> str:
        text = " ".join(self._text(table, "description", where, default="").split())
        room = _LONGEST - len(marker(group)) - 1
        if len(text) > room:
            self._fault(
                where,
                f"the description has {len(text)} characters",
                f"Monasca takes {_LONGEST}; {room} are left beside {marker(group)}, which is put at its end.",
            )
        return text

    def _match_by(self, table: Table, where: str) -> tuple[str, ...]:
        names = self._names(table, "match_by", where)
        for name in names:
            try:
                check_dimensions({name: "x"}, "match_by")
            except SeriesError as error:
                self._fault(where, error.what, error.remedy)
        if len(",".join(names)) > _LONGEST:
            self._fault(where, f"match_by is longer than {_LONGEST} characters", "Name fewer dimensions.")
        return names

    # -- notifications ----------------------------------------------------------------------------

    def _notification(self, table: Table, where: str) -> Notification | None:
        before = len(self._faults)
        name = self._name(table, where, _LONGEST_NOTIFICATION)
        kind = self._text(table, "type", where).upper()
        address = self._address(kind, self._text(table, "address", where), where)
        period = table.get("period", 0)
        if not isinstance(period, int) or isinstance(period, bool) or period < 0:
            self._fault(where, f"the period {period!r} is none", "Seconds; most clouds take 0 and 60.")
        return Notification(name, kind, address, period) if len(self._faults) == before else None

    def _address(self, kind: str, text: str, where: str) -> str:
        if not text:
            return ""
        instead = "Secrets never go into the file: write ${NAME}, and set that variable where this is called."
        missing = [name for name in _VARIABLE.findall(text) if not self._environ.get(name)]
        for name in missing:
            self._fault(where, f"the address needs the variable {name}, which is not set", f"Set {name}.")
        plain = _VARIABLE.sub("", text)
        if kind == "PAGERDUTY" and plain:
            self._fault(where, "the address of type PAGERDUTY is a secret key", instead)
        if re.match("[^:/]*://[^/?#]*@", plain):
            self._fault(where, "the address holds a user's name or password", instead)
        address = _VARIABLE.sub(lambda found: self._environ.get(found.group(1), ""), text)
        if not missing and (fault := fault_in_address(kind, address)):
            self._fault(where, f"the address {fault}", "EMAIL: somebody@example.org. WEBHOOK: https://example.org/….")
        return address

    # -- pieces -----------------------------------------------------------------------------------

    def _group(self, table: Table) -> str:
        if "group" not in table:
            return re.sub("[^A-Za-z0-9._-]", "-", self._stem).lstrip("._-")[:40] or "alarms"
        group = self._text(table, "group", self._source)
        if group and not _GROUP.fullmatch(group):
            self._fault(self._source, f"the group {_show(group)} is none", "Up to 40 letters, digits and . _ -.")
        return group

    def _entries(self, table: Table, what: str, keys: Iterable[str]) -> Iterator[tuple[str, Table]]:
        """Each table of a list, and what messages call it."""
        key = f"{what}s"
        entries = table.get(key) or []
        if not isinstance(entries, list):
            self._fault(self._source, f"{key} is {_kind(entries)}", f"Write a list: {key}:, then lines with - name: ….")
            return
        for number, entry in enumerate(entries, 1):
            name = entry.get("name") if isinstance(entry, Table) else None
            shown = _show(name) if isinstance(name, str) else str(number)
            line = f", line {entry.line}" if isinstance(entry, Table) else ""
            where = f"{self._source}{line}, {what} {shown}"
            found = self._table(entry, where, keys)
            if found is not None:
                yield where, found

    def _table(self, entry: object, where: str, keys: Iterable[str]) -> Table | None:
        if not isinstance(entry, Table):
            self._fault(where, f"is {_kind(entry)}", f"Write a line key: value for each of {', '.join(keys)}.")
            return None
        self._only(entry, keys, where)
        return entry

    def _only(self, table: Table, keys: Iterable[str], where: str) -> None:
        known = list(keys)
        for key in table:
            if key not in known:
                near = difflib.get_close_matches(str(key), known, 1)
                hint = f"Did you mean {near[0]}?" if near else f"The keys here: {', '.join(known)}."
                self._fault(where, f"there is no key {_show(str(key))}", hint)

    def _text(self, table: Table, key: str, where: str, *, default: str | None = None) -> str:
        value = default if table.get(key) is None else table[key]
        if not isinstance(value, str):
            what = f"{key} is missing" if value is None else f"{key} is {_kind(value)}"
            self._fault(where, what, f"Write {key}: followed by a text, in quotes if it looks like something else.")
            return ""
        if not _is_encodable(value):
            self._fault(where, f"{key} has half a character", "Write the whole one.")
        elif default is None and not value.strip():
            self._fault(where, f"{key} is empty", "Fill it in.")
        return value.strip()

    def _name(self, table: Table, where: str, longest: int) -> str:
        name = self._text(table, "name", where)
        if len(name) > longest:
            self._fault(where, f"the name has {len(name)} characters", f"Monasca takes {longest}.")
        if not name.isprintable():
            self._fault(where, f"the name {_show(name)} has characters that cannot be seen", "Leave them out.")
        return name

    def _names(self, table: Table, key: str, where: str) -> tuple[str, ...]:
        value = table.get(key) or []
        if not isinstance(value, list) or not all(isinstance(name, str) and name.strip() for name in value):
            kind = "has something else than texts in it" if isinstance(value, list) else f"is {_kind(value)}"
            self._fault(where, f"{key} {kind}", f"Write a list of names: {key}: [one, another].")
            return ()
        if len(set(value)) < len(value):
            self._fault(where, f"{key} names something twice", "Once is enough.")
        return tuple(value)

    def _twice(self, entries: Iterable[Alarm | Notification], what: str) -> None:
        met: dict[str, str] = {}
        for entry in entries:
            key = entry.name.casefold()
            if key in met:
                self._fault(
                    f"{self._source}, {what} {entry.name!r}",
                    f"there is another one of that name ({met[key]!r})",
                    "Names are unique, and MySQL takes capitals for small letters.",
                )
            met[key] = entry.name

    def _fault(self, where: str, what: str, hint: str) -> None:
        self._faults.append(AlarmError(f"{where}: {what}", remedy=hint))

    def _all_faults(self) -> AlarmError:
        if len(self._faults) == 1:
            return self._faults[0]
        what = f"{self._source} has {len(self._faults)} faults"
        return AlarmError(what, remedy="\n  ".join(str(fault) for fault in self._faults))


_ZERO: Final = Decimal(0)
_KINDS: Final = ((bool, "yes or no"), (int | float, "a number"), (str, "a text"), (list, "a list"), (dict, "a table"))


def _kind(value: object) -> str:
    return next((name for kind, name in _KINDS if isinstance(value, kind)), "empty" if value is None else "no text")


def _show(text: str) -> str:
    return repr(text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…")


def _is_encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeError:
        return False
    return True
