"""Monasca's rules for names and dimensions."""

from __future__ import annotations

import math
import struct
from decimal import Decimal
from enum import StrEnum
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlops.errors import SeriesError
from mlops.series import (
    METRICS,
    Mender,
    Series,
    as_number,
    check_dimensions,
    check_name,
    check_value_meta,
    mend_dimensions,
    mend_name,
    metric,
    sendable,
)


class Kind(StrEnum):
    """A string whose repr is not a string's."""

    LARGE = "large"


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
        ("_epoch.loss", "begins with '_', which", "epoch.loss"),
        ("_score", "begins with '_', which", "score"),
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
        and not set(key + value) & set(FORBIDDEN + " ")
        and not any(c.isspace() or c == ":" for c in key)
        and value == value.strip()
        and not control(key + value)
        and not key.startswith("_")
        and key.lower() not in {"time", "ti\u0307me", "value", "value_meta"}
        for key, value in dimensions.items()
    )
    try:
        check_dimensions(dimensions)
    except SeriesError:
        assert not good
    else:
        assert good


@given(st.dictionaries(st.text(max_size=20), st.text(max_size=20), max_size=4))
def test_good_dimensions_are_not_mended(dimensions: dict[str, str]) -> None:
    """What the check takes, mending leaves as it is."""
    try:
        checked = check_dimensions(dimensions)
    except SeriesError:
        return
    assert mend_dimensions(dimensions) == checked == dimensions


@pytest.mark.parametrize(
    ("key", "mended"),
    [
        ("time", "time_"),
        ("TIME", "TIME_"),
        ("t\u0130me", "t\u0130me_"),
        ("value", "value_"),
        ("value_meta", "value_meta_"),
        ("a:b", "a_b"),
        ("a b", "a_b"),
        ("_tenant_id", "tenant_id"),
        ("_time", "time_"),
    ],
)
def test_a_key_that_a_part_on_the_way_keeps_for_itself_is_refused(key: str, mended: str) -> None:
    """The persister's and InfluxDB's own, and those that no query of the API could ask for."""
    with pytest.raises(SeriesError) as caught:
        check_dimensions({key: "x"})
    assert caught.value.mended == mended
    assert mend_dimensions({key: "x"}) == check_dimensions({mended: "x"}) == {mended: "x"}


@pytest.mark.parametrize("key", ["Value", "timer", "times", "mean", "name", "region", "it's", "\u6642", "*", "1"])
def test_a_key_that_only_looks_like_one_of_those_is_taken(key: str) -> None:
    """Seen to come back from the real API."""
    assert check_dimensions({key: "x"}) == mend_dimensions({key: "x"}) == {key: "x"}


@given(st.dictionaries(st.sampled_from(["a b", "a_b", "a=b", "a,b", " a_b", "_a_b", "c"]), st.text(min_size=1)))
def test_keys_that_mending_would_make_one_stay_apart(dimensions: dict[str, str]) -> None:
    """No value is lost to another's key, a good key keeps its own, and the order changes nothing."""
    kept = {key: text for key, text in dimensions.items() if mend_dimensions({"x": text})}
    mended = mend_dimensions(dimensions)
    assert len(mended) == len(kept)
    assert mended == mend_dimensions(dict(reversed(dimensions.items())))
    for key in ("a_b", "c"):
        if key in kept:
            assert mended[key] == mend_dimensions({"x": kept[key]})["x"]


def test_dimensions_that_are_too_long_together_are_refused() -> None:
    """Two bytes for each besides its own; the persister may die of more than 2200 a series."""
    most = {f"key{number}": "v" * 250 for number in range(8)} | {"rest": "v" * (2200 - 8 * 256 - 6)}
    assert check_dimensions(most) == most
    with pytest.raises(SeriesError, match="they take 2201 bytes; 2200 are what one series may take"):
        check_dimensions({**most, "rest": most["rest"] + "v"})
    with pytest.raises(SeriesError, match="take 2208 bytes"):
        check_dimensions({f"key{number}": "\u6642" * 182 for number in range(4)})


names = st.text(st.sampled_from("ab _,(\u6642"), max_size=6)
dimension_sets = st.dictionaries(names, names, max_size=2)


@given(dimension_sets, st.lists(st.builds(Series.of, names, dimension_sets), max_size=30))
def test_a_mender_makes_no_two_series_one(common: dict[str, str], series: list[Series]) -> None:
    """Different series stay different, each comes out the same whenever it is asked for, and all are allowed."""
    mender = Mender(common, {"run_id": "id-1"})
    again = Mender(common, {"run_id": "id-1"})
    made: dict[Series, Series] = {}
    for one in series:
        try:
            made[one] = mender.mend(one).series
        except SeriesError:
            continue
        assert again.mend(one) == mender.mend(one)
    assert len(set(made.values())) == len(made)
    for one in made.values():
        assert check_name(one.name) == one.name
        assert tuple(sorted(check_dimensions(dict(one.dimensions)).items())) == one.dimensions
        assert dict(one.dimensions)["run_id"] == "id-1"


def test_a_mender_says_what_it_changed() -> None:
    """Name, dimensions and what would have come to the same; nothing where nothing was changed."""
    mender = Mender({"run": "my run"}, {"run_id": "id-1"})
    assert mender.why == "Value 'my run' of 'run' contains ' ' at position 3"
    assert mender.mend(Series("loss")) == (Series.of("loss", {"run": "my_run", "run_id": "id-1"}), "")
    changed = mender.mend(Series.of("a(b)", {"time": "x;y", "empty": ""}))
    assert changed.series == Series.of("a_b_", {"run": "my_run", "run_id": "id-1", "time_": "x_y"})
    assert changed.why == (
        "Metric name 'a(b)' contains '(' at position 2; Dimension 'empty' is left out, its value is empty; "
        "Value 'x;y' of 'time' contains ';' at position 2; Dimension 'time' is reserved: a dimension of that name "
        "ends the persister"
    )
    twin = Series.of("loss", {"run": "my_run"})
    assert mender.mend(twin).why == "'loss{run=my_run}' would come to the same as 'loss'"


