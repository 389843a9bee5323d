"""ModuleWrapper: any module can be trained."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from trainwright.engine.optim.wrapper import OptimWrapper
from trainwright.engine.registry import MODELS
from trainwright.models import MLP, ModuleWrapper


def test_training_an_mlp_is_the_hand_written_loop() -> None:
    torch.manual_seed(0)
    inputs, labels = torch.randn(16, 3), torch.randint(0, 2, (16,))
    torch.manual_seed(1)
    model = ModuleWrapper({"type": "MLP", "in_features": 3, "num_classes": 2, "hidden_features": [8]})
    torch.manual_seed(1)
    by_hand = MLP(3, 2, [8])
    optim_wrapper = OptimWrapper(torch.optim.AdamW(model.parameters(), lr=0.01))
    optimizer = torch.optim.AdamW(by_hand.parameters(), lr=0.01)
    for _ in range(5):
        log_vars = model.train_step([inputs, labels], optim_wrapper)
        loss = F.cross_entropy(by_hand(inputs), labels)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        assert torch.equal(log_vars["loss"], loss)
    for name, parameter in by_hand.named_parameters():
        assert torch.equal(model.state_dict()[f"network.{name}"], parameter)


def test_torchvision_by_full_path() -> None:
    model = ModuleWrapper({"type": "torchvision.models.resnet18", "num_classes": 3})
    losses = model(torch.rand(2, 3, 32, 32), torch.tensor([0, 2]), mode="loss")
    assert losses["loss"].shape == ()
    sample = model.eval().test_step([torch.rand(2, 3, 32, 32), torch.tensor([0, 2])])
    assert sample.pred_score.shape == (2, 3)
    assert sample.gt_label.tolist() == [0, 2]


def test_regression_returns_the_output_itself() -> None:
    model = ModuleWrapper(nn.Linear(3, 2), loss={"type": "torch.nn.MSELoss"})
    inputs, targets = torch.rand(4, 3), torch.rand(4, 2)
    loss = model(inputs, targets, mode="loss")["loss"]
    assert torch.equal(loss, F.mse_loss(model.network(inputs), targets))
    predictions, losses = model.val_step([inputs, targets], with_loss=True)
    assert torch.equal(predictions, model.network(inputs))
    assert torch.equal(losses["loss"], loss)
    with pytest.raises(ValueError, match="mode must be"):
        model(inputs, mode="train")


def test_a_detector_gets_its_targets_and_gives_its_losses() -> None:
    config = {"type": "torchvision.models.detection.fasterrcnn_mobilenet_v3_large_320_fpn", "num_classes": 3,
              "weights_backbone": None, "min_size": 64, "max_size": 64}  # fmt: skip
    model = ModuleWrapper(config)
    images = [torch.rand(3, 60, 50), torch.rand(3, 40, 64)]
    box = {"boxes": torch.tensor([[5.0, 5.0, 30.0, 30.0]]), "labels": torch.tensor([1])}
    optim_wrapper = OptimWrapper(torch.optim.SGD(model.parameters(), lr=0.001))
    log_vars = model.train_step({"inputs": images, "data_samples": [box, box]}, optim_wrapper)
    assert set(log_vars) == {"loss", "loss_classifier", "loss_box_reg", "loss_objectness", "loss_rpn_box_reg"}
    parts = [value for name, value in log_vars.items() if name != "loss"]
    torch.testing.assert_close(log_vars["loss"], sum(parts))
    predictions = model.eval().test_step({"inputs": images, "data_samples": [box, box]})
    assert [sorted(prediction) for prediction in predictions] == [["boxes", "labels", "scores"]] * 2


class Own(nn.Module):
    """A module that returns the result of a given function."""

    def __init__(self, output: Any) -> None:
        super().__init__()
        self.output = output

    def forward(self, inputs: Tensor, labels: Tensor | None = None) -> Any:
        return self.output(inputs, labels)


@pytest.mark.parametrize(
    "output",
    [
        lambda x, y: F.cross_entropy(x, y),
        lambda x, y: {"loss_ce": F.cross_entropy(x, y)},
        lambda x, y: x,
        lambda x, y: {"out": x, "aux": x * 2},
        lambda x, y: {"logits": x},
    ],
)
def test_losses_in_all_forms(output: Any) -> None:
    logits, labels = torch.randn(3, 4), torch.tensor([0, 1, 3])
    losses = ModuleWrapper(Own(output))(logits, labels, mode="loss")
    assert torch.equal(next(iter(losses.values())), F.cross_entropy(logits, labels))


def test_compiling_and_names() -> None:
    model = ModuleWrapper(nn.Linear(3, 2))
    inputs = torch.rand(4, 3)
    expected = model(inputs)
    model.compile_forward(backend="eager")
    assert torch.equal(model(inputs), expected)
    assert list(model.state_dict()) == ["network.weight", "network.bias"]


def test_built_as_the_runner_does() -> None:
    module = nn.Linear(2, 2)
    assert MODELS.build({"type": "ModuleWrapper", "module": module}).network is module
    with pytest.raises(TypeError, match="module must be a module or its config, not 3"):
        ModuleWrapper(3)  # type: ignore[arg-type]
