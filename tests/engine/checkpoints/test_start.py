"""The starting point of a run: its own newest checkpoint, the weights of another run, or nothing."""

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_runs import Line, StopAt, log_of, make_runner, weights_of
from torch import nn

from trainwright.engine.checking import check
from trainwright.engine.checkpoints.files import load_checkpoint_file
from trainwright.engine.checkpoints.start import StartingPoint
from trainwright.engine.config.config import Config
from trainwright.engine.config.literals import parse_literals
from trainwright.engine.errors import CheckpointError, ConfigFileError
from trainwright.engine.run.hook import Hook
from trainwright.engine.run.runner import Runner
from trainwright.models.base import BaseModel
from trainwright.models.initializers import constant_init


@pytest.fixture
def other_run(tmp_path: Path) -> str:
    """Train in another folder, and return the last checkpoint."""
    make_runner(tmp_path / "pretraining", checkpoint=dict(interval=1)).train()
    return str(tmp_path / "pretraining/epoch_3.pth")


def test_an_interrupted_fine_tuning_resumes_itself_and_not_the_run_it_started_from(
    tmp_path: Path, other_run: str
) -> None:
    def run(folder: str, *hooks: Hook) -> Runner:
        runner = make_runner(
            tmp_path / folder, hooks, load_from=other_run, resume="auto", checkpoint=dict(interval=1), lr=0.01
        )
        runner.train()
        return runner

    first = run("cut", StopAt(3))
    assert first.iter == 3
    assert f"starting at iteration 0 from the weights of {other_run}" in log_of(first)
    second = run("cut")
    assert not second.start.path.startswith(str(tmp_path / "pretraining"))
    whole = run("whole")
    torch.testing.assert_close(weights_of(second), weights_of(whole), rtol=0, atol=0)
    assert not torch.equal(first.model.fc.weight, second.model.fc.weight)


def test_resume_true_resumes_load_from_only_without_a_checkpoint_in_the_work_dir(
    tmp_path: Path, other_run: str
) -> None:
    def run() -> Runner:
        runner = make_runner(
            tmp_path / "new",
            load_from=other_run,
            resume=True,
            checkpoint=dict(interval=1),
            train_cfg=dict(max_epochs=5),
        )
        runner.train()
        return runner

    first, second = run(), run()
    assert (len(first.model.seen), first.iter) == (4, 10)
    assert "resuming from load_from" in log_of(first)
    assert second.start.path == str(tmp_path / "new" / "epoch_5.pth") and second.model.seen == []


def test_resume_accepts_the_path_of_any_checkpoint(tmp_path: Path, other_run: str) -> None:
    runner = make_runner(tmp_path / "new", resume=other_run, train_cfg=dict(max_epochs=4))
    runner.train()
    assert runner.iter == 8 and len(runner.model.seen) == 2


def test_load_from_within_the_work_dir_names_a_checkpoint_of_the_run_itself(tmp_path: Path, other_run: str) -> None:
    start = StartingPoint.find(tmp_path / "pretraining", str(Path(other_run).with_name("epoch_1.pth")), True)
    assert start.resumes and start.path.endswith("epoch_1.pth")


@pytest.mark.parametrize("resume", [False, True])
def test_check_looks_for_the_files_that_count(tmp_path: Path, other_run: str, resume: bool) -> None:
    cfg = dict(model=dict(type=Line), work_dir=str(tmp_path / "pretraining"), load_from="gone.pth", resume=resume)
    assert [mistake.path for mistake in check(Config(cfg))] == ([] if resume else ["load_from"])
    cfg.update(resume="gone.pth", load_from=None)
    assert [mistake.path for mistake in check(Config(cfg))] == ["resume"]


