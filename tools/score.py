"""`python tools/score.py --help`; the same as `ilpjax score`."""

import sys

from ilpjax.cli import main

if __name__ == "__main__":
    main(["score", *sys.argv[1:]])
