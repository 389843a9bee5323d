"""Multi-label classification: heads, loss, metrics, training."""

from pathlib import Path
from typing import Any

import pytest
import torch
from ranks import evaluate_on_ranks
from torch import Tensor
from torch.nn import functional as F

from trainwright.engine.config.config import Config
from trainwright.engine.errors import ConfigError
from trainwright.engine.evaluation.evaluator import Evaluator
from trainwright.engine.inference.inferencer import Inferencer
from trainwright.engine.run.runner import Runner
from trainwright.engine.structures.sample import DataSample
from trainwright.models import (
    AveragePrecision,
    BinaryCrossEntropyLoss,
    ClassificationTTA,
    ClsDataPreprocessor,
    ImageClassifier,
    MultiLabelClsHead,
    MultiLabelLinearClsHead,
    MultiLabelMetric,
    gather_multi_hot,
)
from trainwright.models.classification.multilabel_metrics import average_precision

CONFIG = Path(__file__).parents[2] / "configs/classification/resnet18_shapes_multilabel.py"
LABELS = [[0, 2], [], [1]]
MULTI_HOT = [[1.0, 0, 1], [0, 0, 0], [0, 1, 0]]


def samples(labels: Any = LABELS) -> list[DataSample]:
    return [DataSample(gt_label=torch.tensor(label, dtype=torch.int64)) for label in labels]


# -------------------------------------------------------------------------------------------------------------- labels


@pytest.mark.parametrize(
    ("data_samples", "expected"),
    [
        (samples(), MULTI_HOT),
        ([DataSample(gt_score=torch.tensor([1.0, -1, 0]), gt_label=torch.tensor([0]))], [[1, -1, 0]]),
        (DataSample(gt_label=torch.tensor([2, 0])), [[0, 0, 1], [1, 0, 0]]),
        (DataSample(gt_score=torch.tensor(MULTI_HOT)), MULTI_HOT),
        (torch.tensor(MULTI_HOT), MULTI_HOT),
        ([{"gt_label": torch.tensor([1, 2])}], [[0, 1, 1]]),
    ],
)
def test_labels_become_one_row_a_sample(data_samples: Any, expected: Any) -> None:
    rows = gather_multi_hot(data_samples, 3)
    assert rows.dtype == torch.float32
    assert rows.tolist() == expected


def test_bad_labels_are_named() -> None:
    far = DataSample(metainfo={"img_path": "a/1.jpg"}, gt_label=torch.tensor([1, 3]))
    with pytest.raises(ValueError, match=r"a/1.jpg has labels \[1, 3\], .* 3 classes"):
        gather_multi_hot([*samples(), far], 3)
    with pytest.raises(ValueError, match="sample 4 has neither gt_score nor gt_label"):
        gather_multi_hot([DataSample(metainfo={"sample_idx": 4})], 3)
    with pytest.raises(ValueError, match="the batch has no labels"):
        gather_multi_hot([], 3)


def test_what_does_not_count_has_no_loss_and_no_gradient() -> None:
    logits = torch.randn(2, 3, requires_grad=True)
    target = torch.tensor([[1.0, -1, 0], [0, 1, -1]])
    loss = BinaryCrossEntropyLoss()(logits, target)
    counted = target >= 0
    torch.testing.assert_close(loss, F.binary_cross_entropy_with_logits(logits[counted], target[counted]))
    loss.backward()
    assert torch.equal(logits.grad == 0, ~counted)
    weighted = BinaryCrossEntropyLoss(class_weight=[1.0, 2.0, 3.0], pos_weight=2.0)
    torch.testing.assert_close(
        weighted(logits, target.clamp(min=0)),
        F.binary_cross_entropy_with_logits(
            logits, target.clamp(min=0), torch.tensor([1.0, 2, 3]), pos_weight=torch.tensor(2.0)
        ),
    )
    assert BinaryCrossEntropyLoss()(logits, torch.full((2, 3), -1.0)).item() == 0


