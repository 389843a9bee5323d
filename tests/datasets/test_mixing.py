"""The images contain rectangles of distinct colors, so that pixels tell where each instance is."""

from pathlib import Path
from typing import ClassVar

import pytest
import torch
from torch.utils.data import DataLoader
from torchvision import tv_tensors

from trainwright.datasets import BaseDataset, CopyPaste, MixUp, Mosaic, MultiImageMixDataset, pseudo_collate
from trainwright.datasets.instances import place_instances
from trainwright.engine import Config, Runner
from trainwright.engine.checking import check
from trainwright.engine.data.faults import BadSamples, describe_sample
from trainwright.engine.data.seeded import SeededDataset
from trainwright.engine.errors import DataError
from trainwright.engine.registry import DATASETS, TRANSFORMS

SIZES = [(40, 60), (60, 40), (48, 48), (30, 90), (64, 32), (50, 50)]
ALL = ("gt_bboxes", "gt_bboxes_labels", "gt_ignore_flags", "gt_masks", "gt_keypoints", "gt_keypoints_visible",
       "gt_areas", "gt_seg_map")  # fmt: skip


def color_of(label):
    return torch.tensor([20 + 9 * label, 250 - 9 * label, 100 + label % 3 * 60], dtype=torch.uint8)


@DATASETS.register_module()
class ColoredRectangles(BaseDataset):
    """Image i contains a rectangle of label 4 i + k in quadrant k, whose keypoint is its center; image 5 is empty."""

    METAINFO: ClassVar = {"classes": tuple(f"rectangle {label}" for label in range(24))}

    def __init__(self, keys=ALL, **kwargs):
        self.keys = keys
        super().__init__(**kwargs)

    def load_data_list(self):
        return [{"img_path": f"{index}.png"} for index in range(len(SIZES))]

    def get_data_info(self, idx):
        info = super().get_data_info(idx)
        height, width = SIZES[info["sample_idx"]]
        number = 0 if info["sample_idx"] == 5 else 4
        labels = torch.arange(number) + 4 * info["sample_idx"]
        image = torch.zeros(3, height, width, dtype=torch.uint8)
        masks = torch.zeros(number, height, width, dtype=torch.uint8)
        classes = torch.zeros(height, width, dtype=torch.uint8)
        boxes = torch.zeros(number, 4)
        for k, label in enumerate(labels):
            top, left = height // 2 * (k // 2) + 2 + k, width // 2 * (k % 2) + 3
            bottom, right = height // 2 * (k // 2 + 1) - 1, width // 2 * (k % 2 + 1) - k
            image[:, top:bottom, left:right] = color_of(label)[:, None, None]
            masks[k, top:bottom, left:right] = 1
            classes[top:bottom, left:right] = 1 + label
            boxes[k] = torch.tensor([left, top, right, bottom])
        info.update(
            img=tv_tensors.Image(image),
            ori_shape=(height, width),
            gt_bboxes=tv_tensors.BoundingBoxes(boxes, format="XYXY", canvas_size=(height, width)),
            gt_bboxes_labels=labels,
            gt_ignore_flags=labels % 4 == 3,
            gt_masks=tv_tensors.Mask(masks),
            gt_keypoints=((boxes[:, :2] + boxes[:, 2:]) / 2 - 0.5)[:, None],
            gt_keypoints_visible=torch.full((number, 1), 2.0),
            gt_areas=masks.sum((1, 2)).float(),
            gt_seg_map=tv_tensors.Mask(classes),
        )
        return {key: value for key, value in info.items() if not key.startswith("gt_") or key in self.keys}


def mixed(*transforms, seed=0, keys=ALL, index=0, **options):
    dataset = MultiImageMixDataset(ColoredRectangles(keys=keys), transforms, **options)
    return SeededDataset(dataset, seed)[index]


