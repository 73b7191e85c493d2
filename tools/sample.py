"""`python tools/sample.py --help`; the same as `ilpjax sample`."""

import sys

from ilpjax.cli import main

if __name__ == "__main__":
    main(["sample", *sys.argv[1:]])
