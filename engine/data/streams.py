"""Iterable datasets, and resuming in the middle of one."""

import copy
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from typing import Any, NamedTuple

from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from trainwright.engine.data.proxy import Proxy
from trainwright.engine.data.sharing import Share
from trainwright.engine.data.traits import keeps_position
from trainwright.engine.data.workers import batches_from_workers, start_workers
from trainwright.engine.errors import ConfigError
from trainwright.engine.random_streams import mix, preserve_python_rng, seed_cpu_generators
from trainwright.engine.records.message_hub import storable

_PLAIN = "its state_dict() must return numbers, strings, tensors, arrays, and containers of these"


class _Batch(NamedTuple):
    """A batch from a worker, with the worker's position after it."""

    content: Any
    worker: int
    position: Any


class SeededStream(Proxy, IterableDataset[Any]):
    """An iterable dataset with per-sample random streams, that can resume in the middle of an epoch.

    The random stream of a sample is derived from (seed, epoch, data worker, position). Resuming requires that the
    dataset has ``state_dict`` and ``load_state_dict``: after loading a state, its next iteration must continue with the
    next sample.

    Args:
        dataset: the dataset.
        seed: seed of the run.
        share: the samples of the dataset that this process keeps.
    """

    has_state: bool
    _process: int | None
    _passes: int
    _positions: dict[int, Any]
    _first_worker: int
    _count: int
    share: Share

    def __init__(self, dataset: IterableDataset[Any], seed: int, share: Share = Share()) -> None:  # noqa: B008  # constant
        super().__init__(dataset, has_state=keeps_position(dataset), _seed=seed, _process=None, share=share)
        self.start(0)

    def start(self, epoch: int, positions: Mapping[int, Any] | None = None, first_worker: int = 0) -> None:
        """Set the starting position of the next iteration.

        Args:
            epoch: number of the pass over the data.
            positions: the position of each data worker; those with a key ``over`` are in the previous pass.
            first_worker: the data worker with the next batch.
        """
        self.__dict__.update(
            _epoch=epoch, _passes=0, _positions=dict(positions or {}), _first_worker=first_worker,
            _worker=0, _count=0, _base=0, _ended=False,
        )  # fmt: skip

    def __iter__(self) -> Iterator[Any]:
        info = get_worker_info()
        if info is not None:
            if self._process is None:
                self._process = info.id  # persistent workers get here once per epoch
            # DataLoader polls workers round-robin from 0: rotate the IDs so that the next batch comes first.
            object.__setattr__(info, "id", (self._process + self._first_worker) % info.num_workers)
            self._worker = info.id
        epoch = self._epoch + self._passes
        position = self._positions.get(self._worker)
        self._passes, self._positions, self._first_worker = self._passes + 1, {}, 0
        self._count, self._base, self._ended = 0, 0, False
        if position is not None and position.get("over"):
            self._inner.load_state_dict(position["dataset"])
            deque(() if position["ended"] else self._inner, maxlen=0)
            position = None
        if hasattr(self._inner, "set_epoch"):
            self._inner.set_epoch(epoch)
        if position is not None:
            self._count, self._base = position["count"], position.get("base", 0)
            self._inner.load_state_dict(position["dataset"])
            if position["ended"]:  # already exhausted, in a last partial batch; iterating might start from scratch
                return
        keep = preserve_python_rng if info is None else nullcontext
        share, stream = self.share, 0 if self.share.by_worker else self._worker
        samples: Iterator[Any] | None = None
        sample = None
        while True:
            with keep():
                seed_cpu_generators(mix(self._seed, epoch, stream, self._count))
                try:
                    samples = iter(self._inner) if samples is None else samples
                    sample = next(samples)
                except StopIteration:
                    self._ended = True
                    if share.is_part and sample is not None and share.lacks_last(self._count - self._base):
                        yield sample
                    return
                except Exception as error:
                    error.add_note(f"while loading sample {self._count} of {type(self._inner).__name__}")
                    raise
            self._count += 1
            number = self._count - 1 - self._base
            if number >= 0 and (not share.is_part or share.contains(number)):
                yield sample

    def __len__(self) -> int:
        length = len(self._inner)  # raises for datasets without a length
        return self.share.length(length) if self.share.is_part else length

    def position(self) -> tuple[int, Any]:
        """Return the number of this data worker and its position, None for a dataset without state.

        Raises:
            ConfigError: the state cannot be saved in a checkpoint.
        """
        if not self.has_state:
            return self._worker, None
        try:
            state = storable(self._inner.state_dict())
        except TypeError as error:
            raise ConfigError("train_dataloader.dataset", f"{type(self._inner).__name__}: {error}", _PLAIN) from error
        base = {"base": self._base} if self._base else {}
        return self._worker, {"count": self._count, "ended": self._ended, "dataset": state, **base}


