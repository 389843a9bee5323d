"""Models of all tasks are exported, and predict the same in another runtime."""

import importlib.util
import json
import re
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from trainwright.datasets import pseudo_collate
from trainwright.engine import Config, ConfigError, Inferencer
from trainwright.engine.checkpoints.files import load_checkpoint_file, save_checkpoint
from trainwright.engine.errors import CheckpointError, DataError
from trainwright.engine.export.exporting import export_model
from trainwright.engine.export.form import ExportForm, form_of
from trainwright.engine.export.formats import ExportFormat, get_format, load_exported
from trainwright.engine.parts import DATASET
from trainwright.engine.registry import MODELS
from trainwright.engine.run.model_setup import build_model
from trainwright.models import BaseModel, ExportedModel
from trainwright.tools.cli import main

pytest.importorskip("onnxruntime")

PYRAMID = dict(
    type="FeaturePyramid",
    body=dict(type="TorchvisionFeatures", name="mobilenet_v2", width_mult=0.25, layers=("features.3", "features.6")),
    out_channels=32,
)
DETECTOR = dict(type="TorchvisionDetectionModel", num_classes=3, backbone=PYRAMID, min_size=40, max_size=64)
R_CNN = dict(
    name="maskrcnn", head_channels=16, rpn_pre_nms_top_n_test=20, rpn_post_nms_top_n_test=8, box_detections_per_img=4,
    box_score_thresh=0.3,
)  # fmt: skip
BOXES = dict(annotations=("gt_bboxes", "gt_bboxes_labels"))
NORMALIZED = dict(mean=[128, 128, 128], std=[64, 64, 64])
CODEC = dict(type="MSRAHeatmap", input_size=(32, 32), heatmap_size=(8, 8), sigma=1)
CLIPS = [
    dict(type="SampleFrames", clip_len=4, num_clips=2, test_mode=True),
    dict(type="ArrayDecode"),
    dict(type="FormatShape"),
    dict(type="PackInputs"),
]
ANY = (None, 3, None, None)
DECODERS = {
    "multilabel": "MultiLabelDecoder", "segmentation": "SegmentationDecoder", "fcos": "DetectionDecoder",
    "mask_rcnn": "DetectionDecoder", "pose": "PoseDecoder", "embedding": "EmbeddingDecoder", "video": "ClassificationDecoder",
}  # fmt: skip
CASES: dict[str, tuple[dict[str, Any], dict[str, Any], tuple[int | None, ...]]] = {
    "multilabel": (
        dict(
            type="ImageClassifier",
            backbone=dict(type="TorchvisionFeatures", name="squeezenet1_1", layers="features.3"),
            neck=dict(type="GlobalAveragePooling"),
            head=dict(type="MultiLabelLinearClsHead", num_classes=3, in_channels=128),
            data_preprocessor=NORMALIZED,
        ),
        dict(annotations=("gt_label",)),
        ANY,
    ),
    "segmentation": (
        dict(
            type="SemanticSegmentor",
            network=dict(type="UNet", num_classes=4, base_channels=4, depth=2),
            data_preprocessor=dict(**NORMALIZED, pad_size_divisor=8),
        ),
        dict(annotations=("gt_seg_map",)),
        ANY,
    ),
    "fcos": (dict(type="TorchvisionDetector", network=DETECTOR | dict(name="fcos", score_thresh=0.02)), BOXES, (1, *ANY[1:])),
    "mask_rcnn": (dict(type="TorchvisionDetector", network=DETECTOR | R_CNN), BOXES, (1, *ANY[1:])),
    "embedding": (
        dict(
            type="EmbeddingModel",
            backbone=dict(type="ConvNet", channels=(8, 16)),
            loss=dict(type="torch.nn.CrossEntropyLoss"),
            data_preprocessor=NORMALIZED,
        ),
        dict(annotations=("gt_label",)),
        ANY,
    ),
    "pose": (
        dict(
            type="TopdownPoseEstimator",
            backbone=dict(type="TorchvisionFeatures", name="squeezenet1_1", layers="features.3"),
            head=dict(
                type="HeatmapHead", in_channels=128, out_channels=4, deconv_out_channels=(), deconv_kernel_sizes=(),
                codec=CODEC | dict(unbiased=True),
            ),
            test_cfg=dict(flip_test=True),
            flip_indices=(0, 2, 1, 3),
            data_preprocessor=NORMALIZED,
        ),
        dict(size=32, annotations=()),
        (None, 3, 32, 32),
    ),
    "video": (
        dict(
            type="Recognizer3D",
            backbone=dict(type="SmallC3D", num_classes=6, base_channels=4, depth=2),
            data_preprocessor=NORMALIZED,
        ),
        dict(type="MovingShapes", pipeline=CLIPS, test_mode=True),
        (None, 2, 3, 4, None, None),
    ),
}  # fmt: skip


