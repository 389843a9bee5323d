"""Prediction with a trained model: on images, arrays, folders."""

import copy
import logging
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
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
from trainwright.engine.export.formats import UNSAFE_SUFFIXES, is_exported, load_exported, use_exported
from trainwright.engine.images.reader import ImageReader
from trainwright.engine.inference.images import ImagePipeline, list_images
from trainwright.engine.inference.model_index import find_model_index, listed_models, names_of
from trainwright.engine.inference.results import as_plain
from trainwright.engine.model_traits import labeled_dataset_of, names_classes, use_classes
from trainwright.engine.parts import COLLATE_FN, DATASET, VISUALIZER, dataloaders, setting
from trainwright.engine.records.logger import print_log
from trainwright.engine.registry import DATASETS, INFERENCERS, ROOT_SCOPE, TRANSFORMS, default_scope, untrusted
from trainwright.engine.run.freezing import unsaved_names
from trainwright.engine.run.model_setup import build_model, initialize_model
from trainwright.engine.structures.elements import BaseDataElement

ConfigLike = Config | ConfigDict | Mapping[str, Any]

_CHECKPOINT_SUFFIXES = (".pth", ".pt", ".ckpt", ".dist")
_EXPORTED = "exported"  # key that marks what stands for a checkpoint if the model is an exported one


