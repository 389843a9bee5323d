"""Semi-supervised classification."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from ranks import run_group
from tiny_runs import StopAt, weights_of
from torch.nn import functional as F

from trainwright.engine import ConfigError, MessageHub, Runner, check
from trainwright.engine.run.model_setup import build_model
from trainwright.models import FixMatch, ImgDataPreprocessor, MeanTeacher

CLASSIFIER = dict(
    type="ImageClassifier",
    backbone=dict(type="LeNet", num_classes=10, image_size=28, channels=(2, 4), hidden_features=8),
    data_preprocessor=dict(type="ImgDataPreprocessor", mean=[128.0], std=[64.0]),
)


def batches(labeled: int = 3, unlabeled: int = 5) -> dict[str, Any]:
    torch.manual_seed(1)
    views = [torch.randn(unlabeled, 1, 28, 28) for _ in range(2)]
    few = dict(inputs=torch.randn(labeled, 1, 28, 28), data_samples=torch.randint(10, (labeled,)))
    return dict(labeled=few, unlabeled=dict(inputs=views, data_samples=None))


@pytest.mark.parametrize("threshold", [0.0, 0.11, 0.999])
def test_fixmatch_learns_confident_predictions_of_weak_views_on_strong_ones(threshold: float) -> None:
    model = FixMatch(CLASSIFIER, threshold=threshold, weight=2.0).eval()
    data = batches()
    losses = model(**data, mode="loss")
    weak, strong = (model.classifier(view) for view in data["unlabeled"]["inputs"])
    confidence, pseudo = weak.softmax(1).max(1)
    chosen = confidence >= threshold
    per_image = F.cross_entropy(strong, pseudo, reduction="none")
    torch.testing.assert_close(losses["loss_unlabeled"], 2.0 * (per_image * chosen).sum() / len(weak))
    labeled = F.cross_entropy(model.classifier(data["labeled"]["inputs"]), data["labeled"]["data_samples"])
    torch.testing.assert_close(losses["loss_labeled"], labeled)
    assert float(losses["confident"]) == pytest.approx(chosen.float().mean().item())
    gradients = torch.autograd.grad(losses["loss_unlabeled"], model.parameters(), allow_unused=True)
    assert any(gradient.abs().max() > 0 for gradient in gradients) == (threshold < 0.5)


@pytest.mark.parametrize(("done", "share"), [(0, math.exp(-5)), (25, math.exp(-1.25)), (50, 1.0), (90, 1.0)])
def test_a_mean_teacher_is_followed_more_and_more(done: int, share: float) -> None:
    model = MeanTeacher(CLASSIFIER, weight=10.0, warmup=0.5).eval()
    hub = MessageHub("a run")
    hub.update_info("iter", done)
    hub.update_info("max_iters", 100)
    data = batches()
    with MessageHub.set_current(hub):
        losses = model(**data, mode="loss")
    first, second = data["unlabeled"]["inputs"]
    wanted = F.mse_loss(model.classifier(first).softmax(1), model.teacher(second).softmax(1))
    torch.testing.assert_close(losses["loss_consistency"], 10.0 * share * wanted)
    assert model.predictor is model.teacher


def test_data_of_another_form_is_explained() -> None:
    model = FixMatch(CLASSIFIER)
    data = batches()
    with pytest.raises(ConfigError, match="FixMatch needs two data loaders"):
        model(labeled=data["labeled"], mode="loss")
    data["unlabeled"]["inputs"] = data["unlabeled"]["inputs"][0]
    with pytest.raises(ConfigError, match="unlabeled.dataset.pipeline: does not make two views"):
        model(**data, mode="loss")
    with pytest.raises(ConfigError, match="threshold"):
        FixMatch(CLASSIFIER, threshold=1.0)


def config(name: str, folder: Path, **changes: Any) -> dict[str, Any]:
    views = [[dict(type="RandomHorizontalFlip")], [dict(type="RandomCrop", size=28, padding=4)]]
    pipeline = [dict(type="MultiView", transforms=views), dict(type="PackInputs")]
    data = dict(type="FashionMNISTSubset", split="train")
    few = dict(dataset=dict(**data, indices=12), batch_size=4)
    many = dict(dataset=dict(**data, indices=30, pipeline=pipeline), batch_size=6, collate_fn="default_collate")
    plain = dict(dataset=dict(**data, indices=20), batch_size=10)
    return dict(
        model=dict(type=name, classifier=CLASSIFIER), work_dir=str(folder), randomness=dict(seed=0),
        train_dataloader=dict(labeled=few, unlabeled=many), train_cfg=dict(max_epochs=3),
        optim_wrapper=dict(optimizer=dict(type="SGD", lr=0.05, momentum=0.9)),
        val_dataloader=plain, val_cfg={}, val_evaluator=dict(type="Accuracy"),
        default_hooks=dict(checkpoint=dict(type="CheckpointHook", interval=1)), **changes,
    )  # fmt: skip


@pytest.mark.parametrize("name", ["FixMatch", "MeanTeacher"])
def test_a_run_that_was_cut_ends_with_the_same_bits(name: str, tmp_path: Path) -> None:
    assert check(config(name, tmp_path)) == []
    whole = Runner.from_cfg(config(name, tmp_path / "whole"))
    whole.train()
    assert whole.max_iters == 15
    Runner.from_cfg(config(name, tmp_path / "cut", custom_hooks=[StopAt(8)])).train()
    last = Runner.from_cfg(config(name, tmp_path / "cut", resume="auto"))
    last.train()
    assert [n for n, value in weights_of(last).items() if not torch.equal(value, weights_of(whole)[n])] == []
    assert 0 <= last.val()["accuracy/top1"] <= 100


@pytest.mark.parametrize("name", ["FixMatch", "Distillation", "SemiSupervisedDetector"])
def test_the_preprocessor_of_a_config_is_that_of_the_inner_model(name: str) -> None:
    inner = {key: value for key, value in CLASSIFIER.items() if key != "data_preprocessor"}
    preprocessor = dict(type="ImgDataPreprocessor", mean=[128.0], std=[64.0])
    model = dict(
        FixMatch=dict(classifier=inner),
        Distillation=dict(
            student=inner, teacher=inner, pairs=dict(a=dict(student="backbone", loss=dict(type="KDLoss")))
        ),
        SemiSupervisedDetector=dict(detector=inner),
    )[name]
    built = build_model(dict(type=name, **model), preprocessor)
    found = [module for module in built.modules() if isinstance(module, ImgDataPreprocessor)]
    assert [module.mean.item() for module in found] == [128.0]
    part = next(iter(model))
    both = {**model, part: {**inner, "data_preprocessor": preprocessor}}
    with pytest.raises(ConfigError, match=f"the {part} of the model has a preprocessor of its own"):
        build_model(dict(type=name, **both), preprocessor)


def test_check_finds_a_typo(tmp_path: Path) -> None:
    cfg = config("FixMatch", tmp_path)
    cfg["model"]["treshold"] = 0.9
    errors = check(cfg)
    assert [error.path for error in errors] == ["model.treshold"] and "threshold" in errors[0].hint


def test_ranks_train_one_model(tmp_path: Path) -> None:
    def in_rank() -> Any:
        runner = Runner.from_cfg(config("MeanTeacher", tmp_path / "run"))
        runner.train()
        return weights_of(runner)

    one, other = run_group(2, in_rank, tmp_path)
    assert all(torch.equal(value, other[name]) for name, value in one.items())
