"""What a run is metered on: GPUs, the host, or a recorded trace.

To add a device, subclass :class:`~mlops.devices.base.Device` in a module here, name it in
:data:`~mlops.devices.base.KINDS`, and add it to the contract suite in ``tests/devices``.
"""

from mlops.devices.base import KINDS, Absent, Device, Meter, Reading, opener
from mlops.devices.sampler import Sampler

__all__ = ["KINDS", "Absent", "Device", "Meter", "Reading", "Sampler", "opener"]
