"""A log processor with the helpers of MMEngine's, for subclasses that were copied from it."""

from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import Any

from trainwright.compat.mmengine.device import get_max_cuda_memory
from trainwright.engine.records import log_processor as engine


class LogProcessor(engine.LogProcessor):
    """The engine's log processor, also with the helpers that MMEngine's calls in its methods."""

    def _collect_scalars(
        self, custom_cfg: Sequence[Mapping[str, Any]], runner: Any, mode: str, reserve_prefix: bool = False
    ) -> dict[str, Any]:
        """Return the scalars of a mode; ``custom_cfg`` is what :meth:`_parse_windows_size` returns."""
        prefix = f"{mode}/" if reserve_prefix else ""
        tag = {}
        for key, history in runner.message_hub.log_scalars.items():
            if key.startswith(mode):
                name = key if reserve_prefix else self._remove_prefix(key, f"{mode}/")
                is_smoothed = self.mean_pattern.search(name) is not None
                tag[name] = history.mean(self.window_size) if is_smoothed else history.current()
        for entry in map(dict, custom_cfg):
            source = entry.pop("data_src")
            name = entry.pop("log_name", source)
            if prefix + source in tag:
                tag[prefix + name] = runner.message_hub.get_scalar(f"{mode}/{source}").statistics(**entry)
        return tag

    def _collect_non_scalars(self, runner: Any, mode: str) -> dict[str, Any]:
        """Return the information of a mode that is not scalar."""
        infos = {key: value for key, value in runner.message_hub.runtime_info.items() if key.startswith(mode)}
        if self.log_with_hierarchy:
            return infos
        return {self._remove_prefix(key, f"{mode}/"): value for key, value in infos.items()}

    def _remove_prefix(self, string: str, prefix: str) -> str:
        return string.removeprefix(prefix)

    def _parse_windows_size(
        self, runner: Any, batch_idx: int, custom_cfg: Sequence[dict[str, Any]] | None = None
    ) -> list[dict[str, Any]]:
        """Return ``custom_cfg`` with the windows as numbers of iterations."""
        entries = deepcopy(list(self.custom_cfg if custom_cfg is None else custom_cfg))
        windows = {"epoch": batch_idx + 1, "global": runner.iter + 1}
        for entry in entries:
            if isinstance(window := entry.get("window_size"), str):
                entry["window_size"] = windows[window]
        return entries

    def _get_max_memory(self, runner: Any) -> int:
        """Return the peak memory on the GPU in MB."""
        return get_max_cuda_memory(getattr(runner.model, "output_device", None))

    def _get_iter(self, runner: Any, batch_idx: int) -> int:
        """Return the number of the iteration, counted from 1: in the epoch, or with ``by_epoch=False`` in the run."""
        return (batch_idx if self.by_epoch else runner.iter) + 1

    def _get_epoch(self, runner: Any, mode: str) -> int:
        """Return the number of the epoch, counted from 1, in a training or validation."""
        if mode not in ("train", "val"):
            raise ValueError(f"mode must be 'train' or 'val', not {mode!r}")
        return runner.epoch + (mode == "train")  # type: ignore[no-any-return]
