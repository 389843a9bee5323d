"""The message hub, which does not wait for the device until values are read."""

import io
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from trainwright.engine.records.history import HistoryBuffer
from trainwright.engine.records.message_hub import MessageHub


class CountOps(TorchDispatchMode):
    """A mode that counts the operations that reach the dispatcher, by name."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: dict[str, int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        self.counts[name] = self.counts.get(name, 0) + 1
        return func(*args, **(kwargs or {}))


def through_file(state: Any) -> Any:
    buffer = io.BytesIO()
    torch.save(state, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=True)


def test_values_of_every_kind() -> None:
    hub = MessageHub("test")
    for value in (
        1,
        2.0,
        np.float32(3.0),
        np.array([4.0]),
        torch.tensor(5.0),
        torch.tensor([6.0]),
        torch.tensor(7),
    ):
        hub.update_scalar("x", value)
    assert list(hub.get_scalar("x").data[0]) == [1, 2, 3, 4, 5, 6, 7]


def test_floats_and_tensors_keep_their_order() -> None:
    hub = MessageHub("test")
    for step in range(4):
        hub.update_scalar("a", torch.tensor(float(step)) if step % 2 else float(step))
        hub.update_scalar("b", torch.tensor(10.0 * step))
    assert list(hub.get_scalar("a").data[0]) == [0.0, 1.0, 2.0, 3.0]
    assert list(hub.get_scalar("b").data[0]) == [0.0, 10.0, 20.0, 30.0]


def test_mixed_dtypes_stay_exact() -> None:
    hub = MessageHub("test")
    hub.update_scalar("count", torch.tensor(2**24 + 1))
    hub.update_scalar("loss", torch.tensor(0.1))
    hub.update_scalar("half", torch.tensor(0.1, dtype=torch.bfloat16))
    assert hub.get_scalar("count").current() == 2**24 + 1
    assert hub.get_scalar("loss").current() == torch.tensor(0.1).item()
    assert hub.get_scalar("half").current() == torch.tensor(0.1, dtype=torch.bfloat16).item()


def test_a_tensor_is_kept_without_its_graph() -> None:
    hub = MessageHub("test")
    weight = torch.tensor(2.0, requires_grad=True)
    hub.update_scalar("loss", weight * 3)
    (waiting,) = hub.series("loss").pending
    assert waiting.grad_fn is None and not waiting.requires_grad


def test_values_are_not_read_before_they_are_needed() -> None:
    hub = MessageHub("test")
    losses = [torch.tensor(float(step)) for step in range(20)]
    with CountOps() as ops:
        for step, loss in enumerate(losses):
            hub.update_scalar("train/loss", loss)
            hub.update_scalar("train/acc", loss)
            hub.update_scalar("train/time", 0.1)
            hub.update_info("iter", step)
        assert ops.counts == {}
        assert hub.has_pending
        assert hub.get_scalar("train/acc").current() == 19.0
        assert hub.log_scalars["train/loss"].mean(2) == 18.5
        assert not hub.has_pending


def test_the_number_of_pending_values_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MessageHub, "_PENDING_LIMIT", 8)
    hub = MessageHub("test")
    for step in range(100):
        hub.update_scalar("loss", torch.tensor(float(step)))
        assert len(hub.series("loss").pending) < 8
    assert hub.get_scalar("loss").total_length == 100


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_does_not_wait_before_reading() -> None:
    hub = MessageHub("test")
    mode = torch.cuda.get_sync_debug_mode()
    losses = [torch.tensor(float(step), device="cuda") for step in range(10)]
    torch.cuda.set_sync_debug_mode("error")
    try:
        for loss in losses:
            hub.update_scalar("loss", loss)
    finally:
        torch.cuda.set_sync_debug_mode(mode)
    hub.update_scalar("rate", 0.1)
    hub.update_scalar("on_the_host", torch.tensor(3.0))
    with CountOps() as ops:
        assert hub.get_scalar("loss").mean() == 4.5
    assert ops.counts["stack"] == 1 and "cat" not in ops.counts
    assert hub.get_scalar("on_the_host").current() == 3.0


def test_a_series_stays_valid_as_long_as_the_hub() -> None:
    hub = MessageHub("test")
    loss = hub.series("train/loss")
    assert hub.log_scalars == {} and hub.state_dict()["log_scalars"] == {}
    with pytest.raises(KeyError, match="none yet"):
        hub.get_scalar("train/loss")
    loss.add(torch.tensor(1.0))
    loss.add(3.0)
    state = through_file(hub.state_dict())
    loss.add(100.0)
    hub.load_state_dict(state)
    loss.add(5.0)
    assert hub.get_scalar("train/loss").data[0].tolist() == [1.0, 3.0, 5.0]
    assert hub.series("train/loss") is loss


def test_update_scalars() -> None:
    hub = MessageHub("test")
    hub.update_scalars({"loss": {"value": 6.0, "count": 3}, "acc": 0.5})
    assert hub.get_scalar("loss").mean() == 2.0
    assert hub.get_scalar("acc").mean() == 0.5
    with pytest.raises(ValueError, match="loss has no 'value'"):
        hub.update_scalars({"loss": {"count": 3}})


def test_values_that_are_not_scalars_are_rejected() -> None:
    hub = MessageHub("test")
    with pytest.raises(ValueError, match=r"loss .*\(2,\)"):
        hub.update_scalar("loss", torch.zeros(2))
    with pytest.raises(ValueError, match=r"loss .*\(3,\)"):
        hub.update_scalar("loss", np.zeros(3))
    with pytest.raises(TypeError, match="loss is a str, not a number"):
        hub.update_scalar("loss", "0.1")


def test_infos() -> None:
    hub = MessageHub("test")
    hub.update_info("epoch", 3)
    hub.update_info_dict({"iter": 5, "names": ["a"]})
    assert hub.get_info("epoch") == 3
    assert hub.get_info("absent", "default") == "default"
    assert hub.pop_info("iter") == 5
    assert hub.pop_info("iter") is None
    assert hub.runtime_info == {"epoch": 3, "names": ["a"]}


def test_the_error_for_an_unknown_scalar_lists_the_known_ones() -> None:
    hub = MessageHub("test")
    with pytest.raises(KeyError, match="none yet"):
        hub.get_scalar("x")
    hub.update_scalar("train/loss", 1.0)
    with pytest.raises(KeyError, match="did you mean 'train/loss'"):
        hub.get_scalar("train/los")


def test_resumed_may_not_change() -> None:
    hub = MessageHub("test")
    hub.update_scalar("loss", 1.0, resumed=False)
    hub.update_info("tmp", 1, resumed=False)
    with pytest.raises(ValueError, match="loss was updated with resumed=False before"):
        hub.update_scalar("loss", 1.0)
    with pytest.raises(ValueError, match="tmp was updated with resumed=False before"):
        hub.update_info("tmp", 1)


def test_state_goes_through_a_safe_file() -> None:
    hub = MessageHub("test")
    for step in range(5):
        hub.update_scalar("train/loss", torch.tensor(float(step)), count=2)
        hub.update_scalar("train/tmp", 1.0, resumed=False)
    hub.update_info("epoch", 3)
    hub.update_info("dataset_meta", {"classes": ("cat", "dog"), "palette": np.array([[1, 2, 3]]), "size": np.int64(7)})
    hub.update_info("tmp", 1, resumed=False)
    hub.update_info("odd", object())

    other = MessageHub("other")
    other.load_state_dict(through_file(hub.state_dict()))
    history = other.get_scalar("train/loss")
    assert history.mean() == 1.0 and history.total_length == 5 and history.max() == 4.0
    assert set(other.log_scalars) == {"train/loss"}
    meta = other.get_info("dataset_meta")
    assert meta["classes"] == ("cat", "dog") and meta["size"] == 7
    assert torch.equal(meta["palette"], torch.tensor([[1, 2, 3]]))
    assert other.get_info("epoch") == 3
    assert other.get_info("tmp") is None and other.get_info("odd") is None
    other.update_scalar("train/loss", 5.0)
    assert other.get_scalar("train/loss").total_length == 6


def test_totals_of_a_long_run_survive_a_checkpoint() -> None:
    hub = MessageHub("test")
    hub.update_scalar("loss", 1000.0)
    hub.get_scalar("loss").extend([1.0] * 20_000, [1] * 20_000)
    other = MessageHub("other")
    other.load_state_dict(through_file(hub.state_dict()))
    history = other.get_scalar("loss")
    assert len(history) == 10_000 and history.max() == 1000.0 and history.mean() == 21_000 / 20_001


def test_state_of_mmengine() -> None:
    stored = SimpleNamespace(_log_history=np.array([1.0, 2.0]), _count_history=np.array([1, 3]), max_length=1000000)
    state = {
        "log_scalars": {"train/loss": stored, "train/acc": vars(stored), "train/odd": 3},
        "runtime_info": {"epoch": 4},
        "resumed_keys": {"train/loss": True, "epoch": True},
    }
    hub = MessageHub("test")
    hub.load_state_dict(state)
    assert hub.get_scalar("train/loss").mean() == 0.75
    assert hub.get_scalar("train/acc").current() == 2.0
    assert "train/odd" not in hub.log_scalars
    assert hub.get_info("epoch") == 4


def test_another_state_is_rejected() -> None:
    with pytest.raises(ValueError, match="log_scalars, resumed_keys missing"):
        MessageHub("test").load_state_dict({"runtime_info": {}})


def test_state_of_another_hub() -> None:
    hub, other = MessageHub("one"), MessageHub("other")
    hub.update_scalar("loss", 2.0)
    other.load_state_dict(hub)
    hub.update_scalar("loss", 4.0)
    assert other.get_scalar("loss").mean() == 2.0
    assert hub.get_scalar("loss").mean() == 3.0


def test_current_instance_of_two_runs() -> None:
    outside = MessageHub.get_current_instance()
    one, two = MessageHub("one"), MessageHub("two")
    with MessageHub.set_current(one):
        assert MessageHub.get_current_instance() is one
        assert MessageHub.get_instance("one") is one
        with MessageHub.set_current(two):
            assert MessageHub.get_current_instance() is two
        assert MessageHub.get_current_instance() is one
    assert MessageHub.get_current_instance() is outside


def test_named_instances(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MessageHub, "_instance_dict", {})
    assert not MessageHub.check_instance_created("mine")
    mine = MessageHub.get_instance("mine")
    assert MessageHub.get_instance("mine") is mine
    assert MessageHub.check_instance_created("mine")
    assert mine.instance_name == "mine"
    assert MessageHub.get_current_instance() is mine


def test_the_sum_does_not_depend_on_how_values_are_batched() -> None:
    values = [0.1 * number for number in range(1, 30)]
    sums = set()
    for split in range(1, len(values)):
        history = HistoryBuffer(values[:split], [1] * split)
        history.extend(values[split:], [1] * (len(values) - split))
        sums.add(history.state_dict()["sum"])
    assert len(sums) == 1


def test_numbers_of_numpy_become_plain_ones_which_a_safe_load_accepts() -> None:
    hub = MessageHub("test")
    hub.update_scalar("val/score", np.float64(0.5))
    assert type(hub.get_scalar("val/score").max()) is float
    stored = hub.state_dict()["log_scalars"]["val/score"]
    assert {type(stored[name]) for name in ("sum", "min", "max")} == {float}
