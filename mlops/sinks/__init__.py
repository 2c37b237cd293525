"""Where points go besides the store: one module a destination, all alike to what feeds them.

A sink is two methods, ``write(points)`` and ``close(timeout)``; to add one, subclass
:class:`~mlops.sinks.base.Sink` in a module here, name its URL scheme in
:data:`~mlops.sinks.base.SCHEMES`, and add it to the contract suite in ``tests/sinks``.
"""

from mlops.sinks.base import SCHEMES, DurableSink, Point, Points, RunIdentity, Sink, SinkURL, open_sink
from mlops.sinks.memory import MemorySink

__all__ = ["SCHEMES", "DurableSink", "MemorySink", "Point", "Points", "RunIdentity", "Sink", "SinkURL", "open_sink"]
