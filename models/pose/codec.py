"""Conversion between keypoint coordinates and heat maps."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from trainwright.engine.registry import MODELS


@MODELS.register_module()
class MSRAHeatmap(nn.Module):
    """A codec that encodes each keypoint as a Gaussian in a separate heat map, and decodes it (Xiao et al. 2018).

    https://arxiv.org/abs/1804.06208. The center of the first pixel has the coordinates (0, 0), both in the input and in
    the heat map, and both cover the same area, so a flipped heat map corresponds exactly to the flipped input. With
    ``unbiased``, Gaussians are encoded with subpixel accuracy and decoded by the shape of their peaks (DARK, Zhang et
    al. 2020, https://arxiv.org/abs/1910.06278).

    Args:
        input_size: width and height of the network's input, in this order as in MMPose.
        heatmap_size: width and height of the heat maps.
        sigma: standard deviation of the Gaussians, in heat map pixels; positive.
        unbiased: encode and decode subpixel positions; otherwise peaks are encoded at whole pixels and decoded with an
            offset of a quarter pixel towards the larger neighbors.
        blur_kernel_size: size of the Gaussian filter that smooths heat maps before ``unbiased`` decoding; odd.

    Raises:
        ValueError: a size, ``sigma`` or ``blur_kernel_size`` is out of range.
    """

    def __init__(
        self,
        input_size: tuple[int, int],
        heatmap_size: tuple[int, int],
        sigma: float = 2.0,
        unbiased: bool = False,
        blur_kernel_size: int = 11,
    ) -> None:
        if min(*input_size, *heatmap_size) < 3 or sigma <= 0 or blur_kernel_size % 2 == 0:
            raise ValueError(
                "input_size and heatmap_size must be at least 3 pixels, sigma positive, and blur_kernel_size odd, not "
                f"{input_size}, {heatmap_size}, {sigma} and {blur_kernel_size}"
            )
        super().__init__()
        self.input_size = (int(input_size[0]), int(input_size[1]))
        self.heatmap_size = (int(heatmap_size[0]), int(heatmap_size[1]))
        self.sigma = sigma
        self.unbiased = unbiased
        self.blur_kernel_size = blur_kernel_size

    def encode(self, keypoints: Tensor, visible: Tensor) -> tuple[Tensor, Tensor]:
        """Return the heat maps of keypoints, and their weights.

        Args:
            keypoints: x and y in input pixels, of shape (N, K, 2).
            visible: visibility, 0 for unlabeled keypoints, of shape (N, K).

        Returns:
            float32 heat maps of shape (N, K, height, width) with peaks of 1; and their weights of shape (N, K), 0 for
            keypoints that are unlabeled or whose Gaussian is outside the heat map, otherwise 1.
        """
        width, height = self.heatmap_size
        centers = self._to_heatmap(keypoints.float())
        if not self.unbiased:
            centers = centers.round()
        reach = 3 * self.sigma
        limit = centers.new_tensor([width, height])
        inside = ((centers >= -reach) & (centers < limit + reach)).all(-1)
        columns = self._gaussian(centers[..., 0], width, reach)
        rows = self._gaussian(centers[..., 1], height, reach)
        heatmaps = rows[..., :, None] * columns[..., None, :]
        return heatmaps, ((visible > 0) & inside).to(heatmaps.dtype)

    def decode(self, heatmaps: Tensor) -> tuple[Tensor, Tensor]:
        """Return the keypoints of heat maps, and their scores.

        Args:
            heatmaps: shape (N, K, height, width).

        Returns:
            x and y in input pixels, of shape (N, K, 2); and the heights of the peaks, of shape (N, K).
        """
        heatmaps = heatmaps.float()
        scores, indices = heatmaps.flatten(2).max(2)
        width, height = heatmaps.shape[-1], heatmaps.shape[-2]
        peaks = torch.stack([indices % width, indices // width], -1)
        if self.unbiased:
            offset = self._taylor_offset(heatmaps, peaks)
        else:
            left, right, up, down = self._neighbor_values(heatmaps, peaks)
            offset = 0.25 * torch.stack([right - left, down - up], -1).sign()
        # Peaks on the border lack a neighbor.
        limit = peaks.new_tensor([width - 1, height - 1])
        offset = offset.where((peaks > 0) & (peaks < limit), 0.0)
        return self._to_input(peaks + offset), scores

    def extra_repr(self) -> str:
        return f"input_size={self.input_size}, heatmap_size={self.heatmap_size}, sigma={self.sigma}"

    def _gaussian(self, centers: Tensor, size: int, reach: float) -> Tensor:
        """Return a Gaussian along one axis, of shape (N, K, size), truncated at three standard deviations."""
        distance = torch.arange(size, device=centers.device) - centers[..., None]
        return torch.exp(-distance.square() / (2 * self.sigma**2)).where(distance.abs() <= reach, 0.0)

    def _stride(self, like: Tensor) -> Tensor:
        pairs = zip(self.input_size, self.heatmap_size)
        return like.new_tensor([whole / part for whole, part in pairs])

    def _to_heatmap(self, points: Tensor) -> Tensor:
        return (points + 0.5) / self._stride(points) - 0.5

    def _to_input(self, points: Tensor) -> Tensor:
        return (points + 0.5) * self._stride(points) - 0.5

    def _neighbor_values(self, planes: Tensor, peaks: Tensor) -> list[Tensor]:
        """Return the values to the left of, right of, above and below the peaks, each of shape (N, K)."""
        return [self._value_at(planes, peaks, *step) for step in ((-1, 0), (1, 0), (0, -1), (0, 1))]

    def _value_at(self, planes: Tensor, peaks: Tensor, right: int, down: int) -> Tensor:
        width, height = planes.shape[-1], planes.shape[-2]
        x, y = (peaks[..., 0] + right).clamp(0, width - 1), (peaks[..., 1] + down).clamp(0, height - 1)
        return planes.flatten(2).gather(2, (y * width + x)[..., None])[..., 0]

    def _taylor_offset(self, heatmaps: Tensor, peaks: Tensor) -> Tensor:
        """Return the offset of the subpixel peak from the largest pixel: -H⁻¹g of the smoothed log heat map."""
        surface = self._blurred(heatmaps).clamp(min=1e-10).log()
        center = self._value_at(surface, peaks, 0, 0)
        left, right, up, down = self._neighbor_values(surface, peaks)
        dx, dy = (right - left) / 2, (down - up) / 2
        dxx, dyy = right - 2 * center + left, down - 2 * center + up
        corners = [self._value_at(surface, peaks, x, y) for x, y in ((1, 1), (-1, -1), (1, -1), (-1, 1))]
        dxy = (corners[0] + corners[1] - corners[2] - corners[3]) / 4
        determinant = dxx * dyy - dxy.square()
        offset = torch.stack([dxy * dy - dyy * dx, dxy * dx - dxx * dy], -1) / determinant[..., None]
        is_peak = (determinant > 1e-6) & (dxx < 0)
        return offset.where(is_peak[..., None], 0.0).clamp(-1, 1)

    def _blurred(self, heatmaps: Tensor) -> Tensor:
        """Apply a Gaussian filter, whose standard deviation is derived from its size as in OpenCV."""
        reach = self.blur_kernel_size // 2
        deviation = 0.3 * (reach - 1) + 0.8
        steps = torch.arange(-reach, reach + 1, device=heatmaps.device, dtype=heatmaps.dtype)
        kernel = torch.exp(-steps.square() / (2 * deviation**2))
        kernel /= kernel.sum()
        planes = heatmaps.flatten(0, 1)[:, None]
        planes = F.conv2d(planes, kernel.view(1, 1, 1, -1), padding=(0, reach))
        return F.conv2d(planes, kernel.view(1, 1, -1, 1), padding=(reach, 0))[:, 0].view_as(heatmaps)


@MODELS.register_module()
class UDPHeatmap(MSRAHeatmap):
    """A codec of heat maps whose corner pixels are those of the input (UDP, Huang et al. 2020), as in ViTPose.

    https://arxiv.org/abs/1911.07524. Like :class:`MSRAHeatmap` with ``unbiased``, except that the centers of the first
    and last pixels of the heat map are those of the input.

    Args:
        input_size: width and height of the network's input.
        heatmap_size: width and height of the heat maps.
        sigma: standard deviation of the Gaussians, in heat map pixels; positive.
        blur_kernel_size: size of the Gaussian filter that smooths heat maps before decoding; odd.

    Raises:
        ValueError: a size, ``sigma`` or ``blur_kernel_size`` is out of range.
    """

    def __init__(
        self,
        input_size: tuple[int, int],
        heatmap_size: tuple[int, int],
        sigma: float = 2.0,
        blur_kernel_size: int = 11,
    ) -> None:
        super().__init__(input_size, heatmap_size, sigma, unbiased=True, blur_kernel_size=blur_kernel_size)

    def _stride(self, like: Tensor) -> Tensor:
        pairs = zip(self.input_size, self.heatmap_size)
        return like.new_tensor([(whole - 1) / (part - 1) for whole, part in pairs])

    def _to_heatmap(self, points: Tensor) -> Tensor:
        return points / self._stride(points)

    def _to_input(self, points: Tensor) -> Tensor:
        return points * self._stride(points)