def check_instances(sample, image=None):
    """Check each instance against the pixels of its color."""
    image = sample["img"] if image is None else image
    height, width = image.shape[-2:]
    assert sample["gt_bboxes"].canvas_size == (height, width)
    for number, label in enumerate(sample["gt_bboxes_labels"]):
        left, top, right, bottom = sample["gt_bboxes"][number].tolist()
        assert 0 <= left < right <= width and 0 <= top < bottom <= height
        is_own = ((image.int() - color_of(label).int()[:, None, None]).abs() <= 1).all(0)
        if (right - left) > 6 and (bottom - top) > 6:
            inner = is_own[int(top) + 2 : int(bottom) - 2, int(left) + 2 : int(right) - 2]
            assert inner.all(), f"label {label}: pixels in its box have another color"
        same = sample["gt_bboxes_labels"] == label  # an image may be chosen twice
        outside = is_own.clone()
        for box in sample["gt_bboxes"][same].tolist():
            outside[int(box[1]) : int(box[3]) + 1, int(box[0]) : int(box[2]) + 1] = False
        assert not outside.any(), f"label {label}: pixels of its color are outside its box"
        assert bool(sample["gt_ignore_flags"][number]) == (label % 4 == 3)
        if "gt_masks" in sample:
            assert sample["gt_areas"][number] == sample["gt_masks"][number].sum()
            masks = sample["gt_masks"][same].bool().any(0)
            assert (masks | ~is_own).all(), f"label {label}: pixels of its color are not in its mask"
            edge = 2 * sum(sum(box[2:]) - sum(box[:2]) for box in sample["gt_bboxes"][same].tolist())
            assert (is_own ^ masks).sum() <= 1.5 * edge, f"label {label}: pixels in its mask have another color"
        x, y = sample["gt_keypoints"][number, 0].tolist()
        if sample["gt_keypoints_visible"][number, 0]:
            assert is_own[round(y), round(x)]
        else:
            assert not (0 <= x < width - 0.5 and 0 <= y < height - 0.5)


@pytest.mark.parametrize("seed", range(8))
def test_mosaic(seed):
    sample = mixed(dict(type="Mosaic", img_scale=(80, 70)), seed=seed)
    assert sample["img"].shape == (3, 140, 160) and sample["img"].dtype == torch.uint8
    assert isinstance(sample["img"], tv_tensors.Image) and isinstance(sample["gt_masks"], tv_tensors.Mask)
    assert sample["ori_shape"] == (140, 160) and "mix_results" not in sample and sample["img_path"] == "0.png"
    check_instances(sample)
    classes = sample["gt_seg_map"]
    assert classes.shape == (140, 160) and classes.dtype == torch.uint8
    assert ((classes == 255) == (sample["img"] == 114).all(0)).float().mean() > 0.99, "uncovered pixels are ignored"
    for number, label in enumerate(sample["gt_bboxes_labels"]):
        assert torch.equal(classes == label + 1, (sample["gt_masks"][sample["gt_bboxes_labels"] == label]).any(0)), (
            number
        )


def test_mosaic_places_four_images_around_the_center():
    sample = mixed(dict(type="Mosaic", img_scale=60, center_ratio_range=(1, 1)))
    images = sample["gt_bboxes_labels"] // 4
    centers = (sample["gt_bboxes"][:, :2] + sample["gt_bboxes"][:, 2:]) / 2
    quadrants = (centers[:, 1] > 60) * 2 + (centers[:, 0] > 60)
    assert (images[quadrants == 0] == 0).all() and (quadrants == 0).sum() == 4, "the sample itself at the top left"
    for quadrant in range(4):
        assert len(images[quadrants == quadrant].unique()) <= 1
    untouched = dict(type="Mosaic", prob=0.0)
    assert mixed(untouched)["img"].shape == (3, 40, 60)


@pytest.mark.parametrize("seed", range(6))
def test_mix_up(seed):
    sample = mixed(dict(type="MixUp", img_scale=(50, 60), ratio_range=(0.5, 1.6), pad_val=0), seed=seed, keys=ALL[:-1])
    first = ColoredRectangles()[0]
    assert sample["img"].shape == first["img"].shape and sample["img"].dtype == torch.uint8
    assert torch.equal(sample["gt_bboxes"][:4], first["gt_bboxes"])
    assert torch.equal(sample["gt_masks"][:4], first["gt_masks"])
    second = {key: sample[key][4:] for key in sample if key in ALL}
    second["gt_bboxes"] = tv_tensors.wrap(second["gt_bboxes"], like=first["gt_bboxes"])
    check_instances(second, (2 * sample["img"].int() - first["img"].int()).clamp(0, 255))


def test_mix_up_does_not_combine_classes_of_pixels():
    with pytest.raises(ValueError, match="0.png has gt_seg_map, which MixUp cannot combine.*KeepAnnotations"):
        keep_seg = ("gt_seg_map",)
        mixed(dict(type="MixUp"), keys=keep_seg)


