"""Samplers, which determine the order in which each rank visits the samples of a dataset.

Every order is a pure function of (seed, epoch), or of (seed, pass) for infinite samplers, so each sampler can start at
any position. ``iter_from(start, skip=done)`` leaves out the first ``done`` indices of all ranks together, divides only
the rest of the order among the ranks, and skips the first ``start`` of the indices of this rank. So a run can continue
on another number of ranks.
"""

from collections.abc import Iterator, Sequence, Sized
from itertools import islice
from typing import Any

import torch
from torch.utils.data import Sampler

from trainwright.engine.distributed import get_data_rank, get_data_size, sync_random_seed
from trainwright.engine.fidelity import reproduces_mmengine
from trainwright.engine.registry import DATA_SAMPLERS


class _EpochSampler(Sampler[int]):
    """Base class of samplers that divide each epoch among the ranks."""

    def __init__(self, dataset: Any, seed: int | None) -> None:
        self.rank = get_data_rank()
        self.world_size = get_data_size()
        self.dataset = dataset
        self.seed = sync_random_seed() if seed is None else seed
        self.epoch = 0
        self.num_samples = -(-_size_of(dataset) // self.world_size)

    def __len__(self) -> int:
        return self.num_samples

    def __iter__(self) -> Iterator[int]:
        return self._share(0)

    def iter_from(self, start: int, skip: int = 0) -> Iterator[int]:
        """Return this rank's indices of the current epoch after the first ``skip`` of all ranks, from ``start`` on."""
        return islice(self._share(skip) if skip else iter(self), start, None)

    def _share(self, skip: int) -> Iterator[int]:
        """Return this rank's indices of the current epoch, of which the first ``skip`` are not divided."""
        raise NotImplementedError

    def _end(self, skip: int) -> int:
        """Return the length of the order with padding, so that its rest is divided evenly."""
        return skip + -(-max(0, len(self.dataset) - skip) // self.world_size) * self.world_size

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch of the next iteration."""
        self.epoch = epoch


@DATA_SAMPLERS.register_module()
class DefaultSampler(_EpochSampler):
    """A sampler that visits every sample once per epoch and distributes samples over the ranks round-robin.

    Args:
        dataset: dataset to sample from; must not be empty.
        shuffle: shuffle the samples at every epoch instead of using the dataset's order.
        seed: random seed, the same on every rank; if None, the ranks agree on one.
        round_up: repeat the first samples so that all ranks get the same number; otherwise some ranks may get one
            less.

    Raises:
        ValueError: the dataset is empty.
    """

    def __init__(self, dataset: Sized, shuffle: bool = True, seed: int | None = None, round_up: bool = True) -> None:
        super().__init__(dataset, seed)
        self.shuffle = shuffle
        self.round_up = round_up
        if not round_up:
            self.num_samples = -(-(len(dataset) - self.rank) // self.world_size)
        self.total_size = self.num_samples * self.world_size if round_up else len(dataset)

    def _share(self, skip: int) -> Iterator[int]:
        size = len(self.dataset)
        order = _permutation(size, self.seed + self.epoch) if self.shuffle else torch.arange(size)
        end = self._end(skip) if self.round_up else size
        order = order.repeat(-(-end // size))
        return iter(order[skip + self.rank : end : self.world_size].tolist())


@DATA_SAMPLERS.register_module()
class InfiniteSampler(Sampler[int]):
    """A sampler that repeats the dataset infinitely and distributes samples over the ranks round-robin.

    The stream is a concatenation of passes over the dataset; pass ``n`` is shuffled with ``seed + n``. The first pass
    is the same as MMEngine's. Later passes differ, because MMEngine continues with the same generator, which makes it
    impossible to skip to a pass.

    Args:
        dataset: dataset to sample from; must not be empty.
        shuffle: shuffle every pass instead of using the dataset's order.
        seed: random seed, the same on every rank; if None, the ranks agree on one.

    Raises:
        ValueError: the dataset is empty.
    """

    endless = True

    def __init__(self, dataset: Sized, shuffle: bool = True, seed: int | None = None) -> None:
        self.rank = get_data_rank()
        self.world_size = get_data_size()
        self.dataset = dataset
        self.shuffle = shuffle
        self.seed = sync_random_seed() if seed is None else seed
        self.size = _size_of(dataset)

    def __iter__(self) -> Iterator[int]:
        return self.iter_from(0)

    def __len__(self) -> int:
        """Return the length of one pass over the dataset by all ranks together."""
        return self.size

    def iter_from(self, start: int, skip: int = 0) -> Iterator[int]:
        """Yield this rank's part of the stream after the first ``skip`` indices of all ranks, from ``start`` on."""
        if reproduces_mmengine():
            yield from islice(self._carried(), self.rank, None, self.world_size)
        position = skip + self.rank + start * self.world_size
        while True:
            pass_index, offset = divmod(position, self.size)
            order = _permutation(self.size, self.seed + pass_index) if self.shuffle else torch.arange(self.size)
            indices = order[offset :: self.world_size].tolist()
            yield from indices
            position += len(indices) * self.world_size

    def _carried(self) -> Iterator[int]:
        """Yield the stream of all ranks, in which each pass is shuffled by the generator of the one before."""
        generator = torch.Generator().manual_seed(self.seed)
        while True:
            order = torch.randperm(self.size, generator=generator) if self.shuffle else torch.arange(self.size)
            yield from order.tolist()

    def set_epoch(self, epoch: int) -> None:
        """Do nothing, because the stream is not divided into epochs."""


@DATA_SAMPLERS.register_module()
class ClassAwareSampler(_EpochSampler):
    """A sampler that visits all classes equally often, regardless of their number of samples.

    Source: Shen, Lin & Huang 2016, "Relay Backpropagation for Effective Learning of Deep CNNs".

    It cycles through the classes in random order, and through the samples of each class. An epoch has the length of
    the dataset.

    Args:
        dataset: dataset that implements ``get_cat_ids(index)``; must not be empty.
        seed: random seed, the same on every rank; if None, the ranks agree on one.
        num_sample_class: number of consecutive samples of a class, at least 1.

    Raises:
        ValueError: the dataset is empty, none of its samples has a class, or ``num_sample_class`` is below 1.
    """

    repeats = True

    def __init__(self, dataset: Any, seed: int | None = None, num_sample_class: int = 1) -> None:
        if num_sample_class < 1:
            raise ValueError(f"num_sample_class must be at least 1, not {num_sample_class}")
        super().__init__(dataset, seed)
        self.num_sample_class = num_sample_class
        self.members = members_by_class(dataset)

    def _share(self, skip: int) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self.seed + self.epoch)
        return islice(self._stream(generator), skip + self.rank, self._end(skip), self.world_size)

    def _stream(self, generator: torch.Generator) -> Iterator[int]:
        members = {label: _random_cycle(indices, generator) for label, indices in self.members.items()}
        for label in _random_cycle(list(self.members), generator):
            yield from islice(members[label], self.num_sample_class)


@DATA_SAMPLERS.register_module()
class RepeatAugSampler(_EpochSampler):
    """A sampler for repeated augmentation: visits each sample several times in a row, distributed over the ranks.

    Source: Hoffer et al. 2020, "Augment Your Batch", https://arxiv.org/abs/1901.09335. If the world size equals
    ``num_repeats``, each copy of a sample is on a different rank. An epoch has the length of the dataset, so it visits
    only ``1 / num_repeats`` of the samples. Every visit is augmented independently.

    Args:
        dataset: dataset to sample from; must not be empty.
        shuffle: shuffle the samples at every epoch instead of using the dataset's order.
        num_repeats: number of visits per sample, at least 1.
        seed: random seed, the same on every rank; if None, the ranks agree on one.

    Raises:
        ValueError: the dataset is empty, or ``num_repeats`` is below 1.
    """

    repeats = True

    def __init__(self, dataset: Sized, shuffle: bool = True, num_repeats: int = 3, seed: int | None = None) -> None:
        if num_repeats < 1:
            raise ValueError(f"num_repeats must be at least 1, not {num_repeats}")
        super().__init__(dataset, seed)
        self.shuffle = shuffle
        self.num_repeats = num_repeats

    def _share(self, skip: int) -> Iterator[int]:
        size = len(self.dataset)
        order = _permutation(size, self.seed + self.epoch) if self.shuffle else torch.arange(size)
        total = self._end(skip)
        visits = order[: -(-total // self.num_repeats)].repeat_interleave(self.num_repeats)
        visits = visits.repeat(-(-total // len(visits)))  # if there are more ranks than visits
        return iter(visits[skip + self.rank : total : self.world_size].tolist())


def _size_of(dataset: Sized) -> int:
    size = len(dataset)
    if size == 0:
        raise ValueError(f"{type(dataset).__name__} is empty: check its paths, filter_cfg and indices")
    return size


def _permutation(size: int, seed: int) -> torch.Tensor:
    return torch.randperm(size, generator=torch.Generator().manual_seed(seed))


def _random_cycle(items: Sequence[int], generator: torch.Generator) -> Iterator[int]:
    while True:
        for position in torch.randperm(len(items), generator=generator).tolist():
            yield items[position]


def members_by_class(dataset: Any) -> dict[int, list[int]]:
    """Return the indices of the samples of each class, in the order of the classes.

    Raises:
        ValueError: no sample has a class.
    """
    members: dict[int, list[int]] = {}
    for index in range(len(dataset)):
        for label in set(dataset.get_cat_ids(index)):
            members.setdefault(int(label), []).append(index)
    if not members:
        raise ValueError(
            f"no sample of {type(dataset).__name__} has a class: get_cat_ids() returned an empty list for all samples"
        )
    return dict(sorted(members.items()))


@DATA_SAMPLERS.register_module()
class AspectRatioBatchSampler(Sampler[list[int]]):
    """A batch sampler that groups landscape and portrait images into separate batches to reduce padding.

    The dataset's ``get_data_info`` must return ``width`` and ``height``. Square images are grouped with portraits. The
    remaining images of both groups are combined at the end of an epoch, so the number of batches does not depend on
    the order.

    Args:
        sampler: sampler of indices, with the sampled dataset as its attribute ``dataset``.
        batch_size: number of samples per batch.
        drop_last: drop the last batch if it is incomplete.

    Raises:
        ValueError: a sample has no ``width`` or ``height``.
    """

    def __init__(self, sampler: Any, batch_size: int, drop_last: bool = False) -> None:
        self.sampler = sampler
        self.batch_size = batch_size
        self.drop_last = drop_last

    def __iter__(self) -> Iterator[list[int]]:
        landscape: list[int] = []
        portrait: list[int] = []
        for index in self.sampler:
            info = self.sampler.dataset.get_data_info(index)
            if "width" not in info or "height" not in info:
                raise ValueError(f"sample {index} has no width or height, which AspectRatioBatchSampler requires")
            batch = landscape if info["width"] > info["height"] else portrait
            batch.append(index)
            if len(batch) == self.batch_size:
                yield batch[:]
                batch.clear()
        rest = landscape + portrait
        for start in range(0, len(rest), self.batch_size):
            batch = rest[start : start + self.batch_size]
            if len(batch) == self.batch_size or not self.drop_last:
                yield batch

    def __len__(self) -> int:
        return len(self.sampler) // self.batch_size if self.drop_last else -(-len(self.sampler) // self.batch_size)
