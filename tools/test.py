"""``python tools/test.py …`` is the same as ``trainwright test …``."""

import sys

from trainwright.tools.cli import main

if __name__ == "__main__":
    sys.exit(main(["test", *sys.argv[1:]]))
