"""`python tools/plan.py --help`; the same as `ilpjax plan`."""

import sys

from ilpjax.cli import main

if __name__ == "__main__":
    main(["plan", *sys.argv[1:]])
