"""A training of fastai's in two ranks: what torchrun starts in test_torchrun."""

from __future__ import annotations

import torch.distributed as dist
from fastai.distributed import DistributedTrainer

from mlops.callbacks.fastai import MonascaCallback
from tests.callbacks.small import learner

learn = learner([MonascaCallback("fastai"), DistributedTrainer(sync_bn=False, cpu=True)])
learn.fit(2, lr=0.1)
dist.destroy_process_group()
