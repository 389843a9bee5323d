"""The complexity of a model: operations, activations and parameters, by module and by operator.

One multiply-add counts as one operation (flop). The rules are those of MMEngine, which has them from fvcore
(https://github.com/facebookresearch/fvcore): the products of convolutions and matrices; 5 for each element in a
normalization layer with weights, and 2 in a batch norm in evaluation mode; 1 for each input of an adaptive average
pooling; 4 for each output of a bilinear interpolation. Fused attention, which MMEngine leaves out, is counted under its
own name. Activations are the outputs of convolutions and products of matrices.

The model runs once for each count, as it is, so there is no code that cannot be counted.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from math import prod
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from trainwright.engine.errors import did_you_mean
from trainwright.engine.trees import map_tensors

Handle = Callable[[Sequence[Any], Sequence[Any]], Any]
"""Returns the count of a call of an operator, a number or a ``Counter`` by name, from its inputs and outputs."""

# What PyTorch calls the operators into which it breaks down the functions that a model calls.
_OPERATORS = {
    "addmm": "linear",
    "mm": "linear",
    "baddbmm": "matmul",
    "bmm": "matmul",
    "mv": "matmul",
    "dot": "matmul",
    "convolution": "conv",
    "native_batch_norm": "batch_norm",
    "cudnn_batch_norm": "batch_norm",
    "miopen_batch_norm": "batch_norm",
    "native_group_norm": "group_norm",
    "native_layer_norm": "layer_norm",
    "grid_sampler_2d": "grid_sampler",
    "cudnn_grid_sampler": "grid_sampler",
}
_PRODUCTS = ("linear", "matmul", "addmm", "mm", "baddbmm", "bmm", "mv", "dot", "einsum")
_ATTENTION = "scaled_dot_product_attention"
# Functions whose name an operator within them has: without them, the products in a linear layer are not told apart.
_NAMING = {*_PRODUCTS, "rmatmul", "instance_norm"}
_WHOLE = {"adaptive_avg_pool2d"}  # functions that are counted instead of the operators within them
_MOVES_DATA = re.compile(
    r"(view|reshape|t|transpose|permute|expand|clone|contiguous|copy|to|detach|alias|select|slice|split|chunk|unbind|cat|"
    r"stack|squeeze|unsqueeze|lift_fresh|index|roll|as_strided|empty|zeros|ones|full|arange|rand\w*|unsafe_\w+|new_\w+|"
    r"local_scalar_dense|\w+_like)"
)


def _numel(value: Any) -> int:
    return value.numel() if isinstance(value, Tensor) else 0


def _product(inputs: Sequence[Any], outputs: Sequence[Any]) -> int:
    matrices = [value for value in inputs if isinstance(value, Tensor)][-2:]
    return _numel(outputs[0]) * int(matrices[0].shape[-1])


def _convolution(inputs: Sequence[Any], outputs: Sequence[Any]) -> int:
    image, weight, transposed = inputs[0], inputs[1], inputs[6]
    size: int = prod((image if transposed else outputs[0]).shape[2:])
    return int(image.shape[0]) * _numel(weight) * size


def _attention(inputs: Sequence[Any], outputs: Sequence[Any]) -> int:
    query, key, value = inputs[:3]
    return _numel(query) // int(query.shape[-1]) * int(key.shape[-2]) * int(query.shape[-1] + value.shape[-1])


def _batch_norm(inputs: Sequence[Any], outputs: Sequence[Any]) -> int:
    is_training = any(value is True for value in inputs)
    return _norm(inputs, outputs) if is_training else _numel(inputs[0]) * (1 if inputs[1] is None else 2)


def _norm(inputs: Sequence[Any], outputs: Sequence[Any]) -> int:
    has_weight = any(isinstance(value, Tensor) for value in inputs[1:3])
    return _numel(inputs[0]) * (5 if has_weight else 4)


def _outputs(inputs: Sequence[Any], outputs: Sequence[Any]) -> int:
    return _numel(outputs[0])


class _Functions(TorchFunctionMode):
    """Remembers the function that a model calls, while it runs."""

    def __init__(self, analyzer: "ComplexityAnalyzer") -> None:
        super().__init__()
        self.analyzer = analyzer

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = str(getattr(func, "__name__", "")).strip("_")
        if name not in _NAMING and name not in _WHOLE:
            return func(*args, **(kwargs or {}))
        self.analyzer._function = name
        try:
            output = func(*args, **(kwargs or {}))
        finally:
            self.analyzer._function = ""
        if name in _WHOLE:
            self.analyzer._add(name, [*args, *(kwargs or {}).values()], [output])
        return output


class _Operators(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts each operator that runs."""

    def __init__(self, analyzer: "ComplexityAnalyzer") -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.analyzer = analyzer

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        function = self.analyzer._function
        if function not in _WHOLE:
            outputs = list(output) if isinstance(output, list | tuple) else [output]
            self.analyzer._add(_name_of(func, function), [*args, *(kwargs or {}).values()], outputs)
        return output


