"""The wrapper for distributed training, here with a single process."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import distributed, nn

from trainwright.engine.optim.wrapper import OptimWrapper
from trainwright.engine.registry import MODEL_WRAPPERS
from trainwright.models import (
    MMDistributedDataParallel,
    ModuleWrapper,
    detect_anomalous_params,
    is_model_wrapper,
)


@pytest.fixture
def process_group(tmp_path: Path) -> Iterator[None]:
    distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


@pytest.mark.usefixtures("process_group")
def test_the_steps_are_those_of_the_model() -> None:
    torch.manual_seed(0)
    inputs, labels = torch.randn(8, 3), torch.randint(0, 2, (8,))
    model, other = ModuleWrapper(nn.Linear(3, 2)), ModuleWrapper(nn.Linear(3, 2))
    other.load_state_dict(model.state_dict())
    wrapped = MODEL_WRAPPERS.build({"type": "MMDistributedDataParallel", "module": model})
    assert isinstance(wrapped, MMDistributedDataParallel)
    assert is_model_wrapper(wrapped)
    wrappers = [OptimWrapper(torch.optim.SGD(m.parameters(), lr=0.1), accumulative_counts=2) for m in (model, other)]
    for batch in ([inputs, labels], {"inputs": inputs, "data_samples": labels}) * 2:
        one = wrapped.train_step(batch, wrappers[0])
        two = other.train_step(batch, wrappers[1])
        assert torch.equal(one["loss"], two["loss"])
    assert torch.equal(model.network.weight, other.network.weight)
    assert torch.equal(wrapped.val_step([inputs, labels]).pred_score, other.val_step([inputs, labels]).pred_score)
    assert torch.equal(wrapped.test_step([inputs, labels]).pred_score, other.test_step([inputs, labels]).pred_score)
    predictions, losses = wrapped.val_step([inputs, labels], with_loss=True)
    assert predictions.pred_label.shape == (8,)
    assert losses["loss"].shape == ()
    assert wrapped.network is model.network  # hooks find the parts of a model where they are in one process
    assert not hasattr(wrapped, "netwrok")


@pytest.mark.usefixtures("process_group")
def test_parameters_without_part_in_the_loss_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    network = nn.Linear(3, 2)
    network.unused = nn.Linear(1, 1)
    wrapped = MMDistributedDataParallel(
        ModuleWrapper(network), detect_anomalous_params=True, find_unused_parameters=True
    )
    optim_wrapper = OptimWrapper(torch.optim.SGD(wrapped.parameters(), lr=0.1))
    wrapped.train_step([torch.randn(4, 3), torch.zeros(4, dtype=torch.long)], optim_wrapper)
    loss = network(torch.randn(4, 3)).sum()
    assert detect_anomalous_params(loss, network) == ["unused.weight", "unused.bias"]
