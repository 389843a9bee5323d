"""k-NN and linear evaluation of features."""

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from ranks import run_group
from torch.nn import functional as F
from torch.utils.data import Dataset, TensorDataset

from trainwright.engine import Inferencer
from trainwright.engine.config.config import Config
from trainwright.engine.errors import ConfigError, DataError
from trainwright.engine.optim.wrapper import OptimWrapper
from trainwright.engine.run.model_setup import build_model
from trainwright.engine.run.runner import Runner
from trainwright.models import ImageClassifier, KNNClassifier

CONFIGS = Path(__file__).parents[2] / "configs/classification"
PLAIN = dict(type="BaseDataPreprocessor")


def knn(features: Any, labels: Any, backbone: Any = None, **settings: Any) -> KNNClassifier:
    dataset = TensorDataset(torch.tensor(features), torch.tensor(labels))
    memory = dict(dataset=dataset, batch_size=2, collate_fn="default_collate")
    model = KNNClassifier(backbone or torch.nn.Identity(), memory, data_preprocessor=PLAIN, **settings)
    return model.eval()


def test_the_nearest_vote_by_their_similarity() -> None:
    model = knn([[2.0, 0], [0, 3], [-1, 0], [1, 1]], [0, 1, 2, 1], k=2, temperature=0.5)
    (prediction,) = model.test_step([torch.tensor([[5.0, 0.0]]), torch.tensor([0])]).unbatch()
    weights = torch.tensor([1.0, 0.5**0.5]).div(0.5).softmax(0)  # cosine similarities to the first and the last
    torch.testing.assert_close(prediction.pred_score, torch.tensor([weights[0], weights[1], 0]))
    assert prediction.pred_label == 0
    assert prediction.gt_label == 0


def test_features_are_those_of_a_layer_averaged_over_positions() -> None:
    backbone = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 1), torch.nn.Flatten(), torch.nn.Linear(8, 3))
    images = torch.rand(3, 1, 2, 2)
    model = knn(images.tolist(), [0, 1, 0], backbone, layer="backbone.0")
    features, labels = model.bank()
    torch.testing.assert_close(features, F.normalize(backbone[0](images).mean((2, 3)), dim=1).detach())
    assert labels.tolist() == [0, 1, 0]
    assert model.test_step([images, None]).pred_label.tolist() == [0, 1, 0] or model.neighbors.k > 3


def test_training_and_loading_weights_discard_the_features() -> None:
    backbone = torch.nn.Linear(2, 2)
    model = knn([[2.0, 0], [0, 3]], [0, 1], backbone)
    before, _ = model.bank()
    assert model.bank()[0] is before
    model.train()
    wrapper = OptimWrapper(torch.optim.SGD(model.parameters(), lr=1.0))
    model.train_step([torch.tensor([[1.0, 2]]), torch.tensor([1])], wrapper)
    model.eval()
    after, _ = model.bank()
    assert not torch.equal(after, before)
    model.load_state_dict({name: torch.ones_like(value) for name, value in model.state_dict().items()})
    assert not torch.equal(model.bank()[0], after)


def test_mistakes_are_named() -> None:
    with pytest.raises(ConfigError, match="no submodule 'backbone.fc'") as caught:
        KNNClassifier(dict(type="LeNet"), memory={}, layer="backbone.fc")
    assert "did you mean 'backbone.features'" in str(caught.value)
    with pytest.raises(ConfigError, match="k must be at least 1"):
        KNNClassifier(dict(type="LeNet"), memory={}, k=0)


def test_several_processes_have_the_features_of_one(tmp_path: Path) -> None:
    features, labels = torch.rand(5, 3, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1, 2, 0, 1])
    expected = [F.normalize(features, dim=1).tolist(), labels.tolist()]

    def memory() -> list[Any]:
        settings = dict(dataset=TensorDataset(features, labels), batch_size=2, collate_fn="default_collate")
        model = KNNClassifier(torch.nn.Identity(), memory=settings, data_preprocessor=PLAIN)
        return [column.tolist() for column in model.eval().bank()]

    assert run_group(2, memory, tmp_path) == [expected, expected]


def frozen_classifier(frozen: list[str]) -> Any:
    backbone = dict(type="LeNet", num_classes=None, image_size=8, channels=(2, 2), hidden_features=4, batch_norm=True)
    head = dict(type="LinearClsHead", num_classes=3, in_channels=4)
    return build_model(dict(type=ImageClassifier, backbone=backbone, head=head, frozen=frozen, data_preprocessor=PLAIN))


