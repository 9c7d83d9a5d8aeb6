"""`python -m tunesmith` is `tunesmith`."""

import sys

from tunesmith.commands import main

if __name__ == "__main__":
    sys.exit(main())
