"""Alarm expressions: what is read is what Monasca reads, what is written is what all its parts understand."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlops.errors import AlarmError
from mlops.monasca.expression import (
    FUNCTIONS,
    AllOf,
    AnyOf,
    Condition,
    Expression,
    conditions,
    parse,
    why_not_in_place,
)
from tests.monasca.api_parser import ApiParser, Part

GOOD = [
    ("train.loss > 3", "max(train.loss) > 3"),
    ("train.loss lt 3", "min(train.loss) < 3"),
    ("train.loss gt3", "max(train.loss) > 3"),
    ("  MAX ( train.loss )\n>=\n-0.50\t", "max(train.loss) >= -0.50"),
    ("x LTE 007", "min(x) <= 7"),
    ("avg(x,300)>.5".replace(">.5", ">0.5"), "avg(x, 300) > 0.5"),
    ("avg(x, 060) > 1", "avg(x) > 1"),
    ("count(x, deterministic) > 1", "count(x, deterministic) > 1"),
    ("count(x{}, DETERMINISTIC, 120) > 1 TIMES 3", "count(x, deterministic, 120) > 1 times 3"),
    ("x>3times3", "max(x) > 3 times 3"),
    ("x > 3 times 1", "max(x) > 3"),
    ("last(x) < -1", "last(x) < -1"),
    ("x{b=2, a = 1 } > 3", "max(x{a=1,b=2}) > 3"),
    ("x{a=\n b} > 3", "max(x{a=b}) > 3"),
    ("x{run=my run} > 3", "max(x{run=my run}) > 3"),
    ("ünï{घोड़ा=馬} > 3", "max(ünï{घोड़ा=馬}) > 3"),
    ("max > 3", "max(max) > 3"),
    ("3x > 5", "max(3x) > 5"),
    ("a'b#c$d%e*f+g/h:i?j@k[l]m^n`o~p!q > 1", "max(a'b#c$d%e*f+g/h:i?j@k[l]m^n`o~p!q) > 1"),
    ("a > 1 and b > 2 or c > 3", "max(a) > 1 and max(b) > 2 or max(c) > 3"),
    ("a > 1 && b > 2 || c > 3", "max(a) > 1 and max(b) > 2 or max(c) > 3"),
    ("a > 1 AND (b > 2 OR c > 3)", "max(a) > 1 and (max(b) > 2 or max(c) > 3)"),
    ("(a > 1 and b > 2) and c > 3", "max(a) > 1 and max(b) > 2 and max(c) > 3"),
    ("(a > 1) or ((b > 2 or c > 3))", "max(a) > 1 or max(b) > 2 or max(c) > 3"),
    ("a > 1or b > 2", "max(a) > 1 or max(b) > 2"),
    (f"{'x' * 100} > 1", f"max({'x' * 100}) > 1"),
]
"""Expressions that Monasca takes, each with what is sent for it."""

BAD = [
    ("", "is empty"),
    (" \n", "is empty"),
    ("max(x)", "ends too early, at character 7"),
    ("max(x", "ends too early"),
    ("max() > 3", "is no metric's name"),
    ("mux(x) > 3", "Did you mean max?"),
    ("frobnicate(x) > 3", "The functions: min, max, sum, count, avg, last."),
    ("3 > x", "'x' is no number"),
    ("x > y", "'y' is no number"),
    ("x = 3", "'= 3' is no comparison"),
    ("x == 3", "is no comparison"),
    ("x => 3", "is no comparison"),
    ("x ! 3", "is no comparison"),
    ("x > 1e3", "reads no exponents"),
    ("x > .5", "is no number"),
    ("x > 5.", "'.' is not understood"),
    ("x > +1", "is no number"),
    ("x > nan", "is no number"),
    ("max(x, 90) > 3", "multiple of 60"),
    ("max(x, 0) > 3", "multiple of 60"),
    ("max(x, -60) > 3", "is not a period in seconds"),
    ("max(x,) > 3", "is not a period in seconds"),
    ("max(x, 60, deterministic) > 3", "function(metric, deterministic, seconds)"),
    ("max(x, deterministic,) > 3", "is not a period in seconds"),
    ("max(x, 60 60) > 3", "function(metric, deterministic, seconds)"),
    ("x > 3 times", "ends too early"),
    ("x > 3 times 0", "is no number of periods"),
    ("x > 3 times 2 times 3", "is not understood"),
    ("x > 3 xor y > 2", "joined by and, or"),
    ("x > 3 y > 2", "joined by and, or"),
    ("x > 3;", "';' is not understood"),
    ("x > 3 and", "ends too early"),
    ("and x > 3", "is no comparison"),
    ("not x > 3", "is no comparison"),
    ("(x > 3", "ends too early"),
    ("x > 3)", "is not understood"),
    ("x{a=b > 3", "A comma or } is expected"),
    ("x{a} > 3", "{key=value,key=value}"),
    ("x{a=} > 3", "a value for 'a'"),
    ("x{=b} > 3", "a dimension's name"),
    ("x{a=b,} > 3", "a dimension's name"),
    ("x{a=b}{c=d} > 3", "is no comparison"),
    ("max(x){a=b} > 3", "is no comparison"),
    ('x{a="b"} > 3', "a value for 'a'"),
    ("x{a=😀} > 3", "a value for 'a'"),
    ("x{a=b\u00a0c} > 3", "A comma or } is expected"),
    ("avg(x) + avg(y) > 3", "is no comparison"),
    (f"x{{{'k' * 256}=v}} > 3", "has 256 characters"),
    (f"x{{k={'v' * 256}}} > 3", "has 256 characters"),
]
"""Expressions that Monasca refuses, each with what is said of it."""

STRICTER = [
    ("x > - 5", "is no number"),  # the engine's number has no space in it
    ("x > 5 . 2", "is not understood"),
    ("x{a=b,a=c} > 3", "names the dimension 'a' twice"),  # the engine refuses; the API's database keeps one
    ("times > 3", "the threshold engine takes that word"),
    ("max(deterministic) > 3", "the threshold engine takes that word"),
    ("a&b > 3", "is no comparison"),  # no metric can be called so (monasca_common.validation)
    ("a;b > 3", "is no comparison"),
    ("a\\b > 3", "is no comparison"),
    ("a|b > 3", "is no comparison"),
    (f"{'x' * 101} > 1", "Monasca keeps 100"),  # the database of most clouds has no room for it: 500
    ("max(x, 2147483700) > 3", "is no period"),  # likewise
    ("(" * 21 + "x > 3" + ")" * 21, "nested too deep"),
]
"""Expressions that the API's parser takes and that could not come true, with why."""


