"""Mean average precision of boxes, masks and keypoints, as COCO defines it."""

from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from trainwright.engine.errors import MissingExtraError, did_you_mean
from trainwright.engine.evaluation.metric import BaseMetric
from trainwright.engine.fileio import dump
from trainwright.engine.records.logger import print_log
from trainwright.engine.registry import METRICS

_IOU_TYPES = ("bbox", "segm", "keypoints")
# Of COCO's definition: the suffix of a result, its threshold of the overlap, its range of areas.
_RESULTS = (("", None, "all"), ("_50", 0.5, "all"), ("_75", 0.75, "all"), ("_s", None, "small"), ("_m", None, "medium"),
            ("_l", None, "large"))  # fmt: skip


@METRICS.register_module()
class CocoMetric(BaseMetric):
    """COCO's mean average precision, by pycocotools, with values from 0 to 1.

    For each of ``metric`` the results are ``coco/bbox_mAP`` (mean over overlaps from 0.5 to 0.95),
    ``coco/bbox_mAP_50``, ``coco/bbox_mAP_75``, ``coco/bbox_mAP_s``, ``_m`` and ``_l`` (objects of less than 32², up to
    96², and more pixels; keypoints have no small ones) and ``coco/bbox_AR`` (recall, mean over the same overlaps). One
    that no object counts for is NaN.

    Without ``ann_file`` the truth are ``gt_instances`` of the samples, and ``ignored_instances`` as crowds; then the
    area of an object is that of its mask, or else its ``areas``, or else that of its box. Both truth and predictions
    must be in the size of the original image: in a pipeline that resizes, load the annotations after that.

    Args:
        ann_file: COCO's annotation file, for results that are exactly the published ones; the samples then need
            ``img_id``. Only the images are counted that were predicted.
        metric: any of ``bbox``, ``segm`` (instance masks) and ``keypoints``.
        classwise: return the results of each class too, as ``coco/car_bbox_mAP``.
        iou_thrs: overlaps over which the mean is taken; 0.5, 0.55, …, 0.95 if None.
        max_dets: how many predictions of an image count, those with the highest scores; 100, for keypoints 20, if None.
        sigmas: for keypoints, how exact each of them can be marked, as shares of an object's size; those of the
            dataset's ``metainfo``, or else of COCO's persons, if None.
        outfile_prefix: write the predictions as COCO's result files too, as ``{outfile_prefix}.bbox.json``.
        format_only: write the files, and compute nothing: for test sets without published annotations.
        collect_device, prefix, collect_dir: see :class:`BaseMetric`.

    Raises:
        MissingExtraError: pycocotools is not installed.
        ValueError: no such metric, or ``format_only`` without ``outfile_prefix``.
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
                hint = did_you_mean(name, _IOU_TYPES) or f"there are {', '.join(_IOU_TYPES)}"
                raise ValueError(f"no metric {name!r}: {hint}")
        if format_only and outfile_prefix is None:
            raise ValueError("format_only writes files and nothing else: give outfile_prefix")
        self.ann_file = ann_file
        self.classwise = classwise
        self.iou_thrs = None if iou_thrs is None else tuple(iou_thrs)
        self.max_dets = max_dets
        self.sigmas = None if sigmas is None else tuple(sigmas)
        self.outfile_prefix = outfile_prefix
        self.format_only = format_only

    def process(self, data_batch: Any, data_samples: Sequence[Mapping[str, Any]]) -> None:
        """Record the predictions of each sample, and without ``ann_file`` the truth; masks as RLE."""
        for sample in data_samples:
            name = str(sample.get("img_path") or sample.get("img_id", "a sample"))
            predicted = sample.get("pred_instances")
            if predicted is None:
                raise ValueError(f"{name} has no pred_instances: the model must predict them")
            result = {"img_id": sample.get("img_id"), "name": name, "predicted": _arrays(predicted)}
            if self.ann_file is None and not self.format_only:
                if sample.get("gt_instances") is None:
                    raise ValueError(f"{name} has no gt_instances: the dataset must give them, or give an ann_file")
                require_original_size(sample)
                result["true"] = _arrays(sample["gt_instances"])
                result["ignored"] = _arrays(sample.get("ignored_instances") or {})
            elif result["img_id"] is None:
                raise ValueError(f"{name} has no img_id, by which it is found in {self.ann_file or 'the result file'}")
            self.results.append(result)

    def compute_metrics(self, results: list[dict[str, Any]]) -> dict[str, float]:
        """Return the results.

        Raises:
            ValueError: a prediction or an annotation lacks what a metric needs, or a class is not in ``ann_file``.
        """
        classes = [str(name) for name in (self.dataset_meta or {}).get("classes", ())]
        if not classes:
            raise ValueError("CocoMetric cannot tell the classes: the dataset's metainfo must name them")
        with redirect_stdout(StringIO()):
            truth, categories, images = self._truth(results, classes)
        metrics: dict[str, float] = {}
        for kind in self.metrics:
            found = [
                annotation
                for result, image in zip(results, images)
                for annotation in _annotations(result["predicted"], image, categories, [kind], result["name"])
            ]
            if self.outfile_prefix is not None:
                file = Path(f"{self.outfile_prefix}.{kind}.json")
                file.parent.mkdir(parents=True, exist_ok=True)
                dump([_of_result_file(annotation, kind) for annotation in found], file)
            if not self.format_only:
                with redirect_stdout(StringIO()):
                    precision, recall, areas, thresholds = self._evaluate(truth, found, images, categories, kind)
                metrics |= self._summary(precision, recall, areas, thresholds, classes, kind)
        return metrics

    def _truth(self, results: list[dict[str, Any]], classes: Sequence[str]) -> tuple[Any, list[int], list[Any]]:
        """Return pycocotools' dataset of the truth, the id of each class there, and that of each image."""
        if self.ann_file is not None:
            from pycocotools.coco import COCO

            data_set = COCO(self.ann_file)
            ids = {category["name"]: category["id"] for category in data_set.dataset["categories"]}
            if unknown := [name for name in classes if name not in ids]:
                hint = did_you_mean(unknown[0], ids) or f"it has {', '.join(ids)}"
                raise ValueError(f"{self.ann_file} has no class {unknown[0]!r}: {hint}")
            return data_set, [ids[name] for name in classes], [result["img_id"] for result in results]
        categories = list(range(1, len(classes) + 1))
        if self.format_only:
            return None, categories, [result["img_id"] for result in results]
        images = list(range(len(results)))
        annotations = []
        for result, image in zip(results, images):
            for part, crowd in (("true", 0), ("ignored", 1)):
                made = _annotations(result[part], image, categories, self.metrics, result["name"])
                annotations += [{**annotation, "iscrowd": crowd} for annotation in made]
        return _data_set(annotations, images, categories), categories, images

    def _evaluate(
        self, truth: Any, found: list[dict[str, Any]], images: list[Any], categories: list[int], kind: str
    ) -> tuple[np.ndarray, np.ndarray, list[str], np.ndarray]:
        """Return precision (T, R, K, A) and recall (T, K, A), the names of the areas, and the T overlaps.

        T overlaps, R steps of recall, K classes and A ranges of areas; -1 where there is no object.
        """
        from pycocotools.cocoeval import COCOeval

        evaluation = COCOeval(truth, _data_set(found, images, categories), kind)
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
        order = {category: index for index, category in enumerate(sorted(categories))}
        evaluation.evaluate()
        evaluation.accumulate()
        columns = [order[category] for category in categories]  # pycocotools sorts them
        precision, recall = evaluation.eval["precision"][..., 0], evaluation.eval["recall"][..., 0]
        return precision[:, :, columns], recall[:, columns], parameters.areaRngLbl, parameters.iouThrs

    def _summary(
        self,
        precision: np.ndarray,
        recall: np.ndarray,
        areas: list[str],
        thresholds: np.ndarray,
        classes: Sequence[str],
        kind: str,
    ) -> dict[str, float]:
        def mean(values: np.ndarray) -> float:
            counted = values[values > -1]
            return float(counted.mean()) if counted.size else float("nan")

        def part(values: np.ndarray, threshold: float | None, area: str) -> np.ndarray:
            rows = slice(None) if threshold is None else np.isclose(thresholds, threshold)
            chosen: np.ndarray = values[rows][..., areas.index(area)]
            return chosen

        wanted = [
            (suffix, over, area)
            for suffix, over, area in _RESULTS
            if area in areas and (over is None or np.isclose(thresholds, over).any())
        ]
        results = {f"{kind}_mAP{suffix}": mean(part(precision, over, area)) for suffix, over, area in wanted}
        results[f"{kind}_AR"] = mean(part(recall, None, "all"))
        lines = ["  ".join(f"{name} {value:.3f}" for name, value in results.items())]
        if self.classwise:
            width = max(map(len, classes))
            lines.append("class".ljust(width) + "".join(f"{'mAP' + suffix:>9}" for suffix, *_ in wanted))
            for index, name in enumerate(classes):
                of_class = {
                    f"{name}_{kind}_mAP{suffix}": mean(part(precision, over, area)[..., index])
                    for suffix, over, area in wanted
                }
                lines.append(name.ljust(width) + "".join(f"{value:9.3f}" for value in of_class.values()))
                results |= of_class
        print_log("\n".join(lines), logger="current")
        return results


