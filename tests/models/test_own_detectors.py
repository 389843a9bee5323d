"""Detectors of a user: with the inputs and outputs of torchvision's and of Detectron2's."""

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from checkpoint_bits import different_bits
from own_detectors import Detectron2Style, Noise, TorchvisionStyle, build_rcnn, filled
from ranks import run_ranks
from torch import Tensor, nn

from trainwright.datasets import Shapes, pseudo_collate
from trainwright.engine.checking import check
from trainwright.engine.checkpoints.files import save_checkpoint
from trainwright.engine.config.config import Config
from trainwright.engine.errors import ConfigError, TrainingError
from trainwright.engine.export.exporting import export_model
from trainwright.engine.inference.inferencer import Inferencer
from trainwright.engine.registry import MODELS
from trainwright.engine.run.runner import Runner
from trainwright.models import Detectron2Model, ModuleWrapper, TorchvisionDetector
from trainwright.models.detection.losses import named_losses
from trainwright.models.detectron2 import structures

pytest.importorskip("pycocotools")

PACK = [dict(type="PackInputs")]
MODELS_BY_KIND: dict[str, dict[str, Any]] = {
    "torchvision": dict(
        type="TorchvisionDetector",
        network=dict(type="own_detectors.TorchvisionStyle"),
        num_classes=3,
        background=True,
    ),
    "subclass": dict(type="TorchvisionDetector", network=dict(type="own_detectors.build_fcos")),
    "detectron2": dict(type="Detectron2Model", network=dict(type="own_detectors.Detectron2Style", num_classes=3)),
    "semantic": dict(
        type="Detectron2Model", network=dict(type="own_detectors.SemanticStyle"), num_seg_classes=4, input_format="RGB"
    ),
}


class SometimesEmpty(Shapes):
    """Shapes of which every third image has no instances."""

    def get_data_info(self, idx: int) -> dict[str, Any]:
        info = super().get_data_info(idx)
        if info["img_id"] % 3 == 0:
            for key in (
                "gt_bboxes",
                "gt_bboxes_labels",
                "gt_masks",
                "gt_areas",
                "gt_keypoints",
                "gt_keypoints_visible",
            ):
                info[key] = info[key][:0]
        return info


def batch_of(*sizes: int, empty: bool = False, original: tuple[int, int] | None = None) -> dict[str, Any]:
    """Return a batch of drawn images of these sizes; with ``empty``, the first one has no instances."""
    batch: dict[str, Any] = pseudo_collate([Shapes(4, size, pipeline=PACK)[index] for index, size in enumerate(sizes)])
    if empty:
        batch["data_samples"][0].gt_instances = batch["data_samples"][0].gt_instances[:0]
    for sample in batch["data_samples"] if original else []:
        sample.set_metainfo(dict(ori_shape=original))
    return batch


def run_cfg(kind: str, work_dir: Path, **changes: Any) -> Config:
    """Return the config of a run of six steps in two epochs, with a validation, losses and an average of the weights."""
    loader = dict(
        batch_size=4,
        dataset=dict(type=SometimesEmpty, num_samples=12, size=48, pipeline=PACK),
        collate_fn=dict(type="pseudo_collate"),
    )
    metric = dict(type="IoUMetric") if kind == "semantic" else dict(type="CocoMetric")
    return Config({
        "model": MODELS_BY_KIND[kind],
        "work_dir": str(work_dir),
        "train_dataloader": loader,
        "train_cfg": dict(by_epoch=True, max_epochs=2, val_interval=2),
        "optim_wrapper": dict(optimizer=dict(type="AdamW", lr=1e-3)),
        "val_dataloader": loader,
        "val_cfg": dict(with_loss=True),
        "val_evaluator": metric,
        "default_hooks": dict(checkpoint=dict(interval=4, by_epoch=False, max_keep_ckpts=3), logger=dict(interval=1)),
        "custom_hooks": [dict(type="EMAHook"), dict(type="VisualizationHook", max_images=1)],
        "visualizer": dict(type="Visualizer", vis_backends=[dict(type="LocalVisBackend")]),
        "randomness": dict(seed=3),
        **changes,
    })  # fmt: skip


