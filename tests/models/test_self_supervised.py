"""Self-supervised learning: losses, teachers, negatives of all ranks, k-NN evaluation, exact resume."""

from pathlib import Path
from typing import Any

import pytest
import torch
from ranks import run_group
from tiny_runs import StopAt, weights_of
from torch import Tensor, nn
from torch.nn import functional as F

from trainwright.engine import ConfigError, Hook, Runner, TrainingError, check
from trainwright.engine.distributed import gather_with_gradients
from trainwright.engine.registry import MODELS
from trainwright.models import DINO, MAE, ImageClassifier, SimCLR
from trainwright.models.self_supervised.contrastive import nt_xent
from trainwright.models.self_supervised.mae import patchify, sine_positions

BACKBONE = dict(type="LeNet", num_classes=None, image_size=16, channels=(2, 4), hidden_features=8, batch_norm=True)
VIT = dict(
    type="torchvision.models.VisionTransformer", image_size=16, patch_size=4, num_layers=1, num_heads=2, hidden_dim=8,
    mlp_dim=16, num_classes=0,
)  # fmt: skip
MODELS_BY_NAME: dict[str, dict[str, Any]] = {
    "SimCLR": dict(backbone=BACKBONE, in_channels=8, hidden_channels=8, out_channels=4),
    "MoCoV3": dict(backbone=BACKBONE, in_channels=8, hidden_channels=8, out_channels=4),
    "BYOL": dict(backbone=BACKBONE, in_channels=8, hidden_channels=8, out_channels=4),
    "DINO": dict(backbone=BACKBONE, in_channels=8, hidden_channels=8, bottleneck_channels=4, num_prototypes=16),
    "MAE": dict(
        backbone={**VIT, "type": "torchvision.models.VisionTransformer"}, decoder_channels=8, decoder_layers=1,
        decoder_heads=2,
    ),
}  # fmt: skip


def by_hand(first: Tensor, second: Tensor, temperature: float) -> Tensor:
    """Return the loss of SimCLR as its paper defines it: for each of 2N projections, with 2N - 2 negatives."""
    every = F.normalize(torch.cat([first, second]), dim=1)
    similarity = (every @ every.T / temperature).exp()
    losses = []
    for one in range(len(every)):
        other = (one + len(first)) % len(every)
        losses.append(-(similarity[one, other] / (similarity[one].sum() - similarity[one, one])).log())
    return torch.stack(losses).mean()


def test_the_loss_of_simclr_is_that_of_its_paper() -> None:
    torch.manual_seed(0)
    first, second = torch.randn(5, 6), torch.randn(5, 6)
    own = F.normalize(torch.cat([first, second]), dim=1)
    torch.testing.assert_close(nt_xent(own, own, 5, 0.3), by_hand(first, second, 0.3))


def test_the_negatives_of_all_ranks_have_the_gradients_of_one_batch(tmp_path: Path) -> None:
    torch.manual_seed(0)
    views = torch.randn(2, 6, 4, requires_grad=True)
    by_hand(views[0], views[1], 0.5).backward()  # type: ignore[no-untyped-call]

    def in_rank() -> Any:
        rank = torch.distributed.get_rank()
        share = views.detach()[:, 3 * rank : 3 * rank + 3].clone().requires_grad_()
        own = F.normalize(share.flatten(0, 1), dim=1)
        ones, others = (gather_with_gradients(part) for part in own.chunk(2))
        loss = nt_xent(own, torch.cat([ones, others]), 3, 0.5)
        loss.backward()  # type: ignore[no-untyped-call]
        return float(loss.detach()), share.grad

    (one, first), (other, second) = run_group(2, in_rank, tmp_path)
    assert (one + other) / 2 == pytest.approx(float(by_hand(views[0], views[1], 0.5)), rel=1e-6)
    assert views.grad is not None  # DDP averages over the ranks
    torch.testing.assert_close(torch.cat([first, second], 1) / 2, views.grad)


