"""Initializers. The hashes are from MMEngine 0.10.7, except for TruncNormal, which follows torch."""

import hashlib
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from trainwright.engine.errors import CheckpointError, ConfigError
from trainwright.engine.registry import WEIGHT_INITIALIZERS
from trainwright.models import BaseModule, Sequential, bias_init_with_prob
from trainwright.models.initializers import (
    constant_init,
    initialize,
    trunc_normal_init,
    uniform_init,
    xavier_init,
)


class Net(BaseModule):
    def __init__(self, init_cfg: Any = None) -> None:
        super().__init__(init_cfg)
        self.conv = nn.Conv2d(3, 8, 3)
        self.bn = nn.BatchNorm2d(8)
        self.fc = nn.Linear(8, 4)
        inner = {"type": "Constant", "layer": "Conv2d", "val": 0.5, "bias": 2}
        self.sub = Sequential(nn.Conv2d(8, 8, 1), init_cfg=inner)


def fingerprint(module: nn.Module) -> str:
    digest = hashlib.sha256()
    for parameter in module.parameters():
        digest.update(parameter.detach().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


@pytest.mark.parametrize(
    ("expected", "config"),
    [
        ("f166cd500756fa38", {"type": "Kaiming", "layer": ["Conv2d", "Linear"]}),
        (
            "fc15df9b0462c959",
            {"type": "Kaiming", "layer": ["Conv2d"], "distribution": "uniform", "mode": "fan_in", "a": 1,
             "nonlinearity": "leaky_relu", "bias": 0.3},
        ),
        ("7dac4cf99da234b2", {"type": "Xavier", "layer": "Linear", "gain": 2}),
        (
            "0daaef872ca35ea4",
            {"type": "Xavier", "layer": "Conv2d", "distribution": "uniform", "bias_prob": 0.01},
        ),
        ("a7672a01d5e56073", {"type": "Normal", "layer": "Linear", "std": 0.01, "mean": 0.5}),
        ("39b70dd016cec011", {"type": "Uniform", "layer": "Linear", "a": -1, "b": 0.5}),
        ("a8c865dd81d48c98", {"type": "Caffe2Xavier", "layer": "Conv2d"}),
        ("0839a1544672ebf2", {"type": "Constant", "layer": "_BatchNorm", "val": 3, "bias": 1}),
        ("6c9011e20d1b2d98", {"type": "Constant", "layer": "_ConvNd", "val": 3, "bias": 1}),
        (
            "442c3d0d82df72a7",
            [
                {"type": "Constant", "val": 1, "layer": "Linear", "override": {"name": "conv"}},
                {"type": "Normal", "layer": "Linear", "override": [
                    {"type": "Uniform", "name": "bn"}, {"type": "Constant", "name": "sub", "val": 7}]},
            ],
        ),
    ],
)  # fmt: skip
def test_numbers_are_those_of_mmengine(expected: str, config: Any) -> None:
    torch.manual_seed(0)
    net = Net(config)
    net.init_weights()
    assert fingerprint(net) == expected


def test_trunc_normal() -> None:
    layer = nn.Linear(200, 200)
    trunc_normal_init(layer, mean=1, std=2, a=0, b=2, bias=3)
    assert layer.weight.min() >= 0
    assert layer.weight.max() <= 2
    assert layer.weight.mean().item() == pytest.approx(1, abs=0.02)
    # The truncated density is nearly uniform: the variance is 0.3, compared with 1/3 for a uniform one.
    assert layer.weight.var().item() == pytest.approx(0.32, abs=0.01)
    assert layer.bias.unique().tolist() == [3]
    net = Net({"type": "TruncNormal", "layer": "Linear", "std": 0.01})
    net.init_weights()
    assert 0 < net.fc.weight.abs().max() < 0.05


def test_functions_take_modules_without_weight_or_bias() -> None:
    constant_init(nn.ReLU(), 1)
    norm = nn.BatchNorm1d(2, affine=False)
    uniform_init(norm)
    layer = nn.Linear(2, 2, bias=False)
    constant_init(layer, 3, bias=1)
    assert layer.weight.unique().tolist() == [3]
    with pytest.raises(ValueError, match="distribution must be 'normal' or 'uniform', not 'cauchy'"):
        xavier_init(layer, distribution="cauchy")


def test_bias_with_probability() -> None:
    bias = bias_init_with_prob(0.01)
    assert bias == pytest.approx(-4.59511985)
    assert 1 / (1 + math.exp(-bias)) == pytest.approx(0.01)


@pytest.mark.parametrize("arguments", [{"bias": "1"}, {"bias_prob": 1}, {"layer": 3}, {"override": "conv"}])
def test_wrong_arguments(arguments: dict[str, Any]) -> None:
    with pytest.raises(TypeError, match=next(iter(arguments))):
        WEIGHT_INITIALIZERS.build({"type": "Constant", "val": 1, **arguments})


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ({"type": "Constant", "val": 1}, "missing 'name'"),
        ({"name": "conv", "val": 1}, "missing 'type'"),
        ({"name": "cnv"}, "Net has no 'cnv'\n    did you mean 'conv'"),
    ],
)
def test_wrong_overrides(override: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        initialize(Net(), {"type": "Constant", "val": 1, "override": override})


def test_configs_are_not_changed() -> None:
    config = {"type": "Constant", "val": 1, "layer": "Linear", "override": {"type": "Normal", "name": "conv"}}
    before = repr(config)
    initialize(Net(), config)
    assert repr(config) == before
    with pytest.raises(TypeError, match="init_cfg must be a dict or a list"):
        initialize(Net(), "Constant")  # type: ignore[arg-type]


def test_pretrained_with_prefix(tmp_path: Path) -> None:
    source = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 4))
    file = tmp_path / "weights.pth"
    torch.save({"state_dict": {f"module.backbone.{k}": v for k, v in source.state_dict().items()}}, file)
    target = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 5))
    head = target[1].weight.clone()
    initialize(target, {"type": "Pretrained", "checkpoint": str(file), "prefix": "backbone."})
    assert torch.equal(target[0].weight, source[0].weight)
    assert torch.equal(target[1].weight, head)
    with pytest.raises(CheckpointError, match=r"no name in .*weights.pth starts with 'neck.'"):
        initialize(target, {"type": "Pretrained", "checkpoint": str(file), "prefix": "neck"})
