"""Export of classifiers."""

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn

from trainwright.engine.export.form import ExportForm
from trainwright.engine.registry import MODELS
from trainwright.models.classification.multilabel import add_multi_label_scores
from trainwright.models.classification.samples import add_scores


def classification_form(model: nn.Module, logits: Callable[[Any], Tensor], **settings: Any) -> ExportForm:
    """Return the form of a classifier: ``pred_score`` (N, C) and ``pred_label`` (N,).

    Args:
        model: the model.
        logits: returns the logits (N, C) for preprocessed inputs.
        **settings: further arguments of :class:`ExportForm`.
    """

    def predictions(inputs: Any) -> tuple[Tensor, Tensor]:
        scores = logits(inputs).softmax(1)
        return scores, scores.argmax(1)

    return ExportForm(model, predictions, ("pred_score", "pred_label"), {"type": "ClassificationDecoder"}, **settings)


@MODELS.register_module()
class ClassificationDecoder:
    """Write the outputs of an exported classifier to data samples."""

    def __call__(self, outputs: Mapping[str, Tensor], data_samples: Any, inputs: Tensor) -> Any:
        """Return the data samples with ``pred_score`` and ``pred_label``; see :class:`ExportForm`."""
        return add_scores(outputs["pred_score"], data_samples)


@MODELS.register_module()
class MultiLabelDecoder:
    """Write the outputs of an exported multi-label classifier to data samples.

    Args:
        thr: see :class:`MultiLabelClsHead`.
        topk: see :class:`MultiLabelClsHead`.
    """

    def __init__(self, thr: float = 0.5, topk: int | None = None) -> None:
        self.thr = thr
        self.topk = topk

    def __call__(self, outputs: Mapping[str, Tensor], data_samples: Any, inputs: Tensor) -> Any:
        """Return the data samples with ``pred_score`` and ``pred_label``; see :class:`ExportForm`."""
        return add_multi_label_scores(outputs["pred_score"], data_samples, self.thr, self.topk)
