"""Names, dimensions, values and times of the worst kind, and what mlops makes of them on both roads.

Used by the tests of the rules and by ``benchmarks/fuzz.py``, which has the real parts judge the outcome.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from fractions import Fraction
from typing import Any, Final

import numpy as np
from hypothesis import strategies as st

from mlops.blocks import Columns
from mlops.errors import SeriesError
from mlops.monasca.points import Encoder, sendable
from mlops.series import Mender, Series, as_number, check_dimensions, check_name
from mlops.sinks import Points, RunIdentity
from mlops.sinks.statsd import StatsdSink
from tests.sinks.helpers import Nowhere

__all__ = ["NOW", "Example", "Outcome", "examples", "through"]

NOW: Final = 1.7e9
"""Seconds since the epoch around which most examples are; InfluxDB opens a file for every other week."""


class Text(str):
    """A string of another class, with a repr that is no string's."""

    __slots__ = ()

    def __repr__(self) -> str:
        return f"<Text {str.__repr__(self)}>"

    __str__ = __repr__


class Tensor:
    """Looks like a framework's tensor."""

    def __init__(self, value: object, shape: tuple[int, ...]) -> None:
        self.value = value
        self.shape = shape

    def item(self) -> object:
        """Its only element."""
        return self.value

    def __repr__(self) -> str:
        return f"Tensor({self.value!r}, {self.shape})"


_RESERVED: Final = (
    *(
        "time",
        "TIME",
        "Time",
        "t\u0130me",
        "tim\u0117",
        "value",
        "Value",
        "value_meta",
        "values",
        "mean",
        "name",
        "fill",
    ),
    *("_region", "_tenant_id", "region", "tenant_id", "_series", "_tags", "_tagKeys", "_fieldKeys", "_measurements"),
    *("_name", "_field", "_e", "_e{1,1}:a|b", "_sc|a|1", "hostname", "run", "run_id", "rank", "process", "device"),
    *("", " ", "_", "__", "#", "#x", "-", ".", "..", "0", "1.5", "-0", "nan", "inf", "null", "None", "True", "select"),
    *(
        "*",
        "/x/",
        ".*",
        "^a$",
        "$x",
        "${x}",
        "%s",
        "%20",
        "%00",
        "+",
        "{}",
        "{0}",
        "`x`",
        "~",
        "@",
        "!",
        "?",
        "//",
        "--",
    ),
    *(
        "it's",
        "''",
        '"',
        '\\"',
        "\\",
        "a\\",
        "\\\\",
        "\\n",
        "\\x00",
        "\\u0041",
        "\\ud800",
        "a,b=c d",
        "a b",
        " a",
        "a ",
    ),
    *(
        "a:b",
        "a|b",
        "a|g|#{'a': 'b'}",
        "|#",
        "1|g",
        "@0.1",
        "{'a': 'b'}",
        "a;b",
        "a&b",
        "<a>",
        "(a)",
        "[a]",
        "a'; drop",
    ),
    *(
        "a\nb",
        "a\r",
        "\x00",
        "\t",
        "\x1b[0m",
        "\x7f",
        "\x85",
        "\u2028",
        "\u2029",
        "\ufeff",
        "\ufffe",
        "\uffff",
        "\u200b",
    ),
    *(
        "\u202eabc",
        "e\u0301",
        "\u00e9",
        "\u0430",
        "\u05d0\u05d1",
        "\u4e2d\u6587",
        "\u00a0",
        "\u3000",
        "a\u00a0",
        "\u0130",
    ),
    *(
        "\U0001f600",
        "\U0010ffff",
        "\ud800",
        "\udfff",
        "\ud83d\ude00",
        "\ude00\ud83d",
        "\U0001f468\u200d\U0001f469",
        "\u017f",
    ),
    *("train.loss", "gpu.power_watts", "valid.top-5@1", "loss/train", "acc%", "lr=1", "f(x)", "RMSE", "\u03bb", "a_b"),
)
_LENGTHS: Final = (249, 250, 254, 255, 256, 257, 300, 1000)

