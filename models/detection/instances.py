"""Reading the ground truth of detectors from data samples."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from trainwright.engine.structures.elements import BaseDataElement
from trainwright.engine.structures.instance_data import InstanceData
from trainwright.engine.structures.sample import sample_name


def checked_instances(data_samples: Any, num_classes: int) -> list[InstanceData]:
    """Return the ground truth of a batch, with valid boxes and labels.

    Args:
        data_samples: a list of data samples with ``gt_instances``.
        num_classes: number of classes without background.

    Raises:
        ValueError: there are no samples, one has no ``gt_instances``, a box is not finite or has no area, or a label is
            out of range.
    """
    if not isinstance(data_samples, list | tuple) or not data_samples:
        raise ValueError(f"the batch has no annotations: its data samples are {data_samples!r}")
    truths = [_instances_of(sample) for sample in data_samples]
    _check_boxes_and_labels(data_samples, truths, num_classes)
    return truths


def keypoints_with_visibility(truth: InstanceData) -> Tensor:
    """Return the keypoints (N, K, 3) of instances, as x, y and visibility, which is 1 if it is unknown."""
    keypoints: Tensor = truth.keypoints
    if keypoints.shape[-1] == 3:
        return keypoints
    visible = truth.get("keypoints_visible")
    if visible is None:
        visible = keypoints.new_ones(keypoints.shape[:-1])
    return torch.cat([keypoints, visible[..., None]], -1)


def _instances_of(sample: BaseDataElement) -> InstanceData:
    instances = sample.get("gt_instances")
    if instances is None or "bboxes" not in instances or "labels" not in instances:
        raise ValueError(
            f"{sample_name(sample)} has no gt_instances with bboxes and labels: does the pipeline load them "
            "(LoadAnnotations)?"
        )
    if (size := sample.get("gt_shape")) is not None and size != sample.get("img_shape", size):
        raise ValueError(
            f"the instances of {sample_name(sample)} are for an image of size {size}, but the image has size "
            f"{sample.img_shape}: load them before resizing, so that they are resized too"
        )
    return instances  # type: ignore[no-any-return]  # checked by the data sample


def _check_boxes_and_labels(
    data_samples: Sequence[BaseDataElement], truths: Sequence[InstanceData], num_classes: int
) -> None:
    """Check the boxes and labels of all images together, to synchronize with the device only once."""
    boxes = torch.cat([truth.bboxes for truth in truths])
    labels = torch.cat([truth.labels for truth in truths])
    valid = (boxes[:, 2:] > boxes[:, :2]).all(1) & boxes.isfinite().all(1)
    valid &= (labels >= 0) & (labels < num_classes)
    if valid.all():
        return
    index = int(valid.logical_not().nonzero()[0])
    box, label = boxes[index].tolist(), int(labels[index])
    owners = [(sample, number) for sample, truth in zip(data_samples, truths) for number in range(len(truth.bboxes))]
    sample, number = owners[index]
    problem = (
        f"has the label {label}, but labels must be from 0 to {num_classes - 1}"
        if not 0 <= label < num_classes
        else f"has no area or is not finite, its box is {box}: find bad annotations with `trainwright "
        "browse-dataset`, and remove boxes that were cropped away with SanitizeBoundingBoxes"
    )
    raise ValueError(f"{sample_name(sample)}: instance {number} {problem}")
