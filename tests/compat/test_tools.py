"""The tools that OpenMMLab's libraries ship, and their inferencers, where these libraries are installed.

See ``test_libraries.py`` for the environment. The tools are run as a user would, each in a process of its own.
"""

import json
import os
import pickle
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch

HERE = Path(__file__).parent
COMPAT = [sys.executable, "-m", "trainwright.compat"]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]


class Case(NamedTuple):
    """What is tried of a library.

    Args:
        experiment: the shipped config, see ``experiments.py``.
        options: further changes, such as for a short schedule, which ``trainwright`` checks.
        metric: its name in results.
        dump: options of the library's ``test.py`` that write predictions to ``results.pkl``.
        tools: other tools with their arguments, and what each prints or, after ``>``, writes.
        inferencer: code that sets ``same``, whether the inferencer predicts for an image what is in ``results``, and
            writes images to the folder ``inferred``.
    """

    experiment: str
    options: dict[str, Any]
    metric: str
    dump: str
    tools: list[tuple[str, str]]
    inferencer: str


_DETECT = {
    "model.test_cfg.score_thr": 0.0,
    "test_dataloader.batch_size": 1,  # as the inferencer's, since images are padded to those of their batch
    "model.test_cfg.max_per_img": 5,
    "model.bbox_head.num_classes": 3,
    "param_scheduler.1.milestones": [1],
    **{
        f"{mode}_dataloader.dataset.metainfo": {"classes": ["person", "bicycle", "car"]}
        for mode in ("train", "val", "test")
    },
}
CASES = {
    "mmpretrain": Case(
        "resnet",
        {"param_scheduler.milestones": [1]},
        "accuracy/top1",
        "--out results.pkl --show-dir shown",
        [
            ("test.py config.py CHECKPOINT --work-dir tta --tta", "accuracy/top1"),
            ("analysis_tools/eval_metric.py results.pkl --metric type=Accuracy topk=1,2", "accuracy/top2"),
            ("analysis_tools/analyze_results.py config.py results.pkl --out-dir analysis", ">analysis/fail/*"),
            ("visualization/browse_dataset.py config.py --output-dir browse --not-show -n 2", ">browse/*.jpg"),
            ("visualization/vis_scheduler.py config.py --dataset-size 16 --not-show --save-path lr.png", ">lr.png"),
            ("kfold-cross-valid.py config.py --num-splits 2 --fold 0 --work-dir folds", ">folds/fold0/epoch_2.pth"),
        ],
        """
        from mmpretrain.apis import ImageClassificationInferencer
        inferencer = ImageClassificationInferencer("config.py", pretrained=checkpoint, device="cpu")
        path = "imagenet/val/class_1/1.jpg"
        Path("inferred").mkdir()
        found = inferencer(path, show_dir="inferred")[0]["pred_scores"]
        same = np.allclose(found, results[5]["pred_score"], atol=1e-5)
        """,
    ),
    "mmdet": Case(
        "retinanet",
        _DETECT,
        "coco/bbox_mAP",
        "--out results.pkl --show-dir shown",
        [
            ("test.py config.py CHECKPOINT --work-dir tta --tta", "coco/bbox_mAP"),
            ("analysis_tools/eval_metric.py config.py results.pkl", "bbox_mAP"),
            ("analysis_tools/browse_dataset.py config.py --output-dir browse --not-show", ">browse/*.jpg"),
            ("analysis_tools/get_flops.py config.py --num-images 1", "Flops: "),
        ],
        """
        from mmdet.apis import DetInferencer
        inferencer = DetInferencer("config.py", weights=checkpoint, device="cpu", show_progress=False)
        found = inferencer(results[1]["img_path"], out_dir="inferred")["predictions"][0]
        kept = results[1]["pred_instances"]
        same = len(kept["scores"]) > 0 and np.allclose(found["bboxes"], kept["bboxes"], atol=1e-4)
        same = same and np.allclose(found["scores"], kept["scores"], atol=1e-6)
        """,
    ),
    "mmseg": Case(
        "unet",
        {"default_hooks.visualization.interval": 1},
        "mIoU",
        "--out maps --show-dir shown",
        [
            ("test.py config.py CHECKPOINT --work-dir tta --tta", "mIoU"),
            ("analysis_tools/benchmark.py config.py CHECKPOINT --log-interval 1 --work-dir benchmark", "fps"),
            ("misc/print_config.py config.py", "EncoderDecoder"),
            ("misc/publish_model.py CHECKPOINT published.pth", ">published-*.pth"),
        ],
        """
        from PIL import Image
        from mmseg.apis import MMSegInferencer
        path = sorted(Path("cityscapes/leftImg8bit/val").rglob("*.png"))[1]
        inferencer = MMSegInferencer("config.py", weights=checkpoint, device="cpu")
        found = inferencer(str(path), out_dir="inferred")["predictions"]
        same = np.array_equal(found, np.array(Image.open(f"maps/{path.name}")))
        """,
    ),
    "mmpose": Case(
        "heatmap",
        {"param_scheduler.1.milestones": [1]},
        "coco/AP",
        "--dump results.pkl --show-dir shown",
        [
            ("analysis_tools/get_flops.py config.py --input-shape 64 48", "Flops: "),
            ("misc/browse_dataset.py config.py --output-dir browse --not-show --phase val", ">browse/**/*.jpg"),
            ("misc/publish_model.py CHECKPOINT published.pth", ">published-*.pth"),
        ],
        """
        from mmpose.apis import MMPoseInferencer, inference_topdown, init_model
        model = init_model("config.py", checkpoint, device="cpu")
        truth, kept = results[0]["gt_instances"], results[0]["pred_instances"]
        found = inference_topdown(model, results[0]["img_path"], np.asarray(truth["bboxes"]))[0].pred_instances
        same = np.allclose(found.keypoints, kept["keypoints"], atol=1e-3)
        inferencer = MMPoseInferencer("config.py", checkpoint, det_model="whole_image", device="cpu")
        list(inferencer(results[0]["img_path"], vis_out_dir="inferred", kpt_thr=0.0))
        """,
    ),
    "mmaction": Case(
        "tin",
        {},
        "acc/top1",
        "--dump results.pkl",
        [
            ("analysis_tools/eval_metric.py config.py results.pkl", "acc/mean1"),
            ("analysis_tools/report_accuracy.py --preds results.pkl two.pkl", "Mean Class Accuracy: "),
            ("analysis_tools/confusion_matrix.py config.py CHECKPOINT --show-path confusion.png", ">confusion.png"),
            ("analysis_tools/get_flops.py config.py --shape 8 3 56 56", "Flops: "),
            (
                "misc/clip_feature_extraction.py config.py CHECKPOINT features --video-list frames/val.txt "
                "--video-root frames",
                ">features/val_3.pkl",
            ),
        ],
        """
        from mmaction.apis import ActionRecogInferencer, inference_recognizer, init_recognizer
        from mmengine.dataset import Compose
        model = init_recognizer("config.py", checkpoint, device="cpu")
        video = dict(frame_dir="frames/val_1", total_frames=10, start_index=1, label=-1, modality="RGB")
        pipeline = Compose(model.cfg.test_dataloader.dataset.pipeline)
        found = inference_recognizer(model, dict(video, filename_tmpl="{:05}.jpg"), pipeline).pred_score
        same = np.allclose(found, results[1]["pred_score"], atol=1e-5)
        inferencer = ActionRecogInferencer(
            "config.py", checkpoint, "cpu", input_format="rawframes", pack_cfg=dict(filename_tmpl="{:05}.jpg")
        )
        found = inferencer("frames/val_1", vid_out_dir="inferred", out_type="img")["predictions"][0]["pred_scores"]
        same = same and np.allclose(found, results[1]["pred_score"], atol=1e-5)
        """,
    ),
    "mmocr": Case(
        "dbnet",
        {
            "train_cfg.max_epochs": 8,  # until it finds words
            "train_cfg.val_interval": 8,
            "default_hooks.checkpoint.interval": 8,
            "test_dataloader.batch_size": 1,
        },
        "icdar/hmean",
        "--save-preds --show-dir shown",
        [
            ("analysis_tools/offline_eval.py config.py one/epoch_8.pth_predictions.pkl", "icdar/hmean"),
            ("visualizations/browse_dataset.py config.py -o browse --not-show -p val -m pipeline", ">browse/*.png"),
            ("visualizations/vis_scheduler.py config.py -d 8 --not-show --save-path lr.png", ">lr.png"),
        ],
        """
        from mmocr.apis import TextDetInferencer
        results = pickle.loads(Path("one/epoch_8.pth_predictions.pkl").read_bytes())
        inferencer = TextDetInferencer("config.py", checkpoint, "cpu")
        found = inferencer([sample["img_path"] for sample in results], out_dir="inferred", save_vis=True)["predictions"]
        kept = [sample["pred_instances"] for sample in results]
        same = any(len(one["scores"]) for one in kept) and len(found) == len(kept) and all(
            np.allclose(one["scores"], two["scores"], atol=1e-6)
            and len(one["polygons"]) == len(two["polygons"])
            and all(np.allclose(*pair, atol=1e-3) for pair in zip(one["polygons"], two["polygons"]))
            for one, two in zip(found, kept)
        )
        """,
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize(
    "library",
    [
        pytest.param(name, marks=pytest.mark.skipif(find_spec(name) is None, reason=f"{name} is not installed"))
        for name in CASES
    ],
)
def test_tools_and_inferencers(library: str, tmp_path: Path) -> None:
    case, tool = CASES[library], Tools(library, tmp_path)
    options = [word for path, value in case.options.items() for word in ("--option", path, json.dumps(value))]
    run(tmp_path, *COMPAT, str(HERE / "libraries/run.py"), case.experiment, ".", "--write", "config.py", *options)

    # Two processes, by torchrun and by our launcher: as one of them evaluates the same weights.
    tool("train.py config.py --work-dir trained --launcher pytorch", TORCHRUN)
    run(tmp_path, "trainwright", "launch", "--nproc", "2", "config.py", "--work-dir", "launched")
    last = scores(tmp_path / "trained", case.metric)[-1]
    assert scores(tmp_path / "launched", case.metric)[-1] == last
    checkpoint = f"trained/{Path((tmp_path / 'trained/last_checkpoint').read_text()).name}"
    tool(f"test.py config.py {checkpoint} --work-dir one {case.dump}")
    dump = case.dump.partition(" --show-dir")[0].replace("results", "two").replace("maps", "maps_of_two")
    tool(f"test.py config.py {checkpoint} --work-dir two --launcher pytorch {dump}", TORCHRUN)
    assert result_of(tmp_path / "one", case.metric) == result_of(tmp_path / "two", case.metric) == pytest.approx(last)
    for file in tmp_path.glob("results.pkl"):
        one, two = (list(arrays(pickle.loads(each.read_bytes()))) for each in (file, tmp_path / "two.pkl"))
        assert len(one) == len(two) > 4 and all(np.allclose(*pair, atol=1e-3) for pair in zip(one, two))
    assert "--show-dir" not in case.dump or any(tmp_path.rglob("shown/**/*.[jp][pn]g"))

    if library not in ("mmpose", "mmaction"):  # accuracies in NumPy, which has no bfloat16, the default on CPUs
        tool("train.py config.py --work-dir mixed --amp")
        assert "AmpOptimWrapper" in (tmp_path / "mixed/config.py").read_text()
        losses = scores(tmp_path / "mixed", "loss")
        assert losses and np.isfinite(losses).all() and scores(tmp_path / "mixed", case.metric)

    for command, result in case.tools:
        printed = tool(command.replace("CHECKPOINT", checkpoint))
        assert any(tmp_path.glob(result[1:])) if result[0] == ">" else result in printed, (command, printed[-2000:])
    code = INFERENCE.format(checkpoint=checkpoint, code=re.sub("^ {8}", "", case.inferencer, flags=re.MULTILINE))
    (tmp_path / "infer.py").write_text(code)
    run(tmp_path, *COMPAT, "infer.py")
    assert any((tmp_path / "inferred").rglob("*.*g"))


@pytest.mark.slow
@pytest.mark.skipif(find_spec("mmpretrain") is None, reason="mmpretrain is not installed")
def test_training_goes_on_with_mixed_precision_and_a_scaled_learning_rate(tmp_path: Path) -> None:
    tool = Tools("mmpretrain", tmp_path)
    options = ["--option", "train_dataloader.dataset.split", '"val"', "--option", "param_scheduler.milestones", "[1]"]
    run(tmp_path, *COMPAT, str(HERE / "libraries/run.py"), "resnet", ".", "--write", "config.py", *options)
    tool("train.py config.py --work-dir w --no-validate --cfg-options train_cfg.max_epochs=1")
    printed = tool("train.py config.py --work-dir w --no-validate --resume --amp --auto-scale-lr")
    losses = scores(tmp_path / "w", "loss")
    assert len(losses) == 4 and "w/epoch_1.pth" in printed and (tmp_path / "w/epoch_2.pth").is_file()


INFERENCE = """
import pickle
from pathlib import Path

import numpy as np

checkpoint = {checkpoint!r}
results = pickle.loads(Path("results.pkl").read_bytes()) if Path("results.pkl").exists() else None
{code}
assert same, found
"""


class Tools:
    """The tools in the wheel of a library, called in a folder."""

    def __init__(self, library: str, folder: Path) -> None:
        spec = find_spec(library)
        assert spec is not None and spec.origin is not None
        self.tools, self.folder = Path(spec.origin).parent / ".mim/tools", folder

    def __call__(self, command: str, launcher: list[str] | None = None) -> str:
        """Run a tool, with a launcher for several processes, and return what it printed."""
        name, *arguments = command.split()
        start = COMPAT if launcher is None else [*launcher, *COMPAT[1:]]
        return run(self.folder, *start, str(self.tools / name), *arguments)


def run(folder: Path, *words: str) -> str:
    """Run a command in a folder, and return what it printed."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MPLBACKEND": "Agg"}
    done = subprocess.run(words, cwd=folder, capture_output=True, text=True, timeout=600, env=environment)
    assert done.returncode == 0, (words, done.stdout[-3000:] + done.stderr[-6000:])
    return done.stdout + done.stderr


def arrays(value: Any) -> Iterator[Any]:
    """Yield the tensors and arrays in predictions."""
    if isinstance(value, dict | list | tuple):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from arrays(inner)
    elif isinstance(value, torch.Tensor | np.ndarray):
        yield np.asarray(value)


def scores(work_dir: Path, name: str) -> list[float]:
    """Return the values of a name in the logs of a run, in order."""
    files = sorted(work_dir.glob("*/vis_data/scalars.json"))
    records = [json.loads(line) for file in files for line in file.read_text().splitlines()]
    return [record[name] for record in records if name in record]


def result_of(work_dir: Path, name: str) -> float:
    """Return a result of ``test.py``."""
    (file,) = (file for file in work_dir.glob("*/*.json"))
    value: float = json.loads(file.read_text())[name]
    return value
