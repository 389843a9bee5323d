"""k-nearest-neighbor classification, to evaluate features without training a classifier."""

from collections.abc import Mapping
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from trainwright.engine.data.loader import build_dataloader, num_unpadded_samples, start_at
from trainwright.engine.data.names import names_of
from trainwright.engine.distributed import all_gather, all_gather_object, get_world_size, one_per_data_rank
from trainwright.engine.errors import ConfigError, did_you_mean
from trainwright.engine.records.logger import print_log
from trainwright.engine.registry import MODELS
from trainwright.models.classification.classifier import ImageClassifier
from trainwright.models.classification.samples import add_predictions, gather_labels


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
        if k < 1 or temperature <= 0:
            raise ConfigError("k", f"k must be at least 1 and temperature positive, not {k} and {temperature}")
        super().__init__(backbone, **kwargs)
        self.memory = memory
        self.k = k
        self.temperature = temperature
        self.layer = layer
        self._memory_loader: Any = None
        self._layer_output: Any = None
        self._bank: tuple[Tensor, Tensor] | None = None
        self._num_named = 0  # classes that the dataset names
        if layer is not None:
            known = [name for name, _ in self.named_modules() if name.startswith(("backbone.", "neck."))]
            if layer not in known:
                hint = did_you_mean(layer, known) or f"the last submodules are {', '.join(known[-3:])}"
                raise ConfigError("layer", f"backbone and neck have no submodule {layer!r}", hint)
            self.get_submodule(layer).register_forward_hook(self._keep_output)

    def train(self, mode: bool = True) -> Self:
        """Set training or evaluation mode; training mode discards the features of the training images."""
        if mode:
            self._bank = None
        return super().train(mode)

    def labeled_dataset(self) -> Any:
        """Return the labeled training images, built on the first call."""
        if self._memory_loader is None:
            sampler = {"type": "DefaultSampler", "shuffle": False}
            self._memory_loader = build_dataloader({"sampler": sampler, **self.memory}, seed=0, path="model.memory")
        return self._memory_loader.dataset

    @torch.no_grad()
    def bank(self) -> tuple[Tensor, Tensor]:
        """Return unit-length features (M, D) and labels (M,) of the training images, computed on the first call."""
        if self._bank is None:
            self.labeled_dataset()
            loader = self._memory_loader
            start_at(loader, 0, 0)
            local_features: list[Tensor] = []
            local_labels: list[Tensor] = []
            for batch in loader:
                data = self.data_preprocessor(batch, False)
                inputs, samples = (data["inputs"], data["data_samples"]) if isinstance(data, dict) else data
                local_features.append(self._embed(self.extract_feat(inputs)))
                local_labels.append(gather_labels(samples).to(inputs.device))
            size = num_unpadded_samples(loader) if get_world_size() > 1 else None
            # Samplers distribute round-robin: some ranks may have one sample less, or be padded with the first ones.
            own = [torch.cat(column) for column in (local_features, local_labels)]
            longest = max(all_gather_object(len(own[0])))
            padded = [torch.cat([column, column[: longest - len(column)]]) for column in own]
            columns = [one_per_data_rank(all_gather(column)) for column in padded]
            by_rank = [torch.stack(parts, 1) for parts in columns]
            features, labels = (parts.flatten(0, 1)[:size] for parts in by_rank)
            self._bank = features, labels
            self._num_named = len(names_of(getattr(loader.dataset, "metainfo", None), "classes"))
            print_log(f"Computed the features of {len(features)} training images", logger="current")
        return self._bank

    def votes(self, queries: Tensor, features: Tensor, labels: Tensor, num_classes: int = 0) -> Tensor:
        """Return the share of votes for each class, of shape (N, C).

        Args:
            queries: unit-length features, of shape (N, D).
            features: unit-length features of the training images, of shape (M, D).
            labels: classes of the training images, of shape (M,).
            num_classes: C, if it is more than the largest label plus 1.
        """
        similarity, nearest = (queries @ features.T).topk(min(self.k, len(features)))
        weights = (similarity / self.temperature).softmax(1)
        votes = queries.new_zeros(len(queries), max(int(labels.max()) + 1, num_classes))
        return votes.scatter_add_(1, labels[nearest], weights)

    def _predictions(self, features: Any, data_samples: Any) -> Any:
        queries = self._embed(features).detach()
        features, labels = self.bank()
        return add_predictions(self.votes(queries, features, labels, self._num_named).log(), data_samples)

    def _embed(self, features: Any) -> Tensor:
        """Return unit-length features (N, D), given the latest output of ``extract_feat``."""
        if self.layer is not None:
            features, self._layer_output = self._layer_output, None
        last: Tensor = features if isinstance(features, Tensor) else features[-1]
        return F.normalize(last.float().flatten(2).mean(2) if last.dim() > 2 else last.float(), dim=1)

    def _keep_output(self, module: nn.Module, inputs: Any, output: Any) -> None:
        self._layer_output = output

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self._bank = None
