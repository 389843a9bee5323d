"""Finds the mistakes in a config before anything is built: all of them at once."""

import ast
import inspect
import re
import sys
import textwrap
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torch.utils.data import DataLoader

from trainwright.engine import registry as registries
from trainwright.engine.building import origin_of, resolve, signature_of
from trainwright.engine.checkpoints import files as checkpoint
from trainwright.engine.checkpoints.start import AUTO
from trainwright.engine.config.overrides import COMMAND_LINE
from trainwright.engine.errors import ConfigError, Origin, UnknownTypeError, did_you_mean
from trainwright.engine.evaluation.direction import higher_is_better, unknown_direction
from trainwright.engine.optim.constructor import (
    DefaultOptimWrapperConstructor,
    several_without_constructor,
    wrappers_by_name,
)
from trainwright.engine.optim.schedulers import beyond_end
from trainwright.engine.registry import ROOT_REGISTRIES, Registry
from trainwright.engine.run.hook import DEFAULT_HOOKS, Hook, configured_hooks, excluded, has_state, same_name

TRIPLES = (
    ("train_dataloader", "train_cfg", "optim_wrapper"),
    ("val_dataloader", "val_cfg", "val_evaluator"),
    ("test_dataloader", "test_cfg", "test_evaluator"),
)
SWITCHES = frozenset(
    [
        "model_wrapper_cfg",
        "find_unused_parameters",
        "sync_bn",
        "compile",
        "activation_checkpointing",
        "runner_type",
        "custom_imports",
        "inference_pipeline",
        "inferencer_type",
        "test_pipeline",
        "tta_model",
        "tta_pipeline",
        "default_scope",
    ]
)
"""Top-level keys that are read from the config and are no argument of the Runner."""

BEFORE_2 = {
    "optimizer": "optim_wrapper=dict(optimizer=...)",
    "optimizer_config": "optim_wrapper=dict(clip_grad=..., accumulative_counts=...)",
    "lr_config": "param_scheduler=dict(type=...)",
    "momentum_config": "param_scheduler=dict(type='...Momentum')",
    "runner": "train_cfg=dict(by_epoch=True, max_epochs=...)",
    "total_epochs": "train_cfg=dict(by_epoch=True, max_epochs=...)",
    "data": "train_dataloader=..., val_dataloader=..., test_dataloader=...",
    "evaluation": "train_cfg=dict(val_interval=...), val_evaluator=...",
    "checkpoint_config": "default_hooks=dict(checkpoint=dict(interval=...))",
    "log_config": "default_hooks=dict(logger=dict(interval=...)), visualizer=...",
    "workflow": "train_cfg and val_cfg",
    "dist_params": "env_cfg=dict(dist_cfg=...)",
}
"""Keys of MMCV 1.x and what took their place."""

UNSUPPORTED = {"efficient_conv_bn_eval": "batch normalisation is folded by `compile`, or on export"}
"""Switches of MMEngine that do not exist here, and what to do instead."""

LOADER_KEYS = (
    "dataset", "sampler", "batch_sampler", "collate_fn", "worker_init_fn", "num_batch_per_epoch", "skip_bad_samples",
    "disable_subprocess_warning", *[name for name in inspect.signature(DataLoader).parameters if name != "shuffle"],
)  # fmt: skip

CHILDREN = {
    "dataset": "DATASETS", "datasets": "DATASETS", "pipeline": "TRANSFORMS", "transforms": "TRANSFORMS",
    "batch_transforms": "TRANSFORMS", "init_cfg": "WEIGHT_INITIALIZERS", "data_preprocessor": "MODELS",
    "optimizer": "OPTIMIZERS", "metrics": "METRICS", "vis_backends": "VISBACKENDS", "sampler": "DATA_SAMPLERS",
}  # fmt: skip
"""Which registry an argument of this name is built from; others, from that of the part which they belong to."""

NOT_PARTS = frozenset(["clip_grad", "on_trace_ready", "override", "file_handler_cfg", "when"])
"""Arguments whose ``type`` is no registered name."""


