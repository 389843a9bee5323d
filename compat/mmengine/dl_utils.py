"""Names of ``mmengine.utils.dl_utils``: PyTorch's classes under their old names, timing, and the environment."""

import importlib.util
import multiprocessing
import os
import platform
import subprocess
import sys
import sysconfig
import time
import warnings
from collections import OrderedDict
from collections.abc import Callable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Self
from unittest.mock import patch
from urllib.parse import urlparse

import numpy as np
import torch
from torch import Tensor, nn
from torch.hub import HASH_REGEX, download_url_to_file
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd, _ConvTransposeMixin
from torch.nn.modules.instancenorm import _InstanceNorm
from torch.nn.modules.pooling import _AdaptiveAvgPoolNd, _AdaptiveMaxPoolNd, _AvgPoolNd, _MaxPoolNd
from torch.utils.data import DataLoader

from trainwright.compat.finder import VERSION
from trainwright.compat.mmengine.device import is_cuda_available, is_musa_available
from trainwright.compat.mmengine.utils import digit_version, is_tuple_of, mkdir_or_exist
from trainwright.engine import MODELS, MMLogger, OptimWrapper, Runner, load_checkpoint_file, master_only, print_log
from trainwright.hooks import RuntimeInfoHook
from trainwright.models import BaseModel

TORCH_VERSION = torch.__version__
PoolDataLoader = DataLoader
SyncBatchNorm_ = nn.SyncBatchNorm
_torch_version_meshgrid_indexing = True


class SyncBatchNorm(nn.SyncBatchNorm):
    """PyTorch's layer of this name."""


def _get_conv() -> tuple[type, ...]:
    return _ConvNd, _ConvTransposeMixin


def _get_norm() -> tuple[type, ...]:
    return _BatchNorm, _InstanceNorm, SyncBatchNorm_


def _get_pool() -> tuple[type, ...]:
    return _AdaptiveAvgPoolNd, _AdaptiveMaxPoolNd, _AvgPoolNd, _MaxPoolNd


def _get_dataloader() -> tuple[type, ...]:
    return DataLoader, PoolDataLoader


def _get_extension() -> tuple[Any, ...]:
    from torch.utils.cpp_extension import BuildExtension, CppExtension, CUDAExtension

    return BuildExtension, CppExtension, CUDAExtension


def _get_cuda_home() -> str | None:
    """Return the folder of CUDA's or ROCm's compiler."""
    from torch.utils.cpp_extension import CUDA_HOME, ROCM_HOME

    return ROCM_HOME if is_rocm_pytorch() else CUDA_HOME


def is_rocm_pytorch() -> bool:
    """Return whether PyTorch is built for ROCm, and ROCm is installed."""
    if torch.version.hip is None:
        return False
    from torch.utils.cpp_extension import ROCM_HOME

    return ROCM_HOME is not None


def get_build_config() -> str:
    """Return how PyTorch was built."""
    return torch.__config__.show()


def torch_meshgrid(*tensors: Tensor) -> tuple[Tensor, ...]:
    """Return the coordinates of a grid; the first tensor varies along the first dimension."""
    return torch.meshgrid(*tensors, indexing="ij")


def is_jit_tracing() -> bool:
    """Return whether PyTorch is tracing the model."""
    return torch._C._is_tracing()


def is_norm(layer: nn.Module, exclude: Any = None) -> bool:
    """Return whether a layer is a normalization.

    Args:
        layer: the layer.
        exclude: a class, or a tuple of classes, that do not count.
    """
    excluded = exclude if isinstance(exclude, tuple) else () if exclude is None else (exclude,)
    if not is_tuple_of(excluded, type):
        raise TypeError(f"exclude must be a class or a tuple of classes, got {exclude!r}")
    norms = (_BatchNorm, _InstanceNorm, nn.GroupNorm, nn.LayerNorm)
    return isinstance(layer, norms) and not isinstance(layer, excluded)


def has_batch_norm(model: nn.Module) -> bool:
    """Return whether a model has a batch normalization."""
    return any(isinstance(module, _BatchNorm) for module in model.modules())


def mmcv_full_available() -> bool:
    """Return whether mmcv has its operators, its own or those of this package."""
    return all(importlib.util.find_spec(name) is not None for name in ("mmcv", "mmcv._ext"))


