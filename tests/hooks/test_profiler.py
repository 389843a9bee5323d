"""ProfilerHook in real runs."""

import json
from pathlib import Path
from typing import Any

import pytest
from tiny_runs import files_in, log_of, make_runner

from trainwright.engine.errors import ConfigError
from trainwright.hooks import ProfilerHook


def test_an_epoch_is_profiled_into_a_trace(tmp_path: Path) -> None:
    trace = tmp_path / "traces" / "trace.json"
    runner = make_runner(tmp_path, [ProfilerHook(json_trace_path=str(trace))], train_cfg={"max_epochs": 2})
    runner.train()
    names = {event.get("name") for event in json.loads(trace.read_text())["traceEvents"]}
    assert {"aten::linear", "aten::mse_loss"} <= names
    assert log_of(runner).count("Stopping the profiler") == 1


def test_iterations_are_profiled_into_the_log(tmp_path: Path) -> None:
    hook = ProfilerHook(
        by_epoch=False,
        profile_times=3,
        on_trace_ready={"type": "log_trace", "sort_by": "self_cpu_time_total", "row_limit": 100},
    )
    runner = make_runner(tmp_path, [hook])
    runner.train()
    assert "Self CPU time total" in log_of(runner)
    linear = next(line for line in log_of(runner).splitlines() if "aten::linear" in line)
    assert linear.split()[-1] == "3"  # calls
    assert hook.profiler is None


def test_a_function_gets_the_profiler(tmp_path: Path) -> None:
    ready: list[Any] = []
    make_runner(tmp_path, [ProfilerHook(by_epoch=False, on_trace_ready=ready.append)]).train()
    assert len(ready) == 1


def test_a_schedule_makes_a_trace_for_each_cycle(tmp_path: Path) -> None:
    ready: list[Any] = []
    hook = ProfilerHook(
        by_epoch=False,
        profile_times=6,
        on_trace_ready=ready.append,
        schedule={"wait": 1, "warmup": 1, "active": 1},
    )
    make_runner(tmp_path, [hook]).train()
    assert len(ready) == 2


def test_files_for_tensorboard_go_to_the_log_folder(tmp_path: Path) -> None:
    runner = make_runner(tmp_path, [ProfilerHook(on_trace_ready={"type": "tb_trace"})])
    runner.train()
    assert len(files_in(Path(runner.log_dir) / "tf_tracing_logs", "*.json")) == 1


def test_it_stops_if_the_run_fails(tmp_path: Path) -> None:
    hook = ProfilerHook()
    runner = make_runner(tmp_path, [hook])
    runner.model.train_step = None
    with pytest.raises(TypeError):
        runner.train()
    assert hook.profiler is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"profile_times": 0}, "at least 1"),
        ({"profile_times": 2}, "only one epoch can be profiled"),
        ({"activity_with_cpu": False}, "no activity to record"),
        ({"on_trace_ready": {"type": "log_trce"}}, "did you mean 'log_trace'"),
        ({"on_trace_ready": "log_trace"}, "a function or a dict"),
    ],
)
def test_impossible_settings_are_refused(options: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ProfilerHook(**options)


def test_profile_times_past_the_end_of_training_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"7 is past the end of training \(6\)"):
        make_runner(tmp_path, [ProfilerHook(by_epoch=False, profile_times=7)]).train()
