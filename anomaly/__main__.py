"""`python -m anomaly`."""

from __future__ import annotations

import os
import sys


def main() -> None:
    """Run the command line and leave with its exit status."""
    # torch and FAISS each bring threads that spin while they wait. Where the processor is shared, one library
    # then starves the other: ten times slower, measured on two busy cores. Sleeping threads cost nothing there.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from anomaly.cli import run

    sys.exit(run(sys.argv[1:]))


if __name__ == "__main__":
    main()
