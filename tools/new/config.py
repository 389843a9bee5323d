"""The configs that ``trainwright new`` writes."""

import math
from string import Template

from trainwright.tools.new.data import Found
from trainwright.tools.new.images import ImageSummary
from trainwright.tools.new.python_text import Name, python_text
from trainwright.tools.new.recipes import RECIPES
from trainwright.tools.new.weights import Weights

_FRAME = Template("""\
# $title
# Written by `trainwright new`; change it as you like. Relative paths start from the folder in which trainwright runs.
#     trainwright check --data $file
#     trainwright train $file
#     trainwright predict $file work_dirs/$stem/epoch_$epochs.pth PICTURES
_base_ = ["trainwright::_base_/default_runtime.py"]  # logs and checkpoints, and a test of the best one at the end

$classes
# $purpose
$model
train_pipeline = [
$train_pipeline
]
test_pipeline = [
$test_pipeline
]
train_dataloader = dict(
    batch_size=$batch_size,  # less if memory is short
    num_workers=$num_workers,  # processes that load data; about as many as there are CPU cores
    persistent_workers=$persistent,
    dataset=$train_dataset,
    sampler=dict(type="DefaultSampler", shuffle=True),
    collate_fn=dict(type="pseudo_collate"),
)
val_dataloader = dict(
    batch_size=$val_batch_size,
    num_workers=$num_workers,
    persistent_workers=$persistent,
    dataset=$val_dataset,
    sampler=dict(type="DefaultSampler", shuffle=False),
    collate_fn=dict(type="pseudo_collate"),
)
$test_dataloader
val_evaluator = $evaluator
test_evaluator = val_evaluator

max_epochs = $epochs  # more if the scores still rise at the end
train_cfg = dict(by_epoch=True, max_epochs=max_epochs, val_interval=$interval)
val_cfg = dict()
test_cfg = dict()
$optimization
default_hooks = dict(checkpoint=dict(interval=$interval, save_best="$metric"))
""")

_FROM_SCRATCH = """\
optim_wrapper = dict(optimizer=dict(type="AdamW", lr=1e-3, weight_decay=1e-2), clip_grad=dict(max_norm=10))
param_scheduler = dict(type="OneCycleLR", eta_max=$rate, total_steps=max_epochs, convert_to_iter_based=True)"""
_FINE_TUNING = """\
optim_wrapper = dict(
    optimizer=dict(type="AdamW", lr=$rate, weight_decay=1e-2),
    # Layers of the new task learn ten times as fast as the pretrained ones.
    paramwise_cfg=dict(custom_keys={$layers}, needs_pretrained=True),
    clip_grad=dict(max_norm=10),
)
param_scheduler = dict(type="CosineAnnealingLR", by_epoch=True, eta_min=0, convert_to_iter_based=True)"""


def write_config(task: str, found: Found, images: ImageSummary, weights: Weights | None, file: str) -> str:
    """Return the text of a config.

    Args:
        task: the task.
        found: the data, with arguments for the datasets of the splits ``train`` and ``val``, and perhaps ``test``.
        images: sizes and colors.
        weights: weights to fine-tune; None to train from scratch.
        file: path of the config, for its comments.
    """
    number = len(found.splits["train"])
    parts = RECIPES[task](task, found, images, weights)
    stem = file.rpartition("/")[2].removesuffix(".py")
    epochs = min(max(math.ceil(parts.pop("passes") / max(number, 1)), 10), 200)
    interval = max(1, epochs // 10)
    epochs = math.ceil(epochs / interval) * interval
    metainfo = {"classes": Name("classes"), **found.metainfo}
    if task == "pose":
        metainfo["keypoints"] = Name("keypoints")
    shared = {**found.dataset, "metainfo": metainfo}
    datasets = {
        split: python_text({**shared, **found.split_args[split], "pipeline": Name(f"{name}_pipeline"), **mode}, 1)
        for split, name, mode in (
            ("train", "train", {}), ("val", "test", {"test_mode": True}),
            ("test", "test", {"test_mode": True}),
        )
        if split in found.split_args
    }  # fmt: skip
    test = "test_dataloader = val_dataloader"
    if "test" in datasets:
        test = f"test_dataloader = dict(\n    batch_size={parts['val_batch_size']},\n    dataset={datasets['test']},\n"
        test += (
            '    sampler=dict(type="DefaultSampler", shuffle=False),\n    collate_fn=dict(type="pseudo_collate"),\n)'
        )
    workers = 2 if number > 100 else 0
    classes = f"classes = {python_text(found.classes, 0)}"
    if task == "pose":
        classes += f"\nkeypoints = {python_text(found.keypoints, 0)}"
        classes += f"\nflip_indices = {python_text(found.flip_indices, 0)}  # the keypoint in a mirrored image"
    purpose = (
        f"Fine-tuning of pretrained weights{', which are downloaded' if weights and weights.downloads else ''}."
        if weights
        else "Training from scratch, since there are no pretrained weights at hand (trainwright new --weights)."
    )
    optimization = Template(_FINE_TUNING if weights else _FROM_SCRATCH).substitute(
        rate=parts.pop("rate"), layers=", ".join(f'"{name}": dict(lr_mult=10)' for name in parts.pop("new_layers"))
    )
    return _FRAME.substitute(
        title=f"{task.replace('_', ' ').capitalize()}: {len(found.classes)} classes, {number} training samples.",
        file=file, stem=stem, classes=classes, purpose=purpose,
        num_workers=workers, persistent=workers > 0, train_dataset=datasets["train"], val_dataset=datasets["val"],
        test_dataloader=test, epochs=epochs, interval=interval, optimization=optimization, **parts,
    )  # fmt: skip
