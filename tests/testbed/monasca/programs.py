"""What runs inside the services' own environments, as text: the tests' interpreter has none of their packages."""

from __future__ import annotations

__all__ = ["API", "BROKER", "KEYSTONE", "KEYSTONE_INIT", "PERSISTER", "SCHEMA"]

_WITH_PARENT = """
# A child of this program ends with it, also when it is killed: PR_SET_PDEATHSIG, SIGKILL.
import ctypes
ctypes.CDLL(None).prctl(1, 9)
"""

KEYSTONE = f"""
{_WITH_PARENT}
import os, sys
os.environ["OS_KEYSTONE_CONFIG_FILES"] = os.environ["TESTBED_CONFIG"]
sys.argv = ["keystone"]  # its oslo.config parses them
from keystone.wsgi.api import application
"""

KEYSTONE_INIT = """
# Schema, keys and the first administrator in one process: each keystone-manage costs seconds of imports.
import sqlite3, sys
config, url, password, database = sys.argv[1:]
sys.argv = ["keystone"]
from oslo_log import log
import keystone.conf
from keystone.cmd import bootstrap
from keystone.common import fernet_utils, sql
from keystone.common.sql import upgrades
CONF = keystone.conf.CONF
log.register_options(CONF)
keystone.conf.configure()
sql.initialize()
CONF(args=[], project="keystone", default_config_files=[config])
keystone.conf.setup_logging()
connection = sqlite3.connect(database)
connection.execute("pragma journal_mode=wal")  # without it: 500, database is locked
connection.close()
upgrades.offline_sync_database_to_version()
for folder, group, most in (
    (CONF.fernet_tokens.key_repository, "fernet_tokens", CONF.fernet_tokens.max_active_keys),
    (CONF.credential.key_repository, "credential", 3),
):
    keys = fernet_utils.FernetUtils(folder, most, group)
    keys.create_key_directory()
    keys.initialize_key_repository()
made = bootstrap.Bootstrapper()
made.admin_username = made.project_name = "admin"
made.admin_role_name = "admin"
made.admin_password = password
made.service_name = "keystone"
made.region_id = "RegionOne"
made.public_url = made.internal_url = made.admin_url = url
made.bootstrap()
"""

API = (
    _WITH_PARENT
    + """
import os, sqlite3, sys
# The API writes texts as bytes, which MySQL takes for texts; with SQLite it could not read them back.
sqlite3.register_adapter(bytes, lambda raw: raw.decode())
folder = os.environ["TESTBED_CONFIG"]
sys.argv = ["monasca-api", "--config-file", f"{folder}/monasca-api.conf"]
from monasca_api import config
from monasca_api.api import server
config.parse_args(sys.argv[1:])  # before paste.deploy's launch() does
application = server.get_wsgi_app(config_base_path=folder)
"""
)

PERSISTER = """
import ctypes, os, sys
# Its own child ends with it, also when it is killed: PR_SET_PDEATHSIG, SIGKILL.
os.register_at_fork(after_in_child=lambda: ctypes.CDLL(None).prctl(1, 9))
sys.argv = ["monasca-persister", "--config-file", sys.argv[1]]
from monasca_persister.persister import main
sys.exit(main())
"""

SCHEMA = """
import sys
import sqlalchemy
from monasca_api.common.repositories.sqla import models
engine = sqlalchemy.create_engine(f"sqlite:///{sys.argv[1]}")
metadata = models.get_all_metadata()
metadata.create_all(engine)
with engine.begin() as connection:
    types = metadata.tables["notification_method_type"]
    connection.execute(types.insert(), [{"name": name} for name in ("EMAIL", "WEBHOOK", "PAGERDUTY")])
"""

BROKER = """
# librdkafka's mock cluster, which other processes produce to and consume from: SIGUSR1 has it refuse connections,
# SIGUSR2 has it take them again. Through the library's C functions, because it keeps no more than 5 MB a partition and
# then drops the oldest without a word, and only these can say how many partitions there are.
import ctypes, os, pathlib, signal, sys
import confluent_kafka  # loads the library
with open("/proc/self/maps") as maps:
    library = ctypes.CDLL(next(line.split()[-1] for line in maps if "librdkafka" in line))
pointer, text, number = ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int32
def function(name, result, *arguments):
    found = getattr(library, "rd_kafka_" + name)
    found.restype, found.argtypes = result, arguments
    return found
client = function("new", pointer, number, pointer, text, ctypes.c_size_t)(0, function("conf_new", pointer)(), None, 0)
cluster = function("mock_cluster_new", pointer, pointer, number)(client, 1)
function("mock_group_initial_rebalance_delay_ms", None, pointer, number)(cluster, 0)
if function("mock_topic_create", number, pointer, text, number, number)(cluster, b"metrics", int(sys.argv[2]), 1):
    sys.exit("the topic cannot be made")
switch = {
    signal.SIGUSR1: function("mock_broker_set_down", number, pointer, number),
    signal.SIGUSR2: function("mock_broker_set_up", number, pointer, number),
}
signal.pthread_sigmask(signal.SIG_BLOCK, switch)
target = pathlib.Path(sys.argv[1])
draft = target.with_suffix(".draft")
draft.write_bytes(function("mock_cluster_bootstraps", text, pointer)(cluster))
draft.rename(target)
while True:
    switch[signal.sigwait(switch)](cluster, 1)
"""
