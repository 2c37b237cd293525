"""The files that say what is installed agree with each other, and with what they promise."""

from __future__ import annotations

import ast
import importlib.metadata
import importlib.util
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import mlops

if TYPE_CHECKING:
    from types import ModuleType

ROOT = Path(__file__).resolve().parent.parent

CONDA_NAMES = {
    "jupyter-client": "jupyter_client",
    "jupyter-core": "jupyter_core",
    "kubernetes": "python-kubernetes",
    "matplotlib": "matplotlib-base",
    "torch": "pytorch",
}
"""Packages whose conda-forge name is not their PyPI name."""

NOT_ON_CONDA_FORGE = {"monasca-statsd"}
"""Packages that even conda users have from PyPI."""

EXTRAS = ("all",)
"""The extras that environment.yml stands for."""

NEVER_LOCKED = {"torch", "torchvision", "torchaudio", "triton", "spacy"}
"""Packages whose flavour, or whose size, must not be bound by the lock."""

EXTRAS_OF_ROOMS = {
    "callbacks": ("fastai",),
    "cli": ("notebook",),
    "notebook": ("notebook",),
    "report": ("report", "parquet"),
}
"""The rooms of the library that may import more than a training node needs, and the extras that bring it."""


def read_toml(name: str) -> dict[str, Any]:
    """Return one of the project's TOML files."""
    return tomllib.loads((ROOT / name).read_text("utf-8"))


@pytest.fixture(scope="module")
def project() -> dict[str, Any]:
    """Return pyproject.toml."""
    return read_toml("pyproject.toml")


@pytest.fixture(scope="module")
def lock() -> dict[str, Any]:
    """Return uv.lock."""
    return read_toml("uv.lock")


