"""The page: complete, self-contained, readable by everyone, safe against what runs are called."""

from __future__ import annotations

import itertools
import math
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlops import report
from mlops.blocks import Columns
from mlops.errors import MissingExtraError, ReportError
from mlops.record import Record
from mlops.report.page import LARGEST, page
from mlops.series import Series
from tests.report.html import Page
from tests.report.written import BEGAN, METERS, NO_METERS, P, Written, batches, digits, epoch, in_order, readings

HOSTILE = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "</style><style>*{display:none}",
    "</svg></title><svg onload=alert(1)>",
    "{{ 7 * 7 }}{% for x in y %}",
    "a\u202eb\u0000c\n\x1b[31m&amp;\ud800",
    "javascript:alert(1)//url(http://evil.example/)",
]


def _finished(folder: Path) -> list[Record]:
    return [digits(folder).read()]


def _nothing_metered(folder: Path) -> list[Record]:
    return [digits(folder, notes=NO_METERS).read()]


def _failed(folder: Path) -> list[Record]:
    run = Written(folder, outcome="failed", reason="RuntimeError: CUDA out of memory")
    run.process([*epoch(1, 10, 10, loss=1.0, accuracy=0.5), *batches(10, 5, 9, 0.9)], {"dropped": 4, **NO_METERS})
    return [run.read()]


def _killed(folder: Path) -> list[Record]:
    run = Written(folder, outcome="running", ended=None, pid=1, pid_started=1, host="elsewhere")
    path = run.process(in_order(epoch(1, 10, 10, loss=1.0), batches(10, 5, 9, 0.9), readings(15)), METERS)
    for file in (path, run.folder.path / "run.json"):
        os.utime(file, (BEGAN, BEGAN))
    return [run.read()]


def _with_gap(folder: Path) -> list[Record]:
    run = Written(folder)
    path = run.process([P(float(at), "train.loss", 1.0 / (at + 1)) for at in range(100_000)])
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(data)
    return [run.read()]


def _empty(folder: Path) -> list[Record]:
    return [Written(folder, outcome="failed", reason="ImportError: no module").read()]


def _only_nan(folder: Path) -> list[Record]:
    run = Written(folder)
    bad = [P(at, "train.loss", math.nan) for at in (1.0, 2.0, 3.0)]
    run.process([*bad, *epoch(1, 5, 5, loss=math.nan, accuracy=math.nan)], NO_METERS)
    return [run.read()]


def _plain_loop(folder: Path) -> list[Record]:
    run = Written(folder)
    run.process(in_order(batches(0, 90, 60, 1.0), readings(90), [P(80, "valid.rmse", 0.25)]), METERS)
    return [run.read()]


def _one_point(folder: Path) -> list[Record]:
    run = Written(folder)
    run.process([P(0, "train.loss", 1.0)])
    return [run.read()]


def _side_by_side(folder: Path) -> list[Record]:
    return [
        digits(folder, "000001", parameters={"cap": 180}, watts=180).read(),
        digits(folder, "000002", parameters={"cap": 300}, watts=300).read(),
        digits(folder, "000003", parameters={"cap": "none"}, notes=NO_METERS).read(),
        Written(folder, "000004", outcome="failed", parameters={"cap": 1}).read(),
    ]


def _hostile(folder: Path) -> list[Record]:
    records = []
    for number, text in enumerate(HOSTILE):
        run = Written(
            folder,
            f"{number:06}",
            name=text,
            reason=text,
            outcome="failed",
            host=text,
            git_commit=text,
            parameters={text: text, "list": [text]},
            dimensions={"team": text},
            versions={text: text},
        )
        meters = {"meters": [{"device": "gpu", "id": text, "name": text, "method": text}], "not_metered": [text]}
        metric = [P(5, "valid.accuracy", 0.5, {"set": text}, 1), P(5, f"valid.{text}", 0.5, {}, 1)]
        energy = [P(at, "gpu.energy_joules", at, {"uuid": text, "method": text}) for at in (0.0, 10.0)]
        run.process(in_order(metric, epoch(1, 5, 5, loss=1.0), energy), meters)
        records.append(run.read())
    return records