def _name_of(func: Any, function: str) -> str:
    """Return the name under which an operator is counted, in a function that the model has called."""
    namespace, _, operator = str(func._schema.name).partition("::")
    if namespace != "aten":
        return f"{namespace}::{operator}"
    operator = operator.strip("_")
    if operator.startswith("scaled_dot_product") or operator in (
        "flash_attention_forward",
        "efficient_attention_forward",
    ):
        return _ATTENTION
    if operator.startswith("native_batch_norm_legit"):
        operator = "native_batch_norm"
    name = _OPERATORS.get(operator, operator)
    if (name in _PRODUCTS and function in _PRODUCTS) or (name == "batch_norm" and function == "instance_norm"):
        return function
    return "matmul" if name in _PRODUCTS and function == "rmatmul" else name


class ComplexityAnalyzer:
    """Counts of the operators that a model runs, by module and by operator, from one run of the model.

    An operator belongs to the innermost module that is being called, and to all modules that contain it.

    Args:
        model: the model. It runs in its current mode; buffers and random generators are left as they were.
        inputs: its input, or a tuple of its inputs.
    """

    default_handles: ClassVar[dict[str, Handle]] = {}

    def __init__(self, model: nn.Module, inputs: Tensor | tuple[Any, ...]) -> None:
        self._model = model
        self._inputs = inputs if isinstance(inputs, tuple) else (inputs,)
        self._handles: dict[str, Handle | None] = dict(self.default_handles)
        self._names: dict[int, str] = {
            id(module): name for name, module in reversed(list(model.named_modules(remove_duplicate=False)))
        }
        self._by_caller = False
        self._counts: dict[str, Counter[str]] | None = None
        self._unsupported: dict[str, Counter[str]] = {}
        self._called: set[str] = set()
        self._stack: list[str] = []
        self._function = ""

    def total(self, module_name: str = "") -> int:
        """Return the count of a module; that of the model by default."""
        return int(sum(self.by_operator(module_name).values()))

    def by_operator(self, module_name: str = "") -> Counter[str]:
        """Return the counts of a module by operator."""
        return Counter(self._of(self._analyzed(), module_name))

    def by_module(self) -> Counter[str]:
        """Return the count of each module."""
        return Counter({name: int(sum(counts.values())) for name, counts in self._analyzed().items()})

    def by_module_and_operator(self) -> dict[str, Counter[str]]:
        """Return the counts of each module by operator."""
        return {name: Counter(counts) for name, counts in self._analyzed().items()}

    def unsupported_ops(self, module_name: str = "") -> Counter[str]:
        """Return how often operators ran that are not counted, such as additions, in a module."""
        self._analyzed()
        return Counter(self._of(self._unsupported, module_name))

    def uncalled_modules(self) -> set[str]:
        """Return the modules that did not run."""
        self._analyzed()
        return set(self._names.values()) - self._called

    def set_op_handle(self, *args: Any, **kwargs: Any) -> Self:
        """Set how operators are counted.

        Args:
            *args: names and handles in turn. A name is ``"aten::relu"``, one from the results, or that of a custom
                operator, such as ``"torchvision::deform_conv2d"``; a handle is called with the list of inputs and that
                of outputs. None leaves the operator out.
            **kwargs: the same, by name.
        """
        if len(args) % 2:
            raise TypeError("set_op_handle takes pairs of names and handles")
        for name, handle in [*zip(args[::2], args[1::2]), *kwargs.items()]:
            plain = name.removeprefix("aten::").strip("_")
            self._handles["conv" if plain == "convolution" else plain] = handle
        self._counts = None
        return self

    def clear_op_handles(self) -> Self:
        """Count nothing until handles are set."""
        self._handles, self._counts = {}, None
        return self

    def ancestor_mode(self, mode: str) -> Self:
        """Set the modules to which an operator belongs: the ``"owner"`` and what contains it, or each ``"caller"``."""
        if mode not in ("owner", "caller"):
            raise ValueError(f"mode must be 'owner' or 'caller', not {mode!r}")
        self._by_caller, self._counts = mode == "caller", None
        return self

    def canonical_module_name(self, name: str) -> str:
        """Return the first of the names of a module that has several.

        Raises:
            KeyError: no module has this name.
        """
        known: dict[str, nn.Module] = dict(self._model.named_modules(remove_duplicate=False))
        if name not in known:
            raise KeyError(f"the model has no module {name!r}: {did_you_mean(name, known)}")
        return self._names[id(known[name])]

    def copy(self, new_model: nn.Module | None = None, new_inputs: Any = None) -> Self:
        """Return an analyzer with the same handles for another model or other inputs."""
        other = type(self)(new_model or self._model, self._inputs if new_inputs is None else new_inputs)
        other._handles, other._by_caller = dict(self._handles), self._by_caller
        return other

    def tracer_warnings(self, mode: str) -> Self:
        """Return the analyzer: in MMEngine, this sets which warnings are shown, and there are none here."""
        return self

    unsupported_ops_warnings = uncalled_modules_warnings = tracer_warnings

    def _of(self, counts: dict[str, Counter[str]], module_name: str) -> Counter[str]:
        return counts[self.canonical_module_name(module_name)]

    def _analyzed(self) -> dict[str, Counter[str]]:
        if self._counts is None:
            names = list(dict.fromkeys(self._names[id(module)] for module in self._model.modules()))
            self._counts = {name: Counter() for name in names}
            self._unsupported = {name: Counter() for name in names}
            self._called, self._stack = set(), []
            with torch.no_grad(), self._tracked(), _unchanged(self._model), _Operators(self), _Functions(self):
                self._model(*self._inputs)
        return self._counts

    @contextmanager
    def _tracked(self) -> Iterator[None]:
        """Record which modules are being called."""

        def enter(module: nn.Module, *_: Any) -> None:
            self._stack.append(self._names[id(module)])
            self._called.add(self._stack[-1])

        def leave(*_: Any) -> None:
            self._stack.pop()

        with ExitStack() as stack:
            for module in self._model.modules():
                stack.callback(module.register_forward_pre_hook(enter, prepend=True).remove)
                stack.callback(module.register_forward_hook(leave).remove)
            yield

    def _add(self, name: str, inputs: Sequence[Any], outputs: Sequence[Any]) -> None:
        plain = name if "::" in name else name.strip("_")
        owners = set(self._stack) | {""}
        if not self._by_caller and self._stack:
            parts = self._stack[-1].split(".")
            owners = {".".join(parts[:end]) for end in range(len(parts) + 1)}
        if plain not in self._handles:
            if not _MOVES_DATA.fullmatch(plain):
                for owner in owners & self._unsupported.keys():
                    self._unsupported[owner][name if "::" in name else f"aten::{name}"] += 1
        elif (handle := self._handles[plain]) is not None:
            count = handle(inputs, outputs)
            for owner in owners & self._unsupported.keys():
                assert self._counts is not None
                self._counts[owner].update(count if isinstance(count, Counter) else {name: count})


