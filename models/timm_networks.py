"""Networks of timm by name: classifiers, and backbones that return feature maps."""

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from trainwright.engine.errors import CheckpointError, ConfigError, MissingExtraError, did_you_mean
from trainwright.engine.registry import MODELS
from trainwright.engine.run.model_setup import load_pretrained
from trainwright.models.pretrained import (
    build_pretrained,
    build_without_weights,
    check_argument_names,
    load_weights_of_any_channels,
    read_backbone,
    unknown_arguments,
)

# Networks with a fixed input size take images of any size with one of these, depending on their class.
_ANY_SIZE: tuple[dict[str, Any], ...] = (
    {"dynamic_img_size": True, "dynamic_img_pad": True},
    {"dynamic_img_size": True},
    {"strict_img_size": False},
)
_SOURCES = ("hf-hub:", "local-dir:")
_ONLY_FOR_FEATURES = ("features_only", "out_indices", "feature_cls")


@MODELS.register_module()
def TimmModel(
    name: str, num_classes: int = 1000, weights: str | None = None, in_channels: int = 3, **kwargs: Any
) -> nn.Module:
    """Build a timm classification network.

    Args:
        name: name in timm, such as ``resnet18`` or ``vit_tiny_patch16_224``, with or without a tag that selects the
            weights, as in ``resnet18.a1_in1k``; or ``hf-hub:`` and a name on the Hugging Face Hub, or ``local-dir:``
            and a folder.
        num_classes: number of classes; 0 to return features instead of logits.
        weights: ``DEFAULT`` for timm's weights, which are downloaded, or a checkpoint file: of timm, or of one of our
            models with this network as its ``backbone``. Layers of a file that do not fit are skipped and logged.
        in_channels: number of image channels; 1 for grayscale.
        **kwargs: further arguments of ``timm.create_model``.

    Raises:
        MissingExtraError: timm is not installed.
        ConfigError: timm has no such network or weights, or the network no such argument.
        CheckpointError: the weights cannot be downloaded.
    """
    check_timm_name(name, weights)
    check_argument_names(kwargs)
    create = partial(_create, name, num_classes=num_classes, in_chans=in_channels, **kwargs)
    if weights == "DEFAULT":
        return build_pretrained(partial(_download, create, name), create)
    model: nn.Module = _build(create, name, ("num_classes", "weights", "in_channels"))
    if weights is not None:
        load_pretrained(model, lambda network: load_weights_of_any_channels(network, read_backbone(weights), weights))
    return model


def _mistake_in_model(cfg: Mapping[str, Any]) -> Iterator[ConfigError]:
    name = cfg.get("name")
    if not isinstance(name, str):
        return
    try:
        check_timm_name(name, cfg.get("weights"))
        if not name.startswith(_SOURCES):  # which might be looked up on the hub
            build_without_weights(TimmModel, cfg)
    except ConfigError as error:
        yield error


TimmModel.check_config = _mistake_in_model  # type: ignore[attr-defined]


