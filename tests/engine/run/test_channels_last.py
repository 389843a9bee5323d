"""Convolutions with channels-last weights: the same values, with fused steps and with any checkpoint."""

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_runs import StopAt, make_runner, weights_of
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from trainwright.engine.checkpoints.files import load_checkpoint_file
from trainwright.engine.run.model_surgery import contiguous_weights, to_channels_last
from trainwright.models import BaseModel

FORMAT = torch.channels_last


class Net(BaseModel):
    """A convolution with several input channels, one of size 1×1, and a depthwise one."""

    def __init__(self, flatten: str = "reshape", orthogonal: bool = False) -> None:
        super().__init__()
        self.first, self.point = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 1)
        self.depthwise, self.head = nn.Conv2d(4, 4, 3, groups=4), nn.Linear(16, 1)
        self.flatten, self.orthogonal = flatten, orthogonal

    def init_weights(self) -> None:
        if self.orthogonal:
            nn.init.orthogonal_(self.first.weight)

    def forward(self, inputs: Tensor, data_samples: Tensor, mode: str = "tensor") -> Any:
        features = self.depthwise(self.point(self.first(inputs).relu()))
        output = self.head(getattr(features, self.flatten)(len(inputs), -1)).squeeze(1)
        return {"loss": nn.functional.mse_loss(output, data_samples)}


def dataset() -> TensorDataset:
    torch.manual_seed(5)
    return TensorDataset(torch.randn(8, 3, 6, 6), torch.randn(8))


def train(folder: Path, channels_last: bool, hooks: Any = (), accumulate: int = 1, **options: Any) -> Any:
    torch.manual_seed(0)
    model = options.pop("model", None) or Net()
    runner = make_runner(
        folder, hooks, checkpoint={"interval": 1}, model=model, dataset=dataset(),
        optim_wrapper={"optimizer": {"type": "Adam", "lr": 0.1}, "accumulative_counts": accumulate},
        env_cfg={"channels_last": channels_last}, **options,
    )  # fmt: skip
    runner.train()
    return runner


def strides(model: Any) -> list[tuple[int, ...]]:
    return [module.weight.stride() for module in model.modules() if isinstance(module, nn.Conv2d)]


def test_weights_have_the_strides_of_channels_last() -> None:
    model = Net()
    values = {name: value.clone() for name, value in model.state_dict().items()}
    to_channels_last(model)
    assert strides(model) == [(27, 1, 9, 3), (4, 1, 4, 4), (9, 1, 3, 1)]
    assert all(torch.equal(value, values[name]) for name, value in model.state_dict().items())


def test_weights_are_contiguous_while_they_are_initialized() -> None:
    model = Net()
    to_channels_last(model)
    before = strides(model), model.first.weight.data_ptr()
    with contiguous_weights(model):
        assert model.first.weight.is_contiguous()
        nn.init.orthogonal_(model.first.weight)
        drawn = model.first.weight.clone()
    assert (strides(model), model.first.weight.data_ptr()) == before
    assert torch.equal(model.first.weight, drawn)


def test_networks_without_convolutions_and_other_convolutions_are_not_changed() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Conv1d(2, 3, 3), nn.Conv3d(2, 3, 3), nn.LazyConv2d(3, 3))
    before = [each.stride() for each in model[:3].parameters()]
    to_channels_last(model)
    assert [each.stride() for each in model[:3].parameters()] == before


@pytest.mark.parametrize("accumulate", [1, 4])
@pytest.mark.parametrize("first", [True, False])
def test_a_run_continues_in_the_other_format(tmp_path: Path, first: bool, accumulate: int) -> None:
    whole = train(tmp_path / "whole", False, accumulate=accumulate)
    assert whole.optim_wrapper.param_groups[0]["fused"]
    part = tmp_path / "part"
    stopped = train(part, first, [StopAt(3)], accumulate)
    assert stopped.model.first.weight.is_contiguous(memory_format=FORMAT) == first
    resumed = train(part, not first, accumulate=accumulate, resume=True)
    assert resumed.model.first.weight.is_contiguous(memory_format=FORMAT) != first
    assert resumed.iter == 6
    for name, value in weights_of(resumed).items():
        torch.testing.assert_close(value, weights_of(whole)[name], rtol=1e-4, atol=1e-5)


def test_a_resumed_run_has_the_same_bits(tmp_path: Path) -> None:
    whole = train(tmp_path / "whole", True)
    train(tmp_path / "part", True, [StopAt(3)])
    resumed = train(tmp_path / "part", True, resume=True)
    assert all(torch.equal(value, weights_of(whole)[name]) for name, value in weights_of(resumed).items())


def test_files_have_the_same_size_and_values(tmp_path: Path) -> None:
    runs = {name: train(tmp_path / name, name == "last", train_cfg={"max_epochs": 1}) for name in ("first", "last")}
    files = {name: tmp_path / name / "epoch_1.pth" for name in runs}
    sizes = [file.stat().st_size for file in files.values()]
    assert abs(sizes[0] - sizes[1]) < 1000
    saved = load_checkpoint_file(files["last"])["state_dict"]
    model = Net()
    model.load_state_dict(saved)
    assert model.first.weight.is_contiguous()
    assert all(torch.equal(value, weights_of(runs["last"])[name]) for name, value in model.state_dict().items())


def test_initializers_that_need_contiguous_weights(tmp_path: Path) -> None:
    weights = []
    for channels_last in (False, True):
        model = Net(orthogonal=True)
        folder = tmp_path / str(channels_last)
        runner = make_runner(folder, model=model, dataset=dataset(), env_cfg={"channels_last": channels_last}, lr=0.0)
        runner.train()
        weights.append(weights_of(runner)["first.weight"])
    assert torch.equal(*weights)


def test_a_view_that_fails_is_explained(tmp_path: Path) -> None:
    train(tmp_path / "plain", False, model=Net("view"))
    with pytest.raises(RuntimeError, match="view size is not compatible") as error:
        train(tmp_path / "last", True, model=Net("view"))
    assert any("env_cfg.channels_last=False" in note for note in error.value.__notes__)
