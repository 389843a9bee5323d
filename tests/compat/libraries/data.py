"""Tiny datasets in the layouts that OpenMMLab's configs expect, drawn with a fixed seed."""

import json
import pickle
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

COLORS = ((220, 60, 60), (60, 180, 75), (60, 90, 220), (230, 190, 40))


def draw_imagenet(root: Path, classes: int = 4, train: int = 8, val: int = 4, size: int = 40) -> None:
    """Draw class folders with images, ``train/class_0/0.jpg``."""
    rng = np.random.default_rng(0)
    for split, number in (("train", train), ("val", val)):
        for label in range(classes):
            folder = root / split / f"class_{label}"
            folder.mkdir(parents=True, exist_ok=True)
            for index in range(number):
                _canvas(rng, (size, size), [(label, _box(rng, size, size))]).save(folder / f"{index}.jpg", quality=95)


def draw_coco(root: Path, names: list[str], train: int = 8, val: int = 4, keypoints: int = 0, size: int = 96) -> None:
    """Draw images with one to three objects, and their annotations, with keypoints if a number is given."""
    rng = np.random.default_rng(1)
    (root / "annotations").mkdir(parents=True, exist_ok=True)
    for split, number in (("train2017", train), ("val2017", val)):
        (root / split).mkdir(exist_ok=True)
        images, annotations = [], []
        for index in range(1, number + 1):
            height, width = (size, size * 4 // 3) if index % 2 else (size * 4 // 3, size)
            objects = [(int(rng.integers(len(names))), _box(rng, width, height)) for _ in range(rng.integers(1, 4))]
            _canvas(rng, (width, height), objects).save(root / split / f"{index:012d}.jpg", quality=95)
            images.append(dict(id=index, file_name=f"{index:012d}.jpg", width=width, height=height))
            for label, (x, y, w, h) in objects:
                annotation = dict(
                    id=len(annotations) + 1, image_id=index, category_id=label + 1, iscrowd=0, area=w * h,
                    bbox=[x, y, w, h], segmentation=[[x, y, x + w, y, x + w, y + h, x, y + h]],
                )  # fmt: skip
                if keypoints:
                    points = [(x + w * rng.random(), y + h * rng.random(), 2) for _ in range(keypoints)]
                    annotation.update(keypoints=[float(v) for p in points for v in p], num_keypoints=keypoints)
                annotations.append(annotation)
        categories = [dict(id=index + 1, name=name, supercategory="thing") for index, name in enumerate(names)]
        if keypoints:
            categories[0].update(keypoints=[f"k{index}" for index in range(keypoints)], skeleton=[])
        content = json.dumps(dict(images=images, annotations=annotations, categories=categories))
        for kind in ("instances", "person_keypoints"):
            (root / "annotations" / f"{kind}_{split}.json").write_text(content)


def draw_cityscapes(root: Path, train: int = 6, val: int = 3, size: tuple[int, int] = (128, 64)) -> None:
    """Draw street scenes of boxes, with label images in training ids."""
    rng = np.random.default_rng(2)
    for split, number in (("train", train), ("val", val)):
        for index in range(number):
            objects = [(int(rng.integers(4)), _box(rng, *size)) for _ in range(3)]
            labels = Image.new("L", size, 0)
            draw = ImageDraw.Draw(labels)
            for label, (x, y, w, h) in objects:
                draw.rectangle((x, y, x + w, y + h), fill=label + 1)
            name = f"town_{index:06d}_000019"
            for kind, image, suffix in (
                ("leftImg8bit", _canvas(rng, size, objects), "leftImg8bit.png"),
                ("gtFine", labels, "gtFine_labelTrainIds.png"),
            ):
                folder = root / kind / split / "town"
                folder.mkdir(parents=True, exist_ok=True)
                image.save(folder / f"{name}_{suffix}")


def draw_frames(root: Path, classes: int = 4, train: int = 6, val: int = 4, frames: int = 10, size: int = 64) -> None:
    """Draw videos as folders of frames, ``train_0/00001.jpg``, each with a box that moves, and their lists."""
    rng = np.random.default_rng(3)
    for split, number in (("train", train), ("val", val)):
        lines = []
        for index in range(number):
            label = index % classes
            x, y, w, h = _box(rng, size // 2, size // 2)
            folder = root / f"{split}_{index}"
            folder.mkdir(parents=True, exist_ok=True)
            for frame in range(frames):
                box = (x + frame * (label - 1), y + frame, w, h)
                _canvas(rng, (size, size), [(label, box)]).save(folder / f"{frame + 1:05d}.jpg", quality=95)
            lines.append(f"{folder.name} {frames} {label}\n")
        (root / f"{split}.txt").write_text("".join(lines))


def draw_text(root: Path, train: int = 8, val: int = 4, size: int = 128) -> None:
    """Draw scenes with two words, and each word, with the annotations of mmocr for detection and recognition."""
    rng = np.random.default_rng(4)
    for split, number in (("train", train), ("test", val)):
        scenes, words = [], []
        for index in range(number):
            scene = _canvas(rng, (size, size), [])
            instances = []
            for top in (10, 70):
                text = "".join(rng.choice(list("abcdef012"), 4))
                word = Image.new("RGB", (64, 24), (240, 240, 240))
                ImageDraw.Draw(word).text((8, 4), text, fill=(10, 10, 10), font_size=16)
                left = int(rng.integers(4, size - 68))
                scene.paste(word, (left, top))
                name = f"{split}/word_{index}_{top}.png"
                (root / split).mkdir(parents=True, exist_ok=True)
                word.save(root / name)
                words.append(dict(img_path=name, instances=[dict(text=text)]))
                polygon = [left, top, left + 64, top, left + 64, top + 24, left, top + 24]
                box = [left, top, left + 64, top + 24]
                instances.append(dict(polygon=polygon, bbox=box, bbox_label=0, ignore=False, text=text))
            scene.save(root / split / f"{index}.png")
            scenes.append(dict(img_path=f"{split}/{index}.png", height=size, width=size, instances=instances))
        for task, samples in (("textdet", scenes), ("textrecog", words)):
            content = dict(metainfo=dict(dataset_type=f"{task.capitalize()}Dataset", task_name=task), data_list=samples)
            (root / f"{task}_{split}.json").write_text(json.dumps(content))


def draw_pairs(root: Path, train: int = 8, val: int = 3, size: int = 96) -> None:
    """Draw images, and the same at a quarter of their size."""
    rng = np.random.default_rng(5)
    for split, number in (("train", train), ("val", val)):
        for index in range(number):
            image = _canvas(rng, (size, size), [(label, _box(rng, size, size)) for label in range(3)])
            for kind, scale in (("gt", 1), ("x4", 4)):
                (root / split / kind).mkdir(parents=True, exist_ok=True)
                image.resize((size // scale, size // scale), Image.Resampling.BICUBIC).save(
                    root / split / kind / f"{index}.png"
                )


def draw_kitti(root: Path, train: int = 4, val: int = 2, points: int = 2000) -> None:
    """Draw laser scans of a street with three cars, and the points of each car, with mmdet3d's annotations of KITTI."""
    rng = np.random.default_rng(6)
    lidar2cam = [[0, -1, 0, 0], [0, 0, -1, 0], [1, 0, 0, 0], [0, 0, 0, 1]]
    camera = dict(lidar2cam=lidar2cam, cam2img=[[700, 0, 600, 0], [0, 700, 180, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
    for folder in ("training/velodyne_reduced", "kitti_gt_database"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    cars = []
    for split, start, number in (("train", 0, train), ("val", train, val)):
        samples = []
        for index in range(start, start + number):
            low, high = (0, -10, -1.8, 0), (24, 10, -1.6, 1)
            scan, instances = [rng.uniform(low, high, (points, 4)).astype(np.float32)], []
            for place, middle in enumerate((5, 11, 17)):
                center = np.array([middle + rng.uniform(-1, 1), rng.uniform(-6, 6), -1.7])
                size, yaw = np.array([3.9, 1.6, 1.5]), rng.uniform(-0.5, 0.5)
                car = rng.uniform((-0.5, -0.5, 0, 0), (0.5, 0.5, 1, 1), (80, 4)) * [*size, 1]
                turn = np.array([[np.cos(yaw), np.sin(yaw)], [-np.sin(yaw), np.cos(yaw)]])
                car[:, :2] = car[:, :2] @ turn
                car = car.astype(np.float32)
                path = f"kitti_gt_database/{index}_Car_{place}.bin"
                car.tofile(root / path)
                if split == "train":
                    box = np.array([*center, *size, yaw], np.float32)
                    cars.append(
                        dict(name="Car", path=path, image_idx=index, gt_idx=place, box3d_lidar=box, group_id=len(cars),
                             num_points_in_gt=80, difficulty=0)
                    )  # fmt: skip
                scan.append(car + np.array([*center, 0], np.float32))
                x, y, z = center
                instances.append(
                    dict(
                        bbox=[100.0, 100.0, 200.0, 180.0], bbox_label=2, bbox_label_3d=2, depth=x, alpha=-yaw,
                        bbox_3d=[-y, -z, x, size[0], size[2], size[1], -yaw - np.pi / 2], center_2d=[150.0, 140.0],
                        num_lidar_pts=80, difficulty=0, truncated=0, occluded=0, score=0.0, index=place, group_id=place,
                    )
                )  # fmt: skip
            np.concatenate(scan).tofile(root / "training/velodyne_reduced" / f"{index:06d}.bin")
            images = dict(CAM2=dict(img_path=f"{index:06d}.png", height=375, width=1242, **camera))
            lidar = dict(lidar_path=f"{index:06d}.bin", num_pts_feats=4)
            samples.append(
                dict(sample_idx=index, images=images, lidar_points=lidar, instances=instances, plane=[0, -1, 0, 1.7])
            )
        categories = dict(Pedestrian=0, Cyclist=1, Car=2)
        content = dict(metainfo=dict(categories=categories, dataset="kitti", info_version="1.1"), data_list=samples)
        (root / f"kitti_infos_{split}.pkl").write_bytes(pickle.dumps(content))
    (root / "kitti_dbinfos_train.pkl").write_bytes(pickle.dumps(dict(Car=cars)))


def draw_scannet(root: Path, train: int = 4, val: int = 2, points: int = 3000) -> None:
    """Draw scans of rooms with three boxes, with mmdet3d's annotations of ScanNet."""
    rng = np.random.default_rng(7)
    for folder in ("points", "instance_mask", "semantic_mask"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    number_of = (3, 4, 5, 6, 7)  # ScanNet's numbers of the first classes
    for split, start, number in (("train", 0, train), ("val", train, val)):
        samples = []
        for index in range(start, start + number):
            scan = rng.uniform((-3, -3, 0, 0, 0, 0), (3, 3, 0.05, 255, 255, 255), (points, 6))
            instance, semantic, instances = np.zeros(points, np.int64), np.full(points, 2), []
            for place in range(3):
                label, part = int(rng.integers(5)), slice(place * 400, place * 400 + 400)
                center, size = rng.uniform((-2, -2, 0.5), (2, 2, 0.7)), rng.uniform(0.6, 1, 3)
                scan[part, :3] = center + rng.uniform(-0.5, 0.5, (400, 3)) * size
                instance[part], semantic[part] = place + 1, number_of[label]
                instances.append(dict(bbox_3d=[*center, *size], bbox_label_3d=label))
            name = f"scene{index:04d}_00.bin"
            scan.astype(np.float32).tofile(root / "points" / name)
            instance.tofile(root / "instance_mask" / name)
            semantic.astype(np.int64).tofile(root / "semantic_mask" / name)
            samples.append(
                dict(
                    lidar_points=dict(num_pts_feats=6, lidar_path=name), instances=instances, pts_instance_mask_path=name,
                    pts_semantic_mask_path=name, axis_align_matrix=np.eye(4).tolist(),
                )
            )  # fmt: skip
        content = dict(metainfo=dict(dataset="scannet", info_version="1.1"), data_list=samples)
        (root / f"scannet_infos_{split}.pkl").write_bytes(pickle.dumps(content))


def _box(rng: np.random.Generator, width: int, height: int) -> tuple[int, int, int, int]:
    w, h = (int(rng.integers(side // 3, side // 2)) for side in (width, height))
    return int(rng.integers(0, width - w)), int(rng.integers(0, height - h)), w, h


def _canvas(
    rng: np.random.Generator, size: tuple[int, int], objects: list[tuple[int, tuple[int, int, int, int]]]
) -> Image.Image:
    image = Image.fromarray(rng.integers(90, 140, (size[1], size[0], 3), dtype=np.uint8))
    draw = ImageDraw.Draw(image)
    for label, (x, y, w, h) in objects:
        draw.rectangle((x, y, x + w, y + h), fill=COLORS[label % len(COLORS)])
    return image
