"""Models of Hugging Face's transformers, made from tiny configs. One file, because the import takes seconds."""

import json
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from checkpoint_bits import different_bits
from PIL import Image
from ranks import run_ranks
from torch import Tensor

from trainwright.datasets import CaptionedShapes, Shapes, pseudo_collate
from trainwright.engine.checking import check
from trainwright.engine.checkpoints.files import read_last_checkpoint, save_checkpoint
from trainwright.engine.config.config import Config
from trainwright.engine.errors import CheckpointError, ConfigError, DataError, MissingExtraError
from trainwright.engine.export.compare import UNMATCHED, differences
from trainwright.engine.export.exporting import export_model
from trainwright.engine.export.form import form_of
from trainwright.engine.optim.wrapper import OptimWrapper
from trainwright.engine.registry import INFERENCERS, MODELS
from trainwright.engine.run.model_setup import build_model
from trainwright.engine.run.runner import Runner
from trainwright.engine.structures.instance_data import InstanceData
from trainwright.engine.structures.pixel_data import PixelData
from trainwright.models import ExportedModel, HuggingFaceTokenizer

transformers = pytest.importorskip("transformers")

CONFIGS = Path(__file__).parents[2] / "configs"
RESNET = dict(
    model_type="resnet", embedding_size=8, hidden_sizes=[8, 16, 24, 32], depths=[1, 1, 1, 1], layer_type="basic"
)
RT_DETR = dict(
    backbone_config={**RESNET, "model_type": "rt_detr_resnet", "out_features": ["stage2", "stage3", "stage4"]},
    freeze_backbone_batch_norms=False, encoder_in_channels=[16, 24, 32], encoder_hidden_dim=16, encoder_ffn_dim=32,
    encoder_attention_heads=2, d_model=16, decoder_in_channels=[16, 16, 16], decoder_ffn_dim=32,
    decoder_attention_heads=2, decoder_layers=2, num_queries=10, num_denoising=10,
)  # fmt: skip
HGNET = dict(
    model_type="hgnet_v2", stem_channels=[3, 8, 8], embedding_size=8, hidden_sizes=[8, 16, 24, 32],
    stage_in_channels=[8, 8, 16, 24], stage_mid_channels=[4, 4, 8, 8], stage_out_channels=[8, 16, 24, 32],
    stage_num_blocks=[1, 1, 1, 1], stage_downsample=[False, True, True, True], stage_light_block=[False] * 4,
    stage_kernel_size=[3] * 4, stage_numb_of_layers=[1] * 4, depths=[1, 1, 1, 1],
    out_features=["stage2", "stage3", "stage4"],
)  # fmt: skip
DETR = dict(
    backbone_config={**RESNET, "out_features": ["stage4"]}, d_model=16, encoder_layers=1, decoder_layers=2,
    encoder_attention_heads=2, decoder_attention_heads=2, encoder_ffn_dim=32, decoder_ffn_dim=32, num_queries=8,
)  # fmt: skip
STAGES = ["stage1", "stage2", "stage3", "stage4"]
SWIN = dict(model_type="swin", embed_dim=8, depths=[1] * 4, num_heads=[1, 1, 2, 2], window_size=4, out_features=STAGES)
MASK2FORMER = dict(
    backbone_config=SWIN, feature_size=32, mask_feature_size=32, hidden_dim=32, encoder_feedforward_dim=32,
    encoder_layers=1, decoder_layers=3, dim_feedforward=32, num_attention_heads=2, num_queries=6, train_num_points=64,
)  # fmt: skip
SEGFORMER = dict(depths=[1] * 4, hidden_sizes=[8, 16, 24, 32], num_attention_heads=[1, 1, 2, 2], decoder_hidden_size=16)
UPERNET = dict(
    backbone_config=dict(model_type="convnext", hidden_sizes=[8, 16, 24, 32], depths=[1] * 4, out_features=STAGES),
    hidden_size=16, auxiliary_in_channels=24, auxiliary_channels=16, pool_scales=[1, 2],
)  # fmt: skip
SQUARE = dict(size=dict(height=64, width=64))
KINDS: dict[str, tuple[str, str, dict[str, Any], int, dict[str, Any]]] = {
    "resnet": ("HuggingFaceClassifier", "resnet", RESNET, 3, dict(size=64)),
    "rt_detr": ("HuggingFaceDetector", "rt_detr", RT_DETR, 3, SQUARE),
    "d_fine": ("HuggingFaceDetector", "d_fine", {**RT_DETR, "backbone_config": HGNET}, 3, SQUARE),
    "detr": ("HuggingFaceDetector", "detr", DETR, 3, dict(size=dict(shortest_edge=48, longest_edge=96))),
    "segformer": ("HuggingFaceSegmentor", "segformer", SEGFORMER, 4, dict(size=64)),
    "upernet": ("HuggingFaceSegmentor", "upernet", UPERNET, 4, dict(size=64)),
    "mask2former": ("HuggingFaceSegmentor", "mask2former", MASK2FORMER, 4, SQUARE),
    "instances": ("HuggingFaceInstanceSegmentor", "mask2former", MASK2FORMER, 3, SQUARE),
}
VITPOSE = dict(
    backbone_config=dict(
        model_type="vitpose_backbone", image_size=[32, 32], patch_size=[8, 8], hidden_size=16, num_hidden_layers=2,
        num_attention_heads=2, out_indices=[2],
    ),
    scale_factor=4,
)  # fmt: skip
VIDEOMAE = dict(
    image_size=32, patch_size=8, num_frames=4, tubelet_size=2, hidden_size=16, num_hidden_layers=2,
    num_attention_heads=2, intermediate_size=32,
)  # fmt: skip
GLPN = dict(
    depths=[1] * 4, hidden_sizes=[8, 16, 24, 32], num_attention_heads=[1, 1, 2, 2], decoder_hidden_size=16, max_depth=12
)
KINDS |= {
    "pose": ("HuggingFacePoseEstimator", "vitpose", VITPOSE, 4, {}),
    "video": ("HuggingFaceVideoClassifier", "videomae", VIDEOMAE, 6, {}),
    "depth": ("HuggingFaceDepthEstimator", "glpn", GLPN, 0, {}),
}
PACK = [dict(type="PackInputs")]


