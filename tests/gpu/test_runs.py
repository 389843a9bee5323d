"""Training on a device: exact resuming, copies, precisions, memory, and nothing that waits for the device."""

import math
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_runs import StopAt, log_of, make_runner, weights_of
from torch import Tensor, nn
from torch.utils.data import Dataset

from trainwright.engine.random_streams import preserve_generators
from trainwright.engine.run.hook import Hook
from trainwright.engine.run.runner import Runner
from trainwright.models import BaseModel

pytestmark = pytest.mark.gpu


class Noise(Dataset[Any]):
    """Images of random pixels, 48 kB each, whose target is their mean brightness."""

    def __len__(self) -> int:
        return 64

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        image = torch.randint(0, 256, (3, 128, 128), generator=torch.Generator().manual_seed(index)).to(torch.uint8)
        return {"inputs": image, "data_samples": image.float().mean() / 255}


class Net(BaseModel):
    """A small network with convolutions, batch norm and dropout.

    Args:
        fails: number of samples with which a training step runs out of memory.
    """

    def __init__(self, fails: int | None = None) -> None:
        torch.manual_seed(0)
        super().__init__(data_preprocessor={"type": "ImgDataPreprocessor", "mean": [127.5] * 3, "std": [73.9] * 3})
        self.net = nn.Sequential(
            nn.Conv2d(3, 8, 3, 2), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 3, 2, groups=8),
            nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.2), nn.Linear(8, 1),
        )  # fmt: skip
        self.fails = fails

    def forward(self, inputs: Tensor, data_samples: Tensor, mode: str = "tensor") -> Any:
        if self.fails and self.training and len(inputs) >= self.fails:
            torch.empty(1 << 60, dtype=torch.uint8, device=inputs.device)
        output = self.net(inputs).squeeze(1)
        return {"loss": nn.functional.mse_loss(output.float(), data_samples)} if mode == "loss" else output


class Spy(Hook):
    """Record the loss of each iteration, whether its batch was pinned, and the memory in use."""

    def __init__(self) -> None:
        self.losses: list[Tensor] = []
        self.pinned: list[bool] = []
        self.memory: list[int] = []

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        self.pinned.append(data_batch["inputs"].is_pinned())

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        self.losses.append(outputs["loss"].detach().cpu())
        if runner.device.type == "cuda":
            self.memory.append(torch.cuda.memory_allocated(runner.device))


def train(
    folder: Path, device: torch.device, hooks: Sequence[Any] = (), *, model: Net | None = None, workers: int = 0,
    optimizer: str = "Adam", wrapper: dict[str, Any] | None = None, train_cfg: dict[str, Any] | None = None,
    deterministic: bool = False, loader: dict[str, Any] | None = None, **options: Any,
) -> Runner:  # fmt: skip
    runner = make_runner(
        folder, hooks, checkpoint={"interval": 1}, model=model or Net(), dataset=Noise(), batch_size=16,
        train_dataloader={"num_workers": workers, **(loader or {})}, device=device,
        optim_wrapper={"optimizer": {"type": optimizer, "lr": 0.01}, **(wrapper or {})},
        train_cfg=train_cfg, **options,
    )  # fmt: skip
    if deterministic:
        runner.set_randomness(seed=0, deterministic=True)
    runner.train()
    return runner


def assert_same(first: Runner, second: Runner) -> None:
    weights = weights_of(second)
    assert all(torch.equal(value, weights[name]) for name, value in weights_of(first).items())


@pytest.mark.parametrize("optimizer", ["Adam", "SGD"])
def test_deterministic_runs_resume_exactly(device: torch.device, tmp_path: Path, optimizer: str) -> None:
    options: dict[str, Any] = {"optimizer": optimizer, "deterministic": True}
    whole = train(tmp_path / "whole", device, **options)
    train(tmp_path / "part", device, [StopAt(6)], **options)
    resumed = train(tmp_path / "part", device, **options, resume="auto")
    assert resumed.iter == 12
    assert_same(whole, resumed)