def test_only_what_is_not_frozen_is_trained() -> None:
    torch.manual_seed(0)
    model = frozen_classifier(["backbone"]).train()
    assert not model.backbone.training
    assert model.head.training
    before = {name: value.clone() for name, value in model.state_dict().items()}
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    wrapper = OptimWrapper(torch.optim.SGD(trained, lr=1.0))
    model.train_step([torch.rand(2, 1, 8, 8), torch.tensor([0, 2])], wrapper)
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {"head.fc.weight", "head.fc.bias"}


def test_a_part_may_be_frozen_and_a_mistaken_one_is_named() -> None:
    model = frozen_classifier(["backbone.features"]).train()
    assert [model.backbone.training, model.backbone.features.training] == [True, False]
    with pytest.raises(ConfigError, match="ImageClassifier has no submodule or parameter 'backbon'") as caught:
        frozen_classifier(["backbon"])
    assert "did you mean 'backbone'?" in str(caught.value)


def run(name: str, work_dir: Path, **changes: Any) -> Runner:
    cfg = Config.fromfile(CONFIGS / name)
    quiet = {"visualizer": dict(type="Visualizer", vis_backends=[]), "work_dir": str(work_dir / name)}
    cfg.merge_from_dict({**quiet, **changes})
    return Runner.from_cfg(cfg)


@pytest.mark.long
def test_shipped_configs_judge_the_features_of_a_short_training(tmp_path: Path) -> None:
    short = {"train_dataloader.num_batch_per_epoch": 40, "train_cfg.max_epochs": 1}
    short |= {f"{split}_dataloader.num_batch_per_epoch": 1 for split in ("val", "test")}
    trained = run("lenet_fashion_mnist.py", tmp_path, **short, **{"param_scheduler.total_steps": 1})
    trained.train()
    (checkpoint,) = (tmp_path / "lenet_fashion_mnist.py").glob("epoch_1.pth")
    changes = {"model.memory.dataset.indices": 2000, "load_from": str(checkpoint)}
    changes["test_dataloader.num_batch_per_epoch"] = 1
    nearest = run("lenet_knn_fashion_mnist.py", tmp_path, **changes).test()
    assert nearest["accuracy/top1"] > 75  # chance: 10
    linear = run("lenet_linear_fashion_mnist.py", tmp_path, **short, load_from=str(checkpoint))
    before = {name: value.clone() for name, value in trained.model.backbone.state_dict().items()}
    linear.train()
    for name, value in linear.model.backbone.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert linear.test()["accuracy/top1"] > 70


class Halves(Dataset[Any]):
    """One vector per class, in its own direction."""

    def __init__(self, classes: str, shift: float = 0.0) -> None:
        self.metainfo = {"classes": tuple(classes)}
        self.names, self.labels, self.shift = classes, list(range(len(classes))), shift

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return torch.eye(4)["abcd".index(self.names[index])] + self.shift, self.labels[index]

    def remap_classes(self, classes: tuple[str, ...]) -> None:
        self.labels = [classes.index(self.metainfo["classes"][label]) for label in self.labels]
        self.metainfo["classes"] = tuple(classes)


def runner_of(folder: Path, memory: str, test: str, train: str = "abc", **options: Any) -> Runner:
    def loader(data: str) -> dict[str, Any]:
        return {"dataset": Halves(data, 0.1), "batch_size": 4, "collate_fn": {"type": "default_collate"}}

    head = {"type": "LinearClsHead", "num_classes": 3, "in_channels": 4}
    backbone = torch.nn.Linear(4, 4)
    torch.nn.init.eye_(backbone.weight)
    model = KNNClassifier(backbone, loader(memory), k=1, head=head, data_preprocessor=PLAIN)
    evaluation = {f"{mode}_{part}": value for mode in ("val", "test") for part, value in {
        "dataloader": loader(test), "cfg": {}, "evaluator": {"type": "Accuracy", "topk": 1},
    }.items()}  # fmt: skip
    return Runner(
        model=model, work_dir=str(folder), train_dataloader=loader(train), train_cfg={"max_epochs": 1},
        optim_wrapper={"optimizer": {"type": "SGD", "lr": 0.0}}, **evaluation, **options,
    )  # fmt: skip