SCENES: dict[str, Callable[[Path], list[Record]]] = {
    "finished": _finished,
    "nothing metered": _nothing_metered,
    "failed": _failed,
    "killed": _killed,
    "with a gap": _with_gap,
    "empty": _empty,
    "only nan": _only_nan,
    "plain loop": _plain_loop,
    "one point": _one_point,
    "side by side": _side_by_side,
    "hostile": _hostile,
}


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], str]:
    """The page about each scene, made once."""
    made: dict[str, str] = {}

    def text_of(scene: str) -> str:
        if scene not in made:
            made[scene] = page(SCENES[scene](tmp_path_factory.mktemp("runs")))
        return made[scene]

    return text_of


@pytest.fixture(params=list(SCENES))
def text(request: pytest.FixtureRequest, texts: Callable[[str], str]) -> str:
    """The page about one scene after the other."""
    return texts(request.param)


def test_a_page_asks_for_nothing_and_runs_nothing(text: str) -> None:
    """No script, no handler, no address but its own parts, in markup and style alike; and a policy that says so."""
    found = Page(text)
    assert not found.all("script")
    for element in found.elements:
        for name, value in element.attributes.items():
            assert not name.startswith("on"), (element.tag, name)
            if name in ("src", "href", "xlink:href", "action", "data", "srcset", "poster"):
                assert value is not None
                assert value.startswith("#") or value == "data:,", (element.tag, name, value)
            if name == "style":
                assert "url(" not in (value or "")
            elif "url(" in (value or "") and name != "aria-label":
                assert re.fullmatch(r"url\(#[\w-]+\)", value or ""), (element.tag, name, value)
    (style,) = found.all("style")
    assert "url(" not in style.text
    assert "@import" not in style.text
    policy = [meta for meta in found.all("meta") if meta.attributes.get("http-equiv") == "Content-Security-Policy"]
    assert policy[0].attributes["content"] == (
        "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'"
    )


def test_a_page_is_well_formed_and_its_ids_are_its_own(text: str) -> None:
    """Tags nest (the parser sees to it), ids are unique, and what is referred to is there."""
    found = Page(text)
    assert found.doctype == "DOCTYPE html"
    ids = [element.attributes["id"] for element in found.elements if "id" in element.attributes]
    assert len(ids) == len(set(ids))
    used = set(re.findall(r'(?:href="#|url\(#)([\w-]+)', text))
    assert used == set(ids)


def test_a_page_can_be_read_without_seeing_it(text: str) -> None:
    """Language, title, one first heading and none left out, figures with words, tables with heads and captions."""
    found = Page(text)
    assert found.all("html")[0].attributes["lang"] == "en"
    assert found.all("title")[0].text.strip()
    levels = [int(element.tag[1]) for element in found.elements if re.fullmatch(r"h[1-6]", element.tag)]
    assert levels.count(1) == 1
    assert levels[0] == 1
    assert all(after - before <= 1 for before, after in itertools.pairwise(levels))
    for drawing in found.all("svg"):
        if drawing.attributes.get("aria-hidden") == "true":
            continue
        assert drawing.attributes["role"] == "img"
        assert len(str(drawing.attributes["aria-label"])) > 20
    for table in found.all("table"):
        parts = [child.tag for child in table.children]
        assert parts == ["caption", "thead", "tbody"]
        assert table.children[0].text.strip()
        assert table.parent is not None
        assert (table.parent.attributes["role"], table.parent.attributes["tabindex"]) == ("region", "0")
        assert table.parent.attributes["aria-label"]
        for row in [element for element in found.all("tr") if element.parent in table.children]:
            assert row.children[0].tag == "th"
        widths = {len(row.children) for row in found.all("tr") if row.parent in table.children}
        assert len(widths) == 1
    for head in found.all("th"):
        assert head.attributes["scope"] in ("col", "row")


def test_a_page_is_small(text: str) -> None:
    """Whatever the scene."""
    assert len(text.encode()) <= LARGEST


