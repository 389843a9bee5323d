"""Runs resumed from checkpoints of earlier versions end in the same state as uninterrupted runs."""

from pathlib import Path
from typing import Any

import pytest
import torch
from old_runs import LOOPS, SAVED_AT, VALIDATIONS, make_old_run
from tiny_runs import weights_of

from trainwright.engine import Runner, load_checkpoint_file

DATA = Path(__file__).parents[2] / "data"
HOOKS = ("EMAHook", "EarlyStoppingHook")


def state_at_the_end(runner: Runner) -> dict[str, Any]:
    """Return the state that determines how a run would continue."""
    wrapper = runner.optim_wrapper
    ema, stopping = (next(hook for hook in runner.hooks if type(hook).__name__ == name) for name in HOOKS)
    return {
        "weights": weights_of(runner),
        "average": {name: value.clone() for name, value in ema.ema_model.state_dict().items()},
        "momentum": [wrapper.optimizer.state[p]["momentum_buffer"] for p in runner.model.parameters()],
        "lr": wrapper.get_lr()["lr"],
        "factor of momentum": wrapper.get_momentum()["momentum"],
        "early stopping": (stopping.best_scores, stopping.wait_counts),
        "losses": torch.as_tensor(runner.message_hub.get_scalar("train/loss").data[0]),
        "iterations": runner.iter,
        "epochs": runner.epoch,
    }


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("version", ["0_1_0"])
def test_a_run_of_an_earlier_version_is_continued(loop: str, version: str, tmp_path: Path) -> None:
    file = DATA / f"version_{version}_{loop}.pth"
    assert load_checkpoint_file(file)["meta"]["iter"] == SAVED_AT
    whole = make_old_run(loop, tmp_path / "whole")
    whole.train()
    resumed = make_old_run(loop, tmp_path / "resumed", validated=VALIDATIONS, resume=str(file))
    seen = resumed.model.seen
    resumed.train()
    # Results on another CPU may differ in the last bits.
    torch.testing.assert_close(state_at_the_end(resumed), state_at_the_end(whole), rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(torch.cat(seen), torch.cat(whole.model.seen[SAVED_AT:]))
