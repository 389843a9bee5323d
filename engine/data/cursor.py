"""Where a training is in its data."""

from collections.abc import Iterator, Mapping
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple

from trainwright.engine.data.loader import PositionedLoader, is_endless, iterate, start_at
from trainwright.engine.data.streams import StreamLoader
from trainwright.engine.data.traits import keeps_position
from trainwright.engine.distributed import get_world_size
from trainwright.engine.errors import CheckpointError, TrainingError
from trainwright.engine.records.log_processor import num_batches
from trainwright.engine.records.logger import get_logger

if TYPE_CHECKING:
    from trainwright.engine.run.state import RunState

END = object()
"""What :meth:`DataCursor.next` returns at the end of a pass."""


class Batching(NamedTuple):
    """How the data come in batches.

    Args:
        by_epoch: whether the loop counts epochs.
        samples: in an iteration, by all ranks; None where the loader does not say.
        batches: in a pass; None where the loader does not say.
    """

    by_epoch: bool
    samples: int | None
    batches: int | None

    def changes(self, other: "Batching") -> str:
        """Describe how another batching differs, for messages."""
        names = ("training by epochs", "samples in an iteration", "iterations in an epoch")
        return ", ".join(f"{name}: {a} → {b}" for name, a, b in zip(names, self, other) if a != b)


class Move(NamedTuple):
    """Where a run continues whose checkpoint was written with other batches.

    Args:
        data_pass: which pass over the data it is.
        batch: which batch of the pass, as batches are now.
        before: what batches were.
        repeated: how many samples come again, since a batch begins with them.
    """

    data_pass: int
    batch: int
    before: Batching
    repeated: int


class DataCursor:
    """Where a training is in its data: which pass over them, and how many samples of it are taken.

    In an epoch loop a pass is an epoch, and the cursor yields one pass at a time. In a loop by iterations, passes
    follow each other, and the cursor knows how many batches the data are ahead of the iterations, after a resume with
    other batches. A checkpoint counts samples of all ranks, so that another batch size or number of processes is a
    division. (Where a loader does not say how many samples a batch has, it counts batches.)

    The position follows from the counters of the run, whoever writes the loop that counts.

    Args:
        counters: those of the run.
        by_epoch: whether the loop counts epochs.
    """

    def __init__(self, counters: "RunState", by_epoch: bool) -> None:
        self.dataloader: Any = None
        self._counters = counters
        self._by_epoch = by_epoch
        self._ahead = 0
        self._batches: Iterator[Any] | None = None
        self._pass = self._batch = 0  # of the next batch to fetch
        self._restored = False  # the loader is where it was, and not to be moved
        self._after_end = False  # perhaps at the end of the pass before

    @property
    def length(self) -> int | None:
        """How many batches a pass has, or None if there is no end to it."""
        return num_batches(self.dataloader)

    @property
    def batching(self) -> Batching:
        """How the data come in batches."""
        loader = self.dataloader
        size = loader.batch_size if isinstance(loader, PositionedLoader | StreamLoader) else None
        return Batching(self._by_epoch, None if size is None else size * get_world_size(), self.length)

    def position(self, iteration: int) -> tuple[int, int]:
        """Return the pass that an iteration of the epoch in progress is in, and which batch of it the iteration takes.

        Args:
            iteration: 0-based index of the iteration. The batch is negative for one before the epoch in progress.
        """
        counters = self._counters
        if self._by_epoch:
            return counters.epoch, counters.inner_iter + iteration - counters.iter
        return self._divided(iteration + self._ahead, self.length)

    def _divided(self, batch: int, length: int | None) -> tuple[int, int]:
        return (0, batch) if length is None or is_endless(self.dataloader) else divmod(batch, length)

    def indices(self, iteration: int) -> list[int] | None:
        """Return the dataset indices in this rank's batch of an iteration; None where they cannot be worked out."""
        data_pass, batch = self.position(iteration)
        loader = self.dataloader
        if not isinstance(loader, PositionedLoader) or loader.order.epoch != data_pass or batch < 0:
            return None
        size = loader.batch_size or 1
        items = islice(loader.order.items_from(batch * size), size)
        return [index for item in items for index in ([item] if isinstance(item, int) else item)]

    # ------------------------------------------------------------------------------------------------------- fetching

    def seek(self) -> None:
        """Make an iteration over the loader itself begin with the batch that is due, if the loader can.

        For loops as they are written for MMEngine.
        """
        if isinstance(self.dataloader, PositionedLoader):
            self.dataloader.start(*self.position(self._counters.iter))

    def open(self) -> None:
        """Begin to fetch, with the batch that is due."""
        self._open(*self.position(self._counters.iter))

    def reopen(self) -> None:
        """Fetch the batches to come again, if any are on their way: data workers have copies of the old dataset."""
        loader = self.dataloader
        if self._batches is None:
            return
        if keeps_position(loader) or isinstance(loader, PositionedLoader):
            self._open(self._pass, self._batch)
        elif getattr(loader, "num_workers", 0):
            get_logger().warning(
                "The data workers have copies of the dataset as it was, and this data loader cannot start in the "
                "middle of an epoch: they see the change at the next one."
            )

    def close(self) -> None:
        """Fetch no more batches."""
        self._batches = None

    def next(self) -> Any:
        """Return the next batch; by epochs, :data:`END` after the last one of a pass.

        Raises:
            TrainingError: the loader yields no batches.
        """
        assert self._batches is not None
        batch = next(self._batches, END)
        if batch is END and (self._after_end or not self._by_epoch):
            self._batches = None
            batch = next(self._open(self._pass + 1 - self._after_end, 0), END)
            if batch is END and not self._by_epoch:
                raise TrainingError("the training data loader yields no batch")
        if batch is END:
            self._batches = None
        self._batch += 1
        self._after_end = False
        return batch

    def _open(self, data_pass: int, batch: int) -> Iterator[Any]:
        """Begin to fetch, with a batch of a pass; or where the loader itself was restored to."""
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
                    "the checkpoint was written in the middle of an epoch and has no state of a data loader, but this "
                    "run's loader keeps its own position: resume from the end of an epoch, or start from the weights"
                )
            left = None if self.length is None else max(0, self.length - batch)
            if left != 0:
                get_logger().warning(
                    "this data loader cannot start in the middle of an epoch: it begins again with the first sample, "
                    "so some samples are seen twice%s. A loader that is described in the config over a dataset with "
                    "indices, or over an iterable one with state_dict() and load_state_dict(), resumes exactly.",
                    "" if left is None else ", and as many at the end of the epoch are left out",
                )
        if isinstance(loader, StreamLoader) and not self._by_epoch:  # it knows better, its length may be a guess
            self._pass, self._after_end = loader.epoch, False
        self._batches = islice(iterate(loader), left) if left != 0 else iter(())
        return self._batches

    # ------------------------------------------------------------------------------------------------- saving, resuming

    def state_dict(self) -> dict[str, Any]:
        """Return the position after the last finished iteration, and what it depends on."""
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
        """Continue with the next sample that is due where a state was taken.

        Returns:
            Where that is, if batches are no longer what they were.

        Raises:
            CheckpointError: the state is one of a loader that kept its position, and this run's does not.
        """
        if "loader" in state:
            if not keeps_position(self.dataloader):
                raise CheckpointError("the checkpoint has the state of a data loader, but this run's loader has none")
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
