"""The names of ``mmengine.analysis`` and its modules."""

from trainwright.engine.estimate.complexity import (
    ActivationAnalyzer,
    FlopAnalyzer,
    activation_count,
    flop_count,
    parameter_count,
)
from trainwright.engine.estimate.complexity import ComplexityAnalyzer as JitModelAnalysis
from trainwright.engine.estimate.complexity_table import format_size, get_model_complexity_info, parameter_count_table

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


def _format_size(x: int, sig_figs: int = 3, hide_zero: bool = False) -> str:
    """Return a number with a suffix, such as ``4.089G``; zero as an empty string with ``hide_zero``."""
    return "" if hide_zero and x == 0 else format_size(x, sig_figs)
