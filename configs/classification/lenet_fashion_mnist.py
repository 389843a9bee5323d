# LeNet on Fashion-MNIST: about 91 % in a minute on two CPU cores.
_base_ = ["../_base_/datasets/fashion_mnist_subset.py", "../_base_/default_runtime.py"]

model = dict(type="ImageClassifier", backbone=dict(type="LeNet", num_classes=10))

max_epochs = 8
train_cfg = dict(by_epoch=True, max_epochs=max_epochs, val_interval=1)
val_cfg = dict()
test_cfg = dict()

optim_wrapper = dict(optimizer=dict(type="AdamW", lr=1e-3, weight_decay=0.05))
param_scheduler = dict(
    type="OneCycleLR", eta_max=4e-3, by_epoch=True, total_steps=max_epochs, convert_to_iter_based=True
)
