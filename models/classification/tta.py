"""Test-time augmentation for classification."""

import torch

from trainwright.engine.registry import MODELS
from trainwright.engine.structures.sample import DataSample
from trainwright.models.tta import BaseTTAModel


@MODELS.register_module()
class ClassificationTTA(BaseTTAModel):
    """A model that averages the scores of all views of an image.

    Args:
        module: the classifier, or its config.
        data_preprocessor: config or module that overrides the one in the config of the classifier.
    """

    def merge_preds(self, data_samples_list: list[list[DataSample]]) -> list[DataSample]:
        """Return the sample of the first view, with the mean ``pred_score`` of all views and its ``pred_label``."""
        head = getattr(self.module, "head", None)
        merged = []
        for views in data_samples_list:
            sample = views[0].new()
            score = sample.pred_score = torch.stack([view.pred_score for view in views]).mean(0)
            is_multi_label = hasattr(head, "predicted_labels")
            sample.pred_label = head.predicted_labels(score[None])[0] if is_multi_label else score.argmax(-1)  # type: ignore[union-attr]
            merged.append(sample)
        return merged
