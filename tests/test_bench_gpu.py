"""The parts of the GPU's benchmark that need none, since it is seldom run."""

from __future__ import annotations

from pathlib import Path

import pytest

from mlops.devices.replay import ReplayDevice

pytestmark = [
    pytest.mark.torch,
    pytest.mark.skipif(
        not (Path(__file__).parents[1] / "benchmarks").is_dir(), reason="this copy of the tests has no benchmarks"
    ),
]

TRACE = """\
# mlops trace 1
# about: made up
# product GPU-1: a made-up GPU
seconds,name,value,dimensions
0.0,gpu.power_watts,100,uuid=GPU-1
0.0,gpu.energy_joules,0,uuid=GPU-1
0.5,gpu.energy_joules,50,uuid=GPU-1
"""


def test_without_a_gpu_it_says_so(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """No figure, since nothing was measured, and so none that falls short."""
    import torch

    from benchmarks import gpu

    for version, why in ((None, "this PyTorch is made without CUDA"), ("13.0", "PyTorch finds no CUDA GPU")):
        monkeypatch.setattr(torch.version, "cuda", version)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        assert gpu.run() == []
        assert capsys.readouterr().out == f"gpu: not measured: {why}\n"


def test_steps_are_counted_and_recorded(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """On a CPU all three kinds of turns keep some rate, and every loss is recorded as what it was."""
    import torch

    from benchmarks import gpu

    steps = gpu._steps(torch.device("cpu"), 8, tmp_path, rounds=2, seconds=0.01)
    assert {kind: len(rates) for kind, rates in steps.rates.items()} == dict.fromkeys(gpu.KINDS, 2)
    assert (steps.missing, steps.differing) == (0, 0)
    figures = gpu._judged(steps, "tiny layers", least=None)
    assert all(figure.ok for figure in figures)
    assert "tiny layers" in capsys.readouterr().out


@pytest.mark.slow
def test_a_metered_training_and_its_trace(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Samples are counted, their cost is that of the sampler's thread, and what was shown becomes a trace."""
    import torch

    from benchmarks import gpu

    played = tmp_path / "played.csv"
    played.write_text(TRACE)
    metered = gpu._meter(
        torch.device("cpu"), tmp_path / "runs", seconds=1.2, every=0.1, width=8, devices=f"replay:{played}"
    )
    assert 5 <= metered.samples <= 30
    assert metered.seconds >= 1.2
    assert [figure.unit for figure in gpu._cost(metered)] == ["%", "us"]
    assert metered.record.info.outcome == "finished"
    assert [float(value) for _, columns in metered.record.find("train.epoch") for value in columns.value] == [
        *range(1, gpu.EPOCHS + 1)
    ]
    assert gpu._energies(metered.record) == []
    kept = tmp_path / "kept.csv"
    gpu._keep(metered.record, str(kept), "made up")
    assert "made up, recorded" in ReplayDevice(kept).describe()[0]
    gpu._keep(metered.record, str(kept), "made up")
    assert "exists already" in capsys.readouterr().out


def test_nothing_metered_has_no_cost(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Where the driver is missing, the reason is said and no figure is made up."""
    import torch

    from benchmarks import gpu

    absent = f"replay:{tmp_path / 'nowhere.csv'}"
    metered = gpu._meter(torch.device("cpu"), tmp_path / "runs", seconds=0.3, every=0.1, width=8, devices=absent)
    assert gpu._cost(metered) == []
    assert gpu._energies(metered.record) == []
    assert "nowhere.csv" in capsys.readouterr().out
