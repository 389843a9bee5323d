"""Settings of the device: global flags are set for the duration of a run, and a CPU run keeps them all."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_runs import log_of, make_runner

from trainwright.engine.run.device_settings import DeviceSettings
from trainwright.engine.run.hook import Hook

CUDA, CPU = torch.device("cuda"), torch.device("cpu")


def flags() -> tuple[str, bool, bool]:
    cudnn = torch.backends.cudnn
    return torch.get_float32_matmul_precision(), cudnn.allow_tf32, cudnn.benchmark


@pytest.fixture(autouse=True)
def restored_flags() -> Iterator[None]:
    before = flags()
    yield
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.set_float32_matmul_precision(before[0])
    torch.backends.cudnn.allow_tf32, torch.backends.cudnn.benchmark = before[1:]


@pytest.mark.parametrize(
    ("env_cfg", "inside"),
    [
        ({}, ("high", True, False)),
        ({"tf32": False}, ("highest", False, False)),
        ({"cudnn_benchmark": True}, ("high", True, True)),
        ({"cudnn_benchmark": False}, ("high", True, False)),
    ],
)
def test_flags_are_set_on_cuda_and_restored(env_cfg: dict[str, Any], inside: tuple[str, bool, bool]) -> None:
    before = flags()
    with pytest.raises(KeyError), DeviceSettings(env_cfg, CUDA).active():
        assert flags() == inside
        raise KeyError
    assert flags() == before == ("highest", True, False)


def test_flags_of_the_user_are_kept_where_nothing_is_set() -> None:
    torch.backends.cudnn.benchmark = True
    with DeviceSettings({}, CUDA).active():
        assert torch.backends.cudnn.benchmark
    with DeviceSettings({"cudnn_benchmark": False}, CUDA).active():
        assert not torch.backends.cudnn.benchmark
    assert torch.backends.cudnn.benchmark


@pytest.mark.skipif(not hasattr(torch.backends.cuda.matmul, "fp32_precision"), reason="PyTorch 2.9 has it")
def test_precisions_set_by_the_newer_interface_are_kept() -> None:
    torch.backends.cuda.matmul.fp32_precision = "tf32"
    with DeviceSettings({"tf32": False}, CUDA).active():
        assert torch.backends.cuda.matmul.fp32_precision == "tf32"


def test_fidelity_keeps_the_precisions_of_pytorch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trainwright.engine.fidelity._active", True)
    before = flags()
    settings = DeviceSettings({}, CUDA)
    with settings.active():
        assert flags() == before == ("highest", True, False)
    assert not settings.watches_sizes and "TF32: in convolutions, cuDNN benchmark: off" in settings.describe()
    with DeviceSettings({"tf32": True, "cudnn_benchmark": True}, CUDA).active():
        assert flags() == ("high", True, True)


def test_channels_last_is_the_default_where_it_helps() -> None:
    assert DeviceSettings({}, CUDA).channels_last and DeviceSettings({"channels_last": True}, CPU).channels_last
    for device in (CPU, torch.device("mps")):
        assert not DeviceSettings({}, device).channels_last
    assert not DeviceSettings({"channels_last": False}, CUDA).channels_last


def test_sizes_are_watched_only_if_they_decide() -> None:
    assert DeviceSettings({}, CUDA).watches_sizes and not DeviceSettings({}, CPU).watches_sizes
    assert not DeviceSettings({"cudnn_benchmark": False}, CUDA).watches_sizes


def test_the_log_names_every_setting() -> None:
    line = "channels-last: on, TF32: off, cuDNN benchmark: on if images have one size"
    assert DeviceSettings({"tf32": False}, CUDA).describe() == line
    assert DeviceSettings({}, torch.device("xpu")).describe() == "channels-last: on"


def test_a_cpu_run_changes_no_flag(tmp_path: Path) -> None:
    seen = []

    class Look(Hook):
        def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
            seen.append(flags())

    runner = make_runner(tmp_path, [Look()], env_cfg={"cudnn_benchmark": True, "tf32": True})
    runner.train()
    assert set(seen) == {flags()} == {("highest", True, False)}
    assert "Device settings" not in log_of(runner)
