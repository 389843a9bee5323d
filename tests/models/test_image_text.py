"""CLIP: the contrastive losses, zero-shot classification, retrieval, tokenizers, exact resume."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ranks import run_group
from tiny_runs import StopAt, weights_of
from torch import Tensor, nn
from torch.nn import functional as F

from trainwright.datasets import CaptionedShapes, pseudo_collate
from trainwright.engine import ConfigError, DataError, Inferencer, Runner, check
from trainwright.engine.checkpoints.files import read_last_checkpoint
from trainwright.engine.evaluation.direction import higher_is_better
from trainwright.engine.export.form import ExportedGraph
from trainwright.engine.registry import MODELS
from trainwright.engine.run.model_setup import unwrap
from trainwright.engine.structures.sample import DataSample
from trainwright.models import CLIP, ImageTextRetrievalMetric, WordTokenizer

COLORS = ["red", "blue"]
SHAPES: dict[str, Any] = dict(type="CaptionedShapes", size=16, colors=COLORS, kinds=["circle", "square"])
OTHERS = SHAPES | dict(kinds=["arrow"], num_shapes=1, metainfo=dict(classes=["red arrow", "blue arrow"]))
TEMPLATES = ["a small {}", "a photo of a large {}"]


@MODELS.register_module()
class WordBag(nn.Module):
    """A text encoder: the mean of the embeddings of the words."""

    def __init__(self, vocab_size: int, out_features: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocab_size, out_features)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        words = self.embedding(input_ids) * attention_mask[..., None]
        return words.sum(1) / attention_mask.sum(1, keepdim=True)


@MODELS.register_module()
class Colors(nn.Module):
    """An image encoder: the mean of a convolution."""

    def __init__(self, out_features: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Dropout2d(0.2), nn.ReLU(), nn.Conv2d(8, out_features, 3))

    def forward(self, images: Tensor) -> Tensor:
        return self.layers(images)  # type: ignore[no-any-return]


def clip_config(**changes: Any) -> dict[str, Any]:
    return dict(
        type="CLIP", templates=TEMPLATES, data_preprocessor=dict(mean=[127.0], std=[60.0]),
        image_encoder=dict(type="Colors", out_features=6),
        text_encoder=dict(type="WordBag", vocab_size=32, out_features=6),
        tokenizer=dict(type="WordTokenizer", dataset=dict(**SHAPES, num_samples=12), vocab_size=32),
    ) | changes  # fmt: skip


def build(**changes: Any) -> CLIP:
    torch.manual_seed(0)
    model: CLIP = MODELS.build(clip_config(**changes))
    return model.eval()


def run_config(folder: Path, **changes: Any) -> dict[str, Any]:
    pack, drawn = [dict(type="PackInputs")], [dict(type="RandomCaption"), dict(type="PackInputs")]
    loader = dict(batch_size=4, collate_fn="pseudo_collate")
    evaluated = dict(
        zero_shot=dict(**loader, dataset=dict(**SHAPES, num_samples=6, num_shapes=1, pipeline=pack)),
        captions=dict(**loader, dataset=dict(**SHAPES, num_samples=6, pipeline=pack)),
        others=dict(**loader, dataset=dict(**OTHERS, num_samples=6, pipeline=pack)),
    )
    metrics = dict(
        zero_shot=dict(type="Accuracy"), captions=dict(type="ImageTextRetrievalMetric"), others=dict(type="Accuracy")
    )
    return dict(
        model=clip_config(), work_dir=str(folder), randomness=dict(seed=0), train_cfg=dict(max_epochs=2),
        train_dataloader=dict(**loader, dataset=dict(**SHAPES, num_samples=12, pipeline=drawn)),
        optim_wrapper=dict(optimizer=dict(type="AdamW", lr=0.01)), val_cfg={}, val_dataloader=evaluated,
        val_evaluator=metrics, test_cfg={}, test_dataloader=evaluated, test_evaluator=metrics,
    ) | changes  # fmt: skip


def embeddings(images: Tensor, texts: Tensor, loss: str = "softmax") -> dict[str, Tensor]:
    """Return the losses of embeddings, by a model whose encoders return their input."""
    model = CLIP(nn.Identity(), nn.Identity(), WordTokenizer(["a"]), loss=loss)
    model.encode_texts = lambda texts: texts  # type: ignore[assignment, method-assign]
    return model._contrast(F.normalize(images, dim=1), F.normalize(texts, dim=1))


def by_hand(images: Tensor, texts: Tensor, loss: str) -> Tensor:
    similarity = F.cosine_similarity(images[:, None], texts[None], dim=-1)
    size = len(images)
    if loss == "sigmoid":
        z = 2 * torch.eye(size) - 1
        return torch.log1p((-z * (10 * similarity - 10)).exp()).sum() / size
    odds = (similarity / 0.07).exp()
    of_images, of_texts = (odds.diagonal() / odds.sum(axis) for axis in (1, 0))
    return -(of_images.log().mean() + of_texts.log().mean()) / 2


@pytest.mark.parametrize("loss", ["softmax", "sigmoid"])
def test_the_loss_and_its_gradients_are_those_of_the_whole_batch_in_all_ranks(loss: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    pairs = torch.randn(2, 6, 4, requires_grad=True)
    expected = by_hand(*pairs, loss)
    expected.backward()  # type: ignore[no-untyped-call]

    def in_rank() -> Any:
        rank = torch.distributed.get_rank()
        share = pairs.detach()[:, 3 * rank : 3 * rank + 3].clone().requires_grad_()
        found = embeddings(share[0], share[1], loss)["loss"]
        found.backward()  # type: ignore[no-untyped-call]
        return float(found.detach()), share.grad

    (one, first), (other, second) = run_group(2, in_rank, tmp_path)
    assert (one + other) / 2 == pytest.approx(float(expected.detach()), rel=1e-5)
    assert pairs.grad is not None  # DDP averages over the ranks
    torch.testing.assert_close(torch.cat([first, second], 1) / 2, pairs.grad, rtol=1e-4, atol=1e-6)


def test_the_factor_of_similarities_is_learned_up_to_100() -> None:
    model = build()
    assert float(model.logit_scale.detach().exp()) == pytest.approx(1 / 0.07)
    nn.init.constant_(model.logit_scale, 9.0)
    batch = pseudo_collate([CaptionedShapes(4, **kwargs_of(SHAPES), pipeline=TRAIN)[index] for index in range(4)])
    losses = model(**model.data_preprocessor(batch), mode="loss")
    assert float(losses["logit_scale"]) == pytest.approx(100) and not losses["logit_scale"].requires_grad
    losses["loss"].backward()
    assert model.logit_scale.grad is not None and model.logit_scale.grad != 0
    with pytest.raises(ConfigError, match="loss: must be one of softmax, sigmoid"):
        build(loss="hinge")


TRAIN = [dict(type="RandomCaption"), dict(type="PackInputs")]


def kwargs_of(cfg: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in cfg.items() if key != "type"}


def test_classes_are_found_by_the_mean_of_their_texts_computed_once_per_evaluation() -> None:
    model, calls = build(), []
    encode = model.encode_texts
    model.encode_texts = lambda texts: (calls.append(list(texts)), encode(texts))[1]  # type: ignore[method-assign]
    images, classes = torch.rand(3, 3, 16, 16), ("red_circle", "blue square")
    assert model.use_classes({"classes": classes}) == classes
    for _ in range(2):
        (sample, *_) = model(images, [DataSample() for _ in images], mode="predict")
    assert calls == [
        ["a small red circle", "a photo of a large red circle", "a small blue square", "a photo of a large blue square"]
    ]
    means = F.normalize(encode(calls[0]), dim=1).view(2, 2, -1).mean(1)
    scores = (F.cosine_similarity(model(images)[:1], means) / 0.07).softmax(0)
    torch.testing.assert_close(sample.pred_score, scores, rtol=1e-4, atol=1e-6)
    for discard in (lambda: model.train().eval(), lambda: model.load_state_dict(model.state_dict())):
        discard()
        model(images, mode="predict")
    assert len(calls) == 3
    model.use_classes({})
    with pytest.raises(ConfigError, match=r"model\.classes: there are neither captions nor names of classes"):
        model(images, mode="predict")
    with pytest.raises(ConfigError, match="must have one {}"):
        build(templates="a photo")


def test_the_loss_takes_one_caption_of_each_image() -> None:
    model, images = build(), torch.rand(1, 3, 16, 16)
    with pytest.raises(DataError, match=r"sample 3 has 2 captions, .*RandomCaption"):
        model(images, [DataSample(metainfo=dict(sample_idx=3), gt_caption=["a", "b"])], mode="loss")
    with pytest.raises(DataError, match="has no captions, .*the dataset has no captions"):
        model(images, [DataSample()], mode="loss")


@pytest.fixture(scope="module")
def retrieved() -> tuple[dict[str, float], dict[str, tuple[Tensor, Tensor]]]:
    """Return the results for random embeddings, and for each direction the similarities and which are right."""
    torch.manual_seed(0)
    images, sizes = torch.randn(20, 8), torch.randint(1, 5, (20,)).tolist()
    texts = [image + torch.randn(size, 8) for image, size in zip(images, sizes)]
    metric = ImageTextRetrievalMetric(topk=(1, 7))
    samples = [dict(image_embedding=image, text_embeddings=each) for image, each in zip(images, texts)]
    metric.process(None, samples[:9])
    metric.process(None, samples[9:])
    similarity = F.cosine_similarity(images[:, None], torch.cat(texts)[None], dim=-1)
    match = torch.repeat_interleave(torch.arange(20), torch.tensor(sizes)) == torch.arange(20)[:, None]
    return metric.evaluate(20), {"image_to_text": (similarity, match), "text_to_image": (similarity.T, match.T)}


def test_recalls_and_ranks_are_those_of_their_definitions(retrieved: Any) -> None:
    found, ways = retrieved
    for way, (scores, right) in ways.items():
        best = scores.masked_fill(~right, -2).max(1, keepdim=True).values
        ranks = ((scores > best).sum(1) + 1).numpy()
        for k in (1, 7):
            assert found[f"retrieval/{way}_recall{k}"] == pytest.approx(100 * float(np.mean(ranks <= k)))
        assert found[f"retrieval/{way}_median_rank"] == float(np.median(ranks))
    recalls = [value for name, value in found.items() if name[-1] in "17"]
    assert found["retrieval/mean_recall"] == pytest.approx(sum(recalls) / 4)
    metrics = [ImageTextRetrievalMetric()]
    assert [higher_is_better(name, metrics) for name in found] == [True, True, False, True, True, False, True]


def test_recalls_are_those_of_the_maintained_library(retrieved: Any) -> None:
    retrieval = pytest.importorskip("torchmetrics.retrieval")
    found, ways = retrieved
    for way, (scores, right) in ways.items():
        indexes = torch.arange(len(scores))[:, None].expand_as(scores).flatten()
        for k in (1, 7):
            theirs = retrieval.RetrievalHitRate(top_k=k)(scores.flatten(), right.flatten(), indexes=indexes)
            assert found[f"retrieval/{way}_recall{k}"] == pytest.approx(100 * float(theirs))


def test_equal_embeddings_retrieve_by_chance_and_missing_ones_are_named() -> None:
    metric = ImageTextRetrievalMetric(topk=1)
    metric.process(None, [dict(image_embedding=torch.ones(4), text_embeddings=torch.ones(1, 4))] * 10)
    assert metric.evaluate(10)["retrieval/text_to_image_recall1"] == 10
    with pytest.raises(DataError, match="no text_embeddings, only the fields pred_label"):
        metric.process(None, [dict(pred_label=1)])


def test_a_tokenizer_knows_the_most_frequent_words_and_keeps_them(log: Any) -> None:
    captions = ["A red, red bird", "a red bird", "one blue tree"]
    tokenizer = WordTokenizer(captions, vocab_size=8, max_length=5)  # a, red, bird, ","
    assert "33.33 % of the words" not in log.text and "4 words of 3 captions; 27.27 % of the words" in log.text
    found = tokenizer(["Red bird", "a zebra a a a a"])
    assert found["input_ids"].tolist() == [[6, 2, 4, 7, 0], [6, 3, 1, 3, 7]]
    assert found["attention_mask"].tolist() == [[1, 1, 1, 1, 0], [1] * 5]
    assert log.text.count("Texts of more than max_length=5 tokens are cut: 1 in this batch, such as 'a zebra") == 1
    tokenizer(["a a a a a a a"])
    assert log.text.count("are cut: 1 in") == 1 and tokenizer.unknown_words(["a zebra", "zebra"]) == ["zebra"]
    other = WordTokenizer(["other"], vocab_size=8, max_length=5)
    other(["other"])
    other.load_state_dict(tokenizer.state_dict())
    assert other(["Red bird", "a zebra a a a a"])["input_ids"].tolist() == found["input_ids"].tolist()
    with pytest.raises(ConfigError, match="dataset: Shapes has no captions"):
        WordTokenizer(dict(type="Shapes"))


def test_a_run_that_was_cut_ends_with_the_same_bits_and_its_checkpoint_predicts(tmp_path: Path, log: Any) -> None:
    assert check(run_config(tmp_path)) == []
    whole = Runner.from_cfg(run_config(tmp_path / "whole"))
    results = whole.train(), whole.test()
    Runner.from_cfg(run_config(tmp_path / "cut", custom_hooks=[StopAt(4)])).train()
    last = Runner.from_cfg(run_config(tmp_path / "cut", resume="auto"))
    last.train()
    assert [n for n, value in weights_of(last).items() if not torch.equal(value, weights_of(whole)[n])] == []
    assert results[1].keys() >= {"zero_shot/accuracy/top1", "captions/retrieval/mean_recall"}
    assert unwrap(whole.model).classes == ("red arrow", "blue arrow")  # of the dataset evaluated last

    newest = read_last_checkpoint(tmp_path / "whole")
    log.clear()
    inferencer = Inferencer(newest, show_progress=False)
    assert "Vocabulary" not in log.text  # that of the checkpoint
    picture = np.full((16, 16, 3), 90, np.uint8)
    with pytest.raises(ConfigError, match=r"model\.classes: there are neither"):
        inferencer(picture)
    inferencer.use_classes(["red circle", "zebra"])
    (found,) = inferencer(picture, out_dir=tmp_path / "out")["predictions"]
    assert found["pred_class"] in ("red circle", "zebra") and len(found["pred_scores"]) == 2
    assert "does not know these words, which are all alike to the model: photo, zebra" in log.text
    assert list((tmp_path / "out").glob("*.png"))
    with pytest.raises(ConfigError, match="only predicts the classes that it was trained for"):
        Inferencer(dict(model=dict(type="LeNet"), inference_pipeline=[dict(type="PackInputs")])).use_classes(["a"])
    own = Inferencer(dict(run_config(tmp_path), model=clip_config(classes=["blue circle", "red square"])), newest)
    assert own(picture)["predictions"][0]["pred_class"] in ("blue circle", "red square")


def test_ranks_train_one_model(tmp_path: Path) -> None:
    def in_rank() -> Any:
        runner = Runner.from_cfg(run_config(tmp_path / "run", val_interval=2))
        runner.train()
        return {n: v for n, v in weights_of(runner).items() if "running" not in n}, runner.val()

    (one, results), (other, same) = run_group(2, in_rank, tmp_path)
    assert all(torch.equal(value, other[name]) for name, value in one.items())
    assert results == same and results["captions/retrieval/image_to_text_median_rank"] >= 1


def test_an_exported_classifier_has_the_classes_of_the_config() -> None:
    model, images = build(classes=COLORS), torch.randint(256, (2, 3, 16, 16), dtype=torch.uint8)
    scores, labels = ExportedGraph(model.export_form())(images)
    predicted = model.test_step({"inputs": images})
    torch.testing.assert_close(scores, predicted.pred_score)
    assert torch.equal(labels, predicted.pred_label) and scores.shape == (2, 2)
    with pytest.raises(ConfigError, match=r"model\.classes: there are neither"):
        build().export_form()


def test_check_finds_typos_anywhere_in_the_config(tmp_path: Path) -> None:
    cfg = run_config(tmp_path)
    cfg["model"]["template"] = "x {}"
    cfg["model"]["tokenizer"]["dataset"]["num_sample"] = 3
    cfg["train_dataloader"]["dataset"]["pipeline"][0] = dict(type="RandomCaptions")
    cfg["val_evaluator"]["captions"] = dict(type="ImageTextRetrievalMetric", topks=3)
    errors = {error.path: error.hint for error in check(cfg)}
    assert list(errors) == [
        "model.template", "model.tokenizer.dataset.num_sample", "train_dataloader.dataset.pipeline.0.type",
        "val_evaluator.captions.topks", "test_evaluator.captions.topks",
    ]  # fmt: skip
    assert "'templates'" in errors["model.template"]