@pytest.fixture(scope="module")
def bootstrap() -> ModuleType:
    """Return the script that makes the environment, as a module."""
    spec = importlib.util.spec_from_file_location("bootstrap", ROOT / ".ci" / "bootstrap.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def with_extras(project: dict[str, Any], extras: tuple[str, ...]) -> dict[str, Requirement]:
    """Return the dependencies of the package and of some extras, extras of extras included."""
    found: dict[str, Requirement] = {}
    lines = [*project["project"]["dependencies"]]
    for extra in extras:
        lines += project["project"]["optional-dependencies"][extra]
    for requirement in map(Requirement, lines):
        if requirement.name == project["project"]["name"]:
            found |= with_extras(project, tuple(requirement.extras))
        else:
            found[canonicalize_name(requirement.name)] = requirement
    return found


def imported(file: Path) -> set[str]:
    """Return the packages that a file imports, anywhere in it, but the standard library's and its own."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
            names.add(node.module.partition(".")[0])
    return names - sys.stdlib_module_names - {"mlops"}


@pytest.mark.torch
def test_what_is_imported_is_declared(project: dict[str, Any]) -> None:
    """Each room of the library imports what the package, or the room's own extra, depends on by name, and no more."""
    distributions = importlib.metadata.packages_distributions()
    undeclared: list[str] = []
    for file in sorted((ROOT / "mlops").rglob("*.py")):
        room = file.relative_to(ROOT / "mlops").parts[0]
        declared = with_extras(project, EXTRAS_OF_ROOMS.get(room, ())).keys()
        undeclared += (
            f"{file.relative_to(ROOT)} imports {module}"
            for module in sorted(imported(file))
            if not declared & {canonicalize_name(name) for name in distributions.get(module, [])}
        )
    assert undeclared == []


def test_environment_yml_is_pyproject(project: dict[str, Any]) -> None:
    """environment.yml names every dependency of the package with all extras, in the same versions, and nothing else."""
    environment = yaml.safe_load((ROOT / "environment.yml").read_text("utf-8"))
    (by_pip,) = [entry["pip"] for entry in environment["dependencies"] if isinstance(entry, dict)]
    by_conda = {Requirement(entry) for entry in environment["dependencies"] if isinstance(entry, str)}
    own = {requirement for requirement in by_conda if requirement.name in {"python", "pip"}}

    expected_by_conda, expected_by_pip = set(), {"-e ."}
    for name, requirement in with_extras(project, EXTRAS).items():
        if name in NOT_ON_CONDA_FORGE:
            expected_by_pip.add(f"{name}{requirement.specifier}")
        else:
            expected_by_conda.add(Requirement(f"{CONDA_NAMES.get(name, name)}{requirement.specifier}"))

    assert by_conda - own == expected_by_conda
    assert set(by_pip) == expected_by_pip
    assert {requirement.name for requirement in own} == {"python", "pip"}
    assert environment["channels"] == ["conda-forge", "nodefaults"]


def test_pythons_agree(project: dict[str, Any], bootstrap: ModuleType) -> None:
    """pyproject.toml, environment.yml, the lock and the script that makes .venv mean the same Pythons."""
    prefix = "Programming Language :: Python :: "
    versions = [
        line.removeprefix(prefix) for line in project["project"]["classifiers"] if line.startswith(prefix + "3.")
    ]
    oldest, newest = versions[0], versions[-1]
    after = f"3.{int(newest.removeprefix('3.')) + 1}"
    environment = yaml.safe_load((ROOT / "environment.yml").read_text("utf-8"))

    assert list(bootstrap.PYTHONS) == versions
    assert project["project"]["requires-python"] == f">={oldest}"
    assert environment["dependencies"][0] == f"python>={oldest},<{after}"
    assert all(f"python_full_version < '{after}'" in line for line in project["tool"]["uv"]["environments"])


def test_version_is_said_once(project: dict[str, Any]) -> None:
    """The version that the library says is the package's."""
    assert mlops.__version__ == project["project"]["version"]


def test_lock_is_up_to_date() -> None:
    """uv.lock is what `make lock` would write from pyproject.toml, as uv itself judges without any network."""
    command = [sys.executable, str(ROOT / ".ci" / "bootstrap.py"), "uv", "lock", "--check", "--offline"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, f"run `make lock`:\n{done.stderr}"


def test_lock_binds_nobody_to_a_flavour(lock: dict[str, Any]) -> None:
    """Neither torch nor what belongs to one of its flavours is in uv.lock, and neither are torchvision and spacy."""
    names = {package["name"] for package in lock["package"]}
    assert "fastai" in names
    assert not names & NEVER_LOCKED
    assert {name for name in names if name.startswith("nvidia-")} == {"nvidia-ml-py"}


def test_lock_is_hashed_and_public(lock: dict[str, Any]) -> None:
    """Every file in uv.lock has its hash and comes from PyPI; no other host and no folder of a machine is named."""
    text = (ROOT / "uv.lock").read_text("utf-8")
    hosts = {urlsplit(url).hostname for url in re.findall(r"\w+://[^\"\s]+", text)}
    assert hosts == {"pypi.org", "files.pythonhosted.org"}
    for package in lock["package"]:
        if package["name"] == "mlops":
            assert package["source"] == {"editable": "."}
            continue
        assert package["source"] == {"registry": "https://pypi.org/simple"}
        files = [*package.get("wheels", []), *([package["sdist"]] if "sdist" in package else [])]
        assert files
        assert all(file["hash"].startswith("sha256:") for file in files), package["name"]


def test_fetched_uv_will_do(project: dict[str, Any], bootstrap: ModuleType) -> None:
    """The uv that is fetched where there is none is one that pyproject.toml accepts, each file pinned by hash."""
    oldest = project["tool"]["uv"]["required-version"].removeprefix(">=")
    assert bootstrap.oldest_uv() == tuple(map(int, oldest.split(".")))
    assert tuple(map(int, bootstrap.UV_VERSION.split("."))) >= bootstrap.oldest_uv()
    assert {"linux-x86_64", "linux-aarch64"} <= bootstrap.UV_WHEELS.keys()
    for name, sha256 in bootstrap.UV_WHEELS.values():
        assert name.startswith(f"uv-{bootstrap.UV_VERSION}-py3-none-")
        assert re.fullmatch("[0-9a-f]{64}", sha256)


@pytest.mark.torch
def test_torch_is_pinned_once_and_its_base_is_locked(project: dict[str, Any], lock: dict[str, Any]) -> None:
    """The installed torch is the pinned one, and what it needs in every flavour is in the lock, as it asks for it."""
    (pin,) = map(Requirement, project["dependency-groups"]["torch"])
    assert importlib.metadata.version("torch").partition("+")[0] in pin.specifier
    base = {canonicalize_name(line.name): line for line in map(Requirement, project["dependency-groups"]["torch-base"])}
    asked = [Requirement(line) for line in importlib.metadata.requires("torch") or []]
    needed = {
        canonicalize_name(line.name): line
        for line in asked
        if "extra" not in str(line.marker) and not re.match("nvidia|cuda|triton", line.name)
    }
    assert base.keys() == needed.keys()
    assert {name: line.specifier for name, line in base.items()} == {
        name: line.specifier for name, line in needed.items()
    }
    assert needed.keys() <= {package["name"] for package in lock["package"]}


def test_frameworks_are_installed_without_ballast() -> None:
    """torchvision, spacy and the web framework that a newer fastprogress brings are not installed."""
    installed = {canonicalize_name(found.metadata["Name"]) for found in importlib.metadata.distributions()}
    assert not installed & {"torchvision", "spacy", "python-fasthtml"}


def test_ci_runs_make_test() -> None:
    """Continuous integration runs `make test` and nothing else."""
    script = ROOT / ".ci" / "run"
    assert script.stat().st_mode & 0o111
    lines = [line for line in script.read_text("utf-8").splitlines() if line and not line.startswith("#")]
    assert lines[0] == "set -euo pipefail"
    assert lines[-1] == "exec make test </dev/null"


def test_every_target_is_explained() -> None:
    """`make` alone names every target of the Makefile."""
    targets = set(re.findall(r"^\.PHONY: ([\w-]+)$", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
    said = subprocess.run(
        ["make", "--no-print-directory"], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True
    )
    assert targets - {"help"} == set(re.findall(r"^make ([\w-]+)", said.stdout, re.MULTILINE))


def test_old_python_is_told_what_is_needed(bootstrap: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no supported Python is found, the message says which are and how to name one."""
    monkeypatch.setattr(bootstrap, "probe", lambda _executable: None)
    monkeypatch.delenv("PYTHON", raising=False)
    with pytest.raises(bootstrap.SetupError, match=r"no Python 3\.11 to 3\.13 was found") as caught:
        bootstrap.choose_python()
    assert "PYTHON=" in caught.value.remedy
