"""The client of the Monasca API: sending metrics, reading them back, alarm definitions.

Made for a million points: metrics are posted by the thousand, with their own times in milliseconds, and
what an answer means is told apart by what to do about it (see :mod:`mlops.clouds`).
"""

from mlops.monasca.client import SERVICE_TYPE, Monasca

__all__ = ["SERVICE_TYPE", "Monasca"]
