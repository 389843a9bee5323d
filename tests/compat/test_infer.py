"""The base class of the inferencers of libraries built on MMEngine."""

import json
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
from torch import nn

from trainwright.compat.mmengine.infer import BaseInferencer
from trainwright.compat.mmengine.visualization import Visualizer
from trainwright.datasets import default_collate, pseudo_collate
from trainwright.engine import MODELS, Config, ConfigDict, UnknownTypeError

CFG = dict(model=dict(type="ScaleForInfer", factor=3.0))


@MODELS.register_module()
class ScaleForInfer(nn.Module):
    def __init__(self, factor=1.0):
        super().__init__()
        self.factor = nn.Parameter(torch.tensor(factor))

    def test_step(self, batch):
        return [self.factor * each for each in batch["inputs"]]


class Numbers(BaseInferencer):
    """Multiplies numbers."""

    preprocess_kwargs: ClassVar = {"add"}
    visualize_kwargs: ClassVar = {"show"}
    postprocess_kwargs: ClassVar = {"digits"}
    added = 0

    def _init_pipeline(self, cfg):
        return lambda number: dict(inputs=torch.tensor(float(number) + self.added))

    def preprocess(self, inputs, batch_size=1, add=0, **kwargs):
        self.added = add
        for batch in super().preprocess(inputs, batch_size, **kwargs):
            self.sizes.append(len(batch["inputs"]))
            yield batch

    def visualize(self, inputs, preds, show=False):
        return [f"{one}>{two}" for one, two in zip(inputs, preds)] if show else None

    def postprocess(self, preds, visualization, return_datasample=False, digits=1):
        values = preds if return_datasample else [round(float(value), digits) for value in preds]
        return dict(predictions=values, visualization=visualization)

    @property
    def sizes(self):
        return self.__dict__.setdefault("_sizes", [])


@pytest.mark.filterwarnings("ignore:no weights")
@pytest.mark.parametrize("progress", [True, False])
def test_steps(progress):
    inferencer = Numbers(CFG, show_progress=progress)
    assert not inferencer.model.training and inferencer.model.cfg.model.factor == 3.0
    answer = inferencer([1, 2, 3], batch_size=2, add=0.25, show=True, digits=2)
    assert answer["predictions"] == [3.75, 6.75, 9.75] and len(answer["visualization"]) == 3
    assert inferencer.sizes == [2, 1]
    assert isinstance(inferencer(4, return_datasamples=True)["predictions"][0], torch.Tensor)
    with pytest.raises(ValueError, match=r"(?s)'digit'.*digits"):
        inferencer(1, digit=2)
    assert [len(part) for part in inferencer._dispatch_kwargs(add=1, digits=2)] == [1, 0, 0, 1]


def test_config_and_weights(tmp_path):
    for given in (dict(CFG), ConfigDict(CFG), Config(CFG)):
        with pytest.warns(UserWarning, match="random weights"):
            assert Numbers(given).cfg.model.factor == 3.0
    file, weights = tmp_path / "config.py", tmp_path / "weights.pth"
    file.write_text(f"model = {CFG['model']}")
    torch.save(dict(state_dict=dict(factor=torch.tensor(5.0)), meta=dict(cfg=file.read_text())), weights)
    for arguments in ((str(file), str(weights)), (None, str(weights))):
        assert Numbers(*arguments)(2)["predictions"] == [10.0]
    with pytest.raises(ValueError, match="weights"):
        Numbers()
    with pytest.raises(TypeError, match="int"):
        Numbers(3)


def test_config_in_a_checkpoint_runs_no_code(tmp_path):
    cfg = "model = dict(type='os.path.join', a='x')"
    torch.save(dict(state_dict={}, meta=dict(cfg=cfg)), tmp_path / "w.pth")
    with pytest.raises(UnknownTypeError):
        Numbers(None, str(tmp_path / "w.pth"))


def test_arguments_of_two_steps():
    with pytest.raises(AssertionError, match="Twice.*add"):
        type("Twice", (Numbers,), dict(forward_kwargs={"add"}))
    with pytest.raises(AssertionError, match="must be a set"):
        type("List", (Numbers,), dict(forward_kwargs=["add"]))


@pytest.mark.filterwarnings("ignore:no weights")
def test_parts_of_a_config():
    inferencer = Numbers(CFG)
    assert inferencer.collate_fn is pseudo_collate and inferencer.visualizer is None
    loader = dict(collate_fn=dict(type="default_collate"))
    for named in ("default_collate", dict(type="default_collate"), default_collate):
        assert inferencer._init_collate(ConfigDict(test_dataloader=dict(loader, collate_fn=named))) is default_collate
    first, second = (
        inferencer._init_visualizer(ConfigDict(visualizer=dict(type=Visualizer, name="infer"))) for _ in range(2)
    )
    assert first.instance_name == "infer" and second.instance_name.startswith("infer-")


@pytest.mark.filterwarnings("ignore:no weights")
def test_inputs_as_list(tmp_path):
    inferencer = Numbers(CFG)
    for name in ("a.jpg", "b.jpg"):
        (tmp_path / name).touch()
    (tmp_path / "folder").mkdir()
    assert sorted(inferencer._inputs_to_list(str(tmp_path))) == [str(tmp_path / n) for n in ("a.jpg", "b.jpg")]
    assert inferencer._inputs_to_list("x.jpg") == ["x.jpg"]
    assert inferencer._inputs_to_list("https://host/x.jpg") == ["https://host/x.jpg"]
    assert inferencer._inputs_to_list((1, 2)) == [1, 2]
    assert len(inferencer._inputs_to_list(np.zeros((2, 3)))) == 1


@pytest.fixture
def library(tmp_path, monkeypatch):
    """Install a library that lists two models."""
    folder = tmp_path / "mmlisting" / ".mim"
    (folder / "configs").mkdir(parents=True)
    (tmp_path / "mmlisting" / "__init__.py").touch()
    (folder / "model-index.yml").write_text("Import: [configs/metafile.yml]")
    torch.save(dict(state_dict=dict(factor=torch.tensor(7.0))), tmp_path / "listed.pth")
    models = [
        dict(Name="Seven_r18", Alias=["seven"], Config="configs/seven.py", Weights=str(tmp_path / "listed.pth")),
        dict(Name="eight_r18", Config="configs/seven.py", Weights=[str(tmp_path / "listed.pth"), "other"]),
    ]
    (folder / "configs" / "metafile.yml").write_text(json.dumps(dict(Models=models)))
    (folder / "configs" / "seven.py").write_text(f"model = {CFG['model']}")
    monkeypatch.syspath_prepend(str(tmp_path))
    return folder


def test_listed_models(library):
    for name in ("seven_R18", "Seven", "eight_r18"):
        assert Numbers(name, scope="mmlisting")(1)["predictions"] == [7.0]
    assert BaseInferencer._get_repo_or_mim_dir("mmlisting") == str(library)
    assert BaseInferencer.list_models("mmlisting") == ["Seven_r18", "seven", "eight_r18"]
    assert BaseInferencer.list_models("mmlisting", "eight") == ["eight_r18"]
    with pytest.raises(ValueError, match=r"(?s)'sevn'.*seven"):
        Numbers("sevn", scope="mmlisting")
    with pytest.raises(ImportError, match="mmmissing"):
        BaseInferencer.list_models("mmmissing")
    (library / "configs").rename(Path(library.parent) / "moved")
    with pytest.raises(FileNotFoundError, match="mmlisting"):
        BaseInferencer.list_models("mmlisting")
