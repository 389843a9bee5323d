"""Dividing the samples of an iterable dataset among ranks and data workers."""

from typing import Any, NamedTuple

from torch.utils.data import get_worker_info

from trainwright.engine.data.traits import is_sharded
from trainwright.engine.distributed import get_data_rank, get_data_size
from trainwright.engine.records.logger import get_logger


class Share(NamedTuple):
    """The share of this process in the samples that its copy of an iterable dataset yields.

    Samples are distributed over the ranks round-robin, and those of a rank over its data workers batch by batch.

    Args:
        sharded: whether the dataset declares that each process yields its own part of the samples.
        rank: rank of this process.
        world_size: number of ranks that read the same samples.
        batch_size: samples per batch.
        pads: whether the ranks yield the same number of samples, by repeating the last one.
    """

    sharded: bool | None = None
    rank: int = 0
    world_size: int = 1
    batch_size: int = 1
    pads: bool = False

    @property
    def is_part(self) -> bool:
        """Whether this process keeps only a part of the samples."""
        return self.by_worker or (self.sharded is None and self.world_size > 1)

    @property
    def by_worker(self) -> bool:
        """Whether each data worker of a rank keeps only a part of its samples."""
        return self.sharded is False

    def contains(self, number: int) -> bool:
        """Return whether this process keeps a sample.

        Args:
            number: number of the sample in the stream; negative numbers are samples that are done.
        """
        if number < 0 or number % self.world_size != self.rank:
            return False
        info = get_worker_info() if self.by_worker else None
        return info is None or number // self.world_size // self.batch_size % info.num_workers == info.id

    def lacks_last(self, size: int) -> bool:
        """Return whether this process has to repeat the last sample of a stream of this size."""
        first = size // self.world_size * self.world_size  # of an incomplete round over the ranks
        return self.pads and first < size <= first + self.rank and self.contains(first + self.rank)

    def length(self, size: int) -> int:
        """Return the number of samples of this rank in a stream of this size."""
        return -(-(size if self.pads else size - self.rank) // self.world_size)

    def end_of_round(self, number: int) -> int:
        """Return the number of samples that are done on all ranks once ``number`` are done on this one."""
        return -(-number // self.world_size) * self.world_size


def share_of(dataset: Any, path: str, batch_size: int | None, pads: bool) -> Share:
    """Return the share of this process in an iterable dataset, and log a warning if that is a guess.

    Args:
        dataset: the dataset, which may declare its own division; see
            :class:`~trainwright.engine.data.traits.StreamTraits`.
        path: its dotted path in the config, for messages.
        batch_size: samples per batch of a rank.
        pads: whether all ranks need the same number of samples, as in training.
    """
    sharded = is_sharded(dataset)
    rank, world_size = get_data_rank(), get_data_size()
    if sharded is None and world_size > 1:
        get_logger().warning(
            "%s: %s does not declare how its samples are divided among %d processes. Each process reads all that it "
            "yields and keeps one sample in %d. Set its attribute `sharded` to True if it yields only the samples of "
            "its rank and data worker, or to False if it yields all samples in every process.",
            path, type(dataset).__name__, world_size, world_size,
        )  # fmt: skip
    return Share(sharded, rank, world_size, batch_size or 1, pads and world_size > 1 and not sharded)
