"""The command ``trainwright``: parse, load, call. Nothing here imports torch before it is needed."""

import argparse
import io
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainwright.engine.config.overrides import COMMAND_LINE, DictAction
from trainwright.engine.config.paths import find_named_config
from trainwright.engine.errors import CheckpointError, ConfigError, ConfigErrors

if TYPE_CHECKING:
    from trainwright.engine.config.config import Config

LISTED = ("hooks", "models", "datasets", "transforms", "metrics", "schedulers", "optimizers", "configs")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command.

    Args:
        argv: the words after ``trainwright``; those of this process if None.

    Returns:
        The exit status: 0; 2 for a mistake in the config, the options or a checkpoint; 130 after Ctrl-C. Other signals
        and other errors end the process themselves.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a console may lack an arrow, or the letters of a path
            stream.reconfigure(errors="backslashreplace")
    try:
        arguments = _parser().parse_args(argv)
        return int(arguments.run(arguments))
    except (ConfigError, ConfigErrors, CheckpointError) as error:
        print(error, file=sys.stderr)
        for note in getattr(error, "__notes__", ()):
            print(f"    {note}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # `trainwright print-config … | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def train(arguments: argparse.Namespace) -> int:
    """Checks a config and trains with it."""
    cfg = _load(arguments)
    if arguments.amp:
        cfg.optim_wrapper.type = "AmpOptimWrapper"
    if arguments.resume is not None:
        cfg.resume = arguments.resume
    if arguments.load_from is not None:
        cfg.load_from = arguments.load_from
    _run(cfg, "train")
    return 0


def test(arguments: argparse.Namespace) -> int:
    """Tests a checkpoint."""
    cfg = _load(arguments)
    cfg.load_from = arguments.checkpoint
    cfg.resume = False
    if arguments.tta:
        from trainwright.hooks import build_runner_with_tta

        _check(cfg)
        build_runner_with_tta(cfg).test()
        return 0
    _run(cfg, "test")
    return 0


def check(arguments: argparse.Namespace) -> int:
    """Checks configs and prints every mistake."""
    from trainwright.engine.checking import check

    status = 0
    for name in arguments.config:
        cfg = _read(name, arguments.cfg_options)
        mistakes = check(cfg)
        for mistake in mistakes:
            print(mistake, file=sys.stderr)
        status = 2 if mistakes else status
        if not mistakes:
            print(f"{name}: no mistake found")
    return status


def print_config(arguments: argparse.Namespace) -> int:
    """Prints a config with everything that it inherits."""
    cfg = _read(arguments.config, arguments.cfg_options)
    if arguments.origins:
        from trainwright.engine.config.compare import flattened, origin_of_path

        for path, value in flattened(cfg.to_dict()):
            print(f"{path} = {value!r}  # {origin_of_path(cfg, path) or 'unknown'}")
    else:
        print(cfg.pretty_text)
    return 0


def browse_dataset(arguments: argparse.Namespace) -> int:
    """Draws samples as a model gets to see them, and prints every problem of the annotations."""
    from trainwright.tools import browse

    cfg = _read(arguments.config, arguments.cfg_options)
    _check(cfg)
    out_dir = Path(arguments.out_dir or Path("browse", find_named_config(arguments.config).stem, arguments.split))
    return 1 if browse.browse_dataset(cfg, arguments.split, arguments.number, out_dir, arguments.seed) else 0


def predict(arguments: argparse.Namespace) -> int:
    """Predicts for images (or what else the model takes), and writes the predictions as JSON and as pictures."""
    from trainwright.tools import predict as predicting

    cfg = _read(arguments.config, arguments.cfg_options)
    out_dir = Path(arguments.out_dir)
    file, unreadable = predicting.predict(
        cfg, arguments.checkpoint, arguments.inputs, out_dir, arguments.batch_size, arguments.device
    )
    print(f"The predictions are in {file}, and drawn beside it.")
    return 1 if unreadable else 0


def list_components(arguments: argparse.Namespace) -> int:
    """Lists the components that a config can name, or describes one of them; likewise the shipped configs."""
    from trainwright.tools import reference

    kind, name = arguments.kind, arguments.name
    for line in reference.listing(kind) if name is None else reference.details(kind, name):
        print(line)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "trainwright", description="Trains, tests and checks experiments described by a config."
    )
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    common = argparse.ArgumentParser(add_help=False)
    common.add_argument(
        "--cfg-options", nargs="+", action=DictAction, default={}, metavar="KEY=VALUE",
        help="change the config: optim_wrapper.optimizer.lr=0.01 custom_hooks.0.momentum=0.1",
    )  # fmt: skip
    running = argparse.ArgumentParser(add_help=False, parents=[common])
    running.add_argument("--work-dir", help="folder for checkpoints and logs; default: work_dirs/CONFIG")
    running.add_argument("--seed", type=int, help="seed of everything random; default: the config's, or drawn")
    running.add_argument("--deterministic", action="store_true", help="refuse algorithms that differ from run to run")
    running.add_argument("--device", help="cpu, cuda, cuda:1, mps, …; default: the accelerator if there is one")
    running.add_argument(
        "--launcher",
        choices=["none", "pytorch", "slurm", "mpi"],
        help="what started several processes; default: found out",
    )
    running.add_argument("--local-rank", "--local_rank", type=int, help=argparse.SUPPRESS)

    command = commands.add_parser("train", parents=[running], help="train", description=train.__doc__)
    of_config = "a config file, or the name of one that ships with Trainwright"
    command.add_argument("config", metavar="CONFIG", help=of_config)
    command.add_argument(
        "--resume", nargs="?", const="auto", metavar="CHECKPOINT",
        help="go on from a checkpoint, or from the newest in the work dir",
    )  # fmt: skip
    command.add_argument("--load-from", metavar="CHECKPOINT", help="start from these weights")
    command.add_argument("--amp", action="store_true", help="train in mixed precision")
    command.set_defaults(run=train)

    command = commands.add_parser("test", parents=[running], help="test a checkpoint", description=test.__doc__)
    command.add_argument("config", metavar="CONFIG")
    command.add_argument("checkpoint", metavar="CHECKPOINT")
    command.add_argument("--tta", action="store_true", help="average over the augmentations that the config describes")
    command.set_defaults(run=test)

    command = commands.add_parser("check", parents=[common], help="find mistakes in configs", description=check.__doc__)
    command.add_argument("config", metavar="CONFIG", nargs="+")
    command.set_defaults(run=check)

    command = commands.add_parser(
        "predict", parents=[common], help="predict with a checkpoint", description=predict.__doc__
    )
    command.add_argument("config", metavar="CONFIG", help=of_config)
    command.add_argument("checkpoint", metavar="CHECKPOINT", help="a file of a training: work_dirs/CONFIG/epoch_8.pth")
    command.add_argument("inputs", metavar="INPUT", nargs="+", help="an image, a folder of images, or a video")
    command.add_argument("--out-dir", default="predictions", help="folder to write to; default: %(default)s")
    command.add_argument("--batch-size", type=int, default=1, help="inputs at once; default: %(default)s")
    command.add_argument("--device", help="default: the accelerator if there is one")
    command.set_defaults(run=predict)

    command = commands.add_parser(
        "browse-dataset",
        parents=[common],
        help="look at samples, and find bad annotations",
        description=browse_dataset.__doc__,
    )
    command.add_argument("config", metavar="CONFIG", help=of_config)
    command.add_argument("--split", choices=["train", "val", "test"], default="train", help="default: %(default)s")
    command.add_argument("--number", type=int, default=20, help="how many samples; default: %(default)s")
    command.add_argument("--out-dir", help="folder for the pictures; default: browse/CONFIG/SPLIT")
    command.add_argument("--seed", type=int, default=0, help="of the augmentation; default: %(default)s")
    command.set_defaults(run=browse_dataset)

    command = commands.add_parser("list", help="list what a config can name", description=list_components.__doc__)
    command.add_argument("kind", metavar="KIND", choices=LISTED, help=", ".join(LISTED))
    command.add_argument("name", metavar="NAME", nargs="?", help="describe this one, with its arguments")
    command.set_defaults(run=list_components)

    command = commands.add_parser(
        "print-config",
        parents=[common],
        help="print a config as it is after inheritance",
        description=print_config.__doc__,
    )
    command.add_argument("config", metavar="CONFIG")
    command.add_argument("--origins", action="store_true", help="one line a value, with the file and line that set it")
    command.set_defaults(run=print_config)
    return parser


def _read(name: str, options: dict[str, Any]) -> "Config":
    from trainwright.engine.config.config import Config
    from trainwright.engine.config.custom_imports import KEY, import_custom_modules

    cfg = Config.fromfile(find_named_config(name))
    cfg.merge_from_dict(options, origin=COMMAND_LINE)
    if any(path.partition(".")[0] == KEY for path in options):
        import_custom_modules(cfg._cfg_dict, [])
    return cfg


def _load(arguments: argparse.Namespace) -> "Config":
    """Reads the config and applies the options that every run has."""
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
