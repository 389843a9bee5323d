"""Fitting saved optimizer states to the parameter groups of an optimizer."""

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from trainwright.engine.errors import CheckpointError
from trainwright.engine.optim.optimizers import IMPLEMENTATION
from trainwright.engine.strategy.shards import is_sharded, shard_like

_NOT_SETTINGS = ("params", "param_names", *IMPLEMENTATION)
_LATER_SETTINGS = ("maximize", "decoupled_weight_decay")  # not saved by older versions of PyTorch
FROM_WEIGHTS = "start a new run from its weights (load_from, without resume)"


def refuse_other_class(
    saved_class: str | None, saved_groups: Sequence[Mapping[str, Any]], optimizer: Optimizer
) -> None:
    """Raise a ``CheckpointError`` if a state was saved by an optimizer of another class.

    If the class is unknown (MMEngine, and first versions of Trainwright), the settings in the groups are compared.
    """
    own_class = type(optimizer).__name__
    if saved_class is not None:
        if saved_class != own_class:
            raise CheckpointError(
                f"the checkpoint was saved with {saved_class}, but the optimizer is {own_class}: resume with "
                f"{saved_class}, or {FROM_WEIGHTS}"
            )
        return
    for saved, own in zip(saved_groups, optimizer.param_groups):
        expected = optimizer.defaults.keys() - {*IMPLEMENTATION, *_LATER_SETTINGS}
        known = {name for name in saved if not _of_scheduler(name, saved)} & _settings_of_torch()
        missing, unexpected = sorted(expected - saved.keys()), sorted(known - own.keys())
        kind = "decoupled_weight_decay"
        if kind in saved and saved[kind] != own.get(kind):
            unexpected.append(f"{kind}={saved[kind]}")
        if missing or unexpected:
            named = (("lacks", missing), ("has", unexpected))
            difference = [f"{verb} {', '.join(names)}" for verb, names in named if names]
            raise CheckpointError(
                f"the checkpoint was not saved with {own_class}: its optimizer {' and '.join(difference)}. "
                f"Resume with the original optimizer, or {FROM_WEIGHTS}"
            )


def fit_layout(
    state: Mapping[str, Any], saved_order: Sequence[int] | None, optimizer: Optimizer, order: Sequence[int] | None
) -> dict[str, Any]:
    """Regroup an optimizer state like an optimizer, matching parameters by their position in module order.

    With a ``paramwise_cfg``, MMEngine keeps one group per parameter; here groups with equal settings are merged.

    Args:
        state: ``state`` and ``param_groups`` as saved.
        saved_order: position of each saved parameter in module order; None if saved in that order.
        optimizer: the optimizer that will load the state.
        order: the same for the parameters of the optimizer.

    Raises:
        CheckpointError: the numbers of parameters differ, or the settings in the state differ within a group.
    """
    own_groups = optimizer.param_groups
    saved_groups = state["param_groups"]
    saved_sizes = [len(group["params"]) for group in saved_groups]
    own_sizes = [len(group["params"]) for group in own_groups]
    saved_count, own_count = sum(saved_sizes), sum(own_sizes)
    if saved_count != own_count:
        raise CheckpointError(
            f"the checkpoint's optimizer has {saved_count} parameters but this one has {own_count}: "
            "the model or its trainable parameters have changed"
        )
    saved_position = positions(saved_order, saved_count)
    own_position = positions(order, own_count)
    if saved_sizes != own_sizes or saved_position != own_position:
        state = regroup(state, saved_position, own_sizes, own_position)
    groups = [fit_settings(saved, own, optimizer.defaults) for saved, own in zip(state["param_groups"], own_groups)]
    return {**state, "param_groups": groups}


def fit_storage(optimizer: Optimizer) -> None:
    """Distribute the tensors of a loaded state like their parameters, and give them the same memory format.

    Fused steps go through the memory of parameters, gradients and states in parallel.
    """
    for param, state in optimizer.state.items():
        for name, value in state.items():
            if not isinstance(value, Tensor):
                continue
            if is_sharded(param):
                state[name] = shard_like(value, param) if value.ndim else value
            elif value.shape == param.shape and value.stride() != param.stride():
                state[name] = torch.empty_like(param, dtype=value.dtype).copy_(value)


def in_own_order(
    saved_order: Sequence[int] | None, saved_names: Sequence[str] | None, own_names: Sequence[str] | None
) -> Sequence[int] | None:
    """Convert positions of saved parameters from the saved module order to that of the current model.

    Names are in module order; None if unknown.

    Raises:
        CheckpointError: the trained parameters differ.
    """
    if saved_names is None or own_names is None or list(saved_names) == list(own_names):
        return saved_order
    for names, others, whose in ((saved_names, own_names, "checkpoint"), (own_names, saved_names, "run")):
        if only := [name for name in names if name not in set(others)]:
            more = f" and {len(only) - 3} more" if len(only) > 3 else ""
            raise CheckpointError(
                f"the model or its trainable parameters have changed: only the optimizer of the {whose} has "
                f"{', '.join(only[:3])}{more}. Train the same parameters, or {FROM_WEIGHTS}"
            )
    own_position = {name: position for position, name in enumerate(own_names)}
    return [own_position[saved_names[position]] for position in positions(saved_order, len(saved_names))]


