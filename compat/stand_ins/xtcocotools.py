"""``xtcocotools`` 1.14 on pycocotools: keypoints of other datasets and of parts of the body.

Its last release does not load with NumPy 2, and has to be compiled for later versions of Python.
"""

import warnings
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from io import StringIO
from typing import Any

import numpy as np

try:
    from pycocotools import coco, cocoeval
    from pycocotools import mask as mask
except ImportError as error:
    from trainwright.engine.errors import MissingExtraError

    raise MissingExtraError("pycocotools", "coco", "xtcocotools") from error

__version__ = "1.14.3"

_BODY, _FOOT, _FACE = ("keypoints",), ("foot_kpts",), ("face_kpts",)
_LEFT, _RIGHT = ("lefthand_kpts",), ("righthand_kpts",)
# the fields with the keypoints of each kind of evaluation, and the field with the score if it has its own
_KINDS: Mapping[str, tuple[tuple[str, ...], str]] = {
    "keypoints_wholebody": (_BODY + _FOOT + _FACE + _LEFT + _RIGHT, "wholebody_score"),
    "keypoints_foot": (_FOOT, "foot_score"),
    "keypoints_face": (_FACE, "face_score"),
    "keypoints_lefthand": (_LEFT, "lefthand_score"),
    "keypoints_righthand": (_RIGHT, "righthand_score"),
}
_AREA_OF_BOX = 0.53  # mean share of its box that a person covers, for annotations without area


class COCO(coco.COCO):  # type: ignore[misc]
    """Annotations in COCO's format.

    Args:
        annotation_file: path of a JSON file.
        test_index: indices of the keypoints to keep.
        ann_data: the content of the file, if it was read before.
    """

    def __init__(
        self, annotation_file: Any = None, test_index: Sequence[int] | None = None, ann_data: Any = None
    ) -> None:
        super().__init__(annotation_file if ann_data is None else None)
        self.anno_file = [annotation_file]
        self.test_index = test_index
        if ann_data is not None:
            self.dataset = ann_data
        if annotation_file is None and ann_data is None:
            return
        for annotation in self.dataset.get("annotations", ()):
            annotation.setdefault("iscrowd", False)
            if test_index is not None:
                points = np.array(annotation["keypoints"]).reshape(-1, 3)
                annotation["keypoints"] = points[test_index].reshape(-1).tolist()
        self.createIndex()

    def loadRes(self, resFile: Any, resData: Any = None) -> Any:
        """Return the predictions in a file, a list or an array.

        Args:
            resFile: path, list or array.
            resData: the content of the file, if it was read before.
        """
        if len(self.anno_file) == 1:
            self.anno_file.append(resFile)
        results = resFile if resData is None else resData
        if isinstance(results, list) and not results:
            empty = COCO()
            empty.dataset = {"images": list(self.dataset["images"]), "annotations": []}
            empty.createIndex()
            return empty
        return super().loadRes(results)


