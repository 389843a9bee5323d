"""``mmengine.evaluator``."""

from typing import Any

import torch

from trainwright.engine import BaseMetric, DumpResults, Evaluator, get_metric_value
from trainwright.engine.structures.elements import BaseDataElement


def _to_cpu(data: Any) -> Any:
    """Return a copy of nested data whose tensors are on the CPU."""
    if isinstance(data, torch.Tensor | BaseDataElement):
        return data.to("cpu")
    if isinstance(data, list):
        return [_to_cpu(item) for item in data]
    if isinstance(data, tuple):
        return tuple(_to_cpu(item) for item in data)
    if isinstance(data, dict):
        return {key: _to_cpu(value) for key, value in data.items()}
    return data
