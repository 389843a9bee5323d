"""A backend that writes to Weights & Biases."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from torch import nn

from trainwright.engine.registry import VISBACKENDS
from trainwright.engine.visualization.backends.base import BaseVisBackend, Image, checked_image, force_init_env, scalars

if TYPE_CHECKING:
    from trainwright.engine.config.config import Config


@VISBACKENDS.register_module()
class WandbVisBackend(BaseVisBackend):
    """A backend that writes to Weights & Biases. Requires the extra ``wandb``.

    The x-axis of curves is a logged value ``step``, since wandb's own step must increase, while training counts
    iterations and validation counts epochs.

    Args:
        save_dir: folder for local files.
        init_kwargs: arguments of ``wandb.init``, such as ``project`` or ``mode='offline'``.
        define_metric_cfg: summaries by metric name, such as ``{'accuracy/top1': 'max'}``, or a list of
            arguments of ``define_metric``.
        commit: whether each call immediately writes a separate row.
        log_code_name: name for the uploaded code of the current folder; None for no upload.
        watch_kwargs: arguments of ``watch``, for :meth:`add_graph`.
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
        return self._wandb

    def _init_env(self) -> None:
        wandb = self._import("wandb")
        # "create_new": a separate run, independent of others in this process
        arguments = {"dir": str(self._make_save_dir()), "reinit": "create_new", **self._init_kwargs}
        self._wandb: Any = wandb.init(**arguments)
        self._init_kwargs.update(id=self._wandb.id, resume="allow")  # to continue the run after close
        self._image_class = wandb.Image
        self._wandb.define_metric("*", step_metric="step")
        if isinstance(self._define_metric_cfg, Mapping):
            for name, summary in self._define_metric_cfg.items():
                self._wandb.define_metric(name, summary=summary, step_metric="step")
        else:
            for definition in self._define_metric_cfg:
                self._wandb.define_metric(**definition)

    @force_init_env
    def add_config(self, config: "Config", **kwargs: Any) -> None:
        """Write the config, and upload the code if ``log_code_name`` is set."""
        self._wandb.config.update(config.to_dict(), allow_val_change=True)
        if self._log_code_name is not None:
            self._wandb.log_code(name=self._log_code_name)

    @force_init_env
    def add_graph(self, model: nn.Module, data_batch: Any = None, **kwargs: Any) -> None:
        """Watch the model's gradients with ``watch_kwargs``."""
        self._wandb.watch(model, **self._watch_kwargs)

    @force_init_env
    def add_image(self, name: str, image: Image, step: int = 0, **kwargs: Any) -> None:
        self._wandb.log({name: self._image_class(checked_image(image)), "step": step}, commit=self._commit)

    @force_init_env
    def add_scalars(
        self, scalar_dict: Mapping[str, Any], step: int = 0, file_path: str | None = None, **kwargs: Any
    ) -> None:
        """Write scalars in one row; other values are left out."""
        self._wandb.log({"step": step, **dict(scalars(scalar_dict))}, commit=self._commit)

    def close(self) -> None:
        """Finish the run and wait for its upload."""
        if self._env_initialized:
            self._wandb.finish()
            self._env_initialized = False
