"""Alarm expressions: read as Monasca reads them, written as every part of it understands them.

Three parts read an expression: the API (a grammar in Python), the threshold engine, which evaluates it (another one,
in Java), and older releases of both.  They do not agree.  The API takes ``foo{a = b} > 3`` for a dimension named
``"a "``, which no metric has; the engine takes neither a line break nor ``foo > 3 times 2`` without a function.  So
what is read here is what the API reads, but for what no metric can bear, and what is written is what all of them
read alike: one line, a function always, operators as signs, no parenthesis that is not needed.

What a condition means to the engine (monasca-thresh, read in its source, not run): whenever ``period`` seconds are over
it looks at the last ``times`` stretches of them.  The condition holds if it holds for each, and does not hold as soon
as one says so.  A stretch without measurements says nothing, not 0: ``count(x) < 1`` never holds.  Where too little is
known the alarm is UNDETERMINED, or OK if the condition is ``deterministic``.
"""

from __future__ import annotations

import difflib
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from typing import Final

from mlops.errors import AlarmError

__all__ = ["FUNCTIONS", "AllOf", "AnyOf", "Condition", "Expression", "conditions", "parse", "why_not_in_place"]

FUNCTIONS: Final = ("min", "max", "sum", "count", "avg", "last")
DEFAULT_PERIOD: Final = 60
"""Seconds; the API takes multiples of this alone."""
LONGEST_NAME: Final = 100
"""Characters of a metric's name that the API's database has room for where it keeps conditions."""
LONGEST: Final = 255
"""Characters in a dimension's key or value."""

_MOST_NUMBER: Final = 2**31 - 1
_DEEPEST: Final = 20
_SHOWN: Final = 20
_SIGNS: Final = {"lt": "<", "lte": "<=", "gt": ">", "gte": ">="}

_SPACE: Final = re.compile(r"\s*")
_NEVER: Final = r"<>={},\"\\;&|()\x00-\x1f\x7f-\x9f\ud800-\udfff\U00010000-\U0010ffff"
"""In no word: what Monasca allows in no name, what one of the two grammars ends a word at, and what the API's does not
know, which ends at U+FFFF."""
_WORD: Final = re.compile(rf"[^\s{_NEVER}]+")
_PHRASE: Final = re.compile(rf"(?:[^\s{_NEVER}]|[ ])+")
_OPERATOR: Final = re.compile(r"<=|<|>=|>|lte|lt|gte|gt", re.IGNORECASE)
_NUMBER: Final = re.compile(r"-?[0-9]+(?:\.[0-9]+)?")
_WHOLE: Final = re.compile(r"[0-9]+")
_AND: Final = re.compile(r"and|&&", re.IGNORECASE)
_OR: Final = re.compile(r"or|\|\|", re.IGNORECASE)
_TIMES: Final = re.compile(r"times", re.IGNORECASE)
_DETERMINISTIC: Final = re.compile(r"deterministic", re.IGNORECASE)
_NO_NAMES: Final = frozenset({"deterministic", "times"})
"""What the engine's grammar takes for something else than a name, wherever it stands."""


@dataclass(frozen=True, slots=True)
class Condition:
    """One comparison: ``avg(gpu.throttled, 300) > 0.5 times 2``.

    Attributes:
        function: one of :data:`FUNCTIONS`.
        metric: the metric's name.
        dimensions: sorted pairs that a series must have; it may have others.
        operator: ``<``, ``<=``, ``>`` or ``>=``.
        threshold: what is compared with.
        period: seconds that the function looks at.
        periods: how many periods in a row it must hold.
        deterministic: whether silence means OK.
    """

    function: str
    metric: str
    dimensions: tuple[tuple[str, str], ...]
    operator: str
    threshold: Decimal
    period: int = DEFAULT_PERIOD
    periods: int = 1
    deterministic: bool = False

    @property
    def subject(self) -> tuple[str, tuple[tuple[str, str], ...]]:
        """What it is about: the metric and the dimensions."""
        return self.metric, self.dimensions

    def __str__(self) -> str:
        inside = ",".join(f"{key}={value}" for key, value in self.dimensions)
        subject = f"{self.metric}{{{inside}}}" if inside else self.metric
        deterministic = ", deterministic" if self.deterministic else ""
        period = f", {self.period}" if self.period != DEFAULT_PERIOD else ""
        times = f" times {self.periods}" if self.periods != 1 else ""
        return f"{self.function}({subject}{deterministic}{period}) {self.operator} {self.threshold:f}{times}"


