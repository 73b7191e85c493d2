"""`python tools/sft.py --help`; the same as `ilpjax sft`."""

import sys

from ilpjax.cli import main

if __name__ == "__main__":
    main(["sft", *sys.argv[1:]])
