"""Mean average precision of keypoints, where several samples belong to one image."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from trainwright.engine.registry import METRICS
from trainwright.models.detection.metric import CocoMetric

Array = np.ndarray[Any, Any]


@METRICS.register_module()
class CocoKeypointMetric(CocoMetric):
    """COCO's average precision of keypoints by object keypoint similarity (OKS), for top-down models too.

    As ``CocoMetric(metric="keypoints")``, but samples of the same ``img_id`` are instances of one image, and near
    duplicates among its predictions, as overlapping boxes give them, are left out.

    Args:
        ann_file: as for :class:`CocoMetric`; with the truth of all images, crowds included.
        nms_thr: of two predictions that are more similar than this, the one with the lower score is left out; in
            (0, 1], None keeps all.
        **kwargs: as for :class:`CocoMetric`, without ``metric``.

    Raises:
        MissingExtraError: pycocotools is not installed.
        ValueError: ``nms_thr`` is out of range.
    """

    def __init__(self, ann_file: str | None = None, nms_thr: float | None = 0.9, **kwargs: Any) -> None:
        if nms_thr is not None and not 0 < nms_thr <= 1:
            raise ValueError(f"nms_thr must lie in (0, 1], not at {nms_thr}")
        super().__init__(ann_file, metric="keypoints", **kwargs)
        self.nms_thr = nms_thr

    def compute_metrics(self, results: list[dict[str, Any]]) -> dict[str, float]:
        """Return the results by name.

        Raises:
            ValueError: the dataset says no ``sigmas``, or not one for each keypoint; or see :class:`CocoMetric`.
        """
        images: dict[Any, dict[str, Any]] = {}
        for index, result in enumerate(results):
            key = ("sample", index) if result["img_id"] is None else result["img_id"]
            known = images.get(key)
            images[key] = result if known is None else _joined(known, result)
        merged = list(images.values())
        sigmas = self._sigmas(merged)
        if self.nms_thr is not None:
            merged = [
                {**result, "predicted": without_duplicates(result["predicted"], sigmas, self.nms_thr)}
                for result in merged
            ]
        return super().compute_metrics(merged)

    def _sigmas(self, results: list[dict[str, Any]]) -> Array:
        sigmas = self.sigmas or (self.dataset_meta or {}).get("sigmas")
        if sigmas is None:
            raise ValueError("CocoKeypointMetric needs metainfo=dict(sigmas=(...)) of the dataset, one a keypoint")
        numbers = {result["predicted"]["keypoints"].shape[1] for result in results if _count(result["predicted"])}
        if numbers - {len(sigmas)}:
            raise ValueError(f"the dataset says {len(sigmas)} sigmas, but {max(numbers)} keypoints are predicted")
        return np.array(sigmas, dtype=np.float64)


def without_duplicates(found: Mapping[str, Array], sigmas: Array, thr: float) -> dict[str, Array]:
    """Return the predictions of one image that resemble none of their class with a higher score.

    Args:
        found: ``keypoints`` (N, K, 2), ``scores`` (N,) and ``labels`` (N,), and what else predictions have.
        sigmas: shape (K,).
        thr: largest object keypoint similarity of two that are kept.
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


def _joined(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, Any]:
    """Return two results of the same image as one."""
    parts = [part for part in ("predicted", "true", "ignored") if part in first]
    return {**first, **{part: _concatenated(first[part], second[part]) for part in parts}}


def _concatenated(first: Mapping[str, Array], second: Mapping[str, Array]) -> dict[str, Array]:
    if not _count(first) or not _count(second):
        return dict(first if _count(first) else second)
    return {name: np.concatenate([values, second[name]]) for name, values in first.items() if name in second}


def _count(instances: Mapping[str, Sequence[Any] | Array]) -> int:
    """Return the number of instances."""
    return len(instances.get("keypoints", ()))
