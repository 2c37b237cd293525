"""Which GPUs are this job's, by CUDA's rules."""

from __future__ import annotations

import sys
import types
from collections.abc import Mapping, Sequence

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mlops.devices.visible import Board, cuda_uuids, visible
from mlops.errors import DeviceError

A, B, C, D = (f"GPU-{letter}1234567-0000-0000-0000-000000000000" for letter in "abcd")
ALIKE = tuple(Board(uuid, "NVIDIA H200") for uuid in (A, B, C, D))
MIXED = (Board(A, "NVIDIA A2"), Board(B, "NVIDIA H200"))
MIG = ("MIG-11", "MIG-12", "MIG-23")
SPLIT = (Board(A, "NVIDIA H200", MIG[:2]), Board(B, "NVIDIA H200", MIG[2:]), Board(C, "NVIDIA H200"))


def of(boards: Sequence[Board] = ALIKE, cuda: Sequence[str] | None = None, **environ: str) -> list[str]:
    """What is visible with these variables."""
    return visible(boards, environ, cuda=cuda)


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ("0", [A]),
        ("2,0", [C, A]),
        (" 1 , 2", [B, C]),
        ("+1", [B]),
        ("1gpu,2", [B, C]),
        ("0,1,-1,2", [A, B]),
        ("0,7,1", [A]),
        ("1,x,2", [B]),
        ("3,GPU-a", [D]),
        (A, [A]),
        ("GPU-b", [B]),
        ("GPU-d,GPU-c,GPU-x,GPU-a", [D, C]),
        (f"{B},0", [B]),
        (f"{B}, {C}", [B]),
    ],
)
def test_forms_of_cuda_visible_devices(asked: str, expected: list[str]) -> None:
    """Indices, UUIDs and their beginnings; everything from the first invalid entry on is ignored."""
    assert of(CUDA_VISIBLE_DEVICES=asked) == expected


def test_all_are_visible_where_nothing_is_said() -> None:
    """Without CUDA_VISIBLE_DEVICES, also where a CDI container says NVIDIA_VISIBLE_DEVICES=void."""
    assert of() == [A, B, C, D]
    assert of(NVIDIA_VISIBLE_DEVICES="void") == [A, B, C, D]
    assert of(NVIDIA_VISIBLE_DEVICES="all") == [A, B, C, D]


@pytest.mark.parametrize(
    "asked", ["", "-1", "-1,0", "x", "9", "0,0", "1,9,9", "GPU-", f"{A},{A}", f"{A},GPU-a", f"{A},GPU-x,GPU-x", "MIG-1"]
)
def test_none_is_left(asked: str) -> None:
    """Nothing, something invalid first, an ambiguous beginning, or one GPU named twice."""
    with pytest.raises(DeviceError, match="leaves this process none of the node's 4 GPUs") as caught:
        of(CUDA_VISIBLE_DEVICES=asked)
    assert "nvidia-smi -L" in caught.value.remedy


def test_no_gpu_for_this_container() -> None:
    """NVIDIA_VISIBLE_DEVICES=none, or a driver that shows none."""
    with pytest.raises(DeviceError, match="NVIDIA_VISIBLE_DEVICES=none"):
        of(NVIDIA_VISIBLE_DEVICES="none")
    with pytest.raises(DeviceError, match="shows this process no GPU"):
        of(())


PREFIXES = st.sampled_from([uuid[:length] for uuid in (A, B, C, D) for length in (4, 5, 12, 40)])
ENTRIES = st.one_of(
    st.integers(-2, 6).map(str), PREFIXES, st.sampled_from(["", " 1", "2 ", "1x", "x1", "+2", "-0x", "MIG-1", "GPU-e"])
)


@pytest.mark.slow
@pytest.mark.torch
@settings(deadline=None)  # the first example imports PyTorch
@given(st.lists(ENTRIES, max_size=6).map(",".join))
@example("1,9,9")
@example(f"GPU-e,{A},{A}")
def test_as_pytorch_has_it(asked: str) -> None:
    """PyTorch counts devices by the same rules before it starts CUDA: every combination agrees with it."""
    cuda = pytest.importorskip("torch").cuda
    known = [A, B, C, D]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CUDA_VISIBLE_DEVICES", asked)
        parsed = cuda._parse_visible_devices()
    if parsed and isinstance(parsed[0], str):
        parsed = cuda._transform_uuid_to_ordinals(parsed, known)
    cut = next((place for place, index in enumerate(parsed) if index >= len(known)), len(parsed))
    expected = [known[index] for index in parsed[:cut]]
    try:
        found = of(CUDA_VISIBLE_DEVICES=asked)
    except DeviceError:
        found = []
    assert found == expected


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({"WORLD_SIZE": "4", "LOCAL_RANK": "2"}, [C]),
        ({"WORLD_SIZE": "4", "LOCAL_RANK": "0"}, [A]),
        ({"WORLD_SIZE": "2", "LOCAL_RANK": "1", "CUDA_VISIBLE_DEVICES": "3,1"}, [B]),
        ({"WORLD_SIZE": "8", "LOCAL_RANK": "5", "CUDA_VISIBLE_DEVICES": "3"}, [D]),
        ({"WORLD_SIZE": "1", "LOCAL_RANK": "2"}, [A, B, C, D]),
        ({"WORLD_SIZE": "4"}, [A, B, C, D]),
        ({"WORLD_SIZE": "four", "LOCAL_RANK": "2"}, [A, B, C, D]),
    ],
)
def test_each_rank_reports_the_gpu_that_it_picks(environ: Mapping[str, str], expected: list[str]) -> None:
    """Under torchrun with several GPUs in sight; a rank that sees one has that one."""
    assert visible(ALIKE, environ) == expected