@INFERENCERS.register_module()
class Inferencer:
    """An inferencer that predicts on images with a trained model.

    A checkpoint file is sufficient, since it contains the config and the weights. No code in it is executed: its config
    can only build registered components, and layers, networks and transforms of PyTorch and torchvision. Import the
    modules with your own components first, or set ``trusted``. Images are processed like those the model was tested on:

    1. with ``inference_pipeline`` or ``test_pipeline`` of the config, if set;
    2. otherwise with the pipeline of the test dataset;
    3. otherwise, for a dataset in memory, by converting them to its channels and size.

    A subclass for another task overrides any of :meth:`preprocess`, :meth:`forward`, :meth:`visualize` and
    :meth:`postprocess`, and lists the arguments of a call that each of them accepts in ``preprocess_kwargs`` and so on.
    It may also override and call ``_inputs_to_list``, ``_get_chunk_data``, ``_dispatch_kwargs`` and the ``_init_*``
    methods, which are named as in MMEngine.

    Example:
        >>> inferencer = Inferencer("work_dirs/lenet_fashion_mnist/best_accuracy_top1_epoch_8.pth")
        >>> inferencer("boot.png")["predictions"][0]["pred_class"]
        'Ankle boot'

    Args:
        model: a config file, a config, or the name of a config of Trainwright or, with ``scope``, of another library; a
            checkpoint file for both ``weights`` and their config; None for the config in ``weights``.
        weights: checkpoint file, or a file that ``trainwright export`` has written. Without one, the weights are
            random, and a warning is logged.
        device: device for the model; if None, the accelerator or else the CPU.
        scope: library whose registries are searched first; ``default_scope`` of the config if None.
        show_progress: show a progress bar.
        trusted: allow the config in the checkpoint to import modules with ``custom_imports``, ``default_scope`` and
            dotted paths. A config passed as ``model`` is always trusted.

    Raises:
        ValueError: both model and weights are missing, or no config has this name.
        CheckpointError: the checkpoint is missing, corrupt, unsafe, without config, or does not match the model.
        UnknownTypeError: the config of an untrusted checkpoint names a component that is not registered.
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
                raise TypeError(f"{cls.__name__}: more than one step claims the arguments {', '.join(sorted(twice))}")
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
        if is_exported(model) and weights is None:
            model, weights = None, model
        exported = str(weights) if is_exported(weights) else None
        if exported and model is None and not trusted and Path(exported).suffix in UNSAFE_SUFFIXES:
            hint = "pass its config as well, or set trusted=True if you trust the file"
            raise CheckpointError(f"{exported} is a program, which may run any code: {hint}")
        if model is None and weights is None:
            raise ValueError("a model or weights are required, e.g. Inferencer('epoch_8.pth')")
        cfg, listed_weights = (None, None) if model is None else self._load_config(model, scope)
        weights = listed_weights if weights is None else weights
        checkpoint: Mapping[str, Any] | None = None
        if exported is not None:
            cfg, checkpoint = _with_exported(cfg, exported)
        elif weights is not None:
            checkpoint = load_checkpoint_file(weights, map_location="cpu")
        if cfg is None:
            assert checkpoint is not None
            cfg = config_of(checkpoint, str(weights))
        if model is not None:
            trusted = True
        elif trusted:
            assert isinstance(cfg, Config)
            import_custom_modules(cfg._cfg_dict, [])
        self.cfg = cfg
        self.scope = scope or cfg.get("default_scope")
        self.show_progress = show_progress
        self._names: list[str] | None = None  # of pictures, if they belong to a stream
        self.dataset_meta: dict[str, Any] = {}
        with default_scope(self.scope), nullcontext() if trusted else _untrusted_file(weights):
            self.model: Any = self._init_model(cfg, checkpoint, get_device(device))
            self.dataset_meta = self._dataset_meta(cfg, checkpoint)
            if names := use_classes(self.model, {}) or use_classes(self.model, self.dataset_meta):
                self.dataset_meta["classes"] = names
            self.pipeline = self._init_pipeline(cfg)
            self.collate_fn = self._init_collate(cfg)
            self.visualizer = self._init_visualizer(cfg)

    def __call__(
        self,
        inputs: Any,
        return_datasamples: bool = False,
        batch_size: int = 1,
        errors: dict[int, Exception] | None = None,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """Predict on one or more images.

        Args:
            inputs: an image or a list of images: paths, PIL images, RGB arrays (H, W, C) or tensors (C, H, W) with
                values from 0 to 255; or a folder of images; or an array (N, H, W, C) or tensor (N, C, H, W).
            return_datasamples: return predictions as data samples instead of dictionaries.
            batch_size: number of images per batch.
            errors: a dict for the exceptions of inputs that cannot be read, by their index; these inputs have no
                prediction. If None, the first exception is raised.
            **kwargs: arguments of the steps; ``out_dir`` is a folder to write pictures of the predictions to, and
                ``show`` displays them.

        Returns:
            ``predictions``, one per image: for a classifier ``pred_label``, ``pred_class``, ``pred_score`` (of that
            class) and ``pred_scores`` (of all classes), for a detector ``pred_instances`` (masks in COCO's uncompressed
            RLE), for segmentation ``pred_sem_seg`` (``label``, ``class``, ``area`` and ``mask`` in RLE per class); and
            ``visualization``, the pictures as arrays if they were shown or written, otherwise an empty list.

        Raises:
            ValueError: an unknown argument.
        """
        for_preprocess, for_forward, for_visualize, for_postprocess = self._dispatch_kwargs(**kwargs)
        items = self._inputs_to_list(inputs)
        predictions = list(
            self._tracked(self._predictions(items, batch_size, errors, for_forward, **for_preprocess), items)
        )
        readable = [item for index, item in enumerate(items) if index not in (errors or {})]
        pictures = self.visualize(readable, predictions, **for_visualize)
        return self.postprocess(predictions, pictures, return_datasamples, **for_postprocess)

    def stream(
        self,
        inputs: Any,
        return_datasamples: bool = False,
        batch_size: int = 1,
        errors: dict[int, Exception] | None = None,
        **kwargs: Any,
    ) -> Iterator[tuple[int, Any]]:
        """Predict on any number of images, keeping neither predictions nor pictures in memory.

        Args:
            inputs: see :meth:`__call__`.
            return_datasamples: yield predictions as data samples instead of dictionaries.
            batch_size: number of images per batch.
            errors: see :meth:`__call__`.
            **kwargs: see :meth:`__call__`.

        Yields:
            The index of an input and the prediction for it, in order, after its picture is shown or written.

        Raises:
            ValueError: an unknown argument.
        """
        for_preprocess, for_forward, for_visualize, for_postprocess = self._dispatch_kwargs(**kwargs)
        items = self._inputs_to_list(inputs)
        names = _picture_names(items)
        predictions = self._predictions(items, batch_size, errors, for_forward, **for_preprocess)
        index = -1
        for prediction in self._tracked(predictions, items):
            index += 1
            while index in (errors or {}):
                index += 1
            self._names = names[index : index + 1]
            try:
                pictures = self.visualize(items[index : index + 1], [prediction], **for_visualize)
            finally:
                self._names = None
            answer = self.postprocess([prediction], pictures, return_datasamples, **for_postprocess)
            yield index, answer["predictions"][0]

    def _predictions(
        self,
        items: Sequence[Any],
        batch_size: int,
        errors: dict[int, Exception] | None,
        for_forward: Mapping[str, Any],
        **for_preprocess: Any,
    ) -> Iterator[Any]:
        """Yield the prediction for each input that can be read, in order; ``errors`` has the others before it."""
        if errors is not None:
            for_preprocess["errors"] = errors
        for batch in self.preprocess(items, batch_size=batch_size, **for_preprocess):
            yield from self.forward(batch, **for_forward)

    def _tracked(self, predictions: Iterator[Any], items: Sequence[Any]) -> Iterable[Any]:
        """Return the predictions, with a progress bar if wanted."""
        if not self.show_progress:
            return predictions
        from rich.progress import track

        return track(predictions, description="Inference", total=len(items))

    def preprocess(
        self, inputs: Sequence[Any], batch_size: int = 1, errors: dict[int, Exception] | None = None, **kwargs: Any
    ) -> Iterator[Any]:
        """Yield batches for :meth:`forward`, without inputs that cannot be read; see :meth:`__call__`."""
        samples = (readable(partial(self.pipeline, one), index, errors) for index, one in enumerate(inputs))
        for chunk in self._get_chunk_data((sample for sample in samples if sample is not None), batch_size):
            yield self.collate_fn(chunk)

    @torch.no_grad()
    def forward(self, inputs: Any, **kwargs: Any) -> list[Any]:
        """Return the model's predictions for one batch, one per sample."""
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
        """Draw the predictions on the images to show or write them.

        Args:
            inputs: the images.
            preds: the predictions for them.
            show: show each picture.
            wait_time: seconds to show it.
            out_dir: folder to write the pictures to, named after the image files or numbered.

        Returns:
            The pictures, uint8 arrays of shape (H, W, 3); empty if they are neither shown nor written.

        Raises:
            ValueError: the inputs are not images, or the predictions are not data samples.
        """
        if not show and out_dir is None:
            return []
        if not all(isinstance(sample, BaseDataElement) for sample in preds):
            raise ValueError("only data samples can be drawn")
        pictures = []
        for name, source, sample in zip(self._names or _picture_names(inputs), inputs, preds):
            out_file = None if out_dir is None else str(Path(out_dir) / f"{name}.png")
            self.visualizer.add_datasample(
                name, self.picture_of(source, sample), sample, draw_gt=False, show=show, wait_time=wait_time,
                out_file=out_file,
            )  # fmt: skip
            pictures.append(self.visualizer.get_image())
        return pictures

    def picture_of(self, source: Any, data_sample: Any = None) -> np.ndarray[Any, Any]:
        """Return the image to draw a prediction on, uint8 of shape (H, W, 3).

        Args:
            source: the input.
            data_sample: the prediction for it.

        Raises:
            ValueError: the input is not an image.
        """
        if not self._takes_images:
            raise ValueError("only data samples of images can be drawn")
        reader: ImageReader = getattr(self.pipeline, "reader", None) or ImageReader()
        return reader.picture(source)

    def postprocess(
        self,
        preds: Sequence[Any],
        visualization: list[np.ndarray[Any, Any]],
        return_datasamples: bool = False,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """Return predictions, as dictionaries unless ``return_datasamples`` is set, and pictures."""
        results = list(preds) if return_datasamples else [self.pred2dict(sample) for sample in preds]
        return {"predictions": results, "visualization": visualization}

    def pred2dict(self, data_sample: Any) -> Any:
        """Return a prediction as numbers, strings, lists and dictionaries."""
        return as_plain(data_sample, self.dataset_meta)

    def use_classes(self, classes: Sequence[str]) -> None:
        """Predict these classes from now on, with a model that finds classes by their names, such as CLIP.

        Raises:
            ConfigError: the model only predicts the classes that it was trained for.
        """
        if not names_classes(self.model):
            message = f"a {type(self.model).__name__} only predicts the classes that it was trained for"
            raise ConfigError("model", message)
        self.dataset_meta["classes"] = use_classes(self.model, {"classes": tuple(classes)})

    @staticmethod
    def list_models(scope: str | None = None, patterns: str = r".*") -> list[str]:
        """Return the names that can be passed as ``model``.

        Args:
            scope: an installed library that lists its models in ``model-index.yml``; if None, the configs of
                Trainwright.
            patterns: regular expression that the start of a name must match.

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
        """Return a list of single inputs."""
        if isinstance(inputs, str | os.PathLike):
            return list_images(inputs) if Path(inputs).is_dir() else [inputs]
        if isinstance(inputs, np.ndarray | Tensor):
            shape = getattr(self.pipeline, "shape", None)
            dimensions = 3 if self._takes_images or shape is None else len(shape)
            return list(inputs) if inputs.ndim == dimensions + 1 else [inputs]
        return list(inputs) if isinstance(inputs, list | tuple) else [inputs]

    def _get_chunk_data(self, inputs: Iterable[Any], chunk_size: int) -> Iterator[list[Any]]:
        """Yield lists of ``chunk_size`` items; the last may be shorter."""
        remaining = iter(inputs)
        while chunk := list(islice(remaining, chunk_size)):
            yield chunk

    def _dispatch_kwargs(self, **kwargs: Any) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any], dict[str, Any]]:
        """Return the arguments of a call for each of the four steps."""
        steps = self._kwargs_of_steps()
        known = set().union(*steps)
        for name in kwargs:
            if name not in known:
                hint = did_you_mean(name, known) or f"available: {', '.join(sorted(known))}"
                raise ValueError(f"unknown argument {name!r} of {type(self).__name__}: {hint}")
        first, second, third, fourth = ({name: kwargs[name] for name in kwargs if name in step} for step in steps)
        return first, second, third, fourth

    def _load_config(
        self, model: str | os.PathLike[str] | ConfigLike, scope: str | None
    ) -> tuple[ConfigLike, str | None]:
        """Return a config, and the weights that a library lists for it."""
        if isinstance(model, Mapping):
            return copy.deepcopy(model) if isinstance(model, Config | ConfigDict) else ConfigDict(model), None
        name = os.fspath(model)
        if scope in (None, ROOT_SCOPE) or Path(name).is_file() or "::" in name:
            return Config.fromfile(find_named_config(name)), None
        for entry in listed_models(str(scope)):
            if name.lower() in (listed.lower() for listed in names_of(entry)):
                weights = entry.get("Weights")
                file = find_model_index(str(scope)).parent / entry["Config"]
                return Config.fromfile(file), weights[0] if isinstance(weights, list) else weights
        hint = did_you_mean(name, self.list_models(scope)) or "Inferencer.list_models() lists the known models"
        raise ValueError(f"there is no config file or model {name!r}: {hint}")

    def _init_model(self, cfg: ConfigLike, checkpoint: Mapping[str, Any] | None, device: torch.device) -> Any:
        """Return the model with its weights on the device, in evaluation mode."""
        if "model" not in cfg:
            raise ConfigError("model", "the config has no model")
        if isinstance(cfg["model"], str):
            raise CheckpointError(
                f"model: the run used an object, {cfg['model']}, so the checkpoint does not contain its config: "
                "pass it as well, Inferencer(dict(model=...), weights=...)"
            )
        model = build_model(cfg["model"], cfg.get("data_preprocessor"), weights_follow=checkpoint is not None)
        if checkpoint is not None and _EXPORTED in checkpoint:
            return model.to(device).eval()
        self._load_weights_to_model(model, checkpoint, cfg)
        return model.to(device).eval()

    def _load_weights_to_model(self, model: nn.Module, checkpoint: Mapping[str, Any] | None, cfg: ConfigLike) -> None:
        """Load the weights of a checkpoint, and log mismatches."""
        if checkpoint is None:
            print_log("no weights: predictions are from a model with random weights", "current", logging.WARNING)
            return
        unneeded = unsaved_names(model)  # such as those of a teacher
        fit = load_state_dict(model, get_state_dict(checkpoint), optional=unneeded)
        initialize_model(model, fit.missing - unneeded)
        if fit:
            load_state_dict(model, get_state_dict(checkpoint))
            print_log(f"the checkpoint does not match the model completely:\n{fit}", "current", logging.WARNING)

    def _dataset_meta(self, cfg: ConfigLike, checkpoint: Mapping[str, Any] | None) -> dict[str, Any]:
        """Return the meta information on the dataset from the weights, or else from the test dataset's class.

        For a model that predicts the labels of a dataset, it is that of this dataset.
        """
        if labeled := getattr(labeled_dataset_of(self.model), "metainfo", None):
            return dict(labeled)
        if checkpoint is not None and (saved := (checkpoint.get("meta") or {}).get("dataset_meta")):
            return dict(saved)
        if checkpoint is None and (pretrained := getattr(self.model, "dataset_meta", None)):
            return dict(pretrained)
        dataset = _test_dataset(cfg)
        if dataset is None:
            return {}
        type_ = dataset["type"]
        dataset_class = DATASETS.get(type_) if isinstance(type_, str) else type_
        return {**getattr(dataset_class, "METAINFO", {}), **(dataset.get("metainfo") or {})}

    def _init_pipeline(self, cfg: ConfigLike) -> Callable[[Any], Any]:
        """Return the function that converts an input to a sample."""
        dataset = _test_dataset(cfg)
        steps = setting(cfg, "inference_pipeline") or setting(cfg, "test_pipeline") or (dataset or {}).get("pipeline")
        transforms = [TRANSFORMS.build(step) for step in steps or ()]
        shape = self.dataset_meta.get("image_shape")
        if shape is None and not transforms:
            shape = _shape_of_inputs(dataset)
        return ImagePipeline(transforms, shape)

    def _init_collate(self, cfg: ConfigLike) -> Callable[[list[Any]], Any]:
        """Return the collate function: the test data loader's, or one that stacks equal shapes."""
        one_shape = isinstance(self.pipeline, ImagePipeline) and not self.pipeline.has_transforms
        default = "default_collate" if one_shape else "pseudo_collate"
        _, loader = next(dataloaders(cfg, "test_dataloader"))
        collate = (loader or {}).get("collate_fn") or default
        return COLLATE_FN.build(collate, path="test_dataloader.collate_fn")  # type: ignore[no-any-return]

    def _init_visualizer(self, cfg: ConfigLike) -> Any:
        """Return a visualizer without backends."""
        options = {**(cfg.get("visualizer") or {}), "name": "inference"}
        visualizer = VISUALIZER.build({key: value for key, value in options.items() if key != "vis_backends"})
        visualizer.dataset_meta = self.dataset_meta
        return visualizer


BaseInferencer = Inferencer  # MMEngine's name for the base class of inferencers


def readable(read: Callable[[], Any], index: int, errors: dict[int, Exception] | None) -> Any:
    """Return the result of ``read``, or None if the input cannot be read.

    Args:
        read: reads an input.
        index: index of the input.
        errors: receives the exception, by index; None to raise it.
    """
    try:
        return read()
    except (OSError, ValueError) as error:
        if errors is None:
            raise
        errors[index] = error
        return None


def config_of(checkpoint: Mapping[str, Any], name: str = "the checkpoint") -> Config:
    """Return the config of a loaded checkpoint of Trainwright or MMEngine, without executing code in it.

    Raises:
        CheckpointError: there is no config in it.
    """
    hint = f"pass the config as well, Inferencer('config.py', {name!r})"
    try:
        keys = saved_config(checkpoint)
    except CheckpointError as error:
        raise CheckpointError(f"{name}: {error}; {hint}") from error
    if not keys:
        raise CheckpointError(f"there is no config in {name}: {hint}")
    return Config(keys)


def _with_exported(cfg: ConfigLike | None, file: str) -> tuple[Config, dict[str, Any]]:
    """Return a config with an exported model in the place of its model, and what stands for the checkpoint.

    Args:
        cfg: the config; that in the file if None.
        file: the exported model.
    """
    metadata = load_exported(file).metadata
    whole = Config(dict(metadata["config"])) if cfg is None else Config(dict(cfg))
    use_exported(whole, file)
    return whole, {_EXPORTED: file, "meta": {"dataset_meta": metadata["dataset_meta"]}}


@contextmanager
def _untrusted_file(file: Any) -> Iterator[None]:
    """Only allow registered components to be built from a config, and explain this in errors."""
    try:
        with untrusted():
            yield
    except UnknownTypeError as error:
        error.hint += (
            f"\nthe config is from {file}, and modules named in a checkpoint are not imported: import the module that "
            "registers it first, pass the config as well, or set trusted=True if you trust the file"
        )
        raise


def _test_dataset(cfg: ConfigLike) -> Mapping[str, Any] | None:
    """Return the config of the test (or validation) dataset, the first of several, inside any wrappers."""
    _, loader = next(dataloaders(cfg, "test_dataloader" if cfg.get("test_dataloader") else "val_dataloader"))
    dataset = loader.get("dataset") if isinstance(loader, Mapping) else None
    while isinstance(dataset, Mapping):
        inner = dataset.get("dataset") or dataset.get("datasets")
        if inner is None:
            return dataset
        dataset = inner[0] if isinstance(inner, list | tuple) else inner
    return None


def _shape_of_inputs(dataset: Mapping[str, Any] | None) -> tuple[int, ...]:
    """Return the shape of a dataset's first sample."""
    hint = "specify how to process images: inference_pipeline=[dict(type='LoadImageFromFile'), ...]"
    if dataset is None:
        raise ConfigError("test_dataloader", "the config has no test dataset to determine the input shape from", hint)
    try:
        sample = DATASET.build(dataset, path="test_dataloader.dataset")[0]
    except Exception as error:
        error.add_note(f"the dataset was loaded to determine the input shape; if it is not available, {hint}")
        raise
    inputs = sample["inputs"] if isinstance(sample, Mapping) else sample[0]
    return tuple(inputs.shape)


def _picture_names(inputs: Sequence[Any]) -> list[str]:
    """Return a unique name for each picture: the name of its file, or its number."""
    names: list[str] = []
    taken: set[str] = set()
    for index, source in enumerate(inputs):
        name = Path(source).stem if isinstance(source, str | os.PathLike) else f"{index:08d}"
        names.append(name if name not in taken else f"{name}_{index:08d}")
        taken.add(names[-1])
    return names
