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
    """Returns a line for each contestant: the median, and the ratios to the baseline of the same round.

    Args:
        seconds: by name the seconds in each round.
        baseline: whose seconds the others are compared with; without it there are no ratios.
        column: what the median is called.
        show: returns the text of a median.
        speedup: show how many times faster than the baseline, instead of how many times slower.
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
