"""How long a durable sink's destination is left alone before it is tried again."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from mlops.errors import MissingExtraError

if TYPE_CHECKING:
    import tenacity

__all__ = ["patiently"]

FIRST_SECONDS: Final = 0.5
LONGEST_SECONDS: Final = 60.0
_HOPEFUL: Final = 1.1
"""A Retry-After is never cut short; up to a tenth more keeps a thousand nodes from coming back at once."""


def patiently(
    *,
    stop: Callable[[BaseException], bool],
    sleep: Callable[[float], None],
    before_sleep: Callable[[BaseException], None],
    longest: float = LONGEST_SECONDS,
) -> tenacity.Retrying:
    """Calls a function until it does not raise: with exponential back-off, fully jittered.

    Args:
        stop: told each error, says whether it is to be raised.
        sleep: waits so many seconds, or until it is woken.
        before_sleep: told each error.
        longest: seconds between two attempts, unless the destination asks for more.
    """
    try:
        import tenacity
    except ImportError as error:
        raise MissingExtraError("tenacity", "monasca") from error

    backoff = tenacity.wait_random_exponential(multiplier=FIRST_SECONDS, max=longest)

    def wait(state: tenacity.RetryCallState) -> float:
        after = getattr(_error_of(state), "retry_after", None)
        return after * random.uniform(1.0, _HOPEFUL) if after else backoff(state)  # noqa: S311 - spreads load

    return tenacity.Retrying(
        stop=lambda state: stop(_error_of(state)),
        sleep=sleep,
        wait=wait,
        retry=tenacity.retry_if_exception_type(Exception),
        before_sleep=lambda state: before_sleep(_error_of(state)),
        reraise=True,
    )


def _error_of(state: tenacity.RetryCallState) -> BaseException:
    assert state.outcome is not None  # noqa: S101 - tenacity asks only after an attempt
    error = state.outcome.exception()
    assert error is not None  # noqa: S101 - and only where it raised
    return error
