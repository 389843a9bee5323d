# RT-DETR-R18 of Hugging Face's transformers on COCO, fine-tuned for 12 epochs from its published weights, which are
# downloaded (box mAP: 46.5). The recipe follows that of the paper (Zhao et al. 2024, https://arxiv.org/abs/2304.08069):
# 4 processes with 4 images of 640x640 pixels each, AdamW with a learning rate of 1e-4, 1e-5 for the backbone, gradients
# clipped to a norm of 0.1, an average of the weights.
#     torchrun --nproc_per_node=4 -m trainwright.tools.cli train detection/rtdetr_r18_hf_coco --launcher pytorch
# To test the published weights: trainwright test detection/rtdetr_r18_hf_coco. For your own classes, set
# model.num_classes: the last layers are then initialized at random. pip install "trainwright[transformers,coco]".
_base_ = ["../_base_/datasets/coco_detection.py", "../_base_/default_runtime.py"]

data_preprocessor = None  # the model has its image processor
model = dict(type="HuggingFaceDetector", pretrained="PekingU/rtdetr_r18vd", num_classes=80)

train_dataloader = dict(
    batch_size=4,
    dataset=dict(
        pipeline=[
            dict(type="LoadImageFromFile"),
            dict(type="LoadAnnotations"),
            dict(type="RandomPhotometricDistort", p=0.5),
            dict(type="RandomZoomOut", fill=0),
            dict(type="RandomIoUCrop"),
            dict(type="SanitizeBoundingBoxes"),
            dict(type="RandomHorizontalFlip", p=0.5),
            dict(type="PackInputs"),
        ],
    ),
)
val_dataloader = dict(batch_size=8)
test_dataloader = val_dataloader

train_cfg = dict(by_epoch=True, max_epochs=12, val_interval=1)
val_cfg = dict()
test_cfg = dict()

optim_wrapper = dict(
    optimizer=dict(type="AdamW", lr=1e-4, weight_decay=1e-4),
    clip_grad=dict(max_norm=0.1),
    paramwise_cfg=dict(
        custom_keys={"network.model.backbone": dict(lr_mult=0.1)}, norm_decay_mult=0, needs_pretrained=True
    ),
)
param_scheduler = dict(type="LinearLR", start_factor=0.001, by_epoch=False, begin=0, end=2000)
auto_scale_lr = dict(enable=True, base_batch_size=16)
custom_hooks = [dict(type="EMAHook", momentum=1e-4)]
default_hooks = dict(checkpoint=dict(interval=1, save_best="coco/bbox_mAP"))
