import random
from types import SimpleNamespace
from typing import Any

import pytest

from trainwright.engine.data.names import adopt_numbers, names_of
from trainwright.engine.errors import DataError

NAMES = ("ant", "bee", "cat", "dog", "elk")


class Labeled:
    """A dataset whose labels are known by name."""

    def __init__(self, classes: tuple[str, ...]) -> None:
        self.metainfo: dict[str, Any] = {"classes": classes}
        self.labels = list(range(len(classes)))

    def remap_classes(self, classes: tuple[str, ...]) -> None:
        own = self.metainfo["classes"]
        self.labels = [classes.index(own[label]) for label in self.labels]
        self.metainfo = {"classes": classes}

    def names(self) -> list[str]:
        return [self.metainfo["classes"][label] for label in self.labels]


class Fixed:
    """A dataset that cannot be renumbered."""

    def __init__(self, classes: Any) -> None:
        self.metainfo = {"classes": classes}


@pytest.mark.parametrize("seed", range(40))
def test_any_order_and_any_subset_keeps_the_names(seed: int) -> None:
    rng = random.Random(seed)
    reference = tuple(rng.sample(NAMES, len(NAMES)))
    own = tuple(rng.sample(NAMES, rng.randint(1, len(NAMES))))
    dataset = Labeled(own)
    change = adopt_numbers(dataset, "classes", reference, "val", "train")
    assert dataset.metainfo["classes"] == reference
    assert dataset.names() == list(own)
    assert bool(change) == (own != reference)
    foreign = Labeled((*own, "gnu"))
    with pytest.raises(DataError, match="val and train have different classes: only the former has 'gnu'"):
        adopt_numbers(foreign, "classes", reference, "val", "train")


def test_the_difference_is_named() -> None:
    with pytest.raises(DataError, match=r"only the former has 'Cat' \(did you mean 'cat'\?\); only the latter has 'cat', 'dog'"):  # fmt: skip
        adopt_numbers(Labeled(("ant", "Cat")), "classes", ("ant", "cat", "dog"), "val", "train")
    change = adopt_numbers(Labeled(("dog", "cat")), "classes", ("cat", "dog"), "val", "train")
    assert change == "val: its classes are numbered as in train (dog 0 → 1, cat 1 → 0)"


@pytest.mark.parametrize("classes", [None, (), "classes.txt", 3])
def test_data_without_names_is_not_compared(classes: Any) -> None:
    assert adopt_numbers(Fixed(classes), "classes", ("a", "b"), "val", "train") == ""
    assert adopt_numbers(object(), "classes", ("a", "b"), "val", "train") == ""
    assert names_of(None, "classes") == ()


def test_data_that_cannot_be_renumbered_is_refused() -> None:
    assert adopt_numbers(Fixed(["a", "b"]), "classes", ("a", "b"), "val", "train") == ""
    with pytest.raises(DataError, match=r"val has its classes in another order than train, b, a instead of a, b.*\n.*same order"):  # fmt: skip
        adopt_numbers(Fixed(["b", "a"]), "classes", ("a", "b"), "val", "train")


def test_names_that_occur_twice() -> None:
    twice = ("crane", "cat", "crane")  # as in ImageNet
    assert adopt_numbers(Labeled(twice), "classes", twice, "val", "train") == ""
    with pytest.raises(DataError, match="a name occurs twice"):
        adopt_numbers(Labeled(("cat", "crane")), "classes", twice, "val", "train")


def test_keypoints_must_all_be_there() -> None:
    posed = SimpleNamespace(metainfo={"keypoints": ("head", "tail")})
    with pytest.raises(DataError, match="different keypoints: only the latter has 'foot'"):
        adopt_numbers(posed, "keypoints", ("foot", "head", "tail"), "val", "train")
