"""The reference of everything that a config can use, for ``trainwright list`` and docs/.

``python -m trainwright.tools.reference docs`` writes the pages in docs/; a test fails if they are outdated.
"""

import inspect
import re
import sys
import textwrap
import types
import typing
from collections.abc import Iterator, Mapping
from importlib import import_module
from itertools import pairwise, takewhile
from pathlib import Path
from typing import Any, NamedTuple

from trainwright.engine import parts
from trainwright.engine.config.paths import find_named_config, shipped_configs
from trainwright.engine.errors import ConfigError, did_you_mean
from trainwright.engine.registry import ROOT_REGISTRIES, Registry
from trainwright.engine.signatures import parameters_of

KINDS: dict[str, tuple[str, ...]] = {
    "hooks": ("HOOKS",),
    "models": ("MODELS", "MODEL_WRAPPERS"),
    "datasets": ("DATASETS", "DATA_SAMPLERS", "FUNCTIONS"),
    "transforms": ("TRANSFORMS",),
    "metrics": ("METRICS",),
    "schedulers": ("PARAM_SCHEDULERS",),
    "optimizers": ("OPTIMIZERS", "OPTIM_WRAPPERS", "OPTIM_WRAPPER_CONSTRUCTORS"),
    "strategies": ("STRATEGIES",),
}
"""Registries that contain the components of each kind."""

SUPPLIED = {
    "DATA_SAMPLERS": {"dataset", "sampler", "seed"},
    "FUNCTIONS": {"data_batch"},
    "OPTIMIZERS": {"params"},
    "OPTIM_WRAPPERS": {"optimizer"},
    "PARAM_SCHEDULERS": {"optimizer"},
}
"""Arguments that the engine passes, by registry; a config cannot set them."""

INTRODUCTIONS = {
    "hooks": """\
Hooks are called at fixed points of the loops. `default_hooks` changes the default hooks of a run, by name, and
`custom_hooks` is a list of additional hooks. Each is `dict(type=..., **arguments)`, with an optional `name` and
`priority` (`HIGHEST`, `VERY_HIGH`, `HIGH`, `ABOVE_NORMAL`, `NORMAL`, `BELOW_NORMAL`, `LOW`, `VERY_LOW`, `LOWEST`, or 0
to 100). An entry of `None` in `default_hooks` removes that hook.""",
    "transforms": """\
Transforms are listed in the `pipeline` of a dataset and applied in order. Each accepts and returns the dictionary of a
sample. In addition to those below, every transform of `torchvision.transforms.v2` can be used under its own name.""",
    "metrics": """\
Metrics are set in `val_evaluator` and `test_evaluator`, as a `dict(type=...)` or a list of them. Metrics of
`torchmetrics` can be used through `TorchMetric`.""",
    "schedulers": """\
Schedulers are set in `param_scheduler`, as a `dict(type=...)` or a list of them, which are applied in order. Most come
in three versions: `...LR` schedules the learning rate, `...Momentum` the momentum (for Adam and its variants, the first
beta), and `...ParamScheduler` any entry of the parameter groups, named by `param_name`.""",
    "strategies": """\
The strategy of a run is set in `strategy`, by name or as `dict(type=..., **arguments)`: how its processes share the
training. By default, `auto`, it is `DDP` in several processes. Checkpoints are the same under all strategies, so a run
can be resumed under another one.""",
}
"""The introduction of each page."""

_SECTION = re.compile(r"(?:Args|Attributes|Example|Examples|Note|Raises|Returns|Yields):")
_INHERITED = re.compile(r"(?:as for|as in|see) (?:the base class|:\w+:`[^`]*`)\.?")  # documented by a base class
_ARGUMENT = re.compile(r" {4}(\w+)(?: \(.*?\))?: (.*)")


class Docstring(NamedTuple):
    """A parsed docstring in Google style.

    Args:
        summary: the first paragraph, on one line.
        details: everything between the summary and the first section.
        arguments: the description of each argument, on one line.
        example: the example, without indentation.
    """

    summary: str
    details: str
    arguments: dict[str, str]
    example: str


class Argument(NamedTuple):
    """An argument of a component.

    Args:
        name: its name.
        type: its annotation as text, or an empty string.
        default: its default as text; None if it is required.
        meaning: its description in the docstring.
    """

    name: str
    type: str
    default: str | None
    meaning: str


