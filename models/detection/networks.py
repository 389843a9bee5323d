"""Torchvision detectors, built by name or from any backbone."""

import inspect
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from trainwright.engine.errors import ConfigError, did_you_mean
from trainwright.engine.records.logger import get_logger
from trainwright.engine.registry import MODELS
from trainwright.engine.run.model_setup import load_pretrained
from trainwright.models.initializers import load_weights
from trainwright.models.pretrained import build_pretrained

Levels = Sequence[Sequence[float]]

# Torchvision classes of the detectors that can be built from a backbone.
_DETECTOR_CLASSES = {
    "fasterrcnn": "FasterRCNN",
    "maskrcnn": "MaskRCNN",
    "keypointrcnn": "KeypointRCNN",
    "retinanet": "RetinaNet",
    "fcos": "FCOS",
    "ssd": "SSD",
    "ssdlite": "SSD",
}
_EXTRA_LEVELS = {None: 0, "pool": 1, "p6p7": 2}
_WITHOUT_BACKGROUND = ("retinanet", "fcos")
_UNUSED_CATEGORIES = ("__background__", "N/A", "no person")


@MODELS.register_module()
def TorchvisionDetectionModel(
    name: str,
    num_classes: int,
    weights: str | None = None,
    weights_backbone: str | None = None,
    backbone: Mapping[str, Any] | nn.Module | None = None,
    anchor_sizes: Levels | None = None,
    aspect_ratios: Levels | None = None,
    head_channels: int | None = None,
    **kwargs: Any,
) -> nn.Module:
    """Build a torchvision detector.

    Its input is a list of images in [0, 1], which it normalizes, resizes and pads itself.

    Example:
        >>> TorchvisionDetectionModel("retinanet_resnet50_fpn", num_classes=20, weights_backbone="IMAGENET1K_V1")
        >>> TorchvisionDetectionModel("fasterrcnn_resnet50_fpn", num_classes=80, weights="COCO_V1")
        >>> TorchvisionDetectionModel(
        ...     "fcos",
        ...     num_classes=3,
        ...     backbone=dict(
        ...         type="FeaturePyramid",
        ...         body=dict(type="TorchvisionFeatures", name="resnet18", layers=("layer2", "layer3", "layer4")),
        ...     ),
        ...     min_size=320,
        ... )

    Args:
        name: a torchvision builder, such as ``fasterrcnn_resnet50_fpn``, ``maskrcnn_resnet50_fpn_v2``,
            ``keypointrcnn_resnet50_fpn``, ``retinanet_resnet50_fpn``, ``fcos_resnet50_fpn``, ``ssd300_vgg16`` or
            ``ssdlite320_mobilenet_v3_large``; or, with a custom ``backbone``, ``fasterrcnn``, ``maskrcnn``,
            ``keypointrcnn``, ``retinanet``, ``fcos``, ``ssd`` or ``ssdlite``.
        num_classes: number of classes, without background.
        weights: for a builder, ``DEFAULT`` or another name of torchvision weights, which are downloaded; or a
            checkpoint file. Layers that do not fit, such as the last ones for a different number of classes, are
            skipped and logged. For COCO's 80 classes, the outputs for these are selected from torchvision's 91.
        weights_backbone: for a builder, name of torchvision's classification weights for the backbone, which are
            downloaded. With these or with named ``weights``, batch normalization and the first layers are frozen as in
            torchvision (``trainable_backbone_layers``).
        backbone: module or config; returns a dict of feature maps from fine to coarse, such as ``FeaturePyramid``.
        anchor_sizes: for a custom ``backbone``, sizes of the anchors on each level, in pixels. The defaults are 8 times
            the stride for R-CNNs; 4, 4 * 2^(1/3) and 4 * 2^(2/3) times the stride for RetinaNet; and the stride for
            FCOS, which uses it as the size of a point. SSD uses ``scales`` instead, fractions of the image size, one
            more than there are levels.
        aspect_ratios: for a custom ``backbone``, ratios of height to width on each level. The defaults are 1/2, 1 and 2
            for R-CNNs and RetinaNet, 1 for FCOS, and 2 and 3 for SSD, which adds their inverses and 1.
        head_channels: for a custom ``backbone``, width of the layers of an R-CNN's heads; torchvision's (1024 for
            boxes, 256 for masks, 512 for keypoints) if None.
        **kwargs: further arguments of the torchvision function or class, such as ``min_size``, ``max_size`` or
            ``box_detections_per_img``; ``size``, (height, width), is required for an SSD with a custom backbone.

    Raises:
        ConfigError: torchvision has no such detector, or the arguments are inconsistent.
    """
    from torchvision import models

    builders = models.list_models(module=models.detection)
    if name not in builders and name not in _DETECTOR_CLASSES:
        known = [*_DETECTOR_CLASSES, *builders]
        hint = did_you_mean(name, known) or f"the detectors are {', '.join(known)}"
        raise ConfigError("name", f"torchvision has no detector {name!r}", hint)
    outputs = num_classes + (name.partition("_")[0] not in _WITHOUT_BACKGROUND)
    if name in builders:
        for argument, value in (
            ("backbone", backbone), ("anchor_sizes", anchor_sizes), ("aspect_ratios", aspect_ratios),
            ("head_channels", head_channels),
        ):  # fmt: skip
            if value is not None:
                raise ConfigError(
                    argument, f"{name} has its own", f"use name={name.partition('_')[0]!r} with a backbone"
                )
        if weights is not None and weights_backbone is not None:
            raise ConfigError("weights_backbone", "is included in weights", "remove one of them")
        build = partial(_from_builder, name, outputs, weights, weights_backbone, kwargs)
        return build_pretrained(build, partial(_build_without_download, build))
    if backbone is None:
        hint = "set backbone=dict(type='FeaturePyramid', ...), or use a torchvision builder: "
        raise ConfigError("backbone", f"is required for {name}", hint + ", ".join(builders))
    if weights_backbone is not None:
        raise ConfigError("weights_backbone", "is only for torchvision's builders", "set weights in the backbone")
    module: nn.Module = MODELS.build(backbone)
    model = _assemble(name, module, outputs, anchor_sizes, aspect_ratios, head_channels, kwargs)
    if weights is not None:
        load_pretrained(model, lambda detector: load_weights(detector, _read_weights(weights), weights))
    return model


