"""``trainwright predict``: predict for files, and save the predictions as JSON and as images."""

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
from trainwright.engine.visualization.samples import KINDS

_MAX_CLASSES = 5


def predict(
    cfg: Config,
    checkpoint: str,
    inputs: Sequence[str],
    out_dir: Path,
    batch_size: int = 1,
    device: str | None = None,
    tile_size: int | None = None,
) -> tuple[Path, int]:
    """Predict for files, write ``predictions.json`` and an image of each prediction, and print where and class scores.

    Images that cannot be read are reported and skipped.

    Args:
        cfg: config of the model; ``inferencer_type`` selects the inferencer.
        checkpoint: file with the weights.
        inputs: files or folders.
        out_dir: folder to write to.
        batch_size: number of inputs per batch.
        device: device to run on; by default the accelerator if there is one, else the CPU.
        tile_size: predict in tiles of this size by ``TiledInferencer``, unless the config names another inferencer.

    Returns:
        The path of ``predictions.json`` and the number of inputs that could not be read. The file contains a list with
        one entry per input: ``input`` is its path, and ``error`` the reason why it could not be read, if so.

    Raises:
        ConfigError: an input does not exist, a folder contains no inputs, none of the images can be read, or the
            inferencer of the config does not support tiles.
    """
    for name in inputs:
        if not Path(name).exists():
            raise ConfigError("", f"no such file or folder: {name!r}")
    type_, options = setting(cfg, "inferencer_type"), {}
    if tile_size is not None:
        if type_ not in ("Inferencer", "TiledInferencer"):
            raise ConfigError("inferencer_type", f"{type_} does not predict in tiles", "remove --tile-size")
        type_, options = "TiledInferencer", {"tile_size": tile_size}
    inferencer: Any = INFERENCERS.build(
        {"type": type_, **options}, path="inferencer_type", model=cfg, weights=checkpoint,
        device=device,
    )  # fmt: skip
    try:
        found = [path for name in inputs for path in inferencer._inputs_to_list(name)]
    except FileNotFoundError as error:
        raise ConfigError("", str(error)) from error
    errors = {path: problem for path in found if (problem := _error_of(path))}
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
    if any(f"pred_{kind}" in entry for entry in entries for kind in KINDS):
        print(f"Saved the predictions to {file}, and images of them to the same folder.")
    else:
        print(f"Saved the predictions to {file}. They cannot be drawn: the images in the same folder show the inputs.")
    classes = inferencer.dataset_meta.get("classes") or ()
    for entry in entries:
        if entry.get("pred_scores"):
            print(f"{entry['input']}: {_best_classes(entry['pred_scores'], classes)}")
    return file, len(errors)


def _best_classes(scores: Sequence[float], classes: Sequence[str]) -> str:
    """Format the classes with the highest scores."""
    best = sorted(range(len(scores)), key=lambda label: -scores[label])[:_MAX_CLASSES]
    return ", ".join(f"{classes[label] if label < len(classes) else label} {scores[label]:.3f}" for label in best)


def _error_of(path: str) -> str | None:
    """Return the reason why an image cannot be read, or None if it can; always None for other files."""
    if Path(path).suffix.lower() not in IMAGE_SUFFIXES:
        return None
    try:
        read_image(path)
    except (OSError, ValueError, SyntaxError) as error:  # Pillow raises any of these for corrupt files
        return f"cannot be read: {error}"
    return None
