"""Test-time augmentation."""

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any

from torch import nn

from trainwright.engine.evaluation.samples import samples_of
from trainwright.engine.registry import MODELS
from trainwright.models.base import BaseModel


class BaseTTAModel(BaseModel):
    """Base class of models that predict several augmented views of each sample and merge the predictions.

    A batch contains one batch per view, as produced by ``TestTimeAug`` and ``pseudo_collate``:
    ``dict(inputs=[[image1_view1, image2_view1], [image1_view2, …]], data_samples=…)``, with ``data_samples`` nested in
    the same way. Its weights are those of ``module``, whose checkpoints it loads.

    Args:
        module: the model, or its config.
        data_preprocessor: config or module that overrides the ``data_preprocessor`` in the config of the model.
    """

    def __init__(
        self,
        module: Mapping[str, Any] | nn.Module,
        data_preprocessor: Mapping[str, Any] | nn.Module | None = None,
    ) -> None:
        super().__init__()
        if isinstance(module, Mapping) and data_preprocessor is not None:
            module = {**module, "data_preprocessor": data_preprocessor}
        self.module = MODELS.build(module)
        if not hasattr(self.module, "test_step"):
            raise TypeError(f"module must be a model with test_step, not a {type(self.module).__name__}")

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """Return the weights of ``module``."""
        return self.module.state_dict(*args, **kwargs)

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """Load weights into ``module``."""
        return self.module.load_state_dict(state_dict, strict, assign)

    @abstractmethod
    def merge_preds(self, data_samples_list: list[list[Any]]) -> list[Any]:
        """Return one prediction per sample.

        Args:
            data_samples_list: for each sample, the predictions of its views.
        """

    def test_step(self, data: Any) -> list[Any]:  # type: ignore[override]  # no with_loss, and val_cfg is checked for it
        """Predict a batch of views.

        Args:
            data: dict, tuple or list, each of whose items is a list with one entry per view.

        Raises:
            TypeError: ``data`` has another type.
        """
        if isinstance(data, Mapping):
            views: list[Any] = [dict(zip(data, items)) for items in zip(*data.values())]
        elif isinstance(data, list | tuple):
            views = [list(items) for items in zip(*data)]
        else:
            raise TypeError(f"a batch must be a dict, list or tuple, not {type(data).__name__}")
        predictions = [samples_of(self.module.test_step(view), view) for view in views]
        return self.merge_preds([list(samples) for samples in zip(*predictions)])

    def val_step(self, data: Any) -> Any:  # type: ignore[override]  # as for test_step
        """Predicts a batch of views, like :meth:`test_step`, without a loss."""
        return self.test_step(data)

    def forward(self, inputs: Any, data_samples: Any = None, mode: str = "tensor") -> Any:
        """Call the model on one view."""
        return self.module(inputs, data_samples, mode=mode)
