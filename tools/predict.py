"""``trainwright predict``: predictions for files, as JSON and as pictures."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from trainwright.engine.config.config import Config
from trainwright.engine.errors import ConfigError
from trainwright.engine.registry import INFERENCERS

_SHOWN = 5


def predict(
    cfg: Config, checkpoint: str, inputs: Sequence[str], out_dir: Path, batch_size: int = 1, device: str | None = None
) -> Path:
    """Predicts for files and writes ``predictions.json`` and a picture of each prediction; prints scores of classes.

    Args:
        cfg: config of the model; ``inferencer_type`` names an inferencer of its own.
        checkpoint: file with the weights.
        inputs: files, or folders of them.
        out_dir: folder to write to.
        batch_size: how many inputs the model gets at once.
        device: where to compute; the accelerator, else the CPU, if None.

    Returns:
        The path of ``predictions.json``: a list with one entry an input, ``input`` its path.

    Raises:
        ConfigError: an input does not exist, or a folder has nothing to predict for.
    """
    for given in inputs:
        if not Path(given).exists():
            raise ConfigError("", f"there is no file and no folder {given!r}")
    inferencer: Any = INFERENCERS.build(
        {"type": cfg.get("inferencer_type", "Inferencer")}, path="inferencer_type", model=cfg, weights=checkpoint,
        device=device,
    )  # fmt: skip
    try:
        paths = [path for given in inputs for path in inferencer._inputs_to_list(given)]
    except FileNotFoundError as error:
        raise ConfigError("", str(error)) from error
    predictions = inferencer(paths, batch_size=batch_size, out_dir=out_dir)["predictions"]
    out_dir.mkdir(parents=True, exist_ok=True)
    file = out_dir / "predictions.json"
    entries = [{"input": path, **_as_dict(prediction)} for path, prediction in zip(paths, predictions)]
    file.write_text("[\n" + ",\n".join(json.dumps(entry) for entry in entries) + "\n]\n")
    classes = inferencer.dataset_meta.get("classes") or ()
    for entry in entries:
        if entry.get("pred_scores"):
            print(f"{entry['input']}: {_best_classes(entry['pred_scores'], classes)}")
    return file


def _best_classes(scores: Sequence[float], classes: Sequence[str]) -> str:
    """Returns the classes with the highest scores, in words."""
    best = sorted(range(len(scores)), key=lambda label: -scores[label])[:_SHOWN]
    return ", ".join(f"{classes[label] if label < len(classes) else label} {scores[label]:.3f}" for label in best)


def _as_dict(prediction: Any) -> dict[str, Any]:
    return prediction if isinstance(prediction, dict) else {"prediction": prediction}
