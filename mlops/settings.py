"""Settings, each from the first place that names it.

In this order: an argument in the code, the environment (``MLOPS_<NAME>``), ``mlops.toml`` in the
working folder or one above it, ``mlops.toml`` in the user's configuration folder, the default.
:func:`Settings.load` remembers for each where it came from, which ``mlops doctor`` prints.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from mlops.errors import MlopsError, SettingsError
from mlops.series import check_dimensions

__all__ = ["ABOUT", "Settings"]

PREFIX: Final = "MLOPS_"
FILE_NAME: Final = "mlops.toml"

ABOUT: Final[Mapping[str, str]] = {
    "runs_dir": "folder that the runs are kept in",
    "name": "name of the run, where the code gives none",
    "sinks": "where points go besides the store, such as statsd://localhost:8125",
    "devices": "what is metered: nvidia, host, replay:FILE; empty for nothing",
    "dimensions": "dimensions of every series, such as team=vision",
    "every_rank": "whether what ranks above 0 log is recorded too; their devices and data wait always are",
    "sample_seconds": "seconds between two samples of the devices",
    "fold_seconds": "seconds between two writes to the store; a power cut costs at most these",
    "buffer_points": "points that the memory-mapped buffer holds (64 bytes each)",
    "statsd_seconds": "seconds between two summaries to the agent; above its own 20, or it keeps one of two",
    "close_seconds": "seconds that the end of a run may wait for its sinks",
}
"""What each setting means."""


@dataclass(frozen=True, slots=True)
class Settings:
    """All settings, typed. Make one with :meth:`load`; :data:`ABOUT` says what each means.

    Attributes:
        sources: for each setting where it came from.
    """

    runs_dir: Path = Path("runs")
    name: str = ""
    sinks: tuple[str, ...] = ()
    devices: tuple[str, ...] = ("nvidia", "host")
    dimensions: Mapping[str, str] = field(default_factory=dict)
    every_rank: bool = False
    sample_seconds: float = 1.0
    fold_seconds: float = 0.5
    buffer_points: int = 65536
    statsd_seconds: float = 21.0
    close_seconds: float = 5.0
    sources: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def load(
        cls,
        *,
        environ: Mapping[str, str] | None = None,
        folder: Path | None = None,
        **given: object,
    ) -> Settings:
        """The settings in force.

        Args:
            environ: the environment; ``os.environ`` if not given.
            folder: where the search for ``mlops.toml`` begins; the working folder if not given.
            **given: settings named in the code; ``None`` means not given.

        Raises:
            SettingsError: one of them cannot be understood; the message says which and whence.
        """
        environ = os.environ if environ is None else environ
        layers = [*_files(folder or Path.cwd(), environ), _from_environment(environ), _from_code(given)]
        values: dict[str, Any] = {}
        sources: dict[str, str] = dict.fromkeys(ABOUT, "default")
        for source, layer in layers:
            for name, raw in layer.items():
                if name not in sources:
                    known = ", ".join(sources)
                    raise SettingsError(
                        f"There is no setting {name!r} ({source})", remedy=f"The settings are: {known}."
                    )
                values[name] = _parse(name, raw, f"{source}")
                sources[name] = source
        return cls(**values, sources=sources)

    def rows(self) -> list[tuple[str, str, str, str]]:
        """Each setting's name, value as text, source and meaning, for ``mlops doctor``."""
        return [
            (name, _as_text(getattr(self, name)), self.sources.get(name, "default"), about)
            for name, about in ABOUT.items()
        ]


def _files(folder: Path, environ: Mapping[str, str]) -> list[tuple[str, Mapping[str, Any]]]:
    found = []
    if environ.get("HOME") or environ.get("XDG_CONFIG_HOME"):
        from platformdirs import user_config_path

        found.append(user_config_path("mlops") / FILE_NAME)
    found.extend(next(([path] for place in (folder, *folder.parents) if _is_here(path := place / FILE_NAME)), []))
    return [(str(path), _read(path)) for path in found if _is_here(path)]


def _is_here(path: Path) -> bool:
    """Whether there is such a file for us: a container whose HOME belongs to somebody else has none."""
    try:
        return path.is_file()
    except PermissionError:
        return False


