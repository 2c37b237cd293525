"""A training of Lightning's in two ranks: what torchrun, or Lightning itself, starts in test_torchrun."""

from __future__ import annotations

from mlops.callbacks.lightning import MonascaCallback
from tests.callbacks.small_lightning import fit

fit(MonascaCallback("lightning"), devices=2, strategy="ddp")
