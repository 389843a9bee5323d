"""The complexity of a model as a table and as an annotated architecture."""

from collections.abc import Mapping
from typing import Any

import torch
from rich import box
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from trainwright.engine.estimate.complexity import ActivationAnalyzer, FlopAnalyzer, parameter_count

_UNITS = ((1e14, 1e15, "P"), (1e11, 1e12, "T"), (1e8, 1e9, "G"), (1e5, 1e6, "M"), (1e2, 1e3, "K"))


def get_model_complexity_info(
    model: nn.Module,
    input_shape: tuple[Any, ...] | None = None,
    inputs: Tensor | tuple[Any, ...] | None = None,
    show_table: bool = True,
    show_arch: bool = True,
) -> dict[str, Any]:
    """Return the floating-point operations, activations and parameters of a model.

    They are counted as :mod:`trainwright.engine.estimate.complexity` describes; a multiply-add is one operation.

    Example:
        >>> info = get_model_complexity_info(nn.Conv2d(3, 8, 3), (3, 32, 32), show_table=False, show_arch=False)
        >>> info["flops_str"], info["activations_str"], info["params_str"]
        ('0.194M', '7.2K', '0.224K')

    Args:
        model: the model.
        input_shape: shape of its input without the batch dimension, for one random sample; or a tuple of the shapes of
            several inputs.
        inputs: its input, or a tuple of its inputs, instead.
        show_table: return a table of the modules.
        show_arch: return the architecture with the counts of each module.

    Returns:
        ``flops``, ``activations`` and ``params`` as numbers and, under ``flops_str`` and so on, as text; ``out_table``
        and ``out_arch``, empty if not wanted.

    Raises:
        ValueError: neither or both of ``input_shape`` and ``inputs`` are given, or the shape is not one.
    """
    if (input_shape is None) == (inputs is None):
        raise ValueError("get_model_complexity_info takes either input_shape or inputs")
    if inputs is None:
        assert input_shape is not None
        inputs = _random_inputs(model, tuple(input_shape))
    flops, activations = FlopAnalyzer(model, inputs), ActivationAnalyzer(model, inputs)
    counts = {"flops": flops.total(), "activations": activations.total(), "params": parameter_count(model)[""]}
    by_module = {"flops": flops.by_module(), "activations": activations.by_module(), "params": parameter_count(model)}
    return {
        **counts,
        **{f"{name}_str": format_size(count) for name, count in counts.items()},
        "out_table": f"\n{_table(model, by_module)}" if show_table else "",
        "out_arch": f"\n{_architecture(model, by_module)}" if show_arch else "",
    }


def parameter_count_table(model: nn.Module, max_depth: int = 3) -> str:
    """Return the sizes of modules and the shapes of parameters as a table.

    Args:
        model: the model.
        max_depth: number of dots in names, at most, plus one.
    """
    counts, shapes = parameter_count(model), {name: str(tuple(p.shape)) for name, p in model.named_parameters()}
    table = Table("name", "#elements or shape", title=f"parameter count of {type(model).__name__}", box=box.ASCII2)
    for name, count in counts.items():
        depth = name.count(".") + 1 if name else 0
        if depth <= max_depth:
            table.add_row(" " * depth + (name or "model"), " " * depth + shapes.get(name, format_size(count, 1)))
    return _text_of(table)


def format_size(count: float, digits: int = 3) -> str:
    """Return a count with a unit: ``"0.118G"`` for 118 million.

    Args:
        count: the count.
        digits: decimals, at most.
    """
    for limit, unit, letter in _UNITS:
        if count > limit:
            return f"{count / unit:.{digits}f}".rstrip("0").rstrip(".") + letter
    return str(count)


def _random_inputs(model: nn.Module, shape: tuple[Any, ...]) -> tuple[Tensor, ...]:
    shapes = [shape] if all(isinstance(size, int) for size in shape) else [*shape]
    if not shape or not all(isinstance(one, list | tuple) and all(isinstance(n, int) for n in one) for one in shapes):
        raise ValueError(f"input_shape must be a tuple of sizes, or of tuples of sizes, not {shape}")
    parameter = next(model.parameters(), None)
    device = None if parameter is None else parameter.device
    return tuple(torch.randn(1, *one, device=device) for one in shapes)


def _table(model: nn.Module, by_module: Mapping[str, Mapping[str, int]], max_depth: int = 3) -> str:
    """Return a row for each module and parameter; one for a module and its only part, if that has the same counts."""
    table = Table("module", "#parameters or shape", "#flops", "#activations", box=box.ASCII2)
    rows: dict[str, list[str]] = {}
    parts: dict[str, list[str]] = {}
    for name, module in model.named_modules():
        params, *counts = (by_module[kind].get(name, 0) for kind in ("params", "flops", "activations"))
        if not (params or any(counts) or name == ""):
            continue
        rows[name] = [format_size(params) if params else "", *map(format_size, counts)]
        parts.setdefault(name.rpartition(".")[0], []).append(name)
        for own, parameter in module.named_parameters(prefix=name, recurse=False):
            rows[own] = [str(tuple(parameter.shape)), "", ""]
            parts.setdefault(name, []).append(own)
    parts[""].remove("")

    def add(name: str, depth: int, hidden: str) -> None:
        while len(inner := parts.get(name, [])) == 1 and rows[inner[0]] == rows[name]:
            name = inner[0]
        table.add_row(*(" " * depth + cell for cell in (name.removeprefix(hidden) or "model", *rows[name])))
        for part in inner if depth < max_depth else ():
            add(part, depth + 1, hidden if depth or not name else f"{name}.")

    add("", 0, "")
    return _text_of(table)


def _architecture(module: nn.Module, by_module: Mapping[str, Mapping[str, int]], name: str = "") -> str:
    """Return the ``repr`` of a module, with the counts of each part that has any."""
    params, flops, activations = (by_module[kind].get(name, 0) for kind in ("params", "flops", "activations"))
    lines = module.extra_repr().splitlines()
    has_children = any(True for _ in module.children())
    if params or flops or activations:
        sizes = (format_size(count, 2) for count in (params, flops, activations))
        lines.append("#params: {}, #flops: {}, #acts: {}".format(*sizes))
    elif not has_children:
        return repr(module)
    for key, child in module.named_children():
        lines += f"({key}): {_architecture(child, by_module, f'{name}.{key}' if name else key)}".splitlines()
    return "\n".join([f"{type(module).__name__}(", *(f"  {line}" for line in lines), ")"])


def _text_of(table: Table) -> str:
    console = Console(width=200)
    with console.capture() as capture:
        console.print(table, end="")
    return capture.get()
