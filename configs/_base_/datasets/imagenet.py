# ImageNet-1k, image classification. Unpack it so that there is data/imagenet/{train,val}/<class>/*.JPEG. If the 50,000
# images of val are in a single folder, as distributed, add a list with lines such as `ILSVRC2012_val_00000001.JPEG 65`:
#   --cfg-options val_dataloader.dataset.ann_file=meta/val.txt test_dataloader.dataset.ann_file=meta/val.txt
data_root = "data/imagenet"
# Mean and standard deviation of the pixels of ImageNet, from 0 to 255.
data_preprocessor = dict(
    type="ClsDataPreprocessor", mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], non_blocking=True
)

train_dataloader = dict(
    batch_size=32,
    num_workers=8,
    pin_memory=True,
    persistent_workers=True,
    dataset=dict(
        type="ImageNet",
        data_root=data_root,
        split="train",
        pipeline=[
            dict(type="LoadImageFromFile"),
            dict(type="RandomResizedCrop", size=224),
            dict(type="RandomHorizontalFlip"),
            dict(type="PackInputs"),
        ],
    ),
    sampler=dict(type="DefaultSampler", shuffle=True),
    collate_fn=dict(type="pseudo_collate"),
)
val_dataloader = dict(
    batch_size=64,
    num_workers=8,
    pin_memory=True,
    persistent_workers=True,
    dataset=dict(
        type="ImageNet",
        data_root=data_root,
        split="val",
        test_mode=True,
        pipeline=[
            dict(type="LoadImageFromFile"),
            dict(type="Resize", size=256),
            dict(type="CenterCrop", size=224),
            dict(type="PackInputs"),
        ],
    ),
    sampler=dict(type="DefaultSampler", shuffle=False),
    collate_fn=dict(type="pseudo_collate"),
)
test_dataloader = val_dataloader

val_evaluator = dict(type="Accuracy", topk=(1, 5))
test_evaluator = val_evaluator
