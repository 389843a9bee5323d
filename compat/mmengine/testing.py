"""``mmengine.testing``: helpers for the tests of libraries."""

import copy
import logging
import multiprocessing
import os
import shutil
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterable, Mapping
from functools import wraps
from multiprocessing.connection import wait
from pathlib import Path
from runpy import run_path
from shlex import split
from types import MethodType
from typing import Any, ClassVar, NamedTuple
from unittest import SkipTest, TestCase
from unittest.mock import patch
from uuid import uuid4

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from trainwright.compat.mmengine.dl_utils import TORCH_VERSION, is_norm
from trainwright.compat.mmengine.registry import DefaultScope
from trainwright.compat.mmengine.utils import digit_version
from trainwright.engine import (
    DATASETS,
    METRICS,
    MODELS,
    BaseMetric,
    Config,
    MessageHub,
    MMLogger,
    Runner,
    Visualizer,
)
from trainwright.engine.distributed import close_dist, is_distributed
from trainwright.models import BaseModel

logger = logging.getLogger(__name__)

# Comparisons

_TOLERANCES = {torch.float16: (1e-3, 1e-3), torch.float32: (1e-4, 1e-5), torch.float64: (1e-5, 1e-8)}


def assert_allclose(
    actual: Any,
    expected: Any,
    rtol: float | None = None,
    atol: float | None = None,
    equal_nan: bool = True,
    msg: Any = "",
) -> None:
    """Raise an AssertionError unless two tensors, or what can be converted to them, are nearly equal.

    Args:
        actual: a tensor, array, list or number.
        expected: what it should be; the dtype does not matter.
        rtol: relative tolerance; if None, 1e-4 for float32 and more or less for other dtypes.
        atol: absolute tolerance, which is set together with ``rtol``.
        equal_nan: let NaN be equal to itself.
        msg: the message of the error.
    """
    actual = torch.as_tensor(actual)
    expected = expected if isinstance(expected, Tensor) else torch.as_tensor(expected, dtype=actual.dtype)
    if rtol is None and atol is None:
        found = [_TOLERANCES.get(tensor.dtype, (0.0, 0.0)) for tensor in (actual, expected)]
        rtol, atol = map(max, zip(*found))
    torch.testing.assert_close(
        actual, expected, rtol=rtol, atol=atol, equal_nan=equal_nan, check_dtype=False, msg=msg or None
    )


def check_python_script(cmd: str) -> None:
    """Run a script in this process, as ``python SCRIPT ARGS…`` does."""
    args = split(cmd)
    args = args[1:] if args[0] == "python" else args
    with patch.object(sys, "argv", args):
        run_path(args[0], run_name="__main__")


def _any(judge_result: Any) -> bool:
    """Return whether a value, or anything in nested iterables, is true."""
    if isinstance(judge_result, Tensor) or not isinstance(judge_result, Iterable):
        return bool(judge_result.any() if isinstance(judge_result, Tensor) else judge_result)
    return any(_any(item) for item in judge_result)


def assert_dict_contains_subset(dict_obj: Mapping[Any, Any], expected_subset: Mapping[Any, Any]) -> bool:
    """Return whether a dictionary has all items of another one."""
    return all(key in dict_obj and not _any(dict_obj[key] != value) for key, value in expected_subset.items())


def assert_attrs_equal(obj: Any, expected_attrs: Mapping[str, Any]) -> bool:
    """Return whether an object has all attributes with the expected values."""
    return all(hasattr(obj, name) and not _any(getattr(obj, name) != value) for name, value in expected_attrs.items())


def assert_dict_has_keys(obj: Mapping[Any, Any], expected_keys: Iterable[Any]) -> bool:
    """Return whether a dictionary has all keys."""
    return set(expected_keys) <= set(obj)


def assert_keys_equal(result_keys: Iterable[Any], target_keys: Iterable[Any]) -> bool:
    """Return whether two collections have the same members."""
    return set(result_keys) == set(target_keys)


def assert_is_norm_layer(module: nn.Module) -> bool:
    """Return whether a layer is a normalization."""
    return is_norm(module)


def assert_params_all_zeros(module: Any) -> bool:
    """Return whether weight and bias of a layer are 0."""
    params = (module.weight, getattr(module, "bias", None))
    return all(param is None or bool(param.detach().allclose(torch.zeros_like(param))) for param in params)


# Tests of the Runner


class ToyModel(BaseModel):
    """A model of two linear layers."""

    def __init__(self, data_preprocessor: Any = None) -> None:
        super().__init__(data_preprocessor=data_preprocessor)
        self.linear1 = nn.Linear(2, 2)
        self.linear2 = nn.Linear(2, 1)

    def forward(self, inputs: Any, data_samples: Any = None, mode: str = "tensor") -> Any:
        """Return the outputs, or with ``mode="loss"`` a loss."""
        stacked = [torch.stack(value) if isinstance(value, list) else value for value in (inputs, data_samples)]
        outputs = self.linear2(self.linear1(stacked[0]))
        return {"loss": (stacked[1] - outputs).sum()} if mode == "loss" else outputs


