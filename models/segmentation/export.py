"""Export of semantic segmentation models."""

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn

from trainwright.engine.export.form import ExportForm
from trainwright.engine.registry import MODELS
from trainwright.models.segmentation.pixels import add_seg_predictions, resize_logits


def segmentation_form(model: nn.Module, logits: Callable[[Tensor], Tensor], **settings: Any) -> ExportForm:
    """Return the form of a segmentation model: ``sem_seg`` (N, H, W), and the logits ``seg_logits`` (N, C, H, W).

    Args:
        model: the model.
        logits: returns the logits for preprocessed images.
        **settings: further arguments of :class:`ExportForm`.
    """

    def predictions(images: Tensor) -> tuple[Tensor, Tensor]:
        resized = resize_logits(logits(images), images.shape[-2:])
        return resized.argmax(1), resized

    decoder = {"type": "SegmentationDecoder"}
    return ExportForm(model, predictions, ("sem_seg", "seg_logits"), decoder, maps=True, **settings)


@MODELS.register_module()
class SegmentationDecoder:
    """Write the outputs of an exported segmentation model to data samples, in the size of the original images."""

    def __call__(self, outputs: Mapping[str, Tensor], data_samples: Any, inputs: Tensor) -> Any:
        """Return the data samples with ``pred_sem_seg``; see :class:`ExportForm`."""
        return add_seg_predictions(outputs["seg_logits"], data_samples, inputs.shape[-2:])
