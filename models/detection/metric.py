"""COCO's mean average precision for boxes, masks and keypoints."""

import logging
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from trainwright.engine.data.names import difference, names_of
from trainwright.engine.errors import DataError, MissingExtraError, did_you_mean
from trainwright.engine.evaluation.metric import BaseMetric
from trainwright.engine.evaluation.report import Section
from trainwright.engine.fileio import dump, load
from trainwright.engine.records.logger import print_log
from trainwright.engine.registry import METRICS
from trainwright.engine.structures.masks import mask_problem

_IOU_TYPES = ("bbox", "segm", "keypoints")
# COCO's results: suffix, IoU threshold (None for the mean over all thresholds), and object area range.
_RESULTS = (("", None, "all"), ("_50", 0.5, "all"), ("_75", 0.75, "all"), ("_s", None, "small"), ("_m", None, "medium"),
            ("_l", None, "large"))  # fmt: skip


@METRICS.register_module()
class CocoMetric(BaseMetric):
    """COCO's mean average precision, computed by pycocotools, in [0, 1].

    For each ``metric`` the results are ``coco/bbox_mAP`` (mean over IoU thresholds from 0.5 to 0.95; OKS for
    keypoints), ``coco/bbox_mAP_50``, ``coco/bbox_mAP_75``, ``coco/bbox_mAP_s``, ``coco/bbox_mAP_m`` and
    ``coco/bbox_mAP_l`` (objects smaller than 32², up to 96², and larger than 96² pixels; there are no small objects for
    keypoints) and ``coco/bbox_AR`` (mean recall over the same thresholds). A result without any objects is NaN.

    Without ``ann_file``, the ground truth is the ``gt_instances`` of the samples, and ``ignored_instances`` are crowd
    regions. The area of an object is that of its mask, or else its ``areas``, or else that of its box. Ground truth and
    predictions must be in coordinates of the original image: if the pipeline resizes, load the annotations after that.

    Args:
        ann_file: COCO annotation file, to reproduce the official results exactly. The samples need an ``img_id``, and
            only predicted images are evaluated. Its categories and keypoints are matched by name; a class of the
            dataset that it lacks has no objects.
        metric: any of ``bbox``, ``segm`` (instance masks) and ``keypoints``.
        classwise: return the results of each class too, such as ``coco/car_bbox_mAP``.
        iou_thrs: IoU thresholds to average over; 0.5, 0.55, …, 0.95 if None.
        max_dets: maximum number of predictions per image, in order of their scores; 100, or 20 for keypoints, if None.
        sigmas: for keypoints, the standard deviation of the annotations of each keypoint, relative to the object size;
            by default those of the dataset's ``metainfo``, or else COCO's for persons.
        outfile_prefix: also write the predictions to COCO result files named ``{outfile_prefix}.bbox.json`` etc.
        format_only: write the files without computing metrics, for test sets without public annotations.
        collect_device, prefix, collect_dir: see :class:`BaseMetric`.

    Raises:
        MissingExtraError: pycocotools is not installed.
        ValueError: an unknown metric, or ``format_only`` without ``outfile_prefix``.
    """

    default_prefix = "coco"
    higher_is_better = True

    def __init__(
        self,
        ann_file: str | None = None,
        metric: str | Sequence[str] = "bbox",
        classwise: bool = False,
        iou_thrs: Sequence[float] | None = None,
        max_dets: int | None = None,
        sigmas: Sequence[float] | None = None,
        outfile_prefix: str | None = None,
        format_only: bool = False,
        collect_device: str = "cpu",
        prefix: str | None = None,
        collect_dir: str | None = None,
    ) -> None:
        super().__init__(collect_device, prefix, collect_dir)
        require_pycocotools(type(self).__name__)
        self.metrics = (metric,) if isinstance(metric, str) else tuple(metric)
        for name in self.metrics:
            if name not in _IOU_TYPES:
                hint = did_you_mean(name, _IOU_TYPES) or f"the metrics are {', '.join(_IOU_TYPES)}"
                raise ValueError(f"unknown metric {name!r}: {hint}")
        if format_only and outfile_prefix is None:
            raise ValueError("format_only requires outfile_prefix")
        self.ann_file = ann_file
        self.classwise = classwise
        self.iou_thrs = None if iou_thrs is None else tuple(iou_thrs)
        self.max_dets = max_dets
        self.sigmas = None if sigmas is None else tuple(sigmas)
        self.outfile_prefix = outfile_prefix
        self.writes_files = outfile_prefix is not None
        self.format_only = format_only
        self._evaluations: dict[str, Evaluation] = {}

    def check_dataset_meta(self) -> None:
        """Check that ``ann_file`` has the classes and keypoints of the dataset.

        Raises:
            DataError: it does not, or the number of ``sigmas`` differs from that of the keypoints.
        """
        keypoints = names_of(self.dataset_meta, "keypoints")
        if "keypoints" in self.metrics and self.sigmas is not None and keypoints and len(self.sigmas) != len(keypoints):
            raise DataError(f"{type(self).__name__} has {len(self.sigmas)} sigmas for {len(keypoints)} keypoints")
        if self.ann_file is not None and (classes := names_of(self.dataset_meta, "classes")):
            content = load(self.ann_file)
            categories = content.get("categories") if isinstance(content, Mapping) else None
            if not categories:
                raise DataError(f"{self.ann_file} is not an annotation file in COCO format: it has no categories")
            self._category_ids(categories, classes)
            if "keypoints" in self.metrics:
                self._keypoint_order(categories)

    def _category_ids(self, categories: Sequence[Mapping[str, Any]], classes: Sequence[str]) -> list[Any]:
        """Return the category id of each class; an unused id for a class that the file lacks.

        Raises:
            DataError: the file has none of the classes, or one is spelled differently.
        """
        ids = {str(category["name"]): category["id"] for category in categories}
        others = [name for name in ids if name not in classes]
        missing = [name for name in classes if name not in ids]
        if len(missing) == len(classes) or any(did_you_mean(name, others) for name in missing):
            raise DataError(
                f"the classes of the dataset and of ann_file {self.ann_file} differ: {difference(classes, list(ids))}"
            )
        are_numbers = all(isinstance(number, int) for number in ids.values())
        unused = {
            name: max(ids.values()) + 1 + index if are_numbers else f"no category {index}"
            for index, name in enumerate(missing)
        }
        return [(ids | unused)[name] for name in classes]

    def _keypoint_order(self, categories: Sequence[Mapping[str, Any]]) -> list[int] | None:
        """Return the index in ``ann_file`` of each keypoint of the dataset, or None if they have the same order.

        Raises:
            DataError: the keypoints have other names.
        """
        names = names_of(self.dataset_meta, "keypoints")
        listed = next((tuple(map(str, one["keypoints"])) for one in categories if one.get("keypoints")), names)
        if not names or listed == names:
            return None
        if set(listed) != set(names) or len(listed) != len(names):
            if len(listed) == len(names) and not set(listed) & set(names):
                return None  # the dataset names them in other words
            raise DataError(
                f"the keypoints of the dataset and of ann_file {self.ann_file} differ: {difference(names, listed)}"
            )
        return [listed.index(name) for name in names]

    def process(self, data_batch: Any, data_samples: Sequence[Mapping[str, Any]]) -> None:
        """Record the predictions of each sample and, without ``ann_file``, the ground truth, with masks as RLE."""
        for sample in data_samples:
            name = str(sample.get("img_path") or sample.get("img_id", "a sample"))
            predicted = sample.get("pred_instances")
            if predicted is None:
                raise ValueError(f"{name} has no pred_instances: the model must predict them")
            result = {"img_id": sample.get("img_id"), "name": name, "predicted": _arrays(predicted)}
            if self.ann_file is None and not self.format_only:
                if sample.get("gt_instances") is None:
                    raise ValueError(f"{name} has no gt_instances: the dataset must provide them, or set ann_file")
                require_original_size(sample)
                result["true"] = _arrays(sample["gt_instances"])
                result["ignored"] = _arrays(sample.get("ignored_instances") or {})
            elif result["img_id"] is None:
                raise ValueError(f"{name} has no img_id, which is required for {self.ann_file or 'the result file'}")
            self.results.append(result)

    def compute_metrics(self, results: list[dict[str, Any]]) -> dict[str, float]:
        """Return the results.

        Raises:
            ValueError: a prediction or annotation lacks a field that a metric needs, or ``ann_file`` has other classes.
        """
        classes = [str(name) for name in (self.dataset_meta or {}).get("classes", ())]
        if not classes:
            raise ValueError("CocoMetric cannot determine the classes: the dataset's metainfo must contain them")
        with redirect_stdout(StringIO()):
            truth, categories, images = self._ground_truth(results, classes)
        metrics: dict[str, float] = {}
        self._evaluations = {}
        for kind in self.metrics:
            predictions = [
                annotation
                for result, image in zip(results, images)
                for annotation in _annotations(result["predicted"], image, categories, [kind], result["name"])
            ]
            if self.outfile_prefix is not None:
                file = Path(f"{self.outfile_prefix}.{kind}.json")
                file.parent.mkdir(parents=True, exist_ok=True)
                keys = ["image_id", "category_id", "score", "segmentation" if kind == "segm" else kind]
                dump([{key: annotation[key] for key in keys} for annotation in predictions], file)
            if not self.format_only:
                with redirect_stdout(StringIO()):
                    evaluation = self._evaluate(truth, predictions, images, categories, kind)
                metrics |= self._summary(evaluation, classes, kind)
                if self.reporting:
                    self._evaluations[kind] = evaluation
        return metrics

    def report(self, results: list[dict[str, Any]], num_samples: int) -> list[Section]:
        """Return the results of each class, curves, the confusion matrix, and the worst samples."""
        from trainwright.models.detection.report import coco_sections

        evaluations, self._evaluations = self._evaluations, {}
        return coco_sections(evaluations, results, range(len(results)), self.dataset_meta or {}, num_samples)

    def _ground_truth(self, results: list[dict[str, Any]], classes: Sequence[str]) -> tuple[Any, list[int], list[Any]]:
        """Return the ground truth as a ``COCO`` object, the category id of each class, and the id of each image."""
        if self.ann_file is not None:
            from pycocotools.coco import COCO

            coco = COCO(self.ann_file)
            listed = coco.dataset["categories"]
            if "keypoints" in self.metrics and (order := self._keypoint_order(listed)) is not None:
                for annotation in coco.dataset["annotations"]:
                    if points := annotation.get("keypoints"):
                        annotation["keypoints"] = [x for old in order for x in points[3 * old : 3 * old + 3]]
            return coco, self._category_ids(listed, classes), [result["img_id"] for result in results]
        categories = list(range(1, len(classes) + 1))
        if self.format_only:
            return None, categories, [result["img_id"] for result in results]
        images = list(range(len(results)))
        annotations = []
        for result, image in zip(results, images):
            for part, crowd in (("true", 0), ("ignored", 1)):
                instances = _annotations(result[part], image, categories, self.metrics, result["name"])
                annotations += [{**annotation, "iscrowd": crowd} for annotation in instances]
        return _as_coco(annotations, images, categories), categories, images

    def _evaluate(
        self, truth: Any, predictions: list[dict[str, Any]], images: list[Any], categories: list[int], kind: str
    ) -> "Evaluation":
        from pycocotools.cocoeval import COCOeval

        if kind == "segm" and self.ann_file is not None:
            self._leave_out_bad_masks(truth, images)
        evaluation = COCOeval(truth, _as_coco(predictions, images, categories), kind)
        parameters = evaluation.params
        parameters.imgIds = sorted(set(images))
        parameters.catIds = categories
        parameters.maxDets = [self.max_dets or parameters.maxDets[-1]]
        if self.iou_thrs is not None:
            parameters.iouThrs = np.array(self.iou_thrs)
        if kind == "keypoints":
            sigmas = self.sigmas or (self.dataset_meta or {}).get("sigmas")
            if sigmas is not None:
                parameters.kpt_oks_sigmas = np.array(sigmas)
        evaluation.evaluate()
        evaluation.accumulate()
        return Evaluation(evaluation, categories, images)

    def _leave_out_bad_masks(self, truth: Any, images: list[Any]) -> None:
        """Leave out annotations with bad masks, at which pycocotools would crash; datasets may skip them too."""
        left_out = []
        for image in set(images):
            height, width = (truth.imgs[image].get(key, np.inf) for key in ("height", "width"))
            good = []
            for annotation in truth.imgToAnns[image]:
                if problem := mask_problem(annotation.get("segmentation"), (height, width)):
                    left_out.append(f"annotation {annotation['id']}: {problem}")
                else:
                    good.append(annotation)
            truth.imgToAnns[image] = good
        if left_out:
            message = f"{self.ann_file}: left out {len(left_out)} annotations with bad masks, such as {left_out[0]}"
            print_log(message, "current", logging.WARNING)

    def _summary(self, evaluation: "Evaluation", classes: Sequence[str], kind: str) -> dict[str, float]:
        results = {f"{kind}_mAP{suffix}": value for suffix, value in evaluation.average_precisions().items()}
        results[f"{kind}_AR"] = _mean(evaluation.select(evaluation.recall, None, "all"))
        lines = ["  ".join(f"{name} {value:.3f}" for name, value in results.items())]
        if self.classwise:
            width = max(map(len, classes))
            lines.append("class".ljust(width) + "".join(f"{'mAP' + suffix:>9}" for suffix in evaluation.suffixes))
            for index, name in enumerate(classes):
                values = evaluation.average_precisions(index)
                lines.append(name.ljust(width) + "".join(f"{value:9.3f}" for value in values.values()))
                results |= {f"{name}_{kind}_mAP{suffix}": value for suffix, value in values.items()}
        print_log("\n".join(lines), logger="current")
        return results


