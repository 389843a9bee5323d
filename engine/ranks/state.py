"""The state that each rank has of its own, in checkpoints: gathered when one is written, and given back on resuming."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist

from trainwright.engine.distributed import get_dist_info, has_peers
from trainwright.engine.ranks.buffers import float_buffers, mean_over_ranks
from trainwright.engine.ranks.start import control_group
from trainwright.engine.records.log_processor import is_shared
from trainwright.engine.run.model_setup import unwrap
from trainwright.engine.trees import map_tensors

if TYPE_CHECKING:
    from trainwright.engine.run.runner import Runner

_OURS = "trainwright"
_NEWEST = 100  # values of each scalar, more than most windows of log lines
_PER_RANK = ("host_streams", "modules")
_PREFIXES = {"state_dict": "", "ema_state_dict": "module."}


def add_ranks(runner: "Runner", checkpoint: dict[str, Any], gather: bool) -> None:
    """Complete a checkpoint that every rank has collected for itself; a no-op in a single or the last process.

    Buffers become their means over all ranks, so that the saved model is the validated one. On rank 0, ``ranks`` under
    ``trainwright`` receives what the means and the state of rank 0 do not tell: the buffers of each rank, and of the
    other ranks their host random streams, numbers in modules, accumulated gradients, data loader, the buffers in
    snapshots of hooks, and the newest values and the totals of logged losses. Without ``gather``, every rank receives
    its own part alone.
    """
    if not has_peers():
        return
    own: dict[str, Any] = {"buffers": _average_buffers(runner, checkpoint)}
    if runner.rank > 0:  # those of rank 0 are in their usual places
        position = checkpoint[_OURS].get("position", {})
        own.update({key: checkpoint[_OURS].get(key) for key in _PER_RANK})
        if not runner.strategy.is_sharded:  # otherwise all ranks have a part of the same
            own["gradients"] = {name: state["grads"] for name, state in _accumulations(checkpoint) if "grads" in state}
        own.update({"loader": position["loader"]} if "loader" in position else {})
        several = position.get("loaders", {}).items()
        own["loaders"] = {name: state["loader"] for name, state in several if "loader" in state}
        own["snapshots"] = _buffers_of_snapshots(runner, checkpoint)
        own["histories"] = _newest_values(checkpoint)
    own = map_tensors(own, lambda tensor: tensor.detach().cpu())
    states: Any = _gather_in_turn(own) if gather else {runner.rank: own}
    if states:
        checkpoint[_OURS]["ranks"] = {"world_size": runner.world_size, "states": states}


def take_own(runner: "Runner", checkpoint: dict[str, Any]) -> None:
    """Turn a checkpoint to resume from into that of this rank, before any of it is loaded, and log what is missing.

    With another number of processes, accumulated gradients are their means over the saved ranks, buffers remain the
    means, and ranks other than 0 derive their host random streams from the seed.
    """
    ours = checkpoint.get(_OURS)
    if ours is None:
        return
    ranks = ours.pop("ranks", None)
    alone = (checkpoint.get("meta") or {}).get("alone")
    if ranks is not None and (ranks["world_size"] != runner.world_size or runner.strategy.is_sharded):
        _average_gradients(checkpoint, ranks)
    if ranks is not None and ranks["world_size"] == runner.world_size:
        _overlay(checkpoint, ranks["states"][runner.rank], own_gradients=not runner.strategy.is_sharded)
    own_streams = 0 if alone is None else alone["rank"]
    restored = ranks is not None and ranks["world_size"] == runner.world_size
    if not restored and runner.rank != own_streams and "host_streams" in ours:
        ours["host_streams"] = None
    _log_missing(runner, checkpoint, ranks, alone)


def _average_buffers(runner: "Runner", checkpoint: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Replace the buffers in a checkpoint by their means, and return this rank's own where they differ, by place."""
    names, own = list(float_buffers(unwrap(runner.model))), {}
    for key, prefix in _PREFIXES.items():
        weights = checkpoint.get(key, {})
        buffers = {prefix + name: weights[prefix + name] for name in names if prefix + name in weights}
        means = mean_over_ranks(buffers)
        if means:
            own[key] = {name: buffers[name] for name in means}
            checkpoint[key] = {**weights, **means}
    return own