def config_of(kind: str, **changes: Any) -> dict[str, Any]:
    """Return the config of a tiny model."""
    type_, model_type, config, number, processor = KINDS[kind]
    config = {**config, "model_type": model_type}
    numbers = {} if kind == "depth" else {"num_keypoints" if kind == "pose" else "num_classes": number}
    return {"type": type_, "config": config, **numbers, "image_processor": processor, **changes}


def build(kind: str, **changes: Any) -> Any:
    torch.manual_seed(0)
    model: Any = build_model(config_of(kind, **changes))
    model.init_weights()
    return model


def batch_of(*sizes: int, wide: bool = False) -> dict[str, Any]:
    """Return a batch of drawn images of these sizes; with ``wide``, the second half of each is cut off."""
    batch: dict[str, Any] = pseudo_collate([Shapes(4, size, pipeline=PACK)[index] for index, size in enumerate(sizes)])
    if wide:
        for index, sample in enumerate(batch["data_samples"]):
            height = sizes[index] // 2
            batch["inputs"][index] = batch["inputs"][index][:, :height]
            shape = (height, sizes[index])
            sample.set_metainfo(dict(img_shape=shape, ori_shape=shape, gt_shape=shape))
            truth = sample.gt_instances
            boxes = truth.bboxes.clone()
            boxes[:, 1::2] = boxes[:, 1::2].clamp(max=height)
            instances = InstanceData(bboxes=boxes, labels=truth.labels, masks=truth.masks[:, :height])
            sample.gt_instances = instances[boxes[:, 3] > boxes[:, 1]]
            sample.gt_sem_seg = PixelData(sem_seg=sample.gt_sem_seg.sem_seg[:, :height])
    return batch


def run_cfg(kind: str, work_dir: Path, **changes: Any) -> Config:
    """Return the config of a run of six steps in two epochs, with a validation."""
    metrics = {
        "HuggingFaceClassifier": dict(type="Accuracy"),
        "HuggingFaceDetector": dict(type="CocoMetric"),
        "HuggingFaceSegmentor": dict(type="IoUMetric"),
        "HuggingFaceInstanceSegmentor": dict(type="CocoMetric", metric=["segm", "bbox"]),
        "HuggingFacePoseEstimator": dict(type="PCKAccuracy"),
        "HuggingFaceVideoClassifier": dict(type="Accuracy"),
        "HuggingFaceDepthEstimator": dict(type="DepthMetric"),
    }
    datasets = {
        "resnet": dict(annotations=("gt_label",)),
        "depth": dict(annotations=("gt_depth_map",)),
        "pose": dict(
            type="TopdownShapes",
            pipeline=[dict(type="GetBBoxCenterScale"), dict(type="TopdownAffine", input_size=(32, 32)), *PACK],
        ),
        "video": dict(
            type="MovingShapes",
            size=32,
            pipeline=[
                dict(type="SampleFrames", clip_len=4), dict(type="ArrayDecode"), dict(type="FormatShape"), *PACK
            ],
        ),
    }  # fmt: skip
    loader = dict(
        batch_size=4,
        num_workers=0,
        dataset={**dict(type="Shapes", num_samples=12, size=48, pipeline=PACK), **datasets.get(kind, {})},
        sampler=dict(type="DefaultSampler", shuffle=True),
        collate_fn=dict(type="pseudo_collate"),
    )
    evaluated = {**loader, "sampler": dict(type="DefaultSampler", shuffle=False)}
    return Config({
        "model": config_of(kind),
        "work_dir": str(work_dir),
        "train_dataloader": loader,
        "train_cfg": dict(by_epoch=True, max_epochs=2, val_interval=2),
        "optim_wrapper": dict(optimizer=dict(type="AdamW", lr=1e-3), clip_grad=dict(max_norm=10)),
        "val_dataloader": evaluated,
        "val_cfg": dict(),
        "val_evaluator": metrics[KINDS[kind][0]],
        "test_dataloader": evaluated,
        "test_cfg": dict(),
        "test_evaluator": metrics[KINDS[kind][0]],
        "default_hooks": dict(checkpoint=dict(interval=4, by_epoch=False, max_keep_ckpts=3), logger=dict(interval=1)),
        "randomness": dict(seed=3),
        "visualizer": dict(type="Visualizer", vis_backends=[]),
        "inferencer_type": {"video": "ActionRecogInferencer", "pose": "Pose2DInferencer"}.get(kind, "Inferencer"),
        **changes,
    })  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_is_exact_after_a_resume_in_mid_epoch_and_its_checkpoint_predicts(kind: str, tmp_path: Path) -> None:
    cfg = run_cfg(kind, tmp_path / "whole")
    assert check(cfg) == []
    whole = Runner.from_cfg(cfg)
    whole.train()
    middle = str(tmp_path / "whole/iter_4.pth")
    resumed = Runner.from_cfg(run_cfg(kind, tmp_path / "resumed", resume=middle))
    resumed.train()
    newest = read_last_checkpoint(tmp_path / "whole")
    assert newest is not None
    last = newest.name
    assert different_bits(tmp_path / "resumed" / last, tmp_path / "whole" / last) == []
    inferencer = INFERENCERS.get(cfg.inferencer_type)(tmp_path / "resumed" / last, show_progress=False)
    image = torch.full((3, 40, 60), 90, dtype=torch.uint8)
    video = torch.full((6, 3, 32, 32), 90, dtype=torch.uint8)
    (answer,) = inferencer(video if kind == "video" else image, out_dir=tmp_path / "out")["predictions"]
    assert answer.keys() & {"pred_class", "pred_instances", "pred_sem_seg", "pred_depth_map"}
    assert list((tmp_path / "out").rglob("*.png")) or list((tmp_path / "out").rglob("*.jpg"))


@pytest.mark.parametrize("kind", ["resnet", "detr", "segformer", "instances"])
def test_images_are_processed_as_by_the_image_processor(kind: str) -> None:
    model = build(kind)
    batch = batch_of(48, 60, wide=True)
    images = [image.clone() for image in batch["inputs"]]
    found = model.data_preprocessor(batch)
    expected = model.image_processor(images, return_tensors="pt")
    assert torch.equal(found["inputs"], expected["pixel_values"])
    assert ("pixel_mask" in found) == ("pixel_mask" in expected)
    if "pixel_mask" in expected:
        assert torch.equal(found["pixel_mask"], expected["pixel_mask"])
    sizes = [sample.input_shape for sample in found["data_samples"]]
    assert sizes == ([(48, 96), (48, 96)] if kind == "detr" else [(64, 64)] * 2)


