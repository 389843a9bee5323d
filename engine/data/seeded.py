"""Random streams by sample: the keys that a sampler yields, and the dataset that they seed."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from itertools import islice
from typing import Any

from torch.utils.data import Dataset, Sampler, TensorDataset, get_worker_info

from trainwright.engine.data.faults import BadSamples, describe_sample, innermost
from trainwright.engine.distributed import get_rank, get_world_size
from trainwright.engine.errors import TrainingError
from trainwright.engine.random_streams import kept_host_streams, mix, mix_in, seed_host

_INDEX_BITS = 40
_INDEX_MASK = (1 << _INDEX_BITS) - 1
_EPOCH_BITS = 24
_NO_CONTEXT = nullcontext()


class DatasetProxy(Dataset[Any]):
    """Stands for another dataset; every attribute that is not its own is that one's, for reading and for writing."""

    _inner: Any

    def __init__(self, dataset: Any, **attributes: Any) -> None:
        self.__dict__.update(_inner=dataset, **attributes)

    def __len__(self) -> int:
        return len(self._inner)

    def __getitem__(self, index: int) -> Any:
        return self._inner[index]

    def __getattr__(self, name: str) -> Any:
        if "_inner" not in self.__dict__:  # while being unpickled
            raise AttributeError(name)
        return getattr(self._inner, name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._inner, name, value)


class SeededDataset(DatasetProxy):
    """Gives every sample a random stream of its own, whoever fetches it and in whatever order.

    It is asked with keys instead of indices: the epoch in the upper bits, the index in the lower ones, as
    :class:`PositionedSampler` yields them; so workers that live longer than an epoch know it too. The stream of a
    sample derives from (seed, epoch, index), and where a sampler repeats indices within an epoch, which visit it is
    stands above the epoch; a dataset that hands over whole batches has one stream a batch, from the
    first index.

    Args:
        dataset: a map-style dataset.
        seed: seed of the run.
        bad_samples: takes note of samples that raise, which are then replaced by the next ones; if None, they end
            the run.
    """

    def __init__(self, dataset: Any, seed: int, bad_samples: BadSamples | None = None) -> None:
        super().__init__(dataset, _seed=seed, _bad_samples=bad_samples)

    def __getitem__(self, key: int) -> Any:
        return self._fetch_good([key], by_batch=False)[0]

    def __getitems__(self, keys: list[int]) -> Any:
        return self._fetch_good(keys, by_batch=fetches_batches(self._inner))

    def _fetch_good(self, keys: list[int], by_batch: bool) -> Any:
        """Returns what is asked for, with others in place of bad samples."""
        try:
            return self._fetch_keys(keys, by_batch)
        except Exception:
            if self._bad_samples is None:
                raise
        return self._fetch_keys([self._good_key(key, by_batch) for key in keys], by_batch)

    def _fetch_keys(self, keys: list[int], by_batch: bool) -> Any:
        indices = [key & _INDEX_MASK for key in keys]
        if by_batch:
            return self._fetch(self._inner.__getitems__, keys[:1], [indices])[0]
        return self._fetch(self._inner.__getitem__, keys, indices)

    def _good_key(self, key: int, by_batch: bool) -> int:
        """Returns the key of a sample, or of the next one that does not raise.

        Raises:
            TrainingError: as many as the limit allows, one after the other, raise, and so does the next one.
        """
        index = key & _INDEX_MASK
        base = key - index
        bad: set[int] = set()
        while len(bad) <= self._bad_samples.limit:
            try:
                self._fetch_keys([base + index], by_batch)
                return base + index
            except Exception as error:
                text = f"{describe_sample(self._inner, index)}: {type(error).__name__}: {error}"
                number = innermost(self._inner, index)[2]
                if number in bad and index == key & _INDEX_MASK:  # all of the dataset
                    break
                self._bad_samples.add(number, text)
                bad.add(number)
                index = (index + 1) % len(self._inner)
        lines = "\n".join(f"  {text}" for text in dict(self._bad_samples.take_reports()).values())
        limit = self._bad_samples.limit
        raise TrainingError(f"more than skip_bad_samples={limit} samples could not be loaded:\n{lines}")

    def _fetch(self, get: Callable[[Any], Any], keys: list[int], requests: Sequence[Any]) -> list[Any]:
        """Returns what ``get`` gives for each request, with the random streams of its key."""
        seeded = not _is_deterministic(self._inner)
        fetched: list[Any] = []
        epoch_mixed, state = -1, 0
        try:
            with kept_host_streams() if seeded and get_worker_info() is None else _NO_CONTEXT:
                for key, request in zip(keys, requests):
                    if seeded:
                        epoch = key >> _INDEX_BITS
                        if epoch != epoch_mixed:
                            epoch_mixed, state = epoch, mix(self._seed, epoch)
                        seed_host(mix_in(state, key & _INDEX_MASK))
                    fetched.append(get(request))
        except Exception as error:
            request = requests[len(fetched)]
            if isinstance(request, int):
                error.add_note(f"while loading {describe_sample(self._inner, request)}")
            else:
                error.add_note(f"while loading the samples {request} of {type(self._inner).__name__}")
            raise
        return fetched


