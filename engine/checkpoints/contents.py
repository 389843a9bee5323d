"""The contents of a checkpoint: collecting the state of a run, and restoring it."""

import time
from collections.abc import Callable, Collection, Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from trainwright.engine.config.dump import plain_data
from trainwright.engine.config.literals import parse_literals
from trainwright.engine.distributed import is_alone
from trainwright.engine.errors import CheckpointError, ConfigFileError
from trainwright.engine.optim.scheduler_resume import resume_param_schedulers
from trainwright.engine.ranks.state import add_ranks
from trainwright.engine.records.log_processor import num_batches
from trainwright.engine.run.environment import package_version
from trainwright.engine.run.hook import has_state
from trainwright.engine.run.model_setup import unwrap
from trainwright.engine.run.train_loops import TrainLoop
from trainwright.engine.strategy.shards import gather_whole

if TYPE_CHECKING:
    from trainwright.engine.run.runner import Runner

FORMAT = 1
_OURS = "trainwright"
_NOT_STATE = ("format", "batching", "data")  # version 0.1 had the last two; they are part of "position" now


class Part(NamedTuple):
    """A part of a run that has state.

    Args:
        place: nested keys of its state in a checkpoint: one key if MMEngine saves it too, otherwise several.
        save: returns its state, or None if it has none at present.
        load: loads a state; called with None if the checkpoint has none.
    """

    place: tuple[str, ...]
    save: Callable[[], Any]
    load: Callable[[Any], None]


def parts(runner: "Runner") -> list[Part]:
    """Return the parts of a run besides its model, in loading order: a part may depend on earlier ones."""
    loop = runner.train_loop
    found = [
        Part((_OURS, "counters"), runner.state.state_dict, lambda state: None),  # loaded by load_counters()
        Part((_OURS, "host_streams"), runner.seed_step.python_rng_state, lambda state: _load_python_rng(runner, state)),
        Part((_OURS, "unsaved"), runner.unsaved_weights.state_dict, partial(_load_if_saved, runner.unsaved_weights)),
        Part((_OURS, "modules"), runner.module_values.state_dict, partial(_load_if_saved, runner.module_values)),
        Part(("message_hub",), runner.message_hub.state_dict, partial(_load_if_saved, runner.message_hub)),
    ]
    if (wrapper := runner.optim_wrapper) is not None:
        found.append(Part(("optimizer",), wrapper.state_dict, lambda state: _load_optimizer(runner, state)))
    if isinstance(loop, TrainLoop):
        found += [Part((_OURS, "position"), loop.cursor.state_dict, lambda state: _load_position(runner, loop, state))]
    if wrapper is not None:
        place = ("param_schedulers",)
        found.append(Part(place, lambda: _scheduler_states(runner), lambda state: _load_schedulers(runner, state)))
    stateful: list[Any] = [hook for hook in runner.hooks if has_state(type(hook))]
    found += [Part((_OURS, "hooks", hook.name), hook.state_dict, partial(_load_if_saved, hook)) for hook in stateful]
    return found


