"""``trainwright predict``: predict for files, and save the predictions as JSON and as images."""

import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from trainwright.engine.building import resolve
from trainwright.engine.config.config import Config
from trainwright.engine.errors import ConfigError
from trainwright.engine.fileio import to_json
from trainwright.engine.parts import setting
from trainwright.engine.registry import INFERENCERS
from trainwright.engine.run.environment import make_folder
from trainwright.engine.signatures import parameters_of
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
    tile_overlap: float | None = None,
    detector: Mapping[str, Any] | None = None,
    options: Mapping[str, Any] | None = None,
) -> tuple[Path, int]:
    """Predict for files, write ``predictions.json`` and an image of each prediction, and print where and class scores.

    Each prediction is written as soon as it is made. Inputs that cannot be read are reported and skipped.

    Args:
        cfg: config of the model; ``inferencer_type`` selects the inferencer.
        checkpoint: file with the weights.
        inputs: files or folders.
        out_dir: folder to write to.
        batch_size: number of inputs per batch.
        device: device to run on; by default the accelerator if there is one, else the CPU.
        tile_size: predict in tiles of this size by ``TiledInferencer``, unless the config names another inferencer.
        tile_overlap: overlap of the tiles as a fraction of their size; see ``TiledInferencer``.
        detector: arguments for the detector of a top-down model: ``det_model``, ``det_weights``, ``det_cat_ids``.
        options: arguments of the call, such as ``bboxes``.

    Returns:
        The path of ``predictions.json`` and the number of inputs that could not be read. The file contains a list with
        one entry per input: ``input`` is its path, and ``error`` the reason why it could not be read, if so.

    Raises:
        ConfigError: an input does not exist, a folder contains no inputs, none of the inputs can be read, or the
            inferencer has no such arguments.
    """
    for name in inputs:
        if not Path(name).exists():
            raise ConfigError("", f"no such file or folder: {name!r}")
    type_: Any = setting(cfg, "inferencer_type")
    tiling: dict[str, Any] = {}
    if tile_size is not None:
        if type_ not in ("Inferencer", "TiledInferencer"):
            raise ConfigError("inferencer_type", f"{type_} does not predict in tiles", "remove --tile-size")
        if tile_size < 1 or not 0 < (0.5 if tile_overlap is None else tile_overlap) < 1:
            raise ConfigError("", "--tile-size must be at least 1, and --tile-overlap between 0 and 1")
        type_, tiling = "TiledInferencer", {"tile_size": tile_size}
        if tile_overlap is not None:
            tiling["overlap_ratio"] = tile_overlap
    elif tile_overlap is not None:
        raise ConfigError("", "--tile-overlap requires --tile-size")
    _require_arguments(type_, {**(detector or {}), **(options or {})})
    inferencer: Any = INFERENCERS.build(
        {"type": type_, **tiling}, path="inferencer_type", model=cfg, weights=checkpoint,
        device=device, **(detector or {}),
    )  # fmt: skip
    try:
        found = [path for name in inputs for path in inferencer._inputs_to_list(name)]
    except FileNotFoundError as error:
        raise ConfigError("", str(error)) from error
    make_folder(out_dir, "", "choose another --out-dir")
    errors: dict[int, Exception] = {}
    predictions = inferencer.stream(found, batch_size=batch_size, out_dir=out_dir, errors=errors, **(options or {}))
    classes = inferencer.dataset_meta.get("classes") or ()
    file = out_dir / "predictions.json"
    written, is_drawn = 0, False
    with file.open("w", buffering=1) as stream:
        try:
            for entry in _entries(predictions, found, errors):
                stream.write(f"{',' if written else '['}\n{to_json(entry)}")
                written += 1
                if "error" in entry:
                    print(f"{entry['input']}: {entry['error']}", file=sys.stderr)
                if entry.get("pred_scores"):
                    print(f"{entry['input']}: {_best_classes(entry['pred_scores'], classes)}")
                is_drawn |= any(f"pred_{kind}" in entry for kind in KINDS)
        except BaseException:
            if written:
                print(f"Stopped after {written} of {len(found)} inputs, which are in {file}", file=sys.stderr)
            raise
        finally:
            stream.write("\n]\n" if written else "[]\n")
    if len(errors) == len(found):
        raise ConfigError("", "none of the inputs can be read")
    if is_drawn:
        print(f"Saved the predictions to {file}, and images of them to the same folder.")
    else:
        print(f"Saved the predictions to {file}. They cannot be drawn: the images in the same folder show the inputs.")
    return file, len(errors)


def _entries(
    predictions: Iterable[tuple[int, Any]], inputs: Sequence[str], errors: Mapping[int, Exception]
) -> Iterator[dict[str, Any]]:
    """Yield what the file says of each input, in order."""
    done = 0
    for index, prediction in chain(predictions, [(len(inputs), None)]):
        for unreadable in range(done, index):
            reason = getattr(errors[unreadable], "reason", errors[unreadable])
            yield {"input": inputs[unreadable], "error": f"cannot be read: {reason}"}
        if index < len(inputs):
            known = prediction if isinstance(prediction, dict) else {"prediction": prediction}
            yield {"input": inputs[index], **known}
        done = index + 1


def _require_arguments(type_: Any, arguments: Mapping[str, Any]) -> None:
    """Refuse arguments for boxes if the inferencer does not take any."""
    inferencer = resolve(type_, INFERENCERS, path="inferencer_type")
    known = {*parameters_of(inferencer)[0], *getattr(inferencer, "preprocess_kwargs", ())}
    for name in arguments:
        if name not in known:
            hint = "set inferencer_type='Pose2DInferencer' in the config of a top-down pose model"
            raise ConfigError("", f"--{name.replace('_', '-')}: {inferencer.__name__} takes no such argument", hint)


def _best_classes(scores: Sequence[float], classes: Sequence[str]) -> str:
    """Format the classes with the highest scores."""
    best = sorted(range(len(scores)), key=lambda label: -scores[label])[:_MAX_CLASSES]
    return ", ".join(f"{classes[label] if label < len(classes) else label} {scores[label]:.3f}" for label in best)
