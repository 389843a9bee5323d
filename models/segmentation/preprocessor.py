"""Data preprocessing for semantic segmentation."""

from typing import Any

from trainwright.engine.registry import MODELS
from trainwright.engine.structures.elements import BaseDataElement
from trainwright.models.preprocessor import ImgDataPreprocessor


@MODELS.register_module()
class SegDataPreprocessor(ImgDataPreprocessor):
    """Batch images like :class:`ImgDataPreprocessor`, and record the size of the padded batch.

    Images of different sizes are padded at the bottom and right. For the loss, the model pads the segmentation maps in
    the same way with its ``ignore_index``; for evaluation they are not padded. In evaluation, samples get the meta
    information ``batch_input_shape``, the height and width of the batch, which is used to remove the padding from
    predictions.
    """

    def forward(self, data: Any, training: bool = False) -> Any:
        """Return the batch with its images as one float tensor; see :class:`ImgDataPreprocessor`."""
        batch = super().forward(data, training)
        if not training:
            images, samples = (
                (batch["inputs"], batch["data_samples"]) if isinstance(batch, dict) else (batch[0], batch[-1])
            )
            if isinstance(samples, list | tuple):
                shape = {"batch_input_shape": tuple(images.shape[-2:])}
                for sample in samples:
                    if isinstance(sample, BaseDataElement):
                        sample.set_metainfo(shape)
        return batch
