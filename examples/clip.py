"""CLIP: images and captions in a CSV file teach two encoders, which then find classes that were never labels.

Run `python examples/clip.py`: a minute on a CPU. It draws the images and writes the file; yours may have several
captions per image too. Published weights come with `HuggingFaceCLIP` in the place of `CLIP` and its encoders.
"""

import csv
import random
from pathlib import Path

from PIL import Image, ImageDraw
from torch import nn

from trainwright.engine import MODELS, Inferencer, Runner, find_latest_checkpoint

root, colors, kinds = "data/clip_shapes", ("red", "green", "blue", "yellow"), ("circle", "square", "bar")


def draw(split, number):
    """Draw images of one shape each, and list them with two captions and a class, which only the validation reads."""
    Path(root, split).mkdir(parents=True, exist_ok=True)
    rows = [("path", "caption1", "caption2", "label")]
    for index in range(number):
        color, kind = random.choice(colors), random.choice(kinds)
        image = Image.new("RGB", (48, 48), random.choice(["gray", "black", "white"]))
        x, y, size = random.randint(0, 24), random.randint(0, 24), random.randint(10, 22)
        pen = ImageDraw.Draw(image)
        shape = pen.ellipse if kind == "circle" else pen.rectangle
        shape((x, y, x + size, y + (size // 3 if kind == "bar" else size)), fill=color)
        image.save(f"{root}/{split}/{index}.png")
        rows.append((f"{split}/{index}.png", f"a {color} {kind}", f"a {kind} that is {color}", f"{color} {kind}"))
    with Path(root, f"{split}.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)


@MODELS.register_module()
class Convolutions(nn.Sequential):
    def __init__(self, channels):
        pairs = list(zip((3, *channels), channels))
        layers = [(nn.Conv2d(*pair, 3, 2, 1), nn.BatchNorm2d(pair[1]), nn.ReLU()) for pair in pairs]
        super().__init__(*sum(layers, ()), nn.Conv2d(channels[-1], channels[-1], 3))


@MODELS.register_module()
class MeanOfWords(nn.Embedding):
    def forward(self, input_ids, attention_mask):
        return (super().forward(input_ids) * attention_mask[..., None]).sum(1) / attention_mask.sum(1, keepdim=True)


load, pack, draw_one = dict(type="LoadImageFromFile"), dict(type="PackInputs"), dict(type="RandomCaption")
captions = dict(type="ImageTextDataset", data_root=root, ann_file="train.csv", pipeline=[load, draw_one, pack])
labels = dict(type="ImageFolder", data_root=root, ann_file="val.csv", pipeline=[load, pack])
cfg = dict(
    model=dict(
        type="CLIP",
        image_encoder=dict(type="Convolutions", channels=(16, 32, 64)),
        text_encoder=dict(type="MeanOfWords", num_embeddings=100, embedding_dim=64),
        tokenizer=dict(type="WordTokenizer", dataset=captions, vocab_size=100),
        templates=["a {}"],
        data_preprocessor=dict(mean=[127.5], std=[127.5]),
    ),
    work_dir="work_dirs/clip",
    train_dataloader=dict(batch_size=64, dataset=captions, drop_last=True),
    train_cfg=dict(max_epochs=16, val_interval=4),
    optim_wrapper=dict(optimizer=dict(type="AdamW", lr=2e-3)),
    param_scheduler=dict(type="CosineAnnealingLR", convert_to_iter_based=True),
    val_dataloader=dict(batch_size=64, dataset=labels),
    val_cfg=dict(),
    val_evaluator=dict(type="Accuracy"),
    randomness=dict(seed=0),
)

if __name__ == "__main__":
    random.seed(0)
    draw("train", 1000), draw("val", 200)
    Runner.from_cfg(cfg).train()
    inferencer = Inferencer(find_latest_checkpoint(cfg["work_dir"]))
    inferencer.use_classes(["circle", "square", "bar", *colors])  # any others
    print(inferencer(f"{root}/val/0.png")["predictions"][0]["pred_class"])
