"""The model DRN of mmaction2, which its wheel lacks, so that the other models can be imported."""

from importlib import import_module
from typing import Any


class DRN:
    """Raises an ``ImportError``.

    Args:
        **kwargs: ignored.
    """

    def __init__(self, **kwargs: Any) -> None:
        raise ImportError("the wheel of mmaction2 lacks the model DRN: install mmaction2 from its repository")


DRN.__module__ = "mmaction.models.localizers.drn.drn"
import_module("mmaction.registry").MODELS.register_module(module=DRN, force=True)
