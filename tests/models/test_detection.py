"""Object detection and instance segmentation: networks, training, predictions, metrics."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from coco_files import write_coco_shapes
from ranks import evaluate_on_ranks
from torch import Tensor, nn
from torchvision.ops import box_iou

from trainwright.datasets import Shapes, pseudo_collate
from trainwright.engine.config.config import Config
from trainwright.engine.errors import ConfigError
from trainwright.engine.evaluation.evaluator import Evaluator
from trainwright.engine.inference.inferencer import Inferencer
from trainwright.engine.optim.wrapper import OptimWrapper
from trainwright.engine.records.logger import MMLogger
from trainwright.engine.registry import MODELS
from trainwright.engine.run.model_surgery import to_channels_last
from trainwright.engine.run.runner import Runner
from trainwright.engine.structures.instance_data import InstanceData
from trainwright.engine.structures.sample import DataSample
from trainwright.models import CocoMetric, DetDataPreprocessor, FeaturePyramid, TorchvisionDetector, VOCMetric
from trainwright.models.detection.networks import _select_classes

pytest.importorskip("pycocotools")

CONFIGS = Path(__file__).parents[2] / "configs"
PYRAMID = dict(
    type="FeaturePyramid",
    body=dict(type="TorchvisionFeatures", name="mobilenet_v3_small", layers=("features.1", "features.3")),
    out_channels=32,
)
SIZE = dict(min_size=48, max_size=96)
SETTINGS: dict[str, dict[str, Any]] = {
    "fcos": SIZE,
    "retinanet": SIZE,
    "fasterrcnn": SIZE | dict(head_channels=16, box_detections_per_img=7),
    "maskrcnn": SIZE | dict(head_channels=16, box_detections_per_img=7, box_score_thresh=0.0),
    "keypointrcnn": SIZE | dict(head_channels=16, box_detections_per_img=7, box_score_thresh=0.0, num_keypoints=4),
    "ssd": dict(size=(48, 64), scales=(0.2, 0.4, 0.8)),
    "ssdlite": dict(size=(48, 64), scales=(0.2, 0.4, 0.8)),
}


def network(name: str, **settings: Any) -> dict[str, Any]:
    return dict(
        type="TorchvisionDetectionModel", name=name, num_classes=3, backbone=PYRAMID, **SETTINGS[name], **settings
    )


def sample(
    *boxes: tuple[float, ...], labels: Any = None, size: tuple[int, int] = (48, 48), **metainfo: Any
) -> DataSample:
    """Return a data sample with these boxes, masks that fill them, and keypoints at their corners."""
    made = DataSample(metainfo=dict(ori_shape=size, **metainfo))
    tensor = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
    masks = torch.zeros(len(boxes), *size, dtype=torch.uint8)
    for mask, (left, top, right, bottom) in zip(masks, tensor.int().tolist()):
        mask[top:bottom, left:right] = 1
    made.gt_instances = InstanceData(
        bboxes=tensor,
        labels=torch.tensor(labels or [0] * len(boxes), dtype=torch.int64),
        masks=masks,
        keypoints=tensor[:, [0, 1, 2, 1, 2, 3, 0, 3]].reshape(-1, 4, 2),
        keypoints_visible=torch.full((len(boxes), 4), 2.0),
    )
    return made


def batch() -> dict[str, Any]:
    """Two images of different sizes, the second one without instances."""
    generator = torch.Generator().manual_seed(0)
    images = [
        torch.randint(0, 256, (3, *size), dtype=torch.uint8, generator=generator) for size in ((48, 48), (40, 64))
    ]
    return {
        "inputs": images,
        "data_samples": [sample((4, 4, 30, 20), (10, 20, 30, 47), labels=[2, 0]), sample(size=(40, 64))],
    }


@pytest.fixture
def fcos() -> TorchvisionDetector:
    torch.manual_seed(0)
    return TorchvisionDetector(network("fcos"))


# ------------------------------------------------------------------------------------------------------------ networks


@pytest.mark.parametrize("name", SETTINGS)
def test_every_architecture_trains_and_predicts_with_a_custom_backbone(name: str) -> None:
    torch.manual_seed(0)
    model = TorchvisionDetector(network(name))
    to_channels_last(model)  # as a run does on an accelerator
    assert model.num_classes == 3
    optimizer = OptimWrapper(torch.optim.SGD(model.parameters(), lr=1e-3))
    log = model.train().train_step(batch(), optimizer)
    assert all(value.isfinite() for value in log.values())
    assert all(key.startswith("loss") for key in log)
    first, second = model.eval().test_step(batch())
    found = first.pred_instances
    assert 0 < len(found) <= 300 or name in ("fcos", "retinanet")
    assert ((found.labels >= 0) & (found.labels < 3)).all()
    assert second.ori_shape == (40, 64)
    if name == "maskrcnn":
        assert (found.masks.dtype, found.masks.shape) == (torch.bool, (7, 48, 48))
        assert second.pred_instances.masks.shape == (7, 40, 64)
    if name == "keypointrcnn":
        assert (found.keypoints.shape, found.keypoint_scores.shape) == ((7, 4, 2), (7, 4))


def test_builders_of_torchvision_get_the_background_added() -> None:
    with torch.device("meta"):
        for name, outputs in (("fasterrcnn_resnet50_fpn", 4), ("retinanet_resnet50_fpn", 3)):
            model = TorchvisionDetector(name, num_classes=3)
            layer = model.network.roi_heads.box_predictor.cls_score if name[0] == "f" else None
            assert model.num_classes == 3
            assert (
                model.network.head.classification_head.num_classes == outputs
                if layer is None
                else layer.out_features == outputs
            )
    ssd = TorchvisionDetector("ssdlite320_mobilenet_v3_large", num_classes=3)
    assert (ssd.num_classes, ssd.network.head.classification_head.num_columns) == (3, 4)


def test_anchors_follow_the_strides_of_the_backbone() -> None:
    assert MODELS.build(network("fcos")).anchor_generator.sizes == ((4.0,), (8.0,))
    assert MODELS.build(network("fasterrcnn")).rpn.anchor_generator.sizes == ((32.0,), (64.0,))
    given = MODELS.build(network("fasterrcnn", anchor_sizes=[[8, 12], [24]], aspect_ratios=[[1], [1, 2]]))
    assert given.rpn.anchor_generator.sizes == ((8, 12), (24,))


def test_a_pyramid_has_the_levels_that_are_asked_for() -> None:
    images = torch.rand(1, 3, 64, 64)
    for extra, sizes in ((None, [16, 8]), ("pool", [16, 8, 4]), ("p6p7", [16, 8, 4, 2])):
        levels = FeaturePyramid(PYRAMID["body"], 8, extra).eval()(images)
        assert [tuple(level.shape) for level in levels.values()] == [(1, 8, size, size) for size in sizes]
    with pytest.raises(ConfigError, match="extra_levels: must be 'pool', 'p6p7' or None"):
        FeaturePyramid(PYRAMID["body"], 8, "p6")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (dict(name="fcos_resnet5_fpn"), "no detector 'fcos_resnet5_fpn'"),
        (dict(name="fcos"), "backbone: is required for fcos"),
        (dict(name="fcos_resnet50_fpn", backbone=PYRAMID), "backbone: fcos_resnet50_fpn has its own"),
        (dict(name="fcos_resnet50_fpn", weights="COCO_V7"), "has no weights 'COCO_V7'"),
        (
            dict(name="fcos_resnet50_fpn", weights="COCO_V1", weights_backbone="IMAGENET1K_V1"),
            "weights_backbone: is included in weights",
        ),
        (
            dict(name="fcos", backbone=PYRAMID, weights_backbone="IMAGENET1K_V1"),
            "weights_backbone: .* torchvision's builders",
        ),
        (dict(name="fcos", backbone=PYRAMID, head_channels=8), "head_channels: .* fcos"),
        (dict(name="fcos", backbone=PYRAMID, anchor_sizes=[[8]]), "anchor_sizes: .* 2, not 1"),
        (dict(name="fcos", backbone=PYRAMID["body"]), "backbone: fcos requires out_channels"),
        (dict(name="ssd", backbone=PYRAMID), "size: ssd resizes all images to one size"),
        (
            dict(name="ssd", backbone=PYRAMID, size=(32, 32), aspect_ratios=[[2]]),
            "aspect_ratios: .* 2, not 1",
        ),
    ],
)
def test_mistakes_in_the_network(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        MODELS.build(dict(type="TorchvisionDetectionModel", num_classes=3, **settings))


def test_mistakes_in_the_detector() -> None:
    with pytest.raises(ConfigError, match="num_classes: is required"):
        TorchvisionDetector("fcos_resnet50_fpn")
    with pytest.raises(ConfigError, match="num_classes: the network"):
        TorchvisionDetector(network("fcos"), num_classes=3)
    with pytest.raises(ConfigError, match="background: is required for a Linear"):
        TorchvisionDetector(nn.Linear(1, 1))


# ------------------------------------------------------------------------------------------------------------- weights


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Use a temporary folder as the cache that torchvision checks before downloading."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    folder = tmp_path / "hub/checkpoints"
    folder.mkdir(parents=True)
    return folder


def test_weights_by_name_with_cocos_classes_and_with_others(hub: Path, caplog: pytest.LogCaptureFixture) -> None:
    from torchvision.models.detection import SSDLite320_MobileNet_V3_Large_Weights as Weights
    from torchvision.models.detection import ssdlite320_mobilenet_v3_large

    torch.manual_seed(0)
    theirs = ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=91).eval()
    torch.save(theirs.state_dict(), hub / Weights.COCO_V1.url.rpartition("/")[2])
    categories = Weights.COCO_V1.meta["categories"]
    rows = [index for index, name in enumerate(categories) if name != "N/A"]
    images = [torch.rand(3, 40, 50)]
    logger = MMLogger(name="weights", logger_name="weights")
    logger.addHandler(caplog.handler)
    cfg = dict(type="TorchvisionDetectionModel", name="ssdlite320_mobilenet_v3_large", weights="COCO_V1")
    with MMLogger.set_current(logger), torch.no_grad():
        ours = MODELS.build(cfg, num_classes=80).eval()
        features = [list(model.backbone(model.transform(images)[0].tensors).values()) for model in (ours, theirs)]
        logits = [model.head(levels)["cls_logits"] for model, levels in zip((ours, theirs), features)]
        torch.testing.assert_close(logits[0], logits[1][..., rows])
        assert "80 classes from the 91 outputs of COCO_V1" in caplog.text
        assert "Not all weights" not in caplog.text
        three = MODELS.build(cfg, num_classes=3).eval()
        assert "head.classification_head.module_list.0.1.weight" in caplog.text
    assert three.head.classification_head.num_columns == 4
    assert torch.equal(
        three.head.regression_head.module_list[0][1].weight, theirs.head.regression_head.module_list[0][1].weight
    )


def test_outputs_of_some_classes_of_each_kind_of_head() -> None:
    def values(model: nn.Module, features: Tensor) -> list[Tensor]:
        predictor: Any = model.roi_heads.box_predictor
        scores, boxes = predictor(features)
        return [scores, boxes.unflatten(1, (-1, 4)), model.roi_heads.mask_predictor(features[..., None, None])]

    torch.manual_seed(0)
    many, few = (MODELS.build({**network("maskrcnn"), "num_classes": number}) for number in (6, 3))
    rows = [0, 2, 3, 6]
    few.load_state_dict(_select_classes(many.state_dict(), few.state_dict(), rows, 7))
    features = torch.rand(5, 16)
    for mine, theirs in zip(values(few, features), values(many, features)):
        torch.testing.assert_close(mine, theirs[:, rows])  # not bit-identical on every processor

    many, few = (MODELS.build({**network("retinanet"), "num_classes": number}) for number in (6, 3))
    rows = [1, 2, 5]
    few.load_state_dict(_select_classes(many.state_dict(), few.state_dict(), rows, 6))
    levels = [torch.rand(1, 32, 4, 4)]
    torch.testing.assert_close(few.head(levels)["cls_logits"], many.head(levels)["cls_logits"][..., rows])


def test_weights_of_the_backbone_freeze_what_torchvision_freezes(hub: Path) -> None:
    from torchvision.models import ResNet50_Weights, resnet50

    classifier = resnet50(weights=None)
    torch.save(classifier.state_dict(), hub / ResNet50_Weights.IMAGENET1K_V1.url.rpartition("/")[2])
    cfg = dict(type="TorchvisionDetectionModel", name="retinanet_resnet50_fpn", num_classes=2)
    body = MODELS.build(cfg, weights_backbone="IMAGENET1K_V1").backbone.body
    assert torch.equal(body.layer1[0].conv1.weight, classifier.layer1[0].conv1.weight)
    assert type(body.bn1).__name__ == "FrozenBatchNorm2d"
    assert [body.layer1[0].conv1.weight.requires_grad, body.layer2[0].conv1.weight.requires_grad] == [False, True]


def test_weights_from_a_file_report_what_does_not_fit(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    before = MODELS.build(network("fcos"))
    torch.save({"state_dict": before.state_dict()}, tmp_path / "three.pth")
    logger = MMLogger(name="file", logger_name="file")
    logger.addHandler(caplog.handler)
    with MMLogger.set_current(logger):
        after = MODELS.build({**network("fcos"), "num_classes": 5, "weights": str(tmp_path / "three.pth")})
    assert torch.equal(after.backbone.fpn.layer_blocks[0][0].weight, before.backbone.fpn.layer_blocks[0][0].weight)
    assert "head.classification_head.cls_logits.weight" in caplog.text


# ------------------------------------------------------------------------------------------------------------- training


@pytest.mark.parametrize("name", ["fcos", "maskrcnn"])
def test_a_step_of_training_is_that_of_a_loop_by_hand(name: str) -> None:
    torch.manual_seed(1)
    model = TorchvisionDetector(network(name)).train()
    by_hand = MODELS.build(network(name))
    by_hand.load_state_dict(model.network.state_dict())
    data = batch()
    first = 0 if name == "fcos" else 1
    targets = [
        dict(boxes=truth.bboxes, labels=truth.labels + first, masks=truth.masks)
        for truth in (one.gt_instances for one in data["data_samples"])
    ]
    optimizer = torch.optim.SGD(by_hand.parameters(), lr=0.1)
    torch.manual_seed(2)
    loss = sum(by_hand.train()([image / 255 for image in data["inputs"]], targets).values())
    loss.backward()
    optimizer.step()
    torch.manual_seed(2)
    log = model.train_step(data, OptimWrapper(torch.optim.SGD(model.parameters(), lr=0.1)))
    torch.testing.assert_close(log["loss"], loss.detach())
    for ours, theirs in zip(model.network.parameters(), by_hand.parameters()):
        torch.testing.assert_close(ours, theirs)


def test_the_loss_of_a_validation_leaves_the_model_as_it_was() -> None:
    torch.manual_seed(0)
    model = TorchvisionDetector(network("fasterrcnn")).eval()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    predictions, losses = model.val_step(batch(), with_loss=True)
    assert list(losses) == ["loss", "loss_classifier", "loss_box_reg", "loss_objectness", "loss_rpn_box_reg"]
    assert "pred_instances" in predictions[0]
    assert not any(module.training for module in model.modules())
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize(
    ("boxes", "labels", "words"),
    [
        ([(1, 1, 5, 5), (4, 4, 4, 9)], [0, 0], r"instance 1 has no area .* \[4.0, 4.0, 4.0, 9.0\]"),
        ([(9, 4, 4, 9)], [0], r"instance 0 has no area .* \[9.0, 4.0, 4.0, 9.0\]"),
        ([(math.nan, 4, 4, 9)], [0], "instance 0 .* is not finite.*nan"),
        ([(4, 4, math.inf, 9)], [0], "instance 0 .* is not finite.*inf"),
        ([(1, 1, 5, 5)], [3], "instance 0 has the label 3, .* from 0 to 2"),
        ([(1, 1, 5, 5)], [-1], "instance 0 has the label -1"),
    ],
)
def test_annotations_that_cannot_be_trained_on_name_the_sample(
    fcos: TorchvisionDetector, boxes: list[tuple[float, ...]], labels: list[int], words: str
) -> None:
    bad = sample((0, 0, 1, 1), img_path="town/7.jpg")
    bad.gt_instances = InstanceData(bboxes=torch.tensor(boxes), labels=torch.tensor(labels))
    data = batch()
    data["data_samples"][1] = bad
    with pytest.raises(ValueError, match=rf"town/7\.jpg: {words}"):
        fcos(**fcos.data_preprocessor(data, True), mode="loss")


def test_annotations_that_are_missing_name_the_sample(fcos: TorchvisionDetector) -> None:
    image = [torch.rand(3, 48, 48)]
    with pytest.raises(ValueError, match=r"a\.jpg has no gt_instances with bboxes and labels"):
        fcos(image, [DataSample(metainfo=dict(img_path="a.jpg"))], mode="loss")
    with pytest.raises(ValueError, match="the batch has no annotations"):
        fcos(image, None, mode="loss")
    made = DataSample(metainfo=dict(sample_idx=5))
    made.gt_instances = InstanceData(bboxes=torch.rand(0, 4), labels=torch.zeros(0, dtype=torch.int64))
    with pytest.raises(ValueError, match="the instances of sample 5 have no masks"):
        TorchvisionDetector(network("maskrcnn"))(image, [made], mode="loss")
    with pytest.raises(ValueError, match="mode must be"):
        fcos(image, mode="train")


def test_keypoints_in_torchvisions_own_form_are_taken_too() -> None:
    torch.manual_seed(0)
    model = TorchvisionDetector(network("keypointrcnn"))
    data = batch()["data_samples"]
    joined = model._targets(data)
    for one in data:
        truth = one.gt_instances
        points = torch.cat([truth.keypoints, truth.keypoints_visible[..., None]], -1)
        one.gt_instances = InstanceData(bboxes=truth.bboxes, labels=truth.labels, keypoints=points)
    for ours, theirs in zip(model._targets(data), joined):
        assert torch.equal(ours["keypoints"], theirs["keypoints"])
        assert ours["keypoints"].shape[1:] == (4, 3)


# ---------------------------------------------------------------------------------------------------------- predictions


class Fixed(nn.Module):
    """A network that always returns the same detections."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.head = model.head

    def forward(self, images: list[Tensor]) -> list[dict[str, Tensor]]:
        masks = torch.zeros(2, 1, 8, 16)
        masks[0, 0, 2:4, 4:8] = 1
        found = dict(
            boxes=torch.tensor([[4.0, 2, 8, 4], [0, 0, 16, 8]]), labels=torch.tensor([2, 1]),
            scores=torch.tensor([0.9, 0.4]), masks=masks, keypoints=torch.tensor([[[4.0, 2, 1]], [[0, 8, 1]]]),
            keypoints_scores=torch.tensor([[3.0], [1.0]]),
        )  # fmt: skip
        return [found]


