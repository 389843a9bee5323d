"""``trainwright browse-dataset``: what a model gets to see, as pictures, and what is wrong with the annotations."""

import sys
from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from trainwright.engine.config.config import Config
from trainwright.engine.data.seeded import SeededDataset
from trainwright.engine.errors import ConfigError
from trainwright.engine.parts import DATASET
from trainwright.engine.registry import default_scope
from trainwright.engine.run.environment import make_folder
from trainwright.engine.structures.elements import BaseDataElement
from trainwright.engine.structures.sample import DataSample

_FRAMES = 8
_PROBLEMS_SHOWN = 50


def browse_dataset(cfg: Config, split: str, number: int, out_dir: Path, seed: int) -> int:
    """Writes pictures of the first samples of a split, and prints every problem of its annotations.

    The samples are those of the first epoch of a training with this seed, with the same augmentation.

    Args:
        cfg: config of an experiment.
        split: ``train``, ``val`` or ``test``.
        number: how many samples.
        out_dir: folder for the pictures.
        seed: of the augmentation.

    Returns:
        How many problems were found: lines of the check of the annotations, or samples that cannot be loaded.

    Raises:
        ConfigError: the config has no such split, or its samples cannot be drawn.
    """
    path = f"{split}_dataloader"
    if not cfg.get(path):
        raise ConfigError(path, "the config has no such part", "choose another --split")
    with default_scope(cfg.get("default_scope")):
        dataset = _build_dataset(cfg[path]["dataset"], f"{path}.dataset")
        problems = _print_problems(dataset)
        meta = getattr(dataset, "metainfo", None) or {}
        samples = SeededDataset(dataset, seed)
        wanted = min(number, len(dataset))
        drawn = 0
        make_folder(out_dir, "", "choose another --out-dir")
        for index in range(wanted):
            try:
                item = samples[index]
            except Exception as error:
                notes = "".join(f"\n    {note}" for note in getattr(error, "__notes__", ()))
                print(f"sample {index}: {type(error).__name__}: {error}{notes}", file=sys.stderr)
                continue
            image, sample = _image_and_sample(item, path)
            _write(image, sample, meta, out_dir / f"{index:06d}.png")
            drawn += 1
    print(f"{drawn} of {len(dataset)} samples of {type(dataset).__name__} are drawn in {out_dir}")
    return max(problems, wanted - drawn)


def _build_dataset(cfg: Any, path: str) -> Any:
    """Returns the dataset; files that are missing, or annotations that it refuses, are the user's to mend."""
    try:
        return DATASET.build(cfg, path=path)
    except ConfigError:
        raise
    except (OSError, ValueError) as error:
        refused = ConfigError("", f"{type(error).__name__}: {error}")
        for note in getattr(error, "__notes__", ()):
            refused.add_note(note)
        raise refused from error


def _print_problems(dataset: Any) -> int:
    check = getattr(dataset, "check_annotations", None)
    if check is None:
        print(f"{type(dataset).__name__} cannot check its annotations")
        return 0
    problems = iter(check())
    shown = list(islice(problems, _PROBLEMS_SHOWN))
    for line in shown:
        print(line, file=sys.stderr)
    hidden = sum(1 for _ in problems)
    if hidden:
        print(f"… and {hidden} more", file=sys.stderr)
    if not shown:
        print(f"no problem found in the annotations of {len(dataset)} samples")
    return len(shown) + hidden


def _image_and_sample(item: Any, path: str) -> tuple[np.ndarray, BaseDataElement]:
    """Returns the image (H, W, 3), uint8, and the annotations of what a dataset yields."""
    if isinstance(item, Mapping) and "inputs" in item:
        inputs, sample = item["inputs"], item.get("data_samples")
    elif isinstance(item, list | tuple) and len(item) == 2:
        inputs, sample = item
    else:
        raise ConfigError(f"{path}.dataset", f"a sample is a {type(item).__name__}, which cannot be drawn")
    if sample is None:
        sample = DataSample()
    elif not isinstance(sample, BaseDataElement):
        sample = DataSample(gt_label=torch.as_tensor(sample))
    return _as_image(torch.as_tensor(inputs), path), sample


def _as_image(inputs: Tensor, path: str) -> np.ndarray:
    while inputs.dim() > 4:  # several views: the first
        inputs = inputs[0]
    if inputs.dim() == 4:  # a clip: its frames side by side
        frames = inputs if inputs.shape[1] in (1, 3) else inputs.transpose(0, 1)
        chosen = torch.linspace(0, len(frames) - 1, min(_FRAMES, len(frames))).round().long()
        inputs = torch.cat(list(frames[chosen]), dim=-1)
    if inputs.dim() != 3 or inputs.shape[0] not in (1, 3):
        raise ConfigError(f"{path}.dataset", f"inputs of shape {tuple(inputs.shape)} are no image, and no clip")
    if inputs.dtype != torch.uint8:
        low, high = inputs.min(), inputs.max()
        inputs = ((inputs - low) / (high - low).clamp(min=1e-12) * 255).to(torch.uint8)
    return inputs.expand(3, -1, -1).permute(1, 2, 0).contiguous().numpy()


def _write(image: np.ndarray, sample: BaseDataElement, meta: Mapping[str, Any], file: Path) -> None:
    from PIL import Image

    from trainwright.engine.visualization.samples import draw_sample

    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(draw_sample(image, sample, meta, draw_pred=False)).save(file)
