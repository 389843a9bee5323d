"""A backend that writes to Aim."""

from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainwright.engine.registry import VISBACKENDS
from trainwright.engine.visualization.backends.base import BaseVisBackend, Image, checked_image, force_init_env, scalars
from trainwright.engine.visualization.backends.local import to_plain

if TYPE_CHECKING:
    from trainwright.engine.config.config import Config


@VISBACKENDS.register_module()
class AimVisBackend(BaseVisBackend):
    """A backend that writes to Aim. Requires the extra ``aim``.

    Args:
        save_dir: its last two folders are the default name of the experiment. Nothing is written there.
        init_kwargs: arguments of ``aim.Run``, such as ``experiment`` or ``repo``, the folder that contains ``.aim``.
    """

    def __init__(self, save_dir: str | None = None, init_kwargs: Mapping[str, Any] | None = None) -> None:
        super().__init__(save_dir)
        self._init_kwargs = dict(init_kwargs or {})

    @property
    @force_init_env
    def experiment(self) -> Any:
        """The ``aim.Run``."""
        return self._run

    def _init_env(self) -> None:
        aim = self._import("aim")
        if self._save_dir is None:
            name = datetime.now().strftime("%Y%m%d_%H%M%S")
        else:
            name = "_".join(Path(self._save_dir).absolute().parts[-2:])
        self._run: Any = aim.Run(**{"experiment": name, **self._init_kwargs})
        self._image_class = aim.Image

    @force_init_env
    def add_config(self, config: "Config", **kwargs: Any) -> None:
        self._run["hparams"] = to_plain(config.to_dict())

    @force_init_env
    def add_image(self, name: str, image: Image, step: int = 0, **kwargs: Any) -> None:
        self._run.track(name=name, value=self._image_class(checked_image(image)), step=step)

    @force_init_env
    def add_scalars(
        self, scalar_dict: Mapping[str, Any], step: int = 0, file_path: str | None = None, **kwargs: Any
    ) -> None:
        """Write scalars; other values are left out."""
        for name, value in scalars(scalar_dict):
            self._run.track(name=name, value=value, step=step)

    def close(self) -> None:
        """Close the run. Writing continues it."""
        if self._env_initialized:
            self._init_kwargs["run_hash"] = self._run.hash
            self._run.close()
            self._env_initialized = False
