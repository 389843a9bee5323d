"""Data loaders: built from a config, seeded by sample, and able to start at any position."""

import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from itertools import islice
from typing import Any

from torch import Generator, Tensor
from torch.utils.data import BatchSampler, DataLoader, Dataset, IterableDataset, Sampler, TensorDataset, get_worker_info

from trainwright.engine.building import note_errors, origin_of, resolve
from trainwright.engine.data.faults import (
    BadSamples,
    CollateWithReports,
    Restarts,
    describe_sample,
    innermost,
    unhook_child_signal,
)
from trainwright.engine.data.streams import SeededStream, StreamLoader
from trainwright.engine.distributed import get_rank, get_world_size
from trainwright.engine.errors import ConfigError, TrainingError
from trainwright.engine.records.logger import get_logger
from trainwright.engine.registry import DATA_SAMPLERS, DATASETS, FUNCTIONS
from trainwright.engine.run.state import kept_host_streams, mix, mix_in, seed_host

_INDEX_BITS = 40
_INDEX_MASK = (1 << _INDEX_BITS) - 1
_EPOCH_BITS = 24
_NO_CONTEXT = nullcontext()


class _DatasetProxy(Dataset[Any]):
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


class SeededDataset(_DatasetProxy):
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
        return self._fetch_good(keys, by_batch=_fetches_batches(self._inner))

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


class FirstSamples(_DatasetProxy):
    """The first samples of a dataset.

    Args:
        dataset: a map-style dataset.
        length: how many samples.
    """

    def __init__(self, dataset: Any, length: int) -> None:
        super().__init__(dataset, _length=min(length, len(dataset)))

    def __len__(self) -> int:
        return self._length  # type: ignore[no-any-return]  # set through __dict__


class StackedTensors(_DatasetProxy):
    """PyTorch's ``TensorDataset``, which also hands over whole batches: what stacking its samples would give.

    Args:
        dataset: the ``TensorDataset``.
    """

    fetches_batches = True
    deterministic = True

    def __getitems__(self, indices: list[int]) -> list[Tensor]:
        return [tensor[indices] for tensor in self._inner.tensors]


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
        _set_epoch(self._sampler, epoch)
        _set_epoch(getattr(self._sampler, "sampler", None), epoch)

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


class PositionedLoader(DataLoader[Any]):
    """A data loader over a :class:`SeededDataset` and a :class:`PositionedSampler`.

    Without workers it fetches its batches itself: PyTorch's own iterator takes some 20 µs a batch for its bookkeeping.
    Workers that die are started again, at the batch that was due.
    """

    _restarts: Restarts | None = None

    def __iter__(self) -> Any:
        if self.num_workers or self.pin_memory or self.batch_sampler is None:
            batches = self._from_workers()
        else:
            fetch, collate = self.dataset.__getitems__, self.collate_fn  # type: ignore[attr-defined]  # a SeededDataset
            batches = (collate(fetch(keys)) for keys in self.batch_sampler)
        return self._watched(batches) if isinstance(self.collate_fn, CollateWithReports) else batches

    def _from_workers(self) -> Iterator[Any]:
        if not self.num_workers:
            return super().__iter__()
        sampler = positioned_sampler(self)
        assert sampler is not None
        first, epoch = sampler.start, sampler.epoch

        def start(done: int, again: bool) -> Iterator[Any]:
            if again:
                self._iterator = None  # of workers that are to live long
                sampler.set_epoch(epoch)
                sampler.start = first + done * (self.batch_size or 1)
            batches: Iterator[Any] = DataLoader.__iter__(self)
            unhook_child_signal()
            return batches

        if self._restarts is None:
            self._restarts = Restarts()
        return self._restarts.iterate(start)

    def _watched(self, batches: Iterator[Any]) -> Iterator[Any]:
        bad_samples = self.dataset._bad_samples  # type: ignore[attr-defined]  # a SeededDataset
        for content, reports in batches:
            bad_samples.collect(reports)
            yield content