# ---------------------------------------------------------------------------------------------------------------- head


def test_the_head_trains_and_predicts() -> None:
    torch.manual_seed(0)
    head = MultiLabelLinearClsHead(3, 4)
    features = torch.randn(3, 4)
    logits = head(features)
    torch.testing.assert_close(
        head.loss(features, samples())["loss"], F.binary_cross_entropy_with_logits(logits, torch.tensor(MULTI_HOT))
    )
    predicted = head.predict(features, samples())
    for row, sample in zip(logits.sigmoid(), predicted):
        torch.testing.assert_close(sample.pred_score, row.detach())
        assert sample.pred_label.tolist() == (row >= 0.5).nonzero().flatten().tolist()


def test_thresholds_and_numbers_of_labels() -> None:
    scores = torch.tensor([[0.2, 0.9, 0.6], [0.1, 0.3, 0.2]])
    logits = scores.logit()

    def labels(**settings: Any) -> list[list[int]]:
        return [sample.pred_label.tolist() for sample in MultiLabelClsHead(**settings).predict(logits)]

    assert labels() == [[1, 2], []]
    assert labels(thr=0.15) == [[0, 1, 2], [1, 2]]
    assert labels(topk=2) == [[1, 2], [1, 2]]
    assert labels(topk=9) == [[0, 1, 2], [0, 1, 2]]
    with pytest.raises(ConfigError, match="thr and topk"):
        MultiLabelClsHead(thr=0.5, topk=1)


def test_samples_of_all_kinds_get_their_predictions() -> None:
    head, logits = MultiLabelClsHead(), torch.tensor([[1.0, -1], [1, 1]])
    batched = head.predict(logits, DataSample(gt_label=torch.tensor([1, 0])))
    assert [(s.gt_label.item(), s.pred_label.tolist()) for s in batched] == [(1, [0]), (0, [0, 1])]
    tensor = head.predict(logits, torch.tensor([1, 0]))
    assert [s.gt_score.tolist() for s in tensor] == [[0, 1], [1, 0]]


def classifier(**settings: Any) -> ImageClassifier:
    torch.manual_seed(0)
    return ImageClassifier(
        dict(type="LeNet", num_classes=3, image_size=8, channels=(2, 2), hidden_features=4),
        head=dict(type="MultiLabelClsHead"),
        **settings,
    )


def batch() -> dict[str, Any]:
    return {"inputs": [torch.randint(0, 256, (1, 8, 8), dtype=torch.uint8) for _ in LABELS], "data_samples": samples()}


@pytest.mark.parametrize("labels", [LABELS, [[0], [1], [2]], [[0, 1], [1, 2], [0, 2]]])
def test_a_classifier_takes_any_number_of_labels(labels: Any) -> None:
    model = classifier(num_classes=3)
    data = {**batch(), "data_samples": samples(labels)}
    preprocessed = model.data_preprocessor(data, True)
    target = gather_multi_hot(samples(labels), 3)
    expected = F.binary_cross_entropy_with_logits(model.backbone(preprocessed["inputs"]), target)
    torch.testing.assert_close(model(**preprocessed, mode="loss")["loss"], expected)
    predictions, losses = model.eval().val_step(data, with_loss=True)
    assert len(predictions) == 3
    torch.testing.assert_close(losses["loss"], expected.detach())


def test_images_of_several_classes_are_mixed() -> None:
    preprocessor = ClsDataPreprocessor(num_classes=3, batch_augments=dict(type="Mixup", alpha=1.0))
    torch.manual_seed(0)
    mixed = preprocessor(batch(), True)["data_samples"]
    share = mixed[1, 1].item()  # of the previous image
    truth = torch.tensor(MULTI_HOT)
    torch.testing.assert_close(mixed, truth * mixed[0, 0] + truth.roll(1, 0) * (1 - mixed[0, 0]))
    assert share == 0
    assert 0 < mixed[0, 0] < 1
    with pytest.raises(ValueError, match="needs num_classes"):
        ClsDataPreprocessor(
            batch_augments=dict(type="Mixup", num_classes=3)
        )(batch(), True)  # fmt: skip


