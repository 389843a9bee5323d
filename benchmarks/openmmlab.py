"""The same training configs of mmpretrain and mmdet on this engine and on the real MMEngine, alternating.

    python benchmarks/openmmlab.py --real /path/to/python-with-mmengine

Both environments need the libraries (``tests/compat/environment.sh``); that of the real one needs mmengine 0.10.7 and
Trainwright's operators on its path (``PYTHONPATH=typings``). Prints medians and their ratios: of reading a config, of
the start (from the beginning of the process to the first iteration), and of a training step.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

LIBRARIES = Path(__file__).parent.parent / "tests" / "compat" / "libraries"
QUANTITIES = {"read": "read a config (ms)", "start": "start (s)", "step": "step (ms)"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--real", metavar="PYTHON", help="interpreter of the environment with the real MMEngine")
    parser.add_argument("--experiments", nargs="+", default=["resnet", "retinanet"])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        name, folder, engine = given.child
        print(json.dumps(measure(name, Path(folder), engine == "real")))
        return
    if not given.real:
        parser.error("--real is required: there is nothing to compare with")
    commands = {"ours": [sys.executable, "-m", "trainwright.compat"], "real": [given.real]}
    for name in given.experiments:
        results: dict[str, list[dict[str, float]]] = {"ours": [], "real": []}
        with tempfile.TemporaryDirectory() as folder:
            for _ in range(given.rounds):
                for engine, command in commands.items():
                    words = [*command, __file__, "--child", name, folder, engine]
                    environment = {**os.environ, "OMP_NUM_THREADS": "1", "STARTED": str(time.time())}
                    done = subprocess.run(words, capture_output=True, text=True, check=False, env=environment)
                    if done.returncode:
                        sys.exit(f"{engine}: {done.stderr[-3000:]}")
                    results[engine].append(json.loads(done.stdout.splitlines()[-1]))
        for quantity, title in QUANTITIES.items():
            medians = {
                engine: statistics.median(result[quantity] for result in several) for engine, several in results.items()
            }
            ratio = medians["ours"] / medians["real"]
            print(f"{name:12} {title:22} ours {medians['ours']:8.2f}  real {medians['real']:8.2f}  ratio {ratio:.2f}")


def measure(name: str, folder: Path, real: bool) -> dict[str, float]:
    """Return the times of one run in this process."""
    sys.path.insert(0, str(LIBRARIES))
    import run
    from experiments import EXPERIMENTS

    experiment = EXPERIMENTS[name]
    if real:
        run._adapt_real()
    run.draw(experiment, folder)
    os.chdir(folder)
    from mmengine.config import Config
    from mmengine.hooks import Hook
    from mmengine.runner import Runner

    times: list[float] = []

    class Clock(Hook):
        def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
            times.append(time.time())

    reads = []
    for _ in range(20):
        begin = time.perf_counter()
        cfg = Config.fromfile(run.config_file(experiment))
        reads.append(time.perf_counter() - begin)
    cfg.merge_from_dict({**experiment.options, "default_hooks.logger.interval": 50, "train_cfg.max_epochs": 6})
    cfg.work_dir = str(folder / ("real" if real else "ours"))
    cfg.randomness = dict(seed=0)
    cfg.val_cfg = cfg.val_dataloader = cfg.val_evaluator = None
    runner = Runner.from_cfg(cfg)
    runner.register_hook(Clock())
    runner.train()
    steps = [after - before for before, after in pairwise(times[3:])]
    return {
        "read": 1e3 * statistics.median(reads),
        "start": times[0] - float(os.environ["STARTED"]),
        "step": 1e3 * statistics.median(steps),
    }


if __name__ == "__main__":
    main()
