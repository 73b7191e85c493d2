"""`python tools/cpt.py --help`; the same as `ilpjax cpt`."""

import sys

from ilpjax.cli import main

if __name__ == "__main__":
    main(["cpt", *sys.argv[1:]])
