"""Programs of ExecuTorch, for phones and embedded devices."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from trainwright.engine.export.formats import KEY, ExportFormat, Runtime, Traced, export_program, parse_metadata

_METHOD = f"{KEY}_metadata"


class ExecuTorchFormat(ExportFormat):
    """ExecuTorch with the XNNPACK backend: one input at a time, of one size, since it plans its memory ahead."""

    name = "executorch"
    suffix = ".pte"
    extra = "executorch"
    packages = ("executorch",)
    runtime_packages = ("executorch",)
    any_batch = False
    any_size = False

    def trace(
        self, graph: nn.Module, example: Tensor, axes: Mapping[int, str], outputs: Sequence[str], method: str
    ) -> Traced:
        """Return the program, a ``torch.export.ExportedProgram``."""
        return Traced(*export_program(graph, example, axes))

    def save(self, program: Any, metadata: str, file: Path) -> None:
        """Lower the program to XNNPACK and write it, with the metadata as a method that returns it."""
        from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
        from executorch.exir import to_edge_transform_and_lower

        lowered = to_edge_transform_and_lower(
            program, partitioner=[XnnpackPartitioner()], constant_methods={_METHOD: metadata}
        )
        file.write_bytes(lowered.to_executorch().buffer)

    def load(self, file: Path, device: torch.device) -> Runtime:
        """Load the program."""
        return _Program(file)


class _Program(Runtime):
    def __init__(self, file: Path) -> None:
        from executorch.runtime import Runtime as ExecuTorch

        self.program = ExecuTorch.get().load_program(str(file))
        named = _METHOD in self.program.method_names
        super().__init__(parse_metadata(self.program.load_method(_METHOD).execute([])[0] if named else None, file))
        self.method = self.program.load_method("forward")

    def __call__(self, inputs: Tensor) -> list[Tensor]:
        # The outputs lie in the program's memory until the next call.
        return [output.clone() for output in self.method.execute([inputs])]
