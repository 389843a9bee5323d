from typing import Any

import pytest
import torch

from trainwright.engine.errors import ConfigError, HookPointError
from trainwright.engine.parts import DEFAULT_HOOKS
from trainwright.engine.run.hook import Hook, Priority, get_priority
from trainwright.engine.run.hook_list import HookList, configured_hooks
from trainwright.engine.run.runner import Runner
from trainwright.engine.run.state import RunState


class Recorder(Hook):
    def __init__(self, name: str, calls: list[str], priority: Any = "NORMAL") -> None:
        self.name = name
        self.calls = calls
        self.priority = priority

    def before_train(self, runner: Any) -> None:
        self.calls.append(self.name)


def call(hooks: HookList, stage: str, **arguments: Any) -> None:
    """Call a hook point as a Runner does."""
    runner: Any = type("Run", (), {"_hooks": hooks, "state": RunState()})()
    Runner.call_hook(runner, stage, **arguments)


def test_a_misspelt_point_is_refused_when_the_class_is_defined() -> None:
    with pytest.raises(
        TypeError,
        match="(?s)test_hook.py.*Typo.after_train_iteration: this is not a hook point.*did you mean 'after_train_iter'",
    ):

        class Typo(Hook):
            def after_train_iteration(self, runner: Any) -> None: ...


