"""Prediction with a trained model: on images, arrays, folders."""

import copy
import logging
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from trainwright.engine.checkpoints.contents import saved_config
from trainwright.engine.checkpoints.files import get_state_dict, load_checkpoint_file, load_state_dict
from trainwright.engine.config.config import Config
from trainwright.engine.config.config_dict import ConfigDict
from trainwright.engine.config.custom_imports import import_custom_modules
from trainwright.engine.config.paths import find_named_config, shipped_configs
from trainwright.engine.distributed import get_device
from trainwright.engine.errors import CheckpointError, ConfigError, UnknownTypeError, did_you_mean
from trainwright.engine.evaluation.samples import check_number, samples_of
from trainwright.engine.inference.images import ImagePipeline, list_images, read_image
from trainwright.engine.inference.model_index import find_model_index, listed_models, names_of
from trainwright.engine.inference.results import as_plain
from trainwright.engine.parts import COLLATE_FN, DATASET, VISUALIZER, setting
from trainwright.engine.records.logger import print_log
from trainwright.engine.registry import DATASETS, INFERENCERS, ROOT_SCOPE, TRANSFORMS, untrusted
from trainwright.engine.registry import default_scope as in_scope
from trainwright.engine.run.model_setup import build_model, initialize_model
from trainwright.engine.structures.elements import BaseDataElement

ConfigLike = Config | ConfigDict | Mapping[str, Any]

_CHECKPOINT_SUFFIXES = (".pth", ".pt", ".ckpt")


