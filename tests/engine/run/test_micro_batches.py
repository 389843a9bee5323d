"""Training batches in parts that do not fit into memory as a whole."""

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_runs import Line, Points, files_in, log_of, make_runner, weights_of
from torch import Tensor, nn

from trainwright.engine.errors import ConfigError, TrainingError
from trainwright.engine.optim.wrapper import OptimWrapper
from trainwright.engine.optim.wrapper_dict import OptimWrapperDict
from trainwright.engine.run.micro_batches import num_samples, slice_batch
from trainwright.engine.structures.sample import DataSample

HALVE = dict(by_epoch=True, max_epochs=2, halve_batch_on_oom=True)


class Small(Line):
    """A model with memory for only a few samples, which fails in the middle of a forward pass like a device."""

    def __init__(self, room: int, from_iteration: int = 0) -> None:
        super().__init__()
        self.room = room
        self.steps = 0
        self.from_iteration = from_iteration
        self.sizes: list[int] = []
        self.error: type[Exception] = torch.OutOfMemoryError

    def forward(self, inputs: Tensor) -> Tensor:
        output = super().forward(inputs)
        self.steps += 1
        if len(inputs) > self.room and self.steps > self.from_iteration:
            raise self.error("out of memory. Tried to allocate 2.00 GiB")
        self.sizes.append(len(inputs))
        return output


def run(folder: Path, model: nn.Module, **options: Any) -> Any:
    options = {"train_cfg": HALVE, "dataset": Points(24), "batch_size": 8, **options}
    runner = make_runner(folder, model=model, **options)
    runner.train()
    return runner


@pytest.mark.parametrize("counts", [1, 2])
def test_a_batch_in_parts_makes_the_update_of_the_whole(tmp_path: Path, counts: int) -> None:
    window = dict(accumulative_counts=counts)
    whole = run(tmp_path / "whole", Line(), optim_wrapper=window)
    parts = run(tmp_path / "parts", Small(room=2), optim_wrapper=window)
    assert parts.model.sizes == [2] * 24
    assert parts.optim_wrapper.inner_count == whole.optim_wrapper.inner_count == 6
    for name, value in weights_of(whole).items():
        torch.testing.assert_close(value, weights_of(parts)[name], rtol=1e-5, atol=1e-6)
    losses = [runner.message_hub.get_scalar("train/loss").data[0] for runner in (whole, parts)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    assert "batches are trained in 4 parts" in log_of(parts)


def test_uneven_parts_are_weighted_by_their_samples(tmp_path: Path) -> None:
    options = dict(dataset=Points(7), batch_size=5, train_dataloader=dict(sampler=dict(type="DefaultSampler", shuffle=False)))  # fmt: skip
    whole, parts = run(tmp_path / "a", Line(), **options), run(tmp_path / "b", Small(room=2), **options)
    assert (
        parts.model.sizes == [2] + [1, 1, 1, 2, 1, 1] * 2
    )  # the first is half of a batch whose other half did not fit
    for name, value in weights_of(whole).items():
        torch.testing.assert_close(value, weights_of(parts)[name], rtol=1e-5, atol=1e-6)


def test_it_goes_on_in_parts_after_a_resume(tmp_path: Path) -> None:
    first = run(tmp_path, Small(room=4), checkpoint=dict(interval=1))
    longer = run(tmp_path, Small(room=4), resume=True, train_cfg={**HALVE, "max_epochs": 3})
    assert first.state.micro_batches == longer.state.micro_batches == 2
    assert longer.model.sizes == [4] * 6
    assert "out of memory" not in log_of(longer)


def test_without_the_switch_the_error_tells_what_helps_and_nothing_is_lost(tmp_path: Path) -> None:
    model = Small(room=4, from_iteration=4)
    with pytest.raises(torch.OutOfMemoryError) as caught:
        run(tmp_path, model, train_cfg=dict(by_epoch=True, max_epochs=2))
    (note,) = (text for text in caught.value.__notes__ if "iteration 5" in text)
    assert all(word in note for word in ("batch_size", "accumulative_counts", "--amp", "activation_checkpointing"))
    assert files_in(tmp_path) == ["iter_4.pth"]
    resumed = run(tmp_path, Line(), train_cfg=dict(by_epoch=True, max_epochs=2), resume=True)
    whole = run(tmp_path / "whole", Line(), train_cfg=dict(by_epoch=True, max_epochs=2))
    assert all(torch.equal(value, weights_of(resumed)[name]) for name, value in weights_of(whole).items())


def test_a_single_sample_that_does_not_fit_and_other_errors_end_the_run(tmp_path: Path) -> None:
    with pytest.raises(torch.OutOfMemoryError, match="Tried to allocate"):
        run(tmp_path / "a", Small(room=0))
    model = Small(room=2)
    model.error = RuntimeError
    with pytest.raises(RuntimeError) as caught:
        run(tmp_path / "b", model)
    assert model.steps == 1
    assert not any("memory" in note for note in getattr(caught.value, "__notes__", []))


class StepFails(torch.optim.SGD):
    """An optimizer that runs out of memory after it has changed a parameter."""

    def step(self, closure: Any = None) -> None:
        super().step(closure)
        raise torch.OutOfMemoryError("for the state of the optimizer")


def test_a_step_of_the_optimizer_is_not_repeated(tmp_path: Path) -> None:
    model = Line()
    with pytest.raises(torch.OutOfMemoryError, match="state of the optimizer"):
        run(tmp_path, model, optim_wrapper=dict(optimizer=StepFails(model.parameters(), lr=0.1)))
    assert len(model.seen) == 1
    assert files_in(tmp_path) == []


class UpdatesTwice(Small):
    def train_step(self, data: Any, optim_wrapper: Any) -> dict[str, Tensor]:
        super().train_step(data, optim_wrapper)
        return super().train_step(data, optim_wrapper)


def test_a_model_that_updates_in_another_way_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="UpdatesTwice called optim_wrapper.update_params 2 times"):
        run(tmp_path, UpdatesTwice(room=4))


