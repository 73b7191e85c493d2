"""`python tools/detect.py --help`; the same as `ilpjax detect`."""

import sys

from ilpjax.cli import main

if __name__ == "__main__":
    main(["detect", *sys.argv[1:]])
