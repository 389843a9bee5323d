"""Mixed precision on the CPU: bfloat16, float16 with a loss scale, overflow, resume."""

import io
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_runs import Line, make_runner
from torch import Tensor, nn

from trainwright.engine.optim.amp import AmpOptimWrapper, autocast
from trainwright.engine.optim.constructor import build_optim_wrapper
from trainwright.engine.optim.wrapper import OptimWrapper
from trainwright.engine.records.message_hub import MessageHub


def make_model() -> nn.Sequential:
    generator = torch.Generator().manual_seed(3)
    model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3))
    with torch.no_grad():
        for param in model.parameters():
            param.copy_(torch.randn(param.shape, generator=generator) * 0.5)
    return model


def make_wrapper(model: nn.Module, **kwargs: Any) -> AmpOptimWrapper:
    return AmpOptimWrapper(optimizer=torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9), **kwargs)


def batches(count: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(7)
    return [torch.randn(5, 4, generator=generator) for _ in range(count)]


def train(wrapper: OptimWrapper, model: nn.Module, data: list[Tensor]) -> None:
    for batch in data:
        with wrapper.optim_context(model):
            output = model(batch)
        wrapper.update_params(output.float().square().mean())


def through_file(state: Any) -> Any:
    buffer = io.BytesIO()
    torch.save(state, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=True)


def assert_same(first: nn.Module, second: nn.Module) -> None:
    for (name, one), two in zip(first.named_parameters(), second.parameters()):
        assert torch.equal(one, two), name


@pytest.mark.parametrize(
    ("dtype", "expected", "scaled"),
    [
        (None, torch.bfloat16, False),  # the CPU's default
        ("bfloat16", torch.bfloat16, False),
        (torch.float16, torch.float16, True),
        ("float32", torch.float32, False),
    ],
)
def test_the_forward_runs_in_the_dtype(dtype: Any, expected: torch.dtype, scaled: bool) -> None:
    model = make_model()
    wrapper = make_wrapper(model, dtype=dtype)
    with wrapper.optim_context(model):
        assert model(batches(1)[0]).dtype is expected
    assert model(batches(1)[0]).dtype is torch.float32
    assert wrapper.loss_scaler.is_enabled() is scaled


def test_bfloat16_is_a_hand_written_loop() -> None:
    model, reference = make_model(), make_model()
    train(make_wrapper(model, dtype="bfloat16", clip_grad={"max_norm": 0.05}), model, batches(4))
    optimizer = torch.optim.SGD(reference.parameters(), lr=0.1, momentum=0.9)
    for batch in batches(4):
        with torch.autocast("cpu", torch.bfloat16):
            output = reference(batch)
        output.float().square().mean().backward()
        nn.utils.clip_grad_norm_(reference.parameters(), 0.05)
        optimizer.step()
        optimizer.zero_grad()
    assert_same(model, reference)


def test_float16_with_accumulation_and_clipping_is_a_hand_written_loop() -> None:
    model, reference = make_model(), make_model()
    hub = MessageHub("amp")
    with MessageHub.set_current(hub):
        wrapper = make_wrapper(model, dtype="float16", clip_grad={"max_norm": 0.05}, accumulative_counts=2)
        train(wrapper, model, batches(6))
    optimizer = torch.optim.SGD(reference.parameters(), lr=0.1, momentum=0.9)
    scaler = torch.amp.GradScaler("cpu")
    norms = []
    for index, batch in enumerate(batches(6)):
        with torch.autocast("cpu", torch.float16):
            output = reference(batch)
        scaler.scale(output.float().square().mean() / 2).backward()
        if index % 2:
            scaler.unscale_(optimizer)
            norms.append(nn.utils.clip_grad_norm_(reference.parameters(), 0.05).item())
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad()
    assert_same(model, reference)
    assert hub.get_scalar("train/grad_norm").data[0].tolist() == norms
    assert max(norms) < 100  # of the unscaled gradients


def test_an_overflow_skips_the_step_and_halves_the_scale() -> None:
    model = make_model()
    before = [param.clone() for param in model.parameters()]
    wrapper = make_wrapper(model, dtype="float16", clip_grad={"max_norm": 1.0})
    with MessageHub.set_current(MessageHub("overflow")):
        wrapper.update_params(model(batches(1)[0]).sum() * float("inf"))
    assert all(torch.equal(param, old) for param, old in zip(model.parameters(), before))
    assert wrapper.loss_scaler.get_scale() == 2.0**15
    assert all(param.grad is None for param in model.parameters())
    with MessageHub.set_current(MessageHub("after")):
        train(wrapper, model, batches(1))
    assert not torch.equal(next(model.parameters()), before[0])


@pytest.mark.parametrize("stop", [2, 3])
def test_a_resume_goes_on_to_the_same_bits(stop: int) -> None:
    settings: dict[str, Any] = {
        "dtype": "float16",
        "accumulative_counts": 2,
        "loss_scale": {"init_scale": 1024.0, "growth_interval": 2},
    }
    data = batches(8)
    whole = make_model()
    train(make_wrapper(whole, **settings), whole, data)
    first = make_model()
    wrapper = make_wrapper(first, **settings)
    train(wrapper, first, data[:stop])
    state, weights = through_file((wrapper.state_dict(), first.state_dict()))
    assert state["loss_scaler"]["_growth_tracker"] == 1
    second = make_model()
    second.load_state_dict(weights)
    wrapper = make_wrapper(second, **settings)
    wrapper.load_state_dict(state)
    train(wrapper, second, data[stop:])
    assert_same(second, whole)
    assert wrapper.loss_scaler.get_scale() == 4096.0


def test_the_scales_settings_are_the_configs_after_a_resume() -> None:
    model = make_model()
    state = make_wrapper(model, dtype="float16", loss_scale={"init_scale": 64.0}).state_dict()
    wrapper = make_wrapper(model, dtype="float16", loss_scale={"init_scale": 2.0, "growth_interval": 5})
    wrapper.load_state_dict(state)
    assert wrapper.loss_scaler.get_scale() == 64.0
    assert wrapper.loss_scaler.get_growth_interval() == 5
    fixed = make_wrapper(model, dtype="float16", loss_scale=128.0)
    fixed.load_state_dict(state)
    assert fixed.loss_scaler.get_scale() == 128.0
    train(fixed, model, batches(1))
    assert fixed.loss_scaler.get_scale() == 128.0


def test_states_pass_between_precisions() -> None:
    model = make_model()
    scaled, unscaled = make_wrapper(model, dtype="float16"), make_wrapper(model, dtype="bfloat16")
    plain = OptimWrapper(torch.optim.SGD(model.parameters(), lr=0.1))
    unscaled.load_state_dict(scaled.state_dict())
    scaled.load_state_dict(unscaled.state_dict())
    scaled.load_state_dict(plain.state_dict())
    plain.load_state_dict(scaled.state_dict())
    assert scaled.loss_scaler.get_scale() == 2.0**16


def test_gradients_are_exchanged_once_a_window() -> None:
    class Syncing(nn.Linear):
        quiet = 0

        @contextmanager
        def no_sync(self) -> Any:
            self.quiet += 1
            yield

    model = Syncing(4, 2)
    wrapper = make_wrapper(model, accumulative_counts=2)
    with wrapper.optim_context(model):
        assert model(batches(1)[0]).dtype is torch.bfloat16
    assert model.quiet == 1


@pytest.mark.parametrize(
    ("kwargs", "error", "message"),
    [
        ({"dtype": "float64"}, ValueError, "float16, bfloat16, float32, not 'float64'"),
        ({"dtype": "fp16"}, ValueError, "not 'fp16'"),
        ({"loss_scale": "static"}, TypeError, "a number, a dict or 'dynamic'"),
        ({"accumulative_counts": 0}, ValueError, "accumulative_counts"),
    ],
)
def test_wrong_settings(kwargs: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        make_wrapper(make_model(), **kwargs)


def test_closures_are_refused() -> None:
    with pytest.raises(ValueError, match="LBFGS needs a closure"):
        AmpOptimWrapper(optimizer=torch.optim.LBFGS(make_model().parameters()))


def test_autocast() -> None:
    layer, batch = nn.Linear(4, 2), torch.ones(1, 4)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    assert autocast().device == device
    with autocast("cpu"):
        assert layer(batch).dtype is torch.bfloat16
        with autocast("cpu", enabled=False):
            assert layer(batch).dtype is torch.float32
    with autocast("cpu", torch.float16):
        assert layer(batch).dtype is torch.float16
    with autocast("cpu", torch.float32):
        assert layer(batch).dtype is torch.float32


def test_fused_momentum_under_a_loss_scaler_is_refused() -> None:
    def optimizer(momentum: float) -> torch.optim.Optimizer:
        return torch.optim.SGD(make_model().parameters(), lr=0.1, momentum=momentum, fused=True)

    with pytest.raises(ValueError, match="uninitialized memory .*'fused'"):
        AmpOptimWrapper(optimizer=optimizer(0.9), dtype="float16")
    AmpOptimWrapper(optimizer=optimizer(0.9), dtype="bfloat16")
    AmpOptimWrapper(optimizer=optimizer(0.0), dtype="float16")


def test_a_first_overflow_leaves_no_trace_in_sgd_of_the_config() -> None:
    model = make_model()
    cfg = {"type": "SGD", "lr": 0.1, "momentum": 0.9}
    wrapper = build_optim_wrapper(model, {"type": "AmpOptimWrapper", "dtype": "float16", "optimizer": cfg})
    before = [param.detach().clone() for param in model.parameters()]
    wrapper.update_params(model(torch.full((1, 4), 1e30)).sum() * float("inf"))
    assert not wrapper.optimizer.state_dict()["state"]
    assert all(torch.equal(old, new) for old, new in zip(before, model.parameters()))
    train(wrapper, model, batches(2))
    assert all(param.isfinite().all() for param in model.parameters())


def test_a_step_without_gradients_does_nothing() -> None:
    model = make_model()
    other = nn.Parameter(torch.ones(()))
    wrapper = make_wrapper(model, dtype="float16", clip_grad={"max_norm": 1.0})
    wrapper.update_params(other * 2)
    train(wrapper, model, batches(1))


@pytest.mark.parametrize(
    ("then", "now"),
    [
        ({"dtype": "float16"}, {"dtype": "bfloat16"}),
        ({"dtype": "bfloat16"}, {"dtype": "float16"}),
        ({"dtype": "float16", "loss_scale": 64.0}, {"dtype": "float16", "loss_scale": 256.0}),
        ({"dtype": "float16"}, None),
        (None, {"dtype": "float16"}),
    ],
)
def test_gradients_of_the_current_window_are_rescaled_to_the_current_loss_scale(then: Any, now: Any) -> None:
    def make(model: nn.Module, settings: Any) -> OptimWrapper:
        if settings is None:
            return OptimWrapper(torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9), accumulative_counts=3)
        return make_wrapper(model, accumulative_counts=3, **settings)

    model = make_model()
    first = make(model, then)
    train(first, model, batches(2))
    scale = first._loss_scale()
    unscaled = [param.grad / scale for param in model.parameters() if param.grad is not None]
    second = make(model, now)
    second.load_state_dict(through_file(first.state_dict()))
    now_unscaled = [param.grad / second._loss_scale() for param in model.parameters() if param.grad is not None]
    assert len(unscaled) == 4
    assert all(torch.equal(old, new) for old, new in zip(unscaled, now_unscaled))


def test_a_window_that_overflowed_starts_again_without_its_loss_scaler() -> None:
    model = make_model()
    first = make_wrapper(model, dtype="float16", accumulative_counts=3)
    first.update_params(model(batches(1)[0]).sum() * float("inf"))
    state = through_file(first.state_dict())
    first.zero_grad()
    second = make_wrapper(model, dtype="bfloat16", accumulative_counts=3)
    second.load_state_dict(state)
    assert all(param.grad is None for param in model.parameters())
    train(second, model, batches(3))
    assert all(param.grad is None and param.isfinite().all() for param in model.parameters())


@pytest.mark.parametrize("counts", [1, 2])
def test_a_loss_in_parts_is_scaled_like_a_whole_one_and_counted_once(counts: int) -> None:
    models = make_model(), make_model()
    whole, parts = (
        make_wrapper(model, dtype="float16", loss_scale=128.0, accumulative_counts=counts) for model in models
    )
    for batch in batches(2):
        with whole.optim_context(models[0]):
            whole.update_params(models[0](batch).float().square().mean())
        with parts.optim_context(models[1]):
            loss = models[1](batch).float().square().mean() / 2
            parts.accumulate(loss)
            assert parts.inner_count == whole.inner_count - 1
            parts.update_params(models[1](batch).float().square().mean() / 2)
    assert parts.inner_count == 2
    for one, two in zip(models[0].parameters(), models[1].parameters()):
        assert torch.allclose(one, two, rtol=1e-2, atol=1e-3)
        assert not torch.equal(two, torch.zeros_like(two))


def test_bfloat16_given_to_numpy_is_explained(tmp_path: Path) -> None:
    class ToNumpy(Line):
        def train_step(self, data: Any, optim_wrapper: Any) -> Any:
            with optim_wrapper.optim_context(self):
                return {"loss": self(data[0]).detach().numpy()}

    runner = make_runner(tmp_path, model=ToNumpy(), optim_wrapper={"type": "AmpOptimWrapper"}, device="cpu")
    with pytest.raises(TypeError, match="BFloat16") as error:
        runner.train()
    assert any("optim_wrapper.dtype='float16'" in note for note in error.value.__notes__)
