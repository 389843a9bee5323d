"""Transforms for top-down pose estimation, which crop an image around the box of an instance."""

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
    """Set the center and size of the crop around an instance: ``bbox_center`` and ``bbox_scale``, (x, y) in pixels.

    The box is ``bbox`` (left, top, right, bottom) if set, else the only box in ``gt_bboxes``, else the whole image; it
    is stored as ``bbox``.

    Args:
        padding: size of the crop relative to the box; values below 1 crop the box itself.

    Raises:
        ValueError: ``padding`` is not positive.
    """

    def __init__(self, padding: float = 1.25) -> None:
        if padding <= 0:
            raise ValueError(f"padding must be positive, not {padding}")
        self.padding = padding

    def __call__(self, results: dict[str, Any]) -> dict[str, Any]:
        """Return the sample with its box, crop center and crop size.

        Raises:
            ValueError: ``gt_bboxes`` does not have exactly one box, or the box has no area.
        """
        if "bbox" not in results:
            results["bbox"] = self._default_box(results)
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

    def _default_box(self, results: dict[str, Any]) -> Sequence[float]:
        boxes = results.get("gt_bboxes")
        if boxes is None:
            height, width = results["img"].shape[-2:]
            return 0.0, 0.0, width, height
        if len(boxes) != 1:
            raise ValueError(
                f"{sample_name(results)} has {len(boxes)} boxes, but a top-down pipeline expects one instance per "
                "sample: set data_mode='topdown' in the dataset"
            )
        box: list[float] = boxes[0].tolist()
        return box


