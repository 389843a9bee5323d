"""Boxes in XML of Pascal VOC, as many tools write it."""

from collections.abc import Iterable
from pathlib import Path
from xml.etree import ElementTree

from trainwright.datasets.detection.voc import VOCDataset
from trainwright.datasets.formats.content import Content, find_files
from trainwright.tools.new.data import Found, split_of, write_lines
from trainwright.tools.new.formats.contents import found_in_contents
from trainwright.tools.new.formats.files import looks_like


def find_voc(place: Path) -> Found | None:
    """Return data with an XML file for each image, or None."""
    files = [Path(file) for file in find_files(place, (".xml",))]
    files = [file for file in files if looks_like(file, b"<annotation")]
    if not files:
        return None
    ann_folder = Path(*_common(file.parent for file in files))
    content, classes, entries = Content(), set[str](), {}
    one_based = True  # as in VOC itself: the other tools that write this format measure from the edge of the image
    images = {Path(path).stem: path for path in find_files(place)}
    for file in files:
        name = file.relative_to(ann_folder).with_suffix("").as_posix()
        if (image_file := images.get(file.stem)) is None:
            content.images.append({"id": name, "file_name": name, "source": str(file), "problem": "has no image"})
            continue
        image = content.add_image(image_file, str(file))
        entries[image_file] = name
        try:
            objects = list(ElementTree.parse(file).getroot().iter("object"))
        except ElementTree.ParseError as error:
            image["problem"] = f"not a valid XML file: {error}"
            continue
        for number, element in enumerate(objects, 1):
            label = (element.findtext("name") or "").strip()
            corners = [element.findtext(f"bndbox/{key}") for key in ("xmin", "ymin", "xmax", "ymax")]
            source = f"{file}: object {number}"
            try:
                left, top, right, bottom = (float(corner or "") for corner in corners)
            except ValueError:
                content.add_annotation(image, source, problem="bndbox: missing or not numbers")
                continue
            classes.add(label)
            one_based = one_based and min(left, top) >= 1
            content.add_annotation(image, source, category_id=label, bbox=[left, top, right - left, bottom - top])
    content.categories = [{"id": name, "name": name} for name in sorted(classes)]
    found = found_in_contents(
        "VOC XML", {"all": content}, sorted(classes), False, lambda image: entries[image["file_name"]]
    )
    folder = Path(*_common(Path(path).parent for path in entries)) if entries else place
    found.dataset = {
        "type": "VOCDataset", "data_root": "", "ann_folder": ann_folder.as_posix(),
        "data_prefix": {"img_path": folder.as_posix()},
        "one_based": one_based and classes <= set(VOCDataset.METAINFO["classes"]),
    }  # fmt: skip
    if not found.dataset["one_based"]:
        found.notes.append("the boxes are taken as they are; if pixels are counted from 1, set one_based=True")
    if any(
        sample.path != (folder / f"{entries[sample.path]}{Path(sample.path).suffix}").as_posix()
        for sample in found.samples
    ):
        found.notes.append("the names of some images differ from those of their XML files")
    found.write_list = lambda path, samples: {"ann_file": write_lines(path, samples)}
    lists = {split: file for file in sorted(place.glob("ImageSets/Main/*.txt")) if (split := split_of(file.stem))
             and "_" not in file.stem and file.stem != "trainval"}  # fmt: skip
    if lists:
        names = {split: set(file.read_text(encoding="utf-8").split()) for split, file in lists.items()}
        everything = found.splits.pop("all")
        for split, wanted in names.items():
            found.splits[split] = [sample for sample in everything if sample.entry in wanted]
            found.split_args[split] = {"ann_file": lists[split].as_posix()}
        unused = len(everything) - sum(map(len, found.splits.values()))
        found.left_out += [f"{unused} XML files that are in no list of ImageSets/Main"] if unused > 0 else []
    return found


def _common(folders: Iterable[Path]) -> tuple[str, ...]:
    """Return the parts of the deepest folder that contains all folders."""
    all_parts = [folder.parts for folder in folders]
    shortest = min(all_parts, key=len)
    for depth, part in enumerate(shortest):
        if any(parts[depth] != part for parts in all_parts):
            return shortest[:depth]
    return shortest
