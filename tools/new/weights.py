"""Pretrained weights that are at hand, for ``trainwright new``: nothing is downloaded."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlparse

from trainwright.engine.errors import ConfigError, did_you_mean

# Networks and weights of torchvision for each task, the preferred ones first.
CANDIDATES: dict[str, tuple[tuple[str, str], ...]] = {
    "classification": (
        ("resnet50", "IMAGENET1K_V2"), ("resnet50", "IMAGENET1K_V1"), ("resnet34", "IMAGENET1K_V1"),
        ("resnet18", "IMAGENET1K_V1"), ("mobilenet_v3_large", "IMAGENET1K_V2"), ("mobilenet_v3_large", "IMAGENET1K_V1"),
    ),
    "detection": (
        ("fasterrcnn_resnet50_fpn", "COCO_V1"), ("fcos_resnet50_fpn", "COCO_V1"), ("retinanet_resnet50_fpn", "COCO_V1"),
    ),
    "instance_segmentation": (("maskrcnn_resnet50_fpn", "COCO_V1"),),
    "pose": (("resnet50", "IMAGENET1K_V2"), ("resnet50", "IMAGENET1K_V1"), ("resnet18", "IMAGENET1K_V1")),
    "segmentation": (
        ("deeplabv3_resnet50", "COCO_WITH_VOC_LABELS_V1"), ("fcn_resnet50", "COCO_WITH_VOC_LABELS_V1"),
        ("lraspp_mobilenet_v3_large", "COCO_WITH_VOC_LABELS_V1"),
    ),
    "video": (("r3d_18", "KINETICS400_V1"), ("mc3_18", "KINETICS400_V1")),
}  # fmt: skip
CANDIDATES["multilabel"] = CANDIDATES["classification"]


@dataclass
class Weights:
    """Pretrained weights.

    Args:
        name: name of the network in torchvision.
        weights: name of its weights in torchvision, or the path of a file.
        downloads: the weights are downloaded when the training starts.
    """

    name: str
    weights: str
    downloads: bool = False


def choose_weights(task: str, wanted: str | None) -> Weights | None:
    """Return the weights to fine-tune, or None to train from scratch.

    Args:
        task: the task.
        wanted: ``none``; the name of a network, whose weights may be downloaded; the path of a file; or None for
            weights that are already in torch's cache.

    Raises:
        ConfigError: there is no such network or file, or it does not fit the task.
    """
    candidates = CANDIDATES[task]
    if wanted == "none":
        return None
    if wanted is None:
        return next((Weights(*one) for one in candidates if _is_cached(*one)), None)
    names = list(dict.fromkeys(name for name, _ in candidates))
    if Path(wanted).is_file():
        return Weights(_network_of(wanted, names), Path(wanted).as_posix())
    if wanted not in names:
        hint = did_you_mean(wanted, names) or f"a file, 'none', or one of {', '.join(names)}"
        raise ConfigError("--weights", f"neither a file nor a network for {task}: {wanted!r}", hint)
    cached = next((one for one in candidates if one[0] == wanted and _is_cached(*one)), None)
    return Weights(*cached) if cached else Weights(*next(one for one in candidates if one[0] == wanted), downloads=True)


def _is_cached(name: str, weights: str) -> bool:
    import torch
    from torchvision.models import get_model_weights

    file = Path(urlparse(get_model_weights(name)[weights].url).path).name
    return Path(torch.hub.get_dir(), "checkpoints", file).is_file()


def _network_of(file: str, names: Sequence[str]) -> str:
    """Return the network whose tensors are in a file, judged by their names and shapes."""
    import torch
    from torchvision.models import get_model

    from trainwright.engine.checkpoints.files import get_state_dict, load_checkpoint_file

    state = {key: value.shape for key, value in get_state_dict(load_checkpoint_file(file)).items()}
    shares = {}
    for name in names:
        with torch.device("meta"):
            backbone = {} if "_" not in name or name.startswith("mobile") else {"weights_backbone": None}
            try:
                own = get_model(name, weights=None, **backbone).state_dict()
            except TypeError:  # video networks have no weights_backbone
                own = get_model(name, weights=None).state_dict()
        shares[name] = sum(state.get(key) == value.shape for key, value in own.items()) / len(own)
    best = max(names, key=lambda name: shares[name])
    if shares[best] < 0.8:
        raise ConfigError(
            "--weights", f"the tensors in {file} fit none of {', '.join(names)}", "write the network into the config"
        )
    return best
