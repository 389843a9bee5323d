"""BaseModel: the three steps, the losses, devices and compiling."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from trainwright.engine.errors import TrainingError
from trainwright.engine.optim.wrapper import OptimWrapper
from trainwright.models import BaseDataPreprocessor, BaseModel, ImgDataPreprocessor


class Regression(BaseModel):
    """A linear model that counts its forward passes and records their modes."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.linear = nn.Linear(3, 1)
        self.modes: list[str] = []

    def forward(self, inputs: Tensor, data_samples: Any = None, mode: str = "tensor") -> Any:
        self.modes.append(mode)
        output = self.linear(inputs)
        if mode == "loss":
            error = output - data_samples
            return {"loss_l2": error.square(), "bias": self.linear.bias.detach()}
        return output


@pytest.fixture
def batch() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(4, 3, generator=generator)
    return {"inputs": inputs, "data_samples": inputs.sum(1, keepdim=True)}


def test_train_step_is_the_hand_written_step(batch: dict[str, Tensor]) -> None:
    torch.manual_seed(1)
    model = Regression()
    torch.manual_seed(1)
    by_hand = nn.Linear(3, 1)
    optim_wrapper = OptimWrapper(torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9))
    optimizer = torch.optim.SGD(by_hand.parameters(), lr=0.1, momentum=0.9)
    for _ in range(5):
        log_vars = model.train_step(batch, optim_wrapper)
        loss = (by_hand(batch["inputs"]) - batch["data_samples"]).square().mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        assert list(log_vars) == ["loss", "loss_l2", "bias"]
        assert torch.equal(log_vars["loss"], loss)
    assert torch.equal(model.linear.weight, by_hand.weight)
    assert torch.equal(model.linear.bias, by_hand.bias)


def test_batches_may_be_dicts_or_sequences(batch: dict[str, Tensor]) -> None:
    model = Regression()
    expected = model.linear(batch["inputs"])
    assert torch.equal(model.val_step(batch), expected)
    assert torch.equal(model.test_step(list(batch.values())), expected)
    assert torch.equal(model.test_step(tuple(batch.values())), expected)
    with pytest.raises(TypeError, match="must return a dict, list or tuple, not Tensor"):
        model.test_step(batch["inputs"])


def test_validation_with_loss(batch: dict[str, Tensor]) -> None:
    model = Regression()
    predictions, losses = model.val_step(batch, with_loss=True)
    assert torch.equal(predictions, model.linear(batch["inputs"]))
    assert torch.equal(losses["loss"], F.mse_loss(predictions, batch["data_samples"]))
    assert model.modes == ["predict", "loss"]


def test_parse_losses() -> None:
    losses = {
        "loss_a": torch.tensor([1.0, 2.0]),
        "acc": torch.tensor(3.0),
        "loss_b": [torch.tensor([0.1, 0.2]), torch.tensor(0.3)],
    }
    loss, log_vars = Regression().parse_losses(losses)
    assert loss.item() == pytest.approx(1.95)
    assert {name: round(value.item(), 6) for name, value in log_vars.items()} == {
        "loss": 1.95, "loss_a": 1.5, "acc": 3.0, "loss_b": 0.45,
    }  # fmt: skip
    assert next(iter(log_vars)) == "loss"


def test_the_total_replaces_a_loss_of_that_name() -> None:
    loss, log_vars = Regression().parse_losses({"loss": torch.tensor(1.0), "loss_extra": torch.tensor(2.0)})
    assert loss.item() == log_vars["loss"].item() == 3.0


def test_a_single_scalar_loss_is_passed_on_as_it_is() -> None:
    given = torch.tensor(1.5, requires_grad=True)
    loss, log_vars = Regression().parse_losses({"loss": given})
    assert loss is given
    assert log_vars["loss"] is given


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (3.0, "returned float 3.0 as loss 'loss_x': return a tensor, or a list of tensors"),
        (None, "returned None as loss 'loss_x': omit"),
        ([torch.ones(1), None], "returned None as loss 'loss_x' at index 1"),
        (["x"], "returned str 'x' as loss 'loss_x' at index 0"),
        ({"a": torch.ones(1)}, "returned dict .* as loss 'loss_x'"),
    ],
)
def test_losses_are_tensors(value: Any, message: str) -> None:
    with pytest.raises(TypeError, match=f"Regression {message}"):
        Regression().parse_losses({"loss_x": value})


