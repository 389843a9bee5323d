"""Optional attributes of models, with which the data is compared before the first step.

They are recognized by their names, on any model or module; there is no base class.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

from torch.nn import Module
from torch.optim import Optimizer


class ModelTraits(Protocol):
    """Optional attributes of a model.

    Attributes:
        num_classes: number of classes in ``metainfo["classes"]`` that the outputs of the model distinguish.
        any_classes: the model learns no classes, as in retrieval and self-supervised learning, so data for evaluation
            may have other ones than the training data.
        num_seg_classes: the same for semantic segmentation: ``metainfo["seg_classes"]``, or else ``classes``.
        num_keypoints: number of keypoints that the model predicts.
        flip_indices: for a flip test, the keypoint that each keypoint becomes in the mirror image.
        dataset_meta: the ``metainfo`` of the data that its pretrained weights were trained on; None if it is unknown.
            The training data, or the checkpoint, replaces it.
        exported_meta: of an exported model, the ``metainfo`` of its training data, as in a checkpoint.
        normalization: of a model or its data preprocessor: mean and standard deviation that images are normalized with,
            by channel; None if they are not.
        trained_normalization: of any part: those of the images that its pretrained weights were trained on, for pixels
            from 0 to 255.
    """

    num_classes: int | None
    any_classes: bool
    num_seg_classes: int | None
    num_keypoints: int | None
    flip_indices: Sequence[int] | None
    dataset_meta: Mapping[str, Any] | None
    normalization: tuple[Sequence[float], Sequence[float]] | None
    trained_normalization: tuple[Sequence[float], Sequence[float]] | None

    def follow(self, optimizers: Iterable[Optimizer]) -> None:
        """Register hooks of optimizers, for a part of the model that changes after their steps.

        It is called on every module that has it, once, when the training begins or is resumed.
        """

    def labeled_dataset(self) -> Any:
        """Return the dataset whose labels the model predicts, as in k-NN classification.

        The classes of predictions are then those of this dataset, not those that the weights were trained for.
        """

    def use_classes(self, metainfo: Mapping[str, Any]) -> tuple[str, ...]:
        """Return the names of the classes of the next predictions, for a model that finds classes by their names.

        They are those that the ``metainfo`` of the data names, or else the model's own. This is called before each
        dataset is evaluated, and by an :class:`Inferencer`. The data of such a model may have any classes.
        """


DECLARED_NUMBERS = {
    "num_classes": ("classes",),
    "num_seg_classes": ("seg_classes", "classes"),
    "num_keypoints": ("keypoints",),
}
"""The attributes that declare a number, and the keys of ``metainfo`` whose first one must have this length."""


def follow_optimizers(model: Module, optimizers: Iterable[Optimizer]) -> None:
    """Call ``follow`` of every module that has it."""
    several = list(optimizers)
    for module in model.modules():
        if callable(follow := getattr(module, "follow", None)):
            follow(several)


def are_enough(number: int, num_classes: int) -> bool:
    """Return whether a number of outputs distinguishes the classes; a single output distinguishes two."""
    return number >= num_classes or (number, num_classes) == (1, 2)


def names_classes(model: Any) -> bool:
    """Return whether a model, or its config, predicts classes that are named in text, so data may have any classes.

    It is recognized by its part ``language_model``, or its method ``use_classes``.
    """
    if isinstance(model, Mapping):
        return model.get("language_model") is not None
    return any(getattr(model, name, None) is not None for name in ("language_model", "use_classes"))


def learns_no_classes(model: Any) -> bool:
    """Return whether data for evaluation may have other classes than the training data."""
    return bool(getattr(model, "any_classes", False))


def use_classes(model: Any, metainfo: Mapping[str, Any] | None) -> tuple[str, ...]:
    """Let a model that finds classes by their names predict those of a dataset, and return their names.

    Any other model is not changed, and the result is empty.
    """
    method = getattr(model, "use_classes", None)
    return () if method is None else tuple(method(metainfo or {}))


def labeled_dataset_of(model: Any) -> Any:
    """Return the dataset whose labels a model predicts, or None if it predicts what its weights were trained for."""
    method = getattr(model, "labeled_dataset", None)
    return None if method is None else method()


def declared_number(module: Any, attribute: str) -> int | None:
    """Return one of :data:`DECLARED_NUMBERS` of a module, or None if it does not declare it."""
    value = getattr(module, attribute, None)
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None
