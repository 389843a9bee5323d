"""How a run uses its device: number formats, memory formats and algorithms, within its results' usual precision."""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any, ClassVar

import torch

from trainwright.engine.accelerator import has_own_memory
from trainwright.engine.fidelity import reproduces_mmengine


class DeviceSettings:
    """The settings of ``env_cfg`` that concern the device. They have no effect on a CPU, unless set explicitly.

    Args:
        env_cfg: ``tf32``, ``cudnn_benchmark`` and ``channels_last``; see ``RUNNER_ARGUMENT_KEYS``.
        device: device of the run.
    """

    channels_last_by_default: ClassVar[bool] = True
    """Whether accelerators store convolutions channels-last: code written for MMEngine needs contiguous maps."""

    def __init__(self, env_cfg: Mapping[str, Any], device: torch.device) -> None:
        self._device = device
        self.tf32: bool | None = env_cfg.get("tf32", None if reproduces_mmengine() else True)
        self.cudnn_benchmark: bool | None = env_cfg.get("cudnn_benchmark", False if reproduces_mmengine() else None)
        by_default = has_own_memory(device) and self.channels_last_by_default
        channels_last = env_cfg.get("channels_last")
        self.channels_last: bool = by_default if channels_last is None else channels_last

    @property
    def watches_sizes(self) -> bool:
        """Whether cuDNN's benchmark depends on the sizes of the images, which only the first batches show."""
        return self._device.type == "cuda" and self.cudnn_benchmark is None

    @contextmanager
    def active(self) -> Iterator[None]:
        """Apply the settings of the process, and restore the previous ones on exit."""
        if self._device.type != "cuda":
            yield
            return
        with ExitStack() as stack:
            stack.callback(setattr, torch.backends.cudnn, "benchmark", torch.backends.cudnn.benchmark)
            if self.cudnn_benchmark is not None:
                torch.backends.cudnn.benchmark = self.cudnn_benchmark
            if self.tf32 is not None:
                stack.enter_context(_tf32(self.tf32))
            yield

    def describe(self) -> str:
        """Return a line for the log."""
        benchmark = {None: "on if images have one size", True: "on", False: "off"}[self.cudnn_benchmark]
        shown = {"channels-last": "on" if self.channels_last else "off"}
        if self._device.type == "cuda":
            tf32 = {None: "in convolutions", True: "on", False: "off"}[self.tf32]
            shown |= {"TF32": tf32, "cuDNN benchmark": benchmark}
        return ", ".join(f"{name}: {value}" for name, value in shown.items())


@contextmanager
def _tf32(enabled: bool) -> Iterator[None]:
    """Allow TF32 in matrix products and convolutions on CUDA, or forbid it."""
    try:
        before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    except RuntimeError:  # the user has set precisions by `fp32_precision`, which these functions cannot express
        yield
        return
    torch.set_float32_matmul_precision("high" if enabled else "highest")
    torch.backends.cudnn.allow_tf32 = enabled
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before[0])
        torch.backends.cudnn.allow_tf32 = before[1]