@pytest.mark.parametrize("kind", MODELS_BY_KIND)
def test_a_run_is_exact_after_a_resume_in_mid_epoch_and_its_checkpoint_predicts(kind: str, tmp_path: Path) -> None:
    cfg = run_cfg(kind, tmp_path / "whole")
    assert check(cfg) == []
    whole = Runner.from_cfg(cfg)
    whole.train()
    assert list(Path(whole.log_dir).rglob("*.png"))
    assert any(name.startswith("val/loss") for name in whole.message_hub.log_scalars)
    resumed = Runner.from_cfg(run_cfg(kind, tmp_path / "resumed", resume=str(tmp_path / "whole/iter_4.pth")))
    resumed.train()
    assert different_bits(tmp_path / "resumed/iter_6.pth", tmp_path / "whole/iter_6.pth") == []
    inferencer = Inferencer(tmp_path / "resumed/iter_6.pth", show_progress=False, trusted=True)
    (answer,) = inferencer(torch.full((3, 40, 60), 90, dtype=torch.uint8), out_dir=tmp_path / "out")["predictions"]
    assert answer.keys() & {"pred_instances", "pred_sem_seg"}
    assert list((tmp_path / "out").rglob("*.png"))


@pytest.mark.parametrize("kind", ["torchvision", "detectron2"])
def test_mistakes_in_the_config_are_found(kind: str, tmp_path: Path) -> None:
    model = MODELS_BY_KIND[kind]
    typo = run_cfg(kind, tmp_path, model={**model, "network": {**model["network"], "mask": True}})
    assert "did you mean 'masks'?" in "".join(map(str, check(typo)))
    wrong = {"torchvision": dict(num_classes=None), "detectron2": dict(input_format="bgr")}[kind]
    (mistake,) = check(run_cfg(kind, tmp_path, model={**model, **wrong}))
    assert mistake.path in ("model.num_classes", "model.input_format")
    few = run_cfg(kind, tmp_path, model={**model, "network": {**model["network"], "num_classes": 2}})
    if kind == "torchvision":
        few.model.num_classes = 2
    with pytest.raises(ConfigError, match="has 2 classes, but train_dataloader.dataset has 3"):
        Runner.from_cfg(few).train()


def test_two_processes_have_the_same_weights(tmp_path: Path) -> None:
    """Some batches of a process have no objects."""

    def action() -> dict[str, Tensor]:
        weights = {}
        for kind in ("torchvision", "detectron2"):
            cfg = run_cfg(kind, tmp_path / kind, launcher="pytorch", custom_hooks=[])
            cfg.merge_from_dict({"train_dataloader.batch_size": 1, "train_cfg.max_epochs": 1})
            runner = Runner.from_cfg(cfg)
            runner.train()
            weights |= {f"{kind}.{name}": value.detach() for name, value in runner.model.module.named_parameters()}
        return weights

    one, other = run_ranks(2, action, tmp_path)
    assert len(one) == 16 and one.keys() == other.keys()
    assert all(torch.equal(value, other[name]) and value.isfinite().all() for name, value in one.items())


