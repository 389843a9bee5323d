"""Several optimizers from a config: what each trains, when it updates, and exact resume."""

from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoint_bits import different_bits
from ranks import run_group
from tiny_runs import Points, StopAt, log_of
from torch import Tensor, nn

from trainwright.engine.checking import check
from trainwright.engine.config.config import Config
from trainwright.engine.errors import ConfigError, TrainingError
from trainwright.engine.optim.constructor import build_optim_wrapper
from trainwright.engine.optim.wrapper_dict import OptimWrapperDict
from trainwright.engine.registry import MODELS
from trainwright.engine.run.runner import Runner
from trainwright.models.base import BaseModel
from trainwright.tools.cli import main

functional = nn.functional
ADAM = {"type": "Adam", "lr": 0.01}
SGD = {"type": "SGD", "lr": 0.1}


class Adversarial(BaseModel):
    """A generator and a discriminator of points, whose losses come from one forward pass."""

    def __init__(self, by_name: bool = True) -> None:
        super().__init__()
        self.generator = nn.Sequential(nn.Linear(2, 4), nn.Tanh(), nn.Linear(4, 2))
        self.discriminator = nn.Sequential(nn.Linear(2, 4), nn.Tanh(), nn.Linear(4, 1))
        self.by_name = by_name

    def forward(self, inputs: Tensor, data_samples: Any = None, mode: str = "tensor") -> Any:
        made = self.generator(inputs)
        if mode != "loss":
            return made
        fooled, real, fake = (self.discriminator(points).float() for points in (made, inputs, made.detach()))
        losses = {
            "generator": {"loss": functional.softplus(-fooled).mean()},
            "discriminator": {
                "loss_real": functional.softplus(-real).mean(),
                "loss_fake": functional.softplus(fake).mean(),
            },
        }
        if self.by_name:
            return losses
        return {f"loss_{index}": loss for index, each in enumerate(losses.values()) for loss in each.values()}


class Alternating(Adversarial):
    """The same with its own step, in which the discriminator updates twice.

    Args:
        careful: keep the loss of the generator from changing the gradients of the discriminator.
    """

    def __init__(self, careful: bool = True) -> None:
        super().__init__()
        self.careful = careful

    def train_step(self, data: Any, optim_wrapper: Any) -> dict[str, Tensor]:
        data = self.data_preprocessor(data, True)
        for name in ("discriminator", "discriminator", "generator"):
            self.discriminator.requires_grad_(name == "discriminator" or not self.careful)
            losses = self(*data, mode="loss")[name]
            optim_wrapper[name].update_params(self.parse_losses(losses)[0])
        return {"loss": self.parse_losses(losses)[0]}


for model in (Adversarial, Alternating):
    MODELS.register_module(name=f"Test{model.__name__}", module=model)


def several(**changes: Any) -> dict[str, Any]:
    return {
        "constructor": "MultiOptimWrapperConstructor",
        "generator": {"optimizer": ADAM, **changes.pop("generator", {})},
        "discriminator": {"optimizer": SGD, **changes.pop("discriminator", {})},
        **changes,
    }


def config(work_dir: Path, optim_wrapper: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return {
        "model": {"type": "TestAdversarial"},
        "work_dir": str(work_dir),
        "train_dataloader": {"dataset": Points(20), "batch_size": 4, "collate_fn": {"type": "default_collate"}},
        "train_cfg": {"max_epochs": 2},
        "optim_wrapper": optim_wrapper,
        "randomness": {"seed": 0},
        **changes,
    }


def weights_of(runner: Runner) -> dict[str, Tensor]:
    model = getattr(runner.model, "module", runner.model)
    return {name: value.detach().clone() for name, value in model.named_parameters()}


def by_hand(data: list[Any], interval: int, counts: int) -> Adversarial:
    """Train as a loop written by hand: the generator has its own interval and windows, cut at the end of the data."""
    torch.manual_seed(0)
    model = Adversarial()
    optimizers = {
        "generator": torch.optim.Adam(model.generator.parameters(), 0.01),
        "discriminator": torch.optim.SGD(model.discriminator.parameters(), 0.1),
    }
    windows = [list(range(interval, len(data) + 1, interval))[i : i + counts] for i in range(0, len(data), counts)]
    for iteration, batch in enumerate(data, start=1):
        totals = {name: sum(each.values()) for name, each in model(*batch, mode="loss").items()}
        window = next((window for window in windows if iteration in window), [])
        for name, length in (("generator", len(window)), ("discriminator", 1)):
            params = list(getattr(model, name).parameters())
            for param, grad in zip(
                params, torch.autograd.grad(totals[name] / max(length, 1), params, retain_graph=True)
            ):
                if length:
                    param.grad = grad if param.grad is None else param.grad + grad
        for name, is_due in (("generator", bool(window) and iteration == window[-1]), ("discriminator", True)):
            if is_due:
                optimizers[name].step()
                optimizers[name].zero_grad()
    return model


@pytest.mark.parametrize(("interval", "counts"), [(1, 1), (3, 1), (2, 2), (1, 4)])
def test_each_optimizer_updates_at_its_own_interval(interval: int, counts: int) -> None:
    data = [(torch.randn(4, 2, generator=torch.Generator().manual_seed(i)), torch.zeros(4)) for i in range(10)]
    torch.manual_seed(0)
    model = Adversarial()
    wrappers = build_optim_wrapper(
        model, several(generator={"interval": interval, "accumulative_counts": counts, "optimizer": ADAM})
    )
    wrappers.initialize_count_status(model, 0, len(data))
    for iteration, batch in enumerate(data):
        logs = model.train_step(batch, wrappers)
        assert wrappers.has_completed(iteration + 1) == wrappers["generator"].should_update()
    assert list(logs) == ["loss", "generator.loss", "discriminator.loss", "discriminator.loss_real", "discriminator.loss_fake"]  # fmt: skip
    torch.testing.assert_close(logs["loss"], logs["generator.loss"] + logs["discriminator.loss"])
    assert wrappers["generator"].inner_count == 10 // interval
    for (name, ours), theirs in zip(model.named_parameters(), by_hand(data, interval, counts).parameters()):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6, msg=name)


