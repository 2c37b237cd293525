"""A training of transformers' in two ranks: what torchrun starts in test_torchrun."""

from __future__ import annotations

import sys
from pathlib import Path

from mlops.callbacks.transformers import MonascaCallback
from tests.callbacks import small_transformers as small

folder = Path(sys.argv[1])
small.fit(MonascaCallback("transformers"), output_dir=folder / "out", eval_strategy="epoch", ddp_backend="gloo")
