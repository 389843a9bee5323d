"""Counting of losses for gradient accumulation."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(slots=True)
class AccumulationWindow:
    """A counter that groups losses into windows, one per update.

    Windows have ``size`` losses; the one at the end of the run may be shorter.

    Args:
        size: number of losses per window.
        done: number of losses propagated back so far.
        start: value of ``done`` at the start of the first window of this size.
        last: value of ``done`` at the end of the run; -1 if unknown.
        next_size: size of the windows after the current one, if it is to change.
    """

    size: int = 1
    done: int = 0
    start: int = 0
    last: int = -1
    next_size: int | None = None

    @property
    def gathered(self) -> int:
        """Number of losses so far in the current window."""
        return (self.done - self.start) % self.size

    @property
    def divisor(self) -> int:
        """Final number of losses in the window of the next loss."""
        if self.done >= self.last:
            return self.size
        return min(self.size, self.last - self.done + self.gathered)

    @property
    def is_complete(self) -> bool:
        """Whether no loss is waiting for its update."""
        return self.gathered == 0 or self.done == self.last

    @property
    def ends_with_next(self) -> bool:
        """Whether the next loss completes a window."""
        return self.gathered + 1 == self.size or self.done + 1 == self.last

    def resize(self, size: int) -> None:
        """Set the window size; within a window, from the next one on."""
        if self.is_complete:
            self.size, self.start, self.next_size = size, self.done, None
        else:
            self.next_size = size

    def move_to(self, done: int) -> None:
        """Start a window at the count ``done``."""
        self.done = self.start = done

    def shift(self, by: int) -> None:
        """Renumber the losses; the current window does not change."""
        self.done += by
        self.start += by
        if self.last != -1:
            self.last += by

    def state_dict(self) -> dict[str, int]:
        """Return ``inner_count``, and within a window its ``window_start``, ``counts`` (size) and ``length``."""
        state = {"inner_count": self.done}
        if not self.is_complete:
            state.update(window_start=self.done - self.gathered, counts=self.size, length=self.divisor)
        return state

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Restore the counts. A saved window keeps its size; a different current size applies after it."""
        self.move_to(state_dict["inner_count"])
        self.next_size = None
        if "counts" not in state_dict:
            return
        if self.size != state_dict["counts"]:
            self.next_size = self.size
        self.size, self.start = state_dict["counts"], state_dict["window_start"]
        if (length := state_dict.get("length", self.size)) < self.size:
            self.last = self.start + length