class ToyDataset(Dataset[Any]):
    """Twelve random samples."""

    METAINFO: ClassVar[dict[str, Any]] = {}
    data = torch.randn(12, 2)
    label = torch.ones(12)

    @property
    def metainfo(self) -> dict[str, Any]:
        """Information about the data, of which there is none."""
        return self.METAINFO

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {"inputs": self.data[index], "data_samples": self.label[index]}


class ToyMetric(BaseMetric):
    """A metric that is always 1."""

    def __init__(self, collect_device: str = "cpu", dummy_metrics: Any = None) -> None:
        super().__init__(collect_device=collect_device)
        self.dummy_metrics = dummy_metrics

    def process(self, data_batch: Any, predictions: Any) -> None:
        """Count a batch."""
        self.results.append({"acc": 1})

    def compute_metrics(self, results: Any) -> dict[str, float]:
        """Return the metric."""
        return {"acc": 1}


class RunnerTestCase(TestCase):
    """Base class of tests that train a toy model.

    Attributes:
        epoch_based_cfg: a config for two epochs.
        iter_based_cfg: a config for twelve iterations.
        temp_dir: the temporary folder that is the work dir.
    """

    dist_cfg: ClassVar[dict[str, Any]] = {
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": 29600, "RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0",
    }  # fmt: skip
    _TOYS: ClassVar[dict[Any, type]] = {MODELS: ToyModel, METRICS: ToyMetric, DATASETS: ToyDataset}

    def setUp(self) -> None:
        """Register the toys and make the configs."""
        self.temp_dir = tempfile.TemporaryDirectory()
        for registry, toy in self._TOYS.items():
            registry.register_module(module=toy, force=True)

        def loader(sampler: str, shuffle: bool) -> dict[str, Any]:
            sampler_cfg = {"type": sampler, "shuffle": shuffle}
            return {"dataset": {"type": "ToyDataset"}, "sampler": sampler_cfg, "batch_size": 3, "num_workers": 0}

        hooks = {"logger": {"type": "LoggerHook", "interval": 1}}
        self.epoch_based_cfg = Config(
            {
                "work_dir": self.temp_dir.name,
                "model": {"type": "ToyModel"},
                "train_dataloader": loader("DefaultSampler", True),
                "val_dataloader": loader("DefaultSampler", False),
                "val_evaluator": [{"type": "ToyMetric"}],
                "test_dataloader": loader("DefaultSampler", False),
                "test_evaluator": [{"type": "ToyMetric"}],
                "optim_wrapper": {"optimizer": {"type": "SGD", "lr": 0.1}},
                "train_cfg": {"by_epoch": True, "max_epochs": 2, "val_interval": 1},
                "val_cfg": {},
                "test_cfg": {},
                "default_hooks": hooks,
                "custom_hooks": [],
                "env_cfg": {"dist_cfg": {"backend": "nccl"}},
                "experiment_name": "test1",
            }
        )
        self.iter_based_cfg: Any = copy.deepcopy(self.epoch_based_cfg)
        self.iter_based_cfg.train_dataloader = loader("InfiniteSampler", True)
        self.iter_based_cfg.log_processor = {"by_epoch": False}
        self.iter_based_cfg.train_cfg = {"by_epoch": False, "max_iters": 12}
        checkpoint = {"type": "CheckpointHook", "interval": 12, "by_epoch": False}
        self.iter_based_cfg.default_hooks = {**hooks, "checkpoint": checkpoint}

    def tearDown(self) -> None:
        """Remove what the test has left."""
        for cls in (MMLogger, MessageHub, Visualizer):
            cls._instance_dict.clear()
        DefaultScope._instances.clear()
        for registry, toy in self._TOYS.items():
            registry.module_dict.pop(toy.__name__, None)
        self.temp_dir.cleanup()
        if is_distributed():
            close_dist()

    def build_runner(self, cfg: Config) -> Runner:
        """Return a Runner with its own name."""
        cfg.experiment_name = self.experiment_name
        return Runner.from_cfg(cfg)

    @property
    def experiment_name(self) -> str:
        """A name that no other run has."""
        return f"{self._testMethodName}_{time.time()} + {uuid4()}"

    def setup_dist_env(self) -> None:
        """Set the environment variables of a launcher that starts one process."""
        self.dist_cfg["MASTER_PORT"] += 1
        os.environ.update({name: str(value) for name, value in self.dist_cfg.items()})

    def clear_work_dir(self) -> None:
        """Empty the work dir."""
        for path in Path(self.temp_dir.name).iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()


# Tests in several processes


class TestSkip(NamedTuple):
    """Why a process skips its test, and its exit status."""

    exit_code: int
    message: str


