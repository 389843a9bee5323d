"""Reports on classification."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from trainwright.engine.evaluation.report import Curves, Matrix, Samples, Section, Table, class_names
from trainwright.models.classification.metrics import confusion_matrix, precision_recall_f1
from trainwright.models.classification.multilabel_metrics import hits_and_precision

_HUNDREDTHS = torch.linspace(0, 1, 101)
_MAX_CONFUSIONS = 20
_ITEMS = ("precision", "recall", "f1-score", "support")


def single_label_sections(
    target: Tensor, label: Tensor, score: Tensor, true_score: Tensor, meta: Mapping[str, Any] | None, num_samples: int
) -> list[Section]:
    """Return the sections for single-label classification.

    Args:
        target: true labels (N,).
        label: predicted labels (N,).
        score: scores of the predicted labels (N,), NaN if unknown.
        true_score: scores of the true labels (N,).
        meta: metadata of the dataset, with its classes.
        num_samples: maximum number of samples in each section of samples.
    """
    number = max(int(torch.cat([target, label]).max()) + 1, len((meta or {}).get("classes") or ()))
    names = class_names(meta, number)
    matrix = confusion_matrix(target, label, number)
    errors = matrix - torch.diag(matrix.diagonal())
    sections: list[Section] = [
        _class_table(names, precision_recall_f1(matrix.diagonal(), matrix.sum(0), matrix.sum(1), None)),
        Matrix("Confusion matrix", matrix.tolist(), names, names),
    ]
    if pairs := _largest(errors.flatten(), _MAX_CONFUSIONS):
        rows: list[list[Any]] = [
            [names[pair // number], names[pair % number], count, 100 * count / int(matrix[pair // number].sum())]
            for pair, count in ((pair, int(errors.flatten()[pair])) for pair in pairs)
        ]
        columns = ["true class", "predicted class", "samples", "% of the true class"]
        sections.append(Table("Most frequent confusions", columns, rows))
    wrong = (target != label).nonzero().flatten()
    if not len(wrong) or not num_samples or score.isnan().all():
        return sections

    def samples(title: str, order: Tensor, note: str) -> Samples:
        chosen = wrong[order[:num_samples]].tolist()
        captions = [f"{names[label[i]]} {score[i]:.2f}\ntrue: {names[target[i]]} {true_score[i]:.2f}" for i in chosen]
        return Samples(title, chosen, captions, note)

    note = "The predicted class with its score, and the true class with its score."
    confident = score[wrong].argsort(descending=True, stable=True)
    sections.append(samples("Most confident errors", confident, f"Wrong predictions with the highest scores. {note}"))
    worst = true_score[wrong].argsort(stable=True)
    sections.append(samples("Worst predictions", worst, f"Samples whose true class has the lowest scores. {note}"))
    return sections


def multi_label_sections(
    scores: Tensor,
    truth: Tensor,
    predicted: Tensor,
    precisions: Tensor,
    meta: Mapping[str, Any] | None,
    num_samples: int,
) -> list[Section]:
    """Return the sections for multi-label classification.

    Args:
        scores: scores (N, C).
        truth: 1 for the classes of a sample, 0 for others, below 0 for ignored ones (N, C).
        predicted: which classes are predicted (N, C).
        precisions: average precision of each class, in percent (C,).
        meta: metadata of the dataset, with its classes.
        num_samples: maximum number of samples in each section of samples.
    """
    number = scores.shape[1]
    names = class_names(meta, number)
    positive, predicted = truth > 0, predicted & (truth >= 0)
    items = precision_recall_f1((positive & predicted).sum(0), predicted.sum(0), positive.sum(0), None)
    sections: list[Section] = [
        _class_table(names, {"AP": precisions, **items}),
        Curves(
            "Precision and recall",
            _curves(_precision_over_recall, names, scores, truth),
            ("recall", "precision"),
            note="The precision at the highest threshold that reaches a recall.",
        ),
        Curves(
            "F1 score over threshold",
            _curves(_f1_over_score, names, scores, truth),
            ("score threshold", "F1 score"),
        ),
    ]
    # How far the most wrong score of each sample is from the truth.
    distance = (scores - truth).abs().where(truth >= 0, 0.0)
    worst = distance.amax(1).argsort(descending=True, stable=True)[:num_samples].tolist()
    captions = []
    for index in worst:
        listed = {"true": positive[index], "predicted": predicted[index]}
        lines = [
            f"{key}: {', '.join(names[i] for i in row.nonzero().flatten()) or 'none'}" for key, row in listed.items()
        ]
        wrong = int(distance[index].argmax())
        captions.append("\n".join([*lines, f"{names[wrong]} {scores[index, wrong]:.2f}"]))
    if worst:
        note = "Samples by descending error of their worst score, which is in the last line."
        sections.append(Samples("Worst predictions", worst, captions, note))
    return sections


def _class_table(names: Sequence[str], items: Mapping[str, Tensor]) -> Table:
    """Return a table of percentages, and the support, with the mean of the former in the last row."""
    columns = list(items)
    rows: list[list[Any]] = [[name, *(items[key][i].item() for key in columns)] for i, name in enumerate(names)]
    total = [items[key].sum().item() if key == "support" else items[key].nanmean().item() for key in columns]
    return Table("Results per class", ["class", *columns], [*rows, ["mean", *total]], "In percent; support in samples.")


def _curves(
    curve: Callable[[Tensor, Tensor], Tensor], names: Sequence[str], scores: Tensor, truth: Tensor
) -> dict[str, tuple[list[float], list[float]]]:
    """Return x and y of the curve of each class that occurs, after their mean if there are several."""
    found = {name: curve(scores[:, i], truth[:, i]) for i, name in enumerate(names) if (truth[:, i] > 0).any()}
    mean = {"mean": torch.stack(list(found.values())).mean(0)} if len(found) > 1 else {}
    return {name: (_HUNDREDTHS.tolist(), values.tolist()) for name, values in {**mean, **found}.items()}


def _precision_over_recall(score: Tensor, truth: Tensor) -> Tensor:
    """Return the precision of a class for the recalls 0, 0.01, …, 1."""
    found, precision, total = hits_and_precision(score, truth)
    return precision[torch.searchsorted(found, _HUNDREDTHS.double() * total - 1e-6)]


def _f1_over_score(score: Tensor, truth: Tensor) -> Tensor:
    """Return the F1 score of a class, in [0, 1], for the thresholds 0, 0.01, …, 1."""
    counted = truth >= 0
    score, true = score[counted], truth[counted] > 0
    order = score.argsort()
    first = torch.searchsorted(score[order].contiguous(), _HUNDREDTHS.to(score.dtype))
    hits = torch.cat([true[order].flip(0).cumsum(0).flip(0), true.new_zeros(1, dtype=torch.int64)])[first]
    items = precision_recall_f1(hits, len(score) - first, true.sum().expand(101), None)
    f1: Tensor = items["f1-score"] / 100
    return f1


def _largest(values: Tensor, number: int) -> list[int]:
    """Return the indices of the largest positive values."""
    best = values.topk(min(number, len(values)))
    return [index for index, value in zip(best.indices.tolist(), best.values.tolist()) if value > 0]
