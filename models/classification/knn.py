"""Classification by the nearest neighbours among the training images, which judges features without training."""

from collections.abc import Mapping
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from trainwright.engine.data.loader import build_dataloader, num_unpadded_samples
from trainwright.engine.distributed import all_gather, get_world_size
from trainwright.engine.errors import ConfigError, did_you_mean
from trainwright.engine.records.logger import print_log
from trainwright.engine.registry import MODELS
from trainwright.models.classification.classifier import ImageClassifier
from trainwright.models.classification.samples import add_predictions, gather_labels


@MODELS.register_module()
class KNNClassifier(ImageClassifier):
    """Classifies images by the labels of the most similar training images (Wu et al. 2018).

    https://arxiv.org/abs/1805.01978: similarity is the cosine between features, and each of the ``k`` neighbours votes
    with the weight ``exp(similarity / temperature)``. The weights have the names of :class:`ImageClassifier`, so
    ``trainwright test CONFIG CHECKPOINT`` judges the features of any checkpoint without training. It is trained as an
    ImageClassifier is; validation then follows the features while they get better.

    At the first batch of a validation or test the features of all training images are gathered, each process a part of
    them; they are kept on the device.

    Example:
        >>> KNNClassifier(
        ...     "resnet50", num_classes=1000, layer="backbone.avgpool",
        ...     memory=dict(batch_size=256, dataset=dict(type="ImageNet", data_root="data/imagenet", pipeline=...)),
        ... )

    Args:
        backbone: see :class:`ImageClassifier`, as for all that is not named here.
        memory: config of the data loader of the training images with their labels: ``dataset``, ``batch_size``,
            ``num_workers``, ``collate_fn``. Its pipeline should not be random.
        k: number of neighbours, at least 1.
        temperature: the smaller, the more the nearest ones count; positive.
        layer: name of the part of backbone or neck whose output the features are; what ``extract_feat`` gives if None.
            Feature maps are averaged over their positions.
        **kwargs: further arguments of :class:`ImageClassifier`.

    Raises:
        ConfigError: there is no such layer, or a number is out of range.
    """

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
        self._output: Any = None
        self._bank: tuple[Tensor, Tensor] | None = None
        if layer is not None:
            known = [name for name, _ in self.named_modules() if name.startswith(("backbone.", "neck."))]
            if layer not in known:
                hint = did_you_mean(layer, known) or f"the last ones are {', '.join(known[-3:])}"
                raise ConfigError("layer", f"backbone and neck have no part {layer!r}", hint)
            self.get_submodule(layer).register_forward_hook(self._keep_output)

    def train(self, mode: bool = True) -> Self:
        """Sets training or evaluation mode; what is known of the training images is forgotten in training."""
        if mode:
            self._bank = None
        return super().train(mode)

    @torch.no_grad()
    def bank(self) -> tuple[Tensor, Tensor]:
        """Returns features of length 1 (M, D) and labels (M,) of the training images; gathered the first time."""
        if self._bank is None:
            sampler = {"type": "DefaultSampler", "shuffle": False}
            loader = build_dataloader({"sampler": sampler, **self.memory}, seed=0, path="model.memory")
            columns: tuple[list[Tensor], list[Tensor]] = ([], [])
            for batch in loader:
                data = self.data_preprocessor(batch, False)
                inputs, samples = (data["inputs"], data["data_samples"]) if isinstance(data, dict) else data
                columns[0].append(self._embed(self.extract_feat(inputs)))
                columns[1].append(gather_labels(samples).to(inputs.device))
            size = num_unpadded_samples(loader) if get_world_size() > 1 else None
            # Samplers deal the samples out like cards, and repeat the first ones so that all ranks get as many.
            dealt = [torch.stack(all_gather(torch.cat(column)), 1) for column in columns]
            features, labels = (parts.flatten(0, 1)[:size] for parts in dealt)
            self._bank = features, labels
            print_log(f"the nearest neighbours come from {len(features)} training images", logger="current")
        return self._bank

    def votes(self, queries: Tensor, features: Tensor, labels: Tensor) -> Tensor:
        """Returns the share of the votes for each class, of shape (N, num_classes).

        Args:
            queries: features of length 1, of shape (N, D).
            features: those of the training images, of shape (M, D).
            labels: their classes, of shape (M,).
        """
        similarity, nearest = (queries @ features.T).topk(min(self.k, len(features)))
        weights = (similarity / self.temperature).softmax(1)
        votes = queries.new_zeros(len(queries), int(labels.max()) + 1)
        return votes.scatter_add_(1, labels[nearest], weights)

    def _predictions(self, features: Any, data_samples: Any) -> Any:
        queries = self._embed(features).detach()
        return add_predictions(self.votes(queries, *self.bank()).log(), data_samples)

    def _embed(self, features: Any) -> Tensor:
        """Returns features of length 1 for what ``extract_feat`` has just returned, of shape (N, D)."""
        if self.layer is not None:
            features, self._output = self._output, None
        last: Tensor = features if isinstance(features, Tensor) else features[-1]
        return F.normalize(last.float().flatten(2).mean(2) if last.dim() > 2 else last.float(), dim=1)

    def _keep_output(self, module: nn.Module, inputs: Any, output: Any) -> None:
        self._output = output

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self._bank = None
