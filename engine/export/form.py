"""What a model provides to be exported."""

import copy
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from trainwright.engine.errors import ConfigError

BATCH_AXIS = 0


@dataclass(frozen=True)
class ExportForm:
    """How a model computes its final predictions from raw inputs, with tensors alone.

    A model that can be exported has a method ``export_form()`` that returns one.

    Example:
        >>> class Regression(BaseModel):
        ...     def export_form(self) -> ExportForm:
        ...         return ExportForm(self, self.forward, ("output",))

    Args:
        model: the model; its ``data_preprocessor`` becomes part of the exported program.
        function: returns the outputs, one tensor or several, for the preprocessed inputs of a batch.
        outputs: name of each output.
        decoder: config of the function that converts the outputs back to predictions. It is registered in ``MODELS``
            and called as ``decoder(outputs, data_samples, inputs)`` with a dict of tensors, the data samples of the
            batch and its raw inputs. If None, the prediction is the output, or a dict of several outputs.
        instances: the outputs are those of a single input: one row per instance, sorted by the output ``scores``.
            Otherwise all outputs have a batch axis.
        maps: the last two axes of all outputs are those of the preprocessed inputs; their padding is removed.
        takes_raw: the function takes the raw inputs, and prepares them itself.
        any_batch: the batch may have any size. That of instances is always 1.
        size_axes: axes of the inputs that may have any size, if the network accepts that.
        needs_size: exporters that can export the model for one size only.
        refused: reasons why the model cannot be exported, by format.
        exporting: context manager that is active while the function is traced.
    """

    model: nn.Module
    function: Callable[[Any], Tensor | Sequence[Tensor]]
    outputs: tuple[str, ...]
    decoder: Mapping[str, Any] | None = None
    instances: bool = False
    maps: bool = False
    takes_raw: bool = False
    any_batch: bool = True
    size_axes: tuple[int, ...] = (2, 3)
    needs_size: tuple[str, ...] = ()
    refused: Mapping[str, str] = field(default_factory=dict)
    exporting: Callable[[], AbstractContextManager[Any]] = nullcontext


class ExportedGraph(nn.Module):
    """The module that is exported: preprocessing, network and post-processing.

    Args:
        form: the form of a model in evaluation mode.
    """

    def __init__(self, form: ExportForm) -> None:
        super().__init__()
        self.model = form.model
        self.function = form.function
        self.maps = form.maps
        self.takes_raw = form.takes_raw

    def forward(self, inputs: Tensor) -> tuple[Tensor, ...]:
        """Return the outputs for raw inputs, such as uint8 images of shape (N, C, H, W)."""
        preprocessor: Any = self.model.data_preprocessor
        outputs = self.function(inputs if self.takes_raw else preprocessor({"inputs": inputs}, False)["inputs"])
        outputs = (outputs,) if isinstance(outputs, Tensor) else tuple(outputs)
        if self.maps and (getattr(preprocessor, "pad_size_divisor", 1) or 1) > 1:
            outputs = tuple(output[..., : inputs.shape[-2], : inputs.shape[-1]] for output in outputs)
        return outputs


def form_of(module: Any, path: str = "model") -> ExportForm:
    """Return the form of a model, or of a part of one such as a head.

    Args:
        module: the model or part.
        path: its place in the config, for the error.

    Raises:
        ConfigError: it has no ``export_form``.
    """
    method = getattr(module, "export_form", None)
    if method is None:
        hint = "give it a method export_form that returns an ExportForm: see docs/export.md"
        raise ConfigError(path, f"a {type(module).__name__} cannot be exported: it has no export_form", hint)
    form: ExportForm = method()
    return form


def form_of_part(part: Any, data_preprocessor: Any) -> ExportForm:
    """Return the form of the part of a model that predicts, such as a teacher, with the preprocessor of the model.

    Args:
        part: the part; a copy is exported.
        data_preprocessor: the preprocessor.

    Raises:
        ConfigError: the part has no ``export_form``.
    """
    alone = copy.deepcopy(part)
    alone.data_preprocessor = data_preprocessor
    return form_of(alone)
