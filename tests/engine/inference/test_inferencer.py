"""Prediction from a checkpoint, on all kinds of input and with the pipeline of the config."""

from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from trainwright.engine.config.config import Config
from trainwright.engine.errors import CheckpointError, ConfigError
from trainwright.engine.inference.inferencer import BaseInferencer, Inferencer
from trainwright.engine.inference.results import as_plain
from trainwright.engine.registry import INFERENCERS, MODELS
from trainwright.engine.run.model_setup import build_model
from trainwright.engine.structures.elements import BaseDataElement
from trainwright.engine.structures.instance_data import InstanceData
from trainwright.engine.structures.sample import DataSample

LENET = "trainwright::classification/lenet_fashion_mnist.py"
CLASSES = tuple("abcdefghij")
Trained = tuple[Inferencer, torch.nn.Module]


def write_checkpoint(file: Path, cfg: Config, **meta: Any) -> torch.nn.Module:
    """Write random weights with their config, and return the model."""
    torch.manual_seed(0)
    model = build_model(cfg["model"], cfg.get("data_preprocessor"))
    torch.save({"meta": {"cfg": cfg.pretty_text, **meta}, "state_dict": model.state_dict()}, file)
    return model.eval()


def images(number: int, *size: int) -> np.ndarray:
    generator = np.random.default_rng(0)
    return generator.integers(0, 256, (number, *size), dtype=np.uint8)


@pytest.fixture
def lenet(tmp_path: Path) -> Trained:
    file = tmp_path / "epoch_1.pth"
    model = write_checkpoint(file, Config.fromfile(LENET), dataset_meta={"classes": CLASSES})
    return Inferencer(file, device="cpu", show_progress=False), model


def scores_of(model: torch.nn.Module, inputs: torch.Tensor) -> list[list[float]]:
    with torch.no_grad():
        return model.test_step({"inputs": inputs}).pred_score.tolist()


def test_every_kind_of_image_gives_the_same_prediction(lenet: Trained, tmp_path: Path):
    inferencer, model = lenet
    array = images(1, 28, 28)[0]
    Image.fromarray(array).save(tmp_path / "x.png")
    expected = scores_of(model, torch.from_numpy(array)[None, None])[0]
    kinds = [
        array, array[..., None], array[..., None].repeat(3, axis=2), Image.fromarray(array),
        Image.fromarray(array).convert("RGB"), torch.from_numpy(array), torch.from_numpy(array)[None],
        tmp_path / "x.png", str(tmp_path / "x.png"), [array], (array,), array[None, ..., None],
        torch.from_numpy(array)[None, None],
    ]  # fmt: skip
    for inputs in kinds:
        (prediction,) = inferencer(inputs)["predictions"]
        assert prediction["pred_scores"] == pytest.approx(expected, abs=0.004)
        best = int(np.argmax(expected))
        assert prediction["pred_label"] == best and prediction["pred_class"] == CLASSES[best]
        assert prediction["pred_score"] == max(prediction["pred_scores"])
    (prediction,) = inferencer(array)["predictions"]
    assert prediction["pred_scores"] == pytest.approx(expected, abs=1e-6)


def test_the_images_in_a_folder_are_predicted_in_the_order_of_their_names(lenet: Trained, tmp_path: Path):
    inferencer, model = lenet
    folder = tmp_path / "images"
    folder.mkdir()
    arrays = images(3, 28, 28)
    for name, array in zip("cab", arrays):
        Image.fromarray(array).save(folder / f"{name}.PNG")
    (folder / "notes.txt").write_text("no image")
    result = inferencer(folder, batch_size=2, out_dir=tmp_path / "out")
    ordered = torch.from_numpy(arrays[[1, 2, 0]]).unsqueeze(1)
    expected = scores_of(model, ordered)
    for prediction, name, scores in zip(result["predictions"], "abc", expected):
        assert prediction["img_path"] == str(folder / f"{name}.PNG")
        assert prediction["pred_scores"] == pytest.approx(scores, abs=1e-6)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a.png", "b.png", "c.png"]
    with Image.open(tmp_path / "out" / "a.png") as picture:
        assert np.array_equal(np.asarray(picture), result["visualization"][0])
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(FileNotFoundError, match="no images"):
        inferencer(empty)


