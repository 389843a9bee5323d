"""Sharded models: their units, their initialization, and settings that are refused. Here mostly in one process."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from ranks import in_group
from strategy_runs import Net, Samples, config
from torch import Tensor, nn

from trainwright.engine.checking import check
from trainwright.engine.errors import ConfigError
from trainwright.engine.optim.optimizers import build_optimizer
from trainwright.engine.run.runner import Runner
from trainwright.engine.strategy import shards
from trainwright.engine.strategy.fsdp import FSDP2
from trainwright.engine.strategy.tensor_parallel import parallelize
from trainwright.models.averaging import ExponentialMovingAverage

CPU = torch.device("cpu")


def placed(model: nn.Module, **options: Any) -> nn.Module:
    return FSDP2(**options).place(model, CPU, False)


def units(model: nn.Module) -> list[str]:
    return [name for name, module in model.named_modules() if hasattr(module, "unshard")]


UNITS: list[tuple[dict[str, Any], list[str]]] = [
    ({}, [""]),
    ({"wrap": "Block"}, ["", "blocks.0", "blocks.1"]),
    ({"wrap": ["blocks.1", "he*d"]}, ["", "blocks.1", "head"]),
    ({"min_params": 600}, ["", "blocks.0", "blocks.1"]),
    ({"min_params": 500}, ["", "blocks.0.fc1", "blocks.0.fc2", "blocks.1.fc1", "blocks.1.fc2"]),
]


@in_group
def test_units_are_chosen_by_class_name_or_size() -> None:
    for options, expected in UNITS:
        model = placed(Net(), **options)
        assert units(model) == expected
        assert all(shards.is_sharded(param) for param in model.parameters())
    # attention uses the weights of its layers directly, so it is not divided
    model = nn.Sequential(nn.MultiheadAttention(16, 2), nn.Linear(16, 16))
    assert units(placed(model, min_params=200)) == ["", "0", "1"]


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"wrap": "Blok"}, r"strategy.wrap: the model has no module 'Blok'\n.*'Block'"),
    ({"wrap": "parts"}, r"strategy.wrap: parts \(ModuleList\).*\n.*'parts.\*'"),
    ({"replicate": 2}, r"strategy.replicate: 2 .* 1 processes"),
    ({"mixed_precision": "half"}, r"mixed_precision.param_dtype: 'half'"),
    ({"mixed_precision": {"parm_dtype": "bfloat16"}}, r"mixed_precision.parm_dtype: .*\n.*param_dtype"),
    ({"tensor_parallel": {"size": 2, "plan": {"*": "colwise"}}}, r"tensor_parallel.size: 2 .* 1 processes"),
    ({"tensor_parallel": {"size": 1}}, r"tensor_parallel.plan: missing"),
    ({"tensor_parallel": {"sise": 1}}, r"tensor_parallel.sise: .*\n.*size"),
    ({"tensor_parallel": {"size": 1, "plan": {"*.fc": "colwise"}}}, r"plan.\*.fc: no module"),
    ({"tensor_parallel": {"size": 1, "plan": {"head": "columns"}}}, r"plan.head: unknown style 'columns'"),
    ({"tensor_parallel": {"size": 1, "plan": {"conv": "colwise"}}}, r"plan.conv: conv \(Conv1d\)"),
    (
        {"tensor_parallel": {"size": 1, "plan": {"head": {"style": "colwise", "input": "shard"}}}},
        r"plan.head.input: must be 'replicate' or a dimension",
    ),
]


@in_group
def test_wrong_settings_are_refused() -> None:
    for options, message in REFUSED:
        model = Net()
        model.parts = nn.ModuleList()
        with pytest.raises(ConfigError, match=message):
            placed(model, **options)
    model = Net()
    model.blocks[1].fc1.weight = model.blocks[0].fc1.weight
    with pytest.raises(ConfigError, match=r"blocks.0.fc1.weight is also blocks.1.fc1.weight"):
        placed(model, wrap="Block")


def test_layers_that_cannot_be_split_evenly_are_refused() -> None:
    mesh = SimpleNamespace(size=lambda: 3)
    with pytest.raises(ConfigError, match=r"plan.head: head.weight has 16 columns, not a multiple of 3"):
        parallelize(Net(), mesh, {"head": {"style": "rowwise"}})


@pytest.mark.slow
@in_group
def test_a_parameter_shared_within_a_unit_stays_shared() -> None:
    model = Net()
    model.blocks[1].fc1.weight = model.blocks[0].fc1.weight
    placed(model)
    gathered = shards.gather_whole(model.state_dict())
    assert gathered["blocks.1.fc1.weight"] is gathered["blocks.0.fc1.weight"]
    with shards.whole_weights(model):
        assert model.blocks[1].fc1.weight is model.blocks[0].fc1.weight


@pytest.mark.parametrize(
    ("changes", "place"),
    [
        ({"find_unused_parameters": True}, "find_unused_parameters"),
        ({"model_wrapper_cfg": {"type": "MMDistributedDataParallel"}}, "model_wrapper_cfg"),
        ({"env_cfg": {"channels_last": True}}, "env_cfg.channels_last"),
        ({"optim_wrapper": {"optimizer": {"type": "LBFGS"}}}, "optim_wrapper.optimizer.type"),
        ({"strategy": {"type": "FSDP2", "warp": "Block"}}, "strategy.warp"),
        ({"strategy": {"type": "FSDP2", "mixed_precision": "half"}}, "strategy.mixed_precision.param_dtype"),
        ({"strategy": {"type": "FSDP2", "tensor_parallel": {"size": 2}}}, "strategy.tensor_parallel.plan"),
    ],
)
def test_settings_without_effect_are_found_by_check(tmp_path: Path, changes: dict[str, Any], place: str) -> None:
    cfg = config(tmp_path, **{"strategy": "FSDP2", **changes})
    assert [error.path for error in check(cfg)] == [place]
    assert not check(config(tmp_path, {"type": "FSDP2", "wrap": "Block", "cpu_offload": True}))


@in_group
def test_optimizers_without_a_sharded_step_are_refused() -> None:
    params = list(placed(Net()).parameters())
    assert build_optimizer(params, {"type": "AdamW"}).defaults["fused"]
    assert build_optimizer(params, {"type": "SGD", "lr": 0.1}).defaults["foreach"]
    for cfg in ({"type": "Rprop"}, {"type": "SGD", "lr": 0.1, "fused": True}):
        with pytest.raises(ConfigError, match=rf"{cfg['type']} does not work with the sharded parameters"):
            build_optimizer(params, cfg)
    with pytest.raises(ValueError, match="Invalid learning rate"):
        build_optimizer(params, {"type": "SGD", "lr": -1.0})


class OwnInitialization(Net):
    """A model whose constructor initializes a weight itself."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.scale = nn.Parameter(torch.ones(3))
        nn.init.zeros_(self.head.weight)
        self.register_buffer("mean", torch.arange(3.0))


