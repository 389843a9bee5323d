"""Object detection, instance segmentation and keypoints by region."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from trainwright.engine.errors import ConfigError
from trainwright.engine.registry import MODELS
from trainwright.engine.structures.elements import BaseDataElement
from trainwright.engine.structures.instance_data import InstanceData
from trainwright.engine.structures.sample import DataSample, sample_name
from trainwright.models.base import BaseModel
from trainwright.models.module import InitCfg
from trainwright.models.pretrained import build_network


@MODELS.register_module()
class TorchvisionDetector(BaseModel):
    """Trains a detector of torchvision, and predicts with it.

    Data samples have ``gt_instances`` with ``bboxes`` (N, 4), from left, top to right, bottom in pixels of the image,
    and ``labels`` (N,), which count from 0. Mask R-CNN also needs ``masks`` (N, H, W); Keypoint R-CNN ``keypoints``
    (N, K, 3) with x, y and whether they are labeled, or (N, K, 2) beside ``keypoints_visible`` (N, K). An image
    without instances is trained as background.

    Predictions are ``pred_instances`` with ``bboxes``, ``labels`` and ``scores`` (N,), sorted by score, and as the
    network has them ``masks``, bool (N, H, W), or ``keypoints`` (N, K, 2) and ``keypoint_scores`` (N, K), all in the
    size of the original image.

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
        network: name of a detector of torchvision; or a module or config of one, see
            :func:`TorchvisionDetectionModel`.
        num_classes: number of classes, without background, for a network that is given by name.
        mask_thr_binary: a pixel with at least this probability belongs to a mask, in [0, 1].
        data_preprocessor: module or config; of type ``DetDataPreprocessor`` if it has no type.
        init_cfg: one or more initializer configs.

    Raises:
        ConfigError: ``num_classes`` is missing or given twice, or the network is no detector of torchvision.
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
        self.num_classes, self._first_label = _classes_of(self.network)
        heads = getattr(self.network, "roi_heads", None)
        asks = (("masks", "has_mask"), ("keypoints", "has_keypoint"))
        self._needed = [field for field, ask in asks if heads is not None and getattr(heads, ask)()]
        self.mask_thr_binary = mask_thr_binary

    def forward(self, inputs: Sequence[Tensor], data_samples: Any = None, mode: str = "tensor") -> Any:
        """Return losses, predictions, or what the network returns.

        Args:
            inputs: float images from 0 to 1, each of shape (C, H, W).
            data_samples: a list of data samples.
            mode: ``loss`` for the losses; ``predict`` for data samples with ``pred_instances``; ``tensor`` for
                torchvision's own detections, a dict for each image.

        Raises:
            ValueError: in mode ``loss``, a sample has no instances, boxes that are not finite or have no area, or
                labels beyond the classes; the message names it.
        """
        if mode == "loss":
            targets = self._targets(data_samples)
            with _losses_wanted(self.network):
                losses = self.network(inputs, targets)
            return {name if "loss" in name else f"loss_{name}": value for name, value in losses.items()}
        if mode == "predict":
            return self._predictions(self.network(inputs), inputs, data_samples)
        if mode == "tensor":
            return self.network(inputs)
        raise ValueError(f"mode must be 'loss', 'predict' or 'tensor', not {mode!r}")

    def compile_forward(self, **options: Any) -> None:
        """Compile the backbone: what follows has another shape for every batch.

        Args:
            **options: arguments of :func:`torch.compile`.
        """
        backbone: Any = self.network.backbone
        backbone.compile(**options)

    def _targets(self, data_samples: Any) -> list[dict[str, Tensor]]:
        """Return the annotations of a batch as torchvision takes them."""
        if not isinstance(data_samples, list | tuple) or not data_samples:
            raise ValueError(f"the batch has no annotations: its data samples are {data_samples!r}")
        truths = [_instances_of(sample) for sample in data_samples]
        self._check(data_samples, truths)
        return [self._target(sample, truth) for sample, truth in zip(data_samples, truths)]

    def _target(self, sample: BaseDataElement, truth: InstanceData) -> dict[str, Tensor]:
        target = {"boxes": truth.bboxes, "labels": truth.labels + self._first_label}
        for field in self._needed:
            if field not in truth:
                hint = " (LoadAnnotations(with_mask=True))" if field == "masks" else ""
                raise ValueError(
                    f"the instances of {sample_name(sample)} have no {field}: does the pipeline load them{hint}?"
                )
            target[field] = truth[field]
        if "keypoints" in self._needed and truth.keypoints.shape[-1] == 2:
            visible = truth.get("keypoints_visible")
            shown = truth.keypoints.new_ones(truth.keypoints.shape[:-1]) if visible is None else visible
            target["keypoints"] = torch.cat([truth.keypoints, shown[..., None]], -1)
        return target

    def _check(self, data_samples: Sequence[BaseDataElement], truths: Sequence[InstanceData]) -> None:
        """Look for boxes and labels that cannot be trained on; of all images at once, to wait for the device once."""
        boxes = torch.cat([truth.bboxes for truth in truths])
        labels = torch.cat([truth.labels for truth in truths])
        good = (boxes[:, 2:] > boxes[:, :2]).all(1) & boxes.isfinite().all(1)  # a NaN is never larger
        good &= (labels >= 0) & (labels < self.num_classes)
        if good.all():
            return
        index = int(good.logical_not().nonzero()[0])
        box, label = boxes[index].tolist(), int(labels[index])
        owners = [
            (sample, number) for sample, truth in zip(data_samples, truths) for number in range(len(truth.bboxes))
        ]
        sample, number = owners[index]
        wrong = (
            f"has the label {label}, but there are {self.num_classes} classes, from 0"
            if not 0 <= label < self.num_classes
            else f"with the box {box} has no area: `trainwright browse-dataset` names bad annotations; what crops "
            "leave of a box is removed by SanitizeBoundingBoxes"
        )
        raise ValueError(f"{sample_name(sample)}: instance {number} {wrong}")

    def _predictions(
        self, detections: Sequence[Mapping[str, Tensor]], inputs: Sequence[Tensor], data_samples: Any
    ) -> list[DataSample]:
        known = isinstance(data_samples, list | tuple)
        samples = data_samples if known else [DataSample() for _ in detections]
        for sample, found, image in zip(samples, detections, inputs):
            size = (int(image.shape[-2]), int(image.shape[-1]))
            original = tuple(sample.get("ori_shape") or size)
            sample.pred_instances = self._instances(found, size, (int(original[0]), int(original[1])))
        return list(samples)

    def _instances(self, found: Mapping[str, Tensor], size: tuple[int, int], original: tuple[int, int]) -> InstanceData:
        boxes, keypoints, masks = found["boxes"], found.get("keypoints"), found.get("masks")
        if size != original:
            scale = boxes.new_tensor([original[1] / size[1], original[0] / size[0]])
            boxes = boxes * scale.repeat(2)
            keypoints = None if keypoints is None else keypoints[..., :2] * scale
            masks = None if masks is None else F.interpolate(masks, original, mode="bilinear", align_corners=False)
        instances = InstanceData(bboxes=boxes, labels=found["labels"] - self._first_label, scores=found["scores"])
        if masks is not None:
            instances.masks = masks.squeeze(1) >= self.mask_thr_binary
        if keypoints is not None:
            instances.keypoints = keypoints[..., :2]
            instances.keypoint_scores = found["keypoints_scores"]
        return instances


