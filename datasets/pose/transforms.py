"""Transforms of top-down pose estimation: from an image and a box to a crop around it."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from trainwright.engine.registry import TRANSFORMS
from trainwright.engine.structures.sample import sample_name


@TRANSFORMS.register_module()
class GetBBoxCenterScale:
    """Set center and size of the crop around an instance: ``bbox_center`` and ``bbox_scale``, both (x, y) in pixels.

    The box is ``bbox``, of four numbers (left, top, right, bottom), or else the only one in ``gt_bboxes``, or else the
    whole image; it is kept as ``bbox``.

    Args:
        padding: size of the crop in relation to the box, at least 1 to see all of it.

    Raises:
        ValueError: ``padding`` is not positive.
    """

    def __init__(self, padding: float = 1.25) -> None:
        if padding <= 0:
            raise ValueError(f"padding must be positive, not {padding}")
        self.padding = padding

    def __call__(self, results: dict[str, Any]) -> dict[str, Any]:
        """Return the sample with its box.

        Raises:
            ValueError: several boxes, or one without an area; the sample is named.
        """
        if "bbox" not in results:
            results["bbox"] = self._box(results)
        left, top, right, bottom = results["bbox"] = tuple(float(value) for value in results["bbox"])
        if not (right > left and bottom > top):
            raise ValueError(
                f"the box {results['bbox']} (left, top, right, bottom) of {sample_name(results)} has no area"
            )
        results["bbox_center"] = ((left + right) / 2, (top + bottom) / 2)
        results["bbox_scale"] = ((right - left) * self.padding, (bottom - top) * self.padding)
        return results

    def __repr__(self) -> str:
        return f"{type(self).__name__}(padding={self.padding})"

    def _box(self, results: dict[str, Any]) -> Sequence[float]:
        boxes = results.get("gt_bboxes")
        if boxes is None:
            height, width = results["img"].shape[-2:]
            return 0.0, 0.0, width, height
        if len(boxes) != 1:
            raise ValueError(
                f"{sample_name(results)} has {len(boxes)} boxes: a top-down pipeline takes one instance a sample, as "
                "datasets with data_mode='topdown' give them"
            )
        box: list[float] = boxes[0].tolist()
        return box


@TRANSFORMS.register_module()
class RandomBBoxTransform:
    """Shift, scales and turns the crop around an instance, after :class:`GetBBoxCenterScale`.

    Shift, scale and angle are drawn from normal distributions that are cut off at two standard deviations, of which
    the given numbers are the largest that occur.

    Args:
        shift_factor: largest shift as a share of the crop's size.
        shift_prob: probability of a shift.
        scale_factor: smallest and largest factor of the size, around 1.
        scale_prob: probability of another size.
        rotate_factor: largest angle in degrees.
        rotate_prob: probability of a turn.

    Raises:
        ValueError: ``scale_factor`` does not contain 1, or is not positive.
    """

    def __init__(
        self,
        shift_factor: float = 0.16,
        shift_prob: float = 0.3,
        scale_factor: tuple[float, float] = (0.5, 1.5),
        scale_prob: float = 1.0,
        rotate_factor: float = 80.0,
        rotate_prob: float = 0.6,
    ) -> None:
        if not 0 < scale_factor[0] <= 1 <= scale_factor[1]:
            raise ValueError(f"scale_factor is (smallest, largest), around 1, not {scale_factor}")
        self.shift_factor = shift_factor
        self.shift_prob = shift_prob
        self.scale_factor = (float(scale_factor[0]), float(scale_factor[1]))
        self.scale_prob = scale_prob
        self.rotate_factor = rotate_factor
        self.rotate_prob = rotate_prob

    def __call__(self, results: dict[str, Any]) -> dict[str, Any]:
        """Return the sample with another crop, and ``bbox_rotation``, its angle in degrees."""
        chance = torch.rand(3).tolist()
        x, y, size, angle = torch.nn.init.trunc_normal_(torch.empty(4), std=0.5, a=-1.0, b=1.0).tolist()
        if chance[0] < self.shift_prob:
            (left, top), (width, height) = results["bbox_center"], results["bbox_scale"]
            results["bbox_center"] = (left + x * self.shift_factor * width, top + y * self.shift_factor * height)
        if chance[1] < self.scale_prob:
            smallest, largest = self.scale_factor
            factor = 1 + size * (largest - 1 if size > 0 else 1 - smallest)
            results["bbox_scale"] = tuple(side * factor for side in results["bbox_scale"])
        if chance[2] < self.rotate_prob:
            results["bbox_rotation"] = angle * self.rotate_factor
        return results

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}(shift_factor={self.shift_factor}, shift_prob={self.shift_prob}, "
            f"scale_factor={self.scale_factor}, scale_prob={self.scale_prob}, rotate_factor={self.rotate_factor}, "
            f"rotate_prob={self.rotate_prob})"
        )


@TRANSFORMS.register_module()
class TopdownAffine:
    """Cut the crop out of the image, turned and resized to the network's input; keypoints and boxes move along.

    The crop is widened on one axis to the input's shape, so nothing is stretched. What lies outside of the image is
    black. ``warp_matrix`` is set: six numbers, the rows of the matrix from pixels of the image to pixels of the input,
    where the center of the first pixel is (0, 0).

    Args:
        input_size: width and height of the network's input, as in MMPose.
    """

    def __init__(self, input_size: tuple[int, int]) -> None:
        self.input_size = (int(input_size[0]), int(input_size[1]))

    def __call__(self, results: dict[str, Any]) -> dict[str, Any]:
        """Return the sample with the crop as its image."""
        from torchvision import tv_tensors

        width, height = self.input_size
        matrix = self._matrix(results)
        results["img"] = tv_tensors.Image(warp(results["img"], matrix, (height, width)))
        if "gt_keypoints" in results:
            results["gt_keypoints"] = _moved(results["gt_keypoints"], matrix)
        if "gt_bboxes" in results:
            boxes = _moved_boxes(results["gt_bboxes"], matrix)
            results["gt_bboxes"] = tv_tensors.BoundingBoxes(boxes, format="XYXY", canvas_size=(height, width))
        results["warp_matrix"] = tuple(matrix.flatten().tolist())
        return results

    def __repr__(self) -> str:
        return f"{type(self).__name__}(input_size={self.input_size})"

    def _matrix(self, results: dict[str, Any]) -> Tensor:
        """Return the matrix from the image to the input, float64 (2, 3)."""
        width, height = self.input_size
        if "bbox_center" not in results:
            raise KeyError("the sample has no bbox_center: GetBBoxCenterScale must come before TopdownAffine")
        factor = min(width / results["bbox_scale"][0], height / results["bbox_scale"][1])
        angle = math.radians(results.get("bbox_rotation", 0.0))
        cos, sin = factor * math.cos(angle), factor * math.sin(angle)
        turn = torch.tensor([[cos, -sin], [sin, cos]], dtype=torch.float64)
        # Boxes count from the edge of the first pixel, keypoints and the matrix from its center.
        center = torch.tensor(results["bbox_center"], dtype=torch.float64) - 0.5
        target = torch.tensor([(width - 1) / 2, (height - 1) / 2], dtype=torch.float64)
        return torch.cat([turn, (target - turn @ center)[:, None]], 1)


@TRANSFORMS.register_module()
class RandomFlip:
    """Mirror an image with its boxes, masks and keypoints; left and right keypoints change places.

    Which these are is ``flip_indices`` in the sample, as datasets of keypoints give it.

    Args:
        prob: probability, in [0, 1].

    Raises:
        ValueError: ``prob`` is out of range.
    """

    def __init__(self, prob: float = 0.5) -> None:
        if not 0 <= prob <= 1:
            raise ValueError(f"prob must lie in [0, 1], not at {prob}")
        self.prob = prob

    def __call__(self, results: dict[str, Any]) -> dict[str, Any]:
        """Return the sample, mirrored or not.

        Raises:
            KeyError: the sample has keypoints, but no ``flip_indices``.
        """
        from torchvision.transforms.v2 import functional
        from torchvision.tv_tensors import TVTensor

        if torch.rand(()) >= self.prob:
            return results
        width = results["img"].shape[-1]
        for key, value in results.items():
            if isinstance(value, TVTensor):
                results[key] = functional.horizontal_flip(value)
        if "gt_keypoints" in results:
            if "flip_indices" not in results:
                raise KeyError(
                    f"{sample_name(results)} has keypoints but no flip_indices: name in the dataset's metainfo which "
                    "ones a mirror swaps"
                )
            order = list(results["flip_indices"])
            points = results["gt_keypoints"][..., order, :].clone()
            points[..., 0] = width - 1 - points[..., 0]
            results["gt_keypoints"] = points
            results["gt_keypoints_visible"] = results["gt_keypoints_visible"][..., order]
        if "warp_matrix" in results:
            a, b, x, *rest = results["warp_matrix"]
            results["warp_matrix"] = (-a, -b, width - 1 - x, *rest)
        return results

    def __repr__(self) -> str:
        return f"{type(self).__name__}(prob={self.prob})"


def warp(image: Tensor, matrix: Tensor, size: tuple[int, int]) -> Tensor:
    """Return an image seen through an affine map, bilinear, black where there is none.

    Args:
        image: shape (C, H, W), of any real dtype.
        matrix: from pixels of the image to pixels of the result, float64 (2, 3); the center of the first pixel is
            (0, 0).
        size: height and width of the result.
    """
    height, width = image.shape[-2:]
    whole = torch.eye(3, dtype=torch.float64)
    whole[:2] = matrix
    # affine_grid wants the way back, in coordinates from -1 to 1 between the edges.
    back = _from_unit(height, width).inverse() @ whole.inverse() @ _from_unit(*size)
    grid = F.affine_grid(back[None, :2].float(), [1, image.shape[0], *size], align_corners=False)
    plain = image.as_subclass(Tensor)
    seen = F.grid_sample(plain[None].float(), grid, mode="bilinear", padding_mode="zeros", align_corners=False)[0]
    return seen if plain.is_floating_point() else seen.round().to(plain.dtype)


def _from_unit(height: int, width: int) -> Tensor:
    """Return the matrix (3, 3) from coordinates between -1 and 1 to those of pixel centres."""
    return torch.tensor(
        [[width / 2, 0, (width - 1) / 2], [0, height / 2, (height - 1) / 2], [0, 0, 1]], dtype=torch.float64
    )


def _moved(points: Tensor, matrix: Tensor) -> Tensor:
    """Return points (..., 2) after an affine map (2, 3)."""
    return (points.double() @ matrix[:, :2].T + matrix[:, 2]).to(points.dtype)


def _moved_boxes(boxes: Tensor, matrix: Tensor) -> Tensor:
    """Return the boxes (N, 4) around boxes after an affine map (2, 3)."""
    left, top, right, bottom = (boxes.as_subclass(Tensor) - 0.5).unbind(-1)
    corners = torch.stack([left, top, right, top, right, bottom, left, bottom], -1).view(-1, 4, 2)
    moved = _moved(corners, matrix) + 0.5
    return torch.cat([moved.amin(1), moved.amax(1)], 1)
