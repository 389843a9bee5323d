"""The builders of a Runner, which subclasses override, and its attributes."""

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_runs import Line, Points, Scripted, StopAt, log_of, make_runner, weights_of
from torch.utils.data import DataLoader

from trainwright.engine import Config, ConfigError, EpochBasedTrainLoop, LogProcessor, OptimWrapper, Runner
from trainwright.engine.registry import RUNNERS
from trainwright.engine.run.hook import Hook

LOADER: dict[str, Any] = dict(dataset=dict(type=Points), batch_size=4, collate_fn=dict(type="default_collate"))
CFG: dict[str, Any] = dict(
    model=dict(type=Line),
    train_dataloader=dict(LOADER), train_cfg=dict(max_epochs=2),
    optim_wrapper=dict(optimizer=dict(type="SGD", lr=0.1)), param_scheduler=dict(type="StepLR", step_size=1),
    val_dataloader=dict(LOADER), val_cfg=dict(), val_evaluator=dict(type=Scripted, acc=[1, 2, 3]),
    test_dataloader=dict(LOADER), test_cfg=dict(), test_evaluator=dict(metrics=dict(type=Scripted, acc=[4])),
    default_hooks=dict(progress=None), custom_hooks=[dict(type="EmptyCacheHook")], randomness=dict(seed=3),
    auto_scale_lr=dict(enable=True, base_batch_size=8),
)  # fmt: skip


@RUNNERS.register_module()
class Overriding(Runner):
    """Overrides every method that MMEngine's Runner calls, with MMEngine's arguments, and records the calls."""

    calls: list[str]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.calls = []
        super().__init__(*args, **kwargs)

    def setup_env(self, env_cfg: Any) -> None:
        self.calls.append("setup_env")
        super().setup_env(env_cfg)

    def set_randomness(self, seed: Any, diff_rank_seed: bool = False, deterministic: bool = False) -> None:
        self.calls.append("set_randomness")
        super().set_randomness(seed, diff_rank_seed, deterministic)

    def build_logger(self, log_level: Any = "INFO", log_file: Any = None, **kwargs: Any) -> Any:
        self.calls.append("build_logger")
        return super().build_logger(log_level, log_file, **kwargs)

    def build_message_hub(self, message_hub: Any = None) -> Any:
        self.calls.append("build_message_hub")
        return super().build_message_hub(message_hub)

    def build_log_processor(self, log_processor: Any) -> Any:  # type: ignore[override]
        self.calls.append("build_log_processor")
        return super().build_log_processor(log_processor)

    def build_visualizer(self, visualizer: Any = None) -> Any:
        self.calls.append("build_visualizer")
        return super().build_visualizer(visualizer)

    def build_model(self, model: Any) -> Any:
        self.calls.append("build_model")
        return super().build_model(model)

    def wrap_model(self, model_wrapper_cfg: Any, model: Any) -> Any:
        self.calls.append("wrap_model")
        return super().wrap_model(model_wrapper_cfg, model)

    def register_hooks(self, default_hooks: Any = None, custom_hooks: Any = None) -> None:
        self.calls.append("register_hooks")
        super().register_hooks(default_hooks, custom_hooks)

    def register_default_hooks(self, hooks: Any = None) -> None:
        self.calls.append("register_default_hooks")
        super().register_default_hooks(hooks)

    def register_custom_hooks(self, hooks: Any) -> None:
        self.calls.append("register_custom_hooks")
        super().register_custom_hooks(hooks)

    def register_hook(self, hook: Any, priority: Any = None) -> Any:  # type: ignore[override]
        self.calls.append("register_hook")
        return super().register_hook(hook, priority)

    def get_hooks_info(self) -> str:
        self.calls.append("get_hooks_info")
        return super().get_hooks_info()

    def dump_config(self) -> None:
        self.calls.append("dump_config")
        super().dump_config()

    @staticmethod
    def build_dataloader(dataloader: Any, seed: int | None = None, diff_rank_seed: bool = False) -> Any:
        return Runner.build_dataloader({**dataloader, "batch_size": 2}, seed, diff_rank_seed)

    def build_evaluator(self, evaluator: Any) -> Any:  # type: ignore[override]
        self.calls.append("build_evaluator")
        return super().build_evaluator(evaluator)

    def build_train_loop(self, loop: Any) -> Any:
        self.calls.append("build_train_loop")
        return EpochBasedTrainLoop(runner=self, dataloader=self._train_dataloader, **loop)

    def build_val_loop(self, loop: Any) -> Any:
        self.calls.append("build_val_loop")
        return super().build_val_loop(loop)

    def build_test_loop(self, loop: Any) -> Any:
        self.calls.append("build_test_loop")
        return super().build_test_loop(loop)

    def build_optim_wrapper(self, optim_wrapper: Any) -> Any:
        self.calls.append("build_optim_wrapper")
        return super().build_optim_wrapper(optim_wrapper)

    def scale_lr(self, optim_wrapper: Any, auto_scale_lr: Any = None) -> None:
        self.calls.append("scale_lr")
        super().scale_lr(optim_wrapper, auto_scale_lr)

    def build_param_scheduler(self, scheduler: Any) -> Any:
        self.calls.append("build_param_scheduler")
        return super().build_param_scheduler(scheduler)

    def load_or_resume(self) -> None:
        self.calls.append("load_or_resume")
        super().load_or_resume()

    def resume(self, filename: Any, *args: Any, **kwargs: Any) -> None:
        self.calls.append("resume")
        super().resume(filename, *args, **kwargs)


