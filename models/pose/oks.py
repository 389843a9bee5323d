"""Mean average precision of keypoints, by their similarity."""

import contextlib
import io
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from trainwright.engine.errors import MissingExtraError
from trainwright.engine.evaluation.metric import BaseMetric
from trainwright.engine.logging import print_log
from trainwright.engine.registry import METRICS

Array = np.ndarray[Any, Any]
_RESULTS = ("AP", "AP .5", "AP .75", "AP (M)", "AP (L)", "AR", "AR .5", "AR .75", "AR (M)", "AR (L)")


@METRICS.register_module()
class CocoKeypointMetric(BaseMetric):
    """COCO's average precision and recall of keypoints, by object keypoint similarity (OKS).

    Computed by pycocotools (``pip install 'trainwright[coco]'``); https://cocodataset.org/#keypoints-eval. The results
    are ``coco/AP`` (mean over similarities from 0.5 to 0.95), ``coco/AP .5``, ``coco/AP .75``, ``coco/AP (M)`` and
    ``(L)`` for medium and large instances, and the same for ``AR``, from 0 to 1; NaN where there are no such
    instances. Samples are instances, as of a top-down model, or images with several; those of one ``img_id`` belong
    together. The data set's ``sigmas`` say how far each kind of keypoint may be off.

    Args:
        ann_file: annotation file of COCO's format with the truth, crowds included; the ``gt_instances`` and
            ``ignored_instances`` of the samples if None.
        nms_thr: of two predictions that are more similar than this, the one with the lower score is left out; in
            (0, 1], None keeps all.
        collect_device: as for :class:`BaseMetric`.
        prefix: as for :class:`BaseMetric`; ``coco`` by default.

    Raises:
        MissingExtraError: pycocotools is not installed.
        ValueError: ``nms_thr`` is out of range.
    """

    default_prefix = "coco"

    def __init__(
        self,
        ann_file: str | None = None,
        nms_thr: float | None = 0.9,
        collect_device: str = "cpu",
        prefix: str | None = None,
    ) -> None:
        if nms_thr is not None and not 0 < nms_thr <= 1:
            raise ValueError(f"nms_thr must lie in (0, 1], not at {nms_thr}")
        _import_pycocotools()
        super().__init__(collect_device, prefix)
        self.ann_file = ann_file
        self.nms_thr = nms_thr

    def process(self, data_batch: Any, data_samples: Sequence[Mapping[str, Any]]) -> None:
        """Keeps of each sample the true and the predicted instances, as arrays.

        Raises:
            ValueError: a sample has no ``img_id``, or no true or predicted keypoints.
        """
        for sample in data_samples:
            if "img_id" not in sample:
                raise ValueError("CocoKeypointMetric needs the img_id of each sample: name it in PackInputs' meta_keys")
            truth = None
            if self.ann_file is None:
                truth = _arrays(sample, "gt_instances", ("labels", "keypoints", "keypoints_visible", "bboxes", "areas"))
                ignored = sample.get("ignored_instances")
                if ignored is not None:
                    truth = _with_ignored(truth, _arrays(sample, "ignored_instances", tuple(truth)))
            found = _arrays(sample, "pred_instances", ("labels", "keypoints", "scores"))
            self.results.append((sample["img_id"], truth, found))

    def compute_metrics(self, results: list[Any]) -> dict[str, float]:
        """Returns the results by name.

        Raises:
            ValueError: the data set says no ``sigmas``, or not one for each keypoint.
        """
        coco_class, eval_class = _import_pycocotools()
        sigmas = self._sigmas(results)
        with contextlib.redirect_stdout(io.StringIO()):
            truth = coco_class(self.ann_file)
            if self.ann_file is None:
                truth.dataset = _truth(results)
                truth.createIndex()
            categories = self._category_ids(truth)
            found = coco_class()
            found.dataset = {**truth.dataset, "annotations": self._found(results, sigmas, categories)}
            found.createIndex()
            evaluation = eval_class(truth, found, "keypoints")
            evaluation.params.kpt_oks_sigmas = sigmas
            evaluation.params.imgIds = sorted({image for image, _, _ in results})
            evaluation.params.catIds = sorted(set(categories.values()))
            evaluation.evaluate()
            evaluation.accumulate()
        table = io.StringIO()
        with contextlib.redirect_stdout(table):
            evaluation.summarize()
        print_log(table.getvalue().rstrip(), logger="current")
        values = (float(value) for value in evaluation.stats)
        return {name: value if value >= 0 else float("nan") for name, value in zip(_RESULTS, values)}

    def _sigmas(self, results: list[Any]) -> Array:
        sigmas = (self.dataset_meta or {}).get("sigmas")
        if sigmas is None:
            raise ValueError("CocoKeypointMetric needs metainfo=dict(sigmas=(...)) of the data set, one a keypoint")
        number = next((len(found["keypoints"][0]) for _, _, found in results if len(found["keypoints"])), len(sigmas))
        if number != len(sigmas):
            raise ValueError(f"the data set says {len(sigmas)} sigmas, but {number} keypoints are predicted")
        return np.array(sigmas, dtype=np.float64)

    def _category_ids(self, truth: Any) -> dict[int, int]:
        """Returns the id of the category of each label."""
        if self.ann_file is None:
            return {category["id"] - 1: category["id"] for category in truth.dataset["categories"]}
        ids = {category["name"]: category["id"] for category in truth.dataset["categories"]}
        classes = (self.dataset_meta or {}).get("classes") or tuple(ids)
        if missing := [name for name in classes if name not in ids]:
            raise ValueError(f"{self.ann_file} has no category {missing[0]!r}, only {', '.join(ids)}")
        return {label: ids[name] for label, name in enumerate(classes)}

    def _found(self, results: list[Any], sigmas: Array, categories: Mapping[int, int]) -> list[dict[str, Any]]:
        """Returns the predictions in COCO's format, without near duplicates."""
        of_image: dict[Any, list[dict[str, Any]]] = defaultdict(list)
        for image, _, found in results:
            labels = found.get("labels", np.zeros(len(found["keypoints"]), dtype=np.int64))
            for label, points, score in zip(labels.tolist(), found["keypoints"], found["scores"].tolist()):
                width, height = np.ptp(points, axis=0).tolist()
                of_image[image].append({
                    "image_id": image, "category_id": categories[label], "points": points, "score": score,
                    "area": width * height, "bbox": [*points.min(0).tolist(), width, height], "iscrowd": 0,
                })  # fmt: skip
        annotations: list[dict[str, Any]] = []
        for found in of_image.values():
            for one in found if self.nms_thr is None else without_duplicates(found, sigmas, self.nms_thr):
                points = one.pop("points")
                flat = np.concatenate([points, np.ones((len(points), 1))], axis=1).flatten().tolist()
                annotations.append({**one, "id": len(annotations) + 1, "keypoints": flat})
        return annotations


