"""Checking a config without building anything, and reporting all mistakes together."""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from difflib import get_close_matches
from inspect import Parameter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from torch.utils.data import DataLoader

from trainwright.engine import parts
from trainwright.engine import registry as registries
from trainwright.engine.building import import_if_there, missing_type, misspelled_type, origin_of, resolve
from trainwright.engine.checking_numbers import mismatched_numbers
from trainwright.engine.checkpoints import files as checkpoint
from trainwright.engine.checkpoints.start import AUTO
from trainwright.engine.config.overrides import COMMAND_LINE
from trainwright.engine.errors import (
    ConfigError,
    MissingExtraError,
    Origin,
    UnknownTypeError,
    did_you_mean,
    with_article,
)
from trainwright.engine.evaluation.condition import Condition
from trainwright.engine.evaluation.direction import higher_is_better, unknown_direction
from trainwright.engine.evaluation.monitor import of_set
from trainwright.engine.evaluation.training_scalar import reading_mistakes
from trainwright.engine.optim.constructor import DefaultOptimWrapperConstructor, several_without_constructor
from trainwright.engine.optim.fine_tuning import missing_weights
from trainwright.engine.optim.multi_constructor import NAMED_OPTIM_WRAPPER, MultiOptimWrapperConstructor
from trainwright.engine.optim.schedulers import beyond_end, other_names
from trainwright.engine.parts import CHILD_REGISTRIES, NOT_PARTS, Key, Slot
from trainwright.engine.registry import ROOT_REGISTRIES, Registry
from trainwright.engine.run.freezing import wrong_keys
from trainwright.engine.run.hook import Hook, has_state
from trainwright.engine.run.hook_list import configured_hooks, excluded, same_name, unknown_default_hooks
from trainwright.engine.run.runner import Runner
from trainwright.engine.signatures import mismatch, parameters_of


def check(cfg: Any) -> list[ConfigError]:
    """Return all mistakes in a config that can be found without building anything.

    These are unknown names, unknown or missing arguments, values of the wrong type, a data loader, loop or evaluator
    without the others, schedules that begin after the end of training, fewer classes in the model than in the data, and
    a missing checkpoint.

    Args:
        cfg: a whole config.

    Returns:
        The mistakes, in the order of the config.
    """
    return _Check(cfg).run()


