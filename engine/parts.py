"""The grammar of a config: which parts and keys it has, what they default to, and what the engine adds to them.

Nothing else lists them: builders build through the slots, and ``check`` walks them.
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
    """A key that the engine itself reads.

    Args:
        type: annotation that its values must fit.
        default: its value where the config does not set it.
        meaning: what it does, in one sentence.
    """

    type: Any
    default: Any
    meaning: str


@dataclass(frozen=True)
class Slot:
    """A place in a config that describes a part.

    Args:
        places: its dotted paths.
        registry: where the ``type`` of the part is looked up.
        default: the ``type`` of a config that names none, or a function of the config that returns it.
        positional: the arguments that the engine passes by position, under whatever name the part takes them.
        runtime: the arguments that the engine may pass by name.
        keys: the keys that the engine reads itself and does not pass.
        many: whether there may also be a list of parts, or lists of them by name.
    """

    places: tuple[str, ...]
    registry: Registry
    default: str | Callable[[Mapping[str, Any]], str] | None = None
    positional: tuple[str, ...] = ()
    runtime: tuple[str, ...] = ()
    keys: Mapping[str, Key] = field(default_factory=dict)
    many: bool = False

    def build(self, cfg: Any, *args: Any, path: str = "", **runtime: Any) -> Any:
        """Build the part that a config describes; anything but a config is returned unchanged.

        Args:
            cfg: the config. For a function, its name is enough.
            *args: the positional arguments of the slot.
            path: dotted path of ``cfg``, for messages; the first place of the slot if empty.
            **runtime: arguments that the config does not know. Its own values take precedence.

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
        """Return a config without the keys that the engine reads."""
        if self.keys.keys().isdisjoint(cfg):
            return cfg
        arguments: Any = copy.copy(cfg)  # unlike a new dict, it has the origins
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
        """Yield the path and config of each part that a whole config describes in this slot."""
        for place in self.places:
            value: Any = cfg
            for key in place.split("."):
                value = value.get(key) if isinstance(value, Mapping) else None
            yield from _configs(value, place, self.many)


def _configs(value: Any, path: str, many: bool) -> Iterator[tuple[str, Mapping[str, Any]]]:
    several: Iterable[tuple[Any, Any]] = ()
    if many and isinstance(value, list | tuple):
        several = enumerate(value)
    elif isinstance(value, Mapping):
        if many and all(isinstance(item, Mapping | list | tuple) for item in value.values()):
            several = value.items()
        else:
            yield path, value
    for key, item in several:
        yield from _configs(item, f"{path}.{key}", many)


def mismatched_parts(cfg: Mapping[str, Any]) -> Iterator[ConfigError]:
    """Yield the mistake of each loader, loop and evaluator (or optimizer) without its companions."""
    for needed in MODES.values():
        there = [key for key in needed if cfg.get(key) is not None]
        if there and len(there) < len(needed):
            missing = next(key for key in needed if key not in there)
            message = f"missing, though {' and '.join(there)} {'is' if len(there) == 1 else 'are'} set"
            hint = f"{', '.join(needed)} belong together: set all three or none"
            yield ConfigError(missing, message, hint, origin_of(cfg, there[0]))
    if cfg.get("param_scheduler") is not None and cfg.get("optim_wrapper") is None:
        message, hint = "there is no optimizer to schedule", "set optim_wrapper, or remove it"
        yield ConfigError("param_scheduler", message, hint, origin_of(cfg, "param_scheduler"))


def contradicts_by_epoch(train_cfg: Mapping[str, Any], loop: Any) -> ConfigError | None:
    """Return the mistake of a ``train_cfg`` whose ``by_epoch`` is not that of the loop its ``type`` names, or None."""
    by_epoch = getattr(loop, "by_epoch", None)
    if by_epoch is None or bool(train_cfg.get("by_epoch", by_epoch)) == by_epoch:
        return None
    name, unit = getattr(loop, "__name__", loop), "epochs" if by_epoch else "iterations"
    message = f"{train_cfg['by_epoch']} contradicts the type: {name} trains by {unit}"
    return ConfigError("train_cfg.by_epoch", message, "set only one of them", origin_of(train_cfg, "by_epoch"))


def unknown_settings(argument: str, cfg: Mapping[str, Any]) -> Iterator[ConfigError]:
    """Yield the mistake of each unknown key in one of the :data:`RUNNER_ARGUMENT_KEYS`."""
    known = RUNNER_ARGUMENT_KEYS[argument]
    for key in cfg:
        if key not in known:
            hint = did_you_mean(key, known) or f"known are {', '.join(known)}"
            yield ConfigError(f"{argument}.{key}", "unknown setting", hint, origin_of(cfg, key))


def setting(cfg: Mapping[str, Any], key: str) -> Any:
    """Return one of :data:`TOP_LEVEL_KEYS` from a whole config, or its default."""
    value = cfg.get(key)
    return TOP_LEVEL_KEYS[key].default if value is None else value


