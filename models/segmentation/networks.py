"""Networks that give logits for every pixel."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from trainwright.engine.errors import ConfigError, did_you_mean
from trainwright.engine.registry import MODELS
from trainwright.engine.run.model_setup import load_pretrained
from trainwright.models.initializers import load_weights
from trainwright.models.module import BaseModule, InitCfg
from trainwright.models.pretrained import build_pretrained, find_torchvision_weights


@MODELS.register_module()
def TorchvisionSegmentationModel(
    name: str,
    num_classes: int = 21,
    aux_loss: bool = False,
    weights: str | None = None,
    weights_backbone: str | None = None,
    **kwargs: Any,
) -> nn.Module:
    """Return a network of torchvision for semantic segmentation: FCN, DeepLabV3 or LR-ASPP.

    It returns a dict with the logits ``out``, of shape (N, num_classes, H, W), and with ``aux_loss`` those of the
    auxiliary head, ``aux``.

    Args:
        name: its name in torchvision: ``fcn_resnet50``, ``fcn_resnet101``, ``deeplabv3_resnet50``,
            ``deeplabv3_resnet101``, ``deeplabv3_mobilenet_v3_large`` or ``lraspp_mobilenet_v3_large``.
        num_classes: number of classes, with the background.
        aux_loss: whether there is an auxiliary head; LR-ASPP has none.
        weights: ``DEFAULT`` or another name of torchvision's weights, which are downloaded, or a checkpoint file.
            Layers that do not fit, such as the last ones for another number of classes, are reported and left out.
        weights_backbone: likewise, the weights of the backbone as a classifier.
        **kwargs: further arguments of torchvision's function.

    Raises:
        ConfigError: torchvision has no such network, or it has no auxiliary head.
    """
    from torchvision import models

    known = models.list_models(module=models.segmentation)
    if name not in known:
        hint = did_you_mean(name, known) or f"there are {', '.join(known)}"
        raise ConfigError("name", f"torchvision has no segmentation network {name!r}", hint)
    if name.startswith("lraspp"):
        if aux_loss:
            raise ConfigError("aux_loss", f"{name} has no auxiliary head", "leave aux_loss out")
    else:
        kwargs["aux_loss"] = aux_loss
    model: nn.Module = models.get_model(name, weights=None, weights_backbone=None, num_classes=num_classes, **kwargs)
    if weights_backbone is not None and weights is None:
        fetch = find_torchvision_weights(name.partition("_")[2], weights_backbone)
        load_pretrained(
            model.backbone,  # type: ignore[arg-type]  # a module
            lambda backbone: load_weights(backbone, _feature_weights(fetch(), backbone), weights_backbone),
        )
    if weights is not None:
        fetch = find_torchvision_weights(name, weights)
        load_pretrained(model, lambda network: load_weights(network, fetch(), weights))
    return model


def _feature_weights(state: Mapping[str, Tensor], backbone: nn.Module) -> dict[str, Tensor]:
    """Return the weights of a classifier that belong to its feature layers, under the names these have here."""
    layers = dict(backbone.named_children())
    plain = {name.removeprefix("features."): weight for name, weight in state.items()}
    return {name: weight for name, weight in plain.items() if name.partition(".")[0] in layers}


@MODELS.register_module()
class UNet(BaseModule):
    """An encoder and a decoder with connections between layers of the same size (Ronneberger et al. 2015).

    https://arxiv.org/abs/1505.04597, with padded convolutions, so that the logits have the size of the image, and
    with batch normalization. Images may have any size.

    Args:
        num_classes: number of classes, with the background; None for feature maps instead of logits: a tuple of the
            finest, of ``base_channels`` and the size of the image, and the lowest, of
            ``base_channels * 2**(depth - 1)``.
        in_channels: channels of the images.
        base_channels: channels of the first level; every level below has twice as many.
        depth: number of levels, at least 2; each below the first halves height and width.
        dropout: share of the channels of the lowest level that are dropped in training, in [0, 1).
        init_cfg: one or more initializer configs.

    Raises:
        ValueError: fewer than 2 levels.
    """

    def __init__(
        self,
        num_classes: int | None,
        in_channels: int = 3,
        base_channels: int = 64,
        depth: int = 5,
        dropout: float = 0.0,
        init_cfg: InitCfg = None,
    ) -> None:
        if depth < 2:
            raise ValueError(f"a UNet has at least 2 levels, not {depth}")
        super().__init__({"type": "Kaiming", "layer": "Conv2d"} if init_cfg is None else init_cfg)
        widths = [base_channels * 2**level for level in range(depth)]
        self.encoder = nn.ModuleList(
            _double_convolution(before, after) for before, after in zip([in_channels, *widths], widths)
        )
        self.pool = nn.MaxPool2d(2)
        self.dropout = nn.Dropout2d(dropout)
        upwards = list(zip(widths[:0:-1], widths[-2::-1]))
        self.upsample = nn.ModuleList(nn.ConvTranspose2d(below, above, 2, stride=2) for below, above in upwards)
        self.decoder = nn.ModuleList(_double_convolution(2 * above, above) for _, above in upwards)
        self.classifier = None if num_classes is None else nn.Conv2d(base_channels, num_classes, 1)

    def forward(self, images: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """Return logits of shape (N, num_classes, H, W), or the finest and the lowest feature map.

        Args:
            images: float, of shape (N, in_channels, H, W).
        """
        skips = []
        features = images
        for level, block in enumerate(self.encoder):
            features = block(self.pool(features) if level else features)
            skips.append(features)
        lowest = features = self.dropout(skips.pop())
        for upsample, block in zip(self.upsample, self.decoder):
            skip = skips.pop()
            features = block(torch.cat([skip, _fit(upsample(features), skip)], 1))
        if self.classifier is None:
            return features, lowest
        logits: Tensor = self.classifier(features)
        return logits


@MODELS.register_module()
def TorchvisionFeatures(name: str, layers: str | Sequence[str], weights: str | None = None, **kwargs: Any) -> nn.Module:
    """Return the first part of a classification network of torchvision, which gives feature maps.

    It returns a tuple of them, in the order of ``layers``. What comes after the last one is left out.

    Args:
        name: its name in torchvision, such as ``resnet18``.
        layers: names of the layers whose output is wanted, such as ``("layer1", "layer4")`` of a ResNet.
        weights: as for :func:`TorchvisionModel`.
        **kwargs: further arguments of :func:`TorchvisionModel`, such as ``in_channels``.

    Raises:
        ConfigError: torchvision has no such network, or the network no such layer.
    """
    build = partial(_features, name, layers, **kwargs)
    return build() if weights is None else build_pretrained(partial(build, weights=weights), build)


def _features(name: str, layers: str | Sequence[str], weights: str | None = None, **kwargs: Any) -> nn.Module:
    from torchvision.models.feature_extraction import create_feature_extractor, get_graph_node_names

    wanted = [layers] if isinstance(layers, str) else list(layers)
    classifier = MODELS.build({"type": "TorchvisionModel", "name": name, "weights": weights, **kwargs})
    nodes = get_graph_node_names(classifier)[1]
    parts = {".".join(node.split(".")[:depth]) for node in nodes for depth in range(1, node.count(".") + 2)}
    for layer in wanted:
        if layer not in parts:
            hint = did_you_mean(layer, parts) or "`print(model)` shows its layers"
            raise ConfigError("layers", f"{name} has no layer {layer!r}", hint)
    extractor = create_feature_extractor(classifier, {layer: layer for layer in wanted})
    return _FeatureTuple(extractor)


class _FeatureTuple(nn.Module):
    """Gives the feature maps of an extractor as a tuple, which does not depend on names."""

    def __init__(self, extractor: nn.Module) -> None:
        super().__init__()
        self.extractor = extractor

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        return tuple(self.extractor(images).values())


def _double_convolution(in_channels: int, out_channels: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for channels in (in_channels, out_channels):
        layers += [
            nn.Conv2d(channels, out_channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(out_channels),
            nn.ReLU(inplace=True),
        ]
    return nn.Sequential(*layers)


def _fit(features: Tensor, like: Tensor) -> Tensor:
    """Pad features to the size of others: a level of odd size is one pixel larger than what was pooled from it."""
    height, width = (a - b for a, b in zip(like.shape[-2:], features.shape[-2:]))
    return features if height == width == 0 else F.pad(features, (0, width, 0, height), mode="replicate")
