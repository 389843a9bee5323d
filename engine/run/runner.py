"""The Runner, which owns the parts of an experiment and runs its loops."""

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from torch import nn

from trainwright.engine import distributed
from trainwright.engine import registry as registries
from trainwright.engine.accelerator import has_own_memory
from trainwright.engine.checkpoints import files as checkpoints
from trainwright.engine.checkpoints.start import StartingPoint
from trainwright.engine.checkpoints.writer import CheckpointWriter
from trainwright.engine.config.config import Config
from trainwright.engine.config.dump import plain_data
from trainwright.engine.data.loader import build_dataloader
from trainwright.engine.data.traits import metainfo_of
from trainwright.engine.data.workers import stop_workers
from trainwright.engine.errors import ConfigError
from trainwright.engine.evaluation.evaluator import Evaluator
from trainwright.engine.parts import EVALUATOR, LOG_PROCESSOR, VISUALIZER, mismatched_parts, setting
from trainwright.engine.random_streams import StepSeeder, deterministic_algorithms, preserve_generators, seed_all
from trainwright.engine.ranks import failures
from trainwright.engine.records.logger import MMLogger
from trainwright.engine.records.message_hub import MessageHub
from trainwright.engine.registry import RUNNERS
from trainwright.engine.run import resume, stop
from trainwright.engine.run.assembly import build_loop, build_optimization, trains_by_epoch
from trainwright.engine.run.base_loop import BaseLoop
from trainwright.engine.run.device_settings import DeviceSettings
from trainwright.engine.run.environment import collect_env, setup_environment
from trainwright.engine.run.eval_loops import TestLoop, ValLoop
from trainwright.engine.run.hook import Hook
from trainwright.engine.run.hook_list import HookList, build_hook, configured_hooks
from trainwright.engine.run.interrupt import raise_for_signal, stop_on_signals
from trainwright.engine.run.model_setup import (
    build_model,
    compile_forward,
    lone_sample_error,
    unwrap,
    warn_of_lone_sample,
)
from trainwright.engine.run.state import RunState, active_run, in_run
from trainwright.engine.run.train_loops import TrainLoop
from trainwright.engine.run.work_dir import WorkDir
from trainwright.engine.strategy.base import build_strategy
from trainwright.engine.visualization.visualizer import Visualizer

Cfg = Mapping[str, Any]
_ENDS = {"after_train_iter": "iter_done", "after_train_epoch": "epoch_done"}