TEST_SKIPS = {
    "backend_unavailable": TestSkip(10, "the backend is not available"),
    "no_cuda": TestSkip(11, "CUDA is not available"),
    "multi-gpu-2": TestSkip(12, "at least 2 GPUs are needed"),
    "generic": TestSkip(13, "the test was skipped in a process, whose output has the reason"),
}


class MultiProcessTestCase(TestCase):
    """Base class of tests that run in several processes.

    ``setUp`` of a subclass calls :meth:`_spawn_processes`; then each test runs in all of them, and passes if it does in
    each. :meth:`prepare_subprocess` prepares a process, for example by setting its environment variables.

    Args:
        method_name: name of the test.
        methodName: the same.
    """

    MAIN_PROCESS_RANK = -1
    TEST_ERROR_EXIT_CODE = 10

    def __init__(self, method_name: str = "runTest", methodName: str = "runTest") -> None:
        name = method_name if methodName == "runTest" else methodName
        super().__init__(name)
        if hasattr(self, name):
            setattr(self, name, self.join_or_run(getattr(self, name)))

    @property
    def world_size(self) -> int:
        """Number of processes."""
        return 2

    @property
    def timeout(self) -> int:
        """Seconds after which the test fails."""
        return 1000

    @property
    def is_master(self) -> bool:
        """Whether this process has rank 0."""
        return self.rank == 0

    def prepare_subprocess(self) -> None:
        """Prepare a process."""

    def join_or_run(self, fn: Callable[[], Any]) -> MethodType:
        """Return the test, which waits for the processes in the main one."""

        @wraps(fn)
        def wrapper(self: "MultiProcessTestCase") -> None:
            if self.rank == self.MAIN_PROCESS_RANK:
                self._join_processes(fn)
            else:
                fn()

        return MethodType(wrapper, self)

    def setUp(self) -> None:
        """Prepare the main process."""
        super().setUp()
        self.skip_return_code_checks: list[Any] = []
        self.processes: list[Any] = []
        self.rank = self.MAIN_PROCESS_RANK
        self.file_name = tempfile.NamedTemporaryFile(delete=False).name  # noqa: SIM115 - for the processes to share
        self.pid_to_pipe: dict[int, Any] = {}

    def tearDown(self) -> None:
        """End the processes."""
        super().tearDown()
        for process in self.processes:
            process.terminate()
        self.processes = []

    def _spawn_processes(self) -> None:
        self._start_processes(multiprocessing.get_context("spawn").Process)

    def _start_processes(self, proc: Callable[..., Any]) -> None:
        for rank in range(self.world_size):
            here, there = multiprocessing.Pipe()
            arguments = (rank, self._testMethodName, self.file_name, there)
            process = proc(target=type(self)._run, name=f"process {rank}", args=arguments)
            process.start()
            self.pid_to_pipe[process.pid] = here
            self.processes.append(process)

    @classmethod
    def _run(cls, rank: int, test_name: str, file_name: str, parent_pipe: Any) -> None:
        """Run the test in a process, and send the traceback if it fails."""
        test = cls(test_name)
        test.rank, test.file_name = rank, file_name
        try:
            test.prepare_subprocess()
            getattr(test, test_name)()
        except SkipTest as skip:
            logger.info("process %s skips %s: %s", rank, test_name, skip)
            sys.exit(TEST_SKIPS["generic"].exit_code)
        except Exception:
            parent_pipe.send(traceback.format_exc())
            sys.exit(cls.TEST_ERROR_EXIT_CODE)

    def _join_processes(self, fn: Callable[[], Any]) -> None:
        """Wait for the processes, and fail or skip the test as they do."""
        end = time.monotonic() + self.timeout
        running = {process.sentinel: process for process in self.processes}
        try:
            while running and time.monotonic() < end:
                for sentinel in wait(list(running), max(0.0, end - time.monotonic())):
                    running.pop(sentinel).join()
                self._check_return_codes(fn)
            if running:
                raise RuntimeError(f"{len(running)} of {len(self.processes)} processes run after {self.timeout} s")
        finally:
            for process in running.values():
                process.terminate()
            for pipe in self.pid_to_pipe.values():
                pipe.close()

    def _check_return_codes(self, fn: Callable[[], Any]) -> None:
        skips = {skip.exit_code: skip.message for name, skip in TEST_SKIPS.items() if name != "backend_unavailable"}
        for rank, process in enumerate(self.processes):
            code, pipe = process.exitcode, self.pid_to_pipe[process.pid]
            if code in skips:
                raise SkipTest(skips[code])
            if code and not (fn in self.skip_return_code_checks and code != self.TEST_ERROR_EXIT_CODE):
                error = pipe.recv() if pipe.poll() else ""
                raise RuntimeError(f"process {rank} exited with status {code}:\n{error}")