@pytest.mark.parametrize("seed", range(12))
def test_copy_paste(seed):
    sample = mixed(dict(type="CopyPaste", bbox_occluded_thr=0, mask_occluded_thr=20), seed=seed)
    assert sample["img"].shape == (3, 40, 60)
    labels, masks = sample["gt_bboxes_labels"], sample["gt_masks"].bool()
    assert (masks.sum(0) <= 1).all(), "nothing is behind what covers it"
    assert len(labels.unique()) == len(labels) or (labels < 4).all(), "the other image may be the same"
    assert not sample["gt_ignore_flags"][4:].any(), "crowds are not copied"
    for number, label in enumerate(labels):
        own = (sample["img"] == color_of(label)[:, None, None]).all(0)
        assert own[masks[number]].all() and sample["gt_areas"][number] == masks[number].sum()
        assert (sample["gt_seg_map"][masks[number]] == label + 1).all()
        columns, rows = masks[number].any(0).nonzero(), masks[number].any(1).nonzero()
        tight = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        assert sample["gt_bboxes"][number].tolist() == tight
        x, y = sample["gt_keypoints"][number, 0].round().int().tolist()
        if 0 <= x < 60 and 0 <= y < 40:
            assert sample["gt_keypoints_visible"][number, 0] == (2 if masks[number, y, x] else 1)


def test_copy_paste_covers():
    dataset = ColoredRectangles()
    first, second = dataset[0], dataset[0]
    shifted = place_instances({key: second[key] for key in ALL[:-1]}, (40, 60), (40, 60), (0, 5), (40, 60))
    image = torch.zeros_like(second["img"])
    image[:, :, 5:] = second["img"][:, :, :-5]
    second = {**second, **shifted, "img": image}
    sample = CopyPaste(selected=False)({**first, "mix_results": [second]})
    assert sample["gt_bboxes_labels"].tolist() == [3, 0, 1, 2], "three instances hide theirs; the fourth is a crowd"
    thresholds = CopyPaste(selected=False, bbox_occluded_thr=5, mask_occluded_thr=70)
    sample = thresholds({**first, "mix_results": [second]})
    assert sample["gt_bboxes_labels"].tolist() == [0, 2, 3, 0, 1, 2], "85, 48 and 75 pixels remain of the first three"
    assert sample["gt_bboxes"][:3].tolist() == [[3, 2, 8, 19], [3, 24, 8, 39], [33, 25, 57, 39]]
    assert sample["gt_areas"][:3].tolist() == [85, 75, 336]


def test_copy_paste_boxes():
    keys = ("gt_bboxes", "gt_bboxes_labels")
    sample = mixed(dict(type="CopyPaste", paste_by_box=True, selected=False), keys=keys)
    assert "gt_masks" not in sample and len(sample["gt_bboxes"]) > 4
    for box, label in zip(sample["gt_bboxes"][-3:].int().tolist(), sample["gt_bboxes_labels"][-3:]):
        pixels = sample["img"][:, box[1] : box[3], box[0] : box[2]]
        assert (pixels == color_of(label)[:, None, None]).all()
    with pytest.raises(ValueError, match=r"needs masks: set LoadAnnotations\(with_mask=True\), or paste_by_box"):
        mixed(dict(type="CopyPaste"), keys=keys)


def test_images_without_instances():
    for transform in (Mosaic(20), MixUp(), CopyPaste(selected=False)):
        empty = {key: value for key, value in ColoredRectangles()[5].items() if key != "gt_seg_map"}
        sample = transform({**empty, "mix_results": [empty] * transform.num_others})
        assert len(sample["gt_bboxes"]) == len(sample["gt_masks"]) == len(sample["gt_keypoints"]) == 0
        assert sample["gt_masks"].shape[1:] == sample["img"].shape[1:]


def test_large_scale_jitter():
    recipe = Path(__file__).parents[2] / "configs/_base_/recipes/large_scale_jitter.py"
    jitter, crop, sanitize = Config.fromfile(recipe).large_scale_jitter[3:6]
    assert tuple(jitter.target_size) == tuple(crop.size) == (1024, 1024)
    steps = [{**jitter, "target_size": (64, 64), "scale_range": (0.3, 2.0)}, {**crop, "size": (64, 64)}, sanitize]
    keys = [key for key in ALL if not key.startswith("gt_keypoints")]  # torchvision does not transform these
    dataset = ColoredRectangles(keys=keys, pipeline=steps)
    for seed in range(8):
        sample = SeededDataset(dataset, seed)[seed % 5]
        assert sample["img"].shape == (3, 64, 64) and set(sample["gt_masks"].unique().tolist()) <= {0, 1}
        points = (sample["gt_bboxes"][:, :2] + sample["gt_bboxes"][:, 2:]) / 2 - 0.5
        sample["gt_areas"] = sample["gt_masks"].sum((1, 2))
        check_instances({**sample, "gt_keypoints": points[:, None], "gt_keypoints_visible": torch.ones(len(points), 1)})


