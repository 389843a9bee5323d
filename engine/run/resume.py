"""Where a run starts from: the weights, and the state of a run that is resumed."""

from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainwright.engine.checkpoints import contents
from trainwright.engine.checkpoints import files as checkpoints
from trainwright.engine.config.compare import what_changed
from trainwright.engine.distributed import broadcast_parameters
from trainwright.engine.errors import CheckpointError
from trainwright.engine.parts import setting
from trainwright.engine.random_streams import kept_host_streams, mix, seed_all
from trainwright.engine.run.model_setup import initialize_model, unwrap
from trainwright.engine.run.model_surgery import turn_on_activation_checkpointing

if TYPE_CHECKING:
    from trainwright.engine.run.runner import Runner

_INITIALIZATION = 2  # number of the random stream, beside those of training and evaluation steps


def set_up_weights(runner: "Runner") -> None:
    """Load the weights that a run starts with, and initialize those that are not in the checkpoint.

    Args:
        runner: the run, with its model and hooks built.

    Raises:
        CheckpointError: the checkpoint does not fit.
    """
    start, model = runner.start, unwrap(runner.model)
    if start.path is None:
        _initialize(runner)
    else:
        load_weights(runner, start.contents, start.path, strict=start.resumes, initialize=True)
    if start.resumes:
        contents.load_counters(runner, start.contents)
    if names := setting(runner.cfg, "activation_checkpointing"):
        turn_on_activation_checkpointing(model, names)


def restore_run(runner: "Runner") -> None:
    """Restore the state of a run that is resumed.

    Args:
        runner: the run, with all its parts built.

    Raises:
        CheckpointError: a part is missing, or does not fit.
    """
    start = runner.start
    try:
        contents.restore_state(runner, start.contents)
    except CheckpointError as error:
        raise CheckpointError(f"{start.path}: {error}") from error
    _report_changes(runner, start.contents)
    runner.logger.info("Resumed from %s: epoch %d, iteration %d", start.path, runner.epoch, runner.iter)
    with suppress(CheckpointError):  # a damaged note
        last = checkpoints.read_last_checkpoint(runner.work_dir)
        if last is not None and start.path is not None and last.absolute() == Path(start.path).absolute():
            runner.checkpoint_writer.mark_saved()


def load_weights(
    runner: "Runner",
    checkpoint: dict[str, Any],
    filename: str,
    strict: bool = False,
    revise_keys: Sequence[tuple[str, str]] = checkpoints.REVISE_KEYS,
    initialize: bool = False,
) -> None:
    """Load the weights in a checkpoint into the model, after the hooks have seen it; what does not fit is reported.

    Args:
        runner: the run.
        checkpoint: what the file holds.
        filename: its name, for messages.
        strict: raise if anything does not fit.
        revise_keys: pairs of (regular expression, replacement) for the names.
        initialize: initialize what the checkpoint leaves out; otherwise it keeps its values.

    Raises:
        CheckpointError: something does not fit and ``strict`` is set, or nothing fits.
    """
    runner.call_hook("after_load_checkpoint", checkpoint=checkpoint)
    _drop_average(runner, checkpoint)
    weights, model = checkpoints.get_state_dict(checkpoint), unwrap(runner.model)
    try:
        fit = checkpoints.load_state_dict(model, weights, strict=strict, revise_keys=revise_keys)
    except CheckpointError as error:
        raise CheckpointError(f"{filename}: {error}") from error
    if initialize:
        _initialize(runner, fit.missing)
        if fit.missing:  # some of the initialized modules had one of their tensors already
            checkpoints.load_state_dict(model, weights, revise_keys=revise_keys)
    if fit:
        runner.logger.warning("Not all weights of %s were loaded:\n%s", filename, fit)
    else:
        runner.logger.info("Loaded the weights of %s", filename)


def _initialize(runner: "Runner", missing: Collection[str] | None = None) -> None:
    """Initialize the model, or its tensors that are missing, with a random stream of its own."""
    with kept_host_streams():
        seed_all(mix(runner.seed, runner.rank_seed, _INITIALIZATION))
        initialize_model(unwrap(runner.model), missing)
    if missing is None or missing:
        broadcast_parameters(unwrap(runner.model))


def _drop_average(runner: "Runner", checkpoint: dict[str, Any]) -> None:
    """Continue a run that averaged its weights, and no longer does, with the weights that were trained."""
    if runner.start.is_resumed(checkpoint) and (trained := checkpoint.pop("ema_state_dict", None)) is not None:
        prefix = "module."
        weights = {name.removeprefix(prefix): value for name, value in trained.items() if name.startswith(prefix)}
        checkpoint["state_dict"] = {**checkpoint["state_dict"], **weights}
        runner.logger.warning(
            "The checkpoint holds averaged weights, and no hook of this run averages them: the average is dropped, and "
            "the weights that were trained continue."
        )


def _report_changes(runner: "Runner", checkpoint: Mapping[str, Any]) -> None:
    try:
        saved = contents.saved_config(checkpoint)
    except CheckpointError as error:
        runner.logger.warning("The config is not compared with that of the checkpoint: %s", error)
        return
    if saved and runner.cfg and (changes := what_changed(saved, runner.cfg)):
        lines = "\n".join(f"  {line}" for line in changes)
        runner.logger.warning("The config is not the one of the checkpoint:\n%s", lines)