def test_losses_without_names_train_all_parts() -> None:
    data = torch.randn(4, 2), torch.zeros(4)
    models = [Adversarial(by_name=False) for _ in range(2)]
    models[1].load_state_dict(models[0].state_dict())
    one = build_optim_wrapper(models[0], {"optimizer": SGD})
    both = build_optim_wrapper(models[1], several(generator={"optimizer": SGD}))
    for _ in range(3):
        logs = [model.train_step(data, wrapper) for model, wrapper in zip(models, (one, both))]
        assert logs[0].keys() == logs[1].keys()
    for ours, theirs in zip(*(model.parameters() for model in models)):
        torch.testing.assert_close(ours, theirs)


class Plain(nn.Module):
    """A plain module with two parts, whose losses have names of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.generator, self.discriminator = nn.Linear(2, 2), nn.Linear(2, 1)

    def forward(self, inputs: Tensor, targets: Tensor) -> dict[str, dict[str, Tensor]]:
        made = self.discriminator(self.generator(inputs))
        return {"generator": {"fooled": made.mean()}, "discriminator": {"error": (made.mean() - 1).square()}}


def test_a_plain_module_returns_losses_by_optimizer(tmp_path: Path) -> None:
    cfg = config(tmp_path, several(generator={"interval": 2}))
    runner = Runner.from_cfg({**cfg, "model": Plain()})
    before = weights_of(runner)
    runner.train()
    after = weights_of(runner)
    assert not any(torch.equal(value, after[name]) for name, value in before.items())
    assert "generator.loss_fooled: " in log_of(runner)
    assert "discriminator.loss_error: " in log_of(runner)


class Parts(nn.Module):
    """A model with nested parts, and a parameter of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.ModuleDict({"first": nn.Linear(2, 2), "second": nn.Linear(2, 2)})
        self.head = nn.Linear(2, 1)
        self.scale = nn.Parameter(torch.ones(1))
        self.empty = nn.ReLU()


def test_parts_are_selected_by_dotted_names_and_lists() -> None:
    wrappers = build_optim_wrapper(
        Parts(),
        {
            "constructor": "MultiOptimWrapperConstructor",
            "body.first": {
                "optimizer": {**SGD, "weight_decay": 0.5},
                "paramwise_cfg": {"custom_keys": {"first.weight": {"lr_mult": 2}}},
                "clip_grad": {"max_norm": 1},
            },
            "rest": {
                "type": "AmpOptimWrapper", "dtype": "bfloat16", "optimizer": ADAM,
                "modules": ["scale", "head", "body.second"],
            },
        },
    )  # fmt: skip
    assert isinstance(wrappers, OptimWrapperDict)
    assert wrappers.get_lr() == {"body.first.base_lr": [0.1], "body.first.lr": [0.2, 0.1], "rest.lr": [0.01]}
    assert wrappers["rest"].param_names == [
        "scale",
        "head.weight",
        "head.bias",
        "body.second.weight",
        "body.second.bias",
    ]
    assert wrappers["body.first"].grad_name == "body.first.grad_norm"


