"""Real runs whose memory and communication are measured, to compare them with estimates."""

import gc
import itertools
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ranks import run_ranks
from torch import Tensor
from torch.optim.optimizer import register_optimizer_step_pre_hook

from trainwright.engine.config.config import Config
from trainwright.engine.config.paths import find_named_config
from trainwright.engine.estimate.meter import Collective, Meter
from trainwright.engine.run.hook import Hook
from trainwright.engine.run.runner import Runner

PARTS = ("dataloader", "cfg", "evaluator")
MEASURED = 4
"""0-based iteration that is measured: not one in which a snapshot is replaced."""


class Measure(Hook):
    """Measure the memory that a process keeps, and the communication and peak of one iteration."""

    priority = "LOWEST"

    def __init__(self, meter: Meter) -> None:
        self.meter = meter
        self.found: dict[str, Any] = {}
        self.gradients = 0
        self.handle = register_optimizer_step_pre_hook(self._measure_gradients)

    def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        if runner.iter == MEASURED:
            gc.collect()
            gc.disable()  # else it may or may not free the cycles in a step before the peak
            self.meter.restart()
            self.before = sum(block.nbytes for block in self.meter.in_use)

    def after_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        if runner.iter != MEASURED:
            return
        gc.enable()
        model = getattr(runner.model, "module", runner.model)
        wrappers = runner.optim_wrapper.optim_wrappers.values()
        states = [state for wrapper in wrappers for state in wrapper.optimizer.state.values()]
        copies = [tensor for hook in runner.hooks for module in hook.extra_modules() for tensor in _tensors(module)]
        copies += [
            tensor
            for hook in runner.hooks
            for tensor in _leaves(getattr(getattr(hook, "_snapshot", None), "contents", None))
        ]
        self.found = {
            "parameters": _nbytes(model.parameters()),
            "buffers": _nbytes(model.buffers()),
            "gradients": self.gradients,
            "optimizer state": _nbytes(_leaves(states)),
            "averaged weights and snapshots": _nbytes(copies),
            "collectives": summed(self.meter.use.collectives),
            "flops": self.meter.use.flops,
            "extra": sum(block.nbytes for block in self.meter.peak) - self.before,
        }
        self.handle.remove()

    def _measure_gradients(self, optimizer: Any, *_: Any) -> None:
        params = itertools.chain.from_iterable(group["params"] for group in optimizer.param_groups)
        self.gradients = _nbytes(param.grad for param in params if param.grad is not None)


def shipped(name: str, folder: Path) -> dict[str, Any]:
    """Return a shipped config with batches of 4 and without validation, as a dict."""
    cfg = Config.fromfile(find_named_config(name))
    cfg.train_dataloader.batch_size, cfg.train_dataloader.num_workers = 4, 0
    cfg.train_dataloader.pop("persistent_workers", None)
    unused = {"param_scheduler", *(f"{mode}_{part}" for mode in ("val", "test") for part in PARTS)}
    return {key: value for key, value in cfg.items() if key not in unused} | {
        "work_dir": str(folder), "log_level": "WARNING", "randomness": {"seed": 3},
    }  # fmt: skip


def measure_all(
    folder: Path, world_size: int, cfgs: Mapping[str, Mapping[str, Any]]
) -> dict[str, list[dict[str, Any]]]:
    """Train with each config in real processes, and return the measurements of each rank by name."""

    def each() -> dict[str, Any]:
        found = {}
        for name, cfg in cfgs.items():
            meter = Meter()
            with meter:
                kept = {key: value for key, value in cfg.items() if key not in ("default_hooks", "auto_scale_lr")}
                launch = {"launcher": "pytorch", "env_cfg": {"dist_cfg": {"timeout": 50}}}
                runner = Runner.from_cfg({**kept, **launch, "train_cfg": {"by_epoch": False, "max_iters": 6}})
                hook = runner.register_hook(Measure(meter))
                runner.train()
            found[name] = hook.found
        return found

    results = run_ranks(world_size, each, folder / "ranks", timeout=60 + 10 * len(cfgs))
    return {name: [result[name] for result in results] for name in cfgs}


def summed(collectives: Iterable[Collective]) -> dict[tuple[str, tuple[int, ...]], int]:
    """Return the bytes of all messages, by kind and participants."""
    totals: dict[tuple[str, tuple[int, ...]], int] = {}
    for each in collectives:
        key = each.kind, each.ranks
        totals[key] = totals.get(key, 0) + each.nbytes
    return totals


def _tensors(module: Any) -> Iterator[Tensor]:
    yield from module.parameters()
    yield from module.buffers()


def _leaves(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict | list | tuple):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _leaves(item)


def _nbytes(tensors: Iterable[Any]) -> int:
    """Return the size of the memory of tensors, or of their parts in this process."""
    storages = {}
    for tensor in tensors:
        storage = (tensor.to_local() if hasattr(tensor, "to_local") else tensor).untyped_storage()
        storages[storage._cdata] = storage.nbytes()
    return sum(storages.values())
