"""``python -m tests.testbed.monasca``, what ``make monasca`` runs: a Monasca to play with, until Ctrl-C."""

from __future__ import annotations

import contextlib
import signal
import sys
import tempfile
import time
from pathlib import Path

from tests.testbed.environments import TestbedError
from tests.testbed.monasca.chain import Monasca

__all__ = ["main"]


def main() -> int:
    """Start it, say how to use it, and stop it when told to."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
    with contextlib.suppress(KeyboardInterrupt), tempfile.TemporaryDirectory(prefix="mlops-monasca-") as folder:
        began = time.monotonic()
        try:
            with Monasca(Path(folder), say=_say) as monasca:
                _say(f"Monasca is ready ({time.monotonic() - began:.0f} s). Paste these two lines into another shell:")
                names = " ".join(f"{name}={text}" for name, text in monasca.environ().items())
                print(f"export {names}")  # noqa: T201 - what it is for
                print(f"export MLOPS_SINKS={monasca.statsd_url},{monasca.url}", flush=True)  # noqa: T201 - see above
                _say("Ctrl-C stops everything.")
                _watch(monasca)
        except TestbedError as error:
            _say(f"error: {error}")
            return 1
    return 0


def _watch(monasca: Monasca) -> None:
    """Start again what has died, as a cloud does, and say so; the persister dies of what it cannot digest."""
    parts = (monasca.keystone, monasca.api, monasca.persister, monasca.influxdb)
    while True:
        time.sleep(1.0)
        for part in parts:
            if part.pid is None:
                _say(f"{part.name} has ended and is started again. {part.last_words()}")
                part.stop()
                part.start()


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)  # noqa: T201 - it talks to the terminal


if __name__ == "__main__":
    sys.exit(main())
