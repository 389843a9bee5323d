# A mean teacher on CIFAR-10 with 4,000 labels (Tarvainen & Valpola 2017, https://arxiv.org/abs/1703.01780), with the
# settings of Oliver et al. 2018 (https://arxiv.org/abs/1804.09170; reported with a WideResNet-28-2: 84.1 %). The
# network here is a ResNet-18 for small images. 500,000 iterations with 100 labeled and 100 other images.
_base_ = "fixmatch_cifar10.py"

views = [dict(type="RandomHorizontalFlip"), dict(type="RandomCrop", size=32, padding=2, padding_mode="reflect")]

model = dict(
    _delete_=True,
    type="MeanTeacher",
    classifier={{_base_.model.classifier}},
    momentum=0.05,
    weight=8.0,
    warmup=0.4,
)
train_dataloader = dict(
    labeled=dict(batch_size=100, dataset=dict(indices=4000, pipeline=[*views, dict(type="PackInputs")])),
    unlabeled=dict(
        batch_size=100,
        num_workers=4,
        dataset=dict(pipeline=[dict(type="MultiView", transforms=[views], num_views=2), dict(type="PackInputs")]),
    ),
)
train_cfg = dict(max_iters=500_000, val_interval=5000)
optim_wrapper = dict(_delete_=True, optimizer=dict(type="Adam", lr=4e-4))
param_scheduler = dict(_delete_=True, type="MultiStepLR", milestones=[400_000], gamma=0.2, by_epoch=False)
custom_hooks = []  # the teacher is the average
default_hooks = dict(checkpoint=dict(interval=5000))