def test_images_of_the_size_of_the_input_are_not_cropped_again() -> None:
    processor = dict(size=dict(shortest_edge=40), crop_size=dict(height=32, width=32), do_center_crop=True)
    model = build("resnet", image_processor={**processor, "image_processor_type": "ViTImageProcessor"})
    image = torch.arange(3 * 32 * 32, dtype=torch.uint8).view(3, 32, 32)
    same = model.data_preprocessor({"inputs": [image]})["inputs"]
    mean, std = (torch.tensor(getattr(model.image_processor, name)) for name in ("image_mean", "image_std"))
    expected = (image / 255 - mean.view(3, 1, 1)) / std.view(3, 1, 1)
    torch.testing.assert_close(same[0], expected, rtol=1e-4, atol=1e-4)
    larger = model.data_preprocessor({"inputs": [image.repeat(1, 2, 3)]})["inputs"]
    assert larger.shape == (1, 3, 32, 32)  # resized to 40 x 60, cropped


def test_boxes_are_those_of_transformers() -> None:
    """The targets, the loss and the predictions, without padding; with it, boxes are relative to the image itself."""
    model = build("detr").train()
    batch = batch_of(48, 48, wide=True)
    annotations = [
        {
            "image_id": index,
            "annotations": [
                {"bbox": [x, y, right - x, bottom - y], "category_id": label, "area": 1.0, "iscrowd": 0}
                for (x, y, right, bottom), label in zip(
                    sample.gt_instances.bboxes.tolist(), sample.gt_instances.labels.tolist()
                )
            ],
        }
        for index, sample in enumerate(batch["data_samples"])
    ]
    encoded = model.image_processor(list(batch["inputs"]), annotations=annotations, return_tensors="pt")
    prepared = model.data_preprocessor(batch)
    model.eval()  # no dropout
    losses = model(**prepared, mode="loss")
    expected = model.network(**encoded)
    torch.testing.assert_close(losses["loss"], expected.loss)
    assert losses.keys() == {"loss", "ce", "bbox", "giou", "cardinality_error"}
    torch.testing.assert_close(losses["giou"], expected.loss_dict["loss_giou"].detach())
    found = model(**prepared, mode="predict")
    sizes = [sample.ori_shape for sample in found]
    theirs = model.image_processor.post_process_object_detection(expected, threshold=0.0, target_sizes=sizes)
    for sample, detection in zip(found, theirs):
        order = detection["scores"].argsort(descending=True, stable=True)
        torch.testing.assert_close(sample.pred_instances.scores, detection["scores"][order])
        torch.testing.assert_close(sample.pred_instances.bboxes, detection["boxes"][order])
        assert torch.equal(sample.pred_instances.labels, detection["labels"][order])


def test_padding_changes_no_target_and_no_prediction_size() -> None:
    model = build("detr").eval()
    wide, square = batch_of(48, wide=True), batch_of(96)
    both = {key: [wide[key][0], square[key][0].clone()] for key in ("inputs", "data_samples")}
    alone, padded = model.data_preprocessor(square), model.data_preprocessor(both)
    assert padded["data_samples"][1].input_shape == (48, 48) != padded["data_samples"][1].batch_input_shape
    targets: list[Any] = []
    handle = model.network.register_forward_pre_hook(
        lambda module, args, kwargs: targets.append(kwargs.get("labels")), with_kwargs=True
    )
    model(**alone, mode="loss"), model(**padded, mode="loss")
    handle.remove()
    assert torch.equal(targets[0][0]["boxes"], targets[1][1]["boxes"])
    sample = model(**padded, mode="predict")[1]
    assert sample.pred_instances.bboxes.max() <= 96 * 1.5 and sample.ori_shape == (96, 96)


@pytest.mark.parametrize("kind", ["segformer", "mask2former"])
def test_class_maps_are_those_of_transformers(kind: str) -> None:
    model = build(kind).eval()
    prepared = model.data_preprocessor(batch_of(48, 80, wide=True))
    with torch.no_grad():
        found = model(**prepared, mode="predict")
        output = model.network(pixel_values=prepared["inputs"])
    sizes = [(24, 48), (40, 80)]
    expected = model.image_processor.post_process_semantic_segmentation(output, target_sizes=sizes)
    for sample, seg_map in zip(found, expected):
        assert torch.equal(sample.pred_sem_seg.sem_seg[0], seg_map)


def test_the_loss_of_pixels_is_that_of_transformers() -> None:
    model = build("upernet").eval()  # with the auxiliary head
    batch = batch_of(64, 64)
    batch["data_samples"][0].gt_sem_seg.sem_seg[:, :9] = 255
    prepared = model.data_preprocessor(batch)
    target = torch.cat([sample.gt_sem_seg.sem_seg for sample in prepared["data_samples"]]).long()
    expected = model.network(prepared["inputs"], labels=target).loss
    torch.testing.assert_close(model(**prepared, mode="loss")["loss"], expected)
    for sample in prepared["data_samples"]:
        sample.gt_sem_seg.sem_seg[:] = 255
    loss = model(**prepared, mode="loss")["loss"]
    loss.backward()
    assert loss == 0 and all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


def test_own_losses_and_sliding_windows_of_a_segmentor() -> None:
    window = dict(mode="slide", crop_size=(32, 32), stride=(16, 16))
    model = build("segformer", loss=[dict(type="SegCrossEntropyLoss"), dict(type="DiceLoss")], test_cfg=window).eval()
    prepared = model.data_preprocessor(batch_of(48, 80))
    assert model(**prepared, mode="loss").keys() == {"loss_ce", "loss_dice"}
    assert [sample.pred_sem_seg.sem_seg.shape for sample in model(**prepared, mode="predict")] == [
        (1, 48, 48), (1, 80, 80)
    ]  # fmt: skip
    window = dict(mode="slide", crop_size=(64, 64), stride=(32, 32))
    masks = build("mask2former", test_cfg=window, image_processor=dict(size=dict(height=96, width=96))).eval()
    assert masks(**masks.data_preprocessor(batch_of(48)), mode="predict")[0].pred_sem_seg.sem_seg.shape == (1, 48, 48)
    with pytest.raises(ConfigError, match="only has its own loss"):
        build("mask2former", loss=dict(type="DiceLoss"))


