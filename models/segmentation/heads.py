"""Heads for semantic segmentation."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from trainwright.engine.registry import MODELS
from trainwright.models.module import BaseModule, InitCfg
from trainwright.models.segmentation.pixels import add_seg_predictions, gather_seg_maps
from trainwright.models.segmentation.segmentor import LossLike, SegLosses


@MODELS.register_module()
class SegmentationHead(BaseModule):
    """A segmentation head that merges feature maps of several levels.

    Each level is projected by a 1x1 convolution; all levels are resized to the first one and summed, as in the semantic
    FPN of Kirillov et al. (2019), https://arxiv.org/abs/1901.02446. A 3x3 convolution and a pixel classifier follow.
    The logits are resized to the size of the images.

    Args:
        num_classes: number of classes, including the background.
        in_channels: channels of each level, the finest first, or of a single level.
        channels: number of hidden channels.
        dropout: probability of dropping a channel in training, in [0, 1).
        loss: module or config of the loss, or a list of them; ``dict(type='SegCrossEntropyLoss')`` if None.
        ignore_index: label of ignored pixels.
        init_cfg: one or more initializer configs.
    """

    def __init__(
        self,
        num_classes: int,
        in_channels: int | tuple[int, ...] | list[int],
        channels: int = 128,
        dropout: float = 0.1,
        loss: LossLike | None = None,
        ignore_index: int = 255,
        init_cfg: InitCfg = None,
    ) -> None:
        super().__init__(init_cfg)
        self.num_seg_classes = num_classes
        widths = [in_channels] if isinstance(in_channels, int) else in_channels
        self.laterals = nn.ModuleList(nn.Conv2d(width, channels, 1) for width in widths)
        self.classifier = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(inplace=True),
            nn.Dropout2d(dropout),
            nn.Conv2d(channels, num_classes, 1),
        )
        self.losses = SegLosses(loss, ignore_index)

    def forward(self, features: Tensor | tuple[Tensor, ...] | list[Tensor]) -> Tensor:
        """Return logits of shape (N, num_classes, h, w), in the size of the first level.

        Args:
            features: one level of shape (N, in_channels, h, w), or a sequence of levels, the finest first. If there are
                more levels than ``in_channels``, the last ones are used.
        """
        levels = [features] if isinstance(features, Tensor) else list(features)[-len(self.laterals) :]
        size = levels[0].shape[-2:]
        total: Tensor | None = None
        for lateral, level in zip(self.laterals, levels, strict=True):
            projected = lateral(level)
            if projected.shape[-2:] != size:
                projected = F.interpolate(projected, size=size, mode="bilinear", align_corners=False)
            total = projected if total is None else total + projected
        logits: Tensor = self.classifier(total)
        return logits

    def loss(self, features: Any, data_samples: Any, input_size: torch.Size) -> dict[str, Tensor]:
        """Return the losses of a batch.

        Args:
            features: see :meth:`forward`.
            data_samples: a list of data samples with ``gt_sem_seg``.
            input_size: height and width of the batch of images.
        """
        target = gather_seg_maps(data_samples, input_size, self.losses.ignore_index)
        logits = F.interpolate(self(features), size=input_size, mode="bilinear", align_corners=False)
        losses: dict[str, Tensor] = self.losses(logits, target)
        return losses

    def predict(self, features: Any, data_samples: Any, input_size: torch.Size) -> Any:
        """Return the data samples of a batch with ``pred_sem_seg`` in the size of the original images."""
        return add_seg_predictions(self(features), data_samples, input_size)
