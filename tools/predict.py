"""``trainwright predict``: predict for files, and save the predictions as JSON and as images."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from trainwright.engine.config.config import Config
from trainwright.engine.errors import ConfigError, DamagedFileError, DataError
from trainwright.engine.fileio import to_json
from trainwright.engine.images import ImageReader
from trainwright.engine.inference.images import IMAGE_SUFFIXES
from trainwright.engine.parts import setting
from trainwright.engine.registry import INFERENCERS
from trainwright.engine.run.environment import make_folder

_MAX_CLASSES = 5


def predict(
    cfg: Config, checkpoint: str, inputs: Sequence[str], out_dir: Path, batch_size: int = 1, device: str | None = None
) -> tuple[Path, int]:
    """Predict for files, write ``predictions.json`` and an image of each prediction, and print class scores.

    Images that cannot be read are reported and skipped.

    Args:
        cfg: config of the model; ``inferencer_type`` selects the inferencer.
        checkpoint: file with the weights.
        inputs: files or folders.
        out_dir: folder to write to.
        batch_size: number of inputs per batch.
        device: device to run on; by default the accelerator if there is one, else the CPU.

    Returns:
        The path of ``predictions.json`` and the number of inputs that could not be read. The file contains a list with
        one entry per input: ``input`` is its path, and ``error`` the reason why it could not be read, if so.

    Raises:
        ConfigError: an input does not exist, a folder contains no inputs, or none of the images can be read.
    """
    for name in inputs:
        if not Path(name).exists():
            raise ConfigError("", f"no such file or folder: {name!r}")
    inferencer: Any = INFERENCERS.build(
        {"type": setting(cfg, "inferencer_type")}, path="inferencer_type", model=cfg, weights=checkpoint,
        device=device,
    )  # fmt: skip
    try:
        found = [path for name in inputs for path in inferencer._inputs_to_list(name)]
    except FileNotFoundError as error:
        raise ConfigError("", str(error)) from error
    reader = getattr(inferencer.pipeline, "reader", None) or ImageReader()
    errors = {path: problem for path in found if (problem := _error_of(path, reader))}
    for path, problem in errors.items():
        print(f"{path}: {problem}", file=sys.stderr)
    paths = [path for path in found if path not in errors]
    if not paths:
        raise ConfigError("", "none of the images can be read")
    make_folder(out_dir, "", "choose another --out-dir")
    predictions = iter(inferencer(paths, batch_size=batch_size, out_dir=out_dir)["predictions"])
    entries = []
    for path in found:
        prediction = {"error": errors[path]} if path in errors else next(predictions)
        entries.append({"input": path, **(prediction if isinstance(prediction, dict) else {"prediction": prediction})})
    file = out_dir / "predictions.json"
    file.write_text("[\n" + ",\n".join(to_json(entry) for entry in entries) + "\n]\n")
    classes = inferencer.dataset_meta.get("classes") or ()
    for entry in entries:
        if entry.get("pred_scores"):
            print(f"{entry['input']}: {_best_classes(entry['pred_scores'], classes)}")
    return file, len(errors)


def _best_classes(scores: Sequence[float], classes: Sequence[str]) -> str:
    """Format the classes with the highest scores."""
    best = sorted(range(len(scores)), key=lambda label: -scores[label])[:_MAX_CLASSES]
    return ", ".join(f"{classes[label] if label < len(classes) else label} {scores[label]:.3f}" for label in best)


def _error_of(path: str, reader: ImageReader) -> str | None:
    """Return the reason why an image cannot be read, or None if it can; always None for other files."""
    if Path(path).suffix.lower() not in IMAGE_SUFFIXES:
        return None
    try:
        reader.read(path)
    except DamagedFileError as error:
        return f"cannot be read: {error.reason}"
    except (DataError, OSError) as error:
        return f"cannot be read: {error}"
    return None