def test_a_mark_fits_also_where_a_name_is_as_long_as_one_may_be() -> None:
    """Names that differ after the 255th character stay apart."""
    mender = Mender()
    mended = [mender.mend(Series("x" * 255 + end)).series.name for end in ("", "1", "2")]
    assert len(set(mended)) == 3
    assert {len(name) for name in mended} == {255}


def test_a_series_that_is_too_long_is_not_mended() -> None:
    """Which of its dimensions could be missed is not for us to know; who only records takes it."""
    long = Series.of("loss", {f"key{number}": "v" * 255 for number in range(9)})
    with pytest.raises(SeriesError, match="'loss' takes 2353 bytes with its 9 dimensions") as caught:
        Mender().mend(long)
    assert caught.value.remedy == "Use fewer or shorter dimensions."
    assert Mender(most=math.inf).mend(long) == (long, "")


def test_what_a_measurement_says_besides_its_value_is_limited() -> None:
    """Sixteen entries, 2048 characters of JSON, names of 1 to 255 characters, and no half characters."""
    full = {f"k{number}": "v" for number in range(16)}
    assert check_value_meta(full) == full
    assert check_value_meta({"k" * 255: "a\n\x00\U0001f600"})
    assert check_value_meta({"k": "v" * 2039})
    for bad in (
        {**full, "one more": ""},
        {"k": "v" * 2040},
        {"": "v"},
        {"k" * 256: "v"},
        {"k": "\ud800"},
        {"\udfff": ""},
    ):
        with pytest.raises(SeriesError, match="value_meta"):
            check_value_meta(bad)


def test_points_that_monasca_cannot_keep_are_found() -> None:
    """Values that are not finite, and times before 1970, after 2261, or none."""
    nan, inf, good = float("nan"), float("inf"), 1.7e9
    times = [good, good, good, good, nan, inf, -inf, -1.0, 0.0, 9_214_646_399.999, 9_214_646_400.0, 1e30, 1e-300]
    values = [1.0, nan, inf, -inf, *[1.0] * 9]
    found = sendable(np.array(times), np.array(values)).tolist()
    assert found == [True, *[False] * 7, True, True, False, False, True]
    assert sendable(np.empty(0), np.empty(0)).tolist() == []


def test_numbers_become_text_and_other_things_are_refused() -> None:
    """Monasca takes strings only, so numbers are written out; None or a list cannot be."""
    assert check_dimensions({"fold": 3, "share": 0.5, "final": True}) == {"fold": "3", "share": "0.5", "final": "True"}
    kinds: dict[str, Any] = {
        "a": np.int64(3),
        "b": np.float32(0.5),
        "c": np.bool_(1),
        "d": np.str_("x"),
        "e": Decimal("1.50"),
        "f": Fraction(1, 3),
        "g": Kind.LARGE,
        "h": np.array(7),
    }
    texts = {"a": "3", "b": "0.5", "c": "True", "d": "x", "e": "1.50", "f": "1/3", "g": "large", "h": "7"}
    assert check_dimensions(kinds) == mend_dimensions(kinds) == texts
    assert {text.__class__ for text in check_dimensions(kinds).values()} == {str}
    for odd in (10**5000, 1j, b"x", np.datetime64("2020"), object()):
        with pytest.raises(SeriesError, match="the value of 'odd' is a"):
            check_dimensions({"odd": odd})
        assert mend_dimensions({"odd": odd, "k": "v"}) == {"k": "v"}
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
    with pytest.raises(SeriesError, match="ends the persister"):
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


@pytest.mark.parametrize(
    "value",
    [
        *(
            "5",
            b"5",
            bytearray(b"5"),
            None,
            [1.0],
            {},
            1j,
            np.complex64(1),
            np.ma.masked,
            np.ma.array([1.0], mask=True),
        ),
        *(np.str_("5"), np.array("5"), np.array(b"5"), np.array("5", object), np.array(None)),
        *(np.datetime64(5, "ns"), np.timedelta64(5, "ns"), np.array([5], "M8[ns]"), np.void(b"5")),
    ],
    ids=repr,
)
def test_what_only_looks_like_a_number_is_refused(value: object) -> None:
    """Text and moments are none, though Python and numpy would make one of them."""
    with pytest.raises(TypeError, match="a number is needed, not"):
        as_number(value)


@pytest.mark.parametrize(
    "value", [10**400, Fraction(10**400), Decimal("1e400"), -Decimal("1e400"), np.longdouble("1e400")]
)
def test_a_number_that_is_too_large_is_not_made_infinite(value: object) -> None:
    """It is no value that was measured."""
    with pytest.raises(ValueError, match="too large for a float"):
        as_number(value)


@pytest.mark.parametrize(
    ("value", "number"),
    [
        *((True, 1.0), (np.bool_(0), 0.0), (2**53 + 1, 2.0**53), (Fraction(1, 3), 1 / 3), (Decimal("0.1"), 0.1)),
        *((np.float16(0.1), float(np.float16(0.1))), (np.uint64(2**64 - 1), 2.0**64), (np.array([[3]]), 3.0)),
        *(
            (Decimal("inf"), math.inf),
            (np.float32("inf"), math.inf),
            (-math.inf, -math.inf),
            (np.array(2, object), 2.0),
        ),
    ],
)
def test_other_kinds_of_numbers_are_taken(value: object, number: float) -> None:
    """As the nearest float."""
    assert as_number(value) == number
