# Linear evaluation of the features of a LeNet: the backbone stays as it is, and one linear layer is trained. 90 % after
# lenet_fashion_mnist, 68 % with random weights.
#     trainwright train classification/lenet_linear_fashion_mnist --load-from work_dirs/lenet_fashion_mnist/epoch_8.pth
_base_ = "lenet_fashion_mnist.py"

model = dict(
    _delete_=True,
    type="ImageClassifier",
    # Without classes it gives its features.
    backbone=dict(type="LeNet", num_classes=None, batch_norm=True),
    head=dict(type="LinearClsHead", num_classes=10, in_channels=128),
    frozen=["backbone"],
)

max_epochs = 5
train_cfg = dict(max_epochs=max_epochs)

optim_wrapper = dict(optimizer=dict(_delete_=True, type="SGD", lr=0.1, momentum=0.9, weight_decay=0.0))
param_scheduler = dict(_delete_=True, type="CosineAnnealingLR", by_epoch=True, convert_to_iter_based=True)
