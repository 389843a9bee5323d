"""Averaged models. The expected numbers, sums of all weights and buffers, are from MMEngine 0.10.7."""

import hashlib
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from trainwright.engine.registry import MODELS
from trainwright.models import (
    BaseAveragedModel,
    ExponentialMovingAverage,
    MomentumAnnealingEMA,
    StochasticWeightAverage,
)


def fingerprint(module: nn.Module) -> str:
    digest = hashlib.sha256()
    for tensor in module.state_dict().values():
        digest.update(tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def small_net() -> nn.Module:
    return nn.Sequential(nn.Linear(5, 7), nn.BatchNorm1d(7), nn.Linear(7, 3))


def train(model: nn.Module) -> None:
    model(torch.randn(4, 5)).square().sum().backward()
    with torch.no_grad():
        for parameter in model.parameters():
            assert parameter.grad is not None
            parameter.sub_(parameter.grad * 0.01)
            parameter.grad = None


def change(model: nn.Module, generator: torch.Generator) -> None:
    """Add quarters to all weights and buffers, which is exact on every processor, unlike a training step."""
    with torch.no_grad():
        for tensor in [*model.parameters(), *model.buffers()]:
            if tensor.is_floating_point():
                tensor.add_(torch.randint(-8, 9, tensor.shape, generator=generator) / 4)
            else:
                tensor.add_(1)


@pytest.mark.parametrize(
    ("expected", "config"),
    [
        ([11.0, 9.96288, -10.97294, 1.79683, -6.95834, 1.0, -1.0, 11.0, -10.24354, -2.90155],
         {"type": "ExponentialMovingAverage", "momentum": 0.1}),
        ([11.0, 6.8885, -7.68225, -0.03925, -5.79925, 5.16125, 8.778, 1.0, -7.7545, -3.63025],
         {"type": "ExponentialMovingAverage", "momentum": 0.1, "interval": 3, "update_buffers": True}),
        ([11.0, 19.59722, -19.37621, 8.63885, -14.6711, 1.0, -1.0, 11.0, -19.05647, -1.27391],
         {"type": "MomentumAnnealingEMA", "gamma": 10}),
        ([11.0, 9.25, -11.83333, 1.20833, -7.0, 1.0, -1.0, 11.0, -10.95833, -2.625],
         {"type": "StochasticWeightAverage", "interval": 2}),
    ],
)  # fmt: skip
def test_numbers_are_those_of_mmengine(expected: list[float], config: dict[str, Any]) -> None:
    generator = torch.Generator().manual_seed(1)
    model = small_net()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randint(-8, 9, parameter.shape, generator=generator) / 4)
    averaged = MODELS.build(config, model=model)
    for _ in range(11):
        change(model, generator)
        averaged.update_parameters(model)
    state = averaged.state_dict()
    assert [tensor.double().sum().item() for tensor in state.values()] == pytest.approx(expected, abs=2e-5)
    assert list(state) == ["steps", *(f"module.{name}" for name in model.state_dict())]


@pytest.mark.parametrize("cls", [ExponentialMovingAverage, MomentumAnnealingEMA, StochasticWeightAverage])
def test_avg_foreach_is_bit_identical_to_avg_func(cls: Any) -> None:
    class PerTensor(cls):  # type: ignore[misc]
        def avg_func(self, averaged_param: Tensor, source_param: Tensor, steps: int) -> None:
            calls.append(steps)
            super().avg_func(averaged_param, source_param, steps)

    calls: list[int] = []
    model = nn.ModuleList([nn.Linear(33, 17), nn.Linear(5, 3).double(), nn.Linear(4, 4).bfloat16()])
    fast, slow = cls(model), PerTensor(model)
    for _ in range(5):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter))
        fast.update_parameters(model)
        slow.update_parameters(model)
    for one, other in zip(fast.module.parameters(), slow.module.parameters()):
        assert torch.equal(one, other)
    assert calls == [step for step in (1, 2, 3, 4) for _ in range(6)]


def test_buffers_are_copied_unless_they_are_averaged() -> None:
    model = small_net()
    follows, averages = (
        ExponentialMovingAverage(model, 0.5),
        ExponentialMovingAverage(model, 0.5, update_buffers=True),
    )
    for value in (1.0, 3.0):
        model[1].running_mean.fill_(value)
        model[1].num_batches_tracked.fill_(int(value))
        follows.update_parameters(model)
        averages.update_parameters(model)
    assert follows.module[1].running_mean.unique().tolist() == [3.0]
    assert follows.module[1].num_batches_tracked == 3
    assert averages.module[1].running_mean.unique().tolist() == [2.0]
    assert averages.module[1].num_batches_tracked == 1


def test_the_copy_is_independent_and_frozen() -> None:
    model = small_net()
    averaged = ExponentialMovingAverage(model, 0.1)
    assert not any(parameter.requires_grad for parameter in averaged.parameters())
    assert all(parameter.requires_grad for parameter in model.parameters())
    averaged.eval()
    inputs = torch.randn(2, 5)
    before = averaged(inputs)
    train(model)
    assert torch.equal(averaged(inputs), before)


