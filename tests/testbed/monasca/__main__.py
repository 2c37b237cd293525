"""``python -m tests.testbed.monasca``, what ``make monasca`` runs: a Monasca to play with, until Ctrl-C.

``python -m tests.testbed.monasca stop``, what ``make monasca-stop`` runs, ends it from another shell.

Once it is ready, two lines stand on its standard output and nothing else: pasted into another shell, they
make it the cloud that is meant there, and the place where runs send their points.  Everything else that it
says goes to standard error.  What dies meanwhile is started again.  Nothing is left when it ends; should it
be killed, its services end with it, and the next one removes its folder.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Final, NoReturn

from tests.testbed.environments import TestbedError
from tests.testbed.monasca.chain import Monasca
from tests.testbed.processes import wait_for

__all__ = ["main"]

_MODULE: Final = "tests.testbed.monasca"
_PREFIX: Final = "mlops-monasca-"
_STOP_SECONDS: Final = 60.0


def main(words: Sequence[str]) -> int:
    """Start it, say how to use it, and stop it when told to; or tell those that run to stop."""
    if list(words) == ["stop"]:
        return _stop()
    if words:
        _say(f"error: {' '.join(words)} is no command. Write stop, or nothing to start it.")
        return 2
    return _run()


def _run() -> int:
    _listen()
    _sweep()
    folder = Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-"))
    try:
        monasca = Monasca(folder, say=_say)
        try:
            monasca.start()
            _tell(monasca)
            _watch(monasca)
        finally:
            _listen(signal.SIG_IGN)  # a second Ctrl-C does not leave half of it
            _say("stopping")
            monasca.stop()
    except KeyboardInterrupt:
        return 0
    except TestbedError as error:
        _say(f"error: {error}")
        return 1
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _listen(to: signal.Handlers | None = None) -> None:
    """Have every signal that says to end raise KeyboardInterrupt; SIGHUP not where nohup has it ignored."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, signal.default_int_handler if to is None else to)


def _stop() -> int:
    """Tell each that runs to stop, and wait until it has."""
    running = [(folder, pid) for folder, pid in _folders() if _runs(pid)]
    if not running:
        _say("no Monasca of make monasca runs here")
    for _, pid in running:
        os.kill(pid, signal.SIGTERM)
    for folder, pid in running:
        wait_for(partial(_is_gone, folder), _STOP_SECONDS, f"process {pid} has stopped")
        _say(f"stopped (process {pid})")
    return 0


def _sweep() -> None:
    """Remove the folders of those that were killed."""
    for folder, pid in _folders():
        if not _runs(pid):
            shutil.rmtree(folder, ignore_errors=True)


def _folders() -> Iterator[tuple[Path, int]]:
    """The folder of each that runs here, or was killed, and its process id."""
    for folder in sorted(Path(tempfile.gettempdir()).glob(f"{_PREFIX}*")):
        pid = folder.name.removeprefix(_PREFIX).partition("-")[0]
        with contextlib.suppress(FileNotFoundError):
            if pid.isdigit() and folder.stat().st_uid == os.getuid():
                yield folder, int(pid)


def _is_gone(folder: Path) -> bool:
    return not folder.exists()


def _runs(pid: int) -> bool:
    """Whether that process is one of these, and not another that got its number."""
    with contextlib.suppress(OSError):
        return _MODULE.encode() in Path("/proc", str(pid), "cmdline").read_bytes()
    return False


def _tell(monasca: Monasca) -> None:
    _say("Paste these two lines into another shell; Ctrl-C here stops everything:")
    names = " ".join(f"{name}={shlex.quote(text)}" for name, text in monasca.environ().items())
    print(f"export {names}")  # noqa: T201 - what it is for
    print(f"export MLOPS_SINKS={monasca.statsd_url},{monasca.url}", flush=True)  # noqa: T201 - see above


def _watch(monasca: Monasca) -> NoReturn:
    """Start again what has died, as a cloud does, and say so; the persister dies of what it cannot digest."""
    while True:
        time.sleep(1.0)
        for part in (monasca.keystone, monasca.influxdb, monasca.api, monasca.persister, monasca.broker):
            if part.pid is not None:
                continue
            _say(f"{part.name} has ended and is started again. {part.last_words()}")
            part.stop()
            with contextlib.suppress(TestbedError):  # said with the next round
                if part is monasca.broker:
                    monasca.restart_broker()
                else:
                    part.start()


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)  # noqa: T201 - it talks to the terminal


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
