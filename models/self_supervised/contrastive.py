"""Methods that compare two views of an image: SimCLR, MoCo v3 and BYOL."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from trainwright.engine.distributed import gather_with_gradients, get_rank
from trainwright.engine.registry import MODELS
from trainwright.models.averaging import MomentumTeacher
from trainwright.models.classification.neighbors import pooled
from trainwright.models.self_supervised.base import SelfSupervisedModel, feature_size
from trainwright.models.self_supervised.heads import ProjectionMLP


class ProjectedBackbone(nn.Module):
    """A backbone and its projection head, as one module that a teacher can follow."""

    def __init__(self, backbone: Any, projector: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone
        self.projector = projector

    def forward(self, images: Tensor) -> Tensor:
        return self.projector(pooled(self.backbone(images)))  # type: ignore[no-any-return]


@MODELS.register_module()
class SimCLR(SelfSupervisedModel):
    """Contrastive learning with the other images of the batch as negatives (Chen et al. 2020).

    The negatives are gathered from all ranks, with their gradients. Source: https://arxiv.org/abs/2002.05709.

    Args:
        backbone: see :class:`SelfSupervisedModel`.
        in_channels: size of the features of the backbone, if it does not declare it.
        hidden_channels: size of the hidden layer of the projection head.
        out_channels: size of the projections.
        temperature: temperature of the similarities; positive.
        **kwargs: further arguments of :class:`SelfSupervisedModel`: ``memory``, ``k``, ``knn_temperature``,
            ``data_preprocessor``, ``init_cfg``.
    """

    num_views = 2

    def __init__(
        self,
        backbone: Mapping[str, Any] | nn.Module,
        in_channels: int | None = None,
        hidden_channels: int = 2048,
        out_channels: int = 128,
        temperature: float = 0.1,
        **kwargs: Any,
    ) -> None:
        super().__init__(backbone, **kwargs)
        size = feature_size(self.backbone, in_channels)
        self.projector = ProjectionMLP(size, hidden_channels, out_channels, num_layers=2, last_norm=True)
        self.temperature = temperature

    def view_losses(self, views: Sequence[Tensor]) -> dict[str, Tensor]:
        """Return the loss of a batch with two views of each image."""
        first, second = views
        own = F.normalize(self.projector(pooled(self.backbone(torch.cat([first, second])))), dim=1)
        ones, others = (gather_with_gradients(part) for part in own.chunk(2))
        return {"loss": nt_xent(own, torch.cat([ones, others]), len(first), self.temperature)}


def nt_xent(own: Tensor, every: Tensor, size: int, temperature: float) -> Tensor:
    """Return the normalized temperature-scaled cross entropy of SimCLR, a scalar.

    Args:
        own: unit-length projections of this rank: both views of its images, of shape (2 × size, D).
        every: those of all ranks: the first views of all images, then the second, of shape (2 × M, D).
        size: number of images of this rank.
        temperature: temperature of the similarities.
    """
    similarity = own @ every.T / temperature
    start, half = get_rank() * size, len(every) // 2
    first = torch.arange(start, start + size, device=own.device)
    itself, positive = torch.cat([first, first + half]), torch.cat([first + half, first])
    similarity = similarity.scatter(1, itself[:, None], float("-inf"))
    return F.cross_entropy(similarity, positive)


@MODELS.register_module()
class MoCoV3(SelfSupervisedModel):
    """Contrastive learning with a momentum encoder and a predictor (Chen, Xie & He 2021).

    The keys of the teacher are gathered from all ranks. Source: https://arxiv.org/abs/2104.02057.

    Args:
        backbone: see :class:`SelfSupervisedModel`.
        in_channels: size of the features of the backbone, if it does not declare it.
        hidden_channels: size of the hidden layers of projection and prediction head.
        out_channels: size of the projections.
        temperature: temperature of the similarities; positive.
        momentum: momentum of the teacher at the beginning; it falls to 0 on a half cosine.
        projector_layers: number of layers of the projection head: 3 for vision transformers, 2 for ResNets.
        **kwargs: further arguments of :class:`SelfSupervisedModel`.
    """

    num_views = 2

    def __init__(
        self,
        backbone: Mapping[str, Any] | nn.Module,
        in_channels: int | None = None,
        hidden_channels: int = 4096,
        out_channels: int = 256,
        temperature: float = 1.0,
        momentum: float = 0.01,
        projector_layers: int = 2,
        **kwargs: Any,
    ) -> None:
        super().__init__(backbone, **kwargs)
        size = feature_size(self.backbone, in_channels)
        projector = ProjectionMLP(size, hidden_channels, out_channels, projector_layers, last_norm=True)
        self.projector = projector
        self.predictor = ProjectionMLP(out_channels, hidden_channels, out_channels, 2, last_norm=True)
        self.teacher = MomentumTeacher(ProjectedBackbone(self.backbone, projector), momentum, end_momentum=0.0)
        self.temperature = temperature

    def view_losses(self, views: Sequence[Tensor]) -> dict[str, Tensor]:
        """Return the loss of a batch with two views of each image."""
        images = torch.cat(list(views))
        queries = self.predictor(self.projector(pooled(self.backbone(images))))
        first, second = F.normalize(queries, dim=1).chunk(2)
        one, other = (F.normalize(keys, dim=1) for keys in self.teacher(images).chunk(2))
        return {"loss": self._contrast(first, other) + self._contrast(second, one)}

    def _contrast(self, queries: Tensor, keys: Tensor) -> Tensor:
        similarity = queries @ gather_with_gradients(keys).T / self.temperature
        own = get_rank() * len(keys) + torch.arange(len(keys), device=keys.device)
        return F.cross_entropy(similarity, own) * (2 * self.temperature)


@MODELS.register_module()
class BYOL(SelfSupervisedModel):
    """Learning by predicting the projections of a teacher, without negatives (Grill et al. 2020).

    Source: https://arxiv.org/abs/2006.07733.

    Args:
        backbone: see :class:`SelfSupervisedModel`.
        in_channels: size of the features of the backbone, if it does not declare it.
        hidden_channels: size of the hidden layers of projection and prediction head.
        out_channels: size of the projections.
        momentum: momentum of the teacher at the beginning; it falls to 0 on a half cosine.
        **kwargs: further arguments of :class:`SelfSupervisedModel`.
    """

    num_views = 2

    def __init__(
        self,
        backbone: Mapping[str, Any] | nn.Module,
        in_channels: int | None = None,
        hidden_channels: int = 4096,
        out_channels: int = 256,
        momentum: float = 0.004,
        **kwargs: Any,
    ) -> None:
        super().__init__(backbone, **kwargs)
        size = feature_size(self.backbone, in_channels)
        self.projector = ProjectionMLP(size, hidden_channels, out_channels, 2)
        self.predictor = ProjectionMLP(out_channels, hidden_channels, out_channels, 2)
        self.teacher = MomentumTeacher(ProjectedBackbone(self.backbone, self.projector), momentum, end_momentum=0.0)

    def view_losses(self, views: Sequence[Tensor]) -> dict[str, Tensor]:
        """Return the loss of a batch with two views of each image."""
        images = torch.cat(list(views))
        predicted = self.predictor(self.projector(pooled(self.backbone(images))))
        first, second = self.teacher(images).chunk(2)
        similarity = F.cosine_similarity(predicted, torch.cat([second, first]))
        return {"loss": 2 * (2 - 2 * similarity).mean()}
