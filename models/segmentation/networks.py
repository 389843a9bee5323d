"""Networks for semantic segmentation."""

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
    """Build a torchvision semantic segmentation network: FCN, DeepLabV3 or LR-ASPP.

    It returns a dict with the logits ``out``, of shape (N, num_classes, H, W), and with ``aux_loss`` also the logits of
    the auxiliary head, ``aux``.

    Args:
        name: name in torchvision: ``fcn_resnet50``, ``fcn_resnet101``, ``deeplabv3_resnet50``,
            ``deeplabv3_resnet101``, ``deeplabv3_mobilenet_v3_large`` or ``lraspp_mobilenet_v3_large``.
        num_classes: number of classes, including the background.
        aux_loss: whether to add an auxiliary head; not supported by LR-ASPP.
        weights: ``DEFAULT`` or another name of torchvision weights, which are downloaded, or a checkpoint file. Layers
            that do not fit, such as the last ones for a different number of classes, are skipped and logged.
        weights_backbone: classification weights for the backbone, in the same form; ignored if ``weights`` is given.
        **kwargs: further arguments of the torchvision function.

    Raises:
        ConfigError: torchvision has no such network, or it has no auxiliary head.
    """
    from torchvision import models

    known = models.list_models(module=models.segmentation)
    if name not in known:
        hint = did_you_mean(name, known) or f"the networks are {', '.join(known)}"
        raise ConfigError("name", f"torchvision has no segmentation network {name!r}", hint)
    if name.startswith("lraspp"):
        if aux_loss:
            raise ConfigError("aux_loss", f"{name} has no auxiliary head", "remove aux_loss")
    else:
        kwargs["aux_loss"] = aux_loss
    model: nn.Module = models.get_model(name, weights=None, weights_backbone=None, num_classes=num_classes, **kwargs)
    model.num_classes = num_classes  # type: ignore[assignment]  # not a tensor or module
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
    """Return the weights of a classifier's feature layers, under the names of the backbone."""
    layers = dict(backbone.named_children())
    plain = {name.removeprefix("features."): weight for name, weight in state.items()}
    return {name: weight for name, weight in plain.items() if name.partition(".")[0] in layers}


@MODELS.register_module()
class UNet(BaseModule):
    """An encoder and decoder with skip connections between layers of the same size (Ronneberger et al. 2015).

    https://arxiv.org/abs/1505.04597, with batch normalization, and with padded convolutions so that the logits have the
    size of the image. Images may have any size.

    Args:
        num_classes: number of classes, including the background. If None, return a tuple of feature maps instead of
            logits: the finest one, with ``base_channels`` channels and the size of the image, and the coarsest one,
            with ``base_channels * 2**(depth - 1)`` channels.
        in_channels: number of image channels.
        base_channels: channels of the first level; doubled at every further level.
        depth: number of levels, at least 2; every level after the first halves the height and width.
        dropout: probability of dropping a channel of the coarsest level in training, in [0, 1).
        init_cfg: one or more initializer configs.

    Raises:
        ValueError: ``depth`` is less than 2.
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
            raise ValueError(f"depth must be at least 2, not {depth}")
        super().__init__({"type": "Kaiming", "layer": "Conv2d"} if init_cfg is None else init_cfg)
        self.num_classes = num_classes
        widths = [base_channels * 2**level for level in range(depth)]
        self.encoder = nn.ModuleList(
            _double_convolution(width_in, width_out) for width_in, width_out in zip([in_channels, *widths], widths)
        )
        self.pool = nn.MaxPool2d(2)
        self.dropout = nn.Dropout2d(dropout)
        decoder_widths = list(zip(widths[:0:-1], widths[-2::-1]))
        self.upsample = nn.ModuleList(
            nn.ConvTranspose2d(width_in, width_out, 2, stride=2) for width_in, width_out in decoder_widths
        )
        self.decoder = nn.ModuleList(_double_convolution(2 * width_out, width_out) for _, width_out in decoder_widths)
        self.classifier = None if num_classes is None else nn.Conv2d(base_channels, num_classes, 1)

    def forward(self, images: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """Return logits of shape (N, num_classes, H, W), or the finest and the coarsest feature map.

        Args:
            images: float, of shape (N, in_channels, H, W).
        """
        skips = []
        features = images
        for level, block in enumerate(self.encoder):
            features = block(self.pool(features) if level else features)
            skips.append(features)
        coarsest = features = self.dropout(skips.pop())
        for upsample, block in zip(self.upsample, self.decoder):
            skip = skips.pop()
            features = block(torch.cat([skip, _pad_to_size_of(skip, upsample(features))], 1))
        if self.classifier is None:
            return features, coarsest
        logits: Tensor = self.classifier(features)
        return logits


@MODELS.register_module()
def TorchvisionFeatures(name: str, layers: str | Sequence[str], weights: str | None = None, **kwargs: Any) -> nn.Module:
    """Build a feature extractor from a torchvision classification network.

    It returns a tuple of feature maps in the order of ``layers``. Layers after the last one are removed.

    Args:
        name: name in torchvision, such as ``resnet18``.
        layers: names of the layers whose outputs to return, such as ``("layer1", "layer4")`` of a ResNet.
        weights: see :func:`TorchvisionModel`.
        **kwargs: further arguments of :func:`TorchvisionModel`, such as ``in_channels``.

    Raises:
        ConfigError: torchvision has no such network, or the network has no such layer.
    """
    build = partial(_build_extractor, name, layers, **kwargs)
    return build() if weights is None else build_pretrained(partial(build, weights=weights), build)


def _build_extractor(name: str, layers: str | Sequence[str], weights: str | None = None, **kwargs: Any) -> nn.Module:
    from torchvision.models.feature_extraction import create_feature_extractor, get_graph_node_names

    names = [layers] if isinstance(layers, str) else list(layers)
    classifier = MODELS.build({"type": "TorchvisionModel", "name": name, "weights": weights, **kwargs})
    nodes = get_graph_node_names(classifier)[1]
    known = {".".join(node.split(".")[:depth]) for node in nodes for depth in range(1, node.count(".") + 2)}
    for layer in names:
        if layer not in known:
            hint = did_you_mean(layer, known) or "see `print(model)`"
            raise ConfigError("layers", f"{name} has no layer {layer!r}", hint)
    return _FeatureTuple(create_feature_extractor(classifier, {layer: layer for layer in names}))


class _FeatureTuple(nn.Module):
    """A module that returns the feature maps of an extractor as a tuple instead of a dict."""

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


def _pad_to_size_of(reference: Tensor, features: Tensor) -> Tensor:
    """Pad features by the row or column that pooling drops if the size is odd."""
    height, width = (a - b for a, b in zip(reference.shape[-2:], features.shape[-2:]))
    if not torch.compiler.is_exporting() and height == width == 0:  # the exporter would take that for a constant
        return features
    return F.pad(features, (0, width, 0, height), mode="replicate")