@pytest.mark.parametrize(
    ("losses", "found"),
    [
        (torch.tensor(1.0), "Tensor ()"),
        ([torch.tensor(1.0)], "a list of 1 (Tensor ())"),
        ((torch.ones(2), {}), "a tuple of 2 (Tensor (2,), dict)"),
        (None, "NoneType"),
    ],
)
def test_losses_come_in_a_dictionary(losses: Any, found: str) -> None:
    with pytest.raises(TypeError, match=r"Regression.forward\(mode='loss'\) must return a dictionary") as caught:
        Regression().parse_losses(losses)
    assert str(caught.value).endswith(f"not {found}")
    with pytest.raises(TypeError, match="a loss named 0: .* a string"):
        Regression().parse_losses({0: torch.tensor(1.0)})


def test_empty_lists_and_counts_are_losses_too() -> None:
    loss, log_vars = Regression().parse_losses(
        {"loss_a": [], "loss_b": torch.tensor(2.0), "hits": torch.tensor([1, 0]), "count": torch.tensor(3)}
    )
    assert loss.item() == 2.0
    assert {name: value.item() for name, value in log_vars.items()} == {
        "loss": 2.0, "loss_a": 0.0, "loss_b": 2.0, "hits": 0.5, "count": 3,
    }  # fmt: skip


def test_a_loss_without_gradient_is_explained(batch: dict[str, Tensor]) -> None:
    model = Regression()
    optim_wrapper = OptimWrapper(torch.optim.SGD(model.parameters(), lr=0.1))
    forward = model.forward
    model.forward = lambda **data: {name: value.detach() for name, value in forward(**data).items()}  # type: ignore
    with pytest.raises(TrainingError, match=r"the loss of Regression has no gradient: .*\.item\(\)"):
        model.train_step(batch, optim_wrapper)
    model.requires_grad_(False)
    with pytest.raises(TrainingError, match="all its parameters are frozen"):
        model.train_step(batch, optim_wrapper)


def test_no_loss_at_all() -> None:
    with pytest.raises(ValueError, match="Regression returned no loss, only accuracy"):
        Regression().parse_losses({"accuracy": torch.tensor(1.0)})


def test_preprocessors_follow_the_model() -> None:
    outer = nn.Sequential(Regression(data_preprocessor={"type": "ImgDataPreprocessor", "mean": [1], "std": [2]}))
    preprocessor = outer[0].data_preprocessor
    assert preprocessor.device == torch.device("cpu")
    outer.to("meta")
    assert preprocessor.device == torch.device("meta")
    assert preprocessor.mean.device == torch.device("meta")
    assert preprocessor(torch.empty(2).expand(2, 1, 2, 2)[None].unbind())[0].is_meta
    outer.to_empty(device="cpu")
    assert preprocessor.device == torch.device("cpu")
    assert outer.half()[0].data_preprocessor.device == torch.device("cpu")


def test_preprocessor_may_be_a_module_or_a_config() -> None:
    assert type(Regression().data_preprocessor) is BaseDataPreprocessor
    preprocessor = ImgDataPreprocessor()
    assert Regression(data_preprocessor=preprocessor).data_preprocessor is preprocessor
    with pytest.raises(TypeError, match="must be a config or a module, not 3"):
        Regression(data_preprocessor=3)  # type: ignore[arg-type]


def test_compiling_keeps_the_names_and_the_numbers(batch: dict[str, Tensor]) -> None:
    model = Regression()
    names, expected = list(model.state_dict()), model.val_step(batch)
    model.compile_forward(backend="eager")
    assert list(model.state_dict()) == names == ["linear.weight", "linear.bias"]
    assert torch.equal(model.val_step(batch), expected)


def test_forward_must_be_implemented() -> None:
    with pytest.raises(TypeError, match=r"abstract method '?forward"):
        BaseModel()  # type: ignore[abstract]
