"""``mmengine.infer``."""

import copy
import re
import warnings
from abc import ABCMeta, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import nullcontext
from datetime import datetime
from importlib import import_module
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import nn

from trainwright.compat.mmengine.checkpoints import _load_checkpoint, _load_checkpoint_to_model
from trainwright.compat.mmengine.fileio import get_file_backend, isdir, join_path, list_dir_or_file
from trainwright.compat.mmengine.registry import DefaultScope
from trainwright.compat.mmengine.visualization import Visualizer
from trainwright.datasets import pseudo_collate
from trainwright.engine import FUNCTIONS, MODELS, VISUALIZERS, Config, ConfigDict, get_device
from trainwright.engine.errors import did_you_mean
from trainwright.engine.fileio import load
from trainwright.engine.inference.inferencer import config_of
from trainwright.engine.inference.model_index import names_of
from trainwright.engine.records.logger import print_log
from trainwright.engine.registry import untrusted

InputType = Any  # a path, an array or a tensor
InputsType = Any  # one input, or a sequence of them
ImgType = Any
ResType = Any
InstanceList = list[Any]
ConfigType = Config | ConfigDict
ModelType = dict[str, Any] | ConfigType | str

_STEPS = ("preprocess", "forward", "visualize", "postprocess")


class InferencerMeta(ABCMeta):
    """The type of :class:`BaseInferencer`, which checks that no two steps claim the same argument of a call."""

    def __init__(cls, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        claimed: set[str] = set()
        for step in _STEPS:
            names = getattr(cls, f"{step}_kwargs")
            assert isinstance(names, set), f"{cls.__name__}.{step}_kwargs must be a set, not {names!r}"
            twice = claimed & names
            assert not twice, f"{cls.__name__}: more than one step claims the arguments {', '.join(sorted(twice))}"
            claimed |= names


class BaseInferencer(metaclass=InferencerMeta):
    """Base class of the inferencers of libraries built on MMEngine.

    A call runs :meth:`preprocess`, :meth:`forward`, :meth:`visualize` and :meth:`postprocess`; the names of the
    arguments of each are in ``preprocess_kwargs`` and so on. :class:`trainwright.engine.Inferencer` is ready to use.

    Args:
        model: path of a config file, a config, or the name of a model that the library lists; None for the config in
            ``weights``.
        weights: path or URL of a checkpoint; those that are listed for the model by default.
        device: device of the model; the accelerator, or else the CPU, by default.
        scope: library whose registries are searched first.
        show_progress: show a progress bar.

    Raises:
        ValueError: both model and weights are missing, or no model has this name.
        TypeError: ``model`` is of another type.
        CheckpointError: there is no config in ``weights``.
    """

    preprocess_kwargs: ClassVar[set[str]] = set()
    forward_kwargs: ClassVar[set[str]] = set()
    visualize_kwargs: ClassVar[set[str]] = set()
    postprocess_kwargs: ClassVar[set[str]] = set()

    def __init__(
        self,
        model: ModelType | None = None,
        weights: str | None = None,
        device: Any = None,
        scope: str | None = None,
        show_progress: bool = True,
    ) -> None:
        if scope is None and (current := DefaultScope.get_current_instance()) is not None:
            scope = current.scope_name
        self.scope = scope
        cfg: Any
        if isinstance(model, str):
            if Path(model).is_file():
                cfg = Config.fromfile(model)
            else:
                cfg, listed = self._load_model_from_metafile(model)
                weights = listed if weights is None else weights
        elif isinstance(model, Config | ConfigDict):
            cfg = copy.deepcopy(model)
        elif isinstance(model, dict):
            cfg = ConfigDict(copy.deepcopy(model))
        elif model is not None:
            raise TypeError(f"model must be a path, a name or a config, not {type(model)}")
        elif weights is None:
            raise ValueError("a model is required, or weights that contain its config")
        else:
            cfg = ConfigDict()
        self.model: Any = self._init_model(cfg, weights, get_device() if device is None else device)
        self.pipeline = self._init_pipeline(cfg)
        self.collate_fn = self._init_collate(cfg)
        self.visualizer = self._init_visualizer(cfg)
        self.cfg = cfg
        self.show_progress = show_progress

    def __call__(
        self, inputs: InputsType, return_datasamples: bool = False, batch_size: int = 1, **kwargs: Any
    ) -> dict[str, Any]:
        """Predict.

        Args:
            inputs: one input, a list of them, or a folder.
            return_datasamples: return predictions as data elements instead of dictionaries.
            batch_size: number of inputs per batch.
            **kwargs: arguments of the steps.

        Returns:
            What :meth:`postprocess` returns.
        """
        for_preprocess, for_forward, for_visualize, for_postprocess = self._dispatch_kwargs(**kwargs)
        originals = self._inputs_to_list(inputs)
        batches: Iterable[Any] = self.preprocess(originals, batch_size=batch_size, **for_preprocess)
        if self.show_progress:
            from rich.progress import track

            batches = track(batches, description="Inference")
        predictions: list[Any] = []
        for batch in batches:
            predictions.extend(self.forward(batch, **for_forward))
        visualization = self.visualize(originals, predictions, **for_visualize)
        return self.postprocess(predictions, visualization, return_datasamples, **for_postprocess)

    def _inputs_to_list(self, inputs: InputsType) -> list[Any]:
        """Return a list of single inputs: the files of a folder, or the items of a list or tuple."""
        if isinstance(inputs, str) and hasattr(get_file_backend(inputs), "isdir") and isdir(inputs):
            return [join_path(inputs, name) for name in list_dir_or_file(inputs, list_dir=False)]
        return list(inputs) if isinstance(inputs, list | tuple) else [inputs]

    def preprocess(self, inputs: InputsType, batch_size: int = 1, **kwargs: Any) -> Iterator[Any]:
        """Yield batches for :meth:`forward`."""
        yield from map(self.collate_fn, self._get_chunk_data(map(self.pipeline, inputs), batch_size))

    @torch.no_grad()
    def forward(self, inputs: Any, **kwargs: Any) -> Any:
        """Return the predictions of the model for a batch."""
        return self.model.test_step(inputs)

    @abstractmethod
    def visualize(self, inputs: list[Any], preds: Any, show: bool = False, **kwargs: Any) -> Any:
        """Draw predictions.

        Args:
            inputs: the inputs as a list.
            preds: the predictions.
            show: show them in a window.
            **kwargs: those in ``visualize_kwargs``.
        """

    @abstractmethod
    def postprocess(
        self, preds: Any, visualization: Any, return_datasample: bool = False, **kwargs: Any
    ) -> dict[str, Any]:
        """Return the ``predictions`` and the ``visualization``.

        Args:
            preds: the predictions.
            visualization: what :meth:`visualize` returned.
            return_datasample: return predictions as data elements instead of dictionaries.
            **kwargs: those in ``postprocess_kwargs``.
        """

    def _load_model_from_metafile(self, model: str) -> tuple[Config, str]:
        """Return the config and the weights of a model that the library lists.

        Raises:
            ValueError: it lists no such model.
        """
        assert self.scope is not None, "set scope to the library that lists the model"
        folder = self._get_repo_or_mim_dir(self.scope)
        names = []
        for entry in self._get_models_from_metafile(folder):
            names += names_of(entry)
            if model.lower() in (name.lower() for name in names_of(entry)):
                weights = entry["Weights"]
                return Config.fromfile(Path(folder, entry["Config"])), weights[0] if isinstance(
                    weights, list
                ) else weights
        hint = did_you_mean(model, names) or "list_models() returns the names"
        raise ValueError(f"{self.scope} lists no model {model!r}, and there is no such file: {hint}")

    @staticmethod
    def _get_repo_or_mim_dir(scope: str) -> str:
        """Return the folder of a library that contains its ``configs`` and ``model-index.yml``.

        Raises:
            ImportError: the library is not installed.
            FileNotFoundError: it has no configs.
        """
        package = Path(import_module(scope).__path__[0])
        for folder in (package.parent, package / ".mim"):
            if (folder / "configs").exists():
                return str(folder)
        raise FileNotFoundError(
            f"{scope} was installed without its configs, which were not found in {package / '.mim'}"
        )

    @staticmethod
    def _get_models_from_metafile(dir: str) -> Iterator[dict[str, Any]]:
        """Yield the models listed in ``model-index.yml`` in a folder."""
        for metafile in load(Path(dir, "model-index.yml"))["Import"]:
            yield from load(Path(dir, metafile))["Models"]

    @staticmethod
    def list_models(scope: str | None = None, patterns: str = r".*") -> list[str]:
        """Log and return the names of the models that a library lists.

        Args:
            scope: the library; that of the current scope by default.
            patterns: regular expression that the start of a name must match.
        """
        if scope is None:
            current = DefaultScope.get_current_instance()
            assert current is not None, "set scope to the library that lists the models"
            scope = current.scope_name
        folder = BaseInferencer._get_repo_or_mim_dir(scope)
        names = [name for entry in BaseInferencer._get_models_from_metafile(folder) for name in names_of(entry)]
        matching = [name for name in names if re.match(patterns, name)]
        print_log("\n".join(f"model_name: {name}" for name in matching), logger="current")
        return matching

    def _init_model(self, cfg: ConfigType, weights: str | None, device: Any = "cpu") -> nn.Module:
        """Return the model with its weights on a device, in evaluation mode; an empty ``cfg`` gets the saved config."""
        checkpoint = None if weights is None else _load_checkpoint(weights, map_location="cpu")
        from_file = not cfg
        if from_file:
            assert checkpoint is not None
            cfg.update(config_of(checkpoint, str(weights)).to_dict())
        if cfg.model.get("pretrained") is not None:
            del cfg.model["pretrained"]  # the weights of the checkpoint follow
        with untrusted() if from_file else nullcontext():
            model: Any = MODELS.build(cfg.model)
        model.cfg = cfg
        self._load_weights_to_model(model, checkpoint, cfg)
        model.to(device)
        model.eval()
        return model  # type: ignore[no-any-return]

    def _load_weights_to_model(
        self, model: nn.Module, checkpoint: dict[str, Any] | None, cfg: ConfigType | None
    ) -> None:
        """Load weights. Subclasses also set what the checkpoint knows about the data."""
        if checkpoint is not None:
            _load_checkpoint_to_model(model, checkpoint)
        else:
            warnings.warn("no weights: predictions are from a model with random weights", stacklevel=2)

    def _init_collate(self, cfg: ConfigType) -> Callable[[list[Any]], Any]:
        """Return the collate function of the test data loader, or ``pseudo_collate``."""
        named = (cfg.get("test_dataloader") or {}).get("collate_fn")
        if named is None:
            return pseudo_collate
        if isinstance(named, Mapping):
            named = named["type"]
        with FUNCTIONS.switch_scope_and_registry(self.scope) as registry:
            collate: Any = registry.get(named) if isinstance(named, str) else named
            return collate  # type: ignore[no-any-return]

    @abstractmethod
    def _init_pipeline(self, cfg: ConfigType) -> Callable[[Any], Any]:
        """Return the function that converts an input to a sample."""

    def _init_visualizer(self, cfg: ConfigType) -> Visualizer | None:
        """Return the visualizer of the config under a new name, or None if the config has none."""
        if "visualizer" not in cfg:
            return None
        timestamp = str(datetime.now().timestamp())
        name = cfg.visualizer.get("name", timestamp)
        cfg.visualizer.name = f"{name}-{timestamp}" if Visualizer.check_instance_created(name) else name
        return VISUALIZERS.build(cfg.visualizer)  # type: ignore[no-any-return]

    def _get_chunk_data(self, inputs: Iterable[Any], chunk_size: int) -> Iterator[list[Any]]:
        """Yield lists of ``chunk_size`` items; the last may be shorter."""
        remaining = iter(inputs)
        while chunk := list(islice(remaining, chunk_size)):
            yield chunk

    def _dispatch_kwargs(self, **kwargs: Any) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any], dict[str, Any]]:
        """Return the arguments of a call for each of the four steps.

        Raises:
            ValueError: no step takes an argument.
        """
        steps = [getattr(self, f"{step}_kwargs") for step in _STEPS]
        known = set().union(*steps)
        for name in kwargs:
            if name not in known:
                hint = did_you_mean(name, known) or f"available: {', '.join(sorted(known))}"
                raise ValueError(f"unknown argument {name!r} of {type(self).__name__}: {hint}")
        first, second, third, fourth = ({name: kwargs[name] for name in kwargs if name in step} for step in steps)
        return first, second, third, fourth
