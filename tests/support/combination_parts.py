"""Parts for random combinations of features: data, a model, optimizers and hooks with state or random numbers."""

import json
import os
import random
import signal
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset, IterableDataset, Sampler, TensorDataset

from trainwright.engine.data.several import NamedBatches
from trainwright.engine.evaluation.metric import BaseMetric
from trainwright.engine.optim.constructor import build_optim_wrapper
from trainwright.engine.optim.wrapper_dict import OptimWrapperDict
from trainwright.engine.records.message_hub import MessageHub
from trainwright.engine.registry import (
    DATA_SAMPLERS,
    DATASETS,
    HOOKS,
    METRICS,
    MODELS,
    OPTIM_WRAPPER_CONSTRUCTORS,
)
from trainwright.engine.run.hook import Hook
from trainwright.models.base import BaseModel

LENGTH = 14
FEATURES = 5
CLASSES = 3
BAD = (3, 9)
"""Indices of samples that raise an error, in datasets with bad samples."""
NAN = 5
"""Index of the sample with a NaN input, in datasets with one."""


def make_points(length: int, nan: bool = False) -> tuple[Tensor, Tensor]:
    """Return inputs (length, FEATURES) and labels (length,)."""
    inputs = torch.randn(length, FEATURES, generator=torch.Generator().manual_seed(length))
    if nan:
        inputs[NAN] = torch.nan
    return inputs, torch.tensor([0] * (length // 2) + [1] * (length // 3) + [2] * (length - length // 2 - length // 3))


@DATASETS.register_module()
class ComboPoints(Dataset[dict[str, Any]]):
    """Points of three classes of different sizes, augmented by all three random generators.

    Args:
        length: number of points.
        bad: whether the samples ``BAD`` raise an error.
        nan: whether the input of the sample ``NAN`` is NaN.
        noise: strength of the augmentation; 0 for none.
    """

    metainfo: Mapping[str, Any] = {"classes": ("a", "b", "c")}

    def __init__(self, length: int = LENGTH, bad: bool = False, nan: bool = False, noise: float = 0.1) -> None:
        self.inputs, self.labels = make_points(length, nan)
        self.bad = BAD if bad else ()
        self.noise = noise

    def full_init(self) -> None:
        """Do nothing: there are no annotations to read."""

    def __len__(self) -> int:
        return len(self.inputs)

    def get_cat_ids(self, index: int) -> list[int]:
        return [int(self.labels[index])]

    def get_data_info(self, index: int) -> dict[str, Any]:
        return {"width": 1 + index % 2, "height": 1 + index % 3}

    def __getitem__(self, index: int) -> dict[str, Any]:
        if index in self.bad:
            raise ValueError("this sample is damaged")
        noise = random.gauss(0, 1) + np.random.normal() + torch.randn(FEATURES)
        return {"inputs": self.inputs[index] + self.noise * noise, "labels": self.labels[index], "index": index}


@DATASETS.register_module()
class ComboBatches(ComboPoints):
    """The same points, but fetched as whole batches."""

    fetches_batches = True

    def __getitems__(self, indices: list[int]) -> dict[str, Any]:
        noise = random.gauss(0, 1) + np.random.normal() + torch.randn(len(indices), FEATURES)
        return {
            "inputs": self.inputs[indices] + self.noise * noise,
            "labels": self.labels[indices],
            "index": torch.tensor(indices),
        }


@DATASETS.register_module()
def ComboTensors(length: int = LENGTH, nan: bool = False) -> TensorDataset:  # used like a class
    """PyTorch's own dataset of tensors."""
    return TensorDataset(*make_points(length, nan), torch.arange(length))


@DATASETS.register_module()
class ComboStream(IterableDataset[dict[str, Any]]):
    """A stateful iterable dataset of the same points, split among the data workers."""

    metainfo = ComboPoints.metainfo

    def __init__(self, length: int = LENGTH, nan: bool = False) -> None:
        self.points = ComboPoints(length, nan=nan)
        self.next = 0

    def __iter__(self) -> Iterator[dict[str, Any]]:
        info = torch.utils.data.get_worker_info()
        number, workers = (0, 1) if info is None else (info.id, info.num_workers)
        while self.next * workers + number < len(self.points):
            index = self.next * workers + number
            self.next += 1
            yield self.points[index]
        self.next = 0

    def state_dict(self) -> dict[str, Any]:
        return {"next": self.next}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.next = int(state["next"])


@DATASETS.register_module()
class ComboSizedStream(ComboStream):
    """A stream with a length."""

    def __len__(self) -> int:
        return len(self.points)


class ComboLoader:
    """A custom data loader with state, which shuffles from a seed."""

    def __init__(self, batch_size: int, drop_last: bool = False, length: int = LENGTH) -> None:
        self.dataset = ComboPoints(length, noise=0.0)
        self.batch_size = batch_size
        self.drop_last = drop_last
        self.passes = 0
        self.batch = 0

    def __len__(self) -> int:
        full, rest = divmod(len(self.dataset), self.batch_size)
        return full + (rest > 0 and not self.drop_last)

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        while self.batch < len(self):
            order = torch.randperm(len(self.dataset), generator=torch.Generator().manual_seed(self.passes)).tolist()
            indices = order[self.batch * self.batch_size :][: self.batch_size]
            self.batch += 1
            samples = [self.dataset[index] for index in indices]
            yield {
                "inputs": torch.stack([sample["inputs"] for sample in samples]),
                "labels": torch.stack([sample["labels"] for sample in samples]),
                "index": torch.tensor(indices),
            }
        self.passes, self.batch = self.passes + 1, 0

    def state_dict(self) -> dict[str, int]:
        return {"passes": self.passes, "batch": self.batch}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        self.passes, self.batch = state["passes"], state["batch"]


@DATA_SAMPLERS.register_module()
class ComboSampler(Sampler[int]):
    """A custom sampler, whose order depends only on the seed and the epoch."""

    def __init__(self, dataset: Any, seed: int) -> None:
        self.dataset = dataset
        self.seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.dataset) - 1

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self.seed * 1000 + self.epoch)
        return iter(torch.randperm(len(self.dataset), generator=generator).tolist()[:-1])


