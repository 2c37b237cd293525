"""What a GPU's bit mask of clocks event reasons says, and from when on it is hot.

A mask has no order, and Monasca can fold it to a maximum only; so a state is named after the highest bit that is
set, which happens to go from harmless to grave.  A GPU at its power limit is a busy GPU; the three reasons above the
software's thermal one are the hardware's own, and a matter for whoever looks after the node.
"""

from __future__ import annotations

from typing import Final

import pynvml

from k8s.dashboards.builder.panels import BAD, GOOD, WARN, Level

__all__ = ["HOT", "HOT_MEMORY", "STATES"]

HOT: Final = (Level(80, WARN), Level(87, BAD))
"""°C. Data-centre GPUs of NVIDIA take back their clocks somewhere from 85 to 95; nvidia-smi -q tells where."""

HOT_MEMORY: Final = (Level(85, WARN), Level(95, BAD))
"""°C. HBM is specified to 95 or 105."""

_REASONS: Final = (
    (pynvml.nvmlClocksEventReasonGpuIdle, "idle", "blue"),
    (pynvml.nvmlClocksEventReasonApplicationsClocksSetting, "clocks as set", GOOD),
    (pynvml.nvmlClocksEventReasonSwPowerCap, "power limit", "yellow"),
    (pynvml.nvmlClocksEventReasonHwSlowdown, "hardware slowdown", BAD),
    (pynvml.nvmlClocksEventReasonSyncBoost, "held by its group", "yellow"),
    (pynvml.nvmlClocksEventReasonSwThermalSlowdown, "hot (software)", WARN),
    (pynvml.nvmlClocksEventReasonHwThermalSlowdown, "hot (hardware)", BAD),
    (pynvml.nvmlClocksEventReasonHwPowerBrakeSlowdown, "power brake", BAD),
    (pynvml.nvmlClocksEventReasonDisplayClockSetting, "display clocks", GOOD),
)

STATES: Final = (
    (0, 0, "unthrottled", GOOD),
    *((bit, 2 * bit - 1, text, color) for bit, text, color in _REASONS),
)
"""From, to, text and colour of each state."""
