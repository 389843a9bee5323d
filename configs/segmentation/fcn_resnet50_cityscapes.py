# FCN with a ResNet-50 on Cityscapes with the common recipe of 40,000 steps. Each step uses 8 crops of 512x1024 (4
# processes with 2 each), SGD with a learning rate of 0.01 and polynomial decay, and synchronized batch normalization.
# Validation uses whole images.
_base_ = ["../_base_/datasets/cityscapes.py", "../_base_/default_runtime.py"]

model = dict(
    type="SemanticSegmentor",
    network=dict(
        type="TorchvisionSegmentationModel",
        name="fcn_resnet50",
        num_classes=19,
        aux_loss=True,
        weights_backbone="IMAGENET1K_V1",
    ),
    aux_loss_weight=0.4,
)
sync_bn = "torch"

max_iters = 40_000
train_cfg = dict(by_epoch=False, max_iters=max_iters, val_interval=4000)
val_cfg = dict()
test_cfg = dict()

optim_wrapper = dict(optimizer=dict(type="SGD", lr=0.01, momentum=0.9, weight_decay=5e-4))
param_scheduler = dict(type="PolyLR", power=0.9, eta_min=1e-4, by_epoch=False, begin=0, end=max_iters)
auto_scale_lr = dict(enable=True, base_batch_size=8)
default_hooks = dict(checkpoint=dict(by_epoch=False, interval=4000, save_best="seg/mIoU"))