def test_predictions_have_the_size_of_the_original_image(fcos: TorchvisionDetector) -> None:
    fcos.network = Fixed(fcos.network)
    made = DataSample(metainfo=dict(ori_shape=(24, 32)))
    (predicted,) = fcos([torch.rand(3, 8, 16)], [made], mode="predict")
    found = predicted.pred_instances
    assert found.bboxes.tolist() == [[8, 6, 16, 12], [0, 0, 32, 24]]
    assert found.labels.tolist() == [2, 1]
    assert found.keypoints.tolist() == [[[8, 6]], [[0, 24]]]
    assert found.masks.shape == (2, 24, 32)
    rows, columns = torch.nonzero(found.masks[0], as_tuple=True)
    assert (rows.min(), rows.max() + 1, columns.min(), columns.max() + 1) == (6, 12, 8, 16)
    assert not found.masks[1].any()
    (alone,) = fcos([torch.rand(3, 8, 16)], mode="predict")
    assert alone.pred_instances.bboxes.tolist() == [[4, 2, 8, 4], [0, 0, 16, 8]]


def test_images_of_bytes_become_shares_and_keep_their_sizes() -> None:
    preprocessor = DetDataPreprocessor()
    images = [torch.full((3, 4, 5), 51, dtype=torch.uint8), torch.rand(3, 6, 4)]
    batched = preprocessor({"inputs": images})
    assert torch.equal(batched["inputs"][0], torch.full((3, 4, 5), 0.2))
    assert torch.equal(batched["inputs"][1], images[1])
    assert batched["data_samples"] is None
    stacked, labels = preprocessor((torch.zeros(2, 3, 4, 4, dtype=torch.uint8), [1, 2]))
    assert (len(stacked), stacked[0].dtype, labels) == (2, torch.float32, [1, 2])
    for wrong in ({"inputs": None}, {}, 3):
        with pytest.raises(TypeError):
            preprocessor(wrong)