class COCOeval(cocoeval.COCOeval):  # type: ignore[misc]
    """Evaluation of boxes, masks, or keypoints of any dataset.

    Args:
        cocoGt: annotations.
        cocoDt: predictions.
        iouType: ``bbox``, ``segm``, ``keypoints``, ``keypoints_crowd`` (CrowdPose), or ``keypoints_`` and a part:
            ``body``, ``foot``, ``face``, ``lefthand``, ``righthand`` or ``wholebody``.
        sigmas: standard deviation of each keypoint; those of COCO by default.
        use_area: take the area from the annotations; otherwise it is a share of the box.
    """

    _gts: dict[tuple[int, int], list[dict[str, Any]]]
    _dts: dict[tuple[int, int], list[dict[str, Any]]]
    evalImgs: Any
    eval: dict[str, Any]
    stats: Any

    def __init__(
        self,
        cocoGt: Any = None,
        cocoDt: Any = None,
        iouType: str = "keypoints",
        sigmas: Any = None,
        use_area: bool = True,
    ) -> None:
        super().__init__(cocoGt, cocoDt, _plain(iouType))
        self._gts: Any
        self._dts: Any
        self.evalImgs: Any
        self.eval: Any
        self.stats: Any
        self.params.iouType = iouType
        if sigmas is not None:
            self.params.kpt_oks_sigmas = np.asarray(sigmas)
        self.sigmas = getattr(self.params, "kpt_oks_sigmas", None)
        self.use_area = use_area
        self.score_key = _KINDS.get(iouType, ((), "score"))[1]
        if cocoGt is not None:
            self.anno_file = getattr(cocoGt, "anno_file", [None])

    def evaluate(self) -> None:
        """Evaluate each image."""
        with self._as_plain():
            super().evaluate()

    def _prepare(self) -> None:
        """Group annotations and predictions by image and category, in the form that pycocotools expects."""
        p = self.params
        if p.iouType != "keypoints":
            super()._prepare()
            self._gts = _mapped(self._gts, lambda annotation: {**annotation, "area": self._area(annotation)})
            return
        chosen = {"imgIds": p.imgIds, **({"catIds": p.catIds} if p.useCats else {})}
        annotations = self.cocoGt.loadAnns(self.cocoGt.getAnnIds(**chosen))
        predictions = self.cocoDt.loadAnns(self.cocoDt.getAnnIds(**chosen))
        if any(self.score_key not in prediction for prediction in predictions):
            warnings.warn(f"predictions without {self.score_key!r} are sorted by 'score'", stacklevel=3)
        fields = _KINDS.get(self._kind, (_BODY, ""))[0]
        first_id = int(any(annotation["id"] == 0 for annotation in annotations))  # pycocotools takes 0 for unmatched
        self._gts, self._dts = defaultdict(list), defaultdict(list)
        for annotation in annotations:
            points, number = _joined(annotation, fields)
            if self._kind == "keypoints_crowd":
                number = annotation["num_keypoints"]  # of those that are not hidden
            self._gts[annotation["image_id"], annotation["category_id"]].append(
                {
                    **annotation,
                    "keypoints": points,
                    "area": self._area(annotation),
                    "ignore": bool(annotation.get("iscrowd")) or number == 0,
                    "id": annotation["id"] + first_id,
                }
            )
        for prediction in predictions:
            points, number = _joined(prediction, fields)
            if number > 0:
                score = prediction.get(self.score_key, prediction["score"])
                self._dts[prediction["image_id"], prediction["category_id"]].append(
                    {**prediction, "keypoints": points, "score": score}
                )
        self.evalImgs, self.eval = defaultdict(list), {}

    def summarize(self) -> None:
        """Print the results, and keep them as ``stats``."""
        with self._as_plain():
            super().summarize()
        if self.params.iouType == "keypoints_crowd":
            # not by size, but by how crowded an image is, https://arxiv.org/abs/1812.00324
            overall = self.stats[[0, 1, 2, 5, 6, 7]]
            by_crowding = self._precision_by_crowding(easy_below=0.2, medium_below=0.8)
            self.stats = np.concatenate([overall, by_crowding])
            for name, value in zip(("easy", "medium", "hard"), by_crowding):
                print(f" Average Precision  (AP) @[ IoU=0.50:0.95 | type={name:>6} | maxDets= 20 ] = {value:0.3f}")

    def _precision_by_crowding(self, easy_below: float, medium_below: float) -> list[float]:
        """Return the mean precision on easy, medium and hard images."""
        index = {image["id"]: image["crowdIndex"] for image in self.cocoGt.dataset["images"]}
        images, result = self.params.imgIds, self.eval
        values = []
        for low, high in ((-np.inf, easy_below), (easy_below, medium_below), (medium_below, np.inf)):
            self.params.imgIds = [image for image, value in index.items() if low <= value < high]
            with redirect_stdout(StringIO()):
                self.evaluate()
                self.accumulate()
            values.append(round(float(np.mean(self.eval["precision"][:, :, :, 0, :])), 4))
        self.params.imgIds, self.eval = images, result
        return values

    def _area(self, annotation: Mapping[str, Any]) -> float:
        if self.use_area and "area" in annotation:
            return annotation["area"]  # type: ignore[no-any-return]
        return annotation["bbox"][2] * annotation["bbox"][3] * _AREA_OF_BOX  # type: ignore[no-any-return]

    @contextmanager
    def _as_plain(self) -> Iterator[None]:
        """Context manager in which pycocotools sees a kind of evaluation that it knows."""
        self._kind = self.params.iouType
        self.params.iouType = _plain(self._kind)
        try:
            yield
        finally:
            self.params.iouType = self._kind


def _plain(kind: str) -> str:
    return "keypoints" if kind.startswith("keypoints") else kind


def _joined(annotation: Mapping[str, Any], fields: Sequence[str]) -> tuple[list[float], int]:
    """Return the keypoints in several fields, and the number of those that are labeled."""
    points = [value for field in fields for value in annotation[field]]
    return points, sum(value > 0 for value in points[2::3])


def _mapped(groups: Mapping[Any, list[Any]], function: Any) -> Any:
    return defaultdict(list, {key: [function(item) for item in items] for key, items in groups.items()})