def require_pycocotools(purpose: str) -> None:
    """Import pycocotools.

    Args:
        purpose: what needs it, for the message.

    Raises:
        MissingExtraError: it is not installed.
    """
    try:
        import pycocotools.mask  # noqa: F401
    except ModuleNotFoundError as error:
        raise MissingExtraError("pycocotools", "coco", purpose) from error


def require_original_size(sample: Mapping[str, Any]) -> None:
    """Make sure that the true instances of a sample are in the size of the original image, as the predictions are.

    Raises:
        ValueError: they are not.
    """
    size, original = sample.get("gt_shape"), sample.get("ori_shape")
    if size is not None and original is not None and tuple(size) != tuple(original):
        raise ValueError(
            f"the true instances of {sample.get('img_path', 'a sample')} were resized to {tuple(size)}, but "
            f"predictions are measured in the size of the original image, {tuple(original)}: in a test pipeline put "
            "LoadAnnotations behind what resizes"
        )


def encode_masks(masks: Tensor) -> list[dict[str, Any]]:
    """Return masks as COCO's compressed RLE: ``size``, (height, width), and ``counts``, text.

    Args:
        masks: of shape (N, H, W); what is not 0 belongs to a mask.
    """
    from pycocotools import mask as coco_mask

    planes = np.asfortranarray(masks.bool().cpu().numpy().transpose(1, 2, 0).astype(np.uint8))
    encoded: list[dict[str, Any]] = coco_mask.encode(planes) if len(masks) else []
    return [{"size": rle["size"], "counts": rle["counts"].decode()} for rle in encoded]