# -------------------------------------------------------------------------------------------------------------- metrics

META = dict(classes=("cat", "dog"))


def with_predictions(made: DataSample, *found: tuple[float, ...], labels: Any = None) -> DataSample:
    """Add predictions (left, top, right, bottom, score), with masks that fill their boxes."""
    tensor = torch.tensor(found, dtype=torch.float32).reshape(-1, 5)
    truth = sample(*tensor[:, :4].tolist(), labels=labels, size=made.ori_shape).gt_instances
    made.pred_instances = InstanceData(
        scores=tensor[:, 4], **{name: truth[name] for name in ("bboxes", "labels", "masks", "keypoints")}
    )
    return made


def evaluate(metric: Any, samples: list[DataSample], meta: dict[str, Any] = META) -> dict[str, Any]:
    evaluator = Evaluator(metric)
    evaluator.dataset_meta = meta
    evaluator.process(samples)
    return evaluator.evaluate(len(samples))


def samples_of_a_metric() -> list[DataSample]:
    """Predict one of two cats exactly, after a false positive, and the dog with an IoU of 0.6."""
    first = sample((0, 0, 10, 10), (20, 20, 30, 30), labels=[0, 0], img_id=3)
    with_predictions(first, (0, 0, 10, 10, 0.8), (30, 0, 40, 10, 0.9), labels=[0, 0])
    second = with_predictions(sample((0, 0, 10, 10), labels=[1], img_id=5), (0, 0, 10, 6, 0.7), labels=[1])
    return [first, second, with_predictions(sample(img_id=8))]


