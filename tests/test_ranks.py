"""Which rank a process is, and how ranks come to record one run without waiting for one another."""

from __future__ import annotations

import contextlib
import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mlops import ranks
from mlops.ranks import Rank, agree, here
from mlops.run import Run

TWO = {"RANK": "1", "WORLD_SIZE": "2"}


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each test is a process that has opened no run yet, as its ranks are."""
    monkeypatch.setattr(ranks, "_opened", Counter())
    monkeypatch.setattr(ranks, "_arrived", {})


def never(_run_id: str) -> bool:
    """No run has ended."""
    return False


@pytest.fixture
def meets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """The run's id as a rank of a launcher hears it, which proposes its own letter; each call is a process anew."""

    def meet(number: int, proposal: str, over: Callable[[str], bool] = never, *, anew: bool = True) -> str:
        monkeypatch.setattr(os, "getpid", lambda: 1000 + ord(proposal))
        if anew:
            ranks._opened.clear()
        return agree("digits", proposal, Rank(number, 2), tmp_path, over).run_id

    return meet


# -- which rank -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, None),
        ({"RANK": "0", "WORLD_SIZE": "1"}, None),
        ({"RANK": "0"}, None),
        ({"WORLD_SIZE": "2"}, None),
        ({"RANK": "2", "WORLD_SIZE": "2"}, None),
        ({"RANK": "-1", "WORLD_SIZE": "2"}, None),
        ({"RANK": "one", "WORLD_SIZE": "2"}, None),
        ({"RANK": "1", "WORLD_SIZE": ""}, None),
        (TWO, Rank(1, 2)),
        ({**TWO, "LOCAL_RANK": "0"}, Rank(1, 2, 0)),
        ({**TWO, "LOCAL_RANK": "x"}, Rank(1, 2)),
        ({**TWO, "TORCHELASTIC_RUN_ID": "none"}, Rank(1, 2, sure=True)),
    ],
)
def test_a_launchers_variables(environ: dict[str, str], expected: Rank | None) -> None:
    """Taken if they make sense; a process that is alone has no rank."""
    assert here(environ) == expected


def test_what_devices_are_told() -> None:
    """The same variables, with the number on the host only where it is known."""
    assert Rank(1, 4).environ == {"RANK": "1", "WORLD_SIZE": "4"}
    assert Rank(3, 4, 1).environ == {"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1"}


# -- meeting --------------------------------------------------------------------------------------


def test_the_first_word_counts(meets: Callable[..., str]) -> None:
    """Ranks of one launcher hear what the first of them said, whichever it is."""
    assert [meets(1, "a"), meets(0, "b")] == ["a", "a"]


def test_the_so_manieth_run_of_one_is_that_of_all(meets: Callable[..., str]) -> None:
    """Several runs of one name are told apart by their order."""
    assert [meets(0, "a"), meets(0, "b", anew=False)] == ["a", "b"]
    assert [meets(1, "c"), meets(1, "d", anew=False)] == ["a", "b"]


def test_a_number_that_is_taken_is_another_trainings(meets: Callable[..., str]) -> None:
    """Two trainings of one shell with left-over variables do not become one run."""
    assert [meets(0, "a"), meets(0, "b"), meets(0, "c")] == ["a", "b", "c"]


def test_a_run_that_is_over_is_not_joined(meets: Callable[..., str]) -> None:
    """The next training of the same launcher agrees on a run of its own."""
    assert [meets(0, "a"), meets(1, "b")] == ["a", "a"]
    over = "a".__eq__
    assert [meets(1, "c", over), meets(0, "d", over)] == ["c", "c"]


