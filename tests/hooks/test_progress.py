"""ProgressHook shows a bar in a terminal and nothing elsewhere."""

import io
import re
import sys
from pathlib import Path
from typing import Any

import pytest
from tiny_runs import Points, Scripted, make_runner

from trainwright.engine.run.hook import Hook
from trainwright.hooks.progress import ProgressHook


class Terminal(io.StringIO):
    """A stream that pretends to be a terminal."""

    def isatty(self) -> bool:
        return True


def text_of(terminal: Terminal) -> str:
    """Return the written text without control sequences."""
    return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", terminal.getvalue())


def open_terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """Replace stdout with a terminal. (This cannot be a fixture, because pytest sets stdout before the test.)"""
    terminal = Terminal()
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr(sys, "stdout", terminal)
    return terminal


def train(tmp_path: Path, **options: Any) -> Any:
    runner = make_runner(tmp_path, dataset=Points(48), **options)
    (hook,) = (hook for hook in runner.hooks if isinstance(hook, ProgressHook))
    hook.refresh_seconds = 0
    runner.train()
    return runner


def test_no_bar_if_output_is_piped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    hook = ProgressHook()
    assert hook.get_triggered_stages() == []
    train(tmp_path)
    assert "it/s" not in capsys.readouterr().out


def test_training_in_a_terminal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = open_terminal(monkeypatch)
    runner = train(tmp_path, metric=Scripted(acc=[1, 2, 3]))
    text = text_of(terminal)
    for part in ("epoch 1/3", "epoch 3/3", "10/12", "12/12", "val", "it/s", "eta 0:00:00"):
        assert part in text
    loss = runner.message_hub.get_scalar("train/loss")
    first = sum(loss.data[0][:10].tolist()) / 10
    assert f"loss {first:.4f}" in text
    assert re.search(r"- INFO - Epoch\(train\) +\[1\]\[10/12\]  lr: .*loss: \d\.\d{4}\r?\n", text)


def test_a_loop_by_iterations(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = open_terminal(monkeypatch)
    train(tmp_path, train_cfg={"by_epoch": False, "max_iters": 15}, log_processor={"by_epoch": False})
    assert "15/15" in text_of(terminal)


def test_a_bar_does_not_survive_an_exception(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = open_terminal(monkeypatch)

    class Failing(Hook):
        def after_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
            raise RuntimeError("broken")

    runner = make_runner(tmp_path, [Failing()])
    with pytest.raises(RuntimeError, match="broken"):
        runner.train()
    assert "\x1b[?25l" in terminal.getvalue()  # the cursor is hidden below a bar
    assert terminal.getvalue().count("\x1b[?25h") == terminal.getvalue().count("\x1b[?25l")