def test_a_rank_without_a_gpu_of_its_own() -> None:
    """More ranks than GPUs: nothing rather than another rank's."""
    with pytest.raises(DeviceError, match="LOCAL_RANK is 4 and this process sees 4 GPUs"):
        of(WORLD_SIZE="5", LOCAL_RANK="4")


@pytest.mark.parametrize("environ", [{"CUDA_VISIBLE_DEVICES": "0"}, {"WORLD_SIZE": "2", "LOCAL_RANK": "1"}])
def test_among_several_kinds_the_order_must_be_known(environ: dict[str, str]) -> None:
    """CUDA's FASTEST_FIRST may count another GPU first than NVML: rather none than a neighbour's."""
    with pytest.raises(DeviceError, match="of several kinds") as caught:
        of(MIXED, **environ)
    assert "CUDA_DEVICE_ORDER=PCI_BUS_ID" in caught.value.remedy
    assert of(MIXED, CUDA_DEVICE_ORDER="PCI_BUS_ID", **environ) == [A if "CUDA_VISIBLE_DEVICES" in environ else B]
    answered = [B] if "CUDA_VISIBLE_DEVICES" in environ else [A, B]
    assert of(MIXED, cuda=answered, **environ) == [B], "CUDA itself has said which"


@pytest.mark.parametrize("environ", [{}, {"CUDA_VISIBLE_DEVICES": "1,0"}, {"CUDA_VISIBLE_DEVICES": B}])
def test_among_several_kinds_where_the_order_does_not_matter(environ: dict[str, str]) -> None:
    """All of them, or some by UUID."""
    assert set(of(MIXED, **environ)) == ({B} if B in environ.values() else {A, B})


def test_what_cuda_says_counts_more_than_the_environment() -> None:
    """The environment may have been changed since CUDA read it; UUIDs that NVML does not know count for nothing."""
    assert of(cuda=[C], CUDA_VISIBLE_DEVICES="0") == [C]
    assert of(cuda=["GPU-x"], CUDA_VISIBLE_DEVICES="0") == [A]
    assert of(SPLIT, cuda=[A]) == [*MIG, C], "under MIG it names boards, not instances"


def test_boards_in_mig_mode_are_seen_as_their_instances() -> None:
    """All since driver 570; before, the first alone, and no whole GPU beside it."""
    assert of(SPLIT) == [*MIG, C]
    assert visible(SPLIT, {}, several_instances=False) == [MIG[0]]
    assert visible(SPLIT, {"CUDA_VISIBLE_DEVICES": "2"}, several_instances=False) == [C]
    assert of(SPLIT, CUDA_VISIBLE_DEVICES="1") == [MIG[2]]
    assert of(SPLIT, CUDA_VISIBLE_DEVICES="MIG-2,MIG-11") == [MIG[2], MIG[0]]
    assert of(SPLIT, CUDA_VISIBLE_DEVICES=B) == [MIG[2]]
    with pytest.raises(DeviceError, match="in MIG mode and have no instance"):
        of((Board(A, "NVIDIA H200", ()),))


class _Cuda:
    """What is used of torch.cuda."""

    def __init__(self, *, started: bool, uuids: Sequence[str] = ()) -> None:
        self._started, self._uuids = started, uuids

    def is_initialized(self) -> bool:
        return self._started

    def device_count(self) -> int:
        return len(self._uuids)

    def get_device_properties(self, index: int) -> types.SimpleNamespace:
        return types.SimpleNamespace(uuid=self._uuids[index].removeprefix("GPU-"))


def test_pytorch_is_asked_only_where_it_runs_cuda_already(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is neither imported nor started; half imported or without uuids it cannot tell."""
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    assert cuda_uuids() is None
    assert "torch" not in sys.modules
    for cuda, expected in (
        (_Cuda(started=False, uuids=[A]), None),
        (_Cuda(started=True, uuids=[B, A]), [B, A]),
        (object(), None),
    ):
        stand_in = types.ModuleType("torch")
        stand_in.__dict__["cuda"] = cuda
        monkeypatch.setitem(sys.modules, "torch", stand_in)
        assert cuda_uuids() == expected
