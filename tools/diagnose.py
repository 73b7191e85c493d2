"""`python tools/diagnose.py --help`; the same as `ilpjax diagnose`."""

import sys

from ilpjax.cli import main

if __name__ == "__main__":
    main(["diagnose", *sys.argv[1:]])