def test_coco_by_hand() -> None:
    """There are 101 recall steps. Cat: precision 1/2 up to recall 1/2. Dog: precision 1 for thresholds 0.5 to 0.6."""
    results = evaluate(CocoMetric(metric=["bbox", "segm"], classwise=True), samples_of_a_metric())
    cat, dog = 0.5 * 51 / 101, 3 / 10
    for kind in ("bbox", "segm"):
        assert results[f"coco/cat_{kind}_mAP"] == pytest.approx(cat)
        assert results[f"coco/dog_{kind}_mAP"] == pytest.approx(dog)
        assert results[f"coco/{kind}_mAP"] == pytest.approx((cat + dog) / 2)
        assert results[f"coco/{kind}_mAP_50"] == pytest.approx((cat + 1) / 2)
        assert results[f"coco/{kind}_mAP_75"] == pytest.approx(cat / 2)
        assert results[f"coco/{kind}_mAP_s"] == pytest.approx((cat + dog) / 2)
        assert math.isnan(results[f"coco/{kind}_mAP_l"])
        assert results[f"coco/{kind}_AR"] == pytest.approx((0.5 + 0.3) / 2)
    assert next(iter(results)) == "coco/bbox_mAP"  # what save_best="auto" watches


def test_an_annotation_file_gives_the_same_as_the_samples(tmp_path: Path) -> None:
    samples = samples_of_a_metric()
    annotations, ids = [], {0: 17, 1: 4}  # category ids in a different order than the classes
    for one in samples:
        for box, label in zip(one.gt_instances.bboxes.tolist(), one.gt_instances.labels.tolist()):
            size = [box[2] - box[0], box[3] - box[1]]
            annotations.append(
                dict(
                    id=len(annotations) + 1,
                    image_id=one.img_id,
                    category_id=ids[label],
                    bbox=box[:2] + size,
                    area=size[0] * size[1],
                    iscrowd=0,
                )
            )
    content = dict(
        images=[dict(id=number, height=48, width=48) for number in (3, 5, 8, 99)], annotations=annotations,
        categories=[dict(id=17, name="cat"), dict(id=4, name="dog"), dict(id=1, name="hat")],
    )  # fmt: skip
    (tmp_path / "ann.json").write_text(json.dumps(content))
    settings = dict(ann_file=str(tmp_path / "ann.json"), outfile_prefix=str(tmp_path / "out/results"))
    from_file = evaluate(CocoMetric(**settings, classwise=True), samples)
    for name, value in evaluate(CocoMetric(classwise=True), samples).items():
        assert from_file[name] == pytest.approx(value, nan_ok=True), name
    written = json.loads((tmp_path / "out/results.bbox.json").read_text())
    assert written[2] == dict(image_id=5, category_id=4, score=pytest.approx(0.7), bbox=[0, 0, 10, 6])
    assert evaluate(CocoMetric(**settings, format_only=True), samples) == {}
    with pytest.raises(
        ValueError,
        match=r"ann.json differ: only the former has 'doge' \(did you mean 'dog'\?\); only the latter has 'dog', 'hat'",
    ):
        evaluate(CocoMetric(**settings), samples, dict(classes=("cat", "doge")))


