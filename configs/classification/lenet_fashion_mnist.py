# A small convolutional network on Fashion-MNIST: 91 % in a minute on two CPU cores.
_base_ = ["../_base_/datasets/fashion_mnist_subset.py", "../_base_/default_runtime.py"]

model = dict(
    type="ImageClassifier",
    backbone=dict(type="LeNet", num_classes=10, batch_norm=True),
    loss=dict(type="CrossEntropyLoss", label_smoothing=0.1),
)

max_epochs = 8
train_cfg = dict(by_epoch=True, max_epochs=max_epochs, val_interval=1)
val_cfg = dict()
test_cfg = dict()

optim_wrapper = dict(optimizer=dict(type="AdamW", lr=1e-3, weight_decay=0.2))
# The learning rate rises to eta_max and falls again, once per run, updated every iteration.
param_scheduler = dict(type="OneCycleLR", eta_max=1e-2, total_steps=max_epochs, convert_to_iter_based=True)
