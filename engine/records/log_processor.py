"""Formatting log lines from the histories of scalars."""

import datetime
import re
from collections.abc import Callable, Mapping, Sequence
from inspect import signature
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from trainwright.engine.distributed import start_means
from trainwright.engine.errors import ConfigError
from trainwright.engine.records.history import HistoryBuffer
from trainwright.engine.registry import LOG_PROCESSORS

if TYPE_CHECKING:
    from trainwright.engine.run.runner import Runner

Tag = dict[str, Any]

_ENTRY_KEYS = ("data_src", "method_name", "log_name")
_OF_RANK = ("lr", "momentum", "time")
_EPOCH_MEANS = [{"data_src": key, "method_name": "mean", "window_size": "epoch"} for key in ("time", "data_time")]


class UnfinishedLine(NamedTuple):
    """A log line without the means over the ranks.

    Args:
        numbers: the numbers of this rank that are to be averaged, by name.
        finish: returns the values for backends and the line, given the means.
    """

    numbers: dict[str, float]
    finish: Callable[[dict[str, float]], tuple[Tag, str]]


@LOG_PROCESSORS.register_module()
class LogProcessor:
    """A formatter that creates log lines, and values for visualization backends, from the message hub.

    Args:
        window_size: number of iterations to average smoothed values over.
        by_epoch: whether the lines count epochs.
        custom_cfg: additional values, each a dictionary with ``data_src``, the name of a scalar without ``train/``;
            ``method_name``, a statistic of :class:`HistoryBuffer`; ``window_size``, a number of iterations, ``"epoch"``
            for the current epoch so far, or ``"global"`` for the whole run; and ``log_name``, the name in the log, by
            default ``data_src``, whose value is then replaced.
        num_digits: decimals of the numbers in the lines.
        log_with_hierarchy: whether the values for backends keep their prefix, as in ``train/loss``.
        mean_pattern: regular expression for the names of scalars to smooth; others are shown unchanged, and so are the
            results of a validation or test.

    Raises:
        ConfigError: an entry of ``custom_cfg`` is invalid.
    """

    def __init__(
        self,
        window_size: int = 10,
        by_epoch: bool = True,
        custom_cfg: Sequence[Mapping[str, Any]] | None = None,
        num_digits: int = 4,
        log_with_hierarchy: bool = False,
        mean_pattern: str = r".*(loss|time|data_time|grad_norm).*",
    ) -> None:
        self.window_size = window_size
        self.by_epoch = by_epoch
        self.custom_cfg = [dict(entry) for entry in custom_cfg or ()]
        self.num_digits = num_digits
        self.log_with_hierarchy = log_with_hierarchy
        self.mean_pattern = re.compile(mean_pattern)
        self._smoothed: dict[str, bool] = {}
        self._check_custom_cfg()

    def get_log_after_iter(self, runner: "Runner", batch_idx: int, mode: str) -> tuple[Tag, str]:
        """Return the values for backends and the log line after an iteration.

        Numbers of the training are means over the ranks, except for times and learning rates.

        ``batch_idx`` is the 0-based index of the batch in its epoch, and ``mode`` is ``train``, ``val`` or ``test``.
        """
        line = self.start_log_after_iter(runner, batch_idx, mode)
        return line.finish(*start_means([line.numbers])())

    def start_log_after_iter(self, runner: "Runner", batch_idx: int, mode: str) -> UnfinishedLine:
        """Collect what :meth:`get_log_after_iter` returns, except for the means over the ranks."""
        seen = batch_idx + 1
        length = self._get_dataloader_size(runner, mode)
        shown = self._collect(runner, mode, self.custom_cfg, seen, length)
        shared = {} if mode != "train" else {  # the ranks have as many training batches
            key: value for key, value in shown.items() if isinstance(value, float) and is_shared(key)
        }  # fmt: skip
        header = self._header(runner, mode, seen, length)
        counts = {"epoch": _epoch(runner, mode)} if mode != "test" and self.by_epoch else {}
        counts["iter"] = runner.iter + 1 if _trains(runner) else 0
        eta, memory = runner.message_hub.get_info("eta"), _peak_memory(runner.device)

        def finish(means: dict[str, float]) -> tuple[Tag, str]:
            values = shown | means
            tag = self._with_prefix(values, mode) | counts
            rates = [key for key in values if key.endswith("lr")]
            line = header + " ".join(f"{key}: {values.pop(key):.{self.num_digits}e}" for key in rates) + "  "
            if eta is not None and "time" in values and "data_time" in values:
                line += f"eta: {datetime.timedelta(seconds=int(eta))}  "
                line += "".join(f"{key}: {self._text(values.pop(key))}  " for key in ("time", "data_time"))
            if memory is not None:
                line += f"memory: {memory}  "
                tag["memory"] = memory
            if mode == "train":
                line += self._items(values)
            return tag, line

        return UnfinishedLine(shared, finish)

    def get_log_after_epoch(
        self, runner: "Runner", batch_idx: int, mode: str, with_non_scalar: bool = False
    ) -> tuple[Tag, str]:
        """Return the values for backends and the log line after a validation or test.

        ``batch_idx`` is the number of batches, and ``mode`` must be ``val`` or ``test``. If ``with_non_scalar`` is set,
        the values for backends include results that are not numbers.
        """
        if mode not in ("val", "test"):
            raise ValueError(f"mode must be 'val' or 'test', got {mode!r}")
        named = {_bare(entry["data_src"], mode) for entry in self.custom_cfg}
        entries = [*self.custom_cfg, *(entry for entry in _EPOCH_MEANS if entry["data_src"] not in named)]
        scalars = self._with_prefix(self._collect(runner, mode, entries, batch_idx, batch_idx), mode)
        runtime_info = runner.message_hub.runtime_info.items()
        infos = {_bare(key, mode): value for key, value in runtime_info if key.startswith(f"{mode}/")}
        infos = self._with_prefix(infos, mode)
        times = {key: scalars.pop(key) for key in list(scalars) if _bare(key, mode) in ("time", "data_time")}

        kind = "Epoch" if self.by_epoch else "Iter"
        epoch = f"[{_epoch(runner, mode)}]" if self.by_epoch and mode == "val" else ""
        line = f"{kind}({mode}) {epoch}[{batch_idx}/{batch_idx}]    {self._items({**scalars, **infos, **times})}"
        return {**scalars, **(infos if with_non_scalar else {}), **times}, line

    def _get_cur_loop(self, runner: "Runner", mode: str) -> Any:
        return getattr(runner, f"{mode}_loop")

    def _get_dataloader_size(self, runner: "Runner", mode: str) -> int | None:
        """Return the number of batches; overridden for loops over several data loaders."""
        return num_batches(getattr(runner, f"{mode}_dataloader"))

    def _header(self, runner: "Runner", mode: str, seen: int, length: int | None) -> str:
        if mode == "train" and not self.by_epoch:
            return f"Iter(train) {_progress(runner.iter + 1, runner.max_iters)}  "
        if mode == "test" or not self.by_epoch:
            return f"{'Epoch' if self.by_epoch else 'Iter'}({mode}) {_progress(seen, length)}  "
        width = len(str(runner.max_epochs)) + 3 if _trains(runner) else 0
        epoch = f" [{_epoch(runner, mode)}]".rjust(width)
        return f"Epoch({mode}){epoch}{_progress(seen, length)}  "

    def _collect(
        self, runner: "Runner", mode: str, entries: Sequence[Mapping[str, Any]], seen: int, length: int | None
    ) -> Tag:
        """Return the statistics to show, by names without prefix."""
        scalars, prefix = runner.message_hub.log_scalars, f"{mode}/"
        tag: Tag = {}
        for key, history in scalars.items():
            if key.startswith(prefix):
                bare = key[len(prefix) :]
                name = key if self.log_with_hierarchy else bare
                if name not in self._smoothed:
                    self._smoothed[name] = self.mean_pattern.search(name) is not None
                is_result = mode != "train" and bare not in ("time", "data_time")
                is_smoothed = self._smoothed[name] and not is_result
                tag[bare] = history.mean(self.window_size) if is_smoothed else history.current()
        for entry in entries:
            arguments = dict(entry)
            source = _bare(arguments.pop("data_src"), mode)
            name = _bare(arguments.pop("log_name", source), mode)
            if prefix + source in scalars:
                tag[name] = _statistic(scalars[prefix + source], arguments, seen, length)
        return tag

    def _with_prefix(self, tag: Tag, mode: str) -> Tag:
        return {f"{mode}/{key}": value for key, value in tag.items()} if self.log_with_hierarchy else dict(tag)

    def _items(self, values: Tag) -> str:
        return "  ".join(f"{key}: {self._text(value)}" for key, value in values.items())

    def _text(self, value: Any) -> str:
        if isinstance(value, float):
            return f"{value:.{self.num_digits}f}"
        if isinstance(value, torch.Tensor | np.ndarray):
            return f"\n{value}\n"
        return str(value)

    def _check_custom_cfg(self) -> None:
        names: set[str] = set()
        for index, entry in enumerate(self.custom_cfg):
            path = f"log_processor.custom_cfg.{index}"
            for key in ("data_src", "method_name"):
                if key not in entry:
                    raise ConfigError(path, f"{key!r} is missing", "write dict(data_src='loss', method_name='mean')")
            arguments = {key: value for key, value in entry.items() if key not in _ENTRY_KEYS}
            try:
                signature(HistoryBuffer.get_statistics(entry["method_name"])).bind(None, **arguments)
            except KeyError as error:
                raise ConfigError(f"{path}.method_name", str(error.args[0])) from None
            except TypeError as error:
                raise ConfigError(path, f"invalid arguments of {entry['method_name']!r}: {error}") from None
            window = entry.get("window_size")
            if not (window is None or window in ("epoch", "global") or (isinstance(window, int) and window > 0)):
                hint = "it must be a positive number of iterations, 'epoch' or 'global'"
                raise ConfigError(f"{path}.window_size", f"{window!r} is not a window", hint)
            if window == "epoch" and not self.by_epoch:
                raise ConfigError(f"{path}.window_size", "there are no epochs with by_epoch=False", "use 'global'")
            name = entry.get("log_name", entry["data_src"])
            if name in names:
                raise ConfigError(path, f"duplicate name {name!r}", "set a different 'log_name' for each value")
            names.add(name)