def test_a_masked_autoencoder_learns_from_masked_patches_only() -> None:
    images = torch.rand(2, 3, 16, 16)
    patches = patchify(images, 4)
    assert patches.shape == (2, 16, 48)
    assert torch.equal(patches[1, 5].view(3, 4, 4), images[1, :, 4:8, 4:8])
    model = MAE(**MODELS_BY_NAME["MAE"], mask_ratio=0.75)
    visible = []
    model.patches.encode = lambda network, tokens, encode=model.patches.encode: (
        visible.append(tokens.shape[1]) or encode(network, tokens)
    )
    torch.manual_seed(3)
    loss = model(images.requires_grad_(), mode="loss")["loss"]
    assert visible == [4] and float(loss) > 0
    positions = sine_positions(4, 4, 8)
    assert positions.shape == (16, 8) and len({tuple(row) for row in positions.tolist()}) == 16
    with pytest.raises(ConfigError, match="LeNet is not a vision transformer"):
        MAE(BACKBONE)
    with pytest.raises(ConfigError, match="mask_ratio: must be in"):
        MAE(**MODELS_BY_NAME["MAE"], mask_ratio=1.0)


def test_local_crops_of_another_size_are_compared_with_global_views_only() -> None:
    torch.manual_seed(0)
    backbone = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU())
    model = DINO(backbone, in_channels=8, hidden_channels=8, bottleneck_channels=4, num_prototypes=6).train()
    views = [torch.rand(3, 1, 16, 16) for _ in range(2)] + [torch.rand(3, 1, 8, 8) for _ in range(3)]
    before = model.center.clone()
    loss = model(views, mode="loss")["loss"]
    with torch.no_grad():
        targets = [(model.teacher(view) / 0.04).softmax(-1) for view in views[:2]]
        found = [(model.head(model.backbone(view).flatten(2).mean(2)) / 0.1).log_softmax(-1) for view in views]
        pairs = [(i, j) for i in range(2) for j in range(5) if i != j]
        expected = torch.stack([-(targets[i] * found[j]).sum(-1).mean() for i, j in pairs]).mean()
    torch.testing.assert_close(loss.detach(), expected)
    assert not torch.equal(model.center, before)
    with pytest.raises(TrainingError, match="at least 2 views"):
        model(views[:1], mode="loss")


def test_the_prototypes_of_dino_are_not_trained_at_first() -> None:
    model = DINO(**MODELS_BY_NAME["DINO"], frozen_prototypes=1.0)
    model([torch.rand(4, 1, 16, 16)] * 2, mode="loss")["loss"].backward()
    assert model.head.prototypes.weight.grad.abs().max() == 0  # not None: DDP waits for it
    assert model.head.mlp[0].weight.grad.abs().max() > 0


def test_heads_have_the_layers_of_their_papers() -> None:
    layers = [type(layer).__name__ for layer in MODELS.build(dict(type="ProjectionMLP", in_channels=4, last_norm=True))]
    assert layers == ["Linear", "BatchNorm1d", "ReLU", "Linear", "BatchNorm1d"]
    head = MODELS.build(
        dict(type="DINOHead", in_channels=4, hidden_channels=8, bottleneck_channels=3, num_prototypes=5)
    )
    cosines = head(torch.randn(6, 4))
    assert cosines.shape == (6, 5) and float(cosines.detach().abs().max()) <= 1 + 1e-6


@pytest.mark.parametrize("name", ["SimCLR", "MoCoV3", "BYOL"])
def test_another_number_of_views_is_refused(name: str) -> None:
    model = MODELS.build(dict(type=name, **MODELS_BY_NAME[name]))
    with pytest.raises(TrainingError, match="needs 2 views of each image, but there are 3"):
        model([torch.rand(2, 1, 16, 16)] * 3, mode="loss")
    with pytest.raises(ConfigError, match="trained on several views of each image"):
        model(torch.rand(2, 1, 16, 16), mode="loss")
    with pytest.raises(ConfigError, match="model.memory"):
        model.eval()(torch.rand(2, 1, 16, 16), mode="predict")


