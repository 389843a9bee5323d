"""Depth estimation with Hugging Face's transformers."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from trainwright.engine.errors import DataError
from trainwright.engine.export.form import ExportForm
from trainwright.engine.registry import MODELS
from trainwright.engine.structures.pixel_data import PixelData
from trainwright.engine.structures.sample import DataSample, sample_name
from trainwright.models.base import BaseModel
from trainwright.models.huggingface.base import (
    HuggingFaceModel,
    original_size,
    preprocessor_config,
    require_own_preprocessor,
)
from trainwright.models.huggingface.networks import ConfigLike
from trainwright.models.module import InitCfg


@MODELS.register_module()
class HuggingFaceDepthEstimator(HuggingFaceModel, BaseModel):
    """A depth estimation model of transformers (``AutoModelForDepthEstimation``): Depth Anything, DPT, GLPN and others.

    Data samples need ``gt_depth_map`` with ``data`` (1, H, W), the depth of each pixel, 0 if it is unknown. Predictions
    are ``pred_depth_map`` in the size of the original image. The images are resized and normalized by the image
    processor of the network, which also resizes its outputs.

    Example:
        >>> HuggingFaceDepthEstimator(
        ...     "depth-anything/Depth-Anything-V2-Small-hf", config=dict(depth_estimation_type="metric", max_depth=10)
        ... )

    Args:
        pretrained: name on the Hugging Face Hub or folder, see :class:`HuggingFaceClassifier`.
        config: a config for random weights, or changes to that of the weights, see :class:`HuggingFaceClassifier`.
        image_processor: options that replace those of the image processor.
        loss: module or config of the loss on predicted and true depths; ``dict(type='SiLogLoss')`` if None.
        data_preprocessor: module or config; the type is ``HuggingFacePreprocessor``.
        init_cfg: one or more initializer configs.

    Raises:
        MissingExtraError: transformers is not installed.
        ConfigError: the config is incomplete or has mistakes, or its type is not for depth estimation.
        CheckpointError: the files of ``pretrained`` are missing or cannot be downloaded.
    """

    task = "depth estimation"
    names_key = ""

    def __init__(
        self,
        pretrained: str | None = None,
        config: ConfigLike | None = None,
        image_processor: Mapping[str, Any] | None = None,
        loss: Mapping[str, Any] | nn.Module | None = None,
        data_preprocessor: Mapping[str, Any] | nn.Module | None = None,
        init_cfg: InitCfg = None,
    ) -> None:
        require_own_preprocessor(data_preprocessor)
        network = self._build_parts(pretrained, config, None, image_processor, "")
        self._dataset_meta = None
        super().__init__(preprocessor_config(data_preprocessor, self.image_processor), init_cfg)
        self.network = network
        self.loss_module: nn.Module = MODELS.build({"type": "SiLogLoss"} if loss is None else loss)

    def forward(self, inputs: Tensor, data_samples: Any = None, mode: str = "tensor") -> Any:
        """Return losses, predictions, or depths.

        Args:
            inputs: float images of shape (N, 3, H, W).
            data_samples: a list of data samples with ``gt_depth_map``.
            mode: ``loss`` for the loss; ``predict`` for data samples with ``pred_depth_map``; ``tensor`` for the
                depths in the size of the network's output, of shape (N, h, w).

        Raises:
            ValueError: in mode ``loss``, a sample has no depth map.
            DataError: in mode ``loss``, the depth maps differ in size.
        """
        if mode == "loss":
            target = _depth_maps(data_samples).to(inputs.device)
            depths = self.network(inputs).predicted_depth
            resized = F.interpolate(depths[:, None], size=target.shape[-2:], mode="bilinear", align_corners=False)[:, 0]
            return {getattr(self.loss_module, "loss_name", "loss"): self.loss_module(resized, target)}
        if mode == "predict":
            samples = data_samples if isinstance(data_samples, list | tuple) else [DataSample() for _ in inputs]
            sizes = [original_size(sample, inputs) for sample in samples]
            found = self.image_processor.post_process_depth_estimation(self.network(inputs), target_sizes=sizes)
            for sample, depth in zip(samples, found):
                sample.pred_depth_map = PixelData(data=depth["predicted_depth"][None].float())
            return list(samples)
        if mode == "tensor":
            return self.network(inputs).predicted_depth
        raise ValueError(f"mode must be 'loss', 'predict' or 'tensor', not {mode!r}")

    def export_form(self) -> ExportForm:
        """Return the form that ``trainwright export`` needs: ``depth`` (1, H, W), in the size of the raw image."""
        decoder = {"type": "DepthMapDecoder"}
        return ExportForm(self, self._depths, ("depth",), decoder, takes_raw=True, any_batch=False, size_axes=())

    def _depths(self, images: Tensor) -> Tensor:
        """Return the depths (N, H, W) of a batch of raw images."""
        sizes = [tuple(images.shape[-2:])] * len(images)
        output = self.network(self.data_preprocessor.process(images, portable=True)[0])
        found = self.image_processor.post_process_depth_estimation(output, target_sizes=sizes)
        return torch.stack([depth["predicted_depth"] for depth in found]).float()

    def compile_forward(self, **options: Any) -> None:
        """Compile the network.

        Args:
            **options: arguments of :func:`torch.compile`.
        """
        self.network.compile(**options)


def _depth_maps(data_samples: Any) -> Tensor:
    if not isinstance(data_samples, list | tuple) or not data_samples:
        raise ValueError(f"the batch has no depth maps: its data samples are {data_samples!r}")
    for sample in data_samples:
        if sample.get("gt_depth_map") is None:
            raise ValueError(f"{sample_name(sample)} has no gt_depth_map: does the pipeline load it?")
    maps = [sample.gt_depth_map.data for sample in data_samples]
    if len(sizes := {tuple(depths.shape[-2:]) for depths in maps}) > 1:
        raise DataError(f"the depth maps of a batch have different sizes {sorted(sizes)}: crop or resize the images")
    return torch.cat(maps)
