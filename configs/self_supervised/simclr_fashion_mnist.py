# SimCLR on the images of Fashion-MNIST, without labels, in four minutes on one core. With 500 labeled images, nearest
# neighbors reach 71.3 % ± 0.1 (with random weights, 64.8 % ± 1.5), and linear evaluation 74.6 % ± 0.6 (51.6 % ± 2.6):
# mean and standard deviation of three seeds.
#     trainwright train self_supervised/simclr_fashion_mnist
#     trainwright train self_supervised/linear_fashion_mnist --load-from work_dirs/simclr_fashion_mnist/epoch_8.pth
_base_ = ["../_base_/datasets/fashion_mnist_views.py", "../_base_/default_runtime.py"]

model = dict(
    type="SimCLR",
    backbone=dict(type="ConvNet", in_channels=1, channels=(16, 32, 64)),
    hidden_channels=256,
    out_channels=64,
    temperature=0.2,
    data_preprocessor=dict(mean=[72.94], std=[90.02]),
    memory={{_base_.memory}},
)

max_epochs = 8
train_cfg = dict(by_epoch=True, max_epochs=max_epochs, val_interval=2)
val_cfg = dict()
test_cfg = dict()

optim_wrapper = dict(optimizer=dict(type="AdamW", lr=2e-3, weight_decay=0.05))
param_scheduler = dict(type="CosineAnnealingLR", by_epoch=True, T_max=max_epochs, convert_to_iter_based=True)
