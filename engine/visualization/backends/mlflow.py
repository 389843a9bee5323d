"""A backend that writes to MLflow."""

import re
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainwright.engine.errors import ConfigError, did_you_mean
from trainwright.engine.registry import VISBACKENDS
from trainwright.engine.visualization.backends.base import BaseVisBackend, Image, checked_image, force_init_env, scalars

if TYPE_CHECKING:
    from trainwright.engine.config.config import Config


@VISBACKENDS.register_module()
class MLflowVisBackend(BaseVisBackend):
    """A backend that writes to MLflow. Requires the extra ``mlflow``.

    Args:
        save_dir: folder of the local store ``mlflow.db``, used without ``tracking_uri``. At the end, the run's text
            files are uploaded from its parent folder.
        exp_name: name of the experiment.
        run_name: name of the run.
        tags: tags of the run.
        params: parameters of the run, in addition to those of the config.
        tracking_uri: URI of the store.
        artifact_suffix: suffixes of the files to upload at the end.
        tracked_config_keys: top-level keys of the config to log as parameters; all if None.
        artifact_location: location of the files of a newly created experiment.
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
        """The id of the run in the store; None before the first write."""
        return self._run_id

    def _init_env(self) -> None:
        mlflow = self._import("mlflow")
        root = self._make_save_dir().absolute()
        # Calls use the run id, since MLflow's "active run" is global and would mix two runs.
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
        """Write the config as ``config.py``, and flattened as parameters.

        Raises:
            ConfigError: a key of ``tracked_config_keys`` is missing in the config.
        """
        values = config.to_dict()
        if self._tracked_config_keys is not None:
            for key in self._tracked_config_keys:
                if key not in values:
                    hint = did_you_mean(key, values) or f"available: {', '.join(values)}"
                    raise ConfigError("tracked_config_keys", f"the config has no {key!r}", hint)
            values = {key: values[key] for key in self._tracked_config_keys}
        self._log_params(dict(_flat(values)))
        self._client.log_text(self._run_id, config.pretty_text, "config.py")

    @force_init_env
    def add_image(self, name: str, image: Image, step: int = 0, **kwargs: Any) -> None:
        self._client.log_image(self._run_id, checked_image(image), key=_mlflow_name(name), step=step)

    @force_init_env
    def add_scalars(
        self, scalar_dict: Mapping[str, Any], step: int = 0, file_path: str | None = None, **kwargs: Any
    ) -> None:
        """Write scalars in one request; other values are left out."""
        now = int(time.time() * 1000)
        metric = self._entities.Metric
        metrics = [metric(_mlflow_name(key), number, now, step) for key, number in scalars(scalar_dict)]
        self._client.log_batch(self._run_id, metrics=metrics)

    def close(self) -> None:
        """Upload the run's text files and ends the run."""
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


def _flat(values: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Yield dotted paths and leaves of nested dictionaries and of lists of dictionaries."""
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
