"""`python tools/prepare.py --help`; the same as `ilpjax prepare`."""

import sys

from ilpjax.cli import main

if __name__ == "__main__":
    main(["prepare", *sys.argv[1:]])
