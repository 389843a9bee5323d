"""Per-sample random streams: a sampler that yields keys, and a dataset that seeds itself from them.

A key is an integer that packs the index of a sample, the epoch (or the pass of an endless sampler) and, for samplers
that repeat samples, the number of the visit. Keys are sent to data workers, so that persistent workers also see the
epoch. The random stream of a sample is derived from the seed of the run and the key, independently of the fetching
order and the number of workers.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext, suppress
from itertools import islice
from typing import Any

from torch.utils.data import Dataset, Sampler, get_worker_info

from trainwright.engine.data import traits
from trainwright.engine.data.faults import BadSamples, describe_sample, failed_sample
from trainwright.engine.data.own_generators import find_generators, seed_generators
from trainwright.engine.data.proxy import Proxy
from trainwright.engine.data.repeatability import WHEN, find_difference
from trainwright.engine.distributed import get_data_rank, get_data_size
from trainwright.engine.errors import TrainingError
from trainwright.engine.random_streams import extend_mix, mix, preserve_python_rng, seed_cpu_generators
from trainwright.engine.records.logger import get_logger

# Limits: 10^12 samples, 16 million epochs, and 10^12 visits, which are 10^6 batches of 10^6 samples in an epoch.
_INDEX_BITS, _EPOCH_BITS, _OFFSET_BITS = 40, 24, 20
_INDEX_MASK, _EPOCH_MASK = (1 << _INDEX_BITS) - 1, (1 << _EPOCH_BITS) - 1


def pack_key(index: int, epoch: int, visit: int = 0) -> int:
    """Return the key of a sample."""
    return index + (epoch << _INDEX_BITS) + (visit << (_INDEX_BITS + _EPOCH_BITS))


def unpack_key(key: int) -> tuple[int, int]:
    """Return the index in a key, and the remaining bits as a number, which is unique per epoch and visit."""
    return key & _INDEX_MASK, key >> _INDEX_BITS


class DatasetProxy(Proxy, Dataset[Any]):
    """A proxy for a map-style dataset."""

    def __len__(self) -> int:
        return len(self._inner)

    def __getitem__(self, index: int) -> Any:
        return self._inner[index]


class SeededDataset(DatasetProxy):
    """A dataset that seeds the random generators for every sample, independently of process and fetching order.

    Its indices are the keys from :class:`PositionedSampler`. A dataset that returns whole batches has one random stream
    per batch, that of the first sample.

    Args:
        dataset: a map-style dataset.
        seed: seed of the run.
        bad_samples: records samples that raise an error, each replaced by the next one; if None, errors propagate.
        checked: whether to load no sample twice; otherwise a few are, and a warning is logged if these differ.
    """

    checked: bool
    _epoch: int
    _generators: list[Any]
    _loaded: int

    def __init__(self, dataset: Any, seed: int, bad_samples: BadSamples | None = None, *, checked: bool = True) -> None:
        own: dict[str, Any] = {"_generators": [], "_epoch": -1, "_loaded": 0}
        super().__init__(dataset, _seed=seed, _bad_samples=bad_samples, checked=checked, **own)

    def __getitem__(self, key: int) -> Any:
        key = key if key >= 0 else key + len(self._inner)  # from the end
        return self._fetch_good([key], by_batch=False)[0]

    def __getitems__(self, keys: list[int]) -> Any:
        return self._fetch_good(keys, by_batch=traits.fetches_batches(self._inner))

    def _fetch_good(self, keys: list[int], by_batch: bool) -> Any:
        """Fetch a batch, replacing bad samples if allowed."""
        try:
            return self._fetch_keys(keys, by_batch)
        except Exception:
            if self._bad_samples is None:
                raise
        return self._fetch_keys([self._good_key(key, by_batch) for key in keys], by_batch)

    def _fetch_keys(self, keys: list[int], by_batch: bool) -> Any:
        indices = [key & _INDEX_MASK for key in keys]  # like unpack_key(), without a call per sample
        if by_batch:
            return self._fetch(self._inner.__getitems__, keys[:1], [indices])[0]
        return self._fetch(self._inner.__getitem__, keys, indices)

    def _good_key(self, key: int, by_batch: bool) -> int:
        """Return the key of a sample, or of the next one that can be loaded.

        Raises:
            TrainingError: the number of consecutive bad samples exceeds the limit.
        """
        first, _ = unpack_key(key)
        index, base = first, key - first
        bad: set[int] = set()
        while len(bad) <= self._bad_samples.limit:
            try:
                self._fetch_keys([base + index], by_batch)
                return base + index
            except Exception as error:
                name, number = failed_sample(error, self._inner, index)
                text = f"{name}: {type(error).__name__}: {error}"
                if number in bad and index == first:  # the whole dataset
                    break
                self._bad_samples.add(number, text)
                bad.add(number)
                index = (index + 1) % len(self._inner)
        lines = "\n".join(f"  {text}" for text in dict(self._bad_samples.take_reports()).values())
        raise TrainingError(
            f"more than skip_bad_samples={self._bad_samples.limit} samples could not be loaded:\n{lines}"
        )

    def _fetch(self, get: Callable[[Any], Any], keys: list[int], requests: Sequence[Any]) -> list[Any]:
        """Call ``get`` with each request, after seeding the generators from its key."""
        seeded = not traits.is_deterministic(self._inner)
        fetched: list[Any] = []
        epoch_mixed, state, own = -1, 0, []
        try:
            with preserve_python_rng() if seeded and get_worker_info() is None else nullcontext():
                for key, request in zip(keys, requests):
                    if seeded:
                        index, epoch = unpack_key(key)
                        if epoch != epoch_mixed:
                            epoch_mixed, state = epoch, mix(self._seed, epoch)
                            own = self._own_generators(epoch)
                        stream = extend_mix(state, index)
                        seed_cpu_generators(stream)
                        if own:
                            seed_generators(own, stream)
                    fetched.append(get(request))
        except Exception as error:
            request = requests[len(fetched)]
            if isinstance(request, int):
                error.add_note(f"while loading {describe_sample(self._inner, request)}")
            else:
                error.add_note(f"while loading the samples {request} of {type(self._inner).__name__}")
            raise
        if not self.checked and seeded:
            self._check(get, keys, requests, fetched)
        return fetched

    def _own_generators(self, epoch: int) -> list[Any]:
        """Return the generators that the dataset keeps itself, found in each epoch: hooks may replace transforms."""
        if (epoch := epoch & _EPOCH_MASK) != self._epoch:
            self._epoch, self._generators = epoch, find_generators(self._inner)
        return self._generators

    def _check(self, get: Callable[[Any], Any], keys: list[int], requests: Sequence[Any], fetched: list[Any]) -> None:
        """Load a sample for a second time, at a few moments, and warn if it differs."""
        before, self._loaded = self._loaded, self._loaded + len(keys)
        worker = get_worker_info()
        is_first = worker is None or worker.id == 0
        self.checked = not is_first or self._loaded >= WHEN[-1]
        if not is_first or not any(before < number <= self._loaded for number in WHEN):
            return
        index, epoch = unpack_key(keys[-1])
        stream = mix(self._seed, epoch, index)
        place = None
        with preserve_python_rng(), suppress(Exception):  # a check must not stop a training
            seed_cpu_generators(stream)
            seed_generators(self._own_generators(epoch), stream)
            place = find_difference(fetched[-1], get(requests[-1]))
        if place is not None:
            self.checked = True
            get_logger().warning(
                "%s differs%s when it is loaded again with the same random numbers. Either the dataset or a transform "
                "depends on the samples loaded before, or draws random numbers that are not seeded (random, "
                "numpy.random, torch and generators in attributes are). A resumed run will get other samples.",
                describe_sample(self._inner, index), f" in {place!r}" if place else "",
            )  # fmt: skip


class PositionedSampler(Proxy, Sampler[Any]):
    """A wrapper of a sampler or batch sampler that can start in the middle of an epoch, and yields keys.

    Items before the start are skipped without loading samples, and so are the first ``skip`` of all ranks; see
    :mod:`trainwright.datasets.samplers`. Custom samplers may have the attributes and methods in
    :class:`~trainwright.engine.data.traits.SamplerTraits`.
    """

    epoch: int
    start: int
    skip: int

    def __init__(self, sampler: Any, dataset: Any) -> None:
        super().__init__(sampler, _dataset=dataset, epoch=0, start=0, skip=0)

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch of the next iteration."""
        self.epoch = epoch
        traits.set_epoch(self._inner, epoch)

    def __len__(self) -> int:
        return len(self._inner)

    def __iter__(self) -> Iterator[Any]:
        # Lazily, so that only a used iterator resets `start`: with workers, PyTorch creates two and discards the first.
        yield from self._keys()

    def _keys(self) -> Iterator[Any]:
        start, skip, self.start, self.skip = self.start, self.skip, 0, 0
        items = self.items_from(start, skip)
        if traits.is_deterministic(self._dataset):  # then an index is a sufficient key
            return items
        first, step = skip + get_data_rank(), get_data_size()
        if self.endless:  # passes take the place of epochs
            length = len(self._inner)
            return (pack_key(index, (first + place * step) // length) for place, index in enumerate(items, start))
        if self.repeats:
            return (self._keys_of_visit(item, first, place) for place, item in enumerate(items, start))
        base = pack_key(0, self.epoch)
        return (base + item if isinstance(item, int) else [base + index for index in item] for item in items)

    def _keys_of_visit(self, item: Any, first: int, place: int) -> Any:
        """Return the key of an index, or the keys of a batch, at position ``place`` of this rank after ``first``."""
        if isinstance(item, int):
            return pack_key(item, self.epoch, first + place * get_data_size())
        places = enumerate(item, place << _OFFSET_BITS)
        return [self._keys_of_visit(index, first, place_of_index) for place_of_index, index in places]

    @property
    def pass_size(self) -> int | None:
        """Number of samples in a pass of all ranks, without padding; None if the sampler has no ``skip``."""
        return len(self._dataset) if traits.can_skip(self._inner) else None

    @property
    def endless(self) -> bool:
        """Whether the sampler never ends."""
        return bool(getattr(self._inner, "endless", False))

    @property
    def repeats(self) -> bool:
        """Whether a sample may occur several times per epoch."""
        inner = getattr(self._inner, "sampler", None)
        return bool(getattr(self._inner, "repeats", False) or getattr(inner, "repeats", False))

    def items_from(self, start: int, skip: int = 0) -> Iterator[Any]:
        """Return the inner sampler's items in the current epoch after ``skip`` of all ranks, from ``start`` on."""
        if skip:
            return iter(self._inner.iter_from(start, skip=skip))
        if hasattr(self._inner, "iter_from"):
            return iter(self._inner.iter_from(start))
        return islice(iter(self._inner), start, None)
