"""Ranks and collectives: in one process, and in two real ones."""

from pathlib import Path
from typing import Any

import pytest
import torch
from ranks import run_group
from torch import nn

from trainwright.engine import ConfigError, Runner
from trainwright.engine import distributed as d


def collectives(folder: str) -> dict[str, Any]:
    """Call every collective once, and return the results in this process by name."""
    rank = d.get_rank()
    base = torch.tensor([1.0, 2.0]) * (rank + 1)
    out: dict[str, Any] = {
        "info": d.get_dist_info(),
        "main": d.is_main_process(),
        "launcher": d.infer_launcher(),
    }
    out["local"] = (d.get_local_rank(), d.is_distributed())
    out["master_only"] = d.master_only(lambda: "ran")()
    for op in ("sum", "mean", "product", "min", "max"):
        reduced = base.clone()
        d.all_reduce(reduced, op)
        out[op] = reduced.tolist()
    column = torch.zeros(2, 2)
    column[:, 1] = base
    d.all_reduce(column[:, 1])
    out["strided"] = column.tolist()
    integers = torch.tensor([3, 4]) + rank
    d.all_reduce(integers, "MEAN")  # MMEngine accepts capitals
    out["integer mean"] = integers.tolist()
    out["all_gather"] = [tensor.tolist() for tensor in d.all_gather(base)]
    out["gather"] = [tensor.tolist() for tensor in d.gather(base, dst=1)]
    sent = base.clone()
    d.broadcast(sent, src=1)
    out["broadcast"] = sent.tolist()
    scalars = {"a": torch.tensor(1.0 + rank), "b": torch.tensor([2 + rank])}
    d.all_reduce_dict(dict(sorted(scalars.items(), reverse=bool(rank))), "sum")
    out["dict"] = {name: tensor.tolist() for name, tensor in scalars.items()}
    for name, options in {
        "flat": {},
        "buckets": {"bucket_size_mb": 8 / 2**20},
        "single": {"coalesce": False},
    }.items():
        params = [torch.nn.Parameter(base.clone()), torch.tensor(rank), torch.full((2, 1), float(rank))]
        d.all_reduce_params(iter(params), op="sum", **options)
        out[name] = [param.tolist() for param in params]
    objects = [{"rank": rank}, rank]
    d.broadcast_object_list(objects, src=1)
    out["objects"] = objects
    out["all_gather_object"] = d.all_gather_object({"rank": rank})
    out["gather_object"] = d.gather_object(str(rank), dst=1)
    out["seed"] = d.sync_random_seed()
    part = [("a", None), ("b",)][rank]
    out["collect"] = d.collect_results(list(part), 3)
    out["collect one less"] = d.collect_results([rank, rank + 10], 3, device="gpu")
    out["collect by files"] = d.collect_results([rank, rank + 10], 4, tmpdir=folder)
    module = torch.nn.BatchNorm1d(1)
    torch.nn.init.constant_(module.weight, float(rank))
    d.broadcast_parameters(module, src=1)
    out["parameters"] = module.weight.tolist()
    d.barrier()
    return out


def test_two_processes(tmp_path: Path):
    first, second = run_group(2, lambda: collectives(str(tmp_path / "shared")), tmp_path)
    assert first["info"] == (0, 2) and second["info"] == (1, 2)
    assert first["main"] and not second["main"]
    assert first["launcher"] == "pytorch" and second["local"] == (1, True)
    assert first["master_only"] == "ran" and second["master_only"] is None
    expected = {
        "sum": [3.0, 6.0], "mean": [1.5, 3.0], "product": [2.0, 8.0], "min": [1.0, 2.0], "max": [2.0, 4.0],
        "strided": [[0.0, 3.0], [0.0, 6.0]], "integer mean": [3, 4], "all_gather": [[1.0, 2.0], [2.0, 4.0]],
        "broadcast": [2.0, 4.0], "dict": {"a": 3.0, "b": [5]}, "objects": [{"rank": 1}, 1],
        "all_gather_object": [{"rank": 0}, {"rank": 1}], "parameters": [1.0],
        "flat": [[3.0, 6.0], 1, [[1.0], [1.0]]],
    }  # fmt: skip
    expected["buckets"] = expected["single"] = expected["flat"]
    for name, value in expected.items():
        assert first[name] == value and second[name] == value, name
    assert first["gather"] == [] and second["gather"] == [[1.0, 2.0], [2.0, 4.0]]
    assert first["gather_object"] is None and second["gather_object"] == ["0", "1"]
    assert first["seed"] == second["seed"]
    assert first["collect"] == ["a", "b", None]
    assert first["collect one less"] == [0, 1, 10]
    assert first["collect by files"] == [0, 1, 10, 11]
    assert second["collect"] is None and second["collect by files"] is None
    assert list((tmp_path / "shared").iterdir()) == []