class Evaluation:
    """The results of COCOeval with the classes in the dataset's order.

    Attributes:
        coco: the ``COCOeval`` object.
        images: id of the image of each sample.
        categories: id of each class.
        precision: shape (T, R, K, A), for T IoU thresholds, R recall thresholds, K classes and A area ranges; -1
            without objects.
        recall: shape (T, K, A).
    """

    def __init__(self, coco: Any, categories: list[int], images: list[Any]) -> None:
        self.coco, self.categories, self.images = coco, categories, images
        order = {category: index for index, category in enumerate(sorted(categories))}  # pycocotools sorts them
        self.columns = [order[category] for category in categories]
        self.precision = coco.eval["precision"][..., 0][:, :, self.columns]
        self.recall = coco.eval["recall"][..., 0][:, self.columns]

    @property
    def suffixes(self) -> list[str]:
        """The suffixes of the results that the thresholds and area ranges allow."""
        areas, thresholds = self.coco.params.areaRngLbl, self.coco.params.iouThrs
        return [
            suffix
            for suffix, threshold, area in _RESULTS
            if area in areas and (threshold is None or np.isclose(thresholds, threshold).any())
        ]

    def average_precisions(self, label: int | None = None) -> dict[str, float]:
        """Return the average precision by suffix, of all classes or of one."""
        precision = self.precision if label is None else self.precision[:, :, [label]]
        known = self.suffixes
        return {suffix: _mean(self.select(precision, iou, area)) for suffix, iou, area in _RESULTS if suffix in known}

    def select(self, values: np.ndarray, threshold: float | None, area: str) -> np.ndarray:
        """Return the values at an IoU threshold (all if None) and an area range."""
        rows = slice(None) if threshold is None else np.isclose(self.coco.params.iouThrs, threshold)
        selected: np.ndarray = values[rows][..., self.coco.params.areaRngLbl.index(area)]
        return selected


