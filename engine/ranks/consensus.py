"""Decisions that all ranks take at the same iteration: to stop, and to end a pass over the data."""

import time
from typing import Any, NamedTuple

import torch
import torch.distributed as dist

from trainwright.engine.distributed import get_rank, get_world_size
from trainwright.engine.ranks.start import control_group
from trainwright.engine.run.state import RunState, StopRequest

_MIN_SECONDS = 0.1
_MAX_ITERATIONS = 32
_REQUESTER, _SIGNAL, _QUITS, _MORE, _SKIPPED = range(5)


class Agreed(NamedTuple):
    """What the ranks have agreed on.

    Args:
        more: whether any rank has another batch.
        quits: whether a training loop is to end after the current epoch on all ranks.
    """

    more: bool = True
    quits: bool = False


class Consensus:
    """The agreement of all ranks on stopping, at the end of an iteration.

    A signal may reach one rank only, or several at different iterations, and a hook may request a stop on one rank. If
    that rank stopped alone, the others would wait for it. Therefore a request takes effect once all ranks know of it:
    each iteration begins with an asynchronous all-reduce of five integers, on a group of its own, and ends when it has
    arrived. If iterations are shorter than 100 ms, only every n-th one does this, at least one in 32. In a single
    process, all methods return at once.

    Args:
        state: the state of the run, to which the decision is written.
    """

    def __init__(self, state: RunState) -> None:
        self._state = state
        self._work: Any = None
        self._vector = torch.zeros(5, dtype=torch.int32)
        self._values = self._vector.numpy()  # shares its memory
        self._agreed = Agreed()
        self._wait = 0
        self._begun_at: float | None = None
        self._iterations = 1
        if state.shared:
            self._group = control_group()
            self._options = dist.AllreduceOptions()
            self._options.reduceOp = dist.ReduceOp.MAX

    def begin(self, more: bool = True, quits: bool = False, always: bool = False) -> None:
        """Send the requests of this rank.

        Args:
            more: whether this rank has a batch for this iteration.
            quits: whether its training loop is to end after the current epoch.
            always: do so between iterations, even if the last exchange was less than 100 ms ago; all ranks must pass
                the same.
        """
        state = self._state
        if not state.shared:
            return
        if self._wait and not always:
            self._wait -= 1
            self._iterations += 1
            return
        skipped, now = 0, time.monotonic()
        if self._begun_at is not None and not always:
            seconds = (now - self._begun_at) / self._iterations  # of an iteration
            skipped = int(min(_MIN_SECONDS / max(seconds, 1e-5), _MAX_ITERATIONS - 1))
        self._begun_at, self._iterations = None if always else now, 1
        request = state.request
        self._values[:] = (
            0 if request is None else get_world_size() - get_rank(),
            0 if request is None else request.signal,
            quits,
            more,
            skipped,
        )
        self._work = self._group.allreduce([self._vector], self._options)

    def end(self) -> Agreed:
        """Wait until the requests of all ranks have arrived, and decide.

        Returns:
            What they have agreed on; without an exchange in this iteration, whether any rank had more at the last one.
        """
        if self._work is None:
            return self._agreed
        self._work.wait()
        self._work = None
        found = self._vector.tolist()
        self._wait = self._state.short_iterations = found[_SKIPPED]
        if found[_REQUESTER]:
            self._decide(get_world_size() - found[_REQUESTER], found[_SIGNAL])
        self._agreed = Agreed(bool(found[_MORE]))  # a request to quit is not repeated
        return Agreed(bool(found[_MORE]), bool(found[_QUITS]))

    def everyone(self, condition: bool) -> bool:
        """Return whether a condition holds on all ranks."""
        if not self._state.shared:
            return condition
        vector = torch.tensor([condition], dtype=torch.int32)
        dist.all_reduce(vector, dist.ReduceOp.MIN, self._group)
        return bool(vector)

    def _decide(self, rank: int, number: int) -> None:
        """Take over the request of a rank, and the highest number of a signal that any rank received."""
        state = self._state
        if state.stop_reason is not None and state.stop_signal >= number:
            return
        sent = [state.request]
        dist.broadcast_object_list(sent, group=self._group, group_src=rank)
        assert sent[0] is not None
        state.decide(StopRequest(sent[0].reason, sent[0].complete, number))
