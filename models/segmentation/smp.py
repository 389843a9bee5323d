"""Networks of segmentation-models-pytorch (SMP) by name."""

import inspect
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from trainwright.engine.checkpoints.files import get_state_dict, load_checkpoint_file
from trainwright.engine.errors import CheckpointError, ConfigError, MissingExtraError, did_you_mean
from trainwright.engine.registry import MODELS
from trainwright.engine.run.model_setup import load_pretrained
from trainwright.models.pretrained import load_weights_of_any_channels, read_backbone
from trainwright.models.timm_networks import check_timm_name, create_with_any_size, import_timm, unknown_argument_error

_TIMM = "tu-"
_HUB = "hf-hub:"
_DEFAULT = "DEFAULT"
_FILE = "model.safetensors"


@MODELS.register_module()
class SMPModel(nn.Module):
    """A semantic segmentation network of segmentation-models-pytorch.

    It returns logits of shape (N, num_classes, H, W). Images whose size is not a multiple of the network's stride are
    padded with zeros at the bottom and right, and the logits are cropped.

    Example:
        >>> SMPModel("Unet", num_classes=4, encoder_name="resnet34", encoder_weights="imagenet")
        >>> SMPModel("UPerNet", num_classes=19, encoder_name="tu-convnext_tiny.fb_in22k", encoder_weights="DEFAULT")
        >>> SMPModel("Segformer", num_classes=19, encoder_name="mit_b0", weights="exported/my_segformer")

    Args:
        arch: name in SMP, in any case: ``Unet``, ``UnetPlusPlus``, ``MAnet``, ``Linknet``, ``FPN``, ``PSPNet``,
            ``PAN``, ``DeepLabV3``, ``DeepLabV3Plus``, ``UPerNet``, ``Segformer`` or ``DPT``.
        num_classes: number of classes, including the background.
        encoder_name: encoder of SMP, such as ``resnet34`` or ``mit_b0``, or ``tu-`` and the name of a timm network, see
            :func:`TimmModel`, which DPT requires.
        encoder_weights: weights of the encoder, which are downloaded: ``DEFAULT``, or a name in SMP, such as
            ``imagenet``; those of a timm network are selected by the tag in its name. For encoders of SMP, also a
            checkpoint file: of the encoder, or of one of our models with this network as its ``backbone``. Ignored if
            ``weights`` is given.
        weights: weights of the whole network: a checkpoint file, a folder written by ``save_pretrained``, or
            ``hf-hub:`` and a name on the Hugging Face Hub, which is downloaded. Layers that do not fit, such as the
            last one for a different number of classes, are skipped and logged.
        in_channels: number of image channels; 1 for grayscale.
        **kwargs: further arguments of the class in SMP, such as ``decoder_channels``, and of the timm network.

    Raises:
        MissingExtraError: segmentation-models-pytorch is not installed.
        ConfigError: SMP has no such network, encoder, weights or arguments, or they do not fit together.
        CheckpointError: the weights cannot be downloaded, or none of them fits.
    """

    def __init__(
        self,
        arch: str,
        num_classes: int,
        encoder_name: str = "resnet34",
        encoder_weights: str | None = None,
        weights: str | None = None,
        in_channels: int = 3,
        **kwargs: Any,
    ) -> None:
        super().__init__()
        create, network = _find_network(arch, num_classes, encoder_name, encoder_weights, in_channels, kwargs)
        if encoder_weights is not None and weights is None:
            name = _weights_name(encoder_name, encoder_weights)
            if name is None:
                load_pretrained(
                    network.encoder,
                    lambda encoder: _load_file(encoder, read_backbone(encoder_weights), encoder_weights),
                )
            else:
                load_pretrained(network.encoder, lambda encoder: _download_encoder(encoder, create, encoder_name, name))
        if weights is not None:
            load_pretrained(network, lambda module: _load_file(module, _read_network(weights), weights))
        self.network: Any = network
        self.num_classes = num_classes
        needs_padding = network.requires_divisible_input_shape or encoder_name.startswith(_TIMM)
        self._divisor = int(network.encoder.output_stride) if needs_padding else 1
        if type(network).__name__ == "DPT":
            self._divisor *= 2  # its decoder begins at half the resolution of the encoder

    @classmethod
    def check_config(cls, cfg: Mapping[str, Any]) -> Iterator[ConfigError]:
        """Yield the mistake in a config, with a path inside it, without allocating weights."""
        settings = {key: value for key, value in cfg.items() if key not in ("type", "_scope_", "weights")}
        arch = settings.pop("arch", None)
        if not isinstance(arch, str):
            return
        encoder, weights = settings.pop("encoder_name", "resnet34"), settings.pop("encoder_weights", None)
        try:
            with torch.device("meta"):
                _find_network(
                    arch, settings.pop("num_classes", 1), encoder, weights, settings.pop("in_channels", 3), settings
                )
        except ConfigError as error:
            yield error
        except (NotImplementedError, RuntimeError):
            pass  # some encoders cannot be built without memory

    def forward(self, images: Tensor) -> Tensor:
        """Return logits of shape (N, num_classes, H, W).

        Args:
            images: float, of shape (N, in_channels, H, W).
        """
        height, width = images.shape[-2:]
        if self._divisor == 1:
            return self.network(images)  # type: ignore[no-any-return]
        below, right = -height % self._divisor, -width % self._divisor
        if torch.compiler.is_exporting() or below or right:  # the exporter would take it for a constant
            images = F.pad(images, (0, right, 0, below))
        return self.network(images)[..., :height, :width]  # type: ignore[no-any-return]


