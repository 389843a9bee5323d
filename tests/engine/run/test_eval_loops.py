"""Results of the validation and test loops."""

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_runs import Line, Points, Scripted
from torch import Tensor

from trainwright.engine.errors import ConfigError
from trainwright.engine.run.runner import Runner
from trainwright.engine.structures.elements import BaseDataElement
from trainwright.models.base import BaseModel


class Regression(BaseModel):
    def __init__(self) -> None:
        super().__init__()
        self.line = Line()

    def forward(self, inputs: Tensor, targets: Tensor, mode: str = "tensor") -> Any:
        output = self.line(inputs)
        return {"loss": torch.nn.functional.mse_loss(output, targets)} if mode == "loss" else list(output)


@pytest.mark.parametrize("mode", ["val", "test"])
def test_the_losses_of_an_evaluation(tmp_path: Path, mode: str) -> None:
    def runner(model: Any) -> Runner:
        parts = {
            f"{mode}_dataloader": dict(dataset=Points(4), batch_size=4, collate_fn="default_collate"),
            f"{mode}_evaluator": Scripted(acc=[1]),
            f"{mode}_cfg": dict(with_loss=True),
        }
        return Runner(model=model, work_dir=str(tmp_path), **parts)

    model = Regression()
    with torch.no_grad():
        loss = torch.nn.functional.mse_loss(model.line(Points(4).inputs), Points(4).targets)
    assert getattr(runner(model), mode)() == {"acc": 1, "loss": pytest.approx(float(loss))}
    with pytest.raises(ConfigError, match=f"{mode}_cfg.with_loss: {mode}_step of Line .*with_loss"):
        getattr(runner(Line()), mode)()


class WithLosses(Line):
    """A model that returns losses beside its predictions, as some models written for MMEngine do."""

    def val_step(self, data: Any) -> Any:
        inputs, _ = data
        losses = dict(loss_a=inputs.new_tensor(len(inputs)), acc=[inputs.new_tensor(0.5)] * 2)
        return [*inputs, BaseDataElement(loss=losses)]


def test_losses_beside_the_predictions(tmp_path: Path) -> None:
    class Counting(Scripted):
        def process(self, data_batch: Any, data_samples: Any) -> None:
            super().process(data_batch, data_samples)
            seen.append(len(data_samples))

    seen: list[int] = []
    runner = Runner(
        model=WithLosses(), work_dir=str(tmp_path), val_cfg={}, val_evaluator=Counting(top=[1, 1]),
        val_dataloader=dict(dataset=Points(6), batch_size=4, collate_fn="default_collate"),
    )  # fmt: skip
    assert runner.val() == runner.val() == {"top": 1, "loss_a": 3.0, "acc": 0.5, "val_loss": 3.0}
    assert seen == [4, 2, 4, 2] and runner.val_loop.val_loss["acc"].total_length == 4
