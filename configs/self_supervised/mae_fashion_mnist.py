# A masked autoencoder with a small vision transformer on the images of Fashion-MNIST, without labels, in four minutes
# on one core. With 500 labeled images, nearest neighbors reach 59.8 % ± 1.3 (with random weights, 35.7 % ± 1.6): mean
# and standard deviation of three seeds. pip install "trainwright[timm]".
_base_ = "simclr_fashion_mnist.py"

model = dict(
    _delete_=True,
    type="MAE",
    backbone=dict(
        type="TimmModel",
        name="vit_tiny_patch16_224",
        num_classes=0,
        in_channels=1,
        img_size=28,
        patch_size=4,
        embed_dim=64,
        depth=4,
        num_heads=4,
        global_pool="avg",
    ),
    decoder_channels=64,
    decoder_layers=1,
    decoder_heads=4,
    data_preprocessor={{_base_.model.data_preprocessor}},
    memory={{_base_.memory}},
)
train_dataloader = dict(
    dataset=dict(
        pipeline=[
            dict(type="RandomResizedCrop", size=28, scale=(0.5, 1.0)),
            dict(type="RandomHorizontalFlip"),
            dict(type="PackInputs"),
        ],
    ),
)

max_epochs = 10
train_cfg = dict(max_epochs=max_epochs)
optim_wrapper = dict(optimizer=dict(lr=3e-3, betas=(0.9, 0.95)))
param_scheduler = dict(T_max=max_epochs)