@pytest.mark.parametrize("kind", ["torchvision", "detectron2"])
def test_the_exported_file_predicts_the_same(kind: str, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    cfg = run_cfg(kind, tmp_path)
    save_checkpoint({"state_dict": build(kind).state_dict(), "meta": {}}, tmp_path / "untrained.pth")
    report = export_model(cfg, str(tmp_path / "untrained.pth"), "onnx", str(tmp_path / "model.onnx"))
    assert report.is_close and report.differences.keys() == {"bboxes", "labels", "scores", "unmatched instances"}
    assert len(report.compared) == 3, "the size is not fixed"


def build(kind: str, **changes: Any) -> Any:
    torch.manual_seed(0)
    return MODELS.build({**MODELS_BY_KIND[kind], **changes})


@pytest.mark.parametrize("kind", MODELS_BY_KIND)
def test_losses_in_evaluation_mode_are_those_of_training_without_its_noise(kind: str) -> None:
    model = build(kind, **(dict(network=build_rcnn()) if kind == "subclass" else {}))
    batch = batch_of(48, 64, empty=True)
    torch.manual_seed(1)
    found = model.eval().val_step(batch, with_loss=True)[1]
    assert not any(module.training for module in model.modules())
    for module in model.network.modules():
        module.training = not isinstance(module, nn.BatchNorm2d | nn.Dropout | Noise)
    torch.manual_seed(1)
    expected = model.parse_losses(model(**model.data_preprocessor(batch), mode="loss"))[1]
    assert found.keys() == expected.keys() and len(found) > (kind != "semantic")
    assert all(torch.equal(found[name], expected[name]) for name in found)


# --------------------------------------------------------------------------------------------------------- torchvision


def test_targets_and_detections_are_in_torchvisions_form() -> None:
    model = build("torchvision", network=dict(type="own_detectors.TorchvisionStyle", masks=True))
    batch = batch_of(48, 64, empty=True, original=(96, 128))
    losses = model.train()(**model.data_preprocessor(batch), mode="loss")
    assert losses.keys() == {"loss_classification", "loss_regression"}
    empty, target = model.network.targets
    truth = batch["data_samples"][1].gt_instances
    assert empty["boxes"].shape == (0, 4) and torch.equal(target["boxes"], truth.bboxes)
    assert torch.equal(target["labels"], truth.labels + 1)
    assert torch.equal(target["masks"], truth.masks)
    assert torch.equal(target["keypoints"], torch.cat([truth.keypoints, truth.keypoints_visible[..., None]], 2))
    with torch.no_grad():
        raw = model.eval()([image / 255 for image in batch["inputs"]])
        samples = model.test_step(batch)
    for sample, found, size in zip(samples, raw, (48, 64)):
        instances, scale = sample.pred_instances, torch.tensor([128 / size, 96 / size])
        order = found["scores"].argsort(descending=True)
        assert not torch.equal(order, order.sort().values), "the network sorts them"
        assert torch.equal(instances.scores, found["scores"][order])
        assert torch.equal(instances.labels, found["labels"][order] - 1)
        torch.testing.assert_close(instances.bboxes, found["boxes"][order] * scale.repeat(2))
        assert torch.equal(instances.keypoints.flatten(1), instances.bboxes)
        assert instances.keypoint_scores.shape == (len(order), 2)
        assert (instances.masks.shape, instances.masks.dtype) == ((len(order), 96, 128), torch.bool)
        differ = instances.masks != filled(instances.bboxes, (96, 128))
        assert differ.float().mean() < 0.05  # along the edges


def test_subclasses_of_torchvisions_detectors_need_no_further_arguments() -> None:
    fcos = TorchvisionDetector(dict(type="own_detectors.build_fcos", num_classes=2))
    assert fcos.num_classes == 2 and TorchvisionDetector(fcos.network, 2, background=False).num_classes == 2
    assert TorchvisionDetector(dict(type="own_detectors.build_fcos"), num_classes=5).num_classes == 5
    with pytest.raises(ConfigError, match="background: a OwnFCOS has 2 classes, and label 0 is not background"):
        TorchvisionDetector(fcos.network, 2, background=True)


def test_mistakes_in_a_network_of_torchvisions_form() -> None:
    network = TorchvisionStyle()
    with pytest.raises(ConfigError, match="background: is required for a TorchvisionStyle.*\n.* num_classes"):
        TorchvisionDetector(network)
    with pytest.raises(ConfigError, match="num_classes: is required with background"):
        TorchvisionDetector(network, background=True)
    with pytest.raises(ConfigError, match="background: is only for networks of your own"):
        TorchvisionDetector("fcos_resnet50_fpn", 3, background=True)
    with pytest.raises(ConfigError, match="network: must be a module, not .*int"):
        TorchvisionDetector(dict(type="builtins.int"), 3, background=True)
    model = TorchvisionDetector(network, 3, background=True).eval()
    with pytest.raises(TrainingError, match="TorchvisionStyle must return a list of one dict for each image"):
        model._predictions({"boxes": 1}, batch_of(48)["inputs"], None)


@pytest.mark.filterwarnings("ignore:Using a non-tuple sequence")
@pytest.mark.parametrize("network", [TorchvisionStyle(), Detectron2Style()])
def test_a_detector_without_its_adapter_is_an_error_that_names_it(network: nn.Module) -> None:
    with pytest.raises((IndexError, RuntimeError)) as error:
        ModuleWrapper(network)(**batch_of(48), mode="loss")
    assert "by TorchvisionDetector or Detectron2Model" in error.value.__notes__[0]


def test_names_of_losses() -> None:
    loss = torch.ones((), requires_grad=True)
    module = nn.Identity()
    assert named_losses({"a": loss, "b": loss}, module).keys() == {"loss_a", "loss_b"}
    assert named_losses({"loss_a": [loss], "count": torch.ones(())}, module).keys() == {"loss_a", "count"}
    with pytest.raises(TrainingError, match="'b' with a gradient.*rename it to 'loss_b'"):
        named_losses({"loss_a": loss, "b": loss}, module)
    for wrong in ([loss], {}, loss):
        with pytest.raises(TrainingError, match="Identity must return a dict of losses"):
            named_losses(wrong, module)


# ---------------------------------------------------------------------------------------------------------- Detectron2


def test_images_and_annotations_are_in_detectron2s_form() -> None:
    model = build("detectron2")
    batch = batch_of(48, 64, empty=True, original=(96, 128))
    losses = model.train()(**model.data_preprocessor(batch), mode="loss")
    assert losses.keys() == {"loss_cls", "loss_box_reg", "num_objects"}
    total, logged = model.parse_losses(losses)
    assert torch.equal(total, losses["loss_cls"] + losses["loss_box_reg"]) and logged["num_objects"] > 0
    empty, record = model.network.records
    assert record.keys() == {"image", "height", "width", "instances", "sem_seg"}
    assert (record["height"], record["width"]) == (96, 128)
    assert torch.equal(record["image"], batch["inputs"][1][[2, 1, 0]]) and record["image"].dtype == torch.uint8
    found, truth = record["instances"], batch["data_samples"][1].gt_instances
    assert found.image_size == (64, 64) and len(found) == len(truth) and len(empty["instances"]) == 0
    assert torch.equal(found.gt_boxes.tensor, truth.bboxes) and torch.equal(found.gt_classes, truth.labels)
    assert torch.equal(found.gt_masks.tensor, truth.masks.bool())
    assert torch.equal(found.gt_keypoints.tensor[..., :2], truth.keypoints)
    assert torch.equal(found.gt_keypoints.tensor[..., 2], truth.keypoints_visible)
    assert torch.equal(record["sem_seg"], batch["data_samples"][1].gt_sem_seg.sem_seg[0])
    rgb = Detectron2Model(Detectron2Style(), input_format="RGB")
    rgb(**batch, mode="loss")
    assert torch.equal(rgb.network.records[1]["image"], batch["inputs"][1])


@pytest.mark.parametrize("rescales", [True, False])
def test_predictions_are_in_coordinates_of_the_original_image(rescales: bool) -> None:
    model = build("detectron2", network=Detectron2Style(masks=True, rescales=rescales)).eval()
    batch = batch_of(48, 64, original=(96, 128))
    with torch.no_grad():
        samples = model.test_step(batch)
        raw = model([*batch["inputs"]])
    for sample, output, size in zip(samples, raw, (48, 64)):
        instances, found = sample.pred_instances, output["instances"]
        order = found.scores.argsort(descending=True)
        assert torch.equal(instances.scores, found.scores[order])
        assert torch.equal(instances.labels, found.pred_classes[order])
        scale = torch.tensor([128 / size, 96 / size]).repeat(2)
        torch.testing.assert_close(instances.bboxes, found.pred_boxes.tensor[order] * scale)
        torch.testing.assert_close(instances.keypoints.flatten(1), instances.bboxes)
        assert torch.equal(instances.keypoint_scores[:, 1], instances.scores)
        assert (instances.masks.shape, instances.masks.dtype) == ((len(order), 96, 128), torch.bool)
        differ = instances.masks != filled(instances.bboxes, (96, 128))
        assert differ.float().mean() < (1e-9 if rescales else 0.05)


def test_maps_of_pixels_have_the_size_of_the_original_image() -> None:
    model = build("semantic").eval()
    samples = model.test_step(batch_of(48, 64, original=(50, 70)))
    assert [sample.pred_sem_seg.sem_seg.shape for sample in samples] == [(1, 50, 70)] * 2
    assert "pred_instances" not in samples[0] and (model.num_classes, model.num_seg_classes) == (None, 4)
    batch = batch_of(48)
    del batch["data_samples"][0].gt_sem_seg
    with pytest.raises(ValueError, match="has no gt_sem_seg"):
        model(**batch, mode="loss")
    with pytest.raises(ValueError, match="no annotations: its data samples are None"):
        model(batch["inputs"], mode="loss")


class Storage:
    """The part of Detectron2's EventStorage that models use."""

    stack: list[Any] = []  # noqa: RUF012  # as in that library, one for all

    def __init__(self, start_iter: int = 0) -> None:
        self.iter = start_iter
        self.scalars: dict[str, tuple[float, int]] = {}

    def put_scalar(self, name: str, value: Any) -> None:
        self.scalars[name] = (float(value), self.iter)

    def latest(self) -> dict[str, tuple[float, int]]:
        return self.scalars

    def __enter__(self) -> "Storage":
        self.stack.append(self)
        return self

    def __exit__(self, *error: object) -> None:
        self.stack.pop()


def test_the_library_provides_the_structures_and_the_storage_if_it_is_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is a stand-in here: the library itself is not on PyPI."""
    modules = {name: ModuleType(name) for name in ("detectron2", "detectron2.structures", "detectron2.utils")}
    modules["detectron2.utils.events"] = events = ModuleType("detectron2.utils.events")
    theirs = {
        name: type(name, (getattr(structures, name),), {}) for name in ("Instances", "Boxes", "BitMasks", "Keypoints")
    }
    vars(modules["detectron2.structures"]).update(theirs)
    events.EventStorage = Storage  # type: ignore[attr-defined]
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)

    class Network(Detectron2Style):
        def forward(self, batched_inputs: list[dict[str, Any]]) -> Any:
            if self.training:
                Storage.stack[-1].put_scalar("roi_head/num_fg", 3)
                Storage.stack[-1].put_scalar("loss_of_the_storage", 1e9)
                Storage.stack[-1].put_scalar("iteration", Storage.stack[-1].iter)
                fields = batched_inputs[0]["instances"].get_fields()
                assert type(batched_inputs[0]["instances"]) is theirs["Instances"]
                assert [type(fields[f"gt_{name}"]) for name in ("boxes", "masks", "keypoints")] == [
                    theirs["Boxes"], theirs["BitMasks"], theirs["Keypoints"]
                ]  # fmt: skip
            return super().forward(batched_inputs)

    runner = Runner.from_cfg(run_cfg("detectron2", tmp_path, model=Detectron2Model(Network())))
    runner.train()
    scalars = runner.message_hub.log_scalars
    assert scalars["train/roi_head/num_fg"].current() == 3 and scalars["train/loss"].current() < 1e6
    assert scalars["train/iteration"].data[0].tolist() == [0, 1, 2, 3, 4, 5]
    assert not Storage.stack


def test_mistakes_in_a_network_of_detectron2s_form() -> None:
    heads = nn.Module()
    heads.roi_heads = nn.Module()
    heads.roi_heads.num_classes = 7  # type: ignore[assignment]
    heads.input_format = "RGB"  # type: ignore[assignment]
    model = Detectron2Model(heads)
    assert (model.num_classes, model.input_format) == (7, "RGB")
    with pytest.raises(ConfigError, match="num_classes: is 3, but the Module has 7 classes"):
        Detectron2Model(heads, num_classes=3)
    with pytest.raises(ConfigError, match="num_classes: is required for a Identity"):
        Detectron2Model(nn.Identity())
    with pytest.raises(ConfigError, match="input_format: must be one of BGR, RGB, not 'bgr'"):
        Detectron2Model(heads, input_format="bgr")
    with pytest.raises(ConfigError, match="network: must be a module"):
        Detectron2Model(dict(type="builtins.int"), 3)
    image = torch.zeros(3, 8, 8)

    def predict(output: Any) -> None:
        network = nn.Module()
        network.forward = lambda records: output  # type: ignore[method-assign, assignment]
        Detectron2Model(network, 3)([image], mode="predict")

    boxes = structures.Instances((8, 8), pred_boxes=torch.zeros(1, 5), scores=torch.ones(1), pred_classes=torch.ones(1))
    for output, message in (
        ([], "Module must return a list of one dict for each image"),
        ([{"proposals": boxes}], "with instances or sem_seg"),
        ([{"instances": structures.Instances((8, 8), scores=torch.ones(1))}], "without pred_boxes and pred_classes"),
        ([{"instances": boxes}], r"boxes of shape \(1, 5\), not \(N, 4\)"),
    ):
        with pytest.raises(TrainingError, match=message):
            predict(output)


def test_structures_behave_as_those_of_detectron2() -> None:
    boxes = structures.Boxes(torch.arange(12).view(3, 4))
    found = structures.Instances((8, 9), gt_boxes=boxes, gt_classes=torch.tensor([4, 5, 6]))
    found.names = ["a", "b", "c"]
    assert len(found) == 3 and found.has("names") and not found.has("scores") and not hasattr(found, "scores")
    assert found[1].gt_classes.tolist() == [5] and found[1].gt_boxes.tensor.shape == (1, 4)
    assert found[-1:].names == ["c"] and found.image_size == (8, 9)
    found.remove("names")
    chosen = found[found.gt_classes > 4]
    assert chosen.gt_boxes.tensor.tolist() == [[4, 5, 6, 7], [8, 9, 10, 11]] and list(chosen.get_fields()) == [
        "gt_boxes",
        "gt_classes",
    ]
    assert found.to("meta").gt_boxes.device.type == "meta" and found.get("gt_boxes") is boxes
    assert boxes[1].tensor.tolist() == [[4, 5, 6, 7]] and structures.Boxes(torch.zeros(0)).tensor.shape == (0, 4)
    assert len(structures.Instances((8, 9))) == 0
    with pytest.raises(ValueError, match="scores has the length 2, but there are 3 instances"):
        found.scores = torch.ones(2)
    with pytest.raises(IndexError):
        found[3]