def _import_smp(purpose: str) -> Any:
    try:
        import segmentation_models_pytorch as smp  # type: ignore[import-not-found,import-untyped,unused-ignore]
    except ModuleNotFoundError as error:
        raise MissingExtraError("segmentation-models-pytorch", "smp", purpose) from error
    return smp


def _find_network(
    arch: str,
    num_classes: int,
    encoder_name: str,
    encoder_weights: str | None,
    in_channels: int,
    kwargs: Mapping[str, Any],
) -> tuple[partial[Any], Any]:
    """Return a function that builds the network, and the network without pretrained weights.

    Raises:
        ConfigError: SMP has no such network, encoder, weights or arguments, or they do not fit together.
    """
    smp = _import_smp(f"the network {arch!r}")
    known = smp.MODEL_ARCHITECTURES_MAPPING
    if arch.lower() not in known:
        names = [cls.__name__ for cls in known.values()]
        hint = did_you_mean(arch, names) or f"the networks are {', '.join(names)}"
        raise ConfigError("arch", f"segmentation-models-pytorch has no network {arch!r}", hint)
    _check_encoder(smp, encoder_name, encoder_weights)
    build = known[arch.lower()]
    parameters = [name for name in inspect.signature(build.__init__).parameters if name not in ("self", "kwargs")]
    _check_arguments(build.__name__, parameters, encoder_name, kwargs)
    create = partial(
        build, encoder_name=encoder_name, encoder_weights=None, in_channels=in_channels, classes=num_classes, **kwargs
    )
    try:
        if encoder_name.startswith(_TIMM):
            return create_with_any_size(create, encoder_name.removeprefix(_TIMM))
        return create, create()
    except TypeError as error:
        mistake = unknown_argument_error(error, encoder_name.removeprefix(_TIMM), parameters)
        if mistake is None:
            raise
        if mistake.path not in kwargs:
            message = f"{build.__name__} sets {mistake.path}, which {encoder_name} does not take"
            mistake = ConfigError("encoder_name", message, "use another encoder")
        raise mistake from error
    except (AssertionError, KeyError, ValueError) as error:
        message = f"{build.__name__} cannot be built with the encoder {encoder_name!r}: {error}"
        raise ConfigError("encoder_name", message) from error


def _check_encoder(smp: Any, name: str, weights: str | None) -> None:
    """Check that SMP has an encoder and its weights.

    Raises:
        ConfigError: it has not.
    """
    if name.startswith(_TIMM):
        check_timm_name(name.removeprefix(_TIMM), None if weights is None else _DEFAULT, "encoder_name", _TIMM)
    elif name not in smp.encoders.encoders:
        in_timm = import_timm(f"the encoder {name!r}").is_model(name.partition(".")[0])
        hint = f"for the network of timm, use {_TIMM + name!r}" if in_timm else ""
        hint = hint or did_you_mean(name, smp.encoders.encoders) or "see `smp.encoders.get_encoder_names()`"
        raise ConfigError("encoder_name", f"segmentation-models-pytorch has no encoder {name!r}", hint)
    if weights is not None:
        _weights_name(name, weights)


