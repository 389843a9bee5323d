"""Names of ``mmengine.device``. Devices that PyTorch supports only by other vendors' forks are not available."""

from typing import Any, NoReturn

import torch

IS_NPU_AVAILABLE = IS_MLU_AVAILABLE = IS_DIPU_AVAILABLE = IS_MUSA_AVAILABLE = False


def is_cuda_available() -> bool:
    """Return whether there is a GPU for CUDA or ROCm."""
    return torch.cuda.is_available()


def is_mps_available() -> bool:
    """Return whether there is a GPU for MPS."""
    return torch.backends.mps.is_available()


def is_npu_available() -> bool:
    """Return False: Ascend NPUs are not supported."""
    return IS_NPU_AVAILABLE


def is_mlu_available() -> bool:
    """Return False: Cambricon MLUs are not supported."""
    return IS_MLU_AVAILABLE


def is_dipu_available() -> bool:
    """Return False: DIPU is not supported."""
    return IS_DIPU_AVAILABLE


def is_musa_available() -> bool:
    """Return False: Moore Threads GPUs are not supported."""
    return IS_MUSA_AVAILABLE


def is_npu_support_full_precision() -> bool:
    """Return False: Ascend NPUs are not supported."""
    return IS_NPU_AVAILABLE


def get_max_cuda_memory(device: Any = None) -> int:
    """Return the most GPU memory that tensors have occupied since the last call, in MiB."""
    memory = torch.cuda.max_memory_allocated(device) >> 20
    torch.cuda.reset_peak_memory_stats()
    return memory


def get_max_musa_memory(device: Any = None) -> NoReturn:
    """Raise a RuntimeError: Moore Threads GPUs are not supported."""
    raise RuntimeError("Moore Threads GPUs (musa) are not supported: use CUDA, ROCm, MPS, XPU or the CPU")


def _device() -> str:
    accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    return "cpu" if accelerator is None else accelerator.type


DEVICE = _device()


def get_device() -> str:
    """Return the type of the accelerator, such as ``"cuda"``, or ``"cpu"`` if there is none."""
    return DEVICE
