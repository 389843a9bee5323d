"""The ``trainwright`` command. torch is only imported once it is needed."""

import argparse
import io
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainwright.engine.config.overrides import COMMAND_LINE, DictAction
from trainwright.engine.config.paths import find_named_config
from trainwright.engine.errors import USER_ERRORS, ConfigError, ConfigErrors

if TYPE_CHECKING:
    from trainwright.engine.config.config import Config

_PATIENCE = 3.0
LISTED = ("hooks", "models", "datasets", "transforms", "metrics", "schedulers", "optimizers", "strategies", "configs")


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        argv: arguments after ``trainwright``; by default those of this process.

    Returns:
        The exit status: 0 on success, 1 if a command found problems in its data or the output was closed, 2 for an
        error in the config, the options, the data or a checkpoint, 130 after Ctrl-C. Other exceptions propagate.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a console may not support all characters
            stream.reconfigure(errors="backslashreplace")
    try:
        arguments = _parser().parse_args(argv)
        return int(arguments.run(arguments))
    except USER_ERRORS as error:
        _report(error)
        return 2
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # `trainwright print-config … | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def train(arguments: argparse.Namespace) -> int:
    """Check a config, then train with it."""
    cfg = _load(arguments)
    if arguments.amp:
        from trainwright.engine.parts import wrappers_by_name

        several = [cfg.optim_wrapper[name] for name in wrappers_by_name(cfg.optim_wrapper)]
        for wrapper in several or [cfg.optim_wrapper]:
            wrapper.type = "AmpOptimWrapper"
    if arguments.resume is not None:
        cfg.resume = arguments.resume
    if arguments.load_from is not None:
        cfg.load_from = arguments.load_from
    _run(cfg, "train")
    return 0


def test(arguments: argparse.Namespace) -> int:
    """Test a checkpoint."""
    from trainwright.engine.export.formats import is_exported, use_exported

    cfg = _load(arguments)
    cfg.load_from = arguments.checkpoint
    cfg.resume = False
    if is_exported(arguments.checkpoint):
        if arguments.tta:
            raise ConfigError("", "--tta needs a checkpoint: an exported model has no views", "remove --tta")
        use_exported(cfg, arguments.checkpoint)
    if arguments.tta:
        from trainwright.hooks import build_runner_with_tta

        _check(cfg)
        build_runner_with_tta(cfg).test()
        return 0
    _run(cfg, "test")
    return 0


def launch(arguments: argparse.Namespace) -> int:
    """Train or test in several processes, with torchrun."""
    words = arguments.words
    words = words if words[:1] in (["train"], ["test"]) else ["train", *words]
    _parser().parse_args(words)  # mistakes are reported once, not by each process
    from trainwright.tools.launch import launch

    return launch(
        words, arguments.nproc, arguments.nnodes, arguments.node_rank, arguments.master_addr, arguments.master_port,
        arguments.max_restarts,
    )  # fmt: skip


def consolidate(arguments: argparse.Namespace) -> int:
    """Convert a sharded checkpoint (a folder) to a file, or a file to a folder; all of it is loaded into memory."""
    from trainwright.tools.consolidate import consolidate

    consolidate(arguments.source, arguments.target)
    return 0


def check(arguments: argparse.Namespace) -> int:
    """Check configs and report all mistakes; with --data, also whether data, model and metrics fit together."""
    from trainwright.engine.checking import check

    status = 0
    for name in arguments.config:
        cfg = _read(name, arguments.cfg_options)
        mistakes: list[Any] = check(cfg)
        if not mistakes and arguments.data:
            from trainwright.engine.run.data_check import check_data

            report = check_data(cfg, arguments.device)
            mistakes = report.mistakes
            for line in report.lines:
                print(line)
        for mistake in mistakes:
            print(mistake, file=sys.stderr)
        status = 2 if mistakes else status
        if not mistakes:
            print(f"{name}: no mistakes found")
    return status


