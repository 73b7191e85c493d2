"""`python tools/prevalence.py --help`; the same as `ilpjax prevalence`."""

import sys

from ilpjax.cli import main

if __name__ == "__main__":
    main(["prevalence", *sys.argv[1:]])
