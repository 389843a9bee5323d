"""The command ``trainwright estimate``."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from forked import trainwright
from strategy_runs import Samples, config

from trainwright.engine import Config, ConfigError
from trainwright.engine.config.paths import shipped_configs
from trainwright.engine.estimate.batch import read_batch
from trainwright.engine.estimate.meter import Collective
from trainwright.engine.estimate.speed import Hardware, report
from trainwright.engine.estimate.trace import KINDS, Trace
from trainwright.tools import estimate
from trainwright.tools.cli import main

LENET = "classification/lenet_fashion_mnist"


def _run(words: Sequence[str], folder: Path) -> tuple[int, str]:
    """Run the command in a separate process, since the threads of autograd would prevent further forks of this one."""
    process = trainwright(["estimate", *words], folder)
    return process.wait(300), process.printed


@pytest.mark.long
def test_json_has_memory_communication_and_time_of_each_size_and_what_would_fit(tmp_path: Path) -> None:
    sizes = ["--world-size", "16", "1", "--gpus-per-node", "8", "--input-shape", "1,28,28"]
    speeds = ["--tflops", "1", "--inter-link", "1GB/s", "--device-memory", "8MB", "--json"]
    status, printed = _run([LENET, *sizes, *speeds], tmp_path)
    found = json.loads(printed[printed.index("{") :])
    one, many = found["estimates"]
    weights = 4 * one["trainable_parameters"]
    assert status == 1 and (one["world_size"], many["world_size"]) == (1, 16)
    assert one["memory"]["largest"]["parameters"] == many["memory"]["largest"]["gradients"] == weights
    assert not one["communication"] and one["efficiency"] == {"overlapped": 1.0, "sequential": 1.0}
    [row] = many["communication"]
    assert row == {
        "collective": "all-reduce", "link": "inter-node", "bytes": weights, "sent": 2 * weights * 15 // 16,
    }  # fmt: skip
    assert many["seconds"]["communication"] == pytest.approx(row["sent"] / 1e9)
    assert many["seconds"]["compute"] == many["flops"] / 1e12 > 0
    assert many["memory"]["peak"] == one["memory"]["peak"] + weights  # the buckets of DDP
    assert next(remedy["change"] for remedy in many["remedies"]) == "--strategy FSDP2"
    smaller = one["remedies"][-1]
    assert smaller["change"].startswith("train_dataloader.batch_size=") and smaller["fits"]
    assert smaller["peak"] <= 8e6 < one["memory"]["peak"]


def test_mistakes_are_reported_before_anything_is_built(tmp_path: Path, capsys: Any) -> None:
    split = "strategy={'type':'FSDP2','tensor_parallel':{'size':3,'plan':{'*':'colwise'}}}"
    for words, expected in (
        (["--world-size", "0"], "--world-size"),
        (["--device-memory", "much"], "--device-memory"),
        (["--intra-link", "0GB/s"], "--intra-link"),
        (["--tflops", "0"], "--tflops"),
        (["--input-shape", "3x4"], "--input-shape"),
        (["--strategy", "FSDP3"], "FSDP2"),
        (
            ["--world-size", "8", "--input-shape", "1,28,28", "--cfg-options", split],
            "3 does not divide the 8 processes",
        ),
    ):
        assert main(["estimate", LENET, *words]) == 2
        assert expected in capsys.readouterr().err
    assert "RANK" not in os.environ and not list(tmp_path.iterdir())


def test_what_cannot_be_estimated_ends_with_one_message(tmp_path: Path, capsys: Any, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    Path("no_training.py").write_text("model = dict(type='LeNet')")
    wrong_size = [
        "--cfg-options",
        "model.backbone={'type': 'torch.nn.Linear', '_delete_': True, 'in_features': 7, 'out_features': 10}",
    ]
    for words, expected in (
        (["no_training.py"], "optim_wrapper: missing"),
        (["missing.py"], "missing.py"),
        (["classification/resnet50_imagenet"], "--input-shape"),
        ([LENET, "--input-shape", "1,2"], "--input-shape: no made-up batch suits the model"),
        ([LENET, *wrong_size], "model: a step without values fails: RuntimeError"),
    ):
        assert main(["estimate", *words]) == 2
        assert expected in capsys.readouterr().err


@pytest.mark.slow
def test_every_shipped_config_is_estimated_or_says_what_it_needs(tmp_path: Path) -> None:
    for name in shipped_configs():
        status, printed = _run([name], tmp_path)
        reasons = ("--input-shape", "Hugging Face Hub", "needs values of tensors")
        assert status == 0 or (status == 2 and any(map(printed.__contains__, reasons))), f"{name}: {printed}"


def test_strategy_by_name_keeps_its_arguments() -> None:
    cfg = Config({"strategy": {"type": "FSDP2", "replicate": 2}})
    estimate.with_strategy(cfg, "FSDP2")
    assert cfg.strategy == {"type": "FSDP2", "replicate": 2}
    estimate.with_strategy(cfg, "DDP")
    assert cfg.strategy == "DDP"


@pytest.mark.parametrize(
    ("text", "expected"), [("80GB", 80e9), ("80GiB", 80 * 2**30), ("50 GB/s", 50e9), ("7.5k", 7500.0)]
)
def test_sizes_are_decimal_or_binary(text: str, expected: float) -> None:
    assert estimate.hardware(1, text, "1GB/s", 8, None).intra_link == expected


def test_a_batch_is_read_from_the_train_pipeline_and_must_be_whole(tmp_path: Path) -> None:
    cfg = Config(config(tmp_path))
    inputs, labels = read_batch(cfg)
    assert inputs.shape == (8, 16) and labels.shape == (8,)
    cfg.train_dataloader.dataset = Samples(5)
    with pytest.raises(ConfigError, match="5 samples for a batch of 8"):
        read_batch(cfg)


def test_a_ring_that_leaves_the_machine_uses_the_slow_link() -> None:
    calls = [
        Collective("all-gather", 800, tuple(range(8))),
        Collective("reduce-scatter", 800, tuple(range(0, 16, 8))),
        Collective("all-reduce", 800, (3,)),
    ]
    none = dict.fromkeys(KINDS, 0)
    trace = Trace(16, 16, "FSDP2", none, none, 0, calls, 1000, 4, 2, 10)
    found = report(trace, Hardware(flops=1000.0, intra_link=700.0, inter_link=100.0, gpus_per_node=8))
    assert found["sent"] == {"intra-node": 700, "inter-node": 400}
    assert found["seconds"] == {"compute": 1.0, "communication": 5.0, "overlapped": 5.0, "sequential": 6.0}
    assert found["samples_per_second"] == {"overlapped": 64 / 5, "sequential": 64 / 6}
    assert found["memory"]["fits"] is None
