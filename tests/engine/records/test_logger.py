"""The logger: its lines in files, in a terminal and in a pipe."""

import gc
import io
import logging
import pickle
import re
import warnings
from pathlib import Path

import pytest

from trainwright.engine.records import logger as our_logging
from trainwright.engine.records.logger import MMLogger, get_logger, print_log

TIME = r"\d{4}/\d\d/\d\d \d\d:\d\d:\d\d"


@pytest.fixture
def stream() -> io.StringIO:
    return io.StringIO()


def make(tmp_path: Path, stream: io.StringIO, **kwargs: object) -> MMLogger:
    return MMLogger("test", log_file=tmp_path / "logs" / "run.log", stream=stream, **kwargs)  # type: ignore[arg-type]


def lines(tmp_path: Path) -> list[str]:
    return (tmp_path / "logs" / "run.log").read_text().splitlines()


def test_lines_of_file_and_pipe(tmp_path: Path, stream: io.StringIO) -> None:
    logger = make(tmp_path, stream)
    logger.info("Epoch(train) [1][2/4]  loss: %.4f", 1.5)
    logger.warning("careful")
    logger.debug("not shown")
    one, two = lines(tmp_path)
    assert re.fullmatch(TIME + r" - trainwright - INFO - Epoch\(train\) \[1\]\[2/4\]  loss: 1.5000", one)
    assert re.fullmatch(TIME + r" - trainwright - WARNING - careful", two)
    shown = stream.getvalue().splitlines()
    assert re.fullmatch(r"\d\d/\d\d \d\d:\d\d:\d\d - trainwright - INFO - .*loss: 1.5000", shown[0])
    assert "\x1b" not in stream.getvalue()


def test_errors_contain_their_source_location(tmp_path: Path, stream: io.StringIO) -> None:
    make(tmp_path, stream).error("broken")
    (line,) = lines(tmp_path)
    assert re.fullmatch(
        TIME + r" - trainwright - ERROR - .*test_logger.py - test_errors_contain_their_source_location - \d+ - broken",
        line,
    )


def test_a_long_line_is_not_wrapped(tmp_path: Path, stream: io.StringIO) -> None:
    make(tmp_path, stream).info("x" * 500)
    assert "x" * 500 in stream.getvalue()