def estimate(arguments: argparse.Namespace) -> int:
    """Estimate memory, communication and time of training on many processes, by tracing a step without them.

    The exit status is 1 if the run does not fit into --device-memory.
    """
    from trainwright.tools import estimate as estimating

    cfg = _read(arguments.config, arguments.cfg_options)
    estimating.with_strategy(cfg, arguments.strategy)
    _check(cfg)
    hardware = estimating.hardware(
        arguments.tflops, arguments.intra_link, arguments.inter_link, arguments.gpus_per_node, arguments.device_memory
    )
    sizes = estimating.world_sizes(arguments.world_size)
    return estimating.estimate(cfg, sizes, hardware, estimating.shape(arguments.input_shape), arguments.json)


def print_config(arguments: argparse.Namespace) -> int:
    """Print a config with all inherited values."""
    cfg = _read(arguments.config, arguments.cfg_options)
    if arguments.origins:
        from trainwright.engine.config.compare import flattened, origin_of_path

        for path, value in flattened(cfg.to_dict()):
            print(f"{path} = {value!r}  # {origin_of_path(cfg, path) or 'unknown'}")
    else:
        print(cfg.pretty_text)
    return 0


def browse_dataset(arguments: argparse.Namespace) -> int:
    """Draw samples as the model sees them, and report problems in annotations and images; or print statistics."""
    from trainwright.tools import browse

    cfg = _read(arguments.config, arguments.cfg_options)
    _check(cfg)
    out_dir = Path(arguments.out_dir or Path("browse", find_named_config(arguments.config).stem, arguments.split))
    if arguments.stats:
        browse.show_stats(cfg, arguments.split, out_dir)
        return 0
    problems = browse.browse_dataset(
        cfg, arguments.split, arguments.number, out_dir, arguments.seed, not arguments.no_decode
    )
    return 1 if problems else 0


def new(arguments: argparse.Namespace) -> int:
    """Look at data, report what it is, and write a config that trains on it."""
    from trainwright.tools.new.command import new

    *task, data = arguments.data
    if len(task) > 1:
        raise ConfigError("DATA", f"expected [TASK] DATA, got {len(arguments.data)} arguments")
    problems = new(task[0] if task else None, data, arguments.output, arguments.weights, arguments.force)
    return 1 if problems else 0


def predict(arguments: argparse.Namespace) -> int:
    """Predict for images (or other inputs of the model), and save the predictions as JSON and as images."""
    from trainwright.tools import predict as predicting

    cfg = _read(arguments.config, arguments.cfg_options)
    out_dir = Path(arguments.out_dir)
    _, unreadable = predicting.predict(
        cfg, arguments.checkpoint, arguments.inputs, out_dir, arguments.batch_size, arguments.device,
        arguments.tile_size, arguments.tile_overlap, _given(arguments, "det_model", "det_weights", "det_cat_ids"),
        _given(arguments, "bboxes", "bbox_thr", "nms_thr"),
    )  # fmt: skip
    return 1 if unreadable else 0


def export(arguments: argparse.Namespace) -> int:
    """Export a trained model to a file for another runtime, and compare it with PyTorch on real inputs.

    Preprocessing and post-processing become part of the model. The exit status is 1, and no file is written, if the
    outputs differ by more than --tolerance.
    """
    from trainwright.tools.export import export

    cfg = _read(arguments.config, arguments.cfg_options)
    _check(cfg)
    is_close = export(
        cfg, arguments.checkpoint, arguments.format, arguments.output, arguments.fixed, arguments.tolerance,
        arguments.input_shape,
    )  # fmt: skip
    return 0 if is_close else 1


def migrate(arguments: argparse.Namespace) -> int:
    """Rewrite the imports of a project from mmengine to Trainwright, and list what could not be placed."""
    from trainwright.tools.migrate import migrate_project

    return 1 if migrate_project(Path(arguments.path), arguments.write) else 0


