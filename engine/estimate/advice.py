"""What would make a run fit into the memory of a device, each tried by an estimate."""

import copy
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from trainwright.engine.config.config import Config
from trainwright.engine.data.several import NamedBatches
from trainwright.engine.errors import ConfigError
from trainwright.engine.estimate.fake import FakeMeter
from trainwright.engine.estimate.speed import Hardware
from trainwright.engine.estimate.trace import Trace, trace
from trainwright.engine.parts import setting, strategy_cfg
from trainwright.engine.registry import default_scope
from trainwright.engine.run.micro_batches import num_samples, slice_batch
from trainwright.engine.run.model_setup import build_model

_DOUBLINGS = 4
PATIENCE = 60.0
"""Seconds after which nothing more is tried: each change takes as long as an estimate."""


@dataclass(frozen=True)
class Remedy:
    """A change that was tried.

    Args:
        change: the change, as an option or a setting.
        peak: the memory of a rank with it, in bytes.
        fits: whether that is enough.
    """

    change: str
    peak: int
    fits: bool


def remedies(cfg: Config, found: Trace, batch: Any, hardware: Hardware) -> Iterator[Remedy]:
    """Try changes of a run that does not fit, one at a time, for :data:`PATIENCE`.

    Args:
        cfg: the config.
        found: its estimate.
        batch: the batch of the estimate.
        hardware: the hardware, with the memory of a device.
    """
    world_size = found.world_size
    until = time.monotonic() + PATIENCE
    options = dict(strategy_cfg(cfg, world_size > 1))
    blocks = _repeated_blocks(cfg) if not setting(cfg, "activation_checkpointing") else []
    if found.strategy != "FSDP2" and world_size > 1:
        options = {"type": "FSDP2", **({"wrap": blocks} if blocks else {})}
        wrapped = " with wrap=" + _shown(blocks) if blocks else ""
        yield from _tried(f"--strategy FSDP2{wrapped}", cfg, {"strategy": options}, world_size, batch, hardware, until)
    elif world_size > 1:
        yield from _more_processes(cfg, found, batch, hardware, until)
        if not options.get("cpu_offload"):
            changed = {"strategy": {**options, "cpu_offload": True}}
            yield from _tried("strategy.cpu_offload=True", cfg, changed, world_size, batch, hardware, until)
    if blocks:
        change = f"activation_checkpointing={_shown(blocks)}"
        yield from _tried(change, cfg, {"activation_checkpointing": blocks}, world_size, batch, hardware, until)
    size = 0 if isinstance(batch, NamedBatches) else num_samples(batch) // 2
    while size >= 1:
        smaller = slice_batch(batch, 0, size)
        remedy = next(
            _tried(f"train_dataloader.batch_size={size}", cfg, {}, world_size, smaller, hardware, until), None
        )
        if remedy is not None and (remedy.fits or size == 1):
            yield remedy
        size = 0 if remedy is None or remedy.fits else size // 2


def _tried(
    change: str, cfg: Config, changes: Mapping[str, Any], world_size: int, batch: Any, hardware: Hardware, until: float
) -> Iterator[Remedy]:
    """Yield the result of a change, unless it does not work with the model or the time is up."""
    if time.monotonic() > until:
        return
    changed = copy.deepcopy(cfg)
    for key, value in changes.items():
        changed[key] = value
    try:
        found = trace(changed, world_size, batch)
    except (ConfigError, RuntimeError):
        return
    yield Remedy(change, found.peak, bool(hardware.fits(found)))


def _more_processes(cfg: Config, found: Trace, batch: Any, hardware: Hardware, until: float) -> Iterator[Remedy]:
    """Yield the smallest tried number of processes, by doubling, with which it fits; or the largest."""
    remedy: Remedy | None = None
    for doubling in range(1, _DOUBLINGS + 1):
        size = found.world_size << doubling
        following = next(_tried(f"--world-size {size}", cfg, {}, size, batch, hardware, until), None)
        if following is None or (remedy is not None and following.peak >= remedy.peak):
            break
        remedy = following
        if remedy.fits:
            break
    if remedy is not None:
        yield remedy


def _repeated_blocks(cfg: Config) -> list[str]:
    """Return the names of the blocks of a model: modules of several layers, in a list or sequence of their kind."""
    with default_scope(cfg.get("default_scope")), FakeMeter().fake_parameters():
        model = build_model(cfg.model, cfg.get("data_preprocessor"), weights_follow=True)
    names: list[str] = []
    for name, module in model.named_modules():
        if not isinstance(module, nn.Sequential | nn.ModuleList) or name.startswith(tuple(f"{n}." for n in names)):
            continue
        children = {f"{name}.{key}": child for key, child in module.named_children()}
        kinds = [type(child) for child in children.values()]
        names += [
            path
            for path, child in children.items()
            if kinds.count(type(child)) > 1
            and not isinstance(child, nn.Sequential | nn.ModuleList)
            and any(True for _ in child.children())
        ]
    return names


def _shown(names: list[str]) -> str:
    return str(names) if len(names) <= 2 else f"[{names[0]!r}, …, {names[-1]!r}] ({len(names)} blocks)"
