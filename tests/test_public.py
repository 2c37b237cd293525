"""The public surface: names, types, and what importing costs."""

from __future__ import annotations

import importlib
import pkgutil
import subprocess
import sys

import pytest

import mlops

FRAMEWORKS = "torch fastai matplotlib jinja2 papermill kubernetes openstack numpy pandas pyarrow monascastatsd"


def _modules() -> list[str]:
    found = [info.name for info in pkgutil.walk_packages(mlops.__path__, "mlops.")]
    return sorted(name for name in found if not name.rpartition(".")[2].startswith("_"))


def _in_a_fresh_interpreter(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert not done.stderr
    return done.stdout.strip()


def test_the_names_a_user_meets() -> None:
    """The package offers exactly these names, and each is there."""
    assert mlops.__all__ == [
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
    assert dir(mlops) == sorted(mlops.__all__)
    for name in mlops.__all__:
        assert getattr(mlops, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = mlops.nonsense


@pytest.mark.parametrize("name", [name for name in _modules() if not name.startswith("mlops.callbacks")])
def test_every_public_module_says_what_it_exports(name: str) -> None:
    """Each public module has ``__all__``, and each name in it exists and is documented."""
    module = importlib.import_module(name)
    assert module.__doc__
    assert len(set(module.__all__)) == len(module.__all__)
    for entry in module.__all__:
        thing = getattr(module, entry)
        if callable(thing) and getattr(thing, "__module__", "").startswith("mlops"):
            assert thing.__doc__, f"{name}.{entry} has no docstring"


def test_importing_the_package_imports_no_framework() -> None:
    """``import mlops`` brings in nothing heavy, not even numpy."""
    code = f"import mlops, sys; print(*[m for m in {FRAMEWORKS!r}.split() if m in sys.modules])"
    assert not _in_a_fresh_interpreter(code)


def test_importing_the_package_leaves_logging_alone() -> None:
    """The application's own logging.basicConfig still takes effect after mlops and its sinks are imported."""
    code = (
        "import mlops, mlops.sinks.statsd, logging; mlops.Run\n"
        "assert not logging.getLogger().handlers, logging.getLogger().handlers\n"
        "logging.basicConfig(level=logging.DEBUG); print(len(logging.getLogger().handlers))"
    )
    assert _in_a_fresh_interpreter(code) == "1"
