import json
import random
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_runs import Line, Points, Scripted, StopAt, files_in, log_of, make_runner, weights_of
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.data import DataLoader

from trainwright.engine import registry as registries
from trainwright.engine.config.config import Config
from trainwright.engine.errors import CheckpointError, ConfigError
from trainwright.engine.records.logger import get_logger
from trainwright.engine.records.message_hub import MessageHub
from trainwright.engine.registry import LOOPS
from trainwright.engine.run.hook import Hook
from trainwright.engine.run.runner import Runner
from trainwright.engine.run.train_loops import EpochBasedTrainLoop
from trainwright.models import MLP, ImageClassifier


class Trace(Hook):
    """Record every call of a hook point, with the counters."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, int, int]] = []


def _note(stage: str) -> Any:
    def call(self: Trace, runner: Runner, **kwargs: Any) -> None:
        self.calls.append((stage, runner.epoch, runner.iter))

    return call


for _stage in Hook.stages:
    setattr(Trace, _stage, _note(_stage))


class Syncs(TorchDispatchMode):
    """A mode that counts operations that synchronize with the device."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.is_nonzero.default):
            self.seen.append(str(func))
        return func(*args, **(kwargs or {}))


def stages(trace: Trace) -> list[str]:
    return [stage for stage, _, _ in trace.calls]


def test_points_come_in_order_with_the_counters_of_what_is_in_progress(tmp_path: Path) -> None:
    trace = Trace()
    make_runner(tmp_path, [trace], metric=Scripted(acc=[1.0]), train_cfg=dict(by_epoch=True, max_epochs=1)).train()
    assert trace.calls == [
        ("before_run", 0, 0), ("before_train", 0, 0), ("before_train_epoch", 0, 0),
        ("before_train_iter", 0, 0), ("after_train_iter", 0, 0), ("before_train_iter", 0, 1), ("after_train_iter", 0, 1),
        ("after_train_epoch", 0, 2), ("before_val", 1, 2), ("before_val_epoch", 1, 2), ("before_val_iter", 1, 2),
        ("after_val_iter", 1, 2), ("after_val_epoch", 1, 2), ("after_val", 1, 2), ("after_train", 1, 2), ("after_run", 1, 2),
    ]  # fmt: skip


def test_a_loop_by_iterations_is_one_epoch_to_the_hooks(tmp_path: Path) -> None:
    trace = Trace()
    runner = make_runner(tmp_path, [trace], train_cfg=dict(by_epoch=False, max_iters=5))
    runner.train()
    assert stages(trace).count("before_train_epoch") == stages(trace).count("after_train_epoch") == 1
    assert [i for stage, _, i in trace.calls if stage == "after_train_iter"] == [0, 1, 2, 3, 4]
    assert (runner.max_iters, runner.max_epochs, runner.iter) == (5, 1, 5)


@pytest.mark.parametrize(
    ("cfg", "epochs"),
    [
        (dict(max_epochs=4), [1, 2, 3, 4]),
        (dict(max_epochs=5, val_interval=2), [2, 4, 5]),
        (dict(max_epochs=5, val_begin=3), [3, 4, 5]),
        (dict(max_epochs=6, val_interval=3, dynamic_intervals=[(4, 1)]), [3, 4, 5, 6]),
    ],
)
def test_when_epochs_are_validated(tmp_path: Path, cfg: dict, epochs: list[int]) -> None:
    trace = Trace()
    metric = Scripted(acc=[0.5] * 6)
    make_runner(tmp_path, [trace], metric=metric, train_cfg=dict(by_epoch=True, **cfg)).train()
    assert [epoch for stage, epoch, _ in trace.calls if stage == "after_val"] == epochs


