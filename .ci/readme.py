"""Does in the current folder what the README tells: writes its files, runs its commands and its examples.

The README's first training sees only a part of the data. ``pip`` and ``pytest`` are left to `.ci/run`.
"""

import re
import subprocess
import sys
from pathlib import Path

README = (Path(__file__).parent.parent / "README.md").read_text()
LESS_DATA = ["train_dataloader.dataset.indices=640", "test_dataloader.dataset.indices=500"]


def main() -> None:
    """Raises ``CalledProcessError`` at the first command that fails."""
    for code in re.findall(r"^```python\n(.*?)^```", README, re.DOTALL | re.MULTILINE):
        if match := re.match(r"# (\w+\.py)\n", code):
            Path(match[1]).write_text(code)
    for line in re.findall(r"^    (.*\btrainwright .*)", README, re.MULTILINE):
        command = line.partition("&& ")[2] or line
        words = command.partition("#")[0].split()
        if words[:2] == ["trainwright", "train"] and "lenet_fashion_mnist" in words[2]:
            words += ["--cfg-options", *LESS_DATA]
        print("$", *words, flush=True)
        subprocess.run(words, check=True)
    _draw_shirt(Path("shirt.png"))
    (example,) = re.findall(
        r"^```python\n(from trainwright\.engine import Inferencer.*?)^```", README, re.DOTALL | re.MULTILINE
    )
    subprocess.run([sys.executable, "-c", example], check=True)


def _draw_shirt(file: Path) -> None:
    from PIL import Image

    from trainwright.datasets import FashionMNISTSubset

    image = FashionMNISTSubset("test").load_tensors()[0][0, 0]
    Image.fromarray(image.numpy()).save(file)


if __name__ == "__main__":
    main()
