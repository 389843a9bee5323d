# Linear evaluation of a LeNet on Fashion-MNIST: 90 % after lenet_fashion_mnist. The backbone is frozen, and one linear
# layer is trained. With random weights, the accuracy is 68 %.
#     trainwright train classification/lenet_linear_fashion_mnist --load-from work_dirs/lenet_fashion_mnist/epoch_8.pth
_base_ = "lenet_fashion_mnist.py"

model = dict(
    _delete_=True,
    type="ImageClassifier",
    # Without classes, it returns features.
    backbone=dict(type="LeNet", num_classes=None, batch_norm=True),
    head=dict(type="LinearClsHead", num_classes=10, in_channels=128),
    frozen=["backbone"],
)

max_epochs = 5
train_cfg = dict(max_epochs=max_epochs)

optim_wrapper = dict(optimizer=dict(_delete_=True, type="SGD", lr=0.1, momentum=0.9, weight_decay=0.0))
param_scheduler = dict(_delete_=True, type="CosineAnnealingLR", by_epoch=True, convert_to_iter_based=True)
