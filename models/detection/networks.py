"""Detectors of torchvision: by name, or put together from any backbone."""

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

# What is put together from a backbone, and the class in torchvision.
_ARCHITECTURES = {
    "fasterrcnn": "FasterRCNN",
    "maskrcnn": "MaskRCNN",
    "keypointrcnn": "KeypointRCNN",
    "retinanet": "RetinaNet",
    "fcos": "FCOS",
    "ssd": "SSD",
    "ssdlite": "SSD",
}
_NO_BACKGROUND = ("retinanet", "fcos")
_NO_CATEGORY = ("__background__", "N/A", "no person")


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
    """Return a detector of torchvision.

    It takes a list of images from 0 to 1, and normalizes, resizes and pads them itself.

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
        name: one of torchvision's builders, such as ``fasterrcnn_resnet50_fpn``, ``maskrcnn_resnet50_fpn_v2``,
            ``keypointrcnn_resnet50_fpn``, ``retinanet_resnet50_fpn``, ``fcos_resnet50_fpn``, ``ssd300_vgg16`` or
            ``ssdlite320_mobilenet_v3_large``; or, with a ``backbone`` of one's own, ``fasterrcnn``, ``maskrcnn``,
            ``keypointrcnn``, ``retinanet``, ``fcos``, ``ssd`` or ``ssdlite``.
        num_classes: number of classes, without background.
        weights: ``DEFAULT`` or another name of torchvision's weights for a builder, which are downloaded, or a
            checkpoint file. Layers that do not fit, such as the last ones for another number of classes, are reported
            and left out; with COCO's 80 classes those of them are taken that belong to the 80 of torchvision's 91.
        weights_backbone: name of torchvision's weights of a builder's backbone as a classifier, which are downloaded.
            With these, as with named ``weights``, batch normalization and the first layers are frozen as torchvision
            does (``trainable_backbone_layers``).
        backbone: module or config of one that gives a dict of feature maps from fine to coarse, such as
            ``FeaturePyramid``.
        anchor_sizes: for a ``backbone`` of one's own, sizes of the anchors on each level, in pixels; by default 8 times
            the stride for the R-CNNs, 4 times and two between this and the double for RetinaNet, and the stride, which
            FCOS calls the size of a point. SSD has ``scales`` instead, shares of the image, one more than levels.
        aspect_ratios: likewise the ratios of height and width; by default 1/2, 1 and 2, for FCOS 1; for SSD 2 and 3
            beside 1, and their inverse.
        head_channels: for a ``backbone`` of one's own, width of the layers of an R-CNN's heads; torchvision's (1024 for
            boxes, 256 for masks, 512 for keypoints) if None.
        **kwargs: further arguments of torchvision's function or class, such as ``min_size``, ``max_size``,
            ``box_detections_per_img``; ``size``, (height, width), for an SSD of one's own.

    Raises:
        ConfigError: torchvision has no such detector, or the arguments do not belong together.
    """
    from torchvision import models

    builders = models.list_models(module=models.detection)
    if name not in builders and name not in _ARCHITECTURES:
        known = [*_ARCHITECTURES, *builders]
        hint = did_you_mean(name, known) or f"there are {', '.join(known)}"
        raise ConfigError("name", f"torchvision has no detector {name!r}", hint)
    outputs = num_classes + (name.partition("_")[0] not in _NO_BACKGROUND)
    if name in builders:
        for argument, value in (
            ("backbone", backbone), ("anchor_sizes", anchor_sizes), ("aspect_ratios", aspect_ratios),
            ("head_channels", head_channels),
        ):  # fmt: skip
            if value is not None:
                raise ConfigError(
                    argument, f"{name} has its own", f"take name={name.partition('_')[0]!r}, and give a backbone"
                )
        if weights is not None and weights_backbone is not None:
            raise ConfigError("weights_backbone", "is contained in weights", "leave one of them out")
        build = partial(_from_builder, name, outputs, weights, weights_backbone, kwargs)
        return build_pretrained(build, partial(_without_fetching, build))
    if backbone is None:
        hint = "give backbone=dict(type='FeaturePyramid', ...), or the name of one of torchvision's builders: "
        raise ConfigError("backbone", f"is needed for {name}", hint + ", ".join(builders))
    if weights_backbone is not None:
        raise ConfigError("weights_backbone", "belongs to torchvision's builders", "give the weights to the backbone")
    module: nn.Module = MODELS.build(backbone)
    model = _assemble(name, module, outputs, anchor_sizes, aspect_ratios, head_channels, kwargs)
    if weights is not None:
        load_pretrained(model, lambda detector: load_weights(detector, _weights_file(weights), weights))
    return model


