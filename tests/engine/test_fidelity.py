"""The mode that reproduces MMEngine. The numbers are those of MMEngine 0.10.7."""

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_runs import Points, make_runner
from torch import nn
from torch.utils.data import DataLoader

from trainwright.datasets import InfiniteSampler
from trainwright.engine import Hook, build_dataloader
from trainwright.engine.fidelity import reproduce_mmengine
from trainwright.engine.optim.optimizers import build_optimizer
from trainwright.models import ExponentialMovingAverage
from trainwright.models.initializers import trunc_normal_


@pytest.fixture(autouse=True)
def _fidelity() -> Iterator[None]:
    reproduce_mmengine()
    yield
    reproduce_mmengine(False)


def test_later_passes_of_an_infinite_sampler_go_on_with_its_generator() -> None:
    order = list(islice(InfiniteSampler(range(5), seed=3), 12))
    assert order == [1, 0, 3, 4, 2, 0, 1, 2, 4, 3, 1, 4]


def test_truncated_normal_distributions_are_drawn_by_the_inverse() -> None:
    torch.manual_seed(0)
    drawn = trunc_normal_(torch.empty(3), std=0.02).tolist()
    assert drawn == pytest.approx([-0.00018766950233839452, 0.014660065993666649, -0.027003809809684753], rel=1e-6)


def test_shared_tensors_are_averaged_for_each_name() -> None:
    layer = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(layer.weight)
    model = nn.Sequential(layer, layer)
    average = ExponentialMovingAverage(model, momentum=0.5, update_buffers=True)
    average.update_parameters(model)
    nn.init.ones_(layer.weight)
    average.update_parameters(model)
    assert average.module[0].weight.item() == 0.75


def test_optimizers_are_not_fused() -> None:
    assert build_optimizer([nn.Parameter(torch.zeros(1))], dict(type="AdamW", lr=0.1)).defaults["fused"] is not True


def test_samples_draw_from_the_generators_of_their_process() -> None:
    loader = build_dataloader(dict(dataset=Points(), batch_size=4), seed=0, training=True)
    assert type(loader) is DataLoader
    assert isinstance(loader.dataset, Points)


class Draws(Hook):
    """Records a number drawn in each iteration, and the batches."""

    def __init__(self) -> None:
        self.drawn: list[float] = []
        self.batches: list[Any] = []

    def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        self.drawn.append(torch.rand(()).item())
        self.batches.append(data_batch[0].tolist())


def test_steps_draw_from_one_stream(tmp_path: Path) -> None:
    draws = Draws()
    make_runner(tmp_path, [draws]).train()
    reproduce_mmengine(False)
    seeded = Draws()
    make_runner(tmp_path / "seeded", [seeded]).train()
    assert len(set(draws.drawn)) == len(draws.drawn) == 6
    assert draws.drawn != seeded.drawn


def test_an_iteration_based_loop_skips_what_it_has_trained_on(tmp_path: Path) -> None:
    options: dict[str, Any] = dict(
        train_cfg=dict(by_epoch=False, max_iters=5, val_interval=100), checkpoint=dict(interval=3, by_epoch=False)
    )
    whole, rest = Draws(), Draws()
    make_runner(tmp_path, [whole], **options).train()
    make_runner(tmp_path / "resumed", [rest], resume=str(tmp_path / "iter_3.pth"), **options).train()
    assert rest.batches == whole.batches[3:]