class Component(NamedTuple):
    """A class or function that a config can use.

    Args:
        name: its registered name, the value of ``type``.
        target: the class or function.
        docstring: its docstring.
        arguments: its arguments, except those passed by the engine.
    """

    name: str
    target: Any
    docstring: Docstring
    arguments: list[Argument]

    @property
    def is_ours(self) -> bool:
        """Whether the component belongs to Trainwright, not to PyTorch, torchvision or a user's package."""
        return str(self.target.__module__).startswith("trainwright.")


def components(kind: str) -> list[Component]:
    """Return all components of a kind, sorted by name.

    Args:
        kind: a key of :data:`KINDS`.
    """
    found = []
    for variable in KINDS[kind]:
        registry = ROOT_REGISTRIES[variable]
        own = (name for name in registry.names() if ".compat." not in str(registry.module_dict[name].__module__))
        for name in own:  # those of MMEngine are only registered where its libraries are used
            found.append(describe(name, registry.module_dict[name], SUPPLIED.get(variable, set())))
    return sorted(found, key=lambda component: component.name.lower())


def describe(name: str, target: Any, supplied: set[str] | frozenset[str] = frozenset()) -> Component:
    """Return the description of a component.

    Args:
        name: its registered name.
        target: the class or function.
        supplied: arguments passed by the engine, to leave out.
    """
    meanings: dict[str, str] = {}
    for owner in reversed(target.__mro__[:-1]) if inspect.isclass(target) else [target]:
        for argument, meaning in parse_docstring(owner.__doc__ or "").arguments.items():
            if not (argument in meanings and _INHERITED.fullmatch(meaning)):
                meanings[argument] = meaning
    parameters, _ = parameters_of(target)
    arguments = [
        Argument(
            parameter.name,
            type_text(parameter.annotation),
            None if parameter.default is parameter.empty else _default_text(parameter.default),
            meanings.get(parameter.name, ""),
        )
        for parameter in parameters.values()
        if parameter.name not in supplied
    ]
    return Component(name, target, parse_docstring(inspect.getdoc(target) or ""), arguments)


def parse_docstring(text: str) -> Docstring:
    """Split a docstring into its parts."""
    lines = inspect.cleandoc(text).splitlines()
    sections = [index for index, line in enumerate(lines) if _SECTION.fullmatch(line)] + [len(lines)]
    summary, _, details = "\n".join(lines[: sections[0]]).partition("\n\n")
    arguments: dict[str, str] = {}
    name = example = ""
    for begin, end in pairwise(sections):
        body = lines[begin + 1 : end]
        if lines[begin].startswith("Example"):
            example = textwrap.dedent("\n".join(body)).strip()
        for line in body if lines[begin] == "Args:" else ():
            if found := _ARGUMENT.fullmatch(line):
                name, arguments[name] = found[1], found[2]
            elif not line.startswith(" " * 8):  # **kwargs
                name = ""
            elif name:
                arguments[name] += f" {line.strip()}"
    return Docstring(" ".join(summary.split()), details.strip(), arguments, example)


def type_text(annotation: Any) -> str:
    """Format an annotation independently of the Python version, e.g. ``Sequence[int] | None``."""
    if annotation is inspect.Parameter.empty:
        return ""
    if isinstance(annotation, str):
        return annotation
    if annotation in (None, type(None)):
        return "None"
    if annotation is Ellipsis:
        return "..."
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (typing.Union, types.UnionType):
        return " | ".join(map(type_text, arguments))
    if origin is typing.Literal:
        return " | ".join(map(repr, arguments))
    if isinstance(annotation, list):  # the arguments of a Callable
        return f"[{', '.join(map(type_text, annotation))}]"
    name = str(getattr(origin or annotation, "__name__", annotation))
    return f"{name}[{', '.join(map(type_text, arguments))}]" if arguments else name


def _default_text(value: Any) -> str:
    return str(getattr(value, "__name__", None) or repr(value))


def plain_text(text: str) -> str:
    """Remove the markup from the text of a docstring."""
    return re.sub(r":\w+:`~?([^`]+)`", lambda found: found[1].rpartition(".")[2], text).replace("``", "")


def markdown(text: str) -> str:
    """Convert the text of a docstring to Markdown."""
    text = re.sub(r":\w+:`~?([^`]+)`", lambda found: f"`{found[1].rpartition('.')[2]}`", text)
    return re.sub(r"::$", ":", re.sub(r"^::\n\n?", "", text, flags=re.MULTILINE), flags=re.MULTILINE).replace("``", "`")


