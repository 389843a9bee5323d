import random
from pathlib import Path

import numpy as np
import pytest
import torch

from trainwright.engine.random_streams import (
    StepSeeder,
    deterministic_algorithms,
    mix,
    python_rng_state,
    seed_all,
    seed_cpu_generators,
    set_python_rng_state,
)


def draw() -> tuple[float, float, float]:
    return random.random(), float(np.random.rand()), float(torch.rand(()))


def test_mixing_depends_on_every_number_and_their_order() -> None:
    seen = {mix(a, b, c) for a in range(10) for b in range(10) for c in range(10)}
    assert len(seen) == 1000
    assert all(0 <= value < 2**64 for value in seen)
    bits = np.array([[value >> bit & 1 for bit in range(64)] for value in seen])
    assert (np.abs(bits.mean(0) - 0.5) < 0.08).all()


def test_mixing_is_the_same_on_every_machine() -> None:
    assert mix(0) == 0xE220A8397B1DCDAF  # the first output of SplitMix64 from state 0
    assert mix(1, 2, 3) == mix(1, 2, 3) != mix(3, 2, 1)


def test_all_cpu_generators_are_seeded() -> None:
    seed_cpu_generators(2**63 + 5)
    first = draw()
    draw()
    seed_cpu_generators(2**63 + 5)
    assert draw() == first
    seed_cpu_generators(2**63 + 6)
    assert all(a != b for a, b in zip(draw(), first))


def test_seeding_is_that_of_torch_and_numpy() -> None:
    seed_all(7)
    first = draw()
    random.seed(7)
    np.random.seed(7)
    torch.manual_seed(7)
    assert draw() == first


@pytest.mark.parametrize("outside", [False, True])
def test_algorithms_are_deterministic_while_a_run_wants_it_and_then_as_before(outside: bool) -> None:
    try:
        torch.use_deterministic_algorithms(outside, warn_only=True)
        with deterministic_algorithms(False):
            assert torch.are_deterministic_algorithms_enabled() is outside
        with deterministic_algorithms(True):
            assert torch.are_deterministic_algorithms_enabled()
            assert not torch.is_deterministic_algorithms_warn_only_enabled()
        assert torch.are_deterministic_algorithms_enabled() is outside
    finally:
        torch.use_deterministic_algorithms(False)


def test_each_step_rank_and_evaluation_has_its_own_stream() -> None:
    def step(seed: int, rank: int, iteration: int) -> float:
        StepSeeder(seed, rank, torch.device("cpu"))(iteration)
        return float(torch.rand(()))

    draws = [step(0, 0, 0), step(0, 0, 1), step(0, 1, 0), step(1, 0, 0)]
    with StepSeeder(0, 0, torch.device("cpu")).evaluation(0):
        draws.append(float(torch.rand(())))
    assert len(set(draws)) == 5
    assert step(0, 0, 0) == draws[0]


def test_an_evaluation_draws_the_same_each_time_and_shifts_nothing() -> None:
    seeder = StepSeeder(0, 0, torch.device("cpu"))
    seen = []
    for number in (0, 3):
        seed_cpu_generators(5)
        with seeder.evaluation(7):
            seen.append(draw())
            for _ in range(number):
                draw()
        seen.append((random.random(), float(np.random.randn())))
    assert seen[0] == seen[2]
    assert seen[1] == seen[3]


def test_python_rng_state_survives_a_file(tmp_path: Path) -> None:
    seed_cpu_generators(3)
    random.gauss(0, 1)
    np.random.randn()
    torch.save(python_rng_state(), tmp_path / "streams.pth")
    expected = [random.gauss(0, 1), random.random(), np.random.randn(), np.random.rand()]
    set_python_rng_state(torch.load(tmp_path / "streams.pth", weights_only=True))
    assert [random.gauss(0, 1), random.random(), np.random.randn(), np.random.rand()] == expected