def _buffers_of_snapshots(runner: "Runner", checkpoint: Mapping[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """Return the buffers of each module in the snapshots of hooks such as ``NanGuardHook``, by name of the hook."""
    modules = [unwrap(runner.model), *(module for hook in runner.hooks for module in hook.extra_modules())]
    names = [list(float_buffers(module)) for module in modules]
    return {
        hook: [{name: weights[name] for name in own} for own, weights in zip(names, state["snapshot"]["modules"])]
        for hook, state in checkpoint[_OURS]["hooks"].items()
        if isinstance(state, Mapping) and "snapshot" in state
    }


def _newest_values(checkpoint: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the histories that log lines average over the ranks, with few values, since there are many ranks."""
    return {
        key: {**state, "values": state["values"][-_NEWEST:].clone(), "counts": state["counts"][-_NEWEST:].clone()}
        for key, state in _histories(checkpoint).items()
        if key.startswith("train/") and is_shared(key)
    }


def _histories(checkpoint: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = checkpoint.get("message_hub", {}).get("log_scalars", {})  # a hook may remove it
    return found


def _overlay(checkpoint: dict[str, Any], own: Mapping[str, Any], own_gradients: bool) -> None:
    """Replace the state of rank 0 in a checkpoint by that of another rank, and the means of buffers by its own."""
    ours = checkpoint[_OURS]
    for key, buffers in own["buffers"].items():
        checkpoint[key] = {**checkpoint[key], **buffers}
    ours.update({key: own[key] for key in _PER_RANK if key in own})
    for name, accumulation in _accumulations(checkpoint):
        if own_gradients and name in own.get("gradients", {}):
            accumulation["grads"] = own["gradients"][name]
    if "loader" in own:
        ours["position"]["loader"] = own["loader"]
    for name, state in own.get("loaders", {}).items():
        ours["position"]["loaders"][name]["loader"] = state
    for hook, buffers in own.get("snapshots", {}).items():
        snapshot = ours["hooks"][hook]["snapshot"]
        snapshot["modules"] = [{**weights, **part} for weights, part in zip(snapshot["modules"], buffers)]
    histories = _histories(checkpoint)
    for key, state in own.get("histories", {}).items():
        of_rank_0 = histories.get(key, state)
        older = {name: of_rank_0[name][:-_NEWEST] for name in ("values", "counts")}
        histories[key] = {**state, **{name: torch.cat([part, state[name]]) for name, part in older.items()}}


def _average_gradients(checkpoint: Mapping[str, Any], ranks: Mapping[str, Any]) -> None:
    others = [state["gradients"] for state in ranks["states"] if "gradients" in state]
    for name, accumulation in _accumulations(checkpoint):
        if not others or "grads" not in accumulation:  # they were exchanged before they were saved
            continue
        sums = dict(accumulation["grads"])
        for gradients in others:
            for index, grad in gradients.get(name, {}).items():
                sums[index] = sums[index] + grad if index in sums else grad
        accumulation["grads"] = {index: total / ranks["world_size"] for index, total in sums.items()}


def _accumulations(checkpoint: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the name of each optimizer wrapper, empty for a single one, and the state of its accumulation window."""
    optimizer = checkpoint.get("optimizer") or {}
    states = {"": optimizer} if "param_groups" in optimizer else optimizer
    for name, state in states.items():
        if isinstance(state, Mapping) and "accumulation" in state:
            yield name, state["accumulation"]


def _gather_in_turn(own: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the states of all ranks on rank 0, received one after the other; an empty list elsewhere."""
    rank, world_size = get_dist_info()
    if rank > 0:
        dist.send_object_list([own], dst=0, group=control_group())
        return []
    states = [own]
    for source in range(1, world_size):
        received: list[Any] = [None]
        dist.recv_object_list(received, src=source, group=control_group())
        states.append(received[0])
    return states


def _log_missing(
    runner: "Runner", checkpoint: Mapping[str, Any], ranks: Mapping[str, Any] | None, alone: Mapping[str, Any] | None
) -> None:
    gathered = any("grads" in accumulation for _, accumulation in _accumulations(checkpoint))
    if alone is not None:
        own = [
            *(["buffers, such as batch-norm statistics"] if float_buffers(unwrap(runner.model)) else []),
            *(["gradients of the accumulation window in progress"] if gathered else []),
        ]
        lacking = f", and continue with its {' and its '.join(own)}" if own else ""
        runner.logger.warning(
            "Rank %d of %d saved this checkpoint alone, after another process had failed. The other ranks derive their "
            "random and numpy.random streams from the seed%s.",
            alone["rank"], alone["world_size"], lacking,
        )  # fmt: skip
    elif ranks is not None and ranks["world_size"] != runner.world_size:
        averaged = [
            *(["the buffers that differ between ranks"] if any(state["buffers"] for state in ranks["states"]) else []),
            *(["the gradients of the accumulation window in progress"] if gathered else []),
        ]
        means = f" Continuing with the means over the saved ranks of {' and '.join(averaged)}." if averaged else ""
        runner.logger.warning(
            "The checkpoint is from %d processes, and this run has %d.%s Ranks other than 0 derive their random and "
            "numpy.random streams from the seed.",
            ranks["world_size"], runner.world_size, means,
        )  # fmt: skip
