"""One recipe per task, for a few hundred images and few minutes."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from trainwright.tools.new.data import Found
from trainwright.tools.new.images import ImageSummary
from trainwright.tools.new.python_text import Name, python_text
from trainwright.tools.new.weights import Weights

_IMAGENET = ("[123.675, 116.28, 103.53]", "[58.395, 57.12, 57.375]")


def _classification(task: str, found: Found, images: ImageSummary, weights: Weights | None) -> dict[str, Any]:
    number, multilabel = len(found.classes), task == "multilabel"
    gray = images.gray and weights is None
    mean, std = _statistics(images, weights)
    if weights:
        size = 224
        head = '\n    head=dict(type="MultiLabelClsHead"),' if multilabel else ""
        model = f'''model = dict(
    type="ImageClassifier",
    backbone=dict(type="TorchvisionModel", name="{weights.name}", weights={python_text(weights.weights)}),
    num_classes={number},{head}
)'''
    else:
        size = next((size for limit, size in ((32, 48), (128, 64), (224, 96)) if images.short_side <= limit), 128)
        head = "MultiLabelLinearClsHead" if multilabel else "LinearClsHead"
        model = f'''model = dict(
    type="ImageClassifier",
    # The first three quarters of a ResNet-18. For more data: layers="layer4" and in_channels=512.
    backbone=dict(type="TorchvisionFeatures", name="resnet18", layers="layer3"{", in_channels=1" if gray else ""}),
    neck=dict(type="GlobalAveragePooling"),
    head=dict(type="{head}", num_classes={number}, in_channels=256),
)'''
    model += f'\ndata_preprocessor = dict(type="ClsDataPreprocessor", mean={mean}, std={std})'
    load = _load(images, gray)
    scale = "(0.5, 1.0)" if weights or multilabel else "(0.6, 1.0)"
    return {
        "model": model,
        "train_pipeline": f'''{load}
    dict(type="RandomResizedCrop", size={size}, scale={scale}, antialias=True),
    dict(type="RandomHorizontalFlip"),  # remove it if a mirrored image has another class, such as a digit
    dict(type="PackInputs"),''',
        "test_pipeline": f'''{load}
    dict(type="Resize", size=[{size}, {size}]),
    dict(type="PackInputs"),''',
        "batch_size": 16, "val_batch_size": 32, "passes": 4000 if weights else 5000,
        "evaluator": 'dict(type="AveragePrecision")' if multilabel else 'dict(type="Accuracy")',
        "metric": "multi-label/mAP" if multilabel else "accuracy/top1", "rate": "1e-4" if weights else "2e-3",
        "new_layers": ["backbone.classifier" if weights and "mobilenet" in weights.name else "backbone.fc"],
    }  # fmt: skip


def _detection(task: str, found: Found, images: ImageSummary, weights: Weights | None) -> dict[str, Any]:
    masks = task == "instance_segmentation"
    with_mask = ", with_mask=True" if masks else ""
    number = len(found.classes)
    if weights:
        side = min(max(images.short_side, 320), 800)
        size = f"\n        min_size={side},  # images are resized to this shorter side"
        model = _pretrained("TorchvisionDetector", "TorchvisionDetectionModel", number, weights, size)
    else:
        model = _small_detector(masks, number, found, images)
    load = f'{_load(images, False)}\n    dict(type="LoadAnnotations"{with_mask}),'
    heads = {"fc": "network.head", "re": "network.head", "ma": "network.roi_heads", "fa": "network.roi_heads"}
    return {
        "model": model,
        "train_pipeline": f'''{load}
    dict(type="RandomHorizontalFlip"),
    # dict(type="RandomVerticalFlip"),  # for images without up and down, such as those from the air
    dict(type="PackInputs"),''',
        "test_pipeline": f'{load}\n    dict(type="PackInputs"),',
        "batch_size": 4 if weights else 8, "val_batch_size": 8, "passes": 3000 if weights else 4000,
        "evaluator": f'dict(type="CocoMetric", metric={["segm", "bbox"] if masks else "bbox"!r})'.replace("'", '"'),
        "metric": f"coco/{'segm' if masks else 'bbox'}_mAP_50", "rate": "5e-5" if weights else "3e-3",
        "new_layers": [heads.get(weights.name[:2], "network.head")] if weights else [],
    }  # fmt: skip


def _small_detector(masks: bool, number: int, found: Found, images: ImageSummary) -> str:
    height, width = images.typical
    short = min(height, width)
    sides = [math.sqrt(max(w * width * h * height, 1)) for w, h in found.box_sizes] or [short / 4]
    small = float(np.percentile(sides, 10)) / short
    # Boxes of a tenth of all instances are smaller than 16 pixels, unless the images would become large.
    side = int(min(max(96, min(short, 160), 16 / max(small, 1e-3)), 320) // 32 * 32)
    levels = ("features.3", "features.6", "features.13") if masks else ("features.6", "features.13")
    strides = "4, 8 and 16" if masks else "8 and 16"
    extra = ""
    if masks:
        shares = ((20, 0.7), (50, 1), (85, 1.4))
        scaled = [float(np.percentile(sides, share)) * factor * side / short for share, factor in shares]
        anchors = ", ".join(f"[{max(8, round(size))}]" for size in scaled)
        extra = f"""
        anchor_sizes=[{anchors}],  # sizes of small, medium and large objects in the resized image
        head_channels=64,
        rpn_pre_nms_top_n_train=200,
        rpn_pre_nms_top_n_test=200,
        rpn_post_nms_top_n_train=100,
        rpn_post_nms_top_n_test=50,
        rpn_batch_size_per_image=64,
        box_batch_size_per_image=32,"""
    return f'''model = dict(
    type="TorchvisionDetector",
    network=dict(
        type="TorchvisionDetectionModel",
        name="{"maskrcnn" if masks else "fcos"}",
        num_classes={number},
        backbone=dict(
            type="FeaturePyramid",
            # Strides {strides}. For more data: width_mult=1.0 and out_channels=256.
            body=dict(
                type="TorchvisionFeatures",
                name="mobilenet_v2",
                width_mult=0.5,
                layers={python_text(levels)},
            ),
            out_channels=64,
        ),
        min_size={side},  # images are resized to this shorter side; larger finds smaller objects, but is slower
        max_size={side * 2},{extra}
    ),
)'''


def _pose(task: str, found: Found, images: ImageSummary, weights: Weights | None) -> dict[str, Any]:
    number = len(found.keypoints)
    height, width = images.typical
    ratios = [w * width / max(h * height, 1e-6) for w, h in found.box_sizes] or [1.0]
    ratio = float(np.clip(np.median(ratios), 0.5, 2.0))
    area = (192 * 256 if weights else 64 * 64) * (2.25 if not weights and number > 12 else 1)
    step = 32
    size = tuple(max(step, round(math.sqrt(area * one) / step) * step) for one in (ratio, 1 / ratio))
    heatmap = (size[0] // 4, size[1] // 4)
    sigma = 2 if weights else 1
    if weights:
        channels = 512 if weights.name == "resnet18" else 2048
        backbone = f'name="{weights.name}", layers="layer4", weights={python_text(weights.weights)}'
        deconv = ""
    else:
        channels, backbone = 128, 'name="resnet18", layers="layer2"'
        deconv = "\n        deconv_out_channels=(64,),\n        deconv_kernel_sizes=(4,),"
    mean, std = _statistics(images, weights, gray=False)
    mirrored = found.flip_indices != list(range(number))
    flip = '    dict(type="RandomFlip"),\n' if mirrored else (
        "    # No RandomFlip: no keypoints are named left and right. Set flip_indices above to use it.\n"
    )  # fmt: skip
    model = f"""input_size = {size}  # width and height of the crops of instances, multiples of {step}