class _Check:
    def __init__(self, cfg: Any) -> None:
        self.top: Mapping[str, Any] = getattr(cfg, "_cfg_dict", cfg)
        self.text = str(getattr(cfg, "text", ""))
        self.errors: list[ConfigError] = []

    def run(self) -> list[ConfigError]:
        with registries.default_scope(self.top.get("default_scope")):
            self._top_level()
            self.errors += parts.mismatched_parts(self.top)
            self.errors += parts.mismatched_names(self.top)
            self._dataloaders()
            for slot in parts.FIXED_SLOTS:
                for path, cfg in slot.find(self.top):
                    if slot is not parts.DATA_PREPROCESSOR or not self._is_completed_by_model(cfg):
                        self._part(slot, cfg, path)
            self._strategy()
            self._loop_and_schedules()
            self._optimizer()
            if self.top.get("train_dataloader") and (mistake := missing_weights(self.top)):
                self.errors.append(mistake)
            self._evaluators()
            self._hooks()
            self._checkpoint()
            self.errors += mismatched_numbers(self.top)
        order = {key: index for index, key in enumerate(self.top)}
        return sorted(self.errors, key=lambda error: order.get(error.path.partition(".")[0], len(order)))

    def _error(self, path: str, message: str, hint: str = "", origin: Origin | None = None) -> None:
        self.errors.append(ConfigError(path, message, hint, origin))

    def _top_level(self) -> None:
        runner_type, origin = parts.setting(self.top, "runner_type"), origin_of(self.top, "runner_type")
        runner: Any = self._resolve(runner_type, registries.RUNNERS, "runner_type", origin)
        known: dict[str, Any] = {**parts.TOP_LEVEL_KEYS, **parameters_of(runner or Runner)[0]}
        for key, value in self.top.items():
            origin = origin_of(self.top, key)
            if key in parts.UNSUPPORTED_KEYS and value:
                self._error(key, "this MMEngine setting is not supported", parts.UNSUPPORTED_KEYS[key], origin)
            elif key in known:
                self._value(value, known[key], key, origin)
            else:
                self._unknown_key(key, known, origin)
        for argument, keys in parts.RUNNER_ARGUMENT_KEYS.items():
            cfg = self.top.get(argument)
            if isinstance(cfg, Mapping):
                self.errors += parts.unknown_settings(argument, cfg)
                for key in (key for key in cfg if key in keys):
                    self._value(cfg[key], keys[key], f"{argument}.{key}", origin_of(cfg, key))
        model = self.top.get("model")
        if isinstance(model, Mapping):
            self.errors += wrong_keys(parts.MODEL.read(model, "frozen"), "model.frozen")
        if model is None:
            self._error("model", "missing: there is nothing to train", "model=dict(type=...)")

    def _unknown_key(self, key: str, known: Iterable[str], origin: Origin | None) -> None:
        """Report a top-level key that the engine does not read, unless it is a variable of the config files.

        Setting such a variable on the command line has no effect, since the config files have already been read.
        """
        assigned = len(re.findall(rf"^['\"]?{re.escape(key)}['\"]?\s*[:=]", self.text, re.MULTILINE))
        is_used = len(re.findall(rf"\b{re.escape(key)}\b", self.text)) > assigned
        if origin != COMMAND_LINE:
            renamed = parts.MMCV_1_KEYS.get(key)
            hint = f"use {renamed} instead" if renamed else did_you_mean(key, known) if _misspelled(key, known) else ""
            if hint and not is_used:
                self._error(key, "unknown top-level key, and nothing reads it", hint, origin)
        elif not assigned:
            hint = did_you_mean(key, {*known, *self.top} - {key}) or "set the whole path, as in model.x=1"
            self._error(key, "there is no such key in the config, and nothing reads it", hint, origin)
        elif is_used:
            message = "this variable was used while the config was read, so setting it now has no effect"
            self._error(key, message, "set the values that use it instead (see `trainwright print-config`)", origin)

    def _dataloaders(self) -> None:
        arguments = {name: each for name, each in parameters_of(DataLoader)[0].items() if name != "shuffle"}
        known: dict[str, Any] = {**arguments, **parts.DATALOADER_KEYS}
        loaders = [found for key in parts.DATALOADERS for found in parts.dataloaders(self.top, key)]
        for loader, cfg in loaders:
            if not isinstance(cfg, Mapping):
                continue
            for name in cfg:
                path, origin = f"{loader}.{name}", origin_of(cfg, name)
                if name in known:
                    self._value(cfg[name], known[name], path, origin)
                else:
                    shuffling = "the sampler shuffles: sampler=dict(type='DefaultSampler', shuffle=True)"
                    hint = shuffling if name == "shuffle" else did_you_mean(name, known)
                    self._error(path, "a dataloader takes no such argument", hint, origin)
            for name in ("collate_fn", "worker_init_fn"):
                if isinstance(cfg.get(name), str):
                    self._resolve(cfg[name], registries.FUNCTIONS, f"{loader}.{name}", origin_of(cfg, name))
            if "dataset" not in cfg:
                origin = origin_of(self.top, loader.partition(".")[0])
                self._error(f"{loader}.dataset", "missing", "dataset=dict(type=...)", origin)

    def _strategy(self) -> None:
        cfg = parts.strategy_cfg(self.top, several=True)
        self._part(parts.STRATEGY, cfg, "strategy", descend=False)
        strategy = _class_of(cfg, registries.STRATEGIES)
        if strategy is not None:
            self.errors += strategy.mistakes(self.top)

    def _loop_and_schedules(self) -> None:
        train_cfg = self.top.get("train_cfg") or {}
        if not isinstance(train_cfg, Mapping):
            return
        if mistake := parts.contradicts_by_epoch(train_cfg, _class_of(train_cfg, registries.LOOPS)):
            self.errors.append(mistake)
        limits = [train_cfg.get(key) for key in ("max_epochs", "max_iters")]
        ends = [limit if isinstance(limit, int) else None for limit in limits]
        for path, cfg in parts.PARAM_SCHEDULER.find(self.top):
            if getattr(_class_of(cfg, registries.PARAM_SCHEDULERS), "need_val_args", False):
                self._readings(cfg, path)
                for key, by_iteration in (("by_epoch", False), ("convert_to_iter_based", True)):
                    if cfg.get(key) is by_iteration:
                        message = "this scheduler counts epochs and cannot step by iteration"
                        self._error(f"{path}.{key}", message, "remove this key", origin_of(cfg, key))
            if problem := beyond_end(cfg, *ends):
                key, message = problem
                self._error(f"{path}.{key}", message, origin=origin_of(cfg, key))

    def _optimizer(self) -> None:
        cfg = self.top.get("optim_wrapper")
        if not isinstance(cfg, Mapping):
            return
        constructor: Any = cfg.get("constructor")
        built_by: Any = DefaultOptimWrapperConstructor
        if constructor is not None:
            place, origin = "optim_wrapper.constructor", origin_of(cfg, "constructor")
            built_by = self._resolve(constructor, registries.OPTIM_WRAPPER_CONSTRUCTORS, place, origin)
        if isinstance(built_by, type) and issubclass(built_by, MultiOptimWrapperConstructor):
            self.errors += built_by.mistakes(cfg, "optim_wrapper")
            for name, wrapper in cfg.items():
                if isinstance(wrapper, Mapping) and name not in MultiOptimWrapperConstructor.not_names:
                    self._optim_wrapper(wrapper, f"optim_wrapper.{name}", slot=NAMED_OPTIM_WRAPPER)
            self._names_of_schedules(cfg)
            return
        names = parts.wrappers_by_name(cfg)
        if constructor is None and names and "optimizer" not in cfg:
            self.errors.append(several_without_constructor(cfg, names, "optim_wrapper"))
        elif constructor is None or not names:
            reads_keys = isinstance(built_by, type) and issubclass(built_by, DefaultOptimWrapperConstructor)
            if reads_keys or "optimizer" in cfg:  # the keys of a custom constructor are unknown
                of_foreign = _is_foreign(built_by, registries.OPTIM_WRAPPER_CONSTRUCTORS)
                self._optim_wrapper(cfg, "optim_wrapper", of_foreign)
        for name in names:
            self._optim_wrapper(cfg[name], f"optim_wrapper.{name}")

    def _names_of_schedules(self, optim_wrapper: Mapping[str, Any]) -> None:
        """Report schedules by name that are not those of the optimizers."""
        schedules = self.top.get("param_scheduler")
        names = [name for name in optim_wrapper if name not in MultiOptimWrapperConstructor.not_names]
        if isinstance(schedules, Mapping) and "type" not in schedules and (error := other_names(schedules, names)):
            self.errors.append(error)

    def _optim_wrapper(
        self, cfg: Mapping[str, Any], path: str, of_foreign: bool = False, slot: Slot = parts.OPTIM_WRAPPER
    ) -> None:
        self._part(slot, cfg, path, descend=False)
        optimizer = cfg.get("optimizer")
        if optimizer is None:
            origin = origin_of(self.top, "optim_wrapper")
            hint = did_you_mean("optimizer", cfg) or "optimizer=dict(type='AdamW', lr=...)"
            self._error(f"{path}.optimizer", "missing", hint, origin)
        elif slot is NAMED_OPTIM_WRAPPER and cfg.get("constructor") is not None:
            place, origin = f"{path}.constructor", origin_of(cfg, "constructor")
            self._resolve(cfg["constructor"], registries.OPTIM_WRAPPER_CONSTRUCTORS, place, origin)
            self._part(parts.OPTIMIZER, optimizer, f"{path}.optimizer")
        elif isinstance(optimizer, Mapping):
            self._part(parts.OPTIMIZER, optimizer, f"{path}.optimizer", in_foreign=of_foreign)

    def _evaluators(self) -> None:
        for key in parts.EVALUATOR.places:
            for place, given in parts.evaluators(self.top, key):
                slot = parts.EVALUATOR if isinstance(given, Mapping) and "metrics" in given else parts.METRIC
                for path, cfg in slot.configs(given, place):
                    self._part(slot, cfg, path)

    def _hooks(self) -> None:
        default_hooks, custom_hooks = self.top.get("default_hooks") or {}, self.top.get("custom_hooks") or ()
        if not isinstance(default_hooks, Mapping) or not isinstance(custom_hooks, list | tuple):
            return
        unknown = unknown_default_hooks(default_hooks)
        self.errors += unknown.values()
        known = {name: cfg for name, cfg in default_hooks.items() if name not in unknown}
        exclusive: dict[str, type[Hook]] = {}
        paths: dict[str, str] = {}
        for path, cfg in configured_hooks(known, custom_hooks):
            if isinstance(cfg, Mapping):
                self._part(parts.HOOK, cfg, path)
                self._directions(cfg, path)
                self._conditions(cfg, path)
            cls = _class_of(cfg, registries.HOOKS) if isinstance(cfg, Mapping) else type(cfg)
            origin = origin_of(cfg, "type")
            if (words := getattr(cls, "exclusive", None)) is not None:
                if words in exclusive:
                    error = excluded(path, cls, exclusive[words])
                    error.origin = origin
                    self.errors.append(error)
                exclusive.setdefault(words, cls)
            if has_state(cls):
                given = cfg.get("name") if isinstance(cfg, Mapping) else cfg.name
                name = str(given or getattr(cls, "__name__", cls))
                if name in paths:
                    self.errors.append(same_name(name, path, paths[name], origin))
                paths.setdefault(name, path)

    def _directions(self, cfg: Mapping[str, Any], path: str) -> None:
        """Report monitored metrics for which it is unknown whether higher or lower is better."""
        argument = getattr(_class_of(cfg, registries.HOOKS), "monitor_argument", None)
        names = cfg.get(argument) if argument else None
        if names is None or any(cfg.get(key) is not None for key in ("rule", "greater_keys", "less_keys")):
            return
        metrics = list(self._metrics())
        for name in [names] if isinstance(names, str) else names:
            if name != "auto" and higher_is_better(name, metrics) is None:
                self.errors.append(unknown_direction(name, path, origin_of(cfg, argument)))

    def _conditions(self, cfg: Mapping[str, Any], path: str) -> None:
        """Report mistakes in the condition of a hook, and in its settings for scalars of the training."""
        hook = _class_of(cfg, registries.HOOKS)
        argument = getattr(hook, "condition_argument", None)
        if argument and isinstance(cfg.get(argument), Mapping):
            metrics = list(self._metrics())
            self.errors += Condition.mistakes(cfg[argument], f"{path}.{argument}", metrics)
        if getattr(hook, "reads_training_scalars", False):
            self._readings(cfg, path)

    def _readings(self, cfg: Mapping[str, Any], path: str) -> None:
        """Report settings for scalars of the training that have no effect or are out of range."""
        monitor, known = cfg.get("monitor"), {error.path for error in self.errors}
        monitors = monitor if isinstance(monitor, list | tuple) else [monitor]
        self.errors += [error for error in reading_mistakes(monitors, cfg, path) if error.path not in known]

    def _metrics(self) -> Iterator[Any]:
        """Yield the metrics of the validation; instead of a config, an object with its prefix and direction."""
        names = parts.loader_names(self.top.get("val_dataloader"))
        for path, given in parts.evaluators(self.top, "val_evaluator"):
            of = [path.rpartition(".")[2]] if "." in path else names
            for metric in self._metrics_in(given):
                yield from (of_set(metric, name) for name in of) if names else [metric]

    def _metrics_in(self, given: Any) -> Iterator[Any]:
        given = given.get("metrics", given) if isinstance(given, Mapping) else getattr(given, "metrics", given)
        for metric in given if isinstance(given, list | tuple) else [given]:
            if not isinstance(metric, Mapping):
                yield metric
                continue
            cls = _class_of(metric, registries.METRICS)
            prefix = metric.get("prefix") or getattr(cls, "default_prefix", None)
            # A property of the class is not None, so the direction counts as known.
            yield SimpleNamespace(prefix=prefix, higher_is_better=getattr(cls, "higher_is_better", None))

    def _checkpoint(self) -> None:
        resume, work_dir = self.top.get("resume"), self.top.get("work_dir")
        resumes = resume in (True, AUTO) and isinstance(work_dir, str) and Path(work_dir, checkpoint.LAST).exists()
        for key in ("resume",) if resumes or (isinstance(resume, str) and resume != AUTO) else ("load_from",):
            path = self.top.get(key)
            if isinstance(path, str) and path != AUTO and "://" not in path and not Path(path).exists():
                self._error(key, f"there is no file {path!r}", origin=origin_of(self.top, key))

    def _resolve(self, type_: Any, registry: Registry, path: str, origin: Origin | None) -> Callable[..., Any] | None:
        try:
            return resolve(type_, registry, path=path.removesuffix(".type"), origin=origin)
        except ConfigError as error:
            if isinstance(error, UnknownTypeError):
                error.path = path
            self.errors.append(error)
        except ImportError as error:
            self._error(path, f"{type_!r} cannot be imported: {error}", origin=origin)
        return None

    def _is_completed_by_model(self, cfg: Mapping[str, Any]) -> bool:
        """Return whether the class of the model, from another library, sets the type of its preprocessor."""
        return "type" not in cfg and not misspelled_type(cfg) and _is_foreign(self._model_class(), registries.MODELS)

    def _model_class(self) -> Any:
        model = self.top.get("model")
        return _class_of(model, registries.MODELS) if isinstance(model, Mapping) else None

    def _part(
        self, slot: Slot, cfg: Mapping[str, Any], path: str, *, descend: bool = True, in_foreign: bool = False
    ) -> None:
        """Check the config of a part and, with ``descend``, of nested parts.

        A slot without places is for a nested part, to which the outer part may add arguments. If that is from another
        library (``in_foreign``), it may also take some away and look up names elsewhere: then only what resembles a
        known name is a mistake.
        """
        registry = slot.registry
        with registry.switch_scope(cfg.get("_scope_")) as scoped:
            type_ = slot.type_of(cfg)
            if type_ is None:
                self.errors.append(missing_type(cfg, registry.name, path))
                return
            component: Any
            if in_foreign and isinstance(type_, str) and _is_unknown(scoped, type_):
                component = self._foreign_member(type_, scoped, f"{path}.type", origin_of(cfg, "type"))
            else:
                component = self._resolve(type_, scoped, f"{path}.type", origin_of(cfg, "type"))
            is_foreign = _is_foreign(component, registry)
            if component is not None:
                self._arguments(slot, component, cfg, path, is_foreign, in_foreign)
                self._own_check(component, cfg, path)
            for key, value in cfg.items() if descend else ():
                if key not in NOT_PARTS:
                    child = CHILD_REGISTRIES.get(key)
                    self._inside(value, child, registry, f"{path}.{key}", in_foreign or is_foreign)

    def _foreign_member(self, name: str, registry: Registry, path: str, origin: Origin | None) -> Any:
        """Return what a class of another library finds under a name that is not registered, or None.

        A name that resembles a known one is reported.
        """
        modules = [import_if_there(module) for module in parts.FOREIGN_MODULES]
        for module in modules:
            if hasattr(module, name):
                return getattr(module, name)
        known = {member for module in modules for member in dir(module)}
        for root in ROOT_REGISTRIES.values():
            with root.switch_scope_and_registry(None) as scoped, suppress(ImportError):
                known.update(scoped.names())
        if close := _misspelled(name, known):
            hint = f"did you mean {close!r}?"
            message = f"{name!r} is not registered as {with_article(registry.name)}"
            self.errors.append(UnknownTypeError(path, message, hint, origin))
        return None

    def _inside(self, value: Any, child: Registry | None, parent: Registry, path: str, in_foreign: bool) -> None:
        """Check the parts nested in an argument."""
        if isinstance(value, Mapping):
            type_ = value.get("type")
            if isinstance(type_, str) or callable(type_):
                registry = child or parent
                if isinstance(type_, str) and _is_unknown(registry, type_):
                    others = (other for other in ROOT_REGISTRIES.values() if _has(other, type_))
                    registry = next(others, registry)
                self._part(Slot((), registry), value, path, in_foreign=in_foreign)
                return
            key = misspelled_type(value)
            if key is not None and any(_has(registry, value[key]) for registry in _named(value[key])):
                self.errors.append(missing_type(value, "part", path))
            for key, item in value.items():
                if key not in NOT_PARTS:
                    self._inside(item, CHILD_REGISTRIES.get(key, child), parent, f"{path}.{key}", in_foreign)
        elif isinstance(value, list | tuple):
            for index, item in enumerate(value):
                self._inside(item, child, parent, f"{path}.{index}", in_foreign)

    def _arguments(
        self,
        slot: Slot,
        component: Callable[..., Any],
        cfg: Mapping[str, Any],
        path: str,
        is_foreign: bool,
        in_foreign: bool,
    ) -> None:
        parameters, closed = parameters_of(component)
        known: dict[str, Any] = {**parameters, **slot.keys}
        if slot is parts.PARAM_SCHEDULER and slot.read(cfg, "convert_to_iter_based") is True:
            counted = {"begin", "end", *getattr(component, "counted_in_steps", ())}  # epochs, or fractions of them
            whole = [key for key in counted & known.keys() if known[key].annotation is int]
            known |= {key: known[key].replace(annotation=float) for key in whole}
        name = getattr(component, "__name__", str(component))
        accepted = set(parameters)
        may_differ = in_foreign or (is_foreign and not closed)  # from what the signature says
        if may_differ and not closed:
            accepted.update(*(parameters_of(base)[0] for base in getattr(component, "__mro__", ())))
        for key in cfg:
            origin = origin_of(cfg, key)
            if key in known:
                if not is_foreign or _is_quoted_number(cfg[key]):  # annotations of other libraries are often too narrow
                    self._value(cfg[key], known[key], f"{path}.{key}", origin)
            elif key in ("type", "_scope_") or (
                may_differ and (key in accepted or not _misspelled(key, accepted, cfg))
            ):
                continue
            elif may_differ or closed:
                hint = parts.argument_hint(name, key, [*parameters, *sorted(accepted - set(parameters)), "type"])
                type_origin = origin_of(cfg, "type")
                if type_origin and type_origin != origin:
                    hint += f" ({name} is set at {type_origin})"
                if self._is_inherited(origin, type_origin):
                    hint += "\nit is inherited: set `_delete_=True` next to the new 'type' to drop the old arguments"
                self._error(f"{path}.{key}", f"{name} takes no such argument", hint, origin)
        if not slot.places or slot.registry is registries.FUNCTIONS:  # its caller may add arguments
            return
        if slot is parts.MODEL and closed and not may_differ and not {*parameters, *cfg} & {*slot.runtime}:
            self._unused_preprocessor(name)
        given = {*cfg, *slot.runtime, *list(parameters)[: len(slot.positional)]}
        for key, parameter in parameters.items():
            by_name = parameter.kind is not Parameter.POSITIONAL_ONLY
            if key not in given and parameter.default is Parameter.empty and by_name:
                self._error(f"{path}.{key}", f"{name} requires this argument", origin=origin_of(cfg, "type"))

    def _unused_preprocessor(self, name: str) -> None:
        """Add an error if the config has a data preprocessor for a model that does not take one."""
        if self.top.get("data_preprocessor") is not None:
            hint = (
                f"give it to a part of the {name}, or use dict(type='ModuleWrapper', module=dict(type={name!r}, ...))"
            )
            message = f"{name} takes no data_preprocessor"
            self._error("data_preprocessor", message, hint, origin_of(self.top, "data_preprocessor"))

    def _own_check(self, component: Any, cfg: Mapping[str, Any], path: str) -> None:
        """Add the mistakes that a class with ``check_config`` finds in its config, with paths inside it."""
        check_config = getattr(component, "check_config", None)
        if check_config is None:
            return
        try:
            errors = list(check_config(cfg))
        except MissingExtraError as missing:
            errors = [ConfigError("type", str(missing))]
        for error in errors:
            *owners, key = error.path.split(".")
            owner: Any = cfg
            for name in owners:
                owner = owner.get(name) if isinstance(owner, Mapping) else None
            self._error(f"{path}.{error.path}", error.message, error.hint, origin_of(owner, key))

    def _is_inherited(self, origin: Origin | None, type_origin: Origin | None) -> bool:
        """Return whether an argument comes from a base of the file or command line that sets the type."""
        if origin is None or type_origin is None or origin.file == type_origin.file or origin == COMMAND_LINE:
            return False
        files = self.text.splitlines()  # each text follows its file name, bases first
        return type_origin == COMMAND_LINE or (
            {origin.file, type_origin.file} <= set(files) and files.index(origin.file) < files.index(type_origin.file)
        )

    def _value(self, value: Any, known: Parameter | Key, path: str, origin: Origin | None) -> None:
        """Report a value that does not match the annotation of its parameter or key."""
        annotation = known.type if isinstance(known, Key) else known.annotation
        if not (value is None and known.default is None) and (found := mismatch(value, annotation)):
            self._error(path, *found, origin)