def _mean(values: np.ndarray) -> float:
    valid = values[values > -1]
    return float(valid.mean()) if valid.size else float("nan")


def require_pycocotools(purpose: str) -> None:
    """Check that pycocotools is installed.

    Args:
        purpose: what requires it, for the error message.

    Raises:
        MissingExtraError: pycocotools is not installed.
    """
    try:
        import pycocotools.mask  # noqa: F401
    except ModuleNotFoundError as error:
        raise MissingExtraError("pycocotools", "coco", purpose) from error


def require_original_size(sample: Mapping[str, Any]) -> None:
    """Check that the ground truth of a sample is in coordinates of the original image, like the predictions.

    Raises:
        ValueError: the ground truth was resized.
    """
    size, original = sample.get("gt_shape"), sample.get("ori_shape")
    if size is not None and original is not None and tuple(size) != tuple(original):
        raise ValueError(
            f"the gt_instances of {sample.get('img_path', 'a sample')} were resized to {tuple(size)}, but predictions "
            f"are evaluated in the size of the original image, {tuple(original)}: in test pipelines, put "
            "LoadAnnotations after the transforms that resize"
        )


def encode_masks(masks: Tensor) -> list[dict[str, Any]]:
    """Encode masks as COCO's compressed RLE: dicts with ``size``, (height, width), and ``counts``, a string.

    Args:
        masks: shape (N, H, W), nonzero inside the masks.
    """
    from pycocotools import mask as coco_mask

    planes = np.asfortranarray(masks.bool().cpu().numpy().transpose(1, 2, 0).astype(np.uint8))
    encoded: list[dict[str, Any]] = coco_mask.encode(planes) if len(masks) else []
    return [{"size": rle["size"], "counts": rle["counts"].decode()} for rle in encoded]


