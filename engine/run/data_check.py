"""Trying out the data of a config: one batch of each loader through the model, the loss and the metrics."""

import copy
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch

from trainwright.engine.building import resolve
from trainwright.engine.checkpoints.start import StartingPoint
from trainwright.engine.config.config import Config
from trainwright.engine.config.config_dict import ConfigDict
from trainwright.engine.data.loader import iterate, start_at
from trainwright.engine.data.names import names_of, shortened
from trainwright.engine.data.several import joined, loaders_of
from trainwright.engine.data.traits import metainfo_of
from trainwright.engine.errors import ConfigError, TrainwrightError
from trainwright.engine.parts import DATALOADERS, MODES, dataloaders, setting
from trainwright.engine.registry import RUNNERS, default_scope
from trainwright.engine.run.eval_loops import sets_of
from trainwright.engine.run.first_batch import (
    check_files,
    check_labels,
    evenly_spaced,
    explain,
    inputs_of,
    number_of_classes,
    spot_check,
)
from trainwright.engine.run.model_setup import unwrap

_BATCH_SIZE = 4
_MASKS = 32
_LABELS = 5000


@dataclass
class DataReport:
    """What :func:`check_data` found.

    Args:
        mistakes: a description of each, with its place and remedy.
        lines: a summary of each split.
    """

    mistakes: list[str] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)


def check_data(cfg: Config, device: str | None = None) -> DataReport:
    """Build everything, and send a small batch of each loader through the model, the loss and the metrics.

    Nothing is written outside a temporary folder, and no pretrained weights are downloaded: the model has random
    weights. Data is loaded without workers, in batches of at most 4 samples. A checkpoint in ``load_from`` is read, to
    compare its classes.

    Args:
        cfg: a config without mistakes that :func:`~trainwright.engine.checking.check` finds.
        device: the device to run the model on; the CPU if None.
    """
    report = DataReport()
    with tempfile.TemporaryDirectory() as folder, default_scope(cfg.get("default_scope")):
        _Trial(_prepared(cfg, folder, device or "cpu"), report).run()
    return report


def _prepared(cfg: Config, folder: str, device: str) -> Config:
    """Return a copy of a config that writes to a temporary folder, with small batches and without workers."""
    cfg = copy.deepcopy(cfg)
    cfg.work_dir, cfg.device, cfg.launcher, cfg.log_level = folder, device, "none", "WARNING"
    cfg.resume = "auto"  # nothing to resume, but it defers the loading of pretrained weights
    for key in ("visualizer", "compile", "experiment_name"):
        cfg.pop(key, None)
    if "://" in str(cfg.get("load_from")):
        cfg.pop("load_from")
    model: Any = cfg.get("model")
    memory = model.get("memory") if isinstance(model, Mapping) else None  # that of a k-NN classifier
    loaders = [loader for key in DATALOADERS for _, loader in dataloaders(cfg, key)]
    for options in (*loaders, memory):
        if isinstance(options, ConfigDict):
            options.batch_size = min(options.get("batch_size", 1), _BATCH_SIZE)
            options.num_workers = 0
            for key in ("persistent_workers", "prefetch_factor", "timeout", "num_batch_per_epoch", "pin_memory"):
                options.pop(key, None)
    if isinstance(memory, ConfigDict):
        memory.num_batch_per_epoch = 1
    return cfg


