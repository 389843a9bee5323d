"""Video classification with Hugging Face's transformers."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from trainwright.engine.errors import DataError
from trainwright.engine.registry import MODELS
from trainwright.models.huggingface.base import HuggingFaceModel, normalization
from trainwright.models.huggingface.networks import ConfigLike
from trainwright.models.module import InitCfg
from trainwright.models.video.recognizer import Recognizer3D


@MODELS.register_module()
class HuggingFaceVideoClassifier(HuggingFaceModel, Recognizer3D):
    """A video classifier of transformers (``AutoModelForVideoClassification``): VideoMAE, TimeSformer, ViViT.

    The pipeline samples the frames and crops them to the size of the network's input; they are normalized by the mean
    and standard deviation of the image processor.

    Example:
        >>> HuggingFaceVideoClassifier("MCG-NJU/videomae-base-finetuned-kinetics", num_classes=10)

    Args:
        pretrained: name on the Hugging Face Hub or folder, see :class:`HuggingFaceClassifier`.
        config: a config for random weights, or changes to that of the weights, see :class:`HuggingFaceClassifier`.
        num_classes: number of classes; by default that of the weights.
        image_processor: options that replace those of the image processor.
        loss: module or config of the loss on the logits; ``dict(type='CrossEntropyLoss')`` if None.
        average_clips: see :class:`Recognizer3D`.
        test_cfg: see :class:`Recognizer3D`.
        data_preprocessor: module or config; the type defaults to ``ActionDataPreprocessor``.
        init_cfg: one or more initializer configs.

    Raises:
        MissingExtraError: transformers is not installed.
        ConfigError: the config is incomplete or has mistakes, or its type is not for video classification.
        CheckpointError: the files of ``pretrained`` are missing or cannot be downloaded.
    """

    task = "video classification"
    network_name = "backbone"

    def __init__(
        self,
        pretrained: str | None = None,
        config: ConfigLike | None = None,
        num_classes: int | None = None,
        image_processor: Mapping[str, Any] | None = None,
        loss: Mapping[str, Any] | nn.Module | None = None,
        average_clips: str = "prob",
        test_cfg: Mapping[str, Any] | None = None,
        data_preprocessor: Mapping[str, Any] | nn.Module | None = None,
        init_cfg: InitCfg = None,
    ) -> None:
        network = self._build_parts(pretrained, config, num_classes, image_processor)
        if not isinstance(data_preprocessor, nn.Module):
            kind = {"type": "ActionDataPreprocessor", **normalization(self.image_processor)}
            data_preprocessor = {**kind, **(data_preprocessor or {})}
        number: int = network.config.num_labels
        super().__init__(
            network,
            num_classes=number,
            loss=loss,
            average_clips=average_clips,
            test_cfg=test_cfg,
            data_preprocessor=data_preprocessor,
            init_cfg=init_cfg,
        )
        self.num_classes = number

    def logits(self, clips: Tensor) -> Tensor:
        """Return logits of shape (N, num_classes).

        Args:
            clips: float, of shape (N, C, T, H, W).

        Raises:
            DataError: the clips do not have the size of the network's input.
        """
        config: Any = self.hf_network.config
        size, frames = getattr(config, "image_size", None), getattr(config, "num_frames", None)
        size = (size, size) if isinstance(size, int) else None if size is None else tuple(size)
        if (size is not None and clips.shape[-2:] != size) or (frames is not None and clips.shape[2] != frames):
            raise DataError(
                f"clips have {clips.shape[2]} frames of size {tuple(clips.shape[-2:])} (height, width), but the "
                f"network takes {frames} of size {size}: set clip_len of SampleFrames and the size of the crop in the "
                "pipeline, or num_frames and image_size in the model's config"
            )
        logits: Tensor = self.backbone(pixel_values=clips.transpose(1, 2)).logits
        return logits