def test_a_terminal_shows_colors_and_ignores_markup(
    tmp_path: Path, stream: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm-256color")
    logger = make(tmp_path, stream)
    logger.warning("array [1, 2] and [bold]")
    assert "\x1b[" in stream.getvalue()
    assert "array [1, 2] and [bold]" in stream.getvalue()
    assert "\x1b" not in lines(tmp_path)[0]


def test_a_warning_is_shown_once(tmp_path: Path, stream: io.StringIO) -> None:
    logger = make(tmp_path, stream)
    for number in (1, 1, 2):
        logger.warning("number %d", number)
        logger.info("step")
    assert [line.split(" - ")[-1] for line in lines(tmp_path)] == [
        "number 1",
        "step",
        "step",
        "number 2",
        "step",
    ]


def test_level(tmp_path: Path, stream: io.StringIO) -> None:
    logger = make(tmp_path, stream, log_level="WARNING")
    logger.info("no")
    logger.setLevel("debug")
    logger.debug("yes")
    assert [line.split(" - ")[-1] for line in lines(tmp_path)] == ["yes"]
    with pytest.raises(ValueError, match="did you mean 'WARNING'"):
        logger.setLevel("WARNNG")


def test_logging_reopens_a_closed_file(tmp_path: Path, stream: io.StringIO) -> None:
    logger = make(tmp_path, stream)
    logger.info("one")
    logger.close()
    logger.info("two")
    logger.close()
    assert [line.split(" - ")[-1] for line in lines(tmp_path)] == ["one", "two"]


def test_the_file_of_an_abandoned_logger_is_closed(tmp_path: Path, stream: io.StringIO) -> None:
    logger = make(tmp_path, stream)
    logger.info("one")
    logger.in_a_cycle = logger  # type: ignore[attr-defined]
    del logger
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        gc.collect()
    assert not [warning for warning in seen if str(tmp_path) in str(warning.message)]


def test_file_mode(tmp_path: Path, stream: io.StringIO) -> None:
    for file_mode, expected in (("w", ["a"]), ("a", ["a", "a"]), ("w", ["a"])):
        logger = make(tmp_path, stream, file_mode=file_mode)
        logger.info("a")
        logger.close()
        assert [line.split(" - ")[-1] for line in lines(tmp_path)] == expected


def test_file_handler_cfg(tmp_path: Path, stream: io.StringIO) -> None:
    cfg = {"type": "RotatingFileHandler", "maxBytes": 200, "backupCount": 2}
    logger = make(tmp_path, stream, file_handler_cfg=cfg)
    for number in range(6):
        logger.info("line number %d of several", number)
    logger.close()
    assert {path.name for path in (tmp_path / "logs").iterdir()} == {"run.log", "run.log.1", "run.log.2"}
    assert cfg["type"] == "RotatingFileHandler"
    with pytest.raises(ValueError, match="did you mean 'RotatingFileHandler'"):
        make(tmp_path, stream, file_handler_cfg={"type": "RotatingFileHandle"})


def test_only_rank_0_writes(tmp_path: Path, stream: io.StringIO, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(our_logging, "_rank_and_world_size", lambda: (3, 4))
    logger = make(tmp_path, stream)
    logger.info("quiet")
    logger.error("loud")
    assert logger.log_file is None
    assert not (tmp_path / "logs").exists()
    assert stream.getvalue().endswith("loud\n") and "quiet" not in stream.getvalue()


def test_each_rank_writes_a_file_if_distributed(
    tmp_path: Path, stream: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(our_logging, "_rank_and_world_size", lambda: (3, 4))
    logger = make(tmp_path, stream, distributed=True)
    logger.info("quiet")
    assert re.fullmatch(r"run_.*_device\d+_rank3\.log", Path(str(logger.log_file)).name)
    assert "quiet" in Path(str(logger.log_file)).read_text()
    assert make(tmp_path, stream, log_level="DEBUG").log_file is not None


def test_other_logging_settings_do_not_affect_it(tmp_path: Path, stream: io.StringIO) -> None:
    logger = make(tmp_path, stream)
    before = logging.getLogger().handlers[:]
    logging.getLogger("trainwright").setLevel(logging.CRITICAL)
    logger.info("shown")
    assert len(lines(tmp_path)) == 1
    assert logging.getLogger().handlers == before
    assert logging.getLogger("trainwright") is not logger


def test_current_logger_of_two_runs(tmp_path: Path) -> None:
    one, two = MMLogger("one", log_file=tmp_path / "1.log"), MMLogger("two", log_file=tmp_path / "2.log")
    with MMLogger.set_current(one):
        get_logger().info("to one")
        with MMLogger.set_current(two):
            print_log("to two", "current", logging.WARNING)
        print_log("again to one", "one")
    one.close()
    two.close()
    assert [line.split(" - ")[-1] for line in (tmp_path / "1.log").read_text().splitlines()] == [
        "to one",
        "again to one",
    ]
    assert (tmp_path / "2.log").read_text().endswith("WARNING - to two\n")


def test_print_log(capsys: pytest.CaptureFixture[str], stream: io.StringIO) -> None:
    print_log("printed")
    print_log("nothing", "silent")
    assert capsys.readouterr().out == "printed\n"
    print_log("logged", MMLogger("x", stream=stream))
    assert stream.getvalue().endswith("INFO - logged\n")
    with pytest.raises(ValueError, match="'absent'"):
        print_log("lost", "absent")
    with pytest.raises(TypeError, match="3"):
        print_log("lost", 3)  # type: ignore[arg-type]


def test_outside_a_run_it_writes_to_stderr(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MMLogger, "_instance_dict", {})
    get_logger().info("hello")
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.endswith("INFO - hello\n")


def test_a_copy_in_another_process_is_the_logger_there(stream: io.StringIO) -> None:
    logger = MMLogger("x", stream=stream)
    data = pickle.dumps(logger)
    with MMLogger.set_current(logger):
        assert pickle.loads(data) is logger
