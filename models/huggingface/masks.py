"""Instance segmentation with Hugging Face's transformers, by networks that predict masks and their classes."""

from collections.abc import Iterator, Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from trainwright.engine.errors import ConfigError
from trainwright.engine.export.form import ExportForm
from trainwright.engine.registry import MODELS
from trainwright.engine.structures.instance_data import InstanceData
from trainwright.engine.structures.sample import DataSample, sample_name
from trainwright.models.detection.instances import checked_instances
from trainwright.models.huggingface.base import original_size
from trainwright.models.huggingface.detector import HuggingFaceDetector


@MODELS.register_module()
class HuggingFaceInstanceSegmentor(HuggingFaceDetector):
    """An instance segmentation model of transformers (``AutoModelForUniversalSegmentation``): Mask2Former, MaskFormer.

    Data samples are those of :class:`TorchvisionDetector` with masks. Predictions are ``pred_instances`` with
    ``masks``, ``labels``, ``scores`` and ``bboxes``, the bounding boxes of the masks, in coordinates of the original
    image. The images are resized, normalized and padded by the image processor of the network, which also converts its
    outputs to masks.

    Example:
        >>> HuggingFaceInstanceSegmentor("facebook/mask2former-swin-tiny-coco-instance", num_classes=3)

    Args:
        pretrained: name on the Hugging Face Hub or folder, see :class:`HuggingFaceClassifier`.
        config: a config for random weights, or changes to that of the weights, see :class:`HuggingFaceClassifier`.
        num_classes: number of classes without background; by default that of the weights.
        image_processor: options that replace those of the image processor.
        score_thr: minimum score of predictions, in [0, 1).
        max_per_img: maximum number of predictions per image.
        data_preprocessor: module or config; the type is ``HuggingFacePreprocessor``.
        init_cfg: one or more initializer configs.

    Raises:
        MissingExtraError: transformers is not installed.
        ConfigError: the config is incomplete or has mistakes, or its type is not for instance segmentation.
        CheckpointError: the files of ``pretrained`` are missing or cannot be downloaded.
    """

    task = "instance segmentation"
    _post_process = "post_process_instance_segmentation"

    def export_form(self) -> ExportForm:
        """Refuse to be exported.

        Raises:
            ConfigError: always.
        """
        reason = "its image processor chooses the instances one by one in Python"
        message = f"a {type(self).__name__} cannot be exported: {reason}"
        raise ConfigError("model", message, "a TorchvisionDetector with masks can, such as a Mask R-CNN")

    def _losses(self, images: Mapping[str, Tensor], data_samples: Any) -> Iterator[tuple[str, Tensor]]:
        truths = checked_instances(data_samples, self.num_classes)
        size = images["pixel_values"].shape[-2:]
        masks = [_input_masks(truth, sample, size) for truth, sample in zip(truths, data_samples)]
        output = self.network(**images, class_labels=[truth.labels for truth in truths], mask_labels=masks)
        yield "loss", output.loss.squeeze() + (0 if any(map(len, truths)) else self._no_gradient())

    def _predictions(self, output: Any, inputs: Tensor, data_samples: Any) -> list[DataSample]:
        samples = data_samples if isinstance(data_samples, list | tuple) else [DataSample() for _ in inputs]
        process = getattr(self.image_processor, self._post_process)
        for sample, part in zip(samples, image_outputs(output, samples, inputs)):
            size = original_size(sample, inputs)
            found = process(part, threshold=self.score_thr, target_sizes=[size], return_binary_maps=True)[0]
            segments = found["segments_info"]
            scores = inputs.new_tensor([segment["score"] for segment in segments])
            labels = torch.tensor([segment["label_id"] for segment in segments], device=inputs.device, dtype=torch.long)
            masks = found["segmentation"].to(inputs.device) if segments else inputs.new_zeros(0, *size)
            order = scores.argsort(descending=True, stable=True)[: self.max_per_img]
            sample.pred_instances = InstanceData(
                masks=masks[order] > 0, labels=labels[order], scores=scores[order], bboxes=_boxes(masks[order])
            )
        return list(samples)


def image_outputs(output: Any, samples: Sequence[Any], inputs: Tensor) -> Iterator[Any]:
    """Yield the output of a network for each image, with masks that do not cover the padding of the image.

    Args:
        output: output with ``class_queries_logits`` (N, Q, C + 1) and ``masks_queries_logits`` (N, Q, h, w).
        samples: data samples with ``input_shape``; without it, an image fills the input.
        inputs: the input of the network, of shape (N, 3, H, W).
    """
    whole = (int(inputs.shape[-2]), int(inputs.shape[-1]))
    for index, sample in enumerate(samples):
        masks = output.masks_queries_logits[index : index + 1].float()
        height, width = sample.get("input_shape") or whole
        if (height, width) != whole:
            masks = F.interpolate(masks, size=whole, mode="bilinear", align_corners=False)[..., :height, :width]
        classes = output.class_queries_logits[index : index + 1].float()
        yield SimpleNamespace(class_queries_logits=classes, masks_queries_logits=masks)


def _input_masks(truth: InstanceData, sample: Any, size: Sequence[int]) -> Tensor:
    """Return the masks of an image, resized and padded like it: float, of shape (N, H, W).

    Raises:
        ValueError: there are no masks.
    """
    if "masks" not in truth:
        hint = "does the pipeline load them (LoadAnnotations(with_mask=True))?"
        raise ValueError(f"the instances of {sample_name(sample)} have no masks: {hint}")
    masks: Tensor = truth.masks.float()
    height, width = sample.get("input_shape") or size
    if len(masks) and tuple(masks.shape[-2:]) != (height, width):
        masks = F.interpolate(masks[None], size=(height, width), mode="nearest-exact")[0]
    elif not len(masks):
        masks = masks.new_zeros(0, height, width)
    return F.pad(masks, (0, size[1] - width, 0, size[0] - height))


def _boxes(masks: Tensor) -> Tensor:
    """Return the bounding boxes of masks, none of which is empty: float, of shape (N, 4)."""
    from torchvision.ops import masks_to_boxes

    boxes: Tensor = masks_to_boxes(masks) + masks.new_tensor([0, 0, 1, 1])
    return boxes