class StreamLoader(DataLoader[Any]):
    """PyTorch's data loader for a :class:`SeededStream`; workers send their position along with every batch.

    Its state is the position after the last batch yielded, regardless of batches prefetched by workers.
    """

    def __init__(self, dataset: SeededStream, collate_fn: Callable[[Any], Any] | None, **options: Any) -> None:
        super().__init__(dataset, collate_fn=_CollateWithPosition(dataset, collate_fn), **options)
        self.epoch = 0
        self._positions: dict[int, Any] = {}
        self._next_worker = 0

    @property
    def has_state(self) -> bool:
        """Whether the dataset can resume in the middle of an epoch."""
        return self.dataset.has_state  # type: ignore[attr-defined, no-any-return]

    @property
    def _share(self) -> Share:
        return self.dataset.share  # type: ignore[attr-defined, no-any-return]

    def start(self, epoch: int) -> None:
        """Make the next iteration begin with the first batch of an epoch."""
        self.epoch = epoch
        # Persistent workers keep their datasets, which may carry state from one pass into the next.
        before = self._positions if self._iterator is not None and self.has_state else {}
        self._positions = {worker: {**position, "over": True} for worker, position in before.items()}
        self._next_worker = 0
        self.dataset.start(epoch)  # type: ignore[attr-defined]

    def __iter__(self) -> Any:
        batches = start_workers(self, super().__iter__)
        return self._batches(batches_from_workers(batches) if self.num_workers else batches)

    def _batches(self, batches: Iterator[_Batch]) -> Iterator[Any]:
        for content, worker, position in batches:
            self._positions[worker] = position
            self._next_worker = (worker + 1) % max(1, self.num_workers)
            yield content

    def state_dict(self) -> dict[str, Any]:
        """Return the position of each data worker, and the number of the worker with the next batch."""
        return {
            "epoch": self.epoch,
            "num_workers": self.num_workers,
            "next_worker": self._next_worker,
            "positions": copy.deepcopy(self._positions),
            "rank": self._share.rank,
            "world_size": self._share.world_size,
        }

    def is_own(self, state: Mapping[str, Any]) -> bool:
        """Return whether a state is that of the same rank of the same number of ranks."""
        share = self._share
        return (state.get("rank", 0), state.get("world_size", 1)) == (share.rank, share.world_size)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Make the next iteration continue at a saved position.

        If it is that of another rank, or of one among another number of ranks, this rank continues after all samples
        that those ranks have taken.

        Raises:
            ConfigError: the number of data workers or the rank differs, and each reads its own part of the stream.
        """
        share = self._share
        positions, next_worker = copy.deepcopy(dict(state["positions"])), int(state["next_worker"])
        if state["num_workers"] != self.num_workers and positions:
            saved = state["num_workers"]
            message = f"a stream read with num_workers={saved} cannot continue with num_workers={self.num_workers}"
            raise ConfigError("train_dataloader.num_workers", message, f"set it to {saved}")
        if positions and not self.is_own(state):
            rank, world_size = state.get("rank", 0), state.get("world_size", 1)
            if share.sharded:
                message = (
                    f"each process reads its own part of this stream, so rank {share.rank} of {share.world_size} "
                    f"cannot continue at the position of rank {rank} of {world_size}"
                )
                hint = f"start {world_size} processes, or resume from a checkpoint at the end of an epoch"
                raise ConfigError("train_dataloader.dataset", message, hint)
            positions = _redistributed(positions, share, world_size, max(1, self.num_workers))
            next_worker = 0 if share.by_worker else next_worker
        self.epoch = int(state["epoch"])
        self._positions, self._next_worker = positions, next_worker
        self.dataset.start(self.epoch, positions, next_worker)  # type: ignore[attr-defined]


def _redistributed(positions: dict[int, Any], share: Share, world_size: int, num_workers: int) -> dict[int, Any]:
    """Return positions after all samples that a number of ranks have taken, given those of one of these ranks."""
    before = share._replace(world_size=world_size)
    moved = {}
    for worker, position in positions.items():
        base = position.get("base", 0)
        moved[worker] = {**position, "base": base + before.end_of_round(position["count"] - base)}
    if share.by_worker:  # all of them read the same samples
        present = [position for position in moved.values() if not position.get("over")]
        furthest = max(present, key=lambda position: position["base"])
        moved = {worker: copy.deepcopy(furthest) for worker in range(num_workers)}
    return moved


class _CollateWithPosition:
    """A collate function that attaches the worker's position to each batch."""

    def __init__(self, dataset: SeededStream, collate: Callable[[Any], Any] | None) -> None:
        self._dataset = dataset
        self._collate = collate

    def __call__(self, samples: Any) -> _Batch:
        info = get_worker_info()
        dataset: Any = self._dataset if info is None else info.dataset  # that worker's copy
        worker, position = dataset.position()
        if info is None:
            position = copy.deepcopy(position)
        return _Batch(samples if self._collate is None else self._collate(samples), worker, position)