def tensor2imgs(tensor: Tensor, mean: Any = None, std: Any = None, to_bgr: bool = True) -> list[np.ndarray[Any, Any]]:
    """Return images, (H, W, C), of a batch of normalized images.

    Args:
        tensor: (N, C, H, W) with 1 or 3 channels.
        mean: the mean of each channel that was subtracted; 0 if None.
        std: the standard deviation of each channel that it was divided by; 1 if None.
        to_bgr: reverse the order of the channels.
    """
    assert torch.is_tensor(tensor) and tensor.ndim == 4
    channels = tensor.size(1)
    mean = (0,) * channels if mean is None else mean
    std = (1,) * channels if std is None else std
    assert len(mean) == len(std) == channels
    assert channels == 3 or (channels == 1 and not to_bgr)
    images = tensor.permute(0, 2, 3, 1) * tensor.new_tensor(std) + tensor.new_tensor(mean)
    if to_bgr:
        images = images.flip(-1)
    return [np.ascontiguousarray(image) for image in images.detach().cpu().numpy()]


def set_multi_processing(mp_start_method: str = "fork", opencv_num_threads: int = 0, distributed: bool = False) -> None:
    """Set up several processes.

    Args:
        mp_start_method: how to start processes: ``fork``, ``spawn`` or ``forkserver``.
        opencv_num_threads: number of threads of OpenCV.
        distributed: limit the processes to one CPU thread each, unless ``OMP_NUM_THREADS`` and ``MKL_NUM_THREADS`` are
            set.
    """
    if platform.system() != "Windows":
        current = multiprocessing.get_start_method(allow_none=True)
        if current not in (None, mp_start_method):
            message = f"changed the start method of processes from {current!r} to {mp_start_method!r}, as set in "
            warnings.warn(f"{message}mp_start_method", stacklevel=2)
        multiprocessing.set_start_method(mp_start_method, force=True)
    if importlib.util.find_spec("cv2"):
        import cv2

        cv2.setNumThreads(opencv_num_threads)
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        if distributed and name not in os.environ:
            warnings.warn(f"set {name}=1 for each process: set it yourself to use more threads", stacklevel=2)
            os.environ[name] = "1"


def load_url(
    url: str,
    model_dir: str | None = None,
    map_location: Any = None,
    progress: bool = True,
    check_hash: bool = False,
    file_name: str | None = None,
) -> Any:
    """Download a checkpoint, unless it was downloaded before, and load it without executing code in it.

    Args:
        url: its URL.
        model_dir: folder for the file; that of ``torch.hub`` if None.
        map_location: device for the tensors; the CPU if None.
        progress: show a progress bar.
        check_hash: compare the file with the hash in its name, such as ``resnet50-19c8e357.pth``.
        file_name: name of the file; that in the URL if None.
    """
    folder = Path(model_dir) if model_dir is not None else Path(torch.hub.get_dir()) / "checkpoints"
    file = folder / (file_name or Path(urlparse(url).path).name)
    if not file.exists():
        folder.mkdir(parents=True, exist_ok=True)
        found = HASH_REGEX.search(file.name) if check_hash else None
        print(f"Downloading {url} to {file}", file=sys.stderr)
        download_url_to_file(url, str(file), found[1] if found else None, progress)
    return load_checkpoint_file(file, map_location=map_location or "cpu")


def collect_env() -> OrderedDict[str, Any]:
    """Return versions and hardware by name."""
    env: OrderedDict[str, Any] = OrderedDict()
    env["sys.platform"] = sys.platform
    env["Python"] = sys.version.replace("\n", "")
    env["CUDA available"] = is_cuda_available()
    env["MUSA available"] = is_musa_available()
    env["numpy_random_seed"] = np.random.get_state()[1][0]  # type: ignore[index]
    names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    for name in dict.fromkeys(names):
        env["GPU " + ",".join(str(index) for index, other in enumerate(names) if other == name)] = name
    if names:
        env["CUDA_HOME"] = home = _get_cuda_home()
        env["NVCC"] = _version_of(str(Path(home or "", "bin", "hipcc" if torch.version.hip else "nvcc")))[-1]
    env["GCC"] = _version_of((sysconfig.get_config_var("CC") or "cc").split()[0])[0]
    env["PyTorch"] = TORCH_VERSION
    env["PyTorch compiling details"] = get_build_config()
    for shown, *packages in (
        ("TorchVision", "torchvision"),
        ("OpenCV", "opencv-python-headless", "opencv-python"),
        ("Trainwright", "trainwright"),
    ):
        for package in packages:
            try:
                env[shown] = version(package)
            except PackageNotFoundError:
                continue
    env["MMEngine"] = f"{VERSION} (names of, on Trainwright)"
    return env