@DATA_SAMPLERS.register_module()
class ComboBatchSampler(Sampler[list[int]]):
    """A custom batch sampler with batches of increasing size."""

    def __init__(self, sampler: Any, batch_size: int, drop_last: bool = False) -> None:
        self.sampler = sampler
        self.batch_size = batch_size

    def _sizes(self) -> list[int]:
        sizes = []
        while sum(sizes) < len(self.sampler):
            sizes.append(min(2 + len(sizes), len(self.sampler) - sum(sizes)))
        return sizes

    def __len__(self) -> int:
        return len(self._sizes())

    def __iter__(self) -> Iterator[list[int]]:
        indices = iter(self.sampler)
        for size in self._sizes():
            yield [next(indices) for _ in range(size)]


class RunningMean(nn.Module):
    """A layer with buffers that subtracts a running mean, and supports batches of one sample."""

    mean: Tensor
    batches: Tensor

    def __init__(self, size: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("batches", torch.zeros((), dtype=torch.int64))
        self.weight = nn.Parameter(torch.ones(size))

    def forward(self, inputs: Tensor) -> Tensor:
        if self.training:
            with torch.no_grad():
                self.mean.lerp_(inputs.detach().float().mean(0), 0.1)
                self.batches += 1
        return (inputs - self.mean.clone()) * self.weight


@MODELS.register_module()
class ComboNet(BaseModel):
    """A small network whose step draws from all three generators.

    Args:
        width: width of the hidden layer.
        norm: the layer with buffers, ``batch`` or ``running``.
        draws: whether the step also draws from ``random`` and ``numpy.random``.
        hub: whether the model writes to the message hub.
        late: whether an additional branch is used, which a switch may change.
        memory: maximum number of samples in a training step; None for no limit.
        two_losses: whether two optimizers train the model, one for each part.
        random_init: whether the initial weights are drawn when the run initializes them.
    """

    def __init__(
        self,
        width: int = 6,
        norm: str = "batch",
        draws: bool = False,
        hub: bool = False,
        late: bool = True,
        memory: int | None = None,
        two_losses: bool = False,
        random_init: bool = False,
    ) -> None:
        super().__init__()
        layer = nn.BatchNorm1d(width) if norm == "batch" else RunningMean(width)
        self.body = nn.Sequential(nn.Linear(FEATURES, width), layer, nn.ReLU(), nn.Dropout(0.3))
        self.branch = nn.Linear(FEATURES, width)
        self.head = nn.Linear(width, CLASSES)
        generator = torch.Generator().manual_seed(3)
        with torch.no_grad():
            for linear in (self.body[0], self.branch, self.head):
                for param in linear.parameters():
                    param.copy_(torch.randn(param.shape, generator=generator) / 3)
        self.draws = draws
        self.hub = hub
        self.late = late
        self.memory = memory
        self.two_losses = two_losses
        self.random_init = random_init
        self.noise = torch.ones(())

    def init_weights(self) -> None:
        if self.random_init:
            nn.init.normal_(self.head.weight, std=0.3)
            nn.init.uniform_(self.body[0].weight, -0.5, 0.5)

    def forward(
        self,
        inputs: Any = None,
        labels: Any = None,
        index: Any = None,
        mode: str = "tensor",
        main: Any = None,
        side: Any = None,
    ) -> Any:
        if main is not None:
            losses = [self(**self._named(batch), mode=mode)["loss"] for batch in (main, side)]
            return {"loss": losses[0] + 0.5 * losses[1]}
        hidden = self.body(inputs)
        if self.late:
            hidden = hidden + self.branch(inputs)
        logits = self.head(hidden).float()
        if mode == "loss":
            logits = logits * self.noise if self.training else logits
            return {"loss": nn.functional.cross_entropy(logits, labels)}
        return [{"score": row} for row in logits]

    def _named(self, batch: Any) -> dict[str, Any]:
        return batch if isinstance(batch, dict) else dict(zip(("inputs", "labels", "index"), batch))

    def train_step(self, data: Any, optim_wrapper: Any) -> dict[str, Tensor]:
        if isinstance(data, NamedBatches):
            return self._train_step(data, optim_wrapper)
        inputs = data["inputs"] if isinstance(data, Mapping) else data[0]
        if self.memory is not None and len(inputs) > self.memory:
            raise torch.OutOfMemoryError("a test: out of memory")
        return self._train_step(data, optim_wrapper)

    def _train_step(self, data: Any, optim_wrapper: Any) -> dict[str, Tensor]:
        if self.draws:
            self.noise = torch.tensor(1 + 0.1 * random.random() + 0.1 * float(np.random.rand()))
        outputs = self._step_of_two(data, optim_wrapper) if self.two_losses else super().train_step(data, optim_wrapper)
        if self.hub:
            hub = MessageHub.get_current_instance()
            hub.update_scalar("train/of_the_model", outputs["loss"])
            hub.update_info("batches", hub.get_info("batches", 0) + 1)
        return outputs

    def _step_of_two(self, data: Any, wrappers: Any) -> dict[str, Tensor]:
        """Update first the body and then the head, as in a GAN; the head only every other time."""
        outputs = {}
        for name in ("body", "head"):
            if name == "head" and MessageHub.get_current_instance().get_info("iter", 0) % 2:
                continue
            for part, owner in ((self.body, "body"), (self.branch, "body"), (self.head, "head")):
                part.requires_grad_(owner == name)  # else one's loss leaves gradients in the other
            with wrappers[name].optim_context(self):
                losses = self(**data, mode="loss") if isinstance(data, Mapping) else self(*data, mode="loss")
            wrappers[name].update_params(losses["loss"])
            outputs["loss" if name == "body" else "loss_head"] = losses["loss"].detach()
        return outputs


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class ComboTwoOptimizers:
    """A constructor of two optimizers with the same settings, for body and head."""

    def __init__(self, optim_wrapper_cfg: Any, paramwise_cfg: Any = None) -> None:
        self.cfg = {**optim_wrapper_cfg, "paramwise_cfg": paramwise_cfg}

    def __call__(self, model: nn.Module) -> OptimWrapperDict:
        body = nn.ModuleList([model.body, model.branch])  # type: ignore[list-item]
        parts = {"body": body, "head": model.head}
        return OptimWrapperDict(**{name: build_optim_wrapper(part, self.cfg) for name, part in parts.items()})  # type: ignore[arg-type]


@METRICS.register_module()
class ComboScore(BaseMetric):
    """A metric with two values that depend on every bit of the weights, one also on random numbers of the validation."""

    default_prefix = "val"

    def __init__(self, names: Sequence[str] = ("score",), prefix: str | None = None) -> None:
        super().__init__(prefix=prefix)
        self.names = names

    def process(self, data_batch: Any, data_samples: Sequence[Mapping[str, Any]]) -> None:
        self.results.extend(float(sample["score"].double().sum()) for sample in data_samples)

    def compute_metrics(self, results: list[Any]) -> dict[str, float]:
        mean = sum(results) / len(results)
        values = {"score": mean, "drawn": mean + random.random() + float(torch.rand(()))}
        return {name: values[name] for name in self.names}


@HOOKS.register_module()
class ComboHook(Hook):
    """A custom hook with state that affects training."""

    priority = "LOW"

    def __init__(self) -> None:
        self.mean = 0.0

    def state_dict(self) -> dict[str, float]:
        return {"mean": self.mean}

    def load_state_dict(self, state: Mapping[str, float]) -> None:
        self.mean = state["mean"]

    def after_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        loss = float(outputs["loss"])
        if loss == loss:
            self.mean = 0.5 * self.mean + 0.5 * loss
        with torch.no_grad():
            runner.model.head.bias.add_(0.01 * self.mean)


class Recorder(Hook):
    """Write a line for every iteration: its samples, learning rates, loss, and a checksum of the weights after it."""

    priority = "VERY_HIGH"

    def __init__(self, file: Path) -> None:
        self.file = file
        self.began = False

    def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        self.began = True
        wrapper = runner.optim_wrapper
        wrappers = list(wrapper.values()) if isinstance(wrapper, OptimWrapperDict) else [wrapper]
        groups = [group for one in wrappers for group in one.param_groups]
        self.rates = [float(group["lr"]).hex() for group in groups]
        self.momenta = [_momentum(group) for group in groups]

    def after_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        batches = list(data_batch.values()) if isinstance(data_batch, NamedBatches) else [data_batch]
        index = torch.cat(
            [torch.as_tensor(batch["index"] if isinstance(batch, Mapping) else batch[2]) for batch in batches]
        )
        total = sum(float(param.detach().double().sum()) for param in runner.model.parameters())
        row = {
            "iter": runner.iter + 1,
            "epoch": runner.epoch,
            "samples": index.tolist(),
            "lr": self.rates,
            "momentum": self.momenta,
            "loss": float(outputs["loss"]).hex(),
            "weights": total.hex(),
        }
        with self.file.open("a") as file:
            file.write(json.dumps(row) + "\n")


def _momentum(group: Mapping[str, Any]) -> Any:
    return group.get("momentum", list(group["betas"]) if "betas" in group else None)


class Cut(Hook):
    """End a run at a certain point.

    Args:
        how: ``stop``, ``kill``, ``error``, or the name of a signal; ``again`` for a stop after which the same
            ``Runner`` continues training, as in a notebook.
        at: number of iterations after which the hook acts, at the next ``place``.
        place: ``first`` or ``last``: before or after the other hooks at the end of an iteration; ``epoch``: at the end
            of an epoch; ``val``: after the first batch of a validation.
    """

    def __init__(self, how: str, at: int, place: str) -> None:
        self.how = how
        self.at = at
        self.place = place
        self.done = False
        self.left: list[str] = []
        self.priority = "VERY_HIGH" if place == "first" else "LOWEST"

    def after_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        if self.place in ("first", "last"):
            self._act(runner, runner.iter + 1)

    def after_train_epoch(self, runner: Any) -> None:
        if self.place == "epoch":
            self._act(runner, runner.iter)

    def after_val_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        if self.place == "val":
            self._act(runner, runner.iter)

    def _act(self, runner: Any, iterations: int) -> None:
        if self.done or iterations < self.at:
            return
        self.done = True
        if self.how in ("stop", "again"):
            runner.request_stop("a test")
        elif self.how == "error":
            raise CutError("a test")
        elif self.how == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
            threading.Event().wait()
        else:
            os.kill(os.getpid(), signal.Signals[self.how])


class CutError(RuntimeError):
    """An error that ends a run during validation."""