def _statistic(history: HistoryBuffer, arguments: dict[str, Any], seen: int, length: int | None) -> Any:
    window = arguments.get("window_size")
    if window == "epoch":
        arguments["window_size"] = seen
        history.reserve(length or seen)
    elif window == "global":
        arguments["window_size"] = None
    elif window is not None:
        history.reserve(window)
    return history.statistics(**arguments)


def _bare(key: str, mode: str) -> str:
    return key.removeprefix(f"{mode}/")


def _progress(done: int, total: int | None) -> str:
    return f"[{done}]" if total is None else f"[{done:>{len(str(total))}}/{total}]"


def _trains(runner: "Runner") -> bool:
    return "train" in runner._loops  # the public property would build the loop


def _epoch(runner: "Runner", mode: str) -> int:
    return runner.epoch + 1 if mode == "train" else runner.epoch


def is_shared(name: str) -> bool:
    """Return whether a scalar of the training is averaged over the ranks in log lines."""
    return not name.endswith(_OF_RANK)


def num_batches(dataloader: Any) -> int | None:
    """Return the length of a data loader, or None if it has none."""
    try:
        return len(dataloader)
    except TypeError:
        return None


def _peak_memory(device: torch.device) -> int | None:
    """Return the peak memory of this process on an accelerator in MiB, or None if it is not tracked."""
    if device.type == "cpu":
        return None
    peak = getattr(torch.get_device_module(device), "max_memory_allocated", None)
    return None if peak is None else int(peak(device)) // 2**20
