"""`python tools/conflicts.py --help`; the same as `ilpjax conflicts`."""

import sys

from ilpjax.cli import main

if __name__ == "__main__":
    main(["conflicts", *sys.argv[1:]])
