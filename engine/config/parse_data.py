"""Parsing YAML and JSON configs, with the line of each key."""

import json
import re
from collections.abc import Iterator
from typing import Any, TypeAlias

import yaml

from trainwright.engine.config.config_dict import ConfigDict
from trainwright.engine.errors import ConfigFileError, Origin

TUPLE_TAG = "tag:yaml.org,2002:python/tuple"
FLOAT_TAG = "tag:yaml.org,2002:float"
TIMESTAMP_TAG = "tag:yaml.org,2002:timestamp"
FLOAT = re.compile(
    r"[-+]?(\d[\d_]*\.[\d_]*|\.\d[\d_]*|\d[\d_]*(?=[eE]))([eE][-+]?\d+)?$|[-+]?\.(inf|Inf|INF)$|\.(nan|NaN|NAN)$"
)
_STRING = r'"(?:[^"\\]|\\.)*"'
_JSON_TOKEN = re.compile(rf"(?P<key>{_STRING}(?=\s*:))|{_STRING}|[{{}}\n]")

Resolvers: TypeAlias = dict[str | None, list[tuple[str, re.Pattern[str]]]]


def yaml_resolvers(inherited: Resolvers) -> Resolvers:
    """Return PyYAML's rules for unquoted scalars, but with ``1e-3`` as a number (as in YAML 1.2) and dates as text."""
    dropped = (FLOAT_TAG, TIMESTAMP_TAG)
    resolvers = {first: [rule for rule in rules if rule[0] not in dropped] for first, rules in inherited.items()}
    for first in "-+.0123456789":
        resolvers.setdefault(first, []).append((FLOAT_TAG, FLOAT))
    return resolvers


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]  # the C loader is as safe, and faster
    yaml_implicit_resolvers = yaml_resolvers(yaml.SafeLoader.yaml_implicit_resolvers)
    file = ""


def parse_yaml(text: str, file: str) -> ConfigDict:
    """Parse a YAML config. Tags that could run code are rejected; ``!!python/tuple`` is a tuple.

    Raises:
        ConfigFileError: invalid syntax, a duplicate key, or not a mapping.
    """
    loader = _Loader(text)
    loader.file = file
    try:
        value = loader.get_single_data()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        message = f"not valid YAML: {error.problem or error.context}"
        raise ConfigFileError("", message, "", Origin(file, mark.line + 1 if mark else 0)) from None
    except (yaml.YAMLError, ValueError, TypeError) as error:
        raise ConfigFileError("", f"not valid YAML: {error}", "", Origin(file)) from None
    finally:
        loader.dispose()
    return _checked_root(value, file)


def _construct_mapping(loader: _Loader, node: yaml.MappingNode) -> ConfigDict:
    lines: dict[str, int] = {}
    for key_node, _ in node.value:
        if key_node.tag != "tag:yaml.org,2002:merge" and isinstance(key_node.value, str):
            _reject_duplicate(key_node.value, Origin(loader.file, key_node.start_mark.line + 1), lines)
    loader.flatten_mapping(node)
    mapping = ConfigDict()
    for key_node, value_node in node.value:
        key = loader.construct_object(key_node, deep=True)
        mapping[key] = loader.construct_object(value_node, deep=True)
        mapping.set_origin(key, Origin(loader.file, key_node.start_mark.line + 1))
    return mapping


_Loader.add_constructor("tag:yaml.org,2002:map", _construct_mapping)
_Loader.add_constructor(TUPLE_TAG, lambda loader, node: tuple(loader.construct_sequence(node, deep=True)))


def parse_json(text: str, file: str) -> ConfigDict:
    """Parse a JSON config.

    Raises:
        ConfigFileError: invalid syntax, a duplicate key, or not an object.
    """
    lines_of_keys = _lines_of_keys(text)

    def make_dict(pairs: list[tuple[str, Any]]) -> ConfigDict:
        mapping, seen = ConfigDict(), dict[str, int]()
        for (key, value), line in zip(pairs, next(lines_of_keys)):
            _reject_duplicate(key, Origin(file, line), seen)
            mapping[key] = value
            mapping.set_origin(key, Origin(file, line))
        return mapping

    try:
        return _checked_root(json.loads(text, object_pairs_hook=make_dict), file)
    except json.JSONDecodeError as error:
        raise ConfigFileError("", f"not valid JSON: {error.msg}", "", Origin(file, error.lineno)) from None


def _lines_of_keys(text: str) -> Iterator[list[int]]:
    """Yield the lines of the keys of each JSON object, in the order in which the json module completes objects."""
    line = 1
    unfinished: list[list[int]] = []
    for token in _JSON_TOKEN.finditer(text):
        if token["key"]:
            unfinished[-1].append(line)
        elif token[0] == "{":
            unfinished.append([])
        elif token[0] == "}":
            yield unfinished.pop()
        elif token[0] == "\n":
            line += 1


def _reject_duplicate(key: str, origin: Origin, lines: dict[str, int]) -> None:
    if key in lines:
        raise ConfigFileError("", f"duplicate key {key!r}, first set in line {lines[key]}", "", origin)
    lines[key] = origin.line


def _checked_root(value: Any, file: str) -> ConfigDict:
    if value is None:
        return ConfigDict()
    if not isinstance(value, ConfigDict):
        raise ConfigFileError("", f"a config must be a mapping, not {value!r:.60}", "", Origin(file))
    return value