@dataclass(frozen=True, slots=True)
class AllOf:
    """Holds if all of its parts hold."""

    parts: tuple[Expression, ...]

    def __str__(self) -> str:
        return " and ".join(f"({part})" if isinstance(part, AnyOf) else str(part) for part in self.parts)


@dataclass(frozen=True, slots=True)
class AnyOf:
    """Holds if any of its parts holds."""

    parts: tuple[Expression, ...]

    def __str__(self) -> str:
        return " or ".join(str(part) for part in self.parts)


Expression = Condition | AllOf | AnyOf


def parse(text: str) -> Expression:
    """Read an expression.

    Raises:
        AlarmError: Monasca would refuse it, or would read it as something that cannot come true; the message says
            where and why.
    """
    return _Reader(text).read()


def conditions(expression: Expression) -> Iterator[Condition]:
    """The comparisons of an expression, in their order."""
    if isinstance(expression, Condition):
        yield expression
        return
    for part in expression.parts:
        yield from conditions(part)


def why_not_in_place(old: Expression, new: Expression) -> str:
    """Why Monasca cannot change one expression into another without a new definition; empty if it can.

    The API refuses to change what conditions are about, and how many they are.  It takes another function, period or
    number of periods, and then stores the old ones for the conditions (11.0.0): the engine goes back to these when it
    starts anew.  Two conditions about the same it mixes up.
    """
    before, after = list(conditions(old)), list(conditions(new))
    if Counter(one.subject for one in before) != Counter(one.subject for one in after):
        return "it is about other metrics or dimensions"
    ways = [Counter((one.subject, one.function, one.period, one.periods) for one in side) for side in (before, after)]
    if ways[0] != ways[1]:
        return "a function, a period or a number of periods is another one"
    changed = Counter(one.subject for one in (Counter(before) - Counter(after)).elements())
    if any(count > 1 for count in changed.values()):
        return "two conditions about one metric are other ones"
    return ""


