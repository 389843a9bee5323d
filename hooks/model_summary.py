"""Log a summary of the model."""

from typing import TYPE_CHECKING

from torch import nn

from trainwright.engine.errors import ConfigError
from trainwright.engine.registry import HOOKS
from trainwright.engine.run.hook import Hook

if TYPE_CHECKING:
    from trainwright.engine.run.runner import Runner

_HEADER = ("module", "type", "parameters", "trainable", "size")


@HOOKS.register_module()
class ModelSummaryHook(Hook):
    """Log a table of the modules with their number of parameters, of trainable parameters and their size in memory.

    Cost per step: none.

    Args:
        depth: number of levels of modules to show; 0 for only the whole model, -1 for all.

    Raises:
        ConfigError: ``depth`` is below -1.
    """

    def __init__(self, depth: int = 1) -> None:
        if depth < -1:
            raise ConfigError("ModelSummaryHook.depth", f"must be at least -1, but is {depth}")
        self.depth = depth

    def before_train(self, runner: "Runner") -> None:
        """Log the table."""
        runner.logger.info("Model summary:\n" + summarize(runner.model, self.depth))


def summarize(model: nn.Module, depth: int = 1) -> str:
    """Return a table of the modules of a model, as text.

    Args:
        model: the model. A parameter shared by several modules is counted in each of them, but only once in the
            total.
        depth: number of levels of modules to show; 0 for only the whole model, -1 for all.
    """
    rows = [_HEADER]
    for name, module in model.named_modules():
        level = name.count(".") + 1 if name else 0
        if 0 <= depth < level:
            continue
        params = list(module.parameters())
        rows.append((
            "  " * level + (name.rpartition(".")[2] or "(model)"),
            type(module).__name__,
            f"{sum(param.numel() for param in params):,}",
            f"{sum(param.numel() for param in params if param.requires_grad):,}",
            _readable(sum(tensor.nbytes for tensor in [*params, *module.buffers()])),
        ))  # fmt: skip
    widths = [max(map(len, column)) for column in zip(*rows)]
    lines = []
    for row in rows:
        texts, numbers = row[:2], row[2:]
        cells = [text.ljust(width) for text, width in zip(texts, widths)]
        cells += [number.rjust(width) for number, width in zip(numbers, widths[2:])]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def _readable(size: float) -> str:
    for unit in ("B", "KiB", "MiB"):
        if size < 1024:
            return f"{size:.0f} B" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} GiB"
