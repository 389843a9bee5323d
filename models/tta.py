"""Test-time augmentation: several views of each sample, one prediction."""

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any

from torch import nn

from trainwright.engine.evaluation.samples import samples_of
from trainwright.engine.registry import MODELS
from trainwright.models.base import BaseModel


class BaseTTAModel(BaseModel):
    """Predicts several augmented views of each sample, and merges the predictions.

    A batch holds one batch for each view: ``dict(inputs=[[image1_view1, image2_view1], [image1_view2, …]],
    data_samples=…)`` likewise, as ``TestTimeAug`` and ``pseudo_collate`` make it.

    Args:
        module: the model, or its config.
        data_preprocessor: config or module that replaces the ``data_preprocessor`` in the config of the
            model.
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
            raise TypeError(f"a model with test_step is needed, not a {type(self.module).__name__}")

    @abstractmethod
    def merge_preds(self, data_samples_list: list[list[Any]]) -> list[Any]:
        """Return one prediction for each sample.

        Args:
            data_samples_list: for each sample the predictions of its views.
        """

    def test_step(self, data: Any) -> list[Any]:  # type: ignore[override]  # no with_loss, and val_cfg is checked for it
        """Predict a batch of views.

        Args:
            data: dict, tuple or list, each of whose items is a list with one batch for each view.

        Raises:
            TypeError: ``data`` is something else.
        """
        if isinstance(data, Mapping):
            views: list[Any] = [dict(zip(data, items)) for items in zip(*data.values())]
        elif isinstance(data, list | tuple):
            views = [list(items) for items in zip(*data)]
        else:
            raise TypeError(f"a batch must be a dict, list or tuple, not {type(data).__name__}")
        predictions = [samples_of(self.module.test_step(view), view) for view in views]
        return self.merge_preds([list(samples) for samples in zip(*predictions)])

    def val_step(self, data: Any) -> Any:  # type: ignore[override]  # likewise
        """Predict a batch of views, like :meth:`test_step`; there is no loss of several views."""
        return self.test_step(data)

    def forward(self, inputs: Any, data_samples: Any = None, mode: str = "tensor") -> Any:
        """Call the model on one view."""
        return self.module(inputs, data_samples, mode=mode)
