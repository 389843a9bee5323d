"""Data loaders built from a config, with per-sample seeds, that can start at any position."""

import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

from torch import Generator, Tensor
from torch.utils.data import BatchSampler, DataLoader, IterableDataset, SequentialSampler, TensorDataset
from torch.utils.data.dataloader import _DatasetKind, _MultiProcessingDataLoaderIter, _SingleProcessDataLoaderIter

from trainwright.engine import registry as registries
from trainwright.engine.building import note_errors, origin_of, resolve
from trainwright.engine.data import traits
from trainwright.engine.data.faults import BadSamples, CollateWithReports
from trainwright.engine.data.seeded import DatasetProxy, PositionedSampler, SeededDataset
from trainwright.engine.data.sharing import share_of
from trainwright.engine.data.streams import SeededStream, StreamLoader
from trainwright.engine.data.workers import Restarts, batches_from_workers, clear_errors, start_workers
from trainwright.engine.distributed import all_gather_object, get_data_size, get_rank
from trainwright.engine.errors import ConfigError
from trainwright.engine.fidelity import reproduces_mmengine
from trainwright.engine.parts import BATCH_SAMPLER, COLLATE_FN, DATALOADER_KEYS, DATASET, SAMPLER, WORKER_INIT_FN
from trainwright.engine.random_streams import mix
from trainwright.engine.records.log_processor import num_batches
from trainwright.engine.records.logger import get_logger
from trainwright.engine.signatures import parameters_of

# Modules with a function default_collate that, for tensors, only stacks the samples.
_STACKING_MODULES = ("torch.utils.data._utils.collate", "trainwright.datasets")


class FirstSamples(DatasetProxy):
    """The first samples of a map-style dataset, at most ``length``."""

    _length: int

    def __init__(self, dataset: Any, length: int) -> None:
        super().__init__(dataset, _length=min(length, len(dataset)))

    def __len__(self) -> int:
        return self._length


class StackedTensors(DatasetProxy):
    """A ``TensorDataset`` that can also return whole batches, equal to its stacked samples."""

    fetches_batches = True
    deterministic = True

    def __getitems__(self, indices: list[int]) -> list[Tensor]:
        return [tensor[indices] for tensor in self._inner.tensors]


class PositionedLoader(DataLoader[Any]):
    """A data loader that can start at any position, and restarts dead workers at the next batch.

    Without workers, it fetches batches itself, because PyTorch's iterator has an overhead of about 20 µs per batch.

    Args:
        dataset: a dataset whose indices are keys.
        order: yields the keys of samples, or of whole batches unless ``batch_size`` is among the options.
        collate_fn: converts a list of samples to a batch.
        bad_samples: counts skipped samples; None if samples must not be skipped.
        **options: further arguments of ``torch.utils.data.DataLoader``.
    """

    def __init__(
        self,
        dataset: SeededDataset,
        order: PositionedSampler,
        collate_fn: Callable[[Any], Any] | None,
        bad_samples: BadSamples | None = None,
        **options: Any,
    ) -> None:
        collate = collate_fn if bad_samples is None else CollateWithReports(bad_samples, collate_fn)
        options["sampler" if "batch_size" in options else "batch_sampler"] = order
        super().__init__(dataset, collate_fn=collate, **options)
        self.order = order
        self._bad_samples = bad_samples
        self._restarts = Restarts()

    def start(self, epoch: int, batch: int = 0, skip: int = 0) -> None:
        """Make the next iteration begin with the given batch of an epoch, after ``skip`` samples of all ranks."""
        self.order.set_epoch(epoch)
        self.order.start, self.order.skip = batch * (self.batch_size or 1), skip

    def __iter__(self) -> Any:
        batches: Iterator[Any]
        if self.num_workers:
            batches = self._from_workers()
        elif self.pin_memory or self.batch_sampler is None:
            batches = super().__iter__()
        else:
            fetch, collate = self.dataset.__getitems__, self.collate_fn  # type: ignore[attr-defined]  # a SeededDataset
            batches = (collate(fetch(keys)) for keys in self.batch_sampler)
        return batches if self._bad_samples is None else self._collected(batches, self._bad_samples)

    def _from_workers(self) -> Iterator[Any]:
        epoch, first, skip = self.order.epoch, self.order.start, self.order.skip

        def start(done: int, restart: bool) -> Iterator[Any]:
            def iterate() -> Any:
                nonlocal restart
                if restart:
                    self.order.set_epoch(epoch)
                    self.order.start, self.order.skip = first + done * (self.batch_size or 1), skip
                restart = True
                return DataLoader.__iter__(self)

            if restart:
                self._iterator = None  # the one of dead persistent workers
            with clear_errors(self._iterator):  # persistent workers may have died since the last pass
                batches = start_workers(self, iterate)
            self.dataset.checked = True  # type: ignore[attr-defined]  # in this process: the workers have their copies
            return batches_from_workers(batches)

        return self._restarts.iterate(start)

    @property
    def skips_bad_samples(self) -> bool:
        """Whether samples that cannot be loaded are replaced by others."""
        return self._bad_samples is not None

    def _collected(self, batches: Iterator[Any], bad_samples: BadSamples) -> Iterator[Any]:
        for content, reports in batches:
            bad_samples.collect(reports)
            yield content


