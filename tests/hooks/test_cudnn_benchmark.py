"""CudnnBenchmarkHook decides by the sizes of the first images."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_runs import Points, log_of, make_runner
from torch import Tensor, nn

from trainwright.hooks import CudnnBenchmarkHook
from trainwright.hooks.cudnn_benchmark import image_sizes


class Images(Points):
    """Images of one size, except for those with the given indices."""

    def __init__(self, other: tuple[int, ...] = (), shape: tuple[int, ...] = (1, 6, 5)) -> None:
        super().__init__(8)
        self.other, self.shape = other, shape

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return torch.zeros(self.shape if index not in self.other else (1, 7, 5)), self.targets[index]


class Mean(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def train_step(self, data: Any, optim_wrapper: Any) -> dict[str, Tensor]:
        loss = (self.scale * data[0][0].mean()).square()
        optim_wrapper.update_params(loss)
        return {"loss": loss.detach()}


@pytest.fixture(autouse=True)
def restored_flag() -> Iterator[None]:
    yield
    torch.backends.cudnn.benchmark = False


def train(folder: Path, dataset: Images, **options: Any) -> str:
    loader = {"collate_fn": {"type": "pseudo_collate"}, "sampler": {"type": "DefaultSampler", "shuffle": False}}
    runner = make_runner(
        folder, [CudnnBenchmarkHook(batches=3)], model=Mean(), dataset=dataset, batch_size=2,
        train_dataloader=loader, **options,
    )  # fmt: skip
    runner.train()
    return log_of(runner)


def test_on_if_images_have_one_size(tmp_path: Path) -> None:
    assert "cuDNN benchmark: on, because images have one size (6×5)" in train(tmp_path, Images())
    assert torch.backends.cudnn.benchmark


def test_off_if_sizes_vary_among_the_first_batches(tmp_path: Path) -> None:
    assert "cuDNN benchmark: off" in train(tmp_path, Images(other=(5,)))
    assert not torch.backends.cudnn.benchmark


def test_later_batches_do_not_matter(tmp_path: Path) -> None:
    train(tmp_path, Images(other=(6,)))
    assert torch.backends.cudnn.benchmark


def test_off_in_deterministic_runs(tmp_path: Path) -> None:
    torch.use_deterministic_algorithms(True)
    try:
        assert "cuDNN benchmark" not in train(tmp_path, Images())
    finally:
        torch.use_deterministic_algorithms(False)
    assert not torch.backends.cudnn.benchmark


def test_off_without_images(tmp_path: Path) -> None:
    assert "cuDNN benchmark" not in train(tmp_path, Images(shape=(3,)))
    assert not torch.backends.cudnn.benchmark


def test_sizes_are_those_of_the_inputs() -> None:
    image, masks = torch.zeros(3, 4, 5), torch.zeros(2, 9, 9)
    assert image_sizes({"inputs": [image, image], "data_samples": [masks]}) == {(4, 5)}
    assert image_sizes([torch.zeros(2, 3, 4, 5), masks]) == {(4, 5)}
    assert image_sizes({"inputs": [image, torch.zeros(3, 4, 6)]}) == {(4, 5), (4, 6)}
    assert image_sizes((torch.zeros(8, 2), torch.zeros(8))) == image_sizes([]) == image_sizes({}) == set()
