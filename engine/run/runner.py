"""The Runner, which owns the parts of an experiment and runs its loops."""

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from inspect import signature
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import nn

from trainwright.engine import distributed
from trainwright.engine import registry as registries
from trainwright.engine.checkpoints import files as checkpoints
from trainwright.engine.checkpoints.start import StartingPoint
from trainwright.engine.checkpoints.writer import CheckpointWriter
from trainwright.engine.config.config import Config
from trainwright.engine.config.dump import plain_data
from trainwright.engine.data.several import loaders_of
from trainwright.engine.data.workers import stop_workers
from trainwright.engine.errors import ConfigError
from trainwright.engine.model_traits import follow_optimizers
from trainwright.engine.parts import MODES, mismatched_names, mismatched_parts, setting
from trainwright.engine.random_streams import StepSeeder, deterministic_algorithms, preserve_generators, seed_all
from trainwright.engine.ranks import failures
from trainwright.engine.ranks.start import refuse_shared_gpus
from trainwright.engine.records.current import CurrentMixin
from trainwright.engine.records.logger import MMLogger
from trainwright.engine.records.message_hub import MessageHub
from trainwright.engine.registry import RUNNERS
from trainwright.engine.run import resume, stop
from trainwright.engine.run.attributes import Attributes
from trainwright.engine.run.base_loop import BaseLoop
from trainwright.engine.run.builders import Builders
from trainwright.engine.run.device_settings import DeviceSettings
from trainwright.engine.run.environment import collect_env, setup_environment
from trainwright.engine.run.freezing import UnsavedWeights
from trainwright.engine.run.hook_list import HookList
from trainwright.engine.run.interrupt import raise_for_signal, stop_on_signals
from trainwright.engine.run.model_setup import compile_forward, lone_sample_error, unwrap, warn_of_lone_sample
from trainwright.engine.run.module_values import ModuleValues
from trainwright.engine.run.normalization import warn_of_normalization
from trainwright.engine.run.state import RunState, active_run, in_run
from trainwright.engine.run.work_dir import WorkDir
from trainwright.engine.strategy.base import build_strategy
from trainwright.engine.visualization.visualizer import Visualizer

Cfg = Mapping[str, Any]
_ENDS = {"after_train_iter": "iter_done", "after_train_epoch": "epoch_done"}


