"""A figure as a piece of a page: small, following the page's colours and fonts, and named for who cannot see it."""

from __future__ import annotations

import io
import itertools
import re
import xml.etree.ElementTree as ET
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

from mlops.report.style import VARIABLES

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["inline_svg"]

_SVG: Final = "http://www.w3.org/2000/svg"
_USE: Final = f"{{{_SVG}}}use"
_LINK: Final = "{http://www.w3.org/1999/xlink}href"
_NUMBER: Final = re.compile(r"-?\d+\.\d+")
_FONT: Final = re.compile(r"font-family:[^;]*;?\s*")
_HEX: Final = re.compile(r"#[0-9a-fA-F]{6}\b")
_COMMAND: Final = re.compile(r"\s*([A-Za-z])\s*")
_UNTURNED: Final = re.compile(r"^rotate\(-?0[ )].*")
_REFERENCE: Final = re.compile(r"url\(#([^)]+)\)")


def inline_svg(figure: Figure, *, name: str, description: str, css_class: str) -> str:
    """The figure as an ``<svg>`` element to stand inside HTML.

    Colours become CSS variables, text stays text in the page's font, numbers lose what no screen
    shows.  Ids are numbered anew, those that nothing refers to are gone, and so is what matplotlib
    says of itself and the date: the same figure gives the same text.

    Args:
        figure: drawn under :func:`mlops.report.figures.quiet_style`, which must still be in force.
        name: begins every id, so that several figures can stand in one page.
        description: what it shows, in words.
        css_class: of the element.
    """
    written = io.BytesIO()
    figure.savefig(written, format="svg", transparent=True)
    root = ET.fromstring(written.getvalue())  # noqa: S314 - matplotlib wrote it just now
    root.attrib.pop("version", None)
    for size in ("width", "height"):
        root.attrib.pop(size, None)
    root.set("class", css_class)
    root.set("role", "img")
    root.set("aria-label", description)
    used = {reference: f"{name}-{place}" for place, reference in enumerate(_references(root))}
    for parent in root.iter():
        for child in list(parent):
            if child.tag in (f"{{{_SVG}}}metadata", f"{{{_SVG}}}style"):
                parent.remove(child)
    for element in root.iter():
        _lighten(element, used)
    _flatten(root)
    ET.register_namespace("", _SVG)
    return ET.tostring(root, encoding="unicode").replace(f' xmlns="{_SVG}"', "", 1).strip()


def _references(root: ET.Element) -> dict[str, None]:
    """The ids that something refers to, in the order of the document."""
    used: dict[str, None] = {}
    for element in root.iter():
        for value in element.attrib.values():
            used.update(dict.fromkeys(_REFERENCE.findall(value)))
        if (link := element.get(_LINK)) is not None:
            used[link.removeprefix("#")] = None
    return used


def _flatten(parent: ET.Element) -> None:
    """Without groups that group nothing and say nothing."""
    kept: list[ET.Element] = []
    for child in list(parent):
        _flatten(child)
        if child.tag == f"{{{_SVG}}}g" and not child.attrib:
            kept.extend(child)
        elif child.tag != f"{{{_SVG}}}defs" or len(child):
            kept.append(child)
    parent[:] = _gathered(kept)
    if len(parent):
        parent.text = None
    for child in parent:
        child.tail = "\n"


def _gathered(children: list[ET.Element]) -> list[ET.Element]:
    """Marks of one look in a row share a group, which says the look once."""
    rows: list[ET.Element] = []
    for style, group in itertools.groupby(children, key=lambda one: one.get("style") if one.tag == _USE else None):
        marks = list(group)
        if style is None or len(marks) == 1:
            rows.extend(marks)
            continue
        shared = ET.Element(f"{{{_SVG}}}g", {"style": style})
        shared.extend(marks)
        for mark in marks:
            del mark.attrib["style"]
            mark.tail = "\n"
        rows.append(shared)
    return rows


def _lighten(element: ET.Element, used: Mapping[str, str]) -> None:
    attributes = element.attrib
    own = attributes.pop("id", None)
    if own is not None and own in used:
        attributes["id"] = used[own]
    link = attributes.pop(_LINK, None)
    if link is not None:
        attributes["href"] = f"#{used[link.removeprefix('#')]}"
    if _UNTURNED.match(attributes.get("transform", "")):
        del attributes["transform"]
    for key, value in attributes.items():
        if key == "style":
            attributes[key] = _HEX.sub(_variable, _FONT.sub("", value)).strip()
        elif key in ("d", "x", "y", "transform", "width", "height"):
            attributes[key] = _NUMBER.sub(_rounded, value)
            if key == "d":
                attributes[key] = _COMMAND.sub(r"\1", attributes[key]).strip()
        elif key == "clip-path":
            attributes[key] = _REFERENCE.sub(lambda found: f"url(#{used[found.group(1)]})", value)


def _variable(found: re.Match[str]) -> str:
    colour = found.group().lower()
    return f"var({VARIABLES[colour]})" if colour in VARIABLES else colour


def _rounded(found: re.Match[str]) -> str:
    """To a tenth of a point, about half of a printer's dot."""
    text = f"{float(found.group()):.1f}".removesuffix(".0")
    return "0" if text == "-0" else text