def list_components(arguments: argparse.Namespace) -> int:
    """List the components that a config can use or the shipped configs, or describe one of them."""
    from trainwright.tools import reference

    kind, name = arguments.kind, arguments.name
    for line in reference.listing(kind) if name is None else reference.details(kind, name):
        print(line)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "trainwright", description="Train, test and check experiments that are defined by config files."
    )
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    common = argparse.ArgumentParser(add_help=False)
    common.add_argument(
        "--cfg-options", nargs="+", action=DictAction, default={}, metavar="KEY=VALUE",
        help="override config values, e.g. optim_wrapper.optimizer.lr=0.01 custom_hooks.0.momentum=0.1",
    )  # fmt: skip
    running = argparse.ArgumentParser(add_help=False, parents=[common])
    running.add_argument(
        "--work-dir", help="folder for checkpoints and logs (default: set in the config, or work_dirs/CONFIG)"
    )
    running.add_argument("--seed", type=int, help="random seed (default: set in the config, or chosen at random)")
    running.add_argument("--deterministic", action="store_true", help="use only deterministic algorithms")
    running.add_argument(
        "--device", help="cpu, cuda, cuda:1, mps, … (default: set in the config, or the accelerator if there is one)"
    )
    running.add_argument(
        "--launcher",
        choices=["none", "pytorch", "slurm", "mpi"],
        help="launcher of distributed training (default: set in the config, or detected)",
    )
    running.add_argument(
        "--fidelity", action="store_true", help="reproduce MMEngine's randomness and arithmetic, without exact resume"
    )
    running.add_argument("--local-rank", "--local_rank", type=int, help=argparse.SUPPRESS)

    config_help = "config file, or name of a shipped config"
    command = commands.add_parser("train", parents=[running], help="train a model", description=train.__doc__)
    command.add_argument("config", metavar="CONFIG", help=config_help)
    command.add_argument(
        "--resume", nargs="?", const="auto", metavar="CHECKPOINT",
        help="resume from a checkpoint, by default from the newest in the work dir",
    )  # fmt: skip
    command.add_argument("--load-from", metavar="CHECKPOINT", help="start from the weights of a checkpoint")
    command.add_argument("--amp", action="store_true", help="train with automatic mixed precision")
    command.set_defaults(run=train)

    command = commands.add_parser("test", parents=[running], help="test a checkpoint", description=test.__doc__)
    command.add_argument("config", metavar="CONFIG", help=config_help)
    command.add_argument("checkpoint", metavar="CHECKPOINT", help="checkpoint to test")
    command.add_argument(
        "--tta", action="store_true", help="use test-time augmentation, with tta_model and tta_pipeline of the config"
    )
    command.set_defaults(run=test)

    command = commands.add_parser("launch", help="train or test in several processes", description=launch.__doc__)
    command.add_argument("--nproc", type=int, help="number of processes on this machine (default: one per accelerator)")
    command.add_argument("--nnodes", default="1", help="number of machines, or MIN:MAX (default: %(default)s)")
    command.add_argument(
        "--node-rank", type=int, default=0, help="number of this machine, from 0 (default: %(default)s)"
    )
    command.add_argument("--master-addr", help="address of machine 0, for several machines")
    command.add_argument("--master-port", type=int, help="a free port of machine 0")
    command.add_argument(
        "--max-restarts", type=int, default=0,
        help="how often to start all processes again, from the newest checkpoint, if one fails (default: %(default)s)",
    )  # fmt: skip
    command.add_argument("words", metavar="[train|test] CONFIG ...", nargs=argparse.REMAINDER, help="command to run")
    command.set_defaults(run=launch)

    command = commands.add_parser("check", parents=[common], help="find mistakes in configs", description=check.__doc__)
    command.add_argument("config", metavar="CONFIG", nargs="+", help=config_help)
    command.add_argument(
        "--data",
        action="store_true",
        help="build everything, and send one batch of each loader through model and metrics",
    )
    command.add_argument("--device", help="device for --data (default: cpu)")
    command.set_defaults(run=check)

    command = commands.add_parser(
        "estimate", parents=[common], help="estimate memory and time on many processes", description=estimate.__doc__
    )
    command.add_argument("config", metavar="CONFIG", help=config_help)
    command.add_argument(
        "--world-size", type=int, nargs="+", default=[1], metavar="N",
        help="number of processes; several are compared (default: 1)",
    )  # fmt: skip
    command.add_argument("--strategy", metavar="NAME", help="strategy, such as FSDP2 (default: set in the config)")
    command.add_argument(
        "--input-shape", metavar="SHAPE",
        help="shape of the input of a sample, such as 3,224,224 or 1024:int64, to estimate without data",
    )  # fmt: skip
    command.add_argument(
        "--device-memory", metavar="SIZE", help="memory of an accelerator, such as 80GB: report what would make it fit"
    )
    command.add_argument(
        "--gpus-per-node", type=int, default=8, metavar="N", help="accelerators per machine (default: %(default)s)"
    )
    command.add_argument(
        "--intra-link", default="450GB/s", metavar="SPEED",
        help="speed at which an accelerator sends within its machine (default: %(default)s, NVLink 4 in one direction, "
        "by its data sheet)",
    )  # fmt: skip
    command.add_argument(
        "--inter-link", default="50GB/s", metavar="SPEED",
        help="speed at which an accelerator sends to other machines (default: %(default)s, 400 Gb/s for each)",
    )  # fmt: skip
    command.add_argument(
        "--tflops", type=float, default=400.0, metavar="N",
        help="sustained 10^12 operations per second of an accelerator (default: %(default)g, an assumption: 40 %% of "
        "the dense bfloat16 peak in the data sheet of an H100 SXM)",
    )  # fmt: skip
    command.add_argument("--json", action="store_true", help="print JSON")
    command.set_defaults(run=estimate)

    command = commands.add_parser(
        "predict", parents=[common], help="predict with a checkpoint", description=predict.__doc__
    )
    command.add_argument("config", metavar="CONFIG", help=config_help)
    command.add_argument("checkpoint", metavar="CHECKPOINT", help="checkpoint, e.g. work_dirs/CONFIG/epoch_8.pth")
    command.add_argument("inputs", metavar="INPUT", nargs="+", help="image, folder of images, or video")
    command.add_argument("--out-dir", default="predictions", help="folder for the output (default: %(default)s)")
    command.add_argument("--batch-size", type=int, default=1, help="inputs per batch (default: %(default)s)")
    command.add_argument(
        "--tile-size", type=int, metavar="PIXELS", help="predict on large images in overlapping tiles of this size"
    )
    command.add_argument(
        "--tile-overlap", type=float, metavar="RATIO",
        help="overlap of tiles as a fraction of their size, so that most objects are complete in one (default: 0.2)",
    )  # fmt: skip
    command.add_argument("--device", help="cpu, cuda, cuda:1, mps, … (default: the accelerator if there is one)")
    boxes = command.add_argument_group("boxes for top-down pose models (default: one for the whole image)")
    boxes.add_argument("--bboxes", metavar="FILE", help="file of boxes, JSON or CSV")
    boxes.add_argument("--det-model", metavar="CONFIG", help="config of a detector (default: that in --det-weights)")
    boxes.add_argument("--det-weights", metavar="CHECKPOINT", help="checkpoint of a detector")
    boxes.add_argument(
        "--det-cat-ids", nargs="+", type=_label, metavar="CLASS",
        help="classes whose boxes are used, as names or numbers (default: person if there is such a class, else all)",
    )  # fmt: skip
    boxes.add_argument("--bbox-thr", type=float, metavar="SCORE", help="lowest score of a box (default: 0.3)")
    boxes.add_argument("--nms-thr", type=float, metavar="IOU", help="highest overlap of two boxes (default: 0.3)")
    command.set_defaults(run=predict)

    command = commands.add_parser(
        "export", parents=[common], help="export a model for another runtime", description=export.__doc__
    )
    command.add_argument("config", metavar="CONFIG", help=config_help)
    command.add_argument("checkpoint", metavar="CHECKPOINT", help="checkpoint with the weights")
    command.add_argument("--format", required=True, metavar="FORMAT", help="onnx, torch_export, openvino or executorch")
    command.add_argument(
        "-o", "--output", required=True, metavar="FILE", help="file to write: .onnx, .pt2, .xml or .pte"
    )
    command.add_argument(
        "--fixed", nargs="+", choices=["batch", "size"], default=[], metavar="AXIS",
        help="batch: always one input at a time; size: only the size of the test data (default: any, where possible)",
    )  # fmt: skip
    command.add_argument(
        "--tolerance", type=float, default=1e-4, metavar="FRACTION",
        help="largest difference between the outputs, as a fraction of their range (default: %(default)s)",
    )  # fmt: skip
    command.add_argument(
        "--input-shape", metavar="SHAPE",
        help="compare on random inputs of this shape instead of the test data, e.g. 3,224,224:uint8",
    )  # fmt: skip
    command.set_defaults(run=export)

    command = commands.add_parser(
        "browse-dataset",
        parents=[common],
        help="draw samples and find bad annotations",
        description=browse_dataset.__doc__,
    )
    command.add_argument("config", metavar="CONFIG", help=config_help)
    command.add_argument(
        "--split",
        default="train",
        help="train, val, test, or one of several data loaders, as train.NAME (default: train)",
    )
    command.add_argument("--number", type=int, default=20, help="number of samples (default: %(default)s)")
    command.add_argument("--out-dir", help="folder for the images (default: browse/CONFIG/SPLIT)")
    command.add_argument("--seed", type=int, default=0, help="seed of the augmentation (default: %(default)s)")
    command.add_argument(
        "--stats", action="store_true", help="instead, count classes, sizes and boxes, and draw them to stats.png"
    )
    command.add_argument("--no-decode", action="store_true", help="do not decode all images in search of damaged files")
    command.set_defaults(run=browse_dataset)

    command = commands.add_parser(
        "consolidate", help="convert a sharded checkpoint to a file, or back", description=consolidate.__doc__
    )
    command.add_argument("source", metavar="SOURCE", help="folder, e.g. epoch_8.dist, or file, e.g. epoch_8.pth")
    command.add_argument("target", metavar="TARGET", help="file or folder to write")
    command.set_defaults(run=consolidate)

    command = commands.add_parser("new", help="write a config for your own data", description=new.__doc__)
    command.add_argument(
        "data", metavar="[TASK] DATA", nargs="+",
        help="task (by default inferred: classification, multilabel, detection, instance_segmentation, pose, "
        "segmentation or video) and folder or file: class folders, images and masks, YOLO, COCO, LabelMe, VOC, CSV",
    )  # fmt: skip
    command.add_argument("-o", "--output", required=True, metavar="CONFIG.py", help="config to write")
    command.add_argument(
        "--weights", metavar="FILE|NAME|none",
        help="pretrained weights to fine-tune: a file; a network of torchvision, whose weights are downloaded when the "
        "training starts; or none (default: weights in torch's cache, if there are any)",
    )  # fmt: skip
    command.add_argument("--force", action="store_true", help="overwrite the config and its lists")
    command.set_defaults(run=new)

    command = commands.add_parser(
        "migrate", help="move a project from MMEngine to Trainwright", description=migrate.__doc__
    )
    command.add_argument("path", metavar="PATH", help="Python file, or folder of a project")
    command.add_argument("--write", action="store_true", help="change the files (default: print the changes)")
    command.set_defaults(run=migrate)

    command = commands.add_parser(
        "list", help="list components and shipped configs", description=list_components.__doc__
    )
    command.add_argument("kind", metavar="KIND", choices=LISTED, help=f"one of {', '.join(LISTED)}")
    command.add_argument("name", metavar="NAME", nargs="?", help="component to describe, or config to print")
    command.set_defaults(run=list_components)

    command = commands.add_parser(
        "print-config",
        parents=[common],
        help="print a config with all inherited values",
        description=print_config.__doc__,
    )
    command.add_argument("config", metavar="CONFIG", help=config_help)
    command.add_argument(
        "--origins", action="store_true", help="print one value per line, with the file and line that set it"
    )
    command.set_defaults(run=print_config)
    return parser