def collect_state(
    runner: "Runner",
    *,
    optimizer: bool = True,
    schedulers: bool = True,
    meta: Mapping[str, Any] | None = None,
    gather: bool = True,
) -> dict[str, Any]:
    """Return the state of a run under MMEngine's keys, and under ``trainwright`` for state that MMEngine does not save.

    All ranks collect it together, and only that of rank 0 is complete. A rank that has lost the others collects what it
    knows, which ``alone`` in ``meta`` records. Without ``gather``, the state that each rank has of its own stays there.
    The other arguments are those of :meth:`CheckpointWriter.write`.
    """
    counters = runner.state.state_dict()
    runner.strategy.exchange_gradients(unwrap(runner.model))
    checkpoint: dict[str, Any] = {
        "meta": {
            "epoch": counters["epoch"],
            "iter": counters["iter"],
            "cfg": runner.cfg.pretty_text,
            "config": plain_data(runner.cfg.to_dict()),
            "seed": runner.seed,
            "experiment_name": runner.experiment_name,
            "time": time.strftime("%Y%m%d_%H%M%S"),
            "trainwright_version": package_version("trainwright"),
            "torch_version": torch.__version__.split("+")[0],
            **({"dataset_meta": safe_to_load(runner.dataset_meta)} if runner.dataset_meta else {}),
            **({"alone": {"rank": runner.rank, "world_size": runner.world_size}} if is_alone() else {}),
            **(meta or {}),
        },
        "state_dict": runner.unsaved_weights.without(unwrap(runner.model).state_dict()),
        _OURS: {"format": FORMAT, "hooks": {}},
    }
    left_out = {place for place, wanted in (("optimizer", optimizer), ("param_schedulers", schedulers)) if not wanted}
    for part in parts(runner):
        if part.place[0] in left_out or (state := part.save()) is None:
            continue
        owner = checkpoint
        for key in part.place[:-1]:
            owner = owner[key]
        owner[part.place[-1]] = state
    runner.call_hook("before_save_checkpoint", checkpoint=checkpoint)
    if "ema_state_dict" in checkpoint:
        average = checkpoint["ema_state_dict"]
        checkpoint["ema_state_dict"] = runner.unsaved_weights.without(average, prefix="module.")
    if runner.strategy.is_sharded and gather:
        checkpoint = gather_whole(checkpoint)
    add_ranks(runner, checkpoint, gather)
    return checkpoint


def restore_state(runner: "Runner", checkpoint: Mapping[str, Any], left_out: Collection[str] = ()) -> None:
    """Restore the state of a run, with all its parts built, from a checkpoint of Trainwright or MMEngine.

    Args:
        runner: the run.
        checkpoint: the contents of the file.
        left_out: keys of parts that are not restored: ``optimizer``, ``param_schedulers``.

    Raises:
        CheckpointError: the state of a part is missing or does not match, or a newer version wrote the checkpoint.
    """
    meta = checkpoint.get("meta", {})
    ours = checkpoint.get(_OURS)
    if ours is not None and ours.get("format", FORMAT) > FORMAT:
        raise CheckpointError(
            f"this checkpoint was written by trainwright {meta.get('trainwright_version')}: please upgrade"
        )
    load_counters(runner, checkpoint)
    present = {part.place: part for part in parts(runner) if part.place[0] not in left_out}
    saved = {place: state for place, state in _states(checkpoint) if place[0] not in left_out}
    for place, part in present.items():
        part.load(saved.get(place))
    if ours is None:  # MMEngine saves less
        return
    missing = [place[-1] for place, part in present.items() if place not in saved and part.save() is not None]
    unknown = [place[-1] for place in saved if place not in present]
    if missing:
        runner.logger.warning("the checkpoint has no state for %s: starting fresh", ", ".join(sorted(missing)))
    if unknown:
        runner.logger.warning("ignored state of parts that this run does not have: %s", ", ".join(sorted(unknown)))


def _states(checkpoint: Mapping[str, Any]) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Yield the place and state of each part in a checkpoint."""
    for key in ("message_hub", "optimizer", "param_schedulers"):
        if key in checkpoint:
            yield (key,), checkpoint[key]
    ours = checkpoint.get(_OURS, {})
    if "batching" in ours:
        ours = {"position": _position_of_0_1(ours), **ours}
    for key, state in ours.items():
        if key == "hooks":
            yield from (((_OURS, key, name), of_hook) for name, of_hook in state.items())
        elif key not in _NOT_STATE:
            yield (_OURS, key), state


def safe_to_load(value: Any) -> Any:
    """Return a copy of containers, numbers, strings, tensors, and the ``repr`` of anything else, for safe loading."""
    if isinstance(value, Mapping):
        return {safe_to_load(key): safe_to_load(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set):
        items = [safe_to_load(item) for item in value]
        return tuple(items) if isinstance(value, tuple) else items
    if value is None or type(value) in (str, int, float, bool) or isinstance(value, torch.Tensor):
        return value
    if hasattr(value, "tolist"):  # of numpy; some of its numbers are also floats, and an array can contain anything
        return safe_to_load(value.tolist())
    return (
        str.__str__(value) if isinstance(value, str) else value.real if isinstance(value, int | float) else repr(value)
    )


def saved_config(checkpoint: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the config in a checkpoint, or None if it has none. No code in it is executed.

    In checkpoints from older versions and MMEngine, the config is text, from which literals are parsed.

    Raises:
        CheckpointError: the text contains anything but literals.
    """
    meta = checkpoint.get("meta") or {}
    if isinstance(data := meta.get("config"), Mapping):
        return dict(data)
    text = meta.get("cfg") or ((checkpoint.get("message_hub") or {}).get("runtime_info") or {}).get("cfg")
    if not isinstance(text, str) or not text:
        return None
    try:
        return parse_literals(text)
    except ConfigFileError as error:
        raise CheckpointError(f"the checkpoint's config is code, which is not executed: {error.message}") from error