def test_crowds_count_neither_as_hit_nor_as_missed() -> None:
    made = sample((0, 0, 10, 10))
    made.ignored_instances = sample((20, 20, 40, 40)).gt_instances
    with_predictions(made, (0, 0, 10, 10, 0.5), (22, 22, 30, 30, 0.9), (25, 25, 39, 39, 0.8))
    meta = dict(classes=("cat",))
    assert evaluate(CocoMetric(), [made], meta)["coco/bbox_mAP"] == pytest.approx(1)
    assert evaluate(VOCMetric(), [made], meta)["pascal_voc/mAP"] == pytest.approx(1 / 3)  # VOC: the IoU is too low


def test_keypoints_are_measured_by_their_distance() -> None:
    made = sample((0, 0, 40, 40))
    with_predictions(made, (0, 0, 40, 40, 0.5))
    meta = dict(classes=("cat",), sigmas=(0.1,) * 4)
    results = evaluate(CocoMetric(metric="keypoints"), [made], meta)
    assert results["coco/keypoints_mAP"] == pytest.approx(1)
    assert "coco/keypoints_mAP_s" not in results
    # The similarity is exp(-d² / (2 area (2 sigma)²)); 0.72 is above 5 of 10 thresholds.
    distance = math.sqrt(-math.log(0.72) * 2 * 1600 * 0.2**2)
    made.pred_instances.keypoints = made.pred_instances.keypoints + torch.tensor([distance, 0])
    assert evaluate(CocoMetric(metric="keypoints"), [made], meta)["coco/keypoints_mAP"] == pytest.approx(0.5)
    assert evaluate(CocoMetric(metric="keypoints", sigmas=(1.0,) * 4), [made], meta)[
        "coco/keypoints_mAP"
    ] == pytest.approx(1)


