"""Semantic segmentation: networks, losses, inference, predictions, metric, training."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from ranks import evaluate_on_ranks
from torch import Tensor
from torch.nn import functional as F

from trainwright.engine.config.config import Config
from trainwright.engine.errors import ConfigError
from trainwright.engine.evaluation.evaluator import Evaluator
from trainwright.engine.inference.inferencer import Inferencer
from trainwright.engine.optim.wrapper import OptimWrapper
from trainwright.engine.records.logger import MMLogger
from trainwright.engine.registry import MODELS
from trainwright.engine.run.runner import Runner
from trainwright.engine.structures.pixel_data import PixelData
from trainwright.engine.structures.sample import DataSample
from trainwright.models import (
    DiceLoss,
    IoUMetric,
    OhemCrossEntropyLoss,
    SegCrossEntropyLoss,
    SegDataPreprocessor,
    SemanticSegmentor,
    UNet,
    add_seg_predictions,
    gather_seg_maps,
)
from trainwright.models.segmentation.segmentor import slide

CONFIGS = Path(__file__).parents[2] / "configs"
SMALL = {"type": "UNet", "num_classes": 3, "base_channels": 4, "depth": 2}


def sample(plane: Any = None, **metainfo: Any) -> DataSample:
    """Return a data sample with these classes, (H, W)."""
    made = DataSample(metainfo=metainfo)
    if plane is not None:
        made.gt_sem_seg = PixelData(sem_seg=torch.as_tensor(plane)[None])
    return made


def classes(*shape: int, number: int = 3, seed: int = 0) -> Tensor:
    return torch.randint(0, number, shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def segmentor() -> SemanticSegmentor:
    torch.manual_seed(0)
    return SemanticSegmentor(SMALL)


class Positions(torch.nn.Module):
    """A network that returns its input, so that predictions can be computed by hand."""

    def forward(self, images: Tensor) -> Tensor:
        return images


# ------------------------------------------------------------------------------------------------------------ networks


@pytest.mark.parametrize("size", [(16, 16), (13, 22), (9, 9)])
def test_a_unet_keeps_the_size_of_the_image(size: tuple[int, int]) -> None:
    assert UNet(num_classes=5, base_channels=2, depth=4)(torch.rand(2, 3, *size)).shape == (2, 5, *size)


def test_a_unet_of_the_paper_has_its_size() -> None:
    """31,030,658 with 6,850 biases, for 1 channel and 2 classes."""
    with torch.device("meta"):
        network = UNet(num_classes=2, in_channels=1)
    convolutions = [m for m in network.modules() if isinstance(m, torch.nn.Conv2d | torch.nn.ConvTranspose2d)]
    assert sum(module.weight.numel() for module in convolutions) == 31_023_808
    with pytest.raises(ValueError, match="depth must be at least 2, not 1"):
        UNet(num_classes=2, depth=1)


def test_a_unet_without_classes_gives_its_features() -> None:
    finest, lowest = UNet(num_classes=None, base_channels=4, depth=3)(torch.rand(1, 3, 16, 16))
    assert (finest.shape, lowest.shape) == ((1, 4, 16, 16), (1, 16, 4, 4))


@pytest.mark.parametrize(
    ("name", "aux"),
    [("lraspp_mobilenet_v3_large", False), ("deeplabv3_mobilenet_v3_large", True), ("fcn_resnet50", True)],
)
def test_networks_of_torchvision(name: str, aux: bool) -> None:
    network = MODELS.build(dict(type="TorchvisionSegmentationModel", name=name, num_classes=4, aux_loss=aux))
    outputs = network.eval()(torch.rand(1, 3, 32, 48))
    assert {key: tuple(value.shape) for key, value in outputs.items()} == dict.fromkeys(
        ("out", "aux") if aux else ("out",), (1, 4, 32, 48)
    )


def test_mistaken_names_of_networks() -> None:
    with pytest.raises(ConfigError, match="no segmentation network 'fcn_resnet5'") as caught:
        SemanticSegmentor("fcn_resnet5", num_classes=2)
    assert "fcn_resnet50" in str(caught.value)
    with pytest.raises(ConfigError, match="has no auxiliary head"):
        MODELS.build(dict(type="TorchvisionSegmentationModel", name="lraspp_mobilenet_v3_large", aux_loss=True))
    with pytest.raises(ConfigError, match="num_classes"):
        SemanticSegmentor("fcn_resnet50")
    with pytest.raises(ConfigError, match="num_classes: the network"):
        SemanticSegmentor(SMALL, num_classes=3)


def test_weights_of_another_number_of_classes_are_left_out_and_reported(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cfg = dict(type="TorchvisionSegmentationModel", name="lraspp_mobilenet_v3_large")
    before = MODELS.build(cfg, num_classes=5)
    torch.save({"state_dict": before.state_dict()}, tmp_path / "five.pth")
    logger = MMLogger(name="weights", logger_name="weights")
    logger.addHandler(caplog.handler)
    with MMLogger.set_current(logger):
        after = MODELS.build(cfg, num_classes=2, weights=str(tmp_path / "five.pth"))
    assert torch.equal(after.classifier.cbr[0].weight, before.classifier.cbr[0].weight)
    assert after.classifier.low_classifier.weight.shape[0] == 2
    assert "classifier.low_classifier.weight" in caplog.text


@pytest.mark.parametrize("name", ["lraspp_mobilenet_v3_large", "fcn_resnet50"])
def test_weights_of_a_backbone_come_from_a_classifier(name: str, tmp_path: Path) -> None:
    classifier = MODELS.build(dict(type="TorchvisionModel", name=name.partition("_")[2], num_classes=3))
    torch.save(classifier.state_dict(), tmp_path / "classifier.pth")
    cfg = dict(type="TorchvisionSegmentationModel", name=name, num_classes=2)
    network = MODELS.build(cfg, weights_backbone=str(tmp_path / "classifier.pth"))
    theirs = {key.removeprefix("features."): value for key, value in classifier.state_dict().items()}
    ours = network.backbone.state_dict()
    assert len(ours) > 100
    assert all(torch.equal(value, theirs[key]) for key, value in ours.items())


def test_features_of_a_classifier_by_the_names_of_its_layers() -> None:
    features = MODELS.build(dict(type="TorchvisionFeatures", name="resnet18", layers=("relu", "layer2", "layer3")))
    assert [tuple(level.shape) for level in features(torch.rand(1, 3, 32, 32))] == [
        (1, 64, 16, 16), (1, 128, 4, 4), (1, 256, 2, 2),
    ]  # fmt: skip
    assert not any("layer4" in key for key in features.state_dict())
    with pytest.raises(ConfigError, match="resnet18 has no layer 'layer9'"):
        MODELS.build(dict(type="TorchvisionFeatures", name="resnet18", layers="layer9"))


# -------------------------------------------------------------------------------------------------------------- losses


@pytest.mark.parametrize("class_weight", [None, [1.0, 2.0, 0.5]])
def test_cross_entropy_is_torchs_where_pixels_count(class_weight: list[float] | None) -> None:
    logits, target = torch.randn(2, 3, 4, 5), classes(2, 4, 5)
    target[0, :2] = 255
    weight = None if class_weight is None else torch.tensor(class_weight)
    expected = F.cross_entropy(logits, target, weight, ignore_index=255)
    torch.testing.assert_close(SegCrossEntropyLoss(class_weight)(logits, target), expected)


@pytest.mark.parametrize("loss", [SegCrossEntropyLoss(), OhemCrossEntropyLoss(min_kept=3), DiceLoss(), SegCrossEntropyLoss([1.0, 2.0, 3.0])])  # fmt: skip
def test_a_batch_without_pixels_that_count_has_no_loss_and_no_gradient(loss: torch.nn.Module) -> None:
    logits = torch.randn(1, 3, 2, 2, requires_grad=True)
    value = loss(logits, torch.full((1, 2, 2), 255))
    value.backward()
    assert value.item() == 0
    assert torch.equal(logits.grad, torch.zeros_like(logits))


def test_ohem_takes_the_hard_pixels() -> None:
    probability = torch.tensor([0.1, 0.5, 0.9, 0.95, 0.6])
    logits = torch.stack([probability.log(), (1 - probability).log()])[None, :, None]
    target = torch.zeros(1, 1, 5, dtype=torch.int64)
    target[..., 4] = 255
    losses = -probability.log()

    def kept(**settings: Any) -> list[bool]:
        return OhemCrossEntropyLoss(**settings).hard_pixels(logits, target).flatten().tolist()

    assert kept(thresh=0.7, min_kept=1) == [True, True, False, False, False]
    assert kept(thresh=0.7, min_kept=3) == [True, True, True, False, False]
    assert kept(thresh=0.7, min_kept=100) == [True, True, True, True, False]
    value = OhemCrossEntropyLoss(thresh=0.7, min_kept=1)(logits, target)
    assert value.item() == pytest.approx(losses[:2].mean().item())
    with pytest.raises(ValueError, match="thresh must be in"):
        OhemCrossEntropyLoss(thresh=0)


def test_dice() -> None:
    target = torch.tensor([[[0, 0, 1, 255]]])
    certain = 100.0 * F.one_hot(torch.tensor([[[0, 1, 1, 0]]]), 2).permute(0, 3, 1, 2).float()
    # Class 0: 1 correct, 1 predicted, 2 true. Class 1: 1 correct, 2 predicted, 1 true. smooth adds 1 to both terms.
    assert DiceLoss()(certain, target).item() == pytest.approx(1 - (2 * 1 + 1) / (3 + 1))
    assert DiceLoss(smooth=1e-6)(certain, target).item() == pytest.approx(1 / 3, abs=1e-5)
    assert DiceLoss(class_weight=[0.0, 1.0], loss_weight=2)(certain, target).item() == pytest.approx(0.5)


def test_losses_of_the_auxiliary_head_have_their_weight(segmentor: SemanticSegmentor) -> None:
    class TwoHeads(torch.nn.Module):
        def forward(self, images: Tensor) -> dict[str, Tensor]:
            return {"out": images, "aux": 2 * images}

    inputs, target = torch.randn(2, 3, 4, 4), classes(2, 4, 4)
    model = SemanticSegmentor(TwoHeads(), loss=[dict(type="SegCrossEntropyLoss"), DiceLoss()], aux_loss_weight=0.4)
    losses = model(inputs, target, mode="loss")
    assert list(losses) == ["loss_ce", "loss_dice", "aux.loss_ce", "aux.loss_dice"]
    assert losses["aux.loss_ce"].item() == pytest.approx(0.4 * F.cross_entropy(2 * inputs, target).item())
    total, log = model.parse_losses(losses)
    assert total.item() == pytest.approx(sum(value.item() for name, value in log.items() if name != "loss"))


def test_losses_must_agree() -> None:
    with pytest.raises(ConfigError, match="ignore_index is 7, .* 255"):
        SemanticSegmentor(SMALL, loss=dict(type="DiceLoss", ignore_index=7))
    with pytest.raises(ConfigError, match="two losses have the same name"):
        SemanticSegmentor(SMALL, loss=[DiceLoss(), DiceLoss()])


# ----------------------------------------------------------------------------------------------- annotations, inference


def test_segmentation_maps_are_padded_like_the_images(segmentor: SemanticSegmentor) -> None:
    images = [torch.randint(0, 256, (3, *size), dtype=torch.uint8) for size in ((6, 8), (8, 4))]
    truth = [classes(6, 8), classes(8, 4)]
    data = {"inputs": images, "data_samples": [sample(plane) for plane in truth]}
    batch = segmentor.data_preprocessor(data, True)
    maps = gather_seg_maps(batch["data_samples"], batch["inputs"].shape[-2:])
    assert maps.shape == (2, 8, 8)
    assert torch.equal(maps[0, :6], truth[0])
    assert torch.equal(maps[1, :, :4], truth[1])
    assert (maps[0, 6:] == 255).all()
    assert (maps[1, :, 4:] == 255).all()
    losses = segmentor(**batch, mode="loss")
    logits = segmentor.network(batch["inputs"])
    torch.testing.assert_close(losses["loss_ce"], F.cross_entropy(logits, maps, ignore_index=255))


def test_bad_annotations_are_named() -> None:
    with pytest.raises(ValueError, match=r"a/1\.jpg has no gt_sem_seg"):
        gather_seg_maps([sample(img_path="a/1.jpg")], (4, 4))
    with pytest.raises(ValueError, match=r"a/1\.jpg has size \(5, 4\), .* \(4, 4\)"):
        gather_seg_maps([sample(classes(5, 4), img_path="a/1.jpg")], (4, 4))
    with pytest.raises(ValueError, match="the batch has no segmentation maps"):
        gather_seg_maps(None, (4, 4))


def test_predictions_have_the_size_of_the_original_image() -> None:
    logits = torch.zeros(2, 2, 4, 4)
    logits[0, 1, :, :2] = logits[0, 0, :, 2:] = 1  # class 1 on the left; the padding below predicts otherwise
    logits[0, :, 3] = torch.tensor([[-9.0], [9.0]])
    logits[1, 1] = 1
    samples = [sample(img_shape=(3, 4), ori_shape=(6, 8)), sample(img_shape=(4, 4), ori_shape=(4, 4))]
    first, second = add_seg_predictions(logits, samples)
    expected = torch.zeros(6, 8, dtype=torch.int64)
    expected[:, :4] = 1
    assert torch.equal(first.pred_sem_seg.sem_seg, expected[None])
    assert torch.equal(second.pred_sem_seg.sem_seg, torch.ones(1, 4, 4, dtype=torch.int64))


def test_predictions_without_any_annotation(segmentor: SemanticSegmentor) -> None:
    (prediction,) = segmentor.eval().test_step({"inputs": torch.zeros(1, 3, 8, 8, dtype=torch.uint8)})
    assert prediction.keys() == ["pred_sem_seg"]
    assert prediction.pred_sem_seg.shape == (8, 8)


def test_the_preprocessor_records_the_size_of_the_batch() -> None:
    samples = [sample(), sample()]
    images = [torch.zeros(3, 5, 7), torch.zeros(3, 6, 4)]
    batch = SegDataPreprocessor(pad_size_divisor=4)({"inputs": images, "data_samples": samples})
    assert [s.batch_input_shape for s in batch["data_samples"]] == [(8, 8), (8, 8)]


def test_windows_of_a_pointwise_network_give_what_the_whole_image_gives() -> None:
    images = torch.randn(2, 3, 10, 13)
    windows = []

    def network(crop: Tensor) -> Tensor:
        windows.append(tuple(crop.shape[-2:]))
        return 2 * crop

    torch.testing.assert_close(slide(network, images, (4, 6), (3, 4)), 2 * images)
    assert windows == [(4, 6)] * 9  # rows from 0, 3 and 6; columns from 0, 4 and 7
    windows.clear()
    torch.testing.assert_close(slide(network, images, (20, 6), (20, 6)), 2 * images)
    assert windows == [(10, 6)] * 3


def test_overlapping_windows_are_averaged() -> None:
    number = iter(range(9))
    logits = slide(
        lambda crop: torch.full_like(crop[:, :1], float(next(number))), torch.zeros(1, 3, 2, 6), (2, 4), (2, 2)
    )
    assert logits[0, 0, 0].tolist() == [0, 0, 0.5, 0.5, 1, 1]


def test_sliding_and_whole_inference_by_config() -> None:
    images = torch.randn(1, 3, 9, 9)
    whole = SemanticSegmentor(Positions())
    windows = SemanticSegmentor(Positions(), test_cfg=dict(mode="slide", crop_size=(4, 4), stride=(3, 3)))
    expected = whole(images, mode="predict")[0].pred_sem_seg.sem_seg
    assert torch.equal(expected[0], images[0].argmax(0))
    assert torch.equal(windows(images, mode="predict")[0].pred_sem_seg.sem_seg, expected)


@pytest.mark.parametrize(
    ("test_cfg", "message"),
    [
        (dict(mode="slid"), "must be 'whole' or 'slide'"),
        (dict(mode="slide", crop_size=8), "requires crop_size and stride"),
        (dict(mode="whole", stride=8), "no other options"),
        (dict(mode="slide", crop_size=(8, 8), stride=(9, 8)), "must be from 1 to crop_size"),
    ],
)
def test_mistakes_in_test_cfg(test_cfg: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        SemanticSegmentor(SMALL, test_cfg=test_cfg)


def test_modes(segmentor: SemanticSegmentor) -> None:
    assert segmentor(torch.rand(1, 3, 8, 8)).shape == (1, 3, 8, 8)
    with pytest.raises(ValueError, match="mode must be"):
        segmentor(torch.rand(1, 3, 8, 8), mode="train")


def test_the_loss_of_a_validation(segmentor: SemanticSegmentor) -> None:
    data = {"inputs": [torch.zeros(3, 8, 8, dtype=torch.uint8)], "data_samples": [sample(classes(8, 8))]}
    predictions, losses = segmentor.eval().val_step(data, with_loss=True)
    assert list(losses) == ["loss", "loss_ce"]
    assert predictions[0].pred_sem_seg.shape == (8, 8)


def test_a_step_of_training_is_that_of_a_loop_by_hand() -> None:
    torch.manual_seed(1)
    model = SemanticSegmentor(SMALL)
    by_hand = UNet(**{key: value for key, value in SMALL.items() if key != "type"})
    by_hand.load_state_dict(model.network.state_dict())
    images, truth = torch.randint(0, 256, (2, 3, 8, 8), dtype=torch.uint8), classes(2, 8, 8)
    truth[0, 0] = 255
    optimizer = torch.optim.SGD(by_hand.parameters(), lr=0.1)
    loss = F.cross_entropy(by_hand.train()(images.float()), truth, ignore_index=255)
    loss.backward()
    optimizer.step()
    wrapper = OptimWrapper(torch.optim.SGD(model.parameters(), lr=0.1))
    log = model.train().train_step(
        {"inputs": list(images), "data_samples": [sample(plane) for plane in truth]}, wrapper
    )
    torch.testing.assert_close(log["loss"], loss.detach())
    for ours, theirs in zip(model.network.parameters(), by_hand.parameters()):
        torch.testing.assert_close(ours, theirs)


# -------------------------------------------------------------------------------------------------------------- metric


def evaluate(metric: IoUMetric, pairs: list[tuple[Any, Any]], meta: dict[str, Any] | None = None) -> dict[str, Any]:
    evaluator = Evaluator(metric)
    evaluator.dataset_meta = meta or {}
    for truth, prediction in pairs:
        made = sample(truth)
        made.pred_sem_seg = PixelData(sem_seg=torch.as_tensor(prediction)[None])
        evaluator.process([made])
    return evaluator.evaluate(len(pairs))


TRUTH = [[0, 0, 1], [1, 1, 255]]
GUESS = [[0, 1, 1], [1, 0, 2]]


def test_iou_by_hand() -> None:
    """Class 0: 1 correct, 2 predicted, 2 true. Class 1: 2 correct, 3 predicted, 3 true. Class 2 does not occur."""
    metric = IoUMetric(["mIoU", "mDice", "mFscore"], num_classes=3, classwise=True)
    results = evaluate(metric, [(TRUTH, GUESS)])
    expected = {
        "mIoU": 100 * (1 / 3 + 2 / 4) / 2, "mAcc": 100 * (1 / 2 + 2 / 3) / 2, "mDice": 100 * (2 / 4 + 4 / 6) / 2,
        "mFscore": 100 * (2 / 4 + 4 / 6) / 2, "mPrecision": 100 * (1 / 2 + 2 / 3) / 2,
        "mRecall": 100 * (1 / 2 + 2 / 3) / 2, "aAcc": 60.0,
    }  # fmt: skip
    assert {name: results[f"seg/{name}"] for name in expected} == pytest.approx(expected)
    assert results["seg/IoU.0"] == pytest.approx(100 / 3)
    assert results["seg/IoU.1"] == pytest.approx(50)
    assert math.isnan(results["seg/IoU.2"])


def test_iou_is_of_all_pixels_together_not_a_mean_over_images() -> None:
    metric = IoUMetric(num_classes=2)
    results = evaluate(metric, [([[0, 0, 0, 1]], [[0, 0, 0, 1]]), ([[1]], [[0]])])
    assert results["seg/mIoU"] == pytest.approx(100 * (3 / 4 + 1 / 2) / 2)
    assert next(iter(results)) == "seg/mIoU"  # what save_best="auto" watches


def test_the_dataset_names_the_classes() -> None:
    meta = {"classes": ("a",), "seg_classes": ("sky", "a", "b")}
    results = evaluate(IoUMetric(classwise=True), [(TRUTH, GUESS)], meta)
    assert results["seg/Acc.sky"] == 50
    with pytest.raises(ValueError, match="num_classes"):
        evaluate(IoUMetric(), [(TRUTH, GUESS)])


def test_mistakes_of_the_metric() -> None:
    with pytest.raises(ValueError, match="unknown metric 'mIou'"):
        IoUMetric("mIou")
    with pytest.raises(ValueError, match="2 classes, but 1 pixels"):
        evaluate(IoUMetric(num_classes=2), [([[0, 1]], [[0, 2]])])
    with pytest.raises(ValueError, match=r"\(1, 2\) and \(2, 3\)"):
        evaluate(IoUMetric(num_classes=2), [(TRUTH, [[0, 1]])])
    with pytest.raises(ValueError, match="has no gt_sem_seg"):
        evaluator = Evaluator(IoUMetric(num_classes=2))
        evaluator.process([DataSample(pred_sem_seg=PixelData(sem_seg=torch.zeros(1, 1, 1)))])


def test_several_processes_give_what_one_gives(tmp_path: Path) -> None:
    truth, guess = classes(5, 6, 6, seed=1), classes(5, 6, 6, seed=2)
    truth[0, 0] = 255
    alone = evaluate(IoUMetric(["mIoU", "mDice"], num_classes=3), list(zip(truth, guess)))
    samples = [
        DataSample(gt_sem_seg=PixelData(sem_seg=one[None]), pred_sem_seg=PixelData(sem_seg=other[None]))
        for one, other in zip(truth, guess)
    ]
    metric = IoUMetric(["mIoU", "mDice"], num_classes=3)
    assert evaluate_on_ranks(metric, samples, tmp_path) == [alone, alone]


# ------------------------------------------------------------------------------------------------- training, prediction


def train(name: str, work_dir: Path, **changes: Any) -> dict[str, float]:
    cfg = Config.fromfile(CONFIGS / name)
    cfg.merge_from_dict({"work_dir": str(work_dir), **changes})
    runner = Runner.from_cfg(cfg)
    runner.train()
    return runner.test()


@pytest.mark.long
def test_a_short_training_beats_chance_by_far_and_its_checkpoint_predicts(tmp_path: Path) -> None:
    changes = {
        "model.network.base_channels": 8, "model.network.depth": 3, "max_epochs": 2, "train_cfg.max_epochs": 2,
        "param_scheduler.total_steps": 2, "train_dataloader.dataset.num_samples": 320,
        "train_dataloader.dataset.size": 32, "val_dataloader.dataset.size": 32, "test_dataloader.dataset.size": 32,
        "train_dataloader.dataset.kinds": ["circle"], "val_dataloader.dataset.kinds": ["circle"],
        "test_dataloader.dataset.kinds": ["circle"], "test_dataloader.dataset.num_samples": 50,
        "val_dataloader.dataset.num_samples": 50, "model.network.num_classes": 2,
        "visualizer": dict(type="Visualizer", vis_backends=[]),
    }  # fmt: skip
    results = train("segmentation/unet_shapes.py", tmp_path, **changes)
    assert results["seg/mIoU"] > 75  # background everywhere: 41
    (checkpoint,) = tmp_path.glob("best_seg_mIoU_*.pth")
    inferencer = Inferencer(checkpoint, show_progress=False)
    image = torch.randint(0, 256, (3, 40, 50), dtype=torch.uint8)
    answer = inferencer(image, out_dir=tmp_path / "out")
    assert answer["visualization"][0].ndim == 3
    (sample_,) = inferencer(image, return_datasamples=True)["predictions"]
    segments = answer["predictions"][0]["pred_sem_seg"]
    names = {0: "background", 1: "circle"}
    assert [(s["label"], s["class"]) for s in segments] == [(label, names[label]) for label in sample_.pred_sem_seg.sem_seg.unique().tolist()]  # fmt: skip
    for segment in segments:
        ones = torch.arange(len(segment["mask"]["counts"])) % 2
        plane = ones.repeat_interleave(torch.tensor(segment["mask"]["counts"])).reshape(50, 40).T  # column by column
        assert torch.equal(plane.bool(), sample_.pred_sem_seg.sem_seg[0] == segment["label"])
        assert segment["area"] == plane.sum()


@pytest.mark.slow
def test_the_shipped_config_reaches_its_score(tmp_path: Path) -> None:
    assert train("segmentation/unet_shapes.py", tmp_path)["seg/mIoU"] > 80