class _Trial:
    def __init__(self, cfg: Config, report: DataReport) -> None:
        self.cfg = cfg
        self.report = report
        self.runner: Any = None
        self.model_mistake = False

    def run(self) -> None:
        with self._reported("model"):
            runner_class: Any = resolve(setting(self.cfg, "runner_type"), RUNNERS, path="runner_type")
            self.runner = runner_class.from_cfg(self.cfg)
        if self.runner is None:
            return
        with self.runner._as_current():
            with self._reported("load_from"):
                if load_from := self.cfg.get("load_from"):
                    self.runner.start = StartingPoint.find(self.cfg.work_dir, load_from, False)
            for mode, needed in MODES.items():
                if all(self.cfg.get(key) is not None for key in needed):
                    self._try(mode)

    def _try(self, mode: str) -> None:
        """Build the loop of a mode, and run one batch."""
        loop: Any = None
        with self._reported(f"{mode}_dataloader"):
            loop = self.runner._loop(mode)
        if loop is None:
            return
        summary: list[str] = []
        before = len(self.report.mistakes)
        batches: dict[str, Any] = {}
        for path, loader in loaders_of(loop.dataloader, f"{mode}_dataloader").items():
            summary.append(f"{path.replace('_dataloader', '')}: {_describe_data(loader)}")
            with self._reported(path):
                check_files(loader, path, number=sys.maxsize)
            with self._reported(path):
                for problem in _label_problems(loader, self.runner):
                    self.report.mistakes.append(f"{path}.dataset: {problem}")
                start_at(loader, 0, 0)
                batches[path] = batch = next(iter(iterate(loader)))
                summary.append(_describe_inputs(batch))
                if len(self.report.mistakes) == before:
                    check_labels(self.runner, loader, batch, mode, path)
        trials: list[tuple[str, Any, Callable[[], str]]] = []
        if len(self.report.mistakes) > before:
            pass
        elif mode == "train":
            batch = joined(loop.dataloader, batches)
            trials = [(f"{mode}_dataloader", batch, partial(self._train_step, batch))]
        else:
            for (_, _, evaluator), (path, batch) in zip(sets_of(loop), batches.items()):
                trials.append((path, batch, partial(self._evaluation_step, evaluator, batch, mode)))
        for path, batch, step in trials:
            with self._reported(f"{mode}_cfg", partial(explain, batch=batch, runner=self.runner, path=path)):
                summary.append(step())
        self.report.lines.append("; ".join(summary))

    def _train_step(self, batch: Any) -> str:
        runner = self.runner
        runner._build_optimization()
        runner.optim_wrapper.initialize_count_status(runner.model, 0, runner.max_iters)
        runner.model.train()
        losses = runner.model.train_step(batch, optim_wrapper=runner.optim_wrapper)
        return f"losses {shortened(list(losses))}" if isinstance(losses, Mapping) else "no losses"

    @torch.no_grad()
    def _evaluation_step(self, evaluator: Any, batch: Any, mode: str) -> str:
        self.runner.model.eval()
        step = self.runner.model.val_step if mode == "val" else self.runner.model.test_step
        evaluator.process(data_samples=step(batch), data_batch=batch)
        silent = [metric for metric in evaluator.metrics if not getattr(metric, "writes_files", False)]
        names = [name for metric in silent for name in metric.evaluate(_BATCH_SIZE)]
        return f"metrics {shortened(names)}"

    @contextmanager
    def _reported(self, place: str, explained: Callable[[Exception], Any] = lambda error: None) -> Iterator[None]:
        """Add an error to the report instead of raising it."""
        try:
            yield
        except Exception as error:
            found = explained(error) or error
            if isinstance(found, ConfigError) and found.path.partition(".")[0] == "model":
                if self.model_mistake:  # every loader has the same trouble with the model
                    return
                self.model_mistake = True
            self.report.mistakes.append(_described(found, place))


def _described(error: Exception, place: str) -> str:
    """Describe an error, with its notes and, unless it is one of ours, its place in the config and in the code."""
    notes = "".join(f"\n    {note}" for note in getattr(error, "__notes__", ()))
    if isinstance(error, TrainwrightError):
        return f"{error}{notes}"
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return f"{place}: {type(error).__name__}: {error}{notes}\n    in {frame.name}, {frame.filename}:{frame.lineno}"


def _describe_data(dataloader: Any) -> str:
    dataset = getattr(dataloader, "dataset", None)
    kind = getattr(dataset, "_inner", dataset)
    size = len(dataset) if hasattr(dataset, "__len__") else "?"  # type: ignore[arg-type]  # checked by hasattr
    classes = names_of(metainfo_of(dataloader), "classes")
    described = f", {len(classes)} classes ({shortened(classes)})" if classes else ""
    return f"{size} samples of {type(kind).__name__}{described}"


def _describe_inputs(batch: Any) -> str:
    inputs = inputs_of(batch)
    several = inputs if isinstance(inputs, list | tuple) else [inputs]
    shapes = {f"{tuple(each.shape)} {each.dtype}".replace("torch.", "") for each in several if hasattr(each, "shape")}
    return f"inputs {', '.join(sorted(shapes))}" if shapes else f"inputs of type {type(inputs).__name__}"


def _label_problems(dataloader: Any, runner: Any) -> Iterator[str]:
    """Yield the problems in the labels of evenly spaced samples that can be found without loading images."""
    yield from spot_check(dataloader, _MASKS)
    dataset = getattr(dataloader, "dataset", None)
    number = number_of_classes(unwrap(runner.model), metainfo_of(dataloader) or {}, "num_classes")
    labels_of = getattr(dataset, "get_cat_ids", None)
    if not number or labels_of is None:
        return
    for index in evenly_spaced(len(dataset), _LABELS):  # type: ignore[arg-type]  # it has samples
        try:
            labels = labels_of(index)
        except NotImplementedError:
            return
        wrong = [label for label in labels if isinstance(label, int) and not 0 <= label < number]
        if wrong:
            yield f"sample {index} has the label {wrong[0]}, but labels must be from 0 to {number - 1}"
            return
