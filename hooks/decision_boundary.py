"""Draw the decision boundary of a classifier of 2D points."""

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from trainwright.engine.registry import HOOKS
from trainwright.engine.run.hook import Hook
from trainwright.engine.run.model_setup import unwrap

if TYPE_CHECKING:
    from trainwright.engine.run.runner import Runner

COLORS = np.array(
    [[31, 119, 180], [255, 127, 14], [44, 160, 44], [214, 39, 40], [148, 103, 189], [140, 86, 75]],
    dtype=np.float64,
)
"""RGB colors of the classes, reused cyclically if there are more classes."""


@HOOKS.register_module()
class DecisionBoundaryHook(Hook):
    """Draw the predicted class of each point in the plane, and the training points, at the end of training.

    The image is sent to the visualization backends as ``decision_boundary``. The dataset must have the attributes
    ``inputs``, the points, of shape (N, 2), and ``labels``, as ``TwoClouds`` and ``XOR`` do.

    Cost per step: none.

    Args:
        size: height and width of the image in pixels.
        margin: space around the outermost points, as a fraction of their range.
    """

    def __init__(self, size: int = 400, margin: float = 0.2) -> None:
        self.size = size
        self.margin = margin

    def after_train(self, runner: "Runner") -> None:
        """Draw the image."""
        dataset = runner.train_dataloader.dataset
        points, labels = dataset.inputs, dataset.labels
        low, high = points.amin(0), points.amax(0)
        low, high = low - self.margin * (high - low), high + self.margin * (high - low)
        image = 0.65 * 255 + 0.35 * COLORS[self._classes(runner, low, high) % len(COLORS)]
        pixels = ((points - low) / (high - low) * (self.size - 1)).round().long()
        for (column, row), label in zip(pixels.tolist(), labels.tolist()):
            row = self.size - 1 - row
            image[max(row - 1, 0) : row + 2, max(column - 1, 0) : column + 2] = COLORS[label % len(COLORS)]
        runner.visualizer.add_image("decision_boundary", image.round().astype(np.uint8), step=runner.iter)
        runner.logger.info("Saved the decision boundary to %s", runner.log_dir)

    @torch.no_grad()
    def _classes(self, runner: "Runner", low: Tensor, high: Tensor) -> Any:
        """Return the predicted class of each pixel, of shape (size, size), top row first."""
        x, y = (torch.linspace(float(low[axis]), float(high[axis]), self.size) for axis in (0, 1))
        grid = torch.cartesian_prod(y.flip(0), x).flip(1).to(runner.device)
        model = unwrap(runner.model).eval()
        return model(grid, mode="tensor").argmax(1).view(self.size, self.size).cpu().numpy()
