"""The choice of a strategy, and data parallel training."""

from pathlib import Path
from typing import Any

import pytest
from ranks import Ranks, run_ranks
from strategy_runs import Adversarial, AdversarialOptimizers, Net, config, difference, last_checkpoint, train, train_in
from torch import Tensor

from trainwright.engine.checking import check
from trainwright.engine.distributed import get_rank
from trainwright.engine.errors import ConfigError, TrainingError
from trainwright.engine.run.runner import Runner
from trainwright.engine.strategy.ddp import DDP

ACCUMULATION = {"optim_wrapper": {"accumulative_counts": 2}}


@pytest.mark.parametrize(
    ("strategy", "changes"),
    [
        ("auto", {"find_unused_parameters": True}),
        ("auto", {"model_wrapper_cfg": {"type": "DistributedDataParallel"}}),
        ({"type": "DDP", "static_graph": True, "gradient_as_bucket_view": True}, ACCUMULATION),
    ],
)
def test_data_parallel_training_equals_that_of_one_process(
    tmp_path: Path, strategy: Any, changes: dict[str, Any]
) -> None:
    one = train_in(tmp_path / "one", "auto", 1, **changes)
    assert difference(train_in(tmp_path / "two", strategy, 2, **changes), one) < 1e-6


ADVERSARIAL = {
    "model": {"type": Adversarial},
    "optim_wrapper": {"optimizer": None, "constructor": AdversarialOptimizers},
}


class OwnStep(Net):
    """A model that changes its losses in its own step."""

    def train_step(self, data: Any, optim_wrapper: Any) -> dict[str, Tensor]:
        losses = super().train_step(data, optim_wrapper)
        return {**losses, "loss_twice": losses["loss"] * 2}


@pytest.mark.parametrize(
    "changes",
    [
        ADVERSARIAL,
        {"model": {"type": OwnStep}, "find_unused_parameters": True, "optim_wrapper": {"accumulative_counts": 2}},
        {"model": {"type": OwnStep}, "optim_wrapper": {"type": "AmpOptimWrapper", "clip_grad": {"max_norm": 0.1}}},
    ],
)
def test_a_model_with_its_own_step_trains_as_in_one_process(tmp_path: Path, changes: dict[str, Any]) -> None:
    one = train_in(tmp_path / "one", "auto", 1, **changes)
    two = train_in(tmp_path / "two", "DDP", 2, **changes)
    assert two["state_dict"].keys() == one["state_dict"].keys()
    assert difference(two, one) < (2e-2 if "Amp" in str(changes) else 1e-6)


class Failing(OwnStep):
    """A model that fails in the fourth iteration of rank 1."""

    calls = 0

    def forward(self, inputs: Tensor, data_samples: Any = None, mode: str = "tensor") -> Any:
        self.calls += 1
        if self.calls == 4 and get_rank() == 1:
            raise ValueError("of rank 1")
        return super().forward(inputs, data_samples, mode)


def test_finished_iterations_of_a_model_with_its_own_step_are_saved_if_a_rank_fails(tmp_path: Path) -> None:
    cfg = config(tmp_path / "run", "DDP", 2, model={"type": Failing})
    assert Ranks(2, lambda: train(cfg), tmp_path / "ranks").wait() == [1, 1]
    assert last_checkpoint(tmp_path / "run")["meta"]["iter"] == 3


class OwnUpdate(Net):
    """A model that updates its weights without the wrapper of the optimizer."""

    def train_step(self, data: Any, optim_wrapper: Any) -> dict[str, Tensor]:
        loss = self(*data, mode="loss")["loss"]
        loss.backward()
        optim_wrapper.optimizer.step()
        return {"loss": loss}


def test_an_update_with_the_gradients_of_one_rank_is_refused(tmp_path: Path) -> None:
    def error() -> str:
        with pytest.raises(TrainingError) as info:
            train(config(tmp_path / "run", "DDP", model={"type": OwnUpdate}))
        return str(info.value)

    assert all("called SGD.step itself" in text for text in run_ranks(2, error, tmp_path / "ranks"))