def test_masks_of_instances_are_those_of_transformers_without_padding() -> None:
    model = build("instances", image_processor=dict(size=dict(shortest_edge=32, longest_edge=64))).eval()
    first, second = batch_of(48, wide=True), batch_of(60, 60)
    both = {
        "inputs": [first["inputs"][0], second["inputs"][1]],
        "data_samples": [first["data_samples"][0], second["data_samples"][1]],
    }
    prepared = model.data_preprocessor(both)
    shapes = [sample.input_shape for sample in prepared["data_samples"]]
    assert shapes[0] != shapes[1]
    with torch.no_grad():
        found = model(**prepared, mode="predict")
    assert [tuple(sample.pred_instances.masks.shape[1:]) for sample in found] == [(24, 48), (60, 60)]
    losses = model(**prepared, mode="loss")
    assert losses["loss"].isfinite()
    square = model.data_preprocessor(batch_of(48, 48))
    with torch.no_grad():
        found = model(**square, mode="predict")
        output = model.network(pixel_values=square["inputs"])
    expected = model.image_processor.post_process_instance_segmentation(
        output, threshold=0.0, target_sizes=[(48, 48)] * 2, return_binary_maps=True
    )
    for sample, theirs in zip(found, expected):
        instances = sample.pred_instances
        assert len(instances) == len(theirs["segments_info"]) > 0
        assert instances.masks.sum() == theirs["segmentation"].sum()
        rows = instances.masks[0].any(1).nonzero().flatten()
        assert instances.bboxes[0, 1] == rows[0] and instances.bboxes[0, 3] == rows[-1] + 1


def test_keypoints_are_those_of_transformers() -> None:
    model = build("pose").eval()
    torch.manual_seed(1)
    centers = torch.rand(2, 4, 2) * 16 + 8
    heatmaps, weights = model.head.codec.encode(centers, torch.ones(2, 4))
    assert model.head.codec.heatmap_size == (16, 16) and weights.all()
    box = [[0.0, 0.0, 32.0, 32.0]]
    options = {"boxes": [box, box], "kernel_size": 11}
    model.image_processor.size = {"height": 32, "width": 32}
    output = SimpleNamespace(heatmaps=heatmaps)
    theirs = model.image_processor.post_process_pose_estimation(output, **options)
    # They enlarge boxes by a quarter, and place the outermost pixels on the border of the box.
    expected = torch.stack([each[0]["keypoints"] for each in theirs])
    found, scores = model.head.codec.decode(heatmaps)
    torch.testing.assert_close(((found / 31) - 0.5) * 40 + 16, expected, atol=0.2, rtol=0)
    torch.testing.assert_close(found, centers, atol=0.1, rtol=0)
    assert scores.min() > 0.8


def test_depths_are_those_of_transformers_and_unknown_ones_are_left_out() -> None:
    model = build("depth").eval()
    shapes = Shapes(2, 64, annotations=("gt_depth_map",), pipeline=PACK)
    batch = pseudo_collate([shapes[0], shapes[1]])
    batch["data_samples"][0].gt_depth_map.data[:, :20] = 0
    prepared = model.data_preprocessor(batch)
    output = model.network(prepared["inputs"])
    expected = model.image_processor.post_process_depth_estimation(output, target_sizes=[(64, 64)] * 2)
    losses = model(**prepared, mode="loss")
    found = model(**prepared, mode="predict")
    for sample, theirs in zip(found, expected):
        assert torch.equal(sample.pred_depth_map.data[0], theirs["predicted_depth"])
    target = torch.cat([sample.gt_depth_map.data for sample in found])
    resized = torch.nn.functional.interpolate(output.predicted_depth[:, None], (64, 64), mode="bilinear")[:, 0]
    difference = (resized.log() - target.log())[target > 0]
    torch.testing.assert_close(
        losses["loss_silog"], (difference.square().mean() - 0.5 * difference.mean().square()).sqrt()
    )
    prepared["data_samples"][1].gt_depth_map = PixelData(data=torch.ones(1, 32, 32))
    with pytest.raises(DataError, match="depth maps of a batch have different sizes"):
        model(**prepared, mode="loss")


def test_clips_of_another_size_are_named() -> None:
    model = build("video")
    with pytest.raises(DataError, match=r"clips have 8 frames of size \(32, 32\).*takes 4 of size \(32, 32\)"):
        model(torch.zeros(1, 1, 3, 8, 32, 32))


def test_weights_from_a_folder_with_another_number_of_classes(tmp_path: Path, log: pytest.LogCaptureFixture) -> None:
    model = build("resnet")
    model.dataset_meta = {"classes": ("circle", "square", "triangle")}
    model.save_pretrained(tmp_path / "saved")
    assert json.loads((tmp_path / "saved/config.json").read_text())["id2label"] == {
        "0": "circle", "1": "square", "2": "triangle"
    }  # fmt: skip
    reference = transformers.AutoModelForImageClassification.from_pretrained(tmp_path / "saved").eval()
    same = MODELS.build(dict(type="HuggingFaceClassifier", pretrained=str(tmp_path / "saved"))).eval()
    image = torch.rand(1, 3, 64, 64)
    assert same.num_classes == 3 and same.dataset_meta == {"classes": ("circle", "square", "triangle")}
    assert same.image_processor.size == model.image_processor.size
    same.init_weights()
    assert torch.equal(same(image), reference(image).logits)
    log.clear()
    other = MODELS.build(dict(type="HuggingFaceClassifier", pretrained=str(tmp_path / "saved"), num_classes=5))
    assert other(image).shape == (1, 5) and other.dataset_meta is None
    assert "classifier.1.weight ((3, 32) in the weights, (5, 32) in the model)" in log.text
    stem = "backbone.resnet.embedder.embedder.convolution.weight"
    assert torch.equal(other.state_dict()[stem], same.state_dict()[stem])
    changed = MODELS.build(
        dict(
            type="HuggingFaceClassifier", pretrained=str(tmp_path / "saved"), config=dict(hidden_act="gelu"),
            image_processor=dict(size=dict(shortest_edge=40)),
        )
    )  # fmt: skip
    assert changed.backbone.config.hidden_act == "gelu" and changed.image_processor.size["shortest_edge"] == 40


