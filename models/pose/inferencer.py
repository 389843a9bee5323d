"""Prediction of keypoints for images and boxes."""

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

import torch

from trainwright.engine.inference.inferencer import Inferencer
from trainwright.engine.registry import INFERENCERS
from trainwright.engine.structures.instance_data import InstanceData
from trainwright.engine.structures.sample import DataSample


@INFERENCERS.register_module()
class Pose2DInferencer(Inferencer):
    """Predicts keypoints with a top-down model, in given boxes or in whole images.

    Example:
        >>> inferencer = Pose2DInferencer("work_dirs/simple_baseline/best_coco_AP_epoch_140.pth")
        >>> found = inferencer("street.jpg", bboxes=[[40, 30, 120, 260], [200, 20, 290, 270]])["predictions"][0]
        >>> len(found["pred_instances"]["keypoints"])
        2

    Args:
        *args, **kwargs: as for :class:`Inferencer`.
    """

    def __call__(
        self,
        inputs: Any,
        return_datasamples: bool = False,
        batch_size: int = 1,
        bboxes: Sequence[Any] | None = None,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """Predict.

        Args:
            inputs: as for :class:`Inferencer`.
            return_datasamples: return predictions as data samples instead of dictionaries.
            batch_size: how many boxes the model gets at once.
            bboxes: for each image its boxes, of shape (N, 4), left, top, right, bottom in pixels; for a single image
                they may stand alone. The whole image is one box if None.
            **kwargs: as for :class:`Inferencer`.

        Returns:
            As :class:`Inferencer` does, one prediction for each image, whose ``pred_instances`` are those of its
            boxes in their order.

        Raises:
            ValueError: there are not as many lists of boxes as images.
        """
        _, for_forward, for_visualize, for_postprocess = self._dispatch_kwargs(**kwargs)
        items = self._inputs_to_list(inputs)
        boxes = _boxes_of_images(bboxes, len(items))
        crops = [(item, box) for item, of_item in zip(items, boxes) for box in of_item]
        batches = self.preprocess(crops, batch_size=batch_size)
        found = iter([sample for batch in batches for sample in self.forward(batch, **for_forward)])
        predictions = [_merged(list(islice(found, len(of_item)))) for of_item in boxes]
        pictures = self.visualize(items, predictions, **for_visualize)
        return self.postprocess(predictions, pictures, return_datasamples, **for_postprocess)

    def preprocess(self, inputs: Sequence[Any], batch_size: int = 1, **kwargs: Any) -> Iterator[Any]:
        """Yield batches of crops, for pairs of an image and a box or None."""
        crops = (self.pipeline(image, {} if box is None else {"bbox": box}) for image, box in inputs)  # type: ignore[call-arg]
        for chunk in self._get_chunk_data(crops, batch_size):
            yield self.collate_fn(chunk)


def _boxes_of_images(bboxes: Sequence[Any] | None, number: int) -> list[list[Any]]:
    """Return a list of boxes for each image."""
    if bboxes is None:
        return [[None]] * number
    alone = number == 1 and (len(bboxes) == 0 or torch.as_tensor(bboxes[0]).ndim == 1)
    several = [bboxes] if alone else list(bboxes)
    if len(several) != number:
        raise ValueError(f"{number} images, but boxes for {len(several)}: give a list of boxes for each image")
    return [torch.as_tensor(boxes).reshape(-1, 4).tolist() for boxes in several]


def _merged(samples: list[DataSample]) -> DataSample:
    """Return one sample with the instances of all."""
    if not samples:
        shapes: dict[str, tuple[int, ...]] = {
            "keypoints": (0, 0, 2),
            "keypoint_scores": (0, 0),
            "scores": (0,),
            "bboxes": (0, 4),
        }
        nothing = InstanceData()
        nothing.set_data({name: torch.empty(shape) for name, shape in shapes.items()})
        return DataSample(pred_instances=nothing)
    whole = samples[0]
    whole.pred_instances = InstanceData.cat([sample.pred_instances for sample in samples])
    return whole
