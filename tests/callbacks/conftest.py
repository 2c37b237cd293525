"""Where fastai is not installed, as on the other Pythons, its tests are not collected."""

from __future__ import annotations

import importlib.util

collect_ignore_glob = [] if importlib.util.find_spec("fastai") else ["test_fastai*.py"]
