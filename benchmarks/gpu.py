"""Training on an accelerator compared with a bare loop: time, synchronizations, memory, and waiting for input."""

import argparse
import os
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
import torchvision
from measure import silenced
from PIL import Image
from report import table
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from trainwright.engine import Hook, Runner


@dataclass(frozen=True)
class Job:
    """A network and the switches that both loops use.

    Args:
        network: returns the network.
        shape: shape of an input; uint8, or float32 for vectors.
        batch_size: samples per step.
        steps: steps per round; the first fifth is not measured.
        tf32: allow TF32.
        bf16: train in mixed precision.
        compile: compile the forward pass.
    """

    network: Callable[[], nn.Module]
    shape: tuple[int, ...]
    batch_size: int
    steps: int
    tf32: bool = True
    bf16: bool = False
    compile: bool = False


class Samples(Dataset[Any]):
    """Random inputs in memory, each used many times."""

    deterministic = True

    def __init__(self, job: Job) -> None:
        dtype = torch.uint8 if len(job.shape) > 1 else torch.float32
        self._inputs = torch.randint(0, 256, (64, *job.shape)).to(dtype)
        self._length = job.steps * job.batch_size

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self._inputs[index % 64], index % 10


class Clock:
    """The time per step, and the synchronizations and peak memory after the warm-up. Call it before each step."""

    def __init__(self, device: torch.device, steps: int) -> None:
        self._device, self._steps, self._step = device, steps, 0
        self._first = max(1, steps // 5)
        self._stack = warnings.catch_warnings(record=True)
        self._caught: list[warnings.WarningMessage] = []
        self.seconds = self.syncs = float("nan")

    def __call__(self) -> None:
        if self._step == self._first:
            self._wait()
            self._watch(True)
            self._begin = perf_counter()
        elif self._step == self._steps - 1:
            self._watch(False)
            self._wait()
            self.seconds = (perf_counter() - self._begin) / (self._step - self._first)
        self._step += 1

    def _wait(self) -> None:
        if self._device.type != "cpu":
            torch.accelerator.synchronize(self._device)

    def _watch(self, on: bool) -> None:
        if self._device.type != "cuda":
            return
        if on:
            self._caught = self._stack.__enter__() or []
            warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn" if on else "default")
        if not on:
            self._stack.__exit__(None, None, None)
            found = sum("synchronizing" in str(each.message) for each in self._caught)
            self.syncs = found / (self._step - self._first)


class Tick(Hook):
    """Call a clock before each step."""

    priority = "VERY_HIGH"

    def __init__(self, clock: Clock) -> None:
        self.clock = clock

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """Start the measurement of a step."""
        self.clock()


def collate(samples: list[tuple[Tensor, int]]) -> dict[str, Tensor]:
    """Stack inputs and labels."""
    inputs, labels = zip(*samples)
    return {"inputs": torch.stack(inputs), "data_samples": torch.tensor(labels)}


def by_hand(job: Job, data: Dataset[Any], device: torch.device, workers: int, clock: Clock) -> None:
    """Train in a bare loop with the switches of the job, pinned memory, and channels-last."""
    on_gpu = device.type == "cuda"
    network = job.network().to(device).train()
    if on_gpu:
        network = network.to(memory_format=torch.channels_last)
        torch.set_float32_matmul_precision("high" if job.tf32 else "highest")
        torch.backends.cudnn.allow_tf32, torch.backends.cudnn.benchmark = job.tf32, True
    if job.compile:
        network.compile()
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-4, fused=True)
    loader = DataLoader(
        data, job.batch_size, shuffle=True, num_workers=workers, pin_memory=on_gpu and workers > 0, collate_fn=collate
    )
    for batch in loader:
        clock()
        inputs, labels = (batch[name].to(device, non_blocking=True) for name in ("inputs", "data_samples"))
        with torch.autocast(device.type, torch.bfloat16) if job.bf16 else nullcontext():
            if inputs.dtype == torch.uint8:
                inputs = (inputs.float() - 127.5).div_(73.9)
            loss = nn.functional.cross_entropy(network(inputs), labels)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()


def by_runner(
    job: Job, data: Dataset[Any], device: torch.device, workers: int, clock: Clock, *, plain_input: bool = False
) -> None:
    """Train with Trainwright and its default hooks, except for checkpoints.

    Args:
        job: the job.
        data: the training data.
        device: the device to train on.
        workers: number of data workers.
        clock: measures the steps.
        plain_input: turn off pinned memory and copies that overlap.
    """
    normalizes = len(job.shape) > 1
    preprocessor = {"type": "ImgDataPreprocessor", "mean": [127.5], "std": [73.9]}
    with tempfile.TemporaryDirectory() as folder:
        Runner(
            model={
                "type": "ModuleWrapper", "module": job.network(),
                "data_preprocessor": {
                    **(preprocessor if normalizes else {"type": "BaseDataPreprocessor"}),
                    "non_blocking": False if plain_input else None,
                },
            },
            work_dir=folder, device=device, cfg={"compile": job.compile},
            train_dataloader={
                "dataset": data, "batch_size": job.batch_size, "num_workers": workers, "collate_fn": {"type": collate},
                **({"pin_memory": False} if plain_input else {}),
            },
            train_cfg={"by_epoch": True, "max_epochs": 1},
            optim_wrapper={
                **({"type": "AmpOptimWrapper", "dtype": "bfloat16"} if job.bf16 else {}),
                "optimizer": {"type": "AdamW", "lr": 1e-4},
            },
            default_hooks={"checkpoint": None}, custom_hooks=[Tick(clock)],
            env_cfg={"tf32": job.tf32, "cudnn_benchmark": True}, randomness={"seed": 0},
        ).train()  # fmt: skip


