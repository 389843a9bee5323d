# ResNet-50 on ImageNet with torchvision's newer recipe (reported top-1 accuracy: 80.9 %). This is "IMAGENET1K_V2": 8
# processes with 128 images each, 600 epochs, SGD with a learning rate of 0.5, label smoothing, mixup and CutMix,
# TrivialAugment, random erasing, repeated augmentation, and averaged weights.
#     torchrun --nproc_per_node=8 -m trainwright.tools.cli train classification/resnet50_imagenet_v2 --launcher pytorch
_base_ = ["../_base_/datasets/imagenet_modern.py", "../_base_/recipes/modern.py", "../_base_/default_runtime.py"]

model = dict(type="ImageClassifier", backbone="resnet50", num_classes=1000)

data_preprocessor = dict(batch_augments={{_base_.batch_augments}})

max_epochs = 600
train_cfg = dict(by_epoch=True, max_epochs=max_epochs, val_interval=5)
val_cfg = dict()
test_cfg = dict()

optim_wrapper = dict(optimizer=dict(_delete_=True, type="SGD", lr=0.5, momentum=0.9, weight_decay=2e-5))
auto_scale_lr = dict(enable=True, base_batch_size=1024)
# Every 32 steps after the warm-up, with torchvision's decay of 0.99998 for 1024 images per step.
custom_hooks = [
    dict(
        type="EMAHook", momentum=(1 - 0.99998) * 1024 * 32 / max_epochs, interval=32, update_buffers=True, begin_epoch=6
    )
]