def build_dataloader(
    cfg: Any,
    *,
    seed: int,
    path: str = "dataloader",
    training: bool = False,
    rank_seed: int = 0,
    pin_memory: bool = False,
) -> DataLoader[Any]:
    """Build a data loader from a config.

    Args:
        cfg: a mapping with ``dataset`` and optionally ``sampler`` (default: ``DefaultSampler``, shuffled in training),
            ``batch_sampler``, ``batch_size``, ``collate_fn``, ``worker_init_fn``, ``num_batch_per_epoch``,
            ``skip_bad_samples`` (maximum number of samples to replace by the next one if they raise an error; 0 for
            none), and any argument of ``torch.utils.data.DataLoader``; or a data loader, returned unchanged.
        seed: seed of the run.
        path: dotted path of ``cfg``, for messages.
        training: whether the default sampler shuffles, and samplers and iterable datasets pad the samples of the ranks
            to the same number.
        rank_seed: offset of this rank, added to the seed of its samples. Samplers have the same seed on all ranks.
        pin_memory: the default of ``pin_memory`` for loaders with workers. Without workers, there is no thread that
            could copy batches to pinned memory in the background.

    Raises:
        ConfigError: ``dataset`` is missing, or settings contradict each other.
    """
    if not isinstance(cfg, Mapping):
        return cfg  # type: ignore[no-any-return]  # any loader built by the user
    options: dict[str, Any] = {name: key.default for name, key in DATALOADER_KEYS.items()} | {"batch_size": 1, **cfg}
    if options.pop("disable_subprocess_warning"):
        get_logger().warning(
            "%s.disable_subprocess_warning has no effect: set PYTHONWARNINGS=ignore to silence the workers", path
        )
    dataset = _build_dataset(cfg, options, path)
    collate = options["collate_fn"]
    if collate is None:
        collate = "whole_batch" if traits.fetches_batches(dataset) else "pseudo_collate"
    options["collate_fn"] = COLLATE_FN.build(collate, path=f"{path}.collate_fn")
    if _is_stacked(dataset, options["collate_fn"]):
        dataset = StackedTensors(dataset)
        options["collate_fn"] = COLLATE_FN.build("whole_batch")
    user_function = WORKER_INIT_FN.build(options.pop("worker_init_fn"), path=f"{path}.worker_init_fn")
    options["worker_init_fn"] = partial(initialize_worker, user_function=user_function)
    options.setdefault("generator", Generator().manual_seed(mix(seed, rank_seed) >> 1))
    if options.get("num_workers", 0) == 0:
        if options.pop("persistent_workers", False):
            origin = origin_of(cfg, "persistent_workers")
            raise ConfigError(f"{path}.persistent_workers", "there are no workers to keep", "set num_workers", origin)
        options.pop("prefetch_factor", None)
    else:
        options.setdefault("pin_memory", pin_memory)
    if reproduces_mmengine():
        return _build_plain_loader(options, dataset, user_function, seed, rank_seed, path)
    if isinstance(dataset, IterableDataset):
        return _build_stream_loader(cfg, options, dataset, path, training, seed, rank_seed)
    if options["sampler"] is None:
        options["sampler"] = dict(type="DefaultSampler", shuffle=training)
    order = _build_sampler(options.pop("sampler"), dataset, seed, path, training)
    return _build_positioned_loader(options, dataset, order, seed + rank_seed, path, training)