def test_names_that_occur_twice_are_numbered(tmp_path: Path) -> None:
    """As in the weights of DETR, which have 91 classes, 11 of them unused."""
    model = build("detr")
    model.network.config.update({"id2label": {0: "N/A", 1: "cat", 2: "N/A"}})
    model.save_pretrained(tmp_path)
    loaded = MODELS.build(dict(type="HuggingFaceDetector", pretrained=str(tmp_path)))
    assert loaded.num_classes == 3 and loaded.dataset_meta == {"classes": ("N/A 0", "cat", "N/A 2")}


def test_data_adopts_the_order_of_the_classes_in_the_weights(tmp_path: Path, log: pytest.LogCaptureFixture) -> None:
    model = build("resnet")
    model.dataset_meta = {"classes": ("cat", "ant", "bee")}
    model.save_pretrained(tmp_path / "saved")

    def trained(*classes: str) -> Runner:
        folder = tmp_path / classes[0]
        for name in classes:
            (folder / name).mkdir(parents=True)
            Image.new("RGB", (64, 64), "red").save(folder / name / "1.png")
        cfg = Config({
            "model": dict(type="HuggingFaceClassifier", pretrained=str(tmp_path / "saved")),
            "work_dir": str(tmp_path / "run"),
            "train_dataloader": dict(
                batch_size=3,
                dataset=dict(type="ImageFolder", data_root=str(folder), pipeline=[dict(type="LoadImageFromFile"), *PACK]),
                collate_fn=dict(type="pseudo_collate"),
            ),
            "train_cfg": dict(by_epoch=False, max_iters=1),
            "optim_wrapper": dict(optimizer=dict(type="SGD", lr=0.1)),
            "visualizer": dict(type="Visualizer", vis_backends=[]),
        })  # fmt: skip
        runner = Runner.from_cfg(cfg)
        runner.logger.addHandler(log.handler)
        runner.train()
        return runner

    runner = trained("ant", "bee", "cat")
    assert runner.dataset_meta is not None and tuple(runner.dataset_meta["classes"]) == ("cat", "ant", "bee")
    assert runner.model.backbone.config.id2label == {0: "cat", 1: "ant", 2: "bee"}
    log.clear()
    other = trained("auk", "bat", "cow")
    assert "are not those of the weights of HuggingFaceClassifier (only the former has 'auk', 'bat', 'cow'" in log.text
    assert other.model.backbone.config.id2label[0] == "auk"


def test_classes_of_pixels_may_be_the_only_ones(tmp_path: Path) -> None:
    names = ("sky", "road", "tree", "car")
    model = build("segformer")
    model.dataset_meta = {"classes": names}
    assert model.network.config.id2label == dict(enumerate(names))
    model.dataset_meta = {"classes": names[1:], "seg_classes": names[::-1]}
    assert model.network.config.id2label == dict(enumerate(names[::-1]))
    model.save_pretrained(tmp_path / "saved")
    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()
    Image.new("RGB", (64, 64)).save(tmp_path / "images/1.jpg")
    Image.new("L", (64, 64), 1).save(tmp_path / "masks/1.png")
    pipeline = [dict(type="LoadImageFromFile"), dict(type="LoadSegMap"), *PACK]
    dataset = dict(
        type="BaseSegDataset", data_root=str(tmp_path), metainfo=dict(classes=names[:2]), pipeline=pipeline,
    )  # fmt: skip
    cfg = run_cfg("segformer", tmp_path / "run")
    cfg.model = dict(type="HuggingFaceSegmentor", pretrained=str(tmp_path / "saved"))
    cfg.test_dataloader = dict(batch_size=1, dataset=dataset, collate_fn=dict(type="pseudo_collate"))
    runner = Runner.from_cfg(cfg)
    runner.test()
    sample = runner.test_dataloader.dataset[0]["data_samples"]
    assert sample.gt_sem_seg.sem_seg.unique().tolist() == [2]  # road, as in the weights