class PositionedSampler(Sampler[Any]):
    """A sampler, or a batch sampler, that can start in the middle of an epoch.

    Only indices are skipped, no sample is loaded; a sampler with ``iter_from(start)`` skips nothing at all. Every other
    attribute is the inner sampler's. What it yields are keys for :class:`SeededDataset`. A sampler that visits a sample
    several times an epoch, each time with other random numbers, says so by an attribute ``repeats``.

    Args:
        sampler: yields indices, or lists of them.
        dataset: what they are indices of.
    """

    def __init__(self, sampler: Any, dataset: Any) -> None:
        self._sampler = sampler
        self._dataset = dataset
        self.epoch = 0
        self.start = 0

    def set_epoch(self, epoch: int) -> None:
        """Chooses the epoch that the next iteration yields."""
        self.epoch = epoch
        set_epoch(self._sampler, epoch)
        set_epoch(getattr(self._sampler, "sampler", None), epoch)

    def __len__(self) -> int:
        return len(self._sampler)

    def __iter__(self) -> Iterator[Any]:
        # Only the first item consumes `start`: PyTorch's loader with workers makes two iterators, and uses the second.
        yield from self._keys()

    def _keys(self) -> Iterator[Any]:
        start, self.start = self.start, 0
        items = self.items_from(start)
        if _is_deterministic(self._dataset):  # then an index will do for a key
            return items
        if self.endless:  # it has passes instead of epochs
            each = len(self._sampler) / get_world_size()
            return ((int(place / each) << _INDEX_BITS) + index for place, index in enumerate(items, start))
        base = self.epoch << _INDEX_BITS
        if self.repeats:
            return (_key_of_visit(item, base, place) for place, item in enumerate(items, start))
        return (base + item if isinstance(item, int) else [base + index for index in item] for item in items)

    @property
    def endless(self) -> bool:
        """Whether the sampler never comes to an end (it says so by an attribute of this name)."""
        return bool(getattr(self._sampler, "endless", False))

    @property
    def repeats(self) -> bool:
        """Whether the sampler visits a sample several times an epoch (it says so by an attribute of this name)."""
        inner = getattr(self._sampler, "sampler", None)
        return bool(getattr(self._sampler, "repeats", False) or getattr(inner, "repeats", False))

    def items_from(self, start: int) -> Iterator[Any]:
        """Yields what the inner sampler yields in the current epoch, from position ``start``."""
        if hasattr(self._sampler, "iter_from"):
            return iter(self._sampler.iter_from(start))
        return islice(iter(self._sampler), start, None)

    def __getattr__(self, name: str) -> Any:
        if "_sampler" not in self.__dict__:  # while being unpickled
            raise AttributeError(name)
        return getattr(self._sampler, name)


def _key_of_visit(item: Any, base: int, place: int) -> Any:
    """Returns the key of an index, or those of a batch of them, that stand at a place of this rank's order."""
    if isinstance(item, int):
        visit = place * get_world_size() + get_rank()
        return base + item + (visit << (_INDEX_BITS + _EPOCH_BITS))
    return [_key_of_visit(index, base, (place << 20) + offset) for offset, index in enumerate(item)]


def set_epoch(sampler: Any, epoch: int) -> None:
    if hasattr(sampler, "set_epoch"):
        sampler.set_epoch(epoch)


def _is_deterministic(dataset: Any) -> bool:
    """Whether a sample never depends on random numbers: the dataset says so, or is of a kind that is known to be."""
    return bool(getattr(dataset, "deterministic", isinstance(dataset, TensorDataset)))


def fetches_batches(dataset: Any) -> bool:
    return bool(getattr(dataset, "fetches_batches", False))
