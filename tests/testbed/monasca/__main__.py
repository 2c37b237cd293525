"""``python -m tests.testbed.monasca``, what ``make monasca`` runs: a Monasca to play with, until Ctrl-C.

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
from pathlib import Path
from typing import NoReturn

from tests.testbed.environments import TestbedError
from tests.testbed.monasca.chain import Monasca

__all__ = ["main"]

_PREFIX = "mlops-monasca-"


def main() -> int:
    """Start it, say how to use it, and stop it when told to."""
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


def _sweep() -> None:
    """Remove the folders of those that were killed."""
    for folder in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        pid = folder.name.removeprefix(_PREFIX).partition("-")[0]
        if pid.isdigit() and not Path("/proc", pid).exists():
            shutil.rmtree(folder, ignore_errors=True)


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
    sys.exit(main())