class Fraction(BaseModel):
    """A model of a user."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 2)

    def forward(self, inputs: Tensor, data_samples: Any = None, mode: str = "tensor") -> Any:
        return self.layer(inputs.float().mean((2, 3)) / 255)

    def export_form(self) -> ExportForm:
        return ExportForm(self, self.forward, ("fractions",))


def config_of(model: dict[str, Any], **dataset: Any) -> Config:
    shapes = dict(type="Shapes", num_samples=4, size=40, seed=1, pipeline=[dict(type="PackInputs")])
    loader = dict(batch_size=4, dataset={**shapes, **dataset}, collate_fn=dict(type="pseudo_collate"))
    return Config(dict(model=model, test_dataloader=loader))


def write_checkpoint(cfg: Config, file: str = "epoch_1.pth") -> Any:
    """Save weights with which neither scores nor boxes are nearly equal, and return the model."""
    torch.manual_seed(3)
    model: Any = build_model(cfg.model).eval()
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear | nn.Conv3d):
            nn.init.normal_(module.weight, std=1.2 * module.weight[0].numel() ** -0.5)
    save_checkpoint(
        {"state_dict": model.state_dict(), "meta": {"dataset_meta": {"classes": ["circle", "square", "triangle"]}}},
        file,
    )
    return model


def batch_of(cfg: Config, number: int = 3, ori_shape: tuple[int, int] | None = None) -> dict[str, Any]:
    dataset: Any = DATASET.build(cfg.test_dataloader.dataset)
    batch: dict[str, Any] = pseudo_collate([dataset[index] for index in range(number)])
    for sample in batch["data_samples"] if ori_shape else ():
        sample.set_metainfo(dict(ori_shape=ori_shape))
    return batch


def assert_equal(sample: Any, other: Any) -> None:
    assert sample.keys() == other.keys()
    for name, value in sample.items():
        if isinstance(value, Tensor):
            torch.testing.assert_close(other.get(name), value, rtol=1e-4, atol=1e-4)
        elif hasattr(value, "items"):
            assert_equal(value, other.get(name))


@pytest.mark.long
@pytest.mark.parametrize("name", CASES)
def test_each_task_predicts_the_same_in_onnxruntime(in_tmp: Path, name: str) -> None:
    model, dataset, shape = CASES[name]
    cfg = config_of(model, **dataset)
    original = write_checkpoint(cfg)
    report = export_model(cfg, "epoch_1.pth", "onnx", "model.onnx")
    assert report.is_close
    assert report.shape == shape
    assert max(report.differences.values()) < 1e-4
    size = None if name == "video" else (60, 50)
    with torch.no_grad():
        expected = original.test_step(batch_of(cfg, ori_shape=size))
    found = ExportedModel("model.onnx").test_step(batch_of(cfg, ori_shape=size))
    expected, found = ([one] if not isinstance(one, list) else one for one in (expected, found))
    assert len(found) == len(expected)
    for one, other in zip(expected, found):
        assert_equal(one, other)
        if name in ("fcos", "mask_rcnn"):
            assert len(one.pred_instances) > 1
    assert load_exported("model.onnx").metadata["decoder"]["type"] == DECODERS[name]
    assert sorted(path.name for path in in_tmp.iterdir()) == ["epoch_1.pth", "model.onnx"]


PART = dict(
    type="ImageClassifier",
    backbone=dict(type="LeNet", in_channels=3, image_size=40, num_classes=3, channels=(2, 2), hidden_features=4),
    data_preprocessor=NORMALIZED,
)
WRAPPERS = {
    "MeanTeacher": dict(classifier=PART),
    "Distillation": dict(
        student=PART, teacher=PART, pairs=dict(logits=dict(student="backbone", loss=dict(type="KDLoss")))
    ),
    "SemiSupervisedDetector": dict(detector=CASES["fcos"][0]),
}


@pytest.mark.parametrize("name", WRAPPERS)
def test_the_part_that_predicts_is_exported(in_tmp: Path, name: str) -> None:
    detects = name == "SemiSupervisedDetector"
    cfg = config_of(dict(type=name, **WRAPPERS[name]), **(BOXES if detects else dict(annotations=("gt_label",))))
    original = write_checkpoint(cfg)
    before = original.state_dict().keys()
    report = export_model(cfg, "epoch_1.pth", "onnx", "model.onnx")
    assert report.is_close
    with torch.no_grad():
        expected = original.test_step(batch_of(cfg))
    for one, other in zip(expected, ExportedModel("model.onnx").test_step(batch_of(cfg))):
        assert_equal(one, other)
    form_of(original)
    assert original.state_dict().keys() == before


@pytest.mark.parametrize(
    ("format", "name"), [("torch_export", "model.pt2"), ("openvino", "model.xml"), ("executorch", "model.pte")]
)
def test_a_model_of_a_user_is_exported_to_the_other_formats(in_tmp: Path, format: str, name: str) -> None:
    if format != "torch_export":
        pytest.importorskip(format)
    if format == "executorch" and importlib.util.find_spec("torchao") is None:
        pytest.skip("executorch is not completely installed")
    MODELS.register_module(module=Fraction, force=True)
    cfg = config_of(dict(type="Fraction"))
    original = write_checkpoint(cfg)
    report = export_model(cfg, "epoch_1.pth", format, name)
    assert report.is_close
    assert report.shape == ((1, 3, 40, 40) if format == "executorch" else ANY)
    batch = batch_of(cfg)
    expected = original(torch.stack(batch["inputs"]))
    torch.testing.assert_close(ExportedModel(name).test_step(batch), expected.detach(), rtol=1e-5, atol=1e-5)


class Checked(Fraction):
    """A model that checks values, as transformers does in compiled code."""

    def forward(self, inputs: Tensor, data_samples: Any = None, mode: str = "tensor") -> Any:
        result = super().forward(inputs)
        torch._check(torch.ops.aten._is_all_true(result.isfinite()).item())
        return result


def test_checks_of_all_values_are_exported_to_onnx(in_tmp: Path) -> None:
    MODELS.register_module(module=Checked, force=True)
    cfg = config_of(dict(type="Checked"))
    write_checkpoint(cfg)
    assert export_model(cfg, "epoch_1.pth", "onnx", "model.onnx").method == "torch.export"


class Smaller(nn.Module):
    """What the older exporter cannot export."""

    def forward(self, images: Tensor) -> Tensor:
        return nn.functional.interpolate(images, scale_factor=0.5, mode="bilinear", antialias=True)


def test_a_failure_of_the_older_exporter_does_not_print_the_graph(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(Exception, match="upsample_bilinear2d_aa"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        get_format("onnx").trace(Smaller(), torch.rand(1, 3, 8, 8), {}, ("small",), "torchscript")
    assert "graph(" not in "".join(capfd.readouterr())


@pytest.fixture(scope="module")
def lenet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a config, a checkpoint, and the exported model."""
    folder = tmp_path_factory.mktemp("lenet")
    text = (
        "model = dict(type='ImageClassifier', backbone=dict(type='LeNet', num_classes=3),\n"
        "    data_preprocessor=dict(mean=[128], std=[64]))\n"
        "steps = [dict(type='Resize', size=(28, 28)), dict(type='Grayscale'), dict(type='PackInputs')]\n"
        "test_dataloader = dict(batch_size=3, num_workers=0, collate_fn=dict(type='pseudo_collate'),\n"
        "    dataset=dict(type='Shapes', num_samples=8, size=40, max_shapes=1, annotations=('gt_label',),\n"
        "                 pipeline=steps))\n"
        "test_evaluator = dict(type='Accuracy')\n"
        "test_cfg = dict()\n"
        "work_dir = 'run'\n"
    )
    (folder / "lenet.py").write_text(text)
    cfg = Config.fromfile(folder / "lenet.py")
    write_checkpoint(cfg, str(folder / "epoch_1.pth"))
    export_model(cfg, str(folder / "epoch_1.pth"), "onnx", folder / "lenet.onnx")
    return folder