def _given(arguments: argparse.Namespace, *names: str) -> dict[str, Any]:
    """Return the options that are on the command line."""
    return {name: value for name in names if (value := getattr(arguments, name)) is not None}


def _label(text: str) -> int | str:
    return int(text) if text.isdecimal() else text


def _read(name: str, options: dict[str, Any]) -> "Config":
    from trainwright.compat import read_config
    from trainwright.engine.config.custom_imports import KEY, import_custom_modules

    cfg = read_config(find_named_config(name))
    cfg.merge_from_dict(options, origin=COMMAND_LINE)
    if any(path.partition(".")[0] == KEY for path in options):
        import_custom_modules(cfg._cfg_dict, [])
    return cfg


def _load(arguments: argparse.Namespace) -> "Config":
    """Read the config and apply the options common to train and test."""
    if arguments.fidelity:
        from trainwright.compat import install

        install(fidelity=True)
    cfg = _read(arguments.config, arguments.cfg_options)
    if arguments.work_dir is not None:
        cfg.work_dir = arguments.work_dir
    elif cfg.get("work_dir") is None:
        cfg.work_dir = str(Path("work_dirs", find_named_config(arguments.config).stem))
    if arguments.seed is not None or arguments.deterministic:
        given = {"seed": arguments.seed} if arguments.seed is not None else {}
        cfg.randomness = {
            **cfg.get("randomness", {}),
            **given,
            **({"deterministic": True} if arguments.deterministic else {}),
        }
    if arguments.device is not None:
        cfg.device = arguments.device
    if arguments.local_rank is not None:
        os.environ.setdefault("LOCAL_RANK", str(arguments.local_rank))
    if arguments.launcher is not None:
        cfg.launcher = arguments.launcher
    elif "launcher" not in cfg:
        from trainwright.engine.distributed import infer_launcher

        cfg.launcher = infer_launcher()
    return cfg


