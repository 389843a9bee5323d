"""A detector of Hugging Face's transformers, fine-tuned on your boxes in COCO's format.

Run `python examples/huggingface.py` (needs `trainwright[transformers,coco]`; the weights are downloaded). Any model for
object detection of the Hub works: set PRETRAINED to its name. Its image processor resizes and normalizes the images.
"""

from trainwright.engine import Runner

PRETRAINED, FOLDER, NUM_CLASSES, EPOCHS = "PekingU/rtdetr_r18vd", "data/my_boxes", 3, 10


def images(split, *transforms):
    pipeline = [dict(type="LoadImageFromFile"), dict(type="LoadAnnotations"), *transforms, dict(type="PackInputs")]
    return dict(
        batch_size=4,
        num_workers=4,
        persistent_workers=True,
        dataset=dict(
            type="CocoDataset",
            data_root=FOLDER,
            ann_file=f"annotations/instances_{split}2017.json",
            data_prefix=dict(img=f"{split}2017/"),
            pipeline=pipeline,
            test_mode=split == "val",
        ),
        sampler=dict(type="DefaultSampler", shuffle=split == "train"),
        collate_fn="pseudo_collate",
    )


cfg = dict(
    model=dict(type="HuggingFaceDetector", pretrained=PRETRAINED, num_classes=NUM_CLASSES),
    work_dir="work_dirs/huggingface",
    train_dataloader=images(
        "train",
        dict(type="RandomPhotometricDistort"),
        dict(type="RandomIoUCrop"),
        dict(type="SanitizeBoundingBoxes"),
        dict(type="RandomHorizontalFlip"),
    ),
    train_cfg=dict(max_epochs=EPOCHS),
    optim_wrapper=dict(
        optimizer=dict(type="AdamW", lr=1e-4, weight_decay=1e-4),
        paramwise_cfg=dict(custom_keys={"backbone": dict(lr_mult=0.1)}),
        clip_grad=dict(max_norm=0.1),
    ),
    param_scheduler=dict(type="CosineAnnealingLR", convert_to_iter_based=True),
    val_dataloader=images("val"),
    val_cfg=dict(),
    val_evaluator=dict(type="CocoMetric"),
    default_hooks=dict(
        checkpoint=dict(max_keep_ckpts=1, save_best="auto"), visualization=dict(type="VisualizationHook")
    ),
)

if __name__ == "__main__":
    runner = Runner.from_cfg(cfg)
    runner.train()
    # A folder that transformers loads: AutoModelForObjectDetection.from_pretrained("work_dirs/huggingface/final")
    runner.model.save_pretrained("work_dirs/huggingface/final")
