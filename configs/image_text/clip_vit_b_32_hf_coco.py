# OpenAI's CLIP ViT-B/32 in Hugging Face's transformers, fine-tuned on COCO captions; its weights are downloaded. Unpack
# train2017.zip, val2017.zip and annotations_trainval2017.zip in data/coco. The optimizer has the betas and the weight
# decay of the paper (Radford et al. 2021, https://arxiv.org/abs/2103.00020); negatives come from all processes:
#     trainwright launch --nproc 4 train image_text/clip_vit_b_32_hf_coco --amp
# `trainwright test image_text/clip_vit_b_32_hf_coco` evaluates the published weights. SigLIP and others work the
# same: set model.pretrained to their name on the Hugging Face Hub. pip install "trainwright[transformers]".
_base_ = "../_base_/default_runtime.py"

model = dict(type="HuggingFaceCLIP", pretrained="openai/clip-vit-base-patch32")

data_root = "data/coco"
train_dataloader = dict(
    batch_size=256,
    num_workers=8,
    pin_memory=True,
    dataset=dict(
        type="ImageTextDataset",
        data_root=data_root,
        ann_file="annotations/captions_train2017.json",
        data_prefix=dict(img_path="train2017"),
        pipeline=[
            dict(type="LoadImageFromFile"),
            # Not flipped: captions tell left from right.
            dict(type="RandomResizedCrop", size=224, scale=(0.9, 1.0), interpolation=3),
            dict(type="RandomCaption"),
            dict(type="PackInputs"),
        ],
    ),
    sampler=dict(type="DefaultSampler", shuffle=True),
    collate_fn=dict(type="pseudo_collate"),
    drop_last=True,
)
val_dataloader = dict(
    batch_size=256,
    num_workers=8,
    pin_memory=True,
    dataset=dict(
        type="ImageTextDataset",
        data_root=data_root,
        ann_file="annotations/captions_val2017.json",
        data_prefix=dict(img_path="val2017"),
        max_captions=5,
        pipeline=[dict(type="LoadImageFromFile"), dict(type="PackInputs")],
        test_mode=True,
    ),
    sampler=dict(type="DefaultSampler", shuffle=False),
    collate_fn=dict(type="pseudo_collate"),
)
test_dataloader = val_dataloader
val_evaluator = dict(type="ImageTextRetrievalMetric")
test_evaluator = val_evaluator

max_epochs = 5
train_cfg = dict(by_epoch=True, max_epochs=max_epochs, val_interval=1)
val_cfg = dict()
test_cfg = dict()

optim_wrapper = dict(
    optimizer=dict(type="AdamW", lr=1e-5, betas=(0.9, 0.98), eps=1e-6, weight_decay=0.2),
    paramwise_cfg=dict(
        norm_decay_mult=0,
        bias_decay_mult=0,
        custom_keys={"logit_scale": dict(decay_mult=0)},
        needs_pretrained=True,
    ),
)
param_scheduler = [
    dict(type="LinearLR", start_factor=0.01, by_epoch=False, begin=0, end=100),
    dict(type="CosineAnnealingLR", by_epoch=True, begin=0, end=max_epochs, convert_to_iter_based=True),
]
auto_scale_lr = dict(enable=False, base_batch_size=256)
default_hooks = dict(checkpoint=dict(interval=1, save_best="retrieval/mean_recall"))
