"""Run stages of an experiment, on this engine or on the real MMEngine, and print what came out of each as JSON.

python -m trainwright.compat run.py resnet FOLDER            # this engine
python run.py --real resnet FOLDER                           # the real one, if it is installed
"""

import argparse
import hashlib
import json
import os
import sys
from collections.abc import Callable, Sequence
from functools import reduce
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import data
from experiments import EXPERIMENTS, Experiment

DATA: dict[str, tuple[str, Callable[[Path], None]]] = {
    "imagenet": ("imagenet", data.draw_imagenet),
    "coco": ("coco", lambda folder: data.draw_coco(folder, ["person", "bicycle", "car"])),
    "person": ("coco", lambda folder: data.draw_coco(folder, ["person"], keypoints=17)),
    "cityscapes": ("cityscapes", data.draw_cityscapes),
    "frames": ("frames", data.draw_frames),
    "text": ("text", data.draw_text),
    "pairs": ("pairs", data.draw_pairs),
    "kitti": ("kitti", data.draw_kitti),
    "scannet": ("scannet", data.draw_scannet),
}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("experiment", choices=EXPERIMENTS)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--real", action="store_true")
    parser.add_argument("--stage", nargs="+", default=["train"], choices=["train", "test", "tta", "resume", "longer"])
    parser.add_argument("--stop-after", type=int, help="stop after this number of iterations, as by a signal")
    parser.add_argument("--option", nargs=2, action="append", default=[], metavar=("PATH", "JSON"))
    parser.add_argument("--write", metavar="FILE", help="only draw the data, and write the changed config")
    given = parser.parse_args()
    experiment = EXPERIMENTS[given.experiment]
    if given.real:
        _adapt_real()
    draw(experiment, given.folder)
    work_dir = given.folder.resolve() / ("real" if given.real else "ours") / given.experiment
    os.chdir(given.folder)
    if given.write:
        Path(given.write).write_text(configure(experiment, given.option).pretty_text)
        return
    for stage in given.stage:
        print(json.dumps(run(experiment, stage, work_dir, given.stop_after, given.option)))


def run(
    experiment: Experiment, stage: str, work_dir: Path, stop_after: int | None = None, options: Sequence[Any] = ()
) -> dict[str, Any]:
    """Run one stage.

    Train, test what was trained, test it with augmentation, resume, or resume and train longer than the experiment. The
    metrics are those of the test or of the last validation.
    """
    import torch
    from mmengine.hooks import Hook
    from mmengine.runner import Runner

    torch.set_num_threads(1)
    losses: list[float] = []
    results: dict[str, Any] = {}

    class Recorder(Hook):
        def after_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
            parts = [outputs["loss"]] if "loss" in outputs else [v for key, v in outputs.items() if "loss" in key]
            losses.append(sum(float(part) for part in parts))
            if len(losses) == stop_after:
                runner.request_stop("as asked by --stop-after")

        def after_val_epoch(self, runner: Any, metrics: Any = None) -> None:
            results.update(metrics)

        after_test_epoch = after_val_epoch

    cfg = configure(experiment, options)
    cfg.work_dir = str(work_dir)
    if stage in ("resume", "longer"):
        cfg.resume = True
    if stage == "longer":
        length = "max_iters" if "max_iters" in cfg.train_cfg else "max_epochs"
        cfg.train_cfg[length] += cfg.train_cfg.get("val_interval", 1)
    if stage == "tta":  # as the libraries' tools/test.py --tta
        cfg.test_dataloader.dataset.pipeline = cfg.tta_pipeline
        cfg.model = dict(cfg.tta_model, module=cfg.model)
    if stage in ("test", "tta"):
        cfg.load_from = str(work_dir / (work_dir / "last_checkpoint").read_text())
    runner = Runner.from_cfg(cfg)
    runner.register_hook(Recorder())
    runner.test() if stage in ("test", "tta") else runner.train()
    weights = hashlib.sha256()
    for name, value in sorted(runner.model.state_dict().items()):
        weights.update(name.removeprefix("module.").encode() + value.cpu().numpy().tobytes())
    return dict(
        engine=Runner.__module__, losses=losses, digest=weights.hexdigest()[:16],
        metrics={key: float(value) for key, value in results.items()},
    )  # fmt: skip


def configure(experiment: Experiment, options: Sequence[Any] = ()) -> Any:
    """Return the config of an experiment, and further options as paths and JSON."""
    from mmengine.config import Config

    cfg = Config.fromfile(config_file(experiment))
    for path in experiment.deleted:
        *parents, last = path.split(".")
        owner = reduce(lambda part, key: part[int(key) if isinstance(part, list) else key], parents, cfg)
        del owner[int(last) if isinstance(owner, list) else last]
    cfg.merge_from_dict({**experiment.options, **{path: json.loads(value) for path, value in options}})
    cfg.randomness = dict(seed=0)
    return cfg


def draw(experiment: Experiment, folder: Path) -> None:
    """Draw the data of an experiment, unless it is there."""
    folder.mkdir(parents=True, exist_ok=True)
    name, function = DATA[experiment.data]
    if not (folder / name).exists():
        function(folder / name)


def config_file(experiment: Experiment) -> str:
    """Return the config in the installed package, without importing it."""
    from importlib.util import find_spec

    spec = find_spec(experiment.library)
    assert spec is not None and spec.origin is not None, f"{experiment.library} is not installed"
    return str(Path(spec.origin).parent / ".mim" / "configs" / experiment.config)


def _adapt_real() -> None:
    """Let the real MMEngine run beside mmcv-lite: our operators, an accepted version, checkpoints that it can load."""
    import types
    from importlib import import_module
    from importlib.machinery import ModuleSpec

    from trainwright.compat import libraries

    os.environ["TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"] = "1"
    libraries.install()
    operators = import_module(os.environ.get("OPERATORS", "trainwright.compat.mmcv_ops"))
    module: Any = types.ModuleType("mmcv._ext")
    module.__spec__ = ModuleSpec("mmcv._ext", None)
    module.__getattr__ = lambda name: getattr(operators, name)
    sys.modules["mmcv._ext"] = module
    import_module("trainwright.compat.mmcv_ops.devices").follow_arguments()


if __name__ == "__main__":
    main()
