"""A backend that writes to DVCLive."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainwright.engine.registry import VISBACKENDS
from trainwright.engine.visualization.backends.base import BaseVisBackend, Image, checked_image, force_init_env, scalars
from trainwright.engine.visualization.backends.local import to_plain

if TYPE_CHECKING:
    from trainwright.engine.config.config import Config


@VISBACKENDS.register_module()
class DVCLiveVisBackend(BaseVisBackend):
    """A backend that writes to DVCLive. Requires the extra ``dvclive``.

    Args:
        save_dir: folder for its files.
        artifact_suffix: suffixes of the files in ``save_dir`` that are tracked at the end, in a DVC repository.
        init_kwargs: arguments of ``dvclive.Live``, such as ``save_dvc_exp`` or ``cache_images``. No repository is
            initialized for them: run ``dvc init`` where you want one.
    """

    def __init__(
        self,
        save_dir: str,
        artifact_suffix: str | Sequence[str] = (".json", ".py", "yaml"),
        init_kwargs: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(save_dir)
        self._artifact_suffix = (artifact_suffix,) if isinstance(artifact_suffix, str) else tuple(artifact_suffix)
        self._init_kwargs = dict(init_kwargs or {})

    @property
    @force_init_env
    def experiment(self) -> Any:
        """The ``dvclive.Live``."""
        return self._live

    def _init_env(self) -> None:
        dvclive = self._import("dvclive")
        self._live: Any = dvclive.Live(**{"dir": str(self._make_save_dir()), **self._init_kwargs})

    @force_init_env
    def add_config(self, config: "Config", **kwargs: Any) -> None:
        self._live.log_params(to_plain(config.to_dict()))

    @force_init_env
    def add_image(self, name: str, image: Image, step: int = 0, **kwargs: Any) -> None:
        """Write an image. DVCLive keeps the newest of each name."""
        self._live.step = step
        self._live.log_image(f"{name}.png", checked_image(image))

    @force_init_env
    def add_scalars(
        self, scalar_dict: Mapping[str, Any], step: int = 0, file_path: str | None = None, **kwargs: Any
    ) -> None:
        """Write scalars; other values are left out."""
        self._live.step = step
        for name, value in scalars(scalar_dict):
            self._live.log_metric(name, value)

    def close(self) -> None:
        """Track the files, and end. Writing continues."""
        if not self._env_initialized:
            return
        assert self._save_dir is not None
        for file in sorted(Path(self._save_dir).rglob("*")):
            if file.name.endswith(self._artifact_suffix):
                self._live.log_artifact(str(file))
        self._live.end()
        self._init_kwargs["resume"] = True
        self._env_initialized = False
