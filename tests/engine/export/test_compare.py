"""How far outputs differ."""

import torch

from trainwright.engine.export.compare import UNMATCHED, differences, is_too_far


def test_numbers_differ_as_a_fraction_of_the_largest_and_classes_by_the_share() -> None:
    expected = dict(
        scores=torch.tensor([0.5, 0.25]), boxes=torch.tensor([200.0, 4.0]), labels=torch.tensor([1, 2, 3, 4])
    )
    found = dict(scores=torch.tensor([0.5, 0.375]), boxes=torch.tensor([200.0, 6.0]), labels=torch.tensor([1, 2, 3, 0]))
    assert differences(expected, found, instances=False) == {"scores": 0.125, "boxes": 0.01, "labels": 0.25}


def test_other_shapes_and_numbers_that_are_not_finite_differ_by_infinity() -> None:
    pair = dict(a=torch.zeros(2), b=torch.zeros(2))
    found = dict(a=torch.zeros(3), b=torch.tensor([0.0, float("nan")]))
    difference = differences(pair, found, instances=False)
    assert difference == {"a": float("inf"), "b": float("inf")}
    assert is_too_far(difference, 1e9)
    assert is_too_far({"a": float("nan")}, 1e9)


def test_instances_with_equal_scores_may_be_in_another_order() -> None:
    boxes = torch.tensor([[0.0, 0, 10, 10], [50, 50, 90, 100], [20, 20, 40, 40]])
    expected = dict(bboxes=boxes, labels=torch.tensor([0, 1, 1]), scores=torch.tensor([0.5, 0.5, 0.25]))
    found = {name: value[[1, 0, 2]] for name, value in expected.items()}
    assert differences(expected, found, instances=True) == {UNMATCHED: 0, "bboxes": 0, "labels": 0, "scores": 0}
    found["scores"] = found["scores"] + torch.tensor([0, 0, 0.001953125])
    difference = differences(expected, found, instances=True)
    assert difference["scores"] == 0.001953125
    assert is_too_far(difference, 1e-4)
    assert not is_too_far(difference, 1e-2)


def test_an_instance_of_another_class_or_place_has_no_match() -> None:
    expected = dict(bboxes=torch.tensor([[0.0, 0, 10, 10]] * 4), labels=torch.arange(4), scores=torch.ones(4))
    moved = dict(bboxes=expected["bboxes"].clone(), labels=torch.tensor([0, 1, 2, 7]), scores=torch.ones(4))
    moved["bboxes"][0] += 5
    assert differences(expected, moved, instances=True)[UNMATCHED] == 0.5
    nothing = {name: value[:0] for name, value in expected.items()}
    assert differences(expected, nothing, instances=True)[UNMATCHED] == 1
    assert differences(nothing, nothing, instances=True)[UNMATCHED] == 0
