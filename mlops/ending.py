"""SIGTERM: a run that it ends says so, and sends what it has, before the process goes.

A scheduler, ``kill`` or torchrun's agent ends a training with SIGTERM, which Python obeys at once: no ``finally``, no
exit handler.  While a run is open in a process that leaves SIGTERM as it is, it is met with :func:`_end`: the runs are
closed as interrupted, and then the process ends by the very signal, as it would have.

Whoever has a handler of their own keeps it.  Lightning brings one with which it ends a fit in order, but only where it
finds none: where it is imported, none of ours is put in its way; its callback hears how the fit ends.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any, Final

__all__ = ["meet_sigterm", "release_sigterm"]

_HAVE_THEIR_OWN: Final = ("lightning", "pytorch_lightning")
_closers: list[Callable[[], object]] = []


def meet_sigterm(close: Callable[[], object]) -> None:
    """Call this before SIGTERM ends the process, if it would end it; for the main thread, others do nothing.

    Args:
        close: ends the runs that are open in this process.
    """
    if threading.current_thread() is not threading.main_thread() or any(
        name in sys.modules for name in _HAVE_THEIR_OWN
    ):
        return
    if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        _closers[:] = [close]
        signal.signal(signal.SIGTERM, _end)


def release_sigterm() -> None:
    """Leave SIGTERM as it was, unless somebody has taken it meanwhile."""
    if threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGTERM) is _end:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _end(number: int, _frame: FrameType | None) -> Any:
    signal.signal(number, signal.SIG_DFL)
    try:
        for close in _closers:
            with contextlib.suppress(Exception):
                close()
    finally:
        os.kill(os.getpid(), number)


class _Fork(threading.local):
    """Runs are the parent's business: a child has SIGTERM as it was, from its first moment.

    A signal that comes while a process is being forked would be forgotten by Python in the child, and one that comes
    just before a wait is seen after it: a parent that terminates its workers would wait for them for ever.  So SIGTERM
    is held back over a fork, and the child has no handler.
    """

    held: set[int] | None = None

    def before(self) -> None:
        if signal.getsignal(signal.SIGTERM) is _end:
            self.held = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})

    def after_in_parent(self) -> None:
        if self.held is not None:
            signal.pthread_sigmask(signal.SIG_SETMASK, self.held)
            self.held = None

    def after_in_child(self) -> None:
        if self.held is not None:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
        self.after_in_parent()


_fork: Final = _Fork()
os.register_at_fork(before=_fork.before, after_in_parent=_fork.after_in_parent, after_in_child=_fork.after_in_child)
