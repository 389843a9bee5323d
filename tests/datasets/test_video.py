"""Datasets and transforms of videos."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import tv_tensors

from trainwright.datasets import (
    ArrayDecode,
    Compose,
    DenseSampleFrames,
    FormatShape,
    FrameFolder,
    MovingShapes,
    PyAVDecode,
    PyAVInit,
    RawframeDataset,
    RawFrameDecode,
    SampleFrames,
    ThreeCrop,
    UniformSample,
    VideoDataset,
    VideoFile,
)
from trainwright.engine.errors import DamagedFileError
from trainwright.engine.registry import TRANSFORMS

FRAMES = 12
SIZE = (16, 24)  # height, width


def frame(index: int) -> np.ndarray[Any, Any]:
    """Return a frame whose gray level encodes its index."""
    return np.full((*SIZE, 3), 10 + 15 * index, dtype=np.uint8)


def write_video(path: Path, number: int = FRAMES, codec: str = "ffv1", **options: Any) -> Path:
    """Write a video file, lossless by default."""
    av = pytest.importorskip("av")
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25)
        stream.height, stream.width, stream.pix_fmt = *SIZE, options.get("pix_fmt", "bgr0")
        for index in range(number):
            for packet in stream.encode(av.VideoFrame.from_ndarray(frame(index), format="rgb24")):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)
    return path


def write_frames(folder: Path, number: int = FRAMES) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(number):
        Image.fromarray(frame(index)).save(folder / f"img_{index + 1:05}.png")
    return folder


def numbers(frames: torch.Tensor) -> list[int]:
    """Return the indices of frames (frames, 3, H, W)."""
    return [round((value.item() - 10) / 15) for value in frames.float().mean((1, 2, 3))]


# ------------------------------------------------------------------------------------------------------------- reading


@pytest.mark.parametrize("name", ["a.mkv", "a.avi"])
def test_frames_of_a_file(tmp_path: Path, name: str) -> None:
    video = VideoFile(write_video(tmp_path / name))
    assert len(video) == video.count() == FRAMES
    assert video.fps == pytest.approx(25)
    frames = video.frames([7, 0, 7, 3])
    assert (frames.shape, frames.dtype) == ((4, 3, *SIZE), torch.uint8)
    assert numbers(frames) == [7, 0, 7, 3]
    assert numbers(video.frames([11, 1])) == [11, 1]  # seeks back to the start
    video.close()


def test_a_file_with_frames_that_need_others(tmp_path: Path) -> None:
    video = VideoFile(write_video(tmp_path / "a.mp4", codec="mpeg4", pix_fmt="yuv420p"))
    assert numbers(video.frames([9, 2])) == [9, 2]
    video.close()


def test_files_that_are_not_videos(tmp_path: Path) -> None:
    pytest.importorskip("av")
    (tmp_path / "text.mp4").write_text("no video")
    (tmp_path / "cut.mkv").write_bytes(write_video(tmp_path / "whole.mkv").read_bytes()[:400])
    with pytest.raises(FileNotFoundError, match=r"video file .*gone\.mp4' not found"):
        VideoFile(tmp_path / "gone.mp4")
    for name in ("text.mp4", "cut.mkv"):
        with pytest.raises(OSError, match=name.replace(".", r"\.")):
            VideoFile(tmp_path / name).frames([0])
    with pytest.raises(FileNotFoundError, match="frame folder .*nothing' not found"):
        FrameFolder(tmp_path / "nothing")
    (tmp_path / "empty").mkdir()
    with pytest.raises(OSError, match="no images found in .*empty"):
        FrameFolder(tmp_path / "empty")


def encode(path: Path, codec: str, number: int = 30, pix_fmt: str = "yuv420p", first_pts: int = 0, step: Any = lambda index: 1, **options: Any) -> Path:  # fmt: skip
    """Write a video whose frames are hard to predict from each other; ``step`` is the duration of each frame."""
    av = pytest.importorskip("av")
    noise = np.random.default_rng(0)
    with av.open(str(path), "w", options=options.pop("container_options", {})) as container:
        stream = container.add_stream(codec, rate=25, options={key: str(value) for key, value in options.items()})
        stream.width, stream.height, stream.pix_fmt, stream.codec_context.max_b_frames = 48, 32, pix_fmt, int(options.get("bf", 0))  # fmt: skip
        time = first_pts
        for index in range(number):
            content = noise.integers(0, 60, (32, 48, 3)) + frame(index % 14)[:1, :1]
            picture = av.VideoFrame.from_ndarray(content.clip(0, 255).astype(np.uint8), format="rgb24")
            picture.pts = time
            time += step(index)
            container.mux(stream.encode(picture))
        container.mux(stream.encode())
    return path


def decoded_in_order(path: Path) -> list[np.ndarray[Any, Any]]:
    av = pytest.importorskip("av")
    with av.open(str(path)) as container:
        return [picture.to_ndarray(format="rgb24") for picture in container.decode(video=0)]


OPEN_GOP = dict(g=6, bf=3, **{"x264-params": "open-gop=1:scenecut=0"})


@pytest.mark.parametrize(
    ("name", "codec", "options"),
    [
        ("a.mp4", "libx264", dict(g=1)),
        ("a.mp4", "libx264", dict(g=6, bf=0)),
        ("a.mp4", "libx264", dict(g=250, bf=3)),
        ("a.mp4", "libx264", OPEN_GOP),
        ("a.mkv", "libx264", OPEN_GOP),
        ("a.ts", "libx264", OPEN_GOP),
        ("a.avi", "libx264", OPEN_GOP),
        ("a.mp4", "libx264", dict(g=6, bf=3, container_options={"movflags": "frag_keyframe+empty_moov"})),
        ("late.mp4", "libx264", dict(g=6, bf=3, first_pts=200)),
        ("variable.mp4", "libx264", dict(g=6, bf=2, step=lambda index: 1 + index % 5 * 3)),
        ("variable.mkv", "libx264", dict(g=6, bf=2, step=lambda index: 1 + index % 5 * 3)),
        ("a.mpg", "mpeg2video", dict(g=6, bf=2)),
        ("a.avi", "mpeg4", dict(g=6, bf=2)),
        ("a.avi", "mjpeg", dict(pix_fmt="yuvj420p")),
        ("a.webm", "libvpx-vp9", dict(g=6, deadline="realtime", **{"cpu-used": 8})),
        ("a.gif", "gif", dict(pix_fmt="rgb8")),
    ],
)
def test_any_frames_are_those_of_decoding_in_order(tmp_path: Path, name: str, codec: str, options: Any) -> None:
    path = encode(tmp_path / name, codec, **options)
    expected = decoded_in_order(path)
    video = VideoFile(path)
    assert len(video) == video.count() == len(expected) == 30
    clips = [[index] for index in range(30)] + [[0, 4, 8, 12], [17, 18, 19], [29, 3, 3, 11], list(range(30))]
    for clip in clips:
        frames = video.frames(clip).permute(0, 2, 3, 1).numpy()
        assert np.array_equal(frames, np.stack([expected[index] for index in clip])), clip
    video.close()


def test_only_the_frames_after_the_last_key_frame_are_decoded(tmp_path: Path) -> None:
    path = encode(tmp_path / "a.mp4", "libx264", number=100, g=10, sc_threshold=0)
    video = VideoFile(path)
    sent, decode = [], video._decoded

    def counting(*args: Any) -> Any:
        for time, picture in decode(*args):
            sent.append(time)
            yield time, picture

    video._decoded = counting
    video.frames([95, 97])
    assert len(sent) == 8  # 90 to 97
    sent.clear()
    video.frames([3, 52])
    assert len(sent) == 4 + 3
    video.close()


def test_rotated_videos_are_upright(tmp_path: Path) -> None:
    av = pytest.importorskip("av")
    plain = encode(tmp_path / "a.mp4", "libx264", number=3)
    with av.open(str(plain)) as source, av.open(str(tmp_path / "b.mp4"), "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        stream.set_display_rotation(90)
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                target.mux(packet)
    video = VideoFile(tmp_path / "b.mp4")
    turns = {1: 1, 3: -1}[round(next(av.open(video.path).decode(video=0)).rotation / 90) % 4]
    assert np.array_equal(video.frames([2])[0].permute(1, 2, 0), np.rot90(decoded_in_order(plain)[2], turns))


def test_names_and_metadata_in_any_encoding(tmp_path: Path) -> None:
    path = encode(tmp_path / "2021-01-01T10:00 %d.mkv", "libx264", number=4, g=2)
    av = pytest.importorskip("av")
    with av.open(f"file:{path}") as source, av.open(str(tmp_path / "b.mkv"), "w") as target:
        target.metadata["title"] = "cafe crema"
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                target.mux(packet)
    content = (tmp_path / "b.mkv").read_bytes()
    assert b"cafe crema" in content
    (tmp_path / "b.mkv").write_bytes(content.replace(b"cafe crema", b"caf\xe9 cr\xe8ma"))
    with pytest.raises(UnicodeDecodeError):
        av.open(str(tmp_path / "b.mkv"))
    for name in (path, tmp_path / "b.mkv"):
        video = VideoFile(name)
        assert (len(video), video.frames([3]).shape) == (4, (1, 3, 32, 48))


def test_the_number_of_frames_is_that_in_the_file(tmp_path: Path) -> None:
    content = bytearray(write_video(tmp_path / "a.avi", codec="rawvideo", pix_fmt="bgr24").read_bytes())
    for announced in (0, 5, 500):
        for offset in (content.index(b"avih") + 24, content.index(b"strh") + 40):
            content[offset : offset + 4] = announced.to_bytes(4, "little")
        (tmp_path / "b.avi").write_bytes(content)
        video = VideoFile(tmp_path / "b.avi")
        assert len(video) == FRAMES
        assert numbers(video.frames([1, FRAMES - 1])) == [1, FRAMES - 1]
        video.close()


def flip(content: bytes) -> bytes:
    """Overwrite the middle third of a file."""
    third = len(content) // 3
    return content[:third] + bytes(255 - value for value in content[third : 2 * third]) + content[2 * third :]


@pytest.mark.parametrize(
    ("name", "codec", "damage", "message"),
    [
        ("a.avi", "mjpeg", lambda content: content[: len(content) * 6 // 10], "copy or download it again|incomplete"),
        ("a.mkv", "ffv1", lambda content: content[: len(content) * 6 // 10], "seconds are in the file"),
        ("a.mp4", "mpeg4", lambda content: content[: len(content) * 6 // 10], "Invalid data"),
        ("fast.mp4", "mpeg4", lambda content: content[: len(content) * 6 // 10], r"it ends after \d+ of \d+ bytes"),
        ("fast.mp4", "libx264", flip, "fast.mp4"),
        ("a.mp4", "mpeg4", lambda content: b"", "Invalid data"),
        ("a.mp4", "mpeg4", lambda content: b"no video" * 99, "Invalid data"),
    ],
)
def test_a_damaged_file_is_named_wherever_it_is_read(tmp_path: Path, name: str, codec: str, damage: Any, message: str) -> None:  # fmt: skip
    options = {"container_options": {"movflags": "faststart"}} if name == "fast.mp4" else {}
    formats = {"mjpeg": "yuvj420p", "ffv1": "yuv420p"}
    path = encode(tmp_path / name, codec, pix_fmt=formats.get(codec, "yuv420p"), **options)
    path.write_bytes(damage(path.read_bytes()))
    (tmp_path / "list.txt").write_text(f"{name} 0\n")
    steps = [dict(type="PyAVInit"), dict(type="UniformSample", clip_len=30), dict(type="PyAVDecode")]
    dataset = VideoDataset(data_root=tmp_path, ann_file="list.txt", pipeline=steps)
    (problem,) = dataset.check_annotations()
    assert str(path) in problem and "is damaged" in problem
    with pytest.raises(DamagedFileError, match=message) as caught:
        dataset[0]
    assert caught.value.path == str(path)


def test_a_file_without_video_is_refused(tmp_path: Path) -> None:
    av = pytest.importorskip("av")
    with av.open(str(tmp_path / "a.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=8000)
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 1024), dtype=np.float32), format="fltp", layout="mono")
        sound.sample_rate = 8000
        container.mux(stream.encode(sound))
        container.mux(stream.encode())
    with pytest.raises(DamagedFileError, match="it has no video stream"):
        VideoFile(tmp_path / "a.mp4")
    with pytest.raises(FileNotFoundError, match="gone.mp4"):
        VideoFile(tmp_path / "gone.mp4")


def test_every_source_gives_the_same_clip(tmp_path: Path) -> None:
    sampling = SampleFrames(clip_len=4, frame_interval=2, test_mode=True)
    file = {"filename": str(write_video(tmp_path / "a.mkv"))}
    folder = {"filename": str(write_frames(tmp_path / "frames"))}
    raw = {"frame_dir": folder["filename"], "total_frames": FRAMES, "filename_tmpl": "img_{:05}.png", "start_index": 1}
    array = np.stack([frame(index) for index in range(FRAMES)])
    results = [Compose([PyAVInit(), sampling, PyAVDecode()])(source) for source in (file, folder, {"array": array})]
    results.append(Compose([sampling, RawFrameDecode()])(raw))
    results.append(Compose([sampling, ArrayDecode()])({"array": array, "total_frames": FRAMES}))
    for made in results:
        assert numbers(made["img"]) == [2, 4, 6, 8]
        assert isinstance(made["img"], tv_tensors.Video)
        assert made["ori_shape"] == SIZE
        assert "video_reader" not in made
    assert results[0]["avg_fps"] == 25


# ------------------------------------------------------------------------------------------------------------ sampling


def chosen(transform: Any, total: int, **more: Any) -> list[list[int]]:
    made = transform({"total_frames": total, **more})
    return made["frame_inds"].reshape(made["num_clips"], made["clip_len"]).tolist()


def test_clips_in_tests() -> None:
    assert chosen(SampleFrames(3, 2, num_clips=2, test_mode=True), 16) == [[2, 4, 6], [8, 10, 12]]
    assert chosen(SampleFrames(1, num_clips=4, test_mode=True), 8) == [[1], [3], [5], [7]]
    # Too short: loop, or repeat the last frame.
    assert chosen(SampleFrames(5, 1, test_mode=True), 3) == [[0, 1, 2, 0, 1]]
    assert chosen(SampleFrames(5, 1, test_mode=True, out_of_bound_opt="repeat_last"), 3) == [[0, 1, 2, 2, 2]]
    # Subsample 30 frames per second to 10.
    assert chosen(SampleFrames(3, target_fps=10, test_mode=True), 9, avg_fps=30) == [[0, 3, 6]]
    assert chosen(SampleFrames(4, target_fps=10, test_mode=True), 6, avg_fps=15) == [[0, 1, 3, 4]]


def test_random_clips_lie_in_their_parts() -> None:
    torch.manual_seed(0)
    clips = np.array([chosen(SampleFrames(4, 2, num_clips=2), 40) for _ in range(200)])
    assert (np.diff(clips, axis=2) == 2).all()
    starts = clips[..., 0]
    assert (starts[:, 0].min(), starts[:, 1].max()) == (0, 32)
    assert starts[:, 0].max() <= 16 < 17 <= starts[:, 1].min() + 1
    assert clips.max() <= 39


def test_dense_clips() -> None:
    made = chosen(DenseSampleFrames(1, num_clips=4, sample_range=8, num_sample_positions=3, test_mode=True), 20)
    assert np.array(made).reshape(3, 4).tolist() == [[0, 2, 4, 6], [6, 8, 10, 12], [12, 14, 16, 18]]
    torch.manual_seed(0)
    starts = {chosen(DenseSampleFrames(2, num_clips=2, sample_range=8), 20)[0][0] for _ in range(200)}
    assert starts == set(range(13))
    assert chosen(DenseSampleFrames(2, num_clips=2, sample_range=8, num_sample_positions=1, test_mode=True), 3) == [
        [0, 1],
        [1, 2],
    ]


def test_uniform_samples_come_from_each_part() -> None:
    assert chosen(UniformSample(4, test_mode=True), 16) == [[2, 6, 10, 14]]
    assert chosen(UniformSample(4, num_clips=2, test_mode=True), 16) == [[1, 5, 9, 13], [3, 7, 11, 15]]
    assert chosen(UniformSample(4, test_mode=True), 2) == [[0, 0, 1, 1]]
    torch.manual_seed(0)
    clips = np.array([chosen(UniformSample(4), 16)[0] for _ in range(100)])
    assert (clips // 4 == np.arange(4)).all()
    assert {tuple(column) for column in np.sort(clips % 4, axis=0)[[0, -1]].T} == {(0, 3)}


def test_samples_depend_on_the_seed() -> None:
    for transform in (SampleFrames(3), DenseSampleFrames(3, sample_range=5), UniformSample(3)):
        torch.manual_seed(3)
        first = chosen(transform, 100)
        torch.manual_seed(3)
        assert chosen(transform, 100) == first


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SampleFrames(0), "clip_len must be positive"),
        (lambda: SampleFrames(1, num_clips=-1), "num_clips must be positive"),
        (lambda: SampleFrames(1, target_fps=-5), "target_fps must be positive"),
        (lambda: SampleFrames(1, out_of_bound_opt="stop"), "'loop' or 'repeat_last', not 'stop'"),
        (lambda: DenseSampleFrames(1, sample_range=0), "sample_range must be positive"),
        (lambda: UniformSample(1, num_clips=0), "num_clips must be positive"),
        (lambda: FormatShape("NHWC"), "input_format must be 'NCTHW'"),
        (lambda: SampleFrames(1)({"filename": "x.mp4"}), "x.mp4 has no frames"),
        (lambda: SampleFrames(1, target_fps=5)({"frame_dir": "x", "total_frames": 3}), "the frame rate of x is unknown"),
        (lambda: ThreeCrop(9)({"img": torch.zeros(1, 3, 8, 20), "num_clips": 1, "filename": "x.mp4"}), "x.mp4: the frame size (8, 20) is smaller"),
    ],
)  # fmt: skip
def test_mistakes(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError) as caught:
        make()
    assert message in str(caught.value)


# -------------------------------------------------------------------------------------------------------------- shapes


def test_clips_have_the_shape_of_3d_networks() -> None:
    video = torch.arange(2 * 3 * 3 * 4 * 5).reshape(6, 3, 4, 5)
    made = FormatShape()({"img": tv_tensors.Video(video), "clip_len": 3, "num_clips": 2})
    assert made["img"].shape == (2, 3, 3, 4, 5)
    assert type(made["img"]) is torch.Tensor
    assert torch.equal(made["img"][1, 2, 0], video[3, 2])


def test_three_crops_of_each_frame() -> None:
    video = torch.arange(10).expand(2, 3, 4, 10).clone()
    made = ThreeCrop(4)({"img": tv_tensors.Video(video), "clip_len": 1, "num_clips": 2})
    assert (made["img"].shape, made["num_clips"]) == ((6, 3, 4, 4), 6)
    assert made["img"][:, 0, 0, 0].tolist() == [0, 0, 3, 3, 6, 6]
    tall = ThreeCrop((4, 3))({"img": tv_tensors.Video(video.transpose(2, 3)), "clip_len": 2, "num_clips": 1})
    assert tall["img"][:, 0, 0, 0].tolist() == [0, 0, 3, 3, 6, 6]


def test_all_frames_are_transformed_alike(tmp_path: Path) -> None:
    one = torch.rand(3, 20, 30)
    sample = {"img": tv_tensors.Video(one.expand(5, 3, 20, 30).clone())}
    steps = [
        dict(type="RandomResizedCrop", size=12), dict(type="RandomHorizontalFlip"), dict(type="RandomRotation", degrees=30),
        dict(type="ColorJitter", brightness=0.5, hue=0.2),
    ]  # fmt: skip
    frames = Compose(steps)(sample)["img"]
    assert frames.shape == (5, 3, 12, 12)
    for other in frames[1:]:
        torch.testing.assert_close(other, frames[0])


# ------------------------------------------------------------------------------------------------------------ datasets

PIPELINE = [
    dict(type="PyAVInit"), dict(type="SampleFrames", clip_len=4, num_clips=2, test_mode=True), dict(type="PyAVDecode"),
    dict(type="FormatShape"), dict(type="PackInputs"),
]  # fmt: skip


def test_videos_in_folders_of_classes(tmp_path: Path) -> None:
    write_video(tmp_path / "train/running fast/b.mkv")
    write_video(tmp_path / "train/archery/c.mkv")
    write_video(tmp_path / "train/archery/more/a.avi")
    (tmp_path / "train/archery/notes.txt").write_text("no video")
    dataset = VideoDataset(data_root=tmp_path, data_prefix=dict(filename="train"), pipeline=PIPELINE)
    infos = [dataset.get_data_info(index) for index in range(len(dataset))]
    assert [(Path(info["filename"]).name, info["gt_label"]) for info in infos] == [
        ("c.mkv", 0),
        ("a.avi", 0),
        ("b.mkv", 1),
    ]
    assert dataset.metainfo["classes"] == ("archery", "running fast")
    packed = dataset[2]
    assert packed["inputs"].shape == (2, 3, 4, *SIZE)
    assert numbers(packed["inputs"][1].transpose(0, 1)) == [6, 7, 8, 9]
    assert packed["data_samples"].gt_label.item() == 1
    assert packed["data_samples"].filename.endswith("b.mkv")
    assert list(dataset.check_annotations()) == []
    assert dataset.get_cat_ids(2) == [1]


def test_a_list_of_videos(tmp_path: Path) -> None:
    write_video(tmp_path / "my videos/a.mkv")
    (tmp_path / "list.txt").write_text("my videos/a.mkv 1\n\nmy videos/a.mkv 0\n")
    dataset = VideoDataset(data_root=tmp_path, ann_file="list.txt", pipeline=PIPELINE)
    assert [dataset[index]["data_samples"].gt_label.item() for index in range(2)] == [1, 0]
    (tmp_path / "list.txt").write_text("my videos/a.mkv jump\n")
    named = VideoDataset(data_root=tmp_path, ann_file="list.txt", metainfo=dict(classes=("run", "jump")))
    assert named[0]["gt_label"] == 1
    (tmp_path / "list.txt").write_text("alone\n")
    with pytest.raises(ValueError, match=r"list\.txt:1: expected 'path label', got 'alone'"):
        VideoDataset(data_root=tmp_path, ann_file="list.txt")


def test_folders_of_frames(tmp_path: Path) -> None:
    write_frames(tmp_path / "train/run/v1")
    write_frames(tmp_path / "train/jump/v2", 5)
    settings = dict(data_root=tmp_path, filename_tmpl="img_{:05}.png")
    dataset = RawframeDataset(data_prefix=dict(frame_dir="train"), pipeline=[dict(type="SampleFrames", clip_len=2, test_mode=True), dict(type="RawFrameDecode")], **settings)  # fmt: skip
    assert [(one["gt_label"], one["total_frames"]) for one in dataset] == [(0, 5), (1, 12)]
    assert numbers(dataset[1]["img"]) == [5, 6]
    assert list(dataset.check_annotations()) == []
    (tmp_path / "list.txt").write_text("train/run/v1 12 0\ntrain/run/v1 13 0\ntrain/none 3 1\n")
    listed = RawframeDataset(ann_file="list.txt", **settings)
    assert listed[0]["total_frames"] == 12
    first, second = listed.check_annotations()
    assert "sample 1" in first and "img_00013.png is missing, expected 13 frames" in first
    assert "sample 2" in second and "frame folder" in second and "train/none' not found" in second
    (tmp_path / "list.txt").write_text("train/run/v1 0\n")
    with pytest.raises(ValueError, match="list.txt:1: expected 'path frames label'"):
        RawframeDataset(ann_file="list.txt", **settings)


def test_bad_videos_are_named_by_the_check_and_in_training(tmp_path: Path) -> None:
    write_video(tmp_path / "good.mkv")
    (tmp_path / "corrupt.mp4").write_text("no video")
    content = write_video(tmp_path / "whole.avi", codec="rawvideo", pix_fmt="bgr24").read_bytes()
    (tmp_path / "short.avi").write_bytes(content[: int(len(content) * 0.6)])
    lines = ["good.mkv 0", "gone.mkv 0", "corrupt.mp4 1", "good.mkv 7", "good.mkv dance", "short.avi 0"]
    (tmp_path / "list.txt").write_text("\n".join(lines))
    dataset = VideoDataset(
        data_root=tmp_path, ann_file="list.txt", metainfo=dict(classes=("run", "jump")), pipeline=PIPELINE
    )
    problems = list(dataset.check_annotations())
    expected = [
        ("sample 1", "gone.mkv"), ("sample 2", "corrupt.mp4 is damaged"),
        ("sample 3", "the label '7' in line 4 of"), ("sample 4", "the label 'dance' in line 5 of"),
        ("sample 5", "short.avi", "is damaged"),
    ]  # fmt: skip
    assert len(problems) == len(expected)
    for problem, words in zip(problems, expected):
        assert all(word in problem for word in words), problem
    for index, error, name in (
        (1, OSError, "gone.mkv"),
        (2, OSError, "corrupt.mp4"),
        (3, ValueError, "sample 3"),
        (4, ValueError, "sample 4"),
        (5, DamagedFileError, "short.avi"),
    ):
        with pytest.raises(error, match=name):
            dataset[index]


def test_unknown_folders_are_unknown_classes(tmp_path: Path) -> None:
    write_video(tmp_path / "run/a.mkv")
    write_video(tmp_path / "swim/b.mkv")
    dataset = VideoDataset(data_root=tmp_path, metainfo=dict(classes=("run",)))
    (problem,) = dataset.check_annotations()
    assert "b.mkv): the class 'swim' is not in metainfo" in problem
    with pytest.raises(ValueError, match="the class 'swim' is not in metainfo"):
        dataset[1]


def test_missing_folders_and_empty_ones(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="folder .*train' not found"):
        VideoDataset(data_root=tmp_path, data_prefix=dict(filename="train"))
    (tmp_path / "train/run").mkdir(parents=True)
    with pytest.raises(FileNotFoundError, match="no videos found in .*train: check data_root"):
        VideoDataset(data_root=tmp_path, data_prefix=dict(filename="train"))


def test_moving_shapes_are_the_same_each_time_and_only_the_motion_tells() -> None:
    dataset, again = (MovingShapes(num_samples=60, size=24, max_others=0) for _ in range(2))
    other = MovingShapes(num_samples=1, size=24, seed=1)
    first = dataset[0]["array"]
    assert (first.shape, first.dtype) == ((12, 24, 24, 3), np.uint8)
    assert np.array_equal(first, again[0]["array"])
    assert not np.array_equal(first, other[0]["array"])
    for sample in dataset:
        motion = dataset.motions[sample["gt_label"]]
        background = np.median(sample["array"], axis=0)
        changed = [
            (np.abs(picture - background).max(2) > 60).nonzero() for picture in sample["array"][[0, -1]].astype(float)
        ]
        (y0, x0), (y1, x1) = (
            ((rows.mean(), columns.mean()) for rows, columns in changed if len(rows))
            if all(len(rows) for rows, _ in changed)
            else ((0, 0), (0, 0))
        )
        if motion in ("left", "right", "up", "down") and (x0, y0, x1, y1) != (0, 0, 0, 0):
            along = x1 - x0 if motion in ("left", "right") else y1 - y0
            assert np.sign(along) == (1 if motion in ("right", "down") else -1), motion
    assert {sample["gt_label"] for sample in dataset} == set(range(6))
    assert dataset.get_cat_ids(0) == [dataset[0]["gt_label"]]


def test_mistaken_moving_shapes() -> None:
    with pytest.raises(ValueError, match="motion 'sideways'"):
        MovingShapes(motions=("sideways",))
    with pytest.raises(ValueError, match="num_frames must be at least 2"):
        MovingShapes(num_frames=1)


@pytest.mark.parametrize(
    "name",
    [
        "PyAVInit",
        "PyAVDecode",
        "RawFrameDecode",
        "ArrayDecode",
        "SampleFrames",
        "DenseSampleFrames",
        "UniformSample",
        "ThreeCrop",
        "FormatShape",
    ],
)
def test_a_transform_shows_its_arguments(name: str) -> None:
    needed = {"ThreeCrop": dict(crop_size=3)} | {
        key: dict(clip_len=3) for key in ("SampleFrames", "DenseSampleFrames", "UniformSample")
    }
    assert repr(TRANSFORMS.build(dict(type=name, **needed.get(name, {})))).startswith(f"{name}(")
