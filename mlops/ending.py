"""SIGTERM: a run that it ends says so, and sends what it has, before the process goes.

A scheduler, ``kill`` or torchrun's agent ends a training with SIGTERM, which Python obeys at once: no ``finally``, no
exit handler.  While a run is open in a process that leaves SIGTERM as it is, it is met with :func:`_end`: the runs are
closed as interrupted, and then the process ends by the very signal, as it would have.

Python runs a handler only between two steps of its main thread.  One that waits in C, for another rank or for a GPU,
may never take the next step, and SIGTERM must end it all the same: the signal also wakes a thread of ours
(``signal.set_wakeup_fd``), which does it in the main thread's place where that has not begun in two seconds.

Schedulers send a process and its group the same signal, people press Ctrl-C twice: while a run is being closed, both
wait until it is (:func:`held`).

Whoever has a handler of their own keeps it.  Lightning brings one with which it ends a fit in order, but only where it
finds none: where it is imported, none of ours is put in its way; its callback hears how the fit ends.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Final

__all__ = ["held", "meet_sigterm", "release_sigterm"]

_HAVE_THEIR_OWN: Final = ("lightning", "pytorch_lightning")
_PATIENCE: Final = 2.0
"""Seconds that the main thread has to begin with the end."""
_closers: list[Callable[[], object]] = []


class _State:
    """Where the end of this process stands.

    Attributes:
        begun: the main thread is at it.
        taken: held by the thread that closes the runs, the main one or the one that stands in for it.
        depth: of :func:`held` on the main thread.
        terminated, interrupted: what came meanwhile.
        pipe: what the thread that stands by reads, and what a signal is written to.
        thread: that stands by.
    """

    def __init__(self) -> None:
        self.begun = False
        self.taken = threading.Lock()
        self.depth = 0
        self.terminated = self.interrupted = False
        self.pipe: tuple[int, int] | None = None
        self.thread: threading.Thread | None = None


_state = _State()


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
        _stand_by()


def release_sigterm() -> None:
    """Leave SIGTERM as it was, unless somebody has taken it meanwhile."""
    if threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGTERM) is _end:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        _stand_down()


@contextlib.contextmanager
def held() -> Iterator[None]:
    """Have SIGTERM and Ctrl-C wait until what is done in here is done; on other threads than the main one, nothing."""
    if threading.current_thread() is not threading.main_thread() or _state.depth:
        yield
        return
    _state.depth = 1
    takes_interrupts = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if takes_interrupts:
        signal.signal(signal.SIGINT, _note_interrupt)
    try:
        yield
    finally:
        if takes_interrupts and signal.getsignal(signal.SIGINT) is _note_interrupt:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        _state.depth = 0
        terminated, interrupted = _state.terminated, _state.interrupted
        _state.terminated = _state.interrupted = False
        if terminated:
            os.kill(os.getpid(), signal.SIGTERM)
        if interrupted:
            raise KeyboardInterrupt


def _note_interrupt(_number: int, _frame: FrameType | None) -> None:
    _state.interrupted = True


def _end(number: int, _frame: FrameType | None) -> None:
    """On the main thread: close the runs, then die of the signal."""
    if _state.begun:  # the same signal once more
        return
    if _state.depth:
        _state.terminated = True
        return
    _state.begun = True
    if not _state.taken.acquire(blocking=False):
        while True:  # the thread that stands in ends this process
            time.sleep(1.0)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        _close()
    finally:
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)


def _close() -> None:
    for close in _closers:
        with contextlib.suppress(Exception):
            close()


# -- the thread that stands by ---------------------------------------------------------------------


def _stand_by() -> None:
    """Have a thread woken by signals, unless an event loop is woken by them already."""
    read, write = os.pipe()
    os.set_blocking(write, False)
    before = signal.set_wakeup_fd(write, warn_on_full_buffer=False)
    if before != -1:
        signal.set_wakeup_fd(before)
        os.close(read)
        os.close(write)
        return
    _state.pipe = read, write
    _state.thread = threading.Thread(target=_watch, args=(read,), name="mlops-sigterm", daemon=True)
    _state.thread.start()


def _stand_down() -> None:
    """Be woken no more; the thread ends."""
    if _state.pipe is None:
        return
    (_, write), _state.pipe = _state.pipe, None
    before = signal.set_wakeup_fd(-1)
    if before not in (-1, write):  # an event loop has taken it meanwhile
        signal.set_wakeup_fd(before)
    os.close(write)
    if _state.thread is not None:
        _state.thread.join(1.0)


def _watch(read: int) -> None:
    try:
        while signals := os.read(read, 64):
            if signal.SIGTERM in signals:
                _stand_in()
    finally:
        os.close(read)


def _stand_in() -> None:
    """Do what :func:`_end` does, if the main thread does not come to it."""
    until = time.monotonic() + _PATIENCE
    while time.monotonic() < until:
        if _state.begun or _state.depth or signal.getsignal(signal.SIGTERM) is not _end:
            return
        time.sleep(0.02)
    if not _state.taken.acquire(blocking=False):
        return
    try:
        _close()
    finally:
        set_handler = ctypes.CDLL(None).signal  # Python's own is for the main thread
        set_handler.argtypes, set_handler.restype = [ctypes.c_int, ctypes.c_void_p], ctypes.c_void_p
        set_handler(signal.SIGTERM, None)  # SIG_DFL
        os.kill(os.getpid(), signal.SIGTERM)


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
        if _state.pipe is not None:  # what wakes the parent's thread is not for the child to write to
            for end in _state.pipe:
                os.close(end)
            signal.set_wakeup_fd(-1)
        _state.__init__()  # type: ignore[misc] # anew, for those that hold it
        if self.held is not None:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
        self.after_in_parent()


_fork: Final = _Fork()
os.register_at_fork(before=_fork.before, after_in_parent=_fork.after_in_parent, after_in_child=_fork.after_in_child)
