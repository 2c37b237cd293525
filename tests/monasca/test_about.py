"""What run.json says of a run, as one measurement that the API takes."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mlops.monasca.about import MOST_CHARACTERS, STATES, info_of, meta_of
from mlops.store import OUTCOMES, RUNNING, RunInfo

RUN_ID = "20261122-232640-digits-0a1b2c"
PLAIN = st.one_of(st.text(max_size=40), st.integers(), st.floats(allow_nan=False), st.booleans(), st.none())
TABLE = st.dictionaries(st.text(max_size=20), PLAIN, max_size=30)
TEXT = st.text(max_size=400)
INFO = st.builds(
    RunInfo,
    id=st.just(RUN_ID),
    name=TEXT.filter(bool),
    started=st.floats(0, 2e9),
    ended=st.one_of(st.none(), st.floats(0, 2e9)),
    outcome=st.sampled_from(STATES),
    reason=TEXT,
    dimensions=st.dictionaries(st.text(min_size=1, max_size=20), st.text(min_size=1, max_size=40), max_size=10),
    parameters=TABLE,
    host=TEXT,
    versions=st.dictionaries(st.text(max_size=20), st.text(max_size=20), max_size=20),
    git_commit=TEXT,
    notes=TABLE,
)


def _size(meta: dict[str, str]) -> int:
    """As monasca_common.validation counts it."""
    return len(json.dumps(meta))


@settings(max_examples=60, deadline=None)
@given(INFO)
@example(RunInfo(RUN_ID, "é" * 400, 1.0, None, "failed", "\U0001f600" * 400, host="ü" * 400))
@example(RunInfo(RUN_ID, "digits", 1.0, None, "failed", "line\nbreak\r\x00\x1b"))
@example(RunInfo(RUN_ID, "\ud800", 1.0, None, "failed", "\udfff", parameters={"\ud800": "\udfff"}))
def test_whatever_a_run_says_of_itself_the_api_takes_it(info: RunInfo) -> None:
    """Texts only, at most 16 entries and 2048 characters as JSON, no control character, and it can be read back."""
    meta = meta_of(info)
    assert len(meta) <= 16
    assert _size(meta) <= MOST_CHARACTERS
    assert all(text and text.isprintable() for text in meta.values())
    json.dumps(meta, ensure_ascii=False).encode()
    back = info_of(RUN_ID, json.loads(json.dumps(meta)))
    assert (back.started, back.ended, back.outcome) == (info.started, info.ended, info.outcome)


def test_a_usual_run_comes_back_whole() -> None:
    """Every field but those that only its host can use."""
    info = RunInfo(
        RUN_ID,
        "digits",
        1_795_390_000.123456,
        1_795_390_100.5,
        "failed",
        "ValueError: no",
        {"team": "vision"},
        {"epochs": 5, "lr": 0.003, "model": "Sequential", "half": True, "none": None},
        "node-1",
        4711,
        99,
        {"python": "3.11.2", "torch": "2.13.0"},
        "4d80f9b+",
        {"points": {"node-1-4711-0.points": 1234}},
    )
    back = info_of(RUN_ID, meta_of(info))
    info.pid = info.pid_started = 0
    assert back == info


def test_what_does_not_fit_is_cut_and_named() -> None:
    """The versions go first, what a user has chosen last; what is cut is said."""
    info = RunInfo(
        RUN_ID,
        "digits",
        1.0,
        dimensions={"team": "vision"},
        parameters={f"parameter {number}": "x" * 50 for number in range(100)},
        versions={f"package-{number}": "1.2.3" for number in range(100)},
    )
    back = info_of(RUN_ID, meta_of(info))
    assert back.dimensions == info.dimensions
    assert 10 < len(back.parameters) < 100
    assert list(back.parameters) == list(info.parameters)[: len(back.parameters)]
    assert len(back.versions) < 3
    assert back.notes["cut"] == "parameters,versions"


def test_numbers_that_json_has_no_word_for_become_texts() -> None:
    """A learning rate of nan does not make the whole unreadable."""
    info = RunInfo(RUN_ID, "digits", 1.0, parameters={"lr": math.nan, "top": math.inf})
    assert info_of(RUN_ID, meta_of(info)).parameters == {"lr": "nan", "top": "inf"}


def test_a_measurement_that_says_little_is_a_run_all_the_same() -> None:
    """Only when it began must be known."""
    back = info_of(RUN_ID, {"started": "5.0"})
    assert (back.name, back.outcome, back.started) == (RUN_ID, RUNNING, 5.0)


@pytest.mark.parametrize(
    "meta",
    [
        {},
        {"started": "soon"},
        {"started": "nan"},
        {"started": "-1e300"},
        {"started": "1", "ended": "inf"},
        {"started": "1", "parameters": "{"},
        {"started": "1", "parameters": "[]"},
    ],
)
def test_one_that_is_none_of_ours_is_refused(meta: dict[str, Any]) -> None:
    """Somebody else may send a metric of that name."""
    with pytest.raises((ValueError, TypeError)):
        info_of(RUN_ID, meta)


def test_the_states_are_numbered_for_good() -> None:
    """The number is what is stored: later outcomes come after these."""
    assert STATES == ("running", "finished", "failed", "interrupted", "cancelled", "killed")
    assert set(STATES) == {RUNNING, *OUTCOMES}
