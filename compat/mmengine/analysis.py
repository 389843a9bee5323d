"""The names of ``mmengine.analysis`` and its modules."""

from trainwright.engine.estimate.complexity import (
    ActivationAnalyzer,
    FlopAnalyzer,
    activation_count,
    flop_count,
    parameter_count,
)
from trainwright.engine.estimate.complexity import ComplexityAnalyzer as JitModelAnalysis
from trainwright.engine.estimate.complexity_table import get_model_complexity_info, parameter_count_table

__all__ = [
    "ActivationAnalyzer",
    "FlopAnalyzer",
    "JitModelAnalysis",
    "activation_count",
    "flop_count",
    "get_model_complexity_info",
    "parameter_count",
    "parameter_count_table",
]

_UNITS = ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "K"))


def _format_size(x: int, sig_figs: int = 3, hide_zero: bool = False) -> str:
    """Return a number with a suffix, such as ``4.089G``; zero as an empty string with ``hide_zero``."""
    if hide_zero and x == 0:
        return ""
    for size, suffix in _UNITS:
        if abs(x) > size / 10:
            return f"{x / size:.{sig_figs}f}".rstrip("0").rstrip(".") + suffix
    return str(x)
