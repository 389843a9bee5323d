"""Evaluation in two processes has the same results as in one."""

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from ranks import run_group
from torch.utils.data import DataLoader, DistributedSampler

from trainwright.engine.distributed import get_dist_info, get_rank, get_world_size
from trainwright.engine.evaluation.evaluator import Evaluator
from trainwright.engine.evaluation.metric import BaseMetric
from trainwright.engine.run.runner import Runner
from trainwright.engine.structures.sample import DataSample
from trainwright.models.base import BaseModel

METRICS: list[dict[str, Any]] = [
    {"type": "Accuracy", "topk": (1, 2, 3)},
    {"type": "Accuracy", "prefix": "gpu", "collect_device": "gpu"},
    {"type": "SingleLabelMetric", "average": None},
    {"type": "ConfusionMatrix"},
]
if importlib.util.find_spec("torchmetrics") is not None:
    accuracy = {"type": "torchmetrics.Accuracy", "task": "multiclass", "num_classes": 4, "average": "micro"}
    METRICS.append({"type": "TorchMetric", "metric": accuracy})


Case = tuple[list[dict[str, Any]], dict[str, torch.Tensor], bool]


def evaluate_cases(cases: list[Case]) -> list[dict[str, Any]]:
    """Evaluate this rank's samples, padded like the default sampler does.

    Args:
        cases: for each evaluation the configs of the metrics, the fields of the samples, and whether to pass
            batches rather than lists.
    """
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


def test_samples_added_by_the_sampler_do_not_count(tmp_path: Path) -> None:
    """Five samples on two ranks: the sampler repeats the first one, which is correct."""
    scores = torch.eye(4)[torch.tensor([0, 1, 0, 0, 3])] + torch.linspace(0, 0.3, 20).view(5, 4)
    columns = {"gt_label": torch.tensor([0, 1, 2, 3, 0]), "pred_score": scores}
    cases = [(METRICS, columns, True), (METRICS, columns, False)]
    alone = evaluate_cases(cases)
    assert alone[0] == alone[1]
    assert alone[0]["accuracy/top1"] == alone[0]["gpu/top1"] == 40.0
    assert alone[0]["confusion_matrix/result"] == [[1, 0, 0, 1], [0, 1, 0, 0], [1, 0, 0, 0], [1, 0, 0, 0]]
    assert run_group(2, lambda: evaluate_cases(cases), tmp_path) == [alone, alone]


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
        return iter(range(get_rank(), 5, get_world_size()))


def evaluated_samples(folder: str) -> dict[str, list[int]]:
    """Return the samples that ``compute_metrics`` gets in a validation by this process, by kind of loader."""

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


def test_only_padding_is_left_out(tmp_path: Path) -> None:
    """All samples of samplers, batch samplers and iterable datasets count, also if they are more than the dataset."""
    alone = evaluated_samples(str(tmp_path))
    own = alone.pop("own loader")
    assert len(own) == 14
    five = [0, 1, 2, 3, 4]
    assert alone == {
        "padded": five,
        "not padded": five,
        "last left out": [0, 1, 2, 3],
        "first batches": [0, 1, 2, 3],
        "repeated": five * 3,
        "batch sampler": [0, 0, 1, 1, 2, 2, 3, 3, 4, 4],
        "stream": five,
    }
    together, other = run_group(2, lambda: evaluated_samples(str(tmp_path)), tmp_path)
    assert together == other
    assert len(together.pop("own loader")) == 28  # each process draws for itself
    assert together.pop("PyTorch's padding") == five
    assert together.pop("batch sampler") == [0, 1, 0, 1, 2, 3, 2, 3, 4, 4]
    assert together.pop("last left out") == [0, 1, 2, 3]
    assert together.pop("first batches") == five  # two batches of two for each process
    assert together == {name: alone[name] for name in together}
