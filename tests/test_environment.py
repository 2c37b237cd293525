"""The files that say what is installed agree with each other, and with what they promise."""

from __future__ import annotations

import ast
import importlib.metadata
import importlib.util
import json
import re
import subprocess
import sys
import threading
import tomllib
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
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
    "prometheus-client": "prometheus_client",
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
    "callbacks": ("fastai", "lightning", "transformers"),
    "cli": ("notebook",),
    "clouds.py": ("monasca",),
    "monasca": ("monasca",),
    "notebook": ("notebook",),
    "report": ("report", "parquet"),
    "sinks": ("monasca", "prometheus", "tensorboard"),
}
"""The rooms of the library that may import more than a training node needs, and the extras that bring it."""


ELSEWHERE = {"pytorch_lightning"}
"""Taken where it is there, and never asked for: Lightning under its other name."""


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
            for module in sorted(imported(file) - ELSEWHERE)
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


def fake_uv(folder: Path, version: str) -> Path:
    """Make a program that says that it is this uv."""
    folder.mkdir(parents=True)
    program = folder / "uv"
    program.write_text(f"#!/bin/sh\necho 'uv {version} (somewhere)'\n", "utf-8")
    program.chmod(0o755)
    return program


def test_a_uv_on_path_is_taken_if_it_is_new_enough(
    bootstrap: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """An old uv on PATH is passed over for the one that was fetched before; a new one is used."""
    monkeypatch.setattr(bootstrap, "ROOT", tmp_path)
    (tmp_path / "pyproject.toml").write_text('required-version = ">=0.9"\n', "utf-8")
    fetched = fake_uv(tmp_path / ".uv" / f"uv-{bootstrap.UV_VERSION}", bootstrap.UV_VERSION)
    monkeypatch.setenv("PATH", f"{fake_uv(tmp_path / 'old', '0.8.99').parent}:/usr/bin:/bin")
    assert bootstrap.find_uv(sys.executable) == str(fetched)
    new = fake_uv(tmp_path / "new", "0.10.0")
    monkeypatch.setenv("PATH", f"{new.parent}:/usr/bin:/bin")
    assert bootstrap.find_uv(sys.executable) == str(new)


def test_a_uv_that_is_not_the_pinned_one_is_refused(
    bootstrap: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Without pip, uv's wheel comes from the index, and one whose hash differs is not unpacked."""

    class Index(BaseHTTPRequestHandler):
        """An index that offers every pinned wheel, each with the wrong content."""

        def do_GET(self) -> None:
            """Answer with the listing or with a file."""
            files = [{"filename": name, "url": f"/files/{name}"} for name, _ in bootstrap.UV_WHEELS.values()]
            content = json.dumps({"files": files}).encode() if self.path == "/simple/uv/" else b"not uv"
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Index)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("UV_DEFAULT_INDEX", f"http://127.0.0.1:{server.server_port}/simple")
    try:
        with pytest.raises(bootstrap.SetupError, match="not the file that was pinned"):
            bootstrap.fetch_uv_from_index(sys.executable, tmp_path)
    finally:
        server.shutdown()
        server.server_close()
    assert list(tmp_path.iterdir()) == []


def test_what_pip_was_told_reaches_uv_but_not_the_lock(
    bootstrap: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """pip's folders, index, certificates and timeout are uv's too; a lock is made without folders and indexes."""
    for name in ("UV_FIND_LINKS", "UV_DEFAULT_INDEX", "UV_HTTP_TIMEOUT", "SSL_CERT_FILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PIP_FIND_LINKS", f"{tmp_path} https://wheels.example/torch")
    monkeypatch.setenv("PIP_INDEX_URL", "https://someone:secret@index.example/simple")
    monkeypatch.setenv("PIP_CERT", "/etc/own.pem")
    monkeypatch.setenv("PIP_DEFAULT_TIMEOUT", "77")
    env = bootstrap.uv_environment(sys.executable, tmp_path / "venv")
    assert env["UV_FIND_LINKS"] == f"{tmp_path},https://wheels.example/torch"
    assert bootstrap.own_index(env) == "https://someone:secret@index.example/simple"
    assert bootstrap.without_password(bootstrap.own_index(env)) == "https://index.example/simple"
    assert (env["SSL_CERT_FILE"], env["UV_HTTP_TIMEOUT"]) == ("/etc/own.pem", "77")
    private, options = bootstrap.locking(env)
    assert not {"UV_FIND_LINKS", "UV_DEFAULT_INDEX"} & private.keys()
    assert private["SSL_CERT_FILE"] == "/etc/own.pem"
    assert "--no-config" in options


def test_libraries_that_torch_brings_are_no_strays(bootstrap: ModuleType, tmp_path: Path) -> None:
    """What a CUDA torch depends on, also through extras, is kept when what nothing asks for is removed."""
    wants = {
        "torch": ["cuda-toolkit[cublas]==13.0.2 ; platform_system == 'Linux'", "triton==3.6.0"],
        "cuda-toolkit": ["nvidia-cublas==13.1.* ; extra == 'cublas'"],
        "nvidia_cublas": [],
        "triton": [],
        "forgotten": [],
    }
    for name, requirements in wants.items():
        folder = tmp_path / "lib" / "python3.11" / "site-packages" / f"{name}-1.0.dist-info"
        folder.mkdir(parents=True)
        lines = [
            "Metadata-Version: 2.4",
            f"Name: {name}",
            "Version: 1.0",
            *(f"Requires-Dist: {r}" for r in requirements),
        ]
        (folder / "METADATA").write_text("\n".join(lines) + "\n", "utf-8")
    environment = bootstrap.Environment(tmp_path, sys.executable, (), torch=True)
    assert environment.closure("torch") == {"torch", "cuda-toolkit", "nvidia-cublas", "triton"}
    assert set(environment.versions()) - environment.closure("torch") == {"forgotten"}
