"""Networks of timm as backbones, and those of segmentation-models-pytorch. One file, because the imports take seconds."""

import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoint_bits import different_bits
from torch import Tensor, nn
from torch.nn import functional as F

from trainwright.datasets import Shapes, TopdownShapes, pseudo_collate
from trainwright.engine.checking import check
from trainwright.engine.checkpoints.files import read_last_checkpoint, save_checkpoint
from trainwright.engine.config.config import Config
from trainwright.engine.errors import CheckpointError, ConfigError, MissingExtraError
from trainwright.engine.records.logger import get_logger
from trainwright.engine.registry import MODELS
from trainwright.engine.run.model_setup import build_model, initialize_model
from trainwright.engine.run.normalization import warn_of_normalization
from trainwright.engine.run.runner import Runner
from trainwright.models import ImageClassifier

timm = pytest.importorskip("timm")
smp = pytest.importorskip("segmentation_models_pytorch")
save_file: Any = pytest.importorskip("safetensors.torch").save_file

CONFIGS = Path(__file__).parents[2] / "configs"
PACK = [dict(type="PackInputs")]
CODEC = dict(type="MSRAHeatmap", input_size=(32, 32), heatmap_size=(8, 8), sigma=1)
SWIN = dict(name="swin_tiny_patch4_window7_224", embed_dim=8, depths=(1, 1, 1), num_heads=(1, 1, 1))
UNET = dict(type="SMPModel", arch="Unet", num_classes=4, encoder_name="tu-test_resnet", encoder_depth=3)
UNET |= dict(decoder_channels=(16, 8, 8))
LOSSES = "segmentation_models_pytorch.losses."
MOBILENET = smp.encoders.encoders["mobilenet_v2"]["pretrained_settings"]["imagenet"]


def features(name: str = "test_resnet", **settings: Any) -> dict[str, Any]:
    return dict(type="TimmFeatures", name=name, **settings)


def detector(name: str, body: Mapping[str, Any], **settings: Any) -> dict[str, Any]:
    backbone = dict(type="FeaturePyramid", out_channels=32, body=body)
    network = dict(type="TorchvisionDetectionModel", name=name, num_classes=3, backbone=backbone, **settings)
    return dict(type="TorchvisionDetector", network=network)


def segmentor(**network: Any) -> dict[str, Any]:
    return dict(type="SemanticSegmentor", network=network)


def shapes(*sizes: int, gray: bool = False) -> dict[str, Any]:
    """Return a batch of drawn images of these sizes."""
    batch: dict[str, Any] = pseudo_collate([Shapes(4, size, pipeline=PACK)[index] for index, size in enumerate(sizes)])
    if gray:
        batch["inputs"] = [image[:1] for image in batch["inputs"]]
    return batch


def losses_of_a_step(model: Any, batch: Any) -> dict[str, Tensor]:
    """Compute the gradients of a step, check that every parameter has a gradient and that the model predicts, and return the losses."""
    initialize_model(model)
    data = model.data_preprocessor(batch, True)
    total, losses = model.parse_losses(model(**data, mode="loss"))
    total.backward()
    assert total.isfinite()
    assert [name for name, value in model.named_parameters() if value.requires_grad and value.grad is None] == []
    model.eval()
    with torch.no_grad():
        assert len(model.val_step(batch)) == len(batch["inputs"])
    return losses


def mistakes(*path: str, **part: Any) -> list[str]:
    """Return the mistakes in a part at a path of the model, without the path."""
    config: Any = part
    for key in reversed(path):
        config = dict(type="SemanticSegmentor" if key == "network" else "ImageClassifier", **{key: config})
    return [str(error).removeprefix(f"model.{'.'.join(path)}.") for error in check(Config(dict(model=config)))]


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Take a folder for the Hugging Face Hub; return a function that publishes weights there, and returns their file."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))

    def publish(name: str, state: Mapping[str, Tensor], revision: str = "1" * 40, config: str = "{}") -> Path:
        folder = tmp_path / "hub" / f"models--{name.replace('/', '--')}"
        snapshot = folder / "snapshots" / revision
        snapshot.mkdir(parents=True)
        (folder / "refs").mkdir()
        (folder / "refs/main").write_text(revision)
        (snapshot / "config.json").write_text(config)
        save_file(dict(state), snapshot / "model.safetensors")
        return snapshot / "model.safetensors"

    return publish


