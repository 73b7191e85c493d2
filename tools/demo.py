"""`python tools/demo.py --help`; the same as `ilpjax demo`."""

import sys

from ilpjax.cli import main

if __name__ == "__main__":
    main(["demo", *sys.argv[1:]])