def check(cfg: Any) -> list[ConfigError]:
    """Finds every mistake in a config that can be found without building anything.

    Every ``type`` is looked up and every argument held against the signature of what it names: unknown names, missing
    arguments, values of the wrong kind; loaders, loops and evaluators that do not belong together; schedules that begin
    after the end of the training; a checkpoint that is not there.

    Args:
        cfg: a whole config.

    Returns:
        The mistakes, in the order of the config; empty if there are none.
    """
    return _Check(cfg).run()


def mismatched_parts(cfg: Mapping[str, Any]) -> Iterator[ConfigError]:
    """Yields a mistake for each loader, loop and evaluator (or optimizer) without its companions."""
    for triple in TRIPLES:
        there = [name for name in triple if cfg.get(name) is not None]
        if there and len(there) < len(triple):
            missing = next(name for name in triple if name not in there)
            message = f"missing, though {' and '.join(there)} {'is' if len(there) == 1 else 'are'} set"
            hint = f"{', '.join(triple)} go together: give all three or none"
            yield ConfigError(missing, message, hint, origin_of(cfg, there[0]))
    if cfg.get("param_scheduler") is not None and cfg.get("optim_wrapper") is None:
        hint = "set optim_wrapper, or drop it"
        yield ConfigError(
            "param_scheduler", "there is no optimizer to schedule", hint, origin_of(cfg, "param_scheduler")
        )


def contradicts_by_epoch(train_cfg: Mapping[str, Any], loop: Any) -> ConfigError | None:
    """Return the mistake of a ``train_cfg`` whose ``by_epoch`` is not that of the loop its ``type`` names, or None."""
    by_epoch = getattr(loop, "by_epoch", None)
    if by_epoch is None or bool(train_cfg.get("by_epoch", by_epoch)) == by_epoch:
        return None
    name, unit = getattr(loop, "__name__", loop), "epochs" if by_epoch else "iterations"
    message = f"{train_cfg['by_epoch']} contradicts the type: {name} trains by {unit}"
    return ConfigError("train_cfg.by_epoch", message, "give only one of them", origin_of(train_cfg, "by_epoch"))