def test_a_file_is_tested_in_the_place_of_a_checkpoint(
    in_tmp: Path, lenet: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    accuracies = []
    for file in ("epoch_1.pth", "lenet.onnx"):
        assert main(["test", str(lenet / "lenet.py"), str(lenet / file), "--seed", "0"]) == 0
        captured = capfd.readouterr()
        accuracies.append(re.findall(r"accuracy/top1: ([\d.]+)", captured.out + captured.err))
    assert accuracies[0] == accuracies[1]
    assert accuracies[0]
    assert main(["test", str(lenet / "lenet.py"), str(lenet / "lenet.onnx"), "--tta"]) == 2


def test_a_file_alone_is_enough_to_predict(in_tmp: Path, lenet: Path) -> None:
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (50, 60, 3), np.uint8)).save("image.png")
    alone = Inferencer(lenet / "lenet.onnx", show_progress=False)
    expected = Inferencer(lenet / "lenet.py", lenet / "epoch_1.pth", show_progress=False)("image.png")["predictions"][0]
    found = alone(["image.png"] * 3, batch_size=2)["predictions"]
    assert [one["pred_class"] for one in found] == [expected["pred_class"]] * 3
    assert found[0]["pred_scores"] == pytest.approx(expected["pred_scores"], abs=1e-5)
    assert main(["predict", str(lenet / "lenet.py"), str(lenet / "lenet.onnx"), "image.png"]) == 0
    written = json.loads(Path("predictions/predictions.json").read_text())[0]
    assert written["pred_class"] == expected["pred_class"]


