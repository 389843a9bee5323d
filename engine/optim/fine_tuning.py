"""Settings of the optimizer that only make sense for pretrained weights."""

from collections.abc import Mapping
from typing import Any

from trainwright.engine.building import origin_of
from trainwright.engine.errors import ConfigError
from trainwright.engine.parts import wrappers_by_name

NEEDS_PRETRAINED = "needs_pretrained"
_WEIGHT_KEYS = ("weights", "weights_backbone", "encoder_weights", "pretrained", "checkpoint")


def missing_weights(cfg: Mapping[str, Any]) -> ConfigError | None:
    """Return the mistake that a config fine-tunes weights that it does not load, or None.

    A config fine-tunes if its ``paramwise_cfg`` has ``needs_pretrained=True``, or lowers the learning rate from layer
    to layer with a ``decay_rate`` below 1: with random weights, the first layers would hardly learn. It loads weights
    if ``load_from`` or ``resume`` is set, or the model has a setting such as ``weights``. A model that loads weights in
    its own way needs ``needs_pretrained=False``.

    Args:
        cfg: a whole config.
    """
    wrapper, model = cfg.get("optim_wrapper"), cfg.get("model")
    if not isinstance(wrapper, Mapping) or not isinstance(model, Mapping):
        return None
    wrappers = {
        "optim_wrapper": wrapper,
        **{f"optim_wrapper.{name}": wrapper[name] for name in wrappers_by_name(wrapper)},
    }
    found = (_missing_weights(cfg, model, one.get("paramwise_cfg"), path) for path, one in wrappers.items())
    return next((mistake for mistake in found if mistake), None)


def _missing_weights(cfg: Mapping[str, Any], model: Mapping[str, Any], settings: Any, path: str) -> ConfigError | None:
    if not isinstance(settings, Mapping):
        return None
    rate = settings.get("decay_rate", settings.get("layer_decay_rate"))
    decays = isinstance(rate, int | float) and rate < 1
    if not settings.get(NEEDS_PRETRAINED, decays) or cfg.get("load_from") or cfg.get("resume") or _loads_weights(model):
        return None
    key = NEEDS_PRETRAINED if NEEDS_PRETRAINED in settings or not decays else "decay_rate"
    reason = f"decay_rate={rate:g} is" if decays else "these learning rates are"
    return ConfigError(
        f"{path}.paramwise_cfg.{key}",
        f"{reason} for fine-tuning, but the config loads no pretrained weights: the first layers would hardly learn",
        "set weights in the model (a name or a file) or load_from; to train from scratch, use another recipe; if the "
        f"model loads weights in its own way, set {NEEDS_PRETRAINED}=False",
        origin_of(settings, key),
    )


def _loads_weights(cfg: Any) -> bool:
    """Return whether a setting of a model, at any depth, names pretrained weights."""
    if isinstance(cfg, Mapping):
        return any((key in _WEIGHT_KEYS and bool(value)) or _loads_weights(value) for key, value in cfg.items())
    return isinstance(cfg, list | tuple) and any(map(_loads_weights, cfg))