def test_an_image_is_resized_to_the_size_of_the_dataset(lenet: Trained):
    inferencer, _ = lenet
    (sample,) = inferencer(images(1, 40, 30, 3)[0], return_datasamples=True)["predictions"]
    assert isinstance(sample, DataSample) and sample.pred_score.shape == (10,)
    assert sample.ori_shape == (40, 30) and sample.img_shape == (28, 28)


def test_pictures_of_images_without_a_file_have_numbers(lenet: Trained, tmp_path: Path):
    inferencer, _ = lenet
    result = inferencer(images(2, 28, 28, 1), out_dir=tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["00000000.png", "00000001.png"]
    assert len(result["visualization"]) == 2 and inferencer(images(2, 28, 28, 1))["visualization"] == []


def test_mistakes_in_a_call_are_named(lenet: Trained):
    inferencer, _ = lenet
    with pytest.raises(ValueError, match="did you mean 'out_dir'"):
        inferencer(images(1, 28, 28)[0], outdir="x")
    with pytest.raises(TypeError, match="float"):
        inferencer(1.5)
    with pytest.raises(ValueError, match="channels"):
        inferencer(torch.zeros(7, 28, 28))
    with pytest.raises(FileNotFoundError):
        inferencer("no_such_file.png")


PIPELINE = [
    {"type": "LoadImageFromFile"},
    {"type": "Resize", "size": [8, 8]},
    {"type": "PackInputs"},
]
MODEL = {
    "type": "ImageClassifier",
    "backbone": {"type": "LeNet", "in_channels": 3, "image_size": 8, "num_classes": 2},
    "data_preprocessor": {"type": "ImgDataPreprocessor", "mean": [10.0], "std": [20.0]},
}


@pytest.mark.parametrize("place", ["dataset", "wrapped", "test_pipeline", "inference_pipeline", "validation"])
def test_the_pipeline_of_the_config_is_used(tmp_path: Path, place: str):
    dataset = {
        "type": "ImageFolder",
        "data_root": "gone",
        "pipeline": PIPELINE,
        "metainfo": {"classes": ["x", "y"]},
    }
    cfg: dict[str, Any] = {"model": MODEL, "test_dataloader": {"dataset": dataset}}
    if place == "wrapped":
        inner = {"type": "ConcatDataset", "datasets": [dataset]}
        cfg["test_dataloader"] = {"dataset": {"type": "RepeatDataset", "times": 2, "dataset": inner}}
    elif place == "validation":
        cfg["val_dataloader"] = cfg.pop("test_dataloader")
    elif place != "dataset":
        cfg[place] = dataset.pop("pipeline")
    model = write_checkpoint(tmp_path / "x.pth", Config(cfg))
    inferencer = Inferencer(weights=tmp_path / "x.pth", device="cpu", show_progress=False)
    array = images(1, 8, 8, 3)[0]
    Image.fromarray(array).save(tmp_path / "x.png")
    expected = scores_of(model, torch.from_numpy(array).permute(2, 0, 1)[None])[0]
    for prediction in inferencer([tmp_path / "x.png", array, Image.fromarray(array)], batch_size=3)["predictions"]:
        assert prediction["pred_scores"] == pytest.approx(expected, abs=1e-6)
        assert prediction["pred_class"] == "xy"[prediction["pred_label"]]
    gray = inferencer(images(1, 12, 16)[0], return_datasamples=True)["predictions"][0]
    assert gray.ori_shape == (12, 16) and gray.img_shape == (8, 8)


def test_inputs_can_be_points(tmp_path: Path):
    cfg = Config.fromfile("trainwright::toy/perceptron_two_clouds.py")
    model = write_checkpoint(tmp_path / "x.pth", cfg)
    inferencer = Inferencer(tmp_path / "x.pth", device="cpu", show_progress=False)
    points = torch.tensor([[-1.0, -1.0], [1.0, 1.0]])
    expected = scores_of(model, points)
    for inputs in (points, points.tolist(), points.numpy()):
        results = inferencer(inputs, batch_size=2)["predictions"]
        assert [result["pred_scores"] for result in results] == [pytest.approx(scores) for scores in expected]
        assert results[0]["pred_class"] in ("lower left", "upper right")
    with pytest.raises(ValueError, match=r"inputs .*\(2,\)"):
        inferencer([[1.0, 2.0, 3.0]])
    with pytest.raises(ValueError, match="can be drawn"):
        inferencer(points, out_dir=tmp_path)


def test_a_config_and_weights_can_be_passed_separately(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    cfg = Config.fromfile(LENET)
    model = build_model(cfg["model"], cfg["data_preprocessor"]).eval()
    torch.save(model.state_dict(), tmp_path / "bare.pth")
    cfg.dump(tmp_path / "cfg.py")
    array = images(1, 28, 28)[0]
    expected = scores_of(model, torch.from_numpy(array)[None, None])[0]
    for given in (LENET, "classification/lenet_fashion_mnist", tmp_path / "cfg.py", cfg, cfg.to_dict()):
        inferencer = Inferencer(given, tmp_path / "bare.pth", device="cpu", show_progress=False)
        (prediction,) = inferencer(array)["predictions"]
        assert prediction["pred_scores"] == pytest.approx(expected, abs=1e-6)
        assert prediction["pred_class"] in ("T-shirt/top", *inferencer.dataset_meta["classes"])
    said: list[str] = []
    monkeypatch.setattr("trainwright.engine.inference.inferencer.print_log", lambda msg, *_: said.append(msg))
    Inferencer(cfg, device="cpu")
    assert len(said) == 1 and "random weights" in said[0]


def test_the_config_of_an_mmengine_checkpoint_is_in_its_message_hub(tmp_path: Path):
    cfg = Config.fromfile(LENET)
    model = build_model(cfg["model"])
    hub = {"runtime_info": {"cfg": cfg.pretty_text}}
    torch.save({"meta": {}, "message_hub": hub, "state_dict": model.state_dict()}, tmp_path / "x.pth")
    assert Inferencer(tmp_path / "x.pth", device="cpu").cfg["model"] == cfg["model"]


def test_errors_name_the_missing_model_or_weights(tmp_path: Path):
    with pytest.raises(ValueError, match="model or weights"):
        Inferencer()
    with pytest.raises(CheckpointError, match="checkpoint not found"):
        Inferencer(tmp_path / "x.pth")
    torch.save({"state_dict": {}}, tmp_path / "x.pth")
    with pytest.raises(CheckpointError, match="no config"):
        Inferencer(tmp_path / "x.pth")
    with pytest.raises(ValueError, match="did you mean 'classification/lenet_fashion_mnist'"):
        Inferencer("classification/lenet_fashion_mnit")
    with pytest.raises(ValueError, match="'no_such_library' is not installed"):
        Inferencer("resnet", scope="no_such_library")
    with pytest.raises(ConfigError, match="no test dataset"):
        Inferencer(Config({"model": MODEL}), device="cpu")
    with pytest.raises(ConfigError, match="the config has no model"):
        Inferencer({"a": 1})


def test_the_models_of_a_library_are_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    cfg = Config.fromfile(LENET)
    write_checkpoint(tmp_path / "w.pth", cfg)
    mim = tmp_path / "mmtiny" / ".mim"
    mim.mkdir(parents=True)
    (tmp_path / "mmtiny" / "__init__.py").touch()
    cfg.dump(mim / "lenet.py")
    entry = {"Name": "LeNet", "Alias": ["tiny"], "Config": "lenet.py", "Weights": str(tmp_path / "w.pth")}
    (mim / "model-index.yml").write_text(yaml.dump({"Import": ["metafile.yml"]}))
    (mim / "metafile.yml").write_text(yaml.dump({"Models": [entry]}))
    monkeypatch.syspath_prepend(tmp_path)
    assert Inferencer.list_models("mmtiny") == ["LeNet", "tiny"]
    assert Inferencer.list_models("mmtiny", "t.*") == ["tiny"]
    inferencer = Inferencer("TINY", scope="mmtiny", device="cpu", show_progress=False)
    assert len(inferencer(images(1, 28, 28)[0])["predictions"]) == 1
    with pytest.raises(ValueError, match="did you mean 'LeNet'"):
        Inferencer("lenett", scope="mmtiny")
    assert "classification/lenet_fashion_mnist" in Inferencer.list_models()
    assert Inferencer.list_models(patterns="toy/") == [n for n in Inferencer.list_models() if n.startswith("toy/")]


def test_another_task_overrides_the_steps(tmp_path: Path):
    class Counting(BaseInferencer):
        preprocess_kwargs: ClassVar[set[str]] = {"offset"}
        postprocess_kwargs: ClassVar[set[str]] = {"unit"}

        def _init_pipeline(self, cfg: Any) -> Any:
            return lambda number: torch.full((1, 28, 28), number)

        def _init_collate(self, cfg: Any) -> Any:
            return torch.stack

        def preprocess(self, inputs: Any, batch_size: int = 1, offset: int = 0) -> Any:
            return super().preprocess([number + offset for number in inputs], batch_size)

        def forward(self, inputs: torch.Tensor) -> list[int]:
            return [inputs.shape[0], *inputs[:, 0, 0, 0].tolist()]

        def postprocess(
            self, preds: Any, visualization: Any, return_datasamples: bool = False, unit: str = ""
        ) -> dict[str, Any]:
            return {"predictions": preds, "unit": unit}

    inferencer = Counting(Config.fromfile(LENET), device="cpu", show_progress=True)
    result = inferencer([1, 2, 3], batch_size=2, offset=10, unit="px")
    assert result == {"predictions": [2, 11, 12, 1, 13], "unit": "px"}
    with pytest.raises(TypeError, match="more than one step .*show"):

        class Wrong(BaseInferencer):
            forward_kwargs: ClassVar[set[str]] = {"show"}

    assert INFERENCERS.get("Inferencer") is Inferencer


def test_masks_become_run_lengths() -> None:
    from pycocotools import mask as coco_mask

    masks = torch.zeros(4, 3, 4, dtype=torch.bool)
    masks[1, 1:, 2] = masks[2, 0, 0] = masks[3] = True
    encoded = as_plain(BaseDataElement(pred_instances=InstanceData(masks=masks)), {})["pred_instances"]["masks"]
    assert [rle["counts"] for rle in encoded] == [[12], [7, 2, 3], [0, 1, 11], [0, 12]]
    decoded = coco_mask.decode(coco_mask.frPyObjects(encoded, 3, 4)).transpose(2, 0, 1)
    assert (decoded == masks.numpy()).all()


# ------------------------------------------------------------------------------------------- untrusted checkpoints


def untrusted_checkpoint(file: Path, **changes: Any) -> Path:
    """Write a checkpoint whose config, stored as data, has other parts."""
    cfg = Config.fromfile(LENET)
    model = build_model(cfg["model"], cfg.get("data_preprocessor"))
    torch.save({"meta": {"config": {**cfg.to_dict(), **changes}}, "state_dict": model.state_dict()}, file)
    return file


@pytest.mark.parametrize(
    "type_", ["os.system", "torch.hub.load", "torch.nn.functional.importlib.import_module", "torch.utils.cpp_extension.load",
              "subprocess.run", "trap.Model", "trap_scope.Model"],
)  # fmt: skip
def test_nothing_named_in_an_untrusted_config_is_imported_or_called(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, type_: str
) -> None:
    trap = tmp_path / "trap.py"
    trap.write_text(f"import pathlib\npathlib.Path({str(tmp_path / 'sprung')!r}).touch()\n")
    (tmp_path / "trap_scope").mkdir()
    (tmp_path / "trap_scope" / "registry.py").write_text(trap.read_text())
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    spring = dict(type=type_, command=f"touch {tmp_path / 'sprung'}")
    for changes in (
        dict(model=spring, custom_imports=dict(imports=["trap"])),
        dict(model=dict(type="ImageClassifier", backbone=spring)),
        dict(model=dict(type="Model", _scope_="trap_scope"), default_scope="trap_scope"),
        dict(test_pipeline=[spring]),
        dict(test_dataloader=dict(dataset=spring)),
        dict(test_dataloader=dict(collate_fn=type_, dataset=dict(type="FashionMNISTSubset", split="test"))),
    ):
        with pytest.raises((ConfigError, KeyError, TypeError), match="not registered|no function"):
            Inferencer(untrusted_checkpoint(tmp_path / "x.pth", **changes), device="cpu", show_progress=False)
        assert not (tmp_path / "sprung").exists()


def test_the_error_names_the_remedies_and_trusted_allows_imports(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "parts_of_mine.py").write_text(
        "from trainwright.engine import MODELS\nfrom trainwright.models.classification.lenet import LeNet\n"
        "@MODELS.register_module()\nclass LeNetOfMine(LeNet): ...\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    model = dict(type="ImageClassifier", backbone=dict(type="LeNetOfMine", num_classes=10))
    file = untrusted_checkpoint(tmp_path / "x.pth", model=model, custom_imports=dict(imports=["parts_of_mine"]))
    with pytest.raises(ConfigError, match="(?s)'LeNetOfMine' is not registered.*import the module.*trusted=True"):
        Inferencer(file, device="cpu", show_progress=False)
    inferencer = Inferencer(file, device="cpu", show_progress=False, trusted=True)
    assert type(inferencer.model.backbone).__name__ == "LeNetOfMine"
    Inferencer(file, device="cpu", show_progress=False)  # the model is registered by now
    del MODELS.module_dict["LeNetOfMine"]


def test_layers_of_pytorch_and_networks_of_torchvision_need_no_trust(tmp_path: Path) -> None:
    for network in (dict(type="torch.nn.Identity"), dict(type="torchvision.models.squeezenet1_1", num_classes=2)):
        cfg = dict(model=dict(type="ModuleWrapper", module=network), test_pipeline=[])
        weights = build_model(Config(cfg)["model"]).state_dict() or {"x": torch.zeros(1)}
        torch.save({"meta": {"config": {**cfg, "dataset_meta": {}}, "dataset_meta": {"image_shape": (3, 8, 8)}}, "state_dict": weights}, tmp_path / "x.pth")  # fmt: skip
        Inferencer(tmp_path / "x.pth", device="cpu", show_progress=False)


def test_the_checkpoint_of_a_runner_without_a_config_file_is_enough(tmp_path: Path) -> None:
    from trainwright.engine.run.runner import Runner

    dataset = dict(type="FashionMNISTSubset", split="test", indices=64)
    backbone = dict(type="LeNet", num_classes=10)
    options = dict(
        train_dataloader=dict(batch_size=32, dataset=dataset), train_cfg=dict(max_epochs=1),
        optim_wrapper=dict(optimizer=dict(type="SGD", lr=0.01)), val_dataloader=dict(batch_size=32, dataset=dataset),
        val_cfg={}, val_evaluator=dict(type="Accuracy"),
        data_preprocessor=dict(type="ImgDataPreprocessor", mean=[72.9], std=[90.0]),
    )  # fmt: skip
    runner = Runner(model=dict(type="ImageClassifier", backbone=backbone), work_dir=str(tmp_path / "a"), **options)
    runner.train()
    inferencer = Inferencer(tmp_path / "a/epoch_1.pth", device="cpu", show_progress=False)
    (prediction,) = inferencer(images(1, 28, 28)[0])["predictions"]
    assert prediction["pred_class"] in runner.dataset_meta["classes"]

    model = build_model(dict(type="ImageClassifier", backbone=backbone))
    Runner(model=model, work_dir=str(tmp_path / "b"), **options).train()
    with pytest.raises(
        CheckpointError,
        match="<trainwright.models.ImageClassifier>",
    ):
        Inferencer(tmp_path / "b/epoch_1.pth", device="cpu", show_progress=False)
