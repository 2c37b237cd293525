"""Each of our rules, and what they let through, judged by the real parts of Monasca."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from mlops.errors import SeriesError
from mlops.monasca.about import meta_of
from mlops.series import Mender, Series, check_dimensions, check_name, check_value_meta, mend_dimensions, mend_name
from mlops.store import RunInfo
from tests.nasty import Example, examples, expected_of, through
from tests.testbed.datagrams import parse
from tests.testbed.judge import Judge
from tests.testbed.monasca.judge import ChainJudge, Stored

pytestmark = pytest.mark.slow

MOMENT = 1_700_000_000_123


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory, say: Callable[[str], None]) -> Iterator[ChainJudge]:
    """The real API, persister and InfluxDB as judges."""
    with ChainJudge(tmp_path_factory.mktemp("judge"), say) as sitting:
        yield sitting


def body(name: str = "loss", dimensions: dict[str, str] | None = None, **others: Any) -> str:
    """A measurement as it is posted."""
    own = {"run_id": "id-1"} if dimensions is None else dimensions
    return json.dumps({"name": name, "dimensions": own, "timestamp": MOMENT, "value": 0.25, **others})


def faults(chain: ChainJudge, bodies: Sequence[str]) -> list[str]:
    """What the real parts have against these measurements; empty where all come back as they were sent."""
    verdict = chain.judge(bodies)
    found = [f"refused: {what}" for what in verdict.refused if what]
    found += [f"died: {what}" for what in verdict.died if what]
    expected = {Stored.expected(one) for one in expected_of(bodies).values()}
    found += [f"mangled: {one}" for one in expected ^ verdict.stored]
    found += [f"unlisted: {verdict.unlisted}"] if verdict.unlisted else []
    found += [f"listed: {one}" for one in verdict.listed ^ {(one.name, one.dimensions) for one in expected}]
    return found + [f"unfound: {what}" for what in verdict.unfound if what]


@pytest.mark.parametrize("sign", [*'<>={},"\\;&() ', "\n", "\r", "\x00", "\ud800"])
def test_a_sign_that_no_name_may_have_is_mangled_by_a_real_part(chain: ChainJudge, sign: str) -> None:
    """Refused by the API, the end of the persister, or not found again; mended it comes back as it was sent."""
    assert faults(chain, [body(f"a{sign}b")])
    with pytest.raises(SeriesError):
        check_name(f"a{sign}b")
    assert faults(chain, [body(mend_name(f"a{sign}b"))]) == []


@pytest.mark.parametrize(
    "name", ["#x", "_series", "_tags", "_tagKeys", "_fieldKeys", "_measurements", "_name", "x" * 256]
)
def test_a_name_that_a_real_part_keeps_for_itself_is_mangled(chain: ChainJudge, name: str) -> None:
    """A comment to InfluxDB, one of its own, or too long; mended it comes back as it was sent."""
    assert faults(chain, [body(name)])
    with pytest.raises(SeriesError):
        check_name(name)
    assert faults(chain, [body(mend_name(name))]) == []


@pytest.mark.parametrize("sign", [*'<>={},"\\;& ', "\n", "\r", "\x00", "\ud800"])
def test_a_sign_that_no_dimension_may_have_is_mangled_by_a_real_part(chain: ChainJudge, sign: str) -> None:
    """In a key as in a value; mended it comes back as it was sent."""
    for dimensions in ({f"a{sign}b": "c"}, {"a": f"b{sign}c"}):
        assert faults(chain, [body(dimensions=dimensions)])
        with pytest.raises(SeriesError):
            check_dimensions(dimensions)
        assert faults(chain, [body(dimensions=mend_dimensions(dimensions))]) == []


@pytest.mark.parametrize("key", ["time", "Time", "t\u0130me", "value", "value_meta", "_x", "a:b", "k" * 256])
def test_a_key_that_a_real_part_keeps_for_itself_is_mangled(chain: ChainJudge, key: str) -> None:
    """The persister's end, or never found, or fails every listing; mended it comes back as it was sent."""
    assert faults(chain, [body(dimensions={key: "x"})])
    with pytest.raises(SeriesError):
        check_dimensions({key: "x"})
    assert faults(chain, [body(dimensions=mend_dimensions({key: "x"}))]) == []


def test_what_our_rules_take_comes_back_as_it_was_sent(chain: ChainJudge) -> None:
    """Signs that look dangerous and are not, at either end of the numbers and the times."""
    good = [
        "it's",
        "a/b",
        "a%20b",
        "a+b",
        "a#b",
        "*",
        ".*",
        "$x",
        "\u00e9",
        "e\u0301",
        "\U0010ffff",
        "\u202eabc",
        "\uffff",
        "@",
        "`",
    ]
    bodies = [body(name, {name: name, "other": f"x|{name}"[2:]}) for name in good]
    for name in good:
        assert check_name(name) == name
        assert check_dimensions({name: name}) == {name: name}
    values = [0.0, 5e-324, -5e-324, 1.7976931348623157e308, -1.7976931348623157e308, 0.1, 1e22, 1e23, 2.0**53 + 2]
    bodies += [body("values", timestamp=MOMENT + place, value=value) for place, value in enumerate(values)]
    bodies += [body("times", timestamp=moment) for moment in (0, 1, 9_214_646_399_999)]
    bodies += [body("steps", value_meta={"step": str(2**32 - 2), "logged": "1700000000.1234567"})]
    assert faults(chain, bodies) == []