def test_each_override_is_called(tmp_path: Path) -> None:
    runner: Any = RUNNERS.build(Config({**CFG, "work_dir": str(tmp_path), "runner_type": "Overriding"}))
    runner.train()
    runner.test()
    overridden = {name for name in vars(Overriding) if not name.startswith("_") and callable(getattr(Overriding, name))}
    assert overridden - set(runner.calls) == {"resume", "build_dataloader"}
    first = list(dict.fromkeys(runner.calls))
    assert first.index("build_model") < first.index("wrap_model") < first.index("register_hooks")
    assert first.index("build_optim_wrapper") < first.index("scale_lr") < first.index("build_param_scheduler")
    assert runner.iter == 8, "the overridden data loader has other batches"
    assert runner.optim_wrapper.param_groups[0]["initial_lr"] == pytest.approx(0.1 * 2 / 8)
    again: Any = Overriding.from_cfg(Config({**CFG, "work_dir": str(tmp_path), "resume": True}))
    again.train()
    assert again.calls.count("resume") == 1 and again.iter == 8


def test_attributes(tmp_path: Path) -> None:
    runner: Any = Runner.from_cfg({**CFG, "work_dir": str(tmp_path), "randomness": dict(seed=3, deterministic=True)})
    assert (runner.launcher, runner.deterministic, runner.seed, runner.model_name) == ("none", True, 3, "Line")
    assert (runner.val_interval, runner.val_begin, runner.max_epochs) == (1, 1, 2)
    assert runner.default_scope is None and runner.auto_scale_lr == CFG["auto_scale_lr"]
    assert runner.val_evaluator is runner.val_loop.evaluator and runner.test_evaluator is runner.test_loop.evaluator
    assert "EmptyCacheHook" in runner.get_hooks_info()
    alone = Runner(Line(), str(tmp_path / "alone"))
    assert alone.train_loop is None and alone.val_loop is None and alone.test_loop is None
    with pytest.raises(ConfigError, match="val_cfg: missing"):
        _ = alone.val_dataloader


def test_a_data_loader_without_a_run() -> None:
    shuffled = dict(LOADER, sampler=dict(type="DefaultSampler", shuffle=True))
    orders = [[batch[1].tolist() for batch in Runner.build_dataloader(shuffled, seed=seed)] for seed in (1, 1, 2)]
    assert orders[0] == orders[1] != orders[2]
    loader = Runner.build_dataloader(LOADER)
    assert len(loader) == 2 and Runner.build_dataloader(loader) is loader


