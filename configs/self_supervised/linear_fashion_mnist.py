# Linear evaluation of a pretrained network on Fashion-MNIST with 500 labels: 74.6 % ± 0.6 after simclr_fashion_mnist,
# 51.6 % ± 2.6 with random weights (three seeds). The backbone is frozen, and one linear layer is trained.
#     trainwright train self_supervised/linear_fashion_mnist --load-from work_dirs/simclr_fashion_mnist/epoch_8.pth
_base_ = ["../_base_/datasets/fashion_mnist_subset.py", "../_base_/default_runtime.py"]

model = dict(
    type="ImageClassifier",
    backbone=dict(type="ConvNet", in_channels=1, channels=(16, 32, 64)),
    head=dict(type="LinearClsHead", num_classes=10, in_channels=64),
    frozen=["backbone"],
)
train_dataloader = dict(batch_size=50, dataset=dict(indices=500))

max_epochs = 50
train_cfg = dict(by_epoch=True, max_epochs=max_epochs, val_interval=10)
val_cfg = dict()
test_cfg = dict()

optim_wrapper = dict(optimizer=dict(type="AdamW", lr=1e-2, weight_decay=0.0))
param_scheduler = dict(type="CosineAnnealingLR", by_epoch=True, convert_to_iter_based=True)
default_hooks = dict(checkpoint=dict(interval=10))
