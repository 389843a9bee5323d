"""Each example runs as it is written, with smaller networks, less data and fewer steps."""

import json
import math
import runpy
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from coco_files import write_coco_shapes
from PIL import Image

from trainwright.engine import Runner, check

EXAMPLES = {path.stem: path for path in (Path(__file__).parents[1] / "examples").glob("*.py")}


def class_folders(root: str) -> None:
    """Write two images of each of two classes, for training and validation."""
    for split in ("train", "val"):
        for width, color in enumerate(["red", "blue"], 40):
            folder = Path(root) / split / color
            folder.mkdir(parents=True)
            for index in range(2):
                Image.new("RGB", (width, 40 + index), color).save(folder / f"{index}.png")


def imagenet_folder(cfg: dict[str, Any]) -> None:
    class_folders("data/imagenet")
    cfg["model"].update(backbone="mobilenet_v3_small", num_classes=2)


def timm_finetune(cfg: dict[str, Any]) -> None:
    pytest.importorskip("timm")
    class_folders("data/my_images")
    cfg["model"].update(num_classes=2)
    cfg["model"]["backbone"].update(name="convnext_atto", weights=None)
    cfg["optim_wrapper"]["paramwise_cfg"]["needs_pretrained"] = False


def huggingface(cfg: dict[str, Any]) -> None:
    pytest.importorskip("transformers")
    write_coco_shapes(Path("data/my_boxes"))
    resnet = dict(model_type="rt_detr_resnet", embedding_size=8, hidden_sizes=[8, 16, 24, 32], depths=[1] * 4)
    network = dict(
        model_type="rt_detr", encoder_in_channels=[16, 24, 32], encoder_hidden_dim=16, encoder_ffn_dim=32,
        encoder_attention_heads=2, d_model=16, decoder_in_channels=[16] * 3, decoder_ffn_dim=32,
        decoder_attention_heads=2, decoder_layers=1, num_queries=8,
        backbone_config=dict(resnet, layer_type="basic", out_features=["stage2", "stage3", "stage4"]),
    )  # fmt: skip
    image_processor = dict(size=dict(height=64, width=64))
    cfg["model"].update(pretrained=None, config=network, image_processor=image_processor)


def simclr(cfg: dict[str, Any]) -> None:
    if "load_from" in cfg:
        cfg["load_from"] = cfg["load_from"].replace("epoch_8", "epoch_2")


def detectron2_style(cfg: dict[str, Any]) -> None:
    pytest.importorskip("pycocotools")
    for split in ("train_dataloader", "val_dataloader"):
        cfg[split]["dataset"]["num_samples"] = 4
    cfg["param_scheduler"]["total_steps"] = 2


def unchanged(cfg: dict[str, Any]) -> None:
    pass


REPLACED: dict[str, Callable[[dict[str, Any]], None]] = {
    "imagenet_folder": imagenet_folder,
    "timm_finetune": timm_finetune,
    "huggingface": huggingface,
    "gan": unchanged,
    "simclr": simclr,
    "semi_supervised": unchanged,
    "clip": unchanged,
    "detectron2_style": detectron2_style,
}


def cut(cfg: dict[str, Any]) -> None:
    """Leave a few batches in each loader and a few epochs or iterations in all, and load in this process."""
    for split in ("train_dataloader", "val_dataloader"):
        loaders = cfg.get(split, {})
        for loader in [loaders] if "dataset" in loaders else loaders.values():
            loader.update(batch_size=4, num_workers=0, persistent_workers=False)
            if loader["dataset"]["type"] in ("FashionMNISTSubset", "ImageTextDataset"):
                loader["dataset"]["indices"] = 8
    for key, most in (("max_epochs", 2), ("max_iters", 4), ("val_interval", 2)):
        if key in cfg["train_cfg"]:
            cfg["train_cfg"][key] = min(cfg["train_cfg"][key], most)


@pytest.mark.parametrize("name", EXAMPLES)
def test_example(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    build, runs = Runner.from_cfg, []

    def build_smaller(cfg: dict[str, Any]) -> Runner:
        cut(cfg)
        REPLACED[name](cfg)
        assert check(cfg) == []
        runs.append((build(cfg), cfg))
        return runs[-1][0]

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Runner, "from_cfg", build_smaller)
    runpy.run_path(str(EXAMPLES[name]), run_name="__main__")
    assert runs
    for runner, cfg in runs:
        assert runner.iter > 0 and any(Path(cfg["work_dir"]).glob("*.pth"))
        (log,) = Path(runner.log_dir).glob("**/scalars.json")
        scalars: list[Mapping[str, Any]] = [json.loads(line) for line in log.read_text().splitlines()]
        losses = [value for entry in scalars for key, value in entry.items() if "loss" in key]
        assert losses and all(map(math.isfinite, losses))
        assert "val_cfg" not in cfg or any("step" in entry and len(entry) > 1 for entry in scalars)


def test_examples_fit_on_two_screens() -> None:
    assert {name: lines for name, path in EXAMPLES.items() if (lines := len(path.read_text().splitlines())) > 80} == {}


@pytest.mark.slow
def test_the_detector_in_the_style_of_detectron2_reaches_its_score(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    runner = Runner.from_cfg(runpy.run_path(str(EXAMPLES["detectron2_style"]))["cfg"])
    runner.train()
    assert runner.message_hub.log_scalars["val/coco/bbox_mAP_50"].current() > 0.6