def listing(kind: str) -> Iterator[str]:
    """Yield one line of text per component of a kind, or per shipped config."""
    if kind == "configs":
        found = {name: _first_sentence(find_named_config(name)) for name in shipped_configs()}
    else:
        found = {component.name: component.docstring.summary for component in components(kind)}
    width = max(map(len, found))
    for name, summary in found.items():
        yield f"{name:{width}}  {plain_text(summary)}".rstrip()


def details(kind: str, name: str) -> Iterator[str]:
    """Yield the description of a component, or the contents of a shipped config, line by line.

    Raises:
        ConfigError: the name is unknown.
    """
    if kind == "configs":
        yield from find_named_config(name).read_text().splitlines()
        return
    found = {component.name: component for component in components(kind)}
    if name not in found:
        hint = did_you_mean(name, found) or f"run `trainwright list {kind}` to list all"
        raise ConfigError("", f"unknown {kind.removesuffix('s')} {name!r}", hint)
    component = found[name]
    yield f"{name} ({component.target.__module__}.{component.target.__qualname__})"
    yield plain_text(component.docstring.summary)
    if component.docstring.details:
        yield ""
        yield plain_text(component.docstring.details)
    if component.arguments:
        yield ""
    for argument, type_, default, meaning in component.arguments:
        yield f"  {argument}{f': {type_}' if type_ else ''}{' (required)' if default is None else f' = {default}'}"
        if meaning:
            yield f"      {plain_text(meaning)}"


def _first_sentence(file: Path) -> str:
    """Return the first sentence of the comment at the top of a config."""
    lines = takewhile(lambda line: line.startswith("#"), file.read_text().splitlines())
    return " ".join(line.lstrip("# ") for line in lines).partition(". ")[0]


def page(kind: str) -> str:
    """Return the reference page of a kind, in Markdown.

    Args:
        kind: a key of :data:`INTRODUCTIONS`.
    """
    found = [component for component in components(kind) if component.is_ours]
    sections = [f"# {kind.capitalize()}", _GENERATED, INTRODUCTIONS[kind]]
    sections.append("\n".join(f"- [{c.name}](#{c.name.lower()}): {markdown(c.docstring.summary)}" for c in found))
    for component in found:
        sections += [f"## {component.name}", markdown(component.docstring.summary)]
        if component.docstring.details:
            sections.append(markdown(component.docstring.details))
        if component.arguments:
            sections.append(_table(component.arguments))
        if component.docstring.example:
            sections.append(f"```pycon\n{component.docstring.example}\n```")
    return "\n\n".join(sections) + "\n"


_GENERATED = "<!-- Generated by `python -m trainwright.tools.reference docs`: edit the docstrings instead. -->"


def _table(arguments: list[Argument]) -> str:
    rows = ["| argument | type | default | meaning |", "|---|---|---|---|"]
    for name, type_, default, meaning in arguments:
        cells = f"`{name}`", f"`{type_}`" if type_ else "", "required" if default is None else f"`{default}`"
        rows.append("| " + " | ".join(cell.replace("|", r"\|") for cell in (*cells, markdown(meaning))) + " |")
    return "\n".join(rows)


