"""A whole Monasca on one machine: real Keystone, monasca-api, persister, InfluxDB and monasca-agent.

Only the broker is a stand-in: librdkafka's mock cluster, which speaks Kafka's protocol and keeps nothing.
There is no threshold engine (Java, Storm): alarm definitions are created and read, never evaluated.

::

    with Monasca(tmp_path / "monasca") as monasca:
        environ.update(monasca.environ())            # OS_CLIENT_CONFIG_FILE, OS_CLOUD
        mlops.Run("digits", sinks=[monasca.url, monasca.statsd_url])
        monasca.wait_stored(run.id, 1000)
        monasca.faults.next(Fault.answer(503))        # see tests.testbed.faults
        monasca.persister.kill(); monasca.persister.start()

``make monasca`` starts one to play with.
"""

from tests.testbed.monasca.chain import Monasca
from tests.testbed.monasca.keystone import SECRET

__all__ = ["SECRET", "Monasca"]
