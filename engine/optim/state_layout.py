"""Optimizer states whose parameters are grouped differently from the optimizer's own."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch.optim import Optimizer

from trainwright.engine.errors import CheckpointError

_IMPLEMENTATION = ("fused", "foreach", "capturable", "differentiable")


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
    saved_position = list(saved_order) if saved_order is not None else list(range(saved_count))
    own_position = list(order) if order is not None else list(range(own_count))
    saved_sizes = [len(group["params"]) for group in saved_groups]
    own_sizes = [len(group["params"]) for group in own_groups]
    if saved_sizes != own_sizes or saved_position != own_position:
        state = _regroup(state, saved_position, own_sizes, own_position)
    groups = [
        {**saved, **{key: own[key] for key in _IMPLEMENTATION if key in own}}
        for saved, own in zip(state["param_groups"], own_groups)
    ]
    return {**state, "param_groups": groups}


def kept_settings(saved_groups: Sequence[Mapping[str, Any]], own_groups: Sequence[Mapping[str, Any]]) -> list[str]:
    """Returns a line for each setting in which a state differs from the optimizer that is to load it.

    What a scheduler changed is compared by its initial value.

    Args:
        saved_groups: parameter groups of the state, in the layout of the optimizer.
        own_groups: parameter groups of the optimizer.
    """
    lines: dict[str, None] = {}
    for saved, own in zip(saved_groups, own_groups):
        for key in own.keys() & saved.keys():
            set_by_scheduler = key.startswith(("initial_", "max_", "min_")) or f"max_{key}" in own
            if set_by_scheduler or (key == "betas" and "initial_momentum" in saved):
                continue
            if key in ("params", "param_names", *_IMPLEMENTATION):
                continue
            initial = f"initial_{key}"
            then, now = saved.get(initial, saved[key]), own.get(initial, own[key])
            if then != now:
                lines[f"{key}={then} is kept, not {now} of the config"] = None
    return sorted(lines)


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
                    f"({', '.join(changed)}): resume with the paramwise_cfg of that run, or start a new one "
                    "from its weights (load_from)"
                )
            settings = found
            if key in state["state"]:
                states[own_index] = state["state"][key]
        groups.append({**(settings or {}), "params": indices})
        index += size
    return {**state, "state": states, "param_groups": groups}