@pytest.mark.parametrize(("text", "sent"), GOOD)
def test_what_monasca_takes_is_written_so_that_all_its_parts_take_it(text: str, sent: str) -> None:
    """One line, a function always, signs for words, dimensions sorted and trimmed; and that is read as the same."""
    assert str(parse(text)) == sent
    assert parse(sent) == parse(text)


@pytest.mark.parametrize(("text", "said"), [*BAD, *STRICTER])
def test_what_monasca_refuses_is_refused_with_where_and_why(text: str, said: str) -> None:
    """The message has the character, or what to write instead."""
    with pytest.raises(AlarmError, match=r"character \d+|empty") as caught:
        parse(text)
    assert said.lower() in str(caught.value).lower()


words = st.text("abz09._-/", min_size=1, max_size=12).filter(lambda text: text not in {"times", "deterministic"})
condition_strategy = st.builds(
    Condition,
    st.sampled_from(FUNCTIONS),
    words,
    st.dictionaries(words, words, max_size=3).map(lambda pairs: tuple(sorted(pairs.items()))),
    st.sampled_from(["<", "<=", ">", ">="]),
    st.decimals(-(10**9), 10**9, allow_nan=False, places=3),
    st.integers(1, 100).map(lambda minutes: minutes * 60),
    st.integers(1, 100),
    st.booleans(),
)


def _combined(parts: st.SearchStrategy[Expression]) -> st.SearchStrategy[Expression]:
    lists = st.lists(parts, min_size=2, max_size=3).map(tuple)
    return st.one_of(st.builds(AllOf, lists), st.builds(AnyOf, lists))


expressions: st.SearchStrategy[Expression] = st.recursive(condition_strategy, _combined, max_leaves=6)


@settings(max_examples=25)
@given(expressions)
def test_what_is_written_is_read_as_the_same(expression: Expression) -> None:
    """Also after a second time; only nested and in and, or in or, are flattened."""
    again = parse(str(expression))
    assert str(again) == str(expression)
    assert list(conditions(again)) == list(conditions(expression))
    assert parse(str(again)) == again


@settings(max_examples=25)
@given(expressions, st.randoms(use_true_random=False))
def test_white_space_capitals_and_words_for_signs_do_not_matter(expression: Expression, random: object) -> None:
    """A folded block of YAML, and what other tools write, mean the same."""
    assert hasattr(random, "choice")
    choose: Callable[[list[str]], str] = random.choice
    signs = {"<": ["<", "lt ", "LT "], "<=": ["<=", "lte "], ">": [">", "gt "], ">=": [">=", "GTE "]}
    text = re.sub(r" (<=|<|>=|>) ", lambda found: f" {choose(signs[found.group(1)])}", str(expression))
    text = re.sub(r" (and|or) ", lambda found: choose([f" {found.group(1)} ", f"\n{found.group(1).upper()} "]), text)
    text = re.sub(r", ", lambda _: choose([",", " ,\n  "]), text)
    assert parse(text) == parse(str(expression))


def _read(text: str) -> tuple[Expression | None, str]:
    """What is read, or else what is said of it."""
    try:
        return parse(text), ""
    except AlarmError as error:
        return None, str(error)