@MODELS.register_module()
class TimmFeatures(nn.Module):
    """A timm network that returns feature maps, as a backbone of detectors, segmentors and pose estimators.

    It returns a tuple of feature maps of shape (N, C, H, W), from fine to coarse. Layers after the last one are
    removed. Vision transformers and Swin transformers take images of any size.

    Example:
        >>> TimmFeatures("resnet50.a1_in1k", out_indices=(1, 2, 3, 4), weights="DEFAULT")
        >>> TimmFeatures("swin_tiny_patch4_window7_224")
        >>> TimmFeatures("vit_small_patch16_224", out_indices=(-1,), img_size=(256, 192))

    Args:
        name: name in timm, see :func:`TimmModel`.
        out_indices: the feature maps to return, in ascending order, counted from 0, or from the end if negative. By
            default all of a network with several strides, and the last three blocks of a vision transformer.
        weights: ``DEFAULT`` for timm's weights, which are downloaded, or a checkpoint file: of timm, or of one of our
            models with this network as its ``backbone``. Layers of a file that do not fit are skipped and logged.
        in_channels: number of image channels; 1 for grayscale.
        **kwargs: further arguments of ``timm.create_model``, such as ``drop_path_rate``, ``output_stride`` or
            ``img_size``.

    Attributes:
        feature_channels: number of channels of each feature map.
        feature_strides: distance of the values of each feature map, in pixels of the image.
        num_features: number of channels of the last feature map.

    Raises:
        MissingExtraError: timm is not installed.
        ConfigError: timm has no such network, or the network has no such feature maps or arguments.
        CheckpointError: the weights cannot be downloaded, or none of them fits.
    """

    def __init__(
        self,
        name: str,
        out_indices: Sequence[int] | None = None,
        weights: str | None = None,
        in_channels: int = 3,
        **kwargs: Any,
    ) -> None:
        super().__init__()
        check_timm_name(name, weights)
        create, network = _find_features(name, out_indices, in_channels, kwargs)
        if weights == "DEFAULT":
            network = build_pretrained(partial(_download, create, name), create)
        elif weights is not None:
            load_pretrained(network, lambda module: _load_features(module, create, weights))
        self.network: Any = network
        self.feature_channels: tuple[int, ...] = tuple(network.feature_info.channels())
        self.feature_strides: tuple[int, ...] = tuple(network.feature_info.reduction())
        self.num_features = self.feature_channels[-1]
        self._channels_last = str(getattr(network, "output_fmt", "")).endswith("NHWC")
        self._name = name
        self._fixed_size = _fixed_size(network.pretrained_cfg, create.keywords)

    @classmethod
    def check_config(cls, cfg: Mapping[str, Any]) -> Iterator[ConfigError]:
        """Yield the mistake in a config, with a path inside it, without allocating weights."""
        settings = {key: value for key, value in cfg.items() if key not in ("type", "_scope_", "weights")}
        name = settings.pop("name", None)
        if not isinstance(name, str):
            return
        try:
            check_timm_name(name, cfg.get("weights"))
            if not name.startswith(_SOURCES):  # which might be looked up on the hub
                with torch.device("meta"):
                    _find_features(name, settings.pop("out_indices", None), settings.pop("in_channels", 3), settings)
        except ConfigError as error:
            yield error

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Return the feature maps.

        Args:
            images: float, of shape (N, in_channels, H, W).

        Raises:
            ConfigError: the network does not take images of this size.
        """
        try:
            features = self.network(images)
        except (AssertionError, RuntimeError) as error:
            if mistake := self._size_mistake(images.shape[-2:], error):
                raise mistake from error
            raise
        if self._channels_last:
            return tuple(level.permute(0, 3, 1, 2) for level in features)
        return tuple(features)

    def _size_mistake(self, size: Sequence[int], error: Exception) -> ConfigError | None:
        """Return the error for images of a size that the network does not take, or None if it is not to blame."""
        height, width = size
        if isinstance(error, torch.OutOfMemoryError):
            return None
        if self._fixed_size is not None and self._fixed_size != (height, width):
            message = f"{self._name} takes images of {self._fixed_size} only, not {(height, width)}: {error}"
            hint = "resize all images, set img_size=(height, width), or use a network that takes any size"
            return ConfigError("img_size", message, hint)
        stride = max(32, *self.feature_strides)
        if height % stride or width % stride:
            message = f"{self._name} cannot process images of {(height, width)}: {error}"
            return ConfigError("data_preprocessor.pad_size_divisor", message, f"pad them: pad_size_divisor={stride}")
        return None


def import_timm(purpose: str) -> Any:
    """Return the package ``timm``.

    Raises:
        MissingExtraError: it is not installed.
    """
    try:
        import timm  # type: ignore[import-not-found,unused-ignore]
    except ModuleNotFoundError as error:
        raise MissingExtraError("timm", "timm", purpose) from error
    return timm


def check_timm_name(name: str, weights: Any = None, argument: str = "name", prefix: str = "") -> None:
    """Check that timm has a network, and its weights.

    Args:
        name: name of the network, with or without a tag.
        weights: ``DEFAULT`` for timm's weights.
        argument: the argument in which the name was given.
        prefix: prefix of the name in this argument.

    Raises:
        MissingExtraError: timm is not installed.
        ConfigError: timm has no such network, or no such weights of it.
    """
    timm = import_timm(f"the network {name!r}")
    if name.startswith(_SOURCES):
        return
    network, _, tag = name.partition(".")
    if not timm.is_model(network):
        known = [prefix + other for other in timm.list_models()]
        hint = did_you_mean(prefix + network, known) or "see `timm.list_models()`"
        raise ConfigError(argument, f"timm has no network {network!r}", hint)
    known = [prefix + other for other in timm.list_pretrained(f"{network}.*")]
    if tag and prefix + name not in known:
        hint = did_you_mean(prefix + name, known) or f"the names with weights are {', '.join(known)}"
        raise ConfigError(argument, f"timm has no weights {tag!r} of {network}", hint if known else "")
    if weights == "DEFAULT" and not known:
        raise ConfigError("weights", f"timm has no weights of {network}", "set a checkpoint file, or remove it")


def create_with_any_size(create: partial[Any], name: str) -> tuple[partial[Any], Any]:
    """Build a network so that it takes images of any size, if it can.

    Args:
        create: builds the network; takes the arguments of ``timm.create_model``.
        name: name of the network in timm.

    Returns:
        ``create`` with the arguments for images of any size, and the network without pretrained weights.

    Raises:
        TypeError: the class of the network lacks an argument.
    """
    cfg = None if name.startswith(_SOURCES) else import_timm(name).get_pretrained_cfg(name)
    for options in _ANY_SIZE if cfg is None or cfg.fixed_input_size else ():
        if options.keys() & create.keywords.keys():
            break  # the user decides
        attempt = partial(create, **options)
        try:
            return attempt, attempt()
        except TypeError as error:
            if not options.keys() & {*unknown_arguments(error)}:
                raise
    return create, create()


def unknown_argument_error(error: TypeError, name: str, known: Sequence[str] = ()) -> ConfigError | None:
    """Return the error for an argument that the class of a network does not take, or None for another error.

    Args:
        error: what timm raised.
        name: name of the network in timm.
        known: further arguments that could be meant.
    """
    unknown = unknown_arguments(error)
    if not unknown:
        return None
    timm = import_timm(name)
    with torch.device("meta"):
        parameters = inspect.signature(type(timm.create_model(name)).__init__).parameters
    return ConfigError(unknown[0], f"{name} takes no such argument", did_you_mean(unknown[0], [*known, *parameters]))


def normalization_of(pretrained_cfg: Mapping[str, Any]) -> tuple[list[float], list[float]] | None:
    """Return the mean and standard deviation of the images of pretrained weights, for pixels from 0 to 255.

    Args:
        pretrained_cfg: timm's description of the weights. It has none for other images than of three channels.
    """
    mean, std = pretrained_cfg.get("mean"), pretrained_cfg.get("std")
    if mean is None or std is None:
        return None
    return [255 * value for value in mean], [255 * value for value in std]


def _create(name: str, pretrained: bool = False, **kwargs: Any) -> Any:
    network = import_timm(f"the network {name!r}").create_model(name, pretrained=pretrained, **kwargs)
    network.is_init = True  # `init_weights` of the model would replace its weights
    if pretrained and kwargs.get("in_chans", 3) == 3:
        network.trained_normalization = normalization_of(network.pretrained_cfg)
    return network


def _download(create: Callable[..., nn.Module], name: str) -> nn.Module:
    """Build a network with timm's pretrained weights."""
    try:
        return create(pretrained=True)
    except OSError as error:  # includes the download errors of huggingface_hub
        cfg = getattr(create(), "pretrained_cfg", {})
        raise CheckpointError(
            f"cannot download the weights of {name} ({cfg.get('hf_hub_id') or cfg.get('url')}): {error}. Without "
            "network access, fill the huggingface_hub cache (HF_HOME) beforehand, or set `weights` to a file"
        ) from error


