"""Where a run's scalars, images and config are written to: files, TensorBoard, Weights & Biases, MLflow."""

import functools
import json
import numbers
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, TypeVar, cast

import numpy as np
from torch import Tensor, nn

from trainwright.engine.errors import ConfigError, MissingExtraError, did_you_mean
from trainwright.engine.fileio import to_json
from trainwright.engine.registry import VISBACKENDS

if TYPE_CHECKING:
    from trainwright.engine.config.config import Config

Image = np.ndarray[Any, Any]
Method = TypeVar("Method", bound=Callable[..., Any])


def force_init_env(method: Method) -> Method:
    """Makes a method of a backend open what it writes to at the first call, and again after ``close``."""

    @functools.wraps(method)
    def opened(self: "BaseVisBackend", *args: Any, **kwargs: Any) -> Any:
        if not self._env_initialized:
            self._init_env()
            self._env_initialized = True
        return method(self, *args, **kwargs)

    return cast(Method, opened)


class BaseVisBackend:
    """Base of the backends. Nothing is opened or created before something is written.

    Args:
        save_dir: folder for its files; created when needed.
    """

    def __init__(self, save_dir: str | None) -> None:
        self._save_dir = save_dir
        self._env_initialized = False

    @property
    def experiment(self) -> Any:
        """What the backend writes to, for your own calls."""
        raise NotImplementedError

    def _init_env(self) -> None:
        """Opens what the backend writes to. Called by :func:`force_init_env`."""

    def add_config(self, config: "Config", **kwargs: Any) -> None:
        """Writes the config of the run."""

    def add_graph(self, model: nn.Module, data_batch: Any = None, **kwargs: Any) -> None:
        """Writes the structure of the model."""

    def add_image(self, name: str, image: Image, step: int = 0, **kwargs: Any) -> None:
        """Writes an image.

        Args:
            name: its name.
            image: RGB, uint8, (height, width, 3).
            step: epoch or iteration.
            **kwargs: for the backend.
        """

    def add_scalar(self, name: str, value: Any, step: int = 0, **kwargs: Any) -> None:
        """Writes a number: an int, a float, or a tensor or array of one element.

        Args:
            name: its name.
            value: the number.
            step: epoch or iteration.
            **kwargs: for the backend.
        """

    def add_scalars(
        self, scalar_dict: Mapping[str, Any], step: int = 0, file_path: str | None = None, **kwargs: Any
    ) -> None:
        """Writes several numbers.

        Args:
            scalar_dict: numbers by name. A backend leaves out what it cannot show.
            step: epoch or iteration.
            file_path: name of a second file for them, for backends that write files.
            **kwargs: for the backend.
        """

    def close(self) -> None:
        """Closes what is open. Writing again opens it again."""

    def _make_save_dir(self) -> Path:
        assert self._save_dir is not None
        path = Path(self._save_dir)
        path.mkdir(parents=True, exist_ok=True)
        return path