def test_a_page_fits_phones_the_dark_and_paper(text: str) -> None:
    """Each figure in two widths, of which one is shown; styles for the dark and for print."""
    found = Page(text)
    assert any(meta.attributes.get("name") == "viewport" for meta in found.all("meta"))
    assert "@media (prefers-color-scheme: dark)" in text
    assert "@media print" in text
    classes = [drawing.attributes["class"] for drawing in found.all("svg") if "role" in drawing.attributes]
    assert classes.count("wide") == classes.count("narrow")
    colours = {colour for drawing in found.all("svg") for colour in re.findall("#[0-9a-f]{6}", str(drawing.attributes))}
    assert not colours
    assert not re.findall(r'style="[^"]*#[0-9a-fA-F]{6}', text)


def test_nothing_of_a_run_becomes_markup(texts: Callable[[str], str]) -> None:
    """Names, reasons, parameters, dimensions, versions, hosts and devices are shown as they are, and do nothing."""
    text = texts("hostile")
    found = Page(text)
    assert not {"script", "img", "iframe", "object", "embed", "form", "base"} & {e.tag for e in found.elements}
    read = found.text
    assert "<script>alert(1)</script>" in read
    assert "{{ 7 * 7 }}" in read
    assert "49" not in [cell.text for cell in found.all("dd")]
    assert r"a\u202eb\u0000c\u000a\u001b[31m&amp;" in read
    assert not re.search("[\x00-\x08\x0b-\x1f\u202e\ud800-\udfff]", text)
    assert len(found.all("style")) == len(found.all("title")) == 1


@pytest.mark.parametrize(
    ("scene", "sentences"),
    [
        (
            "finished",
            [
                "Finished after 12 epochs in 1 min 39 s, with a best accuracy of 99.04 % in epoch 12, for 22.39 kJ.",
                "2026-11-22 23:26:40 to 23:28:19 UTC on node-1 with NVIDIA Made-Up 100",
                "Measured by the GPU's own energy counter.",
                "Energy not metered here: host: RAPL is not readable on this machine (no /sys/class/powercap).",
                "The record is complete: 2,268 points, none dropped, no gap.",
                "4d80f9b7c2d2f0c9c9a1e7f3b3a0a5d1c0ffee00 with changes",
                "batch_size",
                "vision",
            ],
        ),
        ("nothing metered", ["its energy not metered", "Energy not metered here: nvidia: no NVIDIA driver"]),
        (
            "failed",
            ["Failed after 1 epoch", "RuntimeError: CUDA out of memory", "9 batches trained after", "4 points dropped"],
        ),
        ("killed", ["Ended without a word after 1 epoch", "9 batches trained after"]),
        ("with a gap", ["The record is not complete", "Gap in the record:", "known to be missing"]),
        ("empty", ["Failed", "ImportError: no module", "The run recorded no points."]),
        (
            "only nan",
            ["not a number", "5 points recorded as nan or infinite"],
        ),
        ("plain loop", ["whole run", "No epoch was completed", "Rmse"]),
        ("one point", ["Finished after"]),
        (
            "side by side",
            [
                "4 runs side by side",
                "digits cap=180",
                "digits cap=none: energy not metered here: nvidia: no NVIDIA driver",
                "not reached",
            ],
        ),
    ],
)
def test_a_page_says_what_happened(texts: Callable[[str], str], scene: str, sentences: list[str]) -> None:
    """In plain sentences, for each way in which a run can go."""
    read = re.sub(r"\s+", " ", Page(texts(scene)).text.replace("\N{NO-BREAK SPACE}", " "))
    for sentence in sentences:
        assert sentence in read, sentence


def test_power_that_was_not_metered_is_explained_once_in_place_of_its_panel_and_once_under_energy(
    texts: Callable[[str], str],
) -> None:
    """The reason is long; it stands where something is missing, and the caption promises no power."""
    assert texts("nothing metered").count("nvidia: no NVIDIA driver") == 2
    assert "power drawn meanwhile" not in texts("nothing metered")
    assert "power drawn meanwhile" in texts("finished")


def test_the_table_marks_the_best_without_colour(texts: Callable[[str], str]) -> None:
    """In words, beside the number."""
    (tag,) = [element for element in Page(texts("finished")).all("span") if element.attributes.get("class") == "tag"]
    assert tag.text == "best"
    assert tag.parent is not None
    assert tag.parent.text == "best0.9904"


