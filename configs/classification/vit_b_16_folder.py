# torchvision's pretrained ViT-B/16, fine-tuned on your own images with layer-wise learning rates. Put the images into
# data/my_images/{train,val}/<class>/, and set num_classes:
#     trainwright train classification/vit_b_16_folder --amp --cfg-options model.num_classes=5
# The recipe is for pretrained weights only. `trainwright new` writes one for your images that works without.
_base_ = ["../_base_/datasets/imagenet.py", "../_base_/recipes/finetune.py", "../_base_/default_runtime.py"]

model = dict(
    type="ImageClassifier",
    # The weights are downloaded; those of the last layer do not match num_classes and are skipped with a message.
    backbone=dict(type="TorchvisionModel", name="vit_b_16", weights="IMAGENET1K_V1"),
    num_classes=10,
)

data_root = "data/my_images"
train_dataloader = dict(
    dataset=dict(
        type="ImageFolder",
        data_root=data_root,
        pipeline=[
            dict(type="LoadImageFromFile"),
            dict(type="RandomResizedCrop", size=224),
            dict(type="RandomHorizontalFlip"),
            dict(type="RandAugment", interpolation=2),  # bilinear
            dict(type="RandomErasing", p=0.25, value=[124, 116, 104]),
            dict(type="PackInputs"),
        ],
    ),
)
val_dataloader = dict(dataset=dict(type="ImageFolder", data_root=data_root))
test_dataloader = dict(dataset=dict(type="ImageFolder", data_root=data_root))
val_evaluator = dict(topk=(1,))
test_evaluator = dict(topk=(1,))

data_preprocessor = dict(batch_augments={{_base_.batch_augments}})

max_epochs = 30
train_cfg = dict(by_epoch=True, max_epochs=max_epochs, val_interval=1)
val_cfg = dict()
test_cfg = dict()
auto_scale_lr = dict(enable=True, base_batch_size=256)
