from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from torch import nn
from torch.optim import SGD

from trainwright.engine.checking import check
from trainwright.engine.config.config import Config
from trainwright.engine.config.overrides import COMMAND_LINE
from trainwright.engine.optim.constructor import build_optim_wrapper
from trainwright.engine.registry import (
    MODELS,
    OPTIM_WRAPPER_CONSTRUCTORS,
    OPTIMIZERS,
    RUNNERS,
    STRATEGIES,
    Registry,
)

GOOD = """\
model = dict(
    type='ImageClassifier',
    backbone=dict(type='LeNet', num_classes=10),
)
train_dataloader = dict(
    batch_size=4,
    dataset=dict(type='FashionMNISTSubset', split='train'),
    sampler=dict(type='DefaultSampler', shuffle=True),
)
train_cfg = dict(by_epoch=True, max_epochs=3)
optim_wrapper = dict(optimizer=dict(type='SGD', lr=0.1))
param_scheduler = [dict(type='StepLR', step_size=1)]
val_dataloader = dict(dataset=dict(type='FashionMNISTSubset', split='test'))
val_cfg = dict()
val_evaluator = dict(type='Accuracy')
default_hooks = dict(checkpoint=dict(interval=1))
custom_hooks = [dict(type='EMAHook', momentum=0.1, priority='LOW')]
"""


@pytest.fixture
def mistakes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.chdir(tmp_path)

    def find(*changes: tuple[str, str], more: str = "", options: dict[str, Any] | None = None) -> list[str]:
        text = GOOD
        for old, new in changes:
            assert old in text
            text = text.replace(old, new)
        (tmp_path / "my.py").write_text(text + more)
        config = Config.fromfile("my.py")
        config.merge_from_dict(options or {}, origin=COMMAND_LINE)
        return [str(error) for error in check(config)]

    return find