def _version_of(compiler: str) -> list[str]:
    """Return the lines of ``--version``."""
    try:
        output = subprocess.run([compiler, "--version"], capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return ["n/a"]
    return output.strip().splitlines() or ["n/a"]


class TimeCounter:
    """A clock that prints the mean time of a function, as a decorator, or of a ``with`` block.

    Example:
        >>> with TimeCounter(tag="loading", log_interval=10):
        ...     load()

    Args:
        log_interval: number of runs between two lines.
        warmup_interval: number of the first run that counts, at least 1.
        with_sync: wait for the GPU before reading the time.
        tag: name in the lines; counters with the same one are the same object. The name of the function if None.
        logger: logger to write to; the lines are printed if None.
    """

    instance_dict: dict[str | None, "TimeCounter"] = {}  # noqa: RUF012
    log_interval: int
    warmup_interval: int
    with_sync: bool
    tag: str | None
    logger: MMLogger | None

    def __new__(
        cls,
        log_interval: int = 1,
        warmup_interval: int = 1,
        with_sync: bool = True,
        tag: str | None = None,
        logger: MMLogger | None = None,
    ) -> Self:
        assert warmup_interval >= 1
        if tag is not None and tag in cls.instance_dict:
            return cls.instance_dict[tag]  # type: ignore[return-value]
        counter = cls.instance_dict[tag] = super().__new__(cls)
        counter.log_interval, counter.warmup_interval, counter.with_sync = log_interval, warmup_interval, with_sync
        counter.tag, counter.logger = tag, logger
        counter._runs, counter._total, counter._start = 0, 0.0, 0.0
        return counter

    _runs: int
    _total: float
    _start: float

    @master_only
    def __call__(self, fn: Callable[..., Any]) -> Callable[..., Any]:
        if self.tag is None:
            self.tag = fn.__name__

        def timed(*args: Any, **kwargs: Any) -> Any:
            with self:
                return fn(*args, **kwargs)

        return timed

    @master_only
    def __enter__(self) -> None:
        assert self.tag is not None, "set the tag, the name in the log"
        self._runs += 1
        self._synchronize()
        self._start = time.perf_counter()

    @master_only
    def __exit__(self, *exception: object) -> None:
        self._synchronize()
        self.print_time(time.perf_counter() - self._start)

    def print_time(self, elapsed: float) -> None:
        """Count the seconds of a run, and print the mean if it is time to."""
        if self._runs < self.warmup_interval:
            return
        self._total += elapsed
        if self._runs % self.log_interval == 0:
            mean = 1000 * self._total / (self._runs - self.warmup_interval + 1)
            print_log(f"[{self.tag}]-time per run averaged in the past {self._runs} runs: {mean:.1f} ms", self.logger)

    def _synchronize(self) -> None:
        if self.with_sync and torch.cuda.is_available():
            torch.cuda.synchronize()


class ToyModel(BaseModel):
    """A model without training, for :func:`fake_run`."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 1, 1)

    def forward(self, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        """Return a loss of 0."""
        return {"loss": torch.tensor(0.0)}


def update_params_step(self: OptimWrapper, loss: Tensor) -> None:
    """Do nothing with a loss."""


def runtimeinfo_step(self: Any, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
    """Record the learning rate and momentum of a step."""
    runner.message_hub.update_info("iter", runner.iter)
    for found in (runner.optim_wrapper.get_lr(), runner.optim_wrapper.get_momentum()):
        for name, values in found.items():
            runner.message_hub.update_scalar(f"train/{name}", values[0])


def fake_run(cfg: Any) -> None:
    """Run the training of a config without a model, to see its schedules in TensorBoard, in the folder ``temp_dir``."""
    backends = [{"type": "TensorboardVisBackend", "save_dir": "temp_dir"}]
    unused = ("val_dataloader", "val_evaluator", "val_cfg", "test_dataloader", "test_evaluator", "test_cfg")
    for name in unused:
        cfg.pop(name, None)
    cfg.model = {"type": ToyModel}
    cfg.visualizer = {"type": "Visualizer", "vis_backends": backends}
    with (
        patch.object(OptimWrapper, "update_params", update_params_step),
        patch.object(RuntimeInfoHook, "before_train_iter", runtimeinfo_step),
    ):
        Runner.from_cfg(cfg).train()
