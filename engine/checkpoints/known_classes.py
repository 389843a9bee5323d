"""The classes, besides those that PyTorch allows, that checkpoints may contain: numpy's, containers, and MMEngine's."""

import argparse
import pathlib
import re
from collections import OrderedDict
from collections.abc import Mapping
from functools import cache
from typing import Any

import numpy as np

from trainwright.engine.records.history import HistoryBuffer, read_history
from trainwright.engine.structures.elements import BaseDataElement
from trainwright.engine.structures.instance_data import InstanceData
from trainwright.engine.structures.label_data import LabelData
from trainwright.engine.structures.pixel_data import PixelData

_OF_OPENMMLAB = re.compile(r"mm[a-z0-9]+(\.\w+)+")


@cache
def known_classes() -> dict[str, Any]:
    """Return, for each full name in a file, the class or function that takes its place. None of them executes code."""
    from numpy import dtypes

    multiarray = np._core.multiarray if hasattr(np, "_core") else np.core.multiarray  # type: ignore[attr-defined]
    known: dict[str, Any] = {
        "numpy.ndarray": np.ndarray,
        "numpy.dtype": np.dtype,
        "argparse.Namespace": argparse.Namespace,
        "addict.addict.Dict": _Dict,
        "collections.defaultdict": _Dict,
        "builtins.getattr": lambda owner, name: name,  # a HistoryBuffer contains its own methods
    }
    known |= {f"numpy.dtypes.{name}": getattr(dtypes, name) for name in dtypes.__all__}
    for core in ("numpy._core", "numpy.core"):
        known[f"{core}.multiarray._reconstruct"] = multiarray._reconstruct
        known[f"{core}.multiarray.scalar"] = multiarray.scalar
    containers = (bool, bytes, dict, float, frozenset, int, list, range, slice, str, tuple)
    known |= {f"builtins.{kind.__name__}": kind for kind in containers}
    for module in ("pathlib", "pathlib._local"):
        known |= {f"{module}.{name}": pathlib.PurePosixPath for name in ("PosixPath", "PurePosixPath")}
        known |= {f"{module}.{name}": pathlib.PureWindowsPath for name in ("WindowsPath", "PureWindowsPath")}
    for module in ("history_buffer", "message_hub"):
        known[f"mmengine.logging.{module}.HistoryBuffer"] = _History
    for name in ("mmengine.config.config.ConfigDict", "mmcv.utils.config.ConfigDict"):
        known[name] = _Dict
    known["mmengine.structures.base_data_element.BaseDataElement"] = BaseDataElement
    for module, element in (("instance_data", InstanceData), ("label_data", LabelData), ("pixel_data", PixelData)):
        known[f"mmengine.structures.{module}.{element.__name__}"] = element
    return known


@cache
def stand_in(name: str) -> type | None:
    """Return a class of inert objects in place of another class or function of OpenMMLab; None for other names.

    Args:
        name: the full name, such as ``mmengine.optim.scheduler.param_scheduler.OneCycleParamScheduler``.
    """
    if not _OF_OPENMMLAB.fullmatch(name):
        return None
    return type(name.rpartition(".")[2], (_StandIn,), {"__module__": name.rpartition(".")[0]})


class _StandIn:
    """An object that has nothing but what it was created with.

    Attributes:
        args: the arguments.
    """

    def __new__(cls, *args: Any, **kwargs: Any) -> "_StandIn":
        created = super().__new__(cls)
        created.args = args
        return created

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.args = args

    def __setstate__(self, state: Any) -> None:
        self.__dict__.update(state if isinstance(state, Mapping) else {"state": state})


class _Dict:
    """A class whose instances are ordered dictionaries, the only mappings besides ``dict`` that PyTorch unpickles."""

    def __new__(cls, *args: Any, **kwargs: Any) -> "OrderedDict[Any, Any]":  # type: ignore[misc]
        contents = [argument for argument in args if isinstance(argument, Mapping)]  # and not the factory of a default
        return OrderedDict(*contents, **kwargs)


class _History(HistoryBuffer):
    """A history that takes the state of one of MMEngine."""

    def __setstate__(self, state: dict[str, Any]) -> None:
        history = read_history(state)
        self.__dict__.update(state if history is None else vars(history))
