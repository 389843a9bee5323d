"""Ranks that cannot work together."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from ranks import run_group

from trainwright.engine.distributed import get_rank
from trainwright.engine.errors import ConfigError
from trainwright.engine.ranks.start import refuse_shared_gpus


def test_ranks_that_share_a_gpu_are_refused_before_nccl_fails(tmp_path: Path) -> None:
    def in_rank() -> str:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("torch.distributed.get_backend_config", lambda: "cpu:gloo,cuda:nccl")
            patch.setattr("torch.cuda.get_device_properties", lambda device: gpus[get_rank()])
            try:
                refuse_shared_gpus(torch.device("cuda", 0))
            except ConfigError as error:
                return str(error)
            refuse_shared_gpus(torch.device("cpu"))
            return "accepted"

    gpus = [SimpleNamespace(name="H200", uuid=uuid) for uuid in "aba"]
    assert run_group(2, in_rank, tmp_path) == ["accepted"] * 2
    expected = "env_cfg.dist_cfg.backend: ranks 0 and 2 use the same GPU, a (H200), which NCCL does not support"
    assert all(message.startswith(expected) for message in run_group(3, in_rank, tmp_path))