@pytest.mark.parametrize(("memory", "test"), [("abc", "abc"), ("cab", "abc"), ("abc", "bca"), ("cab", "b")])
def test_the_classes_of_memory_are_those_of_the_data_by_name(tmp_path: Path, memory: str, test: str) -> None:
    trained = runner_of(tmp_path / "train", memory, test)
    trained.train()
    assert trained.val()["accuracy/top1"] == 100
    assert trained.model.labeled_dataset().metainfo["classes"] == ("a", "b", "c")
    checkpoint = str(tmp_path / "train/epoch_1.pth")
    assert runner_of(tmp_path / "numbers", memory, test, load_from=checkpoint).test()["accuracy/top1"] == 100
    alone = runner_of(tmp_path / "test", memory, test)
    assert alone.test()["accuracy/top1"] == 100
    assert alone.test_loop.evaluator.dataset_meta["classes"] == tuple(memory)


def test_classes_without_labeled_images_have_a_score_of_zero(tmp_path: Path) -> None:
    metrics = [{"type": "Accuracy", "topk": (1, 3)}, {"type": "ConfusionMatrix"}]
    runner = runner_of(tmp_path, "ba", "abc")
    runner._val_evaluator = metrics
    runner.train()
    scores = runner.val()
    assert scores["accuracy/top1"] == pytest.approx(200 / 3) and scores["accuracy/top3"] == 100
    assert [row[2] for row in scores["confusion_matrix/result"]] == [0, 0, 0]


def test_weights_of_other_classes_are_evaluated_but_other_data_is_refused(tmp_path: Path) -> None:
    runner_of(tmp_path / "train", "abd", "abd", train="abd").train()
    checkpoint = str(tmp_path / "train/epoch_1.pth")
    assert runner_of(tmp_path / "other", "cab", "ba", load_from=checkpoint).test()["accuracy/top1"] == 100
    unnamed = runner_of(tmp_path / "unnamed", "abc", "abc", load_from=checkpoint)
    unnamed.model.neighbors.memory["dataset"].metainfo = {}
    assert unnamed.test()["accuracy/top1"] == 100
    with pytest.raises(DataError, match=r"the labeled dataset of KNNClassifier and train_dataloader.* has 'c'"):
        runner_of(tmp_path / "memory", "cab", "ab", train="abd").train()
    with pytest.raises(DataError, match=r"test_dataloader\.dataset and the labeled dataset of KNN.* has 'd'"):
        runner_of(tmp_path / "test", "cab", "abd").test()


def test_predictions_are_named_by_the_classes_of_memory(tmp_path: Path) -> None:
    images = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255)}
    for name, color in images.items():
        (tmp_path / "data" / name).mkdir(parents=True)
        Image.new("RGB", (8, 8), color).save(tmp_path / "data" / name / "0.png")
    folder = {
        "type": "ImageFolder",
        "data_root": str(tmp_path / "data"),
        "metainfo": {"classes": ("red", "green", "blue")},
    }
    folder["pipeline"] = [{"type": "LoadImageFromFile"}, {"type": "PackInputs"}]
    cfg = {
        "model": {
            "type": "KNNClassifier", "backbone": {"type": "torch.nn.Flatten"}, "k": 1,
            "memory": {"dataset": folder, "collate_fn": {"type": "pseudo_collate"}},
            "data_preprocessor": {"type": "ImgDataPreprocessor"},
        },
        "test_dataloader": {"dataset": {**folder, "metainfo": {"classes": tuple(images)}}},
    }  # fmt: skip
    inferencer = Inferencer(cfg, device="cpu")
    named = inferencer([str(tmp_path / "data" / name / "0.png") for name in images])["predictions"]
    assert [prediction["pred_class"] for prediction in named] == list(images)


@pytest.mark.slow
def test_the_shipped_configs_reach_their_scores(tmp_path: Path) -> None:
    run("lenet_fashion_mnist.py", tmp_path).train()
    checkpoint = str(tmp_path / "lenet_fashion_mnist.py/epoch_8.pth")
    assert run("lenet_knn_fashion_mnist.py", tmp_path, load_from=checkpoint).test()["accuracy/top1"] > 89
    linear = run("lenet_linear_fashion_mnist.py", tmp_path, load_from=checkpoint)
    linear.train()
    assert linear.test()["accuracy/top1"] > 89