def measure_steps(job: Job, device: torch.device, workers: int, rounds: int) -> str:
    """Return the tables of one job: time per step, and on CUDA, synchronizations and memory in the last round."""
    contestants = {"bare": by_hand, "ours": by_runner}
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    lines = []
    for number in range(rounds):
        for name in list(contestants)[:: 1 if number % 2 else -1]:
            clock = Clock(device, job.steps)
            with silenced(), global_flags(), peak_memory(device) as peak:
                contestants[name](job, Samples(job), device, workers, clock)
            seconds[name].append(clock.seconds)
            if number == rounds - 1 and device.type == "cuda":
                lines.append(f"{name}: {clock.syncs:.2f} synchronizations per step, {peak[0] / 2**20:.0f} MiB at most")
    times = table(seconds, "bare", "ms/step", lambda value: f"{1000 * value:.3f}")
    return "\n".join([times, *sorted(lines)])


@contextmanager
def global_flags() -> Iterator[None]:
    """Restore the flags that the bare loop sets."""
    cudnn = torch.backends.cudnn
    before = torch.get_float32_matmul_precision(), cudnn.allow_tf32, cudnn.benchmark
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before[0])
        cudnn.allow_tf32, cudnn.benchmark = before[1:]


@contextmanager
def peak_memory(device: torch.device) -> Iterator[list[float]]:
    """Yield a list that gets the peak memory of the device in bytes at the end; NaN without CUDA."""
    found = [float("nan")]
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
    yield found
    if device.type == "cuda":
        found[0] = torch.cuda.max_memory_allocated(device)


class Jpegs(Dataset[Any]):
    """Photograph-sized JPEG files that are decoded, cropped and flipped for every sample."""

    def __init__(self, folder: Path, job: Job) -> None:
        self._files, self._length = [folder / f"{index}.jpg" for index in range(64)], job.steps * job.batch_size
        transforms = torchvision.transforms
        self._transform = transforms.Compose(
            [transforms.RandomResizedCrop(job.shape[-1]), transforms.RandomHorizontalFlip(), transforms.PILToTensor()]
        )
        for index, file in enumerate(self._files):
            coarse = torch.randint(0, 256, (16, 12, 3), generator=torch.Generator().manual_seed(index)).byte()
            Image.fromarray(coarse.numpy()).resize((500, 375)).save(file, quality=90)

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self._transform(Image.open(self._files[index % 64])), index % 10


def measure_input(job: Job, device: torch.device, workers: int) -> str:
    """Return a table of the share of time in which training waits for its input."""
    lines = [f"{'':<34}{'images/s':>10}{'waiting':>10}"]
    fastest = 0.0
    with tempfile.TemporaryDirectory() as folder:
        jpegs = Jpegs(Path(folder), job)
        for title, data, plain in (
            ("from memory", Samples(job), False),
            ("JPEG, pinned and overlapped", jpegs, False),
            ("JPEG, neither", jpegs, True),
        ):
            clock = Clock(device, job.steps)
            with silenced():
                by_runner(job, data, device, workers, clock, plain_input=plain)
            fastest = fastest or clock.seconds
            waiting = max(0.0, 1 - fastest / clock.seconds)
            lines.append(f"{title:<34}{job.batch_size / clock.seconds:>10.0f}{waiting:>10.0%}")
    return "\n".join(lines)


def jobs(tiny: bool) -> dict[str, Job]:
    """Return the jobs by name, or small ones that only show that the benchmark works.

    A CPU without instructions for bfloat16 takes seconds for a step of even a ResNet-18.
    """

    def mlp() -> nn.Module:
        return nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))

    def small() -> nn.Module:
        return nn.Sequential(
            nn.Conv2d(3, 16, 3, 2), nn.BatchNorm2d(16), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
            nn.Linear(16, 10),
        )  # fmt: skip

    name, network = ("small", small) if tiny else ("resnet50", torchvision.models.resnet50)
    images = ((3, 32, 32), 4, 6) if tiny else ((3, 224, 224), 128, 60)
    return {
        "mlp": Job(mlp, (64,), 64, 20 if tiny else 2000),
        f"{name} float32": Job(network, *images, tf32=False),
        f"{name} TF32": Job(network, *images),
        f"{name} bfloat16": Job(network, *images, bf16=True),
        f"{name} bfloat16 compiled": Job(network, *images, bf16=True, compile=True),
    }


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", help="default: the accelerator")
    parser.add_argument("--tiny", action="store_true", help="small networks and few steps: whether it works")
    parser.add_argument("--only", help="part of the names of the jobs to run")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=min(12, max(1, (os.cpu_count() or 2) - 2)))
    options = parser.parse_args()
    if options.device is None and not torch.accelerator.is_available():
        parser.exit(0, "Skipped: there is no accelerator (--device cpu --tiny shows that the benchmark works).\n")
    device = torch.device(options.device or torch.accelerator.current_accelerator())
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)
    print(f"{name}, PyTorch {torch.__version__}, {options.workers} data workers")
    for title, job in jobs(options.tiny).items():
        if options.only is None or options.only in title:
            workers = options.workers if len(job.shape) > 1 else 0
            print(
                f"\n{title}, {job.batch_size} samples per step\n{measure_steps(job, device, workers, options.rounds)}"
            )
    if options.only is None or options.only in "input":
        title, job = next(item for item in jobs(options.tiny).items() if item[1].bf16)
        print(f"\ninput, {title}\n{measure_input(job, device, options.workers)}")


if __name__ == "__main__":
    main()
