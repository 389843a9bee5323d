"""Inference for pose estimation."""

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
    """Predict keypoints with a top-down model, in the given boxes or in whole images.

    Example:
        >>> inferencer = Pose2DInferencer("work_dirs/simple_baseline/best_coco_AP_epoch_140.pth")
        >>> found = inferencer("street.jpg", bboxes=[[40, 30, 120, 260], [200, 20, 290, 270]])["predictions"][0]
        >>> len(found["pred_instances"]["keypoints"])
        2

    Args:
        *args, **kwargs: see :class:`Inferencer`.
    """

    def __call__(
        self,
        inputs: Any,
        return_datasamples: bool = False,
        batch_size: int = 1,
        bboxes: Sequence[Any] | None = None,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """Predict the keypoints of one or more images.

        Args:
            inputs: see :class:`Inferencer`.
            return_datasamples: return predictions as data samples instead of dictionaries.
            batch_size: number of boxes per batch.
            bboxes: for each image, its boxes as left, top, right, bottom in pixels, of shape (N, 4); for a single image
                the outer list is optional. If None, each whole image is one box.
            **kwargs: see :class:`Inferencer`.

        Returns:
            The same as :class:`Inferencer`: one prediction per image, whose ``pred_instances`` are in the order of its
            boxes.

        Raises:
            ValueError: the number of lists of boxes differs from the number of images.
        """
        _, forward_kwargs, visualize_kwargs, postprocess_kwargs = self._dispatch_kwargs(**kwargs)
        images = self._inputs_to_list(inputs)
        boxes_per_image = _boxes_per_image(bboxes, len(images))
        crops = [(image, box) for image, boxes in zip(images, boxes_per_image) for box in boxes]
        batches = self.preprocess(crops, batch_size=batch_size)
        samples = iter([sample for batch in batches for sample in self.forward(batch, **forward_kwargs)])
        predictions = [_merge_instances(list(islice(samples, len(boxes)))) for boxes in boxes_per_image]
        pictures = self.visualize(images, predictions, **visualize_kwargs)
        return self.postprocess(predictions, pictures, return_datasamples, **postprocess_kwargs)

    def preprocess(self, inputs: Sequence[Any], batch_size: int = 1, **kwargs: Any) -> Iterator[Any]:
        """Yield batches of crops, given pairs of an image and a box or None."""
        crops = (self.pipeline(image, {} if box is None else {"bbox": box}) for image, box in inputs)  # type: ignore[call-arg]
        for chunk in self._get_chunk_data(crops, batch_size):
            yield self.collate_fn(chunk)


def _boxes_per_image(bboxes: Sequence[Any] | None, num_images: int) -> list[list[Any]]:
    """Return a list of boxes for each image."""
    if bboxes is None:
        return [[None]] * num_images
    is_flat = num_images == 1 and (len(bboxes) == 0 or torch.as_tensor(bboxes[0]).ndim == 1)
    nested = [bboxes] if is_flat else list(bboxes)
    if len(nested) != num_images:
        raise ValueError(f"expected a list of boxes for each of {num_images} images, got {len(nested)} lists")
    return [torch.as_tensor(boxes).reshape(-1, 4).tolist() for boxes in nested]


def _merge_instances(samples: list[DataSample]) -> DataSample:
    """Merge samples of the same image to one with all instances."""
    if not samples:
        shapes: dict[str, tuple[int, ...]] = {
            "keypoints": (0, 0, 2),
            "keypoint_scores": (0, 0),
            "scores": (0,),
            "bboxes": (0, 4),
        }
        empty = InstanceData()
        empty.set_data({name: torch.empty(shape) for name, shape in shapes.items()})
        return DataSample(pred_instances=empty)
    merged = samples[0]
    merged.pred_instances = InstanceData.cat([sample.pred_instances for sample in samples])
    return merged
