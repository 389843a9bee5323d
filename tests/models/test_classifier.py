"""Image classification: backbones, heads, labels, losses, augmentations, test-time augmentation."""

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from trainwright.engine.errors import ConfigError, MissingExtraError
from trainwright.engine.optim.wrapper import OptimWrapper
from trainwright.engine.records.logger import MMLogger
from trainwright.engine.registry import MODELS
from trainwright.engine.run.model_setup import initialize_model
from trainwright.engine.structures.sample import DataSample
from trainwright.models import (
    MLP,
    BinaryCrossEntropyLoss,
    ClassificationTTA,
    ConvNet,
    CrossEntropyLoss,
    CutMix,
    ImageClassifier,
    LabelSmoothLoss,
    LeNet,
    Mixup,
    RandomBatchAugment,
    add_predictions,
    gather_labels,
)

GRAY = {"type": "ClsDataPreprocessor", "mean": [73], "std": [90]}


@pytest.fixture
def images() -> Tensor:
    return torch.randint(0, 256, (4, 1, 28, 28), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def classifier() -> ImageClassifier:
    torch.manual_seed(0)
    return ImageClassifier({"type": "LeNet", "channels": (4, 8), "hidden_features": 16}, data_preprocessor=GRAY)


def sample_list() -> list[DataSample]:
    return [DataSample(gt_label=torch.tensor(label)) for label in (3, 1, 4, 1)]


LABELS = torch.tensor([3, 1, 4, 1])


@pytest.mark.parametrize(
    "data_samples",
    [
        LABELS,
        DataSample(gt_label=LABELS),
        sample_list(),
        [DataSample(gt_label=torch.tensor([label])) for label in LABELS],
        LABELS.tolist(),
        list(LABELS),
        DataSample(gt_label=torch.zeros(4).long(), gt_score=F.one_hot(LABELS, 10).float()),
        F.one_hot(LABELS, 10).float(),
    ],
)
def test_labels_in_all_forms_give_the_same_loss(classifier: ImageClassifier, images: Tensor, data_samples: Any) -> None:
    inputs = (images.float() - 73) / 90
    expected = F.cross_entropy(classifier.backbone(inputs), LABELS)
    batch = classifier.data_preprocessor({"inputs": images, "data_samples": data_samples}, True)
    torch.testing.assert_close(classifier(**batch, mode="loss")["loss"], expected)


def test_missing_labels() -> None:
    with pytest.raises(ValueError, match="the batch has no labels: its data samples are None"):
        gather_labels(None)
    with pytest.raises(ValueError, match="the data samples have no gt_label.* pred_label"):
        gather_labels([DataSample(pred_label=torch.tensor(1))])


def test_predictions(classifier: ImageClassifier, images: Tensor) -> None:
    classifier.eval()
    scores = classifier.backbone((images.float() - 73) / 90).softmax(1)

    batched = classifier.test_step({"inputs": images, "data_samples": DataSample(gt_label=LABELS)})
    assert torch.equal(batched.pred_score, scores)
    assert torch.equal(batched.pred_label, scores.argmax(1))
    assert torch.equal(batched.gt_label, LABELS)
    assert not batched.pred_score.requires_grad

    listed = classifier.test_step({"inputs": list(images), "data_samples": sample_list()})
    assert [sample.gt_label.item() for sample in listed] == [3, 1, 4, 1]
    torch.testing.assert_close(torch.stack([sample.pred_score for sample in listed]), scores)
    assert [sample.pred_label.item() for sample in listed] == scores.argmax(1).tolist()

    from_tensor = classifier.test_step([images, LABELS])
    assert torch.equal(from_tensor.pred_score, scores)
    assert torch.equal(from_tensor.gt_label, LABELS)

    without_truth = classifier.test_step({"inputs": images})
    assert without_truth.keys() == ["pred_score", "pred_label"]


def test_validation_loss_needs_no_second_forward_pass(classifier: ImageClassifier, images: Tensor) -> None:
    calls: list[Any] = []
    classifier.backbone.register_forward_hook(lambda *_: calls.append(1))
    batch = {"inputs": images, "data_samples": LABELS}
    predictions, losses = classifier.val_step(batch, with_loss=True)
    assert len(calls) == 1
    assert torch.equal(losses["loss"], classifier(**classifier.data_preprocessor(batch), mode="loss")["loss"])
    assert torch.equal(predictions.pred_score, classifier.val_step(batch).pred_score)


def test_modes(classifier: ImageClassifier) -> None:
    assert classifier(torch.rand(2, 1, 28, 28)).shape == (2, 10)
    with pytest.raises(ValueError, match="mode must be 'loss', 'predict' or 'tensor', not 'train'"):
        classifier(torch.rand(2, 1, 28, 28), mode="train")


def test_training_lowers_the_loss(classifier: ImageClassifier, images: Tensor) -> None:
    optim_wrapper = OptimWrapper(torch.optim.SGD(classifier.parameters(), lr=0.2))
    batch = {"inputs": images, "data_samples": LABELS}
    losses = [classifier.train_step(batch, optim_wrapper)["loss"].item() for _ in range(40)]
    assert losses[0] == pytest.approx(2.3, abs=0.2)
    assert losses[-1] < 0.3
    assert classifier.test_step(batch).pred_label.tolist() == [3, 1, 4, 1]


def test_compiled_forward_gives_the_same(classifier: ImageClassifier, images: Tensor) -> None:
    expected = classifier.test_step({"inputs": images}).pred_score
    names = list(classifier.state_dict())
    classifier.compile_forward(backend="eager")
    assert list(classifier.state_dict()) == names
    torch.testing.assert_close(classifier.test_step({"inputs": images}).pred_score, expected)


def test_lenet_and_mlp() -> None:
    lenet = LeNet(num_classes=7, in_channels=3, image_size=32, channels=(2, 3), hidden_features=5, dropout=0.5)
    assert lenet(torch.rand(2, 3, 32, 32)).shape == (2, 7)
    assert sum(parameter.numel() for parameter in LeNet().parameters()) == 421_642
    normed = LeNet(batch_norm=True)
    assert [name for name in normed.state_dict() if "running_mean" in name] == [
        "features.1.running_mean",
        "features.5.running_mean",
    ]
    assert normed.features[0].bias is None
    with pytest.raises(ValueError, match="image_size must be a multiple of 4, not 30"):
        LeNet(image_size=30)
    assert list(MLP(2, 3).state_dict()) == ["layers.0.weight", "layers.0.bias"]
    mlp = MODELS.build({"type": "MLP", "in_features": 6, "num_classes": 3, "hidden_features": [4, 5]})
    assert [tuple(weight.shape) for weight in mlp.parameters()][::2] == [(4, 6), (5, 4), (3, 5)]
    assert mlp(torch.rand(2, 2, 3)).shape == (2, 3)


def test_conv_net_returns_features_of_images_of_any_size():
    network = ConvNet(in_channels=1, channels=(2, 3, 5))
    assert network.num_features == 5
    assert network(torch.rand(4, 1, 28, 28)).shape == network(torch.rand(4, 1, 33, 20)).shape == (4, 5)
    assert ConvNet(pools=False)(torch.rand(2, 3, 84, 84)).shape == (2, 1600)
    assert sum(parameter.numel() for parameter in ConvNet().parameters()) == 9 * (3 + 3 * 64) * 64 + 4 * 2 * 64


def test_torchvision_by_name() -> None:
    from torchvision.models import ResNet

    classifier = ImageClassifier("resnet18", num_classes=10)
    assert isinstance(classifier.backbone, ResNet)
    assert classifier.backbone.fc.out_features == 10
    assert classifier.backbone.conv1.weight.shape == (64, 3, 7, 7)
    assert next(iter(classifier.state_dict())) == "backbone.conv1.weight"


def test_resnet_for_small_gray_images(images: Tensor) -> None:
    config = {"type": "TorchvisionModel", "name": "resnet18", "in_channels": 1, "small_input": True}
    classifier = ImageClassifier(config, num_classes=10, data_preprocessor=GRAY)
    assert classifier.backbone.conv1.weight.shape == (64, 1, 3, 3)
    shapes: list[Any] = []
    classifier.backbone.layer1.register_forward_hook(lambda *given: shapes.append(given[2].shape))
    batch = classifier.data_preprocessor([images[:2], LABELS[:2]], True)
    classifier(*batch, mode="loss")["loss"].backward()
    assert shapes == [(2, 64, 28, 28)]
    assert all(parameter.grad is not None for parameter in classifier.parameters())


@pytest.mark.parametrize("name", ["mobilenet_v3_small", "squeezenet1_0"])
def test_the_first_convolution_of_any_network_takes_gray_images(name: str) -> None:
    model = MODELS.build({"type": "TorchvisionModel", "name": name, "in_channels": 1, "num_classes": 3}).eval()
    assert model(torch.rand(1, 1, 64, 64)).shape == (1, 3)


def test_networks_with_auxiliary_logits() -> None:
    classifier = ImageClassifier({"type": "TorchvisionModel", "name": "googlenet"}, num_classes=4)
    loss = classifier(torch.rand(2, 3, 64, 64), torch.tensor([1, 2]), mode="loss")["loss"]
    assert loss.shape == ()


def test_wrong_torchvision_models() -> None:
    with pytest.raises(ConfigError, match="no classification network 'resnet19'\n    did you mean 'resnet1"):
        ImageClassifier("resnet19")
    with pytest.raises(ConfigError, match="small_input.*squeezenet1_0"):
        MODELS.build({"type": "TorchvisionModel", "name": "squeezenet1_0", "small_input": True})
    with pytest.raises(ConfigError, match="resnet18 has no weights 'IMAGENET1K_V3'\n    did you mean 'IMAGENET1K"):
        MODELS.build({"type": "TorchvisionModel", "name": "resnet18", "weights": "IMAGENET1K_V3"})


def test_weights_of_another_task(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = MODELS.build({"type": "TorchvisionModel", "name": "resnet18", "num_classes": 5})
    file = tmp_path / "resnet18.pth"
    torch.save(source.state_dict(), file)
    config = {"type": "TorchvisionModel", "name": "resnet18", "weights": str(file), "in_channels": 1}
    with MMLogger.set_current(MMLogger("weights_of_another_task")):
        model = ImageClassifier(config, num_classes=3).backbone
    assert torch.equal(model.layer1[0].conv1.weight, source.layer1[0].conv1.weight)
    assert torch.equal(model.conv1.weight, source.conv1.weight.sum(1, keepdim=True))
    log = capsys.readouterr().out
    assert "fc.weight: (5, 512) in the file, (3, 512) in the model" in log
    assert "conv1" not in log


def test_timm_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(MissingExtraError, match=r"needs the package 'timm': pip install 'trainwright\[timm\]'"):
        ImageClassifier("timm/resnet18", num_classes=10)


def test_timm() -> None:
    pytest.importorskip("timm")
    classifier = ImageClassifier({"type": "TimmModel", "name": "resnet10t", "in_channels": 1}, num_classes=3)
    assert classifier(torch.rand(2, 1, 64, 64)).shape == (2, 3)
    with pytest.raises(ConfigError, match="timm has no network 'resnet10x'"):
        ImageClassifier("timm/resnet10x", num_classes=3)


def test_weights_of_timm_survive_the_initialization(tmp_path: Path) -> None:
    """Most networks of timm have a method ``init_weights``, which draws new weights."""
    timm = pytest.importorskip("timm")
    weights = timm.create_model("test_vit", num_classes=3).state_dict()
    torch.save(weights, tmp_path / "vit.pth")
    backbone = {"type": "TimmModel", "name": "test_vit", "weights": str(tmp_path / "vit.pth")}
    classifier = ImageClassifier(backbone, num_classes=3)
    initialize_model(classifier)
    assert all(torch.equal(weight, weights[name]) for name, weight in classifier.backbone.state_dict().items())


def test_backbone_neck_and_head(images: Tensor) -> None:
    classifier = ImageClassifier(
        backbone={"type": "torch.nn.Conv2d", "in_channels": 1, "out_channels": 6, "kernel_size": 3},
        neck={"type": "GlobalAveragePooling"},
        head={"type": "LinearClsHead", "num_classes": 10, "in_channels": 6, "loss": {
            "type": "LabelSmoothLoss", "label_smooth_val": 0.1}},
        data_preprocessor=GRAY,
    )  # fmt: skip
    classifier.init_weights()
    assert classifier.with_neck
    assert classifier.with_head
    assert classifier.head.fc.bias.abs().max() == 0
    inputs = classifier.data_preprocessor([images, LABELS])[0]
    features = classifier.extract_feat(inputs)
    torch.testing.assert_close(features, classifier.backbone(inputs).mean((2, 3)))
    logits = classifier.head.fc(features)
    assert torch.equal(classifier(inputs), logits)
    loss = classifier(inputs, LABELS, mode="loss")["loss"]
    torch.testing.assert_close(loss, F.cross_entropy(logits, LABELS, label_smoothing=0.1))
    assert torch.equal(classifier(inputs, sample_list(), mode="predict")[1].pred_score, logits.softmax(1)[1])
    predictions, losses = classifier.val_step([images, LABELS], with_loss=True)
    assert torch.equal(losses["loss"], loss)
    assert predictions.pred_label.shape == (4,)


def test_inconsistent_arguments() -> None:
    backbone, head = nn.Flatten(), {"type": "LinearClsHead", "num_classes": 2, "in_channels": 4}
    with pytest.raises(ConfigError, match="neck: "):
        ImageClassifier(backbone, neck=nn.Identity())
    with pytest.raises(ConfigError, match="loss: "):
        ImageClassifier(backbone, head=head, loss={"type": "CrossEntropyLoss"})


def test_cross_entropy() -> None:
    torch.manual_seed(0)
    logits, labels = torch.randn(5, 3), torch.tensor([0, 2, 1, -100, 2])
    weight = [1.0, 2.0, 0.5]
    loss = CrossEntropyLoss(label_smoothing=0.2, class_weight=weight, loss_weight=3)
    expected = 3 * F.cross_entropy(logits, labels, torch.tensor(weight), label_smoothing=0.2)
    assert torch.equal(loss(logits, labels), expected)
    assert list(loss.state_dict()) == []
    soft = torch.rand(5, 3).softmax(1)
    by_hand = -(soft * logits.log_softmax(1)).sum(1)
    torch.testing.assert_close(CrossEntropyLoss()(logits, soft), by_hand.mean())
    torch.testing.assert_close(CrossEntropyLoss(reduction="none")(logits, soft), by_hand)
    with pytest.raises(ValueError, match="label_smoothing"):
        CrossEntropyLoss(label_smoothing=1.5)


def test_label_smoothing_of_both_kinds() -> None:
    torch.manual_seed(0)
    logits, labels = torch.randn(5, 4), torch.tensor([0, 2, 1, 3, 2])
    hard = F.one_hot(labels, 4).float()
    for mode, target in (("original", hard * 0.9 + 0.1 / 4), ("classy_vision", (hard + 0.1 / 4) / 1.1)):
        loss = MODELS.build({"type": "LabelSmoothLoss", "label_smooth_val": 0.1, "mode": mode})
        torch.testing.assert_close(loss(logits, labels), F.cross_entropy(logits, target))
    with pytest.raises(ValueError, match="mode must be 'original' or 'classy_vision'"):
        LabelSmoothLoss(0.1, mode="multi_label")


def test_binary_cross_entropy() -> None:
    torch.manual_seed(0)
    logits, labels = torch.randn(3, 2), torch.tensor([0, 1, 1])
    hard = F.one_hot(labels, 2).float()
    loss = BinaryCrossEntropyLoss(pos_weight=2.0, class_weight=[1.0, 3.0], loss_weight=0.5)
    expected = 0.5 * F.binary_cross_entropy_with_logits(
        logits, hard, torch.tensor([1.0, 3.0]), pos_weight=torch.tensor(2.0)
    )
    assert torch.equal(loss(logits, labels), expected)
    assert torch.equal(loss(logits, hard), expected)


@pytest.mark.parametrize(("cls", "power"), [(Mixup, 1), (CutMix, 1)])
def test_mixing_keeps_the_shares(cls: Any, power: int) -> None:
    torch.manual_seed(3)
    images = torch.arange(4.0).view(4, 1, 1, 1).expand(4, 1, 16, 16)
    labels = torch.arange(4)
    mixed, soft = cls(alpha=1.0, num_classes=4)(images, labels)
    # Each image is filled with its label, so the mean pixel is the expected label.
    torch.testing.assert_close(mixed.mean((1, 2, 3)), soft @ torch.arange(4.0))
    torch.testing.assert_close(soft.sum(1), torch.ones(4))
    assert 0 < soft.max() < 1
    torch.manual_seed(3)
    again, from_soft = cls(alpha=1.0, num_classes=4)(images, F.one_hot(labels, 4).float())
    assert torch.equal(again, mixed)
    torch.testing.assert_close(from_soft, soft)


def test_one_of_several_augmentations_is_drawn() -> None:
    class Mark(nn.Module):
        def __init__(self, value: float) -> None:
            super().__init__()
            self.value = value

        def forward(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
            return images + self.value, labels

    torch.manual_seed(0)
    augment = RandomBatchAugment([Mark(1), Mark(2)], probs=[0.2, 0.5])
    drawn = torch.tensor([augment(torch.zeros(1), LABELS)[0].item() for _ in range(1000)])
    shares = [(drawn == value).float().mean().item() for value in (0, 1, 2)]
    assert shares == pytest.approx([0.3, 0.2, 0.5], abs=0.05)
    with pytest.raises(ValueError, match="2 probabilities with a sum of at most 1"):
        RandomBatchAugment([Mark(1), Mark(2)], probs=[0.7, 0.5])
    with pytest.raises(ValueError, match="Mixup needs num_classes"):
        Mixup()


def test_training_with_batch_augments(images: Tensor) -> None:
    preprocessor = {**GRAY, "batch_augments": [{"type": "Mixup", "alpha": 0.2}, {"type": "CutMix"}]}
    classifier = ImageClassifier({"type": "LeNet"}, num_classes=10, data_preprocessor=preprocessor)
    optim_wrapper = OptimWrapper(torch.optim.SGD(classifier.parameters(), lr=0.1))
    for batch in ([images, LABELS], {"inputs": list(images), "data_samples": sample_list()}):
        assert classifier.train_step(batch, optim_wrapper)["loss"].item() > 0


def test_test_time_augmentation(classifier: ImageClassifier, images: Tensor) -> None:
    classifier.eval()
    tta = ClassificationTTA(classifier)
    views = [list(images), list(images.flip(-1))]
    truth = [sample_list(), sample_list()]
    scores = [classifier.test_step({"inputs": view}).pred_score for view in views]
    mean = torch.stack(scores).mean(0)
    for batch in ({"inputs": views, "data_samples": truth}, [views, truth]):
        merged = tta.test_step(batch)
        torch.testing.assert_close(torch.stack([sample.pred_score for sample in merged]), mean)
        assert [sample.pred_label.item() for sample in merged] == mean.argmax(1).tolist()
        assert [sample.gt_label.item() for sample in merged] == [3, 1, 4, 1]
    batched = tta.test_step([[images, images.flip(-1)], [LABELS, LABELS]])
    torch.testing.assert_close(torch.stack([sample.pred_score for sample in batched]), mean)
    assert tta(images.float()).shape == (4, 10)
    with pytest.raises(TypeError, match="a batch must be a dict, list or tuple"):
        tta.test_step(images)


def test_test_time_augmentation_from_a_config() -> None:
    tta = MODELS.build({
        "type": "ClassificationTTA",
        "module": {"type": "ImageClassifier", "backbone": {"type": "LeNet"}},
        "data_preprocessor": GRAY,
    })  # fmt: skip
    assert tta.module.data_preprocessor.mean.item() == 73
    with pytest.raises(TypeError, match="test_step, not a Flatten"):
        ClassificationTTA(nn.Flatten())


def test_predictions_of_a_soft_truth_keep_the_scores() -> None:
    sample = add_predictions(torch.tensor([[0.0, 2.0]]), DataSample(gt_label=torch.tensor([1])))
    torch.testing.assert_close(sample.pred_score, torch.tensor([[0.1192, 0.8808]]), atol=1e-4, rtol=0)
