"""What is found on this machine: what ``mlops doctor`` prints.

Nothing is changed and nothing malformed is sent.  Each question has a deadline, so that a hung driver or
resolver costs its answer and not the others.
"""

from __future__ import annotations

import contextlib
import difflib
import importlib.metadata
import os
import platform
import shutil
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, Literal, TypeVar

from mlops import facts
from mlops.errors import MlopsError
from mlops.settings import ABOUT, PREFIX, Settings

__all__ = ["Examination", "Finding", "examine"]

T = TypeVar("T")
State = Literal["ok", "note", "warning", "broken"]

_SECONDS: Final = 10.0
"""What opening a device or asking a resolver may take."""
_CLOUD_SECONDS: Final = 20.0
"""What a cloud may take for all that it is asked."""
_REFUSED_SECONDS: Final = 0.5
"""How soon a refusal of a datagram comes back, if one does."""
_LOW: Final = 1 << 30
_FULL: Final = 64 << 20
_NOT_SETTINGS: Final = ("MLOPS_DEBUG", "MLOPS_RUN_DIR")
_EXTRAS: Final = (
    ("papermill", "notebook", "mlops notebook"),
    ("matplotlib", "report", "mlops report"),
    ("jinja2", "report", "mlops report"),
    ("pyarrow", "parquet", "mlops export --format parquet"),
    ("openstacksdk", "monasca", "the monasca sink, mlops upload, mlops alarms"),
    ("prometheus-client", "prometheus", "the prometheus sink"),
    ("tensorboardX", "tensorboard", "the tensorboard sink"),
    ("fastai", "fastai", "the fastai callback"),
    ("torch", "fastai", "the fastai callback"),
)
"""Packages that a part needs, the extra of mlops that brings each, and the part."""
_METHODS: Final = {
    "counter": "the hardware's own counter",
    "power": "sampled watts, integrated",
    "rapl": "RAPL, the CPU's own counter",
    "replay": "a recorded trace",
}


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        section: ``devices``, ``sinks``, ``runs``, ``packages`` or ``settings``.
        name: what was looked at.
        state: ``ok``; ``note`` (a normal case worth knowing); ``warning``; ``broken`` (something that
            is configured does not work).
        text: what was found.
        remedy: what to do about it; empty where there is nothing to do.
    """

    section: str
    name: str
    state: State
    text: str
    remedy: str = ""


@dataclass(frozen=True, slots=True)
class Examination:
    """Everything that was found.

    Attributes:
        findings: in order.
        versions: of Python, mlops and the frameworks that are installed.
        system: host, operating system, processor, executable.
        meters: what is metered for energy, and by which method.
        settings: each with its value, where it came from, and what it means.
    """

    findings: tuple[Finding, ...]
    versions: Mapping[str, str]
    system: Mapping[str, str]
    meters: tuple[Mapping[str, str], ...]
    settings: tuple[Mapping[str, str], ...]

    @property
    def ok(self) -> bool:
        """Whether nothing that is configured is broken."""
        return all(finding.state != "broken" for finding in self.findings)

    def as_json(self) -> dict[str, Any]:
        """As JSON can hold it."""
        return {"ok": self.ok, **asdict(self)}


def examine(given: Mapping[str, Any] | None = None, environ: Mapping[str, str] | None = None) -> Examination:
    """Look at everything.

    Args:
        given: settings that come before all others, as from options.
        environ: the environment; ``os.environ`` if not given.
    """
    environ = os.environ if environ is None else environ
    findings: list[Finding] = []
    try:
        settings = Settings.load(environ=environ, **(given or {}))
    except MlopsError as error:
        remedy = f"{error.remedy} Until then no run can be opened; below are the defaults."
        findings.append(Finding("settings", "settings", "broken", error.what, remedy.strip()))
        settings = Settings()
    findings += _unknown_variables(environ)
    devices, meters = _devices(settings.devices)
    findings = [
        *devices,
        *([finding for url in settings.sinks for finding in _sink(url, settings)] or [_no_sink()]),
        _runs(settings),
        *_packages(),
        *findings,
    ]
    rows = [dict(zip(("name", "value", "source", "about"), row, strict=True)) for row in settings.rows()]
    return Examination(tuple(findings), facts.versions(installed=True), _system(), tuple(meters), tuple(rows))


def _system() -> dict[str, str]:
    return {
        "host": socket.gethostname(),
        "system": f"{platform.system()} {platform.release()}",
        "machine": platform.machine(),
        "executable": sys.executable,
    }


def _in_time(call: Callable[[], T], seconds: float) -> T | None:
    """What a call gives, or ``None`` if it does not come back in time; what it raises is raised."""
    answer: list[T] = []
    trouble: list[BaseException] = []

    def work() -> None:
        try:
            answer.append(call())
        except BaseException as error:  # noqa: BLE001 - raised again below
            trouble.append(error)

    thread = threading.Thread(target=work, name="mlops-doctor", daemon=True)
    thread.start()
    thread.join(seconds)
    if trouble:
        raise trouble[0]
    return answer[0] if answer else None


# -- devices -------------------------------------------------------------------------------------


def _devices(names: Sequence[str]) -> tuple[list[Finding], list[dict[str, str]]]:
    findings: list[Finding] = []
    meters: list[dict[str, str]] = []
    for name in names:
        try:
            found = _in_time(lambda name=name: _device(name), _SECONDS)  # type: ignore[misc]  # bound now, called later
        except MlopsError as error:
            findings.append(Finding("devices", name, "broken", error.what, error.remedy))
            continue
        if found is None:
            text = f"opening it took longer than {_SECONDS:.0f} s"
            findings.append(Finding("devices", name, "broken", text, "Its driver hangs; try nvidia-smi, then reboot."))
            continue
        findings += found[0]
        meters += found[1]
    if not names:
        findings.append(Finding("devices", "none", "note", "nothing is metered, as the settings say"))
    return findings, meters


def _device(name: str) -> tuple[list[Finding], list[dict[str, str]]]:
    from mlops.devices import Absent, opener

    device = opener(name)()
    try:
        if isinstance(device, Absent):
            state: State = "broken" if name.startswith("replay") else "note"
            return [Finding("devices", name, state, device.reason)], []
        findings = [Finding("devices", name, "ok", line) for line in device.describe()]
        watts = _watts(device)
        meters = [dict(asdict(meter)) for meter in device.meters()]
        for meter in meters:
            how = _METHODS.get(meter["method"], meter["method"])
            now = watts.get(meter["id"])
            power = f", {now:.0f} W now" if now is not None else ""
            text = f"energy of {meter['name']} ({meter['id']}) by {how}{power}"
            findings.append(Finding("devices", name, "ok", text))
        if reason := device.not_metered():
            findings.append(Finding("devices", name, "note", f"energy not metered: {reason}"))
        return findings, meters
    finally:
        device.close()


def _watts(device: Any) -> dict[str, float]:
    """The power that each meter shows now, by the meter's id."""
    shown: dict[str, float] = {}
    with contextlib.suppress(MlopsError, OSError):
        device.sample()
        time.sleep(0.15)  # RAPL's power is a mean over at least 0.1 s
        for series, value in device.sample():
            if series.name.endswith(".power_watts"):
                shown.update(dict.fromkeys((text for _, text in series.dimensions), value))
    return shown