def test_other_launchers_are_other_trainings(meets: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    """By the launcher's process, or by what it says."""
    assert meets(0, "a") == "a"
    monkeypatch.setenv("MASTER_PORT", "1")
    assert meets(1, "b") == "b"
    monkeypatch.setattr(os, "getppid", lambda: 1)
    assert meets(1, "c") == "c"


def test_a_rank_of_torchruns_may_come_late(meets: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Its launcher starts one training, or a restart of it: a run that has ended meanwhile is its run all the same."""
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    assert meets(1, "a") == "a"
    over = "a".__eq__
    assert meets(0, "b", over) == "a"
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    assert meets(1, "c", over) == "c"


@pytest.mark.parametrize("of_torchrun", [True, False])
def test_nothing_is_left_where_ranks_met(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, of_torchrun: bool) -> None:
    """Torchrun's last rank to leave removes it, elsewhere the owner of the run does."""
    if of_torchrun:
        monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
        monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    meetings = []
    for number in (0, 1):
        ranks._opened.clear()
        meetings.append(agree("digits", "a", Rank(number, 4), tmp_path, never))
    meetings[0].leave(owner=True)
    assert len(list(tmp_path.iterdir())) == int(of_torchrun)
    meetings[1].leave(owner=False)
    assert list(tmp_path.iterdir()) == []


def test_what_killed_ranks_left_is_removed_by_the_next(
    meets: Callable[..., str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Once their launcher is gone and their run is over."""
    with monkeypatch.context() as patched:
        patched.setattr(os, "getppid", lambda: 1 << 30)  # nobody's number
        meets(0, "a")
        patched.setenv("MASTER_PORT", "0")
        meets(0, "b")
    monkeypatch.setenv("MASTER_PORT", "1")
    meets(0, "c", never)
    assert len(list(tmp_path.iterdir())) == 3
    monkeypatch.setenv("MASTER_PORT", "2")
    meets(0, "d", {"b", "c"}.__contains__)
    left = [(folder / "run").read_text() for folder in tmp_path.iterdir()]
    assert sorted(left) == ["a", "c", "d"], "the launcher of c lives"


def test_nothing_is_waited_for_where_nothing_can_be_written(tmp_path: Path) -> None:
    """Then each rank has its own word."""
    (tmp_path / "file").write_text("")
    assert agree("digits", "a", Rank(0, 2), tmp_path / "file", never).run_id == "a"


class Store:
    """A process group's store, as far as it is asked; ranks of one test share it."""

    def __init__(self) -> None:
        self.kept: dict[str, str] = {}
        self.numbers: dict[str, int] = {}

    def compare_set(self, key: str, expected: str, desired: str) -> bytes:
        """As torch's: the first one counts."""
        assert expected == ""
        return self.kept.setdefault(key, desired).encode()

    def add(self, key: str, amount: int) -> int:
        """As torch's."""
        self.numbers[key] = self.numbers.get(key, 0) + amount
        return self.numbers[key]


@pytest.fixture
def group(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A stand-in for torch.distributed with a process group, of rank 1 of 2; the real one is in test_torchrun."""

    class Group:
        store = Store()
        get_rank = staticmethod(lambda: 1)
        get_world_size = staticmethod(lambda: 2)

    monkeypatch.setattr(ranks, "_group", lambda: Group)
    monkeypatch.setattr(ranks, "_store", lambda: Group.store)
    return Group


@pytest.mark.usefixtures("group")
def test_a_process_group_knows_better(tmp_path: Path) -> None:
    """Its rank counts and its store is where they meet; nothing is written among the runs."""
    rank = here({"RANK": "7", "WORLD_SIZE": "9"})
    assert rank == Rank(1, 2, 0, sure=True)
    assert here({}) == rank
    assert agree("digits", "a", rank, tmp_path, never).run_id == "a"
    ranks._opened.clear()
    assert agree("digits", "b", rank, tmp_path, never).run_id == "a"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("group")
def test_a_group_without_a_store_does_no_harm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As with MPI: each rank records a run of its own."""

    def none() -> Any:
        raise ValueError("Default process group has not been initialized")

    monkeypatch.setattr(ranks, "_store", none)
    assert here({}) == Rank(1, 2, sure=True)
    assert agree("digits", "a", Rank(1, 2), tmp_path, never).run_id == "a"


# -- runs -----------------------------------------------------------------------------------------


def test_a_rank_alone_records(runs_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Left-over variables of a launcher, with no other rank and no process group, do no harm."""
    for name, value in {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0"}.items():
        monkeypatch.setenv(name, value)
    for _ in range(2):
        with Run("digits", devices=[], runs_dir=runs_dir) as run:
            run.log({"train.loss": 1.0})
        assert (run.rank, run.joined) == (0, False)
    assert len(list(runs_dir.iterdir())) == 2, "and nothing is left where ranks would have met"


def test_what_a_rank_above_0_logs_is_left_to_rank_0(runs_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its losses, epochs and series are not recorded; what it waits for, and what names its rank, is."""
    for name, value in {**TWO, "TORCHELASTIC_RUN_ID": "none"}.items():
        monkeypatch.setenv(name, value)
    record = written(runs_dir)
    assert set(record) == {"train.data_wait_seconds", "train.batch_seconds", "mine"}


def test_what_left_over_variables_call_rank_1_loses_nothing(runs_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without torchrun and without a process group nobody knows of a rank 0 that would log the same."""
    for name, value in TWO.items():
        monkeypatch.setenv(name, value)
    assert {"train.loss", "other", "valid.loss", "train.epoch"} <= set(written(runs_dir))


def test_a_child_that_a_rank_forks_is_none(runs_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its variables are its parent's: a run of its own is one, and all of it is recorded."""
    for name, value in {**TWO, "TORCHELASTIC_RUN_ID": "none"}.items():
        monkeypatch.setenv(name, value)
    assert here() == Rank(1, 2, sure=True)
    pid = os.fork()
    if pid == 0:
        with contextlib.suppress(BaseException):
            os._exit(0 if here() is None and "train.loss" in written(runs_dir) else 1)
        os._exit(2)
    assert os.waitpid(pid, 0)[1] == 0


def test_a_number_that_a_dead_process_took_is_free(meets: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Torchrun begins anew, when a host comes or goes, without saying so: the ranks meet in the next place."""
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    monkeypatch.setattr("mlops.ranks.process_started", lambda pid: 0 if 1090 <= pid < 1100 else 1)  # "a" and "b" died
    assert [meets(0, "a"), meets(1, "b")] == ["a", "a"]
    over = "a".__eq__
    assert [meets(1, "c", over), meets(0, "d", over)] == ["c", "c"]


def test_every_rank_is_recorded_where_that_is_asked_for(runs_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The setting has what each rank logs recorded."""
    for name, value in {**TWO, "MLOPS_EVERY_RANK": "yes"}.items():
        monkeypatch.setenv(name, value)
    assert {"train.loss", "other", "valid.loss", "train.epoch"} <= set(written(runs_dir))


def written(runs_dir: Path) -> list[str]:
    """The names that a training records which logs in every way."""
    from mlops.record import read_run
    from mlops.store import RunFolder

    with Run("digits", devices=[], runs_dir=runs_dir) as run:
        with run.epoch() as epoch:
            for _ in run.watch(range(3)):
                run.log({"train.loss": 1.0})
            epoch.log({"valid.loss": 2.0})
        assert epoch.number == 1
        run.series("other")(1.0)
        run.series("mine", {"rank": "1"})(1.0)
    return read_run(RunFolder(run.dir)).names()
