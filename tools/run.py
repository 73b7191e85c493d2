"""`python tools/run.py --help`; the same as `ilpjax run`."""

import sys

from ilpjax.cli import main

if __name__ == "__main__":
    main(["run", *sys.argv[1:]])
