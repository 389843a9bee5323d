"""Semi-supervised detection: a teacher labels the images that have no boxes."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from trainwright.engine.errors import ConfigError
from trainwright.engine.export.form import ExportForm, form_of_part
from trainwright.engine.records.message_hub import MessageHub
from trainwright.engine.registry import MODELS
from trainwright.engine.structures.instance_data import InstanceData
from trainwright.engine.structures.sample import DataSample
from trainwright.models.averaging import MomentumTeacher
from trainwright.models.base import BaseModel
from trainwright.models.few_labels.semi_supervised import missing_loaders
from trainwright.models.module import InitCfg
from trainwright.models.preprocessor import BaseDataPreprocessor, with_preprocessor

_LABELED, _UNLABELED = "labeled", "unlabeled"


@MODELS.register_module()
class SemiSupervisedDetector(BaseModel):
    """A detector that also learns from images without boxes, with the confident detections of a teacher.

    The training data has two loaders, ``labeled`` and ``unlabeled``. The images of the latter are lists of two views
    (``MultiView``) that differ in their pixels only, so that the boxes of one fit the other: put flips and crops before
    ``MultiView``. The teacher, whose weights are the average of the student's, detects objects in the first view, the
    weak one; the student learns those above ``threshold`` in the second one. The teacher predicts in validation and
    test. Sources: Unbiased Teacher (Liu et al. 2021, https://arxiv.org/abs/2102.09480), which also freezes the teacher
    until the student has learned from labels alone (``burn_in``); here all losses of the detector are used, as in
    STAC (Sohn et al. 2020, https://arxiv.org/abs/2005.04757).

    Example:
        >>> views = dict(type="MultiView", transforms=[[], [dict(type="ColorJitter", brightness=0.4)]])
        >>> SemiSupervisedDetector(dict(type="TorchvisionDetector", network="fcos_resnet50_fpn", num_classes=20))

    Args:
        detector: a detector with ``gt_instances`` and ``pred_instances`` in data samples, such as
            ``TorchvisionDetector``; module or config.
        threshold: score above which a detection of the teacher is a label, in [0, 1).
        weight: weight of the losses on the unlabeled images.
        burn_in: number of iterations that learn from labeled images alone, before the teacher labels others.
        momentum: momentum of the teacher, after a faster beginning.
        data_preprocessor: module or config of the preprocessor, if the detector does not define its own.
        init_cfg: one or more initializer configs.

    Raises:
        ConfigError: ``threshold`` is out of range, or there are two preprocessors.
    """

    def __init__(
        self,
        detector: Mapping[str, Any] | nn.Module,
        threshold: float = 0.7,
        weight: float = 1.0,
        burn_in: int = 0,
        momentum: float = 0.001,
        data_preprocessor: Mapping[str, Any] | nn.Module | None = None,
        init_cfg: InitCfg = None,
    ) -> None:
        built: Any = MODELS.build(with_preprocessor(detector, data_preprocessor, "detector"))
        super().__init__(_TwoViewsPreprocessor(built.data_preprocessor), init_cfg)
        if not 0 <= threshold < 1:
            raise ConfigError("model.threshold", f"must be in [0, 1), not {threshold}")
        built.data_preprocessor = nn.Identity()  # that of this model is used
        self.detector: Any = built
        self.num_classes = built.num_classes
        self.num_keypoints = getattr(built, "num_keypoints", None)
        self.threshold = threshold
        self.weight = weight
        self.burn_in = burn_in
        self.teacher = MomentumTeacher(self.detector, momentum, gamma=1, evaluates=True)

    def forward(
        self,
        inputs: Any = None,
        data_samples: Any = None,
        mode: str = "tensor",
        labeled: Any = None,
        unlabeled: Any = None,
        **kwargs: Any,
    ) -> Any:
        """Return the losses of a labeled and an unlabeled batch, or predictions or output of the teacher.

        Args:
            inputs: images to predict, as the detector takes them.
            data_samples: their data samples.
            mode: ``loss``, ``predict`` or ``tensor``.
            labeled: for ``loss``, a batch with boxes.
            unlabeled: for ``loss``, the batches of the weak and the strong views.
            **kwargs: further inputs of the detector.
        """
        if mode != "loss":
            return self.teacher(inputs, data_samples, mode=mode, **kwargs)
        if labeled is None or unlabeled is None:
            if inputs is not None:  # the losses of a validation
                return self.detector(inputs, data_samples, mode="loss", **kwargs)
            raise missing_loaders(self)
        losses = {f"{_LABELED}_{name}": value for name, value in self.detector(**labeled, mode="loss").items()}
        if MessageHub.get_current_instance().get_info("iter", 0) < self.burn_in:
            return losses
        weak, strong = unlabeled
        found = [self._labels(sample.pred_instances) for sample in self.teacher(**weak, mode="predict")]
        for sample, instances in zip(strong["data_samples"], found):
            sample.gt_instances = instances
        for name, value in self.detector(**strong, mode="loss").items():
            losses[f"{_UNLABELED}_{name}"] = self.weight * value if "loss" in name else value
        losses["objects_per_image"] = torch.tensor(sum(map(len, found)) / len(found), device=found[0].bboxes.device)
        return losses

    def _labels(self, detections: InstanceData) -> InstanceData:
        """Return the confident detections as annotations."""
        boxes = detections.bboxes
        kept = (detections.scores >= self.threshold) & (boxes[:, 2:] > boxes[:, :2]).all(1)
        chosen = detections[kept]
        names = [name for name in ("bboxes", "labels", "masks", "keypoints") if name in chosen]
        return InstanceData(**{name: chosen[name] for name in names})

    def export_form(self) -> ExportForm:
        """Return the form of the teacher that ``trainwright export`` needs."""
        return form_of_part(self.teacher.module, self.data_preprocessor.inner)


class _TwoViewsPreprocessor(BaseDataPreprocessor):
    """Prepare labeled and other images as the detector does, and both views of unlabeled ones one after the other."""

    def __init__(self, inner: Any) -> None:
        super().__init__()
        self.inner = inner

    def of_loader(self, name: str) -> Any:
        """Return the preprocessor for a training data loader."""
        return self._prepare_views if name == _UNLABELED else self.inner

    def forward(self, data: Any, training: bool = False) -> Any:
        """Return a batch for validation or test."""
        return self.inner(data, training)

    def _prepare_views(self, data: Any, training: bool) -> list[Any]:
        views = data["inputs"]
        if not (isinstance(views, list) and len(views) == 2 and isinstance(views[0], list | tuple)):
            hint = "MultiView with a weak and a strong pipeline, PackInputs, and collate_fn='pseudo_collate'"
            raise ConfigError("train_dataloader.unlabeled", "does not make two views of each image", hint)
        return [self.inner({"inputs": images, "data_samples": _blank_samples(images)}, training) for images in views]


def _blank_samples(images: Sequence[Tensor]) -> list[DataSample]:
    """Return data samples whose predictions and annotations are in coordinates of the view itself."""
    sizes = [(int(image.shape[-2]), int(image.shape[-1])) for image in images]
    return [DataSample(metainfo={"img_shape": size, "ori_shape": size}) for size in sizes]