@pytest.mark.slow
def test_the_energy_to_round_accuracies_and_to_asked_ones(tmp_path: Path) -> None:
    """The table tells epoch, time and energy; a target never reached is told as that."""
    record = digits(tmp_path).read()
    rows = [[cell.text for cell in row.children] for row in Page(page(record)).all("tr")]
    assert ["97 %", "7", "56.0 s", "12.69 kJ"] in rows
    asked = re.sub(r"\s+", " ", Page(page(record, targets=[0.5, 0.999])).text)
    assert "99.9 %not reached (best 99.04 %)" in asked


@pytest.mark.slow
def test_the_same_runs_give_the_same_bytes(tmp_path: Path) -> None:
    """Whoever makes the page, whenever and wherever: another process, time zone, locale and hash seed."""
    run = digits(tmp_path / "runs")
    here = page(run.read())
    code = "import sys; from mlops import report; report.write_page(report.read(sys.argv[1]), sys.argv[2])"
    environment = {**os.environ, "TZ": "Asia/Kathmandu", "LC_ALL": "C", "PYTHONHASHSEED": "7", "PYTHONUTF8": "0"}
    subprocess.run(
        [sys.executable, "-c", code, str(run.folder.path), str(tmp_path / "there.html")], env=environment, check=True
    )
    assert (tmp_path / "there.html").read_bytes() == here.encode()
    assert time.strftime("%Y-%m-%d") not in here or time.strftime("%Y-%m-%d") == "2026-11-22"


def _long(folder: Path, count: int, series: dict[int, Series], **info: Any) -> Written:
    """A run of many noisy points, shared evenly among its series."""
    noise = np.random.default_rng(7).standard_normal(count)
    ids = np.tile(np.arange(len(series), dtype=np.uint32), count // len(series) + 1)[:count]
    columns = Columns(np.linspace(BEGAN, BEGAN + 5000, count), np.exp(noise), ids, np.zeros(count, np.uint32))
    run = Written(folder, **info)
    run.columns(columns, series, METERS)
    return run


@pytest.mark.slow
def test_a_million_points_make_a_small_page(tmp_path: Path) -> None:
    """Lines are reduced to the width of a screen, whatever they were."""
    series = {0: Series("train.loss"), 1: Series("train.smooth_loss")}
    series |= {2 + number: Series.of("gpu.power_watts", {"uuid": f"GPU-{number}"}) for number in range(4)}
    text = page(_long(tmp_path, 1_000_000, series).read())
    assert len(text.encode()) <= LARGEST


@pytest.mark.slow
def test_the_largest_pages_are_small_too(tmp_path: Path) -> None:
    """24 noisy runs with long tables and long parameters: less detail, said to be so, and still one page."""
    records = []
    parameters = {f"parameter {number}": "x" * 5000 for number in range(300)}
    for number in range(24):
        points = [point for e in range(1, 500) for point in epoch(e, 10.0 * e, 10, **{f"m{m}": 0.5 for m in range(20)})]
        run = Written(tmp_path, f"{number:06}", name=f"run {number}", parameters={**parameters, "n": number})
        run.process(in_order(points, readings(5000)), METERS)
        records.append(run.read())
    text = page(records)
    assert len(text.encode()) <= LARGEST
    read = Page(text).text
    assert "of 499 epochs are shown" in read
    assert "more entries" in read
    assert "more characters" in read
    assert "more metrics are not shown" in read


def test_a_page_is_written_whole_for_its_owner_alone(tmp_path: Path) -> None:
    """Mode 0600; a folder that is not there is an error with a remedy; what was there is replaced, link or not."""
    record = digits(tmp_path / "runs").read()
    other = tmp_path / "other.txt"
    other.write_text("mine")
    (tmp_path / "report.html").symlink_to(other)
    report.write_page(record, tmp_path / "report.html")
    assert other.read_text() == "mine"
    assert (tmp_path / "report.html").stat().st_mode & 0o777 == 0o600
    with pytest.raises(ReportError, match="Cannot write"):
        report.write_page(record, tmp_path / "no" / "report.html")


def test_without_jinja_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever installed the core only is told what to install."""
    record = digits(tmp_path).read()
    monkeypatch.setitem(sys.modules, "jinja2", None)
    with pytest.raises(MissingExtraError, match=r"mlops\[report\]"):
        report.write_page(record, tmp_path / "a.html")