@RUNNERS.register_module()
class Runner:
    """The parts of an experiment, and its training, validation and test.

    Every part can be a config or an object. Loops, data loaders, the optimizer and schedulers are built when
    :meth:`train`, :meth:`val` or :meth:`test` first needs them.

    Example:
        >>> runner = Runner.from_cfg(Config.fromfile("configs/classification/lenet_fashion_mnist.py"))
        >>> runner.train()

    Args:
        model: the model. A module without ``train_step`` is wrapped in ``ModuleWrapper``.
        work_dir: the folder for checkpoints and logs.
        train_dataloader: the training data; requires ``train_cfg`` and ``optim_wrapper``.
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
        self._given: dict[str, Any] = dict(
            train_dataloader=train_dataloader, train_cfg=train_cfg, optim_wrapper=optim_wrapper,
            val_dataloader=val_dataloader, val_cfg=val_cfg, val_evaluator=val_evaluator,
            test_dataloader=test_dataloader, test_cfg=test_cfg, test_evaluator=test_evaluator,
            param_scheduler=param_scheduler, auto_scale_lr=auto_scale_lr,
        )  # fmt: skip
        for mistake in mismatched_parts(self._given):
            raise mistake
        if not isinstance(cfg, Config):
            arguments = {
                **self._given, "model": model, "work_dir": work_dir, "default_hooks": default_hooks,
                "custom_hooks": custom_hooks, "data_preprocessor": data_preprocessor, "load_from": load_from,
                "default_scope": default_scope, "randomness": randomness, "env_cfg": env_cfg,
            }  # fmt: skip
            given = {name: value for name, value in arguments.items() if value is not None}
            cfg = Config(plain_data({**given, **dict(cfg or {})}))
        self.cfg = cfg
        self.start = StartingPoint()
        self._sources = (load_from, resume)
        self._started = self._restored = self._active = False
        self._default_scope = default_scope
        self._loops: dict[str, Any] = {}
        self.optim_wrapper: Any = None
        self.param_schedulers: Any = []

        setup_environment(env_cfg or {}, launcher)
        self.rank, self.world_size = distributed.get_dist_info()
        self.state = RunState(shared=self.world_size > 1)
        with registries.default_scope(default_scope):
            self.strategy = build_strategy(self.cfg)
        self.device = distributed.get_device(device or None)
        self._device_settings = DeviceSettings(env_cfg or {}, self.device)
        self.randomness: dict[str, Any] = dict(randomness or {})
        self.set_randomness(**self.randomness)

        self._folder = WorkDir(work_dir)
        self.work_dir, self.log_dir, self.timestamp = self._folder.path, self._folder.log_dir, self._folder.timestamp
        self.checkpoint_writer = CheckpointWriter(self)
        name = experiment_name or (Path(self.cfg.filename).stem if self.cfg.filename else "")
        self.experiment_name = f"{name}_{self.timestamp}" if name else self.timestamp
        log_file = Path(self.log_dir, f"{self.timestamp}.log")
        self.logger = MMLogger(self.experiment_name, log_level=log_level, log_file=log_file)
        self.message_hub = MessageHub(self.experiment_name)
        with registries.default_scope(default_scope):
            self.log_processor = LOG_PROCESSOR.build(
                {} if log_processor is None else log_processor, by_epoch=trains_by_epoch(train_cfg)
            )
            self.visualizer: Visualizer = VISUALIZER.build(
                {} if visualizer is None else visualizer,
                name=self.experiment_name, save_dir=self.log_dir, vis_backends=[{"type": "LocalVisBackend"}],
            )  # fmt: skip
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
                built = build_model(model, data_preprocessor, weights_follow=bool(load_from or resume))
            self.model: Any = self.strategy.place(built, self.device, self._device_settings.channels_last)
            self._hooks = HookList()
            for path, hook in configured_hooks(default_hooks or {}, custom_hooks or ()):
                self.register_hook(hook, path=path)
        if self._device_settings.watches_sizes:
            self.register_hook({"type": "CudnnBenchmarkHook"})
        self.logger.debug("Hooks at each point, in order:\n%s", self._hooks.table())
        if self.cfg and distributed.is_main_process():
            self._folder.dump(self.cfg)
            self.visualizer.add_config(self.cfg)
        nested.close()

    @classmethod
    def from_cfg(cls, cfg: Any) -> "Runner":
        """Build a Runner from a whole config.

        Args:
            cfg: a ``Config`` or mapping with the arguments of :class:`Runner` as keys; other keys are kept in ``cfg``.
        """
        cfg = copy.deepcopy(cfg if isinstance(cfg, Config) else Config(dict(cfg)))
        names = [name for name in cls.__init__.__annotations__ if name not in ("cfg", "return")]
        arguments = {name: cfg.get(name) for name in names if cfg.get(name) is not None}
        for required in ("model", "work_dir"):
            if required not in arguments:
                raise ConfigError(required, "every experiment needs it", "set it in the config, or --work-dir")
        return cls(**arguments, cfg=cfg)

    @property
    def hooks(self) -> list[Hook]:
        """The hooks, in the order in which they are called."""
        return self._hooks.hooks

    @property
    def epoch(self) -> int:
        """0-based index of the epoch in progress."""
        return self.state.epoch

    @property
    def iter(self) -> int:
        """0-based index of the training iteration in progress."""
        return self.state.iter

    @property
    def max_epochs(self) -> int:
        """The number of epochs to train."""
        return self.train_loop.max_epochs

    @property
    def max_iters(self) -> int:
        """The number of iterations to train."""
        return self.train_loop.max_iters

    @property
    def distributed(self) -> bool:
        """Whether several processes train together."""
        return self.world_size > 1

    @property
    def has_val(self) -> bool:
        """Whether the run validates."""
        return self._given["val_cfg"] is not None

    @property
    def train_loop(self) -> TrainLoop:
        """The training loop, built on first use."""
        return self._loop("train")  # type: ignore[no-any-return]

    @property
    def val_loop(self) -> ValLoop:
        """The validation loop, built on first use."""
        return self._loop("val")  # type: ignore[no-any-return]

    @property
    def test_loop(self) -> TestLoop:
        """The test loop, built on first use."""
        return self._loop("test")  # type: ignore[no-any-return]

    def _loop(self, mode: str) -> Any:
        if mode not in self._loops:
            with self._as_current():
                self._loops[mode] = build_loop(self, mode, self._given)
        return self._loops[mode]

    @property
    def train_dataloader(self) -> Any:
        """The loader of the training loop."""
        return self.train_loop.dataloader

    @property
    def val_dataloader(self) -> Any:
        """The loader of the validation loop."""
        return self.val_loop.dataloader

    @property
    def test_dataloader(self) -> Any:
        """The loader of the test loop."""
        return self.test_loop.dataloader

    @property
    def dataset_meta(self) -> Mapping[str, Any] | None:
        """The meta information of the training dataset, such as its classes."""
        return metainfo_of(getattr(self._loops.get("train"), "dataloader", None))

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
            loop = self.train_loop
            if self.optim_wrapper is None:
                self.optim_wrapper, self.param_schedulers = build_optimization(self, self._given)
            if self.has_val:
                self._loop("val")
            self.call_hook("before_run")
            self._set_up_weights()
            if self.start.resumes and not self._restored:
                resume.restore_run(self)
            if not self._restored:
                self._restored = True
                self.start.release()
                self.optim_wrapper.initialize_count_status(self.model, self.iter, self.max_iters)
                warn_of_lone_sample(self.model, loop.dataloader, self.logger)
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

    def register_hook(self, hook: Hook | Cfg, priority: int | str | None = None, *, path: str = "") -> Hook:
        """Add a hook.

        Args:
            hook: the hook or its config, which may have the keys ``priority`` and ``name``.
            priority: overrides the priority of the hook.
            path: dotted path of the config, for messages.
        """
        if isinstance(hook, Mapping):
            priority = priority if hook.get("priority") is None else None
            with self._as_current():
                hook = build_hook(hook, path)
        if not isinstance(hook, Hook):
            raise ConfigError(
                path or "custom_hooks",
                f"{hook!r} is not a hook",
                "derive its class from trainwright.engine.Hook",
            )
        if priority is not None:
            hook.priority = priority
        self._hooks.add(hook, path)
        return hook

    def request_stop(self, reason: str, *, complete: bool = False) -> None:
        """Stop the training at the next iteration boundary, and save a checkpoint. Only the first request counts.

        With several ranks, one of them is enough, and all stop together, up to 100 ms or one iteration later.

        Args:
            reason: stated in the log.
            complete: the training is complete rather than interrupted, so there is nothing to resume.
        """
        self.state.request_stop(reason, complete=complete)

    def set_randomness(
        self, seed: int | None = None, deterministic: bool = False, diff_rank_seed: bool = False
    ) -> None:
        """Seed everything.

        Args:
            seed: the seed; if None, a random one, the same on all ranks.
            deterministic: only allow deterministic algorithms.
            diff_rank_seed: use a different seed on each rank, also for initial weights and samples.
        """
        self.seed = distributed.sync_random_seed() if seed is None else int(seed)
        self.rank_seed = self.strategy.data_rank if diff_rank_seed else 0
        self._deterministic = deterministic
        seed_all(self.seed + self.rank_seed)
        self.seed_step = StepSeeder(self.seed, self.strategy.data_rank, self.device)

    def build_dataloader(self, dataloader: Any, mode: str = "train") -> Any:
        """Build a data loader with per-sample seeds; see :func:`trainwright.engine.build_dataloader`."""
        return build_dataloader(
            dataloader, seed=self.seed, rank_seed=self.rank_seed, path=f"{mode}_dataloader", training=mode == "train",
            pin_memory=has_own_memory(self.device),
        )  # fmt: skip

    def build_evaluator(self, evaluator: Any, path: str = "evaluator") -> Evaluator:
        """Build an evaluator from one or more metrics, or from its config."""
        if isinstance(evaluator, Evaluator):
            return evaluator
        if isinstance(evaluator, Mapping) and "metrics" in evaluator:
            return EVALUATOR.build(evaluator, path=path)  # type: ignore[no-any-return]
        return Evaluator(evaluator)

    def save_checkpoint(
        self,
        out_dir: str | Path,
        filename: str,
        save_optimizer: bool = True,
        save_param_scheduler: bool = True,
        meta: Mapping[str, Any] | None = None,
        by_epoch: bool = True,
    ) -> Path:
        """Save the state of the run, durably. All ranks call it; ``last_checkpoint`` is not changed.

        Rank 0 writes a file. If the name ends in ``.dist``, all ranks write a folder.

        Args:
            out_dir: the folder.
            filename: the file name, in which ``{}`` is replaced by the number of epochs or iterations.
            save_optimizer: include the optimizer.
            save_param_scheduler: include the schedulers.
            meta: additional entries of ``meta``.
            by_epoch: whether the number in the file name counts epochs.

        Returns:
            The path of the file.
        """
        path = Path(out_dir, filename.format(self.state.state_dict()["epoch" if by_epoch else "iter"]))
        self.checkpoint_writer.prepare()
        self.checkpoint_writer.write(
            [path], optimizer=save_optimizer, schedulers=save_param_scheduler, meta=meta, newest=False
        )
        return path

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
                    stop_workers(getattr(loop, "dataloader", None))
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
            self.set_randomness(**{**self.randomness, "seed": self.start.seed})

    def _set_up_weights(self) -> None:
        """Load or initialize the weights, once."""
        if not self._started:
            self._started = True
            resume.set_up_weights(self)
            if not self.start.resumes:
                self.start.release()

    def _evaluate(self, mode: str) -> dict[str, Any]:
        with self._run():
            self._begin()
            loop = self._loop(mode)
            self.call_hook("before_run")
            self._set_up_weights()
            return loop.run()  # type: ignore[no-any-return]
