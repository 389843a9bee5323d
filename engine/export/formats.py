"""The formats of exported models, one file each."""

import json
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from trainwright.engine.errors import CheckpointError, ConfigError, MissingExtraError, did_you_mean

_MODULES = {
    "onnx": "trainwright.engine.export.onnx_format.OnnxFormat",
    "torch_export": "trainwright.engine.export.torch_format.TorchFormat",
    "openvino": "trainwright.engine.export.openvino_format.OpenVinoFormat",
    "executorch": "trainwright.engine.export.executorch_format.ExecuTorchFormat",
}
_SUFFIXES = {".onnx": "onnx", ".pt2": "torch_export", ".xml": "openvino", ".pte": "executorch"}
UNSAFE_SUFFIXES = (".pt2",)
"""Suffixes of files that may run any code when they are loaded."""

FORMATS = tuple(_MODULES)
KEY = "trainwright"
"""The name of the metadata in a file."""


class Runtime:
    """An exported model, ready to run.

    Args:
        metadata: what :func:`~trainwright.engine.export.exporting.export_model` has stored in the file.
    """

    def __init__(self, metadata: Mapping[str, Any]) -> None:
        self.metadata = metadata

    @abstractmethod
    def __call__(self, inputs: Tensor) -> list[Tensor]:
        """Return the outputs for contiguous inputs on the CPU, in the order of ``metadata["outputs"]``."""


@dataclass(frozen=True)
class Traced:
    """A program in the form of a format, before it is saved.

    Args:
        program: the program.
        shape: shape of its inputs; None for axes of any size.
    """

    program: Any
    shape: tuple[int | None, ...]


class ExportFormat:
    """A file format for exported models.

    Attributes:
        name: its name.
        suffix: the suffix of its files.
        extra: the extra that installs its packages; None if none are needed.
        packages: packages that are needed to export.
        runtime_packages: packages that are needed to run a file.
        methods: names of the exporters, in the order in which they are tried.
        any_batch: files may take batches of any size.
        any_size: files may take inputs of any size.
    """

    name: ClassVar[str]
    suffix: ClassVar[str]
    extra: ClassVar[str | None] = None
    packages: ClassVar[tuple[str, ...]] = ()
    runtime_packages: ClassVar[tuple[str, ...]] = ()
    methods: ClassVar[tuple[str, ...]] = ("torch.export",)
    any_batch: ClassVar[bool] = True
    any_size: ClassVar[bool] = True

    @abstractmethod
    def trace(
        self, graph: nn.Module, example: Tensor, axes: Mapping[int, str], outputs: Sequence[str], method: str
    ) -> Traced:
        """Return the program of a module.

        Args:
            graph: module in evaluation mode that takes one tensor and returns a tuple.
            example: inputs, with a batch size of at least 2 if that axis may have any size.
            axes: axes that may have any size, with names.
            outputs: names of the outputs.
            method: one of :attr:`methods`.
        """

    @abstractmethod
    def save(self, program: Any, metadata: str, file: Path) -> None:
        """Write a program and its metadata to a file, and possibly to others beside it."""

    @abstractmethod
    def load(self, file: Path, device: torch.device) -> Runtime:
        """Load a file, whose runtime packages are installed."""

    def require(self, exporting: bool = True) -> None:
        """Raise a ``MissingExtraError`` if a package is missing to export, or to run a file."""
        for package in self.packages if exporting else self.runtime_packages:
            if find_spec(package) is None:
                purpose = f"exporting to {self.name}" if exporting else f"running a file of {self.name}"
                raise MissingExtraError(package, str(self.extra), purpose)


def get_format(name: str) -> ExportFormat:
    """Return a format by its name.

    Raises:
        ConfigError: there is no such format.
    """
    if name not in _MODULES:
        hint = did_you_mean(name, FORMATS) or f"the formats are {', '.join(FORMATS)}"
        raise ConfigError("--format", f"there is no format {name!r}", hint)
    module, _, attribute = _MODULES[name].rpartition(".")
    return getattr(import_module(module), attribute)()  # type: ignore[no-any-return]


def is_exported(file: Any) -> bool:
    """Return whether the name of a file is that of an exported model."""
    return isinstance(file, str | Path) and Path(file).suffix in _SUFFIXES


def use_exported(cfg: Any, file: str | Path) -> None:
    """Replace the model of a config by an exported one."""
    cfg["model"] = {"type": "ExportedModel", "file": str(file)}
    for name in ("data_preprocessor", "load_from"):
        cfg.pop(name, None)


def load_exported(file: str | Path, device: str | torch.device = "cpu") -> Runtime:
    """Load an exported model.

    Args:
        file: the file.
        device: device to run it on, if the runtime supports it.

    Raises:
        MissingExtraError: the runtime is not installed.
        CheckpointError: the file is missing or damaged, or was not exported by Trainwright.
    """
    path = Path(file)
    if not path.is_file():
        raise CheckpointError(f"there is no file {str(file)!r}")
    found = get_format(_SUFFIXES[path.suffix])
    found.require(exporting=False)
    try:
        return found.load(path, torch.device(device))
    except CheckpointError:
        raise
    except Exception as error:
        first = str(error).strip().partition("\n")[0]
        raise CheckpointError(f"{file} cannot be loaded as a file of {found.name}: {first}") from error


def parse_metadata(text: str | None, file: Path) -> dict[str, Any]:
    """Return the metadata in a file.

    Raises:
        CheckpointError: there is none.
    """
    if not text:
        raise CheckpointError(f"{file} was not exported by Trainwright: it has no metadata")
    metadata: dict[str, Any] = json.loads(text)
    return metadata


def export_program(graph: nn.Module, example: Tensor, axes: Mapping[int, str]) -> tuple[Any, tuple[int | None, ...]]:
    """Return the program of a module, and the shape of its inputs; None for axes of any size.

    Args:
        graph: see :meth:`ExportFormat.trace`.
        example: inputs.
        axes: axes that may have any size, where the module allows it.
    """
    sizes = dict.fromkeys(axes, torch.export.Dim.AUTO)
    program = torch.export.export(graph, (example,), dynamic_shapes=({**sizes},) if sizes else None)
    name = program.graph_signature.user_inputs[0]
    node = next(node for node in program.graph.nodes if node.name == name)
    return program, tuple(size if isinstance(size, int) else None for size in node.meta["val"].shape)


def shape_text(shape: Sequence[int | None]) -> str:
    """Return a shape such as ``any x 3 x 224 x 224``."""
    return " x ".join("any" if size is None else str(size) for size in shape)
