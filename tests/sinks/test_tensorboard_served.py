"""A real TensorBoard reads what a run writes, while it is written, and answers over HTTP."""

from __future__ import annotations

import json
import sys
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mlops import Run
from tests.testbed.processes import Process, free_port, wait_for

pytestmark = pytest.mark.slow


class TensorBoard:
    """A TensorBoard that looks into a folder every second, until it is closed.

    Args:
        logdir: the folder.
        folder: for its own log.
        options: further ones.
    """

    def __init__(self, logdir: Path, folder: Path, *options: str) -> None:
        self._port = free_port()
        where = [f"--logdir={logdir}", "--host=127.0.0.1", f"--port={self._port}", "--reload_interval=1"]
        program = Path(sys.executable).with_name("tensorboard")
        self._process = Process(
            "tensorboard", [program, *where, *options], folder / "tensorboard.log", self._is_ready, grace=10.0
        )
        self._process.start()

    def get(self, path: str, body: object = None, **query: str) -> Any:
        """What is answered there; ``None`` for an error."""
        request = urllib.request.Request(
            f"http://127.0.0.1:{self._port}{path}?{urllib.parse.urlencode(query)}",
            None if body is None else json.dumps(body).encode(),
            {"Content-Type": "application/json"},
        )
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310 - http, as made above
                return json.load(answer)
        except OSError:
            return None

    def scalars(self, run: str, tag: str) -> list[list[Any]]:
        """A tag's times, steps and values."""
        return self.get("/data/plugin/scalars/scalars", run=run, tag=tag) or []

    def sessions(self) -> dict[str, Any]:
        """The trainings of the hparams page, by name."""
        every = ["STATUS_UNKNOWN", "STATUS_SUCCESS", "STATUS_FAILURE", "STATUS_RUNNING"]
        body = {"allowedStatuses": every, "colParams": [], "startIndex": 0, "sliceSize": 100}
        answer = self.get("/data/plugin/hparams/session_groups", body)
        return {group["name"]: group for group in answer["sessionGroups"]}

    def close(self) -> None:
        """End it."""
        self._process.stop()

    def _is_ready(self) -> bool:
        return self.get("/data/environment") is not None


@pytest.fixture(params=["--load_fast=auto", "--load_fast=false"])
def tensorboard(request: pytest.FixtureRequest, tmp_path: Path, runs_dir: Path) -> Iterator[TensorBoard]:
    """TensorBoard with its data server, which is its default, and with its reader in Python, which is elsewhere."""
    runs_dir.mkdir()
    running = TensorBoard(runs_dir, tmp_path, request.param)
    yield running
    running.close()


def test_tensorboard_follows_a_run(tensorboard: TensorBoard, runs_dir: Path) -> None:
    """Scalars while they come, nan among them; two GPUs apart; parameters and how it ended on the hparams page."""
    parameters = {"lr": 0.1, "arch": "resnet18", "amp": True, "odd": float("nan")}
    with Run("digits", sinks=["tensorboard:"], devices=[], runs_dir=runs_dir, parameters=parameters) as run:
        for uuid in ("GPU-1", "GPU-2"):
            run.series("gpu.power_watts", {"uuid": uuid})(300.0)
        run.log({"train.loss": 0.5}, step=10, time=1.5)
        wait_for(lambda: tensorboard.scalars(run.id, "train/loss") == [[1.5, 10, 0.5]], 60, "the first loss is shown")
        run.log({"train.loss": float("nan")}, step=20, time=2.5)
        both = [[1.5, 10, 0.5], [2.5, 20, "NaN"]]
        wait_for(lambda: tensorboard.scalars(run.id, "train/loss") == both, 60, "the second loss is shown")
        tags = tensorboard.get("/data/plugin/scalars/tags")[run.id]
        assert set(tags) >= {"train/loss", "gpu/power_watts/uuid=GPU-1", "gpu/power_watts/uuid=GPU-2"}
    with Run("other", sinks=["tensorboard:"], devices=[], runs_dir=runs_dir, parameters={"dropout": 0.5}) as other:
        other.log({"train.loss": 0.25})

    def ends() -> set[str]:
        return {session["status"] for group in tensorboard.sessions().values() for session in group["sessions"]}

    wait_for(lambda: set(tensorboard.sessions()) == {run.id, other.id}, 60, "both runs are on the hparams page")
    wait_for(lambda: ends() == {"STATUS_SUCCESS"}, 60, "how they ended is on the hparams page")
    sessions = tensorboard.sessions()
    assert sessions[run.id]["hparams"] == {"lr": 0.1, "arch": "resnet18", "amp": True, "odd": "nan"}
    assert sessions[other.id]["hparams"] == {"dropout": 0.5}
    assert [
        metric["value"] for metric in sessions[other.id]["metricValues"] if metric["name"]["tag"] == "train/loss"
    ] == [0.25]
    experiment = tensorboard.get("/data/plugin/hparams/experiment", {})
    assert {info["name"] for info in experiment["hparamInfos"]} == {"lr", "arch", "amp", "odd", "dropout"}
