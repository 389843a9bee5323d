"""Several data loaders: training reads them together, evaluation one after the other."""

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from ranks import run_group
from tiny_runs import Points, StopAt, log_of, weights_of
from torch import nn
from torch.utils.data import DataLoader

from trainwright.engine import BaseMetric, ConfigError, Hook, Runner, check
from trainwright.engine.config.config import Config
from trainwright.engine.distributed import all_gather_object
from trainwright.engine.errors import CheckpointError
from trainwright.engine.run.micro_batches import num_samples, slice_batch
from trainwright.engine.structures.sample import DataSample
from trainwright.models import BaseModel

SIZES = {"few": 10, "many": 36}


class TwoLines(BaseModel):
    """A linear model of two batches by name, with noise from the step's generator."""

    def __init__(self, data_preprocessor: Any = None) -> None:
        super().__init__(data_preprocessor)
        self.fc = nn.Linear(2, 1)
        nn.init.constant_(self.fc.weight, 0.5)
        nn.init.zeros_(self.fc.bias)

    def forward(self, few: Any = None, many: Any = None, mode: str = "tensor") -> Any:
        if mode != "loss":
            return list(self.fc(few))
        losses = {}
        for name, (inputs, targets) in (("few", few), ("many", many)):
            noisy = self.fc(inputs + 0.1 * torch.randn_like(inputs)).squeeze(1)
            losses[f"loss_{name}"] = nn.functional.mse_loss(noisy, targets)
        return losses

    def val_step(self, data: Any, with_loss: bool = False) -> Any:
        return list(self.fc(data[0]))

    test_step = val_step


class Seen(Hook):
    """Keeps the samples of each iteration by loader."""

    def __init__(self) -> None:
        self.batches: list[dict[str, list[int]]] = []

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        self.batches.append({name: _numbers(batch, name) for name, batch in data_batch.items()})

    def of(self, name: str) -> list[int]:
        return [index for batch in self.batches for index in batch[name]]


def _numbers(batch: Any, name: str) -> list[int]:
    return [round(float(x) * SIZES[name]) for x in batch[0][:, 0]]


def loaders(few: int = 2, many: int = 4, **options: Any) -> dict[str, Any]:
    of_each = {key: value for key, value in options.items() if key != "ends_with"}
    found: dict[str, Any] = {
        name: dict(dataset=Points(SIZES[name]), batch_size=size, collate_fn="default_collate", **of_each)
        for name, size in (("few", few), ("many", many))
    }
    return found | {key: options[key] for key in ("ends_with",) if key in options}


def make(folder: Path, *hooks: Any, loader: Any = None, train_cfg: Any = None, **options: Any) -> Runner:
    return Runner(
        TwoLines(), str(folder), train_dataloader=loader or loaders(),
        train_cfg=train_cfg or dict(by_epoch=True, max_epochs=3),
        optim_wrapper=dict(optimizer=dict(type="SGD", lr=0.1, momentum=0.9)),
        default_hooks=dict(checkpoint=dict(type="CheckpointHook", interval=100, by_epoch=False)),
        custom_hooks=list(hooks), randomness=dict(seed=0), **options,
    )  # fmt: skip


def train(folder: Path, *hooks: Hook, **options: Any) -> tuple[Runner, Seen]:
    seen = Seen()
    runner = make(folder, seen, *hooks, **options)
    runner.train()
    return runner, seen


