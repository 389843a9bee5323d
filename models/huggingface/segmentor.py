"""Semantic segmentation with Hugging Face's transformers."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from trainwright.engine.errors import ConfigError
from trainwright.engine.export.form import ExportForm
from trainwright.engine.registry import MODELS
from trainwright.engine.structures.pixel_data import PixelData
from trainwright.engine.structures.sample import DataSample
from trainwright.models.huggingface.base import (
    HuggingFaceModel,
    original_size,
    preprocessor_config,
    require_own_preprocessor,
)
from trainwright.models.huggingface.masks import image_outputs
from trainwright.models.huggingface.networks import ConfigLike
from trainwright.models.huggingface.preprocessor import HuggingFacePreprocessor, sizes_of_masks
from trainwright.models.module import InitCfg
from trainwright.models.segmentation.pixels import gather_seg_maps
from trainwright.models.segmentation.segmentor import LossLike, SemanticSegmentor

_IGNORED = 255


@MODELS.register_module()
class HuggingFaceSegmentor(HuggingFaceModel, SemanticSegmentor):
    """A semantic segmentation model of transformers: SegFormer, UPerNet, BEiT, DPT, or Mask2Former and MaskFormer.

    The images are resized, normalized and padded by the image processor of the network. Segmentation maps are resized
    in the same way for the loss, but not for evaluation. Pixels of class 255 are ignored. ``do_reduce_labels`` of the
    image processor has no effect: set ``reduce_zero_label`` of the dataset.

    Example:
        >>> HuggingFaceSegmentor("nvidia/mit-b0", num_classes=19)
        >>> HuggingFaceSegmentor("facebook/mask2former-swin-tiny-ade-semantic", num_classes=4)
        >>> HuggingFaceSegmentor(
        ...     config=dict(model_type="segformer"),
        ...     num_classes=4,
        ...     image_processor=dict(do_resize=False),
        ...     test_cfg=dict(mode="slide", crop_size=(512, 512), stride=(341, 341)),
        ... )

    Args:
        pretrained: name on the Hugging Face Hub or folder, see :class:`HuggingFaceClassifier`.
        config: a config for random weights, or changes to that of the weights, see :class:`HuggingFaceClassifier`.
        num_classes: number of classes including the background; by default that of the weights.
        image_processor: options that replace those of the image processor.
        loss: module or config of the loss on the logits, or a list of them, see :class:`SemanticSegmentor`; by default
            the network's own, with that of its auxiliary head. Mask2Former and MaskFormer only have their own.
        test_cfg: sliding windows, see :class:`SemanticSegmentor`; their size is that in the input of the network.
        data_preprocessor: module or config; the type is ``HuggingFacePreprocessor``.
        init_cfg: one or more initializer configs.

    Raises:
        MissingExtraError: transformers is not installed.
        ConfigError: the config is incomplete or has mistakes, its type is not for semantic segmentation, or ``loss`` is
            given for a network that predicts masks.
        CheckpointError: the files of ``pretrained`` are missing or cannot be downloaded.
    """

    task = "semantic segmentation"
    names_key = "seg_classes"

    def __init__(
        self,
        pretrained: str | None = None,
        config: ConfigLike | None = None,
        num_classes: int | None = None,
        image_processor: Mapping[str, Any] | None = None,
        loss: LossLike | None = None,
        test_cfg: Mapping[str, Any] | None = None,
        data_preprocessor: Mapping[str, Any] | nn.Module | None = None,
        init_cfg: InitCfg = None,
    ) -> None:
        require_own_preprocessor(data_preprocessor)
        network = self._build_parts(pretrained, config, num_classes, image_processor)
        super().__init__(
            network,
            loss=loss,
            test_cfg=test_cfg,
            ignore_index=_IGNORED,
            data_preprocessor=preprocessor_config(data_preprocessor, self.image_processor),
            init_cfg=init_cfg,
        )
        self.num_seg_classes = network.config.num_labels
        self.predicts_masks = hasattr(network.config, "no_object_weight")
        self._own_loss = loss is None
        if self.predicts_masks and loss is not None:
            raise ConfigError("loss", f"{type(network).__name__} only has its own loss", "remove it")
        for name in ("semantic_loss_ignore_index", "loss_ignore_index", "ignore_value"):
            if hasattr(network.config, name):
                setattr(network.config, name, _IGNORED)

    def forward(
        self, inputs: Tensor, data_samples: Any = None, mode: str = "tensor", pixel_mask: Tensor | None = None
    ) -> Any:
        """Return losses, predictions, or logits; see :meth:`SemanticSegmentor.forward`.

        Args:
            inputs: float images of shape (N, 3, H, W).
            data_samples: a list of data samples with ``gt_sem_seg``, or a tensor of classes, of shape (N, H, W).
            mode: ``loss``, ``predict`` or ``tensor``.
            pixel_mask: 1 for pixels of the images, 0 for their padding, of shape (N, H, W).
        """
        if mode == "loss":
            return self._network_losses(inputs, data_samples, pixel_mask)
        if mode == "predict":
            return self._segmented(inputs, data_samples, pixel_mask)
        return super().forward(inputs, data_samples, mode)

    def logits(self, inputs: Tensor) -> Tensor:
        """Return the logits; of a network that predicts masks, the probability of each class by pixel.

        They have the size of the input if they are averaged over sliding windows.
        """
        output = self.network(inputs)
        scores = _class_probabilities(output, inputs.shape[-2:]) if self.predicts_masks else output.logits
        return scores if self.window is None else _resized(scores, inputs.shape[-2:])

    def export_form(self) -> ExportForm:
        """Return the form for ``trainwright export``, whose outputs have the size of the raw image."""
        form = super().export_form()
        if not isinstance(self.data_preprocessor, HuggingFacePreprocessor):
            return form
        sizes: dict[tuple[int, ...], tuple[int, int]] = {}
        return replace(form, function=partial(self._raw_logits, sizes=sizes), takes_raw=True, maps=False)

    def _raw_logits(self, images: Tensor, sizes: dict[tuple[int, ...], tuple[int, int]]) -> tuple[Tensor, Tensor]:
        """Return the classes (N, H, W) and logits (N, C, H, W) of the pixels of a batch of raw images of one size.

        Args:
            images: the images.
            sizes: for each shape of the images, their size in the input without its padding. It is filled by the first
                call; an exporter calls this function with tensors that have no values.
        """
        values, mask = self.data_preprocessor.process(images, portable=True)
        padded = (int(values.shape[-2]), int(values.shape[-1]))
        if images.shape not in sizes:
            sizes[images.shape] = padded if mask is None else sizes_of_masks(mask)[0]
        logits = _without_padding(self.encode_decode(values), sizes[images.shape], padded)
        logits = _resized(logits, images.shape[-2:])
        return logits.argmax(1), logits

    def _network_losses(self, inputs: Tensor, data_samples: Any, pixel_mask: Tensor | None) -> dict[str, Tensor]:
        target = gather_seg_maps(data_samples, inputs.shape[-2:], _IGNORED)
        if self.predicts_masks:
            classes = [labels[labels != _IGNORED] for labels in map(torch.unique, target)]
            masks = [(each == labels[:, None, None]).float() for each, labels in zip(target, classes)]
            output = self.network(inputs, pixel_mask=pixel_mask, class_labels=classes, mask_labels=masks)
            return {"loss": output.loss.squeeze()}
        if self._own_loss:
            known = (target != _IGNORED).any()  # a mean over no pixels would be NaN
            return {"loss": self.network(inputs, labels=target.where(known, 0)).loss * known}
        losses: dict[str, Tensor] = self.losses(_resized(self.network(inputs).logits, inputs.shape[-2:]), target)
        return losses

    def _segmented(self, inputs: Tensor, data_samples: Any, pixel_mask: Tensor | None) -> list[DataSample]:
        """Return the data samples with ``pred_sem_seg`` in the size of the original images."""
        samples = data_samples if isinstance(data_samples, list | tuple) else [DataSample() for _ in inputs]
        sizes = [original_size(sample, inputs) for sample in samples]
        if self.predicts_masks and self.window is None:
            output = self.network(inputs, pixel_mask=pixel_mask)
            process = self.image_processor.post_process_semantic_segmentation
            parts = image_outputs(output, samples, inputs)
            seg_maps = [process(part, target_sizes=[size])[0] for part, size in zip(parts, sizes)]
        else:
            whole = inputs.shape[-2:]
            logits = self.encode_decode(inputs)
            seg_maps = [
                _resized(_without_padding(one, sample.get("input_shape") or whole, whole), size).argmax(1)[0]
                for one, sample, size in zip(torch.split(logits, 1), samples, sizes)
            ]
        for sample, seg_map in zip(samples, seg_maps):
            sample.pred_sem_seg = PixelData(sem_seg=seg_map[None])
        return list(samples)


def _class_probabilities(output: Any, size: Sequence[int]) -> Tensor:
    """Return the probability of each class by pixel, of shape (N, C, H, W), from those of the masks."""
    classes = output.class_queries_logits.softmax(-1)[..., :-1]
    masks = _resized(output.masks_queries_logits, size).sigmoid()
    return torch.einsum("nqc,nqhw->nchw", classes, masks)


def _without_padding(logits: Tensor, size: Sequence[int], padded: Sequence[int]) -> Tensor:
    return logits if tuple(size) == tuple(padded) else _resized(logits, padded)[..., : size[0], : size[1]]


def _resized(logits: Tensor, size: Sequence[int]) -> Tensor:
    if tuple(logits.shape[-2:]) == tuple(size):
        return logits
    return F.interpolate(logits, size=tuple(size), mode="bilinear", align_corners=False)
