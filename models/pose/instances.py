"""Reading keypoints from top-down data samples (one instance per sample), and writing predictions to them."""

from typing import Any

import torch
from torch import Tensor

from trainwright.engine.structures.elements import BaseDataElement
from trainwright.engine.structures.instance_data import InstanceData
from trainwright.engine.structures.sample import DataSample, sample_name

_MIN_KEYPOINT_SCORE = 0.2  # keypoints below are excluded from the instance score, as in Xiao et al.


def gather_keypoints(data_samples: Any, number: int, device: torch.device | str = "cpu") -> tuple[Tensor, Tensor]:
    """Return the keypoints of a batch and their visibility.

    Args:
        data_samples: a list of data samples with one instance each in ``gt_instances``: ``keypoints`` of shape
            (1, K, 2) and optionally ``keypoints_visible`` of shape (1, K); all keypoints are visible by default.
        number: the expected number of keypoints K.
        device: device of the results.

    Returns:
        x and y in input pixels, of shape (N, K, 2), and the visibility, 0 for unlabeled keypoints, of shape (N, K).

    Raises:
        ValueError: a sample has no keypoints, more or less than one instance, or the wrong number of keypoints.
    """
    if not isinstance(data_samples, list | tuple) or not data_samples:
        raise ValueError(f"the batch has no keypoints: its data samples are {data_samples!r}")
    points, visible = [], []
    for sample in data_samples:
        instances = sample.get("gt_instances")
        keypoints = None if instances is None else instances.get("keypoints")
        if keypoints is None:
            raise ValueError(
                f"{sample_name(sample)} has no keypoints in gt_instances: does the dataset provide gt_keypoints?"
            )
        if keypoints.shape != (1, number, 2):
            raise ValueError(
                f"{sample_name(sample)} has keypoints of shape {tuple(keypoints.shape)}, not {(1, number, 2)}: a "
                "top-down model needs one instance per sample (data_mode='topdown') and one keypoint per heat map"
            )
        points.append(keypoints[0])
        visibility = instances.get("keypoints_visible")
        visible.append(keypoints.new_ones(number) if visibility is None else visibility[0])
    return torch.stack(points).to(device), torch.stack(visible).to(device)


def add_pose_predictions(keypoints: Tensor, scores: Tensor, data_samples: Any = None) -> list[DataSample]:
    """Return the data samples with ``pred_instances`` in coordinates of the original images.

    ``pred_instances`` has ``keypoints`` (1, K, 2); ``keypoint_scores`` (1, K); ``scores`` (1,), the mean of the
    keypoint scores above 0.2, times the sample's ``bbox_score`` if it has one; ``bboxes`` (1, 4), the sample's ``bbox``
    or the bounding box of the keypoints; and ``labels`` (1,), the sample's ``bbox_label`` or 0. ``gt_instances`` are
    also transformed to the original image, by the inverse of the sample's ``warp_matrix``.

    Args:
        keypoints: x and y in input pixels, of shape (N, K, 2).
        scores: shape (N, K).
        data_samples: a list of data samples; new ones are created if None.
    """
    samples: list[DataSample] = [DataSample() for _ in keypoints] if data_samples is None else list(data_samples)
    to_original = torch.stack([_inverse_warp_matrix(sample) for sample in samples])
    points = _warp(keypoints, to_original.to(keypoints))
    box_scores = scores.new_tensor([sample.get("bbox_score", 1.0) for sample in samples])
    confident = scores > _MIN_KEYPOINT_SCORE
    instance_scores = (scores * confident).sum(1) / confident.sum(1).clamp(min=1) * box_scores
    for index, sample in enumerate(samples):
        row = slice(index, index + 1)
        sample.pred_instances = InstanceData(
            keypoints=points[row],
            keypoint_scores=scores[row],
            scores=instance_scores[row],
            bboxes=keypoints.new_tensor([sample.bbox]) if "bbox" in sample else _bounding_boxes(points[row]),
            labels=torch.full((1,), sample.get("bbox_label", 0), device=keypoints.device),
        )
        if "gt_instances" in sample:
            sample.gt_instances = _warp_instances(sample.gt_instances, to_original[row])
            if "gt_shape" in sample and "ori_shape" in sample:
                sample.set_metainfo({"gt_shape": sample.ori_shape})
    return samples


def _bounding_boxes(keypoints: Tensor) -> Tensor:
    """Return the bounding boxes (N, 4) of keypoints (N, K, 2)."""
    return torch.cat([keypoints.amin(1), keypoints.amax(1)], 1)


def _inverse_warp_matrix(sample: BaseDataElement) -> Tensor:
    """Return the affine matrix (2, 3) from the input to the original image; the identity without ``warp_matrix``."""
    matrix = torch.eye(3, dtype=torch.float64)
    if "warp_matrix" in sample:
        matrix[:2] = torch.tensor(sample.warp_matrix, dtype=torch.float64).view(2, 3)
    return matrix.inverse()[:2]


def _warp(points: Tensor, matrices: Tensor) -> Tensor:
    """Transform points (N, K, 2) by affine matrices (N, 2, 3)."""
    return points @ matrices[:, :, :2].transpose(1, 2) + matrices[:, None, :, 2]


def _warp_instances(instances: InstanceData, matrix: Tensor) -> InstanceData:
    """Transform the keypoints and boxes of instances by an affine matrix (1, 2, 3)."""
    warped: InstanceData = instances.new()
    keypoints, boxes = instances.get("keypoints"), instances.get("bboxes")
    if keypoints is not None:
        warped.keypoints = _warp(keypoints, matrix.to(keypoints))
    if boxes is not None:
        # The origin is the corner of the first pixel for boxes, and its center for keypoints.
        warped.bboxes = (_warp(boxes.view(-1, 2, 2) - 0.5, matrix.to(boxes)) + 0.5).flatten(1)
    return warped
