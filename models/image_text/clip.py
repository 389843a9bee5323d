"""CLIP: contrastive training of an image encoder and a text encoder."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from trainwright.engine.data.names import names_of, shortened
from trainwright.engine.distributed import gather_with_gradients, get_rank
from trainwright.engine.errors import ConfigError, DataError
from trainwright.engine.export.form import ExportForm
from trainwright.engine.records.logger import get_logger
from trainwright.engine.registry import MODELS
from trainwright.engine.structures.elements import BaseDataElement
from trainwright.engine.structures.sample import sample_name
from trainwright.models.base import BaseModel
from trainwright.models.classification.export import classification_form
from trainwright.models.classification.neighbors import pooled
from trainwright.models.classification.samples import add_predictions
from trainwright.models.module import InitCfg

_MAX_LOG_SCALE = math.log(100)
_LOSSES = ("softmax", "sigmoid")
_CHUNK = 256


class ImageTextModel(BaseModel):
    """Base of models that embed images and texts in one space, such as :class:`CLIP`.

    A subclass implements :meth:`encode_images`, :meth:`encode_texts` and :meth:`scale_and_bias`, has a ``tokenizer``,
    and calls :meth:`_set_up`.
    """

    tokenizer: Any

    def _set_up(self, loss: str, classes: Sequence[str] | None, templates: str | Sequence[str]) -> None:
        """Set the loss and the texts of zero-shot classification.

        Raises:
            ConfigError: an unknown loss, or a template without ``{}``.
        """
        if loss not in _LOSSES:
            raise ConfigError("loss", f"must be one of {', '.join(_LOSSES)}, not {loss!r}")
        self.loss = loss
        self.templates = (templates,) if isinstance(templates, str) else tuple(templates)
        for template in self.templates:
            if template.count("{}") != 1:
                message = f"{template!r} must have one {{}}, the place of the class name"
                raise ConfigError("templates", message, "such as 'a photo of a {}.'")
        if not self.templates:
            raise ConfigError("templates", "is empty", "templates=['a photo of a {}.']")
        self.own_classes = tuple(classes or ())
        self.classes = self.own_classes
        self._weights: Tensor | None = None

    def encode_images(self, images: Tensor) -> Tensor:
        """Return the embeddings of preprocessed images (N, C, H, W), of shape (N, D)."""
        raise NotImplementedError

    def encode_texts(self, texts: Sequence[str]) -> Tensor:
        """Return the embeddings of texts, of shape (N, D)."""
        raise NotImplementedError

    def tokens(self, texts: Sequence[str]) -> dict[str, Tensor]:
        """Return the tokens of texts, on the device of the model."""
        device = self.scale_and_bias()[0].device
        return {name: value.to(device, non_blocking=True) for name, value in self.tokenizer(list(texts)).items()}

    def scale_and_bias(self) -> tuple[Tensor, Tensor | None]:
        """Return the parameters of the similarities: the logarithm of their factor, and for the sigmoid loss a bias."""
        raise NotImplementedError

    def use_classes(self, metainfo: Mapping[str, Any]) -> tuple[str, ...]:
        """Predict the classes that the ``metainfo`` names, or else the model's own, and return their names."""
        self.classes = names_of(metainfo, "classes") or self.own_classes
        self._weights = None
        return self.classes

    @torch.no_grad()
    def zero_shot_weights(self) -> Tensor:
        """Return the unit-length weights of a classifier of :attr:`classes`, of shape (classes, D).

        That of a class is the mean of the embeddings of its name in all templates. They are computed on the first call
        in evaluation mode, and kept until the model or the classes change.

        Raises:
            ConfigError: there are no classes.
        """
        if self._weights is not None and self._weights.device == self.scale_and_bias()[0].device:
            return self._weights
        if not self.classes:
            message = "there are neither captions nor names of classes to compare the images with"
            raise ConfigError("model.classes", message, "set it, or `classes` in the metainfo of the dataset")
        names = [name.replace("_", " ") for name in self.classes]
        texts = [template.replace("{}", name) for name in names for template in self.templates]
        if (unknown := getattr(self.tokenizer, "unknown_words", None)) is not None and (words := unknown(texts)):
            message = "The tokenizer does not know these words, which are all alike to the model: %s"
            get_logger().warning(message, shortened(words))
        parts = [F.normalize(self.encode_texts(texts[i : i + _CHUNK]), dim=1) for i in range(0, len(texts), _CHUNK)]
        means = torch.cat(parts).float().view(len(names), len(self.templates), -1).mean(1)
        weights = F.normalize(means, dim=1)
        if not self.training:
            self._weights = weights
        return weights

    def train(self, mode: bool = True) -> Self:
        """Set training or evaluation mode; training mode discards the weights of zero-shot classification."""
        if mode:
            self._weights = None
        return super().train(mode)

    def forward(self, inputs: Tensor, data_samples: Any = None, mode: str = "tensor") -> Any:
        """Return losses, predictions or embeddings.

        Args:
            inputs: float images of shape (N, C, H, W).
            data_samples: a list of data samples with ``gt_caption``: for ``loss`` one text, for ``predict`` any number.
            mode: ``loss`` for the contrastive loss of images and captions; ``predict`` for data samples with
                ``image_embedding`` (D,), ``text_embeddings`` (K, D) of their K captions, and, if there are classes,
                ``pred_score`` and ``pred_label`` of zero-shot classification; ``tensor`` for the unit-length embeddings
                of the images, of shape (N, D).

        Raises:
            DataError: in mode ``loss``, a sample has no caption, or several.
            ConfigError: in mode ``predict``, there are neither captions nor classes.
        """
        images = F.normalize(self.encode_images(inputs), dim=1)
        if mode == "loss":
            return self._contrast(images, F.normalize(self.encode_texts(_captions(data_samples)), dim=1))
        if mode == "predict":
            return self._predictions(images.float(), data_samples)
        if mode == "tensor":
            return images
        raise ValueError(f"mode must be 'loss', 'predict' or 'tensor', not {mode!r}")

    def export_form(self) -> ExportForm:
        """Return the form that ``trainwright export`` needs: a classifier of :attr:`classes`.

        Raises:
            ConfigError: there are no classes.
        """
        weights, scale = self.zero_shot_weights(), self._scale().detach()
        return classification_form(self, lambda images: self._similarities(images, weights, scale))

    def _similarities(self, images: Tensor, weights: Tensor, scale: Tensor) -> Tensor:
        return scale * F.normalize(self.encode_images(images), dim=1) @ weights.T

    def _scale(self) -> Tensor:
        scale = self.scale_and_bias()[0]
        with torch.no_grad():  # the bound of the paper
            scale.clamp_(max=_MAX_LOG_SCALE)
        return scale.exp()

    def _contrast(self, images: Tensor, texts: Tensor) -> dict[str, Tensor]:
        scale, bias = self._scale(), self.scale_and_bias()[1]
        every_text = gather_with_gradients(texts)
        own = get_rank() * len(images) + torch.arange(len(images), device=images.device)
        logits = scale * images @ every_text.T
        if bias is not None:  # without effect on the softmax, but DDP waits for its gradient
            logits = logits + bias
        if self.loss == "softmax":
            of_texts = scale * texts @ gather_with_gradients(images).T
            loss = (F.cross_entropy(logits, own) + F.cross_entropy(of_texts, own)) / 2
        else:
            signs = torch.full_like(logits, -1.0).scatter(1, own[:, None], 1.0)
            loss = -F.logsigmoid(signs * logits).sum() / len(images)
        return {"loss": loss, "logit_scale": scale.detach().squeeze()}

    def _predictions(self, images: Tensor, data_samples: Any) -> Any:
        several = data_samples if isinstance(data_samples, list | tuple) else []
        captions = [_as_list(sample.get("gt_caption")) for sample in several if isinstance(sample, BaseDataElement)]
        with_captions = bool(captions) and all(captions)
        if self.classes or not with_captions:
            data_samples = add_predictions(self._scale() * images @ self.zero_shot_weights().T, data_samples)
        if not isinstance(data_samples, list | tuple):
            data_samples.image_embedding = images
            return data_samples
        for sample, embedding in zip(data_samples, images):
            sample.image_embedding = embedding
        if with_captions:
            texts = F.normalize(self.encode_texts([text for each in captions for text in each]), dim=1).float()
            for sample, embeddings in zip(data_samples, torch.split(texts, [len(each) for each in captions])):
                sample.text_embeddings = embeddings
        return list(data_samples)

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self._weights = None