def test_one_process_leaves_data_as_it_is(in_tmp: Path):
    data = torch.tensor([1.0, 2.0])
    assert d.get_dist_info() == (0, 1) and d.is_main_process() and not d.is_distributed()
    d.all_reduce(data, "mean")
    d.broadcast(data)
    d.all_reduce_dict({"a": data})
    d.all_reduce_params([data])
    d.broadcast_object_list([1])
    d.broadcast_parameters(torch.nn.Linear(1, 1))
    d.barrier()
    assert data.tolist() == [1.0, 2.0]
    assert d.all_gather(data)[0] is data and d.gather(data)[0] is data
    assert d.all_gather_object("a") == ["a"] and d.gather_object("a") == ["a"]
    assert d.collect_results([1, 2, 3], 2) == [1, 2, 3]  # in one process nothing is padding
    assert d.master_only(lambda value: value + 1)(1) == 2
    assert 0 <= d.sync_random_seed() < 2**31
    assert list(in_tmp.iterdir()) == []


def test_mistakes_are_named():
    with pytest.raises(ValueError, match="'avg'"):
        d.all_reduce(torch.ones(1), "avg")
    with pytest.raises(ValueError, match="'cpu' or 'gpu'"):
        d.collect_results([], 0, device="disk")
    with pytest.raises(ValueError, match="tmpdir"):
        d.collect_results([], 0, device="gpu", tmpdir="a")
    with pytest.raises(ValueError, match="launcher 'torch'"):
        d.init_dist("torch")


@pytest.mark.parametrize(
    ("variable", "launcher"),
    [
        ("WORLD_SIZE", "pytorch"),
        ("SLURM_NTASKS", "slurm"),
        ("OMPI_COMM_WORLD_LOCAL_RANK", "mpi"),
        (None, "none"),
    ],
)
def test_the_launcher_is_known_by_its_environment(monkeypatch: pytest.MonkeyPatch, variable: str | None, launcher: str):
    for name in ("WORLD_SIZE", "SLURM_NTASKS", "OMPI_COMM_WORLD_LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    if variable is not None:
        monkeypatch.setenv(variable, "1")
    assert d.infer_launcher() == launcher


def test_a_script_under_torchrun_names_its_launcher(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    for name, value in (("TORCHELASTIC_RUN_ID", "none"), ("WORLD_SIZE", "2")):
        monkeypatch.setenv(name, value)
    with pytest.raises(
        ConfigError, match="launcher: torchrun started 2 processes, each of which would train on its own"
    ):
        Runner(nn.Linear(1, 1), str(tmp_path))
    monkeypatch.setenv("WORLD_SIZE", "1")
    Runner(nn.Linear(1, 1), str(tmp_path))


@pytest.mark.parametrize(
    ("launcher", "environment"),
    [
        ("mpi", {"OMPI_COMM_WORLD_RANK": "0", "OMPI_COMM_WORLD_SIZE": "1", "OMPI_COMM_WORLD_LOCAL_RANK": "0",
                 "MASTER_ADDR": "127.0.0.1"}),
        ("slurm", {"SLURM_PROCID": "0", "SLURM_NTASKS": "1", "SLURM_LOCALID": "0", "SLURM_NODELIST": "node1",
                   "SLURM_LAUNCH_NODE_IPADDR": "127.0.0.1"}),
    ],
)  # fmt: skip
def test_other_launchers_set_what_pytorch_reads(
    monkeypatch: pytest.MonkeyPatch, launcher: str, environment: dict[str, str]
):
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    monkeypatch.setenv("MASTER_PORT", "0")
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    d.init_dist(launcher, backend="gloo")
    try:
        assert d.get_dist_info() == (0, 1) and d.is_distributed()
    finally:
        torch.distributed.destroy_process_group()


@pytest.mark.skipif(torch.accelerator.is_available(), reason="says what happens without an accelerator")
def test_nccl_without_a_gpu_becomes_gloo(monkeypatch: pytest.MonkeyPatch):
    environment = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1"}
    for name, value in {**environment, "MASTER_PORT": "0"}.items():
        monkeypatch.setenv(name, value)
    with pytest.warns(UserWarning, match="'gloo'.*'nccl'"):
        d.init_dist("pytorch", backend="nccl")
    try:
        assert torch.distributed.get_backend() == "gloo"
    finally:
        torch.distributed.destroy_process_group()


def test_a_missing_environment_is_named(monkeypatch: pytest.MonkeyPatch):
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(RuntimeError, match="RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR, MASTER_PORT"):
        d.init_dist("pytorch")


def test_the_device_is_the_users_or_the_current_one():
    assert d.get_device("cpu") == torch.device("cpu")
    assert d.get_device(torch.device("meta")).type == "meta"
    current = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else torch.device("cpu")
    assert d.get_device().type == current.type
