"""Torchvision networks by name, adapted to the number of classes and channels; and what loads pretrained weights."""

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from trainwright.engine.checkpoints.files import get_state_dict, load_checkpoint_file
from trainwright.engine.checkpoints.loader import downloading
from trainwright.engine.errors import ConfigError, did_you_mean
from trainwright.engine.registry import MODELS
from trainwright.engine.run.model_setup import defers_pretrained, load_pretrained
from trainwright.models.initializers import load_weights

_BACKBONE = "backbone."
_OTHER_NAMES = {"in_chans": "in_channels", "pretrained": "weights='DEFAULT'"}


def build_network(network: str | Mapping[str, Any] | nn.Module, num_classes: int | None, by_name: str) -> nn.Module:
    """Build a network from a name, config or module, and a number of classes.

    Args:
        network: name, config, or module.
        num_classes: number of classes; required for a name, not allowed for a network that defines its own.
        by_name: type of the network if ``network`` is a name.

    Raises:
        ConfigError: ``num_classes`` is missing, or given twice.
    """
    if isinstance(network, str):
        if num_classes is None:
            raise ConfigError("num_classes", "is required for a network given by name")
        network = {"type": by_name, "name": network}
    elif num_classes is not None and (isinstance(network, nn.Module) or "num_classes" in network):
        raise ConfigError("num_classes", "the network already defines it", "remove one of them")
    if num_classes is not None:
        network = {**network, "num_classes": num_classes}  # type: ignore[dict-item]  # a mapping by now
    module: nn.Module = MODELS.build(network)
    return module


@MODELS.register_module()
def TorchvisionModel(
    name: str,
    num_classes: int = 1000,
    weights: str | None = None,
    in_channels: int = 3,
    small_input: bool = False,
    **kwargs: Any,
) -> nn.Module:
    """Build a torchvision classification network.

    Args:
        name: name in torchvision, such as ``resnet18``.
        num_classes: number of classes; 0 to return features instead of logits, whose size is then ``num_features``.
        weights: ``DEFAULT`` or another name of torchvision weights, which are downloaded, or a checkpoint file. Layers
            that do not fit, such as the last one for a different number of classes, are skipped and logged.
        in_channels: number of image channels; 1 for grayscale.
        small_input: adapt a ResNet to images of about 32x32 pixels: no striding or pooling before the blocks.
        **kwargs: further arguments of the torchvision function.

    Raises:
        ConfigError: torchvision has no such network or weights, the network no such argument, or it cannot be adapted.
    """
    from torchvision import models

    check_torchvision_name(name)
    check_argument_names(kwargs)
    if name in ("googlenet", "inception_v3"):
        # Without this argument they warn that their initialization will change; this is the fast one.
        kwargs = {"init_weights": False, **kwargs}
    classes = {"num_classes": num_classes} if num_classes else {}
    try:
        model: nn.Module = models.get_model(name, weights=None, **classes, **kwargs)
    except TypeError as error:
        if unknown := unknown_arguments(error):
            raise ConfigError(unknown[0], f"{name} takes no such argument") from error
        raise
    if num_classes == 0:
        _remove_classifier(name, model)
    model.num_classes = num_classes  # type: ignore[assignment]  # not a tensor or module
    if small_input:
        _adapt_to_small_input(name, model)
    if in_channels != 3:
        _adapt_to_channels(name, model, in_channels)
    if weights is not None:
        fetch = find_torchvision_weights(name, weights)
        load_pretrained(model, lambda network: load_weights_of_any_channels(network, fetch(), weights))
    return model


def _mistake_in_model(cfg: Mapping[str, Any]) -> Iterator[ConfigError]:
    name, weights = cfg.get("name"), cfg.get("weights")
    if not isinstance(name, str):
        return
    try:
        check_torchvision_name(name)
        if isinstance(weights, str):
            find_torchvision_weights(name, weights)
        build_without_weights(TorchvisionModel, cfg)
    except ConfigError as error:
        yield error


TorchvisionModel.check_config = _mistake_in_model  # type: ignore[attr-defined]


def build_without_weights(build: Callable[..., nn.Module], cfg: Mapping[str, Any]) -> None:
    """Build a network on the device ``meta``, to find the mistakes in its config.

    Raises:
        ConfigError: a mistake that the builder has found. Its other errors are ignored.
    """
    settings = {key: value for key, value in cfg.items() if key not in ("type", "_scope_", "weights")}
    try:
        with torch.device("meta"):
            build(**settings)
    except ConfigError:
        raise
    except Exception:  # such as those of a value of a wrong type, which is found without building
        return


def unknown_arguments(error: TypeError) -> list[str]:
    """Return the arguments that a function does not take, none for another error."""
    message = str(error).partition("unexpected keyword argument")[2]
    return re.findall(r"'(\w+)'", message)


