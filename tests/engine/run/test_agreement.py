from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_runs import log_of
from torch import nn
from torch.utils.data import Dataset

from trainwright.engine.checking import check
from trainwright.engine.config.config import Config
from trainwright.engine.data.names import keypoint_problems
from trainwright.engine.errors import ConfigError, DataError
from trainwright.engine.model_traits import learns_no_classes
from trainwright.engine.run.first_batch import explain
from trainwright.engine.run.runner import Runner
from trainwright.engine.structures.sample import DataSample
from trainwright.models import Distillation, EmbeddingModel
from trainwright.models.preprocessor import BaseDataPreprocessor
from trainwright.models.self_supervised.base import SelfSupervisedModel

EVALUATORS = {"type": "Accuracy"}


class Named(Dataset[Any]):
    """Two samples per class; the input is the one-hot index of the class name in the alphabet."""

    def __init__(self, classes: str = "abc", **metainfo: Any) -> None:
        self.metainfo = {"classes": tuple(classes), **metainfo}
        self.names = list(classes) * 2
        self.labels = [classes.index(name) for name in self.names]

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return torch.eye(5)["abcde".index(self.names[index])], self.labels[index]

    def remap_classes(self, classes: tuple[str, ...]) -> None:
        own = self.metainfo["classes"]
        self.labels = [classes.index(own[label]) for label in self.labels]
        self.metainfo["classes"] = tuple(classes)


class Declaring(nn.Linear):
    """A linear classifier that declares its number of classes."""

    def __init__(self, number: int = 3, **declared: Any) -> None:
        super().__init__(5, number)
        self.num_classes = number
        self.kept = nn.Parameter(torch.zeros(1))  # loaded from any checkpoint
        for name, value in declared.items():
            setattr(self, name, value)


def runner_of(
    folder: Path, train: Any = "abc", val: Any = None, test: Any = None, module: nn.Module | None = None, **options: Any
) -> Runner:
    def loader(data: Any) -> Any:
        if isinstance(data, list):
            return data
        dataset = Named(data) if isinstance(data, str) else data
        return {"dataset": dataset, "batch_size": 6, "collate_fn": {"type": "default_collate"}}

    for mode, data in (("val", val), ("test", test)):
        if data is not None:
            options[f"{mode}_dataloader"] = loader(data)
            options.setdefault(f"{mode}_cfg", {})
            options.setdefault(f"{mode}_evaluator", EVALUATORS)
    return Runner(
        **{"model": {"type": "ModuleWrapper", "module": module or Declaring()}, **options},
        work_dir=str(folder),
        train_dataloader=loader(train),
        train_cfg={"max_epochs": 30, "val_interval": 30},
        optim_wrapper={"optimizer": {"type": "SGD", "lr": 3.0}},
        default_hooks={"checkpoint": {"type": "CheckpointHook", "interval": 30}},
        randomness={"seed": 0},
    )


@pytest.fixture
def checkpoint(tmp_path: Path) -> str:
    runner_of(tmp_path / "first").train()
    return str(tmp_path / "first/epoch_30.pth")


@pytest.mark.parametrize("val", ["abc", "cab", "c", "ba"])
def test_validation_data_adopts_the_numbers_of_the_training_data(tmp_path: Path, val: str) -> None:
    runner = runner_of(tmp_path, val=val)
    runner.train()
    assert runner.message_hub.get_scalar("val/accuracy/top1").current() == 100
    assert runner.val_loop.evaluator.dataset_meta["classes"] == ("a", "b", "c")
    assert ("val_dataloader.dataset: its classes are numbered as in train_dataloader" in log_of(runner)) == (
        val != "abc"
    )


def test_other_classes_than_in_training_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"val_dataloader\.dataset and train_dataloader\.dataset .* only the former has 'e'"):  # fmt: skip
        runner_of(tmp_path, val="abe").train()


