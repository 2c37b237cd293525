#!/usr/bin/env python3
"""Make the project's Python environment from nothing but Python, and keep it current.

    python .ci/bootstrap.py env                 make .venv, or bring it up to date; says nothing when it is current
    python .ci/bootstrap.py pythons -- ARG...   run pytest with ARG... on the other Pythons that are supported
    python .ci/bootstrap.py uv ARG...           run the uv that the two above use

`make` calls it; nobody needs to. It takes the standard library alone. What it does, in this order:

1. Python: $PYTHON, else what .venv has, else the first of python3.11, 3.12, 3.13 on PATH or under pyenv.
2. uv: from PATH if it is new enough, else a pinned one goes to .uv/: through pip, so that pip's proxies and
   certificates count, or, without pip, straight from the index. Either way its hash is checked.
3. Everything in uv.lock, by hash, with its byte code compiled.
4. torch, in the version that pyproject.toml pins, which is not in the lock because its flavours differ from machine
   to machine: from your own wheels (PIP_FIND_LINKS) if they hold one, else the flavour for this machine's GPU, else
   what the index has.

A stamp in .venv remembers what it was made from, so that a second call costs a fraction of a second.
"""

from __future__ import annotations

import ast
import contextlib
import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

TYPE_CHECKING = False
if TYPE_CHECKING:
    import importlib.metadata
    from collections.abc import Iterable, Iterator, Sequence

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
PYTHONS = ("3.11", "3.12", "3.13")
"""The Pythons that the project is tested on; the first that is found makes .venv."""

UV_VERSION = "0.13.9"
UV_WHEELS = {
    "linux-x86_64": (
        "uv-0.13.9-py3-none-manylinux_2_17_x86_64.manylinux2014_x86_64.whl",
        "d7f459fe4fd247d830351c75686d3996ace3c6f3f728eb0e85a30b7ada0cef19",
    ),
    "linux-aarch64": (
        "uv-0.13.9-py3-none-manylinux_2_28_aarch64.whl",
        "ecb6028d79dc96fbeafffe5c8af62a7099487ebc05a701e76714eebcffd06375",
    ),
    "darwin-arm64": (
        "uv-0.13.9-py3-none-macosx_11_0_arm64.whl",
        "66c512266d633bef48384a1f53003f41f2a8e7b36fe6e7fbfd3e0fd52d96fa63",
    ),
}
SPACE_NEEDED = 4e9
"""Bytes that a fresh environment and what was fetched for it may take, with a CPU torch."""

OTHER_HELP = (
    "read what is said above; where pyproject.toml and uv.lock do not fit each other, run make lock; "
    "to start from nothing, run make clean and then again"
)
NETWORK_HELP = (
    "check that this machine reaches the package index (a proxy is named by HTTPS_PROXY, your own certificates by "
    "SSL_CERT_FILE, your own index by PIP_INDEX_URL); then run make again: what was fetched is kept"
)

NETWORK_TROUBLE = re.compile(
    r"error sending request|failed to fetch|timed out|dns error|certificate|connect", re.IGNORECASE
)


class SetupError(Exception):
    """Something that setting up cannot go on from: what happened, and what to do about it."""

    def __init__(self, what: str, remedy: str) -> None:
        super().__init__(what)
        self.remedy = remedy


class Step:
    """A line of progress: said when the step begins, with its seconds when it ends."""

    def __init__(self, name: str, what: str) -> None:
        self.line = f"  {name:<9} {what}"
        self.began = time.monotonic()
        self.over = threading.Event()
        sys.stdout.write(f"{self.line} ...")
        sys.stdout.flush()
        if sys.stdout.isatty():
            threading.Thread(target=self.tick, daemon=True).start()

    def tick(self) -> None:
        """Show on a terminal that the step goes on."""
        while not self.over.wait(1):
            sys.stdout.write(f"\r{self.line} ... {time.monotonic() - self.began:.0f} s")
            sys.stdout.flush()

    def end(self, outcome: str = "") -> None:
        """Say how the step ended."""
        self.over.set()
        said = f"{self.line}{': ' if outcome else ''}{outcome}"
        start = "\r\033[K" + said if sys.stdout.isatty() else f" {outcome}"
        print(f"{start}  ({time.monotonic() - self.began:.1f} s)", flush=True)