@contextmanager
def _losses_wanted(network: nn.Module) -> Iterator[None]:
    """Let a network compute losses that is being validated: torchvision's do so only in training.

    Layers that behave differently in training, such as batch normalization, stay as they are.
    """
    if network.training:
        yield
        return
    switched = [module for module in network.modules() if type(module).__module__.startswith(_DETECTION)]
    for module in switched:
        module.training = True
    try:
        yield
    finally:
        for module in switched:
            module.training = False


_DETECTION = "torchvision.models.detection."


def _classes_of(network: Any) -> tuple[int, int]:
    """Return the number of classes without background, and torchvision's label of the first one.

    Raises:
        ConfigError: it is no detector of torchvision.
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
        "network", f"a {type(network).__name__} is no detector of torchvision", "see TorchvisionDetectionModel"
    )


def _instances_of(sample: BaseDataElement) -> InstanceData:
    instances = sample.get("gt_instances")
    if instances is None or "bboxes" not in instances or "labels" not in instances:
        raise ValueError(
            f"{sample_name(sample)} has no gt_instances with bboxes and labels: does the pipeline load them "
            "(LoadAnnotations)?"
        )
    if (of := sample.get("gt_shape")) is not None and of != sample.get("img_shape", of):
        raise ValueError(
            f"the instances of {sample_name(sample)} are for an image of the size {of}, not {sample.img_shape}: load "
            "them before the image is resized, so that both are"
        )
    return instances  # type: ignore[no-any-return]  # checked by the data sample