class Drawn(nn.Module):
    """A loss that draws embeddings together."""

    def forward(self, embeddings: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return embeddings.square().mean() + 0 * labels.sum()


class Contrasted(SelfSupervisedModel):
    num_views = 1

    def view_losses(self, views: Any) -> dict[str, torch.Tensor]:
        return {"loss": self.backbone(views[0]).square().mean()}


@pytest.mark.parametrize("kind", ["embedding", "self-supervised"])
def test_a_model_that_learns_no_classes_is_evaluated_on_other_ones(tmp_path: Path, kind: str) -> None:
    own: dict[str, Any] = {"data_preprocessor": BaseDataPreprocessor()}
    model: Any
    if kind == "embedding":
        model, evaluator = EmbeddingModel(nn.Linear(5, 5), Drawn(), **own), {"type": "RetrievalMetric", "topk": 1}
    else:
        memory = {"dataset": Named("ed"), "batch_size": 4, "collate_fn": {"type": "default_collate"}}
        backbone = nn.Linear(5, 5)
        nn.init.eye_(backbone.weight)
        model, evaluator = Contrasted(backbone, memory, k=1, **own), EVALUATORS
    runner = runner_of(tmp_path, "abc", val="de", val_evaluator=evaluator, model=model)
    runner.train()
    assert runner.val_loop.evaluator.dataset_meta["classes"] == (("d", "e") if kind == "embedding" else ("e", "d"))
    (result,) = (value for name, value in runner.val().items() if name in ("retrieval/rank1", "accuracy/top1"))
    assert result == 100


def test_a_wrapper_learns_no_classes_if_its_part_does_not(tmp_path: Path) -> None:
    runner = runner_of(tmp_path, "abc", val="de", module=Declaring(any_classes=True))
    runner.train()
    assert runner.val_loop.evaluator.dataset_meta["classes"] == ("d", "e")
    student, teacher = (EmbeddingModel(nn.Linear(5, 5), Drawn()) for _ in range(2))
    pairs = {"embeddings": {"student": "backbone", "loss": nn.MSELoss()}}
    assert learns_no_classes(Distillation(student, teacher, pairs))


def test_check_lets_a_model_that_learns_no_classes_have_any(tmp_path: Path) -> None:
    def mistakes(model: dict[str, Any]) -> list[ConfigError]:
        named = {
            name: {"type": "ImageFolder", "data_root": name, "metainfo": {"classes": [name]}} for name in ("a", "b")
        }
        loaders = {f"{mode}_dataloader": {"dataset": named[name]} for mode, name in (("train", "a"), ("val", "b"))}
        found = check(Config({"model": model, **loaders}))
        return [error for error in found if "has other classes" in str(error)]

    assert mistakes({"type": "PrototypicalNetwork", "backbone": {"type": "ConvNet"}}) == []
    assert len(mistakes({"type": "ImageClassifier", "backbone": {"type": "LeNet"}})) == 1


def test_validation_data_may_have_further_classes(tmp_path: Path) -> None:
    runner = runner_of(tmp_path, val="abcde")
    runner.train()
    assert "val_dataloader.dataset has classes that train_dataloader.dataset lacks: d, e. They are never" in log_of(
        runner
    )
    assert runner.message_hub.get_scalar("val/accuracy/top1").current() == pytest.approx(60)


def test_data_without_classes_is_not_compared(tmp_path: Path) -> None:
    val = Named("cba")
    val.metainfo = {}
    runner = runner_of(tmp_path, val=val)
    runner.train()
    assert runner.message_hub.get_scalar("val/accuracy/top1").current() < 100


def test_a_loader_may_be_a_list_of_batches(tmp_path: Path) -> None:
    class Loader(list[Any]):
        dataset = Named()

    runner = runner_of(tmp_path, Loader([(torch.eye(5)[:3], torch.arange(3))]))
    runner.train()
    assert runner.iter == 30


@pytest.mark.parametrize("test", ["abc", "bca", "b"])
def test_test_data_adopts_the_numbers_of_the_checkpoint(tmp_path: Path, checkpoint: str, test: str) -> None:
    assert runner_of(tmp_path / "test", test=test, load_from=checkpoint).test() == {"accuracy/top1": 100}


def test_a_checkpoint_of_other_classes_cannot_be_tested(tmp_path: Path, checkpoint: str) -> None:
    with pytest.raises(DataError, match=r"test_dataloader\.dataset and the checkpoint .*epoch_30\.pth .* 'd'; only the latter has 'c'"):  # fmt: skip
        runner_of(tmp_path / "test", test="abd", load_from=checkpoint).test()
    with pytest.raises(ConfigError, match=r"the model has 2 classes, but the checkpoint .* has 3"):
        runner_of(tmp_path / "test", test="ab", module=Declaring(2), load_from=checkpoint).test()


def test_resuming_with_other_classes(tmp_path: Path, checkpoint: str) -> None:
    more = {"max_epochs": 31, "val_interval": 31}
    resumed = runner_of(tmp_path / "more", "cba", val="acb", resume=checkpoint)
    resumed._train_cfg = more
    resumed.train()
    assert resumed.dataset_meta is not None and resumed.dataset_meta["classes"] == ("a", "b", "c")
    assert resumed.message_hub.get_scalar("val/accuracy/top1").current() == 100
    with pytest.raises(DataError, match=r"train_dataloader\.dataset and the checkpoint"):
        runner_of(tmp_path / "other", "abd", resume=checkpoint).train()


def test_fine_tuning(tmp_path: Path, checkpoint: str) -> None:
    def tuned(name: str, train: str, module: nn.Module | None = None) -> Runner:
        runner = runner_of(tmp_path / name, train, module=module, load_from=checkpoint)
        runner._train_cfg = {"max_epochs": 1}
        runner.train()
        return runner

    def classes(runner: Runner) -> Any:
        assert runner.dataset_meta is not None
        return runner.dataset_meta["classes"]

    reordered = tuned("reordered", "cab")  # the outputs that are loaded keep their meaning
    assert classes(reordered) == ("a", "b", "c")
    others = tuned("others", "abd")
    assert classes(others) == ("a", "b", "d")
    assert "outputs were trained for other classes" in log_of(others)
    fewer = tuned("fewer", "cb", Declaring(2))  # a new last layer
    assert classes(fewer) == ("c", "b")
    assert "outputs were trained" not in log_of(fewer)
    some = tuned("some", "cb")  # the same last layer
    assert classes(some) == ("a", "b", "c")


def test_the_number_of_classes(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"model: ModuleWrapper has 2 classes, but train_dataloader\.dataset has 3"):
        runner_of(tmp_path, module=Declaring(2)).train()
    runner = runner_of(tmp_path, module=Declaring(4))
    runner.train()
    assert "has 4 classes, but train_dataloader.dataset has 3 classes: a, b, c. The remaining outputs" in log_of(runner)
    with pytest.raises(DataError, match=r"test_evaluator: ConfusionMatrix has num_classes=2, but the dataset has 3"):
        metric = {"type": "ConfusionMatrix", "num_classes": 2}
        runner_of(tmp_path, test="abc", test_evaluator=metric).test()


def test_errors_of_the_first_batch_are_explained(tmp_path: Path) -> None:
    undeclared, unnamed = nn.Linear(5, 2), Named()
    unnamed.metainfo = {}
    with pytest.raises(ConfigError, match=r"model: it has no output for the label 2 in train_dataloader\.dataset"):
        runner_of(tmp_path, module=undeclared).train()
    with pytest.raises(ConfigError, match=r"no output for the label 2 in val_dataloader\.dataset"):
        runner_of(tmp_path, train="ab", val=unnamed, module=undeclared, val_cfg={"with_loss": True}).val()  # fmt: skip


@pytest.mark.parametrize(
    ("metainfo", "expected"),
    [
        ({}, None),
        ({"flip_indices": (0, 2, 1), "sigmas": (0.1,) * 3, "skeleton_links": ((0, 2),)}, None),
        ({"flip_indices": (0, 1)}, "flip_indices"),
        ({"flip_indices": (0, 1, 3)}, "flip_indices"),
        ({"flip_indices": (1, 2, 0)}, "flip_indices"),
        ({"sigmas": (0.1,)}, "sigmas"),
        ({"skeleton_links": ((0, 3),)}, "skeleton_links"),
    ],
)
def test_what_is_listed_for_each_keypoint(tmp_path: Path, metainfo: dict[str, Any], expected: str | None) -> None:
    posed = {"keypoints": ("nose", "left", "right"), **metainfo}
    problems = keypoint_problems(posed)
    assert [expected in problem for problem in problems] == [True] * (expected is not None)
    if expected:
        with pytest.raises(DataError, match=rf"train_dataloader\.dataset: metainfo\['{expected}'\]"):
            runner_of(tmp_path, Named(**posed)).train()


def test_the_number_and_the_mirror_image_of_keypoints(tmp_path: Path) -> None:
    data = Named(keypoints=("nose", "left", "right"), flip_indices=(0, 2, 1))
    for declared, expected in (
        ({"num_keypoints": 4}, "has 4 keypoints, but train_dataloader.dataset has 3 keypoints: nose, left, right"),
        ({"flip_indices": (0, 1, 2)}, r"model\.flip_indices: \[0, 1, 2\] differ from those of .* \[0, 2, 1\]"),
    ):
        runner = runner_of(tmp_path, data)
        for name, value in declared.items():  # type: ignore[attr-defined]
            setattr(runner.model, name, value)
        with pytest.raises(ConfigError, match=expected):
            runner.train()


def test_one_output_distinguishes_two_classes_but_not_two_keypoints(tmp_path: Path) -> None:
    runner_of(tmp_path, "ab", module=Declaring(2, num_classes=1)).train()
    runner = runner_of(tmp_path, Named(keypoints=("nose", "ear")))
    runner.model.num_keypoints = 1
    with pytest.raises(ConfigError, match=r"has 1 keypoints, but train_dataloader\.dataset has 2 keypoints"):
        runner.train()


def test_a_batch_that_is_not_stacked_is_explained(tmp_path: Path) -> None:
    runner = runner_of(tmp_path)
    runner._train_dataloader["collate_fn"] = {"type": "pseudo_collate"}
    with pytest.raises(
        ConfigError, match=r"train_dataloader\.collate_fn: the inputs of the model are a list of tensors"
    ):
        runner.train()


def test_errors_of_models_with_several_inputs_are_their_own(tmp_path: Path) -> None:
    batch = {
        "inputs": {"points": [torch.zeros(4, 3)], "image": torch.zeros(1, 3, 2, 2)},
        "data_samples": [DataSample()],
    }
    assert explain(AssertionError(), batch, runner_of(tmp_path), "train_dataloader") is None
    batch["inputs"] = [Path("a.png")]
    assert "the inputs of the model are pathlib" in str(
        explain(AssertionError(), batch, runner_of(tmp_path), "train_dataloader")
    )


def test_labels_out_of_range_are_named_before_the_first_step(tmp_path: Path) -> None:
    data = Named("abc")
    data.labels[4] = 3
    with pytest.raises(
        DataError, match=r"train_dataloader\.dataset: a sample has the label 3, but there are 3 classes"
    ):
        runner_of(tmp_path, data).train()
