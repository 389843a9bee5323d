"""Weights of a model with another number of classes: what does not fit is skipped and logged, for every task."""

from pathlib import Path
from typing import Any

import pytest
import torch

from trainwright.engine.registry import MODELS
from trainwright.engine.run.runner import Runner

SMALL = dict(base_channels=4, depth=2)


def models(classes: int) -> dict[str, Any]:
    """Return a config of each kind of model, and the layers that depend on the number of classes."""
    lenet = dict(type="LeNet", num_classes=classes, channels=(2, 2), hidden_features=4)
    features = {**lenet, "num_classes": None}
    return {
        "classifier": (dict(type="ImageClassifier", backbone=lenet), ["backbone.classifier.5"]),
        "torchvision": (
            dict(type="ImageClassifier", backbone="squeezenet1_1", num_classes=classes), ["backbone.classifier.1"],
        ),
        "multi-label": (
            dict(type="ImageClassifier", backbone=features, head=dict(type="MultiLabelLinearClsHead", num_classes=classes, in_channels=4)),
            ["head.fc"],
        ),
        "neighbors": (dict(type="KNNClassifier", backbone=lenet, memory={}), ["backbone.classifier.5"]),
        "segmentation": (
            dict(type="SemanticSegmentor", network=dict(type="UNet", num_classes=classes, **SMALL)), ["network.classifier"],
        ),
        "several tasks": (
            dict(
                type="MultiTaskModel",
                backbone=dict(type="UNet", num_classes=None, **SMALL),
                heads=dict(parts=dict(type="SegmentationHead", num_classes=classes, in_channels=8, channels=4)),
            ),
            ["heads.parts.classifier.4"],
        ),
    }  # fmt: skip


@pytest.mark.parametrize("kind", models(2))
def test_weights_of_another_number_of_classes(kind: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    before, layers = MODELS.build(models(2)[kind][0]), models(2)[kind][1]
    torch.save({"state_dict": before.state_dict()}, tmp_path / "two.pth")
    runner = Runner(model=models(5)[kind][0], work_dir=str(tmp_path / "run"))
    own = {name: value.clone() for name, value in runner.model.state_dict().items()}
    runner.load_checkpoint(tmp_path / "two.pth")
    (log,) = tmp_path.glob("run/*/*.log")
    report = log.read_text()
    of_classes = [name for name in own if name.rpartition(".")[0] in layers]
    assert of_classes
    for name, value in runner.model.state_dict().items():
        if name in of_classes:
            assert torch.equal(value, own[name])
            assert f"{name}: ({'2, ' if value.dim() > 1 else '2,'}" in report
        else:
            assert torch.equal(value, before.state_dict()[name]), name
