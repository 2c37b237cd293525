"""Trains nothing, as two ranks of plain PyTorch: what torchrun starts in test_torchrun."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

import torch
import torch.distributed as dist

import mlops

how, folder = sys.argv[1], Path(sys.argv[2])
alone = "alone" in how
if not alone and "late" not in how:
    dist.init_process_group("gloo")
run = mlops.Run("plain")
if "late" in how:
    dist.init_process_group("gloo")
assert run.rank is not None
(folder / f"pid{run.rank}").write_text(str(os.getpid()))
with run:
    for number in range(2):
        with run.epoch() as epoch:
            for batch in run.watch(range(10)):
                loss = torch.tensor([float(10 * number + batch), 0.0])
                if not alone:
                    dist.all_reduce(loss)
                    loss /= 2
                run.log({"train.loss": loss[0] + run.rank})
            epoch.log({"valid.loss": float(number)})
    if "raise" in how and run.rank == 1:
        raise RuntimeError("boom")
    if "kill" in how and run.rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    if "wait" in how or "raise" in how or "kill" in how:
        (folder / f"waits{run.rank}").touch()
        while True:
            time.sleep(0.01)
if not alone:
    dist.destroy_process_group()