@contextmanager
def _unchanged(model: nn.Module) -> Iterator[None]:
    """Restore buffers and random generators, and leave out kernels that hide the operators of attention."""
    buffers = {name: map_tensors(buffer, Tensor.clone) for name, buffer in model.named_buffers()}
    devices = {value.device for value in [*model.parameters(), *buffers.values()] if value.device.type == "cuda"}
    fused = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with torch.random.fork_rng(devices=[device.index or 0 for device in devices]):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)
        with torch.no_grad():
            for name, buffer in model.named_buffers():
                if name in buffers:
                    buffer.copy_(buffers[name])


class FlopAnalyzer(ComplexityAnalyzer):
    """Counts of floating-point operations; a multiply-add is one. See :class:`ComplexityAnalyzer`.

    Example:
        >>> flops = FlopAnalyzer(nn.Sequential(nn.Linear(10, 20), nn.ReLU()), torch.rand(4, 10))
        >>> flops.total(), flops.by_module()["0"]
        (800, 800)
    """

    default_handles: ClassVar[dict[str, Handle]] = {
        **dict.fromkeys(_PRODUCTS, _product),
        _ATTENTION: _attention,
        "conv": _convolution,
        "batch_norm": _batch_norm,
        **dict.fromkeys(("group_norm", "layer_norm", "instance_norm"), _norm),
        "upsample_nearest2d": _outputs,
        "upsample_bilinear2d": lambda inputs, outputs: 4 * _outputs(inputs, outputs),
        "grid_sampler": lambda inputs, outputs: 4 * _outputs(inputs, outputs),
        "adaptive_avg_pool2d": lambda inputs, outputs: _numel(inputs[0]),
    }


