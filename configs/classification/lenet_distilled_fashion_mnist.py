# A small LeNet that learns from 500 labeled images of Fashion-MNIST, and from a larger one that has seen all 10,000
# (Hinton, Vinyals & Dean 2015, https://arxiv.org/abs/1503.02531), in half a minute on one core: 85.2 % ± 0.5, without
# the teacher 81.7 % ± 0.4 (three seeds).
#     trainwright train classification/lenet_fashion_mnist
#     trainwright train classification/lenet_distilled_fashion_mnist
# Without the teacher: --cfg-options model.pairs.logits.weight=0
_base_ = ["../_base_/datasets/fashion_mnist_subset.py", "../_base_/default_runtime.py"]

teacher = "work_dirs/lenet_fashion_mnist/epoch_8.pth"
model = dict(
    type="Distillation",
    student=dict(
        type="ImageClassifier",
        backbone=dict(type="LeNet", num_classes=10, batch_norm=True, channels=(8, 16), hidden_features=64),
    ),
    teacher=dict(
        type="ImageClassifier",
        backbone=dict(type="LeNet", num_classes=10, batch_norm=True),
        init_cfg=dict(type="Pretrained", checkpoint=teacher),
    ),
    pairs=dict(logits=dict(student="backbone", loss=dict(type="KDLoss", temperature=4))),
)
train_dataloader = dict(batch_size=64, dataset=dict(indices=500))

max_epochs = 60
train_cfg = dict(by_epoch=True, max_epochs=max_epochs, val_interval=10)
val_cfg = dict()
test_cfg = dict()

optim_wrapper = dict(optimizer=dict(type="AdamW", lr=1e-3, weight_decay=0.2))
param_scheduler = dict(type="OneCycleLR", eta_max=1e-2, total_steps=max_epochs, convert_to_iter_based=True)
default_hooks = dict(checkpoint=dict(interval=10))