@MODELS.register_module()
class FeaturePyramid(nn.Module):
    """A detection backbone with a feature pyramid network (Lin et al. 2017), https://arxiv.org/abs/1612.03144.

    It returns a dict of feature maps with ``out_channels`` channels each, from fine to coarse, named ``0``, ``1``, …,
    followed by the extra levels.

    Args:
        body: module or config; returns a tuple of feature maps from fine to coarse, such as ``TorchvisionFeatures`` or
            ``TimmFeatures``.
        out_channels: channels of each level; a multiple of 32 for FCOS.
        extra_levels: ``pool`` adds the coarsest level subsampled by 2, as in Faster R-CNN; ``p6p7`` adds two levels by
            strided convolutions of the body's coarsest feature map, as in RetinaNet; None adds none.

    Raises:
        ConfigError: an unknown ``extra_levels``.
    """

    def __init__(
        self, body: Mapping[str, Any] | nn.Module, out_channels: int = 256, extra_levels: str | None = None
    ) -> None:
        from torchvision.ops.feature_pyramid_network import (
            FeaturePyramidNetwork,
            LastLevelMaxPool,
            LastLevelP6P7,
        )

        super().__init__()
        self.body: nn.Module = MODELS.build(body)
        channels, strides = _channels_and_strides(self.body)
        if extra_levels not in _EXTRA_LEVELS:
            raise ConfigError("extra_levels", f"must be 'pool', 'p6p7' or None, not {extra_levels!r}")
        extra: Any = None
        if extra_levels is not None:
            extra = LastLevelMaxPool() if extra_levels == "pool" else LastLevelP6P7(channels[-1], out_channels)
        self.fpn = FeaturePyramidNetwork(channels, out_channels, extra)
        self.out_channels = out_channels
        strides += [strides[-1] * 2 ** (1 + level) for level in range(_EXTRA_LEVELS[extra_levels])]
        self.feature_channels, self.feature_strides = [out_channels] * len(strides), strides

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Return the feature maps by name.

        Args:
            images: float, of shape (N, C, H, W).
        """
        levels = {str(index): level for index, level in enumerate(self.body(images))}
        pyramid: dict[str, Tensor] = self.fpn(OrderedDict(levels))
        return pyramid


def _from_builder(
    name: str, outputs: int, weights: str | None, weights_backbone: str | None, kwargs: dict[str, Any]
) -> nn.Module:
    from torchvision import models

    if weights is None or not _is_weights_name(name, weights):
        model: nn.Module = models.get_model(
            name, weights=None, weights_backbone=weights_backbone, num_classes=outputs, **kwargs
        )
        if weights is not None:
            load_pretrained(model, lambda detector: load_weights(detector, _read_weights(weights), weights))
        return model
    entry = models.get_model_weights(name)[weights]
    freezing = {key: kwargs[key] for key in ("trainable_backbone_layers",) if key in kwargs}
    pretrained: Any = models.get_model(name, weights=entry, **freezing)
    model = models.get_model(
        name, weights=None, weights_backbone=None, num_classes=outputs,
        **{key: value for key, value in kwargs.items() if key not in freezing},
    )  # fmt: skip
    model.backbone = pretrained.backbone  # with its frozen layers
    state = pretrained.state_dict()
    categories = entry.meta["categories"]
    used = [index for index, category in enumerate(categories) if category not in _UNUSED_CATEGORIES]
    kept = used if outputs == len(used) else [0, *used]
    if outputs == len(kept) < len(categories):
        state = _select_classes(state, model.state_dict(), kept, len(categories))
        get_logger().info(
            "%s: selected the outputs of %d classes from the %d outputs of %s",
            name,
            len(used),
            len(categories),
            weights,
        )
    load_weights(model, state, weights)
    return model


def _build_without_download(build: Callable[[], nn.Module]) -> nn.Module:
    """Build a network with the layers that torchvision uses with pretrained weights, but with random weights."""
    from torchvision import models
    from torchvision.models import WeightsEnum

    def random_state(weights: Any, *args: Any, **kwargs: Any) -> Mapping[str, Any]:
        name = next(name for name in models.list_models() if models.get_model_weights(name) is type(weights))
        takes_backbone = "weights_backbone" in inspect.signature(models.get_model_builder(name)).parameters
        no_weights = {"weights": None, **({"weights_backbone": None} if takes_backbone else {})}
        state: Mapping[str, Any] = models.get_model(name, **no_weights).state_dict()
        return state

    download = WeightsEnum.get_state_dict
    WeightsEnum.get_state_dict = random_state
    try:
        return build()
    finally:
        WeightsEnum.get_state_dict = download


def _is_weights_name(name: str, weights: str) -> bool:
    """Return whether ``weights`` is a name of torchvision weights rather than a file.

    Raises:
        ConfigError: ``weights`` looks like a name, but torchvision has no such weights.
    """
    from torchvision.models import get_model_weights

    known = get_model_weights(name).__members__
    if weights in known:
        return True
    if weights.isupper():
        raise ConfigError("weights", f"{name} has no weights {weights!r}", f"its weights are {', '.join(known)}")
    return False


def _select_classes(
    weights: Mapping[str, Tensor], own: Mapping[str, Tensor], classes: Sequence[int], num_classes: int
) -> dict[str, Tensor]:
    """Return the weights, reduced to some of the classes in layers with per-class outputs.

    Args:
        weights: weights of a detector with ``num_classes`` classes.
        own: weights of the same detector with ``len(classes)`` classes.
        classes: indices of the classes to keep.
        num_classes: number of classes in ``weights``.
    """
    selected = dict(weights)
    for key, value in weights.items():
        if key not in own or own[key].shape == value.shape:
            continue
        # The rows of a layer are grouped by class for the boxes of an R-CNN, otherwise by anchor.
        if "box_predictor.bbox_pred" in key:
            selected[key] = value.reshape(num_classes, -1, *value.shape[1:])[list(classes)].flatten(0, 1)
        else:
            selected[key] = value.reshape(-1, num_classes, *value.shape[1:])[:, list(classes)].flatten(0, 1)
    return selected


def _read_weights(weights: str) -> Mapping[str, Tensor]:
    from trainwright.engine.checkpoints.files import get_state_dict, load_checkpoint_file

    return get_state_dict(load_checkpoint_file(weights))


def _assemble(
    name: str,
    backbone: nn.Module,
    outputs: int,
    anchor_sizes: Levels | None,
    aspect_ratios: Levels | None,
    head_channels: int | None,
    kwargs: dict[str, Any],
) -> nn.Module:
    """Build a detector with a custom backbone."""
    from torchvision.models import detection
    from torchvision.models.detection.anchor_utils import AnchorGenerator

    channels, strides = _channels_and_strides(backbone)
    is_bare = not hasattr(backbone, "out_channels")  # a tuple of feature maps of several widths
    if is_bare and (not name.startswith("ssd") or hasattr(backbone, "feature_channels")):
        hint = "wrap it in dict(type='FeaturePyramid', body=...)"
        raise ConfigError("backbone", f"{name} requires out_channels, the same for all levels", hint)
    if name.startswith("ssd"):
        return _assemble_ssd(name, backbone, channels, outputs, aspect_ratios, kwargs)
    build = getattr(detection, _DETECTOR_CLASSES[name])
    if anchor_sizes is None:
        factors = {"fcos": (1.0,), "retinanet": (4.0, 4 * 2 ** (1 / 3), 4 * 2 ** (2 / 3))}.get(name, (8.0,))
        anchor_sizes = [[factor * stride for factor in factors] for stride in strides]
    ratios = aspect_ratios or [(1.0,) if name == "fcos" else (0.5, 1.0, 2.0)] * len(anchor_sizes)
    for argument, values in (("anchor_sizes", anchor_sizes), ("aspect_ratios", ratios)):
        if len(values) != len(strides):
            raise ConfigError(
                argument, f"must have one item per level of the backbone: {len(strides)}, not {len(values)}"
            )
    anchors = AnchorGenerator(tuple(map(tuple, anchor_sizes)), tuple(map(tuple, ratios)))
    if name in _WITHOUT_BACKGROUND:
        if head_channels is not None:
            raise ConfigError("head_channels", f"the heads of {name} have the width of the feature pyramid")
        return build(backbone, outputs, anchor_generator=anchors, **kwargs)  # type: ignore[no-any-return]
    if head_channels is not None:
        kwargs = {**_heads_of_width(name, backbone.out_channels, outputs, head_channels, kwargs), **kwargs}
        outputs = None  # type: ignore[assignment]  # must be None if a predictor is passed
    return build(backbone, outputs, rpn_anchor_generator=anchors, **kwargs)  # type: ignore[no-any-return]


def _heads_of_width(name: str, in_channels: Any, outputs: int, width: int, kwargs: dict[str, Any]) -> dict[str, Any]:
    """Return the heads of an R-CNN with layers of the given width."""
    from torchvision.models.detection import faster_rcnn, keypoint_rcnn, mask_rcnn

    heads: dict[str, Any] = {
        "box_head": faster_rcnn.TwoMLPHead(in_channels * 7 * 7, width),
        "box_predictor": faster_rcnn.FastRCNNPredictor(width, outputs),
    }
    if name == "maskrcnn":
        heads["mask_head"] = mask_rcnn.MaskRCNNHeads(in_channels, (width,) * 4, 1)
        heads["mask_predictor"] = mask_rcnn.MaskRCNNPredictor(width, width, outputs)
    if name == "keypointrcnn":
        heads["keypoint_head"] = keypoint_rcnn.KeypointRCNNHeads(in_channels, (width,) * 8)
        heads["keypoint_predictor"] = keypoint_rcnn.KeypointRCNNPredictor(width, kwargs.pop("num_keypoints", 17))
    return heads


def _assemble_ssd(
    name: str,
    backbone: nn.Module,
    channels: list[int],
    outputs: int,
    aspect_ratios: Levels | None,
    kwargs: dict[str, Any],
) -> nn.Module:
    from torchvision.models.detection.anchor_utils import DefaultBoxGenerator
    from torchvision.models.detection.ssd import SSD, SSDHead
    from torchvision.models.detection.ssdlite import SSDLiteHead

    if "size" not in kwargs:
        raise ConfigError("size", f"{name} resizes all images to one size", "set size=(height, width)")
    height, width = kwargs.pop("size")
    ratios = aspect_ratios or [(2, 3)] * len(channels)
    if len(ratios) != len(channels):
        raise ConfigError(
            "aspect_ratios", f"must have one item per level of the backbone: {len(channels)}, not {len(ratios)}"
        )
    boxes = DefaultBoxGenerator([list(level) for level in ratios], scales=kwargs.pop("scales", None))
    anchors = boxes.num_anchors_per_location()
    head = (
        SSDLiteHead(channels, anchors, outputs, nn.BatchNorm2d)
        if name == "ssdlite"
        else SSDHead(channels, anchors, outputs)
    )
    network: nn.Module = SSD(backbone, boxes, (width, height), outputs, head=head, **kwargs)
    return network


_PROBED_SIZE = 256


@torch.no_grad()
def _channels_and_strides(module: Any) -> tuple[list[int], list[int]]:
    """Return the channels and strides of feature maps: as declared, or else as those of a black square image are."""
    if hasattr(module, "feature_channels") and hasattr(module, "feature_strides"):
        return list(module.feature_channels), list(module.feature_strides)
    training = module.training
    maps = module.eval()(torch.zeros(1, 3, _PROBED_SIZE, _PROBED_SIZE))
    module.train(training)
    levels = list(maps.values() if isinstance(maps, Mapping) else [maps] if isinstance(maps, Tensor) else maps)
    return [level.shape[1] for level in levels], [_PROBED_SIZE // level.shape[-1] for level in levels]