def load_counters(runner: "Runner", checkpoint: Mapping[str, Any]) -> None:
    """Load the progress of a run: its epoch and iteration counters."""
    epoch, iteration = (checkpoint.get("meta", {}).get(key, 0) for key in ("epoch", "iter"))
    from_meta = {"epoch": epoch, "iter": iteration, "inner_iter": 0, "validated_at": iteration}
    runner.state.load_state_dict(checkpoint.get(_OURS, {}).get("counters") or from_meta)


def _position_of_0_1(ours: Mapping[str, Any]) -> dict[str, Any]:
    """Convert the position in the data from a checkpoint of version 0.1."""
    counters, batching = ours["counters"], ours["batching"]
    if batching["by_epoch"]:
        data_pass, batch = counters["epoch"], counters["inner_iter"]
    else:
        batch = counters["iter"] + counters["data_shift"]
        data_pass, batch = divmod(batch, batching["batches"]) if batching["batches"] else (0, batch)
    loader = {"loader": ours["data"]} if "data" in ours else {}
    return {"pass": data_pass, "taken": batch * (batching["samples"] or 1), **batching, **loader}


def _load_python_rng(runner: "Runner", state: Any) -> None:
    runner.seed_step.resume_from = state


def _load_if_saved(part: Any, state: Any) -> None:
    if state is not None:
        part.load_state_dict(state)


def _load_optimizer(runner: "Runner", state: Any) -> None:
    if state is None:
        raise CheckpointError(
            "the checkpoint has no optimizer state (save_optimizer=False, or a published file): "
            "to start from its weights, set `load_from` and not `resume`"
        )
    try:
        runner.optim_wrapper.load_state_dict(state)
    except (ValueError, KeyError) as error:
        raise CheckpointError(f"the optimizer state in the checkpoint does not match the config: {error}") from error


def _load_position(runner: "Runner", loop: TrainLoop, state: Any) -> None:
    iteration = runner.iter
    if state is not None and (changed := loop.load_position(state)):
        if runner.optim_wrapper is not None:
            runner.optim_wrapper.shift_counts(runner.iter - iteration)
        runner.logger.warning("%s", changed)


def _scheduler_states(runner: "Runner") -> Any:
    schedulers = runner.param_schedulers
    if isinstance(schedulers, Mapping):
        return {name: [scheduler.state_dict() for scheduler in group] for name, group in schedulers.items()}
    return [scheduler.state_dict() for scheduler in schedulers] or None


def _load_schedulers(runner: "Runner", saved: Any) -> None:
    epoch_length = num_batches(runner.train_dataloader)
    for name, optim_wrapper in runner.optim_wrapper.optim_wrappers.items():
        current, states = (
            part.get(name, []) if isinstance(part, Mapping) else part or [] for part in (runner.param_schedulers, saved)
        )
        resume_param_schedulers(
            current, states, optim_wrapper=optim_wrapper, path=f"param_scheduler.{name}" if name else "param_scheduler",
            epochs=runner.epoch if epoch_length else None, iterations=runner.iter, epoch_length=epoch_length,
        )  # fmt: skip
