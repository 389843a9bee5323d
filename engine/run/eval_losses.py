"""Losses that a model returns beside its predictions in an evaluation, as in MMEngine: as their last element."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from trainwright.engine.distributed import all_gather_object
from trainwright.engine.records.history import HistoryBuffer
from trainwright.engine.structures.elements import BaseDataElement

Losses = dict[str, HistoryBuffer]


def update_losses(outputs: Any, losses: Losses) -> tuple[Any, Losses]:
    """Take the losses, ``BaseDataElement(loss=dict(...))``, off the end of the predictions, and record them.

    Args:
        outputs: the predictions.
        losses: the history of each loss, to which its values are added.

    Returns:
        The predictions without losses, and ``losses``.
    """
    last = outputs[-1] if isinstance(outputs, Sequence) and len(outputs) else None
    if not isinstance(last, BaseDataElement) or last.keys() != ["loss"]:
        return outputs, losses
    for name, value in last.loss.items():
        history = losses.setdefault(name, HistoryBuffer())
        for one in [value] if isinstance(value, Tensor) else value:
            history.update(one.item())
    return outputs[:-1], losses


def parse_losses(losses: Mapping[str, HistoryBuffer], stage: str) -> dict[str, float]:
    """Return the mean of each loss, and their sum as ``val_loss`` or ``test_loss``, depending on ``stage``."""
    means = {name: float(history.mean()) for name, history in losses.items()}
    return {**means, f"{stage}_loss": sum(mean for name, mean in means.items() if "loss" in name)}


def losses_of_all_ranks(losses: Mapping[str, HistoryBuffer], stage: str) -> dict[str, float]:
    """Return the losses as :func:`parse_losses` does, as means over the batches of all ranks; all ranks call it."""
    together: Losses = {}
    for part in all_gather_object({name: (history.mean(), history.total_length) for name, history in losses.items()}):
        for name, (mean, number) in part.items():
            together.setdefault(name, HistoryBuffer()).update(mean * number, number)
    return parse_losses(together, stage) if together else {}