def test_a_good_config_has_no_mistakes(mistakes: Any) -> None:
    assert mistakes() == []
    assert mistakes(("step_size=1", "step_size=0.5, end=2.5, convert_to_iter_based=True")) == []


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("'LeNet'", "'LeNett'", "my.py:3: model.backbone.type: 'LeNett' is not registered as a model\n    did you mean 'LeNet'"),
        ("type='ImageClassifier'", "typ='ImageClassifier'", "my.py:2: model: this model has no 'type'\n    did you mean 'type', not 'typ'"),
        ("dict(type='LeNet', num", "dict(tpye='LeNet', num", "my.py:3: model.backbone: this part has no 'type'\n    did you mean 'type', not 'tpye'"),
        ("dict(type='EMAHook'", "dict(types='EMAHook'", "my.py:17: custom_hooks.0: this hook has no 'type'\n    did you mean 'type', not 'types'"),
        ("val_cfg = dict()", "val_cfg = dict(typ='ValLoop')", "my.py:14: val_cfg.typ: ValLoop takes no such argument\n    did you mean 'type'"),
        ("batch_size=4,", "batch_size=4, collate_fn='pseudo_colate',", "my.py:6: train_dataloader.collate_fn: 'pseudo_colate' is not registered as a function\n    did you mean 'pseudo_collate'"),
        ("batch_size=4,", "batch_size=4, worker_init_fn='numpy.random.sed',", "my.py:6: train_dataloader.worker_init_fn: 'numpy.random.sed' is not registered"),
        ("num_classes=10", "num_clases=10", "my.py:3: model.backbone.num_clases: LeNet takes no such argument\n    did you mean 'num_classes'"),
        ("'ImageClassifier',", "'ImageClassifier', bakbone=1,", "my.py:2: model.bakbone: ImageClassifier takes no such argument\n    did you mean 'backbone'"),
        ("'FashionMNISTSubset', split='train'", "'FashionMNISTSubset', spit='train'", "my.py:7: train_dataloader.dataset.spit: FashionMNISTSubset takes no such argument\n    did you mean 'split'"),
        ("shuffle=True", "shufle=True", "my.py:8: train_dataloader.sampler.shufle: DefaultSampler takes no such argument\n    did you mean 'shuffle'"),
        ("batch_size=4", "batchsize=4", "my.py:6: train_dataloader.batchsize: a dataloader takes no such argument\n    did you mean 'batch_size'"),
        ("batch_size=4", "batch_size='4'", "my.py:6: train_dataloader.batch_size: must be"),
        ("batch_size=4", "shuffle=True", "my.py:6: train_dataloader.shuffle: a dataloader takes no such argument\n    the sampler shuffles"),
        ("max_epochs=3", "max_epoch=3", "my.py:10: train_cfg.max_epoch: EpochBasedTrainLoop takes no such argument\n    did you mean 'max_epochs'"),
        ("max_epochs=3", "max_epochs='3'", "my.py:10: train_cfg.max_epochs: must be int, not str '3'\n    it is a string: write 3"),
        ("by_epoch=True", "by_epoch=False", "my.py:10: train_cfg.max_epochs: IterBasedTrainLoop takes no such argument"),
        ("type='SGD', lr=0.1", "type='SGD', lr=0.1, momentun=0.9", "my.py:11: optim_wrapper.optimizer.momentun: SGD takes no such argument\n    did you mean 'momentum'"),
        ("type='SGD', lr=0.1", "type='SGD', lr='1e-1'", "my.py:11: optim_wrapper.optimizer.lr: must be"),
        ("type='SGD'", "type='SDG'", "my.py:11: optim_wrapper.optimizer.type: 'SDG' is not registered as an optimizer\n    did you mean 'SGD'"),
        ("dict(optimizer=dict", "dict(clip=1, optimizer=dict", "my.py:11: optim_wrapper.clip: OptimWrapper takes no such argument"),
        ("step_size=1", "step=1", "my.py:12: param_scheduler.0.step: StepLR takes no such argument\n    did you mean 'step_size'"),
        ("step_size=1", "step_size=0.5", "my.py:12: param_scheduler.0.step_size: must be int, not float 0.5"),
        ("step_size=1", "step_size='1', convert_to_iter_based=True", "my.py:12: param_scheduler.0.step_size: must be "),
        ("step_size=1", "step_size=1, begin=3", "my.py:12: param_scheduler.0.begin: it begins at 3, but the run ends after 3 epochs"),
        ("'StepLR', step_size=1", "'MultiStepLR', milestones=[4, 8]", "my.py:12: param_scheduler.0.milestones: all its milestones [4, 8] are after the end"),
        ("'StepLR', step_size=1", "'ReduceOnPlateauLR', by_epoch=False", "my.py:12: param_scheduler.0.by_epoch: this scheduler counts epochs"),
        ("'StepLR', step_size=1", "'ReduceOnPlateauLR', convert_to_iter_based=True", "my.py:12: param_scheduler.0.convert_to_iter_based: this"),
        ("'Accuracy'", "'Acuracy'", "my.py:15: val_evaluator.type: 'Acuracy' is not registered as a metric\n    did you mean 'Accuracy'"),
        ("checkpoint=", "chekpoint=", "my.py:16: default_hooks.chekpoint: unknown default hook\n    did you mean 'checkpoint'"),
        ("interval=1", "intervall=1", "my.py:16: default_hooks.checkpoint.intervall: CheckpointHook takes no such argument\n    did you mean 'interval'"),
        ("'EMAHook'", "'EMAHok'", "my.py:17: custom_hooks.0.type: 'EMAHok' is not registered as a hook\n    did you mean 'EMAHook'"),
        ("val_cfg = dict()\n", "", "my.py:13: val_cfg: missing, though val_dataloader and val_evaluator are set"),
        ("optim_wrapper =", "optim_wraper =", "my.py:11: optim_wraper: unknown top-level key, and nothing reads it\n    did you mean 'optim_wrapper'"),
    ],
)  # fmt: skip
def test_each_mistake_is_named_with_its_place_and_a_remedy(mistakes: Any, old: str, new: str, expected: str) -> None:
    found = mistakes((old, new))
    assert any(message.startswith(expected) for message in found), found


