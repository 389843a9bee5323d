"""Loading the initial weights, and restoring the state of a resumed run."""

from collections.abc import Collection, Mapping, Sequence
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainwright.engine.checkpoints import contents
from trainwright.engine.checkpoints import files as checkpoints
from trainwright.engine.config.compare import what_changed
from trainwright.engine.distributed import value_of_main_process
from trainwright.engine.errors import CheckpointError
from trainwright.engine.fidelity import reproduces_mmengine
from trainwright.engine.optim.wrapper_dict import OptimWrapperDict
from trainwright.engine.parts import setting
from trainwright.engine.random_streams import mix, preserve_python_rng, seed_all
from trainwright.engine.ranks.state import take_own
from trainwright.engine.run.model_setup import initialize_model, unwrap
from trainwright.engine.run.model_surgery import turn_on_activation_checkpointing

if TYPE_CHECKING:
    from trainwright.engine.run.runner import Runner

_INITIALIZATION = 2  # number of the random stream, next to those of training and evaluation steps


def set_up_weights(runner: "Runner") -> None:
    """Load the initial weights of a run with a model and hooks, and initialize those missing from the checkpoint.

    Raises:
        CheckpointError: the checkpoint does not match the model.
    """
    start, model = runner.start, unwrap(runner.model)
    if reproduces_mmengine() and start.path is not None:
        _initialize(runner)
    if start.resumes:
        take_own(runner, start.contents)
    if start.path is None:
        _initialize(runner)
    else:
        load_weights(runner, start.contents, start.path, strict=start.resumes, initialize=True)
    if start.resumes:
        contents.load_counters(runner, start.contents)
    if names := setting(runner.cfg, "activation_checkpointing"):
        turn_on_activation_checkpointing(model, names)
    runner.module_values.start()


def restore_run(runner: "Runner", left_out: Collection[str] = ()) -> None:
    """Restore the state of a resumed run with all its parts built, apart from the weights.

    Args:
        runner: the run.
        left_out: keys of the checkpoint that are ignored: ``optimizer``, ``param_schedulers``.

    Raises:
        CheckpointError: a part of the state is missing or does not match.
    """
    start = runner.start
    try:
        contents.restore_state(runner, start.contents, left_out)
    except CheckpointError as error:
        raise CheckpointError(f"{start.path}: {error}") from error
    _report_changes(runner, start.contents)
    _report_batch_size(runner, start.contents)
    runner.logger.info("Resumed from %s: epoch %d, iteration %d", start.path, runner.epoch, runner.iter)
    if value_of_main_process(_is_newest(runner, start.path)):
        runner.checkpoint_writer.mark_saved()


def _is_newest(runner: "Runner", path: str | None) -> bool:
    with suppress(CheckpointError):  # a corrupt last_checkpoint file
        last = checkpoints.read_last_checkpoint(runner.work_dir)
        return last is not None and path is not None and last.absolute() == Path(path).absolute()
    return False


def load_weights(
    runner: "Runner",
    checkpoint: dict[str, Any],
    filename: str,
    strict: bool = False,
    revise_keys: Sequence[tuple[str, str]] = checkpoints.REVISE_KEYS,
    initialize: bool = False,
) -> None:
    """Load the weights in a checkpoint into the model, and log those that do not match.

    Hooks may change the checkpoint first, in ``after_load_checkpoint``.

    Args:
        runner: the run, with its model and hooks built.
        checkpoint: the contents of the file.
        filename: its name, for messages.
        strict: raise an error if any weight does not match.
        revise_keys: pairs of (regular expression, replacement) for the names.
        initialize: initialize weights missing from the checkpoint; otherwise they keep their values.

    Raises:
        CheckpointError: a weight does not match and ``strict`` is set, or none matches.
    """
    runner.call_hook("after_load_checkpoint", checkpoint=checkpoint)
    _drop_average(runner, checkpoint)
    weights, model = checkpoints.get_state_dict(checkpoint), unwrap(runner.model)
    optional = runner.unsaved_weights.names
    try:
        fit = checkpoints.load_state_dict(model, weights, strict=strict, revise_keys=revise_keys, optional=optional)
    except CheckpointError as error:
        raise CheckpointError(f"{filename}: {error}") from error
    if initialize:
        _initialize(runner, fit.missing)
        if fit.missing:  # initializing a module overwrites its loaded tensors, too
            checkpoints.load_state_dict(model, weights, revise_keys=revise_keys)
    if fit:
        runner.logger.warning("Not all weights of %s were loaded:\n%s", filename, fit)
    else:
        runner.logger.info("Loaded the weights of %s", filename)