def test_nothing_found_and_nothing_there() -> None:
    results = evaluate(CocoMetric(), [with_predictions(sample((0, 0, 9, 9)))])
    assert results["coco/bbox_mAP"] == 0
    assert math.isnan(evaluate(CocoMetric(), [with_predictions(sample())])["coco/bbox_mAP"])
    assert evaluate(VOCMetric(), [with_predictions(sample((0, 0, 9, 9)))])["pascal_voc/mAP"] == 0
    assert math.isnan(evaluate(VOCMetric(), [with_predictions(sample())])["pascal_voc/mAP"])


def test_overlaps_and_the_number_of_predictions_can_be_chosen() -> None:
    results = evaluate(CocoMetric(iou_thrs=[0.5], max_dets=1), samples_of_a_metric())
    assert results["coco/bbox_mAP"] == pytest.approx((0 + 1) / 2)  # only the false positive remains of the cats
    assert "coco/bbox_mAP_75" not in results


def test_voc_by_hand() -> None:
    results = evaluate(VOCMetric(iou_thrs=[0.5, 0.7], classwise=True), samples_of_a_metric())
    assert results == pytest.approx({
        "pascal_voc/mAP": (0.25 + 1 + 0.25 + 0) / 4, "pascal_voc/AP50": (0.25 + 1) / 2, "pascal_voc/AP70": 0.25 / 2,
        "pascal_voc/cat_AP50": 0.25, "pascal_voc/dog_AP50": 1, "pascal_voc/cat_AP70": 0.25, "pascal_voc/dog_AP70": 0,
    })  # fmt: skip
    points = evaluate(VOCMetric(eval_mode="11points", classwise=True), samples_of_a_metric())
    assert points["pascal_voc/cat_AP50"] == pytest.approx(0.5 * 6 / 11)


def test_voc_counts_the_second_prediction_of_an_instance_as_wrong_and_a_difficult_one_not_at_all() -> None:
    made = sample((0, 0, 10, 10), (20, 0, 30, 10))
    made.ignored_instances = sample((0, 20, 10, 30)).gt_instances
    with_predictions(made, (0, 0, 10, 10, 0.9), (0, 0, 10, 9, 0.8), (0, 20, 10, 30, 0.7), (20, 0, 30, 10, 0.6))
    assert evaluate(VOCMetric(), [made], dict(classes=("cat",)))["pascal_voc/mAP"] == pytest.approx(
        0.5 * 1 + 0.5 * 2 / 3
    )


def test_mistakes_of_the_metrics() -> None:
    with pytest.raises(ValueError, match="metric 'box': did you mean 'bbox'"):
        CocoMetric(metric="box")
    with pytest.raises(ValueError, match="outfile_prefix"):
        CocoMetric(format_only=True)
    with pytest.raises(ValueError, match="eval_mode must be 'area' or '11points'"):
        VOCMetric(eval_mode="11")
    found = with_predictions(sample((0, 0, 9, 9), labels=[1], img_path="a.jpg"), (0, 0, 9, 9, 1), labels=[1])
    for metric in (CocoMetric(), VOCMetric()):
        with pytest.raises(ValueError, match=r"a\.jpg has no pred_instances"):
            evaluate(metric, [sample((0, 0, 9, 9), img_path="a.jpg")])
        with pytest.raises(ValueError, match=f"{type(metric).__name__}.*the classes"):
            evaluate(metric, [found], {})
    unlabeled = with_predictions(sample((0, 0, 9, 9), labels=[1], img_path="a.jpg"), (0, 0, 9, 9, 1), labels=[1])
    del unlabeled.pred_instances.labels
    with pytest.raises(ValueError, match=r"a\.jpg has 1 boxes but 0 labels"):
        evaluate(CocoMetric(), [unlabeled])
    with pytest.raises(ValueError, match=r"a\.jpg has labels from 1 to 1, but the dataset has 1 classes"):
        evaluate(CocoMetric(), [found], dict(classes=("cat",)))
    with pytest.raises(ValueError, match=r"a\.jpg has no img_id, .* ann\.json"):
        evaluate(CocoMetric("ann.json"), [found])
    del found.pred_instances.masks
    with pytest.raises(ValueError, match=r"the instances of a\.jpg have no masks, .*'segm'"):
        evaluate(CocoMetric(metric="segm"), [found])


def test_annotations_in_another_size_than_they_are_measured_or_trained_in(fcos: TorchvisionDetector) -> None:
    resize = [dict(type="Resize", size=(24, 24)), dict(type="PackInputs")]
    resized = Shapes(num_samples=1, size=48, pipeline=resize)[0]
    assert resized["data_samples"].gt_shape == (24, 24)
    made = with_predictions(resized["data_samples"])
    for metric in (CocoMetric(), VOCMetric()):
        with pytest.raises(ValueError, match=r"resized to \(24, 24\), .* \(48, 48\)"):
            evaluate(metric, [made])
    made.set_metainfo(dict(gt_shape=(48, 48)))
    with pytest.raises(ValueError, match=r"\(48, 48\), .* \(24, 24\)"):
        fcos([torch.rand(3, 24, 24)], [made], mode="loss")


def test_several_processes_give_what_one_gives(tmp_path: Path) -> None:
    samples = samples_of_a_metric()
    metrics = [dict(type="CocoMetric", metric=["bbox", "segm"]), dict(type="VOCMetric")]
    evaluator = Evaluator(metrics)
    evaluator.dataset_meta = META
    evaluator.process(samples)
    alone = evaluator.evaluate(3)
    assert alone["coco/bbox_mAP_50"] > 0.5
    for results in evaluate_on_ranks(metrics, samples, tmp_path, META):
        assert results == pytest.approx(alone, nan_ok=True)