@pytest.mark.parametrize("evaluation", ["val", "test"])
def test_a_validation_before_the_training_drops_nothing_of_the_checkpoint(tmp_path: Path, evaluation: str) -> None:
    from tiny_runs import Points, Scripted

    def make(folder: str, *hooks: Any, **options: Any) -> Runner:
        loader = dict(dataset=Points(4), batch_size=4, collate_fn="default_collate")
        scores = Scripted(acc=[1, 2, 3, 4])
        options.update(test_dataloader=loader, test_cfg={}, test_evaluator=Scripted(acc=[1]))
        hooks = (*hooks, dict(type="EMAHook", momentum=0.1))
        return make_runner(tmp_path / folder, hooks, metric=scores, checkpoint=dict(interval=1), **options)

    whole = make("whole")
    whole.train()
    make("cut", StopAt(3)).train()
    runner = make("cut", resume=True)
    getattr(runner, evaluation)()
    assert (runner.epoch, runner.iter) == (1, 3)
    runner.train()
    assert (runner.iter, len(runner.model.seen)) == (6, 3)
    torch.testing.assert_close(weights_of(runner), weights_of(whole), rtol=0, atol=0)
    of = {
        name: load_checkpoint_file(tmp_path / name / "epoch_3.pth")["optimizer"]["state"] for name in ("whole", "cut")
    }
    torch.testing.assert_close(of["cut"], of["whole"], rtol=0, atol=0)


def test_trained_weights_continue_where_their_average_is_no_longer_wanted(tmp_path: Path) -> None:
    averaged = make_runner(tmp_path, [dict(type="EMAHook", momentum=0.1), StopAt(3)], checkpoint=dict(interval=1))
    averaged.train()
    trained = weights_of(averaged)
    seen: dict[str, Any] = {}

    class Look(Hook):
        def before_train(self, runner: Runner) -> None:
            seen.update(weights_of(runner))

    runner = make_runner(tmp_path, [Look()], resume=True)
    runner.train()
    torch.testing.assert_close(seen, trained, rtol=0, atol=0)
    assert "without the average" in log_of(runner)


# ------------------------------------------------------------------------------------------- the config in a checkpoint


def test_text_in_a_checkpoint_is_never_executed(tmp_path: Path) -> None:
    make_runner(tmp_path, checkpoint=dict(interval=1), train_cfg=dict(max_epochs=1)).train()
    file = tmp_path / "epoch_1.pth"
    checkpoint = load_checkpoint_file(file)
    trap = f"import pathlib\npathlib.Path({str(tmp_path / 'trap')!r}).touch()\nlr = 1\n"
    checkpoint["meta"]["cfg"] = checkpoint["message_hub"]["runtime_info"]["cfg"] = trap
    for with_data in (True, False):
        if not with_data:
            del checkpoint["meta"]["config"]
        torch.save(checkpoint, file)
        runner = make_runner(tmp_path, resume=True, train_cfg=dict(max_epochs=2))
        runner.train()
        assert not (tmp_path / "trap").exists()
        assert ("Cannot compare the config" in log_of(runner)) is not with_data
        assert ("train_cfg.max_epochs: 1 → 2" in log_of(runner)) is with_data


def test_literals_in_the_text_of_an_older_checkpoint_are_compared(tmp_path: Path) -> None:
    make_runner(tmp_path, checkpoint=dict(interval=1), train_cfg=dict(max_epochs=1)).train()
    checkpoint = load_checkpoint_file(tmp_path / "epoch_1.pth")
    del checkpoint["meta"]["config"]
    torch.save(checkpoint, tmp_path / "epoch_1.pth")
    runner = make_runner(tmp_path, resume=True, train_cfg=dict(max_epochs=2))
    runner.train()
    assert "train_cfg.max_epochs: 1 → 2" in log_of(runner)