@VISBACKENDS.register_module()
class LocalVisBackend(BaseVisBackend):
    """Writes files: scalars as one JSON object a line, images as PNG, the config as Python.

    NaN and infinities, which JSON does not have, are null: so jq, pandas and browsers read the lines too.
    Each line is handed to the operating system at once, so a crash of the process loses none.

    Args:
        save_dir: folder for the files.
        img_save_dir: folder in it for images.
        config_save_file: name of the config file, ending in ``.py``.
        scalar_save_file: name of the scalars file, ending in ``.json``.

    Raises:
        ConfigError: a file name has another ending.
    """

    def __init__(
        self,
        save_dir: str,
        img_save_dir: str = "vis_image",
        config_save_file: str = "config.py",
        scalar_save_file: str = "scalars.json",
    ) -> None:
        _check_ending("config_save_file", config_save_file, ".py")
        _check_ending("scalar_save_file", scalar_save_file, ".json")
        super().__init__(save_dir)
        self._img_save_dir = img_save_dir
        self._config_save_file = config_save_file
        self._scalar_save_file = scalar_save_file

    @property
    def experiment(self) -> "LocalVisBackend":
        """The backend itself."""
        return self

    def _init_env(self) -> None:
        self._root = self._make_save_dir()
        self._streams: dict[str, IO[str]] = {}

    @force_init_env
    def add_config(self, config: "Config", **kwargs: Any) -> None:
        """Writes the config as Python."""
        config.dump(str(self._root / self._config_save_file))

    @force_init_env
    def add_image(self, name: str, image: Image, step: int = 0, **kwargs: Any) -> None:
        """Writes ``{name}_{step}.png``."""
        import PIL.Image

        path = _inside(self._root / self._img_save_dir, f"{name}_{step}.png")
        path.parent.mkdir(parents=True, exist_ok=True)
        PIL.Image.fromarray(_checked_image(image)).save(path)

    @force_init_env
    def add_scalar(self, name: str, value: Any, step: int = 0, **kwargs: Any) -> None:
        """Writes a line ``{name: value, "step": step}``."""
        self._append(self._scalar_save_file, _json_line({name: value, "step": step}))

    @force_init_env
    def add_scalars(
        self, scalar_dict: Mapping[str, Any], step: int = 0, file_path: str | None = None, **kwargs: Any
    ) -> None:
        """Writes all of them as one line, and once more to ``file_path`` if that is given.

        Raises:
            ValueError: ``file_path`` is the scalars file itself, or does not end in ``.json``.
        """
        values = dict(scalar_dict)
        values.setdefault("step", step)
        line = _json_line(values)
        if file_path is not None:
            _check_ending("file_path", file_path, ".json")
            if file_path == self._scalar_save_file:
                raise ValueError(f"file_path must differ from {file_path!r}, where the scalars go anyway")
            self._append(file_path, line)
        self._append(self._scalar_save_file, line)

    def close(self) -> None:
        """Closes the files."""
        if self._env_initialized:
            self._env_initialized = False
            for stream in self._streams.values():
                stream.close()

    def _append(self, file: str, line: str) -> None:
        if file not in self._streams:
            self._streams[file] = _inside(self._root, file).open("a")
        self._streams[file].write(line)
        self._streams[file].flush()


@VISBACKENDS.register_module()
class TensorboardVisBackend(BaseVisBackend):
    """Writes event files for TensorBoard.

    Args:
        save_dir: folder for the files.
    """

    @property
    @force_init_env
    def experiment(self) -> Any:
        """The ``torch.utils.tensorboard.SummaryWriter``."""
        return self._writer

    def _init_env(self) -> None:
        try:
            from tensorboard.compat.proto.summary_pb2 import Summary  # type: ignore[import-untyped]
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise MissingExtraError("tensorboard", "tensorboard", "TensorboardVisBackend") from error
        self._summary, self._value = Summary, Summary.Value
        self._writer: Any = SummaryWriter(str(self._make_save_dir()))

    @force_init_env
    def add_config(self, config: "Config", **kwargs: Any) -> None:
        """Writes the config as a text."""
        indented = "\n".join(f"    {line}" for line in config.pretty_text.splitlines())  # Markdown for code
        self._writer.add_text("config", indented)

    @force_init_env
    def add_image(self, name: str, image: Image, step: int = 0, **kwargs: Any) -> None:
        """Writes an image, (height, width, 3)."""
        self._writer.add_image(name, _checked_image(image), step, dataformats="HWC")

    def add_scalar(self, name: str, value: Any, step: int = 0, **kwargs: Any) -> None:
        """Write a number; other values are left out."""
        self.add_scalars({name: value}, step)

    @force_init_env
    def add_scalars(
        self, scalar_dict: Mapping[str, Any], step: int = 0, file_path: str | None = None, **kwargs: Any
    ) -> None:
        """Write each number as a curve of its own, all in one event; other values are left out."""
        values = [self._value(tag=name, simple_value=number) for name, number in _numbers(scalar_dict)]
        if values:
            self._writer.file_writer.add_summary(self._summary(value=values), step)

    def close(self) -> None:
        """Closes the event file."""
        if self._env_initialized:
            self._env_initialized = False
            self._writer.close()


