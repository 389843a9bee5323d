"""Compare `trainwright estimate` with the memory and time of real steps on the accelerator, in one process.

    python benchmarks/estimate.py [CONFIG --input-shape SHAPE] [--steps N] [--tflops N]

Without arguments, it measures ResNet-50 and a transformer. On a CPU, which has no counter of allocated memory, it
measures with the same recorder of allocations that makes the estimates.
"""

import argparse
import tempfile
import time
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from trainwright.engine import MODELS, Config
from trainwright.engine.config.paths import find_named_config
from trainwright.engine.distributed import get_device
from trainwright.engine.estimate.batch import made_batches
from trainwright.engine.estimate.meter import Meter
from trainwright.engine.estimate.mistakes import StepError
from trainwright.engine.estimate.trace import measure, trace
from trainwright.engine.run.model_setup import build_model
from trainwright.engine.run.runner import Runner
from trainwright.models.base import BaseModel
from trainwright.tools.estimate import shape


class Block(nn.Module):
    """A block of a transformer."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.fc1, self.fc2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Return the features of all positions."""
        heads = [y.unflatten(-1, (self.heads, -1)).transpose(1, 2) for y in self.qkv(self.norm1(x)).chunk(3, -1)]
        x = x + self.out(F.scaled_dot_product_attention(*heads, is_causal=True).transpose(1, 2).flatten(2))
        return x + self.fc2(F.gelu(self.fc1(self.norm2(x))))  # type: ignore[no-any-return]


@MODELS.register_module()
class BenchmarkTransformer(BaseModel):
    """A language model."""

    def __init__(self, width: int = 1024, depth: int = 12, vocabulary: int = 32000, length: int = 1024) -> None:
        super().__init__()
        self.tokens, self.positions = nn.Embedding(vocabulary, width), nn.Embedding(length, width)
        self.blocks = nn.Sequential(*(Block(width, width // 64) for _ in range(depth)))
        self.head = nn.Linear(width, vocabulary)

    def forward(self, inputs: Tensor, data_samples: Any = None, mode: str = "tensor") -> Any:
        """Return the loss, or scores."""
        scores = self.head(self.blocks(self.tokens(inputs) + self.positions.weight[: inputs.size(1)]))
        return {"loss": F.cross_entropy(scores.flatten(0, 1), data_samples.flatten())} if mode == "loss" else scores


def _transformer() -> Config:
    return Config({
        "model": {"type": "BenchmarkTransformer"},
        "train_dataloader": {"batch_size": 8, "collate_fn": {"type": "default_collate"}},
        "train_cfg": {"by_epoch": False, "max_iters": 10},
        "optim_wrapper": {
            "type": "AmpOptimWrapper", "dtype": "bfloat16", "optimizer": {"type": "AdamW", "lr": 1e-4},
            "clip_grad": {"max_norm": 1.0},
        },
    })  # fmt: skip


def _build(cfg: Config, batch: Any, folder: str) -> Any:
    model = build_model(cfg.model, cfg.get("data_preprocessor"), weights_follow=True)  # without pretrained weights
    loader: Any = torch.utils.data.DataLoader([batch], batch_size=None)  # type: ignore[arg-type]
    return Runner(
        model=model, work_dir=folder, train_dataloader=loader, train_cfg=cfg.train_cfg,
        optim_wrapper=cfg.optim_wrapper, custom_hooks=[],
        default_scope=cfg.get("default_scope"), randomness={"seed": 0}, log_level="ERROR",
    )  # fmt: skip


def _measured(cfg: Config, batch: Any, steps: int) -> tuple[float, float, float]:
    """Return the peak of a real step in bytes, that with the allocator's reserve, and the seconds of a step."""
    with tempfile.TemporaryDirectory() as folder:
        if get_device().type == "cpu":
            with Meter() as meter:
                found = measure(_build(cfg, batch, folder), batch, meter)
            return found.peak, 0, 0
        memory: Any = torch.get_device_module(get_device())
        before = memory.memory_allocated()
        runner = _build(cfg, batch, folder)
        runner._build_optimization()
        runner.optim_wrapper.initialize_count_status(runner.model, 0, 10 * steps)
        runner.model.train()
        with runner._as_current(), runner._device_settings.active():
            for step in range(steps + 3):
                if step == 3:
                    torch.accelerator.synchronize()
                    memory.reset_peak_memory_stats()
                    began = time.perf_counter()
                runner.model.train_step(batch, optim_wrapper=runner.optim_wrapper)
            torch.accelerator.synchronize()
        seconds = (time.perf_counter() - began) / steps
        return memory.max_memory_allocated() - before, memory.max_memory_reserved(), seconds


def compare(name: str, cfg: Config, text: str, steps: int, tflops: float) -> None:
    """Print the estimate of a config and what a real run needs."""
    sizes = shape(text)
    assert sizes is not None
    for _, batch in made_batches(cfg, *sizes):
        try:
            found = trace(cfg, 1, batch)
        except StepError:  # annotations of another task
            continue
        peak, reserved, seconds = _measured(cfg, batch, steps)
        print(
            f"{name}: estimated {found.peak / 1e9:.3f} GB, measured {peak / 1e9:.3f} GB ({found.peak / peak - 1:+.1%})"
            + (f", reserved {reserved / 1e9:.3f} GB" if reserved else "")
        )
        if seconds:
            print(
                f"{name}: {found.flops / 1e12:.3f} TFLOP; estimated {found.flops / tflops / 1e9:.1f} ms at {tflops:g} "
                f"TFLOP/s, measured {seconds * 1e3:.1f} ms ({found.flops / seconds / 1e12:.0f} TFLOP/s)"
            )
        return
    raise SystemExit(f"{name}: no step succeeded with inputs of shape {text}")


def main() -> None:
    """Compare estimates with real steps."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", nargs="?")
    parser.add_argument("--input-shape", default="3,224,224")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--tflops", type=float, default=400.0)
    arguments = parser.parse_args()
    device = get_device()
    if device.type == "cpu":
        print("no accelerator found: measuring the allocations of a real step on the CPU")
    else:
        print(f"device: {torch.get_device_module(device).get_device_name()}, PyTorch {torch.__version__}")
    if arguments.config:
        cases = [(arguments.config, _read(arguments.config), arguments.input_shape)]
    else:
        small = device.type == "cpu"
        resnet, transformer = _read("classification/resnet50_imagenet"), _transformer()
        resnet.train_dataloader.batch_size = 2 if small else 64
        if small:
            transformer.model.update(width=128, depth=2, vocabulary=1000, length=128)
        cases = [
            ("ResNet-50", resnet, "3,64,64:uint8" if small else "3,224,224:uint8"),
            ("transformer", transformer, "128:int64" if small else "1024:int64"),
        ]
        amp = Config(resnet.to_dict())
        amp.optim_wrapper.type, amp.optim_wrapper.dtype = "AmpOptimWrapper", "bfloat16"
        cases.insert(1, ("ResNet-50, bfloat16", amp, cases[0][2]))
    for name, cfg, text in cases:
        compare(name, cfg, text, arguments.steps, arguments.tflops)


def _read(name: str) -> Config:
    cfg = Config.fromfile(find_named_config(name))
    cfg.pop("load_from", None)
    return cfg


if __name__ == "__main__":
    main()
