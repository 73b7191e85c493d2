"""`python tools/world.py --help`; the same as `ilpjax world`."""

import sys

from ilpjax.cli import main

if __name__ == "__main__":
    main(["world", *sys.argv[1:]])
