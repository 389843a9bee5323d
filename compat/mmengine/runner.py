"""``mmengine.runner``."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch.utils.data import DataLoader

from trainwright.compat.mmengine._strategy import FlexibleRunner
from trainwright.compat.mmengine.checkpoints import (
    DEFAULT_CACHE_DIR,
    ENV_MMENGINE_HOME,
    ENV_XDG_CACHE_HOME,
    CheckpointLoader,
    _get_mmengine_home,
    _load_checkpoint,
    _load_checkpoint_to_model,
    _load_checkpoint_with_prefix,
    find_latest_checkpoint,
    get_state_dict,
    load_checkpoint,
    load_state_dict,
    save_checkpoint,
    weights_to_cpu,
)
from trainwright.engine import (
    BaseLoop,
    EpochBasedTrainLoop,
    IterBasedTrainLoop,
    LogProcessor,
    Priority,
    Runner,
    TestLoop,
    ValLoop,
    autocast,
    get_priority,
)
from trainwright.engine.distributed import get_rank, sync_random_seed
from trainwright.engine.random_streams import seed_all
from trainwright.engine.run.model_surgery import turn_on_activation_checkpointing


def set_random_seed(seed: int | None = None, deterministic: bool = False, diff_rank_seed: bool = False) -> int:
    """Seed Python, NumPy and PyTorch, and return the seed.

    Args:
        seed: the seed; if None, a random one, the same on all ranks.
        deterministic: only allow deterministic algorithms.
        diff_rank_seed: add the rank to the seed.
    """
    seed = sync_random_seed() if seed is None else seed
    seed += get_rank() if diff_rank_seed else 0
    seed_all(seed)
    if deterministic:
        torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = True, False
        torch.use_deterministic_algorithms(True)
    return seed


def calc_dynamic_intervals(
    start_interval: int, dynamic_interval_list: Sequence[tuple[int, int]] | None = None
) -> tuple[list[int], list[int]]:
    """Return the first steps of the intervals, beginning with 0, and the intervals."""
    changes = dynamic_interval_list or ()
    return [0, *(step for step, _ in changes)], [start_interval, *(interval for _, interval in changes)]


class _InfiniteDataloaderIterator:
    """Endless passes over a data loader, for training loops copied from MMEngine."""

    def __init__(self, dataloader: DataLoader[Any]) -> None:
        self._dataloader = dataloader
        self._batches = iter(dataloader)
        self._epoch = 0

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        try:
            return next(self._batches)
        except StopIteration:
            self._epoch += 1
            if hasattr(self._dataloader.sampler, "set_epoch"):
                self._dataloader.sampler.set_epoch(self._epoch)
            self._batches = iter(self._dataloader)
            return next(self._batches)


def _get_batch_size(dataloader: Any) -> Any:
    if isinstance(dataloader, Mapping):
        return dataloader.get("batch_size") or dataloader["batch_sampler"]["batch_size"]
    return dataloader.batch_sampler.batch_size
