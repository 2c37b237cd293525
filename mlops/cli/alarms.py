"""``mlops alarms …``."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from mlops.cli import output
from mlops.cli.options import Documented, DocumentedGroup, format_option, settings

if TYPE_CHECKING:
    from mlops.monasca import Monasca
    from mlops.monasca.alarms import Change, Definition

__all__ = ["command"]

F = TypeVar("F", bound=Callable[..., Any])

_log = logging.getLogger("mlops")

_COLOURS: Final = {"created": "green", "updated": "yellow", "replaced": "yellow", "deleted": "red"}
_LIST: Final = {"name": "NAME", "severity": "SEVERITY", "group": "GROUP", "expression": "EXPRESSION"}
_WIDE: Final = {
    "name": "NAME",
    "severity": "SEVERITY",
    "group": "GROUP",
    "expression": "EXPRESSION",
    "match_by": "MATCH BY",
    "actions": "ACTIONS",
    "muted": "MUTED",
    "id": "ID",
    "description": "DESCRIPTION",
}
_NOTIFICATIONS: Final = {"name": "NAME", "type": "TYPE", "address": "ADDRESS", "period": "AGAIN AFTER"}
_ROLE: Final = (
    "Changing alarms needs the role that Monasca calls monasca-user on most clouds; seeing them, that or "
    "monasca-read-only-user. Another role: exit code 4."
)
_ENGINE: Final = (
    "Monasca's threshold engine evaluates the definitions, once a minute, in the cloud; mlops makes them and shows "
    "them. How a file is written: k8s/alarms/training.yaml is one, with comments."
)


@click.group(
    "alarms",
    cls=DocumentedGroup,
    examples=[
        ("mlops alarms apply k8s/alarms/training.yaml --dry-run", "what would change?"),
        ("mlops alarms apply k8s/alarms/training.yaml", "make them, or bring them up to date"),
        ("mlops alarms apply alarms.yaml --prune", "a file beside the notebook; what it has no more is deleted"),
        ("mlops alarms list -o wide", ""),
        ("mlops alarms delete --group training", ""),
    ],
    notes=[_ENGINE, _ROLE],
)
def command() -> None:
    """Keep Monasca's alarm definitions as a file says: make, change, list and delete them."""


def cloud_option(command: F) -> F:
    """``--cloud CLOUD``."""
    return click.option(
        "--cloud",
        metavar="CLOUD",
        help="A cloud of clouds.yaml; else that of the sink monasca://… in MLOPS_SINKS, else of OS_CLOUD or the OS_* "
        "variables.",
    )(command)


@command.command(
    "apply",
    cls=Documented,
    examples=[
        ("mlops alarms apply k8s/alarms/training.yaml", ""),
        ("mlops alarms apply alarms.yaml --dry-run -o json | jq '.[] | select(.what != \"unchanged\")'", ""),
        ("sed s/HIGH/LOW/ alarms.yaml | mlops alarms apply -", ""),
    ],
    notes=[_ROLE],
)
@click.argument("file", type=click.Path(dir_okay=False))
@click.option("--dry-run", is_flag=True, help="Only say what would be changed.")
@click.option(
    "--prune", is_flag=True, help="Delete the definitions of the file's group that it does not have any more."
)
@click.option(
    "--replace",
    is_flag=True,
    help="Where Monasca cannot change a definition as the file says (its metrics, dimensions, functions, periods, "
    "match_by), delete it, with its alarms and their states, and make it anew.",
)
@cloud_option
@format_option("table", "json", "yaml", default="table")
def apply_command(*, file: str, dry_run: bool, prune: bool, replace: bool, cloud: str | None, form: str) -> None:
    """Bring a file's alarms into force. What is so already is left alone. FILE may be - for standard input.

    Expressions are checked before anything is sent: a file with a fault changes nothing. Existing definitions are
    found by name. Those of a file are marked with its group (the file's name, or what it says for group), so that
    --prune touches no others.
    """
    from mlops.monasca.alarm_file import read
    from mlops.monasca.alarms import apply

    wanted = read(file)
    for warning in wanted.warnings:
        _log.warning("%s", warning)
    monasca = _connect(cloud)
    changes = apply(wanted, monasca, dry_run=dry_run, prune=prune, replace=replace)
    if form != "table":
        output.structured([change.as_json() for change in changes], form)
        return
    _show(changes)
    what = f"{_counted(changes)} of the group {wanted.group} in {monasca.cloud.name}."
    click.echo(f"{what} Nothing was changed: this was a dry run." if dry_run else what)


@command.command(
    "list",
    cls=Documented,
    examples=[
        ("mlops alarms list", ""),
        ("mlops alarms list --group training -o wide", ""),
        ("mlops alarms list -o json | jq '.[].expression'", ""),
    ],
    notes=[_ROLE],
)
@click.option("--group", metavar="GROUP", help="Only those of this group.")
@cloud_option
@format_option("table", "wide", "name", "json", "yaml", default="table")
def list_command(*, group: str | None, cloud: str | None, form: str) -> None:
    """List the project's alarm definitions, whoever made them."""
    from mlops.monasca.alarms import definitions

    monasca = _connect(cloud)
    found = [one for one in definitions(monasca) if group is None or one.group == group]
    if form == "name":
        for one in found:
            click.echo(one.name)
    elif form in {"json", "yaml"}:
        output.structured([asdict(one) for one in found], form)
    elif found:
        output.table(_WIDE if form == "wide" else _LIST, [_row(one) for one in found])
    else:
        of_group = f" of the group {group!r}" if group is not None else ""
        click.echo(f"No alarm definitions{of_group} in {monasca.cloud.name}.")


