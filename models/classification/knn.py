"""k-nearest-neighbor classification, to evaluate features without training a classifier."""

from collections.abc import Mapping
from typing import Any, Self

from torch import Tensor, nn

from trainwright.engine.errors import ConfigError, did_you_mean
from trainwright.engine.registry import MODELS
from trainwright.models.classification.classifier import ImageClassifier
from trainwright.models.classification.neighbors import FeatureBank, pooled
from trainwright.models.classification.samples import gather_labels


@MODELS.register_module()
class KNNClassifier(ImageClassifier):
    """A classifier that predicts by the labels of the most similar training images (Wu et al. 2018).

    https://arxiv.org/abs/1805.01978. The similarity is the cosine of the angle between features, and each of the ``k``
    nearest neighbors votes with the weight ``exp(similarity / temperature)``. The state dict has the same names as that
    of :class:`ImageClassifier`, so ``trainwright test CONFIG CHECKPOINT`` evaluates the features of any checkpoint
    without training. Training is the same as for ImageClassifier; validation then tracks the quality of the features.

    At the first batch of a validation or test, the features of all training images are computed, split across
    processes, gathered, and kept on the device. Validation and test data have to have the same classes as the labeled
    images, by name: datasets that list them in another order are renumbered.

    Example:
        >>> KNNClassifier(
        ...     "resnet50", num_classes=1000, layer="backbone.avgpool",
        ...     memory=dict(batch_size=256, dataset=dict(type="ImageNet", data_root="data/imagenet", pipeline=...)),
        ... )

    Args:
        backbone: see :class:`ImageClassifier`.
        memory: data loader config for the labeled training images: ``dataset``, ``batch_size``, ``num_workers``,
            ``collate_fn``. The pipeline should not be random.
        k: number of neighbors, at least 1.
        temperature: smaller values give more weight to the nearest neighbors; positive.
        layer: name of the backbone or neck submodule whose output is used as features; the output of ``extract_feat``
            if None. Feature maps are averaged over all positions.
        **kwargs: further arguments of :class:`ImageClassifier`.

    Raises:
        ConfigError: the layer does not exist, or ``k`` or ``temperature`` is out of range.
    """

    export_form: Any = None  # the labeled images are not part of the model

    def __init__(
        self,
        backbone: str | Mapping[str, Any] | nn.Module,
        memory: Mapping[str, Any],
        k: int = 20,
        temperature: float = 0.07,
        layer: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(backbone, **kwargs)
        self.neighbors = FeatureBank(memory, k, temperature)
        self.layer = layer
        self._layer_output: Any = None
        if layer is not None:
            known = [name for name, _ in self.named_modules() if name.startswith(("backbone.", "neck."))]
            if layer not in known:
                hint = did_you_mean(layer, known) or f"the last submodules are {', '.join(known[-3:])}"
                raise ConfigError("layer", f"backbone and neck have no submodule {layer!r}", hint)
            self.get_submodule(layer).register_forward_hook(self._keep_output)

    def train(self, mode: bool = True) -> Self:
        """Set training or evaluation mode; training mode discards the features of the training images."""
        if mode:
            self.neighbors.discard()
        return super().train(mode)

    def labeled_dataset(self) -> Any:
        """Return the labeled training images, built on the first call."""
        return self.neighbors.dataset

    def bank(self) -> tuple[Tensor, Tensor]:
        """Return unit-length features (M, D) and labels (M,) of the training images, computed on the first call."""
        return self.neighbors.get(self._embed_batch)

    def _predictions(self, features: Any, data_samples: Any) -> Any:
        return self.neighbors.predict(self._embed(features), self._embed_batch, data_samples)

    def _embed(self, features: Any) -> Tensor:
        """Return features (N, D), given the latest output of ``extract_feat``."""
        if self.layer is not None:
            features, self._layer_output = self._layer_output, None
        return pooled(features)

    def _embed_batch(self, batch: Any) -> tuple[Tensor, Tensor]:
        data = self.data_preprocessor(batch, False)
        inputs, samples = (data["inputs"], data["data_samples"]) if isinstance(data, dict) else data
        return self._embed(self.extract_feat(inputs)), gather_labels(samples).to(inputs.device)

    def _keep_output(self, module: nn.Module, inputs: Any, output: Any) -> None:
        self._layer_output = output

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self.neighbors.discard()
