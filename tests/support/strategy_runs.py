"""Tiny runs under every strategy, in forked processes."""

import os
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed.fsdp  # here, and not again in each forked process
import torch.distributed.tensor.parallel
from ranks import run_ranks
from torch import Tensor, nn
from torch.utils.data import Dataset

from trainwright.engine.evaluation.metric import BaseMetric
from trainwright.engine.optim.wrapper import OptimWrapper
from trainwright.engine.optim.wrapper_dict import OptimWrapperDict
from trainwright.engine.run.hook import Hook
from trainwright.engine.run.runner import Runner
from trainwright.models.base import BaseModel
from trainwright.models.tta import BaseTTAModel

WIDTH, CLASSES, SAMPLES, GLOBAL_BATCH = 16, 5, 48, 8


class Samples(Dataset[tuple[Tensor, Tensor]]):
    """Random inputs with random labels."""

    metainfo = ()

    def __init__(self, length: int = SAMPLES, pipeline: Any = ()) -> None:
        generator = torch.Generator().manual_seed(7)
        self.inputs = torch.randn(length, WIDTH, generator=generator)
        self.labels = torch.randint(0, CLASSES, (length,), generator=generator)

    def __len__(self) -> int:
        return len(self.inputs)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.inputs[index], self.labels[index]


class Block(nn.Module):
    """A residual block."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(WIDTH)
        self.fc1 = nn.Linear(WIDTH, 2 * WIDTH)
        self.fc2 = nn.Linear(2 * WIDTH, WIDTH)

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs + self.fc2(nn.functional.gelu(self.fc1(self.norm(inputs))))  # type: ignore[no-any-return]


class Net(BaseModel):
    """Residual blocks, a convolution, and a head whose size no number of processes divides.

    Args:
        freeze: freeze the first layer.
        bad_at: 1-based training step whose loss is not finite; none if 0.
        **kwargs: arguments of the base class.
    """

    def __init__(self, freeze: bool = False, bad_at: int = 0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.stem = nn.Linear(WIDTH, WIDTH)
        self.conv = nn.Conv1d(1, 1, 3, padding=1)
        self.blocks = nn.Sequential(Block(), Block())
        self.head = nn.Linear(WIDTH, CLASSES)
        self.bad_at, self.steps = bad_at, 0
        if freeze:
            self.stem.requires_grad_(False)

    def forward(self, inputs: Tensor, data_samples: Any = None, mode: str = "tensor") -> Any:
        features = self.conv(self.stem(inputs).unsqueeze(1)).squeeze(1)
        scores = self.head(self.blocks(features))
        if mode == "loss":
            loss = nn.functional.cross_entropy(scores, data_samples)
            if self.bad_at:
                self.steps += 1
            return {"loss": loss * torch.nan if self.bad_at and self.steps == self.bad_at else loss}
        if mode == "predict":
            return [{"score": score, "label": label} for score, label in zip(scores.softmax(1), data_samples)]
        return scores


class SequenceNet(BaseModel):
    """The residual blocks of :class:`Net` over sequences of four numbers."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.stem = nn.Linear(4, WIDTH)
        self.blocks = nn.Sequential(Block(), Block())
        self.norm = nn.LayerNorm(WIDTH)
        self.head = nn.Linear(WIDTH, 6)

    def forward(self, inputs: Tensor, data_samples: Any = None, mode: str = "tensor") -> Any:
        scores = self.head(self.norm(self.blocks(self.stem(inputs.view(-1, 4, 4))))).mean(1)
        return {"loss": nn.functional.cross_entropy(scores, data_samples)} if mode == "loss" else scores


class TwoParts(Net):
    """A model whose parts have separate optimizers."""

    def train_step(self, data: Any, optim_wrapper: Any) -> dict[str, Tensor]:
        optimizers = list(optim_wrapper.values())
        inputs, labels = self.data_preprocessor(data, True)
        with optimizers[0].optim_context(self), optimizers[1].optim_context(self):
            loss = self(inputs, labels, mode="loss")["loss"]
        loss.backward()
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        return {"loss": loss}


class Adversarial(BaseModel):
    """A generator and a discriminator with their own optimizers, and a learned scale outside of both.

    The discriminator steps twice before the generator steps, and is called by a method other than ``forward``. A part
    of it has a gradient only for samples with label 0.
    """

    def __init__(self) -> None:
        super().__init__()
        self.generator, self.discriminator = Block(), Block()
        self.rare = nn.Linear(WIDTH, 1)
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, inputs: Tensor, data_samples: Any = None, mode: str = "tensor") -> Any:
        return self.generator(inputs) * self.scale

    def scores(self, inputs: Tensor) -> Tensor:
        hidden = self.discriminator.fc1(inputs)
        return self.discriminator.fc2(hidden.tanh()).mean(1)  # type: ignore[no-any-return]

    def train_step(self, data: Any, optim_wrapper: Any) -> dict[str, Tensor]:
        inputs, labels = self.data_preprocessor(data, True)
        judge, maker = optim_wrapper["discriminator"], optim_wrapper["generator"]
        for _ in range(2):
            with judge.optim_context(self.discriminator):
                loss = (self.scores(inputs) - 1).square().mean() + self.scores(self(inputs).detach()).square().mean()
                if (labels == 0).any():
                    loss = loss + self.rare(inputs)[labels == 0].square().sum() / len(inputs)
            judge.update_params(loss)
        made = (self.scores(self(inputs)) - 1).square().mean()
        maker.update_params(made)
        return {"loss": made, "loss_judge": loss}


