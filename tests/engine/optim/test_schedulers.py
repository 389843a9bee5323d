"""Schedulers: values compared with closed forms and MMEngine, and resuming."""

import inspect
import io
import json
import math
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, Unpack

import pytest
import torch
from torch import nn

from trainwright.engine.errors import CheckpointError, ConfigError
from trainwright.engine.optim import rules, schedulers
from trainwright.engine.optim.param_scheduler import INF, ParamScheduler, Schedule, _ParamScheduler
from trainwright.engine.optim.rules import LinearParamScheduler, ReduceOnPlateauParamScheduler
from trainwright.engine.optim.scheduler_resume import resume_param_schedulers
from trainwright.engine.optim.schedulers import (
    CosineAnnealingLR,
    CosineAnnealingMomentum,
    ExponentialLR,
    LinearLR,
    LRSchedulerMixin,
    MultiStepLR,
    OneCycleLR,
    PolyLR,
    ReduceOnPlateauLR,
    StepLR,
    beyond_end,
    build_param_scheduler,
)
from trainwright.engine.optim.wrapper import OptimWrapper
from trainwright.engine.optim.wrapper_dict import OptimWrapperDict
from trainwright.engine.records.logger import get_logger
from trainwright.engine.registry import PARAM_SCHEDULERS

ORACLE = json.loads((Path(__file__).parent / "mmengine_scheduler_values.json").read_text())


def make_wrapper(optimizer: str = "sgd", groups: int = 2) -> OptimWrapper:
    first, second = nn.Parameter(torch.ones(1)), nn.Parameter(torch.ones(1))
    params: list[dict[str, Any]] = [{"params": [first]}]
    if groups == 2:
        params.append({"params": [second], "lr": 0.02, "weight_decay": 0.03})
    if optimizer == "sgd":
        return OptimWrapper(torch.optim.SGD(params, lr=0.1, momentum=0.9, weight_decay=0.01))
    return OptimWrapper(torch.optim.Adam(params, lr=0.1, betas=(0.9, 0.99), weight_decay=0.01))


def class_of(name: str) -> Any:
    return getattr(schedulers, name, None) or getattr(rules, name)


def lrs(wrapper: OptimWrapper) -> list[float]:
    return [group["lr"] for group in wrapper.param_groups]


def curve(steps: int, make: Callable[[OptimWrapper], _ParamScheduler]) -> list[float]:
    """Return learning rates of one group, starting at 0.1, from construction on."""
    wrapper = make_wrapper(groups=1)
    scheduler = make(wrapper)
    values = []
    for _ in range(steps):
        values.append(wrapper.param_groups[0]["lr"])
        scheduler.step()
    return values


@pytest.mark.parametrize("case", ORACLE, ids=lambda case: f"{case['type']}-{case['optimizer']}")
def test_the_numbers_are_mmengines_to_the_last_bit(case: dict[str, Any]) -> None:
    wrapper = make_wrapper(case["optimizer"])
    settings = dict(case["settings"])
    values = []
    if case["type"] == "chain":
        chain: list[_ParamScheduler] = [
            LinearLR(wrapper, start_factor=0.01, by_epoch=False, begin=0, end=4),
            CosineAnnealingLR(wrapper, by_epoch=False, begin=4, end=12, eta_min=1e-3),
            ExponentialLR(wrapper, gamma=0.97, by_epoch=False),
        ]
        for _ in case["values"]:
            values.append(lrs(wrapper))
            for scheduler in chain:
                scheduler.step()
    elif case["type"] == "ReduceOnPlateauLR":
        metrics = settings.pop("metrics")
        plateau = ReduceOnPlateauLR(wrapper, **settings)
        for metric in metrics:
            plateau.step()
            plateau.step({plateau.monitor: metric})
            values.append(plateau.get_last_value())
    else:
        name, _, classmethod_name = case["type"].partition(".")
        if classmethod_name:
            scheduler = class_of(name).build_iter_from_epoch(wrapper, epoch_length=4, **settings)
            assert not scheduler.by_epoch
        else:
            scheduler = class_of(name)(wrapper, **settings)
        for expected in case["values"]:
            values.append(scheduler.get_last_value())
            if case["optimizer"] == "adam":
                assert [group["betas"][0] for group in wrapper.param_groups] == expected
            scheduler.step()
    assert values == case["values"]