# --- Pythons ---------------------------------------------------------------------------------------------------------


def probe(executable: str | Path) -> tuple[str, str] | None:
    """Return the version and the real path of a Python, or None where it does not run (pyenv's empty shims)."""
    code = (
        "import sys; print('%d.%d.%d' % sys.version_info[:3]); print(getattr(sys, '_base_executable', sys.executable))"
    )
    try:
        done = subprocess.run(
            [str(executable), "-I", "-S", "-c", code], capture_output=True, text=True, timeout=60, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    lines = done.stdout.splitlines()
    return (lines[0], lines[1]) if len(lines) == 2 else None  # noqa: PLR2004


def pyenv_versions() -> Iterator[Path]:
    """Where pyenv keeps its Pythons, also when its shims do not offer them."""
    roots = [Path(os.environ["PYENV_ROOT"])] if os.environ.get("PYENV_ROOT") else []
    roots += [Path(part).parent for part in os.get_exec_path() if Path(part).name == "shims"]
    roots += [Path.home() / ".pyenv"]
    for root in dict.fromkeys(roots):
        yield from sorted(root.glob("versions/*/bin"), reverse=True)


def find_python(minor: str) -> str | None:
    """Return the path of a working Python of one minor version, such as "3.12"."""
    places = [Path(part) for part in os.get_exec_path()] + list(pyenv_versions())
    for name in (f"python{minor}", "python3", "python"):
        for place in places:
            if os.access(place / name, os.X_OK):
                found = probe(place / name)
                if found and found[0].startswith(minor + "."):
                    return found[1]
    return None


def choose_python() -> tuple[str, str]:
    """Return version and path of the Python that .venv is to have."""
    supported = f"{PYTHONS[0]} to {PYTHONS[-1]}"
    wish = os.environ.get("PYTHON")
    if wish:
        found = probe(shutil.which(wish) or wish)
        if not found:
            raise SetupError(
                f"PYTHON={wish} does not run", f"name a Python {supported}, for example PYTHON=/usr/bin/python3.11"
            )
        if not is_supported(found[0]):
            raise SetupError(f"PYTHON={wish} is Python {found[0]}", f"name a Python {supported}")
        return found
    current = probe(VENV / "bin" / "python")
    if current and is_supported(current[0]):
        return current
    for minor in PYTHONS:
        path = find_python(minor)
        found = probe(path) if path else None
        if found:
            return found
    raise SetupError(
        f"no Python {supported} was found on PATH",
        "install one (Debian, Ubuntu: apt install python3.11), or say where it is: make PYTHON=/path/to/python3.11",
    )


def is_supported(version: str) -> bool:
    """Tell whether this is a Python that the project is tested on."""
    return version.rpartition(".")[0] in PYTHONS


# --- what the tools are told -----------------------------------------------------------------------------------------


def pip_settings(python: str) -> dict[str, str]:
    """Return what pip is configured with: its environment variables before its files."""
    settings: dict[str, str] = {}
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        done = subprocess.run(
            [python, "-m", "pip", "config", "list"], capture_output=True, text=True, timeout=60, check=True
        )
        for line in done.stdout.splitlines():
            key, equals, value = line.partition("=")
            if equals:
                with contextlib.suppress(ValueError, SyntaxError):
                    settings[key.rpartition(".")[2]] = str(ast.literal_eval(value))
    for key in ("find-links", "index-url", "cert", "timeout"):
        for name in ("PIP_" + key.upper().replace("-", "_"), "PIP_DEFAULT_" + key.upper()):
            if os.environ.get(name):
                settings[key] = os.environ[name]
    return settings


def uv_environment(python: str, venv: Path) -> dict[str, str]:
    """Return the environment for uv: what pip was told is passed on, because uv does not read pip's settings."""
    env = dict(os.environ)
    for name in ("VIRTUAL_ENV", "CONDA_PREFIX", "PYTHONPATH", "PYTHONHOME", "UV_PYTHON", "UV_SYSTEM_PYTHON"):
        env.pop(name, None)
    pip = pip_settings(python)
    env["UV_PROJECT_ENVIRONMENT"] = str(venv)
    env["UV_PYTHON_DOWNLOADS"] = "never"
    for name, key in (("UV_DEFAULT_INDEX", "index-url"), ("SSL_CERT_FILE", "cert"), ("UV_HTTP_TIMEOUT", "timeout")):
        if pip.get(key):
            env.setdefault(name, pip[key])
    if pip.get("find-links"):
        links = [str(Path(link).absolute()) if Path(link).exists() else link for link in pip["find-links"].split()]
        env.setdefault("UV_FIND_LINKS", ",".join(links))
    caches = [env[name] for name in ("UV_CACHE_DIR", "XDG_CACHE_HOME") if env.get(name)]
    if not caches and (env.get("HOME") == "" or not is_writable(Path.home() / ".cache" / "uv")):
        env["UV_CACHE_DIR"] = str(ROOT / ".uv" / "cache")
    return env


def locking(env: dict[str, str]) -> tuple[dict[str, str], list[str]]:
    """Return environment and options for `uv lock`: nothing of this machine may get into the lock."""
    private = {"UV_FIND_LINKS", "UV_DEFAULT_INDEX", "UV_INDEX", "UV_INDEX_URL", "UV_EXTRA_INDEX_URL", "UV_CONFIG_FILE"}
    return {name: value for name, value in env.items() if name not in private}, ["--no-config"]


def is_writable(folder: Path) -> bool:
    """Tell whether a folder that may not exist yet could be written to."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return folder.is_dir() and os.access(folder, os.W_OK | os.X_OK)


def own_index(env: dict[str, str]) -> str | None:
    """Return the index that the user named instead of PyPI, if any."""
    url = env.get("UV_DEFAULT_INDEX") or env.get("UV_INDEX_URL") or ""
    return url if url.rstrip("/") not in {"", "https://pypi.org/simple"} else None


# --- uv --------------------------------------------------------------------------------------------------------------


def uv_version(uv: str | Path) -> tuple[int, ...] | None:
    """Return the version of a uv, or None where it does not run."""
    try:
        done = subprocess.run([str(uv), "--version"], capture_output=True, text=True, timeout=60, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    match = re.match(r"uv (\d+)\.(\d+)\.(\d+)", done.stdout)
    return tuple(int(part) for part in match.groups()) if match else None


def oldest_uv() -> tuple[int, ...]:
    """Return the oldest uv that will do, as pyproject.toml says."""
    match = re.search(r'^required-version = ">=([\d.]+)"', (ROOT / "pyproject.toml").read_text("utf-8"), re.MULTILINE)
    return tuple(int(part) for part in match[1].split(".")) if match else ()


def find_uv(python: str) -> str:
    """Return the path of a uv that will do; fetch the pinned one into .uv/ if there is none."""
    ours = ROOT / ".uv" / f"uv-{UV_VERSION}" / "uv"
    for candidate in (shutil.which("uv"), ours):
        version = uv_version(candidate) if candidate else None
        if version and version >= oldest_uv():
            return str(candidate)
    step = Step("uv", f"fetching uv {UV_VERSION}")
    try:
        how = fetch_uv(python, ours)
    except SetupError:
        step.end("failed")
        raise
    step.end(how)
    return str(ours)


def fetch_uv(python: str, target: Path) -> str:
    """Put the pinned uv at `target`; tell how it came."""
    import tempfile

    problems = []
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        for how, fetch in (("with pip", fetch_uv_with_pip), ("from the index", fetch_uv_from_index)):
            try:
                fetched = fetch(python, Path(folder))
            except SetupError as error:
                problems.append(str(error))
            else:
                fetched.chmod(0o755)
                fetched.replace(target)
                return how
    raise SetupError(
        f"uv {UV_VERSION} could not be fetched: " + "; ".join(problems),
        f"{NETWORK_HELP}. Or install uv yourself (https://docs.astral.sh/uv) and have it on PATH",
    )


def fetch_uv_with_pip(python: str, folder: Path) -> Path:
    """Fetch uv as pip would: its settings, proxies and certificates count."""
    requirements = folder / "requirements.txt"
    hashes = " ".join(f"--hash=sha256:{sha256}" for _, sha256 in UV_WHEELS.values())
    requirements.write_text(f"uv=={UV_VERSION} {hashes}\n", "utf-8")
    if subprocess.run([python, "-m", "pip", "--version"], capture_output=True, check=False).returncode:
        raise SetupError("this Python has no pip", "")
    command = [
        python,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--disable-pip-version-check",
        "--no-deps",
        "--require-hashes",
    ]
    command += ["--only-binary", ":all:", "--target", str(folder / "pip"), "--requirement", str(requirements)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise SetupError(f"pip said: {lines[-1]}", "")
    return folder / "pip" / "bin" / "uv"


def fetch_uv_from_index(_python: str, folder: Path) -> Path:
    """Fetch uv's wheel with the standard library and take the program out of it."""
    import urllib.parse
    import zipfile

    machine = f"{platform.system().lower()}-{platform.machine().lower()}"
    if machine not in UV_WHEELS:
        raise SetupError(f"no uv is pinned for {machine}", "")
    name, sha256 = UV_WHEELS[machine]
    index = (os.environ.get("UV_DEFAULT_INDEX") or os.environ.get("PIP_INDEX_URL") or "https://pypi.org/simple").rstrip(
        "/"
    )
    page = f"{index}/uv/"
    try:
        listing = json.loads(download(page, accept="application/vnd.pypi.simple.v1+json"))
        urls = [entry["url"] for entry in listing["files"] if entry["filename"] == name]
        if not urls:
            raise SetupError(f"{page} does not list {name}", "")
        content = download(urllib.parse.urljoin(page, urls[0]))
    except (OSError, ValueError, KeyError) as error:
        raise SetupError(f"{page}: {error}", "") from error
    if hashlib.sha256(content).hexdigest() != sha256:
        raise SetupError(f"{urls[0]} is not the file that was pinned: its SHA-256 differs", "")
    wheel = folder / name
    wheel.write_bytes(content)
    target = folder / "uv"
    with zipfile.ZipFile(wheel) as archive:
        target.write_bytes(archive.read(f"uv-{UV_VERSION}.data/scripts/uv"))
    return target


def download(url: str, accept: str = "*/*") -> bytes:
    """Return what a web address holds."""
    import urllib.request

    if not url.startswith(("https://", "http://")):
        raise SetupError(f"{url} is not a web address", "")
    request = urllib.request.Request(url, headers={"Accept": accept, "User-Agent": "mlops-bootstrap"})  # noqa: S310
    with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310
        content: bytes = answer.read()
        return content


# --- environments ----------------------------------------------------------------------------------------------------


class Environment:
    """One virtual environment of the project, and what it was made from."""

    def __init__(self, venv: Path, python: str, choice: Sequence[str], *, torch: bool) -> None:
        self.venv, self.python, self.choice, self.torch = venv, python, choice, torch
        self.stamp = venv / ".made-from.json"

    def made_from(self) -> dict[str, str]:
        """Return what the environment depends on: when this changes, it is made anew or brought up to date."""
        files = [ROOT / "pyproject.toml", ROOT / "uv.lock", Path(__file__).resolve()]
        return {
            "root": str(ROOT),
            "choice": " ".join(self.choice),
            "PYTHON": os.environ.get("PYTHON", ""),
            **{path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files},
        }

    def remembered(self) -> dict[str, str]:
        """Return what the stamp says, or nothing."""
        with contextlib.suppress(OSError, ValueError):
            stamp = json.loads(self.stamp.read_text("utf-8"))
            if isinstance(stamp, dict):
                return stamp
        return {}

    def is_current(self) -> bool:
        """Tell whether nothing is to be done; also notices a Python that was taken away."""
        return (self.venv / "bin" / "python").exists() and self.remembered() == self.made_from()

    def make(self, uv: str) -> None:
        """Make the environment, or bring it up to date."""
        env = uv_environment(self.python, self.venv)
        made_from = self.made_from()
        if self.remembered().get("root", str(ROOT)) != str(ROOT):
            print(f"  moved     {self.venv} was made for {self.remembered()['root']}: making it again")
            shutil.rmtree(self.venv)
        with contextlib.suppress(FileNotFoundError):
            self.stamp.unlink()
        check_lock(uv, env)
        self.install_locked(uv, env)
        if self.torch:
            self.install_torch(uv, env)
            self.remove_strays(uv, env)
        self.stamp.write_text(json.dumps(made_from, indent=1) + "\n", "utf-8")

    def install_locked(self, uv: str, env: dict[str, str]) -> None:
        """Install what uv.lock holds, by hash."""
        import tempfile

        free = shutil.disk_usage(ROOT).free
        if not self.venv.exists() and free < SPACE_NEEDED:
            raise SetupError(
                f"only {free / 1e9:.1f} GB are free under {ROOT}",
                f"make room: a fresh environment with what is fetched for it needs about {SPACE_NEEDED / 1e9:.0f} GB",
            )
        index = own_index(env)
        step = Step(
            "packages", "installing what uv.lock holds" + (f", from {without_password(index)}" if index else "")
        )
        common = ["--compile-bytecode", "--python", self.python]
        if index:
            # `uv sync` fetches from the addresses in the lock. With an index of one's own the same versions are
            # fetched from there instead, and checked against the same hashes.
            with tempfile.TemporaryDirectory() as folder:
                listing = str(Path(folder) / "requirements.txt")
                self.uv(uv, env, step, ["export", "--frozen", "--quiet", *self.choice, "--output-file", listing])
                if not (self.venv / "bin" / "python").exists():
                    self.uv(uv, env, step, ["venv", "--clear", "--python", self.python, str(self.venv)])
                target = ["--compile-bytecode", "--python", str(self.venv / "bin" / "python")]
                self.uv(uv, env, step, ["pip", "install", *target, "--no-deps", "--requirements", listing])
        else:
            exact = ["--inexact"] if self.torch else []  # exact would take torch away; see remove_strays
            self.uv(uv, env, step, ["sync", "--frozen", *exact, *self.choice, *common])
        step.end()

    def install_torch(self, uv: str, env: dict[str, str]) -> None:
        """Install the pinned torch in the flavour for this machine."""
        import tempfile

        requirement = pinned_torch()
        if self.versions().get("torch", "").partition("+")[0] == requirement.partition("==")[2]:
            return
        attempts = []
        if env.get("UV_FIND_LINKS"):
            links = env["UV_FIND_LINKS"].replace(",", " ")
            attempts.append((f"from {links}", ["--no-index"]))
        backend = env.get("UV_TORCH_BACKEND", "auto")
        attempts.append((f"for this machine (--torch-backend={backend})", [f"--torch-backend={backend}"]))
        attempts.append(("from the index, which may be gigabytes of CUDA", []))
        problems = []
        for where, options in attempts:
            step = Step("torch", f"installing {requirement} {where}")
            command = ["pip", "install", "--python", str(self.venv / "bin" / "python"), "--compile-bytecode"]
            # Run outside the project: its settings keep torch away, which is meant for the lock.
            with tempfile.TemporaryDirectory() as elsewhere:
                done = run_uv(uv, env, [*command, *options, requirement], cwd=elsewhere)
            if not done.returncode:
                step.end(self.versions().get("torch", ""))
                return
            step.end("not so: " + first_reason(done.stderr))
            problems.append(f"{where}:\n      {last_words(done.stderr)}")
        raise SetupError(
            f"{requirement} could not be installed in {self.venv}:\n    " + "\n    ".join(problems),
            f"{NETWORK_HELP}. A folder with a wheel of torch can be named by PIP_FIND_LINKS",
        )

    def remove_strays(self, uv: str, env: dict[str, str]) -> None:
        """Remove what neither the lock nor torch asks for, so that a forgotten dependency shows."""
        import tomllib

        locked = {package["name"] for package in tomllib.loads((ROOT / "uv.lock").read_text("utf-8"))["package"]}
        strays = sorted(set(self.versions()) - locked - self.closure("torch"))
        if strays:
            step = Step("strays", "removing what nothing asks for: " + ", ".join(strays))
            self.uv(uv, env, step, ["pip", "uninstall", "--python", str(self.venv / "bin" / "python"), *strays])
            step.end()

    def versions(self) -> dict[str, str]:
        """Return the version of everything that is installed."""
        return {canonical(found.metadata["Name"]): found.version for found in self.distributions()}

    def distributions(self) -> Iterable[importlib.metadata.Distribution]:
        """Look into the environment without starting its Python."""
        import importlib.metadata

        folders = [str(folder) for folder in self.venv.glob("lib/python*/site-packages")]
        return importlib.metadata.distributions(path=folders)

    def closure(self, name: str) -> set[str]:
        """Return a package and everything that it may ask for, extras included."""
        requires = {canonical(found.metadata["Name"]): found.requires or [] for found in self.distributions()}
        seen: set[str] = set()
        todo = [name]
        while todo:
            current = todo.pop()
            if current not in seen:
                seen.add(current)
                todo += [canonical(re.split(r"[^\w.-]", line, maxsplit=1)[0]) for line in requires.get(current, [])]
        return seen

    def uv(self, uv: str, env: dict[str, str], step: Step, arguments: Sequence[str]) -> None:
        """Run uv; when it fails, say what it said and what to do."""
        done = run_uv(uv, env, arguments, cwd=str(ROOT))
        if done.returncode:
            step.end("failed")
            raise SetupError(
                f"uv {arguments[0]} failed in {self.venv}:\n      {last_words(done.stderr)}",
                NETWORK_HELP if NETWORK_TROUBLE.search(done.stderr) else OTHER_HELP,
            )


def run_uv(uv: str, env: dict[str, str], arguments: Sequence[str], *, cwd: str) -> subprocess.CompletedProcess[str]:
    """Run uv and keep what it says."""
    command = [uv, "--no-progress", *arguments]
    return subprocess.run(command, env=env, cwd=cwd, capture_output=True, text=True, check=False)


def check_lock(uv: str, env: dict[str, str]) -> None:
    """Refuse to go on with a lock that was made from another pyproject.toml."""
    env, options = locking(env)
    done = run_uv(uv, env, [*options, "lock", "--check", "--offline"], cwd=str(ROOT))
    if done.returncode:
        raise SetupError(
            f"uv.lock does not fit pyproject.toml in {ROOT}",
            "run make lock, look at what it changed, and commit both files",
        )


def pinned_torch() -> str:
    """Return the one requirement of the dependency group `torch`."""
    import tomllib

    group = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["dependency-groups"]["torch"]
    return str(group[0])


def canonical(name: str) -> str:
    """Return a package's name in the form in which names are compared."""
    return re.sub(r"[-_.]+", "-", name).lower()


def without_password(url: str) -> str:
    """Return an address that may be shown."""
    return re.sub(r"//[^/@]*@", "//", url)


def last_words(text: str) -> str:
    """Return the end of what a tool said, as one indented paragraph."""
    lines = [line.rstrip() for line in text.strip().splitlines()]
    return without_password("\n      ".join(lines[-12:]))


def first_reason(text: str) -> str:
    """Return the first line in which uv says why something is not possible, for a line of progress."""
    lines = [line.strip() for line in text.splitlines()]
    reasons = [line for line in lines if line.startswith(("cause:", "Caused by:", "error:", "×", "╰─▶"))]
    return without_password((reasons or lines or ["no reason given"])[0])[:160]


# --- commands --------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """Wait until no other call of this script works in this folder."""
    with (ROOT / "pyproject.toml").open("rb") as file:
        try:
            import fcntl

            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                print("  waiting for another make that is setting up the same folder", flush=True)
                fcntl.flock(file, fcntl.LOCK_EX)
        except (ImportError, OSError):
            pass  # a file system without locks: two at once is then the user's affair
        yield


EVERYTHING = ("--all-extras", "--group", "dev")
WITHOUT_TORCH = (
    "--extra",
    "notebook",
    "--extra",
    "report",
    "--extra",
    "parquet",
    "--extra",
    "monasca",
    "--extra",
    "prometheus",
    "--extra",
    "tensorboard",
    "--group",
    "dashboards",
    "--group",
    "test",
    "--no-group",
    "dev",
)


def make_env() -> int:
    """Make .venv, or bring it up to date."""
    environment = Environment(VENV, "", EVERYTHING, torch=True)
    if environment.is_current():
        return 0
    with alone():
        if environment.is_current():
            return 0
        began = time.monotonic()
        print(f"Setting up {VENV}" if not VENV.exists() else f"Bringing {VENV} up to date", flush=True)
        version, environment.python = choose_python()
        print(f"  {'Python':<9} {version}, {environment.python}", flush=True)
        environment.make(find_uv(environment.python))
        print(f"  {'ready':<9} .venv  ({time.monotonic() - began:.1f} s in all)", flush=True)
    return 0


def run_pythons(arguments: Sequence[str]) -> int:
    """Run pytest on every supported Python that is found and is not .venv's, in environments without torch."""
    failed = []
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mlops" / "pythons"
    if not is_writable(base):
        base = ROOT / ".uv" / "pythons"
    forget_lost(base)
    ours = probe(VENV / "bin" / "python")
    for minor in PYTHONS:
        if ours and ours[0].startswith(minor + "."):
            continue
        python = find_python(minor)
        if not python:
            print(f"Python {minor} was not found: not tested on it", flush=True)
            continue
        folder = base / f"{ROOT.name}-{hashlib.sha256(str(ROOT).encode()).hexdigest()[:8]}" / minor
        environment = Environment(folder, python, WITHOUT_TORCH, torch=False)
        with alone():
            if not environment.is_current():
                print(f"Setting up Python {minor} in {folder}", flush=True)
                environment.make(find_uv(python))
        print(f"Testing on Python {minor}, without torch", flush=True)
        command = [str(folder / "bin" / "python"), "-m", "pytest", *arguments]
        if subprocess.run(command, cwd=ROOT, check=False).returncode:
            failed.append(minor)
    if failed:
        print(f"FAILED on Python {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


def forget_lost(base: Path) -> None:
    """Delete environments of folders that are gone."""
    for stamp in base.glob("*/*/.made-from.json"):
        with contextlib.suppress(OSError, ValueError, KeyError):
            if not Path(json.loads(stamp.read_text("utf-8"))["root"]).exists():
                shutil.rmtree(stamp.parent.parent)


def run_own_uv(arguments: Sequence[str]) -> int:
    """Run uv as the project does."""
    _, python = choose_python()
    env = uv_environment(python, VENV)
    options: list[str] = []
    if arguments[:1] == ["lock"]:
        env, options = locking(env)
    return subprocess.run([find_uv(python), *options, *arguments], env=env, cwd=ROOT, check=False).returncode


def restart_with_supported_python() -> None:
    """Go on with a supported Python where this one is not."""
    _, path = choose_python()
    os.execv(path, [path, "-I", "-S", str(Path(__file__).resolve()), *sys.argv[1:]])  # noqa: S606


def main(arguments: list[str]) -> int:
    """Do what the command line says."""
    if sys.version_info < (3, 11):
        restart_with_supported_python()
    command, rest = (arguments or [""])[0], arguments[1:]
    if command == "env" and not rest:
        return make_env()
    if command == "pythons":
        return run_pythons(rest[1:] if rest[:1] == ["--"] else rest)
    if command == "uv":
        return run_own_uv(rest)
    print(__doc__, file=sys.stderr)
    return 2


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except SetupError as problem:
        print(f"mlops setup: {problem}\n  What to do: {problem.remedy}.", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
