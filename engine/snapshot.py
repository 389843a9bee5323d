"""What a checkpoint holds: a walk over the named parts of a run that have state, and the way back."""

import time
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import torch

from trainwright.engine.building import origin_of
from trainwright.engine.config.config import Config
from trainwright.engine.environment import package_version
from trainwright.engine.errors import CheckpointError, ConfigError, Origin
from trainwright.engine.hook import Hook
from trainwright.engine.loops import TrainLoop
from trainwright.engine.model_setup import unwrap
from trainwright.engine.optim.schedulers import resume_param_schedulers
from trainwright.engine.optim.wrapper import OptimWrapperDict

if TYPE_CHECKING:
    from trainwright.engine.runner import Runner

FORMAT = 1


def take(
    runner: "Runner",
    *,
    optimizer: bool = True,
    schedulers: bool = True,
    meta: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Returns the state of a run, under MMEngine's keys and, for what MMEngine does not save, under ``trainwright``.

    Args:
        runner: the run.
        optimizer: include the optimizer's state.
        schedulers: include the schedulers' state.
        meta: further entries of ``meta``.
    """
    counters = runner.state.state_dict()
    loop = runner.train_loop
    checkpoint: dict[str, Any] = {
        "meta": {
            "epoch": counters["epoch"],
            "iter": counters["iter"],
            "cfg": runner.cfg.pretty_text,
            "seed": runner.seed,
            "experiment_name": runner.experiment_name,
            "time": time.strftime("%Y%m%d_%H%M%S"),
            "trainwright_version": package_version("trainwright"),
            "torch_version": torch.__version__.split("+")[0],
            **({"dataset_meta": plain(runner.dataset_meta)} if runner.dataset_meta else {}),
            **(meta or {}),
        },
        "state_dict": unwrap(runner.model).state_dict(),
        "message_hub": runner.message_hub.state_dict(),
        "trainwright": {
            "format": FORMAT,
            "counters": counters,
            **({"batching": loop.batching()} if isinstance(loop, TrainLoop) else {}),
            **({"data": data} if isinstance(loop, TrainLoop) and (data := loop.data_state()) is not None else {}),
            "host_streams": runner.seed_step.host_streams(),
            "hooks": {name: hook.state_dict() for name, hook in stateful_hooks(runner)},
        },
    }
    if optimizer and runner.optim_wrapper is not None:
        checkpoint["optimizer"] = runner.optim_wrapper.state_dict()
    if schedulers and runner.param_schedulers:
        checkpoint["param_schedulers"] = _map_schedulers(
            runner.param_schedulers, lambda scheduler: scheduler.state_dict()
        )
    return checkpoint


def restore(runner: "Runner", checkpoint: Mapping[str, Any]) -> None:
    """Brings a run to the state in a checkpoint, one of ours or of MMEngine.

    Args:
        runner: the run, with all its parts built.
        checkpoint: what :func:`take` returned.

    Raises:
        CheckpointError: a part is missing, or does not fit.
    """
    meta = checkpoint.get("meta", {})
    ours = checkpoint.get("trainwright", {})
    if ours.get("format", FORMAT) > FORMAT:
        raise CheckpointError(
            f"this checkpoint was written by trainwright {meta.get('trainwright_version')}: please upgrade"
        )
    runner.state.load_state_dict(
        ours.get("counters")
        or {
            "epoch": meta.get("epoch", 0),
            "iter": meta.get("iter", 0),
            "inner_iter": 0,
            "validated_at": meta.get("iter", 0),
        }
    )
    if runner.rank == 0:
        runner.host_streams = ours.get("host_streams")
    if "message_hub" in checkpoint:
        runner.message_hub.load_state_dict(checkpoint["message_hub"])
    if runner.optim_wrapper is None:
        return
    if "optimizer" not in checkpoint:
        raise CheckpointError(
            "this checkpoint has no optimizer state (save_optimizer=False, or a published file): "
            "start from its weights with `load_from` and without `resume`"
        )
    try:
        runner.optim_wrapper.load_state_dict(checkpoint["optimizer"])
    except (ValueError, KeyError) as error:
        raise CheckpointError(f"the optimizer in the checkpoint does not fit this config's: {error}") from error
    if "data" in ours and isinstance(runner.train_loop, TrainLoop):
        runner.train_loop.load_data_state(ours["data"])
    if "batching" in ours and isinstance(runner.train_loop, TrainLoop):
        iteration = runner.iter
        if changed := runner.train_loop.rebatch(ours["batching"]):
            runner.optim_wrapper.shift_counts(runner.iter - iteration)
            runner.logger.warning("%s", changed)
    _restore_schedulers(runner, checkpoint.get("param_schedulers"))
    _restore_hooks(runner, ours.get("hooks", {}))


def stateful_hooks(runner: "Runner") -> Iterator[tuple[str, Any]]:
    """Yields every hook that has state with its name; a second hook of a class is ``Name#2``."""
    seen: dict[str, int] = {}
    for hook in runner.hooks:
        if hasattr(hook, "state_dict") and hasattr(hook, "load_state_dict"):
            name = type(hook).__name__
            seen[name] = seen.get(name, 0) + 1
            yield (name if seen[name] == 1 else f"{name}#{seen[name]}"), hook


def plain(value: Any) -> Any:
    """Returns a copy that safe loading can read: containers, numbers, strings and tensors; of all else the ``repr``."""
    if isinstance(value, Mapping):
        return {plain(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set):
        return [plain(item) for item in value]
    if value is None or isinstance(value, str | int | float | bool | torch.Tensor):
        return value
    return value.tolist() if hasattr(value, "tolist") else repr(value)


def what_changed(saved_text: str, current: Config) -> list[str]:
    """Compares the config of a checkpoint with the current one.

    Returns:
        ``key: old → new (file:line)`` for every value that differs.
    """
    try:
        saved = dict(leaves(Config.fromstring(saved_text, ".py").to_dict()))
    except ConfigError:
        return ["the checkpoint's config cannot be read, so it is not compared"]
    now = dict(leaves(Config.fromstring(current.pretty_text, ".py").to_dict()))
    lines = []
    for key in sorted(saved.keys() | now.keys()):
        old, new = saved.get(key, "(not set)"), now.get(key, "(not set)")
        if old != new and key.partition(".")[0] not in ("resume", "load_from", "work_dir", "launcher"):
            origin = origin_of_path(current, key)
            lines.append(f"{key}: {old!r} → {new!r}" + (f" ({origin})" if origin else ""))
    return lines


def leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    items: Any = (
        value.items() if isinstance(value, Mapping) else enumerate(value) if isinstance(value, list | tuple) else None
    )
    if items is None or not value:
        yield path, value
        return
    for key, item in items:
        yield from leaves(item, f"{path}.{key}" if path else str(key))


def origin_of_path(config: Config, path: str) -> Origin | None:
    here: Any = config
    origin = None
    for key in path.split("."):
        if isinstance(here, list | tuple):
            here = here[int(key)] if int(key) < len(here) else None
            continue
        if not isinstance(here, Mapping) or key not in here:
            break
        origin = origin_of(here, key) or origin
        here = here[key]
    return origin


def _map_schedulers(schedulers: Any, function: Any) -> Any:
    if isinstance(schedulers, Mapping):
        return {name: [function(scheduler) for scheduler in group] for name, group in schedulers.items()}
    return [function(scheduler) for scheduler in schedulers]


def _restore_schedulers(runner: "Runner", saved: Any) -> None:
    wrapper = runner.optim_wrapper
    wrappers = dict(wrapper.items()) if isinstance(wrapper, OptimWrapperDict) else {"": wrapper}
    loop = runner.train_loop
    for name, optim_wrapper in wrappers.items():
        current, states = (
            part.get(name, []) if isinstance(part, Mapping) else part or [] for part in (runner.param_schedulers, saved)
        )
        resume_param_schedulers(
            current, states, optim_wrapper=optim_wrapper, path=f"param_scheduler.{name}" if name else "param_scheduler",
            epochs=runner.epoch if loop.epoch_length else None, iterations=runner.iter, epoch_length=loop.epoch_length,
        )  # fmt: skip


def _restore_hooks(runner: "Runner", saved: Mapping[str, Any]) -> None:
    present: dict[str, Hook] = dict(stateful_hooks(runner))
    for name, hook in present.items():
        if name in saved:
            hook.load_state_dict(saved[name])  # type: ignore[attr-defined]  # stateful_hooks() has looked
    if missing := sorted(present.keys() - saved.keys()):
        runner.logger.warning("the checkpoint has no state of %s: they start afresh", ", ".join(missing))
    if unknown := sorted(saved.keys() - present.keys()):
        runner.logger.warning("the checkpoint has state of %s, which this run does not have", ", ".join(unknown))