@pytest.mark.parametrize(
    ("settings", "channels", "strides"),
    [
        (dict(name="test_resnet", out_indices=(2, 3, 4)), (48, 192, 96), (8, 16, 32)),
        (dict(name="test_mambaout", out_indices=(-2, -1)), (48, 64), (16, 32)),  # returns (N, H, W, C)
        (SWIN, (8, 16, 32), (4, 8, 16)),
        (dict(name="test_vit", out_indices=(1, 5)), (64, 64), (16, 16)),
        (dict(name="test_vit", in_channels=1), (64,) * 3, (16,) * 3),
    ],
)
def test_features_have_the_declared_sizes_and_are_those_of_timm(
    settings: dict[str, Any], channels: tuple[int, ...], strides: tuple[int, ...]
) -> None:
    body: Any = MODELS.build(dict(type="TimmFeatures", **settings)).eval()
    assert (body.feature_channels, body.feature_strides, body.num_features) == (channels, strides, channels[-1])
    images = torch.rand(2, settings.get("in_channels", 3), 64, 96)
    maps = body(images)
    assert [level.shape for level in maps] == [(2, width, 64 // s, 96 // s) for width, s in zip(channels, strides)]
    for level, expected in zip(maps, body.network(images), strict=True):
        assert torch.equal(level, expected if expected.shape == level.shape else expected.permute(0, 3, 1, 2))


@pytest.mark.parametrize(
    ("name", "body", "settings"),
    [
        ("fcos", features(out_indices=(2, 3), in_channels=1), dict(min_size=64, image_mean=[0.5], image_std=[0.2])),
        ("maskrcnn", features("test_mambaout", out_indices=(1, 2)), dict(min_size=64, head_channels=16)),
        ("retinanet", dict(type="TimmFeatures", **SWIN), dict(min_size=64)),
        ("ssd", features("test_vit", out_indices=(-1,)), dict(size=(64, 64))),
    ],
)
def test_features_in_detectors(name: str, body: dict[str, Any], settings: dict[str, Any]) -> None:
    torch.manual_seed(0)
    losses_of_a_step(build_model(detector(name, body, **settings)), shapes(48, 64, gray="in_channels" in body))


def test_features_in_pose_estimators_and_classifiers() -> None:
    head = dict(type="HeatmapHead", in_channels=64, out_channels=4, codec=CODEC, deconv_out_channels=(16, 16))
    body = features("test_vit", out_indices=(-1,), img_size=32)
    pose = dict(type="TopdownPoseEstimator", backbone=body, head={**head, "deconv_kernel_sizes": (4, 4)})
    pipeline = [dict(type="GetBBoxCenterScale"), dict(type="TopdownAffine", input_size=(32, 32)), *PACK]
    dataset = TopdownShapes(num_samples=2, pipeline=pipeline)
    losses_of_a_step(build_model(pose), pseudo_collate([dataset[0], dataset[1]]))
    head = dict(type="LinearClsHead", num_classes=3, in_channels=96)
    classifier = dict(
        type="ImageClassifier", backbone=features(), neck=dict(type="GlobalAveragePooling"), head=head
    )  # fmt: skip
    batch = shapes(64, 64)
    for sample in batch["data_samples"]:
        sample.gt_label = torch.tensor([1])
    losses_of_a_step(build_model(classifier), batch)
    assert build_model(dict(type="SimCLR", backbone=features())).backbone.num_features == 96


def test_images_of_a_size_that_a_network_does_not_take() -> None:
    fixed = MODELS.build(features("test_vit_relpos"))
    assert fixed(torch.rand(1, 3, 160, 160))[0].shape == (1, 96, 10, 10)
    with pytest.raises(ConfigError, match=r"img_size: test_vit_relpos takes images of \(160, 160\) only, not \(64, 96"):
        fixed(torch.rand(1, 3, 64, 96))
    assert MODELS.build(features("test_vit_relpos", img_size=(64, 96)))(torch.rand(1, 3, 64, 96))
    with pytest.raises(ConfigError, match=r"pad_size_divisor: swin_tiny.* cannot process images of \(64, 90\)"):
        MODELS.build(dict(type="TimmFeatures", **SWIN))(torch.rand(1, 3, 64, 90))
    with pytest.raises(RuntimeError, match="channels"):  # the size is not to blame
        MODELS.build(features())(torch.rand(1, 1, 64, 96))
    with pytest.raises(ConfigError, match="backbone: ssd requires out_channels"):
        build_model(dict(type="TorchvisionDetectionModel", name="ssd", num_classes=3, backbone=features(), size=(8, 8)))


def test_check_finds_mistakes_in_features(monkeypatch: pytest.MonkeyPatch) -> None:
    def found(name: str, **settings: Any) -> list[str]:
        return mistakes("backbone", **features(name, **settings))

    assert found("test_resnet", out_indices=[1, 2], drop_path_rate=0.1, in_channels=1) == []
    assert found("local-dir:missing") == []  # found when it is built
    (name,) = found("test_resnett")
    assert name.startswith("name: timm has no network 'test_resnett'\n    did you mean 'test_resnet'")
    assert found("resnet50.a1_in")[0].startswith("name: timm has no weights 'a1_in' of resnet50")
    assert "'resnet50.a1_in1k'" in found("resnet50.a1_in")[0]
    assert found("nf_ecaresnet26", weights="DEFAULT")[0].startswith("weights: timm has no weights of nf_ecaresnet26")
    (index,) = found("test_resnet", out_indices=(3, 5))
    assert "out_indices: test_resnet has the feature maps 0 to 4, not (3, 5)\n    0: 32 channels, stride 2;" in index
    assert found("test_resnet", out_indices=(3, 1))[0].startswith("out_indices: must be in ascending order")
    (argument,) = found("test_vit", drop_paht_rate=0.1)
    assert argument.startswith("drop_paht_rate: test_vit takes no such argument\n    did you mean 'drop_path_rate'")
    assert "did you mean 'out_indices'" in found("test_resnet", out_indicies=(1,))[0]
    monkeypatch.setitem(sys.modules, "timm", None)
    assert "pip install 'trainwright[timm]'" in found("test_resnet")[0]


@pytest.mark.parametrize(
    ("backbone", "mistake"),
    [
        (dict(type="TimmModel", name="test_vit", drop_rate=0.1), None),
        (dict(type="TimmModel", name="test_vit", in_chans=1), "in_chans: has another name here.*\n.*in_channels"),
        (dict(type="TimmModel", name="test_vit", pretrained=True), "pretrained: has another .*\n.*weights='DEFAULT'"),
        (dict(type="TorchvisionModel", name="resnet18", pretrained=True), "pretrained: has another name"),
        (dict(type="TimmModel", name="test_vit", dropp_rate=0.1), "dropp_rate: test_vit takes no .*\n.*'drop_rate'"),
        (dict(type="TimmModel", name="test_vitt"), "name: timm has no network 'test_vitt'\n.*'test_vit'"),
        (dict(type="TorchvisionModel", name="vit_b_16", image_size=64), None),
        (dict(type="TorchvisionModel", name="resnt18"), "name: torchvision has no .*\n.*'resnet18'"),
        (dict(type="TorchvisionModel", name="resnet18", weights="IMAGENET1K_V3"), "weights: resnet18 has no weights"),
        (dict(type="TorchvisionModel", name="resnet18", dropp=1), "dropp: resnet18 takes no such argument"),
        (dict(type="TorchvisionModel", name="vit_b_16", small_input=True), "small_input: only ResNets can be adapted"),
        ("timm/test_vit", None),
        ("timm/test_vitt", "backbone: timm has no network 'test_vitt'\n.*'timm/test_vit'"),
        ("resnt18", "backbone: torchvision has no .*\n.*'resnet18'"),
    ],
)
def test_check_finds_mistakes_in_classification_networks(backbone: Any, mistake: str | None) -> None:
    cfg = Config(dict(model=dict(type="ImageClassifier", num_classes=3, backbone=backbone)))
    found = [str(error).removeprefix("model.") for error in check(cfg)]
    assert len(found) == (mistake is not None)
    assert all(re.match(rf"(backbone\.)?{mistake}", text) for text in found)


@pytest.mark.parametrize("name", ["test_resnet", "test_vit", "test_convnext"])  # with three kinds of names in features
def test_features_from_a_file(name: str, tmp_path: Path, log: Any) -> None:
    classifier = ImageClassifier(dict(type="TimmModel", name=name), num_classes=3)
    save_checkpoint({"state_dict": classifier.state_dict(), "meta": {}}, tmp_path / "ours.pth")
    save_file(classifier.backbone.state_dict(), tmp_path / "timm.safetensors")
    images = torch.rand(1, 3, 160, 160)
    expected = classifier.eval().backbone.forward_features(images)
    for file in ("ours.pth", "timm.safetensors"):
        body = MODELS.build(features(name, weights=str(tmp_path / file))).eval()
        last = body(images)[-1]
        if name == "test_vit":
            expected = body.network.model.forward_intermediates(images, intermediates_only=True)[-1]
            weight = classifier.backbone.blocks[0].mlp.fc1.weight
            assert torch.equal(body.network.model.blocks[0].mlp.fc1.weight, weight)
        torch.testing.assert_close(last, expected)
    assert "in the file but not in the model:\n  " in log.text  # the classifier
    gray = MODELS.build(features(name, weights=str(tmp_path / "ours.pth"), in_channels=1)).eval()
    torch.testing.assert_close(gray(images[:, :1])[0], body(images[:, :1].expand(-1, 3, -1, -1))[0])
    (tmp_path / "cut.safetensors").write_bytes((tmp_path / "timm.safetensors").read_bytes()[:-9])
    with pytest.raises(CheckpointError, match=r"cut.safetensors cannot be read"):
        MODELS.build(features(name, weights=str(tmp_path / "cut.safetensors")))
    torch.save({"other": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(CheckpointError, match="none of the weights match"):
        MODELS.build(features(name, weights=str(tmp_path / "other.pth")))


def test_weights_by_name_are_loaded_only_if_no_checkpoint_has_them(hub: Callable[..., Path]) -> None:
    body = features("test_resnet.r160_in1k", weights="DEFAULT")
    with pytest.raises(
        CheckpointError, match=r"cannot download the weights of test_resnet.r160_in1k \(timm/test_resne"
    ):
        MODELS.build(body)
    model = dict(type="ImageClassifier", backbone=body, head=dict(type="LinearClsHead", num_classes=3, in_channels=96))
    complete = build_model(model, weights_follow=True)
    initialize_model(complete, missing=["head.fc.weight"])  # nothing is downloaded
    weights = timm.create_model("test_resnet").state_dict()
    hub("timm/test_resnet.r160_in1k", weights)
    for built in (build_model(model), build_model(model, weights_follow=True)):
        initialize_model(built)
        assert torch.equal(built.backbone.network.layer1[0].conv1.weight, weights["layer1.0.conv1.weight"])
        assert built.backbone.network.trained_normalization == ([127.5] * 3, [127.5] * 3)


@pytest.mark.parametrize(
    ("preprocessor", "message"),
    [
        (dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375]), "have mean=[123.68, 116.28, 103.53] and"),
        (None, "have no normalization: set it in the data_preprocessor, unless the pipeline normalizes them"),
        (dict(mean=[128], std=[127]), ""),
        (dict(mean=[0.5] * 3, std=[0.5] * 3), ""),  # for pixels up to 1
    ],
)
def test_normalization_that_is_not_that_of_the_weights(
    preprocessor: dict[str, Any] | None, message: str, log: Any
) -> None:
    backbone = nn.Conv2d(3, 4, 1)
    backbone.trained_normalization = ([127.5] * 3, [127.5] * 3)  # type: ignore[assignment]
    warn_of_normalization(ImageClassifier(backbone, data_preprocessor=preprocessor), get_logger())
    assert (message in log.text) if message else not log.text


def test_normalization_in_a_detector(log: Any) -> None:
    model = build_model(detector("fcos", features(out_indices=(2, 3)), image_mean=[0.5] * 3, image_std=[0.5] * 3))
    model.network.backbone.body.network.trained_normalization = ([127.5] * 3, [127.5] * 3)
    warn_of_normalization(model, get_logger())
    assert not log.text
    model.network.transform.image_std = [0.2] * 3
    warn_of_normalization(model, get_logger())
    assert "set it in the detector (image_mean and image_std, for pixels from 0 to 1)" in log.text


@pytest.mark.parametrize(
    "network",
    [
        UNET,
        dict(type="SMPModel", arch="fpn", num_classes=4, encoder_name="tu-test_convnext", in_channels=1,
             decoder_pyramid_channels=32, decoder_segmentation_channels=32),
        dict(type="SMPModel", arch="DPT", num_classes=4, encoder_name="tu-test_vit", decoder_fusion_channels=16,
             decoder_intermediate_channels=(16, 16, 16, 16)),
        dict(type="SMPModel", arch="UPerNet", num_classes=4, encoder_name=f"tu-{SWIN['name']}", **{
            key: value for key, value in SWIN.items() if key != "name"}, encoder_depth=4, decoder_channels=16),
    ],
)  # fmt: skip
def test_networks_of_smp_take_images_of_any_size(network: dict[str, Any]) -> None:
    model = build_model(segmentor(**network))
    assert model.num_seg_classes == 4
    images = torch.rand(2, network.get("in_channels", 3), 50, 70)
    model.eval()
    with torch.no_grad():
        stride = model.network.network.encoder.output_stride * (2 if network["arch"] == "DPT" else 1)
        padded = F.pad(images, (0, -70 % stride, 0, -50 % stride))
        expected = model.network.network(padded)[..., :50, :70]
        torch.testing.assert_close(model(images), expected)
    initialize_model(model)
    losses = model.train()(images, torch.randint(4, (2, 50, 70)), mode="loss")
    losses["loss_ce"].backward()
    assert losses["loss_ce"].isfinite()


def test_losses_of_smp() -> None:
    dice = dict(type=LOSSES + "DiceLoss", mode="multiclass", ignore_index=255)
    model = build_model(
        dict(type="SemanticSegmentor", network=UNET, loss=[dice, {**dice, "type": LOSSES + "FocalLoss"}])
    )
    losses = losses_of_a_step(model, shapes(40, 50))
    assert list(losses) == ["loss", "loss_dice", "loss_focal"]
    images, target = torch.rand(1, 3, 32, 32), torch.randint(4, (1, 32, 32))
    target[:, :9] = 255
    model.eval()
    expected = smp.losses.DiceLoss("multiclass")(model(images)[:, :, 9:], target[:, 9:])
    torch.testing.assert_close(model(images, target, mode="loss")["loss_dice"], expected)
    with pytest.raises(ConfigError, match=r"its ignore_index is None(.|\n)*set ignore_index=255 for the loss"):
        build_model(dict(type="SemanticSegmentor", network=UNET, loss={**dice, "ignore_index": None}))


def test_check_finds_mistakes_in_networks_of_smp(monkeypatch: pytest.MonkeyPatch) -> None:
    def found(arch: str = "Unet", encoder_name: str = "resnet18", **settings: Any) -> str:
        settings = dict(type="SMPModel", arch=arch, encoder_name=encoder_name, num_classes=4, **settings)
        return "\n".join(mistakes("network", **settings))

    assert found(decoder_channels=[8, 8, 8, 8, 8], encoder_weights="ssl") == ""
    assert "arch: segmentation-models-pytorch has no network 'UPrNet'\n    did you mean 'UPerNet'" in found("UPrNet")
    assert "has no encoder 'resnet19'\n    did you mean 'resnet18'" in found(encoder_name="resnet19")
    assert "for the network of timm, use 'tu-test_resnet'" in found(encoder_name="test_resnet")
    assert "timm has no network 'test_resnett'\n    did you mean 'tu-test_resnet'" in found(
        encoder_name="tu-test_resnett"
    )
    assert "encoder_weights: the encoder resnet18 has no weights 'imagnet'" in found(encoder_weights="imagnet")
    assert "must be 'DEFAULT' for a network of timm" in found(encoder_name="tu-test_resnet", encoder_weights="ssl")
    assert "decoder_chanels: Unet takes no such" in found(decoder_chanels=[8])  # SMP would ignore it
    assert "did you mean 'decoder_channels'" in found(encoder_name="tu-test_resnet", decoder_chanels=[8])
    assert "did you mean 'drop_path_rate'" in found(encoder_name="tu-test_resnet", drop_pth_rate=0.1)
    assert "Linknet cannot be built with the encoder 'mit_b0'" in found("Linknet", "mit_b0")
    assert "DeepLabV3 sets output_stride, which tu-swin" in found("DeepLabV3", f"tu-{SWIN['name']}")
    assert "classes: is not supported\n    set num_classes" in found(classes=3)
    assert "activation: is not supported" in found(activation="softmax")
    monkeypatch.setitem(sys.modules, "segmentation_models_pytorch", None)
    assert "pip install 'trainwright[smp]'" in found()
    with pytest.raises(MissingExtraError, match="needs the package 'segmentation-models-pytorch'"):
        MODELS.build(UNET)


def test_weights_of_networks_of_smp(hub: Callable[..., Path], tmp_path: Path, log: Any) -> None:
    settings: dict[str, Any] = dict(type="SMPModel", arch="Unet", encoder_name="mobilenet_v2", encoder_depth=3)
    settings |= dict(decoder_channels=(8, 8, 8), num_classes=4)
    named = segmentor(**settings, encoder_weights="imagenet")
    with pytest.raises(CheckpointError, match="cannot download the weights of the encoder mobilenet_v2"):
        build_model(named)
    initialize_model(build_model(named, weights_follow=True), missing=["network.network.segmentation_head.0.bias"])
    source = smp.Unet("mobilenet_v2", 3, None, decoder_channels=(8, 8, 8), classes=7)
    weights = source.encoder.state_dict()
    config = '{"mean": [0.5, 0.5, 0.5], "std": [0.2, 0.2, 0.2]}'
    file = hub(MOBILENET["repo_id"], weights, MOBILENET["revision"], config)
    for changes in (dict(encoder_weights="DEFAULT"), dict(encoder_weights=str(file))):
        model = build_model(segmentor(**settings, **changes), weights_follow=True)
        initialize_model(model)
        assert torch.equal(model.network.network.encoder.features[0][0].weight, weights["features.0.0.weight"])
        log.clear()
        warn_of_normalization(model, get_logger())
        by_name = changes["encoder_weights"] == "DEFAULT"
        assert ("network.network.encoder were trained on images with mean=[127.5" in log.text) is by_name
    hub("me/unet", source.state_dict())
    (tmp_path / "folder").mkdir()
    save_file(source.state_dict(), tmp_path / "folder/model.safetensors")
    for whole in ("hf-hub:me/unet", str(tmp_path / "folder"), str(tmp_path / "folder/model.safetensors")):
        log.clear()
        model = build_model(segmentor(**settings, weights=whole))
        assert torch.equal(
            model.network.network.decoder.blocks[0].conv1[0].weight, source.decoder.blocks[0].conv1[0].weight
        )
        assert "segmentation_head.0.weight: (7, 8, 3, 3) in the file, (4, 8, 3, 3) in the model" in log.text
    with pytest.raises(CheckpointError, match="cannot download the weights of me/other"):
        build_model(segmentor(**settings, weights="hf-hub:me/other"))


RUNS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "features": (
        detector("fcos", features("test_resnet", out_indices=(2, 3), drop_path_rate=0.2), min_size=48),
        dict(type="CocoMetric"),
    ),
    "smp": (segmentor(**UNET, drop_path_rate=0.2), dict(type="IoUMetric")),
}


def run_cfg(kind: str, work_dir: Path, **changes: Any) -> Config:
    model, metric = RUNS[kind]
    dataset = dict(type="Shapes", num_samples=12, size=48, pipeline=PACK)
    loader = dict(batch_size=4, num_workers=0, dataset=dataset, collate_fn=dict(type="pseudo_collate"))
    evaluated = {**loader, "sampler": dict(type="DefaultSampler", shuffle=False)}
    return Config({
        "model": model,
        "work_dir": str(work_dir),
        "train_dataloader": {**loader, "sampler": dict(type="DefaultSampler", shuffle=True)},
        "train_cfg": dict(by_epoch=True, max_epochs=2, val_interval=2),
        "optim_wrapper": dict(optimizer=dict(type="AdamW", lr=1e-3)),
        "val_dataloader": evaluated,
        "val_cfg": dict(),
        "val_evaluator": metric,
        "default_hooks": dict(checkpoint=dict(interval=4, by_epoch=False, max_keep_ckpts=3), logger=dict(interval=1)),
        "randomness": dict(seed=3),
        "visualizer": dict(type="Visualizer", vis_backends=[]),
        **changes,
    })  # fmt: skip


@pytest.mark.parametrize("kind", RUNS)
def test_a_run_is_exact_after_a_resume_in_mid_epoch(kind: str, tmp_path: Path) -> None:
    cfg = run_cfg(kind, tmp_path / "whole")
    assert check(cfg) == []
    whole: Any = Runner.from_cfg(cfg)
    network = whole.model.network
    (network.network.encoder if kind == "smp" else network.backbone).trained_normalization = ([0.0] * 3, [255.0] * 3)
    whole.train()
    (text,) = [file.read_text() for file in (tmp_path / "whole").rglob("*.log")]
    assert "were trained on images with mean=[0.0, 0.0, 0.0] and std=[255.0, 255.0, 255.0]" in text
    resumed = run_cfg(kind, tmp_path / "resumed", resume=str(tmp_path / "whole/iter_4.pth"))
    Runner.from_cfg(resumed).train()
    newest = read_last_checkpoint(tmp_path / "whole")
    assert newest is not None
    assert different_bits(tmp_path / "resumed" / newest.name, tmp_path / "whole" / newest.name) == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "metric", "score"),
    [
        ("detection/fcos_regnetx_timm_shapes", "coco/bbox_mAP_50", 0.85),
        ("segmentation/unet_smp_shapes", "seg/mIoU", 80),
    ],
)
def test_the_shipped_configs_reach_their_scores(name: str, metric: str, score: float, tmp_path: Path) -> None:
    cfg = Config.fromfile(CONFIGS / f"{name}.py")
    cfg.merge_from_dict({"work_dir": str(tmp_path), "visualizer.vis_backends": [], "default_hooks.final_test": None})
    runner = Runner.from_cfg(cfg)
    runner.train()
    assert runner.test()[metric] > score
