"""Where a framework is not installed, as on the other Pythons, its tests are not collected."""

from __future__ import annotations

import importlib.util

_FRAMEWORKS = ("fastai", "lightning", "transformers")
collect_ignore_glob = [f"test_{name}*.py" for name in _FRAMEWORKS if not importlib.util.find_spec(name)]