def _build(create: Callable[[], Any], name: str, known: Sequence[str]) -> Any:
    """Build a network; ``known`` are further arguments that could be meant by an unknown one.

    Raises:
        ConfigError: the class of the network lacks an argument.
    """
    try:
        return create()
    except TypeError as error:
        if mistake := unknown_argument_error(error, name, known):
            raise mistake from error
        raise


def _find_features(
    name: str, out_indices: Sequence[int] | None, in_channels: int, kwargs: Mapping[str, Any]
) -> tuple[partial[Any], Any]:
    """Return a function that builds the feature extractor, and the feature extractor without pretrained weights.

    Raises:
        ConfigError: the network has no such feature maps or arguments.
    """
    check_argument_names(kwargs)
    create = partial(_create, name, features_only=True, in_chans=in_channels, **kwargs)
    if out_indices is not None:
        create = partial(create, out_indices=tuple(out_indices))
    try:
        known = ("out_indices", "weights", "in_channels")
        create, network = _build(lambda: create_with_any_size(create, name), name, known)
    except (AssertionError, AttributeError, IndexError, NotImplementedError, RuntimeError) as error:
        if out_indices is not None:
            _check_indices(name, out_indices)
        message = f"timm cannot make a feature extractor of {name}: {error}"
        raise ConfigError("name", message, "use a network of another family") from error
    if out_indices is not None:
        _check_indices(name, out_indices, network)
    return create, network


