"""Pose estimation: codec, loss, head, flip test, predictions, metrics, training."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from ranks import evaluate_on_ranks
from torch import Tensor

from trainwright.datasets import CocoKeypointDataset, Shapes, pseudo_collate
from trainwright.engine.config.config import Config
from trainwright.engine.errors import ConfigError
from trainwright.engine.evaluation.evaluator import Evaluator
from trainwright.engine.optim.wrapper import OptimWrapper
from trainwright.engine.registry import MODELS
from trainwright.engine.run.runner import Runner
from trainwright.engine.structures.instance_data import InstanceData
from trainwright.engine.structures.sample import DataSample
from trainwright.models import (
    HeatmapHead,
    KeypointMSELoss,
    MSRAHeatmap,
    PCKAccuracy,
    Pose2DInferencer,
    PoseDataPreprocessor,
    TopdownPoseEstimator,
    flip_heatmaps,
    gather_keypoints,
)
from trainwright.tools.cli import main

CONFIGS = Path(__file__).parents[2] / "configs"
CODEC = dict(type="MSRAHeatmap", input_size=(16, 24), heatmap_size=(8, 12), sigma=1)


def sample(points: Any, visible: Any = None, box: Any = (0, 0, 10, 10), **metainfo: Any) -> DataSample:
    """Return a data sample with one instance with these keypoints, (K, 2)."""
    keypoints = torch.as_tensor(points, dtype=torch.float32)[None]
    instances = InstanceData(keypoints=keypoints, bboxes=torch.tensor([box], dtype=torch.float32))
    if visible is not None:
        instances.keypoints_visible = torch.as_tensor(visible, dtype=torch.float32)[None]
    return DataSample(metainfo=metainfo, gt_instances=instances)


@pytest.fixture
def estimator() -> TopdownPoseEstimator:
    torch.manual_seed(0)
    head = dict(
        type="HeatmapHead",
        in_channels=6,
        out_channels=3,
        codec=CODEC,
        deconv_out_channels=(4,),
        deconv_kernel_sizes=(4,),
    )
    return TopdownPoseEstimator(
        torch.nn.Conv2d(3, 6, 4, stride=4), head, test_cfg=dict(flip_test=True), flip_indices=(0, 2, 1)
    )


# --------------------------------------------------------------------------------------------------------------- codec


@pytest.mark.parametrize(("unbiased", "largest"), [(True, 0.05), (False, 1.01)])
def test_keypoints_come_back_from_their_heat_maps(unbiased: bool, largest: float) -> None:
    codec = MSRAHeatmap((192, 256), (96, 128), sigma=2, unbiased=unbiased)
    keypoints = torch.rand(5, 4, 2, generator=torch.Generator().manual_seed(0)) * torch.tensor([150.0, 210.0]) + 20
    heatmaps, weights = codec.encode(keypoints, torch.ones(5, 4))
    found, scores = codec.decode(heatmaps)
    assert (found - keypoints).abs().max() < largest
    assert heatmaps.shape == (5, 4, 128, 96)
    assert weights.tolist() == [[1] * 4] * 5
    assert scores.min() > (0.9 if unbiased else 0.999)


def test_a_gaussian_by_hand() -> None:
    codec = MSRAHeatmap((16, 24), (8, 12), sigma=1)
    heatmaps, _ = codec.encode(torch.tensor([[[6.5, 8.5]]]), torch.ones(1, 1))  # (7 / 2 - 0.5, 9 / 2 - 0.5) = (3, 4)
    plane = heatmaps[0, 0]
    assert plane[4, 3] == 1
    assert plane[4, 4].item() == pytest.approx(np.exp(-0.5))
    assert plane[2, 4].item() == pytest.approx(np.exp(-2.5))
    assert plane[8, 3] == 0  # beyond three standard deviations
    assert plane[7, 0].item() == pytest.approx(np.exp(-9))


def test_the_quarter_of_a_pixel() -> None:
    plane = torch.zeros(1, 1, 5, 7)
    plane[0, 0, 2, 3], plane[0, 0, 2, 4], plane[0, 0, 1, 3] = 1.0, 0.5, 0.25
    codec = MSRAHeatmap((7, 5), (7, 5))
    assert codec.decode(plane)[0].tolist() == [[[3.25, 1.75]]]
    corner = torch.zeros(1, 1, 5, 7)
    corner[0, 0, 0, 6] = 1.0
    assert codec.decode(corner)[0].tolist() == [[[6, 0]]]


def test_keypoints_outside_or_not_labeled_do_not_count() -> None:
    keypoints = torch.tensor([[[6.5, 8.5], [-4.0, 8.5], [-20.0, 8.5], [6.5, 8.5]]])
    _, weights = MSRAHeatmap((16, 24), (8, 12), sigma=1).encode(keypoints, torch.tensor([[1.0, 2.0, 2.0, 0.0]]))
    assert weights.tolist() == [[1, 1, 0, 0]]  # the second is partly inside


def test_flipped_heat_maps_are_those_of_the_flipped_input() -> None:
    codec = MSRAHeatmap((16, 24), (8, 12), sigma=1.5, unbiased=True)
    keypoints = torch.rand(2, 3, 2) * torch.tensor([16.0, 24.0])
    mirrored = keypoints[:, [0, 2, 1]].clone()
    mirrored[..., 0] = 15 - mirrored[..., 0]
    ones = torch.ones(2, 3)
    torch.testing.assert_close(
        flip_heatmaps(codec.encode(mirrored, ones)[0], (0, 2, 1)), codec.encode(keypoints, ones)[0]
    )


def test_mistaken_codecs() -> None:
    for settings in (dict(sigma=0), dict(blur_kernel_size=4), dict(heatmap_size=(1, 9))):
        with pytest.raises(ValueError, match="at least 3 pixels"):
            MSRAHeatmap(**{"input_size": (16, 24), "heatmap_size": (8, 12), **settings})


# ------------------------------------------------------------------------------------------------------ loss and model


def test_the_loss_by_hand() -> None:
    output, target = torch.zeros(1, 2, 2, 2), torch.ones(1, 2, 2, 2)
    target[0, 1] = 2
    assert KeypointMSELoss()(output, target, torch.tensor([[1.0, 0.0]])).item() == pytest.approx(1 / 2)
    assert KeypointMSELoss(loss_weight=3)(output, target, torch.ones(1, 2)).item() == pytest.approx(3 * (1 + 4) / 2)
    assert KeypointMSELoss(use_target_weight=False)(output, target).item() == pytest.approx(2.5)
    with pytest.raises(ValueError, match="target_weights"):
        KeypointMSELoss()(output, target)


def test_the_head_of_the_paper() -> None:
    head = HeatmapHead(2048, 17, dict(type="MSRAHeatmap", input_size=(192, 256), heatmap_size=(48, 64)))
    assert head(torch.zeros(1, 2048, 8, 6)).shape == (1, 17, 64, 48)
    with pytest.raises(ConfigError, match="2, 3 or 4, not 5"):
        HeatmapHead(4, 2, CODEC, (4,), (5,))
    with pytest.raises(ConfigError, match="deconv_out_channels: 1, not 2"):
        HeatmapHead(4, 2, CODEC, (4,), (4, 4))


@pytest.mark.parametrize("kernel", [2, 3, 4])
def test_a_transposed_convolution_doubles_the_size(kernel: int) -> None:
    assert HeatmapHead(4, 2, CODEC, (4,), (kernel,))(torch.zeros(1, 4, 3, 5)).shape == (1, 2, 6, 10)


def test_a_step_of_training_is_that_of_a_loop_by_hand(estimator: TopdownPoseEstimator) -> None:
    images = torch.randint(0, 256, (2, 3, 24, 16), dtype=torch.uint8)
    samples = [sample(torch.rand(3, 2) * 16, visible=[2, 1, seen]) for seen in (0, 2)]
    by_hand = torch.nn.Sequential(estimator.backbone, estimator.head.deconv_layers, estimator.head.final_layer)
    codec = MSRAHeatmap((16, 24), (8, 12), sigma=1)
    target, weights = codec.encode(
        torch.cat([one.gt_instances.keypoints for one in samples]), torch.tensor([[2, 1, 0], [2, 1, 2]])
    )
    expected = ((by_hand.train()(images.float()) - target).square() * weights[..., None, None]).mean()
    wrapper = OptimWrapper(torch.optim.SGD(estimator.parameters(), lr=0.1))
    log = estimator.train().train_step({"inputs": list(images), "data_samples": samples}, wrapper)
    assert list(log) == ["loss", "loss_kpt"]
    torch.testing.assert_close(log["loss"], expected)


def test_samples_that_do_not_fit_are_named(estimator: TopdownPoseEstimator) -> None:
    inputs = torch.rand(1, 3, 24, 16)
    cases: list[tuple[Any, str]] = [
        ([sample(torch.rand(2, 2), img_path="a.png")], r"a\.png has keypoints of shape \(1, 2, 2\), not \(1, 3, 2\)"),
        ([DataSample(metainfo={"sample_idx": 4})], "sample 4 has no keypoints"),
        (None, "the batch has no keypoints"),
    ]
    for samples, message in cases:
        with pytest.raises(ValueError, match=message):
            estimator(inputs, samples, mode="loss")
    with pytest.raises(ValueError, match=r"size \(8, 8\), .* \(12, 8\)"):
        estimator(torch.rand(1, 3, 16, 16), [sample(torch.rand(3, 2))], mode="loss")
    points, visible = gather_keypoints([sample(torch.ones(3, 2))], 3)
    assert points.shape == (1, 3, 2)
    assert visible.tolist() == [[1, 1, 1]]


def test_the_preprocessor_leaves_the_data_samples() -> None:
    samples = [sample(torch.ones(3, 2))]
    batch = PoseDataPreprocessor(mean=[2], std=[4])({"inputs": [torch.full((3, 2, 2), 6)], "data_samples": samples})
    assert batch["data_samples"] is samples
    assert batch["inputs"].unique().tolist() == [1]


def test_the_flip_test_is_the_mean_of_both(estimator: TopdownPoseEstimator) -> None:
    estimator.eval()
    inputs = torch.rand(2, 3, 24, 16)
    seen: list[Tensor] = []
    estimator.head.predict_heatmaps = lambda heatmaps, samples: seen.append(heatmaps)
    estimator(inputs, mode="predict")
    mirrored = estimator(inputs.flip(-1))[:, [0, 2, 1]].flip(-1)
    torch.testing.assert_close(seen[0], (estimator(inputs) + mirrored) / 2)


def test_modes_and_mistaken_arguments(estimator: TopdownPoseEstimator) -> None:
    assert estimator(torch.rand(1, 3, 24, 16)).shape == (1, 3, 12, 8)
    with pytest.raises(ValueError, match="mode must be"):
        estimator(torch.rand(1, 3, 24, 16), mode="train")
    parts = dict(backbone=torch.nn.Identity(), head=torch.nn.Identity())
    for settings, message in (
        (dict(test_cfg=dict(flip_test=True)), "flip_indices: required"),
        (dict(test_cfg=dict(flip=True)), "test_cfg.flip"),
        (dict(flip_indices=(0, 2)), "flip_indices: must contain each index once"),
    ):
        with pytest.raises(ConfigError, match=message):
            TopdownPoseEstimator(**parts, **settings)


class Fixed(torch.nn.Module):
    """A head that predicts known keypoints."""

    def __init__(self, codec: MSRAHeatmap, points: Tensor) -> None:
        super().__init__()
        self.heatmaps = codec.encode(points, torch.ones(points.shape[:2]))[0]

    def forward(self, images: Tensor) -> Tensor:
        return self.heatmaps


def test_predictions_and_truth_are_in_coordinates_of_the_original_image() -> None:
    head = HeatmapHead(1, 2, dict(type="MSRAHeatmap", input_size=(32, 32), heatmap_size=(32, 32), sigma=1))
    matrix = (0.0, -2.0, 40.0, 2.0, 0.0, -10.0)  # rotate by 90 degrees and scale by 2
    points = torch.tensor([[[10.0, 6.0], [20.0, 18.0]]])
    target = sample(
        points[0], box=(8.5, 8.5, 20.5, 18.5), warp_matrix=matrix, bbox=(1.0, 2.0, 3.0, 4.0), bbox_score=0.5
    )
    (made,) = head.predict_heatmaps(Fixed(head.codec, points)(torch.empty(0)), [target])
    expected = torch.tensor([[[8.0, 15.0], [14.0, 10.0]]])  # x = (y' + 10) / 2, y = (40 - x') / 2
    torch.testing.assert_close(made.pred_instances.keypoints, expected)
    torch.testing.assert_close(made.gt_instances.keypoints, expected)
    assert made.pred_instances.bboxes.tolist() == [[1, 2, 3, 4]]
    assert made.pred_instances.scores.tolist() == [0.5]
    # Corners (8, 8) and (20, 18) in pixel centers become (9, 16) and (14, 10).
    assert sorted(made.gt_instances.bboxes[0].tolist()) == pytest.approx([9.5, 10.5, 14.5, 16.5])


# ------------------------------------------------------------------------------------------------------------- metrics


def predicted(truth: Any, guess: Any, scores: Any = 0.9, **settings: Any) -> DataSample:
    made = sample(truth, **settings)
    keypoints = torch.as_tensor(guess, dtype=torch.float32)[None]
    made.pred_instances = found(keypoints, scores)
    return made


def found(keypoints: Tensor, score: float) -> InstanceData:
    """Return predicted instances of class 0 with these keypoints, (N, K, 2)."""
    number = len(keypoints)
    labels, boxes = torch.zeros(number, dtype=torch.int64), torch.zeros(number, 4)
    return InstanceData(keypoints=keypoints, scores=torch.full((number,), score), labels=labels, bboxes=boxes)


def evaluate(metric: Any, samples: list[DataSample], meta: dict[str, Any] | None = None) -> dict[str, Any]:
    evaluator = Evaluator(metric)
    evaluator.dataset_meta = meta or {}
    for one in samples:
        evaluator.process([one])
    return evaluator.evaluate(len(samples))


def test_pck_by_hand() -> None:
    truth = [[10, 10], [20, 20], [30, 30]]
    first = predicted(truth, [[10, 11], [20, 25], [99, 99]], visible=[2, 1, 0], box=(0, 0, 20, 10))
    second = predicted(truth, [[12, 10], [20, 20], [30, 30.5]], visible=[2, 0, 0], box=(0, 0, 20, 10))
    results = evaluate(PCKAccuracy(thr=0.1, classwise=True), [first, second], {"keypoints": ("a", "b", "c")})
    assert results["pose/PCK.a"] == 1  # distances of 1 and 2, where 2 are allowed
    assert results["pose/PCK.b"] == 0
    assert np.isnan(results["pose/PCK.c"])
    assert results["pose/PCK"] == 0.5
    assert next(iter(results)) == "pose/PCK"


def test_mistakes_of_pck() -> None:
    with pytest.raises(ValueError, match="thr must be positive"):
        PCKAccuracy(thr=0)
    with pytest.raises(ValueError, match=r"x\.png has no keypoints in pred_instances"):
        evaluate(PCKAccuracy(), [sample([[0, 0]], img_path="x.png")])
    two = predicted([[0, 0]], [[0, 0]])
    two.pred_instances = InstanceData(keypoints=torch.zeros(2, 1, 2))
    with pytest.raises(ValueError, match="PCKAccuracy"):
        evaluate(PCKAccuracy(), [two])


META = {"classes": ("thing",), "sigmas": (0.05, 0.1), "keypoints": ("a", "b")}


def of_image(image: int, truth: Any, guess: Any, score: float, visible: Any = (2, 2)) -> DataSample:
    made = predicted(truth, guess, score, visible=visible, box=(0, 0, 40, 40), img_id=image)
    made.gt_instances.labels = torch.tensor([0])
    made.gt_instances.areas = torch.tensor([1000.0])
    return made


def test_oks_by_hand() -> None:
    pytest.importorskip("pycocotools")
    from trainwright.models import CocoKeypointMetric

    # exp(-d² / (2 area (2 sigma)²)) with d² = 9 and area 1000: 0.6376 for sigma 0.05, 0.8936 for 0.1; mean 0.7656.
    results = evaluate(CocoKeypointMetric(), [of_image(1, [[5, 5], [20, 20]], [[8, 5], [20, 23]], 0.9)], META)
    assert results["coco/keypoints_mAP"] == pytest.approx(0.6)  # correct at 0.5, 0.55, ..., 0.75
    assert (results["coco/keypoints_mAP_50"], results["coco/keypoints_mAP_75"]) == pytest.approx((1, 1))
    assert np.isnan(results["coco/keypoints_mAP_m"])
    assert next(iter(results)) == "coco/keypoints_mAP"
    # Unlabeled keypoints are ignored.
    hidden = [of_image(1, [[5, 5], [20, 20]], [[5, 5], [99, 99]], 0.9, visible=(2, 0))]
    assert evaluate(CocoKeypointMetric(), hidden, META)["coco/keypoints_mAP"] == pytest.approx(1)


def test_near_duplicates_are_left_out() -> None:
    pytest.importorskip("pycocotools")
    from trainwright.models import CocoKeypointMetric

    points = [[5.0, 5.0], [25.0, 20.0]]
    first, again = of_image(1, points, points, 0.9), of_image(1, [[70, 70], [90, 90]], points, 0.95)
    third = of_image(1, [[170, 70], [190, 90]], [[170, 70], [190, 90]], 0.5)
    # With the duplicate before the third prediction: precision 1, 1/2, 2/3 at recall 1/3, 1/3, 2/3.
    kept = evaluate(CocoKeypointMetric(nms_thr=None), [first, again, third], META)["coco/keypoints_mAP"]
    assert kept == pytest.approx((34 * 1 + 33 * 2 / 3) / 101, abs=1e-6)
    clean = evaluate(CocoKeypointMetric(), [first, again, third], META)["coco/keypoints_mAP"]
    assert clean == pytest.approx(67 / 101)


def test_the_annotation_file_has_the_truth(tmp_path: Path) -> None:
    pytest.importorskip("pycocotools")
    from trainwright.models import CocoKeypointMetric

    annotation = dict(image_id=1, category_id=5, bbox=[0, 0, 40, 40], area=1000.0, iscrowd=0, num_keypoints=2)
    content = {
        "images": [{"id": 1}, {"id": 2}],
        "categories": [{"id": 5, "name": "thing"}],
        "annotations": [annotation | {"id": 1, "keypoints": [5, 5, 2, 25, 20, 2]}, annotation | {"id": 2, "image_id": 2, "keypoints": [5, 5, 2, 9, 9, 2]}],
    }  # fmt: skip
    (tmp_path / "ann.json").write_text(json.dumps(content))
    points = torch.tensor([[[5.0, 5.0], [25.0, 20.0]]])
    samples = [DataSample(metainfo={"img_id": 1}, pred_instances=found(points, 0.5))]
    metric = CocoKeypointMetric(ann_file=str(tmp_path / "ann.json"))
    assert evaluate(metric, samples, META)["coco/keypoints_mAP"] == pytest.approx(1)  # only predicted images count
    with pytest.raises(ValueError, match="ann.json differ: only the former has 'cat'; only the latter has 'thing'"):
        evaluate(metric, samples, {**META, "classes": ("cat",)})


def test_mistakes_of_oks() -> None:
    pytest.importorskip("pycocotools")
    from trainwright.models import CocoKeypointMetric

    with pytest.raises(ValueError, match="nms_thr"):
        CocoKeypointMetric(nms_thr=2)
    good = of_image(1, [[5, 5], [20, 20]], [[8, 5], [20, 23]], 0.9)
    with pytest.raises(ValueError, match=r"metainfo=dict\(sigmas"):
        evaluate(CocoKeypointMetric(), [good], {"classes": ("thing",)})
    with pytest.raises(ValueError, match="1 sigmas, but 2"):
        evaluate(CocoKeypointMetric(), [good], {**META, "sigmas": (0.1,)})


def test_nothing_predicted_is_a_score_of_zero() -> None:
    pytest.importorskip("pycocotools")
    from trainwright.models import CocoKeypointMetric

    nothing = of_image(1, [[5, 5], [20, 20]], [[5, 5], [20, 20]], 0.9)
    nothing.pred_instances = found(torch.zeros(0, 2, 2), 0.0)
    assert evaluate(CocoKeypointMetric(), [nothing], META)["coco/keypoints_mAP"] == 0


def test_several_processes_give_what_one_gives(tmp_path: Path) -> None:
    pytest.importorskip("pycocotools")
    generator = torch.Generator().manual_seed(0)
    truth = torch.rand(5, 2, 2, generator=generator) * 40
    guess = truth + torch.randn(5, 2, 2, generator=generator) * 3
    images = [1, 1, 2, 3, 3]
    samples = [of_image(image, one, other, 0.5 + image / 10) for image, one, other in zip(images, truth, guess)]
    metrics = [dict(type="CocoKeypointMetric"), dict(type="PCKAccuracy")]
    alone = evaluate(metrics, samples, META)
    assert 0 < alone["coco/keypoints_mAP"] < 1
    for results in evaluate_on_ranks(metrics, samples, tmp_path, META):
        assert {key: value for key, value in results.items() if value == value} == {
            key: value for key, value in alone.items() if value == value
        }


# ------------------------------------------------------------------------------------------------- training, prediction


def train(name: str, work_dir: Path, **changes: Any) -> dict[str, float]:
    cfg = Config.fromfile(CONFIGS / name)
    cfg.merge_from_dict({"work_dir": str(work_dir), **changes})
    runner = Runner.from_cfg(cfg)
    runner.train()
    return runner.test()


SHORT = {
    "max_epochs": 2, "train_cfg.max_epochs": 2, "param_scheduler.total_steps": 2, "param_scheduler.eta_max": 4e-3,
    "train_dataloader.dataset.num_samples": 500, "train_dataloader.dataset.max_shapes": 1,
    "train_dataloader.batch_size": 16, "model.head.deconv_out_channels": [32],
    "val_dataloader.dataset.num_samples": 40, "test_dataloader.dataset.num_samples": 40,
    "test_dataloader.dataset.max_shapes": 1, "visualizer": dict(type="Visualizer", vis_backends=[]),
}  # fmt: skip


@pytest.mark.slow
def test_a_short_training_beats_chance_by_far_and_its_checkpoint_predicts(tmp_path: Path) -> None:
    hooks = [dict(type="VisualizationHook", max_images=2)]
    visualizer = dict(type="Visualizer", vis_backends=[dict(type="LocalVisBackend")])
    results = train("pose/topdown_shapes.py", tmp_path, **SHORT | {"custom_hooks": hooks, "visualizer": visualizer})
    assert results["pose/PCK"] > 0.4  # box center: 0
    assert Image.open(next(tmp_path.glob("*/vis_data/vis_image/test_*.png"))).size[0] == 2 * 288 + 4  # and a gap
    (checkpoint,) = tmp_path.glob("best_pose_PCK_*.pth")
    inferencer = Pose2DInferencer(checkpoint, show_progress=False)
    image = torch.randint(0, 256, (3, 40, 50), dtype=torch.uint8)
    answer = inferencer(image, bboxes=[[5, 5, 30, 30], [10, 0, 50, 40]], out_dir=tmp_path / "out")
    (entry,) = answer["predictions"]
    assert np.array(entry["pred_instances"]["keypoints"]).shape == (2, 4, 2)
    assert entry["pred_instances"]["bboxes"] == [[5, 5, 30, 30], [10, 0, 50, 40]]
    assert answer["visualization"][0].ndim == 3
    whole = inferencer([image, image], batch_size=2)["predictions"]
    assert [one["pred_instances"]["bboxes"] for one in whole] == [[[0, 0, 50, 40]]] * 2
    assert inferencer(image, bboxes=[])["predictions"][0]["pred_instances"]["keypoints"] == []
    with pytest.raises(ValueError, match="2 images, got 1"):
        inferencer([image, image], bboxes=[[[0, 0, 9, 9]]])
    Image.fromarray(image.permute(1, 2, 0).numpy()).save(tmp_path / "a.png")
    out = tmp_path / "predicted"
    command = ["predict", "pose/topdown_shapes", str(checkpoint), str(tmp_path / "a.png"), "--out-dir", str(out)]
    assert main([*command, "--cfg-options", "model.head.deconv_out_channels=[32]"]) == 0
    (entry,) = json.loads((out / "predictions.json").read_text())
    theirs = (found["pred_instances"]["keypoints"] for found in (entry, whole[0]))
    np.testing.assert_allclose(*theirs, atol=1e-2)
    assert (out / "a.png").is_file()


def test_any_backbone_of_torchvision() -> None:
    for name, layer, channels in (("mobilenet_v3_small", "features.3", 24), ("resnet18", "layer1", 64)):
        model = MODELS.build(
            dict(
                type="TopdownPoseEstimator",
                backbone=dict(type="TorchvisionFeatures", name=name, layers=layer),
                head=dict(
                    type="HeatmapHead",
                    in_channels=channels,
                    out_channels=2,
                    codec=CODEC,
                    deconv_out_channels=(8,),
                    deconv_kernel_sizes=(4,),
                ),
            )
        )
        assert model(torch.rand(1, 3, 32, 32)).shape[1] == 2


@pytest.mark.long
def test_keypoint_rcnn_overfits_two_images() -> None:
    """Training to generalize takes minutes: see the slow test."""
    pytest.importorskip("pycocotools")
    cfg = Config.fromfile(CONFIGS / "pose/keypoint_rcnn_shapes.py")
    cfg.merge_from_dict({"model.network.min_size": 48, "model.network.anchor_sizes": [[16], [32], [48]]})
    torch.manual_seed(0)
    model = MODELS.build(cfg.model).train()
    shapes = Shapes(2, 48, kinds=("arrow",), max_shapes=1, radius=(0.3, 0.4), pipeline=[dict(type="PackInputs")])
    batch = pseudo_collate([shapes[0], shapes[1]])
    wrapper = OptimWrapper(torch.optim.AdamW(model.parameters(), lr=1e-3), clip_grad=dict(max_norm=35))
    for _ in range(80):
        model.train_step(dict(batch), wrapper)
    with torch.no_grad():
        samples = model.eval().test_step(dict(batch))
    for one in samples:
        best, truth = one.pred_instances[0], one.gt_instances
        distance = (best.keypoints - truth.keypoints).norm(dim=-1)[truth.keypoints_visible > 0]
        assert distance.mean() < 3  # box center: 15
        assert best.scores[0] > 0.5
    assert (
        evaluate(dict(type="CocoMetric", metric="keypoints"), samples, shapes.metainfo)["coco/keypoints_mAP_50"] > 0.9
    )


@pytest.mark.parametrize("name", ["simple_baseline_resnet50_coco", "keypoint_rcnn_resnet50_fpn_coco"])
@pytest.mark.long
def test_the_configs_for_coco_run_on_files_of_its_form(tmp_path: Path, name: str) -> None:
    pytest.importorskip("pycocotools")
    names, generator = CocoKeypointDataset.METAINFO["keypoints"], np.random.default_rng(0)
    (tmp_path / "annotations").mkdir()
    for split in ("train2017", "val2017"):
        (tmp_path / split).mkdir()
        images, annotations = [], []
        for index, (width, height) in enumerate([(60, 40), (40, 60)] * 2):
            pixels = generator.integers(0, 255, (height, width, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / split / f"{index}.jpg")
            images.append(dict(id=index, file_name=f"{index}.jpg", width=width, height=height))
            points = np.concatenate([generator.uniform(5, 35, (17, 2)), np.full((17, 1), 2)], axis=1)
            person = dict(id=index + 1, image_id=index, category_id=1, area=900.0, iscrowd=0, num_keypoints=17)
            annotations.append(person | dict(bbox=[3, 3, 34, 34], keypoints=points.flatten().tolist()))
        category = dict(id=1, name="person", keypoints=names, skeleton=[[1, 2]])
        content = dict(images=images, annotations=annotations, categories=[category])
        (tmp_path / f"annotations/person_keypoints_{split}.json").write_text(json.dumps(content))
    changes: dict[str, Any] = {
        "train_cfg.max_epochs": 1, "train_cfg.val_interval": 1, "param_scheduler": None,
        "default_hooks": dict(checkpoint=None, final_test=None), "train_dataloader.batch_size": 2,
        "visualizer": dict(type="Visualizer", vis_backends=[dict(type="LocalVisBackend")]),
        "custom_hooks": [dict(type="VisualizationHook")],
    }  # fmt: skip
    if "baseline" in name:
        changes |= {
            "model.backbone.name": "resnet18", "model.backbone.weights": None, "model.head.in_channels": 512,
            "model.head.deconv_out_channels": [16] * 3,
        }  # fmt: skip
    else:
        changes |= {
            "model.network.weights_backbone": None,
            "model.network.min_size": 64,
            "model.network.box_detections_per_img": 3,
            "model.network.box_batch_size_per_image": 4,
            "model.network.rpn_post_nms_top_n_test": 10,
        }
    for split in ("train", "val", "test"):
        changes |= {
            f"{split}_dataloader.{key}": value
            for key, value in (("num_workers", 0), ("persistent_workers", False), ("pin_memory", False))
        }
        changes[f"{split}_dataloader.dataset.data_root"] = str(tmp_path)
    for evaluator in ("val_evaluator", "test_evaluator"):
        changes[f"{evaluator}.ann_file"] = str(tmp_path / "annotations/person_keypoints_val2017.json")
    results = train(f"pose/{name}.py", tmp_path / "run", **changes)
    assert 0 <= results["coco/keypoints_mAP"] <= 1
    pictures = list(tmp_path.glob("run/*/vis_data/vis_image/*.png"))
    assert pictures


@pytest.mark.slow
def test_the_shipped_config_reaches_its_score(tmp_path: Path) -> None:
    assert train("pose/topdown_shapes.py", tmp_path)["pose/PCK"] > 0.9


@pytest.mark.slow
def test_the_shipped_config_of_keypoint_rcnn_reaches_its_score(tmp_path: Path) -> None:
    assert train("pose/keypoint_rcnn_shapes.py", tmp_path)["coco/keypoints_mAP_50"] > 0.6
