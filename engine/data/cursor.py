"""The position of a training run in its data."""

from collections.abc import Iterator, Mapping
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple

from trainwright.engine.data.faults import place_of
from trainwright.engine.data.loader import PositionedLoader, is_endless, iterate, start_at
from trainwright.engine.data.streams import StreamLoader
from trainwright.engine.data.traits import keeps_position
from trainwright.engine.distributed import get_data_size
from trainwright.engine.errors import CheckpointError, TrainingError
from trainwright.engine.fidelity import reproduces_mmengine
from trainwright.engine.records.log_processor import num_batches
from trainwright.engine.records.logger import get_logger

if TYPE_CHECKING:
    from trainwright.engine.run.state import RunState

END = object()
"""Returned by :meth:`DataCursor.next` at the end of a pass."""


class Batching(NamedTuple):
    """The division of the data into batches.

    Args:
        by_epoch: whether the loop counts epochs.
        samples: samples per iteration, over all ranks; None if unknown.
        batches: batches per pass; None if unknown.
        world_size: number of ranks with different data.
    """

    by_epoch: bool
    samples: int | None
    batches: int | None
    world_size: int = 1

    def changes(self, other: "Batching") -> str:
        """Describe the differences to another batching, for messages."""
        names = ("epoch-based training", "samples per iteration", "iterations per epoch", "processes")
        return ", ".join(f"{name}: {a} → {b}" for name, a, b in zip(names, self, other) if a != b)


class Move(NamedTuple):
    """The position at which a run continues after its batching has changed.

    Args:
        data_pass: number of the pass over the data.
        batch: number of the current batch in the pass, in the new batching.
        before: the previous batching.
        repeated: number of samples already seen that are repeated, to continue at a batch boundary.
    """

    data_pass: int
    batch: int
    before: Batching
    repeated: int


class _Rest(NamedTuple):
    """The rest of a pass whose beginning was divided among other ranks or into other batches.

    Args:
        data_pass: number of the pass.
        skip: number of its samples, over all ranks, that are done.
        first: the iteration with its first batch: in an epoch-based loop its number in the epoch.
        batches: number of its batches; None if it is endless.
    """

    data_pass: int
    skip: int
    first: int
    batches: int | None