@pytest.mark.parametrize(("ends_with", "length"), [(None, 9), ("longest", 9), ("shortest", 5), ("few", 5), ("many", 9)])
def test_an_epoch_ends_with_the_loader_that_is_set_and_the_others_go_on(
    tmp_path: Path, ends_with: str | None, length: int
) -> None:
    runner, seen = train(tmp_path, loader=loaders(**({} if ends_with is None else {"ends_with": ends_with})))
    assert runner.max_iters == runner.iter == len(seen.batches) == 3 * length
    assert runner.epoch == 3
    for name, size in SIZES.items():
        passes = [seen.of(name)[start : start + size] for start in range(0, len(seen.of(name)), size)]
        assert all(sorted(one) == list(range(size)) for one in passes[:-1]), name
        assert max(Counter(seen.of(name)).values()) - min(Counter(seen.of(name)).values()) <= (len(passes) > 1), name
        assert len({tuple(one) for one in passes}) == len(passes), "each pass has an order of its own"
    shares = (
        "Each iteration takes 2 samples of few (33%, {} passes per epoch), 4 samples of many (67%, {} passes per epoch)"
    )
    passes_of = ("1.8", "1") if length == 9 else ("1", "0.556")
    assert shares.format(*passes_of) + f"; an epoch has {length} iterations, and ends with" in log_of(runner)


def test_two_loaders_of_the_same_data_have_it_in_different_orders(tmp_path: Path) -> None:
    loader = {name: dict(loaders()["many"]) for name in ("few", "many")}
    seen = Seen()
    runner = make(tmp_path, loader=loader)
    orders = [[_numbers(batch, "many") for batch in each] for each in runner.train_dataloader.loaders.values()]
    assert orders[0] != orders[1] and len(seen.batches) == 0


LOOPS = {"epochs": dict(by_epoch=True, max_epochs=3), "iterations": dict(by_epoch=False, max_iters=25)}


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("ends_with", ["longest", "few"])
def test_a_run_that_was_cut_ends_with_the_same_bits(tmp_path: Path, loop: str, workers: int, ends_with: str) -> None:
    if workers and ends_with == "few" and loop == "iterations":
        pytest.skip("workers take time to start, and a loop by iterations does not depend on ends_with")
    options: dict[str, Any] = dict(train_cfg=LOOPS[loop])

    def loader() -> Any:
        return loaders(ends_with=ends_with, num_workers=workers, persistent_workers=bool(workers))

    whole, seen = train(tmp_path / "whole", loader=loader(), **options)
    batches = []
    for cut in (4, 11, 13, None):  # in each epoch, and with the followers in each of their passes
        hooks = [] if cut is None else [StopAt(cut)]
        last, part = train(tmp_path / "cut", *hooks, loader=loader(), resume="auto", **options)
        batches += part.batches
    assert batches == seen.batches
    assert all(torch.equal(weight, weights_of(whole)[name]) for name, weight in weights_of(last).items())


@pytest.mark.parametrize("loop", LOOPS)
def test_a_training_continues_in_the_same_process(tmp_path: Path, loop: str) -> None:
    _, seen = train(tmp_path / "whole", train_cfg=LOOPS[loop])
    part = Seen()
    data = loaders(num_workers=1, persistent_workers=True)
    runner = make(tmp_path / "cut", part, StopAt(9), StopAt(14), loader=data, train_cfg=LOOPS[loop])
    for _ in range(3):
        runner.train()
    assert part.batches == seen.batches


@pytest.mark.parametrize("loop", LOOPS)
def test_each_loader_goes_on_with_the_sample_that_is_due_in_batches_of_another_size(tmp_path: Path, loop: str) -> None:
    train_cfg = LOOPS[loop]
    _, whole = train(tmp_path / "whole", train_cfg=train_cfg)
    _, first = train(tmp_path / "cut", StopAt(6), train_cfg=train_cfg)
    last, rest = train(
        tmp_path / "cut", loader=loaders(few=1, many=6, ends_with="many"), train_cfg=train_cfg | ({"max_iters": 20} if loop == "iterations" else {}),
        resume="auto",
    )  # fmt: skip
    for name, size in SIZES.items():
        one_pass = [*first.of(name), *rest.of(name)][: 2 * size]
        assert one_pass == whole.of(name)[: len(one_pass)], name
    assert "train_dataloader.few: The checkpoint was written with different batches" in log_of(last)
    assert "train_dataloader.many: The checkpoint was written with different batches" in log_of(last)
    if loop == "epochs":
        assert (last.iter, last.epoch) == (18, 3)
    again, third = train(
        tmp_path / "cut", loader=loaders(few=1, many=6, ends_with="many"), resume="auto",
        train_cfg=dict(by_epoch=True, max_epochs=4) if loop == "epochs" else dict(by_epoch=False, max_iters=26),
    )  # fmt: skip
    few = [*first.of("few"), *rest.of("few"), *third.of("few")]
    assert all(sorted(few[start : start + 10]) == list(range(10)) for start in range(0, len(few) - 9, 10))
    assert "different batches" not in log_of(again)


