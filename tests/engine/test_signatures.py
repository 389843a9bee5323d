from collections.abc import Sequence
from typing import Any, Literal, Required, TypedDict, Unpack

import pytest

from trainwright.engine.signatures import mismatch, parameters_of


class Schedule(TypedDict, total=False):
    begin: int
    end: int
    by_epoch: Required[bool]


class Scheduler:
    def __init__(self, optimizer: Any, param_name: str, begin: int = 3, **schedule: Any) -> None: ...


class Step(Scheduler):
    def __init__(self, optimizer: Any, param_name: str, step_size: "int", **schedule: Unpack[Schedule]) -> None:
        super().__init__(optimizer, param_name, **schedule)


class StepLR(Step):
    def __init__(self, optimizer: Any, *args: Any, **kwargs: Any) -> None:
        super().__init__(optimizer, "lr", *args, **kwargs)


class Mine(StepLR):
    def __init__(self, mine: int, **kwargs: Any) -> None:
        super().__init__(step_size=mine, **kwargs)


class Reads(StepLR):
    def __init__(self, **kwargs: Any) -> None:
        kwargs.pop("anything")
        super().__init__(**kwargs)


def function(value: int, **options: Unpack[Schedule]) -> None: ...


def test_the_keys_of_an_unpacked_typed_dict_are_parameters() -> None:
    parameters, closed = parameters_of(Step)
    assert closed
    assert (
        list(parameters)
        == ["self", *parameters][1:]
        == ["optimizer", "param_name", "step_size", "begin", "end", "by_epoch"]
    )
    assert parameters["step_size"].annotation is parameters["begin"].annotation is int
    defaults = [parameters[name].default for name in ("begin", "end", "by_epoch")]
    assert defaults == [3, ..., parameters["by_epoch"].empty]  # from the base class, unknown, required
    assert list(parameters_of(function)[0]) == ["value", "begin", "end", "by_epoch"] and parameters_of(function)[1]


@pytest.mark.parametrize(
    ("cls", "names", "closed"),
    [
        (StepLR, ["optimizer", "step_size", "begin", "end", "by_epoch"], True),
        (Mine, ["mine", "optimizer", "begin", "end", "by_epoch"], True),
        (Reads, [], False),
    ],
)
def test_arguments_that_are_passed_on_are_those_of_the_bases(cls: type, names: list[str], closed: bool) -> None:
    assert (list(parameters_of(cls)[0]), parameters_of(cls)[1]) == (names, closed)


@pytest.mark.parametrize(
    ("value", "annotation"),
    [
        (1, float),
        (None, int | None),
        ("a", Literal["a", "b"]),
        ([1], Sequence[int]),
        ((1,), list),
        (1, "unknown"),
        (1, Any),
    ],
)
def test_values_that_fit(value: Any, annotation: Any) -> None:
    assert mismatch(value, annotation) is None


@pytest.mark.parametrize(
    ("value", "annotation", "message", "hint"),
    [
        ("1e-3", float, "must be float, not str '1e-3'", "it is a string: write 0.001"),
        ("3", int, "must be int, not str '3'", "it is a string: write 3"),
        (True, int, "must be int, not bool True", ""),
        (1, list[int], "must be list[int], not int 1", ""),
        ("bilinaer", Literal["bilinear"], "must be Literal['bilinear'], not str 'bilinaer'", "did you mean 'bilinear'?"),
    ],
)  # fmt: skip
def test_values_that_do_not_fit(value: Any, annotation: Any, message: str, hint: str) -> None:
    assert mismatch(value, annotation) == (message, hint)