def test_several_optimizers_are_refused(tmp_path: Path) -> None:
    model = Line()
    runner = make_runner(tmp_path, model=model, train_cfg=HALVE)
    runner.optim_wrapper = OptimWrapperDict(fc=OptimWrapper(torch.optim.SGD(model.fc.parameters(), lr=0.1)))
    with pytest.raises(ConfigError, match="single optimizer"):
        runner.train()


@pytest.mark.parametrize(
    "batch",
    [
        {"inputs": torch.arange(6), "data_samples": list(range(6))},
        {"inputs": [torch.arange(3)] * 6, "data_samples": DataSample.batch([DataSample().set_gt_label(i) for i in range(6)])},
        [torch.arange(6), torch.arange(6)],
        ({"image": torch.arange(6), "text": list("abcdef")}, torch.arange(6)),
    ],
)  # fmt: skip
def test_batches_of_every_shape_are_cut(batch: Any) -> None:
    assert num_samples(batch) == 6
    part = slice_batch(batch, 1, 3)
    assert type(part) is type(batch)
    assert num_samples(part) == 2


SAMPLES = [DataSample().set_gt_label(i) for i in range(5)]


@pytest.mark.parametrize(
    ("batch", "size"),
    [
        ({"inputs": torch.zeros(5, 3), "data_samples": None}, 5),
        ({"data_samples": None, "weight": 0.5, "inputs": [torch.zeros(3)] * 4}, 4),
        ({"data_samples": None, "name": "a file", "image": torch.zeros(6)}, 6),
        ({"inputs": {"text": torch.zeros(3, 9), "image": torch.zeros(3, 2, 2)}}, 3),
        ({"data_samples": SAMPLES}, 5),
        ({"data_samples": DataSample.batch(SAMPLES)}, 5),
        ([torch.zeros(7, 2), torch.zeros(7)], 7),
        ((torch.zeros(3, 2), torch.zeros(3)), 3),
        ([[torch.zeros(3, 8, 8)] * 4, [{"boxes": torch.zeros(2, 4)}] * 4], 4),
        (([torch.zeros(3, 8, 8)] * 4, [{"boxes": torch.zeros(2, 4)}] * 4), 4),
        ([{"image": torch.zeros(6, 3)}, {"label": torch.zeros(6)}], 6),
        ([{"image": torch.zeros(3, 8, 8), "label": 1}] * 5, 5),
        (SAMPLES, 5),
        (torch.zeros(2, 9), 2),
        ([1, 2, 3], 3),
        (None, 0),
        (object(), 1),
    ],
)
def test_the_samples_of_a_batch_are_counted(batch: Any, size: int) -> None:
    assert num_samples(batch) == size


def test_a_list_of_samples_is_cut_between_them() -> None:
    batch = [{"image": torch.zeros(3, 8, 8), "label": i} for i in range(5)]
    assert [sample["label"] for sample in slice_batch(batch, 1, 3)] == [1, 2]
    assert slice_batch(SAMPLES, 1, 3) == SAMPLES[1:3]
    assert slice_batch(torch.arange(5), 1, 3).tolist() == [1, 2]


def test_what_cannot_be_cut_is_named() -> None:
    with pytest.raises(TrainingError, match="float"):
        slice_batch({"inputs": torch.arange(6), "temperature": 0.5}, 0, 3)
