"""Programs of ``torch.export``, run by PyTorch without the model's code."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from trainwright.engine.export.formats import KEY, ExportFormat, Runtime, Traced, export_program, parse_metadata

_ENTRY = f"{KEY}.json"


class TorchFormat(ExportFormat):
    """The format of ``torch.export.save``.

    Such a file is a program: PyTorch's loader may run code in it. Load only files that you trust.
    """

    name = "torch_export"
    suffix = ".pt2"

    def trace(
        self, graph: nn.Module, example: Tensor, axes: Mapping[int, str], outputs: Sequence[str], method: str
    ) -> Traced:
        """Return the program, a ``torch.export.ExportedProgram``."""
        return Traced(*export_program(graph, example, axes))

    def save(self, program: Any, metadata: str, file: Path) -> None:
        """Write the program, with the metadata as an extra file in the archive."""
        torch.export.save(program, str(file), extra_files={_ENTRY: metadata})

    def load(self, file: Path, device: torch.device) -> Runtime:
        """Load the program to the device."""
        return _Program(file, device)


class _Program(Runtime):
    def __init__(self, file: Path, device: torch.device) -> None:
        extra = {_ENTRY: ""}
        program = torch.export.load(str(file), extra_files=extra)
        super().__init__(parse_metadata(extra[_ENTRY], file))
        if device.type != "cpu":
            from torch.export.passes import move_to_device_pass

            program = move_to_device_pass(program, device)
        self.device = device
        self.module = program.module()

    @torch.no_grad()
    def __call__(self, inputs: Tensor) -> list[Tensor]:
        return list(self.module(inputs.to(self.device)))
