"""When a destination that is away is tried again."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

from mlops.errors import SinkUnavailableError
from mlops.sinks._patience import FIRST_SECONDS, LONGEST_SECONDS, patiently


class Trial:
    """Calls something that fails a few times, and notes how long it was told to wait.

    Attributes:
        waits: seconds, one for each failure.
        told: the errors that were told.
    """

    def __init__(self, *errors: Exception, longest: float = LONGEST_SECONDS, enough: int = 1000) -> None:
        self.waits: list[float] = []
        self.told: list[BaseException] = []
        self._errors: Iterator[Exception] = iter(errors)
        self._retrying = patiently(
            stop=lambda _: len(self.told) >= enough,
            sleep=self.waits.append,
            before_sleep=self.told.append,
            longest=longest,
        )

    def call(self) -> str:
        """Call it until it goes well."""
        return self._retrying(self._once)

    def _once(self) -> str:
        for error in self._errors:
            raise error
        return "well"


def test_what_goes_well_is_not_waited_for() -> None:
    """No error, no sleep."""
    trial = Trial()
    assert trial.call() == "well"
    assert trial.waits == []


def test_waits_grow_up_to_a_bound_and_are_never_alike() -> None:
    """Each may be anything up to twice the bound of the one before, and at the most the longest: full jitter."""
    random.seed(0)
    bounds = [min(FIRST_SECONDS * 2**number, 15.0) for number in range(12)]
    waits: list[list[float]] = []
    for _ in range(200):
        trial = Trial(*[SinkUnavailableError("away")] * 12, longest=15.0)
        assert trial.call() == "well"
        waits.append(trial.waits)
    for number, bound in enumerate(bounds):
        column = [row[number] for row in waits]
        assert 0 <= min(column) < 0.1 * bound
        assert 0.9 * bound < max(column) <= bound


def test_what_the_destination_asks_for_is_heeded() -> None:
    """A Retry-After is never cut short, also beyond the longest wait; up to a tenth more keeps nodes apart."""
    asked = [0.4, 3.0, 90.0, 600.0]
    trial = Trial(*[SinkUnavailableError("later", retry_after=seconds) for seconds in asked])
    assert trial.call() == "well"
    for seconds, waited in zip(asked, trial.waits, strict=True):
        assert seconds <= waited <= 1.1 * seconds


def test_a_retry_after_of_nothing_is_no_hammering() -> None:
    """``Retry-After: 0`` waits as if nothing had been asked for."""
    random.seed(1)
    trial = Trial(*[SinkUnavailableError("now", retry_after=0.0)] * 20)
    trial.call()
    assert max(trial.waits) > 5


def test_every_error_is_told_and_the_last_one_raised() -> None:
    """Who waits can say why; when it is enough, the error itself comes out, not the library's."""
    errors = [SinkUnavailableError(str(number)) for number in range(4)]
    trial = Trial(*errors, enough=3)
    with pytest.raises(SinkUnavailableError, match="3"):
        trial.call()
    assert trial.told == errors[:3]


def test_ctrl_c_is_not_waited_out() -> None:
    """What is no Exception goes through at once."""
    calls = []

    def interrupted() -> None:
        calls.append(1)
        raise KeyboardInterrupt

    retrying = patiently(stop=lambda _: False, sleep=lambda _: None, before_sleep=lambda _: None)
    with pytest.raises(KeyboardInterrupt):
        retrying(interrupted)
    assert len(calls) == 1
