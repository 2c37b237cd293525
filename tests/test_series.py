"""Monasca's rules for names and dimensions."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlops.errors import SeriesError
from mlops.series import METRICS, Series, as_number, check_dimensions, check_name, mend_dimensions, mend_name, metric

FORBIDDEN = '<>={},"\\;&|'


@pytest.mark.parametrize(
    "name", ["train.loss", "valid.top-5@1", "loss/train", "потеря", "a'b", "x" * 255, "hash#inside", "acc%"]
)
def test_names_that_the_real_agent_takes_are_taken(name: str) -> None:
    """Names seen to arrive through the real agent are not refused."""
    assert check_name(name) == name


@pytest.mark.parametrize(
    ("name", "fault", "mended"),
    [
        ("loss(train)", r"contains '\(' at position 5", "loss_train_"),
        ("a b", "contains ' ' at position 2", "a_b"),
        ("lr=1", "contains '='", "lr_1"),
        ("a:b", "contains ':'", "a_b"),
        ("a\nb", r"contains '\\n'", "a_b"),
        ("_epoch.loss", "begins with '_e'", "epoch.loss"),
        ("_score", "begins with '_sc'", "score"),
        ("#x", "begins with '#'", "x"),
        ("x" * 256, "256 characters; 255 are allowed", "x" * 255),
        ("a\ud800", "contains", "a_"),
    ],
)
def test_a_bad_name_is_refused_with_the_character_and_a_mended_name(name: str, fault: str, mended: str) -> None:
    """The message says what is wrong and where; the mended name is offered and is good."""
    with pytest.raises(SeriesError, match=fault) as caught:
        check_name(name)
    assert caught.value.mended == mended
    assert check_name(mended) == mended


@pytest.mark.parametrize("name", ["", "   ", "()", 5, None, b"x"])
def test_a_name_of_which_nothing_is_left_is_refused_without_a_suggestion(name: object) -> None:
    """There is nothing to offer for it."""
    with pytest.raises(SeriesError) as caught:
        check_name(name)
    assert caught.value.mended is None


@given(st.text(max_size=300))
def test_what_mending_gives_is_always_allowed(name: str) -> None:
    """Whatever a name is made of, its mended form passes, and a good name is its own mended form."""
    try:
        mended = mend_name(name)
    except SeriesError:
        return
    assert check_name(mended) == mended
    assert mend_name(mended) == mended


@given(st.dictionaries(st.text(max_size=300), st.one_of(st.text(max_size=300), st.integers(), st.floats(), st.none())))
def test_mended_dimensions_are_always_allowed(dimensions: dict[str, object]) -> None:
    """Whatever dimensions are made of, their mended form passes unchanged."""
    mended = mend_dimensions(dimensions)
    assert check_dimensions(mended) == mended


@given(st.dictionaries(st.text(min_size=1, max_size=20), st.text(min_size=1, max_size=20), max_size=4))
def test_dimensions_are_refused_exactly_when_they_break_a_rule(dimensions: dict[str, str]) -> None:
    """The check agrees with the rules written out by hand."""

    def control(text: str) -> bool:
        return any(ord(c) < 32 or 127 <= ord(c) < 160 or c in "\u2028\u2029" or 0xD800 <= ord(c) < 0xE000 for c in text)

    good = all(
        key.strip()
        and value.strip()
        and not set(key + value) & set(FORBIDDEN)
        and not any(c.isspace() for c in key)
        and not control(key + value)
        and not key.startswith("_")
        and key != "time"
        for key, value in dimensions.items()
    )
    try:
        check_dimensions(dimensions)
    except SeriesError:
        assert not good
    else:
        assert good


def test_numbers_become_text_and_other_things_are_refused() -> None:
    """Monasca takes strings only, so numbers are written out; None or a list cannot be."""
    assert check_dimensions({"fold": 3, "share": 0.5, "final": True}) == {"fold": "3", "share": "0.5", "final": "True"}
    with pytest.raises(SeriesError, match="the value of 'fold' is None"):
        check_dimensions({"fold": None})
    with pytest.raises(SeriesError, match="is a list"):
        check_dimensions({"fold": [1]})
    with pytest.raises(SeriesError, match="the key 1 is a int"):
        check_dimensions({1: "x"})  # type: ignore[dict-item]


def test_a_bad_dimension_is_named_with_what_would_be_taken() -> None:
    """The message says which dimension, which character, and offers the mended text."""
    with pytest.raises(SeriesError, match=r"Run: the value 'a;b' of 'team' contains ';' at position 2") as caught:
        check_dimensions({"team": "a;b"}, "Run")
    assert caught.value.mended == "a_b"
    with pytest.raises(SeriesError, match="kills the persister"):
        check_dimensions({"time": "now"})


def test_a_series_is_the_same_whatever_the_order_of_its_dimensions() -> None:
    """The agent takes another order for another series; ours are sorted."""
    assert Series.of("a", {"y": "1", "x": "2"}) == Series.of("a", {"x": "2", "y": "1"})
    assert str(Series.of("a", {"y": "1", "x": "2"})) == "a{x=2, y=1}"
    assert str(Series.of("a")) == "a"


def test_our_own_names_obey_the_rules_and_end_in_their_units() -> None:
    """Each name of the table is allowed, described, and names its unit where it has one."""
    endings = {"W": "_watts", "J": "_joules", "By": "_bytes", "Cel": "_celsius", "%": "_percent", "Hz": "_hertz"}
    for name, entry in METRICS.items():
        assert check_name(name) == name
        assert entry.description
        assert name.endswith(endings.get(entry.unit, ""))
    assert metric("train.loss").description
    assert metric("my.own").unit == ""


@given(st.lists(st.floats(width=64), min_size=1, max_size=50))
def test_numbers_of_all_kinds_become_the_same_float(values: list[float]) -> None:
    """Python's, numpy's scalars and arrays of one element."""
    for value in values:
        for form in (value, np.float64(value), np.array(value), np.array([[value]])):
            assert struct.pack("<d", as_number(form)) == struct.pack("<d", value)