def test_views_are_averaged_before_the_threshold() -> None:
    tta = ClassificationTTA(classifier())
    views = [DataSample(pred_score=torch.tensor(score)) for score in ([0.9, 0.4, 0.1], [0.2, 0.8, 0.1])]
    (merged,) = tta.merge_preds([views])
    assert merged.pred_label.tolist() == [0, 1]


# ------------------------------------------------------------------------------------------------------------- metrics


def evaluate(metric: Any, scores: Tensor, truth: Tensor) -> dict[str, Any]:
    evaluator = Evaluator(metric)
    evaluator.process([DataSample(pred_score=score, gt_score=true) for score, true in zip(scores, truth)])
    return evaluator.evaluate(len(scores))


def test_average_precision_by_hand() -> None:
    truth = torch.tensor([1.0, 0, 1, 0, 1])
    # Correct at ranks 1, 3 and 5.
    assert average_precision(torch.tensor([0.9, 0.8, 0.7, 0.6, 0.5]), truth).item() == pytest.approx(
        (1 / 1 + 2 / 3 + 3 / 5) / 3
    )
    # All scores are equal: the result is the share of positive samples, in any order.
    assert average_precision(torch.zeros(5), truth).item() == pytest.approx(3 / 5)
    # The second and third have the same score: 2 of 3 are correct there.
    assert average_precision(torch.tensor([0.9, 0.7, 0.7, 0.6, 0.5]), truth).item() == pytest.approx(
        (1 / 1 + 2 / 3 + 3 / 5) / 3
    )
    # The first is ignored.
    assert average_precision(torch.tensor([0.9, 0.8, 0.7]), torch.tensor([-1.0, 0, 1])).item() == pytest.approx(1 / 2)


def test_average_precision_of_classes_and_their_mean() -> None:
    scores = torch.tensor([[0.9, 0.1, 0.5], [0.8, 0.2, 0.5], [0.7, 0.3, 0.5]])
    truth = torch.tensor([[1.0, 1, 0], [0, 1, 0], [1, 0, 0]])
    first, second = (1 + 2 / 3) / 2, (1 / 2 + 2 / 3) / 2
    classwise = evaluate(AveragePrecision(average=None), scores, truth)["multi-label/AP_classwise"]
    assert classwise == pytest.approx([100 * first, 100 * second, float("nan")], nan_ok=True)
    assert evaluate(AveragePrecision(), scores, truth) == {
        "multi-label/mAP": pytest.approx(50 * (first + second))
    }  # the last class has no samples
    with pytest.raises(ValueError, match="average must be 'macro' or None"):
        AveragePrecision(average="micro")


SCORES = torch.tensor([[0.9, 0.8, 0.3], [0.2, 0.7, 0.6], [0.1, 0.6, 0.2]])
TRUTH = torch.tensor([[1.0, 0, 1], [0, 1, 1], [1, -1, 0]])
# At threshold 0.5 (correct / predicted / true): class 0: 1 / 1 / 2; class 1: 1 / 2 / 1, the third is ignored; class 2:
# 1 / 1 / 2.