@MODELS.register_module()
class FeaturePyramid(nn.Module):
    """A backbone with a feature pyramid (Lin et al. 2017), https://arxiv.org/abs/1612.03144, for a detector.

    It returns a dict of feature maps with ``out_channels`` channels each, from fine to coarse: ``0``, ``1``, …, and
    those of the extra levels.

    Args:
        body: module or config of one that gives a tuple of feature maps from fine to coarse, such as
            ``TorchvisionFeatures``.
        out_channels: channels of each level; a multiple of 32 for FCOS.
        extra_levels: ``pool`` adds a level that is the coarsest one, subsampled by 2, as in Faster R-CNN; ``p6p7`` two
            levels by strided convolutions of the body's coarsest map, as in RetinaNet; None adds none.

    Raises:
        ConfigError: an unknown name in ``extra_levels``.
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
        channels = [level.shape[1] for level in _probe(self.body)]
        if extra_levels not in (None, "pool", "p6p7"):
            raise ConfigError("extra_levels", f"must be 'pool', 'p6p7' or None, not {extra_levels!r}")
        extra: Any = None
        if extra_levels is not None:
            extra = LastLevelMaxPool() if extra_levels == "pool" else LastLevelP6P7(channels[-1], out_channels)
        self.fpn = FeaturePyramidNetwork(channels, out_channels, extra)
        self.out_channels = out_channels

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

    if weights is None or not _is_name(name, weights):
        model: nn.Module = models.get_model(
            name, weights=None, weights_backbone=weights_backbone, num_classes=outputs, **kwargs
        )
        if weights is not None:
            load_pretrained(model, lambda detector: load_weights(detector, _weights_file(weights), weights))
        return model
    entry = models.get_model_weights(name)[weights]
    frozen = {key: kwargs[key] for key in ("trainable_backbone_layers",) if key in kwargs}
    trained: Any = models.get_model(name, weights=entry, **frozen)
    model = models.get_model(
        name, weights=None, weights_backbone=None, num_classes=outputs,
        **{key: value for key, value in kwargs.items() if key not in frozen},
    )  # fmt: skip
    model.backbone = trained.backbone  # with its frozen layers
    state = trained.state_dict()
    categories = entry.meta["categories"]
    rows = [index for index, category in enumerate(categories) if category not in _NO_CATEGORY]
    kept = rows if outputs == len(rows) else [0, *rows]
    if outputs == len(kept) < len(categories):
        state = _rows_of_classes(state, model.state_dict(), kept, len(categories))
        get_logger().info(
            "%s: of the %d outputs of %s the %d of its classes are taken", name, len(categories), weights, len(rows)
        )
    load_weights(model, state, weights)
    return model


def _without_fetching(build: Callable[[], nn.Module]) -> nn.Module:
    """Build a network with the layers that torchvision chooses for pretrained weights, but with random values."""
    from torchvision import models
    from torchvision.models import WeightsEnum

    def random_state(weights: Any, *args: Any, **kwargs: Any) -> Mapping[str, Any]:
        name = next(name for name in models.list_models() if models.get_model_weights(name) is type(weights))
        takes_backbone = "weights_backbone" in inspect.signature(models.get_model_builder(name)).parameters
        no_weights = {"weights": None, **({"weights_backbone": None} if takes_backbone else {})}
        state: Mapping[str, Any] = models.get_model(name, **no_weights).state_dict()
        return state

    fetching = WeightsEnum.get_state_dict
    WeightsEnum.get_state_dict = random_state
    try:
        return build()
    finally:
        WeightsEnum.get_state_dict = fetching


def _is_name(name: str, weights: str) -> bool:
    """Tell a name of torchvision's weights from a file.

    Raises:
        ConfigError: it looks like a name, and there is none such.
    """
    from torchvision.models import get_model_weights

    known = get_model_weights(name).__members__
    if weights in known:
        return True
    if weights.isupper():
        raise ConfigError("weights", f"{name} has no weights {weights!r}", f"its weights are {', '.join(known)}")
    return False


def _rows_of_classes(
    weights: Mapping[str, Tensor], own: Mapping[str, Tensor], rows: Sequence[int], number: int
) -> dict[str, Tensor]:
    """Return the weights, of layers with an output for each class only the outputs of some classes.

    Args:
        weights: of a detector with ``number`` classes.
        own: of the same detector with ``len(rows)`` classes.
        rows: which classes.
        number: how many there are.
    """
    taken = dict(weights)
    for key, value in weights.items():
        if key not in own or own[key].shape == value.shape:
            continue
        # A class has several rows in a layer: those of a class together for the boxes of an R-CNN, else those of an
        # anchor.
        if "box_predictor.bbox_pred" in key:
            taken[key] = value.reshape(number, -1, *value.shape[1:])[list(rows)].flatten(0, 1)
        else:
            taken[key] = value.reshape(-1, number, *value.shape[1:])[:, list(rows)].flatten(0, 1)
    return taken


def _weights_file(weights: str) -> Mapping[str, Tensor]:
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
    """Return a detector with this backbone."""
    from torchvision.models import detection
    from torchvision.models.detection.anchor_utils import AnchorGenerator

    levels = _probe(backbone)
    if not hasattr(backbone, "out_channels") and not name.startswith("ssd"):
        hint = "wrap it in dict(type='FeaturePyramid', body=...)"
        raise ConfigError("backbone", f"{name} needs levels of the same number of channels, out_channels", hint)
    if name.startswith("ssd"):
        return _assemble_ssd(name, backbone, [level.shape[1] for level in levels], outputs, aspect_ratios, kwargs)
    build = getattr(detection, _ARCHITECTURES[name])
    strides = [_PROBED_SIZE // level.shape[-1] for level in levels]
    if anchor_sizes is None:
        factors = {"fcos": (1.0,), "retinanet": (4.0, 4 * 2 ** (1 / 3), 4 * 2 ** (2 / 3))}.get(name, (8.0,))
        anchor_sizes = [[factor * stride for factor in factors] for stride in strides]
    ratios = aspect_ratios or [(1.0,) if name == "fcos" else (0.5, 1.0, 2.0)] * len(anchor_sizes)
    for argument, given in (("anchor_sizes", anchor_sizes), ("aspect_ratios", ratios)):
        if len(given) != len(levels):
            raise ConfigError(argument, f"the backbone has {len(levels)} levels, there are {len(given)} of these")
    anchors = AnchorGenerator(tuple(map(tuple, anchor_sizes)), tuple(map(tuple, ratios)))
    if name in _NO_BACKGROUND:
        if head_channels is not None:
            raise ConfigError("head_channels", f"the heads of {name} have the width of the pyramid")
        return build(backbone, outputs, anchor_generator=anchors, **kwargs)  # type: ignore[no-any-return]
    if head_channels is not None:
        kwargs = {**_narrow_heads(name, backbone.out_channels, outputs, head_channels, kwargs), **kwargs}
        outputs = None  # type: ignore[assignment]  # torchvision wants either the predictor or this
    return build(backbone, outputs, rpn_anchor_generator=anchors, **kwargs)  # type: ignore[no-any-return]


def _narrow_heads(name: str, in_channels: Any, outputs: int, width: int, kwargs: dict[str, Any]) -> dict[str, Any]:
    """Return the heads of an R-CNN with layers of this width."""
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
        raise ConfigError("size", f"{name} resizes all images to one size", "give size=(height, width)")
    height, width = kwargs.pop("size")
    ratios = aspect_ratios or [(2, 3)] * len(channels)
    if len(ratios) != len(channels):
        raise ConfigError("aspect_ratios", f"the backbone has {len(channels)} levels, there are {len(ratios)} of these")
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
def _probe(module: nn.Module) -> list[Tensor]:
    """Return the feature maps of an empty square image."""
    training = module.training
    maps = module.eval()(torch.zeros(1, 3, _PROBED_SIZE, _PROBED_SIZE))
    module.train(training)
    return list(maps.values() if isinstance(maps, Mapping) else [maps] if isinstance(maps, Tensor) else maps)
