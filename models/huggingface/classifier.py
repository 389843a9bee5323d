"""Image classification with Hugging Face's transformers."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from trainwright.engine.registry import MODELS
from trainwright.models.classification.classifier import ImageClassifier
from trainwright.models.huggingface.base import HuggingFaceModel, preprocessor_config
from trainwright.models.huggingface.networks import ConfigLike
from trainwright.models.module import InitCfg


@MODELS.register_module()
class HuggingFaceClassifier(HuggingFaceModel, ImageClassifier):
    """An image classifier of transformers (``AutoModelForImageClassification``).

    The images are resized, cropped and normalized by the image processor of the network; see
    :class:`HuggingFacePreprocessor`.

    Example:
        >>> HuggingFaceClassifier("facebook/convnextv2-tiny-22k-224", num_classes=10)
        >>> HuggingFaceClassifier("exported/my_model", num_classes=10, image_processor=dict(size=256))
        >>> HuggingFaceClassifier(config=dict(model_type="resnet", depths=[2, 2, 2, 2]), num_classes=10)

    Args:
        pretrained: name on the Hugging Face Hub, whose files are downloaded, or a folder, with ``config.json``, weights
            and ``preprocessor_config.json``. Layers that do not fit, such as the last one for a different number of
            classes, are initialized at random and logged.
        config: without ``pretrained``, a config for random weights: a dict with ``model_type`` and the entries that
            differ from the defaults of transformers, or the name or folder of one. With it, a dict of changes.
        num_classes: number of classes; by default that of the weights.
        image_processor: options that replace those of the image processor, such as ``dict(size=256)``. For a config
            without weights, the others are the defaults of the image processor's class.
        loss: config of the loss on the logits; ``dict(type='CrossEntropyLoss')`` if None.
        data_preprocessor: module or config; the type defaults to ``HuggingFacePreprocessor``.
        init_cfg: one or more initializer configs.

    Raises:
        MissingExtraError: transformers is not installed.
        ConfigError: the config is incomplete or has mistakes, or its type is not for classification.
        CheckpointError: the files of ``pretrained`` are missing or cannot be downloaded.
    """

    task = "image classification"
    network_name = "backbone"

    def __init__(
        self,
        pretrained: str | None = None,
        config: ConfigLike | None = None,
        num_classes: int | None = None,
        image_processor: Mapping[str, Any] | None = None,
        loss: Mapping[str, Any] | nn.Module | None = None,
        data_preprocessor: Mapping[str, Any] | nn.Module | None = None,
        init_cfg: InitCfg = None,
    ) -> None:
        network = self._build_parts(pretrained, config, num_classes, image_processor)
        number: int = network.config.num_labels
        preprocessor = preprocessor_config(data_preprocessor, self.image_processor, num_classes=number)
        super().__init__(network, num_classes=number, loss=loss, data_preprocessor=preprocessor, init_cfg=init_cfg)

    def extract_feat(self, inputs: Tensor) -> Tensor:
        """Return the logits, of shape (N, num_classes)."""
        logits: Tensor = self.backbone(inputs).logits
        return logits