def _key_of_visit(item: Any, base: int, place: int) -> Any:
    """Returns the key of an index, or those of a batch of them, that stand at a place of this rank's order."""
    if isinstance(item, int):
        visit = place * get_world_size() + get_rank()
        return base + item + (visit << (_INDEX_BITS + _EPOCH_BITS))
    return [_key_of_visit(index, base, (place << 20) + offset) for offset, index in enumerate(item)]


def build_dataloader(
    cfg: Any, *, seed: int, path: str = "dataloader", training: bool = False, rank_seed: int = 0
) -> DataLoader[Any]:
    """Builds a data loader from a config.

    Args:
        cfg: a mapping with ``dataset`` and optionally ``sampler`` (default: ``DefaultSampler``, shuffled in training),
            ``batch_sampler``, ``batch_size``, ``collate_fn``, ``worker_init_fn``, ``num_batch_per_epoch``,
            ``skip_bad_samples`` (how many samples that raise may be replaced by the next ones; 0 for none), and
            anything that ``torch.utils.data.DataLoader`` takes; or a loader, returned as it is.
        seed: seed of the run.
        path: dotted path of ``cfg``, for messages.
        training: whether the default sampler shuffles.
        rank_seed: what to add to the seed of this rank's samples and samplers.

    Raises:
        ConfigError: ``dataset`` is missing, or settings contradict each other.
    """
    if not isinstance(cfg, Mapping):
        return cfg  # type: ignore[no-any-return]  # a loader made by the user, of whatever kind
    options = dict(cfg)
    if "dataset" not in options:
        raise ConfigError(path, "a dataloader needs a dataset", "dataset=dict(type=...)")
    dataset = DATASETS.build(options.pop("dataset"), path=f"{path}.dataset")
    if hasattr(dataset, "full_init"):
        with note_errors(f"{path}.dataset", type(dataset), origin_of(cfg, "dataset")):
            dataset.full_init()
    batch_size = options.pop("batch_size", 1)
    num_batch_per_epoch = options.pop("num_batch_per_epoch", None)
    if num_batch_per_epoch is not None:
        if isinstance(dataset, IterableDataset):
            message = "an IterableDataset has no first samples to choose by index"
            hint = "end the dataset's own __iter__, or train_cfg=dict(by_epoch=False, max_iters=...)"
            raise ConfigError(f"{path}.num_batch_per_epoch", message, hint, origin_of(cfg, "num_batch_per_epoch"))
        dataset = FirstSamples(dataset, num_batch_per_epoch * batch_size * get_world_size())
    if options.pop("disable_subprocess_warning", False):
        get_logger().warning(
            "%s.disable_subprocess_warning changes nothing: set PYTHONWARNINGS=ignore to silence the workers", path
        )
    options["collate_fn"] = _build_function(
        options.pop("collate_fn", None), _default_collate(dataset), f"{path}.collate_fn"
    )
    if type(dataset) is TensorDataset and getattr(options["collate_fn"], "__name__", "") == "default_collate":
        dataset = StackedTensors(dataset)
        options["collate_fn"] = _build_function("whole_batch", None, f"{path}.collate_fn")
    options["worker_init_fn"] = partial(
        initialize_worker,
        user_function=_build_function(options.pop("worker_init_fn", None), None, f"{path}.worker_init_fn"),
    )
    options.setdefault("generator", Generator().manual_seed(mix(seed, rank_seed) >> 1))
    if options.get("num_workers", 0) == 0:
        if options.pop("persistent_workers", False):
            raise ConfigError(
                f"{path}.persistent_workers",
                "there are no workers to keep",
                "set num_workers",
                origin_of(cfg, "persistent_workers"),
            )
        options.pop("prefetch_factor", None)
    if isinstance(dataset, IterableDataset):
        if options.pop("sampler", None) or options.pop("batch_sampler", None):
            raise ConfigError(path, "an IterableDataset decides its order itself", "remove sampler and batch_sampler")
        if options.pop("skip_bad_samples", 0):
            message = "an IterableDataset has no other sample to take in place of a bad one"
            hint = "skip it in the dataset's own __iter__"
            raise ConfigError(f"{path}.skip_bad_samples", message, hint, origin_of(cfg, "skip_bad_samples"))
        return StreamLoader(SeededStream(dataset, seed + rank_seed), batch_size=batch_size, **options)
    sampler = DATA_SAMPLERS.build(
        options.pop("sampler", dict(type="DefaultSampler", shuffle=training)),
        path=f"{path}.sampler", dataset=dataset, seed=seed + rank_seed,
    )  # fmt: skip
    batch_sampler_cfg = options.pop("batch_sampler", None)
    limit = int(options.pop("skip_bad_samples", 0) or 0)
    bad_samples = None
    if limit:
        mode = path.removesuffix("_dataloader")
        key = "skipped_samples" if mode in ("train", "dataloader") else f"skipped_samples_{mode}"
        bad_samples = BadSamples(limit, key)
        options["collate_fn"] = CollateWithReports(bad_samples, options["collate_fn"])
    dataset = SeededDataset(dataset, seed + rank_seed, bad_samples)
    if batch_sampler_cfg is None:
        sampler = PositionedSampler(sampler, dataset)
        return PositionedLoader(dataset, sampler=sampler, batch_size=batch_size, **options)
    drop_last = options.pop("drop_last", False)
    batch_sampler = DATA_SAMPLERS.build(
        batch_sampler_cfg, path=f"{path}.batch_sampler", sampler=sampler, batch_size=batch_size,
        **({"drop_last": drop_last} if drop_last else {}),
    )  # fmt: skip
    return PositionedLoader(dataset, batch_sampler=PositionedSampler(batch_sampler, dataset), **options)


