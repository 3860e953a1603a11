"""`python -m tests.benchmarks`."""

import sys

from tests.benchmarks.run_all import main

if __name__ == "__main__":
    sys.exit(main())
