"""The process and machine that a run uses: start method, limits, folders, versions."""

import multiprocessing
import os
import platform
from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from itertools import chain, count
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

import torch

from trainwright.engine.distributed import get_rank, init_dist, is_distributed, sync_random_seed
from trainwright.engine.errors import ConfigError
from trainwright.engine.parts import unknown_settings
from trainwright.engine.random_streams import seed_all
from trainwright.engine.ranks.start import control_group


def setup_environment(env_cfg: Mapping[str, Any], launcher: str) -> None:
    """Apply ``env_cfg`` and initialize the process group. :class:`DeviceSettings` applies what concerns the device.

    Args:
        env_cfg: ``mp_cfg`` with ``mp_start_method`` (fork, spawn, forkserver) and
            ``opencv_num_threads``; ``dist_cfg`` with the arguments of ``init_dist``; ``resource_limit``, the
            minimum limit of open files.
        launcher: ``none``, ``pytorch``, ``slurm`` or ``mpi``.

    Raises:
        ConfigError: a key is unknown, or torchrun started several processes and the launcher is ``none``.
    """
    for mistake in unknown_settings("env_cfg", env_cfg):
        raise mistake
    mp_cfg = env_cfg.get("mp_cfg") or {}
    if "opencv_num_threads" in mp_cfg:
        os.environ["OPENCV_FOR_THREADS_NUM"] = str(mp_cfg["opencv_num_threads"])
    method = mp_cfg.get("mp_start_method")
    if method and multiprocessing.get_start_method(allow_none=True) != method:
        multiprocessing.set_start_method(method, force=True)
    if not is_distributed():
        if launcher != "none":
            init_dist(launcher, **(env_cfg.get("dist_cfg") or {}))
        elif "TORCHELASTIC_RUN_ID" in os.environ and int(os.environ["WORLD_SIZE"]) > 1:
            message = f"torchrun started {os.environ['WORLD_SIZE']} processes, each of which would train on its own"
            raise ConfigError(
                "launcher", message, "launcher='pytorch', or infer_launcher() of trainwright.engine.distributed"
            )
    if is_distributed():
        control_group()  # now, since all ranks must create it together
    _raise_file_limit(int(env_cfg.get("resource_limit", 4096)))


def set_random_seed(seed: int | None = None, deterministic: bool = False, diff_rank_seed: bool = False) -> int:
    """Seed every generator of this process, in a script; a run seeds itself as ``randomness`` says.

    Args:
        seed: the seed; if None, a random one, the same on all ranks.
        deterministic: only allow deterministic algorithms from now on.
        diff_rank_seed: add the rank to the seed.

    Returns:
        The seed of this process.
    """
    seed = sync_random_seed() if seed is None else seed
    seed += get_rank() if diff_rank_seed else 0
    seed_all(seed)
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = True, False
        torch.use_deterministic_algorithms(True)
    return seed


def make_folder(folder: str | Path, path: str, hint: str) -> None:
    """Create a folder, and make sure that it is writable.

    Args:
        folder: the folder.
        path: the config key that sets it, for the error message.
        hint: the remedy, for the error message.

    Raises:
        ConfigError: the folder cannot be created, or is not writable.
    """
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ConfigError(path, f"the folder {str(folder)!r} cannot be written to: {error}", hint) from error


def collect_env() -> dict[str, str]:
    """Return versions and hardware, for the top of the log."""
    accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    devices = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return {
        "trainwright": package_version("trainwright"),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torchvision": package_version("torchvision"),
        "numpy": package_version("numpy"),
        "system": platform.platform(),
        "cpu threads": str(torch.get_num_threads()),
        "accelerator": ", ".join(devices) or str(accelerator or "none"),
    }


@cache
def package_version(package: str) -> str:
    """Return the version of a package without importing it, or ``not installed``."""
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def make_log_dir(work_dir: Path) -> str:
    """Create a folder for the logs of a run and return its name: a timestamp, with a number if it is taken."""
    now = datetime.now().strftime("%Y%m%d_%H%M%S")
    for name in chain([now], (f"{now}_{number}" for number in count(2))):
        with suppress(FileExistsError):  # two runs can start in the same second
            (work_dir / name).mkdir(parents=True)
            return name
    raise AssertionError("there is always a next number")


def _raise_file_limit(wanted: int) -> None:
    try:
        import resource
    except ImportError:  # not on Windows
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(wanted, hard), hard))
