"""A figure as a piece of a page."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from pathlib import Path

from mlops.report.figures import WIDE, quiet_style, sheet
from mlops.report.panels import history_panels
from mlops.report.style import DARK, VARIABLES, line_style
from mlops.report.subjects import subjects_of
from mlops.report.svg import inline_svg
from tests.report.written import digits


def _drawing(runs_dir: Path, name: str = "history", description: str = "what it shows") -> str:
    panels, _ = history_panels(subjects_of(digits(runs_dir).read()), WIDE)
    with quiet_style():
        return inline_svg(sheet(panels, WIDE), name=name, description=description, css_class="wide")


def test_a_drawing_follows_the_page(runs_dir: Path) -> None:
    """Its colours are the page's variables, its fonts the page's, its size the column's."""
    text = _drawing(runs_dir)
    root = ET.fromstring(text)  # noqa: S314 - made just now
    assert root.get("viewBox", "").startswith("0 0 720")
    assert "width" not in root.attrib
    assert "font-family" not in text
    assert not re.search(r"#[0-9a-fA-F]{6}", text)
    assert set(re.findall(r"var\((--[\w-]+)\)", text)) <= set(VARIABLES.values())
    assert "Loss, logarithmic scale" in [element.text for element in root.iter("text")]


def test_a_drawing_is_named_and_its_ids_are_its_own(runs_dir: Path) -> None:
    """Two drawings can stand in one page; quotes in what it shows break nothing."""
    text = _drawing(runs_dir, "first", 'a "b" <c>')
    root = ET.fromstring(text)  # noqa: S314 - made just now
    assert (root.get("role"), root.get("aria-label")) == ("img", 'a "b" <c>')
    ids = re.findall(r' id="([^"]+)"', text)
    assert ids
    assert all(name.startswith("first-") for name in ids)
    assert {name.removeprefix("#") for name in re.findall(r'href="([^"]+)"', text)} <= set(ids)


def test_a_drawing_is_small_and_always_the_same(runs_dir: Path) -> None:
    """Three panels of a dozen epochs in 25 kB, byte for byte."""
    text = _drawing(runs_dir)
    assert len(text) < 25_000
    assert text == _drawing(runs_dir / "again")


def _luminance(colour: str) -> float:
    parts = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def _contrast(one: str, other: str) -> float:
    light, dark = sorted((_luminance(one), _luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def test_every_line_and_text_has_contrast_in_light_and_dark() -> None:
    """At least 4.5 to 1 against the surface (WCAG 2.2, AA), by day and by night."""
    light = {name: colour for colour, name in VARIABLES.items()}
    dark = {VARIABLES[colour]: other for colour, other in DARK.items()}
    assert light.keys() == dark.keys()
    shown = ["--ink", "--muted", *(VARIABLES[line_style(place).hue] for place in range(6))]
    for name in shown:
        for colours in (light, dark):
            assert _contrast(colours[name], colours["--surface"]) >= 4.5, name
