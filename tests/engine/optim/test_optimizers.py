"""Optimizers by name, and the fused implementation by default."""

import inspect
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from trainwright.engine.errors import ConfigError, UnknownTypeError
from trainwright.engine.optim.optimizers import build_optimizer, has_unsafe_fused_momentum
from trainwright.engine.records.logger import get_logger
from trainwright.engine.registry import OPTIMIZERS


def make_params(dtype: torch.dtype = torch.float32) -> list[nn.Parameter]:
    return [nn.Parameter(torch.ones(3, 2, dtype=dtype))]


def test_every_optimizer_of_torch_is_registered() -> None:
    for name, member in vars(torch.optim).items():
        if inspect.isclass(member) and issubclass(member, torch.optim.Optimizer) and name != "Optimizer":
            assert OPTIMIZERS.get(name) is member
    assert OPTIMIZERS.get("TorchAdafactor") is torch.optim.Adafactor


def test_every_optimizer_of_torch_takes_a_step() -> None:
    for name in sorted(OPTIMIZERS.module_dict):
        params = make_params()
        optimizer = build_optimizer(params, {"type": name})
        if name == "LBFGS":
            continue
        grad = torch.full((3, 2), 0.5)
        params[0].grad = grad.to_sparse() if name == "SparseAdam" else grad
        optimizer.step()
        assert (params[0] != 1).any(), name


@pytest.mark.parametrize("name", ["Adam", "AdamW", "Adagrad"])
def test_fused_by_default(name: str) -> None:
    assert build_optimizer(make_params(), {"type": name}).defaults["fused"] is True


@pytest.mark.parametrize("name", sorted(OPTIMIZERS.module_dict))
def test_the_default_implementation_tolerates_a_first_overflow_and_late_gradients(name: str) -> None:
    """Fused implementations match the plain loop, also if a scaler skips the first step."""
    results = []
    for plain in (False, True):
        params = [nn.Parameter(torch.full((64, 64), 1.0)) for _ in range(2)]
        cfg = {"type": name, **({"momentum": 0.9} if name in ("SGD", "RMSprop") else {})}
        optimizer = build_optimizer(params, cfg)
        if not optimizer.defaults.get("fused"):
            return
        if plain:
            optimizer = build_optimizer(params, {**cfg, "foreach": False})
        scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
        for step in range(4):
            junk = [torch.full((64, 64), float("nan")) for _ in range(20)]  # fill uninitialized memory
            del junk
            for param in params[: 1 if step < 2 else 2]:
                param.grad = torch.full((64, 64), float("inf") if step == 0 else float(scaler.get_scale()))
            scaler.scale(torch.ones(()))
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad()
        results.append([param.detach() for param in params])
    assert all(torch.allclose(*pair) for pair in zip(*results))
    assert (results[0][1] != 1).all()


def test_sgd_is_never_fused_unless_asked_to() -> None:
    """Because its momentum may also be set by a parameter group, a schedule or a checkpoint."""
    for momentum in (0.0, 0.9):
        optimizer = build_optimizer(make_params(), {"type": "SGD", "lr": 0.1, "momentum": momentum})
        assert optimizer.defaults["fused"] is None
        assert not has_unsafe_fused_momentum(optimizer)
    lines: list[str] = []
    logger = get_logger()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(logger, "warning", lambda text, *args: lines.append(text % args))
        chosen = build_optimizer(make_params(), {"type": "SGD", "momentum": 0.9, "fused": True}, path="here")
        build_optimizer(make_params(), {"type": "SGD", "fused": True})
    assert has_unsafe_fused_momentum(chosen)
    assert len(lines) == 1
    assert lines[0].startswith("here: fused=True with momentum")


@pytest.mark.parametrize("key", ["fused", "foreach", "capturable", "differentiable"])
def test_the_implementation_of_the_config_takes_precedence(key: str) -> None:
    optimizer = build_optimizer(make_params(), {"type": "Adam", key: False})
    assert optimizer.defaults["fused"] is (False if key == "fused" else None)


def test_not_fused_where_it_does_not_work() -> None:
    assert build_optimizer(make_params(torch.complex64), {"type": "Adam"}).defaults["fused"] is None
    assert build_optimizer(make_params(), {"type": "Adam"}, allow_fused=False).defaults["fused"] is None
    mixed = [{"params": make_params()}, {"params": make_params(torch.complex64), "lr": 0.2}]
    assert build_optimizer(mixed, {"type": "Adam"}).defaults["fused"] is None
    assert "fused" not in build_optimizer(make_params(), {"type": "Rprop"}).defaults


def test_fused_differs_by_rounding_only() -> None:
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(50, 3, generator=generator)
    results = []
    for settings in ({}, {"fused": False}):
        param = nn.Parameter(start.clone())
        optimizer = build_optimizer([param], {"type": "AdamW", "lr": 0.01, "weight_decay": 0.1, **settings})
        for _ in range(20):
            (param**2).sum().backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            optimizer.zero_grad()
        results.append(param.detach())
    assert torch.allclose(*results, rtol=1e-5, atol=1e-7)
    assert not torch.equal(results[0], start)


def test_mistakes_carry_the_path() -> None:
    with pytest.raises(ConfigError, match=r"optim_wrapper.optimizer.momentun: SGD takes no such argument") as caught:
        build_optimizer(make_params(), {"type": "SGD", "lr": 0.1, "momentun": 0.9}, path="optim_wrapper.optimizer")
    assert "did you mean 'momentum'?" in str(caught.value)
    with pytest.raises(UnknownTypeError, match=r"optimizer\.type: 'Adma' is not registered") as unknown:
        build_optimizer(make_params(), {"type": "Adma"})
    assert "'Adam'" in str(unknown.value)
    with pytest.raises(ConfigError, match="this optimizer has no 'type'"):
        build_optimizer(make_params(), {"lr": 0.1})
    with pytest.raises(ValueError, match="Invalid learning rate") as invalid:
        build_optimizer(make_params(), {"type": "SGD", "lr": -1}, path="optim_wrapper.optimizer")
    assert invalid.value.__notes__ == ["while building optim_wrapper.optimizer (SGD)"]


def test_a_class_or_a_dotted_path_does_too() -> None:
    assert isinstance(build_optimizer(make_params(), {"type": torch.optim.SGD}), torch.optim.SGD)
    assert isinstance(build_optimizer(make_params(), {"type": "torch.optim.SGD"}), torch.optim.SGD)


def test_optimizers_of_other_packages_are_imported_when_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "lion_pytorch.py").write_text("import torch\nclass Lion(torch.optim.SGD): pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert "lion_pytorch" not in sys.modules
    try:
        optimizer: Any = build_optimizer(make_params(), {"type": "Lion", "lr": 0.1})
        assert type(optimizer).__module__ == "lion_pytorch"
    finally:
        OPTIMIZERS.module_dict.pop("Lion", None)
        sys.modules.pop("lion_pytorch", None)
    assert OPTIMIZERS.get("DAdaptAdam") is None


def test_arguments_of_another_adafactor_are_explained() -> None:
    with pytest.raises(
        ConfigError, match="relative_step: Adafactor takes no such argument(.|\n)*transformers.Adafactor"
    ):
        build_optimizer(make_params(), dict(type="Adafactor", relative_step=True))