def positions(order: Sequence[int] | None, count: int) -> list[int]:
    """Return ``order``, or ``0, 1, …`` if it is None."""
    return list(range(count)) if order is None else list(order)


def fit_settings(saved: Mapping[str, Any], own: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of a parameter group after loading.

    Settings of ``saved`` take precedence over those of the optimizer (``own`` and its ``defaults``), except for the
    implementation.
    """
    kept = dict(saved)
    if "max_lr" in saved and "max_lr" not in defaults:
        # OneCycle of MMEngine and of first versions: bounds in the groups instead of the initial rate
        for name in ("max_lr", "min_lr", "initial_lr"):
            kept.pop(name, None)
        kept["initial_lr"] = own.get("initial_lr", own["lr"])
    missing = {key: own[key] for key in own.keys() - kept.keys() if key in defaults or not _of_scheduler(key, own)}
    return {**missing, **kept, **{key: own[key] for key in IMPLEMENTATION if key in own}}


def kept_settings(now: Sequence[Mapping[str, Any]], configured: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return a message for each configured setting that a loaded state has overridden.

    Scheduled settings are compared by their initial value.
    """
    lines: dict[str, None] = {}
    for group, own in zip(now, configured):
        for key in own.keys() & group.keys():
            if key in _NOT_SETTINGS or _of_scheduler(key, own):
                continue
            if _unscheduled(group, key) != _unscheduled(own, key):
                loaded, wanted = _unscheduled(group, key), _unscheduled(own, key)
                lines[f"{key}={loaded} from the checkpoint overrides {wanted} from the config"] = None
    return sorted(lines)


def changed_implementation(saved: Mapping[str, Any], own: Mapping[str, Any]) -> str:
    """Describe the differences in implementation from a saved parameter group; empty if there are none."""
    return ", ".join(
        f"{key}: {saved[key]} -> {own[key]}"
        for key in IMPLEMENTATION
        if key in saved and key in own and bool(saved[key]) != bool(own[key])
    )


def _unscheduled(group: Mapping[str, Any], key: str) -> Any:
    """Return the initial value of a setting; momentum schedulers also set ``betas[0]``."""
    if key == "betas" and "initial_momentum" in group:
        return (group["initial_momentum"], *group["betas"][1:])
    return group.get(f"initial_{key}", group[key])


def _of_scheduler(key: str, group: Mapping[str, Any]) -> bool:
    """Return whether an entry of a parameter group was added by a scheduler."""
    return (key.startswith("initial_") and key != "initial_accumulator_value") or (
        key == "momentum" and "betas" in group
    )


def _settings_of_torch() -> set[str]:
    """Return the names of all settings of PyTorch's optimizers, except for the implementation."""
    classes = [member for member in vars(torch.optim).values() if inspect.isclass(member)]
    names = {name for member in classes for name in inspect.signature(member).parameters}
    return names - {*_NOT_SETTINGS, *_LATER_SETTINGS}


def regroup(
    state: Mapping[str, Any], saved_position: list[int], own_sizes: list[int], own_position: list[int]
) -> dict[str, Any]:
    """Return an optimizer state with groups of other sizes, matching parameters by position.

    Raises:
        CheckpointError: the settings in the state differ within a new group.
    """
    flat = [(key, group) for group in state["param_groups"] for key in group["params"]]
    by_position = dict(zip(saved_position, flat))
    groups: list[dict[str, Any]] = []
    states: dict[int, Any] = {}
    index = 0
    for size in own_sizes:
        settings: dict[str, Any] | None = None
        indices = list(range(index, index + size))
        for own_index in indices:
            key, saved_group = by_position[own_position[own_index]]
            found = {name: value for name, value in saved_group.items() if name not in ("params", "param_names")}
            if settings is not None and found != settings:
                names = sorted(name for name in found.keys() | settings if found.get(name) != settings.get(name))
                raise CheckpointError(
                    f"parameters of one group have different settings in the checkpoint ({', '.join(names)}): "
                    f"resume with the original paramwise_cfg, or {FROM_WEIGHTS}"
                )
            settings = found
            if key in state["state"]:
                states[own_index] = state["state"][key]
        groups.append({**(settings or {}), "params": indices})
        index += size
    return {**state, "state": states, "param_groups": groups}
