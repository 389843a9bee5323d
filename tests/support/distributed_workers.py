"""Functions that tests run in several processes. Targets of ``spawn`` cannot be defined in test files."""

import os
import socket
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import torch.distributed
import torch.multiprocessing


def run_processes(target: Callable[..., Any], *args: Any, world_size: int = 2) -> list[Any]:
    """Run ``target(*args)`` in the processes of a gloo group, and return the results by rank."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder:
        torch.multiprocessing.spawn(_worker, (world_size, port, folder, target, args), nprocs=world_size)
        return [torch.load(Path(folder, f"{rank}.pt"), weights_only=False) for rank in range(world_size)]


def _worker(
    rank: int, world_size: int, port: int, folder: str, target: Callable[..., Any], args: tuple[Any, ...]
) -> None:
    from trainwright.engine.distributed import close_dist, init_dist

    torch.set_num_threads(1)
    environment = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world_size, "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in environment.items()}, MASTER_ADDR="127.0.0.1")
    init_dist("pytorch", timeout=60)
    torch.save(target(*args), Path(folder, f"{rank}.pt"))
    close_dist()


def collectives(folder: str) -> dict[str, Any]:
    """Call every collective once, and return the results in this process by name."""
    from trainwright.engine import distributed as d

    rank = d.get_rank()
    base = torch.tensor([1.0, 2.0]) * (rank + 1)
    out: dict[str, Any] = {
        "info": d.get_dist_info(),
        "main": d.is_main_process(),
        "launcher": d.infer_launcher(),
    }
    out["local"] = (d.get_local_rank(), d.is_distributed())
    out["master_only"] = d.master_only(lambda: "ran")()
    for op in ("sum", "mean", "product", "min", "max"):
        reduced = base.clone()
        d.all_reduce(reduced, op)
        out[op] = reduced.tolist()
    column = torch.zeros(2, 2)
    column[:, 1] = base
    d.all_reduce(column[:, 1])
    out["strided"] = column.tolist()
    integers = torch.tensor([3, 4]) + rank
    d.all_reduce(integers, "mean")
    out["integer mean"] = integers.tolist()
    out["all_gather"] = [tensor.tolist() for tensor in d.all_gather(base)]
    out["gather"] = [tensor.tolist() for tensor in d.gather(base, dst=1)]
    sent = base.clone()
    d.broadcast(sent, src=1)
    out["broadcast"] = sent.tolist()
    scalars = {"a": torch.tensor(1.0 + rank), "b": torch.tensor([2 + rank])}
    d.all_reduce_dict(dict(sorted(scalars.items(), reverse=bool(rank))), "sum")
    out["dict"] = {name: tensor.tolist() for name, tensor in scalars.items()}
    for name, options in {
        "flat": {},
        "buckets": {"bucket_size_mb": 8 / 2**20},
        "single": {"coalesce": False},
    }.items():
        params = [torch.nn.Parameter(base.clone()), torch.tensor(rank), torch.full((2, 1), float(rank))]
        d.all_reduce_params(iter(params), op="sum", **options)
        out[name] = [param.tolist() for param in params]
    objects = [{"rank": rank}, rank]
    d.broadcast_object_list(objects, src=1)
    out["objects"] = objects
    out["all_gather_object"] = d.all_gather_object({"rank": rank})
    out["gather_object"] = d.gather_object(str(rank), dst=1)
    out["seed"] = d.sync_random_seed()
    part = [("a", None), ("b",)][rank]
    out["collect"] = d.collect_results(list(part), 3)
    out["collect one less"] = d.collect_results([rank, rank + 10], 3, device="gpu")
    out["collect by files"] = d.collect_results([rank, rank + 10], 4, tmpdir=folder)
    module = torch.nn.BatchNorm1d(1)
    torch.nn.init.constant_(module.weight, float(rank))
    d.broadcast_parameters(module, src=1)
    out["parameters"] = module.weight.tolist()
    d.barrier()
    return out


Case = tuple[list[dict[str, Any]], dict[str, torch.Tensor], bool]


def evaluate_cases(cases: list[Case]) -> list[dict[str, Any]]:
    """Evaluate this rank's samples, padded like the default sampler does.

    Args:
        cases: for each evaluation the configs of the metrics, the fields of the samples, and whether to pass
            batches rather than lists.
    """
    from trainwright.engine.distributed import get_dist_info
    from trainwright.engine.evaluation.evaluator import Evaluator
    from trainwright.engine.structures.sample import DataSample

    rank, world_size = get_dist_info()
    results = []
    for metrics, columns, batched in cases:
        size = len(columns["gt_label"])
        padded = [index % size for index in range(-(-size // world_size) * world_size)]
        evaluator = Evaluator(metrics)
        share = padded[rank::world_size]
        for start in range(0, len(share), 2):
            rows = share[start : start + 2]
            batch = DataSample(**{name: column[rows] for name, column in columns.items()})
            evaluator.process(batch if batched else batch.unbatch())
        results.append(evaluator.evaluate(size))
    return results


def evaluate_seg_maps(truth: torch.Tensor, guess: torch.Tensor) -> dict[str, Any]:
    """Evaluate this rank's class maps, (N, H, W), padded like the default sampler does."""
    from trainwright.engine.distributed import get_dist_info
    from trainwright.engine.evaluation.evaluator import Evaluator
    from trainwright.engine.structures.pixel_data import PixelData
    from trainwright.engine.structures.sample import DataSample

    rank, world_size = get_dist_info()
    size = len(truth)
    evaluator = Evaluator(dict(type="IoUMetric", iou_metrics=["mIoU", "mDice"], num_classes=3))
    for index in range(rank, -(-size // world_size) * world_size, world_size):
        planes = {"gt_sem_seg": truth[index % size], "pred_sem_seg": guess[index % size]}
        evaluator.process([DataSample(**{name: PixelData(sem_seg=plane[None]) for name, plane in planes.items()})])
    return evaluator.evaluate(size)


def evaluate_scores(scores: torch.Tensor, truth: torch.Tensor) -> dict[str, Any]:
    """Evaluate this rank's multi-label scores and targets, (N, C), padded like the default sampler does."""
    from trainwright.engine.distributed import get_dist_info
    from trainwright.engine.evaluation.evaluator import Evaluator
    from trainwright.engine.structures.sample import DataSample

    rank, world_size = get_dist_info()
    size = len(truth)
    evaluator = Evaluator([dict(type="AveragePrecision"), dict(type="MultiLabelMetric")])
    for index in range(rank, -(-size // world_size) * world_size, world_size):
        evaluator.process([DataSample(pred_score=scores[index % size], gt_score=truth[index % size])])
    return evaluator.evaluate(size)


def nearest_neighbours(features: torch.Tensor, labels: torch.Tensor) -> list[Any]:
    """Return the training images that each rank has after gathering them."""
    from torch.utils.data import TensorDataset

    from trainwright.models import KNNClassifier

    model = KNNClassifier(
        torch.nn.Identity(),
        memory=dict(dataset=TensorDataset(features, labels), batch_size=2, collate_fn="default_collate"),
        data_preprocessor=dict(type="BaseDataPreprocessor"),
    )
    return [column.tolist() for column in model.eval().bank()]


def evaluate_instances(metrics: list[dict[str, Any]], samples: list[Any], meta: dict[str, Any]) -> dict[str, Any]:
    """Evaluate this rank's samples with predictions, padded like the default sampler does."""
    from trainwright.engine.distributed import get_dist_info
    from trainwright.engine.evaluation.evaluator import Evaluator

    rank, world_size = get_dist_info()
    evaluator = Evaluator(metrics)
    evaluator.dataset_meta = meta
    for index in range(rank, -(-len(samples) // world_size) * world_size, world_size):
        evaluator.process([samples[index % len(samples)]])
    return evaluator.evaluate(len(samples))


class Twice(torch.utils.data.Sampler[list[int]]):
    """A batch sampler whose batches contain each index of a sampler twice."""

    def __init__(self, sampler: Any, batch_size: int) -> None:
        self.sampler = sampler

    def __iter__(self) -> Iterator[list[int]]:
        return ([index, index] for index in self.sampler)

    def __len__(self) -> int:
        return len(self.sampler)


class Stream(torch.utils.data.IterableDataset[int]):
    """An iterable dataset of five numbers without a length; each process has different ones."""

    sharded = True

    def __iter__(self) -> Iterator[int]:
        from trainwright.engine.distributed import get_rank, get_world_size

        return iter(range(get_rank(), 5, get_world_size()))


def evaluated_samples(folder: str) -> dict[str, list[int]]:
    """Return the samples that ``compute_metrics`` gets in a validation by this process, by kind of loader."""
    from torch.utils.data import DataLoader, DistributedSampler

    from trainwright.engine.distributed import get_world_size
    from trainwright.engine.evaluation.metric import BaseMetric
    from trainwright.engine.run.runner import Runner
    from trainwright.models.base import BaseModel

    class Seen(BaseMetric):
        default_prefix = "seen"

        def process(self, data_batch: Any, data_samples: Any) -> None:
            self.results.extend(int(sample["index"]) for sample in data_samples)

        def compute_metrics(self, results: list[int]) -> dict[str, Any]:
            return {"all": results}

    class Echo(BaseModel):
        def __init__(self) -> None:
            super().__init__()
            self.linear = torch.nn.Linear(1, 1)

        def forward(self, inputs: Any, data_samples: Any = None, mode: str = "tensor") -> Any:
            return {"index": torch.as_tensor(inputs)}

    class Numbers(torch.utils.data.Dataset[int]):
        metainfo = ()

        def full_init(self) -> None:
            pass

        def __len__(self) -> int:
            return 5

        def __getitem__(self, index: int) -> tuple[int]:
            return (index,)

    collate = {"collate_fn": lambda items: (torch.tensor(items).reshape(-1),)}
    plain = {"dataset": Numbers(), "batch_size": 2, **collate}
    one_each = {"type": "DefaultSampler", "shuffle": False, "round_up": False}
    numbers = Numbers()
    own_sampler = torch.utils.data.RandomSampler(numbers, replacement=True, num_samples=14)
    loaders = {
        "padded": plain,
        "not padded": {**plain, "sampler": one_each},
        "last left out": {**plain, "drop_last": True},
        "first batches": {**plain, "num_batch_per_epoch": 2},
        "repeated": {**plain, "dataset": {"type": "RepeatDataset", "dataset": numbers, "times": 3}},
        "batch sampler": {**plain, "sampler": one_each, "batch_sampler": {"type": Twice}},
        "stream": {"dataset": Stream(), "batch_size": 2, **collate},
        "own loader": DataLoader(numbers, 2, sampler=own_sampler, **collate),
    }
    if get_world_size() > 1:
        sampler = DistributedSampler(numbers, shuffle=False)
        loaders["PyTorch's padding"] = DataLoader(numbers, 2, sampler=sampler, **collate)
    results = {}
    for name, loader in loaders.items():
        runner = Runner(Echo(), folder, val_dataloader=loader, val_cfg={}, val_evaluator=Seen(), randomness={"seed": 0})
        results[name] = runner.val()["seen/all"]
    return results