def test_batches_are_pinned_and_copied_intact(device: torch.device, tmp_path: Path) -> None:
    spies = Spy(), Spy()
    train_cfg = {"max_epochs": 4}
    overlapped = train(tmp_path / "on", device, [spies[0]], workers=2, deterministic=True, train_cfg=train_cfg)
    model = Net()
    model.data_preprocessor._non_blocking = False
    plain = train(
        tmp_path / "off", device, [spies[1]], model=model, workers=2, deterministic=True, train_cfg=train_cfg,
        loader={"pin_memory": False},
    )  # fmt: skip
    assert set(spies[0].pinned) == {device.type not in ("cpu", "mps")}
    assert set(spies[1].pinned) == {False}
    assert torch.equal(torch.stack(spies[0].losses), torch.stack(spies[1].losses))
    assert_same(overlapped, plain)


def test_copies_never_overtake_the_computation(cuda: torch.device) -> None:
    preprocessor = Net().to(cuda).data_preprocessor
    weight = torch.randn(4096, 4096, device=cuda)
    batches = [torch.full((64, 3, 128, 128), value, dtype=torch.uint8).pin_memory() for value in range(8)]
    sums = []
    for _ in range(5):
        for batch in batches:
            for _ in range(4):
                weight = torch.tanh(weight @ weight)  # the device is behind
            sums.append(preprocessor.cast_data(batch).float().mean())
    assert torch.stack(sums).tolist() == [*range(8)] * 5


def test_a_worker_that_dies_is_replaced(device: torch.device, tmp_path: Path) -> None:
    class Kill(Hook):
        def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
            if runner.iter == 1:
                os.kill(runner.train_dataloader._iterator._workers[0].pid, signal.SIGKILL)

    loader = {"persistent_workers": True}
    whole = train(tmp_path / "whole", device, workers=2, deterministic=True, loader=loader)
    killed = train(tmp_path / "killed", device, [Kill()], workers=2, deterministic=True, loader=loader)
    assert "Restarting the data workers" in log_of(killed)
    assert_same(whole, killed)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("optimizer", ["Adam", "SGD"])
def test_mixed_precision_learns_and_resumes(device: torch.device, tmp_path: Path, dtype: str, optimizer: str) -> None:
    if dtype == "float16" and device.type == "cpu":
        pytest.skip("float16 is slow on a CPU")
    spy = Spy()
    options: dict[str, Any] = {
        "optimizer": optimizer, "deterministic": True, "wrapper": {"type": "AmpOptimWrapper", "dtype": dtype},
    }  # fmt: skip
    whole = train(tmp_path / "whole", device, [spy], **options)
    losses = torch.stack(spy.losses).tolist()
    assert all(map(math.isfinite, losses)) and losses[-1] < losses[0]
    train(tmp_path / "part", device, [StopAt(6)], **options)
    resumed = train(tmp_path / "part", device, **options, resume="auto")
    assert_same(whole, resumed)
    assert resumed.optim_wrapper.state_dict()["loss_scaler"] == whole.optim_wrapper.state_dict()["loss_scaler"]


def test_channels_last_and_tf32_change_rounding_only(device: torch.device, tmp_path: Path) -> None:
    losses = {}
    for on in (True, False):
        spy = Spy()
        runner = train(tmp_path / str(on), device, [spy], env_cfg={"channels_last": on, "tf32": on}, deterministic=True)
        assert runner.model.net[0].weight.is_contiguous(memory_format=torch.channels_last) == on
        losses[on] = torch.stack(spy.losses).cpu()
    torch.testing.assert_close(losses[True], losses[False], rtol=0.02, atol=1e-3)


def test_checkpoints_are_portable(device: torch.device, tmp_path: Path) -> None:
    train(tmp_path, device, train_cfg={"max_epochs": 1})
    saved = torch.load(tmp_path / "epoch_1.pth", map_location=None, weights_only=True)
    assert {value.device.type for value in saved["state_dict"].values()} == {"cpu"}
    elsewhere = train(tmp_path, torch.device("cpu"), train_cfg={"max_epochs": 2}, resume="auto")
    back = train(tmp_path, device, train_cfg={"max_epochs": 3}, resume="auto")
    assert (elsewhere.iter, back.iter) == (8, 12)


def test_a_batch_that_does_not_fit_is_halved(device: torch.device, tmp_path: Path) -> None:
    runner = train(tmp_path, device, model=Net(fails=16), train_cfg={"max_epochs": 1, "halve_batch_on_oom": True})
    assert runner.state.micro_batches == 2 and runner.iter == 4
    assert "trained in 2 parts" in log_of(runner)


