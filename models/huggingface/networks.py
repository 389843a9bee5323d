"""Networks and image processors of Hugging Face's transformers: from a name, a folder, or a config without weights."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import nn

from trainwright.engine.errors import CheckpointError, ConfigError, MissingExtraError, did_you_mean
from trainwright.engine.records.logger import get_logger
from trainwright.models.pretrained import build_pretrained

ConfigLike = str | Mapping[str, Any]

# Auto classes for each task, without the prefix AutoModelFor; the first one that has the type of model is used.
TASKS = {
    "image classification": ("ImageClassification",),
    "video classification": ("VideoClassification",),
    "object detection": ("ObjectDetection",),
    "semantic segmentation": ("SemanticSegmentation", "UniversalSegmentation"),
    "instance segmentation": ("UniversalSegmentation",),
    "depth estimation": ("DepthEstimation",),
    "pose estimation": ("PoseEstimation",),
    "images and texts": ("ZeroShotImageClassification",),
}
# Types of model for a task, if its auto classes have others.
_TYPES = {"images and texts": {"altclip", "chinese_clip", "clip", "metaclip_2", "siglip"}}
_LISTED = 8


def import_transformers(purpose: str) -> Any:
    """Return the package ``transformers``.

    Raises:
        MissingExtraError: it is not installed.
    """
    try:
        import transformers
    except ModuleNotFoundError as error:
        raise MissingExtraError("transformers", "transformers", purpose) from error
    return transformers


def build_network(
    task: str, pretrained: str | None, config: ConfigLike | None, num_labels: int | None
) -> tuple[nn.Module, tuple[str, ...]]:
    """Build a network, and load its weights if ``pretrained`` is given.

    Args:
        task: one of :data:`TASKS`.
        pretrained: name on the Hugging Face Hub, or a folder, with weights.
        config: see :class:`HuggingFaceClassifier`.
        num_labels: number of outputs; that of the pretrained weights or of the config if None.

    Returns:
        The network, and the names of the classes that the outputs of its weights stand for; none if they are unknown or
        the last layer is new.

    Raises:
        MissingExtraError: transformers is not installed.
        ConfigError: the config is incomplete or has mistakes, or the type of model is not for this task.
        CheckpointError: the files are missing or cannot be downloaded.
    """
    import_transformers(f"a model for {task}")
    hf_config = _build_config(task, pretrained, config)
    trained_classes = _class_names(hf_config) if pretrained is not None else ()
    if num_labels is not None and num_labels != hf_config.num_labels:
        hf_config.num_labels = num_labels
        trained_classes = ()
    auto_class = _auto_class(task, hf_config.model_type)
    if pretrained is None:
        return _from_config(auto_class, hf_config), ()
    network = build_pretrained(
        lambda: _from_pretrained(auto_class, pretrained, hf_config), lambda: _from_config(auto_class, hf_config)
    )
    return network, trained_classes


def build_image_processor(network: nn.Module, pretrained: str | None, options: Mapping[str, Any] | None) -> Any:
    """Return the image processor of a network.

    Args:
        network: the network.
        pretrained: name or folder of its weights, whose ``preprocessor_config.json`` is used if there is one.
        options: settings that replace those of the image processor, such as ``dict(size=256)``;
            ``image_processor_type`` names another class.

    Raises:
        ConfigError: the image processor has no such option, or transformers knows none for the network.
    """
    transformers = import_transformers("an image processor")
    config: Any = network.config
    default = _processor_class(config.model_type, options)
    processor_class = default
    options = {key: value for key, value in (options or {}).items() if key != _PROCESSOR_TYPE}
    if pretrained is not None:
        try:
            with reading(pretrained), _quiet():
                found = transformers.AutoImageProcessor.from_pretrained(pretrained, backend="torchvision")
        except CheckpointError:
            if not Path(pretrained).is_dir():
                raise
            get_logger().info("%s has no preprocessor_config.json: %s", pretrained, _defaults_of(default))
        else:
            processor_class, options = type(found), {**_settings(found), **(_checked(type(found), options))}
    if processor_class is None:
        hint = "set image_processor=dict(image_processor_type=...) to a class of transformers"
        raise ConfigError("image_processor", f"transformers has none for the type {config.model_type!r}", hint)
    return processor_class(**_checked(processor_class, options))


def check_model_config(task: str, pretrained: Any, config: Any) -> Iterator[ConfigError]:
    """Yield the mistakes in the ``config`` of a network that can be found without files or a network connection.

    Args:
        task: one of :data:`TASKS`.
        pretrained: name or folder of the weights, or None.
        config: the config.

    Raises:
        MissingExtraError: transformers is not installed.
    """
    if pretrained is None and config is None:
        yield ConfigError("config", f"neither config nor pretrained is given for {task}", _NEITHER)
    if not isinstance(config, Mapping):
        return
    import_transformers(f"a model for {task}")
    model_type = config.get("model_type")
    if model_type is None:
        if pretrained is None:
            yield _without_type(task, config)
        return
    known = _types_for(task)
    if model_type not in known:
        yield _unknown_type(task, model_type, known)
        return
    unknown = list(_unknown_keys(config, config_class_of(model_type), "config"))
    yield from unknown
    if not unknown and "backbone" not in config:  # which might be looked up on the hub
        try:
            _instantiated(config)
        except ConfigError as error:
            yield error


def check_processor_options(options: Any, config: Any) -> Iterator[ConfigError]:
    """Yield the unknown options of an image processor, if its class is known from the type of model in a config."""
    model_type = config.get("model_type") if isinstance(config, Mapping) else None
    if not isinstance(options, Mapping) or model_type is None:
        return
    try:
        default = _processor_class(model_type, options)
    except ConfigError as error:
        yield error
        return
    if default is not None:
        yield from _unknown_options(default, {key: value for key, value in options.items() if key != _PROCESSOR_TYPE})


def class_names_config(names: Sequence[str]) -> dict[str, Any]:
    """Return the entries of a transformers config that name the classes."""
    return {"id2label": dict(enumerate(names)), "label2id": {name: index for index, name in enumerate(names)}}


_PROCESSOR_TYPE = "image_processor_type"
# The classes that transformers only names in the files of its weights.
_PROCESSOR_TYPES = {
    "d_fine": "RTDetrImageProcessor",
    "rt_detr_v2": "RTDetrImageProcessor",
    "dab-detr": "ConditionalDetrImageProcessor",
    "dinov2_with_registers": "BitImageProcessor",
}
_BACKBONE_KEYS = {"backbone", "backbone_kwargs", "use_timm_backbone", "use_pretrained_backbone"}
_COMMON_KEYS = {"model_type", "num_labels", "attn_implementation", "_attn_implementation", "architectures"}
_NEITHER = "set config=dict(model_type=...), or pretrained to a name on the Hugging Face Hub or a folder"


def _build_config(task: str, pretrained: str | None, config: ConfigLike | None) -> Any:
    from transformers import AutoConfig

    for error in check_model_config(task, pretrained, config):
        raise error
    if pretrained is not None:
        if isinstance(config, str):
            raise ConfigError("config", "the weights have their own", "give a dict with changes to it, or remove it")
        changes = dict(config or {})
        with reading(pretrained):
            found = AutoConfig.from_pretrained(pretrained)
            own_type = changes.pop("model_type", found.model_type)
            if own_type != found.model_type:
                raise ConfigError("config.model_type", f"{own_type!r}, but {pretrained} is a {found.model_type!r}")
            for error in _unknown_keys(changes, type(found), "config"):
                raise error
            return AutoConfig.from_pretrained(pretrained, **changes) if changes else found
    if isinstance(config, str):
        with reading(config):
            return AutoConfig.from_pretrained(config)
    assert config is not None  # checked above
    return _instantiated(config)


def _instantiated(config: Mapping[str, Any]) -> Any:
    from huggingface_hub.errors import StrictDataclassError

    values = {key: _plain(value) for key, value in config.items() if key != "model_type"}
    try:
        with _quiet():  # defaults of SigLIP contradict each other
            return config_class_of(config["model_type"])(**values)
    except (TypeError, ValueError, StrictDataclassError) as error:
        raise ConfigError("config", f"transformers refuses it: {' '.join(str(error).split())}") from error


def _auto_class(task: str, model_type: str) -> Any:
    import transformers

    for name in TASKS[task]:
        auto_class = getattr(transformers, f"AutoModelFor{name}")
        if model_type in _types_for(task) and model_type in _types_of(auto_class):
            return auto_class
    raise _unknown_type(task, model_type, _types_for(task))


def _from_config(auto_class: Any, config: Any) -> nn.Module:
    import torch

    with _quiet():
        return _ready(auto_class.from_config(config, dtype=torch.float32))


def _from_pretrained(auto_class: Any, pretrained: str, config: Any) -> nn.Module:
    import torch

    with reading(pretrained), _quiet():
        network, report = auto_class.from_pretrained(
            pretrained, config=config, dtype=torch.float32, ignore_mismatched_sizes=True, output_loading_info=True
        )
    get_logger().info("Loaded the weights of %s into %s", pretrained, type(network).__name__)
    if problems := "\n".join(_described(report)):
        get_logger().warning("Not all weights of %s were loaded:\n%s", pretrained, problems)
    return _ready(network)


def _ready(network: Any) -> nn.Module:
    """Return a network in training mode that `init_weights` of the model around it leaves as it is."""
    network.is_init = True
    network.train()
    return network  # type: ignore[no-any-return]


def _described(report: Mapping[str, Any]) -> Iterator[str]:
    """Describe what did not fit, as for the checkpoints of other networks."""
    shapes = sorted(
        f"{name} ({tuple(theirs)} in the weights, {tuple(own)} in the model)"
        for name, theirs, own in report["mismatched_keys"]
    )
    for reason, names in (
        ("different shapes, not loaded", shapes),
        ("missing from the weights", sorted(report["missing_keys"])),
        ("not in the model", sorted(report["unexpected_keys"])),
    ):
        if names:
            more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
            yield f"    {reason}: {', '.join(names[:_LISTED])}{more}"


def _class_names(config: Any) -> tuple[str, ...]:
    """Return the names of the outputs, made unique; none if they have no real names."""
    names = [str(config.id2label[index]) for index in sorted(config.id2label or {})]
    if all(name == f"LABEL_{index}" for index, name in enumerate(names)):
        return ()
    return tuple(f"{name} {index}" if names.count(name) > 1 else name for index, name in enumerate(names))


def _types_of(auto_class: Any) -> set[str]:
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

    classes = set(auto_class._model_mapping._model_mapping)
    return classes & set(CONFIG_MAPPING_NAMES)


def _types_for(task: str) -> set[str]:
    import transformers

    found = {each for name in TASKS[task] for each in _types_of(getattr(transformers, f"AutoModelFor{name}"))}
    return found & _TYPES.get(task, found)


def config_class_of(model_type: str) -> Any:
    """Return the config class of a known type of model."""
    from transformers import CONFIG_MAPPING

    return CONFIG_MAPPING[model_type]


def part_class(config_class: Any, key: str) -> Any:
    """Return the class of a part of a config, such as ``text_config``; None if it may have several."""
    found = config_class.sub_configs.get(key)
    return found if hasattr(found, "__dataclass_fields__") else None


def _unknown_type(task: str, model_type: Any, known: set[str]) -> ConfigError:
    hint = did_you_mean(str(model_type), known) or f"the types are {', '.join(sorted(known))}"
    return ConfigError("config.model_type", f"transformers has no model for {task} of the type {model_type!r}", hint)


def _without_type(task: str, config: Mapping[str, Any]) -> ConfigError:
    similar = next((key for key in config if did_you_mean(str(key), ["model_type"])), None)
    hint = f"did you mean 'model_type', not {similar!r}?" if similar else "such as model_type='resnet'"
    return ConfigError("config", f"a config without weights for {task} needs a model_type", hint)


def _unknown_keys(config: Mapping[str, Any], config_class: Any, path: str) -> Iterator[ConfigError]:
    """Yield an error for each key that a config class, or that of a part, does not have."""
    import dataclasses

    from transformers import CONFIG_MAPPING

    fields = {each.name for each in dataclasses.fields(config_class)}
    properties = {name for name in dir(config_class) if isinstance(getattr(config_class, name, None), property)}
    known = {name for name in fields | properties | set(config_class.attribute_map) if not name.startswith("_")}
    for key, value in config.items():
        if key in _COMMON_KEYS or (key in _BACKBONE_KEYS and "backbone_config" in fields):
            continue
        if key not in known:
            hint = did_you_mean(key, known)
            message = f"{config_class.__name__} has no such entry"
            yield ConfigError(f"{path}.{key}", message, hint or "see the documentation of transformers")
        elif isinstance(value, Mapping) and key.endswith("config"):
            if "model_type" not in value:
                if (part := part_class(config_class, key)) is not None:
                    yield from _unknown_keys(value, part, f"{path}.{key}")
            elif (inner := value["model_type"]) not in CONFIG_MAPPING:
                hint = did_you_mean(str(inner), CONFIG_MAPPING)
                message = f"transformers has no model of the type {inner!r}"
                yield ConfigError(f"{path}.{key}.model_type", message, hint)
            else:
                yield from _unknown_keys(value, CONFIG_MAPPING[inner], f"{path}.{key}")


def _processor_class(model_type: str, options: Mapping[str, Any] | None) -> Any:
    """Return the image processor class for a type of model, or the one in the options; None if there is none.

    Raises:
        ConfigError: transformers has no class of the name in the options.
    """
    import transformers
    from transformers.models.auto.image_processing_auto import (
        IMAGE_PROCESSOR_MAPPING,
        IMAGE_PROCESSOR_MAPPING_NAMES,
        get_image_processor_class_from_name,
    )

    name = (options or {}).get(_PROCESSOR_TYPE) or _PROCESSOR_TYPES.get(model_type)
    if name is None:
        classes = IMAGE_PROCESSOR_MAPPING.get(config_class_of(model_type), None)
        return classes.get("torchvision") if isinstance(classes, Mapping) else classes
    if (found := get_image_processor_class_from_name(name)) is None:
        known = {each for names in IMAGE_PROCESSOR_MAPPING_NAMES.values() for each in names.values() if each}
        message = f"transformers {transformers.__version__} has no image processor {name!r}"
        raise ConfigError(f"image_processor.{_PROCESSOR_TYPE}", message, did_you_mean(name, known))
    return found


def _plain(value: Any) -> Any:
    """Return containers of a config as those that transformers takes."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