@TRANSFORMS.register_module()
class RandomBBoxTransform:
    """Randomly shift, scale and rotate the crop around an instance, after :class:`GetBBoxCenterScale`.

    Shift, scale and angle are drawn from normal distributions truncated at two standard deviations, which correspond to
    the maximum values below.

    Args:
        shift_factor: maximum shift as a fraction of the crop size.
        shift_prob: probability of shifting, in [0, 1].
        scale_factor: minimum and maximum scale factor; the range must contain 1.
        scale_prob: probability of scaling, in [0, 1].
        rotate_factor: maximum angle in degrees.
        rotate_prob: probability of rotating, in [0, 1].

    Raises:
        ValueError: ``scale_factor`` is not positive or does not contain 1.
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
            raise ValueError(f"scale_factor must be (minimum, maximum), positive and containing 1, not {scale_factor}")
        self.shift_factor = shift_factor
        self.shift_prob = shift_prob
        self.scale_factor = (float(scale_factor[0]), float(scale_factor[1]))
        self.scale_prob = scale_prob
        self.rotate_factor = rotate_factor
        self.rotate_prob = rotate_prob

    def __call__(self, results: dict[str, Any]) -> dict[str, Any]:
        """Return the sample with a new crop and, if it is rotated, its angle ``bbox_rotation`` in degrees."""
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
    """Warp the crop to the network's input size, with its rotation; transform keypoints and boxes accordingly.

    The crop is extended along one axis to the aspect ratio of the input, so the image is not distorted. Areas outside
    the image are black. Sets ``warp_matrix``: the six numbers of the affine matrix (2, 3), row by row, from image
    pixels to input pixels, where the center of the top left pixel is (0, 0).

    Args:
        input_size: (width, height) of the network's input, as in MMPose.
    """

    def __init__(self, input_size: tuple[int, int]) -> None:
        self.input_size = (int(input_size[0]), int(input_size[1]))

    def __call__(self, results: dict[str, Any]) -> dict[str, Any]:
        """Return the sample with the crop as its image.

        Raises:
            KeyError: the sample has no ``bbox_center``.
        """
        from torchvision import tv_tensors

        width, height = self.input_size
        matrix = self._matrix(results)
        results["img"] = tv_tensors.Image(warp(results["img"], matrix, (height, width)))
        if "gt_keypoints" in results:
            results["gt_keypoints"] = _transform_points(results["gt_keypoints"], matrix)
        if "gt_bboxes" in results:
            boxes = _transform_boxes(results["gt_bboxes"], matrix)
            results["gt_bboxes"] = tv_tensors.BoundingBoxes(boxes, format="XYXY", canvas_size=(height, width))
        results["warp_matrix"] = tuple(matrix.flatten().tolist())
        return results

    def __repr__(self) -> str:
        return f"{type(self).__name__}(input_size={self.input_size})"

    def _matrix(self, results: dict[str, Any]) -> Tensor:
        """Return the affine matrix from image to input pixels, float64 (2, 3)."""
        width, height = self.input_size
        if "bbox_center" not in results:
            raise KeyError("the sample has no bbox_center: GetBBoxCenterScale must come before TopdownAffine")
        factor = min(width / results["bbox_scale"][0], height / results["bbox_scale"][1])
        angle = math.radians(results.get("bbox_rotation", 0.0))
        cos, sin = factor * math.cos(angle), factor * math.sin(angle)
        rotation = torch.tensor([[cos, -sin], [sin, cos]], dtype=torch.float64)
        # The origin of boxes is the corner of the top left pixel, that of keypoints and the matrix its center.
        center = torch.tensor(results["bbox_center"], dtype=torch.float64) - 0.5
        target = torch.tensor([(width - 1) / 2, (height - 1) / 2], dtype=torch.float64)
        return torch.cat([rotation, (target - rotation @ center)[:, None]], 1)


@TRANSFORMS.register_module()
class RandomFlip:
    """Randomly flip an image horizontally with its boxes, masks and keypoints.

    Left and right keypoints are swapped by ``flip_indices``, which keypoint datasets add to each sample.

    Args:
        prob: probability of flipping, in [0, 1].

    Raises:
        ValueError: ``prob`` is out of range.
    """

    def __init__(self, prob: float = 0.5) -> None:
        if not 0 <= prob <= 1:
            raise ValueError(f"prob must be in [0, 1], not {prob}")
        self.prob = prob

    def __call__(self, results: dict[str, Any]) -> dict[str, Any]:
        """Return the sample, flipped or not.

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
                    f"{sample_name(results)} has keypoints but no flip_indices: add the index of each keypoint's "
                    "mirror image to the dataset's metainfo"
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
    """Apply an affine map to an image with bilinear interpolation; areas outside the image are black.

    Args:
        image: shape (C, H, W), of any real dtype.
        matrix: map from image pixels to output pixels, float64 (2, 3); the center of the top left pixel is (0, 0).
        size: (height, width) of the output.

    Returns:
        the output, of shape (C, *size) and the dtype of the image.
    """
    height, width = image.shape[-2:]
    forward = torch.eye(3, dtype=torch.float64)
    forward[:2] = matrix
    # affine_grid expects the inverse map, in coordinates from -1 to 1 between the image borders.
    inverse = _normalized_to_pixels(height, width).inverse() @ forward.inverse() @ _normalized_to_pixels(*size)
    grid = F.affine_grid(inverse[None, :2].float(), [1, image.shape[0], *size], align_corners=False)
    plain = image.as_subclass(Tensor)
    warped = F.grid_sample(plain[None].float(), grid, mode="bilinear", padding_mode="zeros", align_corners=False)[0]
    return warped if plain.is_floating_point() else warped.round().to(plain.dtype)


def _normalized_to_pixels(height: int, width: int) -> Tensor:
    """Return the matrix (3, 3) from normalized coordinates in [-1, 1] to pixel coordinates."""
    return torch.tensor(
        [[width / 2, 0, (width - 1) / 2], [0, height / 2, (height - 1) / 2], [0, 0, 1]], dtype=torch.float64
    )


def _transform_points(points: Tensor, matrix: Tensor) -> Tensor:
    """Apply an affine map (2, 3) to points (..., 2)."""
    return (points.double() @ matrix[:, :2].T + matrix[:, 2]).to(points.dtype)


def _transform_boxes(boxes: Tensor, matrix: Tensor) -> Tensor:
    """Apply an affine map (2, 3) to boxes (N, 4) and return the bounding boxes of the results."""
    left, top, right, bottom = (boxes.as_subclass(Tensor) - 0.5).unbind(-1)
    corners = torch.stack([left, top, right, top, right, bottom, left, bottom], -1).view(-1, 4, 2)
    moved = _transform_points(corners, matrix) + 0.5
    return torch.cat([moved.amin(1), moved.amax(1)], 1)