# ------------------------------------------------------------------------------------------------- training, prediction


def train(name: str, work_dir: Path, **changes: Any) -> dict[str, float]:
    cfg = Config.fromfile(CONFIGS / name)
    cfg.merge_from_dict({"work_dir": str(work_dir), **changes})
    runner = Runner.from_cfg(cfg)
    runner.train()
    return runner.test()


def test_the_right_boxes_score_one() -> None:
    """Shapes, packing and the metric use the same coordinates."""
    dataset = Shapes(
        num_samples=6, size=48, pipeline=[dict(type="RandomHorizontalFlip", p=1.0), dict(type="PackInputs")]
    )
    samples = [dataset[index]["data_samples"] for index in range(6)]
    for one in samples:
        truth = one.gt_instances
        one.pred_instances = InstanceData(
            bboxes=truth.bboxes, labels=truth.labels, masks=truth.masks, scores=torch.ones(len(truth))
        )
    results = evaluate(CocoMetric(metric=["bbox", "segm"]), samples, dataset.metainfo)
    assert (results["coco/bbox_mAP"], results["coco/segm_mAP"]) == pytest.approx((1, 1))


def test_annotations_with_bad_masks_are_left_out_of_the_evaluation(tmp_path: Path) -> None:
    """The dataset may skip them; pycocotools would crash at a polygon that is not finite."""
    polygons = [[2.0, 1, 6, 1, 6, 4, 2, 4], [float("nan"), 1, 6, 1, 6, 4], [1e12, 1, 6, 1, 6, 4]]
    boxes = [
        dict(id=number, image_id=3, category_id=1, bbox=[2, 1, 4, 3], area=12, iscrowd=0, segmentation=[polygon])
        for number, polygon in enumerate(polygons, 1)
    ]
    categories = [dict(id=number, name=name) for number, name in enumerate(META["classes"], 1)]
    content = dict(images=[dict(id=3, height=8, width=10)], annotations=boxes, categories=categories)
    (tmp_path / "ann.json").write_text(json.dumps(content))
    mask = torch.zeros(1, 8, 10, dtype=torch.uint8)
    mask[:, 1:4, 2:6] = 1
    found = DataSample(img_id=3, img_path="a.jpg", ori_shape=(8, 10))
    found.pred_instances = InstanceData(
        bboxes=torch.tensor([[2.0, 1, 6, 4]]), labels=torch.zeros(1).long(), scores=torch.ones(1), masks=mask
    )
    results = evaluate(CocoMetric(ann_file=str(tmp_path / "ann.json"), metric="segm"), [found])
    assert results["coco/segm_mAP"] == pytest.approx(1)


def short(**changes: Any) -> dict[str, Any]:
    """Return overrides that make a config run in a few seconds, with small images of circles only."""
    loaders = {
        f"{split}_dataloader.dataset.{key}": value
        for split in ("train", "val", "test")
        for key, value in (("size", 64), ("kinds", ["circle"]), ("num_samples", 40))
    }
    return {
        **loaders, "model.network.num_classes": 1, "model.network.min_size": 64, "visualizer.vis_backends": [], **changes
    }  # fmt: skip


@pytest.mark.long
def test_fcos_overfits_two_images() -> None:
    """Training to generalize takes longer: see the slow test."""
    cfg = Config.fromfile(CONFIGS / "detection/fcos_mobilenet_v2_shapes.py")
    cfg.merge_from_dict({"model.network.num_classes": 1, "model.network.min_size": 64})
    torch.manual_seed(0)
    model = MODELS.build(cfg.model).train()
    options: dict[str, Any] = {"kinds": ("circle",), "max_shapes": 1, "radius": (0.2, 0.3)}
    shapes = Shapes(2, 64, pipeline=[dict(type="PackInputs")], **options)
    batch = pseudo_collate([shapes[0], shapes[1]])
    wrapper = OptimWrapper(torch.optim.AdamW(model.parameters(), lr=1e-3), clip_grad=dict(max_norm=35))
    for _ in range(60):
        model.train_step(dict(batch), wrapper)
    with torch.no_grad():
        samples = model.eval().test_step(dict(batch))
    for one in samples:
        best = one.pred_instances[0]
        assert best.scores[0] > 0.7
        assert box_iou(best.bboxes, one.gt_instances.bboxes)[0, 0] > 0.6


@pytest.mark.slow
def test_a_short_training_beats_chance_by_far_and_its_checkpoint_predicts(tmp_path: Path) -> None:
    changes = short(**{
        "train_dataloader.dataset.num_samples": 480, "max_epochs": 3, "train_cfg.max_epochs": 3,
        "param_scheduler.total_steps": 3,
    })  # fmt: skip
    results = train("detection/fcos_mobilenet_v2_shapes.py", tmp_path, **changes)
    assert results["coco/bbox_mAP_50"] > 0.4
    (checkpoint,) = tmp_path.glob("best_coco_bbox_mAP_50_*.pth")
    inferencer = Inferencer(checkpoint, show_progress=False)
    blank, shapes = torch.full((3, 70, 50), 90, dtype=torch.uint8), Shapes(num_samples=1, size=64, seed=3)[0]["img"]
    answer = inferencer([blank, shapes], out_dir=tmp_path / "out")
    nothing, found = (prediction["pred_instances"] for prediction in answer["predictions"])
    assert set(found) == set(nothing) == {"bboxes", "labels", "scores"}
    assert len(found["bboxes"]) >= 1
    assert len(list((tmp_path / "out").glob("*.png"))) == 2


