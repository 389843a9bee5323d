"""Object detection, instance segmentation and keypoint detection."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from trainwright.engine.errors import ConfigError, TrainingError
from trainwright.engine.evaluation.samples import describe
from trainwright.engine.export.form import ExportForm
from trainwright.engine.registry import MODELS
from trainwright.engine.structures.elements import BaseDataElement
from trainwright.engine.structures.instance_data import InstanceData
from trainwright.engine.structures.sample import DataSample, sample_name
from trainwright.models.base import BaseModel
from trainwright.models.detection.export import detection_form, to_instances
from trainwright.models.detection.instances import checked_instances, keypoints_with_visibility
from trainwright.models.detection.losses import computing_losses, named_losses
from trainwright.models.module import InitCfg
from trainwright.models.pretrained import build_network


@MODELS.register_module()
class TorchvisionDetector(BaseModel):
    """A model around a torchvision detector, or a network of your own that is called in the same way.

    In training mode, such a network is called with a list of float images (C, H, W) in [0, 1] and a list of targets,
    each a dict with ``boxes``, ``labels`` and, if the data has them, ``masks`` and ``keypoints``, and returns a dict of
    losses. In evaluation mode, it is called with the images, and returns a dict for each, with ``boxes`` and ``labels``
    in the same form, ``scores``, and optionally ``masks`` (N, 1, H, W) or (N, H, W), ``keypoints`` (N, K, 3) and
    ``keypoints_scores`` (N, K).

    Data samples need ``gt_instances`` with ``bboxes`` (N, 4), as left, top, right, bottom in pixels of the image, and
    ``labels`` (N,), starting at 0. Mask R-CNN also needs ``masks`` (N, H, W). Keypoint R-CNN also needs ``keypoints``
    (N, K, 3), as x, y and visibility (0 if not labeled), or ``keypoints`` (N, K, 2) with ``keypoints_visible`` (N, K).
    An image without instances is a background image.

    Predictions are ``pred_instances`` with ``bboxes``, ``labels`` and ``scores`` (N,), sorted by score, and depending
    on the network ``masks``, bool (N, H, W), or ``keypoints`` (N, K, 2) and ``keypoint_scores`` (N, K). All of them are
    in coordinates of the original image.

    Example:
        >>> TorchvisionDetector("fcos_resnet50_fpn", num_classes=80)
        >>> TorchvisionDetector(
        ...     dict(
        ...         type="TorchvisionDetectionModel",
        ...         name="maskrcnn_resnet50_fpn",
        ...         num_classes=20,
        ...         weights="DEFAULT",
        ...         box_detections_per_img=50,
        ...     )
        ... )
        >>> TorchvisionDetector(dict(type="my_package.MyRCNN", depth=18), num_classes=3, background=True)

    Args:
        network: name of a torchvision detector, or a module or config of one, see :func:`TorchvisionDetectionModel`; or
            a module or config of a network of your own.
        num_classes: number of classes without background, for a network given by name or with ``background``.
        mask_thr_binary: probability threshold of mask pixels, in [0, 1].
        background: whether label 0 of the network is the background, so that its classes start at 1. It is required for
            a network that is not derived from torchvision's classes, and only for such a network.
        data_preprocessor: module or config; the type defaults to ``DetDataPreprocessor``.
        init_cfg: one or more initializer configs.

    Raises:
        ConfigError: ``num_classes`` is missing or given twice, or ``background`` is missing or contradicts the network.
    """

    def __init__(
        self,
        network: str | Mapping[str, Any] | nn.Module,
        num_classes: int | None = None,
        mask_thr_binary: float = 0.5,
        background: bool | None = None,
        data_preprocessor: Mapping[str, Any] | nn.Module | None = None,
        init_cfg: InitCfg = None,
    ) -> None:
        if not isinstance(data_preprocessor, nn.Module):
            data_preprocessor = {"type": "DetDataPreprocessor", **(data_preprocessor or {})}
        super().__init__(data_preprocessor, init_cfg)
        self.network, self.num_classes, self._first_label = _build(network, num_classes, background)
        heads = getattr(self.network, "roi_heads", None)
        self._extra_fields = _extra_fields(self.network)
        predictor = getattr(heads, "keypoint_predictor", None)
        layer = getattr(predictor, "kps_score_lowres", None)
        self.num_keypoints = None if layer is None else int(layer.out_channels)
        if layer is not None:
            predictor.register_forward_hook(_contiguous)  # type: ignore[union-attr]
        self.mask_thr_binary = mask_thr_binary

    @classmethod
    def check_config(cls, cfg: Mapping[str, Any]) -> Iterator[ConfigError]:
        """Yield the mistakes in a config of this model that its arguments show, with paths inside it."""
        yield from _mistakes(cfg.get("network"), cfg.get("num_classes"), cfg.get("background"))

    def forward(self, inputs: Sequence[Tensor], data_samples: Any = None, mode: str = "tensor") -> Any:
        """Return losses, predictions, or the network's output.

        Args:
            inputs: float images in [0, 1], each of shape (C, H, W).
            data_samples: a list of data samples.
            mode: ``loss`` for the losses; ``predict`` for data samples with ``pred_instances``; ``tensor`` for
                torchvision's detections, one dict per image.

        Raises:
            ValueError: in mode ``loss``, a sample has no ``gt_instances``, a box is not finite or has no area, or a
                label is out of range.
            TrainingError: the network returns neither losses nor detections in torchvision's form.
        """
        if mode == "loss":
            targets = self._targets(data_samples)
            with computing_losses(self.network):
                return named_losses(self.network(inputs, targets), self.network)
        if mode == "predict":
            return self._predictions(self.network(inputs), inputs, data_samples)
        if mode == "tensor":
            return self.network(inputs)
        raise ValueError(f"mode must be 'loss', 'predict' or 'tensor', not {mode!r}")

    @property
    def normalization(self) -> tuple[list[float], list[float]]:
        """Mean and standard deviation that images are normalized with by channel, for pixels from 0 to 255."""
        transform: Any = self.network.transform
        return [255 * value for value in transform.image_mean], [255 * value for value in transform.image_std]

    def compile_forward(self, **options: Any) -> None:
        """Compile the backbone, if the network has one; the shapes in the rest change with every batch.

        Args:
            **options: arguments of :func:`torch.compile`.
        """
        backbone: Any = getattr(self.network, "backbone", self.network)
        backbone.compile(**options)

    def _targets(self, data_samples: Any) -> list[dict[str, Tensor]]:
        """Return the annotations of a batch in torchvision's format."""
        truths = checked_instances(data_samples, self.num_classes)
        return [self._target(sample, truth) for sample, truth in zip(data_samples, truths)]

    def _target(self, sample: BaseDataElement, truth: InstanceData) -> dict[str, Tensor]:
        target = {"boxes": truth.bboxes, "labels": truth.labels + self._first_label}
        fields = self._extra_fields
        if fields is None:
            fields = [field for field in ("masks", "keypoints") if field in truth]
        for field in fields:
            if field not in truth:
                hint = " (LoadAnnotations(with_mask=True))" if field == "masks" else ""
                raise ValueError(
                    f"the instances of {sample_name(sample)} have no {field}: does the pipeline load them{hint}?"
                )
            target[field] = truth[field]
        if "keypoints" in target:
            target["keypoints"] = keypoints_with_visibility(truth)
        return target

    def _predictions(self, detections: Any, inputs: Sequence[Tensor], data_samples: Any) -> list[DataSample]:
        if not _are_detections(detections, len(inputs)):
            raise TrainingError(
                f"{type(self.network).__name__} must return a list of one dict for each image in evaluation mode, with "
                f"boxes, labels and scores, not {describe(detections)}"
            )
        samples = data_samples if isinstance(data_samples, list | tuple) else [DataSample() for _ in detections]
        for sample, detection, image in zip(samples, detections, inputs):
            size = (int(image.shape[-2]), int(image.shape[-1]))
            original = tuple(sample.get("ori_shape") or size)
            original = (int(original[0]), int(original[1]))
            sample.pred_instances = to_instances(self._fields(detection), size, original, self.mask_thr_binary)
        return list(samples)

    def _fields(self, detection: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the detections in an image under our names, with labels starting at 0."""
        if self._extra_fields is None:
            detection = _like_torchvision(detection)
        fields = {name: detection[key] for key, name in _NAMES.items() if key in detection}
        fields["labels"] = fields["labels"] - self._first_label
        if "keypoints" in fields:
            fields["keypoints"] = fields["keypoints"][..., :2]
        return fields

    def export_form(self) -> ExportForm:
        """Return the form that ``trainwright export`` needs, for one image at a time; see :func:`detection_form`."""
        if self._extra_fields is None:
            image = torch.zeros(3, 64, 64, device=next(self.network.parameters()).device)
            names = list(self._fields(self.network([image])[0]))
        else:
            names = [name for key, name in _NAMES.items() if key in _REQUIRED]
            names += [
                name for name in _NAMES.values() if any(name.startswith(field[:-1]) for field in self._extra_fields)
            ]
        return detection_form(
            self, self.network, lambda images: self._fields(self.network(images)[0]), names, self.mask_thr_binary
        )


_NAMES = {
    "boxes": "bboxes", "labels": "labels", "scores": "scores", "masks": "masks", "keypoints": "keypoints",
    "keypoints_scores": "keypoint_scores",
}  # fmt: skip
"""Torchvision's names of the fields of detections, and ours."""
_REQUIRED = ("boxes", "labels", "scores")


def _build(
    network: str | Mapping[str, Any] | nn.Module, num_classes: int | None, background: bool | None
) -> tuple[nn.Module, int, int]:
    """Return the network, its number of classes without background, and its label of the first class."""
    if background is None:
        module = build_network(network, num_classes, "TorchvisionDetectionModel")
        known = _num_classes_and_first_label(module)
        if known is None:
            name = type(module).__name__
            message = f"is required for a {name}, which is not derived from torchvision's detectors"
            hint = "set it to True if label 0 of the network is the background, otherwise to False, and set num_classes"
            raise ConfigError("background", message, hint)
        return module, *known
    for mistake in _mistakes(network, num_classes, background):
        raise mistake
    assert num_classes is not None and not isinstance(network, str)
    module = MODELS.build(network)
    if not isinstance(module, nn.Module):
        raise ConfigError("network", f"must be a module, not {describe(module)}")
    known, given = _num_classes_and_first_label(module), (num_classes, int(background))
    if known not in (None, given):
        message = (
            f"a {type(module).__name__} has {known[0]} classes, and label 0 is {'not ' * (not known[1])}background"
        )
        raise ConfigError("background", message, "remove background and num_classes, or correct the network")
    return module, *given


def _mistakes(network: Any, num_classes: int | None, background: bool | None) -> Iterator[ConfigError]:
    if background is None:
        return
    if isinstance(network, str):
        yield ConfigError("background", "is only for networks of your own", "remove it")
    elif num_classes is None:
        yield ConfigError("num_classes", "is required with background", "set it to the number of classes of the data")


def _are_detections(output: Any, number: int) -> bool:
    """Return whether the output of a network has the form of torchvision's detections in a number of images."""
    return (
        isinstance(output, list | tuple)
        and len(output) == number
        and all(isinstance(found, Mapping) and all(key in found for key in _REQUIRED) for found in output)
    )


def _like_torchvision(detection: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the detections of a network that may not be complete, sorted by score."""
    order = detection["scores"].argsort(descending=True)
    fields = {key: detection[key][order] for key in _NAMES if key in detection}
    if "masks" in fields:
        masks = fields["masks"].float()
        fields["masks"] = masks[:, None] if masks.dim() == 3 else masks
    if "keypoints" in fields and "keypoints_scores" not in fields:
        points = fields["keypoints"]
        fields["keypoints_scores"] = points[..., 2] if points.shape[-1] == 3 else torch.ones_like(points[..., 0])
    return fields


def _contiguous(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
    """Return the output of a layer in the format that torchvision's loss takes for granted."""
    return output.contiguous()


def _extra_fields(network: Any) -> list[str] | None:
    """Return what a network needs besides boxes and labels, or None if that is unknown."""
    from torchvision.models.detection import FCOS, RetinaNet
    from torchvision.models.detection.ssd import SSD

    if isinstance(network, FCOS | RetinaNet | SSD):
        return []
    heads = getattr(network, "roi_heads", None)
    checks = [(field, getattr(heads, f"has_{field[:-1]}", None)) for field in ("masks", "keypoints")]
    if any(check is None for _, check in checks):
        return None
    return [field for field, check in checks if check is not None and check()]


def _num_classes_and_first_label(network: Any) -> tuple[int, int] | None:
    """Return the number of classes without background and the label of the first class, or None if unknown."""
    from torchvision.models.detection import FCOS, RetinaNet
    from torchvision.models.detection.generalized_rcnn import GeneralizedRCNN
    from torchvision.models.detection.ssd import SSD

    try:
        if isinstance(network, GeneralizedRCNN):
            return network.roi_heads.box_predictor.cls_score.out_features - 1, 1
        if isinstance(network, SSD):
            return network.head.classification_head.num_columns - 1, 1
        if isinstance(network, FCOS | RetinaNet):
            return network.head.classification_head.num_classes, 0
    except AttributeError:  # a subclass with other heads
        return None
    return None
