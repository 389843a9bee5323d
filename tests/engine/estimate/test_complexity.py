"""Operations, activations and parameters. The numbers of networks are those of MMEngine 0.10.7."""

from collections import Counter, OrderedDict
from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional

from trainwright.engine import get_model_complexity_info
from trainwright.engine.estimate.complexity import (
    ActivationAnalyzer,
    FlopAnalyzer,
    activation_count,
    flop_count,
    parameter_count,
)
from trainwright.engine.estimate.complexity_table import format_size, parameter_count_table

ATTENTION = "scaled_dot_product_attention"


class Call(nn.Module):
    """A module that calls a function."""

    def __init__(self, function: Any) -> None:
        super().__init__()
        self.function = function

    def forward(self, *inputs: Tensor) -> Any:
        return self.function(*inputs)


def ones(*shape: int) -> Tensor:
    return torch.ones(shape)


# module, inputs, operations and activations, counted by hand
CASES: dict[str, tuple[nn.Module, tuple[Tensor, ...], dict[str, int], dict[str, int]]] = {
    "conv": (nn.Conv2d(4, 6, 3, groups=2), (ones(2, 4, 5, 5),), {"conv": 2 * 6 * 2 * 9 * 9}, {"conv": 2 * 6 * 9}),
    "transposed": (nn.ConvTranspose2d(4, 6, 3), (ones(1, 4, 5, 5),), {"conv": 4 * 6 * 9 * 25}, {"conv": 6 * 49}),
    "linear": (nn.Linear(4, 6), (ones(2, 3, 4),), {"linear": 6 * 24}, {"linear": 36}),
    "no bias": (nn.Linear(4, 6, bias=False), (ones(2, 4),), {"linear": 48}, {"linear": 12}),
    "matmul": (Call(torch.matmul), (ones(2, 3, 4), ones(2, 4, 5)), {"matmul": 120}, {"matmul": 30}),
    "@": (Call(lambda a, b: a @ b), (ones(3, 4), ones(4, 5)), {"matmul": 60}, {"matmul": 15}),
    "bmm": (Call(torch.bmm), (ones(2, 3, 4), ones(2, 4, 5)), {"bmm": 120}, {"bmm": 30}),
    "addmm": (Call(torch.addmm), (ones(5), ones(3, 4), ones(4, 5)), {"addmm": 60}, {"addmm": 15}),
    "einsum": (
        Call(lambda a, b: torch.einsum("nct,ncp->ntp", a, b)),
        (ones(2, 3, 4), ones(2, 3, 5)),
        {"einsum": 120},
        {"einsum": 40},
    ),
    "batch norm": (nn.BatchNorm2d(3).eval(), (ones(2, 3, 4, 4),), {"batch_norm": 96 * 2}, {}),
    "training": (nn.BatchNorm2d(3), (ones(2, 3, 4, 4),), {"batch_norm": 96 * 5}, {}),
    "plain norm": (nn.BatchNorm2d(3, affine=False).eval(), (ones(2, 3, 4, 4),), {"batch_norm": 96}, {}),
    "layer norm": (nn.LayerNorm(4), (ones(2, 4),), {"layer_norm": 8 * 5}, {}),
    "plain layer norm": (nn.LayerNorm(4, elementwise_affine=False), (ones(2, 4),), {"layer_norm": 8 * 4}, {}),
    "group norm": (nn.GroupNorm(2, 4), (ones(2, 4, 3),), {"group_norm": 24 * 5}, {}),
    "instance norm": (nn.InstanceNorm2d(3, affine=True), (ones(2, 3, 4, 4),), {"instance_norm": 96 * 5}, {}),
    "pooling": (nn.AdaptiveAvgPool2d(1), (ones(2, 3, 4, 4),), {"adaptive_avg_pool2d": 96}, {}),
    "pooling to 2": (nn.AdaptiveAvgPool2d(2), (ones(2, 3, 4, 4),), {"adaptive_avg_pool2d": 96}, {}),
    "nearest": (nn.Upsample(scale_factor=2), (ones(1, 3, 4, 4),), {"upsample_nearest2d": 192}, {}),
    "bilinear": (
        nn.Upsample(scale_factor=2, mode="bilinear"),
        (ones(1, 3, 4, 4),),
        {"upsample_bilinear2d": 4 * 192},
        {},
    ),
    "grid": (
        Call(lambda x, grid: functional.grid_sample(x, grid, align_corners=False)),
        (ones(1, 3, 4, 4), ones(1, 2, 2, 2)),
        {"grid_sampler": 4 * 12},
        {},
    ),
    "attention": (
        nn.MultiheadAttention(8, 2, batch_first=True).eval(),
        (ones(1, 5, 8),) * 3,
        {"linear": 5 * 8 * 24 + 5 * 8 * 8, "matmul": 2 * 5 * 5 * (4 + 4)},
        {"linear": 5 * 24 + 5 * 8, "matmul": 2 * 25 + 2 * 20},
    ),
    "fused attention": (
        Call(functional.scaled_dot_product_attention),
        (ones(1, 2, 5, 4), ones(1, 2, 7, 4), ones(1, 2, 7, 4)),
        {ATTENTION: 2 * 5 * 7 * 8},
        {ATTENTION: 40},
    ),
    "relu": (nn.ReLU(), (ones(2, 3),), {}, {}),
}