@pytest.mark.parametrize(
    ("cfg", "iterations"),
    [
        (dict(max_iters=5, val_interval=2), [2, 4, 5]),
        (dict(max_iters=6, val_interval=2, val_begin=3), [4, 6]),
        (dict(max_iters=7, val_interval=4, dynamic_intervals=[(4, 1)]), [4, 5, 6, 7]),
    ],
)
def test_when_iterations_are_validated(tmp_path: Path, cfg: dict, iterations: list[int]) -> None:
    trace = Trace()
    metric = Scripted(acc=[0.5] * 6)
    make_runner(tmp_path, [trace], metric=metric, train_cfg=dict(by_epoch=False, **cfg)).train()
    assert [i for stage, _, i in trace.calls if stage == "after_val"] == iterations


def test_training_is_bit_for_bit_a_hand_written_loop(tmp_path: Path) -> None:
    """Two layers, shuffled batches, Adam with a scheduler, clipping and accumulation match a hand-written loop."""
    torch.manual_seed(11)
    inputs, labels = torch.randn(50, 4), torch.randint(3, (50,))
    dataset = torch.utils.data.TensorDataset(inputs, labels)

    def network() -> nn.Module:
        torch.manual_seed(5)
        return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))

    runner = Runner(
        model=ImageClassifier(network(), data_preprocessor=dict(type="BaseDataPreprocessor")),
        work_dir=str(tmp_path),
        train_dataloader=dict(batch_size=8, dataset=dataset, collate_fn="default_collate"),
        train_cfg=dict(by_epoch=True, max_epochs=4),
        optim_wrapper=dict(
            optimizer=dict(type="AdamW", lr=0.01, fused=False),
            accumulative_counts=2,
            clip_grad=dict(max_norm=0.5),
        ),
        param_scheduler=dict(type="MultiStepLR", milestones=[2, 3], gamma=0.1),
        randomness=dict(seed=7),
    )
    runner.train()

    net = network()
    optimizer = torch.optim.AdamW(net.parameters(), lr=0.01, fused=False)
    step = 0
    for epoch in range(4):
        if epoch in (2, 3):
            optimizer.param_groups[0]["lr"] *= 0.1
        order = torch.randperm(50, generator=torch.Generator().manual_seed(7 + epoch))
        for batch in order.split(8):
            loss = nn.functional.cross_entropy(net(inputs[batch]), labels[batch])
            (loss / 2).backward()
            step += 1
            if step % 2 == 0:
                nn.utils.clip_grad_norm_(net.parameters(), 0.5)
                optimizer.step()
                optimizer.zero_grad()
    for trained, expected in zip(runner.model.backbone.parameters(), net.parameters()):
        assert torch.equal(trained, expected)


def test_nothing_waits_for_the_device_between_log_lines(tmp_path: Path) -> None:
    def run(interval: int, iterations: int) -> int:
        runner = make_runner(
            tmp_path, [dict(type="EMAHook")], train_cfg=dict(by_epoch=False, max_iters=iterations),
            model=Line(batch_norm=True), dataset=Points(500),  # a single pass, since each draws a random number on the CPU
        )  # fmt: skip
        logger = next(hook for hook in runner.hooks if type(hook).__name__ == "LoggerHook")
        logger.interval = interval
        with Syncs() as syncs:
            runner.train()
        return len(syncs.seen)

    assert run(1000, 5) == run(1000, 105)


@pytest.mark.parametrize("by_epoch", [True, False])
@pytest.mark.parametrize("cut", [0, 1, 2, 3, 4])
def test_a_stopped_run_goes_on_bit_for_bit(tmp_path: Path, by_epoch: bool, cut: int) -> None:
    train_cfg = dict(by_epoch=True, max_epochs=2) if by_epoch else dict(by_epoch=False, max_iters=6)

    def make(folder: str, hooks: list, **options: Any) -> Runner:
        model = nn.Sequential(nn.Linear(2, 8), nn.Dropout(0.5), nn.Linear(8, 1), nn.Flatten(0))
        return make_runner(
            tmp_path / folder, hooks, dataset=NoisyPoints(12), lr=0.01, train_cfg=train_cfg, checkpoint=dict(interval=-1, save_last=False),
            model=RandomLine(model), param_scheduler=dict(type="ExponentialLR", gamma=0.9, by_epoch=False), **options,
        )  # fmt: skip

    whole = make("whole", [dict(type="EMAHook")])
    whole.train()
    make("cut", [dict(type="EMAHook"), StopAt(cut + 1)]).train()
    resumed = make("cut", [dict(type="EMAHook")], resume=True)
    resumed.train()
    assert resumed.iter == whole.iter == 6
    first = torch.cat(whole.model.seen[cut + 1 :] or [torch.ones(0)])
    assert torch.equal(first, torch.cat(resumed.model.seen or [torch.ones(0)]))
    for name, value in weights_of(whole).items():
        assert value.isfinite().all()
        assert torch.equal(value, weights_of(resumed)[name]), name
    assert whole.optim_wrapper.get_lr() == resumed.optim_wrapper.get_lr()
    assert (
        whole.message_hub.get_scalar("train/loss").data[0].tolist()
        == resumed.message_hub.get_scalar("train/loss").data[0].tolist()
    )


