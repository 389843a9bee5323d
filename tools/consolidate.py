"""Converting sharded checkpoints to files, and back."""

from pathlib import Path

from trainwright.engine.checkpoints.files import load_checkpoint_file, save_checkpoint
from trainwright.engine.checkpoints.folder_reader import SUFFIX
from trainwright.engine.checkpoints.folder_writer import write_folders
from trainwright.engine.errors import CheckpointError, ConfigError


def consolidate(source: str, target: str) -> None:
    """Convert a sharded checkpoint to a file, or a file to a sharded checkpoint, with the same contents.

    All of it is loaded into memory.

    Args:
        source: a folder or file.
        target: the file or folder to write.

    Raises:
        ConfigError: the target exists, or its name does not fit.
        CheckpointError: the source is missing or corrupt, or the disk is full or not writable; nothing is left behind.
    """
    file, path = Path(source), Path(target)
    if path.exists():
        raise ConfigError("TARGET", f"{path} exists", "remove it, or choose another name")
    if file.is_dir() and path.suffix == SUFFIX:
        raise ConfigError("TARGET", f"{file} is a folder, and {path} would be one too", "write a .pth file")
    if not file.is_dir() and path.suffix != SUFFIX:
        hint = f"write a folder, such as {path.with_suffix(SUFFIX)}"
        raise ConfigError("TARGET", f"{file} is not a folder, and {path} does not end in {SUFFIX}", hint)
    checkpoint = load_checkpoint_file(file)
    try:
        if path.suffix != SUFFIX:
            save_checkpoint(checkpoint, path)
        else:
            if (ranks := checkpoint.get("trainwright", {}).get("ranks")) is not None:
                ranks["states"] = dict(enumerate(ranks["states"]))
            write_folders(checkpoint, [path], None, None, None)
    except OSError as error:
        raise CheckpointError(f"{path} was not written: {error}") from error
