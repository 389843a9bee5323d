"""Frozen parts of a model, and checkpoints without them."""

from pathlib import Path
from typing import Any

import pytest
import torch
from ranks import run_group
from strategy_runs import Samples
from tiny_runs import StopAt, log_of, weights_of
from torch import nn

from trainwright.engine import CheckpointError, ConfigError, Runner, check, freeze, load_checkpoint_file
from trainwright.engine.run.model_setup import build_model
from trainwright.models import BaseModel


class Block(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(nn.Linear(16, 16), nn.BatchNorm1d(16), nn.Dropout(0.5))


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer1, self.layer2, self.head = Block(), Block(), nn.Linear(16, 2)
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, inputs: Any) -> Any:
        return self.head(self.layer2(self.layer1(inputs))) * self.scale


@pytest.mark.parametrize(
    ("frozen", "trained", "evaluating"),
    [
        ("layer1", {"layer2", "head", "scale"}, {"layer1"}),
        (["layer*", "scale"], {"head"}, {"layer1", "layer2"}),
        (["layer[12].0", "head.bias"], {"layer1", "layer2", "head", "scale"}, set()),
        (["*"], set(), {"layer1", "layer2", "head"}),
        ([], {"layer1", "layer2", "head", "scale"}, set()),
    ],
)
def test_any_model_has_parts_frozen_by_their_names(frozen: Any, trained: set[str], evaluating: set[str]) -> None:
    model: Any = build_model(dict(type=Net, frozen=frozen))
    model.train().eval()
    model.train()
    network = model.network
    assert {name.split(".")[0] for name, each in network.named_parameters() if each.requires_grad} == trained
    assert {name for name, each in network.named_children() if not each.training} == evaluating
    if "head.bias" in frozen:
        assert not network.head.bias.requires_grad and network.head.weight.requires_grad
        assert not network.layer1[0].weight.requires_grad and network.layer1[1].training


def test_copies_of_a_frozen_model_are_frozen_on_their_own() -> None:
    from copy import deepcopy

    model = Net()
    freeze(model, "layer1")
    copy = deepcopy(model).train()
    assert not copy.layer1.training and copy.layer2.training
    copy.eval()
    assert model.train().layer2.training


