# Depth Anything V2 Small of Hugging Face's transformers, fine-tuned to metric depth on NYU Depth V2; its weights are
# downloaded. Put the files into data/nyu/{images,annotations}/{train,test}, as prepared by MMSegmentation: depth maps
# in millimeters, as 16-bit PNG. AdamW with a learning rate of 5e-6, ten times that for the neck and head, as in the
# paper (Yang et al. 2024, https://arxiv.org/abs/2406.09414). pip install "trainwright[transformers]".
_base_ = "../_base_/default_runtime.py"

model = dict(
    type="HuggingFaceDepthEstimator",
    pretrained="depth-anything/Depth-Anything-V2-Small-hf",
    config=dict(depth_estimation_type="metric", max_depth=10),
    image_processor=dict(do_resize=False),  # to multiples of 14 by the pipeline
)

data_root = "data/nyu"
load = [dict(type="LoadImageFromFile"), dict(type="LoadDepthAnnotation", depth_rescale_factor=1e-3)]
train_dataloader = dict(
    batch_size=8,
    num_workers=4,
    pin_memory=True,
    dataset=dict(
        type="DepthDataset",
        data_root=data_root,
        data_prefix=dict(img_path="images/train", depth_map_path="annotations/train"),
        pipeline=[
            *load,
            dict(type="Resize", size=(490, 644)),
            dict(type="RandomCrop", size=(476, 630)),
            dict(type="RandomHorizontalFlip"),
            dict(type="PackInputs"),
        ],
    ),
    sampler=dict(type="DefaultSampler", shuffle=True),
    collate_fn=dict(type="pseudo_collate"),
)
val_dataloader = dict(
    batch_size=8,
    num_workers=4,
    pin_memory=True,
    dataset=dict(
        type="DepthDataset",
        data_root=data_root,
        data_prefix=dict(img_path="images/test", depth_map_path="annotations/test"),
        test_mode=True,
        # The depth map keeps its size: predictions are resized to it.
        pipeline=[
            dict(type="LoadImageFromFile"),
            dict(type="Resize", size=(490, 644)),
            dict(type="LoadDepthAnnotation", depth_rescale_factor=1e-3),
            dict(type="PackInputs"),
        ],
    ),
    sampler=dict(type="DefaultSampler", shuffle=False),
    collate_fn=dict(type="pseudo_collate"),
)
test_dataloader = val_dataloader
val_evaluator = dict(type="DepthMetric", min_depth_eval=1e-3, max_depth_eval=10)
test_evaluator = val_evaluator

max_epochs = 20
train_cfg = dict(by_epoch=True, max_epochs=max_epochs, val_interval=1)
val_cfg = dict()
test_cfg = dict()

optim_wrapper = dict(
    optimizer=dict(type="AdamW", lr=5e-6, weight_decay=0.01),
    paramwise_cfg=dict(
        custom_keys={"network.neck": dict(lr_mult=10), "network.head": dict(lr_mult=10)}, needs_pretrained=True
    ),
)
param_scheduler = dict(type="PolyLR", power=0.9, eta_min=0, by_epoch=True, end=max_epochs, convert_to_iter_based=True)
default_hooks = dict(checkpoint=dict(interval=1, save_best="depth/abs_rel"))
