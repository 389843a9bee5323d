"""A backend that writes to ClearML."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainwright.engine.registry import VISBACKENDS
from trainwright.engine.visualization.backends.base import BaseVisBackend, Image, checked_image, force_init_env, scalars

if TYPE_CHECKING:
    from trainwright.engine.config.config import Config


@VISBACKENDS.register_module()
class ClearMLVisBackend(BaseVisBackend):
    """A backend that writes to ClearML. Requires the extra ``clearml``.

    Args:
        save_dir: not used.
        init_kwargs: arguments of ``clearml.Task.init``, such as ``project_name`` and ``task_name``.
        artifact_suffix: suffixes of the files in the work dir that are uploaded at the end.
    """

    def __init__(
        self,
        save_dir: str | None = None,
        init_kwargs: Mapping[str, Any] | None = None,
        artifact_suffix: str | Sequence[str] = (".py", ".pth"),
    ) -> None:
        super().__init__(save_dir)
        self._init_kwargs = dict(init_kwargs or {})
        self._artifact_suffix = (artifact_suffix,) if isinstance(artifact_suffix, str) else tuple(artifact_suffix)
        self._work_dir: str | None = None

    @property
    @force_init_env
    def experiment(self) -> Any:
        """The ``clearml`` package, as in MMEngine; its ``Task.current_task()`` is the task."""
        return self._clearml

    def _init_env(self) -> None:
        self._clearml: Any = self._import("clearml")
        self._task = self._clearml.Task.init(**self._init_kwargs)
        self._logger = self._task.get_logger()

    @force_init_env
    def add_config(self, config: "Config", **kwargs: Any) -> None:
        self._work_dir = config.get("work_dir")
        self._task.connect_configuration(config.to_dict())

    @force_init_env
    def add_image(self, name: str, image: Image, step: int = 0, **kwargs: Any) -> None:
        self._logger.report_image(title=name, series=name, iteration=step, image=checked_image(image))

    @force_init_env
    def add_scalars(
        self, scalar_dict: Mapping[str, Any], step: int = 0, file_path: str | None = None, **kwargs: Any
    ) -> None:
        """Write scalars; other values are left out."""
        for name, value in scalars(scalar_dict):
            self._logger.report_scalar(title=name, series=name, value=value, iteration=step)

    def close(self) -> None:
        """Upload files of the work dir, and close the task. Writing continues it."""
        if not self._env_initialized:
            return
        for file in sorted(Path(self._work_dir).iterdir()) if self._work_dir and Path(self._work_dir).is_dir() else []:
            if file.name.endswith(self._artifact_suffix):
                self._task.upload_artifact(file.name, str(file))
        self._init_kwargs["continue_last_task"] = self._task.id
        self._task.close()
        self._env_initialized = False
