"""The counters of a run, and its random streams.

Random streams are derived rather than carried: before each training step the generators are seeded from (seed, rank,
iteration), and before each sample is fetched from (seed, epoch, index). So nothing that draws random numbers elsewhere,
such as a validation or another number of workers, can shift them, and a resumed run needs no generator state.
"""

import os
import random
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

_MASK = (1 << 64) - 1


def mix(*numbers: int) -> int:
    """Returns 64 well mixed bits that depend on every argument and on their order (SplitMix64, Steele et al. 2014)."""
    state = 0
    for number in numbers:
        state = (state + number + 0x9E3779B97F4A7C15) & _MASK
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & _MASK
        state ^= state >> 31
    return state


def seed_host(stream: int) -> None:
    """Seeds ``random``, ``numpy.random`` and torch's CPU generator, in a few microseconds."""
    random.seed(stream)
    np.random.seed(stream & 0xFFFFFFFF)
    torch.default_generator.manual_seed(stream)


def set_random_seed(seed: int, *, deterministic: bool = False) -> None:
    """Seeds every generator of this process.

    Args:
        seed: any non-negative number.
        deterministic: also refuse algorithms whose result differs from run to run, at a cost of speed.
    """
    random.seed(seed)
    np.random.seed(seed & 0xFFFFFFFF)
    torch.manual_seed(seed)
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.backends.cudnn.benchmark = False
        torch.use_deterministic_algorithms(True)


@dataclass
class RunState:
    """The counters of a run. The loop writes them; everything else reads.

    Args:
        epoch: 0-based index of the epoch in progress; the number of finished epochs between epochs.
        iter: 0-based index of the training iteration in progress; the number of finished ones between iterations.
        inner_iter: number of finished iterations of the epoch in progress.
        validated_at: value of ``iter`` at the last finished validation; -1 before the first.
        iter_done: the iteration in progress is finished and not yet counted (while ``after_train_iter`` is called).
        epoch_done: likewise the epoch (while ``after_train_epoch`` is called).
        stop_reason: why the run is to stop at the next boundary, or None.
        stop_signal: number of the signal that asked for it, or 0.
    """

    epoch: int = 0
    iter: int = 0
    inner_iter: int = 0
    validated_at: int = -1
    iter_done: bool = False
    epoch_done: bool = False
    stop_reason: str | None = None
    stop_signal: int = 0

    def state_dict(self) -> dict[str, int]:
        """Returns how many epochs and iterations are finished, those included that are not counted yet."""
        return {
            "epoch": self.epoch + self.epoch_done,
            "iter": self.iter + self.iter_done,
            "inner_iter": 0 if self.epoch_done else self.inner_iter + self.iter_done,
            "validated_at": self.validated_at,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes over saved counters."""
        for name in self.state_dict():
            setattr(self, name, int(state[name]))


class StepSeeder:
    """Gives every training step a random stream of its own.

    Costs about 10 µs a step.

    Args:
        seed: seed of the run.
        rank: rank of this process; each rank has its own streams.
        device: where the model trains; its generator is seeded too.
    """

    def __init__(self, seed: int, rank: int, device: torch.device) -> None:
        self._bases = [mix(seed, rank, purpose) for purpose in range(2)]
        self._device_generator: torch.Generator | None = None
        if device.type == "cuda":
            index = device.index if device.index is not None else torch.cuda.current_device()
            self._device_generator = torch.cuda.default_generators[index]

    def __call__(self, iteration: int, purpose: int = 0) -> None:
        """Seeds all generators for one step.

        Args:
            iteration: index of the training iteration.
            purpose: 0 for training, 1 for validation and test.
        """
        stream = mix(self._bases[purpose], iteration)
        seed_host(stream)
        if self._device_generator is not None:
            self._device_generator.manual_seed(stream)
