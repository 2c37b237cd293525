"""The package of callbacks: what it costs to import, and what it says where a framework is missing."""

from __future__ import annotations

import subprocess
import sys

import pytest

from mlops import callbacks


def in_a_fresh_interpreter(code: str) -> str:
    """What this code prints."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    return done.stdout.strip()


def test_no_framework_is_imported_before_it_is_asked_for() -> None:
    """The package and what all callbacks share stay light."""
    code = "import sys, mlops.callbacks, mlops.callbacks.base; print('torch' in sys.modules, 'fastai' in sys.modules)"
    assert in_a_fresh_interpreter(code) == "False False"


def test_a_missing_framework_is_said_with_what_to_install() -> None:
    """By its import and by its attribute alike, as an ImportError that names the extra."""
    code = (
        "import sys; sys.modules.update(fastai=None, torch=None)\n"
        "import mlops\n"
        "try: mlops.callbacks.fastai.MonascaCallback\n"
        "except ImportError as error: print(error)"
    )
    said = in_a_fresh_interpreter(code)
    assert "is not installed" in said
    assert "pip install 'mlops[fastai]'" in said


def test_a_framework_that_is_not_served() -> None:
    """It is an attribute that the package lacks."""
    with pytest.raises(AttributeError, match="no attribute 'keras'"):
        _ = callbacks.keras
    assert not hasattr(callbacks, "keras")