def test_a_data_loader_of_a_run_has_its_seed(tmp_path: Path) -> None:
    runner = make_runner(tmp_path)
    order = [batch[1].tolist() for batch in runner.build_dataloader(LOADER)]
    assert order == [batch[1].tolist() for batch in Runner.build_dataloader(LOADER, seed=0)]
    assert order == [batch[1].tolist() for batch in runner.train_dataloader]


def test_parts_can_be_built_by_hand(tmp_path: Path) -> None:
    runner = make_runner(tmp_path)
    runner.optim_wrapper = runner.build_optim_wrapper(torch.optim.SGD(runner.model.parameters(), lr=0.4))
    assert isinstance(runner.optim_wrapper, OptimWrapper)
    runner.scale_lr(runner.optim_wrapper, dict(enable=True, base_batch_size=16))
    runner.param_schedulers = runner.build_param_scheduler([dict(type="StepLR", step_size=2, gamma=0.5)])
    assert isinstance(runner.build_log_processor(dict(window_size=3)), LogProcessor)
    assert runner.build_message_hub(dict(name="other")).instance_name == "other"
    assert runner.build_train_loop(loop := runner.train_loop) is loop
    runner.register_custom_hooks([StopAt(5)])
    runner.train()
    assert runner.iter == 5 and runner.optim_wrapper.get_lr()["lr"] == [pytest.approx(0.4 / 4 / 2)]


def test_another_wrapper_for_the_model(tmp_path: Path) -> None:
    class Placed(Runner):
        def wrap_model(self, model_wrapper_cfg: Any, model: Any) -> Any:
            return super().wrap_model(dict(type="MMDistributedDataParallel", broadcast_buffers=True), model)

    assert type(Placed(Line(), str(tmp_path)).model) is Line


@pytest.mark.parametrize("first", [True, False])
def test_resume_by_hand(tmp_path: Path, first: bool) -> None:
    scheduler = dict(type="StepLR", step_size=1, gamma=0.5)
    whole = make_runner(tmp_path / "whole", checkpoint={}, param_scheduler=scheduler)
    whole.train()
    runner = make_runner(tmp_path / "new", param_scheduler=scheduler)
    if not first:  # an interrupted run goes back to a checkpoint of another one
        runner.register_hook(StopAt(3))
        runner.train()
        runner.hooks[:] = [hook for hook in runner.hooks if not isinstance(hook, StopAt)]
        runner._hooks.calls["after_train_iter"] = [
            call for call in runner._hooks.calls["after_train_iter"] if not isinstance(call.__self__, StopAt)
        ]
    runner.resume(tmp_path / "whole/epoch_2.pth")
    assert (runner.epoch, runner.iter) == (2, 4)
    runner.train()
    assert runner.iter == 6
    assert all(torch.equal(value, weights_of(whole)[name]) for name, value in weights_of(runner).items())
    assert runner.optim_wrapper.get_lr() == whole.optim_wrapper.get_lr()


def test_resume_without_the_optimizer(tmp_path: Path) -> None:
    make_runner(tmp_path / "old", checkpoint={}).train()
    runner = make_runner(tmp_path / "new", train_cfg=dict(max_epochs=4))

    class Momentum(Hook):
        def before_train(self, runner: Any) -> None:
            self.state = dict(runner.optim_wrapper.optimizer.state)

    runner.register_hook(hook := Momentum())
    runner.resume(tmp_path / "old/epoch_3.pth", resume_optimizer=False, resume_param_scheduler=False)
    runner.train()
    assert runner.iter == 8 and hook.state == {}
    assert "has no state for" not in log_of(runner)


def test_weights_are_loaded_on_request_before_a_run(tmp_path: Path) -> None:
    trained = make_runner(tmp_path / "old", checkpoint={})
    trained.train()
    runner = make_runner(tmp_path / "new", load_from=str(tmp_path / "old/epoch_3.pth"))
    runner.load_or_resume()
    assert torch.equal(runner.model.fc.weight, trained.model.fc.weight) and runner.iter == 0
    runner.train()
    assert runner.iter == 6


def test_loaders_of_other_libraries_are_returned(tmp_path: Path) -> None:
    loader: Any = DataLoader(Points(), batch_size=4)
    assert make_runner(tmp_path).build_dataloader(loader) is loader
