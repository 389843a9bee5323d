"""Mean average precision of keypoints for images with several samples."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from trainwright.engine.data.names import names_of
from trainwright.engine.errors import DataError
from trainwright.engine.evaluation.report import Section
from trainwright.engine.registry import METRICS
from trainwright.models.detection.metric import CocoMetric

_NO_SIGMAS = "CocoKeypointMetric requires sigmas: set metainfo=dict(sigmas=(...)) of the dataset"

Array = np.ndarray[Any, Any]


@METRICS.register_module()
class CocoKeypointMetric(CocoMetric):
    """COCO's average precision of keypoints by object keypoint similarity (OKS), including for top-down models.

    Like ``CocoMetric(metric="keypoints")``, but samples with the same ``img_id`` are merged as instances of one image,
    and near-duplicate predictions, which result from overlapping boxes, are removed.

    Args:
        ann_file: see :class:`CocoMetric`; must contain the ground truth of all images, including crowds.
        nms_thr: if the similarity of two predictions is above this threshold, the one with the lower score is removed;
            in (0, 1], or None to keep all.
        **kwargs: further arguments of :class:`CocoMetric`, except ``metric``.

    Raises:
        MissingExtraError: pycocotools is not installed.
        ValueError: ``nms_thr`` is out of range.
    """

    def __init__(self, ann_file: str | None = None, nms_thr: float | None = 0.9, **kwargs: Any) -> None:
        if nms_thr is not None and not 0 < nms_thr <= 1:
            raise ValueError(f"nms_thr must be in (0, 1], not {nms_thr}")
        super().__init__(ann_file, metric="keypoints", **kwargs)
        self.nms_thr = nms_thr

    def check_dataset_meta(self) -> None:
        """Check that ``ann_file`` has the classes and keypoints of the dataset, and that there are ``sigmas``."""
        if (
            self.sigmas is None
            and names_of(self.dataset_meta, "keypoints")
            and not (self.dataset_meta or {}).get("sigmas")
        ):
            raise DataError(_NO_SIGMAS)
        super().check_dataset_meta()

    def compute_metrics(self, results: list[dict[str, Any]]) -> dict[str, float]:
        """Return the results by name.

        Raises:
            ValueError: there are no ``sigmas``, or not one per keypoint; or see :class:`CocoMetric`.
        """
        merged = list(_by_image(results).values())
        sigmas = self._sigmas(merged)
        if self.nms_thr is not None:
            merged = [
                {**result, "predicted": without_duplicates(result["predicted"], sigmas, self.nms_thr)}
                for result in merged
            ]
        return super().compute_metrics(merged)

    def report(self, results: list[dict[str, Any]], num_samples: int) -> list[Section]:
        """Return the results of each class and keypoint, curves, and the worst samples."""
        from trainwright.models.detection.report import coco_sections

        images = _by_image(results)
        first: dict[Any, int] = {}
        for index, result in enumerate(results):
            first.setdefault(_key(result, index), index)
        evaluations, self._evaluations = self._evaluations, {}
        samples = [first[key] for key in images]
        return coco_sections(evaluations, list(images.values()), samples, self.dataset_meta or {}, num_samples)

    def _sigmas(self, results: list[dict[str, Any]]) -> Array:
        sigmas = self.sigmas or (self.dataset_meta or {}).get("sigmas")
        if sigmas is None:
            raise DataError(_NO_SIGMAS)
        numbers = {result["predicted"]["keypoints"].shape[1] for result in results if _count(result["predicted"])}
        if numbers - {len(sigmas)}:
            raise ValueError(f"there are {len(sigmas)} sigmas, but {max(numbers)} predicted keypoints")
        return np.array(sigmas, dtype=np.float64)


def without_duplicates(found: Mapping[str, Array], sigmas: Array, thr: float) -> dict[str, Array]:
    """Remove predictions of one image that are similar to another of the same class with a higher score.

    Args:
        found: predictions with ``keypoints`` (N, K, 2), ``scores`` (N,), ``labels`` (N,) and any other fields.
        sigmas: shape (K,).
        thr: maximum object keypoint similarity of two predictions that are kept.
    """
    if _count(found) < 2:
        return dict(found)
    keypoints, labels = found["keypoints"][..., :2].astype(np.float64), found["labels"]
    areas = np.ptp(keypoints, axis=1).prod(1)
    kept: list[int] = []
    for index in np.argsort(-found["scores"], kind="stable").tolist():
        rivals = [other for other in kept if labels[other] == labels[index]]
        square = np.square(keypoints[rivals] - keypoints[index]).sum(-1)
        area = (areas[rivals] + areas[index])[:, None] / 2 + np.spacing(1)
        similarity = np.exp(-square / (2 * np.square(2 * sigmas) * area)).mean(1)
        if not (similarity > thr).any():
            kept.append(index)
    return {name: values[kept] for name, values in found.items()}


def _key(result: Mapping[str, Any], index: int) -> Any:
    return ("sample", index) if result["img_id"] is None else result["img_id"]


def _by_image(results: Sequence[Mapping[str, Any]]) -> dict[Any, dict[str, Any]]:
    """Merge the results of each image."""
    images: dict[Any, dict[str, Any]] = {}
    for index, result in enumerate(results):
        key = _key(result, index)
        images[key] = _merge(images[key], result) if key in images else dict(result)
    return images


def _merge(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, Any]:
    """Merge two results of the same image."""
    parts = [part for part in ("predicted", "true", "ignored") if part in first]
    return {**first, **{part: _concatenate(first[part], second[part]) for part in parts}}


def _concatenate(first: Mapping[str, Array], second: Mapping[str, Array]) -> dict[str, Array]:
    if not _count(first) or not _count(second):
        return dict(first if _count(first) else second)
    return {name: np.concatenate([values, second[name]]) for name, values in first.items() if name in second}


def _count(instances: Mapping[str, Sequence[Any] | Array]) -> int:
    """Return the number of instances."""
    return len(instances.get("keypoints", ()))
