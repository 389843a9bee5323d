"""Compare the time to read random clips of video files: decoding, and decoding with augmentation."""

import argparse
import os
import random
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # read when torch is imported

import numpy as np
import torch
from report import table
from torch import Tensor
from torchvision.transforms import v2

from trainwright.datasets import Compose, PyAVDecode, PyAVInit

Read = Callable[[str, list[int]], Tensor]

CLOCKS = {"wall": perf_counter, "cpu": process_time}
CLIP_LENGTH, INTERVAL = 16, 2
MEAN, STD = (0.43216, 0.394666, 0.37645), (0.22803, 0.22145, 0.216989)
AUGMENTATION = [
    dict(type="Resize", size=(128, 171)),
    dict(type="RandomHorizontalFlip"),
    dict(type="RandomCrop", size=112),
    dict(type="FormatShape"),
]
# Seconds, width, height, and the distance of key frames.
VIDEOS = {
    "10 s at 340x256, key frames every 8 s": (10, 340, 256, 250),
    "1 min at 640x360, every 2 s": (60, 640, 360, 60),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark and return the exit status.

    Args:
        argv: the command line arguments; ``sys.argv[1:]`` if None.
    """
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15, help="clips of each video; default: %(default)s")
    parser.add_argument("--clock", choices=CLOCKS, default="wall", help="time to measure; default: %(default)s")
    arguments = parser.parse_args(argv)
    torch.set_num_threads(1)
    every = f"clips of {CLIP_LENGTH} frames, every {INTERVAL}nd frame of H.264"
    print(f"{every}, one thread, {arguments.clock} time, {arguments.rounds} rounds")
    with tempfile.TemporaryDirectory() as folder:
        for title, (seconds, width, height, gop) in VIDEOS.items():
            path = _write_video(Path(folder, f"{seconds}.mp4"), 30 * seconds, width, height, gop)
            times = _measure(contestants(), path, 30 * seconds, arguments.rounds, CLOCKS[arguments.clock])
            print(f"\n{title}")
            print(table(times, next(iter(times)), "ms/clip", lambda time: f"{1000 * time:.1f}", speedup=True))
    return 0


def contestants() -> dict[str, Read]:
    """Return functions that read the frames of a clip from a file, by name; those of other packages if installed."""
    others = dict(_other_decoders())
    reference = v2.Compose([
        v2.ToDtype(torch.float32, scale=True), v2.Resize((128, 171), antialias=False), v2.RandomHorizontalFlip(),
        v2.Normalize(MEAN, STD), v2.RandomCrop(112),
    ])  # fmt: skip
    ours = Compose(AUGMENTATION)
    augmented = {
        f"{name}, torchvision's preset": lambda path, indices, read=read: reference(read(path, indices)).transpose(0, 1)
        for name, read in others.items()
    }
    return {
        **augmented,
        "ours, augmented": lambda path, indices: ours(_sample(path, indices))["img"],
        **{f"{name}, decoding only": read for name, read in others.items()},
        "ours, decoding only": lambda path, indices: _sample(path, indices)["img"],
    }


def _sample(path: str, indices: list[int]) -> dict[str, Any]:
    sample = PyAVInit()({"filename": path})
    return PyAVDecode()(sample | {"frame_inds": np.array(indices), "clip_len": len(indices), "num_clips": 1})


def _other_decoders() -> Iterator[tuple[str, Read]]:
    yield "PyAV from the start", _from_the_start
    try:
        from torchcodec.decoders import VideoDecoder
    except (ImportError, RuntimeError):
        pass
    else:
        yield "torchcodec", lambda path, indices: VideoDecoder(path, num_ffmpeg_threads=1).get_frames_at(indices).data
    try:
        import decord
    except ImportError:
        pass
    else:
        yield (
            "decord",
            lambda path, indices: torch.from_numpy(
                decord.VideoReader(path, num_threads=1).get_batch(indices).asnumpy()
            ).permute(0, 3, 1, 2),
        )


def _from_the_start(path: str, indices: list[int]) -> Tensor:
    import av

    wanted, frames = set(indices), []
    with av.open(path) as container:
        container.streams.video[0].codec_context.thread_count = 1
        for index, frame in enumerate(container.decode(video=0)):
            if index in wanted:
                frames.append(frame.to_ndarray(format="rgb24"))
            if index >= indices[-1]:
                break
    return torch.from_numpy(np.stack(frames)).permute(0, 3, 1, 2)


def _measure(
    reads: dict[str, Read], path: str, number: int, rounds: int, clock: Callable[[], float]
) -> dict[str, list[float]]:
    """Return the seconds of each round; in each, all read the same clip."""
    generator = random.Random(0)
    seconds: dict[str, list[float]] = {name: [] for name in reads}
    for turn in range(rounds + 1):
        first = generator.randrange(number - CLIP_LENGTH * INTERVAL)
        indices = list(range(first, first + CLIP_LENGTH * INTERVAL, INTERVAL))
        for name, read in reads.items():
            begin = clock()
            read(path, indices)
            if turn:
                seconds[name].append(clock() - begin)
    return seconds


def _write_video(path: Path, number: int, width: int, height: int, gop: int) -> str:
    """Write a video in which a texture moves over noise, with x264's B-frames."""
    import av

    generator = np.random.default_rng(0)
    texture = generator.integers(0, 256, (2 * height // 8, 2 * width // 8, 3)).repeat(8, 0).repeat(8, 1)
    noise = generator.integers(-6, 7, (4, height, width, 3))
    options = {"preset": "ultrafast", "bf": "3", "sc_threshold": "0"}
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=30, options=options)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.codec_context.gop_size = gop
        for index in range(number):
            y, x = index % height, 2 * index % width
            picture = (texture[y : y + height, x : x + width] + noise[index % 4]).clip(0, 255).astype(np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    return str(path)


if __name__ == "__main__":
    raise SystemExit(main())