def test_every_shipped_config_is_read_as_literals_as_it_was_dumped() -> None:
    import trainwright.configs

    files = [file for file in Path(trainwright.configs.__path__[0]).rglob("*.py") if file.name != "__init__.py"]
    assert len(files) > 20
    for file in files:
        cfg = Config.fromfile(file)
        assert parse_literals(cfg.pretty_text) == cfg.to_dict(), file
    odd = Config(
        {"a": float("inf"), "b": {1: 2, "x y": (1,)}, "dict": 3, "s": {1}, "e": set(), "n": -1.5e-3, "t": "{{ x }}"}
    )
    assert parse_literals(odd.pretty_text) == odd.to_dict()


@pytest.mark.parametrize(
    "text",
    ["import os", "x = open('a')", "x = [i for i in 'ab']", "x = y", "x = {**{}}", "x = dict(**{})", "x = f'{1}'", "x = -'a'",
     "x = {[]: 1}", "x = lambda: 1", "os.update({})", "x = " + "(" * 5000, "x = 1 +", "x = float('x')", "a.b = 1", "a, b = 1, 2"],
)  # fmt: skip
def test_anything_but_literals_is_refused(text: str) -> None:
    with pytest.raises(ConfigFileError):
        parse_literals(text)


# -------------------------------------------------------------------------------- weights missing from the checkpoint


class TwoParts(BaseModel):
    """A backbone and a head with their own initializers; ``visited`` lists the initialized parts."""

    def __init__(self, classes: int) -> None:
        super().__init__(init_cfg=dict(type="Constant", layer="Linear", val=3.0, bias=3.0))
        self.visited: list[str] = []
        self.backbone = Part("backbone", self.visited, nn.Linear(2, 2))
        self.head = Part("head", self.visited, nn.Linear(2, classes))

    def forward(self, inputs: torch.Tensor, targets: Any = None, mode: str = "tensor") -> Any:
        output = self.head.layer(self.backbone.layer(inputs)).sum(1)
        return {"loss": nn.functional.mse_loss(output, targets)} if mode == "loss" else output


class Part(nn.Module):
    def __init__(self, name: str, visited: list[str], layer: nn.Module) -> None:
        super().__init__()
        self.part_name, self.visited, self.layer = name, visited, layer

    def init_weights(self) -> None:
        self.visited.append(self.part_name)
        if self.part_name == "head":
            constant_init(self.layer, 7.0, 7.0)


def test_a_new_head_is_initialized_as_configured_and_the_rest_is_not_visited(tmp_path: Path) -> None:
    make_runner(tmp_path / "a", model=TwoParts(1), checkpoint=dict(interval=1), lr=1e-3).train()
    file = str(tmp_path / "a/epoch_3.pth")
    seen: dict[str, Any] = {}

    class Look(Hook):
        def before_train(self, runner: Runner) -> None:
            seen.update(weights_of(runner))

    model = TwoParts(4)
    make_runner(tmp_path / "b", [Look()], model=model, load_from=file, lr=1e-4).train()
    assert (seen["head.layer.weight"] == 7).all() and (seen["head.layer.bias"] == 7).all()
    assert torch.equal(seen["backbone.layer.weight"], load_checkpoint_file(file)["state_dict"]["backbone.layer.weight"])
    assert model.visited == ["head"]

    model = TwoParts(1)
    make_runner(tmp_path / "c", model=model, load_from=file, lr=1e-4).train()
    assert model.visited == []


def test_a_part_that_has_some_of_its_tensors_keeps_them(tmp_path: Path) -> None:
    make_runner(tmp_path / "a", model=TwoParts(1), checkpoint=dict(interval=1), lr=1e-3).train()
    checkpoint = load_checkpoint_file(tmp_path / "a/epoch_3.pth")
    weight = checkpoint["state_dict"]["head.layer.weight"]
    del checkpoint["state_dict"]["head.layer.bias"]
    torch.save(checkpoint, tmp_path / "part.pth")
    runner = make_runner(tmp_path / "b", model=TwoParts(1), load_from=str(tmp_path / "part.pth"), lr=0.0)
    runner.train()
    assert torch.equal(runner.model.head.layer.weight, weight)
    assert (runner.model.head.layer.bias == 7).all()


