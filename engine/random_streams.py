"""The random streams of a run.

Generators are seeded wherever this is cheap. PyTorch's generators are seeded before each training step from (seed,
rank, iteration), and all generators before each sample from (seed, epoch, index). Seeding ``random`` and
``numpy.random``, the Python generators, is ten times as slow. Training steps therefore continue their streams: loading
data and evaluating restore their state, and checkpoints contain it. As a result, random numbers drawn elsewhere, such
as during validation or with another number of workers, do not affect a training step.
"""

import os
import random
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch

from trainwright.engine.fidelity import reproduces_mmengine

_MASK = (1 << 64) - 1


def mix(*numbers: int) -> int:
    """Hash numbers, including their order, to 64 well-mixed bits (SplitMix64, Steele et al. 2014)."""
    state = 0
    for number in numbers:
        state = extend_mix(state, number)
    return state


def extend_mix(state: int, number: int) -> int:
    """Return ``mix(*before, number)`` for ``state = mix(*before)``."""
    state = (state + number + 0x9E3779B97F4A7C15) & _MASK
    state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & _MASK
    return state ^ (state >> 31)


def seed_cpu_generators(stream: int) -> None:
    """Seed ``random``, ``numpy.random`` and PyTorch's CPU generator, in a few microseconds."""
    random.seed(stream)
    np.random.seed(stream & 0xFFFFFFFF)
    torch.default_generator.manual_seed(stream)


def seed_all(stream: int) -> None:
    """Seed every generator of this process, including those of all devices, with up to 64 bits."""
    random.seed(stream)
    np.random.seed(stream & 0xFFFFFFFF)
    torch.manual_seed(stream)


@contextmanager
def deterministic_algorithms(wanted: bool) -> Iterator[None]:
    """Make nondeterministic algorithms raise an error while active, if ``wanted``; deterministic ones may be slower."""
    if not wanted:
        yield
        return
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    benchmark, torch.backends.cudnn.benchmark = torch.backends.cudnn.benchmark, False
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        torch.backends.cudnn.benchmark = benchmark


@contextmanager
def preserve_generators() -> Iterator[None]:
    """Restore the states of all generators on exit."""
    with preserve_python_rng(), torch.random.fork_rng([]), ExitStack() as stack:
        for module in (torch.cuda, torch.xpu):
            if module.is_initialized():
                name = module.__name__.removeprefix("torch.")
                stack.enter_context(torch.random.fork_rng(range(module.device_count()), device_type=name))
        yield


class StepSeeder:
    """Seed PyTorch's generators for each training step, in a microsecond or two, and carry those of Python and NumPy.

    Args:
        seed: seed of the run.
        rank: rank of this process; each rank has separate random streams.
        device: device of the model, whose generator is seeded as well.
    """

    def __init__(self, seed: int, rank: int, device: torch.device) -> None:
        self._seed, self._rank = seed, rank
        self._training, self._evaluation = mix(mix(seed, rank, 0)), mix(mix(seed, rank, 1))
        self._generators: list[Any] = [torch.default_generator]
        if device.type != "cpu":
            index = torch.empty(0, device=device).get_device()  # allocating initializes the device
            module = torch.get_device_module(device)
            has_generators = hasattr(module, "default_generators")  # MPS has only functions of its module
            self._generators.append(module.default_generators[index] if has_generators else module)
        self._training_streams: dict[str, Any] | None = None
        self.resume_from: dict[str, Any] | None = None
        """States of ``random`` and ``numpy.random`` for the first training step, if they are known."""

    def start_training(self, iteration: int) -> None:
        """Set ``random`` and ``numpy.random`` for the first training step: to ``resume_from``, or else seed them."""
        if reproduces_mmengine():
            return
        if self.resume_from is not None:
            set_python_rng_state(self.resume_from)
            self.resume_from = None
        else:
            seed_cpu_generators(mix(self._seed, self._rank, iteration))

    def __call__(self, iteration: int) -> None:
        """Seed PyTorch's generators for one training step."""
        if reproduces_mmengine():
            return
        stream = extend_mix(self._training, iteration)
        for generator in self._generators:
            generator.manual_seed(stream)

    @contextmanager
    def evaluation(self, iteration: int) -> Iterator[None]:
        """Use separate random streams for a validation or test after ``iteration``, and restore the others on exit."""
        if reproduces_mmengine():
            yield
            return
        stream = extend_mix(self._evaluation, iteration)
        outer, self._training_streams = self._training_streams, self.python_rng_state()
        try:
            with preserve_python_rng():
                seed_cpu_generators(stream)
                for generator in self._generators[1:]:
                    generator.manual_seed(stream)
                yield
        finally:
            self._training_streams = outer

    def python_rng_state(self) -> dict[str, Any]:
        """Return the states of ``random`` and ``numpy.random`` for the next training step, also while evaluating."""
        return self._training_streams or python_rng_state()


@contextmanager
def preserve_python_rng() -> Iterator[None]:
    """Restore the states of ``random`` and ``numpy.random`` on exit."""
    state, numpy_state = random.getstate(), np.random.get_state()
    try:
        yield
    finally:
        random.setstate(state)
        np.random.set_state(numpy_state)


def python_rng_state() -> dict[str, Any]:
    """Return the states of ``random`` and ``numpy.random`` in a form that checkpoints can store."""
    version, words, gauss = random.getstate()
    name, keys, position, has_gauss, cached = np.random.get_state()
    return {
        "random": {"version": version, "words": torch.tensor(words, dtype=torch.int64), "gauss": gauss},
        "numpy": {
            "name": str(name),
            "keys": torch.from_numpy(np.asarray(keys).astype(np.int64)),
            "position": int(position),
            "has_gauss": int(has_gauss),
            "cached": float(cached),
        },
    }


def set_python_rng_state(state: dict[str, Any]) -> None:
    """Restore the states of ``random`` and ``numpy.random`` returned by :func:`python_rng_state`."""
    python, numpy = state["random"], state["numpy"]
    random.setstate((python["version"], tuple(python["words"].tolist()), python["gauss"]))
    keys = numpy["keys"].numpy().astype(np.uint32)
    np.random.set_state((numpy["name"], keys, numpy["position"], numpy["has_gauss"], numpy["cached"]))