def _takes_too_little(self: Any, runner: Any) -> None: ...
def _renames(self: Any, runner: Any, index: int, data_batch: Any = None, outputs: Any = None) -> None: ...
def _wants_more(self: Any, runner: Any, batch_idx: int, data_batch: Any, outputs: Any, extra: Any) -> None: ...
async def _is_async(self: Any, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None: ...
def _yields(self: Any, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> Any:
    yield


def _takes_anything(self: Any, *args: Any, **kwargs: Any) -> None: ...
def _names_the_runner_differently(self: Any, trainer: Any, batch_idx: int, **rest: Any) -> None: ...
def _has_an_optional_extra(
    self: Any, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None, extra: int = 1
) -> None: ...


@pytest.mark.parametrize(
    ("point", "problem"),
    [
        (
            _takes_too_little,
            r"called as after_train_iter\(runner, batch_idx=…, data_batch=…, outputs=…\), but .* \(runner.*unexpected",
        ),
        (torch.no_grad()(_takes_too_little), "unexpected keyword argument 'batch_idx'"),
        (staticmethod(_takes_too_little), "missing a required argument"),
        (classmethod(_takes_too_little), "unexpected"),
        (_renames, "unexpected|missing"),
        (_wants_more, "missing a required.*extra"),
        (_is_async, "never run"),
        (_yields, "never run"),
        (None, "not a method"),
    ],
)
def test_a_point_that_a_run_cannot_call_is_refused_when_the_class_is_defined(point: Any, problem: str) -> None:
    with pytest.raises(HookPointError, match=f"(?s)Wrong.after_train_iter: .*({problem})") as caught:
        type("Wrong", (Hook,), {"after_train_iter": point})
    assert "write def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None)" in str(caught.value)
    assert point is None or "test_hook.py:" in str(caught.value)


def test_a_point_of_all_modes_and_one_of_a_mixin_are_checked_too() -> None:
    with pytest.raises(HookPointError, match=r"called as _after_iter\(.*mode=…\).*unexpected keyword argument 'mode'"):

        class NoMode(Hook):
            def _after_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None: ...

    class Mixin:
        def after_val_epoch(self, runner: Any) -> None: ...

    with pytest.raises(
        HookPointError,
        match=r"Mixed.after_val_epoch: .*write def after_val_epoch\(self, runner, metrics=None\)".replace(
            ".*", "(?s:.*)"
        ),
    ):

        class Mixed(Mixin, Hook): ...


@pytest.mark.parametrize(
    "point",
    [_takes_anything, _names_the_runner_differently, _has_an_optional_extra, torch.no_grad()(_has_an_optional_extra)],
)
def test_a_point_that_can_be_called_may_have_another_signature(point: Any) -> None:
    hooks = HookList()
    hooks.add(type("Right", (Hook,), {"after_train_iter": point})())
    call(hooks, "after_train_iter", batch_idx=0, data_batch=None, outputs=None)


def test_static_and_class_methods_are_called_and_named() -> None:
    calls: list[Any] = []

    class Unbound(Hook):
        @staticmethod
        def before_train(runner: Any) -> None:
            calls.append("static")

        @classmethod
        def after_train(cls, runner: Any) -> None:
            raise RuntimeError(cls.__name__)

    hooks = HookList()
    hooks.add(Unbound())
    call(hooks, "before_train")
    with pytest.raises(RuntimeError) as caught:
        call(hooks, "after_train")
    assert calls == ["static"]
    assert caught.value.__notes__ == ["in Unbound.after_train"]
    assert "Unbound" in hooks.table()


def test_hooks_are_called_in_order_of_priority_and_of_registration() -> None:
    calls: list[str] = []
    hooks = HookList()
    for name, priority in [
        ("c", "LOW"),
        ("a", 10),
        ("b1", "NORMAL"),
        ("b2", "normal"),
        ("d", Priority.LOWEST),
    ]:
        hooks.add(Recorder(name, calls, priority))
    call(hooks, "before_train")
    assert calls == ["a", "b1", "b2", "c", "d"]


def test_only_overridden_points_are_called() -> None:
    class Shared(Hook):
        def _after_iter(
            self,
            runner: Any,
            batch_idx: int,
            data_batch: Any = None,
            outputs: Any = None,
            mode: str = "train",
        ) -> None:
            seen.append(mode)

    seen: list[str] = []
    hooks = HookList()
    hooks.add(Shared())
    assert Shared().get_triggered_stages() == ["after_train_iter", "after_val_iter", "after_test_iter"]
    assert hooks.calls["before_train"] == []
    call(hooks, "after_val_iter", batch_idx=0)
    assert seen == ["val"]


def test_an_error_keeps_its_traceback_and_names_the_hook() -> None:
    class Broken(Hook):
        def after_train(self, runner: Any) -> None:
            raise TypeError("oh no")

    hooks = HookList()
    hooks.add(Broken())
    with pytest.raises(TypeError, match="oh no") as caught:
        call(hooks, "after_train")
    assert caught.value.__notes__ == ["in Broken.after_train"]
    assert caught.traceback[-1].name == "after_train"


def test_an_unknown_point_is_named() -> None:
    with pytest.raises(ValueError, match="'after_trane': did you mean 'after_train'"):
        call(HookList(), "after_trane")


@pytest.mark.parametrize(("given", "number"), [("VERY_HIGH", 10), ("low", 70), (0, 0), (100, 100), (Priority.HIGH, 30)])
def test_priorities(given: Any, number: int) -> None:
    assert get_priority(given) == number


@pytest.mark.parametrize(
    ("given", "error"), [(101, ValueError), (-1, ValueError), ("URGENT", ValueError), (1.5, TypeError)]
)
def test_priorities_that_do_not_exist(given: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="priority"):
        get_priority(given)


def test_intervals_count_from_one_and_after_the_start() -> None:
    class Counters:
        epoch = iter = 5

    hook = Hook()
    assert hook.every_n_epochs(Counters(), 3)  # type: ignore[arg-type]
    assert not hook.every_n_epochs(Counters(), 4)  # type: ignore[arg-type]
    assert hook.every_n_epochs(Counters(), 2, start=4)  # type: ignore[arg-type]
    assert not hook.every_n_epochs(Counters(), 2, start=8)  # type: ignore[arg-type]
    assert not hook.every_n_train_iters(Counters(), 0)  # type: ignore[arg-type]
    assert hook.every_n_inner_iters(9, 5)
    assert hook.end_of_epoch(range(10), 9)


def test_default_hooks_are_changed_replaced_removed_and_added() -> None:
    extra = Hook()
    given = {"checkpoint": {"interval": 5}, "timer": None, "logger": extra, "mine": {"type": "EMAHook"}}
    hooks = dict(configured_hooks(given, [extra]))
    assert hooks["default_hooks.checkpoint"] == {"type": "CheckpointHook", "interval": 5}
    assert "default_hooks.timer" not in hooks
    assert hooks["default_hooks.logger"] is extra
    assert hooks["default_hooks.mine"] == {"type": "EMAHook"}
    assert hooks["custom_hooks.0"] is extra
    assert len(hooks) == len(DEFAULT_HOOKS) + 1


def test_a_misspelt_default_hook_is_named() -> None:
    with pytest.raises(ConfigError, match="(?s)default_hooks.chekpoint: .*did you mean 'checkpoint'"):
        dict(configured_hooks({"chekpoint": {"interval": 5}}, []))