PIECES = ["max", "(", ")", "x", "{", "}", "a=b", ",", "60", ">", "3", " and ", " or ", "times "]


@given(st.lists(st.sampled_from(PIECES)))
def test_whatever_is_written_is_read_or_refused(pieces: list[str]) -> None:
    """Never anything else; and what is read is written and read again."""
    found, said = _read("".join(pieces))
    assert (found is None) == bool(said)
    assert found is None or parse(str(found)) == found


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        ("max(x) > 3", "max(x) > 3", ""),
        ("max(x) > 3", "max(x) < 4", ""),
        ("max(x) > 3", "max(x, deterministic) > 3", ""),
        ("max(x) > 3 and max(y) > 1", "max(x) > 3 or max(y) > 2", ""),
        ("max(x) > 3", "max(y) > 3", "other metrics or dimensions"),
        ("max(x{a=b}) > 3", "max(x{a=c}) > 3", "other metrics or dimensions"),
        ("max(x) > 3", "max(x) > 3 and max(y) > 3", "other metrics or dimensions"),
        ("max(x) > 3", "avg(x) > 3", "a function, a period"),
        ("max(x) > 3", "max(x, 120) > 3", "a function, a period"),
        ("max(x) > 3", "max(x) > 3 times 2", "a function, a period"),
        ("max(x) > 3 and max(x) < 9", "max(x) > 4 and max(x) < 9", ""),
        ("max(x) > 3 and max(x) < 9", "max(x) > 4 and max(x) < 8", "two conditions about one metric"),
    ],
)
def test_what_monasca_cannot_change_in_place_is_known_beforehand(old: str, new: str, why: str) -> None:
    """Thresholds, comparisons, deterministic, and, or: yes; all else needs a new definition."""
    found = why_not_in_place(parse(old), parse(new))
    assert (why in found) if why else not found


# -- the API's own parser as the judge ---------------------------------------------------------------


@pytest.fixture(scope="module")
def api(say: Callable[[str], None]) -> Iterator[ApiParser]:
    """The parser of monasca-api 11.0.0."""
    with ApiParser(say) as running:
        yield running


def _parts(expression: Expression) -> list[Part]:
    return [
        Part(
            one.function,
            one.metric,
            one.dimensions,
            one.operator,
            float(one.threshold),
            one.period,
            one.periods,
            one.deterministic,
        )
        for one in conditions(expression)
    ]


@pytest.mark.slow
def test_the_api_has_the_same_verdict(api: ApiParser) -> None:
    """What we take it takes, as written and as sent, and understands it so; what we refuse it refuses, but for the
    few that could not come true, which it takes.
    """
    for text, sent in GOOD:
        as_written, as_sent = api.judge([text, sent])
        assert not as_written.refused, text
        assert not as_sent.refused, sent
        assert list(as_sent.parts) == _parts(parse(text)), text
    for text, _ in BAD:
        assert api.judge([text])[0].refused, text
    for text, _ in STRICTER:
        assert not api.judge([text])[0].refused, text


@pytest.mark.slow
@settings(max_examples=200, deadline=None)
@given(expression=expressions)
def test_the_api_understands_what_is_sent(api: ApiParser, expression: Expression) -> None:
    """Every function, dimension, number and flag arrives as it was meant."""
    (verdict,) = api.judge([str(expression)])
    assert not verdict.refused
    assert list(verdict.parts) == _parts(expression)


@st.composite
def slips(draw: st.DrawFn) -> str:
    """An expression with one to three characters dropped, doubled or put in."""
    text = draw(st.sampled_from([text for text, _ in GOOD]))
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, max(len(text) - 1, 0)))
        put = draw(st.sampled_from(["", text[at : at + 1] * 2, *"(){}<>=,.-&| 3x", " and ", " times ", ", 60"]))
        text = text[:at] + put + text[at + 1 :]
    return text


@pytest.mark.slow
@settings(max_examples=1500, deadline=None)
@given(text=slips())
def test_what_is_taken_here_the_api_takes(api: ApiParser, text: str) -> None:
    """Of slips of the pen; and what is refused here the API refuses, but for the kinds of STRICTER."""
    expression, said = _read(text)
    if expression is None:
        (verdict,) = api.judge([text])
        stricter = re.search("twice|that word|keeps 100", said) or re.search(
            r"[&|]|-\s+[0-9]|[0-9]\s*\.|\.\s+[0-9]", text
        )
        assert verdict.refused or stricter, (text, said)
        return
    as_written, as_sent = api.judge([text, str(expression)])
    assert not as_written.refused, text
    assert not as_sent.refused, str(expression)
    assert list(as_sent.parts) == _parts(expression)


def test_thresholds_keep_their_digits() -> None:
    """No exponent is ever written, which the API could not read back."""
    assert str(Condition("max", "x", (), ">", Decimal("1E+20"))) == "max(x) > 100000000000000000000"
    assert str(parse("x > 0.0000000001")) == "max(x) > 0.0000000001"
