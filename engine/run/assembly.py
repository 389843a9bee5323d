"""Building the loops, optimizer and schedulers of a run, when they are first needed."""

from collections.abc import Mapping
from itertools import chain
from typing import TYPE_CHECKING, Any

from torch.optim import Optimizer

from trainwright.engine.building import origin_of, resolve
from trainwright.engine.errors import ConfigError
from trainwright.engine.optim.constructor import build_optim_wrapper
from trainwright.engine.optim.fine_tuning import missing_weights
from trainwright.engine.optim.rules import OneCycleParamScheduler
from trainwright.engine.optim.schedulers import build_param_scheduler
from trainwright.engine.optim.wrapper import OptimWrapper
from trainwright.engine.parts import MODES, TEST_LOOP, TRAIN_LOOP, VAL_LOOP, contradicts_by_epoch
from trainwright.engine.registry import LOOPS

if TYPE_CHECKING:
    from trainwright.engine.run.runner import Runner

RunnerArguments = Mapping[str, Any]
"""The arguments of a Runner by name: configs and objects."""


def trains_by_epoch(train_cfg: Mapping[str, Any] | None) -> bool:
    """Return whether the configured training loop counts epochs.

    Raises:
        ConfigError: the type is unknown, or contradicts ``by_epoch``.
    """
    cfg = train_cfg or {}
    with LOOPS.switch_scope(cfg.get("_scope_")) as registry:
        loop = resolve(TRAIN_LOOP.type_of(cfg), registry, path="train_cfg", origin=origin_of(cfg, "type"))
    if mistake := contradicts_by_epoch(cfg, loop):
        raise mistake
    return bool(getattr(loop, "by_epoch", TRAIN_LOOP.read(cfg, "by_epoch")))


def build_loop(runner: "Runner", mode: str, arguments: RunnerArguments) -> Any:
    """Build the loop for ``train``, ``val`` or ``test``, with its data loader and evaluator.

    Raises:
        ConfigError: arguments for this mode are missing, or contradict each other.
    """
    path = f"{mode}_cfg"
    if arguments[path] is None:
        raise ConfigError(path, f"missing, so this run cannot {mode}", f"pass {', '.join(MODES[mode])}")
    dataloader = arguments[f"{mode}_dataloader"]
    if mode == "train":
        return TRAIN_LOOP.build(arguments[path], runner=runner, dataloader=dataloader)
    slot = VAL_LOOP if mode == "val" else TEST_LOOP
    return slot.build(arguments[path], runner=runner, dataloader=dataloader, evaluator=arguments[f"{mode}_evaluator"])


def build_optimization(runner: "Runner", arguments: RunnerArguments) -> tuple[Any, Any]:
    """Build the optimizer wrapper, with scaled learning rates if configured, and the schedulers.

    Returns:
        The wrapper, and a list of schedulers (a dict of lists for several optimizers).

    Raises:
        ConfigError: the settings are for fine-tuning, but no weights are loaded.
    """
    wrapper = arguments["optim_wrapper"]
    if runner.start.path is None and (mistake := missing_weights({**runner.cfg, "resume": False})):
        raise mistake
    if isinstance(wrapper, Optimizer):
        wrapper = OptimWrapper(wrapper)
    elif isinstance(wrapper, Mapping):
        wrapper = build_optim_wrapper(runner.model, wrapper)
    _scale_lr(runner, wrapper, arguments["auto_scale_lr"] or {})
    if arguments["param_scheduler"] is None:
        return wrapper, []
    loop = runner.train_loop
    schedulers = build_param_scheduler(
        arguments["param_scheduler"], wrapper,
        max_epochs=loop.max_epochs, max_iters=loop.max_iters, epoch_length=loop.epoch_length,
    )  # fmt: skip
    if (arguments["auto_scale_lr"] or {}).get("enable"):
        groups = schedulers.values() if isinstance(schedulers, Mapping) else [schedulers]
        if any(isinstance(scheduler, OneCycleParamScheduler) for scheduler in chain(*groups)):
            runner.logger.warning("auto_scale_lr has no effect: OneCycle overrides the learning rates with its eta_max")
    return wrapper, schedulers


def _scale_lr(runner: "Runner", wrapper: Any, options: Mapping[str, Any]) -> None:
    if not options.get("enable"):
        return
    base = options.get("base_batch_size")
    if base is None:
        hint = "set it to the batch size that the learning rate was tuned for"
        raise ConfigError("auto_scale_lr.base_batch_size", "missing", hint)
    loader = runner.train_dataloader
    own = loader.batch_size or getattr(loader.batch_sampler, "batch_size", None)  # a batch sampler decides itself
    if own is None:
        raise ConfigError("auto_scale_lr.enable", f"{type(loader.batch_sampler).__name__} has no attribute batch_size")
    batch_size = own * runner.strategy.data_size
    for group in chain(*(single.param_groups for single in wrapper.optim_wrappers.values())):
        group["lr"] *= batch_size / base
    message = "Scaled the learning rates by %g: batch size %d instead of %d"
    runner.logger.info(message, batch_size / base, batch_size, base)
