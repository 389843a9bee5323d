"""Semi-supervised classification: FixMatch and mean teachers."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from trainwright.engine.errors import ConfigError
from trainwright.engine.export.form import ExportForm, form_of_part
from trainwright.engine.records.message_hub import MessageHub
from trainwright.engine.registry import MODELS
from trainwright.models.averaging import MomentumTeacher
from trainwright.models.base import BaseModel
from trainwright.models.classification.samples import gather_labels
from trainwright.models.module import InitCfg
from trainwright.models.preprocessor import with_preprocessor


class SemiSupervisedClassifier(BaseModel):
    """Base class of classifiers that also learn from images without labels.

    The training data has two loaders, ``labeled`` and ``unlabeled``; the images of the latter are lists of two views
    (``MultiView``). A subclass implements :meth:`unlabeled_loss`.

    Args:
        classifier: the classifier, whose ``forward`` returns logits with ``mode="tensor"``; module or config. Its
            preprocessor prepares all batches.
        weight: weight of the loss on the unlabeled images.
        label_smoothing: of the loss on the labeled images, in [0, 1).
        data_preprocessor: module or config of the preprocessor, if the classifier does not define its own.
        init_cfg: one or more initializer configs.
    """

    def __init__(
        self,
        classifier: Mapping[str, Any] | nn.Module,
        weight: float = 1.0,
        label_smoothing: float = 0.0,
        data_preprocessor: Mapping[str, Any] | nn.Module | None = None,
        init_cfg: InitCfg = None,
    ) -> None:
        built: Any = MODELS.build(with_preprocessor(classifier, data_preprocessor, "classifier"))
        super().__init__(built.data_preprocessor, init_cfg)
        built.data_preprocessor = nn.Identity()  # that of this model is used
        self.classifier: Any = built
        self.num_classes = getattr(built, "num_classes", None)
        self.weight = weight
        self.label_smoothing = label_smoothing

    def forward(
        self,
        inputs: Any = None,
        data_samples: Any = None,
        mode: str = "tensor",
        labeled: Any = None,
        unlabeled: Any = None,
    ) -> Any:
        """Return the losses of a labeled and an unlabeled batch, or predictions or logits.

        Args:
            inputs: float images of shape (N, C, H, W), to predict.
            data_samples: their labels.
            mode: ``loss``, ``predict`` or ``tensor``.
            labeled: for ``loss``, a batch with images and labels.
            unlabeled: for ``loss``, a batch whose images are a list of two views.
        """
        if mode != "loss":
            return self.predictor(inputs, data_samples, mode=mode)
        if labeled is None or unlabeled is None:
            if inputs is not None:  # the losses of a validation
                return self.classifier(inputs, data_samples, mode="loss")
            raise missing_loaders(self)
        images, labels = _images_of(labeled), gather_labels(_samples_of(labeled))
        views = _images_of(unlabeled)
        if not isinstance(views, list | tuple) or len(views) != 2:
            hint = "dict(type='MultiView', transforms=[weak, strong])"
            raise ConfigError("train_dataloader.unlabeled.dataset.pipeline", "does not make two views", hint)
        losses, logits = self._losses(images, labels, *views)
        return {**losses, "accuracy_labeled": 100 * (logits.argmax(1) == labels).float().mean()}

    @property
    def predictor(self) -> Any:
        """The classifier that predicts."""
        return self.classifier

    def export_form(self) -> ExportForm:
        """Return the form of the classifier that predicts, for ``trainwright export``."""
        predictor = self.predictor
        return form_of_part(getattr(predictor, "module", predictor), self.data_preprocessor)

    def _losses(
        self, images: Tensor, labels: Tensor, first: Tensor, second: Tensor
    ) -> tuple[dict[str, Tensor], Tensor]:
        raise NotImplementedError

    def _labeled_loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(logits, labels, label_smoothing=self.label_smoothing)


@MODELS.register_module()
class FixMatch(SemiSupervisedClassifier):
    """Learn the confident predictions for weakly augmented images on strongly augmented ones (Sohn et al. 2020).

    Source: https://arxiv.org/abs/2001.07685. The first view of an unlabeled image is the weak one.

    Args:
        classifier: see :class:`SemiSupervisedClassifier`.
        threshold: probability above which a prediction is a label, in [0, 1).
        **kwargs: further arguments of :class:`SemiSupervisedClassifier`: ``weight``, ``label_smoothing``,
            ``data_preprocessor``, ``init_cfg``.
    """

    def __init__(self, classifier: Mapping[str, Any] | nn.Module, threshold: float = 0.95, **kwargs: Any) -> None:
        super().__init__(classifier, **kwargs)
        if not 0 <= threshold < 1:
            raise ConfigError("model.threshold", f"must be in [0, 1), not {threshold}")
        self.threshold = threshold

    def _losses(
        self, images: Tensor, labels: Tensor, first: Tensor, second: Tensor
    ) -> tuple[dict[str, Tensor], Tensor]:
        # In one pass, so that batch norms see labeled and unlabeled images together, as in the reference.
        logits = self.classifier(torch.cat([images, first, second]), mode="tensor")
        labeled, weak, strong = logits.split([len(images), len(first), len(second)])
        confidence, pseudo = weak.detach().softmax(1).max(1)
        mask = (confidence >= self.threshold).float()
        unlabeled = (F.cross_entropy(strong, pseudo, reduction="none") * mask).mean()
        losses = {
            "loss_labeled": self._labeled_loss(labeled, labels),
            "loss_unlabeled": self.weight * unlabeled,
            "confident": mask.mean(),
        }
        return losses, labeled.detach()


@MODELS.register_module()
class MeanTeacher(SemiSupervisedClassifier):
    """Be consistent with a teacher whose weights are the average of the student's (Tarvainen & Valpola 2017).

    Source: https://arxiv.org/abs/1703.01780. The student sees the first view of an unlabeled image, and the teacher the
    second. The teacher predicts in validation and test.

    Args:
        classifier: see :class:`SemiSupervisedClassifier`.
        momentum: momentum of the teacher, after a faster beginning.
        weight: weight of the consistency, after ``warmup``.
        warmup: part of the training, in [0, 1], in which the weight rises from 0, by a sigmoid.
        **kwargs: further arguments of :class:`SemiSupervisedClassifier`: ``label_smoothing``, ``data_preprocessor``,
            ``init_cfg``.
    """

    def __init__(
        self,
        classifier: Mapping[str, Any] | nn.Module,
        momentum: float = 0.001,
        weight: float = 10.0,
        warmup: float = 0.25,
        **kwargs: Any,
    ) -> None:
        super().__init__(classifier, weight, **kwargs)
        self.warmup = warmup
        self.teacher = MomentumTeacher(self.classifier, momentum, gamma=1)

    @property
    def predictor(self) -> Any:
        """The teacher."""
        return self.teacher

    def _losses(
        self, images: Tensor, labels: Tensor, first: Tensor, second: Tensor
    ) -> tuple[dict[str, Tensor], Tensor]:
        labeled, found = self.classifier(torch.cat([images, first]), mode="tensor").split([len(images), len(first)])
        wanted = self.teacher(second, mode="tensor").softmax(1)
        consistency = F.mse_loss(found.softmax(1), wanted)
        losses = {
            "loss_labeled": self._labeled_loss(labeled, labels),
            "loss_consistency": self.weight * self._ramp() * consistency,
        }
        return losses, labeled.detach()

    def _ramp(self) -> float:
        if not self.warmup:
            return 1.0
        hub = MessageHub.get_current_instance()
        progress = hub.get_info("iter", 0) / max(1, hub.get_info("max_iters", 1)) / self.warmup
        return math.exp(-5 * (1 - min(1.0, progress)) ** 2)


def missing_loaders(model: nn.Module) -> ConfigError:
    """Return the error for a semi-supervised model that gets no labeled and unlabeled batch."""
    hint = "train_dataloader=dict(labeled=dict(...), unlabeled=dict(...))"
    return ConfigError("train_dataloader", f"{type(model).__name__} needs two data loaders", hint)


def _images_of(batch: Any) -> Any:
    return batch["inputs"] if isinstance(batch, Mapping) else batch[0]


def _samples_of(batch: Any) -> Any:
    return batch["data_samples"] if isinstance(batch, Mapping) else batch[1]