def _check_indices(name: str, out_indices: Sequence[int], network: Any = None) -> None:
    """Check that a network has feature maps of these indices, and that they are in ascending order.

    Args:
        name: name of the network in timm.
        out_indices: the indices.
        network: a feature extractor; one without weights is built if None.
    """
    if network is None:
        with torch.device("meta"):
            network = _create(name, features_only=True)
    levels = network.feature_info.info
    first, last = -len(levels), len(levels) - 1
    absolute = [index % len(levels) for index in out_indices if first <= index <= last]
    if not out_indices or len(absolute) < len(out_indices):
        shown = "; ".join(
            f"{i}: {level['num_chs']} channels, stride {level['reduction']}" for i, level in enumerate(levels)
        )
        raise ConfigError("out_indices", f"{name} has the feature maps 0 to {last}, not {tuple(out_indices)}", shown)
    if absolute != sorted(set(absolute)):
        raise ConfigError("out_indices", f"must be in ascending order, from fine to coarse, not {tuple(out_indices)}")


def _load_features(network: nn.Module, create: partial[Any], weights: str) -> None:
    """Load the weights of a whole network from a file into a feature extractor.

    Feature extractors of timm rename layers, so the weights are loaded into a whole network, and timm does the rest.

    Args:
        network: the feature extractor.
        create: builds it.
        weights: path of the file.
    """
    settings = {key: value for key, value in create.keywords.items() if key not in _ONLY_FOR_FEATURES}
    whole = _create(*create.args, **settings, num_classes=0)
    load_weights_of_any_channels(whole, read_backbone(weights), weights)
    size = (settings["in_chans"], *whole.pretrained_cfg["input_size"][1:])
    overlay = {"state_dict": whole.state_dict(), "source": "", "input_size": size}
    network.load_state_dict(create(pretrained=True, pretrained_cfg_overlay=overlay).state_dict())


def _fixed_size(pretrained_cfg: Mapping[str, Any], settings: Mapping[str, Any]) -> tuple[int, int] | None:
    """Return the only size of images, as height and width, that a network may take; None if it takes any."""
    takes_any = any(key in settings for options in _ANY_SIZE for key in options)
    if takes_any or not pretrained_cfg.get("fixed_input_size"):
        return None
    return _pair(settings.get("img_size") or pretrained_cfg["input_size"][1:])


def _pair(size: Any) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else (size[0], size[1])