@INFERENCERS.register_module()
class Inferencer:
    """Predicts on images of any kind with a trained model.

    One checkpoint file is enough: it holds the config and the weights. Nothing in a file runs: of its config only what
    is registered already is built, and layers, networks and transforms of PyTorch and torchvision. Import the modules
    with your own parts first, or say that you trust the file. An image goes the way of the images that the model was
    tested on:

    1. through ``inference_pipeline`` or ``test_pipeline`` of the config, where there is one;
    2. else through the pipeline of the test dataset;
    3. else, for a dataset in memory, it gets that dataset's channels and size.

    A subclass for another task overrides any of :meth:`preprocess`, :meth:`forward`, :meth:`visualize` and
    :meth:`postprocess`, and lists in ``preprocess_kwargs`` and so on which arguments of a call go to which of
    them. It may also override and call ``_inputs_to_list``, ``_get_chunk_data``, ``_dispatch_kwargs`` and the methods
    ``_init_*``, which have the names that subclasses of MMEngine's class know them by.

    Example:
        >>> inferencer = Inferencer("work_dirs/lenet_fashion_mnist/best_accuracy_top1_epoch_8.pth")
        >>> inferencer("boot.png")["predictions"][0]["pred_class"]
        'Ankle boot'

    Args:
        model: a config file, a config, or the name of a config that ships with Trainwright or, with
            ``scope``, with another library; a checkpoint file stands for itself and its config; None for the
            config in ``weights``.
        weights: checkpoint file. Without one the weights are random, with a warning.
        device: where to compute; the accelerator, else the CPU, if None.
        scope: library whose registries are asked first; ``default_scope`` of the config if None.
        show_progress: show a progress bar.
        trusted: import what the config in the checkpoint names: its ``custom_imports``, its ``default_scope``, and any
            dotted path. A config that is given as ``model`` is trusted in any case.

    Raises:
        ValueError: neither a model nor weights are given, or no config has this name.
        CheckpointError: the checkpoint is missing, damaged, unsafe, without config, or does not fit.
        UnknownTypeError: its config names something that is not registered.
    """

    preprocess_kwargs: ClassVar[set[str]] = set()
    forward_kwargs: ClassVar[set[str]] = set()
    visualize_kwargs: ClassVar[set[str]] = {"show", "wait_time", "out_dir"}
    postprocess_kwargs: ClassVar[set[str]] = set()

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        seen: set[str] = set()
        for names in cls._kwargs_of_steps():
            if twice := seen & names:
                raise TypeError(f"{cls.__name__}: one step only can take the arguments {', '.join(sorted(twice))}")
            seen |= names

    def __init__(
        self,
        model: str | os.PathLike[str] | ConfigLike | None = None,
        weights: str | os.PathLike[str] | None = None,
        device: str | torch.device | None = None,
        scope: str | None = None,
        show_progress: bool = True,
        trusted: bool = False,
    ) -> None:
        if isinstance(model, str | os.PathLike) and Path(model).suffix in _CHECKPOINT_SUFFIXES and weights is None:
            model, weights = None, model
        if model is None and weights is None:
            raise ValueError("an inferencer needs a model or weights: Inferencer('epoch_8.pth')")
        cfg, listed_weights = (None, None) if model is None else self._load_config(model, scope)
        weights = listed_weights if weights is None else weights
        checkpoint = None if weights is None else load_checkpoint_file(weights, map_location="cpu")
        if cfg is None:
            assert checkpoint is not None
            cfg = config_of(checkpoint, str(weights))
            if trusted:
                import_custom_modules(cfg._cfg_dict, [])
        else:
            trusted = True
        self.cfg = cfg
        self.scope = scope or cfg.get("default_scope")
        self.show_progress = show_progress
        self.dataset_meta: dict[str, Any] = {}
        with in_scope(self.scope), nullcontext() if trusted else _from_stranger(weights):
            self.model: Any = self._init_model(cfg, checkpoint, get_device(device))
            self.dataset_meta = self._dataset_meta(cfg, checkpoint)
            self.pipeline = self._init_pipeline(cfg)
            self.collate_fn = self._init_collate(cfg)
            self.visualizer = self._init_visualizer(cfg)

    def __call__(
        self, inputs: Any, return_datasamples: bool = False, batch_size: int = 1, **kwargs: Any
    ) -> dict[str, Any]:
        """Predicts.

        Args:
            inputs: an image, or a list of images: paths, PIL images, RGB arrays (H, W, C) or tensors (C, H,
                W) with values from 0 to 255; or a folder of images; or one array (N, H, W, C) or tensor (N,
                C, H, W).
            return_datasamples: return predictions as data samples instead of dictionaries.
            batch_size: how many images the model gets at once.
            **kwargs: for the steps; ``out_dir`` is a folder for pictures of the predictions, ``show`` shows
                them.

        Returns:
            ``predictions``, one for each image: for a classifier ``pred_label``, ``pred_class``,
            ``pred_score`` (of that class) and ``pred_scores`` (of all), for a detector ``pred_instances`` (masks
            in COCO's uncompressed RLE), for a segmentation ``pred_sem_seg`` (``label``, ``class``, ``area`` and
            ``mask``, such an RLE, of each class); and ``visualization``, the pictures as arrays where they were asked
            for, else an empty list.

        Raises:
            ValueError: no step takes an argument of this name.
        """
        for_preprocess, for_forward, for_visualize, for_postprocess = self._dispatch_kwargs(**kwargs)
        items = self._inputs_to_list(inputs)
        batches: Iterable[Any] = self.preprocess(items, batch_size=batch_size, **for_preprocess)
        if self.show_progress:
            from rich.progress import track

            batches = track(batches, description="Inference", total=-(-len(items) // batch_size))
        predictions: list[Any] = []
        for batch in batches:
            predictions.extend(self.forward(batch, **for_forward))
        pictures = self.visualize(items, predictions, **for_visualize)
        return self.postprocess(predictions, pictures, return_datasamples, **for_postprocess)

    def preprocess(self, inputs: Sequence[Any], batch_size: int = 1, **kwargs: Any) -> Iterator[Any]:
        """Yields batches as :meth:`forward` takes them."""
        for chunk in self._get_chunk_data(map(self.pipeline, inputs), batch_size):
            yield self.collate_fn(chunk)

    @torch.no_grad()
    def forward(self, inputs: Any, **kwargs: Any) -> list[Any]:
        """Returns the model's predictions for one batch, one for each sample."""
        predictions = self.model.test_step(inputs)
        samples = samples_of(predictions, inputs)
        check_number(samples, inputs, predictions)
        return samples

    def visualize(
        self,
        inputs: Sequence[Any],
        preds: Sequence[Any],
        show: bool = False,
        wait_time: float = 0,
        out_dir: str | os.PathLike[str] | None = None,
    ) -> list[np.ndarray[Any, Any]]:
        """Draws the predictions on the images, if they are to be shown or written.

        Args:
            inputs: the images.
            preds: the predictions for them.
            show: show each picture.
            wait_time: seconds to show it.
            out_dir: folder to write the pictures to, under the names of the files that the images come from,
                or their numbers.

        Returns:
            The pictures, uint8 arrays of shape (H, W, 3); empty if neither is asked for.

        Raises:
            ValueError: the inputs are no images, or the predictions no data samples.
        """
        if not show and out_dir is None:
            return []
        if not all(isinstance(sample, BaseDataElement) for sample in preds):
            raise ValueError("only data samples can be drawn")
        pictures = []
        for name, source, sample in zip(_picture_names(inputs), inputs, preds):
            out_file = None if out_dir is None else str(Path(out_dir) / f"{name}.png")
            self.visualizer.add_datasample(
                name, self.picture_of(source), sample, draw_gt=False, show=show, wait_time=wait_time, out_file=out_file
            )
            pictures.append(self.visualizer.get_image())
        return pictures

    def picture_of(self, source: Any) -> np.ndarray[Any, Any]:
        """Return the image, uint8 of shape (H, W, 3), on which the prediction for an input is drawn.

        Raises:
            ValueError: the input is not an image.
        """
        if not self._takes_images:
            raise ValueError("only data samples of images can be drawn")
        image: np.ndarray[Any, Any] = read_image(source, channels=3).permute(1, 2, 0).cpu().numpy()
        return image

    def postprocess(
        self,
        preds: Sequence[Any],
        visualization: list[np.ndarray[Any, Any]],
        return_datasamples: bool = False,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """Returns predictions (as dictionaries unless data samples are asked for) and pictures."""
        results = list(preds) if return_datasamples else [self.pred2dict(sample) for sample in preds]
        return {"predictions": results, "visualization": visualization}

    def pred2dict(self, data_sample: Any) -> Any:
        """Returns a prediction as numbers, strings, lists and dictionaries."""
        return as_plain(data_sample, self.dataset_meta)

    @staticmethod
    def list_models(scope: str | None = None, patterns: str = r".*") -> list[str]:
        """Returns the names that can be given as ``model``.

        Args:
            scope: an installed library that lists its models in ``model-index.yml``; if None, the configs
                that ship with Trainwright.
            patterns: regular expression that a name must match from its beginning.

        Raises:
            ValueError: the library is not installed, or lists no models.
        """
        if scope in (None, ROOT_SCOPE):
            names = shipped_configs()
        else:
            names = [name for entry in listed_models(str(scope)) for name in names_of(entry)]
        return [name for name in dict.fromkeys(names) if re.match(patterns, name)]

    @classmethod
    def _kwargs_of_steps(cls) -> tuple[set[str], set[str], set[str], set[str]]:
        return cls.preprocess_kwargs, cls.forward_kwargs, cls.visualize_kwargs, cls.postprocess_kwargs

    @property
    def _takes_images(self) -> bool:
        return getattr(self.pipeline, "takes_images", True)

    def _inputs_to_list(self, inputs: Any) -> list[Any]:
        """Returns the single inputs in what a user handed over."""
        if isinstance(inputs, str | os.PathLike):
            return list_images(inputs) if Path(inputs).is_dir() else [inputs]
        if isinstance(inputs, np.ndarray | Tensor):
            shape = getattr(self.pipeline, "shape", None)
            dimensions = 3 if self._takes_images or shape is None else len(shape)
            return list(inputs) if inputs.ndim == dimensions + 1 else [inputs]
        return list(inputs) if isinstance(inputs, list | tuple) else [inputs]

    def _get_chunk_data(self, inputs: Iterable[Any], chunk_size: int) -> Iterator[list[Any]]:
        """Yields lists of ``chunk_size`` items; the last may be shorter."""
        remaining = iter(inputs)
        while chunk := list(islice(remaining, chunk_size)):
            yield chunk

    def _dispatch_kwargs(self, **kwargs: Any) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any], dict[str, Any]]:
        """Returns the arguments of a call that go to each of the four steps."""
        steps = self._kwargs_of_steps()
        known = set().union(*steps)
        for name in kwargs:
            if name not in known:
                hint = did_you_mean(name, known) or f"there are {', '.join(sorted(known))}"
                raise ValueError(f"{type(self).__name__} takes no argument {name!r}: {hint}")
        first, second, third, fourth = [
            {name: value for name, value in kwargs.items() if name in names} for names in steps
        ]
        return first, second, third, fourth

    def _load_config(
        self, model: str | os.PathLike[str] | ConfigLike, scope: str | None
    ) -> tuple[ConfigLike, str | None]:
        """Returns a config, and the weights that a library lists for it."""
        if isinstance(model, Mapping):
            return copy.deepcopy(model) if isinstance(model, Config | ConfigDict) else ConfigDict(model), None
        name = os.fspath(model)
        if scope in (None, ROOT_SCOPE) or Path(name).is_file() or "::" in name:
            return Config.fromfile(find_named_config(name)), None
        for entry in listed_models(str(scope)):
            if name.lower() in (listed.lower() for listed in names_of(entry)):
                weights = entry.get("Weights")
                folder = find_model_index(str(scope)).parent
                file = Config.fromfile(folder / entry["Config"])
                return file, weights[0] if isinstance(weights, list) else weights
        hint = did_you_mean(name, self.list_models(scope)) or "Inferencer.list_models() lists those that are known"
        raise ValueError(f"there is no config file and no model {name!r}: {hint}")

    def _init_model(self, cfg: ConfigLike, checkpoint: Mapping[str, Any] | None, device: torch.device) -> Any:
        """Returns the model with its weights on the device, in evaluation mode."""
        if "model" not in cfg:
            raise ConfigError("model", "the config has no model")
        if isinstance(cfg["model"], str):
            message = f"the run was given an object, {cfg['model']}, so the checkpoint cannot say how to build it"
            raise CheckpointError(
                f"model: {message}: give the config as well, Inferencer(dict(model=...), weights=...)"
            )
        model = build_model(cfg["model"], cfg.get("data_preprocessor"), weights_follow=checkpoint is not None)
        self._load_weights_to_model(model, checkpoint, cfg)
        return model.to(device).eval()

    def _load_weights_to_model(self, model: nn.Module, checkpoint: Mapping[str, Any] | None, cfg: ConfigLike) -> None:
        """Loads the weights of a checkpoint; what does not fit is logged."""
        if checkpoint is None:
            print_log(
                "no weights are given: the predictions come from a model with random weights",
                "current",
                logging.WARNING,
            )
        else:
            fit = load_state_dict(model, get_state_dict(checkpoint))
            initialize_model(model, fit.missing)
            if fit:
                load_state_dict(model, get_state_dict(checkpoint))
                print_log(f"the checkpoint does not fit the model in all:\n{fit}", "current", logging.WARNING)

    def _dataset_meta(self, cfg: ConfigLike, checkpoint: Mapping[str, Any] | None) -> dict[str, Any]:
        """Returns what the checkpoint says about the dataset, or else the class of the test dataset."""
        if checkpoint is not None and (saved := (checkpoint.get("meta") or {}).get("dataset_meta")):
            return dict(saved)
        dataset = _test_dataset(cfg)
        if dataset is None:
            return {}
        type_ = dataset["type"]
        dataset_class = DATASETS.get(type_) if isinstance(type_, str) else type_
        return {**getattr(dataset_class, "METAINFO", {}), **(dataset.get("metainfo") or {})}

    def _init_pipeline(self, cfg: ConfigLike) -> Callable[[Any], Any]:
        """Returns what makes a sample of one input."""
        dataset = _test_dataset(cfg)
        steps = (
            setting(cfg, "inference_pipeline") or setting(cfg, "test_pipeline") or (dataset or {}).get("pipeline") or ()
        )
        transforms = [TRANSFORMS.build(step) for step in steps]
        shape = self.dataset_meta.get("image_shape")
        if shape is None and not transforms:
            shape = _shape_of_inputs(dataset)
        return ImagePipeline(transforms, shape)

    def _init_collate(self, cfg: ConfigLike) -> Callable[[list[Any]], Any]:
        """Returns what makes a batch of samples: the test loader's, or one that stacks equal shapes."""
        one_shape = isinstance(self.pipeline, ImagePipeline) and not self.pipeline.has_transforms
        default = "default_collate" if one_shape else "pseudo_collate"
        collate = (cfg.get("test_dataloader") or {}).get("collate_fn") or default
        return COLLATE_FN.build(collate, path="test_dataloader.collate_fn")  # type: ignore[no-any-return]

    def _init_visualizer(self, cfg: ConfigLike) -> Any:
        """Returns a visualizer that draws, and writes to no backend."""
        options = {**(cfg.get("visualizer") or {}), "name": "inference"}
        visualizer = VISUALIZER.build({key: value for key, value in options.items() if key != "vis_backends"})
        visualizer.dataset_meta = self.dataset_meta
        return visualizer


BaseInferencer = Inferencer

"""MMEngine's name for the class that inferencers of other tasks inherit from."""


def config_of(checkpoint: Mapping[str, Any], name: str = "the checkpoint") -> Config:
    """Return the config that a checkpoint was trained with. It is read as data: nothing of it runs.

    Args:
        checkpoint: what :func:`~trainwright.engine.checkpoints.files.load_checkpoint_file` read, of Trainwright or
            MMEngine.
        name: of the checkpoint, for messages.

    Raises:
        CheckpointError: it holds no config.
    """
    hint = f"give the config as well, Inferencer('config.py', {name!r})"
    try:
        keys = saved_config(checkpoint)
    except CheckpointError as error:
        raise CheckpointError(f"{name}: {error}; {hint}") from error
    if not keys:
        raise CheckpointError(f"{name} holds no config: {hint}")
    return Config(keys)


@contextmanager
def _from_stranger(file: Any) -> Iterator[None]:
    """While active, only what is registered can be built from a config, and the error about anything else says why."""
    try:
        with untrusted():
            yield
    except UnknownTypeError as error:
        error.hint += (
            f"\nthe config comes from {file}, and nothing that a checkpoint names is imported: import the module that "
            "registers it first, give the config as well, or say trusted=True if you trust the file"
        )
        raise


def _test_dataset(cfg: ConfigLike) -> Mapping[str, Any] | None:
    """Returns the config of the test (or validation) dataset, inside of any wrappers."""
    loader = cfg.get("test_dataloader") or cfg.get("val_dataloader")
    dataset = loader.get("dataset") if isinstance(loader, Mapping) else None
    while isinstance(dataset, Mapping):
        inner = dataset.get("dataset") or dataset.get("datasets")
        if inner is None:
            return dataset
        dataset = inner[0] if isinstance(inner, list | tuple) else inner
    return None


def _shape_of_inputs(dataset: Mapping[str, Any] | None) -> tuple[int, ...]:
    """Returns the shape of a dataset's first sample."""
    hint = "say how an image becomes an input: inference_pipeline=[dict(type='LoadImageFromFile'), ...]"
    if dataset is None:
        raise ConfigError("test_dataloader", "the config has no test dataset whose images could be followed", hint)
    try:
        sample = DATASET.build(dataset, path="test_dataloader.dataset")[0]
    except Exception as error:
        error.add_note(f"the dataset was read to see what its images look like; if it is not at hand, {hint}")
        raise
    inputs = sample["inputs"] if isinstance(sample, Mapping) else sample[0]
    return tuple(inputs.shape)


def _picture_names(inputs: Sequence[Any]) -> list[str]:
    """Returns a name for each picture, no two the same: that of its file, or its number."""
    names: list[str] = []
    for index, source in enumerate(inputs):
        name = Path(source).stem if isinstance(source, str | os.PathLike) else f"{index:08d}"
        names.append(name if name not in names else f"{name}_{index:08d}")
    return names