@pytest.mark.parametrize("case", CASES)
def test_operators(case: str) -> None:
    model, inputs, flops, activations = CASES[case]
    assert FlopAnalyzer(model, inputs).by_operator() == flops
    assert ActivationAnalyzer(model, inputs).by_operator() == activations


NETWORKS = {
    "resnet18": (1819065856, 2484712, 11689512, {"conv": 1813561344, "batch_norm": 4967424}),
    "mobilenet_v2": (314193216, 6679112, 3504872, {"conv": 299494272, "adaptive_avg_pool2d": 62720}),
    "resnet50": (4111512576, 11114984, 25557032, {"conv": 4087136256, "linear": 2048000}),
    "vit_b_16": (16867412736, 16491496, 86567656, {"linear": 16732895232, "layer_norm": 18912000}),
    "swin_t": (4509232128, 17055352, 28288354, {"linear": 4335974400, "matmul": 140141568}),
}


@pytest.mark.parametrize(
    "name", [*list(NETWORKS)[:2], *(pytest.param(n, marks=pytest.mark.slow) for n in [*NETWORKS][2:])]
)
def test_networks_have_the_numbers_of_mmengine(name: str) -> None:
    flops, activations, params, by_operator = NETWORKS[name]
    model, inputs = torchvision.models.get_model(name, weights=None).eval(), torch.rand(1, 3, 224, 224)
    analyzers = [
        kind(model, inputs).set_op_handle(ATTENTION, None)  # which MMEngine does not count
        for kind in (FlopAnalyzer, ActivationAnalyzer)
    ]
    assert [analyzer.total() for analyzer in analyzers] == [flops, activations]
    assert analyzers[0].by_operator().items() >= by_operator.items()
    assert parameter_count(model)[""] == params


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
        self.second = self.first[0]
        self.unused = nn.Linear(2, 3)

    def forward(self, x: Tensor) -> Tensor:
        return torch.as_tensor(self.second(self.first(x)) + x @ x)


def test_counts_by_module() -> None:
    flops = FlopAnalyzer(Twice(), (ones(2, 2),))
    assert flops.by_module() == {"": 24, "first": 16, "first.0": 16, "first.1": 0, "unused": 0}
    assert flops.by_module_and_operator()[""] == {"linear": 16, "matmul": 8}
    assert flops.total("second") == flops.total("first.0") == 16
    assert flops.by_operator("first.1") == {}
    assert flops.uncalled_modules() == {"unused"}
    assert flops.unsupported_ops() == {"aten::relu": 1, "aten::add": 1}
    assert flops.unsupported_ops("first") == {"aten::relu": 1}
    assert flops.ancestor_mode("caller").by_module()["first"] == 8
    with pytest.raises(KeyError, match=r"no module 'first\.9': did you mean .*'first\.0'"):
        flops.total("first.9")


