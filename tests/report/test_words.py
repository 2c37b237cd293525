"""Numbers and names as people read them."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlops.report import words


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "–"),
        (0.0, "0.0000"),
        (0.012345, "0.0123"),
        (1.23456, "1.235"),
        (123.456, "123.5"),
        (12345.6, "12,346"),
        (-2.5, "−2.500"),
        (1e12, "1.000e12"),
        (0.00001, "1.000e−5"),
        (math.nan, "not a number"),
        (-math.inf, "−∞"),
    ],
)
def test_numbers(value: float | None, text: str) -> None:
    """A few significant digits, thousands parted, a true minus."""
    assert words.number(value) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, "–"),
        (0.214, "0.21 s"),
        (48.04, "48.0 s"),
        (151, "2 min 31 s"),
        (3599.6, "1 h 00 min"),
        (18240, "5 h 04 min"),
        (284_400, "3 d 7 h"),
        (math.inf, "–"),
    ],
)
def test_durations(seconds: float | None, text: str) -> None:
    """Two units at most."""
    assert words.duration(seconds) == text


def test_energy_power_and_time() -> None:
    """With the prefix that fits; times in UTC wherever they are read."""
    assert [words.energy(joules) for joules in (512.0, 1234.0, 12_300_000.0, None)] == [
        "512.0 J",
        "1.234 kJ",
        "12.30 MJ",
        "–",
    ]
    assert words.power(231.4) == "231.4 W"
    assert words.utc(1_795_390_000.9) == "2026-11-22 23:26:40 UTC"
    assert words.utc(1e30) == "1e+30 s since 1970"
    assert words.utc(math.nan) == "–"


def test_metrics_called_accuracy_are_per_cent() -> None:
    """Others, and values that are no share, are plain numbers."""
    assert words.metric_value("accuracy", 0.9889) == "98.89 %"
    assert words.metric_value("accuracy", 98.9) == "98.90"
    assert words.metric_value("f1", 0.5) == "0.5000"


@given(st.text())
def test_no_text_hides_or_breaks_what_stands_around_it(text: str) -> None:
    """Control characters, reordering marks and lone surrogates are shown as their codes; the rest stays."""
    clean = words.clean(text)
    assert all(character.isprintable() or character.isspace() for character in clean)
    assert not any(character in clean for character in "\n\r\t\x00\u202e\u200b\ufeff")
    clean.encode()
    if text.isascii() and text.isprintable():
        assert clean == text


def test_what_is_cut_off_is_said() -> None:
    """A text of a megabyte takes a line, and tells its length."""
    assert words.shorten("a" * 30, 10) == "a" * 10 + "… (20 more characters)"
    assert words.shorten("a\u202eb", 20) == r"a\u202eb"


def test_lists_of_words() -> None:
    """As one speaks."""
    assert [words.listed(parts) for parts in ([], ["a"], ["a", "b"], ["a", "b", "c"])] == [
        "",
        "a",
        "a and b",
        "a, b and c",
    ]
    assert words.count(1, "epoch") == "1 epoch"
    assert words.count(2000, "batch", "batches") == "2,000 batches"


def test_reasons_are_sentences_of_their_own() -> None:
    """Each reason ends with one full stop, whether the device gave it one or not."""
    assert (
        words.not_metered(["No driver", "No RAPL: load it."]) == "Energy not metered here: No driver. No RAPL: load it."
    )
    assert words.not_metered(["no"], "run b: energy") == "run b: energy not metered here: no."
