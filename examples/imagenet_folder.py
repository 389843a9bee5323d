"""ResNet-50 on ImageNet, or on any images in folders: data/imagenet/{train,val}/CLASS/IMAGE.

Run `python examples/imagenet_folder.py`, or on 8 GPUs `torchrun --nproc-per-node 8 examples/imagenet_folder.py`.
76.1 % after 90 epochs of 8 processes, with the recipe of torchvision's first weights.
"""

from trainwright.engine import Runner
from trainwright.engine.distributed import infer_launcher

FOLDER, NUM_CLASSES, EPOCHS = "data/imagenet", 1000, 90


def images(split, batch_size, *transforms):
    return dict(
        batch_size=batch_size,
        num_workers=8,
        pin_memory=True,
        persistent_workers=True,
        dataset=dict(
            type="ImageFolder",
            data_root=f"{FOLDER}/{split}",
            pipeline=[dict(type="LoadImageFromFile"), *transforms, dict(type="PackInputs")],
        ),
        sampler=dict(type="DefaultSampler", shuffle=split == "train"),
        collate_fn="pseudo_collate",
    )


cfg = dict(
    model=dict(type="ImageClassifier", backbone="resnet50", num_classes=NUM_CLASSES),
    data_preprocessor=dict(
        type="ClsDataPreprocessor", mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], non_blocking=True
    ),
    work_dir="work_dirs/imagenet_folder",
    launcher=infer_launcher(),  # torchrun, Slurm, MPI or none
    train_dataloader=images("train", 32, dict(type="RandomResizedCrop", size=224), dict(type="RandomHorizontalFlip")),
    train_cfg=dict(max_epochs=EPOCHS),
    optim_wrapper=dict(type="AmpOptimWrapper", optimizer=dict(type="SGD", lr=0.1, momentum=0.9, weight_decay=1e-4)),
    param_scheduler=dict(type="StepLR", step_size=EPOCHS // 3, gamma=0.1),
    auto_scale_lr=dict(enable=True, base_batch_size=256),
    val_dataloader=images("val", 64, dict(type="Resize", size=256), dict(type="CenterCrop", size=224)),
    val_cfg=dict(),
    val_evaluator=dict(type="Accuracy"),
    default_hooks=dict(checkpoint=dict(max_keep_ckpts=1, save_best="auto")),
    resume="auto",  # a run that was interrupted continues at the same image
)

if __name__ == "__main__":
    Runner.from_cfg(cfg).train()