model = dict(
    type="TopdownPoseEstimator",
    backbone=dict(type="TorchvisionFeatures", {backbone}),
    head=dict(
        type="HeatmapHead",
        in_channels={channels},
        out_channels={number},{deconv}
        codec=dict(type="MSRAHeatmap", input_size=input_size, heatmap_size={heatmap}, sigma={sigma}, unbiased=True),
    ),
    test_cfg=dict(flip_test={mirrored}),
    flip_indices=flip_indices,
)
data_preprocessor = dict(type="PoseDataPreprocessor", mean={mean}, std={std})"""
    found.metainfo["flip_indices"] = Name("flip_indices")
    return {
        "model": model,
        "train_pipeline": f'''{_load(images, False)}
    dict(type="GetBBoxCenterScale"),
    dict(type="RandomBBoxTransform", scale_factor=(0.75, 1.25), rotate_factor=40, rotate_prob=0.6),
    dict(type="TopdownAffine", input_size=input_size),
{flip}    dict(type="PackInputs"),''',
        "test_pipeline": f'''{_load(images, False)}
    dict(type="GetBBoxCenterScale"),
    dict(type="TopdownAffine", input_size=input_size),
    dict(type="PackInputs"),''',
        "batch_size": 16, "val_batch_size": 32, "passes": 2500 if weights else 5000,
        "evaluator": 'dict(type="PCKAccuracy", thr=0.1)  # within a tenth of the longer side of the box',
        "metric": "pose/PCK", "rate": "1e-4" if weights else "2e-3", "new_layers": ["head"],
    }  # fmt: skip


def _segmentation(task: str, found: Found, images: ImageSummary, weights: Weights | None) -> dict[str, Any]:
    gray = images.gray and weights is None
    mean, std = _statistics(images, weights)
    number = len(found.classes)
    if weights:
        model = _pretrained("SemanticSegmentor", "TorchvisionSegmentationModel", number, weights)
    else:
        channels = ", in_channels=1" if gray else ""
        model = f"""model = dict(
    type="SemanticSegmentor",
    # For more data: base_channels=64 and depth=5.
    network=dict(type="UNet", num_classes={number}{channels}, base_channels=16, depth=4),
    loss=[dict(type="SegCrossEntropyLoss"), dict(type="DiceLoss")],
)"""
    model += f'\ndata_preprocessor = dict(type="SegDataPreprocessor", mean={mean}, std={std})'
    largest = 520 if weights else 256
    side = images.short_side
    resize = ""
    if side > largest or (len(set(images.sizes)) > 1 and side > 64):
        side = min(side, largest)
        resize = f'    dict(type="Resize", size={side}),  # the shorter side\n'
    crop = min(side, 320 if weights else 96) // 16 * 16 or 16
    load = _load(images, gray)
    return {
        "model": model,
        "train_pipeline": f'''{load}
    dict(type="LoadSegMap"),
{resize}    dict(type="SegRandomCrop", crop_size={crop}),
    dict(type="RandomHorizontalFlip"),
    dict(type="PackInputs"),''',
        "test_pipeline": f'''{load}
{resize}    dict(type="LoadSegMap"),  # after a resize: predictions are measured at the size of the files
    dict(type="PackInputs"),''',
        "batch_size": 8, "val_batch_size": 1 if resize else 8, "passes": 2000 if weights else 3000,
        "evaluator": 'dict(type="IoUMetric")', "metric": "seg/mIoU", "rate": "1e-4" if weights else "5e-3",
        "new_layers": ["classifier"],
    }  # fmt: skip


def _video(task: str, found: Found, images: ImageSummary, weights: Weights | None) -> dict[str, Any]:
    number = len(found.classes)
    if weights:
        mean, std = "[110.201, 100.640, 95.995]", "[58.148, 56.470, 55.332]"
        name = f'type="TorchvisionVideoModel", name="{weights.name}", weights={python_text(weights.weights)}'
        resize, crop, length = (128, 171), 112, 16
    else:
        mean, std = "[114, 114, 114]", "[57, 57, 57]"
        name = 'type="SmallC3D", base_channels=16, depth=3'
        resize, crop, length = (64, 64), 56, 8
    model = f'''model = dict(type="Recognizer3D", backbone=dict({name}, num_classes={number}))
data_preprocessor = dict(type="ActionDataPreprocessor", mean={mean}, std={std})
inferencer_type = "ActionRecogInferencer"'''
    tail = '    dict(type="FormatShape"),\n    dict(type="PackInputs"),'
    return {
        "model": model,
        "train_pipeline": f'''    dict(type="PyAVInit"),
    dict(type="UniformSample", clip_len={length}),
    dict(type="PyAVDecode"),
    dict(type="Resize", size={resize}),
    dict(type="RandomCrop", size={crop}),
    # dict(type="RandomHorizontalFlip"),  # if left and right do not matter
{tail}''',
        "test_pipeline": f'''    dict(type="PyAVInit"),
    dict(type="UniformSample", clip_len={length}, test_mode=True),
    dict(type="PyAVDecode"),
    dict(type="Resize", size={resize}),
    dict(type="CenterCrop", size={crop}),
{tail}''',
        "batch_size": 8, "val_batch_size": 8, "passes": 1500 if weights else 3000,
        "evaluator": 'dict(type="Accuracy")', "metric": "accuracy/top1", "rate": "1e-4" if weights else "4e-3",
        "new_layers": ["backbone.fc"],
    }  # fmt: skip


def _pretrained(kind: str, network: str, number: int, weights: Weights, extra: str = "") -> str:
    return f'''model = dict(
    type="{kind}",
    network=dict(
        type="{network}",
        name="{weights.name}",
        num_classes={number},
        weights={python_text(weights.weights)},{extra}
    ),
)'''


def _statistics(images: ImageSummary, weights: Weights | None, gray: bool = True) -> tuple[str, str]:
    """Return mean and standard deviation of the channels, as text: of ImageNet for pretrained weights."""
    if weights or not images.mean:
        return _IMAGENET
    repeat = 3 if images.gray and not gray else 1
    return python_text(images.mean * repeat), python_text(images.std * repeat)


def _load(images: ImageSummary, gray: bool) -> str:
    arguments = 'type="LoadImageFromFile"'
    if gray:
        arguments += ', color_type="grayscale"'
    if images.deep is not None:
        low, high = images.deep
        comment = "    # Values of more than 8 bits, of which this range becomes 0 to 255."
        return f"{comment}\n    dict({arguments}, value_range=({low:g}, {high:g})),"
    return f"    dict({arguments}),"


RECIPES: dict[str, Callable[[str, Found, ImageSummary, Weights | None], dict[str, Any]]] = {
    "classification": _classification, "multilabel": _classification, "detection": _detection,
    "instance_segmentation": _detection, "pose": _pose, "segmentation": _segmentation, "video": _video,
}  # fmt: skip