class RandomLine(Line):
    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        for parameter in network.parameters():
            nn.init.constant_(parameter, 0.3)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        noise = random.gauss(0, 0.1) + 0.1 * np.random.rand()
        return self.network(inputs + noise)


class NoisyPoints(Points):
    """Points augmented with random numbers from all three generators."""

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        inputs, target = super().__getitem__(index)
        return inputs + 0.1 * (random.random() + np.random.rand() + torch.rand(2)), target


def test_the_number_of_workers_changes_nothing(tmp_path: Path) -> None:
    losses = []
    for workers in (0, 2):
        network = nn.Sequential(nn.Linear(2, 8), nn.Dropout(0.5), nn.Linear(8, 1), nn.Flatten(0))
        runner = make_runner(
            tmp_path / str(workers), dataset=NoisyPoints(12), lr=0.01, model=RandomLine(network),
            metric=Scripted(acc=[0.1, 0.2, 0.3]) if workers else None, train_dataloader=dict(num_workers=workers),
        )  # fmt: skip
        runner.train()
        losses.append(runner.message_hub.get_scalar("train/loss").data[0].tolist())
    assert len(losses[0]) == 9
    assert losses[0] == losses[1]


def test_a_stop_writes_a_checkpoint_and_says_how_to_go_on(tmp_path: Path) -> None:
    runner = make_runner(tmp_path, [StopAt(3)])
    runner.train()
    assert runner.iter == 3
    assert files_in(tmp_path) == ["iter_3.pth"]
    assert (tmp_path / "last_checkpoint").read_text() == "iter_3.pth"
    assert f"Stopped after iteration 3 (a test). To continue in {runner.work_dir}, run the same command" in log_of(
        runner
    )


def test_resuming_from_the_end_has_nothing_left_to_do_and_more_epochs_go_on(tmp_path: Path) -> None:
    make_runner(tmp_path, checkpoint=dict(interval=1)).train()
    done = make_runner(tmp_path, checkpoint=dict(interval=1), resume=True)
    done.train()
    assert done.model.seen == []
    assert "nothing left to do" in log_of(done)
    more = make_runner(tmp_path, resume=True, train_cfg=dict(by_epoch=True, max_epochs=5))
    more.train()
    assert len(more.model.seen) == 4


def test_resume_without_a_checkpoint_starts_a_new_run_with_a_warning(tmp_path: Path) -> None:
    runner = make_runner(tmp_path, resume=True)
    runner.train()
    assert "Nothing to resume in" in log_of(runner)
    assert runner.iter == 6


def test_resume_passes_over_a_broken_checkpoint(tmp_path: Path) -> None:
    make_runner(tmp_path, checkpoint=dict(interval=1)).train()
    newest = tmp_path / "epoch_3.pth"
    newest.write_bytes(newest.read_bytes()[:-100])
    runner = make_runner(tmp_path, resume=True)
    runner.train()
    assert "skipped" in log_of(runner)
    assert "epoch_2.pth: epoch 2, iteration 4" in log_of(runner)


