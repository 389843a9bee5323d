"""Keypoints into and out of the data samples of a top-down pose estimation: one instance a sample."""

from typing import Any

import torch
from torch import Tensor

from trainwright.engine.structures.elements import BaseDataElement
from trainwright.engine.structures.instance_data import InstanceData
from trainwright.engine.structures.sample import DataSample, sample_name

_SURE = 0.2  # keypoints below say nothing about the instance, as in the evaluation of Xiao et al.


def gather_keypoints(data_samples: Any, number: int, device: torch.device | str = "cpu") -> tuple[Tensor, Tensor]:
    """Return the keypoints of a batch, and how visible they are.

    Args:
        data_samples: list of data samples with one instance each in ``gt_instances``: ``keypoints`` of shape
            (1, K, 2) and ``keypoints_visible`` of shape (1, K), all visible where there is none.
        number: K, the number of keypoints that is expected.
        device: of the results.

    Returns:
        x and y in pixels of the input, of shape (N, K, 2), and 0 for those not labeled, of shape (N, K).

    Raises:
        ValueError: a sample has no keypoints, not one instance, or another number of keypoints; it is named.
    """
    if not isinstance(data_samples, list | tuple) or not data_samples:
        raise ValueError(f"the batch has no keypoints: its data samples are {data_samples!r}")
    points, visible = [], []
    for sample in data_samples:
        instances = sample.get("gt_instances")
        keypoints = None if instances is None else instances.get("keypoints")
        if keypoints is None:
            raise ValueError(
                f"{sample_name(sample)} has no keypoints in gt_instances: does the dataset give gt_keypoints?"
            )
        if keypoints.shape != (1, number, 2):
            raise ValueError(
                f"{sample_name(sample)} has keypoints of shape {tuple(keypoints.shape)}, not {(1, number, 2)}: a "
                "top-down model takes one instance a sample (data_mode='topdown'), with as many keypoints as heat maps"
            )
        points.append(keypoints[0])
        seen = instances.get("keypoints_visible")
        visible.append(keypoints.new_ones(number) if seen is None else seen[0])
    return torch.stack(points).to(device), torch.stack(visible).to(device)


def add_pose_predictions(keypoints: Tensor, scores: Tensor, data_samples: Any = None) -> list[DataSample]:
    """Return the data samples with ``pred_instances``, everything in coordinates of the original images.

    ``pred_instances`` has ``keypoints`` (1, K, 2), ``keypoint_scores`` (1, K), ``scores`` (1,), which is the mean of
    those over 0.2 times the score of the box where it has one, ``bboxes`` (1, 4), the box that was looked into, or else
    the one around the keypoints, and ``labels`` (1,), the sample's ``bbox_label`` or 0. ``gt_instances`` are brought
    back to the original image too, by the inverse of the sample's ``warp_matrix``.

    Args:
        keypoints: x and y in pixels of the input, of shape (N, K, 2).
        scores: shape (N, K).
        data_samples: list of data samples; new ones are made if None.
    """
    samples: list[DataSample] = [DataSample() for _ in keypoints] if data_samples is None else list(data_samples)
    back = torch.stack([_inverse(sample) for sample in samples])
    originals = _warped(keypoints, back.to(keypoints))
    box_scores = scores.new_tensor([sample.get("bbox_score", 1.0) for sample in samples])
    sure = scores > _SURE
    means = (scores * sure).sum(1) / sure.sum(1).clamp(min=1) * box_scores
    for index, sample in enumerate(samples):
        one = slice(index, index + 1)
        sample.pred_instances = InstanceData(
            keypoints=originals[one],
            keypoint_scores=scores[one],
            scores=means[one],
            bboxes=keypoints.new_tensor([sample.bbox]) if "bbox" in sample else _around(originals[one]),
            labels=torch.full((1,), sample.get("bbox_label", 0), device=keypoints.device),
        )
        if "gt_instances" in sample:
            sample.gt_instances = _restored(sample.gt_instances, back[one])
            if "gt_shape" in sample and "ori_shape" in sample:
                sample.set_metainfo({"gt_shape": sample.ori_shape})
    return samples


def _around(keypoints: Tensor) -> Tensor:
    """Return the boxes (N, 4) around keypoints (N, K, 2)."""
    return torch.cat([keypoints.amin(1), keypoints.amax(1)], 1)


def _inverse(sample: BaseDataElement) -> Tensor:
    """Return the matrix (2, 3) from the input back to the original image; the same pixels where none is known."""
    whole = torch.eye(3, dtype=torch.float64)
    if "warp_matrix" in sample:
        whole[:2] = torch.tensor(sample.warp_matrix, dtype=torch.float64).view(2, 3)
    return whole.inverse()[:2]


def _warped(points: Tensor, matrices: Tensor) -> Tensor:
    """Move points (N, K, 2) by matrices (N, 2, 3)."""
    return points @ matrices[:, :, :2].transpose(1, 2) + matrices[:, None, :, 2]


def _restored(instances: InstanceData, back: Tensor) -> InstanceData:
    """Return true instances in coordinates of the original image, by a matrix (1, 2, 3)."""
    restored: InstanceData = instances.new()
    keypoints, boxes = instances.get("keypoints"), instances.get("bboxes")
    if keypoints is not None:
        restored.keypoints = _warped(keypoints, back.to(keypoints))
    if boxes is not None:
        # Boxes count from the edge of the first pixel, keypoints from its center.
        restored.bboxes = (_warped(boxes.view(-1, 2, 2) - 0.5, back.to(boxes)) + 0.5).flatten(1)
    return restored
