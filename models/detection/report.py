"""Reports on detection, instance segmentation and keypoints."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from trainwright.engine.evaluation.report import Curves, Matrix, Samples, Section, Table, class_names
from trainwright.models.detection.metric import Evaluation

Array = np.ndarray[Any, Any]

SCORE_THR = 0.3
_IOU_THR = 0.5
THRESHOLDS = np.linspace(0, 1, 101)


def coco_sections(
    evaluations: Mapping[str, Evaluation],
    results: Sequence[Mapping[str, Any]],
    samples: Sequence[int],
    meta: Mapping[str, Any],
    num_samples: int,
) -> list[Section]:
    """Return the sections for the results of pycocotools.

    Args:
        evaluations: by metric: ``bbox``, ``segm`` or ``keypoints``.
        results: the predictions for each image, as recorded by the metric.
        samples: index in the dataset of each image.
        meta: metadata of the dataset, with its classes and keypoints.
        num_samples: maximum number of samples in each section of samples.
    """
    sections: list[Section] = []
    for kind, evaluation in evaluations.items():
        classes = class_names(meta, len(evaluation.categories))
        matches = list(_matches(evaluation))
        counts = [number for *_, number in matches]
        rows: list[list[Any]] = [
            [name, *evaluation.average_precisions(label).values(), counts[label]] for label, name in enumerate(classes)
        ]
        rows.append(["all", *evaluation.average_precisions().values(), sum(counts)])
        columns = ["class", *(f"mAP{suffix}" for suffix in evaluation.suffixes), "objects"]
        note = "Average precision; the suffixes are the IoU threshold in percent, and small, medium and large objects."
        sections.append(Table(f"Results per class ({kind})", columns, rows, note, digits=3))
        place = _threshold_index(evaluation)
        shown = "OKS" if kind == "keypoints" else "IoU"
        at = f"At an {shown} of {evaluation.coco.params.iouThrs[place]:g}."
        recalls = evaluation.coco.params.recThrs.tolist()
        precision = evaluation.precision[place, :, :, evaluation.coco.params.areaRngLbl.index("all")].T
        curves = {name: (recalls, row) for name, row, number in zip(classes, precision, counts) if number}
        title = f"Precision and recall ({kind})"
        sections.append(Curves(title, _with_mean(curves), ("recall", "precision"), note=at))
        f1 = {name: (THRESHOLDS, f1_over_score(*match)) for name, match in zip(classes, matches) if match[2]}
        sections.append(f1_section(f1, f" ({kind})", at))
    if "keypoints" in evaluations:
        sections += _keypoint_sections(evaluations["keypoints"], samples, meta, num_samples)
    elif evaluations:
        evaluation = next(iter(evaluations.values()))
        classes = class_names(meta, len(evaluation.categories))
        pairs = [(_predictions(result), _truth(evaluation, image)) for result, image in zip(results, evaluation.images)]
        sections += box_sections(pairs, samples, classes, num_samples)
    return sections


def f1_section(curves: Mapping[str, tuple[Any, Any]], suffix: str, note: str) -> Curves:
    """Return the section of the F1 curves of classes, which names the threshold of the best mean."""
    curves = _with_mean(curves)
    _, values = next(iter(curves.values()), (THRESHOLDS, np.zeros(101)))
    best = int(np.argmax(values))
    what = "The mean" if len(curves) > 1 else "It"
    note = f"{note} {what} is highest, {values[best]:.3f}, at a threshold of {THRESHOLDS[best]:.2f}."
    return Curves(f"F1 score over confidence{suffix}", curves, ("confidence threshold", "F1 score"), note=note)


def f1_over_score(scores: Array, correct: Array, number: int) -> Array:
    """Return the F1 score of a class, in [0, 1], for the thresholds 0, 0.01, …, 1.

    Args:
        scores: scores of the predictions.
        correct: which predictions are correct.
        number: number of objects.
    """
    order = np.argsort(scores, kind="stable")
    first = np.searchsorted(scores[order], THRESHOLDS)
    hits = np.append(np.cumsum(correct[order][::-1])[::-1], 0)[first]
    f1: Array = 2 * hits / np.maximum(len(scores) - first + number, 1)
    return f1


def box_sections(
    pairs: Sequence[tuple[tuple[Array, ...], tuple[Array, ...]]],
    samples: Sequence[int],
    classes: Sequence[str],
    num_samples: int,
) -> list[Section]:
    """Return the confusion matrix of boxes, and the samples with false positives and missed objects.

    Args:
        pairs: for each image the boxes (N, 4), labels and scores of the predictions, and the boxes, labels and ignore
            flags of the ground truth.
        samples: index in the dataset of each image.
        classes: names of the classes.
        num_samples: maximum number of samples in each section of samples.
    """
    number = len(classes)
    matrix = np.zeros((number + 1, number + 1), np.int64)
    false, missed = np.zeros(len(pairs)), np.zeros(len(pairs), np.int64)
    captions = []
    for index, (predicted, truth) in enumerate(pairs):
        rows, columns, scores = match_boxes(predicted, truth, number)
        np.add.at(matrix, (rows, columns), 1)
        wrong = (rows != columns) & (columns < number)
        false[index], missed[index] = scores[wrong].sum(), int((columns == number).sum())
        best = f" (up to {scores[wrong].max():.2f})" if wrong.any() else ""
        captions.append(f"{int(wrong.sum())} wrong{best}, {missed[index]} missed")
    at = f"Predictions with scores of at least {SCORE_THR} and boxes that overlap by an IoU of at least {_IOU_THR}."
    names, others = [*classes, "background"], [*classes, "missed"]
    sections: list[Section] = [Matrix("Confusion matrix of boxes", matrix.tolist(), names, others, note=at)]
    note = "Sorted by the total score of their wrong predictions: of another class, duplicate, or of no object."
    for title, values, text in (
        ("Most false positives", false, note),
        ("Most missed objects", missed, "Sorted by the number of missed objects."),
    ):
        chosen = [i for i in np.argsort(-values, kind="stable")[:num_samples].tolist() if values[i] > 0]
        if chosen:
            sections.append(Samples(title, [samples[i] for i in chosen], [captions[i] for i in chosen], text))
    return sections


def match_boxes(predicted: tuple[Array, ...], truth: tuple[Array, ...], number: int) -> tuple[Array, Array, Array]:
    """Match the predictions of an image with its objects: first of the same class, then of others.

    Args:
        predicted: boxes, labels and scores.
        truth: boxes, labels and ignore flags.
        number: number of classes, which is also the label of the background and of missed objects.

    Returns:
        The true label, the predicted label and the score of each prediction and each missed object. Predictions of
        ignored objects are left out.
    """
    kept = predicted[2] >= SCORE_THR
    order = np.argsort(-predicted[2][kept], kind="stable")
    boxes, labels, scores = (values[kept][order] for values in predicted)
    true_boxes, true_labels, ignored = truth
    overlaps, covered = _overlaps(boxes, true_boxes)
    owner = np.full(len(boxes), -1)
    free = ~ignored.astype(bool)
    same = labels[:, None] == true_labels[None]
    for allowed in (same, ~same):
        for index in range(len(boxes)):
            candidates = np.where(allowed[index] & free, overlaps[index], 0) if owner[index] < 0 else np.zeros(0)
            if candidates.size and candidates.max() >= _IOU_THR:
                owner[index] = int(candidates.argmax())
                free[owner[index]] = False
    hidden = (owner < 0) & (covered[:, ignored.astype(bool)] >= _IOU_THR).any(1)
    found = np.where(owner >= 0, true_labels[owner] if len(true_labels) else number, number)[~hidden]
    lost = true_labels[free]
    return (
        np.concatenate([found, lost]).astype(int),
        np.concatenate([labels[~hidden], np.full(len(lost), number)]).astype(int),
        np.concatenate([scores[~hidden], np.zeros(len(lost))]),
    )


def _overlaps(boxes: Array, others: Array) -> tuple[Array, Array]:
    """Return the intersections (N, M) of boxes as shares of their unions, and of the first boxes."""
    sides = np.minimum(boxes[:, None, 2:], others[None, :, 2:]) - np.maximum(boxes[:, None, :2], others[None, :, :2])
    common = sides.clip(min=0).prod(-1)
    areas, other_areas = ((each[:, 2:] - each[:, :2]).prod(-1) for each in (boxes, others))
    union = areas[:, None] + other_areas[None] - common
    return common / np.maximum(union, 1e-9), common / np.maximum(areas[:, None], 1e-9)


def _matches(evaluation: Evaluation) -> Iterator[tuple[Array, Array, int]]:
    """Yield the scores of the predictions of each class, which of them are correct, and the number of objects."""
    coco, place = evaluation.coco, _threshold_index(evaluation)
    images, areas = len(coco.params.imgIds), len(coco.params.areaRngLbl)
    for column in evaluation.columns:
        start = column * areas * images  # the first area range is "all"
        entries = [entry for entry in coco.evalImgs[start : start + images] if entry is not None]
        counted = [~np.asarray(entry["dtIgnore"][place], bool) for entry in entries]
        scores = [np.asarray(entry["dtScores"])[kept] for entry, kept in zip(entries, counted)]
        correct = [np.asarray(entry["dtMatches"][place])[kept] > 0 for entry, kept in zip(entries, counted)]
        number = sum(int((np.asarray(entry["gtIgnore"]) == 0).sum()) for entry in entries)
        yield np.concatenate([*scores, np.zeros(0)]), np.concatenate([*correct, np.zeros(0, bool)]), number


def _keypoint_sections(
    evaluation: Evaluation, samples: Sequence[int], meta: Mapping[str, Any], num_samples: int
) -> list[Section]:
    """Return the errors of each keypoint of matched instances, and the samples of the lowest similarity."""
    coco, place = evaluation.coco, _threshold_index(evaluation)
    images, areas = len(coco.params.imgIds), len(coco.params.areaRngLbl)
    errors = []
    for column in evaluation.columns:
        start = column * areas * images
        for entry in coco.evalImgs[start : start + images]:
            for found, true in zip(entry["dtIds"], entry["dtMatches"][place]) if entry is not None else ():
                if true > 0:
                    errors.append(_keypoint_errors(coco.cocoDt.anns[found], coco.cocoGt.anns[int(true)]))
    sections: list[Section] = []
    if errors:
        table = np.array(errors)
        labeled = ~np.isnan(table)
        number = labeled.sum(0)
        mean = np.nansum(table, 0) / np.maximum(number, 1)
        near = 100 * ((table <= 0.1) & labeled).sum(0) / np.maximum(number, 1)
        rows = [list(row) for row in zip(class_names(meta, table.shape[1], "keypoints"), mean, near, number.tolist())]
        note = (
            "Of instances that are found (OKS of at least "
            f"{coco.params.iouThrs[place]:g}); errors are relative to the square root of the area."
        )
        columns = ["keypoint", "mean error", "% with an error up to 0.1", "labeled"]
        sections.append(Table("Results per keypoint", columns, rows, note, digits=3))
    lowest = []
    for image in evaluation.images:
        best = [
            np.max(table, axis=0) if len(table) else np.zeros(len(coco._gts[image, category]))
            for category in coco.params.catIds
            if len(coco._gts[image, category])
            for table in [np.asarray(coco.ious[image, category]).reshape(-1, len(coco._gts[image, category]))]
        ]
        lowest.append(float(np.concatenate(best).mean()) if best else np.inf)
    chosen = [index for index in np.argsort(lowest, kind="stable")[:num_samples].tolist() if lowest[index] < np.inf]
    if chosen:
        captions = [f"OKS {lowest[index]:.3f}" for index in chosen]
        note = "The mean over the instances of the similarity of the best prediction."
        sections.append(Samples("Lowest keypoint similarity", [samples[index] for index in chosen], captions, note))
    return sections


def _keypoint_errors(found: Mapping[str, Any], true: Mapping[str, Any]) -> Array:
    """Return the distances of keypoints relative to the square root of the area; NaN if not labeled."""
    points, target = (np.array(each["keypoints"], dtype=float).reshape(-1, 3) for each in (found, true))
    distance = np.hypot(*(points - target)[:, :2].T) / max(true["area"], 1e-9) ** 0.5
    return np.where(target[:, 2] > 0, distance, np.nan)


def _predictions(result: Mapping[str, Any]) -> tuple[Array, ...]:
    predicted = result["predicted"]
    boxes = np.asarray(predicted.get("bboxes", ()), dtype=float).reshape(-1, 4)
    return boxes, np.asarray(predicted.get("labels", ()), int), np.asarray(predicted.get("scores", ()), float)


def _truth(evaluation: Evaluation, image: Any) -> tuple[Array, ...]:
    label_of = {category: label for label, category in enumerate(evaluation.categories)}
    objects = [one for one in evaluation.coco.cocoGt.imgToAnns[image] if one["category_id"] in label_of]
    boxes = np.array([one["bbox"] for one in objects], dtype=float).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    labels = np.array([label_of[one["category_id"]] for one in objects], dtype=int)
    return boxes, labels, np.array([one.get("iscrowd", 0) for one in objects], dtype=bool)


def _threshold_index(evaluation: Evaluation) -> int:
    return int(np.abs(evaluation.coco.params.iouThrs - _IOU_THR).argmin())


def _with_mean(curves: Mapping[str, tuple[Any, Any]]) -> dict[str, tuple[Any, Any]]:
    """Return the curves, with their mean first if there are several, which have the same x."""
    if len(curves) < 2:
        return dict(curves)
    first = next(iter(curves.values()))
    return {"mean": (first[0], np.mean([y for _, y in curves.values()], axis=0)), **curves}