class _Check:
    def __init__(self, cfg: Any) -> None:
        self.cfg = cfg
        self.top: Mapping[str, Any] = getattr(cfg, "_cfg_dict", cfg)
        self.text = str(getattr(cfg, "text", ""))
        self.errors: list[ConfigError] = []

    def run(self) -> list[ConfigError]:
        with registries.default_scope(self.top.get("default_scope")):
            self._top_level()
            self.errors += mismatched_parts(self.top)
            self._part("model", registries.MODELS, runtime=["data_preprocessor"])
            self._part("data_preprocessor", registries.MODELS)
            self._part("log_processor", registries.LOG_PROCESSORS, default="LogProcessor")
            self._part("visualizer", registries.VISUALIZERS, default="Visualizer")
            for mode in ("train", "val", "test"):
                self._loader(f"{mode}_dataloader")
                self._loop(mode)
            self._optimizer()
            self._schedulers()
            for key in ("val_evaluator", "test_evaluator"):
                self._evaluator(key)
            self._hooks()
            self._checkpoint()
        order = {key: index for index, key in enumerate(self.top)}
        return sorted(self.errors, key=lambda error: order.get(error.path.partition(".")[0], len(order)))

    def _error(self, path: str, message: str, hint: str = "", origin: Origin | None = None) -> None:
        self.errors.append(ConfigError(path, message, hint, origin))

    def _top_level(self) -> None:
        runner = registries.RUNNERS.get(self.top.get("runner_type", "Runner"))
        signature = signature_of(runner) if runner is not None else None
        parameters = signature.parameters if signature else {}
        known = set(parameters) | SWITCHES
        for key, value in self.top.items():
            origin = origin_of(self.top, key)
            if key in UNSUPPORTED and value:
                self._error(key, "this switch of MMEngine does not exist here", UNSUPPORTED[key], origin)
            elif key in parameters:
                self._kind(value, parameters[key], runner, key, origin)
            elif key not in known and origin == COMMAND_LINE:
                self._set_in_vain(key, known)
            elif key not in known and not self._is_read(key):
                hint = f"this is now {BEFORE_2[key]}" if key in BEFORE_2 else did_you_mean(key, known)
                if hint:
                    self._error(key, "unknown top-level key, and nothing reads it", hint, origin)
        if self.top.get("model") is None:
            self._error("model", "missing: there is nothing to train", "model=dict(type=...)")

    def _set_in_vain(self, key: str, known: Iterable[str]) -> None:
        """Tells of a top-level key from the command line, which comes after the config files have been read."""
        if not self._assignments(key):
            hint = did_you_mean(key, {*known, *self.top} - {key}) or "set the whole path, as in model.x=1"
            self._error(key, "there is no such key in the config, and nothing reads it", hint, COMMAND_LINE)
        elif self._is_read(key):
            message = "this variable was used while the config was read, so setting it now has no effect"
            self._error(key, message, "set the values that were made of it (`trainwright print-config`)", COMMAND_LINE)

    def _assignments(self, key: str) -> int:
        """Returns how often a top-level variable is set in the config files."""
        return len(re.findall(rf"^['\"]?{re.escape(key)}['\"]?\s*[:=]", self.text, re.MULTILINE))

    def _is_read(self, key: str) -> bool:
        """Whether a top-level variable is used elsewhere in the config files that it may come from."""
        return len(re.findall(rf"\b{re.escape(key)}\b", self.text)) > self._assignments(key)

    def _part(self, key: str, registry: Registry, *, runtime: Iterable[str] = (), default: str | None = None) -> None:
        cfg = self.top.get(key)
        if isinstance(cfg, Mapping):
            self._component(cfg, registry, key, runtime=runtime, default=default)

    def _loader(self, key: str) -> None:
        cfg = self.top.get(key)
        if not isinstance(cfg, Mapping):
            return
        for name in cfg:
            if name not in LOADER_KEYS:
                hint = (
                    "the sampler shuffles: sampler=dict(type='DefaultSampler', shuffle=True)"
                    if name == "shuffle"
                    else did_you_mean(name, LOADER_KEYS)
                )
                self._error(f"{key}.{name}", "a dataloader takes no such argument", hint, origin_of(cfg, name))
        parameters = inspect.signature(DataLoader).parameters
        for name in ("batch_size", "num_workers", "pin_memory", "drop_last", "persistent_workers"):
            if name in cfg:
                self._kind(cfg[name], parameters[name], DataLoader, f"{key}.{name}", origin_of(cfg, name))
        if "dataset" not in cfg:
            self._error(f"{key}.dataset", "missing", "dataset=dict(type=...)", origin_of(self.top, key))
        elif isinstance(cfg["dataset"], Mapping):
            self._component(cfg["dataset"], registries.DATASETS, f"{key}.dataset", exact=True)
        for name, runtime in (("sampler", ["dataset", "seed"]), ("batch_sampler", ["sampler", "batch_size"])):
            if isinstance(cfg.get(name), Mapping):
                self._component(cfg[name], registries.DATA_SAMPLERS, f"{key}.{name}", runtime=runtime, exact=True)
        for name in ("collate_fn", "worker_init_fn"):
            if isinstance(cfg.get(name), Mapping):
                self._component(cfg[name], registries.FUNCTIONS, f"{key}.{name}", runtime=["data_batch", "worker_id"])

    def _loop(self, mode: str) -> None:
        key = f"{mode}_cfg"
        cfg = self.top.get(key)
        if not isinstance(cfg, Mapping):
            return
        by_epoch = cfg.get("by_epoch", True)
        train_default = "EpochBasedTrainLoop" if by_epoch else "IterBasedTrainLoop"
        default = {"train": train_default, "val": "ValLoop", "test": "TestLoop"}[mode]
        runtime = ["runner", "dataloader", *(["evaluator"] if mode != "train" else [])]
        extra = ["by_epoch"] if mode == "train" else []
        self._component(cfg, registries.LOOPS, key, runtime=runtime, extra=extra, default=default, exact=True)
        if mode == "train" and "type" in cfg:
            with registries.LOOPS.switch_scope(cfg.get("_scope_")) as scoped, suppress(ConfigError, ImportError):
                loop = resolve(cfg["type"], scoped, path=key)
                if mistake := contradicts_by_epoch(cfg, loop):
                    self.errors.append(mistake)

    def _optimizer(self) -> None:
        cfg = self.top.get("optim_wrapper")
        if not isinstance(cfg, Mapping):
            return
        constructor: Any = cfg.get("constructor")
        built_by: Any = DefaultOptimWrapperConstructor
        if constructor is not None:
            place, origin = "optim_wrapper.constructor", origin_of(cfg, "constructor")
            built_by = self._resolve(constructor, registries.OPTIM_WRAPPER_CONSTRUCTORS, place, origin)
        names = wrappers_by_name(cfg)
        if constructor is None and names and "optimizer" not in cfg:
            self.errors.append(several_without_constructor(cfg, names, "optim_wrapper"))
        elif constructor is None or not names:
            reads_keys = isinstance(built_by, type) and issubclass(built_by, DefaultOptimWrapperConstructor)
            if reads_keys or "optimizer" in cfg:  # what a constructor of one's own reads is not known
                self._optim_wrapper(cfg, "optim_wrapper")
        for name in names:
            self._optim_wrapper(cfg[name], f"optim_wrapper.{name}")

    def _optim_wrapper(self, cfg: Mapping[str, Any], path: str) -> None:
        extra = ["constructor", "paramwise_cfg"]
        self._component(cfg, registries.OPTIM_WRAPPERS, path, extra=extra, default="OptimWrapper", descend=False)
        optimizer = cfg.get("optimizer")
        if optimizer is None:
            self._error(
                f"{path}.optimizer",
                "missing",
                "optimizer=dict(type='AdamW', lr=...)",
                origin_of(self.top, "optim_wrapper"),
            )
        elif isinstance(optimizer, Mapping):
            self._component(optimizer, registries.OPTIMIZERS, f"{path}.optimizer", runtime=["params"], exact=True)

    def _schedulers(self) -> None:
        given = self.top.get("param_scheduler")
        groups = given if isinstance(given, Mapping) and "type" not in given else {"": given}
        for name, group in groups.items():
            path = f"param_scheduler.{name}" if name else "param_scheduler"
            for place, cfg in _items(group, path):
                extra = ["convert_to_iter_based", "epoch_length"]
                self._component(cfg, registries.PARAM_SCHEDULERS, place, runtime=["optimizer"], extra=extra, exact=True)
                self._schedule(cfg, place)

    def _schedule(self, cfg: Mapping[str, Any], path: str) -> None:
        if getattr(_known(cfg.get("type"), registries.PARAM_SCHEDULERS), "need_val_args", False):
            for key, by_iteration in (("by_epoch", False), ("convert_to_iter_based", True)):
                if cfg.get(key) is by_iteration:
                    message = "this scheduler counts epochs: it cannot step by iteration"
                    self._error(f"{path}.{key}", message, "leave it out", origin_of(cfg, key))
        train_cfg = self.top.get("train_cfg") or {}
        max_epochs, max_iters = train_cfg.get("max_epochs"), train_cfg.get("max_iters")
        problem = beyond_end(cfg, *(limit if isinstance(limit, int) else None for limit in (max_epochs, max_iters)))
        if problem:
            key = "begin" if problem.startswith("it begins") else "milestones"
            self._error(f"{path}.{key}", problem, origin=origin_of(cfg, key))

    def _evaluator(self, key: str) -> None:
        given = self.top.get(key)
        if isinstance(given, Mapping) and "metrics" in given:
            self._component(given, registries.EVALUATOR, key, default="Evaluator")
            return
        for place, cfg in _items(given, key):
            self._component(cfg, registries.METRICS, place, exact=True)

    def _hooks(self) -> None:
        given = self.top.get("default_hooks") or {}
        for name, cfg in given.items() if isinstance(given, Mapping) else ():
            if not isinstance(cfg, Mapping):
                continue
            default = DEFAULT_HOOKS.get(name, {}).get("type")
            if "type" not in cfg and default is None:
                hint = did_you_mean(name, DEFAULT_HOOKS) or f"they are {', '.join(DEFAULT_HOOKS)}"
                self._error(f"default_hooks.{name}", "no default hook has this name", hint, origin_of(given, name))
                continue
            self._component(
                cfg,
                registries.HOOKS,
                f"default_hooks.{name}",
                extra=["priority", "name"],
                default=default,
                exact=True,
            )
            self._directions(cfg, f"default_hooks.{name}", default)
        for place, cfg in _items(self.top.get("custom_hooks"), "custom_hooks"):
            self._component(cfg, registries.HOOKS, place, extra=["priority", "name"], exact=True)
            self._directions(cfg, place)
        self._hooks_together()

    def _hooks_together(self) -> None:
        """Note hooks of which a run can have only one, and those whose states would be mixed up."""
        default_hooks, custom_hooks = self.top.get("default_hooks") or {}, self.top.get("custom_hooks") or ()
        if not isinstance(default_hooks, Mapping) or not isinstance(custom_hooks, list | tuple):
            return
        exclusive: dict[str, type[Hook]] = {}
        places: dict[str, str] = {}
        with suppress(ConfigError):  # a default hook that does not exist: noted already
            for path, cfg in configured_hooks(default_hooks, custom_hooks):
                cls = _known(cfg.get("type"), registries.HOOKS) if isinstance(cfg, Mapping) else type(cfg)
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
                    if name in places:
                        self.errors.append(same_name(name, path, places[name], origin))
                    places.setdefault(name, path)

    def _directions(self, cfg: Mapping[str, Any], path: str, default: str | None = None) -> None:
        """Notes the metrics that a hook watches if nothing tells which of their scores are better."""
        type_ = cfg.get("type", default)
        hook = _known(type_, registries.HOOKS)
        argument = getattr(hook, "monitor_argument", None)
        names = cfg.get(argument) if argument else None
        if names is None or any(cfg.get(key) is not None for key in ("rule", "greater_keys", "less_keys")):
            return
        metrics = list(self._metrics("val_evaluator"))
        for name in [names] if isinstance(names, str) else names:
            if name != "auto" and higher_is_better(name, metrics) is None:
                self.errors.append(unknown_direction(name, path, origin_of(cfg, argument)))

    def _metrics(self, key: str) -> Iterator[Any]:
        """Yields the metrics of an evaluator, or what stands for one that is not built: its prefix and direction."""
        given = self.top.get(key)
        given = given.get("metrics", given) if isinstance(given, Mapping) else getattr(given, "metrics", given)
        for metric in given if isinstance(given, list | tuple) else [given]:
            if not isinstance(metric, Mapping):
                yield metric
                continue
            type_ = metric.get("type")
            cls = _known(type_, registries.METRICS)
            prefix = metric.get("prefix") or getattr(cls, "default_prefix", None)
            # A property answers only for a metric that is built: until then it counts as an answer.
            yield types.SimpleNamespace(prefix=prefix, higher_is_better=getattr(cls, "higher_is_better", None))

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
        except UnknownTypeError as error:
            error.path = path
            self.errors.append(error)
        except ConfigError as error:
            self.errors.append(error)
        except ImportError as error:
            self._error(path, f"{type_!r} cannot be imported: {error}", origin=origin)
        return None

    def _component(
        self,
        cfg: Mapping[str, Any],
        registry: Registry,
        path: str,
        *,
        runtime: Iterable[str] = (),
        extra: Iterable[str] = (),
        default: str | None = None,
        exact: bool = False,
        descend: bool = True,
    ) -> None:
        """Checks one part.

        Args:
            cfg: its config.
            registry: where its ``type`` is looked up.
            path: dotted path of ``cfg``.
            runtime: arguments that it gets when it is built.
            extra: keys that are read by whoever builds it.
            default: its ``type`` if it names none.
            exact: whether the runtime arguments are known for sure, so that missing ones can be told.
            descend: whether to check the parts inside it.
        """
        if not isinstance(cfg, Mapping):
            return
        scope = cfg.get("_scope_")
        with registry.switch_scope(scope) as scoped:
            type_ = cfg.get("type", default)
            if type_ is None:
                self._error(path, f"this {registry.name} has no 'type'", f"its keys: {', '.join(map(str, cfg))}")
                return
            component = self._resolve(type_, scoped, f"{path}.type", origin_of(cfg, "type"))
            if component is not None:
                given = [key for key in cfg if key not in ("type", "_scope_", *extra)]
                self._arguments(component, cfg, given, path, set(runtime) if exact else None)
            if descend:
                for key in cfg:
                    if key not in NOT_PARTS:
                        self._inside(cfg[key], CHILDREN.get(key), registry, f"{path}.{key}")

    def _inside(self, value: Any, child: str | None, parent: Registry, path: str) -> None:
        """Checks the parts inside an argument."""
        if isinstance(value, Mapping):
            if isinstance(value.get("type"), str) or callable(value.get("type")):
                self._component(value, self._registry_for(value["type"], child, parent), path)
                return
            for key, item in value.items():
                if key not in NOT_PARTS:
                    self._inside(item, CHILDREN.get(key, child), parent, f"{path}.{key}")
        elif isinstance(value, list | tuple):
            for index, item in enumerate(value):
                self._inside(item, child, parent, f"{path}.{index}")

    def _registry_for(self, type_: Any, child: str | None, parent: Registry) -> Registry:
        first = ROOT_REGISTRIES[child] if child else parent
        if not isinstance(type_, str) or first.get(type_) is not None:
            return first
        return next((other for other in ROOT_REGISTRIES.values() if other.get(type_) is not None), first)

    def _arguments(
        self,
        component: Callable[..., Any],
        cfg: Mapping[str, Any],
        given: Sequence[str],
        path: str,
        runtime: set[str] | None,
    ) -> None:
        parameters, closed = _parameters(component)
        if not parameters and not closed:
            return
        name = getattr(component, "__name__", str(component))
        for key in given:
            origin = origin_of(cfg, key)
            if key in parameters:
                self._kind(cfg[key], parameters[key], component, f"{path}.{key}", origin)
            elif closed:
                hint = did_you_mean(key, parameters) or f"it takes {', '.join(parameters)}"
                type_origin = origin_of(cfg, "type")
                if type_origin and type_origin != origin:
                    hint += f" ({name} is named at {type_origin})"
                if self._is_inherited(origin, type_origin):
                    hint += "\nit is inherited: `_delete_=True` beside the new 'type' drops what the old one had"
                self._error(f"{path}.{key}", f"{name} takes no such argument", hint, origin)
        if runtime is None:
            return
        for key, parameter in parameters.items():
            required = parameter.default is parameter.empty and parameter.kind not in (
                parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD, parameter.POSITIONAL_ONLY,
            )  # fmt: skip
            if required and key not in cfg and key not in runtime:
                self._error(f"{path}.{key}", f"{name} needs this argument", origin=origin_of(cfg, "type"))

    def _is_inherited(self, origin: Origin | None, type_origin: Origin | None) -> bool:
        """Whether an argument comes from a base of the file, or the command line, that sets the type."""
        if origin is None or type_origin is None or origin.file == type_origin.file or origin == COMMAND_LINE:
            return False
        files = self.text.splitlines()  # the name of each file stands before its text, bases first
        return type_origin == COMMAND_LINE or (
            {origin.file, type_origin.file} <= set(files) and files.index(origin.file) < files.index(type_origin.file)
        )

    def _kind(self, value: Any, parameter: inspect.Parameter, owner: Any, path: str, origin: Origin | None) -> None:
        """Notes a value that the annotation of its parameter rules out."""
        annotation = _annotation(parameter, owner)
        if value is None and parameter.default is None:
            return
        if _fits(value, annotation):
            return
        hint = ""
        if isinstance(value, str) and _is_number(value):
            hint = (
                f"it is text: write {float(value)!r}"
                if not value.strip("'\"").isdigit()
                else f"it is text: write {value}"
            )
        elif typing.get_origin(annotation) is typing.Literal:
            hint = did_you_mean(str(value), map(str, typing.get_args(annotation)))
        self._error(path, f"must be {_describe(annotation)}, not {type(value).__name__} {value!r}", hint, origin)