SWITCH = "dict(type='SwitchHook', target='model.head.x', value=1, when=dict({}))"
GROW = "dict(type='GradientAccumulationScheduleHook', counts=[2, 4], when=dict({}))"
STOP = "dict(type='EarlyStoppingHook', {})"


@pytest.mark.parametrize(
    ("hook", "expected"),
    [
        (SWITCH.format("monitor='accuracy/top1', above=90"), None),
        (GROW.format("monitor='train/loss', window=100, interval=50, plateau=dict(patience=3, min_delta=0.1)"), None),
        (STOP.format("monitor=['train/loss', 'accuracy/top1'], interval=100, window=200"), None),
        (SWITCH.format("moniter='train/loss', above=1"), "when.moniter: unknown key of a condition\n    did you mean 'monitor'"),
        (GROW.format("monitor='train/loss', bellow=1"), "when.bellow: unknown key of a condition\n    did you mean 'below'"),
        (SWITCH.format("monitor='train/loss', below=1, above=2"), "when: invalid condition"),
        (GROW.format("monitor='train/loss', below='0.1'"), "when.below: must be a number, not '0.1'"),
        (SWITCH.format("monitor='accuracy/top1', above=1, window=5"), "when.window: has no effect"),
        (GROW.format("monitor='train/loss', above=1, interval=0"), "when.interval: must be a positive integer"),
        (SWITCH.format("monitor='train/loss', plateau=dict(patince=3)"), "when.plateau.patince: unknown key of a plateau\n    did you mean 'patience'"),
        (SWITCH.format("monitor='train/loss', plateau=dict(patience=0)"), "when.plateau.patience: must be an integer of at least 1"),
        (GROW.format("monitor='train/x', plateau=dict(patience=3)"), "when.plateau.rule: cannot infer the rule for key 'train/x'"),
        (STOP.format("monitor='accuracy/top1', interval=100"), "interval: has no effect: no scalar of the training"),
        (STOP.format("monitor='train/loss', intervall=100"), "intervall: EarlyStoppingHook takes no such argument"),
        (STOP.format("monitor='train/x'"), "rule: cannot infer the rule for key 'train/x'"),
    ],
)  # fmt: skip
def test_conditions_on_scalars_of_the_training(mistakes: Any, hook: str, expected: str | None) -> None:
    found = mistakes(("dict(type='EMAHook'", f"{hook}, dict(type='EMAHook'"))
    assert found == [] if expected is None else any(f"my.py:17: custom_hooks.0.{expected}" in each for each in found), (
        found
    )


def test_a_scheduler_that_monitors_a_scalar_of_the_training(mistakes: Any) -> None:
    plateau = "'ReduceOnPlateauLR', monitor='{}', interval=20"
    assert mistakes(("'StepLR', step_size=1", plateau.format("train/loss"))) == []
    [error] = mistakes(("'StepLR', step_size=1", plateau.format("loss")))
    assert error.startswith("my.py:12: param_scheduler.0.interval: has no effect")


def test_all_mistakes_come_at_once_in_the_order_of_the_config(mistakes: Any) -> None:
    found = mistakes(("'LeNet'", "'LeNett'"), ("lr=0.1", "lr='fast'"), ("'Accuracy'", "'Acc'"))
    assert [message.split(":")[1] for message in found] == ["3", "11", "15"]


def test_one_mistake_is_reported_once(mistakes: Any) -> None:
    assert len(mistakes(("'LeNet'", "'LeNett'"))) == 1
    assert len(mistakes(("num_classes=10", "num_clases=10"))) == 1


def test_variables_in_use_are_not_reported(mistakes: Any) -> None:
    assert mistakes(("model = dict(", "modell = 10\nmodel = dict("), ("num_classes=10", "num_classes=modell")) == []


