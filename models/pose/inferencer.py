"""Inference for pose estimation."""

import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import islice
from typing import Any, ClassVar

import torch

from trainwright.engine.errors import ConfigError, DataError
from trainwright.engine.inference.inferencer import Inferencer, readable
from trainwright.engine.records.logger import print_log
from trainwright.engine.registry import INFERENCERS
from trainwright.engine.structures.instance_data import InstanceData
from trainwright.engine.structures.sample import DataSample
from trainwright.models.pose.boxes import Boxes, as_boxes, category_labels, match_images, read_boxes

_MAX_NAMED = 5


@INFERENCERS.register_module()
class Pose2DInferencer(Inferencer):
    """Predict keypoints with a top-down model: in given boxes, in those that a detector finds, or in whole images.

    Example:
        >>> inferencer = Pose2DInferencer("work_dirs/simple_baseline/best_coco_AP_epoch_140.pth")
        >>> found = inferencer("street.jpg", bboxes=[[40, 30, 120, 260], [200, 20, 290, 270]])["predictions"][0]
        >>> len(found["pred_instances"]["keypoints"])
        2

    Args:
        *args, **kwargs: see :class:`Inferencer`.
        det_model: a detector, in the forms of ``model`` of :class:`Inferencer`: its config, or its checkpoint.
        det_weights: checkpoint of the detector.
        det_cat_ids: the classes whose boxes are used, as labels or names of the detector's classes, or as category ids
            of a file of boxes; one or a list. By default ``person`` if the detector has that class, else all classes.

    A call takes these arguments as well:

    - ``bboxes``: for each image, its boxes as left, top, right, bottom in pixels, of shape (N, 4), or (N, 5) with
      scores; for a single image the outer list is optional. Or a dict of them by file name, or a file: see
      :func:`~trainwright.models.pose.boxes.read_boxes`. If None, the boxes are from the detector, or each whole image
      is one box.
    - ``bbox_thr``: lowest score of boxes with scores (0.3).
    - ``nms_thr``: of boxes with scores whose intersection over union is higher, only the best is kept (0.3).

    There is one prediction per image, whose ``pred_instances`` are in the order of its boxes (with scores, from high to
    low).

    Raises:
        ConfigError: the detector has no such class.
        ValueError: in a call, the number of lists of boxes differs from the number of images.
        DataError: in a call, the file of boxes is wrong, or has no boxes for these images.
    """

    preprocess_kwargs: ClassVar[set[str]] = {"bboxes", "bbox_thr", "nms_thr"}

    def __init__(
        self, *args: Any, det_model: Any = None, det_weights: Any = None, det_cat_ids: Any = None, **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        self.det_cat_ids = det_cat_ids
        self.detector: Inferencer | None = None
        if det_model is not None or det_weights is not None:
            device = next(self.model.parameters(), torch.empty(0)).device
            self.detector = Inferencer(det_model, det_weights, device, show_progress=False)
            self._labels = category_labels(det_cat_ids, list(self.detector.dataset_meta.get("classes") or ()))

    def _predictions(
        self,
        items: Sequence[Any],
        batch_size: int,
        errors: dict[int, Exception] | None,
        for_forward: Mapping[str, Any],
        bboxes: Any = None,
        bbox_thr: float = 0.3,
        nms_thr: float = 0.3,
        **for_preprocess: Any,
    ) -> Iterator[Any]:
        """Yield the predictions for images, ``batch_size`` images at a time."""
        given = self._given_boxes(bboxes, items)
        bare: list[Any] = []
        for start in range(0, len(items), batch_size):
            images = items[start : start + batch_size]
            failed: dict[int, Exception] = {}
            recorded = None if errors is None else failed
            found = self._detected(images, batch_size, recorded) if given is None else given[start : start + batch_size]
            boxes = None if found is None else [one.filtered(bbox_thr, nms_thr) for one in found]
            crops = [(image, None if boxes is None else boxes[index]) for index, image in enumerate(images)]
            counts: dict[int, int] = {}
            batches = self.preprocess(crops, batch_size=batch_size, errors=recorded, counts=counts)
            samples = iter([sample for batch in batches for sample in self.forward(batch, **for_forward)])
            if errors is not None:
                errors.update({start + index: error for index, error in failed.items()})
            read = [index for index in range(len(images)) if index not in failed]
            bare += [images[index] for index in read if not counts[index]]
            for index in read:
                yield _merge_instances(list(islice(samples, counts[index])), images[index])
        _report(bare, len(items))

    def preprocess(
        self,
        inputs: Sequence[Any],
        batch_size: int = 1,
        errors: dict[int, Exception] | None = None,
        counts: dict[int, int] | None = None,
        **kwargs: Any,
    ) -> Iterator[Any]:
        """Yield batches of crops, given pairs of an image and its boxes or None.

        Args:
            inputs: the pairs.
            batch_size: number of crops per batch.
            errors: see :class:`Inferencer`.
            counts: receives the number of crops of each image, by its index.
        """
        counts = {} if counts is None else counts

        def crops() -> Iterator[Any]:
            for index, (image, boxes) in enumerate(inputs):
                if index in (errors or {}):
                    continue
                found = readable(partial(self._crops, image, boxes), index, errors) or []
                counts[index] = len(found)
                yield from found

        for chunk in self._get_chunk_data(crops(), batch_size):
            yield self.collate_fn(chunk)

    def _given_boxes(self, bboxes: Any, images: Sequence[Any]) -> list[Boxes] | None:
        """Return the boxes of each image; None if none are given."""
        if bboxes is None:
            return None
        if self.detector is not None:
            raise ConfigError("bboxes", "the boxes are given, but there is also a detector", "use only one of them")
        if isinstance(bboxes, str | os.PathLike):
            return match_images(read_boxes(bboxes, self._cat_ids()), images, os.fspath(bboxes))
        if isinstance(bboxes, Mapping):
            return match_images({name: as_boxes(rows, name) for name, rows in bboxes.items()}, images, "bboxes")
        is_flat = len(images) == 1 and (len(bboxes) == 0 or torch.as_tensor(bboxes[0]).ndim == 1)
        nested = [bboxes] if is_flat else list(bboxes)
        if len(nested) != len(images):
            raise ValueError(f"expected a list of boxes for each of {len(images)} images, got {len(nested)} lists")
        return [as_boxes(rows, f"bboxes[{index}]") for index, rows in enumerate(nested)]

    def _cat_ids(self) -> list[Any] | None:
        given = self.det_cat_ids
        if given is None:
            return None
        return list(given) if isinstance(given, list | tuple) else [given]

    def _detected(
        self, images: Sequence[Any], batch_size: int, errors: dict[int, Exception] | None
    ) -> list[Boxes] | None:
        """Return the boxes that the detector finds, of the wanted classes; none for unreadable images.

        Without a detector, return None, for whole images.
        """
        if self.detector is None:
            return None
        answer = self.detector(list(images), return_datasamples=True, batch_size=batch_size, errors=errors)
        predictions = iter(answer["predictions"])
        detected = []
        for index in range(len(images)):
            instances = None if index in (errors or {}) else next(predictions).get("pred_instances")
            if instances is None or not len(instances):
                detected.append(Boxes(torch.empty(0, 4)))
                continue
            if self._labels is not None:
                instances = instances[torch.isin(instances.labels, torch.tensor(self._labels).to(instances.labels))]
            detected.append(Boxes(instances.bboxes.float().cpu(), instances.scores.float().cpu()))
        return detected

    def _crops(self, image: Any, boxes: Boxes | None) -> list[Any]:
        """Return the samples of an image, which is read once."""
        pipeline: Any = self.pipeline
        if boxes is None:
            return [pipeline(image)]
        if not len(boxes.boxes):
            return []
        sample = pipeline.load(image)
        height, width = sample["img"].shape[-2:]
        crops = []
        for index, box in enumerate(boxes.boxes.tolist()):
            if box[0] >= width or box[1] >= height or box[2] <= 0 or box[3] <= 0:
                name = image if isinstance(image, str | os.PathLike) else "the image"
                raise DataError(f"{name}: the box {box} is outside of the image, which is {width}x{height}")
            extra: dict[str, Any] = {"bbox": box}
            if boxes.scores is not None:
                extra["bbox_score"] = boxes.scores[index].item()
            crops.append(pipeline.transform({**sample, **extra}, image))
        return crops


def _report(bare: Sequence[Any], number: int) -> None:
    """Log the images without boxes."""
    if bare:
        names = ", ".join(
            str(image) if isinstance(image, str | os.PathLike) else "an array" for image in bare[:_MAX_NAMED]
        )
        more = ", …" if len(bare) > _MAX_NAMED else ""
        print_log(f"{len(bare)} of {number} images have no boxes: {names}{more}", "current", logging.WARNING)


def _merge_instances(samples: list[DataSample], image: Any) -> DataSample:
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
        metainfo = {"img_path": os.fspath(image)} if isinstance(image, str | os.PathLike) else {}
        return DataSample(metainfo=metainfo, pred_instances=empty)
    merged = samples[0]
    merged.pred_instances = InstanceData.cat([sample.pred_instances for sample in samples])
    return merged