def _known(type_: Any, registry: Registry) -> Any:
    """Return what ``type`` names, or None where that is a mistake, which is noted elsewhere."""
    try:
        return resolve(type_, registry)
    except (ConfigError, ImportError):
        return None


def _items(given: Any, path: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yields each config of one or several, with its path."""
    if isinstance(given, Mapping):
        yield path, given
    elif isinstance(given, list | tuple):
        for index, item in enumerate(given):
            if isinstance(item, Mapping):
                yield f"{path}.{index}", item


def _parameters(component: Callable[..., Any]) -> tuple[dict[str, inspect.Parameter], bool]:
    """Returns the parameters that can be named, and whether there are no others.

    A constructor with ``**kwargs`` that hands them on to ``super().__init__`` takes its bases' parameters too.
    """
    signature = signature_of(component)
    if signature is None:
        return {}, False
    found = {name: p for name, p in signature.parameters.items() if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)}
    if not any(p.kind == p.VAR_KEYWORD for p in signature.parameters.values()):
        return found, True
    if not inspect.isclass(component):
        return found, False
    filled: set[str] = set()
    positional = 0
    for cls in component.__mro__:
        init = cls.__dict__.get("__init__")
        if init is None or cls is object:
            continue
        own = list(inspect.signature(init).parameters.values())[1:]
        named = [p for p in own if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
        for parameter in named[positional:]:
            if parameter.name not in filled:
                found.setdefault(parameter.name, parameter)
        if not any(p.kind == p.VAR_KEYWORD for p in own):
            return found, True
        call = _super_call(init)
        if call is None:
            return found, False
        filled = {keyword.arg for keyword in call.keywords if keyword.arg is not None}
        positional = sum(not isinstance(argument, ast.Starred) for argument in call.args)
    return found, False


def _super_call(init: Any) -> ast.Call | None:
    """Returns the call of ``super().__init__`` that gets a constructor's ``**kwargs``, if nothing else reads them."""
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(init)))
    except (OSError, TypeError, SyntaxError, SystemError):  # the last: CPython 3.11, if a finalizer parses meanwhile
        return None
    name = next(p.name for p in inspect.signature(init).parameters.values() if p.kind == p.VAR_KEYWORD)
    uses = [node for node in ast.walk(tree) if isinstance(node, ast.Name) and node.id == name]
    calls = [
        call
        for call in ast.walk(tree)
        if isinstance(call, ast.Call)
        and ast.unparse(call.func) == "super().__init__"
        and any(k.arg is None and isinstance(k.value, ast.Name) and k.value.id == name for k in call.keywords)
    ]
    return calls[0] if len(uses) == len(calls) == 1 else None