def config(name: str, folder: Path, **changes: Any) -> dict[str, Any]:
    views = [[dict(type="RandomResizedCrop", size=16), dict(type="RandomHorizontalFlip")]]
    pipeline = [dict(type="MultiView", transforms=views, num_views=2), dict(type="PackInputs")]
    if name == "MAE":
        pipeline = [*views[0], dict(type="PackInputs")]
    plain = [dict(type="Resize", size=16), dict(type="PackInputs")]
    model = MODELS_BY_NAME[name]
    channels = dict(to_rgb=True) if name == "MAE" else {}
    data = dict(type="FashionMNISTSubset", split="train", indices=16)
    if channels:
        for steps in (pipeline, plain):
            steps.insert(0, dict(type="RGB"))
    loader = dict(dataset=dict(**data, pipeline=plain), batch_size=8, collate_fn="default_collate")
    return dict(
        model=dict(
            type=name, **model, memory=loader, data_preprocessor=dict(type="ImgDataPreprocessor", mean=[128.0], std=[64.0])
        ),
        work_dir=str(folder), train_cfg=dict(max_epochs=3, val_interval=3), randomness=dict(seed=0),
        train_dataloader=dict(dataset=dict(**data, pipeline=pipeline), batch_size=4, collate_fn="default_collate"),
        val_dataloader=loader, val_cfg={}, val_evaluator=dict(type="Accuracy"),
        optim_wrapper=dict(type="AmpOptimWrapper", dtype="bfloat16", optimizer=dict(type="SGD", lr=0.05, momentum=0.9)),
        default_hooks=dict(checkpoint=dict(type="CheckpointHook", interval=1)), **changes,
    )  # fmt: skip


@pytest.mark.parametrize("name", MODELS_BY_NAME)
def test_a_run_that_was_cut_ends_with_the_same_bits(name: str, tmp_path: Path) -> None:
    assert check(config(name, tmp_path)) == []
    whole = Runner.from_cfg(config(name, tmp_path / "whole"))
    whole.train()
    Runner.from_cfg(config(name, tmp_path / "cut", custom_hooks=[StopAt(6)])).train()
    last = Runner.from_cfg(config(name, tmp_path / "cut", resume="auto"))
    last.train()
    assert [n for n, value in weights_of(last).items() if not torch.equal(value, weights_of(whole)[n])] == []
    assert 0 <= last.val()["accuracy/top1"] <= 100


def test_check_finds_a_typo() -> None:
    errors = check(dict(model=dict(type="SimCLR", backbone=BACKBONE, in_channel=8)))
    assert [error.path for error in errors] == ["model.in_channel"] and "in_channels" in errors[0].hint


class Losses(Hook):
    def __init__(self) -> None:
        self.values: list[float] = []

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        self.values.append(float(outputs["loss"]))


def test_ranks_train_one_model_and_resume_exactly(tmp_path: Path) -> None:
    def in_rank() -> Any:
        whole = Runner.from_cfg(config("DINO", tmp_path / "whole"))
        whole.train()
        Runner.from_cfg(config("DINO", tmp_path / "cut", custom_hooks=[StopAt(3)])).train()
        last = Runner.from_cfg(config("DINO", tmp_path / "cut", resume="auto"))
        last.train()
        same = all(torch.equal(value, weights_of(whole)[name]) for name, value in weights_of(last).items())
        return same, {name: value for name, value in weights_of(last).items() if "running" not in name}

    (same, one), (also, other) = run_group(2, in_rank, tmp_path)
    assert same and also and all(torch.equal(value, other[name]) for name, value in one.items())


def test_the_backbone_is_that_of_a_classifier(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = SimCLR(**MODELS_BY_NAME["SimCLR"])
    torch.save({"state_dict": model.state_dict()}, tmp_path / "simclr.pth")
    pretrained = dict(type="Pretrained", checkpoint=str(tmp_path / "simclr.pth"), prefix="backbone")
    head = dict(type="LinearClsHead", num_classes=3, in_channels=8)
    classifier = ImageClassifier(dict(**BACKBONE, init_cfg=pretrained), head=head)
    classifier.init_weights()
    assert all(
        torch.equal(value, classifier.backbone.state_dict()[n]) for n, value in model.backbone.state_dict().items()
    )


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v3_small", "vit_b_16", "densenet121", "vgg11"])
def test_networks_of_torchvision_return_features_without_classes(name: str) -> None:
    with torch.device("meta"):
        network = MODELS.build(dict(type="TorchvisionModel", name=name, num_classes=0))
        features = network.eval()(torch.rand(1, 3, 224, 224))
    assert tuple(features.shape) == (1, network.num_features)
    with pytest.raises(ConfigError, match="last layer of squeezenet1_1 is not linear"):
        MODELS.build(dict(type="TorchvisionModel", name="squeezenet1_1", num_classes=0))