def _build_dataset(cfg: Mapping[str, Any], options: dict[str, Any], path: str) -> Any:
    if options["dataset"] is None:
        raise ConfigError(path, "a dataloader needs a dataset", "dataset=dict(type=...)")
    dataset = DATASET.build(options.pop("dataset"), path=f"{path}.dataset")
    if hasattr(dataset, "full_init"):
        with note_errors(f"{path}.dataset", type(dataset), origin_of(cfg, "dataset")):
            dataset.full_init()
    num_batch_per_epoch = options.pop("num_batch_per_epoch")
    if num_batch_per_epoch is not None:
        if isinstance(dataset, IterableDataset):
            message = "an IterableDataset cannot be limited by index"
            hint = "end the dataset's own __iter__, or use train_cfg=dict(by_epoch=False, max_iters=...)"
            raise ConfigError(f"{path}.num_batch_per_epoch", message, hint, origin_of(cfg, "num_batch_per_epoch"))
        dataset = FirstSamples(dataset, num_batch_per_epoch * options["batch_size"] * get_data_size())
    return dataset


def _build_stream_loader(
    cfg: Mapping[str, Any],
    options: dict[str, Any],
    dataset: IterableDataset[Any],
    path: str,
    training: bool,
    seed: int,
    rank_seed: int,
) -> StreamLoader:
    if options.pop("sampler") or options.pop("batch_sampler"):
        raise ConfigError(path, "an IterableDataset determines its own order", "remove sampler and batch_sampler")
    if options.pop("skip_bad_samples"):
        message = "an IterableDataset cannot replace a bad sample by another one"
        hint = "skip bad samples in the dataset's own __iter__"
        raise ConfigError(f"{path}.skip_bad_samples", message, hint, origin_of(cfg, "skip_bad_samples"))
    share = share_of(dataset, f"{path}.dataset", batch_size=options["batch_size"], pads=training)
    # Processes that read the same samples must draw the same random numbers.
    return StreamLoader(SeededStream(dataset, seed if share.is_part else seed + rank_seed, share), **options)


def _build_sampler(cfg: Any, dataset: Any, seed: int, path: str, training: bool) -> Any:
    runtime: dict[str, Any] = {"dataset": dataset, "seed": seed}
    if not training and isinstance(cfg, Mapping):
        with SAMPLER.registry.switch_scope(cfg.get("_scope_")) as registry:
            sampler = resolve(cfg.get("type"), registry, path=f"{path}.sampler", origin=origin_of(cfg, "type"))
        if "round_up" in parameters_of(sampler)[0]:
            runtime["round_up"] = False
    return SAMPLER.build(cfg, path=f"{path}.sampler", **runtime)