def _is_foreign(component: Any, registry: Registry) -> bool:
    """Return whether a class is from another library: in a package of OpenMMLab, or registered in a child registry."""
    if str(getattr(component, "__module__", "")).partition(".")[0] in registries.LIBRARIES:
        return True
    pending = list(registry.root.children.values())
    while component is not None and pending:
        child = pending.pop()
        if any(member is component for member in child.module_dict.values()):
            return True
        pending += child.children.values()
    return False


def _misspelled(name: str, known: Iterable[str], given: Iterable[str] = ()) -> str | None:
    """Return the known name of which ``name`` is a misspelling, or None.

    They differ in one letter that is wrong, missing or too many, in two that are swapped, or in a long name in more.
    Names that differ only in case do not count: both may exist. Nor does a ``given`` name for one of a letter or two.
    """
    similar = sorted(other for other in known if abs(len(other) - len(name)) <= 1)
    if len(name) <= 2:
        similar = [other for other in similar if other not in given]
    found = next((other for other in similar if _differ_by_one_typo(name, other)), None)
    close = get_close_matches(name, similar, 1, cutoff=0.85) if found is None and len(name) >= 8 else []
    return close[0] if close else found


def _differ_by_one_typo(one: str, other: str) -> bool:
    while one and other and one[0] == other[0]:
        one, other = one[1:], other[1:]
    while one and other and one[-1] == other[-1]:
        one, other = one[:-1], other[:-1]
    swapped = len(one) == 2 and one == other[::-1]
    return swapped or (max(len(one), len(other)) == 1 and one.lower() != other.lower())


def _is_quoted_number(value: Any) -> bool:
    with suppress(ValueError):
        return isinstance(value, str) and float(value) is not None
    return False


def _is_unknown(registry: Registry, name: str) -> bool:
    """Return whether a config cannot use a name; False also if a library has a part that cannot be imported."""
    with suppress(ImportError):
        return registry.look_up(name) is None
    return False


def _has(registry: Registry, name: str) -> bool:
    """Return whether a registry has a name; not if a library has a part that cannot be imported."""
    with suppress(ImportError):
        return registry.get(name) is not None
    return False


def _named(type_: Any) -> Iterable[Registry]:
    """Return the registries to search for a name; none for another value."""
    return ROOT_REGISTRIES.values() if isinstance(type_, str) else ()


def _class_of(cfg: Mapping[str, Any], registry: Registry) -> Any:
    """Return the class of a config, or None if it cannot be found (which is reported elsewhere)."""
    with registry.switch_scope(cfg.get("_scope_")) as scoped, suppress(ConfigError, ImportError):
        return resolve(cfg.get("type"), scoped)
    return None