def test_fill_of_images_only():
    sample = {key: value for key, value in ColoredRectangles()[0].items() if key in ("img", "gt_masks")}
    for name, options in (("Pad", {"padding": 3}), ("RandomAffine", {"degrees": 0, "scale": (0.5, 0.5)}),
                          ("RandomZoomOut", {"p": 1}), ("RandomPerspective", {"p": 1})):  # fmt: skip
        for fill in (114, (1, 2, 3)):
            changed = TRANSFORMS.build(dict(type=name, fill=fill, **options))(sample)
            assert changed["img"][:, 0, 0].tolist() == ([114] * 3 if fill == 114 else [1, 2, 3]), name
            assert set(changed["gt_masks"].unique().tolist()) == {0, 1}, name
    changed = TRANSFORMS.build(dict(type="ElasticTransform", alpha=300.0, fill=114))(sample)
    assert (changed["img"] == 114).any() and set(changed["gt_masks"].unique().tolist()) == {0, 1}


TRAIN = [dict(type="Mosaic", img_scale=40), dict(type="RandomAffine", degrees=5), dict(type="MixUp", img_scale=40)]


def test_samples_depend_on_seed_epoch_and_index_only():
    dataset = SeededDataset(MultiImageMixDataset(ColoredRectangles(keys=ALL[:2]), TRAIN), seed=3)
    alone = [dataset[index]["img"] for index in range(6)]
    assert torch.equal(dataset[4]["img"], alone[4])
    loader = DataLoader(dataset, 2, num_workers=2, collate_fn=pseudo_collate)
    together = [image for batch in loader for image in batch["img"]]
    assert all(torch.equal(one, other) for one, other in zip(alone, together))
    assert not torch.equal(dataset[4 + (1 << 40)]["img"], alone[4]), "another epoch"


def test_wrapper_is_a_dataset_like_its_inner_one():
    inner = {"type": "ColoredRectangles", "keys": ALL[:2]}
    nested = {"type": "ConcatDataset", "datasets": [inner, inner]}
    dataset = DATASETS.build({"type": "MultiImageMixDataset", "dataset": nested, "pipeline": TRAIN})
    assert len(dataset) == 12 and dataset.metainfo == ColoredRectangles().metainfo
    assert describe_sample(dataset, 7) == "sample 1 (1.png) of ColoredRectangles"
    assert dataset[-1]["img_path"] == "5.png" and dataset.get_data_info(7)["img_path"] == "1.png"
    outer = DATASETS.build({"type": "RepeatDataset", "times": 2, "dataset": dataset})
    assert len(outer) == 24 and outer[23]["img"].shape == (3, 80, 80) and outer.__getitems__ is None
    with pytest.raises(NotImplementedError, match="pass `indices` to the wrapped dataset"):
        dataset.get_subset(2)
    lazy = MultiImageMixDataset(ColoredRectangles(lazy_init=True), TRAIN, lazy_init=True)
    assert not lazy.dataset._fully_initialized
    lazy.full_init()
    assert len(lazy) == 6


def test_rejected_samples_are_replaced():
    def reject_first(sample):
        return None if sample["img_path"] == "0.png" else sample

    dataset = MultiImageMixDataset(ColoredRectangles(), [reject_first])
    assert dataset[0]["img_path"] != "0.png"
    with pytest.raises(RuntimeError, match="rejected sample 0 .* and 2 random replacements"):
        MultiImageMixDataset(ColoredRectangles(), [lambda sample: None], max_refetch=2)[0]


def test_errors_name_the_image_that_failed():
    def fail(sample):
        if sample["img_path"] == "2.png":
            raise DataError("2.png is damaged")
        return sample

    bad = MultiImageMixDataset(ColoredRectangles(pipeline=[fail]), [dict(type="Mosaic", img_scale=40)])
    dataset = SeededDataset(bad, seed=0)
    failed = []
    for index in (0, 1, 3):
        try:
            dataset[index]
        except DataError as error:
            failed.append((index, *error.__notes__[-2:]))
    assert failed
    for index, first, second in failed:
        assert first == "while combining it with sample 2 (2.png) of ColoredRectangles"
        assert second == f"while loading sample {index} ({index}.png) of ColoredRectangles"
    bad_samples = BadSamples(limit=3)
    tolerant = SeededDataset(
        DATASETS.build({"type": "ConcatDataset", "datasets": [ColoredRectangles(), bad]}), 0, bad_samples
    )
    for index in range(6, 12):
        assert tolerant[index] is not None
    assert {number for number, _ in bad_samples.take_reports()} == {8}, "always the same sample"