def _in_every_mode(place: str) -> tuple[str, ...]:
    return tuple(place.format(mode) for mode in MODES)


MODES = {
    "train": ("train_dataloader", "train_cfg", "optim_wrapper"),
    "val": ("val_dataloader", "val_cfg", "val_evaluator"),
    "test": ("test_dataloader", "test_cfg", "test_evaluator"),
}
"""What a run can do, and the keys that each of these needs: all of them or none."""

TOP_LEVEL_KEYS = {
    "activation_checkpointing": Key(
        str | Sequence[str], None, "Names of submodules whose activations are recomputed in the backward pass."
    ),
    "compile": Key(bool | Mapping, False, "Compile the model's forward; a dict has the arguments of `torch.compile`."),
    "custom_imports": Key(Mapping, None, "Modules to import before anything is built: `dict(imports=[...])`."),
    "find_unused_parameters": Key(
        bool, False, "Whether the model wrapper looks for parameters that get no gradient in an iteration."
    ),
    "inference_pipeline": Key(Sequence, None, "The transforms of an `Inferencer`; by default, `test_pipeline`."),
    "inferencer_type": Key(str | type, "Inferencer", "The inferencer of `trainwright predict`."),
    "model_wrapper_cfg": Key(
        Mapping, {"broadcast_buffers": False}, "What wraps the model if several processes train together."
    ),
    "runner_type": Key(str | type, "Runner", "The class of the runner."),
    "sync_bn": Key(bool | str, None, "Use `SyncBatchNorm` in place of batch norm if several processes train together."),
    "test_pipeline": Key(Sequence, None, "The transforms of an `Inferencer`; by default, those of the test dataset."),
    "tta_model": Key(Mapping, None, "What merges the predictions in test-time augmentation, `test --tta`."),
    "tta_pipeline": Key(Sequence, None, "The transforms of the test dataset in test-time augmentation."),
}
"""The keys of a whole config beside the arguments of the Runner, whose docstring describes those."""

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

UNSUPPORTED_KEYS = {"efficient_conv_bn_eval": "batch normalization is folded by `compile`, or on export"}
"""Top-level keys of MMEngine that are not supported, and what to use instead."""

DATALOADER_KEYS = {
    "dataset": Key(Any, None, "The dataset."),
    "sampler": Key(Any, None, "The sampler; by default `DefaultSampler`, which shuffles in training."),
    "batch_sampler": Key(Any, None, "The batch sampler."),
    "collate_fn": Key(Any, None, "The function that makes a batch of samples, by its name or as a config."),
    "worker_init_fn": Key(Any, None, "A function that each worker calls with its number, by its name or as a config."),
    "num_batch_per_epoch": Key(int | None, None, "How many batches of the dataset an epoch has; all by default."),
    "skip_bad_samples": Key(
        int | bool | None, 0, "How many samples that raise an error may be replaced by the samples after them."
    ),
    "disable_subprocess_warning": Key(bool, False, "Accepted and without effect."),
}
"""The keys of a data loader beside the arguments of ``torch.utils.data.DataLoader``."""

RUNNER_ARGUMENT_KEYS = {
    "env_cfg": {
        "cudnn_benchmark": Key(bool, False, "Let cuDNN choose the fastest algorithms."),
        "mp_cfg": Key(Mapping, None, "Of the workers: `mp_start_method` and `opencv_num_threads`."),
        "dist_cfg": Key(Mapping, None, "Arguments of `init_dist`."),
        "resource_limit": Key(int, 4096, "How many files each process may at least have open."),
    },
    "randomness": {
        "seed": Key(int | None, None, "The seed of everything random; drawn if it is None."),
        "deterministic": Key(bool, False, "Refuse algorithms whose result differs from run to run."),
        "diff_rank_seed": Key(bool, False, "Give each process another seed, also for the initial weights."),
    },
    "auto_scale_lr": {
        "enable": Key(bool, False, "Scale the learning rate by the batch size of all processes together."),
        "base_batch_size": Key(int | None, None, "The batch size that the learning rate was chosen for."),
    },
}
"""The keys of the Runner's arguments that are settings and not parts."""

