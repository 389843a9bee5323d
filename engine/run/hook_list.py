"""The hooks of a run: from its config to the calls at each hook point."""

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MethodType
from typing import Any

from trainwright.engine.building import origin_of
from trainwright.engine.errors import ConfigError, Origin, did_you_mean
from trainwright.engine.parts import DEFAULT_HOOKS, HOOK
from trainwright.engine.registry import HOOKS
from trainwright.engine.run.hook import Hook, Priority, get_priority, has_state
from trainwright.engine.signatures import signature_of


def unknown_default_hooks(default_hooks: Mapping[str, Any]) -> dict[str, ConfigError]:
    """Return errors by name, for entries of ``default_hooks`` without ``type`` that are not names of default hooks."""
    return {
        name: ConfigError(
            f"default_hooks.{name}",
            "unknown default hook",
            did_you_mean(name, DEFAULT_HOOKS) or f"the default hooks are {', '.join(DEFAULT_HOOKS)}",
            origin_of(default_hooks, name),
        )
        for name, hook in default_hooks.items()
        if isinstance(hook, Mapping) and "type" not in hook and name not in DEFAULT_HOOKS
    }


def configured_hooks(
    default_hooks: Mapping[str, Any], custom_hooks: Sequence[Any]
) -> Iterator[tuple[str, "Hook | Mapping[str, Any]"]]:
    """Yield the hooks of a run, or their configs, each with its path in the config.

    Args:
        default_hooks: changes to :data:`DEFAULT_HOOKS` by name: a hook, a config (``type`` is optional), or None.
        custom_hooks: additional hooks.

    Raises:
        ConfigError: an entry without ``type`` is not the name of a default hook.
    """
    for error in unknown_default_hooks(default_hooks).values():
        raise error
    for name, hook in {**DEFAULT_HOOKS, **default_hooks}.items():
        if isinstance(hook, Mapping) and "type" not in hook:
            given: Any = hook
            hook = copy.copy(given)  # a copy keeps the origins, unlike a new dict
            for key, value in DEFAULT_HOOKS[name].items():
                hook.setdefault(key, value)
        if hook is not None:
            yield f"default_hooks.{name}", hook
    for index, hook in enumerate(custom_hooks):
        yield f"custom_hooks.{index}", hook


def same_name(name: str, path: str, other: str, origin: Origin | None = None) -> ConfigError:
    """Return the error for a second stateful hook with the same name, of the first one at the path ``other``."""
    message = f"a second hook named {name!r}{f' (the first is {other})' if other else ''}, and both have state"
    hint = "set name='...' in its config, or the attribute of the object: checkpoints store hook states by name"
    return ConfigError(path, message, hint, origin)


def build_hook(cfg: Mapping[str, Any], path: str) -> Any:
    """Build a hook from its config.

    Args:
        cfg: its config. ``name`` is passed to a constructor with an argument of that name, or else set afterwards, as
            is ``priority``.
        path: dotted path of ``cfg``, for messages.
    """
    name, priority, type_ = HOOK.read(cfg, "name"), HOOK.read(cfg, "priority"), cfg.get("type")
    component = HOOKS.get(type_) if isinstance(type_, str) else type_
    signature = signature_of(component) if callable(component) else None
    takes_name = name is not None and signature is not None and "name" in signature.parameters
    hook = HOOK.build(cfg, path=path, **({"name": name} if takes_name else {}))
    if isinstance(hook, Hook):
        if name is not None and not takes_name:
            hook.name = str(name)
        if priority is not None:
            hook.priority = priority
    return hook


def excluded(path: str, hook: type[Hook], other: type[Hook]) -> ConfigError:
    """Return the error for a second hook, at ``path``, that cannot be combined with another one."""
    message = f"{hook.__name__} cannot be combined with {other.__name__}: only one hook per run {hook.exclusive}"
    return ConfigError(path or "custom_hooks", message, "remove one of them")


class _Points(dict[str, list[Callable[..., None]]]):
    def __missing__(self, stage: str) -> list[Callable[..., None]]:
        known = did_you_mean(stage, Hook.stages) or ", ".join(Hook.stages)
        raise ValueError(f"unknown hook point {stage!r}: {known} (declare others with Hook.register_points)")


class HookList:
    """The hooks of a run in order of priority; ``calls`` has the methods to call at each hook point, in order."""

    def __init__(self) -> None:
        self.hooks: list[Hook] = []
        self._paths: dict[str, str] = {}
        self._stages: list[set[str]] = []
        self.calls: dict[str, list[Callable[..., None]]] = _Points((stage, []) for stage in Hook.stages)

    def add(self, hook: Hook, path: str = "") -> None:
        """Insert a hook after those with the same or a lower priority number.

        Raises:
            ConfigError: it cannot be combined with an earlier hook, or both are stateful and have the same name.
        """
        for other in self.hooks:
            if hook.exclusive is not None and hook.exclusive == other.exclusive:
                raise excluded(path, type(hook), type(other))
        hook.name = hook.name or type(hook).__name__
        if has_state(type(hook)):
            if hook.name in self._paths:
                raise same_name(hook.name, path or type(hook).__name__, self._paths[hook.name])
            self._paths[hook.name] = path
        priority = get_priority(hook.priority)
        position = sum(get_priority(other.priority) <= priority for other in self.hooks)
        self.hooks.insert(position, hook)
        self._stages.insert(position, set(hook.get_triggered_stages()))
        for stage in self._stages[position]:
            acting = (hook for hook, stages in zip(self.hooks, self._stages) if stage in stages)
            self.calls[stage] = [_bound(hook, stage) for hook in acting]

    def table(self) -> str:
        """Return a table for the log: each hook point with its hooks, in order."""
        lines = []
        for stage, calls in self.calls.items():
            if calls:
                hooks = [call.__self__ for call in calls]  # type: ignore[attr-defined]
                lines.append(f"{stage}:")
                lines += [f"  ({_priority_name(hook.priority):<12}) {type(hook).__name__}" for hook in hooks]
        return "\n".join(lines)


def _bound(hook: Hook, stage: str) -> Callable[..., None]:
    """Return a method bound to its hook, even a static or class method, so that messages can name the hook."""
    call: Callable[..., None] = getattr(hook, stage)
    if getattr(call, "__self__", None) is hook:
        return call
    return MethodType(lambda _, *args, **kwargs: call(*args, **kwargs), hook)


def _priority_name(priority: "int | str | Priority") -> str:
    number = get_priority(priority)
    return Priority(number).name if number in Priority._value2member_map_ else str(number)
