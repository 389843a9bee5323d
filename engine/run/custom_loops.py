"""What training loops that are written for MMEngine need: its helpers, and what ours do besides training."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from trainwright.engine.data.joint_cursor import make_cursor
from trainwright.engine.data.loader import iterate
from trainwright.engine.data.traits import set_epoch
from trainwright.engine.ranks.consensus import Consensus
from trainwright.engine.run.hook import Hook
from trainwright.engine.run.state import RunState

if TYPE_CHECKING:
    from trainwright.engine.run.base_loop import BaseLoop
    from trainwright.engine.run.runner import Runner


class Stopped(Exception):
    """Leaves a training loop between two iterations, since the run is to stop."""


class CustomLoopHook(Hook):
    """Gives a loop with a ``run`` of its own what the training loops of the engine do in theirs.

    The generators are seeded for each iteration, an epoch continues where the run was interrupted, and a request to
    stop ends the loop before the next iteration, with a checkpoint. An iteration-based loop skips the data of earlier
    iterations itself, as MMEngine's does.

    Args:
        loop: the loop.
        state: the counters of its run.
    """

    priority = 0

    def __init__(self, loop: "BaseLoop", state: RunState) -> None:
        self._loop = loop
        self._consensus = Consensus(state)

    def before_train_epoch(self, runner: "Runner") -> None:
        """Let the data loader start at the next batch."""
        if self._loop.by_epoch:
            make_cursor(runner.state, True, self._loop.dataloader).seek()

    def before_train_iter(self, runner: "Runner", batch_idx: int, data_batch: Any = None) -> None:
        """Leave the loop if the run is to stop, and seed the generators."""
        self._consensus.begin()
        self._consensus.end()
        if runner.state.stop_reason is not None:
            raise Stopped
        if runner.seed_step.resume_from is not None:  # the loop has not restored them
            runner.seed_step.start_training(runner.iter)
        runner.seed_step(runner.iter)


class InfiniteDataloaderIterator:
    """Endless passes over a data loader; ``_InfiniteDataloaderIterator`` in MMEngine.

    Args:
        dataloader: the data loader.
    """

    def __init__(self, dataloader: Any) -> None:
        self._dataloader = dataloader
        self._batches = iterate(dataloader)
        self._epoch = 0

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        try:
            return next(self._batches)
        except StopIteration:
            self._epoch += 1
            for name in ("sampler", "batch_sampler"):
                set_epoch(getattr(self._dataloader, name, None), self._epoch)
            self._batches = iterate(self._dataloader)
            return next(self._batches)


def calc_dynamic_intervals(
    start_interval: int, dynamic_interval_list: Sequence[tuple[int, int]] | None = None
) -> tuple[list[int], list[int]]:
    """Return where the validation interval changes, beginning with 0, and the intervals.

    Args:
        start_interval: the first interval.
        dynamic_interval_list: pairs of (epoch or iteration, interval from that point on).
    """
    changes = dynamic_interval_list or ()
    return [0, *(begin for begin, _ in changes)], [start_interval, *(interval for _, interval in changes)]
