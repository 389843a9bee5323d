"""Small runs that have everything which a resume must bring back."""

import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset
from torchvision.transforms import v2

from trainwright.engine.evaluation.metric import BaseMetric
from trainwright.engine.hook import Hook
from trainwright.engine.registry import DATASETS
from trainwright.engine.runner import Runner
from trainwright.models.base import BaseModel

SIZE = 22


class StopAt(Hook):
    """Asks for an end after so many iterations of the whole run."""

    def __init__(self, done: int) -> None:
        self.done = done

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        if runner.iter + 1 == self.done:
            runner.request_stop("a test")


class AugmentedImages(Dataset[dict[str, Any]]):
    """Images of 6x6 pixels, augmented by torchvision, numpy and ``random``; three classes of different sizes."""

    metainfo: Mapping[str, Any] = {"classes": ("a", "b", "c")}

    def __init__(self, length: int = SIZE) -> None:
        self.images = torch.randint(0, 256, (length, 3, 6, 6), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))  # fmt: skip
        self.labels = [0] * (length // 2) + [1] * (length // 3) + [2] * (length - length // 2 - length // 3)
        self.augment = v2.Compose([v2.RandomHorizontalFlip(), v2.RandomCrop(6, padding=2), v2.ColorJitter(0.4)])

    def full_init(self) -> None:
        """Has nothing to read."""

    def __len__(self) -> int:
        return len(self.images)

    def get_cat_ids(self, index: int) -> list[int]:
        return [self.labels[index]]

    def __getitem__(self, index: int) -> dict[str, Any]:
        image = self.augment(self.images[index]).float() / 255
        noise = random.gauss(0, 0.1) + torch.from_numpy(np.random.normal(0, 0.1, image.shape)).float()
        return {"inputs": image + noise, "labels": self.labels[index]}


class Network(BaseModel):
    """Convolution, batch normalisation, dropout, and a step that draws from all three generators."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Dropout(0.3))
        self.head = nn.Linear(64, 3)

    def forward(self, inputs: Tensor, labels: Tensor, mode: str = "tensor") -> Any:
        if mode == "loss":
            inputs = inputs * (1 + 0.1 * random.random() + 0.1 * float(np.random.rand()))
        logits = self.head(self.body(inputs))
        if mode == "loss":
            return {"loss": nn.functional.cross_entropy(logits, labels)}
        return [{"score": row} for row in logits]


class MeanScore(BaseMetric):
    """A number that changes with every bit of the weights."""

    default_prefix = "val"

    def process(self, data_batch: Any, data_samples: Sequence[Mapping[str, Any]]) -> None:
        self.results.extend(float(sample["score"].double().sum()) for sample in data_samples)

    def compute_metrics(self, results: list[Any]) -> dict[str, float]:
        return {"score": sum(results) / len(results)}


def make_run(
    work_dir: Path | str,
    *,
    by_epoch: bool = True,
    length: int = 3,
    batch_size: int = 4,
    workers: int = 0,
    persistent: bool = False,
    sampler: str = "DefaultSampler",
    wrapper: str | None = None,
    accumulate: int = 1,
    amp: bool = False,
    ema: bool = True,
    validate: bool = True,
    optimizer: str = "AdamW",
    checkpoint: dict[str, Any] | None = None,
    hooks: Sequence[Any] = (),
    **options: Any,
) -> Runner:
    """Returns a run over augmented images.

    Args:
        work_dir: where to.
        by_epoch: train by epochs, else by iterations.
        length: how many epochs, or times six iterations.
        batch_size: of the training.
        workers: data workers.
        persistent: whether they live for the whole run.
        sampler: its type.
        wrapper: ``repeat``, ``concat`` or ``balanced``: a dataset around the dataset.
        accumulate: iterations to an update.
        amp: train in bfloat16.
        ema: average the weights.
        validate: validate, save the best, and watch for an early stop.
        optimizer: its type.
        checkpoint: options of ``CheckpointHook``; only a last one by default.
        hooks: further hooks.
        **options: further arguments of the runner.
    """
    dataset: Any = AugmentedImages()
    if wrapper is not None:
        dataset = DATASETS.build(
            {
                "repeat": dict(type="RepeatDataset", dataset=dataset, times=2),
                "concat": dict(type="ConcatDataset", datasets=[dataset, AugmentedImages(7)]),
                "balanced": dict(type="ClassBalancedDataset", dataset=dataset, oversample_thr=0.4),
            }[wrapper]
        )
    loader: dict[str, Any] = dict(
        batch_size=batch_size, num_workers=workers, collate_fn="default_collate", persistent_workers=bool(workers) and persistent
    )  # fmt: skip
    custom_hooks: list[Any] = list(hooks)
    if ema:
        custom_hooks.append(dict(type="EMAHook", momentum=0.1))
    if validate:
        custom_hooks.append(dict(type="EarlyStoppingHook", monitor="val/score", rule="greater", patience=50))
        options.update(
            val_dataloader=dict(dataset=AugmentedImages(5), batch_size=5, collate_fn="default_collate"),
            val_cfg={},
            val_evaluator=MeanScore(),
        )
    train_cfg = dict(by_epoch=True, max_epochs=length) if by_epoch else dict(by_epoch=False, max_iters=6 * length, val_interval=4)  # fmt: skip
    saving = dict(interval=-1, by_epoch=by_epoch, save_best="val/score" if validate else None, rule="greater") if checkpoint is None else checkpoint  # fmt: skip
    torch.manual_seed(3)  # the model is made before the run, and so with its own seed
    return Runner(
        model=Network(),
        work_dir=str(work_dir),
        train_dataloader=dict(dataset=dataset, sampler=dict(type=sampler), **loader),
        train_cfg=train_cfg,
        optim_wrapper=dict(
            type="AmpOptimWrapper" if amp else "OptimWrapper",
            optimizer=dict(type=optimizer, lr=0.01),
            accumulative_counts=accumulate,
            clip_grad=dict(max_norm=1.0),
            **(dict(dtype="bfloat16") if amp else {}),
        ),
        param_scheduler=[
            dict(type="LinearLR", start_factor=0.1, by_epoch=False, begin=0, end=4),
            dict(type="CosineAnnealingLR", by_epoch=False, begin=4, end=6 * length, T_max=6 * length - 4),
        ],
        default_hooks=dict(checkpoint=dict(type="CheckpointHook", **saving), logger=dict(interval=2)),
        custom_hooks=custom_hooks,
        randomness=dict(seed=7),
        **options,
    )
