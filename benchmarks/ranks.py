"""Compare training in several processes with a hand-written loop of the same model, data and strategy.

Blocks of steps of both alternate in the same processes. The steps of the Runner include all of its default hooks, the
log lines, and the agreement of the ranks on stopping.
"""

import argparse
import os
import socket
import tempfile
import time
import traceback
from collections.abc import Iterator, Sequence
from itertools import chain, repeat
from pathlib import Path
from statistics import median, quantiles
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # read when torch is imported

import torch
import torch._dynamo  # DDP imports it, which takes seconds
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

from trainwright.engine import Runner
from trainwright.engine.distributed import close_dist
from trainwright.hooks import Hook
from trainwright.models import BaseModel

BATCH = 8


class Classifier(BaseModel):
    """A multilayer perceptron with a loss.

    Args:
        width: number of units of its layers.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = network(width)

    def forward(self, inputs: Tensor, labels: Tensor | None = None, mode: str = "tensor") -> Any:
        scores = self.layers(inputs)
        return {"loss": nn.functional.cross_entropy(scores, labels)} if mode == "loss" else scores


def network(width: int) -> nn.Sequential:
    """Return a perceptron with three hidden layers."""
    hidden = [nn.Sequential(nn.Linear(width, width), nn.ReLU()) for _ in range(2)]
    return nn.Sequential(nn.Linear(64, width), nn.ReLU(), *hidden, nn.Linear(width, 10))


class Alternate(Hook):
    """After each block of the Runner's steps, run a block of the hand-written loop, and measure both.

    Args:
        steps: number of steps in a block.
        bare: the hand-written loop, which does a step for each item that it is asked for.
    """

    priority = "LOWEST"

    def __init__(self, steps: int, bare: Iterator[None]) -> None:
        self.steps, self.bare = steps, bare
        self.times: dict[str, list[tuple[float, float]]] = {"runner": [], "bare": []}
        self._began = (0.0, 0.0)

    def before_train(self, runner: Any) -> None:
        """Start the first block."""
        self._began = now()

    def after_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Measure at the end of a block."""
        if (runner.iter + 1) % self.steps:
            return
        self._note("runner")
        dist.barrier()
        self._began = now()
        for _ in range(self.steps):
            next(self.bare)
        self._note("bare")
        dist.barrier()
        self._began = now()

    def _note(self, name: str) -> None:
        wall, cpu = now()
        self.times[name].append(((wall - self._began[0]) / self.steps, (cpu - self._began[1]) / self.steps))


def now() -> tuple[float, float]:
    """Return wall and CPU time in seconds."""
    return time.perf_counter(), time.process_time()


def bare_loop(model: nn.Module, dataset: TensorDataset, strategy: str, device: torch.device) -> Iterator[None]:
    """Train with a hand-written loop; each item is a step."""
    model = model.to(device)
    wrapped: Any
    if strategy == "FSDP2":
        from torch.distributed.fsdp import fully_shard

        wrapped = fully_shard(model)
    else:
        wrapped = DistributedDataParallel(model)
    optimizer = torch.optim.SGD(wrapped.parameters(), lr=0.01, momentum=0.9)
    sampler: DistributedSampler[Any] = DistributedSampler(dataset, seed=1)
    loader = DataLoader(dataset, batch_size=BATCH, sampler=sampler)
    for epoch in chain.from_iterable(repeat(range(1000))):
        sampler.set_epoch(epoch)
        for inputs, labels in loader:
            optimizer.zero_grad()
            nn.functional.cross_entropy(wrapped(inputs.to(device)), labels.to(device)).backward()
            optimizer.step()
            yield


