"""Object detection, instance segmentation and keypoint detection."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from trainwright.engine.errors import ConfigError
from trainwright.engine.export.form import ExportForm
from trainwright.engine.registry import MODELS
from trainwright.engine.structures.elements import BaseDataElement
from trainwright.engine.structures.instance_data import InstanceData
from trainwright.engine.structures.sample import DataSample, sample_name
from trainwright.models.base import BaseModel
from trainwright.models.detection.export import detection_form, to_instances
from trainwright.models.detection.instances import checked_instances
from trainwright.models.module import InitCfg
from trainwright.models.pretrained import build_network


@MODELS.register_module()
class TorchvisionDetector(BaseModel):
    """A model around a torchvision detector.

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

    Args:
        network: name of a torchvision detector, or a module or config of one, see :func:`TorchvisionDetectionModel`.
        num_classes: number of classes without background, for a network given by name.
        mask_thr_binary: probability threshold of mask pixels, in [0, 1].
        data_preprocessor: module or config; the type defaults to ``DetDataPreprocessor``.
        init_cfg: one or more initializer configs.

    Raises:
        ConfigError: ``num_classes`` is missing or given twice, or the network is not a torchvision detector.
    """

    def __init__(
        self,
        network: str | Mapping[str, Any] | nn.Module,
        num_classes: int | None = None,
        mask_thr_binary: float = 0.5,
        data_preprocessor: Mapping[str, Any] | nn.Module | None = None,
        init_cfg: InitCfg = None,
    ) -> None:
        if not isinstance(data_preprocessor, nn.Module):
            data_preprocessor = {"type": "DetDataPreprocessor", **(data_preprocessor or {})}
        super().__init__(data_preprocessor, init_cfg)
        self.network = build_network(network, num_classes, "TorchvisionDetectionModel")
        self.num_classes, self._first_label = _num_classes_and_first_label(self.network)
        heads = getattr(self.network, "roi_heads", None)
        checks = (("masks", "has_mask"), ("keypoints", "has_keypoint"))
        self._extra_fields = [field for field, check in checks if heads is not None and getattr(heads, check)()]
        predictor = getattr(heads, "keypoint_predictor", None)
        self.num_keypoints = None if predictor is None else int(predictor.kps_score_lowres.out_channels)
        if predictor is not None:
            predictor.register_forward_hook(_contiguous)
        self.mask_thr_binary = mask_thr_binary

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
        """
        if mode == "loss":
            targets = self._targets(data_samples)
            with _computing_losses(self.network):
                losses = self.network(inputs, targets)
            return {name if "loss" in name else f"loss_{name}": value for name, value in losses.items()}
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
        """Compile the backbone; the shapes in the rest change with every batch.

        Args:
            **options: arguments of :func:`torch.compile`.
        """
        backbone: Any = self.network.backbone
        backbone.compile(**options)

    def _targets(self, data_samples: Any) -> list[dict[str, Tensor]]:
        """Return the annotations of a batch in torchvision's format."""
        truths = checked_instances(data_samples, self.num_classes)
        return [self._target(sample, truth) for sample, truth in zip(data_samples, truths)]

    def _target(self, sample: BaseDataElement, truth: InstanceData) -> dict[str, Tensor]:
        target = {"boxes": truth.bboxes, "labels": truth.labels + self._first_label}
        for field in self._extra_fields:
            if field not in truth:
                hint = " (LoadAnnotations(with_mask=True))" if field == "masks" else ""
                raise ValueError(
                    f"the instances of {sample_name(sample)} have no {field}: does the pipeline load them{hint}?"
                )
            target[field] = truth[field]
        if "keypoints" in self._extra_fields and truth.keypoints.shape[-1] == 2:
            visible = truth.get("keypoints_visible")
            if visible is None:
                visible = truth.keypoints.new_ones(truth.keypoints.shape[:-1])
            target["keypoints"] = torch.cat([truth.keypoints, visible[..., None]], -1)
        return target

    def _predictions(
        self, detections: Sequence[Mapping[str, Tensor]], inputs: Sequence[Tensor], data_samples: Any
    ) -> list[DataSample]:
        samples = data_samples if isinstance(data_samples, list | tuple) else [DataSample() for _ in detections]
        for sample, detection, image in zip(samples, detections, inputs):
            size = (int(image.shape[-2]), int(image.shape[-1]))
            original = tuple(sample.get("ori_shape") or size)
            original = (int(original[0]), int(original[1]))
            sample.pred_instances = to_instances(self._fields(detection), size, original, self.mask_thr_binary)
        return list(samples)

    def _fields(self, detection: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return torchvision's detections in an image under our names, with labels starting at 0."""
        fields = {name: detection[key] for key, name in _NAMES.items() if key in detection}
        fields["labels"] = fields["labels"] - self._first_label
        if "keypoints" in fields:
            fields["keypoints"] = fields["keypoints"][..., :2]
        return fields

    def export_form(self) -> ExportForm:
        """Return the form that ``trainwright export`` needs, for one image at a time; see :func:`detection_form`."""
        names = [name for key, name in _NAMES.items() if key.partition("_")[0] in ("boxes", "labels", "scores")]
        names += [name for name in _NAMES.values() if any(name.startswith(field[:-1]) for field in self._extra_fields)]
        return detection_form(
            self, self.network, lambda images: self._fields(self.network(images)[0]), names, self.mask_thr_binary
        )


_NAMES = {
    "boxes": "bboxes", "labels": "labels", "scores": "scores", "masks": "masks", "keypoints": "keypoints",
    "keypoints_scores": "keypoint_scores",
}  # fmt: skip
"""Torchvision's names of the fields of detections, and ours."""


@contextmanager
def _computing_losses(network: nn.Module) -> Iterator[None]:
    """Make a network in evaluation mode compute losses, which torchvision's detectors only do in training mode.

    Only the detection modules are switched; layers such as batch normalization stay in evaluation mode.
    """
    if network.training:
        yield
        return
    prefix = "torchvision.models.detection."
    detection_modules = [module for module in network.modules() if type(module).__module__.startswith(prefix)]
    for module in detection_modules:
        module.training = True
    try:
        yield
    finally:
        for module in detection_modules:
            module.training = False


def _contiguous(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
    """Return the output of a layer in the format that torchvision's loss takes for granted."""
    return output.contiguous()


def _num_classes_and_first_label(network: Any) -> tuple[int, int]:
    """Return the number of classes without background, and torchvision's label of the first class.

    Raises:
        ConfigError: the network is not a torchvision detector.
    """
    from torchvision.models.detection import FCOS, RetinaNet
    from torchvision.models.detection.generalized_rcnn import GeneralizedRCNN
    from torchvision.models.detection.ssd import SSD

    if isinstance(network, GeneralizedRCNN):
        return network.roi_heads.box_predictor.cls_score.out_features - 1, 1
    if isinstance(network, SSD):
        return network.head.classification_head.num_columns - 1, 1
    if isinstance(network, FCOS | RetinaNet):
        return network.head.classification_head.num_classes, 0
    raise ConfigError(
        "network", f"a {type(network).__name__} is not a torchvision detector", "see TorchvisionDetectionModel"
    )