def test_options_without_effect_are_reported(mistakes: Any) -> None:
    variable = dict(more="max_iterations = 7\nsomething = dict(value=max_iterations)\nmy_switch = 1\n")
    assert mistakes(**variable, options={"max_iterations": 9, "my_switch": 2}) == [
        "--cfg-options: max_iterations: this variable was used while the config was read, so setting it now has no effect\n"
        "    set the values that use it instead (see `trainwright print-config`)"
    ]
    assert mistakes(options={"optim_wraper.optimizer.lr": 1, "train_cfg.max_epochs": 2}) == [
        "--cfg-options: optim_wraper: there is no such key in the config, and nothing reads it\n    did you mean 'optim_wrapper'?"
    ]
    (message,) = mistakes(options={"xyz": 1})
    assert "set the whole path" in message


def test_keys_of_mmcv_1_are_translated(mistakes: Any) -> None:
    assert mistakes(more="lr_config = dict(policy='step')\n") == [
        "my.py:18: lr_config: unknown top-level key, and nothing reads it\n    use param_scheduler=dict(type=...) instead"
    ]


def test_a_preprocessor_for_a_model_that_takes_none(mistakes: Any) -> None:
    more = "data_preprocessor = dict(type='ImgDataPreprocessor', mean=[1.0], std=[1.0])\n"
    assert mistakes(more=more) == []
    (error,) = mistakes(
        ("type='ImageClassifier',\n    backbone=dict(type='LeNet', num_classes=10),", "type='LeNet'"), more=more
    )
    assert error.startswith("my.py:17: data_preprocessor: LeNet takes no data_preprocessor\n")
    assert "dict(type='ModuleWrapper', module=dict(type='LeNet', ...))" in error


def test_a_missing_argument_is_named(mistakes: Any) -> None:
    assert mistakes(("step_size=1", "gamma=0.1")) == [
        "my.py:12: param_scheduler.0.step_size: StepLR requires this argument"
    ]


def test_a_checkpoint_that_is_not_there(mistakes: Any) -> None:
    assert mistakes(more="load_from = 'none.pth'\n") == ["my.py:18: load_from: there is no file 'none.pth'"]


def test_parts_inside_lists_and_wrappers_are_checked(mistakes: Any) -> None:
    new = "dataset=dict(type='RepeatDataset', times=2, dataset=dict(type='FashionMNISTSubset', split='train', pipeline=[dict(type='RandomCrop', size=28), dict(type='PackInput')]))"
    (found,) = mistakes(("dataset=dict(type='FashionMNISTSubset', split='train')", new))
    assert found.startswith("my.py:7: train_dataloader.dataset.dataset.pipeline.1.type: 'PackInput' is not registered")
    assert "'PackInputs'" in found


def test_hooks_that_exclude_each_other(mistakes: Any) -> None:
    second = "dict(type='EMAHook', ema_type='StochasticWeightAverage'), dict(type='ParamSchedulerHook')"
    found = mistakes(("custom_hooks = [", f"custom_hooks = [{second}, "))
    assert found == [
        "my.py:17: custom_hooks.1: ParamSchedulerHook cannot be combined with ParamSchedulerHook: only one hook per run steps the "
        "schedulers\n    remove one of them",
        "my.py:17: custom_hooks.2: EMAHook cannot be combined with EMAHook: only one hook per run averages the weights\n"
        "    remove one of them",
    ]


def test_full_dotted_paths_and_arguments_of_any_callable(mistakes: Any) -> None:
    assert (
        mistakes(("dict(type='LeNet', num_classes=10)", "dict(type='torchvision.models.resnet18', num_classes=10)"))
        == []
    )
    found = mistakes(
        ("dict(type='LeNet', num_classes=10)", "dict(type='torch.nn.Linear', in_feature=1, out_features=2)")
    )
    assert found == [
        "my.py:3: model.backbone.in_feature: Linear takes no such argument\n    did you mean 'in_features' or 'out_features'?"
    ]


