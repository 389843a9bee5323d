"""The published weights of OpenMMLab by name: ``open-mmlab://resnet50_v1c``, ``mmcls://vgg16``, ``mmdet://CONFIG``."""

import json
import os
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from trainwright.compat.libraries import LIBRARIES
from trainwright.engine.checkpoints.files import get_state_dict, load_checkpoint_file
from trainwright.engine.checkpoints.loader import CheckpointLoader, cached, download
from trainwright.engine.errors import CheckpointError, did_you_mean
from trainwright.engine.inference.model_index import find_model_index, listed_models, names_of

_SERVER = "https://download.openmmlab.com/"


@CheckpointLoader.register_scheme(("open-mmlab://", "openmmlab://"))
def load_from_openmmlab(filename: str, map_location: Any = None) -> Any:
    """Load the weights of a backbone, such as ``open-mmlab://resnet50_v1c``.

    ``open_mmlab.json`` in :func:`mmengine_home` adds names; its values are URLs, or paths relative to that folder.
    """
    name = filename.partition("://")[2]
    known = dict(table()["open-mmlab"])
    own = mmengine_home() / "open_mmlab.json"
    if own.is_file():
        known |= json.loads(own.read_text())
    return load_checkpoint_file(_file(_value(known, name, filename), filename), map_location)


@CheckpointLoader.register_scheme("mmcls://")
def load_from_mmcls(filename: str, map_location: Any = None) -> dict[str, Any]:
    """Load the backbone of a classifier, such as ``mmcls://mobilenet_v2``, without the prefix ``backbone.``."""
    url = _value(table()["mmcls"], filename.partition("://")[2], filename)
    weights = get_state_dict(load_checkpoint_file(_file(url, filename), map_location))
    prefix = "backbone."
    return {"state_dict": {k.removeprefix(prefix): v for k, v in weights.items() if k.startswith(prefix)}}


@CheckpointLoader.register_scheme([f"{library}://" for library in LIBRARIES if library != "mmcls"])
def load_from_library(filename: str, map_location: Any = None) -> Any:
    """Load the weights that an installed library publishes for one of its configs.

    ``mmdet://retinanet_r50_fpn_1x_coco`` is the name of the config in the library's ``model-index.yml``, an alias, or
    the path of the config below ``configs``, with or without folders and ``.py``.
    """
    library, _, name = filename.partition("://")
    return load_checkpoint_file(_file(weights_of(library, name), filename), map_location)


def weights_of(library: str, name: str) -> str:
    """Return the URL of the weights that a library lists for a model.

    Raises:
        CheckpointError: the library is not installed, or lists no such model, or no weights for it.
    """
    try:
        find_model_index(library)
    except ValueError as error:
        raise CheckpointError(f"{library}://{name} cannot be loaded: {error}") from error
    known: dict[str, Any] = {}
    for entry in listed_models(library):
        config = str(entry.get("Config", "")).removeprefix("configs/").removesuffix(".py")
        for key in (*names_of(entry), config, Path(config).name):
            known.setdefault(key, entry.get("Weights"))
    found = _value(known, name.removesuffix(".py"), f"{library}://{name}")
    if not found:
        raise CheckpointError(f"{library} publishes no weights for {name}")
    return str(found)


@cache
def table() -> Mapping[str, Mapping[str, str]]:
    """Return, for each scheme, the URLs of its names, as in the tables that MMEngine 0.10.7 contains."""
    urls: dict[str, dict[str, str]] = {}
    for line in Path(__file__).with_suffix(".tsv").read_text().splitlines():
        full_name, path = line.split("\t")
        scheme, _, name = full_name.partition("://")
        urls.setdefault(scheme, {})[name] = _SERVER + path
    return urls


def mmengine_home() -> Path:
    """Return MMEngine's folder: ``$MMENGINE_HOME``, ``$XDG_CACHE_HOME/mmengine`` or ``~/.cache/mmengine``."""
    home = os.environ.get("MMENGINE_HOME") or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "mmengine")
    return Path(home).expanduser()


def _value(known: Mapping[str, Any], name: str, filename: str) -> Any:
    if name not in known:
        hint = did_you_mean(name, known) or f"there are {len(known)} names, such as {next(iter(known), None)}"
        raise CheckpointError(f"{filename} is not the name of published weights: {hint}")
    return known[name]


def _file(url: str, filename: str) -> Path:
    """Return the file of a URL in torch's cache or MMEngine's folder, downloaded if it is in neither."""
    home = mmengine_home()
    if "://" not in url:
        return home / url
    in_home = home / cached(url).name
    return in_home if in_home.is_file() and not cached(url).exists() else download(url, filename)