class AdversarialOptimizers:
    """A constructor of optimizers: the generator's clips gradients, the discriminator's accumulates."""

    def __init__(self, optim_wrapper_cfg: Any, paramwise_cfg: Any = None) -> None:
        pass

    def __call__(self, model: Any) -> OptimWrapperDict:
        model = getattr(model, "module", model)
        maker = [*model.generator.parameters(), model.scale]
        judge = [*model.discriminator.parameters(), *model.rare.parameters()]
        return OptimWrapperDict(
            generator=OptimWrapper(torch.optim.SGD(maker, 0.1, foreach=False), clip_grad={"max_norm": 0.01}),
            discriminator=OptimWrapper(torch.optim.AdamW(judge, 1e-3, foreach=False), accumulative_counts=2),
        )


class TwoOptimizers:
    """A constructor of one optimizer for the blocks and one for the rest."""

    def __init__(self, optim_wrapper_cfg: Any, paramwise_cfg: Any = None) -> None:
        pass

    def __call__(self, model: Any) -> OptimWrapperDict:
        model = getattr(model, "module", model)
        inner = list(model.blocks.parameters())
        outer = [param for name, param in model.named_parameters() if not name.startswith("blocks.")]
        return OptimWrapperDict(
            inner=OptimWrapper(torch.optim.SGD(inner, 0.1, foreach=False)),
            outer=OptimWrapper(torch.optim.SGD(outer, 0.05, foreach=False)),
        )


class Shifted(BaseTTAModel):
    """The mean of the predictions of all views."""

    def merge_preds(self, data_samples_list: list[list[Any]]) -> list[Any]:
        return [{**views[0], "score": sum(view["score"] for view in views)} for views in data_samples_list]


class Scores(BaseMetric):
    """The sum of the scores of the true classes, and the number of samples."""

    default_prefix = "scores"
    higher_is_better = True

    def process(self, data_batch: Any, data_samples: Any) -> None:
        self.results += [float(sample["score"][sample["label"]]) for sample in data_samples]

    def compute_metrics(self, results: list[float]) -> dict[str, Any]:
        return {"sum": sum(results), "number": len(results)}


class KeepMetrics(Hook):
    """Keep the metrics of each validation in the checkpoints."""

    def __init__(self) -> None:
        self.seen: list[dict[str, float]] = []

    def after_val_epoch(self, runner: Any, metrics: Any = None) -> None:
        self.seen.append(dict(metrics))

    def state_dict(self) -> dict[str, Any]:
        return {"seen": list(self.seen)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.seen = state["seen"]


def config(folder: Path, strategy: Any = "auto", share: int = 1, **changes: Any) -> dict[str, Any]:
    """Return the config of a run of two epochs.

    Args:
        folder: the folder of the run.
        strategy: the strategy.
        share: the number of processes that share a batch.
        **changes: top-level keys; dicts are merged.
    """
    loader = {"batch_size": GLOBAL_BATCH // share, "collate_fn": {"type": "default_collate"}}
    cfg: dict[str, Any] = {
        "model": {"type": Net},
        "work_dir": str(folder),
        "train_dataloader": {"dataset": Samples(), **loader},
        "train_cfg": {"max_epochs": 2},
        "optim_wrapper": {"optimizer": {"type": "SGD", "lr": 0.1, "momentum": 0.9}},
        "default_hooks": {"checkpoint": {"type": "CheckpointHook", "interval": 1}},
        "randomness": {"seed": 3},
        "strategy": strategy,
        "log_level": "WARNING",
    }
    for key, value in changes.items():
        cfg[key] = {**cfg[key], **value} if isinstance(value, dict) and isinstance(cfg.get(key), dict) else value
    return cfg


def train(cfg: dict[str, Any]) -> dict[str, Any]:
    """Train in this process as one of several, if the environment says so, and return facts about the run."""
    launcher = "pytorch" if "RANK" in os.environ else "none"
    runner = Runner.from_cfg({**cfg, "launcher": launcher, "env_cfg": {"dist_cfg": {"timeout": 50}}})
    runner.train()
    return {"iter": runner.iter, "strategy": type(runner.strategy).__name__}


def last_checkpoint(folder: Path) -> dict[str, Any]:
    """Return the contents of the newest checkpoint in a folder."""
    name = (folder / "last_checkpoint").read_text().strip()
    return torch.load(folder / Path(name).name, weights_only=True)  # type: ignore[no-any-return]


def train_all(
    folder: Path, strategy: Any, world_size: int, data_size: int, cases: Mapping[str, Mapping[str, Any]]
) -> dict[str, str]:
    """Train several runs in the same processes, each in ``folder/name``, and return the errors by name."""

    def each() -> dict[str, str]:
        errors = {}
        for name, changes in cases.items():
            try:
                train(config(folder / name, strategy, data_size, **changes))
            except Exception:
                errors[name] = traceback.format_exc()
        return errors

    if world_size == 1:
        return each()
    results = run_ranks(world_size, each, folder / "ranks", timeout=60 + 10 * len(cases))
    return {name: error for result in results for name, error in result.items()}


def train_in(
    folder: Path, strategy: Any, world_size: int, data_size: int | None = None, **changes: Any
) -> dict[str, Any]:
    """Train in forked processes and return the newest checkpoint."""
    cfg = config(folder, strategy, data_size or world_size, **changes)
    run_ranks(world_size, lambda: train(cfg), folder / "ranks") if world_size > 1 else train(cfg)
    return last_checkpoint(folder)


def difference(one: dict[str, Any], other: dict[str, Any], names: Sequence[str] = ("state_dict",)) -> float:
    """Return the largest absolute difference of the weights in two checkpoints."""
    pairs = [(one[name][key], other[name][key]) for name in names for key in one[name]]
    assert all(one[name].keys() == other[name].keys() for name in names)
    return max(float((a.double() - b.double()).abs().max()) for a, b in pairs if a.numel())