def test_a_mistake_names_where_the_type_was_set_if_that_is_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "base.py").write_text(GOOD)
    (tmp_path / "my.py").write_text("_base_ = 'base.py'\noptim_wrapper = dict(optimizer=dict(momentun=0.9))\n")
    assert [str(error) for error in check(Config.fromfile("my.py"))] == [
        "my.py:2: optim_wrapper.optimizer.momentun: SGD takes no such argument\n    did you mean 'momentum'? (SGD is set at base.py:11)"
    ]


def test_plain_dictionaries_are_checked_too() -> None:
    found = [str(error) for error in check(dict(model=dict(type="LeNett"), train_cfg=dict(max_epochs=1)))]
    assert any(message.startswith("model.type: 'LeNett' is not registered") for message in found)
    assert any(message.startswith("train_dataloader: missing") for message in found)


def test_yaml_keeps_its_lines_and_its_numbers_that_are_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "base.py").write_text(GOOD)
    (tmp_path / "my.yaml").write_text('_base_: base.py\noptim_wrapper:\n  optimizer:\n    weight_decay: "1e-3"\n')
    (mistake,) = [str(error) for error in check(Config.fromfile("my.yaml"))]
    assert mistake.startswith("my.yaml:4: optim_wrapper.optimizer.weight_decay: must be float")
    assert mistake.endswith("not str '1e-3'\n    it is a string: write 0.001")


def test_an_unsupported_setting_of_mmengine_is_reported(mistakes: Any) -> None:
    (mistake,) = mistakes(more="efficient_conv_bn_eval = ['backbone']\n")
    assert mistake.startswith("my.py:18: efficient_conv_bn_eval: this MMEngine setting is not supported")


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ("env_cfg = dict(cudnn_benchmrk=True)", "env_cfg.cudnn_benchmrk: unknown setting\n    did you mean 'cudnn_benchmark'?"),
        ("randomness = dict(seed='0')", "randomness.seed: must be int | None, not str '0'"),
        ("auto_scale_lr = dict(enabled=True)", "auto_scale_lr.enabled: unknown setting"),
        ("env_cfg = dict(backend='gloo')", "env_cfg.backend: unknown setting\n    set it in env_cfg.dist_cfg"),
        ("env_cfg = dict(seed=1)", "env_cfg.seed: unknown setting\n    set it in randomness"),
        ("strategy = dict(type='FSDPStrategy')", "strategy.type: 'FSDPStrategy' is not registered as a strategy\n    use 'FSDP2'"),
        ("runner_type = 'FlexibleRunner'", "runner_type: 'FlexibleRunner' is not registered as a runner\n    use 'Runner'"),
        (
            "default_hooks = dict(logger=dict(backend_args=dict()))",
            "default_hooks.logger.backend_args: LoggerHook takes no such argument\n    logs are written to the file system",
        ),
        ("compile = 'yes'", "compile: must be bool |"),
        ("model_wrapper_cfg = dict(type='MMFullySharded')", "model_wrapper_cfg.type: 'MMFullySharded' is not registered as a model_wrapper"),
        ("tta_model = dict(type='NoSuchTTA')", "tta_model.type: 'NoSuchTTA' is not registered"),
        ("runner_type = 'Runer'", "runner_type: 'Runer' is not registered as a runner"),
    ],
)  # fmt: skip
def test_settings_that_are_not_parts(mistakes: Any, monkeypatch: pytest.MonkeyPatch, more: str, expected: str) -> None:
    for registry in (STRATEGIES, RUNNERS):  # other tests import trainwright.compat, which registers those of MMEngine
        members = registry.module_dict.items()
        own = {name: member for name, member in members if ".compat." not in member.__module__}
        monkeypatch.setattr(registry, "_module_dict", own)
        monkeypatch.setattr(registry, "_locations", [each for each in registry._locations if ".compat" not in each])
    (mistake,) = mistakes(more=f"{more}\n")
    assert mistake.startswith(f"my.py:18: {expected}")