def test_a_named_checkpoint_that_is_missing_or_broken_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="checkpoint not found") as missing:
        make_runner(tmp_path, resume=str(tmp_path / "none.pth")).train()
    assert isinstance(missing.value, FileNotFoundError)
    make_runner(tmp_path, checkpoint=dict(interval=1)).train()
    (tmp_path / "epoch_3.pth").write_bytes(b"")
    with pytest.raises(CheckpointError, match="cannot be read"):
        make_runner(tmp_path, resume=str(tmp_path / "epoch_3.pth")).train()


def test_resume_takes_over_the_seed_and_says_what_changed(tmp_path: Path) -> None:
    def make(lr: float, **options: Any) -> Runner:
        cfg = Config(dict(model=dict(type=Line), optim_wrapper=dict(optimizer=dict(type="SGD", lr=lr))))
        return make_runner(tmp_path, checkpoint=dict(interval=1), cfg=cfg, **options)

    first = make(0.1, train_cfg=dict(by_epoch=True, max_epochs=1))
    first.train()
    second = make(0.2, resume=True)
    second.seed = 99
    second.train()
    assert second.seed == first.seed == 0
    assert "optim_wrapper.optimizer.lr: 0.1 → 0.2" in log_of(second)


def test_load_from_takes_the_weights_alone(tmp_path: Path) -> None:
    trained = make_runner(tmp_path / "a", checkpoint=dict(interval=1))
    trained.train()
    runner = make_runner(tmp_path / "b", load_from=str(tmp_path / "a" / "epoch_3.pth"), lr=0.0)
    runner.train()
    assert runner.iter == 6
    assert torch.equal(runner.model.fc.weight, trained.model.fc.weight)


def test_a_checkpoint_of_mmengine_can_be_resumed(tmp_path: Path) -> None:
    class Linear(Line):
        def __init__(self) -> None:
            super().__init__()
            self.linear = self.fc
            del self.fc

        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            return self.linear(inputs).squeeze(1)

    file = Path(__file__).parents[2] / "data" / "mmengine_epoch_1.pth"
    runner = make_runner(
        tmp_path, [dict(type="EMAHook")], model=Linear(), resume=str(file), lr=0.01,
        param_scheduler=dict(type="MultiStepLR", milestones=[1]),
    )  # fmt: skip
    runner.train()
    log = log_of(runner)
    assert "mmengine_epoch_1.pth: epoch 1, iteration 2" in log
    assert runner.seed == 3
    assert runner.iter == 6
    assert runner.optim_wrapper.get_lr()["lr"] == [pytest.approx(0.001)]
    losses = runner.message_hub.get_scalar("train/loss").data[0].tolist()
    assert losses[:2] == pytest.approx([8.17866135, 1.95473957])
    assert len(losses) == 6


def test_a_checkpoint_can_be_read_safely_and_holds_mmengines_keys(tmp_path: Path) -> None:
    make_runner(
        tmp_path,
        [dict(type="EMAHook")],
        checkpoint=dict(interval=1),
        train_cfg=dict(by_epoch=True, max_epochs=1),
    ).train()
    checkpoint = torch.load(tmp_path / "epoch_1.pth", weights_only=True)
    assert {
        "meta",
        "state_dict",
        "optimizer",
        "message_hub",
        "ema_state_dict",
        "trainwright",
    } <= checkpoint.keys()
    assert checkpoint["meta"]["epoch"] == 1
    assert checkpoint["meta"]["iter"] == 2
    assert checkpoint["meta"]["seed"] == 0


def test_files_lie_where_those_of_mmengine_do(tmp_path: Path) -> None:
    cfg = Config(dict(a=1), filename=str(tmp_path / "my_experiment.py"))
    runner = make_runner(
        tmp_path / "work",
        checkpoint=dict(interval=1, max_keep_ckpts=1),
        metric=Scripted(acc=[1.0, 2.0, 3.0]),
        cfg=cfg,
    )
    runner.train()
    stamp = runner.timestamp
    found = {str(path.relative_to(tmp_path / "work")) for path in (tmp_path / "work").rglob("*") if path.is_file()}
    assert found == {
        "my_experiment.py", "epoch_3.pth", "last_checkpoint", f"{stamp}/{stamp}.log",
        f"{stamp}/vis_data/scalars.json", f"{stamp}/vis_data/config.py", f"{stamp}/vis_data/{stamp}.json",
    }  # fmt: skip
    lines = [
        json.loads(line) for line in (tmp_path / "work" / stamp / "vis_data" / "scalars.json").read_text().splitlines()
    ]
    assert [line["val/acc"] if "val/acc" in line else line.get("acc") for line in lines if "loss" not in line] == [
        1.0,
        2.0,
        3.0,
    ]
    assert runner.experiment_name == f"my_experiment_{stamp}"