MODEL = Slot(("model",), registries.MODELS, runtime=("data_preprocessor",))
DATA_PREPROCESSOR = Slot(("data_preprocessor",), registries.MODELS)
MODEL_WRAPPER = Slot(
    ("model_wrapper_cfg",), registries.MODEL_WRAPPERS, "MMDistributedDataParallel",
    runtime=("module", "find_unused_parameters", "device_ids"),
)  # fmt: skip
TTA_MODEL = Slot(("tta_model",), registries.MODELS, runtime=("module",))
LOG_PROCESSOR = Slot(("log_processor",), registries.LOG_PROCESSORS, "LogProcessor", runtime=("by_epoch",))
VISUALIZER = Slot(
    ("visualizer",), registries.VISUALIZERS, "Visualizer", runtime=("name", "save_dir", "vis_backends")
)  # fmt: skip
DATASET = Slot(_in_every_mode("{}_dataloader.dataset"), registries.DATASETS)
SAMPLER = Slot(_in_every_mode("{}_dataloader.sampler"), registries.DATA_SAMPLERS, runtime=("dataset", "seed"))
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
    keys={"by_epoch": Key(bool, True, "Train by epochs, or by iterations.")},
)  # fmt: skip
VAL_LOOP = Slot(("val_cfg",), registries.LOOPS, "ValLoop", runtime=("runner", "dataloader", "evaluator"))
TEST_LOOP = Slot(("test_cfg",), registries.LOOPS, "TestLoop", runtime=("runner", "dataloader", "evaluator"))
EVALUATOR = Slot(("val_evaluator", "test_evaluator"), registries.EVALUATOR, "Evaluator")
METRIC = Slot(("val_evaluator", "test_evaluator"), registries.METRICS, many=True)
PARAM_SCHEDULER = Slot(
    ("param_scheduler",), registries.PARAM_SCHEDULERS, runtime=("optimizer", "end", "epoch_length"), many=True,
    keys={
        "convert_to_iter_based": Key(bool, False, "Take the settings in epochs, and step after every iteration."),
        "epoch_length": Key(int | None, None, "Iterations in an epoch, for the conversion; by default the loader's."),
    },
)  # fmt: skip
OPTIM_WRAPPER = Slot(
    ("optim_wrapper",), registries.OPTIM_WRAPPERS, "OptimWrapper", runtime=("optimizer",),
    keys={
        "constructor": Key(str | type, None, "The class that builds both; see `OPTIM_WRAPPER_CONSTRUCTORS`."),
        "paramwise_cfg": Key(Mapping, None, "Settings that differ by parameter; the constructor reads them."),
    },
)  # fmt: skip
OPTIM_WRAPPER_CONSTRUCTOR = Slot(
    ("optim_wrapper.constructor",), registries.OPTIM_WRAPPER_CONSTRUCTORS, "DefaultOptimWrapperConstructor",
    runtime=("optim_wrapper_cfg", "paramwise_cfg"),
)  # fmt: skip
OPTIMIZER = Slot(("optim_wrapper.optimizer",), registries.OPTIMIZERS, positional=("params",), runtime=("fused",))
HOOK = Slot(
    ("custom_hooks", "default_hooks"), registries.HOOKS, runtime=("name",), many=True,
    keys={
        "priority": Key(int | str, None, "When it is called, from 0 (first) to 100; by default, as its class says."),
        "name": Key(str, None, "The name of its state in checkpoints; by default, its class."),
    },
)  # fmt: skip

FIXED_SLOTS = (
    MODEL, DATA_PREPROCESSOR, MODEL_WRAPPER, TTA_MODEL, LOG_PROCESSOR, VISUALIZER, DATASET, SAMPLER, BATCH_SAMPLER,
    COLLATE_FN, WORKER_INIT_FN, TRAIN_LOOP, VAL_LOOP, TEST_LOOP, PARAM_SCHEDULER,
)  # fmt: skip
"""The slots whose parts are found by their places alone. Where there are metrics, optimizers and hooks depends on the
evaluator, on the constructor, and on :data:`DEFAULT_HOOKS`."""

DEFAULT_HOOKS: dict[str, dict[str, Any]] = {
    "runtime_info": {"type": "RuntimeInfoHook"},
    "timer": {"type": "IterTimerHook"},
    "sampler_seed": {"type": "DistSamplerSeedHook"},
    "logger": {"type": "LoggerHook"},
    "param_scheduler": {"type": "ParamSchedulerHook"},
    "checkpoint": {"type": "CheckpointHook", "interval": 1},
    "progress": {"type": "ProgressHook"},
}
"""The hooks of every run; ``default_hooks`` in a config changes or removes them by these names."""

CHILD_REGISTRIES = {
    "dataset": registries.DATASETS, "datasets": registries.DATASETS, "sampler": registries.DATA_SAMPLERS,
    "pipeline": registries.TRANSFORMS, "transforms": registries.TRANSFORMS, "batch_transforms": registries.TRANSFORMS,
    "data_preprocessor": registries.MODELS, "init_cfg": registries.WEIGHT_INITIALIZERS,
    "optimizer": registries.OPTIMIZERS, "metrics": registries.METRICS, "vis_backends": registries.VISBACKENDS,
}  # fmt: skip
"""The registry of the parts inside another part, by the argument that has them; otherwise, that of the other part."""

NOT_PARTS = frozenset(["clip_grad", "on_trace_ready", "override", "file_handler_cfg", "when"])
"""Arguments that may have a ``type`` which is not looked up in a registry."""
