"""Models of OpenVINO: an XML file, with the weights in a file beside it."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from trainwright.engine.export.formats import KEY, ExportFormat, Runtime, Traced, parse_metadata
from trainwright.engine.export.onnx_format import OnnxFormat

_PLACE = [KEY, "metadata"]


class OpenVinoFormat(ExportFormat):
    """OpenVINO's intermediate representation in 32-bit precision, converted from ONNX."""

    name = "openvino"
    suffix = ".xml"
    extra = "openvino"
    packages = ("openvino", "onnx", "onnxscript")
    runtime_packages = ("openvino",)
    methods = OnnxFormat.methods

    def trace(
        self, graph: nn.Module, example: Tensor, axes: Mapping[int, str], outputs: Sequence[str], method: str
    ) -> Traced:
        """Return the program, an ``openvino.Model``."""
        import io

        import openvino

        traced = OnnxFormat().trace(graph, example, axes, outputs, method)
        return Traced(openvino.convert_model(io.BytesIO(traced.program.SerializeToString())), traced.shape)

    def save(self, program: Any, metadata: str, file: Path) -> None:
        """Write the XML file, with the metadata in its runtime information, and the weights."""
        import openvino

        program.set_rt_info(metadata, _PLACE)
        openvino.save_model(program, str(file), compress_to_fp16=False)

    def load(self, file: Path, device: torch.device) -> Runtime:
        """Compile the model for the CPU."""
        return _Compiled(file)


class _Compiled(Runtime):
    def __init__(self, file: Path) -> None:
        import openvino

        core = openvino.Core()
        model = core.read_model(str(file))
        text = model.get_rt_info(_PLACE).value if model.has_rt_info(_PLACE) else None
        super().__init__(parse_metadata(text, file))
        options = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": torch.get_num_threads()}
        self.model = core.compile_model(model, "CPU", options)

    def __call__(self, inputs: Tensor) -> list[Tensor]:
        results = self.model(inputs.numpy())
        return [torch.tensor(results[output]) for output in self.model.outputs]
