"""Checkpoints that MMEngine can load and resume from."""

from collections.abc import Iterable, Mapping
from typing import Any

import torch

from trainwright.engine.optim.state_layout import positions, regroup

VERSION = "0.10.7"
"""The version of MMEngine in ``meta`` of the files."""
_OURS = "trainwright"
_KEPT = "mmengine_format"
_LAYOUT = ("param_groups", "param_order", "base_param_settings")


def as_mmengine(checkpoint: Mapping[str, Any]) -> dict[str, Any]:
    """Return a checkpoint in a form that MMEngine 0.10 can load and resume from; tensors are not copied.

    Merged parameter groups become one group per parameter, as MMEngine has them with a ``paramwise_cfg``. The config as
    data and the histories of logged values, which MMEngine cannot read, move to where it does not look. It then starts
    with empty histories, which affects the smoothing of the first values that it logs and nothing else.
    :func:`as_ours` restores the original.
    """
    meta, hub = dict(checkpoint["meta"]), checkpoint.get("message_hub")
    kept: dict[str, Any] = {"config": meta.pop("config", None)}
    converted: dict[str, Any] = {**checkpoint, "meta": {**meta, "mmengine_version": VERSION}}
    if hub is not None:
        kept["message_hub"] = {key: hub[key] for key in ("log_scalars", "resumed_keys")}
        resumed_keys = {key: resumed for key, resumed in hub["resumed_keys"].items() if key not in hub["log_scalars"]}
        converted["message_hub"] = {**hub, "log_scalars": {}, "resumed_keys": resumed_keys}
    if (optimizer := checkpoint.get("optimizer")) is not None:
        schedulers = checkpoint.get("param_schedulers") or {}
        states = _by_name(optimizer)
        kept["optimizer"] = {
            name: {key: state[key] for key in _LAYOUT if key in state} for name, state in states.items()
        }
        states = {
            name: _expanded(state, schedulers.get(name, ()) if isinstance(schedulers, Mapping) else schedulers)
            for name, state in states.items()
        }
        converted["optimizer"] = states.get("", states)
    converted[_OURS] = {**checkpoint[_OURS], _KEPT: kept}
    return converted


def as_ours(checkpoint: dict[str, Any]) -> dict[str, Any]:
    """Return the original of a checkpoint that :func:`as_mmengine` has converted, and any other unchanged."""
    ours = checkpoint.get(_OURS)
    if ours is None or _KEPT not in ours:
        return checkpoint
    kept = ours[_KEPT]
    meta = {key: value for key, value in checkpoint["meta"].items() if key != "mmengine_version"}
    restored = {**checkpoint, _OURS: {key: value for key, value in ours.items() if key != _KEPT}}
    restored["meta"] = meta if kept["config"] is None else {**meta, "config": kept["config"]}
    if "message_hub" in kept and "message_hub" in checkpoint:
        restored["message_hub"] = {**checkpoint["message_hub"], **kept["message_hub"]}
    if "optimizer" in kept and "optimizer" in checkpoint:
        states = _by_name(checkpoint["optimizer"])
        states = {name: _merged(state, kept["optimizer"][name]) for name, state in states.items()}
        restored["optimizer"] = states.get("", states)
    return restored


def _by_name(optimizer: Mapping[str, Any]) -> dict[str, Any]:
    """Return the states of optimizers by name; the name of a single one is empty."""
    return {"": optimizer} if "param_groups" in optimizer else dict(optimizer)


def _expanded(state: Mapping[str, Any], schedulers: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Return an optimizer state with the parameter groups that MMEngine has, and what its schedulers need in them."""
    expanded = dict(state)
    if (order := expanded.pop("param_order", None)) is not None:
        count = len(order)
        expanded = regroup(expanded, positions(order, count), [1] * count, positions(None, count))
        if count > 1:
            expanded.setdefault("base_param_settings", {**state["param_groups"][0], "params": torch.zeros(1)})
    bounds: dict[str, float] = {}
    for scheduler in schedulers:
        bounds |= _bounds_of_one_cycle(scheduler)
    if bounds:
        expanded["param_groups"] = [{**group, **bounds} for group in expanded["param_groups"]]
        if "base_param_settings" in expanded:
            expanded["base_param_settings"] = {**expanded["base_param_settings"], **bounds}
    return expanded


def _bounds_of_one_cycle(scheduler: Mapping[str, Any]) -> dict[str, float]:
    """Return the entries of parameter groups that MMEngine's ``OneCycle`` reads; none for other schedulers."""
    settings = scheduler.get("settings", {})
    highest = settings.get("eta_max")
    if not isinstance(highest, int | float) or "final_div_factor" not in settings:
        return {}
    initial = highest / settings["div_factor"]
    return {"initial_lr": initial, "max_lr": highest, "min_lr": initial / settings["final_div_factor"]}


def _merged(state: Mapping[str, Any], layout: Mapping[str, Any]) -> dict[str, Any]:
    """Undo :func:`_expanded`."""
    merged = {key: value for key, value in state.items() if key not in _LAYOUT} | dict(layout)
    if "param_order" in layout:
        states = state["state"]
        merged["state"] = {index: states[place] for index, place in enumerate(layout["param_order"]) if place in states}
    return merged
