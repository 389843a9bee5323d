"""``trainwright browse-dataset``: draw samples as the model sees them, and check the annotations."""

import copy
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from trainwright.engine.config.config import Config
from trainwright.engine.data.seeded import SeededDataset
from trainwright.engine.errors import ConfigError, DamagedFileError, DataError, did_you_mean
from trainwright.engine.parts import DATASET, MODES, dataloaders
from trainwright.engine.registry import DATASETS, default_scope
from trainwright.engine.run.environment import make_folder
from trainwright.engine.signatures import parameters_of
from trainwright.engine.structures.elements import BaseDataElement
from trainwright.engine.structures.sample import DataSample
from trainwright.engine.visualization.inputs import to_image
from trainwright.engine.visualization.samples import draw_sample
from trainwright.tools.damaged import damaged_images

_MAX_PROBLEMS = 50


def browse_dataset(cfg: Config, split: str, number: int, out_dir: Path, seed: int, decode_all: bool = True) -> int:
    """Draw the first samples of a split, and print the problems in its annotations and image files.

    The samples are augmented as in the first epoch of a training with the same seed.

    Args:
        cfg: config of an experiment.
        split: ``train``, ``val`` or ``test``; with several data loaders, also the name of one, as in ``train.labeled``.
        number: maximum number of samples to draw.
        out_dir: folder for the images.
        seed: seed of the augmentation.
        decode_all: decode all image files in search of damaged ones, not only those that are drawn.

    Returns:
        The number of problems in the annotations and files or of samples that cannot be loaded, whichever is greater.

    Raises:
        ConfigError: the config does not define the split, or its samples cannot be drawn.
    """
    path, loader = _loader_of(cfg, split)
    with default_scope(cfg.get("default_scope")):
        settings = copy.deepcopy(loader["dataset"])
        _skip_bad_annotations(settings)
        dataset = _build_dataset(settings, f"{path}.dataset")
        problems = _print_problems(dataset)
        if decode_all:
            problems += _print_lines(damaged_images(dataset))
        meta = getattr(dataset, "metainfo", None) or {}
        samples = SeededDataset(dataset, seed)
        wanted = min(number, len(dataset))
        drawn = 0
        make_folder(out_dir, "", "choose another --out-dir")
        for index in range(wanted):
            try:
                item = samples[index]
            except Exception as error:
                if decode_all and isinstance(error, DamagedFileError):
                    continue  # printed above
                notes = "".join(f"\n    {note}" for note in getattr(error, "__notes__", ()))
                print(f"sample {index}: {type(error).__name__}: {error}{notes}", file=sys.stderr)
                continue
            image, sample = _image_and_sample(item, path)
            Image.fromarray(draw_sample(image, sample, meta, draw_pred=False)).save(out_dir / f"{index:06d}.png")
            drawn += 1
    print(f"Saved {drawn} of {len(dataset)} samples of {type(dataset).__name__} to {out_dir}")
    return max(problems, wanted - drawn)


def show_stats(cfg: Config, split: str, out_dir: Path) -> None:
    """Print what a dataset contains, and draw it to ``stats.png``.

    Args:
        cfg: config of an experiment.
        split: as for :func:`browse_dataset`.
        out_dir: folder for the picture.

    Raises:
        ConfigError: the config does not define the split.
    """
    from trainwright.tools import stats

    path, loader = _loader_of(cfg, split)
    with default_scope(cfg.get("default_scope")):
        dataset = _build_dataset(loader["dataset"], f"{path}.dataset")
        counted = stats.count_dataset(dataset)
    meta = getattr(dataset, "metainfo", None) or {}
    stats.print_stats(counted, meta, f"{type(dataset).__name__} ({split})")
    make_folder(out_dir, "", "choose another --out-dir")
    if stats.draw_stats(counted, meta, out_dir / "stats.png"):
        print(f"Saved the charts to {out_dir / 'stats.png'}")


def _loader_of(cfg: Config, split: str) -> tuple[str, Any]:
    """Return the path and config of the data loader of a split."""
    mode, _, name = split.partition(".")
    if mode not in MODES:
        raise ConfigError("--split", f"there is no split {mode!r}", did_you_mean(mode, MODES) or ", ".join(MODES))
    key = f"{mode}_dataloader"
    if not cfg.get(key):
        raise ConfigError(key, "missing in the config", "choose another --split")
    loaders = dict(dataloaders(cfg, key))
    path = f"{key}.{name}" if name else key
    if path not in loaders:
        names = [place.replace("_dataloader", "") for place in loaders]
        raise ConfigError("--split", f"the config has no data loader {split!r}", f"choose {' or '.join(names)}")
    return path, loaders[path]


def _skip_bad_annotations(settings: Any) -> None:
    """Set ``bad_annotations="skip"`` where it exists, so that all bad annotations are listed and the rest is drawn."""
    if isinstance(settings, Mapping):
        dataset = DATASETS.get(settings["type"]) if isinstance(settings.get("type"), str) else settings.get("type")
        if dataset is not None and "bad_annotations" in parameters_of(dataset)[0]:
            settings["bad_annotations"] = "skip"  # type: ignore[index]
        settings = list(settings.values())
    for value in settings if isinstance(settings, list | tuple) else ():
        _skip_bad_annotations(value)


def _build_dataset(cfg: Any, path: str) -> Any:
    """Build the dataset, and report missing files and invalid annotations as config errors."""
    try:
        return DATASET.build(cfg, path=path)
    except (ConfigError, DataError):
        raise
    except (OSError, ValueError) as error:
        config_error = ConfigError("", f"{type(error).__name__}: {error}")
        for note in getattr(error, "__notes__", ()):
            config_error.add_note(note)
        raise config_error from error


def _print_problems(dataset: Any) -> int:
    check = getattr(dataset, "check_annotations", None)
    if check is None:
        print(f"{type(dataset).__name__} has no check_annotations(): the annotations are not checked")
        return 0
    number = _print_lines(check())
    if not number:
        print(f"no problems found in the annotations of {len(dataset)} samples")
    return number


def _print_lines(lines: Iterator[str]) -> int:
    """Print the first of the lines, and return the number of all."""
    number = 0
    for number, line in enumerate(lines, 1):
        if number <= _MAX_PROBLEMS:
            print(line, file=sys.stderr)
    if number > _MAX_PROBLEMS:
        print(f"… and {number - _MAX_PROBLEMS} more", file=sys.stderr)
    return number


def _image_and_sample(item: Any, path: str) -> tuple[np.ndarray, BaseDataElement]:
    """Return the image of a dataset item, a uint8 array of shape (H, W, 3), and its annotations."""
    if isinstance(item, Mapping) and "inputs" in item:
        inputs, sample = item["inputs"], item.get("data_samples")
    elif isinstance(item, list | tuple) and len(item) == 2:
        inputs, sample = item
    else:
        raise ConfigError(f"{path}.dataset", f"cannot draw a sample of type {type(item).__name__}")
    if sample is None:
        sample = DataSample()
    elif not isinstance(sample, BaseDataElement):
        sample = DataSample(gt_label=torch.as_tensor(sample))
    return _as_image(torch.as_tensor(inputs), path), sample


def _as_image(inputs: Tensor, path: str) -> np.ndarray:
    try:
        return to_image(inputs)
    except ValueError as error:
        raise ConfigError(f"{path}.dataset", str(error)) from error