def test_evaluation_leaves_the_generators_as_they_were(device: torch.device) -> None:
    torch.rand(1, device=device)
    with preserve_generators():
        first = torch.rand(4, device=device).cpu(), torch.rand(4)
    assert torch.equal(first[0], torch.rand(4, device=device).cpu()) and torch.equal(first[1], torch.rand(4))


def test_compiled_networks_have_the_same_losses(device: torch.device, tmp_path: Path) -> None:
    losses = []
    # On a CPU, the default backend calls a C++ compiler, which may take minutes.
    for compiled in (False, {"backend": "aot_eager"} if device.type == "cpu" else True):
        spy = Spy()
        model = Net()
        model.net[8].p = 0.0  # dropout draws other numbers
        train(
            tmp_path / str(bool(compiled)), device, [spy], model=model, cfg={"compile": compiled},
            env_cfg={"tf32": False},
            train_cfg={"by_epoch": False, "max_iters": 4},
        )  # fmt: skip
        losses.append(torch.stack(spy.losses).cpu())
    torch.testing.assert_close(*losses, rtol=0.02, atol=1e-4)


@pytest.mark.parametrize("wrapper", [{}, {"type": "AmpOptimWrapper", "dtype": "bfloat16"}], ids=["float32", "amp"])
@pytest.mark.parametrize("optimizer", ["Adam", "SGD"])
def test_nothing_waits_for_the_device(
    cuda: torch.device, tmp_path: Path, wrapper: dict[str, Any], optimizer: str
) -> None:
    class Refuse(Hook):
        """Make every synchronization an error, from the third iteration to the last one before the log line."""

        def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
            torch.cuda.set_sync_debug_mode("error" if 2 <= runner.iter < 9 else "default")

        def after_train(self, runner: Runner) -> None:
            torch.cuda.set_sync_debug_mode("default")

    loader = {"pin_memory": True, "persistent_workers": True}
    options: dict[str, Any] = {"optimizer": optimizer, "workers": 2, "loader": loader}
    train_cfg = {"by_epoch": False, "max_iters": 16}
    try:
        runner = train(
            tmp_path, cuda, [Refuse(), {"type": "EMAHook"}], wrapper={**wrapper, "clip_grad": {"max_norm": 1.0}},
            train_cfg=train_cfg, **options,
        )  # fmt: skip
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert runner.iter == 16


def test_memory_does_not_grow(cuda: torch.device, tmp_path: Path) -> None:
    spy = Spy()
    train(tmp_path, cuda, [spy], train_cfg={"by_epoch": False, "max_iters": 48})  # losses wait for the next log line
    assert max(spy.memory[24:]) <= max(spy.memory[4:24])


def test_the_log_names_the_settings(device: torch.device, tmp_path: Path) -> None:
    log = log_of(train(tmp_path, device, train_cfg={"by_epoch": False, "max_iters": 12}))
    if device.type == "cuda":
        assert "Device settings (env_cfg): channels-last: on, TF32: on" in log
        assert "cuDNN benchmark: on, because images have one size (128×128)" in log
        assert not torch.backends.cudnn.benchmark
    else:
        assert ("Device settings" in log) == (device.type != "cpu")


def test_a_device_with_an_index(cuda: torch.device, tmp_path: Path) -> None:
    script = (
        "from pathlib import Path; import torch; from tiny_runs import ParallelLine, make_runner\n"
        f"runner = make_runner(Path({str(tmp_path)!r}), model=ParallelLine(), device='cuda:0'); runner.train()\n"
        "assert next(runner.model.parameters()).device == torch.device('cuda:0')"
    )
    folders = [str(Path(__file__).parents[1] / "support"), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    support = {"PYTHONPATH": os.pathsep.join(filter(None, folders))}
    subprocess.run([sys.executable, "-c", script], check=True, env={**os.environ, **support})


def test_two_devices_train_together(cuda: torch.device, tmp_path: Path) -> None:
    if torch.cuda.device_count() < 2:
        pytest.skip("there is only one CUDA device")
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m"]
    command = ["trainwright.tools.cli", "train", "toy/mlp_xor", "--launcher=pytorch", f"--work-dir={tmp_path}"]
    subprocess.run([*launcher, *command, "--cfg-options", "train_cfg.max_epochs=5"], check=True)
    assert (tmp_path / "last_checkpoint").exists()
