"""An accelerator that PyTorch believes in, for tests on machines without one: its memory is that of the CPU."""

from typing import Any

import pytest
import torch
from torch import Tensor


class FakeStream:
    """A stream that records what is done on it, and what waits for it."""

    def __init__(self, name: str, log: list[str]) -> None:
        self.name = name
        self._log = log

    def wait_stream(self, other: "FakeStream") -> None:
        self._log.append(f"{self.name} waits for {other.name}")


def pretend_accelerator(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Make PyTorch pin memory, and record copies and streams.

    Returns:
        The record, one line per operation.
    """
    log: list[str] = []
    current = [FakeStream("main", log)]
    to = Tensor.to

    def copy(tensor: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        if args and args[0] == torch.device("meta"):
            log.append(f"{current[0].name}: {tuple(tensor.shape)}, non_blocking={kwargs.get('non_blocking', False)}")
        return to(tensor, *args, **kwargs)

    def pin(tensor: Tensor) -> Tensor:
        log.append(f"pin {tuple(tensor.shape)}")
        return tensor.clone()

    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: torch.device("cuda"))
    monkeypatch.setattr(torch.accelerator, "current_device_index", lambda: 0)
    monkeypatch.setattr(torch.accelerator, "set_device_index", lambda index: None)
    monkeypatch.setattr(torch.accelerator, "current_stream", lambda device=None: current[0])
    monkeypatch.setattr(torch.accelerator, "set_stream", lambda stream: current.__setitem__(0, stream))
    monkeypatch.setattr("trainwright.engine.accelerator._copy_stream", lambda device: FakeStream("copies", log))
    monkeypatch.setattr(Tensor, "to", copy)
    monkeypatch.setattr(Tensor, "pin_memory", pin)
    monkeypatch.setattr(Tensor, "record_stream", lambda tensor, stream: log.append(f"kept for {stream.name}"))
    return log