ALL = {"body": {"optimizer": SGD}, "head": {"optimizer": SGD}, "scale": {"optimizer": SGD}}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hed": ALL["head"]}, r"optim_wrapper.hed: Parts has no submodule 'hed'\n.*did you mean 'head'\?"),
        (
            {"head": {"optimizer": SGD, "modules": ["body.secnd"]}},
            r"head.modules: .* 'body.secnd'\n.*mean 'body.second'",
        ),
        ({"body.second": ALL["head"]}, "body.second: body.second.weight belongs to the wrapper 'body', too"),
        ({"empty": ALL["head"]}, "optim_wrapper.empty: empty has no parameters"),
        ({"scale": None, "head": None}, "no optimizer trains scale, head.weight, head.bias\n.*freeze them"),
        ({"head": {"optimizr": SGD}}, r"optim_wrapper.head: 'optimizer' is missing\n.*did you mean 'optimizr'"),
        ({"head": {"optimizer": {**SGD, "lrr": 1}}}, r"optim_wrapper.head.optimizer.lrr"),
        ({"head": {"optimizer": SGD, "paramwise_cfg": {"x": 1}}}, r"optim_wrapper.head.paramwise_cfg.x: unknown key"),
        ({"head": {"optimizer": SGD, "interval": 0}}, "optim_wrapper.head.interval: must be an integer of at least 1"),
        ({"optimizer": SGD}, r"optim_wrapper.optimizer: .* by name\n.*dict\(name=dict\(optimizer=...\)\)"),
        ({"paramwise_cfg": {"norm_decay_mult": 0}}, "optim_wrapper.paramwise_cfg: .* by name"),
        ({"head": 0.1}, "optim_wrapper.head: expected the config of an optimizer wrapper, not 0.1"),
        (dict.fromkeys(ALL), "there is no optimizer wrapper"),
    ],
)
def test_mistakes_are_named(changes: dict[str, Any], message: str) -> None:
    cfg = {name: wrapper for name, wrapper in {**ALL, **changes}.items() if wrapper is not None}
    with pytest.raises(ConfigError, match=message):
        build_optim_wrapper(Parts(), {"constructor": "MultiOptimWrapperConstructor", **cfg})


def test_losses_must_belong_to_the_optimizers() -> None:
    model, data = Adversarial(), (torch.randn(4, 2), torch.zeros(4))
    wrappers = build_optim_wrapper(model, several())
    forward = model.forward
    for losses, message in (
        (lambda losses: {"genrator": losses["generator"]}, "losses for genrator, but .* did you mean 'generator'"),
        (lambda losses: {**losses, "generator": losses["discriminator"]}, "'generator' does not depend on any of its"),
        (lambda losses: {**losses, "generator": {"loss": torch.ones(())}}, "the loss of 'generator' has no gradient"),
    ):
        model.forward = lambda *args, losses=losses, **options: losses(forward(*args, **options))  # type: ignore[method-assign]
        with pytest.raises(TrainingError, match=message):
            model.train_step(data, wrappers)


def test_one_forward_pass_has_one_precision() -> None:
    model = Adversarial()
    wrappers = build_optim_wrapper(model, several(generator={"type": "AmpOptimWrapper"}))
    with pytest.raises(ConfigError, match="differ in mixed precision"):
        model.train_step((torch.randn(4, 2), torch.zeros(4)), wrappers)


AMP = {"type": "AmpOptimWrapper", "dtype": "float16"}
EXACT: dict[str, dict[str, Any]] = {
    "forward": {
        "optim_wrapper": several(
            generator={**AMP, "interval": 3, "accumulative_counts": 2, "loss_scale": {"init_scale": 4.0, "growth_interval": 2}},
            discriminator={**AMP, "accumulative_counts": 3, "clip_grad": {"max_norm": 0.1}},
        ),
    },
    "train_step": {
        "model": {"type": "TestAlternating"},
        "optim_wrapper": several(
            generator={"accumulative_counts": 3}, discriminator={"type": "AmpOptimWrapper", "accumulative_counts": 4}
        ),
    },
}  # fmt: skip
SCHEDULES = {
    "generator": [{"type": "LinearLR", "by_epoch": False, "end": 7}],
    "discriminator": [{"type": "StepLR", "step_size": 1}],
}


@pytest.mark.parametrize("kind", EXACT)
def test_a_run_that_is_cut_within_windows_resumes_to_the_same_bits(tmp_path: Path, kind: str) -> None:
    options = {
        **EXACT[kind],
        "param_scheduler": SCHEDULES,
        "custom_hooks": [{"type": "EMAHook"}],
        "auto_scale_lr": {"enable": True, "base_batch_size": 8},
    }
    whole = Runner.from_cfg(config(tmp_path / "whole", **options))
    whole.train()
    assert "generator.lr: 5.0000e-03 discriminator.lr: 5.0000e-03" in log_of(whole)
    unused = "window of optimizer 'generator': the last 1 of its losses had no effect"
    assert (unused in log_of(whole)) == (kind == "train_step")  # otherwise, the last window is shorter
    for stop in (2, 7):
        cut = config(tmp_path / str(stop), **{**options, "custom_hooks": [{"type": "EMAHook"}, StopAt(stop)]})
        Runner.from_cfg(cut).train()
        Runner.from_cfg({**config(tmp_path / str(stop), **options), "resume": True}).train()
        assert not different_bits(tmp_path / "whole" / "epoch_2.pth", tmp_path / str(stop) / "epoch_2.pth")