@in_group
def test_parameters_on_meta_get_the_weights_of_an_ordinary_initialization(tmp_path: Path) -> None:
    weights = []
    for meta in (False, True):
        runner = Runner.from_cfg({**config(tmp_path / str(meta), {"type": "FSDP2", "meta": meta}, max_epochs=0)})
        assert all(param.is_meta is False for param in runner.model.parameters())
        runner._begin()
        runner.load_or_resume()
        weights.append(shards.gather_whole(runner.model.state_dict()))
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


@in_group
def test_an_initialization_that_cannot_be_repeated_is_refused(tmp_path: Path) -> None:
    strategy = {"type": "FSDP2", "meta": True}
    cfg = config(tmp_path, strategy, model={"type": OwnInitialization})
    with pytest.raises(ConfigError, match="strategy.meta: .* head.weight, scale "):
        Runner.from_cfg(cfg).train()
    cfg["model"]["init_cfg"] = {"type": "Constant", "val": 2.0, "layer": "Linear"}
    with pytest.raises(ConfigError, match="strategy.meta: .* scale "):
        Runner.from_cfg(cfg).train()
    assert Runner.from_cfg(cfg).model.mean.tolist() == [0, 1, 2]


@pytest.mark.slow
@in_group
def test_gradients_are_clipped_by_the_norm_over_all_meshes() -> None:
    model, same = Net(), Net()
    same.load_state_dict(model.state_dict())
    placed(model, wrap="Block", tensor_parallel={"size": 1, "plan": {"blocks.*.fc1": "colwise"}})
    assert len(shards.by_mesh(list(model.parameters()))) == 2
    samples = Samples(8)
    norms = []
    for each, clip in ((model, shards.clip_grad_norm_), (same, nn.utils.clip_grad_norm_)):
        each(samples.inputs, samples.labels, mode="loss")["loss"].backward()
        norms.append(clip(list(each.parameters()), 0.1))
    assert type(norms[0]) is Tensor
    torch.testing.assert_close(*norms)
    for one, other in zip(model.parameters(), same.parameters()):
        torch.testing.assert_close(shards.whole(one.grad), other.grad)
    model.head.bias.grad.mul_(torch.inf)
    with pytest.raises(RuntimeError, match="not finite"):
        shards.clip_grad_norm_(list(model.parameters()), 1.0, error_if_nonfinite=True)
    shards.clip_grad_value_(list(model.parameters()), 1e-3)
    assert max(float(shards.local(param.grad).nan_to_num().abs().max()) for param in model.parameters()) <= 1.1e-3


@pytest.mark.slow
@in_group
def test_the_average_of_a_sharded_model_has_its_names_and_cannot_be_called() -> None:
    model = placed(Net())
    average = ExponentialMovingAverage(model, momentum=0.5)
    assert average.module.state_dict().keys() == model.state_dict().keys()
    average.update_parameters(model)
    with torch.no_grad():
        shards.local(model.head.bias).add_(2)
    average.update_parameters(model)
    difference = shards.whole(model.head.bias) - shards.whole(average.module.head.bias)
    assert difference.tolist() == pytest.approx([1.0] * 5)
    with pytest.raises(RuntimeError, match="sharded"):
        average(torch.zeros(1, 16))