def _read(path: Path) -> Mapping[str, Any]:
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SettingsError(f"Cannot read {path}: {error}", remedy="Mend it or move it away.") from error
    return {name.replace("-", "_"): value for name, value in content.items()}


def _from_environment(environ: Mapping[str, str]) -> tuple[str, Mapping[str, Any]]:
    found = {}
    for key, value in environ.items():
        name = key.removeprefix(PREFIX).lower()
        if key.startswith(PREFIX) and name in ABOUT:
            found[name] = value
    return "environment", found


def _from_code(given: Mapping[str, object]) -> tuple[str, Mapping[str, Any]]:
    return "argument", {name: value for name, value in given.items() if value is not None}


def _parse(name: str, raw: Any, source: str) -> Any:
    where = f"{PREFIX}{name.upper()}" if source == "environment" else f"{name} ({source})"
    try:
        return _PARSERS[name](raw, where)
    except (TypeError, ValueError, RuntimeError) as error:  # RuntimeError: no such user in ~user
        if isinstance(error, MlopsError):
            raise
        raise SettingsError(f"{where} is {raw!r}: {error}", remedy=f"It must be {_EXPECTED[name]}.") from error


def _list(raw: Any, _where: str) -> tuple[str, ...]:
    parts = raw.split(",") if isinstance(raw, str) else list(raw)
    if not all(isinstance(part, str) for part in parts):
        raise ValueError("an entry is no text")
    return tuple(part.strip() for part in parts if part.strip())


def _dimensions(raw: Any, where: str) -> dict[str, str]:
    if isinstance(raw, str):
        pairs = [part.partition("=") for part in raw.split(",") if part.strip()]
        if any(not separator for _, separator, _ in pairs):
            raise ValueError("a pair has no '='")
        raw = {key.strip(): value.strip() for key, _, value in pairs}
    if not isinstance(raw, Mapping):
        raise TypeError("not a table of pairs")
    return check_dimensions(raw, where)


def _number(least: float, most: float) -> Callable[[Any, str], float]:
    def parse(raw: Any, _where: str) -> float:
        value = float(raw)
        if not least <= value <= most:
            raise ValueError(f"outside {least:.9g} to {most:.9g}")
        return value

    return parse


def _points(raw: Any, where: str) -> int:
    return int(_number(1 << 10, 1 << 24)(int(raw), where))


def _path(raw: Any, _where: str) -> Path:
    if not str(raw):
        raise ValueError("empty")
    return Path(raw).expanduser()


def _switch(raw: Any, _where: str) -> bool:
    found = _SWITCHED.get(str(raw).strip().lower())
    if found is None:
        raise ValueError("neither")
    return found


def _name(raw: Any, where: str) -> str:
    return check_dimensions({"run": raw}, where)["run"] if raw else ""


_SWITCHED: Final = {
    **dict.fromkeys(("1", "true", "yes", "on"), True),
    **dict.fromkeys(("0", "false", "no", "off"), False),
}

_PARSERS: Final[Mapping[str, Callable[[Any, str], Any]]] = {
    "runs_dir": _path,
    "name": _name,
    "sinks": _list,
    "devices": _list,
    "dimensions": _dimensions,
    "every_rank": _switch,
    "sample_seconds": _number(0.05, 3600),
    "fold_seconds": _number(0.01, 60),
    "buffer_points": _points,
    "statsd_seconds": _number(0.1, 3600),
    "close_seconds": _number(0, 600),
}

_EXPECTED: Final[Mapping[str, str]] = {
    "runs_dir": "the path of a folder",
    "name": "a short text",
    "sinks": "URLs, separated by commas",
    "devices": "names of devices, separated by commas",
    "dimensions": "pairs such as team=vision,site=north",
    "every_rank": "yes or no (true or false, 1 or 0, on or off)",
    "sample_seconds": "a number of seconds from 0.05 to 3600",
    "fold_seconds": "a number of seconds from 0.01 to 60",
    "buffer_points": "a whole number from 1024 to 16777216",
    "statsd_seconds": "a number of seconds from 0.1 to 3600",
    "close_seconds": "a number of seconds from 0 to 600",
}


def _as_text(value: object) -> str:
    if isinstance(value, Mapping):
        return ",".join(f"{key}={text}" for key, text in value.items())
    if isinstance(value, tuple):
        return ",".join(value)
    return str(value)
