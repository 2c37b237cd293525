"""To the Monasca API of a cloud: every point, with its own time, however long the cloud is away.

Points are read from the store behind a durable cursor and posted by the thousand, with times in
milliseconds.  Sending one twice changes nothing, since Monasca takes the same series and time for the
same measurement; so whatever is in doubt is sent again.

The API refuses a batch as a whole for one metric that it will not have.  The batch is then divided until
that one stands alone, and the others get through.  It is given up only when the API, asked again and
again, goes on refusing it *while it takes a measurement that is known to be good*; an API that refuses
that one too is out of order, not our point.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Final, NamedTuple
from urllib.parse import unquote

import numpy as np

from mlops.blocks import Columns
from mlops.errors import CloudUnavailableError, RequestRefusedError, SinkUnavailableError, SinkURLError
from mlops.monasca.about import RUN_METRIC, STATES, meta_of
from mlops.monasca.moments import Moments
from mlops.monasca.points import FIXED, Encoder, body, encode_one, sendable
from mlops.series import EARLIEST, LATEST, Series
from mlops.settings import Settings
from mlops.sinks.base import DurableSink, Points, RunIdentity, SinkURL
from mlops.store import RunInfo

if TYPE_CHECKING:
    from mlops.monasca.client import Monasca

__all__ = ["MonascaSink"]

FORM: Final = "Write monasca://CLOUD with a cloud of clouds.yaml, or monasca: for that of OS_CLOUD or OS_*."
DEFAULT_SECONDS: Final = 5.0
DEFAULT_BATCH: Final = 1000
MOST: Final = 1500
"""Metrics in one POST that the real API was seen to take."""
_TRIES: Final = 3
_SKEW: Final = 300.0
_ABOUT_POINTS: Final = frozenset({400, 413, 422})
"""Refusals that may be about one metric of a batch."""

_log = logging.getLogger("mlops")


class _Item(NamedTuple):
    """A point on its way."""

    series: Series
    json: str


class MonascaSink(DurableSink):
    """Delivers to the Monasca API of a cloud.

    Args:
        cloud: its name in ``clouds.yaml``; empty for that of OS_CLOUD or the OS_* variables.
        interval: seconds between two deliveries while a run goes on.
        most: points in one POST.
        monasca: the API itself, already connected; for tests and for those who have a session.

    Raises:
        CloudConfigError: there is no such cloud.
        MissingExtraError: openstacksdk is not installed.

    Attributes:
        where: what messages call it.
        monasca: the API.
    """

    def __init__(
        self,
        cloud: str = "",
        *,
        interval: float = DEFAULT_SECONDS,
        most: int = DEFAULT_BATCH,
        monasca: Monasca | None = None,
    ) -> None:
        self.where = f"monasca://{cloud}"
        self.sent = 0
        self.dropped = 0
        self.interval = interval
        self.most = most
        self.monasca = monasca or _connect(cloud)
        self._encoders: dict[tuple[str, ...], Encoder] = {}
        self._refused: set[tuple[str, Series]] = set()
        self._control = ""
        self._said: set[str] = set()

    @classmethod
    def from_url(cls, url: SinkURL, settings: Settings) -> MonascaSink:
        """``monasca://CLOUD[?interval=SECONDS&batch=N]``.

        Raises:
            SinkURLError: the URL has something else than this.
            CloudConfigError: there is no such cloud.
        """
        if url.port is not None or url.path not in {"", "/"}:
            raise SinkURLError(f"The sink URL {url} has a port or a path", remedy=FORM)
        url.only("interval", "batch")
        cloud = url.text.partition("://")[2].partition("/")[0].partition("?")[0]  # the host is in lower case
        return cls(
            unquote(cloud),
            interval=url.number("interval", DEFAULT_SECONDS, 0.1, 3600),
            most=int(url.number("batch", DEFAULT_BATCH, 1, MOST)),
        )

    def destination(self) -> str:
        """See :meth:`DurableSink.destination`: the project and the region, whatever the endpoint's name."""
        try:
            return self.monasca.destination()
        except CloudUnavailableError as error:
            raise _later(error) from error

    def preparer(self, before: Callable[[], Iterable[Columns]]) -> Callable[[Columns], Columns]:
        """Leaves out what Monasca cannot keep, and gives each point of a series a millisecond of its own."""
        moments = Moments(lambda: (columns.pick(sendable(columns)) for columns in before()))

        def prepare(columns: Columns) -> Columns:
            good = sendable(columns)
            return moments.assign(columns if good.all() else self._without(columns, good))

        return prepare

    def write(self, points: Points) -> None:
        """See :meth:`DurableSink.write`."""
        columns, good = points.columns, sendable(points.columns)
        dropped = 0
        if not good.all():
            dropped = int(np.count_nonzero(~good))
            columns = self._without(columns, good)
        encoder = self._encoder(points.run)
        taken = encoder.takes(columns, points.series)
        if not taken.all():
            dropped += int(np.count_nonzero(~taken))
            columns = columns.pick(taken)
        objects = encoder.encode(columns, points.series)
        items = [
            _Item(points.series[number], text) for number, text in zip(columns.series.tolist(), objects, strict=True)
        ]
        wanted = [item for item in items if (points.run.id, item.series) not in self._refused]
        try:
            refused = self._post(points.run, wanted)
        except CloudUnavailableError as error:
            raise _later(error) from error
        self.dropped += dropped + refused + len(items) - len(wanted)
        self.sent += len(wanted) - refused
        self._check_clock()

    def describe(self, run: RunIdentity, info: RunInfo) -> None:
        """See :meth:`DurableSink.describe`: one measurement, see :mod:`mlops.monasca.about`."""
        state = STATES.index(info.outcome) if info.outcome in STATES else 0
        started = min(max(info.started, EARLIEST), LATEST - 0.001)  # beyond these the persister ends
        self._control = encode_one(RUN_METRIC, _of_the_run(run), started, float(state), meta_of(info))
        try:
            self.monasca.post_metrics(body([self._control]))
        except CloudUnavailableError as error:
            raise _later(error) from error
        except RequestRefusedError as error:
            raise SinkUnavailableError(f"{self.where} refuses what it must take: {error}") from error

    def arrived(self, run_id: str) -> int | None:
        """See :meth:`DurableSink.arrived`: as the API counts them, the one about the run itself left out."""
        from mlops.monasca.listing import metric_names
        from mlops.monasca.measurements import Measurements

        try:
            found = Measurements(self.monasca, {"run_id": run_id})
            names = metric_names(self.monasca, {"run_id": run_id})
            return sum(found.count(name) for name in names if name != RUN_METRIC)
        except CloudUnavailableError as error:
            raise _later(error) from error

    # -- one bad metric among a thousand ----------------------------------------------------------

    def _post(self, run: RunIdentity, items: Sequence[_Item]) -> int:
        """Post them; how many the API will never take."""
        if not items:
            return 0
        try:
            self.monasca.post_metrics(body([item.json for item in items]))
        except RequestRefusedError as error:
            if error.status not in _ABOUT_POINTS:
                raise
            groups: dict[Series, list[_Item]] = {}
            for item in items:
                groups.setdefault(item.series, []).append(item)
            return self._divide(run, list(groups.values()), error)
        return 0

    def _divide(self, run: RunIdentity, groups: Sequence[list[_Item]], error: RequestRefusedError) -> int:
        """Post what was refused together in two halves: first whole series apart, then a series' points."""
        if len(groups) > 1:
            half = len(groups) // 2
            return sum(self._try(run, part) for part in (groups[:half], groups[half:]))
        (items,) = groups
        if len(items) == 1 or all(self._is_refused([items[place]]) for place in (0, -1, len(items) // 2)):
            return self._condemn(run, items, error)
        half = len(items) // 2
        return self._try(run, [items[:half]]) + self._try(run, [items[half:]])

    def _try(self, run: RunIdentity, groups: Sequence[list[_Item]]) -> int:
        try:
            self.monasca.post_metrics(body([item.json for group in groups for item in group]))
        except RequestRefusedError as error:
            return self._divide(run, groups, error)
        return 0

    def _is_refused(self, items: Sequence[_Item]) -> bool:
        try:
            self.monasca.post_metrics(body([item.json for item in items]))
        except RequestRefusedError:
            return True
        return False

    def _condemn(self, run: RunIdentity, items: Sequence[_Item], error: RequestRefusedError) -> int:
        """Give these points of one series up, if the API is sound and goes on refusing them.

        Returns:
            How many it refuses: all or, when it has come to its senses, none.

        Raises:
            SinkUnavailableError: it refuses a measurement too that it must take.
        """
        for _ in range(_TRIES):
            if self._is_refused([_Item(items[0].series, self._known_good(run, items))]):
                raise SinkUnavailableError(
                    f"{self.where} refuses everything, also what it must take: {error.what}",
                    remedy="Its operator may have changed its rules, or it is out of order.",
                ) from error
            # As often as chance will have it: of several APIs that take turns, a broken one must not get all of these.
            if not all(self._is_refused(items) for _ in range(random.randint(2, 3))):  # noqa: S311 - no secret
                return 0
        series = items[0].series
        if len(items) > 1:
            self._refused.add((run.id, series))
        self._say(
            f"refused {series}",
            f"{self.where} will not take {series} ({error.status}: {error.detail}). {len(items)} of its points are not "
            "sent; they are in the store. All others are sent.",
        )
        return len(items)

    def _known_good(self, run: RunIdentity, items: Sequence[_Item]) -> str:
        """The run's own measurement, else the plainest that there is, at one of these points' times."""
        if self._control:
            return self._control
        moment = int(items[0].json.rpartition('"timestamp":')[2].partition(",")[0])
        return encode_one(RUN_METRIC, _of_the_run(run), moment / 1000.0, 0.0, {})

    # -- details ----------------------------------------------------------------------------------

    def _encoder(self, run: RunIdentity) -> Encoder:
        key = (run.id, run.name, run.host, str(run.rank), run.process, repr(sorted(run.dimensions.items())))
        encoder = self._encoders.get(key)
        if encoder is None:
            encoder = Encoder(_of_its_points(run), lambda what: self._say(what, f"{self.where}: {what}"))
            self._encoders[key] = encoder
        return encoder

    def _without(self, columns: Columns, good: np.ndarray[tuple[int], np.dtype[np.bool_]]) -> Columns:
        finite = np.isfinite(columns.value)
        if not finite.all():
            self._say(
                "finite",
                f"{self.where}: a value is {columns.value[int(np.argmin(finite))]}. Monasca takes finite numbers only: "
                "such values are recorded in the store and counted, and not sent.",
            )
        if (~good & finite).any():
            when = columns.time[int(np.argmax(~good & finite))]
            self._say(
                "time",
                f"{self.where}: a point's time is {when:g} s after 1970. Monasca keeps times from 1970 to 2261: such "
                "points stay in the store, and are not sent. Check this machine's clock.",
            )
        return columns.pick(good)

    def _check_clock(self) -> None:
        skew = self.monasca.skew
        if abs(skew) > _SKEW:
            ahead = "ahead of" if skew > 0 else "behind"
            self._say(
                "clock",
                f"{self.where}: this machine's clock is {abs(skew):.0f} s {ahead} the cloud's. Points are sent with "
                "this machine's times, under which a dashboard will not look for them; set its clock (chrony, NTP).",
            )

    def _say(self, key: str, message: str) -> None:
        """One warning for each key in the life of this sink."""
        if key not in self._said:
            self._said.add(key)
            _log.warning("%s", message)


def _connect(cloud: str) -> Monasca:
    from mlops.monasca.client import Monasca

    return Monasca.connect(cloud)


def _own(run: RunIdentity) -> dict[str, str]:
    own = {"run": run.name, "run_id": run.id, "hostname": run.host}
    if run.rank is not None:
        own["rank"] = str(run.rank)
    if run.process:
        own["process"] = run.process
    return {key: text for key, text in own.items() if text}


def _of_its_points(run: RunIdentity) -> dict[str, str]:
    """The dimensions of a process's points; what tells it from others is not for the run's own to change."""
    own = _own(run)
    return {**own, **run.dimensions, **{key: own[key] for key in FIXED if key in own}}


def _of_the_run(run: RunIdentity) -> dict[str, str]:
    """The dimensions of the measurement about the run itself, whichever of its processes sends it."""
    own = {**_own(run), **run.dimensions, "run_id": run.id}
    return {key: text for key, text in own.items() if key not in {"rank", "process"}}


def _later(error: CloudUnavailableError) -> SinkUnavailableError:
    return SinkUnavailableError(error.what, remedy=error.remedy, retry_after=error.retry_after)
