"""Two ranks that no launcher started and that the environment knows nothing of: torch.multiprocessing.spawn."""

from __future__ import annotations

import sys
from pathlib import Path

import torch.distributed as dist
from torch.multiprocessing.spawn import spawn

import mlops


def train(rank: int, meet: str) -> None:
    """Be a rank."""
    dist.init_process_group("gloo", init_method=f"file://{meet}", rank=rank, world_size=2)
    with mlops.Run("spawned") as run, run.epoch():
        run.log({"train.loss": float(rank)})
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    meeting = str(Path(sys.argv[1]) / "meet")
    spawn(train, (meeting,), nprocs=2)  # type: ignore[no-untyped-call] # torch says nothing of it
