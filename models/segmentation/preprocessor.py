"""Batches for semantic segmentation."""

from typing import Any

from trainwright.engine.registry import MODELS
from trainwright.engine.structures.elements import BaseDataElement
from trainwright.models.preprocessor import ImgDataPreprocessor


@MODELS.register_module()
class SegDataPreprocessor(ImgDataPreprocessor):
    """Batches images as :class:`ImgDataPreprocessor` does, and notes how large the padded batch is.

    Images of different sizes are padded at the bottom and right. What is trained on the class maps pads these
    alike, with its own ``ignore_index``; in validation they stay as they are. Samples get the meta information
    ``batch_input_shape``, height and width of the batch, by which predictions are cut back to the image.
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
