"""SimCLR: a network learns from images without labels, then one linear layer learns their classes.

Run `python examples/simclr.py`: a few minutes on a CPU. The validation classifies images by their nearest neighbors
among 500 labeled ones; for a network of your own, change `backbone`.
"""

from trainwright.engine import Runner

backbone = dict(type="ConvNet", in_channels=1, channels=(16, 32, 64))
normalize = dict(mean=[72.94], std=[90.02])
view = [
    dict(type="RandomResizedCrop", size=28, scale=(0.3, 1.0)),
    dict(type="RandomHorizontalFlip"),
    dict(type="RandomApply", transforms=[dict(type="ColorJitter", brightness=0.4, contrast=0.4)], p=0.8),
]


def images(batch_size, shuffle=False, **dataset):
    return dict(
        batch_size=batch_size,
        dataset=dict(type="FashionMNISTSubset", **dataset),
        sampler=dict(type="DefaultSampler", shuffle=shuffle),
    )


labeled = images(500, split="train", indices=500)
validation = dict(
    val_dataloader=images(500, split="test"),
    val_cfg=dict(),
    val_evaluator=dict(type="Accuracy"),
)
views = [dict(type="MultiView", transforms=[view], num_views=2), dict(type="PackInputs")]
pretraining = dict(
    model=dict(type="SimCLR", backbone=backbone, temperature=0.2, data_preprocessor=normalize, memory=labeled),
    work_dir="work_dirs/simclr",
    train_dataloader=dict(images(256, shuffle=True, pipeline=views), collate_fn="default_collate", drop_last=True),
    train_cfg=dict(max_epochs=8, val_interval=2),
    optim_wrapper=dict(optimizer=dict(type="AdamW", lr=2e-3, weight_decay=0.05)),
    param_scheduler=dict(type="CosineAnnealingLR", convert_to_iter_based=True),
    randomness=dict(seed=0),
    **validation,
)
linear = dict(
    model=dict(
        type="ImageClassifier",
        backbone=backbone,
        head=dict(type="LinearClsHead", num_classes=10, in_channels=64),
        frozen=["backbone"],
        data_preprocessor=dict(type="ImgDataPreprocessor", **normalize),
    ),
    load_from="work_dirs/simclr/epoch_8.pth",
    work_dir="work_dirs/simclr_linear",
    train_dataloader=images(50, shuffle=True, split="train", indices=500),
    train_cfg=dict(max_epochs=50, val_interval=10),
    optim_wrapper=dict(optimizer=dict(type="AdamW", lr=1e-2)),
    param_scheduler=dict(type="CosineAnnealingLR", convert_to_iter_based=True),
    randomness=dict(seed=0),
    **validation,
)

if __name__ == "__main__":
    Runner.from_cfg(pretraining).train()
    Runner.from_cfg(linear).train()
