"""Embeddings for retrieval and re-identification."""

from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from ranks import run_group
from torch import Tensor, nn

from trainwright.datasets import Market1501
from trainwright.engine import ConfigError, DataError, Runner, check
from trainwright.engine.errors import MissingFileError
from trainwright.models import EmbeddingModel, RetrievalMetric


def evaluate(metric: RetrievalMetric, embeddings: Tensor, labels: Tensor, **fields: Tensor) -> dict[str, float]:
    samples = [
        {
            "embedding": embeddings[index],
            "gt_label": labels[index],
            **{key: value[index] for key, value in fields.items()},
        }
        for index in range(len(labels))
    ]
    metric.process(None, samples[:7])
    metric.process(None, samples[7:])
    return metric.evaluate(len(samples))


def by_hand(embeddings: Tensor, labels: Tensor, allowed: Any, queries: list[int]) -> tuple[float, float]:
    """Return the mean average precision and rank-1 accuracy, by their definitions."""
    precisions, firsts = [], []
    similarity = nn.functional.cosine_similarity(embeddings[:, None], embeddings[None], dim=-1)
    for query in queries:
        others = [index for index in range(len(labels)) if allowed(query, index)]
        others.sort(key=lambda index: -float(similarity[query, index]))
        hits = [int(labels[index]) == int(labels[query]) for index in others]
        if any(hits):
            precisions.append(sum(sum(hits[: n + 1]) / (n + 1) for n, hit in enumerate(hits) if hit) / sum(hits))
            firsts.append(hits[0])
    return 100 * sum(precisions) / len(precisions), 100 * sum(firsts) / len(firsts)


def test_all_images_are_compared_with_each_other() -> None:
    torch.manual_seed(0)
    embeddings, labels = torch.randn(30, 4), torch.randint(6, (30,))
    found = evaluate(RetrievalMetric(topk=(1, 30)), embeddings, labels)
    expected = by_hand(embeddings, labels, lambda query, index: query != index, list(range(30)))
    assert (found["retrieval/mAP"], found["retrieval/rank1"]) == pytest.approx(expected)
    assert found["retrieval/rank30"] == 100


def test_queries_are_compared_with_the_gallery_of_other_cameras() -> None:
    torch.manual_seed(1)
    embeddings, labels, camera = torch.randn(40, 4), torch.randint(5, (40,)), torch.randint(3, (40,))
    is_query = torch.rand(40) < 0.3
    found = evaluate(RetrievalMetric(other="camera"), embeddings, labels, camera=camera, is_query=is_query)

    def allowed(query: int, index: int) -> bool:
        return not is_query[index] and not (labels[query] == labels[index] and camera[query] == camera[index])

    expected = by_hand(embeddings, labels, allowed, is_query.nonzero().flatten().tolist())
    assert (found["retrieval/mAP"], found["retrieval/rank1"]) == pytest.approx(expected)
    with pytest.raises(DataError, match="have no field 'camera'"):
        evaluate(RetrievalMetric(other="camera"), embeddings, labels)


def test_the_length_of_embeddings_counts_in_distances() -> None:
    embeddings, labels = torch.tensor([[1.0, 0], [4, 0], [0.5, 0.5], [5, 1]]), torch.tensor([0, 1, 0, 1])
    assert evaluate(RetrievalMetric(1, distance="euclidean"), embeddings, labels)["retrieval/rank1"] == 100
    assert evaluate(RetrievalMetric(1), embeddings, labels)["retrieval/rank1"] == 0
    with pytest.raises(ConfigError, match="unknown distance 'euclid'\n.*'euclidean'"):
        RetrievalMetric(distance="euclid")


