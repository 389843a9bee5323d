# ResNet-50 on ImageNet with torchvision's first recipe (reported top-1 accuracy: 76.1 %). This is "IMAGENET1K_V1"
# (references/classification of pytorch/vision): 8 processes with 32 images each, 90 epochs, SGD with a learning rate of
# 0.1, divided by 10 every 30 epochs.
#     torchrun --nproc_per_node=8 -m trainwright.tools.cli train classification/resnet50_imagenet --launcher pytorch
_base_ = ["../_base_/datasets/imagenet.py", "../_base_/default_runtime.py"]

model = dict(type="ImageClassifier", backbone="resnet50", num_classes=1000)

max_epochs = 90
train_cfg = dict(by_epoch=True, max_epochs=max_epochs, val_interval=1)
val_cfg = dict()
test_cfg = dict()

optim_wrapper = dict(optimizer=dict(type="SGD", lr=0.1, momentum=0.9, weight_decay=1e-4))
param_scheduler = dict(type="StepLR", step_size=30, gamma=0.1, by_epoch=True)
# The learning rate is for 256 images per step; it is scaled for other numbers.
auto_scale_lr = dict(enable=True, base_batch_size=256)