def positioned_sampler(dataloader: Any) -> PositionedSampler | None:
    """Returns the sampler of a loader that can be moved, or None for a loader that we did not build."""
    for sampler in (getattr(dataloader, "sampler", None), getattr(dataloader, "batch_sampler", None)):
        if isinstance(sampler, PositionedSampler):
            return sampler
    return None


def keeps_position(dataloader: Any) -> bool:
    """Whether a loader has a state of its own that tells where it is, because its position is not a number."""
    has_methods = hasattr(dataloader, "state_dict") and hasattr(dataloader, "load_state_dict")
    return bool(getattr(dataloader, "has_state", has_methods))


def is_endless(dataloader: Any) -> bool:
    """Whether the sampler of a loader never comes to an end."""
    sampler = positioned_sampler(dataloader)
    return sampler is not None and sampler.endless


def start_at(dataloader: Any, epoch: int, batch: int) -> bool:
    """Makes the next iteration over a loader begin at a batch of an epoch.

    Returns:
        Whether the loader can do so; one of the user's own begins where it likes.
    """
    if isinstance(dataloader, StreamLoader):
        dataloader.start(epoch)
        return batch == 0
    sampler = positioned_sampler(dataloader)
    if sampler is None:
        _set_epoch(getattr(dataloader, "sampler", None), epoch)
        _set_epoch(getattr(dataloader, "batch_sampler", None), epoch)
        _set_epoch(getattr(getattr(dataloader, "batch_sampler", None), "sampler", None), epoch)
        return batch == 0
    sampler.set_epoch(epoch)
    sampler.start = batch * (dataloader.batch_size or 1)
    return True


def stop_workers(dataloader: Any) -> None:
    """Ends the data workers of a loader that keeps them (``persistent_workers``), until it is next iterated over.

    Left to the garbage collector, which closes their queues first, PyTorch waits five seconds for each.
    """
    iterator: Any = getattr(dataloader, "_iterator", None)
    if hasattr(iterator, "_shutdown_workers"):
        iterator._shutdown_workers()
        dataloader._iterator = None