def test_objects_and_plain_python_instead_of_configs(tmp_path: Path) -> None:
    model = Line()
    loader = DataLoader(Points(), batch_size=4)
    Runner(
        model, str(tmp_path), loader, train_cfg=dict(by_epoch=True, max_epochs=2),
        optim_wrapper=torch.optim.SGD(model.parameters(), lr=0.1),
    ).train()  # fmt: skip
    assert len(model.seen) == 4


def test_a_module_that_knows_no_training_is_wrapped(tmp_path: Path) -> None:
    data = torch.utils.data.TensorDataset(torch.randn(8, 4), torch.randint(3, (8,)))
    runner = Runner(
        nn.Linear(4, 3), str(tmp_path), dict(dataset=data, batch_size=4, collate_fn="default_collate"),
        train_cfg=dict(by_epoch=False, max_iters=2), optim_wrapper=dict(optimizer=dict(type="SGD", lr=0.1)),
    )  # fmt: skip
    before = runner.model.network.weight.clone()
    runner.train()
    assert not torch.equal(runner.model.network.weight, before)


def test_two_runs_in_one_process_do_not_mix(tmp_path: Path) -> None:
    class Inner(Hook):
        def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
            assert MessageHub.get_current_instance() is runner.message_hub
            if runner.iter == 1:
                make_runner(tmp_path / "inner").train()
                assert MessageHub.get_current_instance() is runner.message_hub
                assert get_logger() is runner.logger

    outer = make_runner(tmp_path / "outer", [Inner()])
    outside = MessageHub.get_current_instance()
    outer.train()
    assert MessageHub.get_current_instance() is outside
    assert outer.iter == 6


def test_an_exception_keeps_its_type_and_is_in_no_way_hidden(tmp_path: Path) -> None:
    class Broken(Hook):
        def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
            raise ZeroDivisionError("here")

    outside = MessageHub.get_current_instance()
    with pytest.raises(ZeroDivisionError, match="here") as caught:
        make_runner(tmp_path, [Broken()]).train()
    assert "in Broken.after_train_iter" in caught.value.__notes__
    assert MessageHub.get_current_instance() is outside


class CopiedTrain(Runner):
    """A runner whose ``train`` takes the steps of MMEngine's."""

    def train(self) -> Any:
        assert isinstance(self._train_loop, Mapping) and self._test_loop is None
        self._train_loop = self.build_train_loop(self._train_loop)
        self.optim_wrapper = self.build_optim_wrapper(self.optim_wrapper)
        self.scale_lr(self.optim_wrapper, self.auto_scale_lr)
        self.param_schedulers = self.build_param_scheduler(self.param_schedulers)
        self._val_loop = self.build_val_loop(self._val_loop)
        self.call_hook("before_run")
        self._init_model_weights()
        self.load_or_resume()
        self.optim_wrapper.initialize_count_status(self.model, self._train_loop.iter, self._train_loop.max_iters)
        self._maybe_compile("train_step")
        model = self.train_loop.run()
        self.call_hook("after_run")
        return model


def test_a_train_method_copied_from_mmengine(tmp_path: Path) -> None:
    done = []
    for cls, resume, epochs in ((Runner, False, 2), (CopiedTrain, False, 1), (CopiedTrain, True, 2)):
        runner = make_runner(
            tmp_path / cls.__name__, checkpoint=dict(interval=1), metric=Scripted(acc=[1, 2]), resume=resume,
            train_cfg=dict(max_epochs=epochs), param_scheduler=dict(type="ExponentialLR", gamma=0.5),
        )  # fmt: skip
        runner.__class__ = cls
        runner.train()
        done.append((runner.iter, runner.optim_wrapper.get_lr()["lr"], runner.model.fc.weight))
    assert done[1][0] == 2 and done[2][:2] == done[0][:2] == (4, [0.05])
    assert torch.equal(done[2][2], done[0][2])


