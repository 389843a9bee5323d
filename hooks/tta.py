"""Test-time augmentation."""

import copy
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from trainwright.engine.errors import ConfigError
from trainwright.engine.parts import TTA_MODEL, dataloaders, setting
from trainwright.engine.registry import HOOKS, RUNNERS
from trainwright.engine.run.hook import Hook

if TYPE_CHECKING:
    from trainwright.engine.run.runner import Runner


@HOOKS.register_module()
class PrepareTTAHook(Hook):
    """Wrap the model during the test in one that merges the predictions for several augmented views.

    Cost per step: none in training.

    Args:
        tta_cfg: config of a subclass of ``BaseTTAModel``, without ``module``.
    """

    def __init__(self, tta_cfg: Mapping[str, Any]) -> None:
        self.tta_cfg = dict(tta_cfg)
        self._model: Any = None

    def before_test(self, runner: "Runner") -> None:
        """Wrap the model."""
        self._model = runner.model
        runner.model = TTA_MODEL.build(self.tta_cfg, module=runner.model)

    def after_test(self, runner: "Runner") -> None:
        """Unwrap the model."""
        self._unwrap(runner)

    def after_run(self, runner: "Runner") -> None:
        """Unwrap the model if the test was interrupted."""
        self._unwrap(runner)

    def _unwrap(self, runner: "Runner") -> None:
        if self._model is not None:
            runner.model, self._model = self._model, None


def build_runner_with_tta(cfg: Any) -> "Runner":
    """Build a runner that tests with ``tta_pipeline`` and merges the predictions with ``tta_model``.

    Args:
        cfg: a config with ``tta_model``, ``tta_pipeline`` and ``test_dataloader``; it is not modified.

    Raises:
        ConfigError: one of these keys is missing.
    """
    for key in ("tta_model", "tta_pipeline", "test_dataloader"):
        if cfg.get(key) is None:
            raise ConfigError(key, "required for test-time augmentation, but missing in the config")
    cfg = copy.deepcopy(cfg)
    for _, loader in dataloaders(cfg, "test_dataloader"):
        dataset = loader["dataset"]
        while "dataset" in dataset:
            dataset = dataset["dataset"]
        dataset["pipeline"] = cfg["tta_pipeline"]
    runner: Runner = RUNNERS.get(setting(cfg, "runner_type")).from_cfg(cfg)
    runner.register_hook(PrepareTTAHook(tta_cfg=cfg["tta_model"]))
    return runner