_signs = st.one_of(
    st.sampled_from("abz09._-/"),
    st.sampled_from("<>={},\"\\;&|():' #\t\n\r\x00\x1f\x7f\x85\u00a0\u2028\u200b\u202e\u0301\ud800\udfff\U0001f600"),
    st.characters(),
    st.characters(categories=["Cc", "Cf", "Cs", "Co", "Zs", "Mn", "Lo"]),
)


def _mostly(usual: st.SearchStrategy[Any], odd: st.SearchStrategy[Any], one_in: int) -> st.SearchStrategy[Any]:
    """One in so many is odd; ``one_of`` would count every kind of it alike."""
    return st.integers(1, one_in).flatmap(lambda number: odd if number == one_in else usual)


_short = st.text(_signs, max_size=8)
_plain = st.from_regex(r"[a-z][a-z0-9._-]{0,12}", fullmatch=True)
_texts = st.one_of(
    _plain,
    _short,
    st.sampled_from(_RESERVED),
    st.builds("{}{}{}".format, st.text(_signs, max_size=2), st.sampled_from(_RESERVED), st.text(_signs, max_size=2)),
    st.builds(lambda text, length: (text * length)[:length], st.text(_signs, min_size=1), st.sampled_from(_LENGTHS)),
)
_integers = st.one_of(
    st.integers(-5, 5),
    st.integers(),
    st.sampled_from([2**53 + 1, 2**63, 2**64, -(2**63)]),
    st.sampled_from([22, 23, 308, 309, 400, 5000]).map(lambda digits: 10**digits),  # no repr of the last one
)
_others: st.SearchStrategy[Any] = st.one_of(
    st.none(),
    st.booleans(),
    st.binary(max_size=3),
    st.complex_numbers(),
    st.lists(st.floats(), max_size=2),
    st.builds(object),
    st.builds(bytearray, st.just(b"5")),
    st.sampled_from(["5", "nan", ""]).map(np.str_),
    st.sampled_from(["5", "x"]).map(np.array),
    st.sampled_from(
        [np.datetime64(5, "ns"), np.datetime64("nat", "ns"), np.timedelta64(5, "ns"), np.ma.masked, np.void(b"5")]
    ),
    st.sampled_from(
        [np.array([1.0, 2.0]), np.empty(0), np.ma.array([1.0], mask=True), np.array([None]), np.array("x", "O")]
    ),
    st.builds(Tensor, st.sampled_from(["x", None, 1j, 1.0]), st.sampled_from([(), (1,), (2,), (0,)])),
)
_numbers: st.SearchStrategy[Any] = st.one_of(
    st.floats(),
    st.floats(allow_subnormal=True, min_value=-1e-300, max_value=1e-300),
    st.sampled_from(
        [0.0, -0.0, 5e-324, -5e-324, 1.7976931348623157e308, -1.7976931348623157e308, 2.2250738585072014e-308]
    ),
    st.sampled_from([1e15, 1e16, 1e17, 1e21, 1e22, 1e23, 0.1, 1e-5, 1e-7, 123456789012345680.0, 9007199254740993.0]),
    _integers,
    st.decimals(),
    st.fractions(),
    st.booleans(),
    st.floats(width=16).map(np.float16),
    st.floats(width=32).map(np.float32),
    st.floats().map(np.float64),
    st.floats().map(np.longdouble),
    st.integers(-(2**63), 2**63 - 1).map(np.int64),
    st.integers(0, 2**64 - 1).map(np.uint64),
    st.booleans().map(np.bool_),
    st.floats().map(lambda number: np.array([[number]])),
    st.builds(Tensor, st.floats(), st.sampled_from([(), (1,), (1, 1)])),
    st.sampled_from([Decimal("1e400"), Decimal("snan"), Decimal("inf"), Fraction(10) ** 400, Fraction(10) ** -400]),
)
_kinds_of_texts = st.one_of(_texts.map(Text), _texts.map(np.str_))
_names = _mostly(_mostly(_texts, _kinds_of_texts, 6), _others, 20)
_keys = _mostly(_mostly(_texts, _texts.map(Text), 6), st.one_of(st.integers(0, 3), st.none()), 20)
_entries = _mostly(_mostly(_texts, _kinds_of_texts, 6), st.one_of(_numbers, _others), 4)
_times = _mostly(
    st.none(),
    st.one_of(
        st.sampled_from([float("nan"), float("inf"), -float("inf"), -1.0, -1e-9, 1e10, 1e13, 1e30, -1e30, 1e300]),
        st.sampled_from([9_214_646_400.0, 9_223_372_036.854, 9_223_372_037.0, 9_214_646_399.9999999]),
        st.sampled_from([0.0, 1e-9, 0.0004, 0.0005, 9_214_646_399.999]),
    ),
    20,
)