def _captions(data_samples: Any) -> list[str]:
    """Return the caption of each sample.

    Raises:
        DataError: a sample has none, or several.
    """
    if not isinstance(data_samples, list | tuple) or not data_samples:
        raise DataError(f"the batch has no captions: its data samples are {data_samples!r}")
    captions: list[str] = []
    for sample in data_samples:
        found = _as_list(sample.get("gt_caption"))
        if len(found) != 1:
            remedy = "the dataset has no captions" if not found else "draw one by dict(type='RandomCaption')"
            raise DataError(
                f"{sample_name(sample)} has {len(found) or 'no'} captions, but the loss takes one: {remedy}"
            )
        captions += found
    return captions


def _as_list(captions: Any) -> list[str]:
    return [captions] if isinstance(captions, str) else list(captions or ())


@MODELS.register_module()
class CLIP(ImageTextModel):
    """Contrastive language–image pre-training (Radford et al. 2021), or SigLIP, by its loss (Zhai et al. 2023).

    The encoders are trained to tell the caption of each image from those of the other images in the batch, and the
    other way round. The captions and images of all ranks are gathered, with their gradients. Equal captions in a batch
    count as different ones, as in the papers. Sources: https://arxiv.org/abs/2103.00020, https://arxiv.org/abs/2303.15343.

    Images are classified without training on classes (zero-shot), by the similarity with the names of classes. The
    names are those of the dataset that is evaluated. See :class:`HuggingFaceCLIP` for published weights.

    Example:
        >>> CLIP(
        ...     image_encoder=dict(type="TorchvisionModel", name="resnet50", num_classes=512),
        ...     text_encoder=dict(type="MyTextEncoder", out_features=512),
        ...     tokenizer=dict(type="WordTokenizer", dataset=dict(type="ImageTextDataset", ann_file="train.csv")),
        ... )

    Args:
        image_encoder: module or config; returns embeddings (N, D), or feature maps, which are averaged over all
            positions.
        text_encoder: module or config; called with what the tokenizer returns as keywords, returns embeddings (N, D).
        tokenizer: module or config; called with a list of texts, returns a dict of tensors (N, L), such as
            ``input_ids`` and ``attention_mask``.
        loss: ``softmax`` for the loss of CLIP, ``sigmoid`` for that of SigLIP.
        logit_scale: initial factor of the similarities, learned, at most 100; by default 1 / 0.07, or 10 for the
            sigmoid loss, whose bias is -10 at first.
        classes: names of the classes to predict if the data does not name any, as in ``trainwright predict``.
        templates: one or more texts with ``{}`` in the place of a class name, whose embeddings are averaged.
            Underscores in names become spaces.
        data_preprocessor: module or config; the type defaults to ``ImgDataPreprocessor``.
        init_cfg: one or more initializer configs.

    Raises:
        ConfigError: an unknown loss, or a template without ``{}``.
    """

    def __init__(
        self,
        image_encoder: Mapping[str, Any] | nn.Module,
        text_encoder: Mapping[str, Any] | nn.Module,
        tokenizer: Mapping[str, Any] | nn.Module,
        loss: str = "softmax",
        logit_scale: float | None = None,
        classes: Sequence[str] | None = None,
        templates: str | Sequence[str] = "a photo of a {}.",
        data_preprocessor: Mapping[str, Any] | nn.Module | None = None,
        init_cfg: InitCfg = None,
    ) -> None:
        if not isinstance(data_preprocessor, nn.Module):
            data_preprocessor = {"type": "ImgDataPreprocessor", **(data_preprocessor or {})}
        super().__init__(data_preprocessor, init_cfg)
        self._set_up(loss, classes, templates)
        self.image_encoder: Any = MODELS.build(image_encoder)
        self.text_encoder: Any = MODELS.build(text_encoder)
        self.tokenizer: Any = MODELS.build(tokenizer)
        scale = (1 / 0.07 if loss == "softmax" else 10.0) if logit_scale is None else logit_scale
        # Of shape (1,), because FSDP2 does not accept scalar parameters.
        self.logit_scale = nn.Parameter(torch.tensor([math.log(scale)]))
        self.logit_bias = nn.Parameter(torch.tensor([-10.0])) if loss == "sigmoid" else None

    def encode_images(self, images: Tensor) -> Tensor:
        """Return the embeddings of preprocessed images (N, C, H, W), of shape (N, D)."""
        return pooled(self.image_encoder(images))

    def encode_texts(self, texts: Sequence[str]) -> Tensor:
        """Return the embeddings of texts, of shape (N, D)."""
        return self.text_encoder(**self.tokens(texts))  # type: ignore[no-any-return]

    def scale_and_bias(self) -> tuple[Tensor, Tensor | None]:
        """Return the parameters of the similarities, see :class:`ImageTextModel`."""
        return self.logit_scale, self.logit_bias

    def compile_forward(self, **options: Any) -> None:
        """Compile the encoders.

        Args:
            **options: arguments of :func:`torch.compile`.
        """
        self.image_encoder.compile(**options)
        self.text_encoder.compile(**options)