def test_misuse():
    with pytest.raises(ValueError, match="Mosaic needs other images: it must be a step .* MultiImageMixDataset"):
        ColoredRectangles(pipeline=[dict(type="Mosaic")])[0]
    with pytest.raises(ValueError, match="MixUp: a sample has no img, only inputs, data_samples.*must not pack"):
        MultiImageMixDataset(ColoredRectangles(pipeline=[dict(type="PackInputs")]), [dict(type="MixUp")])[0]
    with pytest.raises(ValueError, match="no transform 'Mosiac': did you mean 'Mosaic'"):
        MultiImageMixDataset(ColoredRectangles(), TRAIN, skip_type_keys=["Mosiac"])
    with pytest.raises(ValueError, match="center_ratio_range must be increasing"):
        Mosaic(center_ratio_range=(1.5, 0.5))


def test_check_finds_mistakes_in_the_pipeline():
    dataset = dict(type="MultiImageMixDataset", dataset=dict(type="CocoDataset", ann_fil="a.json"),
                   pipeline=[dict(type="Mosaic", image_scale=40), dict(type="MixUpp")])  # fmt: skip
    cfg = dict(model=dict(type="LeNet5"), train_dataloader=dict(dataset=dataset), train_cfg=dict(max_epochs=1),
               optim_wrapper=dict(optimizer=dict(type="SGD", lr=0.1)))  # fmt: skip
    found = {error.path: str(error) for error in check(cfg)}
    place = "train_dataloader.dataset"
    assert "img_scale" in found[f"{place}.pipeline.0.image_scale"] and "MixUp" in found[f"{place}.pipeline.1.type"]
    assert "ann_file" in found[f"{place}.dataset.ann_fil"]


class Shapes(torch.nn.Module):
    """A model that records the shapes of its inputs."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen = []

    def train_step(self, data, optim_wrapper):
        self.seen.append((tuple(data["inputs"][0].shape), int(torch.stack(data["inputs"]).sum())))
        optim_wrapper.update_params(self.weight**2)
        return {"loss": self.weight.detach()}


def run(work_dir, max_epochs=3, **options):
    dataset = dict(type="MultiImageMixDataset", dataset=dict(type="Shapes", num_samples=8, annotations=ALL[:2]),
                   pipeline=[dict(type="Mosaic", img_scale=32), dict(type="Resize", size=(32, 32)),
                             dict(type="MixUp", img_scale=32), dict(type="PackInputs")])  # fmt: skip
    hooks = [dict(type="SwitchHook", target="train_dataloader.dataset.skip_type_keys", value=["Mosaic", "MixUp", "Resize"],
                  at_epoch=2)]  # fmt: skip
    runner = Runner(
        model=Shapes(), work_dir=str(work_dir),
        train_dataloader=dict(batch_size=4, dataset=dataset, collate_fn=dict(type="pseudo_collate"),
                              **options.pop("loader", {})),
        train_cfg=dict(by_epoch=True, max_epochs=max_epochs), randomness=dict(seed=0),
        optim_wrapper=dict(optimizer=dict(type="SGD", lr=0.1)),
        default_hooks=dict(checkpoint=dict(type="CheckpointHook", interval=1, by_epoch=False)),
        custom_hooks=options.pop("hooks", hooks), **options,
    )  # fmt: skip
    runner.train()
    return runner.model.seen


def test_strong_augmentation_is_switched_off_and_a_resumed_run_sees_the_same(tmp_path):
    seen = run(tmp_path / "whole")
    assert [shape for shape, _ in seen] == [(3, 32, 32)] * 4 + [(3, 64, 64)] * 2
    workers = dict(num_workers=2, persistent_workers=True)
    assert run(tmp_path / "workers", loader=workers) == seen
    for done in (1, 5):  # in the middle of the first and of the last epoch
        resumed = run(tmp_path / f"resumed_{done}", resume=str(tmp_path / "whole" / f"iter_{done}.pth"))
        assert resumed == seen[done:]


def test_switches_to_unknown_transforms_are_refused_at_the_start(tmp_path):
    hook = dict(type="SwitchHook", target="train_dataloader.dataset.skip_type_keys", value=["Mosiac"], at_epoch=2)
    with pytest.raises(ValueError, match="no transform 'Mosiac': did you mean 'Mosaic'"):
        run(tmp_path, hooks=[hook])
    assert not list(tmp_path.glob("iter_*.pth"))
    hook = dict(type="PipelineSwitchHook", switch_epoch=2, switch_pipeline=[dict(type="PackInputs")])
    assert [shape for shape, _ in run(tmp_path / "pipeline", hooks=[hook])][-1] == (3, 64, 64)
