"""Fixtures and settings shared by all tests."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from forked import Process

from trainwright.engine.records.logger import MMLogger

torch.set_num_threads(1)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option for the device of tests/gpu and of the operators in tests/compat."""
    message = "device of tests marked gpu (default: the accelerator) and of mmcv's operators; cpu tries them out"
    parser.addoption("--device", help=message)


def pytest_configure(config: pytest.Config) -> None:
    """Hide CUDA devices from all other tests, and from the processes that they start."""
    if "gpu" not in config.getoption("markexpr").replace("not gpu", "") and not config.getoption("--device"):
        os.environ["CUDA_VISIBLE_DEVICES"] = ""


@pytest.fixture(autouse=True)
def no_process_is_left() -> Iterator[None]:
    """End the processes that a test has started, also if it fails before it waits for them."""
    yield
    for process in list(Process.running):
        process.end()


@pytest.fixture
def in_tmp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Change to an empty folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    """Record what is logged to the current logger."""
    logger = MMLogger(name="test", logger_name="test")
    logger.addHandler(caplog.handler)
    with MMLogger.set_current(logger):
        yield caplog
