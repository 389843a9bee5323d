"""ModuleWrapper: any module can be trained."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from trainwright.engine.errors import TrainingError
from trainwright.engine.optim.wrapper import OptimWrapper
from trainwright.engine.registry import FUNCTIONS, MODELS
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
        lambda x, y: {"classification": F.cross_entropy(x, y)},
        lambda x, y: SimpleNamespace(loss=F.cross_entropy(x, y), logits=x, loss_dict={"a": x}),
    ],
)
def test_losses_in_all_forms(output: Any) -> None:
    logits, labels = torch.randn(3, 4, requires_grad=True), torch.tensor([0, 1, 3])
    losses = ModuleWrapper(Own(output))(logits, labels, mode="loss")
    assert torch.equal(next(iter(losses.values())), F.cross_entropy(logits, labels))


DETECTORS = {
    "fcos_resnet50_fpn": {"classification", "bbox_regression", "bbox_ctrness"},
    "retinanet_resnet50_fpn": {"classification", "bbox_regression"},
    "ssdlite320_mobilenet_v3_large": {"classification", "bbox_regression"},
}


@pytest.mark.parametrize("name", DETECTORS)
def test_losses_of_any_name_are_the_losses_of_a_module_that_has_got_targets(name: str) -> None:
    config = {"type": f"torchvision.models.detection.{name}", "num_classes": 2, "weights_backbone": None}
    if not name.startswith("ssd"):
        config |= {"min_size": 64, "max_size": 64}
    model = ModuleWrapper(config)
    images = [torch.rand(3, 60, 50), torch.rand(3, 40, 64)]
    box = {"boxes": torch.tensor([[5.0, 5.0, 30.0, 30.0]]), "labels": torch.tensor([1])}
    log_vars = model.train_step([images, [box, box]], OptimWrapper(torch.optim.SGD(model.parameters(), lr=0.001)))
    assert set(log_vars) == {"loss", *(f"loss_{part}" for part in DETECTORS[name])}
    torch.testing.assert_close(log_vars["loss"], sum(value for key, value in log_vars.items() if key != "loss"))
    found = model.eval().test_step([images, [box, box]])
    assert [sorted(prediction) for prediction in found] == [["boxes", "labels", "scores"]] * 2


class Keywords(nn.Module):
    """A network with the conventions of Hugging Face."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(3, 4)

    def forward(self, pixel_values: Tensor, labels: Tensor | None = None) -> Any:
        logits = self.fc(pixel_values)
        loss = None if labels is None else F.cross_entropy(logits, labels)
        return SimpleNamespace(loss=loss, logits=logits)


def test_a_batch_of_keywords_is_passed_as_it_is() -> None:
    model = ModuleWrapper(Keywords())
    batch = {"pixel_values": torch.rand(5, 3), "labels": torch.tensor([0, 1, 2, 3, 0])}
    wrapper = OptimWrapper(torch.optim.SGD(model.parameters(), lr=0.1))
    losses = [model.train_step(batch, wrapper)["loss"].item() for _ in range(5)]
    assert losses == sorted(losses, reverse=True) and losses[-1] < losses[0]
    sample = model.eval().test_step(batch)
    assert torch.equal(sample.gt_label, batch["labels"]) and sample.pred_score.shape == (5, 4)
    _, evaluated = model.val_step(batch, with_loss=True)
    assert torch.equal(evaluated["loss"], F.cross_entropy(model.network.fc(batch["pixel_values"]), batch["labels"]))
    with pytest.raises(TypeError, match="unexpected keyword argument 'index'"):  # nothing is dropped
        model.train_step({**batch, "index": torch.arange(5)}, wrapper)


class ListOfDicts(nn.Module):
    """A network with the conventions of Detectron2."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(3, 1)

    def forward(self, batched_inputs: list[dict[str, Any]]) -> Any:
        outputs = [self.fc(each["image"]) for each in batched_inputs]
        if not self.training:
            return [{"found": output} for output in outputs]
        targets = [each["wanted"] for each in batched_inputs]
        return {
            "distance": sum((one - other).square().sum() for one, other in zip(outputs, targets)),
            "n": torch.ones(()),
        }


def test_a_list_of_dicts_is_passed_as_it_is() -> None:
    model = ModuleWrapper(ListOfDicts()).train()
    batch = [{"image": torch.rand(size, 3), "wanted": torch.rand(size, 1), "name": "a"} for size in (2, 5)]
    assert FUNCTIONS.get("list_collate")(batch) is batch
    log_vars = model.train_step(batch, OptimWrapper(torch.optim.SGD(model.parameters(), lr=0.1)))
    assert set(log_vars) == {"loss", "loss_distance", "n"} and torch.equal(log_vars["loss"], log_vars["loss_distance"])
    assert [tuple(each["found"].shape) for each in model.eval().test_step(batch)] == [(2, 1), (5, 1)]


def test_the_loss_may_be_a_criterion_with_several_losses() -> None:
    class Criterion(nn.Module):
        def forward(self, outputs: Any, targets: Any) -> Any:
            return {"loss_a": outputs.mean(), "loss_b": outputs.square().mean() + targets[0]["weight"]}

    model = ModuleWrapper(nn.Linear(3, 2), loss=Criterion())
    losses = model(torch.rand(2, 3), [{"weight": 2.0}, {"weight": 1.0}], mode="loss")
    assert set(losses) == {"loss_a", "loss_b"}


def test_outputs_without_targets_to_compare_them_with_are_explained() -> None:
    with pytest.raises(TrainingError, match="Linear returned no losses, but .* and the batch has no targets"):
        ModuleWrapper(nn.Linear(3, 2))(torch.rand(2, 3), mode="loss")


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
