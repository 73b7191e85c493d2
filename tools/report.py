"""`python tools/report.py --help`; the same as `ilpjax report`."""

import sys

from ilpjax.cli import main

if __name__ == "__main__":
    main(["report", *sys.argv[1:]])
