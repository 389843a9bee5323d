"""CLIP and its relatives of Hugging Face's transformers."""

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from trainwright.engine.errors import ConfigError
from trainwright.engine.registry import MODELS
from trainwright.models.huggingface.base import HuggingFaceModel, preprocessor_config
from trainwright.models.huggingface.networks import ConfigLike, config_class_of, part_class
from trainwright.models.huggingface.preprocessor import input_size
from trainwright.models.image_text.clip import ImageTextModel
from trainwright.models.module import InitCfg

_MAX_LENGTH = 77
_TOKEN_KEYS = ("vocab_size", "pad_token_id", "bos_token_id", "eos_token_id")
_TOKENIZER_HINT = (
    "tokenizer=dict(type='WordTokenizer', dataset=...) with the training dataset, or the name or folder of one"
)


@MODELS.register_module()
class HuggingFaceCLIP(HuggingFaceModel, ImageTextModel):
    """A dual encoder of transformers: CLIP, SigLIP, MetaCLIP 2, Chinese-CLIP or AltCLIP; see :class:`CLIP`.

    Data samples need ``gt_caption``. The images are resized and normalized by the image processor of the network.

    Example:
        >>> HuggingFaceCLIP("openai/clip-vit-base-patch32", templates=["a photo of a {}.", "art of the {}."])
        >>> HuggingFaceCLIP(
        ...     config=dict(model_type="clip", text_config=dict(num_hidden_layers=2), vision_config=dict(patch_size=8)),
        ...     image_processor=dict(size=64, crop_size=64),
        ...     tokenizer=dict(type="WordTokenizer", dataset=dict(type="ImageTextDataset", ann_file="train.csv")),
        ... )

    Args:
        pretrained: name on the Hugging Face Hub or folder, see :class:`HuggingFaceClassifier`.
        config: a config for random weights, or changes to that of the weights, see :class:`HuggingFaceClassifier`.
            Without weights, the numbers of tokens in ``text_config`` default to those of the tokenizer.
        tokenizer: name or folder of a tokenizer, or the config of one such as ``WordTokenizer``; by default that of
            ``pretrained``, or of ``config`` if it is a name.
        loss: ``softmax`` or ``sigmoid``, see :class:`CLIP`; by default that of the network.
        classes: see :class:`CLIP`.
        templates: see :class:`CLIP`.
        image_processor: options that replace those of the image processor.
        data_preprocessor: module or config; the type defaults to ``HuggingFacePreprocessor``.
        init_cfg: one or more initializer configs.

    Raises:
        MissingExtraError: transformers is not installed.
        ConfigError: the config is incomplete or has mistakes, its type is not for images and texts, or the network and
            its tokenizer or image processor do not fit.
        CheckpointError: the files of ``pretrained`` are missing or cannot be downloaded.
    """

    task = "images and texts"
    names_key = ""

    def __init__(
        self,
        pretrained: str | None = None,
        config: ConfigLike | None = None,
        tokenizer: str | Mapping[str, Any] | None = None,
        loss: str | None = None,
        classes: Sequence[str] | None = None,
        templates: str | Sequence[str] = "a photo of a {}.",
        image_processor: Mapping[str, Any] | None = None,
        data_preprocessor: Mapping[str, Any] | nn.Module | None = None,
        init_cfg: InitCfg = None,
    ) -> None:
        for error in self.check_config({"pretrained": pretrained, "config": config, "tokenizer": tokenizer}):
            raise error
        source = tokenizer or pretrained or config
        found: Any = None
        if pretrained is None and isinstance(config, Mapping):
            found = _build_tokenizer(source, config["model_type"], _text_setting(config, "max_position_embeddings"))
            config = _with_tokens(config, found)
        network: Any = self._build_parts(pretrained, config, None, image_processor, "")
        self._dataset_meta = None
        super().__init__(preprocessor_config(data_preprocessor, self.image_processor), init_cfg)
        self.network = network
        texts = network.config.text_config
        self.tokenizer = found or _build_tokenizer(source, network.config.model_type, texts.max_position_embeddings)
        if self.tokenizer.vocab_size > texts.vocab_size:
            message = f"has {self.tokenizer.vocab_size} tokens, but the network only {texts.vocab_size}"
            raise ConfigError("tokenizer", message, "use that of the weights, or set vocab_size of the text_config")
        _check_size(network.config.vision_config.image_size, self.image_processor)
        is_sigmoid = getattr(network, "logit_bias", None) is not None
        self._set_up(loss or ("sigmoid" if is_sigmoid else "softmax"), classes, templates)
        if is_sigmoid and pretrained is None:  # as in the paper
            nn.init.constant_(network.logit_scale, math.log(10))
            nn.init.constant_(network.logit_bias, -10.0)

    @classmethod
    def check_config(cls, cfg: Mapping[str, Any]) -> Iterator[ConfigError]:
        """Yield the mistakes in a config of this model, with paths inside it, as far as transformers is installed."""
        yield from super().check_config(cfg)
        if cfg.get("pretrained") is None and isinstance(cfg.get("config"), Mapping) and cfg.get("tokenizer") is None:
            yield ConfigError("tokenizer", "is required for a config without weights", _TOKENIZER_HINT)

    def encode_images(self, images: Tensor) -> Tensor:
        """Return the embeddings of preprocessed images (N, C, H, W), of shape (N, D)."""
        return _pooled(self.network.get_image_features(pixel_values=images))

    def encode_texts(self, texts: Sequence[str]) -> Tensor:
        """Return the embeddings of texts, of shape (N, D)."""
        return _pooled(self.network.get_text_features(**self.tokens(texts)))

    def scale_and_bias(self) -> tuple[Tensor, Tensor | None]:
        """Return the parameters of the similarities, see :class:`ImageTextModel`."""
        return self.network.logit_scale, getattr(self.network, "logit_bias", None)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write a folder that transformers can load, with the tokenizer if it is one of transformers.

        Args:
            folder: the folder; created if it does not exist.
        """
        super().save_pretrained(folder)
        if hasattr(self.tokenizer, "save_pretrained"):
            self.tokenizer.save_pretrained(folder)

    def compile_forward(self, **options: Any) -> None:
        """Compile both encoders.

        Args:
            **options: arguments of :func:`torch.compile`.
        """
        self.network.vision_model.compile(**options)
        self.network.text_model.compile(**options)


def _pooled(output: Any) -> Tensor:
    return output if isinstance(output, Tensor) else output.pooler_output


def _build_tokenizer(source: Any, model_type: str, max_positions: int) -> Any:
    length = min(_MAX_LENGTH, max_positions)
    padding = "max_length" if model_type.startswith("siglip") else "longest"  # which pools the last token
    cfg = {"type": "HuggingFaceTokenizer", "name": source} if isinstance(source, str) else source
    return MODELS.build({"max_length": length, "padding": padding, **cfg}) if isinstance(cfg, Mapping) else cfg


def _text_setting(config: Mapping[str, Any], key: str) -> Any:
    default = getattr(_text_class(config), key)
    return (config.get("text_config") or {}).get(key, default)


def _text_class(config: Mapping[str, Any]) -> Any:
    return part_class(config_class_of(config["model_type"]), "text_config")


def _with_tokens(config: Mapping[str, Any], tokenizer: Any) -> dict[str, Any]:
    """Return the config with the numbers of the tokens, where it does not state them."""
    fields = _text_class(config).__dataclass_fields__
    numbers = {key: getattr(tokenizer, key, None) for key in _TOKEN_KEYS if key in fields}
    known = {key: value for key, value in numbers.items() if value is not None}
    return {**config, "text_config": {**known, **(config.get("text_config") or {})}}


def _check_size(expected: Any, image_processor: Any) -> None:
    size = input_size(image_processor)
    wanted = (expected, expected) if isinstance(expected, int) else tuple(expected)
    if size is not None and size != wanted:
        message = f"makes images of size {size}, but the network takes {wanted}"
        options = "size, and of CLIP crop_size,"
        raise ConfigError("image_processor", message, f"set {options} or image_size of the vision_config")
