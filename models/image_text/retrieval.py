"""Retrieval of texts by images, and of images by texts."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from trainwright.engine.errors import DataError
from trainwright.engine.evaluation.metric import BaseMetric
from trainwright.engine.registry import METRICS

_CHUNK = 1024
_DIRECTIONS = {  # and of recalls, by their names
    "image_to_text_median_rank": False,
    "text_to_image_median_rank": False,
    "mean_recall": True,
}


@METRICS.register_module()
class ImageTextRetrievalMetric(BaseMetric):
    """Recall and median rank of the texts that an image finds, and of the images that a text finds.

    All images and texts of a dataset are compared by the cosine of their embeddings, ``image_embedding`` (D,) and
    ``text_embeddings`` (K, D) of the samples. An image finds its best of its K captions, as in evaluations on COCO and
    Flickr30k. The results are, in percent, ``retrieval/image_to_text_recall1`` and so on, the same for
    ``text_to_image``, and their mean, ``retrieval/mean_recall``; and ``retrieval/image_to_text_median_rank``, from 1.

    Args:
        topk: the values of k in recall@k.
        collect_device: see :class:`BaseMetric`.
        prefix: see :class:`BaseMetric`.
    """

    default_prefix = "retrieval"
    higher_is_better = _DIRECTIONS

    def __init__(
        self, topk: int | Sequence[int] = (1, 5, 10), collect_device: str = "cpu", prefix: str | None = None
    ) -> None:
        super().__init__(collect_device, prefix)
        self.topk = (topk,) if isinstance(topk, int) else tuple(topk)

    def process(self, data_batch: Any, data_samples: Sequence[Mapping[str, Any]]) -> None:
        """Record the embeddings of each sample."""
        for sample in data_samples:
            if "text_embeddings" not in sample:
                found = ", ".join(sample) or "none"
                raise DataError(
                    f"ImageTextRetrievalMetric: a sample has no text_embeddings, only the fields {found}: the "
                    "model must be one for images and texts, such as CLIP, and the dataset must have captions"
                )
        images = torch.stack([sample["image_embedding"] for sample in data_samples]).detach().cpu()
        texts = torch.cat([sample["text_embeddings"] for sample in data_samples]).detach().cpu()
        sizes = [len(sample["text_embeddings"]) for sample in data_samples]
        self.results += [(image.clone(), each.clone()) for image, each in zip(images, torch.split(texts, sizes))]

    def compute_metrics(self, results: Sequence[tuple[Tensor, Tensor]]) -> dict[str, float]:
        """Return the recalls in percent, and the median ranks."""
        images = F.normalize(torch.stack([image for image, _ in results]).float(), dim=1)
        texts = F.normalize(torch.cat([each for _, each in results]).float(), dim=1)
        owner = torch.repeat_interleave(torch.arange(len(results)), torch.tensor([len(each) for _, each in results]))
        of_images, of_texts = [], []
        for chunk in torch.split(torch.arange(len(images)), _CHUNK):
            similarity = images[chunk] @ texts.T
            of_images.append(_first_ranks(similarity, owner == chunk[:, None]))
        for chunk in torch.split(torch.arange(len(texts)), _CHUNK):
            similarity = texts[chunk] @ images.T
            of_texts.append(_first_ranks(similarity, torch.arange(len(images)) == owner[chunk][:, None]))
        found: dict[str, float] = {}
        for way, ranks in (("image_to_text", torch.cat(of_images)), ("text_to_image", torch.cat(of_texts))):
            found |= {f"{way}_recall{k}": 100 * float((ranks < k).double().mean()) for k in self.topk}
            found[f"{way}_median_rank"] = float(ranks.double().quantile(0.5)) + 1
        recalls = [value for name, value in found.items() if "recall" in name]
        return {**found, "mean_recall": sum(recalls) / len(recalls)}


def _first_ranks(similarity: Tensor, match: Tensor) -> Tensor:
    """Return the rank from 0 of the best match in each row; of equal similarities, the first column ranks first."""
    order = similarity.sort(dim=1, descending=True, stable=True).indices
    return match.gather(1, order).int().argmax(1)