def _arrays(instances: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of instances as arrays, with masks as RLE."""
    fields = ("bboxes", "labels", "scores", "areas", "keypoints", "keypoints_visible", "keypoint_scores")
    result: dict[str, Any] = {
        name: torch.as_tensor(instances[name]).detach().cpu().numpy() for name in fields if name in instances
    }
    if "masks" in instances:
        result["masks"] = encode_masks(torch.as_tensor(instances["masks"]))
    return result


def _annotations(
    instances: Mapping[str, Any],
    image: Any,
    categories: Sequence[int],
    kinds: Sequence[str],
    name: str,
) -> list[dict[str, Any]]:
    """Return COCO annotations, or COCO results if the instances have scores.

    Args:
        instances: as returned by :func:`_arrays`.
        image: id of the image.
        categories: category id of each class.
        kinds: metrics that the annotations are for: any of ``bbox``, ``segm`` and ``keypoints``; for results only one,
            which also determines how the area is computed.
        name: name of the image, for error messages.
    """
    from pycocotools import mask as coco_mask

    boxes = instances.get("bboxes", np.zeros((0, 4)))
    labels = instances.get("labels", np.zeros(0, int))
    required = {"segm": "masks", "keypoints": "keypoints"}
    for kind in kinds:
        field = required.get(kind)
        if field is not None and len(boxes) and field not in instances:
            raise ValueError(f"the instances of {name} have no {field}, which the metric {kind!r} requires")
    if len(boxes) != len(labels):
        raise ValueError(f"{name} has {len(boxes)} boxes but {len(labels)} labels: every instance needs a label")
    if len(labels) and (labels.min() < 0 or labels.max() >= len(categories)):
        raise ValueError(
            f"{name} has labels from {labels.min()} to {labels.max()}, but the dataset has {len(categories)} classes: "
            "the model's num_classes and the dataset's classes must agree"
        )
    annotations = []
    for index, ((left, top, right, bottom), label) in enumerate(zip(boxes.astype(float).tolist(), labels.tolist())):
        box = [left, top, right - left, bottom - top]
        annotation: dict[str, Any] = {
            "image_id": image, "category_id": categories[label], "bbox": box, "area": box[2] * box[3], "iscrowd": 0,
        }  # fmt: skip
        is_prediction = "scores" in instances
        if is_prediction:
            annotation["score"] = float(instances["scores"][index])
        if "masks" in instances:
            annotation["segmentation"] = instances["masks"][index]
            if "segm" in kinds or not is_prediction:
                annotation["area"] = float(coco_mask.area(annotation["segmentation"]))
        elif "areas" in instances:
            annotation["area"] = float(instances["areas"][index])
        if "keypoints" in instances:
            annotation |= _keypoints(instances, index)
            if is_prediction and "keypoints" in kinds:
                x, y = np.array(annotation["keypoints"]).reshape(-1, 3)[:, :2].T
                annotation["area"] = float(np.ptp(x) * np.ptp(y))
        annotations.append(annotation)
    return annotations


def _keypoints(instances: Mapping[str, Any], index: int) -> dict[str, Any]:
    """Return the keypoints of an instance as x, y and visibility: 0 (not labeled), 1 (occluded) or 2 (visible)."""
    points = instances["keypoints"][index].astype(float)
    if points.shape[-1] == 2:
        visible = instances.get("keypoints_visible")
        visibility = np.full(len(points), 2.0) if visible is None else visible[index]
        points = np.concatenate([points, np.reshape(visibility, (-1, 1))], axis=1)
    return {"keypoints": points.flatten().tolist(), "num_keypoints": int((points[:, 2] > 0).sum())}


def _as_coco(annotations: list[dict[str, Any]], images: list[Any], categories: list[int]) -> Any:
    """Return a ``COCO`` object with these annotations, numbered from 1."""
    from pycocotools.coco import COCO

    coco = COCO()
    coco.dataset = {
        "images": [{"id": image, "height": 0, "width": 0} for image in images],  # required, but RLE has its own size
        "categories": [{"id": category} for category in categories],
        "annotations": [{**annotation, "id": number} for number, annotation in enumerate(annotations, 1)],
    }
    coco.createIndex()
    return coco