# -- sinks ---------------------------------------------------------------------------------------


def _no_sink() -> Finding:
    """Nothing is configured, which is a normal case; perhaps this node's agent only has to be named."""
    from mlops.sinks.statsd import DEFAULT_PORT

    url = f"statsd://localhost:{DEFAULT_PORT}"
    found = _refused(socket.AF_INET, ("127.0.0.1", DEFAULT_PORT))
    agent = f"no monasca-agent listens on this node's port {DEFAULT_PORT}" if found else f"something listens at {url}"
    return Finding("sinks", "none", "note", f"points stay in the runs folder; {agent}", f"To send: MLOPS_SINKS={url}.")


def _sink(url: str, settings: Settings) -> list[Finding]:
    from mlops.sinks import SinkURL, open_sink

    try:
        parsed = SinkURL.parse(url)
        sink = open_sink(url, settings)
        sink.close(0.0)
    except MlopsError as error:
        return [Finding("sinks", url, "broken", error.what, error.remedy)]
    if parsed.scheme == "statsd":
        return [_statsd(url, parsed.host, parsed.port)]
    if parsed.scheme == "monasca":
        return _monasca(url, sink)
    if parsed.scheme == "prometheus":
        return [_prometheus(url, parsed.host, parsed.port)]
    if parsed.scheme == "tensorboard":
        return [_tensorboard(url, sink)]
    return [Finding("sinks", url, "ok", "can be opened")]


def _statsd(url: str, host: str, port: int | None) -> Finding:
    from mlops.sinks._address import Lookup
    from mlops.sinks.statsd import DEFAULT_PORT

    lookup = Lookup(host, port or DEFAULT_PORT)
    address = lookup.address(_SECONDS)
    if address is None:
        text = lookup.problem or f"{host} could not be resolved within {_SECONDS:.0f} s"
        return Finding("sinks", url, "broken", text, "A training goes on without it; check the name.")
    refused = _refused(address.family, address.place)
    if refused:
        return Finding(
            "sinks",
            url,
            "broken",
            f"{address}: {refused}",
            "Start the monasca-agent there, or take the sink out; a training goes on without it.",
        )
    return Finding("sinks", url, "ok", f"{address} refused no datagram; UDP does not tell whether anyone reads them")


