"""Building optimizer wrappers from configs: per-parameter settings, merged groups, layer-wise decay."""

import copy
import io
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from trainwright.engine.errors import CheckpointError, ConfigError
from trainwright.engine.optim.amp import AmpOptimWrapper
from trainwright.engine.optim.constructor import (
    DefaultOptimWrapperConstructor,
    LearningRateDecayOptimWrapperConstructor,
    build_optim_wrapper,
)
from trainwright.engine.optim.optimizers import build_optimizer
from trainwright.engine.optim.wrapper import OptimWrapper
from trainwright.engine.optim.wrapper_dict import OptimWrapperDict
from trainwright.engine.registry import OPTIM_WRAPPER_CONSTRUCTORS


class Net(nn.Module):
    """A model with a layer for each rule."""

    def __init__(self) -> None:
        super().__init__()
        self.token = nn.Parameter(torch.zeros(1, 4, 1, 1))
        self.conv = nn.Conv2d(3, 4, 3)
        self.bn = nn.BatchNorm2d(4)
        self.dw = nn.Conv2d(4, 4, 3, groups=4)
        self.gn = nn.GroupNorm(2, 4)
        self.head = nn.Sequential(nn.Linear(4, 5), nn.LayerNorm(5), nn.Linear(5, 2, bias=False))
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, inputs: Tensor) -> Tensor:
        features = self.gn(self.dw(self.bn(self.conv(inputs)) + self.token))
        return self.head(features.mean((2, 3))) * self.scale  # type: ignore[no-any-return]


SGD = {"type": "SGD", "lr": 0.1, "weight_decay": 0.01, "momentum": 0.9}
PARAMWISE: dict[str, Any] = {
    "custom_keys": {
        "head": {"lr_mult": 0.1},
        "head.0": {"lr_mult": 10.0, "decay_mult": 0.0},
        ".token": {"decay_mult": 0.0},
        "bn": {"lr_mult": 0.0, "momentum": 0.5},
    },
    "norm_decay_mult": 0.25,
}
PLAIN = (0.1, 0.01, 0.9)


def settings_of(model: nn.Module, wrapper: OptimWrapper) -> dict[str, tuple[float, float, float]]:
    """(lr, weight_decay, momentum) of each parameter that is not PLAIN."""
    names = {id(param): name for name, param in model.named_parameters()}
    found = {
        names[id(param)]: (group["lr"], group["weight_decay"], group["momentum"])
        for group in wrapper.optimizer.param_groups
        for param in group["params"]
    }
    assert len(found) == len(names)
    return {name: settings for name, settings in found.items() if settings != PLAIN}


def build(model: nn.Module, paramwise_cfg: dict[str, Any] | None = None, **kwargs: Any) -> OptimWrapper:
    return build_optim_wrapper(model, {"optimizer": dict(SGD), "paramwise_cfg": paramwise_cfg, **kwargs})


def repeat(names: str, settings: tuple[float, float, float]) -> dict[str, tuple[float, float, float]]:
    return dict.fromkeys(names.split(), settings)


NORMS = "bn.weight bn.bias gn.weight gn.bias head.1.weight head.1.bias"


@pytest.mark.parametrize(
    ("paramwise_cfg", "expected", "groups"),
    [
        (
            {"norm_decay_mult": 0.0, "bias_decay_mult": 0.5, "bias_lr_mult": 2.0},
            repeat("conv.bias dw.bias head.0.bias", (0.2, 0.005, 0.9)) | repeat(NORMS, (0.1, 0.0, 0.9)),
            3,
        ),
        (
            {"dwconv_decay_mult": 0.1, "flat_decay_mult": 0.2, "bias_lr_mult": 3.0},
            repeat("scale " + NORMS, (0.1, 0.002, 0.9))
            | repeat("conv.bias head.0.bias", (0.30000000000000004, 0.002, 0.9))
            | {"dw.weight": (0.1, 0.001, 0.9), "dw.bias": (0.30000000000000004, 0.001, 0.9)},
            5,
        ),
        (
            PARAMWISE,
            {"token": (0.1, 0.0, 0.9)}
            | repeat("bn.weight bn.bias", (0.0, 0.01, 0.5))
            | repeat("gn.weight gn.bias", (0.1, 0.0025, 0.9))
            | repeat("head.0.weight head.0.bias", (1.0, 0.0, 0.9))
            | repeat("head.1.weight head.1.bias head.2.weight", (0.010000000000000002, 0.01, 0.9)),
            6,
        ),
        (
            {"norm_decay_mult": 0.0, "flat_decay_mult": 0.0},
            repeat("scale conv.bias dw.bias head.0.bias " + NORMS, (0.1, 0.0, 0.9)),
            2,
        ),
        (
            {"bypass_duplicate": True, "bias_decay_mult": 0.0},
            repeat("conv.bias bn.bias dw.bias gn.bias head.0.bias head.1.bias", (0.1, 0.0, 0.9)),
            2,
        ),
    ],
)
def test_settings_by_parameter_are_mmengines_in_few_groups(
    paramwise_cfg: dict[str, Any], expected: dict[str, Any], groups: int
) -> None:
    """The expected values were taken from MMEngine 0.10.7."""
    model = Net()
    wrapper = build(model, paramwise_cfg)
    assert settings_of(model, wrapper) == expected
    assert len(wrapper.optimizer.param_groups) == groups


