"""Prototypical networks, and the accuracy over episodes."""

from pathlib import Path
from typing import Any

import pytest
import torch
from ranks import run_group
from tiny_runs import StopAt, weights_of
from torch import nn
from torch.nn import functional as F

from trainwright.engine import ConfigError, Runner, TrainingError, check
from trainwright.engine.structures.sample import DataSample
from trainwright.models import EpisodeAccuracy, PrototypicalNetwork


@pytest.mark.parametrize("distance", ["euclidean", "cosine"])
def test_queries_belong_to_the_nearest_prototype(distance: str) -> None:
    torch.manual_seed(0)
    model = PrototypicalNetwork(nn.Identity(), num_shots=2, distance=distance, temperature=0.5)
    features = torch.randn(3, 6, 4)
    labels = torch.tensor([7, 2, 5]).repeat_interleave(6)
    losses = model(features.flatten(0, 1), labels, mode="loss")
    expected = []
    for way in range(3):
        for query in range(2, 6):
            logits = []
            for other in range(3):
                if distance == "euclidean":
                    prototype = features[other, :2].mean(0)
                    logits.append(-(features[way, query] - prototype).square().sum() / 0.5)
                else:
                    prototype = F.normalize(features[other, :2], dim=-1).mean(0)
                    logits.append(F.cosine_similarity(features[way, query], prototype, dim=0) / 0.5)
            expected.append(-torch.stack(logits).log_softmax(0)[way])
    torch.testing.assert_close(losses["loss"], torch.stack(expected).mean())
    sample = model(features.flatten(0, 1), labels, mode="predict")
    assert sample.is_query.view(3, 6).tolist() == [[False, False, True, True, True, True]] * 3
    assert set(sample.pred_label.tolist()) <= {7, 2, 5}
    right = (sample.pred_label == labels)[sample.is_query].float().mean()
    assert float(losses["accuracy"]) == pytest.approx(100 * float(right))


def test_a_batch_that_is_no_episode_is_refused() -> None:
    model = PrototypicalNetwork(nn.Identity(), num_shots=2)
    for labels in ([0, 0, 1, 1], [0, 0, 0, 1, 1]):
        with pytest.raises(TrainingError, match="EpisodeBatchSampler"):
            model(torch.rand(len(labels), 3), torch.tensor(labels), mode="loss")
    with pytest.raises(ConfigError, match="must be one of euclidean, cosine, not 'manhattan'"):
        PrototypicalNetwork(nn.Identity(), distance="manhattan")


def test_the_interval_is_that_of_the_mean_over_episodes() -> None:
    metric = EpisodeAccuracy()
    for right in (1, 3, 2):
        samples = [
            DataSample(
                gt_label=torch.tensor(0), pred_label=torch.tensor(int(n >= right)), is_query=torch.tensor(n < 4)
            ).to_dict()
            for n in range(6)
        ]
        metric.process(None, samples)
    found = metric.evaluate(3)
    assert found["episode/accuracy"] == 50.0
    assert found["episode/interval"] == pytest.approx(1.96 * 25 / 3**0.5)


def config(folder: Path, **changes: Any) -> dict[str, Any]:
    episodes = dict(type="EpisodeBatchSampler", num_ways=3, num_shots=1, num_queries=2, num_episodes=4)
    loader = dict(dataset=dict(type="FashionMNISTSubset", split="train", indices=80), batch_sampler=episodes)
    backbone = dict(type="LeNet", num_classes=None, channels=(2, 4), hidden_features=8)
    preprocessor = dict(type="ImgDataPreprocessor", mean=[128.0], std=[64.0])
    return dict(
        model=dict(type="PrototypicalNetwork", backbone=backbone, data_preprocessor=preprocessor),
        work_dir=str(folder), randomness=dict(seed=0), train_dataloader=loader, train_cfg=dict(max_epochs=2),
        optim_wrapper=dict(optimizer=dict(type="SGD", lr=0.05)), val_dataloader=loader, val_cfg={},
        val_evaluator=dict(type="EpisodeAccuracy"),
        default_hooks=dict(checkpoint=dict(type="CheckpointHook", save_best="episode/accuracy")), **changes,
    )  # fmt: skip


def test_a_run_that_was_cut_ends_with_the_same_bits(tmp_path: Path) -> None:
    assert check(config(tmp_path)) == []
    whole = Runner.from_cfg(config(tmp_path / "whole"))
    whole.train()
    Runner.from_cfg(config(tmp_path / "cut", custom_hooks=[StopAt(3)])).train()
    last = Runner.from_cfg(config(tmp_path / "cut", resume="auto"))
    last.train()
    assert whole.iter == 8
    assert [n for n, value in weights_of(last).items() if not torch.equal(value, weights_of(whole)[n])] == []
    assert last.val() == whole.val()


def test_ranks_share_the_episodes_and_resume_exactly(tmp_path: Path) -> None:
    def in_rank() -> Any:
        whole = Runner.from_cfg(config(tmp_path / "whole"))
        whole.train()
        Runner.from_cfg(config(tmp_path / "cut", custom_hooks=[StopAt(3)])).train()
        last = Runner.from_cfg(config(tmp_path / "cut", resume="auto"))
        last.train()
        weights = weights_of(whole)
        same = all(torch.equal(value, weights[name]) for name, value in weights_of(last).items())
        return whole.iter, same, weights, whole.val(), last.val()

    (iterations, same, weights, result, again), other = run_group(2, in_rank, tmp_path)
    assert (iterations, same) == (4, True), "of four episodes per epoch, each rank has two"
    assert other[:2] == (4, True) and result == again == other[3] == other[4]
    assert all(torch.equal(value, other[2][name]) for name, value in weights.items())
