"""Optimizer states of another run: whether they belong to an optimizer, and how they fit its parameter groups."""

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch.optim import Optimizer

from trainwright.engine.errors import CheckpointError
from trainwright.engine.optim.optimizers import IMPLEMENTATION

_NOT_SETTINGS = ("params", "param_names", *IMPLEMENTATION)
_LATER_SETTINGS = ("maximize", "decoupled_weight_decay")  # older versions of PyTorch do not save them
FROM_WEIGHTS = "start a new run from its weights (load_from, without resume)"


def refuse_other_class(
    saved_class: str | None, saved_groups: Sequence[Mapping[str, Any]], optimizer: Optimizer
) -> None:
    """Refuse the state of an optimizer of another class.

    Args:
        saved_class: name of the class; None where the state holds none (of MMEngine, and of our first versions):
            then the settings in its groups must be those of the optimizer.
        saved_groups: parameter groups of the state.
        optimizer: the optimizer that is to load it.

    Raises:
        CheckpointError: the class is another.
    """
    own_class = type(optimizer).__name__
    if saved_class is not None:
        if saved_class != own_class:
            raise CheckpointError(
                f"the optimizer of the checkpoint is {saved_class} and this run's is {own_class}: resume with "
                f"{saved_class}, or {FROM_WEIGHTS}"
            )
        return
    for saved, own in zip(saved_groups, optimizer.param_groups):
        expected = optimizer.defaults.keys() - {*IMPLEMENTATION, *_LATER_SETTINGS}
        known = {name for name in saved if not _of_scheduler(name, saved)} & _settings_of_torch()
        lacking, foreign = sorted(expected - saved.keys()), sorted(known - own.keys())
        kind = "decoupled_weight_decay"
        if kind in saved and saved[kind] != own.get(kind):
            foreign.append(f"{kind}={saved[kind]}")
        if lacking or foreign:
            difference = [f"lacks {', '.join(lacking)}"] * bool(lacking) + [f"has {', '.join(foreign)}"] * bool(foreign)
            raise CheckpointError(
                f"the optimizer of the checkpoint is not {own_class}, as this run's is: it {' and '.join(difference)}. "
                f"Resume with the optimizer of that run, or {FROM_WEIGHTS}"
            )


def fit_layout(
    state: Mapping[str, Any],
    saved_order: Sequence[int] | None,
    optimizer: Optimizer,
    order: Sequence[int] | None,
) -> dict[str, Any]:
    """Returns an optimizer state in the layout of an optimizer: the same groups, the same order of
    parameters.

    MMEngine keeps one group for each parameter where there is a ``paramwise_cfg``; here groups with equal
    settings are one. Which parameter is which says its position in the order of the modules.

    Args:
        state: ``state`` and ``param_groups`` as saved.
        saved_order: position of each saved parameter; None where they were saved in that order.
        optimizer: the optimizer that is to load the state.
        order: position of each of its parameters, or None likewise.

    Raises:
        CheckpointError: the numbers of parameters differ, or parameters of one group now had different
            settings then.
    """
    own_groups = optimizer.param_groups
    saved_groups = state["param_groups"]
    saved_count = sum(len(group["params"]) for group in saved_groups)
    own_count = sum(len(group["params"]) for group in own_groups)
    if saved_count != own_count:
        raise CheckpointError(
            f"the checkpoint's optimizer has {saved_count} parameters and this one {own_count}: "
            "the model, or which of its parameters are trained, is another"
        )
    saved_position = positions(saved_order, saved_count)
    own_position = positions(order, own_count)
    saved_sizes = [len(group["params"]) for group in saved_groups]
    own_sizes = [len(group["params"]) for group in own_groups]
    if saved_sizes != own_sizes or saved_position != own_position:
        state = _regroup(state, saved_position, own_sizes, own_position)
    groups = [fit_settings(saved, own, optimizer.defaults) for saved, own in zip(state["param_groups"], own_groups)]
    return {**state, "param_groups": groups}


