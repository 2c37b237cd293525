"""What every sink is, and how one is made from a URL."""

from __future__ import annotations

import abc
import importlib
import importlib.metadata
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Final, NamedTuple
from urllib.parse import parse_qsl, urlsplit

from mlops.blocks import Columns
from mlops.errors import SettingsError, SinkError, SinkURLError
from mlops.series import Series
from mlops.settings import Settings
from mlops.store import RunInfo

__all__ = ["SCHEMES", "DurableSink", "Point", "Points", "RunIdentity", "Sink", "SinkURL", "kind_of", "open_sink"]

SCHEMES: Final[Mapping[str, str]] = {
    "memory": "mlops.sinks.memory:MemorySink",
    "monasca": "mlops.sinks.monasca:MonascaSink",
    "prometheus": "mlops.sinks.prometheus:PrometheusSink",
    "statsd": "mlops.sinks.statsd:StatsdSink",
    "tensorboard": "mlops.sinks.tensorboard:TensorboardSink",
}
"""The class of each URL scheme; packages may add more as entry points of the group ``mlops.sinks``."""


@dataclass(frozen=True, slots=True)
class RunIdentity:
    """Whose points these are.

    Attributes:
        id: the run's id.
        name: the run's name.
        dimensions: of every series of the run.
        host: where this process runs.
        rank: of this process; ``None`` outside a distributed training.
        process: tells processes of one run apart that have no rank; empty for the only one.
        folder: the run's, on this machine; ``None`` where a sink is used without a run.
        info: what this process knows of the run, beside a training: its parameters fill, and its outcome is
            there when the sink is closed.
    """

    id: str
    name: str
    dimensions: Mapping[str, str] = field(default_factory=dict)
    host: str = ""
    rank: int | None = None
    process: str = ""
    folder: Path | None = field(default=None, compare=False)
    info: RunInfo | None = field(default=None, compare=False, repr=False)


class Point(NamedTuple):
    """One value of one series at one time (seconds since the epoch); ``step`` if one was given."""

    time: float
    name: str
    value: float
    dimensions: Mapping[str, str]
    step: int | None


@dataclass(frozen=True, slots=True)
class Points:
    """Points on their way to a sink, by column; iterating gives them one by one.

    Attributes:
        run: whose they are.
        columns: times, values, series ids and steps (see :class:`mlops.blocks.Columns`).
        series: what the ids in ``columns.series`` stand for; grows, and never changes an entry.
    """

    run: RunIdentity
    columns: Columns
    series: Mapping[int, Series]

    def __len__(self) -> int:
        return len(self.columns)

    def __iter__(self) -> Iterator[Point]:
        columns = self.columns
        rows = zip(
            columns.time.tolist(), columns.value.tolist(), columns.series.tolist(), columns.step.tolist(), strict=True
        )
        for time, value, number, step in rows:
            series = self.series[number]
            yield Point(time, series.name, value, dict(series.dimensions), step - 1 if step else None)


class Sink(abc.ABC):
    """A destination of points.

    Both methods run on a thread of the sink's own, never on the training's, so they may take their
    time; what waits meanwhile waits in the store, not in memory.

    Attributes:
        sent: points delivered so far.
        dropped: points given up so far, nan and infinite ones included.
    """

    sent: int = 0
    dropped: int = 0

    @abc.abstractmethod
    def write(self, points: Points) -> None:
        """Take these points.

        Called with new points as they are recorded, and about twice a second without any, so that
        a sink which sends at intervals needs no thread.  Points come in the order of logging.

        Raises:
            SinkError: they could not be taken; they count as dropped and the run goes on.
        """

    def close(self, timeout: float) -> None:  # noqa: B027 - a sink that delivers at once has nothing pending
        """Deliver what is pending and let go of sockets and files.

        Args:
            timeout: seconds it may take; what is not delivered by then counts as dropped.
        """

    @classmethod
    def from_url(cls, url: SinkURL, settings: Settings) -> Sink:
        """The sink that a URL of this class's scheme means.

        Raises:
            SinkURLError: a part of the URL is missing or unknown.
        """
        raise SinkURLError(f"{url} cannot be opened by its URL: {cls.__name__} has no from_url")


class DurableSink(Sink):
    """A sink that gets every point of the store, however long its destination is away.

    What feeds it (:mod:`mlops.sinks.spool`) keeps a cursor on disk for each points file and destination: a
    point is passed over only once ``write`` has returned.  After a crash the last points come again, so
    the destination must take the same point twice for one.

    Attributes:
        most: points in one call of ``write``.
        interval: seconds between two deliveries while a run goes on; points gather meanwhile.
    """

    most: int = 1000
    interval: float = 5.0

    @abc.abstractmethod
    def destination(self) -> str:
        """Where points go, in words that mean the same on every machine; names the cursor.

        Raises:
            SinkUnavailableError: it cannot be known now; it is asked again later.
            MlopsError: it cannot be known until somebody mends something.
        """

    @abc.abstractmethod
    def write(self, points: Points) -> None:
        """Deliver these points, all of them; what the destination will never take counts as dropped.

        Raises:
            SinkUnavailableError: not now; the same points come again.
            MlopsError: not until somebody mends something; the same points come again.
        """

    def preparer(self, before: Callable[[], Iterable[Columns]]) -> Callable[[Columns], Columns]:
        """What is done to one points file's points before they are written: block by block, in their order.

        After a restart it sees the file from its beginning again and must give the same points.  What
        it leaves out counts as dropped.

        Args:
            before: gives again the blocks that it has been given so far.
        """
        return lambda columns: columns

    def arrived(self, run_id: str) -> int | None:
        """How many points of a run the destination has by now, told by itself; ``None`` if it cannot tell.

        Raises:
            MlopsError: it cannot be asked now, or will not answer us.
        """
        return None

    def describe(self, run: RunIdentity, info: RunInfo) -> None:
        """Tell the destination about the run itself; called when its delivery begins and when it has ended.

        Raises:
            MlopsError: as ``write``.
        """


