"""Test-time augmentation."""

import copy
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from trainwright.engine.errors import ConfigError
from trainwright.engine.parts import TTA_MODEL, setting
from trainwright.engine.registry import HOOKS, RUNNERS
from trainwright.engine.run.hook import Hook

if TYPE_CHECKING:
    from trainwright.engine.run.runner import Runner


@HOOKS.register_module()
class PrepareTTAHook(Hook):
    """Wraps the model, for the test alone, in one that merges the predictions of several views.

    Cost per step: none in training.

    Args:
        tta_cfg: config of a subclass of ``BaseTTAModel``, without ``module``.
    """

    def __init__(self, tta_cfg: Mapping[str, Any]) -> None:
        self.tta_cfg = dict(tta_cfg)
        self._model: Any = None

    def before_test(self, runner: "Runner") -> None:
        """Wraps the model."""
        self._model = runner.model
        runner.model = TTA_MODEL.build(self.tta_cfg, module=runner.model)

    def after_test(self, runner: "Runner") -> None:
        """Unwraps the model."""
        self._unwrap(runner)

    def after_run(self, runner: "Runner") -> None:
        """Unwraps the model if the test was cut short."""
        self._unwrap(runner)

    def _unwrap(self, runner: "Runner") -> None:
        if self._model is not None:
            runner.model, self._model = self._model, None


def build_runner_with_tta(cfg: Any) -> "Runner":
    """Builds a runner whose test goes through ``tta_pipeline`` and merges the predictions with ``tta_model``.

    Args:
        cfg: a config with ``tta_model`` and ``tta_pipeline``; it is left as it is.

    Raises:
        ConfigError: one of them is missing, or there is no ``test_dataloader`` to apply them to.
    """
    for key in ("tta_model", "tta_pipeline", "test_dataloader"):
        if cfg.get(key) is None:
            raise ConfigError(key, "test-time augmentation needs it, and the config has none")
    cfg = copy.deepcopy(cfg)
    dataset = cfg["test_dataloader"]["dataset"]
    while "dataset" in dataset:
        dataset = dataset["dataset"]
    dataset["pipeline"] = cfg["tta_pipeline"]
    runner: Runner = RUNNERS.get(setting(cfg, "runner_type")).from_cfg(cfg)
    runner.register_hook(PrepareTTAHook(tta_cfg=cfg["tta_model"]))
    return runner
