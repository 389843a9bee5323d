# Mask2Former with a Swin-T of Hugging Face's transformers on COCO, fine-tuned for 12 epochs from its published weights
# (mask mAP: 45.0). They are downloaded. AdamW with a learning rate of 1e-4 for 16 images per step, 1e-5 for the
# backbone, as in the paper (Cheng et al. 2022, https://arxiv.org/abs/2112.01527).
#     torchrun --nproc_per_node=8 -m trainwright.tools.cli train instance_segmentation/mask2former_swin_t_hf_coco \
#         --launcher pytorch
# pip install "trainwright[transformers,coco]".
_base_ = ["../_base_/datasets/coco_detection.py", "../_base_/default_runtime.py"]

data_preprocessor = None  # the model has its image processor
model = dict(
    type="HuggingFaceInstanceSegmentor", pretrained="facebook/mask2former-swin-tiny-coco-instance", num_classes=80
)
find_unused_parameters = True  # the last norm of Swin

train_dataloader = dict(
    dataset=dict(
        pipeline=[
            dict(type="LoadImageFromFile"),
            dict(type="LoadAnnotations", with_mask=True),
            dict(type="ScaleJitter", target_size=(1024, 1024)),
            dict(type="RandomCrop", size=(1024, 1024), pad_if_needed=True),
            dict(type="SanitizeBoundingBoxes"),
            dict(type="RandomHorizontalFlip", p=0.5),
            dict(type="PackInputs"),
        ],
    ),
)
val_evaluator = dict(metric=["segm", "bbox"])
test_evaluator = val_evaluator

train_cfg = dict(by_epoch=True, max_epochs=12, val_interval=1)
val_cfg = dict()
test_cfg = dict()

optim_wrapper = dict(
    type="AmpOptimWrapper",
    dtype="bfloat16",
    optimizer=dict(type="AdamW", lr=1e-4, weight_decay=0.05),
    clip_grad=dict(max_norm=0.01),
    paramwise_cfg=dict(
        custom_keys={"pixel_level_module.encoder": dict(lr_mult=0.1)}, norm_decay_mult=0, needs_pretrained=True
    ),
)
param_scheduler = dict(type="MultiStepLR", milestones=[8, 11], gamma=0.1, by_epoch=True)
auto_scale_lr = dict(enable=True, base_batch_size=16)
default_hooks = dict(checkpoint=dict(interval=1, save_best="coco/segm_mAP"))