@pytest.mark.parametrize("moment", [9_223_372_036_855, 10**30, -(10**30)])
def test_a_time_after_2261_ends_the_persister(chain: ChainJudge, moment: int) -> None:
    """InfluxDB counts nanoseconds in 64 bits; ``sendable`` lets no such time through."""
    assert "died" in faults(chain, [body(timestamp=moment)])[0]


def test_series_as_long_as_one_may_be_fit_into_the_persisters_batch(chain: ChainJudge) -> None:
    """10,000 points of one of 2200 bytes are written at once; with 300 bytes more they end the persister."""
    own = {"rank": "1", **{f"key{number}": "v" * 255 for number in range(8)}}
    own["rest"] = "v" * (2200 - len("loss") - sum(len(key + text) + 2 for key, text in own.items()) - len("rest") - 2)
    series = Mender().mend(Series.of("loss", own)).series
    meta = {"step": str(2**32 - 2), "logged": "1700000000.1234567"}

    def batch(dimensions: dict[str, str]) -> list[str]:
        value = -2.2250738585072014e-308
        moments = range(MOMENT, MOMENT + 10_000)
        return [body("loss", dimensions, timestamp=one, value=value, value_meta=meta) for one in moments]

    verdict = chain.judge(batch(dict(series.dimensions)), looking=False)
    assert not any(verdict.died)
    assert len(verdict.stored) == 10_000
    own["more"] = "v" * 255
    own["most"] = "v" * 45
    with pytest.raises(SeriesError, match="may die of more than 2200"):
        Mender().mend(Series.of("loss", own))
    assert "413" in chain.judge(batch(own), looking=False).died[0]


def test_value_meta_is_taken_as_far_as_our_rule_goes(chain: ChainJudge) -> None:
    """At its limits it comes back, beyond them it is refused; a run's facts keep within them."""
    good = (
        {f"k{number}": "v" for number in range(16)},
        {"k" * 255: 'a\n\x00"\\'},
        {"k": "v" * 2039},
        {"k": "\U0001f600" * 169},
    )
    for meta in good:
        assert check_value_meta(meta) == meta
        assert faults(chain, [body(value_meta=meta)]) == []
    for meta in (
        {f"k{number}": "v" for number in range(17)},
        {"k": "v" * 2040},
        {"": "v"},
        {"k" * 256: "v"},
        {"k": "\ud800"},
    ):
        with pytest.raises(SeriesError):
            check_value_meta(meta)
        assert faults(chain, [body(value_meta=meta)])
    info = RunInfo("id-1", "n\ud800" * 200, 1.7e9)
    info.parameters = {f"p\ud800{number}": ["\U0001f600\udfff" * 50, float("nan")] for number in range(50)}
    info.dimensions = {"a\n": "\ud800b"}
    assert faults(chain, [body(value_meta=check_value_meta(meta_of(info)))]) == []


def test_the_api_can_list_no_two_series_of_which_one_has_all_dimensions_of_the_other(chain: ChainJudge) -> None:
    """No rule of ours: it fails on any two such series, whoever sent them, where it is asked for a span of time."""
    found = faults(chain, [body(dimensions={"a": "b"}), body(dimensions={"a": "b", "c": "d"})])
    assert [what[:20] for what in found if "multiple metrics" in what]
    assert not [what for what in found if what.startswith(("refused", "died", "mangled", "unfound"))]


@settings(
    max_examples=10, deadline=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck), derandomize=True
)
@given(st.lists(examples(), min_size=60, max_size=60), st.booleans())
def test_nothing_that_passed_our_rules_is_refused_or_mangled(
    chain: ChainJudge, judge: Judge, some: list[Example], recorded: bool
) -> None:
    """Whatever is logged: the agent, the API, the persister and InfluxDB take what is left of it as it is sent."""
    outcome = through(some, recorded=recorded)
    assert outcome.broken == outcome.changed == []
    assert outcome.accepted + outcome.mended + outcome.refused == len(some)
    apart = list({json.loads(one)["name"]: one for one in outcome.bodies}.values())  # see the test before
    assert faults(chain, apart) == []
    for datagram, (problem, taken) in zip(outcome.datagrams, judge.judge(outcome.datagrams), strict=True):
        assert problem == ""
        sent = sorted((line.name, line.value, sorted(line.dimensions.items())) for line in parse(datagram))
        assert sorted((name, value, sorted(own.items())) for name, value, own in taken) == sent
