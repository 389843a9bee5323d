"""Gradient accumulation: which losses make one update."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(slots=True)
class AccumulationWindow:
    """Counts losses and groups them into windows, each of which makes one update.

    Windows of ``size`` losses follow one another; one that reaches the end of the run is shorter.

    Args:
        size: losses in a window.
        done: losses propagated back so far.
        start: count at which windows of this size began.
        last: count at the end of the run; -1 if it has no known end.
        next_size: size of the windows after the one in progress, if that is to change.
    """

    size: int = 1
    done: int = 0
    start: int = 0
    last: int = -1
    next_size: int | None = None

    @property
    def gathered(self) -> int:
        """Number of losses in the window in progress."""
        return (self.done - self.start) % self.size

    @property
    def divisor(self) -> int:
        """Number of losses that the window of the next loss will have in the end."""
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
        """Set the size of the windows, from the next one on if one is in progress."""
        if self.is_complete:
            self.size, self.start, self.next_size = size, self.done, None
        else:
            self.next_size = size

    def move_to(self, done: int) -> None:
        """Begin a window at a count."""
        self.done = self.start = done

    def shift(self, by: int) -> None:
        """Renumber the losses; the window in progress stays as it is."""
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
        """Restore the count. A window in progress ends with the size it began with, and this one's applies after it."""
        self.move_to(state_dict["inner_count"])
        self.next_size = None
        if "counts" not in state_dict:
            return
        if self.size != state_dict["counts"]:
            self.next_size = self.size
        self.size, self.start = state_dict["counts"], state_dict["window_start"]
        if (length := state_dict.get("length", self.size)) < self.size:
            self.last = self.start + length
