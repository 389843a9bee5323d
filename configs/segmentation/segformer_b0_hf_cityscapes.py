# SegFormer-B0 of Hugging Face's transformers on Cityscapes from ImageNet weights (reported mIoU: 76.2). They are
# downloaded. The recipe of the paper (Xie et al. 2021, https://arxiv.org/abs/2105.15203): 160,000 steps of 8 crops of
# 1024x1024 pixels, AdamW with a learning rate of 6e-5, ten times that for the head, a linear warm-up of 1500 steps,
# linear decay.
#     torchrun --nproc_per_node=4 -m trainwright.tools.cli train segmentation/segformer_b0_hf_cityscapes \
#         --launcher pytorch
# pip install "trainwright[transformers]".
_base_ = ["../_base_/datasets/cityscapes.py", "../_base_/default_runtime.py"]

data_preprocessor = None  # the model has its image processor
model = dict(
    type="HuggingFaceSegmentor",
    pretrained="nvidia/mit-b0",
    num_classes=19,
    image_processor=dict(do_resize=False),  # crops in training, sliding windows in tests
    test_cfg=dict(mode="slide", crop_size=(1024, 1024), stride=(768, 768)),
)

train_dataloader = dict(
    dataset=dict(
        pipeline=[
            dict(type="LoadImageFromFile"),
            dict(type="LoadSegMap"),
            dict(type="RandomResize", min_size=512, max_size=2048),
            dict(type="SegRandomCrop", crop_size=(1024, 1024), cat_max_ratio=0.75),
            dict(type="RandomHorizontalFlip", p=0.5),
            dict(type="RandomPhotometricDistort"),
            dict(type="PackInputs"),
        ],
    ),
)

train_cfg = dict(by_epoch=False, max_iters=160000, val_interval=16000)
val_cfg = dict()
test_cfg = dict()

optim_wrapper = dict(
    optimizer=dict(type="AdamW", lr=6e-5, betas=(0.9, 0.999), weight_decay=0.01),
    paramwise_cfg=dict(custom_keys={"decode_head": dict(lr_mult=10)}, norm_decay_mult=0, needs_pretrained=True),
)
param_scheduler = [
    dict(type="LinearLR", start_factor=1e-6, by_epoch=False, begin=0, end=1500),
    dict(type="PolyLR", power=1.0, eta_min=0, by_epoch=False, begin=1500, end=160000),
]
auto_scale_lr = dict(enable=True, base_batch_size=8)
default_hooks = dict(checkpoint=dict(by_epoch=False, interval=16000, save_best="seg/mIoU"))
