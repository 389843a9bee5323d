"""Distillation of logits and features."""

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_runs import StopAt, weights_of
from torch import nn
from torch.nn import functional as F

from trainwright.engine import ConfigError, Runner, check, load_checkpoint_file
from trainwright.engine.run.model_setup import build_model
from trainwright.models import Distillation, KDLoss


def classifier(width: int, **options: Any) -> dict[str, Any]:
    backbone = dict(type="LeNet", num_classes=10, channels=(width, 2 * width), hidden_features=8, batch_norm=True)
    preprocessor = dict(type="ImgDataPreprocessor", mean=[128.0], std=[64.0])
    return dict(type="ImageClassifier", backbone=backbone, data_preprocessor=preprocessor, **options)


PAIRS: dict[str, Any] = dict(
    logits=dict(student="backbone", loss=dict(type="KDLoss", temperature=2.0)),
    maps=dict(
        student="backbone.features", loss=dict(type="torch.nn.MSELoss"), weight=0.5,
        connector=dict(type="torch.nn.Conv2d", in_channels=4, out_channels=8, kernel_size=1),
    ),
)  # fmt: skip


def test_the_loss_is_the_divergence_of_softened_probabilities() -> None:
    torch.manual_seed(0)
    student, teacher = torch.randn(4, 5), torch.randn(4, 5)
    p, q = (teacher / 3).softmax(1), (student / 3).softmax(1)
    torch.testing.assert_close(KDLoss(3.0)(student, teacher), 9 * (p * (p / q).log()).sum(1).mean())
    assert float(KDLoss()(teacher, teacher)) == pytest.approx(0, abs=1e-6)
    with pytest.raises(ValueError, match="temperature"):
        KDLoss(0)


def test_outputs_of_pairs_of_submodules_are_compared() -> None:
    torch.manual_seed(0)
    model: Any = Distillation(classifier(2), classifier(4), PAIRS).train()
    assert not model.teacher.training and not any(each.requires_grad for each in model.teacher.parameters())
    images, labels = torch.randn(3, 1, 28, 28), torch.tensor([0, 3, 9])
    losses = model(images, labels, mode="loss")
    assert set(losses) == {"loss", "loss_logits", "loss_maps"}
    wanted = F.mse_loss(
        model.connectors["maps"](model.student.backbone.features(images)), model.teacher.backbone.features(images)
    )
    torch.testing.assert_close(losses["loss_maps"], 0.5 * wanted)
    sum(losses.values()).backward()
    assert model.connectors["maps"].weight.grad is not None
    assert model.num_classes == 10
    assert torch.equal(model.eval()(images), model.student(images))


@pytest.mark.parametrize(
    ("pair", "message"),
    [
        (dict(student="backbon", loss=nn.MSELoss()), "pairs.a.student: the student has no submodule 'backbon'"),
        (dict(student="backbone", teacher="head", loss=nn.MSELoss()), "the teacher has no submodule 'head'"),
        (dict(student="backbone", los=nn.MSELoss()), "pairs.a.los: unknown key"),
        (dict(student="backbone"), "pairs.a.loss: missing"),
    ],
)
def test_a_mistaken_pair_is_named(pair: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Distillation(classifier(2), classifier(4), dict(a=pair))
    with pytest.raises(ConfigError, match="pairs: must not be empty"):
        Distillation(classifier(2), classifier(4), {})


def test_outputs_of_different_shapes_need_a_connector() -> None:
    model = Distillation(classifier(2), classifier(4), dict(a=dict(student="backbone.features", loss=nn.MSELoss())))
    with pytest.raises(
        ConfigError, match=r"(?s)model.pairs.a: the output of the student has the shape \(2, 4, .*connector"
    ):
        model(torch.randn(2, 1, 28, 28), torch.tensor([0, 1]), mode="loss")


def test_a_run_that_was_cut_ends_with_the_same_bits_without_the_teacher_in_its_checkpoints(tmp_path: Path) -> None:
    torch.manual_seed(5)
    torch.save({"state_dict": build_model(classifier(4)).state_dict()}, tmp_path / "teacher.pth")
    trained = classifier(4, init_cfg=dict(type="Pretrained", checkpoint=str(tmp_path / "teacher.pth")))

    def make(folder: str, **changes: Any) -> Runner:
        cfg: dict[str, Any] = dict(
            model=dict(type="Distillation", student=classifier(2), teacher=trained, pairs=PAIRS),
            work_dir=str(tmp_path / folder), randomness=dict(seed=0), train_cfg=dict(max_epochs=2),
            train_dataloader=dict(dataset=dict(type="FashionMNISTSubset", split="train", indices=24), batch_size=4),
            optim_wrapper=dict(optimizer=dict(type="SGD", lr=0.01, momentum=0.9)),
            default_hooks=dict(checkpoint=dict(type="CheckpointHook")), **changes,
        )  # fmt: skip
        assert check(cfg) == []
        return Runner.from_cfg(cfg)

    whole = make("whole")
    whole.train()
    make("cut", custom_hooks=[StopAt(8)]).train()
    last = make("cut", resume="auto")
    last.train()
    assert not any("teacher" in name for name in load_checkpoint_file(tmp_path / "cut" / "epoch_2.pth")["state_dict"])
    assert [n for n, value in weights_of(last).items() if not torch.equal(value, weights_of(whole)[n])] == []
