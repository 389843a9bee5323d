"""Tracing training steps of one rank, with the parts that the config builds and the strategy places."""

import gc
import itertools
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import unset_fake_temporarily
from torch.optim.optimizer import register_optimizer_step_pre_hook
from torch.utils.data import DataLoader

from trainwright.engine.building import resolve
from trainwright.engine.config.config import Config
from trainwright.engine.errors import ConfigError
from trainwright.engine.estimate.fake import FakeMeter, exchange_by_futures, fake_group
from trainwright.engine.estimate.meter import Block, Collective, Meter
from trainwright.engine.estimate.mistakes import StepError, as_config_error
from trainwright.engine.parts import setting
from trainwright.engine.registry import RUNNERS, default_scope
from trainwright.engine.run.micro_batches import num_samples
from trainwright.engine.run.model_setup import build_model, unwrap
from trainwright.engine.run.model_surgery import turn_on_activation_checkpointing
from trainwright.engine.strategy.base import build_strategy
from trainwright.engine.trees import tensors_in

KINDS = (
    "parameters", "buffers", "optimizer state", "averaged weights and snapshots", "gradients", "input batch",
    "communication buffers", "gathered weights", "activations and temporaries",
)  # fmt: skip
"""Kinds of memory. A block that belongs to several counts as the first."""
HOST_KINDS = ("parameters", "optimizer state", "averaged weights and snapshots", "gradients")
"""Kinds of memory that a strategy with CPU offload keeps in host memory."""
_NEEDED = ("model", "optim_wrapper", "train_cfg")
_PASSED_ON = (
    "train_cfg", "optim_wrapper", "default_hooks", "custom_hooks", "data_preprocessor", "env_cfg", "default_scope",
)  # fmt: skip
_TRACED = 2
_HINT = (
    "if `trainwright check --data` finds no mistake, the model needs values of tensors, which an estimate lacks, or "
    "does not suit the strategy"
)


@dataclass
class Trace:
    """What one rank needs for an update of the weights.

    Args:
        world_size: number of processes.
        data_size: number of processes with different data.
        strategy: name of the strategy.
        largest: the largest number of bytes of each kind of memory at any time.
        at_peak: bytes of each kind when their sum is largest.
        host: bytes in host memory, of a strategy that offloads.
        collectives: the communication.
        flops: floating-point operations.
        samples: samples of this rank, over all iterations of the update.
        accumulation: iterations per update.
        trainable: number of trainable parameters of the model, as a whole.
        assumptions: what was assumed about the values of tensors.
    """

    world_size: int
    data_size: int
    strategy: str
    largest: dict[str, int]
    at_peak: dict[str, int]
    host: int
    collectives: list[Collective]
    flops: int
    samples: int
    accumulation: int
    trainable: int
    assumptions: tuple[str, ...] = ()

    @property
    def peak(self) -> int:
        """The memory needed on the device."""
        return sum(self.at_peak.values())


def require_training(cfg: Config) -> None:
    """Raise a ``ConfigError`` if a config lacks a part of the training."""
    for key in _NEEDED:
        if cfg.get(key) is None:
            raise ConfigError(key, "missing, so there is no training to estimate")


def trace(cfg: Config, world_size: int, batch: Any, rank: int = 0) -> Trace:
    """Trace an update of one of ``world_size`` ranks, without memory for its tensors and without other ranks.

    Args:
        cfg: a config without mistakes.
        world_size: number of processes.
        batch: a batch from the data loader, with real tensors.
        rank: the rank. Rank 0 has no fewer parameters than others.

    Raises:
        ConfigError: the strategy does not fit the number of processes or the model, or parts are missing.
        StepError: a step fails, for instance because it needs the values of tensors.
    """
    require_training(cfg)
    meter = FakeMeter()
    gc.freeze()  # collecting what a step leaves then takes milliseconds
    try:
        return _trace(cfg, world_size, batch, rank, meter)
    finally:
        gc.unfreeze()


def _trace(cfg: Config, world_size: int, batch: Any, rank: int, meter: FakeMeter) -> Trace:
    with fake_group(world_size, rank), default_scope(cfg.get("default_scope")), TemporaryDirectory() as folder:
        build_strategy(cfg)  # reports mistakes before anything else is built
        with as_config_error("model", "cannot be built without its weights", _HINT), meter.fake_parameters():
            model = build_model(cfg.model, cfg.get("data_preprocessor"), weights_follow=True)
        meter.fake_buffers(model)
        batch = meter.fake_batch(batch)
        with meter.active():
            runner = _build_runner(cfg, model, batch, folder)
            with unset_fake_temporarily():
                runner._loop("train")  # for hooks that ask for its length
            with runner._as_current(), as_config_error("model", "a step without values fails", _HINT, StepError):
                exchange_by_futures(runner.model)
                return measure(runner, batch, meter)


def _build_runner(cfg: Config, model: nn.Module, batch: Any, folder: str) -> Any:
    runner_class: Any = resolve(setting(cfg, "runner_type"), RUNNERS, path="runner_type")
    arguments = {name: cfg.get(name) for name in _PASSED_ON if cfg.get(name) is not None}
    loader: Any = DataLoader([batch], batch_size=None)  # type: ignore[arg-type]  # a list is a dataset
    return runner_class(
        model=model, work_dir=folder, train_dataloader=loader, randomness={"seed": 0}, log_level="ERROR",
        device="cpu", cfg=cfg, **arguments,
    )  # fmt: skip


