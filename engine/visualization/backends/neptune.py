"""A backend that writes to Neptune."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from trainwright.engine.registry import VISBACKENDS
from trainwright.engine.visualization.backends.base import BaseVisBackend, Image, checked_image, force_init_env, scalars

if TYPE_CHECKING:
    from trainwright.engine.config.config import Config


@VISBACKENDS.register_module()
class NeptuneVisBackend(BaseVisBackend):
    """A backend that writes to Neptune. Requires the extra ``neptune``.

    Args:
        save_dir: not used.
        init_kwargs: arguments of ``neptune.init_run``, such as ``project``. Without any, the mode is ``offline``.
    """

    def __init__(self, save_dir: str | None = None, init_kwargs: Mapping[str, Any] | None = None) -> None:
        super().__init__(save_dir)
        self._init_kwargs = {"mode": "offline"} if init_kwargs is None else dict(init_kwargs)

    @property
    @force_init_env
    def experiment(self) -> Any:
        """The ``neptune`` run."""
        return self._run

    def _init_env(self) -> None:
        neptune = self._import("neptune")
        self._file = self._import("neptune.types").File
        self._run: Any = neptune.init_run(**self._init_kwargs)

    @force_init_env
    def add_config(self, config: "Config", **kwargs: Any) -> None:
        self._run["config"].upload(self._file.from_content(config.pretty_text))

    @force_init_env
    def add_image(self, name: str, image: Image, step: int = 0, **kwargs: Any) -> None:
        picture = self._file.as_image(checked_image(image).astype(np.float32) / 255)
        self._run["images"].append(picture, name=name, step=step)

    @force_init_env
    def add_scalars(
        self, scalar_dict: Mapping[str, Any], step: int = 0, file_path: str | None = None, **kwargs: Any
    ) -> None:
        """Write scalars; other values are left out."""
        for name, value in scalars(scalar_dict):
            self._run[name].append(value, step=step)

    def close(self) -> None:
        """Stop the run. Writing continues it or, offline, begins another."""
        if not self._env_initialized:
            return
        if self._init_kwargs.get("mode", "async") in ("async", "sync"):
            self._init_kwargs["with_id"] = self._run["sys/id"].fetch()
        self._run.stop()
        self._env_initialized = False
