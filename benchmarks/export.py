"""Compare the latency of exported models with PyTorch's."""

import argparse
import os
import tempfile
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # read when torch is imported

import torch
from measure import silenced
from report import table
from torch import Tensor

from trainwright.engine import Config
from trainwright.engine.checkpoints.files import save_checkpoint
from trainwright.engine.export.exporting import export_model
from trainwright.engine.export.form import ExportedGraph, form_of
from trainwright.engine.export.formats import load_exported
from trainwright.engine.run.model_setup import build_model

CLOCKS: dict[str, Callable[[], float]] = {"wall": perf_counter, "cpu": process_time}
SUFFIXES = {"onnx": ".onnx", "openvino": ".xml", "torch_export": ".pt2", "executorch": ".pte"}
NEEDED = {"onnx": "onnxruntime", "openvino": "openvino", "torch_export": "torch", "executorch": "executorch"}
NORMALIZED = {"mean": [123.675, 116.28, 103.53], "std": [58.395, 57.12, 57.375]}
MODELS: dict[str, tuple[dict[str, Any], int]] = {
    "resnet18": ({"type": "ImageClassifier", "backbone": "resnet18", "num_classes": 1000}, 224),
    "mobilenet_v3": ({"type": "ImageClassifier", "backbone": "mobilenet_v3_large", "num_classes": 1000}, 224),
    "unet": ({"type": "SemanticSegmentor", "network": {"type": "UNet", "num_classes": 4, "base_channels": 16}}, 224),
    "ssdlite": ({"type": "TorchvisionDetector", "network": "ssdlite320_mobilenet_v3_large", "num_classes": 20}, 320),
}


def contestants(name: str, formats: Sequence[str], folder: Path) -> tuple[dict[str, Callable[[], Any]], Tensor]:
    """Return a function for each runtime that runs a model on the same image, and the image.

    Args:
        name: a key of :data:`MODELS`.
        formats: formats to export to; those whose runtime is not installed, or that cannot express the model, are left
            out with a message.
        folder: folder for the files.
    """
    config, size = MODELS[name]
    torch.manual_seed(0)
    if "Detector" not in config["type"]:
        config = {**config, "data_preprocessor": NORMALIZED}
    model = build_model(config).eval()
    save_checkpoint({"state_dict": model.state_dict(), "meta": {}}, folder / "epoch_1.pth")
    plain = build_model(config).eval()
    plain.load_state_dict(model.state_dict())
    model.compile_forward()  # type: ignore[operator]  # of a BaseModel
    graphs = {
        title: ExportedGraph(form_of(one)).eval() for title, one in (("PyTorch", plain), ("torch.compile", model))
    }
    image = torch.randint(0, 256, (1, 3, size, size), dtype=torch.uint8)
    runs: dict[str, Callable[[], Any]] = {
        title: lambda graph=graph: graph(image)  # type: ignore[misc]  # its type is inferred
        for title, graph in graphs.items()
    }
    for format in formats:
        if find_spec(NEEDED[format]) is None:
            print(f"{format}: {NEEDED[format]} is not installed")
            continue
        try:
            with silenced():
                file = folder / f"{name}{SUFFIXES[format]}"
                export_model(
                    Config({"model": config}), str(folder / "epoch_1.pth"), format, file, fixed=("batch", "size"),
                    tolerance=0.1, input_shape=((3, size, size), torch.uint8),
                )  # fmt: skip
                runtime = load_exported(file)
        except Exception as error:
            print(f"{format}: {str(error).partition(chr(10))[0]}")
            continue
        runs[format] = lambda runtime=runtime: runtime(image)
    return runs, image


def measure(
    runs: dict[str, Callable[[], Any]], rounds: int, repeats: int, clock: Callable[[], float]
) -> dict[str, list[float]]:
    """Return the seconds per image of each runtime in each round. They take turns, after one warm-up round."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    names = list(runs)
    with torch.no_grad():
        for number in range(rounds + 1):
            first = number % len(names)
            for name in names[first:] + names[:first]:
                begin = clock()
                for _ in range(repeats):
                    runs[name]()
                if number:
                    seconds[name].append((clock() - begin) / repeats)
    return seconds


def main() -> None:
    """Export each model to each format, and print the time per image."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--formats", nargs="+", choices=SUFFIXES, default=list(SUFFIXES))
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--repeats", type=int, default=5, help="images per round")
    parser.add_argument("--clock", choices=CLOCKS, default="wall", help="cpu for a busy machine")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    for name in arguments.models:
        with tempfile.TemporaryDirectory() as folder:
            runs, image = contestants(name, arguments.formats, Path(folder))
            seconds = measure(runs, arguments.rounds, arguments.repeats, CLOCKS[arguments.clock])
        print(f"\n{name}, one image of {image.shape[-2]}x{image.shape[-1]}, one thread")
        print(table(seconds, "PyTorch", "ms", lambda value: f"{1000 * value:.2f}", speedup=True), flush=True)


if __name__ == "__main__":
    main()