def config_page() -> str:
    """Return the reference page of config keys, in Markdown."""
    runner = describe("Runner", ROOT_REGISTRIES["RUNNERS"].get("Runner"))
    top_level = [argument for argument in runner.arguments if argument.name != "cfg"]
    top_level += _arguments(parts.TOP_LEVEL_KEYS)
    sections = [
        "# Config keys",
        _GENERATED,
        "`trainwright check CONFIG` reports every key that is not listed here, unless the config itself uses it as a "
        "variable. In a `dict(type=...)`, the other keys are the arguments of that class: see [hooks](hooks.md), "
        "[metrics](metrics.md), [schedulers](schedulers.md) and [transforms](transforms.md), or run "
        "`trainwright list KIND NAME` for any other component.",
        "## Top-level keys",
        _table(sorted(top_level, key=lambda argument: argument.name)),
        "## `model`",
        "The model, with the arguments of its class, and:",
        _table(_arguments(parts.MODEL.keys)),
        "## `train_dataloader`, `val_dataloader`, `test_dataloader`",
        "All arguments of `torch.utils.data.DataLoader` except `shuffle`, and:",
        _table(_arguments(parts.DATALOADER_KEYS)),
        "Each of them may also be a dict of [several data loaders](training-blocks.md) by name. In `train_dataloader`, "
        "this dict may also have:",
        _table(_arguments(parts.SEVERAL_LOADERS_KEYS)),
        "## `train_cfg`, `val_cfg`, `test_cfg`",
        "The arguments of a loop, selected by `type`. The default for `train_cfg` is `EpochBasedTrainLoop`, or "
        "`IterBasedTrainLoop` with `by_epoch=False`.",
    ]
    for name in ("EpochBasedTrainLoop", "IterBasedTrainLoop", "ValLoop", "TestLoop"):
        loop = describe(name, ROOT_REGISTRIES["LOOPS"].get(name), set(parts.VAL_LOOP.runtime))
        sections += [f"### {name}", markdown(loop.docstring.summary), _table(loop.arguments)]
    sections += [
        "## `optim_wrapper`",
        "The optimizer and its wrapper. In addition to the arguments of the wrapper:",
        _table(_arguments(parts.OPTIM_WRAPPER.keys)),
    ]
    several = describe("", ROOT_REGISTRIES["OPTIM_WRAPPER_CONSTRUCTORS"].get("MultiOptimWrapperConstructor"))
    sections += [
        "### Several optimizers",
        "`constructor='MultiOptimWrapperConstructor'`: " + markdown(several.docstring.summary),
        markdown(several.docstring.details),
        f"```pycon\n{several.docstring.example}\n```",
        "In addition to the keys above, each wrapper accepts:",
        _table(_arguments(parts.NAMED_OPTIM_WRAPPER_KEYS)),
    ]
    for name in ("OptimWrapper", "AmpOptimWrapper"):
        wrapper = describe(name, ROOT_REGISTRIES["OPTIM_WRAPPERS"].get(name))
        sections += [f"### {name}", markdown(wrapper.docstring.summary), _table(wrapper.arguments)]
    sections += [
        "## `param_scheduler`",
        "A [scheduler](schedulers.md), or a list of them. In addition to its own arguments, each accepts:",
        _table(_arguments(parts.PARAM_SCHEDULER.keys)),
        "## `default_hooks`, `custom_hooks`",
        "`default_hooks` changes the hooks below by name: `dict(logger=dict(interval=50), progress=None)`. "
        "`custom_hooks` is a list of additional [hooks](hooks.md). In addition to its own arguments, each accepts:",
        _table(_arguments(parts.HOOK.keys)),
        "| name | hook |\n|---|---|\n"
        + "\n".join(
            f"| `{name}` | [{hook['type']}](hooks.md#{hook['type'].lower()}) |"
            for name, hook in parts.DEFAULT_HOOKS.items()
        ),
    ]
    for name, keys in parts.RUNNER_ARGUMENT_KEYS.items():
        sections += [f"## `{name}`", _table(_arguments(keys))]
    return "\n\n".join(sections) + "\n"


def _arguments(keys: Mapping[str, parts.Key]) -> list[Argument]:
    return [Argument(name, type_text(key.type), _default_text(key.default), key.meaning) for name, key in keys.items()]


def mmengine_names_page() -> str:
    """Return the page that tells where each public name of MMEngine is. This imports ``trainwright.compat``."""
    from trainwright.compat.finder import ROOMS, public_names
    from trainwright.compat.migration import place_of

    lines = [
        "# Names of MMEngine\n\n<!-- generated by `python -m trainwright.tools.reference docs` -->\n",
        "Where each name of MMEngine is imported from. `trainwright migrate PATH --write` makes these changes in a "
        "project;\nsee [Coming from OpenMMLab](coming-from-openmmlab.md).\n",
    ]
    for package in sorted(name for name, rooms in ROOMS.items() if rooms[0] in ("dl_utils", name)):
        if "." in package.removeprefix("utils.dl_utils") or package.startswith("_"):
            continue
        room = import_module(f"trainwright.compat.mmengine.{ROOMS[package][0]}")
        places: dict[str, list[str]] = {}
        for name in sorted(public_names(room)):
            value = getattr(room, name)
            if isinstance(value, Registry) or str(getattr(value, "__module__", "")).startswith("trainwright."):
                places.setdefault(str(place_of(f"mmengine.{package}", name)), []).append(f"`{name}`")
        lines.append(f"## mmengine.{package}\n\n| import from | names |\n|---|---|")
        lines += [f"| `{place}` | {', '.join(names)} |" for place, names in sorted(places.items(), reverse=True)]
        lines.append("")
    return "\n".join(lines)


def pages() -> dict[str, str]:
    """Return all generated pages by file name, except :func:`mmengine_names_page`."""
    return {"config.md": config_page(), **{f"{kind}.md": page(kind) for kind in INTRODUCTIONS}}


if __name__ == "__main__":
    for name, text in (pages() | {"mmengine-names.md": mmengine_names_page()}).items():
        Path(sys.argv[1], name).write_text(text)