@pytest.mark.parametrize(
    ("frozen", "message"),
    [
        (["layr1"], "model.frozen: Net has no submodule or parameter 'layr1'\n    did you mean 'layer1'"),
        (["stage*"], "its submodules are layer1, layer2, head"),
        (dict(names=["layer3"]), "model.frozen.names: Net has no"),
        (dict(name=["layer1"]), "model.frozen.name: unknown key\n    did you mean 'names'"),
        (dict(in_checkpoint=False), "model.frozen.names: missing"),
    ],
)
def test_a_name_that_matches_nothing_is_refused(frozen: Any, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        build_model(dict(type=Net, frozen=frozen))
    assert message in str(caught.value)


def test_check_knows_the_keys_of_any_model() -> None:
    assert check(dict(model=dict(type="LeNet", num_classes=3, frozen=["features"]))) == []
    assert check(dict(model=dict(type="LeNet", frozen=dict(names="features", in_checkpoint=False)))) == []
    errors = check(dict(model=dict(type="LeNet", frozen=dict(names="features", in_chekpoint=False))))
    assert [error.path for error in errors] == ["model.frozen.in_chekpoint"]
    assert "in_checkpoint" in errors[0].hint
    assert [error.path for error in check(dict(model=dict(type="LeNet", frozen=3)))] == ["model.frozen"]


class Distilled(BaseModel):
    """A student, and a teacher with weights from elsewhere, here from a seed."""

    def __init__(self, seed: int = 3) -> None:
        super().__init__()
        self.seed = seed
        self.student, self.teacher = Net(), Net()

    def init_weights(self) -> None:
        for part, seed in ((self.student, 5), (self.teacher, self.seed)):
            generator = torch.Generator().manual_seed(seed)
            for parameter in part.parameters():
                nn.init.normal_(parameter, std=0.3, generator=generator)

    def forward(self, inputs: Any, data_samples: Any = None, mode: str = "tensor") -> Any:
        if mode == "tensor":
            return self.student(inputs)
        if mode == "predict":
            return list(self.student(inputs))
        with torch.no_grad():
            wanted = self.teacher(inputs)
        return {"loss": nn.functional.mse_loss(self.student(inputs), wanted)}


def make(folder: Path, *hooks: Any, seed: int = 3, saved: bool = False, **options: Any) -> Runner:
    return Runner(
        dict(type=Distilled, seed=seed, frozen=dict(names="teacher", in_checkpoint=saved)), str(folder),
        train_dataloader=dict(dataset=Samples(16), batch_size=4, collate_fn="default_collate"),
        train_cfg=dict(max_epochs=3), optim_wrapper=dict(optimizer=dict(type="SGD", lr=0.05, momentum=0.9)),
        default_hooks=dict(checkpoint=dict(type="CheckpointHook", interval=1, max_keep_ckpts=1)),
        custom_hooks=list(hooks), randomness=dict(seed=0), **options,
    )  # fmt: skip


@pytest.mark.parametrize("average", [False, True])
def test_a_run_resumes_exactly_without_the_frozen_weights_in_its_checkpoints(tmp_path: Path, average: bool) -> None:
    hooks = [dict(type="EMAHook", momentum=0.1, strict_load=True)] if average else []
    whole = make(tmp_path / "whole", *hooks, saved=True)
    whole.train()
    make(tmp_path / "cut", *hooks, StopAt(6)).train()
    saved = load_checkpoint_file(tmp_path / "cut" / "iter_6.pth")
    names = [*saved["state_dict"], *saved.get("ema_state_dict", ())]
    assert names and not any("teacher" in name for name in names)
    last = make(tmp_path / "cut", *hooks, resume=True)
    last.train()
    assert [n for n, value in weights_of(last).items() if not torch.equal(value, weights_of(whole)[n])] == []
    assert "Not all weights" not in log_of(last) and "partially" not in log_of(last)
    one, other = (load_checkpoint_file(tmp_path / name / "epoch_3.pth") for name in ("whole", "cut"))
    for key in ("state_dict", *(["ema_state_dict"] if average else [])):
        assert all(torch.equal(value, one[key][name]) for name, value in other[key].items())
    averages = [[hook.ema_model for hook in runner.hooks if hasattr(hook, "ema_model")] for runner in (whole, last)]
    for one, other in zip(*averages):  # the average of the frozen weights, which no checkpoint has, too
        assert all(torch.equal(value, one.state_dict()[name]) for name, value in other.state_dict().items())


def test_ranks_have_the_same_frozen_weights_and_resume_exactly(tmp_path: Path) -> None:
    def in_rank() -> Any:
        whole = make(tmp_path / "whole")
        whole.train()
        make(tmp_path / "cut", StopAt(3)).train()
        last = make(tmp_path / "cut", resume="auto")
        last.train()
        return weights_of(whole), weights_of(last)

    (whole, last), other = run_group(2, in_rank, tmp_path)
    for weights in (last, *other):
        assert weights.keys() == whole.keys()
        different = [name for name, value in weights.items() if not torch.equal(value, whole[name])]
        assert all("student" in name and "running" in name for name in different), "statistics are those of a rank"
    assert any("teacher" in name for name in whole)


def test_other_frozen_weights_than_before_are_refused(tmp_path: Path) -> None:
    make(tmp_path, StopAt(6)).train()
    with pytest.raises(CheckpointError, match=r"frozen weights that the checkpoint leaves out \(teacher.*are not"):
        make(tmp_path, seed=4, resume=True).train()


def test_weights_are_loaded_without_a_word_about_those_left_out(tmp_path: Path) -> None:
    make(tmp_path, StopAt(6)).train()
    runner = make(tmp_path / "tested", load_from=str(tmp_path / "iter_6.pth"))
    runner.load_or_resume()
    assert "Loaded the weights of" in log_of(runner) and "Not all weights" not in log_of(runner)
