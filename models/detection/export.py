"""Export of torchvision's detectors."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from trainwright.engine.export.form import ExportForm
from trainwright.engine.registry import MODELS
from trainwright.engine.structures.instance_data import InstanceData
from trainwright.engine.structures.sample import DataSample


def detection_form(
    model: nn.Module,
    network: nn.Module,
    detections: Callable[[Any], Mapping[str, Tensor]],
    names: Sequence[str],
    mask_thr_binary: float,
) -> ExportForm:
    """Return the form of a detector, for one image at a time.

    The outputs are ``bboxes`` (K, 4), in pixels of the input; ``labels`` (K,); ``scores`` (K,), in descending order;
    and of some detectors ``masks`` (K, 1, H, W), which are probabilities, or ``keypoints`` (K, P, 2) and
    ``keypoint_scores`` (K, P).

    Args:
        model: the model.
        network: the detector of torchvision in it.
        detections: returns the outputs by name for a list of one image.
        names: names of the outputs.
        mask_thr_binary: probability threshold of mask pixels.
    """
    from torchvision.models.detection.generalized_rcnn import GeneralizedRCNN

    refused = {"executorch": "it has no operator for non-maximum suppression"}
    if isinstance(network, GeneralizedRCNN):
        reason = "torch.export cannot trace the regions of a two-stage detector, whose number depends on the image"
        refused["torch_export"] = reason
    return ExportForm(
        model,
        lambda images: tuple(detections(images)[name] for name in names),
        tuple(names),
        {"type": "DetectionDecoder", "mask_thr_binary": mask_thr_binary},
        instances=True,
        refused=refused,
        exporting=_traceable,
        needs_size=("torch.export",),
    )


@MODELS.register_module()
class DetectionDecoder:
    """Write the outputs of an exported detector to data samples, in coordinates of the original images.

    Args:
        mask_thr_binary: see :class:`TorchvisionDetector`.
    """

    def __init__(self, mask_thr_binary: float = 0.5) -> None:
        self.mask_thr_binary = mask_thr_binary

    def __call__(self, outputs: Mapping[str, Tensor], data_samples: Any, inputs: Tensor) -> list[DataSample]:
        """Return a list of one data sample with ``pred_instances``; see :class:`ExportForm`."""
        sample = data_samples[0] if data_samples else DataSample()
        size = (int(inputs.shape[-2]), int(inputs.shape[-1]))
        original = tuple(sample.get("ori_shape") or size)
        sample.pred_instances = to_instances(outputs, size, (int(original[0]), int(original[1])), self.mask_thr_binary)
        return [sample]


def to_instances(
    fields: Mapping[str, Tensor], size: tuple[int, int], original: tuple[int, int], mask_thr_binary: float
) -> InstanceData:
    """Return the instances of an image in coordinates of the original image.

    Args:
        fields: see :func:`detection_form`.
        size: height and width of the input.
        original: height and width of the original image.
        mask_thr_binary: probability threshold of mask pixels.
    """
    boxes, keypoints, masks = fields["bboxes"], fields.get("keypoints"), fields.get("masks")
    if size != original:
        scale = boxes.new_tensor([original[1] / size[1], original[0] / size[0]])
        boxes = boxes * scale.repeat(2)
        keypoints = None if keypoints is None else keypoints * scale
        masks = None if masks is None else F.interpolate(masks, original, mode="bilinear", align_corners=False)
    instances = InstanceData(bboxes=boxes, labels=fields["labels"], scores=fields["scores"])
    if masks is not None:
        instances.masks = masks.squeeze(1) >= mask_thr_binary
    if keypoints is not None:
        instances.keypoints = keypoints
        instances.keypoint_scores = fields["keypoint_scores"]
    return instances


@contextmanager
def _traceable() -> Iterator[None]:
    """Replace what the exporters cannot trace in torchvision by equivalents, while a detector is exported."""
    from torchvision.models.detection import transform
    from torchvision.ops import boxes as box_ops

    nms, resize = box_ops.batched_nms, transform._resize_image_and_masks

    def batched_nms(boxes: Tensor, scores: Tensor, idxs: Tensor, iou_threshold: float) -> Any:
        # Torchvision chooses between two ways by the number of boxes; its TorchScript version does not.
        chosen = _batched_nms if torch.compiler.is_exporting() else nms
        return chosen(boxes, scores, idxs, iou_threshold)

    def resize_image(
        image: Tensor, min_size: int, max_size: int, target: Any = None, fixed_size: tuple[int, int] | None = None
    ) -> Any:
        # Torchvision's TorchScript version resizes by the scale before rounding, which moves all pixels a little.
        if fixed_size is not None or torch.compiler.is_exporting():
            return resize(image, min_size, max_size, target, fixed_size)
        return _resize_to_whole_pixels(image, min_size, max_size), target

    box_ops.batched_nms, transform._resize_image_and_masks = batched_nms, resize_image
    try:
        yield
    finally:
        box_ops.batched_nms, transform._resize_image_and_masks = nms, resize


def _batched_nms(boxes: Tensor, scores: Tensor, idxs: Tensor, iou_threshold: float) -> Tensor:
    """Move the boxes of each class to a place of their own, as torchvision does for a small number of boxes."""
    largest = torch.cat([boxes.flatten(), boxes.new_zeros(1)]).max()  # of an empty tensor, too
    offsets = idxs.to(boxes) * (largest + 1)
    kept: Tensor = torch.ops.torchvision.nms(boxes + offsets[:, None], scores, iou_threshold)
    return kept


def _resize_to_whole_pixels(image: Tensor, min_size: int, max_size: int) -> Tensor:
    """Resize an image as torchvision does without tracing, in double precision up to the size in whole pixels."""
    shape = torch._shape_as_tensor(image)[-2:].double()
    # Divided as tensors: the exporter would multiply by a reciprocal, which may round down to one pixel less.
    limits = shape.new_tensor([float(min_size), float(max_size)])
    scale = torch.div(limits, torch.stack([shape.min(), shape.max()])).min()
    height, width = (shape * scale).floor().long()
    size: Any = (height, width)  # not ints, which would be constants
    return F.interpolate(image[None], size=size, mode="bilinear", align_corners=False)[0]
