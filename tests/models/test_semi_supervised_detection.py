"""Detectors that learn from images without boxes."""

from pathlib import Path
from typing import Any

import pytest
import torch
from ranks import run_group
from tiny_runs import StopAt, weights_of

from trainwright.datasets import Shapes, pseudo_collate
from trainwright.engine import ConfigError, MessageHub, Runner, check
from trainwright.engine.structures.instance_data import InstanceData
from trainwright.models import SemiSupervisedDetector

DETECTOR = dict(
    type="TorchvisionDetector",
    network=dict(
        type="TorchvisionDetectionModel", name="fcos", num_classes=3, min_size=32, max_size=64,
        backbone=dict(
            type="FeaturePyramid", out_channels=32,
            body=dict(
                type="TorchvisionFeatures", name="mobilenet_v2", width_mult=0.1, layers=("features.3", "features.6"),
            ),
        ),
    ),
)  # fmt: skip
BRIGHTER = [dict(type="ColorJitter", brightness=[2.0, 2.0])]
VIEWS = [dict(type="MultiView", transforms=[[], BRIGHTER]), dict(type="PackInputs")]


def batch(pipeline: list[Any], number: int = 3) -> Any:
    dataset = Shapes(num_samples=number, size=32, annotations=("gt_bboxes", "gt_bboxes_labels"), pipeline=pipeline)
    return pseudo_collate([dataset[index] for index in range(number)])


def prepared(model: SemiSupervisedDetector) -> dict[str, Any]:
    """Return a labeled and an unlabeled batch as a training step prepares them."""
    preprocess = model.data_preprocessor
    return dict(
        labeled=preprocess.of_loader("labeled")(batch([dict(type="PackInputs")]), True),
        unlabeled=preprocess.of_loader("unlabeled")(batch(VIEWS), True),
    )


def test_confident_detections_in_weak_views_are_learned_in_strong_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    model = SemiSupervisedDetector(DETECTOR, threshold=0.5, weight=2.0).eval()
    data = prepared(model)
    boxes = torch.tensor([[1.0, 2, 20, 25], [4, 4, 4, 9], [3, 3, 30, 30]])  # the second one has no width
    detections = InstanceData(bboxes=boxes, labels=torch.tensor([0, 1, 2]), scores=torch.tensor([0.9, 0.8, 0.4]))
    seen = []

    def detect(inputs: Any, data_samples: Any, mode: str) -> Any:
        seen.append(inputs)
        for sample in data_samples:
            sample.pred_instances = detections
        return data_samples

    monkeypatch.setattr(model.teacher.module, "forward", detect)
    losses = model(**data, mode="loss")
    weak, strong = (view["inputs"] for view in data["unlabeled"])
    assert seen == [weak] and not torch.equal(weak[0], strong[0])
    samples = data["unlabeled"][1]["data_samples"]
    assert [sample.gt_instances.bboxes.tolist() for sample in samples] == [boxes[:1].tolist()] * 3
    assert losses["objects_per_image"] == 1
    labeled = model.detector(**data["labeled"], mode="loss")
    unlabeled = model.detector(strong, samples, mode="loss")
    assert labeled.keys() == unlabeled.keys() and len(losses) == 2 * len(labeled) + 1
    for name in labeled:
        torch.testing.assert_close(losses[f"labeled_{name}"], labeled[name])
        torch.testing.assert_close(losses[f"unlabeled_{name}"], 2 * unlabeled[name])


def test_only_labeled_images_are_learned_during_the_burn_in() -> None:
    model = SemiSupervisedDetector(DETECTOR, burn_in=5).eval()
    data = prepared(model)
    hub = MessageHub("a run")
    with MessageHub.set_current(hub):
        for done, number in ((4, 3), (5, 7)):
            hub.update_info("iter", done)
            assert len(model(**data, mode="loss")) == number
        assert model.teacher(**data["labeled"], mode="predict")[0].pred_instances is not None


def test_data_of_another_form_is_explained() -> None:
    model = SemiSupervisedDetector(DETECTOR)
    data = prepared(model)
    with pytest.raises(ConfigError, match="needs two data loaders"):
        model(labeled=data["labeled"], mode="loss")
    with pytest.raises(ConfigError, match="unlabeled: does not make two views of each image"):
        model.data_preprocessor.of_loader("unlabeled")(batch([dict(type="PackInputs")]), True)
    with pytest.raises(ConfigError, match="threshold"):
        SemiSupervisedDetector(DETECTOR, threshold=1.0)


def config(folder: Path, **changes: Any) -> dict[str, Any]:
    def shapes(number: int, seed: int, *transforms: Any) -> dict[str, Any]:
        pipeline = [dict(type="RandomHorizontalFlip"), *transforms]
        annotations = ("gt_bboxes", "gt_bboxes_labels")
        data = dict(type="Shapes", num_samples=number, size=32, seed=seed, annotations=annotations, pipeline=pipeline)
        return dict(dataset=data, batch_size=2, collate_fn="pseudo_collate")

    plain = shapes(4, 0, dict(type="PackInputs"))
    return dict(
        model=dict(type="SemiSupervisedDetector", detector=DETECTOR, threshold=0.01, burn_in=2),
        work_dir=str(folder), randomness=dict(seed=0), train_cfg=dict(max_epochs=2),
        train_dataloader=dict(labeled=plain, unlabeled=shapes(8, 1, *VIEWS)),
        optim_wrapper=dict(optimizer=dict(type="SGD", lr=0.01, momentum=0.9)),
        val_dataloader=plain, val_cfg={}, val_evaluator=dict(type="VOCMetric"),
        default_hooks=dict(checkpoint=dict(type="CheckpointHook", interval=1)), **changes,
    )  # fmt: skip


def test_a_run_that_was_cut_ends_with_the_same_bits(tmp_path: Path) -> None:
    assert check(config(tmp_path)) == []
    whole = Runner.from_cfg(config(tmp_path / "whole"))
    whole.train()
    Runner.from_cfg(config(tmp_path / "cut", custom_hooks=[StopAt(5)])).train()
    last = Runner.from_cfg(config(tmp_path / "cut", resume="auto"))
    last.train()
    assert [n for n, value in weights_of(last).items() if not torch.equal(value, weights_of(whole)[n])] == []
    teacher, student = (dict(part.named_parameters()) for part in (last.model.teacher.module, last.model.detector))
    assert any(not torch.equal(value, student[name]) for name, value in teacher.items())


def test_check_finds_a_typo(tmp_path: Path) -> None:
    cfg = config(tmp_path)
    cfg["model"]["burnin"] = 2
    errors = check(cfg)
    assert [error.path for error in errors] == ["model.burnin"] and "burn_in" in errors[0].hint


def test_ranks_train_one_model(tmp_path: Path) -> None:
    def in_rank() -> Any:
        runner = Runner.from_cfg(config(tmp_path / "run", find_unused_parameters=True))
        runner.train()
        return weights_of(runner)

    one, other = run_group(2, in_rank, tmp_path)
    assert all(torch.equal(value, other[name]) for name, value in one.items() if "running" not in name)