@pytest.mark.parametrize("careful", [True, False])
def test_gradients_of_another_loss_are_reported(tmp_path: Path, careful: bool) -> None:
    optim_wrapper = several(generator={"interval": 2})
    runner = Runner.from_cfg(config(tmp_path, optim_wrapper, model={"type": "TestAlternating", "careful": careful}))
    runner.train()
    assert "Alternating has its own train_step, which decides when each" in log_of(runner)
    reports = [line for line in log_of(runner).splitlines() if "have gradients of another loss" in line]
    assert len(reports) == (not careful)
    assert careful or "such as discriminator.0.weight, have" in reports[0]


def test_two_processes_train_as_one_with_the_whole_batch(tmp_path: Path) -> None:
    cases = {
        "forward": {"optim_wrapper": several(generator={"interval": 2}, discriminator={"accumulative_counts": 2})},
        "plain": {"model": {"type": "TestAdversarial", "by_name": False}, "optim_wrapper": several()},
        "train_step": {"model": {"type": "TestAlternating"}, "optim_wrapper": several()},
    }

    def train(share: int) -> dict[str, Any]:
        results = {}
        for name, changes in cases.items():
            cfg = config(tmp_path / f"{name} {share}", **changes)
            cfg["train_dataloader"]["batch_size"] //= share
            runner = Runner.from_cfg(cfg)
            runner.train()
            results[name] = weights_of(runner)
        return results

    alone, together = train(1), run_group(2, lambda: train(2), tmp_path)
    for name, weights in alone.items():
        for param, value in weights.items():
            assert torch.equal(together[0][name][param], together[1][name][param])
            torch.testing.assert_close(together[0][name][param], value, rtol=1e-4, atol=1e-5)


def test_the_check_knows_each_wrapper(in_tmp: Path) -> None:
    text = """
model = dict(type="TestAdversarial")
train_dataloader = dict(dataset=dict(type="TwoClouds"), batch_size=4)
train_cfg = dict(max_epochs=1)
optim_wrapper = dict(
    constructor="MultiOptimWrapperConstructor",
    generator=dict(optimizer=dict(type="Adam", lr=1e-3), interval=5),
    discriminator=dict(type="AmpOptimWrapper", optimizer=dict(type="SGD", lr=0.1), modules=["discriminator"]),
)
param_scheduler = dict(generator=[dict(type="StepLR", step_size=1)], discriminator=[])
work_dir = "out"
"""
    for old, new, mistake in (
        ("", "", None),
        ("interval=5", "intervall=5", "my.py:7: optim_wrapper.generator.intervall: OptimWrapper takes no such argument"),
        ("interval=5", "interval=0", "my.py:7: optim_wrapper.generator.interval: must be an integer of at least 1"),
        ("lr=0.1", "lrr=0.1", "my.py:8: optim_wrapper.discriminator.optimizer.lrr: SGD takes no such argument"),
        ("optimizer=dict(type=\"Adam\"", "optimzer=dict(type=\"Adam\"", "optim_wrapper.generator.optimizer: missing"),
        ("MultiOptimWrap", "MultOptimWrap", "optim_wrapper.constructor: 'MultOptimWrapperConstructor' is not registered"),
        ("dict(generator=[", "dict(genrator=[", "my.py:10: param_scheduler: the names ['discriminator', 'genrator']"),
        ('    generator=dict(', "    type='OptimWrapper',\n    generator=dict(", "optim_wrapper.type: the optimizer wrappers are configured by name"),
    ):  # fmt: skip
        Path("my.py").write_text(text.replace(old, new))
        found = [str(error) for error in check(Config.fromfile("my.py"))]
        assert (not found) if mistake is None else any(mistake in error for error in found), found


def test_mixed_precision_from_the_command_line_is_that_of_each(in_tmp: Path) -> None:
    text = """
model = dict(type="TestAdversarial")
train_dataloader = dict(dataset=dict(type="TwoClouds"), batch_size=100, collate_fn=dict(type="default_collate"))
train_cfg = dict(max_epochs=1)
optim_wrapper = dict(
    constructor="MultiOptimWrapperConstructor",
    generator=dict(optimizer=dict(type="SGD", lr=0.1)), discriminator=dict(optimizer=dict(type="SGD", lr=0.1)),
)
"""
    Path("my.py").write_text(text)
    assert main(["train", "my.py", "--amp", "--work-dir", "out"]) == 0
    assert Path("out/my.py").read_text().count("type='AmpOptimWrapper'") == 2