class DataCursor:
    """The position of a training run in its data: the pass, and the number of samples already used in it.

    In an epoch-based loop, a pass is an epoch, and the cursor yields one pass at a time. In an iteration-based loop,
    passes follow each other, and the cursor stores by how many batches the data is ahead of the iterations after a
    resume with different batches. Checkpoints contain the number of samples over all ranks (or the number of batches,
    if the batch size is unknown), so that a run can resume with another batch size or world size. The rest of the pass
    is then divided again, and its last batch keeps its number, so that the pass has its usual length.

    The position is derived from the counters of the run, so custom loops only have to update those.
    """

    def __init__(self, counters: "RunState", by_epoch: bool) -> None:
        self.dataloader: Any = None
        self._counters = counters
        self._by_epoch = by_epoch
        self._ahead = 0
        self._batches: Iterator[Any] | None = None
        self._early: Iterator[Any] | None = None
        self._rest: _Rest | None = None
        self._place = (0, 0, 0)  # of the next batch to fetch
        self._restored = False  # the loader has restored its own position
        self._after_end = False  # the restored position may be the end of the previous pass

    @property
    def leading(self) -> "DataCursor":
        """The cursor of the data that ends an epoch: this one."""
        return self

    @property
    def length(self) -> int | None:
        """Number of batches per pass; None if unknown or infinite."""
        return num_batches(self.dataloader)

    @property
    def batching(self) -> Batching:
        """The current division of the data into batches."""
        loader = self.dataloader
        size = loader.batch_size if isinstance(loader, PositionedLoader | StreamLoader) else None
        ranks = get_data_size()
        return Batching(self._by_epoch, None if size is None else size * ranks, self.length, ranks)

    @property
    def pass_size(self) -> int | None:
        """Number of samples in a pass of all ranks, if the loader can divide the rest of it."""
        return self.dataloader.order.pass_size if isinstance(self.dataloader, PositionedLoader) else None

    def position(self, iteration: int) -> tuple[int, int, int]:
        """Return the pass of a 0-based iteration, its batch in it, and the samples of all ranks before the first batch.

        Batches before the current epoch, or before the rest of the pass, are negative.
        """
        counters, rest = self._counters, self._rest
        if self._by_epoch:
            batch = counters.inner_iter + iteration - counters.iter
            if rest is not None and rest.data_pass == counters.epoch:
                return rest.data_pass, batch - rest.first, rest.skip
            return counters.epoch, batch, 0
        if rest is None:
            return (*self._divided(iteration + self._ahead), 0)
        batch = iteration - rest.first
        if rest.batches is None or batch < rest.batches:
            return rest.data_pass, batch, rest.skip
        data_pass, batch = self._divided(batch - rest.batches)
        return rest.data_pass + 1 + data_pass, batch, 0

    def _divided(self, batch: int) -> tuple[int, int]:
        return (0, batch) if self.length is None or is_endless(self.dataloader) else divmod(batch, self.length)

    def indices(self, iteration: int) -> list[int] | None:
        """Return the dataset indices in this rank's batch of an iteration; None if they cannot be determined."""
        data_pass, batch, skip = self.position(iteration)
        loader = self.dataloader
        if not isinstance(loader, PositionedLoader) or loader.order.epoch != data_pass or batch < 0:
            return None
        size = loader.batch_size or 1
        items = islice(loader.order.items_from(batch * size, skip), size)
        return [index for item in items for index in ([item] if isinstance(item, int) else item)]

    def describe_batch(self, iteration: int) -> list[str]:
        """Return lines about the samples in this rank's batch of an iteration, as far as they are known."""
        indices = self.indices(iteration)
        if indices is None:
            return []
        places = [place_of(self.dataloader.dataset, index) for index in indices]
        files = [place for place in places if place is not None]
        return [f"Samples in its batch: {indices}.", *([f"Files: {', '.join(files)}."] if files else [])]

    def begin_here(self) -> None:
        """Begin with the first sample at the current iteration, in data that follows the iterations."""
        self._ahead = -self._counters.iter

    def seek(self) -> None:
        """Make a direct iteration over the loader begin with the next batch, if supported, for loops from MMEngine."""
        if isinstance(self.dataloader, PositionedLoader):
            self.dataloader.start(*self.position(self._counters.iter))

    def begin_run(self) -> None:
        """Prepare for a training, possibly a further one with the same loader."""

    def open(self) -> None:
        """Start fetching at the next batch."""
        if reproduces_mmengine() and not self._by_epoch and self._counters.iter:
            self._skip(self._counters.iter)
        else:
            self._open(*self.position(self._counters.iter))

    def _skip(self, batches: int) -> None:
        """Fetch and discard the batches of earlier iterations, as MMEngine does."""
        get_logger().info("Loading %d batches that have already been trained on", batches)
        self._open(0, 0)
        for _ in range(batches):
            self.next()

    def open_early(self) -> None:
        """Start an iterator over the loader now, and use it at the next start at the beginning of a pass."""
        self._early = iterate(self.dataloader)

    def reopen(self) -> None:
        """Discard prefetched batches and fetch them again, because data workers have copies of the old dataset."""
        loader = self.dataloader
        if self._batches is None:
            return
        if keeps_position(loader) or isinstance(loader, PositionedLoader):
            self._open(*self._place)
        elif getattr(loader, "num_workers", 0):
            get_logger().warning(
                "The dataset has changed, but the data workers have copies of the old one, and this data loader cannot "
                "start in the middle of an epoch: the change takes effect at the next epoch."
            )

    def replace(self, batches: Iterator[Any]) -> bool:
        """Go on with other batches than those of the loader, if it is fetching, and return whether it is."""
        if self._batches is None:
            return False
        self._batches = batches
        return True

    def close(self) -> None:
        """Stop fetching."""
        self._batches = None

    def next(self) -> Any:
        """Return the next batch; in an epoch-based loop, :data:`END` after the last one of a pass.

        Raises:
            TrainingError: the loader yields no batches.
        """
        assert self._batches is not None
        batch = next(self._batches, END)
        if batch is END and (self._after_end or not self._by_epoch):
            self._batches = None
            batch = next(self._open(self._place[0] + 1 - self._after_end, 0), END)
            if batch is END and not self._by_epoch:
                raise TrainingError("the training data loader does not yield any batch")
        if batch is END:
            self._batches = None
        data_pass, number, skip = self._place
        self._place = data_pass, number + 1, skip
        self._after_end = False
        return batch

    def _open(self, data_pass: int, batch: int, skip: int = 0) -> Iterator[Any]:
        """Start fetching at the given batch of a pass, or at the restored position of the loader itself."""
        loader = self.dataloader
        if self._batches is not None and keeps_position(loader):  # in the middle of a pass
            loader.load_state_dict(loader.state_dict())
            self._restored = True
        left = None
        self._place, self._after_end = (data_pass, batch, skip), self._restored and batch == 0
        if self._restored:
            self._restored = False
        elif skip and self._rest is not None and self._rest.batches is not None:
            start_at(loader, data_pass, batch, skip)
            left = max(0, self._rest.batches - batch)
        elif not start_at(loader, data_pass, batch, skip):
            if keeps_position(loader):
                raise CheckpointError(
                    "the checkpoint was written in the middle of an epoch without the state of the data loader, which "
                    "this run's loader requires: resume from the end of an epoch, or load only the weights"
                )
            left = None if self.length is None else max(0, self.length - batch)
            if left != 0:
                get_logger().warning(
                    "This data loader cannot start in the middle of an epoch: it restarts at the first sample, so some "
                    "samples are repeated%s. To resume exactly, build the loader from a config, with a map-style "
                    "dataset or an iterable one with state_dict() and load_state_dict().",
                    "" if left is None else ", and the same number at the end of the epoch is skipped",
                )
        if isinstance(loader, StreamLoader) and not self._by_epoch:  # its length may be an estimate, but not its pass
            self._place, self._after_end = (loader.epoch, batch, 0), False
        batches = iterate(loader) if self._early is None else self._early
        self._early = None
        self._batches = islice(batches, left) if left != 0 else iter(())
        return self._batches

    def state_dict(self) -> dict[str, Any]:
        """Return the position after the last finished iteration, and the batching that it refers to."""
        finished = self._counters.state_dict()
        if self._by_epoch and self._counters.epoch_done:
            data_pass, batch, skip = finished["epoch"], 0, 0
        else:
            data_pass, batch, skip = self.position(finished["iter"])
        batching = self.batching
        state = {"pass": data_pass, "taken": skip + batch * (batching.samples or 1), **batching._asdict()}
        if not is_endless(self.dataloader) and self.pass_size is not None:
            state["size"] = self.pass_size
        if keeps_position(self.dataloader):
            state["loader"] = dict(self.dataloader.state_dict())
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> Move | None:
        """Restore a saved position, and continue with the next unseen sample.

        Returns:
            The new position if the batching has changed, otherwise None.

        Raises:
            CheckpointError: the checkpoint contains data loader state, but this run's loader is stateless.
        """
        now = self.batching
        before = Batching(
            state["by_epoch"], state["samples"], state["batches"], state.get("world_size", now.world_size)
        )
        if "loader" in state:
            self._restore_loader(state, before.world_size == now.world_size)
        if before.samples and now.samples and self.pass_size is not None:
            data_pass, batch, repeated = *self._continue(state, before), 0
        else:
            data_pass, batch, repeated = self._continue_at_batch(state, before)
        return Move(data_pass, batch, before, 0 if self._restored else repeated) if before != now else None

    def _restore_loader(self, state: Mapping[str, Any], same_ranks: bool) -> None:
        loader = self.dataloader
        if not keeps_position(loader):
            raise CheckpointError("the checkpoint contains data loader state, but this run's loader is stateless")
        is_own = loader.is_own(state["loader"]) if isinstance(loader, StreamLoader) else same_ranks
        if not is_own and not state["taken"]:
            return  # a new pass begins
        if not is_own and not isinstance(loader, StreamLoader):
            get_logger().warning(
                "The data loader continues on all ranks with its position on rank 0 of the checkpoint, which is from "
                "another number of processes: samples may be lost or repeated."
            )
        loader.load_state_dict(state["loader"])
        self._restored = True

    def _continue(self, state: Mapping[str, Any], before: Batching) -> tuple[int, int]:
        """Continue with the next sample, and return the pass and the number of its next batch."""
        now, size = self.batching, self.pass_size
        assert size is not None and now.samples is not None
        data_pass, taken, iteration = state["pass"], state["taken"], self._counters.iter
        was_endless = not before.by_epoch and state.get("size") is None
        if is_endless(self.dataloader):
            taken = data_pass * size + (taken if was_endless else min(taken, state.get("size", taken)))
            batch, odd = divmod(taken, now.samples)
            self._ahead, self._rest = batch - iteration, _Rest(0, taken, iteration, None) if odd else None
            return 0, batch
        if was_endless:
            data_pass, taken = data_pass + taken // size, taken % size
        elif taken >= size and not before.by_epoch:
            data_pass, taken = data_pass + 1, 0
        assert now.batches is not None
        batch, odd = divmod(taken, now.samples)
        if odd:
            left = self._batches_of(max(0, size - taken))
            batch = now.batches - left
            self._rest = _Rest(data_pass, taken, batch if self._by_epoch else iteration, left)
        else:
            batch, self._rest = min(batch, now.batches), None
        self._ahead = data_pass * now.batches + batch - iteration
        return data_pass, batch

    def _batches_of(self, samples: int) -> int:
        """Return the number of batches of each rank in the rest of a pass."""
        loader, ranks = self.dataloader, get_data_size()
        pads = getattr(loader.order, "round_up", True)
        of_rank = -(-samples // ranks) if pads else samples // ranks
        size: int = loader.batch_size
        return of_rank // size if loader.drop_last else -(-of_rank // size)

    def _continue_at_batch(self, state: Mapping[str, Any], before: Batching) -> tuple[int, int, int]:
        """Continue with the batch of the next sample; return its pass, its number, and the samples it repeats."""
        now = self.batching
        data_pass, batch, repeated = state["pass"], state["taken"] // (before.samples or 1), 0
        if not before.by_epoch or is_endless(self.dataloader):
            batch += data_pass * (before.batches or 0)
            finite = before.batches is not None and not is_endless(self.dataloader)
            data_pass, batch = divmod(batch, before.batches) if finite else (0, batch)
        if before.samples and now.samples:
            batch, repeated = divmod(batch * before.samples, now.samples)
        if before != now and now.batches is not None and batch >= now.batches and not is_endless(self.dataloader):
            batch, repeated = now.batches, 0
        if not self._by_epoch:
            self._ahead = data_pass * (now.batches or 0) + batch - self._counters.iter
        return data_pass, batch, repeated
