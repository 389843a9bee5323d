"""DINO: self-distillation without labels."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from trainwright.engine.distributed import all_reduce, get_world_size
from trainwright.engine.errors import TrainingError
from trainwright.engine.records.message_hub import MessageHub
from trainwright.engine.registry import MODELS
from trainwright.models.averaging import MomentumTeacher
from trainwright.models.classification.neighbors import pooled
from trainwright.models.self_supervised.base import SelfSupervisedModel, feature_size
from trainwright.models.self_supervised.contrastive import ProjectedBackbone
from trainwright.models.self_supervised.heads import DINOHead


@MODELS.register_module()
class DINO(SelfSupervisedModel):
    """Self-distillation: all views predict what a teacher sees in the global ones (Caron et al. 2021).

    The first two views are global, any others local crops: ``MultiView(transforms=[large, small], num_views=[2, 6])``.
    Source: https://arxiv.org/abs/2104.14294.

    Args:
        backbone: see :class:`SelfSupervisedModel`; with local crops, one that accepts images of any size.
        in_channels: size of the features of the backbone, if it does not declare it.
        hidden_channels: size of the hidden layers of the head.
        bottleneck_channels: size of its bottleneck.
        num_prototypes: size of its output.
        student_temperature: temperature of the student; positive.
        teacher_temperature: temperature of the teacher; positive.
        warmup_temperature: that of the teacher at the beginning.
        warmup: part of the training, in [0, 1], after which the teacher has its final temperature.
        center_momentum: weight of a batch in the center of the teacher's outputs.
        momentum: momentum of the teacher at the beginning; it falls to 0 on a half cosine.
        frozen_prototypes: part of the training, in [0, 1], at whose beginning the last layer is not trained.
        **kwargs: further arguments of :class:`SelfSupervisedModel`.
    """

    center: Tensor

    def __init__(
        self,
        backbone: Mapping[str, Any] | nn.Module,
        in_channels: int | None = None,
        hidden_channels: int = 2048,
        bottleneck_channels: int = 256,
        num_prototypes: int = 65536,
        student_temperature: float = 0.1,
        teacher_temperature: float = 0.04,
        warmup_temperature: float = 0.04,
        warmup: float = 0.0,
        center_momentum: float = 0.1,
        momentum: float = 0.004,
        frozen_prototypes: float = 0.01,
        **kwargs: Any,
    ) -> None:
        super().__init__(backbone, **kwargs)
        size = feature_size(self.backbone, in_channels)
        self.head = DINOHead(size, hidden_channels, bottleneck_channels, num_prototypes)
        self.teacher = MomentumTeacher(ProjectedBackbone(self.backbone, self.head), momentum, end_momentum=0.0)
        self.register_buffer("center", torch.zeros(num_prototypes))
        self.student_temperature = student_temperature
        self.teacher_temperature = teacher_temperature
        self.warmup_temperature = warmup_temperature
        self.warmup = warmup
        self.center_momentum = center_momentum
        self.frozen_prototypes = frozen_prototypes

    def view_losses(self, views: Sequence[Tensor]) -> dict[str, Tensor]:
        """Return the loss of a batch with two global views of each image, and any number of local ones."""
        if len(views) < 2:
            raise TrainingError(f"DINO needs at least 2 views of each image, but MultiView makes {len(views)}")
        progress = _progress()
        trains_prototypes = progress >= self.frozen_prototypes
        targets = self.teacher(torch.cat(list(views[:2])))
        share = 1.0 if not self.warmup else min(1.0, progress / self.warmup)
        temperature = self.warmup_temperature + share * (self.teacher_temperature - self.warmup_temperature)
        wanted = ((targets - self.center) / temperature).softmax(-1).chunk(2)
        found = [
            (self.head(features, trains_prototypes) / self.student_temperature).log_softmax(-1)
            for features in self._features(views)
        ]
        losses = [
            -(target * logits).sum(-1).mean()
            for index, target in enumerate(wanted)
            for number, logits in enumerate(found)
            if number != index
        ]
        self._move_center(targets)
        return {"loss": torch.stack(losses).mean()}

    def _features(self, views: Sequence[Tensor]) -> list[Tensor]:
        """Return the features of each view; views of one size are computed together."""
        features: list[Tensor] = []
        start = 0
        while start < len(views):
            end = start + 1
            while end < len(views) and views[end].shape == views[start].shape:
                end += 1
            features += pooled(self.backbone(torch.cat(list(views[start:end])))).chunk(end - start)
            start = end
        return features

    @torch.no_grad()
    def _move_center(self, targets: Tensor) -> None:
        mean = targets.float().mean(0)  # of half precision under autocast
        if get_world_size() > 1:
            all_reduce(mean, "mean")
        self.center.lerp_(mean, self.center_momentum)


def _progress() -> float:
    """Return how much of the training is done, from 0 to 1."""
    hub = MessageHub.get_current_instance()
    return float(hub.get_info("iter", 0) / max(1, hub.get_info("max_iters", 1)))
