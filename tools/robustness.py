"""`python tools/robustness.py --help`; the same as `ilpjax robustness`."""

import sys

from ilpjax.cli import main

if __name__ == "__main__":
    main(["robustness", *sys.argv[1:]])