def _weights_name(encoder_name: str, weights: Any) -> str | None:
    """Return SMP's name of an encoder's weights, or None for a file.

    Raises:
        ConfigError: there are no such weights.
    """
    if encoder_name.startswith(_TIMM):
        if weights not in (_DEFAULT, "imagenet", True):
            hint = f"set encoder_weights={_DEFAULT!r}, and append a tag to encoder_name to select others"
            raise ConfigError("encoder_weights", f"must be {_DEFAULT!r} for a network of timm, not {weights!r}", hint)
        return _DEFAULT
    known = list(_import_smp("an encoder").encoders.encoders[encoder_name]["pretrained_settings"])
    if weights == _DEFAULT and known:
        return "imagenet" if "imagenet" in known else str(known[0])
    if weights in known:
        return str(weights)
    if not isinstance(weights, str) or not any(character in weights for character in "./\\"):
        hint = did_you_mean(str(weights), known) or f"its weights are {', '.join(known)}; or set a file"
        raise ConfigError("encoder_weights", f"the encoder {encoder_name} has no weights {weights!r}", hint)
    return None


def _check_arguments(arch: str, parameters: list[str], encoder_name: str, kwargs: Mapping[str, Any]) -> None:
    """Refuse arguments that would be ignored, or that change the output.

    Raises:
        ConfigError: there is one.
    """
    refused = {
        "classes": "set num_classes",
        "activation": "remove it: losses and predictions take logits",
        "aux_params": "remove it: a segmentor has no labels of whole images",
    }
    for key in kwargs:
        if key in refused:
            raise ConfigError(key, "is not supported", refused[key])
        if key not in parameters and not encoder_name.startswith(_TIMM):
            others = [name for name in [*parameters, "num_classes", "weights"] if name not in refused]
            raise ConfigError(key, f"{arch} takes no such argument", did_you_mean(key, others))


def _load_file(part: nn.Module, state: Mapping[str, Any], source: str) -> None:
    """Load weights into a network or encoder, and log those that do not fit, which `load_state_dict` of SMP hides."""
    whole = nn.ModuleDict({"network": part})
    load_weights_of_any_channels(whole, {f"network.{name}": weight for name, weight in state.items()}, source)


def _download_encoder(encoder: Any, create: partial[Any], encoder_name: str, weights: str) -> None:
    """Load the pretrained weights of an encoder, which are downloaded."""
    smp = _import_smp("an encoder")
    try:
        with_weights = create(encoder_weights=True if weights == _DEFAULT else weights)
        settings = smp.encoders.get_preprocessing_params(encoder_name, weights)
    except OSError as error:  # includes the download errors of huggingface_hub
        raise CheckpointError(
            f"cannot download the weights of the encoder {encoder_name}: {error}. Without network access, fill the "
            "huggingface_hub cache (HF_HOME) beforehand, or set `encoder_weights` to a file"
        ) from error
    encoder.load_state_dict(with_weights.encoder.state_dict())
    if create.keywords["in_channels"] == 3:
        scale = 255 if max(settings["input_range"]) <= 1 else 1
        encoder.trained_normalization = tuple([scale * value for value in settings[key]] for key in ("mean", "std"))


def _read_network(weights: str) -> Mapping[str, Any]:
    """Return the weights of a whole network."""
    path = weights
    if weights.startswith(_HUB):
        from huggingface_hub import hf_hub_download

        name = weights.removeprefix(_HUB)
        try:
            path = hf_hub_download(name, _FILE)
        except OSError as error:
            raise CheckpointError(
                f"cannot download the weights of {name}: {error}. Without network access, fill the huggingface_hub "
                "cache (HF_HOME) beforehand, or set `weights` to a file or folder"
            ) from error
    elif Path(weights, _FILE).is_file():
        path = str(Path(weights, _FILE))
    return get_state_dict(load_checkpoint_file(path))