def test_a_loop_of_ones_own(tmp_path: Path) -> None:
    @LOOPS.register_module(force=True)
    class TwiceLoop(EpochBasedTrainLoop):
        """Train twice on every batch."""

        def run_iter(self, idx: int, data_batch: Any) -> None:
            super().run_iter(idx, data_batch)
            super().run_iter(idx, data_batch)

    runner = make_runner(tmp_path, train_cfg=dict(type="TwiceLoop", max_epochs=2))
    runner.train()
    assert runner.iter == 8
    assert runner.epoch == 2


def test_validation_losses(tmp_path: Path) -> None:
    data = torch.utils.data.TensorDataset(torch.randn(10, 4), torch.randint(3, (10,)))
    loader = dict(dataset=data, batch_size=4, collate_fn="default_collate")
    runner = Runner(
        ImageClassifier(MLP(4, 3), data_preprocessor=dict(type="BaseDataPreprocessor")), str(tmp_path),
        val_dataloader=loader, val_cfg=dict(with_loss=True), val_evaluator=dict(type="Accuracy"),
    )  # fmt: skip
    metrics = runner.val()
    with torch.no_grad():
        logits = runner.model(data.tensors[0])
    assert metrics["loss"] == pytest.approx(float(nn.functional.cross_entropy(logits, data.tensors[1])))
    assert metrics["accuracy/top1"] == pytest.approx(100 * float((logits.argmax(1) == data.tensors[1]).float().mean()))