def _report(error: Exception) -> None:
    """Print an error, by one rank in full if there are several."""
    failures: Any = sys.modules.get("trainwright.engine.ranks.failures")  # imported, if there are several
    if failures is not None and failures.report(error):
        return
    if int(os.environ.get("LOCAL_RANK", "0")) > 0:  # before the ranks have found each other
        time.sleep(_PATIENCE)  # otherwise, the launcher ends local rank 0 before it has printed the error
        print(f"rank {os.environ.get('RANK')}: {type(error).__name__}, as on local rank 0", file=sys.stderr)
        return
    print(error, file=sys.stderr)
    for note in getattr(error, "__notes__", ()):
        print(f"    {note}", file=sys.stderr)


def _check(cfg: "Config") -> None:
    from trainwright.engine.checking import check

    mistakes = check(cfg)
    if mistakes:
        raise ConfigErrors(mistakes)


def _run(cfg: "Config", action: str) -> None:
    from trainwright.engine.building import resolve
    from trainwright.engine.distributed import close_dist
    from trainwright.engine.parts import setting
    from trainwright.engine.registry import RUNNERS, default_scope

    _check(cfg)
    with default_scope(cfg.get("default_scope")):
        runner: Any = resolve(setting(cfg, "runner_type"), RUNNERS, path="runner_type")
    getattr(runner.from_cfg(cfg), action)()
    close_dist()


if __name__ == "__main__":
    sys.exit(main())