def measure(runner: Any, batch: Any, meter: Meter) -> Trace:
    """Train an update twice, and measure the second one. The first one creates the state of the optimizer.

    Args:
        runner: a run that was built within the meter's context and has not started.
        batch: a batch.
        meter: the active meter.
    """
    model = unwrap(runner.model)
    if names := setting(runner.cfg, "activation_checkpointing"):
        turn_on_activation_checkpointing(model, names)
    runner._build_optimization()
    wrappers = list(runner.optim_wrapper.optim_wrappers.values())
    accumulation = max(wrapper.accumulative_counts for wrapper in wrappers)
    for wrapper in wrappers:
        wrapper.accumulative_counts = min(wrapper.accumulative_counts, _TRACED)
        if hasattr(wrapper, "loss_scaler"):  # reads values; its state is two numbers
            wrapper.loss_scaler = torch.amp.GradScaler(wrapper.device_type, enabled=False)
    getattr(runner.optim_wrapper, "intervals", {}).clear()  # all optimizers take part in an update
    runner.optim_wrapper.initialize_count_status(runner.model, 0, 1000 * _TRACED)
    runner.model.train()
    traced = min(accumulation, _TRACED)
    with _gradients_of(wrappers, meter) as gradients:
        for iteration in range(traced):
            _train(runner, batch, iteration)
        before = {id(block) for block in meter.in_use}
        for point in ("before_run", "before_train"):
            for hook in runner.hooks:
                if hook.holds_memory:
                    getattr(hook, point)(runner)
        gc.collect()
        meter.assumptions.clear()
        copies = {block for block in meter.in_use if id(block) not in before}
        meter.restart()
        at_start = set(meter.in_use)
        owned = {
            "parameters": meter.blocks_of(model.parameters()),
            "buffers": meter.blocks_of(model.buffers()),
            "optimizer state": meter.blocks_of(_state_of(wrappers)),
            "averaged weights and snapshots": copies,
            "input batch": meter.blocks_of(_tensors_of(batch)),
        }
        collectives: list[Collective] = []
        flops = 0
        for iteration in range(traced, 2 * traced):
            began, flops_before = len(meter.use.collectives), meter.use.flops
            _train(runner, batch, iteration)
            repeated = 1 if iteration == 2 * traced - 1 else accumulation - traced + 1
            collectives += meter.use.collectives[began:] * repeated
            flops += (meter.use.flops - flops_before) * repeated
            if iteration < 2 * traced - 1:  # accumulated outside of the parameters
                gradients |= set(meter.in_use) - at_start
    owned["gradients"] = gradients
    if runner.world_size > 1:
        owned["communication buffers"] = set(meter.in_use)
    owned["gathered weights"] = {block for block in meter.blocks if block.is_gathered}
    at_peak, largest = _by_kind(meter, owned)
    host = 0
    if runner.strategy.offloads:
        host = sum(largest[kind] for kind in HOST_KINDS)
        for kind in HOST_KINDS:
            at_peak[kind] = largest[kind] = 0
    return Trace(
        runner.world_size, runner.strategy.data_size, type(runner.strategy).__name__, largest, at_peak, host,
        collectives, flops, num_samples(batch) * accumulation, accumulation,
        sum(param.numel() for param in model.parameters() if param.requires_grad), tuple(sorted(meter.assumptions)),
    )  # fmt: skip


def _train(runner: Any, batch: Any, iteration: int) -> None:
    runner.state.iter = iteration
    runner.model.train_step(batch, optim_wrapper=runner.optim_wrapper)
    gc.collect()


@contextmanager
def _gradients_of(wrappers: Iterable[Any], meter: Meter) -> Iterator[set[Block]]:
    """Collect the memory of gradients whenever an optimizer steps."""
    blocks: set[Block] = set()

    def record(optimizer: torch.optim.Optimizer, *_: Any) -> None:
        params = itertools.chain.from_iterable(group["params"] for group in optimizer.param_groups)
        blocks.update(meter.blocks_of(param.grad for param in params if param.grad is not None))

    handle = register_optimizer_step_pre_hook(record)
    try:
        yield blocks
    finally:
        handle.remove()


def _state_of(wrappers: Iterable[Any]) -> Iterator[Tensor]:
    for wrapper in wrappers:
        for state in wrapper.optimizer.state.values():
            yield from tensors_in(state)


def _tensors_of(value: Any) -> Iterator[Tensor]:
    """Yield the tensors of a batch, including those in data elements."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _tensors_of(item)
    elif hasattr(value, "values"):
        for item in value.values():
            yield from _tensors_of(item)


def _by_kind(meter: Meter, owned: Mapping[str, set[Block]]) -> tuple[dict[str, int], dict[str, int]]:
    """Return the bytes of each kind when the sum is largest, and the largest ones of each kind."""
    kind_of = {block: kind for kind in reversed(KINDS) for block in owned.get(kind, ())}
    at_peak, largest, current = (dict.fromkeys(KINDS, 0) for _ in range(3))
    for block in meter.peak:
        at_peak[kind_of.get(block, KINDS[-1])] += block.nbytes
    events: list[tuple[int, str, int]] = []
    for block in meter.blocks:
        kind = kind_of.get(block, KINDS[-1])
        events.append((block.allocated, kind, block.nbytes))
        if block.released is not None:
            events.append((block.released, kind, -block.nbytes))
    for _, kind, change in sorted(events):
        current[kind] += change
        largest[kind] = max(largest[kind], current[kind])
    return at_peak, largest
