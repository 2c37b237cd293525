"""Finding a run in a Monasca that knows many."""

from __future__ import annotations

import pytest

from mlops.errors import CloudError, RunNotFoundError
from mlops.monasca.about import RUN_METRIC, meta_of
from mlops.monasca.runs import find_run, info_from, run_ids
from mlops.series import mend_dimensions
from mlops.store import RunInfo
from tests.monasca.imitation import Imitation, metric

T = 1_795_390_000_000

FIRST = "20261122-231500-digits-aaaaaa"
SECOND = "20261122-231640-digits-bbbbbb"
TWIN = "20261122-231640-digits-aaaaab"
OTHER = "20261121-000000-My-Words-cccccc"


def _tell(imitation: Imitation, run_id: str, name: str, started: float, **more: object) -> None:
    info = RunInfo(run_id, name, started, **more)  # type: ignore[arg-type]
    own = mend_dimensions({"run": name, "run_id": run_id, "hostname": "h"})
    imitation.post([metric(RUN_METRIC, round(started * 1000), 0.0, meta_of(info), **own)])


@pytest.fixture
def cloud() -> Imitation:
    """A Monasca with four runs: two of them began within one second, the one with the lower id later."""
    imitation = Imitation()
    _tell(imitation, FIRST, "digits", T / 1000)
    _tell(imitation, SECOND, "digits", T / 1000 + 100.1)
    _tell(imitation, TWIN, "digits", T / 1000 + 100.9, outcome="failed", ended=T / 1000 + 200)
    _tell(imitation, OTHER, "My Words", T / 1000 - 90_000)
    return imitation


@pytest.mark.parametrize(
    ("which", "meant"),
    [
        (FIRST, FIRST),
        ("20261122-2315", FIRST),
        ("digits", TWIN),
        ("last", TWIN),
        ("My Words", OTHER),
        (SECOND[:-2], SECOND),
    ],
)
def test_a_run_is_named_in_every_way(cloud: Imitation, which: str, meant: str) -> None:
    """An id, its beginning, a name and the word last; the newest of one name is meant, to less than a second."""
    assert find_run(cloud, which) == meant


@pytest.mark.parametrize("which", ["nosuch", "20261122-231500-digits-zzzzzz", "", "a|b", "a,b", "x" * 300, "\n"])
def test_a_run_that_is_not_there(cloud: Imitation, which: str) -> None:
    """It is told, with the newest that are, and of its own name if there are such."""
    with pytest.raises(RunNotFoundError, match="There is no run") as caught:
        find_run(cloud, which)
    assert SECOND in caught.value.remedy
    assert OTHER not in caught.value.remedy


def test_what_is_like_it_is_offered(cloud: Imitation) -> None:
    """Runs of its own name come before newer ones of others."""
    with pytest.raises(RunNotFoundError, match=rf"The newest there like it: {OTHER}\."):
        find_run(cloud, "20261121-000000-My-Words-zzzzzz")


def test_a_beginning_that_fits_several(cloud: Imitation) -> None:
    """They are listed."""
    with pytest.raises(RunNotFoundError, match=f"fits 2 runs.*{TWIN}, {SECOND}"):
        find_run(cloud, "20261122-231640")


def test_a_cloud_without_runs() -> None:
    """It says how one gets there."""
    for which in ("last", "digits"):
        with pytest.raises(
            RunNotFoundError, match=r"There are no runs in the Monasca of the imitated cloud.*mlops upload"
        ):
            find_run(Imitation(), which)


def test_a_run_that_tells_nothing_of_itself(cloud: Imitation) -> None:
    """Its points are enough to find it by its id."""
    cloud.post([metric("train.loss", T, 1.0, run_id="silent")])
    assert find_run(cloud, "silent") == "silent"
    assert info_from(cloud, "silent") is None


def test_ids_by_name(cloud: Imitation) -> None:
    """Oldest first."""
    assert run_ids(cloud) == [OTHER, FIRST, TWIN, SECOND]
    assert run_ids(cloud, "My Words") == [OTHER]
    assert run_ids(cloud, "none") == []


def test_what_a_run_told_of_itself(cloud: Imitation) -> None:
    """As its run.json had it."""
    info = info_from(cloud, TWIN)
    assert info is not None
    assert (info.id, info.name, info.outcome, info.ended) == (TWIN, "digits", "failed", T / 1000 + 200)


def test_the_end_counts_where_two_measurements_tell(cloud: Imitation) -> None:
    """As when a dimension of the run was another at its beginning."""
    _tell(cloud, FIRST, "digits", T / 1000 + 0.001, outcome="finished", ended=T / 1000 + 9)
    info = info_from(cloud, FIRST)
    assert info is not None
    assert info.outcome == "finished"


@pytest.mark.parametrize(
    "meta",
    [{}, {"started": "soon"}, {"started": "nan"}, {"started": "1", "notes": "["}, {"started": "1", "notes": "7"}],
)
def test_what_others_put_under_that_name_is_passed_over(meta: dict[str, str]) -> None:
    """A measurement that is none of ours is no run, and no error."""
    imitation = Imitation()
    imitation.post([metric(RUN_METRIC, T, 1.0, meta, run_id="x")])
    assert info_from(imitation, "x") is None


@pytest.mark.parametrize("answer", [None, {}, {"elements": [1]}, {"elements": [{"columns": [], "measurements": [[]]}]}])
def test_nonsense_is_an_error_of_ours(cloud: Imitation, answer: object) -> None:
    """Whatever is answered."""
    cloud.answer = lambda _path, _content: answer
    with pytest.raises(CloudError):
        info_from(cloud, FIRST)