def _arrays(instances: Mapping[str, Any]) -> dict[str, Any]:
    """Return what instances have, as arrays; masks as RLE."""
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
    """Return COCO's annotations, or results where there are scores.

    Args:
        instances: as :func:`_arrays` returns them.
        image: id of the image.
        categories: id of each class.
        kinds: what they are for: any of ``bbox``, ``segm`` and ``keypoints``; one alone for results, whose area is
            that of this.
        name: of the image, for messages.
    """
    from pycocotools import mask as coco_mask

    boxes = instances.get("bboxes", np.zeros((0, 4)))
    labels = instances.get("labels", np.zeros(0, int))
    needed = {"segm": "masks", "keypoints": "keypoints"}
    for kind in kinds:
        field = needed.get(kind)
        if field is not None and len(boxes) and field not in instances:
            raise ValueError(f"the instances of {name} have no {field}, which the metric {kind!r} needs")
    if len(boxes) != len(labels):
        raise ValueError(f"{name} has {len(boxes)} boxes but {len(labels)} labels: every instance needs its class")
    if len(labels) and (labels.min() < 0 or labels.max() >= len(categories)):
        raise ValueError(
            f"{name} has an instance of class {labels.max()}, but the dataset has {len(categories)} classes: "
            "the model's num_classes and the dataset's classes must agree"
        )
    annotations = []
    for index, ((left, top, right, bottom), label) in enumerate(zip(boxes.astype(float).tolist(), labels.tolist())):
        box = [left, top, right - left, bottom - top]
        annotation: dict[str, Any] = {
            "image_id": image, "category_id": categories[label], "bbox": box, "area": box[2] * box[3], "iscrowd": 0,
        }  # fmt: skip
        scored = "scores" in instances
        if scored:
            annotation["score"] = float(instances["scores"][index])
        if "masks" in instances:
            annotation["segmentation"] = instances["masks"][index]
            if "segm" in kinds or not scored:
                annotation["area"] = float(coco_mask.area(annotation["segmentation"]))
        elif "areas" in instances:
            annotation["area"] = float(instances["areas"][index])
        if "keypoints" in instances:
            annotation |= _keypoints(instances, index)
            if scored and "keypoints" in kinds:
                x, y = np.array(annotation["keypoints"]).reshape(-1, 3)[:, :2].T
                annotation["area"] = float(np.ptp(x) * np.ptp(y))
        annotations.append(annotation)
    return annotations


def _keypoints(instances: Mapping[str, Any], index: int) -> dict[str, Any]:
    """Return the keypoints of an instance: x, y and 0 (not labeled), 1 (hidden) or 2 (visible) of each."""
    points = instances["keypoints"][index].astype(float)
    visible = instances.get("keypoints_visible")
    if points.shape[-1] == 2:
        shown = np.full(len(points), 2.0) if visible is None else visible[index]
        points = np.concatenate([points, np.reshape(shown, (-1, 1))], axis=1)
    return {"keypoints": points.flatten().tolist(), "num_keypoints": int((points[:, 2] > 0).sum())}


def _data_set(annotations: list[dict[str, Any]], images: list[Any], categories: list[int]) -> Any:
    """Return pycocotools' dataset of these annotations, which get their numbers here."""
    from pycocotools.coco import COCO

    data_set = COCO()
    data_set.dataset = {
        "images": [{"id": image, "height": 0, "width": 0} for image in images],  # asked for, but a mask knows its own
        "categories": [{"id": category} for category in categories],
        "annotations": [{**annotation, "id": number} for number, annotation in enumerate(annotations, 1)],
    }
    data_set.createIndex()
    return data_set


def _of_result_file(annotation: Mapping[str, Any], kind: str) -> dict[str, Any]:
    """Return those keys of a result that COCO's result files have."""
    keys = ["image_id", "category_id", "score", {"segm": "segmentation"}.get(kind, kind)]
    return {key: annotation[key] for key in keys}
