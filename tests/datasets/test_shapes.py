import pytest
import torch

from trainwright.datasets import Shapes


def test_every_annotation_agrees_with_the_picture():
    dataset = Shapes(num_samples=20, size=48, seed=1)
    for info in (dataset.get_data_info(index) for index in range(20)):
        masks, labels = info["gt_masks"], info["gt_bboxes_labels"]
        assert masks.sum(0).max() == 1  # no pixel shows two shapes
        for mask, label, box in zip(masks, labels, info["gt_bboxes"].tolist()):
            rows, columns = torch.nonzero(mask, as_tuple=True)
            assert box == [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
            assert (info["gt_seg_map"][mask.bool()] == 1 + label).all()
        largest = masks.flatten(1).sum(1).argmax()
        assert info["gt_label"] == labels[largest]


def test_a_sample_depends_on_seed_and_index_alone():
    one, other = Shapes(num_samples=4, size=32), Shapes(num_samples=9, size=32)
    assert torch.equal(one.get_data_info(3)["img"], other.get_data_info(3)["img"])
    assert not torch.equal(one.get_data_info(3)["img"], one.get_data_info(2)["img"])
    assert not torch.equal(one.get_data_info(3)["img"], Shapes(num_samples=4, size=32, seed=1).get_data_info(3)["img"])


def test_an_arrow_has_its_barbs_left_and_right_of_the_way_from_tail_to_tip():
    dataset = Shapes(num_samples=10, size=64, kinds=("arrow",))
    points = torch.cat([dataset.get_data_info(index)["gt_keypoints"] for index in range(10)])
    tip, left, right, tail = points.unbind(1)

    def side(point):
        ahead, aside = tip - tail, point - tail
        return ahead[:, 0] * aside[:, 1] - ahead[:, 1] * aside[:, 0]

    assert (side(left) < 0).all()
    assert (side(right) > 0).all()


def test_circles_have_no_corners():
    dataset = Shapes(num_samples=5, size=32, kinds=("circle",))
    assert all((dataset.get_data_info(index)["gt_keypoints_visible"] == 0).all() for index in range(5))


def test_an_unknown_kind_is_named():
    with pytest.raises(ValueError, match="shape 'cube'"):
        Shapes(kinds=("cube",))


def test_only_the_requested_annotations_are_returned():
    some = Shapes(num_samples=1, size=32, annotations=("gt_bboxes", "gt_masks")).get_data_info(0)
    everything = Shapes(num_samples=1, size=32).get_data_info(0)
    assert {key for key in some if key.startswith("gt_")} == {"gt_bboxes", "gt_masks"}
    assert torch.equal(some["gt_masks"], everything["gt_masks"])
    with pytest.raises(ValueError, match="annotation 'gt_boxes'.*gt_label"):
        Shapes(annotations=("gt_boxes",))


def test_classes_are_known_without_their_annotations() -> None:
    whole = Shapes(num_samples=5)
    for annotations in ((), ("gt_label",)):
        bare = Shapes(num_samples=5, annotations=annotations)
        assert [bare.get_cat_ids(index) for index in range(5)] == [whole.get_cat_ids(index) for index in range(5)]
        assert "gt_bboxes_labels" not in bare[0]
