"""``trainwright predict``: predictions for files, as JSON and as pictures."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from trainwright.engine.config.config import Config
from trainwright.engine.errors import ConfigError
from trainwright.engine.image_inputs import IMAGE_SUFFIXES, list_images, read_image
from trainwright.engine.registry import INFERENCERS


def predict(
    cfg: Config, checkpoint: str, inputs: Sequence[str], out_dir: Path, batch_size: int = 1, device: str | None = None
) -> tuple[Path, int]:
    """Predicts for files and writes ``predictions.json`` and a picture of each prediction.

    Images that cannot be read are named and left out.

    Args:
        cfg: config of the model; ``inferencer_type`` names an inferencer of its own.
        checkpoint: file with the weights.
        inputs: files, or folders of images.
        out_dir: folder to write to.
        batch_size: how many inputs the model gets at once.
        device: where to compute; the accelerator, else the CPU, if None.

    Returns:
        The path of ``predictions.json``, a list with one entry an input, ``input`` its path and ``error`` what is
        wrong with it; and how many inputs could not be read.

    Raises:
        ConfigError: an input does not exist, a folder has no images, or no image can be read.
    """
    found = [path for given in inputs for path in _files(given)]
    errors = {path: error for path in found if (error := _error_of(path))}
    for path, error in errors.items():
        print(f"{path}: {error}", file=sys.stderr)
    paths = [path for path in found if path not in errors]
    if not paths:
        raise ConfigError("", "none of the images can be read")
    inferencer: Any = INFERENCERS.build(
        {"type": cfg.get("inferencer_type", "Inferencer")}, path="inferencer_type", model=cfg, weights=checkpoint,
        device=device,
    )  # fmt: skip
    predictions = inferencer(paths, batch_size=batch_size, out_dir=out_dir)["predictions"]
    out_dir.mkdir(parents=True, exist_ok=True)
    file = out_dir / "predictions.json"
    predicted = iter(predictions)
    entries = [
        {"input": path, **({"error": errors[path]} if path in errors else _as_dict(next(predicted)))} for path in found
    ]
    file.write_text("[\n" + ",\n".join(json.dumps(entry) for entry in entries) + "\n]\n")
    return file, len(errors)


def _files(given: str) -> list[str]:
    path = Path(given)
    if path.is_file():
        return [given]
    if not path.is_dir():
        raise ConfigError("", f"there is no file and no folder {given!r}")
    try:
        return list_images(path)
    except FileNotFoundError as error:
        raise ConfigError("", str(error)) from error


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