def _build_positioned_loader(
    options: dict[str, Any], dataset: Any, order: Any, seed: int, path: str, training: bool
) -> PositionedLoader:
    if (batch_sampler_cfg := options.pop("batch_sampler")) is not None:
        drop_last = {"drop_last": True} if options.pop("drop_last", False) else {}
        order = BATCH_SAMPLER.build(
            batch_sampler_cfg, path=f"{path}.batch_sampler", sampler=order, batch_size=options.pop("batch_size"),
            **drop_last,
        )  # fmt: skip
    bad_samples = None
    if limit := int(options.pop("skip_bad_samples") or 0):
        mode = path.removesuffix("_dataloader")
        mode = "" if mode in ("train", "dataloader") else f"_{mode}"
        bad_samples = BadSamples(limit, f"skipped_samples{mode}")
    seeded = SeededDataset(dataset, seed, bad_samples, checked=not training)
    return PositionedLoader(seeded, PositionedSampler(order, seeded), bad_samples=bad_samples, **options)


def _build_plain_loader(
    options: dict[str, Any], dataset: Any, user_function: Any, seed: int, rank_seed: int, path: str
) -> DataLoader[Any]:
    """Build a loader whose samples draw from the generators of their process, as in MMEngine."""
    if options.pop("skip_bad_samples"):
        raise ConfigError(f"{path}.skip_bad_samples", "a bad sample cannot be replaced with fidelity=True")
    del options["generator"]
    sampler, batch_sampler = options.pop("sampler"), options.pop("batch_sampler")
    if not isinstance(dataset, IterableDataset):
        sampler = SAMPLER.build(
            dict(type="DefaultSampler") if sampler is None else sampler, path=f"{path}.sampler",
            dataset=dataset, seed=None if rank_seed else seed,
        )  # fmt: skip
    if batch_sampler is not None:
        given = {"sampler": sampler, "batch_size": options.pop("batch_size")}
        batch_sampler = BATCH_SAMPLER.build(batch_sampler, path=f"{path}.batch_sampler", **given)
        sampler = None
    if user_function is None:
        user_function = partial(
            registries.FUNCTIONS.get("worker_init_fn"), num_workers=options.get("num_workers", 0), rank=get_rank(),
            seed=seed,
        )  # fmt: skip
    options["worker_init_fn"] = partial(initialize_worker, user_function=user_function)
    return DataLoader(dataset, sampler=sampler, batch_sampler=batch_sampler, **options)


