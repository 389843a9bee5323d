"""``mmengine.dataset``."""

from trainwright.datasets import (
    BaseDataset,
    ClassBalancedDataset,
    Compose,
    ConcatDataset,
    DefaultSampler,
    InfiniteSampler,
    RepeatDataset,
    default_collate,
    force_full_init,
    pseudo_collate,
    worker_init_fn,
)
from trainwright.engine.registry import FUNCTIONS

COLLATE_FUNCTIONS = FUNCTIONS
