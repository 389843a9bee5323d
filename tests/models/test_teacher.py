"""Teachers: copies of a part of a model that follow its weights."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from ranks import run_group
from strategy_runs import Samples
from tiny_runs import StopAt, weights_of
from torch import Tensor, nn

from trainwright.engine import AmpOptimWrapper, Hook, MessageHub, Runner
from trainwright.models import BaseModel, MomentumTeacher


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(16, 4), nn.BatchNorm1d(4), nn.Dropout(0.2), nn.Linear(4, 2))

    def forward(self, inputs: Any) -> Any:
        return self.layers(inputs)


class Taught(BaseModel):
    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.student = Net()
        self.teacher = MomentumTeacher(self.student, **options)

    def init_weights(self) -> None:
        for parameter in self.student.parameters():
            nn.init.normal_(parameter)

    def forward(self, inputs: Any, data_samples: Any = None, mode: str = "tensor") -> Any:
        wanted = self.teacher(inputs)
        assert not wanted.requires_grad
        found = self.student(inputs + 0.1 * torch.randn_like(inputs))
        return {"loss": nn.functional.mse_loss(found, wanted) + found.square().mean()}


class Follow(Hook):
    """Keeps the weights of the student and the teacher after each iteration."""

    def __init__(self) -> None:
        self.rows: list[tuple[Tensor, Tensor, int]] = []

    def before_train(self, runner: Runner) -> None:
        self._add(runner)

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        self._add(runner)

    def _add(self, runner: Runner) -> None:
        model = getattr(runner.model, "module", runner.model)
        weights = (part.layers[0].weight.detach().clone() for part in (model.student, model.teacher.module))
        self.rows.append((*weights, int(model.teacher.steps)))


def make(folder: Path, *hooks: Hook, options: Any = None, optim_wrapper: Any = None, **changes: Any) -> Runner:
    return Runner(
        dict(type=Taught, **(options or {})), str(folder),
        train_dataloader=dict(dataset=Samples(16), batch_size=4, collate_fn="default_collate"),
        train_cfg=dict(max_epochs=3),
        optim_wrapper=dict(optimizer=dict(type="SGD", lr=0.1, momentum=0.9), **(optim_wrapper or {})),
        default_hooks=dict(checkpoint=dict(type="CheckpointHook", interval=1)),
        custom_hooks=list(hooks), randomness=dict(seed=0), **changes,
    )  # fmt: skip


def test_a_teacher_starts_as_the_student_and_follows_each_step_of_its_optimizer(tmp_path: Path) -> None:
    follow = Follow()
    make(tmp_path, follow, options=dict(momentum=0.1), optim_wrapper=dict(accumulative_counts=2)).train()
    student, teacher, steps = follow.rows[0]
    assert torch.equal(student, teacher) and steps == 1, "the weights are initialized after the copy is made"
    for iteration, (student, found, steps) in enumerate(follow.rows[1:], 1):
        if iteration % 2 == 0:  # else the gradients are accumulated
            teacher = torch.lerp(teacher, student, 0.1)
        assert torch.equal(found, teacher), iteration
        assert steps == 1 + iteration // 2


@pytest.mark.parametrize(("end_momentum", "gamma"), [(0.0, 0), (0.01, 0), (None, 3), (0.0, 2)])
def test_the_momentum_follows_its_schedule(end_momentum: float | None, gamma: int) -> None:
    hub = MessageHub("a run")
    with MessageHub.set_current(hub):
        hub.update_info("max_iters", 10)
        student = Net()
        teacher = MomentumTeacher(student, 0.2, end_momentum, gamma)
        teacher.update_parameters(student)
        for step in range(1, 10):
            hub.update_info("iter", step)
            before = teacher.module.layers[0].weight.clone()
            nn.init.normal_(student.layers[0].weight)
            teacher.update_parameters(student)
            expected = 0.2
            if end_momentum is not None:
                expected = end_momentum + (0.2 - end_momentum) * 0.5 * (math.cos(math.pi * step / 10) + 1)
            if gamma:
                expected = max(expected, gamma / (gamma + step))
            wanted = before.lerp(student.layers[0].weight, expected)
            torch.testing.assert_close(teacher.module.layers[0].weight, wanted, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("update_buffers", [True, False])
def test_buffers_are_averaged_or_copied(update_buffers: bool) -> None:
    student = Net()
    teacher = MomentumTeacher(student, 0.5, update_buffers=update_buffers)
    teacher.update_parameters(student)
    student.layers[1].running_mean.fill_(1.0)
    teacher.update_parameters(student)
    assert float(teacher.module.layers[1].running_mean[0]) == (0.5 if update_buffers else 1.0)


def test_a_step_that_the_loss_scaler_skips_changes_no_teacher() -> None:
    model = Taught(momentum=0.5)
    optimizer = torch.optim.SGD(model.student.parameters(), lr=0.1)
    wrapper = AmpOptimWrapper(optimizer=optimizer, dtype="float16", loss_scale={"init_scale": 4.0})
    model.teacher.follow([optimizer])
    before = model.teacher.module.layers[0].weight.clone()
    for factor, steps in ((1.0, 2), (math.inf, 2), (1.0, 3)):
        loss = factor * model.student(torch.ones(2, 16)).square().mean()
        wrapper.update_params(loss)
        assert int(model.teacher.steps) == steps
    assert wrapper.loss_scaler.get_scale() == 2.0
    assert model.teacher.module.layers[0].weight.isfinite().all()
    assert not torch.equal(model.teacher.module.layers[0].weight, before)


def test_a_teacher_may_stay_in_evaluation_mode_and_is_never_trained() -> None:
    model = Taught(evaluates=True).train()
    assert not model.teacher.module.training and model.student.training
    assert Taught().train().teacher.module.training
    assert not any(parameter.requires_grad for parameter in model.teacher.parameters())
    assert not any(name.startswith("teacher.student") for name in model.state_dict())


@pytest.mark.parametrize("options", [dict(momentum=1.0), dict(end_momentum=1.0), dict(gamma=-1)])
def test_values_out_of_range_are_refused(options: Any) -> None:
    with pytest.raises(ValueError, match="must"):
        MomentumTeacher(Net(), **options)


def test_a_run_that_was_cut_ends_with_the_same_bits(tmp_path: Path) -> None:
    options = dict(momentum=0.3, end_momentum=0.0, gamma=2)
    whole = make(tmp_path / "whole", options=options)
    whole.train()
    for cut in (3, 7):
        make(tmp_path / "cut", StopAt(cut), options=options, resume="auto").train()
    last = make(tmp_path / "cut", options=options, resume="auto")
    last.train()
    assert "teacher.module.layers.0.weight" in weights_of(last)
    assert all(torch.equal(value, weights_of(whole)[name]) for name, value in weights_of(last).items())
    assert int(last.model.teacher.steps) == 13


def test_a_pretrained_student_gives_its_weights_to_a_teacher_that_the_checkpoint_lacks(tmp_path: Path) -> None:
    first = make(tmp_path / "first")
    first.train()
    weights = {name: value for name, value in first.model.state_dict().items() if name.startswith("student")}
    torch.save({"state_dict": weights}, tmp_path / "student.pth")
    follow = Follow()
    make(tmp_path / "second", follow, load_from=str(tmp_path / "student.pth")).train()
    assert all(torch.equal(part, weights["student.layers.0.weight"]) for part in follow.rows[0][:2])


def test_ranks_have_the_same_teacher_and_resume_exactly(tmp_path: Path) -> None:
    def in_rank() -> Any:
        whole = make(tmp_path / "whole")
        whole.train()
        make(tmp_path / "cut", StopAt(3)).train()
        last = make(tmp_path / "cut", resume=True)
        last.train()
        same = all(torch.equal(value, weights_of(whole)[name]) for name, value in weights_of(last).items())
        return same, {name: value for name, value in weights_of(last).items() if "running" not in name}

    (same, one), (also, other) = run_group(2, in_rank, tmp_path)
    assert same and also
    assert all(torch.equal(value, other[name]) for name, value in one.items())
