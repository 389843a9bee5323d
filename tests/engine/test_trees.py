"""Functions for nested containers."""

from collections import OrderedDict
from typing import NamedTuple

from trainwright.engine.trees import map_leaves


class Pair(NamedTuple):
    first: int
    second: list[int]


def test_leaves_are_mapped_in_containers_of_the_same_kind() -> None:
    nested = OrderedDict(a=[1, (2, 3)], b=Pair(4, [5]), c=6)
    mapped = map_leaves(nested, lambda leaf: leaf * 10)
    assert mapped == {"a": [10, (20, 30)], "b": Pair(40, [50]), "c": 60}
    assert type(mapped["b"]) is Pair
    assert nested["a"] == [1, (2, 3)]
    assert map_leaves("ab", len) == 2
