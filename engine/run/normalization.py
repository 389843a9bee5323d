"""Whether images are normalized as those that pretrained weights were trained on."""

from collections.abc import Sequence
from logging import Logger
from typing import Any

_ROUNDING = 2  # of 255


def warn_of_normalization(model: Any, logger: Logger) -> None:
    """Warn if images are normalized in another way than those that pretrained weights were trained on.

    See ``normalization`` and ``trained_normalization`` in :class:`ModelTraits`.

    Args:
        model: the model, with its weights.
        logger: where to warn.
    """
    owner: Any = model if hasattr(model, "normalization") else getattr(model, "data_preprocessor", None)
    if not hasattr(owner, "normalization"):
        return
    used = owner.normalization
    place = "data_preprocessor" if owner is not model else "detector (image_mean and image_std, for pixels from 0 to 1)"
    place += "" if used else ", unless the pipeline normalizes them"
    for name, module in model.named_modules():
        trained = getattr(module, "trained_normalization", None)
        if trained is not None and (used is None or not _agree(used, trained)):
            logger.warning(
                "The weights of %s were trained on images with %s, for pixels from 0 to 255, but those of this model "
                "have %s: set it in the %s",
                name, _described(trained), "no normalization" if used is None else _described(used), place,
            )  # fmt: skip


def _agree(used: Sequence[Sequence[float]], trained: Sequence[Sequence[float]]) -> bool:
    """Return whether means and standard deviations agree but for rounding; those used may be for pixels up to 1."""
    scale = 255 if max(used[1]) <= 1 else 1
    return all(
        abs(scale * value - other) <= _ROUNDING
        for given, expected in zip(used, trained)
        for value, other in zip([*given] * len(expected) if len(given) == 1 else given, expected, strict=True)
    )


def _described(normalization: Sequence[Sequence[float]]) -> str:
    mean, std = ([round(value, 2) for value in values] for values in normalization)
    return f"mean={mean} and std={std}"