@command.command(
    "notifications",
    cls=Documented,
    examples=[("mlops alarms notifications", ""), ("mlops alarms notifications -o json | jq '.[].name'", "")],
    notes=["What may be a secret in an address, such as a webhook's path, is not shown.", _ROLE],
)
@cloud_option
@format_option("table", "json", "yaml", default="table")
def notifications_command(*, cloud: str | None, form: str) -> None:
    """List whom alarms can tell. The names are those that actions in a file use."""
    from mlops.monasca.alarms import masked, notifications

    monasca = _connect(cloud)
    found = [
        {
            "name": name,
            "type": str(method.get("type")),
            "address": masked(str(method.get("type")), str(method.get("address"))),
            "period": int(method.get("period") or 0),
            "id": str(method.get("id")),
        }
        for name, method in notifications(monasca).items()
    ]
    if form != "table":
        output.structured(found, form)
    elif found:
        rows = [{**one, "period": f"{one['period']} s" if one["period"] else "never"} for one in found]
        output.table(_NOTIFICATIONS, [{key: str(row[key]) for key in _NOTIFICATIONS} for row in rows])
    else:
        click.echo(f"No notifications in {monasca.cloud.name}. A file of alarms can define some.")


@command.command(
    "delete",
    cls=Documented,
    examples=[
        ("mlops alarms delete 'GPU hot'", ""),
        ("mlops alarms delete --group training --dry-run", "what would be deleted?"),
    ],
    notes=[_ROLE],
)
@click.argument("names", nargs=-1, metavar="[NAME…]")
@click.option("--group", metavar="GROUP", help="All definitions of this group.")
@click.option("--dry-run", is_flag=True, help="Only say what would be deleted.")
@cloud_option
@format_option("table", "json", "yaml", default="table")
def delete_command(*, names: Sequence[str], group: str | None, dry_run: bool, cloud: str | None, form: str) -> None:
    """Delete alarm definitions, by name or by group. Their alarms, and the states of these, go with them."""
    from mlops.monasca.alarms import remove

    if not names and not group:
        raise click.UsageError("Nothing is named to be deleted. Name definitions, or a group with --group.")
    monasca = _connect(cloud)
    changes = remove(monasca, names, group=group or "", dry_run=dry_run)
    if form != "table":
        output.structured([change.as_json() for change in changes], form)
        return
    _show(changes)
    what = f"{_counted(changes)} in {monasca.cloud.name}."
    click.echo(f"{what} Nothing was changed: this was a dry run." if dry_run else what)


def _connect(cloud: str | None) -> Monasca:
    from mlops.monasca import Monasca

    return Monasca.connect(cloud or _cloud_of_sinks())


def _cloud_of_sinks() -> str:
    """The cloud of the first sink of the settings that names one."""
    from urllib.parse import unquote

    for url in settings().sinks:
        scheme, _, rest = url.strip().partition("://")
        cloud = unquote(rest.partition("?")[0].partition("/")[0])
        if scheme == "monasca" and cloud:
            return cloud
    return ""


# -- what is shown ---------------------------------------------------------------------------------


def _show(changes: Sequence[Change]) -> None:
    room = max((len(change.what) for change in changes), default=0)
    for change in changes:
        colour = _COLOURS.get(change.what)
        what = click.style(change.what.ljust(room), fg=colour, dim=colour is None)
        kind = "notification " if change.kind == "notification" else ""
        click.echo(f"{what}  {kind}{change.name}")
        head = " " * (room + 4)
        if change.why:
            output.hanging(head, f"because {change.why}", dim=True)
        for key, (before, after) in change.fields.items():
            output.hanging(head, f"{key}: {_value(before)} → {_value(after)}")


def _value(value: object) -> str:
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(str, value))}]"
    return str(value) or "nothing"


def _counted(changes: Sequence[Change]) -> str:
    """``7 alarms: 2 created, 5 unchanged``."""
    alarms = [change.what for change in changes if change.kind == "alarm"]
    counts = {what: alarms.count(what) for what in dict.fromkeys(alarms)}
    parts = ", ".join(f"{count} {what}" for what, count in counts.items())
    total = f"{len(alarms)} alarm{'s' if len(alarms) != 1 else ''}"
    return f"{total}: {parts}" if parts else total


def _row(one: Definition) -> Mapping[str, str]:
    return {
        "name": one.name,
        "severity": one.severity,
        "group": one.group,
        "expression": one.expression,
        "match_by": ",".join(one.match_by),
        "actions": ",".join(one.actions),
        "muted": "yes" if one.muted else "",
        "id": one.id,
        "description": one.description,
    }
