"""Batch samplers that compose batches by class: episodes of few-shot learning, and P classes with K samples each.

Each batch is a pure function of (seed, epoch, number of the batch), so a run resumes at any batch, and the ranks have
different ones.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch.utils.data import Sampler

from trainwright.datasets.samplers import members_by_class
from trainwright.engine.data.names import names_of
from trainwright.engine.distributed import get_data_rank, get_data_size
from trainwright.engine.errors import did_you_mean
from trainwright.engine.random_streams import mix
from trainwright.engine.registry import DATA_SAMPLERS


class _ByClass(Sampler[list[int]]):
    """Base class: batches with a number of classes, and a number of samples of each.

    Args:
        sampler: the sampler that the data loader is given; only its dataset and seed are used.
        classes: number of classes per batch.
        samples: number of samples of each class.
        num_batches: number of batches per epoch, over all ranks; by default, about as many as show each sample once.
        batch_size: that of the data loader, which must not contradict the number of samples in a batch.
        with_replacement: repeat samples of classes that have too few; otherwise, such classes are an error.
        only: names or numbers of the classes to draw from; all if None.
    """

    repeats = True  # a sample may occur in several batches of an epoch

    def __init__(
        self,
        sampler: Any,
        classes: int,
        samples: int,
        num_batches: int | None,
        batch_size: int | None,
        with_replacement: bool,
        only: Sequence[str | int] | None,
    ) -> None:
        name = type(self).__name__
        if batch_size not in (None, 1, classes * samples):
            raise ValueError(f"{name} makes batches of {classes} × {samples} samples: remove batch_size={batch_size}")
        if classes < 1 or samples < 1 or (num_batches is not None and num_batches < 1):
            raise ValueError(f"{name}: the numbers of classes, samples and batches must be positive")
        self.sampler = sampler
        self.batch_size = classes * samples
        self.rank, self.world_size = get_data_rank(), get_data_size()
        self._classes, self._samples = classes, samples
        self.seed = int(getattr(sampler, "seed", None) or 0)
        self.epoch = 0
        members = members_by_class(sampler.dataset)
        if only is not None:
            names = names_of(getattr(sampler.dataset, "metainfo", None), "classes")
            members = {label: members[label] for label in _labels(only, names, members, name)}
        if num_batches is None:
            num_batches = max(1, sum(map(len, members.values())) // self.batch_size)
        self.num_batches = -(-num_batches // self.world_size)
        few = {label: len(indices) for label, indices in members.items() if len(indices) < samples}
        if few and not with_replacement:
            label, number = next(iter(few.items()))
            raise ValueError(f"{name} needs {samples} samples of each class, but class {label} has {number}")
        if len(members) < classes:
            has = f"{type(sampler.dataset).__name__} has" if only is None else "there are"
            raise ValueError(f"{name} needs {classes} classes, but {has} {len(members)}")
        self._members = [torch.tensor(indices) for indices in members.values()]

    def __len__(self) -> int:
        return self.num_batches

    def __iter__(self) -> Iterator[list[int]]:
        return self.iter_from(0)

    def iter_from(self, start: int) -> Iterator[list[int]]:
        """Return this rank's batches of the current epoch from ``start`` on."""
        for number in range(start, self.num_batches):
            generator = torch.Generator().manual_seed(
                mix(self.seed, self.epoch, number * self.world_size + self.rank) >> 1
            )
            yield self._batch(generator)

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch of the next iteration."""
        self.epoch = epoch

    def _batch(self, generator: torch.Generator) -> list[int]:
        """Return the indices of a batch: the samples of the first class, then those of the second, and so on."""
        chosen = torch.randperm(len(self._members), generator=generator)[: self._classes]
        batch: list[int] = []
        for label in chosen.tolist():
            members = self._members[label]
            order = torch.randperm(len(members), generator=generator)
            if len(order) < self._samples:
                more = torch.randint(len(members), (self._samples - len(order),), generator=generator)
                order = torch.cat([order, more])
            batch += members[order[: self._samples]].tolist()
        return batch


@DATA_SAMPLERS.register_module()
class PKBatchSampler(_ByClass):
    """A batch sampler for metric learning: P classes, and K samples of each (Hermans et al. 2017).

    Source: "In Defense of the Triplet Loss for Person Re-Identification", https://arxiv.org/abs/1703.07737.

    Args:
        sampler: sampler of indices, with the sampled dataset as its attribute ``dataset``, which implements
            ``get_cat_ids(index)``. Only its dataset and seed are used.
        num_classes: P, the number of classes in a batch.
        num_samples: K, the number of samples of each; those of smaller classes are repeated.
        num_batches: number of batches per epoch, over all ranks; by default, about as many as show each sample once.
        batch_size: that of the data loader; if set, it must be P × K.
        classes: names or numbers of the classes to draw from, such as those that are not kept for the test; all if
            None.

    Raises:
        ValueError: a number is not positive, ``batch_size`` is another one, the dataset has fewer classes, or no
            samples of one of ``classes``.
    """

    def __init__(
        self,
        sampler: Any,
        num_classes: int,
        num_samples: int,
        num_batches: int | None = None,
        batch_size: int | None = None,
        classes: Sequence[str | int] | None = None,
    ) -> None:
        super().__init__(
            sampler, num_classes, num_samples, num_batches, batch_size, with_replacement=True, only=classes
        )


@DATA_SAMPLERS.register_module()
class EpisodeBatchSampler(_ByClass):
    """A batch sampler of episodes for few-shot learning (Vinyals et al. 2016, Snell et al. 2017).

    A batch has the samples of N classes, class by class; of each, first the K samples of the support set, then those to
    be classified. Source: "Prototypical Networks for Few-shot Learning", https://arxiv.org/abs/1703.05175.

    Args:
        sampler: sampler of indices, with the sampled dataset as its attribute ``dataset``, which implements
            ``get_cat_ids(index)``. Only its dataset and seed are used.
        num_ways: N, the number of classes in an episode.
        num_shots: K, the number of samples of each class in the support set.
        num_queries: the number of samples of each class to classify.
        num_episodes: number of episodes per epoch, over all ranks.
        batch_size: that of the data loader; if set, it must be N × (K + ``num_queries``).
        classes: names or numbers of the classes to draw from, such as those that are not kept for the test; all if
            None.

    Raises:
        ValueError: a number is not positive, ``batch_size`` is another one, the dataset has fewer classes, a class has
            too few samples, or one of ``classes`` none.
    """

    def __init__(
        self,
        sampler: Any,
        num_ways: int,
        num_shots: int,
        num_queries: int,
        num_episodes: int = 100,
        batch_size: int | None = None,
        classes: Sequence[str | int] | None = None,
    ) -> None:
        samples = num_shots + num_queries
        super().__init__(sampler, num_ways, samples, num_episodes, batch_size, with_replacement=False, only=classes)
        self.num_ways, self.num_shots, self.num_queries = num_ways, num_shots, num_queries


def _labels(
    only: Sequence[str | int], names: Sequence[str], members: Mapping[int, Sequence[int]], sampler: str
) -> list[int]:
    """Return the labels of the classes to draw from, in ascending order."""
    labels = set()
    for wanted in only:
        label = names.index(wanted) if wanted in names else wanted
        if label not in members:
            known = names or [str(label) for label in sorted(members)]
            hint = did_you_mean(str(wanted), names) or f"the classes are {', '.join(known)}"
            raise ValueError(f"{sampler}: the class {wanted!r} has no samples: {hint}")
        labels.add(int(label))
    return sorted(labels)