def test_no_paramwise_cfg_is_one_group() -> None:
    model = Net()
    wrapper = build(model)
    assert wrapper.optimizer.param_groups[0]["params"] == list(model.parameters())
    assert wrapper.base_param_settings is None


def test_settings_equal_to_the_base_join_the_base_group() -> None:
    wrapper = build(Net(), {"norm_decay_mult": 1.0, "bias_lr_mult": 1.0})
    assert len(wrapper.optimizer.param_groups) == 1


def test_deformable_convolutions() -> None:
    class DeformConv2d(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(2, 2))
            self.conv_offset = nn.Conv2d(2, 18, 3)

    class Deformable(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = DeformConv2d()
            self.linear = nn.Linear(2, 2)

    model = Deformable()
    paramwise = {
        "dcn_offset_lr_mult": 0.5,
        "bias_lr_mult": 2.0,
        "bias_decay_mult": 0.0,
        "flat_decay_mult": 0.1,
    }
    assert settings_of(model, build(model, paramwise)) == {
        "conv.conv_offset.weight": (0.05, 0.01, 0.9),
        "conv.conv_offset.bias": (0.05, 0.01, 0.9),
        "linear.bias": (0.2, 0.0, 0.9),
    }


def test_frozen_parameters_are_left_out() -> None:
    model = Net()
    model.conv.requires_grad_(False)
    wrapper = build(model, {"norm_decay_mult": 0.0})
    assert sum(len(group["params"]) for group in wrapper.optimizer.param_groups) == 13


def test_shared_parameters() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Linear(2, 2)
            self.second = nn.Linear(2, 2)
            self.second.weight = self.first.weight

    with pytest.raises(ConfigError, match="'weight' of module 'second' is shared"):
        build(Tied(), {"bias_lr_mult": 2.0})
    wrapper = build(Tied(), {"bias_lr_mult": 2.0, "bypass_duplicate": True})
    assert [len(group["params"]) for group in wrapper.optimizer.param_groups] == [1, 2]


def train(model: nn.Module, wrapper: OptimWrapper, steps: int, seed: int = 5) -> None:
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        wrapper.update_params(model(torch.randn(2, 3, 7, 7, generator=generator)).square().mean())


def unmerged(model: nn.Module) -> OptimWrapper:
    """Build one group per parameter, as MMEngine does."""
    constructor = DefaultOptimWrapperConstructor({"optimizer": dict(SGD)}, PARAMWISE)
    listed: list[dict[str, Any]] = []
    constructor.add_params(listed, model)
    assert len(listed) == 15
    return OptimWrapper(build_optimizer(listed, SGD))


def same_start() -> tuple[Net, Net]:
    torch.manual_seed(1)
    model = Net()
    return model, copy.deepcopy(model)


def test_merging_changes_no_number() -> None:
    model, reference = same_start()
    train(model, build(model, PARAMWISE), 5)
    train(reference, unmerged(reference), 5)
    for (name, one), two in zip(model.named_parameters(), reference.parameters()):
        assert torch.equal(one, two), name


def test_a_checkpoint_with_a_group_for_each_parameter_loads() -> None:
    """Momentum of MMEngine's states is assigned to the right parameters, and training continues bit for bit."""
    model, reference = same_start()
    wrapper = unmerged(reference)
    train(reference, wrapper, 3)
    for group in wrapper.param_groups:
        group["lr"] *= 0.5
    state = copy.deepcopy({key: wrapper.state_dict()[key] for key in ("state", "param_groups", "base_param_settings")})
    model.load_state_dict(reference.state_dict())
    resumed = build(model, PARAMWISE)
    resumed.load_state_dict(state)
    assert resumed.get_lr()["base_lr"] == [0.05]
    train(model, resumed, 3, seed=6)
    train(reference, wrapper, 3, seed=6)
    for (name, one), two in zip(model.named_parameters(), reference.parameters()):
        assert torch.equal(one, two), name


def test_a_checkpoint_resumes_through_a_file_with_the_groups_of_another_config() -> None:
    model, reference = same_start()
    wrapper = build(reference, PARAMWISE)
    train(reference, wrapper, 3)
    buffer = io.BytesIO()
    torch.save(wrapper.state_dict(), buffer)
    buffer.seek(0)
    state = torch.load(buffer, weights_only=True)
    same = build(model, PARAMWISE)
    same.load_state_dict(state)
    other = build(model, {"norm_decay_mult": 0.0})
    with pytest.raises(CheckpointError, match="different settings in the checkpoint"):
        other.load_state_dict(state)
    with pytest.raises(
        CheckpointError, match="only the optimizer of the checkpoint has token, scale, conv.weight and 12 more"
    ):
        build(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2, bias=False))).load_state_dict(state)
    state_of = {name: wrapper.optimizer.state[param] for name, param in reference.named_parameters()}
    for name, param in model.named_parameters():
        assert torch.equal(same.optimizer.state[param]["momentum_buffer"], state_of[name]["momentum_buffer"]), name


