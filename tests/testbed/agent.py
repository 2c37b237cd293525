"""The monasca-agent of a node: the real statsd daemon and the real forwarder, version 10.0.0.

What is behind them, Keystone and the Monasca API, is a stand-in that records (see ``cloud``), unless
another one is named (see ``monasca``).
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import yaml

from tests.testbed.cloud import RecordingCloud
from tests.testbed.datagrams import Listener
from tests.testbed.environments import environment
from tests.testbed.processes import Process, free_port

__all__ = ["HOSTNAME", "Agent"]

HOSTNAME: Final = "gpu-node-7"
"""What the agent stamps on measurements as their ``hostname``."""


class Agent:
    """A running agent; a context manager.

    Args:
        folder: where its configuration and its logs go.
        interval: seconds between its flushes (20 in real life).
        api: what its configuration says of the cloud behind it; the recording stand-in if not given.
        say: told what is being done, where that takes more than a moment.

    Attributes:
        cloud: the stand-in that it reports to, where no other is named.
        port: where it takes statsd datagrams.
        interval: as above.
        statsd: the daemon that does.
        forwarder: the process that it reports through.
        tap: where the daemon forwards every datagram that it has read, as it can be told to.
    """

    def __init__(
        self,
        folder: Path,
        *,
        interval: int = 1,
        api: Mapping[str, object] | None = None,
        say: Callable[[str], None] = print,
    ) -> None:
        home = environment("monasca-agent", say=say)
        folder.mkdir(parents=True, exist_ok=True)
        self.cloud = RecordingCloud()
        self.tap = Listener()
        self.port = free_port(socket.SOCK_DGRAM)
        self.interval = interval
        self._forwarder_port = free_port()
        config = folder / "agent.yaml"
        config.write_text(yaml.safe_dump(self._config(interval, api)), "utf-8")
        config.chmod(0o600)
        environ = {key: value for key, value in os.environ.items() if not key.lower().endswith("_proxy")}
        # This spelling of the option is the only one that both programs understand.
        option = f"--config-file={config}"
        self.forwarder = Process(
            "monasca-forwarder",
            [home.program("monasca-forwarder"), option],
            folder / "forwarder.log",
            self._forwarder_listens,
            environ,
        )
        self.statsd = Process(
            "monasca-statsd",
            [home.program("monasca-statsd"), option],
            folder / "statsd.log",
            self._statsd_listens,
            environ,
            grace=0.5,  # it looks up from its socket every 5 s, and has nothing to put in order
        )

    @property
    def url(self) -> str:
        """The URL of a sink that sends here."""
        return f"statsd://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start both, first the one that the other needs."""
        try:
            self.forwarder.start()
            self.statsd.start()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Stop both, and the cloud behind them."""
        try:
            self.statsd.stop()
        finally:
            self.forwarder.stop()
            self.cloud.close()
            self.tap.close()

    def last_words(self) -> str:
        """The ends of both logs."""
        return f"{self.statsd.last_words()}\n{self.forwarder.last_words()}"

    def kernel_drops(self) -> int:
        """Datagrams that the kernel has dropped because the daemon's socket was full."""
        place = f":{self.port:04X} "
        for line in Path("/proc/net/udp").read_text("ascii").splitlines()[1:]:
            if place in line.split(maxsplit=2)[1] + " ":
                return int(line.split()[-1])
        return 0

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _config(self, interval: int, api: Mapping[str, object] | None) -> dict[str, dict[str, object]]:
        return {
            "Main": {
                "hostname": HOSTNAME,
                "forwarder_url": f"http://localhost:{self._forwarder_port}",
                "listen_port": self._forwarder_port,
            },
            "Api": {
                "is_enabled": True,
                "url": "",
                "service_type": "monitoring",
                "endpoint_type": "public",
                "region_name": "RegionOne",
                "keystone_url": f"{self.cloud.url}/v3",
                "username": "monasca-agent",
                "password": "secret",
                "user_domain_name": "Default",
                "project_name": "monitoring",
                "project_domain_name": "Default",
                **(api or {}),
            },
            "Statsd": {
                "monasca_statsd_port": self.port,
                "monasca_statsd_interval": interval,
                "monasca_statsd_forward_host": "127.0.0.1",
                "monasca_statsd_forward_port": self.tap.port,
            },
            "Logging": {"log_level": "INFO", "disable_file_logging": True},
        }

    def _forwarder_listens(self) -> bool:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self._forwarder_port), timeout=1):
            return True
        return False

    def _statsd_listens(self) -> bool:
        """Whether an empty datagram, which the daemon passes over, is not refused."""
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.connect(("127.0.0.1", self.port))
            probe.send(b"")
            return probe.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0
