"""What points are, and how a URL becomes a sink."""

from __future__ import annotations

import importlib.metadata

import numpy as np
import pytest

from mlops.blocks import Columns
from mlops.errors import SettingsError, SinkError, SinkURLError
from mlops.series import Series
from mlops.settings import Settings
from mlops.sinks import SCHEMES, MemorySink, Point, Points, RunIdentity, Sink, SinkURL, open_sink
from tests.sinks.helpers import RUN, Table


class Bare(Sink):
    """The least that a sink can be."""

    def write(self, points: Points) -> None:
        """Count them."""
        self.sent += len(points)


class Elsewhere(Bare):
    """A sink of another package."""

    @classmethod
    def from_url(cls, url: SinkURL, settings: Settings) -> Elsewhere:
        """Take any URL."""
        return cls()


def test_points_come_out_one_by_one_as_they_were_logged() -> None:
    """Each has its time, name, value, dimensions and its step, if it was given one; 0 is a step."""
    columns = Columns(
        np.array([1.5, 2.5, 3.5]), np.array([0.5, -1.0, 7.0]), np.array([1, 0, 1], np.uint32), np.array([0, 1, 43])
    )
    series = {0: Series.of("train.loss"), 1: Series.of("gpu.power_watts", {"uuid": "GPU-1"})}
    points = Points(RUN, columns, series)
    assert len(points) == 3
    assert list(points) == [
        Point(1.5, "gpu.power_watts", 0.5, {"uuid": "GPU-1"}, None),
        Point(2.5, "train.loss", -1.0, {}, 0),
        Point(3.5, "gpu.power_watts", 7.0, {"uuid": "GPU-1"}, 42),
    ]


def test_a_sink_needs_no_more_than_write() -> None:
    """Counts begin at nothing, and closing has a default."""
    sink = Bare()
    sink.write(Table().points(("a", 1.0)))
    sink.close(1.0)
    assert (sink.sent, sink.dropped) == (1, 0)
    assert Bare().sent == 0
    assert RunIdentity("id", "name").dimensions == {}


def test_a_sink_without_a_url_says_so() -> None:
    """It is opened in code, not by its scheme."""
    with pytest.raises(SinkURLError, match="Bare has no from_url"):
        Bare.from_url(SinkURL.parse("bare:"), Settings())


def test_a_url_is_taken_apart() -> None:
    """Scheme, host, port, path and options each have their place."""
    url = SinkURL.parse(" later://[2001:db8::1]:81/a/b?x=1&y= ")
    assert (url.scheme, url.host, url.port, url.path) == ("later", "2001:db8::1", 81, "/a/b")
    assert url.options == {"x": "1", "y": ""}
    assert str(url) == "later://[2001:db8::1]:81/a/b?x=1&y="


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "has no scheme"),
        ("localhost", "has no scheme"),
        ("//localhost:8125", "has no scheme"),
        ("statsd://h:99999", "Port out of range"),
        ("statsd://[zz]", "cannot be read"),
        ("later://me:secret@h", "user name or password"),
        ("later://me@h", "user name or password"),
        ("later://h#f", "has a fragment, 'f'"),
    ],
)
def test_what_is_no_url_is_refused_with_the_forms_there_are(text: str, problem: str) -> None:
    """The message says what is wrong, the remedy what to write, and neither shows a password."""
    with pytest.raises(SinkURLError) as caught:
        SinkURL.parse(text)
    assert problem in caught.value.what
    assert caught.value.remedy
    assert "secret" not in str(caught.value)


def test_options_are_checked() -> None:
    """Unknown ones are named with those that exist; numbers have bounds; what is left out is the default."""
    url = SinkURL.parse("later://h?size=5&wrong=1&text=x&high=11")
    with pytest.raises(SinkURLError, match=r"no option 'high'. Its options: size, wrong, text\."):
        url.only("size", "wrong", "text")
    url.only("high", "size", "text", "wrong")
    assert url.number("size", 1, 0, 10) == 5
    assert url.number("absent", 1, 0, 10) == 1
    for option in ("text", "high"):
        with pytest.raises(SinkURLError, match=r"is no number from 0 to 10. The default: 1"):
            url.number(option, 1, 0, 10)


def test_an_unknown_scheme_is_refused_with_those_there_are() -> None:
    """A misspelt scheme shows how it is spelt."""
    with pytest.raises(SinkURLError, match=r"no sink of scheme 'statds' \(statds://h\). The schemes are: memory, mon"):
        open_sink("statds://h", Settings())


def _entry(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    entry = importlib.metadata.EntryPoint("elsewhere", value, "mlops.sinks")
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda *, group: [entry] if group == "mlops.sinks" else [])


def test_other_packages_bring_sinks_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """An entry point of the group mlops.sinks is a scheme."""
    monkeypatch.setattr("tests.sinks.helpers.Elsewhere", Elsewhere, raising=False)
    _entry(monkeypatch, "tests.sinks.helpers:Elsewhere")
    assert isinstance(open_sink("elsewhere://anything", Settings()), Elsewhere)
    with pytest.raises(SinkURLError, match=", ".join(sorted({"elsewhere", *SCHEMES}))):
        open_sink("other:", Settings())


def test_an_entry_point_that_is_no_sink_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """The message says which one, so that the right package is blamed."""
    _entry(monkeypatch, "tests.sinks.helpers:Table")
    with pytest.raises(SettingsError, match=r"entry point mlops.sinks:elsewhere is no Sink"):
        open_sink("elsewhere:", Settings())


def test_a_class_that_makes_something_else_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """What from_url gives must be a sink."""
    monkeypatch.setattr(MemorySink, "from_url", lambda *_: object())
    with pytest.raises(SinkError, match=r"made a object, which is no mlops.sinks.Sink"):
        open_sink("memory:", Settings())


def test_the_settings_in_force_are_taken_where_none_are_given(monkeypatch: pytest.MonkeyPatch) -> None:
    """A sink opened by its URL alone heeds the environment."""
    from mlops.sinks.statsd import StatsdSink

    monkeypatch.setenv("MLOPS_STATSD_SECONDS", "33")
    sink = open_sink("statsd://localhost")
    assert isinstance(sink, StatsdSink)
    assert sink._interval == 33