@VISBACKENDS.register_module()
class WandbVisBackend(BaseVisBackend):
    """Writes to Weights & Biases. Needs the extra ``wandb``.

    Curves are drawn over a value ``step`` that is logged with them, since wandb's own step can only grow,
    while training counts iterations and validation epochs.

    Args:
        save_dir: folder for its local files.
        init_kwargs: arguments of ``wandb.init``, such as ``project`` or ``mode='offline'``.
        define_metric_cfg: summaries by metric name, such as ``{'accuracy/top1': 'max'}``, or a list of
            arguments of ``define_metric``.
        commit: whether each call makes a row of its own at once.
        log_code_name: name under which the code in the current folder is uploaded; nothing is uploaded if
            None.
        watch_kwargs: arguments of ``watch``, used by :meth:`add_graph`.
    """

    def __init__(
        self,
        save_dir: str,
        init_kwargs: Mapping[str, Any] | None = None,
        define_metric_cfg: Mapping[str, str] | Sequence[Mapping[str, Any]] | None = None,
        commit: bool = True,
        log_code_name: str | None = None,
        watch_kwargs: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(save_dir)
        self._init_kwargs = dict(init_kwargs or {})
        self._define_metric_cfg = define_metric_cfg or ()
        self._commit = commit
        self._log_code_name = log_code_name
        self._watch_kwargs = dict(watch_kwargs or {})

    @property
    @force_init_env
    def experiment(self) -> Any:
        """The ``wandb`` run."""
        return self._run

    def _init_env(self) -> None:
        try:
            wandb = import_module("wandb")
        except ImportError as error:
            raise MissingExtraError("wandb", "wandb", "WandbVisBackend") from error
        # A run of its own, whatever else this process logs.
        arguments = {"dir": str(self._make_save_dir()), "reinit": "create_new", **self._init_kwargs}
        self._run: Any = wandb.init(**arguments)
        self._init_kwargs.update(id=self._run.id, resume="allow")  # after close, the same run goes on
        self._image_class = wandb.Image
        self._run.define_metric("*", step_metric="step")
        if isinstance(self._define_metric_cfg, Mapping):
            for name, summary in self._define_metric_cfg.items():
                self._run.define_metric(name, summary=summary, step_metric="step")
        else:
            for definition in self._define_metric_cfg:
                self._run.define_metric(**definition)

    @force_init_env
    def add_config(self, config: "Config", **kwargs: Any) -> None:
        """Writes the config, and uploads the code if ``log_code_name`` says so."""
        self._run.config.update(config.to_dict(), allow_val_change=True)
        if self._log_code_name is not None:
            self._run.log_code(name=self._log_code_name)

    @force_init_env
    def add_graph(self, model: nn.Module, data_batch: Any = None, **kwargs: Any) -> None:
        """Watches the model's gradients, as ``watch_kwargs`` says."""
        self._run.watch(model, **self._watch_kwargs)

    @force_init_env
    def add_image(self, name: str, image: Image, step: int = 0, **kwargs: Any) -> None:
        """Writes an image."""
        self._run.log({name: self._image_class(_checked_image(image)), "step": step}, commit=self._commit)

    def add_scalar(self, name: str, value: Any, step: int = 0, **kwargs: Any) -> None:
        """Writes a number."""
        self.add_scalars({name: value}, step)

    @force_init_env
    def add_scalars(
        self, scalar_dict: Mapping[str, Any], step: int = 0, file_path: str | None = None, **kwargs: Any
    ) -> None:
        """Writes numbers in one row; what is none is left out."""
        self._run.log({"step": step, **dict(_numbers(scalar_dict))}, commit=self._commit)

    def close(self) -> None:
        """Ends the run and waits for its upload."""
        if self._env_initialized:
            self._run.finish()
            self._env_initialized = False


@VISBACKENDS.register_module()
class MLflowVisBackend(BaseVisBackend):
    """Writes to MLflow. Needs the extra ``mlflow``.

    Args:
        save_dir: folder of the local store ``mlflow.db``, used when there is no ``tracking_uri``. At the end,
            the run's text files are uploaded from its parent folder.
        exp_name: name of the experiment.
        run_name: name of the run.
        tags: tags of the run.
        params: parameters of the run, besides those of the config.
        tracking_uri: where the store is.
        artifact_suffix: endings of the files that are uploaded at the end.
        tracked_config_keys: top-level keys of the config that become parameters; all if None.
        artifact_location: where a newly created experiment keeps its files.
    """

    def __init__(
        self,
        save_dir: str,
        exp_name: str = "trainwright",
        run_name: str | None = None,
        tags: Mapping[str, Any] | None = None,
        params: Mapping[str, Any] | None = None,
        tracking_uri: str | None = None,
        artifact_suffix: str | Sequence[str] = (".json", ".log", ".py", "yaml"),
        tracked_config_keys: Sequence[str] | None = None,
        artifact_location: str | None = None,
    ) -> None:
        super().__init__(save_dir)
        self._exp_name = exp_name
        self._run_name = run_name
        self._tags = dict(tags or {})
        self._params = dict(params or {})
        self._tracking_uri = tracking_uri
        self._artifact_suffix = (artifact_suffix,) if isinstance(artifact_suffix, str) else tuple(artifact_suffix)
        self._tracked_config_keys = tracked_config_keys
        self._artifact_location = artifact_location
        self._run_id: str | None = None

    @property
    @force_init_env
    def experiment(self) -> Any:
        """The ``mlflow.MlflowClient``."""
        return self._client

    @property
    def run_id(self) -> str | None:
        """The id of the run in the store, once something is written."""
        return self._run_id

    def _init_env(self) -> None:
        try:
            mlflow = import_module("mlflow")
        except ImportError as error:
            raise MissingExtraError("mlflow", "mlflow", "MLflowVisBackend") from error
        root = self._make_save_dir().absolute()
        # Calls by run id, not by MLflow's "active run": that is global, and two runs would mix.
        self._client: Any = mlflow.MlflowClient(self._tracking_uri or f"sqlite:///{root / 'mlflow.db'}")
        self._entities = mlflow.entities
        if self._run_id is not None:
            self._client.update_run(self._run_id, status="RUNNING")
            return
        experiment = self._client.get_experiment_by_name(self._exp_name)
        if experiment is not None:
            experiment_id = experiment.experiment_id
        else:
            local = None if self._tracking_uri else (root / "artifacts").as_uri()
            location = self._artifact_location or local
            experiment_id = self._client.create_experiment(self._exp_name, artifact_location=location)
        run = self._client.create_run(experiment_id, tags=self._tags, run_name=self._run_name)
        self._run_id = run.info.run_id
        self._log_params(self._params)

    @force_init_env
    def add_config(self, config: "Config", **kwargs: Any) -> None:
        """Writes the config: whole as ``config.py``, and flattened as parameters.

        Raises:
            ConfigError: ``tracked_config_keys`` has a key that the config has not.
        """
        values = config.to_dict()
        if self._tracked_config_keys is not None:
            for key in self._tracked_config_keys:
                if key not in values:
                    hint = did_you_mean(key, values) or f"it has {', '.join(values)}"
                    raise ConfigError("tracked_config_keys", f"the config has no {key!r}", hint)
            values = {key: values[key] for key in self._tracked_config_keys}
        self._log_params(dict(_flat(values)))
        self._client.log_text(self._run_id, config.pretty_text, "config.py")

    @force_init_env
    def add_image(self, name: str, image: Image, step: int = 0, **kwargs: Any) -> None:
        """Writes an image."""
        self._client.log_image(self._run_id, _checked_image(image), key=_mlflow_name(name), step=step)

    def add_scalar(self, name: str, value: Any, step: int = 0, **kwargs: Any) -> None:
        """Writes a number."""
        self.add_scalars({name: value}, step)

    @force_init_env
    def add_scalars(
        self, scalar_dict: Mapping[str, Any], step: int = 0, file_path: str | None = None, **kwargs: Any
    ) -> None:
        """Writes numbers in one request; what is none is left out."""
        now = int(time.time() * 1000)
        metric = self._entities.Metric
        metrics = [metric(_mlflow_name(key), number, now, step) for key, number in _numbers(scalar_dict)]
        self._client.log_batch(self._run_id, metrics=metrics)

    def close(self) -> None:
        """Uploads the run's text files and ends the run."""
        if not self._env_initialized:
            return
        assert self._save_dir is not None
        root, own_artifacts = Path(self._save_dir).parent, Path(self._save_dir, "artifacts")
        for path in sorted(root.rglob("*")):
            if path.name.endswith(self._artifact_suffix) and not path.is_relative_to(own_artifacts):
                folder = path.parent.relative_to(root).as_posix()
                self._client.log_artifact(self._run_id, str(path), None if folder == "." else folder)
        self._client.set_terminated(self._run_id)
        self._env_initialized = False

    def _log_params(self, params: Mapping[str, Any]) -> None:
        limit_per_request, limit_per_value = 100, 6000
        entities = [
            self._entities.Param(_mlflow_name(key), str(value)[:limit_per_value]) for key, value in params.items()
        ]
        for start in range(0, len(entities), limit_per_request):
            self._client.log_batch(self._run_id, params=entities[start : start + limit_per_request])


def _json_line(values: Mapping[str, Any]) -> str:
    try:
        return _JSON.encode(values) + "\n"
    except (TypeError, ValueError):  # a key that JSON does not know, a NaN or an infinity
        return to_json(to_plain(values)) + "\n"


def to_plain(value: Any) -> Any:
    """Returns a value as JSON knows it: arrays as numbers or lists, what is unknown as its text."""
    if isinstance(value, str | int | float | None):
        return value
    if isinstance(value, Tensor | np.ndarray | np.generic):
        return value.tolist()
    if isinstance(value, Mapping):
        return {str(key): to_plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [to_plain(item) for item in value]
    return str(value)


_JSON = json.JSONEncoder(default=to_plain, allow_nan=False)


def _numbers(values: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    for key, value in values.items():
        if isinstance(value, Tensor | np.ndarray | np.generic):
            if (value.numel() if isinstance(value, Tensor) else value.size) == 1:
                yield key, value.item()
        elif isinstance(value, numbers.Real):
            yield key, float(value)


def _flat(values: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Yields the leaves of nested dictionaries, and of lists of dictionaries, with their dotted paths."""
    items: Iterable[tuple[Any, Any]]
    if isinstance(values, Mapping):
        items = values.items()
    elif isinstance(values, list) and any(isinstance(item, Mapping) for item in values):
        items = enumerate(values)
    else:
        yield path, values
        return
    for key, value in items:
        yield from _flat(value, f"{path}.{key}" if path else str(key))


def _mlflow_name(name: str) -> str:
    return re.sub(r"[^\w\-. /:]", "_", name)


def _checked_image(image: Image) -> Image:
    if image.dtype != np.uint8 or image.ndim not in (2, 3):
        raise ValueError(f"an image is uint8 of (height, width, 3), not {image.dtype} of {image.shape}")
    return np.ascontiguousarray(image)


def _inside(folder: Path, name: str) -> Path:
    """Returns the path of a file in a folder.

    Raises:
        ValueError: the name leads out of the folder.
    """
    path = folder / name
    if not path.resolve().is_relative_to(folder.resolve()):
        raise ValueError(f"{name!r} leads out of {folder}")
    return path


def _check_ending(argument: str, file: str, ending: str) -> None:
    if not file.endswith(ending):
        raise ConfigError(argument, f"{file!r} must end in {ending}")