def test_closed_forms() -> None:
    close = {"rel": 1e-12, "abs": 1e-15}
    cosine = curve(21, lambda w: CosineAnnealingLR(w, T_max=20, eta_min=0.01))
    assert cosine == pytest.approx([0.01 + 0.09 * (1 + math.cos(math.pi * t / 20)) / 2 for t in range(21)], **close)
    linear = curve(8, lambda w: LinearLR(w, start_factor=0.2, end_factor=1.0, end=5))
    assert linear == pytest.approx([0.1 * (0.2 + 0.8 * min(t, 4) / 4) for t in range(8)], **close)
    poly = curve(10, lambda w: PolyLR(w, power=2.0, eta_min=0.001, end=10))
    assert poly == pytest.approx([0.001 + 0.099 * (1 - t / 9) ** 2 for t in range(10)], **close)
    exponential = curve(6, lambda w: ExponentialLR(w, gamma=0.8))
    assert exponential == pytest.approx([0.1 * 0.8**t for t in range(6)], **close)
    steps = curve(10, lambda w: StepLR(w, step_size=3, gamma=0.5))
    assert steps == pytest.approx([0.1 * 0.5 ** (t // 3) for t in range(10)], **close)
    milestones = curve(8, lambda w: MultiStepLR(w, milestones=[2, 5, 5], gamma=0.1))
    assert milestones == pytest.approx([0.1, 0.1, 0.01, 0.01, 0.01, 1e-4, 1e-4, 1e-4], **close)


def test_one_cycle_and_the_others_agree_with_torch_where_torch_means_the_same() -> None:
    param = nn.Parameter(torch.ones(1))
    reference = torch.optim.SGD([param], lr=0.1)
    cycle = torch.optim.lr_scheduler.OneCycleLR(reference, 0.5, total_steps=30, cycle_momentum=False)
    expected = []
    for _ in range(29):
        expected.append(reference.param_groups[0]["lr"])
        reference.step()
        cycle.step()
    ours = curve(29, lambda w: OneCycleLR(w, eta_max=0.5, total_steps=30))
    assert ours == pytest.approx(expected, rel=1e-12)


def test_one_cycle_with_a_peak_at_the_first_step() -> None:
    values = curve(3, lambda w: OneCycleLR(w, eta_max=0.5, total_steps=10, pct_start=0.1))
    assert values[0] == 0.5
    assert values[1] < 0.5


def test_constant_factor_zero_comes_back() -> None:
    values = curve(5, lambda w: schedulers.ConstantLR(w, factor=0.0, end=3))
    assert values == [0.0, 0.0, 0.1, 0.1, 0.1]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda w: LinearLR(w, begin=5, end=5), "end must be after begin"),
        (lambda w: LinearLR(w, start_factor=1.5), "start_factor must be in"),
        (lambda w: LinearLR(w, start_factor=0), "start_factor must be above 0"),
        (lambda w: LinearLR(w, last_step=3), "has no 'initial_lr'"),
        (lambda w: LinearParamScheduler(w, "weight_dekay"), "did you mean 'weight_decay'"),
        (lambda w: CosineAnnealingLR(w, eta_min=0.1, eta_min_ratio=0.1), "either eta_min or eta_min_ratio"),
        (
            lambda w: schedulers.CosineRestartLR(w, periods=[1, 2], eta_min=0),
            "2 periods but 1 restart_weights",
        ),
        (lambda w: OneCycleLR(w, eta_max=1.0, total_steps=10, pct_start=2.0), "pct_start"),
        (lambda w: OneCycleLR(w, eta_max=[1.0] * 5, total_steps=10), "eta_max has 5 values"),
        (lambda w: ReduceOnPlateauLR(w, factor=1.0), "factor must be below 1"),
        (lambda w: ReduceOnPlateauLR(w, by_epoch=False), "by_epoch must be True"),
        (lambda w: ReduceOnPlateauLR(w, min_value=[0.0] * 7), "min_value has 7 values"),
        (lambda w: ExponentialLR.build_iter_from_epoch(w, gamma=0.9), "needs epoch_length"),
    ],
)
def test_settings_out_of_range_are_refused(make: Callable[[OptimWrapper], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(make_wrapper())


def test_one_cycle_refuses_steps_beyond_its_end() -> None:
    with pytest.raises(ValueError, match="step 6 .* total_steps=5"):
        curve(8, lambda w: OneCycleLR(w, eta_max=0.5, total_steps=5))


def test_momentum_needs_an_optimizer_that_has_one() -> None:
    wrapper = OptimWrapper(torch.optim.Adagrad([nn.Parameter(torch.ones(1))]))
    with pytest.raises(ValueError, match="no momentum to schedule"):
        schedulers.LinearMomentum(wrapper)


def test_a_missing_metric_is_named_with_those_there_are() -> None:
    scheduler = ReduceOnPlateauLR(make_wrapper(), monitor="acc")
    with pytest.raises(ConfigError, match="param_scheduler.monitor: .* no 'acc'") as caught:
        scheduler.step({"val/accuracy": 1.0, "val/f1": 0.5})
    assert "val/accuracy, val/f1" in str(caught.value)


def test_reduce_on_plateau_counts_epochs_without_metrics() -> None:
    scheduler = ReduceOnPlateauLR(make_wrapper())
    scheduler.step()
    assert (scheduler._global_step, scheduler.last_step) == (1, -1)
    assert scheduler.need_val_args
    assert ReduceOnPlateauParamScheduler.need_val_args


def test_verbose_logs_each_change(monkeypatch: pytest.MonkeyPatch) -> None:
    lines: list[str] = []
    monkeypatch.setattr(get_logger(), "info", lambda text, *args: lines.append(text % args))
    scheduler = StepLR(make_wrapper(groups=1), step_size=1, gamma=0.5, verbose=True)
    scheduler.step()
    assert lines == ["lr of group 0: 1.0000e-01 in epoch 0", "lr of group 0: 5.0000e-02 in epoch 1"]


def test_signature_and_help_name_every_argument() -> None:
    assert str(inspect.signature(StepLR)).partition("step_size")[2] == (
        f": int, gamma: float = 0.1, *, begin: int = 0, end: int = {INF}, last_step: int = -1, by_epoch: bool = True, "
        "verbose: bool = False)"
    )
    assert "Multiply the learning rate by ``gamma``" in str(StepLR.__doc__)
    assert "Multiply the momentum by ``gamma``" in str(schedulers.StepMomentum.__doc__)
    for name, cls in list(PARAM_SCHEDULERS.module_dict.items()):
        if not cls.__module__.startswith("trainwright."):
            continue
        signature = inspect.signature(cls)
        assert ("param_name" in signature.parameters) is name.endswith("ParamScheduler")
        for argument in signature.parameters.keys() - {"optimizer", "param_name", *Schedule.__annotations__}:
            assert f"{argument}: " in str(cls.__doc__), (name, argument)


# custom schedulers


class InverseSqrt(ParamScheduler):
    """A scheduler in closed form, which reaches zero."""

    def __init__(self, optimizer: Any, param_name: str, scale: float = 2.0, **schedule: Unpack[Schedule]) -> None:
        self.scale = scale
        super().__init__(optimizer, param_name, **schedule)

    def _get_factor(self, step: int) -> float:
        return max(0.0, (1 + step / self.scale) ** -0.5 - 0.5) if step < 8 else 0.25


class InverseSqrtLR(LRSchedulerMixin, InverseSqrt):
    pass


def test_a_closed_form_is_that_of_the_initial_value_and_chains() -> None:
    expected = [0.1 * max(0.0, (1 + t / 2) ** -0.5 - 0.5) for t in range(8)] + [0.025] * 2
    assert expected[6] == 0  # and comes back
    assert curve(10, InverseSqrtLR) == pytest.approx(expected)
    wrapper = make_wrapper(groups=1)
    chain = [StepLR(wrapper, step_size=2, gamma=0.5), InverseSqrtLR(wrapper)]
    values = []
    for _ in range(6):
        values.append(lrs(wrapper)[0])
        for scheduler in chain:
            scheduler.step()
    assert values == pytest.approx([value * 0.5 ** (t // 2) for t, value in enumerate(expected[:6])])


def test_the_example_in_the_docstring(monkeypatch: pytest.MonkeyPatch) -> None:
    code = "\n".join(re.findall(r"^ +(?:>>>|\.\.\.) ?(.*)$", str(ParamScheduler.__doc__), re.MULTILINE))
    monkeypatch.setattr(PARAM_SCHEDULERS, "_module_dict", dict(PARAM_SCHEDULERS.module_dict))
    namespace: dict[str, Any] = dict(globals(), __name__="example")
    exec(code, namespace)
    assert curve(
        4, lambda wrapper: PARAM_SCHEDULERS.build(dict(type="InverseSqrtLR", scale=4.0), optimizer=wrapper)
    ) == (pytest.approx([0.1 * (1 + t / 4) ** -0.5 for t in range(4)]))


def test_a_scheduler_without_a_rule_or_with_too_few_values_is_refused() -> None:
    with pytest.raises(NotImplementedError, match="_get_factor or _get_value"):
        ParamScheduler(make_wrapper(), "lr")

    class First(ParamScheduler):
        def _get_value(self) -> list[float]:
            return [0.1]

    with pytest.raises(ValueError, match="First computed 1 values for 3 parameter groups"):
        First(make_wrapper(), "lr")


def test_state_that_is_not_saved_is_reported_once(monkeypatch: pytest.MonkeyPatch) -> None:
    lines: list[str] = []
    monkeypatch.setattr(get_logger(), "warning", lambda text, *args: lines.append(text % args))

    class Counting(ParamScheduler):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            self.calls = 0
            super().__init__(*args, **kwargs)

        def _get_value(self) -> list[float]:
            self.calls += 1
            return self._current()

    class Counted(Counting):
        counters = ("calls", *Counting.counters)

    for cls in (Counting, Counted):
        scheduler = cls(make_wrapper(), "lr")
        scheduler.state_dict()
        assert lines == []
        scheduler.step()
        for _ in range(2):
            scheduler.state_dict()
        assert [line.partition(" during")[0] for line in lines] == ["Counting changed its calls"] * (cls is Counting)
        lines.clear()


def test_a_library_subclass_overrides_get_value() -> None:
    class QuadraticWarmup(_ParamScheduler):
        def __init__(self, optimizer: Any, param_name: str, begin: int = 0, end: int = INF, **kwargs: Any) -> None:
            self.total_iters = end - begin
            super().__init__(optimizer=optimizer, param_name=param_name, begin=begin, end=end, **kwargs)

        def _get_value(self) -> list[float]:
            if self.last_step == 0:
                return [
                    base * (2 * self.last_step + 1) / self.total_iters**2
                    for base, _ in zip(self.base_values, self.optimizer.param_groups)
                ]
            return [
                group[self.param_name] + base * (2 * self.last_step + 1) / self.total_iters**2
                for base, group in zip(self.base_values, self.optimizer.param_groups)
            ]

    class QuadraticWarmupLR(LRSchedulerMixin, QuadraticWarmup):
        pass

    values = curve(6, lambda w: QuadraticWarmupLR(w, end=4))
    assert values == pytest.approx([0.1 * (min(t, 3) + 1) ** 2 / 16 for t in range(6)])


# building


def test_build_takes_the_end_of_the_run_and_converts_epochs() -> None:
    wrapper = make_wrapper()
    built = build_param_scheduler(
        [
            {"type": "LinearLR", "by_epoch": False, "end": 3},
            {"type": "CosineAnnealingLR", "begin": 1, "convert_to_iter_based": True},
            {"type": "MultiStepMomentum", "milestones": [2]},
            {"type": "StepParamScheduler", "param_name": "weight_decay", "step_size": 5, "by_epoch": False},
            {"type": "LinearLR", "end": 2.5, "convert_to_iter_based": True},
            {"type": "StepLR", "step_size": 0.1, "convert_to_iter_based": True},
            {"type": "MultiStepLR", "milestones": [0, 2.5], "convert_to_iter_based": True},
        ],
        wrapper,
        max_epochs=10,
        max_iters=70,
        epoch_length=7,
    )
    assert isinstance(built, list)
    assert [(type(s).__name__, s.by_epoch, s.begin, s.end) for s in built] == [
        ("LinearLR", False, 0, 3),
        ("CosineAnnealingLR", False, 7, 70),
        ("MultiStepMomentum", True, 0, 10),
        ("StepParamScheduler", False, 0, 70),
        ("LinearLR", False, 0, 17),
        ("StepLR", False, 0, 70),
        ("MultiStepLR", False, 0, 70),
    ]
    assert built[-2].step_size == 1 and built[-1].milestones == {0: 1, 17: 1}
    ready = StepLR(wrapper, step_size=1)
    assert build_param_scheduler(ready, wrapper) == [ready]


def test_build_for_several_optimizers() -> None:
    wrappers = OptimWrapperDict(generator=make_wrapper(groups=1), critic=make_wrapper(groups=1))
    same = build_param_scheduler({"type": "StepLR", "step_size": 1}, wrappers, max_epochs=3)
    assert isinstance(same, dict)
    assert [same[name][0].optimizer for name in same] == [wrappers["generator"], wrappers["critic"]]
    own = build_param_scheduler(
        {"generator": {"type": "StepLR", "step_size": 1}, "critic": [{"type": "LinearLR"}]},
        wrappers,
        max_epochs=3,
    )
    assert isinstance(own, dict)
    assert {name: type(own[name][0]) for name in own} == {"generator": StepLR, "critic": LinearLR}
    with pytest.raises(ConfigError, match=r"param_scheduler: .*\['gen'\]"):
        build_param_scheduler({"gen": {"type": "StepLR", "step_size": 1}}, wrappers)


@pytest.mark.parametrize(
    ("cfg", "message"),
    [
        ({"type": "MultiStepLr", "milestones": [1]}, "param_scheduler.0.type: 'MultiStepLr'"),
        ({"begin": 1}, "param_scheduler.0: this parameter scheduler has no 'type'"),
        (
            {"type": "StepLR", "step_size": 1, "convert_to_iter_based": True, "by_epoch": False},
            "by_epoch must be True",
        ),
        (
            {"type": "StepLR", "step_size": 1, "convert_to_iter_based": True},
            "convert_to_iter_based: .* 'epoch_length'",
        ),
        ("StepLR", "param_scheduler.0: expected a scheduler config"),
    ],
)
def test_a_wrong_config_is_named_by_its_path(cfg: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build_param_scheduler([cfg], make_wrapper(), max_epochs=3)


def test_wrong_arguments_say_where() -> None:
    with pytest.raises(ValueError) as caught:
        build_param_scheduler([{"type": "LinearLR", "start_factor": 7}], make_wrapper(), max_epochs=3)
    assert caught.value.__notes__ == ["while building param_scheduler.0 (LinearLR)"]


def test_every_scheduler_is_registered_for_lr_and_momentum() -> None:
    kinds = "Step MultiStep Constant Exponential CosineAnnealing Linear Poly OneCycle CosineRestart"
    for kind in [*kinds.split(), "ReduceOnPlateau"]:
        for suffix in ("LR", "ParamScheduler", "Momentum"):
            assert (f"{kind}{suffix}" in PARAM_SCHEDULERS) is (f"{kind}{suffix}" != "OneCycleMomentum")


def test_schedules_beyond_the_end_are_found() -> None:
    assert beyond_end({"type": "LinearLR", "begin": 12}, 12, None) == (
        "begin",
        "it begins at 12, but the run ends after 12 epochs",
    )
    assert "all its milestones [30, 40]" in str(beyond_end({"type": "MultiStepLR", "milestones": [30, 40]}, 12, None))
    assert beyond_end({"type": "MultiStepLR", "milestones": [8, 40]}, 12, None) is None
    assert "iterations" in str(beyond_end({"type": "LinearLR", "begin": 500, "by_epoch": False}, 12, 400))
    assert beyond_end({"type": "LinearLR", "begin": 500, "by_epoch": False}, 12, None) is None


# state and resume


def saved(state: Any) -> Any:
    """Return a state after saving and loading it."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=True)


CHAIN: list[dict[str, Any]] = [
    {"type": "LinearLR", "start_factor": 0.01, "by_epoch": False, "end": 7},
    {"type": "CosineAnnealingLR", "begin": 1, "T_max": 5, "eta_min": 0.001},
    {"type": "MultiStepLR", "milestones": [9, 21], "by_epoch": False, "gamma": 0.3},
    {"type": "CosineAnnealingMomentum", "by_epoch": False, "T_max": 30, "eta_min": 0.5},
]
EPOCH_LENGTH = 5


class Run:
    """The schedulers of a run of 30 iterations, 6 epochs."""

    def __init__(self, cfg: list[dict[str, Any]], optimizer: str = "sgd", epochs: int = 6) -> None:
        self.wrapper = make_wrapper(optimizer)
        built = build_param_scheduler(cfg, self.wrapper, max_epochs=epochs, max_iters=epochs * EPOCH_LENGTH)
        assert isinstance(built, list)
        self.schedulers = built
        self.iteration = 0

    def advance(self, steps: int) -> list[list[float]]:
        values = []
        for _ in range(steps):
            values.append([*lrs(self.wrapper), *self.wrapper.get_momentum()["momentum"]])
            self.iteration += 1
            for scheduler in self.schedulers:
                if not scheduler.by_epoch:
                    scheduler.step()
            if self.iteration % EPOCH_LENGTH == 0:
                for scheduler in self.schedulers:
                    if scheduler.by_epoch:
                        scheduler.step()
        return values

    def state(self) -> Any:
        return saved([self.wrapper.state_dict(), [scheduler.state_dict() for scheduler in self.schedulers]])

    def resume(self, state: Any, iteration: int) -> None:
        self.wrapper.load_state_dict(state[0])
        resume_param_schedulers(self.schedulers, state[1], epoch_length=EPOCH_LENGTH)
        self.iteration = iteration


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
@pytest.mark.parametrize("stop", [3, 7, 10, 24])
def test_a_resume_goes_on_to_the_same_bits(stop: int, optimizer: str) -> None:
    whole = Run(CHAIN, optimizer).advance(30)
    first = Run(CHAIN, optimizer)
    first.advance(stop)
    second = Run(CHAIN, optimizer)
    second.resume(first.state(), stop)
    assert second.advance(30 - stop) == whole[stop:]


def test_a_state_is_counters_and_small() -> None:
    run = Run(CHAIN)
    run.advance(4)
    state = run.state()[1]
    assert {key: value for key, value in state[2].items() if key != "settings"} == {
        "last_step": 4,
        "_global_step": 4,
        "class_name": "MultiStepLR",
    }
    assert state[2]["settings"] == {
        "param_name": "lr",
        "begin": 0,
        "end": 30,
        "by_epoch": False,
        "milestones": {9: 1, 21: 1},
        "gamma": 0.3,
    }


@pytest.mark.parametrize("stop", [4, 10, 13])
def test_changed_milestones_take_effect_as_if_they_had_always_been(stop: int) -> None:
    changed = [dict(cfg) for cfg in CHAIN]
    changed[2]["milestones"] = [2, 15]
    changed[1]["T_max"] = 6
    expected = Run(changed).advance(30)
    first = Run(CHAIN)
    first.advance(stop)
    second = Run(changed)
    second.resume(first.state(), stop)
    values = second.advance(30 - stop)
    assert values == [pytest.approx(row, rel=1e-12) for row in expected[stop:]]
    assert values != Run(CHAIN).advance(30)[stop:]


def test_a_longer_run_does_not_stay_at_the_minimum_of_the_shorter_one() -> None:
    cfg = [{"type": "CosineAnnealingLR", "by_epoch": False}]
    first = Run(cfg, epochs=2)
    first.advance(10)
    longer = Run(cfg, epochs=4)
    longer.resume(first.state(), 10)
    values = [row[0] for row in longer.advance(10)]
    assert values == pytest.approx([0.05 * (1 + math.cos(math.pi * t / 20)) for t in range(10, 20)], rel=1e-12)


def test_a_changed_one_cycle_takes_effect() -> None:
    cfg = {"type": "OneCycleLR", "eta_max": 0.3, "by_epoch": False}
    first = Run([cfg])
    first.advance(12)
    changed = [{**cfg, "eta_max": 0.6, "total_steps": 40}]
    second = Run(changed)
    second.resume(first.state(), 12)
    assert second.advance(18) == Run(changed).advance(30)[12:]


def test_changed_settings() -> None:
    first = Run([{"type": "MultiStepLR", "milestones": [2]}])
    first.advance(11)
    second = Run([{"type": "MultiStepLR", "milestones": [2, 4]}])
    assert second.schedulers[0].changed_settings(first.state()[1][0]) == {"milestones": ({2: 1}, {2: 1, 4: 1})}
    assert second.schedulers[0].changed_settings(second.state()[1][0]) == {}


def test_plateau_resumes_with_its_counts() -> None:
    metrics = [0.5, 0.6, 0.6, 0.6, 0.59, 0.59, 0.59, 0.59]
    cfg = [{"type": "ReduceOnPlateauLR", "monitor": "acc", "rule": "greater", "patience": 1, "factor": 0.5}]

    def feed(run: Run, values: list[float]) -> list[float]:
        rates = []
        for value in values:
            run.schedulers[0].step()
            run.schedulers[0].step({"acc": value})  # type: ignore[call-arg]
            rates.append(lrs(run.wrapper)[0])
        return rates

    whole = feed(Run(cfg, epochs=10), metrics)
    assert whole == [0.1, 0.1, 0.1, 0.05, 0.05, 0.025, 0.025, 0.0125]
    first = Run(cfg, epochs=10)
    feed(first, metrics[:3])
    second = Run(cfg, epochs=10)
    second.resume(first.state(), 3)
    assert feed(second, metrics[3:]) == whole[3:]


def test_a_changed_schedule_with_a_plateau_keeps_the_value() -> None:
    cfg = [{"type": "ReduceOnPlateauLR"}, {"type": "MultiStepLR", "milestones": [1, 9], "by_epoch": False}]
    first = Run(cfg)
    first.advance(4)
    cfg[1]["milestones"] = [1, 5]
    second = Run(cfg)
    second.resume(first.state(), 4)
    assert [round(row[0], 9) for row in second.advance(3)] == [0.01, 0.001, 0.001]


def test_mmengines_states_load() -> None:
    """They contain all attributes; only the counters are restored."""
    reference = Run([{"type": "MultiStepLR", "milestones": [2, 5]}])
    whole = [row[0] for row in reference.advance(30)]
    first = Run([{"type": "MultiStepLR", "milestones": [2, 5]}])
    first.advance(15)
    state = {
        "milestones": Counter([2, 5]),
        "gamma": 0.1,
        "param_name": "lr",
        "begin": 0,
        "end": 6,
        "by_epoch": True,
        "base_values": [0.1, 0.02, 0.1],
        "last_step": 3,
        "_global_step": 3,
        "verbose": False,
        "_last_value": [0.010000000000000002, 0.002, 0.010000000000000002],
    }
    second = Run([{"type": "MultiStepLR", "milestones": [2, 5]}])
    second.wrapper.load_state_dict(first.state()[0])
    assert second.schedulers[0].changed_settings(state) == {}
    resume_param_schedulers(second.schedulers, [state])
    second.iteration = 15
    assert [row[0] for row in second.advance(15)] == whole[15:]


def test_mmengines_state_of_another_class_is_noticed() -> None:
    first = Run(schedule("Exponential", "lr"))
    first.advance(6)
    state = {
        "gamma": 0.9,
        "param_name": "lr",
        "begin": 0,
        "end": 30,
        "by_epoch": False,
        "last_step": 6,
        "_global_step": 6,
    }
    second = Run(schedule("Poly", "lr"))
    assert set(second.schedulers[0].changed_settings(state)) == {"eta_min", "power", "total_iters"}
    second.wrapper.load_state_dict(first.state()[0])
    resume_param_schedulers(second.schedulers, [state])
    second.iteration = 6
    whole = values_of(Run(schedule("Poly", "lr")), "lr", 30)[6:]
    assert values_of(second, "lr", 24) == [pytest.approx(row) for row in whole]


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
@pytest.mark.parametrize("stop", [4, 10, 13])
def test_schedulers_added_or_taken_away_take_effect(stop: int, optimizer: str) -> None:
    for before, after in ((CHAIN[:1], CHAIN), (CHAIN, CHAIN[:2]), ([], CHAIN)):
        expected = Run(after, optimizer).advance(30)
        first = Run(before, optimizer)
        first.advance(stop)
        wrapper_state, states = first.state()
        second = Run(after, optimizer)
        second.wrapper.load_state_dict(wrapper_state)
        counts = {"epochs": stop // EPOCH_LENGTH, "iterations": stop, "epoch_length": EPOCH_LENGTH}
        resume_param_schedulers(second.schedulers, states, **counts)
        second.iteration = stop
        values = second.advance(30 - stop)
        assert values == [pytest.approx(row, rel=1e-12) for row in expected[stop:]]


def test_another_number_of_schedulers_with_a_plateau_is_refused() -> None:
    run = Run([*CHAIN, {"type": "ReduceOnPlateauLR"}])
    with pytest.raises(
        CheckpointError, match="checkpoint has LinearLR, .*, ReduceOnPlateauLR, but this run has LinearLR"
    ):
        resume_param_schedulers(Run(CHAIN[:1]).schedulers, run.state()[1])


SCHEDULES: dict[str, dict[str, Any]] = {
    "Step": {"step_size": 4, "gamma": 0.5},
    "MultiStep": {"milestones": [3, 9], "gamma": 0.5},
    "Constant": {"factor": 0.5, "end": 9},
    "Exponential": {"gamma": 0.9},
    "CosineAnnealing": {"T_max": 20, "eta_min": 0.01},
    "Linear": {"start_factor": 0.5, "end": 9},
    "Poly": {"power": 2.0, "eta_min": 0.01},
    "CosineRestart": {"periods": [9, 21], "restart_weights": [1, 0.5], "eta_min": 0.01},
}


def schedule(kind: str, name: str) -> list[dict[str, Any]]:
    if kind == "none":
        return []
    if name == "lr" and kind == "OneCycle":
        return [{"type": "OneCycleLR", "eta_max": 0.3, "by_epoch": False}]
    settings = {**SCHEDULES[kind], "by_epoch": False}
    if name == "weight_decay":
        return [{"type": f"{kind}ParamScheduler", "param_name": name, **settings}]
    return [{"type": f"{kind}{'LR' if name == 'lr' else 'Momentum'}", **settings}]


def values_of(run: Run, name: str, steps: int) -> list[list[float]]:
    """Return the values of all groups, including base settings, before each step."""
    rows = []
    for _ in range(steps):
        rows.append([g["betas"][0] if name not in g else g[name] for g in run.wrapper.param_groups])
        run.advance(1)
    return rows


@pytest.mark.parametrize(("stop", "named"), [(2, True), (14, True), (9, False)])
@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
@pytest.mark.parametrize("name", ["lr", "momentum", "weight_decay"])
def test_a_schedule_of_another_class_and_none_at_all_take_effect(
    name: str, optimizer: str, stop: int, named: bool
) -> None:
    """Replace each schedule by each other one: no trace of the old one remains."""
    kinds = ["none", *SCHEDULES, *(["OneCycle"] if name == "lr" else [])]
    expected = {kind: values_of(Run(schedule(kind, name), optimizer), name, 30) for kind in kinds}
    fresh = {kind: Run(schedule(kind, name), optimizer).wrapper.param_groups for kind in kinds}
    for before in kinds:
        first = Run(schedule(before, name), optimizer)
        first.advance(stop)
        state = first.state()
        if not named:  # as saved by first versions
            for scheduler_state in state[1]:
                del scheduler_state["class_name"]
        for after in kinds:
            second = Run(schedule(after, name), optimizer)
            second.wrapper.load_state_dict(state[0])
            resume_param_schedulers(
                second.schedulers,
                state[1],
                optim_wrapper=second.wrapper,
                epochs=stop // EPOCH_LENGTH,
                iterations=stop,
                epoch_length=EPOCH_LENGTH,
            )
            second.iteration = stop
            assert [set(group) for group in second.wrapper.param_groups] == [set(group) for group in fresh[after]]
            values = values_of(second, name, 30 - stop)
            if before == after:
                assert values == expected[after][stop:]
            else:
                assert values == [pytest.approx(row, rel=1e-9) for row in expected[after][stop:]], (before, after)


def test_a_change_of_one_value_leaves_the_others_to_the_bit() -> None:
    cfg = [*schedule("Exponential", "momentum"), {"type": "ReduceOnPlateauLR"}, *schedule("Poly", "weight_decay")]
    first = Run(cfg)
    first.advance(7)
    changed = Run([cfg[2], cfg[1], *schedule("Step", "momentum")])
    changed.resume(first.state(), 7)
    assert values_of(changed, "weight_decay", 9) == values_of(Run(cfg), "weight_decay", 16)[7:]
    whole = values_of(Run(schedule("Step", "momentum")), "momentum", 20)[16:]
    assert values_of(changed, "momentum", 4) == [pytest.approx(row) for row in whole]


def test_bounds_that_one_cycle_once_left_in_the_groups_do_not_survive() -> None:
    """MMEngine and first versions stored the initial rate of the cycle."""
    first = Run(schedule("OneCycle", "lr"))
    first.advance(6)
    state = first.state()
    for group in [*state[0]["param_groups"], state[0]["base_param_settings"]]:
        group.update(initial_lr=0.012, max_lr=0.3, min_lr=1.2e-6)
    second = Run(schedule("Exponential", "lr"))
    second.wrapper.load_state_dict(state[0])
    resume_param_schedulers(second.schedulers, state[1])
    second.iteration = 6
    assert all("max_lr" not in group for group in second.wrapper.param_groups)
    whole = values_of(Run(schedule("Exponential", "lr")), "lr", 30)[6:]
    assert values_of(second, "lr", 24) == [pytest.approx(row) for row in whole]


def test_a_restart_before_one_cycle_resumes_to_the_same_bits() -> None:
    cfg: list[dict[str, Any]] = [
        {"type": "CosineRestartLR", "periods": [5, 15], "restart_weights": [1, 0.5], "eta_min_ratio": 0.1, "begin": 10},
        {"type": "OneCycleLR", "eta_max": 0.3, "end": 10},
    ]
    cfg = [{**item, "by_epoch": False} for item in cfg]
    whole = values_of(Run(cfg), "lr", 30)
    first = Run(cfg)
    first.advance(8)
    second = Run(cfg)
    second.resume(first.state(), 8)
    assert values_of(second, "lr", 22) == whole[8:]


def test_schedulers_that_are_added_or_removed_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    lines: list[str] = []
    monkeypatch.setattr(get_logger(), "warning", lambda text, *args: lines.append(text % args))
    first = Run([*schedule("Linear", "lr"), *schedule("Step", "momentum")])
    second = Run(schedule("Poly", "lr"))
    second.wrapper.load_state_dict(first.state()[0])
    resume_param_schedulers(second.schedulers, first.state()[1])
    assert [line.partition(".")[0] for line in lines] == [
        "param_scheduler for lr: the checkpoint has LinearLR, but this run has PolyLR",
        "param_scheduler for momentum: the checkpoint has StepMomentum, but this run has none",
    ]


def test_a_bare_optimizer_can_be_scheduled() -> None:
    optimizer = torch.optim.Adam([nn.Parameter(torch.ones(1))], lr=0.1, betas=(0.9, 0.99))
    scheduler = CosineAnnealingMomentum(optimizer, T_max=4, eta_min=0.5)
    for _ in range(4):
        scheduler.step()
    assert optimizer.param_groups[0]["betas"] == (0.5, 0.99)
    with pytest.raises(TypeError, match="expected an optimizer or its wrapper"):
        StepLR(nn.Linear(1, 1), step_size=1)  # type: ignore[arg-type]
