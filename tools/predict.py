"""``trainwright predict``: predictions for files, as JSON and as pictures."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from trainwright.engine.config.config import Config
from trainwright.engine.errors import ConfigError
from trainwright.engine.fileio import to_json
from trainwright.engine.inference.images import IMAGE_SUFFIXES, read_image
from trainwright.engine.parts import setting
from trainwright.engine.registry import INFERENCERS
from trainwright.engine.run.environment import make_folder

_SHOWN = 5


def predict(
    cfg: Config, checkpoint: str, inputs: Sequence[str], out_dir: Path, batch_size: int = 1, device: str | None = None
) -> tuple[Path, int]:
    """Predicts for files and writes ``predictions.json`` and a picture of each prediction; prints scores of classes.

    Images that cannot be read are named and left out.

    Args:
        cfg: config of the model; ``inferencer_type`` names an inferencer of its own.
        checkpoint: file with the weights.
        inputs: files, or folders of them.
        out_dir: folder to write to.
        batch_size: how many inputs the model gets at once.
        device: where to compute; the accelerator, else the CPU, if None.

    Returns:
        The path of ``predictions.json``, a list with one entry an input, ``input`` its path and ``error`` what is
        wrong with it; and how many inputs could not be read.

    Raises:
        ConfigError: an input does not exist, a folder has nothing to predict for, or no image can be read.
    """
    for given in inputs:
        if not Path(given).exists():
            raise ConfigError("", f"there is no file and no folder {given!r}")
    inferencer: Any = INFERENCERS.build(
        {"type": setting(cfg, "inferencer_type")}, path="inferencer_type", model=cfg, weights=checkpoint,
        device=device,
    )  # fmt: skip
    try:
        found = [path for given in inputs for path in inferencer._inputs_to_list(given)]
    except FileNotFoundError as error:
        raise ConfigError("", str(error)) from error
    errors = {path: problem for path in found if (problem := _error_of(path))}
    for path, problem in errors.items():
        print(f"{path}: {problem}", file=sys.stderr)
    paths = [path for path in found if path not in errors]
    if not paths:
        raise ConfigError("", "none of the images can be read")
    make_folder(out_dir, "", "choose another --out-dir")
    predictions = inferencer(paths, batch_size=batch_size, out_dir=out_dir)["predictions"]
    file = out_dir / "predictions.json"
    predicted = iter(predictions)
    entries = [
        {"input": path, **({"error": errors[path]} if path in errors else _as_dict(next(predicted)))} for path in found
    ]
    file.write_text("[\n" + ",\n".join(to_json(entry) for entry in entries) + "\n]\n")
    classes = inferencer.dataset_meta.get("classes") or ()
    for entry in entries:
        if entry.get("pred_scores"):
            print(f"{entry['input']}: {_best_classes(entry['pred_scores'], classes)}")
    return file, len(errors)


def _best_classes(scores: Sequence[float], classes: Sequence[str]) -> str:
    """Returns the classes with the highest scores, in words."""
    best = sorted(range(len(scores)), key=lambda label: -scores[label])[:_SHOWN]
    return ", ".join(f"{classes[label] if label < len(classes) else label} {scores[label]:.3f}" for label in best)


def _error_of(path: str) -> str | None:
    """Returns why an image cannot be read; None for one that can, and for other files."""
    if Path(path).suffix.lower() not in IMAGE_SUFFIXES:
        return None
    try:
        read_image(path)
    except (OSError, ValueError, SyntaxError) as error:  # Pillow raises each of them for damaged files
        return f"cannot be read: {error}"
    return None


def _as_dict(prediction: Any) -> dict[str, Any]:
    return prediction if isinstance(prediction, dict) else {"prediction": prediction}