@pytest.mark.slow
def test_a_short_training_of_masks_learns_and_its_checkpoint_predicts(tmp_path: Path) -> None:
    changes = short(**{
        "train_dataloader.dataset.num_samples": 320, "max_epochs": 3, "train_cfg.max_epochs": 3,
        "param_scheduler.total_steps": 3, "model.network.head_channels": 32,
        "model.network.box_batch_size_per_image": 16, "model.network.backbone.out_channels": 32,
    })  # fmt: skip
    results = train("instance_segmentation/mask_rcnn_mobilenet_v2_shapes.py", tmp_path, **changes)
    assert results["coco/segm_mAP_50"] > 0.2
    (checkpoint,) = tmp_path.glob("best_coco_segm_mAP_50_*.pth")
    image = Shapes(num_samples=1, size=64, seed=3)[0]["img"]
    (prediction,) = Inferencer(checkpoint, show_progress=False)(image, out_dir=tmp_path / "out")["predictions"]
    found = prediction["pred_instances"]
    assert len(found["masks"]) == len(found["bboxes"]) > 0
    assert all(mask["size"] == [64, 64] and sum(mask["counts"]) == 64 * 64 for mask in found["masks"])


@pytest.mark.parametrize(
    ("name", "metric"),
    [
        ("detection/ssdlite320_mobilenet_v3_large_coco.py", "coco/bbox_mAP"),
        ("instance_segmentation/mask_rcnn_resnet50_fpn_coco.py", "coco/segm_mAP"),
    ],
)
@pytest.mark.long
def test_the_configs_for_coco_run_on_files_of_its_form(tmp_path: Path, name: str, metric: str) -> None:
    write_coco_shapes(tmp_path / "coco")
    changes: dict[str, Any] = {
        "model.network.weights_backbone": None, "model.network.num_classes": 3, "train_cfg.max_epochs": 1, "train_cfg.val_interval": 1,
        "train_dataloader.batch_size": 2, "default_hooks.checkpoint.interval": 1, "visualizer.vis_backends": [],
        "custom_hooks": [dict(type="VisualizationHook")],
    }  # fmt: skip
    if "mask_rcnn" in name:
        changes |= {
            "model.network.min_size": 64,
            "model.network.max_size": 96,
            "model.network.box_detections_per_img": 5,
        }
    for split in ("train", "val", "test"):
        changes |= {f"{split}_dataloader.num_workers": 0, f"{split}_dataloader.pin_memory": False}
        changes |= {f"{split}_dataloader.dataset.data_root": str(tmp_path / "coco")}
    for part in ("val", "test"):
        changes[f"{part}_evaluator.ann_file"] = str(tmp_path / "coco/annotations/instances_val2017.json")
    results = train(name, tmp_path / "run", **changes)
    assert 0 <= results[metric] < 0.5


@pytest.mark.long
def test_resuming_in_the_middle_of_an_epoch_is_bit_identical(tmp_path: Path) -> None:
    write_coco_shapes(tmp_path / "coco", numbers=(7, 1))
    pipeline = [
        dict(type="LoadImageFromFile"), dict(type="LoadAnnotations"), dict(type="RandomIoUCrop"),
        dict(type="SanitizeBoundingBoxes"), dict(type="RandomHorizontalFlip"), dict(type="PackInputs"),
    ]  # fmt: skip
    dataset = dict(
        type="CocoDataset", data_root=str(tmp_path / "coco"), ann_file="annotations/instances_train2017.json",
        data_prefix=dict(img="train2017"), pipeline=pipeline,
    )  # fmt: skip

    def run(name: str, resume: str | None = None) -> dict[str, Tensor]:
        runner = Runner(
            model=dict(type="TorchvisionDetector", network=network("fasterrcnn")),
            work_dir=str(tmp_path / name),
            train_dataloader=dict(dataset=dataset, batch_size=2, batch_sampler=dict(type="AspectRatioBatchSampler")),
            train_cfg=dict(by_epoch=True, max_epochs=2),
            optim_wrapper=dict(optimizer=dict(type="SGD", lr=0.01)),
            default_hooks=dict(checkpoint=dict(by_epoch=False, interval=3)),
            randomness=dict(seed=0),
            resume=resume or False,
        )
        runner.train()
        return {key: value.clone() for key, value in runner.model.state_dict().items()}

    whole = run("whole")
    rest = run("rest", str(tmp_path / "whole/iter_3.pth"))
    assert all(torch.equal(value, rest[key]) for key, value in whole.items())


@pytest.mark.slow
def test_the_shipped_fcos_reaches_its_score(tmp_path: Path) -> None:
    assert train("detection/fcos_mobilenet_v2_shapes.py", tmp_path)["coco/bbox_mAP_50"] > 0.85


@pytest.mark.slow
def test_the_shipped_fcos_with_mosaic_reaches_its_score(tmp_path: Path) -> None:
    assert train("detection/fcos_mobilenet_v2_mosaic_shapes.py", tmp_path)["coco/bbox_mAP_50"] > 0.75


@pytest.mark.slow
def test_the_shipped_mask_rcnn_reaches_its_score(tmp_path: Path) -> None:
    results = train("instance_segmentation/mask_rcnn_mobilenet_v2_shapes.py", tmp_path)
    assert results["coco/segm_mAP_50"] > 0.8
