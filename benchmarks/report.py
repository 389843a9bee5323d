"""The table that every benchmark prints."""

from collections.abc import Callable, Mapping, Sequence
from statistics import median


def table(
    seconds: Mapping[str, Sequence[float]],
    baseline: str,
    column: str,
    show: Callable[[float], str],
    *,
    speedup: bool = False,
) -> str:
    """Return a table with one line per contestant: the median, and the ratios to the baseline in the same round.

    Args:
        seconds: the seconds in each round, by name.
        baseline: the name to compare with; if it is not in ``seconds``, there are no ratios.
        column: the column title of the median.
        show: a function that formats a median.
        speedup: report how many times faster than the baseline, instead of slower.
    """
    width = max(len(name) for name in seconds) + 2
    lines = [f"{'':<{width}}{column:>12}{'ratio':>10}{'min':>8}{'max':>8}"]
    for name, times in seconds.items():
        line = f"{name:<{width}}{show(median(times)):>12}"
        if baseline in seconds:
            ratios = [time / base for time, base in zip(times, seconds[baseline])]
            ratios = [1 / ratio for ratio in ratios] if speedup else ratios
            line += f"{median(ratios):>10.2f}{min(ratios):>8.2f}{max(ratios):>8.2f}"
        lines.append(line)
    return "\n".join(lines)
