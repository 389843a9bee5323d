"""The parts of a run that are built when they are first needed: its loops, its optimizer and schedulers."""

from collections.abc import Mapping
from itertools import chain
from typing import TYPE_CHECKING, Any

from torch.optim import Optimizer

from trainwright.engine.building import origin_of, resolve
from trainwright.engine.errors import ConfigError
from trainwright.engine.optim.constructor import build_optim_wrapper
from trainwright.engine.optim.param_scheduler import OneCycleParamScheduler
from trainwright.engine.optim.schedulers import build_param_scheduler
from trainwright.engine.optim.wrapper import OptimWrapper
from trainwright.engine.parts import MODES, TEST_LOOP, TRAIN_LOOP, VAL_LOOP, contradicts_by_epoch
from trainwright.engine.registry import LOOPS

if TYPE_CHECKING:
    from trainwright.engine.run.runner import Runner

Given = Mapping[str, Any]
"""What a Runner was given: configs and objects by the name of its argument."""


def trains_by_epoch(train_cfg: Mapping[str, Any] | None) -> bool:
    """Return whether a config of the training loop counts in epochs.

    Raises:
        ConfigError: its type is unknown, or contradicts its ``by_epoch``.
    """
    cfg = train_cfg or {}
    with LOOPS.switch_scope(cfg.get("_scope_")) as registry:
        loop = resolve(TRAIN_LOOP.type_of(cfg), registry, path="train_cfg", origin=origin_of(cfg, "type"))
    if mistake := contradicts_by_epoch(cfg, loop):
        raise mistake
    return bool(getattr(loop, "by_epoch", TRAIN_LOOP.read(cfg, "by_epoch")))


def build_loop(runner: "Runner", mode: str, given: Given) -> Any:
    """Builds the loop for ``train``, ``val`` or ``test``, with its data loader and evaluator.

    Raises:
        ConfigError: the parts for this mode are not given, or contradict each other.
    """
    path = f"{mode}_cfg"
    if given[path] is None:
        raise ConfigError(path, f"not given, so this run cannot {mode}", f"give {', '.join(MODES[mode])}")
    dataloader = given[f"{mode}_dataloader"]
    if mode == "train":
        return TRAIN_LOOP.build(given[path], runner=runner, dataloader=dataloader)
    slot = VAL_LOOP if mode == "val" else TEST_LOOP
    return slot.build(given[path], runner=runner, dataloader=dataloader, evaluator=given[f"{mode}_evaluator"])


def build_optimization(runner: "Runner", given: Given) -> tuple[Any, Any]:
    """Builds the optimizer wrapper, with its learning rates scaled if asked to, and the schedulers.

    Returns:
        The wrapper, and a list of schedulers (for several optimizers a dict of lists).
    """
    wrapper = given["optim_wrapper"]
    if isinstance(wrapper, Optimizer):
        wrapper = OptimWrapper(wrapper)
    elif isinstance(wrapper, Mapping):
        wrapper = build_optim_wrapper(runner.model, wrapper)
    _scale_lr(runner, wrapper, given["auto_scale_lr"] or {})
    if given["param_scheduler"] is None:
        return wrapper, []
    loop = runner.train_loop
    schedulers = build_param_scheduler(
        given["param_scheduler"],
        wrapper,
        max_epochs=loop.max_epochs,
        max_iters=loop.max_iters,
        epoch_length=loop.epoch_length,
    )
    if (given["auto_scale_lr"] or {}).get("enable"):
        groups = schedulers.values() if isinstance(schedulers, Mapping) else [schedulers]
        if any(isinstance(scheduler, OneCycleParamScheduler) for scheduler in chain(*groups)):
            runner.logger.warning("auto_scale_lr has no effect: OneCycle sets the rates to its own eta_max")
    return wrapper, schedulers


def _scale_lr(runner: "Runner", wrapper: Any, options: Mapping[str, Any]) -> None:
    if not options.get("enable"):
        return
    base = options.get("base_batch_size")
    if base is None:
        hint = "the batch size that the learning rate was chosen for"
        raise ConfigError("auto_scale_lr.base_batch_size", "missing", hint)
    loader = runner.train_dataloader
    own = loader.batch_size or getattr(loader.batch_sampler, "batch_size", None)  # a batch sampler decides itself
    if own is None:
        raise ConfigError("auto_scale_lr.enable", f"a {type(loader.batch_sampler).__name__} tells no batch_size")
    batch_size = own * runner.world_size
    groups = wrapper.param_groups
    for group in chain(*groups.values()) if isinstance(groups, Mapping) else groups:
        group["lr"] *= batch_size / base
    runner.logger.info("Learning rates scaled by %g: batches of %d, chosen for %d", batch_size / base, batch_size, base)
