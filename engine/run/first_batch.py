"""Checking the labels of the first batch of a loader, and explaining errors that a batch causes in the model."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sized
from typing import TYPE_CHECKING, Any, TypeGuard

import torch
from torch import Tensor
from torch.utils.data import IterableDataset

from trainwright.engine.data.files import missing_files
from trainwright.engine.data.names import names_of
from trainwright.engine.data.several import NamedBatches, batches_of
from trainwright.engine.data.traits import metainfo_of
from trainwright.engine.errors import ConfigError, DataError, MissingFileError, TrainwrightError
from trainwright.engine.model_traits import DECLARED_NUMBERS, declared_number
from trainwright.engine.run.model_setup import unwrap
from trainwright.engine.signatures import parameters_of
from trainwright.engine.structures.elements import BaseDataElement

if TYPE_CHECKING:
    from trainwright.engine.run.runner import Runner

IGNORED = 255
"""The label of ignored pixels in segmentation maps."""
_SPOT_CHECKS = 16
_SHOWN = 5
_RAW_KEYS = frozenset(["img_path", "img", "filename", "frame_dir", "gt_label", "sample_idx", "img_id"])
_CHANNELS = re.compile(r"expected input\[[\d, ]+\] to have (\d+) channels, but got (\d+) channels")
_TARGET = re.compile(r"Target (-?\d+) is out of bounds")


def check_labels(runner: "Runner", dataloader: Any, batch: Any, mode: str, path: str) -> None:
    """Check the labels of a batch on the CPU: on an accelerator, those out of range end the process.

    Args:
        runner: the run, whose model may declare its number of classes.
        dataloader: the loader of the batch.
        batch: a batch with ``data_samples``; any other is not checked.
        mode: ``train``, ``val`` or ``test``.
        path: dotted path of the loader, for messages.

    Raises:
        DataError: a label is out of range, or the masks have only one class besides ignored pixels.
    """
    model, meta = unwrap(runner.model), metainfo_of(dataloader) or {}
    place = f"{path}.dataset"
    number = number_of_classes(model, meta, "num_classes")
    if number and mode != "train":  # data for evaluation may have more classes
        number = max(number, len(names_of(meta, "classes")))
    labels_of_samples = list(_labels(batch))
    for name, labels in labels_of_samples:
        if number and labels.numel() and int(labels.max()) >= number:
            raise DataError(
                f"{place}: {name} has the label {int(labels.max())}, but there are {number} classes, from 0"
            )
    number = number_of_classes(model, meta, "num_seg_classes")
    if number is None and not labels_of_samples:  # else the model's num_classes is that of those labels
        number = declared_number(model, "num_classes")
    ignored = getattr(model, "ignore_index", IGNORED)
    present: set[int] = set()
    for name, classes in _seg_maps(batch):
        values = set(torch.unique(classes).tolist())
        present |= values
        if number and (unknown := [value for value in sorted(values) if value >= number and value != ignored]):
            raise DataError(
                f"{place}: the segmentation map of {name} has the value {unknown[0]}, but there are {number} classes, "
                f"from 0, and {ignored} for ignored pixels: correct the masks, or set label_map"
            )
    if present == {0, ignored} and (problem := next(spot_check(dataloader, _SPOT_CHECKS), None)):
        raise DataError(f"{place}: {problem}")


def check_files(dataloader: Any, path: str, number: int = 1000) -> None:
    """Check that the files of evenly spaced samples exist, unless the loader may skip bad samples.

    Args:
        dataloader: a loader.
        path: its dotted path, for messages.
        number: maximum number of samples to look at.

    Raises:
        MissingFileError: files are missing.
    """
    dataset = getattr(dataloader, "dataset", None)
    if (
        isinstance(dataset, IterableDataset)
        or not isinstance(dataset, Sized)
        or getattr(dataloader, "skips_bad_samples", False)
    ):
        return
    indices = evenly_spaced(len(dataset), number)
    missing = list(missing_files(dataset, indices))
    if not missing:
        return
    lines = [f"    sample {index}: {MissingFileError.of(file)}" for index, file in missing[:_SHOWN]]
    if len(missing) > _SHOWN:
        lines.append(f"    … and {len(missing) - _SHOWN} more")
    listed = "\n".join(lines)
    raise MissingFileError(
        f"{path}.dataset names files that do not exist, {len(missing)} in {len(indices)} samples\n{listed}\n"
        "Check data_root and data_prefix, remove these samples, or skip them with "
        "LoadImageFromFile(ignore_empty=True) or skip_bad_samples of the data loader"
    )


def spot_check(dataloader: Any, number: int) -> Iterator[str]:
    """Yield the problems that a dataset with ``check_labels`` finds in evenly spaced samples."""
    dataset = getattr(dataloader, "dataset", None)
    check = getattr(dataset, "check_labels", None)
    if check is not None:
        yield from check(evenly_spaced(len(dataset), number))  # type: ignore[arg-type]  # it has samples


def evenly_spaced(size: int, number: int) -> list[int]:
    """Return up to ``number`` evenly spaced indices of a dataset with ``size`` samples."""
    return list(range(0, size, max(1, -(-size // number))))


def explain(error: BaseException, batch: Any, runner: "Runner", path: str) -> TrainwrightError | None:
    """Return the error to raise instead, if it is known how the batch caused an error, or None.

    Args:
        error: raised by a step with the batch.
        batch: the batch from the data loader.
        runner: the run.
        path: dotted path of the data loader.
    """
    if isinstance(error, TrainwrightError):
        error.add_note(f"in the first batch of {path}")
        return None
    if isinstance(batch, NamedBatches):
        return _explain_named(error, batch, runner, path)
    text, place = str(error), f"{path}.dataset"
    if _is_unpacked(batch) and (isinstance(error, TypeError) or "inputs" in text):
        message = f"the samples are not packed: they have {', '.join(map(str, batch))}, not inputs and data_samples"
        return ConfigError(f"{place}.pipeline", message, "end the pipeline with dict(type='PackInputs')")
    if _in_list(batch) and isinstance(error, TypeError | AttributeError) and re.search(r"\blist\b", text):
        message = (
            f"the inputs of the model are a {type(inputs_of(batch)).__name__} of tensors, which it does not accept"
        )
        hint = "set it to dict(type='default_collate'), or give the model a data_preprocessor that stacks images"
        return ConfigError(f"{path}.collate_fn", message, hint)
    inputs = _first_input(batch)
    if inputs is not None and not isinstance(inputs, Tensor | Mapping):
        message = f"the inputs of the model are {type(inputs).__module__}.{type(inputs).__name__}, not tensors"
        return ConfigError(f"{place}.pipeline", message, "end the pipeline with dict(type='PackInputs')")
    found = _CHANNELS.search(text)
    if found is not None and isinstance(inputs, Tensor) and int(found[2]) in inputs.shape[-4:]:
        expected, channels = int(found[1]), int(found[2])
        message = f"its first convolution takes {expected} channels, but the images of {place} have {channels}"
        wanted = {1: "grayscale", 3: "color"}.get(expected)
        load = f"load the images with LoadImageFromFile(color_type={wanted!r}), or " if wanted else ""
        return ConfigError("model", message, f"{load}set the model's in_channels to {channels}")
    found = _TARGET.search(text)
    if found is not None:
        message = f"it has no output for the label {found[1]} in {place}"
        return ConfigError(
            "model", message, "set num_classes of the model to the number of classes, or correct the labels"
        )
    return None


def _explain_named(error: BaseException, batches: NamedBatches, runner: "Runner", path: str) -> TrainwrightError | None:
    model = unwrap(runner.model)
    parameters, closed = parameters_of(model.forward)
    lacking = [name for name in batches if name not in parameters]
    if closed and lacking and isinstance(error, TypeError) and "unexpected keyword argument" in str(error):
        message = f"its forward takes {', '.join(parameters)}, but not {lacking[0]}, a batch of {path}"
        return ConfigError("model", message, f"with several data loaders, it is called with {', '.join(batches)}, mode")
    found = (explain(error, each, runner, place) for place, each in batches_of(batches, path).items())
    return next((cause for cause in found if cause is not None), None)


def _is_unpacked(batch: Any) -> bool:
    return isinstance(batch, Mapping) and "inputs" not in batch and not _RAW_KEYS.isdisjoint(batch)


def inputs_of(batch: Any) -> Any:
    """Return the inputs of a batch: its item ``inputs``, or the first one of a list or tuple."""
    if isinstance(batch, Mapping):
        return batch.get("inputs")
    return batch[0] if isinstance(batch, list | tuple) and batch else batch


def _in_list(batch: Any) -> bool:
    inputs = inputs_of(batch)
    return isinstance(inputs, list | tuple) and all(isinstance(each, Tensor) for each in inputs)


def _first_input(batch: Any) -> Any:
    """Return the inputs of a batch, or the first of them if they are in a list."""
    inputs = inputs_of(batch)
    while isinstance(inputs, list | tuple) and inputs:
        inputs = inputs[0]
    return inputs


def number_of_classes(model: Any, meta: Mapping[str, Any], attribute: str) -> int | None:
    """Return the number of classes that the model declares, or else that of the dataset."""
    names = next(filter(None, (names_of(meta, key) for key in DECLARED_NUMBERS[attribute])), ())
    declared = declared_number(model, attribute)
    if declared is None or (declared == 1 and len(names) == 2):  # a single output distinguishes two classes
        return len(names) or None
    return declared


def _samples(batch: Any) -> Iterable[BaseDataElement]:
    samples = batch.get("data_samples") if isinstance(batch, Mapping) else None
    several = samples if isinstance(samples, list | tuple) else [samples]
    return [sample for sample in several if isinstance(sample, BaseDataElement)]


def _labels(batch: Any) -> Iterator[tuple[str, Tensor]]:
    """Yield the class labels of a batch that are on the CPU, with the name of their sample."""
    if isinstance(batch, list | tuple) and len(batch) == 2 and _are_labels(batch[1]) and batch[1].dim() == 1:
        yield "a sample", batch[1]
    for sample in _samples(batch):
        instances = sample.get("gt_instances")
        for labels in (sample.get("gt_label"), None if instances is None else instances.get("labels")):
            if _are_labels(labels):
                yield _name_of(sample), labels


def _are_labels(value: Any) -> TypeGuard[Tensor]:
    return isinstance(value, Tensor) and value.is_cpu and value.dtype == torch.int64


def _seg_maps(batch: Any) -> Iterator[tuple[str, Tensor]]:
    for sample in _samples(batch):
        classes = None if (pixels := sample.get("gt_sem_seg")) is None else pixels.get("sem_seg")
        if isinstance(classes, Tensor) and classes.is_cpu:
            yield _name_of(sample), classes


def _name_of(sample: BaseDataElement) -> str:
    return str(next(filter(None, (sample.get(key) for key in ("img_path", "filename", "frame_dir"))), "a sample"))