def initialize_worker(worker_id: int, user_function: Callable[[int], None] | None = None) -> None:
    """Prepare a data worker: ignore Ctrl-C, which the main process handles."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if user_function is not None:
        user_function(worker_id)


def is_endless(dataloader: Any) -> bool:
    """Return whether the sampler of a loader never ends."""
    return isinstance(dataloader, PositionedLoader) and dataloader.order.endless


def start_at(dataloader: Any, epoch: int, batch: int, skip: int = 0) -> bool:
    """Make the next iteration over a loader begin with the given batch of an epoch, after ``skip`` of all samples.

    Returns:
        Whether the loader supports this; other loaders can only start at the first batch.
    """
    if isinstance(dataloader, PositionedLoader):
        dataloader.start(epoch, batch, skip)
        return True
    if isinstance(dataloader, StreamLoader):
        dataloader.start(epoch)
    else:
        for name in ("sampler", "batch_sampler"):
            traits.set_epoch(getattr(dataloader, name, None), epoch)
    return batch == 0


def iterate(dataloader: Any) -> Iterator[Any]:
    """Return an iterator equivalent to ``iter(dataloader)``, with less overhead if possible.

    Without workers, PyTorch's iterator has an overhead of about 20 µs per batch. For a ``TensorDataset``, indexing a
    whole batch is faster than stacking its samples. With workers, see :func:`batches_from_workers`.
    """
    start = partial(iter, dataloader)
    # Our own loaders start their workers by themselves, when the first batch is due.
    own = isinstance(dataloader, PositionedLoader | StreamLoader)
    batches: Any = start_workers(dataloader, start) if isinstance(dataloader, DataLoader) and not own else start()
    if isinstance(batches, _MultiProcessingDataLoaderIter):
        return batches_from_workers(batches)
    plain = type(batches) is _SingleProcessDataLoaderIter and batches._dataset_kind == _DatasetKind.Map
    if not plain or batches._pin_memory:
        return batches  # type: ignore[no-any-return]
    fetch = batches._dataset_fetcher.fetch
    if batches._auto_collation and _is_stacked(batches._dataset, batches._collate_fn):
        fetch = StackedTensors(batches._dataset).__getitems__
    return map(fetch, batches._sampler_iter)


def batch_of(dataloader: Any, indices: list[int]) -> Any:
    """Return a batch of the samples at these indices of the dataset, as in the first epoch, fetched in this process."""
    dataset, collate = dataloader.dataset, dataloader.collate_fn
    fetch = getattr(dataset, "__getitems__", None)
    batch = collate([dataset[index] for index in indices] if fetch is None else fetch(indices))
    return batch[0] if isinstance(collate, CollateWithReports) else batch


def is_sequential(dataloader: Any) -> bool:
    """Return whether a loader yields the samples of its dataset in their order, possibly distributed over the ranks."""
    batch_sampler, sampler = (getattr(dataloader, name, None) for name in ("batch_sampler", "sampler"))
    if type(batch_sampler) not in (BatchSampler, type(None)):
        return False
    return isinstance(sampler, SequentialSampler) or getattr(sampler, "shuffle", None) is False


def _is_stacked(dataset: Any, collate: Any) -> bool:
    """Return whether a batch equals plain tensors indexed with the indices of its samples."""
    return (
        type(dataset) is TensorDataset
        and getattr(collate, "__name__", "") == "default_collate"
        and getattr(collate, "__module__", "") in _STACKING_MODULES
        and all(type(tensor) is Tensor and tensor.is_cpu and tensor.is_contiguous() for tensor in dataset.tensors)
    )


def num_unpadded_samples(dataloader: Any) -> int:
    """Return the number of samples per epoch, over all ranks, that are not padding.

    Padding is the samples that a sampler repeats at the end so that all ranks get the same number. Only samplers with
    the attributes ``dataset`` and ``total_size`` pad, such as ours and PyTorch's ``DistributedSampler``. The padding of
    a batch sampler, which may change the order, cannot be identified: ``round_up=False`` avoids it.

    Returns:
        The number, or ``sys.maxsize`` if no sample is known to be padding.
    """
    batch_sampler, sampler = (getattr(dataloader, name, None) for name in ("batch_sampler", "sampler"))
    total = getattr(sampler, "total_size", None)
    if total is None or type(batch_sampler) not in (BatchSampler, type(None)):
        return sys.maxsize
    size = len(sampler.dataset)  # type: ignore[union-attr]  # it has a total_size, so it is a sampler
    return size if total - size < get_data_size() else sys.maxsize


def num_padding(dataloader: Any) -> int:
    """Return how many samples per epoch, over all ranks, a sampler repeats so that all ranks get the same number."""
    size = num_unpadded_samples(dataloader)
    return 0 if size == sys.maxsize else max(0, dataloader.sampler.total_size - size)


def refuse_unequal_lengths(dataloader: Any, path: str) -> None:
    """Raise an error on every rank if the ranks would train on different numbers of batches per epoch.

    Raises:
        ConfigError: the lengths of the loaders differ.
    """
    lengths = all_gather_object(num_batches(dataloader))
    if len(set(lengths)) == 1:
        return
    listed = ", ".join(f"rank {rank} has {length}" for rank, length in enumerate(lengths))
    if isinstance(dataloader, StreamLoader):
        hint = "let __len__ of the dataset return the same on all ranks, such as the smallest of their numbers"
    else:
        hint = "set round_up=True in the sampler (the default of DefaultSampler), or drop_last=True in the data loader"
    raise ConfigError(path, f"the ranks have different numbers of batches per epoch: {listed}", hint)
