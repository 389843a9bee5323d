"""The folder of a run: created, locked while a training runs in it, and with the resolved config."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from trainwright.engine.config.config import Config
from trainwright.engine.distributed import is_main_process, value_of_main_process
from trainwright.engine.errors import ConfigError
from trainwright.engine.run.environment import make_folder, make_log_dir
from trainwright.engine.run.lock import locked


class WorkDir:
    """The folder of a run, which is created if necessary.

    Args:
        path: the folder.

    Raises:
        ConfigError: the folder cannot be created, or is not writable.
    """

    def __init__(self, path: str) -> None:
        self.path = str(Path(path).absolute())
        timestamp = ""
        if is_main_process():
            make_folder(self.path, "work_dir", "choose another: work_dir in the config, or --work-dir")
            timestamp = make_log_dir(Path(self.path))
        self.timestamp: str = value_of_main_process(timestamp)
        """Name of the log folder, the same in all processes."""
        self.log_dir = str(Path(self.path, self.timestamp))

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Context manager in which no other training can run in this folder.

        Raises:
            ConfigError: in every process, if another training runs there.
        """
        with ExitStack() as stack:
            refusal = None
            if is_main_process():
                try:
                    stack.enter_context(locked(self.path))
                except ConfigError as error:
                    refusal = error
            if (refusal := value_of_main_process(refusal)) is not None:
                raise refusal
            yield

    def dump(self, cfg: Config) -> None:
        """Write the resolved config, under the name of its file.

        Raises:
            ConfigError: it cannot be written.
        """
        name = Path(cfg.filename).with_suffix(".py").name if cfg.filename else f"{self.timestamp}.py"
        try:
            cfg.dump(Path(self.path, name))
        except OSError as error:
            raise ConfigError("work_dir", f"cannot be written: {error}", "make room, or choose another") from error