@RUNNERS.register_module()
class Runner(Builders, Attributes):
    """The parts of an experiment, and its training, validation and test.

    Every part can be a config or an object. Loops, data loaders, the optimizer and schedulers are built when
    :meth:`train`, :meth:`val` or :meth:`test` first needs them.

    Example:
        >>> runner = Runner.from_cfg(Config.fromfile("configs/classification/lenet_fashion_mnist.py"))
        >>> runner.train()

    Args:
        model: the model. A module without ``train_step`` is wrapped in ``ModuleWrapper``.
        work_dir: the folder for checkpoints and logs.
        train_dataloader: the training data; requires ``train_cfg`` and ``optim_wrapper``. Like the two below, it may be
            a dict of several by name.
        val_dataloader: the validation data; requires ``val_cfg`` and ``val_evaluator``.
        test_dataloader: the test data; requires ``test_cfg`` and ``test_evaluator``.
        train_cfg: the training loop: ``dict(by_epoch=True, max_epochs=…)``, ``dict(by_epoch=False, max_iters=…)``, or
            ``dict(type=…)``.
        val_cfg: arguments of ``ValLoop``, or ``dict(type=…)``.
        test_cfg: arguments of ``TestLoop``, or ``dict(type=…)``.
        auto_scale_lr: ``dict(enable=True, base_batch_size=…)`` scales the learning rate by the batch size of all ranks.
        optim_wrapper: an ``OptimWrapper``, a plain optimizer, or ``dict(type='OptimWrapper', optimizer=dict(type=…))``.
        param_scheduler: one or more schedulers; for several optimizers, a dict of lists.
        val_evaluator: one or more metrics, or an ``Evaluator``.
        test_evaluator: as ``val_evaluator``.
        default_hooks: changes to the default hooks, by name; None removes one.
        custom_hooks: additional hooks.
        data_preprocessor: passed to a model that is built from a config without a preprocessor.
        load_from: a checkpoint to load the initial weights from.
        resume: ``"auto"`` to resume from the newest checkpoint in ``work_dir``, if there is one; True for the same, but
            with ``load_from`` if there is none; or the path of a checkpoint to resume from.
        launcher: ``none``, ``pytorch``, ``slurm`` or ``mpi``.
        env_cfg: settings of the process, its process group and its device.
        log_processor: formats log lines.
        log_level: the level of the log.
        visualizer: writes scalars, images and the config to its backends.
        default_scope: the registry scope in which names are looked up first.
        randomness: ``seed`` (random if None), ``deterministic``, ``diff_rank_seed``.
        experiment_name: by default, the file name of the config; a timestamp is appended.
        cfg: the whole config; also switches such as ``strategy``, ``compile``, ``activation_checkpointing``,
            ``sync_bn``, ``model_wrapper_cfg``, ``find_unused_parameters``.
        device: the device to train on; by default the accelerator, if there is one.

    Raises:
        ConfigError: parts are missing or contradict each other.
    """

    def __init__(
        self,
        model: nn.Module | Cfg,
        work_dir: str,
        train_dataloader: Any = None,
        val_dataloader: Any = None,
        test_dataloader: Any = None,
        train_cfg: Cfg | None = None,
        val_cfg: Cfg | None = None,
        test_cfg: Cfg | None = None,
        auto_scale_lr: Cfg | None = None,
        optim_wrapper: Any = None,
        param_scheduler: Any = None,
        val_evaluator: Any = None,
        test_evaluator: Any = None,
        default_hooks: Mapping[str, Any] | None = None,
        custom_hooks: Sequence[Any] | None = None,
        data_preprocessor: nn.Module | Cfg | None = None,
        load_from: str | None = None,
        resume: bool | str = False,
        launcher: str = "none",
        env_cfg: Cfg | None = None,
        log_processor: Any = None,
        log_level: str = "INFO",
        visualizer: Any = None,
        default_scope: str | None = None,
        randomness: Cfg | None = None,
        experiment_name: str | None = None,
        cfg: Any = None,
        device: str | torch.device | None = None,
    ) -> None:
        nested = ExitStack()
        if in_run():
            nested.enter_context(preserve_generators())
        self._train_dataloader, self._train_cfg, self._optim_wrapper = train_dataloader, train_cfg, optim_wrapper
        self._val_dataloader, self._val_cfg, self._val_evaluator = val_dataloader, val_cfg, val_evaluator
        self._test_dataloader, self._test_cfg, self._test_evaluator = test_dataloader, test_cfg, test_evaluator
        self._param_scheduler, self.auto_scale_lr = param_scheduler, auto_scale_lr
        self._data_preprocessor = data_preprocessor
        needed = {name: getattr(self, f"_{name}") for name in (*chain(*MODES.values()), "param_scheduler")}
        for mistake in chain(mismatched_parts(needed), mismatched_names(needed)):
            raise mistake
        if not isinstance(cfg, Config):
            arguments = {
                **needed, "auto_scale_lr": auto_scale_lr, "model": model, "work_dir": work_dir,
                "default_hooks": default_hooks, "custom_hooks": custom_hooks, "data_preprocessor": data_preprocessor,
                "load_from": load_from, "default_scope": default_scope, "randomness": randomness, "env_cfg": env_cfg,
            }  # fmt: skip
            given = {name: value for name, value in arguments.items() if value is not None}
            cfg = Config(plain_data({**given, **dict(cfg or {})}))
        self.cfg = cfg
        self.start = StartingPoint()
        self._sources: tuple[Any, Any] = (load_from, resume)
        self._left_out: set[str] = set()
        self._started = self._restored = self._active = False
        self._default_scope = default_scope = registries.scope_of_run(default_scope)
        self._loops: dict[str, Any] = {}
        self.optim_wrapper: Any = None
        self.param_schedulers: Any = []

        self._launcher = launcher
        self.setup_env(env_cfg or {})
        self.rank, self.world_size = distributed.get_dist_info()
        self.state = RunState(shared=self.world_size > 1)
        with registries.default_scope(default_scope):
            self.strategy = build_strategy(self.cfg)
        self.device = distributed.get_device(device or None)
        refuse_shared_gpus(self.device)
        self._device_settings = DeviceSettings(env_cfg or {}, self.device)
        self.set_randomness(**{"seed": None, **(randomness or {})})

        self._folder = WorkDir(work_dir)
        self.work_dir, self.log_dir, self.timestamp = self._folder.path, self._folder.log_dir, self._folder.timestamp
        self.checkpoint_writer = CheckpointWriter(self)
        name = experiment_name or (Path(self.cfg.filename).stem if self.cfg.filename else "")
        self.experiment_name = f"{name}_{self.timestamp}" if name else self.timestamp
        self.logger = self.build_logger(log_level=log_level)
        self.message_hub = self.build_message_hub()
        with registries.default_scope(default_scope):
            self.log_processor = self.build_log_processor(log_processor)
            self.visualizer: Visualizer = self.build_visualizer(visualizer)
        MessageHub.set_newest(self.message_hub)
        MMLogger.set_newest(self.logger)
        Visualizer.set_newest(self.visualizer)
        if CurrentMixin.outlives_runs and default_scope is not None:
            registries.set_default_scope(default_scope)
        self.logger.info("Environment:\n%s", "\n".join(f"  {key}: {value}" for key, value in collect_env().items()))
        self.logger.info("Seed: %d, device: %s, work_dir: %s", self.seed, self.device, self.work_dir)
        if (configured := setting(self.cfg, "strategy")) != "auto":
            self.logger.info("Strategy: %s, configured: %s", type(self.strategy).__name__, configured)
        if self.device.type != "cpu":
            self.logger.info("Device settings (env_cfg): %s", self._device_settings.describe())
        if isinstance(model, nn.Module) and not (load_from or resume):
            self.logger.info(
                "The model was passed as an object: its initial weights were drawn before the run was seeded, so they "
                "do not depend on the seed. (Those of a model that is passed as a config do.)"
            )
        with self._as_current():
            with self.strategy.construction():
                built = self.build_model(model)
            self.model: Any = self.wrap_model(setting(self.cfg, "model_wrapper_cfg"), built)
            self.module_values = ModuleValues(unwrap(self.model))
            self.unsaved_weights = UnsavedWeights(unwrap(self.model))
            self._hooks = HookList()
            self.register_hooks(default_hooks, custom_hooks)
        if self._device_settings.watches_sizes:
            self.register_hook({"type": "CudnnBenchmarkHook"})
        self.logger.debug("Hooks at each point, in order:\n%s", self.get_hooks_info())
        if self.cfg and distributed.is_main_process():
            self.dump_config()
            self.visualizer.add_config(self.cfg)
        nested.close()

    @classmethod
    def from_cfg(cls, cfg: Any) -> "Runner":
        """Build a Runner from a whole config.

        Args:
            cfg: a ``Config`` or mapping with the arguments of :class:`Runner` as keys; other keys are kept in ``cfg``.
        """
        cfg = copy.deepcopy(cfg if isinstance(cfg, Config) else Config(dict(cfg)))
        names = {**signature(Runner).parameters, **signature(cls).parameters}
        arguments = {name: cfg.get(name) for name in names if name != "cfg" and cfg.get(name) is not None}
        for required in ("model", "work_dir"):
            if required not in arguments:
                raise ConfigError(required, "every experiment needs it", "set it in the config, or --work-dir")
        return cls(**arguments, cfg=cfg)

    def _loop(self, mode: str) -> Any:
        if mode not in self._loops:
            with self._as_current():
                self._loops[mode] = self._build_loop(mode)
        return self._loops[mode]

    def train(self) -> nn.Module:
        """Train to the end, or until a stop is requested. Called again, continue from there.

        Returns:
            The model.

        Raises:
            ConfigError: the parts for training are not given.
            KeyboardInterrupt: after Ctrl-C, once a checkpoint is written.
            SystemExit: after SIGTERM and SIGUSR1, likewise.
        """
        with self._run(), self._folder.lock(), stop_on_signals(self.state):
            self._begin()
            loop = self._loop("train")
            if self.optim_wrapper is None:
                self._build_optimization()
            if self.has_val:
                self._loop("val")
            self.call_hook("before_run")
            self.load_or_resume()
            if not self._restored:
                self._restored = True
                self.start.release()
                self.optim_wrapper.initialize_count_status(self.model, self.iter, self.max_iters)
                wrappers = self.optim_wrapper.optim_wrappers.values()
                follow_optimizers(unwrap(self.model), [wrapper.optimizer for wrapper in wrappers])
                warn_of_lone_sample(self.model, loop.dataloader, self.logger)
                warn_of_normalization(unwrap(self.model), self.logger)
                compile_forward(unwrap(self.model), setting(self.cfg, "compile"))
            if self.iter >= self.max_iters:
                self.logger.info("The training is complete (iteration %d): nothing left to do.", self.iter)
            stop.train_and_save(self, loop)
            self.seed_step.resume_from = self.seed_step.python_rng_state()  # in case it is trained further
        raise_for_signal(self.state)
        return self.model  # type: ignore[no-any-return]

    def val(self) -> dict[str, Any]:
        """Validate once and return the metrics by ``prefix/name``."""
        return self._evaluate("val")

    def test(self) -> dict[str, Any]:
        """Test once and return the metrics by ``prefix/name``."""
        return self._evaluate("test")

    def call_hook(self, fn_name: str, **kwargs: Any) -> None:
        """Call a hook point of every hook that overrides it.

        An iteration or epoch that has just ended counts as finished during the call, so a checkpoint includes it.
        """
        done = _ENDS.get(fn_name)
        if done is not None:
            setattr(self.state, done, True)
        call: Any = None
        try:
            for call in self._hooks.calls[fn_name]:
                call(self, **kwargs)
        except Exception as error:
            if call is not None:
                error.add_note(f"in {type(call.__self__).__name__}.{fn_name}")
            raise
        finally:
            if done is not None:
                setattr(self.state, done, False)

    def request_stop(self, reason: str, *, complete: bool = False) -> None:
        """Stop the training at the next iteration boundary, and save a checkpoint. Only the first request counts.

        With several ranks, one of them is enough, and all stop together, up to 100 ms or one iteration later.

        Args:
            reason: stated in the log.
            complete: the training is complete rather than interrupted, so there is nothing to resume.
        """
        self.state.request_stop(reason, complete=complete)

    def setup_env(self, env_cfg: Cfg) -> None:
        """Set up this process, and the process group if there are several; see :func:`setup_environment`."""
        setup_environment(env_cfg, self._launcher)

    def set_randomness(
        self, seed: int | None = None, diff_rank_seed: bool = False, deterministic: bool = False
    ) -> None:
        """Seed everything.

        Args:
            seed: the seed; if None, a random one, the same on all ranks.
            diff_rank_seed: use a different seed on each rank, also for initial weights and samples.
            deterministic: only allow deterministic algorithms.
        """
        self.seed = distributed.sync_random_seed() if seed is None else int(seed)
        self.rank_seed = self.strategy.data_rank if diff_rank_seed else 0
        self._deterministic = deterministic
        self._randomness_cfg = {"seed": seed, "diff_rank_seed": diff_rank_seed, "deterministic": deterministic}
        seed_all(self.seed + self.rank_seed)
        self.seed_step = StepSeeder(self.seed, self.strategy.data_rank, self.device)

    def dump_config(self) -> None:
        """Write the resolved config to the work dir."""
        self._folder.dump(self.cfg)

    def save_checkpoint(
        self,
        out_dir: str | Path,
        filename: str,
        file_client_args: None = None,
        save_optimizer: bool = True,
        save_param_scheduler: bool = True,
        meta: Mapping[str, Any] | None = None,
        by_epoch: bool = True,
        backend_args: None = None,
    ) -> Path:
        """Save the state of the run, durably. All ranks call it; ``last_checkpoint`` is not changed.

        Rank 0 writes a file. If the name ends in ``.dist``, all ranks write a folder. If a subclass overrides this
        method, :class:`CheckpointHook` calls it.

        Args:
            out_dir: the folder.
            filename: the file name, in which ``{}`` is replaced by the number of epochs or iterations.
            file_client_args: unused; exists because subclasses written for MMEngine pass it on.
            save_optimizer: include the optimizer.
            save_param_scheduler: include the schedulers.
            meta: additional entries of ``meta``.
            by_epoch: whether the number in the file name counts epochs.
            backend_args: unused, like ``file_client_args``.

        Returns:
            The path of the file.
        """
        path = Path(out_dir, filename.format(self.state.state_dict()["epoch" if by_epoch else "iter"]))
        self.checkpoint_writer.prepare()
        self.checkpoint_writer.write(
            [path], optimizer=save_optimizer, schedulers=save_param_scheduler, meta=meta, newest=False
        )
        return path

    @property
    def saves_in_its_own_way(self) -> bool:
        """Whether a subclass overrides :meth:`save_checkpoint`."""
        return type(self).save_checkpoint is not Runner.save_checkpoint

    def load_checkpoint(
        self,
        filename: str | Path,
        map_location: Any = "cpu",
        strict: bool = False,
        revise_keys: Sequence[tuple[str, str]] = checkpoints.REVISE_KEYS,
    ) -> dict[str, Any]:
        """Load the weights in a checkpoint into the model, and report mismatches.

        Args:
            filename: a file, the folder of a sharded checkpoint, ``http(s)://…`` or ``torchvision://resnet18``.
            map_location: the device to load tensors to.
            strict: raise an error on mismatches.
            revise_keys: pairs of (regular expression, replacement) applied to the names.

        Returns:
            The checkpoint.
        """
        like = unwrap(self.model) if self.strategy.is_sharded else None
        checkpoint = checkpoints.load_checkpoint_file(filename, map_location, like=like)
        resume.load_weights(self, checkpoint, str(filename), strict, revise_keys)
        return checkpoint

    def load_or_resume(self) -> None:
        """Load or initialize the weights as configured, once.

        A resumed run also gets its counters and, if the optimizer wrapper is built, the state of all parts.
        """
        if not self._started:
            self._load_or_resume()
        if self.start.resumes and not self._restored and self.optim_wrapper is not None:
            resume.restore_run(self, self._left_out)

    def _load_or_resume(self) -> None:
        with self._as_current():
            if self.start.path is None:
                self._begin()
            if self.start.resumes:
                self.resume(str(self.start.path))
                return
            self._started = True
            resume.set_up_weights(self)
            self.start.release()

    def _init_model_weights(self) -> None:
        """Do nothing; exists because overrides of :meth:`train` copied from MMEngine call it: see load_or_resume."""

    def _maybe_compile(self, target: str) -> None:
        """Compile the model if configured; overrides of :meth:`train` copied from MMEngine call it."""
        compile_forward(unwrap(self.model), setting(self.cfg, "compile"))

    def resume(
        self,
        filename: str | Path,
        resume_optimizer: bool = True,
        resume_param_scheduler: bool = True,
        map_location: Any = "cpu",
    ) -> None:
        """Continue from a checkpoint: its weights and counters now, the rest of its state when training starts.

        Args:
            filename: the checkpoint.
            resume_optimizer: also continue with the state of the optimizer.
            resume_param_scheduler: also continue with the state of the schedulers.
            map_location: accepted for compatibility: tensors go to the device of the model in any case.
        """
        with self._as_current():
            if self._started or self.start.path != str(filename) or not self.start.resumes:
                self._sources, self._started, self._restored = (None, str(filename)), False, False
                self._begin()
            _ = self.train_loop  # a loop may set its counters to 0 when it is built
            self._started = True
            resume.set_up_weights(self)
        kept = {"optimizer": resume_optimizer, "param_schedulers": resume_param_scheduler}
        self._left_out = {part for part, is_kept in kept.items() if not is_kept}

    @contextmanager
    def _as_current(self) -> Iterator[None]:
        """Make hub, logger, visualizer and scope the current ones, for code deep inside a model."""
        with ExitStack() as stack:
            stack.enter_context(MessageHub.set_current(self.message_hub))
            stack.enter_context(MMLogger.set_current(self.logger))
            stack.enter_context(Visualizer.set_current(self.visualizer))
            stack.enter_context(registries.default_scope(self._default_scope))
            yield

    @contextmanager
    def _run(self) -> Iterator[None]:
        """Context manager around every run: sets the current objects, calls ``after_run``, and logs errors."""
        if not self._active:
            # left by a previous run
            self.state.clear_stop()
            if "train" in self._loops:
                self.train_loop.stop_training = False
        settings, deterministic = self._device_settings.active(), deterministic_algorithms(self._deterministic)
        with self._as_current(), active_run(), settings, deterministic:
            outer, self._active = self._active, True
            try:
                yield
            except Exception as error:
                cause = self._explanation_of(error)
                failures.report(cause or error)
                self.logger.debug("The run failed", exc_info=True)
                with suppress(Exception):  # the first error is the one to report
                    self.call_hook("after_run")
                if cause is not None:
                    raise cause from error
                raise
            finally:
                self._active = outer
                for loop in self._loops.values():
                    for loader in loaders_of(getattr(loop, "dataloader", None), "").values():
                        stop_workers(loader)
            self.call_hook("after_run")

    def _explanation_of(self, error: Exception) -> Exception | None:
        """Return an error that names the cause of another one, or None; possibly add a note to the other one."""
        for loop in reversed(self._loops.values()):  # the validation loop is inside the training loop
            if isinstance(loop, BaseLoop) and (cause := loop.explain(error)) is not None:
                return cause
        if "more than 1 value per channel when training" in str(error):
            return lone_sample_error()
        if "view size is not compatible" in str(error) and self._device_settings.channels_last:
            error.add_note("the network is channels-last: use reshape, or set env_cfg.channels_last=False")
        if "unsupported ScalarType BFloat16" in str(error):
            error.add_note(
                "NumPy has no bfloat16, in which the model computes: set optim_wrapper.dtype='float16', or no AMP"
            )
        if "mixed torch.Tensor and DTensor" in str(error) and self.strategy.is_sharded:
            error.add_note(
                "a layer was used whose unit was not called as a module: add the modules that are called to "
                "strategy.wrap, instead of min_params, and do not use their methods and layers directly"
            )
        return None

    def _begin(self) -> None:
        """Find the starting point of the run, once, before anything that depends on its seed is built."""
        if self._started:
            return
        load_from, resume_from = self._sources
        like = unwrap(self.model) if self.strategy.is_sharded else None
        self.start = StartingPoint.find(self.work_dir, load_from, resume_from, like)
        if self.start.seed is not None and self.start.seed != self.seed:
            self.set_randomness(**{**self._randomness_cfg, "seed": self.start.seed})

    def _evaluate(self, mode: str) -> dict[str, Any]:
        with self._run():
            self._begin()
            loop = self._loop(mode)
            self.call_hook("before_run")
            self.load_or_resume()
            return loop.run()  # type: ignore[no-any-return]
