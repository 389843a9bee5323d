"""BaseModule: the order of initialization, and its log."""

from pathlib import Path

import pytest
import torch
from torch import nn

from trainwright.engine.records.logger import MMLogger
from trainwright.engine.run.model_setup import initialize_model
from trainwright.models import BaseModule, ModuleDict, ModuleList, Sequential


def constant(value: float, layer: str = "Linear") -> dict[str, object]:
    return {"type": "Constant", "layer": layer, "val": value, "bias": value}


class Net(BaseModule):
    def __init__(self, init_cfg: object = None) -> None:
        super().__init__(init_cfg)  # type: ignore[arg-type]
        self.own = nn.Linear(2, 2)
        self.sub = Sequential(nn.Linear(2, 2), init_cfg=constant(5))


def test_the_inner_config_wins() -> None:
    net = Net(constant(1))
    net.init_weights()
    assert net.own.weight.unique().tolist() == [1]
    assert net.sub[0].weight.unique().tolist() == [5]
    assert net.is_init
    assert net.sub.is_init


def test_pretrained_comes_last(tmp_path: Path) -> None:
    file = tmp_path / "weights.pth"
    torch.save({"state_dict": {"sub.0.weight": torch.full((2, 2), 9.0)}}, file)
    net = Net([{"type": "Pretrained", "checkpoint": str(file)}, constant(1)])
    net.init_weights()
    assert net.own.weight.unique().tolist() == [1]
    assert net.sub[0].weight.unique().tolist() == [9]
    assert net.sub[0].bias.unique().tolist() == [5]


def test_children_that_are_initialized_stay_as_they_are() -> None:
    net = Net()
    net.sub.is_init = True
    before = net.sub[0].weight.clone()
    net.init_weights()
    assert torch.equal(net.sub[0].weight, before)


def test_a_second_call_warns_and_changes_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    net = Net(constant(1))
    net.init_weights()
    with torch.no_grad():
        net.own.weight.fill_(2)
    with MMLogger.set_current(MMLogger("second_call")):
        net.init_weights()
    assert net.own.weight.unique().tolist() == [2]
    assert "init_weights of Net was called more than once" in capsys.readouterr().out


def test_the_log_names_the_init_cfgs_and_their_modules(capsys: pytest.CaptureFixture[str]) -> None:
    net = Net(constant(1))
    net.again = Sequential(nn.Linear(2, 2), init_cfg=constant(5))
    with MMLogger.set_current(MMLogger("init_log")):
        initialize_model(net)
    lines = [line for line in capsys.readouterr().out.splitlines() if "initialized by" in line]
    assert len(lines) == 2
    assert "Net: " in lines[0] and "'val': 1" in lines[0]
    assert "sub and 1 more: " in lines[1] and "'val': 5" in lines[1]


def test_parameters_must_not_be_replaced_while_initializing() -> None:
    class Replacing(BaseModule):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(1))

        def init_weights(self) -> None:
            self.weight = nn.Parameter(torch.ones(1))

    with pytest.raises(ValueError, match=r"0\.weight"):
        initialize_model(Sequential(Replacing()))


def test_containers() -> None:
    layers = [nn.Linear(2, 3), nn.Linear(3, 4)]
    sequential = Sequential(*layers, init_cfg=constant(1))
    module_list = ModuleList(layers, init_cfg=constant(2))
    module_dict = ModuleDict({"a": layers[0]}, init_cfg=constant(3))
    assert sequential(torch.zeros(5, 2)).shape == (5, 4)
    assert list(module_list.state_dict()) == ["0.weight", "0.bias", "1.weight", "1.bias"]
    assert list(module_dict.state_dict()) == ["a.weight", "a.bias"]
    for value, container in enumerate((sequential, module_list, module_dict), 1):
        container.init_weights()
        assert layers[0].weight.unique().tolist() == [value]
        assert f"init_cfg={constant(value)}" in repr(container)


def test_a_subclass_from_mmengine_asks_for_its_log_of_parameters() -> None:
    class Translation(Net):
        def init_weights(self) -> None:
            super().init_weights()
            super()._dump_init_info()

    model = Translation(dict(type="Constant", val=1, layer="Linear"))
    model.init_weights()
    assert model.is_init