def test_a_checkpoint_of_other_loaders_is_refused_or_the_difference_reported(tmp_path: Path) -> None:
    train(tmp_path / "run", StopAt(4))
    one = dict(loaders()["few"])
    with pytest.raises(CheckpointError, match="from a run with several data loaders, and this one has one"):
        train(tmp_path / "run", loader=one, resume="auto")
    with pytest.raises(CheckpointError, match="ends with the data loader 'many', but in this run with 'few': set tra"):
        train(tmp_path / "run", loader=loaders(ends_with="few"), resume="auto")
    renamed = {"few_": loaders()["few"], "many": loaders()["many"]}
    runner = make(tmp_path / "run", loader=renamed, resume="auto")
    runner.model.forward = lambda few_, many, mode: TwoLines.forward(runner.model, few_, many, mode)
    runner.train()
    log = log_of(runner)
    assert "train_dataloader.few_: It is not in the checkpoint, and begins with its first sample. did you mean" in log
    assert "train_dataloader has no 'few', whose position is in the checkpoint" in log


def test_ranks_share_each_loader_and_resume_exactly(tmp_path: Path) -> None:
    def in_rank() -> Any:
        whole, seen = train(tmp_path / "whole", train_cfg=dict(by_epoch=True, max_epochs=2))
        _, first = train(tmp_path / "cut", StopAt(7), train_cfg=dict(by_epoch=True, max_epochs=2))
        last, rest = train(tmp_path / "cut", train_cfg=dict(by_epoch=True, max_epochs=2), resume="auto")
        equal = all(
            torch.equal(one, other) for one, other in zip(weights_of(whole).values(), weights_of(last).values())
        )
        few = [index for part in all_gather_object(seen.of("few")[:6]) for index in part]
        return whole.max_iters, [*first.batches, *rest.batches] == seen.batches, equal, few

    for max_iters, same, equal, few in run_group(2, in_rank, tmp_path):
        assert (max_iters, same, equal) == (10, True, True)
        assert set(few) == set(range(10)), "a pass of ten samples over two ranks, with two repeated"


class Mean(BaseMetric):
    default_prefix = "mean"
    higher_is_better = False

    def process(self, data_batch: Any, data_samples: Sequence[Any]) -> None:
        self.results += [float(x) for x in data_batch[0][:, 0]]

    def compute_metrics(self, results: list[float]) -> dict[str, float]:
        return {"of_inputs": sum(results) / len(results), "number": len(results)}


class Iterations(Hook):
    def __init__(self) -> None:
        self.seen: list[int] = []

    def after_val_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        self.seen.append(batch_idx)