@dataclass(frozen=True, slots=True)
class Example:
    """One thing that somebody logs.

    Attributes:
        name: of the metric, of any type.
        dimensions: of the series, of any types.
        value: of any type.
        time: seconds since the epoch; ``None`` for about now.
        step: as it would be in a file.
    """

    name: Any
    dimensions: dict[Any, Any]
    value: Any
    time: float | None
    step: int


def examples() -> st.SearchStrategy[Example]:
    """Examples, most of which break some rule."""
    long = st.sampled_from("v\u00e9\u4e2d").map(lambda sign: sign * 255)
    dimensions = st.one_of(
        st.dictionaries(_plain, _entries, max_size=3),
        st.dictionaries(_plain, _texts, max_size=3),
        st.dictionaries(_keys, _entries, max_size=3),
        st.dictionaries(_keys, _texts, max_size=3),
    )
    long = st.sampled_from("v\u00e9\u4e2d").map(lambda sign: sign * 255)
    many = st.dictionaries(st.integers(0, 99).map("key{}".format), long, max_size=8)
    dimensions = _mostly(dimensions, many, 20)
    values = _mostly(_mostly(st.floats(allow_nan=False, allow_infinity=False), _numbers, 2), _others, 20)
    return st.builds(Example, _names, dimensions, values, _times, st.sampled_from([0, 0, 1, 13, 2**32 - 1]))


@dataclass(slots=True)
class Outcome:
    """What mlops made of some examples.

    Attributes:
        accepted: how many were taken as they are.
        mended: how many were taken changed.
        refused: how many were refused by us.
        broken: what our rules raised that they must not.
        changed: what was changed on its way though it had been taken as it is.
        points: what was taken, as a sink is given it.
        bodies: what is posted to the API, a JSON object for each point.
        datagrams: what the agent is sent.
    """

    accepted: int = 0
    mended: int = 0
    refused: int = 0
    broken: list[str] = field(default_factory=list)
    changed: list[str] = field(default_factory=list)
    points: list[Points] = field(default_factory=list)
    bodies: list[str] = field(default_factory=list)
    datagrams: list[bytes] = field(default_factory=list)

    def add(self, other: Outcome) -> None:
        """Put what another one counts to this one's, its points and what was made of them aside."""
        self.accepted += other.accepted
        self.mended += other.mended
        self.refused += other.refused
        self.broken += other.broken
        self.changed += other.changed


_runs = itertools.count()


def through(some: Iterable[Example], *, recorded: bool) -> Outcome:
    """Bring examples to where both roads begin.

    Args:
        some: the examples.
        recorded: by way of the recorder, which mends what it records; otherwise as if they
            stood in a file that knew no rule.
    """
    run = RunIdentity(f"fuzz-{next(_runs)}", "fuzz", {"team": "vision"}, "gpu-node-7", None)
    outcome = Outcome()
    table: dict[int, Series] = {}
    kept: list[tuple[float, float, int, int]] = []
    good: dict[Series, bool] = {}
    recorder = Mender(most=float("inf"))
    for place, example in enumerate(some):
        found = _take(example, outcome)
        if found is None:
            continue
        series, number, is_good = found
        if recorded:
            try:
                made = recorder.mend(series).series
            except SeriesError:
                outcome.refused += 1
                continue
            is_good = is_good and made == series
            series = made
        good[series] = is_good
        time = NOW + place / 1000 if example.time is None else example.time
        kept.append((time, number, _number_of(series, table), example.step))
    rows = list(zip(*kept, strict=True)) if kept else [(), (), (), ()]
    columns = Columns(
        np.array(rows[0], np.float64),
        np.array(rows[1], np.float64),
        np.array(rows[2], np.uint32),
        np.array(rows[3], np.uint32),
    )
    points = Points(run, columns, table)
    outcome.points.append(points)
    _encode(points, good, outcome)
    _pack(points, outcome)
    return outcome