def test_handles_of_ones_own() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
    flops = FlopAnalyzer(model, ones(4, 2))
    assert flops.total() == 16
    flops.set_op_handle("aten::relu", lambda inputs, outputs: outputs[0].numel(), "linear", None)
    assert flops.by_operator() == {"relu": 8}
    flops.set_op_handle(**{"aten::linear": lambda inputs, outputs: Counter(mine=3)})
    assert flops.by_operator() == {"relu": 8, "mine": 3}
    assert flops.copy(new_inputs=ones(1, 2)).by_operator() == {"relu": 2, "mine": 3}
    assert flops.clear_op_handles().total() == 0
    assert flop_count(model, (ones(4, 2),)) == ({"linear": 16e-9}, {"aten::relu": 1})
    assert activation_count(model, (ones(4, 2),), {"aten::relu": lambda i, o: 1})[0] == {"linear": 8e-6, "relu": 1e-6}


def test_the_model_stays_as_it_was() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Dropout())
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.get_rng_state()
    FlopAnalyzer(model, torch.rand(2, 3, 4, 4, generator=torch.Generator())).total()
    with pytest.raises(RuntimeError):
        FlopAnalyzer(model, ones(2, 5, 4, 4)).total()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_complexity_info() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3, bias=False), nn.ReLU(), nn.Flatten(), nn.Linear(288, 2))
    info = get_model_complexity_info(model, (3, 8, 8))
    assert {key: info[key] for key in ("flops", "activations", "params")} == {
        "flops": 3 * 9 * 8 * 36 + 576,
        "activations": 288 + 2,
        "params": 216 + 578,
    }
    assert [info[f"{name}_str"] for name in ("flops", "activations", "params")] == ["8.352K", "0.29K", "0.794K"]
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in info["out_table"].splitlines() if "|" in line]
    assert rows[1:] == [
        ["model", "0.794K", "8.352K", "0.29K"],
        ["0", "0.216K", "7.776K", "0.288K"],
        ["0.weight", "(8, 3, 3, 3)", "", ""],
        ["3", "0.578K", "0.576K", "2"],
        ["3.weight", "(2, 288)", "", ""],
        ["3.bias", "(2,)", "", ""],
    ]
    assert "  (1): ReLU()\n" in info["out_arch"]
    assert "    #params: 0.22K, #flops: 7.78K, #acts: 0.29K\n  )\n" in info["out_arch"]
    short = get_model_complexity_info(model, inputs=ones(1, 3, 8, 8), show_table=False, show_arch=False)
    assert short == {**info, "out_table": "", "out_arch": ""}
    two = get_model_complexity_info(Call(torch.matmul), ((2, 3), (3, 4)), show_table=False, show_arch=False)
    assert two["flops"] == 24 and two["params"] == 0


def test_a_module_and_its_only_part_share_a_row() -> None:
    model = nn.Sequential(OrderedDict(net=nn.Sequential(nn.Sequential(nn.Linear(2, 3)), nn.Linear(3, 1, bias=False))))
    table = get_model_complexity_info(model, (2,), show_arch=False)["out_table"]
    assert [line.split("|")[1].strip() for line in table.splitlines() if "|" in line][1:] == [
        "net", "0.0", "0.0.weight", "0.0.bias", "1", "1.weight",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "arguments", [{}, {"input_shape": (3,), "inputs": ones(3)}, {"input_shape": ("a",)}, {"input_shape": ()}]
)
def test_inputs_are_required(arguments: Any) -> None:
    with pytest.raises(ValueError, match="input_shape"):
        get_model_complexity_info(nn.Linear(3, 3), **arguments)


def test_table_of_parameters() -> None:
    model = nn.Sequential(nn.Sequential(nn.Linear(100, 10)), nn.ReLU())
    table = parameter_count_table(model, max_depth=2)
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines() if "|" in line]
    assert rows[1:] == [["model", "1K"], ["0", "1K"], ["0.0", "1K"]]
    assert "0.0.weight" not in table and "(10, 100)" in parameter_count_table(model)
    assert [format_size(n) for n in (0, 99, 101, 100_001, 10**12)] == ["0", "99", "0.101K", "0.1M", "1T"]