def samples_in_batch(dataloader: Any) -> int | None:
    """Returns how many samples all ranks together take in an iteration, or None where the loader does not say."""
    ours = positioned_sampler(dataloader) is not None or isinstance(dataloader, StreamLoader)
    if not ours or dataloader.batch_size is None:
        return None
    return int(dataloader.batch_size) * get_world_size()


def samples_that_count(dataloader: Any) -> int:
    """Returns how many of the samples that all ranks see in an epoch count: all but the padding.

    Padding is the last samples, which a sampler repeats so that all ranks get as many; one that does so has the
    attributes ``dataset`` and ``total_size``, as ours and PyTorch's ``DistributedSampler`` have. What any other sampler
    shows counts, however often. With a batch sampler, which may change the order, padding cannot be told from the
    rest: ``round_up=False`` avoids it.

    Returns:
        Their number, or ``sys.maxsize`` where all of them count.
    """
    batch_sampler, sampler = (getattr(dataloader, name, None) for name in ("batch_sampler", "sampler"))
    total = getattr(sampler, "total_size", None)
    if total is None or type(batch_sampler) not in (BatchSampler, type(None)):
        return sys.maxsize
    size = len(sampler.dataset)  # type: ignore[union-attr]  # it has a total_size, so it is a sampler
    return size if total - size < get_world_size() else sys.maxsize


def position_of(dataloader: Any, iteration: int, length: int | None = None) -> tuple[int, int]:
    """Returns which pass over the data an iteration falls in, and which batch of the pass it is.

    Args:
        dataloader: the loader.
        iteration: 0-based index of the iteration.
        length: batches in a pass; as many as the loader has now if None.
    """
    try:
        length = len(dataloader) if length is None else length
    except TypeError:  # an IterableDataset without length
        return 0, iteration
    return (0, iteration) if is_endless(dataloader) else divmod(iteration, length)


def sample_indices(dataloader: Any, epoch: int, batch: int) -> list[int] | None:
    """Returns the dataset indices of one batch, worked out from its position, or None where that is impossible."""
    sampler = positioned_sampler(dataloader)
    if sampler is None or sampler.epoch != epoch:
        return None
    if dataloader.batch_size is None:
        return list(next(sampler.items_from(batch), []))
    return list(islice(sampler.items_from(batch * dataloader.batch_size), dataloader.batch_size))


def initialize_worker(worker_id: int, user_function: Callable[[int], None] | None = None) -> None:
    """Prepares a data worker: Ctrl-C is the main process's business."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if user_function is not None:
        user_function(worker_id)


def _set_epoch(sampler: Any, epoch: int) -> None:
    if hasattr(sampler, "set_epoch"):
        sampler.set_epoch(epoch)


def _is_deterministic(dataset: Any) -> bool:
    """Whether a sample never depends on random numbers: the dataset says so, or is of a kind that is known to be."""
    return bool(getattr(dataset, "deterministic", isinstance(dataset, TensorDataset)))


def _fetches_batches(dataset: Any) -> bool:
    return bool(getattr(dataset, "fetches_batches", False))


def _default_collate(dataset: Any) -> dict[str, str]:
    return dict(type="whole_batch" if _fetches_batches(dataset) else "pseudo_collate")


def _build_function(cfg: Any, default: Any, path: str) -> Callable[..., Any] | None:
    """Returns a function from its config: its name, or ``type`` with the arguments that are to be fixed."""
    cfg = default if cfg is None else cfg
    if cfg is None or (callable(cfg) and not isinstance(cfg, Mapping)):
        return cfg
    arguments = {"type": cfg} if isinstance(cfg, str) else dict(cfg)
    if "type" not in arguments:
        raise ConfigError(path, "this function has no 'type'")
    origin = None if isinstance(cfg, str) else origin_of(cfg, "type")
    function = resolve(arguments.pop("type"), FUNCTIONS, path=path, origin=origin)
    return partial(function, **arguments) if arguments else function