def measure(arguments: argparse.Namespace, width: int) -> dict[str, list[tuple[float, float]]]:
    """Train in this rank, and return seconds per step, wall and CPU, of each block."""
    dataset = TensorDataset(torch.randn(4096, 64), torch.randint(10, (4096,)))
    runner_dataset = TensorDataset(*dataset.tensors)
    with tempfile.TemporaryDirectory() as folder:
        runner = Runner(
            model={"type": Classifier, "width": width},
            work_dir=str(Path(folder, str(os.getpid()))) if dist.is_initialized() else folder,
            train_dataloader={"dataset": runner_dataset, "batch_size": BATCH, "collate_fn": "default_collate"},
            train_cfg={"by_epoch": False, "max_iters": arguments.steps * (arguments.blocks + 1)},
            optim_wrapper={"optimizer": {"type": "SGD", "lr": 0.01, "momentum": 0.9}},
            default_hooks={"checkpoint": {"type": "CheckpointHook", "interval": -1, "save_last": False}},
            launcher="pytorch",
            cfg={"strategy": arguments.strategy},
            randomness={"seed": 1},
            log_level="WARNING",
        )
        hook = Alternate(arguments.steps, bare_loop(network(width), dataset, arguments.strategy, runner.device))
        runner.register_hook(hook)
        runner.train()
        close_dist()
    return {name: times[1:] for name, times in hook.times.items()}  # the first block warms up


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--ranks", type=int, default=2, help="number of processes; default: %(default)s")
    parser.add_argument("--strategy", choices=["DDP", "FSDP2"], default="DDP", help="default: %(default)s")
    parser.add_argument("--widths", type=int, nargs="+", default=[64, 256, 512], help="widths of the network")
    parser.add_argument("--blocks", type=int, default=25, help="measured blocks; default: %(default)s")
    parser.add_argument("--steps", type=int, default=50, help="steps of a block; default: %(default)s")
    arguments = parser.parse_args(argv)
    torch.set_num_threads(1)
    print(f"torch {torch.__version__}, {arguments.strategy}, {arguments.ranks} ranks with one thread each")
    print("width  Runner us  bare us   wall ratio (quartiles)     us more   CPU ratio")
    for width in arguments.widths:
        print(row(width, *in_ranks(arguments, width)), flush=True)
    return 0


def in_ranks(arguments: argparse.Namespace, width: int) -> tuple[list[tuple[float, float]], list[tuple[float, float]]]:
    """Measure in forked ranks, and return the times of rank 0: those of the Runner, and those of the bare loop."""
    with socket.socket() as probe, tempfile.TemporaryDirectory() as folder:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
        probe.close()
        children = []
        for rank in range(arguments.ranks):
            if (child := os.fork()) == 0:
                places = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": arguments.ranks, "MASTER_PORT": port}
                os.environ.update({name: str(value) for name, value in places.items()}, MASTER_ADDR="127.0.0.1")
                status = 1
                try:
                    times = measure(arguments, width)
                    if rank == 0:
                        torch.save(times, Path(folder, "times"))
                    status = 0
                except BaseException:
                    traceback.print_exc()
                finally:
                    os._exit(status)
            children.append(child)
        if any(os.waitpid(child, 0)[1] for child in children):
            raise SystemExit("a rank failed")
        times = torch.load(Path(folder, "times"))
        return times["runner"], times["bare"]


def row(width: int, ours: list[tuple[float, float]], bare: list[tuple[float, float]]) -> str:
    """Return a line of the table."""
    ratios = [a[0] / b[0] for a, b in zip(ours, bare)]
    low, _, high = quantiles(ratios, n=4)
    more = median(a[0] - b[0] for a, b in zip(ours, bare))
    cpu = median(a[1] / b[1] for a, b in zip(ours, bare))
    return (
        f"{width:5}  {1e6 * median(a[0] for a in ours):9.0f}  {1e6 * median(b[0] for b in bare):7.0f}   "
        f"{median(ratios):.3f} ({low:.2f} {high:.2f})   {1e6 * more:11.0f}   {cpu:9.3f}"
    )


if __name__ == "__main__":
    raise SystemExit(main())
