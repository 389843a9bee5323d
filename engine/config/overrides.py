"""Parsing command line options: ``model.depth=50 betas=(0.9,0.99) names=[a, 'b c'] step={type: A}``."""

import argparse
import re
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from trainwright.engine.errors import ConfigError, Origin

COMMAND_LINE = Origin("--cfg-options")

_INT = re.compile(r"[-+]?[0-9]+")
_FLOAT = re.compile(r"[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?|[-+]?(inf|infinity|nan)", re.IGNORECASE)
_CLOSING = {"(": ")", "[": "]", "{": "}"}


def parse_override(text: str) -> Any:
    """Return the value of an option.

    Numbers, ``true``, ``false`` (in any case) and ``None`` are recognized. ``[a, b]`` and ``a,b`` are lists, ``(a, b)``
    is a tuple, ``{a: 1}`` and ``dict(a=1)`` are dictionaries; all can be nested. Anything else is text, including
    spaces, and so is anything in quotes: ``'1'``.

    Raises:
        ConfigError: unbalanced brackets or quotes.
    """
    values, commas = _Parser(text).items("")
    return values if commas else values[0] if values else ""


def parse_overrides(options: Sequence[str]) -> dict[str, Any]:
    """Return ``{key: value}`` for options of the form ``key=value``; the value may contain ``=``.

    Raises:
        ConfigError: the ``=`` or the key is missing, or the value cannot be parsed.
    """
    parsed = {}
    for option in options:
        key, separator, text = option.partition("=")
        key = key.strip()
        if not separator or not all(key.split(".")):
            hint = "write KEY=VALUE, such as optim_wrapper.optimizer.lr=0.01"
            raise ConfigError("", f"{option!r} is not an option", hint, COMMAND_LINE)
        try:
            parsed[key] = parse_override(text)
        except ConfigError as error:
            raise ConfigError(key, error.message, error.hint, COMMAND_LINE) from None
    return parsed


def add_options(parser: argparse.ArgumentParser, values: Mapping[str, Any], prefix: str = "") -> None:
    """Add an option for each value in nested dictionaries, such as ``--optim_wrapper.optimizer.lr``.

    Args:
        parser: the parser.
        values: the dictionaries. An option has the type of its value; those of lists and tuples take several values.
        prefix: what precedes the keys.
    """
    for key, value in values.items():
        option = f"--{prefix}{key}"
        if isinstance(value, Mapping):
            add_options(parser, value, f"{prefix}{key}.")
        elif isinstance(value, bool):
            parser.add_argument(option, action=argparse.BooleanOptionalAction)
        elif isinstance(value, list | tuple):
            parser.add_argument(option, nargs="+", type=parse_override)
        else:
            parser.add_argument(option, type=type(value) if isinstance(value, str | int | float) else parse_override)


class DictAction(argparse.Action):
    """An argparse action that collects ``KEY=VALUE`` options in a dictionary, across repeated uses.

    Example:
        >>> parser.add_argument("--cfg-options", nargs="+", action=DictAction)
    """

    _parse_iterable = staticmethod(parse_override)  # MMEngine's name, which mmpretrain's tools use

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[Any] | None,
        option_string: str | None = None,
    ) -> None:
        try:
            options = parse_overrides([values] if isinstance(values, str) else list(values or ()))
        except ConfigError as error:
            raise argparse.ArgumentError(self, "\n".join(filter(None, (error.message, error.hint)))) from None
        setattr(namespace, self.dest, {**(getattr(namespace, self.dest, None) or {}), **options})


class _Parser:
    """A recursive descent parser of one option."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0

    def items(self, closing: str) -> tuple[list[Any], bool]:
        """Return the values up to ``closing`` (or the end), and whether there was a comma."""
        values: list[Any] = []
        commas = False
        while not self.ends(closing):
            values.append(self.value("," + closing))
            commas = self.take(",") or commas
        return values, commas

    def pairs(self, separator: str, closing: str) -> dict[Any, Any]:
        """Return the ``key: value`` or ``key=value`` pairs up to ``closing``."""
        pairs = {}
        while not self.ends(closing):
            key = self.value(f"{separator},{closing}")
            if not self.take(separator):
                self.fail(f"expected {separator!r} after the key {key!r}")
            pairs[key] = self.value(f",{closing}")
            self.take(",")
        return pairs

    def value(self, stops: str) -> Any:
        """Parse one value, which ends before one of ``stops``."""
        self.skip_space()
        start = self.at
        first = self.text[start : start + 1]
        if first in ("'", '"'):
            end = self.text.find(first, start + 1)
            if end < 0:
                self.fail(f"unclosed quote {first}")
            if self.stands_alone(end + 1, stops):
                self.at = end + 1
                return self.text[start + 1 : end]
        elif self.text.startswith("dict(", start) and self.stands_alone(self.matching(start + 4) + 1, stops):
            self.at = start + len("dict(")
            return self.pairs("=", ")")
        elif first in _CLOSING and first != "" and self.stands_alone(self.matching(start) + 1, stops):
            self.at = start + 1
            if first == "{":
                return self.pairs(":", "}")
            values, _ = self.items(_CLOSING[first])
            return tuple(values) if first == "(" else values
        return _scalar(self.word(stops))

    def word(self, stops: str) -> str:
        """Parse unquoted text with balanced brackets."""
        start = self.at
        while self.at < len(self.text) and self.text[self.at] not in stops:
            char = self.text[self.at]
            if char in _CLOSING.values():
                self.fail(f"unmatched bracket {char}")
            self.at = self.matching(self.at) + 1 if char in _CLOSING else self.at + 1
        return self.text[start : self.at].strip()

    def matching(self, start: int) -> int:
        """Return the index of the bracket that closes the one at ``start``."""
        expected: list[str] = []
        index = start
        while index < len(self.text):
            char = self.text[index]
            if char in "'\"" and self.text[:index].rstrip()[-1:] in "([{,:":
                index = max(index, self.text.find(char, index + 1))
            elif char in _CLOSING:
                expected.append(_CLOSING[char])
            elif char in _CLOSING.values():
                if char != expected.pop():
                    break
                if not expected:
                    return index
            index += 1
        self.fail(f"unclosed bracket {self.text[start]}")

    def ends(self, closing: str) -> bool:
        self.skip_space()
        return self.at == len(self.text) or (closing != "" and self.take(closing))

    def stands_alone(self, index: int, stops: str) -> bool:
        """Return whether only spaces are between ``index`` and the end of the value."""
        rest = self.text[index:].lstrip()
        return not rest or rest[0] in stops

    def take(self, char: str) -> bool:
        self.skip_space()
        found = self.text[self.at : self.at + 1] == char
        self.at += found
        return found

    def skip_space(self) -> None:
        while self.text[self.at : self.at + 1].isspace():
            self.at += 1

    def fail(self, message: str) -> NoReturn:
        raise ConfigError("", f"{self.text!r}: {message}", "to pass text, add quotes: \"'(a'\"", COMMAND_LINE)


def _scalar(word: str) -> Any:
    if _INT.fullmatch(word):
        return int(word)
    if _FLOAT.fullmatch(word):
        return float(word)
    if word.lower() in ("true", "false"):
        return word.lower() == "true"
    return None if word == "None" else word