def test_nothing_is_loaded_to_resume(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    build("resnet").save_pretrained(tmp_path / "saved")
    changes = {"model": dict(type="HuggingFaceClassifier", pretrained=str(tmp_path / "saved"), num_classes=3)}
    Runner.from_cfg(run_cfg("resnet", tmp_path / "run", **changes)).train()
    (tmp_path / "saved/model.safetensors").unlink()
    Runner.from_cfg(run_cfg("resnet", tmp_path / "run", resume=True, **changes)).test()
    with pytest.raises(CheckpointError, match="saved cannot be loaded by transformers.*model.safetensors"):
        Runner.from_cfg(run_cfg("resnet", tmp_path / "other", **changes)).train()


def test_names_on_the_hub_are_downloaded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(CheckpointError, match=r"owner/words is neither a folder nor"):
        build_clip(tokenizer="owner/words")
    with pytest.raises(CheckpointError, match=r"PekingU/rtdetr_r18vd is neither a folder nor(.|\n)*HF_HUB_OFFLINE"):
        MODELS.build(dict(type="HuggingFaceDetector", pretrained="PekingU/rtdetr_r18vd", num_classes=3))
    with pytest.raises(CheckpointError, match=r"some/config is neither"):
        MODELS.build(dict(type="HuggingFaceDetector", config="some/config", num_classes=3))


def mistakes(**model: Any) -> list[str]:
    return [str(error) for error in check(Config(dict(model=dict(type="HuggingFaceDetector", **model))))]


def test_check_finds_mistakes_in_the_config(monkeypatch: pytest.MonkeyPatch) -> None:
    assert mistakes(config=dict(model_type="rt_detr"), num_classes=3) == []
    (unknown,) = mistakes(config=dict(model_type="rtdetr"), num_classes=3)
    assert "model.config.model_type: transformers has no model for object detection of the type 'rtdetr'" in unknown
    assert "did you mean 'rt_detr'" in unknown
    (misspelled,) = mistakes(config=dict(model_type="rt_detr", num_query=20))
    assert "model.config.num_query: RTDetrConfig has no such entry" in misspelled and "'num_queries'" in misspelled
    (nested,) = mistakes(config=dict(model_type="rt_detr", backbone_config=dict(model_type="resnet", depth=[1])))
    assert "model.config.backbone_config.depth: ResNetConfig has no such entry" in nested and "'depths'" in nested
    (inner,) = mistakes(config=dict(model_type="rt_detr", backbone_config=dict(model_type="resnett")))
    assert "model.config.backbone_config.model_type" in inner and "'resnet'" in inner
    assert "did you mean 'model_type', not 'modeltype'" in mistakes(config=dict(modeltype="detr"))[0]
    assert "neither config nor pretrained" in mistakes(num_classes=3)[0]
    (option,) = mistakes(config=dict(model_type="d_fine"), image_processor=dict(sizes=3))
    assert "model.image_processor.sizes: RTDetrImageProcessor takes no such option" in option and "'size'" in option
    (named,) = mistakes(config=dict(model_type="d_fine"), image_processor=dict(image_processor_type="RTDetrProcessor"))
    assert "model.image_processor.image_processor_type" in named and "RTDetrImageProcessor" in named
    monkeypatch.setitem(__import__("sys").modules, "transformers", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'trainwright\[transformers\]'"):
        MODELS.build(config_of("resnet"))
    assert "trainwright[transformers]" in mistakes(config=dict(model_type="rt_detr"))[0]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(num_classes=None), "num_classes: is required"),
        (dict(config=dict(model_type="detr", d_model="wide")), "refuses it.*'d_model' expected int, got str"),
        (dict(data_preprocessor=dict(type="DetDataPreprocessor")), "set data_preprocessor=None"),
        (dict(pretrained="x", config="y"), "the weights have their own"),
    ],
)
def test_mistakes_that_only_building_finds(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build("detr", **changes)


def test_wrong_data_is_named() -> None:
    model = build("rt_detr")
    batch = model.data_preprocessor(batch_of(48))
    batch["data_samples"][0].gt_instances.labels[0] = 7
    with pytest.raises(ValueError, match="has the label 7, but labels must be from 0 to 2"):
        model(**batch, mode="loss")
    ragged = build(
        "resnet", image_processor=dict(size=dict(shortest_edge=40), image_processor_type="ViTImageProcessor")
    )
    with pytest.raises(DataError, match=r"different sizes after ViTImageProcessor: \(40, 40\), \(40, 80\)"):
        ragged.data_preprocessor({"inputs": [*batch_of(48)["inputs"], *batch_of(48, wide=True)["inputs"]]})
    with pytest.raises(ConfigError, match="set data_preprocessor=None"):
        MODELS.build(dict(type="HuggingFacePreprocessor"))


def test_mixed_precision_and_frozen_parts() -> None:
    model = build("resnet", frozen=["backbone.resnet"], data_preprocessor=dict(batch_augments=dict(type="Mixup")))
    wrapper = OptimWrapper(torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model.train().train_step(batch_of(48, 48), wrapper)
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {"backbone.classifier.1.weight", "backbone.classifier.1.bias"}


@pytest.mark.parametrize("kind", ["rt_detr", "segformer", "instances"])
def test_bfloat16(kind: str, tmp_path: Path) -> None:
    wrapper = dict(type="AmpOptimWrapper", dtype="bfloat16", optimizer=dict(type="AdamW", lr=1e-3))
    runner = Runner.from_cfg(run_cfg(kind, tmp_path, optim_wrapper=wrapper))
    runner.train()
    losses: Mapping[str, Any] = runner.message_hub.log_scalars
    assert torch.tensor(losses["train/loss"].data[0]).isfinite().all()


class SometimesEmpty(Shapes):
    """Shapes of which every fourth image has no instances."""

    def get_data_info(self, idx: int) -> dict[str, Any]:
        info = super().get_data_info(idx)
        if info["img_id"] % 4 == 0:
            for key in (
                "gt_bboxes",
                "gt_bboxes_labels",
                "gt_masks",
                "gt_areas",
                "gt_keypoints",
                "gt_keypoints_visible",
            ):
                info[key] = info[key][:0]
        return info


def test_two_processes_have_the_same_weights(tmp_path: Path) -> None:
    """Some batches of a process have no objects."""

    def action() -> dict[str, Tensor]:
        cfg = run_cfg("rt_detr", tmp_path / "run", launcher="pytorch")
        cfg.merge_from_dict({"train_dataloader.batch_size": 1, "train_cfg.max_epochs": 1})
        cfg.train_dataloader.dataset.type = SometimesEmpty
        runner = Runner.from_cfg(cfg)
        runner.train()
        return {name: value.detach().clone() for name, value in runner.model.module.named_parameters()}

    one, other = run_ranks(2, action, tmp_path)
    assert one.keys() == other.keys() and all(torch.equal(value, other[name]) for name, value in one.items())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "metric", "score"),
    [
        ("classification/resnet_hf_shapes", "accuracy/top1", 90),
        ("detection/rtdetr_hf_shapes", "coco/bbox_mAP_50", 0.45),
        ("instance_segmentation/mask2former_hf_shapes", "coco/segm_mAP_50", 0.25),
        ("segmentation/upernet_hf_shapes", "seg/mIoU", 75),
        ("pose/vitpose_hf_shapes", "pose/PCK", 0.15),
        ("video/videomae_hf_moving_shapes", "accuracy/top1", 90),
        ("depth/glpn_hf_shapes", "depth/abs_rel", -0.08),
    ],
)
def test_the_shipped_configs_reach_their_scores(name: str, metric: str, score: float, tmp_path: Path) -> None:
    cfg = Config.fromfile(CONFIGS / f"{name}.py")
    cfg.merge_from_dict({"work_dir": str(tmp_path), "visualizer.vis_backends": [], "default_hooks.final_test": None})
    runner = Runner.from_cfg(cfg)
    runner.train()
    found = runner.test()[metric]
    assert found > score if score > 0 else found < -score


TOWER = dict(hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2)
DUAL: dict[str, dict[str, Any]] = {
    "clip": {}, "siglip": {}, "metaclip_2": {}, "chinese_clip": {}, "altclip": dict(text_config=dict(project_dim=16))
}  # fmt: skip
CAPTIONED = dict(type="CaptionedShapes", size=16, num_samples=8, pipeline=[dict(type="RandomCaption"), *PACK])


