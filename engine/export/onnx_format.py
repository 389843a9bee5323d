"""ONNX files, run by onnxruntime."""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn

from trainwright.engine.errors import ConfigError
from trainwright.engine.export.formats import KEY, ExportFormat, Runtime, Traced, export_program, parse_metadata

_MAX_BYTES = 2**31 - 2**20  # of a file; larger models need a second one
_OPSET = 17  # of the TorchScript exporter


class OnnxFormat(ExportFormat):
    """ONNX, by the exporter that is built on ``torch.export`` or else by the older one, built on TorchScript."""

    name = "onnx"
    suffix = ".onnx"
    extra = "onnx"
    packages = ("onnx", "onnxscript", "onnxruntime")
    runtime_packages = ("onnxruntime",)
    methods = ("torch.export", "torchscript")

    def trace(
        self, graph: nn.Module, example: Tensor, axes: Mapping[int, str], outputs: Sequence[str], method: str
    ) -> Traced:
        """Return the program, an ``onnx.ModelProto``."""
        size = sum(tensor.nbytes for tensor in graph.state_dict().values())
        if size > _MAX_BYTES:
            hint = "use --format torch_export"
            raise ConfigError(
                "--format", f"an ONNX file holds at most 2 GB, but the model has {size / 1e9:.1f} GB", hint
            )
        if method == "torchscript":
            return Traced(_by_torchscript(graph, example, axes, outputs), _shape(example, axes))
        program, shape = export_program(graph, example, axes)
        exported: Any = torch.onnx.export(
            program, (), dynamo=True, input_names=["inputs"], output_names=list(outputs), verbose=False,
            custom_translation_table={torch.ops.aten._is_all_true.default: _is_all_true},
        )  # fmt: skip
        model = exported.model_proto
        _name_axes(model, axes)
        return Traced(model, shape)

    def save(self, program: Any, metadata: str, file: Path) -> None:
        """Write the model, with the metadata among its properties."""
        import onnx

        entry = program.metadata_props.add()
        entry.key, entry.value = KEY, metadata
        onnx.save(program, str(file))

    def load(self, file: Path, device: torch.device) -> Runtime:
        """Open a session, on the GPU if onnxruntime supports it."""
        return _Session(file, device)


class _Session(Runtime):
    def __init__(self, file: Path, device: torch.device) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        options.intra_op_num_threads = torch.get_num_threads()
        wanted = {"cuda": ["CUDAExecutionProvider"]}.get(device.type, [])
        known = onnxruntime.get_available_providers()
        providers = [name for name in wanted if name in known] + ["CPUExecutionProvider"]
        self.session = onnxruntime.InferenceSession(str(file), options, providers=providers)
        super().__init__(parse_metadata(self.session.get_modelmeta().custom_metadata_map.get(KEY), file))

    def __call__(self, inputs: Tensor) -> list[Tensor]:
        return [torch.from_numpy(output) for output in self.session.run(None, {"inputs": inputs.numpy()})]


def _by_torchscript(graph: nn.Module, example: Tensor, axes: Mapping[int, str], outputs: Sequence[str]) -> Any:
    import onnx

    stream = io.BytesIO()
    # This exporter prints the whole graph if it fails, whatever its `verbose` is.
    with mock.patch.object(torch._C, "_jit_onnx_log", lambda *_: None, create=True):
        torch.onnx.export(
            graph, (example,), stream,  # type: ignore[arg-type]  # a stream, for this exporter
            dynamo=False, opset_version=_OPSET, input_names=["inputs"], output_names=list(outputs),
            dynamic_axes={"inputs": dict(axes)} if axes else None,
        )  # fmt: skip
    return onnx.load_from_string(stream.getvalue())


def _is_all_true(values: Any) -> Any:
    """Translate the operator of this name, which PyTorch's exporter lacks, to those of ONNX."""
    import onnxscript

    operators: Any = onnxscript.opset18
    return operators.Cast(operators.ReduceMin(operators.Cast(values, to=7), keepdims=0), to=9)  # int64, bool


def _shape(example: Tensor, axes: Mapping[int, str]) -> tuple[int | None, ...]:
    return tuple(None if axis in axes else size for axis, size in enumerate(example.shape))


def _name_axes(model: Any, axes: Mapping[int, str]) -> None:
    """Replace the generated names of the axes of any size, such as ``s77``."""
    sizes = model.graph.input[0].type.tensor_type.shape.dim
    names = {sizes[axis].dim_param: name for axis, name in axes.items() if sizes[axis].dim_param}
    for value in (*model.graph.input, *model.graph.output, *model.graph.value_info):
        for size in value.type.tensor_type.shape.dim:
            if size.dim_param in names:
                size.dim_param = names[size.dim_param]