class _Reader:
    """Reads one expression from left to right."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._depth = 0

    def read(self) -> Expression:
        if not self._text.strip():
            raise AlarmError("The expression is empty", remedy="Write one such as: max(train.loss) > 10.")
        found = self._any()
        self._skip()
        if self._at < len(self._text):
            raise self._fault("is not understood", self._hint())
        return found

    # -- the grammar ------------------------------------------------------------------------------

    def _any(self) -> Expression:
        parts = [self._all()]
        while self._take(_OR):
            parts.append(self._all())
        flat = [inner for part in parts for inner in (part.parts if isinstance(part, AnyOf) else (part,))]
        return flat[0] if len(flat) == 1 else AnyOf(tuple(flat))

    def _all(self) -> Expression:
        parts = [self._one()]
        while self._take(_AND):
            parts.append(self._one())
        flat = [inner for part in parts for inner in (part.parts if isinstance(part, AllOf) else (part,))]
        return flat[0] if len(flat) == 1 else AllOf(tuple(flat))

    def _one(self) -> Expression:
        if not self._sign("("):
            return self._condition()
        self._depth += 1
        if self._depth > _DEEPEST:
            raise self._fault("is nested too deep", f"At most {_DEEPEST} parentheses deep.")
        found = self._any()
        if not self._sign(")"):
            raise self._fault("is not understood", "A parenthesis is not closed, or and, or is missing here.")
        self._depth -= 1
        return found

    def _condition(self) -> Condition:
        start = self._at
        word = self._take(_WORD)
        if word is None:
            raise self._fault(
                "is no metric", "A comparison begins with a metric or a function: max(gpu.temperature_celsius) > 90."
            )
        function, deterministic, period = "", False, DEFAULT_PERIOD
        if self._sign("("):
            function = self._function(word, start)
            start = self._at
            metric, dimensions = self._metric(self._take(_WORD), start)
            deterministic, period = self._how()
        else:
            metric, dimensions = self._metric(word, start)
        operator = self._operator()
        threshold = self._threshold()
        function = function or ("max" if operator.startswith(">") else "min")  # as the API does
        return Condition(function, metric, dimensions, operator, threshold, period, self._periods(), deterministic)

    def _function(self, word: str, start: int) -> str:
        function = word.lower()
        if function not in FUNCTIONS:
            near = difflib.get_close_matches(function, FUNCTIONS, 1)
            hint = f"Did you mean {near[0]}?" if near else f"The functions: {', '.join(FUNCTIONS)}."
            raise self._fault("is no function", hint, start)
        return function

    def _metric(self, name: str | None, start: int) -> tuple[str, tuple[tuple[str, str], ...]]:
        if name is None:
            raise self._fault("is no metric's name", "A name such as train.loss is expected here.")
        if name.lower() in _NO_NAMES:
            raise self._fault("is no metric's name", "The threshold engine takes that word for something else.", start)
        if len(name) > LONGEST_NAME:
            raise self._fault(
                f"has {len(name)} characters", f"Monasca keeps {LONGEST_NAME} of a metric's name in a condition.", start
            )
        return name, self._dimensions() if self._sign("{") else ()

    def _dimensions(self) -> tuple[tuple[str, str], ...]:
        found: dict[str, str] = {}
        if self._sign("}"):
            return ()
        while True:
            start = self._at
            key = self._phrase("a dimension's name")
            if not self._sign("="):
                raise self._fault("is not understood", "Write dimensions as {key=value,key=value}.")
            if key in found:
                raise self._fault(
                    f"names the dimension {key!r} twice", "A series has one value of it; use or between two.", start
                )
            found[key] = self._phrase(f"a value for {key!r}")
            if self._sign("}"):
                return tuple(sorted(found.items()))
            if not self._sign(","):
                raise self._fault("is not understood", "A comma or } is expected here.")

    def _phrase(self, what: str) -> str:
        self._skip()
        start = self._at
        text = (self._take(_PHRASE) or "").strip(" ")
        if not text:
            raise self._fault(
                "is not understood", f'Here stands {what}, with none of < > = {{ }} ( ) , " \\ ; & | in it.'
            )
        if len(text) > LONGEST:
            raise self._fault(f"has {len(text)} characters", f"Monasca takes {LONGEST}.", start)
        return text

    def _how(self) -> tuple[bool, int]:
        """What stands behind the metric: ``, deterministic, 300)``."""
        deterministic, period = False, DEFAULT_PERIOD
        if self._sign(","):
            deterministic = self._take(_DETERMINISTIC) is not None
            if not deterministic or self._sign(","):
                period = self._period()
        if not self._sign(")"):
            hint = "Write function(metric, deterministic, seconds); the last two may be left out."
            raise self._fault("is not understood", hint)
        return deterministic, period

    def _period(self) -> int:
        start, text = self._whole("a period in seconds", "A multiple of 60; deterministic stands before it.")
        period = int(text)
        if period == 0 or period % DEFAULT_PERIOD or period > _MOST_NUMBER:
            raise self._fault("is no period", f"A period is a multiple of {DEFAULT_PERIOD} seconds.", start)
        return period

    def _operator(self) -> str:
        text = self._take(_OPERATOR)
        if text is None:
            raise self._fault("is no comparison", "One of < <= > >= is expected here.")
        return _SIGNS.get(text.lower(), text)

    def _threshold(self) -> Decimal:
        text = self._take(_NUMBER)
        if text is None:
            raise self._fault("is no number", "Monasca compares a metric with a number, such as 10 or -0.5.")
        return Decimal(text)

    def _periods(self) -> int:
        if self._take(_TIMES) is None:
            return 1
        start, text = self._whole("a number of periods", "Write times 3.")
        periods = int(text)
        if not 0 < periods <= _MOST_NUMBER:
            raise self._fault("is no number of periods", "It is 1 or more.", start)
        return periods

    def _whole(self, what: str, hint: str) -> tuple[int, str]:
        self._skip()
        start = self._at
        text = self._take(_WHOLE)
        if text is None:
            raise self._fault(f"is not {what}", hint)
        return start, text

    # -- characters -------------------------------------------------------------------------------

    def _skip(self) -> None:
        found = _SPACE.match(self._text, self._at)
        assert found is not None  # noqa: S101 - it matches nothing, too
        self._at = found.end()

    def _take(self, rule: re.Pattern[str]) -> str | None:
        """What stands here, white space aside, if it keeps to the rule."""
        self._skip()
        found = rule.match(self._text, self._at)
        if found is None:
            return None
        self._at = found.end()
        return found.group()

    def _sign(self, sign: str) -> bool:
        self._skip()
        if not self._text.startswith(sign, self._at):
            return False
        self._at += 1
        return True

    def _hint(self) -> str:
        if re.match(r"[eE][+-]?[0-9]", self._text[self._at :]):
            return "Monasca reads no exponents; write all digits."
        return "Comparisons are joined by and, or; at their end may stand times 3."

    def _fault(self, what: str, hint: str, start: int | None = None) -> AlarmError:
        at = self._at if start is None else start
        rest = " ".join(self._text[at:].split())
        if not rest:
            return AlarmError(f"The expression ends too early, at character {at + 1}", remedy=hint)
        shown = rest if len(rest) <= _SHOWN else f"{rest[:_SHOWN]}…"
        return AlarmError(f"At character {at + 1} of the expression {shown!r} {what}", remedy=hint)