def test_learning_rate_scales_with_the_batch_size(tmp_path: Path) -> None:
    runner = make_runner(tmp_path, auto_scale_lr=dict(enable=True, base_batch_size=16), lr=0.4)
    runner.train()
    assert runner.optim_wrapper.get_lr()["lr"] == [pytest.approx(0.1)]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            dict(train_cfg=dict(by_epoch=True, max_epochs=1), train_dataloader={}),
            "optim_wrapper: missing, though",
        ),
        (dict(val_cfg={}), "val_dataloader: missing, though val_cfg is set"),
        (dict(param_scheduler=dict(type="StepLR", step_size=1)), "param_scheduler: there is no optimizer"),
    ],
)
def test_parts_that_do_not_belong_together(tmp_path: Path, options: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Runner(Line(), str(tmp_path), **options)


def test_what_a_run_cannot_do_is_an_error(tmp_path: Path) -> None:
    runner = Runner(Line(), str(tmp_path))
    with pytest.raises(ConfigError, match=r"train_cfg: missing, so this run cannot train"):
        runner.train()
    with pytest.raises(ConfigError, match="train_cfg.by_epoch: False contradicts the type: EpochBased"):
        make_runner(tmp_path, train_cfg=dict(type="EpochBasedTrainLoop", by_epoch=False, max_epochs=1)).train()
    with pytest.raises(ConfigError, match="train_cfg.max_epochs: must be an integer"):
        make_runner(tmp_path, train_cfg=dict(max_epochs=1.5)).train()
    with pytest.raises(ConfigError, match="is not a hook"):
        make_runner(tmp_path, [nn.Linear(1, 1)])


def test_a_hooks_own_priority_can_be_overridden(tmp_path: Path) -> None:
    runner = make_runner(tmp_path, [dict(type="EMAHook", priority="VERY_LOW"), StopAt(101)])
    names = [type(hook).__name__ for hook in runner.hooks]
    assert names.index("EMAHook") > names.index("LoggerHook")


@pytest.mark.parametrize("by_epoch", [True, False])
def test_an_empty_loader_is_an_error_and_no_endless_loop(tmp_path: Path, by_epoch: bool) -> None:
    cfg = dict(by_epoch=True, max_epochs=1) if by_epoch else dict(by_epoch=False, max_iters=1)
    loader = dict(drop_last=True)
    with pytest.raises((ConfigError, RuntimeError), match="no batch"):
        make_runner(tmp_path, train_cfg=cfg, dataset=Points(3), train_dataloader=loader).train()


def test_activation_checkpointing_and_compile_are_switches_of_the_config(tmp_path: Path) -> None:
    cfg = Config(dict(activation_checkpointing=["fc"], compile=dict(backend="eager")))
    runner = make_runner(tmp_path, cfg=cfg)
    plain = make_runner(tmp_path)
    runner.train()
    plain.train()
    assert list(runner.model.state_dict()) == list(plain.model.state_dict())
    assert torch.allclose(runner.model.fc.weight, plain.model.fc.weight)


def test_parts_of_the_default_scope_are_found_wherever_they_are_built(tmp_path: Path) -> None:
    """Attributes of a Runner before a run: the visualizer, the log processor, data loaders and hooks."""
    made: dict[str, Any] = {}
    bases = {
        registries.VISUALIZERS: "Visualizer",
        registries.LOG_PROCESSORS: "LogProcessor",
        registries.HOOKS: "IterTimerHook",
        registries.DATA_SAMPLERS: "DefaultSampler",
    }
    children = {}
    for root, base in bases.items():
        children[base] = registries.Registry(root.name, parent=root, scope="tw_scope")
        made[base] = type(f"Scoped{base}", (root.get(base),), {})
        children[base].register_module(module=made[base])
    try:
        runner = make_runner(
            tmp_path,
            default_scope="tw_scope",
            visualizer=dict(type="ScopedVisualizer"),
            log_processor=dict(type="ScopedLogProcessor"),
            train_dataloader=dict(sampler=dict(type="ScopedDefaultSampler")),
        )
        assert type(runner.visualizer) is made["Visualizer"] and type(runner.log_processor) is made["LogProcessor"]
        assert type(runner.register_hook(dict(type="ScopedIterTimerHook"))) is made["IterTimerHook"]
        assert runner.train_dataloader is not None
    finally:
        for root in bases:
            del root.children["tw_scope"]


@pytest.mark.parametrize("in_the_way", ["a file", "no folders can be made there"])
def test_a_work_dir_that_cannot_be_made_is_named(tmp_path: Path, in_the_way: str) -> None:
    (tmp_path / "file").touch()
    folder = tmp_path / "file" / "run" if in_the_way == "a file" else Path("/proc/run")
    with pytest.raises(ConfigError, match="(?s)^work_dir: the folder .*run' cannot be written to: .*--work-dir"):
        make_runner(folder)


@pytest.mark.parametrize(
    ("device", "message"),
    [
        ("gpu", "device: .*'gpu'\n.*'cuda'"),
        ("cuda:99", "device: .*'cuda:99' not found"),
        ("xpu", "device: .*'xpu' not found"),
    ],
)
def test_a_device_that_is_not_there_is_named(tmp_path: Path, device: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make_runner(tmp_path, device=device)


def test_a_batch_of_one_before_batch_norm_is_foretold_and_explained(tmp_path: Path) -> None:
    runner = make_runner(tmp_path, dataset=Points(5), model=Line(batch_norm=True))
    with pytest.raises(ConfigError, match="(?s)train_dataloader: .*per channel.*drop_last=True") as caught:
        runner.train()
    assert isinstance(caught.value.__cause__, ValueError)
    assert re.search("last batch of an epoch .*BatchNorm1d .*drop_last=True", log_of(runner))


@pytest.mark.parametrize(
    ("samples", "batch_norm", "loader"),
    [(5, True, {"drop_last": True}), (6, True, {}), (5, False, {}), (1, False, {"batch_size": 1})],
)
def test_other_last_batches_train_without_a_word(tmp_path: Path, samples: int, batch_norm: bool, loader: Any) -> None:
    runner = make_runner(tmp_path, dataset=Points(samples), model=Line(batch_norm=batch_norm), train_dataloader=loader)
    runner.train()
    assert "one sample" not in log_of(runner)
