"""`python tools/bench.py --help`; the same as `ilpjax bench`."""

import sys

from ilpjax.cli import main

if __name__ == "__main__":
    main(["bench", *sys.argv[1:]])
