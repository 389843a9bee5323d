"""Tensors without values: what is made up where a model reads them."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor
from torchvision.ops import batched_nms

from trainwright.engine import ConfigError
from trainwright.engine.estimate.fake import FakeMeter


def test_checks_of_data_pass_and_numbers_are_zero() -> None:
    meter = FakeMeter()
    with meter.active():
        values = torch.ones(3)
        assert (values > 0).all() and torch.isfinite(values[0]) and torch.equal(values, values + 1)
        assert not (values > 0).any() and not values.isnan().any()
        assert values.sum().item() == 0 and int(values.long().max()) == 0
    assert [text.partition(" ")[0] for text in meter.assumptions] == ["numbers"]


def _sampled(length: int, number: int) -> Tensor:
    chosen = torch.where(torch.rand(length) > 0.5)[0][:number]
    mask = torch.zeros(length, dtype=torch.uint8)
    mask[chosen] = 1
    return mask


def test_selections_by_value_have_their_largest_size() -> None:
    meter = FakeMeter()
    with meter.active():
        mask = torch.rand(100) > 0.5
        assert len(torch.where(mask)[0]) == len(torch.rand(100)[mask]) == len(torch.unique(torch.rand(100))) == 100
        one, other = _sampled(100, 10), _sampled(100, 5)
        assert len(torch.where(one | other)[0]) == len(torch.where(torch.cat([one, other]))[0]) == 15
        assert len(torch.rand(100)[one.bool()]) == 100  # bool() makes another mask
        one[20:40] = 1
        assert len(torch.where(one)[0]) == 100
    assert any("upper bound" in text for text in meter.assumptions)


def test_suppression_keeps_all_boxes_without_a_loop_over_them() -> None:
    meter = FakeMeter()
    with meter.active():
        kept = batched_nms(torch.rand(5000, 4), torch.rand(5000), torch.randint(80, (5000,)), 0.5)
        assert kept.shape == (5000,)
    assert len(meter.blocks) < 100
    assert "non-maximum suppression keeps all boxes: an upper bound" in meter.assumptions


class _Probing(nn.Module):
    """A model whose constructor computes with its weights, reads constants, and copies a layer."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(3, 4)
        nn.init.trunc_normal_(self.first.weight)
        self.second = nn.Linear(self.first(torch.zeros(1, 3)).shape[1], 2)
        self.copied = copy.deepcopy(self.second)
        self.tied = nn.Linear(4, 2)
        self.tied.weight = self.second.weight
        self.rates = torch.linspace(0, 1, 3).tolist()
        self.constant = torch.arange(3.0)
        self.register_buffer("mean", torch.ones(2))


def test_constructors_may_compute_with_weights_that_have_no_memory() -> None:
    meter = FakeMeter()
    with meter.fake_parameters():
        model: Any = _Probing()
    meter.fake_buffers(model)
    assert all(isinstance(tensor, FakeTensor) for tensor in (*model.parameters(), *model.buffers()))
    assert model.tied.weight is model.second.weight and model.copied.weight is not model.second.weight
    assert model.rates == [0.0, 0.5, 1.0] and isinstance(model.copied.weight, nn.Parameter)
    with meter.active():
        average = copy.deepcopy(model)
    assert average.constant.tolist() == [0.0, 1.0, 2.0]
    assert isinstance(average.first.weight, FakeTensor) and average.tied.weight is average.second.weight


def test_a_layer_without_sizes_is_refused() -> None:
    with pytest.raises(ConfigError, match="LazyLinear.weight"), FakeMeter().fake_parameters():
        nn.LazyLinear(3)
