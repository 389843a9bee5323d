"""Every component is found by its name and can be built, with the arguments of a small experiment."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from trainwright.engine.registry import ROOT_REGISTRIES
from trainwright.engine.signatures import parameters_of

NET = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
DATA = dict(type="XOR", num_samples=8)
CODEC = dict(type="MSRAHeatmap", input_size=(16, 16), heatmap_size=(4, 4))


def names(variable: str) -> list[str]:
    """Return the names in a registry whose members are defined in Trainwright."""
    registry = ROOT_REGISTRIES[variable]
    registry.load_all()
    return sorted(name for name, member in registry.module_dict.items() if member.__module__.startswith("trainwright."))


ARGUMENTS: dict[str, dict[str, dict[str, Any]]] = {
    "MODELS": {
        "ExponentialMovingAverage": dict(model=NET),
        "MomentumAnnealingEMA": dict(model=NET),
        "StochasticWeightAverage": dict(model=NET),
        "ClassificationTTA": dict(module=dict(type="ImageClassifier", backbone=dict(type="LeNet"))),
        "CutMix": dict(num_classes=2),
        "FeaturePyramid": dict(body=dict(type="TorchvisionFeatures", name="squeezenet1_1", layers="features")),
        "GlobalAveragePooling": {},
        "HeatmapHead": dict(in_channels=4, out_channels=2, codec=CODEC),
        "ImageClassifier": dict(backbone=dict(type="LeNet")),
        "KNNClassifier": dict(backbone=dict(type="LeNet"), memory={}),
        "LinearClsHead": dict(num_classes=2, in_channels=4),
        "WordTokenizer": dict(dataset=["a red bird"]),
        "LabelSmoothLoss": dict(label_smooth_val=0.1),
        "MLP": dict(in_features=2, num_classes=2),
        "Mixup": dict(num_classes=2),
        "ModuleWrapper": dict(module=NET),
        "MultiLabelLinearClsHead": dict(num_classes=2, in_channels=4),
        "MultiTaskModel": dict(
            backbone=dict(type="UNet", num_classes=None, base_channels=4, depth=2),
            heads=dict(parts=dict(type="SegmentationHead", num_classes=2, in_channels=8)),
        ),
        "MSRAHeatmap": dict(input_size=(16, 16), heatmap_size=(4, 4)),
        "RandomBatchAugment": dict(augments=[dict(type="Mixup", num_classes=2)]),
        "Recognizer3D": dict(backbone=dict(type="SmallC3D", num_classes=2)),
        "SegmentationHead": dict(num_classes=2, in_channels=4),
        "SemanticSegmentor": dict(network=dict(type="UNet", num_classes=2, base_channels=4, depth=2)),
        "SmallC3D": dict(num_classes=2),
        "TopdownPoseEstimator": dict(
            backbone=dict(type="UNet", num_classes=None, base_channels=4, depth=2),
            head=dict(type="HeatmapHead", in_channels=8, out_channels=2, codec=CODEC),
        ),
        "TorchvisionDetectionModel": dict(name="ssdlite320_mobilenet_v3_large", num_classes=2),
        "TorchvisionDetector": dict(network="ssdlite320_mobilenet_v3_large", num_classes=2),
        "TorchvisionFeatures": dict(name="squeezenet1_1", layers="features"),
        "TorchvisionModel": dict(name="squeezenet1_1", num_classes=2),
        "TorchvisionSegmentationModel": dict(name="lraspp_mobilenet_v3_large", num_classes=2),
        "TorchvisionVideoModel": dict(name="mc3_18", num_classes=2),
        "UDPHeatmap": dict(input_size=(16, 16), heatmap_size=(4, 4)),
        "UNet": dict(num_classes=2, base_channels=4, depth=2),
    },
    "DATASETS": {
        "BaseCocoStyleDataset": dict(lazy_init=True),
        "BaseDataset": dict(lazy_init=True),
        "BaseDetDataset": dict(lazy_init=True),
        "BaseSegDataset": dict(data_root="none", lazy_init=True),
        "Cityscapes": dict(data_root="none", lazy_init=True),
        "CocoDataset": dict(lazy_init=True),
        "DepthDataset": dict(lazy_init=True),
        "LabelMeDataset": dict(data_root="none", lazy_init=True),
        "LabelMePoseDataset": dict(data_root="none", lazy_init=True),
        "YOLODataset": dict(lazy_init=True),
        "YOLOPoseDataset": dict(ann_file="data.yaml", lazy_init=True),
        "VOCDataset": dict(data_root="none", lazy_init=True),
        "VOCSegmentation": dict(data_root="none", lazy_init=True),
        "ConcatDataset": dict(datasets=[DATA, DATA]),
        "RepeatDataset": dict(dataset=DATA, times=2),
        "ClassBalancedDataset": dict(dataset=DATA, oversample_thr=0.1),
        "ImageFolder": dict(data_root="none", lazy_init=True),
        "CustomDataset": dict(data_root="none", lazy_init=True),
        "ImageNet": dict(data_root="none", lazy_init=True),
        "MultiLabelDataset": dict(lazy_init=True),
        "VOC": dict(data_root="none", lazy_init=True),
        "CocoKeypointDataset": dict(lazy_init=True),
        "MovingShapes": dict(num_samples=2),
        "RawframeDataset": dict(data_root="none", lazy_init=True),
        "Shapes": dict(num_samples=2),
        "TopdownShapes": dict(num_samples=2),
        "VideoDataset": dict(data_root="none", lazy_init=True),
        "MNIST": dict(root="none", lazy_init=True),
        "FashionMNIST": dict(root="none", lazy_init=True),
        "CIFAR10": dict(root="none", lazy_init=True),
        "CIFAR100": dict(root="none", lazy_init=True),
    },
    "DATA_SAMPLERS": {
        "AspectRatioBatchSampler": dict(sampler=None, batch_size=2),
        **{
            name: dict(dataset=None)
            for name in ("ClassAwareSampler", "DefaultSampler", "InfiniteSampler", "RepeatAugSampler")
        },
    },
    "TRANSFORMS": {
        "BatchRandomCrop": dict(padding=2),
        "DenseSampleFrames": dict(clip_len=2),
        "KeepAnnotations": dict(keys=["gt_label"]),
        "RandomApply": dict(transforms=[dict(type="RandomHorizontalFlip")]),
        "RandomChoice": dict(transforms=[dict(type="RandomHorizontalFlip")]),
        "RandomOrder": dict(transforms=[dict(type="RandomHorizontalFlip")]),
        "SampleFrames": dict(clip_len=2),
        "SegRandomCrop": dict(crop_size=8),
        "ThreeCrop": dict(crop_size=8),
        "ToDtype": dict(dtype="float32"),
        "TopdownAffine": dict(input_size=(8, 8)),
        "UniformSample": dict(clip_len=2),
    },
    "METRICS": {
        "DumpResults": dict(out_file_path="out.pkl"),
        "TorchMetric": dict(metric=dict(type="torchmetrics.classification.MulticlassAccuracy", num_classes=2)),
    },
    "EVALUATOR": {"Evaluator": dict(metrics=dict(type="Accuracy"))},
    "HOOKS": {
        "EarlyStoppingHook": dict(monitor="accuracy/top1"),
        "GradientAccumulationScheduleHook": dict(schedule={0: 1, 2: 4}),
        "PipelineSwitchHook": dict(switch_epoch=1, switch_pipeline=[]),
        "PrepareTTAHook": dict(tta_cfg=dict(type="ClassificationTTA")),
        "SwitchHook": dict(target="train_loop.val_interval", value=2, at_epoch=1),
        "TimeLimitHook": dict(max_time=60),
    },
    "WEIGHT_INITIALIZERS": {"Constant": dict(val=0.0, layer="Linear"), "Pretrained": dict(checkpoint="none.pth")},
    "VISBACKENDS": {},
    "VISUALIZERS": {},
    "LOG_PROCESSORS": {},
}
NEEDED = {"TorchMetric": "torchmetrics", "CocoKeypointMetric": "pycocotools"}
NOT_BUILT_ALONE = {
    "ExportedModel": "needs a file",
    **dict.fromkeys(("TimmFeatures", "TimmModel"), "imports timm"),
    "SMPModel": "imports segmentation-models-pytorch",
    **dict.fromkeys((name for name in names("MODELS") if name.startswith("HuggingFace")), "imports transformers"),
    "WandbVisBackend": "logs in when it is first used",
}


SUPPLIED = {"dataset", "sampler", "save_dir", "layer", "optimizer"}
"""Arguments that the tests below pass themselves."""


def buildable(variable: str) -> list[str]:
    """Return the names whose required arguments are known; any other component is built by its own test."""
    found = []
    for name in names(variable):
        parameters, _ = parameters_of(ROOT_REGISTRIES[variable].get(name))
        required = {key for key, parameter in parameters.items() if parameter.default is parameter.empty}
        if name not in NOT_BUILT_ALONE and (name in ARGUMENTS[variable] or required <= SUPPLIED):
            found.append(name)
    return found


@pytest.mark.parametrize(("variable", "name"), [(v, n) for v in ARGUMENTS for n in buildable(v)])
def test_component_is_built(variable: str, name: str, in_tmp: Path) -> None:
    arguments = dict(ARGUMENTS[variable].get(name, {}))
    if variable == "DATA_SAMPLERS" and "dataset" in arguments:
        arguments["dataset"] = ROOT_REGISTRIES["DATASETS"].build(DATA)
    if variable == "VISBACKENDS":
        arguments["save_dir"] = str(in_tmp)
    if variable == "WEIGHT_INITIALIZERS" and name not in ARGUMENTS[variable]:
        arguments["layer"] = "Linear"
    if name in NEEDED:
        pytest.importorskip(NEEDED[name])
    part = ROOT_REGISTRIES[variable].build(dict(type=name, **arguments))
    assert type(part) is ROOT_REGISTRIES[variable].get(name) or not isinstance(
        ROOT_REGISTRIES[variable].get(name), type
    )


@pytest.mark.parametrize("variable", ARGUMENTS)
def test_arguments_are_for_existing_components(variable: str) -> None:
    assert sorted(set(ARGUMENTS[variable]) - set(names(variable))) == []


@pytest.mark.parametrize("name", [n for n in dir(torch.optim) if isinstance(getattr(torch.optim, n), type) and issubclass(getattr(torch.optim, n), torch.optim.Optimizer)])  # fmt: skip
def test_every_optimizer_of_torch_is_registered(name: str) -> None:
    if name != "Optimizer":
        assert ROOT_REGISTRIES["OPTIMIZERS"].get(name) is getattr(torch.optim, name)


SCHEDULES: dict[str, dict[str, Any]] = {
    "Constant": dict(end=4), "CosineAnnealing": dict(T_max=4), "CosineRestart": dict(periods=[8], eta_min=0),
    "Exponential": dict(gamma=0.5), "Linear": dict(end=4), "MultiStep": dict(milestones=[1]),
    "OneCycle": dict(eta_max=1.0, total_steps=8), "Poly": dict(end=4), "ReduceOnPlateau": dict(patience=0),
    "Step": dict(step_size=1),
}  # fmt: skip


@pytest.mark.parametrize("name", [n for n in names("PARAM_SCHEDULERS") if n.startswith(tuple(SCHEDULES))])
def test_every_scheduler_changes_its_value(name: str) -> None:
    kind = name.removesuffix("LR").removesuffix("Momentum").removesuffix("ParamScheduler")
    optimizer = torch.optim.SGD(NET.parameters(), lr=0.1, momentum=0.9)
    key = "momentum" if name.endswith("Momentum") else "lr"
    arguments: dict[str, Any] = dict(SCHEDULES.get(kind, {}))
    if name.endswith("ParamScheduler"):
        arguments["param_name"] = key
    scheduler = ROOT_REGISTRIES["PARAM_SCHEDULERS"].build(dict(type=name, **arguments), optimizer=optimizer)
    values = {optimizer.param_groups[0][key]}
    step: Callable[..., None] = scheduler.step
    for _ in range(4):
        step({"loss": 1.0}) if kind == "ReduceOnPlateau" else step()
        values.add(optimizer.param_groups[0][key])
    assert len(values) > 1


def test_all_image_suffixes_are_supported_everywhere(tmp_path: Path) -> None:
    """The same formats are supported for prediction and for training, from image folders and folders of frames."""
    from inspect import signature

    from PIL import Image

    from trainwright.datasets import ImageFolder
    from trainwright.datasets.transforms import LoadImageFromFile
    from trainwright.datasets.video.readers import FrameFolder
    from trainwright.engine.inference.images import IMAGE_SUFFIXES, list_images

    assert signature(ImageFolder).parameters["extensions"].default == IMAGE_SUFFIXES
    for suffix in IMAGE_SUFFIXES:
        Image.new("RGB" if suffix != ".pgm" else "L", (4, 6), 7).save(tmp_path / f"a{suffix}")
    assert len(list_images(tmp_path)) == len(IMAGE_SUFFIXES) == len(FrameFolder(tmp_path))
    for path in list_images(tmp_path):
        assert tuple(LoadImageFromFile()({"img_path": path})["img"].shape) == (3, 6, 4)
