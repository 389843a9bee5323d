from collections.abc import Mapping, Sequence
from inspect import Parameter
from pathlib import Path
from typing import Any, Literal

import pytest

from trainwright.engine.errors import ConfigError
from trainwright.tools import reference
from trainwright.tools.cli import LISTED, main

DOCS = Path(__file__).parents[2] / "docs"


class Base:
    """Base.

    Args:
        size: the size of
            the thing.
        shared: what all have.
    """

    def __init__(self, size: int, shared: str = "a") -> None: ...


class Derived(Base):
    """Do a thing
    on two lines.

    With a :class:`~trainwright.engine.Runner` and ``code``::

        as is

    Args:
        mine: own.
        shared: as for :class:`Base`.
        **kwargs: as for the base; not
            part of the argument before.

    Raises:
        ValueError: never.

    Example:
        >>> Derived(1)
    """

    def __init__(self, mine: Sequence[int] | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)


@pytest.mark.parametrize("name", reference.pages())
def test_the_pages_are_up_to_date(name: str) -> None:
    current = (DOCS / name).read_text() if (DOCS / name).exists() else ""
    assert current == reference.pages()[name], "run `python -m trainwright.tools.reference docs` and commit the result"


def test_a_description_includes_the_arguments_of_base_classes() -> None:
    described = reference.describe("Derived", Derived)
    assert described.docstring.summary == "Do a thing on two lines."
    assert [(argument.name, argument.type, argument.default, argument.meaning) for argument in described.arguments] == [
        ("mine", "Sequence[int] | None", "None", "own."),
        ("size", "int", None, "the size of the thing."),
        ("shared", "str", "'a'", "what all have."),
    ]
    assert described.docstring.example == ">>> Derived(1)"
    assert reference.markdown(described.docstring.details) == "With a `Runner` and `code`:\n\n    as is"
    assert reference.plain_text(described.docstring.details) == "With a Runner and code::\n\n    as is"


@pytest.mark.parametrize(
    ("annotation", "text"),
    [
        (Parameter.empty, ""),
        (int | None, "int | None"),
        (Mapping[str, Any], "Mapping[str, Any]"),
        (Literal["a", "b"] | None, "'a' | 'b' | None"),
        (tuple[int, ...], "tuple[int, ...]"),
        ("Later", "Later"),
    ],
)
def test_annotations_are_short(annotation: Any, text: str) -> None:
    assert reference.type_text(annotation) == text


@pytest.mark.parametrize("kind", LISTED)
def test_every_kind_is_listed(kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", kind]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) >= 3
    without_summary = [line for line in lines if len(line.split()) < 2]
    assert not without_summary, "start the docstring with a summary, or the config with a comment that is one"


def test_every_argument_of_ours_is_explained() -> None:
    unexplained = [
        f"{component.name}.{argument.name}"
        for kind in reference.KINDS
        for component in reference.components(kind)
        for argument in component.arguments
        if component.is_ours and not argument.meaning
    ]
    assert not unexplained, "explain them under Args: in the docstring of the class"


def test_one_of_them_is_described(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "hooks", "TimeLimitHook"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("TimeLimitHook (trainwright.hooks.TimeLimitHook)\n")
    assert "  max_time: " in out and "(required)" in out
    assert main(["list", "configs", "toy/mlp_xor"]) == 0
    assert "XOR" in capsys.readouterr().out
    assert main(["list", "hooks", "TimeLimtHook"]) == 2
    assert "did you mean 'TimeLimitHook'" in capsys.readouterr().err


def test_an_unknown_name_is_refused() -> None:
    with pytest.raises(ConfigError, match="trainwright list metrics"):
        list(reference.details("metrics", "Zzz"))
