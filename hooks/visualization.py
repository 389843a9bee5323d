"""Draw validation and test samples with their predictions."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainwright.engine.errors import ConfigError
from trainwright.engine.evaluation.samples import describe, samples_of
from trainwright.engine.registry import HOOKS
from trainwright.engine.run.hook import DataBatch, Hook
from trainwright.engine.structures.elements import BaseDataElement
from trainwright.engine.structures.sample import DataSample
from trainwright.engine.visualization.inputs import image_of_batch

if TYPE_CHECKING:
    from trainwright.engine.run.runner import Runner


@HOOKS.register_module(name=["VisualizationHook", "NaiveVisualizationHook"])
class VisualizationHook(Hook):
    """Draw validation and test samples with their predictions, and send the images to the visualization backends.

    The first sample of every ``interval``-th batch is drawn.

    Cost per step: none in training.

    Args:
        interval: number of batches between drawn samples.
        draw_gt: draw the annotations.
        draw_pred: draw the predictions.
        max_images: maximum number of images per validation or test.

    Raises:
        ConfigError: ``interval`` or ``max_images`` is not positive.
    """

    priority = "NORMAL"

    def __init__(self, interval: int = 1, draw_gt: bool = True, draw_pred: bool = True, max_images: int = 16) -> None:
        for name, value in (("interval", interval), ("max_images", max_images)):
            if value <= 0:
                raise ConfigError(f"VisualizationHook.{name}", f"must be positive, not {value}")
        self.interval = interval
        self.draw_gt = draw_gt
        self.draw_pred = draw_pred
        self.max_images = max_images
        self._drawn = 0

    def _before_epoch(self, runner: "Runner", mode: str = "train") -> None:
        self._drawn = 0

    def after_val_iter(
        self,
        runner: "Runner",
        batch_idx: int,
        data_batch: DataBatch = None,
        outputs: Sequence[Any] | None = None,
    ) -> None:
        """Draw a sample if this batch is due."""
        self._draw(runner, batch_idx, data_batch, outputs, "val")

    def after_test_iter(
        self,
        runner: "Runner",
        batch_idx: int,
        data_batch: DataBatch = None,
        outputs: Sequence[Any] | None = None,
    ) -> None:
        """Draw a sample if this batch is due."""
        self._draw(runner, batch_idx, data_batch, outputs, "test")

    def _draw(self, runner: "Runner", batch_idx: int, data_batch: DataBatch, outputs: Any, mode: str) -> None:
        if self._drawn >= self.max_images or not self.every_n_inner_iters(batch_idx, self.interval):
            return
        sample = _first_sample(outputs)
        name = Path(str(sample.get("img_path", ""))).stem or str(batch_idx)
        runner.visualizer.add_datasample(
            f"{mode}_{name}",
            image_of_batch(data_batch, sample),
            sample,
            draw_gt=self.draw_gt,
            draw_pred=self.draw_pred,
            step=runner.epoch,
        )
        self._drawn += 1


NaiveVisualizationHook = VisualizationHook
"""The name in MMEngine."""


def _first_sample(outputs: Any) -> DataSample:
    sample = samples_of(outputs)[0]
    if not isinstance(sample, BaseDataElement):
        message = f"expected data samples, but the model predicted {describe(outputs)}"
        raise ConfigError("VisualizationHook", message, "return data samples from predict, or remove the hook")
    return sample  # type: ignore[return-value]  # a DataSample or an element with the same fields
