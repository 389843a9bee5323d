"""Expected values are those of MMEngine, except that tuples of leaves are lists here."""

import random
from collections import namedtuple

import numpy as np
import pytest
import torch

from trainwright.datasets import default_collate, pseudo_collate, whole_batch, worker_init_fn
from trainwright.engine.registry import FUNCTIONS
from trainwright.engine.structures.sample import DataSample

SAMPLES = [
    {"a": 1, "b": (2, 3), "name": "x", "d": [1, [2]]},
    {"a": 4, "b": (5, 6), "name": "y", "d": [7, [8]]},
]
Point = namedtuple("Point", "x y")


def test_pseudo_collate_transposes_without_stacking():
    assert pseudo_collate(SAMPLES) == {
        "a": [1, 4],
        "b": [[2, 5], [3, 6]],
        "name": ["x", "y"],
        "d": [[1, 7], [[2, 8]]],
    }
    assert pseudo_collate([Point(1, 2), Point(3, 4)]) == Point([1, 3], [2, 4])
    first, second = torch.zeros(2), torch.zeros(3)
    assert pseudo_collate([first, second]) == [first, second]


def test_default_collate_stacks_all_but_strings_and_elements():
    batch = default_collate(SAMPLES)
    assert batch["a"].tolist() == [1, 4]
    assert [column.tolist() for column in batch["b"]] == [[2, 5], [3, 6]]
    assert batch["name"] == ["x", "y"]
    elements = [DataSample(), DataSample()]
    batch = default_collate([{"inputs": torch.ones(3), "data_samples": element} for element in elements])
    assert batch["inputs"].shape == (2, 3)
    assert batch["data_samples"] == elements


@pytest.mark.parametrize("collate", [pseudo_collate, default_collate])
def test_a_whole_batch_is_returned_unchanged(collate):
    batch = {"inputs": torch.zeros(4, 2)}
    assert collate(batch) is batch
    assert whole_batch(batch) is batch


@pytest.mark.parametrize("collate", [pseudo_collate, default_collate])
def test_sequences_of_different_lengths_are_refused(collate):
    with pytest.raises(RuntimeError, match=r"different lengths \[1, 2\]"):
        collate([[1], [1, 2]])


@pytest.mark.parametrize("function", [pseudo_collate, default_collate, whole_batch, worker_init_fn])
def test_functions_are_found_by_name(function):
    assert FUNCTIONS.get(function.__name__) is function


def test_worker_seed_is_mmengines():
    worker_init_fn(worker_id=1, num_workers=2, rank=3, seed=10)
    drawn = random.random(), np.random.rand(), torch.rand(()).item()
    random.seed(17)
    np.random.seed(17)
    torch.manual_seed(17)
    assert drawn == (random.random(), np.random.rand(), torch.rand(()).item())