def test_an_optimizer_may_name_its_parameters_differently(mistakes: Any) -> None:
    @OPTIMIZERS.register_module()
    class Descent(SGD):
        def __init__(self, weights: Any, lr: float) -> None:
            super().__init__(weights, lr=lr)

    try:
        assert mistakes(("type='SGD', lr=0.1", "type='Descent', lr=0.1")) == []
        assert mistakes(("type='SGD', lr=0.1", "type='Descent'")) == [
            "my.py:11: optim_wrapper.optimizer.lr: Descent requires this argument"
        ]
        wrapper = build_optim_wrapper(nn.Linear(1, 1), dict(optimizer=dict(type="Descent", lr=0.1)))
        assert isinstance(wrapper.optimizer, Descent)
    finally:
        OPTIMIZERS.module_dict.pop("Descent")


def test_an_argument_left_over_from_the_type_of_a_base_names_delete(in_tmp: Path) -> None:
    child = "_base_ = 'base.py'\noptim_wrapper = dict(optimizer=dict(type='Adagrad'%s))\n"
    (in_tmp / "base.py").write_text(GOOD.replace("lr=0.1", "lr=0.1, momentum=0.9"))

    def find(more: str, **options: Any) -> list[str]:
        (in_tmp / "child.py").write_text(child % more)
        config = Config.fromfile("child.py")
        config.merge_from_dict({key.replace("__", "."): value for key, value in options.items()}, origin=COMMAND_LINE)
        return [str(error) for error in check(config)]

    [error] = find("")
    assert "base.py:11: optim_wrapper.optimizer.momentum: Adagrad takes no such argument" in error
    assert "it is inherited: set `_delete_=True`" in error
    assert find(", _delete_=True, lr=0.1") == []
    [error] = find(", _delete_=True, lr=0.1, momentum=0.1")  # set next to the type
    assert "_delete_" not in error
    [error] = find(", _delete_=True, lr=0.1", param_scheduler__0__type="ExponentialLR")[:1]
    assert "param_scheduler.0.step_size" in error and "_delete_=True" in error
    (in_tmp / "base.py").write_text(GOOD)
    (in_tmp / "child.py").write_text("_base_ = 'base.py'\noptim_wrapper = dict(optimizer=dict(momentun=0.9))\n")
    [error] = [str(error) for error in check(Config.fromfile("child.py"))]  # a mistake of the child
    assert "did you mean 'momentum'" in error and "_delete_" not in error


def test_several_optimizers_need_a_constructor(mistakes: Any) -> None:
    one = "optim_wrapper = dict(optimizer=dict(type='SGD', lr=0.1))"
    two = "optim_wrapper = dict(a=dict(optimizer=dict(type='SGD', lr=0.1)), b=dict(optimizer=dict(type='SDG')){})"
    several = mistakes((one, two.format("")))
    assert len(several) == 2
    assert "optim_wrapper: optimizers are configured by name (a, b), but the 'constructor'" in several[0]
    assert "optim_wrapper=dict(constructor='MultiOptimWrapperConstructor', a=dict(...), ...)" in several[0]
    assert "optim_wrapper.b.optimizer.type: 'SDG' is not registered" in several[1]


def test_a_custom_constructor_may_read_any_key(mistakes: Any) -> None:
    @OPTIM_WRAPPER_CONSTRUCTORS.register_module()
    class TwoRates:
        def __init__(self, optim_wrapper_cfg: Any, paramwise_cfg: Any = None) -> None: ...

    try:
        one = "optim_wrapper = dict(optimizer=dict(type='SGD', lr=0.1))"
        assert mistakes((one, "optim_wrapper = dict(constructor='TwoRates', rates=[0.1, 0.2])")) == []
    finally:
        OPTIM_WRAPPER_CONSTRUCTORS.module_dict.pop("TwoRates")


