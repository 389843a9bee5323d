"""The position of a training run in its data."""

from collections.abc import Iterator, Mapping
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple

from trainwright.engine.data.loader import PositionedLoader, is_endless, iterate, start_at
from trainwright.engine.data.streams import StreamLoader
from trainwright.engine.data.traits import keeps_position
from trainwright.engine.distributed import get_data_size
from trainwright.engine.errors import CheckpointError, TrainingError
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
    """

    by_epoch: bool
    samples: int | None
    batches: int | None

    def changes(self, other: "Batching") -> str:
        """Describe the differences to another batching, for messages."""
        names = ("epoch-based training", "samples per iteration", "iterations per epoch")
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


class DataCursor:
    """The position of a training run in its data: the pass, and the number of samples already used in it.

    In an epoch-based loop, a pass is an epoch, and the cursor yields one pass at a time. In an iteration-based loop,
    passes follow each other, and the cursor stores by how many batches the data is ahead of the iterations after a
    resume with different batches. Checkpoints contain the number of samples over all ranks (or the number of batches,
    if the batch size is unknown), so that a run can resume with another batch size or world size.

    The position is derived from the counters of the run, so custom loops only have to update those.
    """

    def __init__(self, counters: "RunState", by_epoch: bool) -> None:
        self.dataloader: Any = None
        self._counters = counters
        self._by_epoch = by_epoch
        self._ahead = 0
        self._batches: Iterator[Any] | None = None
        self._pass = self._batch = 0  # of the next batch to fetch
        self._restored = False  # the loader has restored its own position
        self._after_end = False  # the restored position may be the end of the previous pass

    @property
    def length(self) -> int | None:
        """Number of batches per pass; None if unknown or infinite."""
        return num_batches(self.dataloader)

    @property
    def batching(self) -> Batching:
        """The current division of the data into batches."""
        loader = self.dataloader
        size = loader.batch_size if isinstance(loader, PositionedLoader | StreamLoader) else None
        return Batching(self._by_epoch, None if size is None else size * get_data_size(), self.length)

    def position(self, iteration: int) -> tuple[int, int]:
        """Return the pass and the batch in it of a 0-based iteration; batches before the current epoch are negative."""
        counters = self._counters
        if self._by_epoch:
            return counters.epoch, counters.inner_iter + iteration - counters.iter
        return self._divided(iteration + self._ahead, self.length)

    def _divided(self, batch: int, length: int | None) -> tuple[int, int]:
        return (0, batch) if length is None or is_endless(self.dataloader) else divmod(batch, length)

    def indices(self, iteration: int) -> list[int] | None:
        """Return the dataset indices in this rank's batch of an iteration; None if they cannot be determined."""
        data_pass, batch = self.position(iteration)
        loader = self.dataloader
        if not isinstance(loader, PositionedLoader) or loader.order.epoch != data_pass or batch < 0:
            return None
        size = loader.batch_size or 1
        items = islice(loader.order.items_from(batch * size), size)
        return [index for item in items for index in ([item] if isinstance(item, int) else item)]

    def seek(self) -> None:
        """Make a direct iteration over the loader begin with the next batch, if supported, for loops from MMEngine."""
        if isinstance(self.dataloader, PositionedLoader):
            self.dataloader.start(*self.position(self._counters.iter))

    def open(self) -> None:
        """Start fetching at the next batch."""
        self._open(*self.position(self._counters.iter))

    def reopen(self) -> None:
        """Discard prefetched batches and fetch them again, because data workers have copies of the old dataset."""
        loader = self.dataloader
        if self._batches is None:
            return
        if keeps_position(loader) or isinstance(loader, PositionedLoader):
            self._open(self._pass, self._batch)
        elif getattr(loader, "num_workers", 0):
            get_logger().warning(
                "The dataset has changed, but the data workers have copies of the old one, and this data loader cannot "
                "start in the middle of an epoch: the change takes effect at the next epoch."
            )

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
            batch = next(self._open(self._pass + 1 - self._after_end, 0), END)
            if batch is END and not self._by_epoch:
                raise TrainingError("the training data loader does not yield any batch")
        if batch is END:
            self._batches = None
        self._batch += 1
        self._after_end = False
        return batch

    def _open(self, data_pass: int, batch: int) -> Iterator[Any]:
        """Start fetching at the given batch of a pass, or at the restored position of the loader itself."""
        loader = self.dataloader
        if self._batches is not None and keeps_position(loader):  # in the middle of a pass
            loader.load_state_dict(loader.state_dict())
            self._restored = True
        left = None
        self._pass, self._batch, self._after_end = data_pass, batch, self._restored and batch == 0
        if self._restored:
            self._restored = False
        elif not start_at(loader, data_pass, batch):
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
            self._pass, self._after_end = loader.epoch, False
        self._batches = islice(iterate(loader), left) if left != 0 else iter(())
        return self._batches

    def state_dict(self) -> dict[str, Any]:
        """Return the position after the last finished iteration, and the batching that it refers to."""
        finished = self._counters.state_dict()
        if self._by_epoch:
            data_pass, batch = finished["epoch"], finished["inner_iter"]
        else:
            data_pass, batch = self.position(finished["iter"])
        batching = self.batching
        state = {"pass": data_pass, "taken": batch * (batching.samples or 1), **batching._asdict()}
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
        if "loader" in state:
            if not keeps_position(self.dataloader):
                raise CheckpointError("the checkpoint contains data loader state, but this run's loader is stateless")
            self.dataloader.load_state_dict(state["loader"])
            self._restored = True
        now = self.batching
        before = Batching(*(state[name] for name in Batching._fields))
        data_pass, batch, repeated = state["pass"], state["taken"] // (before.samples or 1), 0
        if not before.by_epoch or is_endless(self.dataloader):
            data_pass, batch = self._divided(data_pass * (before.batches or 0) + batch, before.batches)
        if before.samples and now.samples:
            batch, repeated = divmod(batch * before.samples, now.samples)
        if before != now and now.batches is not None and batch >= now.batches and not is_endless(self.dataloader):
            batch, repeated = now.batches, 0
        if not self._by_epoch:
            self._ahead = data_pass * (now.batches or 0) + batch - self._counters.iter
        return Move(data_pass, batch, before, 0 if self._restored else repeated) if before != now else None