class Logged:
    """A logger that collects lines."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def info(self, message: str, *args: Any) -> None:
        self.lines.append(message % args)

    warning = info


@pytest.fixture
def logged(monkeypatch: pytest.MonkeyPatch) -> Logged:
    logger = Logged()
    monkeypatch.setattr("trainwright.engine.optim.constructor.get_logger", lambda: logger)
    return logger


def test_one_line_for_each_setting(logged: Logged) -> None:
    build(Net(), {"norm_decay_mult": 0.0, "bias_lr_mult": 3.0})
    assert logged.lines == [
        "parameter group 0: lr=0.1, weight_decay=0.01: 6 parameters (token, scale, conv.weight, …)",
        "parameter group 1: lr=0.3, weight_decay=0.01: 3 parameters (conv.bias, dw.bias, head.0.bias)",
        "parameter group 2: lr=0.1, weight_decay=0: 6 parameters (bn.weight, bn.bias, gn.weight, …)",
    ]


def test_a_custom_key_that_matches_nothing_is_named(logged: Logged) -> None:
    build(Net(), {"custom_keys": {"haed": {"lr_mult": 0.1}, ".token": {"lr_mult": 2.0}}})
    warnings = [line for line in logged.lines if "no parameter's name" in line]
    assert len(warnings) == 1
    assert "contains 'haed'; did you mean 'head'" in warnings[0]


@pytest.mark.parametrize(
    ("cfg", "message"),
    [
        (
            {"optimizer": SGD, "accumulative_count": 2},
            "optim_wrapper.accumulative_count: OptimWrapper takes no such",
        ),
        ({"optimiser": SGD}, "optim_wrapper: 'optimizer' is missing\n.*did you mean 'optimiser'"),
        ({"optimizer": {**SGD, "lrr": 1}}, "optim_wrapper.optimizer.lrr: SGD takes no such argument"),
        ({"optimizer": SGD, "type": "OptimWraper"}, "optim_wrapper.type: 'OptimWraper' is not registered"),
        ({"optimizer": SGD, "constructor": "Custom"}, "optim_wrapper.constructor.type: 'Custom'"),
        (
            {"optimizer": SGD, "paramwise_cfg": {"norm_decay": 0.0}},
            "paramwise_cfg.norm_decay: unknown key",
        ),
        (
            {"optimizer": SGD, "paramwise_cfg": {"custom_keys": {"head": 0.1}}},
            "custom_keys.head: expected a dict",
        ),
        (
            {"optimizer": {"type": "SGD", "lr": 0.1}, "paramwise_cfg": {"norm_decay_mult": 0.0}},
            "norm_decay_mult: the optimizer's config has no 'weight_decay' to multiply",
        ),
        (
            {
                "optimizer": {"type": "Adafactor", "lr": None},
                "paramwise_cfg": {"custom_keys": {"head": {"lr_mult": 2}}},
            },
            "custom_keys.head.lr_mult: the optimizer's config has no 'lr' to multiply",
        ),
        ({"optimizer": SGD, "type": "AmpOptimWrapper", "dtyp": "float16"}, "did you mean 'dtype'"),
        ("SGD", "expected a config or an OptimWrapper"),
        (
            {"generator": {"optimizer": SGD}, "critic": {"optimizer": SGD}},
            r"optimizers .* by name \(generator, critic\), .* 'constructor'",
        ),
    ],
)
def test_mistakes_carry_the_path(cfg: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build_optim_wrapper(Net(), cfg)


@pytest.mark.parametrize(
    ("optimizer", "paramwise_cfg", "expected"),
    [
        ({"type": "AdamW"}, {"norm_decay_mult": 0.0}, [(1e-3, 0.01), (1e-3, 0.0)]),
        ({"type": "AdamW", "lr": 0.1}, {"custom_keys": {"head": {"decay_mult": 0.5}}}, [(0.1, 0.01), (0.1, 0.005)]),
        ({"type": "Adam"}, {"bias_lr_mult": 2.0}, [(1e-3, 0), (2e-3, 0)]),
        ({"type": "Adam"}, {"custom_keys": {"head": {"lr_mult": 1.0}}}, [(1e-3, 0), (1e-3, 0)]),
    ],
)
def test_multipliers_apply_to_the_optimizers_own_defaults(
    optimizer: dict[str, Any], paramwise_cfg: dict[str, Any], expected: list[tuple[float, float]]
) -> None:
    wrapper = build_optim_wrapper(Net(), {"optimizer": optimizer, "paramwise_cfg": paramwise_cfg})
    assert [(group["lr"], group["weight_decay"]) for group in wrapper.optimizer.param_groups] == expected


def test_layer_wise_decay_of_the_default_rate() -> None:
    cfg = {"constructor": "LearningRateDecayOptimWrapperConstructor", "paramwise_cfg": {"decay_rate": 0.5}}
    wrapper = build_optim_wrapper(Net(), {"optimizer": {"type": "AdamW"}, **cfg})
    assert max(group["lr"] for group in wrapper.optimizer.param_groups) == 1e-3


def test_what_is_built_already_passes_through() -> None:
    model = Net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    wrapper = build_optim_wrapper(model, {"optimizer": optimizer, "accumulative_counts": 3})
    assert wrapper.optimizer is optimizer
    assert wrapper.accumulative_counts == 3
    assert build_optim_wrapper(model, wrapper) is wrapper
    several = build_optim_wrapper(model, {"one": wrapper, "two": wrapper})
    assert isinstance(several, OptimWrapperDict)
    assert several["two"] is wrapper
    with pytest.raises(ConfigError, match="paramwise_cfg .* already built"):
        build_optim_wrapper(model, {"optimizer": optimizer, "paramwise_cfg": {"norm_decay_mult": 0.0}})


def test_gradients_are_clipped_in_module_order() -> None:
    model = Net()
    cfg = {"optimizer": dict(SGD), "paramwise_cfg": {"bias_decay_mult": 0.0}, "clip_grad": {"max_norm": 1.0}}
    wrapper: Any = build_optim_wrapper(model, cfg)
    for param in model.parameters():
        param.grad = torch.ones_like(param)
    clipped: list[Any] = []
    wrapper.clip_func = lambda params, max_norm: clipped.extend(params)
    wrapper.step()
    assert [id(param) for param in clipped] == [id(param) for param in model.parameters()]
    assert [id(param) for group in wrapper.param_groups for param in group["params"]] != list(map(id, clipped))


def test_the_wrapper_of_the_config_with_its_arguments_and_the_config_unharmed() -> None:
    cfg = {
        "type": "AmpOptimWrapper",
        "dtype": "bfloat16",
        "optimizer": dict(SGD),
        "clip_grad": {"max_norm": 1.0},
    }
    before = copy.deepcopy(cfg)
    wrapper = build_optim_wrapper(Net(), cfg)
    assert isinstance(wrapper, AmpOptimWrapper)
    assert wrapper.clip_grad_kwargs == {"max_norm": 1.0}
    assert wrapper.optimizer.defaults["weight_decay"] == SGD["weight_decay"]
    assert cfg == before


def test_sparse_gradients_forbid_fused() -> None:
    model = nn.Sequential(nn.Embedding(5, 2, sparse=True), nn.Linear(2, 1))
    wrapper = build_optim_wrapper(model, {"optimizer": {"type": "SGD", "lr": 0.1}})
    wrapper.update_params(model(torch.tensor([1, 2])).sum())
    assert wrapper.optimizer.defaults["fused"] is None


def test_a_constructor_of_a_library() -> None:
    @OPTIM_WRAPPER_CONSTRUCTORS.register_module()
    class ByName:
        def __init__(self, optim_wrapper_cfg: dict[str, Any], paramwise_cfg: Any = None) -> None:
            self.optim_wrapper_cfg = optim_wrapper_cfg

        def __call__(self, module: nn.Module) -> OptimWrapperDict:
            return OptimWrapperDict(
                **{
                    name: build_optim_wrapper(getattr(module, name), cfg)
                    for name, cfg in self.optim_wrapper_cfg.items()
                }
            )

    try:
        wrappers = build_optim_wrapper(
            Net(),
            {
                "constructor": "ByName",
                "conv": {"optimizer": {"type": "SGD", "lr": 0.5}},
                "head": {"type": "AmpOptimWrapper", "optimizer": {"type": "Adam", "lr": 0.2}},
            },
        )
    finally:
        OPTIM_WRAPPER_CONSTRUCTORS.module_dict.pop("ByName")
    assert wrappers.get_lr() == {"conv.lr": [0.5], "head.lr": [0.2]}


def test_a_subclass_of_a_library_overrides_add_params_and_may_have_other_keys() -> None:
    class HalfRates(DefaultOptimWrapperConstructor):
        def add_params(self, params: list[dict[str, Any]], module: nn.Module, **kwargs: Any) -> None:  # type: ignore[override]
            rates = {True: self.base_lr * self.paramwise_cfg["flat_rate"], False: self.base_lr}
            for param in module.parameters():
                assert not self._is_in({"params": [param]}, params)
                params.append({"params": [param], "lr": rates[param.ndim == 1]})

    wrapper = build(Net(), {"flat_rate": 0.5}, constructor=HalfRates)
    assert [(group["lr"], len(group["params"])) for group in wrapper.optimizer.param_groups] == [
        (0.1, 5),
        (0.05, 10),
    ]


# layer-wise decay


def rates_of(model: nn.Module, paramwise_cfg: dict[str, Any]) -> dict[str, float]:
    wrapper = build(model, paramwise_cfg, constructor="LearningRateDecayOptimWrapperConstructor")
    names = {id(param): name for name, param in model.named_parameters()}
    return {names[id(param)]: group["lr"] for group in wrapper.optimizer.param_groups for param in group["params"]}


def test_layer_wise_decay_of_a_vision_transformer() -> None:
    torchvision = pytest.importorskip("torchvision")
    model = torchvision.models.VisionTransformer(
        8, 4, num_layers=3, num_heads=2, hidden_dim=4, mlp_dim=8, num_classes=2
    )
    rates = rates_of(model, {"decay_rate": 0.5, "norm_decay_mult": 0.0})
    layer = "encoder.layers.encoder_layer_"
    assert {
        name: rates[name] for name in ("class_token", "conv_proj.weight", "encoder.pos_embedding")
    } == dict.fromkeys(("class_token", "conv_proj.weight", "encoder.pos_embedding"), 0.1 * 0.5**4)
    assert [rates[f"{layer}{index}.mlp.0.weight"] for index in range(3)] == [
        0.1 * 0.5**3,
        0.1 * 0.5**2,
        0.1 * 0.5,
    ]
    assert (rates["encoder.ln.weight"], rates["heads.head.weight"]) == (0.1, 0.1)


@pytest.mark.parametrize(
    ("name", "count", "depths"),
    [
        (
            "resnet18",
            10,
            {"bn1.weight": 0, "layer1.1.conv1.weight": 2, "layer4.1.bn2.bias": 8, "fc.weight": 9},
        ),
        (
            "swin_t",
            14,
            {"features.0.0.weight": 0, "features.2.reduction.weight": 3, "features.3.0.norm1.weight": 3},
        ),
        (
            "convnext_tiny",
            20,
            {"features.2.0.weight": 4, "features.3.0.layer_scale": 4, "classifier.0.weight": 19},
        ),
    ],
)
def test_depths_of_torchvisions_backbones(name: str, count: int, depths: dict[str, int]) -> None:
    torchvision = pytest.importorskip("torchvision")
    with torch.device("meta"):
        model = torchvision.models.get_model(name)
    constructor = LearningRateDecayOptimWrapperConstructor({"optimizer": SGD}, {"decay_rate": 0.5})
    groups: list[dict[str, Any]] = []
    constructor.add_params(groups, model)
    names = {id(param): key for key, param in model.named_parameters()}
    rates = {names[id(group["params"][0])]: group["lr"] for group in groups}
    assert len(set(rates.values())) == count
    assert {key: rates[key] for key in depths} == {key: 0.1 * 0.5 ** (count - 1 - d) for key, d in depths.items()}


def test_depths_from_the_backbone() -> None:
    class Backbone(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.block = nn.Linear(2, 2), nn.Linear(2, 2)

        def get_layer_depth(self, param_name: str, prefix: str = "") -> tuple[int, int]:
            if not param_name.startswith(prefix):
                return 2, 3
            return ["stem", "block"].index(param_name.removeprefix(prefix).split(".")[0]), 3

    class Classifier(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.backbone, self.head = Backbone(), nn.Linear(2, 2)

    rates = rates_of(Classifier(), {"layer_decay_rate": 0.1})
    weights = [rates[name] for name in ("backbone.stem.weight", "backbone.block.weight", "head.weight")]
    assert weights == pytest.approx([0.001, 0.01, 0.1])


def test_a_plain_stack_and_a_given_number_of_layers() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2), nn.Linear(2, 2))
    rates = rates_of(model, {"decay_rate": 0.5})
    assert [rates[f"{index}.weight"] for index in (0, 2, 3)] == [0.025, 0.05, 0.1]
    rates = rates_of(model, {"decay_rate": 0.5, "num_layers": 2})
    assert [rates[f"{index}.weight"] for index in (0, 2, 3)] == [0.05, 0.1, 0.1]


@pytest.mark.parametrize("paramwise_cfg", [{}, {"decay_rate": 0.0}, {"decay_rate": 1.5}, {"decay_rate": "0.5"}])
def test_a_decay_rate_out_of_range(paramwise_cfg: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"expected a number in \(0, 1\]"):
        rates_of(Net(), paramwise_cfg)


def through_file(state: Any) -> Any:
    buffer = io.BytesIO()
    torch.save(state, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=True)


class Ordered(nn.Module):
    """Two layers of one shape, in either order."""

    def __init__(self, names: str) -> None:
        super().__init__()
        for name in names:
            layer = nn.Linear(2, 2)
            nn.init.constant_(layer.weight, 0.5)
            nn.init.constant_(layer.bias, 0.5)
            setattr(self, name, layer)


@pytest.mark.parametrize("paramwise_cfg", [{}, {"custom_keys": {"b": {"lr_mult": 0.1}}, "bias_lr_mult": 2.0}])
def test_a_state_follows_modules_that_stand_in_another_order(paramwise_cfg: dict[str, Any]) -> None:
    """Weights are loaded by name; momenta and accumulated gradients of the same shape must not be swapped."""
    cfg = {"optimizer": SGD, "paramwise_cfg": paramwise_cfg, "accumulative_counts": 2}

    def train(model: Any, wrapper: OptimWrapper, steps: int) -> None:
        for step in range(steps):
            inputs = torch.full((1, 2), step + 1.0)
            wrapper.update_params(model.a(inputs).square().sum() + 3 * model.b(inputs).square().sum())

    first, second = Ordered("ab"), Ordered("ba")
    wrapper, other = build_optim_wrapper(first, cfg), build_optim_wrapper(second, cfg)
    train(first, wrapper, 3)
    second.load_state_dict(first.state_dict())
    other.load_state_dict(through_file(wrapper.state_dict()))
    train(first, wrapper, 3)
    train(second, other, 3)
    assert all(torch.equal(value, second.state_dict()[name]) for name, value in first.state_dict().items())


def test_the_same_number_of_other_parameters_is_refused() -> None:
    cfg = {"optimizer": SGD, "paramwise_cfg": {"bias_lr_mult": 2.0}}
    first, second = Ordered("ab"), Ordered("ab")
    first.a.requires_grad_(False)  # type: ignore[operator, union-attr]
    second.b.requires_grad_(False)  # type: ignore[operator, union-attr]
    with pytest.raises(CheckpointError, match=r"only the optimizer of the checkpoint has b.weight, b.bias. Train"):
        build_optim_wrapper(second, cfg).load_state_dict(build_optim_wrapper(first, cfg).state_dict())
