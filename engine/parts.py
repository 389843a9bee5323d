"""The grammar of a config: its parts and keys, their defaults, and the arguments that the engine adds.

This is the only list of them: builders use the slots, and so does ``check``.
"""

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from trainwright.engine import registry as registries
from trainwright.engine.building import build_function, origin_of
from trainwright.engine.errors import ConfigError, did_you_mean
from trainwright.engine.registry import Registry


@dataclass(frozen=True)
class Key:
    """A key that is read by the engine.

    Args:
        type: annotation of its values.
        default: its value if the config does not set it.
        meaning: its documentation, one sentence.
    """

    type: Any
    default: Any
    meaning: str


@dataclass(frozen=True)
class Slot:
    """A place in a config that describes a part.

    Args:
        places: its dotted paths.
        registry: the registry of the part.
        default: the default ``type``, or a function of the config that returns it.
        positional: arguments that the engine passes by position, so the part may name them differently.
        runtime: arguments that the engine may pass by name.
        keys: keys that are read by the engine and not passed to the part.
        many: whether a list of parts, or lists of parts by name, are allowed.
    """

    places: tuple[str, ...]
    registry: Registry
    default: str | Callable[[Mapping[str, Any]], str] | None = None
    positional: tuple[str, ...] = ()
    runtime: tuple[str, ...] = ()
    keys: Mapping[str, Key] = field(default_factory=dict)
    many: bool = False

    def build(self, cfg: Any, *args: Any, path: str = "", **runtime: Any) -> Any:
        """Build a part from its config; anything but a config is returned unchanged.

        Args:
            cfg: the config, or the name of a function.
            *args: the positional arguments of the slot.
            path: dotted path of ``cfg``, for messages; the first place of the slot if empty.
            **runtime: arguments from the engine. Values in the config take precedence.

        Raises:
            TypeError: an argument is not declared by the slot.
            ConfigError: see :func:`~trainwright.engine.building.build`.
        """
        undeclared = runtime.keys() - self.runtime
        if undeclared or len(args) != len(self.positional):
            raise TypeError(f"{self.places[0]}: declare {sorted(undeclared) or args} in engine/parts.py")
        path = path or self.places[0]
        if self.registry is registries.FUNCTIONS:
            return build_function(cfg, self.registry, path=path)
        if isinstance(cfg, Mapping):
            if self.type_of(cfg) is not None:
                runtime["type"] = self.type_of(cfg)
            cfg = self.arguments(cfg)
        return self.registry.build(cfg, *args, path=path, **runtime)

    def arguments(self, cfg: Mapping[str, Any]) -> Any:
        """Return a config without :attr:`keys`."""
        if self.keys.keys().isdisjoint(cfg):
            return cfg
        arguments: Any = copy.copy(cfg)  # keeps the origins
        for key in self.keys:
            arguments.pop(key, None)
        return arguments

    def type_of(self, cfg: Mapping[str, Any]) -> Any:
        """Return the ``type`` of a config, or its default."""
        return cfg.get("type", self.default(cfg) if callable(self.default) else self.default)

    def read(self, cfg: Mapping[str, Any], key: str) -> Any:
        """Return one of ``keys`` from a config, or its default."""
        return cfg.get(key, self.keys[key].default)

    def find(self, cfg: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
        """Yield the path and config of each part of this slot in a whole config."""
        for place in self.places:
            top, *keys = place.split(".")
            for path, value in dataloaders(cfg, top) if top in DATALOADERS else [(top, cfg.get(top))]:
                for key in keys:
                    value = value.get(key) if isinstance(value, Mapping) else None
                yield from self.configs(value, ".".join((path, *keys)))

    def configs(self, value: Any, path: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
        """Yield the path and config of each part in a value for this slot."""
        nested: Iterable[tuple[Any, Any]] = ()
        if self.many and isinstance(value, list | tuple):
            nested = enumerate(value)
        elif not isinstance(value, Mapping):
            return
        elif self.many and all(isinstance(item, Mapping | list | tuple) for item in value.values()):
            nested = value.items()
        else:
            yield path, value
        for key, item in nested:
            yield from self.configs(item, f"{path}.{key}")


def loader_names(cfg: Any) -> list[str]:
    """Return the names of the data loaders in the config of a mode with several loaders; none for a single one.

    Several loaders are configured by name, such as ``dict(labeled=dict(dataset=...), unlabeled=dict(dataset=...))``.
    """
    if not isinstance(cfg, Mapping) or "dataset" in cfg or not any(map(_is_loader, cfg, cfg.values())):
        return []
    return [key for key in cfg if key not in SEVERAL_LOADERS_KEYS]


def _is_loader(key: str, value: Any) -> bool:
    """Return whether a value in a config is a data loader, or its config."""
    if isinstance(value, Mapping):
        return "dataset" in value
    return key not in DATALOADER_KEYS and hasattr(value, "__iter__") and not isinstance(value, str | list | tuple)


def dataloaders(cfg: Mapping[str, Any], key: str) -> Iterator[tuple[str, Any]]:
    """Yield the path and config of each data loader of a mode in a whole config: one, or several by name."""
    value: Any = cfg.get(key)
    names = loader_names(value)
    yield from ((f"{key}.{name}", value[name]) for name in names) if names else [(key, value)]


def evaluators(cfg: Mapping[str, Any], key: str) -> Iterator[tuple[str, Any]]:
    """Yield the path and config of each evaluator of a mode in a whole config.

    There is one, or one for each name if the mode has several data loaders.
    """
    value: Any = cfg.get(key)
    names = loader_names(cfg.get(key.replace("evaluator", "dataloader")))
    yield from ((f"{key}.{name}", value[name]) for name in value) if is_by_name(value, names) else [(key, value)]


def is_by_name(evaluator: Any, names: Sequence[str]) -> bool:
    """Return whether there are several data loaders, and an evaluator config has metrics for each of them."""
    return bool(names) and isinstance(evaluator, Mapping) and not {"type", "metrics"} & evaluator.keys()


def mismatched_names(cfg: Mapping[str, Any]) -> Iterator[ConfigError]:
    """Yield an error for each wrong name of a data loader or evaluator, and each wrong ``ends_with``."""
    for loader_key, _, evaluator_key in MODES.values():
        loaders: Any = cfg.get(loader_key)
        if not (names := loader_names(loaders)):
            continue
        for name in names:
            value, origin = loaders[name], origin_of(loaders, name)
            if not (isinstance(value, Mapping) or _is_loader(name, value)):
                hint = did_you_mean(name, SEVERAL_LOADERS_KEYS) or "set it in each data loader"
                message = f"{value!r} is not a data loader, and the data loaders are configured by name"
                yield ConfigError(f"{loader_key}.{name}", message, hint, origin)
            elif not name.isidentifier() or name in EPOCH_ENDS:
                message = f"{name!r} cannot be the name of a data loader"
                yield ConfigError(f"{loader_key}.{name}", message, "choose another name", origin)
        if (mistake := _wrong_end(loaders, names, loader_key)) is not None:
            yield mistake
        if evaluator_key.endswith("evaluator"):
            yield from _mismatched_evaluators(cfg.get(evaluator_key), names, loader_key, evaluator_key)


def _wrong_end(loaders: Mapping[str, Any], names: list[str], path: str) -> ConfigError | None:
    if ENDS_WITH not in loaders:
        return None
    place, given, origin = f"{path}.{ENDS_WITH}", loaders[ENDS_WITH], origin_of(loaders, ENDS_WITH)
    if path != "train_dataloader":
        return ConfigError(place, "each data loader is read to its end", "remove it", origin)
    if given in (*EPOCH_ENDS, *names):
        return None
    hint = did_you_mean(str(given), names) or f"must be one of {', '.join((*EPOCH_ENDS, *names))}"
    return ConfigError(place, f"there is no data loader {given!r}", hint, origin)


def _mismatched_evaluators(evaluator: Any, names: list[str], loader_key: str, path: str) -> Iterator[ConfigError]:
    if not is_by_name(evaluator, names):
        return
    for name in evaluator:
        if name not in names:
            hint = did_you_mean(name, names) or f"its data loaders are {', '.join(names)}"
            message = f"{loader_key} has no data loader {name!r}"
            yield ConfigError(f"{path}.{name}", message, hint, origin_of(evaluator, name))
    for name in names:
        if name not in evaluator:
            message, hint = f"missing, though there is {loader_key}.{name}", f"{name}=dict(type=...)"
            yield ConfigError(f"{path}.{name}", message, hint)


def mismatched_parts(cfg: Mapping[str, Any]) -> Iterator[ConfigError]:
    """Yield an error for each data loader, loop, and evaluator or optimizer set without the others."""
    for needed in MODES.values():
        there = [key for key in needed if cfg.get(key) is not None]
        if there and len(there) < len(needed):
            missing = next(key for key in needed if key not in there)
            message = f"missing, though {' and '.join(there)} {'is' if len(there) == 1 else 'are'} set"
            hint = f"set all or none of {', '.join(needed)}"
            yield ConfigError(missing, message, hint, origin_of(cfg, there[0]))
    if cfg.get("param_scheduler") is not None and cfg.get("optim_wrapper") is None:
        hint = "set optim_wrapper, or remove param_scheduler"
        yield ConfigError("param_scheduler", "there is no optimizer", hint, origin_of(cfg, "param_scheduler"))


def contradicts_by_epoch(train_cfg: Mapping[str, Any], loop: Any) -> ConfigError | None:
    """Return an error if ``by_epoch`` of ``train_cfg`` differs from that of the loop class, or None."""
    by_epoch = getattr(loop, "by_epoch", None)
    if by_epoch is None or bool(train_cfg.get("by_epoch", by_epoch)) == by_epoch:
        return None
    name, unit = getattr(loop, "__name__", loop), "epochs" if by_epoch else "iterations"
    message = f"{train_cfg['by_epoch']} contradicts the type: {name} trains by {unit}"
    return ConfigError("train_cfg.by_epoch", message, "set only one of them", origin_of(train_cfg, "by_epoch"))


def unknown_settings(argument: str, cfg: Mapping[str, Any]) -> Iterator[ConfigError]:
    """Yield an error for each unknown key in one of the :data:`RUNNER_ARGUMENT_KEYS`."""
    known = RUNNER_ARGUMENT_KEYS[argument]
    for key in cfg:
        if key not in known:
            place = SETTINGS_ELSEWHERE.get(key)
            hint = f"set it in {place}" if place else did_you_mean(key, known) or f"must be one of {', '.join(known)}"
            yield ConfigError(f"{argument}.{key}", "unknown setting", hint, origin_of(cfg, key))


def argument_hint(name: str, key: str, known: Iterable[str]) -> str:
    """Return the hint for an argument that a part does not take.

    Args:
        name: the name of its class.
        key: the argument.
        known: the arguments that it takes.
    """
    keys, hint = UNSUPPORTED_ARGUMENTS.get(name, ((), ""))
    return hint if key in keys else did_you_mean(key, known) or f"it takes {', '.join(known)}"


def setting(cfg: Mapping[str, Any], key: str) -> Any:
    """Return one of :data:`TOP_LEVEL_KEYS` from a whole config, or its default."""
    value = cfg.get(key)
    return TOP_LEVEL_KEYS[key].default if value is None else value


def strategy_cfg(cfg: Mapping[str, Any], several: bool) -> Mapping[str, Any]:
    """Return the config of the strategy in a whole config, with its ``type``.

    Args:
        cfg: the whole config.
        several: whether there are several processes, for ``auto``.
    """
    given = setting(cfg, "strategy")
    if isinstance(given, Mapping):
        return given
    return {"type": given if given != "auto" else "DDP" if several else "Single"}


def wrappers_by_name(cfg: Any) -> list[str]:
    """Return the keys of an ``optim_wrapper`` that each configure a separate optimizer wrapper."""
    items = cfg.items() if isinstance(cfg, Mapping) else ()
    return [key for key, value in items if isinstance(value, Mapping) and "optimizer" in value]


def _in_every_mode(place: str) -> tuple[str, ...]:
    return tuple(place.format(mode) for mode in MODES)


MODES = {
    "train": ("train_dataloader", "train_cfg", "optim_wrapper"),
    "val": ("val_dataloader", "val_cfg", "val_evaluator"),
    "test": ("test_dataloader", "test_cfg", "test_evaluator"),
}
"""The modes of a run, and the keys that each mode needs (all or none)."""

TOP_LEVEL_KEYS = {
    "activation_checkpointing": Key(
        str | Sequence[str], None, "Names of submodules whose activations are recomputed in the backward pass."
    ),
    "compile": Key(bool | Mapping, False, "Compile the model's forward pass; a dict has arguments of `torch.compile`."),
    "custom_imports": Key(Mapping, None, "Modules to import before anything is built: `dict(imports=[...])`."),
    "find_unused_parameters": Key(
        bool, False, "Whether the model wrapper detects parameters that receive no gradient in an iteration."
    ),
    "inference_pipeline": Key(Sequence, None, "The transforms of an `Inferencer`; `test_pipeline` by default."),
    "inferencer_type": Key(str | type, "Inferencer", "The inferencer class of `trainwright predict`."),
    "model_wrapper_cfg": Key(Mapping, {"broadcast_buffers": False}, "The model wrapper in distributed training."),
    "runner_type": Key(str | type, "Runner", "The runner class."),
    "strategy": Key(
        str | Mapping,
        "auto",
        "How processes share the training: a strategy with its arguments, its name, or `auto`: `DDP` if several.",
    ),
    "sync_bn": Key(bool | str, None, "Replace batch norm with `SyncBatchNorm` in distributed training."),
    "test_pipeline": Key(Sequence, None, "The transforms of an `Inferencer`; those of the test dataset by default."),
    "tta_model": Key(Mapping, None, "The model that merges predictions in test-time augmentation (`test --tta`)."),
    "tta_pipeline": Key(Sequence, None, "The transforms of the test dataset in test-time augmentation."),
}
"""Top-level keys in addition to the arguments of the Runner, which its docstring describes."""

MMCV_1_KEYS = {
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
"""Top-level keys of MMCV 1.x, and what replaced them."""

UNSUPPORTED_KEYS = {"efficient_conv_bn_eval": "batch normalization is folded by `compile` or during export"}
"""Top-level keys of MMEngine that are not supported, and what to use instead."""

DATALOADER_KEYS = {
    "dataset": Key(Any, None, "The dataset."),
    "sampler": Key(Any, None, "The sampler; by default `DefaultSampler`, which shuffles in training."),
    "batch_sampler": Key(Any, None, "The batch sampler."),
    "collate_fn": Key(Any, None, "The function that collates samples into a batch, as a name or a config."),
    "worker_init_fn": Key(Any, None, "A function that each worker calls with its worker ID, as a name or a config."),
    "num_batch_per_epoch": Key(int | None, None, "The number of batches per epoch; the whole dataset by default."),
    "skip_bad_samples": Key(
        int | bool | None, 0, "The number of samples that may be replaced by the next sample if they raise an error."
    ),
    "disable_subprocess_warning": Key(bool, False, "Accepted for compatibility; has no effect."),
}
"""The keys of a data loader in addition to the arguments of ``torch.utils.data.DataLoader``."""

DATALOADERS = tuple(loader for loader, *_ in MODES.values())
"""The keys of the data loaders."""

ENDS_WITH = "ends_with"
EPOCH_ENDS = ("longest", "shortest")
SEVERAL_LOADERS_KEYS = {
    ENDS_WITH: Key(
        str,
        "longest",
        "The loader with which a training epoch ends: the `longest`, the `shortest`, or the one of this name. The "
        "other loaders go on in the next epoch where they are, and begin their data again when it ends.",
    ),
}
"""The keys beside the names of several data loaders."""

RUNNER_ARGUMENT_KEYS = {
    "env_cfg": {
        "cudnn_benchmark": Key(
            bool | None, None, "Let cuDNN choose the fastest algorithms; None: if all images have one size."
        ),
        "tf32": Key(bool, True, "Round the factors of float32 products to TF32 on CUDA devices that support it."),
        "channels_last": Key(
            bool | None,
            None,
            "Store the weights of 2-d convolutions channels-last; None: on accelerators except MPS, but not for code "
            "that imports MMEngine.",
        ),
        "mp_cfg": Key(Mapping, None, "Multiprocessing settings: `mp_start_method` and `opencv_num_threads`."),
        "dist_cfg": Key(Mapping, None, "Arguments of `init_dist`."),
        "resource_limit": Key(int, 4096, "The minimum limit on open files per process."),
    },
    "randomness": {
        "seed": Key(int | None, None, "The random seed; drawn at random if None."),
        "deterministic": Key(bool, False, "Use deterministic algorithms, and raise an error where there are none."),
        "diff_rank_seed": Key(bool, False, "Use a different seed in each process, including for the initial weights."),
    },
    "auto_scale_lr": {
        "enable": Key(bool, False, "Scale the learning rate by the total batch size of all processes."),
        "base_batch_size": Key(int | None, None, "The batch size that the learning rate was chosen for."),
    },
}
"""The keys of arguments of the Runner that are settings, not parts."""

SETTINGS_ELSEWHERE = {
    **dict.fromkeys(("backend", "timeout", "init_backend", "device_id"), "env_cfg.dist_cfg"),
    **dict.fromkeys(("mp_start_method", "opencv_num_threads"), "env_cfg.mp_cfg"),
    **dict.fromkeys(("cudnn_benchmark", "tf32", "channels_last", "resource_limit"), "env_cfg"),
    **dict.fromkeys(("seed", "deterministic", "diff_rank_seed"), "randomness"),
}
"""The places of settings that are easily put into another dictionary."""

UNSUPPORTED_ARGUMENTS = {
    "Adafactor": (
        ("scale_parameter", "relative_step", "warmup_init", "clip_threshold", "decay_rate", "beta1"),
        "this is PyTorch's Adafactor; for that of Hugging Face, install it and set type='transformers.Adafactor'",
    ),
    "LoggerHook": (("file_client_args", "backend_args"), "logs are written to the file system: out_dir is a folder"),
}
"""Arguments of parts of the same name in MMEngine, by the name of the part, with what to do instead."""

MODEL = Slot(
    ("model",), registries.MODELS, runtime=("data_preprocessor",),
    keys={
        "frozen": Key(
            str | Sequence[str] | Mapping, (),
            "Names or patterns of submodules and parameters that are not trained, or "
            "`dict(names=[...], in_checkpoint=False)` to leave them out of checkpoints, too.",
        ),
    },
)  # fmt: skip
DATA_PREPROCESSOR = Slot(("data_preprocessor",), registries.MODELS)
MODEL_WRAPPER = Slot(
    ("model_wrapper_cfg",), registries.MODEL_WRAPPERS, "MMDistributedDataParallel",
    runtime=("module", "find_unused_parameters", "device_ids", "static_graph", "gradient_as_bucket_view"),
)  # fmt: skip
STRATEGY = Slot(
    ("strategy",), registries.STRATEGIES,
    runtime=("model_wrapper_cfg", "find_unused_parameters", "sync_bn", "randomness", "optim_wrapper"),
)  # fmt: skip
TTA_MODEL = Slot(("tta_model",), registries.MODELS, runtime=("module",))
LOG_PROCESSOR = Slot(("log_processor",), registries.LOG_PROCESSORS, "LogProcessor", runtime=("by_epoch",))
VISUALIZER = Slot(
    ("visualizer",), registries.VISUALIZERS, "Visualizer", runtime=("name", "save_dir", "vis_backends")
)  # fmt: skip
DATASET = Slot(_in_every_mode("{}_dataloader.dataset"), registries.DATASETS)
SAMPLER = Slot(
    _in_every_mode("{}_dataloader.sampler"), registries.DATA_SAMPLERS, runtime=("dataset", "seed", "round_up")
)  # fmt: skip
BATCH_SAMPLER = Slot(
    _in_every_mode("{}_dataloader.batch_sampler"), registries.DATA_SAMPLERS,
    runtime=("sampler", "batch_size", "drop_last"),
)  # fmt: skip
COLLATE_FN = Slot(_in_every_mode("{}_dataloader.collate_fn"), registries.FUNCTIONS)
WORKER_INIT_FN = Slot(_in_every_mode("{}_dataloader.worker_init_fn"), registries.FUNCTIONS)
TRAIN_LOOP: Slot = Slot(
    ("train_cfg",), registries.LOOPS,
    lambda cfg: "EpochBasedTrainLoop" if TRAIN_LOOP.read(cfg, "by_epoch") else "IterBasedTrainLoop",
    runtime=("runner", "dataloader"),
    keys={"by_epoch": Key(bool, True, "Train by epochs rather than by iterations.")},
)  # fmt: skip
VAL_LOOP = Slot(("val_cfg",), registries.LOOPS, "ValLoop", runtime=("runner", "dataloader", "evaluator"))
TEST_LOOP = Slot(("test_cfg",), registries.LOOPS, "TestLoop", runtime=("runner", "dataloader", "evaluator"))
EVALUATOR = Slot(("val_evaluator", "test_evaluator"), registries.EVALUATOR, "Evaluator")
METRIC = Slot(("val_evaluator", "test_evaluator"), registries.METRICS, many=True)
PARAM_SCHEDULER = Slot(
    ("param_scheduler",), registries.PARAM_SCHEDULERS, runtime=("optimizer", "end", "epoch_length"), many=True,
    keys={
        "convert_to_iter_based": Key(bool, False, "Convert epochs to iterations, and step after every iteration."),
        "epoch_length": Key(int | None, None, "Iterations per epoch; by default, the length of the data loader."),
    },
)  # fmt: skip
OPTIM_WRAPPER = Slot(
    ("optim_wrapper",), registries.OPTIM_WRAPPERS, "OptimWrapper", runtime=("optimizer",),
    keys={
        "constructor": Key(str | type, None, "The class that builds the wrapper, in `OPTIM_WRAPPER_CONSTRUCTORS`."),
        "paramwise_cfg": Key(Mapping, None, "Per-parameter settings, read by the constructor."),
    },
)  # fmt: skip
NAMED_OPTIM_WRAPPER_KEYS = {
    "modules": Key(
        str | Sequence[str], None, "Names of the submodules and parameters to train; the key itself by default."
    ),
    "interval": Key(int, 1, "Update in every n-th iteration only; for models without their own `train_step`."),
}
"""The keys of one of several optimizer wrappers, in addition to those of :data:`OPTIM_WRAPPER`."""
OPTIM_WRAPPER_CONSTRUCTOR = Slot(
    ("optim_wrapper.constructor",), registries.OPTIM_WRAPPER_CONSTRUCTORS, "DefaultOptimWrapperConstructor",
    runtime=("optim_wrapper_cfg", "paramwise_cfg"),
)  # fmt: skip
OPTIMIZER = Slot(
    ("optim_wrapper.optimizer",), registries.OPTIMIZERS, positional=("params",), runtime=("fused", "foreach")
)
HOOK = Slot(
    ("custom_hooks", "default_hooks"), registries.HOOKS, runtime=("name",), many=True,
    keys={
        "priority": Key(int | str, None, "The priority, from 0 (called first) to 100; by default, that of its class."),
        "name": Key(str, None, "The name of its state in checkpoints; by default, its class name."),
    },
)  # fmt: skip

FIXED_SLOTS = (
    MODEL, DATA_PREPROCESSOR, MODEL_WRAPPER, TTA_MODEL, LOG_PROCESSOR, VISUALIZER, DATASET, SAMPLER, BATCH_SAMPLER,
    COLLATE_FN, WORKER_INIT_FN, TRAIN_LOOP, VAL_LOOP, TEST_LOOP, PARAM_SCHEDULER,
)  # fmt: skip
"""The slots whose parts are found by their places alone. The places of metrics, optimizers and hooks depend on the
evaluator, the constructor, and :data:`DEFAULT_HOOKS`."""

DEFAULT_HOOKS: dict[str, dict[str, Any]] = {
    "runtime_info": {"type": "RuntimeInfoHook"},
    "timer": {"type": "IterTimerHook"},
    "sampler_seed": {"type": "DistSamplerSeedHook"},
    "logger": {"type": "LoggerHook"},
    "param_scheduler": {"type": "ParamSchedulerHook"},
    "checkpoint": {"type": "CheckpointHook", "interval": 1},
    "progress": {"type": "ProgressHook"},
}
"""The hooks of every run, by the names under which ``default_hooks`` in a config changes or removes them."""

CHILD_REGISTRIES = {
    "dataset": registries.DATASETS, "datasets": registries.DATASETS, "sampler": registries.DATA_SAMPLERS,
    "pipeline": registries.TRANSFORMS, "transforms": registries.TRANSFORMS, "batch_transforms": registries.TRANSFORMS,
    "data_preprocessor": registries.MODELS, "init_cfg": registries.WEIGHT_INITIALIZERS,
    "optimizer": registries.OPTIMIZERS, "metrics": registries.METRICS, "vis_backends": registries.VISBACKENDS,
}  # fmt: skip
"""The registry of nested parts, by argument name; for other arguments, the registry of the outer part."""

NOT_PARTS = frozenset(["clip_grad", "on_trace_ready", "override", "file_handler_cfg", "when"])
"""Arguments whose ``type`` is not looked up in a registry."""

FOREIGN_MODULES: list[str] = []
"""Modules in which classes of other libraries look up names of their own, without a registry."""
