"""Running any command as a monitored run: what ``mlops run`` does.

The command is forked before the run is opened, while this process still has one thread, and told
to go once the run's folder is known.  From then on this process only samples the devices and
waits: the command's standard streams are its own, signals are passed on, and when it has ended the
run says in words how.

Signals are taken with ``sigwaitinfo``, which also tells who sent one.  Ctrl-C on a terminal goes to
the command by itself, being of the same process group, and is not sent twice; what someone sent to
this process is passed on.  Without a terminal the command has a process group of its own, which gets
what this process gets, so that a signal to the whole group of this process also arrives once.

If this process is killed, the kernel sends the command SIGTERM (``PR_SET_PDEATHSIG``): a training
that nobody sees any more ends, and gets the chance to end well.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Protocol

from mlops.errors import CommandError, RunError
from mlops.series import mend_dimensions

__all__ = ["Ended", "Recording", "ended", "name_of", "run_command"]

_FATAL: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
"""Signals by which someone ends a command."""

_FORWARDED: Final = (*_FATAL, signal.SIGUSR1, signal.SIGUSR2)
_PR_SET_PDEATHSIG: Final = 1
"""From linux/prctl.h; see prctl(2)."""

NOT_FOUND: Final = 127
NOT_EXECUTABLE: Final = 126
SIGNAL_BASE: Final = 128
"""What shells add to a signal's number to make an exit status of it (POSIX, Shell & Utilities 2.8.2)."""


class Recording(Protocol):
    """What is open while the command runs: a :class:`mlops.run.Run`."""

    def close(self, outcome: str = "finished", reason: str = "") -> None:
        """End it, and say how the command ended."""


@dataclass(frozen=True, slots=True)
class Ended:
    """How a command ended.

    Attributes:
        exit_code: its exit status; 128 and the signal's number if a signal ended it.
        outcome: one of :data:`mlops.store.OUTCOMES`.
        reason: in words; empty when it went well.
        seconds: how long it ran.
    """

    exit_code: int
    outcome: str
    reason: str
    seconds: float = 0.0


def ended(status: int, asked: Sequence[int] = ()) -> Ended:
    """How a command ended, in words.

    Args:
        status: as ``waitpid`` gave it.
        asked: the signals that this process saw meanwhile and that ask a command to end.
    """
    code = os.waitstatus_to_exitcode(status)
    if code == 0:
        return Ended(0, "finished", "")
    if code < 0:
        return Ended(SIGNAL_BASE - code, *_of_signal(-code))
    reason = f"exit status {code}"
    if asked:
        return Ended(code, "interrupted", f"{_name(asked[-1])}, then {reason}")
    if code - SIGNAL_BASE in set(signal.Signals):
        reason += f", which shells give after {_name(code - SIGNAL_BASE)}"
    return Ended(code, "failed", reason)


def name_of(command: Sequence[str]) -> str:
    """A run's name for a command: the script or module that it runs, else the program, as Monasca takes it."""
    return mend_dimensions({"run": _called(command)}).get("run", "run")


def _called(command: Sequence[str]) -> str:
    words = list(command)
    for number, word in enumerate(words):
        if word == "-m" and number + 1 < len(words) and Path(words[0]).name.startswith("python"):
            return words[number + 1]
        if word.endswith(".py"):
            return Path(word).stem
    return Path(words[0]).stem if words else "run"


def run_command(command: Sequence[str], begin: Callable[[], tuple[Recording, Mapping[str, str]]]) -> Ended:
    """Run a command to its end as a monitored run.

    Must be called from a process that has one thread, since it forks.

    Args:
        command: the program and its arguments.
        begin: opens the run; gives it, and the environment that the command shall have.

    Raises:
        CommandError: there is no such program, or it cannot be executed.
        RunError: this process has more than one thread.
        MlopsError: whatever ``begin`` raises; the command is then not run.
    """
    _find(command)
    if len(os.listdir("/proc/self/task")) > 1:  # noqa: PTH208 - the number of entries is all that is wanted
        raise RunError("A command can be run only by a process that has one thread")
    with _signals_held() as held:
        child = _Child(command, held)
        try:
            recording, environ = begin()
        except BaseException:
            child.abandon()
            raise
        began = time.monotonic()
        failure = child.go(environ)
        if failure is not None:
            recording.close("failed", str(failure))
            raise failure
        end = replace(ended(*child.wait(held.waited)), seconds=time.monotonic() - began)
        recording.close(end.outcome, end.reason)
    return end


def _of_signal(number: int) -> tuple[str, str]:
    name = _name(number)
    if number in _FATAL:
        return "interrupted", name
    if number == signal.SIGKILL:
        return "killed", f"{name}, from someone or from the kernel for want of memory"
    return "failed", f"crashed with {name} ({signal.strsignal(number)})"