def test_people_are_found_on_other_cameras(tmp_path: Path) -> None:
    for folder in ("bounding_box_train", "query", "bounding_box_test"):
        (tmp_path / folder).mkdir()
        people = (2, 7) if folder == "bounding_box_train" else (1, 3)
        cameras = (1,) if folder == "query" else (1, 2)
        for person, camera, number in product(people, cameras, range(2)):
            shade = Image.new("RGB", (4, 8), (60 * person % 256, 99, 99))
            shade.save(tmp_path / folder / f"{person:04}_c{camera}s1_{number:06}_00.jpg")
    for name in ("-1_c1s1_000401_03.jpg", "0000_c3s1_000001_00.jpg"):
        Image.new("RGB", (4, 8)).save(tmp_path / "bounding_box_test" / name)
    pipeline = [dict(type="LoadImageFromFile"), dict(type="PackInputs")]
    train = Market1501(tmp_path, pipeline=pipeline)
    assert (len(train), train.metainfo["classes"], train.get_cat_ids(7)) == (8, ("0002", "0007"), [1])
    test = Market1501(tmp_path, "test", pipeline)
    assert (len(test), test.metainfo["classes"]) == (4 + 8 + 1, ("0000", "0001", "0003"))
    assert sum(test.get_data_info(index)["is_query"] for index in range(len(test))) == 4

    class Mean(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return images.mean((2, 3))

    loader = dict(batch_size=3, collate_fn="pseudo_collate")
    runner = Runner(
        EmbeddingModel(Mean(), Pull(), normalized=False),
        str(tmp_path / "run"),
        test_dataloader={**loader, "dataset": test},
        test_cfg={},
        test_evaluator=dict(type="RetrievalMetric", topk=1, other="camera", distance="euclidean"),
    )
    assert runner.test() == {"retrieval/mAP": 100, "retrieval/rank1": 100}
    (tmp_path / "query" / "person.jpg").write_bytes(b"")
    with pytest.raises(DataError, match="person.jpg: the name must begin like 0002_c1"):
        Market1501(tmp_path, "test").full_init()
    with pytest.raises(DataError, match="lacks person 0007"):
        Market1501(tmp_path, metainfo=dict(classes=("0002",))).full_init()
    with pytest.raises(MissingFileError, match="no images found in .*bounding_box_train"):
        Market1501(tmp_path / "query").full_init()
    with pytest.raises(ValueError, match="split must be 'train' or 'test', not 'val'"):
        Market1501(tmp_path, "val")


def test_losses_have_parts_of_their_own() -> None:
    pytest.importorskip("pytorch_metric_learning")
    library = "pytorch_metric_learning."
    distance = dict(type=f"{library}distances.LpDistance", normalize_embeddings=False)
    loss = dict(type=f"{library}losses.TripletMarginLoss", margin=0.0, smooth_loss=True, distance=distance)
    model = EmbeddingModel(nn.Identity(), loss, normalized=False)
    embeddings = torch.tensor([[0.0, 0], [3, 0], [0, 5]])
    found = model(embeddings, torch.tensor([0, 0, 1]), mode="loss")["loss"]
    apart = torch.tensor([3 - 5, 3 - 34**0.5])
    torch.testing.assert_close(found, nn.functional.softplus(apart).mean())


def test_the_scores_are_those_of_the_maintained_library() -> None:
    pytest.importorskip("pytorch_metric_learning")
    pytest.importorskip("faiss")
    from pytorch_metric_learning.utils.accuracy_calculator import AccuracyCalculator

    torch.manual_seed(2)
    embeddings, labels = nn.functional.normalize(torch.randn(50, 8), dim=1), torch.randint(5, (50,))
    calculator = AccuracyCalculator(
        include=("mean_average_precision", "precision_at_1"), k=None, device=torch.device("cpu")
    )
    theirs = calculator.get_accuracy(embeddings, labels)
    ours = evaluate(RetrievalMetric(), embeddings, labels)
    assert ours["retrieval/mAP"] == pytest.approx(100 * theirs["mean_average_precision"], rel=1e-5)
    assert ours["retrieval/rank1"] == pytest.approx(100 * theirs["precision_at_1"], rel=1e-5)


class Pull(nn.Module):
    """A loss with the interface of pytorch-metric-learning."""

    def forward(self, embeddings: Tensor, labels: Tensor, mined: Any = None) -> Tensor:
        same = (labels[:, None] == labels).float().fill_diagonal_(0)
        similarity = (embeddings @ embeddings.T / 0.2).fill_diagonal_(-1e4).log_softmax(1)
        return -(similarity * same).sum() / same.sum().clamp_min(1) + (0 if mined is None else mined)


class Mine(nn.Module):
    def forward(self, embeddings: Tensor, labels: Tensor) -> Any:
        return 100


def test_a_model_learns_and_is_evaluated(tmp_path: Path) -> None:
    model = EmbeddingModel(nn.Linear(3, 2), Pull(), miner=Mine())
    assert float(model(torch.rand(4, 3), torch.tensor([0, 0, 1, 1]), mode="loss")["loss"]) > 90
    pk = dict(type="PKBatchSampler", num_classes=4, num_samples=4)
    data = dict(type="FashionMNISTSubset", split="train", indices=120)
    cfg: dict[str, Any] = dict(
        model=dict(
            type="EmbeddingModel", backbone=dict(type="LeNet", num_classes=None, channels=(2, 4), hidden_features=8),
            loss=dict(type=Pull), data_preprocessor=dict(type="ImgDataPreprocessor", mean=[128.0], std=[64.0]),
        ),
        work_dir=str(tmp_path), randomness=dict(seed=0), train_dataloader=dict(dataset=data, batch_sampler=pk),
        train_cfg=dict(max_epochs=4, val_interval=4), optim_wrapper=dict(optimizer=dict(type="Adam", lr=0.01)),
        val_dataloader=dict(dataset=data, batch_size=40), val_cfg={}, val_evaluator=dict(type="RetrievalMetric"),
    )  # fmt: skip
    assert check(cfg) == []
    runner = Runner.from_cfg(cfg)
    before = runner.val()["retrieval/mAP"]
    runner.train()
    assert runner.val()["retrieval/mAP"] > before + 5
    found = run_group(2, lambda: Runner.from_cfg(cfg).val(), tmp_path)
    assert found[0] == found[1] and found[0]["retrieval/mAP"] == pytest.approx(before)
