"""Checking that the numbers and names of classes in a config agree, as far as the config states them."""

from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any

from trainwright.engine.building import origin_of, resolve
from trainwright.engine.data.names import difference, keypoint_problems, names_of, only_adds, shortened
from trainwright.engine.errors import ConfigError
from trainwright.engine.model_traits import are_enough, learns_no_classes, names_classes
from trainwright.engine.parts import DATALOADERS, dataloaders
from trainwright.engine.registry import DATASETS, MODELS, Registry

_NOT_HEADS = ("data_preprocessor", "loss", "init_cfg", "memory")


def mismatched_numbers(cfg: Mapping[str, Any]) -> Iterator[ConfigError]:
    """Yield an error for each contradiction between the classes of the datasets and of the model in a whole config."""
    model = cfg.get("model") or {}
    component = _component(model, MODELS)
    if names_classes(model) or names_classes(component) or learns_no_classes(component):
        return
    stated: dict[str, tuple[str, ...]] = {}
    things: set[int] = set()
    for loader, options in (found for key in DATALOADERS for found in dataloaders(cfg, key)):
        path, dataset = _innermost_dataset(options, loader)
        metainfo = _stated_metainfo(dataset)
        for problem in keypoint_problems(metainfo):
            yield ConfigError(f"{path}.metainfo", problem, origin=origin_of(dataset, "metainfo"))
        classes = names_of(metainfo, "classes")
        if classes and "seg_classes" not in metainfo:
            reference, there = next(iter(stated.items()), (loader, classes))
            has_unpredicted = only_adds(classes, there)  # as data for tracking does
            together = loader.startswith("train_dataloader.") and loader != reference  # with labels of its own
            if not set(classes) <= set(there) and not has_unpredicted and not together:
                message = f"has other classes than {reference}: {difference(classes, there)}"
                hint = "use the same classes in both"
                yield ConfigError(f"{path}.metainfo.classes", message, hint, origin_of(dataset, "metainfo"))
            stated.setdefault(loader, classes)
        things.add(len(names_of(metainfo, "thing_classes")))
    heads = list(_shallowest_numbers(cfg.get("model")))
    source, classes = next(((key, names) for key, names in stated.items() if key.startswith("train")), ("", ()))
    if not classes or len({number for _, _, number in heads}) != 1:
        return
    path, owner, number = heads[0]
    if not are_enough(number, len(classes)) and number not in things:  # panoptic data also has classes of stuff
        message = f"{number}, but {source}.dataset has {len(classes)} classes: {shortened(classes)}"
        hint = f"set it to {len(classes)}, or correct metainfo['classes']"
        yield ConfigError(path, message, hint, origin_of(owner, "num_classes"))


def _innermost_dataset(options: Any, loader: str) -> tuple[str, Mapping[str, Any]]:
    """Return the path and config of a dataset inside wrappers (the first of several); an empty config without one."""
    path, dataset = f"{loader}.dataset", options.get("dataset") if isinstance(options, Mapping) else None
    while isinstance(dataset, Mapping):
        if dataset.get("dataset") is not None:
            path, dataset = f"{path}.dataset", dataset["dataset"]
        elif isinstance(several := dataset.get("datasets"), list | tuple) and several:
            path, dataset = f"{path}.datasets.0", several[0]
        else:
            return path, dataset
    return path, {}


def _stated_metainfo(dataset: Mapping[str, Any]) -> dict[str, Any]:
    """Return the meta information that the config or the class of a dataset states."""
    known, given = getattr(_component(dataset, DATASETS), "METAINFO", None), dataset.get("metainfo")
    return {**(known if isinstance(known, Mapping) else {}), **(given if isinstance(given, Mapping) else {})}


def _component(cfg: Any, root: Registry) -> Any:
    """Return the class or function that a config names; None if there is none."""
    if not isinstance(cfg, Mapping):
        return None
    with suppress(ConfigError, ImportError), root.switch_scope(cfg.get("_scope_")) as registry:
        return resolve(cfg.get("type"), registry)
    return None


def _shallowest_numbers(model: Any) -> Iterator[tuple[str, Mapping[str, Any], int]]:
    """Yield the path, owner and value of each ``num_classes`` on the first level of a model's config that has any."""
    level: list[tuple[str, Any]] = [("model", model)]
    while level:
        owners = [
            (path, cfg) for path, cfg in level if isinstance(cfg, Mapping) and isinstance(cfg.get("num_classes"), int)
        ]
        if owners:
            yield from ((f"{path}.num_classes", cfg, cfg["num_classes"]) for path, cfg in owners)
            return
        level = [
            (f"{path}.{key}", value)
            for path, cfg in level
            if isinstance(cfg, Mapping)
            for key, value in cfg.items()
            if key not in _NOT_HEADS
        ]