def clip_config(model_type: str = "clip", **changes: Any) -> dict[str, Any]:
    """Return the config of a tiny dual encoder."""
    own = DUAL[model_type]
    size = dict(height=16, width=16)
    config = dict(
        model_type=model_type,
        **({} if model_type == "siglip" else dict(projection_dim=8)),
        text_config={**TOWER, "max_position_embeddings": 24, **own.get("text_config", {})},
        vision_config={**TOWER, "image_size": 16, "patch_size": 8},
    )
    return {
        "type": "HuggingFaceCLIP", "config": config, "templates": ["a small {}", "a large {}"],
        "tokenizer": dict(type="WordTokenizer", dataset=CAPTIONED, vocab_size=40),
        "image_processor": dict(size=size, **({} if model_type == "siglip" else dict(crop_size=size))), **changes,
    }  # fmt: skip


def build_clip(model_type: str = "clip", **changes: Any) -> Any:
    torch.manual_seed(0)
    model: Any = build_model(clip_config(model_type, **changes))
    model.init_weights()
    return model


def captioned_batch() -> dict[str, Any]:
    dataset = CaptionedShapes(**{key: value for key, value in CAPTIONED.items() if key != "type"})
    batch: dict[str, Any] = pseudo_collate([dataset[index] for index in range(4)])
    return batch


@pytest.mark.parametrize("model_type", DUAL)
def test_the_contrastive_loss_is_that_of_transformers(model_type: str) -> None:
    model = build_clip(model_type).eval()
    batch = model.data_preprocessor(captioned_batch())
    losses = model(**batch, mode="loss")
    tokens = model.tokenizer([sample.gt_caption for sample in batch["data_samples"]])
    expected = model.network(**tokens, pixel_values=batch["inputs"], return_loss=True)
    torch.testing.assert_close(losses["loss"], expected.loss)
    assert (tokens["input_ids"].shape[1] == 24) == (model_type == "siglip")  # or the longest caption
    scale, bias = model.scale_and_bias()
    start = (10, -10) if model_type == "siglip" else (1 / 0.07, None)
    assert float(scale.detach().exp()) == pytest.approx(start[0], rel=1e-3) and (
        bias is None or float(bias.detach()) == start[1]
    )
    losses["loss"].backward()
    assert all(each.grad is not None for each in (scale, model.network.text_model.get_input_embeddings().weight))
    model.loss = "softmax" if bias is not None else "sigmoid"
    model(**batch, mode="loss")["loss"].backward()  # of every parameter
    assert bias is None or bias.grad is not None
    model.use_classes({"classes": ["red circle", "blue square"]})
    found = model(**batch, mode="predict")
    torch.testing.assert_close(found[1].image_embedding, expected.image_embeds[1])
    torch.testing.assert_close(found[1].text_embeddings[0], expected.text_embeds[1])
    assert found[1].pred_score.shape == (2,)


def test_a_dual_encoder_is_exact_after_a_resume_in_mid_epoch(tmp_path: Path) -> None:
    loader = dict(batch_size=2, dataset=CAPTIONED, collate_fn="pseudo_collate")
    zero_shot = dict(**loader | dict(dataset=CAPTIONED | dict(num_shapes=1, pipeline=PACK)))
    captions = dict(**loader | dict(dataset=CAPTIONED | dict(pipeline=PACK)))

    def cfg(name: str, **changes: Any) -> Config:
        return Config({
            "model": clip_config(), "work_dir": str(tmp_path / name), "train_dataloader": loader,
            "train_cfg": dict(max_epochs=2, val_interval=2), "optim_wrapper": dict(optimizer=dict(type="AdamW", lr=1e-3)),
            "val_dataloader": dict(zero_shot=zero_shot, captions=captions), "val_cfg": {},
            "val_evaluator": dict(zero_shot=dict(type="Accuracy"), captions=dict(type="ImageTextRetrievalMetric")),
            "default_hooks": dict(checkpoint=dict(interval=3, by_epoch=False)), "randomness": dict(seed=3), **changes,
        })  # fmt: skip

    assert check(cfg("whole")) == []
    Runner.from_cfg(cfg("whole")).train()
    Runner.from_cfg(cfg("resumed", resume=str(tmp_path / "whole/iter_3.pth"))).train()
    assert different_bits(tmp_path / "resumed/iter_6.pth", tmp_path / "whole/iter_6.pth") == []


def test_the_mistakes_in_the_config_of_a_dual_encoder_are_found() -> None:
    wrong = clip_config()
    wrong["config"]["text_config"]["hidden_sizes"] = 3
    wrong["image_processor"]["crop"] = 3
    del wrong["tokenizer"]
    errors = {error.path: error.hint for error in check(dict(model=wrong))}
    assert (
        "'hidden_size'" in errors["model.config.text_config.hidden_sizes"]
        and "WordTokenizer" in errors["model.tokenizer"]
    )
    for model_type in ("siglip2", "bert"):
        errors = {
            error.path: error.hint for error in check(dict(model=clip_config(config=dict(model_type=model_type))))
        }
        assert list(errors) == ["model.config.model_type"]
    with pytest.raises(ConfigError, match=r"image_processor: makes images of size \(224, 224\).* takes \(16, 16\)"):
        build_clip(image_processor=None)
    with pytest.raises(ConfigError, match="tokenizer: has 40 tokens, but the network only 30"):
        config = clip_config()["config"]
        build_clip(config={**config, "text_config": {**config["text_config"], "vocab_size": 30}})


