"""The optimizer wrapper against hand-written loops, bit for bit."""

import copy
import inspect
import io
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from trainwright.engine.errors import CheckpointError
from trainwright.engine.optim.amp import AmpOptimWrapper
from trainwright.engine.optim.state_layout import kept_settings
from trainwright.engine.optim.wrapper import OptimWrapper
from trainwright.engine.optim.wrapper_dict import OptimWrapperDict
from trainwright.engine.records.logger import get_logger
from trainwright.engine.records.message_hub import MessageHub


@pytest.fixture
def logged(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Warnings of the engine."""
    lines: list[str] = []
    monkeypatch.setattr(get_logger(), "warning", lambda text, *args: lines.append(text % args))
    return lines


def make_model() -> nn.Sequential:
    generator = torch.Generator().manual_seed(3)
    model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3))
    with torch.no_grad():
        for param in model.parameters():
            param.copy_(torch.randn(param.shape, generator=generator) * 0.5)
    return model


def make_optimizer(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)


def batches(count: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(7)
    return [torch.randn(5, 4, generator=generator) for _ in range(count)]


def loss_of(model: nn.Module, batch: Tensor) -> Tensor:
    return model(batch).square().mean()  # type: ignore[no-any-return]


def train(wrapper: OptimWrapper, model: nn.Module, data: list[Tensor]) -> None:
    for batch in data:
        with wrapper.optim_context(model):
            loss = loss_of(model, batch)
        wrapper.update_params(loss)


def assert_same(first: nn.Module, second: nn.Module) -> None:
    for (name, one), two in zip(first.named_parameters(), second.parameters()):
        assert torch.equal(one, two), name


def through_file(state: Any) -> Any:
    buffer = io.BytesIO()
    torch.save(state, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=True)


def by_hand(data: list[Tensor], windows: list[int], clip: float | None = None, value: float | None = None) -> nn.Module:
    """Train with an update after each window; windows are numbers of batches."""
    model = make_model()
    optimizer = make_optimizer(model)
    remaining = list(data)
    for window in windows:
        for batch in remaining[:window]:
            loss = loss_of(model, batch)
            (loss / window if window > 1 else loss).backward()  # type: ignore[no-untyped-call]
        del remaining[:window]
        if clip is not None:
            nn.utils.clip_grad_norm_(model.parameters(), clip)
        if value is not None:
            nn.utils.clip_grad_value_(model.parameters(), value)
        optimizer.step()
        optimizer.zero_grad()
    assert not remaining
    return model


@pytest.mark.parametrize(
    ("counts", "iterations", "windows"),
    [(1, 5, [1] * 5), (3, 9, [3, 3, 3]), (3, 10, [3, 3, 3, 1]), (4, 11, [4, 4, 3]), (8, 5, [5])],
)
def test_accumulation_is_a_hand_written_loop(counts: int, iterations: int, windows: list[int]) -> None:
    model = make_model()
    wrapper = OptimWrapper(make_optimizer(model), accumulative_counts=counts)
    wrapper.initialize_count_status(model, 0, iterations)
    train(wrapper, model, batches(iterations))
    assert_same(model, by_hand(batches(iterations), windows))
    assert wrapper.inner_count == iterations
    assert all(param.grad is None for param in model.parameters())


def test_without_a_known_end_the_last_window_stays_open() -> None:
    model = make_model()
    wrapper = OptimWrapper(make_optimizer(model), accumulative_counts=3)
    train(wrapper, model, batches(4))
    assert_same(model, by_hand(batches(3), [3]))
    assert all(param.grad is not None for param in model.parameters())


@pytest.mark.parametrize("counts", [1, 2])
def test_clipping_is_a_hand_written_loop_and_logs_the_norm(counts: int) -> None:
    model = make_model()
    clip_grad = {"max_norm": 0.05}
    wrapper = OptimWrapper(make_optimizer(model), counts, clip_grad)
    hub = MessageHub("clipping")
    with MessageHub.set_current(hub):
        train(wrapper, model, batches(4))
    assert_same(model, by_hand(batches(4), [counts] * (4 // counts), clip=0.05))
    assert clip_grad == {"max_norm": 0.05}
    assert len(hub.get_scalar("train/grad_norm")) == 4 // counts
    reference = make_model()
    for batch in batches(counts):
        (loss_of(reference, batch) / counts).backward()  # type: ignore[no-untyped-call]
    first_norm = nn.utils.clip_grad_norm_(reference.parameters(), 0.05)
    assert hub.get_scalar("train/grad_norm").data[0][0] == pytest.approx(float(first_norm), rel=1e-6)


def test_clipping_by_value() -> None:
    model = make_model()
    wrapper = OptimWrapper(make_optimizer(model), clip_grad={"type": "value", "clip_value": 0.01})
    train(wrapper, model, batches(4))
    assert_same(model, by_hand(batches(4), [1] * 4, value=0.01))


def test_nonfinite_gradients_raise_if_asked() -> None:
    model = make_model()
    wrapper = OptimWrapper(make_optimizer(model), clip_grad={"max_norm": 1.0, "error_if_nonfinite": True})
    with pytest.raises(RuntimeError, match="non-finite"):
        wrapper.update_params(loss_of(model, torch.full((1, 4), float("nan"))))


@pytest.mark.parametrize(
    ("clip_grad", "message"),
    [
        ({"max_nrom": 1.0}, "did you mean 'max_norm'"),
        ({"type": "norms", "max_norm": 1.0}, "must be 'norm' or 'value'"),
        ({"norm_type": 2}, "clip_grad: 'max_norm'"),
        ({}, "clip_grad: 'max_norm'"),
        ({"clip_value": 0.1}, "set type='value'"),
    ],
)
def test_wrong_clip_settings(clip_grad: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        OptimWrapper(make_optimizer(make_model()), clip_grad=clip_grad)


@pytest.mark.parametrize("counts", [0, -1, 1.5])
def test_wrong_counts(counts: Any) -> None:
    with pytest.raises(ValueError, match="accumulative_counts must be"):
        OptimWrapper(make_optimizer(make_model()), accumulative_counts=counts)


def test_counts_changed_at_a_boundary_begin_a_window_there() -> None:
    model = make_model()
    wrapper = OptimWrapper(make_optimizer(model), accumulative_counts=2)
    wrapper.initialize_count_status(model, 0, 15)
    data = batches(15)
    train(wrapper, model, data[:2])
    wrapper.accumulative_counts = 4
    train(wrapper, model, data[2:10])
    wrapper.accumulative_counts = 3
    train(wrapper, model, data[10:])
    assert_same(model, by_hand(data, [2, 4, 4, 3, 2]))


def test_counts_changed_within_a_window_take_effect_after_it() -> None:
    model = make_model()
    wrapper = OptimWrapper(make_optimizer(model), accumulative_counts=4)
    wrapper.initialize_count_status(model, 0, 11)
    data = batches(11)
    train(wrapper, model, data[:2])
    wrapper.accumulative_counts = 2
    assert wrapper.accumulative_counts == 4
    train(wrapper, model, data[2:])
    assert wrapper.accumulative_counts == 2
    assert_same(model, by_hand(data, [4, 2, 2, 2, 1]))


@pytest.mark.parametrize("stop", [2, 3, 4, 8, 10])
def test_a_resume_goes_on_to_the_same_bits_within_a_window_too(stop: int) -> None:
    data = batches(11)
    whole = make_model()
    wrapper = OptimWrapper(make_optimizer(whole), accumulative_counts=3)
    wrapper.initialize_count_status(whole, 0, 11)
    train(wrapper, whole, data)

    first = make_model()
    wrapper = OptimWrapper(make_optimizer(first), accumulative_counts=3)
    wrapper.initialize_count_status(first, 0, 11)
    train(wrapper, first, data[:stop])
    state, weights = through_file((wrapper.state_dict(), first.state_dict()))
    assert ("grads" in state["accumulation"]) is (stop % 3 != 0)

    second = make_model()
    second.load_state_dict(weights)
    wrapper = OptimWrapper(make_optimizer(second), accumulative_counts=3)
    wrapper.load_state_dict(state)
    wrapper.initialize_count_status(second, stop, 11)
    train(wrapper, second, data[stop:])
    assert_same(second, whole)


def test_changed_counts_take_effect_after_the_window_that_was_resumed() -> None:
    data = batches(10)
    first = make_model()
    wrapper = OptimWrapper(make_optimizer(first), accumulative_counts=3)
    train(wrapper, first, data[:4])
    second = make_model()
    second.load_state_dict(first.state_dict())
    resumed = OptimWrapper(make_optimizer(second), accumulative_counts=2)
    resumed.load_state_dict(through_file(wrapper.state_dict()))
    resumed.initialize_count_status(second, 4, 10)
    train(resumed, second, data[4:])
    assert_same(second, by_hand(data, [3, 3, 2, 2]))


def test_gradients_of_other_parameters_are_refused() -> None:
    model = make_model()
    wrapper = OptimWrapper(make_optimizer(model), accumulative_counts=2)
    train(wrapper, model, batches(1))
    state = wrapper.state_dict()
    state["accumulation"]["grads"][0] = torch.zeros(2, 2)
    with pytest.raises(CheckpointError, match="belong to other parameters"):
        wrapper.load_state_dict(state)


def test_mmengines_state_loads_and_the_given_dict_stays_whole() -> None:
    model = make_model()
    wrapper = OptimWrapper(make_optimizer(model), accumulative_counts=3)
    state = make_optimizer(model).state_dict()
    state["param_groups"][0]["lr"] = 0.025
    keys = set(state)
    wrapper.load_state_dict(state)
    assert set(state) == keys
    assert wrapper.get_lr() == {"lr": [0.025]}
    wrapper.initialize_count_status(model, 6, 100)
    assert wrapper.inner_count == 6


def test_settings_that_the_checkpoint_overrules_are_named() -> None:
    model = make_model()
    saved = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.01)
    saved.param_groups[0].update(initial_lr=0.1, lr=0.003)
    own = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.05, fused=True)
    assert kept_settings(saved.state_dict()["param_groups"], own.param_groups) == [
        "weight_decay=0.01 from the checkpoint overrides 0.05 from the config"
    ]
    own.param_groups[0]["lr"] = 0.2
    assert "lr=0.1 from the checkpoint overrides 0.2 from the config" in kept_settings(
        saved.state_dict()["param_groups"], own.param_groups
    )


def test_the_implementation_is_the_configs_after_a_resume(monkeypatch: pytest.MonkeyPatch) -> None:
    lines: list[str] = []
    monkeypatch.setattr(get_logger(), "info", lambda text, *args: lines.append(text % args))
    model = make_model()
    old = torch.optim.Adam(model.parameters(), lr=0.1, foreach=True)
    loss_of(model, batches(1)[0]).backward()  # type: ignore[no-untyped-call]
    old.step()
    wrapper = OptimWrapper(torch.optim.Adam(model.parameters(), lr=0.2, fused=True))
    wrapper.load_state_dict(old.state_dict())
    change = "fused: None -> True, foreach: True -> None"
    assert len(lines) == 1 and change in lines[0]
    group = wrapper.param_groups[0]
    assert (group["fused"], group["foreach"], group["lr"]) == (True, None, 0.1)
    train(wrapper, model, batches(1))


def test_several_groups_show_the_base_settings() -> None:
    model = make_model()
    wrapper = OptimWrapper(
        torch.optim.SGD(
            [{"params": model[0].parameters(), "lr": 0.5}, {"params": model[2].parameters()}],
            lr=0.1,
            momentum=0.9,
        )
    )
    assert wrapper.get_lr() == {"base_lr": [0.1], "lr": [0.5, 0.1]}
    assert wrapper.get_momentum() == {"momentum": [0.9, 0.9]}
    assert len(wrapper.param_groups) == 3
    wrapper.param_groups[-1]["lr"] = 0.01
    state = through_file(wrapper.state_dict())
    assert state["base_param_settings"]["lr"] == 0.01
    other = OptimWrapper(
        torch.optim.SGD([{"params": model[0].parameters()}, {"params": model[2].parameters()}], lr=0.1)
    )
    other.load_state_dict(state)
    assert other.get_lr() == {"base_lr": [0.01], "lr": [0.5, 0.1]}


def test_one_group_has_no_base_settings() -> None:
    wrapper = OptimWrapper(torch.optim.Adam(make_model().parameters(), lr=0.1, betas=(0.8, 0.9)))
    assert wrapper.get_lr() == {"lr": [0.1]}
    assert wrapper.get_momentum() == {"momentum": [0.8]}
    assert wrapper.param_groups is wrapper.optimizer.param_groups
    assert "base_param_settings" not in wrapper.state_dict()
    assert wrapper.defaults["betas"] == (0.8, 0.9)


class Syncing(nn.Linear):
    """A layer that counts contexts without gradient synchronization."""

    quiet = 0

    @contextmanager
    def no_sync(self) -> Any:
        self.quiet += 1
        yield


def test_gradients_are_exchanged_once_a_window() -> None:
    model = Syncing(4, 2)
    wrapper = OptimWrapper(torch.optim.SGD(model.parameters(), lr=0.1), accumulative_counts=3)
    wrapper.initialize_count_status(model, 0, 8)
    train(wrapper, model, batches(8))  # windows of 3, 3, 2
    assert model.quiet == 2 + 2 + 1


def test_arguments_of_step_and_zero_grad_reach_the_optimizer() -> None:
    model = make_model()
    wrapper = OptimWrapper(make_optimizer(model))
    wrapper.update_params(loss_of(model, batches(1)[0]), zero_kwargs={"set_to_none": False})
    assert all(param.grad is not None and not param.grad.any() for param in model.parameters())


def test_lbfgs_is_refused_without_a_closure_and_works_with_one() -> None:
    model = make_model()
    optimizer = torch.optim.LBFGS(model.parameters(), lr=0.5)
    wrapper = OptimWrapper(optimizer)
    batch = batches(1)[0]
    with pytest.raises(ValueError, match="LBFGS evaluates the loss several times"):
        wrapper.update_params(loss_of(model, batch))

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = loss_of(model, batch)
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    before = loss_of(model, batch).item()
    wrapper.update_params(loss_of(model, batch), step_kwargs={"closure": closure})
    assert loss_of(model, batch).item() < 0.1 * before


def make_dict() -> tuple[nn.Sequential, OptimWrapperDict]:
    model = make_model()
    return model, OptimWrapperDict(
        body=OptimWrapper(torch.optim.SGD(model[0].parameters(), lr=0.1, momentum=0.9), accumulative_counts=2),
        head=OptimWrapper(torch.optim.Adam([{"params": [param]} for param in model[2].parameters()], lr=0.2)),
    )


def test_several_wrappers_in_one() -> None:
    model, wrappers = make_dict()
    assert (len(wrappers), list(wrappers.keys()), "head" in wrappers) == (2, ["body", "head"], True)
    assert wrappers.get_lr() == {"body.lr": [0.1], "head.base_lr": [0.2], "head.lr": [0.2, 0.2]}
    assert wrappers.get_momentum() == {"body.momentum": [0.9], "head.momentum": [0.9, 0.9]}
    assert list(wrappers.param_groups) == ["body", "head"]
    for name in ("body", "head"):
        wrappers[name].update_params(loss_of(model, batches(1)[0]))
    state = through_file(wrappers.state_dict())
    _, others = make_dict()
    others.load_state_dict(state)
    assert others["body"].inner_count == 1
    assert [name for name, _ in others.items()] == list(state)
    others.zero_grad()
    with pytest.raises(CheckpointError, match=r"\['body', 'head'\]"):
        others.load_state_dict({"body": state["body"]})


def test_one_wrapper_and_several_are_asked_alike() -> None:
    model, wrappers = make_dict()
    assert isinstance(wrappers, OptimWrapper)
    assert issubclass(OptimWrapperDict, OptimWrapper)
    assert list(wrappers.optim_wrappers.values()) == list(wrappers.values())
    one = wrappers["body"]
    assert one.optim_wrappers == {"": one}
    assert [one.has_completed(losses) for losses in (0, 1)] == [True, False]
    one.update_params(loss_of(model, batches(1)[0]))
    assert [one.has_completed(losses) for losses in (0, 1)] == [False, False]  # a window of two is in progress
    one.update_params(loss_of(model, batches(1)[0]))
    assert one.has_completed(2)
    assert not wrappers.has_completed(0)


def test_a_wrapper_of_mmengine_that_counts_by_itself() -> None:
    class Doubling(OptimWrapper):
        def backward(self, loss: Tensor, **kwargs: Any) -> None:
            (2 * loss).backward(**kwargs)  # type: ignore[no-untyped-call]
            self._inner_count += 1

        def last_window(self) -> bool:
            return self._max_counts - self._inner_count < self._accumulative_counts

    model = make_model()
    wrapper = Doubling(torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9), accumulative_counts=3)
    assert wrapper._max_counts == -1
    wrapper.initialize_count_status(model, 0, 7)
    seen = []
    for batch in batches(7):
        seen.append(wrapper.last_window())
        wrapper.update_params(loss_of(model, batch))
    assert seen == [False] * 5 + [True] * 2
    for one, two in zip(model.parameters(), by_hand(batches(7), [3, 3, 1]).parameters()):
        assert torch.allclose(one, two)
    wrapper._accumulative_counts, wrapper._max_counts = 2, -1
    assert (wrapper.accumulative_counts, wrapper._max_counts) == (2, -1)


@pytest.mark.parametrize(("losses", "windows"), [(4, [3, 3, 3]), (5, [3, 3, 3]), (7, [3, 3, 1, 2])])
def test_a_run_that_is_continued_keeps_its_window_and_another_run_counts_from_its_own_start(
    losses: int, windows: list[int]
) -> None:
    data = batches(9)
    model = make_model()
    wrapper = OptimWrapper(make_optimizer(model), accumulative_counts=3)
    wrapper.initialize_count_status(model, 0, 7)
    train(wrapper, model, data[:losses])
    wrapper.initialize_count_status(model, losses, 9)
    train(wrapper, model, data[losses:])
    for one, two in zip(model.parameters(), by_hand(data, windows).parameters()):
        assert torch.allclose(one, two, rtol=1e-6, atol=1e-8)
    wrapper.initialize_count_status(model, 0, 7)
    assert (wrapper.inner_count, wrapper.should_update()) == (0, True)


@pytest.mark.parametrize("method", ["update_params", "backward"])
def test_several_wrappers_refuse_what_belongs_to_one(method: str) -> None:
    model, wrappers = make_dict()
    with pytest.raises(NotImplementedError, match=r"optim_wrapper\[name\], one of body, head"):
        getattr(wrappers, method)(loss_of(model, batches(1)[0]))
    with pytest.raises(NotImplementedError):
        wrappers.step()
    with pytest.raises(NotImplementedError, match="accumulative_counts"):
        wrappers.accumulative_counts = 2
    with pytest.raises(KeyError, match="did you mean 'head'"):
        wrappers["haed"]
    with pytest.raises(TypeError, match="expects optimizer wrappers"):
        OptimWrapperDict(body=make_optimizer(model))  # type: ignore[arg-type]


def test_training_does_not_wait_for_the_device() -> None:
    """A clipped step works without reading any value from a tensor."""

    class Unreadable(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            assert "_local_scalar_dense" not in str(func), "a value was read from a tensor"
            return func(*args, **(kwargs or {}))

    model = make_model()
    wrapper = OptimWrapper(torch.optim.SGD(model.parameters(), lr=0.1, fused=True), 2, {"max_norm": 1.0})
    with MessageHub.set_current(MessageHub("unread")), Unreadable():
        train(wrapper, model, batches(4))


# a different optimizer than in the checkpoint


OPTIMIZER_CLASSES: list[Any] = [
    torch.optim.SGD,
    torch.optim.Adam,
    torch.optim.AdamW,
    torch.optim.RMSprop,
    torch.optim.Adagrad,
    torch.optim.Adamax,
    torch.optim.RAdam,
    torch.optim.NAdam,
    torch.optim.Rprop,
]


def trained_wrapper(optimizer_class: Any, **settings: Any) -> tuple[nn.Module, OptimWrapper]:
    model = make_model()
    wrapper = OptimWrapper(optimizer_class(model.parameters(), lr=0.01, **settings))
    train(wrapper, model, batches(2))
    return model, wrapper


ADAM_TELLS_ADAMW = "decoupled_weight_decay" in inspect.signature(torch.optim.Adam).parameters  # not in PyTorch 2.6
SAME_SETTINGS = [(torch.optim.Adamax, torch.optim.RAdam)]
if not ADAM_TELLS_ADAMW:
    SAME_SETTINGS += [(torch.optim.Adam, torch.optim.AdamW), (torch.optim.AdamW, torch.optim.Adam)]


@pytest.mark.parametrize("named", [True, False])
@pytest.mark.parametrize("then", OPTIMIZER_CLASSES)
def test_an_optimizer_of_another_class_is_refused(then: Any, named: bool) -> None:
    """Also if the state does not contain the class name, as in MMEngine."""
    _, saved = trained_wrapper(then)
    state = through_file(saved.state_dict())
    if not named:
        del state["class_name"]
    for now in OPTIMIZER_CLASSES:
        if not named and (then, now) in SAME_SETTINGS:
            continue
        model, wrapper = trained_wrapper(now)
        if now is then:
            wrapper.load_state_dict(state)
            train(wrapper, model, batches(1))
            continue
        expected = f"with {then.__name__}, but .* is {now.__name__}" if named else f"not saved with {now.__name__}"
        with pytest.raises(CheckpointError, match=expected) as caught:
            wrapper.load_state_dict(state)
        assert "start a new run from its weights (load_from, without resume)" in str(caught.value)


def test_several_optimizers_and_one_are_not_confused() -> None:
    model, one = trained_wrapper(torch.optim.SGD)
    _, several = make_dict()
    with pytest.raises(CheckpointError, match=r"several optimizers \(body, head\)"):
        one.load_state_dict(several.state_dict())
    with pytest.raises(CheckpointError, match=r"one optimizer, .*\['body', 'head'\]"):
        several.load_state_dict(one.state_dict())
    others = OptimWrapperDict(
        body=OptimWrapper(torch.optim.Adam(model[0].parameters())),  # type: ignore[index]
        head=several["head"],
    )
    with pytest.raises(CheckpointError, match="optim_wrapper.body: .* SGD"):
        others.load_state_dict(several.state_dict())


@pytest.mark.parametrize(
    ("optimizer_class", "setting", "then", "now"),
    [
        (torch.optim.SGD, "momentum", 0, 0.9),
        (torch.optim.SGD, "momentum", 0.9, 0),
        (torch.optim.SGD, "maximize", False, True),
        (torch.optim.Adam, "amsgrad", False, True),
        (torch.optim.Adam, "amsgrad", True, False),
        (torch.optim.Adam, "betas", (0.9, 0.999), (0.8, 0.9)),
        pytest.param(
            torch.optim.Adam,
            "decoupled_weight_decay",
            False,
            True,
            marks=pytest.mark.skipif(not ADAM_TELLS_ADAMW, reason="this PyTorch's Adam has no such setting"),
        ),
        (torch.optim.RMSprop, "centered", False, True),
        (torch.optim.RMSprop, "momentum", 0, 0.9),
        (torch.optim.Adagrad, "initial_accumulator_value", 0, 0.5),
        (torch.optim.Rprop, "etas", (0.5, 1.2), (0.4, 1.1)),
    ],
)
def test_a_setting_of_the_checkpoint_overrides_the_config_as_logged(
    optimizer_class: Any, setting: str, then: Any, now: Any, logged: list[str]
) -> None:
    model, saved = trained_wrapper(optimizer_class, **{setting: then})
    reference = copy.deepcopy(model)
    wrapper = OptimWrapper(optimizer_class(reference.parameters(), lr=0.01, **{setting: now}))
    wrapper.load_state_dict(through_file(saved.state_dict()))
    assert logged == [f"optimizer: {setting}={then} from the checkpoint overrides {now} from the config"]
    data = batches(4)[2:]
    train(saved, model, data)
    train(wrapper, reference, data)
    assert_same(reference, model)
    assert wrapper.state_dict()["param_groups"][0][setting] == then


def test_what_a_state_lacks_is_taken_from_the_config() -> None:
    model, saved = trained_wrapper(torch.optim.SGD)
    state = saved.state_dict()
    wrapper = OptimWrapper(torch.optim.SGD([{"params": model.parameters(), "note": "mine"}], lr=0.1))
    wrapper.param_groups[0]["initial_lr"] = 0.5
    wrapper.load_state_dict(state)
    assert wrapper.param_groups[0]["note"] == "mine"
    assert "initial_lr" not in wrapper.param_groups[0]


def test_a_group_that_is_split_brings_the_base_settings_with_it() -> None:
    model, saved = trained_wrapper(torch.optim.SGD)
    saved.param_groups[0].update(lr=0.003, initial_lr=0.01)
    wrapper = OptimWrapper(
        torch.optim.SGD([{"params": model[0].parameters()}, {"params": model[2].parameters()}], lr=0.2)  # type: ignore[index]
    )
    wrapper.load_state_dict(through_file(saved.state_dict()))
    assert wrapper.get_lr() == {"base_lr": [0.003], "lr": [0.003, 0.003]}
    assert [group["initial_lr"] for group in wrapper.param_groups] == [0.01] * 3


# accumulation windows that change on a resume


@pytest.mark.parametrize("stop", range(1, 12))
@pytest.mark.parametrize(("before", "after"), [(6, 12), (6, 7), (9, 6), (12, 11), (11, 12), (6, 6)])
def test_every_window_is_a_mean_also_where_the_end_of_the_run_was_moved(before: int, after: int, stop: int) -> None:
    """An interrupted window with a new length is divided by the new length only."""
    if stop >= min(before, after):
        return
    data = batches(after)
    first = make_model()
    wrapper = OptimWrapper(make_optimizer(first), accumulative_counts=4)
    wrapper.initialize_count_status(first, 0, before)
    train(wrapper, first, data[:stop])
    second = make_model()
    second.load_state_dict(first.state_dict())
    resumed = OptimWrapper(make_optimizer(second), accumulative_counts=4)
    resumed.load_state_dict(through_file(wrapper.state_dict()))
    resumed.initialize_count_status(second, stop, after)
    train(resumed, second, data[stop:])
    windows = [4] * (after // 4) + ([after % 4] if after % 4 else [])
    for one, two in zip(second.parameters(), by_hand(data, windows).parameters()):
        assert torch.allclose(one, two, rtol=1e-6, atol=1e-8)
    assert all(param.grad is None for param in second.parameters())


def test_gathered_gradients_follow_their_parameters_into_other_groups() -> None:
    def grouped(model: Any, order: list[int]) -> OptimWrapper:
        params = [*model.parameters()]
        groups = [{"params": [params[index]], "weight_decay": 0.0} for index in order]
        wrapper = OptimWrapper(torch.optim.SGD(groups, lr=0.1, momentum=0.9), accumulative_counts=3)
        wrapper.param_order = order
        return wrapper

    square = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    wrapper = grouped(square, [0, 1, 2, 3])
    train(wrapper, square, batches(4))
    grads = [param.grad.clone() for param in square.parameters() if param.grad is not None]
    state = through_file(wrapper.state_dict())
    other = grouped(square, [2, 3, 0, 1])
    other.zero_grad()
    other.load_state_dict(state)
    assert all(torch.equal(param.grad, grad) for param, grad in zip(square.parameters(), grads))  # type: ignore[arg-type]


@pytest.mark.parametrize("stop", range(1, 9))
def test_several_wrappers_resume_to_the_same_bits(stop: int) -> None:
    """Mixed precision with an overflow, accumulation, clipping, and an initially frozen parameter."""

    def make(model: Any) -> OptimWrapperDict:
        model[0].bias.requires_grad_(False)
        return OptimWrapperDict(
            body=AmpOptimWrapper(
                optimizer=torch.optim.SGD(model[0].parameters(), lr=0.1, momentum=0.9),
                dtype="float16",
                accumulative_counts=3,
                clip_grad={"max_norm": 0.5},
                loss_scale={"init_scale": 2.0**24, "growth_interval": 2},
            ),
            head=OptimWrapper(torch.optim.AdamW(model[2].parameters(), lr=0.01, fused=True), accumulative_counts=2),
        )

    def run(model: Any, wrappers: OptimWrapperDict, start: int, end: int) -> None:
        for index in range(start, end):
            if index == 4:
                model[0].bias.requires_grad_(True)
            with wrappers["body"].optim_context(model):
                features = model[0](batches(9)[index])
            wrappers["body"].update_params(features.float().square().mean())
            wrappers["head"].update_params(model[2](features.detach().float()).square().mean())

    whole = make_model()
    wrappers = make(whole)
    run(whole, wrappers, 0, 9)
    first = make_model()
    cut = make(first)
    run(first, cut, 0, stop)
    second = make_model()
    resumed = make(second)
    second.load_state_dict(through_file(first.state_dict()))
    second[0].bias.requires_grad_(stop > 4)  # type: ignore[union-attr]
    resumed.load_state_dict(through_file(cut.state_dict()))
    run(second, resumed, stop, 9)
    assert_same(second, whole)
    assert str(resumed.state_dict()) == str(wrappers.state_dict())
