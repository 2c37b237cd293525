"""One self-contained HTML page about a run, or about several side by side.

It needs nothing but itself: no request, no script, no colour.  The same runs give the same bytes.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from mlops.errors import MissingExtraError, ReportError
from mlops.record import Record
from mlops.report import words
from mlops.report.cells import Limits
from mlops.report.comparison import swatches
from mlops.report.content import document
from mlops.report.describe import described
from mlops.report.figures import NARROW, WIDE, quiet_style, sheet
from mlops.report.files import replaced
from mlops.report.panels import Layout, Panel, energy_panels, history_panels, label_once
from mlops.report.style import DARK, VARIABLES
from mlops.report.subjects import Subject, subjects_of
from mlops.report.svg import inline_svg

if TYPE_CHECKING:
    from jinja2 import Environment

__all__ = ["LARGEST", "page", "write_page"]

LARGEST: Final = 500_000
"""Bytes of a page at most: what goes by mail and opens at once."""


@dataclass(frozen=True, slots=True)
class Detail:
    """How much a page shows; the next one is taken when a page is too large.

    Attributes:
        points: share of the usual spans of time of each line.
        limits: rows, columns and texts of the tables.
    """

    points: float
    limits: Limits


_DETAILS: Final = (
    Detail(1.0, Limits(rows=200, metrics=12, entries=100, letters=400)),
    Detail(0.5, Limits(rows=60, metrics=10, entries=60, letters=200)),
    Detail(0.25, Limits(rows=24, metrics=6, entries=24, letters=100)),
    Detail(0.1, Limits(rows=10, metrics=4, entries=10, letters=60)),
)


def write_page(
    records: Record | Sequence[Record], path: str | os.PathLike[str], *, targets: Sequence[float] = ()
) -> None:
    """Write a page about a run, or about several side by side.

    Args:
        records: the runs.
        path: the file to write, whole or not at all.
        targets: values of the main metric to tell the energy to; round ones that were reached if not given.

    Raises:
        ReportError: there are no runs or too many, or the file cannot be written.
        MissingExtraError: matplotlib or jinja2 is not installed.
    """
    text = page(records, targets=targets)
    with replaced(path) as file:
        file.write(text.encode())


def page(records: Record | Sequence[Record], *, targets: Sequence[float] = ()) -> str:
    """The page as text; see :func:`write_page`."""
    subjects = subjects_of(records)
    environment = _environment()
    for detail in _DETAILS:
        text = _rendered(environment, subjects, detail, targets)
        if len(text.encode()) <= LARGEST:
            return text
    raise ReportError(
        f"The page about {words.count(len(subjects), 'run')} would be larger than {LARGEST // 1000} kB",
        remedy="Report fewer runs at once.",
    )


def _environment() -> Environment:
    try:
        from jinja2 import DictLoader, Environment, StrictUndefined
    except ImportError as error:
        raise MissingExtraError("jinja2", "report") from error
    folder = Path(__file__).parent
    texts = {name: (folder / name).read_text(encoding="utf-8") for name in ("page.html.j2", "page.css")}
    return Environment(
        loader=DictLoader(texts), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )


def _rendered(environment: Environment, subjects: Sequence[Subject], detail: Detail, targets: Sequence[float]) -> str:
    from markupsafe import Markup

    history = _figure("history", subjects, detail)
    energy = _figure("energy", subjects, detail)
    energy["missing"] = [sentence for sentence in energy["missing"] if sentence not in history["missing"]]
    shown = document(subjects, detail.limits, targets)
    return environment.get_template("page.html.j2").render(
        **shown,
        css=Markup(environment.get_template("page.css").render(light=_variables(light=True), dark=_variables())),  # noqa: S704 - our own style sheet
        history=history,
        energy_figure=energy,
        swatches=[Markup(swatch) for swatch in swatches(len(subjects))],  # noqa: S704 - made of our own styles
    )


def _figure(kind: str, subjects: Sequence[Subject], detail: Detail) -> dict[str, Any]:
    """Both sizes of a figure, and what cannot be shown in it."""
    from markupsafe import Markup

    drawings = []
    missing: list[str] = []
    for name, layout in (("wide", WIDE), ("narrow", NARROW)):
        fitted = replace(layout, buckets=max(30, int(layout.buckets * detail.points)))
        panels, missing = _panels(kind, subjects, fitted)
        if not panels:
            continue
        text = described(panels)
        with quiet_style():
            drawn = sheet(panels, fitted)
            svg = inline_svg(drawn, name=f"{kind}-{name}", description=text, css_class=name)
        drawings.append(Markup(svg))  # noqa: S704 - serialised by an XML library, which escapes
    return {"drawings": drawings, "missing": missing}


def _panels(kind: str, subjects: Sequence[Subject], layout: Layout) -> tuple[list[Panel], list[str]]:
    if kind == "energy":
        return energy_panels(subjects, layout)
    panels, missing = history_panels(subjects, layout)
    if len(subjects) > 1:
        label_once(panels)
    return panels, missing


def _variables(*, light: bool = False) -> str:
    return " ".join(f"{name}: {colour if light else DARK[colour]};" for colour, name in VARIABLES.items())
