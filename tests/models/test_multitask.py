"""Multi-task models."""

from pathlib import Path
from typing import Any

import pytest
import torch

from trainwright.engine.config.config import Config
from trainwright.engine.errors import ConfigError
from trainwright.engine.inference.inferencer import Inferencer
from trainwright.engine.run.runner import Runner
from trainwright.engine.structures.pixel_data import PixelData
from trainwright.engine.structures.sample import DataSample
from trainwright.models import MultiTaskModel

CONFIG = Path(__file__).parents[2] / "configs/multitask/unet_kind_and_parts_shapes.py"
PARTS: dict[str, Any] = dict(
    backbone=dict(type="UNet", num_classes=None, base_channels=4, depth=2),
    necks=dict(kind=dict(type="GlobalAveragePooling")),
    heads=dict(
        kind=dict(type="LinearClsHead", num_classes=3, in_channels=8),
        parts=dict(type="SegmentationHead", num_classes=4, in_channels=(4, 8), channels=4, dropout=0.0),
    ),
)


def batch() -> dict[str, Any]:
    images = [torch.randint(0, 256, (3, *size), dtype=torch.uint8) for size in ((8, 6), (4, 8))]
    samples = [
        DataSample(gt_label=torch.tensor(1), gt_sem_seg=PixelData(sem_seg=torch.ones(1, *image.shape[1:]).long()))
        for image in images
    ]
    for sample, image in zip(samples, images):
        sample.set_metainfo({"img_shape": tuple(image.shape[1:]), "ori_shape": tuple(image.shape[1:])})
    return {"inputs": images, "data_samples": samples}


def test_losses_are_weighted_and_added_up() -> None:
    torch.manual_seed(0)
    model = MultiTaskModel(**PARTS, loss_weights=dict(kind=0.25)).eval()
    data = model.data_preprocessor(batch(), True)
    losses = model(**data, mode="loss")
    assert list(losses) == ["kind.loss", "parts.loss_ce"]
    features = model.backbone(data["inputs"])
    kind = model.heads["kind"].loss(features[-1].mean((2, 3)), data["data_samples"])["loss"]
    assert losses["kind.loss"].item() == pytest.approx(0.25 * kind.item())
    total, _ = model.parse_losses(losses)
    total.backward()
    assert total.item() == pytest.approx(losses["kind.loss"].item() + losses["parts.loss_ce"].item())
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_predictions_are_merged() -> None:
    model = MultiTaskModel(**PARTS).eval()
    first, second = model.test_step(batch())
    assert first.keys() == ["gt_label", "gt_sem_seg", "pred_score", "pred_label", "pred_sem_seg"]
    assert (first.pred_sem_seg.shape, second.pred_sem_seg.shape) == ((8, 6), (4, 8))
    assert {name: tuple(value.shape) for name, value in model(torch.rand(2, 3, 8, 8)).items()} == {
        "kind": (2, 3), "parts": (2, 4, 8, 8),
    }  # fmt: skip
    (alone,) = model.test_step({"inputs": torch.zeros(1, 3, 8, 8)})
    assert alone.keys() == ["pred_score", "pred_label", "pred_sem_seg"]


def test_mistakes_are_named() -> None:
    with pytest.raises(ConfigError, match="heads"):
        MultiTaskModel(PARTS["backbone"], heads={})
    with pytest.raises(ConfigError, match="there is no head") as caught:
        MultiTaskModel(**PARTS, loss_weights=dict(part=1.0))
    assert "did you mean 'parts'?" in str(caught.value)
    with pytest.raises(ValueError, match="mode must be"):
        MultiTaskModel(**PARTS)(torch.rand(1, 3, 8, 8), mode="train")


def train(work_dir: Path, **changes: Any) -> dict[str, float]:
    cfg = Config.fromfile(CONFIG)
    cfg.merge_from_dict({"work_dir": str(work_dir), **changes})
    runner = Runner.from_cfg(cfg)
    runner.train()
    return runner.test()


@pytest.mark.long
def test_a_short_training_learns_both_tasks(tmp_path: Path) -> None:
    changes = {
        "model.backbone.base_channels": 8, "model.backbone.depth": 3, "model.heads.segmentation.in_channels": (8, 32),
        "model.heads.classification.in_channels": 32, "param_scheduler.total_steps": 3, "train_cfg.max_epochs": 3,
        "visualizer": dict(type="Visualizer", vis_backends=[]),
    }  # fmt: skip
    for split in ("train", "val", "test"):
        changes |= {f"{split}_dataloader.dataset.{key}": value for key, value in dict(
            size=32, kinds=["circle", "arrow"], max_shapes=1, radius=(0.25, 0.4), num_samples=480 if split == "train" else 100,
        ).items()}  # fmt: skip
    results = train(tmp_path, **changes)
    assert results["accuracy/top1"] > 75
    assert results["seg/mIoU"] > 55  # background everywhere: 25
    (checkpoint,) = tmp_path.glob("best_seg_mIoU_*.pth")
    (prediction,) = Inferencer(checkpoint, show_progress=False)(torch.zeros(3, 32, 32, dtype=torch.uint8))[
        "predictions"
    ]
    assert {"pred_class", "pred_score", "pred_sem_seg"} <= prediction.keys()


@pytest.mark.slow
def test_the_shipped_config_reaches_its_scores(tmp_path: Path) -> None:
    results = train(tmp_path)
    assert results["accuracy/top1"] > 80
    assert results["seg/mIoU"] > 80
