"""Optional attributes of models, with which the data is compared before the first step.

They are recognized by their names, on any model or module; there is no base class.
"""

from collections.abc import Sequence
from typing import Any, Protocol


class ModelTraits(Protocol):
    """Optional attributes of a model.

    Attributes:
        num_classes: number of classes in ``metainfo["classes"]`` that the outputs of the model distinguish.
        num_seg_classes: the same for semantic segmentation: ``metainfo["seg_classes"]``, or else ``classes``.
        num_keypoints: number of keypoints that the model predicts.
        flip_indices: for a flip test, the keypoint that each keypoint becomes in the mirror image.
        classes_from_data: the classes of predictions are those of other data, as in k-NN classification, and not those
            that the weights in a checkpoint were trained for.
    """

    num_classes: int | None
    num_seg_classes: int | None
    num_keypoints: int | None
    flip_indices: Sequence[int] | None
    classes_from_data: bool


DECLARED_NUMBERS = {
    "num_classes": ("classes",),
    "num_seg_classes": ("seg_classes", "classes"),
    "num_keypoints": ("keypoints",),
}
"""The attributes that declare a number, and the keys of ``metainfo`` whose first one must have this length."""


def declared_number(module: Any, attribute: str) -> int | None:
    """Return one of :data:`DECLARED_NUMBERS` of a module, or None if it does not declare it."""
    value = getattr(module, attribute, None)
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None