def test_a_layer_outside_of_its_sharded_unit_is_explained(tmp_path: Path) -> None:
    def notes() -> list[str]:
        with pytest.raises(RuntimeError, match="DTensor") as info:
            train(config(tmp_path / "run", "FSDP2", **ADVERSARIAL))
        return list(info.value.__notes__)

    for found in run_ranks(2, notes, tmp_path / "ranks"):
        assert "add the modules that are called to strategy.wrap" in found[-1]


def test_settings_without_effect_on_a_model_with_its_own_step_are_refused(tmp_path: Path) -> None:
    settings: list[dict[str, Any]] = [
        {"strategy": {"type": "DDP", "static_graph": True}},
        {"strategy": {"type": "DDP", "comm_hook": "fp16_compress"}},
        {"model_wrapper_cfg": {"type": "MMDistributedDataParallel"}},
    ]

    def errors() -> list[str]:
        found = []
        for number, changes in enumerate(settings):
            with pytest.raises(ConfigError, match="has its own train_step") as info:
                train(config(tmp_path / str(number), **{"model": {"type": OwnStep}, "strategy": "DDP", **changes}))
            found.append(str(info.value).partition(":")[0])
        return found

    expected = ["strategy.static_graph", "strategy.comm_hook", "model_wrapper_cfg.type"]
    assert run_ranks(2, errors, tmp_path / "ranks") == [expected, expected]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("hook", "tolerance"),
    [
        ("bf16_compress", 1e-2),
        ("fp16_compress", 2e-3),
        ({"type": "powerSGD", "start_powerSGD_iter": 3, "matrix_approximation_rank": 2}, 0.5),
    ],
)
def test_communication_hooks_lose_some_precision(tmp_path: Path, hook: Any, tolerance: float) -> None:
    one = train_in(tmp_path / "one", "auto", 1)
    two = train_in(tmp_path / "two", {"type": "DDP", "comm_hook": hook}, 2)
    assert 1e-6 < difference(one, two) < tolerance


def test_a_run_knows_its_strategy_and_its_share_of_the_data(tmp_path: Path) -> None:
    runner = Runner.from_cfg(config(tmp_path, "DDP"))  # a single process
    assert type(runner.strategy).__name__ == "Single"
    assert (runner.strategy.data_rank, runner.strategy.data_size) == (0, 1)

    def facts() -> Any:
        runner = Runner.from_cfg({**config(tmp_path / "two"), "launcher": "pytorch"})
        sampler = runner.train_dataloader.sampler
        return type(runner.strategy).__name__, runner.strategy.data_rank, runner.strategy.data_size, len(sampler)

    assert run_ranks(2, facts, tmp_path / "ranks") == [("DDP", 0, 2, 24), ("DDP", 1, 2, 24)]


def test_single_is_refused_in_several_processes(tmp_path: Path) -> None:
    def error() -> str:
        with pytest.raises(ConfigError) as info:
            train(config(tmp_path, "Single"))
        return str(info.value)

    assert all("'Single'" in text and "2 processes" in text for text in run_ranks(2, error, tmp_path / "ranks"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"strategy": "DPP"}, r"strategy.type: 'DPP' is not registered"),
        ({"strategy": {"type": "DDP", "static_grahp": True}}, r"strategy.static_grahp: .*\n.*static_graph"),
        ({"strategy": {"type": "DDP", "comm_hook": "fp16"}}, r"strategy.comm_hook: .* 'fp16'"),
        ({"model_wrapper_cfg": {"type": "DataParallel"}}, r"model_wrapper_cfg.type: .* train_step"),
        ({"model": {"type": OwnStep}, "strategy": {"type": "DDP", "static_graph": True}}, r"static_graph: .* OwnStep"),
    ],
)
def test_mistakes_are_found_by_check(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    errors = check(config(tmp_path, **changes))
    assert len(errors) == 1
    with pytest.raises(ConfigError, match=message):
        raise errors[0]


@pytest.mark.parametrize("hook", ["fp16", {"type": "fp16_compress", "rank": 2}, {"type": "powerSGD", "rank": 2}])
def test_an_unknown_communication_hook_is_refused(hook: Any) -> None:
    with pytest.raises(ConfigError, match="strategy.comm_hook"):
        DDP(comm_hook=hook)
