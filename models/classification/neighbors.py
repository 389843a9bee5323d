"""The features of labeled images, and classification by the nearest of them."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from trainwright.engine.data.loader import build_dataloader, num_unpadded_samples, start_at
from trainwright.engine.data.names import names_of
from trainwright.engine.distributed import all_gather, all_gather_object, get_world_size, one_per_data_rank
from trainwright.engine.errors import ConfigError
from trainwright.engine.records.logger import print_log
from trainwright.models.classification.samples import add_predictions

Embed = Callable[[Any], tuple[Tensor, Tensor]]


class FeatureBank:
    """The features of labeled images, whose classes vote for those of other images (Wu et al. 2018).

    They are computed at the first query after :meth:`discard`, split across processes, gathered, and kept on the
    device. Source: https://arxiv.org/abs/1805.01978.

    Args:
        memory: data loader config of the labeled images.
        k: number of neighbors, at least 1.
        temperature: smaller values give more weight to the nearest neighbors; positive.

    Raises:
        ConfigError: ``k`` or ``temperature`` is out of range.
    """

    def __init__(self, memory: Mapping[str, Any], k: int, temperature: float) -> None:
        if k < 1 or temperature <= 0:
            raise ConfigError("k", f"k must be at least 1 and temperature positive, not {k} and {temperature}")
        self.memory = memory
        self.k = k
        self.temperature = temperature
        self._loader: Any = None
        self._bank: tuple[Tensor, Tensor] | None = None
        self._num_named = 0  # classes that the dataset names

    @property
    def dataset(self) -> Any:
        """The labeled images; the dataset is built on the first access."""
        if self._loader is None:
            sampler = {"type": "DefaultSampler", "shuffle": False}
            self._loader = build_dataloader({"sampler": sampler, **self.memory}, seed=0, path="model.memory")
        return self._loader.dataset

    def discard(self) -> None:
        """Discard the features, because those of the model change."""
        self._bank = None

    @torch.no_grad()
    def get(self, embed: Embed) -> tuple[Tensor, Tensor]:
        """Return unit-length features (M, D) and labels (M,) of the images.

        Args:
            embed: returns the features (N, D) and labels (N,) of a batch.
        """
        if self._bank is None:
            self._num_named = len(names_of(getattr(self.dataset, "metainfo", None), "classes"))
            loader = self._loader
            start_at(loader, 0, 0)
            parts = [embed(batch) for batch in loader]
            own = [torch.cat([features for features, _ in parts]), torch.cat([labels for _, labels in parts])]
            own[0] = F.normalize(own[0].float(), dim=1)
            size = num_unpadded_samples(loader) if get_world_size() > 1 else None
            # Samplers distribute round-robin: some ranks may have one sample less, or be padded with the first ones.
            longest = max(all_gather_object(len(own[0])))
            padded = [torch.cat([column, column[: longest - len(column)]]) for column in own]
            columns = [one_per_data_rank(all_gather(column)) for column in padded]
            by_rank = [torch.stack(parts, 1) for parts in columns]
            features, labels = (parts.flatten(0, 1)[:size] for parts in by_rank)
            self._bank = features, labels
            print_log(f"Computed the features of {len(features)} training images", logger="current")
        return self._bank

    def votes(self, queries: Tensor, features: Tensor, labels: Tensor, num_classes: int = 0) -> Tensor:
        """Return the share of votes for each class, of shape (N, C).

        Args:
            queries: unit-length features, of shape (N, D).
            features: unit-length features of the labeled images, of shape (M, D).
            labels: classes of the labeled images, of shape (M,).
            num_classes: C, if it is more than the largest label plus 1.
        """
        similarity, nearest = (queries @ features.T).topk(min(self.k, len(features)))
        weights = (similarity / self.temperature).softmax(1)
        votes = queries.new_zeros(len(queries), max(int(labels.max()) + 1, num_classes))
        return votes.scatter_add_(1, labels[nearest], weights)

    def predict(self, features: Tensor, embed: Embed, data_samples: Any) -> Any:
        """Return the data samples of a batch with their classes.

        Args:
            features: features of the images, of shape (N, D).
            embed: see :meth:`get`.
            data_samples: their data samples or labels.
        """
        queries = F.normalize(features.detach().float(), dim=1)
        bank = self.get(embed)
        return add_predictions(self.votes(queries, *bank, self._num_named).log(), data_samples)


def pooled(features: Any) -> Tensor:
    """Return features (N, C) of a backbone: its last output, averaged over all positions of a feature map."""
    last: Tensor = features if isinstance(features, Tensor) else features[-1]
    return last.flatten(2).mean(2) if last.dim() > 2 else last