def _take(example: Example, outcome: Outcome) -> tuple[Series, float, bool] | None:
    """The series and the value, and whether the checks have nothing against them as they are."""
    try:
        number = as_number(example.value)
    except (TypeError, ValueError, ArithmeticError) as error:
        if isinstance(error, ArithmeticError):
            outcome.broken.append(f"a {type(example.value).__name__}: {error!r}")
        outcome.refused += 1
        return None
    except Exception as error:  # noqa: BLE001 - that is what is looked for
        outcome.broken.append(f"a {type(example.value).__name__}: {error!r}")
        return None
    try:
        return Series.of(check_name(example.name), check_dimensions(example.dimensions)), number, True
    except SeriesError as error:
        _check_message(error, outcome)
    except Exception as error:  # noqa: BLE001 - that is what is looked for
        outcome.broken.append(f"{example.name!a:.80} {list(example.dimensions)!a:.200}: {error!r}")
        return None
    if not isinstance(example.name, str):
        outcome.refused += 1
        return None
    texts = {str.__str__(key): _written(text) for key, text in example.dimensions.items() if isinstance(key, str)}
    return Series.of(str.__str__(example.name), texts), number, False


def _written(value: object) -> Any:
    """As in a file, which has texts only."""
    if isinstance(value, str):
        return str.__str__(value)
    try:
        return str(value)
    except ValueError:
        return ""


def _check_message(error: SeriesError, outcome: Outcome) -> None:
    """What a refusal offers must be taken, and what it says must be printable."""
    try:
        str(error).encode()
    except UnicodeError:
        outcome.broken.append(f"a message that cannot be printed: {str(error)!a}")


def _number_of(series: Series, table: dict[int, Series]) -> int:
    for number, known in table.items():
        if known == series:
            return number
    table[len(table)] = series
    return len(table) - 1


def _encode(points: Points, good: Mapping[Series, bool], outcome: Outcome) -> None:
    own = {"run": points.run.name, "run_id": points.run.id, "hostname": points.run.host, **points.run.dimensions}
    encoder = Encoder(own, _printable(outcome))
    taken = sendable(points.columns)
    columns = points.columns.pick(taken)
    fit = encoder.takes(columns, points.series)
    outcome.refused += int(np.count_nonzero(~taken)) + int(np.count_nonzero(~fit))
    columns = columns.pick(fit)
    outcome.bodies = encoder.encode(columns, points.series)
    sent = [json.loads(body) for body in outcome.bodies]
    owners = {
        (one["name"], *one["dimensions"].items()): number
        for one, number in zip(sent, columns.series.tolist(), strict=True)
    }
    for one, number, value in zip(sent, columns.series.tolist(), columns.value.tolist(), strict=True):
        series = points.series[number]
        whole = {**own, **dict(series.dimensions), "run_id": points.run.id}
        same = (one["name"], one["dimensions"]) == (series.name, whole)
        outcome.accepted += same and good[series]
        outcome.mended += not (same and good[series])
        taken_by_another = owners.get((series.name, *sorted(whole.items())), number) != number
        if (good[series] and not same and not taken_by_another) or one["value"] != value:
            outcome.changed.append(f"{series!r} {value!r}: {one}")


def _printable(outcome: Outcome) -> Callable[[str], None]:
    def say(message: str) -> None:
        if not message.isprintable():
            outcome.broken.append(f"a message that cannot be printed: {message!a}")

    return say


def _pack(points: Points, outcome: Outcome) -> None:
    sink = StatsdSink("nowhere.invalid", lookup=Nowhere(), max_bytes=8192)
    sink.write(points)
    outcome.datagrams = [datagram.payload for datagram in sink._connection.packed]
    if max(map(len, outcome.datagrams), default=0) > 8192:
        outcome.broken.append("a datagram of more than 8192 bytes")


def expected_of(bodies: Sequence[str]) -> dict[tuple[str, tuple[tuple[str, str], ...], int], str]:
    """Of several points of one series and time the last one counts."""
    made = {}
    for body in bodies:
        one = json.loads(body)
        made[one["name"], tuple(sorted(one["dimensions"].items())), one["timestamp"]] = body
    return made
