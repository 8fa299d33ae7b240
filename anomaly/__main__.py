"""`python -m anomaly`."""

from __future__ import annotations

import sys

from anomaly.startup import settle


def main() -> None:
    """Run the command line and leave with its exit status."""
    settle()
    from anomaly.cli import run

    sys.exit(run(sys.argv[1:]))


if __name__ == "__main__":
    main()