@pytest.mark.parametrize("evaluator", [dict(type=Mean), dict(few=dict(type=Mean), many=[dict(type=Mean)])])
def test_each_of_several_validation_sets_has_metrics_of_its_own(tmp_path: Path, evaluator: Any) -> None:
    iterations = Iterations()
    best = dict(type="CheckpointHook", save_best=["few/mean/of_inputs", "many/mean/number"], rule=[None, "greater"])
    runner = Runner(
        TwoLines(), str(tmp_path), train_dataloader=loaders(), train_cfg=dict(max_epochs=1),
        optim_wrapper=dict(optimizer=dict(type="SGD", lr=0.1)), default_hooks=dict(checkpoint=best),
        val_dataloader=loaders(few=3, many=9), val_cfg={}, val_evaluator=evaluator, custom_hooks=[iterations],
        visualizer=dict(type="Visualizer", vis_backends=[]),
    )  # fmt: skip
    runner.train()
    assert runner.val() == pytest.approx(
        {"few/mean/of_inputs": 0.45, "few/mean/number": 10, "many/mean/of_inputs": 17.5 / 36, "many/mean/number": 36}
    )
    assert iterations.seen == [*range(8), *range(8)]
    log = log_of(runner)
    assert "Epoch(val)   [1][8/8]    few/mean/of_inputs: 0.4500" in log or "few/mean/of_inputs: 0.4500" in log
    assert sorted(path.name for path in tmp_path.glob("best_*")) == [
        "best_few_mean_of_inputs_epoch_1.pth", "best_many_mean_number_epoch_1.pth",
    ]  # fmt: skip


def test_a_metric_that_is_built_cannot_evaluate_several_sets(tmp_path: Path) -> None:
    runner = Runner(TwoLines(), str(tmp_path), val_dataloader=loaders(), val_cfg={}, val_evaluator=Mean())
    with pytest.raises(ConfigError, match="already built cannot evaluate several"):
        runner.val()


def config(**changes: Any) -> Config:
    names = ("few", "many")
    loader = {name: dict(dataset=dict(type="FashionMNISTSubset"), batch_size=2) for name in names}
    cfg: dict[str, Any] = dict(
        model=dict(type="LeNet"), train_dataloader=loader, train_cfg=dict(max_epochs=1),
        optim_wrapper=dict(optimizer=dict(type="SGD", lr=0.1)),
        val_dataloader={name: dict(one) for name, one in loader.items()}, val_cfg={}, val_evaluator=dict(type="Accuracy"),
        default_hooks=dict(checkpoint=dict(type="CheckpointHook", save_best="many/accuracy/top1")),
    )  # fmt: skip
    found = Config(cfg)
    for path, value in changes.items():
        found.merge_from_dict({path.replace("__", "."): value})
    return found


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({}, None),
        ({"train_dataloader__ends_with": "few"}, None),
        ({"train_dataloader__ends_with": "fewer"}, "train_dataloader.ends_with: there is no data loader 'fewer'\n    did you mean 'few'"),
        ({"train_dataloader__end_with": "few"}, "train_dataloader.end_with: 'few' is not a data loader.*\n.*did you mean 'ends_with'"),
        ({"train_dataloader__batch_size": 2}, "train_dataloader.batch_size: 2 is not a data loader.*\n.*set it in each"),
        ({"train_dataloader__few__batchsize": 2}, "few.batchsize: a dataloader takes no such arg.*\n.*'batch_size'"),
        ({"train_dataloader__few__dataset__type": "FashionMNIST_"}, "few.dataset.type: 'FashionMNIST_' is not registered"),
        ({"train_dataloader__few__dataset__trian": 1}, "few.dataset.trian: FashionMNISTSubset takes no such arg"),
        ({"train_dataloader__few__sampler": dict(type="DefaultSampler", shufle=1)}, "few.sampler.shufle"),
        ({"val_dataloader__ends_with": "few"}, "val_dataloader.ends_with: each data loader is read to its end"),
        ({"val_evaluator": dict(few=dict(type="Accuracy"), _delete_=True)}, "val_evaluator.many: missing"),
        ({"val_evaluator": dict(few=dict(type="Accuracy"), mny=dict(type="Accuracy"), _delete_=True)}, "val_evaluator.mny: .*\n.*'many'"),
        ({"val_evaluator": dict(few=dict(type="Acuracy"), many=[dict(type="Accuracy")], _delete_=True)}, "val_evaluator.few.type"),
        ({"train_dataloader__longest": dict(dataset=dict(type="FashionMNISTSubset"))}, "'longest' cannot be the name"),
        ({"default_hooks__checkpoint__save_best": "few/seg/unknown"}, "cannot infer the rule for key 'few/seg/unknown'"),
    ],
)  # fmt: skip
def test_check_understands_several_loaders(changes: dict[str, Any], message: str | None) -> None:
    errors = check(config(**changes))
    if message is None:
        assert errors == []
    else:
        assert len(errors) == (2 if "mny" in str(changes) else 1)
        with pytest.raises(ConfigError, match=message):
            raise errors[0]


