"""A backend that writes event files for TensorBoard."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from trainwright.engine.errors import MissingExtraError
from trainwright.engine.registry import VISBACKENDS
from trainwright.engine.visualization.backends.base import BaseVisBackend, Image, checked_image, force_init_env, scalars

if TYPE_CHECKING:
    from trainwright.engine.config.config import Config


@VISBACKENDS.register_module()
class TensorboardVisBackend(BaseVisBackend):
    """A backend that writes event files for TensorBoard.

    Args:
        save_dir: folder for the files.
    """

    @property
    @force_init_env
    def experiment(self) -> Any:
        """The ``torch.utils.tensorboard.SummaryWriter``."""
        return self._tensorboard

    def _init_env(self) -> None:
        try:
            from tensorboard.compat.proto.summary_pb2 import Summary  # type: ignore[import-untyped]
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise MissingExtraError("tensorboard", "tensorboard", "TensorboardVisBackend") from error
        self._summary, self._value = Summary, Summary.Value
        self._tensorboard: Any = SummaryWriter(str(self._make_save_dir()))

    @force_init_env
    def add_config(self, config: "Config", **kwargs: Any) -> None:
        indented = "\n".join(f"    {line}" for line in config.pretty_text.splitlines())  # Markdown code block
        self._tensorboard.add_text("config", indented)

    @force_init_env
    def add_image(self, name: str, image: Image, step: int = 0, **kwargs: Any) -> None:
        self._tensorboard.add_image(name, checked_image(image), step, dataformats="HWC")

    @force_init_env
    def add_scalars(
        self, scalar_dict: Mapping[str, Any], step: int = 0, file_path: str | None = None, **kwargs: Any
    ) -> None:
        """Write each scalar as a separate curve, all in one event; other values are left out."""
        values = [self._value(tag=name, simple_value=number) for name, number in scalars(scalar_dict)]
        if values:
            self._tensorboard.file_writer.add_summary(self._summary(value=values), step)

    def close(self) -> None:
        if self._env_initialized:
            self._env_initialized = False
            self._tensorboard.close()
