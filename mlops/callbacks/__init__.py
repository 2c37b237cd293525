"""Callbacks for training frameworks: each a thin adapter from a framework's events to a :class:`mlops.run.Run`.

A framework is imported with its adapter, never with this package.
"""

from __future__ import annotations

import importlib
from types import ModuleType

__all__ = ["fastai", "lightning", "transformers"]


def __getattr__(name: str) -> ModuleType:
    if name in __all__:
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