def _refused(family: int, place: tuple[str | int, ...]) -> str:
    """Why a datagram of one empty line, which an agent passes over, is refused; empty if it is not."""
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.settimeout(_REFUSED_SECONDS)
            probe.connect(place)
            probe.send(b"\n")
            probe.recv(1)
    except TimeoutError:
        return ""
    except ConnectionRefusedError:
        return "nobody listens there (refused)"
    except OSError as error:
        return error.strerror or str(error)
    return ""


def _monasca(url: str, sink: Any) -> list[Finding]:
    """Step by step; what was found before one that hangs is told."""
    from mlops.monasca.checkup import checkup

    found: list[Finding] = []

    def look() -> bool:
        for check in checkup(sink.monasca):
            found.append(Finding("sinks", url, check.state, check.text, check.remedy))  # noqa: PERF401 - read meanwhile
        return True

    if _in_time(look, _CLOUD_SECONDS) is None:
        text = f"the next answer took longer than {_CLOUD_SECONDS:.0f} s"
        remedy = "Check this machine's way to the cloud (firewall, proxy); a training goes on without it."
        found.append(Finding("sinks", url, "broken", text, remedy))
    return found


def _prometheus(url: str, host: str, port: int | None) -> Finding:
    """Listens for a moment."""
    from mlops.sinks._endpoint import address, open_endpoint, runs_shown_at
    from mlops.sinks._exposition import Table
    from mlops.sinks.prometheus import DEFAULT_PORT

    port = DEFAULT_PORT if port is None else port
    table = Table(lambda _key, _message: None)
    try:
        open_endpoint(host, port, table).leave(table)
    except MlopsError as error:
        if runs := runs_shown_at(host, port):
            text = f"the port is that of a run that goes on: {', '.join(sorted(runs))}"
            return Finding("sinks", url, "note", text, "Another training beside it needs another port.")
        return Finding("sinks", url, "broken", error.what, f"{error.remedy} A training goes on without it.")
    where = address(host or socket.gethostname(), port)
    free = f"the port is free: a training will listen at http://{where}/metrics" if port else "any free port"
    return Finding("sinks", url, "ok", free)


def _tensorboard(url: str, sink: Any) -> Finding:
    folder: Path | None = sink.folder
    if folder is None:
        return Finding("sinks", url, "ok", "event files will be written into each run's own folder")
    try:
        with tempfile.TemporaryFile(dir=_existing(folder)):
            pass
    except OSError as error:
        text = f"{folder} cannot be written: {error.strerror}"
        return Finding("sinks", url, "broken", text, "Name a writable folder; a training goes on without it.")
    return Finding("sinks", url, "ok", f"event files will be written into {folder}")


def _existing(folder: Path) -> Path:
    """The folder, or the nearest above it that is there."""
    return next((place for place in (folder, *folder.parents) if place.exists()), Path("/"))


# -- runs ----------------------------------------------------------------------------------------


def _runs(settings: Settings) -> Finding:
    folder = settings.runs_dir.absolute()
    existing = _existing(folder)
    name = str(folder)
    remedy = "Set MLOPS_RUNS_DIR to a writable folder; until then runs are recorded in a temporary one."
    try:
        with tempfile.TemporaryFile(dir=existing):
            pass
        free = shutil.disk_usage(existing).free
    except OSError as error:
        return Finding("runs", name, "broken", f"cannot be written: {error.strerror}", remedy)
    room = f"{free / (1 << 30):.1f} GiB free"
    if free < _FULL:
        return Finding("runs", name, "broken", f"{free >> 20} MiB free", "Free space there.")
    if existing != folder:
        return Finding("runs", name, "ok", f"will be made by the first run; {room}")
    with contextlib.suppress(MlopsError):
        from mlops.store import list_runs

        room = f"{len(list_runs(folder))} runs; {room}"
    if free < _LOW:
        return Finding("runs", name, "warning", f"writable; {room}", "Free space before a long training.")
    return Finding("runs", name, "ok", f"writable; {room}")


# -- packages and settings -----------------------------------------------------------------------


def _packages() -> list[Finding]:
    findings: list[Finding] = []
    for package, extra, part in _EXTRAS:
        try:
            found = importlib.metadata.version(package)
            findings.append(Finding("packages", package, "ok", found))
        except importlib.metadata.PackageNotFoundError:
            text = f"not installed; {part} needs it"
            findings.append(Finding("packages", package, "note", text, f"pip install 'mlops[{extra}]'"))
    return findings


def _unknown_variables(environ: Mapping[str, str]) -> list[Finding]:
    """Variables that look like settings and are none: a misspelt one has no effect, and nobody says so."""
    known = [*(f"{PREFIX}{name.upper()}" for name in ABOUT), *_NOT_SETTINGS]
    findings = []
    for name in sorted(environ):
        if name.startswith(PREFIX) and name not in known:
            near = difflib.get_close_matches(name, known, 1)
            hint = f"Did you mean {near[0]}?" if near else f"The settings: {', '.join(known)}."
            findings.append(Finding("settings", name, "warning", "is no setting and has no effect", hint))
    return findings
