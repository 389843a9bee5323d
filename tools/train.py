"""``python tools/train.py …`` is the same as ``trainwright train …``."""

import sys

from trainwright.tools.cli import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
