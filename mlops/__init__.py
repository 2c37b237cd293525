"""Training runs on bare-metal GPU nodes, recorded, metered and sent to OpenStack Monasca.

::

    import mlops

    with mlops.Run("digits", dimensions={"team": "vision"}) as run:
        for batch in batches:
            run.log({"train.loss": loss})

or, with fastai, ``Learner(..., cbs=mlops.callbacks.fastai.MonascaCallback())``.

Importing this package imports nothing else: every name below is loaded when it is first used
(PEP 562), so that a script pays for mlops only once it records something.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mlops import callbacks, devices, errors, report, sinks
    from mlops.errors import MlopsError
    from mlops.run import Run, current_run
    from mlops.settings import Settings

__version__ = "0.1.0"

__all__ = [
    "MlopsError",
    "Run",
    "Settings",
    "__version__",
    "callbacks",
    "current_run",
    "devices",
    "errors",
    "report",
    "sinks",
]

_HOMES = {
    "MlopsError": "mlops.errors",
    "Run": "mlops.run",
    "current_run": "mlops.run",
    "Settings": "mlops.settings",
}


def __getattr__(name: str) -> object:
    if name in _HOMES:
        value = getattr(importlib.import_module(_HOMES[name]), name)
    elif name in __all__:
        value = importlib.import_module(f"{__name__}.{name}")
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
