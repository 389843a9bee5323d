"""The operators of mmcv on the device of ``--device``, with the tests of their values."""

import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from trainwright.compat import mmcv_ops


@pytest.fixture(autouse=True)
def operators_on_device(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """With ``--device``, let operators work on copies there, which take the place of their arguments afterwards."""
    if device := request.config.getoption("--device"):
        for name, operator in vars(mmcv_ops).items():
            if callable(operator) and operator.__module__.startswith(f"{mmcv_ops.__name__}."):
                monkeypatch.setattr(mmcv_ops, name, _moved(operator, torch.device(device)))


def _moved(operator: Callable[..., Any], device: torch.device) -> Callable[..., Any]:
    @functools.wraps(operator)
    def run(*args: Any, **kwargs: Any) -> Any:
        copies: dict[int, tuple[Tensor, Tensor]] = {}

        def there(value: Any) -> Any:
            if isinstance(value, Tensor):
                return copies.setdefault(id(value), (value, value.to(device, copy=True)))[1]
            return type(value)(map(there, value)) if isinstance(value, (list, tuple)) else value

        def back(value: Any) -> Any:
            if isinstance(value, Tensor):
                assert value.device.type == device.type, f"{operator.__name__} returned a tensor on {value.device}"
                return next((original for original, copy in copies.values() if copy is value), value.cpu())
            return type(value)(map(back, value)) if isinstance(value, (list, tuple)) else value

        result = operator(*map(there, args), **{name: there(value) for name, value in kwargs.items()})
        with torch.no_grad():
            for original, copy in copies.values():
                if copy._version:
                    original.resize_(copy.shape).copy_(copy)
        return back(result)

    return run