def without_duplicates(found: Sequence[dict[str, Any]], sigmas: Array, thr: float) -> list[dict[str, Any]]:
    """Returns the predictions of one image that resemble none with a higher score.

    Args:
        found: predictions with ``points`` (K, 2), ``area``, ``score`` and ``category_id``.
        sigmas: shape (K,).
        thr: largest object keypoint similarity of two that are kept.
    """
    kept: list[dict[str, Any]] = []
    for one in sorted(found, key=lambda prediction: -prediction["score"]):
        rivals = (other for other in kept if other["category_id"] == one["category_id"])
        if all(_similarity(one, other, sigmas) <= thr for other in rivals):
            kept.append(one)
    return kept


def _similarity(one: Mapping[str, Any], other: Mapping[str, Any], sigmas: Array) -> float:
    """Returns the object keypoint similarity of two predictions, at the mean of their areas."""
    square = np.square(one["points"] - other["points"]).sum(1)
    area = (one["area"] + other["area"]) / 2
    return float(np.exp(-square / (2 * np.square(2 * sigmas) * (area + np.spacing(1)))).mean())


def _truth(results: list[Any]) -> dict[str, Any]:
    """Returns the true instances as a data set of COCO's format, each class a category with the id label + 1."""
    annotations: list[dict[str, Any]] = []
    for image, truth, _ in results:
        for index, points in enumerate(truth["keypoints"]):
            visible = truth.get("keypoints_visible")
            seen = np.full(len(points), 2.0) if visible is None else visible[index]
            left, top, right, bottom = truth["bboxes"][index].tolist()
            area = (right - left) * (bottom - top) if "areas" not in truth else float(truth["areas"][index])
            annotations.append({
                "id": len(annotations) + 1, "image_id": image, "category_id": int(truth["labels"][index]) + 1,
                "keypoints": np.concatenate([points, seen[:, None]], axis=1).flatten().tolist(),
                "num_keypoints": int((seen > 0).sum()), "bbox": [left, top, right - left, bottom - top], "area": area,
                "iscrowd": int("ignored" in truth and truth["ignored"][index]),
            })  # fmt: skip
    labels = {annotation["category_id"] for annotation in annotations}
    predicted = {int(label) + 1 for _, _, found in results for label in found.get("labels", ())}
    return {
        "images": [{"id": image} for image in dict.fromkeys(image for image, _, _ in results)],
        "categories": [{"id": key, "name": str(key)} for key in sorted(labels | predicted | {1})],
        "annotations": annotations,
    }


def _arrays(sample: Mapping[str, Any], field: str, names: Sequence[str]) -> dict[str, Array]:
    """Returns those of some fields of instances that there are."""
    instances = sample.get(field)
    if instances is None or "keypoints" not in instances:
        raise ValueError(f"{sample.get('img_path', sample['img_id'])} has no keypoints in {field}")
    return {name: np.asarray(instances[name].detach().cpu()) for name in names if name in instances}


def _with_ignored(truth: Mapping[str, Array], ignored: Mapping[str, Array]) -> dict[str, Array]:
    flags = np.repeat([0, 1], [len(truth["keypoints"]), len(ignored["keypoints"])])
    return {name: np.concatenate([truth[name], ignored[name]]) for name in truth} | {"ignored": flags}


def _import_pycocotools() -> tuple[Any, Any]:
    try:
        from pycocotools.coco import COCO  # type: ignore[import-not-found,unused-ignore]
        from pycocotools.cocoeval import COCOeval  # type: ignore[import-not-found,unused-ignore]
    except ModuleNotFoundError as error:
        raise MissingExtraError("pycocotools", "coco", "CocoKeypointMetric") from error
    return COCO, COCOeval
