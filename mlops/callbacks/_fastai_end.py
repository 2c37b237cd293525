"""How a callback learns that a fit of fastai's has ended, whatever ended it.

fastai tells its callbacks of a fit that ends by itself or by CancelFitException.  Of any other exception, and of
Ctrl-C, it tells nobody, while in a notebook the interpreter lives on.  But every epoch of a fit goes through
``Learner._with_events``: that method of the one learner is stood in for between two epochs, and only then.  So nothing
is in the way while batches are trained on, nothing is left on the learner afterwards, no class and no other learner is
touched, and a callback that was given to ``fit`` for once hears it too, which a stand-in for ``fit`` itself would miss.

Not heard is an exception out of another callback's ``after_fit``, when all is trained.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Final

__all__ = ["Listener"]

_METHOD: Final = "_with_events"


class Listener:
    """Stands in for a learner's ``_with_events`` for one call after another, each of which is an epoch.

    Args:
        told: called with the learner when an epoch is over, and with the exception that ended it if one did (it goes
            on its way afterwards); whether to listen to the next epoch.

    Attributes:
        in_epoch: whether an epoch is under way.
    """

    def __init__(self, told: Callable[[Any, BaseException | None], bool]) -> None:
        self._told = told
        self.in_epoch = False

    def listen(self, learn: Any) -> None:
        """Hear of the learner's next epoch."""
        vars(learn)[_METHOD] = functools.partial(self._one_call, learn, vars(learn).get(_METHOD))

    def stop(self, learn: Any) -> None:
        """Leave the learner as it was."""
        standing = vars(learn).get(_METHOD)
        if getattr(standing, "func", None) == self._one_call:
            _put_back(learn, standing.args[1])

    def _one_call(self, learn: Any, before: Callable[..., None] | None, *args: Any, **kwargs: Any) -> None:
        """Be ``Learner._with_events(f, event_type, ex, final)`` for once."""
        _put_back(learn, before)
        an_epoch = self.in_epoch = "epoch" in args
        try:
            getattr(learn, _METHOD)(*args, **kwargs)
        except BaseException as error:  # not kept in a variable: that would keep its frames, and what is on the GPU
            self.in_epoch = False
            if an_epoch:
                self._told(learn, error)
            raise
        self.in_epoch = False
        if an_epoch and self._told(learn, None):
            self.listen(learn)


def _put_back(learn: Any, before: Callable[..., None] | None) -> None:
    """What stood in for the learner's method before, if anything did."""
    vars(learn).pop(_METHOD, None)
    if before is not None:
        vars(learn)[_METHOD] = before