def _annotation(parameter: inspect.Parameter, owner: Any) -> Any:
    annotation = parameter.annotation
    if not isinstance(annotation, str):
        return annotation
    module = sys.modules.get(getattr(owner, "__module__", ""), None)
    try:
        return eval(annotation, dict(vars(module)) if module else {})
    except Exception:  # a name that exists for type checkers only: this kind cannot be checked
        return inspect.Parameter.empty


def _fits(value: Any, annotation: Any) -> bool:
    """Whether a value may be what an annotation says. In doubt, yes."""
    origin = typing.get_origin(annotation)
    if annotation is None or annotation is type(None):
        return value is None
    if origin is typing.Union or isinstance(annotation, types.UnionType):
        return any(_fits(value, option) for option in typing.get_args(annotation))
    if origin is typing.Literal:
        return value in typing.get_args(annotation)
    kind = origin or annotation
    if kind is bool:
        return isinstance(value, bool)
    if kind is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if kind is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if kind is str:
        return isinstance(value, str)
    if kind in (list, tuple) or (inspect.isclass(kind) and kind in (Sequence, Iterable)):
        return not isinstance(value, bool | int | float | Mapping) and value is not None
    if inspect.isclass(kind) and issubclass(kind, Mapping | Tensor | nn.Module):
        return not isinstance(value, bool | int | float | str) and value is not None
    return True


def _describe(annotation: Any) -> str:
    return annotation.__name__ if inspect.isclass(annotation) else str(annotation).replace("typing.", "")


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