class ActivationAnalyzer(ComplexityAnalyzer):
    """Counts of activations: elements of the outputs of convolutions, products of matrices and fused attention."""

    default_handles: ClassVar[dict[str, Handle]] = dict.fromkeys((*_PRODUCTS, _ATTENTION, "conv"), _outputs)


def flop_count(
    model: nn.Module, inputs: tuple[Any, ...], supported_ops: dict[str, Handle] | None = None
) -> tuple[defaultdict[str, float], Counter[str]]:
    """Return the operations of a model in billions by operator, and the operators that are not counted.

    Args:
        model: the model.
        inputs: its inputs.
        supported_ops: further handles by name, see :meth:`ComplexityAnalyzer.set_op_handle`.
    """
    return _scaled(FlopAnalyzer(model, inputs).set_op_handle(**(supported_ops or {})), 1e9)


def activation_count(
    model: nn.Module, inputs: tuple[Any, ...], supported_ops: dict[str, Handle] | None = None
) -> tuple[defaultdict[str, float], Counter[str]]:
    """Return the activations of a model in millions by operator, and the operators that are not counted."""
    return _scaled(ActivationAnalyzer(model, inputs).set_op_handle(**(supported_ops or {})), 1e6)


def _scaled(analyzer: ComplexityAnalyzer, unit: float) -> tuple[defaultdict[str, float], Counter[str]]:
    counts = {name: count / unit for name, count in analyzer.by_operator().items()}
    return defaultdict(float, counts), analyzer.unsupported_ops()


def parameter_count(model: nn.Module) -> defaultdict[str, int]:
    """Return the number of elements of each parameter and module by name; that of the whole model is under ``""``."""
    counts: defaultdict[str, int] = defaultdict(int)
    for name, parameter in model.named_parameters():
        parts = name.split(".")
        for end in range(len(parts) + 1):
            counts[".".join(parts[:end])] += parameter.numel()
    return counts