def test_state_is_restored() -> None:
    torch.manual_seed(0)
    model = small_net()
    averaged = MomentumAnnealingEMA(model, gamma=5)
    for _ in range(3):
        train(model)
        averaged.update_parameters(model)
    other = MomentumAnnealingEMA(small_net(), gamma=5)
    other.load_state_dict(averaged.state_dict())
    assert other.steps == 3
    for _ in range(2):
        train(model)
        averaged.update_parameters(model)
        other.update_parameters(model)
    assert fingerprint(averaged) == fingerprint(other)


def test_tensors_that_are_replaced_are_found() -> None:
    model = nn.Linear(2, 2)
    averaged = ExponentialMovingAverage(model, 0.5)
    averaged.update_parameters(model)
    model.load_state_dict({"weight": torch.full((2, 2), 4.0), "bias": torch.full((2,), 4.0)}, assign=True)
    averaged.load_state_dict({"steps": torch.tensor(7), "module.weight": torch.zeros(2, 2),
                              "module.bias": torch.zeros(2)}, assign=True)  # fmt: skip
    averaged.update_parameters(model)
    assert averaged.module.weight.unique().tolist() == [2.0]
    assert averaged.steps == 8


def test_tied_weights_are_averaged_once() -> None:
    model = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False))
    model[1].weight = model[0].weight
    averaged = ExponentialMovingAverage(model, 0.5, update_buffers=True)
    for value in (0.0, 4.0):
        nn.init.constant_(model[0].weight, value)
        averaged.update_parameters(model)
    assert averaged.module[1].weight.unique().tolist() == [2.0]


def test_copies_of_an_average_work() -> None:
    from copy import deepcopy

    model = nn.Linear(2, 2)
    averaged = ExponentialMovingAverage(model, 0.5)
    averaged.update_parameters(model)
    copy = deepcopy(averaged)
    nn.init.constant_(model.weight, 1.0)
    copy.update_parameters(model)
    assert averaged.steps == 1
    assert copy.steps == 2
    assert not torch.equal(copy.module.weight, averaged.module.weight)


def test_a_subclass_needs_only_avg_func() -> None:
    class Maximum(BaseAveragedModel):
        def avg_func(self, averaged_param: Tensor, source_param: Tensor, steps: int) -> None:
            averaged_param.copy_(torch.maximum(averaged_param, source_param))

    model = nn.Linear(1, 1)
    averaged = Maximum(model)
    for value in (3.0, 5.0, 4.0):
        nn.init.constant_(model.weight, value)
        averaged.update_parameters(model)
    assert averaged.module.weight.item() == 5.0
    with pytest.raises(NotImplementedError):
        BaseAveragedModel(model).avg_func(model.weight, model.weight, 0)


@pytest.mark.parametrize(
    ("cls", "arguments", "message"),
    [
        (ExponentialMovingAverage, {"momentum": 1.0}, r"momentum must be in \(0, 1\)"),
        (MomentumAnnealingEMA, {"gamma": 0}, "gamma must be positive"),
        (StochasticWeightAverage, {"interval": 0}, "interval must be at least 1"),
    ],
)
def test_wrong_arguments(cls: Any, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        cls(nn.Linear(1, 1), **arguments)


def test_a_large_momentum_warns(capsys: pytest.CaptureFixture[str]) -> None:
    from trainwright.engine.records.logger import MMLogger

    with MMLogger.set_current(MMLogger("large_momentum")):
        ExponentialMovingAverage(nn.Linear(1, 1), momentum=0.999)
    assert "0.999 is momentum=0.001" in capsys.readouterr().out


def test_another_model_is_refused() -> None:
    averaged = ExponentialMovingAverage(small_net())
    with pytest.raises(ValueError, match=r"Linear .* no 0\.bias"):
        averaged.update_parameters(nn.Linear(2, 2))


@pytest.mark.parametrize("update_buffers", [False, True])
def test_a_subclass_from_mmengine_updates_the_tensors_itself(update_buffers: bool) -> None:
    class Copy(ExponentialMovingAverage):
        """Like ``ExpMomentumEMA`` of mmyolo."""

        def update_parameters(self, model: nn.Module) -> None:
            source = model.state_dict()
            for name, averaged in self.avg_parameters.items():
                averaged.copy_(source[name])
            self.steps += 1

    model = small_net()
    average = Copy(model, update_buffers=update_buffers)
    change(model, torch.Generator())
    average.update_parameters(model)
    pairs = zip(average.module.state_dict().items(), model.state_dict().values())
    different = [name for (name, averaged), source in pairs if not torch.equal(averaged, source)]
    assert different == ([] if update_buffers else ["1.running_mean", "1.running_var", "1.num_batches_tracked"])