def test_a_dual_encoder_is_saved_and_loaded_with_its_tokenizer(tmp_path: Path, log: Any) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    words = {
        word: number for number, word in enumerate(["[PAD]", "[UNK]", "a", "small", "red", "circle", "[BOS]", "[EOS]"])
    }
    own = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    own.pre_tokenizer = pre_tokenizers.Whitespace()
    own.post_processor = processors.TemplateProcessing(
        single="[BOS] $A [EOS]", special_tokens=[("[BOS]", 6), ("[EOS]", 7)]
    )
    special = dict(pad_token="[PAD]", unk_token="[UNK]", bos_token="[BOS]", eos_token="[EOS]")
    transformers.PreTrainedTokenizerFast(tokenizer_object=own, **special).save_pretrained(tmp_path / "words")
    model = build_clip(tokenizer=str(tmp_path / "words")).eval()
    assert (model.network.config.text_config.vocab_size, model.network.config.text_config.eos_token_id) == (8, 7)
    model.save_pretrained(tmp_path / "saved")
    again: Any = build_model(dict(type="HuggingFaceCLIP", pretrained=str(tmp_path / "saved"))).eval()
    texts = ["a small red circle", "a red", " ".join(["red"] * 40)]
    torch.testing.assert_close(again.encode_texts(texts), model.encode_texts(texts))
    assert type(again.tokenizer) is HuggingFaceTokenizer
    assert again.tokenizer(texts[:2])["input_ids"].tolist() == [[6, 2, 3, 4, 5, 7], [6, 2, 4, 7, 0, 0]]
    assert log.text.count("Texts of more than max_length=24 tokens are cut: 1 in this batch, such as 'red red") == 1
    image = torch.full((3, 40, 60), 90, dtype=torch.uint8)
    inputs = again.data_preprocessor({"inputs": [image]})["inputs"]
    torch.testing.assert_close(again(inputs), model(inputs))


@pytest.mark.slow
def test_the_shipped_clip_finds_classes_that_were_never_labels_and_captions(tmp_path: Path) -> None:
    cfg = Config.fromfile(CONFIGS / "image_text/clip_hf_shapes.py")
    cfg.merge_from_dict({"work_dir": str(tmp_path), "visualizer.vis_backends": [], "default_hooks.final_test": None})
    runner = Runner.from_cfg(cfg)
    before = runner.val()
    assert before["zero_shot/accuracy/top1"] < 12 and before["captions/retrieval/mean_recall"] < 8
    runner.train()
    after = runner.val()
    assert after["zero_shot/accuracy/top1"] > 35 and after["captions/retrieval/mean_recall"] > 75


@pytest.mark.long
@pytest.mark.parametrize(
    ("kind", "field"),
    [
        ("resnet", "pred_score"),
        ("segformer", "pred_sem_seg"),
        ("depth", "pred_depth_map"),
        ("detr", "pred_instances"),
        pytest.param("rt_detr", "pred_instances", marks=pytest.mark.slow),
        pytest.param("d_fine", "pred_instances", marks=pytest.mark.slow),
        pytest.param("mask2former", "pred_sem_seg", marks=pytest.mark.slow),
    ],
)
def test_exported_models_prepare_raw_images_and_predict_the_same(
    kind: str, field: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("onnxruntime")
    monkeypatch.chdir(tmp_path)
    decoders = {
        "pred_score": "ClassificationDecoder", "pred_sem_seg": "SegmentationDecoder",
        "pred_depth_map": "DepthMapDecoder", "pred_instances": "DetectionDecoder",
    }  # fmt: skip
    images = dict(type="Shapes", num_samples=4, size=48, pipeline=[dict(type="CenterCrop", size=[32, 48]), *PACK])
    loader = dict(batch_size=3, dataset=images, collate_fn=dict(type="pseudo_collate"))
    cfg = Config(dict(model=config_of(kind), test_dataloader=loader))
    model = build(kind).eval()
    for module in model.modules():  # or all scores are nearly equal
        if isinstance(module, torch.nn.Conv2d | torch.nn.Linear):
            torch.nn.init.normal_(module.weight, std=1.2 * module.weight[0].numel() ** -0.5)
    save_checkpoint({"state_dict": model.state_dict(), "meta": {}}, "model.pth")
    report = export_model(cfg, "model.pth", "onnx", "model.onnx")
    assert report.is_close
    assert report.shape == (1, 3, 32, 48)
    exported = ExportedModel("model.onnx")
    assert exported.metadata["decoder"]["type"] == decoders[field]
    sizes = ((32, 48), (64, 96))
    if kind == "d_fine":  # its random weights choose other queries after the slightest change of a pixel
        sizes = ()
    for size in sizes:
        batch = batch_of(48, 48, 48)
        batch["inputs"] = [image[:, 8:40] for image in batch["inputs"]]
        for sample in batch["data_samples"]:
            sample.set_metainfo(dict(img_shape=(32, 48), ori_shape=size))
        with torch.no_grad():
            expected = [sample.get(field) for sample in model.test_step({**batch})]
        predictions = [sample.get(field) for sample in exported.test_step(batch)]
        for one, other in zip(expected, predictions, strict=True):
            if kind == "resnet":
                torch.testing.assert_close(other, one, rtol=0, atol=2e-3)
            elif field == "pred_sem_seg":
                assert other.sem_seg.shape == one.sem_seg.shape == (1, *size)
                # Twice the size: the exported one resizes its logits twice.
                assert (other.sem_seg == one.sem_seg).float().mean() > (0.98 if size == (32, 48) else 0.9)
            elif field == "pred_depth_map":
                torch.testing.assert_close(other.data, one.data, rtol=0, atol=0.05 if size == (32, 48) else 0.5)
            else:
                names = ("bboxes", "labels", "scores")
                found, wanted = ({name: instances.get(name) for name in names} for instances in (other, one))
                assert differences(wanted, found, instances=True)[UNMATCHED] < 0.15  # by more than 1 %


def test_scores_below_the_threshold_are_not_exported() -> None:
    model = build("detr").eval()
    batch = batch_of(48)
    with torch.no_grad():
        (every,) = model.test_step({**batch})
        model.score_thr, model.max_per_img = float(every.pred_instances.scores[6]), 5
        (expected,) = model.test_step({**batch})
        found = dict(zip(("bboxes", "labels", "scores"), form_of(model).function(torch.stack(batch["inputs"]))))
        model.score_thr = float(every.pred_instances.scores[3])
        assert len(form_of(model).function(torch.stack(batch["inputs"]))[0]) == 3
    assert len(expected.pred_instances) == 5 < len(every.pred_instances)
    for name, value in found.items():
        torch.testing.assert_close(value, expected.pred_instances.get(name), rtol=1e-2, atol=1e-2)


def test_an_instance_segmentor_is_not_exported_and_says_why() -> None:
    with pytest.raises(ConfigError, match="HuggingFaceInstanceSegmentor cannot be exported: .*one by one"):
        form_of(build("instances"))
