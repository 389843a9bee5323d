"""Whether the model, the data, the metrics and the checkpoint of a run agree, checked before the first step.

Names are compared by name: a dataset that has the same classes in another order is renumbered. The reference is the
training data, or else the data that the weights in the checkpoint were trained on.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from trainwright.engine.config.compare import origin_of_path
from trainwright.engine.data.names import adopt_numbers, difference, keypoint_problems, names_of, only_adds, shortened
from trainwright.engine.data.traits import metainfo_of
from trainwright.engine.errors import ConfigError, DataError
from trainwright.engine.model_traits import (
    DECLARED_NUMBERS,
    are_enough,
    declared_number,
    labeled_dataset_of,
    learns_no_classes,
    names_classes,
)
from trainwright.engine.run.model_setup import unwrap

if TYPE_CHECKING:
    from trainwright.engine.run.runner import Runner

_NAMES = ("classes", "seg_classes", "keypoints")


def agree_on_data(
    runner: "Runner", dataloader: Any, mode: str, path: str, first: Mapping[str, Any] | None = None
) -> None:
    """Renumber the classes of a loader's dataset like those of the reference, and compare them with the model.

    Data for evaluation may have further classes after those of the reference, as in tracking; a warning is logged. For
    a model that predicts the labels of a dataset, that dataset is renumbered too.

    Args:
        runner: the run; its training loop, if already built, and the checkpoint that it starts from are the reference.
        dataloader: the loader, whose dataset may be renumbered.
        mode: ``train``, ``val`` or ``test``.
        path: dotted path of the loader, for messages.
        first: ``metainfo`` of the first of several training datasets, if this is another one. It is the reference for
            datasets with the same classes. Datasets with other classes keep their labels.

    Raises:
        DataError: the dataset has other classes than the reference.
        ConfigError: the model has too few outputs, or the numbers in ``metainfo`` contradict each other.
    """
    model = unwrap(runner.model)
    labeled = None if mode == "train" else labeled_dataset_of(model)
    if names_classes(model) or (learns_no_classes(model) and labeled is None):
        return
    place = _place(runner, f"{path}.dataset")
    if mode == "train" and first is not None:
        _agree_on_further_data(runner, dataloader, first, place)
        return
    known: dict[str, Sequence[str]] = {}
    for key in _NAMES:
        if labeled is None:
            reference, source = _reference(runner, key, metainfo_of(dataloader), mode)
        else:
            reference, source = _adopted_by_labeled(runner, key, labeled)
        names = names_of(metainfo_of(dataloader), key)
        if mode != "train" and key != "keypoints" and only_adds(names, reference):
            rest = shortened(names[len(reference) :])
            runner.logger.warning("%s has %s that %s lacks: %s. They are never predicted.", place, key, source, rest)
            known[key] = reference
            continue
        _adopt(runner, getattr(dataloader, "dataset", None), key, reference, place, source)
    for problem in keypoint_problems(metainfo_of(dataloader) or {}):
        raise DataError(f"{place}: {problem}")
    _compare_numbers(runner, {**(metainfo_of(dataloader) or {}), **known}, mode, path)
    if mode == "train" and hasattr(unwrap(runner.model), "dataset_meta"):
        unwrap(runner.model).dataset_meta = metainfo_of(dataloader)  # type: ignore[assignment]  # not a module


def _agree_on_further_data(runner: "Runner", dataloader: Any, first: Mapping[str, Any], place: str) -> None:
    for key in _NAMES:
        reference, names = names_of(first, key), names_of(metainfo_of(dataloader), key)
        if names and set(names) <= set(reference):
            _adopt(runner, getattr(dataloader, "dataset", None), key, reference, place, "the first data loader")
        elif names and reference:
            runner.logger.warning(
                "%s has other %s than the first data loader (%s). Its labels are its own numbers.",
                place, key, difference(names, reference),
            )  # fmt: skip


def check_evaluator(runner: "Runner", evaluator: Any, path: str) -> None:
    """Check that the metrics agree with the dataset whose ``metainfo`` they have.

    Args:
        runner: the run.
        evaluator: the evaluator.
        path: its dotted path, for messages.

    Raises:
        DataError: they do not agree.
    """
    check = getattr(evaluator, "check_dataset_meta", None)
    try:
        if check is not None:
            check()
    except DataError as error:
        raise DataError(f"{_place(runner, path)}: {error}") from error


def _adopt(runner: "Runner", dataset: Any, key: str, reference: Sequence[str], place: str, source: str) -> None:
    if reference and (change := adopt_numbers(dataset, key, reference, place, source)):
        runner.logger.info("%s", change)


def _adopted_by_labeled(runner: "Runner", key: str, labeled: Any) -> tuple[tuple[str, ...], str]:
    """Renumber the dataset whose labels the model predicts, and return the names that other data has to adopt."""
    name = f"the labeled dataset of {type(unwrap(runner.model)).__name__}"
    own = names_of(getattr(labeled, "metainfo", None), key)
    if learns_no_classes(unwrap(runner.model)):
        return own, name
    reference, source = names_of(runner.dataset_meta, key), "train_dataloader.dataset"
    if not reference:
        saved, source = _saved(runner, key)
        reference = saved if own and set(own) <= set(saved) else ()  # the weights may be those for other classes
    _adopt(runner, labeled, key, reference, f"{_place(runner, 'model')}: {name}", source)
    return (reference, source) if reference else (own, name)


def _saved(runner: "Runner", key: str) -> tuple[tuple[str, ...], str]:
    """Return the names in the checkpoint that the run starts from, or in the exported model, and a name for it."""
    start, model = runner.start, unwrap(runner.model)
    if exported := getattr(model, "exported_meta", None):
        return names_of(exported, key), "the exported model"
    names = names_of((start.contents.get("meta") or {}).get("dataset_meta"), key)
    return names, f"the checkpoint {start.path}"


def _reference(
    runner: "Runner", key: str, metainfo: Mapping[str, Any] | None, mode: str
) -> tuple[tuple[str, ...], str]:
    """Return the names that a dataset has to adopt, and their source; no names if it may have any."""
    if mode != "train" and (names := names_of(runner.dataset_meta, key)):
        return names, "train_dataloader.dataset"
    model = unwrap(runner.model)
    saved, source = _saved(runner, key)
    own = names_of(metainfo, key)
    if not saved and own and not runner.start.contents:
        return _of_pretrained(runner, key, metainfo or {})
    if not saved or not own or own == saved:
        return (), source
    if runner.start.resumes:
        return saved, source
    number = next((declared_number(model, name) for name, keys in DECLARED_NUMBERS.items() if key == keys[0]), None)
    if number not in (None, len(saved)):  # the last layers are new
        if mode == "test":
            message = f"the model has {number} {key}, but {source} has {len(saved)}"
            raise ConfigError("model", message, "test with the config that the checkpoint was trained with")
        return (), source
    if mode != "train" or set(own) == set(saved) or (number is not None and set(own) <= set(saved)):
        return saved, source
    if len(own) == len(saved):
        _warn_of_others(runner, key, own, saved, source)
    return (), source


def _of_pretrained(runner: "Runner", key: str, metainfo: Mapping[str, Any]) -> tuple[tuple[str, ...], str]:
    """Return the names that the outputs of pretrained weights stand for, if the data has no others, and their source.

    They may be in other words than those of the data, so a difference is only a warning.
    """
    model, own = unwrap(runner.model), names_of(metainfo, key)
    known, source = getattr(model, "dataset_meta", None), f"the weights of {type(model).__name__}"
    names = names_of(known, key)
    if key == "classes" and "seg_classes" not in metainfo:  # then these are the classes of pixels
        names = names or names_of(known, "seg_classes")
    if names and names != own and set(own) <= set(names):
        return names, source
    if names != own and len(names) == len(own):
        _warn_of_others(runner, key, own, names, source)
    return (), source


def _warn_of_others(runner: "Runner", key: str, own: Sequence[str], saved: Sequence[str], source: str) -> None:
    runner.logger.warning(
        "The %s of the dataset are not those of %s (%s). If the last layers are loaded from it, their outputs were "
        "trained for other %s.",
        key, source, difference(own, saved), key,
    )  # fmt: skip


def _compare_numbers(runner: "Runner", metainfo: Mapping[str, Any], mode: str, path: str) -> None:
    model = unwrap(runner.model)
    for attribute, keys in DECLARED_NUMBERS.items():
        number = declared_number(model, attribute)
        key = next((key for key in keys if names_of(metainfo, key)), "")
        names = names_of(metainfo, key)
        if number is None or not names or number == len(names):
            continue
        what = f"{type(model).__name__} has {number} {'keypoints' if key == 'keypoints' else 'classes'}"
        message = f"{what}, but {path}.dataset has {len(names)} {key}: {shortened(names)}"
        if key == "keypoints" or not are_enough(number, len(names)):
            hint = f"set the model's number to {len(names)}, or correct metainfo[{key!r}]"
            raise ConfigError("model", message, hint, origin_of_path(runner.cfg, "model"))
        if mode == "train" and number > len(names):
            runner.logger.warning("%s. The remaining outputs of the model are unused.", message)
    flips, own = getattr(model, "flip_indices", None), metainfo.get("flip_indices")
    if flips is not None and own is not None and list(flips) != list(own):
        message = f"{list(flips)} differ from those of {path}.dataset, {list(own)}"
        hint = "copy them from the metainfo of the dataset"
        raise ConfigError("model.flip_indices", message, hint, origin_of_path(runner.cfg, "model.flip_indices"))


def _place(runner: "Runner", path: str) -> str:
    """Return a path in the config, with the file and line that set it."""
    origin = origin_of_path(runner.cfg, path)
    return f"{origin}: {path}" if origin else path