def _initialize(runner: "Runner", missing: Collection[str] | None = None) -> None:
    """Initialize the model, or only its missing tensors, with a separate random stream."""
    model = unwrap(runner.model)
    if reproduces_mmengine():
        if missing is None:
            with runner.strategy.initializing(model, missing):
                initialize_model(model)
        return
    with preserve_python_rng():
        seed_all(mix(runner.seed, runner.rank_seed, _INITIALIZATION))
        with runner.strategy.initializing(model, missing) if missing is None or missing else nullcontext():
            initialize_model(model, missing)


def _drop_average(runner: "Runner", checkpoint: dict[str, Any]) -> None:
    """Resume from the trained weights instead of their average if no hook averages them anymore."""
    if any(getattr(hook, "ema_model", None) is not None for hook in runner.hooks):  # it may have left its state there
        return
    if runner.start.is_resumed(checkpoint) and (trained := checkpoint.pop("ema_state_dict", None)) is not None:
        prefix = "module."
        weights = {name.removeprefix(prefix): value for name, value in trained.items() if name.startswith(prefix)}
        checkpoint["state_dict"] = {**checkpoint["state_dict"], **weights}
        runner.logger.warning(
            "The checkpoint contains averaged weights, but no hook of this run averages them: continuing with the "
            "trained weights, without the average."
        )


def _report_changes(runner: "Runner", checkpoint: Mapping[str, Any]) -> None:
    try:
        saved = contents.saved_config(checkpoint)
    except CheckpointError as error:
        runner.logger.warning("Cannot compare the config with that of the checkpoint: %s", error)
        return
    if saved and runner.cfg and (changes := what_changed(saved, runner.cfg)):
        lines = "\n".join(f"  {line}" for line in changes)
        runner.logger.warning("The config differs from that of the checkpoint:\n%s", lines)


def _report_batch_size(runner: "Runner", checkpoint: Mapping[str, Any]) -> None:
    """Log a changed number of samples per update, and how to keep the previous one."""
    cursor = getattr(runner.train_loop, "cursor", None)
    position = (checkpoint.get("trainwright") or {}).get("position") or {}
    before, now = position.get("samples"), None if cursor is None else cursor.leading.batching.samples
    wrapper = runner.optim_wrapper
    if not before or not now or isinstance(wrapper, OptimWrapperDict):
        return
    with suppress(CheckpointError):
        saved = (contents.saved_config(checkpoint) or {}).get("optim_wrapper")
        counts = saved.get("accumulative_counts", 1) if isinstance(saved, Mapping) else wrapper.accumulative_counts
        old, new = before * counts, now * wrapper.accumulative_counts
        if old == new:
            return
        limit = f"max_epochs={runner.max_epochs}" if runner.train_loop.by_epoch else f"max_iters={runner.max_iters}"
        advice = (
            f"optim_wrapper.accumulative_counts={old // now} keeps {old} per update"
            if old % now == 0
            else f"no accumulative_counts keeps {old} per update: an iteration takes {now} samples"
        )
        runner.logger.warning(
            "An update takes %d samples (before: %d). The learning rate and %s remain as configured; %s.",
            new, old, limit, advice,
        )  # fmt: skip
