"""The device of these tests."""

import pytest
import torch


@pytest.fixture
def device(request: pytest.FixtureRequest) -> torch.device:
    """Return the accelerator, or the device of ``--device``; skip the test if there is none."""
    if wanted := request.config.getoption("--device"):
        return torch.device(wanted)
    if not torch.accelerator.is_available():
        pytest.skip("there is no accelerator")
    accelerator = torch.accelerator.current_accelerator()
    assert accelerator is not None
    return torch.device(accelerator.type, torch.accelerator.current_device_index())


@pytest.fixture
def cuda(device: torch.device) -> torch.device:
    """Return the device if it is one of CUDA or ROCm, otherwise skip the test."""
    if device.type != "cuda":
        pytest.skip(f"{device} is not a CUDA device")
    return device
