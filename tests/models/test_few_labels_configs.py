"""The shipped configs of learning with few labels or none: what each gains over its baseline."""

from pathlib import Path
from typing import Any

import pytest

from trainwright.engine import Config, Runner

CONFIGS = Path(__file__).parents[2] / "configs"


def runner(name: str, folder: Path, **changes: Any) -> Runner:
    cfg = Config.fromfile(CONFIGS / f"{name}.py")
    quiet = {"visualizer": dict(type="Visualizer", vis_backends=[]), "work_dir": str(folder)}
    cfg.merge_from_dict({**quiet, "default_hooks.final_test": None, "default_hooks.report": None, **changes})
    return Runner.from_cfg(cfg)


def gain(name: str, metric: str, folder: Path, **changes: Any) -> float:
    """Return by how much the training improves a result over that of random features."""
    run = runner(name, folder, **changes)
    before: float = run.val()[metric]
    run.train()
    return run.val()[metric] - before


def test_a_few_episodes_help_with_new_classes(tmp_path: Path) -> None:
    short = {f"{split}_dataloader.batch_sampler.num_episodes": 20 for split in ("train", "val")}
    name = "few_labels/prototypical_fashion_mnist"
    assert gain(name, "episode/accuracy", tmp_path, **short, **{"train_cfg.max_epochs": 1}) > 2


def test_a_few_triplets_help_retrieval(tmp_path: Path) -> None:
    short = {"train_dataloader.batch_sampler.num_batches": 40, "train_cfg.max_epochs": 1}
    assert gain("few_labels/triplet_fashion_mnist", "retrieval/mAP", tmp_path, **short) > 8


def test_a_few_masked_images_help_a_vision_transformer(tmp_path: Path) -> None:
    pytest.importorskip("timm")
    short = {"train_dataloader.num_batch_per_epoch": 20, "train_cfg.max_epochs": 1, "param_scheduler.T_max": 1}
    assert gain("self_supervised/mae_fashion_mnist", "accuracy/top1", tmp_path, **short) > 3


@pytest.mark.slow
def test_new_classes_reach_their_score(tmp_path: Path) -> None:
    assert gain("few_labels/prototypical_fashion_mnist", "episode/accuracy", tmp_path) > 6


@pytest.mark.slow
def test_triplets_reach_their_score(tmp_path: Path) -> None:
    assert gain("few_labels/triplet_fashion_mnist", "retrieval/mAP", tmp_path) > 20


@pytest.mark.slow
@pytest.mark.parametrize(("name", "least"), [("mocov3", 4), ("byol", 1), ("mae", 20)])
def test_images_without_labels_reach_their_score(name: str, least: float, tmp_path: Path) -> None:
    assert gain(f"self_supervised/{name}_fashion_mnist", "accuracy/top1", tmp_path) > least


@pytest.mark.slow
def test_images_without_labels_help_a_classifier(tmp_path: Path) -> None:
    scores = []
    for weight in (0, 1):
        run = runner("few_labels/fixmatch_fashion_mnist", tmp_path / str(weight), **{"model.weight": weight})
        run.train()
        scores.append(run.val()["accuracy/top1"])
    assert scores[1] > scores[0] + 0.5


@pytest.mark.slow
def test_a_student_reaches_its_score(tmp_path: Path) -> None:
    runner("classification/lenet_fashion_mnist", tmp_path / "teacher").train()
    teacher = {"model.teacher.init_cfg.checkpoint": str(tmp_path / "teacher/epoch_8.pth")}
    scores = []
    for weight in (0, 1):
        changes = {**teacher, "model.pairs.logits.weight": weight}
        run = runner("classification/lenet_distilled_fashion_mnist", tmp_path / str(weight), **changes)
        run.train()
        scores.append(run.val()["accuracy/top1"])
    assert scores[1] > scores[0] + 1.5


@pytest.mark.slow
def test_views_without_labels_reach_their_score(tmp_path: Path) -> None:
    assert gain("self_supervised/simclr_fashion_mnist", "accuracy/top1", tmp_path / "simclr") > 4
    linear = "self_supervised/linear_fashion_mnist"
    scores = []
    for folder, changes in (("random", {}), ("trained", {"load_from": str(tmp_path / "simclr/epoch_8.pth")})):
        run = runner(linear, tmp_path / folder, **changes)
        run.train()
        scores.append(run.val()["accuracy/top1"])
    assert scores[1] > scores[0] + 15