def in_own_order(
    saved_order: Sequence[int] | None, saved_names: Sequence[str] | None, own_names: Sequence[str] | None
) -> Sequence[int] | None:
    """Return the position of each saved parameter among the modules of this run, which may stand in another order.

    Args:
        saved_order: position of each saved parameter in the order of the modules then, as for :func:`fit_layout`.
        saved_names: the names of the parameters in that order; None where they are not known.
        own_names: likewise in this run.

    Raises:
        CheckpointError: other parameters are trained.
    """
    if saved_names is None or own_names is None or list(saved_names) == list(own_names):
        return saved_order
    for names, others, whose in ((saved_names, own_names, "checkpoint"), (own_names, saved_names, "run")):
        if only := [name for name in names if name not in set(others)]:
            more = f" and {len(only) - 3} more" if len(only) > 3 else ""
            raise CheckpointError(
                f"the model, or which of its parameters are trained, is another: only the optimizer of the {whose} has "
                f"{', '.join(only[:3])}{more}. Train the same parameters, or {FROM_WEIGHTS}"
            )
    own_position = {name: position for position, name in enumerate(own_names)}
    return [own_position[saved_names[position]] for position in positions(saved_order, len(saved_names))]


def positions(order: Sequence[int] | None, count: int) -> list[int]:
    """Return the position of each parameter in the order of the modules, which ``None`` stands for."""
    return list(range(count)) if order is None else list(order)


def fit_settings(saved: Mapping[str, Any], own: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of a parameter group after loading.

    Args:
        saved: the group as saved. Its settings count; the implementation is that of ``own``, and so is what
            ``saved`` lacks.
        own: the group of the optimizer.
        defaults: the optimizer's own settings.
    """
    kept = dict(saved)
    if "max_lr" in saved and "max_lr" not in defaults:
        # MMEngine's OneCycle, and ours at first, put its bounds into the groups, in the place of the initial rate.
        for name in ("max_lr", "min_lr", "initial_lr"):
            kept.pop(name, None)
        kept["initial_lr"] = own.get("initial_lr", own["lr"])
    lacking = {key: own[key] for key in own.keys() - kept.keys() if key in defaults or not _of_scheduler(key, own)}
    return {**lacking, **kept, **{key: own[key] for key in IMPLEMENTATION if key in own}}


def kept_settings(now: Sequence[Mapping[str, Any]], configured: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return a line for each setting of the config that an optimizer has no more after loading a state.

    What a scheduler changed is compared by its initial value.

    Args:
        now: parameter groups of the optimizer, with the state loaded.
        configured: its parameter groups before.
    """
    lines: dict[str, None] = {}
    for group, own in zip(now, configured):
        for key in own.keys() & group.keys():
            if key in _NOT_SETTINGS or _of_scheduler(key, own):
                continue
            if _unscheduled(group, key) != _unscheduled(own, key):
                lines[f"{key}={_unscheduled(group, key)} is kept, not {_unscheduled(own, key)} of the config"] = None
    return sorted(lines)


def changed_implementation(saved: Mapping[str, Any], own: Mapping[str, Any]) -> str:
    """Return how the implementation of an optimizer differs from that of a saved parameter group, if it does."""
    return ", ".join(
        f"{key}: {saved[key]} -> {own[key]}"
        for key in IMPLEMENTATION
        if key in saved and key in own and bool(saved[key]) != bool(own[key])
    )


def _unscheduled(group: Mapping[str, Any], key: str) -> Any:
    """Return a setting as it was before any scheduler; schedulers of the momentum set ``betas[0]`` too."""
    if key == "betas" and "initial_momentum" in group:
        return (group["initial_momentum"], *group["betas"][1:])
    return group.get(f"initial_{key}", group[key])


def _of_scheduler(key: str, group: Mapping[str, Any]) -> bool:
    """Return whether an entry of a parameter group was put there by a scheduler."""
    return (key.startswith("initial_") and key != "initial_accumulator_value") or (
        key == "momentum" and "betas" in group
    )


def _settings_of_torch() -> set[str]:
    """Return the names of all settings of PyTorch's optimizers, but for those of the implementation."""
    classes = [member for member in vars(torch.optim).values() if inspect.isclass(member)]
    names = {name for member in classes for name in inspect.signature(member).parameters}
    return names - {*_NOT_SETTINGS, *_LATER_SETTINGS}


def _regroup(
    state: Mapping[str, Any], saved_position: list[int], own_sizes: list[int], own_position: list[int]
) -> dict[str, Any]:
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
                changed = sorted(
                    name for name in found.keys() | settings.keys() if found.get(name) != settings.get(name)
                )
                raise CheckpointError(
                    "parameters that share their settings now had different ones in the checkpoint "
                    f"({', '.join(changed)}): resume with the paramwise_cfg of that run, or {FROM_WEIGHTS}"
                )
            settings = found
            if key in state["state"]:
                states[own_index] = state["state"][key]
        groups.append({**(settings or {}), "params": indices})
        index += size
    return {**state, "state": states, "param_groups": groups}