def build_pretrained(trained: Callable[[], nn.Module], untrained: Callable[[], nn.Module]) -> nn.Module:
    """Build a network whose builder also fetches the pretrained weights, deferring the fetch if necessary.

    Args:
        trained: builds the network with its pretrained weights.
        untrained: builds the same network without them, in case a checkpoint is loaded instead.
    """
    if not defers_pretrained():
        return trained()

    def load(module: nn.Module) -> None:
        source = trained()
        module.load_state_dict(source.state_dict())
        if hasattr(source, "trained_normalization"):
            module.trained_normalization = source.trained_normalization

    network = untrained()
    load_pretrained(network, load)
    return network


def find_torchvision_weights(name: str, weights: str) -> Callable[[], Mapping[str, Tensor]]:
    """Return a function that fetches the weights of a torchvision network, by name or from a checkpoint file.

    Raises:
        ConfigError: the network has no weights of this name.
    """
    from torchvision.models import get_model_weights

    known = get_model_weights(name)
    if weights in known.__members__:
        entry = known[weights]

        def download() -> Mapping[str, Tensor]:
            with downloading(entry.url, f"the {name} weights {weights!r}"):
                return entry.get_state_dict(progress=False, weights_only=True)  # type: ignore[no-any-return]

        return download
    if weights.isupper() or "IMAGENET" in weights:
        hint = did_you_mean(weights, known.__members__) or f"its weights are {', '.join(known.__members__)}"
        raise ConfigError("weights", f"{name} has no weights {weights!r}", hint)
    return lambda: get_state_dict(load_checkpoint_file(weights))


def load_weights_of_any_channels(model: nn.Module, weights: Mapping[str, Tensor], source: str) -> None:
    """Load weights, summing those of a convolution on RGB images over the channels if the model takes gray images."""
    own = model.state_dict()
    load_weights(
        model,
        {
            name: weight.sum(1, keepdim=True) if name in own and _only_own_is_gray(own[name], weight) else weight
            for name, weight in weights.items()
        },
        source,
    )


def read_backbone(weights: str) -> Mapping[str, Tensor]:
    """Return the weights of a network in a checkpoint file: those of the ``backbone``, if it is of a model with one."""
    state = get_state_dict(load_checkpoint_file(weights))
    own = {name.removeprefix(_BACKBONE): weight for name, weight in state.items() if name.startswith(_BACKBONE)}
    return own or state


def _only_own_is_gray(own: Tensor, weight: Tensor) -> bool:
    return own.dim() == 4 and own.shape[1] == 1 and weight.shape[1:2] == (3,) and own.shape[2:] == weight.shape[2:]


def check_argument_names(arguments: Mapping[str, Any]) -> None:
    """Check that the arguments of a network have the names that they have here, not those in timm or torchvision.

    Raises:
        ConfigError: one of them has another name.
    """
    for name in arguments:
        if name in _OTHER_NAMES:
            raise ConfigError(name, "has another name here, as in all our networks", _OTHER_NAMES[name])


def check_torchvision_name(name: str, argument: str = "name") -> None:
    """Check that torchvision has a classification network.

    Raises:
        ConfigError: it has none of this name; ``argument`` is the one in which it was given.
    """
    from torchvision import models

    classifiers = models.list_models(module=models)
    if name not in classifiers:
        hint = did_you_mean(name, classifiers) or "see `torchvision.models.list_models()`"
        raise ConfigError(argument, f"torchvision has no classification network {name!r}", hint)


def _remove_classifier(name: str, model: Any) -> None:
    """Remove the last linear layer of a classification network, and declare the size of its features."""
    path, layer = [(path, module) for path, module in model.named_modules() if not path.count("aux")][-1]
    if not isinstance(layer, nn.Linear):
        raise ConfigError("num_classes", f"the last layer of {name} is not linear, so 0 classes are not supported")
    parent, _, attribute = path.rpartition(".")
    setattr(model.get_submodule(parent), attribute, nn.Identity())
    model.num_features = layer.in_features


def _adapt_to_small_input(name: str, model: nn.Module) -> None:
    from torchvision.models import ResNet

    if not isinstance(model, ResNet):
        raise ConfigError("small_input", f"only ResNets can be adapted, not {name}")
    model.conv1 = _similar_convolution(model.conv1, model.conv1.in_channels, kernel_size=3, stride=1, padding=1)
    model.maxpool = nn.Identity()


def _adapt_to_channels(name: str, model: nn.Module, in_channels: int) -> None:
    for path, module in model.named_modules():
        if isinstance(module, nn.Conv2d) and module.in_channels == 3:
            new = _similar_convolution(
                module,
                in_channels,
                kernel_size=module.kernel_size,
                stride=module.stride,
                padding=module.padding,
            )
            parent, _, attribute = path.rpartition(".")
            setattr(model.get_submodule(parent), attribute, new)
            return
    raise ConfigError("in_channels", f"{name} has no convolution with 3 input channels to adapt")


def _similar_convolution(old: nn.Conv2d, in_channels: int, **geometry: Any) -> nn.Conv2d:
    new = nn.Conv2d(in_channels, old.out_channels, bias=old.bias is not None, **geometry)
    nn.init.kaiming_normal_(new.weight, mode="fan_out", nonlinearity="relu")
    return new
