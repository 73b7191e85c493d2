"""`python tools/convert.py --help`; the same as `ilpjax convert`."""

import sys

from ilpjax.cli import main

if __name__ == "__main__":
    main(["convert", *sys.argv[1:]])
