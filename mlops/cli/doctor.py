"""``mlops doctor``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from mlops.cli import output
from mlops.cli.options import Documented, devices_chosen, format_option, runs_dir_option

if TYPE_CHECKING:
    from mlops.doctor import Examination

__all__ = ["command"]

_MARKS: Final = {"ok": ("✓", "green"), "note": ("–", None), "warning": ("!", "yellow"), "broken": ("✗", "red")}


@click.command(
    "doctor",
    cls=Documented,
    examples=[
        ("mlops doctor", ""),
        ("mlops doctor --sink statsd://monitor:8125", "would that work?"),
        ("mlops doctor -o json | jq .meters", ""),
    ],
)
@format_option("table", "json", "yaml", default="table")
@click.option("--sink", "sinks", multiple=True, metavar="URL", help="Look at this sink instead of the configured ones.")
@click.option("--device", "devices", multiple=True, metavar="KIND", help="Look at this device instead; none for none.")
@runs_dir_option
@click.pass_context
def command(
    ctx: click.Context,
    /,
    *,
    form: str,
    sinks: tuple[str, ...],
    devices: tuple[str, ...],
    runs_dir: Path | None,
) -> None:
    """Say what is found here: GPUs, meters, sinks, versions, settings and where each came from.

    What is absent and not asked for is a note. The exit code is 0 unless something that is configured is broken: a
    setting that cannot be understood, a sink that refuses, a folder that cannot be written.
    """
    from mlops.doctor import examine

    given = {"sinks": sinks or None, "devices": devices_chosen(devices), "runs_dir": runs_dir}
    found = examine(given)
    if form == "table":
        _show(found)
    else:
        output.structured(found.as_json(), form)
    ctx.exit(0 if found.ok else 1)


def _show(found: Examination) -> None:
    system = found.system
    click.echo(f"mlops {found.versions['mlops']}, Python {found.versions['python']} ({system['executable']})")
    click.echo(f"{system['host']}, {system['system']}, {system['machine']}")
    for section in dict.fromkeys([*(finding.section for finding in found.findings), "settings"]):
        findings = [finding for finding in found.findings if finding.section == section]
        click.echo()
        click.echo(click.style(section, bold=True))
        room = max((len(finding.name) for finding in findings), default=0)
        for finding in findings:
            mark, colour = _MARKS[finding.state]
            head = f"  {click.style(mark, fg=colour, bold=True)} {finding.name.ljust(room)}  "
            output.hanging(head, finding.text)
            if finding.remedy:
                output.hanging(" " * len(click.unstyle(head)), finding.remedy, dim=True)
    columns = {"name": "NAME", "value": "VALUE", "source": "FROM", "about": "WHAT IT IS"}
    output.table(columns, [{**row, "source": _source(row["source"])} for row in found.settings], indent=2)
    click.echo()
    bad = sum(finding.state == "broken" for finding in found.findings)
    if not bad:
        click.echo(click.style("All that is configured works.", fg="green"))
        return
    things = "One thing that is configured does" if bad == 1 else f"{bad} things that are configured do"
    click.echo(click.style(f"{things} not work; see ✗ above.", fg="red"))


def _source(source: str) -> str:
    return output.near(Path(source)) if source.startswith("/") else source