def test_precision_recall_and_f1_by_hand() -> None:
    macro = evaluate(MultiLabelMetric(items=("precision", "recall", "f1-score", "support")), SCORES, TRUTH)
    f1 = [2 * 1 * 0.5 / 1.5, 2 * 0.5 * 1 / 1.5, 2 * 1 * 0.5 / 1.5]
    assert macro == {
        "multi-label/precision": pytest.approx(100 * (1 + 1 / 2 + 1) / 3),
        "multi-label/recall": pytest.approx(100 * (1 / 2 + 1 + 1 / 2) / 3),
        "multi-label/f1-score": pytest.approx(100 * sum(f1) / 3),
        "multi-label/support": 5,
    }
    micro = evaluate(MultiLabelMetric(average="micro", items=("precision", "recall")), SCORES, TRUTH)
    assert micro == {
        "multi-label/precision_micro": pytest.approx(75.0), "multi-label/recall_micro": pytest.approx(60.0)
    }  # fmt: skip
    classwise = evaluate(MultiLabelMetric(average=None, items=("recall", "support")), SCORES, TRUTH)
    assert classwise == {
        "multi-label/recall_classwise": [50.0, 100.0, 50.0],
        "multi-label/support_classwise": [2, 1, 2],
    }


def test_other_thresholds_and_topk_have_separate_names() -> None:
    first = evaluate(MultiLabelMetric(thr=0.75, items=("precision",), average="micro"), SCORES, TRUTH)
    assert first == {"multi-label/precision_thr-0.75_micro": pytest.approx(50.0)}
    best = evaluate(MultiLabelMetric(topk=1, items=("precision",), average="micro"), SCORES, TRUTH)
    assert best == {"multi-label/precision_top1_micro": pytest.approx(100.0)}  # the best class of the third is ignored
    with pytest.raises(ValueError, match="did you mean 'f1-score'"):
        MultiLabelMetric(items=("f1_score",))
    with pytest.raises(ValueError, match="samples with pred_score"):
        Evaluator(MultiLabelMetric()).process([DataSample(gt_score=TRUTH[0])])


def test_several_processes_give_what_one_gives(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    scores, truth = torch.rand(7, 3, generator=generator), (torch.rand(7, 3, generator=generator) < 0.5).float()
    alone = {**evaluate(AveragePrecision(), scores, truth), **evaluate(MultiLabelMetric(), scores, truth)}
    samples = [DataSample(pred_score=score, gt_score=labels) for score, labels in zip(scores, truth)]
    assert evaluate_on_ranks([AveragePrecision(), MultiLabelMetric()], samples, tmp_path) == [alone, alone]


# ------------------------------------------------------------------------------------------------------------ training


def train(work_dir: Path, **changes: Any) -> dict[str, float]:
    cfg = Config.fromfile(CONFIG)
    cfg.merge_from_dict({"work_dir": str(work_dir), **changes})
    runner = Runner.from_cfg(cfg)
    runner.train()
    return runner.test()


@pytest.mark.long
def test_a_short_training_beats_chance_by_far_and_its_checkpoint_predicts(tmp_path: Path) -> None:
    changes: dict[str, Any] = {
        "train_cfg.max_epochs": 4, "train_cfg.val_interval": 4, "param_scheduler.total_steps": 4,
        "model.head.num_classes": 2,
        "visualizer": dict(type="Visualizer", vis_backends=[]),
    }  # fmt: skip
    for split in ("train", "val", "test"):
        changes |= {f"{split}_dataloader.dataset.{key}": value for key, value in dict(
            size=32, kinds=["circle", "arrow"], radius=(0.3, 0.4), num_samples=600 if split == "train" else 150,
        ).items()}  # fmt: skip
    results = train(tmp_path, **changes)
    assert results["multi-label/mAP"] > 80  # chance: the share of images with a class, 60
    (checkpoint,) = tmp_path.glob("best_multi-label_mAP_*.pth")
    answer = Inferencer(checkpoint, show_progress=False)(torch.zeros(3, 32, 32, dtype=torch.uint8), out_dir=tmp_path)
    (prediction,) = answer["predictions"]
    assert isinstance(prediction["pred_label"], list)
    assert len(prediction["pred_class"]) == len(prediction["pred_label"])
    assert len(prediction["pred_scores"]) == 2


@pytest.mark.slow
def test_the_shipped_config_reaches_its_score(tmp_path: Path) -> None:
    assert train(tmp_path)["multi-label/mAP"] > 90