def _settings(processor: Any) -> dict[str, Any]:
    """Return the options that an image processor was loaded with."""
    known = processor.valid_kwargs.__annotations__
    return {key: value for key, value in processor.to_dict().items() if key in known and value is not None}


def _checked(processor_class: Any, options: Mapping[str, Any] | None) -> dict[str, Any]:
    for error in _unknown_options(processor_class, options or {}):
        raise error
    return {key: _plain(value) for key, value in (options or {}).items()}


def _unknown_options(processor_class: Any, options: Mapping[str, Any]) -> Iterator[ConfigError]:
    known = set(processor_class.valid_kwargs.__annotations__)
    for key in options:
        if key not in known:
            hint = did_you_mean(key, known) or f"it takes {', '.join(sorted(known))}"
            yield ConfigError(f"image_processor.{key}", f"{processor_class.__name__} takes no such option", hint)


def _defaults_of(processor_class: Any) -> str:
    return f"the defaults of {getattr(processor_class, '__name__', 'its image processor')} are used"


@contextmanager
def reading(source: str) -> Iterator[None]:
    """Convert errors while files are read or downloaded.

    Raises:
        CheckpointError: a file is missing or cannot be downloaded.
    """
    try:
        yield
    except (OSError, ValueError) as error:  # includes the download errors of huggingface_hub
        if isinstance(error, ConfigError | CheckpointError):
            raise
        if Path(source).is_dir():
            raise CheckpointError(f"{source} cannot be loaded by transformers: {error}") from error
        raise CheckpointError(
            f"{source} is neither a folder nor can it be downloaded from the Hugging Face Hub: {_first_line(error)} "
            "Without network access, fill the cache beforehand (`hf download` on a machine with access; HF_HOME sets "
            "its location) and set HF_HUB_OFFLINE=1, or give a folder with config.json, model.safetensors and "
            "preprocessor_config.json"
        ) from error


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the reports and progress bars of transformers; what matters in them is logged by us."""
    from transformers.utils import logging

    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