def test_a_model_that_does_not_take_the_names_is_explained(tmp_path: Path) -> None:
    loader = {"few": loaders()["few"], "lots": loaders()["many"]}
    with pytest.raises(ConfigError, match="its forward takes few, many, mode, but not lots, a batch of train_dataload"):
        make(tmp_path, loader=loader).train()


def test_a_loader_without_an_end_needs_one_that_leads(tmp_path: Path) -> None:
    def endless(**options: Any) -> Any:
        found = loaders(**options)
        return found | {"many": {**found["many"], "sampler": dict(type="InfiniteSampler")}}

    with pytest.raises(ConfigError, match="a data loader has no end, so none is known to be the longest"):
        make(tmp_path, loader=endless()).train()
    assert train(tmp_path, loader=endless(ends_with="few"))[0].max_iters == 15


def scale(factor: float) -> Callable[..., Any]:
    class Scale(nn.Module):
        def forward(self, data: Any, training: bool = False) -> Any:
            return [data[0] * factor, data[1]]

    return Scale


def test_each_loader_may_have_a_preprocessor_of_its_own() -> None:
    batch = torch.ones(2, 2), torch.ones(2)
    preprocessor = dict(type="DataPreprocessorByLoader", default=dict(type=scale(2)), many=dict(type=scale(3)))
    model = TwoLines(preprocessor)
    named = next(iter(Runner.build_dataloader(loaders())))
    named.update(few=batch, many=batch)
    found = model.data_preprocessor(named, True)
    assert {name: float(inputs.max()) for name, (inputs, _) in found.items()} == {"few": 2, "many": 3}
    assert float(model.data_preprocessor(batch)[0].max()) == 2
    with pytest.raises(ConfigError, match=r"data_preprocessor.lots: there is no data loader 'lots'"):
        TwoLines(dict(type="DataPreprocessorByLoader", lots=dict(type=scale(3)))).data_preprocessor(named, True)


def test_loaders_of_the_user_are_accepted_by_name(tmp_path: Path) -> None:
    built = {name: DataLoader(Points(SIZES[name]), batch_size=2) for name in SIZES}
    runner, seen = train(tmp_path, loader=built, train_cfg=dict(max_epochs=1))
    assert runner.iter == 18 and seen.of("few")[:10] == list(range(10))
    assert runner.train_dataloader.few is built["few"] and len(runner.train_dataloader) == 18


def test_the_samples_of_all_loaders_are_counted(tmp_path: Path) -> None:
    assert num_samples(next(iter(Runner.build_dataloader(loaders())))) == 6
    views = dict(inputs=[torch.zeros(5, 3, 8, 8)] * 2, data_samples=torch.zeros(5))
    assert num_samples(views) == 5 and [len(part) for part in slice_batch(views, 1, 4)["inputs"]] == [3, 3]
    assert num_samples(dict(inputs=[torch.zeros(5, 3, 8, 8)] * 2, data_samples=[DataSample()] * 5)) == 5
    with pytest.raises(ConfigError, match="halve_batch_on_oom: works with a single data loader only"):
        make(tmp_path, train_cfg=dict(max_epochs=1, halve_batch_on_oom=True)).train()


def test_a_bad_loss_names_the_samples_of_each_loader(tmp_path: Path) -> None:
    data = loaders()
    data["few"]["dataset"] = Points(10, bad=[3])
    with pytest.raises(RuntimeError, match=r"few: Samples in its batch: \[.*3.*\]\.\nmany: Samples in its batch"):
        make(tmp_path, dict(type="NanGuardHook", interval=1), loader=data).train()