def _name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _find(command: Sequence[str]) -> None:
    """Complain about a program that cannot be run before a run is opened for it."""
    program = command[0]
    if shutil.which(program):
        return
    if Path(program).is_dir():
        raise CommandError(f"{program} is a folder", remedy="Name a program.", exit_code=NOT_EXECUTABLE)
    if Path(program).exists():
        hint = "" if os.sep in program else f"./{program}"
        if hint and os.access(program, os.X_OK):
            raise CommandError(f"There is no command {program} on PATH", remedy=f"Write {hint} for the one here.")
        remedy = f"Run it with its interpreter (python {program}), or make it executable: chmod +x {program}."
        raise CommandError(f"{program} is not executable", remedy=remedy, exit_code=NOT_EXECUTABLE)
    where = "" if os.sep in program else " on PATH"
    raise CommandError(f"There is no command {program!r}{where}", remedy="Check its spelling and PATH.")


# -- signals -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Held:
    """Signals that are blocked in this process.

    Attributes:
        waited: those that are waited for.
        before: what was blocked before.
    """

    waited: frozenset[signal.Signals]
    before: frozenset[int]


@contextlib.contextmanager
def _signals_held() -> Iterator[_Held]:
    """Block what is waited for; threads begun meanwhile have it blocked too, so it comes to the waiting one.

    A signal that is ignored stays so, for the command too: nohup means it.
    """
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    heeded = {number for number in _FORWARDED if signal.getsignal(number) != signal.SIG_IGN}
    waited = frozenset({signal.SIGCHLD, *heeded})
    before = frozenset(signal.pthread_sigmask(signal.SIG_BLOCK, waited))
    try:
        yield _Held(waited, before)
    finally:
        while signal.sigtimedwait(waited, 0) is not None:
            pass
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


# -- the command ---------------------------------------------------------------------------------


class _Child:
    """A command that is forked already and waits to be told its environment.

    Args:
        command: the program and its arguments.
        held: what the child must unblock.
    """

    def __init__(self, command: Sequence[str], held: _Held) -> None:
        self._apart = not _has_terminal()
        prctl = ctypes.CDLL(None, use_errno=True).prctl if sys.platform == "linux" else None
        parent = os.getpid()
        read, self._orders = os.pipe()
        self._answers, write = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            try:
                os.close(self._orders)
                os.close(self._answers)
                if self._apart:
                    os.setpgid(0, 0)
                if prctl is not None:
                    prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
                if os.getppid() == parent:
                    _become(command, read, write, held)
            finally:
                os._exit(NOT_FOUND)
        os.close(read)
        os.close(write)

    def go(self, environ: Mapping[str, str]) -> CommandError | None:
        """Let it begin; what kept it from beginning, if anything did."""
        with contextlib.suppress(BrokenPipeError), os.fdopen(self._orders, "w") as orders:
            json.dump(dict(environ), orders)
        with os.fdopen(self._answers, "r") as answers:
            failure = answers.read()
        if not failure:
            return None
        os.waitpid(self.pid, 0)
        number, _, text = failure.partition(" ")
        return CommandError(text, remedy="Check that it is a program.", exit_code=int(number))

    def abandon(self) -> None:
        """Let it end without having begun."""
        os.close(self._orders)
        os.close(self._answers)
        os.waitpid(self.pid, 0)

    def wait(self, waited: frozenset[signal.Signals]) -> tuple[int, list[int]]:
        """Its status and the signals that asked it to end, once it has ended."""
        asked: list[int] = []
        while True:
            info = signal.sigwaitinfo(waited)
            done, status = os.waitpid(self.pid, os.WNOHANG)
            if info.si_signo != signal.SIGCHLD:
                if info.si_signo in _FATAL:
                    asked.append(info.si_signo)
                if not done:
                    self._pass_on(info)
            if done:
                return status, asked

    def _pass_on(self, info: signal.struct_siginfo) -> None:
        """Send it what this process was sent, unless it got the same from the terminal.

        A group of its own gets it as a whole, as from a terminal: the shell in ``sh -c "python …"`` alone
        would end and leave the training behind.
        """
        if self._apart:
            os.killpg(self.pid, info.si_signo)
        elif not _from_terminal(info):
            os.kill(self.pid, info.si_signo)


def _become(command: Sequence[str], read: int, write: int, held: _Held) -> None:
    """In the child: wait for the environment, then turn into the command."""
    with os.fdopen(read) as orders:
        text = orders.read()
    if not text:
        return
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, held.before)
    try:
        os.execvpe(command[0], list(command), json.loads(text))  # noqa: S606 - a shell would change what was typed
    except OSError as error:
        code = NOT_FOUND if isinstance(error, FileNotFoundError) else NOT_EXECUTABLE
        os.write(write, f"{code} Cannot execute {command[0]}: {error.strerror or error}".encode(errors="replace"))


def _has_terminal() -> bool:
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC))
    except OSError:
        return False
    return True


def _from_terminal(info: signal.struct_siginfo) -> bool:
    """Whether the terminal sent it, to the whole group: Ctrl-C, the quit key or a hangup.

    What the kernel sends has an si_code above 0, what a process sends has not (sigaction(2)).
    """
    return info.si_code > 0 and info.si_signo in {signal.SIGINT, signal.SIGQUIT, signal.SIGHUP}
