"""The services' configuration."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

__all__ = ["DATABASE", "PASTE", "Ports", "api", "environ", "influxdb", "persister"]

DATABASE: Final = "mon"

PASTE: Final = """\
[DEFAULT]
name = monasca_api
[pipeline:main]
pipeline = request_id auth api
[app:api]
paste.app_factory = monasca_api.api.server:launch
[filter:auth]
paste.filter_factory = monasca_api.healthcheck.keystone_protocol:filter_factory
[filter:request_id]
paste.filter_factory = oslo_middleware.request_id:RequestId.factory
"""

_INFLUXDB: Final = """\
reporting-disabled = true
bind-address = "127.0.0.1:{rpc}"
[meta]
  dir = "{folder}/influxdb/meta"
[data]
  dir = "{folder}/influxdb/data"
  wal-dir = "{folder}/influxdb/wal"
  query-log-enabled = false
[monitor]
  store-enabled = false
[http]
  bind-address = "127.0.0.1:{http}"
  log-enabled = false
"""

_STORE: Final = """\
[influxdb]
ip_address = 127.0.0.1
port = {port}
user = nobody
password = none
database_name = {database}
"""

_API: Final = """\
[DEFAULT]
region = RegionOne
use_stderr = true
[database]
connection = sqlite:///{database}
[messaging]
driver = monasca_api.common.messaging.kafka_publisher:KafkaPublisher
[kafka]
uri = {broker}
[repositories]
metrics_driver = monasca_api.common.repositories.influxdb.metrics_repository:MetricsRepository
[security]
default_authorized_roles = monasca-user
agent_authorized_roles = monasca-agent
read_only_authorized_roles = monasca-read-only-user
delegate_authorized_roles = admin
[keystone_authtoken]
www_authenticate_uri = {keystone}
auth_url = {keystone}
auth_type = password
username = admin
password = {password}
project_name = admin
user_domain_id = default
project_domain_id = default
"""

_PERSISTER: Final = """\
[DEFAULT]
use_stderr = true
[kafka]
num_processors = 1
max_wait_time_seconds = 1
[kafka_metrics]
uri = {broker}
enabled = true
topic = metrics
group_id = 1_metrics
[kafka_alarm_history]
enabled = false
uri = {broker}
[kafka_events]
enabled = false
uri = {broker}
"""


@dataclass(frozen=True, slots=True)
class Ports:
    """Where the parts listen, on 127.0.0.1."""

    api: int
    influxdb: int
    influxdb_rpc: int


def environ() -> dict[str, str]:
    """The environment of the services: ours, past any proxy."""
    return {key: value for key, value in os.environ.items() if not key.lower().endswith("_proxy")}


def influxdb(folder: Path, ports: Ports) -> str:
    """InfluxDB's."""
    return _INFLUXDB.format(folder=folder, rpc=ports.influxdb_rpc, http=ports.influxdb)


def api(ports: Ports, broker: str, keystone: str, password: str, database: Path) -> str:
    """monasca-api's."""
    own = _API.format(broker=broker, keystone=keystone, password=password, database=database)
    return own + _STORE.format(port=ports.influxdb, database=DATABASE)


def persister(ports: Ports, broker: str) -> str:
    """monasca-persister's."""
    return _PERSISTER.format(broker=broker) + _STORE.format(port=ports.influxdb, database=DATABASE)
