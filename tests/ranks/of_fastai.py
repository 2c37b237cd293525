"""A training of fastai's in two ranks: what torchrun starts in test_torchrun."""

from __future__ import annotations

import torch.distributed as dist
from fastai.distributed import DistributedDL, DistributedTrainer

from mlops.callbacks.fastai import MonascaCallback
from tests.callbacks.small import learner


class OverGloo(DistributedDL):  # type: ignore[misc] # fastai says nothing of its types
    """fastai sends the order of the samples by way of CUDA alone; everything else of it works without."""

    def _broadcast(self, order: list[int], rank: int) -> list[int]:
        sent = [order]
        dist.broadcast_object_list(sent, rank)
        return sent[0]


class Trainer(DistributedTrainer):  # type: ignore[misc] # see above
    """With that loader."""

    def _wrap_dl(self, loader: object) -> object:
        return loader if isinstance(loader, OverGloo) else OverGloo(loader, device=self.learn.model.device)


learn = learner([MonascaCallback("fastai"), Trainer(sync_bn=False, cpu=True)])
learn.fit(2, lr=0.1)
dist.destroy_process_group()