@dataclass(frozen=True, slots=True)
class SinkURL:
    """A sink's URL, taken apart: ``scheme://host:port/path?option=value``.

    Attributes:
        text: as given; a password in it is not part of :func:`str`.
    """

    text: str = field(repr=False)
    scheme: str
    host: str
    port: int | None
    path: str
    options: Mapping[str, str]

    FORMS: ClassVar[str] = "statsd://HOST[:PORT], monasca://CLOUD, prometheus://[HOST]:PORT, tensorboard:DIR or memory:"

    @classmethod
    def parse(cls, text: str) -> SinkURL:
        """Take a URL apart.

        Raises:
            SinkURLError: it is none; the message says why and shows the forms there are.
        """
        try:
            parts = urlsplit(text.strip())
            port = parts.port
        except ValueError as error:
            what = _without_secrets(f"The sink URL {text!r} cannot be read: {error}")
            raise SinkURLError(what, remedy=f"Write {cls.FORMS}.") from None  # its own text may show a password
        if not parts.scheme:
            raise SinkURLError(f"The sink URL {_without_secrets(text)!r} has no scheme", remedy=f"Write {cls.FORMS}.")
        if parts.username or parts.password:
            raise SinkURLError(
                f"The sink URL of scheme {parts.scheme!r} holds a user name or password",
                remedy="Secrets never go into URLs; leave that part out.",
            )
        if parts.fragment:
            raise SinkURLError(
                f"The sink URL {text!r} has a fragment, {parts.fragment!r}", remedy=f"Write {cls.FORMS}."
            )
        options = dict(parse_qsl(parts.query, keep_blank_values=True))
        return cls(text.strip(), parts.scheme, parts.hostname or "", port, parts.path, options)

    def only(self, *options: str) -> None:
        """Refuse options other than these.

        Raises:
            SinkURLError: there is another one.
        """
        unknown = sorted(set(self.options) - set(options))
        if unknown:
            allowed = ", ".join(options) or "none"
            raise SinkURLError(f"{self}: there is no option {unknown[0]!r}", remedy=f"Its options: {allowed}.")

    def number(self, option: str, default: float, least: float, most: float) -> float:
        """An option that is a number between two bounds.

        Raises:
            SinkURLError: it is not.
        """
        text = self.options.get(option)
        if text is None:
            return default
        try:
            value = float(text)
        except ValueError:
            value = float("nan")
        if not least <= value <= most:
            raise SinkURLError(
                f"{self}: {option}={text!r} is no number from {least:g} to {most:g}",
                remedy=f"The default: {default:g}.",
            )
        return value

    def __str__(self) -> str:
        return _without_secrets(self.text)


def _without_secrets(text: str) -> str:
    """A text without what stands before an ``@`` in its URLs."""
    return re.sub(r"[^/\s'\"]*@", "…@", text)


def open_sink(url: str, settings: Settings | None = None) -> Sink:
    """The sink that a URL means.

    Raises:
        SinkURLError: the scheme is unknown or the URL cannot be understood.
        MissingExtraError: the sink needs a package that is not installed.
    """
    parsed = SinkURL.parse(url)
    sink = kind_of(parsed).from_url(parsed, settings or Settings.load())
    if not isinstance(sink, Sink):
        raise SinkError(f"{url} made a {type(sink).__name__}, which is no mlops.sinks.Sink")
    return sink


def kind_of(url: SinkURL) -> type[Sink]:
    """The class of a URL's sinks; none is opened.

    Raises:
        SinkURLError: the scheme is unknown.
        SettingsError: a package brings something of this scheme that is no sink.
    """
    home = SCHEMES.get(url.scheme)
    if home is None:
        return _from_entry_points(url)
    module, _, name = home.partition(":")
    kind: type[Sink] = getattr(importlib.import_module(module), name)
    return kind


def _from_entry_points(url: SinkURL) -> type[Sink]:
    found = importlib.metadata.entry_points(group="mlops.sinks")
    for entry in found:
        if entry.name == url.scheme:
            loaded = entry.load()
            if isinstance(loaded, type) and issubclass(loaded, Sink):
                return loaded
            raise SettingsError(f"The entry point mlops.sinks:{entry.name} is no Sink", remedy="See mlops.sinks.Sink.")
    known = ", ".join(sorted({*SCHEMES, *(entry.name for entry in found)}))
    raise SinkURLError(f"There is no sink of scheme {url.scheme!r} ({url})", remedy=f"The schemes are: {known}.")