def test_a_hook_whose_module_cannot_be_imported_is_reported(in_tmp: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (in_tmp / "broken_hooks.py").write_text("import a_package_that_is_not_there\n")
    monkeypatch.syspath_prepend(str(in_tmp))
    [mistake] = check(Config(dict(model=dict(type="torch.nn.Identity"), custom_hooks=[dict(type="broken_hooks.Mine")])))
    assert mistake.path == "custom_hooks.0.type" and "cannot be imported" in mistake.message


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ([("num_classes=10", "num_classes=9")], ["my.py:3: model.backbone.num_classes: 9, but train_dataloader.dataset has 10"]),
        ([("num_classes=10", "num_classes=11")], []),
        ([("split='test'", "split='test', metainfo=dict(classes=('Bag', 'Boot'))")], ["val_dataloader.dataset.metainfo.classes: has other classes than train_dataloader"]),
        ([("split='test'", "split='test', metainfo=dict(classes=('Bag', 'Coat'))")], []),
        ([("split='train'", "split='train', metainfo=dict(classes=('T-shirt/top', 'Trouser'))")], []),
        ([("split='train'", "split='train', metainfo=dict(keypoints=('a', 'b'), flip_indices=(0, 0))")], ["train_dataloader.dataset.metainfo: metainfo['flip_indices'] must"]),
    ],
)  # fmt: skip
def test_numbers_that_contradict_each_other(mistakes: Any, changes: Any, expected: list[str]) -> None:
    found = mistakes(*changes)
    assert len(found) == len(expected)
    assert all(each in message for each, message in zip(expected, found)), found


def test_ambiguous_numbers_are_not_compared(mistakes: Any) -> None:
    two = "dict(type='LeNet', num_classes=10), head=dict(type='LinearClsHead', num_classes=5, in_channels=10)"
    assert mistakes(("dict(type='LeNet', num_classes=10)", two)) == []


@pytest.fixture
def library() -> Iterator[Registry]:
    """Register a library whose classes build what they nest by themselves, as those of OpenMMLab do."""
    scope = Registry("model", parent=MODELS, scope="fakelab")

    @scope.register_module()
    class FakeDetector(nn.Module):
        def __init__(
            self, head: Any, data_preprocessor: Any = None, width: str = "", op: str = "", **kwargs: Any
        ) -> None: ...

    @scope.register_module()
    class FakeHead(nn.Module):
        def __init__(self, num_classes: int, loss_cls: Any = None) -> None: ...

    yield scope
    del MODELS.children["fakelab"]


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("", "", []),
        ("x=1, width=''", "anything_else=2, width=3", []),  # the class takes other arguments, and annotations are often wrong
        ("num_classes=10, ", "", []),  # the outer class may add it
        ("num_classes=10", "num_classes=10, conv_cfg=dict(type='Whatever', layers=[1])", []),  # the outer class may take it away
        ("type='Whatever'", "type='FakeHeda'", ["my.py:1: model.head.loss_cls.type: 'FakeHeda' is not registered as a model"]),
        ("type='FakeHead'", "type='FakeHaed'", ["my.py:1: model.head.type: 'FakeHaed' is not registered as a model"]),
        ("num_classes=10", "num_clases=10", ["my.py:1: model.head.num_clases: FakeHead takes no such argument"]),
        ("x=1", "op='Flip', p=1", []),  # an argument of another class
        ("x=1", "po='Flip'", ["my.py:1: model.po: FakeDetector takes no such argument"]),
        ("width=''", "widht=''", ["my.py:1: model.widht: FakeDetector takes no such argument"]),
        ("std=[1.0]", "std=[1.0]), optional=dict(typ='FakeHead'", ["my.py:1: model.optional: this part has no 'type'"]),
    ],
)  # fmt: skip
def test_classes_of_other_libraries_build_what_they_nest(
    mistakes: Any, library: Registry, old: str, new: str, expected: list[str]
) -> None:
    model = (
        "model = dict(type='FakeDetector', x=1, width='', data_preprocessor=dict(mean=[0.0], std=[1.0]), "
        "head=dict(type='FakeHead', num_classes=10, loss_cls=dict(type='Whatever')))\n"
    )
    assert old in model
    whole = model.replace(old, new, 1) + "default_scope = 'fakelab'\n" + GOOD[GOOD.index("train_dataloader") :]
    found = mistakes((GOOD, whole))
    assert [message.splitlines()[0] for message in found] == expected
