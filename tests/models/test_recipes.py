"""The shipped classification recipes, on a subset of the shipped images and on a few image files."""

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from trainwright.datasets import VOC
from trainwright.engine.config.config import Config
from trainwright.engine.run.runner import Runner

CONFIGS = Path(__file__).parents[2] / "configs/classification"


def runner(name: str, work_dir: Path, **changes: Any) -> Runner:
    cfg = Config.fromfile(CONFIGS / name)
    quiet = {"visualizer": dict(type="Visualizer", vis_backends=[]), "work_dir": str(work_dir)}
    cfg.merge_from_dict({**quiet, **changes})
    return Runner.from_cfg(cfg)


SHORT = {
    "train_dataloader.num_batch_per_epoch": 20, "train_cfg.max_epochs": 3, "train_cfg.val_interval": 3,
    "test_dataloader.num_batch_per_epoch": 1, "val_dataloader.num_batch_per_epoch": 1, "param_scheduler.0.end": 1,
    "param_scheduler.1.begin": 1, "custom_hooks.0.momentum": 0.05, "default_hooks.final_test": None,
    "default_hooks.checkpoint": dict(by_epoch=False, interval=25, max_keep_ckpts=5, save_best=None),
}  # fmt: skip


@pytest.mark.long
def test_the_modern_recipe_learns_and_a_resume_is_exact(tmp_path: Path) -> None:
    whole = runner("lenet_modern_fashion_mnist.py", tmp_path / "whole", **SHORT)
    whole.train()
    assert whole.test()["accuracy/top1"] > 50  # chance: 10
    middle = str(tmp_path / "whole/iter_50.pth")  # in the middle of an epoch
    resumed = runner("lenet_modern_fashion_mnist.py", tmp_path / "resumed", resume=str(middle), **SHORT)
    resumed.train()
    theirs = resumed.model.state_dict()
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, theirs[name]), name


@pytest.mark.slow
def test_the_modern_recipe_reaches_its_score(tmp_path: Path) -> None:
    trained = runner("lenet_modern_fashion_mnist.py", tmp_path)
    trained.train()
    assert trained.test()["accuracy/top1"] > 88


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Create a few image files in the layout of each dataset."""
    root = tmp_path_factory.mktemp("files")
    lines = []
    for index in range(8):
        picture = Image.effect_noise((80, 64), 60).convert("RGB")
        for place in (
            f"train/{'ab'[index % 2]}/{index}.png",
            f"val/{'ab'[index % 2]}/{index}.png",
            f"JPEGImages/{index}.jpg",
        ):
            (root / place).parent.mkdir(parents=True, exist_ok=True)
            picture.save(root / place)
        lines.append(f"{'ab'[index % 2]}/{index}.png {index % 2}\n")
    (root / "list.txt").write_text("".join(lines))
    lists = root / "ImageSets/Main"
    lists.mkdir(parents=True)
    for number, name in enumerate(VOC.METAINFO["classes"]):
        for split in ("trainval", "test"):
            flags = (f"{index} {(-1, 0, 1)[(index + number) % 3]}\n" for index in range(8))
            (lists / f"{name}_{split}.txt").write_text("".join(flags))
    return root


LISTED = {f"{split}_dataloader.dataset.ann_file": "list.txt" for split in ("train", "val", "test")}
NETWORK = {"model.backbone": "squeezenet1_1"}
WARM_UP = {"param_scheduler.0.end": 1, "param_scheduler.1.begin": 1}


@pytest.mark.parametrize(
    ("name", "changes", "metric"),
    [
        ("resnet50_imagenet.py", {**NETWORK, **LISTED}, "accuracy/top5"),
        ("resnet50_imagenet_v2.py", {**NETWORK, **LISTED, **WARM_UP, "custom_hooks.0.begin_epoch": 1}, "accuracy/top1"),
        (
            "vit_b_16_folder.py",
            {**NETWORK, **WARM_UP, "model.num_classes": 2, "optim_wrapper.paramwise_cfg.needs_pretrained": False},
            "accuracy/top1",
        ),
        (
            "resnet50_linear_imagenet.py",
            {"model.backbone.name": "resnet18", "model.head.in_channels": 512, **LISTED}, "accuracy/top1",
        ),
        (
            "resnet50_voc2007_multilabel.py",
            {"model.backbone.name": "squeezenet1_1", "model.backbone.weights": None, "optim_wrapper.paramwise_cfg": None},
            "multi-label/mAP",
        ),
    ],
)  # fmt: skip
@pytest.mark.long
def test_recipes_of_real_data_train_on_a_handful_of_files(
    name: str, changes: dict[str, Any], metric: str, files: Path, tmp_path: Path
) -> None:
    small = {"train_cfg.max_epochs": 2, "auto_scale_lr.enable": False, "train_cfg.val_interval": 2}
    for split in ("train", "val", "test"):
        loader = f"{split}_dataloader"
        small |= {f"{loader}.dataset.data_root": str(files), f"{loader}.num_workers": 0, f"{loader}.batch_size": 4}
        small |= {f"{loader}.persistent_workers": False, f"{loader}.pin_memory": False}
    tried = runner(name, tmp_path, **small, **changes)
    tried.train()
    assert tried.iter == 4
    assert 0 <= tried.test()[metric] <= 100


def test_neighbors_among_a_handful_of_files(files: Path, tmp_path: Path) -> None:
    changes = {
        f"model.memory.dataset.{key}": value for key, value in (("data_root", str(files)), ("ann_file", "list.txt"))
    }
    changes |= {"model.memory.num_workers": 0, "model.backbone": "resnet18", "model.k": 1, **LISTED}
    for key, value in (("data_root", str(files)),):
        changes |= {f"{split}_dataloader.dataset.{key}": value for split in ("train", "val", "test")}
    for split in ("train", "val", "test"):
        changes |= {f"{split}_dataloader.{key}": value for key, value in dict(num_workers=0, persistent_workers=False, pin_memory=False).items()}  # fmt: skip
    changes |= {"test_evaluator": dict(_delete_=True, type="Accuracy")}
    assert (
        runner("resnet50_knn_imagenet.py", tmp_path, **changes).test()["accuracy/top1"] == 100
    )  # each image is its own neighbor


def test_fine_tuning_lowers_the_learning_rate_towards_the_image(tmp_path: Path) -> None:
    changes = {"model.backbone.weights": None, "model.num_classes": 3, "auto_scale_lr.enable": False}
    cfg = Config.fromfile(CONFIGS / "vit_b_16_folder.py")
    cfg.merge_from_dict(changes)
    from trainwright.engine.optim.constructor import build_optim_wrapper
    from trainwright.engine.run.model_setup import build_model

    with torch.device("meta"):
        model = build_model(cfg.model, dict(type="ClsDataPreprocessor"))
    groups = build_optim_wrapper(model, cfg.optim_wrapper).optimizer.param_groups
    rates = {id(parameter): group["lr"] for group in groups for parameter in group["params"]}
    of = {name: rates[id(parameter)] for name, parameter in model.named_parameters()}
    blocks = [of[f"backbone.encoder.layers.encoder_layer_{index}.mlp.0.weight"] for index in range(12)]
    assert of["backbone.heads.head.weight"] == 5e-4
    assert blocks == pytest.approx([5e-4 * 0.7 ** (12 - index) for index in range(12)])
    assert of["backbone.conv_proj.weight"] == pytest.approx(5e-4 * 0.7**13)