def test_the_metadata_describes_the_file(lenet: Path) -> None:
    metadata = load_exported(lenet / "lenet.onnx").metadata
    assert metadata["dataset_meta"]["classes"] == ["circle", "square", "triangle"]
    assert metadata["inputs"] == {"dtype": "uint8", "shape": [None, 1, 28, 28]}
    assert metadata["outputs"] == ["pred_score", "pred_label"]
    assert [step["type"] for step in metadata["config"]["inference_pipeline"]] == ["Resize", "Grayscale", "PackInputs"]
    assert metadata["exporter"] == "torch.export"


def test_wrong_inputs_are_refused_with_both_shapes(lenet: Path) -> None:
    model = ExportedModel(lenet / "lenet.onnx")
    with pytest.raises(DataError, match=r"any x 1 x 28 x 28, not 2 x 1 x 32 x 32"):
        model.test_step(dict(inputs=torch.zeros(2, 1, 32, 32, dtype=torch.uint8)))
    with pytest.raises(DataError, match="type uint8, not float32"):
        model.test_step(dict(inputs=torch.zeros(2, 1, 28, 28)))


def test_what_cannot_be_exported_is_refused_before_the_work(
    in_tmp: Path, lenet: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config, checkpoint = str(lenet / "lenet.py"), str(lenet / "epoch_1.pth")

    def refused(*options: str, config: str = config, checkpoint: str = checkpoint) -> str:
        assert main(["export", config, checkpoint, *options]) == 2
        return capsys.readouterr().err

    assert "did you mean 'onnx'" in refused("--format", "onx", "-o", "a.onnx")
    assert "ends with .onnx, not 'a.pt'" in refused("--format", "onnx", "-o", "a.pt")
    assert "cannot be written" in refused("--format", "onnx", "-o", f"{config}/a.onnx")
    (in_tmp / "folder.onnx").mkdir()
    assert "is a folder" in refused("--format", "onnx", "-o", "folder.onnx")
    assert "no_such.pth" in refused("--format", "onnx", "-o", "a.onnx", checkpoint="no_such.pth")
    part = dict(list(load_checkpoint_file(checkpoint)["state_dict"].items())[:1])
    save_checkpoint({"state_dict": part, "meta": {}}, "other.pth")
    assert "is not a checkpoint of this model" in refused("--format", "onnx", "-o", "a.onnx", checkpoint="other.pth")
    monkeypatch.setattr(ExportFormat, "packages", ("no_such_package",))
    monkeypatch.setattr("trainwright.engine.export.formats.find_spec", lambda name: None)
    assert "pip install 'trainwright[onnx]'" in refused("--format", "onnx", "-o", "a.onnx")
    assert not list(in_tmp.glob("*.onnx/*"))


def test_models_without_a_form_and_formats_that_lack_operators_are_named(in_tmp: Path) -> None:
    cfg = config_of(dict(CASES["fcos"][0]), **BOXES)
    write_checkpoint(cfg)
    with pytest.raises(ConfigError, match="TorchvisionDetector cannot be exported to executorch: .*suppression"):
        pytest.importorskip("executorch")
        export_model(cfg, "epoch_1.pth", "executorch", "a.pte")
    memory = dict(dataset=dict(type="Shapes"))
    cfg = config_of(dict(type="KNNClassifier", backbone=dict(type="LeNet", num_classes=3), memory=memory))
    write_checkpoint(cfg)
    with pytest.raises(ConfigError, match="a KNNClassifier cannot be exported: it has no export_form"):
        export_model(cfg, "epoch_1.pth", "torch_export", "a.pt2")


def test_a_file_that_differs_too_far_is_not_written(
    in_tmp: Path, lenet: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["export", str(lenet / "lenet.py"), str(lenet / "epoch_1.pth"), "--format", "torch_export", "-o", "a.pt2"]
    monkeypatch.setattr("trainwright.engine.export.torch_format._Program.__call__", lambda self, inputs: [
        output + 0.5 if output.is_floating_point() else output for output in self.module(inputs)
    ])  # fmt: skip
    assert main([*command, "--fixed", "batch", "size"]) == 1
    assert "more than the tolerance" in capsys.readouterr().err
    assert not list(in_tmp.iterdir())
    assert main([*command, "--fixed", "batch", "size", "--tolerance", "0.6", "--input-shape", "1,28,28:uint8"]) == 0
    assert "random numbers" in capsys.readouterr().out
    assert ExportedModel("a.pt2").metadata["inputs"]["shape"] == [1, 1, 28, 28]


def test_a_full_disk_leaves_nothing_behind(in_tmp: Path, lenet: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: Any, **kwargs: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("torch.export.save", full)
    with pytest.raises(ConfigError, match=r"'a.pt2' cannot be written: .*No space left"):
        export_model(Config.fromfile(lenet / "lenet.py"), str(lenet / "epoch_1.pth"), "torch_export", "a.pt2")
    assert not list(in_tmp.iterdir())


def test_foreign_damaged_and_unsafe_files_are_refused(in_tmp: Path, lenet: Path) -> None:
    Path("a.onnx").write_bytes((lenet / "lenet.onnx").read_bytes()[:5000])
    with pytest.raises(CheckpointError, match=r"a.onnx cannot be loaded as a file of onnx"):
        ExportedModel("a.onnx")
    import onnx

    foreign = onnx.load(lenet / "lenet.onnx")
    foreign.ClearField("metadata_props")
    onnx.save(foreign, "b.onnx")
    with pytest.raises(CheckpointError, match=r"b.onnx was not exported by Trainwright"):
        Inferencer("b.onnx")
    with pytest.raises(CheckpointError, match="there is no file 'c.onnx'"):
        Inferencer("c.onnx")
    with pytest.raises(CheckpointError, match="is a program, which may run any code"):
        Inferencer("c.pt2")