def test_initial_weights_depend_on_the_seed_alone(tmp_path: Path) -> None:
    def weights(draws: int, folder: str) -> torch.Tensor:
        runner = make_runner(tmp_path / folder, model=None, train_cfg=dict(max_epochs=1), lr=0.0)
        runner.model.init_weights = lambda: nn.init.normal_(runner.model.fc.weight)
        torch.rand(draws)
        return runner.train().fc.weight.clone()

    assert torch.equal(weights(0, "a"), weights(5, "b"))


def test_weights_that_do_not_follow_the_seed_are_mentioned(tmp_path: Path) -> None:
    assert "do not depend on the seed" in " ".join(log_of(make_runner(tmp_path / "a")).split())


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Record attempted downloads, and let them all fail."""
    tried: list[str] = []

    def refuse(url: str, *args: Any, **kwargs: Any) -> Any:
        tried.append(url)
        raise OSError("offline")

    monkeypatch.setattr("torch.hub.load_state_dict_from_url", refuse)
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", refuse)
    return tried


PRETRAINED = dict(
    classifier=dict(type="TorchvisionModel", name="squeezenet1_1", num_classes=2, weights="DEFAULT"),
    features=dict(type="TorchvisionFeatures", name="squeezenet1_1", layers="features.3", weights="DEFAULT"),
    segmentation=dict(type="TorchvisionSegmentationModel", name="lraspp_mobilenet_v3_large", num_classes=2, weights_backbone="DEFAULT"),
    detector=dict(type="TorchvisionDetectionModel", name="ssdlite320_mobilenet_v3_large", num_classes=2, weights_backbone="DEFAULT"),
    video=dict(type="TorchvisionVideoModel", name="mc3_18", num_classes=2, weights="DEFAULT"),
)  # fmt: skip


@pytest.mark.parametrize("kind", PRETRAINED)
@pytest.mark.long
def test_pretrained_weights_are_downloaded_only_if_missing_from_the_checkpoint(kind: str, offline: list[str]) -> None:
    from trainwright.engine.run.model_setup import build_model, initialize_model

    cfg = dict(type="ModuleWrapper", module=PRETRAINED[kind])
    model = build_model(cfg, weights_follow=True)
    assert offline == []
    names = model.state_dict().keys()
    initialize_model(model, missing=[])
    assert offline == []

    again = build_model(cfg, weights_follow=True)
    assert again.state_dict().keys() == names
    with pytest.raises((OSError, CheckpointError), match="offline"):
        initialize_model(again, missing=[next(iter(names))])
    with pytest.raises((OSError, CheckpointError), match="offline"):
        build_model(cfg)
    assert len(offline) == 2


def test_pretrained_weights_of_a_part_that_the_checkpoint_lacks_are_loaded(tmp_path: Path) -> None:
    from torchvision.models import squeezenet1_1

    from trainwright.engine.run.model_setup import build_model, initialize_model

    trained = squeezenet1_1().state_dict()
    torch.save(trained, tmp_path / "backbone.pth")
    cfg = dict(type="TorchvisionModel", name="squeezenet1_1", weights=str(tmp_path / "backbone.pth"))
    model = build_model(dict(type="ModuleWrapper", module=cfg), weights_follow=True)
    assert not torch.equal(model.network.features[0].weight, trained["features.0.weight"])
    initialize_model(model, missing=["network.features.0.weight"])
    assert torch.equal(model.network.features[0].weight, trained["features.0.weight"])


def test_a_checkpoint_without_an_optimizer_is_refused(tmp_path: Path) -> None:
    make_runner(tmp_path, checkpoint=dict(interval=1, save_optimizer=False)).train()
    with pytest.raises(CheckpointError, match="no optimizer state"):
        make_runner(tmp_path, resume=True).train()
